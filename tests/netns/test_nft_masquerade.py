"""Masquerading on a real kernel: real packets, judged by what the outside sees and by nft; both backends, both families."""

from __future__ import annotations

import json
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

import pytest

from cni.nft import masq, masquerade
from cni.nft.apply import Exists, NftError, NotFound
from cni.spec.owner import Owner
from tests.contract.nft_node import Doors, inside
from tests.harness import observe
from tests.harness.node import NODE_V4, NODE_V6, OUTSIDE, OUTSIDE_V4, OUTSIDE_V6, Node

if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.spec.addresses import Cidr

pytestmark = pytest.mark.root

ONE, TWO = Owner("net", "one", "eth0"), Owner("net", "two", "eth0")
POD_ONE = (ip_interface("10.1.0.5/24"), ip_interface("fd00:1::5/64"))
POD_TWO = (ip_interface("10.1.0.6/24"), ip_interface("fd00:1::6/64"))
BACKENDS = ("nftables", "iptables")

# Answers every datagram and every connection with the address it came from.
REFLECTOR = """
import selectors, socket, sys
doors = selectors.DefaultSelector()
for family in (socket.AF_INET, socket.AF_INET6):
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        s = socket.socket(family, kind)
        if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.bind(("", 7777))
        if kind == socket.SOCK_STREAM: s.listen(16)
        doors.register(s, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in doors.select():
        if key.fileobj.type == socket.SOCK_DGRAM:
            _, who = key.fileobj.recvfrom(100)
            key.fileobj.sendto(who[0].encode(), who)
        else:
            connection, who = key.fileobj.accept()
            connection.sendall(who[0].encode()); connection.close()
"""

ASK = """
import socket, sys
target, kind = sys.argv[1], sys.argv[2]
family = socket.AF_INET6 if ":" in target else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[3]))
try:
    s.connect((target, 7777))
    s.send(b"who am I")
    print(s.recv(100).decode())
except OSError as error:
    print("none")
"""


def wire(node: Node) -> None:
    """Two pods on a bridge, and an outside that can answer pods without masquerade too, so that it tells what it saw."""
    node.outside()
    node.sh("""
        ip link add br0 type bridge
        ip link set br0 up
        ip addr add 10.1.0.1/24 dev br0
        ip addr add fd00:1::1/64 dev br0 nodad
        ip addr add 10.9.0.1/24 dev br0
        echo 1 >/proc/sys/net/ipv4/ip_forward
        echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
    """)
    for name, (four, six) in (("p1", POD_ONE), ("p2", POD_TWO)):
        node.pod(name)
        node.sh(f"""
            ip link add h{name} type veth peer name eth0 netns {name}
            ip link set h{name} master br0 up
            ip netns exec {name} sh -ec '
                echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
                ip link set lo up
                ip link set eth0 up
                ip addr add {four} dev eth0
                ip addr add {six} dev eth0 nodad
                ip route add default via 10.1.0.1
                ip -6 route add default via fd00:1::1'
        """)
    node.sh(f"ip route add 10.0.0.0/8 via {NODE_V4}; ip -6 route add fd00::/16 via {NODE_V6}", pod=OUTSIDE)
    for pod in (OUTSIDE, "p2"):
        server = node.spawn("python3", "-c", REFLECTOR, pod=pod)
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"


def asked(node: Node, target: str, kind: str = "udp", pod: str = "p1", patience: float = 5) -> str:
    """The address that the target saw, or `none`."""
    return node.run("python3", "-c", ASK, target, kind, str(patience), pod=pod).stdout.decode().strip()


def add(owner: Owner, addresses: tuple[Cidr, ...], backend: str) -> Callable[[Doors], list[str]]:
    def work(doors: Doors) -> list[str]:
        facts = masquerade.look(doors, owner, addresses, True, backend, "ADD")
        return doors.run(masquerade.plan_add(owner, addresses, backend, facts))

    return work


def remove(owner: Owner, addresses: tuple[Cidr, ...] = ()) -> Callable[[Doors], list[str]]:
    def work(doors: Doors) -> list[str]:
        facts = masquerade.look(doors, owner, addresses, True, "nftables", "DEL")
        return doors.run(masquerade.plan_del(owner, facts))

    return work


