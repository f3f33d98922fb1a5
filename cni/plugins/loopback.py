"""loopback: brings up the interface lo of the sandbox, whatever CNI_IFNAME says.

The reference ignores CNI_IFNAME likewise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from cni.net.facts import Link
from cni.net.ops import SANDBOX, Plan, SetLink
from cni.spec.addresses import Cidr
from cni.spec.conf import NetConf, read, read_to_remove
from cni.spec.errors import CNIError
from cni.spec.result import AssignedIp, Interface, Result

if TYPE_CHECKING:
    from cni.net.host import Host
    from cni.spec.call import Call
    from cni.spec.owner import Owner

CREATES_INTERFACE = False
CHAINED = False

NAME = "lo"


class Conf(NetConf, frozen=True, kw_only=True):
    """loopback has no keys of its own."""


class Facts(msgspec.Struct, frozen=True):
    """The sandbox's ``lo``; None when the sandbox is gone. ``prev`` is the result of earlier plugins of the chain."""

    link: Link | None
    addresses: tuple[Cidr, ...]
    prev: Result | None
    sandbox: str


def parse(call: Call) -> Conf:
    """The configuration; there is nothing to check."""
    return read_to_remove(call, Conf) if call.verb in ("DEL", "GC") else read(call, Conf)


def look(conf: Conf, call: Call, host: Host, known: Result | None) -> Facts:
    """``lo`` and its addresses."""
    if host.sandbox is None:
        return Facts(None, (), known, call.netns)
    return Facts(host.sandbox.link(NAME), host.sandbox.addresses(NAME), known, call.netns)


def plan_add(conf: Conf, call: Call, facts: Facts, lease: Result) -> tuple[Plan, Result]:
    """Bring ``lo`` up. An address on it that is no loopback address is refused, as the reference refuses it.

    With a prevResult the result is that one, unchanged; ``report`` fills in one of its own.
    """
    foreign = [str(address) for address in facts.addresses if not address.ip.is_loopback]
    if foreign:
        raise CNIError(f"loopback interface has addresses that are no loopback addresses: {', '.join(foreign)}")
    own = Result(interfaces=(Interface(name=NAME, mac="00:00:00:00:00:00", sandbox=call.netns),))
    return [SetLink(side=SANDBOX, name=NAME, up=True)], facts.prev or own


def report(conf: Conf, result: Result, host: Host) -> Result:
    """The result with the addresses that the kernel gave ``lo``: the first of each family."""
    if result.ips or len(result.interfaces) != 1 or result.interfaces[0].name != NAME or host.sandbox is None:
        return result
    addresses = host.sandbox.addresses(NAME)
    first = [next((a for a in addresses if a.version == version), None) for version in (4, 6)]
    return msgspec.structs.replace(result, ips=tuple(AssignedIp(a, None, 0) for a in first if a is not None))


def plan_del(conf: Conf, call: Call, facts: Facts) -> Plan:
    """Take ``lo`` down, where there still is one."""
    return [] if facts.link is None else [SetLink(side=SANDBOX, name=NAME, up=False)]


def check(conf: Conf, call: Call, facts: Facts, prev: Result | None) -> list[str]:
    """Whether ``lo`` is up."""
    return [] if facts.link is not None and facts.link.up else ["loopback interface lo is down"]


def plan_gc(conf: Conf, call: Call, keep: frozenset[Owner], host: Host) -> Plan:
    """Nothing of loopback's outlives its sandbox."""
    return []


def status(conf: Conf, call: Call, host: Host) -> None:
    """loopback can always serve."""
