"""What surrounds the code: packages that are installed when they are missing, continuous integration, the benchmark's options.

Each case runs the real script, in a copy of its folder where needed, with stand-ins for the programs that would change the
machine or take an hour.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from tests.harness.node import PATH
from tests.harness.wrappers import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

DEPS = ROOT / "packaging" / "deps.sh"
UNAVAILABLE = 69

Done = subprocess.CompletedProcess[str]


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


def run(*command: str | Path, env: Mapping[str, str], cwd: Path = ROOT) -> Done:
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


# Packages.


class Debian:
    """A package database of its own and an apt that installs nothing but remembers what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked = folder / "asked"
        self.admin = folder / "dpkg"
        (self.admin / "info").mkdir(parents=True)
        script(folder / "bin" / "apt-get", f'echo "$@" >>{self.asked}; exit 100')
        script(folder / "bin" / "apt-cache", "exit 100")
        self.env = {"PATH": f"{folder / 'bin'}:{PATH}", "DPKG_ADMINDIR": str(self.admin)}
        self.native = run("dpkg", "--print-architecture", env=self.env).stdout.strip()

    def has(self, *entries: tuple[str, str, str]) -> None:
        """The packages of the database: name, architecture, status."""
        described = "Maintainer: nobody\nVersion: 1\nMulti-Arch: {}\nDescription: a case"
        (self.admin / "status").write_text(
            "\n".join(
                f"Package: {name}\nStatus: {status}\nArchitecture: {architecture}\n"
                f"{described.format('foreign' if architecture == 'all' else 'same')}\n"
                for name, architecture, status in entries
            )
        )

    def deps(self, *arguments: str, **env: str) -> Done:
        return run(DEPS, *arguments, env={**self.env, **env})

    def installs(self) -> list[str]:
        """What apt-get was asked to install."""
        told = self.asked.read_text().splitlines() if self.asked.exists() else []
        return [line for line in told if line.startswith("install ")]


@pytest.fixture
def debian(tmp_path: Path) -> Debian:
    if not shutil.which("dpkg"):
        pytest.skip("the packages are Debian's: needs dpkg")
    return Debian(tmp_path)


INSTALLED = "install ok installed"
FRESH = ("debootstrap", "git")


@pytest.mark.parametrize("status", [INSTALLED, "hold ok installed", "deinstall ok installed"])
def test_a_package_is_there_whatever_is_wanted_of_it(debian: Debian, status: str) -> None:
    debian.has(*((name, debian.native, status) for name in FRESH))
    assert debian.deps("fresh").returncode == 0
    assert not debian.asked.exists()


def test_a_package_of_two_architectures_is_there(debian: Debian) -> None:
    debian.has(*((name, architecture, INSTALLED) for name in FRESH for architecture in (debian.native, "sparc")))
    assert debian.deps("fresh").returncode == 0
    assert not debian.asked.exists()


@pytest.mark.root
@pytest.mark.parametrize(
    "entry", [("git", "sparc", INSTALLED), ("git", "all", "deinstall ok config-files"), ("other", "all", INSTALLED)]
)
def test_what_is_missing_is_asked_for_and_what_apt_cannot_do_has_its_own_status(
    debian: Debian, entry: tuple[str, str, str]
) -> None:
    debian.has(("debootstrap", "all", INSTALLED), entry)
    done = debian.deps("fresh")
    assert done.returncode == UNAVAILABLE, done
    assert done.stdout.startswith("deps: installing git\n")
    # apt could not even update its lists, so there was nothing to install from.
    assert debian.asked.read_text().split()[0] == "update"


def test_the_interpreters_library_is_named_by_its_version(debian: Debian) -> None:
    listed = debian.deps("--list", "build", PYTHON=sys.executable).stdout.split()
    assert f"libpython{sys.version_info[0]}.{sys.version_info[1]}" in listed


def test_without_an_interpreter_nothing_is_made_up(debian: Debian) -> None:
    """Neither is there a Python yet, nor does apt know one: the library's name is found out later."""
    done = debian.deps("--list", "build", PYTHON="/nowhere/python3")
    assert done.returncode == 0, done
    named = ["binutils", "ca-certificates", "gcc", "libnftables1", "musl-tools", "python3", "python3-venv"]
    assert done.stdout.split() == named


