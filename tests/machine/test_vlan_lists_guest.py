"""The VLAN lists of conf/, as they are: added, checked and deleted as a runtime does, and their pods talk to each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import leftovers
from tests.harness import observe
from tests.harness.node import OUTSIDE_V4
from tests.machine.vlan import NATIVE, TAGGED, attach, call, checked, host_port, vlans

if TYPE_CHECKING:
    from tests.harness.node import Node
    from tests.harness.plugin import Executables

CONF = Path(__file__).resolve().parents[2] / "conf"
ACCESS, TRUNK = "bridge-vlan-access", "bridge-vlan-trunk"
BRIDGE, GATEWAY = "cni-vlan", "cni-vlan.100"

# A bridge of ours speaks them all; libcni takes the highest that both know.
VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")


@pytest.fixture(autouse=True)
def own_promise(plugins: Executables) -> None:
    """These are ready-to-use lists for podwire; other plugins lack some keys."""
    if not plugins.ours:
        pytest.skip("configurations made for podwire")


@pytest.fixture(autouse=True)
def as_on_a_kubernetes_node(node: Node) -> None:
    """Bridged packets meet the host's rules, which kube-proxy asks for."""
    node.sh("echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables; echo 1 >/proc/sys/net/bridge/bridge-nf-call-ip6tables")


def plugin_of(name: str, version: str = "") -> dict[str, Any]:
    """What libcni gives to the only plugin of a list: its object, with the list's name and version."""
    document = json.loads((CONF / f"{name}.conflist").read_text())
    [plugin] = document["plugins"]
    return {**plugin, "name": document["name"], "cniVersion": version or document["cniVersion"]}


def test_these_are_all_lists_with_vlans() -> None:
    """A new one needs a test here: elsewhere the kernel may not have them."""
    lists = {path.stem: json.loads(path.read_text())["plugins"] for path in CONF.glob("*.conflist")}
    found = {name for name, plugins in lists.items() for plugin in plugins if {"vlan", "vlanTrunk"} & plugin.keys()}
    assert found == {ACCESS, TRUNK}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [ACCESS, TRUNK])
def test_add_check_del_del(plugins: Executables, node: Node, name: str, version: str) -> None:
    """With every version: CHECK agrees, and after DEL nothing is left but what pods share; DEL again is fine."""
    config = plugin_of(name, version)
    node.pod("blue")
    before = without_bookkeeping(observe.snapshot(node))
    result = plugins.add("bridge", config, **call(node, "blue"))
    assert result["cniVersion"] == version
    assert observe.links(node, pod="blue")["eth0"]["address"] == result["interfaces"][2]["mac"]
    assert set(observe.addresses(node, "eth0", pod="blue")) == {entry["address"] for entry in result.get("ips", ())}
    if version != "0.3.1":
        plugins.call("CHECK", "bridge", checked(config, result), **call(node, "blue")).succeeded()
    for _ in range(2):
        plugins.call("DEL", "bridge", checked(config, result), **call(node, "blue")).succeeded()
    assert observe.leases(node, config["name"]) == {}
    after = without_bookkeeping(observe.snapshot(node))
    after["node links"].pop(GATEWAY, None)
    after["node routes"] = [route for route in after["node routes"] if json.loads(route)["dev"] != GATEWAY]
    assert leftovers(before, after, BRIDGE) == []


def test_status_and_gc(plugins: Executables, node: Node) -> None:
    """GC takes the pods that are not in use any more, and the others keep their VLAN."""
    config = plugin_of(ACCESS, "1.1.0")
    nothing: dict[str, Any] = {"container_id": "", "netns": "", "ifname": "", "node": node}
    plugins.call("STATUS", "bridge", config, **nothing).succeeded()
    results = {pod: attach(plugins, node, pod, config) for pod in ("blue", "red")}
    keep = [{"containerID": "red", "ifname": "eth0"}]
    plugins.call("GC", "bridge", {**config, "cni.dev/valid-attachments": keep}, **nothing).succeeded()
    assert {told.split()[0] for told in observe.leases(node, config["name"]).values()} == {b"red"}
    links = observe.links(node)
    assert host_port(results["blue"]) not in links and {host_port(results["red"]), BRIDGE, GATEWAY} <= links.keys()
    assert vlans(node, host_port(results["red"])) == {100: NATIVE}
    plugins.call("CHECK", "bridge", checked(config, results["red"]), **call(node, "red")).succeeded()
    assert node.pings("10.111.4.1", pod="red", seconds=5)


def test_both_on_their_bridge(plugins: Executables, node: Node) -> None:
    """Access pods reach their gateway, each other and the world; the trunk's pod reaches them with tag 100 and no other."""
    node.outside()
    access, trunk = plugin_of(ACCESS), plugin_of(TRUNK)
    assert access["bridge"] == trunk["bridge"] == BRIDGE
    one, two = (attach(plugins, node, pod, access) for pod in ("one", "two"))
    router = attach(plugins, node, "router", trunk)
    assert [entry["name"] for entry in one["interfaces"]] == [BRIDGE, host_port(one), "eth0", GATEWAY]
    assert vlans(node, host_port(one)) == vlans(node, host_port(two)) == {100: NATIVE}
    assert vlans(node, host_port(router)) == {1: NATIVE, **dict.fromkeys([*range(100, 111), 200], TAGGED)}
    assert node.pings("10.111.4.1", pod="one", seconds=5)
    assert node.pings(two["ips"][0]["address"].split("/")[0], pod="one", seconds=5)
    assert node.pings(OUTSIDE_V4, pod="one", seconds=5)
    for vid in (100, 101):
        node.sh(
            f"ip link add eth0.{vid} link eth0 type vlan id {vid}; ip link set eth0.{vid} up;"
            f"ip addr add 10.111.4.{vid}/24 dev eth0.{vid}",
            pod="router",
        )
    inside = one["ips"][0]["address"].split("/")[0]
    assert node.run("ping", "-c1", "-W5", "-I", "eth0.100", inside, pod="router", check=False).returncode == 0
    assert node.run("ping", "-c1", "-W1", "-I", "eth0.101", inside, pod="router", check=False).returncode != 0
    for pod, config, result in (("one", access, one), ("two", access, two), ("router", trunk, router)):
        plugins.call("CHECK", "bridge", checked(config, result), **call(node, pod)).succeeded()


def without_bookkeeping(seen: dict[str, Any]) -> dict[str, Any]:
    """A snapshot without files: leases are looked at by themselves."""
    return {key: told for key, told in seen.items() if key != "files"}
