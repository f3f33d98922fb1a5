"""One suite of cases for the rtnetlink door, run on the fake and on the real kernel; the real one is judged by `ip -j` too.

The real Kernels belong to a private node's namespaces, so nothing here touches the machine's own.
"""

from __future__ import annotations

import errno
import json
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest

from cni.net.execute import execute
from cni.net.facts import Filter, Qdisc, Shaping
from cni.net.host import Doors, Host
from cni.net.kernel import Kernel
from cni.net.ops import HOST, CreateMacvlan
from cni.net.qdiscs import INGRESS_HANDLE, TBF_HANDLE
from cni.net.shaping import bucket, problems
from cni.spec.addresses import is_v6, parse_cidr, parse_ip
from cni.spec.errors import CNIError, KernelError, TryAgain, UnsupportedField
from cni.spec.result import Route
from tests.contract.nft_node import inside
from tests.fakes import FakeKernel, Machine
from tests.harness import observe
from tests.harness.node import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cni.net.facts import Link
    from cni.net.ops import Side

HOST_MAC, POD_MAC, MACVLAN_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
POD = "pod"


class Lab:
    """A host's kernel and a pod's, with the pod's descriptor for `create_veth`; `judge` is the node of the real one."""

    def __init__(self, root: Kernel, pod: Kernel, pod_fd: int, judge: Node | None) -> None:
        self.root, self.pod, self.pod_fd, self.judge = root, pod, pod_fd, judge

    def veth(self, **changes: Any) -> None:
        given: dict[str, Any] = {"name": "veth1", "mac": HOST_MAC, "mtu": 0, "master": "", "label": "podwire/n/c/eth0"}
        given |= {"port": {}, "peer": "eth0", "peer_mac": POD_MAC, "peer_fd": self.pod_fd, **changes}
        if given["master"] and "port" not in changes:
            given["port"] = {"hairpin": False, "isolated": False}
        self.root.create_veth(**given)

    def running(self) -> None:
        """A pod's interface that is up, with an address of each family."""
        self.root.create_bridge("br0", 0, False)
        self.veth(master="br0")
        for address in ("10.0.0.5/24", "fd00::5/64"):
            self.pod.add_address("eth0", parse_cidr(address))
        self.pod.set_link("eth0", up=True)

    def links(self, pod: bool = False) -> dict[str, Any] | None:
        """What `ip -j` tells, None for the fake."""
        return None if self.judge is None else observe.links(self.judge, pod=POD if pod else None)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    yield from made(request.param, filters_vlans=False)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def vlan_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """With a bridge that filters VLANs, where the kernel has such bridges: the emulated machine has (tests/machine)."""
    for lab in made(request.param, filters_vlans=True):
        try:
            lab.root.create_bridge("br0", 0, True)
        except UnsupportedField:
            pytest.skip("this kernel has no bridge VLAN filtering; tests/machine runs this on one that has")
        lab.veth(master="br0")
        yield lab


def made(kind: str, filters_vlans: bool) -> Iterator[Lab]:
    """A fake machine, or a private node of the real kernel."""
    if kind == "fake":
        machine = Machine(filters_vlans=filters_vlans)
        machine.pod(POD)
        fd = machine.open_sandbox(POD)
        kernels = FakeKernel(machine, machine.root), FakeKernel(machine, machine.at_fd(fd))
        yield Lab(*(cast("Kernel", kernel) for kernel in kernels), fd, None)
        machine.close_fd(fd)
        return
    with Node() as node:
        node.pod(POD)
        fds = [os.open(path, os.O_RDONLY) for path in (f"/proc/{node.pid}/ns/net", node.path(f"/run/netns/{POD}"))]
        root, pod = Kernel(fds[0]), Kernel(fds[1])
        try:
            yield Lab(root, pod, fds[1], node)
        finally:
            for door in (root, pod):
                door.close()
            for fd in fds:
                os.close(fd)


def number(function: Callable[[], object]) -> int:
    """The errno of the KernelError that a call must raise."""
    with pytest.raises(KernelError) as caught:
        function()
    return caught.value.errno


def must(link: Link | None) -> Link:
    assert link is not None
    return link


def v4(found: tuple[Any, ...]) -> list[Any]:
    return [entry for entry in found if not is_v6(getattr(entry, "dst", entry))]


def v6(found: tuple[Any, ...]) -> list[Any]:
    """The IPv6 entries but the link-local ones, which come and go by themselves."""
    return [e for e in found if is_v6(getattr(e, "dst", e)) and not getattr(e, "dst", e).ip.is_link_local]


def route(dst: str, gw: str = "", **keys: Any) -> Route:
    return Route(parse_cidr(dst), parse_ip(gw) if gw else None, **keys)


def told(found: list[Any]) -> list[str]:
    return [
        f"{seen.dst.network} via {seen.gw} table {seen.table} scope {seen.scope} metric {seen.priority} proto {seen.protocol}"
        for seen in found
    ]


# -- links --


def test_a_new_namespace_has_lo(lab: Lab) -> None:
    lo = must(lab.pod.link("lo"))
    assert (lo.index, lo.kind, lo.mac, lo.mtu, lo.up, lo.master) == (1, "", "00:00:00:00:00:00", 65536, False, 0)
    assert [link.name for link in lab.pod.links()] == ["lo"]
    assert lab.pod.link_at(1) == lo


def test_what_is_not_there_is_none(lab: Lab) -> None:
    assert [lab.root.link(name) for name in ("nothing", "x" * 16)] == [None, None]
    assert [lab.root.link_at(index) for index in (99, 0)] == [None, None]
    assert (lab.root.addresses("nothing"), lab.root.routes("nothing"), lab.root.vlans("nothing")) == ((), (), ())


def test_a_bridge(lab: Lab) -> None:
    assert lab.root.create_bridge("br0", 1400, False) is True
    bridge = must(lab.root.link("br0"))
    assert (bridge.kind, bridge.mtu, bridge.up, bridge.master, bridge.promisc) == ("bridge", 1400, True, 0, False)
    assert int(bridge.mac[:2], 16) & 3 == 2
    assert lab.root.create_bridge("br0", 0, False) is False
    assert lab.root.link("br0") == bridge, "the second creation changed the first one's bridge"
    links = lab.links()
    assert links is None or (links["br0"]["mtu"], "UP" in links["br0"]["flags"]) == (1400, True)


def test_a_bridges_name_may_be_taken_by_something_else(lab: Lab) -> None:
    """That it is no bridge is for the caller to see."""
    assert lab.root.create_bridge("lo", 0, False) is False
    assert must(lab.root.link("lo")).kind == ""


@pytest.mark.parametrize(
    ("name", "mtu", "expected"), [("b" * 16, 0, errno.ERANGE), ("br0", 60, errno.EINVAL), ("br0", 70000, errno.EINVAL)]
)
def test_a_bridge_that_cannot_be(lab: Lab, name: str, mtu: int, expected: int) -> None:
    assert number(lambda: lab.root.create_bridge(name, mtu, False)) == expected
    assert [link.name for link in lab.root.links()] == ["lo"]


