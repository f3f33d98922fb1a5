"""CHECK's questions about a link, its addresses and its routes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cni.net import verify
from cni.net.facts import Link, RouteSeen
from cni.spec.addresses import parse_cidr, parse_ip
from cni.spec.result import AssignedIp, Interface, Result, Route

LINK = Link(index=2, name="eth0", kind="veth", mac="02:00:00:00:00:02", mtu=1500, up=True)
INSIDE = Interface(name="eth0", mac="02:00:00:00:00:02", sandbox="/run/netns/a")


@pytest.mark.parametrize(
    ("interfaces", "expected"),
    [
        ((), None),
        ((Interface(name="eth0"),), None),
        ((Interface(name="eth1", sandbox="/run/netns/a"),), None),
        ((INSIDE,), INSIDE),
        ((Interface(name="eth0", mac="02:00:00:00:00:09"), INSIDE), INSIDE),
    ],
)
def test_the_interface_of_the_sandbox(interfaces: tuple[Interface, ...], expected: Interface | None) -> None:
    """A link on the host may have the same name."""
    prev = Result(interfaces=interfaces)
    assert verify.interface(prev, "eth0") == expected


@pytest.mark.parametrize(
    ("changes", "wanted", "mtu", "problems"),
    [
        ({}, INSIDE, 0, []),
        ({}, None, 0, []),
        ({}, msgspec.structs.replace(INSIDE, mac="02:00:00:00:00:02".upper()), 0, []),
        ({}, msgspec.structs.replace(INSIDE, mac=""), 0, []),
        ({}, INSIDE, 1500, []),
        ({"kind": "bridge"}, INSIDE, 0, ["interface eth0 is of kind 'bridge', expected 'veth'"]),
        ({"kind": ""}, INSIDE, 0, ["interface eth0 is of kind 'unknown', expected 'veth'"]),
        ({"up": False}, INSIDE, 0, ["interface eth0 is down"]),
        (
            {"mac": "02:00:00:00:00:09"},
            INSIDE,
            0,
            ["interface eth0 has MAC address 02:00:00:00:00:09, ADD gave it 02:00:00:00:00:02"],
        ),
        ({"mtu": 1400}, INSIDE, 1500, []),  # tuning made it smaller
        ({"mtu": 1400}, msgspec.structs.replace(INSIDE, mtu=1300), 1400, ["interface eth0 has MTU 1400, ADD gave it 1300"]),
        ({"mtu": 1400}, INSIDE, 0, []),
        ({"up": False, "mtu": 3}, INSIDE, 2, ["interface eth0 is down", "interface eth0 has MTU 3, ADD gave it 2"]),
    ],
)
def test_a_link(changes: dict[str, Any], wanted: Interface | None, mtu: int, problems: list[str]) -> None:
    assert verify.link(msgspec.structs.replace(LINK, **changes), "eth0", "veth", wanted, mtu) == problems


def test_a_link_that_is_gone() -> None:
    assert verify.link(None, "eth0", "veth", INSIDE, 1500) == ["interface eth0 is gone from the sandbox"]


PREV = Result(
    interfaces=(Interface(name="br0"), Interface(name="veth1"), INSIDE),
    ips=(
        AssignedIp(parse_cidr("10.0.0.5/24"), parse_ip("10.0.0.1"), 2),
        AssignedIp(parse_cidr("fd00::5/64"), None, None),
        AssignedIp(parse_cidr("10.9.0.1/24"), None, 0),
        AssignedIp(parse_cidr("10.9.0.2/24"), None, 99),
        AssignedIp(parse_cidr("10.9.0.3/24"), None, -1),
    ),
    routes=(Route(parse_cidr("0.0.0.0/0")), Route(parse_cidr("fd01::7/64"))),
)


@pytest.mark.parametrize(
    ("seen", "gone"),
    [
        (["10.0.0.5/24", "fd00::5/64"], []),
        (["fd00::5/64", "10.0.0.5/24", "192.0.2.1/24", "fe80::1/64"], []),
        (["10.0.0.5/24"], ["fd00::5/64"]),
        (["10.0.0.5/25", "fd00::5/64"], ["10.0.0.5/24"]),
        ([], ["10.0.0.5/24", "fd00::5/64"]),
    ],
)
def test_addresses(seen: list[str], gone: list[str]) -> None:
    expected = [f"address {address} is gone from interface eth0" for address in gone]
    assert verify.addresses(verify.own(PREV, "eth0"), "eth0", map(parse_cidr, seen)) == expected


def test_the_addresses_of_an_interface() -> None:
    """Those of this interface and those that name none; what another interface has is not its business."""
    own = verify.own(PREV, "eth0")
    assert [str(ip.address) for ip in own.ips] == ["10.0.0.5/24", "fd00::5/64"]
    assert msgspec.structs.replace(own, ips=PREV.ips) == PREV


def seen(dst: str, gw: str = "", table: int = 254) -> RouteSeen:
    return RouteSeen(dst=parse_cidr(dst), gw=parse_ip(gw) if gw else None, table=table)


V4 = seen("0.0.0.0/0", "10.0.0.1")
V6 = seen("fd01::/64")


@pytest.mark.parametrize(
    ("present", "gone"),
    [
        ([V4, V6], []),
        ([seen("0.0.0.0/0", "10.0.0.1", 100), seen("fd01::/64", "fd00::9", 7)], []),
        ([V4], ["route fd01::7/64 through eth0 is gone"]),
        ([V6, seen("0.0.0.0/0", "10.0.0.2")], ["route 0.0.0.0/0 via 10.0.0.1 through eth0 is gone"]),
        ([V6, seen("0.0.0.0/0")], ["route 0.0.0.0/0 via 10.0.0.1 through eth0 is gone"]),
        ([V6, seen("0.0.0.0/1", "10.0.0.1")], ["route 0.0.0.0/0 via 10.0.0.1 through eth0 is gone"]),
        ([], ["route 0.0.0.0/0 via 10.0.0.1 through eth0 is gone", "route fd01::7/64 through eth0 is gone"]),
    ],
)
def test_routes(present: list[RouteSeen], gone: list[str]) -> None:
    """In any table: sbr and vrf move them; a route without a next hop may have got one."""
    assert verify.route_problems(PREV, "eth0", present) == gone
