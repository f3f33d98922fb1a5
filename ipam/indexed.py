"""The leases of folders in memory, so that in a long-lived process a call costs the same with 60,000 of them as with two.

Nothing here is the truth: that is the folder, which processes per call, the reference and administrators change at any time.
What is known (``ipam.index``) finds, the disk decides: leases of an owner are read before they are told, and an address is
taken by making its file. Where a folder cannot be watched each call reads it as a process per call does.

``keep`` switches it on; from then on ``store.for_writing`` and ``store.for_reading`` give stores that use an index. They may be
used from several threads, each store by one.
"""

from __future__ import annotations

import os
from threading import Lock
from typing import TYPE_CHECKING

import msgspec

from ipam import store
from ipam.folder import Folder
from ipam.index import Index, Look
from ipam.known import Known, Taken
from ipam.leases import BLANK, LONGEST, content_of, legacy_content_of, read_lease
from ipam.ranges import RangeSet
from ipam.store import DiskStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence, Set
    from types import TracebackType

    from cni.spec.addresses import Ip
    from cni.spec.owner import Owner
    from ipam.leases import Lease

# Each has an inotify instance of its own, of which a user has 128 by default, and some ten megabytes with 60,000 leases. A node
# has a few networks; of more than this those that were not used for the longest time are forgotten.
FOLDERS = 16


class View(msgspec.Struct):
    """What a store says until it writes itself: what is known, and better, what the touched names stand for."""

    known: Known
    touched: frozenset[str]
    seen: Look
    barren: set[tuple[str, RangeSet]]

    @property
    def taken(self) -> Taken:
        """The addresses that are not free."""
        taken = self.seen.taken if self.touched else frozenset()
        return Taken(self.known, taken, self.touched - taken)

    def with_content(self, *contents: bytes) -> list[str]:
        """The names that may have one of these contents."""
        known = [name for content in contents for name in self.known.with_content(content) if name not in self.touched]
        return known + [name for name in self.touched if self.seen.contents.get(name) in contents]


class IndexedStore(DiskStore):
    """A store whose ``taken`` and ``held_by`` read what was touched and nothing else. All the rest is the disk's own affair."""

    def __init__(self, folder: Folder, notes: list[str]) -> None:
        super().__init__(folder, notes)
        self._index: Index | None = None
        self._view: View | None = None
        self._told = self._looked_again = False
        self._noted: set[tuple[str, str]] = set()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._index = self._view = None
        super().__exit__(kind, value, trace)

    def taken(self) -> Set[str]:
        """See Store."""
        view = self._look()
        return super().taken() if view is None else view.taken

    def held_by(self, owner: Owner) -> list[Lease]:
        """See Store. Reads the owner's files."""
        view = self._look()
        if view is None:
            return super().held_by(owner)
        wanted = (content_of(owner), legacy_content_of(owner))
        names = view.with_content(*wanted)
        contents, failed = self._folder.read_all(names, LONGEST)
        self._heed(view.seen.failed | failed)
        found = []
        for name in names:
            content = contents.get(name, b"").strip(BLANK)
            if content not in wanted:
                if self._contradicted(name):
                    return super().held_by(owner)
            elif lease := read_lease(name, content):
                found.append(lease)
        return found

    def reserve(self, address: Ip, owner: Owner, boot: str = "") -> bool:
        """See Store."""
        return self._wrote(address, super().reserve(address, owner, boot))

    def release(self, address: Ip) -> bool:
        """See Store."""
        return self._wrote(address, super().release(address))

    def barren(self) -> set[tuple[str, RangeSet]]:
        """See Store. The index drops it whenever anybody else touches a lease."""
        view = self._look()
        return super().barren() if view is None else view.barren

    def look_again(self, address: Ip) -> bool:
        """See Store."""
        if self._index is None or self._looked_again:
            return False
        self._looked_again = True
        self._contradicted(str(address))
        return True

    def serves(self, sets: Sequence[RangeSet]) -> None:
        """See Store. They are what ``census`` counts the addresses of."""
        self._index = self._index or _index_of(self._folder)
        if self._index is not None:
            self._index.sets = sets

    def _look(self) -> View | None:
        """What is known now; None where it takes a pass over the folder to know."""
        if self._view is not None:
            return self._view
        if self._index is None:
            self._index = _index_of(self._folder)
        if self._index is None:
            return None
        with self._index.guard:
            try:
                seen = self._index.look(self._folder)
            except OSError as error:
                raise self._failed("list the lease folder", "", error) from error
            if seen is None:
                self._index = None
                return None
            touched = frozenset() if self._folder.locked else frozenset(self._index.suspects)
            self._view = View(self._index.known, touched, seen, self._index.barren)
            others = (self._index.others - touched) | seen.others if not self._told else ()
        self._tell(others, seen.failed)
        return self._view

    def _note(self, name: str, what: str) -> None:
        if (name, what) not in self._noted:  # by what is known, or by a pass over the folder for what is not
            self._noted.add((name, what))
            super()._note(name, what)

    def _tell(self, others: Iterable[str], failed: dict[str, OSError]) -> None:
        """Note what a pass over the folder would note, once."""
        if self._told:
            return
        self._told = True
        for name in others:
            self._is_address(name)
        for name, reason in failed.items():
            self._note_unreadable(name, reason)

    def _wrote(self, address: Ip, done: bool) -> bool:
        self._view = None
        if done and self._index is not None:
            self._index.wrote(str(address))
        return done

    def _contradicted(self, name: str) -> bool:
        """Whether the disk says something else of a name, and no event told so: then the index is worth nothing."""
        self._view, index = None, self._index
        if index is None:
            return True
        with index.guard:
            explained = index.explains(name)
            if not explained:
                index.lose()
        return not explained


def keep() -> None:
    """Have every store that is opened from now on use an index."""
    store.opened = IndexedStore


def forget() -> None:
    """Forget all of it, and open stores without."""
    store.opened = DiskStore
    with _GUARD:
        _INDEXES.clear()


def census() -> list[tuple[str, int, int]]:
    """The folders that have an index: path, how many addresses are taken, and how many the range sets have that ADD or STATUS
    last came with (0 if neither came). A folder that is gone is forgotten.
    """
    found = []
    with _GUARD:
        indexes = list(_INDEXES.items())
    for path, index in indexes:
        if index.watchable:
            with IndexedStore(Folder(path, locked=False, create=False), []) as leases:
                view = leases._look()
            if view is not None:
                found.append((path, len(view.taken), sum(pool.size for pool in index.sets)))
    return found


_GUARD = Lock()
_INDEXES: dict[str, Index] = {}  # the one that was used last comes last


def _index_of(folder: Folder) -> Index | None:
    """The index of an open folder, which may know nothing yet; None for a folder that is not there."""
    identity = folder.identity
    with _GUARD:
        index = former = _INDEXES.pop(folder.path, None)
        if index is None or index.identity != identity:
            index = None if identity is None else Index(identity, () if former is None else former.sets)
        if index is None:
            return None
        _INDEXES[folder.path] = index
        others = [] if former is not None else list(_INDEXES)[:-1]
        while len(_INDEXES) > FOLDERS:
            del _INDEXES[next(iter(_INDEXES))]
    for path in others:  # a new one comes: seldom, and the time to look after those whose network is gone
        if not os.path.isdir(path):
            with _GUARD:
                _INDEXES.pop(path, None)
    return index
