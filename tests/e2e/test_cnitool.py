"""The official cnitool calls our plugins: every ready-to-use list, several versions, capabilities, CNI_ARGS, chains."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import CONF, conflist, join_segment, leftovers, snapshot
from tests.harness import observe

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Runtime
    from tests.harness.node import Node
    from tests.harness.plugin import Executables

pytestmark = pytest.mark.root

Config = dict[str, Any]

VERSIONS = ("0.3.1", "0.4.0", "1.0.0")
LISTS = sorted(path.stem for path in CONF.glob("*.conflist"))
VLAN = ("bridge-vlan-access", "bridge-vlan-trunk")

# Nobody has the gateway's address: it is a router's, or a name for the next hop only.
NO_GATEWAY = ("bridge-plain", "host-gw", "macvlan")

MAC = "02:00:5e:10:00:01"


@pytest.fixture(autouse=True)
def own_promise(plugins: Executables) -> None:
    """These are ready-to-use lists for podwire; other plugins lack some keys."""
    if not plugins.ours:
        pytest.skip("configurations made for podwire")


def filters_vlans(runtime: Runtime) -> bool:
    """Whether this kernel's bridges can filter VLANs."""
    made = runtime.node.run("ip", "link", "add", "try0", "type", "bridge", "vlan_filtering", "1", check=False)
    if not made.returncode:
        runtime.node.run("ip", "link", "del", "try0")
    return not made.returncode


def add_master(node: Node) -> None:
    """The interface that conf/macvlan.conflist names, on a segment where nobody is."""
    node.sh("ip link add eth0 type veth peer name seg9; ip link set eth0 up; ip link set seg9 up")


def seen_in(runtime: Runtime, netns: str, ifname: str) -> dict[str, Any]:
    """The pod's interface, with its addresses as `address/length`."""
    pod = netns.rpartition("/")[2]
    link = observe.links(runtime.node, pod=pod)[ifname]
    return {
        "mac": link["address"],
        "up": "UP" in link["flags"],
        "addresses": set(observe.addresses(runtime.node, ifname, pod=pod)),
    }


def agrees_with_kernel(runtime: Runtime, result: Config, netns: str) -> None:
    """Assert that the pod has exactly what the result says."""
    inside = [entry for entry in result.get("interfaces", ()) if entry.get("sandbox")]
    assert len(inside) == 1
    seen = seen_in(runtime, netns, inside[0]["name"])
    assert seen["up"]
    assert seen["mac"] == inside[0]["mac"]
    assert seen["addresses"] == {entry["address"] for entry in result.get("ips", ())}


@pytest.mark.parametrize("name", [name for name in LISTS if name not in VLAN])
def test_add_check_del_del(runtime: Runtime, name: str) -> None:
    """With every version: what was promised is there, CHECK agrees, and after DEL nothing is left; DEL again is fine."""
    document = conflist(name)
    plugin = document["plugins"][0]
    netns = runtime.node.pod()
    if plugin["type"] == "loopback":  # the kernel gives lo its address when it comes up first, for good
        runtime.node.sh("ip link set lo up; ip link set lo down", pod=netns.rpartition("/")[2])
    join_segment(runtime.node, 0)
    add_master(runtime.node)
    before = snapshot(runtime.node)
    for version in VERSIONS:
        network = runtime.network({**document, "cniVersion": version})
        result = runtime.call("add", network, netns)
        assert result["cniVersion"] == version
        agrees_with_kernel(runtime, result, netns)
        if version == "0.3.1":
            assert "does not support the CHECK command" in runtime.refused("check", network, netns)
        else:
            runtime.call("check", network, netns)
        runtime.call("del", network, netns)
        runtime.call("del", network, netns)
        assert leftovers(before, snapshot(runtime.node), plugin.get("bridge", "")) == []


@pytest.mark.parametrize("name", VLAN)
def test_vlans_are_refused_where_the_kernel_has_none(runtime: Runtime, name: str) -> None:
    """A clear error and nothing left. VLANs themselves are tested on a fuller kernel, in tests/machine."""
    if filters_vlans(runtime):
        pytest.skip("this kernel filters VLANs, so there is nothing to refuse")
    network = runtime.network(conflist(name))
    netns = runtime.node.pod()
    before = snapshot(runtime.node)
    told = runtime.refused("add", network, netns)
    assert "this kernel has no bridge VLAN filtering" in told
    asked = {key for plugin in conflist(name)["plugins"] for key in plugin if key in ("vlan", "vlanTrunk")}
    assert asked and all(f"'{key}'" in told for key in asked)
    assert snapshot(runtime.node) == before
    runtime.call("del", network, netns)
    assert snapshot(runtime.node) == before


