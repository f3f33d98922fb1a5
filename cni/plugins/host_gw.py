"""host-gw: routed pods on nodes that share a segment; each node has a route to every other node's pods, through that node.

A pod has its address alone (/32, /128), and one next hop that is always the same, with the hardware address of the host's end
as a permanent neighbour: nobody is asked for it, and there is no bridge and no proxy ARP. The host has a route to each of
its pods, and routes of ours to the pods of the nodes in ``nodes`` and ``nodesFile``. There is no such plugin in the reference.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from cni.net import nodes, routed, veth
from cni.net.configure import check_mtu, default_routes, plan_forwarding, plan_interface
from cni.net.facts import NeighbourSeen, RouteSeen
from cni.net.gateway import check_address
from cni.net.nodes import Document, Node, NodeSeen
from cni.net.ops import RTPROT_PODWIRE, SANDBOX, AddNeighbour, Plan
from cni.net.verify import own, route_problems
from cni.nft import masquerade
from cni.nft.ops import Unread, attempt, require
from cni.spec.addresses import Cidr, Ip, is_v6, parse_ip, single
from cni.spec.conf import Dns, Ipam, convert, decode_document, read, read_to_remove
from cni.spec.errors import CNIError, ConfigError, DecodeError, NotAvailable, TryAgain
from cni.spec.keys import VethConf
from cni.spec.result import SCOPE_LINK, AssignedIp, Result, Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.net.host import Host
    from cni.spec.call import Call
    from cni.spec.owner import Owner

CREATES_INTERFACE = True
CHAINED = False

# msgspec's word for JSON that goes on.
_CUT = "truncated"

# The pods' next hop, by family: addresses that are valid on a link only (RFC 3927, RFC 4291), so that every pod has the same.
NEXT_HOP: dict[bool, Ip] = {False: parse_ip("169.254.1.1"), True: parse_ip("fe80::1")}


class Conf(VethConf, frozen=True, kw_only=True, rename="camel"):
    """The keys of host-gw."""

    nodes: Annotated[tuple[Node, ...], Meta(description="The nodes, this one too if you like.")] = ()
    nodes_file: Annotated[str, Meta(description="A JSON file with the key nodes; it has to be there.")] = ""
    ip_masq: Annotated[
        bool, Meta(description="Masquerade what pods send to destinations outside their subnet and the ranges of nodes.")
    ] = False
    ipam: Annotated[Ipam, Meta(description="Who gives addresses; required.")] = Ipam()


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a call sees of its attachment and the nodes. Parts that the verb does not need stay at their defaults.

    ``subnets`` are the pod's addresses with the length of the range that they are of.
    """

    ends: veth.Ends = veth.Ends()
    container_routes: tuple[RouteSeen, ...] = ()
    neighbours: tuple[NeighbourSeen, ...] = ()
    host: routed.HostSide = routed.HostSide()
    nodes: tuple[NodeSeen, ...] = ()
    subnets: tuple[Cidr, ...] = ()
    masquerade: masquerade.Facts
    unread: tuple[Unread, ...] = ()


def parse(call: Call) -> Conf:
    """The configuration; DEL and GC take one whose values ADD would refuse, without the nodes, which GC reads by itself."""
    if call.verb in ("DEL", "GC"):
        given = {key: value for key, value in call.config.items() if key.casefold() not in ("nodes", "nodesfile")}
        return read_to_remove(msgspec.structs.replace(call, config=given), Conf)
    conf = read(call, Conf)
    conf.validate(call)
    nodes.validate(conf.nodes, "nodes")
    if not conf.ipam.type:
        raise ConfigError("host-gw needs an IPAM plugin", "routes lead to addresses: add 'ipam', for example host-local")
    if conf.nodes_file and not conf.nodes_file.startswith("/"):
        raise ConfigError(f"nodesFile {conf.nodes_file!r} is not an absolute path")
    return conf


