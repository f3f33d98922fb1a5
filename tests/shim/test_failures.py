"""Where something may have been started, or the input is at fault: an error object, and no second start."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from agent import frame
from agent.frame import TAKEN_FRAME, Answer, encode_answer
from cni import oneshot as cni_oneshot
from cni.spec.result import to_json
from tests.harness.wrappers import ROOT, python
from tests.shim.fake import CONFIG, Client, Done, OneShot, hang_up, wait
from tests.shim.replies import CASES

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    Agent = Callable[..., Any]


def error_of(done: Done, code: int, version: str = "1.0.0") -> dict[str, Any]:
    """The error object, which is printed in the layout of all documents, with nothing beside it."""
    assert (done.status, done.stderr) == (1, b""), done
    document: dict[str, Any] = json.loads(done.stdout)
    assert done.stdout == to_json(document)
    assert list(document) == ["cniVersion", "code", "msg", "details"]
    assert (document["code"], document["cniVersion"]) == (code, version)
    return document


ANSWER = TAKEN_FRAME + encode_answer(Answer(0, b"never printed"))

GONE = {
    "after TAKEN": (TAKEN_FRAME, hang_up),
    "in the answer's header": (ANSWER[:20], hang_up),
    "in the answer's body": (ANSWER[:-1], hang_up),
}


@pytest.mark.parametrize("steps", GONE.values(), ids=GONE)
def test_an_agent_that_ends_while_it_works(client: Client, agent: Agent, oneshot: OneShot, steps: tuple[Any, ...]) -> None:
    with agent(*steps) as served:
        told = error_of(client.run(), 11)
    assert told["msg"] == f"the podwire agent at '{client.socket_path}' ended while it worked on this call"
    assert (served.calls, served.after, oneshot.ran) == (1, b"", False)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["what"]) for case in CASES if case["verdict"] == "garbled"])
def test_garbage(client: Client, agent: Agent, oneshot: OneShot, case: dict[str, Any]) -> None:
    with agent(bytes.fromhex(case["hex"])) as served:
        told = error_of(client.run(), 11)
    assert told["msg"] == f"what listens at '{client.socket_path}' gave no answer of a podwire agent"
    assert (served.calls, served.after, oneshot.ran) == (1, b"", False)


def test_another_program_that_answers_before_it_reads(client: Client, agent: Agent, oneshot: OneShot) -> None:
    """The client cannot send all of its call, and looks at what was said before it decides."""

    def rude(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.close()

    with agent(rude, reads=False):
        error_of(client.run(stdin=CONFIG + b" " * (frame.STDIN_LIMIT - len(CONFIG))), 11)
    assert not oneshot.ran


SILENT = {
    "before TAKEN": (wait,),
    "after TAKEN": (TAKEN_FRAME, wait),
    "in the answer": (ANSWER[:-1], wait),
}


@pytest.mark.parametrize("steps", SILENT.values(), ids=SILENT)
def test_an_agent_that_is_silent(client: Client, agent: Agent, oneshot: OneShot, steps: tuple[Any, ...]) -> None:
    began = time.monotonic()
    with agent(*steps) as served:
        told = error_of(client.run(client.environment(PODWIRE_TIMEOUT="1")), 11)
    assert 0.9 < time.monotonic() - began < 10
    assert told["msg"] == f"the podwire agent at '{client.socket_path}' did not answer within 1 s"
    assert (served.calls, served.after, oneshot.ran) == (1, b"", False)


def test_an_agent_that_does_not_begin(hasty: Client, agent: Agent, oneshot: OneShot) -> None:
    """It says TAKEN when the client has given it up. That fails, so it does nothing, and nothing is done twice."""
    took: list[bool] = []

    def late(connection: socket.socket) -> None:
        deadline = time.monotonic() + 10
        while not oneshot.ran and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            connection.sendall(TAKEN_FRAME)
            took.append(True)
        except BrokenPipeError:
            took.append(False)

    began = time.monotonic()
    with agent(late) as served:
        assert hasty.run() == Done(7, b"ONESHOT", b"")
    assert 0.4 < time.monotonic() - began < 5
    assert (served.calls, took, oneshot.stdin) == (1, [False], CONFIG)


def test_an_agent_that_begins_at_the_last_moment(hasty: Client, agent: Agent, oneshot: OneShot) -> None:
    """From TAKEN on the whole time limit counts."""

    def pause(_: socket.socket) -> None:
        time.sleep(1)

    with agent(TAKEN_FRAME, pause, encode_answer(Answer(0, b"never printed"))):
        assert hasty.run().stdout == b"never printed"
    assert not oneshot.ran


def test_an_agent_that_reads_nothing_and_does_not_begin(hasty: Client, agent: Agent, oneshot: OneShot) -> None:
    """A part of the call is in its socket, which nobody can take for a whole one."""

    def sleep(_: socket.socket) -> None:
        time.sleep(1.5)

    config = CONFIG + b" " * 1_000_000
    with agent(sleep, reads=False):
        assert hasty.run(stdin=config) == Done(7, b"ONESHOT", b"")
    assert oneshot.stdin == config


def test_an_agent_that_does_not_read(client: Client, agent: Agent, oneshot: OneShot) -> None:
    """The socket's buffer is full, and the client does not wait for ever."""

    def sleep(_: socket.socket) -> None:
        time.sleep(2)

    with agent(sleep, reads=False):
        error_of(client.run(client.environment(PODWIRE_TIMEOUT="1"), CONFIG + b" " * 1_000_000), 11)
    assert not oneshot.ran


