"""host-gw: routed pods, and nodes that share a segment. All are promises of podwire: the reference has no such plugin."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe, traffic
from tests.harness.node import NODE_V4, NODE_V6, OUTSIDE, OUTSIDE_V4, OUTSIDE_V6
from tests.netns.conftest import BACKENDS, DUAL, V4, V6, bridge

if TYPE_CHECKING:
    from tests.netns.conftest import Config, Lab

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("own_promise")]

NEXT_HOPS = ("169.254.1.1", "fe80::1")
PROTOCOL = "112"
RANGES = ("10.10.1.0/24", "fd00:11::/64")
NODES = [{"podCIDR": RANGES[0], "via": OUTSIDE_V4}, {"podCIDR": RANGES[1], "via": OUTSIDE_V6}]
SELF = [{"podCIDR": "10.10.0.0/24", "via": NODE_V4}, {"podCIDR": "fd00:10::/64", "via": NODE_V6}]


def host_gw(ipam: Config = DUAL, **keys: Any) -> Config:
    return bridge(ipam, **{"type": "host-gw", "version": "1.1.0", **keys})


def to_nodes(lab: Lab) -> set[str]:
    """The node's routes of ours that have a next hop: destination, next hop."""
    found = observe.routes(lab.node)
    return {
        f"{route['dst']} via {route['gateway']}" for route in found if route.get("protocol") == PROTOCOL and "gateway" in route
    }


def test_the_result_and_what_there_is(lab: Lab) -> None:
    it = lab.added(host_gw())
    assert it.result is not None
    here, inside = observe.links(lab.node), observe.links(lab.node, pod=it.pod)
    first, second = it.result["interfaces"]
    assert (first["name"], first["mac"]) == (it.host_veth, here[it.host_veth]["address"])
    assert (second["name"], second["mac"], second["sandbox"]) == ("eth0", inside["eth0"]["address"], it.netns)
    assert it.result["ips"] == [
        {"address": "10.10.0.2/32", "gateway": NEXT_HOPS[0], "interface": 1},
        {"address": "fd00:10::2/128", "gateway": NEXT_HOPS[1], "interface": 1},
    ]
    assert it.result["routes"] == [{"dst": "0.0.0.0/0", "gw": NEXT_HOPS[0]}, {"dst": "::/0", "gw": NEXT_HOPS[1]}]
    assert set(observe.addresses(lab.node, "eth0", pod=it.pod)) == {"10.10.0.2/32", "fd00:10::2/128"}
    assert observe.addresses(lab.node, it.host_veth) == {}
    neighbours = {(entry["dst"], entry["lladdr"], *entry["state"]) for entry in observe.ip(lab.node, "neigh", pod=it.pod)}
    assert {(hop, first["mac"], "PERMANENT") for hop in NEXT_HOPS} <= neighbours
    ours = {
        route["dst"] for route in observe.routes(lab.node) if route["dev"] == it.host_veth and route.get("protocol") == PROTOCOL
    }
    assert ours == {"10.10.0.2", "fd00:10::2"}


def test_pods_reach_each_other_and_the_node(lab: Lab) -> None:
    lab.node.outside()  # the node has addresses of its own
    one, two = lab.added(host_gw()), lab.added(host_gw())
    for target in (*two.addresses, NODE_V4, NODE_V6):
        assert lab.node.pings(target, pod=one.pod), f"{target} does not answer"
    for target in one.addresses:
        assert lab.node.pings(target), f"{target} does not answer the node"
    two.delete().succeeded()
    assert lab.node.pings(NODE_V4, pod=one.pod)


@pytest.mark.parametrize("nodes", [NODES, SELF + NODES], ids=["others", "all"])
def test_routes_to_nodes(lab: Lab, nodes: list[Any]) -> None:
    """The node itself may be in the list, so that all nodes can have the same."""
    lab.node.outside()
    it = lab.added(host_gw(nodes=nodes))
    expected = {f"{node['podCIDR']} via {node['via']}" for node in NODES}
    assert to_nodes(lab) == expected
    it.check().succeeded()
    before = lab.snapshot()
    other = lab.added(host_gw(nodes=nodes))
    other.delete().succeeded()
    lab.node.remove_pod(other.netns)
    assert not [line for line in observe.difference(before, lab.snapshot()) if "route" in line]
    it.delete().succeeded()
    assert to_nodes(lab) == expected, "other pods use them"


