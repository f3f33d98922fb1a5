"""Operations: every one says in words what it does, and every creation has the inverse that takes back exactly it."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from cni.net import execute, ops
from cni.net.ops import HOST, SANDBOX
from cni.nft import ops as rules
from cni.spec.addresses import parse_cidr
from cni.spec.result import Route

if TYPE_CHECKING:
    from collections.abc import Callable

V4, V6 = parse_cidr("10.0.0.5/24"), parse_cidr("fd00::5/64")
VETH: dict[str, Any] = {"name": "veth1", "mac": "02::1", "peer": "eth0", "peer_mac": "02::2", "label": "podwire/n/c/eth0"}
MACVLAN: dict[str, Any] = {"master": "up0", "name": "eth0", "spare": "pw1", "mode": "bridge", "label": "podwire/n/c/eth0"}


def answer(listing: list[dict[str, Any]], alive: Callable[[str], bool]) -> str:
    return ""


# operation, what it says, its inverse
TABLE: list[tuple[Any, str, Any]] = [
    (ops.CreateBridge(name="br0"), "create bridge br0", ops.DeleteUnusedBridge(name="br0")),
    (
        ops.CreateBridge(name="br0", mtu=1400, vlan_filtering=True),
        "create bridge br0, MTU 1400, VLAN filtering on",
        ops.DeleteUnusedBridge(name="br0"),
    ),
    (ops.DeleteUnusedBridge(name="br0"), "delete bridge br0 if nothing is attached to it", None),
    (
        ops.CreateVeth(**VETH),
        "create veth veth1, its peer eth0 (02::2) in the sandbox",
        ops.DeleteLink(side=HOST, name="veth1"),
    ),
    (
        ops.CreateVeth(**VETH, bridge="br0", hairpin=True, isolated=True, mtu=1400),
        "create veth veth1 as a port of br0, hairpin, isolated, MTU 1400, its peer eth0 (02::2) in the sandbox",
        ops.DeleteLink(side=HOST, name="veth1"),
    ),
    (
        ops.CreateMacvlan(**MACVLAN, side=HOST),
        "create macvlan eth0 in the sandbox, mode bridge, on up0 of the host",
        ops.DeleteLink(side=SANDBOX, name="eth0"),
    ),
    (
        ops.CreateMacvlan(**MACVLAN, side=SANDBOX, mac="02::2", mtu=1400, queue=500),
        "create macvlan eth0 (02::2) in the sandbox, mode bridge, MTU 1400, broadcast queue 500, on up0 of the sandbox",
        ops.DeleteLink(side=SANDBOX, name="eth0"),
    ),
    (
        ops.IsolatePort(name="veth1"),
        "isolate bridge port veth1 from others that are isolated",
        ops.IsolatePort(name="veth1", on=False),
    ),
    (
        ops.IsolatePort(name="veth1", on=False),
        "do not isolate bridge port veth1 from others that are isolated",
        ops.IsolatePort(name="veth1"),
    ),
    (ops.AdmitVlan(bridge="br0", vid=5), "let VLAN 5 reach br0 itself", ops.ExpelVlan(bridge="br0", vid=5)),
    (ops.ExpelVlan(bridge="br0", vid=5), "keep VLAN 5 from br0 itself if nothing is attached to it", None),
    (
        ops.CreateVlanGateway(name="br0.5", bridge="br0", vid=5),
        "create br0.5, the host's interface in VLAN 5 of br0",
        ops.DropVlanGateway(name="br0.5", bridge="br0"),
    ),
    (
        ops.DropVlanGateway(name="br0.5", bridge="br0"),
        "delete br0.5 if nothing is attached to br0",
        None,
    ),
    (ops.ConfirmSysctls(values=(("net/a", "1"),)), "read the sysctls in the sandbox back", None),
    (
        ops.TuneLink(name="eth0", key="mtu", value=1400, before=1500),
        "set mtu of eth0 in the sandbox to 1400",
        ops.TuneLink(name="eth0", key="mtu", value=1500, before=1400),
    ),
    (ops.TuneLink(name="eth0", key="promisc", value=True), "set promisc of eth0 in the sandbox to on", None),
    (ops.WriteFile(path="/a", content=b"x"), "write /a", ops.RemoveFile(path="/a")),
    (
        ops.WriteFile(path="/a", content=b"x", before=b"y"),
        "write /a",
        ops.WriteFile(path="/a", content=b"y", before=b"x"),
    ),
    (ops.RemoveFile(path="/a"), "remove /a", None),
    (ops.RemoveFile(path="/a", why="the former values of x"), "remove /a, the former values of x", None),
    (ops.Attempt(op=ops.RemoveFile(path="/a"), notes=[]), "remove /a, if possible", None),
    (ops.DeleteLink(side=SANDBOX, name="eth0"), "delete link eth0 on the sandbox", None),
    (ops.SetLink(side=SANDBOX, name="eth0", up=True), "set link eth0 on the sandbox: up on", None),
    (
        ops.SetLink(shared=True, side=HOST, name="br0", up=True, promisc=True, vlan_filtering=False),
        "set link br0 on the host: up on, promisc on, VLAN filtering off",
        ops.SetLink(side=HOST, name="br0", up=False, promisc=False, vlan_filtering=True),
    ),
    (
        ops.SetLink(shared=True, side=HOST, name="br0", promisc=True),
        "set link br0 on the host: promisc on",
        ops.SetLink(side=HOST, name="br0", promisc=False),
    ),
    (ops.PinMac(name="br0"), "pin the hardware address of br0", None),
    (ops.SetVlans(name="veth1", pvid=5), "set VLANs of port veth1: untagged 5", None),
    (
        ops.SetVlans(name="veth1", pvid=1, tagged=((5, 5), (7, 9))),
        "set VLANs of port veth1: untagged 1, tagged 5, 7-9",
        None,
    ),
    (ops.AddAddress(side=SANDBOX, ifname="eth0", address=V4), "add address 10.0.0.5/24 to eth0 on the sandbox", None),
    (
        ops.AddGateway(ifname="br0", bridge="br0", address=V6),
        "add gateway address fd00::5/64 to br0",
        ops.DropGateway(ifname="br0", bridge="br0", address=V6),
    ),
    (
        ops.DropGateway(ifname="br0", bridge="br0", address=V6),
        "remove gateway address fd00::5/64 from br0 if nothing is attached to it",
        None,
    ),
    (
        ops.DeleteAddress(side=HOST, ifname="br0", address=V4),
        "delete address 10.0.0.5/24 from br0 on the host",
        ops.AddAddress(side=HOST, ifname="br0", address=V4),
    ),
    (
        ops.AddRoute(side=SANDBOX, ifname="eth0", route=Route(parse_cidr("0.0.0.0/0"), ip_address("10.0.0.1"))),
        "add route 0.0.0.0/0 via 10.0.0.1 through eth0 on the sandbox",
        None,
    ),
    (
        ops.AddRoute(side=SANDBOX, ifname="eth0", route=Route(V6)),
        "add route fd00::5/64 through eth0 on the sandbox",
        None,
    ),
    (
        ops.SetSysctls(side=SANDBOX, values=(("net/a", "0"), ("net/b", "1"))),
        "write sysctls on the sandbox: net/a=0, net/b=1",
        None,
    ),
    (
        ops.SetSysctls(shared=True, side=HOST, values=(("net/a", "0"),), before=(("net/a", "2"),)),
        "write sysctls on the host: net/a=0",
        ops.SetSysctls(side=HOST, values=(("net/a", "2"),)),
    ),
    (
        ops.AddNeighbour(side=SANDBOX, ifname="eth0", address=ip_address("169.254.1.1"), mac="02::1"),
        "make 169.254.1.1 the neighbour 02::1 of eth0 on the sandbox",
        None,
    ),
    (
        ops.SetNextHop(dst=V4, via=ip_address("192.0.2.2"), metric=7),
        "lead the route to 10.0.0.5/24 through node 192.0.2.2",
        None,
    ),
    (
        ops.DropNextHop(dst=V4, via=ip_address("192.0.2.2"), metric=7),
        "remove the route to 10.0.0.5/24 through node 192.0.2.2",
        None,
    ),
    (ops.AwaitPort(name="veth1"), "wait until veth1 is up", None),
    (ops.AwaitDad(ifname="eth0"), "wait for duplicate address detection on eth0", None),
    (
        ops.Announce(ifname="eth0", mac="02::2"),
        "announce the addresses of eth0",
        None,
    ),
    (
        ops.CreateIfb(name="bwp1", mac="02::3", mtu=1400, label="podwire/n/c/eth0", key="egressRate"),
        "create ifb bwp1, MTU 1400",
        ops.DeleteLink(side=HOST, name="bwp1"),
    ),
    (
        ops.LimitRate(name="veth1", rate=1000, limit=25, buffer=7, key="ingressRate"),
        "limit what veth1 sends to 1000 bytes a second",
        ops.UnlimitRate(name="veth1"),
    ),
    (ops.UnlimitRate(name="veth1"), "limit what veth1 sends no longer", None),
    (
        ops.Redirect(name="veth1", to="bwp1", key="egressRate"),
        "redirect what comes in by veth1 to bwp1",
        ops.DropRedirect(name="veth1"),
    ),
    (ops.DropRedirect(name="veth1"), "redirect what comes in by veth1 no longer", None),
    (rules.RunNft(text="t", what="change a rule"), "change a rule", None),
    (
        rules.RunNft(text="t", undo="u", what="change a rule"),
        "change a rule",
        rules.RunNft(text="u", what="undo: change a rule", yields=True),
    ),
    (rules.Sweep(what="sweep", begin=str, listing="list", end=lambda seen, token: ""), "sweep", None),
    (rules.RunIptables(v6=True, text="t", what="change it"), "change it", None),
    (rules.Settle(text="t", listing="list", answer=answer, what="change it"), "change it", None),
    (
        rules.Settle(text="t", listing="list", answer=str, undo="u", undo_answer=answer, what="change it"),
        "change it",
        rules.Settle(text="u", listing="list", answer=answer, what="undo: change it"),
    ),
    (rules.SettleIptables(v6=True, text="t", answer=str, what="change it"), "change it", None),
    (
        rules.SettleIptables(v6=True, text="t", answer=str, undo_answer=str.upper, what="change it"),
        "change it",
        rules.SettleIptables(v6=True, text="", answer=str.upper, what="undo: change it"),
    ),
    (rules.ForgetFlows(address=V4.ip, port=53), "forget UDP connections to port 53", None),
    (
        rules.BindSource(zone="trusted", source="10.0.0.5/32"),
        "put source 10.0.0.5/32 into firewalld's zone trusted",
        rules.BindSource(zone="trusted", source="10.0.0.5/32", on=False),
    ),
    (
        rules.BindSource(zone="trusted", source="10.0.0.5/32", on=False),
        "take source 10.0.0.5/32 from firewalld's zone trusted",
        None,
    ),
    (
        rules.InCaseOfUndo(op=rules.RunIptables(v6=True, text="t", what="change it")),
        "keep in mind to change it when this call fails",
        rules.RunIptables(v6=True, text="t", what="change it"),
    ),
    (rules.Unread(msg="no", details="", code=999), "report that packet rules could not be read: no", None),
    (
        rules.RunIptables(v6=True, text="t", undo="u", legacy=True, what="change it"),
        "change it",
        rules.RunIptables(v6=True, text="u", legacy=True, what="undo: change it"),
    ),
]


@pytest.mark.parametrize(
    ("op", "says", "inverse"), TABLE, ids=lambda value: type(value).__name__ if not isinstance(value, str) else ""
)
def test_words_and_inverse(op: Any, says: str, inverse: Any) -> None:
    assert op.describe() == says
    assert op.inverse() == inverse


def every_kind() -> set[type[Any]]:
    """Every operation there is, found by inspection."""
    modules = (ops, rules)
    return {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and hasattr(value, "describe")
        and value not in (ops.Op, rules.Op)
    }


def test_the_table_above_is_complete() -> None:
    assert {type(op) for op, _, _ in TABLE} == every_kind()


def test_every_operation_can_be_carried_out() -> None:
    assert set(execute.APPLY) == every_kind()


def test_inverses_can_be_carried_out_and_end_there() -> None:
    """An inverse that had a shared inverse of its own would not matter, for nobody asks; one that is unknown would."""
    for op, _, inverse in TABLE:
        assert inverse is None or type(inverse) in execute.APPLY, op


def test_what_is_shared_says_so() -> None:
    """`undo` takes these back only while no other call is at work."""
    shared = {type(op).__name__ for op, _, inverse in TABLE if inverse is not None and op.shared}
    assert shared == {"CreateBridge", "AdmitVlan", "CreateVlanGateway", "AddGateway", "SetLink", "DeleteAddress", "SetSysctls"}


def test_the_plain_operation_cannot_be_described() -> None:
    with pytest.raises(NotImplementedError):
        ops.Op().describe()
    assert ops.Op().inverse() is None
