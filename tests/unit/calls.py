"""Whole calls in process over the fake machine: dispatch, plugin, plan, execution and IPAM are real, the doors are fakes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cni import dispatch as dispatch_module
from cni.net import execute, netns
from cni.net import host as host_module
from tests.fakes import FakeHost, FakeIptables, FakeKernel, FakeNft, FakeTraffic, Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cni.dispatch import Reply

Config = dict[str, Any]

ID, IFNAME = "c0ffee", "eth0"
OURS = '#!/bin/sh\nexec python3 -m cni {} "$@"\n'

# Verbs of the doors that change something: where a failure can come from. set_mac is not among them: that a bridge's address
# cannot be pinned, or a pod's not be announced, is no failure.
CHANGES = (
    (FakeKernel, ("create_bridge", "create_veth", "set_link", "delete_link", "add_address", "delete_address")),
    (FakeKernel, ("create_macvlan", "adopt", "set_mtu", "set_queue")),
    (FakeKernel, ("add_route", "set_vlans", "admit_vlan", "create_vlan", "add_neighbour", "set_next_hop", "drop_next_hop")),
    (FakeKernel, ("create_ifb", "isolate_port")),
    (FakeTraffic, ("limit_rate", "unlimit_rate", "redirect", "drop_redirect")),
    (FakeNft, ("run",)),
    (FakeIptables, ("restore",)),
    (FakeHost, ("write_sysctls", "write_file", "remove_file")),
)


V4 = {"type": "host-local", "subnet": "10.1.0.0/24"}
V6 = {"type": "host-local", "subnet": "fd00:1::/64"}
DUAL = {
    "type": "host-local",
    "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]],
    "routes": [{"dst": "192.0.2.0/24"}],
}

# The first is the host itself, see Machine.uplink.
NODES = [
    *({"podCIDR": "10.1.0.0/24", "via": "192.0.2.1"}, {"podCIDR": "10.1.1.0/24", "via": "192.0.2.2"}),
    {"podCIDR": "fd00:1:0:1::/64", "via": "fd00:2::2"},
]

INGRESS = {"ingressRate": 8_000_000, "ingressBurst": 800_000}
EGRESS = {"egressRate": 16_000_000, "egressBurst": 1_600_000}
PORTS = {
    "runtimeConfig": {
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"},
        ]
    }
}
# Sets of ours whose elements are no attachment's own.
SHARED_SETS = ("near4", "near6", "localnet", "sweeps")
SYSCTLS = {"net.core.somaxconn": "500", "net/ipv4/conf/IFNAME/arp_notify": "0", "net.ipv4.ip_local_port_range": "2000 60000"}

# What attachments are made of, for the suites that let every step of every plan fail. ``after`` is the configuration of the
# plugin before, whose result a chained one gets.
CONFIGS: dict[str, dict[str, Any]] = {
    "layer-2": {},
    "layer-2-down": {"disableContainerInterface": True},
    "layer-2-flags": {"hairpinMode": True, "portIsolation": True, "mtu": 1400},
    "addresses": {"ipam": V4},
    "gateway": {"ipam": V4, "isGateway": True},
    "default-gateway-v6": {"ipam": V6, "isDefaultGateway": True},
    "dual-stack": {"ipam": DUAL, "isDefaultGateway": True},
    "masquerade": {"ipam": DUAL, "isGateway": True, "ipMasq": True},
    "masquerade-iptables": {"ipam": DUAL, "isGateway": True, "ipMasq": True, "ipMasqBackend": "iptables"},
    "spoof-check": {"ipam": V4, "macspoofchk": True},
    "promiscuous": {"ipam": V4, "isGateway": True, "promiscMode": True},
    "detection": {"ipam": V6, "isGateway": True, "enabledad": True},
    "everything": {
        "ipam": DUAL,
        "isDefaultGateway": True,
        "ipMasq": True,
        "macspoofchk": True,
        "mtu": 1400,
        "promiscMode": True,
    },
    "vlan": {"ipam": V4, "isGateway": True, "vlan": 100, "macspoofchk": True},
    "trunk": {"vlanTrunk": [{"minID": 5, "maxID": 9}], "preserveDefaultVlan": True},
    "force-address": {"ipam": V4, "isGateway": True, "forceAddress": True},
    "ptp": {"type": "ptp", "ipam": V4},
    "ptp-layer-2": {"type": "ptp", "mtu": 1400},
    "ptp-everything": {"type": "ptp", "ipam": DUAL, "ipMasq": True, "mtu": 1400},
    "host-gw": {"type": "host-gw", "ipam": V4},
    "host-gw-everything": {"type": "host-gw", "ipam": DUAL, "nodes": NODES, "ipMasq": True, "mtu": 1400},
    "host-gw-iptables": {"type": "host-gw", "ipam": DUAL, "nodes": NODES, "ipMasq": True, "ipMasqBackend": "iptables"},
    "firewall": {"type": "firewall", "after": {"ipam": V4}},
    "firewall-everything": {"type": "firewall", "ingressPolicy": "isolated", "after": {"ipam": DUAL, "isGateway": True}},
    "firewall-iptables": {
        "type": "firewall",
        "backend": "iptables",
        "ingressPolicy": "same-bridge",
        "after": {"ipam": DUAL, "isGateway": True},
    },
    "portmap": {"type": "portmap", "after": {"type": "ptp", "ipam": DUAL}, **PORTS},
    "portmap-conditions": {"type": "portmap", "after": {"ipam": V4}, "conditionsV4": ["ip", "saddr", "192.0.2.0/24"], **PORTS},
    "portmap-iptables": {"type": "portmap", "after": {"ipam": DUAL}, "backend": "iptables", **PORTS},
    "tuning-sysctls": {"type": "tuning", "sysctl": SYSCTLS, "after": {"ipam": V4}},
    "tuning-link": {"type": "tuning", "mac": "02:00:00:00:00:99", "mtu": 1400, "after": {"type": "host-gw", "ipam": V4}},
    "tuning-everything": {
        "type": "tuning",
        "sysctl": SYSCTLS,
        "mac": "02:00:00:00:00:99",
        "mtu": 1300,
        "promisc": True,
        "allmulti": True,
        "txQLen": 77,
        "after": {"ipam": DUAL, "macspoofchk": True},
    },
    "macvlan": {"type": "macvlan", "master": "up0", "ipam": V4},
    "macvlan-layer-2": {"type": "macvlan", "master": "up0", "mode": "vepa"},
    "macvlan-everything": {
        "type": "macvlan",
        "master": "up0",
        "ipam": DUAL,
        "mode": "private",
        "mtu": 1400,
        "bcqueuelen": 500,
    },
    "ptp-iptables": {"type": "ptp", "ipam": DUAL, "ipMasq": True, "ipMasqBackend": "iptables"},
    "bandwidth": {"type": "bandwidth", "after": {"type": "ptp", "ipam": V4}, **INGRESS, **EGRESS},
    "bandwidth-ingress": {"type": "bandwidth", "after": {"ipam": V4, "isGateway": True}, **INGRESS},
    "bandwidth-egress": {"type": "bandwidth", "after": {"ipam": DUAL}, "runtimeConfig": {"bandwidth": EGRESS}},
}


def needs_uplink(keys: dict[str, Any]) -> bool:
    """Whether a configuration is of a host with a link to a segment, see Machine.uplink."""
    return "nodes" in keys or "master" in keys


def with_ports_of(config: Config, container_id: str) -> Config:
    """A configuration with ports of the host that are this container's own, as a runtime asks for them."""
    mappings = config.get("runtimeConfig", {}).get("portMappings", [])
    if not mappings or container_id == ID:
        return config
    own = [{**mapping, "hostPort": mapping["hostPort"] + 1000} for mapping in mappings]
    return {**config, "runtimeConfig": {"portMappings": own}}


