"""macvlan: pods as members of the segment of a host's interface, the master, each with a hardware address of its own.

Keys and results are the reference's. On purpose different: the interface has its final name from the start, a failed ADD leaves
nothing, nothing waits for duplicate address detection, the addresses are announced, the IPAM plugin's dns counts, and CHECK
looks at the master, the MTU and the addresses' leases. The kernel removes a macvlan with its sandbox, and with its master, so
there is nothing on the host that DEL or GC would have to find.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from cni.net import inside, macvlan
from cni.net.configure import check_mtu, plan_interface
from cni.net.facts import MACVLAN_MODES, Link, RouteSeen
from cni.net.gateway import with_gateways
from cni.net.ops import HOST, SANDBOX, Announce, CreateMacvlan, DeleteLink, Plan, SetLink, Side
from cni.net.verify import own, route_problems
from cni.spec import keys, mac
from cni.spec.addresses import Mac
from cni.spec.conf import Dns, Ipam, check_ifname, read, read_to_remove
from cni.spec.errors import CNIError, ConfigError, LimitedConnectivity, NotAvailable
from cni.spec.keys import MacConf
from cni.spec.owner import PREFIX
from cni.spec.result import Interface, Result

if TYPE_CHECKING:
    from cni.net.host import Host
    from cni.spec.call import Call
    from cni.spec.owner import Owner

CREATES_INTERFACE = True
CHAINED = False

PASSTHRU = "passthru"


class Conf(MacConf, frozen=True, kw_only=True, rename="camel"):
    """The keys of macvlan."""

    master: Annotated[
        str, Meta(description="The interface that the pod's one is on; by default that of the default route.")
    ] = ""
    mode: Annotated[
        str,
        Meta(description="What pods of one master have of each other: bridge (the default), private, vepa or passthru."),
    ] = "bridge"
    mtu: Annotated[int, Meta(description="MTU of the pod's interface, at most the master's; 0 is the master's.")] = 0
    mac: Annotated[Mac | None, Meta(description="The pod's hardware address, where nobody else asks for one.")] = None
    link_in_container: Annotated[bool, Meta(description="The master is an interface of the sandbox, not of the host.")] = False
    bcqueuelen: Annotated[
        int, Meta(description="Length of the master's queue for broadcasts and multicasts; 0 is the kernel's default.")
    ] = 0
    ipam: Annotated[Ipam, Meta(description="Who gives addresses; without it the interface has none.")] = Ipam()

    @property
    def side(self) -> Side:
        """Where the master is."""
        return SANDBOX if self.link_in_container else HOST

    def asked_for(self, call: Call) -> str:
        """The hardware address that somebody asks for, empty when nobody does."""
        return mac.given(self.args, self.runtime_config, call) or str(self.mac or "")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a call sees. Parts that the verb does not need stay at their defaults.

    ``master`` is the configured one, in CHECK None also where the configuration names none; ``lowest`` what it is itself on, if
    it is a macvlan; ``port_of`` what it is a port of. ``below`` is what the pod's interface is on.
    """

    master: Link | None = None
    lowest: Link | None = None
    port_of: Link | None = None
    inside: inside.Inside = inside.Inside()
    below: Link | None = None
    routes: tuple[RouteSeen, ...] = ()


def parse(call: Call) -> Conf:
    """The configuration; DEL and GC take one whose values ADD would refuse."""
    removing = call.verb in ("DEL", "GC")
    conf = read_to_remove(call, Conf) if removing else read(call, Conf)
    conf = conf if conf.mode else msgspec.structs.replace(conf, mode="bridge")
    if removing:
        return conf
    if conf.mode not in MACVLAN_MODES:
        raise ConfigError(f"invalid mode {conf.mode!r}: expected {', '.join(MACVLAN_MODES)}")
    if conf.bcqueuelen not in macvlan.QUEUE_RANGE:
        first, last = macvlan.QUEUE_RANGE.start, macvlan.QUEUE_RANGE.stop - 1
        raise ConfigError(f"invalid bcqueuelen {conf.bcqueuelen}: expected {first} to {last}")
    if conf.master:
        check_ifname(conf.master, "key 'master'", ConfigError)
    keys.check_mtu(conf.mtu)
    conf.asked_for(call)
    return conf


def look(conf: Conf, call: Call, host: Host, known: Result | None) -> Facts:
    """The master (ADD), the interface (DEL), or both with all that belongs to them (CHECK)."""
    if call.verb == "ADD":
        master = _master(conf, host)
        return Facts(master=master, port_of=_port_of(master, conf, host))
    seen = inside.look(call, host, known)
    if call.verb == "DEL":
        return Facts(inside=seen)
    wanted = host.kernel(conf.side).link(conf.master) if conf.master else None
    nested = wanted is not None and wanted.kind == "macvlan"
    return Facts(
        master=wanted,
        lowest=macvlan.below(wanted, conf.side, host) if wanted is not None and nested else wanted,
        inside=seen,
        below=macvlan.below(seen.link, SANDBOX, host) if seen.link is not None else None,
        routes=host.sandbox.routes(call.ifname) if host.sandbox is not None else (),
    )


