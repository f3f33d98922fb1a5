"""PURE. The nftables form of the firewall plugin: table ``inet podwire_firewall`` as text, and its listing as a record.

    map owners4, owners6      pod address : mark of its owner    the owner's label as comment; no rule uses these
    set pods4, pods6          pod addresses                      looked up by
    chain forward             before all filters of forwarding: sets one bit of the packet's mark on what a pod sends, on
                              what answers it, and on what address translation leads to it; drops between bridges
    set same_bridge, isolated bridge . mark of owner             the attachments with that policy; label as comment
    set bridges, closed       bridges with a policy, those of them whose policy is ``isolated``
    set within                bridge . bridge                    the same bridges, to let through what stays on one
    set passed4, passed6      empty; there once iptables' filter of the family lets marked packets through
    set sweeps                tokens of removals that are under way, as in ``cni.nft.masq``

An accept of one base chain does not keep another from dropping, so a table of ours alone could let nobody out where the
policy of iptables' FORWARD is DROP, as Docker makes it. So that chain, where it is there, begins with two rules of ours, which
iptables lists and keeps like its own: a jump to the administrator's chain, and one that accepts what carries the bit. They are
the same for all pods.

Bit 0x1000: kube-proxy has 0x4000 and 0x8000, portmap 0x2000, Cilium 0x0f00 with 0xff and the upper half, Calico and
others the upper half. Between this chain and the filters the bit is ours alone: who else sets it loses it here,
for it would open the filter.

Why the mark of the packet and not of its connection: that one would outlive the pod, and serve who has its address next.
Elements are recorded as in ``cni.nft.masq``, which says why a map of owners stands beside the set.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import msgspec

from cni.nft.listing import bodies, elements, target
from cni.nft.masq import OWNERS, SWEEPS, mark
from cni.spec.addresses import is_v6

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from cni.spec.addresses import Ip

TABLE = "podwire_firewall"
CHAIN = "forward"
BIT = 0x1000

SAME_BRIDGE, ISOLATED = "same-bridge", "isolated"

# Sets of the attachments that have a policy.
RECORDS = {SAME_BRIDGE: "same_bridge", ISOLATED: "isolated"}
PODS = {False: "pods4", True: "pods6"}
PASSED = {False: "passed4", True: "passed6"}
BRIDGES, CLOSED, WITHIN = "bridges", "closed", "within"

# iptables' chain of forwarded packets, by family.
FILTER = {False: "ip filter", True: "ip6 filter"}
FORWARD = {v6: f"{table} FORWARD" for v6, table in FILTER.items()}

# How the two rules in it say whose they are.
NOTE = f"podwire: see table inet {TABLE}"

_T = f"inet {TABLE}"
_WHERE = f"{_T} {CHAIN}"
_SET_BIT = f"meta mark set meta mark or {BIT:#x}"
_OTHERS = 0xFFFFFFFF ^ BIT

LISTING = f"list table {_T}"
LISTING_FORWARD = tuple(f"list chain {where}" for where in FORWARD.values())


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """The whole table as it was seen: labels by address; bridge and label of those with a policy; bridges that have one."""

    intact: bool = False
    owners: dict[str, str] = {}
    pods: frozenset[str] = frozenset()
    policies: dict[str, frozenset[tuple[str, str]]] = {}
    bridges: frozenset[str] = frozenset()
    within: frozenset[str] = frozenset()
    closed: frozenset[str] = frozenset()

    def wanted(self, gone: Container[str] = ()) -> dict[str, str]:
        """Each bridge's policy by its attachments, but for those whose labels are ``gone``; the stricter one wins."""
        told: dict[str, str] = {}
        for policy in (SAME_BRIDGE, ISOLATED):
            told.update({bridge: policy for bridge, label in self.policies.get(policy, ()) if label not in gone})
        return told


class Hook(msgspec.Struct, frozen=True, kw_only=True):
    """iptables' FORWARD chain of a family: whether it is there, whether it drops by default, whether it lets our pods' packets
    pass after the administrator's chain, whether a rule above drops all packets, the handles of what is ours in it, and other
    administrators' chains that ours lead to.
    """

    present: bool = False
    drops: bool = False
    intact: bool = False
    closed: bool = False
    handles: tuple[int, ...] = ()
    admins: tuple[str, ...] = ()


