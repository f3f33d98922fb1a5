"""rtnetlink messages as bytes and back, as pyroute2's message classes define them. The only importer of pyroute2.

Only its message definitions are wanted here, but ``import pyroute2`` runs the package's ``__init__``: 270 modules with
asyncio and ssl, 95 ms at every plugin call. ``_load`` therefore registers the package's name with its path alone, so that the
modules of definitions load without it, in 17 ms. The socket is ``cni.net.netlink``'s.

Numbers, kinds and layouts are pyroute2's, those of traffic control ``cni.net.qdiscs``'; the bytes are packed and cut here.
pyroute2's classes do that for every message there is, in thousands of steps: encoding took 0.03 to 0.12 ms for a request,
decoding 0.2 ms for a link with its sixty attributes, of which a dozen is wanted; together more than half of a warm ADD.
``tests/contract/test_messages.py`` compares the two, byte for byte.
"""

from __future__ import annotations

import struct
import sys
from importlib.machinery import PathFinder
from socket import AF_INET, AF_INET6, inet_pton
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cni.net import qdiscs

if TYPE_CHECKING:
    from collections.abc import Callable

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_GETTFILTER = 44, 46
RTM_NEWNSID, RTM_GETNSID = 88, 90

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_ECHO, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x8, 0x10, 0x300
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400

_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")
_NEXT_HOP = struct.Struct("=HBBi")  # struct rtnexthop
_NLMSGERR_ATTR_MSG = 1

# What makes a length a multiple of four, by its last two bits.
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")

# The upper two bits of an attribute's type are flags (nested, byte order).
_TYPE_MASK = 0x3FFF


def _load() -> tuple[Any, Any, Any, Any, Any]:
    """The classes of links, addresses, routes, neighbours and a VLAN's attributes, without pyroute2's own ``__init__``."""
    if "pyroute2" not in sys.modules:
        found = PathFinder.find_spec("pyroute2")
        if found is None or not found.submodule_search_locations:
            raise ImportError("pyroute2 is not installed")
        package = ModuleType("pyroute2")
        package.__path__ = list(found.submodule_search_locations)
        sys.modules["pyroute2"] = package
    processes = ModuleType("multiprocessing")
    processes.Pipe = processes.Queue = processes.Process = None  # type: ignore[attr-defined]
    # pyroute2.config takes these three names for servers that are never started here; the module costs 5 ms.
    stand_in = sys.modules.setdefault("multiprocessing", processes)
    try:
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
        from pyroute2.netlink.rtnl.ifinfmsg.plugins.vlan import vlan
        from pyroute2.netlink.rtnl.ndmsg import ndmsg
        from pyroute2.netlink.rtnl.rtmsg import rtmsg
    finally:
        if stand_in is processes:
            del sys.modules["multiprocessing"]
    return ifinfmsg, ifaddrmsg, rtmsg, ndmsg, vlan


LINK, ADDRESS, ROUTE, NEIGHBOUR, VLAN = _load()


class Namespaces:
    """The numbers of network namespaces: struct rtgenmsg and attributes, in the form of pyroute2's definitions."""

    fields = (("rtgen_family", "B"), ("pad", "xxx"))
    nla_map = ((1, "NETNSA_NSID", "uint32"), (3, "NETNSA_FD", "uint32"))


CLASSES = {
    RTM_NEWLINK: LINK,
    RTM_DELLINK: LINK,
    RTM_GETLINK: LINK,
    RTM_SETLINK: LINK,
    RTM_NEWADDR: ADDRESS,
    RTM_DELADDR: ADDRESS,
    RTM_GETADDR: ADDRESS,
    RTM_NEWROUTE: ROUTE,
    RTM_DELROUTE: ROUTE,
    RTM_GETROUTE: ROUTE,
    RTM_NEWNEIGH: NEIGHBOUR,
    RTM_GETNEIGH: NEIGHBOUR,
    **dict.fromkeys((RTM_NEWNSID, RTM_GETNSID), Namespaces),
    **dict.fromkeys((RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC, RTM_NEWTFILTER, RTM_GETTFILTER), qdiscs.Definitions),
}


# What pyroute2 does not define yet (linux/if_link.h, Linux 5.11).
_NEWER = {"IFLA_MACVLAN_BC_QUEUE_LEN": (7, "uint32")}


