"""PURE. Transactions of set elements, from our text to nfnetlink's bytes: the part of nft's language that ADD and DEL use.

libnftables reads all tables, chains and sets of the host before it adds one element: 0.2 ms on a host that has nothing else,
and 10 ms beside the 5,000 chains that a kube-proxy makes. The kernel needs none of that. So the renderers go on writing
text, which people can read and libnftables can run, and this module packs those lines of it that it knows; for all
else ``encode`` has no answer, and libnftables runs the text. Two questions
that it would answer as slowly, or not at all, are here too.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from struct import Struct
from typing import NamedTuple

_PART = r'(?:"[^"\s*]{1,15}"|[0-9a-z.:]+(?:/[0-9]{1,3})?)'
_CHANGE = re.compile(
    r"(add|create|delete) element (inet|ip|ip6) (\w+) ([\w./-]+) "
    rf'\{{ ({_PART}(?: \. {_PART})*)(?: comment "([^"\n]{{1,120}})")?(?: : ({_PART}(?: \. {_PART})*))? \}}'
)
_FLUSH = re.compile(r"flush set (inet|ip|ip6) (\w+) ([\w./-]+)")

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}

_FAMILIES = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}

_HEADER = Struct("=IHHII")  # struct nlmsghdr
_GENERAL = Struct(">BBH")  # struct nfgenmsg: family, version, resource
_ATTRIBUTE = Struct("=HH")
_MARK = Struct("=I")
_PORT = Struct(">H")
_ERROR = Struct("=i")
_IFNAME = 16  # IFNAMSIZ

# The answer for the generation: header, nfgenmsg and attribute header passed over, NFTA_GEN_ID.
_GENERATION = Struct("=IH2xI4x4x4x4s")

_BATCH_BEGIN, _BATCH_END, _SUBSYSTEM = 16, 17, 10
_NEW_ELEMENTS, _DELETE_ELEMENTS = _SUBSYSTEM << 8 | 12, _SUBSYSTEM << 8 | 14
_NEW_CHAIN, _GET_CHAIN = _SUBSYSTEM << 8 | 3, _SUBSYSTEM << 8 | 4
_NEW_GENERATION, _GET_GENERATION = _SUBSYSTEM << 8 | 15, _SUBSYSTEM << 8 | 16
_REQUEST, _ACK, _ECHO, _EXCLUSIVE, _CREATE, _NESTED = 0x1, 0x4, 0x8, 0x200, 0x400, 0x8000
_NLMSG_ERROR = 2

VERBS = {
    "add": (_NEW_ELEMENTS, _CREATE),
    "create": (_NEW_ELEMENTS, _CREATE | _EXCLUSIVE),
    "delete": (_DELETE_ELEMENTS, 0),
}

# NFTA_SET_ELEM_LIST_*, NFTA_SET_ELEM_*, NFTA_DATA_VALUE, NFTA_LIST_ELEM, NFTNL_UDATA_SET_ELEM_COMMENT.
_TABLE, _SET, _ELEMENTS = 1, 2, 3
_KEY, _DATA, _USERDATA, _KEY_END = 1, 2, 6, 10
_VALUE = _LIST_ITEM = 1
_COMMENT = 0
_CHAIN_TABLE, _CHAIN_NAME = 1, 3


class Batch(NamedTuple):
    """Messages that the kernel takes as one transaction, numbered from ``first``, which begins it, on; ``last`` is the last
    change, which it acknowledges. If it changes anything the kernel tells before that, with the number of the first change
    (``first + 1``), which generation of the ruleset it has made.
    """

    data: bytes
    first: int
    last: int


def encode(text: str, first: int) -> Batch | None:
    """The lines as a batch, or None when one of them is not known here. Its messages are numbered from ``first`` on."""
    messages = [_message(_BATCH_BEGIN, 0, first, _GENERAL.pack(0, 0, _SUBSYSTEM))]
    lines = text.splitlines()
    last = first + len(lines)
    for number, line in enumerate(lines, first + 1):
        flags = (_ECHO if number == first + 1 else 0) | (_ACK if number == last else 0)
        change = _CHANGE.fullmatch(line)
        if change is not None:
            verb, family, table, name, key, comment, value = change.groups()
            kind, more = VERBS[verb]
            flags |= more
            element = _element(key, comment, value)
            if element is None:
                return None
            rest = _nested(_ELEMENTS, _nested(_LIST_ITEM, element))
        else:
            flush = _FLUSH.fullmatch(line)
            if flush is None:
                return None
            family, table, name = flush.groups()
            kind, rest = _DELETE_ELEMENTS, b""
        body = _GENERAL.pack(_FAMILIES[family], 0, 0) + _text(_TABLE, table) + _text(_SET, name) + rest
        messages.append(_message(kind, flags, number, body))
    messages.append(_message(_BATCH_END, 0, last + 1, _GENERAL.pack(0, 0, _SUBSYSTEM)))
    return Batch(b"".join(messages), first, last) if lines else None


def verdict(answer: bytes, batch: Batch) -> int | None:
    """What a datagram says of a batch: an errno, 0 for success, None for nothing that decides.

    Changes that are refused are told in order, the acknowledgement of the last one after them.
    """
    at = 0
    while at + _HEADER.size + _ERROR.size <= len(answer):
        length, kind, _, sequence, _ = _HEADER.unpack_from(answer, at)
        if kind == _NLMSG_ERROR:
            errno: int = -_ERROR.unpack_from(answer, at + _HEADER.size)[0]
            if sequence == batch.last or (errno and batch.first <= sequence <= batch.last + 1):
                return errno
        if length < _HEADER.size:
            break
        at += length + 3 & ~3
    return None


def ask_generation(number: int) -> bytes:
    """The question for the ruleset's generation, which every transaction of anybody counts up."""
    return _message(_GET_GENERATION, 0, number, _GENERAL.pack(0, 0, 0))


