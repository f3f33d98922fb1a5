"""Leasing step by step: an owner's earlier leases, the choice, the writing, and what is said when there is no address.

It works on any ``Store``, so it does the same on disk, on an index in memory and on a fake. The reference's wording of errors
is kept, because clients match on it; what follows it says what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.spec.errors import CNIError, EnvError, TryAgain
from ipam.allocate import Choice, Refusal, Why, choose
from ipam.boot import is_earlier
from ipam.leases import LONGEST, content_of

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from cni.spec.addresses import Ip
    from cni.spec.owner import Owner
    from ipam.leases import Lease
    from ipam.ranges import RangeSet
    from ipam.store import Store

ENLARGE = "remove attachments that are not in use any more (CNI GC does), or add a range to the set"


def lease(
    leases: Store, sets: Sequence[RangeSet], wanted: Sequence[Ip], owner: Owner, boot: str, notes: list[str]
) -> tuple[Choice, ...]:
    """An address from each set for ``owner``, written to the store. CNIError when there is none, and then nothing is written.

    ``boot`` is the mark of this boot. A lease that is proven to be of an earlier one (``ipam.boot``) is in nobody's use: it is
    taken back when its owner comes again, when its very address is requested, or when the set has no other.
    """
    if len(content_of(owner)) >= LONGEST:
        raise EnvError("CNI_CONTAINERID is too long", f"with the interface name a lease holds less than {LONGEST} bytes")
    former = _former(leases, sets, owner, boot)
    while True:
        taken = leases.taken() - {str(held.address) for held in former} if former else leases.taken()
        outcome = choose_in(leases, sets, wanted, taken, boot)
        if isinstance(outcome, Refusal):
            raise _refused(outcome, leases, sets)
        for held in former:
            leases.release(held.address)
            notes.append(f"{held.address} was leased to the same {held} before this boot; taken back")
        for choice in outcome:
            if choice.reclaimed:
                notes.append(f"{choice.address} was leased to {leases.lease(choice.address)} before this boot; taken back")
                leases.release(choice.address)
        former = []
        obstructed = _write(leases, outcome, owner, boot, notes)
        if obstructed is None:
            return outcome
        if not leases.look_again(obstructed.address):
            raise TryAgain(
                f"failed to allocate for range {obstructed.index}: {obstructed.address} was taken at this moment",
                "some program writes leases without holding the lock; repeat the call",
            )


def choose_in(
    leases: Store, sets: Sequence[RangeSet], wanted: Sequence[Ip], taken: Set[str], boot: str
) -> tuple[Choice, ...] | Refusal:
    """The choice as the store stands, nothing written."""

    def reclaimable(address: Ip) -> bool:
        # A file may have a lease's mark and say something else, when an administrator wrote over it.
        return is_earlier(leases.boot_of(address), boot) and leases.lease(address) is not None

    last = [leases.last_reserved(index) for index in range(len(sets))]
    known = leases.barren()
    barren = [pool for pool in sets if (boot, pool) in known] if known else ()
    outcome = choose(sets, taken, last, wanted, reclaimable, barren)
    if isinstance(outcome, Refusal) and outcome.why is Why.EXHAUSTED:
        known.add((boot, sets[outcome.index]))
    return outcome


def release(leases: Store, address: Ip, problems: list[CNIError]) -> bool:
    """Release an address; False, and an entry in ``problems``, when that failed. So one failure does not keep the rest back."""
    try:
        leases.release(address)
    except CNIError as error:
        problems.append(error)
        return False
    return True


def raise_together(problems: Sequence[CNIError]) -> None:
    """Raise what was collected as one error, with the code of the first; nothing happens when there is nothing."""
    if problems:
        raise CNIError("; ".join(map(str, problems)), code=problems[0].code)


def _former(leases: Store, sets: Sequence[RangeSet], owner: Owner, boot: str) -> list[Lease]:
    """The owner's leases of an earlier boot; CNIError when it has another one in some set."""
    held = leases.held_by(owner)
    former = [one for one in held if is_earlier(leases.boot_of(one.address), boot)]
    for index, pool in enumerate(sets):
        for one in held:
            if one.address in pool and one not in former:
                raise CNIError(
                    f"failed to allocate for range {index}: {one.address} has been allocated to {one.container_id},"
                    " duplicate allocation is not allowed",
                    f"it is leased to {one}; DEL that attachment first",
                )
    return former


def _write(leases: Store, choices: Sequence[Choice], owner: Owner, boot: str, notes: list[str]) -> Choice | None:
    """Reserve what was chosen; what could not be, because it is taken. When not all could, what this very call reserved is
    released, and nothing else.
    """
    reserved: list[Ip] = []

    def take_back() -> None:
        problems: list[CNIError] = []
        for address in reserved:
            release(leases, address, problems)
        notes.extend(map(str, problems))

    try:
        for choice in choices:
            if not leases.reserve(choice.address, owner, boot):
                take_back()
                return choice
            reserved.append(choice.address)
            leases.remember(choice.index, choice.address)
    except BaseException:
        take_back()
        raise
    return None


def _refused(refusal: Refusal, leases: Store, sets: Sequence[RangeSet]) -> CNIError:
    if refusal.why is Why.UNPLACED:
        return CNIError(
            f"failed to allocate all requested IPs: {' '.join(map(str, refusal.addresses))}",
            f"the range sets are {'; '.join(map(str, sets))}, and each gives one address",
        )
    pool = sets[refusal.index]
    where = f"failed to allocate for range {refusal.index}: "
    if refusal.why is Why.EXHAUSTED:
        return CNIError(f"{where}no IP addresses available in range set: {pool}", ENLARGE)
    (address,) = refusal.addresses
    if refusal.why is Why.GATEWAY:
        return CNIError(f"{where}requested ip {address} is subnet's gateway", "request another address")
    holder = leases.lease(address)
    return CNIError(
        f"{where}requested IP address {address} is not available in range set {pool}",
        f"it is leased to {holder}" if holder else "its place in the store is taken by a file that is not a lease",
    )
