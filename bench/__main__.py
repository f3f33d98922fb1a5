"""Measure our executables and the Go reference's in one run and print both, with the ratio.

``python -m bench --help`` lists the options. All of it happens in a private node (see tests/harness): network and mount
namespaces of its own, that vanish at the end. Both peers run the same calls alternately, so that whatever else the machine does
hits both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

from bench.cases import CASES
from tests.harness.node import Node

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run the cases in a node and report."""
    options = _options()
    peers = {"podwire": str(options.ours.resolve()), "reference": str(options.reference.resolve())}
    for name, folder in peers.items():
        if not Path(folder, "bridge").exists():
            sys.exit(f"bench: no plugins of {name} in {folder} (make bundle; apt-get install containernetworking-plugins)")
    print(f"{options.rounds} rounds, podwire from {peers['podwire']}, reference from {peers['reference']}", flush=True)
    samples = _measure(peers, options.rounds, options.only)
    rows = [_row(name, samples[name]) for name in samples]
    _print(rows)
    machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    report = {"machine": machine, "rows": rows}
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")
        print(f"\nwritten to {options.json}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=_rounds, default=30, help="calls of each kind and peer, 2 at least (default 30)")
    parser.add_argument("--ours", type=Path, default=ROOT / "build" / "bundle", help="folder of our executables")
    parser.add_argument("--reference", type=Path, default=Path("/usr/lib/cni"), help="folder of the reference's")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    options = parser.parse_args()
    if not any(options.only in case.name for case in CASES):
        parser.error(f"--only: no case's name contains '{options.only}'; there are: {'; '.join(case.name for case in CASES)}")
    return options


def _rounds(text: str) -> int:
    """Quartiles need two values."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 2 on")
    return int(text)


def _measure(peers: dict[str, str], rounds: int, only: str) -> dict[str, dict[str, list[float]]]:
    """Milliseconds by measure and peer. The calls are made by a process inside the node, so entering it costs nothing."""
    samples: dict[str, dict[str, list[float]]] = {}
    for case in CASES:
        if only not in case.name:
            continue
        print(f"  {case.name} …", end="", flush=True)
        with Node() as node, TemporaryDirectory(prefix="podwire-bench-") as data:
            order = json.dumps({"case": case.name, "peers": peers, "rounds": rounds, "data": data})
            done = subprocess.run(
                node.argv([sys.executable, "-m", "bench.runner"]),
                input=order.encode(),
                stdout=subprocess.PIPE,
                cwd=ROOT,
                check=True,
            )
        samples.update(json.loads(done.stdout))
        print(" done", flush=True)
    return samples


def _row(name: str, by_peer: dict[str, list[float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"measure": name}
    for peer, values in by_peer.items():
        low, _, high = quantiles(values, n=4)
        row[peer] = {"median": round(median(values), 2), "quartiles": [round(low, 2), round(high, 2)], "calls": len(values)}
    row["ratio"] = round(median(by_peer["podwire"]) / median(by_peer["reference"]), 2)
    return row


def _print(rows: list[dict[str, Any]]) -> None:
    width = max(len(row["measure"]) for row in rows)
    print(f"\n{'milliseconds, median (quartiles)':<{width}}  {'podwire':>22}  {'reference':>22}  {'ratio':>6}")
    for row in rows:
        cells = [
            f"{row[p]['median']:.1f} ({row[p]['quartiles'][0]:.1f}–{row[p]['quartiles'][1]:.1f})"
            for p in ("podwire", "reference")
        ]
        print(f"{row['measure']:<{width}}  {cells[0]:>22}  {cells[1]:>22}  {row['ratio']:>6.2f}")


if __name__ == "__main__":
    sys.exit(main())
