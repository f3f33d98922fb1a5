"""The vocabulary of plans on links, addresses, routes and sysctls: frozen records, no behaviour beyond describing themselves.

``side`` says which namespace an operation works in: HOST (the plugin's own) or SANDBOX (the pod's). Names, never indexes,
identify links. ``inverse()`` is what takes a *private* creation back when a later operation fails; an operation on something
*shared* by attachments has an inverse only if it can be applied safely, which ``execute`` decides under the host's lock
(``shared``).
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from cni.net.facts import NeighbourSeen
from cni.net.qdiscs import TBF_HANDLE
from cni.spec.addresses import Cidr, Ip
from cni.spec.result import Route


class Side(Enum):
    """The namespace of an operation."""

    HOST = "host"
    SANDBOX = "sandbox"


HOST, SANDBOX = Side.HOST, Side.SANDBOX

# Routing protocols, who made a route: an administrator; podwire (no other is known to use this number).
RTPROT_STATIC, RTPROT_PODWIRE = 4, 112


class Op(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a plan. ``shared`` says that it makes or changes what other attachments use too."""

    shared: bool = False

    def describe(self) -> str:
        """The step in words."""
        raise NotImplementedError

    def inverse(self) -> Op | None:
        """The step that takes this one back, or None where nothing private was made."""
        return None


class CreateBridge(Op, frozen=True, kw_only=True):
    """Create a bridge with a hardware address of its own, so that the address does not float with its ports.

    ``keys`` are those of the configuration, with values, that need VLAN filtering, for a kernel that has none.
    """

    shared: bool = True
    name: str
    mtu: int = 0
    vlan_filtering: bool = False
    keys: str = ""

    def describe(self) -> str:
        extra = (f", MTU {self.mtu}" if self.mtu else "") + (", VLAN filtering on" if self.vlan_filtering else "")
        return f"create bridge {self.name}{extra}"

    def inverse(self) -> Op | None:
        return DeleteUnusedBridge(name=self.name)


class IsolatePort(Op, frozen=True, kw_only=True):
    """Switch a bridge port's isolation: isolated ports of a bridge exchange no frames, with all others they do."""

    name: str
    on: bool = True

    def describe(self) -> str:
        return f"{'isolate' if self.on else 'do not isolate'} bridge port {self.name} from others that are isolated"

    def inverse(self) -> Op | None:
        return IsolatePort(name=self.name, on=not self.on)


class DeleteUnusedBridge(Op, frozen=True, kw_only=True):
    """Delete a bridge that has no port."""

    name: str

    def describe(self) -> str:
        return f"delete bridge {self.name} if nothing is attached to it"


class CreateVeth(Op, frozen=True, kw_only=True):
    """Create a veth pair: one end on the host (up, labelled, in its bridge), the other (down) in the sandbox. One message."""

    name: str
    mac: str
    peer: str
    peer_mac: str
    mtu: int = 0
    bridge: str = ""
    hairpin: bool = False
    isolated: bool = False
    label: str

    def describe(self) -> str:
        port = f" as a port of {self.bridge}" if self.bridge else ""
        flags = "".join(f", {flag}" for flag, on in (("hairpin", self.hairpin), ("isolated", self.isolated)) if on)
        mtu = f", MTU {self.mtu}" if self.mtu else ""
        return f"create veth {self.name}{port}{flags}{mtu}, its peer {self.peer} ({self.peer_mac}) in the sandbox"

    def inverse(self) -> Op | None:
        return DeleteLink(side=HOST, name=self.name)


class CreateMacvlan(Op, frozen=True, kw_only=True):
    """Create the sandbox's macvlan, down and labelled, on ``master``, an interface of ``side``.

    ``spare`` is the name it has for an instant on kernels that refuse a name which the master's namespace has (Linux 6.1
    does), as it often does: eth0. Without ``mac`` it has what the kernel gives: in mode passthru the master's.
    """

    side: Side
    master: str
    name: str
    spare: str
    mode: str
    mac: str = ""
    mtu: int = 0
    queue: int = 0
    label: str

    def describe(self) -> str:
        mtu = f", MTU {self.mtu}" if self.mtu else ""
        queue = f", broadcast queue {self.queue}" if self.queue else ""
        mac = f" ({self.mac})" if self.mac else ""
        made = f"create macvlan {self.name}{mac} in the sandbox, mode {self.mode}{mtu}{queue}"
        return f"{made}, on {self.master} of the {self.side.value}"

    def inverse(self) -> Op | None:
        return DeleteLink(side=SANDBOX, name=self.name)


