"""Ranges of addresses as host-local configures them: reading, defaults, rules, membership, order of candidates. Pure.

A *range* is a stretch of one subnet with a gateway, a *range set* is a pool of such stretches from which one address is
leased; an attachment gets one address from each set. Everything here takes and returns values; files are in
``ipam.store``, the choice is made in ``ipam.allocate``.
"""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from cni.spec.addresses import Cidr, Ip, is_v6
from cni.spec.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence
    from ipaddress import IPv4Network, IPv6Network

    Network = IPv4Network | IPv6Network

# A subnet needs room for its network address, gateway and broadcast beside one lease.
LEAST_HOST_BITS = 2


class RangeConf(msgspec.Struct, frozen=True, rename="camel"):
    """One range as configured; what is None has a default that follows from the subnet."""

    subnet: Annotated[Cidr | None, Meta(description="The subnet, such as 10.1.0.0/16, without host bits.")] = None
    range_start: Annotated[Ip | None, Meta(description="First address to lease; by default the subnet's first.")] = None
    range_end: Annotated[Ip | None, Meta(description="Last address to lease; by default the subnet's last.")] = None
    gateway: Annotated[Ip | None, Meta(description="Gateway, never leased; by default the subnet's first address.")] = None


class Range(msgspec.Struct, frozen=True):
    """A complete range: ``start`` and ``end`` belong to it, ``gateway`` is never leased and may lie elsewhere."""

    prefix_length: int
    start: Ip
    end: Ip
    gateway: Ip

    def __contains__(self, address: Ip) -> bool:
        return address.version == self.start.version and int(self.start) <= int(address) <= int(self.end)

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"

    @property
    def size(self) -> int:
        """How many addresses can be leased."""
        return int(self.end) - int(self.start) + 1 - (self.gateway in self)

    def with_length(self, address: Ip) -> Cidr:
        """An address with the length of the range's subnet, as an interface gets it."""
        return (IPv6Interface if is_v6(address) else IPv4Interface)((address, self.prefix_length))


class RangeSet(msgspec.Struct, frozen=True):
    """At least one range, all of one family, none overlapping."""

    ranges: tuple[Range, ...]

    def __contains__(self, address: Ip) -> bool:
        return self.find(address) is not None

    def __str__(self) -> str:
        return ",".join(map(str, self.ranges))

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.ranges[0].start.version

    @property
    def size(self) -> int:
        """How many addresses can be leased."""
        return sum(part.size for part in self.ranges)

    def find(self, address: Ip) -> Range | None:
        """The range that holds an address."""
        return next((part for part in self.ranges if address in part), None)

    def overlaps(self, other: RangeSet) -> bool:
        """Whether some address is in both sets."""
        return any(_overlap(mine, its) for mine in self.ranges for its in other.ranges)


def read_sets(configured: Sequence[Sequence[RangeConf]]) -> tuple[RangeSet, ...]:
    """Configured sets, completed and checked; ConfigError (7) as the reference words it.

    The index of a set is part of the store's format (``last_reserved_ip.<index>``), so their order is kept.
    """
    if not configured:
        raise ConfigError("no IP ranges specified", 'give ipam.ranges, for example [[{"subnet": "10.1.0.0/16"}]]')
    sets = tuple(_read_set(index, parts) for index, parts in enumerate(configured))
    for index, one in enumerate(sets):
        for other in range(index + 1, len(sets)):
            if one.overlaps(sets[other]):
                raise ConfigError(f"range set {index} overlaps with {other}", f"{one} and {sets[other]}")
    return sets


def candidates(pool: RangeSet, after: Ip | None, taken: Container[str]) -> Iterator[Ip]:
    """The addresses of a set that are not taken, in the reference's round-robin order.

    It begins behind ``after`` (the address leased last, when it lies in the set), runs through the following ranges and
    around, and ends with ``after`` itself. ``taken`` holds addresses as text, the names of their lease files. Finding the first
    candidate costs one look-up for each lease in the way, however large the ranges are, and less if ``taken`` knows what is
    free (``ipam.known``).
    """
    free: Callable[[int, int, int], Iterator[int]] | None = getattr(taken, "free", None)
    for part, low, high in _stretches(pool, after):
        make, gateway = type(part.start), part.gateway
        for number in range(low, high + 1) if free is None else free(pool.version, low, high):
            address = make(number)
            if str(address) not in taken and address != gateway:
                yield address


def _stretches(pool: RangeSet, after: Ip | None) -> Iterator[tuple[Range, int, int]]:
    whole = [(part, int(part.start), int(part.end)) for part in pool.ranges]
    index = next((i for i, part in enumerate(pool.ranges) if after is not None and after in part), None)
    if after is None or index is None:
        yield from whole
        return
    part, low, high = whole[index]
    yield part, int(after) + 1, high
    yield from whole[index + 1 :] + whole[:index]
    yield part, low, int(after)


def _read_set(index: int, parts: Sequence[RangeConf]) -> RangeSet:
    try:
        if not parts:
            raise ConfigError("empty range set", "give at least one range with a subnet")
        ranges = tuple(_read_range(part) for part in parts)
        if len({part.start.version for part in ranges}) > 1:
            raise ConfigError("mixed address families", "put IPv4 and IPv6 ranges into sets of their own")
        for position, one in enumerate(ranges):
            for other in ranges[position + 1 :]:
                if _overlap(one, other):
                    raise ConfigError(f"subnets {one} and {other} overlap")
    except ConfigError as error:
        raise ConfigError(f"invalid range set {index}: {error.msg}", error.details) from error
    return RangeSet(ranges)


def _read_range(conf: RangeConf) -> Range:
    network = _network(conf.subnet)
    first = network.network_address + 1
    last = network.broadcast_address - (0 if is_v6(first) else 1)
    if conf.range_end is not None and conf.range_end not in network:
        raise ConfigError(f"RangeEnd {conf.range_end} not in network {network}")
    if conf.range_start is not None and conf.range_start not in network:
        raise ConfigError(f"RangeStart {conf.range_start} not in network {network}")
    if conf.gateway is not None and conf.gateway.version != network.version:
        raise ConfigError(f"Gateway {conf.gateway} and network {network} are of different families")
    start, end = conf.range_start or first, conf.range_end or last
    if int(start) > int(end):
        raise ConfigError(f"RangeStart {start} not in network {network} up to RangeEnd {end}")
    return Range(network.prefixlen, start, end, conf.gateway or first)


def _network(subnet: Cidr | None) -> Network:
    if subnet is None:
        raise ConfigError("a range has no subnet", 'each range needs "subnet", for example "10.1.0.0/16"')
    network: Network = subnet.network
    if network.max_prefixlen - network.prefixlen < LEAST_HOST_BITS:
        raise ConfigError(f"Network {subnet} too small to allocate from", "the smallest are /30 and /126")
    if subnet.ip != network.network_address:
        raise ConfigError(
            "Network has host bits set. For a subnet mask of length "
            f"{network.prefixlen} the network address is {network.network_address}",
            f"subnet is {subnet}",
        )
    return network


def _overlap(one: Range, other: Range) -> bool:
    return one.start in other or other.start in one
