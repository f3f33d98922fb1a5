"""What every end-to-end test starts from: the official cnitool as the runtime, in a private node."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe
from tests.harness.node import PATH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.harness.node import Node
    from tests.harness.plugin import Executables

Config = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
CNITOOL = ROOT / "build" / "tools" / "cnitool"

# What lies below these is the tool's and the store's bookkeeping: no address, no attachment.
BOOKKEEPING = ("/var/lib/cni/results", "/var/lib/cni/networks", "/run/podwire")

# Where `tuning` has its files.
EMPTY_FOLDERS = ("/run/cni", "/run/cni/tuning")

# Addresses of the nodes in conf/host-gw.conflist on the segment that they share.
NODE_ADDRESSES = (("192.0.2.11/24", "fd00:111:99::11/64"), ("192.0.2.12/24", "fd00:111:99::12/64"))


def conflist(name: str, **changes: Any) -> Config:
    """A list of conf/, with changed keys."""
    document: Config = json.loads((CONF / f"{name}.conflist").read_text())
    return {**document, **changes}


def join_segment(node: Node, number: int) -> None:
    """Give a node its addresses on the segment; without a link ``seg0`` it is alone there."""
    four, six = NODE_ADDRESSES[number]
    node.sh(f"""
        ip link show seg0 >/dev/null 2>&1 || ip link add seg0 type veth peer name seg1
        ip addr add {four} dev seg0
        ip link set seg0 up
        ip addr add {six} dev seg0 nodad
    """)


class Failure(AssertionError):
    """cnitool ended with an error; the text is what it said."""


class Runtime:
    """cnitool with a folder of networks, in a node. ``path`` is CNI_PATH; it can be another one for each call."""

    def __init__(self, node: Node, path: str, networks: Path) -> None:
        self.node, self.path, self.networks = node, path, networks

    def network(self, document: Config) -> str:
        """Make a network known; its name."""
        name: str = document["name"]
        (self.networks / f"{name}.conflist").write_text(json.dumps(document))
        return name

    def run(
        self,
        verb: str,
        network: str,
        netns: str,
        *,
        args: str | None = None,
        caps: Mapping[str, Any] | None = None,
        ifname: str | None = None,
        path: str | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """One call of cnitool, whatever becomes of it."""
        env = {"PATH": PATH, "NETCONFPATH": str(self.networks), "CNI_PATH": path or self.path}
        env |= {} if args is None else {"CNI_ARGS": args}
        env |= {} if caps is None else {"CAP_ARGS": json.dumps(caps)}
        env |= {} if ifname is None else {"CNI_IFNAME": ifname}
        return self.node.run(str(CNITOOL), verb, network, netns, env=env, check=False)

    def call(self, verb: str, network: str, netns: str, **how: Any) -> dict[str, Any]:
        """A call that must succeed; the result that cnitool prints after add, empty after the others."""
        done = self.run(verb, network, netns, **how)
        if done.returncode:
            raise Failure(f"cnitool {verb} {network}: {done.stderr.decode()}{done.stdout.decode()}")
        return dict(json.loads(done.stdout)) if verb == "add" else {}

    def refused(self, verb: str, network: str, netns: str, **how: Any) -> str:
        """A call that must fail; what cnitool said."""
        done = self.run(verb, network, netns, **how)
        assert done.returncode, f"expected cnitool {verb} {network} to fail, it printed {done.stdout.decode()}"
        return done.stderr.decode()


def snapshot(node: Node) -> dict[str, Any]:
    """The node without the bookkeeping of the tool and of the store; a lease counts."""
    seen = observe.snapshot(node)
    seen["leases"] = {path: seen["files"][path] for path in seen["files"] if "/networks/" in path and _is_lease(path)}
    seen["files"] = {
        path: told
        for path, told in seen["files"].items()
        if not path.startswith(BOOKKEEPING) and not (told == "folder" and path.endswith(EMPTY_FOLDERS))
    }
    return seen


def _is_lease(path: str) -> bool:
    name = os.path.basename(path)
    return not name.strip("0123456789abcdef.:") and ("." in name or ":" in name)


@pytest.fixture(scope="session")
def cnitool() -> Path:
    """The official cnitool, built when it is missing."""
    if not CNITOOL.exists():
        built = subprocess.run(
            [str(ROOT / "packaging" / "cnitool.sh"), str(CNITOOL)], capture_output=True, check=False, cwd=ROOT, timeout=600
        )
        if built.returncode:
            pytest.skip(f"cnitool cannot be built here: {built.stderr.decode().strip()[-300:]}")
    return CNITOOL


@pytest.fixture
def runtime(node: Node, plugins: Executables, cnitool: Path, tmp_path: Path) -> Runtime:
    """A fresh node whose runtime is cnitool with the plugins under test."""
    return Runtime(node, str(plugins.folder), tmp_path)


SHARED_TABLES = (("inet", "podwire_masquerade"), ("bridge", "podwire_macspoofchk"))
IPTABLES_NAT_CHAINS = ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")


def leftovers(before: dict[str, Any], after: dict[str, Any], bridge: str = "") -> list[str]:
    """What is there more, or differs, beside the things that attachments share and that stay on purpose.

    Those are: the bridge with its gateway addresses and their routes, routes to other nodes' pods, forwarding switched on,
    tables of ours without a single element, and, with the iptables backend, the empty built-in chains of the nat tables, which
    any iptables command makes.
    """
    found = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if key == "nft":
            found += [f"new in nft: {entry}" for entry in new if entry not in old and holds_something(json.loads(entry))]
            found += [f"gone from nft: {entry}" for entry in old if entry not in new]
        elif key == "iptables":
            found += [f"new in iptables: {rule}" for rule in new if rule not in old and not _built_in(rule)]
            found += [f"gone from iptables: {rule}" for rule in old if rule not in new]
        elif key == "sysctls":
            found += [f"{name} is {new[name]}" for name in old if new[name] not in (old[name], "1")]
        elif key == "node links":
            found += [f"link {name}: {told}" for name, told in new.items() if name != bridge and told != old.get(name)]
            found += [f"link {name} is gone" for name in old if name not in new]
        elif key == "node routes":
            found += [f"route {route}" for route in new if route not in old and not _stays(json.loads(route), bridge)]
        elif old != new:
            found += observe.difference({key: old}, {key: new})
    return found


def _stays(route: Config, bridge: str) -> bool:
    """Whether other attachments use a route, too: through the bridge, or one of ours to another node's pods."""
    return route["dev"] == bridge or ("gateway" in route and route.get("protocol") == "112")


def holds_something(entry: Config) -> bool:
    """Whether an nft object is more than the empty skeleton of our tables and of iptables's nat tables."""
    ((kind, body),) = entry.items()
    table = (body["family"], body["name"] if kind == "table" else body["table"])
    if table in SHARED_TABLES:
        return bool(body.get("elem"))
    if table in (("ip", "nat"), ("ip6", "nat")):
        return kind != "table" and not (kind == "chain" and body["name"] in IPTABLES_NAT_CHAINS)
    return True


def _built_in(rule: str) -> bool:
    words = rule.split()[1:]
    return words in (["*nat"], ["COMMIT"]) or (words[0][1:] in IPTABLES_NAT_CHAINS and words[1:] == ["ACCEPT"])