class AdmitVlan(Op, frozen=True, kw_only=True):
    """Let frames of a VLAN reach the bridge itself, tagged. Planned only where they do not yet."""

    shared: bool = True
    bridge: str
    vid: int

    def describe(self) -> str:
        return f"let VLAN {self.vid} reach {self.bridge} itself"

    def inverse(self) -> Op | None:
        return ExpelVlan(bridge=self.bridge, vid=self.vid)


class ExpelVlan(Op, frozen=True, kw_only=True):
    """Keep a VLAN from a bridge that has no port."""

    bridge: str
    vid: int

    def describe(self) -> str:
        return f"keep VLAN {self.vid} from {self.bridge} itself if nothing is attached to it"


class CreateVlanGateway(Op, frozen=True, kw_only=True):
    """Create ``<bridge>.<vid>``, the host's 802.1Q interface in a VLAN that reaches the bridge itself (AdmitVlan).

    The reference makes a veth pair with one end in the bridge. With bridge-nf-call-iptables on, which Kubernetes asks for, a
    packet then meets the host's rules twice, first as one that is bridged: masquerade takes it there, for good and in vain.
    """

    shared: bool = True
    name: str
    bridge: str
    vid: int

    def describe(self) -> str:
        return f"create {self.name}, the host's interface in VLAN {self.vid} of {self.bridge}"

    def inverse(self) -> Op | None:
        return DropVlanGateway(name=self.name, bridge=self.bridge)


class DropVlanGateway(Op, frozen=True, kw_only=True):
    """Delete the host's interface in a VLAN of a bridge that has no port."""

    name: str
    bridge: str

    def describe(self) -> str:
        return f"delete {self.name} if nothing is attached to {self.bridge}"


class DeleteLink(Op, frozen=True, kw_only=True):
    """Delete a link; one that is gone already is fine."""

    side: Side
    name: str

    def describe(self) -> str:
        return f"delete link {self.name} on the {self.side.value}"


class SetLink(Op, frozen=True, kw_only=True):
    """Switch flags of a link; None leaves one alone. A private link takes its flags with it; those of a shared one are planned
    only where they differ, and switched back. ``keys`` as in CreateBridge."""

    side: Side
    name: str
    up: bool | None = None
    promisc: bool | None = None
    vlan_filtering: bool | None = None
    keys: str = ""

    def describe(self) -> str:
        named = {"up": self.up, "promisc": self.promisc, "VLAN filtering": self.vlan_filtering}
        changes = ", ".join(f"{key} {'on' if value else 'off'}" for key, value in named.items() if value is not None)
        return f"set link {self.name} on the {self.side.value}: {changes}"

    def inverse(self) -> Op | None:
        if not self.shared:
            return None
        back = {flag: not value for flag in ("up", "promisc", "vlan_filtering") if (value := getattr(self, flag)) is not None}
        return msgspec.structs.replace(self, shared=False, **back)


class PinMac(Op, frozen=True, kw_only=True):
    """Have a bridge keep the hardware address it has, which would else follow its ports. Failing to is no failure (P#620)."""

    name: str

    def describe(self) -> str:
        return f"pin the hardware address of {self.name}"


class SetVlans(Op, frozen=True, kw_only=True):
    """Give a bridge port its VLANs: first remove those it should not have (unless ``keep``), then add."""

    name: str
    pvid: int
    tagged: tuple[tuple[int, int], ...] = ()
    keep: bool = False

    def describe(self) -> str:
        trunk = ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in self.tagged)
        return f"set VLANs of port {self.name}: untagged {self.pvid}" + (f", tagged {trunk}" if trunk else "")


class AddAddress(Op, frozen=True, kw_only=True):
    """Give a private link an address. It dies with the link, so it needs no inverse.

    Without ``subnet`` the kernel makes no route to the address's subnet: its other addresses are not on this link.
    """

    side: Side
    ifname: str
    address: Cidr
    dad: bool = False
    subnet: bool = True

    def describe(self) -> str:
        alone = "" if self.subnet else ", without a route to its subnet"
        return f"add address {self.address} to {self.ifname} on the {self.side.value}{alone}"


