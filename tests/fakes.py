"""The kernel, the packet filter and the host of a call in memory: second implementations of the doors of `cni.net` and
`cni.nft`, for tests without root.

`Machine` holds the host's namespace, those of pods, the packet rules and who is at work; `host()` gives the doors that a
call gets. Verbs and errors are the real ones' (tests/contract runs one suite on both). `dump()` tells everything in words, so
that "as before" is an equality of texts. What the fake does not know (an operation, a sysctl, a word of nft) is an
AssertionError, never a silent success. Left out, because no decision rests on them: link-local addresses, delays, counters.
"""

from __future__ import annotations

import copy
import errno
import os
import re
import shlex
from ipaddress import ip_interface, ip_network
from typing import TYPE_CHECKING, Any

import msgspec

from cni.net.facts import Filter, Link, NeighbourSeen, Qdisc, RouteSeen, Shaping, Vlan, Way
from cni.net.ops import RTPROT_PODWIRE, Side
from cni.net.qdiscs import INGRESS_HANDLE, TBF_HANDLE
from cni.nft.apply import Busy, Exists, NftError, NotFound
from cni.nft.firewalld import FirewalldError
from cni.nft.iptables import ChainExists, IptablesError
from cni.spec.addresses import Cidr, Ip, is_v6
from cni.spec.errors import EnvError, KernelError, TryAgain, UnknownSandbox, UnsupportedField

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cni.spec.result import Route

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
        self.next_hops: dict[tuple[Cidr, int], Ip] = {}
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
        yield from sorted(f"next hop of {dst} metric {metric}: {via}" for (dst, metric), via in self.next_hops.items())
        defaults = OF_NAMESPACE | {key.format(name): value for key, value in LINK_SYSCTLS.items() for name in self.links}
        yield from (f"sysctl {key}={value}" for key, value in sorted(self.sysctls.items()) if value != defaults[key])


