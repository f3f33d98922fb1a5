"""PURE. D-Bus messages of the few kinds that firewalld needs: calls whose arguments are strings, and their answers.

A library would do this as well; the small one (jeepney) takes 12 ms to import, at every ADD on a host with a system bus, most
often to learn that no firewalld is there. Tests let it judge what is packed and read here.
"""

from __future__ import annotations

from struct import error as StructError
from struct import pack, unpack_from
from typing import NamedTuple

_CALL, _ANSWER, _ERROR = 1, 2, 3
_NO_AUTO_START = 0x2
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_FIXED = 16  # bytes up to the length of the header's fields, it included

# The specification's limit of a message is 128 MiB; what is asked here is answered with a few words.
LONGEST = 1 << 20


class Answer(NamedTuple):
    """What a call was answered: its number, an error's name or nothing, and the first argument, if a string or boolean."""

    number: int
    error: str
    value: str | bool | None


def call(number: int, destination: str, path: str, interface: str, member: str, *arguments: str) -> bytes:
    """A call; it starts no service that is not running."""
    body = b""
    for argument in arguments:
        body += bytes(-len(body) & 3) + _string(argument)
    fields = [
        (_PATH, b"o", _string(path)),
        (_DESTINATION, b"s", _string(destination)),
        (_INTERFACE, b"s", _string(interface)),
        (_MEMBER, b"s", _string(member)),
    ]
    if arguments:
        fields.append((_SIGNATURE, b"g", bytes((len(arguments),)) + b"s" * len(arguments) + b"\0"))
    packed = b""
    for code, kind, value in fields:
        packed += bytes(-len(packed) & 7) + bytes((code, 1)) + kind + b"\0" + value
    head = b"l" + bytes((_CALL, _NO_AUTO_START, 1)) + pack("<III", len(body), number, len(packed))
    return head + packed + bytes(-len(packed) & 7) + body


def size(data: bytes) -> int:
    """The length of the message that data begins with, 0 when too little of it is there. ValueError for what is none."""
    if len(data) < _FIXED:
        return 0
    order = _order(data)
    body, _, fields = unpack_from(order + "III", data, 4)
    found: int = _FIXED + fields + (-fields & 7) + body
    if data[3] != 1 or found > LONGEST:
        raise ValueError("this is no D-Bus message")
    return found


def read(message: bytes) -> Answer | None:
    """A whole message, if it is an answer. ValueError for one that makes no sense."""
    order = _order(message)
    try:
        length = unpack_from(order + "I", message, 12)[0]
        at, end, told = _FIXED, _FIXED + length, dict[int, str | int]()
        while at < end:
            at += -at & 7
            code, kind = message[at], message[at + 2 : at + 3]
            at += 4
            if kind == b"u":
                told[code] = unpack_from(order + "I", message, at)[0]
                at += 4
            elif kind == b"g":
                told[code] = message[at + 1 : at + 1 + message[at]].decode()
                at += message[at] + 2
            elif kind in (b"s", b"o"):
                told[code], at = _text(order, message, at)
            else:
                raise ValueError(f"a D-Bus message with a field of type {kind!r}")
        if message[1] not in (_ANSWER, _ERROR):
            return None
        return Answer(
            int(told.get(_REPLY_SERIAL, 0)),
            str(told.get(_ERROR_NAME, "an error without name")) if message[1] == _ERROR else "",
            _first(order, message, end + (-end & 7), str(told.get(_SIGNATURE, ""))),
        )
    except (IndexError, ValueError, StructError) as error:
        raise ValueError(f"this D-Bus message makes no sense: {error}") from error


def _first(order: str, message: bytes, at: int, signature: str) -> str | bool | None:
    if signature.startswith("s"):
        return _text(order, message, at)[0]
    return bool(unpack_from(order + "I", message, at)[0]) if signature.startswith("b") else None


def _text(order: str, message: bytes, at: int) -> tuple[str, int]:
    length = unpack_from(order + "I", message, at)[0]
    return message[at + 4 : at + 4 + length].decode(errors="replace"), at + 4 + length + 1


def _order(data: bytes) -> str:
    order = {b"l": "<", b"B": ">"}.get(data[:1])
    if order is None:
        raise ValueError("this is no D-Bus message")
    return order


def _string(text: str) -> bytes:
    raw = text.encode()
    return pack("<I", len(raw)) + raw + b"\0"
