"""The links of one network namespace, over rtnetlink: bridges and their ports, veths, macvlans, VLANs, ifbs.

``Kernel`` (``cni.net.kernel``) is what callers have; what traffic control does with links is ``cni.net.traffic``'s.
"""

from __future__ import annotations

import errno as errors
import os
import socket
from typing import TYPE_CHECKING, Any

from cni.net import messages as m
from cni.net.facts import MACVLAN_MODES
from cni.net.netlink import GONE, Request, Wire, failure
from cni.net.seen import IFF_ALLMULTI, IFF_PROMISC, IFF_UP, link_of, operstate_of, vlans_of
from cni.spec.errors import CNIError, KernelError, TryAgain, UnsupportedField

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.net.facts import Link, Vlan

# BRIDGE_FLAGS_SELF: the bridge itself, not the bridge that a port belongs to.
_BRIDGE_SELF = 2

# RTEXT_FILTER_*: ask for a bridge port's VLANs; leave out the statistics that nobody here reads.
_EXT_VLAN, _EXT_NO_STATS = 2, 8

# Queues of each end of a veth. The kernel's default, since Linux 5.16, is one for each possible processor, of which only
# XDP ever uses a second; each is memory and files in sysfs, and creating a pair takes 0.1 ms longer with two.
_ONE_QUEUE = [["IFLA_NUM_TX_QUEUES", 1], ["IFLA_NUM_RX_QUEUES", 1]]

# NETNSA_NSID_NOT_ASSIGNED, -1.
_NO_NUMBER = 0xFFFFFFFF

# The kernel's most are 4,096.
_TOO_MANY_QUEUES = 1 << 16


