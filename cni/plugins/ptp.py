"""ptp: one veth for each attachment between sandbox and host, and routes; no bridge, so pods meet at the host's IP layer.

Of its subnet a pod has nothing on its link but the gateway, which is the host's end: what it sends to a neighbour goes through
the host, its routes and its packet filters. Keys and results are the reference's. On purpose different: it works without IPAM
(layer 2, P#987) and with a /32 (P#150), a subnet's missing gateway is its first address, nothing waits for duplicate address
detection (P#680), the hardware address can be given, CHECK looks at the host's side too, and a failed ADD leaves nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from cni.net import routed, veth
from cni.net.configure import check_mtu, gateway_routes, plan_forwarding, plan_interface
from cni.net.facts import RouteSeen
from cni.net.gateway import with_gateways
from cni.net.ops import RTPROT_STATIC, SANDBOX, Plan, SetLink
from cni.net.verify import own, route_problems
from cni.nft import masquerade
from cni.nft.ops import Unread, attempt, require
from cni.spec.addresses import Cidr, Ip, is_v6, single
from cni.spec.conf import Dns, read, read_to_remove
from cni.spec.errors import ConfigError
from cni.spec.keys import VethConf
from cni.spec.result import AssignedIp, Result

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.net.host import Host
    from cni.spec.call import Call
    from cni.spec.owner import Owner

CREATES_INTERFACE = True
CHAINED = False


class Conf(VethConf, frozen=True, kw_only=True, rename="camel"):
    """The keys of ptp."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a call sees of its attachment. Parts that the verb does not need stay at their defaults."""

    ends: veth.Ends = veth.Ends()
    container_routes: tuple[RouteSeen, ...] = ()
    host: routed.HostSide = routed.HostSide()
    masquerade: masquerade.Facts
    unread: tuple[Unread, ...] = ()


def parse(call: Call) -> Conf:
    """The configuration; DEL and GC take one whose values ADD would refuse."""
    if call.verb in ("DEL", "GC"):
        return read_to_remove(call, Conf)
    conf = read(call, Conf)
    conf.validate(call)
    return conf


def look(conf: Conf, call: Call, host: Host, known: Result | None) -> Facts:
    """The attachment's two ends and its masquerade. ``known`` is the lease or prevResult."""
    ends = veth.look(call, host, known)
    addresses = veth.addresses(call, ends, known)
    of_masquerade = partial(masquerade.look, host, call.owner, addresses, conf.ip_masq, conf.backend, call.verb)
    if call.verb == "DEL":
        masqueraded, unread = attempt(of_masquerade, masquerade.Facts(), conf.ip_masq, call.notes)
        return Facts(ends=ends, masquerade=masqueraded, unread=tuple(unread))
    if call.verb == "ADD":
        ips = with_gateways(known.ips if known is not None else (), routed.CONTAINER, True)
        routed.refuse_taken(host, addresses, _gateways(ips))
        return Facts(masquerade=of_masquerade())
    return Facts(
        ends=ends,
        container_routes=host.sandbox.routes(call.ifname) if host.sandbox is not None else (),
        host=routed.look(host, ends, own(known or Result(), call.ifname)),
        masquerade=of_masquerade(),
    )


def plan_add(conf: Conf, call: Call, facts: Facts, lease: Result) -> tuple[Plan, Result]:
    """From nothing to a working attachment: the pod's side, then the host's, what others share at the end."""
    ips = with_gateways(lease.ips, routed.CONTAINER, True)
    dns = conf.dns if conf.dns != Dns() else lease.dns
    ends = routed.interfaces(call, conf.mac(call), conf.mtu)
    result = Result(interfaces=ends, ips=ips, routes=lease.routes, dns=dns)
    addresses = tuple(ip.address for ip in ips)
    wrong_mtu = check_mtu(conf.mtu, addresses)
    if wrong_mtu:
        raise ConfigError(wrong_mtu)
    plan = routed.plan_veth(call, result)
    if not ips:
        return [*plan, SetLink(side=SANDBOX, name=call.ifname, up=True)], result
    plan += plan_interface(call.ifname, result, dad=False, subnets=False)
    plan += routed.plan_host(result, _gateways(ips), RTPROT_STATIC)
    if conf.ip_masq:
        plan += masquerade.plan_add(call.owner, addresses, conf.backend, facts.masquerade)
    return plan + plan_forwarding(map(is_v6, addresses), ends[0].name), result


def report(conf: Conf, result: Result, host: Host) -> Result:
    """The result; nothing in it is the kernel's choice."""
    return result


def plan_del(conf: Conf, call: Call, facts: Facts) -> Plan:
    """Remove the attachment: its link, with which addresses and routes go on both sides, then its masquerade."""
    return [*veth.plan_del(call, facts.ends), *masquerade.plan_del(call.owner, facts.masquerade), *facts.unread]


def check(conf: Conf, call: Call, facts: Facts, prev: Result) -> list[str]:
    """Everything that ADD set up and that can be seen, a line for each thing that is not so any more."""
    mine, ends = own(prev, call.ifname), facts.ends
    problems = veth.check(call, ends, prev, conf.mtu)
    if ends.container is not None and mine.ips:
        inside = msgspec.structs.replace(mine, routes=(*(route for route, _ in gateway_routes(mine)), *mine.routes))
        problems += route_problems(inside, call.ifname, facts.container_routes)
    problems += routed.check(facts.host, mine, _gateways(mine.ips), conf.mtu)
    if conf.ip_masq and conf.ipam.type:
        problems += masquerade.check(call.owner, tuple(ip.address for ip in mine.ips), conf.backend, facts.masquerade)
    return problems


def plan_gc(conf: Conf, call: Call, keep: frozenset[Owner], host: Host) -> Plan:
    """Delete the links and the masquerade of this network whose attachments are not in use any more."""
    nothing: Plan = []
    look_gc = partial(masquerade.plan_gc, host, call.network, keep)
    removal, unread = attempt(look_gc, nothing, conf.ip_masq, call.notes)
    return [*veth.plan_gc(call.network, keep, host), *removal, *unread]


def status(conf: Conf, call: Call, host: Host) -> None:
    """NotAvailable (50) when the packet filter that ipMasq needs cannot be used."""
    require(host, [conf.backend] if conf.ip_masq else [])


def _gateways(ips: Iterable[AssignedIp]) -> list[Cidr]:
    """The addresses of the host's end: each gateway, alone."""
    gateways: dict[Ip, None] = dict.fromkeys(ip.gateway for ip in ips if ip.gateway is not None)
    return [single(gateway) for gateway in gateways]