def check(owner: Owner, addresses: tuple[Cidr, ...], backend: str = "nftables") -> Callable[[Doors], list[str]]:
    def work(doors: Doors) -> list[str]:
        facts = masquerade.look(doors, owner, addresses, True, backend, "CHECK")
        return masquerade.check(owner, addresses, backend, facts)

    return work


def collect(network: str, *keep: Owner) -> Callable[[Doors], list[str]]:
    return lambda doors: doors.run(masquerade.plan_gc(doors, network, frozenset(keep)))


def owners(node: Node) -> dict[str, str]:
    """Label by address, as nft lists our maps."""
    found = {}
    for entry in json.loads(node.run("nft", "-j", "list", "ruleset").stdout)["nftables"]:
        for element, _mark in entry.get("map", {}).get("elem", []):
            found[element["elem"]["val"]] = element["elem"]["comment"]
    return found


def rules(node: Node) -> list[Any]:
    """Everything of nftables and iptables, except the empty base chains that iptables itself makes and leaves."""
    told = [entry for entry in observe.ruleset(node) if not _of_iptables(entry)]
    return told + [line for line in observe.iptables_rules(node) if " -A " in line or "CNI-" in line]


def _of_iptables(entry: dict[str, Any]) -> bool:
    (_, body), *_ = entry.items()
    return body.get("family") in ("ip", "ip6") and "nat" in (body.get("table"), body.get("name"))


# -- packets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_outside_sees_the_node_and_neighbours_see_the_pod(node: Node, backend: str) -> None:
    """The whole life: before ADD, after it, CHECK, DEL; UDP, TCP and echo; both families."""
    wire(node)
    for target, pod in ((OUTSIDE_V4, "10.1.0.5"), (OUTSIDE_V6, "fd00:1::5")):
        assert asked(node, target) == pod, "the test bed itself must not hide the pod"
    inside(node, add(ONE, POD_ONE, backend))
    for target, seen in ((OUTSIDE_V4, NODE_V4), (OUTSIDE_V6, NODE_V6), ("10.1.0.6", "10.1.0.5"), ("fd00:1::6", "fd00:1::5")):
        assert {asked(node, target, kind) for kind in ("udp", "tcp")} == {seen}
        assert node.pings(target, pod="p1")
    assert inside(node, check(ONE, POD_ONE, backend)) == []
    assert asked(node, OUTSIDE_V4, pod="p2") == "10.1.0.6", "a pod that did not ask for it is not masqueraded"
    inside(node, remove(ONE, POD_ONE))
    assert inside(node, check(ONE, POD_ONE, backend))
    # a new source port is a new connection, which conntrack does not translate as the old ones
    assert asked(node, OUTSIDE_V4, "tcp") == "10.1.0.5" and asked(node, OUTSIDE_V6, "tcp") == "fd00:1::5"


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_subnets_are_each_left_alone(node: Node, backend: str) -> None:
    """The Go plugins masquerade traffic within the second subnet: there the ACCEPT comes after the MASQUERADE."""
    wire(node)
    node.sh("ip addr add 10.9.0.5/24 dev eth0", pod="p1")
    node.sh("ip addr add 10.9.0.6/24 dev eth0; ip route add 10.7.0.0/24 via 10.9.0.1", pod="p2")
    inside(node, add(ONE, (POD_ONE[0], ip_interface("10.9.0.5/24")), backend))
    # through the router, not the bridge: that is where masquerade could happen
    node.sh("ip route add 10.9.0.6/32 via 10.9.0.1 src 10.9.0.5", pod="p1")
    assert asked(node, "10.9.0.6") == "10.9.0.5"
    node.sh(f"ip route add {OUTSIDE_V4}/32 via 10.9.0.1 src 10.9.0.5", pod="p1")
    assert asked(node, OUTSIDE_V4) == NODE_V4


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_single_address_is_masqueraded_to_everybody_else(node: Node, backend: str) -> None:
    """With /32 and /128 the subnet is the pod itself."""
    wire(node)
    single = (ip_interface("10.1.0.5/32"), ip_interface("fd00:1::5/128"))
    inside(node, add(ONE, single, backend))
    assert asked(node, OUTSIDE_V4) == NODE_V4 and asked(node, OUTSIDE_V6) == NODE_V6
    assert inside(node, check(ONE, single, backend)) == []
    inside(node, remove(ONE, single))
    assert owners(node) == {}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group", ["239.1.2.3", "ff0e::1:2:3"])
