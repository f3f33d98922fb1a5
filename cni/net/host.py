"""The two namespaces of a call and the host's packet rules, behind one object: what ``look`` reads and ``execute`` changes.

Each door opens when it is first needed: a VERSION or a broken configuration never pays for netlink, a pod without masquerade
never for nftables.
"""

from __future__ import annotations

import fcntl
import os
from _thread import allocate_lock
from functools import cached_property
from typing import TYPE_CHECKING

from cni.net import files, netns
from cni.net.kernel import Kernel
from cni.net.ops import Side
from cni.net.removal import Removals

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.nft.apply import Nft
    from cni.nft.conntrack import Conntrack
    from cni.nft.firewalld import Firewalld
    from cni.nft.iptables import Iptables

# Where calls tell each other that they are at work; see Host.work and Host.alone.
LOCK_FOLDER = "/run/podwire"


class Doors:
    """What a process has open on its host. Calls share them: in the agent for as long as it lives, else there is one call."""

    def __init__(self) -> None:
        self._idle: list[Kernel] = []
        self._nft: Nft | None = None
        self._guard = allocate_lock()
        self.removals = Removals()

    @property
    def nft(self) -> Nft:
        """The host's nftables; one, also when several calls need it first at the same time."""
        from cni.nft.apply import Nft

        with self._guard:
            if self._nft is None:
                self._nft = Nft()
            return self._nft

    def borrow(self) -> Kernel:
        """A kernel door of the host's namespace for one call alone: an answer must reach who asked."""
        try:
            kernel = self._idle.pop()
        except IndexError:
            return Kernel(None)
        kernel.forget()
        return kernel

    def give_back(self, kernel: Kernel) -> None:
        """The end of ``borrow``. What has failed is not lent to another call."""
        if kernel.failed:
            kernel.close()
        else:
            self._idle.append(kernel)

    def close(self) -> None:
        """Close what nobody uses at the moment."""
        while self._idle:
            self._idle.pop().close()
        if self._nft is not None:
            self._nft.close()


class Host:
    """The doors of one call. ``sandbox_fd`` is the pod's namespace, None when it is gone (a late DEL) or not needed.

    ``search_path`` is the caller's PATH, for programs. ``doors`` outlive the call; without them it opens its own.
    """

    def __init__(self, sandbox_fd: int | None = None, search_path: str = "", doors: Doors | None = None) -> None:
        self.sandbox_fd = sandbox_fd
        self._search_path = search_path
        self._lock: int | None = None
        self._own = doors is None
        self._doors = doors or Doors()

    @cached_property
    def root(self) -> Kernel:
        """The host's links, addresses and routes."""
        return self._doors.borrow()

    @cached_property
    def sandbox(self) -> Kernel | None:
        """The sandbox's; None without a sandbox."""
        return None if self.sandbox_fd is None else Kernel(self.sandbox_fd)

    @property
    def nft(self) -> Nft:
        """The host's nftables."""
        return self._doors.nft

    @cached_property
    def iptables(self) -> Iptables:
        """The host's iptables."""
        from cni.nft.iptables import Iptables

        return Iptables(self._search_path, netns.die_with_parent)

    @cached_property
    def conntrack(self) -> Conntrack:
        """The host's connection tracking."""
        from cni.nft.conntrack import Conntrack

        return Conntrack()

    @cached_property
    def firewalld(self) -> Firewalld:
        """The host's firewalld."""
        from cni.nft.firewalld import Firewalld

        return Firewalld()

    def kernel(self, side: Side) -> Kernel:
        """The kernel door of a side."""
        if side is Side.HOST:
            return self.root
        assert self.sandbox is not None, "a plan for a sandbox that is gone"
        return self.sandbox

    def delete_link(self, side: Side, name: str) -> bool:
        """Delete a link; False when it was gone already. On the host together with those of other calls."""
        return self._doors.removals.delete(self.root, name) if side is Side.HOST else self.kernel(side).delete_link(name)

    def sysctl(self, side: Side, key: str) -> str | None:
        """A sysctl's value, None where the kernel lacks it."""
        return netns.read_sysctl(self._fd(side), key)

    def write_sysctls(self, side: Side, values: tuple[tuple[str, str], ...], must: bool, if_there: bool = False) -> None:
        """Write sysctls on a side; see ``netns.write_sysctls``."""
        netns.write_sysctls(self._fd(side), values, must, if_there)

    def sysctls(self, side: Side, keys: Iterable[str]) -> dict[str, str]:
        """The values of several sysctls; see ``netns.read_sysctls``."""
        return netns.read_sysctls(self._fd(side), keys)

    def write_only(self, side: Side, key: str) -> bool:
        """Whether a sysctl can be written and not read; see ``netns.write_only``."""
        return netns.write_only(self._fd(side), key)

    def file(self, path: str, follow: bool = True) -> bytes | None:
        """A file of the host, None where there is none; see ``files.read``."""
        return files.read(path, follow)

    def files(self, folder: str) -> list[str]:
        """The names in a folder of the host."""
        return files.names(folder)

    def write_file(self, path: str, content: bytes, new: bool) -> None:
        """Make a file of the host, or give it new content; see ``files.write``."""
        files.write(path, content, new)

    def remove_file(self, path: str) -> bool:
        """Remove a file of the host; False when it was gone already."""
        return files.remove(path)

    def unwritable(self, folder: str) -> str:
        """Why no file could be made in a folder of the host; empty when one could."""
        return files.unwritable(folder)

    @property
    def sandbox_name(self) -> str:
        """What tells the sandbox from all others, see ``netns.name``; empty without one."""
        return "" if self.sandbox_fd is None else netns.name(self.sandbox_fd)

    def is_sandbox(self, path: str) -> bool:
        """Whether a path leads to this call's sandbox."""
        if self.sandbox_fd is None:
            return False
        try:
            seen = os.stat(path)
        except (OSError, ValueError):  # a NUL byte
            return False
        return (seen.st_dev, seen.st_ino) == netns.identity(self.sandbox_fd)

    def work(self) -> None:
        """Say that this call changes shared things (bridge, tables) until ``rest``: any number of calls may.

        A failed ADD takes back a bridge that it made only while no other call is at work, see ``alone``. Without a place for
        the lock (a read-only /run) calls work all the same, and nothing shared is ever taken back.
        """
        if self._lock is not None:
            return
        inode = netns.own_identity()[1]
        try:
            self._lock = _open_lock(f"{LOCK_FOLDER}/work-{inode}.lock")
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        except OSError:
            self.rest()

    def alone(self) -> bool:
        """Whether this call, which is at work, is the only one; then no other begins until ``rest``."""
        if self._lock is None:
            return False
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close every door that was opened."""
        root, sandbox = self.__dict__.pop("root", None), self.__dict__.pop("sandbox", None)
        firewalld = self.__dict__.pop("firewalld", None)
        if root is not None:
            self._doors.give_back(root)
        if sandbox is not None:
            sandbox.close()
        if firewalld is not None:
            firewalld.close()
        if self._own:
            self._doors.close()
        if self.sandbox_fd is not None:
            os.close(self.sandbox_fd)
            self.sandbox_fd = None
        self.rest()

    def rest(self) -> None:
        """End ``work``."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _fd(self, side: Side) -> int | None:
        return None if side is Side.HOST else self.sandbox_fd


def _open_lock(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        os.makedirs(LOCK_FOLDER, mode=0o700, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
