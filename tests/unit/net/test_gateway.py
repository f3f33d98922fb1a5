"""Gateway addresses: which the host gets, and what stands in the way."""

from __future__ import annotations

import pytest

from cni.net.gateway import gateway_cidrs, plan_gateways, with_gateways
from cni.spec.addresses import parse_cidr, parse_ip
from cni.spec.errors import CNIError, ConfigError
from cni.spec.result import AssignedIp, Result


def ip(text: str, index: int | None = None) -> AssignedIp:
    address, _, gateway = text.partition(" ")
    return AssignedIp(parse_cidr(address), parse_ip(gateway) if gateway else None, index)


@pytest.mark.parametrize(
    ("given", "wanted", "expected"),
    [
        ("10.0.0.5/24", True, "10.0.0.5/24 10.0.0.1"),
        ("10.0.0.5/24 10.0.0.9", True, "10.0.0.5/24 10.0.0.9"),
        ("10.0.0.5/24", False, "10.0.0.5/24"),
        ("10.0.0.5/24 10.0.0.9", False, "10.0.0.5/24 10.0.0.9"),
        ("10.0.0.130/25", True, "10.0.0.130/25 10.0.0.129"),
        ("fd00::5/64", True, "fd00::5/64 fd00::1"),
        ("10.0.0.6/30", True, "10.0.0.6/30 10.0.0.5"),
        ("10.0.0.5/32 169.254.1.1", True, "10.0.0.5/32 169.254.1.1"),
        ("10.0.0.5/32", False, "10.0.0.5/32"),
    ],
)
def test_the_first_address_of_the_subnet_is_the_gateway_where_none_is_given(given: str, wanted: bool, expected: str) -> None:
    assert with_gateways([ip(given)], 2, wanted) == (ip(expected, 2),)


@pytest.mark.parametrize("address", ["10.0.0.5/32", "10.0.0.5/31", "fd00::5/128", "fd00::5/127"])
def test_a_subnet_without_room(address: str) -> None:
    with pytest.raises(ConfigError, match="no room"):
        with_gateways([ip(address)], 2, True)


def test_gateway_addresses_have_the_subnets_length_and_come_once() -> None:
    result = Result(ips=(ip("10.0.0.5/24 10.0.0.1"), ip("10.0.0.6/24 10.0.0.1"), ip("fd00::5/64 fd00::1"), ip("10.9.0.5/16")))
    assert gateway_cidrs(result) == [parse_cidr("10.0.0.1/24"), parse_cidr("fd00::1/64")]


# wanted, present, what is done
CASES = [
    (["10.0.0.1/24"], [], ["add 10.0.0.1/24"]),
    (["10.0.0.1/24"], ["10.0.0.1/24"], []),
    (["10.0.0.1/24", "10.1.0.1/24"], ["10.0.0.1/24"], ["add 10.1.0.1/24"]),
    (["10.0.0.1/24", "fd00::1/64"], ["fe80::1/64"], ["add 10.0.0.1/24", "add fd00::1/64"]),
    (["fd00::1/64"], ["10.7.0.1/16"], ["add fd00::1/64"]),
    (["10.0.0.1/24"], ["fd00::1/64"], ["add 10.0.0.1/24"]),
    # IPv6: other subnets may live on the bridge.
    (["fd00::1/64"], ["fd01::1/64"], ["add fd00::1/64"]),
    (["fe80::1/64"], ["fe80::99/64"], ["add fe80::1/64"]),
    ([], ["10.7.0.1/16"], []),
]

IN_THE_WAY = [
    (["10.0.0.1/24"], ["10.7.0.1/16"], ["delete 10.7.0.1/16", "add 10.0.0.1/24"]),
    (["10.0.0.1/24"], ["10.0.0.1/25"], ["delete 10.0.0.1/25", "add 10.0.0.1/24"]),
    (["10.0.0.1/24"], ["10.0.0.1/24", "10.0.0.2/24"], ["delete 10.0.0.2/24"]),
    (["fd00::1/64"], ["fd00::2/64"], ["delete fd00::2/64", "add fd00::1/64"]),
    (["fd00::1/64"], ["fd00::1/48"], ["delete fd00::1/48", "add fd00::1/64"]),
]


def told(wanted: list[str], present: list[str], force: bool) -> list[str]:
    plan = plan_gateways("br0.5", "br0", [parse_cidr(w) for w in wanted], [parse_cidr(p) for p in present], force)
    assert {op.ifname for op in plan} <= {"br0.5"}
    return [f"{'delete' if 'Delete' in type(op).__name__ else 'add'} {op.address}" for op in plan]


@pytest.mark.parametrize(("wanted", "present", "expected"), CASES)
@pytest.mark.parametrize("force", [False, True])
def test_what_is_missing_is_added(wanted: list[str], present: list[str], expected: list[str], force: bool) -> None:
    assert told(wanted, present, force) == expected


@pytest.mark.parametrize(("wanted", "present", "expected"), IN_THE_WAY)
def test_what_is_in_the_way(wanted: list[str], present: list[str], expected: list[str]) -> None:
    with pytest.raises(CNIError) as caught:
        told(wanted, present, False)
    assert caught.value.code == 999
    removed = next(line.split()[1] for line in expected if line.startswith("delete"))
    assert caught.value.msg == f"'br0.5' already has an IP address different from {', '.join(wanted)}: {removed}"
    assert f"ip address del {removed} dev br0.5" in caught.value.details
    assert "forceAddress" in caught.value.details
    assert told(wanted, present, True) == expected
