"""firewall on the real kernel: a node whose FORWARD chains drop by default, pods behind a bridge, a host outside."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import firewalld, observe, traffic
from tests.harness.node import NODE_V4, NODE_V6, OUTSIDE, OUTSIDE_V4, OUTSIDE_V6
from tests.harness.plugin import Executables
from tests.harness.wrappers import python
from tests.netns.conftest import DUAL, V4, VERSION, Lab, bridge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.node import Node
    from tests.netns.conftest import Config

pytestmark = pytest.mark.root

GO = Path("/usr/lib/cni")
TABLE = "podwire_firewall"
BACKENDS = ("nftables", "iptables")
TOOLS = ("iptables", "ip6tables")
ALL: Config = {**DUAL, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
SECOND: Config = {
    "type": "host-local",
    "ranges": [[{"subnet": "10.20.0.0/24"}], [{"subnet": "fd00:20::/64"}]],
    "routes": ALL["routes"],
}

reference_fails = pytest.mark.known_reference_failure


def network(ipam: Config = ALL, **keys: Any) -> Config:
    """A bridge that is the pods' gateway, without masquerade: what a pod sends is seen with the pod's address."""
    return bridge(ipam, isGateway=True, **keys)


def firewall(**keys: Any) -> Config:
    return {"cniVersion": VERSION, "name": "net", "type": "firewall", **keys}


class Pod:
    """A pod of a network with a firewall plugin after its bridge."""

    def __init__(self, lab: Lab, config: Config, first: Config, *, pod: str | None = None) -> None:
        self.first = lab.added(first, pod=pod)
        config = {**config, "name": first["name"], "cniVersion": first["cniVersion"]}
        self.it = lab.attachment(
            {**config, "prevResult": self.first.result}, pod=self.first.pod, container_id=self.first.container_id
        )

    @property
    def name(self) -> str:
        return self.first.pod

    @property
    def addresses(self) -> list[str]:
        return self.first.addresses


def added(lab: Lab, config: Config, first: Config | None = None, **how: Any) -> Pod:
    pod = Pod(lab, config, first or network(), **how)
    assert pod.it.add() == pod.first.result, "the result is prevResult"
    return pod


def close(node: Node, tools: tuple[str, ...] = TOOLS) -> None:
    """The node drops what it should forward, as hosts with Docker do."""
    for tool in tools:
        node.sh(f"{tool} -P FORWARD DROP")


@pytest.fixture
def closed(lab: Lab) -> Lab:
    """A node that drops what it should forward, and an outside that knows the way to pods."""
    lab.node.outside()
    close(lab.node)
    lab.node.sh(
        f"""
        ip route add 10.10.0.0/24 via {NODE_V4}; ip -6 route add fd00:10::/64 via {NODE_V6}
        ip route add 10.20.0.0/24 via {NODE_V4}; ip -6 route add fd00:20::/64 via {NODE_V6}""",
        pod=OUTSIDE,
    )
    return lab


def reaches(node: Node, target: str, pod: str) -> bool:
    return node.pings(target, pod=pod)


def blocked(node: Node, target: str, pod: str) -> bool:
    """Whether nobody answers soon; whoever is let through is heard within a millisecond."""
    return node.run("ping", "-c1", "-W0.4", "-n", target, pod=pod, check=False).returncode != 0


def outside_of(address: str) -> str:
    return OUTSIDE_V6 if ":" in address else OUTSIDE_V4


def rules(node: Node) -> list[str]:
    """The whole ruleset, but for administrators' empty chains, which stay."""
    told = [json.dumps(entry, sort_keys=True) for entry in observe.ruleset(node)]
    return sorted(line for line in told if '"name": "CNI-ADMIN"' not in line)


# -- What passes --


@pytest.mark.parametrize("backend", BACKENDS)
def test_pods_pass_the_filter(closed: Lab, backend: str) -> None:
    """Out and the answers back, in both families; nobody from outside in; after DEL nothing passes."""
    node = closed.node
    pod = Pod(closed, firewall(backend=backend), network())
    assert all(blocked(node, outside_of(address), pod.name) for address in pod.addresses)
    before = rules(node)
    assert pod.it.add() == pod.first.result
    pod.it.check().succeeded()
    for address in pod.addresses:
        assert reaches(node, outside_of(address), pod.name), address
        assert blocked(node, address, OUTSIDE), address
    pod.it.delete().succeeded()
    assert all(blocked(node, outside_of(address), pod.name) for address in pod.addresses)
    if backend == "nftables" and closed.plugins.ours:
        assert rules(node) == before


