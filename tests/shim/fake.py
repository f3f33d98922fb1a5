"""A scripted agent, a recording one-shot program, and a way to call the native client between the two."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from agent import frame

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Longer than any test waits on purpose; only a defect gets there.
TOO_LONG_S = 30

CONFIG = b'{"cniVersion": "1.0.0", "name": "pods", "type": "bridge"}'


def wait(connection: socket.socket) -> None:
    """Say no more, and wait until the client goes."""
    while connection.recv(65536):
        pass


def hang_up(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


class FakeAgent:
    """Listens at ``path``, reads a call, then takes its steps: bytes are sent, a function gets the connection.

    After the last step it reads until the client goes. ``calls`` counts connections; ``frame`` is the last call as it came,
    ``attached`` the identities of its descriptors, ``after`` what came behind the call.
    """

    def __init__(self, path: Path, *steps: bytes | Callable[[socket.socket], None], reads: bool = True) -> None:
        self.path = path
        self.steps = steps
        self.reads = reads
        self.calls = 0
        self.frame = b""
        self.attached: list[tuple[int, int]] = []
        self.after = b""
        self.failure: BaseException | None = None

    def __enter__(self) -> FakeAgent:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(TOO_LONG_S)
        self._listener.close()
        assert not self._thread.is_alive(), "the client never went"
        if self.failure is not None:
            raise self.failure

    def call(self) -> frame.Call:
        """The last call, decoded."""
        kind, size = frame.read_header(self.frame[: frame.HEADER_SIZE])
        assert (kind, size) == (frame.CALL, len(self.frame) - frame.HEADER_SIZE)
        return frame.decode_call(self.frame[frame.HEADER_SIZE :])

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(TOO_LONG_S)
                try:
                    self._serve(connection)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client went before us
                except BaseException as error:
                    self.failure = error

    def _serve(self, connection: socket.socket) -> None:
        self.calls += 1
        if self.reads:
            self._read(connection)
        for step in self.steps:
            if isinstance(step, bytes):
                connection.sendall(step)
            else:
                step(connection)
        while connection.fileno() >= 0 and (more := connection.recv(65536)):
            self.after += more

    def _read(self, connection: socket.socket) -> None:
        data = b""
        self.attached = []
        while len(data) < frame.HEADER_SIZE or len(data) < frame.HEADER_SIZE + int.from_bytes(data[8:12], "little"):
            more, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 8)
            self.attached += [(seen.st_dev, seen.st_ino) for seen in map(os.fstat, descriptors)]
            for descriptor in descriptors:
                os.close(descriptor)
            if not more:
                break
            data += more
        self.frame = data


class OneShot:
    """A program that writes down how it was started. It prints ONESHOT and ends with status 7."""

    def __init__(self, folder: Path, name: str = "podwire") -> None:
        self.path = folder / name
        self._notes = folder / "notes"
        self._notes.mkdir()
        text = (
            f"#!/bin/sh\ncd {self._notes}\nprintf '%s\\0' \"$@\" >argv\ncat /proc/$$/environ >environ\n"
            "cat /proc/$$/status >status\nfor fd in /proc/$$/fd/*; do readlink $fd; done >descriptors 2>&1\n"
            "cat >stdin 2>unreadable\nprintf ONESHOT\nexit 7\n"
        )
        self.path.write_text(text)
        self.path.chmod(0o755)

    @property
    def ran(self) -> bool:
        return (self._notes / "argv").exists()

    @property
    def arguments(self) -> list[bytes]:
        return (self._notes / "argv").read_bytes().split(b"\0")[:-1]

    @property
    def environ(self) -> list[bytes]:
        return (self._notes / "environ").read_bytes().split(b"\0")[:-1]

    @property
    def stdin(self) -> bytes:
        return (self._notes / "stdin").read_bytes()

    @property
    def descriptors(self) -> list[str]:
        return (self._notes / "descriptors").read_text().splitlines()

    def ignored_signals(self) -> int:
        """A bit for each signal, the lowest for signal 1."""
        lines = (self._notes / "status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("SigIgn:")).split()[1], 16)


class Done(NamedTuple):
    """How a client ended."""

    status: int
    stdout: bytes
    stderr: bytes


class Process(subprocess.Popen[bytes]):
    """A process that a failed test does not wait for."""

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *rest)


class Client:
    """Calls the native client ``program`` with the socket and the one-shot program of this test."""

    def __init__(self, program: Path, socket_path: Path, oneshot: OneShot) -> None:
        self.program = program
        self.socket_path = socket_path
        self.oneshot = oneshot

    def environment(self, verb: str = "ADD", **more: str) -> dict[str, str]:
        own = {"CNI_COMMAND": verb, "PODWIRE_SOCKET": str(self.socket_path), "PODWIRE_ONESHOT": str(self.oneshot.path)}
        return {**own, "PATH": "/usr/bin:/bin", **more}

    def start(self, env: dict[str, str] | dict[bytes, bytes] | None = None, **how: Any) -> Process:
        """A process with pipes, unless ``how`` says otherwise; called as `bridge`."""
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        arguments = how.pop("argv", ["/opt/cni/bin/bridge"])
        chosen: Any = self.environment() if env is None else env
        return Process(arguments, executable=self.program, env=chosen, **{**streams, **how})

    def run(self, env: dict[str, str] | dict[bytes, bytes] | None = None, stdin: bytes = CONFIG, **how: Any) -> Done:
        """Until it ends; a sanitizer's report fails the test."""
        with self.start(env, **how) as process:
            stdout, stderr = process.communicate(stdin if process.stdin else None, timeout=TOO_LONG_S)
        assert b"Sanitizer" not in (stderr or b"") and b"runtime error" not in (stderr or b""), stderr
        return Done(process.returncode, stdout, stderr)