def test_routes_of_others_are_left_alone(lab: Lab) -> None:
    """Each network has routes of its own; an administrator's stays and wins; GC knows whose is whose."""
    lab.node.outside()
    lab.node.sh(f"ip route add {RANGES[0]} dev up0")
    mine = host_gw(nodes=NODES)
    lab.added(mine)
    lab.added(host_gw({**V4, "subnet": "10.30.0.0/24"}, name="other", nodes=NODES[:1]))
    found = [route for route in observe.routes(lab.node) if route["dst"] == RANGES[0]]
    assert sorted(route.get("protocol", "boot") for route in found) == [PROTOCOL, PROTOCOL, "boot"]
    assert len({route.get("metric", 0) for route in found}) == 3
    lab.call("GC", {**mine, "nodes": [], "cni.dev/valid-attachments": []}).succeeded()
    left = [route for route in observe.routes(lab.node) if route["dst"] == RANGES[0]]
    assert sorted(route.get("protocol", "boot") for route in left) == [PROTOCOL, "boot"]


def test_a_node_that_moved(lab: Lab) -> None:
    lab.node.outside()
    lab.added(host_gw(nodes=NODES))
    moved = [{**NODES[0], "via": f"{OUTSIDE_V4.rpartition('.')[0]}.77"}, NODES[1]]
    it = lab.added(host_gw(nodes=moved))
    assert to_nodes(lab) == {f"{node['podCIDR']} via {node['via']}" for node in moved}
    it.check().succeeded()


@pytest.mark.parametrize("v6", [False, True])
def test_an_uplink_that_moved(lab: Lab, v6: bool) -> None:
    """The node's link becomes a bridge's port, the addresses are the bridge's; the old link still has the routes."""
    lab.node.outside()
    target, listed = (("10.10.1.5", "fd00:11::5")[v6], NODES[v6 : v6 + 1])
    lab.node.sh(f"ip addr add {target} dev lo", pod=OUTSIDE)
    it = lab.added(host_gw(nodes=listed))
    lab.node.sh(f"ip route add {it.addresses[v6]} via {(NODE_V4, NODE_V6)[v6]}", pod=OUTSIDE)
    assert lab.node.pings(target, pod=it.pod)
    moved = (f"{NODE_V4}/24", f"{NODE_V6}/64")[v6]
    lab.node.sh(
        f"ip link add br0 type bridge; echo 0 >/proc/sys/net/ipv6/conf/br0/accept_dad; ip link set br0 up; "
        f"ip addr add 198.51.100.77/32 dev up0; ip link set up0 master br0; ip addr add {moved} dev br0 nodad; "
        f"ip addr del {moved} dev up0; ip neigh flush dev up0"
    )
    it.check().refused(999, says="leaves by another link than the node is on")
    other = lab.added(host_gw(nodes=listed))
    assert {route["dev"] for route in observe.routes(lab.node) if route["dst"] == RANGES[v6]} == {"br0"}
    for pod in (it, other):
        pod.check().succeeded()
    assert lab.node.pings(target, pod=it.pod)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (
            {"podCIDR": "10.9.0.0/24", "via": "203.0.113.9"},
            "next hop 203.0.113.9 of 10.9.0.0/24 is not on a link of this host",
        ),
        ({"podCIDR": "fd09::/64", "via": "2001:db8::9"}, "next hop 2001:db8::9 of fd09::/64 is not on a link of this host"),
    ],
)
def test_next_hops_behind_a_router_are_refused(lab: Lab, entry: Any, says: str) -> None:
    lab.node.outside()
    lab.added(host_gw())
    config = host_gw(nodes=[entry])
    it = lab.attachment(config)
    before = lab.snapshot()
    it.call("ADD").refused(999, says=says)
    lab.unchanged_since(before)
    lab.call("STATUS", config).refused(50, says=says)