@reference_fails("published ports are left to others, who cannot know")
def test_published_ports(closed: Lab) -> None:
    """What address translation leads to a pod passes, and its answers; the port itself is not open."""
    node = closed.node
    pod = added(closed, firewall())
    for address, here, there in zip(pod.addresses, (NODE_V4, NODE_V6), (OUTSIDE_V4, OUTSIDE_V6), strict=True):
        family, target = ("ip6", f"[{address}]") if ":" in address else ("ip", address)
        node.sh(f"""nft -f - <<X
            table {family} published {{
                chain prerouting {{ type nat hook prerouting priority dstnat; udp dport 9000 dnat to {target}:5353; }}
            }}""")
        server = traffic.start(node, traffic.ECHO_SOURCE, address, "5353", pod=pod.name)
        ask = ("python3", "-I", "-S", "-c", traffic.ASK)
        assert json.loads(node.run(*ask, here, "9000", "3", pod=OUTSIDE).stdout) == there
        assert json.loads(node.run(*ask, address, "5353", "0.5", pod=OUTSIDE).stdout) is None
        server.kill()


@pytest.mark.parametrize("backend", BACKENDS)
def test_pods_of_one_node(closed: Lab, backend: str) -> None:
    """Pods of two bridges: what one sends is let through, and the answers."""
    one = added(closed, firewall(backend=backend))
    two = added(closed, firewall(backend=backend), network(SECOND, name="second", bridge="cni1"))
    for target in two.addresses:
        assert reaches(closed.node, target, one.name)
    one.it.delete().succeeded()
    assert blocked(closed.node, two.addresses[0], one.name), "the other pod's rules answer only"
    assert reaches(closed.node, OUTSIDE_V4, two.name), "and stay"


def test_a_mark_of_others_opens_nothing(closed: Lab, own_promise: None) -> None:
    added(closed, firewall())
    stranger = closed.added(network(SECOND, name="second", bridge="cni1"))
    closed.node.sh("iptables -t mangle -A FORWARD -j MARK --set-xmark 0xffffffff")
    assert blocked(closed.node, OUTSIDE_V4, stranger.pod)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chain", ["", "MY-RULES"])
def test_administrators_come_first(closed: Lab, backend: str, chain: str) -> None:
    """The administrator's chain is there from the first ADD on; it closes what is open and opens what is closed."""
    node, name = closed.node, chain or "CNI-ADMIN"
    pod = added(closed, firewall(backend=backend, **({"iptablesAdminChainName": chain} if chain else {})))
    address = pod.addresses[0]
    node.sh(f"iptables -I {name} -s {address} -d {OUTSIDE_V4} -j DROP")
    assert blocked(node, OUTSIDE_V4, pod.name)
    node.sh(f"iptables -F {name}; iptables -A {name} -d {address} -j ACCEPT")
    assert reaches(node, address, OUTSIDE)
    pod.it.delete().succeeded()
    assert f"-d {address}/32 -j ACCEPT" in node.sh(f"iptables -S {name}"), "it is not ours to empty"


@pytest.mark.parametrize("legacy", [False, True], ids=["nft", "legacy"])
def test_networks_with_administrators_of_their_own(lab: Lab, own_promise: None, legacy: bool) -> None:
    """Each is asked for every pod, whichever network came last; and FORWARD does not grow with them."""
    node, tool = lab.node, "iptables-legacy" if legacy else "iptables"
    node.outside()
    node.sh(f"ip route add 10.10.0.0/24 via {NODE_V4}; ip -6 route add fd00:10::/64 via {NODE_V6}", pod=OUTSIDE)
    close(node, ("iptables-legacy", "ip6tables-legacy") if legacy else TOOLS)
    one = added(lab, firewall())
    node.sh(f"{tool} -I CNI-ADMIN -s {one.addresses[0]} -d {OUTSIDE_V4} -j DROP")
    assert blocked(node, OUTSIDE_V4, one.name)
    pods = [added(lab, firewall(iptablesAdminChainName=name)) for name in ("MY-RULES", "CNI-ADMIN", "MY-RULES")]
    assert blocked(node, OUTSIDE_V4, one.name)
    for pod in (one, *pods):
        pod.it.check().succeeded()
    assert node.sh(f"{tool} -S FORWARD").count("-A FORWARD") == 3
    node.sh(f"{tool} -D FORWARD -m mark --mark 0x1000/0x1000 -m comment --comment x -j ACCEPT 2>/dev/null || true")
    node.sh(f"{tool} -F FORWARD")
    added(lab, firewall())
    assert blocked(node, OUTSIDE_V4, one.name)
    assert reaches(node, OUTSIDE_V4, pods[0].name)


@pytest.mark.parametrize("others", [["-p tcp --dport 22", "! -s {0}"], ["-o lo", "-i lo"]])
def test_rules_of_administrators_stay(closed: Lab, own_promise: None, others: list[str]) -> None:
    """In CNI-FORWARD, of the same address: those that ask for more are not a pod's. What stands there twice goes as a whole."""
    node = closed.node
    pod = added(closed, firewall(backend="iptables"))
    address = pod.addresses[0]
    mine = [f"-A CNI-FORWARD -s {address} {words.format(address)} -j ACCEPT" for words in others if "{0}" not in words]
    for rule in mine:
        node.sh(f"iptables {rule}")
    node.sh(f"iptables -A CNI-FORWARD -s {address} -j ACCEPT")
    pod.it.delete().succeeded()
    left = node.sh("iptables -S CNI-FORWARD")
    assert left.count(f"{address}/32") == len(mine)


