"""What the agent counts, for Prometheus: calls as they are answered, and the rest when it is scraped.

Every label comes from a fixed list or is bounded in number, so that no caller can make the agent grow. Import this module only
when somebody wants metrics: prometheus-client takes 35 ms and 5 MB. Who may read them and where is in ``agent.scrape``.
"""

from __future__ import annotations

import os
from platform import python_version
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from cni import __version__, trace
from cni.registry import PLUGINS
from cni.spec import errors
from cni.spec.call import VERBS
from cni.spec.result import printable
from ipam.registry import PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from agent.journal import Served

    Census = Callable[[], Iterable[tuple[str, int, int]]]

# What stands for a value that is not in a label's list.
OTHER = "other"

# The parts of a call, `wait` being the time in the queue.
PHASES = ("wait", *trace.PHASES)

# What is put right without anybody having asked for it.
REPAIRS = {
    "failed_add": "what a failed ADD had done was taken back",
    "unheard_add": "an ADD was taken back because its caller never got the answer",
    "collected": "GC removed an interface or the rules of an attachment that is not in use",
}

# Seconds: half a millisecond to ten seconds.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# Networks with samples of their own, those with most leases first.
MOST_NETWORKS = 200

_PLUGINS = frozenset(PLUGINS) | frozenset(PROVIDERS)
_CODES = frozenset({0}) | {
    one.code for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.CNIError)
}

