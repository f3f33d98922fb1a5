"""bridge: what ADD tells, in every version, and that the kernel agrees with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe
from tests.netns.conftest import DEFAULT_ROUTES, DUAL, V4, V6, bridge

if TYPE_CHECKING:
    from tests.netns.conftest import Attachment, Lab

pytestmark = pytest.mark.root

LATE = pytest.mark.known_reference_failure("1.1.0 is later than 1.1.1 of the plugins.")
RICH = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", pytest.param("1.1.0", marks=LATE)]
ROUTED = {**DUAL, "routes": DEFAULT_ROUTES}
MAC = r"[0-9a-f]{2}(:[0-9a-f]{2}){5}"


def judged(it: Attachment, version: str) -> dict[str, Any]:
    """The result, after its interfaces were compared with the kernel's."""
    result = it.add()
    assert result["cniVersion"] == version
    node, here = it.lab.node, observe.links(it.lab.node)
    inside = observe.links(node, pod=it.pod)
    first, second, third = result["interfaces"]
    assert first["name"] == it.config.get("bridge", "cni0") and first["mac"] == here[first["name"]]["address"]
    assert second["name"] == it.host_veth and second["mac"] == here[it.host_veth]["address"]
    assert third["name"] == it.ifname and third["mac"] == inside[it.ifname]["address"]
    assert third["sandbox"] == it.netns and "sandbox" not in first and "sandbox" not in second
    for told, real in (
        (first, here[first["name"]]),
        (second, here[second["name"]]),
        (third, inside[it.ifname]),
    ):
        assert re.fullmatch(MAC, told["mac"])
        assert told.get("mtu", real["mtu"]) == real["mtu"]
        assert set(told) <= {"name", "mac", "sandbox"} | ({"mtu"} if version >= "1.1" else set())
    assert here[it.host_veth]["master"] == first["name"]
    return result