def test_iptables_goes_on(closed: Lab, own_promise: None) -> None:
    """iptables lists, checks, saves and restores what we wrote, and changes its own around it."""
    node = closed.node
    pod = added(closed, firewall())
    listed = node.sh("iptables -L FORWARD -n -v")
    assert "mark match 0x1000/0x1000" in listed and "CNI-ADMIN" in listed
    node.sh(f"""
        iptables -N DOCKER-USER; iptables -I FORWARD -j DOCKER-USER; iptables -A DOCKER-USER -j RETURN
        iptables -C FORWARD -j DOCKER-USER
        iptables -C FORWARD -m comment --comment 'podwire: see table inet {TABLE}' -j CNI-ADMIN
        iptables -D FORWARD -j DOCKER-USER; iptables -F DOCKER-USER; iptables -X DOCKER-USER""")
    saved = node.sh("iptables-save -t filter")
    pod.it.check().succeeded()
    for _ in range(2):
        node.run("iptables-restore", stdin=saved)
        pod.it.check().succeeded()
        assert reaches(node, OUTSIDE_V4, pod.name)
        pod.it.add()
    other = added(closed, firewall())
    assert node.sh("iptables -S FORWARD").count("-j ACCEPT") == 1
    for it in (pod, other):
        it.it.delete().succeeded()
    assert "0x1000" not in node.sh("iptables-save -t filter")


def test_a_filter_that_is_made_later(closed: Lab, own_promise: None) -> None:
    """Docker starts after the first pods, or its rules are written anew: CHECK says so, the next ADD repairs it for all."""
    node = closed.node
    node.sh("nft flush ruleset")
    pod = added(closed, firewall())
    assert [entry["table"]["name"] for entry in observe.ruleset(node) if "table" in entry] == [TABLE]
    close(node)
    pod.it.check().refused(999, "ip6 filter FORWARD does not let marked packets through")
    added(closed, firewall())
    pod.it.check().succeeded()
    assert reaches(node, OUTSIDE_V4, pod.name) and reaches(node, OUTSIDE_V6, pod.name)
    node.sh("iptables -F FORWARD")
    pod.it.check().refused(999, "ip filter FORWARD does not let")
    pod.it.add()
    pod.it.check().succeeded()


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_family_alone(lab: Lab, backend: str) -> None:
    close(lab.node, ("iptables",))
    pod = added(lab, firewall(backend=backend), network(V4))
    pod.it.check().succeeded()
    pod.it.delete().succeeded()
    if lab.plugins.ours:
        assert not [entry for entry in observe.ruleset(lab.node) if entry.get("table", {}).get("family") == "ip6"]


def test_legacy_tables(lab: Lab, own_promise: None) -> None:
    """The old kernel interface, which nft does not see, drops by default."""
    node = lab.node
    node.outside()
    node.sh(f"ip route add 10.10.0.0/24 via {NODE_V4}; ip -6 route add fd00:10::/64 via {NODE_V6}", pod=OUTSIDE)
    close(node, ("iptables-legacy", "ip6tables-legacy"))
    pod = Pod(lab, firewall(), network())
    assert blocked(node, OUTSIDE_V4, pod.name)
    pod.it.add()
    assert reaches(node, OUTSIDE_V4, pod.name) and reaches(node, OUTSIDE_V6, pod.name)
    assert blocked(node, pod.addresses[0], OUTSIDE)
    pod.it.check().succeeded()
    saved = node.sh("iptables-legacy-save")
    added(lab, firewall())
    assert node.sh("iptables-legacy-save").count("-A FORWARD") == saved.count("-A FORWARD") == 2
    node.sh("iptables-legacy -F FORWARD")
    pod.it.check().refused(999, "legacy iptables does not let marked packets through")
    pod.it.delete().succeeded()
    assert blocked(node, OUTSIDE_V4, pod.name)


# -- ingressPolicy --


