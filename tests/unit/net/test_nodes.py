"""Routes to other nodes: marks, and what is planned for what was seen."""

from __future__ import annotations

import pytest

from cni.net import nodes
from cni.net.facts import Way
from cni.net.nodes import Facts, Node, NodeSeen
from cni.net.ops import SetNextHop
from cni.spec.addresses import parse_cidr, parse_ip
from cni.spec.errors import CNIError

NODE = Node(parse_cidr("10.1.1.0/24"), parse_ip("192.0.2.2"))
RANGE = parse_cidr("10.1.1.0/24")
MARK = nodes.mark("net")
ON_LINK = Way(dst=parse_cidr("192.0.2.0/24"), on_link=True)


def test_marks_differ_and_leave_small_metrics_to_people() -> None:
    marks = {nodes.mark(f"net{number}") for number in range(1000)}
    assert len(marks) == 1000
    assert all(1 << 31 <= mark < 1 << 32 for mark in marks)


@pytest.mark.parametrize(
    ("seen", "next_hops", "planned"),
    [
        (NodeSeen(NODE, True), {}, False),
        (NodeSeen(NODE, False, ON_LINK), {}, True),
        (NodeSeen(NODE, False, ON_LINK), {(RANGE, MARK): parse_ip("192.0.2.3")}, True),  # the node moved
        (NodeSeen(NODE, False, ON_LINK), {(RANGE, MARK): NODE.via}, False),  # somebody else's route wins
        (NodeSeen(NODE, False, ON_LINK), {(RANGE, 7): NODE.via}, True),  # another network's
        (NodeSeen(NODE, False, Way(dst=parse_cidr("192.0.2.2/32"), local=True)), {}, False),  # this host itself
    ],
)
def test_what_is_planned(seen: NodeSeen, next_hops: dict[tuple[object, int], object], planned: bool) -> None:
    """CHECK sees a problem where ADD would do something, and nowhere else."""
    facts = Facts((seen,), next_hops)  # type: ignore[arg-type]
    wanted = [SetNextHop(dst=RANGE, via=NODE.via, metric=MARK)] if planned else []
    assert nodes.plan_add("net", facts) == wanted
    assert bool(nodes.check("net", facts)) == planned


@pytest.mark.parametrize(
    ("hop", "says"),
    [
        (None, "next hop 192.0.2.2 of 10.1.1.0/24 cannot be reached"),
        (Way(dst=parse_cidr("0.0.0.0/0"), gw=parse_ip("198.51.100.1")), "behind 198.51.100.1"),
        (Way(dst=parse_cidr("0.0.0.0/0")), "behind another next hop"),
    ],
)
def test_a_node_that_is_not_on_a_link_is_refused(hop: Way | None, says: str) -> None:
    facts = Facts((NodeSeen(NODE, False, hop),))
    with pytest.raises(CNIError, match=says):
        nodes.plan_add("net", facts)
    assert nodes.check("net", facts)