class FakeKernel:
    """`cni.net.kernel.Kernel` on a Namespace."""

    def __init__(self, machine: Machine, namespace: Namespace) -> None:
        self.machine, self.namespace = machine, namespace
        self.traffic = FakeTraffic(self)

    def close(self) -> None:
        """Nothing is open."""

    # Reading.

    def link(self, name: str) -> Link | None:
        found = self.namespace.links.get(name)
        return None if found is None else self.namespace.seen(found)

    def link_at(self, index: int) -> Link | None:
        return next((link for link in self.links() if link.index == index), None)

    def links(self, netns: int | None = None) -> list[Link]:
        where = self.namespace if netns is None else self.namespace.known[netns]
        return sorted((where.seen(link) for link in where.links.values()), key=lambda link: link.index)

    def netns_number(self, fd: int) -> int | None:
        return self.namespace.number(self.machine.at_fd(fd))

    def addresses(self, ifname: str) -> tuple[Cidr, ...]:
        found = self.namespace.links.get(ifname)
        return () if found is None else tuple(sorted(found.addresses, key=is_v6))

    def routes(self, ifname: str) -> tuple[RouteSeen, ...]:
        found = self.namespace.links.get(ifname)
        return () if found is None else tuple(sorted(found.routes, key=lambda route: is_v6(route.dst)))

    def way(self, address: Ip) -> Way | None:
        alone = ip_interface(address)
        if any(address == own.ip for link in self.namespace.links.values() for own in link.addresses):
            return Way(dst=alone, local=True, protocol=KERNEL)
        found = [
            Way(
                dst=route.dst,
                gw=route.gw,
                on_link=not route.gw,
                priority=route.priority,
                protocol=route.protocol,
                out=link.index,
            )
            for link in self.namespace.links.values()
            for route in link.routes
            if route.table == MAIN
        ]
        found += [
            Way(dst=dst, gw=via, priority=metric, protocol=RTPROT_PODWIRE)
            for (dst, metric), via in self.namespace.next_hops.items()
        ]
        near = [way for way in found if address in way.dst.network]
        return max(near, key=lambda way: (way.dst.network.prefixlen, -way.priority), default=None)

    def default_link(self) -> str:
        for v6 in (False, True):
            found = [
                (route.priority, name)
                for name, link in self.namespace.links.items()
                for route in link.routes
                if route.table == MAIN and is_v6(route.dst) == v6 and not route.dst.network.prefixlen
            ]
            if found:
                return min(found, key=lambda way: way[0])[1]
        return ""

    def next_hops(self) -> dict[tuple[Cidr, int], Ip]:
        return dict(self.namespace.next_hops)

    def neighbours(self, ifname: str) -> tuple[NeighbourSeen, ...]:
        found = self.namespace.links.get(ifname)
        return () if found is None else tuple(NeighbourSeen(address, mac) for address, mac in found.neighbours.items())

    def vlans(self, name: str) -> tuple[Vlan, ...]:
        found = self.namespace.links.get(name)
        return () if found is None else tuple(found.vlans)

    def knows_link(self, kind: str) -> bool:
        return kind in ("veth", "bridge") or (kind == "ifb" and self.machine.shapes)

    def dad_state(self, ifname: str) -> tuple[tuple[Cidr, ...], tuple[Cidr, ...]]:
        self.must(ifname)
        return (), self.machine.duplicates

    # Changing.

    def create_bridge(self, name: str, mtu: int, vlan_filtering: bool) -> bool:
        words = f"cannot create bridge {name}"
        self._check(words, name, mtu)
        if vlan_filtering and not self.machine.filters_vlans:
            raise self._without_vlans(words)
        if name in self.namespace.links:
            return False
        bridge = FakeLink(0, name, "bridge", self.machine.mac(), mtu or 1500, up=True, vlan_filtering=vlan_filtering)
        bridge.vlans = [Vlan(1, True, True)] if self.machine.filters_vlans else []
        self.namespace.add(bridge)
        return True

    def create_veth(
        self,
        name: str,
        mac: str,
        mtu: int,
        master: str,
        label: str,
        port: dict[str, bool],
        peer: str,
        peer_mac: str,
        peer_fd: int | None,
    ) -> None:
        words = f"cannot create veth {name} with its peer {peer}"
        there = self.namespace if peer_fd is None else self.machine.at_fd(peer_fd)
        bridge = self.must(master) if master else None
        self._check(words, name, mtu)
        self._check(words, peer, mtu)
        if name in self.namespace.links or peer in there.links:
            raise refused(words, errno.EEXIST)
        if bridge is not None and bridge.kind != "bridge":
            raise refused(words, errno.EOPNOTSUPP)
        if len(label.encode()) >= IFALIASZ:
            raise refused(words, errno.ERANGE)
        assert set(port) in (set(), {"hairpin", "isolated"}), port
        assert bool(port) <= (bridge is not None), "port flags of what is no port"
        far = there.add(FakeLink(0, peer, "veth", peer_mac, mtu or 1500))
        near = self.namespace.add(FakeLink(0, name, "veth", mac, mtu or 1500, up=True, alias=label, **port))
        near.peer, far.peer = (there, far), (self.namespace, near)
        if bridge is not None:
            near.master = bridge.index
            near.vlans = [Vlan(1, True, True)] if self.machine.filters_vlans else []

    def create_macvlan(self, name: str, lower: str, mode: str, mac: str, mtu: int, queue: int, fd: int | None) -> None:
        words = f"cannot create macvlan {name} on {lower}"
        there = self.namespace if fd is None else self.machine.at_fd(fd)
        master = self.must(lower)
        self._check(words, name, mtu)
        if name in there.links or (self.machine.names_are_hosts and name in self.namespace.links):
            raise refused(words, errno.EEXIST)
        where, real = master.lower or (self.namespace, master)
        siblings = [macvlan for _, macvlan in where.on_top if macvlan.lower == (where, real)]
        if real.name == "lo" or mtu > real.mtu:
            raise refused(words, errno.EINVAL)
        if real.master:
            raise refused(words, errno.EBUSY)
        if any(macvlan.mode == "passthru" for macvlan in siblings) or (mode == "passthru" and siblings):
            raise refused(words, errno.EINVAL)
        mac = real.mac if mode == "passthru" else mac or self.machine.mac()
        made = there.add(FakeLink(0, name, "macvlan", mac, mtu or real.mtu, mode=mode))
        made.queue = None if self.machine.lacks_queues else queue or 1000
        made.lower = (where, real)
        where.on_top.append((there, made))

    def adopt(self, name: str, new: str, label: str) -> None:
        link = self.must(name)
        words = f"cannot label link {new}" if name == new else f"cannot name link {name} {new}"
        if new in self.namespace.links and new != name:
            raise refused(words, errno.EEXIST)
        self._check(words, new, 0)
        if len(label.encode()) >= IFALIASZ:
            raise refused(words, errno.EINVAL)
        link.alias = label
        self.namespace.rename(link, new)

    def set_mac(self, name: str, mac: str) -> None:
        link = self.must(name, f"cannot set the hardware address of {name} to {mac}")
        link.mac = mac
        link.neighbours.clear()

    def set_mtu(self, name: str, mtu: int) -> None:
        words = f"cannot set the MTU of {name} to {mtu}"
        link = self.must(name, words)
        if not 68 <= mtu <= 65535:
            raise refused(
                words, errno.EINVAL, f"mtu {'greater' if mtu > 68 else 'less'} than device {'max' if mtu > 68 else 'min'}imum"
            )
        link.mtu = mtu

    def set_queue(self, name: str, length: int) -> None:
        self.must(name, f"cannot set the queue length of {name} to {length}").txqlen = length

    def set_link(
        self,
        name: str,
        up: bool | None = None,
        promisc: bool | None = None,
        vlan_filtering: bool | None = None,
        allmulti: bool | None = None,
    ) -> None:
        words = f"cannot change link {name}"
        link = self.must(name, words)
        if vlan_filtering is not None:
            if link.kind != "bridge" or not self.machine.filters_vlans:
                raise self._without_vlans(words) if vlan_filtering else refused(words, errno.EOPNOTSUPP)
            link.vlan_filtering = vlan_filtering
        if promisc is not None:
            link.promisc = promisc
        if up and not link.up and link.lower and link.mode != "passthru":
            siblings = [it for _, it in link.lower[0].on_top if it.lower == link.lower and it is not link and it.up]
            if link.mac in (link.lower[1].mac, *(sibling.mac for sibling in siblings)):
                raise refused(words, errno.EADDRINUSE)
        if allmulti is not None:
            link.allmulti = allmulti
        if up is not None:
            self.namespace.switch(link, up)

    def mac(self, name: str) -> str:
        link = self.namespace.links.get(name)
        return "" if link is None else link.mac

    def operstate(self, name: str) -> str:
        link = self.namespace.links.get(name)
        return "gone" if link is None else self.namespace.operstate(link)

    def forget(self) -> None:
        """A fake remembers no indexes."""

    def isolate_port(self, name: str, on: bool) -> None:
        words = f"cannot switch the isolation of bridge port {name}"
        link = self.must(name, words)
        if not link.master:
            raise refused(words, errno.EOPNOTSUPP)
        link.isolated = on

    def delete_links(self, names: Iterable[str], group: int) -> dict[str, bool]:
        return {name: self.delete_link(name) for name in names}

    def delete_link(self, name: str) -> bool:
        link = self.namespace.links.get(name)
        if link is None:
            return False
        if name == "lo":
            raise refused("cannot delete link lo", errno.EOPNOTSUPP)
        self.namespace.drop(link)
        if link.peer:
            link.peer[0].drop(link.peer[1])
        return True

    def add_address(self, ifname: str, address: Cidr, dad: bool = False, subnet: bool = True) -> bool:
        link = self.must(ifname)
        same = [present for present in link.addresses if present.ip == address.ip]
        if address in same or (same and is_v6(address)):
            return False
        if is_v6(address) and self.namespace.sysctls[f"net/ipv6/conf/{ifname}/disable_ipv6"] != "0":
            raise refused(f"cannot add address {address} to {ifname}", errno.EACCES, "IPv6 is disabled on this device")
        link.addresses.append(address)
        link.alone += [] if subnet else [address]
        self.namespace.connect(link, address)
        return True

    def delete_address(self, ifname: str, address: Cidr) -> bool:
        link = self.namespace.links.get(ifname)
        if link is None or address not in link.addresses:
            return False
        link.addresses.remove(address)
        link.alone = [other for other in link.alone if other != address]
        link.routes = [route for route in link.routes if (route.dst.network, route.protocol) != (address.network, KERNEL)]
        return True

    def add_neighbour(self, ifname: str, address: Ip, mac: str) -> None:
        self.must(ifname).neighbours[address] = mac

    def set_next_hop(self, dst: Cidr, via: Ip, metric: int) -> None:
        words = f"cannot lead the route to {dst} through node {via}"
        way = self.way(via)
        if way is None or not way.on_link:
            v6 = is_v6(via)
            raise refused(words, errno.EHOSTUNREACH if v6 else errno.ENETUNREACH, "" if v6 else "Nexthop has invalid gateway")
        self.namespace.next_hops[ip_interface(dst.network), metric] = via

    def drop_next_hop(self, dst: Cidr, via: Ip, metric: int) -> bool:
        if self.namespace.next_hops.get((ip_interface(dst.network), metric)) != via:
            return False
        del self.namespace.next_hops[ip_interface(dst.network), metric]
        return True

    def add_route(self, ifname: str, route: Route, source: Ip | None = None, protocol: int = STATIC) -> bool:
        via = f" via {route.gw}" if route.gw is not None else ""
        words = f"cannot add route {route.dst}{via} through {ifname}"
        link = self.must(ifname)
        v6 = is_v6(route.dst)
        table = MAIN if not route.table else route.table
        scope = UNIVERSE if v6 else (LINK_SCOPE if route.gw is None else UNIVERSE) if route.scope is None else route.scope
        priority = route.priority or (1024 if v6 else 0)
        if route.gw is not None:
            near = [seen.dst.network for seen in link.routes if seen.gw is None and seen.table == MAIN]
            if v6 and route.gw.is_link_local:
                if not link.up:
                    raise refused(words, errno.ENETDOWN)
            elif scope == LINK_SCOPE or not any(route.gw in network for network in near):
                raise (
                    refused(words, errno.EHOSTUNREACH)
                    if v6
                    else refused(words, errno.ENETUNREACH, "Nexthop has invalid gateway")
                )
        elif not link.up:
            raise refused(words, errno.ENETDOWN, "" if v6 else "Device for nexthop is not up")
        if source is not None and all(
            source != address.ip for near in self.namespace.links.values() for address in near.addresses
        ):
            raise refused(words, errno.EINVAL, "" if v6 else "Invalid prefsrc address")
        dst = ip_interface(route.dst.network)
        new = RouteSeen(dst=dst, gw=route.gw, table=table, scope=scope, priority=priority, protocol=protocol)
        if new in link.routes:
            return False
        same = [at for at, seen in enumerate(link.routes) if (seen.dst, seen.table) == (new.dst, new.table)]
        link.routes.insert(same[0] if same and not v6 else len(link.routes), new)
        return True

    def set_vlans(self, name: str, remove: tuple[int, ...], pvid: int, tagged: tuple[tuple[int, int], ...]) -> None:
        port = self.must(name)
        if not port.master or not self.machine.filters_vlans:
            raise refused(f"cannot set VLANs of bridge port {name}", errno.EOPNOTSUPP)
        kept = {vlan.vid: vlan for vlan in port.vlans if vlan.vid not in remove}
        kept.update({vid: Vlan(vid) for low, high in tagged for vid in range(low, high + 1)})
        if pvid:
            kept = {vid: Vlan(vid, False, vlan.untagged) for vid, vlan in kept.items()} | {pvid: Vlan(pvid, True, True)}
        port.vlans = [kept[vid] for vid in sorted(kept)]

    def admit_vlan(self, bridge: str, vid: int, on: bool) -> None:
        link = self.must(bridge)
        if link.kind != "bridge" or not self.machine.filters_vlans:
            raise refused(f"cannot {'add' if on else 'remove'} VLAN {vid} of bridge {bridge} itself", errno.EOPNOTSUPP)
        kept = [vlan for vlan in link.vlans if vlan.vid != vid]
        link.vlans = sorted([*kept, Vlan(vid)] if on else kept, key=lambda vlan: vlan.vid)

    def create_vlan(self, name: str, lower: str, vid: int) -> bool:
        words = f"cannot create {name}, VLAN {vid} of {lower}"
        link = self.must(lower)
        self._check(words, name, 0)
        if name in self.namespace.links:
            return False
        if not link.up:
            raise refused(words, errno.ENETDOWN)
        self.namespace.add(FakeLink(0, name, "vlan", link.mac, link.mtu, up=True))
        return True

    def create_ifb(self, name: str, mac: str, mtu: int, label: str) -> None:
        words = f"cannot create ifb {name}"
        if not self.machine.shapes:
            raise UnsupportedField(f"{words}: this kernel has none", "it lacks CONFIG_IFB (module ifb)")
        self._check(words, name, mtu)
        if name in self.namespace.links:
            raise TryAgain(f"{words}: somebody else made a link of that name at this moment")
        if len(label.encode()) >= IFALIASZ:
            raise refused(words, errno.ERANGE)
        self.namespace.add(FakeLink(0, name, "ifb", mac, mtu, up=True, alias=label))

    def must(self, name: str, words: str = "") -> FakeLink:
        if name not in self.namespace.links:
            raise refused(words or f"cannot find link {name}", errno.ENODEV)
        return self.namespace.links[name]

    def _check(self, words: str, name: str, mtu: int) -> None:
        if len(name.encode()) >= IFNAMSIZ:
            raise refused(words, errno.ERANGE)
        if mtu and not 68 <= mtu <= 65535:
            raise refused(words, errno.EINVAL)

    def _without_vlans(self, words: str) -> UnsupportedField:
        return UnsupportedField(f"{words}: {os.strerror(errno.EOPNOTSUPP)}: this kernel has no bridge VLAN filtering")


