"""Measure our executables, through the agent and without it, beside the Go reference's, and say how they compare.

``python -m bench --help`` lists the options. All of it happens in private nodes (see tests/harness): network and mount
namespaces of their own, that vanish at the end. The peers make the same calls by turns, so that whatever else the machine does
hits all of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from bench import peers
from bench.calls import Failed
from bench.cases import CASES, Case
from bench.picture import draw
from bench.report import Machine, Report, Samples, markdown, report, table
from bench.runner import LOOKS, Order
from tests.harness.node import Failed as NoNode
from tests.harness.node import Node

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
JSON, PICTURE, README = ROOT / "build" / "bench.json", ROOT / "docs" / "bench.svg", ROOT / "README.md"
BEGIN, END = "<!-- bench: begin", "<!-- bench: end -->"

# Above this others share the processors, and figures are about them too.
QUIET = 0.5


def main() -> int:
    """Run the cases and report, or report again."""
    options = _options()
    try:
        figures = msgspec.json.decode(options.again.read_bytes(), type=Report) if options.again else _measure(options)
    except (Failed, NoNode, OSError, msgspec.DecodeError) as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit("\nbench: interrupted")
    print(f"\n{table(figures)}\n")
    if not options.again:
        _write(options.json, msgspec.json.format(msgspec.json.encode(figures)).decode() + "\n")
    if options.picture:
        _write(PICTURE, draw(figures))
    if options.readme:
        _write(README, with_figures(README.read_text(), markdown(figures)))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--rounds",
        type=_from(2),
        default=30,
        help="rounds of each case and peer, from 2 (default 30); its table says how many calls that were",
    )
    parser.add_argument(
        "--cycles", type=_from(200), default=20_000, help="ADD+DEL that the agent's memory is watched for (default 20000)"
    )
    parser.add_argument(
        "--ours", type=Path, default=ROOT / "build" / "bundle", help="folder of our executables (default build/bundle)"
    )
    parser.add_argument(
        "--reference", type=Path, default=Path("/usr/lib/cni"), help="folder of the reference's (default /usr/lib/cni)"
    )
    parser.add_argument(
        "--only", default="", help="only cases whose name contains this, upper and lower case as there; a wrong one lists them"
    )
    parser.add_argument("--json", type=Path, default=JSON, help=f"where the figures go (default {JSON.relative_to(ROOT)})")
    parser.add_argument("--again", type=Path, metavar="JSON", help="measure nothing, report on figures of an earlier run")
    parser.add_argument("--picture", action="store_true", help=f"also draw {PICTURE.relative_to(ROOT)}")
    parser.add_argument("--readme", action="store_true", help="also put the figures into README.md")
    options = parser.parse_args()
    if not any(options.only in case.name for case in CASES):
        parser.error(f"--only: no case's name contains '{options.only}'; there are: {'; '.join(case.name for case in CASES)}")
    if options.only and (options.picture or options.readme):
        parser.error("--picture and --readme want the figures of a whole run")
    load = os.getloadavg()[0]
    if options.readme and not options.again and load > QUIET:
        parser.error(f"--readme wants a machine that does nothing else: its load average is {load:.1f}, more than {QUIET}")
    return options


def _from(least: int) -> Callable[[str], int]:
    """Numbers from one on: quartiles need two values."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is no number from {least} on")
        return int(text)

    return read


def _measure(options: argparse.Namespace) -> Report:
    load = os.getloadavg()[0]
    machine = Machine(os.cpu_count() or 1, ".".join(platform.release().split(".")[:2]), load)
    samples: list[Samples] = []
    with TemporaryDirectory(prefix="podwire-bench-") as links:
        found = peers.find(options.ours.resolve(), options.reference.resolve(), Path(links))
        for peer in found:
            print(f"{peer.name}: {peer.folder}{f', agent {peer.agent[0]}' if peer.agent else ''}")
        print(f"{options.rounds} rounds; load average {load:.1f}{', the machine is not quiet' if load > QUIET else ''}")
        for case in CASES:
            if options.only in case.name:
                samples += _run(case, found, options.rounds, options.cycles)
    return report(samples, machine, options.rounds, options.cycles // LOOKS * LOOKS)


def _run(case: Case, found: tuple[peers.Peer, ...], rounds: int, cycles: int) -> list[Samples]:
    """The samples of one case. The calls are made by a process inside the node, so entering it costs nothing."""
    print(f"  {case.name} … ", end="", flush=True)
    with Node() as node, TemporaryDirectory(prefix="podwire-bench-") as data:
        order = Order(case.name, found, rounds, cycles, data)
        done = subprocess.run(
            node.argv([sys.executable, "-m", "bench.runner"]),
            input=msgspec.json.encode(order),
            stdout=subprocess.PIPE,
            cwd=ROOT,
            check=False,
        )
    if done.returncode:
        raise Failed(f"case '{case.name}' was not measured")
    print("done", flush=True)
    return msgspec.json.decode(done.stdout, type=list[Samples])


def with_figures(text: str, figures: str) -> str:
    """The README with these figures between the two marks."""
    return re.sub(f"({BEGIN}[^\n]*-->\n\n).*?(\n\n{END})", lambda marks: marks[1] + figures + marks[2], text, flags=re.DOTALL)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
