"""An attachment's veth: its two ends as a call sees them, how they go away, what GC collects. ``look`` and ``plan_gc``
read; the rest is pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from cni.net import inside
from cni.net.facts import Link
from cni.net.ops import HOST, SANDBOX, DeleteLink, Plan
from cni.spec.addresses import Cidr
from cni.spec.owner import PREFIX, of_network

if TYPE_CHECKING:
    from cni.net.host import Host
    from cni.spec.call import Call
    from cni.spec.owner import Owner
    from cni.spec.result import Result


class Ends(msgspec.Struct, frozen=True):
    """The pod's interface with its addresses, and the host's end; None stands for what is gone. ``same_sandbox`` says whether
    prevResult has the interface in the sandbox of this call.
    """

    container: Link | None = None
    addresses: tuple[Cidr, ...] = ()
    host: Link | None = None
    same_sandbox: bool = True


def look(call: Call, host: Host, prev: Result | None) -> Ends:
    """What there is. An ADD has been refused where anything is, and does not look again."""
    if call.verb == "ADD":
        return Ends()
    seen = inside.look(call, host, prev)
    container = seen.link
    host_end = host.root.link(call.owner.host_veth)
    if (host_end is None or host_end.alias != call.owner.label) and container is not None:
        host_end = peer(host, container)  # made by another suite, or renamed
    return Ends(container, seen.addresses, host_end, seen.same_sandbox)


def host_end(call: Call, host: Host, container: Link | None) -> Link | None:
    """The host's end of a veth that any suite made: by the container's end, or by its label where that is gone. None for what
    is no veth, and for one whose other end is not in the host's namespace.
    """
    if container is None:
        labelled = host.root.link(call.owner.host_veth)
        return labelled if labelled is not None and labelled.alias == call.owner.label else None
    return peer(host, container)


def is_others(call: Call, link: Link) -> bool:
    """Whether a link has the label of another attachment."""
    return link.alias.startswith(PREFIX + "/") and link.alias != call.owner.label


def peer(host: Host, container: Link) -> Link | None:
    """The host's end of a veth of the sandbox, None when it is elsewhere. An index is of one namespace and may be of another
    link in the next, so the host's end has to be one that leads to this very sandbox and interface.
    """
    if container.kind != "veth" or not container.peer_elsewhere or host.sandbox_fd is None:
        return None
    found = host.root.link_at(container.peer_index)
    if found is None or found.kind != "veth" or found.peer_netns is None or found.peer_index != container.index:
        return None
    return found if found.peer_netns == host.root.netns_number(host.sandbox_fd) else None


def addresses(call: Call, ends: Ends, known: Result | None) -> tuple[Cidr, ...]:
    """The attachment's addresses by ``known``, the lease or prevResult; for DEL also what is really there, because prevResult
    may be missing, or of an earlier attachment of the name.
    """
    told = [ip.address for ip in known.ips] if known is not None else []
    if call.verb == "DEL":
        told += [address for address in ends.addresses if not address.ip.is_link_local]
    return tuple(dict.fromkeys(told))


def plan_del(call: Call, ends: Ends) -> Plan:
    """Delete the link; both ends go together.

    An interface of the name that is no veth, or that is another attachment's, is not ours to delete: a runtime also calls DEL
    after an ADD that failed because the name was taken.
    """
    container, host_end = ends.container, ends.host
    peers = (
        host_end is not None
        and container is not None
        and container.peer_elsewhere  # an index alone may be of a link beside it
        and container.peer_index == host_end.index
    )
    plan: Plan = []
    stays = container is not None and not peers
    if host_end is not None and host_end.alias == call.owner.label:
        plan.append(DeleteLink(side=HOST, name=host_end.name))
    elif host_end is not None and peers and not is_others(call, host_end):
        plan.append(DeleteLink(side=SANDBOX, name=call.ifname))
    else:
        stays = container is not None
    if stays:
        call.notes.append(f"interface {call.ifname} in the sandbox is not of this attachment and stays")
    return plan


def plan_gc(network: str, keep: frozenset[Owner], host: Host) -> Plan:
    """Delete the host's links of a network whose attachments are not in use any more."""
    labels = {owner.label for owner in keep}
    return [
        DeleteLink(side=HOST, name=link.name)
        for link in host.root.links()
        if of_network(link.alias, network) and link.alias not in labels
    ]


def check(call: Call, ends: Ends, prev: Result, mtu: int, may_be_down: bool = False) -> list[str]:
    """What is not as ADD left it in the sandbox: the interface, its addresses, its place in prevResult."""
    seen = inside.Inside(ends.container, ends.addresses, ends.same_sandbox)
    return inside.check(call, seen, prev, "veth", mtu, may_be_down)
