"""ADDs that fail, are killed or come at once on bridges with VLANs: nothing is left, nothing of others is touched."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import holds_something
from tests.harness import observe
from tests.harness.node import PATH
from tests.machine.vlan import BRIDGE, NATIVE, attach, call, checked, fixed, host_port, network, snapshot, vlans

if TYPE_CHECKING:
    from tests.harness.node import Node
    from tests.harness.plugin import Executables

GATEWAY = f"{BRIDGE}.100"
POOL: dict[str, Any] = {"type": "host-local", "subnet": "10.9.0.0/24"}
# The route is the last thing that a pod's interface gets: port and VLANs are there by then, the gateway is not.
NO_SUCH_ROUTE = {**POOL, "routes": [{"dst": "192.0.2.0/24", "gw": "203.0.113.1"}]}

FAILING: dict[str, dict[str, Any]] = {
    "vlan": {"vlan": 100, "isGateway": True, "ipMasq": True, "macspoofchk": True, "ipam": NO_SUCH_ROUTE},
    "vlan-and-trunk": {"vlan": 100, "vlanTrunk": [{"minID": 10, "maxID": 20}], "ipam": NO_SUCH_ROUTE},
    "trunk": {"vlanTrunk": [{"minID": 1, "maxID": 4094}], "promiscMode": True, "ipam": NO_SUCH_ROUTE},
}
STAYS = "a failed ADD leaves links, bridge and VLAN filtering (containernetworking/plugins#29)"

# A bridge that is given an address keeps it; another's address follows its ports.
MADE = f"ip link add {BRIDGE} address 02:00:00:00:00:01 type bridge; ip link set {BRIDGE} up"
BEFORE = {
    "no-bridge": "true",
    "bridge-filters": f"{MADE}; ip link set {BRIDGE} type bridge vlan_filtering 1",
    "bridge-does-not-filter": MADE,
}


@pytest.mark.known_reference_failure(STAYS)
@pytest.mark.parametrize("prepare", BEFORE)
@pytest.mark.parametrize("name", FAILING)
def test_a_failed_add_takes_all_back(plugins: Executables, node: Node, name: str, prepare: str) -> None:
    """Ports, VLANs, filtering, leases and rules are as before, whether the bridge was there or not."""
    node.sh(BEFORE[prepare])
    node.pod("blue")
    before = snapshot(node)
    plugins.call("ADD", "bridge", network(**FAILING[name]), **call(node, "blue")).refused(999, "192.0.2.0/24")
    assert observe.leases(node, "net") == {}
    assert differences(before, snapshot(node)) == []


@pytest.mark.known_reference_failure(STAYS)
@pytest.mark.parametrize("prepare", BEFORE)
def test_a_gateway_is_taken_back(plugins: Executables, node: Node, prepare: str) -> None:
    """The last step of all fails: by then the VLAN's gateway is there, with its address and masquerade."""
    node.sh(BEFORE[prepare])
    node.pod("blue")
    # Forwarding cannot be switched on.
    node.sh(
        "echo 0 >/run/off; mount --bind /run/off /proc/sys/net/ipv4/ip_forward; mount -o remount,bind,ro"
        " /proc/sys/net/ipv4/ip_forward"
    )
    before = snapshot(node)
    config = network(vlan=100, isGateway=True, ipMasq=True, ipam=POOL)
    plugins.call("ADD", "bridge", config, **call(node, "blue")).refused(999, "ip_forward")
    assert observe.leases(node, "net") == {}
    assert differences(before, snapshot(node)) == []


@pytest.mark.known_reference_failure(STAYS)
def test_a_failed_add_beside_others(plugins: Executables, node: Node) -> None:
    """Pods of the VLAN, their gateway and its other address stay untouched."""
    config = network(vlan=100, isGateway=True, ipam=POOL)
    result = attach(plugins, node, "red", config)
    node.pod("blue")
    before = snapshot(node)
    bad = network(vlan=100, isGateway=True, ipam=fixed("10.8.0.5/24", gateway="10.8.0.1"))
    plugins.call("ADD", "bridge", bad, **call(node, "blue")).refused(999, f"{GATEWAY}.*10.9.0.1/24.*forceAddress")
    assert differences(before, snapshot(node)) == []
    assert node.pings("10.9.0.1", pod="red", seconds=5)
    plugins.call("CHECK", "bridge", checked(config, result), **call(node, "red")).succeeded()


