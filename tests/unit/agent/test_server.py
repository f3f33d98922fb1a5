"""The loop that takes connections: what makes it give up those that wait, and what does not."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest

from agent.journal import Journal
from agent.listen import Listener
from agent.server import Server
from agent.workers import Workers


class Door:
    """A listening socket of which each accept is scripted: an errno, or a connection."""

    def __init__(self, *script: int | socket.socket) -> None:
        self._script = list(script)

    def accept(self) -> tuple[socket.socket, str]:
        if not self._script:
            raise BlockingIOError
        step = self._script.pop(0)
        if isinstance(step, int):
            raise OSError(step, os.strerror(step))
        return step, ""


@pytest.mark.root
@pytest.mark.parametrize(
    ("reason", "given_up"), [(errno.ECONNABORTED, 0), (errno.EPROTO, 0), (errno.EMFILE, 1), (errno.ENOMEM, 1)], ids=str
)
def test_a_client_that_waits_gives_way_only_where_there_is_no_room(reason: int, given_up: int) -> None:
    """A client that has gone before it was accepted is no reason."""
    ours, theirs = socket.socketpair()
    door: Any = Door(ours, reason)
    server = Server(Listener(door, "/nowhere", None), Workers(1), Journal(level="error", env={}))
    with ours, theirs:
        server._accept()
        assert len(server._reading) == 1
        server._accept()
        assert server.declined["refused"] == given_up
        assert len(server._reading) == 1 - given_up
    os.close(server._wake_read)
    os.close(server.waker)
    server._selector.close()
