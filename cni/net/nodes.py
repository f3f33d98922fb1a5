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

from cni.net.facts import NextHop, Way
from cni.net.ops import RTPROT_PODWIRE, DropNextHop, Plan, SetNextHop
from cni.spec.addresses import Cidr, Ip, is_v6, parse_cidr
from cni.spec.errors import CNIError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from ipaddress import IPv4Network, IPv6Network

    from cni.net.host import Host


# From so many nodes on, one list of all routes of ours is told sooner than each is.
MANY = 16


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
    """A node with what leads to its pods: whether our route is as it should be, its next hop (``before``), and the way to the
    node itself (``hop``). Where it is not, also a ``subnet`` of this host's links that the range is in.
    """

    node: Node
    right: bool
    before: Ip | None = None
    hop: Way | None = None
    subnet: str = ""

    @property
    def here(self) -> bool:
        """Whether the node is this host itself."""
        return self.hop is not None and self.hop.local


def mark(network: str) -> int:
    """The metric of a network's routes: 32 bits that follow from its name, above those that people choose."""
    return int.from_bytes(sha256(f"routes of {network}".encode()).digest()[:4], "big") | 1 << 31


def validate(nodes: Sequence[Node], where: str) -> None:
    """ConfigError for an entry that no route can be made of, for one range behind two nodes, and for a range with a node's own
    address in it: what is sent to that node would go to another one.
    """
    behind: dict[IPv4Network | IPv6Network, Ip] = {}
    for index, node in enumerate(nodes):
        place = f"{where}[{index}]"
        if is_v6(node.via) != is_v6(node.pod_cidr):
            raise ConfigError(f"{place}: via {node.via} and podCIDR {node.pod_cidr} are not of one family")
        if not _may_be_a_node(node.via):
            raise ConfigError(f"{place}: via {node.via} is no address of a node")
        if not node.network.prefixlen:
            raise ConfigError(f"{place}: podCIDR {node.pod_cidr} is every address there is")
        if _is_special(node.network.network_address) or _is_special(node.network.broadcast_address):
            raise ConfigError(f"{place}: podCIDR {node.pod_cidr} has addresses that no pod can have")
        if behind.setdefault(node.network, node.via) != node.via:
            raise ConfigError(f"{place}: podCIDR {node.network} is behind {behind[node.network]} already")
    # There may be thousands of both: each address is looked up once for each length of a range.
    ranges = {(it.version, it.prefixlen, int(it.network_address) >> it.max_prefixlen - it.prefixlen): it for it in behind}
    lengths = {(version, length) for version, length, _ in ranges}
    for index, via in enumerate(node.via for node in nodes):
        for length in (length for version, length in lengths if version == via.version):
            found = ranges.get((via.version, length, int(via) >> via.max_prefixlen - length))
            if found is not None:
                raise ConfigError(f"{where}[{index}]: via {via} is one of the pods' own addresses, {found}")


def _is_special(ip: Ip) -> bool:
    return ip.is_multicast or ip.is_loopback or ip.is_link_local or (not is_v6(ip) and ip.is_reserved)


def _may_be_a_node(via: Ip) -> bool:
    """Link-local IPv6 addresses are left out: a route through one has to name the link."""
    return not (via.is_unspecified or via.is_multicast or via.is_loopback or (is_v6(via) and via.is_link_local))


def look(host: Host, network: str, nodes: Sequence[Node]) -> tuple[NodeSeen, ...]:
    """How the host reaches each node and its pods. Where all is right that is a question for each node's address and one for
    its range, of many nodes one for all ranges.

    A route of ours that leaves by another link than the node is on by now is as wrong as one through another node.
    """
    metric = mark(network)
    hops = {via: host.root.way(via) for via in dict.fromkeys(node.via for node in nodes)}
    ours = host.root.next_hops() if len(nodes) > MANY else None
    subnets: set[IPv4Network | IPv6Network] | None = None
    found = []
    for node in nodes:
        hop = hops[node.via]
        wanted = NextHop(node.via, hop.out) if hop is not None and hop.on_link else None
        before = wanted if ours is None and _is_ours(host.root.way(_first(node)), node, wanted, metric) else None
        if before is None:
            ours = host.root.next_hops() if ours is None else ours
            before = ours.get((parse_cidr(str(node.network)), metric))
        right = before is not None and before == wanted
        subnet = ""
        if not right and wanted is not None:
            subnets = host.root.subnets() if subnets is None else subnets
            within = (it for it in subnets if node.pod_cidr.ip in it and it.prefixlen <= node.network.prefixlen)
            subnet = str(next(within, ""))
        found.append(NodeSeen(node, right, before.via if before is not None else None, hop, subnet))
    return tuple(found)


def _first(node: Node) -> Ip:
    """An address of the node's pods."""
    network = node.network
    return network.network_address if network.prefixlen == network.max_prefixlen else network.network_address + 1


def _is_ours(way: Way | None, node: Node, wanted: NextHop | None, metric: int) -> bool:
    """Whether a way is the route of ours through a node."""
    if way is None or wanted is None:
        return False
    seen = (way.dst.network, way.gw, way.out, way.priority, way.protocol)
    return seen == (node.network, wanted.via, wanted.out, metric, RTPROT_PODWIRE)


def plan_add(network: str, seen: Iterable[NodeSeen]) -> Plan:
    """Lead the routes through the nodes. A node that is this host itself needs none, so that all nodes can have one list.

    CNIError where a node is not on a link of this host: its pods cannot be reached this way. And where the range is within a
    subnet of this host's links: what is there could not be reached any more.
    """
    metric = mark(network)
    plan: Plan = []
    for it in seen:
        problem = unreachable(it)
        if problem:
            raise CNIError(problem, "host-gw needs a segment that all nodes share; VXLAN does not")
        if it.subnet:
            told = "the route would take what is sent there: correct the list of nodes"
            raise CNIError(f"podCIDR {it.node.network} of node {it.node.via} is in {it.subnet}, a subnet of this host", told)
        dst = parse_cidr(str(it.node.network))
        if it.here and it.before is not None:
            plan.append(DropNextHop(dst=dst, via=it.before, metric=metric))
        elif not it.right and not it.here:
            plan.append(SetNextHop(dst=dst, via=it.node.via, metric=metric))
    return plan


def unreachable(it: NodeSeen) -> str:
    """Why a node's pods cannot be reached through it; empty when they can."""
    if it.right or it.here or (it.hop is not None and it.hop.on_link):
        return ""
    where = f"next hop {it.node.via} of {it.node.network}"
    if it.hop is None:
        return f"{where} cannot be reached: this host has no route to it"
    return f"{where} is not on a link of this host but behind {it.hop.gw or 'another next hop'}"


def check(seen: Iterable[NodeSeen]) -> list[str]:
    """A line for each node whose pods the host does not reach through it."""
    return [
        f"route to {it.node.network} through node {it.node.via} "
        + ("leaves by another link than the node is on" if it.before == it.node.via else "is gone")
        for it in seen
        if not it.right and not it.here
    ]


def plan_gc(host: Host, network: str, nodes: Sequence[Node]) -> Plan:
    """Remove the network's routes to ranges that no other node of the list has."""
    metric = mark(network)
    mine = {dst: hop.via for (dst, priority), hop in host.root.next_hops().items() if priority == metric}
    if not mine:
        return []
    wanted = {node.network for node in nodes if (hop := host.root.way(node.via)) is None or not hop.local}
    return [DropNextHop(dst=dst, via=via, metric=metric) for dst, via in mine.items() if dst.network not in wanted]
