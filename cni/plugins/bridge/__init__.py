"""bridge: one veth for each attachment, its host end a port of a Linux bridge; with IPAM, the bridge can be the pods' gateway.

Keys, results and messages are the reference's, so that configurations and clients move over unchanged. On
purpose different: a failed ADD takes back all it made; VLANs on a bridge without VLAN filtering take effect or are refused,
never silently ineffective; CHECK looks at everything that ADD did; GC and STATUS mean something.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from cni.net import gateway, verify, veth, vlans
from cni.net.configure import (
    FORWARDING,
    check_mtu,
    default_routes,
    forwarding_problems,
    no_router_advertisements,
    plan_forwarding,
    plan_interface,
)
from cni.net.facts import Link, RouteSeen, Vlan
from cni.net.ops import (
    HOST,
    SANDBOX,
    AdmitVlan,
    Announce,
    AwaitPort,
    CreateBridge,
    CreateVeth,
    CreateVlanGateway,
    PinMac,
    Plan,
    SetLink,
    SetSysctls,
    SetVlans,
)
from cni.nft import masquerade, spoof
from cni.nft.ops import Unread, attempt, require
from cni.plugins.bridge.conf import Conf, parse
from cni.spec import mac
from cni.spec.addresses import Cidr, is_v6
from cni.spec.conf import Dns
from cni.spec.errors import CNIError, ConfigError, LimitedConnectivity, NotAvailable
from cni.spec.owner import Owner, of_network
from cni.spec.result import Interface, Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.net.host import Host
    from cni.spec.call import Call

__all__ = ["CREATES_INTERFACE", "Conf", "check", "look", "parse", "plan_add", "plan_del", "plan_gc", "report", "status"]

CREATES_INTERFACE = True
CHAINED = False

# The container's place in the result's list of interfaces: after the bridge and the host's end.
CONTAINER = 2


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a call sees of its attachment and the bridge. Parts that the verb does not need stay at their defaults."""

    bridge: Link | None = None
    accept_ra: str = ""
    bridge_vlans: tuple[Vlan, ...] = ()
    gateway_accept_ra: str = ""
    gateway_link: Link | None = None
    gateway_addresses: tuple[Cidr, ...] = ()
    ends: veth.Ends = veth.Ends()
    container_routes: tuple[RouteSeen, ...] = ()
    port_vlans: tuple[Vlan, ...] = ()
    forwarding: tuple[bool, ...] = ()
    masquerade: masquerade.Facts
    spoof: spoof.Facts
    unread: tuple[Unread, ...] = ()


def look(conf: Conf, call: Call, host: Host, known: Result | None) -> Facts:
    """The bridge, the attachment's two ends and its packet rules. ``known`` is the lease or prevResult."""
    ends = veth.look(call, host, known)
    pod_addresses = veth.addresses(call, ends, known)
    own_mac = ends.container.mac if ends.container is not None else ""
    macs = mac.possible(conf.args, conf.runtime_config, call, own_mac, known)

    def of_masquerade() -> masquerade.Facts:
        return masquerade.look(host, call.owner, pod_addresses, conf.ip_masq, conf.backend, call.verb)

    def of_spoof() -> spoof.Facts:
        return spoof.look(host, call.owner, conf.macspoofchk, call.verb, macs)

    if call.verb == "DEL":
        masqueraded, unread = attempt(of_masquerade, masquerade.Facts(), conf.ip_masq, call.notes)
        checked, unread_too = attempt(of_spoof, spoof.Facts(), conf.macspoofchk, call.notes)
        return Facts(
            ends=ends,
            masquerade=masqueraded,
            spoof=checked,
            unread=tuple(dict.fromkeys(unread + unread_too)),
        )
    seen = Facts(ends=ends, masquerade=of_masquerade(), spoof=of_spoof())
    bridge = host.root.link(conf.bridge)
    link = bridge if conf.gateway_link == conf.bridge else host.root.link(conf.gateway_link)
    checking = call.verb == "CHECK"
    return msgspec.structs.replace(
        seen,
        bridge=bridge,
        accept_ra=host.sysctl(HOST, f"net/ipv6/conf/{conf.bridge}/accept_ra") or "",
        bridge_vlans=host.root.vlans(conf.bridge) if conf.vlan and conf.gateway and link is None else (),
        gateway_accept_ra=host.sysctl(HOST, f"net/ipv6/conf/{conf.gateway_link}/accept_ra") or "" if conf.vlan else "",
        gateway_link=link,
        gateway_addresses=host.root.addresses(conf.gateway_link) if conf.gateway and link is not None else (),
        container_routes=host.sandbox.routes(call.ifname) if checking and host.sandbox is not None else (),
        port_vlans=host.root.vlans(ends.host.name) if checking and conf.filters_vlans and ends.host is not None else (),
        forwarding=tuple(host.sysctl(HOST, FORWARDING[v6]) == "1" for v6 in (False, True)) if checking else (),
    )


