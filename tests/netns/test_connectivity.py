"""Packets: pod to pod, pod to gateway, pod to the outside with and without masquerade, IPv4 and IPv6."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe, traffic
from tests.harness.node import NODE_V4, NODE_V6, OUTSIDE, OUTSIDE_V4, OUTSIDE_V6
from tests.netns.conftest import BACKENDS, DUAL, V4, bridge

if TYPE_CHECKING:
    from tests.netns.conftest import Attachment, Lab

pytestmark = pytest.mark.root

ALL = {**DUAL, "routes": []}
FAMILIES = {"v4": (OUTSIDE_V4, NODE_V4, 0), "v6": (OUTSIDE_V6, NODE_V6, 1)}


def pods(lab: Lab, count: int, **keys: Any) -> list[Attachment]:
    return [lab.added(bridge(ALL, isDefaultGateway=True, **keys)) for _ in range(count)]


def test_pod_to_pod_and_to_the_gateway(lab: Lab) -> None:
    """Pods of a network reach each other and their gateway, over both families, at once."""
    one, two = pods(lab, 2)
    for target in (*two.addresses, "10.10.0.1", "fd00:10::1"):
        assert lab.node.pings(target, pod=one.pod), f"{target} does not answer"
    for target in one.addresses:
        assert lab.node.pings(target, pod=two.pod), f"{target} does not answer"
        assert lab.node.pings(target), f"{target} does not answer the node"


def test_large_packets(lab: Lab) -> None:
    """The path carries the MTU that was configured, and nothing is lost on the way."""
    one, two = pods(lab, 2, mtu=1400)
    for target, payload in ((two.addresses[0], "1372"), (two.addresses[1], "1352")):
        lab.node.run("ping", "-c1", "-W2", "-M", "do", "-s", payload, "-n", target, pod=one.pod)


def test_pods_of_two_bridges_with_the_same_gateway_role(lab: Lab) -> None:
    """Two networks on a node route to each other through it."""
    one = lab.added(bridge(V4, isDefaultGateway=True))
    two = lab.added(bridge({**V4, "subnet": "10.20.0.0/24"}, isDefaultGateway=True, name="net2", bridge="cni1"))
    assert lab.node.pings(two.addresses[0], pod=one.pod)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_masquerade(lab: Lab, backend: str, family: str) -> None:
    """ipMasq sets up an IP masquerade on the host: the outside sees the node's address, and answers come back."""
    target, node_address, _ = FAMILIES[family]
    lab.node.outside()
    (it,) = pods(lab, 1, ipMasq=True, ipMasqBackend=backend)
    traffic.start(lab.node, traffic.ECHO_SOURCE, target, "5353", pod=OUTSIDE)
    assert traffic.source_seen_by(lab.node, target, pod=it.pod) == node_address
    assert lab.node.pings(target, pod=it.pod)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_masquerade(lab: Lab, family: str) -> None:
    """Without ipMasq the outside sees the pod's own address (and here has no way back to it)."""
    target, _, index = FAMILIES[family]
    lab.node.outside()
    (it,) = pods(lab, 1)
    server = traffic.start(lab.node, traffic.ECHO_SOURCE, target, "5353", pod=OUTSIDE)
    assert traffic.source_seen_by(lab.node, target, pod=it.pod, seconds=0.4) is None
    assert traffic.read(server, 2) == it.addresses[index]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_masquerade_between_pods(lab: Lab, backend: str, family: str) -> None:
    """Traffic inside of the pods' own subnet keeps its source, also where the bridge hands it to the firewall."""
    index = FAMILIES[family][2]
    one, two = pods(lab, 2, ipMasq=True, ipMasqBackend=backend)
    lab.node.sh("echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables", check=False)
    lab.node.sh("echo 1 >/proc/sys/net/bridge/bridge-nf-call-ip6tables", check=False)
    traffic.start(lab.node, traffic.ECHO_SOURCE, two.addresses[index], "5353", pod=two.pod)
    assert traffic.source_seen_by(lab.node, two.addresses[index], pod=one.pod) == one.addresses[index]


