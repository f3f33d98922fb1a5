"""macvlan: pods as members of a segment. What ADD tells and makes, packets, CHECK, DEL, GC, STATUS."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe, traffic
from tests.harness.node import NODE_V4, OUTSIDE, OUTSIDE_V4, OUTSIDE_V6
from tests.netns.conftest import DEFAULT_ROUTES, bridge, damaged

if TYPE_CHECKING:
    from tests.netns.conftest import Attachment, Config, Damage, Lab

pytestmark = pytest.mark.root

# The part of the segment behind `up0` that pods have; its routers are in the namespace outside.
V4: Config = {
    "type": "host-local",
    "subnet": "198.51.100.0/24",
    "rangeStart": "198.51.100.100",
    "rangeEnd": "198.51.100.199",
    "gateway": OUTSIDE_V4,
}
V6: Config = {
    "subnet": "2001:db8:ffff::/64",
    "rangeStart": "2001:db8:ffff::100",
    "rangeEnd": "2001:db8:ffff::1ff",
    "gateway": OUTSIDE_V6,
}
SEGMENT: Config = {
    "type": "host-local",
    "ranges": [[{key: value for key, value in V4.items() if key != "type"}], [V6]],
    "routes": DEFAULT_ROUTES,
}

MAC, OTHER_MAC = "02:00:00:00:00:09", "02:00:00:00:00:0a"
LATE = pytest.mark.known_reference_failure("1.1.0 is later than 1.1.1 of the plugins.")
NEEDS_MASTER = "DEL looks for the master, and fails where there is none."


def macvlan(ipam: Config | None = None, **keys: Any) -> Config:
    """A configuration with the master named."""
    return bridge(ipam, **{"type": "macvlan", "master": "up0", **keys})


@pytest.fixture
def lab(lab: Lab) -> Lab:
    """A node with a segment behind up0, and a host there."""
    lab.node.outside()
    return lab


def ever_used(lab: Lab) -> None:
    """There are the folders and locks that any call makes."""
    lab.node.sh("ip link add any0 type veth peer name any1")
    lab.added(macvlan(V4, master="any0")).delete().succeeded()


def link(it: Attachment) -> dict[str, Any]:
    return dict(observe.links(it.lab.node, pod=it.pod)[it.ifname])


def mode(it: Attachment) -> str:
    return str(link(it)["linkinfo"]["info_data"]["mode"])


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", pytest.param("1.1.0", marks=LATE)])
def test_the_result(lab: Lab, version: str) -> None:
    """ADD Success: the one interface, in the sandbox; ips with its index; routes."""
    it = lab.added(macvlan(SEGMENT, version=version))
    assert it.result is not None
    (entry,) = it.result["interfaces"]
    seen = link(it)
    assert (entry["name"], entry["mac"], entry["sandbox"]) == ("eth0", seen["address"], it.netns)
    family = [{"version": "4"}, {"version": "6"}] if version < "1" else [{}, {}]
    assert it.result["ips"] == [
        {**family[0], "address": "198.51.100.100/24", "gateway": OUTSIDE_V4, "interface": 0},
        {**family[1], "address": "2001:db8:ffff::100/64", "gateway": OUTSIDE_V6, "interface": 0},
    ]
    assert it.result["routes"] == DEFAULT_ROUTES
    assert (seen["linkinfo"]["info_kind"], mode(it), "UP" in seen["flags"]) == ("macvlan", "bridge", True)
    assert set(observe.addresses(lab.node, "eth0", pod=it.pod)) == {"198.51.100.100/24", "2001:db8:ffff::100/64"}
    it.delete().succeeded()


def test_pods_and_hosts_of_the_segment_reach_each_other(lab: Lab) -> None:
    """Mode bridge: pods of one master reach each other at once, and they and the segment's hosts do."""
    one, two = lab.added(macvlan(SEGMENT)), lab.added(macvlan(SEGMENT))
    for target in (*two.addresses, OUTSIDE_V4, OUTSIDE_V6):
        assert lab.node.pings(target, pod=one.pod), f"{target} does not answer"
    for target in (*one.addresses, *two.addresses):
        assert lab.node.pings(target, pod=OUTSIDE), f"{target} does not answer the segment's host"
    traffic.start(lab.node, traffic.ECHO_SOURCE, two.addresses[0], "5353", pod=two.pod)
    assert traffic.source_seen_by(lab.node, two.addresses[0], pod=one.pod) == one.addresses[0]


