"""PURE. Published ports in nftables: table ``inet podwire_portmap`` as text, and its listing as a record.

    map claims4, claims6   host address . protocol . port : mark of its owner   the owner's label as comment; no rule uses these
    map pods4, pods6       pod address : mark of its owner                      likewise
    map owners             owner : mark of all that it has                      likewise
    map ports4, ports6     protocol . port : pod address . port                 at any address of the host
    map hosts4, hosts6     host address . protocol . port : pod address . port  at one address of it
    set snat4, snat6       pods that are masqueraded to when they could not answer otherwise: what comes from their own subnet,
                           from themselves or from 127.0.0.0/8; the subnet as comment
    set near4, near6       subnet . subnet: the subnets that such pods are in
    set self4, self6       address . address of those that are in none (/32, /128)
    set any4, any6         pods that everything is masqueraded to (masqAll)
    set localnet           interfaces on which the kernel was told to take packets for 127.0.0.0/8 (route_localnet)
    set sweeps             tokens of removals of empty parts that are under way, as in ``cni.nft.masq``
    chain ports            the lookups; chains prerouting and output lead there what is for an address of the host
    chain postrouting      masquerade
    chain guard            what comes for or from 127.0.0.0/8 through a link of localnet is dropped, as without route_localnet

A port is an element here, not a rule: packets are looked up in the same time whatever the number of ports, and one transaction
of elements alone publishes all ports of a pod. ``claims`` is why two pods never have one port: adding a key that is there with
another value fails. ``owners`` is why an ADD or a DEL that speaks of other ports than the ADD before fails, too, and looks.
The comment of an element of ``ports`` names the link that shows whether its pod is alive.

Conditions are part of where a lookup happens, so ports with conditions have chains and maps of their own, by a hash of them
(``Conditions.suffix``). One network's conditions are no other's (the reference's are everybody's).

What comes back by the way it went needs no masquerade; a pod's answer to a neighbour would not, so ``near`` is needed.
Ranges are in one small set, and not beside each pod: the kernel copies a set of ranges for each change, 6 ms with 1,000.
"""

from __future__ import annotations

from hashlib import sha256
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import msgspec

from cni.nft.listing import bodies, entries
from cni.nft.masq import SWEEPS, mark
from cni.nft.ops import witnessed
from cni.nft.ports_rules import Conditions, chains
from cni.spec.addresses import Cidr, Ip, is_v6, parse_cidr, parse_ip
from cni.spec.errors import CNIError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TABLE = "podwire_portmap"

_T = f"inet {TABLE}"
LISTING = f"list table {_T}"

ANYWHERE: dict[bool, Ip] = {False: parse_ip("0.0.0.0"), True: parse_ip("::")}

_ADDRESS = {False: "ipv4_addr", True: "ipv6_addr"}
_V = {False: "4", True: "6"}
_FAMILIES = (False, True)

# nft tells a protocol by its number, or by its name.
_PROTOCOL = {6: "tcp", 17: "udp", 132: "sctp"}

# Sets of addresses that an owner of a pod's address has there.
_OF_PODS = ("snat", "any")


class Port(msgspec.Struct, frozen=True, order=True):
    """A port of the host, at one of its addresses or ANYWHERE."""

    host: Ip
    protocol: str
    number: int

    def __str__(self) -> str:
        at = "" if self.host.is_unspecified else f" of {self.host}"
        return f"port {self.number}/{self.protocol}{at}"


class Mapping(msgspec.Struct, frozen=True):
    """A port of the host and the port of a pod that it leads to."""

    port: Port
    pod: Ip
    pod_port: int


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """All that is published of an attachment.

    pods: addresses that ports lead to, with the length of their subnet. interface: the link that leads to the pod, where
    127.0.0.0/8 has to be let in; or empty. own: a link that may be that one and goes with the pod. witness: the link that shows
    that the pod is alive, or empty.
    """

    mappings: tuple[Mapping, ...]
    pods: tuple[Cidr, ...] = ()
    conditions: Conditions = Conditions()
    snat: bool = True
    masq_all: bool = False
    interface: str = ""
    own: str = ""
    witness: str = ""

    @property
    def content(self) -> int:
        """A number for all that an owner has in the table but for links, which DEL may not know any more."""
        told = (self.mappings, self.pods, self.conditions, self.snat, self.masq_all)
        return int.from_bytes(sha256(repr(told).encode()).digest()[:4], "big")


