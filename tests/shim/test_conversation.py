"""A call that an agent serves: what is sent, what is printed, what is confirmed."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from agent import frame
from agent.frame import PRINTED_FRAME, TAKEN_FRAME, Answer, Call, encode_answer
from tests.shim.fake import CONFIG, Client, Done, FakeAgent, OneShot, hang_up

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Agent = Callable[..., Any]

RESULT = b'{\n    "cniVersion": "1.0.0"\n}'


def identity(path: str | Path) -> tuple[int, int]:
    seen = os.stat(path)
    return seen.st_dev, seen.st_ino


def test_an_answer_is_printed_and_confirmed(client: Client, agent: Agent, oneshot: OneShot) -> None:
    with agent(TAKEN_FRAME, encode_answer(Answer(0, RESULT, b"bridge: a remark\n"))) as served:
        assert client.run() == Done(0, RESULT, b"bridge: a remark\n")
    assert served.calls == 1
    assert served.after == PRINTED_FRAME
    assert not oneshot.ran


@pytest.mark.parametrize("status", [1, 2, 255])
def test_an_error_is_printed_and_not_confirmed(client: Client, agent: Agent, status: int) -> None:
    with agent(TAKEN_FRAME, encode_answer(Answer(status, b'{"code": 7}', b"x"))) as served:
        assert client.run() == Done(status, b'{"code": 7}', b"x")
    assert served.after == b""


@pytest.mark.parametrize("end", [hang_up, encode_answer(Answer(1, b"", b"taken back"))], ids=["hangs up", "says more"])
def test_an_add_that_was_taken_back_is_no_success(client: Client, agent: Agent, end: Any) -> None:
    """The client was stopped for so long that the agent gave up waiting for PRINTED."""
    stopped = threading.Event()

    def take_back(connection: socket.socket) -> None:
        stopped.wait(10)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        connection.sendall(encode_answer(Answer(0, RESULT)))
        if callable(end):
            end(connection)
        else:
            connection.sendall(end)
        process.send_signal(signal.SIGCONT)

    with agent(TAKEN_FRAME, take_back) as served, client.start() as process:
        process.stdin.write(CONFIG)
        process.stdin.close()
        process.stdin = None
        stopped.set()
        stdout, _ = process.communicate(timeout=10)
    assert process.returncode == 1
    assert b'"code": 11,' in stdout and RESULT not in stdout
    assert served.after == b""


@pytest.mark.parametrize("stuck", ["stdout", "stderr"])
def test_an_add_whose_answer_nobody_reads_for_long_is_no_success(client: Client, agent: Agent, stuck: str) -> None:
    """The agent listens no more, and takes the ADD back; then the runtime reads on. It must not believe in the pod."""
    much = b"x" * (1 << 20)
    given_up = threading.Event()

    def give_up(connection: socket.socket) -> None:
        stream = process.stdout if stuck == "stdout" else process.stderr
        select.select([stream], [], [], 10)  # it is printing, into a pipe that is full
        connection.shutdown(socket.SHUT_RD)
        given_up.set()

    answer = Answer(0, much if stuck == "stdout" else RESULT, much if stuck == "stderr" else b"")
    with agent(TAKEN_FRAME, encode_answer(answer), give_up), client.start() as process:
        process.stdin.write(CONFIG)
        process.stdin.close()
        process.stdin = None
        assert given_up.wait(10)
        stdout, _ = process.communicate(timeout=10)
    assert process.returncode == 1
    if stuck == "stdout":
        assert stdout == much
    else:
        assert b'"code": 11,' in stdout and RESULT not in stdout


def test_nothing_to_print(client: Client, agent: Agent) -> None:
    with agent(TAKEN_FRAME, encode_answer(Answer(0))) as served:
        assert client.run(client.environment("DEL")) == Done(0, b"", b"")
    assert served.after == PRINTED_FRAME


def test_the_whole_call_is_sent(client: Client, agent: Agent, tmp_path: Path) -> None:
    env = client.environment(CNI_CONTAINERID="c0ffee", CNI_ARGS="IP=10.0.0.2;K=v", EMPTY="")
    with agent(TAKEN_FRAME, encode_answer(Answer(0))) as served:
        assert client.run(env, cwd=tmp_path).status == 0
    expected = Call("bridge", str(tmp_path), frame.NO_SANDBOX, env, CONFIG)
    assert served.call() == expected
    assert served.frame == frame.encode_call(expected)
    assert served.attached == [identity("/proc/self/ns/net")]


def test_bytes_that_are_no_utf8(client: Client, agent: Agent) -> None:
    env = {os.fsencode(key): os.fsencode(value) for key, value in client.environment().items()}
    env |= {b"\xff\xfe": b"\x80=\x81", "Ä".encode(): "ö".encode()}
    config = bytes(range(256)) * 3
    with agent(TAKEN_FRAME, encode_answer(Answer(0))) as served:
        assert client.run(env, config).status == 0
    assert served.call().env == {os.fsdecode(key): os.fsdecode(value) for key, value in env.items()}
    assert served.call().stdin == config


@pytest.mark.parametrize("how", ["together", "byte by byte", "cut in the middle of a header"])
def test_an_answer_in_any_pieces(client: Client, agent: Agent, how: str) -> None:
    whole = TAKEN_FRAME + encode_answer(Answer(0, RESULT, b"remark"))
    pieces = {
        "together": [whole],
        "byte by byte": [whole[at : at + 1] for at in range(len(whole))],
        "cut in the middle of a header": [whole[:18], whole[18:]],
    }

    def slowly(connection: socket.socket) -> None:
        for piece in pieces[how]:
            connection.sendall(piece)
            time.sleep(0.002)

    with agent(slowly) as served:
        assert client.run() == Done(0, RESULT, b"remark")
    assert served.after == PRINTED_FRAME


def test_a_large_answer(client: Client, agent: Agent) -> None:
    answer = Answer(0, os.urandom(frame.LIMITS[frame.ANSWER] - 9 - 70_000), os.urandom(70_000))
    with agent(TAKEN_FRAME, encode_answer(answer)) as served:
        assert client.run() == Done(0, answer.stdout, answer.stderr)
    assert served.after == PRINTED_FRAME


def test_stderr_comes_before_stdout(client: Client, agent: Agent) -> None:
    with agent(TAKEN_FRAME, encode_answer(Answer(0, b"second", b"first, "))):
        assert client.run(stderr=subprocess.STDOUT).stdout == b"first, second"


def test_an_answer_that_comes_late(client: Client, agent: Agent) -> None:
    """Waiting for a worker and the work itself may take their time."""

    def pause(_: socket.socket) -> None:
        time.sleep(0.4)

    with agent(pause, TAKEN_FRAME, pause, encode_answer(Answer(0, RESULT))):
        assert client.run(client.environment(PODWIRE_TIMEOUT="5")) == Done(0, RESULT, b"")


def test_a_reader_of_stdout_that_takes_its_time(client: Client, agent: Agent) -> None:
    """The pipe is full and does not block: the client waits for room."""
    answer = Answer(0, os.urandom(300_000))
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with agent(TAKEN_FRAME, encode_answer(answer)) as served:
        with client.start(stdout=theirs) as process, os.fdopen(ours, "rb") as reader:
            os.close(theirs)
            assert process.stdin
            process.stdin.write(CONFIG)
            process.stdin.close()
            time.sleep(0.1)
            assert process.poll() is None
            assert reader.read() == answer.stdout
        assert process.returncode == 0
    assert served.after == PRINTED_FRAME


@pytest.mark.parametrize("how", ["no reader", "closed", "full"])
def test_an_answer_that_cannot_be_printed_is_not_confirmed(client: Client, agent: Agent, how: str) -> None:
    """The agent then takes an ADD back."""
    streams: dict[str, Any] = {}
    opened = []
    if how == "no reader":
        ours, theirs = os.pipe()
        os.close(ours)
        opened = [theirs]
        streams = {"stdout": theirs}
    elif how == "closed":
        streams = {"stdout": None, "preexec_fn": lambda: os.close(1)}
    else:
        opened = [os.open("/dev/full", os.O_WRONLY)]
        streams = {"stdout": opened[0]}
    with agent(TAKEN_FRAME, encode_answer(Answer(0, RESULT, b"remark"))) as served:
        done = client.run(**streams)
    for descriptor in opened:
        os.close(descriptor)
    assert (done.status, done.stderr) == (1, b"remark")
    assert served.calls == 1
    assert served.after == b""


@pytest.mark.parametrize("how", ["no reader", "closed"])
def test_remarks_that_nobody_reads_do_not_matter(client: Client, agent: Agent, how: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    streams: dict[str, Any] = {"stderr": theirs} if how == "no reader" else {"stderr": None, "preexec_fn": lambda: os.close(2)}
    with agent(TAKEN_FRAME, encode_answer(Answer(0, RESULT, b"remark"))) as served:
        done = client.run(**streams)
    os.close(theirs)
    assert (done.status, done.stdout) == (0, RESULT)
    assert served.after == PRINTED_FRAME


def test_a_client_that_is_stopped_and_goes_on(client: Client, agent: Agent) -> None:
    """As by a debugger, or by a freezer: waiting goes on where it was."""

    def pause(_: socket.socket) -> None:
        time.sleep(0.3)

    with agent(pause, TAKEN_FRAME, pause, encode_answer(Answer(0, RESULT))), client.start() as process:
        assert process.stdin
        for _ in range(3):
            time.sleep(0.05)
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.05)
            process.send_signal(signal.SIGCONT)
        assert process.communicate(CONFIG, timeout=10) == (RESULT, b"")
    assert process.returncode == 0


@pytest.mark.root
def test_the_usual_socket(client: Client, tmp_path: Path) -> None:
    """Without a setting it is /run/podwire/cni.sock: here in a /run that only the client sees."""
    run = tmp_path / "run"
    (run / "podwire").mkdir(parents=True)
    script = 'mount --bind "$0" /run && exec "$1" bridge'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, run, client.program]
    env = client.environment()
    del env["PODWIRE_SOCKET"]
    with FakeAgent(run / "podwire" / "cni.sock", TAKEN_FRAME, encode_answer(Answer(0, RESULT))) as served:
        done = subprocess.run(command, env=env, input=CONFIG, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, RESULT, b"")
    assert served.after == PRINTED_FRAME


def test_descriptors_that_an_agent_sends_are_not_taken(client: Client, agent: Agent) -> None:
    def generous(connection: socket.socket) -> None:
        socket.send_fds(connection, [TAKEN_FRAME], [0, 1, 2])

    with agent(generous, encode_answer(Answer(0, RESULT))):
        assert client.run() == Done(0, RESULT, b"")


# CNI_NETNS


def test_the_namespace_of_the_pod_is_attached(client: Client, agent: Agent) -> None:
    with agent(TAKEN_FRAME, encode_answer(Answer(0))) as served:
        client.run(client.environment(CNI_NETNS="/proc/self/ns/uts"))
    assert served.call().sandbox == frame.ATTACHED
    assert served.attached == [identity("/proc/self/ns/net"), identity("/proc/self/ns/uts")]


@pytest.mark.parametrize("kind", ["file", "folder", "fifo"])
def test_what_is_no_namespace_is_attached_too(client: Client, agent: Agent, tmp_path: Path, kind: str) -> None:
    """The agent judges it, as the one-shot program does; a FIFO without a writer must not stop the client."""
    path = tmp_path / "netns"
    {"file": path.touch, "folder": path.mkdir, "fifo": lambda: os.mkfifo(path)}[kind]()
    with agent(TAKEN_FRAME, encode_answer(Answer(0))) as served:
        assert client.run(client.environment(CNI_NETNS=str(path))).status == 0
    assert served.call().sandbox == frame.ATTACHED
    assert served.attached == [identity("/proc/self/ns/net"), identity(path)]


@pytest.mark.parametrize(
    ("path", "error"),
    [("/nowhere/netns", "ENOENT"), ("/dev/null/netns", "ENOTDIR"), ("/" + "x" * 300, "ENAMETOOLONG"), ("", None)],
)
def test_a_namespace_that_cannot_be_opened(client: Client, agent: Agent, path: str, error: str | None) -> None:
    with agent(TAKEN_FRAME, encode_answer(Answer(0))) as served:
        client.run(client.environment(CNI_NETNS=path))
    assert served.call().sandbox == (getattr(errno, error) if error else frame.NO_SANDBOX)
    assert served.attached == [identity("/proc/self/ns/net")]


# Names


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["bridge"], "bridge"),
        (["/opt/cni/bin/host-local"], "host-local"),
        (["./loopback", "ignored"], "loopback"),
        (["shim", "static"], "static"),
        (["/opt/podwire/lib/shim", "bridge", "ignored"], "bridge"),
        ([b"br\xffdge"], "br\udcffdge"),
    ],
)
def test_names(client: Client, agent: Agent, argv: list[Any], name: str) -> None:
    with agent(TAKEN_FRAME, encode_answer(Answer(0))) as served:
        assert client.run(argv=argv).status == 0
    assert served.call().name == name


def test_a_folder_that_is_gone(client: Client, agent: Agent, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()

    def leave() -> None:
        os.chdir(folder)
        os.rmdir(folder)

    with agent(TAKEN_FRAME, encode_answer(Answer(0))) as served:
        assert client.run(preexec_fn=leave).status == 0
    assert served.call().folder == ""


def test_no_descriptor_of_ours_gets_a_standard_number(client: Client, agent: Agent) -> None:
    """Where the caller closed stdout and stderr, an answer must not be written into the agent's socket."""
    with agent(TAKEN_FRAME, encode_answer(Answer(0, RESULT, RESULT))) as served:
        done = client.run(stdout=None, stderr=None, preexec_fn=lambda: os.closerange(1, 3))
    assert done.status == 1
    assert served.after == b""