def test_vlan_filtering_is_there_or_refused_in_words(lab: Lab) -> None:
    """A kernel without it must say so: pods without VLANs that a configuration asked for would see each other."""
    lab.root.create_bridge("br0", 0, False)
    try:
        lab.root.set_link("br0", vlan_filtering=True)
    except UnsupportedField as error:
        assert "no bridge VLAN filtering" in error.msg
        with pytest.raises(UnsupportedField, match="no bridge VLAN filtering"):
            lab.root.create_bridge("br1", 0, True)
        assert lab.root.link("br1") is None
    else:
        assert must(lab.root.link("br0")).vlan_filtering


def vlans(lab: Lab, name: str) -> list[tuple[int, bool, bool]]:
    """A port's VLANs as the door tells them, after comparing with what `bridge -j` does."""
    found = [(vlan.vid, vlan.pvid, vlan.untagged) for vlan in lab.root.vlans(name)]
    if lab.judge is not None:
        shown = json.loads(lab.judge.run("bridge", "-j", "vlan", "show", "dev", name).stdout)[0]["vlans"]
        seen = []
        for entry in shown:
            flags = entry.get("flags", ())
            vids = range(entry["vlan"], entry.get("vlanEnd", entry["vlan"]) + 1)
            seen += [(vid, "PVID" in flags, "Egress Untagged" in flags) for vid in vids]
        assert seen == found
    return found


def test_vlans_of_a_port(vlan_lab: Lab) -> None:
    root = vlan_lab.root
    assert vlans(vlan_lab, "veth1") == [(1, True, True)]
    root.set_vlans("veth1", (1,), 7, ((5, 6), (9, 9)))
    assert vlans(vlan_lab, "veth1") == [(5, False, False), (6, False, False), (7, True, True), (9, False, False)]
    root.set_vlans("veth1", (5,), 6, ())
    assert vlans(vlan_lab, "veth1") == [(6, True, True), (7, False, True), (9, False, False)]


def test_a_vlan_of_the_bridge_itself(vlan_lab: Lab) -> None:
    root = vlan_lab.root
    assert vlans(vlan_lab, "br0") == [(1, True, True)]
    for _ in range(2):
        root.admit_vlan("br0", 100, True)
        assert vlans(vlan_lab, "br0") == [(1, True, True), (100, False, False)]
    root.admit_vlan("br0", 100, False)
    assert vlans(vlan_lab, "br0") == [(1, True, True)]


def test_a_vlan_interface(vlan_lab: Lab) -> None:
    root = vlan_lab.root
    assert root.create_vlan("br0.100", "br0", 100)
    made, lower = must(root.link("br0.100")), must(root.link("br0"))
    assert (made.kind, made.mac, made.mtu, made.up) == ("vlan", lower.mac, lower.mtu, True)
    assert not root.create_vlan("br0.100", "br0", 100)
    if vlan_lab.judge is not None:
        told = observe.links(vlan_lab.judge)["br0.100"]
        assert (told["linkinfo"]["info_data"]["id"], told["link"]) == (100, "br0")
    assert number(lambda: root.create_vlan("v" * 16, "br0", 100)) == errno.ERANGE


def test_a_veth_pair(lab: Lab) -> None:
    lab.root.create_bridge("br0", 0, False)
    lab.veth(master="br0", mtu=1400, port={"hairpin": True, "isolated": True})
    near, far, bridge = must(lab.root.link("veth1")), must(lab.pod.link("eth0")), must(lab.root.link("br0"))
    assert (near.kind, near.mac, near.mtu, near.up, near.master) == ("veth", HOST_MAC, 1400, True, bridge.index)
    assert (near.alias, near.hairpin, near.isolated) == ("podwire/n/c/eth0", True, True)
    assert (far.kind, far.mac, far.mtu, far.up, far.master, far.alias) == ("veth", POD_MAC, 1400, False, 0, "")
    assert (near.peer_index, far.peer_index) == (far.index, near.index)
    assert (near.peer_elsewhere, far.peer_elsewhere) == (True, True)
    assert lab.root.link_at(near.index) == near
    if links := lab.links():
        port = links["veth1"]["linkinfo"]["info_slave_data"]
        assert (links["veth1"]["master"], links["veth1"]["ifalias"]) == ("br0", "podwire/n/c/eth0")
        assert (port["hairpin"], port["isolated"]) == (True, True)
        assert set(lab.links(pod=True) or ()) == {"lo", "eth0"}


def test_the_isolation_of_a_port(lab: Lab) -> None:
    lab.root.create_bridge("br0", 0, False)
    lab.veth(master="br0", port={"hairpin": True, "isolated": False})
    for on in (True, False):
        lab.root.isolate_port("veth1", on)
        near = must(lab.root.link("veth1"))
        assert (near.isolated, near.hairpin, near.alias) == (on, True, "podwire/n/c/eth0")
        if links := lab.links():
            assert links["veth1"]["linkinfo"]["info_slave_data"]["isolated"] is on


def test_only_ports_are_isolated(lab: Lab) -> None:
    lab.veth()
    assert number(lambda: lab.root.isolate_port("veth1", True)) == errno.EOPNOTSUPP
    assert number(lambda: lab.root.isolate_port("nothing", True)) == errno.ENODEV


def test_a_veth_pair_within_one_namespace(lab: Lab) -> None:
    lab.veth(peer="veth2", peer_fd=None)
    near, far = must(lab.root.link("veth1")), must(lab.root.link("veth2"))
    assert (near.peer_index, near.peer_elsewhere, near.hairpin) == (far.index, False, False)


@pytest.mark.parametrize("from_pod", [False, True])
def test_both_ends_go_together(lab: Lab, from_pod: bool) -> None:
    lab.veth()
    assert (lab.pod.delete_link("eth0") if from_pod else lab.root.delete_link("veth1")) is True
    assert (lab.root.link("veth1"), lab.pod.link("eth0")) == (None, None)
    assert (lab.pod.delete_link("eth0"), lab.root.delete_link("veth1")) == (False, False)


def test_names_are_unique_in_a_namespace(lab: Lab) -> None:
    lab.veth()
    assert number(lab.veth) == errno.EEXIST
    assert number(lambda: lab.veth(name="veth2")) == errno.EEXIST
    assert lab.root.link("veth2") is None
    lab.veth(name="eth0", peer="veth1")


def test_what_has_the_name_already_is_left_as_it_is(lab: Lab) -> None:
    """The messages that label a new link must not reach one that was there before."""
    lab.root.create_bridge("br0", 0, False)
    lab.veth(master="br0")
    before = lab.root.link("veth1"), lab.pod.link("eth0")
    changed = {"label": "another", "mac": "02:00:00:00:00:77", "port": {"hairpin": True, "isolated": True}}
    assert number(lambda: lab.veth(master="br0", peer="eth1", **changed)) == errno.EEXIST
    assert (lab.root.link("veth1"), lab.pod.link("eth0")) == before
    assert lab.pod.link("eth1") is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"master": "nothing"}, errno.ENODEV),
        ({"master": "lo", "port": {}}, errno.EOPNOTSUPP),
        ({"name": "v" * 16}, errno.ERANGE),
        ({"peer": "v" * 16}, errno.ERANGE),
        ({"mtu": 70000}, errno.EINVAL),
        ({"label": "x" * 300}, errno.ERANGE),
    ],
)
def test_a_veth_pair_that_cannot_be_leaves_nothing(lab: Lab, changes: dict[str, Any], expected: int) -> None:
    assert number(lambda: lab.veth(**changes)) == expected
    assert [link.name for link in (*lab.root.links(), *lab.pod.links())] == ["lo", "lo"]


