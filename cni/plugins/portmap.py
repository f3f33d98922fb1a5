"""portmap: publishes ports of pods at the host's addresses.

It comes after a plugin that attaches, and adds to the host's packet filter: to nftables an element of a map for each port, or
rules to iptables. Keys, mappings and the chains of iptables are the reference's. On purpose different: a port is one
pod's alone, and a second one is told whose it is (P#683); what a dead pod left is taken over; conditions are one network's
alone; DEL removes what is there also without being told the ports (P#509), and forgets UDP connections, too (P#1190); mappings
are validated; with no mappings nothing is probed (P#510).
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from cni.net import veth
from cni.net.ops import HOST, Plan, SetSysctls
from cni.nft import portmap
from cni.nft.ops import Unread, attempt, require, witness
from cni.nft.ports import ANYWHERE, Mapping, Port, Published
from cni.nft.ports_iptables import Marking
from cni.nft.ports_rules import LOCAL, Conditions
from cni.spec.addresses import Cidr, Ip, is_v6
from cni.spec.conf import NetConf, read
from cni.spec.errors import ConfigError
from cni.spec.keys import BACKENDS

if TYPE_CHECKING:
    from cni.net.facts import Link
    from cni.net.host import Host
    from cni.spec.call import Call
    from cni.spec.owner import Owner
    from cni.spec.result import Result

CREATES_INTERFACE = False
CHAINED = True

PROTOCOLS = ("tcp", "udp", "sctp")
PORTS = range(1, 65536)
MARK_BITS = range(32)

# The mark's bit where none is asked for: the reference's.
MARK_BIT = 13

# What ends or begins something else in nft's language, and is in no match.
_NO_MATCH = frozenset("\n\r\t\v\f\0;#")

# What the kernel takes for the name of a chain of iptables (XT_EXTENSION_MAXNAMELEN), but for what begins an option.
_CHAIN = re.compile(r"[^\s!\-\0][^\s\0]{0,27}")


# What nft's language cannot write in the name of a link.
_NOT_IN_NAMES = frozenset('"*')


class PortMapping(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A port of the host and the pod's port that it leads to."""

    host_port: Annotated[int, Meta(description="The port of the host.")]
    container_port: Annotated[int, Meta(description="The port of the pod.")]
    protocol: Annotated[str, Meta(description="tcp (the default), udp or sctp.")] = ""
    host_ip: Annotated[
        Ip | None, Meta(description="The host's address to publish at; every address of the pod's families without it.")
    ] = msgspec.field(default=None, name="hostIP")

    @property
    def name(self) -> str:
        """The protocol."""
        return self.protocol.lower() or PROTOCOLS[0]


class RuntimeConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the runtime sets for the capability portMappings."""

    OPEN = True
    port_mappings: Annotated[tuple[PortMapping, ...], Meta(description="The ports to publish.")] = ()


class Conf(NetConf, frozen=True, kw_only=True, rename="camel"):
    """The keys of portmap."""

    backend: Annotated[str, Meta(description="nftables (the default) or iptables.")] = ""
    snat: Annotated[
        bool,
        Meta(description="Masquerade where the pod could not answer otherwise: from its own subnet, and from 127.0.0.0/8."),
    ] = True
    masq_all: Annotated[bool, Meta(description="Masquerade whatever comes, from wherever: the pod sees the host only.")] = False
    mark_masq_bit: Annotated[
        int | None, Meta(description="iptables: the bit of the mark for what needs masquerade; 13 without it.")
    ] = None
    external_set_mark_chain: Annotated[
        str, Meta(description="iptables: a chain that marks what needs masquerade; it has to be there.")
    ] = ""
    conditions_v4: Annotated[
        tuple[str, ...], Meta(description="Further matches of IPv4 packets, in the words of nft or of iptables.")
    ] = msgspec.field(default=(), name="conditionsV4")
    conditions_v6: Annotated[tuple[str, ...], Meta(description="The same for IPv6.")] = msgspec.field(
        default=(), name="conditionsV6"
    )
    runtime_config: Annotated[
        RuntimeConfig, Meta(description="Set by the runtime for declared capabilities; here portMappings.")
    ] = RuntimeConfig()

    @property
    def effective_backend(self) -> str:
        """What is asked for, else what the other keys are for, else nftables."""
        if self.backend:
            return self.backend
        of_iptables = self.external_set_mark_chain or any(words[0][:1] in ("-", "!") for words in self._conditions if words)
        return BACKENDS[1] if of_iptables else BACKENDS[0]

    @property
    def marking(self) -> Marking:
        """How iptables marks."""
        return Marking(MARK_BIT if self.mark_masq_bit is None else self.mark_masq_bit, self.external_set_mark_chain)

    @property
    def mappings(self) -> tuple[PortMapping, ...]:
        """The ports to publish."""
        return self.runtime_config.port_mappings

    @property
    def _conditions(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self.conditions_v4, self.conditions_v6

    def validate(self, call: Call) -> None:
        """ConfigError for values that make no sense, alone or together."""
        backend = self.effective_backend
        if backend not in BACKENDS:
            raise ConfigError(f"invalid backend {backend!r}: expected {' or '.join(BACKENDS)}")
        if self.mark_masq_bit is not None and self.mark_masq_bit not in MARK_BITS:
            raise ConfigError(f"invalid markMasqBit {self.mark_masq_bit}: a mark has the bits 0 to {MARK_BITS.stop - 1}")
        if self.mark_masq_bit is not None and self.external_set_mark_chain:
            raise ConfigError("markMasqBit and externalSetMarkChain exclude each other", "that chain sets a mark of its own")
        if self.external_set_mark_chain and not _CHAIN.fullmatch(self.external_set_mark_chain):
            raise ConfigError(f"invalid externalSetMarkChain {self.external_set_mark_chain!r}: no chain can have this name")
        if self.external_set_mark_chain and backend != "iptables":
            raise ConfigError("externalSetMarkChain needs the backend iptables", "leave it out: nftables needs no mark")
        if self.mark_masq_bit is not None and backend != "iptables":
            call.notes.append("markMasqBit has no effect: the backend nftables needs no mark")
        self._validate_conditions(backend)
        self._validate_mappings()

    def _validate_conditions(self, backend: str) -> None:
        for key, words in zip(("conditionsV4", "conditionsV6"), self._conditions, strict=True):
            of_iptables = bool(words) and words[0][:1] in ("-", "!")
            if words and of_iptables is not (backend == "iptables"):
                raise ConfigError(f"{key} is not in the words of {backend}", f"it begins with {words[0]!r}")
            if not all(words) or any(_NO_MATCH & set(word) for word in words):
                raise ConfigError(f"{key} has a word that is empty, or has a character that no match has", repr(list(words)))

    def _validate_mappings(self) -> None:
        for at, mapping in enumerate(self.mappings):
            where = f"runtimeConfig.portMappings[{at}]"
            for key, port in (("hostPort", mapping.host_port), ("containerPort", mapping.container_port)):
                if port not in PORTS:
                    raise ConfigError(f"invalid {where}.{key} {port}: expected {PORTS.start} to {PORTS.stop - 1}")
            if mapping.host_ip is not None and (mapping.host_ip.is_multicast or str(mapping.host_ip) == "255.255.255.255"):
                raise ConfigError(f"invalid {where}.hostIP {mapping.host_ip}: no host has this address")
            if mapping.name not in PROTOCOLS:
                raise ConfigError(f"invalid {where}.protocol {mapping.protocol!r}: expected {', '.join(PROTOCOLS)}")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a call sees. Nothing is looked at where nothing is published."""

    published: Published | None = None
    route_localnet: str | None = None
    rules: portmap.Facts = portmap.Facts()
    unread: tuple[Unread, ...] = ()


def parse(call: Call) -> Conf:
    """The configuration; DEL and GC take one whose values ADD would refuse, without the mappings if these are wrong."""
    if call.verb not in ("DEL", "GC"):
        conf = read(call, Conf)
        conf.validate(call)
        return conf
    try:
        conf = read(call, Conf)
        conf.validate(call)
    except ConfigError as error:
        call.notes.append(f"going on without the configuration's keys: {error}")
        return Conf()
    return conf


def look(conf: Conf, call: Call, host: Host, known: Result | None) -> Facts:
    """What is published, where it leads, and what the packet filter has of it. ``known`` is prevResult."""
    if call.verb == "DEL":
        published = _published_before(conf, call, known) if known is not None else None
        of_rules = partial(
            portmap.look, host, call.owner, published or Published(mappings=()), conf.effective_backend, call.verb
        )
        seen, unread = attempt(of_rules, portmap.Facts(), bool(conf.mappings), call.notes)
        return Facts(published=published, rules=seen, unread=tuple(unread))
    if not conf.mappings or known is None:
        return Facts()
    published = publish(conf, call, known)
    if not published.mappings:
        return Facts()
    end = _host_end(call, host)
    interface = _interface(published, end, call, host)
    alive = witness(end.name, end.index) if end is not None and '"' not in end.name else ""
    published = msgspec.structs.replace(published, interface=interface, own=call.owner.host_veth, witness=alive)
    rules = portmap.look(host, call.owner, published, conf.effective_backend, call.verb)
    return Facts(
        published=published, route_localnet=host.sysctl(HOST, _localnet(interface)) if interface else None, rules=rules
    )


def plan_add(conf: Conf, call: Call, facts: Facts, lease: Result) -> tuple[Plan, Result]:
    """Publish; the result is prevResult."""
    published = facts.published
    if published is None:
        return [], lease
    plan: Plan = list(
        portmap.plan_add(
            call.owner, published, conf.effective_backend, (conf.conditions_v4, conf.conditions_v6), conf.marking, facts.rules
        )
    )
    if published.interface and facts.route_localnet != "1":
        key = _localnet(published.interface)
        before = ((key, facts.route_localnet),) if facts.route_localnet is not None else ()
        plan.append(SetSysctls(shared=True, side=HOST, values=((key, "1"),), must=True, before=before))
    return plan, lease


