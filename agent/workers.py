"""Threads that serve calls: a bounded number, in the order in which calls came, never two for one attachment at once.

A thread is started when a call finds none idle, up to the bound, and stays. Nothing here knows what a call is.
"""

from __future__ import annotations

import threading
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


class Workers:
    """At most ``bound`` threads."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._ready: SimpleQueue[tuple[Hashable, Job]] = SimpleQueue()
        self._guard = threading.Lock()
        self._ended = threading.Condition(self._guard)
        self._behind: dict[Hashable, deque[Job]] = {}  # of every key at work or ready: the jobs that wait for it
        self._closed = False
        self._threads = self._queued = 0
        self.running = self.waiting = 0

    def submit(self, key: Hashable, job: Job) -> None:
        """Have a job done after all that came before it for the same key; None is the key of jobs that need not wait."""
        with self._guard:
            self.waiting += 1
            if key is not None:
                behind = self._behind.get(key)
                if behind is not None:
                    behind.append(job)
                    return
                self._behind[key] = deque()
            self._make_ready(key, job)
            alone = not self._threads
        if alone:  # no thread could be started
            self._turn_away()

    def close(self) -> None:
        """From now on jobs are told that they are not wanted any more, at once, but for those behind one that runs: they keep
        their order. Jobs that run go on.
        """
        self._closed = True
        self._turn_away()

    def join(self, patience_s: float) -> bool:
        """Wait until nothing runs or waits; False when that takes longer than ``patience_s``."""
        with self._guard:
            return self._ended.wait_for(lambda: not (self.running or self.waiting), patience_s)

    def _make_ready(self, key: Hashable, job: Job) -> None:
        self._queued += 1
        self._ready.put((key, job))
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
            key, job = self._ready.get()
            usable = self._do(key, job)

    def _turn_away(self) -> None:
        """Tell every job that is ready that it is not wanted, in the calling thread."""
        while True:
            try:
                key, job = self._ready.get_nowait()
            except Empty:
                return
            with self._guard:
                self._threads += 1  # for a moment this is one more
            if self._do(key, job, turned_away=True):
                with self._guard:
                    self._threads -= 1

    def _do(self, key: Hashable, job: Job, turned_away: bool = False) -> bool:
        """Have a job done; whether this thread may do another one."""
        with self._guard:
            self._queued -= 1
            self.waiting -= 1
            self.running += 1
        usable = False  # unless the job returns and says so
        try:
            usable = job(not (self._closed or turned_away))
        finally:
            self._finish(key, usable)
            if not self._threads:  # this one ends, and no other could be started
                self._turn_away()
        return usable

    def _finish(self, key: Hashable, usable: bool) -> None:
        with self._guard:
            self.running -= 1
            behind = self._behind.get(key) if key is not None else None
            if not usable:
                self._threads -= 1
            if behind:
                self._make_ready(key, behind.popleft())
            else:
                self._behind.pop(key, None)
                self._see_to_threads()
            if not (self.running or self.waiting):
                self._ended.notify_all()