def test_a_bridge_goes_without_its_ports(lab: Lab) -> None:
    lab.root.create_bridge("br0", 0, False)
    lab.veth(master="br0", port={"hairpin": True, "isolated": True})
    assert lab.root.delete_link("br0") is True
    port = must(lab.root.link("veth1"))
    assert (port.master, port.hairpin, port.isolated) == (0, False, False)


def test_lo_stays(lab: Lab) -> None:
    assert number(lambda: lab.pod.delete_link("lo")) == errno.EOPNOTSUPP


def test_flags_are_switched_one_by_one(lab: Lab) -> None:
    lab.root.create_bridge("br0", 0, False)
    lab.root.set_link("br0", promisc=True)
    assert (must(lab.root.link("br0")).up, must(lab.root.link("br0")).promisc) == (True, True)
    lab.root.set_link("br0", up=False)
    assert (must(lab.root.link("br0")).up, must(lab.root.link("br0")).promisc) == (False, True)
    lab.root.set_link("br0", up=True, promisc=False)
    assert (must(lab.root.link("br0")).up, must(lab.root.link("br0")).promisc) == (True, False)
    lab.root.set_mac("br0", "02:00:00:00:00:33")
    assert must(lab.root.link("br0")).mac == "02:00:00:00:00:33"
    links = lab.links()
    assert links is None or links["br0"]["address"] == "02:00:00:00:00:33"


def test_the_hardware_address_alone(lab: Lab) -> None:
    lab.root.create_bridge("fifteenletters1", 0, False)
    told = lab.root.link("fifteenletters1")
    assert told is not None and lab.root.mac("fifteenletters1") == told.mac != ""
    lab.root.set_mac("fifteenletters1", HOST_MAC)
    assert lab.root.mac("fifteenletters1") == HOST_MAC
    assert lab.root.mac("nothing") == lab.root.mac("fifteenletters12") == lab.root.mac("br\udcff") == ""


def test_changing_what_is_gone(lab: Lab) -> None:
    for change in (
        lambda: lab.root.set_link("nothing", up=True),
        lambda: lab.root.set_mac("nothing", HOST_MAC),
        lambda: lab.root.add_address("nothing", parse_cidr("10.0.0.1/24")),
        lambda: lab.root.add_route("nothing", route("10.0.0.0/8")),
        lambda: lab.root.dad_state("nothing"),
    ):
        assert number(change) == errno.ENODEV
    assert lab.root.delete_link("nothing") is False
    assert lab.root.delete_address("nothing", parse_cidr("10.0.0.1/24")) is False


def test_a_port_comes_up_when_both_ends_are(lab: Lab) -> None:
    lab.root.create_bridge("br0", 0, False)
    lab.veth(master="br0")
    assert lab.root.operstate("veth1") != "up"
    lab.pod.set_link("eth0", up=True)
    until = time.monotonic() + 3
    while lab.root.operstate("veth1") != "up" or lab.root.operstate("br0") != "up":
        assert time.monotonic() < until
        time.sleep(0.01)
    lab.pod.set_link("eth0", up=False)
    while lab.root.operstate("veth1") == "up":
        assert time.monotonic() < until
        time.sleep(0.01)


def test_an_index_is_not_used_again(lab: Lab) -> None:
    lab.root.create_bridge("br0", 0, False)
    first = must(lab.root.link("br0")).index
    lab.root.delete_link("br0")
    lab.root.create_bridge("br0", 0, False)
    assert must(lab.root.link("br0")).index > first


# -- macvlans --


def on_a_segment(lab: Lab) -> None:
    """`up0`, an interface of the host with a segment behind it."""
    lab.veth(name="up0", peer="up1", peer_fd=None)
    for name in ("up0", "up1"):
        lab.root.set_link(name, up=True)


def macvlan(lab: Lab, name: str = "eth0", **changes: Any) -> None:
    given: dict[str, Any] = {"lower": "up0", "mode": "bridge", "mac": "", "mtu": 0, "queue": 0, "fd": lab.pod_fd}
    lab.root.create_macvlan(name, **(given | changes))


@pytest.mark.parametrize("mode", ["bridge", "private", "vepa"])
def test_a_macvlan(lab: Lab, mode: str) -> None:
    """It has its name at once, is down, and both sides' records tell what it is on."""
    on_a_segment(lab)
    macvlan(lab, mode=mode, mac=MACVLAN_MAC, mtu=1400, queue=500)
    master, made = must(lab.root.link("up0")), must(lab.pod.link("eth0"))
    assert (made.kind, made.mode, made.mac, made.mtu, made.queue) == ("macvlan", mode, MACVLAN_MAC, 1400, 500)
    assert (made.up, made.alias, made.peer_index, made.peer_elsewhere) == (False, "", master.index, True)
    assert made.peer_netns is not None
    assert [link.name for link in lab.root.links()] == ["lo", "up1", "up0"]
    lab.pod.adopt("eth0", "eth0", "podwire/n/c/eth0")
    assert must(lab.pod.link("eth0")).alias == "podwire/n/c/eth0"
    links = lab.links(pod=True)
    if links is not None:
        info = links["eth0"]["linkinfo"]
        assert (info["info_kind"], info["info_data"]["mode"], info["info_data"]["bcqueuelen"]) == ("macvlan", mode, 500)
        assert (links["eth0"]["link_index"], links["eth0"]["ifalias"]) == (master.index, "podwire/n/c/eth0")


def test_what_nobody_chose_of_a_macvlan(lab: Lab) -> None:
    on_a_segment(lab)
    macvlan(lab)
    macvlan(lab, "eth1")
    one, two = (must(lab.pod.link(name)) for name in ("eth0", "eth1"))
    assert (one.mtu, one.queue, one.mac != two.mac) == (1500, 1000, True)


def test_links_of_a_namespace_that_a_link_tells(lab: Lab) -> None:
    on_a_segment(lab)
    lab.veth()
    macvlan(lab, "net1")
    there = must(lab.root.link("veth1")).peer_netns
    assert there is not None
    assert {(link.name, link.kind) for link in lab.root.links(there)} == {("lo", ""), ("eth0", "veth"), ("net1", "macvlan")}
    assert lab.root.netns_number(lab.pod_fd) == there


def test_a_macvlan_within_one_namespace(lab: Lab) -> None:
    on_a_segment(lab)
    macvlan(lab, "net1", fd=None)
    made = must(lab.root.link("net1"))
    assert (made.kind, made.peer_index, made.peer_elsewhere) == ("macvlan", must(lab.root.link("up0")).index, False)
    assert must(lab.root.link("up0")).ethernet and not must(lab.root.link("lo")).ethernet


def test_a_macvlan_on_a_macvlan_is_on_the_interface_below(lab: Lab) -> None:
    on_a_segment(lab)
    macvlan(lab)
    lab.pod.create_macvlan("net1", "eth0", "bridge", "", 0, 0, None)
    made = must(lab.pod.link("net1"))
    assert (made.peer_index, made.peer_elsewhere) == (must(lab.root.link("up0")).index, True)