def on_bridges(lab: Lab, policies: tuple[str, ...], backend: str) -> list[Pod]:
    """A pod on a bridge of its own for each policy."""
    found = []
    for number, policy in enumerate(policies):
        ipam = {
            **ALL,
            "ranges": [[{"subnet": f"10.{30 + number}.0.0/24"}], [{"subnet": f"fd00:{30 + number}::/64"}]],
        }
        first = network(ipam, name=f"net{number}", bridge=f"br{number}")
        found.append(added(lab, firewall(backend=backend, ingressPolicy=policy), first))
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_bridges_with_a_policy_are_apart(lab: Lab, backend: str) -> None:
    """Pods of two bridges that have one do not reach each other; those of a bridge without one do."""
    node = lab.node
    one, two, free = on_bridges(lab, ("same-bridge", "same-bridge", "open"), backend)
    neighbour = added(lab, firewall(backend=backend, ingressPolicy="same-bridge"), one.first.config)
    for number in (0, 1):
        assert blocked(node, two.addresses[number], one.name)
        assert blocked(node, one.addresses[number], two.name)
        assert reaches(node, free.addresses[number], one.name)
        assert reaches(node, one.addresses[number], free.name)
        assert reaches(node, neighbour.addresses[number], one.name)
    for pod in (one, two, neighbour):
        pod.it.check().succeeded()


@pytest.mark.parametrize("backend", BACKENDS)
@reference_fails("1.1.1 has no isolated; later ones need br_netfilter for it")
def test_isolated(lab: Lab, backend: str) -> None:
    """Pods of a bridge do not reach each other either, not even by the gateway's hardware address."""
    node = lab.node
    one, other = on_bridges(lab, ("isolated", "same-bridge"), backend)
    two = added(lab, firewall(backend=backend, ingressPolicy="isolated"), one.first.config)
    gateway = {"10.30.0.1": one.addresses[0], "fd00:30::1": one.addresses[1]}
    for number, (way, _) in enumerate(gateway.items()):
        assert blocked(node, two.addresses[number], one.name)
        assert blocked(node, other.addresses[number], one.name)
        assert reaches(node, way, one.name)
        node.sh(f"ip route add {two.addresses[number]} via {way}", pod=one.name)
        node.sh(f"ip route add {one.addresses[number]} via {way}", pod=two.name)
        assert blocked(node, two.addresses[number], one.name)
    for pod in (one, two):
        pod.it.check().succeeded()
    node.sh(f"bridge link set dev {one.first.host_veth} isolated off")
    one.it.check().refused(999, "no isolated port")


@pytest.mark.parametrize("backend", BACKENDS)
def test_isolated_without_addresses(lab: Lab, own_promise: None, backend: str) -> None:
    """A network of frames alone: pods do not exchange any."""
    pods = [added(lab, firewall(backend=backend, ingressPolicy="isolated"), bridge()) for _ in range(2)]
    for pod in pods:
        assert observe.bridge_port(lab.node, pod.first.host_veth)["isolated"] is True
        pod.it.check().succeeded()
    lab.node.sh(f"bridge link set dev {pods[0].first.host_veth} isolated off")
    pods[0].it.check().refused(999, "no isolated port")


def test_policies_go_with_the_last_pod(lab: Lab, own_promise: None) -> None:
    """A bridge is as strict as the strictest of its pods; what nobody wants any more does not stay (P#573)."""
    node = lab.node
    one, two = on_bridges(lab, ("isolated", "same-bridge"), "nftables")
    three = added(lab, firewall(ingressPolicy="same-bridge"), one.first.config)

    def closed() -> list[str]:
        told = json.loads(node.run("nft", "-j", "list", "set", "inet", TABLE, "closed").stdout)
        return list(told["nftables"][1]["set"].get("elem", []))

    assert closed() == ["br0"]
    one.it.delete().succeeded()
    assert closed() == []
    assert blocked(node, two.addresses[0], three.name)
    three.it.delete().succeeded()
    assert reaches(node, two.addresses[0], three.name)
    two.it.delete().succeeded()
    assert rules(node) == []


def test_a_policy_is_changed(lab: Lab, own_promise: None) -> None:
    """By iptables, where rules have no owners, the latest ADD says what holds for its bridge."""
    (one,) = on_bridges(lab, ("isolated",), "iptables")
    assert "-i br0 -o br0" in lab.node.sh("iptables-save")
    added(lab, firewall(backend="iptables", ingressPolicy="same-bridge"), one.first.config)
    assert "-i br0 -o br0" not in lab.node.sh("iptables-save")
    assert "-i br0 ! -o br0" in lab.node.sh("iptables-save")


# -- The verbs --


@pytest.mark.parametrize("backend", BACKENDS)
def test_twice_each(closed: Lab, backend: str) -> None:
    pod = added(closed, firewall(backend=backend))
    was = rules(closed.node)
    pod.it.add()
    assert rules(closed.node) == was
    for _ in range(2):
        pod.it.delete().succeeded()


