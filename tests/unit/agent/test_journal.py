"""Log lines: what a call becomes, that nothing breaks a line, and where lines go."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.journal import (
    EVENTS,
    FORMATS,
    LEVELS,
    Journal,
    Served,
    fields_of,
    json_line,
    level_of,
    line,
    rfc3339,
    served,
    to_journald,
)
from agent.metrics import PHASES
from cni.dispatch import Reply, dispatch
from cni.spec.result import error_document
from tests.unit.test_docs import DOCS, FENCE, SPAN, rows, section

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = DOCS / "agent.md"

WORK = tuple(phase for phase in PHASES if phase != "wait")

ADDED = Served(
    plugin="bridge",
    verb="ADD",
    network="pods",
    container="cnitool-df26705e2e4ffd095eb1",
    ifname="eth0",
    addresses=("10.111.0.2/24",),
    total_s=0.0043,
    wait_s=0.000021,
    phases=(("parse", 0.00011), ("lease", 0.00042), ("look", 0.000512), ("execute", 0.002731), ("report", 0.000305)),
)
REFUSED = Served(
    plugin="bridge",
    verb="ADD",
    network="pods",
    container="cnitool-df26705e2e4ffd095eb1",
    ifname="eth0",
    code=3,
    total_s=0.00024,
    wait_s=0.000018,
    phases=(("parse", 0.000112),),
    msg='sandbox "/run/netns/gone" does not exist',
)

# What a caller can send, as the environment gives it: bytes that are no UTF-8 are lone surrogates.
HOSTILE = [
    "",
    " ",
    "a b",
    "a=b",
    'quo"te',
    "back\\slash",
    "end\\",
    "two\nlines",
    "\r\n\t",
    "\x00",
    "\x1b[31mred\x1b[0m",
    "\x7f\x85\x9b",
    "\u2028\u2029\u202e",
    "\udcff\udc80",
    "\ud800",
    "\U000e0001\U0010ffff",
    "naïve",
    "日本 😀",
    'level=error msg="forged"',
    "x\nlevel=error plugin=forged",
    "\ufeff",
]

PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^ "=]+)(?: |$)')


def parsed(text: str) -> dict[str, str]:
    """What a reader of logfmt makes of a line. All of it must be pairs."""
    found: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = PAIR.match(text, position)
        assert match, f"no pair at {position}: {text!r}"
        key, value = match.groups()
        assert key not in found
        found[key] = json.loads(value) if value.startswith('"') else value
        position = match.end()
    return found


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass  # the test has closed it


@pytest.fixture
def journal(pipe: tuple[int, int]) -> Iterator[Journal]:
    made = Journal(fd=pipe[1], env={})
    yield made
    made.close()


def read(pipe: tuple[int, int]) -> str:
    return os.read(pipe[0], 1 << 20).decode()


# Lines.


def test_examples_of_the_page_are_what_the_code_writes() -> None:
    told = [text.strip() for _, text in FENCE.findall(PAGE.read_text())]
    assert line(fields_of(ADDED)) in told
    assert line(fields_of(REFUSED)) in told


def test_keys_of_the_page_are_the_keys_of_a_line() -> None:
    full = msgspec.structs.replace(
        REFUSED, addresses=("10.0.0.1/8",), notes="n", repairs=("failed_add",), phases=tuple((name, 0.0) for name in WORK)
    )
    documented = [SPAN.findall(row[0])[0] for row in rows(section(PAGE, "Logs"))]
    keys = [key for key, _ in fields_of(full) if key.removesuffix("_ms") not in WORK]
    at = keys.index("wait_ms") + 1
    assert documented == ["time", *keys[:at], "<phase>_ms", *keys[at:], *EVENTS]
    phases = next(row for row in rows(section(PAGE, "Logs")) if "<phase>" in row[0])
    assert tuple(SPAN.findall(phases[1])) == WORK


def test_events_of_the_page_are_the_events() -> None:
    documented = {SPAN.findall(row[0])[0]: SPAN.findall(row[1])[0] for row in rows(section(PAGE, "Logs")) if len(row) == 3}
    assert documented == EVENTS
    assert set(EVENTS.values()) <= LEVELS.keys()


def test_what_is_empty_is_left_out() -> None:
    assert line(fields_of(Served(plugin="bridge", verb="STATUS", total_s=0.000012))) == (
        "level=info plugin=bridge verb=STATUS code=0 ms=0.012 wait_ms=0.000"
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_values_are_one_line_that_reads_back(text: str) -> None:
    told = line([("a", text), ("b", 1)])
    assert told.isprintable()
    assert parsed(told) == {"a": text, "b": "1"}


@given(st.lists(st.text(st.characters(), max_size=40), min_size=1, max_size=4))
def test_any_text_reads_back(texts: list[str]) -> None:
    fields: list[tuple[str, str | int | float]] = [(f"{'abcd'[number]}", text) for number, text in enumerate(texts)]
    told = line(fields)
    assert told.isprintable()
    told.encode()
    assert parsed(told) == {key: _paired(str(value)) for key, value in fields}
    as_json = json_line(fields)
    assert as_json.isprintable()
    assert list(json.loads(as_json)) == [key for key, _ in fields]


def _paired(text: str) -> str:
    """JSON has two surrogates in a row as one character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_calls_are_one_line(form: str, text: str, pipe: tuple[int, int]) -> None:
    call = Served(text, text, text, text, text, code=7, addresses=(text,), msg=text, notes=text)
    journal = Journal(form, fd=pipe[1], env={})
    journal.call(call)
    journal.event("refused", why=text)
    journal.close()
    lines = read(pipe).split("\n")
    assert len(lines) == 3 and lines[2] == "" and all(told.isprintable() for told in lines)