def test_passthru_has_the_masters_hardware_address_and_nobody_beside_it(lab: Lab) -> None:
    on_a_segment(lab)
    macvlan(lab, mode="passthru", mac=MACVLAN_MAC)
    assert must(lab.pod.link("eth0")).mac == must(lab.root.link("up0")).mac
    assert number(lambda: macvlan(lab, "eth1")) == errno.EINVAL
    lab.pod.delete_link("eth0")
    macvlan(lab, "eth1")
    assert number(lambda: macvlan(lab, mode="passthru")) == errno.EINVAL


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lower": "nothing"}, errno.ENODEV),
        ({"lower": "lo"}, errno.EINVAL),
        ({"mtu": 1501}, errno.EINVAL),
        ({"name": "n" * 16}, errno.ERANGE),
        ({"name": "lo"}, errno.EEXIST),
        ({"lower": "veth1"}, errno.EBUSY),
    ],
)
def test_a_macvlan_that_cannot_be(lab: Lab, changes: dict[str, Any], expected: int) -> None:
    on_a_segment(lab)
    lab.root.create_bridge("br0", 0, False)
    lab.veth(master="br0", peer="port")
    assert number(lambda: macvlan(lab, **changes)) == expected
    assert [link.name for link in lab.pod.links()] == ["lo", "port"]


def test_a_link_gets_its_name_and_label_in_one_step(lab: Lab) -> None:
    on_a_segment(lab)
    macvlan(lab, "spare")
    lab.pod.adopt("spare", "eth0", "podwire/n/c/eth0")
    assert lab.pod.link("spare") is None
    assert must(lab.pod.link("eth0")).alias == "podwire/n/c/eth0"
    lab.pod.add_address("eth0", parse_cidr("10.0.0.5/24"))
    macvlan(lab, "spare")
    assert number(lambda: lab.pod.adopt("spare", "eth0", "another")) == errno.EEXIST
    assert must(lab.pod.link("eth0")).alias == "podwire/n/c/eth0"
    assert number(lambda: lab.pod.adopt("nothing", "eth1", "")) == errno.ENODEV


class CallOn:
    """What a call's Host has, made of a lab's doors."""

    def __init__(self, lab: Lab) -> None:
        self.root, self.sandbox, self.sandbox_fd = lab.root, lab.pod, lab.pod_fd

    def kernel(self, side: Side) -> Kernel:
        return self.root if side is HOST else self.sandbox


@pytest.mark.parametrize("queue", [0, 500])
def test_a_name_that_the_masters_namespace_has(lab: Lab, queue: int) -> None:
    """Older kernels refuse it, and the interface has another name for an instant: nothing is left of that."""
    on_a_segment(lab)
    given: dict[str, Any] = {"master": "up0", "mode": "bridge", "queue": queue, "mac": MACVLAN_MAC, "label": "podwire/n/c/up0"}
    op = CreateMacvlan(side=HOST, name="up0", spare="spare", **given)
    macvlan(lab, "spare")  # of a call that was killed
    done: list[Any] = []
    execute([op], cast("Host", CallOn(lab)), done)
    made = must(lab.pod.link("up0"))
    assert (made.kind, made.alias, made.mac) == ("macvlan", "podwire/n/c/up0", MACVLAN_MAC)
    assert done == [op]
    lab.pod.delete_link("spare")
    with pytest.raises(KernelError, match="File exists"):
        execute([op], cast("Host", CallOn(lab)), done)
    assert [link.name for link in lab.pod.links()] == ["lo", "up0"]
    assert must(lab.root.link("up0")).kind == "veth"


def test_a_hardware_address_is_up_once(lab: Lab) -> None:
    on_a_segment(lab)
    for name in ("eth0", "eth1"):
        macvlan(lab, name, mac=MACVLAN_MAC)
    lab.pod.set_link("eth0", up=True)
    taken = (errno.EADDRINUSE, errno.EBUSY)  # by the kernel's version
    assert number(lambda: lab.pod.set_link("eth1", up=True)) in taken
    macvlan(lab, "eth2", mac=must(lab.root.link("up0")).mac)
    assert number(lambda: lab.pod.set_link("eth2", up=True)) in taken
    lab.pod.set_mac("eth0", MACVLAN_MAC)


def test_macvlans_go_with_their_master(lab: Lab) -> None:
    on_a_segment(lab)
    macvlan(lab)
    assert lab.root.delete_link("up0")
    assert [link.name for link in lab.pod.links()] == ["lo"]


def test_the_default_routes_link(lab: Lab) -> None:
    """IPv4's before IPv6's, the lowest metric, the main table."""
    assert lab.root.default_link() == ""
    on_a_segment(lab)
    lab.root.create_bridge("br0", 0, False)
    lab.veth(master="br0", peer="port")
    lab.pod.set_link("port", up=True)
    for name, subnet in (("up0", "10.1.0.1/24"), ("br0", "10.2.0.1/24")):
        lab.root.add_address(name, parse_cidr(subnet))
    lab.root.add_route("up0", route("0.0.0.0/0", "10.1.0.2", table=100))
    assert lab.root.default_link() == ""
    lab.root.add_address("up0", parse_cidr("fd01::1/64"))
    lab.root.add_route("up0", route("::/0", "fd01::2"))
    assert lab.root.default_link() == "up0"
    lab.root.add_route("br0", route("0.0.0.0/0", "10.2.0.2", priority=300))
    assert lab.root.default_link() == "br0"
    lab.root.add_route("up0", route("0.0.0.0/0", "10.1.0.2", priority=200))
    assert lab.root.default_link() == "up0"


# -- addresses --


def test_addresses(lab: Lab) -> None:
    lab.veth()
    for text in ("10.0.0.5/24", "fd00::5/64", "10.0.0.6/32", "fd00:1::5/128"):
        assert lab.pod.add_address("eth0", parse_cidr(text)) is True
        assert lab.pod.add_address("eth0", parse_cidr(text)) is False
    found = lab.pod.addresses("eth0")
    assert [str(address) for address in v4(found)] == ["10.0.0.5/24", "10.0.0.6/32"]
    assert {str(address) for address in v6(found)} == {"fd00::5/64", "fd00:1::5/128"}
    if lab.judge:
        seen = observe.addresses(lab.judge, "eth0", pod=POD)
        assert set(seen) == {"10.0.0.5/24", "fd00::5/64", "10.0.0.6/32", "fd00:1::5/128"}
        assert seen["10.0.0.5/24"]["broadcast"] == "10.0.0.255"
        assert "broadcast" not in seen["10.0.0.6/32"]


def test_one_address_with_two_lengths(lab: Lab) -> None:
    """IPv4 takes both, IPv6 keeps the first."""
    lab.veth()
    for text, added in (("10.0.0.5/24", True), ("10.0.0.5/25", True), ("fd00::5/64", True), ("fd00::5/48", False)):
        assert lab.pod.add_address("eth0", parse_cidr(text)) is added
    assert {str(address) for address in lab.pod.addresses("eth0")} == {"10.0.0.5/24", "10.0.0.5/25", "fd00::5/64"}


def test_an_address_is_removed_as_it_was_given(lab: Lab) -> None:
    lab.running()
    for wrong in ("10.0.0.5/25", "fd00::5/48", "10.0.0.6/24"):
        assert lab.pod.delete_address("eth0", parse_cidr(wrong)) is False
    for text in ("10.0.0.5/24", "fd00::5/64"):
        assert lab.pod.delete_address("eth0", parse_cidr(text)) is True
        assert lab.pod.delete_address("eth0", parse_cidr(text)) is False
    assert v4(lab.pod.addresses("eth0")) + v6(lab.pod.addresses("eth0")) == []
    assert v4(lab.pod.routes("eth0")) + v6(lab.pod.routes("eth0")) == []


