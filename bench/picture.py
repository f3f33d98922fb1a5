"""The figures as a picture: a group of bars for each measure, the median as the bar, the quartiles as a line across its end.

An SVG that needs nothing but itself. Its colours follow the reader's light or dark mode, and it has a ground of its own, so
that it can be read on a page of either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from bench.cases import FLOOR, ONE_SHOT, PICTURED, REFERENCE, RESIDENT
from bench.report import RATE, number, quotient

if TYPE_CHECKING:
    from bench.report import Report, Row, Spread

# Pixels.
WIDTH, MARGIN, LABELS, BARS = 840, 20, 150, 520
BAR, STEP, HEAD, GAP, TOP, BOTTOM = 14, 20, 24, 16, 76, 40

PEERS = {
    RESIDENT: ("ours", "podwire, with agent"),
    ONE_SHOT: ("alone", "podwire, without"),
    REFERENCE: ("go", "Go plugins"),
}

LEGEND = "Medians; the line across a bar's end goes from the lower to the upper quartile. Each group has its own scale."

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 }
.measure { font-size: 13px; font-weight: 600 }
.faint { fill: #57606a }
.end { text-anchor: end }
.ground { fill: #ffffff; stroke: #d0d7de }
.ours { fill: #1a7f5a }
.alone { fill: #8fc9b3 }
.go { fill: #8c959f }
.spread { stroke: #24292f; stroke-width: 1.5 }
.floor { stroke: #cf222e; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .faint { fill: #9da7b1 }
  .ground { fill: #0d1117; stroke: #30363d }
  .ours { fill: #3fb98a }
  .alone { fill: #28644e }
  .go { fill: #6e7681 }
  .spread { stroke: #e6edf3 }
  .floor { stroke: #ff7b72 }
}
"""


def draw(figures: Report) -> str:
    """The measures of PICTURED that the report has, as an SVG document."""
    rows = [row for row in figures.rows if row.measure in PICTURED]
    parts: list[str] = []
    y = TOP
    for row in rows:
        parts += _group(row, y)
        y += HEAD + len(_shown(row)) * STEP + GAP
    machine = figures.machine
    foot = f"{machine.cpus} processors, Linux {machine.kernel}; {figures.rounds} calls of each kind, by turns"
    parts.append(_text(MARGIN, y + 12, foot, "faint"))
    height = y + BOTTOM
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>Times of podwire and of the Go plugins</title>",
        f"<desc>{escape('; '.join(_told(row) for row in rows))}</desc>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
        _text(MARGIN, 30, "podwire beside the Go plugins", "title"),
        _text(
            MARGIN,
            52,
            LEGEND,
            "faint",
        ),
    ]
    if any(FLOOR in row.lanes for row in rows):
        x = WIDTH - MARGIN
        head += [_text(x - 10, 30, "the kernel's part alone", "end faint"), _line(x, 19, x, 33, "floor")]
    return "\n".join([*head, *parts, "</svg>", ""])


def _group(row: Row, top: int) -> list[str]:
    shown = _shown(row)
    scale = BARS / max(seen.high for seen in [*shown.values(), *_floor(row)])
    left = MARGIN + LABELS
    parts = [_text(MARGIN, top + 12, row.measure, "measure"), _text(WIDTH - MARGIN, top + 12, _ratio(row), "end")]
    for line, (name, seen) in enumerate(shown.items()):
        kind, label = PEERS[name]
        y = top + HEAD + line * STEP
        middle = y + BAR / 2
        parts += [
            _text(left - 10, y + 11, label, "end faint"),
            f'<rect class="{kind}" x="{left}" y="{y}" width="{seen.median * scale:.1f}" height="{BAR}" rx="2"/>',
            _line(left + seen.low * scale, middle, left + seen.high * scale, middle, "spread"),
            _text(left + max(seen.median, seen.high) * scale + 8, y + 11, _value(row, seen)),
        ]
    for seen in _floor(row):
        x = left + seen.median * scale
        parts.append(_line(x, top + HEAD - 3, x, top + HEAD + len(shown) * STEP - 3, "floor"))
    return parts


def _shown(row: Row) -> dict[str, Spread]:
    return {name: row.lanes[name] for name in PEERS if name in row.lanes}


def _floor(row: Row) -> list[Spread]:
    return [row.lanes[FLOOR]] if FLOOR in row.lanes else []


def _value(row: Row, seen: Spread) -> str:
    return f"{number(seen.median)}{' /s' if row.unit == RATE else ' ms'}"


def _ratio(row: Row) -> str:
    """The resident way by the reference, in words."""
    if row.ratio is None:
        return ""
    if row.unit == RATE:
        return f"with agent: {row.ratio:.1f} × as many as the Go plugins"
    return f"with agent: {quotient(row.ratio)} of the Go plugins' time"


def _told(row: Row) -> str:
    return f"{row.measure}: " + ", ".join(f"{PEERS[name][1]} {_value(row, seen)}" for name, seen in _shown(row).items())


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text{f" class={chr(34)}{kind}{chr(34)}" if kind else ""} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
