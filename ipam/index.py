"""What was read of one folder of leases once, and is kept true by a watch on it, so that nothing is read twice.

A *watch* (``ipam.watch``) names every file that anybody has touched since; before anything is said these are looked at again.
What the process itself writes is no exception, so there is nothing to keep in step, and each call proves that the watch works.
Without it nothing is known, and the folder is read anew: when events were lost, when the folder was removed, moved or replaced,
when too much has changed, when the disk contradicts.

Only who holds the folder's lock notes what touched files hold now: a file that is being removed can be opened for a moment
after its event (Linux 5.3 to 5.16). Readers look at these files for themselves. ``ipam.indexed`` has a store on top of this.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

import msgspec

from ipam.folder import LOCK
from ipam.known import Known
from ipam.leases import BLANK, LONGEST
from ipam.store import ADDRESS_CHARACTERS, LAST_RESERVED
from ipam.watch import Lost, Watch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ipam.folder import Folder
    from ipam.ranges import RangeSet

# Above this many touched files reading all is hardly more work, and waiting for them is no good either.
SUSPECTS = 4096

# How many files are read before they are noted: it bounds what a reading of the whole folder needs for a moment.
PORTION = 1024


class Look(msgspec.Struct):
    """What some names stand for at this moment: contents without blanks around them, nothing left for what a crash left empty;
    why a file cannot be read; which of the names that are no addresses exist.
    """

    contents: dict[str, bytes] = {}
    failed: dict[str, OSError] = {}
    others: set[str] = set()

    @property
    def taken(self) -> frozenset[str]:
        """The addresses that are not free."""
        return frozenset(name for name, content in self.contents.items() if content) | self.failed.keys()


class Index:
    """One folder. ``guard`` is held by whoever uses anything else of it; ``identity`` is that of the folder it is about."""

    def __init__(self, identity: tuple[int, int], sets: Sequence[RangeSet] = ()) -> None:
        """``sets`` are what its addresses were last leased from, for who counts them; ``barren`` is ``Store.barren``'s."""
        self.guard = Lock()
        self.identity = identity
        self.known = Known()
        self.others: set[str] = set()
        self.suspects: set[str] = set()
        self.sets = sets
        self.watchable = True
        self._watch: Watch | None = None
        self.barren: set[tuple[str, RangeSet]] = set()
        self._own: set[str] = set()

    def look(self, folder: Folder) -> Look | None:
        """Bring it up to date; None when it cannot be. What the touched names stand for now is noted here if we hold the lock,
        and is for the caller to heed if not. OSError when the folder cannot be listed.
        """
        self._hear()
        if self._watch is None and not self._read(folder):
            return None
        seen = _look_at(folder, self.suspects)
        if folder.locked:
            self._note(self.known, self.others, self.suspects, seen)
            self._own = set()
            self.suspects = set(seen.failed)  # nothing tells when a lack of descriptors or of memory has passed
        return seen

    def lose(self) -> None:
        """Nothing is known any more."""
        self._watch = None
        self.known, self.others, self.suspects, self._own, self.barren = Known(), set(), set(), set(), set()

    def wrote(self, name: str) -> None:
        """We have made or removed a lease ourselves: a watch that works tells so, too."""
        with self.guard:
            self._own.add(name)

    def explains(self, name: str) -> bool:
        """Whether it has heard by now that a name was touched."""
        self._hear()
        return self._watch is None or name in self.suspects

    def _hear(self) -> None:
        """Take from the watch what was touched."""
        try:
            if self._watch is not None:
                names = {name for name, moved in self._watch.events() if _matters(name, moved)}
                self.suspects |= names
                if any(not name.strip(ADDRESS_CHARACTERS) for name in names - self._own):  # our own are of this boot
                    self.barren = set()
                if not self._own <= self.suspects:
                    raise Lost("silent")
                if len(self.suspects) > SUSPECTS:
                    raise Lost("crowd")
        except Lost:
            self.lose()
        except BaseException:
            self.lose()  # its events may be gone
            raise

    def _read(self, folder: Folder) -> bool:
        """Read all, under watch from before the first look; False when the folder cannot be watched."""
        try:
            watch = Watch(folder.descriptor)
        except OSError:
            self.watchable = False
            return False
        self.watchable = True
        known, others, failed = Known(), set[str](), set[str]()
        names = folder.names()
        for start in range(0, len(names), PORTION):
            portion = {name for name in names[start : start + PORTION] if _matters(name, True)}
            seen = _look_at(folder, portion)
            self._note(known, others, portion, seen)
            failed |= seen.failed.keys()
        self._watch, self.known, self.others, self.suspects, self._own = watch, known, others, failed, set()
        return True

    @staticmethod
    def _note(known: Known, others: set[str], names: Iterable[str], seen: Look) -> None:
        for name in names:
            content = seen.contents.get(name)
            if content:
                known.put(name, content)
            elif name in seen.failed:
                known.put(name, None)
            elif name in seen.others:
                others.add(name)
            else:
                known.drop(name)
                others.discard(name)


def _look_at(folder: Folder, names: Iterable[str]) -> Look:
    addresses = [name for name in names if not name.strip(ADDRESS_CHARACTERS)]
    contents, failed = folder.read_all(addresses, LONGEST) if addresses else ({}, {})
    return Look(
        {name: content.strip(BLANK) for name, content in contents.items()},
        {name: reason for name, reason in failed.items() if not isinstance(reason, FileNotFoundError)},
        {name for name in names if name.strip(ADDRESS_CHARACTERS) and folder.exists(name)},
    )


def _matters(name: str, moved: bool) -> bool:
    """Whether an event may change what is known: of names that are no addresses only whether they are there is."""
    if not name.strip(ADDRESS_CHARACTERS):
        return True
    return moved and name != LOCK and not name.startswith(LAST_RESERVED)