def test_an_agent_that_dribbles(client: Client, agent: Agent, oneshot: OneShot) -> None:
    """The time limit is for all of it, not for each piece."""

    def dribble(connection: socket.socket) -> None:
        for byte in ANSWER[:-1]:
            connection.sendall(bytes((byte,)))
            time.sleep(0.1)

    began = time.monotonic()
    with agent(dribble):
        error_of(client.run(client.environment(PODWIRE_TIMEOUT="1")), 11)
    assert time.monotonic() - began < 3
    assert not oneshot.ran


@pytest.mark.parametrize("setting", ["0", "1x", "99999"])
def test_a_time_limit_that_is_none(client: Client, agent: Agent, setting: str) -> None:
    """The usual one counts, so that an answer after more than a second is waited for."""

    def pause(_: socket.socket) -> None:
        time.sleep(1.1)

    with agent(pause, ANSWER):
        assert client.run(client.environment(PODWIRE_TIMEOUT=setting)).stdout == b"never printed"


VERSIONS = {
    b'{"cniVersion": "0.4.0"}': "0.4.0",
    b'{"name": "x", "cniVersion"\t:\r\n "0.3.1", "type": "y"}': "0.3.1",
    b'{"cniVersion":"1.0.0","prevResult":{"cniVersion":"0.4.0"}}': "1.0.0",
    b"": "1.1.0",
    b"{}": "1.1.0",
    b'{"cniVersion": 1}': "1.1.0",
    b'{"cniVersion": ""}': "1.1.0",
    b'{"cniVersion": "1.0.0': "1.1.0",
    b'{"cniVersion": "1.0.0-rc1"}': "1.1.0",
    b'{"cniVersion": "1.0.0\\n"}': "1.1.0",
    b'{"cniVersion": "123456789012345"}': "123456789012345",
    b'{"cniVersion": "1234567890123456"}': "1.1.0",
    b'{"cniVersion": "111111111111111111111111111"}': "1.1.0",
    b'{"cniVersion"': "1.1.0",
    b'{"cniVersion":': "1.1.0",
    b'{"cniVersion":"': "1.1.0",
    b'{"cniVersion" "0.4.0"}': "1.1.0",
    b'"cniVersio': "1.1.0",
}


