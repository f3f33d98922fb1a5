"""The plan for an interface in a sandbox, and which routes it gets."""

from __future__ import annotations

from typing import Any

import pytest

from cni.net.configure import check_mtu, default_routes, plan_interface, routes
from cni.net.ops import AddAddress, SetSysctls
from cni.spec.addresses import parse_cidr, parse_ip
from cni.spec.result import AssignedIp, Result, Route


def lease(*ips: str, routes: tuple[Route, ...] = ()) -> Result:
    """`address/length gateway` as text, the gateway left out where there is none."""
    assigned = []
    for text in ips:
        address, _, gateway = text.partition(" ")
        assigned.append(AssignedIp(parse_cidr(address), parse_ip(gateway) if gateway else None))
    return Result(ips=tuple(assigned), routes=routes)


def route(dst: str, gw: str = "", **keys: Any) -> Route:
    return Route(parse_cidr(dst), parse_ip(gw) if gw else None, **keys)


def told(plan: list[Any]) -> list[str]:
    return [op.describe() for op in plan]


def test_a_plan_for_ipv4() -> None:
    plan = plan_interface("eth0", lease("10.0.0.5/24 10.0.0.1", routes=(route("0.0.0.0/0"),)), dad=False)
    assert told(plan) == [
        "write sysctls on the sandbox: net/ipv6/conf/eth0/accept_dad=0, net/ipv4/conf/eth0/arp_notify=1",
        "add address 10.0.0.5/24 to eth0 on the sandbox",
        "set link eth0 on the sandbox: up on",
        "add route 0.0.0.0/0 via 10.0.0.1 through eth0 on the sandbox",
    ]
    assert [op.must for op in plan if isinstance(op, SetSysctls)] == [False], "a kernel without IPv6 is fine"


def test_a_plan_for_both_families() -> None:
    plan = plan_interface("net1", lease("10.0.0.5/24", "fd00::5/64 fd00::1", routes=(route("::/0"),)), dad=False)
    assert told(plan) == [
        "write sysctls on the sandbox: net/ipv6/conf/lo/disable_ipv6=0, net/ipv6/conf/net1/disable_ipv6=0",
        (
            "write sysctls on the sandbox: net/ipv6/conf/net1/accept_dad=0, net/ipv6/conf/net1/keep_addr_on_down=1,"
            " net/ipv4/conf/net1/arp_notify=1, net/ipv6/conf/net1/ndisc_notify=1"
        ),
        "add address 10.0.0.5/24 to net1 on the sandbox",
        "add address fd00::5/64 to net1 on the sandbox",
        "set link net1 on the sandbox: up on",
        "add route ::/0 via fd00::1 through net1 on the sandbox",
    ]
    assert [op.must for op in plan if isinstance(op, SetSysctls)] == [True, False]
    assert not any(op.dad for op in plan if isinstance(op, AddAddress))


def test_duplicate_address_detection_on_request() -> None:
    plan = plan_interface("eth0", lease("fd00::5/64 fd00::1", routes=(route("::/0"),)), dad=True)
    assert told(plan)[1:] == [
        (
            "write sysctls on the sandbox: net/ipv6/conf/eth0/enhanced_dad=1, net/ipv6/conf/eth0/accept_dad=1,"
            " net/ipv6/conf/eth0/keep_addr_on_down=1, net/ipv4/conf/eth0/arp_notify=1, net/ipv6/conf/eth0/ndisc_notify=1"
        ),
        "add address fd00::5/64 to eth0 on the sandbox",
        "set link eth0 on the sandbox: up on",
        "wait for duplicate address detection on eth0",
        "add route ::/0 via fd00::1 through eth0 on the sandbox",
    ]
    assert all(op.dad for op in plan if isinstance(op, AddAddress))
    assert not any("wait" in line for line in told(plan_interface("eth0", lease("10.0.0.5/24"), dad=True)))


