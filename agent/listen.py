"""The socket that the agent listens on: made here, or handed over by systemd.

A path always leads to a socket somebody listens on, or to nothing: the socket gets a temporary name until it listens, then its
own by a rename. So an agent takes over from another one without a moment in between, and an old one that ends removes the path
only when it is still its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

    Inode = tuple[int, int]

BACKLOG = 4096
FOLDER_MODE = 0o700

# unix(7) has 108 bytes for a path and its end.
LONGEST_PATH = 107

# What the name of a socket's file ends with until it listens.
EARLY = ".new"

# Where systemd puts the first socket it hands over (sd_listen_fds(3)).
FIRST_PASSED = 3


class Listener:
    """A listening unix stream socket, non-blocking. Without an inode it is systemd's, which keeps it when we end. ``replaced``
    says that somebody else was listening at the path.
    """

    def __init__(self, sock: socket.socket, path: str, inode: Inode | None, replaced: bool = False) -> None:
        self.socket, self.path, self.replaced = sock, path, replaced
        self._inode = inode

    def close(self) -> None:
        """Stop listening. Connections that nobody accepted are reset, or wait for the next agent where systemd keeps them."""
        leave_path(self.path, self._inode)
        self.socket.close()


def listen(path: str) -> Listener:
    """Make the socket of a path; what was there before is replaced. Errors as ``take_path`` has them."""
    check_path(path)
    replaced = _somebody_listens(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        return Listener(sock, path, take_path(sock, path, BACKLOG), replaced)
    except BaseException:
        sock.close()
        raise


def check_path(path: str) -> None:
    """Refuse what can be no socket's path: ValueError says why. Relative ones are: the agent's folder is nobody's."""
    if not path.startswith("/") or path.endswith("/") or not path.isprintable():
        raise ValueError(f"a socket needs an absolute path of printable characters, not {path!r}")
    if len(os.fsencode(path + EARLY)) > LONGEST_PATH:
        raise ValueError(f"path too long: a socket's has at most {LONGEST_PATH - len(EARLY)} bytes")


def take_path(sock: socket.socket, path: str, backlog: int) -> Inode:
    """Have a socket listen at a path, for its owner alone, in the place of another socket; what ``leave_path`` needs to know.

    A folder that is missing is made, for its owner alone. OSError when that is not possible, ValueError when something that is
    no socket has the path, or others own the folder or may write it: they could put a socket of their own there.
    """
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=FOLDER_MODE, exist_ok=True)
    seen = os.stat(folder)
    if seen.st_uid not in (0, os.geteuid()):
        raise ValueError(f"{folder} is user {seen.st_uid}'s, who could replace the socket: use a folder of root's")
    if seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not seen.st_mode & stat.S_ISVTX:
        raise ValueError(f"others than its owner may write {folder}, and so replace the socket: chmod go-w {folder}")
    early = path + EARLY
    with _alone(path):
        if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ValueError(f"{path} is there and is no socket")
        _unlink(early)  # of an agent that was killed
        try:
            sock.bind(early)
            os.chmod(early, 0o600)
            sock.listen(backlog)
            inode = _inode(early)
            os.rename(early, path)
        except BaseException:
            _unlink(early)
            raise
    assert inode is not None, "nobody else unlinks it"
    return inode


def leave_path(path: str, inode: Inode | None) -> None:
    """Remove the socket of ``take_path``, unless another one has the path by now; None is for nothing to remove."""
    if inode is not None:
        with suppress(OSError), _alone(path):  # a folder that has become read-only, too, must not keep the agent from its end
            if _inode(path) == inode:
                os.unlink(path)


def passed(env: MutableMapping[str, str]) -> Listener | None:
    """The socket that systemd handed over, None when it did not. Its variables are removed from ``env``.

    ValueError when it is no listening unix stream socket, or there are several.
    """
    pid, count = env.pop("LISTEN_PID", ""), env.pop("LISTEN_FDS", "")
    env.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):
        return None
    if count != "1":
        raise ValueError(f"systemd handed over {count} sockets, expected 1")
    sock = socket.socket(fileno=FIRST_PASSED)
    os.set_inheritable(FIRST_PASSED, False)
    listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if (sock.family, sock.type, listening) != (socket.AF_UNIX, socket.SOCK_STREAM, 1):
        raise ValueError("what systemd handed over is no listening unix stream socket")
    sock.setblocking(False)
    return Listener(sock, os.fsdecode(sock.getsockname()), None)


def notify(state: str, address: str | None) -> None:
    """Tell systemd of a state (sd_notify(3)); ``address`` is its NOTIFY_SOCKET. Nothing happens where nobody listens."""
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            pass  # the unit then times out, and says so


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """No other agent replaces or removes a socket of the path's folder meanwhile."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _somebody_listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
        return client.connect_ex(path) in (0, errno.EAGAIN)


def _inode(path: str) -> Inode | None:
    try:
        seen = os.lstat(path)
    except FileNotFoundError:
        return None
    return seen.st_dev, seen.st_ino


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
