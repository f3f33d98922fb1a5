"""build/bin: small scripts, one a plugin, that start `python -m cni <plugin>` from this checkout."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "bin"
BUNDLE = ROOT / "build" / "bundle"
NAMES = (
    "loopback",
    "bridge",
    "ptp",
    "host-gw",
    "macvlan",
    "portmap",
    "firewall",
    "bandwidth",
    "tuning",
    "host-local",
    "static",
)


def python() -> str:
    """The project's own interpreter where `make venv` made it, else the one that runs the tests."""
    venv = ROOT / ".venv" / "bin" / "python"
    return str(venv) if venv.exists() else sys.executable


def make_wrappers(folder: Path = FOLDER) -> Path:
    """Write the scripts that are missing or stale; each appears whole, so parallel workers may all do it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        text = f'#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(ROOT))}\nexec {shlex.quote(python())} -m cni {name} "$@"\n'
        script = folder / name
        if script.exists() and script.read_text() == text and os.access(script, os.X_OK):
            continue
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.chmod(temporary, 0o755)
        os.replace(temporary, script)
    return folder
