"""A caller in another process: what came with its frame, in the place of what a process of its own would have.

The agent never follows a caller's path to a sandbox: the client opened it where the runtime meant it, and the descriptor came
along. So the agent needs neither the runtime's mounts nor its processes.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from agent.frame import ATTACHED, Call, FrameError
from cni.caller import Caller
from cni.net import netns
from cni.net.host import Doors, Host

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

# While another's plugin runs: how often it is seen whether the client is still there, and how long the plugin may go on when it
# is not. An address that nobody will hear of is not waited for at all.
WATCH_S = 0.25
ORPHAN_PATIENCE_S = 30.0


class Remote(Caller):
    """The caller of a frame that came by ``client``. ``sandbox`` is the descriptor of CNI_NETNS, which stays the owner's; None
    when none came.
    """

    def __init__(self, call: Call, client: socket.socket, sandbox: int | None, doors: Doors) -> None:
        self.folder = call.folder
        self._client = client
        self._errno = call.sandbox
        self._sandbox = sandbox
        self._doors = doors

    def open_sandbox(self, path: str) -> int:
        """A copy of the descriptor; what kept the client from opening it is raised as if it had been tried here."""
        if self._sandbox is None:
            raise netns.unopened(path, OSError(self._errno, os.strerror(self._errno), path))
        return netns.checked(os.dup(self._sandbox), path)

    def host(self, sandbox_fd: int | None, search_path: str) -> Host:
        """Doors that stay open for the next call."""
        return Host(sandbox_fd, search_path, self._doors)

    def run(self, program: str, env: Mapping[str, str], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
        """As for any caller; but when the client goes away, so does the plugin, with all that it started. A runtime that ends
        a call goes on with a DEL, which must not wait here for a plugin that hangs, and 32 of them would be all workers.
        """
        pipe, until = subprocess.PIPE, None
        given: bytes | None = stdin
        with subprocess.Popen(
            [program], env=env, cwd=self.folder or None, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        ) as process:
            while until is None or time.monotonic() < until:
                try:
                    stdout, stderr = process.communicate(given, timeout=WATCH_S)
                    return subprocess.CompletedProcess([program], process.returncode, stdout, stderr)
                except subprocess.TimeoutExpired:
                    given = None
                if until is None and self._gone():
                    until = time.monotonic() + (0 if env.get("CNI_COMMAND") == "ADD" else ORPHAN_PATIENCE_S)
            os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess([program], process.returncode, b"", b"ended, because its caller had gone")

    def _gone(self) -> bool:
        """Whether the client has hung up."""
        poll = select.poll()
        poll.register(self._client, select.POLLRDHUP)
        return bool(poll.poll(0))


def sort_descriptors(call: Call, descriptors: Sequence[int]) -> tuple[int, int | None]:
    """Which descriptor is which: the caller's own namespace, and the sandbox if one was announced.

    FrameError when there are more or fewer than the frame says.
    """
    expected = 2 if call.sandbox == ATTACHED else 1
    if len(descriptors) != expected:
        raise FrameError(f"{len(descriptors)} descriptors came with a call that has {expected}")
    return descriptors[0], descriptors[1] if expected == 2 else None
