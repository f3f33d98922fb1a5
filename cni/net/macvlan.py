"""A macvlan and the interface that it is on, its master: what is below an interface, who else is on a master, and the kernel's
refusals in words. ``below`` and ``refusal`` read; the rest is pure.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from cni.net.ops import HOST, SANDBOX, CreateMacvlan, SetLink
from cni.spec.errors import CNIError, KernelError
from cni.spec.owner import PREFIX

if TYPE_CHECKING:
    from cni.net.facts import Link
    from cni.net.host import Host
    from cni.net.ops import Side

KINDS = ("macvlan", "macvtap", "ipvlan", "ipvtap")

# Lengths of a broadcast queue (bcqueuelen).
QUEUE_RANGE = range(1 << 32)

# Whose ports hand all their frames to it, so that no macvlan gets any.
TAKES_FRAMES = ("bridge", "bond", "team", "openvswitch")


def below(link: Link, side: Side, host: Host) -> Link | None:
    """What a link of ``side`` is on, looked for in the call's two namespaces; None when it is in neither."""
    if not link.peer_elsewhere:
        return host.kernel(side).link_at(link.peer_index)
    return host.root.link_at(link.peer_index) if side is SANDBOX else None


def unusable(master: Link, port_of: Link | None) -> str:
    """Why no macvlan can be on an interface, as far as can be seen; empty when one can."""
    if not master.ethernet:
        return f"{master.name} is no Ethernet interface"
    if port_of is not None and port_of.kind in TAKES_FRAMES:
        return f"{master.name} is a port of {port_of.kind} {port_of.name}, which gets all its frames"
    return ""


def refusal(error: KernelError, op: CreateMacvlan, host: Host) -> CNIError:
    """The kernel's refusal to make a macvlan, with who is in the way where that can be told; other errors as they are."""
    words = f"cannot create macvlan {op.name} on {op.master}"
    if error.errno not in (errno.EBUSY, errno.EINVAL):
        return error
    users = _users(op, host)
    if error.errno == errno.EBUSY:
        others = [user for user in users if not user.kind.startswith("macv")]
        told = "an interface has macvlans or ipvlans, not both" if others else "something else takes all its frames"
        return CNIError(f"{words}: it is in use{_by(others)}", f"{told}; name another master")
    alone = [user for user in users if user.mode == "passthru"]
    if not alone and op.mode != "passthru":
        return CNIError(error.msg, f"is there one in mode passthru on {op.master}, in another pod? It has to be the only one")
    return CNIError(
        f"{words}: it is in use{_by(alone or users)}",
        "one in mode passthru has to be the only one on its master; DEL the other, or name another master",
    )


def not_up(error: KernelError, op: SetLink) -> KernelError | CNIError:
    """Why a link did not come up; other errors as they are."""
    if error.errno not in (errno.EADDRINUSE, errno.EBUSY) or op.side is not SANDBOX or not op.up:
        return error
    told = "its master, or another interface on it, has the same hardware address; give this one another, or none"
    return CNIError(f"cannot bring {op.name} up: its hardware address is in use", told)


def _users(op: CreateMacvlan, host: Host) -> list[Link]:
    """The links on a master, of all namespaces that its own one knows."""
    kernel = host.kernel(op.side)
    master = kernel.link(op.master)
    if master is None:
        return []
    here = kernel.links()
    known = sorted({link.peer_netns for link in here if link.peer_netns is not None})
    elsewhere = [link for netns in known for link in _links(host, op.side, netns)]
    if op.side is HOST and host.sandbox is not None:
        elsewhere += host.sandbox.links()
    on_it = [link for link in here if not link.peer_elsewhere] + [link for link in elsewhere if link.peer_elsewhere]
    return [link for link in on_it if link.kind in KINDS and link.peer_index == master.index]


def _links(host: Host, side: Side, netns: int) -> list[Link]:
    try:
        return host.kernel(side).links(netns)
    except CNIError:  # it went away, or the kernel is too old to be asked
        return []


def _by(users: list[Link]) -> str:
    named = [user.alias if user.alias.startswith(PREFIX + "/") else f"{user.kind} {user.name}" for user in users]
    return f" by {', '.join(dict.fromkeys(named))}" if named else ""
