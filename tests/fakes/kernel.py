"""The rtnetlink door on a namespace in memory."""

from __future__ import annotations

import errno
import os
from ipaddress import ip_interface
from typing import TYPE_CHECKING

from cni.net.facts import Link, NeighbourSeen, NextHop, RouteSeen, Vlan, Way
from cni.net.ops import RTPROT_PODWIRE
from cni.spec.addresses import Cidr, Ip, is_v6
from cni.spec.errors import TryAgain, UnsupportedField
from tests.fakes.namespace import IFALIASZ, IFNAMSIZ, KERNEL, LINK_SCOPE, MAIN, STATIC, UNIVERSE, FakeLink, Namespace, refused
from tests.fakes.traffic import FakeTraffic

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network

    from cni.spec.result import Route
    from tests.fakes.machine import Machine


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

    def subnets(self) -> set[IPv4Network | IPv6Network]:
        seen = {address.network for link in self.namespace.links.values() for address in link.addresses}
        return {network for network in seen if network.prefixlen < network.max_prefixlen}

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
            Way(dst=dst, gw=hop.via, priority=metric, protocol=RTPROT_PODWIRE, out=hop.out)
            for (dst, metric), hop in self.namespace.next_hops.items()
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

    def next_hops(self) -> dict[tuple[Cidr, int], NextHop]:
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
        self.namespace.next_hops[ip_interface(dst.network), metric] = NextHop(via, way.out)

    def drop_next_hop(self, dst: Cidr, via: Ip, metric: int) -> bool:
        present = self.namespace.next_hops.get((ip_interface(dst.network), metric))
        if present is None or present.via != via:
            return False
        del self.namespace.next_hops[ip_interface(dst.network), metric]
        return True

    def add_route(
        self, ifname: str, route: Route, source: Ip | None = None, protocol: int = STATIC, sole: bool = False
    ) -> bool:
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
        there = [seen for other in self.namespace.links.values() for seen in other.routes]
        if sole and any((seen.dst, seen.table, seen.priority) == (new.dst, new.table, new.priority) for seen in there):
            raise refused(words, errno.EEXIST)
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