@reference_fails("DEL without prevResult removes nothing")
@pytest.mark.parametrize("how", ["no prevResult", "no sandbox", "neither", "another backend"])
def test_del_knows_what_is_its(closed: Lab, how: str) -> None:
    """Whatever is missing, or written in the configuration by now, nothing of the pod stays."""
    node, before = closed.node, rules(closed.node)
    pod = added(closed, firewall(ingressPolicy="same-bridge"))
    config = {**pod.it.config}
    if how in ("no prevResult", "neither"):
        del config["prevResult"]
    if how in ("no sandbox", "neither"):
        node.remove_pod(pod.first.netns)
    if how == "another backend":
        config |= {"backend": "iptables", "ingressPolicy": "nonsense"}
    netns = "" if how == "neither" else pod.first.netns
    pod.it.call("DEL", config, netns=netns).succeeded()
    assert rules(node) == before
    pod.it.call("DEL", config, netns=netns).succeeded()


def test_an_address_is_taken_over(closed: Lab, own_promise: None) -> None:
    """Also where somebody has taken away the set that says that FORWARD lets pods pass."""
    pod = added(closed, firewall())
    closed.node.sh(f"nft delete set inet {TABLE} passed4")
    heir = closed.attachment(pod.it.config, pod=pod.name, container_id="heir")
    heir.add()
    heir.check().succeeded()
    assert reaches(closed.node, OUTSIDE_V4, pod.name)


def test_a_late_del_leaves_the_next_owner_alone(closed: Lab, own_promise: None) -> None:
    """An address that has another pod by now is that one's, in our table; what a dead owner had is taken over."""
    pod = added(closed, firewall())
    heir = closed.attachment({**pod.it.config}, container_id="heir", pod=pod.name)
    heir.add()
    heir.check().succeeded()
    pod.it.check().refused(999, "for another attachment, podwire/net/heir/eth0")
    pod.it.delete().succeeded()
    heir.check().succeeded()
    assert reaches(closed.node, OUTSIDE_V4, pod.name)


DAMAGE = {
    "element": (f"nft delete element inet {TABLE} pods4 '{{ 10.10.0.2 }}'", "no element"),
    "owner": (f"nft delete element inet {TABLE} owners6 '{{ fd00:10::2 }}'", "no element"),
    "rules": (f"nft flush chain inet {TABLE} forward", "rules of nftables chain"),
    "table": (f"nft delete table inet {TABLE}", "no element"),
    "filter": ("iptables -D FORWARD 2", "ip filter FORWARD does not let"),
    "administrator": ("iptables -D FORWARD 1", "after chain CNI-ADMIN"),
    "order": ("iptables -D FORWARD 1; iptables -A FORWARD -j CNI-ADMIN", "after chain CNI-ADMIN"),
    "policy": (f"nft flush set inet {TABLE} bridges", "ingressPolicy same-bridge of cni0"),
    "chain": (f"nft add chain inet {TABLE} forward '{{ policy drop; }}'", "rules of nftables chain"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_check_and_repair(closed: Lab, own_promise: None, damage: str) -> None:
    """CHECK names what is wrong and changes nothing; another ADD repairs it."""
    script, says = DAMAGE[damage]
    pod = added(closed, firewall(ingressPolicy="same-bridge"))
    closed.node.sh(script)
    was = rules(closed.node)
    pod.it.check().refused(999, says)
    assert rules(closed.node) == was
    pod.it.add()
    pod.it.check().succeeded()


def test_a_filter_that_an_administrator_closed(closed: Lab, own_promise: None) -> None:
    """What drops everything at the top of FORWARD is meant so: CHECK says that pods are cut off, and ADD does not undo it."""
    pod = added(closed, firewall())
    closed.node.sh("iptables -I FORWARD -j DROP")
    pod.it.check().refused(999, "ip filter FORWARD drops all packets before")
    pod.it.add()
    assert blocked(closed.node, OUTSIDE_V4, pod.name)
    closed.node.sh("iptables -D FORWARD -j DROP")
    pod.it.check().succeeded()


@pytest.mark.parametrize("verb", ["DEL", "GC"])
def test_rules_that_have_lost_their_table(closed: Lab, own_promise: None, verb: str) -> None:
    """They would let through what others mark with our bit. Rules of others stay."""
    node = closed.node
    node.sh("iptables-save | iptables-restore")  # makes chains that are not there
    before = rules(node)
    pod = added(closed, firewall(cniVersion="1.1.0"), network(version="1.1.0"))
    # ... an administrator's own of our bit, too, and what iptables has saved and restored
    node.sh(f"iptables-save | iptables-restore; nft delete table inet {TABLE}")
    node.sh("iptables -A FORWARD -s 192.0.2.7 -j ACCEPT; iptables -A FORWARD -m mark --mark 0x1000/0x1000 -j ACCEPT")
    if verb == "DEL":
        pod.it.delete().succeeded()
    else:
        closed.call("GC", firewall(cniVersion="1.1.0", **{"cni.dev/valid-attachments": []})).succeeded()
    node.sh("iptables -D FORWARD -s 192.0.2.7 -j ACCEPT; iptables -D FORWARD -m mark --mark 0x1000/0x1000 -j ACCEPT")
    assert rules(node) == before


@pytest.mark.parametrize("backend", BACKENDS)
@reference_fails("CHECK makes the chains that are missing")
def test_check_makes_nothing(closed: Lab, backend: str) -> None:
    """CHECK must not change anything, and should return an error if what ADD made is missing."""
    pod = Pod(closed, firewall(backend=backend), network())
    was = rules(closed.node)
    pod.it.check(pod.first.result).refused(999)
    assert rules(closed.node) == was


def test_gc(closed: Lab, own_promise: None) -> None:
    """What attachments outside of the list left goes, of this network only; with the last one the table."""
    node, before = closed.node, rules(closed.node)
    config = firewall(ingressPolicy="isolated", cniVersion="1.1.0")
    pods = [added(closed, config, network(version="1.1.0")) for _ in range(3)]
    other = added(closed, config, network(SECOND, name="net2", bridge="cni1", version="1.1.0"))
    valid = [{"containerID": pods[0].first.container_id, "ifname": "eth0"}]
    closed.call("GC", {**config, "cni.dev/valid-attachments": valid}).succeeded()
    pods[0].it.check().succeeded()
    other.it.check().succeeded()
    pods[1].it.check().refused(999, "no element")
    closed.call("GC", config).succeeded()
    pods[0].it.check().succeeded()
    for name in ("net", "net2"):
        closed.call("GC", {**config, "name": name, "cni.dev/valid-attachments": []}).succeeded()
    assert rules(node) == before


@pytest.mark.parametrize("backend", ["", *BACKENDS])
def test_status(lab: Lab, own_promise: None, backend: str) -> None:
    lab.call("STATUS", firewall(cniVersion="1.1.0", backend=backend)).succeeded()


def test_status_without_firewalld(lab: Lab, own_promise: None) -> None:
    lab.call("STATUS", firewall(cniVersion="1.1.0", backend="firewalld")).refused(50, "firewalld cannot be used")


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_every_version(closed: Lab, own_promise: None, version: str) -> None:
    pod = added(closed, firewall(), network(version=version))
    assert reaches(closed.node, OUTSIDE_V4, pod.name)
    pod.it.call("DEL").succeeded()
    assert blocked(closed.node, OUTSIDE_V4, pod.name)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"backend": "ipfw"}, "invalid backend 'ipfw'"),
        ({"ingressPolicy": "closed"}, "invalid ingressPolicy 'closed'"),
        ({"iptablesAdminChainName": "a b"}, "invalid iptablesAdminChainName"),
        ({"iptablesAdminChainName": "x" * 29}, "invalid iptablesAdminChainName"),
        ({"iptablesAdminChainName": "FORWARD"}, "invalid iptablesAdminChainName"),
    ],
    ids=str,
)
@reference_fails("unknown backends are taken for another one, and nothing is refused before the work")
def test_refused(lab: Lab, keys: Config, says: str) -> None:
    """A value that cannot be is refused before anything is done."""
    pod = Pod(lab, firewall(**keys), network())
    was = rules(lab.node)
    pod.it.call("ADD").refused(7, says)
    assert rules(lab.node) == was