@pytest.mark.parametrize("isolating", ["private", "vepa"])
def test_modes_that_keep_pods_apart(lab: Lab, isolating: str) -> None:
    """private: never; vepa: only where the switch sends frames back, which this segment's host does not."""
    one, two = (lab.added(macvlan(SEGMENT, mode=isolating)) for _ in range(2))
    assert mode(one) == isolating
    for index in range(2):
        assert lab.node.pings(one.addresses[index], pod=OUTSIDE)
        assert not lab.node.pings(two.addresses[index], pod=one.pod, seconds=0)
    one.check().succeeded()


def test_passthru(lab: Lab) -> None:
    """The pod has the master to itself, with its hardware address."""
    lab.node.sh("ip link add seg0 type veth peer name seg1; ip link set seg0 up; ip link set seg1 up")
    mac = observe.links(lab.node)["seg0"]["address"]
    lab.node.sh(f"ip addr add {NODE_V4}/24 dev seg1; ip route replace 198.51.100.100 dev seg1")
    it = lab.added(macvlan(SEGMENT, mode="passthru", master="seg0"))
    assert (mode(it), link(it)["address"], (it.result or {})["interfaces"][0]["mac"]) == ("passthru", mac, mac)
    assert lab.node.pings(it.addresses[0])
    it.check().succeeded()
    it.delete().succeeded()
    lab.added(macvlan(SEGMENT, mode="passthru", master="seg0"))


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize(("first", "then"), [("passthru", "passthru"), ("passthru", "bridge"), ("bridge", "passthru")])
@pytest.mark.parametrize("known", [True, False])
def test_passthru_is_for_one(lab: Lab, first: str, then: str, known: bool) -> None:
    """The refusal says who has the master, where the host's namespace knows that pod: by a veth, as most pods have one."""
    has = lab.added(macvlan(mode=first), ifname="net1")
    if known:
        lab.node.sh(f"ip link add v0 type veth peer name eth0 netns {has.pod}; ip link show v0")
    ever_used(lab)
    it = lab.attachment(macvlan(V4, mode=then))
    before = lab.snapshot()
    says = "in use by podwire/net/container-1/net1" if known else "passthru.* has to be the only one"
    it.call("ADD").refused(999, says=says)
    lab.unchanged_since(before)


def test_the_name_is_free_in_the_pod(lab: Lab) -> None:
    """The master may have the very name that the pod's interface gets, and often has."""
    lab.node.sh("ip link add eth0 type veth peer name eth1; ip link set eth0 up; ip link set eth1 up")
    it = lab.added(macvlan(V4, master="eth0"))
    assert link(it)["link_index"] == observe.links(lab.node)["eth0"]["ifindex"]
    it.check().succeeded()
    it.delete().succeeded()


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_the_default_routes_interface_is_the_master(lab: Lab, family: str) -> None:
    """Also where only IPv6 has one."""
    lab.node.sh(f"ip {'-6' if family == '-4' else '-4'} route del default")
    config = macvlan(V4)
    del config["master"]
    it = lab.added(config)
    assert link(it)["link_index"] == observe.links(lab.node)["up0"]["ifindex"]
    it.check().succeeded()
    it.delete().succeeded()
    lab.node.sh(f"ip {family} route del default")
    it.call("ADD").refused(999, says="no default route")


@pytest.mark.known_reference_failure(NEEDS_MASTER)
def test_del_without_the_default_route(lab: Lab) -> None:
    """DEL: plugins should complete without error even if some resources are missing."""
    config = macvlan(V4)
    del config["master"]
    it = lab.added(config)
    lab.node.sh("ip route flush default; ip -6 route flush default")
    it.delete().succeeded()
    assert it.leftovers() == []


@pytest.mark.known_reference_failure("linkInContainer is later than 1.1.1 of the plugins.")
def test_the_master_may_be_in_the_sandbox(lab: Lab) -> None:
    """linkInContainer, with the master named, and by the sandbox's default route."""
    named = macvlan(V4, linkInContainer=True, master="in0")
    unnamed = {key: value for key, value in named.items() if key != "master"}
    for config in (named, unnamed):
        it = lab.attachment(config, ifname="net1")
        lab.node.sh(f"ip link add out1 type veth peer name in0 netns {it.pod}; ip link set out1 up")
        lab.node.sh("ip link set in0 up; ip addr add 10.5.0.1/24 dev in0; ip route add default via 10.5.0.2", pod=it.pod)
        it.add()
        seen = link(it)
        assert (seen["link"], "link_netnsid" in seen) == ("in0", False)
        it.check().succeeded()
        it.delete().succeeded()
        it.delete().succeeded()
        assert "in0" in observe.links(lab.node, pod=it.pod)
        lab.node.sh("ip link del out1")


