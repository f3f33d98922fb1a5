"""bridge: CHECK finds every kind of damage and says what it is; it tolerates what others may add."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe
from tests.netns.conftest import BACKENDS, DUAL, V4, bridge, damaged

if TYPE_CHECKING:
    from tests.netns.conftest import Damage, Lab

pytestmark = pytest.mark.root

ROUTES = [{"dst": "198.51.100.0/24", "gw": "10.10.0.9"}, {"dst": "2001:db8::/32", "gw": "fd00:10::9"}]
IPAM = {**DUAL, "routes": ROUTES}


def conf(backend: str = "nftables", **keys: Any) -> dict[str, Any]:
    return bridge(IPAM, isDefaultGateway=True, ipMasq=True, ipMasqBackend=backend, mtu=1400, **keys)


DAMAGE: Damage = {
    "interface-gone": ("pod", "ip link del eth0", "eth0", ""),
    "interface-down": ("pod", "ip link set eth0 down; ip link set eth0 up; ip link set eth0 down", "eth0.*(down|up)", ""),
    "mac": ("pod", "ip link set eth0 address 02:00:00:00:00:99", "02:00:00:00:00:99|mac", ""),
    "mtu": ("pod", "ip link set eth0 mtu 1450", "mtu.*1450|1450.*mtu", "MTU"),
    "host-mtu": ("node", "ip link set {veth} mtu 1300", "mtu.*1300|1300.*mtu", "MTU"),
    "address-gone": ("pod", "ip addr del 10.10.0.2/24 dev eth0", "10.10.0.2", ""),
    "v6-address-gone": ("pod", "ip addr del fd00:10::2/64 dev eth0", "fd00:10::2", ""),
    "address-with-another-length": (
        "pod",
        "ip addr add 10.10.0.2/25 dev eth0; ip addr del 10.10.0.2/24 dev eth0",
        "10.10.0.2/24",
        "",
    ),
    "route-gone": ("pod", "ip route del 198.51.100.0/24", "198.51.100.0/24", ""),
    "v6-route-gone": ("pod", "ip -6 route del 2001:db8::/32", "2001:db8::/32", ""),
    "route-through-another": (
        "pod",
        "ip route replace 198.51.100.0/24 via 10.10.0.7",
        "198.51.100.0/24",
        "",
    ),
    "default-route-gone": ("pod", "ip route del default", "0.0.0.0/0|default", ""),
    "off-the-bridge": ("node", "ip link set {veth} nomaster", "cni0", ""),
    "on-another-bridge": (
        "node",
        "ip link add other type bridge; ip link set {veth} master other",
        "cni0|other",
        "",
    ),
    "host-end-down": ("node", "ip link set {veth} down", "{veth}", "the link's state"),
    "bridge-down": ("node", "ip link set cni0 down", "cni0", "the link's state"),
    "bridge-gone": ("node", "ip link del cni0", "cni0", ""),
    "masquerade-gone": ("node", "nft flush ruleset", "masq", "masquerade rules"),
    "lease-gone": ("node", "rm /var/lib/cni/networks/net/10.10.0.2", "10.10.0.2", "every address's lease"),
    "leases-gone": ("node", "rm /var/lib/cni/networks/net/10.10.0.2 /var/lib/cni/networks/net/fd00:10::2", "10.10.0.2", ""),
    "lease-of-another": (
        "node",
        "printf 'another\\r\\neth0' >/var/lib/cni/networks/net/10.10.0.2",
        "10.10.0.2",
        "every address's lease",
    ),
    "gateway-gone": ("node", "ip addr del 10.10.0.1/24 dev cni0", "10.10.0.1", "the gateway's address"),
    "v6-gateway-gone": ("node", "ip addr del fd00:10::1/64 dev cni0", "fd00:10::1", "the gateway's address"),
    "forwarding-off": ("node", "echo 0 >/proc/sys/net/ipv4/ip_forward", "forward", "forwarding"),
}


@pytest.mark.parametrize("name", damaged(DAMAGE))
def test_damage_is_found(lab: Lab, name: str) -> None:
    """CHECK should return an error if a resource that the plugin created is missing or in an invalid state."""
    where, script, says, _ = DAMAGE[name]
    it = lab.added(conf())
    it.check().succeeded()
    veth = it.host_veth
    lab.node.sh(script.format(veth=veth), pod=it.pod if where == "pod" else None)
    before = lab.snapshot()
    it.check().refused(999, says=says.format(veth=veth))
    lab.unchanged_since(before)


@pytest.mark.known_reference_failure("CHECK does not look at masquerade rules.")
@pytest.mark.parametrize("backend", BACKENDS)
def test_missing_masquerade_of_each_backend(lab: Lab, backend: str) -> None:
    """CHECK should return an error if firewall rules are missing."""
    it = lab.added(conf(backend))
    it.check().succeeded()
    lab.node.sh("nft flush ruleset")
    it.check().refused(999, says="masq")


@pytest.mark.parametrize(
    ("keys", "script", "says"),
    [
        ({"hairpinMode": True}, "bridge link set dev {veth} hairpin off", "hairpin"),
        ({"portIsolation": True}, "bridge link set dev {veth} isolated off", "isol"),
        ({"promiscMode": True}, "ip link set cni0 promisc off", "promisc"),
        ({"macspoofchk": True}, "nft flush ruleset", "spoof"),
    ],
    ids=["hairpin", "isolation", "promisc", "macspoofchk"],
)
@pytest.mark.usefixtures("own_promise")
def test_damage_to_what_keys_asked_for(lab: Lab, keys: dict[str, Any], script: str, says: str) -> None:
    """CHECK verifies what was really set up."""
    it = lab.added(bridge(V4, **keys))
    it.check().succeeded()
    lab.node.sh(script.format(veth=it.host_veth))
    it.check().refused(999, says=says)


TABLES = "CHECK looks at the main table only: chains with sbr or vrf always fail (containernetworking/plugins#297)."
FLOATS = "CHECK compares the bridge's MAC address, which follows its ports when there is no gateway address."

TOLERATED = {
    "another-address": ("pod", "ip addr add 192.0.2.9/24 dev eth0", ""),
    "another-route": ("pod", "ip route add 203.0.113.0/24 via 10.10.0.9", ""),
    "another-interface": ("pod", "ip link add eth1 type bridge", ""),
    "route-in-another-table": (
        "pod",
        "ip route del 198.51.100.0/24; ip route add 198.51.100.0/24 via 10.10.0.9 table 100",
        TABLES,
    ),
    "all-routes-in-another-table": (
        "pod",
        """
            ip rule add from 10.10.0.2 lookup 100; ip route add 10.10.0.0/24 dev eth0 table 100
            ip route add default via 10.10.0.1 table 100; ip route add 198.51.100.0/24 via 10.10.0.9 table 100
            ip route del 198.51.100.0/24; ip route del default; ip route del 10.10.0.0/24
        """,
        TABLES,
    ),
    "interface-alias": ("pod", "ip link set eth0 alias web", ""),
    "another-port-of-the-bridge": ("node", "ip link add x type veth peer name y; ip link set x master cni0 up", ""),
    "somebody-listens": ("node", "ip link set cni0 promisc on", "CHECK fails while somebody runs tcpdump."),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.known_reference_failure(case[2])] if case[2] else [])
        for name, case in TOLERATED.items()
    ],
)
def test_what_others_add_is_tolerated(lab: Lab, name: str) -> None:
    """CHECK must allow for a later chained plugin to have modified networking resources, e.g. routes."""
    where, script, _ = TOLERATED[name]
    it = lab.added(conf())
    lab.node.sh(script, pod=it.pod if where == "pod" else None)
    assert it.check().succeeded().stdout == b""


@pytest.mark.known_reference_failure(FLOATS)
def test_the_bridges_mac_may_follow_its_ports(lab: Lab) -> None:
    """Pods come and go; the bridge's MAC address without a gateway is the kernel's business."""
    pods = [lab.added(bridge(V4)) for _ in range(4)]
    for it in pods[:2]:
        it.delete().succeeded()
        for other in pods[2:]:
            other.check().succeeded()


def test_the_case_of_mac_addresses_does_not_matter(lab: Lab) -> None:
    """A chained tuning plugin reports the MAC address in the case of its configuration."""
    it = lab.added(conf())
    result = copy.deepcopy(it.result) or {}
    if not lab.plugins.ours:
        pytest.skip("texts of MAC addresses are not specified")
    for interface in result["interfaces"]:
        interface["mac"] = interface["mac"].upper()
    it.check(result).succeeded()


def test_a_mac_set_by_a_later_plugin(lab: Lab) -> None:
    """CHECK consults the prevResult: the final result says which MAC address is right."""
    it = lab.added(conf())
    lab.node.sh("ip link set eth0 address 02:00:00:00:00:99", pod=it.pod)
    result = copy.deepcopy(it.result) or {}
    result["interfaces"][2]["mac"] = "02:00:00:00:00:99"
    it.check(result).succeeded()


def test_interfaces_of_later_plugins(lab: Lab) -> None:
    """CHECK consults the prevResult, which may list what chained plugins made."""
    it = lab.added(conf())
    result = copy.deepcopy(it.result) or {}
    result["interfaces"].append({"name": "ifb0", "mac": "02:00:00:00:00:77"})
    it.check(result).succeeded()


@pytest.mark.known_reference_failure("An address of another interface is looked for on this one.")
def test_addresses_of_later_plugins(lab: Lab) -> None:
    """CHECK: only what the plugin itself created is its business."""
    it = lab.added(conf())
    result = copy.deepcopy(it.result) or {}
    result["interfaces"].append({"name": "net1", "mac": "02:00:00:00:00:77", "sandbox": it.netns})
    result["ips"].append({"address": "203.0.113.5/24", "interface": 3})
    it.check(result).succeeded()


@pytest.mark.known_reference_failure("CHECK of a bridge without ipam fails: `no plugin name provided`.")
def test_l2(lab: Lab) -> None:
    """CHECK straight after ADD must succeed, also without ipam."""
    it = lab.added(bridge())
    it.check().succeeded()
    lab.node.sh(f"ip link set {it.host_veth} nomaster")
    it.check().refused(999, says="cni0")


@pytest.mark.known_reference_failure("A /32 address has no route of its own: CHECK always fails.")
def test_single_addresses(lab: Lab) -> None:
    """CHECK straight after ADD must succeed, whatever the prefix length."""
    ipam = {"type": "static", "addresses": [{"address": "10.10.0.9/32"}, {"address": "fd00:10::9/128"}]}
    lab.added(bridge(ipam)).check().succeeded()


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_without_prev_result(lab: Lab, version: str) -> None:
    """CHECK: the plugin must consult the prevResult."""
    it = lab.added({**conf(), "cniVersion": version})
    it.call("CHECK", it.config).refused(7, says="prevResult")


@pytest.mark.parametrize(
    "broken",
    [
        {"cniVersion": "0.3.1", "ips": []},
        {"cniVersion": "1.0.0", "interfaces": []},
        {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/other"}]},
        {"cniVersion": "1.0.0", "ips": 5},
    ],
    ids=["other-version", "no-interfaces", "other-sandbox", "wrong-type"],
)
def test_with_a_broken_prev_result(lab: Lab, broken: Any) -> None:
    """CHECK: the plugin must consult the prevResult."""
    it = lab.added(conf())
    outcome = it.check(broken)
    assert outcome.status == 1, outcome
    assert outcome.json["code"] in (7, 999), outcome


@pytest.mark.parametrize(
    "version", ["0.4.0", "1.0.0", pytest.param("1.1.0", marks=pytest.mark.known_reference_failure("later than 1.1.1"))]
)
def test_every_version(lab: Lab, version: str) -> None:
    """CHECK must be answered from immediately after ADD, in every version that has it; no output."""
    it = lab.added(bridge(DUAL, version=version, isDefaultGateway=True, ipMasq=True))
    assert it.check().succeeded().stdout == b""


def test_the_lease_is_ipams_business(lab: Lab) -> None:
    """The plugin should call CHECK on any delegated plugins and pass any errors on to its caller."""
    it = lab.added(bridge(V4))
    assert observe.leases(lab.node, "net")
    lab.node.sh("rm -r /var/lib/cni/networks/net")
    it.check().refused(999, says=it.container_id)
