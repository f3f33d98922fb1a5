"""PURE. The nftables form of masquerading: table ``inet podwire_masquerade`` as text, and its listing as a record.

    map owners4, owners6    pod address : mark of its owner      the owner's label as comment; no rule uses these
    set pods_<subnet>       pod addresses of that subnet         looked up by
    chain pods_<subnet>     nat postrouting: source in the set, destination neither in the subnet (nor in further ranges that
                            are left alone) nor multicast: masquerade
    set sweeps              tokens of removals of empty parts that are under way

One pod is one element in a map and one in a set, whatever the number of pods. A packet that starts a connection is looked up
once for each *subnet* of the node. Subnets of one address (/32, /128) share a chain.

Why not one verdict map from pod addresses to chains: the kernel validates every element of such a map anew each time
one is added (0.1 ms with few elements, 0.2 ms with 2,000, 2 ms with 20,000), and it has no transaction that replaces
whatever is there. In a set "add, delete, add" always ends the same way. Why the owner's mark is a map's *value*: adding
a key that is there with another value fails, so "add our value, delete the key" deletes our own element or nothing at
all, in one step. Reading the label first would leave a moment in which the address may become another pod's.

``sweeps`` makes removing empty parts safe: a sweep puts a token in before it looks and takes it out as it removes;
every addition empties the set, which makes such a removal fail as a whole. A lock could not promise as much: calls in
several mount namespaces have several lock files for one ruleset, and a call that finds no place for one works all the
same. Where the set is empty, as nearly always, emptying it costs 6 us, and an addition to what is there leaves the kernel
nothing to destroy: whoever closes a socket of nfnetlink waits for that, 7 to 15 ms.

Not built: dropping packets that conntrack calls invalid. They leave without masquerade, as with the reference (P#816).
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import TYPE_CHECKING, Any

import msgspec

from cni.nft.listing import bodies, elements
from cni.spec.addresses import is_v6

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.spec.addresses import Cidr, Ip
    from cni.spec.owner import Owner

    Network = IPv4Network | IPv6Network

TABLE = "podwire_masquerade"
SWEEPS = "sweeps"
PODS = "pods_"
MULTICAST = {False: "224.0.0.0/4", True: "ff00::/8"}
SINGLE = {False: "pods_single4", True: "pods_single6"}

_T = f"inet {TABLE}"
_KEY = {False: "ipv4_addr", True: "ipv6_addr"}
_IP = {False: "ip", True: "ip6"}
OWNERS = {False: "owners4", True: "owners6"}


class Table(msgspec.Struct, frozen=True):
    """The whole table as it was seen: label by address, and addresses by subnet's name."""

    owners: dict[str, str] = {}
    pods: dict[str, tuple[str, ...]] = {}


def subnet_name(cidr: Cidr) -> str:
    """The name of the subnet's set and chain. nft has no colons in names."""
    return _name_of(cidr.network)


@lru_cache(1024)
def _name_of(network: Network) -> str:
    if network.prefixlen == network.max_prefixlen:
        return SINGLE[network.version == 6]
    return PODS + str(network).replace(":", "-")


@lru_cache(1024)
def network_of(name: str) -> Network:
    """The subnet of a set of this name; of those that single addresses share there is none."""
    return ip_network(name[len(PODS) :].replace("-", ":"))


def holds(name: str, address: Ip) -> bool:
    """Whether a set of this name may contain the address."""
    if name in SINGLE.values():
        return name == SINGLE[is_v6(address)]
    return name.startswith(PODS) and address in network_of(name)


def tag(owner: Owner) -> str:
    """The owner's label as an element's comment can carry it: nft's language has no way to write a quotation mark."""
    return owner.label.replace('"', "?")


def mark(label: str) -> int:
    """The 32-bit value that stands for the owner of a label."""
    return int.from_bytes(sha256(label.encode()).digest()[:4], "big")


def add(label: str, cidr: Cidr, inside: tuple[Network, ...] = ()) -> str:
    """Masquerade one pod address, but for what it sends into its subnet and the ranges ``inside``. Fails as Exists when the
    address is another owner's; see ``replace``.
    """
    return _skeleton(cidr.network, inside) + claim(label, cidr)


