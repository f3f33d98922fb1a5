"""The machine itself: output and status come out of it, and it ends when it should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.machine.run import run

pytestmark = pytest.mark.machine


def test_output_status_and_reports_come_back(tmp_path: Path) -> None:
    """Both streams in order, every byte of a large output, the exit status, and what was written to the reports."""
    said = bytearray()
    script = 'echo one; echo two >&2; seq 100000; echo told >"$PODWIRE_REPORTS"; exit 7'
    outcome = run(["sh", "-c", script], said.extend, timeout_s=120, reports=tmp_path / "reports")
    assert outcome.status == 7, outcome.trouble
    assert said.decode().split() == ["one", "two", *(str(number) for number in range(1, 100001))]
    assert (tmp_path / "reports").read_text() == "told\n"


def test_the_time_limit_ends_it() -> None:
    """A command that hangs costs the time that was allowed, and leaves no process behind."""
    before = children()
    outcome = run(["sleep", "1000"], bytearray().extend, timeout_s=3)
    assert outcome.status is None and "time limit of 3 s" in outcome.trouble
    assert outcome.ran_s < 10
    assert children() == before


def test_it_can_be_stopped() -> None:
    """Whoever has seen enough does not have to wait."""
    stop = threading.Event()
    threading.Timer(1, stop.set).start()
    outcome = run(["sleep", "1000"], bytearray().extend, timeout_s=120, stop=stop)
    assert outcome.status is None and "stopped" in outcome.trouble
    assert outcome.ran_s < 10


def test_a_crashed_machine_is_no_success() -> None:
    """Without an exit status there is none, and the kernel's last words are told."""
    outcome = run(["sh", "-c", "echo c >/proc/sysrq-trigger; sleep 100"], bytearray().extend, timeout_s=120)
    assert outcome.status is None and "sysrq triggered crash" in outcome.trouble


def test_the_emulator_does_not_outlive_who_started_it(tmp_path: Path) -> None:
    """Killed at once, without a chance to clean up."""
    command = [sys.executable, "-m", "tests.machine.run", "sleep", "1000"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    starter = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
    try:
        emulator = _wait_for_child(starter.pid)
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.communicate()
    until = time.monotonic() + 10
    while _is_running(emulator) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _is_running(emulator)


def children() -> set[int]:
    """The processes started by this one that still exist."""
    return _children(os.getpid())


def _children(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for task in tasks for child in task.read_text().split()}


def _wait_for_child(pid: int) -> int:
    """The emulator among the processes that come and go while the machine is built."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for child in _children(pid):
            if b"qemu" in _command_line(child).split(b"\0")[0]:
                return child
        time.sleep(0.05)
    raise AssertionError("no emulator was started")


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _is_running(pid: int) -> bool:
    # A process that has ended but that nobody has asked about yet has no command line any more.
    return bool(_command_line(pid))
