"""What containers leave in a host, as foreign tools show it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tests.harness import observe
from tests.harness.node import OUTSIDE

if TYPE_CHECKING:
    from collections.abc import Callable

    from .host import Host

# A container's own processes, and those that runtimes have for it.
PROCESSES = ("busybox", "conmon", "containerd-shim", "crun", "ctr", "httpd", "podman", "runc")
GROUPS = "find /sys/fs/cgroup -type d -path '*/default/*' -o -type d -path '*/libpod-*'"


def of_containers(host: Host) -> dict[str, Any]:
    """All that stands for one container or another: with none, every value is empty."""
    leases = observe.files(host, "/var/lib/cni/networks")
    return {
        "ports of bridges": [name for name, link in observe.links(host).items() if "master" in link],
        "leases": [path for path in leases if path.rpartition("/")[2][0] in "0123456789f"],
        "results": list(observe.files(host, "/var/lib/cni/results")),
        "namespaces": [name.name for name in host.path("/run/netns").iterdir() if name.name != OUTSIDE],
        "processes": [name for name in host.sh("ps -eo comm=").split() if name in PROCESSES],
        "control groups": host.sh(GROUPS).split(),
    }


def are_closed(host: Host) -> None:
    """Wait until nothing stands for a container: runtimes tidy up when they have answered already."""
    end = time.monotonic() + 10
    while any((left := of_containers(host)).values()):
        assert time.monotonic() < end, f"left: {left}"
        time.sleep(0.05)


def are_as_before(host: Host, cycle: Callable[[], None]) -> None:
    """Run a cycle of containers' lives twice: after the second the host is as it was after the first."""
    cycle()
    are_closed(host)
    first = observe.snapshot(host, with_files=False)
    cycle()
    are_closed(host)
    assert observe.difference(first, observe.snapshot(host, with_files=False)) == []
