"""bridge: DEL always succeeds, again and again, and leaves nothing, whatever is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe
from tests.netns.conftest import BACKENDS, DUAL, V4, bridge

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.netns.conftest import Attachment, Lab

pytestmark = pytest.mark.root


def conf(backend: str = "nftables", **keys: Any) -> dict[str, Any]:
    return bridge(DUAL, isDefaultGateway=True, ipMasq=True, ipMasqBackend=backend, **keys)


def pod_gone(it: Attachment) -> str | None:
    it.lab.node.remove_pod(it.netns)
    return it.netns


def pod_gone_and_no_path(it: Attachment) -> str | None:
    it.lab.node.remove_pod(it.netns)
    return None


def path_is_a_file(it: Attachment) -> str | None:
    it.lab.node.remove_pod(it.netns)
    it.lab.node.sh(f"echo >{it.netns}")
    return it.netns


def link_gone(it: Attachment) -> str | None:
    it.lab.node.sh("ip link del eth0", pod=it.pod)
    return it.netns


def link_renamed(it: Attachment) -> str | None:
    it.lab.node.sh("ip link set eth0 down; ip link set eth0 name eth9", pod=it.pod)
    return it.netns


def host_end_gone(it: Attachment) -> str | None:
    it.lab.node.sh(f"ip link del {it.host_veth}")
    return it.netns


def bridge_gone(it: Attachment) -> str | None:
    it.lab.node.sh("ip link del cni0")
    return it.netns


def rules_gone(it: Attachment) -> str | None:
    it.lab.node.sh("nft flush ruleset")
    return it.netns


def lease_gone(it: Attachment) -> str | None:
    it.lab.node.sh("rm /var/lib/cni/networks/net/10.10.0.2")
    return it.netns


def store_gone(it: Attachment) -> str | None:
    it.lab.node.sh("rm -r /var/lib/cni/networks")
    return it.netns


def address_gone(it: Attachment) -> str | None:
    it.lab.node.sh("ip addr flush dev eth0", pod=it.pod)
    return it.netns


def nothing_missing(it: Attachment) -> str | None:
    return it.netns


CASES = (
    nothing_missing,
    pod_gone,
    pod_gone_and_no_path,
    path_is_a_file,
    link_gone,
    link_renamed,
    host_end_gone,
    bridge_gone,
    rules_gone,
    lease_gone,
    store_gone,
    address_gone,
)
LEAKS = {
    "pod_gone": "containernetworking/plugins#810: masquerade rules leak without the namespace.",
    "pod_gone_and_no_path": "containernetworking/plugins#810: masquerade rules leak without the namespace.",
    "path_is_a_file": "DEL with a file that is no namespace fails, nothing is released.",
    "link_gone": "containernetworking/plugins#810: masquerade rules leak when the link is gone.",
    "link_renamed": "containernetworking/plugins#810: masquerade rules leak when the link is gone.",
    "host_end_gone": "containernetworking/plugins#810: masquerade rules leak when the link is gone.",
    "rules_gone": "DEL fails when its masquerade chain is gone: `Chain ... does not exist`.",
    "address_gone": "Masquerade rules are found by the addresses on the link: without them they leak.",
}


def cases(*known: str) -> list[Any]:
    """The ways to lose something, with the reference's leaks marked."""
    marks = {name: [pytest.mark.known_reference_failure(LEAKS[name])] for name in known}
    return [pytest.param(case, id=case.__name__, marks=marks.get(case.__name__, [])) for case in CASES]