@pytest.mark.usefixtures("own_promise")
def test_a_master_that_is_a_macvlan_itself(lab: Lab) -> None:
    """The kernel puts the pod's on the interface below, and CHECK knows."""
    lab.node.sh("ip link add link up0 name mv0 type macvlan mode bridge; ip link set mv0 up")
    it = lab.added(macvlan(SEGMENT, master="mv0"))
    assert link(it)["link_index"] == observe.links(lab.node)["up0"]["ifindex"]
    assert lab.node.pings(OUTSIDE_V4, pod=it.pod)
    it.check().succeeded()
    inner = lab.attachment(macvlan(linkInContainer=True, master="eth0"), pod=it.pod, ifname="net1")
    inner.add()
    inner.check().succeeded()


def test_mtu(lab: Lab) -> None:
    """mtu is the interface's; without it the master's is."""
    one, two = lab.added(macvlan(V4, mtu=1400)), lab.added(macvlan(V4))
    assert (link(one)["mtu"], link(two)["mtu"]) == (1400, 1500)
    lab.node.run("ping", "-c1", "-W2", "-M", "do", "-s", "1372", "-n", OUTSIDE_V4, pod=one.pod)


@pytest.mark.known_reference_failure("bcqueuelen is later than 1.1.1 of the plugins.")
def test_the_broadcast_queue(lab: Lab) -> None:
    it = lab.added(macvlan(V4, bcqueuelen=2345))
    assert link(it)["linkinfo"]["info_data"]["bcqueuelen"] == 2345
    it.check().succeeded()


BY_ARGS = pytest.mark.known_reference_failure("args.cni.mac is not read.")


@pytest.mark.parametrize(
    ("given", "args", "expected"),
    [
        ({"mac": MAC}, None, MAC),
        ({"mac": "02-00-00-00-00-09"}, None, MAC),
        ({"mac": OTHER_MAC}, f"IgnoreUnknown=1;MAC={MAC}", MAC),
        ({"mac": OTHER_MAC, "runtimeConfig": {"mac": MAC}}, f"IgnoreUnknown=1;MAC={OTHER_MAC}", MAC),
        pytest.param({"mac": OTHER_MAC, "args": {"cni": {"mac": MAC}}}, None, MAC, marks=BY_ARGS),
    ],
)
def test_mac(lab: Lab, given: dict[str, Any], args: str | None, expected: str) -> None:
    """CNI conventions, mac: the hardware address of the interface; the configuration's own is the weakest."""
    it = lab.added(macvlan(V4, **given), args=args)
    assert (link(it)["address"], (it.result or {})["interfaces"][0]["mac"]) == (expected, expected)
    it.check().succeeded()


IPAM_DNS = pytest.mark.known_reference_failure("What the IPAM plugin says of dns is dropped.")


@pytest.mark.parametrize(
    ("own", "expected"),
    [pytest.param({}, "192.0.2.1", marks=IPAM_DNS), ({"dns": {"nameservers": ["192.0.2.53"]}}, "192.0.2.53")],
)
def test_dns(lab: Lab, own: dict[str, Any], expected: str) -> None:
    """The configuration's dns takes the place of the IPAM plugin's."""
    ipam = {"type": "static", "addresses": [{"address": "198.51.100.9/24"}], "dns": {"nameservers": ["192.0.2.1"]}}
    assert (lab.added(macvlan(ipam, **own)).result or {}).get("dns") == {"nameservers": [expected]}


@pytest.mark.usefixtures("own_promise")
def test_the_addresses_are_announced(lab: Lab) -> None:
    """The segment's hosts learn at once where an address is now; nothing is tested for duplicates before."""
    heard = traffic.start(lab.node, traffic.LISTEN, "out0", pod=OUTSIDE)
    it = lab.added(macvlan(SEGMENT))
    mac = link(it)["address"]
    wanted = {("arp", "198.51.100.100"), ("na", "2001:db8:ffff::100")}
    found: set[tuple[str, str]] = set()

    def complete(told: dict[str, Any]) -> bool:
        if told["mac"] == mac:
            found.add((told["kind"], told["ip"]))
        return wanted <= found

    traffic.read_until(heard, complete)
    assert wanted <= found
    assert all(facts.get("nodad") for a, facts in observe.addresses(lab.node, "eth0", pod=it.pod).items() if ":" in a)


