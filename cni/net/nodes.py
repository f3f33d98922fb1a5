"""Other nodes' pods: each node's range of pod addresses, and the host's route to it through that node. ``look`` and
``plan_gc`` read; the rest is pure.

A route of ours carries two marks: our protocol number, which says that podwire made it, and the metric, which says for which
network. So two networks never touch each other's routes, and an administrator's own route to the same range, whose metric is
nearly always smaller, stays and wins.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from cni.net.facts import Way
from cni.net.ops import RTPROT_PODWIRE, DropNextHop, Plan, SetNextHop
from cni.spec.addresses import Cidr, Ip, is_v6, parse_cidr
from cni.spec.errors import CNIError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network

    from cni.net.host import Host


class Node(msgspec.Struct, frozen=True):
    """A node: the addresses of its pods, and its own on the segment that the nodes share. For two families two entries."""

    pod_cidr: Annotated[Cidr, Meta(description="Addresses of the node's pods.")] = msgspec.field(name="podCIDR")
    via: Annotated[Ip, Meta(description="The node's own address, on a link that this host has too.")]

    @property
    def network(self) -> IPv4Network | IPv6Network:
        """The range as a network."""
        return self.pod_cidr.network


class Document(msgspec.Struct, frozen=True):
    """A file of nodes."""

    nodes: tuple[Node, ...] = ()


class NodeSeen(msgspec.Struct, frozen=True):
    """A node with the host's route to its pods, and to the node where that is not ours as it should be."""

    node: Node
    right: bool
    hop: Way | None = None


class Facts(msgspec.Struct, frozen=True):
    """The nodes as they were seen, and the routes of ours: next hops by range and metric, if some node's was not right."""

    seen: tuple[NodeSeen, ...] = ()
    next_hops: dict[tuple[Cidr, int], Ip] = {}


def mark(network: str) -> int:
    """The metric of a network's routes: 32 bits that follow from its name, above those that people choose."""
    return int.from_bytes(sha256(f"routes of {network}".encode()).digest()[:4], "big") | 1 << 31


def validate(nodes: Iterable[Node], where: str) -> None:
    """ConfigError for an entry that no route can be made of, and for one range behind two nodes."""
    behind: dict[IPv4Network | IPv6Network, Ip] = {}
    for index, node in enumerate(nodes):
        place = f"{where}[{index}]"
        if is_v6(node.via) != is_v6(node.pod_cidr):
            raise ConfigError(f"{place}: via {node.via} and podCIDR {node.pod_cidr} are not of one family")
        if node.via.is_unspecified or node.via.is_multicast or node.via.is_loopback:
            raise ConfigError(f"{place}: via {node.via} is no address of a node")
        if not node.network.prefixlen:
            raise ConfigError(f"{place}: podCIDR {node.pod_cidr} is every address there is")
        if node.via in node.network:
            raise ConfigError(f"{place}: via {node.via} is one of the pods' own addresses, {node.network}")
        if behind.setdefault(node.network, node.via) != node.via:
            raise ConfigError(f"{place}: podCIDR {node.network} is behind {behind[node.network]} already")


def look(host: Host, network: str, nodes: Iterable[Node]) -> Facts:
    """How the host reaches each node's pods. Where all is right that is one question a node."""
    seen = tuple(_look_at(host, node, mark(network)) for node in nodes)
    wrong = any(not it.right and not (it.hop is not None and it.hop.local) for it in seen)
    return Facts(seen, host.root.next_hops() if wrong else {})


def _look_at(host: Host, node: Node, metric: int) -> NodeSeen:
    network = node.network
    inside = network.network_address if network.prefixlen == network.max_prefixlen else network.network_address + 1
    way = host.root.way(inside)
    right = way is not None and (way.dst.network, way.gw, way.priority, way.protocol) == (
        network,
        node.via,
        metric,
        RTPROT_PODWIRE,
    )
    return NodeSeen(node, right, None if right else host.root.way(node.via))


def plan_add(network: str, facts: Facts) -> Plan:
    """Lead the routes through the nodes. A node that is this host itself needs none, so that all nodes can have one list.

    CNIError where a node is not on a link of this host: its pods cannot be reached this way.
    """
    metric = mark(network)
    plan: Plan = []
    for it in facts.seen:
        node = it.node
        if it.right or (it.hop is not None and it.hop.local) or _next_hop(facts, node, metric) == node.via:
            continue
        problem = unreachable(it)
        if problem:
            raise CNIError(problem, "host-gw needs a segment that all nodes share; VXLAN does not")
        plan.append(SetNextHop(dst=parse_cidr(str(node.network)), via=node.via, metric=metric))
    return plan


def unreachable(it: NodeSeen) -> str:
    """Why a node's pods cannot be reached through it; empty when they can."""
    if it.right or (it.hop is not None and (it.hop.local or it.hop.on_link)):
        return ""
    where = f"next hop {it.node.via} of {it.node.network}"
    if it.hop is None:
        return f"{where} cannot be reached: this host has no route to it"
    return f"{where} is not on a link of this host but behind {it.hop.gw or 'another next hop'}"


def check(network: str, facts: Facts) -> list[str]:
    """A line for each node whose pods the host does not reach through it."""
    metric = mark(network)
    return [
        f"route to {it.node.network} through node {it.node.via} is gone"
        for it in facts.seen
        if not it.right and not (it.hop is not None and it.hop.local) and _next_hop(facts, it.node, metric) != it.node.via
    ]


def plan_gc(host: Host, network: str, nodes: Iterable[Node]) -> Plan:
    """Remove the network's routes to ranges that no node of the list has any more."""
    wanted = {node.network for node in nodes}
    metric = mark(network)
    return [
        DropNextHop(dst=dst, via=via, metric=metric)
        for (dst, priority), via in host.root.next_hops().items()
        if priority == metric and dst.network not in wanted
    ]


def _next_hop(facts: Facts, node: Node, metric: int) -> Ip | None:
    return facts.next_hops.get((parse_cidr(str(node.network)), metric))
