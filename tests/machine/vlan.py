"""What the guest's VLAN tests share: networks on one bridge, pods in them, and what `bridge -j vlan` tells of a port."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.harness import observe

if TYPE_CHECKING:
    from tests.harness.node import Node
    from tests.harness.plugin import Executables

BRIDGE = "br0"
NATIVE = frozenset({"PVID", "Egress Untagged"})
UNTAGGED = frozenset({"Egress Untagged"})
TAGGED: frozenset[str] = frozenset()

Vlans = dict[int, frozenset[str]]


def network(name: str = "net", **keys: Any) -> dict[str, Any]:
    """A bridge network with these keys."""
    return {"cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": BRIDGE, **keys}


def fixed(*addresses: str, gateway: str | None = None, routes: bool = False) -> dict[str, Any]:
    """The `ipam` of a pod with exactly these addresses."""
    given = [{"address": address, **({"gateway": gateway} if gateway else {})} for address in addresses]
    return {"type": "static", "addresses": given, **({"routes": [{"dst": "0.0.0.0/0"}]} if routes else {})}


def attach(plugins: Executables, node: Node, pod: str, config: dict[str, Any]) -> dict[str, Any]:
    """ADD for a new pod of that name, its container id as well; the result."""
    return plugins.add("bridge", config, node=node, netns=node.pod(pod), container_id=pod)


def host_port(result: dict[str, Any]) -> str:
    """The name of the host's end of the pod's link."""
    return str(result["interfaces"][1]["name"])


def vlans(node: Node, port: str) -> Vlans:
    """The VLANs of a bridge port with their flags, ranges taken apart."""
    told = json.loads(node.run("bridge", "-j", "vlan", "show", "dev", port).stdout)
    return {
        vid: frozenset(entry.get("flags", ()))
        for entry in (told[0]["vlans"] if told else ())
        for vid in range(entry["vlan"], entry.get("vlanEnd", entry["vlan"]) + 1)
    }


def filters(node: Node, bridge: str = BRIDGE) -> bool:
    """Whether the bridge looks at VLANs at all; without it every other setting is without effect."""
    return bool(observe.links(node)[bridge]["linkinfo"]["info_data"]["vlan_filtering"])


def call(node: Node, pod: str) -> dict[str, Any]:
    """The parameters of every call for the pod that `attach` made."""
    return {"node": node, "netns": f"/run/netns/{pod}", "container_id": pod}


def snapshot(node: Node) -> dict[str, Any]:
    """The whole node with what `bridge` tells of its bridges; files of the plugins' own bookkeeping aside, but for leases."""
    seen = observe.snapshot(node)
    seen["files"] = {path: told for path, told in seen["files"].items() if not path.startswith("/run/podwire")}
    seen["vlans"] = json.loads(node.run("bridge", "-j", "vlan", "show").stdout or b"[]")
    bridges = {
        name: link for name, link in observe.links(node).items() if link.get("linkinfo", {}).get("info_kind") == "bridge"
    }
    seen["filtering"] = {name: link["linkinfo"]["info_data"]["vlan_filtering"] for name, link in bridges.items()}
    return seen


def checked(config: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """The configuration as a runtime gives it to CHECK and DEL."""
    return {**config, "prevResult": result}
