"""The door to connection tracking: forget flows by their original destination port.

A UDP client that keeps sending from one port renews its entry for ever, and an entry is what decides where packets go: one from
before a port was published leads to nobody, one from after it was taken back to a pod that is gone (P#123, P#1190). The
kernel picks the entries by protocol and port (since Linux 5.8; before, it tells all of them, and they are picked here).
"""

from __future__ import annotations

from contextlib import closing
from errno import ENOENT
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, AF_NETLINK, SO_RCVTIMEO, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET, socket
from struct import Struct, pack
from typing import TYPE_CHECKING, NamedTuple

from cni.nft.nfnetlink import NETLINK_NETFILTER
from cni.spec.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cni.spec.addresses import Ip

_HEADER = Struct("=IHHII")  # struct nlmsghdr
_GENERAL = Struct(">BBH")  # struct nfgenmsg
_ATTRIBUTE = Struct("=HH")
_U32 = Struct("=I")
_ERROR = Struct("=i")

_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK
_NEW, _GET, _DELETE = _SUBSYSTEM, _SUBSYSTEM | 1, _SUBSYSTEM | 2
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NESTED, _TYPE = 0x8000, 0x3FFF

# CTA_*, CTA_TUPLE_*, CTA_IP_*, CTA_PROTO_*, CTA_FILTER_ORIG_FLAGS and its bits.
_ORIGINAL, _ID, _ZONE, _FILTER = 1, 12, 18, 25
_IP, _PROTO = 1, 2
_DESTINATION = {4: 2, 6: 4}
_PROTO_NUMBER, _PROTO_PORT = 1, 3
_FLAGS = 1
_BY_NUMBER_AND_PORT = 1 << 3 | 1 << 5

# The kernel answers at once. struct timeval.
_UDP = 17

_PATIENCE = pack("@ll", 20, 0)
_FAMILY = {4: AF_INET, 6: AF_INET6}


class Flow(NamedTuple):
    """An entry: its original destination, and the attributes that name it."""

    address: Ip
    protocol: int
    port: int
    name: bytes


class Conntrack:
    """The connections of the calling thread's network namespace."""

    def forget(self, version: int, port: int, to: Callable[[Ip], bool]) -> int:
        """Delete the UDP entries of an IP version (4 or 6) that were first sent to a port, at an address that ``to`` agrees to;
        their number. KernelError where the kernel refuses.
        """
        words = f"cannot forget UDP connections to port {port}"
        try:
            with closing(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER)) as wire:
                wire.setsockopt(SOL_SOCKET, SO_RCVTIMEO, _PATIENCE)
                wire.send(ask(version, port))
                flows = [flow for flow in _answers(wire) if (flow.protocol, flow.port) == (_UDP, port)]
                local = {address: to(address) for address in {flow.address for flow in flows}}
                gone = [flow for flow in flows if local[flow.address]]
                for flow in gone:
                    wire.send(_message(_DELETE, _ACK, version, flow.name))
                    _acknowledged(wire.recv(1 << 16))
                return len(gone)
        except OSError as error:
            raise KernelError(words, error) from error


def ask(version: int, port: int) -> bytes:
    """The question for the UDP entries to a port."""
    number = _attribute(_PROTO_NUMBER, bytes((_UDP,))) + _attribute(_PROTO_PORT, port.to_bytes(2, "big"))
    original = _nested(_ORIGINAL, _nested(_PROTO, number))
    only = _nested(_FILTER, _attribute(_FLAGS, _U32.pack(_BY_NUMBER_AND_PORT)))
    return _message(_GET, _DUMP, version, original + only)


def flows(answer: bytes) -> tuple[list[Flow], bool]:
    """The entries in a datagram, and whether it was the last one. OSError for a refusal."""
    found: list[Flow] = []
    at = 0
    while at + _HEADER.size <= len(answer):
        length, kind, _, _, _ = _HEADER.unpack_from(answer, at)
        body = answer[at + _HEADER.size : at + length]
        if kind == _NLMSG_DONE:
            return found, True
        if kind == _NLMSG_ERROR:
            _acknowledged(answer[at:])
            return found, True
        if kind == _NEW:
            found += _flow(body[_GENERAL.size :])
        at += max(_HEADER.size, length + 3 & ~3)
    return found, False


def _answers(wire: socket) -> Iterator[Flow]:
    last = False
    while not last:
        found, last = flows(wire.recv(1 << 17))
        yield from found


def _flow(data: bytes) -> list[Flow]:
    attributes = dict(_attributes(data))
    original = dict(_attributes(attributes.get(_ORIGINAL, b"")))
    ip, proto = dict(_attributes(original.get(_IP, b""))), dict(_attributes(original.get(_PROTO, b"")))
    address = next((ip[kind] for kind in _DESTINATION.values() if kind in ip), b"")
    if not address or _PROTO_PORT not in proto:
        return []  # a protocol without ports
    name = _nested(_ORIGINAL, attributes[_ORIGINAL])
    name += b"".join(_attribute(kind, attributes[kind]) for kind in (_ZONE, _ID) if kind in attributes)
    return [Flow(ip_address(address), proto[_PROTO_NUMBER][0], int.from_bytes(proto[_PROTO_PORT], "big"), name)]


def _acknowledged(answer: bytes) -> None:
    """OSError for a refusal; an entry that is gone already is fine."""
    errno = -_ERROR.unpack_from(answer, _HEADER.size)[0]
    if errno not in (0, ENOENT):
        raise OSError(errno, f"errno {errno}")


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind & _TYPE, data[at + _ATTRIBUTE.size : at + size]
        at += max(_ATTRIBUTE.size, size + 3 & ~3)


def _message(kind: int, flags: int, version: int, body: bytes) -> bytes:
    data = _GENERAL.pack(_FAMILY[version], 0, 0) + body
    return _HEADER.pack(_HEADER.size + len(data), kind, flags | _REQUEST, 1, 0) + data


def _attribute(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size & 3)


def _nested(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NESTED, value)