@pytest.mark.parametrize("with_result", [True, False], ids=["prevResult", "no-prevResult"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lose", cases(*LEAKS))
def test_del_leaves_nothing(lab: Lab, lose: Callable[[Attachment], str | None], backend: str, with_result: bool) -> None:
    """The bridge plugin should clean up its own resources even if the namespace or the interface no longer exists."""
    it = lab.added(conf(backend))
    netns = lose(it)
    config = it.with_result() if with_result else it.config
    for _ in range(2):
        outcome = it.call("DEL", config, netns=netns).succeeded()
        assert outcome.stdout == b""
        assert it.leftovers() == []
    if it.pod in lab.node.pods and lose is not link_renamed:
        assert set(observe.links(lab.node, pod=it.pod)) == {"lo"}


@pytest.mark.parametrize("version", ["0.1.0", "0.3.1", "1.0.0"])
def test_del_without_a_path_while_the_pod_lives(lab: Lab, version: str) -> None:
    """CNI_NETNS is optional: the address is released; a link that still had it would be a second owner."""
    it = lab.added(conf(version=version))
    it.delete(netns="").succeeded()
    assert observe.leases(lab.node, "net") == {}
    if lab.plugins.ours:
        assert it.leftovers() == []


def test_del_of_what_never_was(lab: Lab) -> None:
    """Plugins MUST accept DEL calls and return success if the interface in question is missing; nothing is made."""
    lab.added(conf()).delete().succeeded()
    it = lab.attachment(conf())
    before = lab.snapshot()
    it.delete().succeeded()
    lab.unchanged_since(before)


def test_del_of_what_never_was_without_a_pod(lab: Lab) -> None:
    """The same with a namespace that never was."""
    lab.added(conf()).delete().succeeded()
    it = lab.attachment(conf(), pod="never")
    before = lab.snapshot()
    it.delete().succeeded()
    it.delete(netns="").succeeded()
    lab.unchanged_since(before)


@pytest.mark.known_reference_failure(
    "containernetworking/plugins#151: the masquerade chain's name lacks the interface; two of a container share it."
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_del_leaves_others_alone(lab: Lab, backend: str) -> None:
    """DEL removes what belongs to its attachment: another container, network and interface stay as they are."""
    others = [
        lab.added(conf(backend)),
        lab.added(conf(backend, name="net2") | {"ipam": {**V4, "subnet": "10.20.0.0/24"}, "bridge": "cni2"}),
    ]
    it = lab.added(conf(backend))
    others.append(lab.attachment(conf(backend), pod=it.pod, container_id=it.container_id, ifname="net1"))
    others[-1].add()
    it.delete().succeeded()
    it.delete(netns="").succeeded()
    for other in others:
        other.check().succeeded()
    assert lab.node.pings("10.10.0.1", pod=others[0].pod)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({"cniVersion": "9.9.9", "ips": 5}, id="version"),
        pytest.param({"cniVersion": "1.0.0", "interfaces": "x"}, id="interfaces"),
        pytest.param([], id="list", marks=pytest.mark.known_reference_failure("DEL fails to decode it.")),
        pytest.param({"cniVersion": "1.0.0"}, id="empty"),
        pytest.param({"cniVersion": "1.0.0", "ips": [{"address": "10.10.0.2/24", "interface": 77}]}, id="index"),
    ],
)
def test_del_with_a_broken_prev_result(lab: Lab, broken: Any) -> None:
    """Plugins should still return without error if prevResult is empty; a broken one helps nobody but is no reason either."""
    it = lab.added(conf())
    it.call("DEL", {**it.config, "prevResult": broken}).succeeded()
    assert it.leftovers() == []


VALIDATES = pytest.mark.known_reference_failure("DEL validates ranges (projectcalico/cni-plugin#254): the address leaks.")
FLAG_OFF = pytest.mark.known_reference_failure("DEL looks for masquerade rules only where ipMasq is still on.")


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({"ipam": {"type": "host-local", "subnet": "nonsense"}}, marks=VALIDATES),
        pytest.param({"ipam": {"type": "host-local"}}, marks=VALIDATES),
        {"vlan": 7},
        pytest.param({"isGateway": False, "ipMasq": False, "isDefaultGateway": False}, marks=FLAG_OFF),
        {"bridge": "other"},
        {"mtu": 9000},
    ],
    ids=["ipam-broken", "ipam-empty", "vlan", "flags-off", "other-bridge", "mtu"],
)
def test_del_after_the_configuration_changed(lab: Lab, keys: dict[str, Any]) -> None:
    """The configuration should not change between add and delete; where an administrator did it, nothing may leak."""
    it = lab.added(conf())
    it.config = {**it.config, **keys}
    it.delete().succeeded()
    assert it.leftovers() == []


def test_the_bridge_stays(lab: Lab) -> None:
    """The bridge and its address are shared: they stay for the next pod."""
    it = lab.added(conf())
    before = observe.links(lab.node)["cni0"]["ifindex"]
    it.delete().succeeded()
    again = lab.added(conf())
    assert observe.links(lab.node)["cni0"]["ifindex"] == before
    again.check().succeeded()


def test_a_cycle_leaves_the_node_as_it_was(lab: Lab) -> None:
    """ADD and DEL again and again: nothing grows."""
    lab.added(conf()).delete().succeeded()
    it = lab.attachment(conf())
    before = lab.snapshot()
    for _ in range(3):
        it.add()
        it.delete().succeeded()
        lab.unchanged_since(before)