def skeleton() -> str:
    """Everything but elements. Rules are renewed, all else stays."""
    return _SKELETON


def passed(v6: bool) -> str:
    """Note that iptables' filter of a family lets marked packets through, or is not there. It goes with the table, and without
    it no ``claim`` fits: who looked before a sweep took the rules away must not go by what was there.
    """
    return f"add set {_T} {PASSED[v6]} {{ type mark; }}\n"


def claim(label: str, address: Ip) -> str:
    """Let a pod's address out, where all but the elements is there; fails as NotFound where it is not, as Exists when the
    address is another owner's.
    """
    v6 = is_v6(address)
    return (
        f"flush set {_T} {SWEEPS}\nflush set {_T} {PASSED[v6]}\n"
        f'add element {_T} {OWNERS[v6]} {{ {address} comment "{label}" : {mark(label):#010x} }}\n'
        f"add element {_T} {PODS[v6]} {{ {address} }}\n"
    )


def disown(address: Ip) -> str:
    """Forget whose an address was: the owner is dead, for two pods of a host cannot have one address."""
    return f"delete element {_T} {OWNERS[is_v6(address)]} {{ {address} }}\n"


def remove(label: str, address: Ip) -> str:
    """Forget an address if it is the owner's. Fails as Exists, without effect, when it is another's."""
    owners, pods = (f"{_T} {name[is_v6(address)]}" for name in (OWNERS, PODS))
    return (
        f"add element {owners} {{ {address} : {mark(label):#010x} }}\n"
        f"delete element {owners} {{ {address} }}\n"
        f"add element {pods} {{ {address} }}\n"
        f"delete element {pods} {{ {address} }}\n"
    )


def claim_policy(label: str, bridge: str, policy: str) -> str:
    """Give the attachment's bridge a policy, where all but the elements is there."""
    text = (
        f"flush set {_T} {SWEEPS}\n"
        f'add element {_T} {RECORDS[policy]} {{ "{bridge}" . {mark(label):#010x} comment "{label}" }}\n'
        f'add element {_T} {BRIDGES} {{ "{bridge}" }}\n'
        f'add element {_T} {WITHIN} {{ "{bridge}" . "{bridge}" }}\n'
    )
    return text + (f'add element {_T} {CLOSED} {{ "{bridge}" }}\n' if policy == ISOLATED else "")


def remove_policy(label: str, bridge: str, policy: str) -> str:
    """Forget that the attachment wants a policy, did it or not; a sweep looks what its bridge still needs."""
    element = f'{_T} {RECORDS[policy]} {{ "{bridge}" . {mark(label):#010x} }}'
    return f"add element {element}\ndelete element {element}\n"


def pass_filter(v6: bool, admin: str, stale: Iterable[int] = (), others: Iterable[str] = ()) -> str:
    """Lead iptables' FORWARD to the administrator's chain, and to ``others`` that networks have, and then let through what
    carries the bit; the rules ``stale`` go.
    """
    where = FORWARD[v6]
    return (
        f"add chain {FILTER[v6]} {admin}\n"
        + "".join(f"delete rule {where} handle {handle}\n" for handle in stale)
        + f'insert rule {where} meta mark and {BIT:#x} == {BIT:#x} counter accept comment "{NOTE}"\n'
        + "".join(f'insert rule {where} counter jump {name} comment "{NOTE}"\n' for name in (*others, admin))
    )


def idle(seen: Table, gone: Container[str] = ()) -> bool:
    """Whether a sweep would find something once what has the labels ``gone`` is removed."""
    left = [label for label in seen.owners.values() if label not in gone]
    return not (left or seen.wanted(gone)) or bool(_unwanted(seen, gone))


def is_idle(listing: list[dict[str, Any]]) -> bool:
    """Whether a sweep would find something by a listing of the table."""
    return bool(listing) and idle(parse_table(listing))


def begin_sweep(token: int) -> str:
    """Announce a sweep, before it looks. Fails as NotFound where no table is."""
    return f"add set {_T} {SWEEPS} {{ type mark; }}\nadd element {_T} {SWEEPS} {{ {token:#010x} }}\n"