def test_an_interpreter_that_is_none_is_refused(debian: Debian) -> None:
    done = debian.deps("--list", "build", PYTHON="/bin/false")
    assert done.returncode == 1
    assert "PYTHON=/bin/false" in done.stderr


def test_only_cnitool_needs_go(debian: Debian) -> None:
    assert "golang-go" in debian.deps("--list", "cnitool").stdout.split()
    assert "golang-go" not in debian.deps("--list", "build", "test", "machine", "fresh").stdout.split()


def test_make_targets_ask_for_the_groups_they_need() -> None:
    """`make` prints what it would run; a fresh copy has no stamp, no bundle and no cnitool."""
    env = {"PATH": PATH}

    def groups(*targets: str) -> set[str]:
        planned = run("make", "-n", "-B", *targets, env=env).stdout
        return {group for line in re.findall(r"deps\.sh (.*)", planned) for group in line.split()}

    assert groups("check") == groups("bundle") == groups("install") == {"build"}
    assert groups("cnitool") == {"cnitool"}
    assert groups("test") == groups("demo") == {"build", "cnitool", "test"}


# Continuous integration.

MAKE = 'echo "$* PYTEST_ARGS=$PYTEST_ARGS$PYTEST_ADDOPTS" >>"$ASKED"; echo "3 passed in 1.00s"; [ "$1" != "$BROKEN" ]'
EVERY_STAGE = ["check", "test", "demo", "test-agent", "test-slow", "test-machine", "test-runtimes", "fresh"]


