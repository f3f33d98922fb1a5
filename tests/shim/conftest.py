"""Fixtures of the native client's tests; each runs with the program as it is shipped, and with sanitizers in it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.shim import build
from tests.shim.fake import Client, FakeAgent, OneShot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROGRAMS = {"shipped": build.shipped, "sanitized": build.sanitized}


@pytest.fixture(scope="session", params=sorted(PROGRAMS))
def program(request: pytest.FixtureRequest) -> Path:
    return PROGRAMS[request.param]()


@pytest.fixture
def oneshot(tmp_path: Path) -> OneShot:
    return OneShot(tmp_path)


@pytest.fixture
def client(program: Path, tmp_path: Path, oneshot: OneShot) -> Client:
    return Client(program, tmp_path / "cni.sock", oneshot)


@pytest.fixture
def hasty(client: Client) -> Client:
    """A client that waits for half a second only until the agent begins."""
    client.program = build.hasty()
    return client


@pytest.fixture
def agent(client: Client) -> Callable[..., Any]:
    """Makes a scripted agent at the client's socket, for a `with`."""
    return partial(FakeAgent, client.socket_path)