class Lead(msgspec.Struct, frozen=True):
    """Where a port leads by a map of ours: pod and port, the witness, and the suffix of the map's name."""

    pod: Ip
    pod_port: int
    witness: str
    suffix: str


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """The whole table as it was seen. Owners are told by their labels, in ``owners`` with the number for what they have."""

    claims: dict[Port, str] = {}
    leads: dict[Port, tuple[Lead, ...]] = {}
    pods: dict[Ip, str] = {}
    owners: dict[str, int] = {}
    sets: dict[str, frozenset[Ip]] = {}
    subnets: dict[Ip, str] = {}
    near: tuple[Any, ...] = ()
    localnet: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()


def claim(label: str, wanted: Published) -> str:
    """Publish; only the elements. Fails as NotFound where the rest of the table is not there, as Exists when another owner has
    one of the ports or addresses, or this one has any.
    """
    owner = f"create element {_owner_of(label, wanted.content)}"
    return "\n".join([f"flush set {_T} {SWEEPS}", owner, *_subnets(wanted), *_elements(label, wanted), ""])


def remove(label: str, wanted: Published) -> str:
    """Take back ``claim``, all in one. Fails as Exists or NotFound when something is another's, or not there."""
    text = _forget_owner(label, wanted.content)
    text += "".join(_forget_pod(label, pod.ip) for pod in wanted.pods)
    text += "".join(_forget_port(label, mapping.port, [wanted.conditions.suffix]) for mapping in wanted.mappings)
    return text + (close(wanted.own) if wanted.own else "")


def take(label: str, wanted: Published, listing: list[dict[str, Any]], alive: Callable[[str], bool]) -> str:
    """Publish, whatever the listing shows. What is an earlier call's of the owner is replaced, and what is a dead
    attachment's goes: one whose witness is not there any more, or unknown, and which has an address that is this pod's now. A
    port that the same container has on another network stays there: runtimes ask for it on each.

    CNIError names the owner of a port or address who is alive, and of a port also one of whom nothing is known.
    """
    seen = parse_table(listing)
    witnesses: dict[str, set[str]] = {}
    for port, leads in seen.leads.items():
        witnesses.setdefault(seen.claims.get(port, ""), set()).update(lead.witness for lead in leads)
    out = {label} if label in (*witnesses, *seen.claims.values(), *seen.pods.values(), *seen.owners) else set()
    for pod in wanted.pods:
        holder = seen.pods.get(pod.ip, label)
        if holder not in out and any(one and alive(one) for one in witnesses.get(holder, ())):
            raise CNIError(
                f"address {pod.ip} is another attachment's, {holder}", "correct the ranges of the two networks, or DEL it"
            )
        out |= {holder} if pod.ip in seen.pods else set()
    elsewhere = []
    for mapping in wanted.mappings:
        holder = seen.claims.get(mapping.port, label)
        if holder in out or holder == label:
            continue
        dead = all(one and not alive(one) for one in witnesses.get(holder, {""}))
        if same_container(holder, label) and not dead:
            elsewhere.append(mapping)
            continue
        if not dead:
            lead = next((f"it leads to {lead.pod} port {lead.pod_port}; " for lead in seen.leads.get(mapping.port, ())), "")
            told = f"{lead}choose another port, or DEL that attachment"
            raise CNIError(f"{mapping.port} of the host is published already, by {holder}", told)
        out.add(holder)
    wanted = msgspec.structs.replace(wanted, mappings=tuple(m for m in wanted.mappings if m not in elsewhere))
    near = [subnet for subnet in _near(wanted) if not any(contains(other, subnet) for other in seen.near)]
    covered = [other for other in seen.near if any(contains(subnet, other) for subnet in near)]
    text = "".join(forget(gone, seen) for gone in sorted(out)) + skeleton(wanted.conditions)
    text += "".join(f"delete element {_near_set(other)} {{ {other} . {other} }}\n" for other in covered)
    lines = [line for line in _subnets(wanted) if not any(str(other) in line for other in _near(wanted) if other not in near)]
    owner = f"add element {_owner_of(label, wanted.content)}"
    return text + "\n".join([owner, *lines, *_elements(label, wanted), ""])