@pytest.mark.parametrize(("config", "version"), VERSIONS.items())
def test_the_version_of_an_error(client: Client, agent: Agent, config: bytes, version: str) -> None:
    with agent(TAKEN_FRAME, hang_up):
        error_of(client.run(stdin=config), 11, version)


# The one-shot program cannot be started.


@pytest.mark.parametrize(
    ("path", "quoted"),
    [
        ("/nowhere/podwire", "/nowhere/podwire"),
        ('/no"where\\pod\nwire', '/no"where\\pod\\x0awire'),
        ("/nöwhere/<podwire>", "/n\\xc3\\xb6where/<podwire>"),
        ("/" + "ü" * 30_000, "/" + ("\\xc3\\xbc" * 1000)[: 999 * 4]),
    ],
)
def test_no_oneshot(client: Client, path: str, quoted: str) -> None:
    told = error_of(client.run(client.environment(PODWIRE_ONESHOT=path)), 11)
    # Too long is what the C library calls it: musl in the shipped program, glibc in the sanitized one.
    reasons = ("Filename too long", "File name too long") if len(path) > 4096 else ("No such file or directory",)
    assert told["msg"] in [f"cannot run '{quoted}': {reason}" for reason in reasons]
    assert told["details"].endswith("install podwire again, or start the agent")


