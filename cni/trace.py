"""What is told of a call afterwards: how long its parts took, whose it was, what was mended. For the agent's log and metrics.

Reading the clock costs nothing that could be measured, so the one-shot way keeps a trace too and throws it away.
"""

from __future__ import annotations

from time import perf_counter

# The parts of calls, in no order; a call has some of them.
PHASES = ("parse", "lease", "look", "execute", "report", "remove", "check", "status", "undo")


class Trace:
    """The record of one call while it runs. ``phases`` are names with seconds, in order of their beginning."""

    __slots__ = ("_name", "_since", "addresses", "network", "phases", "repairs")

    def __init__(self) -> None:
        self.network = ""
        self.addresses: tuple[str, ...] = ()
        self.repairs: list[str] = []
        self.phases: list[tuple[str, float]] = []
        self._name = ""
        self._since = 0.0

    def begin(self, phase: str) -> None:
        """A phase begins, and the one before it ends; an empty name only ends."""
        now = perf_counter()
        if self._name:
            self.phases.append((self._name, now - self._since))
        self._name, self._since = phase, now
