"""What an index knows, against sets and dictionaries; how small it is."""

from __future__ import annotations

import tracemalloc
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec.addresses import parse_cidr, parse_ip
from ipam.known import BLOCK, FEW, Known, Numbers, Taken, as_number
from ipam.leases import read_address
from ipam.ranges import RangeConf, candidates, read_sets

if TYPE_CHECKING:
    from ipam.ranges import RangeSet

# Around the ends of blocks, of both families, and what stands for an address without being one.
NAMES = st.one_of(
    st.integers(0, 40).map(lambda number: str(parse_ip("10.1.3.240") + number)),
    st.integers(0, 40).map(lambda number: str(parse_ip("fd00::3f0") + number)),
    st.sampled_from(["10.1.0.05", "fd00:0::5", ".", "::1", "::ffff:10.1.0.5", "10.1.0.5:", "::"]),
)
CONTENTS = st.one_of(st.none(), st.sampled_from([b"one\r\neth0", b"one", b"two\r\neth0"]))


def known_of(model: dict[str, bytes | None]) -> Known:
    known = Known()
    for name, content in model.items():
        known.put(name, content)
    return known


@given(st.lists(st.tuples(NAMES, st.booleans(), CONTENTS)))
def test_names_and_owners_are_those_of_a_dictionary(steps: list[tuple[str, bool, bytes | None]]) -> None:
    known, model = Known(), dict[str, bytes | None]()
    for name, there, content in steps:
        if there:
            known.put(name, content)
            model[name] = content
        else:
            known.drop(name)
            model.pop(name, None)
    taken = Taken(known)
    assert set(taken) == model.keys() == taken
    assert len(taken) == len(model)
    for content in (b"one\r\neth0", b"one", b"two\r\neth0", b"three"):
        assert sorted(known.with_content(content)) == sorted(name for name, kept in model.items() if kept == content)
    for name in model:
        known.drop(name)
    assert [(numbers.blocks, numbers.full) for numbers in known.numbers.values()] == [({}, {})] * 2
    assert known.with_content(b"one") == ()


def test_a_crowd_of_one_content_is_known_too() -> None:
    """As when an administrator keeps many addresses out of use with the same words."""
    known = Known()
    names = [f"10.1.0.{host}" for host in range(FEW + 3)]
    for count, name in enumerate(names, 1):
        known.put(name, b"kept for the printers")
        assert sorted(known.with_content(b"kept for the printers")) == sorted(names[:count])
    for count, name in enumerate(names, 1):
        known.drop(name)
        assert sorted(known.with_content(b"kept for the printers")) == sorted(names[count:])


@given(st.sets(NAMES), st.sets(NAMES), st.sets(NAMES), st.sets(NAMES))
def test_what_is_known_better_counts(names: set[str], more: set[str], less: set[str], gone: set[str]) -> None:
    less -= more
    taken = Taken(known_of(dict.fromkeys(names)), frozenset(more), frozenset(less))
    expected = (names - less) | more
    for seen, model in ((taken, expected), (taken - gone, expected - gone)):
        assert set(seen) == model
        assert len(seen) == len(model)
        assert all((name in seen) == (name in model) for name in names | more | less | gone)
        for version, low in ((4, int(parse_ip("10.1.3.230"))), (6, int(parse_ip("fd00::3e0")))):
            make = type(parse_ip("10.1.0.1" if version == 4 else "::1"))
            free = [str(make(number)) for number in seen.free(version, low, low + 60)]
            assert free == [text for number in range(low, low + 61) if (text := str(make(number))) not in model]


SPANS = st.tuples(st.integers(0, 70_000), st.sampled_from([1, 2, 3, BLOCK - 1, BLOCK, 2 * BLOCK, 66_000]), st.booleans())


@given(st.lists(SPANS, max_size=4), st.lists(SPANS, max_size=4), st.integers(0, 140_000), st.integers(0, 70_000))
def test_numbers_that_are_not_there_are_found(spans: list[Any], above: list[Any], low: int, width: int) -> None:
    numbers = Numbers()
    upper, model = Numbers(numbers), set[int]()
    for target, changes in ((numbers, spans), (upper, above)):
        for first, length, there in changes:
            for number in range(first, first + length):
                target.change(number, there)
            model = model | {*range(first, first + length)} if there else model - {*range(first, first + length)}
        assert list(target.others(low, low + width)) == [
            number for number in range(low, low + width + 1) if number not in model
        ]
    assert all(numbers.blocks.values())


def pool(subnet: str) -> RangeSet:
    return read_sets([[RangeConf(parse_cidr(subnet))]])[0]


@given(st.sets(st.integers(1, 2046)), st.one_of(st.none(), st.integers(1, 2046)), st.booleans())
def test_candidates_are_the_same(hosts: set[int], last: int | None, v6: bool) -> None:
    base, whole = (parse_ip("fd00::"), pool("fd00::/117")) if v6 else (parse_ip("10.1.0.0"), pool("10.1.0.0/21"))
    names = {str(base + host) for host in hosts}
    after = None if last is None else base + last
    known = Taken(known_of(dict.fromkeys(names)))
    assert list(islice(candidates(whole, after, known), 50)) == list(islice(candidates(whole, after, names), 50))


def test_a_full_network_is_passed_over_in_leaps() -> None:
    whole = pool("10.0.0.0/14")
    known = known_of({str(parse_ip("10.0.0.0") + host): None for host in range(1, 60_001)})
    looked: list[str] = []

    class Counting(Taken):
        def __contains__(self, name: object) -> bool:
            looked.append(str(name))
            return super().__contains__(name)

    assert next(candidates(whole, parse_ip("10.0.0.1"), Counting(known))) == parse_ip("10.0.0.0") + 60_001
    assert len(looked) == 1
    assert len(known.numbers[4].blocks) == 235


@given(
    st.one_of(
        NAMES,
        st.ip_addresses().map(str),
        st.text("0123456789abcdef.:", max_size=20),
        st.builds("{}{}".format, st.sampled_from(["::", "::ffff:", "0:0::", "1::"]), st.ip_addresses(v=4)),
        st.integers(0, 2**16).map(lambda number: str(parse_ip("::1") + number)),
    )
)
def test_numbers_are_those_of_canonical_addresses(name: str) -> None:
    address = read_address(name)
    assert as_number(name) == ((address.version, int(address)) if address else (0, 0))


@pytest.mark.parametrize("dual", [False, True], ids=["IPv4", "both families"])
def test_sixty_thousand_leases_are_small(dual: bool) -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        known = Known()
        for number in range(30_000 if dual else 60_000):
            content = f"{number:064x}\r\neth0".encode()
            known.put(str(parse_ip("10.1.0.0") + number), content)
            if dual:
                known.put(str(parse_ip("fd00:10:1::") + number), content)
        size = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(known.names) == 60_000
    assert size < 15_000_000
