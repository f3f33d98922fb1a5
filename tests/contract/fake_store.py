"""A store of leases in memory: the whole of ``ipam.store.Store``, for tests of what is decided on top of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.spec.addresses import Ip, parse_ip
from cni.spec.errors import CNIError
from ipam.leases import Lease

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cni.spec.owner import Owner
    from ipam.ranges import RangeSet


class FakeStore:
    """Leases by address. ``marks`` are those of their boots; ``fail`` names a method and the call of it, from 0, that fails."""

    def __init__(self) -> None:
        self.kept: dict[Ip, Lease | None] = {}
        self.marks: dict[Ip, str] = {}
        self.last: dict[int, Ip] = {}
        self.empty: set[Ip] = set()
        self.fail: dict[str, int] = {}
        self.intruder: Ip | None = None

    # -- what tests set up and look at ---------------------------------------------------------------------------

    def hold(self, address: str, container_id: str = "other", ifname: str = "eth0", boot: str = "") -> None:
        """A lease that is there before the test begins."""
        self.kept[parse_ip(address)] = Lease(parse_ip(address), container_id, ifname)
        self.marks[parse_ip(address)] = boot

    def obstruct(self, address: str) -> None:
        """Something that is not a lease in an address's place."""
        self.kept[parse_ip(address)] = None

    def dump(self) -> dict[str, str]:
        """Who holds what."""
        return {str(address): str(lease) for address, lease in self.kept.items()}

    # -- Store ------------------------------------------------------------------------------------------------------

    def taken(self) -> set[str]:
        return {str(address) for address in self.kept}

    def held_by(self, owner: Owner) -> list[Lease]:
        return [lease for lease in self.leases() if lease.of(owner)]

    def lease(self, address: Ip) -> Lease | None:
        return self.kept.get(address)

    def leases(self) -> list[Lease]:
        return [lease for lease in self.kept.values() if lease]

    def boot_of(self, address: Ip) -> str:
        return self.marks.get(address, "")

    def reserve(self, address: Ip, owner: Owner, boot: str = "") -> bool:
        self._fail("reserve")
        if address in self.kept or address == self.intruder:
            return False
        self.empty.discard(address)
        self.kept[address] = Lease(address, owner.container_id, owner.ifname)
        self.marks[address] = boot
        return True

    def release(self, address: Ip) -> bool:
        self._fail("release")
        self.marks.pop(address, None)
        existed = address in self.kept or address in self.empty
        self.kept.pop(address, None)
        self.empty.discard(address)
        return existed

    def blank(self) -> list[Ip]:
        return list(self.empty)

    def last_reserved(self, index: int) -> Ip | None:
        return self.last.get(index)

    def remember(self, index: int, address: Ip) -> None:
        self._fail("remember")
        self.last[index] = address

    def barren(self) -> set[tuple[str, RangeSet]]:
        return set()

    def look_again(self, address: Ip) -> bool:
        return False

    def serves(self, sets: Sequence[RangeSet]) -> None:
        pass

    def _fail(self, method: str) -> None:
        if method in self.fail:
            self.fail[method] -= 1
            if self.fail[method] < 0:
                del self.fail[method]
                raise CNIError(f"cannot {method}: the test says so")