def test_no_oneshot_beside_the_client(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "lib"
    folder.mkdir()
    client.program = shutil.copy(client.program, folder / "bridge")
    env = client.environment()
    del env["PODWIRE_ONESHOT"], env["CNI_COMMAND"]
    told = error_of(client.run(env), 11, "1.1.0")
    assert told["msg"] == f"cannot run '{folder}/podwire': No such file or directory"


# stdin


def oneshot_says(env: dict[str, str], stdin: int) -> bytes:
    """What the one-shot program prints for the same call."""
    chosen = {**env, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([python(), "-m", "cni", "bridge"], env=chosen, stdin=stdin, capture_output=True, check=False)
    assert done.returncode == 1
    return done.stdout


def test_the_longest_stdin(client: Client, agent: Agent) -> None:
    """It takes several sends; descriptors come with the first alone."""
    config = CONFIG + os.urandom(frame.STDIN_LIMIT - len(CONFIG))
    with agent(TAKEN_FRAME, encode_answer(Answer(0))) as served:
        assert client.run(stdin=config).status == 0
    assert served.call().stdin == config
    assert len(served.attached) == 1


@pytest.mark.parametrize("verb", ["ADD", "VERSION"])
def test_a_stdin_that_is_too_long(client: Client, agent: Agent, oneshot: OneShot, verb: str) -> None:
    with agent() as served, client.start(client.environment(verb)) as process:
        stdout, stderr = process.communicate(CONFIG + b" " * frame.STDIN_LIMIT, timeout=10)
    told = error_of(Done(process.returncode, stdout, stderr), 5, "1.1.0")
    assert told["msg"] == "cannot read the network configuration from stdin"
    assert told["details"] == f"more than {frame.STDIN_LIMIT} bytes"
    assert (served.calls, oneshot.ran) == (0, False)


def test_a_stdin_that_is_too_long_is_told_as_the_oneshot_program_does(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(b" " * (cni_oneshot.STDIN_LIMIT + 1))
    with path.open("rb") as mine, path.open("rb") as its:
        assert _with_stdin(client, mine.fileno()).stdout == oneshot_says(client.environment(), its.fileno())


def _with_stdin(client: Client, stdin: int, verb: str = "ADD") -> Done:
    with client.start(client.environment(verb), stdin=stdin) as process:
        stdout, stderr = process.communicate(timeout=10)
    return Done(process.returncode, stdout, stderr)


@pytest.mark.parametrize("verb", ["ADD", "VERSION"])
def test_a_stdin_that_cannot_be_read(client: Client, agent: Agent, oneshot: OneShot, verb: str) -> None:
    """The client and the one-shot program say so in the same bytes."""
    written = os.open("/dev/null", os.O_WRONLY)
    with agent() as served:
        done = _with_stdin(client, written, verb)
    assert error_of(done, 5, "1.1.0")["details"] == "[Errno 9] Bad file descriptor"
    assert done.stdout == oneshot_says(client.environment(verb), written)
    os.close(written)
    assert (served.calls, oneshot.ran) == (0, False)


def test_a_stdin_that_is_a_folder(client: Client, agent: Agent, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    with agent() as served:
        assert error_of(_with_stdin(client, folder), 5, "1.1.0")["details"] == "[Errno 21] Is a directory"
    os.close(folder)
    assert served.calls == 0


@pytest.mark.parametrize("verb", ["ADD", "VERSION"])
def test_a_stdin_that_is_closed(client: Client, agent: Agent, oneshot: OneShot, verb: str) -> None:
    with agent() as served, client.start(client.environment(verb), stdin=None, preexec_fn=lambda: os.close(0)) as process:
        stdout, stderr = process.communicate(timeout=10)
    told = error_of(Done(process.returncode, stdout, stderr), 5, "1.1.0")
    assert told["details"] == "[Errno 9] Bad file descriptor"
    assert (served.calls, oneshot.ran) == (0, False)


def test_a_stdin_that_comes_slowly_and_does_not_block(client: Client, agent: Agent) -> None:
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    with agent(TAKEN_FRAME, encode_answer(Answer(0))) as served, client.start(stdin=ours) as process:
        os.close(ours)
        for at in range(0, len(CONFIG), 10):
            os.write(theirs, CONFIG[at : at + 10])
            time.sleep(0.02)
        os.close(theirs)
        assert process.wait(10) == 0
    assert served.call().stdin == CONFIG


def test_a_stdin_that_never_ends(client: Client, agent: Agent, oneshot: OneShot) -> None:
    ours, theirs = os.pipe()
    os.write(theirs, CONFIG)
    with agent() as served, client.start(client.environment(PODWIRE_TIMEOUT="1"), stdin=ours) as process:
        stdout, stderr = process.communicate(timeout=10)
    os.close(ours)
    os.close(theirs)
    told = error_of(Done(process.returncode, stdout, stderr), 11)
    assert told["msg"] == "cannot read the network configuration from stdin"
    assert told["details"] == "it did not end within 1 s"
    assert (served.calls, oneshot.ran) == (0, False)


# VERSION can be typed.

ANSWER_TO_VERSION = (TAKEN_FRAME, encode_answer(Answer(0, b"{}")))


def test_version_with_a_stdin_that_never_ends(client: Client, agent: Agent) -> None:
    ours, theirs = os.pipe()
    os.write(theirs, CONFIG)
    began = time.monotonic()
    with agent(*ANSWER_TO_VERSION) as served, client.start(client.environment("VERSION"), stdin=ours) as process:
        assert process.wait(10) == 0
    assert 0.9 < time.monotonic() - began < 5
    os.close(ours)
    os.close(theirs)
    assert served.call().stdin == CONFIG


def test_version_without_an_agent_and_with_a_stdin_that_never_ends(client: Client, oneshot: OneShot) -> None:
    ours, theirs = os.pipe()
    os.write(theirs, CONFIG)
    with client.start(client.environment("VERSION"), stdin=ours) as process:
        assert process.wait(10) == 7
    os.close(ours)
    os.close(theirs)
    assert oneshot.stdin == CONFIG


def test_version_at_a_terminal(client: Client, agent: Agent) -> None:
    ours, theirs = pty.openpty()
    began = time.monotonic()
    with agent(*ANSWER_TO_VERSION) as served, client.start(client.environment("VERSION"), stdin=theirs) as process:
        assert process.wait(10) == 0
    assert time.monotonic() - began < 0.9
    os.close(ours)
    os.close(theirs)
    assert served.call().stdin == b""