class Links:
    """The links of one namespace: ``fd``, or the calling thread's own when None."""

    def __init__(self, fd: int | None = None) -> None:
        self.wire = Wire(fd)
        self._indexes: dict[str, int] = {}
        self._absent: set[str] = set()  # names that nothing had when this call looked

    def close(self) -> None:
        """Close the socket."""
        self.wire.close()

    @property
    def failed(self) -> bool:
        """Whether the socket is of no use any more."""
        return self.wire.failed

    def forget(self) -> None:
        """Forget what was seen of links: by the next call it may be otherwise."""
        self._indexes.clear()
        self._absent.clear()

    # Reading.

    def index(self, name: str, must: bool = True) -> int:
        """A link's index, for requests; this call looks once. Without such a link KernelError, or 0 unless it ``must`` be."""
        if name not in self._indexes:
            message = self._told([["IFLA_IFNAME", name]], 0, f"cannot look up link {name}")
            if message is None:
                if must:
                    raise KernelError(f"cannot find link {name}", OSError(errors.ENODEV, os.strerror(errors.ENODEV)))
                return 0
            self._indexes[name] = message["index"]
        return self._indexes[name]

    def objects(self, ifname: str, kind: int, fields: dict[str, Any], attrs: list[Any], words: str) -> list[m.Message]:
        """All objects of a link; none when it went away since its index was read."""
        try:
            return self.wire.dump(kind, fields, attrs, words)
        except KernelError as error:
            if error.errno not in GONE:
                raise
            self._indexes.pop(ifname, None)
            return []

    def link(self, name: str) -> Link | None:
        """A link by name, None when there is none."""
        return self._link([["IFLA_IFNAME", name]], 0, f"cannot look up link {name}")

    def link_at(self, index: int) -> Link | None:
        """A link by index, None when there is none."""
        return self._link([], index, f"cannot look up link {index}")

    def links(self, netns: int | None = None) -> list[Link]:
        """All links, or those of the namespace that a link's ``peer_netns`` tells."""
        attrs = [["IFLA_EXT_MASK", _EXT_NO_STATS], *([["IFLA_IF_NETNSID", netns]] if netns is not None else [])]
        return [link_of(message) for message in self.wire.dump(m.RTM_GETLINK, {}, attrs, "cannot list links")]

    def netns_number(self, fd: int) -> int | None:
        """The number by which this namespace knows another one, as a link's ``peer_netns``; None where it has none."""
        words = "cannot look up the number of a network namespace"
        answer = self.wire.ask(words, Request(m.RTM_GETNSID, 0, {}, [["NETNSA_FD", fd]]))
        if answer.message is None:
            raise failure(words, answer)
        number = answer.message.number("NETNSA_NSID")
        return None if number == _NO_NUMBER else number

    def operstate(self, name: str) -> str:
        """A link's operational state (RFC 2863) in lower case; ``gone`` when there is no such link."""
        message = self._told([["IFLA_IFNAME", name]], 0, f"cannot look up link {name}")
        return "gone" if message is None else operstate_of(message)

    def mac(self, name: str) -> str:
        """The hardware address of a link that is meant to be there; empty when it is not."""
        return self.wire.mac(name)

    def vlans(self, name: str) -> tuple[Vlan, ...]:
        """The VLANs of a bridge port; empty also on a kernel without VLAN filtering."""
        index = self.index(name, must=False)
        fields = {"family": socket.AF_BRIDGE}
        attrs = [["IFLA_EXT_MASK", _EXT_VLAN | _EXT_NO_STATS]]
        for message in self.wire.dump(m.RTM_GETLINK, fields, attrs, "cannot list VLANs"):
            if message["index"] == index:
                return vlans_of(message)
        return ()

    def knows_link(self, kind: str) -> bool:
        """Whether this kernel has, or can load, a kind of link: it is asked for one with more queues than any can have."""
        info = ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", kind]]}]
        attrs = [["IFLA_IFNAME", f"try-{os.urandom(4).hex()}"], ["IFLA_NUM_TX_QUEUES", _TOO_MANY_QUEUES], info]
        return self.wire.refusal(Request(m.RTM_NEWLINK, m.NLM_F_CREATE | m.NLM_F_EXCL, {}, attrs)) != errors.EOPNOTSUPP

    # Changing.

    def create_bridge(self, name: str, mtu: int, vlan_filtering: bool) -> bool:
        """Create a bridge and bring it up; False when one of the name is there already.

        It gets a random address at creation: the kernel then keeps it, where a bridge that was given none takes the lowest
        of its ports' addresses and changes with them (P#620, nerdctl#4283).
        """
        data = [["IFLA_BR_VLAN_FILTERING", 1]] if vlan_filtering else []
        attrs: list[Any] = [
            ["IFLA_IFNAME", name],
            ["IFLA_ADDRESS", _random_mac()],
            ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "bridge"], ["IFLA_INFO_DATA", {"attrs": data}]]}],
        ]
        if mtu:
            attrs.append(["IFLA_MTU", mtu])
        request = Request(m.RTM_NEWLINK, m.NLM_F_CREATE | m.NLM_F_EXCL, {"flags": IFF_UP, "change": IFF_UP}, attrs)
        try:
            return self.wire.create(f"cannot create bridge {name}", request)
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
            attrs.append(["IFLA_MASTER", self.index(master)])
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
        if name not in self._absent and self.index(name, must=False):
            raise KernelError(words, OSError(errors.EEXIST, os.strerror(errors.EEXIST)))
        self._absent.discard(name)
        self._indexes.pop(name, None)
        try:
            self.wire.run(words, create, _change(name, after))
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
            ["IFLA_LINK", self.index(lower)],
            ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "macvlan"], ["IFLA_INFO_DATA", {"attrs": data}]]}],
        ]
        attrs += [["IFLA_ADDRESS", mac]] if mac else []
        attrs += [["IFLA_MTU", mtu]] if mtu else []
        attrs += [["IFLA_NET_NS_FD", fd]] if fd is not None else []
        self._indexes.pop(name, None)
        self.wire.run(
            f"cannot create macvlan {name} on {lower}", Request(m.RTM_NEWLINK, m.NLM_F_CREATE | m.NLM_F_EXCL, {}, attrs)
        )

    def adopt(self, name: str, new: str, label: str) -> None:
        """Name and label a link that is down, in one message. KernelError with EEXIST when the new name is taken."""
        attrs = [["IFLA_IFNAME", new], ["IFLA_IFALIAS", label]]
        request = Request(m.RTM_NEWLINK, 0, {"index": self.index(name)}, attrs)
        self.wire.run(f"cannot label link {new}" if name == new else f"cannot name link {name} {new}", request)
        self._indexes[new] = self._indexes.pop(name)

    def set_mac(self, name: str, mac: str) -> None:
        """Set a link's hardware address."""
        self.wire.run(f"cannot set the hardware address of {name} to {mac}", _change(name, [["IFLA_ADDRESS", mac]]))

    def set_mtu(self, name: str, mtu: int) -> None:
        """Set a link's MTU."""
        self.wire.run(f"cannot set the MTU of {name} to {mtu}", _change(name, [["IFLA_MTU", mtu]]))

    def set_queue(self, name: str, length: int) -> None:
        """Set how many packets may wait to be sent by a link."""
        self.wire.run(f"cannot set the queue length of {name} to {length}", _change(name, [["IFLA_TXQLEN", length]]))

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
            self.wire.run(f"cannot change link {name}", request)
        except KernelError as error:
            raise _without_vlans(error) if vlan_filtering else error from error

    def isolate_port(self, name: str, on: bool) -> None:
        """Switch the isolation of a bridge's port."""
        data = {"attrs": [["IFLA_BRPORT_ISOLATED", int(on)]]}
        attrs = [["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_SLAVE_KIND", "bridge"], ["IFLA_INFO_SLAVE_DATA", data]]}]]
        self.wire.run(f"cannot switch the isolation of bridge port {name}", _change(name, attrs))

    def delete_link(self, name: str) -> bool:
        """Delete a link; False when it was gone already."""
        self._indexes.pop(name, None)
        return self.wire.remove(f"cannot delete link {name}", Request(m.RTM_DELLINK, 0, {}, [["IFLA_IFNAME", name]]))

    def delete_links(self, names: Iterable[str], group: int) -> dict[str, bool]:
        """Delete links by one message, for which they are put into a link group that nobody else uses; False for those that
        were gone already. The kernel waits once for all of them, where it would wait 20 ms for each.
        """
        deleted = {}
        for name in names:
            join = Request(m.RTM_SETLINK, 0, {}, [["IFLA_IFNAME", name], ["IFLA_GROUP", group]])
            deleted[name] = self.wire.remove(f"cannot put link {name} into group {group}", join)
        if any(deleted.values()):
            self.wire.remove(
                f"cannot delete links {', '.join(deleted)}", Request(m.RTM_DELLINK, 0, {}, [["IFLA_GROUP", group]])
            )
        for name in deleted:
            self._indexes.pop(name, None)
        return deleted

    def set_vlans(self, name: str, remove: tuple[int, ...], pvid: int, tagged: tuple[tuple[int, int], ...]) -> None:
        """Change the VLANs of a bridge port: take ``remove`` away, add ``pvid`` untagged and ranges of tagged ones.

        A range is two entries of one message, where the reference sends a message for each of up to 4,094 VLANs. The bridge
        family knows RTM_SETLINK only: an RTM_NEWLINK with VLANs is acknowledged and does nothing.
        """
        fields = {"family": socket.AF_BRIDGE, "index": self.index(name)}
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
            self.wire.run(f"cannot set VLANs of bridge port {name}", *requests)

    def admit_vlan(self, bridge: str, vid: int, on: bool) -> None:
        """Let frames of a VLAN reach the bridge itself, tagged, or no longer."""
        entries = [["IFLA_BRIDGE_FLAGS", _BRIDGE_SELF], ["IFLA_BRIDGE_VLAN_INFO", {"flags": 0, "vid": vid}]]
        fields = {"family": socket.AF_BRIDGE, "index": self.index(bridge)}
        request = Request(m.RTM_SETLINK if on else m.RTM_DELLINK, 0, fields, [["IFLA_AF_SPEC", {"attrs": entries}]])
        self.wire.run(f"cannot {'add' if on else 'remove'} VLAN {vid} of bridge {bridge} itself", request)

    def create_vlan(self, name: str, lower: str, vid: int) -> bool:
        """Create the 802.1Q interface of a link's VLAN and bring it up; False when one of the name is there already.

        It has the hardware address and the MTU of ``lower`` and follows them.
        """
        data = {"attrs": [["IFLA_VLAN_ID", vid]]}
        attrs: list[Any] = [
            ["IFLA_IFNAME", name],
            ["IFLA_LINK", self.index(lower)],
            ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "vlan"], ["IFLA_INFO_DATA", data]]}],
        ]
        request = Request(m.RTM_NEWLINK, m.NLM_F_CREATE | m.NLM_F_EXCL, {"flags": IFF_UP, "change": IFF_UP}, attrs)
        return self.wire.create(f"cannot create {name}, VLAN {vid} of {lower}", request)

    def create_ifb(self, name: str, mac: str, mtu: int, label: str) -> None:
        """Create an ifb, up and labelled, in one datagram (see ``create_veth``). TryAgain when the name is taken by now."""
        words = f"cannot create ifb {name}"
        attrs: list[Any] = [["IFLA_IFNAME", name], ["IFLA_ADDRESS", mac], ["IFLA_MTU", mtu], *_ONE_QUEUE]
        attrs.append(["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "ifb"]]}])
        create = Request(m.RTM_NEWLINK, m.NLM_F_CREATE | m.NLM_F_EXCL, {"flags": IFF_UP, "change": IFF_UP}, attrs)
        self._indexes.pop(name, None)
        if self.index(name, must=False):  # the label would be put on it
            raise TryAgain(f"{words}: somebody else made a link of that name at this moment")
        try:
            self.wire.run(words, create, _change(name, [["IFLA_IFALIAS", label]]))
        except KernelError as error:
            if error.errno == errors.EOPNOTSUPP:
                raise UnsupportedField(f"{words}: this kernel has none", "it lacks CONFIG_IFB (module ifb)") from error
            if error.errno != errors.EEXIST:
                self.delete_link(name)
            raise

    # The wire.

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
        answer = self.wire.ask(words, Request(m.RTM_GETLINK, 0, {"index": index}, [*attrs, ["IFLA_EXT_MASK", _EXT_NO_STATS]]))
        if answer.errno and answer.errno not in (errors.ENODEV, errors.EINVAL, errors.ERANGE):
            raise failure(words, answer)
        return answer.message


def _change(name: str, attrs: list[Any]) -> Request:
    return Request(m.RTM_NEWLINK, 0, {}, [["IFLA_IFNAME", name], *attrs])


def _without_vlans(error: KernelError) -> CNIError:
    """A refusal of VLAN filtering in words that say why; any other error as it is."""
    if error.errno != errors.EOPNOTSUPP:
        return error
    return UnsupportedField(f"{error.msg}: this kernel has no bridge VLAN filtering", "it lacks CONFIG_BRIDGE_VLAN_FILTERING")


def _random_mac() -> str:
    """A locally administered unicast address."""
    raw = bytearray(os.urandom(6))
    raw[0] = raw[0] & 0xFC | 0x02
    return ":".join(f"{byte:02x}" for byte in raw)
