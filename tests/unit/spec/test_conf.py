"""Decoding configurations: what Go's decoder accepts is accepted, what is wrong is named with its path."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec.addresses import Cidr, Ip, Mac, parse_cidr, parse_ip
from cni.spec.call import Call
from cni.spec.conf import (
    COMMON_KEYS,
    Dns,
    NetConf,
    check_ifname,
    check_name,
    check_network_name,
    convert,
    decode_document,
    lookup,
    read,
    text_at,
)
from cni.spec.errors import CNIError, ConfigError, DecodeError, EnvError


class Inner(msgspec.Struct, frozen=True, rename="camel"):
    """A nested record with every kind of address."""

    ip_addr: Ip | None = None
    cidr: Cidr | None = None
    mac: Mac | None = None
    deep: tuple[Inner, ...] = ()


class Open(msgspec.Struct, frozen=True):
    """A record that others extend."""

    OPEN: ClassVar[bool] = True
    type: str = ""


class Sample(NetConf, frozen=True, kw_only=True, rename="camel"):
    """A plugin's record."""

    is_gateway: bool = False
    mtu: int = 1500
    maybe: int | None = None
    list_of: tuple[Inner, ...] = ()
    one: Inner = Inner()
    ipam: Open = Open()


def sample(document: dict[str, Any], notes: list[str] | None = None) -> Sample:
    return convert(document, Sample, "configuration", notes)


