"""Starting calls: how long they take, in which order they run, and what becomes of one that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.calls import Call, Failed, timed, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Make = Callable[[str], Call]


@pytest.fixture
def shell(tmp_path: Path) -> Make:
    """Makes a call whose stdin is a shell script, with the test's folder as HERE."""
    count = 0

    def make(script: str) -> Call:
        nonlocal count
        count += 1
        stdin = tmp_path / f"stdin-{count}"
        stdin.write_text(script)
        env = {"PATH": "/usr/bin:/bin", "CNI_COMMAND": "ADD", "HERE": str(tmp_path)}
        return Call("/bin/sh", env, str(stdin), str(tmp_path / f"stdout-{count}"))

    return make


def test_one_call_is_timed_to_its_end(shell: Make, tmp_path: Path) -> None:
    assert 0.2 <= timed(shell("echo '{}'; sleep 0.2")) < 10
    assert (tmp_path / "stdout-1").read_text() == "{}\n"


def test_a_call_that_fails_ends_the_measurement_with_what_it_said(shell: Make) -> None:
    with pytest.raises(Failed, match="/bin/sh ADD: exit status 3: no such network"):
        timed(shell("echo no such network; exit 3"))


def test_a_call_that_fails_among_others(shell: Make) -> None:
    with pytest.raises(Failed, match="exit status 3"):
        together([[shell("true"), shell("exit 3")], [shell("true")]])


def test_queues_run_at_the_same_time(shell: Make) -> None:
    """Each waits for the other."""
    meet = "touch $HERE/{0}; n=0; while [ ! -e $HERE/{1} ]; do n=$((n+1)); [ $n -lt 400 ] || exit 1; sleep 0.02; done"
    assert together([[shell(meet.format("a", "b"))], [shell(meet.format("b", "a"))]]) < 10


def test_within_a_queue_a_call_starts_when_the_one_before_has_ended(shell: Make, tmp_path: Path) -> None:
    """And is made then, too: it may need the other's answer."""

    def queue() -> Iterator[Call]:
        yield shell("sleep 0.1; echo first >>$HERE/log")
        yield shell(f"echo after {(tmp_path / 'log').read_text().strip()} >>$HERE/log")

    assert together([queue()]) >= 0.1
    assert (tmp_path / "log").read_text().split("\n") == ["first", "after first", ""]


def test_no_queue_takes_no_time() -> None:
    assert together([]) < 0.1