def plan_add(conf: Conf, call: Call, facts: Facts, lease: Result) -> tuple[Plan, Result]:
    """From nothing to a working interface; all of it is the pod's own."""
    assert facts.master is not None, "look has found one or raised"
    master = facts.master
    wrong = _unsuited(conf, master, facts.port_of)
    if wrong is not None:
        raise wrong
    asked_for = conf.asked_for(call)
    if conf.mode == PASSTHRU and asked_for not in ("", master.mac):
        raise ConfigError(
            f"mode passthru gives the pod the hardware address of {master.name}, {master.mac}, and not {asked_for}",
            "ask for none, or choose another mode",
        )
    address = master.mac if conf.mode == PASSTHRU else asked_for or call.owner.mac("container")
    mtu = conf.mtu or master.mtu
    result = Result(
        interfaces=(Interface(name=call.ifname, mac=address, mtu=mtu, sandbox=call.netns),),
        ips=with_gateways(lease.ips, 0, False),
        routes=lease.routes,
        dns=conf.dns if conf.dns != Dns() else lease.dns,
    )
    wrong_mtu = check_mtu(mtu, (ip.address for ip in result.ips))
    if wrong_mtu:
        raise ConfigError(wrong_mtu)
    plan: Plan = [
        CreateMacvlan(
            side=conf.side,
            master=master.name,
            name=call.ifname,
            spare=call.owner.spare_name,
            mode=conf.mode,
            mac="" if conf.mode == PASSTHRU else address,
            mtu=conf.mtu,
            queue=conf.bcqueuelen,
            label=call.owner.label,
        )
    ]
    if not result.ips:
        return [*plan, SetLink(side=SANDBOX, name=call.ifname, up=True)], result
    plan += plan_interface(call.ifname, result, dad=False)
    return [*plan, Announce(ifname=call.ifname, mac=address)], result


def report(conf: Conf, result: Result, host: Host) -> Result:
    """The result; nothing in it is the kernel's choice."""
    return result


def plan_del(conf: Conf, call: Call, facts: Facts) -> Plan:
    """Delete the interface, if it is this attachment's: a runtime also calls DEL after an ADD that failed because the name was
    taken. One without a label was made by another suite, or by a call that was killed before it could say so.
    """
    link = facts.inside.link
    if link is None:
        return []
    if link.kind == "macvlan" and (link.alias == call.owner.label or not link.alias.startswith(PREFIX + "/")):
        return [DeleteLink(side=SANDBOX, name=call.ifname)]
    call.notes.append(f"interface {call.ifname} in the sandbox is not of this attachment and stays")
    return []


def check(conf: Conf, call: Call, facts: Facts, prev: Result) -> list[str]:
    """Everything that ADD set up and that can be seen, a line for each thing that is not so any more."""
    problems = inside.check(call, facts.inside, prev, "macvlan", conf.mtu)
    if conf.master and facts.master is None:
        problems.append(f"master {conf.master} is gone")
    link = facts.inside.link
    if link is None:
        return problems
    if link.kind == "macvlan":
        problems += _check_macvlan(conf, facts, link)
    return problems + route_problems(own(prev, call.ifname), call.ifname, facts.routes)


def plan_gc(conf: Conf, call: Call, keep: frozenset[Owner], host: Host) -> Plan:
    """Nothing of macvlan's outlives its sandbox."""
    return []


def status(conf: Conf, call: Call, host: Host) -> None:
    """NotAvailable (50) when no macvlan can be made on the master; LimitedConnectivity (51) when it is down, for then those
    that are there are cut off. A master in a sandbox is looked for by ADD alone.
    """
    if conf.link_in_container:
        return
    try:
        master = _master(conf, host)
    except CNIError as error:
        raise NotAvailable(error.msg, error.details) from error
    wrong = _unsuited(conf, master, _port_of(master, conf, host))
    if wrong is not None:
        raise NotAvailable(wrong.msg, wrong.details)
    if not master.up:
        raise LimitedConnectivity(f"master {master.name} is down", f"pods on it reach nobody: ip link set {master.name} up")


def _master(conf: Conf, host: Host) -> Link:
    """The master; CNIError where there is none."""
    kernel, where = host.kernel(conf.side), conf.side.value
    name = conf.master or kernel.default_link()
    if not name:
        raise CNIError(f"there is no default route on the {where}, and so no master", "name one with the key 'master'")
    found = kernel.link(name)
    if found is None:
        raise CNIError(f"master {name!r} is not there on the {where}", "correct the key 'master', or make the interface")
    return found


def _port_of(master: Link, conf: Conf, host: Host) -> Link | None:
    return host.kernel(conf.side).link_at(master.master) if master.master else None


def _unsuited(conf: Conf, master: Link, port_of: Link | None) -> CNIError | None:
    """Why this configuration cannot be with its master; None when it can."""
    why = macvlan.unusable(master, port_of)
    if why:
        return CNIError(f"there can be no macvlan on {master.name}: {why}", "name another interface with the key 'master'")
    if conf.mtu > master.mtu:
        return ConfigError(f"invalid mtu {conf.mtu}: that of master {master.name} is {master.mtu}", "lower it, or raise that")
    return None


def _check_macvlan(conf: Conf, facts: Facts, link: Link) -> list[str]:
    problems = []
    if link.mode != conf.mode:
        problems.append(f"interface {link.name} is in mode {link.mode}, expected {conf.mode}")
    below, wanted = facts.below, facts.lowest
    if facts.master is not None and wanted is not None and _identity(below) != _identity(wanted):
        there = f"on {below.name}" if below is not None else "on another interface"
        problems.append(f"interface {link.name} is {there}, expected {wanted.name}")
    if conf.bcqueuelen and link.queue != conf.bcqueuelen:
        problems.append(f"interface {link.name} has a broadcast queue of {link.queue}, expected {conf.bcqueuelen}")
    return problems


def _identity(link: Link | None) -> tuple[int, str, str] | None:
    """What tells links of different namespaces apart, too."""
    return None if link is None else (link.index, link.name, link.mac)
