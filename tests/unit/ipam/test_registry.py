"""Every provider is registered, and offers what callers use."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

import ipam
from ipam.registry import PROVIDERS

SIGNATURES = {
    "parse": ["call"],
    "add": ["conf", "call"],
    "delete": ["conf", "call"],
    "check": ["conf", "call", "prev"],
    "gc": ["conf", "call", "keep"],
    "status": ["conf", "call"],
}


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_provider_has_all_functions(name: str) -> None:
    module = importlib.import_module(PROVIDERS[name])
    assert {verb: list(inspect.signature(getattr(module, verb)).parameters) for verb in SIGNATURES} == SIGNATURES


def test_every_module_that_is_a_provider_is_registered() -> None:
    assert ipam.__file__ is not None
    names = {f"ipam.{path.stem}" for path in Path(ipam.__file__).parent.glob("*.py")}
    providers = {name for name in names if all(hasattr(importlib.import_module(name), verb) for verb in SIGNATURES)}
    assert providers == set(PROVIDERS.values())


def test_importing_a_provider_stays_cheap() -> None:
    import subprocess
    import sys

    code = "import ipam.host_local, ipam.static, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "ipam.host_local" in loaded
    assert not {"netaddr", "pyroute2", "dataclasses", "json", "logging", "argparse", "subprocess", "threading"} & set(loaded)
