"""From samples to figures, and figures as a table for a terminal and one for the README. Pure."""

from __future__ import annotations

from statistics import median, quantiles
from typing import TYPE_CHECKING

import msgspec

from bench.cases import AIMS, FLAT, FLOOR, GROWTH, MEMORY, ONE_SHOT, REFERENCE, RESIDENT, Aim

if TYPE_CHECKING:
    from collections.abc import Iterable

# The unit of a rate, of which more is better; of times less is.
RATE, SIZE = "/s", "MB"

HEADINGS = {RESIDENT: "resident", ONE_SHOT: "one-shot", REFERENCE: "reference", FLOOR: "floor"}


class Samples(msgspec.Struct, frozen=True):
    """The samples of one measure by lane, in the order in which they were taken."""

    measure: str
    unit: str
    lanes: dict[str, list[float]]


class Spread(msgspec.Struct, frozen=True):
    """Median and quartiles of some samples."""

    median: float
    low: float
    high: float
    count: int


class Judged(msgspec.Struct, frozen=True):
    """A figure and whether it is within its aim."""

    what: str
    value: float
    aim: str
    met: bool


class Row(msgspec.Struct, frozen=True):
    """A measure. ``ratio`` is the resident way's median by the reference's. ``kernel`` is the kernel's share of the resident
    way's time: the floor's by ours.
    """

    measure: str
    unit: str
    lanes: dict[str, Spread]
    ratio: float | None = None
    aim: Judged | None = None
    kernel: float | None = None


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured. ``load`` is the load average at the start."""

    cpus: int
    kernel: str
    load: float


class Report(msgspec.Struct, frozen=True):
    """All figures of one run, and the samples that they are of."""

    machine: Machine
    rounds: int
    cycles: int
    rows: list[Row]
    others: list[Judged]
    samples: list[Samples]


def spread(values: list[float]) -> Spread:
    """Of two samples at least."""
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(median(values), low, high, len(values))


def report(samples: Iterable[Samples], machine: Machine, rounds: int, cycles: int) -> Report:
    """All figures of these samples."""
    samples = list(samples)
    rows = [_row(one) for one in samples if one.unit != SIZE]
    others = _flatness(rows)
    for one in samples:
        if one.unit == SIZE:
            others += _memory(one.lanes, cycles)
    return Report(machine, rounds, cycles, rows, others, samples)


def _row(samples: Samples) -> Row:
    lanes = {name: spread(samples.lanes[name]) for name in HEADINGS if name in samples.lanes}
    ours, reference, floor = (lanes.get(name) for name in (RESIDENT, REFERENCE, FLOOR))
    ratio = ours.median / reference.median if ours and reference else None
    kernel = floor.median / ours.median if ours and floor else None
    aim = AIMS.get(samples.measure)
    return Row(
        samples.measure,
        samples.unit,
        lanes,
        ratio,
        _judged("ratio", ratio, aim) if aim and ratio is not None else None,
        1 / kernel if kernel and samples.unit == RATE else kernel,
    )


def _flatness(rows: list[Row]) -> list[Judged]:
    medians = {row.measure: row.lanes[RESIDENT].median for row in rows}
    many, few, aim = FLAT
    if many not in medians or few not in medians:
        return []
    return [_judged(f"{many} ÷ {few.partition(', ')[2]}, resident", medians[many] / medians[few], aim)]


def _memory(seen: dict[str, list[float]], cycles: int) -> list[Judged]:
    resident, proportional = seen["resident set"], seen["proportional"]
    tenth = resident[len(resident) // 10]
    return [
        _judged("agent's resident set when idle, MB", resident[0], MEMORY),
        _judged(f"the same after {cycles:,} ADD+DEL", resident[-1], MEMORY),
        _judged("the same, growth since a tenth of them", resident[-1] - tenth, GROWTH),
        _judged("agent's proportional set (Pss) at the end, MB", proportional[-1], MEMORY),
    ]


def _judged(what: str, value: float, aim: Aim) -> Judged:
    return Judged(what, value, str(aim), aim.met(value))


# For people.


def number(value: float) -> str:
    """A figure with about three digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def quotient(value: float | None) -> str:
    """A ratio with two digits that mean something."""
    return "" if value is None else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def share(row: Row) -> str:
    """The kernel's share of our time, and our multiple of the floor."""
    return "" if row.kernel is None else f"{row.kernel * 100:.0f} % ({1 / row.kernel:.1f} × it)"


def table(figures: Report) -> str:
    """Everything, in lines for a terminal."""
    peers = (RESIDENT, ONE_SHOT, REFERENCE)
    lines = [["median (quartiles)", "unit", *(HEADINGS[name] for name in peers), "ratio", "aim", "", "kernel's share"]]
    for row in figures.rows:
        lines.append(
            [
                row.measure,
                row.unit,
                *(_cell(row.lanes.get(name)) for name in peers),
                quotient(row.ratio),
                row.aim.aim if row.aim else "",
                _mark(row.aim.met) if row.aim else "",
                share(row),
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ["  ".join(_aligned(line, widths)).rstrip() for line in lines]
    if figures.others:
        width = max(len(one.what) for one in figures.others)
        text += ["", *(f"{one.what:<{width}}  {one.value:6.2f}  {one.aim:<6} {_mark(one.met)}" for one in figures.others)]
    return "\n".join(text)


def markdown(figures: Report) -> str:
    """The measures and the machine, for the README."""
    lines = [
        "| median | unit | n | with the agent | without | Go plugins | with ÷ Go | kernel's share |",
        "|---|---|---|---|---|---|---|---|",
    ]
    counts = {one.measure: len(one.lanes.get(RESIDENT, ())) for one in figures.samples}
    for row in figures.rows:
        cells = [number(row.lanes[name].median) if name in row.lanes else "" for name in (RESIDENT, ONE_SHOT, REFERENCE)]
        kernel = "" if row.kernel is None else f"{row.kernel * 100:.0f} %"
        lines.append(
            f"| {' | '.join([row.measure, row.unit, str(counts[row.measure]), *cells, quotient(row.ratio), kernel])} |"
        )
    lines += ["", *(f"- {one.what}: {one.value:.2f}" for one in figures.others)]
    machine = figures.machine
    lines += ["", f"{machine.cpus} processors, Linux {machine.kernel}, load average {machine.load:.1f} at the start."]
    return "\n".join(lines)


def _cell(seen: Spread | None) -> str:
    return f"{number(seen.median)} ({number(seen.low)}–{number(seen.high)})" if seen else ""


def _mark(met: bool) -> str:
    return "✓ met" if met else "✗ missed"


def _aligned(line: list[str], widths: list[int]) -> list[str]:
    """Words to the left, figures to the right."""
    words = (0, 1, 7)
    padded = zip(line, widths, strict=True)
    return [text.ljust(width) if column in words else text.rjust(width) for column, (text, width) in enumerate(padded)]
