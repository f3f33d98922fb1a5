"""firewall: let a pod's addresses through the host's filter of forwarded packets, and keep bridges apart (ingressPolicy).

A chained plugin: its result is prevResult. The keys are the reference's. On purpose different: an nftables backend, which is
the default (P#519), published ports work where the filter drops by default, DEL needs no prevResult, policies go with the last
pod that wants them (P#573), ``isolated`` works without br_netfilter, CHECK creates nothing and looks at everything.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from cni.net import veth
from cni.net.facts import Link
from cni.net.ops import IsolatePort
from cni.nft import firewall
from cni.nft.firewall import BACKENDS, OPEN, POLICIES, Wanted
from cni.nft.forward import ISOLATED
from cni.nft.ops import Unread, attempt
from cni.spec.conf import NetConf, read, read_to_remove
from cni.spec.errors import ConfigError

if TYPE_CHECKING:
    from typing import Any

    from cni.net.host import Host
    from cni.spec.addresses import Ip
    from cni.spec.call import Call
    from cni.spec.owner import Owner
    from cni.spec.result import Result

CREATES_INTERFACE = False
CHAINED = True

# What both nft and iptables take for a chain of one's own; iptables has 28 characters for it, and none for its targets.
CHAIN_NAME = r"[A-Za-z_][A-Za-z0-9_.-]{0,27}"
_TAKEN_NAMES = (
    "ACCEPT|DROP|RETURN|QUEUE|INPUT|FORWARD|OUTPUT|CNI-FORWARD|AUDIT|CHECKSUM|CLASSIFY|CLUSTERIP|CONNMARK|CONNSECMARK|CT|DNAT|"
    "DNPT|DSCP|ECN|HL|HMARK|IDLETIMER|LED|LOG|MARK|MASQUERADE|NETMAP|NFLOG|NFQUEUE|NOTRACK|RATEEST|REDIRECT|REJECT|SECMARK|SET|"
    "SNAT|SNPT|SYNPROXY|TCPMSS|TCPOPTSTRIP|TEE|TOS|TPROXY|TRACE|TTL|ULOG|CNI-ISOLATION-.*"
)

# Characters of a link's name that mean nothing to nft and iptables.
_LINK_NAME = r"[A-Za-z0-9_.@=~,-]{1,15}"


class Conf(NetConf, frozen=True, kw_only=True, rename="camel"):
    """The keys of firewall."""

    backend: Annotated[
        str, Meta(description="nftables, iptables or firewalld; by default firewalld where it runs, else nftables.")
    ] = ""
    iptables_admin_chain_name: Annotated[
        str, Meta(description="The administrator's chain in iptables' filter table, which comes before our rules.")
    ] = "CNI-ADMIN"
    firewalld_zone: Annotated[str, Meta(description="The zone of firewalld that pods become sources of.")] = "trusted"
    ingress_policy: Annotated[
        str,
        Meta(
            description="Who reaches the pods of a bridge: open (whoever the filter lets through, the default), same-bridge "
            "(no other bridge that has a policy), isolated (nor pods of the same bridge)."
        ),
    ] = OPEN

    def validate(self) -> None:
        """ConfigError for a value that cannot be."""
        if self.backend not in ("", *BACKENDS):
            raise ConfigError(f"invalid backend {self.backend!r}: expected {', '.join(BACKENDS)}")
        if self.ingress_policy not in ("", *POLICIES):
            raise ConfigError(f"invalid ingressPolicy {self.ingress_policy!r}: expected {', '.join(POLICIES)}")
        name = self.iptables_admin_chain_name
        if name and (not re.fullmatch(CHAIN_NAME, name) or re.fullmatch(_TAKEN_NAMES, name)):
            told = "expected at most 28 letters, digits and _ . - that no other chain or target has"
            raise ConfigError(f"invalid iptablesAdminChainName {name!r}: {told}")

    def wanted(self, result: Result | None) -> Wanted:
        """What is asked for an attachment with this result."""
        return Wanted(
            backend=self.backend,
            admin=self.iptables_admin_chain_name or "CNI-ADMIN",
            zone=self.firewalld_zone or "trusted",
            policy=self.ingress_policy or OPEN,
            bridge=_routed(result) if result is not None else "",
        )


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a call sees: the rules; for ``isolated`` the host's link, if it is a bridge, and the pod's port of it."""

    rules: firewall.Facts
    bridge: Link | None = None
    port: Link | None = None
    unread: tuple[Unread, ...] = ()


def parse(call: Call) -> Conf:
    """The configuration; DEL and GC take one whose values ADD would refuse."""
    if call.verb in ("DEL", "GC"):
        return read_to_remove(call, Conf)
    conf = read(call, Conf)
    conf.validate()
    return conf