def generation(answer: bytes, number: int) -> int | None:
    """The answer to ``ask_generation``, or what a batch has made; 0, which is none, for a refusal (this kernel has no
    nf_tables, or we may not ask); None when a datagram has neither.
    """
    if len(answer) < _GENERATION.size:
        return None
    _, kind, sequence, value = _GENERATION.unpack_from(answer)
    if sequence != number or kind not in (_NEW_GENERATION, _NLMSG_ERROR):
        return None
    return int.from_bytes(value, "big") if kind == _NEW_GENERATION else 0


def ask_chain(where: str, number: int) -> bytes:
    """The question whether there is a chain, ``family table name``."""
    family, table, name = where.split()
    body = _GENERAL.pack(_FAMILIES[family], 0, 0) + _text(_CHAIN_TABLE, table) + _text(_CHAIN_NAME, name)
    return _message(_GET_CHAIN, 0, number, body)


def chain_errno(answer: bytes, number: int) -> int | None:
    """The answer to ``ask_chain``: 0 when there is one, else an errno; None when a datagram has none."""
    if len(answer) < _HEADER.size + _ERROR.size:
        return None
    _, kind, _, sequence, _ = _HEADER.unpack_from(answer)
    if sequence != number or kind not in (_NEW_CHAIN, _NLMSG_ERROR):
        return None
    return 0 if kind == _NEW_CHAIN else -int(_ERROR.unpack_from(answer, _HEADER.size)[0])


def _element(key: str, comment: str | None, value: str | None) -> bytes | None:
    try:
        first, last = _packed(key)
        data = None if value is None else _packed(value)[0]
    except ValueError:
        return None
    parts = [_nested(_KEY, _attribute(_VALUE, first))]
    if last != first:
        parts.append(_nested(_KEY_END, _attribute(_VALUE, last)))
    if data is not None:
        parts.append(_nested(_DATA, _attribute(_VALUE, data)))
    if comment is not None:
        words = comment.encode() + b"\0"
        parts.append(_attribute(_USERDATA, bytes((_COMMENT, len(words))) + words))
    return b"".join(parts)


def _packed(text: str) -> tuple[bytes, bytes]:
    """A key as the kernel compares it, or a value: its first and its last. Joined parts begin at multiples of four bytes.

    ValueError for what is not known here, ranges that stand alone among it: sets of those have another form.
    """
    parts = text.split(" . ")
    if len(parts) == 1 and "/" not in text:
        return _part(text)
    if len(parts) == 1:
        raise ValueError(text)
    ends = [_part(part) for part in parts]
    first, last = (b"".join(end + bytes(-len(end) & 3) for end in side) for side in zip(*ends, strict=True))
    return first, last


def _part(text: str) -> tuple[bytes, bytes]:
    """A link's name, a mark, a protocol, a port, a range of addresses or an address."""
    if text.startswith('"'):
        name = text[1:-1].encode()
        if len(name) >= _IFNAME:
            raise ValueError(text)
        packed = name.ljust(_IFNAME, b"\0")
    elif text.startswith("0x"):
        packed = _MARK.pack(int(text, 16))
    elif text in _PROTOCOLS:
        packed = bytes((_PROTOCOLS[text],))
    elif text.isdecimal():
        if int(text) > 0xFFFF:
            raise ValueError(text)
        packed = _PORT.pack(int(text))
    elif "/" in text:
        network = ip_network(text)
        return network.network_address.packed, network.broadcast_address.packed
    else:
        packed = ip_address(text).packed
    return packed, packed


def _message(kind: int, flags: int, number: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST, number, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size & 3)


def _nested(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NESTED, value)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")