def test_lo_gets_its_own_addresses(lab: Lab) -> None:
    lab.pod.set_link("lo", up=True)
    assert {str(address) for address in lab.pod.addresses("lo")} == {"127.0.0.1/8", "::1/128"}
    lab.pod.set_link("lo", up=False)
    assert {str(address) for address in lab.pod.addresses("lo")} == {"127.0.0.1/8"}
    assert lab.pod.routes("lo") == ()


def test_detection_does_not_run_on_addresses_of_ours(lab: Lab) -> None:
    lab.running()
    pending, failed = lab.pod.dad_state("eth0")
    assert v6(pending) == []
    assert failed == ()


def test_everything_dies_with_the_link(lab: Lab) -> None:
    lab.running()
    lab.pod.add_route("eth0", route("0.0.0.0/0", "10.0.0.1"))
    lab.root.delete_link("veth1")
    assert (lab.pod.addresses("eth0"), lab.pod.routes("eth0")) == ((), ())
    lab.veth()
    assert (lab.pod.addresses("eth0"), lab.pod.routes("eth0")) == ((), ())


# -- routes --


def test_connected_routes_come_and_go_with_the_link(lab: Lab) -> None:
    lab.veth()
    for text in ("10.0.0.5/24", "10.0.1.5/32", "fd00::5/64"):
        lab.pod.add_address("eth0", parse_cidr(text))
    assert v4(lab.pod.routes("eth0")) == []
    lab.pod.set_link("eth0", up=True)
    assert told(v4(lab.pod.routes("eth0"))) == ["10.0.0.0/24 via None table 254 scope 253 metric 0 proto 2"]
    assert told(v6(lab.pod.routes("eth0"))) == ["fd00::/64 via None table 254 scope 0 metric 256 proto 2"]
    lab.pod.set_link("eth0", up=False)
    assert v4(lab.pod.routes("eth0")) + v6(lab.pod.routes("eth0")) == []
    assert v4(lab.pod.addresses("eth0")) == [parse_cidr("10.0.0.5/24"), parse_cidr("10.0.1.5/32")]
    assert v6(lab.pod.addresses("eth0")) == [], "the kernel drops IPv6 addresses with the link, unless told otherwise"


def test_routes(lab: Lab) -> None:
    lab.running()
    given = [
        route("0.0.0.0/0", "10.0.0.1"),
        route("192.0.2.9/24"),
        route("198.51.100.0/24", "10.0.0.1", priority=7, table=100, mtu=1300, advmss=1200),
        route("203.0.113.0/24", table=1000),
        route("::/0", "fd00::1"),
        route("fd01::/64"),
        route("fd02::/64", "fd00::1", priority=7, table=100),
    ]
    for entry in given:
        assert lab.pod.add_route("eth0", entry) is True, entry
        assert lab.pod.add_route("eth0", entry) is False, entry
    found = lab.pod.routes("eth0")
    assert sorted(told(v4(found))) == [
        "0.0.0.0/0 via 10.0.0.1 table 254 scope 0 metric 0 proto 4",
        "10.0.0.0/24 via None table 254 scope 253 metric 0 proto 2",
        "192.0.2.0/24 via None table 254 scope 253 metric 0 proto 4",
        "198.51.100.0/24 via 10.0.0.1 table 100 scope 0 metric 7 proto 4",
        "203.0.113.0/24 via None table 1000 scope 253 metric 0 proto 4",
    ]
    assert sorted(told(v6(found))) == [
        "::/0 via fd00::1 table 254 scope 0 metric 1024 proto 4",
        "fd00::/64 via None table 254 scope 0 metric 256 proto 2",
        "fd01::/64 via None table 254 scope 0 metric 1024 proto 4",
        "fd02::/64 via fd00::1 table 100 scope 0 metric 7 proto 4",
    ]
    if lab.judge:
        seen = {entry["dst"]: entry for entry in observe.routes(lab.judge, pod=POD, table="all")}
        assert seen["198.51.100.0/24"]["metrics"] == [{"mtu": 1300, "advmss": 1200}]
        assert (seen["203.0.113.0/24"]["table"], seen["203.0.113.0/24"]["scope"]) == ("1000", "link")


def test_subnets(lab: Lab) -> None:
    lab.running()
    lab.pod.add_address("eth0", parse_cidr("192.0.2.9/32"))
    found = {str(network) for network in lab.pod.subnets()}
    assert {"10.0.0.0/24", "fd00::/64"} <= found <= {"10.0.0.0/24", "fd00::/64", "fe80::/64", "127.0.0.0/8"}


@pytest.mark.parametrize("dst", ["192.0.2.9/32", "fd09::9/128"])
def test_a_sole_route(lab: Lab, dst: str) -> None:
    lab.running()
    lab.pod.set_link("lo", up=True)
    assert lab.pod.add_route("eth0", route(dst), sole=True) is True
    for ifname in ("eth0", "lo"):
        assert number(partial(lab.pod.add_route, ifname, route(dst), sole=True)) == errno.EEXIST
    assert lab.pod.add_route("eth0", route(dst)) is False


def test_a_second_next_hop(lab: Lab) -> None:
    """IPv4: it goes in front; IPv6: beside."""
    lab.running()
    for dst, one, two in (("0.0.0.0/0", "10.0.0.1", "10.0.0.2"), ("::/0", "fd00::1", "fd00::2")):
        assert lab.pod.add_route("eth0", route(dst, one)) is True
        assert lab.pod.add_route("eth0", route(dst, two)) is True
    found = lab.pod.routes("eth0")
    assert [str(seen.gw) for seen in v4(found) if seen.gw] == ["10.0.0.2", "10.0.0.1"]
    assert {str(seen.gw) for seen in v6(found) if seen.gw} == {"fd00::1", "fd00::2"}


@pytest.mark.parametrize(
    ("dst", "gw", "keys", "expected"),
    [
        ("192.0.2.0/24", "203.0.113.1", {}, errno.ENETUNREACH),
        ("192.0.2.0/24", "10.0.0.1", {"scope": 253}, errno.ENETUNREACH),
        ("fd08::/64", "fd77::1", {}, errno.EHOSTUNREACH),
    ],
)
def test_a_next_hop_must_be_reachable(lab: Lab, dst: str, gw: str, keys: dict[str, Any], expected: int) -> None:
    lab.running()
    before = lab.pod.routes("eth0")
    assert number(lambda: lab.pod.add_route("eth0", route(dst, gw, **keys))) == expected
    assert v4(lab.pod.routes("eth0")) == v4(before)


@pytest.mark.parametrize(
    ("dst", "gw", "expected"),
    [
        ("192.0.2.0/24", "", errno.ENETDOWN),
        ("192.0.2.0/24", "10.0.0.1", errno.ENETUNREACH),
        ("fd08::/64", "", errno.ENETDOWN),
        ("fd08::/64", "fd00::1", errno.EHOSTUNREACH),
    ],
)
def test_a_route_needs_a_link_that_is_up(lab: Lab, dst: str, gw: str, expected: int) -> None:
    lab.veth()
    for address in ("10.0.0.5/24", "fd00::5/64"):
        lab.pod.add_address("eth0", parse_cidr(address))
    assert number(lambda: lab.pod.add_route("eth0", route(dst, gw))) == expected
    assert lab.pod.routes("eth0") == ()