@pytest.mark.parametrize("text", [*HOSTILE[1:], "x", "日", "x" * 3499 + "\x00" * 501])
def test_long_values_stay_below_what_journald_splits(text: str) -> None:
    long = text * 20_000
    call = Served(long, long, long, long, long, code=7, msg=long, notes=long)
    assert len(line(fields_of(call)).encode()) < 48 << 10
    assert len(json_line(fields_of(call)).encode()) < 48 << 10


def test_a_long_text_keeps_both_ends() -> None:
    told = dict(fields_of(Served("bridge", "ADD", code=7, msg="first " + "x" * 9000 + " last")))["msg"]
    assert isinstance(told, str)
    assert told.startswith("first xx") and told.endswith("xx last") and "... 5011 more ..." in told


def test_json_has_the_same_keys_and_numbers_as_numbers() -> None:
    for call in (ADDED, REFUSED):
        document = json.loads(json_line(fields_of(call)))
        assert list(document) == [key for key, _ in fields_of(call)]
        assert document["ms"] == round(call.total_s * 1000, 3) and document["code"] == call.code


# From call to line.


def test_a_call_is_told_from_its_environment_and_its_reply() -> None:
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c0ffee", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/x"}
    reply = Reply(
        1,
        stdout=error_document("1.1.0", 11, "busy", "later"),
        stderr="bridge: one\nbridge: two\n",
        code=11,
        network="pods",
        addresses=("10.0.0.1/8", "fd00::1/64"),
        phases=(("parse", 0.001),),
        repairs=("failed_add",),
    )
    call = served("bridge", env, reply, wait_s=0.5, total_s=0.75)
    assert parsed(line(fields_of(call))) == {
        "level": "warning",
        "plugin": "bridge",
        "verb": "ADD",
        "network": "pods",
        "container": "c0ffee",
        "ifname": "eth0",
        "code": "11",
        "addresses": "10.0.0.1/8,fd00::1/64",
        "ms": "750.000",
        "wait_ms": "500.000",
        "parse_ms": "1.000",
        "msg": "busy: later",
        "repairs": "failed_add:1",
        "notes": "bridge: one\nbridge: two",
    }


@pytest.mark.parametrize("stdout", [b"", b"{", b"[]", b'{"msg": 1}', b'{"msg": "\xff"}', b"\xff"])
def test_an_answer_that_is_no_error_object_has_no_message(stdout: bytes) -> None:
    assert served("bridge", {}, Reply(1, stdout=stdout, code=999), 0, 0).msg == ""


def test_a_mistake_of_ours_is_an_error() -> None:
    no_bytes: Any = None
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "a", "CNI_NETNS": "/x", "CNI_IFNAME": "e", "CNI_PATH": "/"}
    reply = dispatch("bridge", env, no_bytes)
    call = served("bridge", env, Reply(1, stdout=reply.stdout, stderr=reply.stderr, code=999), 0, 0)
    assert level_of(call) == "error"
    assert "Traceback" in call.notes


def test_a_failure_is_a_warning_and_success_is_info() -> None:
    failed = Reply(1, stdout=error_document("1.1.0", 3, "gone", ""), code=3)
    assert level_of(served("bridge", {}, failed, 0, 0)) == "warning"
    assert level_of(served("bridge", {}, Reply(1), 0, 0)) == "info"
    assert level_of(served("bridge", {}, Reply(1, repairs=("unheard_add",)), 0, 0)) == "warning"


# Where lines go.


def test_a_line_has_the_time_first(pipe: tuple[int, int], journal: Journal) -> None:
    journal.event("listening", version="1")
    told = parsed(read(pipe).rstrip("\n"))
    assert list(told) == ["time", "level", "event", "version"]
    written = datetime.fromisoformat(told["time"])
    assert told["time"].endswith("Z") and abs(datetime.now(UTC) - written) < timedelta(minutes=1)


