"""The rtnetlink door: verbs on the links, addresses and routes of one network namespace.

A ``Kernel`` owns one socket that belongs to its namespace (``cni.net.netlink``), so callers never hop. What it reads comes
back as records (``cni.net.seen``). Errors are KernelErrors that say what was attempted. Verbs that remove are content with
what is gone already.
"""

from __future__ import annotations

import errno as errors
import socket
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from cni.net import messages as m
from cni.net.links import Links
from cni.net.netlink import Request, failure
from cni.net.ops import RTPROT_PODWIRE, RTPROT_STATIC
from cni.net.seen import RTN_UNICAST, address_of, default_of, neighbour_of, next_hops_of, routes_of, way_of
from cni.spec.addresses import is_v6
from cni.spec.errors import KernelError
from cni.spec.result import SCOPE_LINK

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    from cni.net.facts import NeighbourSeen, NextHop, RouteSeen, Way
    from cni.net.traffic import Traffic
    from cni.spec.addresses import Cidr, Ip
    from cni.spec.result import Route

IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TENTATIVE, IFA_F_NOPREFIXROUTE = 0x02, 0x08, 0x40, 0x200
RT_TABLE_UNSPEC, RT_TABLE_MAIN = 0, 254
RT_SCOPE_UNIVERSE = 0
NUD_PERMANENT = 0x80

# The answer is the route as it stands in the table, not the one that a packet would be given.
RTM_F_FIB_MATCH = 0x2000

# Nobody is reached this way: no route, or one that says so.
_NO_WAY = (errors.ENETUNREACH, errors.EHOSTUNREACH, errors.EACCES, errors.EINVAL, errors.ESRCH)


