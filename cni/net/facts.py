"""What was seen in the kernel, as plain records: the only thing a planner knows about the world."""

from __future__ import annotations

import msgspec

from cni.spec.addresses import Cidr, Ip


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A network interface. ``peer_index`` and ``peer_elsewhere`` tell a veth's other end: its index, and whether it is in
    another namespace; ``master`` is the index of its bridge or 0; ``queue`` is the length of the queue of what is to be sent.
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
    queue: int = 0
    alias: str = ""
    peer_index: int = 0
    peer_elsewhere: bool = False
    vlan_filtering: bool = False
    hairpin: bool = False
    isolated: bool = False


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


class NeighbourSeen(msgspec.Struct, frozen=True):
    """A neighbour of a link."""

    address: Ip
    mac: str


class Vlan(msgspec.Struct, frozen=True):
    """A VLAN of a bridge port."""

    vid: int
    pvid: bool = False
    untagged: bool = False
