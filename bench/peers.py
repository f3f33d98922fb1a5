"""Who is measured: ours through the agent, ours without it, and the reference. A lane in one case is a peer's network."""

from __future__ import annotations

import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench.calls import Failed
from bench.cases import ONE_SHOT, REFERENCE, RESIDENT
from cni.net import netns

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
SHIM = ROOT / "build" / "shim" / "shim"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# In a node, whose /run is its own.
SOCKET = "/run/podwire/cni.sock"

# Where no program is: a call that was to go to the agent must not be served by anybody else unnoticed.
NOWHERE = "/nowhere/podwire"

_START_PATIENCE_S, _STOP_PATIENCE_S = 20.0, 30.0


class Peer(msgspec.Struct, frozen=True):
    """A folder of executables, what its calls have in their environment, and the agent that they need, if one."""

    name: str
    folder: str
    env: dict[str, str]
    agent: tuple[str, ...] = ()


def find(ours: Path, reference: Path, links: Path) -> tuple[Peer, ...]:
    """The three peers. ``ours`` is a bundle; where it has no native client, the checkout's is linked in the folder ``links``,
    and the checkout's agent serves. Failed when something is missing.
    """
    for name, folder in (("podwire", ours), ("the reference", reference)):
        if not (folder / "bridge").exists():
            raise Failed(f"no plugins of {name} in {folder} (make bundle; apt-get install containernetworking-plugins)")
    bundled = (ours / "shim").exists()
    agent = ours / "podwire" if bundled else ROOT / ".venv" / "bin" / "podwire"
    if not bundled:
        if not SHIM.exists():
            raise Failed(f"no native client in {ours}, and none at {SHIM} (make shim)")
        for plugin in ("bridge", "ptp", "portmap", "firewall", "tuning", "host-local"):
            (links / plugin).symlink_to(SHIM)
    return (
        Peer(
            RESIDENT,
            str(ours if bundled else links),
            {"PODWIRE_SOCKET": SOCKET, "PODWIRE_ONESHOT": NOWHERE},
            (str(agent), "agent", "--socket", SOCKET),
        ),
        Peer(ONE_SHOT, str(ours), {"PODWIRE_SOCKET": ""}),
        Peer(REFERENCE, str(reference), {}),
    )


@contextmanager
def running(command: tuple[str, ...], log: Path) -> Iterator[int]:
    """An agent that listens, for the block; its process id. What it logs goes to a file, as it goes to the journal."""
    with log.open("wb") as stderr:
        agent = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            env={"PATH": PATH, "LC_ALL": "C.UTF-8"},
            preexec_fn=netns.die_with_parent,  # noqa: PLW1509
        )
    try:
        _wait_until_it_listens(agent, log)
        yield agent.pid
    finally:
        agent.terminate()
        try:
            agent.wait(_STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()


def _wait_until_it_listens(agent: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_PATIENCE_S
    while agent.poll() is None and time.monotonic() < until:
        if Path(SOCKET).exists():  # it gets its name when it listens
            return
        time.sleep(0.02)
    raise Failed(f"no agent listens at {SOCKET}: {log.read_text(errors='replace').strip()}")
