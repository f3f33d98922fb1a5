"""The kernel's messages about links, addresses, routes and traffic control as records of ``cni.net.facts``. No I/O."""

from __future__ import annotations

import socket
import struct
from functools import lru_cache
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING

from cni.net import qdiscs
from cni.net.facts import MACVLAN_MODES, Filter, Link, NeighbourSeen, NextHop, Qdisc, RouteSeen, Vlan, Way

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.net.messages import Attributes, Message
    from cni.spec.addresses import Cidr

IFF_UP, IFF_PROMISC, IFF_ALLMULTI = 0x1, 0x100, 0x200
RTN_UNICAST, RTN_LOCAL = 1, 2

# IF_OPER_*, by their numbers (RFC 2863).
_OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up", "")

ARPHRD_ETHER = 1

_MODES = {number: name for name, number in MACVLAN_MODES.items()}

# struct bridge_vlan_info: flags, VLAN.
_VLAN_INFO = struct.Struct("=HH")


def link_of(message: Message) -> Link:
    info = message.nested("IFLA_LINKINFO")
    kind = info.text("IFLA_INFO_KIND")
    bridge = info.nested("IFLA_INFO_DATA") if kind == "bridge" else None
    port = info.nested("IFLA_INFO_SLAVE_DATA") if info.text("IFLA_INFO_SLAVE_KIND") == "bridge" else None
    macvlan = info.nested("IFLA_INFO_DATA") if kind == "macvlan" else None
    flags = message["flags"]
    return Link(
        index=message["index"],
        name=message.text("IFLA_IFNAME"),
        kind=kind,
        mac=message.mac("IFLA_ADDRESS"),
        mtu=message.number("IFLA_MTU"),
        up=bool(flags & IFF_UP),
        master=message.number("IFLA_MASTER"),
        promisc=bool(flags & IFF_PROMISC),
        allmulti=bool(flags & IFF_ALLMULTI),
        txqlen=message.number("IFLA_TXQLEN"),
        alias=message.text("IFLA_IFALIAS"),
        peer_index=message.number("IFLA_LINK"),
        peer_elsewhere=message.raw("IFLA_LINK_NETNSID") is not None,
        peer_netns=_number(message, "IFLA_LINK_NETNSID"),
        vlan_filtering=bool(bridge and bridge.number("IFLA_BR_VLAN_FILTERING")),
        hairpin=bool(port and port.number("IFLA_BRPORT_MODE")),
        isolated=bool(port and port.number("IFLA_BRPORT_ISOLATED")),
        ethernet=message["ifi_type"] == ARPHRD_ETHER,
        mode=_MODES.get(macvlan.number("IFLA_MACVLAN_MODE"), "source") if macvlan else "",
        queue=_number(macvlan, "IFLA_MACVLAN_BC_QUEUE_LEN") if macvlan else None,
    )


def _number(attributes: Attributes, name: str) -> int | None:
    """A number, None when it is absent."""
    return None if attributes.raw(name) is None else attributes.number(name)


def operstate_of(message: Message) -> str:
    return _OPERSTATES[min(message.number("IFLA_OPERSTATE"), len(_OPERSTATES) - 1)]


def address_of(message: Message) -> Cidr:
    return _interface(message.raw("IFA_LOCAL") or message.raw("IFA_ADDRESS") or b"", message["prefixlen"])


@lru_cache(512)
def _interface(packed: bytes, length: int) -> Cidr:
    """An address with its prefix length. The gateway's is seen at every call, and takes 0.03 ms to make."""
    return ip_interface((packed, length))


def routes_of(message: Message, index: int) -> list[RouteSeen]:
    """A route message as the routes it has through the link: one, or one for each of its next hops."""
    if message["type"] != RTN_UNICAST:
        return []
    dst = _destination(message)
    gateways = [hop for out, hop in message.next_hops() if out == index]
    return [
        RouteSeen(
            dst=dst,
            gw=ip_address(gateway) if gateway else None,
            table=message.number("RTA_TABLE") or message["table"],
            scope=message["scope"],
            priority=message.number("RTA_PRIORITY"),
            protocol=message["proto"],
        )
        for gateway in gateways
    ]


