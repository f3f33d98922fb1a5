"""The network lists that runtimes and distributions ship with the Go plugins run here unchanged: what they say, by cnitool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import leftovers, snapshot
from tests.harness import observe, traffic
from tests.harness.node import NODE_V4, OUTSIDE, OUTSIDE_V4

if TYPE_CHECKING:
    from tests.e2e.conftest import Runtime

pytestmark = pytest.mark.root

Config = dict[str, Any]

PORTMAP: Config = {"type": "portmap", "capabilities": {"portMappings": True}}
V4_ROUTE = [{"dst": "0.0.0.0/0"}]


def bridge(name: str, *ranges: str, **keys: Any) -> Config:
    """The bridge of most of them."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in ranges], "routes": V4_ROUTE}
    return {"type": "bridge", "bridge": name, "isGateway": True, "ipMasq": True, "ipam": ipam, **keys}


# By who ships it: version and plugins.
LISTS: dict[str, tuple[str, list[Config]]] = {
    "kind": (
        "0.3.1",
        [
            {
                "type": "ptp",
                "ipMasq": False,
                "mtu": 1500,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni-ipam-state",
                    "routes": V4_ROUTE,
                    "ranges": [[{"subnet": "10.244.0.0/24"}]],
                },
            },
            PORTMAP,
        ],
    ),
    "k3s, what flannel delegates": (
        "1.0.0",
        [
            {
                "type": "bridge",
                "hairpinMode": True,
                "forceAddress": True,
                "isDefaultGateway": True,
                "ipMasq": False,
                "mtu": 1450,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": "10.42.0.0/24"}]],
                    "routes": [{"dst": "10.42.0.0/16"}],
                },
            },
            PORTMAP,
            {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        ],
    ),
    "containerd": (
        "1.0.0",
        [
            bridge("cni0", "10.88.0.0/16", "2001:db8:4860::/64", promiscMode=True),
            {**PORTMAP, "externalSetMarkChain": "KUBE-MARK-MASQ"},
        ],
    ),
    "CRI-O": ("1.0.0", [bridge("cni0", "10.85.0.0/16", hairpinMode=True)]),
    "podman": (
        "0.4.0",
        [bridge("cni-podman0", "10.88.0.0/16", hairpinMode=True), PORTMAP, {"type": "firewall"}, {"type": "tuning"}],
    ),
    "nerdctl": (
        "1.0.0",
        [
            bridge("nerdctl0", "10.4.0.0/24", hairpinMode=True),
            PORTMAP,
            {"type": "firewall", "ingressPolicy": "same-bridge"},
            {"type": "tuning"},
        ],
    ),
}


CASES = [(name, 0) for name in LISTS] + [(name, 2) for name, (_, members) in LISTS.items() if len(members) > 1]


@pytest.mark.parametrize(("name", "ports"), CASES)
def test_it_runs_unchanged(runtime: Runtime, name: str, ports: int) -> None:
    """ADD, traffic, CHECK where the version has it, DEL twice; nothing is left but what the pods of a network share."""
    version, members = LISTS[name]
    node = runtime.node
    node.outside()
    if "KUBE-MARK-MASQ" in str(members):  # kube-proxy's
        for tool in ("iptables", "ip6tables"):
            node.sh(f"{tool} -t nat -N KUBE-MARK-MASQ; {tool} -t nat -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000")
            node.sh(f"{tool} -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE")
    caps = {"portMappings": [{"hostPort": 8080 + at, "containerPort": 80 + at, "protocol": "tcp"} for at in range(ports)]}
    network = runtime.network({"cniVersion": version, "name": "shipped", "plugins": members})
    first, netns = node.pod(), node.pod()
    runtime.call("add", network, first)  # what all pods share is there
    runtime.call("del", network, first)
    before = snapshot(node)
    result = runtime.call("add", network, netns, caps=caps)
    pod = netns.rpartition("/")[2]
    address = result["ips"][0]["address"].partition("/")[0]
    assert node.pings(address)
    if ports:
        traffic.start(node, traffic.SERVE, address, "81", "tcp", pod=pod)
        assert traffic.reached(node, NODE_V4, 8081, pod=OUTSIDE) == OUTSIDE_V4
    if version != "0.3.1":
        runtime.call("check", network, netns, caps=caps)
    for _ in range(2):
        runtime.call("del", network, netns, caps=caps)
    after = leftovers(before, snapshot(node), members[0].get("bridge", "cni0"))
    assert not [line for line in after if _of_a_pod(line, address)], after
    assert not observe.leases(node, network)


def _of_a_pod(line: str, address: str) -> bool:
    return address in line or "podwire/shipped/" in line or "veth" in line