def end_sweep(listing: list[dict[str, Any]], token: int) -> str:
    """Remove what no attachment needs by the listing: policies of bridges; with the last one the table and the rules in
    FORWARD. Fails as NotFound when something was added since.
    """
    seen = parse_table(listing)
    text = f"delete element {_T} {SWEEPS} {{ {token:#010x} }}\n"
    if not seen.owners and not seen.wanted():
        for v6 in (False, True):
            text += "".join(f"delete rule {FORWARD[v6]} handle {handle}\n" for handle in parse_forward(listing, v6).handles)
        return text + f"delete table {_T}\n"
    return text + "".join(f"delete element {_T} {name} {{ {key} }}\n" for name, key in _unwanted(seen))


def parse_table(objects: list[dict[str, Any]]) -> Table:
    """The table from ``list table inet podwire_firewall``."""
    sets = {body["name"]: dict(elements(body)) for kind in ("set", "map") for body in bodies(objects, kind)}
    return Table(
        intact=is_intact(objects),
        owners={_plain(key): label for name in OWNERS.values() for key, label in sets.get(name, {}).items()},
        pods=frozenset(_plain(key) for name in PODS.values() for key in sets.get(name, {})),
        policies={
            policy: frozenset((key[0], label) for key, label in sets.get(name, {}).items()) for policy, name in RECORDS.items()
        },
        bridges=frozenset(sets.get(BRIDGES, {})),
        within=frozenset(one for one, other in sets.get(WITHIN, {}) if one == other),
        closed=frozenset(sets.get(CLOSED, {})),
    )


def is_intact(objects: list[dict[str, Any]]) -> bool:
    """Whether a listing of the chain, or of the table, has the chain in its place with exactly our rules."""
    rules = [body["expr"] for body in bodies(objects, "rule") if (body["table"], body["chain"]) == (TABLE, CHAIN)]
    places = [[body.get(key) for key in _PLACE] for body in bodies(objects, "chain") if body["table"] == TABLE]
    return list(_PLACE.values()) in places and rules == _EXPECTED


def parse_forward(objects: list[dict[str, Any]], v6: bool, admin: str = "") -> Hook:
    """iptables' FORWARD chain in a listing. Of what iptables-restore wrote anew nft tells that it has a comment, and not which:
    there an accept of our bit is ours, and the jumps right before it. An administrator's own has no comment of ours.
    """
    family = FILTER[v6].split()[0]
    present, drops, intact, told, closed = False, False, False, False, False
    handles: list[int] = []
    before: list[int] = []  # commented jumps
    admins: dict[str, None] = {}
    for body in bodies(objects, "chain"):
        if (body["family"], body["table"], body["name"], body.get("hook")) == (family, "filter", "FORWARD", "forward"):
            present, drops = True, body.get("policy") == "drop"
    for rule in bodies(objects, "rule"):
        if (rule["family"], rule["table"], rule["chain"]) != (family, "filter", "FORWARD"):
            continue
        comments = [word for word in rule["expr"] if (word.get("xt") or {}).get("name") == "comment"]
        words = [word for word in rule["expr"] if "counter" not in word and word not in comments]
        told |= words == [{"jump": {"target": admin}}]
        closed |= not intact and len(words) == 1 and words[0].keys() <= _CLOSING
        intact |= told and words == _ACCEPTS
        if rule.get("comment") == NOTE:
            handles.append(rule["handle"])
        elif comments and words == _ACCEPTS:
            handles += [*before, rule["handle"]]
        before = [*before, rule["handle"]] if comments and len(words) == 1 and "jump" in words[0] else []
        if rule.get("comment") == NOTE and target(rule) not in ("", admin):
            admins[target(rule)] = None
    return Hook(
        present=present,
        drops=drops,
        intact=intact,
        closed=closed and intact,
        handles=tuple(handles),
        admins=tuple(admins)[::-1],
    )


