"""A caller in another process: what came with its frame, in the place of what a process of its own would have.

The agent never follows a caller's path to a sandbox: the client opened it where the runtime meant it, and the descriptor came
along. So the agent needs neither the runtime's mounts nor its processes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from agent.frame import ATTACHED, Call, FrameError
from cni.caller import Caller
from cni.net import netns
from cni.net.host import Doors, Host

if TYPE_CHECKING:
    from collections.abc import Sequence


class Remote(Caller):
    """The caller of a frame. ``sandbox`` is the descriptor of CNI_NETNS, which stays the owner's; None when none came."""

    def __init__(self, call: Call, sandbox: int | None, doors: Doors) -> None:
        self.folder = call.folder
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


def sort_descriptors(call: Call, descriptors: Sequence[int]) -> tuple[int, int | None]:
    """Which descriptor is which: the caller's own namespace, and the sandbox if one was announced.

    FrameError when there are more or fewer than the frame says.
    """
    expected = 2 if call.sandbox == ATTACHED else 1
    if len(descriptors) != expected:
        raise FrameError(f"{len(descriptors)} descriptors came with a call that has {expected}")
    return descriptors[0], descriptors[1] if expected == 2 else None
