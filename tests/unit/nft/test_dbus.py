"""D-Bus messages, judged by jeepney: it reads what we pack, and packs what we read."""

from __future__ import annotations

import jeepney
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jeepney.low_level import Endianness, HeaderFields, MessageType, Parser

from cni.nft import dbus

NAME, PATH, ZONES = "org.fedoraproject.FirewallD1", "/org/fedoraproject/FirewallD1", "org.fedoraproject.FirewallD1.zone"
TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=40)


def parsed(data: bytes) -> jeepney.Message:
    parser = Parser()
    parser.add_data(data)
    message = parser.get_next_message()
    assert message is not None and parser.get_next_message() is None
    return message


@given(st.lists(TEXT, max_size=5), st.integers(1, 2**32 - 1))
def test_calls_are_read_by_others(arguments: list[str], number: int) -> None:
    message = parsed(dbus.call(number, NAME, PATH, ZONES, "addSource", *arguments))
    fields = message.header.fields
    assert (message.header.message_type, message.header.serial) == (MessageType.method_call, number)
    assert [fields[field] for field in (HeaderFields.destination, HeaderFields.path, HeaderFields.interface)] == [
        NAME,
        PATH,
        ZONES,
    ]
    assert (fields[HeaderFields.member], message.body) == ("addSource", tuple(arguments))
    assert message.header.flags.value == 0x2, "it starts no service"


def answer(kind: MessageType, signature: str, body: tuple[object, ...], order: Endianness, **fields: object) -> bytes:
    header = jeepney.Header(order, kind, jeepney.MessageFlag(0), 1, 0, 1, {HeaderFields[name]: fields[name] for name in fields})
    if signature:
        header.fields[HeaderFields.signature] = signature
    return jeepney.Message(header, body).serialise(serial=77)


@given(TEXT, st.sampled_from(Endianness), st.integers(1, 2**32 - 1))
def test_answers_of_others_are_read(text: str, order: Endianness, number: int) -> None:
    told = answer(MessageType.method_return, "s", (text,), order, reply_serial=number, sender=":1.5")
    assert dbus.size(told) == dbus.size(told + b"more") == len(told)
    assert dbus.read(told) == (number, "", text)
    for value in (True, False):
        assert dbus.read(answer(MessageType.method_return, "b", (value,), order, reply_serial=number)) == (number, "", value)
    refused = answer(MessageType.error, "s", (text,), order, reply_serial=number, error_name="a.b.C", destination=":1.9")
    assert dbus.read(refused) == (number, "a.b.C", text)
    assert dbus.read(answer(MessageType.method_return, "", (), order, reply_serial=number)) == (number, "", None)
    signal = answer(MessageType.signal, "s", (text,), order, path=PATH, interface=ZONES, member="SourceAdded")
    assert dbus.read(signal) is None


@given(st.binary(max_size=200))
def test_nonsense_is_refused(data: bytes) -> None:
    for begin in (b"", b"l\2\0\1", b"B\3\0\1"):
        try:
            if size := dbus.size(begin + data):
                dbus.read((begin + data)[:size])
        except ValueError:
            pass


def test_a_message_is_waited_for() -> None:
    told = answer(MessageType.method_return, "s", ("yes",), Endianness.little, reply_serial=5)
    assert {dbus.size(told[:count]) for count in range(16)} == {0}
    assert dbus.size(told[:16]) == len(told)
    with pytest.raises(ValueError, match="no D-Bus message"):
        dbus.size(told[:4] + b"\xff" * 12)
