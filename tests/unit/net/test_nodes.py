"""Routes to other nodes: marks, and what is planned for what was seen."""

from __future__ import annotations

import pytest

from cni.net import nodes
from cni.net.facts import Way
from cni.net.nodes import Node, NodeSeen
from cni.net.ops import DropNextHop, SetNextHop
from cni.spec.addresses import parse_cidr, parse_ip
from cni.spec.errors import CNIError
from tests.fakes import Machine

NODE = Node(parse_cidr("10.1.1.0/24"), parse_ip("192.0.2.2"))
RANGE = parse_cidr("10.1.1.0/24")
MARK = nodes.mark("net")
MOVED = parse_ip("192.0.2.9")
ON_LINK = Way(dst=parse_cidr("192.0.2.0/24"), on_link=True)


def test_marks_differ_and_leave_small_metrics_to_people() -> None:
    marks = {nodes.mark(f"net{number}") for number in range(1000)}
    assert len(marks) == 1000
    assert all(1 << 31 <= mark < 1 << 32 for mark in marks)


HERE = Way(dst=parse_cidr("192.0.2.2/32"), local=True)


@pytest.mark.parametrize(
    ("seen", "planned", "problem"),
    [
        (NodeSeen(NODE, True), None, False),
        (NodeSeen(NODE, True, NODE.via, ON_LINK), None, False),
        (NodeSeen(NODE, False, None, ON_LINK), SetNextHop(dst=RANGE, via=NODE.via, metric=MARK), True),
        (NodeSeen(NODE, False, MOVED, ON_LINK), SetNextHop(dst=RANGE, via=NODE.via, metric=MARK), True),
        (NodeSeen(NODE, False, None, HERE), None, False),
        (NodeSeen(NODE, False, MOVED, HERE), DropNextHop(dst=RANGE, via=MOVED, metric=MARK), False),
        (NodeSeen(NODE, True, NODE.via, HERE), DropNextHop(dst=RANGE, via=NODE.via, metric=MARK), False),
    ],
)
def test_what_is_planned(seen: NodeSeen, planned: object, problem: bool) -> None:
    assert nodes.plan_add("net", [seen]) == ([planned] if planned else [])
    assert bool(nodes.check([seen])) == problem


@pytest.mark.parametrize(
    ("hop", "says"),
    [
        (None, "next hop 192.0.2.2 of 10.1.1.0/24 cannot be reached"),
        (Way(dst=parse_cidr("0.0.0.0/0"), gw=parse_ip("198.51.100.1")), "behind 198.51.100.1"),
        (Way(dst=parse_cidr("0.0.0.0/0")), "behind another next hop"),
    ],
)
def test_a_node_that_is_not_on_a_link_is_refused(hop: Way | None, says: str) -> None:
    seen = [NodeSeen(NODE, False, None, hop)]
    with pytest.raises(CNIError, match=says):
        nodes.plan_add("net", seen)
    assert nodes.check(seen)


@pytest.mark.parametrize("count", [1, nodes.MANY + 1])
def test_what_is_seen(count: int) -> None:
    """One by one or all together, the same is seen: right, missing, moved, somebody else's that wins, this host itself."""
    machine = Machine()
    machine.uplink()
    root = machine.host().root
    listed = [Node(parse_cidr(f"10.1.{number}.0/24"), parse_ip(f"192.0.2.{number + 2}")) for number in range(count)]
    for node in listed:
        root.set_next_hop(node.pod_cidr, node.via, MARK)
    missing = Node(parse_cidr("10.2.0.0/24"), parse_ip("192.0.2.200"))
    moved = Node(parse_cidr("10.3.0.0/24"), parse_ip("192.0.2.201"))
    root.set_next_hop(moved.pod_cidr, MOVED, MARK)
    beaten = Node(parse_cidr("10.4.0.0/24"), parse_ip("192.0.2.202"))
    root.set_next_hop(beaten.pod_cidr, beaten.via, MARK)
    root.set_next_hop(beaten.pod_cidr, MOVED, 7)
    here = Node(parse_cidr("10.5.0.0/24"), parse_ip("192.0.2.1"))
    seen = nodes.look(machine.host(), "net", [*listed, missing, moved, beaten, here])
    assert [(it.right, it.before, it.here) for it in seen] == [
        *[(True, node.via, False) for node in listed],
        (False, None, False),
        (False, MOVED, False),
        (True, beaten.via, False),
        (False, None, True),
    ]