class FakeTraffic:
    """`cni.net.traffic.Traffic` on a FakeKernel."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel

    def shaping(self, name: str) -> Shaping:
        found = self.kernel.namespace.links.get(name)
        return Shaping() if found is None else found.shaping

    def knows_qdisc(self, kind: str) -> bool:
        return kind == "tbf" and self.kernel.machine.shapes

    def limit_rate(self, name: str, rate: int, limit: int, buffer: int, burst: int = 0) -> None:
        words = f"cannot limit the rate of {name}"
        link = self.kernel.must(name)
        if not self.kernel.machine.shapes:
            lacks = "it lacks CONFIG_NET_SCH_TBF (module sch_tbf)"
            raise UnsupportedField(f"{words}: this kernel has no token bucket", lacks)
        if link.shaping.root is not None:
            raise refused(words, errno.EEXIST, "Exclusivity flag on, cannot modify")
        if not rate or not (buffer or burst):
            raise refused(words, errno.EINVAL)
        link.shaping = msgspec.structs.replace(link.shaping, root=Qdisc("tbf", TBF_HANDLE, rate, limit, buffer))

    def unlimit_rate(self, name: str, handle: int = TBF_HANDLE) -> bool:
        link = self.kernel.namespace.links.get(name)
        if link is None or link.shaping.root is None:
            return False
        if link.shaping.root.handle != handle:
            raise refused(f"cannot take the rate limit from {name}", errno.EINVAL, "Invalid handle")
        link.shaping = msgspec.structs.replace(link.shaping, root=None)
        return True

    def redirect(self, name: str, to: str) -> None:
        link, target = self.kernel.must(name), self.kernel.must(to)
        if link.shaping.ingress is not None:
            raise refused(
                f"cannot redirect what comes in by {name} to {to}", errno.EEXIST, "Exclusivity flag on, cannot modify"
            )
        filters = (Filter("u32", True, target.index),)
        link.shaping = Shaping(link.shaping.root, Qdisc("ingress", INGRESS_HANDLE), filters)

    def drop_redirect(self, name: str) -> bool:
        link = self.kernel.namespace.links.get(name)
        if link is None or link.shaping.ingress is None:
            return False
        link.shaping = Shaping(link.shaping.root)
        return True


# -- Packet rules --


class FakeRule(msgspec.Struct, eq=False):
    """A rule as JSON expressions; `line` is what iptables-save prints of it."""

    handle: int
    expr: list[Any]
    comment: str = ""
    line: str = ""


class FakeChain(msgspec.Struct, eq=False):
    """A chain; `hook` holds the keys that only a base chain has."""

    hook: dict[str, Any] = {}
    rules: list[FakeRule] = []


class FakeSet(msgspec.Struct, eq=False):
    """A set or map: key as written to value (empty in a set) and comment."""

    kind: str
    elements: dict[str, tuple[str, str]] = {}
    value: str = ""
    ranges: bool = False


class FakeTable(msgspec.Struct, eq=False):
    """A table."""

    chains: dict[str, FakeChain] = {}
    sets: dict[str, FakeSet] = {}


class Ruleset:
    """All packet rules of the host, changed in transactions."""

    def __init__(self) -> None:
        self.tables: dict[tuple[str, str], FakeTable] = {}
        self.last_handle = 0

    def handle(self) -> int:
        self.last_handle += 1
        return self.last_handle

    def dump(self) -> Iterator[str]:
        for (family, name), table in sorted(self.tables.items()):
            yield f"table {family} {name}"
            for chain_name, chain in sorted(table.chains.items()):
                yield f"  chain {chain_name} {' '.join(f'{key} {value}' for key, value in chain.hook.items())}".rstrip()
                yield from (f"    {rule.line or rule.expr}{f' # {rule.comment}' * bool(rule.comment)}" for rule in chain.rules)
            for set_name, found in sorted(table.sets.items()):
                yield f"  {found.kind} {set_name}"
                for key, (value, comment) in sorted(found.elements.items()):
                    yield f"    {key}{f' : {value}' * bool(value)}{f' # {comment}' * bool(comment)}"


_WHERE = r"(\S+) (\S+)"
_NAMED = rf"{_WHERE} (\S+)"
_PART = r'(?:"[^"]*"|[^" ]+)'


class FakeNft:
    """`cni.nft.apply.Nft`: the words of nft that this project uses, and no others."""

    def __init__(self, rules: Ruleset) -> None:
        self.rules = rules

    def close(self) -> None:
        """A fake has nothing open."""

    def available(self) -> str:
        return ""

    def run(self, text: str, what: str = "change nftables rules") -> None:
        """All of the lines or none."""
        before = copy.deepcopy(self.rules.tables)
        try:
            for line in text.splitlines():
                self._apply(line)
        except NftError as error:
            self.rules.tables = before
            raise type(error)(f"cannot {what}", f"Error: {error.msg}: {line}") from error

    def query(self, text: str) -> list[dict[str, Any]]:
        if found := re.fullmatch(r"list chains (\S+)", text):
            return [
                self._chain(key, name)
                for key, table in self.rules.tables.items()
                if key[0] == found[1]
                for name in table.chains
            ]
        if found := re.fullmatch(rf"list table {_WHERE}", text):
            return self._objects((found[1], found[2]), elements=True)
        if found := re.fullmatch(rf"list chain {_NAMED}", text):
            objects = self._objects((found[1], found[2]), elements=False)
            return [
                entry
                for entry in objects
                if found[3] in (entry.get("chain", {}).get("name"), entry.get("rule", {}).get("chain"))
            ]
        if found := re.fullmatch(rf"get element {_NAMED} \{{ (.+) \}}", text):
            family, table, name, key = found.groups()
            there = self.rules.tables.get((family, table), FakeTable()).sets.get(name)
            if there is None or key not in there.elements:
                return []
            body = {"family": family, "table": table, "name": name}
            return [{there.kind: body | {"elem": [_element(key, *there.elements[key], in_map=False)]}}]
        raise AssertionError(f"the fake does not understand {text!r}")

    def sets(self, family: str, lately: bool = False) -> list[dict[str, Any]]:
        told = [entry for key in self.rules.tables if key[0] == family for entry in self._objects(key, elements=False)]
        return [entry for entry in told if "set" in entry]

    def chain(self, where: str, lately: bool = False) -> list[dict[str, Any]]:
        return self.query(f"list chain {where}")

    def _objects(self, key: tuple[str, str], elements: bool) -> list[dict[str, Any]]:
        table = self.rules.tables.get(key)
        if table is None:
            return []
        family, name = key
        found: list[dict[str, Any]] = [{"table": {"family": family, "name": name}}]
        for set_name, there in table.sets.items():
            body: dict[str, Any] = {"family": family, "table": name, "name": set_name}
            if there.kind == "map":
                body["map"] = there.value
            if elements and there.elements:
                body["elem"] = [_element(k, *there.elements[k], in_map=there.kind == "map") for k in there.elements]
            found.append({there.kind: body})
        for chain_name, chain in table.chains.items():
            found.append(self._chain(key, chain_name))
            for rule in chain.rules:
                told = {"family": family, "table": name, "chain": chain_name, "handle": rule.handle, "expr": rule.expr}
                found.append({"rule": told | ({"comment": rule.comment} if rule.comment else {})})
        return found

    def _chain(self, key: tuple[str, str], name: str) -> dict[str, Any]:
        hook = self.rules.tables[key].chains[name].hook
        return {"chain": {"family": key[0], "table": key[1], "name": name, **hook}}

    def _apply(self, line: str) -> None:
        for pattern, function in self._WORDS:
            if found := re.fullmatch(pattern, line):
                function(self, *found.groups())
                return
        raise AssertionError(f"the fake does not understand {line!r}")

    def _table(self, family: str, name: str) -> FakeTable:
        if (family, name) not in self.rules.tables:
            raise NotFound(f"no table {family} {name}")
        return self.rules.tables[family, name]

    def _chain_at(self, family: str, table: str, name: str) -> FakeChain:
        chains = self._table(family, table).chains
        if name not in chains:
            raise NotFound(f"no chain {name}")
        return chains[name]

    def _set_at(self, family: str, table: str, name: str) -> FakeSet:
        sets = self._table(family, table).sets
        if name not in sets:
            raise NotFound(f"no set {name}")
        return sets[name]

    def _add_table(self, family: str, name: str) -> None:
        self.rules.tables.setdefault((family, name), FakeTable())

    def _delete_table(self, family: str, name: str) -> None:
        self._table(family, name)
        del self.rules.tables[family, name]

    def _add_chain(self, family: str, table: str, name: str, hook: str | None) -> None:
        keys: dict[str, Any] = {}
        if hook is not None:
            found = re.fullmatch(r"type (\S+) hook (\S+) priority (\S+); policy (\S+);", hook)
            assert found, f"the fake does not understand {hook!r}"
            keys = {"type": found[1], "hook": found[2], "prio": found[3], "policy": found[4]}
        self._table(family, table).chains.setdefault(name, FakeChain(keys))

    def _flush_chain(self, family: str, table: str, name: str) -> None:
        self._chain_at(family, table, name).rules.clear()

    def _flush_set(self, family: str, table: str, name: str) -> None:
        self._set_at(family, table, name).elements.clear()

    def _delete_chain(self, family: str, table: str, name: str) -> None:
        there = self._table(family, table)
        if self._chain_at(family, table, name).rules or self._is_used(there, {"jump": {"target": name}}):
            raise Busy(f"chain {name} is in use")
        del there.chains[name]

    def _add_rule(self, verb: str, family: str, table: str, chain: str, words: str) -> None:
        comment = ""
        if found := re.fullmatch(r'(.*) comment "([^"]*)"', words):
            words, comment = found.groups()
        expr = _expressions(words)
        for name in re.findall(r"@(\S+)", words):
            self._set_at(family, table, name)
        for word in expr:
            if "jump" in word:
                self._chain_at(family, table, word["jump"]["target"])
        rules = self._chain_at(family, table, chain).rules
        rules.insert(0 if verb == "insert" else len(rules), FakeRule(self.rules.handle(), expr, comment))

    def _delete_rule(self, family: str, table: str, chain: str, handle: str) -> None:
        rules = self._chain_at(family, table, chain).rules
        at = next((at for at, rule in enumerate(rules) if rule.handle == int(handle)), None)
        if at is None:
            raise NotFound(f"no rule with handle {handle}")
        del rules[at]

    def _add_set(self, kind: str, family: str, table: str, name: str, value: str | None, ranges: str | None) -> None:
        there = self._table(family, table).sets.setdefault(name, FakeSet(kind, {}, value or "", bool(ranges)))
        if there.kind != kind:
            raise Exists(f"{name} is a {there.kind}")

    def _delete_set(self, family: str, table: str, name: str) -> None:
        there = self._table(family, table)
        self._set_at(family, table, name)
        if self._is_used(there, "@" + name):
            raise Busy(f"set {name} is in use")
        del there.sets[name]

    def _add_element(self, family: str, table: str, name: str, key: str, comment: str | None, value: str | None) -> None:
        there = self._set_at(family, table, name)
        assert (value is not None) == (there.kind == "map"), f"a value belongs to a map's elements only: {name}"
        if key in there.elements:
            if there.elements[key][0] != (value or ""):
                raise Exists(f"{key} is there with another value")
        elif there.ranges and any(_overlap(key, other) for other in there.elements):
            raise Exists(f"{key} overlaps another")
        else:
            there.elements[key] = (value or "", comment or "")

    def _delete_element(self, family: str, table: str, name: str, key: str) -> None:
        there = self._set_at(family, table, name)
        if key not in there.elements:
            raise NotFound(f"no element {key}")
        del there.elements[key]

    def _is_used(self, table: FakeTable, what: Any) -> bool:
        return any(_mentions(rule.expr, what) for chain in table.chains.values() for rule in chain.rules)

    _WORDS: tuple[tuple[str, Any], ...] = (
        (rf"add table {_WHERE}", _add_table),
        (rf"delete table {_WHERE}", _delete_table),
        (rf"add chain {_NAMED}(?: \{{ (.*) \}})?", _add_chain),
        (rf"flush chain {_NAMED}", _flush_chain),
        (rf"flush set {_NAMED}", _flush_set),
        (rf"delete chain {_NAMED}", _delete_chain),
        (rf"delete rule {_NAMED} handle (\d+)", _delete_rule),
        (rf"(add|insert) rule {_NAMED} (.+)", _add_rule),
        (rf"add (set|map) {_NAMED} \{{ type [^;:]+?(?: : ([^;]+))?;( flags interval;)? \}}", _add_set),
        (rf"delete (?:set|map) {_NAMED}", _delete_set),
        (rf'add element {_NAMED} \{{ ({_PART}(?: \. {_PART})*)(?: comment "([^"]*)")?(?: : (.+))? \}}', _add_element),
        (rf"delete element {_NAMED} \{{ (.+) \}}", _delete_element),
    )


def _mentions(expr: Any, what: Any) -> bool:
    if expr == what:
        return True
    if isinstance(expr, dict):
        return any(_mentions(inner, what) for inner in expr.values())
    return isinstance(expr, list) and any(_mentions(inner, what) for inner in expr)


def _element(key: str, value: str, comment: str, *, in_map: bool) -> Any:
    told = _told(key)
    if comment:
        told = {"elem": {"val": told, "comment": comment}}
    return [told, int(value, 16) if value.startswith("0x") else _told(value)] if in_map else told


def _told(text: str) -> Any:
    """A key or value as nft's JSON has it."""
    parts = [_told_part(part) for part in text.split(" . ")]
    return {"concat": parts} if len(parts) > 1 else parts[0]


