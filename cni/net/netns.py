"""Network namespaces: opening one, comparing it with our own, working inside one for a moment. The only user of setns.

A namespace is entered by the calling thread alone and left again before the call returns; nobody else ever hops. Sockets made
inside stay bound to it, so almost everything later happens from outside.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import sys
from contextlib import contextmanager
from fcntl import ioctl
from typing import TYPE_CHECKING

from cni.spec.errors import CNIError, EnvError, KernelError, UnknownSandbox

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# /proc/thread-self names the calling thread, which may sit in another namespace than the process's first one.
OWN = "/proc/thread-self/ns/net"

# A FIFO in the place of a sandbox must not make anybody wait.
OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

# A list of reserved ports may be long.
_LONGEST_VALUE = 1 << 16

# What it means that the kernel refuses to set a sysctl.
_UNSET = {
    errno.ENOENT: "this kernel has no such sysctl, or only one of the host's for all namespaces",
    errno.EACCES: "it can only be read",
    errno.EINVAL: "the kernel takes no such value for it, or not together with another sysctl's",
}

_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703
_PR_SET_PDEATHSIG = 1
_SO_NETNS_COOKIE = 71

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """For a process that was just started: end when the one that started it does, be it by SIGKILL."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def open_sandbox(path: str) -> int:
    """A descriptor of the network namespace at ``path`` (CNI_NETNS); errors as ``unopened`` and ``checked`` have them."""
    try:
        fd = os.open(path, OPEN_FLAGS)
    except (OSError, ValueError) as error:
        raise unopened(path, error) from error
    return checked(fd, path)


def unopened(path: str, error: OSError | ValueError) -> CNIError:
    """Why a sandbox could not be opened: UnknownSandbox (3) when nothing is there, else EnvError (4)."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return UnknownSandbox(f"cannot open CNI_NETNS {path!r}: {error.strerror}")
    return EnvError(f"cannot open CNI_NETNS {path!r}: {error}")


def checked(fd: int, path: str) -> int:
    """The descriptor itself when it is of a network namespace.

    Else it is closed, and EnvError (4) raised: for example for the empty file that a half-removed ``ip netns`` leaves behind.
    """
    try:
        kind = ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != _CLONE_NEWNET:
        os.close(fd)
        raise EnvError(f"CNI_NETNS {path!r} is not a network namespace")
    return fd


def is_own(fd: int) -> bool:
    """Whether a namespace is the one this thread works in: the host's."""
    return identity(fd) == own_identity()


def identity(fd: int) -> tuple[int, int]:
    """Device and inode of a namespace: equal for every path and descriptor of the same one."""
    seen = os.fstat(fd)
    return seen.st_dev, seen.st_ino


def name(fd: int) -> str:
    """What tells a namespace from all others, those included that had its inode before it: the kernel's number of it (0 before
    Linux 5.14) is given once in a boot, and the boot has an id.
    """
    with open_socket(fd, socket.AF_UNIX, socket.SOCK_DGRAM, 0) as inside:
        try:
            cookie = inside.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            cookie = b""
    boot = read_sysctl(None, "kernel/random/boot_id") or ""
    return "{}:{}:{}:{}".format(*identity(fd), int.from_bytes(cookie, sys.byteorder), boot)


def own_identity() -> tuple[int, int]:
    """The identity of the calling thread's namespace."""
    seen = os.stat(OWN)
    return seen.st_dev, seen.st_ino


@contextmanager
def entered(fd: int | None) -> Iterator[None]:
    """Be in the namespace ``fd`` for the block; None stays where we are."""
    if fd is None:
        yield
        return
    own = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(fd)
        try:
            yield
        finally:
            _setns(own)
    finally:
        os.close(own)


def write_sysctls(fd: int | None, values: tuple[tuple[str, str], ...], must: bool, if_there: bool = False) -> None:
    """Write sysctls, named by their path below /proc/sys, in a namespace.

    With ``must`` the first failure raises, but for a sysctl that is as it should be, or that this kernel lacks and that is
    wanted only ``if_there``; without, failures are passed over. Those that the host must have are read first, because they
    mostly are as they should be; those of new interfaces never are, and each step takes 0.01 ms.
    """
    with entered(fd):
        for key, value in values:
            try:
                if fd is not None or not must or read_here(key) != value:
                    _write_here(key, value)
            except OSError as error:
                lacking = if_there and isinstance(error, FileNotFoundError)
                if must and not lacking and read_sysctl(None, key) != value:
                    failure = KernelError(f"cannot set sysctl {key} to {value!r}", error)
                    failure.details = _UNSET.get(failure.errno, "")
                    raise failure from error


def read_sysctl(fd: int | None, key: str) -> str | None:
    """A sysctl's value without its newline, None where the kernel lacks it."""
    with entered(fd):
        try:
            return read_here(key)
        except OSError:
            return None


def read_sysctls(fd: int | None, keys: Iterable[str]) -> dict[str, str]:
    """The values of several sysctls, without those that the kernel lacks or that can only be written."""
    found: dict[str, str] = {}
    with entered(fd):
        for key in keys:
            try:
                found[key] = read_here(key)
            except OSError:
                continue
    return found


def write_only(fd: int | None, key: str) -> bool:
    """Whether a sysctl is there and gives nobody its value, as the ``flush`` of routes."""
    with entered(fd):
        try:
            return not os.stat("/proc/sys/" + key).st_mode & 0o444
        except OSError:
            return False


def read_here(key: str) -> str:
    """A sysctl of the namespace we are in."""
    descriptor = os.open("/proc/sys/" + key, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _LONGEST_VALUE).decode("utf-8", "replace").rstrip("\n")
    finally:
        os.close(descriptor)


def _write_here(key: str, value: str) -> None:
    descriptor = os.open("/proc/sys/" + key, os.O_WRONLY | os.O_CLOEXEC)
    try:
        left = value.encode() or b"\n"  # nothing at all would be no write
        while left:
            left = left[os.write(descriptor, left) :]  # the kernel takes a page at a time
    finally:
        os.close(descriptor)


def open_socket(fd: int | None, family: int, kind: int, protocol: int) -> socket.socket:
    """A socket that belongs to a namespace for good."""
    with entered(fd):
        return socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise KernelError("cannot enter the network namespace", OSError(number, os.strerror(number)))