@pytest.mark.known_reference_failure("Two subnets of a family share one chain: the second one's own traffic is masqueraded.")
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_masquerade_between_pods_of_a_second_subnet(lab: Lab, backend: str) -> None:
    """Several addresses of a family: each one's subnet is left out of masquerade."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.10.0.0/24"}], [{"subnet": "10.20.0.0/24"}]]}
    one, two = (lab.added(bridge(ipam, ipMasq=True, ipMasqBackend=backend)) for _ in range(2))
    if lab.node.sh("cat /proc/sys/net/bridge/bridge-nf-call-iptables", check=False) == "":
        pytest.skip("bridged packets do not reach the firewall on this kernel")
    lab.node.sh("echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables")
    for index in (0, 1):
        server = traffic.start(lab.node, traffic.ECHO_SOURCE, two.addresses[index], "5353", pod=two.pod)
        assert traffic.source_seen_by(lab.node, two.addresses[index], pod=one.pod) == one.addresses[index]
        server.kill()


@pytest.mark.parametrize("backend", BACKENDS)
def test_masquerade_of_one_pod_survives_the_dels_of_others(lab: Lab, backend: str) -> None:
    """Shared parts of the firewall stay while anybody needs them."""
    lab.node.outside()
    one, two, three = pods(lab, 3, ipMasq=True, ipMasqBackend=backend)
    one.delete().succeeded()
    three.delete().succeeded()
    assert lab.node.pings(OUTSIDE_V4, pod=two.pod) and lab.node.pings(OUTSIDE_V6, pod=two.pod)


@pytest.mark.parametrize("backend", BACKENDS)
def test_masquerade_leaves_other_traffic_alone(lab: Lab, backend: str) -> None:
    """The node's own traffic, and that of pods without ipMasq, keeps its source."""
    lab.node.outside()
    pods(lab, 1, ipMasq=True, ipMasqBackend=backend)
    plain = lab.added(bridge({**V4, "subnet": "10.20.0.0/24"}, isDefaultGateway=True, name="net2", bridge="cni1"))
    lab.node.sh(f"ip -n {OUTSIDE} route add 10.20.0.0/24 via {NODE_V4}")
    traffic.start(lab.node, traffic.ECHO_SOURCE, OUTSIDE_V4, "5353", pod=OUTSIDE)
    assert traffic.source_seen_by(lab.node, OUTSIDE_V4, pod=plain.pod) == plain.addresses[0]


def test_hairpin(lab: Lab) -> None:
    """hairpinMode: a pod that is sent back to itself by the node's address translation gets its own packet."""
    ports = pods(lab, 1, hairpinMode=True)
    (it,) = ports
    lab.node.sh(f"""
        nft add table ip fake; nft 'add chain ip fake pre {{ type nat hook prerouting priority -100; }}'
        nft 'add chain ip fake post {{ type nat hook postrouting priority 100; }}'
        nft add rule ip fake pre ip daddr 192.0.2.80 dnat to {it.addresses[0]}
        nft add rule ip fake post ip saddr {it.addresses[0]} ip daddr {it.addresses[0]} masquerade
    """)
    assert lab.node.pings("192.0.2.80", pod=it.pod)


@pytest.mark.known_reference_failure(
    "containernetworking/cni#194: addresses are not announced, neighbours keep the old MAC address."
)
def test_an_address_moves_to_another_pod(lab: Lab) -> None:
    """containernetworking/cni#194: whoever talked to the old pod reaches the new one at the same address at once."""
    static = {"type": "static", "addresses": [{"address": "10.10.0.77/24", "gateway": "10.10.0.1"}]}
    client = lab.added(bridge(V4, isGateway=True))
    for _ in range(2):
        server = lab.added(bridge(static, isGateway=True))
        assert lab.node.pings("10.10.0.77", pod=client.pod, seconds=0), "the neighbour entry is stale"
        server.delete().succeeded()


def announced(lab: Lab, config: dict[str, Any]) -> tuple[Attachment, list[Any]]:
    """An attachment, and the announcements that were seen on its bridge before ADD was over (and shortly after)."""
    lab.added(config)
    listener = traffic.start(lab.node, traffic.LISTEN, "cni0")
    it = lab.added(config)
    seen = traffic.read_until(listener, lambda line: False, seconds=0.5)
    mac = observe.links(lab.node, pod=it.pod)["eth0"]["address"]
    return it, [line for line in seen if line["mac"] == mac]


@pytest.mark.known_reference_failure("1.1.1 does not announce addresses: no gratuitous ARP arrives on the bridge.")
def test_ipv4_is_announced(lab: Lab) -> None:
    """A gratuitous ARP tells the bridge's neighbours where the address is now (containernetworking/cni#194)."""
    it, seen = announced(lab, bridge(V4, isGateway=True))
    found = [line for line in seen if line["kind"] == "arp"]
    assert {line["ip"] for line in found} == set(it.addresses), seen
    assert all(line["to"] == "ff:ff:ff:ff:ff:ff" for line in found)


@pytest.mark.known_reference_failure("IPv6 addresses are not announced: bridge does not set ndisc_notify.")
def test_ipv6_is_announced(lab: Lab) -> None:
    """An unsolicited neighbour advertisement with the override flag does the same for IPv6 (RFC 4861, 7.2.6)."""
    it, seen = announced(lab, bridge(DUAL, isGateway=True))
    found = [line for line in seen if line["kind"] == "na" and not line["ip"].startswith("fe80")]
    assert {line["ip"] for line in found} == {it.addresses[1]}, seen
    assert all(line["override"] and not line["solicited"] for line in found), found
