"""What was seen in the kernel, as plain records: the only thing a planner knows about the world."""

from __future__ import annotations

import msgspec

from cni.spec.addresses import Cidr, Ip

# MACVLAN_MODE_*, by the names that configurations have for them.
MACVLAN_MODES = {"bridge": 4, "private": 1, "vepa": 2, "passthru": 8}


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A network interface.

    ``peer_index`` tells a veth's other end, or the interface that a macvlan is on, and ``peer_elsewhere`` whether that is in
    another namespace, known here by the number ``peer_netns``; ``master`` is the index of its bridge or 0; ``txqlen`` is the
    length of the queue of what is to be sent. ``mode`` and ``queue`` are a macvlan's: how it treats its siblings, and the
    broadcast queue it asks for, None on a kernel without such.
    """

    index: int
    name: str
    kind: str = ""
    mac: str = ""
    mtu: int = 0
    up: bool = False
    master: int = 0
    promisc: bool = False
    allmulti: bool = False
    txqlen: int = 0
    alias: str = ""
    peer_index: int = 0
    peer_elsewhere: bool = False
    peer_netns: int | None = None
    vlan_filtering: bool = False
    hairpin: bool = False
    isolated: bool = False
    ethernet: bool = True
    mode: str = ""
    queue: int | None = None


class RouteSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A route of any table. ``dst`` carries its prefix length, also for default routes."""

    dst: Cidr
    gw: Ip | None = None
    table: int
    scope: int = 0
    priority: int = 0
    protocol: int = 0


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """The route that leads to an address, through the link with index ``out``. ``on_link`` says that its destination is on that
    link, with no next hop between; ``local`` that it is this host.
    """

    dst: Cidr
    gw: Ip | None = None
    on_link: bool = False
    local: bool = False
    priority: int = 0
    protocol: int = 0
    out: int = 0


class NextHop(msgspec.Struct, frozen=True):
    """Where a route leads: to a next hop, through the link with index ``out``."""

    via: Ip
    out: int


class NeighbourSeen(msgspec.Struct, frozen=True):
    """A neighbour of a link."""

    address: Ip
    mac: str


class Vlan(msgspec.Struct, frozen=True):
    """A VLAN of a bridge port."""

    vid: int
    pvid: bool = False
    untagged: bool = False


class Qdisc(msgspec.Struct, frozen=True):
    """A queueing discipline of a link. Of a token bucket (tbf) also bytes a second, bytes that may wait, and the bucket's size
    in ticks.
    """

    kind: str
    handle: int = 0
    rate: int = 0
    limit: int = 0
    buffer: int = 0


class Filter(msgspec.Struct, frozen=True):
    """A filter of what comes in by a link. ``target`` is the index of the link that it has everything leave by, 0 where that
    link is gone, None where it does something else.
    """

    kind: str
    matches_all: bool = False
    target: int | None = None


class Shaping(msgspec.Struct, frozen=True):
    """The qdiscs that somebody gave a link, and the filters of its ingress."""

    root: Qdisc | None = None
    ingress: Qdisc | None = None
    filters: tuple[Filter, ...] = ()