def test_without_prev_result(lab: Lab) -> None:
    it = lab.attachment(firewall())
    it.call("ADD").refused(7, "prevResult")
    it.call("DEL").succeeded()


@pytest.mark.parametrize("name", ['x"y', "cni*", "a;b"])
def test_hostile_links(lab: Lab, own_promise: None, name: str) -> None:
    """A link that rules cannot name is refused; nothing of its name becomes part of a rule."""
    pod = Pod(lab, firewall(ingressPolicy="same-bridge"), network())
    assert pod.first.result is not None
    pod.first.result["interfaces"][0]["name"] = name
    pod.it.call("ADD", pod.it.config | {"prevResult": pod.first.result}).refused(7, "cannot name the link")
    assert rules(lab.node) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_at_once(closed: Lab, backend: str) -> None:
    """The first pods of a node, all at the same time, and their ends."""
    pods = [Pod(closed, firewall(backend=backend), network()) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda pod: pod.it.add(), pods))
    for pod in pods:
        pod.it.check().succeeded()
        assert reaches(closed.node, OUTSIDE_V4, pod.name)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda pod: pod.it.delete().succeeded(), pods))
    for address in (address for pod in pods for address in pod.addresses):
        assert not observe.mentions(closed.node, f"{address}/", f'"{address}"')
    if backend == "nftables" and closed.plugins.ours:
        assert TABLE not in closed.node.sh("nft list ruleset")


def test_coming_and_going(closed: Lab, own_promise: None) -> None:
    """Each is the first pod and the last one again and again, while others are, too: who is told to be let through is."""
    before = rules(closed.node)
    pods = [Pod(closed, firewall(ingressPolicy="same-bridge"), network()) for _ in range(4)]

    def come_and_go(pod: Pod) -> None:
        for _ in range(6):
            pod.it.add()
            pod.it.check().succeeded()
            pod.it.delete().succeeded()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(come_and_go, pods))
    assert rules(closed.node) == before


