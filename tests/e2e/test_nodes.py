"""host-gw on two nodes that share a segment, with cnitool alone: pods of both reach each other, and keep their addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import serving
from tests.e2e.conftest import NODE_ADDRESSES, Runtime, conflist, join_segment
from tests.harness import observe, traffic
from tests.harness.node import Node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness.plugin import Executables

pytestmark = pytest.mark.root

NAME = "host-gw"


@pytest.fixture
def runtimes(
    request: pytest.FixtureRequest, node: Node, plugins: Executables, cnitool: Path, tmp_path: Path
) -> Iterator[list[Runtime]]:
    """Two nodes on one segment. Each has the list of conf/, with the range of its own."""
    if not plugins.ours:
        pytest.skip("the reference has no host-gw")
    with Node() as other, serving(request.config, other):
        made = []
        for number, one in enumerate((node, other)):
            folder = tmp_path / str(number)
            folder.mkdir()
            runtime = Runtime(one, str(plugins.folder), folder)
            document = conflist(NAME)
            plugin = document["plugins"][0]
            plugin["ipam"]["ranges"] = [[{"subnet": entry["podCIDR"]}] for entry in plugin["nodes"][number::2]]
            runtime.network(document)
            made.append(runtime)
        node.sh(f"ip link add seg0 type veth peer name seg0 netns {other.pid}")
        for number, one in enumerate((node, other)):
            join_segment(one, number)
        yield made


def test_pods_of_two_nodes_reach_each_other_without_nat(runtimes: list[Runtime]) -> None:
    network = conflist(NAME)["name"]
    pods = [[runtime.node.pod() for _ in range(2)] for runtime in runtimes]
    results = [[runtime.call("add", network, pod) for pod in pods_of] for runtime, pods_of in zip(runtimes, pods, strict=True)]
    for here, there in ((0, 1), (1, 0)):
        near, far = runtimes[here].node, runtimes[there].node
        inside, outside = pods[here][0].rpartition("/")[2], pods[there][1].rpartition("/")[2]
        own, other = results[here][0]["ips"], results[there][1]["ips"]
        for mine, theirs in zip(own, other, strict=True):
            source, target = mine["address"].split("/")[0], theirs["address"].split("/")[0]
            assert near.pings(target, pod=inside), f"{target} does not answer {source}"
            traffic.start(far, traffic.ECHO_SOURCE, target, "5353", pod=outside)
            assert traffic.source_seen_by(near, target, pod=inside) == source
        for address in NODE_ADDRESSES[there]:
            assert near.pings(address.split("/")[0], pod=inside), "the other node itself"
    for runtime, pods_of in zip(runtimes, pods, strict=True):
        runtime.call("check", network, pods_of[0])
        for pod in pods_of:
            runtime.call("del", network, pod)
    near = runtimes[0].node
    assert observe.leases(near, network) == {}
    assert not [name for name in observe.links(near) if name.startswith("veth")]
