"""What an agent may say, judged by agent.frame: the second opinion beside the native client's parser."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from agent import frame
from agent.frame import Answer, FrameError, OtherVersion
from tests.harness.wrappers import ROOT

if TYPE_CHECKING:
    from random import Random

CASES: list[dict[str, Any]] = json.loads((ROOT / "tests" / "data" / "frame" / "replies.json").read_text())

# In the order of `enum verdict` in shim/shim.c.
VERDICTS = ("open", "begun", "answered", "refused", "foreign", "garbled")


class Judged(NamedTuple):
    """A verdict on all bytes of an agent so far, and the answer where there is one."""

    verdict: str
    answer: Answer | None = None


def judge(data: bytes) -> Judged:
    """The rules of docs/protocol.md, by the decoder of the other side."""
    try:
        head = _head(data)
    except OtherVersion:
        return Judged("foreign")
    except FrameError:
        return Judged("garbled")
    if head is None:
        return Judged("open")
    if head[0] != frame.TAKEN:
        return Judged("refused" if head[0] == frame.DECLINED else "garbled")
    rest = data[frame.HEADER_SIZE :]
    try:
        head = _head(rest)
        if head is None:
            return Judged("begun")
        kind, size = head
        if kind != frame.ANSWER:
            return Judged("garbled")
        body = rest[frame.HEADER_SIZE :][:size]
        return Judged("begun") if len(body) < size else Judged("answered", frame.decode_answer(body))
    except FrameError:
        return Judged("garbled")


def _head(data: bytes) -> tuple[int, int] | None:
    """Kind and size, None where the header is not all there; what cannot become one is a FrameError already."""
    if not frame.MAGIC.startswith(data[:4]) and not data.startswith(frame.MAGIC):
        raise FrameError("another magic")
    return frame.read_header(data[: frame.HEADER_SIZE]) if len(data) >= frame.HEADER_SIZE else None


def case_bytes() -> list[bytes]:
    return [bytes.fromhex(case["hex"]) for case in CASES]


def mutated(random: Random, count: int) -> list[bytes]:
    """So many variations of the cases: bytes changed, lengths bent, pieces cut out, doubled and joined."""
    seeds = [data for data in case_bytes() if data]
    return [_mutation(random, seeds) for _ in range(count)]


def _mutation(random: Random, seeds: list[bytes]) -> bytes:
    data = bytearray(random.choice(seeds))
    for _ in range(random.randrange(4)):
        at = random.randrange(len(data) + 1)
        match random.randrange(7):
            case 0 if data:
                data[at % len(data)] = random.randrange(256)
            case 1 if data:
                data[at % len(data)] ^= 1 << random.randrange(8)
            case 2:
                data[at : at + random.randrange(1, 9)] = b""
            case 3:
                data[at:at] = random.randbytes(random.randrange(1, 9))
            case 4:
                data += random.choice(seeds)
            case 5:
                del data[at:]
            case 6:
                edge = random.choice((0, 1, 9, 255, len(data), 1 << 24, (1 << 31) - 1, (1 << 32) - 1, (1 << 32) - 9))
                data[at : at + 4] = edge.to_bytes(4, "little")
    return bytes(data)
