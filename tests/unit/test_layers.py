"""Imports point one way. A walk over every module's syntax tree, imports inside functions included.

Imports for type checkers alone (`if TYPE_CHECKING:`) cost nothing and are free, but for the last rule.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.harness.wrappers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("cni", "ipam", "agent")

# No I/O, no clock, no process-wide state.
IMPURE = ("os", "socket", "subprocess", "time", "logging", "sys", "ctypes", "select", "fcntl", "threading", "random")

SPEC = ("cni.spec",)
PURE_NET = tuple(
    f"cni.net.{name}"
    for name in (
        *("allowlist", "backup", "ops", "facts", "configure", "gateway", "inside", "macvlan", "nodes", "qdiscs", "routed"),
        *("shaping", "verify", "veth", "vlans"),
    )
)
PURE_NFT = tuple(
    f"cni.nft.{name}"
    for name in (
        "dbus",
        "elements",
        "firewall",
        "forward",
        "forward_iptables",
        "ops",
        "listing",
        "masq",
        "masq_iptables",
        "masquerade",
        "reference",
        "spoof",
        "ports",
        "ports_iptables",
        "ports_rules",
        "portmap",
        "readers",
    )
)
PURE_IPAM = ("ipam.ranges", "ipam.allocate", "ipam.leases", "ipam.resolv", "ipam.wanted")


class Rule(NamedTuple):
    """What modules of some names may import: of our own packages only `own`, and nothing of `never`."""

    modules: tuple[str, ...]
    own: tuple[str, ...]
    never: tuple[str, ...] = ()


RULES = (
    Rule(SPEC, SPEC, IMPURE),
    Rule(PURE_NET, SPEC + PURE_NET, IMPURE),
    Rule(PURE_NFT, SPEC + PURE_NFT, IMPURE),
    Rule(("cni.plugins",), (*SPEC, *PURE_NET, *PURE_NFT, "cni.plugins"), IMPURE),
    Rule(("cni.net",), ("cni.spec", "cni.net", "cni.nft")),
    Rule(("cni.nft",), ("cni.spec", "cni.nft")),
    Rule(("cni.registry", "ipam.registry"), (), IMPURE),
    Rule(("agent.frame",), (), IMPURE),
    Rule(("ipam",), ("cni.spec", "ipam")),
    Rule(PURE_IPAM, ("cni.spec", "ipam"), IMPURE),
    Rule(("cni",), ("cni",)),
)

# A foreign library or a power of the system, and the only modules that may use it.
DOORS = {
    "pyroute2": ("cni.net.messages",),
    "ctypes": ("cni.net.netns", "ipam.watch"),
    "nftables": ("cni.nft.apply",),
    "subprocess": ("agent.remote", "cni.caller", "cni.nft.iptables"),
    "click": ("agent.command",),
    "prometheus_client": ("agent.metrics", "agent.scrape"),
    "netaddr": (),
    "http": (),
    "urllib": (),
    "asyncio": (),
}

# Who may break a rule, and why.
EXCEPTIONS = {
    ("cni.nft.ops", "cni.nft.apply"): "the exceptions of the door, named when a transaction is run through it",
    ("cni.delegate", "ipam.registry"): "the one place where a call reaches IPAM",
    ("cni.oneshot", "ipam.registry"): "composition: which names this program answers to",
    ("cni.about", "ipam.registry"): "composition: what there is, for people",
    ("cni.schema", "ipam"): "composition: schemas of main plugin and IPAM together; no plugin call imports it",
    ("cni.nft.ops", "cni.nft.iptables"): "likewise",
    ("cni.nft.apply", "cni.nft.listing"): "pure",
}

# Modules that cost milliseconds of every plugin call: never at the top of a module.
SLOW = (
    "dataclasses",
    "json",
    "logging",
    "argparse",
    "subprocess",
    "asyncio",
    "difflib",
    "traceback",
    "netaddr",
    "inspect",
    "pathlib",
)
NO_PLUGIN_CALL = ("cni.schema",)


class Import(NamedTuple):
    """One import: by whom, of what, whether for types only, whether at the top of the module."""

    by: str
    of: str
    typing_only: bool
    top: bool


def imports(name: str, source: str) -> list[Import]:
    """Every import of a module; `from a import b` counts as `a.b` where that is a module of ours, else as `a`."""
    found: list[Import] = []

    def visit(node: ast.AST, typing_only: bool, top: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(name, alias.name, typing_only, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.append(Import(name, inner if inner in MODULES else node.module or "", typing_only, top))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.body:
                visit(child, True, top)
            for child in node.orelse:
                visit(child, typing_only, top)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                visit(child, typing_only, top and not inside)

    visit(ast.parse(source), False, True)
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
ALL = [entry for name, path in MODULES.items() for entry in imports(name, path.read_text())]


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def ours(name: str) -> bool:
    return within(name, PACKAGES)


def plugin(name: str) -> str:
    """The plugin that a module belongs to; one of several modules is a package."""
    return ".".join(name.split(".")[:3])


def violations(found: list[Import]) -> list[str]:
    """What is against a rule, a line each."""
    told = []
    for entry in found:
        excused = any(entry.by == by and within(entry.of, (of,)) for by, of in EXCEPTIONS)
        if entry.typing_only or excused:
            continue
        rule = next((rule for rule in RULES if within(entry.by, rule.modules) and rule.modules != ("cni",)), RULES[-1])
        strict = [rule, *(other for other in RULES if entry.by in other.modules and other is not rule)]
        for each in strict:
            if not within(entry.by, each.modules):
                continue
            if ours(entry.of) and entry.of != entry.by and not within(entry.of, each.own) and entry.of != "cni":
                told.append(f"{entry.by} imports {entry.of}")
            if within(entry.of, each.never):
                told.append(f"{entry.by} imports {entry.of}")
        if within(entry.by, ("cni.plugins",)) and within(entry.of, ("cni.plugins",)) and plugin(entry.by) != plugin(entry.of):
            told.append(f"{entry.by} imports {entry.of}: plugins share by moving down, never sideways")
        for door, users in DOORS.items():
            if within(entry.of, (door,)) and not within(entry.by, users):
                told.append(f"{entry.by} imports {entry.of}, which is for {', '.join(users) or 'nobody'}")
    return told


def test_imports_point_one_way() -> None:
    assert violations(ALL) == []


def test_only_known_libraries() -> None:
    """What setup.cfg lists and the standard library."""
    known = {"click", "msgspec", "netaddr", "nftables", "prometheus_client", "pyroute2", *sys.stdlib_module_names}
    assert [entry for entry in ALL if not ours(entry.of) and entry.of.split(".")[0] not in known] == []


@pytest.mark.parametrize("nobody", ["agent", "tests", "bench", "demo"])
def test_nobody_imports(nobody: str) -> None:
    """For types neither. The agent imports itself."""
    assert [
        entry for entry in ALL if within(entry.of, (nobody,)) and not (nobody == "agent" and within(entry.by, ("agent",)))
    ] == []


def test_what_is_slow_is_imported_where_it_is_needed() -> None:
    """Import time is part of every pod's start."""
    free = (*NO_PLUGIN_CALL, "agent")
    found = [entry for entry in ALL if entry.top and not entry.typing_only and not within(entry.by, free)]
    slow = [entry for entry in found if within(entry.of, SLOW)]
    assert slow == []