def plan_add(conf: Conf, call: Call, facts: Facts, lease: Result) -> tuple[Plan, Result]:
    """From nothing to a working attachment.

    Private things come first and shared ones late, so that what may fail (a bad route, a full table) fails before anything
    that others see was changed.
    """
    owner = call.owner
    result = _result(conf, call, lease)
    wrong_mtu = check_mtu(conf.mtu, (ip.address for ip in result.ips))
    if wrong_mtu:
        raise ConfigError(wrong_mtu)
    plan = _plan_bridge(conf, facts.bridge, facts.accept_ra)
    plan += _plan_port(conf, call, result)
    if conf.macspoofchk:
        plan += spoof.plan_add(owner, owner.host_veth, result.interfaces[CONTAINER].mac, facts.spoof)
    if result.ips:
        plan += plan_interface(call.ifname, result, conf.enabledad)
    elif not conf.disable_container_interface:
        plan.append(SetLink(side=SANDBOX, name=call.ifname, up=True))
    if conf.gateway:
        plan += _plan_gateway(conf, call, facts, result)
    if conf.ip_masq and result.ips:
        plan += masquerade.plan_add(owner, tuple(ip.address for ip in result.ips), conf.backend, facts.masquerade)
    if not conf.disable_container_interface:
        plan.append(AwaitPort(name=owner.host_veth))
    if result.ips:
        plan.append(Announce(ifname=call.ifname, mac=result.interfaces[CONTAINER].mac))
    if conf.gateway:
        plan += plan_forwarding(_families(result))
    return plan, result


def report(conf: Conf, result: Result, host: Host) -> Result:
    """The result with the hardware addresses of what attachments share."""
    shared = {name: host.root.mac(name) for name in {conf.bridge, conf.gateway_link}}
    interfaces = tuple(
        msgspec.structs.replace(entry, mac=told) if not entry.sandbox and (told := shared.get(entry.name)) else entry
        for entry in result.interfaces
    )
    return msgspec.structs.replace(result, interfaces=interfaces)


def plan_del(conf: Conf, call: Call, facts: Facts) -> Plan:
    """Remove the attachment: its link, then its packet rules."""
    plan = veth.plan_del(call, facts.ends)
    plan += masquerade.plan_del(call.owner, facts.masquerade)
    plan += spoof.plan_del(call.owner, facts.spoof)
    return [*plan, *facts.unread]


def check(conf: Conf, call: Call, facts: Facts, prev: Result) -> list[str]:
    """Everything that ADD set up and that can be seen, a line for each thing that is not so any more."""
    own = verify.own(prev, call.ifname)
    ends = facts.ends
    problems = veth.check(call, ends, prev, conf.mtu, may_be_down=conf.disable_container_interface)
    problems += _check_bridge(conf, facts)
    problems += _check_port(conf, facts)
    if ends.container is not None:
        problems += verify.route_problems(own, call.ifname, facts.container_routes)
    if conf.gateway:
        problems += _check_gateway(conf, facts, own)
    addresses = tuple(ip.address for ip in own.ips)
    if conf.ip_masq and conf.ipam.type:
        problems += masquerade.check(call.owner, addresses, conf.backend, facts.masquerade)
    if conf.macspoofchk and ends.host is not None and ends.container is not None:
        problems += spoof.check(call.owner, ends.host.name, ends.container.mac, facts.spoof)
    return problems


