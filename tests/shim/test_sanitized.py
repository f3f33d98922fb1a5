"""Whole calls of the sanitized client under an agent that says anything: whatever it is, the client ends as the rules say."""

from __future__ import annotations

import os
import socket
import time
from random import Random
from typing import TYPE_CHECKING

import pytest

from agent.frame import PRINTED_FRAME
from tests.shim import build
from tests.shim.fake import CONFIG, Client, Done, FakeAgent, OneShot, hang_up
from tests.shim.replies import judge, mutated

if TYPE_CHECKING:
    from pathlib import Path

SEED = None if os.environ.get("PODWIRE_EXAMPLES") == "search" else 3


def play(tmp_path: Path, seconds: float, random: Random) -> int:
    """Calls for so long a time; returns how many."""
    oneshot = tmp_path / "oneshot"
    oneshot.mkdir()
    client = Client(build.sanitized(), tmp_path / "cni.sock", OneShot(oneshot))
    # Quicker than the recorder; that one has its own tests.
    client.oneshot.path.write_text("#!/bin/sh\ncat\nexit 7\n")
    reply = b""
    cut = 0

    def say(connection: socket.socket) -> None:
        for piece in (reply[:cut], reply[cut:]):
            connection.sendall(piece)
        hang_up(connection)

    until, calls = time.monotonic() + seconds, 0
    with FakeAgent(client.socket_path, say) as agent:
        while time.monotonic() < until:
            for reply in mutated(random, 50):
                cut = random.randrange(len(reply) + 1)
                agent.after = b""
                done = client.run(client.environment("CHECK"))
                verdict, answer = judge(reply)
                if answer is not None:
                    assert done == Done(answer.status, answer.stdout, answer.stderr), reply.hex()
                elif verdict in ("open", "refused", "foreign"):
                    assert done == Done(7, CONFIG, b""), reply.hex()
                else:
                    assert (done.status, done.stderr) == (1, b""), reply.hex()
                    assert b'"code": 11,' in done.stdout, reply.hex()
                calls += 1
        assert agent.calls == calls
    return calls


def test_an_agent_that_says_anything(tmp_path: Path) -> None:
    assert play(tmp_path, 3, Random(SEED)) >= 50


@pytest.mark.slow
def test_an_agent_that_says_anything_for_longer(tmp_path: Path) -> None:
    assert play(tmp_path, 60, Random(SEED)) >= 50


def test_confirmations_are_for_successful_answers_alone(tmp_path: Path) -> None:
    client = Client(build.sanitized(), tmp_path / "cni.sock", OneShot(tmp_path))
    for reply in mutated(Random(SEED), 60):
        _, answer = judge(reply)
        with FakeAgent(client.socket_path, reply, lambda connection: connection.shutdown(socket.SHUT_WR)) as agent:
            client.run(client.environment("CHECK"))
        assert agent.after == (PRINTED_FRAME if answer and answer.status == 0 else b""), reply.hex()
        client.socket_path.unlink()