def test_every_exception_is_in_use() -> None:
    for by, of in EXCEPTIONS:
        assert any(entry.by == by and within(entry.of, (of,)) for entry in ALL), f"{by} does not import {of} any more"


def test_every_name_in_the_rules_exists() -> None:
    named = {name for rule in RULES for name in (*rule.modules, *rule.own)} | {
        user for users in DOORS.values() for user in users
    }
    assert {name for name in named if name not in MODULES} == set()


PLANTED = {
    "cni.spec.result": ("import os", "from socket import AF_INET", "from cni.net.ops import Op", "import ipam.store"),
    "cni.net.gateway": ("def f():\n    import time", "from cni.net.kernel import Kernel", "from cni.plugins import bridge"),
    "cni.nft.masq": ("import subprocess", "from cni.nft.apply import Nft"),
    "cni.plugins.loopback": (
        *("import pyroute2", "import os.path", "import sys", "import ipam", "from ipam import store"),
        *("from cni.plugins import bridge", "from cni.net import kernel", "from cni import dispatch", "import cni.delegate"),
        "class A:\n    def f(self):\n        return lambda: __import__ or 1\n    import socket",
    ),
    "cni.net.kernel": (
        "import pyroute2",
        "from pyroute2.netlink import nlmsg",
        "import ctypes",
        "import nftables",
        "import ipam",
    ),
    "cni.net.execute": ("from cni.dispatch import dispatch", "import subprocess"),
    "cni.dispatch": ("import ipam", "from ipam.registry import PROVIDERS", "import agent.server", "import subprocess"),
    "ipam.store": ("import cni.net.kernel", "from cni import delegate", "from cni.dispatch import Reply"),
    "ipam.allocate": ("import os", "import time"),
    "agent.frame": ("import socket", "import os", "from cni.dispatch import Reply"),
    "cni.registry": ("import cni.plugins.bridge",),
}


