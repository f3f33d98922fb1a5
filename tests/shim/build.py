"""The native client's executables: as it is shipped, under sanitizers, and its parser alone under sanitizers.

Each appears whole under its name, so parallel workers may all make it; a stale one is made anew.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from tests.harness.wrappers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = ROOT / "build" / "shim"
SOURCE = ROOT / "shim" / "shim.c"
DRIVER = ROOT / "tests" / "shim" / "parse_many.c"

WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wconversion", "-Wshadow")
SANITIZERS = ("-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def shipped() -> Path:
    """As the Makefile builds it."""
    own = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    subprocess.run(["make", "-s", "build/shim/shim"], cwd=ROOT, env=own, check=True, stdout=subprocess.DEVNULL)
    return FOLDER / "shim"


def sanitized() -> Path:
    """The same program, which ends with a report on stderr where it touches what is not its own."""
    return _compiled("sanitized", SOURCE)


def hasty() -> Path:
    """The sanitized program with little patience for an agent that does not begin."""
    return _compiled("hasty", SOURCE, "-DBEGIN_PATIENCE_MS=500")


def parser() -> Path:
    """``parse_many.c`` around the parser, under sanitizers."""
    return _compiled("parse-many", DRIVER)


def _compiled(name: str, source: Path, *options: str) -> Path:
    program = FOLDER / name
    if program.exists() and program.stat().st_mtime > max(source.stat().st_mtime, SOURCE.stat().st_mtime):
        return program
    FOLDER.mkdir(parents=True, exist_ok=True)
    temporary = program.with_name(f"{name}.{os.getpid()}")
    subprocess.run(["gcc", *WARNINGS, *SANITIZERS, *options, "-o", temporary, source], check=True)
    return temporary.rename(program)
