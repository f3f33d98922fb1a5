"""Chains: several plugins, one after the other, for one pod. What they do together, and what is left when one fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe, traffic
from tests.harness.node import NODE_V4, NODE_V6, OUTSIDE, OUTSIDE_V4, OUTSIDE_V6
from tests.netns.conftest import DEFAULT_ROUTES, DUAL, VERSION, gateway, ptp

if TYPE_CHECKING:
    from tests.netns.conftest import Config, Lab

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("own_promise")]

PORTS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
MAC = "02:00:00:00:00:99"


def member(kind: str, **keys: Any) -> Config:
    """A chained plugin's configuration."""
    return {"cniVersion": VERSION, "name": "net", "type": kind, **keys}


PORTMAP = member("portmap", runtimeConfig={"portMappings": PORTS})
BANDWIDTH = member("bandwidth", ingressRate=80_000_000, ingressBurst=8_000_000, egressRate=80_000_000, egressBurst=8_000_000)
TUNING = member("tuning", mac=MAC, mtu=1400, sysctl={"net.ipv4.conf.IFNAME.arp_filter": "1"})
FIREWALL = member("firewall")
BRIDGE = gateway(DUAL, ipMasq=True, hairpinMode=True)
PTP = ptp({**DUAL, "routes": DEFAULT_ROUTES}, ipMasq=True)

CHAINS: dict[str, list[Config]] = {
    "all behind bridge": [BRIDGE, PORTMAP, BANDWIDTH, TUNING, FIREWALL],
    "all behind bridge, turned": [{**BRIDGE, "macspoofchk": True}, FIREWALL, TUNING, BANDWIDTH, PORTMAP],
    "kind": [{**PTP, "ipMasq": False}, PORTMAP],
    "podman": [BRIDGE, PORTMAP, member("firewall"), member("tuning")],
    "all behind ptp": [PTP, BANDWIDTH, PORTMAP, TUNING, FIREWALL],
}


@pytest.mark.parametrize("name", CHAINS)
def test_all_of_them_work_and_leave_nothing(lab: Lab, name: str) -> None:
    """The pod is reached from outside and reaches outside, over both families; CHECK of all is content; DEL leaves nothing of
    the pod, and what another one has.
    """
    lab.node.outside()
    lab.node.sh("ip route add 10.10.0.0/24 via " + NODE_V4 + "; ip route add fd00:10::/64 via " + NODE_V6, pod=OUTSIDE)
    configs = CHAINS[name]
    other = lab.chained(*[_other_ports(config) for config in configs])
    it = lab.chained(*configs)
    it.check()
    for address in it.first.addresses:
        traffic.start(lab.node, traffic.SERVE, address, "80", "tcp", pod=it.first.pod)
    for target in (OUTSIDE_V4, OUTSIDE_V6):
        traffic.start(lab.node, traffic.SERVE, target, "7000", "tcp", pod=OUTSIDE)
        assert traffic.reached(lab.node, target, 7000, pod=it.first.pod), f"the pod does not reach {target}"
    for target, source in ((NODE_V4, OUTSIDE_V4), (NODE_V6, OUTSIDE_V6)):
        assert traffic.reached(lab.node, target, 8080, pod=OUTSIDE) == source
    it.delete()
    assert it.first.leftovers() == []
    other.check()
    it.delete()
    other.delete()
    assert other.first.leftovers() == []


def _other_ports(config: Config) -> Config:
    if config["type"] == "tuning" and "mac" in config:
        return {**config, "mac": "02:00:00:00:00:98"}
    mappings = [{**mapping, "hostPort": mapping["hostPort"] + 1} for mapping in PORTS]
    return {**config, "runtimeConfig": {"portMappings": mappings}} if config["type"] == "portmap" else config


@pytest.mark.parametrize("at", range(1, 5))
@pytest.mark.parametrize("name", ["all behind bridge", "all behind bridge, turned"])
def test_one_fails_in_add(lab: Lab, name: str, at: int) -> None:
    """It leaves nothing itself, and what a runtime does then, DEL of all, leaves nothing of the others."""
    good = CHAINS[name]
    lab.chained(*map(_other_ports, good)).delete()  # what stays on purpose is there
    collect(lab, good)
    before = lab.snapshot()
    configs = [*good[:at], FAILING[good[at]["type"]], *good[at + 1 :]]
    it = lab.chain(*configs)
    lab.node.sh(f"ip link add taken0 type veth peer name eth9 netns {it.first.pod}")
    result: Any = None
    for number, one in enumerate(it.members):
        given = one.config if result is None else {**one.config, "prevResult": result}
        if number == at:
            as_before = lab.snapshot()
            assert one.call("ADD", given).status == 1
            lab.unchanged_since(as_before)
            break
        result = one.add(config=given)
    for one in reversed(it.members):
        one.call("DEL", {**one.config, **({"prevResult": result} if result else {})}).succeeded()
    lab.node.sh("ip link del taken0")
    lab.node.remove_pod(it.first.netns)
    collect(lab, good)
    assert observe.difference(before, lab.snapshot()) == []


def collect(lab: Lab, configs: list[Config], *valid: str) -> None:
    """GC of all; the containers that are in use."""
    attachments = [{"containerID": container_id, "ifname": "eth0"} for container_id in valid]
    for config in configs:
        lab.call("GC", {**config, "cniVersion": "1.1.0", "cni.dev/valid-attachments": attachments}).succeeded()


FAILING: dict[str, Config] = {
    "portmap": member("portmap", conditionsV4=["no", "match"], runtimeConfig={"portMappings": PORTS}),
    "bandwidth": member("bandwidth", ingressRate=1),
    "tuning": member("tuning", mtu=1400, sysctl={"net.no.such.thing": "1"}),
    "firewall": member("firewall", backend="iptables", iptablesAdminChainName="x" * 300),
}


@pytest.mark.parametrize("name", ["all behind bridge", "kind"])
def test_del_of_each_goes_on(lab: Lab, name: str) -> None:
    """Whatever is missing: the namespace, the links, the rules, the result. The last DEL leaves nothing, as the first."""
    it, gone = lab.chained(*CHAINS[name]), lab.chained(*map(_other_ports, CHAINS[name]))
    lab.node.remove_pod(gone.first.netns)
    lab.node.sh("nft flush ruleset; rm -rf /run/cni")
    for chain in (it, gone):
        for one in reversed(chain.members):
            one.call("DEL", one.config, netns="" if chain is gone else one.netns).succeeded()
        assert chain.first.leftovers() == []


@pytest.mark.parametrize("name", ["all behind bridge", "kind"])
def test_gc_of_each_collects_what_del_did_not(lab: Lab, name: str) -> None:
    """A runtime that stopped at the DEL of somebody else's plugin, or was killed: GC of all takes what is not valid."""
    dead, alive = lab.chained(*CHAINS[name]), lab.chained(*map(_other_ports, CHAINS[name]))
    collect(lab, CHAINS[name], alive.first.container_id)
    assert dead.first.leftovers() == []
    alive.check()


def test_a_chain_that_is_added_again(lab: Lab) -> None:
    """After DEL of all, with the same container and the same ports."""
    it = lab.chained(*CHAINS["all behind bridge"])
    for _ in range(3):
        it.delete()
        it.add()
    it.check()