def put_back(label: str, before: list[dict[str, Any]], listing: list[dict[str, Any]]) -> str:
    """Have the owner what it had in an earlier listing, and nothing else."""
    seen = parse_table(before)
    text = forget(label, parse_table(listing))
    if label not in seen.owners:
        return text
    found = {port: seen.leads[port][0] for port, holder in seen.claims.items() if holder == label and port in seen.leads}
    pods = [pod for pod, holder in seen.pods.items() if holder == label]
    links = {witnessed(lead.witness)[1] for lead in found.values()}.intersection(seen.localnet)
    wanted = Published(
        mappings=tuple(Mapping(port, lead.pod, lead.pod_port) for port, lead in found.items()),
        pods=tuple(_in_subnet(pod, seen.subnets.get(pod, "")) for pod in pods),
        snat=any(pod in addresses for pod in pods for addresses in seen.sets.values()),
        masq_all=any(pod in seen.sets[name] for pod in pods for name in ("any4", "any6")),
        interface=next(iter(links), ""),
        witness=next((lead.witness for lead in found.values()), ""),
    )
    owner = f"add element {_owner_of(label, seen.owners[label])}"
    suffix = next((lead.suffix for lead in found.values()), "")
    return text + "\n".join([f"flush set {_T} {SWEEPS}", owner, *_elements(label, wanted, suffix), ""])


def forget(label: str, seen: Table) -> str:
    """Remove all that is the owner's in the table; empty when nothing is."""
    ports = [port for port, holder in seen.claims.items() if holder == label]
    owner = f"delete element {_T} owners {{ {_owner(label)} }}\n" if label in seen.owners else ""
    links = {witnessed(lead.witness)[1] for port in ports for lead in seen.leads.get(port, ())}
    text = owner + "".join(close(link) for link in sorted(links.intersection(seen.localnet)))
    text += "".join(_forget_pod(label, pod) for pod, holder in seen.pods.items() if holder == label)
    return text + "".join(_forget_port(label, port, [lead.suffix for lead in seen.leads.get(port, ())]) for port in ports)


def skeleton(conditions: Conditions) -> str:
    """Everything but the elements. ``add`` of what is there does nothing, and rules are renewed: the same text always fits."""
    suffix = conditions.suffix
    lines = [f"add table {_T}", f"add set {_T} {SWEEPS} {{ type mark; }}", f"flush set {_T} {SWEEPS}"]
    lines.append(f"add set {_T} localnet {{ type ifname; }}")
    lines.append(f"add map {_T} owners {{ type mark . mark : mark; }}")
    for v6 in _FAMILIES:
        v, address = _V[v6], _ADDRESS[v6]
        lines += [
            f"add map {_T} claims{v} {{ type {address} . inet_proto . inet_service : mark; }}",
            f"add map {_T} pods{v} {{ type {address} : mark; }}",
            f"add map {_T} ports{v}{suffix} {{ type inet_proto . inet_service : {address} . inet_service; }}",
            f"add map {_T} hosts{v}{suffix} {{ type {address} . inet_proto . inet_service : {address} . inet_service; }}",
            f"add set {_T} snat{v} {{ type {address}; }}",
            f"add set {_T} any{v} {{ type {address}; }}",
            f"add set {_T} self{v} {{ type {address} . {address}; }}",
            f"add set {_T} near{v} {{ type {address} . {address}; flags interval; }}",
        ]
    for name, (hook, rules) in chains(conditions).items():
        lines += [f"add chain {_T} {name}" + (f" {{ {hook} }}" if hook else ""), f"flush chain {_T} {name}"]
        lines += [f"add rule {_T} {name} {rule.words}" for rule in rules]
    return "\n".join([*lines, ""])


def parse_table(objects: list[dict[str, Any]]) -> Table:
    """The table from ``list table inet podwire_portmap``."""
    claims: dict[Port, str] = {}
    pods: dict[Ip, str] = {}
    leads: dict[Port, list[Lead]] = {}
    suffixes: list[str] = []
    owners: dict[str, int] = {}
    for body in bodies(objects, "map"):
        kind, v, suffix = _name_of(body["name"])
        if body["name"] == "owners":
            owners |= {comment: int(content) for _, comment, content in entries(body)}
        elif kind == "claims":
            claims |= {_port(*key): comment for key, comment, _ in entries(body)}
        elif kind == "pods":
            pods |= {ip_address(key): comment for key, comment, _ in entries(body)}
        elif kind in ("ports", "hosts"):
            suffixes.append(suffix)
            for key, comment, (pod, pod_port) in entries(body):
                port = _port(*key) if kind == "hosts" else _port(ANYWHERE[v == "6"], *key)
                leads.setdefault(port, []).append(Lead(ip_address(pod), int(pod_port), comment, suffix))
    sets = {body["name"]: [key for key, _, _ in entries(body)] for body in bodies(objects, "set")}
    snat = [entry for body in bodies(objects, "set") if body["name"][:-1] == "snat" for entry in entries(body)]
    return Table(
        claims=claims,
        leads={port: tuple(found) for port, found in leads.items()},
        pods=pods,
        owners=owners,
        subnets={ip_address(key): comment for key, comment, _ in snat if comment},
        sets={name + v: frozenset(map(ip_address, sets.get(name + v, ()))) for name in _OF_PODS for v in _V.values()}
        | {"self" + v: frozenset(ip_address(key[0]) for key in sets.get("self" + v, ())) for v in _V.values()},
        near=tuple(ip_network(key[0]) for v in _V.values() for key in sets.get("near" + v, ())),
        localnet=tuple(sets.get("localnet", ())),
        suffixes=tuple(dict.fromkeys(suffixes)),
    )


