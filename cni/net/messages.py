"""rtnetlink messages as bytes and back, by pyroute2's message classes. The only importer of pyroute2.

Only its message definitions are wanted here, but ``import pyroute2`` runs the package's ``__init__``: 270 modules with
asyncio and ssl,
95 ms at every plugin call. ``_load`` therefore registers the package's name with its path alone, so that the modules of
definitions load without it, in 17 ms. The sockets are ``cni.net.kernel``'s.
"""

from __future__ import annotations

import struct
import sys
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLM_F_EXCL, NLM_F_CREATE = 0x200, 0x400

_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")
_NLMSGERR_ATTR_MSG = 1


def _load() -> tuple[Any, Any, Any]:
    """The message classes for links, addresses and routes, without pyroute2's own ``__init__``."""
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
        from pyroute2.netlink.rtnl.rtmsg import rtmsg
    finally:
        if stand_in is processes:
            del sys.modules["multiprocessing"]
    return ifinfmsg, ifaddrmsg, rtmsg


LINK, ADDRESS, ROUTE = _load()

_CLASSES = {
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
}


def encode(kind: int, flags: int, sequence: int, fields: dict[str, Any], attrs: list[Any]) -> bytes:
    """One request of message type ``kind``: header, fixed fields, attributes in pyroute2's nested-list form."""
    message = _CLASSES[kind]()
    message["header"] = {
        "type": kind,
        "flags": flags | NLM_F_REQUEST,
        "sequence_number": sequence,
        "pid": 0,
        "error": None,
    }
    message.update(fields)
    message["attrs"] = attrs
    message.encode()
    return bytes(message.data)


class Answer:
    """One message received: an acknowledgement or error (``errno`` with the kernel's own words), the end of a dump, or data."""

    __slots__ = ("errno", "interrupted", "kind", "message", "sequence", "words")

    def __init__(self, data: bytes, offset: int, header: tuple[int, int, int, int, int]) -> None:
        length, self.kind, flags, self.sequence, _ = header
        self.errno = 0
        self.words = ""
        self.message: Any = None
        self.interrupted = bool(flags & NLM_F_DUMP_INTR)
        if self.kind in (NLMSG_ERROR, NLMSG_DONE):
            if length >= _HEADER.size + _ERROR.size:
                self.errno = -_ERROR.unpack_from(data, offset + _HEADER.size)[0]
            if self.kind == NLMSG_ERROR and flags & NLM_F_ACK_TLVS:
                self.words = _kernel_words(data, offset, length, flags)
        elif self.kind in _CLASSES:
            self.message = _CLASSES[self.kind](data, offset=offset)
            self.message.decode()


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
