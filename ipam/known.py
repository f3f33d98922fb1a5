"""What is known of a folder's leases, in about 180 bytes each, so that nothing asked of it takes longer the more there are.

Pure: ``ipam.index`` reads the folder and says here what it saw. Names are as in the folder, owners are kept as the hash of a
lease's content: who asks for an owner's leases gets the names that *may* be his, nearly always exactly these, and reads them.
Beside the names each address is a bit, by which ``Taken`` finds the next free address without a look at each that is taken:
60,000 in a row are one step.
"""

from __future__ import annotations

from collections.abc import Set
from heapq import merge
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import TYPE_CHECKING

from ipam.leases import read_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    # Nearly always one name. A tuple is the smallest thing that holds two; a set does not grow slower with each.
    Names = str | tuple[str, ...] | set[str]

FEW = 8

# Bits in a block. The more, the wider a leap; the fewer, the less is wasted where addresses lie far apart.
BLOCK_BITS = 8
BLOCK = 1 << BLOCK_BITS
FULL = (1 << BLOCK) - 1


class Numbers:
    """A set of numbers: blocks of bits, and above them blocks whose bits say which of these are full.

    One thread at a time may change it. Others may look meanwhile: they find what is not there as long as they look, and each
    block as it was at some moment of that.
    """

    def __init__(self) -> None:
        self.blocks: dict[int, int] = {}
        self.full: dict[int, int] = {}

    def change(self, number: int, there: bool) -> None:
        """Add a number, or remove it."""
        index, bit = number >> BLOCK_BITS, 1 << (number & BLOCK - 1)
        before = self.blocks.get(index, 0)
        after = before | bit if there else before & ~bit
        if before == after:
            return
        if before == FULL:  # first, so that nobody is led past what is free
            self._turn(index)
        _set(self.blocks, index, after)
        if after == FULL:
            self._turn(index)

    def others(self, low: int, high: int) -> Iterator[int]:
        """The numbers from ``low`` to ``high`` that are not in the set."""
        while low <= high:
            index = low >> BLOCK_BITS
            bits = self.blocks.get(index, 0)
            if bits == FULL:
                full = _ones(self.full.get(index >> BLOCK_BITS, 0) >> (index & BLOCK - 1))
                low = index + max(full, 1) << BLOCK_BITS  # 0 where another thread changes this very block
                continue
            offset = low & BLOCK - 1
            leap = _ones(bits >> offset)
            low += leap
            if offset + leap < BLOCK and low <= high:
                yield low
                low += 1

    def _turn(self, index: int) -> None:
        above, bit = index >> BLOCK_BITS, 1 << (index & BLOCK - 1)
        _set(self.full, above, self.full.get(above, 0) ^ bit)


def _set(blocks: dict[int, int], index: int, bits: int) -> None:
    if bits:
        blocks[index] = bits
    else:
        blocks.pop(index, None)


def _ones(bits: int) -> int:
    """How many ones a number ends with."""
    return (~bits & (bits + 1)).bit_length() - 1


class Known:
    """Names, each with the hash of its content, or None for what cannot be read and is taken all the same."""

    def __init__(self) -> None:
        self.names: dict[str, int | None] = {}
        self.numbers = {4: Numbers(), 6: Numbers()}
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
            self.numbers[version].change(number, taken)


class Taken(Set[str]):
    """The addresses that are taken, as text; they follow what becomes known. ``more`` and ``less`` say better of some names."""

    def __init__(self, known: Known, more: frozenset[str] = frozenset(), less: frozenset[str] = frozenset()) -> None:
        self._known, self._more, self._less = known, more, less

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
        """The addresses from ``low`` to ``high``, as numbers in their order, among which are all that are free; few others."""
        freed = (as_number(name) for name in self._less if name in self._known.names)
        within = sorted(number for kind, number in freed if kind == version and low <= number <= high)
        return merge(self._known.numbers[version].others(low, high), within)


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
