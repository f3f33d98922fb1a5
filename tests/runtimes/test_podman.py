"""podman with its own network list: bridge, portmap, firewall, tuning."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

import pytest

from tests.harness import observe, traffic
from tests.harness.node import NODE_V4, NODE_V6, OUTSIDE_V4

from . import books, image
from .runtimes import get, until

if TYPE_CHECKING:
    from .host import Host
    from .runtimes import Podman

pytestmark = [pytest.mark.root, pytest.mark.runtimes]

# Where a published port is found, by its address and number.
PUBLISHED = (NODE_V4, 8080)


def address(host: Host, name: str) -> str:
    """The IPv4 address in a container."""
    [found] = [entry for entry in observe.addresses(host, "eth0", pod=name) if ":" not in entry]
    return found.partition("/")[0]


def askers(podman: Podman, name: str) -> list[str]:
    """The addresses that the container's server has seen."""
    return re.findall(r"\[?(?:::ffff:)?([0-9a-f.:]+?)\]?:\d+: ?response:200", podman("logs", name, check=False))


@pytest.mark.parametrize("policy", ["ACCEPT", "DROP"])
def test_published_port(host: Host, podman: Podman, outside: str, policy: str) -> None:
    """From everywhere; who asks from outside is seen as who it is. Also where the host drops what it should forward, as Docker
    sets it up: the reference's firewall lets nobody in from outside then.
    """
    host.sh(f"iptables -P FORWARD {policy}")
    said = podman.run("web", "-p", "8080:80")
    podman.run("other")
    inside = address(host, "web")
    assert said["NetworkSettings"]["IPAddress"] == inside
    assert observe.default_gateways(host, pod="web") == {said["NetworkSettings"]["Gateway"]}
    assert said["NetworkSettings"]["MacAddress"] == observe.links(host, pod="web")["eth0"]["address"]

    assert get(host, inside) == "web", "by its own address"
    assert get(host, *PUBLISHED) == "web", "from the host by its address"
    assert get(host, "127.0.0.1", 8080) == "web", "from the host by localhost"
    assert get(host, *PUBLISHED, pod="other") == "web", "from another container"
    assert get(host, *PUBLISHED, pod="web") == "web", "from the container itself"
    assert OUTSIDE_V4 not in askers(podman, "web")
    assert get(host, *PUBLISHED, pod=outside) == "web", "from outside"
    assert askers(podman, "web")[-1] == OUTSIDE_V4


def test_containers_reach_out_and_each_other(host: Host, podman: Podman, outside: str) -> None:
    """With the host's address outside, with their own among themselves, on a host that forwards nothing by itself."""
    host.sh("iptables -P FORWARD DROP")
    podman.run("one")
    podman.run("two")
    assert get(host, address(host, "one"), pod="two") == "one"
    assert askers(podman, "one") == [address(host, "two")]
    assert get(host, address(host, "two"), pod="one") == "two"
    traffic.start(host, traffic.ECHO_SOURCE, OUTSIDE_V4, "5353", pod=outside)
    assert traffic.source_seen_by(host, OUTSIDE_V4, pod="one") == NODE_V4


def test_udp_ports_and_ranges(host: Host, podman: Podman, outside: str) -> None:
    """A range of ports, a port of one address only, and datagrams."""
    podman.run("web", "-p", "9000-9002:80-82", "-p", f"{NODE_V4}:9100:80")
    podman.run("echo", "-p", "5300:53/udp")
    traffic.start(host, traffic.ECHO_SOURCE, "0.0.0.0", "53", pod="echo")
    assert get(host, NODE_V4, 9000, pod=outside) == "web"
    assert get(host, NODE_V4, 9100, pod=outside) == "web"
    assert get(host, "127.0.0.1", 9100, seconds=0) is None, "published on one address only"
    for pod, target in ((outside, NODE_V4), (None, NODE_V4), (None, "127.0.0.1"), ("web", NODE_V4), ("echo", NODE_V4)):
        asked = host.run(sys.executable, "-I", "-S", "-c", traffic.ASK, target, "5300", "3", pod=pod)
        seen = json.loads(asked.stdout)
        assert seen == OUTSIDE_V4 if pod == outside else seen, f"from {pod} by {target}: {seen}"


def test_two_families(host: Host, podman: Podman, outside: str) -> None:
    """A network that podman makes, with IPv6, and a port published on both."""
    podman("network", "create", "--ipv6", "--subnet", "10.77.0.0/24", "--subnet", "fd00:77::/64", "dual")
    podman.run("web", "--network", "dual", "-p", "8080:80")
    podman.run("other", "--network", "dual")
    [six] = [entry.partition("/")[0] for entry in observe.addresses(host, "eth0", pod="web") if ":" in entry]
    assert get(host, six) == "web"
    assert get(host, six, pod="other") == "web"
    assert get(host, *PUBLISHED, pod=outside) == "web"
    assert get(host, NODE_V6, 8080, pod=outside) == "web"
    podman.remove("web")
    podman.remove("other")
    podman("network", "rm", "dual")


