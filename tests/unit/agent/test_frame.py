"""The frame's codec: what goes in comes out, and no bytes but a frame's are accepted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import frame
from agent.frame import Answer, Call, FrameError, OtherVersion
from tests.harness.wrappers import ROOT

CASES = json.loads((ROOT / "tests" / "data" / "frame" / "calls.json").read_text())


# What a process can have in its environment: anything but zero bytes, kept as surrogates where it is no UTF-8.
def text_without(*unwanted: bytes) -> st.SearchStrategy[str]:
    def decoded(data: bytes) -> str:
        for each in unwanted:
            data = data.replace(each, b"")
        return data.decode("utf-8", "surrogateescape")

    return st.binary(max_size=40).map(decoded)


TEXT = text_without(b"\0")
KEY = text_without(b"\0", b"=")
CALLS = st.builds(
    Call,
    name=TEXT,
    folder=TEXT,
    sandbox=st.integers(-1, 2**31 - 1),
    env=st.dictionaries(KEY, TEXT, max_size=8),
    stdin=st.binary(max_size=200),
)
ANSWERS = st.builds(Answer, status=st.integers(0, 255), stdout=st.binary(max_size=200), stderr=st.binary(max_size=50))


def of_case(case: Any) -> Any:
    return pytest.param(case, id=case["what"])


def split(data: bytes) -> tuple[int, bytes]:
    """Kind and body of a whole frame."""
    kind, size = frame.read_header(data[: frame.HEADER_SIZE])
    body = data[frame.HEADER_SIZE :]
    assert len(body) == size
    return kind, body


@pytest.mark.parametrize("case", [of_case(case) for case in CASES if "call" in case])
def test_a_call_is_decoded(case: dict[str, Any]) -> None:
    expected = case["call"]
    decoded = frame.decode_call(bytes.fromhex(case["hex"]))
    assert decoded == Call(**{**expected, "stdin": expected["stdin"].encode()})


@pytest.mark.parametrize("case", [of_case(case) for case in CASES if "error" in case])
def test_what_is_no_call_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(FrameError, match=case["error"]) as caught:
        frame.decode_call(bytes.fromhex(case["hex"]))
    assert "\n" not in str(caught.value)


@given(CALLS)
def test_calls_go_round(call: Call) -> None:
    kind, body = split(frame.encode_call(call))
    assert (kind, frame.decode_call(body)) == (frame.CALL, call)


@given(ANSWERS)
def test_answers_go_round(answer: Answer) -> None:
    kind, body = split(frame.encode_answer(answer))
    assert (kind, frame.decode_answer(body)) == (frame.ANSWER, answer)


@given(CALLS, st.data())
def test_a_call_that_is_cut_or_goes_on_is_refused(call: Call, data: st.DataObject) -> None:
    body = split(frame.encode_call(call))[1]
    cut = data.draw(st.integers(0, len(body) - 1))
    for wrong in (body[:cut], body + b"\0"):
        with pytest.raises(FrameError):
            frame.decode_call(wrong)


@given(ANSWERS, st.data())
def test_an_answer_that_is_cut_or_goes_on_is_refused(answer: Answer, data: st.DataObject) -> None:
    body = split(frame.encode_answer(answer))[1]
    cut = data.draw(st.integers(0, len(body) - 1))
    for wrong in (body[:cut], body + b"\0"):
        with pytest.raises(FrameError):
            frame.decode_answer(wrong)


@given(CALLS, st.data())
def test_a_changed_call_is_another_call_or_refused(call: Call, data: st.DataObject) -> None:
    """No other exception, and what is accepted can be sent again."""
    body = bytearray(split(frame.encode_call(call))[1])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = frame.decode_call(bytes(body))
    except FrameError:
        return
    assert frame.decode_call(split(frame.encode_call(decoded))[1]) == decoded


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_refused(body: bytes) -> None:
    try:
        decoded = frame.decode_answer(body)
    except FrameError:
        return
    assert split(frame.encode_answer(decoded))[1] == body


@given(st.binary(min_size=12, max_size=12) | st.builds(lambda end: b"PDWR\x01" + end, st.binary(min_size=7, max_size=7)))
def test_any_bytes_are_a_header_or_refused(data: bytes) -> None:
    try:
        kind, size = frame.read_header(data)
    except FrameError:
        return
    assert frame.header(kind, size) == data


@pytest.mark.parametrize("kind", frame.LIMITS)
def test_limits(kind: int) -> None:
    limit = frame.LIMITS[kind]
    assert frame.read_header(frame.header(kind, limit)) == (kind, limit)
    with pytest.raises(FrameError, match=f"at most {limit}"):
        frame.header(kind, limit + 1)
    with pytest.raises(FrameError, match=f"at most {limit}"):
        frame.read_header(b"PDWR" + bytes((frame.VERSION, kind, 0, 0)) + (limit + 1).to_bytes(4, "little"))


@pytest.mark.parametrize("size", [0, 11, 13])
def test_a_header_has_twelve_bytes(size: int) -> None:
    with pytest.raises(FrameError, match=f"a header of {size} bytes"):
        frame.read_header((frame.TAKEN_FRAME * 2)[:size])


def test_another_version_is_told_apart_whatever_else_is_wrong() -> None:
    with pytest.raises(OtherVersion) as caught:
        frame.read_header(b"PDWR\x02\xff\xff\xff\xff\xff\xff\xff")
    assert str(caught.value) == "frame version 2, this is version 1"


def test_stdin_has_a_limit() -> None:
    call = Call("bridge", "/", frame.NO_SANDBOX, {}, bytes(frame.STDIN_LIMIT))
    body = split(frame.encode_call(call))[1]
    assert frame.decode_call(body) == call
    longer = body[: -frame.STDIN_LIMIT - 4] + (frame.STDIN_LIMIT + 1).to_bytes(4, "little") + bytes(frame.STDIN_LIMIT + 1)
    with pytest.raises(FrameError, match="of stdin"):
        frame.decode_call(longer)
    with pytest.raises(FrameError, match="of stdin"):
        frame.encode_call(Call("bridge", "/", frame.NO_SANDBOX, {}, bytes(frame.STDIN_LIMIT + 1)))


def test_what_is_too_large_is_not_encoded() -> None:
    with pytest.raises(FrameError, match="a body of"):
        frame.encode_call(Call("bridge", "/", 0, {"A": "x" * frame.LIMITS[frame.CALL]}, b""))
    with pytest.raises(FrameError, match="a body of"):
        frame.encode_answer(Answer(0, bytes(frame.LIMITS[frame.ANSWER])))


@pytest.mark.parametrize("status", [-1, 256])
def test_a_status_is_that_of_a_process(status: int) -> None:
    with pytest.raises(FrameError, match="exit status"):
        frame.encode_answer(Answer(status))


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("the agent shuts down", "the agent shuts down"),
        ("", ""),
        ("x" * 5000, "x" * 4096),
        ("ü" * 5000, "ü" * 2048),
        ("x" + "ü" * 5000, "x" + "ü" * 2047),
        ("\udcff", "\\udcff"),
    ],
)
def test_reasons(reason: str, told: str) -> None:
    kind, body = split(frame.encode_declined(reason))
    assert (kind, frame.decode_declined(body)) == (frame.DECLINED, told)


@pytest.mark.parametrize(
    "entries",
    [
        [b"A=1", b"B=", b"=C", b"D==", b"A=2"],
        [b"no sign at all", b"", b"A=1"],
        ["Ä=ö".encode(), b"\xff\xfe=\x80", b"CNI_ARGS=IP=1;K=v", b"LC_ALL=C.UTF-8"],
    ],
)
def test_an_environment_is_read_as_a_process_reads_its_own(entries: list[bytes]) -> None:
    """The same bytes must mean the same to the agent and to the one-shot program."""
    parts = b"".join(len(part).to_bytes(4, "little") + part for part in (b"bridge", b"/", *entries, b""))
    decoded = frame.decode_call(b"\xff\xff\xff\xff" + len(entries).to_bytes(4, "little") + parts)
    assert decoded.env == environment_of_a_process(entries)


def environment_of_a_process(entries: list[bytes]) -> dict[str, str]:
    """`os.environ` of a Python that was started with exactly these entries: by execve itself, which takes any."""
    code = (
        "import ctypes, sys\n"
        "entries = [bytes.fromhex(each) for each in sys.argv[2:]]\n"
        "show = 'import os; print(ascii(dict(os.environ)))'\n"
        "argv = (ctypes.c_char_p * 5)(sys.argv[1].encode(), b'-X', b'utf8', b'-c', show.encode())\n"
        "argv = (ctypes.c_char_p * 6)(*argv, None)\n"
        "ctypes.CDLL(None).execve(sys.argv[1].encode(), argv, (ctypes.c_char_p * (len(entries) + 1))(*entries, None))\n"
    )
    command = [sys.executable, "-c", code, os.path.realpath(sys.executable), *(entry.hex() for entry in entries)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = eval(done.stdout, {"__builtins__": {}})
    assert isinstance(found, dict)
    return {key: value for key, value in found.items() if key != "LC_CTYPE"}
