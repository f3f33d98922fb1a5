"""A small run of the whole benchmark, and a report from its file."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from bench.report import Report
from tests.harness.wrappers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

CASE = "bridge + host-local"


def bench(*options: str) -> str:
    done = subprocess.run([sys.executable, "-m", "bench", *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.root
def test_a_small_run(tmp_path: Path) -> None:
    """Who is faster is not asked here: others use the machine too."""
    file = tmp_path / "bench.json"
    said = bench("--only", CASE, "--rounds", "2", "--json", str(file))
    figures = msgspec.json.decode(file.read_bytes(), type=Report)
    lanes = {row.measure: set(row.lanes) for row in figures.rows}
    peers = {"resident", "one-shot", "reference"}
    assert lanes == {f"{CASE}: ADD": {*peers, "floor"}, f"{CASE}: CHECK": peers, f"{CASE}: DEL": {*peers, "floor"}}
    for row in figures.rows:
        for seen in row.lanes.values():
            assert seen.count == 16  # two rounds of eight pods
            assert 0 < seen.low <= seen.median <= seen.high
        assert (row.kernel is not None) == ("floor" in row.lanes)
        assert row.ratio is not None
    table = said[said.index("median (quartiles)") :].partition("written: ")[0]
    assert table in bench("--again", str(file))