class AddGateway(Op, frozen=True, kw_only=True):
    """Give the host's side of the network a gateway address that all attachments to ``bridge`` share.

    ``replaces`` says that another address made room for it (forceAddress): taken back, it must not stay beside that one.
    """

    shared: bool = True
    ifname: str
    bridge: str
    address: Cidr
    replaces: bool = False

    def describe(self) -> str:
        return f"add gateway address {self.address} to {self.ifname}"

    def inverse(self) -> Op | None:
        if self.replaces:
            return DeleteAddress(side=Side.HOST, ifname=self.ifname, address=self.address)
        return DropGateway(ifname=self.ifname, bridge=self.bridge, address=self.address)


class DropGateway(Op, frozen=True, kw_only=True):
    """Remove a gateway address while its bridge has no port."""

    ifname: str
    bridge: str
    address: Cidr

    def describe(self) -> str:
        return f"remove gateway address {self.address} from {self.ifname} if nothing is attached to it"


class DeleteAddress(Op, frozen=True, kw_only=True):
    """Remove an address of the host's that is in the way; one that is gone already is fine."""

    shared: bool = True
    side: Side
    ifname: str
    address: Cidr

    def describe(self) -> str:
        return f"delete address {self.address} from {self.ifname} on the {self.side.value}"

    def inverse(self) -> Op | None:
        return AddAddress(side=self.side, ifname=self.ifname, address=self.address)


class AddRoute(Op, frozen=True, kw_only=True):
    """Add a route through a private link; it dies with the link. ``source`` is the address that it prefers to send from,
    ``protocol`` the number that says who made it. ``sole`` is one to an address that nothing else may have.
    """

    side: Side
    ifname: str
    route: Route
    source: Ip | None = None
    protocol: int = RTPROT_STATIC
    sole: bool = False

    def describe(self) -> str:
        via = f" via {self.route.gw}" if self.route.gw is not None else ""
        source = f" from {self.source}" if self.source is not None else ""
        return f"add route {self.route.dst}{via} through {self.ifname} on the {self.side.value}{source}"


class AddNeighbour(Op, frozen=True, kw_only=True):
    """Tell a private link the hardware address of a neighbour, for good: nobody is asked. It dies with the link."""

    side: Side
    ifname: str
    address: Ip
    mac: str

    def describe(self) -> str:
        return f"make {self.address} the neighbour {self.mac} of {self.ifname} on the {self.side.value}"


class SetNextHop(Op, frozen=True, kw_only=True):
    """Lead the host's route of ours to ``dst`` through another node. ``metric`` is the network's mark (``cni.net.nodes``): a
    route of anybody else's to the same destination stays beside it.

    Never taken back: another attachment may count on it by then.
    """

    shared: bool = True
    dst: Cidr
    via: Ip
    metric: int

    def describe(self) -> str:
        return f"lead the route to {self.dst} through node {self.via}"


class DropNextHop(Op, frozen=True, kw_only=True):
    """Remove the host's route of ours to ``dst`` through another node; one that is gone already is fine."""

    shared: bool = True
    dst: Cidr
    via: Ip
    metric: int

    def describe(self) -> str:
        return f"remove the route to {self.dst} through node {self.via}"


class SetSysctls(Op, frozen=True, kw_only=True):
    """Write sysctls (paths below /proc/sys). Without ``must`` whatever fails is fine; with ``if_there``, which goes with it, no
    more than that the kernel lacks one.

    ``before`` are the values to go back to, empty for those of a link that goes away itself. Forwarding has none: others on
    the host may count on it by then.
    """

    side: Side
    values: tuple[tuple[str, str], ...]
    must: bool = False
    if_there: bool = False
    before: tuple[tuple[str, str], ...] = ()

    def describe(self) -> str:
        return f"write sysctls on the {self.side.value}: " + ", ".join(f"{key}={value}" for key, value in self.values)

    def inverse(self) -> Op | None:
        return SetSysctls(side=self.side, values=self.before) if self.before else None


class ConfirmSysctls(Op, frozen=True, kw_only=True):
    """Fail if a sysctl of the sandbox is not what it was set to: the kernel made something else of the value, or one that was
    set later changed it. Those that cannot be read are passed over.
    """

    values: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        return "read the sysctls in the sandbox back"


class TuneLink(Op, frozen=True, kw_only=True):
    """Change an attribute of a link in the sandbox that somebody else made: ``key`` is one of ``cni.net.backup``. ``before`` is
    the value to go back to, None where there is no way back. ``neighbours`` are those that the link was told for good: with a
    new hardware address the kernel forgets them, so they are told again.
    """

    name: str
    key: str
    value: str | int
    before: str | int | None = None
    neighbours: tuple[NeighbourSeen, ...] = ()

    def describe(self) -> str:
        value = ("off", "on")[self.value] if isinstance(self.value, bool) else self.value
        return f"set {self.key} of {self.name} in the sandbox to {value}"

    def inverse(self) -> Op | None:
        return None if self.before is None else msgspec.structs.replace(self, value=self.before, before=self.value)


