"""The agent in a node, and the programs that hand calls to it.

``make_shims`` gives a folder of plugins as an installation has it: each name leads to the native client, and what that becomes
where no agent listens is the one-shot program of this checkout. An ``Agent`` is the program `podwire agent` in a node, on the
usual socket: a node has a /run of its own. What it looks like is read from /proc, what it says from its log.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .node import PATH
from .wrappers import NAMES, ROOT, python

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from .node import Node

SOCKET = "/run/podwire/cni.sock"
SHIM = ROOT / "build" / "shim" / "shim"
SHIMS = ROOT / "build" / "shims"
PROGRAM = "from agent.command import main; main()"

NAMESPACES = ("net", "mnt", "uts", "ipc", "user", "pid", "cgroup")

# Longer than anything takes; only a defect gets there.
TOO_LONG_S = 30


class Figures(NamedTuple):
    """What a process has at a moment: open descriptors, threads, resident memory in KiB."""

    descriptors: int
    threads: int
    kib: int


@cache
def make_shims(folder: Path = SHIMS) -> Path:
    """The folder of plugins that are the native client; parallel workers may all make it."""
    own = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    subprocess.run(["make", "-s", "build/shim/shim"], cwd=ROOT, env=own, check=True, stdout=subprocess.DEVNULL)
    program = f'#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(ROOT))}\nexec {shlex.quote(python())} -m cni "$@"\n'
    oneshot = SHIM.with_name("podwire")
    if not oneshot.exists() or oneshot.read_text() != program:
        with tempfile.NamedTemporaryFile("w", dir=SHIM.parent, delete=False) as file:
            file.write(program)
        os.chmod(file.name, 0o755)
        os.replace(file.name, oneshot)
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        try:
            (folder / name).symlink_to(os.path.relpath(SHIM, folder))
        except FileExistsError:
            pass
    return folder


class Agent:
    """A running agent that listens. Use as a context manager, or call ``kill``.

    ``options`` are the program's; ``files`` limits its descriptors; ``env`` and ``folder`` are what it is started with.
    """

    def __init__(
        self,
        node: Node,
        *options: str,
        socket: str = SOCKET,
        files: int | None = None,
        env: Mapping[str, str] | None = None,
        folder: str | None = None,
        any_mounts: bool = True,
        wait: bool = True,
    ) -> None:
        self.node, self.socket = node, socket
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        # A shell has what it starts in the background ignore SIGINT, and so all that starts.
        begin = ("env", "--default-signal=INT") + (() if files is None else ("prlimit", f"--nofile={files}"))
        program = (python(), "-c", PROGRAM, "agent", "--socket", socket, "--log-format", "json", *options)
        if any_mounts:  # scripted clients connect from outside of the node
            program += ("--any-mounts",)
        self.process = subprocess.Popen(
            node.argv([*begin, *program]),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={"PATH": PATH, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1", **(env or {})},
            cwd=folder,
        )
        self.pid = self.process.pid  # nsenter, env and prlimit become the program
        if wait:
            try:
                self.until(lambda: self.events("listening") != [], "it does not listen")
            except BaseException:
                self.__exit__(None, None, None)
                raise

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()
        self._log.close()

    # -- its life --

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and its end."""
        self.process.kill()
        self.process.wait(TOO_LONG_S)

    def terminate(self) -> None:
        """SIGTERM; it may take its time."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """SIGTERM, and its end; the exit status. One that does not end tells where its threads are."""
        self.terminate()
        try:
            return self.process.wait(TOO_LONG_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(TOO_LONG_S)
            raise AssertionError(f"the agent did not end\n{self.text()}") from None

    def until(self, true: Callable[[], bool], otherwise: str, seconds: float = TOO_LONG_S) -> None:
        """Wait until something is so, which an agent that ended cannot bring about."""
        end = time.monotonic() + seconds
        while not true():
            assert self.alive, f"{otherwise}: the agent ended with status {self.process.returncode}\n{self.text()}"
            assert time.monotonic() < end, f"{otherwise}\n{self.text()}"
            time.sleep(0.005)

    # -- what it says --

    def text(self) -> str:
        """All that it wrote."""
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode(errors="replace")

    def log(self) -> list[dict[str, Any]]:
        """The lines of its log; what is no such line has only the key `text`."""
        found: list[dict[str, Any]] = []
        for line in self.text().splitlines(keepends=True):
            if line.startswith("{") and line.endswith("\n"):
                found.append(json.loads(line))
            else:
                found.append({"text": line})
        return found

    def calls(self) -> list[dict[str, Any]]:
        """The lines of calls."""
        return [line for line in self.log() if "verb" in line]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of one event."""
        return [line for line in self.log() if line.get("event") == name]

    # -- what it is --

    def proc(self, name: str) -> str:
        """A file of /proc/PID."""
        return Path(f"/proc/{self.pid}/{name}").read_text()

    def status(self, key: str) -> str:
        """A line of /proc/PID/status."""
        return next(line.partition(":")[2].strip() for line in self.proc("status").splitlines() if line.startswith(f"{key}:"))

    def descriptors(self) -> list[str]:
        """What its descriptors lead to, sorted. Those that are of the moment alone may be gone when looked at."""
        found = []
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{self.pid}/fd/{name}"))
            except FileNotFoundError:
                continue
        return sorted(found)

    def held(self) -> list[str]:
        """Its descriptors without those that stay for the next call: watched folders, netlink sockets of its own namespace."""
        netlink = {line.split()[-1] for line in self.proc("net/netlink").splitlines()[1:]}
        return [
            name
            for name in self.descriptors()
            if "inotify" not in name and not (name.startswith("socket:") and name[len("socket:[") : -1] in netlink)
        ]

    def figures(self) -> Figures:
        """Descriptors, threads, memory."""
        return Figures(len(self.descriptors()), int(self.status("Threads")), int(self.status("VmRSS").split()[0]))

    def namespaces(self) -> set[tuple[str, str]]:
        """Kind and identity of the namespaces of all its threads; as many as kinds when no thread is astray."""
        found = set()
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            folder = f"/proc/{self.pid}/task/{thread}/ns"
            try:
                found |= {(kind, os.readlink(f"{folder}/{kind}")) for kind in NAMESPACES}
            except FileNotFoundError:
                continue  # a thread that has ended
        return found

    def unharmed(self) -> None:
        """Assert that it lives, has told of no mistake of its own, and is where it was."""
        assert self.alive, f"the agent ended with status {self.process.returncode}\n{self.text()}"
        said = self.text()
        assert "Traceback" not in said, said
        assert not [line for line in self.log() if line.get("level") == "error"], said
        expected = {(kind, os.readlink(f"/proc/{self.node.pid}/ns/{kind}")) for kind in NAMESPACES}
        assert self.namespaces() == expected, "a thread is in another namespace"
        assert os.readlink(f"/proc/{self.pid}/cwd") == "/"
        assert int(self.status("Umask"), 8) == 0o022
