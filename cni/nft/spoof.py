"""MAC spoof check (``macspoofchk``): a pod may send frames from its own hardware address only.

    table bridge podwire_macspoofchk
    set guarded    host veth
    set allowed    host veth . hardware address  the owner's label as comment
    set sweeps     tokens of removals of the empty table that are under way, as in ``cni.nft.masq``
    chain check    prerouting: from a guarded veth, not an allowed pair: drop

One pod is one element in each set, where the reference has two chains and four rules in a table it must list to find
its own again (P PR#852, P PR#873). A host veth's name follows from its owner, so nobody else has elements under it.
``look`` reads; the rest is pure. Where ADD sees the chain as it should be, its transaction only adds elements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from cni.nft import reference
from cni.nft.listing import bodies, elements
from cni.nft.masq import SWEEPS, tag
from cni.nft.ops import RunNft, Sweep
from cni.nft.reference import SpoofChains
from cni.spec.owner import of_network

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from cni.nft.readers import RuleReaders
    from cni.spec.owner import Owner

TABLE = "podwire_macspoofchk"
CHAIN = "check"

_T = f"bridge {TABLE}"

LISTING = f"list table {_T}"

# What nft's JSON tells of the rule.
_RULE = [
    {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "@guarded"}},
    {
        "match": {
            "op": "!=",
            "left": {"concat": [{"meta": {"key": "iifname"}}, {"payload": {"protocol": "ether", "field": "saddr"}}]},
            "right": "@allowed",
        }
    },
    {"drop": None},
]


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """The whole table as it was seen.

    intact: whether the chain is hooked into prerouting and has exactly our rule. guarded: veths. allowed: labels by veth and
    hardware address.
    """

    intact: bool = False
    guarded: tuple[str, ...] = ()
    allowed: dict[tuple[str, str], str] = {}

    def macs(self, veth: str) -> tuple[str, ...]:
        """The addresses that a veth may send from."""
        return tuple(mac for name, mac in self.allowed if name == veth)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one attachment.

    present: whether our chain is there. intact: whether it is as it should be. macs: hardware addresses that the veth may
    have been given. table: all of our table, where it was needed. reference: the Go bridge's chains.
    """

    present: bool = False
    intact: bool = False
    macs: tuple[str, ...] = ()
    table: Table | None = None
    reference: SpoofChains | None = None


def look(host: RuleReaders, owner: Owner, wanted: bool, verb: str = "", macs: Iterable[str] = ()) -> Facts:
    """Read what a verb needs; without ``verb`` all of it.

    ADD needs the chain alone, and ADD and CHECK nothing unless the check is ``wanted``. DEL reads our table only if it is
    not told the ``macs`` that the pod may have had: with them its cost does not grow with pods.
    """
    if verb in ("ADD", "CHECK") and not wanted:
        return Facts()
    chain = host.nft.chain(f"{_T} {CHAIN}")
    facts = Facts(present=bool(chain), intact=_intact(chain), macs=tuple(dict.fromkeys(mac.lower() for mac in macs)))
    if verb == "ADD":
        return facts
    return msgspec.structs.replace(
        facts,
        table=look_gc(host) if facts.present and (verb != "DEL" or not facts.macs) else None,
        reference=reference.look_spoof(host, owner),
    )


def plan_add(owner: Owner, veth: str, mac: str, facts: Facts) -> list[RunNft]:
    """Let the veth send from ``mac`` only. Repeating it changes nothing."""
    label = tag(owner)
    return [
        RunNft(
            text=claim(label, veth, mac) if facts.intact else add(label, veth, mac),
            missing=add(label, veth, mac),
            undo=remove(veth, [mac]),
            what=f"let {veth} send from {mac} only",
        )
    ]


def plan_del(owner: Owner, facts: Facts) -> list[RunNft]:
    """Remove the check, ours and the Go bridge's."""
    plan = []
    if facts.present:
        veth = owner.host_veth
        known = facts.table.macs(veth) if facts.table is not None else ()
        if facts.table is None or known or veth in facts.table.guarded:
            text = remove(veth, {*facts.macs, *known})
            plan.append(RunNft(text=text, what=f"remove the MAC spoof check of {veth}", yields=True))
    if facts.reference is not None:
        plan.append(reference.remove_spoof(facts.reference))
    return plan


def check(owner: Owner, veth: str, mac: str, facts: Facts) -> list[str]:
    """A line if frames from other addresses would pass, or frames from ``mac`` would not. The Go bridge's chains satisfy."""
    mac = mac.lower()
    if facts.reference is not None and facts.reference.handles and facts.reference.macs == (mac,):
        return []
    seen = facts.table or Table()
    allowed = seen.macs(veth)
    if veth not in seen.guarded:
        return [f"no MAC spoof check for {veth} in nftables table {TABLE}"]
    if allowed != (mac,) or seen.allowed[veth, mac] != tag(owner):
        return [f"MAC spoof check for {veth} allows {' '.join(allowed) or 'nothing'}, expected {mac} for {owner.label}"]
    return [] if seen.intact else [f"MAC spoof check for {veth}: the rule of nftables table {TABLE} is gone or changed"]


