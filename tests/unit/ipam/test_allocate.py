"""The choice of addresses: a table of situations, and rules that hold for any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec.addresses import parse_cidr, parse_ip
from ipam.allocate import Refusal, Why, choose
from ipam.ranges import RangeConf, RangeSet, read_sets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cni.spec.addresses import Ip


def sets(*subnets: str) -> tuple[RangeSet, ...]:
    return read_sets([[RangeConf(parse_cidr(subnet))] for subnet in subnets])


def ips(*texts: str) -> list[Ip]:
    return [parse_ip(text) for text in texts]


def told(outcome: object) -> str:
    """An outcome as a line: the addresses with a star where a lease must make room, or the reason with what it is about."""
    if isinstance(outcome, Refusal):
        return " ".join([outcome.why.name, str(outcome.index), *map(str, outcome.addresses)])
    assert isinstance(outcome, tuple)
    return " ".join(f"{choice.address}{'*' * choice.reclaimed}" for choice in outcome)


ONE, DUAL = sets("10.0.0.0/29"), sets("10.0.0.0/29", "fd00::/126")
FULL = {"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"}
NO_LAST: list[None] = [None, None]


@pytest.mark.parametrize(
    ("pools", "taken", "wanted", "old", "expected"),
    [
        (ONE, (), (), (), "10.0.0.2"),
        (ONE, {"10.0.0.2"}, (), (), "10.0.0.3"),
        (DUAL, {"10.0.0.2"}, (), (), "10.0.0.3 fd00::2"),
        (ONE, FULL, (), (), "EXHAUSTED 0"),
        (DUAL, {"fd00::2", "fd00::3"}, (), (), "EXHAUSTED 1"),
        (ONE, (), ("10.0.0.5",), (), "10.0.0.5"),
        (DUAL, (), ("fd00::3",), (), "10.0.0.2 fd00::3"),
        (DUAL, (), ("fd00::3", "10.0.0.6"), (), "10.0.0.6 fd00::3"),
        (ONE, (), ("10.0.0.0",), (), "UNPLACED -1 10.0.0.0"),
        (ONE, {"10.0.0.5"}, ("10.0.0.5",), (), "UNAVAILABLE 0 10.0.0.5"),
        (ONE, (), ("10.0.0.1",), (), "GATEWAY 0 10.0.0.1"),
        (ONE, (), ("192.0.2.1",), (), "UNPLACED -1 192.0.2.1"),
        (ONE, (), ("10.0.0.5", "10.0.0.6"), (), "UNPLACED -1 10.0.0.6"),
        (DUAL, (), ("192.0.2.1", "fd00::2", "fd01::1"), (), "UNPLACED -1 192.0.2.1 fd01::1"),
        # Leases of an earlier boot make room, but never while an address is free.
        (ONE, {"10.0.0.2"}, (), ("10.0.0.2",), "10.0.0.3"),
        (ONE, FULL, (), ("10.0.0.4", "10.0.0.2"), "10.0.0.2*"),
        (ONE, FULL, (), ("fd00::2", "192.0.2.1", "10.0.0.6"), "10.0.0.6*"),
        (ONE, FULL | {"10.0.0.1"}, (), ("10.0.0.1",), "EXHAUSTED 0"),
        (DUAL, FULL, (), ("fd00::2", "10.0.0.3"), "10.0.0.3* fd00::2"),
        (ONE, {"10.0.0.5"}, ("10.0.0.5",), ("10.0.0.5",), "10.0.0.5*"),
        (ONE, {"10.0.0.5"}, ("10.0.0.5",), ("10.0.0.6",), "UNAVAILABLE 0 10.0.0.5"),
        (ONE, {"10.0.0.1"}, ("10.0.0.1",), ("10.0.0.1",), "GATEWAY 0 10.0.0.1"),
        ((), (), (), (), ""),
    ],
)
def test_choice(pools: Sequence[RangeSet], taken: set[str], wanted: Sequence[str], old: Sequence[str], expected: str) -> None:
    assert told(choose(pools, taken, NO_LAST, ips(*wanted), ips(*old).__contains__)) == expected


def asked_in_vain(address: Ip) -> bool:
    raise AssertionError(f"{address} is asked for although another address is free")


def test_each_set_goes_on_where_it_was() -> None:
    assert told(choose(DUAL, (), ips("10.0.0.4", "fd00::3"), (), asked_in_vain)) == "10.0.0.5 fd00::2"


def test_a_choice_says_for_which_set_and_range_it_is() -> None:
    first, second = DUAL
    outcome = choose(DUAL, (), NO_LAST, (), asked_in_vain)
    assert not isinstance(outcome, Refusal)
    assert [(choice.index, choice.part) for choice in outcome] == [(0, first.ranges[0]), (1, second.ranges[0])]


HOSTS = [str(parse_ip("10.0.0.0") + host) for host in range(16)]


@given(
    taken=st.sets(st.sampled_from(HOSTS)),
    old=st.sets(st.sampled_from(HOSTS)),
    wanted=st.lists(st.sampled_from(HOSTS), max_size=3, unique=True),
    last=st.tuples(*[st.sampled_from([None, *HOSTS])] * 2),
)
def test_rules_of_any_choice(taken: set[str], old: set[str], wanted: list[str], last: tuple[str | None, ...]) -> None:
    pools = sets("10.0.0.0/29", "10.0.0.8/29")
    reclaimable = ips(*sorted(old & taken))
    outcome = choose(pools, taken, [parse_ip(text) if text else None for text in last], ips(*wanted), reclaimable.__contains__)
    if isinstance(outcome, Refusal):
        if outcome.why is Why.EXHAUSTED:
            free = [host for host in HOSTS if parse_ip(host) in pools[outcome.index] and host not in taken - old]
            assert set(free) <= {"10.0.0.1", "10.0.0.9"}  # the gateways
        return
    assert len(outcome) == 2
    assert set(ips(*wanted)) <= {choice.address for choice in outcome}
    for pool, choice in zip(pools, outcome, strict=True):
        assert choice.address in pool
        assert choice.address != choice.part.gateway
        assert choice.reclaimed == (str(choice.address) in taken)
        if choice.reclaimed:
            assert choice.address in reclaimable
            free = [host for host in HOSTS if parse_ip(host) in pool and host not in taken]
            assert str(choice.address) in wanted or set(free) <= {"10.0.0.1", "10.0.0.9"}