def report(conf: Conf, result: Result, host: Host) -> Result:
    """The result; nothing in it is the kernel's choice."""
    return result


def plan_del(conf: Conf, call: Call, facts: Facts) -> Plan:
    """Take back what is published, whatever it was."""
    return [*portmap.plan_del(call.owner, facts.published, facts.rules), *facts.unread]


def check(conf: Conf, call: Call, facts: Facts, prev: Result) -> list[str]:
    """A line for each port that does not lead to the pod."""
    published = facts.published
    if published is None:
        return []
    problems = portmap.check(call.owner, published, conf.effective_backend, conf.marking, facts.rules)
    if published.interface and facts.route_localnet != "1":
        problems.append(f"ports do not lead to the pod from {LOCAL}: sysctl {_localnet(published.interface)} is not 1")
    return problems


def plan_gc(conf: Conf, call: Call, keep: frozenset[Owner], host: Host) -> Plan:
    """Take back what attachments that are not in use any more have published."""
    nothing: portmap.Plan = []
    look_gc = partial(portmap.plan_gc, host, call.network, keep, lambda name: host.root.link(name) is not None)
    removal, unread = attempt(look_gc, nothing, False, call.notes)
    return [*removal, *unread]


def status(conf: Conf, call: Call, host: Host) -> None:
    """NotAvailable (50) when the packet filter cannot be used."""
    require(host, [conf.effective_backend])


def publish(conf: Conf, call: Call, prev: Result) -> Published:
    """What the mappings come to for the pod's addresses: the first of each family that is of its interface in a sandbox."""
    pods: dict[bool, Cidr] = {}
    for ip in prev.ips:
        at = prev.interfaces[ip.interface] if ip.interface is not None and 0 <= ip.interface < len(prev.interfaces) else None
        if ip.interface is None or (at is not None and at.sandbox and at.name == call.ifname):
            pods.setdefault(is_v6(ip.address), ip.address)
    found: dict[Port, Mapping] = {}
    for mapping in conf.mappings:
        families = [False, True] if mapping.host_ip is None else [is_v6(mapping.host_ip)]
        led = False
        for v6 in families:
            if v6 not in pods:
                continue
            port = Port(mapping.host_ip or ANYWHERE[v6], mapping.name, mapping.host_port)
            wanted = Mapping(port, pods[v6].ip, mapping.container_port)
            if found.setdefault(port, wanted) != wanted:
                raise ConfigError(f"{port} is mapped twice, to {found[port].pod_port} and to {mapping.container_port}")
            led = True
        if not led:
            call.notes.append(f"hostPort {mapping.host_port} is not published: the pod has no address of that family")
    led_to = {mapping.pod for mapping in found.values()}
    return Published(
        mappings=tuple(found.values()),
        pods=tuple(pod for pod in pods.values() if pod.ip in led_to),
        conditions=Conditions(" ".join(conf.conditions_v4), " ".join(conf.conditions_v6)),
        snat=conf.snat,
        masq_all=conf.masq_all,
    )


def _published_before(conf: Conf, call: Call, prev: Result) -> Published | None:
    """What ADD published by this configuration; None where that is not certain. The host's end of a veth of ours goes with the
    pod; that of another suite's plugin is told by the packet rules alone.
    """
    try:
        published = publish(conf, call, prev)
    except ConfigError as error:
        call.notes.append(f"going on without the mappings: {error}")
        return None
    own = call.owner.host_veth
    known = any(entry.name == own and not entry.sandbox for entry in prev.interfaces)
    return msgspec.structs.replace(published, own=own) if published.mappings and known else None


def _interface(published: Published, end: Link | None, call: Call, host: Host) -> str:
    """The link that leads to the pod's IPv4 address, where packets for 127.0.0.0/8 have to be let in; empty where none has to:
    only the host's end of a veth, or what it is a port of, leads to a pod from 127.0.0.1.
    """
    v4 = next((pod for pod in published.pods if not is_v6(pod)), None)
    way = host.root.way(v4.ip) if v4 is not None and published.snat and end is not None else None
    if way is None or end is None or way.gw is not None or way.local or not (way.out == end.index or end.master):
        return ""
    link = end if way.out == end.index else host.root.link_at(way.out)
    if link is not None and set(link.name) & _NOT_IN_NAMES:
        call.notes.append(f"ports do not lead to the pod from {LOCAL}: nft has no way to write the name of {link.name!r}")
        return ""
    return link.name if link is not None else ""


def _host_end(call: Call, host: Host) -> Link | None:
    """The host's end of the pod's veth; None when it has none here."""
    link = host.root.link(call.owner.host_veth)
    if link is not None and link.alias == call.owner.label:
        return link
    pod = host.sandbox.link(call.ifname) if host.sandbox is not None else None
    return veth.peer(host, pod) if pod is not None else None


def _localnet(interface: str) -> str:
    return f"net/ipv4/conf/{interface}/route_localnet"