@pytest.mark.parametrize(
    ("given", "installed"),
    [
        (lease("10.0.0.5/24 10.0.0.1", routes=(route("0.0.0.0/0"),)), [route("0.0.0.0/0", "10.0.0.1")]),
        (lease("10.0.0.5/24 10.0.0.1", routes=(route("0.0.0.0/0", "10.0.0.9"),)), [route("0.0.0.0/0", "10.0.0.9")]),
        (lease("10.0.0.5/24", routes=(route("192.0.2.0/24"),)), [route("192.0.2.0/24")]),
        # Each family has its own gateway, and the first one counts.
        (
            lease(
                "10.0.0.5/24 10.0.0.1",
                "10.1.0.5/24 10.1.0.1",
                "fd00::5/64 fd00::1",
                routes=(route("::/0"), route("192.0.2.0/24")),
            ),
            [route("::/0", "fd00::1"), route("192.0.2.0/24", "10.0.0.1")],
        ),
        (lease("10.0.0.5/24 10.0.0.1", routes=(route("::/0"),)), [route("::/0")]),
        # The same route twice is one, written out or not.
        (
            lease(
                "10.0.0.5/24 10.0.0.1",
                routes=(route("0.0.0.0/0"), route("0.0.0.0/0", "10.0.0.1"), route("0.0.0.0/0", "10.0.0.2")),
            ),
            [route("0.0.0.0/0", "10.0.0.1"), route("0.0.0.0/0", "10.0.0.2")],
        ),
        (
            lease("10.0.0.5/24 10.0.0.1", routes=(route("192.0.2.0/24", mtu=1300, advmss=1200, priority=5, table=7, scope=0),)),
            [route("192.0.2.0/24", "10.0.0.1", mtu=1300, advmss=1200, priority=5, table=7, scope=0)],
        ),
    ],
)
def test_routes_as_installed(given: Result, installed: list[Route]) -> None:
    assert routes(given) == installed


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (lease("10.0.0.5/24 10.0.0.1"), [route("0.0.0.0/0", "10.0.0.1")]),
        (lease("fd00::5/64 fd00::1"), [route("::/0", "fd00::1")]),
        (lease("10.0.0.5/24 10.0.0.1", "fd00::5/64 fd00::1"), [route("0.0.0.0/0", "10.0.0.1"), route("::/0", "fd00::1")]),
        (lease("10.0.0.5/24"), []),
        # A default route without a next hop becomes the one through the gateway, its other keys kept.
        (lease("10.0.0.5/24 10.0.0.1", routes=(route("0.0.0.0/0", priority=9),)), [route("0.0.0.0/0", "10.0.0.1", priority=9)]),
        # One that names its next hop wins, also against the gateway.
        (lease("10.0.0.5/24 10.0.0.1", routes=(route("0.0.0.0/0", "10.0.0.9"),)), [route("0.0.0.0/0", "10.0.0.9")]),
        (
            lease("10.0.0.5/24 10.0.0.1", "fd00::5/64 fd00::1", routes=(route("192.0.2.0/24"), route("0.0.0.0/0", "10.0.0.9"))),
            [route("192.0.2.0/24"), route("0.0.0.0/0", "10.0.0.9"), route("::/0", "fd00::1")],
        ),
        # Without a gateway in its family a default route stays what it is.
        (lease("10.0.0.5/24 10.0.0.1", routes=(route("::/0"),)), [route("0.0.0.0/0", "10.0.0.1"), route("::/0")]),
        (lease("10.0.0.5/24 10.0.0.1", "10.1.0.5/24 10.1.0.1"), [route("0.0.0.0/0", "10.0.0.1")]),
    ],
)
def test_default_routes(given: Result, expected: list[Route]) -> None:
    assert list(default_routes(given)) == expected


@pytest.mark.parametrize(
    ("mtu", "addresses", "wrong"),
    [
        (0, ["fd00::5/64"], False),
        (1280, ["fd00::5/64"], False),
        (1279, ["fd00::5/64"], True),
        (1279, ["10.0.0.5/24"], False),
        (68, ["10.0.0.5/24", "fd00::5/64"], True),
        (68, [], False),
    ],
)
def test_ipv6_needs_1280_bytes(mtu: int, addresses: list[str], wrong: bool) -> None:
    assert bool(check_mtu(mtu, map(parse_cidr, addresses))) is wrong
    assert not wrong or "1280" in check_mtu(mtu, map(parse_cidr, addresses))