def test_an_address_without_its_subnet(lab: Lab) -> None:
    """The kernel adds no route to the subnet, also when the link goes down and comes back; routes may prefer the address."""
    lab.veth()
    for text in ("10.0.0.5/24", "fd00::5/64"):
        assert lab.pod.add_address("eth0", parse_cidr(text), subnet=False) is True
        assert lab.pod.add_address("eth0", parse_cidr(text), subnet=False) is False
    lab.pod.set_link("eth0", up=True)
    assert v4(lab.pod.routes("eth0")) + v6(lab.pod.routes("eth0")) == []
    for dst, gw, source in (
        ("10.0.0.1/32", "", "10.0.0.5"),
        ("0.0.0.0/0", "10.0.0.1", "10.0.0.5"),
        ("fd00::1/128", "", "fd00::5"),
    ):
        assert lab.pod.add_route("eth0", route(dst, gw), parse_ip(source)) is True
        assert lab.pod.add_route("eth0", route(dst, gw), parse_ip(source)) is False
    assert sorted(told(v4(lab.pod.routes("eth0")))) == [
        "0.0.0.0/0 via 10.0.0.1 table 254 scope 0 metric 0 proto 4",
        "10.0.0.1/32 via None table 254 scope 253 metric 0 proto 4",
    ]
    assert told(v6(lab.pod.routes("eth0"))) == ["fd00::1/128 via None table 254 scope 0 metric 1024 proto 4"]
    if lab.judge:
        seen = {entry["dst"]: entry.get("prefsrc") for entry in observe.routes(lab.judge, pod=POD)}
        assert seen == {"default": "10.0.0.5", "10.0.0.1": "10.0.0.5", "fd00::1": "fd00::5"}


@pytest.mark.parametrize(("dst", "source"), [("10.0.0.1/32", "10.0.0.6"), ("fd00::1/128", "fd00::6")])
def test_a_route_from_an_address_that_nobody_has(lab: Lab, dst: str, source: str) -> None:
    lab.running()
    assert number(lambda: lab.pod.add_route("eth0", route(dst), parse_ip(source))) == errno.EINVAL


def test_a_link_local_next_hop(lab: Lab) -> None:
    """Nobody needs to have the address, or a route to it."""
    lab.veth()
    assert number(lambda: lab.pod.add_route("eth0", route("::/0", "fe80::1"))) == errno.ENETDOWN
    lab.pod.set_link("eth0", up=True)
    assert lab.pod.add_route("eth0", route("::/0", "fe80::1")) is True
    assert "::/0 via fe80::1 table 254 scope 0 metric 1024 proto 4" in told(v6(lab.pod.routes("eth0")))


def test_neighbours(lab: Lab) -> None:
    """Those that were made for good, and no others; they die with the link."""
    lab.running()
    for address in ("169.254.1.1", "fe80::1"):
        lab.pod.add_neighbour("eth0", parse_ip(address), "02:00:00:00:00:08")
        lab.pod.add_neighbour("eth0", parse_ip(address), HOST_MAC)
    expected = {("169.254.1.1", HOST_MAC), ("fe80::1", HOST_MAC)}
    assert {(str(it.address), it.mac) for it in lab.pod.neighbours("eth0")} == expected
    if lab.judge:
        seen = observe.ip(lab.judge, "neigh", "show", "nud", "permanent", pod=POD)
        assert {(entry["dst"], entry["lladdr"]) for entry in seen} >= expected
    assert lab.pod.neighbours("nothing") == ()
    lab.root.delete_link("veth1")
    assert lab.pod.neighbours("eth0") == ()
    assert number(lambda: lab.pod.add_neighbour("eth0", parse_ip("169.254.1.1"), HOST_MAC)) == errno.ENODEV


# -- routes to other nodes --


def test_ways(lab: Lab) -> None:
    """On a link, behind a next hop, this host itself, nowhere."""
    lab.running()
    until = time.monotonic() + 5  # the kernel makes the route to an IPv6 address of its own a moment after the address
    while not getattr(lab.pod.way(parse_ip("fd00::5")), "local", False) and time.monotonic() < until:
        time.sleep(0.01)
    lab.pod.add_route("eth0", route("192.0.2.0/24", "10.0.0.1"))
    lab.pod.add_route("eth0", route("fd01::/64", "fd00::1"))
    for address, dst, gw, on_link, local in (
        ("10.0.0.9", "10.0.0.0/24", None, True, False),
        ("fd00::9", "fd00::/64", None, True, False),
        ("192.0.2.9", "192.0.2.0/24", "10.0.0.1", False, False),
        ("fd01::9", "fd01::/64", "fd00::1", False, False),
        ("10.0.0.5", "10.0.0.5/32", None, False, True),
        ("fd00::5", "fd00::5/128", None, False, True),
    ):
        way = lab.pod.way(parse_ip(address))
        assert way is not None, address
        assert (str(way.dst), way.gw and str(way.gw), way.on_link, way.local) == (dst, gw, on_link, local)
    for address in ("198.51.100.9", "fd02::9"):
        assert lab.pod.way(parse_ip(address)) is None


@pytest.mark.root
def test_ways_that_lead_nowhere(node: Node) -> None:
    """Routes that say so are no ways; where there are several next hops none of them is on a link."""
    for line in (
        "ip link add a0 type veth peer name a1",
        "ip addr add 10.0.0.5/24 dev a0",
        "ip link set a0 up",
        "ip link set a1 up",
        "ip route add unreachable 192.0.2.0/25",
        "ip route add blackhole 192.0.2.128/25",
        "ip route add 198.51.100.0/24 nexthop via 10.0.0.1 nexthop via 10.0.0.2",
        "ip route add 203.0.113.0/24 via inet6 fe80::1 dev a0",
    ):
        node.sh(line)
    addresses = ("192.0.2.1", "192.0.2.129", "198.51.100.9", "203.0.113.9")

    def ways(doors: object) -> list[bool | None]:
        kernel = Kernel()
        found = [kernel.way(parse_ip(address)) for address in addresses]
        kernel.close()
        return [way and way.on_link for way in found]

    assert inside(node, ways) == [None, None, False, False]