def plan_gc(conf: Conf, call: Call, keep: frozenset[Owner], host: Host) -> Plan:
    """Delete the links and packet rules of this network whose attachments are not in use any more."""
    plan = veth.plan_gc(call.network, keep, host)
    looks: list[tuple[Callable[..., Plan], bool]] = [(masquerade.plan_gc, conf.ip_masq), (spoof.plan_gc, conf.macspoofchk)]
    for look_gc, wanted in looks:
        nothing: Plan = []
        removal, unread = attempt(partial(look_gc, host, call.network, keep), nothing, wanted, call.notes)
        plan += [*removal, *unread]
    return plan


def status(conf: Conf, call: Call, host: Host) -> None:
    """NotAvailable (50) when the bridge's name is taken by something else, or the packet filter cannot be used.

    LimitedConnectivity (51) instead when the bridge was replaced under pods of this network: they hang in the air.
    """
    bridge = host.root.link(conf.bridge)
    if bridge is not None and bridge.kind != "bridge":
        stranded = any(of_network(link.alias, call.network) for link in host.root.links())
        error = LimitedConnectivity if stranded else NotAvailable
        raise error(f"{conf.bridge!r} already exists but is not a bridge", "name another bridge, or remove it")
    require(host, [*([conf.backend] if conf.ip_masq else []), *(["nftables"] if conf.macspoofchk else [])])


def _result(conf: Conf, call: Call, lease: Result) -> Result:
    interfaces = [
        Interface(name=conf.bridge),
        Interface(name=call.owner.host_veth, mac=call.owner.mac("host"), mtu=conf.mtu),
        Interface(name=call.ifname, mac=conf.mac(call), mtu=conf.mtu, sandbox=call.netns),
    ]
    if conf.vlan and conf.gateway:
        interfaces.append(Interface(name=conf.gateway_link))
    result = Result(
        interfaces=tuple(interfaces),
        ips=gateway.with_gateways(lease.ips, CONTAINER, conf.gateway),
        routes=lease.routes,
        dns=conf.dns if conf.dns != Dns() else lease.dns,
    )
    return msgspec.structs.replace(result, routes=default_routes(result)) if conf.is_default_gateway else result


def _plan_bridge(conf: Conf, bridge: Link | None, accept_ra: str) -> Plan:
    quiet: Plan = _no_router_advertisements(conf.bridge, accept_ra if bridge else "")
    if bridge is None:
        create = CreateBridge(name=conf.bridge, mtu=conf.mtu, vlan_filtering=conf.filters_vlans, keys=conf.vlan_keys)
        plan: Plan = [create, *quiet, _no_detection(conf.bridge)]
        if conf.promisc_mode:
            plan.append(SetLink(shared=True, side=HOST, name=conf.bridge, promisc=True))
        return plan
    if bridge.kind != "bridge":
        raise CNIError(f"{conf.bridge!r} already exists but is not a bridge", "name another bridge, or remove it")
    wanted = {
        "up": True if not bridge.up else None,
        "promisc": True if conf.promisc_mode and not bridge.promisc else None,
        "vlan_filtering": True if conf.filters_vlans and not bridge.vlan_filtering else None,
    }
    changes = {key: value for key, value in wanted.items() if value is not None}
    return quiet + ([SetLink(shared=True, side=HOST, name=conf.bridge, keys=conf.vlan_keys, **changes)] if changes else [])


def _no_detection(link: str) -> SetSysctls:
    """A new bridge's own address is not tested for duplicates: for a second or two the host would ask for no neighbour there,
    and reach no pod by IPv6.
    """
    return SetSysctls(shared=True, side=HOST, values=((f"net/ipv6/conf/{link}/accept_dad", "0"),))


def _no_router_advertisements(link: str, before: str) -> Plan:
    return [] if before == "0" else [no_router_advertisements(link, before, shared=True)]