# -- Beside the Go plugin --


@contextmanager
def go(lab: Lab) -> Iterator[Lab]:
    """The same node, with the Go plugins."""
    assert (GO / "firewall").exists(), "install the package containernetworking-plugins"
    yield Lab(lab.node, Executables(GO, whose="reference"))


@pytest.mark.parametrize("policy", ["open", "same-bridge"])
def test_ours_after_the_reference(closed: Lab, own_promise: None, policy: str) -> None:
    """What the Go plugin let through our CHECK accepts, and our DEL removes, by the default backend too."""
    pod = Pod(closed, firewall(backend="iptables", ingressPolicy=policy), network())
    with go(closed) as theirs:
        theirs.attachment(pod.it.config, pod=pod.name, container_id=pod.it.container_id).add()
    pod.it.check(pod.first.result).succeeded()
    if policy == "open":
        pod.it.call("CHECK", {**pod.it.config, "backend": ""}).succeeded()
    pod.it.call("DEL", {**pod.it.config, "backend": ""}).succeeded()
    assert not observe.mentions(closed.node, *(f"{address}/" for address in pod.addresses))
    assert blocked(closed.node, OUTSIDE_V4, pod.name)


def test_the_reference_after_ours(closed: Lab, own_promise: None) -> None:
    """And the other way round."""
    pod = added(closed, firewall(backend="iptables"))
    was = observe.iptables_rules(closed.node)
    with go(closed) as theirs:
        it = theirs.attachment(pod.it.config, pod=pod.name, container_id=pod.it.container_id)
        it.call("CHECK").succeeded()
        it.add()
        assert observe.iptables_rules(closed.node) == was, "the Go plugin finds its rules"
        it.call("DEL").succeeded()
    assert not observe.mentions(closed.node, *(f"{address}/" for address in pod.addresses))


def test_both_on_one_node(closed: Lab, own_promise: None) -> None:
    """A node whose pods are replaced one by one."""
    old = Pod(closed, firewall(backend="iptables"), network())
    with go(closed) as theirs:
        its = theirs.attachment(old.it.config, pod=old.name, container_id=old.it.container_id)
        its.add()
        new = added(closed, firewall())
        for pod in (old, new):
            assert reaches(closed.node, OUTSIDE_V4, pod.name)
        its.call("DEL").succeeded()
    assert reaches(closed.node, OUTSIDE_V4, new.name)
    assert blocked(closed.node, OUTSIDE_V4, old.name)


# -- firewalld --


def zones(service: Any) -> dict[str, list[str]]:
    """What firewalld's zones hold, by its latest word."""
    told = traffic.read_until(service, lambda line: False, seconds=0.3)
    return dict(told[-1]) if told else {}


@pytest.mark.parametrize("backend", ["", "firewalld"])
def test_firewalld(lab: Lab, backend: str) -> None:
    """Where firewalld runs it is asked to trust the pods, unless the configuration says otherwise."""
    firewalld.start_bus(lab.node)
    service = firewalld.start(lab.node)
    pod = added(lab, firewall(backend=backend))
    sources = [f"{address}/{128 if ':' in address else 32}" for address in pod.addresses]
    assert zones(service) == {"trusted": sources, "other": []}
    pod.it.check().succeeded()
    pod.it.add()
    other = added(lab, firewall(backend=backend, firewalldZone="other"))
    assert len(zones(service)["other"]) == 2
    pod.it.delete(config={**pod.it.config, "firewalldZone": "other"}).succeeded()
    pod.it.delete().succeeded()
    pod.it.delete().succeeded()
    assert zones(service)["trusted"] == []
    other.it.check().succeeded()
    assert not lab.plugins.ours or not rules(lab.node)


@reference_fails("what the Go plugin is answered it does not look at")
def test_firewalld_has_forgotten(lab: Lab) -> None:
    """As after a reload: CHECK says so, another ADD repairs it."""
    firewalld.start_bus(lab.node)
    service = firewalld.start(lab.node)
    pod = added(lab, firewall())
    service.kill()
    service.wait()
    firewalld.start(lab.node)
    pod.it.check().refused(999, "10.10.0.2 is not a source of firewalld's zone trusted")
    pod.it.add()
    pod.it.check().succeeded()


