"""What happens in a folder, as the kernel tells it: inotify(7). The only code that knows it; ``ipam.index`` concludes.

Why not the folder's time of change: it ticks every few milliseconds only, so that two changes within a tick look like one, our
own writing makes it recent at each call, and it says nothing of a file that is written over in its place. Why it can be relied
on: the kernel queues an event within the system call that makes the change, after the change. So whoever reads the queue knows
of every system call on this folder that has returned by then, in whichever mount namespace it was made; under the folder's
lock that is everything that anybody did who takes the lock. What leaves no event: a file changed through a mapping or through
a hard link in another folder, and changes that another host makes, which is why a file system must be a local one.
"""

from __future__ import annotations

import ctypes
import os
import struct
from errno import EOPNOTSUPP

# <linux/inotify.h>
_MODIFY, _ATTRIB, _FROM, _TO, _CREATE, _DELETE = 0x2, 0x4, 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _UNMOUNT, _OVERFLOW, _IGNORED = 0x400, 0x800, 0x2000, 0x4000, 0x8000
_ONLYDIR, _EXCL_UNLINK = 0x01000000, 0x04000000

_MASK = _MODIFY | _ATTRIB | _FROM | _TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR | _EXCL_UNLINK
_CAME_OR_WENT = _FROM | _TO | _CREATE | _DELETE

# After these the watch has nothing more to say of the folder at this path.
_LAST = {
    _OVERFLOW: "overflow",
    _MOVE_SELF: "moved",
    _DELETE_SELF | _IGNORED: "removed",
    _UNMOUNT: "unmounted",
}

_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name
_ROOM = 1 << 16  # for some hundred events, far below where malloc would map memory for it
_LARGEST = _EVENT.size + 256

# <linux/magic.h>: file systems that change by this kernel's system calls alone. bcachefs, btrfs, ext2 to ext4, f2fs, overlay
# (whose layers nobody may change), ramfs, tmpfs, xfs, zfs.
_LOCAL = (0xCA451A4E, 0x9123683E, 0xEF53, 0xF2F52010, 0x794C7630, 0x858458F6, 0x01021994, 0x58465342, 0x2FC12FC1)

_LIBC = ctypes.CDLL(None, use_errno=True)


class Lost(Exception):
    """Events are missing, or there will be none any more: nothing that was known of the folder may be relied on."""


class Watch:
    """A folder under watch, from the moment this object is made until nobody refers to it. One thread at a time may use it."""

    def __init__(self, folder: int) -> None:
        """Watch an open folder. OSError: the user's limits (``fs.inotify``) are reached, no /proc, not a local file system."""
        if not _is_local(folder):
            raise OSError(EOPNOTSUPP, os.strerror(EOPNOTSUPP))
        self._queue = -1
        self._queue = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        # The open folder itself, whatever its path leads to by now.
        if self._queue == -1 or _LIBC.inotify_add_watch(self._queue, b"/proc/self/fd/%d" % folder, _MASK) == -1:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def __del__(self) -> None:
        if getattr(self, "_queue", -1) != -1:
            os.close(self._queue)

    def events(self) -> list[tuple[str, bool]]:
        """What happened since the last time, the oldest first, without waiting: a name, and whether something may have come
        there or gone; if not, the content or the attributes of what it names have changed. Lost says why that is not all.
        """
        found: list[tuple[str, bool]] = []
        size = _ROOM
        while size > _ROOM - _LARGEST:  # less: the kernel had no other event
            try:
                read = os.read(self._queue, _ROOM)
            except BlockingIOError:
                break
            size = len(read)
            self._split(read, found)
        return found

    def _split(self, read: bytes, found: list[tuple[str, bool]]) -> None:
        position = 0
        while position < len(read):
            _, mask, _, length = _EVENT.unpack_from(read, position)
            position += _EVENT.size + length
            for last, why in _LAST.items():
                if mask & last:
                    raise Lost(why)
            if length:  # else it is the folder's own attributes
                name = read[position - length : position].rstrip(b"\0")
                found.append((os.fsdecode(name), bool(mask & _CAME_OR_WENT)))


def _is_local(folder: int) -> bool:
    told = ctypes.create_string_buffer(256)  # struct statfs has 120 bytes or less, and begins with the type
    if _LIBC.fstatfs(folder, told) == -1:
        return False
    return ctypes.c_ulong.from_buffer(told).value & 0xFFFFFFFF in _LOCAL
