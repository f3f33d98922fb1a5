"""A socket to nfnetlink: the few exchanges that libnftables does slowly, or not at all. ``cni.nft.apply`` is its only user.

Nothing here raises: None says that this way does not work, and libnftables is to be asked, which has words for why.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from socket import AF_NETLINK, SO_RCVTIMEO, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET, socket
from struct import pack
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from cni.nft import elements

if TYPE_CHECKING:
    from collections.abc import Callable

Told = TypeVar("Told")

NETLINK_NETFILTER = 12

# The kernel answers at once. struct timeval.
_PATIENCE = pack("@ll", 20, 0)


# Messages are numbered with 32 bits. Where the numbers begin anew nobody waits for an answer with one of the first any more.
_NUMBERS = 1 << 31


class Change(NamedTuple):
    """What became of a transaction: the errno of its refusal, 0 for none, and the generation of the ruleset that it made, 0
    when it changed nothing.
    """

    errno: int
    generation: int


class Nfnetlink:
    """A socket that is opened when it is first used and stays open, in the namespace of the thread that uses it first.

    Closing one waits until the kernel has disposed of what the last transaction removed, for 7 to 15 ms.
    """

    def __init__(self) -> None:
        self._socket: socket | None = None
        self._number = 0  # of the last message

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
            self._socket = None

    def change(self, text: str) -> Change | None:
        """Run a text of elements alone."""
        batch = elements.encode(text, self._next())
        if batch is None:
            return None
        made = 0

        def read(answer: bytes) -> Change | None:
            nonlocal made
            made = elements.generation(answer, batch.first + 1) or made
            errno = elements.verdict(answer, batch)
            return None if errno is None else Change(errno, made)

        return self._exchange(batch.data, batch.last + 1, read)

    def find_chain(self, where: str) -> int | None:
        """0 when there is a chain ``family table name``, else the errno (ENOENT)."""
        number = self._next()
        return self._exchange(elements.ask_chain(where, number), number, partial(elements.chain_errno, number=number))

    def generation(self) -> int | None:
        """The ruleset's generation: the kernel counts it up with every transaction of anybody."""
        number = self._next()
        return self._exchange(elements.ask_generation(number), number, partial(elements.generation, number=number)) or None

    def _next(self) -> int:
        """The number of the next message."""
        return self._number % _NUMBERS + 1

    def _exchange(self, data: bytes, last: int, read: Callable[[bytes], Told | None]) -> Told | None:
        """Send messages, numbered up to ``last``, and return the first thing that ``read`` finds in the answers."""
        self._number = last
        try:
            if self._socket is None:
                self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER)
                self._socket.setsockopt(SOL_SOCKET, SO_RCVTIMEO, _PATIENCE)
            self._socket.send(data)
            while (found := read(self._socket.recv(1 << 16))) is None:
                pass
            return found
        except OSError:
            self.close()
            return None
