"""The rtnetlink door: verbs on the links, addresses and routes of one network namespace.

A ``Kernel`` owns one socket that belongs to its namespace (``cni.net.netlink``), so callers never hop. What it reads comes
back as records (``cni.net.seen``). Errors are KernelErrors that say what was attempted. Verbs that remove are content with
what is gone already.
"""

from __future__ import annotations

import errno as errors
import os
import socket
from typing import TYPE_CHECKING, Any, cast

from cni.net import messages as m
from cni.net import qdiscs
from cni.net.facts import MACVLAN_MODES, Shaping
from cni.net.netlink import Request, Wire, failure
from cni.net.ops import RTPROT_PODWIRE, RTPROT_STATIC
from cni.net.seen import (
    IFF_ALLMULTI,
    IFF_PROMISC,
    IFF_UP,
    RTN_UNICAST,
    address_of,
    default_of,
    link_of,
    neighbour_of,
    next_hops_of,
    operstate_of,
    routes_of,
    vlans_of,
    way_of,
)
from cni.spec.addresses import is_v6
from cni.spec.errors import CNIError, KernelError, TryAgain, UnsupportedField
from cni.spec.result import SCOPE_LINK

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network

    from cni.net.facts import Link, NeighbourSeen, Qdisc, RouteSeen, Vlan, Way
    from cni.spec.addresses import Cidr, Ip
    from cni.spec.result import Route

IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TENTATIVE, IFA_F_NOPREFIXROUTE = 0x02, 0x08, 0x40, 0x200
RT_TABLE_UNSPEC, RT_TABLE_MAIN = 0, 254
RT_SCOPE_UNIVERSE = 0

# BRIDGE_FLAGS_SELF: the bridge itself, not the bridge that a port belongs to.
_BRIDGE_SELF = 2

# RTEXT_FILTER_*: ask for a bridge port's VLANs; leave out the statistics that nobody here reads.
_EXT_VLAN, _EXT_NO_STATS = 2, 8

# Queues of each end of a veth. The kernel's default, since Linux 5.16, is one for each possible processor, of which only
# XDP ever uses a second; each is memory and files in sysfs, and creating a pair takes 0.1 ms longer with two.
_ONE_QUEUE = [["IFLA_NUM_TX_QUEUES", 1], ["IFLA_NUM_RX_QUEUES", 1]]

# The kernel's most are 4,096.
_TOO_MANY_QUEUES = 1 << 16

NUD_PERMANENT = 0x80

# The answer is the route as it stands in the table, not the one that a packet would be given.
RTM_F_FIB_MATCH = 0x2000

# Nobody is reached this way: no route, or one that says so.
_NO_WAY = (errors.ENETUNREACH, errors.EHOSTUNREACH, errors.EACCES, errors.EINVAL, errors.ESRCH)

_GONE = (errors.ENODEV, errors.ENOENT, errors.ESRCH, errors.EADDRNOTAVAIL)