class Integration:
    """A copy of .ci/run between a make and a deps.sh that only remember."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, folder / "asked"
        (folder / ".ci").mkdir()
        shutil.copy2(ROOT / ".ci" / "run", folder / ".ci" / "run")
        script(folder / "bin" / "make", MAKE)
        self.deps("exit 0")
        script(self.folder / "packaging" / "fresh.sh", "exec packaging/deps.sh fresh")
        script(self.folder / ".venv" / "bin" / "python", 'exec packaging/deps.sh "$2"')

    def deps(self, text: str) -> None:
        script(self.folder / "packaging" / "deps.sh", text)

    def run(self, *, start: tuple[str, ...] = (), **env: str) -> Done:
        known = {"PATH": f"{self.folder / 'bin'}:{PATH}", "ASKED": str(self.asked), "BROKEN": "", "HOME": str(self.folder)}
        return run(*start, self.folder / ".ci" / "run", env={**known, **env}, cwd=self.folder)

    def made(self) -> list[str]:
        """The targets that were made."""
        return [line.split()[0] for line in self.asked.read_text().splitlines()] if self.asked.exists() else []


@pytest.fixture
def ci(tmp_path: Path) -> Integration:
    return Integration(tmp_path)


def table(done: Done) -> dict[str, str]:
    """The result of each stage, from the table at the end."""
    rows = done.stdout.partition("=== continuous integration")[2].splitlines()
    found = (re.match(r"(\S+) +(passed|FAILED|left out) +(\d+|-) ", row) for row in rows)
    return {match[1]: match[2] for match in found if match}


@pytest.mark.root
def test_green_is_every_stage(ci: Integration) -> None:
    done = ci.run()
    assert done.returncode == 0, done
    assert ci.made() == EVERY_STAGE
    assert table(done) == dict.fromkeys(EVERY_STAGE, "passed")
    assert "NOT RUN" not in done.stdout
    assert done.stdout.splitlines()[-1] == "3 passed in 1.00s"


@pytest.mark.root
def test_without_root_nothing_is_green() -> None:
    with TemporaryDirectory(prefix="podwire-ci-") as folder:  # pytest's own folders are closed to other users
        os.chmod(folder, 0o777)
        ci = Integration(Path(folder))
        done = ci.run(start=("setpriv", "--reuid=65534", "--clear-groups"))
        assert done.returncode == 1, done
        assert done.stderr == "ci: run this as root: without it the tests on a real kernel cannot run\n"
        assert ci.made() == []


@pytest.mark.root
def test_the_callers_settings_do_not_narrow_a_run(ci: Integration) -> None:
    done = ci.run(PYTEST_ARGS="-k nothing", PYTEST_ADDOPTS="-k nothing", MAKEFLAGS="n")
    assert done.returncode == 0, done
    assert {line.partition(" ")[2] for line in ci.asked.read_text().splitlines()} == {"PYTEST_ARGS="}


@pytest.mark.root
@pytest.mark.parametrize("broken", ["check", "test"])
def test_a_failed_default_stage_is_red_and_the_other_runs_all_the_same(ci: Integration, broken: str) -> None:
    done = ci.run(BROKEN=broken)
    assert done.returncode == 1
    assert ci.made() == ["check", "test"]
    assert table(done) == dict.fromkeys(EVERY_STAGE, "left out") | {"check": "passed", "test": "passed", broken: "FAILED"}


@pytest.mark.root
def test_a_failed_longer_stage_is_red(ci: Integration) -> None:
    done = ci.run(BROKEN="test-slow")
    assert done.returncode == 1
    assert table(done)["test-slow"] == "FAILED"


@pytest.mark.root
@pytest.mark.parametrize(("needs", "target"), [("machine", "test-machine"), ("tests.runtimes", "test-runtimes")])
def test_what_cannot_be_installed_is_left_out_and_said(ci: Integration, needs: str, target: str) -> None:
    ci.deps(f'[ "$1" != {needs} ] || exit {UNAVAILABLE}')
    done = ci.run()
    assert done.returncode == 0, done
    assert ci.made() == [stage for stage in EVERY_STAGE if stage != target]
    assert table(done)[target] == "left out"
    assert f"\nNOT RUN: {target}\n" in done.stdout


@pytest.mark.root
@pytest.mark.parametrize("status", [1, 2, 127])
def test_any_other_failure_of_the_packages_is_red(ci: Integration, status: int) -> None:
    """Packages that are there, or a script that is wrong: no reason to leave a stage out."""
    ci.deps(f'[ "$1" != machine ] || exit {status}')
    done = ci.run()
    assert done.returncode == 1
    assert table(done)["test-machine"] == "FAILED"
    assert "test-machine" not in ci.made()


@pytest.mark.root
def test_when_time_is_short_the_longer_stages_are_left_out_and_the_default_ones_are_not(ci: Integration) -> None:
    text = (ci.folder / ".ci" / "run").read_text()
    short = text.replace("SECONDS_ALLOWED=$((58 * 60))", "SECONDS_ALLOWED=110", 1)
    assert short != text
    (ci.folder / ".ci" / "run").write_text(short)
    done = ci.run()
    assert ci.made() == ["check", "test"]
    assert done.returncode == 0, done
    assert "\nNOT RUN: demo test-agent test-slow test-machine test-runtimes fresh\n" in done.stdout


# A run without a test.


def slow_tests(*options: str) -> Done:
    """pytest with the selection of `make test-slow`, on one module."""
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-m", "slow", *options, "tests/e2e/test_kill.py")
    return run(*command, env={"PATH": PATH})


def test_there_are_slow_tests() -> None:
    done = slow_tests("--collect-only")
    assert done.returncode == 0, done
    assert "::" in done.stdout


def test_a_selection_that_matches_no_test_fails() -> None:
    """`make test-slow` does not pass by having nothing to do."""
    assert slow_tests("-k", "nothing_like_it").returncode == 5  # pytest: no tests were collected


# The benchmark.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--only", "nothing"), "--only: no case's name contains 'nothing'; there are: start-up; "),
        (("--rounds", "1"), "--rounds: '1' is no number from 2 on"),
        (("--rounds", "-2"), "--rounds: '-2' is no number from 2 on"),
        (("--rounds", "many"), "--rounds: 'many' is no number from 2 on"),
        (("--ours", "/nowhere"), "no plugins of podwire in /nowhere"),
    ],
)
def test_wrong_options_of_the_benchmark(options: tuple[str, str], says: str) -> None:
    done = run(sys.executable, "-m", "bench", *options, env={"PATH": PATH})
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr
