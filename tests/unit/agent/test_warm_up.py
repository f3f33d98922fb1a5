"""The agent before its first call: what it loads, and that it is safe to have many threads after that."""

from __future__ import annotations

import subprocess

from tests.harness.wrappers import ROOT, python

# Runs in a process of its own: what a record consists of is found out once in a process.
RECORDS = """
import importlib, pkgutil
import msgspec
from agent import life

def below(kind):
    return {one for record in kind.__subclasses__() for one in (record, *below(record))}

life.warm_up()
loaded = below(msgspec.Struct)
for package in ("cni", "ipam"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if module.name not in ("cni.__main__", "cni.schema"):
            importlib.import_module(module.name)
print(sorted(f"{one.__module__}.{one.__qualname__}" for one in below(msgspec.Struct) - loaded))
"""

CROWD = """
import sys, threading, types
import msgspec
from agent import life

sys.setswitchinterval(1e-5)
keys = lambda kind: "\\n".join(f"    a{n}: {kind} | None = None" for n in range(40))
source = f'''
from __future__ import annotations
import msgspec
class Inner(msgspec.Struct):
{keys("int")}
class Outer(msgspec.Struct):
{keys("str")}
    inner: Inner | None = None
'''
for number in range(100):
    module = sys.modules[f"made{number}"] = types.ModuleType(f"made{number}")
    exec(source, module.__dict__)
    life.prepare(msgspec.Struct)
    together = threading.Barrier(8)
    def decode():
        together.wait()
        assert msgspec.convert({"inner": {"a3": 3}}, module.Outer).inner.a3 == 3
    crowd = [threading.Thread(target=decode) for _ in range(8)]
    for thread in crowd: thread.start()
    for thread in crowd: thread.join()
"""


def run(script: str) -> str:
    """What a script prints; it must end well."""
    done = subprocess.run([python(), "-c", script], cwd=ROOT, capture_output=True, check=False, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.strip()


def test_every_record_is_known_before_the_first_call() -> None:
    """No module of a call brings a record along later: none is first seen while there are threads."""
    assert run(RECORDS) == "[]"


def test_threads_may_decode_what_was_prepared() -> None:
    """Without the preparation this ends by a segmentation fault within the first rounds (msgspec 0.22)."""
    assert run(CROWD) == ""