def guards(host: RuleReaders, owner: Owner) -> bool:
    """Whether the attachment's veth may send from certain addresses only."""
    if not host.nft.chain(f"{_T} {CHAIN}"):
        return False
    return bool(host.nft.query(f'get element {_T} guarded {{ "{owner.host_veth}" }}'))


def move(owner: Owner, old: tuple[str, ...], new: str) -> RunNft:
    """Let a guarded veth send from ``new``, and no more from ``old``; nothing where it is not guarded any more. Taken back, it
    may send from the first of ``old``.
    """
    veth, label = owner.host_veth, tag(owner)

    def text(forget: tuple[str, ...], mac: str) -> str:
        # The first line fails where the veth is not guarded. "add, delete" takes away what may be there.
        still = f'delete element {_T} guarded {{ "{veth}" }}\n'
        return still + remove(veth, {*forget, mac}) + claim(label, veth, mac)

    what = f"let {veth} send from {new} instead of {' '.join(old)}"
    return RunNft(text=text(old, new), undo=text((new,), old[0]), what=what, yields=True)


def look_gc(host: RuleReaders) -> Table | None:
    """The whole table, None without one."""
    objects = host.nft.query(LISTING)
    return parse_table(objects) if objects else None


def gc(network: str, keep: frozenset[Owner], seen: Table | None) -> list[RunNft | Sweep]:
    """Remove the elements of the network's attachments that are not kept, then the table if nothing is left in it.

    The Go bridge's chains name no network, so they stay until DEL.
    """
    if seen is None:
        return []
    kept = {tag(owner) for owner in keep}
    gone = [pair for pair, label in seen.allowed.items() if of_network(label, network) and label not in kept]
    text = "".join(remove(veth, [mac]) for veth, mac in gone)
    plan: list[RunNft | Sweep] = []
    if gone:
        plan.append(RunNft(text=text, what=f"remove MAC spoof checks of {len(gone)} pods", yields=True))
    if not set(seen.guarded).difference(veth for veth, _ in gone):
        plan.append(SWEEP)
    return plan


def plan_gc(host: RuleReaders, network: str, keep: frozenset[Owner]) -> list[RunNft | Sweep]:
    """Look and decide for GC."""
    return gc(network, keep, look_gc(host))


def add(label: str, veth: str, mac: str) -> str:
    """The transaction that adds a veth, whatever is there."""
    return (
        f"add table {_T}\n"
        f"add set {_T} {SWEEPS} {{ type mark; }}\n"
        f"add set {_T} guarded {{ type ifname; }}\n"
        f"add set {_T} allowed {{ type ifname . ether_addr; }}\n"
        f"add chain {_T} {CHAIN} {{ type filter hook prerouting priority -300; policy accept; }}\n"
        f"flush chain {_T} {CHAIN}\n"
        f"add rule {_T} {CHAIN} iifname @guarded iifname . ether saddr != @allowed drop\n"
        # "add, delete, add" replaces a comment that is there
        + remove(veth, [mac])
        + claim(label, veth, mac)
    )


def claim(label: str, veth: str, mac: str) -> str:
    """The same where all but the elements is there; fails as NotFound where it is not. Nothing is removed or renewed."""
    return (
        f"flush set {_T} {SWEEPS}\n"
        f'add element {_T} allowed {{ "{veth}" . {mac} comment "{label}" }}\n'
        f'add element {_T} guarded {{ "{veth}" }}\n'
    )


def remove(veth: str, macs: Iterable[str]) -> str:
    """The transaction that forgets a veth and its addresses, be they there or not."""
    pairs = [f'allowed {{ "{veth}" . {mac} }}' for mac in sorted(macs)]
    return "".join(
        f"add element {_T} {element}\ndelete element {_T} {element}\n" for element in (f'guarded {{ "{veth}" }}', *pairs)
    )


def begin_sweep(token: int) -> str:
    """Announce a sweep, before it looks. Fails as NotFound where no table is."""
    return f"add set {_T} {SWEEPS} {{ type mark; }}\nadd element {_T} {SWEEPS} {{ {token:#010x} }}\n"


def end_sweep(listing: list[dict[str, Any]], token: int) -> str:
    """Remove the table if the listing has no veth. Fails as NotFound when something was added since."""
    text = f"delete element {_T} {SWEEPS} {{ {token:#010x} }}\n"
    return text if parse_table(listing).guarded else text + f"delete table {_T}\n"


SWEEP = Sweep(what=f"remove the empty nftables table {TABLE}", begin=begin_sweep, listing=LISTING, end=end_sweep)


def parse_table(objects: list[dict[str, Any]]) -> Table:
    """The table from ``list table bridge podwire_macspoofchk``."""
    sets = {body["name"]: dict(elements(body)) for body in bodies(objects, "set")}
    return Table(
        intact=_intact(objects),
        guarded=tuple(sets.get("guarded", ())),
        allowed=sets.get("allowed", {}),
    )


def _intact(objects: list[dict[str, Any]]) -> bool:
    hooked = any(body.get("hook") == "prerouting" for body in bodies(objects, "chain"))
    return hooked and [rule["expr"] for rule in bodies(objects, "rule")] == [_RULE]
