"""A network namespace in memory: links with all that dies with them, and sysctls."""

from __future__ import annotations

import os
from ipaddress import ip_interface
from typing import TYPE_CHECKING

import msgspec

from cni.net.facts import Link, NextHop, RouteSeen, Shaping, Vlan
from cni.spec.addresses import Cidr, Ip, is_v6
from cni.spec.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

KERNEL, STATIC = 2, 4
MAIN = 254
UNIVERSE, LINK_SCOPE = 0, 253
IFNAMSIZ, IFALIASZ = 16, 256

LINK_SYSCTLS = {
    "net/ipv6/conf/{}/accept_ra": "1",
    "net/ipv6/conf/{}/accept_dad": "1",
    "net/ipv6/conf/{}/enhanced_dad": "1",
    "net/ipv6/conf/{}/disable_ipv6": "0",
    "net/ipv6/conf/{}/keep_addr_on_down": "0",
    "net/ipv4/conf/{}/arp_notify": "0",
    "net/ipv4/conf/{}/forwarding": "0",
    "net/ipv4/conf/{}/route_localnet": "0",
    "net/ipv6/conf/{}/ndisc_notify": "0",
}
FORWARDING = {"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "0"}
OF_NAMESPACE = {**FORWARDING, "net/core/somaxconn": "4096", "net/ipv4/ip_local_port_range": "32768\t60999"}


def refused(words: str, number: int, told: str = "") -> KernelError:
    """The kernel's refusal, worded as the real door words it."""
    reason = os.strerror(number)
    return KernelError(words, OSError(number, f"{reason} ({told})" if told else reason))


class FakeLink(msgspec.Struct, eq=False):
    """A link with all that dies with it."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int = 1500
    up: bool = False
    master: int = 0
    promisc: bool = False
    allmulti: bool = False
    txqlen: int = 1000
    alias: str = ""
    peer: tuple[Namespace, FakeLink] | None = None
    lower: tuple[Namespace, FakeLink] | None = None  # of a macvlan
    mode: str = ""
    queue: int | None = None
    vlan_filtering: bool = False
    hairpin: bool = False
    isolated: bool = False
    vlans: list[Vlan] = []
    addresses: list[Cidr] = []
    alone: list[Cidr] = []  # those without a route to their subnet
    routes: list[RouteSeen] = []
    neighbours: dict[Ip, str] = {}
    shaping: Shaping = Shaping()


class Namespace:
    """The links, with their addresses and routes, and the sysctls of one network namespace."""

    def __init__(self, name: str, *, lo_up: bool) -> None:
        self.name = name
        self.links: dict[str, FakeLink] = {}
        self.known: list[Namespace] = []
        self.on_top: list[tuple[Namespace, FakeLink]] = []  # macvlans, with where they are
        self.next_hops: dict[tuple[Cidr, int], NextHop] = {}
        self.sysctls = dict(OF_NAMESPACE)
        self._last_index = 0
        lo = self.add(FakeLink(0, "lo", "", "00:00:00:00:00:00", 65536))
        if lo_up:
            self.switch(lo, True)

    def add(self, link: FakeLink) -> FakeLink:
        self._last_index += 1
        link.index = self._last_index
        self.links[link.name] = link
        self.sysctls.update({key.format(link.name): value for key, value in LINK_SYSCTLS.items()})
        return link

    def drop(self, link: FakeLink) -> None:
        del self.links[link.name]
        for key in LINK_SYSCTLS:
            self.sysctls.pop(key.format(link.name))
        for port in self.links.values():
            if port.master == link.index:
                port.master, port.hairpin, port.isolated, port.vlans = 0, False, False, []
            filters = [
                msgspec.structs.replace(rule, target=0 if rule.target == link.index else rule.target)
                for rule in port.shaping.filters
            ]
            port.shaping = msgspec.structs.replace(port.shaping, filters=tuple(filters))
        if link.lower:
            link.lower[0].on_top.remove((self, link))
        for where, macvlan in [(where, it) for where, it in self.on_top if it.lower and it.lower[1] is link]:
            where.drop(macvlan)

    def rename(self, link: FakeLink, name: str) -> None:
        """Another name, with the sysctls of the old one."""
        self.links = {name if entry is link else old: entry for old, entry in self.links.items()}
        for key in LINK_SYSCTLS:
            self.sysctls[key.format(name)] = self.sysctls.pop(key.format(link.name))
        link.name = name

    def switch(self, link: FakeLink, up: bool) -> None:
        """Bring a link up or down with what follows from it: connected routes, IPv6 addresses, the addresses of lo."""
        if link.up == up:
            return
        link.up = up
        if up:
            if link.name == "lo":
                link.addresses += [a for a in (ip_interface("127.0.0.1/8"), ip_interface("::1/128")) if a not in link.addresses]
            for address in link.addresses:
                self.connect(link, address)
        else:
            link.routes.clear()
            link.neighbours.clear()
            if self.sysctls[f"net/ipv6/conf/{link.name}/keep_addr_on_down"] == "0":
                link.addresses = [address for address in link.addresses if not is_v6(address)]

    def connect(self, link: FakeLink, address: Cidr) -> None:
        """The route to an address's own subnet, which the kernel adds."""
        if link.up and link.name != "lo" and address not in link.alone and (is_v6(address) or address.network.prefixlen < 32):
            scope, priority = (UNIVERSE, 256) if is_v6(address) else (LINK_SCOPE, 0)
            dst = ip_interface(address.network)
            link.routes.append(RouteSeen(dst=dst, table=MAIN, scope=scope, priority=priority, protocol=KERNEL))

    def operstate(self, link: FakeLink) -> str:
        if not link.up:
            return "down"
        if link.kind == "veth":
            return "up" if link.peer is not None and link.peer[1].up else "down"
        if link.kind == "macvlan":
            return "up" if link.lower is not None and link.lower[0].operstate(link.lower[1]) != "down" else "lowerlayerdown"
        if link.kind == "bridge":
            ports = [port for port in self.links.values() if port.master == link.index]
            return "up" if any(self.operstate(port) == "up" for port in ports) else "down"
        return "unknown"

    def seen(self, link: FakeLink) -> Link:
        other = link.peer or link.lower
        elsewhere = other is not None and other[0] is not self
        return Link(
            index=link.index,
            name=link.name,
            kind=link.kind,
            mac=link.mac,
            mtu=link.mtu,
            up=link.up,
            master=link.master,
            promisc=link.promisc,
            allmulti=link.allmulti,
            txqlen=link.txqlen,
            alias=link.alias,
            peer_index=other[1].index if other else 0,
            peer_elsewhere=elsewhere,
            peer_netns=self.number(other[0]) if other is not None and elsewhere else None,
            vlan_filtering=link.vlan_filtering,
            hairpin=link.hairpin,
            isolated=link.isolated,
            ethernet=link.name != "lo",
            mode=link.mode,
            queue=link.queue,
        )

    def number(self, other: Namespace) -> int:
        """The number by which this namespace knows another one."""
        if other not in self.known:
            self.known.append(other)
        return self.known.index(other)

    def dump(self) -> Iterator[str]:
        """Every fact, a line each, in an order that does not depend on how it came about."""
        for name in sorted(self.links):
            link = self.links[name]
            master = next((other.name for other in self.links.values() if other.index == link.master), "")
            flags = ("up", "promisc", "allmulti", "vlan_filtering", "hairpin", "isolated")
            told = [f"link {link.index} {name}", link.kind, link.mac, f"mtu {link.mtu}"]
            told += [flag for flag in flags if getattr(link, flag)]
            told += [f"queue {link.txqlen}"] * (link.txqlen != 1000)
            told += [f"in {master}"] * bool(master) + [f"alias {link.alias}"] * bool(link.alias)
            if link.peer:
                told.append(f"peer {link.peer[0].name}:{link.peer[1].name}")
            if link.lower:
                told.append(f"on {link.lower[0].name}:{link.lower[1].name} mode {link.mode} queue {link.queue}")
            yield " ".join(part for part in told if part)
            yield from (f"  vlan {vlan.vid}{' pvid' * vlan.pvid}{' untagged' * vlan.untagged}" for vlan in link.vlans)
            yield from sorted(f"  address {address}{' alone' * (address in link.alone)}" for address in link.addresses)
            yield from (
                f"  route {route.dst.network} via {route.gw} table {route.table} scope {route.scope}"
                f" metric {route.priority} proto {route.protocol}"
                for route in link.routes
            )
            yield from (f"  qdisc {qdisc}" for qdisc in (link.shaping.root, link.shaping.ingress) if qdisc is not None)
            yield from (f"  filter {rule}" for rule in link.shaping.filters)
            yield from sorted(f"  neighbour {address} {mac}" for address, mac in link.neighbours.items())
        yield from sorted(f"next hop of {dst} metric {metric}: {hop.via}" for (dst, metric), hop in self.next_hops.items())
        defaults = OF_NAMESPACE | {key.format(name): value for key, value in LINK_SYSCTLS.items() for name in self.links}
        yield from (f"sysctl {key}={value}" for key, value in sorted(self.sysctls.items()) if value != defaults[key])