class Kernel:
    """The links, addresses and routes of one namespace: ``fd``, or the calling thread's own when None."""

    def __init__(self, fd: int | None = None) -> None:
        self._wire = Wire(fd)
        self._indexes: dict[str, int] = {}
        self._absent: set[str] = set()  # names that nothing had when this call looked

    def close(self) -> None:
        """Close the socket."""
        self._wire.close()

    @property
    def failed(self) -> bool:
        """Whether the socket is of no use any more."""
        return self._wire.failed

    def forget(self) -> None:
        """Forget what was seen of links: by the next call it may be otherwise."""
        self._indexes.clear()
        self._absent.clear()

    # Reading.

    def link(self, name: str) -> Link | None:
        """A link by name, None when there is none."""
        return self._link([["IFLA_IFNAME", name]], 0, f"cannot look up link {name}")

    def link_at(self, index: int) -> Link | None:
        """A link by index, None when there is none."""
        return self._link([], index, f"cannot look up link {index}")

    def links(self, netns: int | None = None) -> list[Link]:
        """All links, or those of the namespace that a link's ``peer_netns`` tells."""
        attrs = [["IFLA_EXT_MASK", _EXT_NO_STATS], *([["IFLA_IF_NETNSID", netns]] if netns is not None else [])]
        return [link_of(message) for message in self._wire.dump(m.RTM_GETLINK, {}, attrs, "cannot list links")]

    def operstate(self, name: str) -> str:
        """A link's operational state (RFC 2863) in lower case; ``gone`` when there is no such link."""
        message = self._told([["IFLA_IFNAME", name]], 0, f"cannot look up link {name}")
        return "gone" if message is None else operstate_of(message)

    def mac(self, name: str) -> str:
        """The hardware address of a link that is meant to be there; empty when it is not."""
        return self._wire.mac(name)

    def addresses(self, ifname: str) -> tuple[Cidr, ...]:
        """A link's addresses in the kernel's order, link-local ones included; empty when there is no such link."""
        index = self._index(ifname, must=False)
        if not index:
            return ()
        seen = self._of_link(ifname, m.RTM_GETADDR, {"index": index}, [], f"cannot list addresses of {ifname}")
        return tuple(address_of(message) for message in seen if message["index"] == index)

    def routes(self, ifname: str) -> tuple[RouteSeen, ...]:
        """The unicast routes through a link, of every table."""
        index = self._index(ifname, must=False)
        if not index:
            return ()
        seen = []
        for family in (socket.AF_INET, socket.AF_INET6):
            fields = {"family": family, "table": RT_TABLE_UNSPEC}
            words = f"cannot list routes of {ifname}"
            for message in self._of_link(ifname, m.RTM_GETROUTE, fields, [["RTA_OIF", index]], words):
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
        answer = self._wire.ask(words, Request(m.RTM_GETROUTE, 0, fields, [["RTA_DST", str(address)]]))
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

    def next_hops(self) -> dict[tuple[Cidr, int], Ip]:
        """The routes of ours through other nodes: next hops by destination and metric."""
        found: dict[tuple[Cidr, int], Ip] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            fields = {"family": family, "table": RT_TABLE_MAIN, "proto": RTPROT_PODWIRE}
            for message in self._routes(fields):
                if (message["proto"], message["table"]) == (RTPROT_PODWIRE, RT_TABLE_MAIN):  # old kernels tell all of them
                    found |= next_hops_of(message)
        return found

    def neighbours(self, ifname: str) -> tuple[NeighbourSeen, ...]:
        """The neighbours of a link that were made for good."""
        index = self._index(ifname, must=False)
        if not index:
            return ()
        attrs = [["NDA_IFINDEX", index]]
        seen = self._of_link(ifname, m.RTM_GETNEIGH, {}, attrs, f"cannot list neighbours of {ifname}")
        return tuple(
            neighbour_of(message) for message in seen if message["state"] & NUD_PERMANENT and message["ifindex"] == index
        )

    def vlans(self, name: str) -> tuple[Vlan, ...]:
        """The VLANs of a bridge port; empty also on a kernel without VLAN filtering."""
        index = self._index(name, must=False)
        fields = {"family": socket.AF_BRIDGE}
        attrs = [["IFLA_EXT_MASK", _EXT_VLAN | _EXT_NO_STATS]]
        for message in self._wire.dump(m.RTM_GETLINK, fields, attrs, "cannot list VLANs"):
            if message["index"] == index:
                return vlans_of(message)
        return ()

    def shaping(self, name: str) -> Shaping:
        """The qdiscs that somebody gave a link, and the filters of its ingress; none when there is no such link."""
        index = self._index(name, must=False)
        if not index:
            return Shaping()
        words = f"cannot list the filters of {name}"
        root, ingress = (self._qdisc(name, index, parent) for parent in (qdiscs.ROOT, qdiscs.INGRESS))
        if ingress is None:
            return Shaping(root)
        fields = {"index": index, "parent": qdiscs.INGRESS_HANDLE}
        return Shaping(root, ingress, qdiscs.filters_of(self._of_link(name, m.RTM_GETTFILTER, fields, [], words)))

    def _qdisc(self, name: str, index: int, parent: int) -> Qdisc | None:
        """A link's qdisc at a place; None for the one that the kernel gives each link (of handle 0).

        Of that it mostly tells nothing, or EINVAL on older kernels: the acknowledgement is then the only answer. And it tells
        qdiscs only to those who listen, unless it is asked for an echo.
        """
        words = f"cannot look up the qdisc of {name}"
        flags = m.NLM_F_ECHO | m.NLM_F_ACK
        answer = self._wire.ask(words, Request(m.RTM_GETQDISC, flags, {"index": index, "parent": parent}, []))
        if answer.errno and answer.errno not in (*_GONE, errors.EINVAL):
            raise failure(words, answer)
        found = None if answer.message is None else qdiscs.qdisc_of(answer.message)
        return found if found is not None and found.handle else None

    def knows_qdisc(self, kind: str) -> bool:
        """Whether this kernel has, or can load, a kind of qdisc that takes options: it is asked for one without any."""
        request = Request(m.RTM_NEWQDISC, m.NLM_F_CREATE | m.NLM_F_EXCL, self._at("lo"), [["TCA_KIND", kind]])
        return self._refusal(request) != errors.ENOENT

    def knows_link(self, kind: str) -> bool:
        """Whether this kernel has, or can load, a kind of link: it is asked for one with more queues than any can have."""
        info = ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", kind]]}]
        attrs = [["IFLA_IFNAME", f"try-{os.urandom(4).hex()}"], ["IFLA_NUM_TX_QUEUES", _TOO_MANY_QUEUES], info]
        return self._refusal(Request(m.RTM_NEWLINK, m.NLM_F_CREATE | m.NLM_F_EXCL, {}, attrs)) != errors.EOPNOTSUPP

    # Changing.

    def create_bridge(self, name: str, mtu: int, vlan_filtering: bool) -> bool:
        """Create a bridge and bring it up; False when one of the name is there already.

        It gets a random address at creation: the kernel then keeps it, where a bridge that was given none takes the lowest
        of its ports' addresses and changes with them (P#620, nerdctl#4283).
        """
        data = [["IFLA_BR_VLAN_FILTERING", 1]] if vlan_filtering else []
        attrs: list[Any] = [
            ["IFLA_IFNAME", name],
            ["IFLA_ADDRESS", random_mac()],
            ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "bridge"], ["IFLA_INFO_DATA", {"attrs": data}]]}],
        ]
        if mtu:
            attrs.append(["IFLA_MTU", mtu])
        request = Request(m.RTM_NEWLINK, m.NLM_F_CREATE | m.NLM_F_EXCL, {"flags": IFF_UP, "change": IFF_UP}, attrs)
        try:
            return self._create(f"cannot create bridge {name}", request)
        except KernelError as error:
            raise _without_vlans(error) if vlan_filtering else error from error

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
        """Create a veth pair whose peer is made straight in another namespace, label it, set its bridge port's flags.

        One datagram: the kernel works through it without returning to us, so nothing can end the process between the link
        and its label. KernelError with EEXIST when either name is taken.
        """
        peer_attrs: list[Any] = [["IFLA_IFNAME", peer], ["IFLA_ADDRESS", peer_mac], *_ONE_QUEUE]
        if peer_fd is not None:
            peer_attrs.append(["IFLA_NET_NS_FD", peer_fd])
        attrs: list[Any] = [["IFLA_IFNAME", name], ["IFLA_ADDRESS", mac], *_ONE_QUEUE]
        if mtu:
            attrs.append(["IFLA_MTU", mtu])
            peer_attrs.append(["IFLA_MTU", mtu])
        if master:
            attrs.append(["IFLA_MASTER", self._index(master)])
        veth = {"attrs": [["VETH_INFO_PEER", {"attrs": peer_attrs}]]}
        attrs.append(["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "veth"], ["IFLA_INFO_DATA", veth]]}])
        create = Request(m.RTM_NEWLINK, m.NLM_F_CREATE | m.NLM_F_EXCL, {"flags": IFF_UP, "change": IFF_UP}, attrs)
        after: list[Any] = [["IFLA_IFALIAS", label]]
        if any(port.values()):  # a new port has none of these flags
            flags = [["IFLA_BRPORT_MODE", int(port["hairpin"])], ["IFLA_BRPORT_ISOLATED", int(port["isolated"])]]
            slave = [["IFLA_INFO_SLAVE_KIND", "bridge"], ["IFLA_INFO_SLAVE_DATA", {"attrs": flags}]]
            after.append(["IFLA_LINKINFO", {"attrs": slave}])
        words = f"cannot create veth {name} with its peer {peer}"
        # The later message would change what has the name, although the first one failed. Where this call has just seen that
        # nothing has it, only another call for the same attachment could, and that one writes the same label.
        if name not in self._absent and self._index(name, must=False):
            raise KernelError(words, OSError(errors.EEXIST, os.strerror(errors.EEXIST)))
        self._absent.discard(name)
        self._indexes.pop(name, None)
        try:
            self._wire.run(words, create, _change(name, after))
        except KernelError as error:
            # The later message failed although the first one made the link: what a failed call made must not stay.
            if error.errno != errors.EEXIST:
                self.delete_link(name)
            raise

    def create_macvlan(self, name: str, lower: str, mode: str, mac: str, mtu: int, queue: int, fd: int | None) -> None:
        """Create a macvlan on ``lower``, down, straight in the namespace ``fd`` (None: in this one). What is empty or 0 of
        ``mac``, ``mtu`` and ``queue`` is the kernel's choice.

        KernelError with EEXIST when the name is taken there, with older kernels (Linux 6.1) also when this namespace has it.
        """
        data = [["IFLA_MACVLAN_MODE", MACVLAN_MODES[mode]]]
        if queue:
            data.append(["IFLA_MACVLAN_BC_QUEUE_LEN", queue])
        attrs: list[Any] = [
            ["IFLA_IFNAME", name],
            ["IFLA_LINK", self._index(lower)],
            ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "macvlan"], ["IFLA_INFO_DATA", {"attrs": data}]]}],
        ]
        attrs += [["IFLA_ADDRESS", mac]] if mac else []
        attrs += [["IFLA_MTU", mtu]] if mtu else []
        attrs += [["IFLA_NET_NS_FD", fd]] if fd is not None else []
        self._indexes.pop(name, None)
        self._wire.run(
            f"cannot create macvlan {name} on {lower}", Request(m.RTM_NEWLINK, m.NLM_F_CREATE | m.NLM_F_EXCL, {}, attrs)
        )

    def adopt(self, name: str, new: str, label: str) -> None:
        """Name and label a link that is down, in one message. KernelError with EEXIST when the new name is taken."""
        attrs = [["IFLA_IFNAME", new], ["IFLA_IFALIAS", label]]
        request = Request(m.RTM_NEWLINK, 0, {"index": self._index(name)}, attrs)
        self._wire.run(f"cannot label link {new}" if name == new else f"cannot name link {name} {new}", request)
        self._indexes[new] = self._indexes.pop(name)

    def set_mac(self, name: str, mac: str) -> None:
        """Set a link's hardware address."""
        self._wire.run(f"cannot set the hardware address of {name} to {mac}", _change(name, [["IFLA_ADDRESS", mac]]))

    def set_mtu(self, name: str, mtu: int) -> None:
        """Set a link's MTU."""
        self._wire.run(f"cannot set the MTU of {name} to {mtu}", _change(name, [["IFLA_MTU", mtu]]))

    def set_queue(self, name: str, length: int) -> None:
        """Set how many packets may wait to be sent by a link."""
        self._wire.run(f"cannot set the queue length of {name} to {length}", _change(name, [["IFLA_TXQLEN", length]]))

    def set_link(
        self,
        name: str,
        up: bool | None = None,
        promisc: bool | None = None,
        vlan_filtering: bool | None = None,
        allmulti: bool | None = None,
    ) -> None:
        """Switch flags of a link; None leaves one alone."""
        attrs: list[Any] = []
        if vlan_filtering is not None:
            data = [["IFLA_BR_VLAN_FILTERING", int(vlan_filtering)]]
            attrs.append(["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "bridge"], ["IFLA_INFO_DATA", {"attrs": data}]]}])
        switched = ((IFF_UP, up), (IFF_PROMISC, promisc), (IFF_ALLMULTI, allmulti))
        flags = sum(bit for bit, on in switched if on)
        change = sum(bit for bit, on in switched if on is not None)
        request = _change(name, attrs)
        request.fields.update({"flags": flags, "change": change})
        try:
            self._wire.run(f"cannot change link {name}", request)
        except KernelError as error:
            raise _without_vlans(error) if vlan_filtering else error from error

    def isolate_port(self, name: str, on: bool) -> None:
        """Switch the isolation of a bridge's port."""
        data = {"attrs": [["IFLA_BRPORT_ISOLATED", int(on)]]}
        attrs = [["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_SLAVE_KIND", "bridge"], ["IFLA_INFO_SLAVE_DATA", data]]}]]
        self._wire.run(f"cannot switch the isolation of bridge port {name}", _change(name, attrs))

    def delete_link(self, name: str) -> bool:
        """Delete a link; False when it was gone already."""
        self._indexes.pop(name, None)
        return self._remove(f"cannot delete link {name}", Request(m.RTM_DELLINK, 0, {}, [["IFLA_IFNAME", name]]))

    def delete_links(self, names: Iterable[str], group: int) -> dict[str, bool]:
        """Delete links by one message, for which they are put into a link group that nobody else uses; False for those that
        were gone already. The kernel waits once for all of them, where it would wait 20 ms for each.
        """
        deleted = {}
        for name in names:
            join = Request(m.RTM_SETLINK, 0, {}, [["IFLA_IFNAME", name], ["IFLA_GROUP", group]])
            deleted[name] = self._remove(f"cannot put link {name} into group {group}", join)
        if any(deleted.values()):
            self._remove(f"cannot delete links {', '.join(deleted)}", Request(m.RTM_DELLINK, 0, {}, [["IFLA_GROUP", group]]))
        for name in deleted:
            self._indexes.pop(name, None)
        return deleted

    def dad_state(self, ifname: str) -> tuple[tuple[Cidr, ...], tuple[Cidr, ...]]:
        """The link's addresses whose duplicate address detection still runs, and those where it found a duplicate."""
        index = self._index(ifname)
        seen = self._wire.dump(m.RTM_GETADDR, {"index": index, "family": socket.AF_INET6}, [], f"cannot list {ifname}")
        flagged = [(address_of(message), message.number("IFA_FLAGS") or message["flags"]) for message in seen]
        failed = tuple(address for address, flags in flagged if flags & IFA_F_DADFAILED)
        return tuple(a for a, flags in flagged if flags & IFA_F_TENTATIVE and a not in failed), failed

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
        return self._create(f"cannot add address {address} to {ifname}", request)

    def delete_address(self, ifname: str, address: Cidr) -> bool:
        """Remove an address; False when it was gone already."""
        if not self._index(ifname, must=False):
            return False
        return self._remove(f"cannot delete {address} from {ifname}", self._address(m.RTM_DELADDR, ifname, address))

    def add_route(self, ifname: str, route: Route, source: Ip | None = None, protocol: int = RTPROT_STATIC) -> bool:
        """Add a route through a link; False when the very same one is there already. One to the same destination by another
        next hop goes in front of it (IPv4) or beside it (IPv6), as with the reference. ``source`` is the address it prefers.

        ``mtu`` and ``advmss`` become the route's metrics, which the reference drops though the specification defines them.
        """
        dst = route.dst.network
        attrs: list[Any] = [["RTA_OIF", self._index(ifname)]]
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
        return self._create(words, Request(m.RTM_NEWROUTE, m.NLM_F_CREATE, fields, attrs))

    def add_neighbour(self, ifname: str, address: Ip, mac: str) -> None:
        """Tell a link the hardware address of a neighbour, for good; one that it knows already is changed."""
        fields = {
            "family": socket.AF_INET6 if is_v6(address) else socket.AF_INET,
            "ifindex": self._index(ifname),
            "state": NUD_PERMANENT,
        }
        attrs = [["NDA_DST", str(address)], ["NDA_LLADDR", mac]]
        words = f"cannot make {address} a neighbour of {ifname}"
        self._wire.run(words, Request(m.RTM_NEWNEIGH, m.NLM_F_CREATE | m.NLM_F_REPLACE, fields, attrs))

    def set_next_hop(self, dst: Cidr, via: Ip, metric: int) -> None:
        """Lead the route of ours with this metric to a destination through a node; the kernel knows by which link."""
        request = _next_hop(m.RTM_NEWROUTE, m.NLM_F_CREATE | m.NLM_F_REPLACE, dst, via, metric)
        self._wire.run(f"cannot lead the route to {dst} through node {via}", request)

    def drop_next_hop(self, dst: Cidr, via: Ip, metric: int) -> bool:
        """Remove the route of ours with this metric to a destination through a node; False when it was gone already."""
        return self._remove(
            f"cannot remove the route to {dst} through node {via}", _next_hop(m.RTM_DELROUTE, 0, dst, via, metric)
        )

    def set_vlans(self, name: str, remove: tuple[int, ...], pvid: int, tagged: tuple[tuple[int, int], ...]) -> None:
        """Change the VLANs of a bridge port: take ``remove`` away, add ``pvid`` untagged and ranges of tagged ones.

        A range is two entries of one message, where the reference sends a message for each of up to 4,094 VLANs. The bridge
        family knows RTM_SETLINK only: an RTM_NEWLINK with VLANs is acknowledged and does nothing.
        """
        fields = {"family": socket.AF_BRIDGE, "index": self._index(name)}
        wanted: list[Any] = []
        for low, high in tagged:
            begin, end = (0, 0) if low == high else (0x8, 0x10)
            wanted.append(["IFLA_BRIDGE_VLAN_INFO", {"flags": begin, "vid": low}])
            if high != low:
                wanted.append(["IFLA_BRIDGE_VLAN_INFO", {"flags": end, "vid": high}])
        if pvid:
            wanted.append(["IFLA_BRIDGE_VLAN_INFO", {"flags": 0x2 | 0x4, "vid": pvid}])
        unwanted = [["IFLA_BRIDGE_VLAN_INFO", {"flags": 0, "vid": vid}] for vid in remove]
        requests = [
            Request(kind, 0, dict(fields), [["IFLA_AF_SPEC", {"attrs": entries}]])
            for kind, entries in ((m.RTM_DELLINK, unwanted), (m.RTM_SETLINK, wanted))
            if entries
        ]
        if requests:
            self._wire.run(f"cannot set VLANs of bridge port {name}", *requests)

    def admit_vlan(self, bridge: str, vid: int, on: bool) -> None:
        """Let frames of a VLAN reach the bridge itself, tagged, or no longer."""
        entries = [["IFLA_BRIDGE_FLAGS", _BRIDGE_SELF], ["IFLA_BRIDGE_VLAN_INFO", {"flags": 0, "vid": vid}]]
        fields = {"family": socket.AF_BRIDGE, "index": self._index(bridge)}
        request = Request(m.RTM_SETLINK if on else m.RTM_DELLINK, 0, fields, [["IFLA_AF_SPEC", {"attrs": entries}]])
        self._wire.run(f"cannot {'add' if on else 'remove'} VLAN {vid} of bridge {bridge} itself", request)

    def create_vlan(self, name: str, lower: str, vid: int) -> bool:
        """Create the 802.1Q interface of a link's VLAN and bring it up; False when one of the name is there already.

        It has the hardware address and the MTU of ``lower`` and follows them.
        """
        data = {"attrs": [["IFLA_VLAN_ID", vid]]}
        attrs: list[Any] = [
            ["IFLA_IFNAME", name],
            ["IFLA_LINK", self._index(lower)],
            ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "vlan"], ["IFLA_INFO_DATA", data]]}],
        ]
        request = Request(m.RTM_NEWLINK, m.NLM_F_CREATE | m.NLM_F_EXCL, {"flags": IFF_UP, "change": IFF_UP}, attrs)
        return self._create(f"cannot create {name}, VLAN {vid} of {lower}", request)

    def create_ifb(self, name: str, mac: str, mtu: int, label: str) -> None:
        """Create an ifb, up and labelled, in one datagram (see ``create_veth``). TryAgain when the name is taken by now."""
        words = f"cannot create ifb {name}"
        attrs: list[Any] = [["IFLA_IFNAME", name], ["IFLA_ADDRESS", mac], ["IFLA_MTU", mtu], *_ONE_QUEUE]
        attrs.append(["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "ifb"]]}])
        create = Request(m.RTM_NEWLINK, m.NLM_F_CREATE | m.NLM_F_EXCL, {"flags": IFF_UP, "change": IFF_UP}, attrs)
        self._indexes.pop(name, None)
        if self._index(name, must=False):  # the label would be put on it
            raise TryAgain(f"{words}: somebody else made a link of that name at this moment")
        try:
            self._wire.run(words, create, _change(name, [["IFLA_IFALIAS", label]]))
        except KernelError as error:
            if error.errno == errors.EOPNOTSUPP:
                raise UnsupportedField(f"{words}: this kernel has none", "it lacks CONFIG_IFB (module ifb)") from error
            if error.errno != errors.EEXIST:
                self.delete_link(name)
            raise

    def limit_rate(self, name: str, rate: int, limit: int, buffer: int, burst: int = 0) -> None:
        """Give a link a token bucket for what it sends, see ``ops.LimitRate``. KernelError with EEXIST when it has a qdisc."""
        words = f"cannot limit the rate of {name}"
        fields = {**self._at(name), "handle": qdiscs.TBF_HANDLE}
        attrs = qdiscs.tbf_attrs(rate, limit, buffer, burst)
        try:
            self._wire.run(words, Request(m.RTM_NEWQDISC, m.NLM_F_CREATE | m.NLM_F_EXCL, fields, attrs))
        except KernelError as error:
            if error.errno == errors.ENOENT:
                lacks = "it lacks CONFIG_NET_SCH_TBF (module sch_tbf)"
                raise UnsupportedField(f"{words}: this kernel has no token bucket", lacks) from error
            raise

    def unlimit_rate(self, name: str) -> bool:
        """Take the token bucket from a link; False when it was gone already."""
        return self._drop_qdisc(f"cannot take the rate limit from {name}", name, qdiscs.ROOT, qdiscs.TBF_HANDLE)

    def redirect(self, name: str, to: str) -> None:
        """Have all that comes in by a link leave by another. KernelError with EEXIST when it has an ingress qdisc."""
        words = f"cannot redirect what comes in by {name} to {to}"
        index, target = self._index(name), self._index(to)
        at = {"index": index, "parent": qdiscs.INGRESS, "handle": qdiscs.INGRESS_HANDLE}
        own = Request(m.RTM_NEWQDISC, m.NLM_F_CREATE | m.NLM_F_EXCL, at, [["TCA_KIND", "ingress"]])
        rule = {"index": index, **qdiscs.redirect_fields()}
        lead = Request(m.RTM_NEWTFILTER, m.NLM_F_CREATE | m.NLM_F_EXCL, rule, qdiscs.redirect_attrs(target))
        lacks = "it lacks one of CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED"
        made = False
        try:
            self._wire.run(words, own)
            made = True
            self._wire.run(words, lead)  # a message of its own: it must not get into somebody else's ingress
        except KernelError as error:
            if made:
                self.drop_redirect(name)
            if error.errno == errors.ENOENT:
                raise UnsupportedField(f"{words}: this kernel cannot", lacks) from error
            raise

    def drop_redirect(self, name: str) -> bool:
        """Take a link's ingress qdisc with its filters; False when it was gone already."""
        return self._drop_qdisc(f"cannot remove the ingress qdisc of {name}", name, qdiscs.INGRESS, qdiscs.INGRESS_HANDLE)

    # The wire.

    def _at(self, name: str) -> dict[str, int]:
        return {"index": self._index(name), "parent": qdiscs.ROOT}

    def _drop_qdisc(self, words: str, name: str, parent: int, handle: int) -> bool:
        index = self._index(name, must=False)
        if not index or self._qdisc(name, index, parent) is None:
            return False
        return self._remove(words, Request(m.RTM_DELQDISC, 0, {"index": index, "parent": parent, "handle": handle}, []))

    def _refusal(self, request: Request) -> int:
        """The number of the error by which the kernel refuses what it cannot do."""
        try:
            self._wire.run("asked", request)
        except KernelError as error:
            return error.errno
        return 0

    def _link(self, attrs: list[Any], index: int, words: str) -> Link | None:
        message = self._told(attrs, index, words)
        if message is None:
            if attrs:
                self._absent.add(attrs[0][1])
            return None
        link = link_of(message)
        self._indexes[link.name] = link.index
        return link

    def _told(self, attrs: list[Any], index: int, words: str) -> m.Message | None:
        """The kernel's message about one link; None when there is no such link."""
        answer = self._wire.ask(words, Request(m.RTM_GETLINK, 0, {"index": index}, [*attrs, ["IFLA_EXT_MASK", _EXT_NO_STATS]]))
        if answer.errno and answer.errno not in (errors.ENODEV, errors.EINVAL, errors.ERANGE):
            raise failure(words, answer)
        return answer.message

    def _index(self, name: str, must: bool = True) -> int:
        if name not in self._indexes:
            message = self._told([["IFLA_IFNAME", name]], 0, f"cannot look up link {name}")
            if message is None:
                if must:
                    raise KernelError(f"cannot find link {name}", OSError(errors.ENODEV, os.strerror(errors.ENODEV)))
                return 0
            self._indexes[name] = message["index"]
        return self._indexes[name]

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
            "index": self._index(ifname),
        }
        if v6:
            attrs = attrs[1:]
        return Request(kind, m.NLM_F_CREATE | m.NLM_F_EXCL if kind == m.RTM_NEWADDR else 0, fields, attrs)

    def _create(self, words: str, request: Request) -> bool:
        try:
            self._wire.run(words, request)
        except KernelError as error:
            if error.errno == errors.EEXIST:
                return False
            raise
        return True

    def _remove(self, words: str, request: Request) -> bool:
        try:
            self._wire.run(words, request)
        except KernelError as error:
            if error.errno in _GONE:
                return False
            raise
        return True

    def _routes(self, fields: dict[str, Any]) -> list[m.Message]:
        """The routes that match some fields; old kernels tell all of them."""
        try:
            return self._wire.dump(m.RTM_GETROUTE, fields, [], "cannot list routes")
        except KernelError as error:
            if error.errno == errors.ENOENT:  # the table is made with its first route
                return []
            raise

    def _of_link(self, ifname: str, kind: int, fields: dict[str, Any], attrs: list[Any], words: str) -> list[m.Message]:
        """All objects of a link; none when it went away since its index was read."""
        try:
            return self._wire.dump(kind, fields, attrs, words)
        except KernelError as error:
            if error.errno not in _GONE:
                raise
            self._indexes.pop(ifname, None)
            return []


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


def _change(name: str, attrs: list[Any]) -> Request:
    return Request(m.RTM_NEWLINK, 0, {}, [["IFLA_IFNAME", name], *attrs])


def _without_vlans(error: KernelError) -> CNIError:
    """A refusal of VLAN filtering in words that say why; any other error as it is."""
    if error.errno != errors.EOPNOTSUPP:
        return error
    return UnsupportedField(f"{error.msg}: this kernel has no bridge VLAN filtering", "it lacks CONFIG_BRIDGE_VLAN_FILTERING")


def random_mac() -> str:
    """A locally administered unicast address."""
    raw = bytearray(os.urandom(6))
    raw[0] = raw[0] & 0xFC | 0x02
    return ":".join(f"{byte:02x}" for byte in raw)