def look(conf: Conf, call: Call, host: Host, known: Result | None) -> Facts:
    """The packet rules that concern the attachment. ``known`` is prevResult."""
    wanted = conf.wanted(known)
    addresses: list[Ip] = [ip.address.ip for ip in known.ips] if known is not None else []
    if call.verb == "DEL":
        # Without prevResult the pod is asked; with it that would be a way to have another pod's addresses removed.
        if known is None and host.sandbox is not None and host.sandbox.link(call.ifname) is not None:
            addresses += [address.ip for address in host.sandbox.addresses(call.ifname) if not address.ip.is_link_local]
        rules, unread = firewall.look_del(host, call.owner, addresses, conf.backend, wanted.zone, call.notes)
        return Facts(rules=rules, unread=tuple(unread))
    if wanted.policy != OPEN:
        _require_link(wanted)
    rules = firewall.look(host, addresses, wanted, call.verb)
    if wanted.policy != ISOLATED:
        return Facts(rules=rules)
    bridge = host.root.link(_bridge(known)) if known is not None else None
    if bridge is None or bridge.kind != "bridge":
        return Facts(rules=rules)
    inside = host.sandbox.link(call.ifname) if host.sandbox is not None else None
    port = veth.peer(host, inside) if inside is not None else None
    return Facts(rules=rules, bridge=bridge, port=port if port is not None and port.master == bridge.index else None)


def plan_add(conf: Conf, call: Call, facts: Facts, lease: Result) -> tuple[list[Any], Result]:
    """Let the addresses of prevResult through; prevResult is the result."""
    if not lease.ips:
        call.notes.append("prevResult has no addresses: there is nothing to let through")
    wanted = conf.wanted(lease)
    plan: list[Any] = [*firewall.plan_add(call.owner, wanted, facts.rules)]
    if facts.bridge is not None and facts.port is None:
        told = "its frames to other pods cannot be stopped: attach it by a veth, or use ingressPolicy same-bridge"
        raise ConfigError(f"ingressPolicy isolated: {call.ifname} is not a port of {facts.bridge.name}", told)
    if facts.port is not None and not facts.port.isolated:
        plan.append(IsolatePort(name=facts.port.name))
    return plan, lease


def report(conf: Conf, result: Result, host: Host) -> Result:
    """The result; nothing in it is the kernel's choice."""
    return result


def plan_del(conf: Conf, call: Call, facts: Facts) -> list[Any]:
    """Remove what any backend left. The port's flag goes with the port."""
    return [*firewall.plan_del(call.owner, conf.wanted(None).zone, facts.rules), *facts.unread]


def check(conf: Conf, call: Call, facts: Facts, prev: Result) -> list[str]:
    """Everything that ADD set up and that can be seen, a line for each thing that is not so any more."""
    problems = firewall.check(call.owner, conf.wanted(prev), facts.rules)
    if facts.bridge is not None and not (facts.port is not None and facts.port.isolated):
        problems.append(f"{call.ifname} has no isolated port on {facts.bridge.name}")
    return problems


def plan_gc(conf: Conf, call: Call, keep: frozenset[Owner], host: Host) -> list[Any]:
    """Remove what attachments of this network that are not in use any more left in our table."""
    nothing: firewall.Plan = []
    look_gc = partial(firewall.plan_gc, host, call.network, keep)
    removal, unread = attempt(look_gc, nothing, conf.backend != "iptables", call.notes)
    return [*removal, *unread]


def status(conf: Conf, call: Call, host: Host) -> None:
    """NotAvailable (50) when the backend cannot be used."""
    firewall.require(host, conf.wanted(None))


def _bridge(result: Result) -> str:
    """The pod's bridge: the first interface of the host that a result lists."""
    return next((entry.name for entry in result.interfaces if not entry.sandbox), "")


def _routed(result: Result) -> str:
    """The link through which the host reaches the pods of a bridge; of a VLAN it is the gateway that bridge's result lists."""
    bridge = _bridge(result)
    gateway = re.compile(re.escape(bridge) + r"\.[0-9]{1,4}")
    return next((entry.name for entry in result.interfaces if not entry.sandbox and gateway.fullmatch(entry.name)), bridge)


def _require_link(wanted: Wanted) -> None:
    """ConfigError where a policy has no link to hold for, or one that rules cannot name."""
    if not wanted.bridge:
        raise ConfigError(
            f"ingressPolicy {wanted.policy} needs the pod's bridge, and prevResult lists no interfaces",
            "it is the first one of prevResult, which cniVersion 0.3.0 and later have",
        )
    if not re.fullmatch(_LINK_NAME, wanted.bridge):
        raise ConfigError(f"ingressPolicy {wanted.policy}: packet rules cannot name the link {wanted.bridge!r}")
