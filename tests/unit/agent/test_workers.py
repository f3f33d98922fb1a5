"""Threads that serve calls: bounded, in order, never two for one key, and what becomes of jobs at the end."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from agent import workers as module
from agent.workers import ABREAST, Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOO_LONG_S = 20


class Job:
    """A job that waits until it may end, and remembers what it was told."""

    def __init__(self, usable: bool = True, fails: bool = False) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.wanted: list[bool] = []
        self.thread: threading.Thread | None = None
        self._usable, self._fails = usable, fails

    def __call__(self, wanted: bool) -> bool:
        self.wanted.append(wanted)
        self.thread = threading.current_thread()
        self.begun.set()
        if wanted:
            assert self.may_end.wait(TOO_LONG_S)
        if self._fails:
            raise RuntimeError("on purpose")
        return self._usable


@pytest.fixture
def make() -> Iterator[Callable[..., Workers]]:
    """Makes workers whose threads end with the test."""
    made: list[tuple[Workers, int]] = []

    def workers(bound: int) -> Workers:
        made.append((Workers(bound), bound))
        return made[-1][0]

    before = threading.active_count()
    yield workers
    for one, bound in made:
        assert one.join(TOO_LONG_S)
        for _ in range(bound + 1):  # each ends a thread, and is done by one
            if one._threads:
                one.submit(None, lambda _: False)
                assert one.join(TOO_LONG_S)
    for thread in threading.enumerate():
        if thread.name.startswith("worker-"):
            thread.join(TOO_LONG_S)
    assert threading.active_count() == before


def test_no_thread_without_a_job(make: Callable[..., Workers]) -> None:
    workers = make(4)
    assert workers._threads == 0
    assert workers.join(0)


def test_a_thread_stays_and_serves_the_next(make: Callable[..., Workers]) -> None:
    """One after the other: one thread is enough."""
    workers = make(4)
    threads = set()
    for _ in range(5):
        job = Job()
        job.may_end.set()
        workers.submit(None, job)
        assert workers.join(TOO_LONG_S)
        threads.add(job.thread)
    assert len(threads) == 1


def test_at_most_so_many_at_once(make: Callable[..., Workers]) -> None:
    """The others wait their turn, in the order in which they came."""
    workers = make(2)
    jobs = [Job() for _ in range(6)]
    for job in jobs:
        workers.submit(None, job)
    for first, second in zip(jobs, jobs[2:], strict=False):
        assert first.begun.wait(TOO_LONG_S)
        assert workers.running <= 2
        assert not second.begun.is_set()
        first.may_end.set()
        assert second.begun.wait(TOO_LONG_S)
    assert (workers.running, workers.waiting) == (2, 0)
    for job in jobs:
        job.may_end.set()
    assert workers.join(TOO_LONG_S)
    assert (workers.running, workers.waiting) == (0, 0)
    assert [job.wanted for job in jobs] == [[True]] * 6


def computing(workers: Workers, count: int, **how: bool) -> list[Job]:
    """Jobs that compute, given to the workers."""
    jobs = [Job(**how) for _ in range(count)]
    for number, job in enumerate(jobs):
        workers.submit(number, job, computes=True)
    return jobs


def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, no job counts as stalled."""
    monkeypatch.setattr(module, "STALLED_S", 1e6)


def test_few_compute_at_a_time(make: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch) -> None:
    """The others begin in their order, each in the thread of one that has ended; who does not compute need not wait."""
    never(monkeypatch)
    workers = make(32)
    jobs = computing(workers, ABREAST + 5)
    other = Job()
    workers.submit("other", other)
    assert other.begun.wait(TOO_LONG_S)
    for first, second in zip(jobs, jobs[ABREAST:], strict=False):
        assert first.begun.wait(TOO_LONG_S)
        workers.see_to()
        assert not second.begun.is_set()
        assert workers.due() is not None
        first.may_end.set()
        assert second.begun.wait(TOO_LONG_S)
    assert workers.due() is None
    for job in [*jobs, other]:
        job.may_end.set()
    assert workers.join(TOO_LONG_S)
    assert workers._threads == ABREAST + 1
    assert len({job.thread for job in jobs}) == ABREAST


@pytest.mark.parametrize("bound", [1, 2])
def test_what_is_ready_is_not_overtaken(make: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch, bound: int) -> None:
    never(monkeypatch)
    workers = make(bound)
    jobs = computing(workers, 3 * ABREAST)
    for first, second in zip(jobs, jobs[bound:], strict=False):
        assert first.begun.wait(TOO_LONG_S)
        assert not second.begun.is_set()
        first.may_end.set()
        assert second.begun.wait(TOO_LONG_S)
    for job in jobs:
        job.may_end.set()
    assert workers.join(TOO_LONG_S)