@pytest.mark.parametrize(
    ("document", "field", "expected"),
    [
        ({"isGateway": True}, "is_gateway", True),
        ({"ISGATEWAY": True}, "is_gateway", True),
        ({"isgateway": True}, "is_gateway", True),
        ({"isGateway": False, "ISGATEWAY": True}, "is_gateway", False),
        ({"ISGATEWAY": True, "isGateway": False}, "is_gateway", False),
        ({"MTU": 1, "mTU": 2}, "mtu", 2),
        ({"mtu": None}, "mtu", 1500),
        ({"mtu": None, "MTU": 9}, "mtu", 1500),
        ({"maybe": None}, "maybe", None),
        ({"maybe": 0}, "maybe", 0),
        ({"LISTOF": None}, "list_of", ()),
        ({"one": None}, "one", Inner()),
        ({"ONE": {"IPADDR": "10.0.0.1"}}, "one", Inner(parse_ip("10.0.0.1"))),
        ({"one": {"ipAddr": ""}}, "one", Inner()),
        ({"one": {"cidr": "", "mac": ""}}, "one", Inner()),
        ({"one": {"cidr": "10.1.2.3/24"}}, "one", Inner(cidr=parse_cidr("10.1.2.3/24"))),
        ({"listOf": [{"MAC": "02-00-00-00-00-01"}, {}]}, "list_of", (Inner(mac=Mac("02:00:00:00:00:01")), Inner())),
        ({"one": {"deep": [{"deep": [{"ipaddr": "::1"}]}]}}, "one", Inner(deep=(Inner(deep=(Inner(parse_ip("::1")),)),))),
        ({"name": ""}, "name", ""),
        ({"dns": {"nameServers": ["10.0.0.1"], "DOMAIN": "x"}}, "dns", Dns(nameservers=("10.0.0.1",), domain="x")),
        ({"ipam": {"type": "static", "anything": {"at": ["all"]}}}, "ipam", Open("static")),
        ({"\u017f": 1, "i\u017fGateway": True}, "is_gateway", True),
    ],
)
def test_keys_fold_as_go_folds_them(document: dict[str, Any], field: str, expected: Any) -> None:
    """encoding/json: keys match without regard to case, null and (for addresses) an empty text leave the default."""
    assert getattr(sample(document), field) == expected


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"mtu": "1500"}, r"invalid configuration\.mtu: Expected `int`, got `str`"),
        ({"mtu": 1500.0}, r"invalid configuration\.mtu: Expected `int`, got `float`"),
        ({"mtu": True}, r"invalid configuration\.mtu: Expected `int`, got `bool`"),
        ({"mtu": ""}, r"invalid configuration\.mtu: Expected `int`, got `str`"),
        ({"isGateway": 1}, r"invalid configuration\.isGateway: Expected `bool`, got `int`"),
        ({"isGateway": "true"}, r"invalid configuration\.isGateway: Expected `bool`"),
        ({"name": 1}, r"invalid configuration\.name: Expected `str`"),
        ({"one": []}, r"invalid configuration\.one: Expected `object`"),
        ({"one": ""}, r"invalid configuration\.one: Expected `object`"),
        ({"listOf": {}}, r"invalid configuration\.listOf: Expected `array`"),
        ({"listOf": [{}, {"ipAddr": "x"}]}, r"invalid configuration\.listOf\[(1|\.\.\.)\]\.ipAddr: .*'x'"),
        ({"ONE": {"DEEP": [{"mac": 7}]}}, r"invalid configuration\.one\.deep\[(0|\.\.\.)\]\.mac: Expected `str`, got `int`"),
        ({"one": {"mac": "ff:ff:ff:ff:ff:ff"}}, r"invalid configuration\.one\.mac: .*multicast"),
        ({"one": {"cidr": "10.0.0.1"}}, r"invalid configuration\.one\.cidr: .*not address/length"),
        ({"listOf": [None]}, r"invalid configuration\.listOf\[(0|\.\.\.)\]: Expected `object`, got `null`"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(document: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{says}") as caught:
        sample(document)
    assert caught.value.code == 7


@pytest.mark.parametrize("document", [None, [], "x", 5, True])
def test_a_record_is_made_of_an_object_only(document: Any) -> None:
    with pytest.raises(ConfigError, match=r"^invalid prevResult: Expected `object`"):
        convert(document, Sample, "prevResult")


def test_unknown_keys_are_noted_and_have_no_effect() -> None:
    notes: list[str] = []
    found = sample({"mtuu": 9, "one": {"IPADR": "10.0.0.1"}, "listOf": [{}, {"zzzzz": 1}], "ipam": {"x": 1}}, notes)
    assert found == Sample(list_of=(Inner(), Inner()))
    assert notes == [
        "key 'mtuu' of the configuration is not known to this plugin and has no effect, did you mean 'mtu'?",
        "key 'IPADR' of the configuration.one is not known to this plugin and has no effect",
        "key 'zzzzz' of the configuration.listOf[1] is not known to this plugin and has no effect",
    ]


def test_keys_of_the_specification_are_never_noted() -> None:
    notes: list[str] = []
    sample(dict.fromkeys(COMMON_KEYS), notes)
    assert notes == []


def test_read_notes_on_the_call() -> None:
    call = Call(verb="ADD", config={"name": "net", "cniversion": "1.0.0", "isGatway": True})
    assert read(call, Sample) == Sample(name="net", cni_version="1.0.0")
    assert call.notes == [
        "key 'isGatway' of the configuration is not known to this plugin and has no effect, did you mean 'isGateway'?"
    ]


def test_defaults_are_the_records_own() -> None:
    assert sample({}) == Sample()


@pytest.mark.parametrize(
    ("stdin", "expected"),
    [
        (b"{}", {}),
        (b"null", {}),
        (b' \n{"a": 1, "a": 2}\n', {"a": 2}),
        (b'{"a": "\\u0000\\ud83d\\ude00"}', {"a": "\0\U0001f600"}),
        (b'{"a": 123456789012345678901234567890}', {"a": 123456789012345678901234567890}),
        (b'{"a": "\\ud800"}', {"a": "\ufffd"}),  # as Go reads it
        (b'{"a": 1e999}', {"a": float("inf")}),
    ],
)
def test_documents(stdin: bytes, expected: dict[str, Any]) -> None:
    assert decode_document(stdin) == expected


@pytest.mark.parametrize(
    "stdin",
    [
        *(b"", b" ", b"{", b"{}{}", b"{'a':1}", b"[]", b'"x"', b"1", b"true", b"\xef\xbb\xbf{}", b'{"a": "\xff"}', b"\0"),
        *(b'{"a": NaN}', b'{"a": ' + b"9" * 5000 + b"}", b'{"a":' + b"[" * 100_000),
        *(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"\xff\xfe{\0}\0", b'{"a": 1,}', b"{//\n}"),
    ],
    ids=repr,
)
def test_what_is_no_document_is_code_6(stdin: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_document(stdin)
    assert caught.value.code == 6
    assert "stdin" in caught.value.msg
    assert caught.value.details


def test_what_an_array_was_is_said() -> None:
    with pytest.raises(DecodeError, match="expected an object, got list"):
        decode_document(b"[]")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_document_or_code_6(stdin: bytes) -> None:
    try:
        assert isinstance(decode_document(stdin), dict)
    except DecodeError:
        pass


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    ["mtu", "MTU", "isGateway", "one", "listOf", "ipAddr", "cidr", "mac", "deep", "ipam", "dns", "type", "x"]
)


@given(st.dictionaries(keys, json_values | st.dictionaries(keys, json_values), max_size=5))
def test_any_document_is_a_record_or_code_7(document: dict[str, Any]) -> None:
    try:
        assert isinstance(sample(document), Sample)
    except ConfigError as error:
        assert error.msg.startswith("invalid configuration")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"name": 1}, 1),
        ({"NAME": 1}, 1),
        ({"NAME": 1, "name": 2}, 2),
        ({"name": None, "NAME": 1}, None),
        ({}, None),
        ({"NAME": 1, "Name": 2}, 2),
    ],
)
def test_lookup(document: dict[str, Any], expected: Any) -> None:
    assert lookup(document, "name") == expected


