"""Where nothing was started, the one-shot program is, in the client's place and with everything that the client was given."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from agent import frame
from agent.frame import TAKEN_FRAME, encode_declined
from tests.shim.fake import CONFIG, TOO_LONG_S, Client, Done, OneShot, hang_up

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Agent = Callable[..., Any]

RAN = Done(7, b"ONESHOT", b"")


def declines(connection: socket.socket) -> None:
    connection.sendall(encode_declined("the agent shuts down"))
    connection.shutdown(socket.SHUT_RDWR)


def resets(connection: socket.socket) -> None:
    """Close while there is something that was not read: the client gets a reset."""
    connection.close()


NOTHING_STARTED = {
    "declined": (declines,),
    "declined, and the connection stays": (encode_declined(""),),
    "another version": (b"PDWR\x02\x02\0\0\0\0\0\0",),
    "another version with a long body": (b"PDWR\x07\x63\1\2\xff\xff\xff\xff", b"x" * 5000),
    "hangs up": (hang_up,),
    "hangs up in the middle of TAKEN": (TAKEN_FRAME[:-1], hang_up),
    "hangs up in the middle of a reason": (encode_declined("the agent shuts down")[:-3], hang_up),
}


@pytest.mark.parametrize("steps", NOTHING_STARTED.values(), ids=NOTHING_STARTED)
def test_nothing_was_started(client: Client, agent: Agent, oneshot: OneShot, steps: tuple[Any, ...]) -> None:
    env = client.environment(CNI_ARGS="IP=10.0.0.2", EMPTY="")
    with agent(*steps) as served:
        assert client.run(env) == RAN
    assert served.calls == 1
    assert oneshot.arguments == [b"bridge"]
    assert oneshot.stdin == CONFIG
    assert set(oneshot.environ) == {f"{key}={value}".encode() for key, value in env.items()}


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_an_agent_that_resets(client: Client, agent: Agent, oneshot: OneShot, size: int) -> None:
    """It goes without having read; with a large call that is while the client still sends."""
    with agent(resets, reads=False):
        assert client.run(stdin=b"x" * size) == RAN
    assert oneshot.stdin == b"x" * size


def test_an_agent_that_declines_before_it_read_the_call(client: Client, agent: Agent, oneshot: OneShot) -> None:
    with agent(declines, reads=False):
        assert client.run(stdin=b"x" * (1 << 20)) == RAN
    assert oneshot.stdin == b"x" * (1 << 20)


def no_socket(path: Path) -> str:
    return str(path)


def nobody_listens(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return str(path)


def plain_file(path: Path) -> str:
    path.touch()
    return str(path)


def datagrams(path: Path) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
    return str(path)


def too_long(path: Path) -> str:
    return str(path.with_name("x" * 200))


def as_long_as_an_address(path: Path) -> str:
    """108 bytes, without room for the zero at the end."""
    return str(path)[:1] + "x" * 107


def set_and_empty(_: Path) -> str:
    return ""


NO_AGENT = (no_socket, nobody_listens, plain_file, datagrams, too_long, as_long_as_an_address, set_and_empty)


@pytest.mark.parametrize("make", NO_AGENT)
def test_no_agent(client: Client, oneshot: OneShot, make: Callable[[Path], str]) -> None:
    env = client.environment(PODWIRE_SOCKET=make(client.socket_path))
    assert client.run(env) == RAN
    assert oneshot.stdin == CONFIG


def test_a_path_as_long_as_an_address_can_hold(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, because the folder's own path may be long."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("x" * 107)
        listener.listen()
        listener.settimeout(TOO_LONG_S)
        with client.start(client.environment(PODWIRE_SOCKET="x" * 107), cwd=tmp_path) as process:
            assert process.stdin
            process.stdin.close()
            connection, _ = listener.accept()
            connection.sendall(encode_declined(""))
            connection.close()
            assert process.wait(10) == 7


def test_a_queue_of_connections_that_is_full(client: Client, oneshot: OneShot) -> None:
    """An agent that hangs accepts nobody; the client must not wait in its queue."""
    waiting = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(client.socket_path))
        listener.listen(0)
        while True:
            each = socket.socket(socket.AF_UNIX)
            waiting.append(each)
            each.setblocking(False)
            try:
                each.connect(str(client.socket_path))
            except BlockingIOError:
                break
        assert client.run() == RAN
    for each in waiting:
        each.close()
    assert oneshot.ran


@pytest.mark.parametrize("verb", [None, ""])
def test_without_a_command_stdin_is_not_touched(client: Client, agent: Agent, oneshot: OneShot, verb: str | None) -> None:
    env = client.environment()
    if verb is None:
        del env["CNI_COMMAND"]
    else:
        env["CNI_COMMAND"] = verb
    ours, theirs = os.pipe()
    with agent() as served, client.start(env, stdin=ours) as process:
        os.close(ours)
        deadline = time.monotonic() + 10
        while not oneshot.ran and time.monotonic() < deadline:
            time.sleep(0.01)  # it runs while stdin is still open
        os.write(theirs, b"by hand")
        os.close(theirs)
        assert process.wait(10) == 7
    assert oneshot.stdin == b"by hand"
    assert served.calls == 0


def test_its_own_name_and_no_other_is_a_question_for_help(client: Client, agent: Agent, oneshot: OneShot) -> None:
    with agent() as served:
        assert client.run(argv=["/opt/podwire/lib/shim"]) == RAN
    assert oneshot.arguments == [b""]
    assert served.calls == 0


def test_an_environment_that_no_frame_can_carry(client: Client, agent: Agent, oneshot: OneShot) -> None:
    """Linux gives a program at most 128 KiB in one entry; a larger stack limit makes room for many."""
    import resource

    env = client.environment(**{f"LARGE_{number}": "x" * 130_000 for number in range(25)})

    def room() -> None:
        resource.setrlimit(resource.RLIMIT_STACK, (64 << 20, resource.RLIM_INFINITY))

    with agent() as served:
        done = client.run(env, preexec_fn=room)
    assert done == RAN
    assert served.calls == 0
    assert oneshot.stdin == CONFIG
    assert len(oneshot.environ) == len(env)


def test_the_program_beside_the_real_file(client: Client, tmp_path: Path) -> None:
    """A link in the runtime's folder leads to the client, and the one-shot program lies beside that."""
    library, plugins = tmp_path / "lib", tmp_path / "bin"
    library.mkdir()
    plugins.mkdir()
    shutil.copy(client.program, library / "client")
    (plugins / "bridge").symlink_to(library / "client")
    client.program = plugins / "bridge"
    recorder = OneShot(library)
    for setting in ({}, {"PODWIRE_ONESHOT": ""}):
        env = client.environment()
        del env["PODWIRE_ONESHOT"]
        assert client.run(env | setting, argv=[str(plugins / "bridge")]) == RAN
        assert recorder.arguments == [b"bridge"]


