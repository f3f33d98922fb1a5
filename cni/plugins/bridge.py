"""bridge: one veth for each attachment, its host end a port of a Linux bridge; with IPAM, the bridge can be the pods' gateway.

Keys, results and messages are the reference's, so that configurations and clients move over unchanged. On
purpose different: a failed ADD takes back all it made; VLANs on a bridge without VLAN filtering take effect or are refused,
never silently ineffective; CHECK looks at everything that ADD did; GC and STATUS mean something.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from msgspec import Meta

from cni.net import gateway, verify, vlans
from cni.net.configure import check_mtu, default_routes, plan_interface
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
    DeleteLink,
    PinMac,
    Plan,
    SetLink,
    SetSysctls,
    SetVlans,
)
from cni.net.vlans import Trunk
from cni.nft import masquerade, spoof
from cni.nft.ops import Unread, attempt
from cni.spec.addresses import Cidr, Mac, is_v6, parse_mac
from cni.spec.conf import Dns, Ipam, NetConf, check_ifname, check_new_ifname, read
from cni.spec.errors import CNIError, ConfigError, EnvError, LimitedConnectivity, NotAvailable
from cni.spec.owner import PREFIX, Owner, of_network
from cni.spec.result import Interface, Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.net.host import Host
    from cni.spec.call import Call

CREATES_INTERFACE = True

MTU_RANGE = range(68, 65536)

# The container's place in the result's list of interfaces: after the bridge and the host's end.
CONTAINER = 2

FORWARDING = {False: "net/ipv4/ip_forward", True: "net/ipv6/conf/all/forwarding"}


class CniArgs(msgspec.Struct, frozen=True):
    """``args.cni`` as far as bridge reads it."""

    OPEN: ClassVar[bool] = True
    mac: Mac | None = None


class Args(msgspec.Struct, frozen=True):
    """``args``: what an orchestrator passes along (CNI conventions)."""

    OPEN: ClassVar[bool] = True
    cni: Annotated[CniArgs, Meta(description="What the CNI conventions define; other plugins find their own keys here.")] = (
        CniArgs()
    )


class RuntimeConfig(msgspec.Struct, frozen=True):
    """``runtimeConfig`` as far as bridge reads it; the capability is ``mac``."""

    OPEN: ClassVar[bool] = True
    mac: Mac | None = None


class Conf(NetConf, frozen=True, kw_only=True, rename="camel"):
    """The keys of bridge."""

    bridge: Annotated[str, Meta(description="Name of the bridge; created when it is not there.")] = "cni0"
    is_gateway: Annotated[
        bool, Meta(description="Give the bridge the gateway address of the pods' subnet and switch forwarding on.")
    ] = False
    is_default_gateway: Annotated[bool, Meta(description="As isGateway, and make it the pods' default route.")] = False
    force_address: Annotated[
        bool, Meta(description="Replace an address of the bridge that is in the gateway's way, instead of failing.")
    ] = False
    ip_masq: Annotated[bool, Meta(description="Masquerade what pods send to destinations outside their subnet.")] = False
    ip_masq_backend: Annotated[str, Meta(description="How to masquerade: nftables (the default) or iptables.")] = ""
    mtu: Annotated[int, Meta(description="MTU of the veth and of a bridge created for it; 0 is the kernel's default.")] = 0
    hairpin_mode: Annotated[
        bool, Meta(description="Let a pod reach itself through the bridge, for example by a service's address.")
    ] = False
    promisc_mode: Annotated[bool, Meta(description="Put the bridge into promiscuous mode; excludes hairpinMode.")] = False
    vlan: Annotated[int, Meta(description="VLAN of the pod, untagged on its port; the bridge then filters VLANs.")] = 0
    vlan_trunk: Annotated[tuple[Trunk, ...] | None, Meta(description="VLANs that reach the pod tagged.")] = None
    preserve_default_vlan: Annotated[bool, Meta(description="Keep the port's default VLAN beside vlan and vlanTrunk.")] = False
    macspoofchk: Annotated[bool, Meta(description="Drop frames of the pod that carry another source address than its own.")] = (
        False
    )
    enabledad: Annotated[
        bool, Meta(description="Have IPv6 addresses tested for duplicates; costs one to two seconds a pod.")
    ] = False
    disable_container_interface: Annotated[bool, Meta(description="Leave the pod's interface down; not with IPAM.")] = False
    port_isolation: Annotated[bool, Meta(description="Keep pods of this bridge from reaching each other directly.")] = False
    ipam: Annotated[Ipam, Meta(description="Who gives addresses; without it the network is layer 2 only.")] = Ipam()
    args: Annotated[
        Args, Meta(description="What an orchestrator passes along; args.cni.mac is the pod's hardware address.")
    ] = Args()
    runtime_config: Annotated[RuntimeConfig, Meta(description="Set by the runtime for declared capabilities; here mac.")] = (
        RuntimeConfig()
    )

    @property
    def gateway(self) -> bool:
        """Whether the bridge is the pods' gateway: being the default gateway implies it."""
        return self.is_gateway or self.is_default_gateway

    @property
    def backend(self) -> str:
        """The masquerade backend. The reference defaults to iptables; nftables costs no process and no rule per pod."""
        return self.ip_masq_backend or "nftables"

    @property
    def filters_vlans(self) -> bool:
        """Whether the bridge has to filter VLANs."""
        return bool(self.vlan) or self.vlan_trunk is not None

    @property
    def vlan_keys(self) -> str:
        """The keys that need VLAN filtering, with their values, in words."""
        trunk = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in self.tagged)
        keys = {"vlan": str(self.vlan) if self.vlan else "", "vlanTrunk": f"[{trunk}]" if self.vlan_trunk is not None else ""}
        return " and ".join(f"'{key}' {value}" for key, value in keys.items() if value)

    @property
    def gateway_link(self) -> str:
        """The host's interface that has the gateway addresses: in a VLAN one of its own, named as the reference names it."""
        return f"{self.bridge}.{self.vlan}" if self.vlan else self.bridge

    @property
    def tagged(self) -> tuple[tuple[int, int], ...]:
        """The port's tagged VLANs as ranges."""
        return vlans.ranges(self.vlan_trunk or ())

    @property
    def port_pvid(self) -> int:
        """The port's untagged VLAN: the configured one; 1 beside a trunk; 0 leaves the kernel's default."""
        return self.vlan or (1 if self.tagged else 0)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a call sees of its attachment and the bridge. Parts that the verb does not need stay at their defaults."""

    bridge: Link | None = None
    accept_ra: str = ""
    bridge_vlans: tuple[Vlan, ...] = ()
    gateway_accept_ra: str = ""
    gateway_link: Link | None = None
    gateway_addresses: tuple[Cidr, ...] = ()
    container: Link | None = None
    container_addresses: tuple[Cidr, ...] = ()
    container_routes: tuple[RouteSeen, ...] = ()
    host_veth: Link | None = None
    port_vlans: tuple[Vlan, ...] = ()
    forwarding: tuple[bool, ...] = ()
    same_sandbox: bool = True
    masquerade: masquerade.Facts
    spoof: spoof.Facts
    unread: tuple[Unread, ...] = ()


def parse(call: Call) -> Conf:
    """The configuration as a Conf, with the container's MAC address from wherever it was given.

    DEL and GC take a configuration whose values ADD would refuse: what was made before it was changed must go away all the
    same.
    """
    conf = read(call, Conf)
    if call.verb not in ("DEL", "GC"):
        _validate(conf)
        _container_mac(conf, call)
    return conf


def look(conf: Conf, call: Call, host: Host, known: Result | None) -> Facts:
    """The bridge, the attachment's two ends and its packet rules. ``known`` is the lease or prevResult."""
    container = host.sandbox.link(call.ifname) if host.sandbox is not None else None
    addresses = host.sandbox.addresses(call.ifname) if host.sandbox is not None and container is not None else ()
    host_veth = host.root.link(call.owner.host_veth)
    if (host_veth is None or host_veth.alias != call.owner.label) and container is not None and container.peer_elsewhere:
        host_veth = host.root.link_at(container.peer_index)  # made by another suite, or renamed
    ips = [ip.address for ip in known.ips] if known is not None else []
    if call.verb == "DEL":  # what is really there too: prevResult may be missing, or of an earlier attachment of the name
        ips += [address for address in addresses if not address.ip.is_link_local]
    pod_addresses = tuple(dict.fromkeys(ips))

    def of_masquerade() -> masquerade.Facts:
        return masquerade.look(host, call.owner, pod_addresses, conf.ip_masq, conf.backend, call.verb)

    def of_spoof() -> spoof.Facts:
        return spoof.look(host, call.owner, conf.macspoofchk, call.verb, _macs(conf, call, container, known))

    if call.verb == "DEL":
        masqueraded, unread = attempt(of_masquerade, masquerade.Facts(), conf.ip_masq, call.notes)
        checked, unread_too = attempt(of_spoof, spoof.Facts(), conf.macspoofchk, call.notes)
        return Facts(
            container=container,
            host_veth=host_veth,
            masquerade=masqueraded,
            spoof=checked,
            unread=tuple(dict.fromkeys(unread + unread_too)),
        )
    seen = Facts(
        container=container,
        container_addresses=addresses,
        host_veth=host_veth,
        masquerade=of_masquerade(),
        spoof=of_spoof(),
    )
    link = host.root.link(conf.gateway_link)
    checking = call.verb == "CHECK"
    return msgspec.structs.replace(
        seen,
        bridge=host.root.link(conf.bridge),
        accept_ra=host.sysctl(HOST, f"net/ipv6/conf/{conf.bridge}/accept_ra") or "",
        bridge_vlans=host.root.vlans(conf.bridge) if conf.vlan and conf.gateway and link is None else (),
        gateway_accept_ra=host.sysctl(HOST, f"net/ipv6/conf/{conf.gateway_link}/accept_ra") or "" if conf.vlan else "",
        gateway_link=link,
        gateway_addresses=host.root.addresses(conf.gateway_link) if conf.gateway and link is not None else (),
        container_routes=host.sandbox.routes(call.ifname) if checking and host.sandbox is not None else (),
        port_vlans=host.root.vlans(host_veth.name) if checking and conf.filters_vlans and host_veth is not None else (),
        same_sandbox=not checking or known is None or host.is_sandbox(verify.sandbox(known, call.ifname)),
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
        plan.append(
            Announce(
                ifname=call.ifname,
                mac=result.interfaces[CONTAINER].mac,
                addresses=tuple(ip.address.ip for ip in result.ips),
            )
        )
    families = sorted({is_v6(ip.address) for ip in result.ips if ip.gateway is not None}) if conf.gateway else []
    if families:
        plan.append(SetSysctls(side=HOST, values=tuple((FORWARDING[v6], "1") for v6 in families), must=True))
    return plan, result


def report(conf: Conf, result: Result, host: Host) -> Result:
    """The result with the hardware addresses of what attachments share."""
    shared = {name: host.root.link(name) for name in (conf.bridge, conf.gateway_link)}
    return msgspec.structs.replace(
        result,
        interfaces=tuple(
            msgspec.structs.replace(entry, mac=link.mac)
            if not entry.sandbox and (link := shared.get(entry.name)) is not None
            else entry
            for entry in result.interfaces
        ),
    )


def plan_del(conf: Conf, call: Call, facts: Facts) -> Plan:
    """Remove the attachment: its link (both ends go together), then its packet rules.

    An interface of the name that is no veth, or that is another attachment's, is not ours to delete: a runtime also calls DEL
    after an ADD that failed because the name was taken.
    """
    plan: Plan = []
    container, host_veth = facts.container, facts.host_veth
    peers = (
        host_veth is not None
        and container is not None
        and container.peer_elsewhere  # an index alone may be of a link beside it
        and container.peer_index == host_veth.index
    )
    stays = container is not None and not peers
    if host_veth is not None and host_veth.alias == call.owner.label:
        plan.append(DeleteLink(side=HOST, name=host_veth.name))
    elif host_veth is not None and peers and not host_veth.alias.startswith(PREFIX + "/"):
        plan.append(DeleteLink(side=SANDBOX, name=call.ifname))
    else:
        stays = container is not None
    if stays:
        call.notes.append(f"interface {call.ifname} in the sandbox is not of this attachment and stays")
    plan += masquerade.plan_del(call.owner, facts.masquerade)
    plan += spoof.plan_del(call.owner, facts.spoof)
    return [*plan, *facts.unread]


def check(conf: Conf, call: Call, facts: Facts, prev: Result) -> list[str]:
    """Everything that ADD set up and that can be seen, a line for each thing that is not so any more."""
    wanted = verify.interface(prev, call.ifname)
    problems = [] if wanted is not None else [f"prevResult lists no interface {call.ifname} in a sandbox"]
    if wanted is not None and not facts.same_sandbox:
        problems.append(f"prevResult has {call.ifname} in sandbox {wanted.sandbox!r}, which is not {call.netns!r}")
    own = verify.own(prev, call.ifname)
    container = facts.container
    if conf.disable_container_interface and container is not None:
        container = msgspec.structs.replace(container, up=True)
    problems += verify.link(container, call.ifname, "veth", wanted, conf.mtu)
    problems += _check_bridge(conf, facts)
    problems += _check_port(conf, facts)
    if facts.container is not None:
        problems += verify.addresses(own, call.ifname, facts.container_addresses)
        problems += verify.route_problems(own, call.ifname, facts.container_routes)
    if conf.gateway:
        problems += _check_gateway(conf, facts, own)
    addresses = tuple(ip.address for ip in own.ips)
    if conf.ip_masq and conf.ipam.type:
        problems += masquerade.check(call.owner, addresses, conf.backend, facts.masquerade)
    if conf.macspoofchk and facts.host_veth is not None and facts.container is not None:
        problems += spoof.check(call.owner, facts.host_veth.name, facts.container.mac, facts.spoof)
    return problems


def plan_gc(conf: Conf, call: Call, keep: frozenset[Owner], host: Host) -> Plan:
    """Delete the links and packet rules of this network whose attachments are not in use any more."""
    labels = {owner.label for owner in keep}
    plan: Plan = [
        DeleteLink(side=HOST, name=link.name)
        for link in host.root.links()
        if of_network(link.alias, call.network) and link.alias not in labels
    ]
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
    needed = [conf.backend] if conf.ip_masq else []
    for backend in dict.fromkeys([*needed, *(["nftables"] if conf.macspoofchk else [])]):
        reason = host.nft.available() if backend == "nftables" else host.iptables.available()
        if reason:
            raise NotAvailable(f"{backend} cannot be used: {reason}")


def _validate(conf: Conf) -> None:
    check_new_ifname(conf.bridge, "key 'bridge'", ConfigError)
    if conf.mtu and conf.mtu not in MTU_RANGE:
        raise ConfigError(f"invalid mtu {conf.mtu}: expected {MTU_RANGE.start} to {MTU_RANGE.stop - 1}")
    if conf.hairpin_mode and conf.promisc_mode:
        raise ConfigError("cannot set hairpin mode and promiscuous mode at the same time")
    if conf.ipam.type and conf.disable_container_interface:
        raise ConfigError("cannot use IPAM when disableContainerInterface flag is set")
    if conf.ip_masq_backend not in ("", "nftables", "iptables"):
        raise ConfigError(f"invalid ipMasqBackend {conf.ip_masq_backend!r}: expected nftables or iptables")
    vlans.validate(conf.vlan, conf.vlan_trunk or ())
    if conf.vlan and conf.gateway:
        check_ifname(conf.gateway_link, "the VLAN gateway's interface name, made of 'bridge' and 'vlan',", ConfigError)


def _container_mac(conf: Conf, call: Call) -> str:
    """The container's hardware address: runtimeConfig before args before CNI_ARGS, else one that follows from the
    attachment.
    """
    given = conf.runtime_config.mac or conf.args.cni.mac
    if given:
        return str(given)
    if call.args.get("MAC"):
        try:
            return str(parse_mac(call.args["MAC"]))
        except ValueError as error:
            raise EnvError(f"invalid MAC in CNI_ARGS: {error}") from error
    return call.owner.mac("container")


def _macs(conf: Conf, call: Call, container: Link | None, known: Result | None) -> tuple[str, ...]:
    """Every hardware address that the pod may have been given; none when nobody knows what ADD chose.

    prevResult is only a hint here: what is no address in it is left out.
    """
    told = [entry.mac for entry in (known.interfaces if known is not None else ()) if entry.sandbox]
    told += [container.mac] if container is not None else []
    if not told:
        return ()
    told += [str(conf.runtime_config.mac or ""), str(conf.args.cni.mac or ""), call.args.get("MAC", "")]
    macs = [call.owner.mac("container")]
    for text in told:
        with suppress(ValueError):
            macs.append(str(parse_mac(text)))
    return tuple(dict.fromkeys(macs))


def _result(conf: Conf, call: Call, lease: Result) -> Result:
    interfaces = [
        Interface(name=conf.bridge),
        Interface(name=call.owner.host_veth, mac=call.owner.mac("host"), mtu=conf.mtu),
        Interface(name=call.ifname, mac=_container_mac(conf, call), mtu=conf.mtu, sandbox=call.netns),
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
    quiet = _no_router_advertisements(conf.bridge, accept_ra if bridge else "")
    if bridge is None:
        create = CreateBridge(name=conf.bridge, mtu=conf.mtu, vlan_filtering=conf.filters_vlans, keys=conf.vlan_keys)
        plan: Plan = [create, quiet]
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
    return [quiet] + ([SetLink(shared=True, side=HOST, name=conf.bridge, keys=conf.vlan_keys, **changes)] if changes else [])


def _no_router_advertisements(link: str, before: str) -> SetSysctls:
    """A pod must not be able to give the host routes (CVE-2020-10749)."""
    key = f"net/ipv6/conf/{link}/accept_ra"
    return SetSysctls(shared=True, side=HOST, values=((key, "0"),), before=((key, before),) if before else ())


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
        plan.append(_no_router_advertisements(conf.gateway_link, facts.gateway_accept_ra))
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
    port = facts.host_veth
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
    families = {is_v6(ip.address) for ip in prev.ips if ip.gateway is not None}
    return problems + [
        f"forwarding is off: {FORWARDING[v6]} is not 1" for v6 in sorted(families) if not facts.forwarding[int(v6)]
    ]