def _told_part(part: str) -> Any:
    address, slash, length = part.partition("/")
    return int(part) if part.isdecimal() else {"prefix": {"addr": address, "len": int(length)}} if slash else part.strip('"')


def _overlap(one: str, other: str) -> bool:
    pairs = zip(map(ip_network, one.split(" . ")), map(ip_network, other.split(" . ")), strict=True)
    return all(a.overlaps(b) for a, b in pairs)


def _expressions(words: str) -> list[Any]:
    """A rule's words as nft's JSON has them."""
    found: list[Any] = []
    while words:
        for pattern, made in (
            (r"(continue|masquerade|drop|accept)", lambda m: {m[1]: None}),
            (r"counter", lambda m: {"counter": {"packets": 0, "bytes": 0}}),
            (r"meta mark and (0x\w+) (==|!=) (\w+)", lambda m: _match(m[2], {"&": [MARK, int(m[1], 16)]}, int(m[3], 0))),
            (r"meta mark set meta mark (and|or) (0x\w+)", lambda m: _mangle("&" if m[1] == "and" else "|", int(m[2], 16))),
            (r"ct state (\S+)", lambda m: _match("in", {"ct": {"key": "state"}}, m[1].split(","))),
            (
                r"iifname \. oifname (@\S+)",
                lambda m: _match("==", {"concat": [{"meta": {"key": f"{side}ifname"}} for side in "io"]}, m[1]),
            ),
            (r"(iifname|oifname) (@\S+)", lambda m: _match("==", {"meta": {"key": m[1]}}, m[2])),
            (r"jump (\S+)", lambda m: {"jump": {"target": m[1]}}),
            (r"meta nfproto (\S+)", lambda m: _match("==", {"meta": {"key": "nfproto"}}, m[1])),
            (r"fib daddr type local", lambda m: _match("==", {"fib": {"result": "type", "flags": ["daddr"]}}, "local")),
            (r"dnat (ip6?) to (.+) map (@\S+)", lambda m: _dnat(m[1], m[2], m[3])),
            (
                r"(ip6?) saddr \. ip6? daddr (@\S+)",
                lambda m: _match("==", {"concat": [_payload(m[1], "saddr"), _payload(m[1], "daddr")]}, m[2]),
            ),
            (r"ct status (\S+)", lambda m: _match("in", {"ct": {"key": "status"}}, m[1])),
            (
                r"iifname \. ether saddr != (@\S+)",
                lambda m: _match("!=", {"concat": [{"meta": {"key": "iifname"}}, _payload("ether", "saddr")]}, m[1]),
            ),
            (
                r"(ip6?) (saddr|daddr) (!= )?(@\S+|\{ [^}]+ \}|\S+)",
                lambda m: _match("!=" if m[3] else "==", _payload(m[1], m[2]), _right(m[4])),
            ),
        ):
            if head := re.match(rf"{pattern}(?: |$)", words):
                found.append(made(head))
                words = words[head.end() :]
                break
        else:
            raise AssertionError(f"the fake does not understand {words!r}")
    return found


