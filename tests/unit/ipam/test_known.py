"""What an index knows, against sets and dictionaries; how small it is."""

from __future__ import annotations

import signal
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
    from collections.abc import Iterator

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
            may = [str(make(number)) for number in seen.free(version, low, low + 60)]
            assert model.intersection(may) <= more
            assert [text for text in may if text not in seen] == [
                text for number in range(low, low + 61) if (text := str(make(number))) not in model
            ]


SPANS = st.tuples(st.integers(0, 70_000), st.sampled_from([1, 2, 3, BLOCK - 1, BLOCK, 2 * BLOCK, 66_000]), st.booleans())


@given(st.lists(SPANS, max_size=6), st.integers(0, 140_000), st.integers(0, 70_000))
def test_numbers_that_are_not_there_are_found(spans: list[Any], low: int, width: int) -> None:
    numbers, model = Numbers(), set[int]()
    for first, length, there in spans:
        for number in range(first, first + length):
            numbers.change(number, there)
        model = model | {*range(first, first + length)} if there else model - {*range(first, first + length)}
    assert list(numbers.others(low, low + width)) == [number for number in range(low, low + width + 1) if number not in model]
    assert all(numbers.blocks.values())


# -- who looks while another thread changes it --------------------------------------------------------------------------


@pytest.fixture
def bounded() -> Iterator[None]:
    """Ends a search that never ends."""

    def end(*_: object) -> None:
        raise TimeoutError("the search goes on and on")

    former = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


def v4(number: int) -> str:
    return str(parse_ip("10.1.0.0") + number)


@pytest.mark.usefixtures("bounded")
def test_an_address_that_is_leased_during_a_search_does_not_hold_it_up() -> None:
    """It fills a block beside others that are full; the searcher knows of another address that it is free."""
    known = known_of({v4(number): b"one" for number in range(4 * BLOCK) if number != 773})
    low = int(parse_ip("10.1.0.0"))
    search = Taken(known, frozenset(), frozenset({v4(7)})).free(4, low + 2 * BLOCK, low + 4 * BLOCK - 1)
    known.put(v4(773), b"two")
    assert list(search) == []


def test_an_address_that_is_freed_before_a_search_comes_there_is_found() -> None:
    known = known_of({v4(number): b"one" for number in range(4 * BLOCK)})
    low = int(parse_ip("10.1.0.0"))
    search = Taken(known, frozenset(), frozenset({v4(7)})).free(4, low + BLOCK, low + 4 * BLOCK - 1)
    known.drop(v4(600))
    assert list(search) == [low + 600]


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("filling", [True, False])
def test_a_search_in_the_middle_of_a_change_ends(filling: bool) -> None:
    """A block and the word above it are not changed in one step; here a search comes before and after each of the two."""
    numbers, searches = Numbers(), 0

    class Searched(dict[int, int]):
        def __setitem__(self, index: int, bits: int) -> None:
            search()
            super().__setitem__(index, bits)
            search()

    def search() -> None:
        nonlocal searches
        searches += 1
        blocks = list(numbers.blocks.values())
        free = [number for number in range(4 * BLOCK) if not blocks[number // BLOCK] >> number % BLOCK & 1]
        assert list(numbers.others(0, 4 * BLOCK - 1)) == free

    for number in range(4 * BLOCK):
        if number != 2 * BLOCK or not filling:
            numbers.change(number, True)
    numbers.blocks, numbers.full = Searched(numbers.blocks), Searched(numbers.full)
    numbers.change(2 * BLOCK, filling)
    assert searches == 4


@given(st.sets(st.integers(0, 1023)), st.sets(st.integers(0, 20)), st.lists(st.tuples(st.integers(0, 1023), st.booleans())))
def test_a_search_beside_changes_finds_what_stays_free(
    there: set[int], less: set[int], changes: list[tuple[int, bool]]
) -> None:
    known, low = known_of({v4(number): b"one" for number in there}), int(parse_ip("10.1.0.0"))
    search = Taken(known, frozenset(), frozenset(map(v4, less))).free(4, low, low + 1023)
    touched, found = {number for number, _ in changes}, list[int]()
    for number, leased in changes:
        found += islice(search, 1)
        if leased:
            known.put(v4(number), b"two")
        else:
            known.drop(v4(number))
    found += search
    free = {number - low for number in found}
    assert {*range(1024)} - there - touched <= free <= ({*range(1024)} - there) | touched | less
    assert found == sorted(found)


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
