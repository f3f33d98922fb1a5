"""Starting plugin calls and timing them, with as little work of our own as Python can do.

``posix_spawn`` is a vfork: nothing of this process is copied. A call reads its configuration from a file and writes its answer
to one (both on a tmpfs), so nobody has to be awake to feed a pipe. One process starts all of them, also where a hundred run at
once: starting one takes it a fraction of a millisecond, and otherwise it sleeps.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Failed(Exception):
    """A call that was to succeed did not: the measurement is worth nothing."""


class Call(msgspec.Struct, frozen=True):
    """One plugin call: the program, its environment, the files for stdin and stdout."""

    program: str
    env: dict[str, str]
    stdin: str
    stdout: str


def timed(call: Call) -> float:
    """Seconds from starting one call to its end."""
    began = time.perf_counter()
    pid = _start(call)
    _, status = os.waitpid(pid, 0)
    spent = time.perf_counter() - began
    _judge(call, status)
    return spent


def together(queues: Iterable[Iterable[Call]]) -> float:
    """Seconds from the first start to the last end, when all queues begin at once and each starts a call when that before it
    has ended.
    """
    running: dict[int, tuple[Call, Iterator[Call]]] = {}
    waiting = [iter(queue) for queue in queues]
    began = time.perf_counter()
    for queue in waiting:
        _next(queue, running)
    while running:
        pid, status = os.wait()
        if pid not in running:  # the agent: the next call will say so
            continue
        call, queue = running.pop(pid)
        _judge(call, status)
        _next(queue, running)
    return time.perf_counter() - began


def _next(queue: Iterator[Call], running: dict[int, tuple[Call, Iterator[Call]]]) -> None:
    call = next(queue, None)
    if call is not None:
        running[_start(call)] = call, queue


def _start(call: Call) -> int:
    files = (
        (os.POSIX_SPAWN_OPEN, 0, call.stdin, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, call.stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    )
    return os.posix_spawn(call.program, [call.program], call.env, file_actions=files)


def _judge(call: Call, status: int) -> None:
    if status:
        said = Path(call.stdout).read_text(errors="replace").strip()
        code = os.waitstatus_to_exitcode(status)
        raise Failed(f"{call.program} {call.env.get('CNI_COMMAND', '')}: exit status {code}: {said}")