def test_multicast_leaves_as_the_pod(node: Node, backend: str, group: str) -> None:
    """Nothing routes multicast here, so the node itself sends, with the pod's address, and counts what leaves unchanged."""
    node.outside()
    inside(node, add(ONE, POD_ONE, backend))
    family, length, pod, hook = ("-4", 32, "10.1.0.5", "ip") if "." in group else ("-6", 128, "fd00:1::5", "ip6")
    node.sh(f"""
        nft add table {hook} seen
        nft 'add chain {hook} seen post {{ type filter hook postrouting priority 200; }}'
        nft add rule {hook} seen post {hook} daddr {group} {hook} saddr {pod} counter
    """)
    nodad = " nodad" if length == 128 else ""
    node.sh(f"ip addr add {pod}/{length} dev up0{nodad}; ip {family} route add {group}/{length} dev up0")
    send = f"""
import socket
s = socket.socket(socket.AF_INET6 if ":" in "{group}" else socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("{pod}", 0))
s.sendto(b"x", ("{group}", 9))
"""
    node.run("python3", "-c", send)
    (counter,) = [
        expression["counter"]
        for entry in json.loads(node.run("nft", "-j", "list", "chain", hook, "seen", "post").stdout)["nftables"]
        for expression in entry.get("rule", {}).get("expr", [])
        if "counter" in expression
    ]
    assert counter["packets"] == 1, "the packet left with another source address"


# -- elements --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_adding_twice_is_adding_once(node: Node, backend: str) -> None:
    inside(node, add(ONE, POD_ONE, backend))
    once = rules(node)
    inside(node, add(ONE, POD_ONE, backend))
    assert rules(node) == once and once


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("known", [True, False])
def test_removing_the_last_leaves_nothing(node: Node, backend: str, known: bool) -> None:
    """With the addresses known or not. GC takes the empty table."""
    inside(node, add(ONE, POD_ONE, backend))
    assert rules(node)
    inside(node, remove(ONE, POD_ONE if known else ()))
    assert owners(node) == {}
    inside(node, lambda doors: doors.run(masquerade.plan_gc(doors, "net", frozenset())))
    assert rules(node) == []
    assert inside(node, remove(ONE, POD_ONE if known else ())) == []


@pytest.mark.parametrize("known", [True, False])
def test_removing_one_leaves_the_other(node: Node, known: bool) -> None:
    inside(node, add(ONE, POD_ONE, "nftables"))
    inside(node, add(TWO, POD_TWO, "nftables"))
    inside(node, remove(ONE, POD_ONE if known else ()))
    assert owners(node) == {"10.1.0.6": TWO.label, "fd00:1::6": TWO.label}
    assert inside(node, check(TWO, POD_TWO)) == []


def test_an_inverse_takes_back_what_was_added(node: Node) -> None:
    inside(node, add(TWO, POD_TWO, "nftables"))
    before = rules(node)

    def there_and_back(doors: Doors) -> list[str]:
        facts = masquerade.look(doors, ONE, POD_ONE, True, "nftables", "ADD")
        plan = masquerade.plan_add(ONE, POD_ONE, "nftables", facts)
        doors.run(plan)
        return doors.run([step.inverse() for step in reversed(plan)])

    assert inside(node, there_and_back) == ["undo: masquerade fd00:1::5 outside fd00:1::/64",
                                            "undo: masquerade 10.1.0.5 outside 10.1.0.0/24"]  # fmt: skip
    assert rules(node) == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_inverse_for_a_whole_attachment(node: Node, backend: str) -> None:
    def there_and_back(doors: Doors) -> None:
        plan = masquerade.plan_add(ONE, POD_ONE, backend, masquerade.look(doors, ONE, POD_ONE, True, backend, "ADD"))
        doors.run(plan)
        doors.run([step.inverse() for step in reversed(plan)])
        doors.run(masquerade.plan_gc(doors, "net", frozenset()))

    inside(node, there_and_back)
    assert rules(node) == []