def test_next_hops(lab: Lab) -> None:
    """One for each range and metric; setting it again changes nothing, or the next hop."""
    lab.running()
    hops = {("10.9.0.0/24", 7): "10.0.0.1", ("10.9.0.0/24", 8): "10.0.0.2", ("fd09::/64", 7): "fd00::1"}
    for (dst, metric), via in hops.items():
        lab.pod.set_next_hop(parse_cidr(dst), parse_ip("fd00::3" if ":" in dst else "10.0.0.3"), metric)
        lab.pod.set_next_hop(parse_cidr(dst), parse_ip(via), metric)
        lab.pod.set_next_hop(parse_cidr(dst), parse_ip(via), metric)
    lab.pod.add_route("eth0", route("10.8.0.0/24", "10.0.0.1"))  # not ours
    assert {(str(dst), metric): str(hop.via) for (dst, metric), hop in lab.pod.next_hops().items()} == hops
    assert {hop.out for hop in lab.pod.next_hops().values()} == {must(lab.pod.link("eth0")).index}
    way = lab.pod.way(parse_ip("10.9.0.1"))
    assert way is not None
    assert (str(way.dst), str(way.gw), way.priority, way.protocol) == ("10.9.0.0/24", "10.0.0.1", 7, 112)
    if lab.judge:
        seen = observe.routes(lab.judge, pod=POD)
        ours = {(entry["dst"], entry["metric"]): entry["gateway"] for entry in seen if entry.get("protocol") == "112"}
        assert ours == hops
    assert lab.pod.drop_next_hop(parse_cidr("10.9.0.0/24"), parse_ip("10.0.0.2"), 7) is False
    assert lab.pod.drop_next_hop(parse_cidr("10.9.0.0/24"), parse_ip("10.0.0.1"), 7) is True
    assert lab.pod.drop_next_hop(parse_cidr("10.9.0.0/24"), parse_ip("10.0.0.1"), 7) is False
    assert {metric for dst, metric in lab.pod.next_hops() if str(dst) == "10.9.0.0/24"} == {8}


@pytest.mark.parametrize(
    ("dst", "via", "expected"), [("10.9.0.0/24", "192.0.2.1", errno.ENETUNREACH), ("fd09::/64", "fd08::1", errno.EHOSTUNREACH)]
)
def test_a_node_must_be_on_a_link(lab: Lab, dst: str, via: str, expected: int) -> None:
    lab.running()
    assert number(lambda: lab.pod.set_next_hop(parse_cidr(dst), parse_ip(via), 7)) == expected
    assert lab.pod.next_hops() == {}


# -- the fake alone --


def test_the_fake_refuses_what_it_does_not_know() -> None:
    machine = Machine()
    host = machine.host()
    with pytest.raises(AssertionError, match="does not know sysctl"):
        host.sysctl(_side(), "net/ipv6/conf/lo/acept_dad")
    with pytest.raises(AssertionError, match="does not understand"):
        host.nft.run("add tabel inet x\n")
    with pytest.raises(AssertionError, match="does not understand"):
        host.iptables.restore(False, "*nat\n-I POSTROUTING -j ACCEPT\nCOMMIT\n")
    assert machine.dump() == Machine().dump()


def _side() -> Any:
    from cni.net.ops import HOST

    return HOST


def test_links_deleted_together(lab: Lab) -> None:
    """Several at once, of which one is gone already; the rest of the host's links stay."""
    for number in range(3):
        lab.veth(name=f"veth{number}", peer=f"eth{number}")
    lab.root.create_bridge("br0", 0, False)
    assert lab.root.delete_links(["veth0", "none", "veth2"], 77) == {"veth0": True, "none": False, "veth2": True}
    assert {link.name for link in lab.root.links()} == {"lo", "br0", "veth1"}
    assert lab.root.delete_links(["veth0"], 77) == {"veth0": False}
    seen = lab.links()
    assert seen is None or set(seen) == {"lo", "br0", "veth1"}


def test_the_fake_has_every_verb_of_the_real_one() -> None:
    import inspect

    from cni.net.links import Links
    from cni.net.traffic import Traffic
    from cni.nft.apply import Nft
    from cni.nft.iptables import Iptables
    from tests.fakes import FakeHost, FakeIptables, FakeNft, FakeTraffic

    pairs = ((Links, FakeKernel), (Kernel, FakeKernel), (Traffic, FakeTraffic), (Host, FakeHost))
    for real, fake in (*pairs, (Nft, FakeNft), (Iptables, FakeIptables)):
        verbs = {name: value for name, value in vars(real).items() if inspect.isfunction(value) and not name.startswith("_")}
        for name, verb in verbs.items():
            if (real, name) in ((Links, "index"), (Links, "objects")):  # for the other halves of the real door alone
                continue
            twin = inspect.signature(getattr(fake, name))
            assert list(twin.parameters) == list(inspect.signature(verb).parameters), f"{fake.__name__}.{name}"


# -- the socket ---------------------------------------------------------------------------------------------------------


class Lossy:
    """A socket that fails the second time that something is to be received."""

    def __init__(self, real: Any, reason: int) -> None:
        self._real, self._reason, self._received = real, reason, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def recv(self, size: int) -> bytes:
        self._received += 1
        if self._received == 2:
            raise OSError(self._reason, os.strerror(self._reason))
        data: bytes = self._real.recv(size)
        return data


@pytest.mark.root
@pytest.mark.parametrize("reason", [errno.ENOBUFS, errno.EAGAIN], ids=errno.errorcode.get)
def test_a_door_that_failed_is_lent_to_nobody(node: Node, reason: int) -> None:
    """In the middle of a dump, which the kernel goes on with; it would begin no other on the same socket."""

    def work(_: object) -> list[int]:
        doors = Doors()
        host = Host(doors=doors)
        for count in range(100):  # more than are told in one piece
            host.root.create_bridge(f"br{count}", 0, False)
        host.root.wire._socket = cast("Any", Lossy(host.root.wire._socket, reason))
        with pytest.raises(CNIError, match="cannot list links"):
            host.root.links()
        host.close()
        descriptors, found = len(os.listdir("/proc/self/fd")), []
        for _call in range(3):
            host = Host(doors=doors)
            found.append(len(host.root.links()))
            host.close()
        return [*found, len(os.listdir("/proc/self/fd")) - descriptors]

    assert inside(node, work) == [101, 101, 101, 1], "and one door is kept open in its place"


@pytest.mark.root
def test_a_door_that_was_refused_something_is_lent_again(node: Node) -> None:
    def work(_: object) -> bool:
        doors = Doors()
        host = Host(doors=doors)
        first = host.root
        assert number(lambda: first.set_mac("nothing", HOST_MAC)) == errno.ENODEV
        host.close()
        return Host(doors=doors).root is first

    assert inside(node, work)


@pytest.mark.root
def test_numbers_of_requests_begin_anew(node: Node) -> None:
    def work(_: object) -> tuple[list[list[str]], int]:
        kernel, found = Kernel(), []
        kernel.wire._sequence = 2**32 - 4
        for count in range(4):
            kernel.create_veth(f"a{count}", HOST_MAC, 0, "", "label", {}, f"b{count}", POD_MAC, None)
            assert must(kernel.link(f"a{count}")).alias == "label"
            found.append(sorted(link.name for link in kernel.links()))
        return found, kernel.wire._sequence

    found, sequence = inside(node, work)
    assert found[-1] == [f"{end}{count}" for end in "ab" for count in range(4)] + ["lo"]
    assert sequence < 100


# -- shaping --


def test_a_new_link_is_not_shaped(lab: Lab) -> None:
    lab.veth()
    for name in ("veth1", "lo", "none"):
        assert lab.root.traffic.shaping(name) == Shaping()


