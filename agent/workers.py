"""Threads that serve calls: a bounded number, in the order in which calls came, never two for one attachment at once.

A thread is started when a call finds none idle, up to the bound, and stays. Nothing here knows what a call is, but for this:
some mostly wait for the kernel or for others, and some mostly compute. Of the latter few are at work at a time, because Python
and the kernel's rtnetlink do one thing at a time: more of them only take turns, which takes a fifth of the
time, and all end late.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    # Gets whether the work is wanted: not when it waited until the workers closed, or when there is no thread for it. Returns
    # False when its thread must not be used again.
    Job = Callable[[bool], bool]

# Python reserves the stack of a thread's first run; plugin code is shallow.
STACK = 512 << 10

# How many jobs that compute are at work at a time; and for how long none of them may begin or end before they count as waiting
# for somebody, such as another vendor's program, and keep the next no longer.
ABREAST = 2
STALLED_S = 0.02


class _Work:
    """A job with its key. ``round``: which round of those that compute it counts in."""

    __slots__ = ("computes", "job", "key", "round")

    def __init__(self, key: Hashable, job: Job, computes: bool) -> None:
        self.key, self.job, self.computes = key, job, computes
        self.round = -1


class Workers:
    """At most ``bound`` threads."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._ready: SimpleQueue[_Work] = SimpleQueue()
        self._guard = threading.Lock()
        self._ended = threading.Condition(self._guard)
        self._behind: dict[Hashable, deque[_Work]] = {}  # of every key at work or ready: the jobs that wait for it
        self._held: deque[_Work] = deque()  # those that compute, and wait until fewer do
        self._closed = False
        self._threads = self._queued = 0
        self._round = self._computing = 0  # how many of this round are ready or at work
        self._moved = 0.0  # when one of them began or ended
        self.running = self.waiting = 0

    def submit(self, key: Hashable, job: Job, computes: bool = False) -> None:
        """Have a job done after all that came before it for the same key; None is the key of jobs that need not wait."""
        work = _Work(key, job, computes)
        with self._guard:
            self.waiting += 1
            if key is not None:
                behind = self._behind.get(key)
                if behind is not None:
                    behind.append(work)
                    return
                self._behind[key] = deque()
            if computes and not self._closed:
                self._held.append(work)
                released = self._release()
            else:
                released = work
            if released is not None:
                self._make_ready(released)
            alone = not self._threads
        if alone:  # no thread could be started
            self._turn_away()

    def due(self) -> float | None:
        """When the thread that submits is to call ``see_to``, on the clock of time.monotonic(); None when it need not."""
        return self._moved + STALLED_S if self._held else None

    def see_to(self) -> None:
        """Let those that compute go on where the ones before them have stalled."""
        with self._guard:
            if self._held and time.monotonic() >= self._moved + STALLED_S:
                self._round += 1
                self._computing = 0
                while (work := self._release()) is not None:
                    self._make_ready(work)

    def close(self) -> None:
        """From now on jobs are told that they are not wanted any more, at once, but for those behind one that runs: they keep
        their order. Jobs that run go on.
        """
        with self._guard:
            self._closed = True
            while self._held:
                self._make_ready(self._held.popleft())
        self._turn_away()

    def join(self, patience_s: float) -> bool:
        """Wait until nothing runs or waits; False when that takes longer than ``patience_s``."""
        with self._guard:
            return self._ended.wait_for(lambda: not (self.running or self.waiting), patience_s)

    def _release(self) -> _Work | None:
        """The next job of those that were held back, if it may begin."""
        if not self._held or self._computing >= ABREAST:
            return None
        work = self._held.popleft()
        work.round = self._round
        self._computing += 1
        self._moved = time.monotonic()
        return work

    def _make_ready(self, work: _Work) -> None:
        self._queued += 1
        self._ready.put(work)
        self._see_to_threads()

    def _see_to_threads(self) -> None:
        """A thread for every job that is ready, within the bound; those that do not run will take one each."""
        if self._threads - self.running < self._queued and self._threads < self._bound:
            self._start()

    def _start(self) -> None:
        self._threads += 1
        size = threading.stack_size(STACK)
        try:
            threading.Thread(target=self._work, name=f"worker-{self._threads}", daemon=True).start()
        except RuntimeError:  # the system has no more; those that are there go on
            self._threads -= 1
        finally:
            threading.stack_size(size)

    def _work(self) -> None:
        usable = True
        while usable:
            usable = self._do(self._take() or self._ready.get())

    def _take(self) -> _Work | None:
        """A job that was held back, for a thread that has just ended one: to wake another thread for it takes time. Where jobs
        are ready, it is the last of those.
        """
        with self._guard:
            work = self._release()
            if work is None:
                return None
            if self._queued:
                self._make_ready(work)
                return None
            self._queued += 1
            return work

    def _turn_away(self) -> None:
        """Tell every job that is ready that it is not wanted, in the calling thread."""
        while True:
            try:
                work = self._take() or self._ready.get_nowait()
            except Empty:
                return
            with self._guard:
                self._threads += 1  # for a moment this is one more
            if self._do(work, turned_away=True):
                with self._guard:
                    self._threads -= 1

    def _do(self, work: _Work, turned_away: bool = False) -> bool:
        """Have a job done; whether this thread may do another one."""
        with self._guard:
            self._queued -= 1
            self.waiting -= 1
            self.running += 1
        usable = False  # unless the job returns and says so
        try:
            usable = work.job(not (self._closed or turned_away))
        finally:
            self._finish(work, usable)
            if not self._threads:  # this one ends, and no other could be started
                self._turn_away()
        return usable

    def _finish(self, work: _Work, usable: bool) -> None:
        with self._guard:
            self.running -= 1
            if work.round == self._round:
                self._computing -= 1
                self._moved = time.monotonic()
            behind = self._behind.get(work.key) if work.key is not None else None
            if not usable:
                self._threads -= 1
                released = self._release()
                if released is not None:
                    self._make_ready(released)
            if behind:
                self._make_ready(behind.popleft())
            else:
                self._behind.pop(work.key, None)
                self._see_to_threads()
            if not (self.running or self.waiting):
                self._ended.notify_all()