class WriteFile(Op, frozen=True, kw_only=True):
    """Make a small file, or give it new content. ``before`` is what it had, None where there was no file."""

    path: str
    content: bytes
    before: bytes | None = None

    def describe(self) -> str:
        return f"write {self.path}"

    def inverse(self) -> Op | None:
        if self.before is None:
            return RemoveFile(path=self.path)
        return WriteFile(path=self.path, content=self.before, before=self.content)


class RemoveFile(Op, frozen=True, kw_only=True):
    """Remove a file; one that is gone already is fine. ``why`` says whose it was."""

    path: str
    why: str = ""

    def describe(self) -> str:
        return ", ".join(part for part in (f"remove {self.path}", self.why) if part)


class Attempt(Op, frozen=True, kw_only=True):
    """An operation whose failure is a remark among ``notes``, and none of the call."""

    op: Any
    notes: list[str]

    def describe(self) -> str:
        return f"{self.op.describe()}, if possible"


class AwaitPort(Op, frozen=True, kw_only=True):
    """Wait until the host's end of the veth carries traffic: the bridge opens the port a moment after the peer came up."""

    name: str

    def describe(self) -> str:
        return f"wait until {self.name} is up"


class AwaitDad(Op, frozen=True, kw_only=True):
    """Wait until duplicate address detection has ended; an address that somebody else has is a failure."""

    ifname: str

    def describe(self) -> str:
        return f"wait for duplicate address detection on {self.ifname}"


class Announce(Op, frozen=True, kw_only=True):
    """Have the sandbox's kernel tell the segment who has the addresses now: gratuitous ARP and unsolicited neighbour
    advertisements.

    With the sysctls arp_notify and ndisc_notify it does when the hardware address is set, be it to what it is. (The reference
    leaves it at the sysctls: the frames go out when the link comes up, while the bridge's port is still closed. A packet socket
    would do it too, but closing one waits for the kernel's grace period, 10 ms and more.)
    """

    ifname: str
    mac: str

    def describe(self) -> str:
        return f"announce the addresses of {self.ifname}"


class CreateIfb(Op, frozen=True, kw_only=True):
    """Create a labelled ifb, up: a link by which what comes in by another can leave once more, so that it can be shaped.
    ``key`` as in LimitRate.
    """

    name: str
    mac: str
    mtu: int
    label: str
    key: str

    def describe(self) -> str:
        return f"create ifb {self.name}, MTU {self.mtu}"

    def inverse(self) -> Op | None:
        return DeleteLink(side=HOST, name=self.name)


class LimitRate(Op, frozen=True, kw_only=True):
    """Give a link of the host a token bucket for what it sends. ``rate`` is in bytes a second, ``limit`` in bytes that may
    wait, ``buffer`` is the bucket's size in ticks; ``burst``, where it is not 0, the size in bytes, which counts instead.
    ``key`` is that of the configuration, for a kernel that has none.
    """

    name: str
    rate: int
    limit: int
    buffer: int
    burst: int = 0
    key: str

    def describe(self) -> str:
        return f"limit what {self.name} sends to {self.rate} bytes a second"

    def inverse(self) -> Op | None:
        return UnlimitRate(name=self.name)


class UnlimitRate(Op, frozen=True, kw_only=True):
    """Take the token bucket of a handle from a link of the host; one that is gone already is fine."""

    name: str
    handle: int = TBF_HANDLE

    def describe(self) -> str:
        return f"limit what {self.name} sends no longer"


class Redirect(Op, frozen=True, kw_only=True):
    """Have all that comes in by a link of the host leave by another. ``key`` as in LimitRate."""

    name: str
    to: str
    key: str

    def describe(self) -> str:
        return f"redirect what comes in by {self.name} to {self.to}"

    def inverse(self) -> Op | None:
        return DropRedirect(name=self.name)


class DropRedirect(Op, frozen=True, kw_only=True):
    """Take the filters from what comes in by a link of the host; where there are none any more it is fine."""

    name: str

    def describe(self) -> str:
        return f"redirect what comes in by {self.name} no longer"


# A plan is a list of these and of the operations of cni.nft.ops.
Plan = list[Any]