# Else each counter has a second series that tells when it began.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Counts calls (``observe``) and asks for what is (the callables, at each scrape).

    ``running`` and ``waiting`` tell how many calls are at work and in the queue, ``declined`` how many were not served, by
    reason, ``lost`` how many lines of the log. ``census`` yields for each store of
    leases its folder, how many leases it has, and how many addresses its ranges have, 0 where nobody knows. All are
    called from the thread that serves. ``census`` may raise: a store that cannot be read costs only the samples of leases.
    """

    def __init__(
        self,
        running: Callable[[], int],
        waiting: Callable[[], int],
        declined: Callable[[], Mapping[str, int]],
        lost: Callable[[], int],
        census: Census,
    ) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._calls = self._counter("calls", "Plugin calls that were answered.", "plugin", "verb", "code")
        self._seconds = self._histogram("call", "Time of a plugin call, that in the queue included.", "plugin", "verb")
        self._phases = self._histogram("phase", "Time of a part of a plugin call.", "plugin", "verb", "phase")
        self._gauge("calls_running", "Plugin calls at work.", running)
        self._gauge("calls_waiting", "Plugin calls in the queue.", waiting)
        told = "Calls that the agent left to their clients."
        self.registry.register(_Asked("declined", told, ("reason",), lambda: {(why,): n for why, n in declined().items()}))
        self.registry.register(
            _Asked("log_lines_lost", "Lines that could not be written to the log.", (), lambda: {(): lost()})
        )
        self._repairs = self._counter("repairs", "What was put right without anybody having asked for it.", "kind")
        for kind in REPAIRS:
            self._repairs.labels(kind)
        unread = Counter("podwire_census_failures", "Scrapes that could not count leases.", registry=None)
        self.registry.register(_Leases(census, unread.inc))
        self.registry.register(unread)  # collected after them, so that a scrape counts its own failure
        build = Info("podwire_build", "The program that runs.", registry=self.registry)
        build.info({"version": __version__, "python": python_version()})
        ProcessCollector(registry=self.registry)
        self._known: dict[tuple[str, str, int], Callable[[Served], None]] = {}

    def observe(self, call: Served) -> None:
        """Count one answered call, its time, its phases and its repairs. From any thread."""
        key = (call.plugin, call.verb, call.code)
        count = self._known.get(key)
        if count is None:
            bounded = (
                call.plugin if call.plugin in _PLUGINS else OTHER,
                call.verb if call.verb in VERBS else OTHER,
                call.code if call.code in _CODES else -1,
            )
            count = self._known.get(bounded) or self._known.setdefault(bounded, self._counting(*bounded))
        count(call)
        for kind in call.repairs:
            self._repairs.labels(kind if kind in REPAIRS else OTHER).inc()

    def _counting(self, plugin: str, verb: str, code: int) -> Callable[[Served], None]:
        """How to count a call of one plugin, verb and code; finding a metric by its labels costs more than counting."""
        count = self._calls.labels(plugin, verb, OTHER if code < 0 else str(code)).inc
        total = self._seconds.labels(plugin, verb).observe
        phases: dict[str, Callable[[float], None]] = {}

        def phase(name: str, seconds: float) -> None:
            observe = phases.get(name)
            if observe is None:
                bounded = name if name in PHASES else OTHER
                observe = phases.setdefault(bounded, self._phases.labels(plugin, verb, bounded).observe)
            observe(seconds)

        def counting(call: Served) -> None:
            count()
            total(call.total_s)
            phase("wait", call.wait_s)
            for name, seconds in call.phases:
                phase(name, seconds)

        return counting

    def _counter(self, name: str, told: str, *labels: str) -> Counter:
        return Counter(f"podwire_{name}", told, labels, registry=self.registry)

    def _histogram(self, name: str, told: str, *labels: str) -> Histogram:
        return Histogram(f"podwire_{name}_seconds", told, labels, registry=self.registry, buckets=BUCKETS)

    def _gauge(self, name: str, told: str, value: Callable[[], int]) -> None:
        Gauge(f"podwire_{name}", told, registry=self.registry).set_function(value)


class _Asked:
    """The collector of what others count, asked for at the moment of the scrape: numbers by the values of some labels."""

    def __init__(self, name: str, told: str, labels: tuple[str, ...], ask: Callable[[], Mapping[tuple[str, ...], int]]) -> None:
        self._name, self._told, self._labels, self._ask = f"podwire_{name}", told, labels, ask

    def collect(self) -> list[CounterMetricFamily]:
        """Ask now."""
        found = CounterMetricFamily(self._name, self._told, labels=self._labels)
        for values, count in self._ask().items():
            found.add_metric(values, count)
        return [found]


class _Leases:
    """The collector of leases and free addresses: what the census says at the moment of the scrape."""

    def __init__(self, census: Census, failed: Callable[[], None]) -> None:
        self._census = census
        self._failed = failed

    def describe(self) -> list[GaugeMetricFamily]:
        """The metrics without samples: registering must not count leases."""
        return [
            GaugeMetricFamily("podwire_leases", "Addresses that are leased.", labels=["network"]),
            GaugeMetricFamily("podwire_free_addresses", "Addresses that can still be leased.", labels=["network"]),
        ]

    def collect(self) -> list[GaugeMetricFamily]:
        """Count now."""
        leases, free = self.describe()
        try:
            networks = by_network(self._census())
        except Exception:  # whatever is wrong with a folder of leases, calls are still to be seen
            self._failed()
            return [leases, free]
        for network, (leased, size) in networks.items():
            leases.add_metric([network], leased)
            if size:
                free.add_metric([network], max(0, size - leased))
        return [leases, free]


def by_network(census: Iterable[tuple[str, int, int]]) -> dict[str, tuple[int, int]]:
    """Leases and addresses of each network, a network being the last part of a folder.

    Folders of one name count together, and so do networks beyond `MOST_NETWORKS`, as "other". One size that is not known (0)
    leaves that of the sum unknown.
    """
    found: dict[str, tuple[int, int]] = {}
    for folder, leased, size in census:
        _add(found, printable(os.path.basename(folder.rstrip("/")), ""), leased, size)
    if len(found) <= MOST_NETWORKS:
        return found
    ranked = sorted(found.items(), key=lambda entry: (-entry[1][0], entry[0]))
    kept = dict(ranked[:MOST_NETWORKS])
    for _, (leased, size) in ranked[MOST_NETWORKS:]:
        _add(kept, OTHER, leased, size)
    return kept


def _add(found: dict[str, tuple[int, int]], network: str, leased: int, size: int) -> None:
    before = found.get(network)
    if before is None:
        found[network] = (leased, size)
    else:
        found[network] = (before[0] + leased, before[1] + size if before[1] and size else 0)