def test_every_list_at_once(runtime: Runtime) -> None:
    """All of them in one node, as their README says; the pods of each reach their gateway."""
    added = []
    join_segment(runtime.node, 0)
    add_master(runtime.node)
    before = snapshot(runtime.node)
    for name in LISTS:
        document = conflist(name)
        if name in VLAN or document["plugins"][0]["type"] == "loopback":
            continue
        network = runtime.network(document)
        netns = runtime.node.pod()
        result = runtime.call("add", network, netns)
        added.append((network, netns))
        for gateway in {entry.get("gateway") for entry in result.get("ips", ())} - {None}:
            reachable = runtime.node.pings(gateway, pod=netns.rpartition("/")[2], seconds=1)
            assert reachable == (name not in NO_GATEWAY), f"{name}: {gateway}"
    for network, netns in added:
        if network != "pods-031":
            runtime.call("check", network, netns)
    for network, netns in added:
        runtime.call("del", network, netns)
        runtime.node.remove_pod(netns)
    bridges = {conflist(name)["plugins"][0].get("bridge", "") for name in LISTS}
    after = snapshot(runtime.node)
    for bridge in bridges & set(after["node links"]):
        assert after["node links"].pop(bridge)["kind"] == "bridge"
    after["node routes"] = [route for route in after["node routes"] if json.loads(route)["dev"] not in bridges]
    assert leftovers(before, after) == []


# -- capabilities --


def test_capability_ips_and_mac_with_static(runtime: Runtime) -> None:
    network = runtime.network(conflist("bridge-static"))
    netns = runtime.node.pod()
    caps = {"ips": ["10.111.6.77/24", "fd00:111:6::77/64"], "mac": MAC}
    result = runtime.call("add", network, netns, caps=caps)
    agrees_with_kernel(runtime, result, netns)
    assert [(entry["address"], entry["gateway"]) for entry in result["ips"]] == [
        ("10.111.6.77/24", "10.111.6.1"),
        ("fd00:111:6::77/64", "fd00:111:6::1"),
    ]
    assert result["interfaces"][2]["mac"] == MAC
    runtime.call("check", network, netns, caps=caps)
    runtime.call("del", network, netns, caps=caps)


def test_capability_ips_with_host_local(runtime: Runtime) -> None:
    network = runtime.network(conflist("bridge-ranges"))
    netns, other = runtime.node.pod(), runtime.node.pod()
    caps = {"ips": ["10.111.7.150", "fd00:111:7::1abc"]}
    result = runtime.call("add", network, netns, caps=caps)
    agrees_with_kernel(runtime, result, netns)
    assert {entry["address"] for entry in result["ips"]} == {"10.111.7.150/24", "fd00:111:7::1abc/64"}
    told = runtime.refused("add", network, other, caps=caps)
    assert "requested IP address 10.111.7.150 is not available" in told
    assert set(observe.leases(runtime.node, network)) == {"10.111.7.150", "fd00:111:7::1abc"}
    runtime.call("del", network, netns, caps=caps)
    runtime.call("del", network, other, caps=caps)
    assert observe.leases(runtime.node, network) == {}


def test_capability_ip_ranges(runtime: Runtime) -> None:
    """Ranges of the runtime come before those of the list; the result's order shows it."""
    network = runtime.network(conflist("bridge-ranges"))
    netns = runtime.node.pod()
    caps = {"ipRanges": [[{"subnet": "10.99.0.0/24"}]]}
    result = runtime.call("add", network, netns, caps=caps)
    agrees_with_kernel(runtime, result, netns)
    assert [entry["address"] for entry in result["ips"]] == ["10.99.0.2/24", "10.111.7.20/24", "fd00:111:7::1000/64"]
    runtime.call("check", network, netns, caps=caps)
    runtime.call("del", network, netns)  # without them: a runtime that lost its cache
    assert observe.leases(runtime.node, network) == {}