class Runtime:
    """Calls plugins as a runtime does, on a machine in memory and a lease folder on disk."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **machine: Any) -> None:
        self.machine = Machine(**machine)
        self.leases_folder = folder / "leases"
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in ("host-local", "static"):
            (self.bin / name).write_text(OURS.format(name))
        monkeypatch.setattr(host_module, "Host", self.machine.host)
        monkeypatch.setattr(netns, "open_sandbox", self.machine.open_sandbox)
        monkeypatch.setattr(netns, "is_own", self.machine.is_own)
        self._pods = 0

    def pod(self) -> str:
        """A new pod; the path of its namespace."""
        self._pods += 1
        path = f"/run/netns/pod{self._pods}"
        self.machine.pod(path)
        return path

    def config(self, *, ipam: Config | None = None, **keys: Any) -> Config:
        """A configuration, of bridge unless ``type`` says otherwise. host-local gets the folder of this test."""
        found: Config = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", **keys}
        if ipam is not None:
            found["ipam"] = {**ipam, "dataDir": str(self.leases_folder)} if ipam.get("type") == "host-local" else ipam
        return found

    def call(self, verb: str, config: Config, netns: str = "", plugin: str = "", **env: str) -> Reply:
        """One call. Whatever it answers, no door may stay open and nobody at work."""
        given = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": ID,
            "CNI_NETNS": netns,
            "CNI_IFNAME": IFNAME,
            "CNI_PATH": str(self.bin),
        }
        reply = dispatch_module.dispatch(plugin or config["type"], given | env, json.dumps(config).encode())
        assert self.machine.at_work == []
        assert self.machine.open_fds == 0
        return reply

    def ready(self, keys: Config, netns: str, **env: str) -> Config:
        """A configuration of CONFIGS that can be called for a pod: of a chained plugin with the result of the one before it."""
        keys = dict(keys)
        first = keys.pop("after", None)
        if first is None:
            return self.config(**keys)
        keys = with_ports_of(keys, env.get("CNI_CONTAINERID", ID))
        return self.config(**keys, prevResult=self.add(self.config(**first), netns, **env))

    def add(self, config: Config, netns: str, **env: str) -> Config:
        """An ADD that must succeed; its result."""
        reply = self.call("ADD", config, netns, **env)
        assert reply.status == 0, reply
        return dict(json.loads(reply.stdout))

    def leases(self) -> dict[str, bytes]:
        """The held addresses and who holds them."""
        files = self.leases_folder.glob("*/*") if self.leases_folder.exists() else ()
        return {f"{file.parent.name}/{file.name}": file.read_bytes() for file in files if file.name[0] in "0123456789f"}

    def dump(self) -> str:
        """Machine and leases in words."""
        return self.machine.dump() + "".join(f"lease {name} {owner!r}\n" for name, owner in sorted(self.leases().items()))


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """A runtime on a machine whose kernel has everything."""
    return Runtime(tmp_path, monkeypatch, filters_vlans=True)


class Failing:
    """Raises an error at the `at`-th step and lets everything else pass, also everything that takes back."""

    def __init__(self, at: int, error: Callable[[], Exception]) -> None:
        self.at, self.error = at, error
        self.steps: list[str] = []
        self.failed = False
        self.executing = False

    def step(self, what: str) -> None:
        """Another step begins."""
        if self.failed or not self.executing:
            return
        self.steps.append(what)
        if len(self.steps) - 1 == self.at:
            self.failed = True
            raise self.error()


def each_operation(monkeypatch: pytest.MonkeyPatch, failing: Failing) -> None:
    """Steps are the plan's operations."""
    _while_executing(monkeypatch, failing)

    def wrapped(apply: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
        def run(op: Any, host: Any) -> bool:
            failing.step(op.describe())
            return apply(op, host)

        return run

    for kind, apply in list(execute.APPLY.items()):
        monkeypatch.setitem(execute.APPLY, kind, wrapped(apply))


def each_change(monkeypatch: pytest.MonkeyPatch, failing: Failing) -> None:
    """Steps are the changes that an operation makes through the doors: one operation may make several."""
    _while_executing(monkeypatch, failing)

    def wrapped(name: str, verb: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            failing.step(f"{name} {given[1:]}")
            return verb(*given, **named)

        return run

    for door, names in CHANGES:
        for name in names:
            monkeypatch.setattr(door, name, wrapped(name, getattr(door, name)))


def _while_executing(monkeypatch: pytest.MonkeyPatch, failing: Failing) -> None:
    real = execute.execute

    def run(plan: Any, host: Any, done: list[Any]) -> None:
        failing.executing = True
        try:
            real(plan, host, done)
        finally:
            failing.executing = False

    monkeypatch.setattr(execute, "execute", run)


def counted(until: Callable[[int], bool]) -> Iterator[int]:
    """0, 1, 2 ... while there was a step of that number."""
    number = 0
    while until(number):
        yield number
        number += 1
