"""Text to addresses: what is one, what is none, and in which words."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec.addresses import Cidr, Ip, Mac, decode_address, is_v6, parse_cidr, parse_ip, parse_mac


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("0.0.0.0", "0.0.0.0"),
        ("::", "::"),
        ("FD00::0001", "fd00::1"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::10.1.2.3", "::a01:203"),
    ],
)
def test_ip(text: str, expected: str) -> None:
    assert parse_ip(text) == ip_address(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.1.2",
        "10.1.2.3.4",
        "010.1.2.3",
        "10.1.2.256",
        "10.1.2.3/24",
        " 10.1.2.3",
        "fe80::1%eth0",
        "::g",
        "١.1.1.1",
        "ten",
    ],
)
def test_no_ip(text: str) -> None:
    with pytest.raises(ValueError):
        parse_ip(text)


def test_a_zone_is_named_as_the_reason() -> None:
    for parse, text in ((parse_ip, "fe80::1%eth0"), (parse_cidr, "fe80::1%eth0/64")):
        with pytest.raises(ValueError, match="zone"):
            parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.2.3/24", "10.1.2.3/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("10.1.2.3/32", "10.1.2.3/32"),
        ("fd00:0:0::3/64", "fd00::3/64"),
        ("::/0", "::/0"),
        ("::ffff:10.1.2.3/120", "10.1.2.3/24"),
        ("::FFFF:a01:203/96", "10.1.2.3/0"),
    ],
)
def test_cidr_keeps_its_host_bits(text: str, expected: str) -> None:
    assert str(parse_cidr(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("10.1.2.3", "10.1.2.3/", "10.1.2.3/33", "10.1.2.3/-1", "10.1.2.3/ 24", "10.1.2.3/٢٤", "10.1.2.3/24/1"),
        *(
            "10.1.2.3/255.255.255.0",
            "::1/129",
            "::1",
            "/24",
            "",
            "fe80::1%a/64",
            f"10.1.2.3/{'9' * 5000}",
            "::ffff:10.1.2.3/95",
        ),
    ],
)
def test_no_cidr(text: str) -> None:
    with pytest.raises(ValueError):
        parse_cidr(text)


@pytest.mark.parametrize("text", ["02:00:00:00:0a:FF", "02-00-00-00-0A-ff", "0200.0000.0aff"])
def test_mac_forms(text: str) -> None:
    assert parse_mac(text) == "02:00:00:00:0a:ff"
    assert isinstance(parse_mac(text), Mac)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a 48-bit"),
        ("02:00:00:00:00", "not a 48-bit"),
        ("02:00:00:00:00:00:00:01", "not a 48-bit"),
        ("020000000001", "not a 48-bit"),
        ("02:00:00:00:00:0g", "not a 48-bit"),
        ("2:0:0:0:0:1", "not a 48-bit"),
        ("02:00:00-00:00:1", "not a 48-bit"),
        ("0200.00:00.0001", "not a 48-bit"),
        ("02:00:00:00:00: 1", "not a 48-bit"),
        ("01:00:5e:00:00:01", "multicast"),
        ("ff:ff:ff:ff:ff:ff", "multicast"),
        ("00:00:00:00:00:00", "no address"),
    ],
)
def test_no_mac(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_mac(text)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (Ip, "10.0.0.1", ip_address("10.0.0.1")),
        (Cidr, "fd00::1/64", ip_interface("fd00::1/64")),
        (Mac, "02-00-00-00-00-01", "02:00:00:00:00:01"),
    ],
)
def test_decoding_by_type(kind: type, text: str, expected: object) -> None:
    assert decode_address(kind, text) == expected
    for wrong in (1, None, [text], True):
        with pytest.raises(ValueError, match=r"Expected `str`, got `"):
            decode_address(kind, wrong)


def test_abstract_names_stand_for_both_families() -> None:
    for text in ("10.0.0.1", "::1"):
        assert isinstance(parse_ip(text), Ip)
        assert isinstance(parse_cidr(f"{text}/8"), Cidr)
    assert (is_v6(parse_ip("::1")), is_v6(parse_cidr("10.0.0.1/8"))) == (True, False)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_every_address_reads_back(address: IPv4Address | IPv6Address) -> None:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    assert parse_ip(str(address)) == (mapped or address)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    for parse in (parse_ip, parse_cidr, parse_mac):
        try:
            parsed = parse(text)
        except ValueError:
            continue
        assert parse(str(parsed)) == parsed
