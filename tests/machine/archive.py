"""The initramfs as bytes: the "newc" cpio format that the kernel unpacks at boot.

What lives here: the format, and a tree of files that is gathered before it is written. What must not: any
knowledge of what belongs into the machine. Written here and not with the cpio tool because that one can only
archive what lies on a disk: it would need a copy of every file first, and a way to make up the few that exist
nowhere.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator


class Entry(msgspec.Struct, frozen=True):
    """A file, folder, link or device: mode with its type bits, content, modification time, device number."""

    mode: int
    content: bytes | Path = b""
    mtime: int = 0
    device: tuple[int, int] = (0, 0)


class Tree:
    """The files of the machine by their path (no leading slash). Folders appear by themselves."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def __contains__(self, path: str) -> bool:
        return path.lstrip("/") in self.entries

    def folder(self, path: str, mode: int = 0o755) -> None:
        """An empty folder."""
        self._put(path, Entry(stat.S_IFDIR | mode))

    def text(self, path: str, content: str, mode: int = 0o644) -> None:
        """A file with this content."""
        self._put(path, Entry(stat.S_IFREG | mode, content.encode()))

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._put(path, Entry(stat.S_IFLNK | 0o777, target.encode()))

    def device(self, path: str, major: int, minor: int) -> None:
        """A character device."""
        self._put(path, Entry(stat.S_IFCHR | 0o600, device=(major, minor)))

    def file(self, path: str, source: Path) -> None:
        """A copy of a regular file with its mode and time: they say whether compiled Python is stale."""
        status = source.stat()
        mode = stat.S_IFREG | stat.S_IMODE(status.st_mode)
        self._put(path, Entry(mode, source, int(status.st_mtime)))

    def copy(self, path: str, source: Path, skip: frozenset[str] = frozenset()) -> None:
        """A copy of a folder, without the files and folders whose name is in `skip`; links stay links."""
        for folder, folders, files in os.walk(source):
            folders[:] = sorted(set(folders) - skip)
            for name in sorted(set(files) - skip):
                found = Path(folder, name)
                inside = str(PurePosixPath(path, found.relative_to(source)))
                if found.is_symlink():
                    self.link(inside, os.readlink(found))
                elif found.is_file():
                    self.file(inside, found)

    def _put(self, path: str, entry: Entry) -> None:
        path = path.strip("/")
        for parent in PurePosixPath(path).parents:
            if str(parent) != "." and str(parent) not in self.entries:
                self.entries[str(parent)] = Entry(stat.S_IFDIR | 0o755)
        self.entries[path] = entry

    def write(self, out: BinaryIO) -> None:
        """The archive, parents before their children, as the kernel needs them."""
        for number, path in enumerate(sorted(self.entries, key=lambda path: path.split("/")), start=1):
            for part in _record(number, path, self.entries[path]):
                out.write(part)
        for part in _record(0, "TRAILER!!!", Entry(0)):
            out.write(part)


def _record(number: int, path: str, entry: Entry) -> Iterator[bytes]:
    """Header, name and content of one entry, each padded to four bytes."""
    content = entry.content.read_bytes() if isinstance(entry.content, Path) else entry.content
    name = path.encode() + b"\0"
    fields = (number, entry.mode, 0, 0, 1, entry.mtime, len(content), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    yield header + name + b"\0" * (-(len(header) + len(name)) % 4)
    yield content + b"\0" * (-len(content) % 4)
