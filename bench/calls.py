"""Starting plugin calls and timing them, with as little work of our own as Python can do.

``posix_spawn`` is a vfork: nothing of this process is copied. A call reads its configuration from a file and writes its answer
to one (both on a tmpfs), so nobody has to be awake to feed a pipe. Of calls that run at once each has a process that starts it:
a vfork waits until the new program runs, so where processors are short everybody would wait for a process that starts them all.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from cni.net import netns

if TYPE_CHECKING:
    from collections.abc import Iterable

# A report is one line, small enough for the kernel to write it whole (pipe(7), PIPE_BUF), even if each character needs six.
LINE = 600


class Failed(Exception):
    """A call that was to succeed did not: the measurement is worth nothing."""


class End(msgspec.Struct, frozen=True):
    """When a caller was done, and why it gave up if it did."""

    at: float
    failure: str


class Pipes(NamedTuple):
    """Between callers and who waits for them: the word to begin, a byte each; reports; that all may leave, by closing."""

    go: tuple[int, int]
    ended: tuple[int, int]
    leave: tuple[int, int]


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

    A queue is worked through by a process of its own, forked before the clock starts, which stays until the clock has stopped:
    the end of a Python process takes as long as a call.
    """
    pipes = Pipes(os.pipe(), os.pipe(), os.pipe())
    callers = [_caller(queue, pipes) for queue in queues]
    os.close(pipes.ended[1])
    began = time.perf_counter()
    os.write(pipes.go[1], b"!" * len(callers))
    with os.fdopen(pipes.ended[0], "rb") as reports:
        ends = [msgspec.json.decode(line, type=End) for line in reports]
    for descriptor in (*pipes.go, *pipes.leave):
        os.close(descriptor)
    for pid in callers:
        os.waitpid(pid, 0)
    failures = [end.failure for end in ends if end.failure]
    if failures or len(ends) < len(callers):
        raise Failed(failures[0] if failures else "a process that makes calls was killed")
    return max((end.at - began for end in ends), default=0.0)


def _caller(queue: Iterable[Call], pipes: Pipes) -> int:
    """Fork a process that waits for the word, makes the calls of a queue and reports its end; its process id."""
    pid = os.fork()
    if pid:
        return pid
    failure = ""
    try:
        netns.die_with_parent()
        os.close(pipes.go[1])
        os.close(pipes.leave[1])
        if os.read(pipes.go[0], 1):  # nothing: who was to give the word has gone
            for call in queue:
                timed(call)
    except BaseException as error:
        failure = str(error) if isinstance(error, Failed) else repr(error)
    finally:
        end = End(time.perf_counter(), failure[:LINE])
        os.write(pipes.ended[1], msgspec.json.encode(end) + b"\n")
        os.close(pipes.ended[1])
        os.read(pipes.leave[0], 1)
        os._exit(0)


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