@pytest.mark.parametrize(
    ("rate", "limit", "buffer", "burst"),
    [
        (1_000_000, 125_000, 1_562_500, 0),
        (100, 27, 3_906_250, 0),
        (5_000_000_000, 175_000_000, 156_250, 0),
        (0xFFFFFFFF, 1000, 1000, 0),
    ],
)
def test_a_rate_limit_comes_and_goes(lab: Lab, rate: int, limit: int, buffer: int, burst: int) -> None:
    lab.veth()
    lab.root.traffic.limit_rate("veth1", rate, limit, buffer, burst)
    assert lab.root.traffic.shaping("veth1") == Shaping(Qdisc("tbf", TBF_HANDLE, rate, limit, buffer))
    if lab.judge is not None:
        [told] = observe.qdiscs(lab.judge, "veth1")
        assert (told["kind"], told["handle"], told["root"], told["options"]["rate"]) == ("tbf", "7077:", True, rate)
        assert int(told["options"]["burst_raw"], 16) == buffer
    assert number(lambda: lab.root.traffic.limit_rate("veth1", 1, 1, 1)) == errno.EEXIST
    assert lab.root.traffic.unlimit_rate("veth1") is True
    assert lab.root.traffic.shaping("veth1") == Shaping()
    assert lab.root.traffic.unlimit_rate("veth1") is False
    assert lab.root.traffic.unlimit_rate("none") is False


def test_a_burst_in_bytes(lab: Lab) -> None:
    """The kernel makes ticks of it; a size of more than 32 bits of ticks is there all the same."""
    lab.veth()
    wanted = bucket(1_000_000, 2_147_483_647)
    lab.root.traffic.limit_rate("veth1", wanted.rate, wanted.limit, wanted.buffer, wanted.burst)
    assert problems("veth1", wanted, lab.root.traffic.shaping("veth1").root) == []


def test_a_rate_limit_of_nothing(lab: Lab) -> None:
    lab.veth()
    assert number(lambda: lab.root.traffic.limit_rate("veth1", 0, 100, 100)) == errno.EINVAL
    assert number(lambda: lab.root.traffic.limit_rate("veth1", 100, 100, 0)) == errno.EINVAL
    assert number(lambda: lab.root.traffic.limit_rate("none", 100, 100, 100)) == errno.ENODEV
    assert lab.root.traffic.shaping("veth1") == Shaping()


def test_a_redirect_comes_and_goes(lab: Lab) -> None:
    lab.veth()
    lab.root.create_ifb("ifb7", HOST_MAC, 1400, "podwire/n/c/eth0")
    ifb = must(lab.root.link("ifb7"))
    assert (ifb.kind, ifb.mac, ifb.mtu, ifb.up, ifb.alias) == ("ifb", HOST_MAC, 1400, True, "podwire/n/c/eth0")
    lab.root.traffic.redirect("veth1", "ifb7")
    wanted = Shaping(None, Qdisc("ingress", INGRESS_HANDLE), (Filter("u32", True, ifb.index),))
    assert lab.root.traffic.shaping("veth1") == wanted
    if lab.judge is not None:
        [rule] = observe.filters(lab.judge, "veth1")
        assert (rule["protocol"], rule["pref"], rule["options"]["match"]["mask"]) == ("all", 1, "0")
        [action] = rule["options"]["actions"]
        assert (action["mirred_action"], action["direction"], action["to_dev"]) == ("redirect", "egress", "ifb7")
    assert number(lambda: lab.root.traffic.redirect("veth1", "ifb7")) == errno.EEXIST
    lab.root.traffic.limit_rate("veth1", 1000, 1000, 15_625_000)
    assert lab.root.delete_link("ifb7")
    found = lab.root.traffic.shaping("veth1")
    assert (found.filters, found.root) == ((Filter("u32", True, 0),), Qdisc("tbf", TBF_HANDLE, 1000, 1000, 15_625_000))
    assert lab.root.traffic.drop_redirect("veth1") is True
    assert lab.root.traffic.shaping("veth1") == Shaping(found.root)
    assert lab.root.traffic.drop_redirect("veth1") is False
    assert lab.root.traffic.drop_redirect("none") is False
    assert number(lambda: lab.root.traffic.redirect("veth1", "none")) == errno.ENODEV


def test_an_ifb_whose_name_is_taken(lab: Lab) -> None:
    lab.veth()
    before = must(lab.root.link("veth1"))
    with pytest.raises(TryAgain):
        lab.root.create_ifb("veth1", HOST_MAC, 1400, "podwire/of/somebody/else")
    assert lab.root.link("veth1") == before


def test_an_ifb_without_room_for_its_label(lab: Lab) -> None:
    """Nothing stays of one that could not be labelled."""
    with pytest.raises(KernelError):
        lab.root.create_ifb("ifb7", HOST_MAC, 1400, "x" * 300)
    assert lab.root.link("ifb7") is None


def test_asking_what_the_kernel_has(lab: Lab) -> None:
    before = [link.name for link in lab.root.links()]
    assert (lab.root.traffic.knows_qdisc("tbf"), lab.root.traffic.knows_qdisc("no-such")) == (True, False)
    assert (lab.root.knows_link("ifb"), lab.root.knows_link("no-such")) == (True, False)
    assert [link.name for link in lab.root.links()] == before
    assert lab.root.traffic.shaping("lo") == Shaping()


# -- attributes of a pod's interface, and its sysctls --


def test_attributes_of_a_link(lab: Lab) -> None:
    lab.running()
    seen = must(lab.pod.link("eth0"))
    assert (seen.mtu, seen.txqlen, seen.promisc, seen.allmulti) == (1500, 1000, False, False)
    lab.pod.set_mtu("eth0", 1300)
    lab.pod.set_queue("eth0", 0)
    lab.pod.set_mac("eth0", "02:00:00:00:00:99")
    lab.pod.set_link("eth0", allmulti=True, promisc=True)
    seen = must(lab.pod.link("eth0"))
    assert (seen.mtu, seen.txqlen, seen.promisc, seen.allmulti) == (1300, 0, True, True)
    assert (seen.mac, seen.up) == ("02:00:00:00:00:99", True)
    lab.pod.set_link("eth0", allmulti=False)
    seen = must(lab.pod.link("eth0"))
    assert (seen.promisc, seen.allmulti) == (True, False)
    told = lab.links(pod=True)
    if told is not None:
        eth0 = told["eth0"]
        assert (eth0["mtu"], eth0.get("txqlen", 0), eth0["address"]) == (1300, 0, "02:00:00:00:00:99")
        assert {"PROMISC", "UP"} <= set(eth0["flags"]) and "ALLMULTI" not in eth0["flags"]


def test_attributes_that_cannot_be(lab: Lab) -> None:
    lab.running()
    assert {number(lambda mtu=mtu: lab.pod.set_mtu("eth0", mtu)) for mtu in (67, 65536)} == {errno.EINVAL}
    gone = (
        lambda: lab.pod.set_mtu("gone", 1300),
        lambda: lab.pod.set_queue("gone", 1),
        lambda: lab.pod.set_link("gone", allmulti=True),
    )
    assert {number(change) for change in gone} == {errno.ENODEV}


def test_a_link_forgets_its_neighbours_with_its_hardware_address(lab: Lab) -> None:
    """Permanent ones, too: who changes the address has to tell them again."""
    lab.running()
    for address in ("10.0.0.9", "fe80::9"):
        lab.pod.add_neighbour("eth0", parse_ip(address), HOST_MAC)
    assert len(lab.pod.neighbours("eth0")) == 2
    lab.pod.set_mtu("eth0", 1400)
    assert len(lab.pod.neighbours("eth0")) == 2
    lab.pod.set_mac("eth0", "02:00:00:00:00:99")
    assert lab.pod.neighbours("eth0") == ()