def test_without_ipam(lab: Lab) -> None:
    """A plugin may be used without IPAM: the interface is there and up, and that is all."""
    it = lab.added(macvlan())
    assert it.result is not None and not it.result.get("ips")
    assert "UP" in link(it)["flags"]
    it.check().succeeded()
    it.delete().succeeded()
    assert "eth0" not in observe.links(lab.node, pod=it.pod)


@pytest.mark.known_reference_failure("CHECK wants a route to the subnet, which a /32 does not have.")
def test_a_single_address(lab: Lab) -> None:
    """A /32 with a route to its gateway, as IPAM plugins of clouds give them."""
    ipam = {
        "type": "static",
        "addresses": [{"address": "198.51.100.9/32"}],
        "routes": [{"dst": f"{OUTSIDE_V4}/32"}, {"dst": "0.0.0.0/0", "gw": OUTSIDE_V4}],
    }
    it = lab.added(macvlan(ipam))
    assert lab.node.pings(OUTSIDE_V4, pod=it.pod)
    it.check().succeeded()


@pytest.mark.known_reference_failure("Without addresses the result cannot be converted: an error, and the interface stays.")
@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_versions_whose_results_have_no_interfaces(lab: Lab, version: str) -> None:
    it = lab.added(macvlan(version=version))
    assert "UP" in link(it)["flags"]
    it.delete().succeeded()


@pytest.mark.parametrize(
    ("keys", "code", "says"),
    [
        ({"mode": "source"}, 7, "invalid mode 'source'"),
        ({"mtu": 67}, 7, "mtu 67"),
        ({"mtu": -1}, 7, "mtu -1"),
        ({"mtu": 1501}, 7, "that of master up0 is 1500"),
        ({"mtu": 1000, "ipam": SEGMENT}, 7, "1280"),
        ({"bcqueuelen": -1}, 7, "bcqueuelen"),
        ({"master": "nothing0"}, 999, "'nothing0' is not there"),
        ({"master": "up0", "linkInContainer": True}, 999, "not there on the sandbox"),
        ({"master": "lo"}, 999, "lo is no Ethernet interface"),
        ({"master": "port0"}, 999, "port0 is a port of bridge br0"),
        ({"master": "a/b"}, 7, "key 'master'"),
        ({"mac": "nonsense"}, 7, "nonsense"),
        ({"mac": "01:00:00:00:00:01"}, 7, "multicast"),
        ({"mode": "passthru", "mac": MAC}, 7, "gives the pod the hardware address of up0"),
        ({"runtimeConfig": {"mac": "nonsense"}}, 7, "nonsense"),
        ({"ipam": {"type": "no-such"}}, 999, "no-such"),
        ({"ipam": {"type": "static", "addresses": [{"address": "127.0.0.5/8"}]}}, 7, "no address for an interface"),
        (
            {"ipam": {"type": "static", "addresses": [{"address": "10.9.9.9/24"}], "routes": [{"dst": "::/0", "gw": "::1:1"}]}},
            999,
            "cannot add route",
        ),
    ],
)
@pytest.mark.usefixtures("own_promise")
def test_what_cannot_be_is_refused_and_nothing_is_left(lab: Lab, keys: dict[str, Any], code: int, says: str) -> None:
    lab.node.sh("ip link add br0 type bridge; ip link add port0 type veth peer name port1; ip link set port0 master br0")
    ever_used(lab)
    it = lab.attachment({**macvlan(V4), **keys})
    before = lab.snapshot()
    it.call("ADD").refused(code, says=says)
    lab.unchanged_since(before)


@pytest.mark.usefixtures("own_promise")
def test_a_hardware_address_that_is_in_use(lab: Lab) -> None:
    """The kernel says "device or resource busy" of it, or "address already in use", without saying which."""
    lab.added(macvlan(V4, mac=MAC))
    it = lab.attachment(macvlan(V4, mac=MAC))
    before = lab.snapshot()
    it.call("ADD").refused(999, says="its hardware address is in use")
    lab.unchanged_since(before)


def test_a_second_add_is_refused(lab: Lab) -> None:
    """ADD: an existing interface of the name is an error, and the living attachment stays as it is."""
    it = lab.added(macvlan(SEGMENT))
    before = lab.snapshot()
    it.call("ADD").refused(999, says="already exists")
    lab.unchanged_since(before)
    it.check().succeeded()