def _unwanted(seen: Table, gone: Container[str] = ()) -> list[tuple[str, str]]:
    """The elements that stand for no attachment any more, or for no attachment's policy."""
    wanted = seen.wanted(gone)
    found = [(PODS[":" in address], address) for address in sorted(seen.pods - seen.owners.keys())]
    found += [(BRIDGES, f'"{name}"') for name in sorted(seen.bridges) if name not in wanted]
    found += [(WITHIN, f'"{name}" . "{name}"') for name in sorted(seen.within) if name not in wanted]
    return found + [(CLOSED, f'"{name}"') for name in sorted(seen.closed) if wanted.get(name) != ISOLATED]


def _plain(address: str) -> str:
    return str(ip_address(address))


_RULES = (
    f"meta mark and {BIT:#x} != 0 meta mark set meta mark and {_OTHERS:#x}",
    f"ip saddr @{PODS[False]} {_SET_BIT}",
    f"ip6 saddr @{PODS[True]} {_SET_BIT}",
    f"ct state established,related ip daddr @{PODS[False]} {_SET_BIT}",
    f"ct state established,related ip6 daddr @{PODS[True]} {_SET_BIT}",
    f"ct status dnat ip daddr @{PODS[False]} {_SET_BIT}",
    f"ct status dnat ip6 daddr @{PODS[True]} {_SET_BIT}",
    f"iifname @{CLOSED} oifname @{CLOSED} drop",
    f"iifname . oifname @{WITHIN} accept",
    f"iifname @{BRIDGES} oifname @{BRIDGES} drop",
)

_SKELETON = (
    f"add table {_T}\n"
    f"add set {_T} {SWEEPS} {{ type mark; }}\n"
    f"add map {_T} {OWNERS[False]} {{ type ipv4_addr : mark; }}\n"
    f"add map {_T} {OWNERS[True]} {{ type ipv6_addr : mark; }}\n"
    f"add set {_T} {PODS[False]} {{ type ipv4_addr; }}\n"
    f"add set {_T} {PODS[True]} {{ type ipv6_addr; }}\n"
    + "".join(f"add set {_T} {name} {{ type ifname . mark; }}\n" for name in RECORDS.values())
    + "".join(f"add set {_T} {name} {{ type ifname; }}\n" for name in (BRIDGES, CLOSED))
    + f"add set {_T} {WITHIN} {{ type ifname . ifname; }}\n"
    f"add chain {_WHERE} {{ type filter hook forward priority -10; policy accept; }}\n"
    f"flush chain {_WHERE}\n" + "".join(f"add rule {_WHERE} {rule}\n" for rule in _RULES)
)


# What nft's JSON tells of these rules.
def _match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def _address(v6: bool, field: str) -> dict[str, Any]:
    return _match({"payload": {"protocol": "ip6" if v6 else "ip", "field": field}}, f"@{PODS[v6]}")


_MARK = {"meta": {"key": "mark"}}
_IN, _OUT = {"meta": {"key": "iifname"}}, {"meta": {"key": "oifname"}}
_BIT_IS_SET = {"mangle": {"key": _MARK, "value": {"|": [_MARK, BIT]}}}
_ANSWERS = _match({"ct": {"key": "state"}}, ["established", "related"], "in")
_TRANSLATED = _match({"ct": {"key": "status"}}, "dnat", "in")
_ACCEPTS = [_match({"&": [_MARK, BIT]}, BIT), {"accept": None}]
_PLACE = {"type": "filter", "hook": "forward", "prio": -10, "policy": "accept"}
_CLOSING = {"drop", "reject"}
_EXPECTED = [
    [_match({"&": [_MARK, BIT]}, 0, "!="), {"mangle": {"key": _MARK, "value": {"&": [_MARK, _OTHERS]}}}],
    *([_address(v6, "saddr"), _BIT_IS_SET] for v6 in (False, True)),
    *([_ANSWERS, _address(v6, "daddr"), _BIT_IS_SET] for v6 in (False, True)),
    *([_TRANSLATED, _address(v6, "daddr"), _BIT_IS_SET] for v6 in (False, True)),
    [_match(_IN, f"@{CLOSED}"), _match(_OUT, f"@{CLOSED}"), {"drop": None}],
    [_match({"concat": [_IN, _OUT]}, f"@{WITHIN}"), {"accept": None}],
    [_match(_IN, f"@{BRIDGES}"), _match(_OUT, f"@{BRIDGES}"), {"drop": None}],
]
