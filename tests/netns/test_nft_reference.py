"""Beside the Go plugins: what one side set up, the other checks and removes. Their executables are Debian's, in /usr/lib/cni.

The nftables backend of newer Go plugins is not in Debian 12; its rules are made by hand as those plugins write them.
"""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cni.nft import masq_iptables, masquerade, spoof
from cni.nft.ops import RunIptables
from cni.spec.owner import Owner
from tests.contract.nft_node import Doors, inside
from tests.harness import observe
from tests.harness.plugin import Executables
from tests.netns.test_nft_masquerade import add, check, collect, remove, rules
from tests.netns.test_nft_spoof import check as check_spoof
from tests.netns.test_nft_spoof import remove as remove_spoof
from tests.unit.nft.recorded import SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.spec.addresses import Cidr
    from tests.harness.node import Node

pytestmark = pytest.mark.root

GO = Path("/usr/lib/cni")
OWNER = Owner("net", "one", "eth0")
SUBNETS = ("10.1.0.0/24", "fd00:1::/64")


@pytest.fixture
def go() -> Executables:
    assert (GO / "bridge").exists(), "install the package containernetworking-plugins"
    return Executables(GO, whose="reference")


def conf(**keys: Any) -> dict[str, Any]:
    ranges = [[{"subnet": subnet}] for subnet in SUBNETS]
    ipam = {"type": "host-local", "ranges": ranges}
    return {"cniVersion": "0.4.0", "name": "net", "type": "bridge", "bridge": "br0", "isGateway": True, "ipam": ipam, **keys}


def call(go: Executables, node: Node, verb: str, config: dict[str, Any], **more: Any) -> Any:
    return go.call(verb, "bridge", config, container_id="one", node=node, path=str(GO), **more)


def assigned(result: dict[str, Any]) -> tuple[Cidr, ...]:
    return tuple(ip_interface(entry["address"]) for entry in result["ips"])


def layout(node: Node) -> list[str]:
    """The nat rules as iptables-save prints them, without the names of families' chains that every table has."""
    return [line for line in observe.iptables_rules(node) if "CNI-" in line]


def test_ours_is_their_layout(node: Node, go: Executables) -> None:
    """Line for line, for both families; the order of chains is iptables-save's."""
    netns = node.pod()
    addresses = assigned(call(go, node, "ADD", conf(ipMasq=True), netns=netns).result())
    theirs = layout(node)
    call(go, node, "DEL", conf(ipMasq=True), netns=netns).succeeded()
    assert layout(node) == []
    inside(node, add(OWNER, addresses, "iptables"))
    assert sorted(layout(node)) == sorted(theirs) and len(theirs) == 8


@pytest.mark.parametrize("known", [True, False])
def test_we_check_and_remove_what_they_set_up(node: Node, go: Executables, known: bool) -> None:
    netns = node.pod()
    addresses = assigned(call(go, node, "ADD", conf(ipMasq=True), netns=netns).result())
    for backend in ("nftables", "iptables"):
        assert inside(node, check(OWNER, addresses, backend)) == []
    done = inside(node, remove(OWNER, addresses if known else ()))
    assert len(done) == 2 and layout(node) == [] and rules(node) == []
    assert inside(node, check(OWNER, addresses))


def test_we_collect_what_they_left(node: Node, go: Executables) -> None:
    """Their DEL without a namespace leaves the rules (P#810); GC of ours reads whose they are from the comments."""
    netns = node.pod()
    call(go, node, "ADD", conf(ipMasq=True), netns=netns).result()
    call(go, node, "DEL", conf(ipMasq=True), netns=None).succeeded()
    assert layout(node), "the reference leaks; if it no longer does, this test has lost its subject"
    assert inside(node, collect("other")) == [] and inside(node, collect("net", OWNER)) == []
    inside(node, collect("net"))
    assert layout(node) == []


def test_they_remove_what_we_set_up(node: Node, go: Executables) -> None:
    netns = node.pod()
    addresses = assigned(call(go, node, "ADD", conf(), netns=netns).result())
    assert layout(node) == []
    inside(node, add(OWNER, addresses, "iptables"))
    assert layout(node)
    call(go, node, "DEL", conf(ipMasq=True), netns=netns).succeeded()
    assert layout(node) == []


def test_a_repeated_add_of_ours_over_theirs_is_as_one(node: Node, go: Executables) -> None:
    netns = node.pod()
    addresses = assigned(call(go, node, "ADD", conf(ipMasq=True), netns=netns).result())
    before = sorted(layout(node))
    inside(node, add(OWNER, addresses, "iptables"))
    assert sorted(layout(node)) == before


def test_rules_of_their_nftables_backend(node: Node) -> None:
    program, script = SCRIPTS["go nftables"]
    node.run(program, "-f", "-", stdin=script)
    owner = Owner("dbnet", "abc123", "eth0")
    addresses = (ip_interface("10.1.0.5/16"), ip_interface("fd00::5/64"))
    assert inside(node, check(owner, addresses)) == []
    assert inside(node, collect("dbnet", owner)) == [] and inside(node, collect("other")) == []
    bystander = (
        "add rule inet cni_plugins_masquerade masq_checks ip saddr 10.1.0.9 masquerade "
        'comment "77fa157b4f32b23b-0000000000000000, net: dbnet, if: eth0, id: else"'
    )
    node.run("nft", bystander)
    assert len(inside(node, remove(owner, ()))) == 2
    assert observe.mentions(node, "abc123") == [] and observe.mentions(node, "id: else")
    inside(node, collect("dbnet"))
    assert observe.mentions(node, "id: else") == []