@pytest.mark.parametrize(
    ("keys", "code", "says"),
    [
        ({"ipam": {}}, 7, "host-gw needs an IPAM plugin"),
        ({"mtu": 1000, "ipam": V6}, 7, "1280"),
        ({"ipMasqBackend": "ipchains"}, 7, "ipchains"),
        ({"nodes": [{"podCIDR": "10.9.0.0/24", "via": "fe80::9"}]}, 7, "nodes\\[0\\].*not of one family"),
        ({"nodes": [{"podCIDR": "10.9.0.0/24", "via": "10.9.0.1"}]}, 7, "one of the pods' own addresses"),
        (
            {"nodes": [{"podCIDR": "198.51.100.0/25", "via": "192.0.2.9"}, {"podCIDR": "10.9.0.0/24", "via": OUTSIDE_V4}]},
            7,
            f"nodes\\[1\\]: via {OUTSIDE_V4} is one of the pods' own addresses, 198.51.100.0/25",
        ),
        *(
            ({"nodes": [{"podCIDR": special, "via": via}]}, 7, "has addresses that no pod can have")
            for special, via in (
                *(("224.0.1.0/24", "192.0.2.9"), ("127.9.0.0/16", "192.0.2.9"), ("169.254.7.0/24", "192.0.2.9")),
                *(("0.0.0.0/1", "192.0.2.9"), ("ff05::/64", "2001:db8::9"), ("fe80::/64", "2001:db8::9")),
            )
        ),
        (
            {"nodes": [{"podCIDR": "10.30.0.128/25", "via": OUTSIDE_V4}]},
            999,
            "podCIDR 10.30.0.128/25 of node .* is in 10.30.0.0/24, a subnet of this host",
        ),
        (
            {"nodes": [{"podCIDR": "fd00:30::/64", "via": OUTSIDE_V6}]},
            999,
            "podCIDR fd00:30::/64 of node .* is in fd00:30::/64, a subnet of this host",
        ),
        ({"nodes": [{"podCIDR": "0.0.0.0/0", "via": "192.0.2.9"}]}, 7, "every address there is"),
        ({"nodes": [{"podCIDR": "10.9.0.0/24", "via": "127.0.0.1"}]}, 7, "no address of a node"),
        ({"nodes": [{"podCIDR": "10.9.0.0/24"}]}, 7, "via"),
        (
            {"nodes": [{"podCIDR": "10.9.0.0/24", "via": "192.0.2.8"}, {"podCIDR": "10.9.0.0/24", "via": "192.0.2.9"}]},
            7,
            "behind 192.0.2.8 already",
        ),
        (
            {"nodes": [{"podCIDR": "10.10.0.0/24", "via": OUTSIDE_V4}]},
            7,
            "address 10.10.0.3 is in 10.10.0.0/24, the range of node",
        ),
        ({"nodes": [{"podCIDR": "fd09::/64", "via": "fe80::9"}]}, 7, "no address of a node"),
        ({"nodesFile": "relative"}, 7, "absolute"),
        ({"nodesFile": "/run/\0x"}, 999, "embedded null byte"),
        (
            {"ipMasq": True, "ipam": {"type": "static", "addresses": [{"address": "10.10.9.9/32"}]}},
            7,
            "needs the range that 10.10.9.9",
        ),
        (
            {"ipam": {"type": "static", "addresses": [{"address": "10.10.0.2/24"}]}},
            999,
            "10.10.0.2 is that of another attachment",
        ),
        (
            {"ipam": {"type": "static", "addresses": [{"address": "fd00:10::2/64"}]}},
            999,
            "fd00:10::2 is that of another attachment",
        ),
        ({"ipam": {"type": "static", "addresses": [{"address": "169.254.1.1/16"}]}}, 7, "every pod's next hop"),
        ({"ipam": {"type": "static", "addresses": [{"address": "127.0.0.5/8"}]}}, 7, "no address for an interface"),
        (
            {"nodes": NODES, "ipam": {"type": "static", "addresses": [{"address": f"{OUTSIDE_V4}/24"}]}},
            7,
            f"{OUTSIDE_V4} is a node's own",
        ),
        ({"nodesFile": "/run/not-yet"}, 11, "/run/not-yet is not there"),
        ({"nodesFile": "/run"}, 999, "/run"),
        ({"nodesFile": "/run/pipe"}, 999, "it is no file"),
        ({"nodesFile": "/run/empty"}, 11, "/run/empty ends before its JSON does"),
        ({"nodesFile": "/run/cut"}, 11, "/run/cut ends before its JSON does"),
        ({"nodesFile": "/run/list"}, 7, "/run/list is no JSON object"),
        ({"nodesFile": "/run/text"}, 7, "/run/text is no JSON object"),
        ({"nodesFile": "/run/wrong"}, 7, "/run/wrong"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_left(lab: Lab, keys: dict[str, Any], code: int, says: str) -> None:
    lab.node.outside()
    lab.node.sh("""mkfifo /run/pipe; echo text >/run/text; echo '{"nodes": [{"podCIDR": 7}]}' >/run/wrong""")
    lab.node.sh("""echo >/run/empty; printf '{"nodes": [{"podCIDR' >/run/cut; echo '[]' >/run/list""")
    lab.node.sh("ip link add lan0 up type veth peer x; ip addr add 10.30.0.1/24 dev lan0; ip addr add fd00:30::1/64 dev lan0")
    lab.added(host_gw())
    it = lab.attachment({**host_gw(), **keys})
    before = lab.snapshot()
    it.call("ADD").refused(code, says=says)
    lab.unchanged_since(before)


def test_the_file_of_nodes(lab: Lab) -> None:
    """What the file says is added to what the list says, and is read anew at each call."""
    lab.node.outside()
    file = lab.node.path("/run/nodes.json")
    file.write_text(json.dumps({"nodes": NODES[1:]}))
    config = host_gw(nodes=NODES[:1], nodesFile="/run/nodes.json", ipMasq=True)
    it = lab.added(config)
    assert to_nodes(lab) == {f"{node['podCIDR']} via {node['via']}" for node in NODES}
    lab.call("STATUS", config).succeeded()
    file.unlink()
    it.check().refused(11, says="nodes.json is not there")
    lab.call("STATUS", config).refused(50, says="nodes.json is not there")
    lab.call("GC", {**config, "cni.dev/valid-attachments": []}).succeeded()
    assert len(to_nodes(lab)) == 2, "nobody knows which of them are still wanted"
    assert it.leftovers() == []
    it.delete().succeeded()


@pytest.mark.parametrize(("target", "source"), [(OUTSIDE_V4, NODE_V4), (OUTSIDE_V6, NODE_V6)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_masquerade_leaves_the_ranges_alone(lab: Lab, backend: str, target: str, source: str) -> None:
    """What goes to pods of other nodes keeps its source; what goes elsewhere has the node's. The other node is OUTSIDE."""
    lab.node.outside()
    index = int(":" in target)
    other_pod = ("10.10.1.5", "fd00:11::5")[index]
    it = lab.added(host_gw(nodes=NODES, ipMasq=True, ipMasqBackend=backend))
    way = f"ip route add {it.addresses[0]} via {NODE_V4}; ip route add {it.addresses[1]} via {NODE_V6}"
    lab.node.sh(f"ip addr add 10.10.1.5/32 dev lo; ip addr add fd00:11::5/128 dev lo; {way}", pod=OUTSIDE)
    for address, expected in ((target, source), (other_pod, it.addresses[index])):
        traffic.start(lab.node, traffic.ECHO_SOURCE, address, "5353", pod=OUTSIDE)
        assert traffic.source_seen_by(lab.node, address, pod=it.pod) == expected
    it.check().succeeded()
    # a range more is known at the next ADD, and CHECK of a pod that knows it sees whether the rule does
    more = [*NODES, {"podCIDR": "10.77.0.0/24", "via": OUTSIDE_V4}]
    wiser = {**it.config, "nodes": more}
    it.call("CHECK", {**wiser, "prevResult": it.result}).refused(999, says="10.77.0.0/24")
    lab.added(wiser)
    if backend == "nftables":
        it.call("CHECK", {**wiser, "prevResult": it.result}).succeeded()
    it.delete().succeeded()
    assert it.leftovers() == []


# where, what is done, what the message says
DAMAGE: dict[str, tuple[str, str, str]] = {
    "interface-gone": ("pod", "ip link del eth0", "eth0"),
    "address-gone": ("pod", "ip addr del 10.10.0.2/32 dev eth0", "10.10.0.2"),
    "default-route-gone": ("pod", "ip route del default", "0.0.0.0/0"),
    "v6-default-route-gone": ("pod", "ip -6 route del default", "::/0"),
    "way-to-the-next-hop-gone": (
        "pod",
        "ip route del default; ip route del 169.254.1.1; ip route add default dev eth0",
        "169.254.1.1/32",
    ),
    "next-hop-unknown": ("pod", "ip neigh del 169.254.1.1 dev eth0", "does not know its next hop 169.254.1.1"),
    "v6-next-hop-is-another": (
        "pod",
        "ip neigh replace fe80::1 lladdr 02:00:00:00:00:09 dev eth0",
        "does not know its next hop fe80::1",
    ),
    "host-end-down": ("node", "ip link set {veth} down", "{veth} is down"),
    "host-end-has-another-address": ("node", "ip link set {veth} address 02:00:00:00:00:99", "02:00:00:00:00:99"),
    "route-to-the-pod-gone": ("node", "ip route del 10.10.0.2", "10.10.0.2/32"),
    "route-to-a-node-gone": ("node", f"ip route del {RANGES[0]}", f"{RANGES[0]} through node {OUTSIDE_V4} is gone"),
    "v6-route-to-a-node-gone": ("node", f"ip -6 route del {RANGES[1]}", f"{RANGES[1]} through node {OUTSIDE_V6} is gone"),
    "forwarding-off": ("node", "echo 0 >/proc/sys/net/ipv4/ip_forward", "ip_forward"),
    "masquerade-gone": ("node", "nft flush ruleset", "masq"),
    "lease-gone": ("node", "rm /var/lib/cni/networks/net/10.10.0.2", "10.10.0.2"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_check_sees(lab: Lab, name: str) -> None:
    where, what, says = DAMAGE[name]
    lab.node.outside()
    it = lab.added(host_gw(nodes=NODES, ipMasq=True))
    it.check().succeeded()
    veth = it.host_veth
    lab.node.sh(what.format(veth=veth), pod=it.pod if where == "pod" else None)
    it.check().refused(999, says=says.format(veth=veth))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gone", ["nothing", "pod", "link", "host-end", "rules", "leases", "routes"])
def test_del(lab: Lab, gone: str, backend: str) -> None:
    lab.node.outside()
    it, other = (lab.added(host_gw(nodes=NODES, ipMasq=True, ipMasqBackend=backend)) for _ in range(2))
    deeds = {
        "link": f"ip -n {it.pod} link del eth0",
        "host-end": f"ip link del {it.host_veth}",
        "rules": "nft flush ruleset",
        "leases": "rm -r /var/lib/cni",
        "routes": f"ip route flush dev {it.host_veth}; ip route flush proto {PROTOCOL}",
    }
    if gone == "pod":
        lab.node.remove_pod(it.netns)
    lab.node.sh(deeds.get(gone, "true"))
    it.delete(config=it.config).succeeded()
    it.delete().succeeded()
    assert it.leftovers() == []
    if gone not in ("rules", "leases", "routes"):
        other.check().succeeded()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gc(lab: Lab, backend: str) -> None:
    lab.node.outside()
    config = host_gw(nodes=NODES, ipMasq=True, ipMasqBackend=backend)
    living, dead, gone = (lab.added(config) for _ in range(3))
    lab.node.remove_pod(gone.netns)
    valid = [{"containerID": living.container_id, "ifname": living.ifname}]
    lab.call("GC", {**config, "cni.dev/valid-attachments": valid}).succeeded()
    assert (dead.leftovers(), gone.leftovers()) == ([], [])
    living.check().succeeded()
    lab.call("STATUS", config).succeeded()


def test_single_addresses_of_another_ipam(lab: Lab) -> None:
    """Where addresses come alone, the node's own entry in the list says which range they are of."""
    lab.node.outside()
    ipam = {"type": "static", "addresses": [{"address": "10.10.0.9/32"}]}
    it = lab.added(host_gw(ipam, nodes=SELF + NODES, ipMasq=True))
    assert lab.node.pings(it.addresses[0])
    it.check().succeeded()
    it.delete().succeeded()
    assert it.leftovers() == []


WRONG: dict[str, dict[str, Any]] = {
    "file-is-a-number": {"nodesFile": 7},
    "file-is-a-folder": {"nodesFile": "/run"},
    "file-cannot-be-named": {"nodesFile": "/run/\0x"},
    "node-without-address": {"nodes": [{"podCIDR": "10.9.0.0/24", "via": ""}]},
    "node-is-a-number": {"nodes": 7},
}


@pytest.mark.parametrize("verb", ["DEL", "GC"])
@pytest.mark.parametrize("name", WRONG)
def test_removing_does_without_the_list(lab: Lab, name: str, verb: str) -> None:
    """A list that was edited badly keeps no link, no rule and no lease; routes to nodes wait for a list that can be read."""
    lab.node.outside()
    it = lab.added(host_gw(nodes=NODES, ipMasq=True))
    config = {**it.config, **WRONG[name]}
    if verb == "DEL":
        it.call("DEL", {**config, "prevResult": it.result}).succeeded()
    else:
        lab.call("GC", {**config, "cni.dev/valid-attachments": []}).succeeded()
    assert it.leftovers() == [] and len(to_nodes(lab)) == 2


def test_a_range_that_becomes_this_nodes_own(lab: Lab) -> None:
    lab.node.outside()
    lab.added(host_gw(nodes=NODES))
    mine = [{**NODES[0], "via": NODE_V4}, NODES[1]]
    lab.added(host_gw({"type": "host-local", "subnet": RANGES[0]}, nodes=mine))
    assert to_nodes(lab) == {f"{RANGES[1]} via {OUTSIDE_V6}"}
    mine[1] = {**NODES[1], "via": NODE_V6}
    lab.call("GC", {**host_gw(nodes=mine), "cni.dev/valid-attachments": []}).succeeded()
    assert to_nodes(lab) == set()


def test_routes_of_the_ipam_plugin_go_through_the_next_hop(lab: Lab) -> None:
    """Whatever gateway it names: there is no other way out. Another table's default route is one more."""
    told = [
        {"dst": "0.0.0.0/0", "gw": "10.10.0.1"},
        {"dst": "192.0.2.0/24", "gw": "10.10.0.7"},
        {"dst": "0.0.0.0/0", "table": 100},
        {"dst": "::/0", "priority": 50},
    ]
    it = lab.added(host_gw({**DUAL, "routes": told}))
    main = {f"{r['dst']} via {r['gateway']}" for r in observe.routes(lab.node, pod=it.pod) if "gateway" in r}
    assert main == {"default via 169.254.1.1", "192.0.2.0/24 via 169.254.1.1", "default via fe80::1"}
    other = observe.ip(lab.node, "-4", "route", "show", "table", "100", pod=it.pod)
    assert [(route["dst"], route["gateway"]) for route in other] == [("default", "169.254.1.1")]
    it.check().succeeded()


def test_a_set_of_another_network_is_not_this_pods(lab: Lab) -> None:
    """CHECK finds the subnet that the pod was masqueraded in, also beside wider ones and single addresses."""
    lab.node.outside()
    wide = {"type": "static", "addresses": [{"address": "10.200.0.9/8", "gateway": "10.200.0.1"}]}
    alone = {"type": "static", "addresses": [{"address": "10.10.77.7/32", "gateway": "10.200.0.2"}]}
    for name, ipam in (("wide", wide), ("alone", alone)):
        lab.added({**bridge(ipam, name=name), "type": "ptp", "ipMasq": True}).check().succeeded()
    it = lab.added(host_gw(ipMasq=True))
    it.check().succeeded()
    it.delete().succeeded()
    assert it.leftovers() == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_check_after_a_node_more(lab: Lab, backend: str) -> None:
    """With nftables all pods of the range know it; with iptables each from its own ADD on, which is no fault of the others."""
    lab.node.outside()
    config = host_gw(nodes=NODES, ipMasq=True, ipMasqBackend=backend)
    it = lab.added(config)
    more = {**config, "nodes": [*NODES, {"podCIDR": "10.77.0.0/24", "via": OUTSIDE_V4}]}
    lab.added(more)
    it.call("CHECK", {**more, "prevResult": it.result}).succeeded()


def test_many_nodes(lab: Lab) -> None:
    lab.node.outside()
    many = [{"podCIDR": f"10.{number}.0.0/24", "via": OUTSIDE_V4} for number in range(100, 140)]
    it = lab.added(host_gw(nodes=many, ipMasq=True))
    assert to_nodes(lab) == {f"{node['podCIDR']} via {OUTSIDE_V4}" for node in many}
    it.check().succeeded()
    lab.added(host_gw(nodes=many, ipMasq=True)).check().succeeded()
    lab.node.sh("ip route del 10.117.0.0/24")
    it.check().refused(999, says="route to 10.117.0.0/24")
    lab.added(host_gw(nodes=many, ipMasq=True))
    it.check().succeeded()
