"""The harness itself: a node is private, complete, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.harness import observe
from tests.harness.node import NODE_V4, OUTSIDE, OUTSIDE_V4, OUTSIDE_V6, Node

pytestmark = pytest.mark.root


def test_a_node_is_private(node: Node) -> None:
    """Links, pods and files of a node are not the machine's."""
    path = node.pod("blue")
    node.sh("ip link add br7 type bridge; echo kept >/var/lib/cni/file")
    assert set(observe.links(node)) == {"lo", "br7"}
    assert set(observe.links(node, pod="blue")) == {"lo"}
    assert not Path(path).exists() and node.path(path).exists()
    assert node.path("/var/lib/cni/file").read_text() == "kept\n"
    assert not Path("/var/lib/cni/file").exists()
    assert "br7" not in subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout


def test_closing_a_node_ends_what_runs_in_it() -> None:
    """Nothing survives close()."""
    node = Node()
    pid = node.pid
    child = node.spawn("sleep", "100")
    node.close()
    assert child.poll() is not None and not Path(f"/proc/{pid}").exists()


def test_the_outside_is_reachable_by_both_families(node: Node) -> None:
    """The uplink works, and the outside has no way back to anything but the node."""
    node.outside()
    assert node.pings(OUTSIDE_V4) and node.pings(OUTSIDE_V6)
    assert node.pings(NODE_V4, pod=OUTSIDE)
    assert observe.default_gateways(node) == {OUTSIDE_V4, OUTSIDE_V6}
    assert not observe.default_gateways(node, pod=OUTSIDE)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("ip link add br0 type bridge", "node links/br0"),
        ("ip addr add 10.9.9.9/24 dev lo", "addresses"),
        ("ip route add 10.9.9.0/24 dev lo table 77", "node routes"),
        ("nft add table inet mine", "nft"),
        ("echo x >/var/lib/cni/new", "files//var/lib/cni/new"),
        ("echo x >/run/new", "files//run/new"),
        ("echo 1 >/proc/sys/net/ipv4/ip_forward", "sysctls/net/ipv4/ip_forward"),
        ("iptables -t nat -A POSTROUTING -s 10.1.1.1 -j ACCEPT", "iptables"),
        ("ip netns exec blue ip link set lo up", "blue links/lo"),
    ],
)
def test_a_snapshot_sees_every_kind_of_change(node: Node, change: str, told: str) -> None:
    """Equal snapshots mean that nothing changed; each kind of change makes them differ."""
    node.pod("blue")
    before = observe.snapshot(node)
    assert observe.difference(before, observe.snapshot(node)) == []
    node.sh(change)
    found = observe.difference(before, observe.snapshot(node))
    assert found and any(told in line for line in found), found


def test_a_node_is_fast() -> None:
    """A node costs so little that every test can have its own (generous bound: the machine may be busy)."""
    started = time.monotonic()
    for _ in range(5):
        Node().close()
    assert time.monotonic() - started < 5
