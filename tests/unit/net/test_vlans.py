"""VLANs: which lists are valid, which ranges they make, what a port must have."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni.net import vlans
from cni.net.facts import Vlan
from cni.net.vlans import Trunk
from cni.spec.errors import ConfigError


@pytest.mark.parametrize(
    ("vlan", "trunk"),
    [(0, []), (1, []), (4094, []), (0, [Trunk(1, 4094)]), (5, [Trunk(id=7), Trunk(2, 2), Trunk(3, 4, 9)]), (0, [Trunk()])],
)
def test_valid(vlan: int, trunk: list[Trunk]) -> None:
    vlans.validate(vlan, trunk)


@pytest.mark.parametrize(
    ("vlan", "trunk", "says"),
    [
        (-1, [], "invalid VLAN ID -1"),
        (4095, [], "invalid VLAN ID 4095"),
        (0, [Trunk(id=0)], r"vlanTrunk\[0\]: id 0 is not between"),
        (0, [Trunk(id=4095)], r"vlanTrunk\[0\]: id 4095"),
        (0, [Trunk(1, 2), Trunk(0, 2)], r"vlanTrunk\[1\]: minID 0"),
        (0, [Trunk(1, 4095)], r"vlanTrunk\[0\]: maxID 4095"),
        (0, [Trunk(5)], r"vlanTrunk\[0\]: minID and maxID"),
        (0, [Trunk(None, 5)], r"vlanTrunk\[0\]: minID and maxID"),
        (0, [Trunk(5, 4)], r"vlanTrunk\[0\]: minID 5 is greater than maxID 4"),
    ],
)
def test_invalid(vlan: int, trunk: list[Trunk], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        vlans.validate(vlan, trunk)


@pytest.mark.parametrize(
    ("trunk", "expected"),
    [
        ([], ()),
        ([Trunk()], ()),
        ([Trunk(id=7)], ((7, 7),)),
        ([Trunk(3, 5, 6), Trunk(id=1)], ((1, 1), (3, 6))),
        ([Trunk(5, 9), Trunk(1, 6), Trunk(10, 10)], ((1, 10),)),
        ([Trunk(5, 6), Trunk(8, 9)], ((5, 6), (8, 9))),
    ],
)
def test_ranges(trunk: list[Trunk], expected: tuple[Any, ...]) -> None:
    assert vlans.ranges(trunk) == expected


spans = st.tuples(st.integers(1, 60), st.integers(0, 8)).map(lambda pair: Trunk(pair[0], pair[0] + pair[1]))


@settings(max_examples=50)
@given(st.lists(spans | st.integers(1, 60).map(lambda vid: Trunk(id=vid)), max_size=6))
def test_ranges_hold_the_same_ids_and_never_touch(trunk: list[Trunk]) -> None:
    found = vlans.ranges(trunk)
    listed = [vid for low, high in found for vid in range(low, high + 1)]
    wanted = {vid for entry in trunk if entry.min_id and entry.max_id for vid in range(entry.min_id, entry.max_id + 1)}
    assert sorted(set(listed)) == listed
    assert set(listed) == wanted | {entry.id for entry in trunk if entry.id}
    assert all(low > high + 1 for (_, high), (low, _) in pairwise(found))


NATIVE = Vlan(5, pvid=True, untagged=True)


@pytest.mark.parametrize(
    ("pvid", "tagged", "seen", "problems"),
    [
        (5, [], [NATIVE], []),
        (5, [(7, 8)], [NATIVE, Vlan(7), Vlan(8), Vlan(9)], []),
        (5, [(4, 6)], [NATIVE, Vlan(4), Vlan(6)], []),
        (5, [(7, 9)], [NATIVE, Vlan(8)], ["tagged VLANs [7, 9] are gone from veth1"]),
        (5, [(7, 9)], [NATIVE, Vlan(7), Vlan(8, untagged=True), Vlan(9)], ["VLANs [8] leave veth1 untagged, not tagged"]),
        (5, [], [Vlan(5)], ["VLAN 5 is not the untagged VLAN of veth1 any more"]),
        (5, [], [Vlan(5, pvid=True)], ["VLAN 5 is not the untagged VLAN of veth1 any more"]),
        (5, [], [Vlan(1, True, True)], ["VLAN 5 is not the untagged VLAN of veth1 any more"]),
    ],
)
def test_check(pvid: int, tagged: list[tuple[int, int]], seen: list[Vlan], problems: list[str]) -> None:
    assert vlans.check("veth1", pvid, tagged, seen) == problems
