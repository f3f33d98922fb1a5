"""The leases of a network on disk, byte for byte as the reference keeps them; the only code that knows the folder's files.

``<dataDir>/<network>/`` holds a file for each leased address (``ipam.leases`` has its format), ``last_reserved_ip.<index>``
for each range set, and ``lock``. Both kinds of executable may work on one folder at once, because everything is written under
the reference's lock. What is better here: a lease appears whole or not at all (``ipam.folder``), and a file that is empty while
we hold the lock is what a crash left, so its address is free.

Callers open a store with ``for_writing`` or ``for_reading`` in a ``with`` block. They decide, the store does. ``Store`` says
what they may rely on: another implementation (an index in memory, a fake) does the same.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

from cni.spec.errors import InputError, TryAgain
from ipam.folder import LOCK, UNFINISHED, Folder
from ipam.leases import BLANK, LONGEST, Lease, content_of, legacy_content_of, read_address, read_lease
from ipam.lock import PATIENCE_S, Busy

if TYPE_CHECKING:
    from collections.abc import Sequence, Set
    from types import TracebackType
    from typing import Self

    from cni.spec.addresses import Ip
    from cni.spec.owner import Owner
    from ipam.ranges import RangeSet

LAST_RESERVED = "last_reserved_ip."
ADDRESS_CHARACTERS = "0123456789abcdef.:"

# Why a file cannot be read at this moment, which says nothing of the file: it may be anybody's lease. After all else (no
# regular file, another user's, a disk that fails) it will not be read the next time either, and must not stop a network.
FOR_THE_MOMENT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EINTR)


class Store(Protocol):
    """The leases of one network while they are open. Every method may raise CNIError."""

    def taken(self) -> Set[str]:
        """The addresses, as text, in whose place there is anything but an empty file."""

    def held_by(self, owner: Owner) -> list[Lease]:
        """The leases of the owner's interface, and those of the oldest format with its container id. TryAgain when a file
        that may be one of them cannot be read.
        """

    def lease(self, address: Ip) -> Lease | None:
        """The lease of one address. TryAgain when it cannot be read."""

    def leases(self) -> list[Lease]:
        """Every lease, in no order."""

    def boot_of(self, address: Ip) -> str:
        """The mark of the boot that a lease was made in (``ipam.boot``); empty when that is not known."""

    def reserve(self, address: Ip, owner: Owner, boot: str = "") -> bool:
        """Lease an address in this ``boot``; False when it is taken."""

    def release(self, address: Ip) -> bool:
        """Give an address back; False when it was not leased."""

    def blank(self) -> list[Ip]:
        """The addresses whose lease a crash left empty. They are free, and ``release`` removes the file."""

    def last_reserved(self, index: int) -> Ip | None:
        """The address leased last from a range set, for the round robin."""

    def remember(self, index: int, address: Ip) -> None:
        """Set what ``last_reserved`` tells."""

    def barren(self) -> set[tuple[str, RangeSet]]:
        """The range sets, each with the mark of a boot, that hold no lease of an earlier one. Who has asked for all leases of a
        set adds it; nothing is lost but time when it is forgotten.
        """

    def look_again(self, address: Ip) -> bool:
        """An address that was not ``taken`` could not be reserved: whether ``taken`` may say better now, once at most."""

    def serves(self, sets: Sequence[RangeSet]) -> None:
        """Be told what the addresses are leased from; an index keeps it for who counts them."""


class DiskStore:
    """The store in a folder. ``notes`` receives a line for each thing there that is not what it should be."""

    def __init__(self, folder: Folder, notes: list[str]) -> None:
        self._folder = folder
        self._notes = notes
        self._blank: set[str] = set()
        self._seen: dict[str, bytes | None] | None = None
        self._unread: dict[str, OSError] = {}

    def __enter__(self) -> Self:
        try:
            self._folder.__enter__()
        except Busy as error:
            raise TryAgain(
                f"cannot lock {self._folder.path}/{LOCK}: another process has held it for too long",
                "repeat the call; `fuser -v` with this file shows who holds it",
            ) from error
        except OSError as error:
            what, name = ("open", LOCK) if error.filename == LOCK else ("open the lease folder", "")
            raise self._failed(what, name, error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._seen = None
        self._folder.__exit__(kind, value, trace)

    def taken(self) -> Set[str]:
        """See Store."""
        return self._contents().keys()

    def held_by(self, owner: Owner) -> list[Lease]:
        """See Store. One pass over the folder; ``ipam.indexed`` answers this without."""
        exact, legacy = content_of(owner), legacy_content_of(owner)
        found = [(name, seen) for name, seen in self._contents().items() if seen in (exact, legacy)]
        self._heed(self._unread)
        return [lease for name, seen in found if (lease := read_lease(name, seen or b""))]

    def lease(self, address: Ip) -> Lease | None:
        """See Store. Reads one file."""
        try:
            return read_lease(str(address), self._folder.read(str(address), LONGEST))
        except OSError as error:
            self._heed({str(address): error})
            return None

    def leases(self) -> list[Lease]:
        """See Store."""
        found = []
        for name, seen in self._contents().items():
            lease = read_lease(name, seen or b"")
            if lease is not None:
                found.append(lease)
            elif seen is not None:
                self._note(name, "does not say whose lease it is")
        return found

    def boot_of(self, address: Ip) -> str:
        """See Store. Reads one attribute."""
        try:
            return self._folder.mark(str(address))
        except OSError:
            return ""

    def reserve(self, address: Ip, owner: Owner, boot: str = "") -> bool:
        """See Store."""
        name, content = str(address), content_of(owner)
        try:
            if not self._create(name, content, boot):
                return False
        except OSError as error:
            raise self._failed("write the lease", name, error) from error
        if self._seen is not None:
            self._seen[name] = content
        self._blank.discard(name)
        return True

    def release(self, address: Ip) -> bool:
        """See Store."""
        name = str(address)
        try:
            existed = self._folder.remove(name)
        except OSError as error:
            raise self._failed("remove the lease", name, error) from error
        if self._seen is not None:
            self._seen.pop(name, None)
        self._blank.discard(name)
        return existed

    def blank(self) -> list[Ip]:
        """See Store."""
        self._contents()
        return [address for name in self._blank if (address := read_address(name))]

    def last_reserved(self, index: int) -> Ip | None:
        """See Store. A file that makes no sense is as good as none."""
        try:
            return read_address(self._folder.read(f"{LAST_RESERVED}{index}", LONGEST).decode("ascii", "replace").strip())
        except OSError:
            return None

    def remember(self, index: int, address: Ip) -> None:
        """See Store."""
        name = f"{LAST_RESERVED}{index}"
        try:
            self._folder.replace(name, str(address).encode())
        except OSError as error:
            raise self._failed("write", name, error) from error

    def barren(self) -> set[tuple[str, RangeSet]]:
        """See Store. There is no other call to remember it for."""
        return set()

    def look_again(self, address: Ip) -> bool:
        """See Store. This very call has read the folder."""
        return False

    def serves(self, sets: Sequence[RangeSet]) -> None:
        """See Store."""

    def _create(self, name: str, content: bytes, boot: str) -> bool:
        for _ in range(2):
            try:
                self._folder.create(name, content, boot)
                return True
            except FileExistsError:
                if not self._is_blank(name):
                    return False
                self._folder.remove(name)
        return False

    def _is_blank(self, name: str) -> bool:
        try:
            return not self._folder.read(name, LONGEST).strip(BLANK)
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def _contents(self) -> dict[str, bytes | None]:
        """Every name that stands for an address, with what the file says; None for what is no readable file. One pass."""
        if self._seen is not None:
            return self._seen
        try:
            names = self._folder.names()
        except OSError as error:
            raise self._failed("list the lease folder", "", error) from error
        contents, failed = self._folder.read_all([name for name in names if self._is_address(name)], LONGEST)
        self._seen = {name: text for name, content in contents.items() if (text := content.strip(BLANK))}
        self._blank = contents.keys() - self._seen.keys()
        self._unread = {name: reason for name, reason in failed.items() if not isinstance(reason, FileNotFoundError)}
        for name, reason in self._unread.items():
            self._seen[name] = None
            self._note_unreadable(name, reason)
        return self._seen

    def _is_address(self, name: str) -> bool:
        """Whether a name may stand for an address. Of other names the ones that nobody put there on purpose are noted."""
        if not name.strip(ADDRESS_CHARACTERS):
            return True
        if name == UNFINISHED and self._folder.locked:
            try:
                self._folder.remove(name)
            except OSError as error:
                self._note(name, f"was left behind by a killed process, and cannot be removed ({error.strerror})")
        elif name not in (LOCK, UNFINISHED) and not name.startswith(LAST_RESERVED):
            self._note(name, "is not a lease and is ignored")
        return False

    def _heed(self, failed: dict[str, OSError]) -> None:
        """Go no further where a file that could not be read may be the very lease that is looked for."""
        for name, reason in failed.items():
            if reason.errno in FOR_THE_MOMENT:
                raise TryAgain(
                    f"cannot read the lease {self._folder.path}/{name}: {reason.strerror}",
                    "it may be this attachment's: repeat the call",
                )

    def _note_unreadable(self, name: str, reason: OSError) -> None:
        self._note(name, f"cannot be read ({reason.strerror}); its address counts as taken")

    def _note(self, name: str, what: str) -> None:
        self._notes.append(f"{name!r} in {self._folder.path} {what}")

    def _failed(self, attempt: str, name: str, error: OSError) -> InputError:
        path = f"{self._folder.path}/{name}".rstrip("/")
        advice = {
            errno.ENOSPC: "make room on this file system",
            errno.EDQUOT: "the quota of this file system is used up",
            errno.EROFS: "set ipam.dataDir to a folder on a writable file system",
            errno.EISDIR: f"a folder is in its place, or in that of {UNFINISHED} beside it; remove it",
            errno.ENOTDIR: "something on this path is not a folder; move it away or change ipam.dataDir",
        }.get(error.errno or 0, "")
        return InputError(f"cannot {attempt} {path}: {error.strerror}", advice)


# What ``for_writing`` and ``for_reading`` give. ``ipam.indexed`` puts its own kind here, in a process that lives long.
opened = DiskStore


def for_writing(path: str, notes: list[str], *, create: bool, patience_s: float = PATIENCE_S) -> DiskStore:
    """The store of a folder, under its lock. Without ``create`` a missing folder is a store without leases."""
    return opened(Folder(path, locked=True, create=create, patience_s=patience_s), notes)


def for_reading(path: str, notes: list[str]) -> DiskStore:
    """The store of a folder as it is at the moment, without waiting for anybody; nothing is created."""
    return opened(Folder(path, locked=False, create=False), notes)