def claim(label: str, cidr: Cidr) -> str:
    """The same where all but the elements is there; fails as NotFound where it is not. Nothing is removed or renewed."""
    owners = f"{_T} {OWNERS[is_v6(cidr)]}"
    return (
        f"flush set {_T} {SWEEPS}\n"
        f'add element {owners} {{ {cidr.ip} comment "{label}" : {mark(label):#010x} }}\n'
        f"add element {_T} {subnet_name(cidr)} {{ {cidr.ip} }}\n"
    )


def replace(label: str, cidr: Cidr, inside: tuple[Network, ...] = ()) -> str:
    """The same where the address is still recorded for another owner. Fails as NotFound when it is not.

    That one is dead: two living pods of a host cannot have one address, for the host could route to neither.
    """
    return _skeleton(cidr.network, inside) + f"delete element {_T} {OWNERS[is_v6(cidr)]} {{ {cidr.ip} }}\n" + claim(label, cidr)


def remove(label: str, address: Ip, name: str = "") -> str:
    """Forget an address if it is the owner's, in the set named too. Fails as Exists, without effect, when it is another's."""
    owners = f"{_T} {OWNERS[is_v6(address)]}"
    text = f"add element {owners} {{ {address} : {mark(label):#010x} }}\ndelete element {owners} {{ {address} }}\n"
    return text + clear(address, name) if name else text


def clear(address: Ip | str, name: str) -> str:
    """Take an address out of a set, be it there or not."""
    return f"add element {_T} {name} {{ {address} }}\ndelete element {_T} {name} {{ {address} }}\n"


def idle(seen: Table, gone: Iterable[str] = ()) -> bool:
    """Whether a sweep would find something once the addresses ``gone`` are removed."""
    away = set(gone)
    owners = {address: label for address, label in seen.owners.items() if address not in away}
    pods = {name: tuple(address for address in found if address not in away) for name, found in seen.pods.items()}
    empty, strays = _idle(Table(owners, pods))
    return bool(not owners or empty or strays)


def begin_sweep(token: int) -> str:
    """Announce a sweep, before it looks. Fails as NotFound where no table is."""
    return f"add set {_T} {SWEEPS} {{ type mark; }}\nadd element {_T} {SWEEPS} {{ {token:#010x} }}\n"


def end_sweep(listing: list[dict[str, Any]], token: int) -> str:
    """Remove what is empty in the listing, down to the table itself. Fails as NotFound when something was added since."""
    seen = parse_table(listing)
    text = f"delete element {_T} {SWEEPS} {{ {token:#010x} }}\n"
    if not seen.owners:
        return text + f"delete table {_T}\n"
    empty, strays = _idle(seen)
    text += "".join(f"delete element {_T} {name} {{ {address} }}\n" for name, address in strays)
    return text + "".join(f"delete chain {_T} {name}\ndelete set {_T} {name}\n" for name in empty)


def _idle(seen: Table) -> tuple[list[str], list[tuple[str, str]]]:
    """The subnets without owned addresses, and elsewhere the addresses that nobody owns, with their subnets' names."""
    empty = [name for name, found in seen.pods.items() if seen.owners.keys().isdisjoint(found)]
    strays = [(name, a) for name, found in seen.pods.items() if name not in empty for a in found if a not in seen.owners]
    return empty, strays


def parse_table(objects: list[dict[str, Any]]) -> Table:
    """The table from ``list table inet podwire_masquerade``."""
    owners = {
        _plain(key): label
        for body in bodies(objects, "map")
        if body["name"] in OWNERS.values()
        for key, label in elements(body)
    }
    pods = {
        body["name"]: tuple(_plain(key) for key, _ in elements(body))
        for body in bodies(objects, "set")
        if body["name"].startswith(PODS)
    }
    return Table(owners, pods)