def test_the_first_pods_of_a_vlan_come_at_once(plugins: Executables, node: Node) -> None:
    """One bridge, one gateway, nobody fails."""
    config = network(vlan=100, isGateway=True, ipam=POOL)
    pods = [f"pod-{number}" for number in range(6)]
    for pod in pods:
        node.pod(pod)
    outcomes = [answer(child) for child in [start(plugins, node, "ADD", config, pod) for pod in pods]]
    assert [told for status, told in outcomes if status] == []
    assert {told["interfaces"][3]["mac"] for _, told in outcomes} == {observe.links(node)[GATEWAY]["address"]}
    for pod, (_, told) in zip(pods, outcomes, strict=True):
        assert vlans(node, host_port(told))[100] == NATIVE
        assert node.pings("10.9.0.1", pod=pod, seconds=5)


KILLS = 10


def test_killed_at_any_instant(plugins: Executables, node: Node) -> None:
    """Half of the kills hit ADD, half DEL; each ADD may have to make the bridge anew. DEL repairs, and the next pod works."""
    if not plugins.ours:
        pytest.skip("promises of podwire; other plugins do not make them")
    config = network(vlan=100, vlanTrunk=[{"minID": 10, "maxID": 20}], isGateway=True, ipMasq=True, ipam=POOL)
    instants = random.Random("vlan")
    node.pod("blue")
    durations: dict[str, list[float]] = {"ADD": [], "DEL": []}
    for verb in ("ADD", "DEL") * 3:
        begun = time.monotonic()
        good(plugins, node, verb, config, "blue")
        durations[verb].append(time.monotonic() - begun)
    killed, halfway, ports = {"ADD": 0, "DEL": 0}, 0, {"lo", BRIDGE, GATEWAY}
    while min(killed.values()) < KILLS:
        verb = "ADD" if killed["ADD"] <= killed["DEL"] else "DEL"
        if verb == "DEL":
            good(plugins, node, "ADD", config, "blue")
        elif killed[verb] % 2:
            node.sh(f"ip link del {BRIDGE}; ip link del {GATEWAY} 2>/dev/null || true")
        # The first third of a call is the interpreter's start.
        part = 0.35 + 0.65 * (killed[verb] + instants.random()) / KILLS
        after = statistics.median(durations[verb][-3:]) * part
        begun = time.monotonic()
        child = start(plugins, node, verb, config, "blue")
        try:
            child.wait(after)
            durations[verb].append(time.monotonic() - begun)  # the machine is faster than it was
        except subprocess.TimeoutExpired:
            child.kill()
        child.communicate(timeout=60)
        assert child.returncode in (0, -9), child.returncode
        killed[verb] += child.returncode == -9
        halfway += child.returncode == -9 and bool(observe.links(node).keys() - ports or observe.leases(node, "net"))
        if verb == "ADD" and killed[verb] % 3 == 0 and child.returncode:
            node.remove_pod("/run/netns/blue")  # a runtime may take the sandbox away first
            good(plugins, node, "DEL", config, "blue")
            node.pod("blue")
        else:
            good(plugins, node, "DEL", config, "blue")
        assert observe.links(node).keys() <= ports, f"after {killed}, {verb} at {after:.2f} s"
        assert observe.leases(node, "net") == {}
        assert [entry for entry in observe.ruleset(node) if holds_something(entry)] == []
    assert halfway, "no kill hit an ADD at work: the test does not test anything"
    result = good(plugins, node, "ADD", config, "blue")
    assert vlans(node, host_port(result))[100] == NATIVE
    assert node.pings("10.9.0.1", pod="blue", seconds=5), "a gateway that was left half-made stays broken"
    good(plugins, node, "CHECK", checked(config, result), "blue")


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What changed, but for host-local's folder, forwarding, and tables of ours without an element."""
    found = observe.difference({**before, "nft": 0}, {**after, "nft": 0})
    told = [line for line in found if not line.startswith(("/files//var/lib/cni", "/sysctls/"))]
    return told + [entry for entry in after["nft"] if holds_something(json.loads(entry))]


def start(plugins: Executables, node: Node, verb: str, config: dict[str, Any], pod: str) -> subprocess.Popen[bytes]:
    """A call under way; nsenter becomes the program, so its pid is the program's."""
    child = subprocess.Popen(
        node.argv([str(plugins.folder / "bridge")]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={
            "PATH": PATH,
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": pod,
            "CNI_NETNS": f"/run/netns/{pod}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(plugins.folder),
        },
    )
    assert child.stdin
    child.stdin.write(json.dumps(config).encode())
    child.stdin.close()
    child.stdin = None
    return child


def answer(child: subprocess.Popen[bytes]) -> tuple[int, Any]:
    """How a call ended: status, and the document on stdout (None when it is empty)."""
    out, _ = child.communicate(timeout=120)
    return child.returncode, json.loads(out) if out else None


def good(plugins: Executables, node: Node, verb: str, config: dict[str, Any], pod: str) -> Any:
    """A call that must succeed; its result."""
    status, document = answer(start(plugins, node, verb, config, pod))
    assert status == 0, f"{verb} of {pod}: {document}"
    return document