def _definitions() -> dict[str, tuple[int, str]]:
    """Number and kind of every attribute that is used here, by its name."""
    info = LINK.ifinfo
    within_info = (info.bridge_data, info.bridge_slave_data, info.veth_data, info.macvlan_data, VLAN)
    within_link = (info, *within_info, LINK.af_spec_bridge)
    found = dict(_NEWER)
    for definitions in (
        LINK,
        *within_link,
        ADDRESS,
        ROUTE,
        ROUTE.metrics,
        NEIGHBOUR,
        Namespaces,
        qdiscs.Definitions,
        qdiscs.Options,
    ):
        for place, entry in enumerate(definitions.nla_map):
            number, name, kind = entry if len(entry) == 3 else (place, *entry)
            found[name] = number, kind
    return found


class _Layout:
    """The fixed part of a message class: names and a Struct, and where the attributes begin."""

    def __init__(self, definitions: Any) -> None:
        self.names = [name for name, code in definitions.fields if not code.endswith("x")]  # padding
        self.struct = struct.Struct("=" + "".join(code for _, code in definitions.fields))

    def pack(self, fields: dict[str, int]) -> bytes:
        """The fixed part as bytes; fields that are not given are 0."""
        return self.struct.pack(*[fields.get(name, 0) for name in self.names])


_LAYOUTS: dict[Any, _Layout] = {
    definitions: _Layout(definitions) for definitions in (LINK, ADDRESS, ROUTE, NEIGHBOUR, Namespaces, qdiscs.Definitions)
}


def _number(code: str) -> Callable[[int], bytes]:
    return struct.Struct("=" + code).pack


def _address(text: str) -> bytes:
    return inet_pton(AF_INET6 if ":" in text else AF_INET, text)


def _nested(value: dict[str, Any]) -> bytes:
    return _packed(value["attrs"])


# How values are written, by the kinds of pyroute2's definitions; what is not in this table is a list of attributes.
_WRITERS: dict[str, Callable[[Any], bytes]] = {
    "uint8": _number("B"),
    "uint16": _number("H"),
    "uint32": _number("I"),
    "uint64": _number("Q"),
    "bytes": bytes,
    "netns_fd": _number("I"),
    "asciiz": lambda text: text.encode("utf-8", "surrogateescape") + b"\0",
    "lladdr": lambda text: bytes.fromhex(text.replace(":", "")),
    "l2addr": lambda text: bytes.fromhex(text.replace(":", "")),
    "ipaddr": _address,
    "target": _address,
    "mode": _number("I"),  # of a macvlan
    "vlan_info": lambda value: struct.pack("=HH", value["flags"], value["vid"]),
    "info_peer": lambda value: _LAYOUTS[LINK].pack(value) + _packed(value["attrs"]),
}

DEFINITIONS = _definitions()
_NUMBERS = {name: number for name, (number, _) in DEFINITIONS.items()}
_BY_NAME: dict[str, tuple[int, Callable[[Any], bytes]]] = {
    name: (number, _WRITERS.get(kind, _nested)) for name, (number, kind) in DEFINITIONS.items()
}


class Attributes:
    """The attributes between two places of a datagram, each looked at only when asked for.

    Every reader takes the name that pyroute2 gives an attribute, and has an answer for one that is absent.
    """

    __slots__ = ("_data", "_end", "_found", "_start")

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self._data, self._start, self._end = data, start, end
        self._found: dict[int, tuple[int, int]] | None = None

    def _place(self, name: str) -> tuple[int, int] | None:
        """Beginning and end of an attribute; where there are several, of the last."""
        if self._found is None:
            self._found = {kind: (start, end) for kind, start, end in self._walk()}
        return self._found.get(_NUMBERS[name])

    def _walk(self) -> list[tuple[int, int, int]]:
        """Number, beginning and end of each."""
        places: list[tuple[int, int, int]] = []
        unpack, add, start, end = _ATTRIBUTE.unpack_from, places.append, self._start, self._end
        while start + 4 <= end:
            size, kind = unpack(self._data, start)
            if size < 4:
                break
            add((kind & _TYPE_MASK, start + 4, start + size))
            start += size + 3 & ~3
        return places

    def raws(self, name: str) -> list[bytes]:
        """All values of an attribute that may come several times, as bytes."""
        number = _NUMBERS[name]
        return [self._data[start:end] for kind, start, end in self._walk() if kind == number]

    def raw(self, name: str) -> bytes | None:
        """The value as bytes; None when it is absent."""
        place = self._place(name)
        return None if place is None else self._data[place[0] : place[1]]

    def number(self, name: str) -> int:
        """An unsigned number of whatever width; 0 when it is absent."""
        return int.from_bytes(self.raw(name) or b"", sys.byteorder)

    def text(self, name: str) -> str:
        """A string; empty when it is absent."""
        return (self.raw(name) or b"").rstrip(b"\0").decode("utf-8", "surrogateescape")

    def mac(self, name: str) -> str:
        """A hardware address with colons; empty when it is absent."""
        return (self.raw(name) or b"").hex(":")

    def nested(self, name: str) -> Attributes:
        """The attributes within an attribute; none when it is absent."""
        start, end = self._place(name) or (0, 0)
        return Attributes(self._data, start, end)