def _dnat(family: str, key: str, name: str) -> dict[str, Any]:
    parts = {
        "meta l4proto": {"meta": {"key": "l4proto"}},
        "th dport": _payload("th", "dport"),
        f"{family} daddr": _payload(family, "daddr"),
    }
    concat = [parts[part] for part in key.split(" . ")]
    return {"dnat": {"family": family, "addr": {"map": {"key": {"concat": concat}, "data": name}}}}


MARK = {"meta": {"key": "mark"}}


def _mangle(op: str, bits: int) -> dict[str, Any]:
    return {"mangle": {"key": MARK, "value": {op: [MARK, bits]}}}


def _match(op: str, left: Any, right: Any) -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def _payload(protocol: str, what: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": what}}


def _right(text: str) -> Any:
    if text.startswith("@"):
        return text
    if text.startswith("{"):
        return {"set": [_right(part) for part in text.strip("{} ").split(", ")]}
    network = ip_network(text)
    if network.prefixlen == network.max_prefixlen:
        return str(network.network_address)
    return {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}


# The base chains that a call of iptables makes, by table.
_BASE_CHAINS = {
    "nat": (("POSTROUTING", "postrouting", "100"), ("PREROUTING", "prerouting", "-100"), ("OUTPUT", "output", "-100")),
    "filter": (("FORWARD", "forward", "0"),),
}


class FakeIptables:
    """`cni.nft.iptables.Iptables` of the nft variant: its rules are in the same ruleset, where nft sees them."""

    # Words with one argument that mean nothing to those who read these rules by nft.
    _MATCHES = ("-m", "-p", "--dport", "--dports", "--destination-ports", "--dst-type", "--mark")

    def __init__(self, rules: Ruleset) -> None:
        self.rules = rules

    def available(self, table: str = "nat", families: tuple[bool, ...] = (False, True)) -> str:
        return ""

    def legacy(self, v6: bool, table: str = "nat") -> bool:
        return False

    def restore(self, v6: bool, text: str, what: str = "change iptables rules", legacy: bool = False) -> None:
        """`iptables-restore --noflush`: all of it or nothing."""
        assert not legacy, "the fake has no legacy tables"
        lines = text.splitlines()
        assert (lines[0], lines[-1]) in (("*nat", "COMMIT"), ("*filter", "COMMIT")), text
        before = copy.deepcopy(self.rules.tables)
        family, name = "ip6" if v6 else "ip", lines[0][1:]
        table = self.rules.tables.setdefault((family, name), FakeTable())
        for chain, hook, prio in _BASE_CHAINS[name]:
            table.chains.setdefault(chain, FakeChain({"type": name, "hook": hook, "prio": prio, "policy": "accept"}))
        try:
            for line in lines[1:-1]:
                self._apply(table, family, line)
        except (AssertionError, ChainExists):
            self.rules.tables = before
            raise
        except KeyError as error:
            self.rules.tables = before
            raise IptablesError(f"cannot {what}", f"iptables-restore: line failed: {line}") from error

    def save(self, v6: bool, legacy: bool = False, table: str = "nat") -> str:
        assert not legacy, "the fake has no legacy tables"
        nat = self.rules.tables.get(("ip6" if v6 else "ip", table))
        if nat is None:
            return ""
        told = [f":{name} {'ACCEPT' if chain.hook else '-'} [0:0]" for name, chain in nat.chains.items()]
        told += [rule.line for chain in nat.chains.values() for rule in chain.rules]
        return "\n".join([f"*{table}", *told, "COMMIT", ""])

    def _apply(self, nat: FakeTable, family: str, line: str) -> None:
        if found := re.fullmatch(r":(\S+) - \[0:0\]", line):
            nat.chains[found[1]] = FakeChain()
        elif found := re.fullmatch(r"-N (\S+)", line):
            if found[1] in nat.chains:
                raise ChainExists("cannot make a chain", f"{found[1]}: Chain already exists.")
            nat.chains[found[1]] = FakeChain()
        elif found := re.fullmatch(r"-I (\S+) 1 (.*)", line):
            rule = FakeRule(self.rules.handle(), *self._rule(nat, family, found[2]), f"-A {found[1]} {found[2]}")
            nat.chains[found[1]].rules.insert(0, rule)
        elif found := re.fullmatch(r"-F (\S+)", line):
            nat.chains[found[1]].rules.clear()
        elif found := re.fullmatch(r"-X (\S+)", line):
            used = any(_mentions(rule.expr, {"target": found[1]}) for chain in nat.chains.values() for rule in chain.rules)
            if nat.chains[found[1]].rules or used:
                raise KeyError(found[1])
            del nat.chains[found[1]]
        elif found := re.fullmatch(r"-A (\S+) (.*)", line):
            rule = FakeRule(self.rules.handle(), *self._rule(nat, family, found[2]), line)
            nat.chains[found[1]].rules.append(rule)
        elif found := re.fullmatch(r"-D (\S+) (.*)", line):
            rules = nat.chains[found[1]].rules
            at = [rule.line for rule in rules].index("-A" + line[2:]) if "-A" + line[2:] in [r.line for r in rules] else None
            if at is None:
                raise KeyError(line)
            del rules[at]
        else:
            raise AssertionError(f"the fake does not understand {line!r}")

    def _rule(self, nat: FakeTable, family: str, words: str) -> tuple[list[Any], str]:
        tokens, expr, comment, inverted = shlex.split(words), [], "", False
        while tokens:
            word = tokens.pop(0)
            if word == "!":
                inverted = True
            elif word in ("-s", "-d"):
                side = "saddr" if word == "-s" else "daddr"
                expr.append(_match("!=" if inverted else "==", _payload(family, side), _right(tokens.pop(0))))
                inverted = False
            elif word in ("-i", "-o"):
                expr.append(_match("!=" if inverted else "==", {"meta": {"key": f"{word[1]}ifname"}}, tokens.pop(0)))
                inverted = False
            elif word == "-m" and tokens[0] == "conntrack":
                expr.append({"xt": {"type": "match", "name": "conntrack"}})
                del tokens[:3]
            elif word == "-m" and tokens[0] == "comment":
                assert tokens[1] == "--comment", words
                comment = tokens[2]
                del tokens[:3]
            elif word in self._MATCHES:
                expr.append({"xt": {"type": "match", "name": f"{word} {tokens.pop(0)}"}})
            elif word == "-j":
                target = tokens.pop(0)
                if target in ("ACCEPT", "MASQUERADE", "DROP", "RETURN"):
                    expr.append({target.lower(): None})
                elif target in ("DNAT", "MARK"):
                    expr.append({"xt": {"type": "target", "name": f"{target} {tokens}"}})
                    tokens.clear()
                elif target in nat.chains:
                    expr.append({"jump": {"target": target}})
                else:
                    raise KeyError(target)
            else:
                raise AssertionError(f"the fake does not understand {word!r} of {words!r}")
        return expr, comment


class FakeConntrack:
    """`cni.nft.conntrack.Conntrack` of a host that nobody sends anything to."""

    def forget(self, version: int, port: int, to: Callable[[Ip], bool]) -> int:
        return 0


class FakeFirewalld:
    """`cni.nft.firewalld.Firewalld`: the sources of zones; None where no firewalld runs."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def running(self) -> bool:
        return self.machine.zones is not None

    def add_source(self, zone: str, source: str) -> bool:
        there = self._zone(zone)
        if source in there:
            return False
        there.add(source)
        return True

    def remove_source(self, zone: str, source: str) -> bool:
        there = self._zone(zone)
        if source not in there:
            return False
        there.remove(source)
        return True

    def has_source(self, zone: str, source: str) -> bool:
        return source in self._zone(zone)

    def _zone(self, zone: str) -> set[str]:
        if self.machine.zones is None:
            raise FirewalldError("cannot talk to firewalld", "it does not run")
        if zone not in self.machine.zones:
            raise FirewalldError("firewalld refused a call", f"INVALID_ZONE: {zone}")
        return self.machine.zones[zone]


# -- The host of a call --


class FakeHost:
    """`cni.net.host.Host` on a Machine."""

    def __init__(self, machine: Machine, sandbox_fd: int | None) -> None:
        self.machine, self.sandbox_fd = machine, sandbox_fd
        self.root = FakeKernel(machine, machine.root)
        self.sandbox = None if sandbox_fd is None else FakeKernel(machine, machine.at_fd(sandbox_fd))
        self.nft, self.iptables, self.conntrack = FakeNft(machine.rules), FakeIptables(machine.rules), FakeConntrack()
        self.firewalld = FakeFirewalld(machine)
        self.closed = False

    def kernel(self, side: Side) -> FakeKernel:
        if side is Side.HOST:
            return self.root
        assert self.sandbox is not None, "a plan for a sandbox that is gone"
        return self.sandbox

    def delete_link(self, side: Side, name: str) -> bool:
        return self.kernel(side).delete_link(name)

    def sysctl(self, side: Side, key: str) -> str | None:
        return self._sysctls(side, key).get(key)

    def write_sysctls(self, side: Side, values: tuple[tuple[str, str], ...], must: bool) -> None:
        for key, value in values:
            found = self._sysctls(side, key)
            if key in found:
                found[key] = value
            elif must:
                raise refused(f"cannot set sysctl {key} to {value!r}", errno.ENOENT)

    def sysctls(self, side: Side, keys: Iterable[str]) -> dict[str, str]:
        return {key: value for key in keys if (value := self.sysctl(side, key)) is not None}

    def write_only(self, side: Side, key: str) -> bool:
        self._sysctls(side, key)
        return False

    def file(self, path: str, follow: bool = True) -> bytes | None:
        return self.machine.files.get(path)

    def files(self, folder: str) -> list[str]:
        return sorted(path[len(folder) + 1 :] for path in self.machine.files if path.rpartition("/")[0] == folder)

    def write_file(self, path: str, content: bytes, new: bool) -> None:
        if new and path in self.machine.files:
            raise refused(f"cannot write {path}", errno.EEXIST)
        self.machine.files[path] = content

    def remove_file(self, path: str) -> bool:
        return self.machine.files.pop(path, None) is not None

    def unwritable(self, folder: str) -> str:
        return self.machine.unwritable

    @property
    def sandbox_name(self) -> str:
        return "" if self.sandbox is None else self.sandbox.namespace.name

    def is_sandbox(self, path: str) -> bool:
        return self.sandbox is not None and self.machine.pods.get(path) is self.sandbox.namespace

    def work(self) -> None:
        if self not in self.machine.at_work:
            self.machine.at_work.append(self)

    def alone(self) -> bool:
        return self.machine.at_work == [self]

    def rest(self) -> None:
        if self in self.machine.at_work:
            self.machine.at_work.remove(self)

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True
        self.rest()
        if self.sandbox_fd is not None:
            self.machine.close_fd(self.sandbox_fd)
            self.sandbox_fd = None

    def _sysctls(self, side: Side, key: str) -> dict[str, str]:
        known = [*OF_NAMESPACE, *(re.escape(name).replace(r"\{\}", "[^/]+") for name in LINK_SYSCTLS)]
        assert any(re.fullmatch(name, key) for name in known), f"the fake does not know sysctl {key}"
        return self.kernel(side).namespace.sysctls


class Machine:
    """A host with pods, in memory."""

    def __init__(self, *, filters_vlans: bool = False, shapes: bool = True) -> None:
        self.filters_vlans = filters_vlans
        # What older kernels do: refuse names in a pod that the master's namespace has; have no broadcast queues to choose.
        self.names_are_hosts = False
        self.lacks_queues = False
        self.shapes = shapes  # has token buckets and ifbs
        self.root = Namespace("host", lo_up=True)
        self.rules = Ruleset()
        self.zones: dict[str, set[str]] | None = None
        self.pods: dict[str, Namespace] = {}
        self.files: dict[str, bytes] = {}
        # Why no file could be made, for STATUS.
        self.unwritable = ""
        self.at_work: list[Any] = []
        # What duplicate address detection will find, for the test of the failure.
        self.duplicates: tuple[Cidr, ...] = ()
        self._fds: dict[int, Namespace] = {}
        self._macs = 0

    def pod(self, path: str) -> Namespace:
        """A new pod's namespace, as a runtime makes it."""
        assert path not in self.pods
        self.pods[path] = Namespace(path, lo_up=False)
        return self.pods[path]

    def uplink(self) -> None:
        """Give the host a link to a segment of nodes, 192.0.2.0/24 and fd00:2::/64, where it is the first."""
        link = self.root.add(FakeLink(0, "up0", "veth", self.mac()))
        self.root.switch(link, True)
        for address in (ip_interface("192.0.2.1/24"), ip_interface("fd00:2::1/64")):
            link.addresses.append(address)
            self.root.connect(link, address)

    def host(self, sandbox_fd: int | None = None, search_path: str = "") -> FakeHost:
        """The doors of one call."""
        return FakeHost(self, sandbox_fd)

    def mac(self) -> str:
        """The next hardware address that the kernel gives by itself."""
        self._macs += 1
        return f"0e:00:00:00:{self._macs >> 8:02x}:{self._macs & 255:02x}"

    def open_sandbox(self, path: str) -> int:
        """`cni.net.netns.open_sandbox`: a real descriptor (of nothing) that stands for the namespace at a path."""
        if path == "host":
            namespace = self.root
        elif path in self.pods:
            namespace = self.pods[path]
        elif path.endswith("/not-a-namespace"):
            raise EnvError(f"CNI_NETNS {path!r} is not a network namespace")
        else:
            raise UnknownSandbox(f"cannot open CNI_NETNS {path!r}: No such file or directory")
        fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._fds[fd] = namespace
        return fd

    def is_own(self, fd: int) -> bool:
        """`cni.net.netns.is_own`."""
        return self._fds[fd] is self.root

    def at_fd(self, fd: int) -> Namespace:
        return self._fds[fd]

    def close_fd(self, fd: int) -> None:
        del self._fds[fd]
        os.close(fd)

    @property
    def open_fds(self) -> int:
        """How many sandboxes are open: none after a call."""
        return sum(os.path.exists(f"/proc/self/fd/{fd}") for fd in self._fds)

    def dump(self) -> str:
        """Everything there is, in words."""
        told: list[str] = []
        for namespace in (self.root, *self.pods.values()):
            told += [f"namespace {namespace.name}", *(f"  {line}" for line in namespace.dump())]
        told += [*self.rules.dump()]
        told += [f"file {path} {content!r}" for path, content in sorted(self.files.items())]
        told += [f"zone {zone}: {' '.join(sorted(found))}" for zone, found in (self.zones or {}).items()]
        told += [f"at work: {len(self.at_work)}"] if self.at_work else []
        return "\n".join(told) + "\n"