def test_nothing_is_left_to_the_program_but_what_was_ours(client: Client, agent: Agent, oneshot: OneShot) -> None:
    """No descriptor, no ignored signal."""

    def as_a_runtime() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)

    with agent(declines):
        env = client.environment(CNI_NETNS="/proc/self/ns/uts")
        assert client.run(env, preexec_fn=as_a_runtime) == RAN
    opened = " ".join(oneshot.descriptors)
    assert "socket:" not in opened
    assert "net:[" not in opened
    assert "uts:[" not in opened
    assert opened.count("memfd:") == 1
    assert not oneshot.ignored_signals() >> (signal.SIGPIPE - 1) & 1


def test_a_caller_that_ignores_sigpipe(client: Client, oneshot: OneShot) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    assert client.run(preexec_fn=ignore, restore_signals=False) == RAN
    assert oneshot.ignored_signals() >> (signal.SIGPIPE - 1) & 1


def test_a_caller_that_closed_stdout_and_stderr(client: Client, oneshot: OneShot) -> None:
    done = client.run(stdout=None, stderr=None, preexec_fn=lambda: os.closerange(1, 3))
    assert done.status != 0
    assert oneshot.stdin == CONFIG


def test_stdin_of_a_large_call_comes_through_whole(client: Client, oneshot: OneShot) -> None:
    config = os.urandom(frame.STDIN_LIMIT)
    assert client.run(stdin=config) == RAN
    assert oneshot.stdin == config
