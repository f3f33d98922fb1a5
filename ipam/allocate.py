"""The choice of addresses for one attachment. Pure: what is configured, taken and wanted in; a choice, or why not, out.

Whether a lease may be taken over is for the caller to say, who is asked only where there is no other way.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from cni.spec.addresses import Ip
from ipam.ranges import Range, RangeSet, candidates

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence


class Choice(msgspec.Struct, frozen=True):
    """An address for one range set. ``reclaimed`` says that a lease of an earlier boot must make room."""

    index: int
    address: Ip
    part: Range
    reclaimed: bool = False


class Why(Enum):
    """The reasons for which there is no choice."""

    EXHAUSTED = "every address of the set is leased"
    UNAVAILABLE = "the wanted address is leased"
    GATEWAY = "the wanted address is the range's gateway"
    UNPLACED = "wanted addresses lie in no set, or a second one in the same set"


class Refusal(msgspec.Struct, frozen=True):
    """Why there is no choice: the set it failed for, and the wanted addresses it is about."""

    why: Why
    index: int = -1
    addresses: tuple[Ip, ...] = ()


def choose(
    sets: Sequence[RangeSet],
    taken: Container[str],
    last: Sequence[Ip | None],
    wanted: Sequence[Ip],
    reclaimable: Callable[[Ip], bool],
    barren: Container[RangeSet] = (),
) -> tuple[Choice, ...] | Refusal:
    """One address for each set, or the first reason why not; nothing in between.

    ``taken``: addresses as text. ``last``: for each set the address leased last. ``wanted``: addresses the caller asks for;
    a set serves the first of them that lies in it, and all of them must be served. ``reclaimable``: whether the lease of
    an address may be taken over; asked for a wanted address that is taken, and where a set has no address that is not, unless
    the set is ``barren``: known to hold no such lease.
    """
    choices: list[Choice] = []
    left = list(wanted)
    for index, pool in enumerate(sets):
        asked = next((address for address in left if address in pool), None)
        if asked is not None:
            left.remove(asked)
            outcome = _take(index, pool, asked, taken, reclaimable)
        else:
            outcome = _next(index, pool, last[index], taken, reclaimable, pool in barren)
        if isinstance(outcome, Refusal):
            return outcome
        choices.append(outcome)
    return Refusal(Why.UNPLACED, addresses=tuple(left)) if left else tuple(choices)


def _take(index: int, pool: RangeSet, asked: Ip, taken: Container[str], reclaimable: Callable[[Ip], bool]) -> Choice | Refusal:
    part = pool.find(asked)
    if part is None or asked == part.gateway:
        return Refusal(Why.GATEWAY, index, (asked,))
    if str(asked) not in taken:
        return Choice(index, asked, part)
    return Choice(index, asked, part, True) if reclaimable(asked) else Refusal(Why.UNAVAILABLE, index, (asked,))


def _next(
    index: int,
    pool: RangeSet,
    last: Ip | None,
    taken: Container[str],
    reclaimable: Callable[[Ip], bool],
    barren: bool,
) -> Choice | Refusal:
    address = next(candidates(pool, last, taken), None)
    reclaimed = address is None
    if address is None and not barren:
        address = next(filter(reclaimable, candidates(pool, last, ())), None)
    part = pool.find(address) if address is not None else None
    if address is None or part is None:
        return Refusal(Why.EXHAUSTED, index)
    return Choice(index, address, part, reclaimed)