# -- MAC spoof check -------------------------------------------------------------------------------------------


def spoofed(result: dict[str, Any]) -> tuple[str, str]:
    """Host veth and the container's hardware address of a result."""
    _, veth, container = result["interfaces"]
    return veth["name"], container["mac"]


def test_we_check_and_remove_their_spoof_check(node: Node, go: Executables) -> None:
    netns = node.pod()
    veth, mac = spoofed(call(go, node, "ADD", conf(macspoofchk=True), netns=netns).result())
    told = list(observe.mentions(node, "macspoofchk"))
    assert told, "the reference did set it up"

    def ask(wanted: str) -> Callable[[Doors], list[str]]:
        return lambda doors: spoof.check(OWNER, veth, wanted, spoof.look(doors, OWNER, True, "CHECK"))

    assert inside(node, ask(mac)) == [] and inside(node, ask("02:00:00:00:00:99"))
    stranger = Owner("net", "on", "eth0")
    assert inside(node, remove_spoof(stranger)) == []
    inside(node, remove_spoof(OWNER))
    assert observe.mentions(node, "macspoofchk", "cni-br-iface") == []
    assert inside(node, check_spoof(OWNER, mac))
    call(go, node, "DEL", conf(), netns=netns).succeeded()


def test_their_chains_of_odd_names(node: Node, go: Executables) -> None:
    """They write them through nft's JSON, which takes any name; nft's language does not."""
    netns, ifname = node.pod(), "a@b"
    call(go, node, "ADD", conf(macspoofchk=True), netns=netns, ifname=ifname).result()
    assert observe.mentions(node, "cni-br-iface-one-a@b")
    inside(node, remove_spoof(Owner("net", "one", ifname)))
    assert observe.mentions(node, "cni-br-iface") == []


def test_their_repeated_setup_is_removed_whole(node: Node, go: Executables) -> None:
    """A repeated setup of theirs appends a second rule to PREROUTING."""
    netns = node.pod()
    call(go, node, "ADD", conf(macspoofchk=True), netns=netns).result()
    node.run("nft", "add rule bridge nat PREROUTING iifname veth9 jump cni-br-iface-one-eth0")
    inside(node, remove_spoof(OWNER))
    assert observe.mentions(node, "cni-br-iface") == []


# -- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "container", "ifname"),
    [
        ("n.1_x-y", "c.2_x-y", "eth0.100-x@y"),
        ("0", "0", "0"),
        ("n" * 100, "c" * 64, "eth0"),
        ("n" * 120, "c" * 128, "eth0"),
        ("net", "one", 'a"b'),
        ("net", "one", '"}'),
        ("net", "one", "$x;{}#*'"),
        ("net", "one", "back\\"),
        ("net", "one", "ünï"),
    ],
)
def test_names_of_all_legal_kinds(node: Node, network: str, container: str, ifname: str) -> None:
    """Long ones have hashed labels in nftables and a cut comment in iptables; both are still found and removed.

    The kernel takes nearly everything as an interface's name; nothing of it may be read as nft's language.
    """
    owner = Owner(network, container, ifname)
    addresses = (ip_interface("10.1.0.5/24"), ip_interface("fd00::5/64"))
    for backend in ("nftables", "iptables"):
        inside(node, add(owner, addresses, backend))
        assert inside(node, check(owner, addresses, backend)) == []
        inside(node, remove(owner))
        assert rules(node) == []
    inside(node, lambda doors: doors.run(spoof.plan_add(owner, owner.host_veth, "02:00:00:00:00:01", spoof.Facts())))
    assert inside(node, check_spoof(owner, "02:00:00:00:00:01")) == []
    inside(node, lambda doors: doors.run(spoof.plan_gc(doors, network, frozenset())))
    inside(node, add(owner, addresses, "nftables"))
    inside(node, collect(network, owner))
    assert inside(node, check(owner, addresses)) == []
    inside(node, collect(network))
    assert rules(node) == []


def test_undoing_a_failed_iptables_setup(node: Node) -> None:
    """One family is set up when the other fails: the inverse of the first leaves nothing."""

    def work(doors: Doors) -> str:
        good, _ = masquerade.plan_add(
            OWNER, (ip_interface("10.1.0.5/24"), ip_interface("fd00::5/64")), "iptables", masquerade.Facts()
        )
        bad = RunIptables(v6=True, text="*nat\n-A nowhere -j ACCEPT\nCOMMIT\n", what="fail")
        doors.run([good])
        try:
            doors.run([bad])
        except Exception as error:
            doors.run([good.inverse()])
            return str(error)
        return "did not fail"

    told = inside(node, work)
    assert told.startswith("cannot fail: ") and "ip6tables-restore" in told
    assert rules(node) == []
    assert masq_iptables.chain_name("net", "one") not in node.sh("iptables-save; ip6tables-save")