@pytest.mark.parametrize("version", RICH)
def test_dual_stack(lab: Lab, version: str) -> None:
    """ADD Success: interfaces created, ips with the index of the container's interface, routes."""
    result = judged(lab.attachment(bridge(ROUTED, version=version, isGateway=True)), version)
    family = [{"version": "4"}, {"version": "6"}] if version < "1" else [{}, {}]
    assert result["ips"] == [
        {**family[0], "address": "10.10.0.2/24", "gateway": "10.10.0.1", "interface": 2},
        {**family[1], "address": "fd00:10::2/64", "gateway": "fd00:10::1", "interface": 2},
    ]
    assert result["routes"] == DEFAULT_ROUTES
    assert ("dns" in result) == (version < "1") or not result["dns"]


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_dual_stack_before_0_3_0(lab: Lab, version: str) -> None:
    """0.2.0, Result: ip4 and ip6 with the routes of their family, dns."""
    result = lab.attachment(bridge(ROUTED, version=version, isGateway=True)).add()
    assert result == {
        "cniVersion": version,
        "ip4": {"ip": "10.10.0.2/24", "gateway": "10.10.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "ip6": {"ip": "fd00:10::2/64", "gateway": "fd00:10::1", "routes": [{"dst": "::/0"}]},
        "dns": {},
    }


@pytest.mark.parametrize("version", RICH)
def test_l2(lab: Lab, version: str) -> None:
    """Without ipam: the interfaces and nothing else."""
    result = judged(lab.attachment(bridge(version=version)), version)
    assert not result.get("ips") and not result.get("routes")


@pytest.mark.known_reference_failure(
    "An L2 result cannot be told in 0.2.0: error after the work, and the link stays (cannot convert: no valid IP)."
)
@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_l2_before_0_3_0(lab: Lab, version: str) -> None:
    """0.2.0, Result: ip4 and ip6 are optional."""
    assert lab.attachment(bridge(version=version)).add() == {"cniVersion": version, "dns": {}}


@pytest.mark.parametrize(
    ("ipam", "address", "told"),
    [(V4, "10.10.0.2/24", "10.10.0.1"), (V6, "fd00:10::2/64", "fd00:10::1")],
    ids=["v4", "v6"],
)
def test_the_kernel_has_the_addresses(lab: Lab, ipam: dict[str, Any], address: str, told: str) -> None:
    """The address of the result is on the interface of the result, which is up."""
    it = lab.added(bridge(ipam, isDefaultGateway=True))
    assert set(observe.addresses(lab.node, "eth0", pod=it.pod)) == {address}
    assert "UP" in observe.links(lab.node, pod=it.pod)["eth0"]["flags"]
    assert observe.default_gateways(lab.node, pod=it.pod) == {told}
    assert observe.links(lab.node)[it.host_veth]["operstate"] == "UP"


def test_broadcast_address(lab: Lab) -> None:
    """An IPv4 address has its subnet's broadcast address."""
    it = lab.added(bridge(V4))
    assert observe.addresses(lab.node, "eth0", pod=it.pod)["10.10.0.2/24"]["broadcast"] == "10.10.0.255"


def test_routes_of_ipam(lab: Lab) -> None:
    """Routes without gw go through the gateway of their family, others through their own."""
    routes = [
        {"dst": "198.51.100.0/24"},
        {"dst": "203.0.113.0/24", "gw": "10.10.0.9"},
        {"dst": "2001:db8::/32"},
        {"dst": "2001:db8:1::/48", "gw": "fd00:10::9"},
    ]
    it = lab.added(bridge({**DUAL, "routes": routes}, isGateway=True))
    found = {route["dst"]: route["gateway"] for route in observe.routes(lab.node, pod=it.pod) if "gateway" in route}
    assert found == {
        "198.51.100.0/24": "10.10.0.1",
        "203.0.113.0/24": "10.10.0.9",
        "2001:db8::/32": "fd00:10::1",
        "2001:db8:1::/48": "fd00:10::9",
    }
    assert it.result is not None and it.result["routes"] == routes


@pytest.mark.known_reference_failure("CHECK of 1.1.1 wants a route without gw that has no gateway in the pod either.")
def test_check_of_routes_without_gw(lab: Lab) -> None:
    """routes: if gw is unset, the gateway of ips may be used; CHECK straight after ADD must succeed."""
    it = lab.added(bridge({**DUAL, "routes": [{"dst": "198.51.100.0/24"}, {"dst": "::/0"}]}, isGateway=True))
    it.check().succeeded()


@LATE
def test_route_attributes(lab: Lab) -> None:
    """ADD Success, routes: mtu, advmss, priority, table, scope; they are set, not only told."""
    routes = [
        {"dst": "198.51.100.0/24", "gw": "10.10.0.1", "mtu": 1400, "advmss": 1300, "priority": 50},
        {"dst": "203.0.113.0/24", "table": 77},
    ]
    it = lab.added(bridge({**V4, "routes": routes}, version="1.1.0", isGateway=True))
    found = {route["dst"]: route for route in observe.routes(lab.node, pod=it.pod, table="all")}
    shaped = found["198.51.100.0/24"]
    assert shaped["metric"] == 50 and shaped["metrics"][0]["mtu"] == 1400 and shaped["metrics"][0]["advmss"] == 1300
    assert str(found["203.0.113.0/24"]["table"]) == "77"
    assert it.result is not None and it.result["routes"] == routes
    it.check().succeeded()


@LATE
def test_route_on_the_link(lab: Lab) -> None:
    """routes: a value in gateway of ips *may* be used; a route of scope link (253) has no gateway."""
    routes = [{"dst": "192.0.2.0/24", "scope": 253}]
    it = lab.added(bridge({**V4, "routes": routes}, version="1.1.0", isGateway=True))
    (found,) = [route for route in observe.routes(lab.node, pod=it.pod) if route["dst"] == "192.0.2.0/24"]
    assert found["scope"] == "link" and "gateway" not in found
    it.check().succeeded()


def test_an_ipv6_pod_is_usable_at_once(lab: Lab) -> None:
    """containernetworking/plugins#680: two seconds of duplicate address detection for every pod."""
    it = lab.added(bridge(V6, isGateway=True))
    found = observe.addresses(lab.node, "eth0", pod=it.pod)["fd00:10::2/64"]
    assert not found.get("tentative") and not found.get("dadfailed")


@pytest.mark.known_reference_failure("The gateway's address on a new bridge is tentative for a second or two.")
def test_an_ipv6_gateway_is_usable_at_once(lab: Lab) -> None:
    """CHECK may be called immediately after ADD; a pod that may start must be able to reach its gateway."""
    it = lab.added(bridge(V6, isGateway=True))
    assert not observe.addresses(lab.node, "cni0")["fd00:10::1/64"].get("tentative")
    assert lab.node.pings("fd00:10::1", pod=it.pod, seconds=0)


def test_ipv6_switched_off_in_the_pod(lab: Lab) -> None:
    """A runtime that switched IPv6 off by default still gets the IPv6 address it configured."""
    it = lab.attachment(bridge(DUAL, isGateway=True))
    lab.node.sh("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6", pod=it.pod)
    lab.node.sh("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6", pod=it.pod)
    it.add()
    assert set(observe.addresses(lab.node, "eth0", pod=it.pod)) == {"10.10.0.2/24", "fd00:10::2/64"}


def test_a_second_interface_of_the_same_container(lab: Lab) -> None:
    """A container may be added to a network more than once if each addition has another interface name."""
    one = lab.added(bridge(V4, isGateway=True))
    two = lab.attachment(bridge(V4, isGateway=True), pod=one.pod, container_id=one.container_id, ifname="net1")
    two.add()
    assert set(observe.addresses(lab.node, "net1", pod=one.pod)) == {"10.10.0.3/24"}
    one.check().succeeded()
    two.check().succeeded()
    one.delete().succeeded()
    assert set(observe.links(lab.node, pod=one.pod)) == {"lo", "net1"}
    assert set(observe.leases(lab.node, "net")) == {"10.10.0.3"}
    two.check().succeeded()


def test_interface_names_at_the_limit(lab: Lab) -> None:
    """An interface name has up to 15 bytes; the host's interface does not depend on it."""
    it = lab.added(bridge(V4), ifname="abcdefghijklmno")
    it.check().succeeded()
    it.delete().succeeded()
    assert it.leftovers() == []