def test_port_mappings_are_not_ours(runtime: Runtime) -> None:
    """A capability of a plugin further down the chain changes nothing here, declared or not."""
    document = conflist("bridge-ipv4")
    document["plugins"][0]["capabilities"] = {"portMappings": True, "mac": True}
    network = runtime.network(document)
    netns = runtime.node.pod()
    mapping = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
    caps = {"portMappings": [mapping], "mac": MAC, "bandwidth": {"ingressRate": 1000}}
    result = runtime.call("add", network, netns, caps=caps)
    assert result["interfaces"][2]["mac"] == MAC
    assert observe.mentions(runtime.node, "8080") == []
    runtime.call("check", network, netns, caps=caps)
    runtime.call("del", network, netns, caps=caps)


def test_args_of_the_list(runtime: Runtime) -> None:
    """What an orchestrator writes into a list's ``args.cni`` (CNI conventions) needs no capability and no CNI_ARGS."""
    document = conflist("bridge-ranges")
    document["plugins"][0]["args"] = {"cni": {"ips": ["10.111.7.130", "fd00:111:7::1111"], "mac": MAC, "labels": []}}
    network = runtime.network(document)
    netns = runtime.node.pod()
    result = runtime.call("add", network, netns)
    agrees_with_kernel(runtime, result, netns)
    assert {entry["address"] for entry in result["ips"]} == {"10.111.7.130/24", "fd00:111:7::1111/64"}
    assert result["interfaces"][2]["mac"] == MAC
    runtime.call("check", network, netns)
    runtime.call("del", network, netns)


# -- CNI_ARGS --


@pytest.mark.parametrize("args", ["IP=10.111.7.30;MAC=" + MAC, "IgnoreUnknown=1;K8S_POD_NAME=web-0;IP=10.111.7.30;MAC=" + MAC])
def test_cni_args(runtime: Runtime, args: str) -> None:
    network = runtime.network(conflist("bridge-ranges"))
    netns = runtime.node.pod()
    result = runtime.call("add", network, netns, args=args)
    agrees_with_kernel(runtime, result, netns)
    assert result["ips"][0]["address"] == "10.111.7.30/24"
    assert result["interfaces"][2]["mac"] == MAC
    runtime.call("check", network, netns, args=args)
    runtime.call("del", network, netns, args=args)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("K8S_POD_NAME=web-0", "unknown args"),
        ("MAC=02:00", "invalid MAC in CNI_ARGS"),
        ("IP=10.111.7.300", "invalid IP address 10.111.7.300"),
        ("IP=10.111.7.1", "not available|subnet's gateway|failed to allocate"),
        ("IP=192.0.2.1", "failed to allocate all requested IPs: 192.0.2.1"),
    ],
)
def test_bad_cni_args_leave_nothing(runtime: Runtime, args: str, says: str) -> None:
    network = runtime.network(conflist("bridge-ranges"))
    netns = runtime.node.pod()
    before = snapshot(runtime.node)
    told = runtime.refused("add", network, netns, args=args)
    assert any(part in told for part in says.split("|")), told
    assert snapshot(runtime.node) == before


def test_second_add_is_refused(runtime: Runtime) -> None:
    """The attachment that is there stays as it is (spec section 3, "ADD": an existing interface is an error)."""
    network = runtime.network(conflist("bridge-dual-stack"))
    netns = runtime.node.pod()
    runtime.call("add", network, netns)
    before = snapshot(runtime.node)
    assert "interface 'eth0' already exists in sandbox" in runtime.refused("add", network, netns)
    assert snapshot(runtime.node) == before
    runtime.call("check", network, netns)


def test_interface_name(runtime: Runtime) -> None:
    """Two interfaces of one pod on one network; each is checked and deleted by itself."""
    network = runtime.network(conflist("bridge-dual-stack"))
    netns = runtime.node.pod()
    first = runtime.call("add", network, netns)
    before = snapshot(runtime.node)
    second = runtime.call("add", network, netns, ifname="net1")
    assert not {e["address"] for e in first["ips"]} & {e["address"] for e in second["ips"]}
    runtime.call("check", network, netns, ifname="net1")
    runtime.call("del", network, netns, ifname="net1")
    assert leftovers(before, snapshot(runtime.node), "cni-dual") == []
    runtime.call("check", network, netns)


# -- chains --