def look(conf: Conf, call: Call, host: Host, known: Result | None) -> Facts:
    """The attachment, its masquerade, and the routes to other nodes. ``known`` is the lease or prevResult."""
    ends = veth.look(call, host, known)
    addresses = veth.addresses(call, ends, known)
    of_masquerade = partial(masquerade.look, host, call.owner, wanted=conf.ip_masq, backend=conf.backend, verb=call.verb)
    if call.verb == "DEL":
        masqueraded, unread = attempt(partial(of_masquerade, addresses), masquerade.Facts(), conf.ip_masq, call.notes)
        return Facts(ends=ends, masquerade=masqueraded, unread=tuple(unread))
    listed = _nodes(conf, call, host)
    ranges = tuple(node.network for node in listed)
    subnets = masquerade.subnets(host, addresses, ranges, call.verb == "CHECK") if conf.ip_masq else ()
    facts = Facts(
        nodes=nodes.look(host, call.network, listed),
        subnets=subnets,
        masquerade=of_masquerade(subnets, inside=ranges),
    )
    if call.verb == "ADD":
        routed.refuse_taken(host, addresses)
        return facts
    return msgspec.structs.replace(
        facts,
        ends=ends,
        container_routes=host.sandbox.routes(call.ifname) if host.sandbox is not None else (),
        neighbours=host.sandbox.neighbours(call.ifname) if host.sandbox is not None else (),
        host=routed.look(host, ends, own(known or Result(), call.ifname)),
    )


def plan_add(conf: Conf, call: Call, facts: Facts, lease: Result) -> tuple[Plan, Result]:
    """From nothing to a working attachment: the pod's side, then the host's, what others share at the end."""
    result = _result(conf, call, lease)
    addresses = tuple(ip.address for ip in result.ips)
    wrong_mtu = check_mtu(conf.mtu, addresses)
    if wrong_mtu:
        raise ConfigError(wrong_mtu)
    for it in facts.nodes:
        _refuse_foreign(it, addresses)
    _refuse_alone(facts.subnets)
    to_nodes = nodes.plan_add(call.network, facts.nodes)
    host_end = result.interfaces[0]
    families = sorted(set(map(is_v6, addresses)))
    inside = msgspec.structs.replace(result, routes=(*_ways(families), *result.routes))
    plan = routed.plan_veth(call, result)
    plan += plan_interface(call.ifname, inside, dad=False)
    plan += [AddNeighbour(side=SANDBOX, ifname=call.ifname, address=NEXT_HOP[v6], mac=host_end.mac) for v6 in families]
    plan += routed.plan_host(result, (), RTPROT_PODWIRE)
    if conf.ip_masq:
        plan += masquerade.plan_add(call.owner, facts.subnets, conf.backend, facts.masquerade)
    return plan + to_nodes + plan_forwarding(families, host_end.name), result


def report(conf: Conf, result: Result, host: Host) -> Result:
    """The result; nothing in it is the kernel's choice."""
    return result


def plan_del(conf: Conf, call: Call, facts: Facts) -> Plan:
    """Remove the attachment: its link, with which routes go on both sides, then its masquerade. Routes to nodes stay."""
    return [*veth.plan_del(call, facts.ends), *masquerade.plan_del(call.owner, facts.masquerade), *facts.unread]


def check(conf: Conf, call: Call, facts: Facts, prev: Result) -> list[str]:
    """Everything that ADD set up and that can be seen, a line for each thing that is not so any more."""
    mine, ends = own(prev, call.ifname), facts.ends
    problems = veth.check(call, ends, prev, conf.mtu)
    families = sorted({is_v6(ip.address) for ip in mine.ips})
    if ends.container is not None:
        inside = msgspec.structs.replace(mine, routes=(*_ways(families), *mine.routes))
        problems += route_problems(inside, call.ifname, facts.container_routes)
        known = {neighbour.address: neighbour.mac for neighbour in facts.neighbours}
        host_mac = ends.host.mac if ends.host is not None else ""
        problems += [
            f"{call.ifname} does not know its next hop {NEXT_HOP[v6]} as {host_mac}"
            for v6 in families
            if host_mac and known.get(NEXT_HOP[v6]) != host_mac
        ]
    problems += routed.check(facts.host, mine, (), conf.mtu)
    problems += nodes.check(facts.nodes)
    if conf.ip_masq:
        problems += masquerade.check(call.owner, facts.subnets, conf.backend, facts.masquerade)
    return problems


def plan_gc(conf: Conf, call: Call, keep: frozenset[Owner], host: Host) -> Plan:
    """Delete the links and the masquerade of this network whose attachments are not in use any more, and its routes to ranges
    that no node has any more. Without the file of nodes nobody knows which these are.
    """
    nothing: Plan = []
    look_gc = partial(masquerade.plan_gc, host, call.network, keep)
    removal, unread = attempt(look_gc, nothing, conf.ip_masq, call.notes)
    links = veth.plan_gc(call.network, keep, host)
    try:
        to_nodes = nodes.plan_gc(host, call.network, _nodes(read(call, Conf), call, host))
    except CNIError as error:
        to_nodes = []
        call.notes.append(f"routes to nodes are left alone: {error}")
    # Routes at once: links take long, and an ADD meanwhile may have read a newer file and found a route that it needs.
    return [*to_nodes, *links, *removal, *unread]