def test_those_that_stall_keep_no_other(make: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do they count any more, so that when they end at last no more than the usual number run."""
    monkeypatch.setattr(module, "STALLED_S", 0.0)
    workers = make(32)
    jobs = computing(workers, 3 * ABREAST + 1)
    stalled, later = jobs[:ABREAST], jobs[ABREAST:]
    assert all(job.begun.wait(TOO_LONG_S) for job in stalled)
    workers.see_to()
    never(monkeypatch)
    assert all(job.begun.wait(TOO_LONG_S) for job in later[:ABREAST])
    for job in stalled:
        job.may_end.set()
    while workers.running > ABREAST:
        assert not later[ABREAST].begun.wait(0.001)
    assert not later[ABREAST].begun.wait(0.05)
    for job in later:
        job.may_end.set()
    assert workers.join(TOO_LONG_S)
    assert all(job.wanted == [True] for job in jobs)
    assert workers._computing == 0


def test_close_turns_away_what_is_held_back(make: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch) -> None:
    never(monkeypatch)
    workers = make(32)
    jobs = computing(workers, ABREAST + 3)
    assert all(job.begun.wait(TOO_LONG_S) for job in jobs[:ABREAST])
    workers.close()
    for job in jobs[:ABREAST]:
        job.may_end.set()
    assert workers.join(TOO_LONG_S)
    assert [job.wanted for job in jobs] == [[True]] * ABREAST + [[False]] * 3


def test_spoiled_threads_leave_what_is_held_back_to_others(
    make: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch
) -> None:
    never(monkeypatch)
    workers = make(32)
    jobs = computing(workers, 3 * ABREAST, usable=False)
    for job in jobs:
        job.may_end.set()
    assert workers.join(TOO_LONG_S)
    assert all(job.wanted == [True] for job in jobs)


def test_one_key_one_at_a_time(make: Callable[..., Workers]) -> None:
    """A job waits for those of its key that came before; a job of another key, or of none, does not."""
    workers = make(8)
    first, second, third, other, free = Job(), Job(), Job(), Job(), Job()
    for key, job in (("a", first), ("a", second), ("b", other), ("a", third), (None, free)):
        workers.submit(key, job)
    for job in (first, other, free):
        assert job.begun.wait(TOO_LONG_S)
    assert not second.begun.is_set() and not third.begun.is_set()
    assert (workers.running, workers.waiting) == (3, 2)
    first.may_end.set()
    assert second.begun.wait(TOO_LONG_S)
    assert not third.begun.is_set()
    for job in (second, other, free):
        job.may_end.set()
    assert third.begun.wait(TOO_LONG_S)
    third.may_end.set()
    assert workers.join(TOO_LONG_S)
    assert workers._behind == {}


def test_many_jobs_of_many_keys_from_many_threads(make: Callable[..., Workers]) -> None:
    """Whatever the mixture: every job once, in the order of its key, never two of a key."""
    workers = make(5)
    active: dict[int, int] = defaultdict(int)
    done: dict[int, list[int]] = defaultdict(list)
    faults: list[str] = []

    def job(key: int, number: int) -> Callable[[bool], bool]:
        def run(wanted: bool) -> bool:
            active[key] += 1
            if active[key] != 1 or not wanted:
                faults.append(f"{key} {number}")
            done[key].append(number)
            active[key] -= 1
            return number % 7 != 0

        return run

    def submit(key: int) -> None:
        for number in range(200):
            workers.submit(key, job(key, number))

    crowd = [threading.Thread(target=submit, args=(key,)) for key in range(12)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(TOO_LONG_S)
    assert workers.join(TOO_LONG_S)
    assert faults == []
    assert done == {key: list(range(200)) for key in range(12)}


def test_a_spoiled_thread_is_not_used_again(make: Callable[..., Workers]) -> None:
    """The next job has another one, also when the bound is one."""
    workers = make(1)
    spoiled, next_one = Job(usable=False), Job()
    for job in (spoiled, next_one):
        job.may_end.set()
        workers.submit("key", job)
    assert workers.join(TOO_LONG_S)
    assert workers._threads == 1
    assert spoiled.thread is not next_one.thread


def test_a_spoiled_thread_that_nobody_can_replace(make: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is turned away: it would wait until the next job comes, which may be never."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    workers = make(1)
    spoiled, behind, other = Job(usable=False), Job(), Job()
    for key, job in (("a", spoiled), ("a", behind), ("b", other)):
        workers.submit(key, job)
    assert spoiled.begun.wait(TOO_LONG_S)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    spoiled.may_end.set()
    assert workers.join(TOO_LONG_S)
    assert (behind.wanted, other.wanted) == ([False], [False])


def test_a_job_that_raises_takes_no_other_down(make: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread is lost and told of; jobs of its key and of others go on."""
    told: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(str(args.exc_value)))
    workers = make(1)
    broken, behind, other = Job(fails=True), Job(), Job()
    for key, job in (("a", broken), ("a", behind), ("b", other)):
        job.may_end.set()
        workers.submit(key, job)
    assert workers.join(TOO_LONG_S)
    assert (behind.wanted, other.wanted) == ([True], [True])
    assert told == ["on purpose"]


def test_close_turns_away_what_waits_and_keeps_what_runs(make: Callable[..., Workers]) -> None:
    """At once, though every thread is busy; a job behind one that runs learns of it when that has ended."""
    workers = make(1)
    running, behind, queued, behind_queued = Job(), Job(), Job(), Job()
    for key, job in (("a", running), ("a", behind), ("b", queued), ("b", behind_queued)):
        workers.submit(key, job)
    assert running.begun.wait(TOO_LONG_S)
    workers.close()
    assert (queued.wanted, behind_queued.wanted) == ([False], [False])
    assert (running.wanted, behind.wanted) == ([True], [])
    assert not workers.join(0.05)
    running.may_end.set()
    assert workers.join(TOO_LONG_S)
    assert behind.wanted == [False]
    late = Job()
    workers.submit("a", late)
    assert workers.join(TOO_LONG_S)
    assert late.wanted == [False]


def test_when_the_system_has_no_more_threads(make: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any, a job is turned away; with some, it waits for one of these."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    workers = make(4)
    nobody = Job()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        workers.submit("a", nobody)
    assert nobody.wanted == [False]
    assert workers.join(0)
    first, second = Job(), Job()
    workers.submit("a", first)
    assert first.begun.wait(TOO_LONG_S)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        workers.submit("b", second)
        first.may_end.set()
        assert second.begun.wait(TOO_LONG_S)
    assert second.wanted == [True]
    second.may_end.set()
    assert workers._threads == 1