PASS_THROUGH = """#!/bin/sh
# A plugin of somebody else: it notes what it was called with, and hands the result on.
cat >"$0.stdin"
echo "$CNI_COMMAND $CNI_IFNAME" >>"$0.calls"
case $CNI_COMMAND in
ADD) {fail}; python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["prevResult"]))' <"$0.stdin" ;;
esac
"""


def chain(runtime: Runtime, folder: Path, fail: str = ":") -> tuple[str, Path]:
    """A list of bridge and another's plugin, which ends ADD by ``fail``; the network and the plugin."""
    other = folder / "pass-through"
    other.write_text(PASS_THROUGH.replace("{fail}", fail))
    other.chmod(0o755)
    document = conflist("bridge-dual-stack")
    document["plugins"].append({"type": "pass-through", "key": "of somebody else"})
    runtime.path += f":{shlex.quote(str(folder))}"
    return runtime.network(document), other


def test_chain_with_another_plugin(runtime: Runtime, tmp_path: Path) -> None:
    network, other = chain(runtime, tmp_path)
    netns = runtime.node.pod()
    before = snapshot(runtime.node)
    result = runtime.call("add", network, netns)
    agrees_with_kernel(runtime, result, netns)
    given = json.loads((tmp_path / "pass-through.stdin").read_text())
    assert given["prevResult"] == result
    runtime.call("check", network, netns)
    runtime.call("del", network, netns)
    runtime.call("del", network, netns)
    assert leftovers(before, snapshot(runtime.node), "cni-dual") == []
    assert other.with_suffix(".calls").read_text().split("\n")[:-1] == ["ADD eth0", "CHECK eth0", "DEL eth0", "DEL eth0"]


def test_chain_whose_later_plugin_fails(runtime: Runtime, tmp_path: Path) -> None:
    """libcni undoes nothing: the runtime calls DEL, and that finds everything without a cached result."""
    network, _ = chain(runtime, tmp_path, fail="""echo '{"code": 100, "msg": "no luck"}'; exit 1""")
    netns = runtime.node.pod()
    before = snapshot(runtime.node)
    assert "no luck" in runtime.refused("add", network, netns)
    assert observe.leases(runtime.node, network)
    runtime.call("del", network, netns)
    assert leftovers(before, snapshot(runtime.node), "cni-dual") == []