def test_text_at() -> None:
    assert [text_at(document, "name") for document in ({}, {"name": None}, {"Name": "x"})] == ["", "", "x"]
    for wrong in (1, [], {}, True, 0, False):
        with pytest.raises(DecodeError, match=r"'name' .*must be a string"):
            text_at({"name": wrong}, "name")


@pytest.mark.parametrize("name", ["a", "0", "A.b_c-d", "a" * 300, "net.1", "a--", "a.."])
def test_names(name: str) -> None:
    assert check_name(name)
    assert check_network_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "_a", "a/b", "a b", "a\n", "a\0", "ä", "a\u0661", "\u0661", "a:b", "..", "a~"]
)
def test_no_names(name: str) -> None:
    assert not check_name(name)
    with pytest.raises(ConfigError) as caught:
        check_network_name(name)
    assert caught.value.msg == ("invalid characters found in network name" if name else "missing network name")
    assert not name or caught.value.details == name


@pytest.mark.parametrize("ifname", ["e", "eth0", "a" * 15, "ä" * 7, "eth0.100", "...", "-", "a%b", "~", "\u20ac" * 5])
def test_interface_names(ifname: str) -> None:
    assert check_ifname(ifname) == ifname


@pytest.mark.parametrize(
    ("ifname", "says"),
    [
        ("", "is empty"),
        ("a" * 16, "less than 16"),
        ("ä" * 8, "has 16 bytes"),
        (".", r"\. or \.\."),
        ("..", r"\. or \.\."),
        ("a/b", "contains"),
        ("a:1", "contains"),
        ("a b", "contains"),
        ("a\t", "contains"),
        ("a\n", "contains"),
        ("a\0", "contains"),
        ("a\u00a0", "contains"),
        ("a\u0085", "contains"),
        ("a\u2003", "contains"),
    ],
)
def test_no_interface_names(ifname: str, says: str) -> None:
    """dev_valid_name of the kernel, and Go's unicode.IsSpace as libcni checks it."""
    with pytest.raises(EnvError, match=says):
        check_ifname(ifname)
    with pytest.raises(ConfigError, match=f"^key 'bridge' .*{says}"):
        check_ifname(ifname, "key 'bridge'", ConfigError)


@given(st.text(max_size=20))
def test_any_text_is_an_interface_name_or_refused(ifname: str) -> None:
    try:
        check_ifname(ifname)
    except CNIError:
        return
    assert 0 < len(ifname.encode()) < 16
    assert not set(ifname) & set("/: \t\n\0")