def test_chosen_addresses(host: Host, podman: Podman) -> None:
    """Those that the command line asks for; a second container cannot have them."""
    podman.run("web", "--ip", "10.88.7.7", "--mac-address", "02:00:00:00:07:07")
    assert address(host, "web") == "10.88.7.7"
    assert observe.links(host, pod="web")["eth0"]["address"] == "02:00:00:00:07:07"
    refused = podman("run", "-d", "--name", "late", "--ip", "10.88.7.7", image.NAME, check=False)
    assert "10.88.7.7" in refused and "web" not in refused, refused
    podman.remove("late")
    assert len(books.of_containers(host)["ports of bridges"]) == 1


def test_two_networks(host: Host, podman: Podman) -> None:
    """A container on two, each with its own neighbours; it leaves one, and joins it again."""
    podman("network", "create", "--subnet", "10.77.0.0/24", "second")
    podman.run("near", "--network", "podman")
    podman.run("far", "--network", "second")
    podman.run("both", "--network", "podman,second")
    assert get(host, address(host, "near"), pod="both") == "near"
    assert get(host, address(host, "far"), pod="both") == "far"
    podman("network", "disconnect", "second", "both")
    assert len([name for name in observe.links(host, pod="both") if name != "lo"]) == 1
    assert get(host, address(host, "near"), pod="both") == "near"
    podman("network", "connect", "second", "both")
    assert get(host, address(host, "far"), pod="both") == "far"
    assert set(podman.look("both")["NetworkSettings"]["Networks"]) == {"podman", "second"}


def test_containers_of_a_pod_share_its_network(host: Host, podman: Podman, outside: str) -> None:
    """One address and one set of ports for two containers, the way of Kubernetes."""
    infra = ("--infra-image", image.NAME, "--infra-command", "busybox sleep 1000")
    podman("pod", "create", "--name", "pod", "-p", "8080:80", *infra)
    podman.run("web", "--pod", "pod")
    podman.run("beside", "--pod", "pod", command=("busybox", "sleep", "1000"))
    assert get(host, "127.0.0.1", pod="beside") == "web"
    assert get(host, *PUBLISHED, pod=outside) == "web"


def test_nothing_is_left(host: Host, podman: Podman, outside: str) -> None:
    """Of no container, however it ends; the second round leaves the host exactly as the first did."""

    def cycle() -> None:
        said = podman.run("removed", "-p", "8080:80", "-p", "9000-9002:80-82", "-p", "5300:53/udp")
        assert get(host, *PUBLISHED, pod=outside) == "removed"
        podman.remove("removed")
        words = said["Id"], said["NetworkSettings"]["IPAddress"], "8080", "9000", "5300"
        assert observe.mentions(host, *words) == []

        podman.run("stopped", "-p", "8080:80")
        podman("stop", "stopped")
        assert get(host, *PUBLISHED, seconds=0) is None
        podman("start", "stopped")
        podman.look("stopped")
        assert get(host, *PUBLISHED) == "stopped"
        podman("restart", "stopped")
        podman.look("stopped")
        assert get(host, *PUBLISHED) == "stopped"
        podman.remove("stopped")

        killed = podman.run("killed", "-p", "8080:80")
        host.pods.pop("killed")
        host.run("kill", "-9", podman("inspect", "--format", "{{.State.Pid}}", "killed"))
        until(lambda: observe.mentions(host, killed["Id"]) == [], "nobody cleaned up")
        podman.remove("killed")

    books.are_as_before(host, cycle)


def test_reload_after_the_rules_were_lost(host: Host, podman: Podman, outside: str) -> None:
    """Somebody flushes the packet filter, as a firewall that starts anew does: `podman network reload` brings all back."""
    podman.run("web", "-p", "8080:80")
    before = address(host, "web")
    host.sh("nft flush ruleset")
    assert get(host, *PUBLISHED, pod=outside, seconds=0) is None
    podman("network", "reload", "--all")
    assert address(host, "web") == before
    assert get(host, *PUBLISHED, pod=outside) == "web"
    traffic.start(host, traffic.ECHO_SOURCE, OUTSIDE_V4, "5353", pod=outside)
    assert traffic.source_seen_by(host, OUTSIDE_V4, pod="web") == NODE_V4


def test_a_port_that_is_taken(host: Host, podman: Podman) -> None:
    """The second container does not start, leaves nothing, and does the first one no harm."""
    podman.run("earlier", "-p", "9090:80")  # what the first container of a host brings about is no matter here
    podman.remove("earlier")
    podman.run("web", "-p", "8080:80")
    before = observe.snapshot(host, with_files=False)
    refused = podman("run", "-d", "--name", "late", "-p", "8080:80", image.NAME, check=False)
    assert "8080" in refused
    podman.remove("late")
    assert observe.difference(before, observe.snapshot(host, with_files=False)) == []
    assert get(host, *PUBLISHED) == "web"
