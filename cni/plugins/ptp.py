"""ptp: one veth for each attachment between sandbox and host, and routes; no bridge, so pods meet at the host's IP layer.

Of its subnet a pod has nothing on its link but the gateway, which is the host's end: what it sends to a neighbour goes through
the host, its routes and its packet filters. Keys and results are the reference's. On purpose different: it works without IPAM
(layer 2, P#987) and with a /32 (P#150), a subnet's missing gateway is its first address, nothing waits for duplicate address
detection (P#680), the hardware address can be given, CHECK looks at the host's side too, and a failed ADD leaves nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from cni.net import veth
from cni.net.configure import (
    FORWARDING,
    check_mtu,
    forwarding_problems,
    gateway_routes,
    plan_forwarding,
    plan_interface,
    validate_mtu,
)
from cni.net.facts import RouteSeen
from cni.net.gateway import with_gateways
from cni.net.ops import HOST, SANDBOX, AddAddress, AddRoute, CreateVeth, Plan, SetLink, SetSysctls
from cni.net.verify import own, route_problems
from cni.nft import masquerade
from cni.nft.ops import Unread, attempt, require
from cni.spec import mac
from cni.spec.addresses import Cidr, Ip, is_v6, single
from cni.spec.conf import Dns, Ipam, NetConf, read
from cni.spec.errors import ConfigError
from cni.spec.mac import Args, RuntimeConfig
from cni.spec.result import Interface, Result, Route

if TYPE_CHECKING:
    from cni.net.host import Host
    from cni.spec.call import Call
    from cni.spec.owner import Owner

CREATES_INTERFACE = True

# The container's place in the result's list of interfaces: after the host's end.
CONTAINER = 1


class Conf(NetConf, frozen=True, kw_only=True, rename="camel"):
    """The keys of ptp."""

    ip_masq: Annotated[bool, Meta(description="Masquerade what pods send to destinations outside their subnet.")] = False
    ip_masq_backend: Annotated[str, Meta(description="How to masquerade: nftables (the default) or iptables.")] = ""
    mtu: Annotated[int, Meta(description="MTU of the veth; 0 is the kernel's default.")] = 0
    ipam: Annotated[Ipam, Meta(description="Who gives addresses; without it the veth has none.")] = Ipam()
    args: Annotated[
        Args, Meta(description="What an orchestrator passes along; args.cni.mac is the pod's hardware address.")
    ] = Args()
    runtime_config: Annotated[RuntimeConfig, Meta(description="Set by the runtime for declared capabilities; here mac.")] = (
        RuntimeConfig()
    )

    @property
    def backend(self) -> str:
        """The masquerade backend."""
        return self.ip_masq_backend or masquerade.DEFAULT


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a call sees of its attachment. Parts that the verb does not need stay at their defaults."""

    ends: veth.Ends = veth.Ends()
    container_routes: tuple[RouteSeen, ...] = ()
    host_addresses: tuple[Cidr, ...] = ()
    host_routes: tuple[RouteSeen, ...] = ()
    forwarding: tuple[bool, ...] = ()
    masquerade: masquerade.Facts
    unread: tuple[Unread, ...] = ()


def parse(call: Call) -> Conf:
    """The configuration; DEL and GC take one whose values ADD would refuse."""
    conf = read(call, Conf)
    if call.verb not in ("DEL", "GC"):
        validate_mtu(conf.mtu)
        masquerade.validate_backend(conf.ip_masq_backend)
        mac.chosen(conf.args, conf.runtime_config, call)
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
        return Facts(masquerade=of_masquerade())
    host_end = ends.host.name if ends.host is not None else ""
    return Facts(
        ends=ends,
        container_routes=host.sandbox.routes(call.ifname) if host.sandbox is not None else (),
        host_addresses=host.root.addresses(host_end) if host_end else (),
        host_routes=host.root.routes(host_end) if host_end else (),
        forwarding=tuple(host.sysctl(HOST, FORWARDING[v6]) == "1" for v6 in (False, True)),
        masquerade=of_masquerade(),
    )


