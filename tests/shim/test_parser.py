"""The client's parser and the agent's decoder judge the same bytes in the same way; the parser never reads past their end."""

from __future__ import annotations

import os
import subprocess
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import frame
from agent.frame import Answer
from tests.shim import build
from tests.shim.replies import CASES, VERDICTS, Judged, case_bytes, judge, mutated

# Where a search for new examples is asked for, each run draws others.
SEED = None if os.environ.get("PODWIRE_EXAMPLES") == "search" else 20


def parsed(replies: list[bytes]) -> list[Judged]:
    """What the client's parser says of each, in one process under sanitizers."""
    records = b"".join(len(reply).to_bytes(4, "little") + reply for reply in replies)
    done = subprocess.run([build.parser()], check=False, input=records, capture_output=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, b"")
    told, at, found = done.stdout, 0, []

    def record(at: int) -> tuple[bytes, int]:
        end = at + 4 + int.from_bytes(told[at : at + 4], "little")
        return told[at + 4 : end], end

    while at < len(told):
        verdict, at = VERDICTS[told[at]], at + 1
        answer = None
        if verdict == "answered":
            status, (stdout, at) = told[at], record(at + 1)
            stderr, at = record(at)
            answer = Answer(status, stdout, stderr)
        found.append(Judged(verdict, answer))
    assert len(found) == len(replies)
    return found


def compare(replies: list[bytes]) -> None:
    for reply, by_client in zip(replies, parsed(replies), strict=True):
        assert by_client == judge(reply), reply.hex()


def test_cases() -> None:
    expected = []
    for case in CASES:
        answer = None
        if case["verdict"] == "answered":
            answer = Answer(case["status"], bytes.fromhex(case["stdout"]), bytes.fromhex(case["stderr"]))
        expected.append(Judged(case["verdict"], answer))
    for who, found in (("client", parsed(case_bytes())), ("agent", [judge(data) for data in case_bytes()])):
        for case, verdict, right in zip(CASES, found, expected, strict=True):
            assert verdict == right, f"{who}: {case['what']}"


def test_every_verdict_has_a_case() -> None:
    assert {case["verdict"] for case in CASES} == set(VERDICTS)


def test_every_beginning_of_every_case() -> None:
    """Answers come in any pieces; a verdict that is final stays the same, whatever follows."""
    for data in case_bytes():
        pieces = [data[:end] for end in range(len(data) + 1)]
        verdicts = parsed(pieces)
        assert verdicts == [judge(piece) for piece in pieces]
        for before, after in pairwise(verdicts):
            assert before.verdict in ("open", "begun") or after == before
            assert (before.verdict, after.verdict) != ("begun", "open")


def test_mutated_replies() -> None:
    compare(mutated(Random(SEED), 20_000))


@pytest.mark.slow
def test_many_more_mutated_replies() -> None:
    for seed in range(20):
        compare(mutated(Random(None if SEED is None else seed), 50_000))


@given(st.lists(st.binary(max_size=80) | st.binary(max_size=60).map(lambda end: frame.TAKEN_FRAME + end), min_size=1))
def test_any_bytes(replies: list[bytes]) -> None:
    compare(replies)


@given(st.integers(0, 255), st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=20))
def test_answers_arrive(status: int, stdout: bytes, stderr: bytes, after: bytes) -> None:
    answer = Answer(status, stdout, stderr)
    assert parsed([frame.TAKEN_FRAME + frame.encode_answer(answer) + after]) == [Judged("answered", answer)]


def test_the_largest_answer() -> None:
    answer = Answer(0, bytes(frame.LIMITS[frame.ANSWER] - 9 - 5), b"12345")
    whole = frame.TAKEN_FRAME + frame.encode_answer(answer)
    assert parsed([whole, whole[:-1]]) == [Judged("answered", answer), Judged("begun")]
