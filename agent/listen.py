"""The socket that the agent listens on: made here, or handed over by systemd.

A path always leads to a socket somebody listens on, or to nothing: the socket gets a temporary name until it listens, then its
own by a rename. So an agent takes over from another one without a moment in between, and an old one that ends removes the path
only when it is still its own.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

BACKLOG = 4096
FOLDER_MODE = 0o700
LOCK = ".listen.lock"

# Where systemd puts the first socket it hands over (sd_listen_fds(3)).
FIRST_PASSED = 3


class Listener:
    """A listening unix stream socket, non-blocking. ``passed`` says that it is systemd's, which keeps it when we end."""

    def __init__(self, sock: socket.socket, path: str, passed: bool) -> None:
        self.socket, self.path, self.passed = sock, path, passed
        self._inode = None if passed else _inode(path)

    def close(self) -> None:
        """Stop listening. Connections that nobody accepted are reset, or wait for the next agent where systemd keeps them."""
        if not self.passed:
            with _alone(os.path.dirname(self.path)):
                if _inode(self.path) == self._inode:
                    os.unlink(self.path)
        self.socket.close()


def listen(path: str) -> Listener:
    """Make the socket of a path, in a folder that only root can enter; what was there before is replaced.

    OSError when that is not possible; ValueError when something that is no socket has the path.
    """
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=FOLDER_MODE, exist_ok=True)
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ValueError(f"{path} is there and is no socket")
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    early = f"{path}.{os.getpid()}"
    try:
        with _alone(folder):
            _unlink(early)
            sock.bind(early)
            try:
                os.chmod(early, 0o600)
                sock.listen(BACKLOG)
                os.rename(early, path)
            except BaseException:
                _unlink(early)
                raise
            return Listener(sock, path, passed=False)
    except BaseException:
        sock.close()
        raise


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
    return Listener(sock, os.fsdecode(sock.getsockname()), passed=True)


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
def _alone(folder: str) -> Iterator[None]:
    """No other agent replaces or removes a socket of the folder meanwhile."""
    lock = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _inode(path: str) -> tuple[int, int] | None:
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
