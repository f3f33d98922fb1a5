"""containerd's own command `ctr run --cni`: it hands over no port mappings, and DEL without a namespace."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe, traffic
from tests.harness.node import NODE_V4, OUTSIDE_V4

from . import books
from .runtimes import CONF_FOLDER, Failed, get

if TYPE_CHECKING:
    from .host import Host
    from .runtimes import Containerd

pytestmark = [pytest.mark.root, pytest.mark.runtimes]

ROUTES = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
BRIDGE = {
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": True,
    "ipMasq": True,
    "hairpinMode": True,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd00:99::/64"}]], "routes": ROUTES},
}
# What a runtime that knows of ports would put into the configuration.
MAPPINGS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}, "runtimeConfig": MAPPINGS}


def configure(host: Host, *plugins: dict[str, Any]) -> None:
    """Make this the list that containerd finds first."""
    document = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
    host.path(f"{CONF_FOLDER}/10-pods.conflist").write_text(json.dumps(document))


def address(host: Host, name: str, family: str = ".") -> str:
    """The address in a container: of IPv4, or with ":" of IPv6."""
    [found] = [entry for entry in observe.addresses(host, "eth0", pod=name) if family in entry]
    return found.partition("/")[0]


def test_containers_reach_each_other_and_are_reached(host: Host, containerd: Containerd, outside: str) -> None:
    """By both families; from outside through a route, and behind the host's address on the way out."""
    configure(host, BRIDGE)
    host.sh(f"ip route add 10.99.0.0/24 via {NODE_V4}", pod=outside)
    containerd.run("one")
    containerd.run("two")
    assert observe.default_gateways(host, pod="one") == {"10.99.0.1", "fd00:99::1"}
    for family in (".", ":"):
        assert get(host, address(host, "one", family)) == "one", "from the host"
        assert get(host, address(host, "one", family), pod="two") == "one"
        assert get(host, address(host, "two", family), pod="one") == "two"
    assert get(host, address(host, "one"), pod=outside) == "one"
    traffic.start(host, traffic.ECHO_SOURCE, OUTSIDE_V4, "5353", pod=outside)
    assert traffic.source_seen_by(host, OUTSIDE_V4, pod="one") == NODE_V4
    containerd.stop("one")
    assert get(host, address(host, "two")) == "two", "the other one is as it was"


def test_port_mapping_in_the_list(host: Host, containerd: Containerd, outside: str) -> None:
    """Published from everywhere while the container runs."""
    configure(host, BRIDGE, PORTMAP)
    containerd.run("web")
    assert get(host, NODE_V4, 8080) == "web"
    assert get(host, "127.0.0.1", 8080) == "web"
    assert get(host, NODE_V4, 8080, pod="web") == "web", "itself"
    assert get(host, NODE_V4, 8080, pod=outside) == "web"
    containerd.stop("web")
    assert get(host, NODE_V4, 8080, pod=outside, seconds=0) is None


def test_nothing_is_left(host: Host, containerd: Containerd) -> None:
    """Of no container, however it ends; the second round leaves the host exactly as the first did."""
    tuning = {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}}
    configure(host, BRIDGE, PORTMAP, {"type": "firewall"}, tuning)

    def cycle() -> None:
        for number, signal in enumerate(("SIGTERM", "SIGKILL")):
            name = f"web{number}"
            containerd.run(name)
            assert get(host, NODE_V4, 8080) == name
            assert host.sysctl("net/ipv4/conf/eth0/arp_filter", pod=name) == "1"
            inside = address(host, name), address(host, name, ":")
            containerd.stop(name, signal)
            assert observe.mentions(host, name, *inside, "8080") == []
        containerd.run("ends", command=("busybox", "sleep", "0.5"))
        containerd.wait("ends")

    books.are_as_before(host, cycle)


def test_a_container_without_a_network_does_not_run(host: Host, containerd: Containerd) -> None:
    """No address is free any more: the reason is told, and those that run are left alone."""
    small = {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/24", "rangeStart": "10.99.0.5", "rangeEnd": "10.99.0.6"}]]}
    configure(host, {**BRIDGE, "ipam": small})
    containerd.run("one")
    containerd.run("two")
    before = observe.links(host)
    with pytest.raises(Failed, match=r"10\.99\.0\.5"):
        containerd.run("three")
    assert set(observe.links(host)) == set(before)
    assert get(host, "10.99.0.5", pod="two") == "one"
    containerd.stop("one")
    containerd("tasks", "rm", "-f", "three")  # ctr leaves a container behind that never ran
    containerd("containers", "rm", "three")
    containerd.run("four")
    assert address(host, "four") == "10.99.0.5"