def begin_sweep(token: int) -> str:
    """Announce a sweep, before it looks. Fails as NotFound where no table is."""
    return f"add set {_T} {SWEEPS} {{ type mark; }}\nadd element {_T} {SWEEPS} {{ {token:#010x} }}\n"


def end_sweep(listing: list[dict[str, Any]], token: int, there: Callable[[str], bool]) -> str:
    """Remove what is of no use in the listing, down to the table itself. Fails as NotFound when something was added since.

    ``there`` says whether the host has an interface, by now: one that does takes packets for 127.0.0.0/8, and stays guarded.
    """
    seen = parse_table(listing)
    text = f"delete element {_T} {SWEEPS} {{ {token:#010x} }}\n"
    guarded = [name for name in seen.localnet if there(name)]
    if not (seen.claims or seen.pods or guarded):
        return text + f"delete table {_T}\n"
    text += "".join(close(name) for name in seen.localnet if name not in guarded)
    held = {*seen.claims.values(), *seen.pods.values()}
    text += "".join(f"delete element {_T} owners {{ {_owner(label)} }}\n" for label in seen.owners if label not in held)
    for port, leads in seen.leads.items():
        text += "".join(_delete_lead(port, lead.suffix) for lead in leads if port not in seen.claims)
    strays = {address for found in seen.sets.values() for address in found if address not in seen.pods}
    text += "".join(_out_of_sets(address) for address in sorted(strays, key=str))
    ranges = {ip_network(subnet) for pod, subnet in seen.subnets.items() if pod in seen.pods}
    widest = {one for one in ranges if not any(one != other and contains(other, one) for other in ranges)}
    for verb, some in (("delete", set(seen.near) - widest), ("add", widest - set(seen.near))):
        text += "".join(f"{verb} element {_near_set(one)} {{ {one} . {one} }}\n" for one in sorted(some, key=str))
    used = {lead.suffix for port, leads in seen.leads.items() if port in seen.claims for lead in leads}
    for suffix in seen.suffixes:
        if suffix and suffix not in used:
            names = [f"prerouting{suffix}", f"output{suffix}", f"ports{suffix}"]
            text += "".join(f"flush chain {_T} {name}\ndelete chain {_T} {name}\n" for name in names)
            text += "".join(f"delete map {_T} {kind}{v}{suffix}\n" for kind in ("ports", "hosts") for v in _V.values())
    return text


def close(interface: str) -> str:
    """Forget an interface that is not there any more, or not for long."""
    element = f'{_T} localnet {{ "{interface}" }}'
    return f"add element {element}\ndelete element {element}\n"


def _elements(label: str, wanted: Published, suffix: str | None = None) -> list[str]:
    owner, suffix = f"{mark(label):#010x}", wanted.conditions.suffix if suffix is None else suffix
    lines = [f'add element {_T} localnet {{ "{wanted.interface}" }}'] if wanted.interface else []
    for pod in wanted.pods:
        v = _V[is_v6(pod)]
        lines.append(f'add element {_T} pods{v} {{ {pod.ip} comment "{label}" : {owner} }}')
        if wanted.snat and wanted.masq_all:
            lines.append(f"add element {_T} any{v} {{ {pod.ip} }}")
        elif wanted.snat:
            subnet = "" if _alone(pod) else f' comment "{pod.network}"'
            lines.append(f"add element {_T} snat{v} {{ {pod.ip}{subnet} }}")
            if _alone(pod):
                lines.append(f"add element {_T} self{v} {{ {pod.ip} . {pod.ip} }}")
    witness = f' comment "{wanted.witness}"' if wanted.witness else ""
    for mapping in wanted.mappings:
        port, v = mapping.port, _V[is_v6(mapping.pod)]
        lines.append(f'add element {_T} claims{v} {{ {_claim_key(port)} comment "{label}" : {owner} }}')
        lines.append(f"add element {_lead(port, suffix)}{witness} : {mapping.pod} . {mapping.pod_port} }}")
    return lines