def status(conf: Conf, call: Call, host: Host) -> None:
    """NotAvailable (50) when the packet filter that ipMasq needs cannot be used, the list of nodes cannot be read, or a node is
    not on a link of this host.
    """
    require(host, [conf.backend] if conf.ip_masq else [])
    try:
        listed = _nodes(conf, call, host)
        nodes.plan_add(call.network, nodes.look(host, call.network, listed))
    except CNIError as error:
        raise NotAvailable(error.msg, error.details) from error


def _nodes(conf: Conf, call: Call, host: Host) -> tuple[Node, ...]:
    """The nodes of the configuration and of the file. TryAgain (11) where there is no such file yet, or not all of it."""
    if not conf.nodes_file:
        return conf.nodes
    raw = host.file(conf.nodes_file)
    if raw is None:
        told = "it is written when the nodes are known: is its writer running?"
        raise TryAgain(f"nodesFile {conf.nodes_file} is not there", told)
    try:
        document = convert(decode_document(raw), Document, conf.nodes_file, call.notes)
    except DecodeError as error:
        if not raw.strip() or _CUT in error.details:
            told = "its writer is at work, or was stopped: one that renames a complete file into its place is never seen at it"
            raise TryAgain(f"nodesFile {conf.nodes_file} ends before its JSON does", told) from error
        raise ConfigError(f"nodesFile {conf.nodes_file} is no JSON object", error.details) from error
    nodes.validate(document.nodes, f"{conf.nodes_file}: nodes")
    listed = (*conf.nodes, *document.nodes)
    nodes.validate(listed, f"nodes and {conf.nodes_file}: nodes")
    return listed


def _refuse_foreign(it: NodeSeen, addresses: Iterable[Cidr]) -> None:
    for address in addresses:
        if address.ip == it.node.via:
            raise ConfigError(f"address {address.ip} is a node's own", "correct the list of nodes, or IPAM's ranges")
        if address.ip in it.node.network and not it.here:
            raise ConfigError(
                f"address {address.ip} is in {it.node.network}, the range of node {it.node.via}",
                "have IPAM give addresses of this node's own range, or correct the list of nodes",
            )


def _refuse_alone(subnets: Iterable[Cidr]) -> None:
    """Without the range that an address is of, what it sends to its neighbours would be masqueraded."""
    for address in subnets:
        if address.network.prefixlen == address.max_prefixlen:
            told = "list this node with its own range in nodes, or have IPAM give the address with its subnet's length"
            raise ConfigError(f"ipMasq needs the range that {address.ip} is of", told)


def _result(conf: Conf, call: Call, lease: Result) -> Result:
    for ip in lease.ips:
        check_address(ip.address)
        if ip.address.ip in NEXT_HOP.values():
            raise ConfigError(f"{ip.address} is no address for a pod: it is every pod's next hop")
    ips = tuple(AssignedIp(single(ip.address.ip), NEXT_HOP[is_v6(ip.address)], routed.CONTAINER) for ip in lease.ips)
    dns = conf.dns if conf.dns != Dns() else lease.dns
    ends = routed.interfaces(call, conf.mac(call), conf.mtu)
    families = {is_v6(ip.address) for ip in lease.ips}
    # There is one way out of the pod, whatever gateway of a subnet the IPAM plugin means.
    routes = [
        msgspec.structs.replace(route, gw=NEXT_HOP[is_v6(route.dst)])
        if route.gw is not None and is_v6(route.gw) == is_v6(route.dst) and is_v6(route.dst) in families
        else route
        for route in lease.routes
    ]
    result = Result(interfaces=ends, ips=ips, routes=tuple(routes), dns=dns)
    return msgspec.structs.replace(result, routes=default_routes(result))


def _ways(families: Iterable[bool]) -> list[Route]:
    """The way to the next hop; for IPv6 the kernel has it, as for every link-local address."""
    return [Route(single(NEXT_HOP[v6]), scope=SCOPE_LINK) for v6 in families if not v6]