def plan_add(conf: Conf, call: Call, facts: Facts, lease: Result) -> tuple[Plan, Result]:
    """From nothing to a working attachment: the pod's side, then the host's, what others share at the end."""
    result = _result(conf, call, lease)
    host_end, container = result.interfaces
    addresses = tuple(ip.address for ip in result.ips)
    wrong_mtu = check_mtu(conf.mtu, addresses)
    if wrong_mtu:
        raise ConfigError(wrong_mtu)
    plan: Plan = [
        CreateVeth(
            name=host_end.name,
            mac=host_end.mac,
            peer=call.ifname,
            peer_mac=container.mac,
            mtu=conf.mtu,
            label=call.owner.label,
        ),
        # A pod must not be able to give the host routes (CVE-2020-10749). And while the host's link-local address is being
        # tested for duplicates, the host asks for no neighbour: a second or two in which it cannot reach the pod by IPv6.
        SetSysctls(
            side=HOST, values=tuple((f"net/ipv6/conf/{host_end.name}/{key}", "0") for key in ("accept_ra", "accept_dad"))
        ),
    ]
    if not result.ips:
        return [*plan, SetLink(side=SANDBOX, name=call.ifname, up=True)], result
    plan += plan_interface(call.ifname, result, dad=False, subnets=False)
    plan += [AddAddress(side=HOST, ifname=host_end.name, address=address) for address in _gateways(result)]
    plan += [AddRoute(side=HOST, ifname=host_end.name, route=Route(single(address.ip))) for address in addresses]
    if conf.ip_masq:
        plan += masquerade.plan_add(call.owner, addresses, conf.backend, facts.masquerade)
    return plan + plan_forwarding(map(is_v6, addresses)), result


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
    addresses = tuple(ip.address for ip in mine.ips)
    if ends.container is not None and mine.ips:
        inside = msgspec.structs.replace(mine, routes=(*(route for route, _ in gateway_routes(mine)), *mine.routes))
        problems += route_problems(inside, call.ifname, facts.container_routes)
    if ends.host is None:
        return [*problems, "the host's end of the veth is gone"]
    name = ends.host.name
    problems += [] if ends.host.up else [f"{name} is down"]
    if conf.mtu and ends.host.mtu != conf.mtu:
        problems.append(f"{name} has MTU {ends.host.mtu}, expected {conf.mtu}")
    problems += [f"address {cidr} is gone from {name}" for cidr in _gateways(mine) if cidr not in facts.host_addresses]
    to_pod = Result(routes=tuple(Route(single(address.ip)) for address in addresses))
    problems += route_problems(to_pod, name, facts.host_routes)
    problems += forwarding_problems(map(is_v6, addresses), facts.forwarding)
    if conf.ip_masq and conf.ipam.type:
        problems += masquerade.check(call.owner, addresses, conf.backend, facts.masquerade)
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


def _result(conf: Conf, call: Call, lease: Result) -> Result:
    owner = call.owner
    chosen = mac.chosen(conf.args, conf.runtime_config, call)
    interfaces = (
        Interface(name=owner.host_veth, mac=owner.mac("host"), mtu=conf.mtu),
        Interface(name=call.ifname, mac=chosen, mtu=conf.mtu, sandbox=call.netns),
    )
    ips = with_gateways(lease.ips, CONTAINER, True)
    dns = conf.dns if conf.dns != Dns() else lease.dns
    return Result(interfaces=interfaces, ips=ips, routes=lease.routes, dns=dns)


def _gateways(result: Result) -> list[Cidr]:
    """The addresses of the host's end: each gateway, alone."""
    gateways: dict[Ip, None] = dict.fromkeys(ip.gateway for ip in result.ips if ip.gateway is not None)
    return [single(gateway) for gateway in gateways]