class Kernel(Links):
    """The links, addresses and routes of one namespace: ``fd``, or the calling thread's own when None."""

    @cached_property
    def traffic(self) -> Traffic:
        """What shapes the traffic of its links."""
        from cni.net.traffic import Traffic

        return Traffic(self)

    # Reading.

    def addresses(self, ifname: str) -> tuple[Cidr, ...]:
        """A link's addresses in the kernel's order, link-local ones included; empty when there is no such link."""
        index = self.index(ifname, must=False)
        if not index:
            return ()
        seen = self.objects(ifname, m.RTM_GETADDR, {"index": index}, [], f"cannot list addresses of {ifname}")
        return tuple(address_of(message) for message in seen if message["index"] == index)

    def subnets(self) -> set[IPv4Network | IPv6Network]:
        """The subnets of all addresses; those of an address alone are left out."""
        seen = {address_of(message).network for message in self.wire.dump(m.RTM_GETADDR, {}, [], "cannot list addresses")}
        return {network for network in seen if network.prefixlen < network.max_prefixlen}

    def routes(self, ifname: str) -> tuple[RouteSeen, ...]:
        """The unicast routes through a link, of every table."""
        index = self.index(ifname, must=False)
        if not index:
            return ()
        seen = []
        for family in (socket.AF_INET, socket.AF_INET6):
            fields = {"family": family, "table": RT_TABLE_UNSPEC}
            words = f"cannot list routes of {ifname}"
            for message in self.objects(ifname, m.RTM_GETROUTE, fields, [["RTA_OIF", index]], words):
                seen += routes_of(message, index)
        return tuple(seen)

    def way(self, address: Ip) -> Way | None:
        """The route that this namespace takes to an address; None when there is none."""
        words = f"cannot look up the route to {address}"
        v6 = is_v6(address)
        fields = {
            "family": socket.AF_INET6 if v6 else socket.AF_INET,
            "dst_len": address.max_prefixlen,
            "flags": RTM_F_FIB_MATCH,
        }
        answer = self.wire.ask(words, Request(m.RTM_GETROUTE, 0, fields, [["RTA_DST", str(address)]]))
        if answer.errno and answer.errno not in _NO_WAY:
            raise failure(words, answer)
        return None if answer.message is None else way_of(answer.message)

    def default_link(self) -> str:
        """The interface that the main table's default route leads through, empty when there is none: IPv4's before IPv6's, of
        several the one with the lowest metric.
        """
        for family in (socket.AF_INET, socket.AF_INET6):
            fields = {"family": family, "table": RT_TABLE_MAIN}
            found = [default_of(message) for message in self._routes(fields) if message["table"] == RT_TABLE_MAIN]
            for _, index in sorted(way for way in found if way is not None):
                link = self.link_at(index) if index else None
                if link is not None:
                    return link.name
        return ""

    def next_hops(self) -> dict[tuple[Cidr, int], NextHop]:
        """The routes of ours through other nodes: next hops by destination and metric."""
        found: dict[tuple[Cidr, int], NextHop] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            fields = {"family": family, "table": RT_TABLE_MAIN, "proto": RTPROT_PODWIRE}
            for message in self._routes(fields):
                if (message["proto"], message["table"]) == (RTPROT_PODWIRE, RT_TABLE_MAIN):  # old kernels tell all of them
                    found |= next_hops_of(message)
        return found

    def neighbours(self, ifname: str) -> tuple[NeighbourSeen, ...]:
        """The neighbours of a link that were made for good."""
        index = self.index(ifname, must=False)
        if not index:
            return ()
        attrs = [["NDA_IFINDEX", index]]
        seen = self.objects(ifname, m.RTM_GETNEIGH, {}, attrs, f"cannot list neighbours of {ifname}")
        return tuple(
            neighbour_of(message) for message in seen if message["state"] & NUD_PERMANENT and message["ifindex"] == index
        )

    def dad_state(self, ifname: str) -> tuple[tuple[Cidr, ...], tuple[Cidr, ...]]:
        """The link's addresses whose duplicate address detection still runs, and those where it found a duplicate."""
        index = self.index(ifname)
        seen = self.wire.dump(m.RTM_GETADDR, {"index": index, "family": socket.AF_INET6}, [], f"cannot list {ifname}")
        flagged = [(address_of(message), message.number("IFA_FLAGS") or message["flags"]) for message in seen]
        failed = tuple(address for address, flags in flagged if flags & IFA_F_DADFAILED)
        return tuple(a for a, flags in flagged if flags & IFA_F_TENTATIVE and a not in failed), failed

    # Changing.

    def add_address(self, ifname: str, address: Cidr, dad: bool = False, subnet: bool = True) -> bool:
        """Add an address, by default without duplicate address detection; False when the link has it already.

        IPv4 gets the broadcast address of its prefix when there is one, as the reference gives it. Without ``subnet`` the
        kernel adds no route to the address's subnet.
        """
        request = self._address(m.RTM_NEWADDR, ifname, address)
        flags = (IFA_F_NODAD if is_v6(address) and not dad else 0) | (0 if subnet else IFA_F_NOPREFIXROUTE)
        request.fields["flags"] = flags & 0xFF
        if flags > 0xFF:  # the fixed field has 8 bits
            request.attrs.append(["IFA_FLAGS", flags])
        return self.wire.create(f"cannot add address {address} to {ifname}", request)

    def delete_address(self, ifname: str, address: Cidr) -> bool:
        """Remove an address; False when it was gone already."""
        if not self.index(ifname, must=False):
            return False
        return self.wire.remove(f"cannot delete {address} from {ifname}", self._address(m.RTM_DELADDR, ifname, address))

    def add_route(
        self, ifname: str, route: Route, source: Ip | None = None, protocol: int = RTPROT_STATIC, sole: bool = False
    ) -> bool:
        """Add a route through a link; False when the very same one is there already. One to the same destination by another
        next hop goes in front of it (IPv4) or beside it (IPv6), as with the reference. ``source`` is the address it prefers.
        With ``sole`` KernelError with EEXIST when there is one to the same destination with the same metric, through any link.

        ``mtu`` and ``advmss`` become the route's metrics, which the reference drops though the specification defines them.
        """
        dst = route.dst.network
        attrs: list[Any] = [["RTA_OIF", self.index(ifname)]]
        if dst.prefixlen:
            attrs.append(["RTA_DST", str(dst.network_address)])
        if route.gw is not None:
            attrs.append(["RTA_GATEWAY", str(route.gw)])
        if source is not None:
            attrs.append(["RTA_PREFSRC", str(source)])
        if route.priority:
            attrs.append(["RTA_PRIORITY", route.priority])
        if route.table is not None:
            attrs.append(["RTA_TABLE", route.table])
        metrics = [[key, value] for key, value in (("RTAX_MTU", route.mtu), ("RTAX_ADVMSS", route.advmss)) if value]
        if metrics:
            attrs.append(["RTA_METRICS", {"attrs": metrics}])
        link_scope = SCOPE_LINK if route.gw is None and dst.version == 4 else RT_SCOPE_UNIVERSE
        fields = {
            "family": socket.AF_INET6 if dst.version == 6 else socket.AF_INET,
            "dst_len": dst.prefixlen,
            "table": RT_TABLE_MAIN if route.table is None else min(route.table, 252),
            "proto": protocol,
            "scope": link_scope if route.scope is None else route.scope,
            "type": RTN_UNICAST,
        }
        words = f"cannot add route {route.dst}{f' via {route.gw}' if route.gw is not None else ''} through {ifname}"
        if sole:
            self.wire.run(words, Request(m.RTM_NEWROUTE, m.NLM_F_CREATE | m.NLM_F_EXCL, fields, attrs))
            return True
        return self.wire.create(words, Request(m.RTM_NEWROUTE, m.NLM_F_CREATE, fields, attrs))

    def add_neighbour(self, ifname: str, address: Ip, mac: str) -> None:
        """Tell a link the hardware address of a neighbour, for good; one that it knows already is changed."""
        fields = {
            "family": socket.AF_INET6 if is_v6(address) else socket.AF_INET,
            "ifindex": self.index(ifname),
            "state": NUD_PERMANENT,
        }
        attrs = [["NDA_DST", str(address)], ["NDA_LLADDR", mac]]
        words = f"cannot make {address} a neighbour of {ifname}"
        self.wire.run(words, Request(m.RTM_NEWNEIGH, m.NLM_F_CREATE | m.NLM_F_REPLACE, fields, attrs))

    def set_next_hop(self, dst: Cidr, via: Ip, metric: int) -> None:
        """Lead the route of ours with this metric to a destination through a node; the kernel knows by which link."""
        request = _next_hop(m.RTM_NEWROUTE, m.NLM_F_CREATE | m.NLM_F_REPLACE, dst, via, metric)
        self.wire.run(f"cannot lead the route to {dst} through node {via}", request)

    def drop_next_hop(self, dst: Cidr, via: Ip, metric: int) -> bool:
        """Remove the route of ours with this metric to a destination through a node; False when it was gone already."""
        return self.wire.remove(
            f"cannot remove the route to {dst} through node {via}", _next_hop(m.RTM_DELROUTE, 0, dst, via, metric)
        )

    def _address(self, kind: int, ifname: str, address: Cidr) -> Request:
        v6 = is_v6(address)
        attrs: list[Any] = [["IFA_LOCAL", str(address.ip)], ["IFA_ADDRESS", str(address.ip)]]
        if not v6 and kind == m.RTM_NEWADDR and address.network.prefixlen < 31:
            attrs.append(["IFA_BROADCAST", str(cast("IPv4Network", address.network).broadcast_address)])
        fields = {
            "family": socket.AF_INET6 if v6 else socket.AF_INET,
            "prefixlen": address.network.prefixlen,
            "flags": 0,
            "scope": RT_SCOPE_UNIVERSE,
            "index": self.index(ifname),
        }
        if v6:
            attrs = attrs[1:]
        return Request(kind, m.NLM_F_CREATE | m.NLM_F_EXCL if kind == m.RTM_NEWADDR else 0, fields, attrs)

    def _routes(self, fields: dict[str, Any]) -> list[m.Message]:
        """The routes that match some fields; old kernels tell all of them."""
        try:
            return self.wire.dump(m.RTM_GETROUTE, fields, [], "cannot list routes")
        except KernelError as error:
            if error.errno == errors.ENOENT:  # the table is made with its first route
                return []
            raise


def _next_hop(kind: int, flags: int, dst: Cidr, via: Ip, metric: int) -> Request:
    network = dst.network
    fields = {
        "family": socket.AF_INET6 if is_v6(dst) else socket.AF_INET,
        "dst_len": network.prefixlen,
        "table": RT_TABLE_MAIN,
        "proto": RTPROT_PODWIRE,
        "scope": RT_SCOPE_UNIVERSE,
        "type": RTN_UNICAST,
    }
    attrs = [["RTA_DST", str(network.network_address)]] if network.prefixlen else []
    return Request(kind, flags, fields, [*attrs, ["RTA_GATEWAY", str(via)], ["RTA_PRIORITY", metric]])
