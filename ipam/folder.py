"""A locked folder whose files appear whole or not at all. It knows nothing of leases; ``ipam.store`` gives the files a meaning.

Every method may raise OSError. The files are small; nothing is synced to the disk, because after a power failure no lease is
anybody's.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from ipam.lock import PATIENCE_S, lock

if TYPE_CHECKING:
    from types import TracebackType

LOCK = "lock"

# Where a file needs a name before it has its own it gets this one. Only the holder of the lock writes, so one name is enough,
# and a file that has it when the lock is taken was left behind by a process that was killed.
UNFINISHED = ".podwire.unfinished"

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FOLDER_MODE = 0o755
FILE_MODE = 0o600

# Not through links, and not waiting for a writer where somebody put a FIFO.
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
WRITE = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW

# The attributes that may hold a file's mark: one for the machine's root alone, and one for everybody else, such as the root of
# a user namespace, which file systems in memory do not know before Linux 6.6.
MARKS = ("trusted.podwire.boot", "user.podwire.boot")

# How a file system says that it has no unnamed files; ENOENT also comes when /proc, by which they are named, is not there.
NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)

# No signal divides a write as short as this, and no page or disk sector ends within it.
IN_ONE_STEP = 256

# How often a folder that goes away while it is being opened is looked for again.
TRIES = 5


class Folder:
    """An open folder, in a ``with`` block. Without ``create`` it may be missing: then it is empty.

    ``locked``: hold the lock meanwhile; ``lock.Busy`` is raised when it is not to be had within ``patience_s``.
    """

    def __init__(self, path: str, *, locked: bool, create: bool, patience_s: float = PATIENCE_S) -> None:
        self.path = path
        self.locked, self._create, self._patience_s = locked, create, patience_s
        self._folder = self._lock = -1
        self._identity: tuple[int, int] | None = None

    def __enter__(self) -> Folder:
        for _ in range(TRIES):
            try:
                if self._open():
                    return self
            except BaseException:
                self._close()
                raise
            self._close()
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    @property
    def descriptor(self) -> int:
        """The open folder itself; -1 when it is missing."""
        return self._folder

    @property
    def identity(self) -> tuple[int, int] | None:
        """What makes it another folder than one that was at the same path before; None when it is missing."""
        if self._folder == -1:
            return None
        if self._identity is None:
            self._identity = _identity(os.fstat(self._folder))
        return self._identity

    def exists(self, name: str) -> bool:
        """Whether there is anything of this name."""
        try:
            os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except OSError as error:
            return not isinstance(error, FileNotFoundError)
        return True

    def names(self) -> list[str]:
        """The names of everything in the folder, in no order."""
        return [] if self._folder == -1 else os.listdir(self._folder)

    def read(self, name: str, size: int) -> bytes:
        """At most ``size`` bytes of a regular file."""
        if self._folder == -1:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        contents, failed = self.read_all([name], size)
        for error in failed.values():
            raise error
        return contents[name]

    def read_all(self, names: list[str], size: int) -> tuple[dict[str, bytes], dict[str, OSError]]:
        """The same for many files, as fast as it goes: this loop is what an ADD or DEL costs when there are many leases."""
        contents: dict[str, bytes] = {}
        failed: dict[str, OSError] = {}
        open_, read, close, folder = os.open, os.read, os.close, self._folder
        for name in names:
            descriptor = -1
            try:
                descriptor = open_(name, READ, dir_fd=folder)
                contents[name] = read(descriptor, size) or _nothing(descriptor)
            except OSError as error:
                failed[name] = error
            finally:
                if descriptor != -1:
                    close(descriptor)
        return contents, failed

    def create(self, name: str, content: bytes, mark: str = "") -> None:
        """Make a file that is whole from the first moment; FileExistsError when there is something of that name.

        ``mark`` is attached to it, unless the file system cannot do that. It is written without a name and then linked, so a
        process killed at any instant leaves nothing; where the file system cannot do that, it is written under UNFINISHED.
        """
        try:
            self._create_unnamed(name, content, mark)
        except OSError as error:
            if error.errno not in NO_UNNAMED_FILES:
                raise
            self._write_unfinished(content, mark)
            try:
                os.link(UNFINISHED, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            finally:
                self.remove(UNFINISHED)

    def replace(self, name: str, content: bytes) -> None:
        """Give a file new content in one step, or make it.

        Content as long as the old is written over it by one system call, which is one step too; taking the place of another
        file costs ten times that on ext4, which then writes to the disk at once (its mount option auto_da_alloc).
        """
        if self._overwrite(name, content):
            return
        self._write_unfinished(content, "")
        try:
            os.rename(UNFINISHED, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except BaseException:
            self.remove(UNFINISHED)
            raise

    def remove(self, name: str) -> bool:
        """Remove a file; False when there is none."""
        if self._folder == -1:
            return False
        try:
            os.unlink(name, dir_fd=self._folder)
        except FileNotFoundError:
            return False
        return True

    def mark(self, name: str) -> str:
        """The mark that a file was made with; empty when it has none."""
        descriptor = os.open(name, READ, dir_fd=self._folder)
        try:
            for attribute in MARKS:
                try:
                    return os.getxattr(descriptor, attribute).decode("ascii", "replace")
                except OSError:
                    continue
            return ""
        finally:
            os.close(descriptor)

    def _open(self) -> bool:
        """False when it is to be tried again: the folder was just made, or was taken away or replaced meanwhile, as by an
        administrator who wipes it.
        """
        try:
            self._folder = os.open(self.path, OPEN_FOLDER)
        except FileNotFoundError:
            if self._create:
                _make(self.path)
            return not self._create
        if not self.locked:
            return True
        try:
            self._lock = lock(LOCK, self._folder, self._patience_s)
            named = os.stat(LOCK, dir_fd=self._folder)
            return os.path.samestat(named, os.fstat(self._lock)) and _identity(os.stat(self.path)) == self.identity
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        for descriptor in (self._lock, self._folder):
            if descriptor != -1:
                os.close(descriptor)
        self._folder = self._lock = -1
        self._identity = None

    def _create_unnamed(self, name: str, content: bytes, mark: str) -> None:
        descriptor = os.open(".", os.O_TMPFILE | WRITE, FILE_MODE, dir_fd=self._folder)
        try:
            _write(descriptor, content, mark)
            os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=self._folder)
        finally:
            os.close(descriptor)

    def _overwrite(self, name: str, content: bytes) -> bool:
        """False where that is not one step, or where it would change a file that has another name elsewhere."""
        try:
            descriptor = os.open(name, WRITE | os.O_NONBLOCK, dir_fd=self._folder)
        except OSError:
            return False
        try:
            seen = os.fstat(descriptor)
            fits = stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1 and seen.st_size == len(content) <= IN_ONE_STEP
            return fits and os.write(descriptor, content) == len(content)
        except OSError:
            return False
        finally:
            os.close(descriptor)

    def _write_unfinished(self, content: bytes, mark: str) -> None:
        # Removed first and never truncated: what a killed process left may be a second name of a file that is in use.
        self.remove(UNFINISHED)
        descriptor = os.open(UNFINISHED, os.O_CREAT | os.O_EXCL | WRITE, FILE_MODE, dir_fd=self._folder)
        try:
            _write(descriptor, content, mark)
        except BaseException:
            self.remove(UNFINISHED)
            raise
        finally:
            os.close(descriptor)


def _identity(seen: os.stat_result) -> tuple[int, int]:
    return seen.st_dev, seen.st_ino


def _nothing(descriptor: int) -> bytes:
    """What an empty file reads as; a FIFO or a device reads so too, and is refused."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return b""


def _write(descriptor: int, content: bytes, mark: str) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
    for attribute in MARKS if mark else ():
        try:
            os.setxattr(descriptor, attribute, mark.encode())
            break
        except OSError:
            continue


def _make(path: str) -> None:
    """The folder and those above it, all with FOLDER_MODE; os.makedirs would leave the upper ones to the umask alone."""
    if os.path.isdir(path):
        return
    head = ""
    for part in path.split("/"):
        head += part + "/"
        try:
            if part:
                os.mkdir(head, FOLDER_MODE)
        except FileExistsError:
            pass


def obstacle(path: str) -> str:
    """Why no files can be made in a folder, or in the nearest one above it that is there; empty when they can be."""
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    try:
        room = os.statvfs(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    if not os.path.isdir(path):
        return f"{path} is not a folder"
    if room.f_flag & os.ST_RDONLY:
        return f"{path} is on a read-only file system"
    if not os.access(path, os.W_OK | os.X_OK):
        return f"{path} is not writable"
    if (room.f_blocks and not room.f_bfree) or (room.f_files and not room.f_ffree):
        return f"the file system of {path} is full"
    return ""
