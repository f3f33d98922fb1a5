"""The client's parser and the agent's decoder judge the same bytes in the same way; the parser never reads past their end."""

from __future__ import annotations

import os
import subprocess
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import frame
from agent.frame import Answer
from tests.shim import build
from tests.shim.replies import CASES, VERDICTS, Judged, case_bytes, judge, mutated

if TYPE_CHECKING:
    from collections.abc import Iterator

# Where a search for new examples is asked for, each run draws others.
SEED = None if os.environ.get("PODWIRE_EXAMPLES") == "search" else 20


class Parser:
    """The client's parser, in one process under sanitizers."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([build.parser()], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin and self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout

    def judge(self, reply: bytes) -> Judged:
        self._to.write(len(reply).to_bytes(4, "little") + reply)
        self._to.flush()
        verdict = VERDICTS[self._read(1)[0]]
        return Judged(verdict, Answer(self._read(1)[0], self._record(), self._record()) if verdict == "answered" else None)

    def close(self) -> None:
        """Its end is without a report."""
        self._to.close()
        self._from.close()
        assert self._process.wait(30) == 0

    def _record(self) -> bytes:
        return self._read(int.from_bytes(self._read(4), "little"))

    def _read(self, size: int) -> bytes:
        data = self._from.read(size)
        assert len(data) == size, "a sanitizer ended it"
        return data


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    made = Parser()
    yield made
    made.close()


def compare(parser: Parser, replies: list[bytes]) -> None:
    for reply in replies:
        assert parser.judge(reply) == judge(reply), reply.hex()


@pytest.mark.parametrize("case", [pytest.param(case, id=case["what"]) for case in CASES])
def test_cases(parser: Parser, case: dict[str, Any]) -> None:
    expected = Judged(case["verdict"])
    if case["verdict"] == "answered":
        expected = Judged("answered", Answer(case["status"], bytes.fromhex(case["stdout"]), bytes.fromhex(case["stderr"])))
    data = bytes.fromhex(case["hex"])
    assert parser.judge(data) == expected, "the client"
    assert judge(data) == expected, "the agent's side"


def test_every_verdict_has_a_case() -> None:
    assert {case["verdict"] for case in CASES} == set(VERDICTS)


def test_every_beginning_of_every_case(parser: Parser) -> None:
    """Answers come in any pieces; a verdict that is final stays the same, whatever follows."""
    for data in case_bytes():
        pieces = [data[:end] for end in range(len(data) + 1)]
        verdicts = [parser.judge(piece) for piece in pieces]
        assert verdicts == [judge(piece) for piece in pieces]
        for before, after in pairwise(verdicts):
            assert before.verdict in ("open", "begun") or after == before
            assert (before.verdict, after.verdict) != ("begun", "open")


def test_mutated_replies(parser: Parser) -> None:
    compare(parser, mutated(Random(SEED), 20_000))


@pytest.mark.slow
def test_many_more_mutated_replies(parser: Parser) -> None:
    for seed in range(20):
        compare(parser, mutated(Random(None if SEED is None else seed), 50_000))


@given(st.lists(st.binary(max_size=80) | st.binary(max_size=60).map(lambda end: frame.TAKEN_FRAME + end), min_size=1))
def test_any_bytes(parser: Parser, replies: list[bytes]) -> None:
    compare(parser, replies)


@given(st.integers(0, 255), st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=20))
def test_answers_arrive(parser: Parser, status: int, stdout: bytes, stderr: bytes, after: bytes) -> None:
    answer = Answer(status, stdout, stderr)
    assert parser.judge(frame.TAKEN_FRAME + frame.encode_answer(answer) + after) == Judged("answered", answer)


def test_the_largest_answer(parser: Parser) -> None:
    answer = Answer(0, bytes(frame.LIMITS[frame.ANSWER] - 9 - 5), b"12345")
    whole = frame.TAKEN_FRAME + frame.encode_answer(answer)
    assert parser.judge(whole) == Judged("answered", answer)
    assert parser.judge(whole[:-1]) == Judged("begun")
