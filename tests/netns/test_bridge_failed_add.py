"""bridge: a failed ADD leaves the node as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe
from tests.netns.conftest import BACKENDS, V4, V6, bridge

if TYPE_CHECKING:
    from tests.netns.conftest import Lab

pytestmark = pytest.mark.root

LINK_STAYS = "A failed ADD leaves the pod's interface and its peer (containernetworking/plugins#29)."
TINY = {"type": "host-local", "subnet": "10.10.0.0/30"}
KEYS: dict[str, Any] = {"isGateway": True, "ipMasq": True}


def routed(dst: str, gw: str) -> dict[str, Any]:
    return {**V4, "routes": [{"dst": dst, "gw": gw}]}


# name: (what is done to the node before; {pod} is the pod), keys of the failing configuration, code, what it says
FAILURES: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "route-through-nowhere": ("", {"ipam": routed("192.0.2.0/24", "203.0.113.1")}, 999, "192.0.2.0/24"),
    "range-exhausted": ("", {"ipam": {**V4, "rangeStart": "10.10.0.2", "rangeEnd": "10.10.0.2"}}, 999, "10.10.0.2"),
    "requested-address-is-taken": ("", {"runtimeConfig": {"ips": ["10.10.0.2"]}}, 999, "10.10.0.2.*container-1"),
    "interface-is-there": ("ip -n {pod} link add eth0 type bridge", {}, 999, "eth0"),
    "bridge-is-none": ("ip link add other type veth peer name other2", {"bridge": "other"}, 999, "other.*not a bridge"),
    "gateway-conflict": (
        "ip addr flush dev cni0; ip addr add 10.10.0.77/24 dev cni0",
        {},
        999,
        "10.10.0.77.*forceAddress|forceAddress.*10.10.0.77",
    ),
    "gateway-conflict-v6": (
        "ip addr add fd00:10::77/64 dev cni0 nodad",
        {"ipam": V6},
        999,
        "fd00:10::77.*forceAddress|forceAddress.*fd00:10::77",
    ),
    "no-address-from-ipam": ("", {"ipam": {"type": "static"}}, 7, "(?i)address|ip"),
    "ipam-is-not-there": ("", {"ipam": {"type": "no-such-ipam"}}, 999, "no-such-ipam"),
    "ipam-is-a-path": ("", {"ipam": {"type": "../static"}}, 7, "../static"),
    "ipam-does-not-like-its-keys": ("", {"ipam": {"type": "host-local", "subnet": "nonsense"}}, 7, "subnet"),
    "pod-is-full-of-eth0": ("ip -n {pod} link add dev eth0 type veth peer name eth0b", {}, 999, "eth0"),
}
CLEAN_HERE_TOO = {"interface-is-there", "pod-is-full-of-eth0", "bridge-is-none"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in CLEAN_HERE_TOO else [pytest.mark.known_reference_failure(LINK_STAYS)])
        for name in FAILURES
    ],
)
def test_nothing_is_left(lab: Lab, name: str) -> None:
    """A runtime may or may not call DEL after a failed ADD (containernetworking/cni#775): nothing may depend on it."""
    prepare, keys, code, says = FAILURES[name]
    other = lab.added(bridge(V4, **KEYS))
    it = lab.attachment({**bridge(V4, **KEYS), **keys})
    lab.node.sh(prepare.format(pod=it.pod) or "true")
    before = lab.snapshot()
    it.call("ADD").refused(code, says=says)
    lab.unchanged_since(before)
    if not name.startswith("ipam-is"):  # a DEL that cannot ask IPAM has to say so
        it.delete().succeeded()
    if not prepare.startswith("ip -n"):
        lab.unchanged_since(before)
    assert observe.leases(lab.node, "net").keys() == {"10.10.0.2"} and other.addresses == ["10.10.0.2"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_add_twice(lab: Lab, backend: str) -> None:
    """If an interface of the requested name already exists in the container, the CNI plugin MUST return with an error."""
    it = lab.added(bridge(V4, isDefaultGateway=True, ipMasq=True, ipMasqBackend=backend))
    before = lab.snapshot()
    it.call("ADD").refused(999, says="eth0|10.10.0.2|duplicate")
    lab.unchanged_since(before)
    it.check().succeeded()
    assert lab.node.pings("10.10.0.1", pod=it.pod)


def test_add_twice_with_a_requested_address(lab: Lab) -> None:
    """The second ADD of an attachment gets no second address, requested or not (host-local: no duplicate allocation)."""
    it = lab.added(bridge(V4, isGateway=True))
    before = lab.snapshot()
    it.call("ADD", args="IgnoreUnknown=1;IP=10.10.0.99").refused(999)
    lab.unchanged_since(before)
    it.check().succeeded()


@pytest.mark.parametrize("network", ["net", "other"])
def test_the_pods_own_interface_survives(lab: Lab, network: str) -> None:
    """A failed ADD must not take away the interface that made it fail."""
    one = lab.added(bridge(V4, isGateway=True))
    two = lab.attachment(bridge(V4, isGateway=True, name=network, bridge="cni1"), pod=one.pod, container_id="another")
    before = lab.snapshot()
    two.call("ADD").refused(999, says="eth0")
    found = observe.difference(before, lab.snapshot())
    assert not [line for line in found if "cni1" not in line], found
    one.check().succeeded()


@pytest.mark.known_reference_failure(LINK_STAYS)
def test_on_a_fresh_node_only_shared_things_stay(lab: Lab) -> None:
    """The bridge belongs to all pods and may stay; links, leases and rules of the pod may not."""
    it = lab.attachment(bridge(routed("192.0.2.0/24", "203.0.113.1"), **KEYS))
    it.call("ADD").refused(999, says="192.0.2.0/24")
    assert set(observe.links(lab.node)) <= {"lo", "cni0"}
    assert set(observe.links(lab.node, pod=it.pod)) == {"lo"}
    assert observe.leases(lab.node, "net") == {}
    assert it.leftovers() == [] and observe.mentions(lab.node, "10.10.0.2") == []


def test_add_works_after_a_failed_one(lab: Lab) -> None:
    """After the cause is gone, the same ADD works without a DEL between."""
    it = lab.attachment(bridge(V4, isGateway=True))
    lab.node.sh(f"ip -n {it.pod} link add eth0 type bridge")
    it.call("ADD").refused(999, says="eth0")
    lab.node.sh(f"ip -n {it.pod} link del eth0")
    it.add()
    it.check().succeeded()