DAMAGE: Damage = {
    "interface-gone": ("pod", "ip link del eth0", "eth0", ""),
    "another-kind": ("pod", "ip link del eth0; ip link add eth0 type veth peer name x", "kind 'veth'", ""),
    "down": ("pod", "ip link set eth0 down", "down|address|route", ""),
    "layer-2-down": ("layer-2", "ip link set eth0 down", "eth0 is down", "whether the interface is up"),
    "mac": ("pod", f"ip link set eth0 address {OTHER_MAC}", f"{OTHER_MAC}|mac", ""),
    "mtu": ("pod", "ip link set eth0 mtu 1450", "mtu.*1450|1450.*mtu", "the MTU"),
    "mode": ("pod", "ip link set eth0 type macvlan mode private", "mode private", ""),
    "address-gone": ("pod", "ip addr del 198.51.100.100/24 dev eth0", "198.51.100.100", ""),
    "v6-address-gone": ("pod", "ip addr del 2001:db8:ffff::100/64 dev eth0", "2001:db8:ffff::100", ""),
    "default-route-gone": ("pod", "ip route del default", "0.0.0.0/0|default", ""),
    "other-next-hop": ("pod", "ip route replace default via 198.51.100.3", "0.0.0.0/0", "the next hop of a default route"),
    "master-gone": ("node", "ip link del up0", "up0|eth0", ""),
    "another-master": ("node", "ip link set up0 name up9; ip link add up0 type veth peer name x", "on up9, expected up0", "it"),
    "master-renamed": ("node", "ip link set up0 name up9", "master up0 is gone", ""),
    "lease-gone": ("node", "rm /var/lib/cni/networks/net/198.51.100.100", "198.51.100.100", "every address's lease"),
}


@pytest.mark.parametrize("name", damaged(DAMAGE))
def test_check_sees(lab: Lab, name: str) -> None:
    """CHECK: the plugin MUST return an error if a listed resource is missing or in an invalid state."""
    where, what, says, _ = DAMAGE[name]
    it = lab.added(macvlan(None if where == "layer-2" else SEGMENT, mtu=1400))
    it.check().succeeded()
    lab.node.sh(what, pod=None if where == "node" else it.pod)
    it.check().refused(999, says=says)


def test_check_tolerates_what_others_add(lab: Lab) -> None:
    """CHECK: plugins must ignore changes made by later plugins, such as more addresses and routes."""
    it = lab.added(macvlan(SEGMENT, mtu=1400))
    lab.node.sh(f"ip addr add 192.0.2.9/32 dev eth0; ip route add 192.0.2.128/25 via {OUTSIDE_V4}", pod=it.pod)
    lab.node.sh("ip link set up0 mtu 1460")
    it.check().succeeded()


GONE = {
    "nothing": "true",
    "pod": "",
    "link": "ip -n {pod} link del eth0",
    "master": "ip link del up0",
    "leases": "rm -r /var/lib/cni",
}


@pytest.mark.parametrize(
    "gone",
    [
        pytest.param(gone, marks=[pytest.mark.known_reference_failure(NEEDS_MASTER)] if gone == "master" else [])
        for gone in GONE
    ],
)
def test_del(lab: Lab, gone: str) -> None:
    """DEL: plugins should complete without error even if some resources are missing. A second one is fine, too."""
    it, other = lab.added(macvlan(SEGMENT)), lab.added(macvlan(SEGMENT))
    if gone == "pod":
        lab.node.remove_pod(it.netns)
    lab.node.sh(GONE[gone].format(pod=it.pod) or "true")
    it.delete(config=it.config).succeeded()
    it.delete().succeeded()
    assert it.leftovers() == []
    if gone != "pod":
        assert "eth0" not in observe.links(lab.node, pod=it.pod)
    if gone not in ("master", "leases"):
        other.check().succeeded()
        assert lab.node.pings(OUTSIDE_V4, pod=other.pod)


@pytest.mark.parametrize("netns", ["", "/run/netns/gone", "/etc/passwd"])
def test_del_without_a_sandbox(lab: Lab, netns: str) -> None:
    """The addresses are released all the same."""
    it = lab.added(macvlan(SEGMENT))
    done = it.delete(netns=netns)
    if lab.plugins.ours or not netns.startswith("/etc"):
        done.succeeded()
    assert observe.leases(lab.node, "net") == {}


@pytest.mark.usefixtures("own_promise")
def test_del_with_other_settings(lab: Lab) -> None:
    """What the configuration says by now does not matter."""
    it = lab.added(macvlan(SEGMENT))
    it.delete(config={**it.config, "mode": "nonsense", "master": "nothing0", "mtu": -5}).succeeded()
    assert "eth0" not in observe.links(lab.node, pod=it.pod)
    assert it.leftovers() == []


