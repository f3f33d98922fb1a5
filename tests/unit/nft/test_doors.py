"""The doors where the library or the programs are missing or fail; no rule is touched here."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

import cni.nft.iptables as door
from cni.nft.apply import Busy, Exists, Nft, NftError, NotFound, _error
from cni.nft.iptables import Iptables, IptablesError, NoProgram
from cni.spec.errors import TryAgain, Unusable

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("Error: Could not process rule: No such file or directory\ndelete ...", NotFound),
        ("Error: No such file or directory; did you mean table ‘x’ in family inet?", NotFound),
        ("Error: Could not process rule: File exists", Exists),
        ("Error: Could not process rule: Device or resource busy", Busy),
        ("Error: Could not process rule: Operation not permitted", NftError),
        ("Error: syntax error, unexpected string", NftError),
    ],
)
def test_the_cause_is_read_from_nfts_text(told: str, kind: type[NftError]) -> None:
    error = _error("cannot do it", told)
    assert type(error) is kind and str(error).startswith("cannot do it: Error: ")


def test_a_long_complaint_is_cut() -> None:
    assert len(_error("cannot do it", "Error: x\n" * 1000).details) <= 600


def test_a_missing_library_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    broken: Any = None
    monkeypatch.setitem(sys.modules, "nftables", broken)
    with pytest.raises(Unusable, match=r"cannot load libnftables.*libnftables1"):
        Nft().run("list chains")
    nft = Nft()
    assert "libnftables1" in nft.available()
    nft.close()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only one with programs."""
    monkeypatch.setattr(door, "FOLDERS", ())
    return tmp_path


def script(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{body}\n")
    path.chmod(0o755)


def test_a_missing_program_names_package_and_way_out(programs: Path) -> None:
    with pytest.raises(NoProgram, match=r"no program iptables-restore.*package iptables.*leave the key out"):
        Iptables(str(programs)).restore(False, "*nat\nCOMMIT\n")
    assert "no program iptables-restore" in Iptables().available()
    assert Iptables().save(False) == ""


def test_one_text_goes_to_one_program(programs: Path) -> None:
    log = programs / "log"
    for name in ("iptables-restore", "ip6tables-restore", "iptables-legacy-restore"):
        script(programs, name, f'echo "$0 $*" >>{log}; cat >>{log}')
    iptables = Iptables(f"relative:{programs}:/nonexistent")
    iptables.restore(False, "four\n")
    iptables.restore(True, "six\n")
    iptables.restore(False, "old\n", legacy=True)
    iptables.restore(True, "no such variant\n", legacy=True)
    assert log.read_text().splitlines() == [
        f"{programs}/iptables-restore --noflush --wait 20",
        "four",
        f"{programs}/ip6tables-restore --noflush --wait 20",
        "six",
        f"{programs}/iptables-legacy-restore --noflush --wait 20",
        "old",
        f"{programs}/ip6tables-restore --noflush --wait 20",
        "no such variant",
    ]
    assert iptables.available() == ""


def test_a_failure_is_told_with_the_programs_words(programs: Path) -> None:
    script(programs, "iptables-restore", "echo 'line 2 failed' >&2; exit 2")
    with pytest.raises(IptablesError, match=r"cannot masquerade: .*iptables-restore ended with status 2: line 2 failed"):
        Iptables(str(programs)).restore(False, "x", "masquerade")
    script(programs, "iptables-save", "exit 3")
    with pytest.raises(IptablesError, match="cannot read iptables rules"):
        Iptables(str(programs)).save(False)


def test_a_taken_lock_is_a_reason_to_try_again(programs: Path) -> None:
    script(programs, "iptables-restore", "echo 'Another app is currently holding the xtables lock' >&2; exit 4")
    with pytest.raises(TryAgain, match="another program kept the iptables lock for 20 s"):
        Iptables(str(programs)).restore(False, "x")


def test_a_program_that_hangs_is_given_up(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(programs, "iptables-restore", "exec sleep 5")
    monkeypatch.setattr(door, "TIMEOUT_S", 0.1)
    with pytest.raises(TryAgain, match="did not end within"):
        Iptables(str(programs)).restore(False, "x")


def test_a_program_that_cannot_start_is_told(programs: Path) -> None:
    (programs / "iptables-restore").write_text("#!/nonexistent/interpreter\n")
    os.chmod(programs / "iptables-restore", 0o755)
    with pytest.raises(IptablesError, match="cannot start"):
        Iptables(str(programs)).restore(False, "x")


def test_the_legacy_tables_are_known_from_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tmp_path / "names"
    monkeypatch.setattr(door, "_LEGACY_TABLES", {False: str(names), True: str(tmp_path / "none")})
    assert not Iptables().legacy(False)
    names.write_text("filter\nnat\n")
    assert Iptables().legacy(False) and not Iptables().legacy(True)
    names.write_text("filter\n")
    assert not Iptables().legacy(False)
