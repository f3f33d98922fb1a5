"""A veth without a bridge, as ptp and host-gw have it: the host's end, its routes to the pod, forwarding. ``look`` reads; the
rest is pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from cni.net.configure import ACCEPT_RA, FORWARDING, LINK_FORWARDING, forwarding_problems, no_router_advertisements
from cni.net.facts import Link, RouteSeen
from cni.net.ops import HOST, AddAddress, AddRoute, CreateVeth, Plan, SetSysctls
from cni.net.verify import route_problems
from cni.spec.addresses import Cidr, is_v6, single
from cni.spec.errors import CNIError
from cni.spec.result import Interface, Result, Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.net.host import Host
    from cni.net.veth import Ends
    from cni.spec.addresses import Ip
    from cni.spec.call import Call

# The container's place in the result's list of interfaces: after the host's end.
CONTAINER = 1


class HostSide(msgspec.Struct, frozen=True):
    """The host's end and what the host has for the pod. ``accept_ra`` is None where the kernel has no IPv6; ``elsewhere`` is a
    line for each of the pod's addresses that the host leads somewhere else.
    """

    link: Link | None = None
    addresses: tuple[Cidr, ...] = ()
    routes: tuple[RouteSeen, ...] = ()
    forwarding: tuple[bool, ...] = (False, False)
    accept_ra: str | None = None
    elsewhere: tuple[str, ...] = ()
    link_forwards: bool = True


def interfaces(call: Call, mac: str, mtu: int) -> tuple[Interface, Interface]:
    """The two ends as the result lists them; ``mac`` is the pod's."""
    owner = call.owner
    return (
        Interface(name=owner.host_veth, mac=owner.mac("host"), mtu=mtu),
        Interface(name=call.ifname, mac=mac, mtu=mtu, sandbox=call.netns),
    )


def plan_veth(call: Call, result: Result) -> Plan:
    """The pair, and what the host's end must not do."""
    host_end, container = result.interfaces
    # While the host's link-local address is being tested for duplicates, the host asks for no neighbour: a second or two in
    # which it cannot reach the pod by IPv6.
    no_detection = ((f"net/ipv6/conf/{host_end.name}/accept_dad", "0"),)
    return [
        CreateVeth(
            name=host_end.name,
            mac=host_end.mac,
            peer=container.name,
            peer_mac=container.mac,
            mtu=host_end.mtu,
            label=call.owner.label,
        ),
        no_router_advertisements(host_end.name),
        SetSysctls(side=HOST, values=no_detection),
    ]


def plan_host(result: Result, own: Iterable[Cidr], protocol: int) -> Plan:
    """The host's ``own`` addresses on its end, and a route to each address of the pod, with the number of who made it."""
    name = result.interfaces[0].name
    to_pod = dict.fromkeys(Route(single(ip.address.ip)) for ip in result.ips)
    return [
        *(AddAddress(side=HOST, ifname=name, address=address) for address in own),
        *(AddRoute(side=HOST, ifname=name, route=route, protocol=protocol, sole=True) for route in to_pod),
    ]


def refuse_taken(host: Host, addresses: Iterable[Cidr], gateways: Iterable[Cidr] = ()) -> None:
    """CNIError where an address of the pod, or one that its host end is to have, is another attachment's by the host's routes:
    the host could reach only one of the two. That the host has a gateway itself is well: each pod's end has it.
    """
    own = [(address.ip, f"address {address.ip}", False) for address in addresses]
    for ip, named, may_be_here in [*own, *((gateway.ip, f"gateway {gateway.ip}", True) for gateway in gateways)]:
        way = host.root.way(ip)
        if way is None or way.dst != single(ip):
            continue
        if way.local and not may_be_here:
            raise CNIError(f"{named} is this host's own", "the host could not reach the pod: have IPAM give another address")
        there = host.root.link_at(way.out) if way.on_link else None
        if there is not None and there.kind == "veth":
            raise CNIError(
                f"{named} is that of another attachment, {there.alias or 'made by somebody else'}",
                f"its host end is {there.name}; DEL it first, or have IPAM give another address",
            )


def look(host: Host, ends: Ends, mine: Result) -> HostSide:
    """What is there of it; ``mine`` is the pod's by prevResult."""
    forwarding = tuple(host.sysctl(HOST, FORWARDING[v6]) == "1" for v6 in (False, True))
    if ends.host is None:
        return HostSide(forwarding=forwarding)
    name = ends.host.name
    accept_ra = host.sysctl(HOST, ACCEPT_RA.format(name))
    link_forwards = host.sysctl(HOST, LINK_FORWARDING.format(name)) == "1"
    elsewhere = tuple(line for ip in mine.ips if (line := _elsewhere(host, ends.host, ip.address.ip)))
    return HostSide(
        ends.host, host.root.addresses(name), host.root.routes(name), forwarding, accept_ra, elsewhere, link_forwards
    )


def _elsewhere(host: Host, link: Link, address: Ip) -> str:
    """Where the host leads a pod's address to, if not to its link; empty also where it leads it nowhere."""
    way = host.root.way(address)
    if way is None or way.out == link.index:
        return ""
    there = host.root.link_at(way.out)
    where = "itself" if way.local else there.name if there is not None else "another link"
    return f"the host leads {address} to {where}, not to {link.name}"


def check(side: HostSide, mine: Result, own: Iterable[Cidr], mtu: int) -> list[str]:
    """A line for each thing that is not as ``plan_veth`` and ``plan_host`` made it; ``mine`` is the pod's by prevResult."""
    problems = forwarding_problems((is_v6(ip.address) for ip in mine.ips), side.forwarding)
    if side.link is None:
        return ["the host's end of the veth is gone", *problems]
    name = side.link.name
    problems += [] if side.link.up else [f"{name} is down"]
    if not side.link_forwards and not all(is_v6(ip.address) for ip in mine.ips):
        problems.append(f"forwarding is off: {LINK_FORWARDING.format(name)} is not 1")
    if mtu and side.link.mtu != mtu:
        problems.append(f"{name} has MTU {side.link.mtu}, expected {mtu}")
    if side.accept_ra not in ("0", None):
        problems.append(f"{name} takes routes from the pod: {ACCEPT_RA.format(name)} is {side.accept_ra}, expected 0")
    problems += [f"address {cidr} is gone from {name}" for cidr in own if cidr not in side.addresses]
    to_pod = Result(routes=tuple(Route(single(ip.address.ip)) for ip in mine.ips))
    return [*problems, *route_problems(to_pod, name, side.routes), *side.elsewhere]
