"""Beside the Go plugins on one node: what one set up, the other checks and takes away; both share bridges and leases.

A node moves from one to the other without restarting a pod, so every mixture below happens on the way. cnitool is the runtime,
and CNI_PATH says whose plugins it calls. The Go plugins are Debian's 1.1.1: iptables is the only masquerade backend they know.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import leftovers, snapshot
from tests.harness import observe
from tests.harness.plugin import Executables

if TYPE_CHECKING:
    from tests.e2e.conftest import Runtime

GO = Path("/usr/lib/cni")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not (GO / "bridge").exists(), reason="the Go plugins are not installed (containernetworking-plugins)"),
]

Config = dict[str, Any]

RANGES = [[{"subnet": "10.44.0.0/24"}], [{"subnet": "fd00:44::/64"}]]
HOST_LOCAL: Config = {"type": "host-local", "ranges": RANGES}
STATIC: Config = {"type": "static", "addresses": [{"address": "10.44.0.9/24"}, {"address": "fd00:44::9/64"}]}
GATEWAY: Config = {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "hairpinMode": True}

NETWORKS: dict[str, Config] = {
    "leases": {**GATEWAY, "ipam": HOST_LOCAL},
    "masquerade": {**GATEWAY, "ipMasq": True, "ipMasqBackend": "iptables", "ipam": HOST_LOCAL},
    "static": {**GATEWAY, "ipMasq": True, "ipMasqBackend": "iptables", "ipam": STATIC},
    "macspoofchk": {**GATEWAY, "macspoofchk": True, "ipam": HOST_LOCAL},
    "layer2": {"type": "bridge", "bridge": "cni0"},
    "ptp": {"type": "ptp", "ipMasq": True, "ipMasqBackend": "iptables", "ipam": HOST_LOCAL},
    "macvlan": {"type": "macvlan", "master": "eth0", "ipam": HOST_LOCAL},
    "loopback": {"type": "loopback"},
}
BY_NFTABLES: Config = {**GATEWAY, "ipMasq": True, "ipam": HOST_LOCAL}


class Mixed:
    """A node where cnitool calls ours or theirs."""

    def __init__(self, runtime: Runtime, ours: Path, folder: Path) -> None:
        self.runtime, self.node = runtime, runtime.node
        self.paths = {"ours": str(ours), "go": str(GO)}
        for name, bridge, ipam in (("our bridge", ours, GO), ("go bridge", GO, ours)):
            mixed = folder / name.replace(" ", "-")
            mixed.mkdir()
            (mixed / "bridge").symlink_to(bridge / "bridge")
            (mixed / "host-local").symlink_to(ipam / "host-local")
            self.paths[name] = str(mixed)

    def network(self, *plugins: Config, name: str = "net", version: str = "1.0.0") -> str:
        return self.runtime.network({"cniVersion": version, "name": name, "plugins": list(plugins)})

    def call(self, whose: str, verb: str, netns: str, network: str = "net") -> Config:
        return self.runtime.call(verb, network, netns, path=self.paths[whose])

    def pod(self) -> str:
        """A pod whose lo was up once, because the kernel gives lo its address then, for good."""
        netns = self.node.pod()
        self.node.sh("ip link set lo up; ip link set lo down", pod=os.path.basename(netns))
        return netns


@pytest.fixture
def mixed(runtime: Runtime, plugins: Executables, tmp_path: Path) -> Mixed:
    """A fresh node with both sets of plugins."""
    if not plugins.ours:
        pytest.skip("compares podwire with the Go plugins; --cni-bin-dir names others")
    return Mixed(runtime, plugins.folder, tmp_path)


def other(whose: str) -> str:
    return "go" if whose == "ours" else "ours"


@pytest.mark.parametrize("adder", ["ours", "go"])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_adds_the_other_checks_and_deletes(mixed: Mixed, name: str, adder: str) -> None:
    mixed.network(NETWORKS[name])
    if "master" in NETWORKS[name]:
        mixed.node.sh("ip link add eth0 type veth peer name seg0; ip link set eth0 up; ip link set seg0 up")
    netns = mixed.pod()
    before = snapshot(mixed.node)
    result = mixed.call(adder, "add", netns)
    assert len(result.get("ips", ())) == (0 if name == "layer2" else 2)
    for whose in (adder, other(adder)):
        if not (whose == "go" and name == "layer2"):  # the Go bridge's CHECK calls the IPAM plugin "" and fails on that
            mixed.call(whose, "check", netns)
    mixed.call(other(adder), "del", netns)
    if name == "macspoofchk" and adder == "ours":
        left = leftovers(before, snapshot(mixed.node), "cni0")
        assert left and all("podwire_macspoofchk" in line and "elem" in line for line in left), left
        mixed.call("ours", "del", netns)  # the Go plugins do not know our table; our DEL or GC empties it
    assert leftovers(before, snapshot(mixed.node), "cni0") == _go_spoof_skeleton(mixed, name)


@pytest.mark.parametrize("adder", ["ours", "go"])
@pytest.mark.parametrize("keys", [{}, {"snat": False}, {"markMasqBit": 5}], ids=str)
def test_ports_by_iptables(mixed: Mixed, keys: Config, adder: str) -> None:
    """One publishes ports, the other takes them back. (The Go plugin's CHECK looks for rules of IPv6 in any case.)"""
    ipam = {"type": "host-local", "subnet": "10.44.0.0/24"}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "backend": "iptables", **keys}
    mixed.runtime.network({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "ptp", "ipam": ipam}, portmap]})
    mappings = [{"hostPort": 8000 + port, "containerPort": port, "protocol": "tcp"} for port in range(80, 100)]
    mappings += [{"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"}]

    def call(whose: str, verb: str, netns: str) -> None:
        mixed.runtime.call(verb, "net", netns, path=mixed.paths[whose], caps={"portMappings": mappings})

    first, second = mixed.pod(), mixed.pod()
    call(adder, "add", first)
    call(other(adder), "del", first)
    was = mixed.node.sh("iptables-save -t nat | grep -v '^[#:]'")
    call(adder, "add", second)
    assert mixed.node.sh("iptables-save -t nat").count("-j DNAT") == len(mappings)
    call("ours", "check", second)
    call(other(adder), "del", second)
    assert mixed.node.sh("iptables-save -t nat | grep -v '^[#:]'") == was, "what all share stays, as with the Go plugin"


