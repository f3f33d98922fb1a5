"""Guest tests: they run in the machine, and are reported where pytest was started.

A module named test_*_guest.py is collected like any other. Outside of the machine its tests carry the marker
`machine`, and instead of being run they wait for the report of the same test in the machine, which is booted
once for all of them. Inside (PODWIRE_MACHINE is set) they simply run, and each report is sent out.

So `pytest -m machine -k trunk` does what one expects, with the guest's own tracebacks.
"""

from __future__ import annotations

import fnmatch
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.machine.run import PROCESSORS, Unavailable, run

GUEST_MODULES = "test_*_guest.py"
INSIDE = "PODWIRE_MACHINE" in os.environ
# Three minutes of work for one processor; the rest is for computers that are busy with other things as well.
TIMEOUT_S = 900.0

_replay = pytest.StashKey["Replay"]()


def pytest_configure(config: pytest.Config) -> None:
    # In a run on several processors the worker processes report to the first one, which reports for them.
    if INSIDE and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Sender(config))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _is_guest(item):
            item.add_marker(pytest.mark.root if INSIDE else pytest.mark.machine)


def pytest_collection_finish(session: pytest.Session) -> None:
    if not INSIDE and (chosen := [item for item in session.items if _is_guest(item)]):
        session.config.stash[_replay] = Replay(session.config, chosen)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if replay := session.config.stash.get(_replay, None):
        replay.end()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if (replay := config.stash.get(_replay, None)) and replay.summary:
        terminalreporter.write_line(replay.summary)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Outside: the guest's reports take the place of running a guest test."""
    if INSIDE or not _is_guest(item):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in item.config.stash[_replay].reports(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _is_guest(item: pytest.Item) -> bool:
    return fnmatch.fnmatch(item.path.name, GUEST_MODULES)


class Sender:
    """Inside: each report as one line of JSON, in the form that pytest itself uses between processes."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._port = os.open(os.environ["PODWIRE_REPORTS"], os.O_WRONLY)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        data.pop("node", None)  # the worker that ran the test: not for sending
        os.write(self._port, json.dumps(data).encode() + b"\n")


class Replay:
    """One run of the machine with these tests, and their reports as they come in."""

    def __init__(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        self._config = config
        self._command = ["pytest", "-q", *_options(config, len(items)), *(item.nodeid for item in items)]
        self._folder = tempfile.TemporaryDirectory(prefix="podwire-reports-")
        self._file = Path(self._folder.name, "reports")
        self._file.touch()
        self._read = 0
        self._waited_for = {item.nodeid for item in items}
        self._seen: dict[str, list[pytest.TestReport]] = {}
        self._said = bytearray()
        self._trouble = ""
        self._stop = threading.Event()
        self._machine: threading.Thread | None = None
        self.summary = ""

    def reports(self, item: pytest.Item) -> list[pytest.TestReport]:
        """All reports of one test; waits for them. A test that the machine did not finish has failed."""
        if self._machine is None:
            self._machine = threading.Thread(target=self._run, daemon=True)
            self._machine.start()
        while not self._finished(item.nodeid):
            alive = self._machine.is_alive()
            self._take()
            if not alive and not self._finished(item.nodeid):
                return [*self._seen.get(item.nodeid, ()), self._lost(item)]
            time.sleep(0.1)
        self._waited_for.discard(item.nodeid)
        return self._seen[item.nodeid]

    def _run(self) -> None:
        try:
            outcome = run(self._command, self._said.extend, timeout_s=TIMEOUT_S, reports=self._file, stop=self._stop)
        except Unavailable as error:
            self._trouble = str(error)
        except Exception as error:
            self._trouble = f"the machine could not be run: {error!r}"
        else:
            self._trouble = outcome.trouble or f"the machine's pytest ended with status {outcome.status}"
            self.summary = f"the machine was built in {outcome.built_s:.1f} s and ran for {outcome.ran_s:.1f} s"

    def end(self) -> None:
        """Let the machine finish; end it when there are reports that nobody waits for any more."""
        if self._machine is not None:
            self._machine.join(0 if self._waited_for else 10)
            self._stop.set()
            self._machine.join()
        self._folder.cleanup()

    def _take(self) -> None:
        """Read the lines that are complete by now: one report each."""
        with self._file.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                data: dict[str, Any] = json.loads(line)
                report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
                self._seen.setdefault(report.nodeid, []).append(report)

    def _finished(self, nodeid: str) -> bool:
        return any(report.when == "teardown" for report in self._seen.get(nodeid, ()))

    def _lost(self, item: pytest.Item) -> pytest.TestReport:
        said = self._said.decode(errors="replace")
        why = f"{self._trouble}: no report of this test came out of it. It said:\n{said[-4000:]}"
        return pytest.TestReport(item.nodeid, item.location, {}, "failed", why, "call")


def _options(config: pytest.Config, tests: int) -> list[str]:
    """What the machine's pytest must know, too: which plugins. Their folder must be one that it has.

    Both of its processors are used once there is enough work to make up for starting two more interpreters.
    """
    folder = config.getoption("--cni-bin-dir")
    return [f"--cni-bin-dir={folder}"] * bool(folder) + [f"-n{PROCESSORS}"] * (tests > 8)