def test_firewalld_refuses(lab: Lab, own_promise: None) -> None:
    """What was asked for before is taken back; the error is firewalld's own."""
    firewalld.start_bus(lab.node)
    service = firewalld.start(lab.node)
    pod = Pod(lab, firewall(firewalldZone="nowhere"), network())
    pod.it.call("ADD").refused(999, "cannot put source 10.10.0.2/32 into zone nowhere.*INVALID_ZONE")
    trusted = added(lab, firewall())
    second = f"{pod.addresses[1]}/128"
    lab.node.sh(
        f"busctl --system call {firewalld.NAME} /org/fedoraproject/FirewallD1 {firewalld.NAME}.zone addSource ss other {second}"
    )
    pod.it.call("ADD", {**pod.it.config, "firewalldZone": "trusted"}).refused(999, "ZONE_CONFLICT")
    assert zones(service) == {"trusted": [f"{trusted.addresses[0]}/32", f"{trusted.addresses[1]}/128"], "other": [second]}


@pytest.mark.parametrize("there", ["a bus without firewalld", "a socket that nobody serves"])
def test_no_firewalld(closed: Lab, own_promise: None, there: str) -> None:
    bus = firewalld.start_bus(closed.node)
    if "nobody" in there:
        bus.kill()
        bus.wait()
    pod = added(closed, firewall())
    assert reaches(closed.node, OUTSIDE_V4, pod.name)
    pod.it.check().succeeded()
    pod.it.delete().succeeded()
    attempt = Pod(closed, firewall(backend="firewalld"), network())
    attempt.it.call("ADD").refused(999, "firewalld")
    closed.call("STATUS", firewall(cniVersion="1.1.0", backend="firewalld")).refused(50, "firewalld cannot be used")


def test_firewalld_beside_a_closed_legacy_filter(lab: Lab, own_promise: None) -> None:
    node = lab.node
    node.outside()
    node.sh(f"ip route add 10.10.0.0/24 via {NODE_V4}; ip -6 route add fd00:10::/64 via {NODE_V6}", pod=OUTSIDE)
    close(node, ("iptables-legacy", "ip6tables-legacy"))
    firewalld.start_bus(node)
    firewalld.start(node)
    pod = added(lab, firewall())
    assert reaches(node, OUTSIDE_V4, pod.name) and reaches(node, OUTSIDE_V6, pod.name)
    pod.it.check().succeeded()


def test_firewalld_beside_a_closed_filter(closed: Lab, own_promise: None) -> None:
    """As Docker makes it: firewalld's word alone would let nobody out."""
    before = rules(closed.node)
    firewalld.start_bus(closed.node)
    firewalld.start(closed.node)
    pod = added(closed, firewall())
    assert reaches(closed.node, OUTSIDE_V4, pod.name)
    pod.it.check().succeeded()
    closed.node.sh("iptables -F FORWARD")
    pod.it.check().refused(999, "ip filter FORWARD does not let marked packets through")
    pod.it.add()
    pod.it.delete().succeeded()
    assert rules(closed.node) == before


@pytest.mark.parametrize("backend", ["", "nftables"])
def test_a_bus_that_does_not_answer(closed: Lab, own_promise: None, backend: str) -> None:
    """Nobody knows then whether firewalld runs: ADD is to be repeated (11), and DEL of a pod that our table does not know tells
    what it could not do, after the rest. Who has named another backend is not asked at ADD, and DEL succeeds without.
    """
    bus = firewalld.start_bus(closed.node)
    pod, others = added(closed, firewall(backend="nftables")), rules(closed.node)
    bus.kill()
    bus.wait()
    listener = closed.node.spawn(python(), "-c", REFUSE, firewalld.SOCKET)
    assert listener.stdout and listener.stdout.readline() == b"ready\n"
    config = {**pod.it.config, "backend": backend}
    if backend:
        pod.it.add(config=config)
        assert rules(closed.node) == others
        pod.it.delete(config=config).succeeded()
    else:
        pod.it.call("ADD", config).refused(11, "cannot talk to firewalld")
        closed.call("STATUS", firewall(cniVersion="1.1.0")).refused(50, "cannot talk to firewalld")
        pod.it.delete(config=config).succeeded()
        pod.it.delete(config=config).refused(11, "cannot talk to firewalld")
    assert TABLE not in closed.node.sh("nft list ruleset")


# A bus that takes connections and closes them.
REFUSE = """
import os, socket, sys
os.unlink(sys.argv[1])
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
while True:
    listener.accept()[0].close()
"""


def test_policies_beside_firewalld(lab: Lab, own_promise: None) -> None:
    """A drop of our own table holds, whatever firewalld lets through; another backend may be asked for."""
    firewalld.start_bus(lab.node)
    service = firewalld.start(lab.node)
    one, two = on_bridges(lab, ("same-bridge", "same-bridge"), "")
    assert len(zones(service)["trusted"]) == 4
    assert blocked(lab.node, two.addresses[0], one.name)
    one.it.check().succeeded()
    for pod in (one, two):
        pod.it.delete().succeeded()
    assert rules(lab.node) == []
    pod = added(lab, firewall(backend="nftables"), one.first.config)
    assert TABLE in lab.node.sh("nft list ruleset")
    pod.it.delete().succeeded()