def _go_spoof_skeleton(mixed: Mixed, name: str) -> list[str]:
    """The Go bridge's spoof check leaves its table and base chain for ever; nothing in them belongs to a pod."""
    if name != "macspoofchk":
        return []
    kept = [entry for entry in observe.ruleset(mixed.node) if next(iter(entry.values())).get("family") == "bridge"]
    kept = [entry for entry in kept if "podwire" not in json.dumps(entry)]
    assert all("rule" not in entry and "cni-br-iface" not in json.dumps(entry) for entry in kept)
    return [f"new in nft: {entry}" for entry in sorted(json.dumps(entry, sort_keys=True) for entry in kept)]


LIMITS: dict[str, Config] = {
    "ingress": {"ingressRate": 8_000_000, "ingressBurst": 800_000},
    "egress": {"egressRate": 16_000_000, "egressBurst": 1_600_000},
    "odd": {"ingressRate": 12_345_678, "ingressBurst": 7_654_321, "egressRate": 10_000_019, "egressBurst": 1_000_003},
    "large": {"ingressRate": 50_000_000_000, "ingressBurst": 400_000_000},
    # What runtimes give for Kubernetes' annotations. More ticks than 32 bits hold.
    "annotations": {"runtimeConfig": {"bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 2_147_483_647}}},
}


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
@pytest.mark.parametrize("adder", ["ours", "go"])
@pytest.mark.parametrize("name", LIMITS)
def test_limits_of_one_for_the_other(mixed: Mixed, name: str, adder: str, version: str) -> None:
    """bandwidth: numbers, names and results are the same."""
    mixed.network(NETWORKS["ptp"], {"type": "bandwidth", **LIMITS[name]}, version=version)
    netns = mixed.pod()
    before = snapshot(mixed.node)
    mixed.call(adder, "add", netns)
    for whose in (adder, other(adder)):
        mixed.call(whose, "check", netns)
    mixed.call(other(adder), "del", netns)
    assert leftovers(before, snapshot(mixed.node)) == []


@pytest.mark.parametrize("adder", ["ours", "go"])
def test_limits_without_a_result_cache(mixed: Mixed, adder: str) -> None:
    """The other's DEL has no prevResult, as of version 0.3.1."""
    mixed.network(NETWORKS["ptp"], {"type": "bandwidth", **LIMITS["egress"]}, version="0.3.1")
    netns = mixed.pod()
    before = snapshot(mixed.node)
    mixed.call(adder, "add", netns)
    mixed.call(other(adder), "del", netns)
    assert leftovers(before, snapshot(mixed.node)) == []


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0"])
@pytest.mark.parametrize("adder", ["ours", "go"])
def test_older_versions(mixed: Mixed, adder: str, version: str) -> None:
    """The result of one is the other's prevResult, in the shape of the version."""
    mixed.network(NETWORKS["masquerade"], version=version)
    netns = mixed.pod()
    before = snapshot(mixed.node)
    mixed.call(adder, "add", netns)
    if version != "0.3.1":
        mixed.call(other(adder), "check", netns)
    mixed.call(other(adder), "del", netns)
    assert leftovers(before, snapshot(mixed.node), "cni0") == []


@pytest.mark.parametrize("adder", ["our bridge", "go bridge"])
def test_bridge_of_one_with_host_local_of_the_other(mixed: Mixed, adder: str) -> None:
    mixed.network(NETWORKS["masquerade"])
    netns = mixed.pod()
    before = snapshot(mixed.node)
    mixed.call(adder, "add", netns)
    assert len(observe.leases(mixed.node, "net")) == 2
    for whose in ("our bridge", "go bridge"):
        mixed.call(whose, "check", netns)
    mixed.call("go bridge" if adder == "our bridge" else "our bridge", "del", netns)
    assert leftovers(before, snapshot(mixed.node), "cni0") == []


def test_pods_of_both_on_one_bridge(mixed: Mixed) -> None:
    """They reach each other, the gateway and, masqueraded, the outside; neither's DEL disturbs the other's pod."""
    mixed.network(NETWORKS["masquerade"])
    mixed.node.outside()
    pods = {whose: mixed.pod() for whose in ("go", "ours", "also go", "also ours")}
    results = {name: mixed.call(name.split()[-1], "add", netns) for name, netns in pods.items()}
    addresses = {name: [entry["address"].split("/")[0] for entry in result["ips"]] for name, result in results.items()}
    assert len({address for found in addresses.values() for address in found}) == 8
    assert set(observe.addresses(mixed.node, "cni0")) == {"10.44.0.1/24", "fd00:44::1/64"}

    def reaches(name: str, *targets: str) -> None:
        for target in targets:
            assert mixed.node.pings(target, pod=os.path.basename(pods[name])), f"{name} does not reach {target}"

    world = ("10.44.0.1", "fd00:44::1", "198.51.100.2", "2001:db8:ffff::2")
    reaches("go", *addresses["ours"], *world)
    reaches("ours", *addresses["go"], *world)
    mixed.call("go", "del", pods["also ours"])
    mixed.call("ours", "del", pods["also go"])
    reaches("go", *addresses["ours"], *world)
    reaches("ours", *addresses["go"], *world)
    for name in ("go", "ours"):
        for whose in ("go", "ours"):
            mixed.call(whose, "check", pods[name])


def test_both_lease_from_one_folder_at_once(mixed: Mixed) -> None:
    """Two runtimes at work: no address twice, none lost, every DEL by the other side."""
    count = 8
    mixed.network(NETWORKS["leases"])
    pods = [mixed.pod() for _ in range(count)]
    sides = ["ours" if n % 2 else "go" for n in range(count)]
    with ThreadPoolExecutor(count) as threads:
        results = list(threads.map(lambda side, netns: mixed.call(side, "add", netns), sides, pods))
    given = [entry["address"].split("/")[0] for result in results for entry in result["ips"]]
    assert len(set(given)) == 2 * count
    assert set(observe.leases(mixed.node, "net")) == set(given)
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(lambda side, netns: mixed.call(other(side), "del", netns), sides, pods))
    assert observe.leases(mixed.node, "net") == {}


# -- tuning behind a bridge --

FILE = "/run/cni/tuning"


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
@pytest.mark.parametrize("adder", ["ours", "go"])
def test_tuning_of_one_is_undone_by_the_other(mixed: Mixed, adder: str, version: str) -> None:
    """The file of former values is one form. Sysctls are what the Go plugin does not restore."""
    tuning = {"type": "tuning", "mac": "02:00:5e:00:00:99", "mtu": 1300, "promisc": True, "allmulti": True}
    tuning["sysctl"] = {"net.ipv4.conf.eth0.arp_filter": "1"}
    plugins = [{**GATEWAY, "ipam": HOST_LOCAL}, tuning]
    mixed.runtime.network({"cniVersion": version, "name": "net", "plugins": plugins})
    netns = mixed.pod()
    before = snapshot(mixed.node)
    mixed.call(adder, "add", netns)
    if version != "0.3.1":
        for whose in ("ours", "go"):
            mixed.call(whose, "check", netns)
    pod = os.path.basename(netns)
    (path,) = (path for path, content in observe.files(mixed.node, FILE).items() if content != "folder")
    container_id = os.path.basename(path).removesuffix("_eth0.json")
    config = {**tuning, "name": "net", "cniVersion": version}
    call = {"container_id": container_id, "netns": netns, "ifname": "eth0", "node": mixed.node}
    changed = observe.links(mixed.node, pod=pod)["eth0"]
    Executables(Path(mixed.paths[other(adder)]), whose="other").call("DEL", "tuning", config, **call).succeeded()
    restored = observe.links(mixed.node, pod=pod)["eth0"]
    assert (changed["mtu"], restored["mtu"]) == (1300, 1500)
    assert restored["address"] != changed["address"] == "02:00:5e:00:00:99"
    assert {"PROMISC", "ALLMULTI"} & set(restored["flags"]) == set()
    assert (
        mixed.node.sysctl("net/ipv4/conf/eth0/arp_filter", pod=pod) == "1"
    )  # Go's file does not note it, Go's DEL does not read it
    assert path not in observe.files(mixed.node, FILE)
    mixed.call(other(adder), "del", netns)
    assert leftovers(before, snapshot(mixed.node), "cni0") == []


# -- masquerade by nftables, which these Go plugins know nothing of --


def elements(mixed: Mixed) -> set[str]:
    """The addresses in our masquerade table, each once."""
    found: set[str] = set()
    for entry in observe.ruleset(mixed.node):
        ((_, body),) = entry.items()
        for element in body.get("elem", []) if body.get("table") == "podwire_masquerade" else []:
            key = element[0] if isinstance(element, list) else element
            found.add(key["elem"]["val"] if isinstance(key, dict) else key)
    return found


@pytest.fixture
def orphaned(mixed: Mixed) -> tuple[Mixed, str]:
    """A pod that ours added and the Go plugins deleted: all is gone but its elements. The node and the pod.

    The first DEL of these Go plugins fails, after link and lease are gone: iptables tells them of a missing chain with words
    and a status that they do not know. The second one finds no link and succeeds.
    """
    mixed.network(BY_NFTABLES)
    netns = mixed.pod()
    before = snapshot(mixed.node)
    mixed.call("ours", "add", netns)
    mixed.call("go", "check", netns)
    assert elements(mixed) == {"10.44.0.2", "fd00:44::2"}
    told = mixed.runtime.refused("del", "net", netns, path=mixed.paths["go"])
    assert "Chain 'CNI-" in told and "does not exist" in told
    mixed.call("go", "del", netns)
    assert elements(mixed) == {"10.44.0.2", "fd00:44::2"}
    left = leftovers(before, snapshot(mixed.node), "cni0")
    assert all(line.startswith("new in nft") and "elem" in line for line in left), left
    return mixed, netns


def test_orphaned_elements_go_with_our_del(orphaned: tuple[Mixed, str]) -> None:
    """Runtimes repeat DEL. Ours is told no address then (the tool's cache is gone), and finds them by their label."""
    mixed, netns = orphaned
    mixed.call("ours", "del", netns)
    assert elements(mixed) == set()


def test_orphaned_elements_go_with_our_gc(orphaned: tuple[Mixed, str], plugins: Executables) -> None:
    mixed, _ = orphaned
    config = {**BY_NFTABLES, "name": "net", "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
    plugins.call("GC", "bridge", config, container_id="", netns="", ifname="", node=mixed.node).succeeded()
    assert elements(mixed) == set()


def test_orphaned_elements_go_to_the_next_pod_of_the_address(orphaned: tuple[Mixed, str]) -> None:
    """They are the new pod's from its ADD on, and go with its DEL; a late DEL of the old pod does not take them away."""
    mixed, old = orphaned
    netns = mixed.pod()
    mixed.node.sh("rm -r /var/lib/cni/networks")  # so that the same address comes at once, without a round through the range
    result = mixed.call("ours", "add", netns)
    assert [entry["address"] for entry in result["ips"]] == ["10.44.0.2/24", "fd00:44::2/64"]
    mixed.call("ours", "check", netns)
    mixed.call("ours", "del", old)
    assert elements(mixed) == {"10.44.0.2", "fd00:44::2"}
    mixed.call("ours", "check", netns)
    mixed.call("ours", "del", netns)
    assert elements(mixed) == set()


def test_go_masquerade_satisfies_our_configuration(mixed: Mixed) -> None:
    """The same file before and after the move: pods of the Go plugins pass our CHECK and vanish with our DEL."""
    mixed.network(BY_NFTABLES)
    netns = mixed.pod()
    before = snapshot(mixed.node)
    mixed.call("go", "add", netns)
    mixed.call("ours", "check", netns)
    assert elements(mixed) == set()
    mixed.call("ours", "del", netns)
    assert leftovers(before, snapshot(mixed.node), "cni0") == []