CAPS = {
    "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
    "bandwidth": {"ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 80_000_000, "egressBurst": 8_000_000},
    "mac": MAC,
}


def long_chain(runtime: Runtime, folder: Path, at: int, fail: str = ":", verb: str = "ADD") -> str:
    """The list of all chained plugins with another's plugin before the one at ``at``; it fails by ``fail`` when it is called
    for a verb; the network.
    """
    other = folder / "pass-through"
    other.write_text(PASS_THROUGH.replace("{fail}", fail if verb == "ADD" else ":"))
    if verb == "DEL":
        other.write_text(other.read_text().replace("esac", f"DEL) {fail} ;;\nesac"))
    other.chmod(0o755)
    document = conflist("bridge-chain")
    document["plugins"].insert(at, {"type": "pass-through"})
    runtime.path += f":{shlex.quote(str(folder))}"
    return runtime.network(document)


@pytest.mark.parametrize("at", range(1, 6))
def test_long_chain_with_another_plugin(runtime: Runtime, tmp_path: Path, at: int) -> None:
    """Wherever it stands, everybody's result reaches everybody, and what capabilities ask for is there."""
    network = long_chain(runtime, tmp_path, at)
    netns = runtime.node.pod()
    result = runtime.call("add", network, netns, caps=CAPS)
    assert seen_in(runtime, netns, "eth0")["mac"] == MAC
    assert [entry["name"][:3] for entry in result["interfaces"]] == ["cni", "vet", "eth", "bwp"]
    for table in ("podwire_portmap", "podwire_firewall", "podwire_masquerade"):
        assert "podwire/pods-chain/" in runtime.node.sh(f"nft list table inet {table}")
    runtime.call("check", network, netns, caps=CAPS)
    runtime.call("del", network, netns, caps=CAPS)
    assert "podwire/pods-chain/" not in runtime.node.sh("nft list ruleset; ip -d link")
    assert not observe.leases(runtime.node, network)
    runtime.call("del", network, netns, caps=CAPS)


@pytest.mark.parametrize("at", [1, 3, 6])
def test_long_chain_that_fails_half_way(runtime: Runtime, tmp_path: Path, at: int) -> None:
    """DEL of all takes back what those before had done, and is content with those who were never asked."""
    network = long_chain(runtime, tmp_path, at, fail="""echo '{"code": 100, "msg": "no luck"}'; exit 1""")
    netns = runtime.node.pod()
    assert "no luck" in runtime.refused("add", network, netns, caps=CAPS)
    runtime.call("del", network, netns, caps=CAPS)
    assert "podwire/pods-chain/" not in runtime.node.sh("nft list ruleset; ip -d link")
    assert not observe.leases(runtime.node, network)


def test_long_chain_whose_del_is_stopped_by_another(runtime: Runtime, plugins: Executables, tmp_path: Path) -> None:
    """libcni stops at the plugin that fails. The runtime tries again, and GC of a newer one collects what is left."""
    network = long_chain(runtime, tmp_path, 3, fail="""echo '{"code": 100, "msg": "no luck"}'; exit 1""", verb="DEL")
    netns = runtime.node.pod()
    runtime.call("add", network, netns, caps=CAPS)
    for _ in range(2):
        assert "no luck" in runtime.refused("del", network, netns, caps=CAPS)
    assert observe.leases(runtime.node, network)
    nothing = {"container_id": "", "netns": "", "ifname": "", "node": runtime.node}
    for member in conflist("bridge-chain")["plugins"]:
        config = {**member, "name": network, "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
        plugins.call("GC", member["type"], config, **nothing).succeeded()
    assert "podwire/pods-chain/" not in runtime.node.sh("nft list ruleset; ip -d link")
    assert not observe.leases(runtime.node, network)


def test_del_without_the_tools_cache(runtime: Runtime) -> None:
    """The cache is gone (a reboot with /var on a tmpfs): DEL gets no prevResult and removes everything all the same."""
    network = runtime.network(conflist("bridge-iptables"))
    netns = runtime.node.pod()
    before = snapshot(runtime.node)
    runtime.call("add", network, netns)
    runtime.node.sh("rm -r /var/lib/cni/results")
    runtime.node.remove_pod(netns)
    runtime.call("del", network, netns)
    after = snapshot(runtime.node)
    del before[f"{netns.rpartition('/')[2]} links"], before[f"{netns.rpartition('/')[2]} routes"]
    del before[f"{netns.rpartition('/')[2]} rules"], before["files"][netns]
    assert leftovers(before, after, "cni-iptables") == []


# -- specification 1.1.0, which this cnitool does not speak: its calls by hand --


def test_status_and_gc_list(runtime: Runtime, plugins: Executables) -> None:
    """The list for newer runtimes, as libcni 1.2 and newer use it: highest version, STATUS, GC with the attachments in use."""
    document = conflist("bridge-gc-status")
    assert max(document["cniVersions"]) == "1.1.0"
    config = {**document["plugins"][0], "name": document["name"], "cniVersion": "1.1.0"}
    nothing = {"container_id": "", "netns": "", "ifname": "", "node": runtime.node}
    plugins.call("STATUS", "bridge", config, **nothing).succeeded()
    pods = [runtime.node.pod() for _ in range(2)]
    results = [
        plugins.add("bridge", config, container_id=f"pod-{n}", netns=netns, node=runtime.node) for n, netns in enumerate(pods)
    ]
    keep = [{"containerID": "pod-1", "ifname": "eth0"}]
    plugins.call("GC", "bridge", {**config, "cni.dev/valid-attachments": keep}, **nothing).succeeded()
    assert {told.split()[0] for told in observe.leases(runtime.node, "pods-gc").values()} == {b"pod-1"}
    dead = results[0]["interfaces"][1]["name"]
    assert dead not in observe.links(runtime.node)
    assert observe.mentions(runtime.node, "pod-0", *(entry["address"].split("/")[0] for entry in results[0]["ips"])) == []
    kept = {**config, "prevResult": results[1]}
    plugins.call("CHECK", "bridge", kept, container_id="pod-1", netns=pods[1], node=runtime.node).succeeded()
    plugins.call("GC", "bridge", {**config, "cni.dev/valid-attachments": []}, **nothing).succeeded()
    assert observe.leases(runtime.node, "pods-gc") == {}
    assert observe.ruleset(runtime.node) == []