def _plan_port(conf: Conf, call: Call, result: Result) -> Plan:
    host_end, container = result.interfaces[1], result.interfaces[CONTAINER]
    plan: Plan = [
        CreateVeth(
            name=host_end.name,
            mac=host_end.mac,
            peer=call.ifname,
            peer_mac=container.mac,
            mtu=conf.mtu,
            bridge=conf.bridge,
            hairpin=conf.hairpin_mode,
            isolated=conf.port_isolation,
            label=call.owner.label,
        ),
        SetSysctls(side=HOST, values=((f"net/ipv6/conf/{host_end.name}/accept_ra", "0"),)),
    ]
    if conf.port_pvid:
        plan.append(SetVlans(name=host_end.name, pvid=conf.port_pvid, tagged=conf.tagged, keep=conf.preserve_default_vlan))
    return plan


def _plan_gateway(conf: Conf, call: Call, facts: Facts, result: Result) -> Plan:
    wanted = gateway.gateway_cidrs(result)
    plan: Plan = []
    if conf.vlan:
        if facts.gateway_link is None:
            # In this order a call that is killed in between leaves no interface that looks finished and is not.
            if conf.vlan not in [vlan.vid for vlan in facts.bridge_vlans]:
                plan.append(AdmitVlan(bridge=conf.bridge, vid=conf.vlan))
            plan.append(CreateVlanGateway(name=conf.gateway_link, bridge=conf.bridge, vid=conf.vlan))
        elif not facts.gateway_link.up:
            plan.append(SetLink(shared=True, side=HOST, name=conf.gateway_link, up=True))
        plan += _no_router_advertisements(conf.gateway_link, facts.gateway_accept_ra)
    plan += gateway.plan_gateways(conf.gateway_link, conf.bridge, wanted, facts.gateway_addresses, conf.force_address)
    if facts.bridge is not None and any(address not in facts.gateway_addresses for address in wanted):
        plan.append(PinMac(name=conf.bridge))
    return plan


def _check_bridge(conf: Conf, facts: Facts) -> list[str]:
    bridge = facts.bridge
    if bridge is None:
        return [f"bridge {conf.bridge} is gone"]
    if bridge.kind != "bridge":
        return [f"{conf.bridge} is no bridge any more but of kind {bridge.kind!r}"]
    problems = [] if bridge.up else [f"bridge {conf.bridge} is down"]
    if conf.promisc_mode and not bridge.promisc:
        problems.append(f"bridge {conf.bridge} is not in promiscuous mode")
    if conf.filters_vlans and not bridge.vlan_filtering:
        problems.append(f"bridge {conf.bridge} does not filter VLANs")
    return problems


def _check_port(conf: Conf, facts: Facts) -> list[str]:
    port = facts.ends.host
    if port is None:
        return ["the host's end of the veth is gone"]
    problems = []
    if facts.bridge is not None and port.master != facts.bridge.index:
        problems.append(f"{port.name} is not a port of bridge {conf.bridge}")
    if not port.up:
        problems.append(f"{port.name} is down")
    if conf.mtu and port.mtu != conf.mtu:
        problems.append(f"{port.name} has MTU {port.mtu}, expected {conf.mtu}")
    for what, wanted, seen in (
        ("hairpin mode", conf.hairpin_mode, port.hairpin),
        ("port isolation", conf.port_isolation, port.isolated),
    ):
        if wanted != seen:
            problems.append(f"{what} of {port.name} is {'on' if seen else 'off'}, expected {'on' if wanted else 'off'}")
    if conf.port_pvid:
        problems += vlans.check(port.name, conf.port_pvid, conf.tagged, facts.port_vlans)
    return problems


def _check_gateway(conf: Conf, facts: Facts, prev: Result) -> list[str]:
    problems = [
        f"gateway address {address} is gone from {conf.gateway_link}"
        for address in gateway.gateway_cidrs(prev)
        if address not in facts.gateway_addresses
    ]
    return problems + forwarding_problems(_families(prev), facts.forwarding)


def _families(result: Result) -> set[bool]:
    """The families that the bridge is a gateway for."""
    return {is_v6(ip.address) for ip in result.ips if ip.gateway is not None}
