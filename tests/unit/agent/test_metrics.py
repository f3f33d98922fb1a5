"""Metrics: what is counted, that labels are bounded, that the page says what there is."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from agent.journal import Served
from agent.metrics import BUCKETS, MOST_NETWORKS, OTHER, PHASES, REPAIRS, Metrics, by_network
from cni import __version__
from cni.registry import PLUGINS
from cni.spec.call import VERBS
from ipam.registry import PROVIDERS
from tests.unit.test_docs import DOCS, SPAN, rows, section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.metrics_core import Metric

PAGE = DOCS / "agent.md"
LABELS = ("plugin", "verb", "code", "phase", "kind", "reason")

ADDED = Served(plugin="bridge", verb="ADD", total_s=0.0043, wait_s=0.0002, phases=(("parse", 0.0001), ("execute", 0.003)))


def made(
    running: Callable[[], int] = lambda: 0,
    waiting: Callable[[], int] = lambda: 0,
    census: Callable[[], Iterable[tuple[str, int, int]]] = list,
    declined: Callable[[], Mapping[str, int]] = dict,
    lost: Callable[[], int] = lambda: 0,
) -> Metrics:
    return Metrics(running, waiting, declined, lost, census)


def families(metrics: Metrics) -> dict[str, Metric]:
    """What a scrape reads, by the name of the family."""
    return {family.name: family for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """The sample of these labels."""
    found = [
        sample.value
        for family in families(metrics).values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(found) < 2
    return found[0] if found else None


def labels_of(metrics: Metrics, family: str) -> set[tuple[str, ...]]:
    """The values of labels that a family has, in the order of `LABELS`."""
    return {
        tuple(sample.labels[label] for label in LABELS if label in sample.labels)
        for sample in families(metrics)[family].samples
    }


# Calls.


def test_a_call_is_counted_once_in_each_family() -> None:
    metrics = made()
    metrics.observe(ADDED)
    metrics.observe(ADDED)
    assert value(metrics, "podwire_calls_total", plugin="bridge", verb="ADD", code="0") == 2
    assert value(metrics, "podwire_call_seconds_count", plugin="bridge", verb="ADD") == 2
    assert value(metrics, "podwire_call_seconds_sum", plugin="bridge", verb="ADD") == pytest.approx(0.0086)
    assert value(metrics, "podwire_phase_seconds_sum", plugin="bridge", verb="ADD", phase="execute") == pytest.approx(0.006)
    assert value(metrics, "podwire_phase_seconds_sum", plugin="bridge", verb="ADD", phase="wait") == pytest.approx(0.0004)
    assert labels_of(metrics, "podwire_phase_seconds") == {("bridge", "ADD", phase) for phase in ("wait", "parse", "execute")}


def test_buckets_go_from_half_a_millisecond_to_ten_seconds() -> None:
    metrics = made()
    for seconds in (0.0004, 0.0043, 9.0, 11.0):
        metrics.observe(Served(plugin="bridge", verb="ADD", total_s=seconds))
    counts = {
        sample.labels["le"]: sample.value
        for sample in families(metrics)["podwire_call_seconds"].samples
        if sample.name.endswith("_bucket")
    }
    assert (BUCKETS[0], BUCKETS[-1]) == (0.0005, 10.0) and list(BUCKETS) == sorted(BUCKETS)
    assert [counts[le] for le in ("0.0005", "0.0025", "0.005", "5.0", "10.0", "+Inf")] == [1, 1, 2, 2, 3, 4]


def test_failures_are_counted_by_code() -> None:
    metrics = made()
    for code in (0, 3, 3, 11, 999):
        metrics.observe(Served(plugin="host-local", verb="DEL", code=code))
    assert {
        key: value(metrics, "podwire_calls_total", plugin="host-local", verb="DEL", code=key) for key in ("0", "3", "11")
    } == {
        "0": 1,
        "3": 2,
        "11": 1,
    }
    assert value(metrics, "podwire_call_seconds_count", plugin="host-local", verb="DEL") == 5


def test_what_is_not_known_is_other() -> None:
    metrics = made()
    for number in range(300):
        strange = f"x{number}\n\udcff"
        metrics.observe(Served(plugin=strange, verb=strange, code=1000 + number, phases=((strange, 0.1),), repairs=(strange,)))
    assert labels_of(metrics, "podwire_calls") == {(OTHER, OTHER, OTHER)}
    assert labels_of(metrics, "podwire_call_seconds") == {(OTHER, OTHER)}
    assert labels_of(metrics, "podwire_phase_seconds") == {(OTHER, OTHER, OTHER), (OTHER, OTHER, "wait")}
    assert value(metrics, "podwire_repairs_total", kind=OTHER) == 300
    assert value(metrics, "podwire_calls_total", plugin=OTHER, verb=OTHER, code=OTHER) == 300


@pytest.mark.parametrize("plugin", sorted(PLUGINS | PROVIDERS))
@pytest.mark.parametrize("verb", VERBS)
def test_every_plugin_and_verb_has_its_own_label(plugin: str, verb: str) -> None:
    metrics = made()
    metrics.observe(Served(plugin=plugin, verb=verb, phases=tuple((phase, 0.1) for phase in PHASES[1:])))
    assert labels_of(metrics, "podwire_calls") == {(plugin, verb, "0")}
    assert labels_of(metrics, "podwire_phase_seconds") == {(plugin, verb, phase) for phase in PHASES}


def test_calls_of_many_threads_are_all_counted() -> None:
    metrics = made()
    verbs = ("ADD", "DEL")

    def work() -> None:
        for number in range(1000):
            metrics.observe(Served(plugin="bridge", verb=verbs[number % 2], phases=(("look", 0.001),), repairs=("collected",)))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for verb in verbs:
        assert value(metrics, "podwire_calls_total", plugin="bridge", verb=verb, code="0") == 3000
        assert value(metrics, "podwire_phase_seconds_count", plugin="bridge", verb=verb, phase="look") == 3000
    assert value(metrics, "podwire_repairs_total", kind="collected") == 6000


def test_repairs() -> None:
    metrics = made()
    assert labels_of(metrics, "podwire_repairs") == {(kind,) for kind in REPAIRS}, (
        "there from the start, so that a first one shows"
    )
    metrics.observe(Served(plugin="bridge", verb="ADD", code=999, repairs=("failed_add", "collected")))
    metrics.observe(Served(plugin="bridge", verb="GC", repairs=("collected",)))
    assert value(metrics, "podwire_repairs_total", kind="failed_add") == 1
    assert value(metrics, "podwire_repairs_total", kind="collected") == 2


# What is asked for at a scrape.


def test_what_others_count_is_asked_for() -> None:
    declined, lost = {"refused": 0, "namespace": 2}, [0]
    metrics = made(declined=lambda: declined, lost=lambda: lost[0])
    assert value(metrics, "podwire_declined_total", reason="refused") == 0, "there before the first"
    assert value(metrics, "podwire_declined_total", reason="namespace") == 2
    assert value(metrics, "podwire_log_lines_lost_total") == 0
    declined["refused"], lost[0] = 5, 3
    assert value(metrics, "podwire_declined_total", reason="refused") == 5
    assert value(metrics, "podwire_log_lines_lost_total") == 3


def test_calls_at_work_and_in_the_queue_are_asked_for() -> None:
    now = {"running": 3, "waiting": 7}
    metrics = made(running=lambda: now["running"], waiting=lambda: now["waiting"])
    assert (value(metrics, "podwire_calls_running"), value(metrics, "podwire_calls_waiting")) == (3, 7)
    now.update(running=0, waiting=1)
    assert (value(metrics, "podwire_calls_running"), value(metrics, "podwire_calls_waiting")) == (0, 1)


def test_leases_are_counted_at_a_scrape_and_not_before() -> None:
    asked = []

    def census() -> list[tuple[str, int, int]]:
        asked.append(1)
        return [("/var/lib/cni/networks/pods", 2, 253), ("/var/lib/cni/networks/unknown", 5, 0), ("/other/full", 9, 8)]

    metrics = made(census=census)
    metrics.observe(ADDED)
    assert asked == []
    found = families(metrics)
    assert asked == [1]
    assert {sample.labels["network"]: sample.value for sample in found["podwire_leases"].samples} == {
        "pods": 2,
        "unknown": 5,
        "full": 9,
    }
    assert {sample.labels["network"]: sample.value for sample in found["podwire_free_addresses"].samples} == {
        "pods": 251,
        "full": 0,
    }


def test_a_census_that_fails_costs_its_own_samples_only() -> None:
    def census() -> Iterable[tuple[str, int, int]]:
        yield "/var/lib/cni/networks/pods", 2, 253
        raise PermissionError(13, "no")

    metrics = made(census=census)
    metrics.observe(ADDED)
    found = families(metrics)
    assert found["podwire_leases"].samples == [] and found["podwire_free_addresses"].samples == []
    assert found["podwire_calls"].samples[0].value == 1
    assert value(metrics, "podwire_census_failures_total") == 2, "this scrape and the one above"


def test_folders_of_one_name_count_together() -> None:
    assert by_network([("/a/pods", 1, 10), ("/b/pods/", 2, 20), ("/a/x", 1, 10), ("/b/x", 2, 0), ("/c/x", 3, 30)]) == {
        "pods": (3, 30),
        "x": (6, 0),
    }


def test_hostile_folders_do_not_break_a_scrape() -> None:
    names = ['a"b', "a\\b", "a\nb", "\udcff", "日本", "", " "]
    metrics = made(census=lambda: [(f"/n/{name}", 1, 2) for name in names])
    found = {sample.labels["network"] for sample in families(metrics)["podwire_leases"].samples}
    assert found == {'a"b', "a\\b", "a\\nb", "\\udcff", "日本", "n", " "}


def test_networks_are_bounded() -> None:
    census = [(f"/n/net{number}", number, 1000) for number in range(MOST_NETWORKS + 50)]
    found = by_network(census)
    assert len(found) == MOST_NETWORKS + 1
    assert found[OTHER] == (sum(range(50)), 50_000)
    assert sum(leases for leases, _ in found.values()) == sum(leases for _, leases, _ in census)
    assert by_network(census[:MOST_NETWORKS]).keys() == {f"net{number}" for number in range(MOST_NETWORKS)}


# The form.


def used() -> Metrics:
    """Metrics with a sample in every family."""
    metrics = made(census=lambda: [("/n/pods", 1, 2)], declined=lambda: {"namespace": 1})
    metrics.observe(ADDED)
    return metrics


def test_both_forms_can_be_read() -> None:
    text = generate_latest(used().registry).decode()
    assert "_created" not in text
    plain = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    families_too = parse_openmetrics(generate_openmetrics(used().registry).decode())
    assert {sample.name for family in families_too for sample in family.samples} == plain


def test_names_follow_the_rules_of_prometheus() -> None:
    """Those that `promtool check metrics` has: help, form, base units, `_total` for counters and for nothing else."""
    for family in families(used()).values():
        assert family.documentation.endswith("."), family.name
        assert family.documentation[0].isupper()
        assert re.fullmatch(r"(podwire|process)_[a-z_]+", family.name), family.name
        assert not re.search(r"_(milliseconds|minutes|ms|kilobytes|counter|gauge|histogram|total)$", family.name)
        assert family.type in ("counter", "gauge", "histogram")
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert all(re.fullmatch(r"[a-z]+", label) for label in sample.labels), sample
            assert {"bucket", "count", "sum"} & {sample.name.rpartition("_")[2]} == set() or family.type == "histogram"


def test_the_build_is_told() -> None:
    (sample,) = families(made())["podwire_build_info"].samples
    assert sample.value == 1 and sample.labels["version"] == __version__ and set(sample.labels) == {"version", "python"}


def test_metrics_of_two_agents_do_not_meet() -> None:
    one, other = made(), made()
    one.observe(ADDED)
    assert families(other)["podwire_calls"].samples == []


# The page.


def test_the_table_of_metrics_is_the_metrics() -> None:
    """Names, types and labels, all but those of the process."""
    documented = {
        SPAN.findall(row[0])[0]: (row[1], tuple(SPAN.findall(row[2])))
        for row in rows(section(PAGE, "Metrics"))
        if len(row) == 4
    }
    found = {}
    for family in families(used()).values():
        if family.name.startswith("podwire_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = (family.type, tuple(label for label in family.samples[0].labels if label != "le"))
    assert {name: (kind, set(labels)) for name, (kind, labels) in documented.items()} == {
        name: (kind, set(labels)) for name, (kind, labels) in found.items()
    }


def test_lists_of_the_page_are_those_of_the_code() -> None:
    text = section(PAGE, "Metrics")
    kinds = {SPAN.findall(row[0])[0]: row[1] for row in rows(text) if len(row) == 2 and SPAN.findall(row[0])}
    assert kinds == REPAIRS
    row = next(row for row in rows(text) if "podwire_phase_seconds" in row[0])
    assert tuple(SPAN.findall(row[3])) == PHASES
    process = {name for name in families(made()) if name.startswith("process_")}
    assert {name.removesuffix("_total") for name in SPAN.findall(text) if name.startswith("process_")} == process
    assert f"the {MOST_NETWORKS} with the most leases" in text


def test_expressions_of_the_page_name_metrics_that_are_there() -> None:
    names = {sample.name for family in families(used()).values() for sample in family.samples}
    asked = {
        name for row in rows(section(PAGE, "Metrics")) for code in row[1:2] for name in re.findall(r"podwire_[a-z_]+", code)
    }
    assert asked and asked <= names