FOREIGN = {
    "veth": "ip link add eth0 type veth peer name x",
    "macvlan": "ip link add link x name eth0 type macvlan; ip link set eth0 alias podwire/other/container-1/eth0",
}


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("made", FOREIGN)
def test_del_leaves_what_is_not_its_own(lab: Lab, made: str) -> None:
    """A runtime calls DEL also after an ADD that failed because the name was taken."""
    it = lab.attachment(macvlan(SEGMENT))
    if made == "macvlan":
        lab.node.sh("ip link add x type veth peer name y", pod=it.pod)
    lab.node.sh(FOREIGN[made], pod=it.pod)
    it.call("ADD").refused(999, says="already exists")
    it.delete().succeeded()
    assert "eth0" in observe.links(lab.node, pod=it.pod)


@pytest.mark.usefixtures("own_promise")
def test_the_label(lab: Lab) -> None:
    """The interface says whose it is; one that a call was killed over before it could say so goes, too."""
    it = lab.added(macvlan(SEGMENT))
    assert link(it)["ifalias"] == f"podwire/net/{it.container_id}/eth0"
    lab.node.sh("ip link set eth0 alias ''", pod=it.pod)
    it.delete().succeeded()
    assert "eth0" not in observe.links(lab.node, pod=it.pod)


@pytest.mark.known_reference_failure("GC and STATUS are of specification 1.1.0, later than 1.1.1 of the plugins.")
def test_gc(lab: Lab) -> None:
    """A plugin SHOULD remove as many stale resources as possible, and nothing that is in use. Links go with their sandbox."""
    config = macvlan(SEGMENT, version="1.1.0")
    living, dead = lab.added(config), lab.added(config)
    lab.node.remove_pod(dead.netns)
    valid = [{"containerID": living.container_id, "ifname": living.ifname}]
    lab.call("GC", {**config, "cni.dev/valid-attachments": valid}).succeeded()
    assert dead.leftovers() == []
    living.check().succeeded()
    lab.call("GC", config).succeeded()
    living.check().succeeded()


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize(
    ("keys", "damage", "code", "says"),
    [
        ({}, "ip link del up0", 50, "'up0' is not there"),
        ({"master": ""}, "ip route flush default; ip -6 route flush default", 50, "no default route"),
        ({"master": ""}, "true", 0, ""),
        ({"mtu": 1500}, "ip link set up0 mtu 1400", 50, "that of master up0 is 1400"),
        ({}, "ip link add br0 type bridge; ip link set up0 master br0", 50, "up0 is a port of bridge br0"),
        ({}, "ip link set up0 down", 51, "master up0 is down"),
        ({"linkInContainer": True}, "ip link del up0", 0, ""),
        ({"ipam": {"type": "no-such"}}, "true", 50, "no-such"),
    ],
)
def test_status(lab: Lab, keys: dict[str, Any], damage: str, code: int, says: str) -> None:
    """STATUS: 50, the plugin is not available; 51, and those that are there have limited connectivity."""
    config = macvlan(V4, version="1.1.0")
    lab.call("STATUS", config).succeeded()
    lab.node.sh(damage)
    told = lab.call("STATUS", {**config, **keys})
    if code:
        told.refused(code, says=says)
    else:
        told.succeeded()


@pytest.mark.usefixtures("own_promise")
def test_two_networks_on_one_master(lab: Lab) -> None:
    """Attachments of other networks are others', also within one pod."""
    one = lab.added(macvlan(V4))
    two = lab.attachment(macvlan({**V4, "rangeStart": "198.51.100.200", "rangeEnd": "198.51.100.220"}, name="two"), pod=one.pod)
    two.ifname = "net1"
    two.add()
    before = link(two)
    one.delete().succeeded()
    assert link(two) == before
    two.check().succeeded()
    assert lab.node.pings(OUTSIDE_V4, pod=two.pod)


@pytest.mark.usefixtures("own_promise")
def test_the_same_add_at_once(lab: Lab) -> None:
    """One succeeds, and the failures of the others take nothing of it away."""
    it = lab.attachment(macvlan(SEGMENT))
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda _: it.call("ADD"), range(4)))
    (winner,) = [outcome for outcome in outcomes if outcome.status == 0]
    it.result = winner.result()
    assert link(it)["ifalias"] == f"podwire/net/{it.container_id}/eth0"
    it.check().succeeded()