class Message(Attributes):
    """A link, address or route as the kernel told it: attributes, and the fixed fields by name."""

    __slots__ = ("fields",)

    def __init__(self, definitions: Any, data: bytes, offset: int, length: int) -> None:
        layout = _LAYOUTS[definitions]
        begin = offset + _HEADER.size
        super().__init__(data, begin + layout.struct.size, offset + length)
        self.fields = dict(zip(layout.names, layout.struct.unpack_from(data, begin), strict=True))

    def __getitem__(self, field: str) -> int:
        return int(self.fields[field])

    def next_hops(self) -> list[tuple[int, bytes | None]]:
        """The outgoing interface and the next hop, None for none, of each path of a route."""
        hops = self.raw("RTA_MULTIPATH")
        if hops is None:
            return [(self.number("RTA_OIF"), self.raw("RTA_GATEWAY"))]
        found, start = [], 0
        while start + _NEXT_HOP.size <= len(hops):
            size, _, _, index = _NEXT_HOP.unpack_from(hops, start)
            if size < _NEXT_HOP.size:
                break
            found.append((index, Attributes(hops, start + _NEXT_HOP.size, start + size).raw("RTA_GATEWAY")))
            start += size + 3 & ~3
        return found


def encode(kind: int, flags: int, sequence: int, fields: dict[str, Any], attrs: list[Any]) -> bytes:
    """One request of message type ``kind``: header, fixed fields, attributes as pairs of name and value, nested ones as
    ``{"attrs": [...]}``, which is pyroute2's form.
    """
    body = _LAYOUTS[CLASSES[kind]].pack(fields) + _packed(attrs)
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | NLM_F_REQUEST, sequence, 0) + body


def _packed(attrs: list[Any]) -> bytes:
    parts: list[bytes] = []
    for name, value in attrs:
        number, write = _BY_NAME[name]
        raw = write(value)
        size = _ATTRIBUTE.size + len(raw)
        parts += (_ATTRIBUTE.pack(size, number), raw, _PADDING[size & 3])
    return b"".join(parts)


class Answer:
    """One message received: an acknowledgement or error (``errno`` with the kernel's own words), the end of a dump, or data."""

    __slots__ = ("errno", "interrupted", "kind", "message", "sequence", "words")

    def __init__(self, data: bytes, offset: int, header: tuple[int, int, int, int, int]) -> None:
        length, self.kind, flags, self.sequence, _ = header
        self.errno = 0
        self.words = ""
        self.message: Message | None = None
        self.interrupted = bool(flags & NLM_F_DUMP_INTR)
        if self.kind in (NLMSG_ERROR, NLMSG_DONE):
            if length >= _HEADER.size + _ERROR.size:
                self.errno = -_ERROR.unpack_from(data, offset + _HEADER.size)[0]
            if self.kind == NLMSG_ERROR and flags & NLM_F_ACK_TLVS:
                self.words = _kernel_words(data, offset, length, flags)
        elif self.kind in CLASSES:
            self.message = Message(CLASSES[self.kind], data, offset, length)


def decode(data: bytes) -> list[Answer]:
    """All messages of one datagram."""
    answers = []
    offset = 0
    while offset + _HEADER.size <= len(data):
        header = _HEADER.unpack_from(data, offset)
        if header[0] < _HEADER.size:
            break
        answers.append(Answer(data, offset, header))
        offset += header[0] + 3 & ~3
    return answers


def _kernel_words(data: bytes, offset: int, length: int, flags: int) -> str:
    """The text of an extended acknowledgement (NLMSGERR_ATTR_MSG)."""
    position = offset + _HEADER.size + _ERROR.size
    echoed = _HEADER.unpack_from(data, position)[0]
    position += _HEADER.size if flags & NLM_F_CAPPED else echoed + 3 & ~3
    while position + _ATTRIBUTE.size <= offset + length:
        size, kind = _ATTRIBUTE.unpack_from(data, position)
        if size < _ATTRIBUTE.size:
            break
        if kind == _NLMSGERR_ATTR_MSG:
            return data[position + _ATTRIBUTE.size : position + size].rstrip(b"\0").decode("utf-8", "replace")
        position += size + 3 & ~3
    return ""
