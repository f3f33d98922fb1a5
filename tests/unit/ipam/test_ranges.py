"""Range sets: defaults and rules as tables, membership and order against netaddr."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import netaddr  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec.addresses import parse_cidr, parse_ip
from cni.spec.errors import ConfigError
from ipam.ranges import Range, RangeConf, RangeSet, candidates, read_sets

if TYPE_CHECKING:
    from cni.spec.addresses import Ip


def conf(subnet: str | None = None, start: str = "", end: str = "", gateway: str = "") -> RangeConf:
    return RangeConf(
        parse_cidr(subnet) if subnet else None,
        parse_ip(start) if start else None,
        parse_ip(end) if end else None,
        parse_ip(gateway) if gateway else None,
    )


def pool(*parts: RangeConf) -> RangeSet:
    return read_sets([parts])[0]


def texts(addresses: Any) -> list[str]:
    return [str(address) for address in addresses]


@pytest.mark.parametrize(
    ("configured", "start", "end", "gateway"),
    [
        (conf("10.1.0.0/16"), "10.1.0.1", "10.1.255.254", "10.1.0.1"),
        (conf("192.168.1.0/29"), "192.168.1.1", "192.168.1.6", "192.168.1.1"),
        (conf("10.0.0.0/30"), "10.0.0.1", "10.0.0.2", "10.0.0.1"),
        (conf("0.0.0.0/0"), "0.0.0.1", "255.255.255.254", "0.0.0.1"),
        (conf("2001:db8::/64"), "2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8::1"),
        (conf("2001:db8::/126"), "2001:db8::1", "2001:db8::3", "2001:db8::1"),
        (conf("10.0.0.0/24", start="10.0.0.9"), "10.0.0.9", "10.0.0.254", "10.0.0.1"),
        (conf("10.0.0.0/24", end="10.0.0.9"), "10.0.0.1", "10.0.0.9", "10.0.0.1"),
        (conf("10.0.0.0/24", start="10.0.0.0", end="10.0.0.255"), "10.0.0.0", "10.0.0.255", "10.0.0.1"),
        (conf("10.0.0.0/24", gateway="10.0.0.254"), "10.0.0.1", "10.0.0.254", "10.0.0.254"),
        (conf("10.0.0.0/24", gateway="192.0.2.1"), "10.0.0.1", "10.0.0.254", "192.0.2.1"),
        (conf("fd00::/64", gateway="fd01::1"), "fd00::1", "fd00::ffff:ffff:ffff:ffff", "fd01::1"),
        (conf("::ffff:10.0.0.0/120"), "10.0.0.1", "10.0.0.254", "10.0.0.1"),
    ],
)
def test_what_is_left_out_has_the_references_defaults(configured: RangeConf, start: str, end: str, gateway: str) -> None:
    (part,) = pool(configured).ranges
    assert texts((part.start, part.end, part.gateway)) == [start, end, gateway]
    assert str(part) == f"{start}-{end}"
    assert configured.subnet is not None
    assert part.with_length(part.start) == parse_cidr(f"{start}/{configured.subnet.network.prefixlen}")


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        ([], "no IP ranges specified"),
        ([[]], "invalid range set 0: empty range set"),
        ([[conf("10.0.0.0/24")], []], "invalid range set 1: empty range set"),
        ([[conf(start="10.0.0.1")]], "invalid range set 0: a range has no subnet"),
        ([[conf("10.0.0.0/31")]], "invalid range set 0: Network 10.0.0.0/31 too small to allocate from"),
        ([[conf("10.0.0.0/32")]], "Network 10.0.0.0/32 too small to allocate from"),
        ([[conf("2001:db8::/127")]], "Network 2001:db8::/127 too small to allocate from"),
        (
            [[conf("10.0.0.7/24")]],
            "Network has host bits set. For a subnet mask of length 24 the network address is 10.0.0.0: subnet is 10.0.0.7/24",
        ),
        ([[conf("10.0.0.0/24", start="10.0.1.1")]], "invalid range set 0: RangeStart 10.0.1.1 not in network 10.0.0.0/24"),
        ([[conf("10.0.0.0/24", start="fd00::1")]], "RangeStart fd00::1 not in network 10.0.0.0/24"),
        ([[conf("10.0.0.0/24", end="10.0.1.1")]], "invalid range set 0: RangeEnd 10.0.1.1 not in network 10.0.0.0/24"),
        ([[conf("10.0.0.0/24", start="10.0.0.9", end="10.0.0.8")]], "RangeStart 10.0.0.9 not in network 10.0.0.0/24 up to"),
        ([[conf("10.0.0.0/24"), conf("fd00::/64")]], "invalid range set 0: mixed address families"),
        (
            [[conf("10.0.0.0/24"), conf("10.0.0.0/25")]],
            "invalid range set 0: subnets 10.0.0.1-10.0.0.254 and 10.0.0.1-10.0.0.126 overlap",
        ),
        ([[conf("10.0.0.0/24")], [conf("fd00::/64")], [conf("10.0.0.0/8")]], "range set 0 overlaps with 2"),
        ([[conf("10.0.0.0/24", gateway="fd00::1")]], "Gateway fd00::1 and network 10.0.0.0/24 are of different families"),
        # The reference leases the broadcast address here, and then 10.0.1.0, 10.0.1.1 and so on.
        (
            [[conf("10.0.0.0/24", start="10.0.0.255")]],
            "RangeStart 10.0.0.255 not in network 10.0.0.0/24 up to RangeEnd 10.0.0.254",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(sets: list[list[RangeConf]], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_sets(sets)
    assert says in str(refused.value)


def test_ranges_of_one_subnet_may_share_it_without_overlapping() -> None:
    shared = pool(conf("10.0.0.0/24", end="10.0.0.99"), conf("10.0.0.0/24", start="10.0.0.100"))
    assert texts(shared.ranges) == ["10.0.0.1-10.0.0.99", "10.0.0.100-10.0.0.254"]
    assert str(shared) == "10.0.0.1-10.0.0.99,10.0.0.100-10.0.0.254"
    assert shared.size == 254 - 1  # .1 is the gateway of both, and in the first only


def test_membership_minds_the_family() -> None:
    small = pool(conf("0.0.0.0/24"))
    assert parse_ip("0.0.0.5") in small
    assert parse_ip("::5") not in small
    assert small.find(parse_ip("0.0.0.0")) is small.find(parse_ip("0.0.0.255")) is None


# -- the order of candidates -------------------------------------------------------------------------------------------

TWO = (conf("10.0.0.0/29", "10.0.0.2", "10.0.0.3"), conf("10.0.0.8/29", "10.0.0.10", "10.0.0.11"))


@pytest.mark.parametrize(
    ("parts", "after", "expected"),
    [
        ((conf("192.168.1.0/29"),), "", ".2 .3 .4 .5 .6"),
        ((conf("192.168.1.0/29"),), "192.168.1.6", ".2 .3 .4 .5 .6"),
        ((conf("192.168.1.0/29"),), "192.168.1.4", ".5 .6 .2 .3 .4"),
        ((conf("192.168.1.0/29"),), "192.168.1.1", ".2 .3 .4 .5 .6"),
        ((conf("192.168.1.0/29"),), "10.9.9.9", ".2 .3 .4 .5 .6"),
        ((conf("192.168.1.0/29"),), "fd00::1", ".2 .3 .4 .5 .6"),
        ((conf("192.168.1.0/29", gateway="192.168.1.4"),), "192.168.1.3", ".5 .6 .1 .2 .3"),
        ((conf("192.168.1.0/29", gateway="10.0.0.1"),), "", ".1 .2 .3 .4 .5 .6"),
        ((conf("10.0.0.0/30"),), "10.0.0.2", ".2"),
        ((conf("10.0.0.0/29", "10.0.0.1", "10.0.0.1"),), "", ""),
        (TWO, "10.0.0.3", ".10 .11 .2 .3"),
        (TWO, "10.0.0.2", ".3 .10 .11 .2"),
        (TWO, "10.0.0.11", ".2 .3 .10 .11"),
        (TWO, "", ".2 .3 .10 .11"),
    ],
)
def test_the_order_is_the_references(parts: tuple[RangeConf, ...], after: str, expected: str) -> None:
    found = candidates(pool(*parts), parse_ip(after) if after else None, ())
    assert " ".join("." + str(address).rsplit(".", 1)[1] for address in found) == expected


def test_taken_addresses_are_skipped() -> None:
    found = candidates(pool(*TWO), parse_ip("10.0.0.2"), {"10.0.0.3", "10.0.0.11"})
    assert texts(found) == ["10.0.0.10", "10.0.0.2"]


class Counting:
    """Addresses that are taken, and how often somebody asked."""

    def __init__(self, taken: set[str]) -> None:
        self.taken, self.asked = taken, 0

    def __contains__(self, address: object) -> bool:
        self.asked += 1
        return address in self.taken


def test_a_full_network_costs_a_look_at_each_lease() -> None:
    full = pool(conf("10.1.0.0/16"))
    taken = Counting({f"10.1.{host >> 8}.{host & 255}" for host in range(1, 65535)})
    assert next(candidates(full, parse_ip("10.1.77.7"), taken), None) is None
    assert taken.asked == 65534


def test_an_address_in_a_crowded_v6_network_costs_no_more_than_the_crowd() -> None:
    wide = pool(conf("fd00::/64"))
    taken = Counting({str(parse_ip("fd00::8000:0:0:0") + offset) for offset in range(1, 1001)})
    assert next(candidates(wide, parse_ip("fd00::8000:0:0:0"), taken)) == parse_ip("fd00::8000:0:0:0") + 1001
    assert taken.asked == 1001


def test_a_wide_network_wraps_around_its_end() -> None:
    wide = pool(conf("fd00::/64"))
    assert texts(islice(candidates(wide, parse_ip("fd00::ffff:ffff:ffff:ffff"), ()), 2)) == ["fd00::2", "fd00::3"]


# -- against another implementation of sets of addresses ------------------------------------------------------------------


@st.composite
def any_set(draw: st.DrawFn) -> RangeSet:
    """A set of one to four stretches of a small network somewhere, with gateways inside and outside."""
    v6 = draw(st.booleans())
    bits, room = (128, 2**128) if v6 else (32, 2**32)
    base = draw(st.integers(0, (room >> 8) - 1)) << 8
    make = parse_ip("::" if v6 else "0.0.0.0").__class__
    cuts = sorted(draw(st.sets(st.integers(0, 255), min_size=2, max_size=8)))
    parts = [
        Range(bits - 8, make(base + low), make(base + high), make(base + draw(st.integers(0, 255))))
        for low, high in zip(cuts[::2], cuts[1::2], strict=False)
    ]
    return RangeSet(tuple(draw(st.permutations(parts))))


def by_netaddr(one: RangeSet) -> netaddr.IPSet:
    return netaddr.IPSet(netaddr.IPRange(str(part.start), str(part.end)) for part in one.ranges)


@given(any_set(), st.data())
def test_candidates_are_all_the_free_addresses_each_once(one: RangeSet, data: st.DataObject) -> None:
    make = type(one.ranges[0].start)
    addresses = [str(make(int(address))) for address in by_netaddr(one)]
    taken = data.draw(st.sets(st.sampled_from(addresses)))
    after = data.draw(st.sampled_from([None, *addresses]))
    found = list(candidates(one, parse_ip(after) if after else None, taken))
    gateways = {str(part.gateway) for part in one.ranges if part.gateway in part}
    assert len(found) == len(set(found))
    assert set(texts(found)) == set(addresses) - taken - gateways
    assert one.size == len(set(addresses) - gateways)


@given(any_set(), st.data())
def test_the_order_is_cyclic(one: RangeSet, data: st.DataObject) -> None:
    whole: list[Ip] = list(candidates(one, None, ()))
    if not whole:
        return
    after = data.draw(st.sampled_from(whole))
    position = whole.index(after) + 1
    assert list(candidates(one, after, ())) == whole[position:] + whole[:position]


@given(any_set(), any_set())
def test_overlap_is_what_netaddr_finds(one: RangeSet, other: RangeSet) -> None:
    same_family = one.version == other.version
    assert one.overlaps(other) == (same_family and not by_netaddr(one).isdisjoint(by_netaddr(other)))
    for part in other.ranges:
        assert (part.start in one) == (same_family and netaddr.IPAddress(str(part.start)) in by_netaddr(one))


@given(st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_whole_networks_are_what_netaddr_calls_their_hosts(base: int, length: int) -> None:
    network = netaddr.IPNetwork((base, length), version=4).cidr
    if length > 30:
        with pytest.raises(ConfigError):
            pool(conf(str(network)))
        return
    one = pool(conf(str(network)))
    (part,) = one.ranges
    assert (int(part.start), int(part.end)) == (network.first + 1, network.last - 1)
    assert one.size == network.size - 3