def _subnets(wanted: Published) -> list[str]:
    return [f"add element {_near_set(subnet)} {{ {subnet} . {subnet} }}" for subnet in _near(wanted)]


def _near(wanted: Published) -> list[Any]:
    if not wanted.snat or wanted.masq_all:
        return []
    return list(dict.fromkeys(pod.network for pod in wanted.pods if not _alone(pod)))


def _near_set(network: Any) -> str:
    return f"{_T} near{network.version}"


def _alone(pod: Cidr) -> bool:
    """Whether a pod has no neighbours: its subnet is itself, or so wide that it is none."""
    return pod.network.prefixlen in (0, pod.max_prefixlen)


def _in_subnet(pod: Ip, subnet: str) -> Cidr:
    return parse_cidr(f"{pod}/{subnet.partition('/')[2] or pod.max_prefixlen}")


def contains(network: Any, other: Any) -> bool:
    """Whether a range is within another."""
    return bool(network.version == other.version and other.subnet_of(network))


def _claim_key(port: Port) -> str:
    return f"{port.host} . {port.protocol} . {port.number}"


def _lead(port: Port, suffix: str) -> str:
    """The beginning of a port's element where it leads to its pod."""
    v = port.host.version
    if port.host.is_unspecified:
        return f"{_T} ports{v}{suffix} {{ {port.protocol} . {port.number}"
    return f"{_T} hosts{v}{suffix} {{ {_claim_key(port)}"


def _delete_lead(port: Port, suffix: str) -> str:
    return f"delete element {_lead(port, suffix)} }}\n"


def _owner(label: str) -> str:
    """The owner of a label as a key; 64 bits, so that no two of them are ever the same."""
    digest = sha256(label.encode()).hexdigest()
    return f"0x{digest[:8]} . 0x{digest[8:16]}"


def _owner_of(label: str, content: int) -> str:
    """The element of an owner with the number for all that it has."""
    return f'{_T} owners {{ {_owner(label)} comment "{label}" : {content:#010x} }}'


def _forget_owner(label: str, content: int) -> str:
    """Adding what the owner has fails when that was something else."""
    element = f"{_T} owners {{ {_owner(label)}"
    return f"add element {element} : {content:#010x} }}\ndelete element {element} }}\n"


def same_container(one: str, other: str) -> bool:
    """Whether two labels are of two attachments of a container. What was hashed does not tell."""
    parts = [label.split("/") for label in (one, other)]
    return one != other and all(len(part) == 4 for part in parts) and parts[0][2] == parts[1][2]


def udp_ports(label: str, seen: Table) -> list[Port]:
    """The UDP ports that are the owner's."""
    return [port for port, holder in seen.claims.items() if holder == label and port.protocol == "udp"]


def _forget_port(label: str, port: Port, suffixes: Iterable[str]) -> str:
    """Adding the owner's mark fails when the port is another's."""
    claims = f"{_T} claims{port.host.version}"
    text = f"add element {claims} {{ {_claim_key(port)} : {mark(label):#010x} }}\n"
    text += f"delete element {claims} {{ {_claim_key(port)} }}\n"
    return text + "".join(_delete_lead(port, suffix) for suffix in suffixes)


def _forget_pod(label: str, pod: Ip) -> str:
    pods = f"{_T} pods{pod.version}"
    text = f"add element {pods} {{ {pod} : {mark(label):#010x} }}\ndelete element {pods} {{ {pod} }}\n"
    return text + _out_of_sets(pod)


def _out_of_sets(pod: Ip) -> str:
    """Take an address out of every set, be it there or not."""
    keys = [*(f"{name}{pod.version} {{ {pod} }}" for name in _OF_PODS), f"self{pod.version} {{ {pod} . {pod} }}"]
    return "".join(f"add element {_T} {key}\ndelete element {_T} {key}\n" for key in keys)


def _name_of(name: str) -> tuple[str, str, str]:
    """Kind, family's digit and suffix of a map's name."""
    plain, underscore, suffix = name.partition("_")
    return plain[:-1], plain[-1:], underscore + suffix


def _port(host: Any, protocol: Any, number: Any) -> Port:
    known = _PROTOCOL.get(int(protocol)) if str(protocol).isdecimal() else str(protocol)
    return Port(ip_address(host) if isinstance(host, str) else host, known or str(protocol), int(number))
