"""What is known of a folder's leases, in about 200 bytes each, so that nothing asked of it takes longer the more there are.

Pure: ``ipam.index`` reads the folder and says here what it saw. Names are as in the folder, owners are kept as the hash of a
lease's content: who asks for an owner's leases gets the names that *may* be his, nearly always exactly these, and reads them.
Beside the names each address is a bit, by which ``Taken`` finds the next free address without a look at each that is taken.
"""

from __future__ import annotations

from collections.abc import Set
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import TYPE_CHECKING

from ipam.leases import read_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    # Nearly always one name. A tuple is the smallest thing that holds two; a set does not grow slower with each.
    Names = str | tuple[str, ...] | set[str]

FEW = 8

# Bits in a block. A large block leaps far and a small one wastes little where addresses lie far apart.
BLOCK_BITS = 10
BLOCK = 1 << BLOCK_BITS

Blocks = dict[int, int]


class Known:
    """Names, each with the hash of its content, or None for what cannot be read and is taken all the same."""

    def __init__(self) -> None:
        self.names: dict[str, int | None] = {}
        self.blocks: dict[int, Blocks] = {4: {}, 6: {}}
        self._owners: dict[int, Names] = {}

    def put(self, name: str, content: bytes | None) -> None:
        """A name has this content."""
        owner = None if content is None else hash(content)
        former = self.names.get(name)
        if former is not None and former == owner:
            return
        if name not in self.names:
            self._mark(name, True)
        elif former is not None:
            self._disown(former, name)
        self.names[name] = owner
        if owner is not None:
            self._own(owner, name)

    def drop(self, name: str) -> None:
        """A name is free, or nothing has it any more."""
        if name not in self.names:
            return
        former = self.names.pop(name)
        self._mark(name, False)
        if former is not None:
            self._disown(former, name)

    def with_content(self, content: bytes) -> tuple[str, ...]:
        """The names that may have this content, all that have it among them."""
        names = self._owners.get(hash(content), ())
        return (names,) if isinstance(names, str) else tuple(names)

    def _own(self, owner: int, name: str) -> None:
        there = self._owners.get(owner)
        if there is None:
            self._owners[owner] = name
        elif isinstance(there, set):
            there.add(name)
        else:
            several = (there, name) if isinstance(there, str) else (*there, name)
            self._owners[owner] = several if len(several) <= FEW else set(several)

    def _disown(self, owner: int, name: str) -> None:
        there = self._owners[owner]
        if isinstance(there, set) and len(there) > 1:
            there.discard(name)
            return
        rest = () if isinstance(there, str) else tuple(other for other in there if other != name)
        if rest:
            self._owners[owner] = rest[0] if len(rest) == 1 else rest
        else:
            del self._owners[owner]

    def _mark(self, name: str, taken: bool) -> None:
        version, number = as_number(name)
        if version:
            blocks = self.blocks[version]
            change(blocks, number, taken)
            if not blocks[number >> BLOCK_BITS]:
                del blocks[number >> BLOCK_BITS]


class Taken(Set[str]):
    """The addresses that are taken, as text; they follow what becomes known. ``more`` and ``less`` say better of some names."""

    def __init__(self, known: Known, more: frozenset[str] = frozenset(), less: frozenset[str] = frozenset()) -> None:
        self._known, self._more, self._less = known, more, less
        self._changed: dict[int, Blocks] = {4: {}, 6: {}}
        for names, taken in ((less, False), (more, True)):
            for name in names:
                version, number = as_number(name)
                if version:
                    block = number >> BLOCK_BITS
                    self._changed[version].setdefault(block, known.blocks[version].get(block, 0))
                    change(self._changed[version], number, taken)

    def __contains__(self, name: object) -> bool:
        return name in self._more or (name in self._known.names and name not in self._less)

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in list(self._known.names) if name not in self._less and name not in self._more)
        yield from self._more

    def __len__(self) -> int:
        names = self._known.names
        return len(names) + sum(name not in names for name in self._more) - sum(name in names for name in self._less)

    def __sub__(self, other: Set[object]) -> Taken:
        less = frozenset(name for name in other if isinstance(name, str))
        return Taken(self._known, self._more - less, self._less | less)

    def free(self, version: int, low: int, high: int) -> Iterator[int]:
        """The free addresses from ``low`` to ``high``, as numbers, each stretch of taken ones in a few steps."""
        blocks, changed = self._known.blocks[version], self._changed[version]
        while low <= high:
            block = low >> BLOCK_BITS
            bits = changed.get(block) if block in changed else blocks.get(block)
            if bits:
                offset = low & BLOCK - 1
                bits >>= offset
                leap = (~bits & (bits + 1)).bit_length() - 1  # as many ones as it ends with
                low += leap
                if offset + leap >= BLOCK:
                    continue
                if low > high:
                    return
            yield low
            low += 1


def change(blocks: Blocks, number: int, taken: bool) -> None:
    """Set or clear the bit of an address."""
    block, bit = number >> BLOCK_BITS, 1 << (number & BLOCK - 1)
    bits = blocks.get(block, 0)
    blocks[block] = bits | bit if taken else bits & ~bit


def as_number(name: str) -> tuple[int, int]:
    """The version and number of the address whose canonical text a name is; version 0 if it is none.

    As ``leases.read_address`` and a tenth of its time: what the C library writes again as it was is canonical there too, unless
    it has dots and colons.
    """
    family, version = (AF_INET6, 6) if ":" in name else (AF_INET, 4)
    try:
        packed = inet_pton(family, name)
    except (OSError, ValueError):
        return 0, 0
    if (version == 6 and "." in name) or inet_ntop(family, packed) != name:
        address = read_address(name)
        return (address.version, int(address)) if address else (0, 0)
    return version, int.from_bytes(packed)
