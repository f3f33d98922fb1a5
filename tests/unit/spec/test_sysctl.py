"""Names of sysctls become paths below net, and nothing else; values are compared as the kernel reads them."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec.errors import ConfigError
from cni.spec.sysctl import path, same


@pytest.mark.parametrize(
    ("name", "ifname", "expected"),
    [
        ("net.ipv4.ip_forward", "eth0", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "eth0", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.IFNAME.arp_filter", "eth0", "net/ipv4/conf/eth0/arp_filter"),
        ("net/ipv4/conf/IFNAME/arp_filter", "eth0.100", "net/ipv4/conf/eth0.100/arp_filter"),
        ("net.ipv4.conf.IFNAME.arp_filter", "eth0.100", "net/ipv4/conf/eth0.100/arp_filter"),
        ("net.ipv4.conf.eth0/100.arp_filter", "eth0", "net/ipv4/conf/eth0.100/arp_filter"),
        ("net/ipv4/conf/eth0.100/arp_filter", "eth0", "net/ipv4/conf/eth0.100/arp_filter"),
        ("net.ipv4.conf.IFNAME/100.arp_filter", "eth0", "net/ipv4/conf/eth0.100/arp_filter"),
        ("net.ipv4.conf.IFNAME.IFNAME", "x", "net/ipv4/conf/x/IFNAME"),
    ],
)
def test_path(name: str, ifname: str, expected: str) -> None:
    assert path(name, ifname) == expected


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "net",
            "net.",
            "net/",
            ".",
            "/",
            "..",
            "kernel.hostname",
            "network.x",
            "/net/ipv4/ip_forward",
            "net..ipv4",
            "net//x",
        ),
        *("net/../kernel/hostname", "net/ipv4/..", "net/./x", "net.//.kernel.x", "net/x\0", "net.x\n", "net.x\ud800", "NET.x"),
        "net." + "x" * 300,
    ],
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ConfigError):
        path(name, "eth0")


@given(st.text(st.sampled_from("net./IFNAMEx\0 ")), st.sampled_from(["eth0", "a.b", "...", "net", "IFNAME"]))
def test_no_path_leads_elsewhere(name: str, ifname: str) -> None:
    try:
        found = path("net" + name, ifname)
    except ConfigError:
        return
    assert posixpath.normpath(f"/proc/sys/{found}") == f"/proc/sys/{found}"
    assert found.startswith("net/")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("1", "1", True),
        ("1", "01\n", True),
        ("1024 65000", "1024\t65000", True),
        ("1024 65000", "1024\t65001", False),
        ("1", "1 1", False),
        ("", "\n", True),
        ("", "1", False),
        ("cubic", "cubic", True),
        ("cubic", "reno", False),
        ("8081,8080,9000", "8080-8081,9000", True),
        ("8080,9000", "8080-8081,9000", False),
        ("-1", "-1", True),
        ("-1", "1", False),
        ("0-99999999999", "0-99999999999", True),
        ("0-99999999999", "0", False),
        ("0x400", "1024", True),
        ("0X4E20 010", "20000\t8", True),
        ("010", "10", False),
        ("0", "00", True),
        ("-0x10", "-16", True),
        ("08", "8", False),
        ("1_000", "1000", False),
        ("+5", "5", False),
        ("\u0661", "1", False),
        ("0x1f40-8002", "8000-8002", True),
        ("2001:db8::1", "2001:0db8:0000:0000:0000:0000:0000:0001", True),
        ("2001:db8::1", "2001:0db8:0000:0000:0000:0000:0000:0002", False),
    ],
)
def test_same(one: str, other: str, expected: bool) -> None:
    assert same(one, other) is same(other, one) is expected


@given(st.text(), st.text())
def test_any_text_can_be_compared(one: str, other: str) -> None:
    assert same(one, one)
    assert same(one, other) is same(other, one)
