"""Results: the bytes of each version, and reading them back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni.spec import versions
from cni.spec.addresses import is_v6, parse_cidr, parse_ip
from cni.spec.conf import Dns
from cni.spec.errors import ConfigError
from cni.spec.result import (
    AssignedIp,
    Interface,
    Result,
    Route,
    error_document,
    family,
    read_result,
    render,
    to_json,
    version_document,
)

FULL = Result(
    interfaces=(
        Interface(name="cni0", mac="02:00:00:00:00:01"),
        Interface(
            name="eth0", mac="02:00:00:00:00:02", mtu=1400, sandbox="/run/netns/<x>&y", socket_path="/s", pci_id="0000:00:1f.6"
        ),
    ),
    ips=(
        AssignedIp(parse_cidr("10.1.0.5/24"), parse_ip("10.1.0.1"), 1),
        AssignedIp(parse_cidr("fd00::5/64"), None, 0),
        AssignedIp(parse_cidr("10.2.0.5/16"), parse_ip("10.2.0.1")),
    ),
    routes=(
        Route(parse_cidr("0.0.0.0/0"), parse_ip("10.1.0.1"), mtu=1300, advmss=1200, priority=10, table=0, scope=0),
        Route(parse_cidr("fd01::/64")),
        Route(parse_cidr("192.0.2.1/24"), table=100),
    ),
    dns=Dns(nameservers=("10.1.0.1",), domain="x.test", search=("a", "b"), options=("ndots:5",)),
)

FULL_1X = """{
    "cniVersion": "VERSION",
    "dns": {
        "domain": "x.test",
        "nameservers": [
            "10.1.0.1"
        ],
        "options": [
            "ndots:5"
        ],
        "search": [
            "a",
            "b"
        ]
    },
    "interfaces": [
        {
            "mac": "02:00:00:00:00:01",
            "name": "cni0"
        },
        {
            "mac": "02:00:00:00:00:02",
            "mtu": 1400,
            "name": "eth0",
            "pciID": "0000:00:1f.6",
            "sandbox": "/run/netns/\\u003cx\\u003e\\u0026y",
            "socketPath": "/s"
        }
    ],
    "ips": [
        {
            "address": "10.1.0.5/24",
            "gateway": "10.1.0.1",
            "interface": 1
        },
        {
            "address": "fd00::5/64",
            "interface": 0
        },
        {
            "address": "10.2.0.5/16",
            "gateway": "10.2.0.1"
        }
    ],
    "routes": [
        {
            "advmss": 1200,
            "dst": "0.0.0.0/0",
            "gw": "10.1.0.1",
            "mtu": 1300,
            "priority": 10,
            "scope": 0,
            "table": 0
        },
        {
            "dst": "fd01::/64"
        },
        {
            "dst": "192.0.2.1/24",
            "table": 100
        }
    ]
}"""

FULL_03X = """{
    "cniVersion": "VERSION",
    "interfaces": [
        {
            "name": "cni0",
            "mac": "02:00:00:00:00:01"
        },
        {
            "name": "eth0",
            "mac": "02:00:00:00:00:02",
            "sandbox": "/run/netns/\\u003cx\\u003e\\u0026y"
        }
    ],
    "ips": [
        {
            "version": "4",
            "interface": 1,
            "address": "10.1.0.5/24",
            "gateway": "10.1.0.1"
        },
        {
            "version": "6",
            "interface": 0,
            "address": "fd00::5/64"
        },
        {
            "version": "4",
            "address": "10.2.0.5/16",
            "gateway": "10.2.0.1"
        }
    ],
    "routes": [
        {
            "dst": "0.0.0.0/0",
            "gw": "10.1.0.1",
            "mtu": 1300,
            "advmss": 1200,
            "priority": 10,
            "table": 0,
            "scope": 0
        },
        {
            "dst": "fd01::/64"
        },
        {
            "dst": "192.0.2.1/24",
            "table": 100
        }
    ],
    "dns": {
        "nameservers": [
            "10.1.0.1"
        ],
        "domain": "x.test",
        "search": [
            "a",
            "b"
        ],
        "options": [
            "ndots:5"
        ]
    }
}"""

FULL_02X = """{
    "cniVersion": "VERSION",
    "ip4": {
        "ip": "10.1.0.5/24",
        "gateway": "10.1.0.1",
        "routes": [
            {
                "dst": "0.0.0.0/0",
                "gw": "10.1.0.1"
            },
            {
                "dst": "192.0.2.1/24"
            }
        ]
    },
    "ip6": {
        "ip": "fd00::5/64",
        "routes": [
            {
                "dst": "fd01::/64"
            }
        ]
    },
    "dns": {
        "nameservers": [
            "10.1.0.1"
        ],
        "domain": "x.test",
        "search": [
            "a",
            "b"
        ],
        "options": [
            "ndots:5"
        ]
    }
}"""

OF_FAMILY = {"0.1": FULL_02X, "0.2": FULL_02X, "0.3": FULL_03X, "0.4": FULL_03X, "1.0": FULL_1X, "1.1": FULL_1X}
EMPTY_OLD = '{\n    "cniVersion": "VERSION",\n    "dns": {}\n}'
EMPTY_NEW = '{\n    "cniVersion": "VERSION"\n}'


@pytest.mark.parametrize("version", versions.SUPPORTED)
def test_the_bytes_of_each_version(version: str) -> None:
    """Four spaces, no newline at the end, HTML characters escaped, keys in the order that Go prints them in."""
    assert render(FULL, version).decode() == OF_FAMILY[version[:3]].replace("VERSION", version)


@pytest.mark.parametrize("version", versions.SUPPORTED)
def test_an_empty_result(version: str) -> None:
    """`dns` is always there before 1.0.0. 0.2.0 without an address is legal, where the reference fails after the work."""
    expected = EMPTY_NEW if version[0] == "1" else EMPTY_OLD
    assert render(Result(), version).decode() == expected.replace("VERSION", version)


def test_old_versions_drop_what_they_cannot_say() -> None:
    """Before 0.3.0: the first address of a family, and routes only of a family that has one."""
    only6 = Result(ips=(AssignedIp(parse_cidr("fd00::5/64")),), routes=(Route(parse_cidr("0.0.0.0/0")),))
    assert json.loads(render(only6, "0.2.0")) == {"cniVersion": "0.2.0", "ip6": {"ip": "fd00::5/64"}, "dns": {}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<>&", rb"\u003c\u003e\u0026"),
        ("\u2028\u2029", rb"\u2028\u2029"),
        ('"\\\n', rb"\"\\\n"),
        ("ä€\U0001f600", "ä€\U0001f600".encode()),
    ],
)
def test_characters_as_go_escapes_them(text: str, expected: bytes) -> None:
    assert to_json({"a": text}, indent=0) == b'{"a":"' + expected + b'"}'
    assert json.loads(to_json({text: [text]})) == {text: [text]}


@pytest.mark.parametrize(
    ("version", "expected"),
    [("0.1.0", 2), ("0.2.0", 2), ("0.3.0", 3), ("0.3.1", 3), ("0.4.0", 3), ("1.0.0", 2), ("1.1.0", 2)],
)
def test_families(version: str, expected: int) -> None:
    assert version in family(version)
    assert len(family(version)) == expected


def test_no_family() -> None:
    with pytest.raises(ConfigError, match=r"unsupported CNI result version '2\.0\.0'"):
        family("2.0.0")


def test_reading_back_loses_nothing_that_the_version_can_say() -> None:
    plain = tuple(msgspec.structs.replace(link, mtu=0, socket_path="", pci_id="") for link in FULL.interfaces)
    expected = {"1": FULL, "0": msgspec.structs.replace(FULL, interfaces=plain)}
    for version in versions.SUPPORTED[2:]:
        assert read_result(json.loads(render(FULL, version)), version, "prevResult") == expected[version[0]]


def test_reading_the_oldest() -> None:
    found = read_result(json.loads(render(FULL, "0.2.0")), "0.1.0", "prevResult")
    assert [str(ip.address) for ip in found.ips] == ["10.1.0.5/24", "fd00::5/64"]
    assert [ip.interface for ip in found.ips] == [None, None]
    assert [str(route.dst) for route in found.routes] == ["0.0.0.0/0", "192.0.2.1/24", "fd01::/64"]
    assert (found.interfaces, found.dns) == ((), FULL.dns)


v6_alone = st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None)
prefixed = st.one_of(st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(v6_alone, st.integers(0, 128))).map(
    lambda pair: parse_cidr(f"{pair[0]}/{pair[1]}")
)
plain_ips = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(lambda address: parse_ip(str(address)))
gateways = st.none() | plain_ips
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
indexes = st.none() | st.integers(0, 5)
numbers = st.integers(0, 2**32 - 1)
interfaces = st.builds(Interface, name=words, mac=words, mtu=numbers, sandbox=words, socket_path=words, pci_id=words)
routes = st.builds(Route, prefixed, gateways, numbers, numbers, numbers, st.none() | numbers, st.none() | st.integers(0, 255))
texts = st.lists(words, max_size=3).map(tuple)
results = st.builds(
    Result,
    interfaces=st.lists(interfaces, max_size=3).map(tuple),
    ips=st.lists(st.builds(AssignedIp, prefixed, gateways, indexes), max_size=3).map(tuple),
    routes=st.lists(routes, max_size=3).map(tuple),
    dns=st.builds(Dns, texts, words, texts, texts),
)


GO_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


@settings(max_examples=60)
@given(results, st.sampled_from(versions.SUPPORTED[5:]))
def test_1_x_reads_back_whole(result: Result, version: str) -> None:
    text = render(result, version)
    document = json.loads(text)
    assert read_result(document, version, "prevResult") == result
    again = json.dumps(document, indent=4, sort_keys=True, ensure_ascii=False)
    assert text.decode() == again.translate(GO_ESCAPES)


@settings(max_examples=60)
@given(results, st.sampled_from(versions.SUPPORTED))
def test_rendering_is_stable(result: Result, version: str) -> None:
    """What a version can say survives any number of turns through it."""
    once = render(result, version)
    again = read_result(json.loads(once), version, "prevResult")
    assert render(again, version) == once
    kept = {is_v6(ip.address) for ip in again.ips}
    assert kept == {is_v6(ip.address) for ip in result.ips}


ONE_IP = {"ips": [{"address": "10.0.0.1/8", "version": "4"}]}


@pytest.mark.parametrize(
    ("document", "version", "accepted"),
    [
        *(({"cniVersion": said, **ONE_IP}, "1.1.0", said in ("1.0.0", "1.1.0")) for said in (*versions.SUPPORTED, "2.0.0")),
        *(({"cniVersion": said, **ONE_IP}, "0.3.0", said in ("0.3.0", "0.3.1", "0.4.0")) for said in versions.SUPPORTED),
        *(({"cniVersion": said}, "0.2.0", said in ("0.1.0", "0.2.0")) for said in versions.SUPPORTED),
        *((dict(ONE_IP), version, True) for version in versions.SUPPORTED[2:]),
        ({"cniVersion": "", **ONE_IP}, "1.0.0", True),
        ({"cniVersion": None, **ONE_IP}, "1.0.0", True),
        ({"cniVersion": ["1.0.0"], **ONE_IP}, "1.0.0", False),
        ({"cniVersion": 1, **ONE_IP}, "1.0.0", False),
    ],
)
def test_a_result_belongs_to_its_family(document: dict[str, Any], version: str, accepted: bool) -> None:
    """libcni's rule: a configuration of a family takes the results of that family; without a version, its own."""
    if accepted:
        read_result(document, version, "prevResult")
    else:
        with pytest.raises(ConfigError, match=r"prevResult has cniVersion|prevResult\.cniVersion: expected a string"):
            read_result(document, version, "prevResult")


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ([], "invalid prevResult: expected an object, got list"),
        ("x", "invalid prevResult: expected an object, got str"),
        ({"ips": [{}]}, r"invalid prevResult\.ips\[.*\]: .*address"),
        ({"ips": [{"address": "10.0.0.1"}]}, r"invalid prevResult\.ips\[.*\]\.address: .*not address/length"),
        ({"ips": [{"address": ""}]}, r"invalid prevResult\.ips\[.*\]: .*address"),
        ({"ips": {}}, r"invalid prevResult\.ips: Expected `array`"),
        ({"ips": [{"address": "10.0.0.1/8", "interface": "0"}]}, r"invalid prevResult\.ips\[.*\]\.interface: Expected `int"),
        ({"interfaces": [{"mtu": "x"}]}, r"invalid prevResult\.interfaces\[.*\]\.mtu"),
        ({"routes": [{"dst": "default"}]}, r"invalid prevResult\.routes\[.*\]\.dst"),
        ({"routes": [{"gw": "10.0.0.1"}]}, r"invalid prevResult\.routes\[.*\]"),
        ({"dns": {"nameservers": "x"}}, r"invalid prevResult\.dns\.nameservers"),
    ],
)
def test_what_is_no_result(document: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{says}"):
        read_result(document, "1.0.0", "prevResult")


def test_go_reads_keys_in_any_case_and_so_do_we() -> None:
    found = read_result({"IPs": [{"Address": "10.0.0.1/8", "GATEWAY": "", "unknown": 1}]}, "1.0.0", "prevResult")
    assert found == Result(ips=(AssignedIp(parse_cidr("10.0.0.1/8")),))


@pytest.mark.parametrize("asked", ["", "0.3.1", "1.1.0", "9.9.9"])
def test_the_version_document(asked: str) -> None:
    """One line with its newline; it echoes what was asked (spec section 3, VERSION)."""
    text = version_document(asked)
    supported = ",".join(f'"{version}"' for version in versions.SUPPORTED)
    assert text.decode() == f'{{"cniVersion":"{asked or "1.1.0"}","supportedVersions":[{supported}]}}\n'


def test_the_error_document() -> None:
    assert error_document("1.0.0", 7, "a < b", "x & y").decode() == (
        '{\n    "cniVersion": "1.0.0",\n    "code": 7,\n    "msg": "a \\u003c b",\n    "details": "x \\u0026 y"\n}'
    )
    assert "details" not in json.loads(error_document("1.0.0", 7, "a", ""))


@given(st.text(), st.text())
def test_any_text_can_be_an_error(msg: str, details: str) -> None:
    """Also what an environment of any bytes turns into: lone surrogates, which JSON cannot carry. Nothing moves a cursor."""
    document = json.loads(error_document("1.0.0", 4, msg, details))
    told = [document["msg"], document.get("details", "")]
    for text, said in zip((msg, details), told, strict=True):
        assert said == text or not text.isprintable()
        assert said.replace("\n", "").replace("\t", "").isprintable()
    assert "\n" not in told[0]


def test_bytes_of_an_environment_stay_readable() -> None:
    document = json.loads(error_document("1.0.0", 4, b"net \xff".decode("utf-8", "surrogateescape"), ""))
    assert document["msg"] == "net \\udcff"
