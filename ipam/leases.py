"""What a lease is and what its file says: the reference's format, in both directions. Pure; ``ipam.store`` has the files.

A lease file is named after its address and holds ``<container id> CR LF <ifname>`` without an end of line. Very old versions
wrote the container id alone; such a lease is of every interface of that container.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from cni.spec.addresses import Ip, parse_ip
from cni.spec.conf import check_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.spec.owner import Owner

SEPARATOR = "\r\n"

# The kernel takes any bytes in an interface's name, and environment variables bring them here in this form.
CODEC = ("utf-8", "surrogateescape")

# No lease is as long as this (container ids have 64 characters), so reading that much reads all of one.
LONGEST = 2048

# A crash of the reference between creating a file and writing it leaves nothing in it, a power failure zeros.
BLANK = b" \t\r\n\0"


class Lease(msgspec.Struct, frozen=True):
    """An address and who has it; ``ifname`` is empty for a lease of the oldest format."""

    address: Ip
    container_id: str
    ifname: str

    def __str__(self) -> str:
        ifname = self.ifname.encode("utf-8", "backslashreplace").decode()
        return f"container {self.container_id}" + (f", interface {ifname}" if ifname else "")

    def of(self, owner: Owner) -> bool:
        """Whether it is the owner's."""
        return self.container_id == owner.container_id.strip() and self.ifname in ("", owner.ifname)


def content_of(owner: Owner) -> bytes:
    """The bytes of a lease file."""
    return f"{owner.container_id.strip()}{SEPARATOR}{owner.ifname}".encode(*CODEC)


def legacy_content_of(owner: Owner) -> bytes:
    """The bytes that the oldest versions wrote."""
    return owner.container_id.strip().encode(*CODEC)


def read_address(name: str) -> Ip | None:
    """The address a file is named after; None unless the name is its canonical text."""
    try:
        address = parse_ip(name)
    except ValueError:
        return None
    return address if str(address) == name else None


def read_lease(name: str, content: bytes) -> Lease | None:
    """A file as a lease; None when its name is no address or its content cannot be an owner.

    So an administrator can keep an address out of use with a file that says why, in words: it is nobody's lease, counts as
    taken and is never removed. (An empty file does not do: it is what a crash leaves.)
    """
    address = read_address(name)
    container_id, _, ifname = content.strip(BLANK).decode(*CODEC).partition(SEPARATOR)
    if address is None or len(content) >= LONGEST or not check_name(container_id.strip()):
        return None
    return Lease(address, container_id.strip(), ifname.strip())


def mine(leases: Iterable[Lease]) -> list[Lease]:
    """Of all leases that may be an owner's those that DEL releases: the exact ones, else those of the oldest format."""
    found = list(leases)
    return [lease for lease in found if lease.ifname] or found
