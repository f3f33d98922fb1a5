"""Figures from samples, what is within its aim, and what people get to read."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import msgspec
import pytest

from bench.__main__ import with_figures
from bench.cases import AIMS, CASES, FLAT, PICTURED, Aim
from bench.picture import draw
from bench.report import RATE, SIZE, Machine, Report, Samples, markdown, number, report, spread, table

MACHINE = Machine(cpus=2, kernel="6.1", load=0.1)
ADD, MANY = "bridge + host-local: ADD", "100 pods with ipMasq: ADDs per second, 8 at once"

TIMES = Samples(
    ADD,
    "ms",
    {"floor": [1.0, 1.0], "reference": [10.0, 10.0], "one-shot": [60.0, 70.0], "resident": [2.0, 3.0]},
)
RATES = Samples(MANY, RATE, {"resident": [300.0, 300.0], "reference": [100.0, 100.0], "floor": [600.0, 600.0]})
MEMORY = Samples("memory", SIZE, {"resident set": [30.0, 31.0, *[40.0] * 17, 41.0, 42.5], "proportional": [20.0] * 21})


def of(*samples: Samples) -> Report:
    return report(samples, MACHINE, rounds=2, cycles=1000)


def test_every_figure_that_is_named_is_measured() -> None:
    measured = {measure for case in CASES for measure in case.measures()}
    assert {*AIMS, *FLAT[:2], *PICTURED} <= measured


def test_measures_have_names_of_their_own() -> None:
    names = [measure for case in CASES for measure in case.measures()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("aim", "value", "met"),
    [
        (Aim(0.4), 0.4, True),
        (Aim(0.4), 0.41, False),
        (Aim(4, least=True), 4.0, True),
        (Aim(4, least=True), 3.9, False),
    ],
)
def test_an_aim(aim: Aim, value: float, met: bool) -> None:
    assert aim.met(value) is met


def test_the_spread_of_samples() -> None:
    seen = spread([4.0, 1.0, 2.0, 3.0, 100.0])
    assert (seen.median, seen.low, seen.high, seen.count) == (3.0, 2.0, 4.0, 5)


def test_times_are_compared_and_the_kernel_has_its_share() -> None:
    (row,) = of(TIMES).rows
    assert (row.ratio, row.kernel) == (0.25, 0.4)
    assert row.aim is not None
    assert (row.aim.aim, row.aim.met) == ("≤ 0.4", True)


def test_of_rates_more_is_better() -> None:
    (row,) = of(RATES).rows
    assert (row.ratio, row.kernel) == (3.0, 0.5)
    assert row.aim is not None
    assert (row.aim.aim, row.aim.met) == ("≥ 4", False)


def test_many_leases_are_compared_with_few() -> None:
    many, few, _ = FLAT
    samples = [Samples(name, "ms", {"resident": [value] * 2}) for name, value in ((many, 1.5), (few, 1.0))]
    (one,) = of(*samples).others
    assert (one.value, one.met) == (1.5, False)


def test_memory_is_judged_at_the_start_and_at_the_end_and_growth_in_between() -> None:
    idle, end, growth, _ = of(MEMORY).others
    assert [(one.value, one.met) for one in (idle, end, growth)] == [(30.0, True), (42.5, True), (2.5, False)]


def test_a_report_survives_its_file() -> None:
    figures = of(TIMES, RATES, MEMORY)
    assert msgspec.json.decode(msgspec.json.encode(figures), type=Report) == figures


@pytest.mark.parametrize(
    ("value", "text"), [(0.123, "0.12"), (9.99, "9.99"), (10.04, "10.0"), (99.94, "99.9"), (4248.9, "4,249")]
)
def test_figures_are_rounded(value: float, text: str) -> None:
    assert number(value) == text


def test_the_table_shows_medians_aims_and_the_kernels_share() -> None:
    lines = table(of(TIMES, RATES, MEMORY)).splitlines()
    assert re.split(r" {2,}", lines[1]) == [
        ADD, "ms", "2.50 (2.25–2.75)", "65.0 (62.5–67.5)", "10.0 (10.0–10.0)", "0.25", "≤ 0.4", "✓ met", "40 % (2.5 × it)",
    ]  # fmt: skip
    assert "≥ 4  ✗ missed" in lines[2]
    assert re.search(r"growth .* 2\.50 +≤ 2 +✗ missed", lines[-2])


def test_the_readme_gets_a_table_between_its_marks() -> None:
    before = "above\n\n<!-- bench: begin. Figures. -->\n\nold\n\nfigures\n\n<!-- bench: end -->\n\nbelow\n"
    after = with_figures(before, markdown(of(TIMES, MEMORY)))
    assert after.startswith("above\n\n<!-- bench: begin. Figures. -->\n\n| ")
    assert after.endswith("\n\n<!-- bench: end -->\n\nbelow\n")
    assert f"\n| {ADD} | ms | 2 | 2.50 | 65.0 | 10.0 | 0.25 | 40 % |\n" in after
    assert "old" not in after


def test_the_picture_is_drawn_to_scale() -> None:
    root = ET.fromstring(draw(of(TIMES, RATES)))
    svg = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{svg}text")]
    ours, alone, go = [float(bar.get("width", "")) for bar in root.iter(f"{svg}rect")][1:4]
    assert alone / ours == pytest.approx(65 / 2.5, rel=0.01)
    assert go / ours == pytest.approx(10 / 2.5, rel=0.01)
    assert {ADD, "2.50 ms", "with agent: 0.25 of the Go plugins' time"} <= set(texts)
    assert {"300 /s", "with agent: 3.0 × as many as the Go plugins"} <= set(texts)


def test_the_picture_stays_within_its_frame() -> None:
    root = ET.fromstring(draw(of(TIMES, RATES)))
    width, height = (float(root.get(name, "")) for name in ("width", "height"))
    for one in root.iter():
        for name, limit in (("x", width), ("x1", width), ("x2", width), ("y", height), ("y1", height), ("y2", height)):
            assert 0 <= float(one.get(name, "0")) <= limit