def _destination(message: Message) -> Cidr:
    any_address = b"\0" * (16 if message["family"] == socket.AF_INET6 else 4)
    return _interface(message.raw("RTA_DST") or any_address, message["dst_len"])


def way_of(message: Message) -> Way | None:
    """The answer to a route lookup; None for a route that reaches nobody."""
    kind = message["type"]
    if kind not in (RTN_UNICAST, RTN_LOCAL):
        return None
    links, hops = zip(*message.next_hops(), strict=True)
    via = message.raw("RTA_VIA")  # a next hop of the other family
    return Way(
        dst=_destination(message),
        gw=ip_address(hops[0]) if hops[0] else None,
        on_link=kind == RTN_UNICAST and via is None and not any(hops),
        local=kind == RTN_LOCAL,
        priority=message.number("RTA_PRIORITY"),
        protocol=message["proto"],
        out=links[0],
    )


def default_of(message: Message) -> tuple[int, int] | None:
    """Metric and interface of a default route, the first of several next hops; None for any other route."""
    if message["dst_len"] or message["type"] != RTN_UNICAST:
        return None
    return message.number("RTA_PRIORITY"), message.next_hops()[0][0]


def next_hops_of(message: Message) -> dict[tuple[Cidr, int], NextHop]:
    """The next hop of a route by its destination and metric; nothing for a route without one."""
    gateway = message.raw("RTA_GATEWAY")
    if not gateway:
        return {}
    hop = NextHop(ip_address(gateway), message.number("RTA_OIF"))
    return {(_destination(message), message.number("RTA_PRIORITY")): hop}


def neighbour_of(message: Message) -> NeighbourSeen:
    return NeighbourSeen(ip_address(message.raw("NDA_DST") or b""), message.mac("NDA_LLADDR"))


def vlans_of(message: Message) -> tuple[Vlan, ...]:
    entries = (_VLAN_INFO.unpack(raw) for raw in message.nested("IFLA_AF_SPEC").raws("IFLA_BRIDGE_VLAN_INFO"))
    return tuple(Vlan(vid, bool(flags & 0x2), bool(flags & 0x4)) for flags, vid in entries)


def qdisc_of(message: Message) -> Qdisc:
    """A qdisc; the numbers only of a token bucket."""
    kind, handle = message.text("TCA_KIND"), message["handle"]
    options = message.nested("TCA_OPTIONS")
    parms = options.raw("TCA_TBF_PARMS") if kind == "tbf" else None
    if parms is None or len(parms) < qdiscs.TBF.size:
        return Qdisc(kind, handle)
    told = qdiscs.TBF.unpack_from(parms)
    return Qdisc(kind, handle, options.number("TCA_TBF_RATE64") or told[5], told[12], told[13])


def filters_of(messages: Iterable[Message]) -> tuple[Filter, ...]:
    """The filters among what a link's ingress tells; the kernel tells of tables of filters, too."""
    found = []
    for message in messages:
        kind, options = message.text("TCA_KIND"), message.nested("TCA_OPTIONS")
        if message.raw("TCA_OPTIONS") is None:
            continue
        if kind != "u32":
            found.append(Filter(kind))
            continue
        selector = options.raw("TCA_U32_SEL")
        if selector is not None:
            found.append(Filter(kind, _matches_all(selector), _target(options.nested("TCA_U32_ACT"))))
    return tuple(found)


def _matches_all(selector: bytes) -> bool:
    keys = range(qdiscs.U32_SELECTOR.size, len(selector) - qdiscs.U32_KEY.size + 1, qdiscs.U32_KEY.size)
    return all(qdiscs.U32_KEY.unpack_from(selector, start)[0] == 0 for start in keys)


def _target(actions: Attributes) -> int | None:
    """The index of the link that the first action redirects to; None when it does something else."""
    first = actions.nested("TCA_ACT_FIRST")
    parms = first.nested("TCA_ACT_OPTIONS").raw("TCA_MIRRED_PARMS") if first.text("TCA_ACT_KIND") == "mirred" else None
    if parms is None or len(parms) < qdiscs.MIRRED.size:
        return None
    told = qdiscs.MIRRED.unpack_from(parms)
    return int(told[6]) if told[5] == qdiscs.TCA_EGRESS_REDIR else None