def test_an_address_of_a_dead_owner_is_taken_over(node: Node) -> None:
    """The dead one's DEL comes late, or never; it must not take the address from the new one."""
    inside(node, add(ONE, POD_ONE, "nftables"))
    inside(node, add(TWO, POD_ONE, "nftables"))
    assert set(owners(node).values()) == {TWO.label}
    for addresses in (POD_ONE, ()):
        inside(node, remove(ONE, addresses))
        assert owners(node) == {"10.1.0.5": TWO.label, "fd00:1::5": TWO.label}
        assert inside(node, check(TWO, POD_ONE)) == []
    assert inside(node, check(ONE, POD_ONE)) == [
        f"10.1.0.5 is masqueraded for another attachment, {TWO.label}",
        f"fd00:1::5 is masqueraded for another attachment, {TWO.label}",
    ]


def test_an_address_moves_to_another_subnet(node: Node) -> None:
    """The network was configured anew; the old element would masquerade the pod to its new neighbours."""
    inside(node, add(ONE, (ip_interface("10.1.0.5/25"),), "nftables"))
    inside(node, add(TWO, (ip_interface("10.1.0.5/16"),), "nftables"))
    assert node.run("nft", "list", "set", "inet", masq.TABLE, "pods_10.1.0.0/25").stdout.count(b"10.1.0.5") == 0
    inside(node, collect("net", TWO))
    assert owners(node) == {"10.1.0.5": TWO.label}
    assert b"10.1.0.0/25" not in node.run("nft", "list", "ruleset").stdout


@pytest.mark.parametrize(
    "damage",
    [
        f"flush chain inet {masq.TABLE} pods_10.1.0.0/24",
        f"insert rule inet {masq.TABLE} pods_10.1.0.0/24 return",
        f"delete element inet {masq.TABLE} pods_10.1.0.0/24 {{ 10.1.0.5 }}",
        f"delete element inet {masq.TABLE} owners4 {{ 10.1.0.5 }}",
        f"delete chain inet {masq.TABLE} pods_10.1.0.0/24",
        f"delete map inet {masq.TABLE} owners4",
        f"delete table inet {masq.TABLE}",
    ],
)
def test_damage_is_told_and_the_next_add_mends_it(node: Node, damage: str) -> None:
    inside(node, add(ONE, POD_ONE[:1], "nftables"))
    node.run("nft", damage)
    (told,) = inside(node, check(ONE, POD_ONE[:1]))
    assert told.startswith("10.1.0.5 is not masqueraded")
    inside(node, add(ONE, POD_ONE[:1], "nftables"))
    assert inside(node, check(ONE, POD_ONE[:1])) == []


def test_without_the_set_of_sweeps_pods_are_masqueraded_and_the_next_add_makes_it(node: Node) -> None:
    inside(node, add(ONE, POD_ONE[:1], "nftables"))
    whole = observe.ruleset(node)
    node.run("nft", f"delete set inet {masq.TABLE} sweeps")
    assert inside(node, check(ONE, POD_ONE[:1])) == []
    inside(node, add(ONE, POD_ONE[:1], "nftables"))
    assert sorted(map(str, observe.ruleset(node))) == sorted(map(str, whole))


def handles(node: Node) -> dict[tuple[str, str], int]:
    """The kernel's numbers for everything in our table; what is made anew gets a new one."""
    found = {}
    for entry in json.loads(node.run("nft", "-j", "list", "table", "inet", masq.TABLE).stdout)["nftables"]:
        for kind, body in entry.items():
            if kind != "metainfo":
                found[kind, body.get("name", body.get("chain"))] = body["handle"]
    return found


def test_a_second_pod_only_adds_elements(node: Node) -> None:
    """Nothing is made anew: what a transaction leaves the kernel to destroy, somebody has to wait for."""
    inside(node, add(ONE, POD_ONE, "nftables"))
    before = handles(node)
    inside(node, add(TWO, POD_TWO, "nftables"))
    assert handles(node) == before and ("rule", "pods_10.1.0.0/24") in before
    assert len(owners(node)) == 4


