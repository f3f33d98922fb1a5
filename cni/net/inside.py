"""A pod's interface as a call sees it in the sandbox, for plugins that make one. ``look`` reads; the rest is pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from cni.net import verify
from cni.net.facts import Link
from cni.spec.addresses import Cidr

if TYPE_CHECKING:
    from cni.net.host import Host
    from cni.spec.call import Call
    from cni.spec.result import Result


class Inside(msgspec.Struct, frozen=True):
    """The interface with its addresses; None stands for what is gone. ``same_sandbox`` says whether prevResult has it in the
    sandbox of this call.
    """

    link: Link | None = None
    addresses: tuple[Cidr, ...] = ()
    same_sandbox: bool = True


def look(call: Call, host: Host, prev: Result | None) -> Inside:
    """What there is.

    Sandboxes are compared as namespaces, not as texts: a runtime may name the same one by another path than at ADD (a symbolic
    link, /var/run for /run), where the reference fails.
    """
    sandbox = host.sandbox
    link = sandbox.link(call.ifname) if sandbox is not None else None
    addresses = sandbox.addresses(call.ifname) if sandbox is not None and link is not None else ()
    wanted = verify.interface(prev, call.ifname) if prev is not None and call.verb == "CHECK" else None
    same = wanted is None or wanted.sandbox == call.netns or host.is_sandbox(wanted.sandbox)
    return Inside(link, addresses, same)


def check(call: Call, seen: Inside, prev: Result, kind: str, mtu: int, may_be_down: bool = False) -> list[str]:
    """What is not as ADD left it in the sandbox: the interface, its addresses, its place in prevResult."""
    wanted = verify.interface(prev, call.ifname)
    problems = [] if wanted is not None else [f"prevResult lists no interface {call.ifname} in a sandbox"]
    if wanted is not None and not seen.same_sandbox:
        problems.append(f"prevResult has {call.ifname} in sandbox {wanted.sandbox!r}, which is not {call.netns!r}")
    link = seen.link
    if may_be_down and link is not None:
        link = msgspec.structs.replace(link, up=True)
    problems += verify.link(link, call.ifname, kind, wanted, mtu)
    if link is not None:
        problems += verify.addresses(verify.own(prev, call.ifname), call.ifname, seen.addresses)
    return problems