def masquerades(name: str, chain: list[dict[str, Any]], inside: tuple[Network, ...] = ()) -> bool:
    """Whether a subnet's chain is hooked into postrouting and has exactly the rule that ``add`` writes."""
    hooked = any(body.get("hook") == "postrouting" and body.get("type") == "nat" for body in bodies(chain, "chain"))
    return hooked and [_comparable(body["expr"]) for body in bodies(chain, "rule")] == [_expected(name, inside)]


@lru_cache(1024)
def _skeleton(network: Network, inside: tuple[Network, ...]) -> str:
    """Everything but the elements. ``add`` of what is there does nothing, and rules are renewed: the same text always fits."""
    v6 = network.version == 6
    name, ip = _name_of(network), _IP[v6]
    alone = _left_alone(name, inside)
    ranges = f"{{ {', '.join(map(str, alone))} }}" if len(alone) > 1 else "".join(map(str, alone))
    outside = f" {ip} daddr != {ranges}" if alone else ""
    return (
        f"add table {_T}\n"
        f"add set {_T} {SWEEPS} {{ type mark; }}\n"
        f"add map {_T} {OWNERS[v6]} {{ type {_KEY[v6]} : mark; }}\n"
        f"add set {_T} {name} {{ type {_KEY[v6]}; }}\n"
        f"add chain {_T} {name} {{ type nat hook postrouting priority srcnat; policy accept; }}\n"
        f"flush chain {_T} {name}\n"
        f"add rule {_T} {name} {ip} saddr @{name}{outside} {ip} daddr != {MULTICAST[v6]} masquerade\n"
    )


@lru_cache(1024)
def _expected(name: str, inside: tuple[Network, ...]) -> list[dict[str, Any]]:
    v6 = name == SINGLE[True] if name in SINGLE.values() else network_of(name).version == 6
    alone = _left_alone(name, inside)
    expressions = [_compare("==", v6, "saddr", "@" + name)]
    expressions += [_compare("!=", v6, "daddr", _spans(map(_span, alone)))] if alone else []
    expressions.append(_compare("!=", v6, "daddr", _spans([_span(ip_network(MULTICAST[v6]))])))
    return [*expressions, {"masquerade": None}]


def _left_alone(name: str, inside: tuple[Network, ...]) -> list[Network]:
    """The destinations of a subnet's pods that are not masqueraded: ranges that do not overlap, the subnet among them. Pods of
    single addresses share a chain, which has none.
    """
    if name in SINGLE.values():
        return []
    own = network_of(name)
    if isinstance(own, IPv4Network):
        return list(collapse_addresses([own, *(other for other in inside if isinstance(other, IPv4Network))]))
    return list(collapse_addresses([own, *(other for other in inside if isinstance(other, IPv6Network))]))


def _comparable(expressions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A rule with the ranges of its comparisons in one form: nft tells neighbours of a set apart or as one, as it pleases."""
    told = []
    for expression in expressions:
        match = expression.get("match")
        right = match.get("right") if isinstance(match, dict) else None
        if isinstance(match, dict) and isinstance(right, dict):
            told.append({"match": {**match, "right": _spans(map(_span_of, right.get("set", [right])))}})
        else:
            told.append(expression)
    return told


def _span_of(part: Any) -> tuple[int, int]:
    """First and last address of a part of a comparison, as nft's JSON has it; nothing of ours when it is something else."""
    if isinstance(part, dict) and "prefix" in part:
        return _prefix(f"{part['prefix']['addr']}/{part['prefix']['len']}")
    if isinstance(part, dict) and "range" in part:
        low, high = part["range"]
        return int(ip_address(low)), int(ip_address(high))
    try:
        return _span(ip_network(part))
    except ValueError:
        return -1, -1


@lru_cache(1024)
def _prefix(text: str) -> tuple[int, int]:
    """Those of a prefix. The same few are read at every ADD."""
    return _span(ip_network(text))


def _span(network: Network) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)


def _spans(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, those that touch as one."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def _compare(op: str, v6: bool, field: str, right: Any) -> dict[str, Any]:
    return {"match": {"op": op, "left": {"payload": {"protocol": _IP[v6], "field": field}}, "right": right}}


def _plain(address: str) -> str:
    """An address in the one form that Python prints."""
    return str(ip_address(address))
