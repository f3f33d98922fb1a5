"""Talk with rtnetlink over one socket: requests, acknowledgements, dumps. What the messages mean is ``cni.net.kernel``'s.

Errors are KernelErrors that carry the kernel's own words where it gives some (extended acknowledgements).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from fcntl import ioctl
from typing import Any, NamedTuple

from cni.net import messages as m
from cni.net import netns
from cni.spec.conf import IFNAME_MAX_BYTES
from cni.spec.errors import CNIError, KernelError, TryAgain

_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12

# An interrupted dump may have missed objects; the reference tries five times and then trusts the rest (P#1121). We report it.
_DUMP_TRIES = 10

# The kernel answers each request at once; a silent socket means something is badly wrong.
_TIMEOUT_S = 20
_TIMEOUT = struct.pack("@ll", _TIMEOUT_S, 0)  # struct timeval

# What a removal is told when it comes too late.
GONE = (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL)

# struct ifreq, as an answer about Ethernet: the link's name, the kind of address, the hardware address.
_SIOCGIFHWADDR = 0x8927
_IFREQ = struct.Struct("=16s2x6s16x")


class Request(NamedTuple):
    """A message to be sent: type, flags beyond REQUEST, fixed fields, attributes."""

    kind: int
    flags: int
    fields: dict[str, Any]
    attrs: list[Any]


class Wire:
    """A socket of one namespace: ``fd``, or the calling thread's own when None. Answers to earlier requests are passed over.

    ``failed`` says that answers were lost. There may be a dump that nobody has read to its end, and the kernel begins no other
    on this socket (EBUSY); so it is of no use any more.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._socket = netns.open_socket(fd, socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        # Not by settimeout, which would have Python poll before each send and recv.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
        for option in (_CAP_ACK, _EXT_ACK, _STRICT):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0
        self.failed = False

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def run(self, words: str, *requests: Request) -> None:
        """Send requests as one datagram and wait for every acknowledgement; the first error is raised."""
        first_error: KernelError | None = None
        data, pending = b"", set[int]()
        for request in requests:
            data += self._encoded(request, m.NLM_F_ACK)
            pending.add(self._sequence)
        self._send(words, data)
        while pending:
            for answer in self._receive(words):
                if answer.kind == m.NLMSG_ERROR and answer.sequence in pending:
                    pending.discard(answer.sequence)
                    if answer.errno and first_error is None:
                        first_error = failure(words, answer)
        if first_error is not None:
            raise first_error

    def create(self, words: str, request: Request) -> bool:
        """Make an object; False when it is there already."""
        return self._unless(words, request, (errno.EEXIST,))

    def remove(self, words: str, request: Request) -> bool:
        """Remove an object; False when it was gone already."""
        return self._unless(words, request, GONE)

    def refusal(self, request: Request) -> int:
        """The number of the error by which the kernel refuses what it cannot do."""
        try:
            self.run("asked", request)
        except KernelError as error:
            return error.errno
        return 0

    def ask(self, words: str, request: Request) -> m.Answer:
        """Send one request for a single object and return the answer to it, be it an error."""
        self._send(words, self._encoded(request, 0))
        while True:
            for answer in self._receive(words):
                if answer.sequence == self._sequence:
                    return answer

    def mac(self, name: str) -> str:
        """A link's hardware address alone, in a tenth of the time that it takes to be told all; empty when there is none such.
        Then the kernel also looks for a module of that name: ask about links that are meant to be there.
        """
        raw = name.encode("utf-8", "surrogateescape")
        if len(raw) > IFNAME_MAX_BYTES:  # the kernel would cut it, and tell of another link
            return ""
        try:
            told = ioctl(self._socket, _SIOCGIFHWADDR, _IFREQ.pack(raw, b""))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return ""
            raise KernelError(f"cannot read the hardware address of {name}", error) from error
        return str(_IFREQ.unpack(told)[1].hex(":"))

    def dump(self, kind: int, fields: dict[str, Any], attrs: list[Any], words: str) -> list[m.Message]:
        """All objects of a kind. An interrupted dump is repeated; one that never holds still is reported, not trusted."""
        for _ in range(_DUMP_TRIES):
            self._send(words, self._encoded(Request(kind, m.NLM_F_DUMP, fields, attrs), 0))
            found: list[m.Message] = []
            interrupted = done = False
            while not done:
                for answer in self._receive(words):
                    if answer.sequence != self._sequence:
                        continue
                    interrupted |= answer.interrupted
                    if answer.errno:
                        raise failure(words, answer)
                    if answer.kind in (m.NLMSG_DONE, m.NLMSG_ERROR):
                        done = True
                    elif answer.message is not None:
                        found.append(answer.message)
            if not interrupted:
                return found
        raise TryAgain(f"{words}: the kernel's tables changed during each of {_DUMP_TRIES} tries")

    def _unless(self, words: str, request: Request, fine: tuple[int, ...]) -> bool:
        try:
            self.run(words, request)
        except KernelError as error:
            if error.errno in fine:
                return False
            raise
        return True

    def _encoded(self, request: Request, flags: int) -> bytes:
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        return m.encode(request.kind, request.flags | flags, self._sequence, request.fields, request.attrs)

    def _send(self, words: str, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise KernelError(words, error) from error

    def _receive(self, words: str) -> list[m.Answer]:
        self.failed = True
        try:
            answers = m.decode(self._socket.recv(1 << 18))
        except BlockingIOError as error:
            raise CNIError(f"{words}: the kernel did not answer within {_TIMEOUT_S} s") from error
        except OSError as error:
            raise KernelError(words, error) from error
        self.failed = False
        return answers


def failure(words: str, answer: m.Answer) -> KernelError:
    """An answer that is an error, as an exception."""
    reason = os.strerror(answer.errno)
    return KernelError(words, OSError(answer.errno, f"{reason} ({answer.words})" if answer.words else reason))