def test_a_table_that_went_since_it_was_seen_is_made_again(node: Node) -> None:
    """All of it, or the subnet's part."""
    inside(node, add(ONE, POD_ONE, "nftables"))

    def work(doors: Doors) -> None:
        facts = masquerade.look(doors, TWO, POD_TWO, True, "nftables", "ADD")
        plan = masquerade.plan_add(TWO, POD_TWO, "nftables", facts)
        assert plan[0].text == masq.claim(TWO.label, POD_TWO[0])
        doors.nft.run(f"delete table inet {masq.TABLE}\n")
        doors.run(plan)
        part = "".join(f"delete {kind} inet {masq.TABLE} pods_10.1.0.0/24\n" for kind in ("chain", "set"))
        doors.nft.run(part)
        doors.run(plan)

    inside(node, work)
    assert inside(node, check(TWO, POD_TWO)) == []
    assert set(owners(node).values()) == {TWO.label}


def test_gc_keeps_what_is_in_use(node: Node) -> None:
    third = Owner("other", "one", "eth0")
    for owner, addresses in ((ONE, POD_ONE), (TWO, POD_TWO), (third, (ip_interface("10.5.0.5/24"),))):
        inside(node, add(owner, addresses, "nftables"))
    inside(node, collect("net", ONE))
    assert set(owners(node).values()) == {ONE.label, third.label}
    inside(node, collect("net"))
    assert owners(node) == {"10.5.0.5": third.label}
    inside(node, collect("other"))
    assert rules(node) == []


def test_gc_of_iptables_reads_names_from_comments(node: Node) -> None:
    inside(node, add(ONE, POD_ONE, "iptables"))
    inside(node, add(TWO, POD_TWO, "iptables"))
    assert inside(node, collect("other")) == []
    inside(node, collect("net", TWO))
    assert inside(node, check(TWO, POD_TWO, "iptables")) == [] and inside(node, check(ONE, POD_ONE, "iptables"))
    inside(node, collect("net"))
    assert rules(node) == []


def test_two_interfaces_of_a_container_share_a_chain(node: Node) -> None:
    """The Go plugins' name for the chain has no interface in it (P#151)."""
    second, addresses = Owner("net", "one", "eth1"), (ip_interface("10.2.0.5/24"),)
    inside(node, add(ONE, POD_ONE[:1], "iptables"))
    inside(node, add(second, addresses, "iptables"))
    assert inside(node, check(ONE, POD_ONE[:1], "iptables")) == [] == inside(node, check(second, addresses, "iptables"))
    inside(node, remove(ONE, POD_ONE[:1]))
    assert inside(node, check(second, addresses, "iptables")) == []
    inside(node, remove(second, addresses))
    assert rules(node) == []


def test_legacy_iptables_is_found_and_removed(node: Node) -> None:
    """A node may change its variant of iptables; rules of the old one are invisible to nftables."""
    legacy = node.run("sh", "-c", "command -v iptables-legacy-restore", check=False)
    assert legacy.returncode == 0, "the package iptables has both variants"
    (step,) = masquerade.plan_add(ONE, POD_ONE[:1], "iptables", masquerade.Facts())
    node.run("iptables-legacy-restore", "--noflush", stdin=step.text)
    assert "CNI-" in node.sh("iptables-legacy-save -t nat")
    assert inside(node, check(ONE, POD_ONE[:1], "iptables")) == []
    assert inside(node, collect("other")) == []
    inside(node, remove(ONE, POD_ONE[:1]))
    assert "CNI-" not in node.sh("iptables-legacy-save -t nat")
    node.run("iptables-legacy-restore", "--noflush", stdin=step.text)
    inside(node, collect("net"))
    assert "CNI-" not in node.sh("iptables-legacy-save -t nat")


def test_a_refused_transaction_says_why(node: Node) -> None:
    def work(doors: Doors) -> list[str]:
        told = []
        for text in ("add chain inet nowhere x", "add table inet t\ncreate table inet t", "no such command"):
            try:
                doors.nft.run(text, "try it")
            except NftError as error:
                told.append(f"{type(error).__name__}: {error}")
        return told

    missing, existing, wrong = inside(node, work)
    assert missing.startswith(f"{NotFound.__name__}: cannot try it: Error: ")
    assert existing.startswith(f"{Exists.__name__}: cannot try it: Error: ")
    assert wrong.startswith(f"{NftError.__name__}: cannot try it: Error: ") and "syntax error" in wrong
    assert observe.ruleset(node) == [], "nothing of a refused transaction remains"


def test_both_doors_say_that_they_are_available(node: Node) -> None:
    assert inside(node, lambda doors: (doors.nft.available(), doors.iptables.available())) == ("", "")