def test_times_are_rfc_3339() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000000Z"
    assert rfc3339(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456Z"


def test_journald_gets_a_priority_and_no_time(pipe: tuple[int, int]) -> None:
    seen = os.fstat(pipe[1])
    journal = Journal(fd=pipe[1], env={"JOURNAL_STREAM": f"{seen.st_dev}:{seen.st_ino}"})
    journal.call(ADDED)
    journal.call(REFUSED)
    journal.close()
    assert read(pipe) == f"<6>{line(fields_of(ADDED))}\n<4>{line(fields_of(REFUSED))}\n"


def test_a_stream_that_was_redirected_is_not_journald(pipe: tuple[int, int]) -> None:
    for value in ("", "1:2", "nonsense"):
        assert not to_journald({"JOURNAL_STREAM": value}, pipe[1])
    assert not to_journald({}, pipe[1])
    assert not to_journald({"JOURNAL_STREAM": "1:2"}, -1)


@pytest.mark.parametrize(("level", "written"), [("info", 3), ("warning", 2), ("error", 1)])
def test_levels(level: str, written: int, pipe: tuple[int, int]) -> None:
    journal = Journal(level=level, fd=pipe[1], env={})
    for call in (ADDED, REFUSED, msgspec.structs.replace(REFUSED, msg="internal error: KeyError: 'x'")):
        journal.call(call)
    journal.close()
    assert len(read(pipe).splitlines()) == written


def test_events_have_levels_too(pipe: tuple[int, int]) -> None:
    journal = Journal(level="warning", fd=pipe[1], env={})
    for event in EVENTS:
        journal.event(event, uid=1000)
    journal.close()
    assert [parsed(told)["event"] for told in read(pipe).splitlines()] == ["replaced", "declined", "refused"]


def test_a_reader_that_stands_still_keeps_nobody_waiting(pipe: tuple[int, int]) -> None:
    """What does not fit waits, in its order, and is written when somebody reads again, without a call that would push it."""
    journal = Journal(fd=pipe[1], env={})
    began = time.monotonic()
    for number in range(2000):
        journal.event("listening", number=number, pad="x" * 100)
    assert time.monotonic() - began < 5 and journal.lost == 0
    seen = b""
    while seen.count(b"\n") < 2000:
        seen += os.read(pipe[0], 1 << 16)
    assert [parsed(told)["number"] for told in seen.decode().splitlines()] == [str(number) for number in range(2000)]
    journal.close()
    assert journal.lost == 0


def test_what_is_too_much_is_lost_and_counted(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Long lines, too: a pipe takes them in pieces."""
    monkeypatch.setattr("agent.journal.BACKLOG", 3)
    journal = Journal(fd=pipe[1], env={})
    for number in range(40):
        journal.event("refused", number=number, reason="x" * 4000, more="y" * 4000)
    assert journal.lost > 10
    whole = 40 - journal.lost
    seen = b""
    while seen.count(b"\n") < whole:
        seen += os.read(pipe[0], 1 << 16)
    assert [parsed(told)["number"] for told in seen.decode().splitlines()] == [str(number) for number in range(whole)]
    journal.close()


def test_the_end_does_not_wait_for_a_reader_for_long(pipe: tuple[int, int]) -> None:
    journal = Journal(fd=pipe[1], env={})
    for _ in range(2000):
        journal.event("listening", pad="x" * 100)
    began = time.monotonic()
    journal.close(0.2)
    assert 0.1 < time.monotonic() - began < 2
    journal.event("stopped")
    assert journal.lost == 1


def test_nobody_reads(pipe: tuple[int, int], journal: Journal) -> None:
    os.close(pipe[0])
    journal.call(ADDED)
    journal.event("stopped")
    assert journal.lost == 2


def test_a_descriptor_that_is_closed_and_used_again_is_not_written_to(tmp_path: Path, pipe: tuple[int, int]) -> None:
    journal = Journal(fd=pipe[1], env={})
    os.close(pipe[1])
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    assert other == pipe[1], "the lowest free number"
    journal.call(ADDED)
    journal.close()
    os.close(other)
    assert (tmp_path / "other").read_bytes() == b""
    assert read(pipe).endswith(line(fields_of(ADDED)) + "\n")


def test_without_stderr_nothing_is_written(pipe: tuple[int, int]) -> None:
    os.close(pipe[1])
    journal = Journal(fd=pipe[1], env={})
    journal.call(ADDED)
    assert journal.lost == 1
    journal.close()
    journal.event("stopped")
    assert journal.lost == 2


def test_lines_of_threads_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "log"
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    journal = Journal(fd=fd, env={})
    call = msgspec.structs.replace(ADDED, notes="n" * 3000)
    threads = [threading.Thread(target=lambda: [journal.call(call) for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    os.close(fd)
    lines = file.read_text().splitlines()
    assert len(lines) == 1600
    assert {told.partition(" ")[2] for told in lines} == {line(fields_of(call))}
