"""The frame's numbers are the same on the page, in Python and in C."""

from __future__ import annotations

import re
from typing import Any

from agent import frame
from cni import oneshot
from tests.harness.wrappers import ROOT
from tests.shim.replies import VERDICTS
from tests.unit.test_docs import DOCS, SPAN, rows, section

PAGE = DOCS / "protocol.md"
TITLE = "The frame between shim and agent"
SHIM = (ROOT / "shim" / "shim.c").read_text()


def constants() -> dict[str, int]:
    """Every `NAME = number` of the client's enums; a name without a number is one more than the one before it."""
    found: dict[str, int] = {}
    for body in re.findall(r"^enum(?: \w+)? \{(.*?)\};", SHIM, re.MULTILINE | re.DOTALL):
        following = 0
        for entry in re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL).split(","):
            name, _, value = (part.strip() for part in entry.partition("="))
            following = found[name] = int(eval(value, {"__builtins__": {}}, found)) if value else following
            following += 1
    return found


def tables() -> dict[str, list[list[str]]]:
    """The rows of the section's tables by the head of their first column."""
    lines = section(PAGE, TITLE).splitlines()
    heads = [number for number, line in enumerate(lines) if line.startswith("|---")]
    found = {}
    for number in heads:
        text = "\n".join(lines[number - 1 :]).partition("\n\n")[0]
        found[lines[number - 1].strip("| ").split(" | ")[0]] = rows(text)
    return found


def test_kinds_and_limits() -> None:
    documented = {row[1]: (int(row[0]), int(row[3])) for row in tables()["kind"]}
    in_python = {name: (getattr(frame, name), frame.LIMITS[getattr(frame, name)]) for name in documented}
    assert documented == in_python
    assert {kind for kind, _ in documented.values()} == set(frame.LIMITS)
    in_c = constants()
    assert {name: in_c[name] for name in documented} == {name: kind for name, (kind, _) in documented.items()}
    limits = {name: in_c.get(f"{name}_LIMIT", 0) for name in documented}
    assert limits == {name: limit for name, (_, limit) in documented.items()}


def test_the_header() -> None:
    layout = tables()["offset"]
    ends = [int(row[0]) + int(row[1]) for row in layout]
    assert [int(row[0]) for row in layout] == [0, *ends[:-1]]
    in_c = constants()
    assert ends[-1] == frame.HEADER_SIZE == in_c["HEADER_SIZE"]
    assert SPAN.findall(layout[0][2]) == [frame.MAGIC.decode()]
    assert "{" + ", ".join(f"'{letter}'" for letter in frame.MAGIC.decode()) + "}" in SHIM
    assert f"version of the frame: {frame.VERSION}" in layout[1][2]
    assert in_c["FRAME_VERSION"] == frame.VERSION


def test_stdin() -> None:
    documented = next(row for row in tables()["part of CALL"] if row[0] == "stdin")
    assert documented[2] == f"at most {frame.STDIN_LIMIT} bytes"
    assert constants()["STDIN_LIMIT"] == frame.STDIN_LIMIT == oneshot.STDIN_LIMIT
    assert constants()["VERSION_PATIENCE_MS"] == oneshot.VERSION_PATIENCE_S * 1000


def test_settings() -> None:
    """All that the client reads of its environment, but for the runtime's own variables."""
    read = set(re.findall(r'getenv\("(\w+)"\)', SHIM))
    documented: dict[str, Any] = {SPAN.findall(row[0])[0]: row[1] for row in rows(section(PAGE, "Settings of the shim"))}
    assert documented.keys() == {name for name in read if not name.startswith("CNI_")}
    assert read - documented.keys() == {"CNI_COMMAND", "CNI_NETNS"}
    assert documented["PODWIRE_SOCKET"] == "`" + re.findall(r'DEFAULT_SOCKET\[\] = "(.*)"', SHIM)[0] + "`"
    assert int(documented["PODWIRE_TIMEOUT"]) == constants()["PATIENCE_S"]
    assert f"time limit of {constants()['PATIENCE_S']} seconds" in section(PAGE, TITLE)
    begin_s = int(re.findall(r"#define BEGIN_PATIENCE_MS (\d+)", SHIM)[0]) // 1000
    assert f"no TAKEN within {begin_s} s" in section(PAGE, TITLE)
    assert f"begins with for {begin_s} seconds" in section(DOCS / "agent.md", "When something hangs")


def test_verdicts_of_the_parser() -> None:
    """The order of the names that tests read a verdict by; C's say when, these say what."""
    order = sorted((number, name) for name, number in constants().items() if name.lower() in VERDICTS)
    assert [name.lower() for _, name in order] == list(VERDICTS)