@pytest.mark.parametrize(("module", "source"), [(module, source) for module, lines in PLANTED.items() for source in lines])
def test_a_planted_violation_is_found(module: str, source: str) -> None:
    assert violations(imports(module, source)) != []


def test_imports_for_types_are_free() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pyroute2\nelse:\n    import ctypes\n"
    assert violations(imports("cni.net.kernel", source)) == [
        "cni.net.kernel imports ctypes, which is for cni.net.netns, ipam.watch"
    ]


def loaded(code: str) -> set[str]:
    """The modules that a fresh interpreter has after some code.

    Without typing_extensions, which msgspec takes (and inspect with it) where developer tools have installed it.
    """
    script = f"import sys\nsys.modules['typing_extensions'] = None\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_version_loads_next_to_nothing() -> None:
    code = "from cni.dispatch import dispatch\nassert dispatch('bridge', {'CNI_COMMAND': 'VERSION'}, b'{}').status == 0"
    found = loaded(code)
    unwanted = {"pyroute2", "ctypes", "subprocess", "asyncio", "socket", "nftables", "netaddr", "ssl", *SLOW}
    assert found & unwanted == set()
    assert "cni.plugins.bridge" not in found
    assert "cni.spec.result" in found


def test_a_configuration_error_does_not_load_the_kernel_door() -> None:
    call = "{'CNI_COMMAND': 'ADD', 'CNI_CONTAINERID': 'a', 'CNI_NETNS': '/x', 'CNI_IFNAME': 'e'}"
    found = loaded(
        f'from cni.dispatch import dispatch\nassert dispatch(\'bridge\', {call}, b\'{{"name": "n", "mtu": 1}}\').status'
    )
    assert found & {"pyroute2", "cni.net.kernel", "ctypes", "subprocess", "asyncio", "nftables"} == set()
    assert "cni.plugins.bridge" in found


def test_the_kernel_door_loads_message_definitions_only() -> None:
    """`import pyroute2` runs 270 modules with asyncio and ssl, 95 ms at every call."""
    found = loaded("import cni.net.execute, cni.net.host, cni.plugins.bridge")
    assert found & {"asyncio", "ssl", "multiprocessing", "subprocess", "json", "dataclasses", "nftables"} == set()
    assert len([name for name in found if name.startswith("pyroute2")]) < 30
