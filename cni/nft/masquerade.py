"""Masquerading of pod addresses, as plugins use it: ``look`` at what is there, then plan or check. All but the looking is pure.

A packet from a pod to a destination outside the pod's own subnet, not multicast, leaves with the address of the host.
Two backends, ``nftables`` (``cni.nft.masq``) and ``iptables`` (``cni.nft.masq_iptables``); DEL and GC remove what
either left, and what the Go plugins left (``cni.nft.reference``), whatever the configuration says now.

With the nftables backend no process is started, and one address costs one transaction for ADD and one for DEL, whatever the
number of pods. Where ADD sees that a subnet's part of the table is as it should be, its transaction only adds elements.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

import msgspec

from cni.nft import masq, masq_iptables, reference
from cni.nft.listing import bodies, elements
from cni.nft.masq import TABLE, Table
from cni.nft.masq_iptables import NatChain
from cni.nft.ops import RunIptables, RunNft, Sweep
from cni.nft.reference import MasqRule
from cni.spec.addresses import Cidr, is_v6, parse_cidr
from cni.spec.owner import of_network

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.nft.readers import RuleReaders
    from cni.spec.owner import Owner

Plan = list[RunNft | RunIptables | Sweep]
Network = IPv4Network | IPv6Network


LISTING = f"list table inet {TABLE}"
SWEEP = Sweep(
    what=f"remove what is empty in nftables table {TABLE}", begin=masq.begin_sweep, listing=LISTING, end=masq.end_sweep
)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. Parts that the verb does not need stay at their defaults.

    addresses: the attachment's. inside: ranges that are left alone beside their subnets. sets: names of our sets.
    labels: owner's label by address; members: addresses that are in their subnet's set; intact: subnets whose rule is as it
    should be. table: all of our table, where a search was needed.
    """

    addresses: tuple[Cidr, ...] = ()
    inside: tuple[Network, ...] = ()
    sets: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    members: frozenset[str] = frozenset()
    intact: frozenset[str] = frozenset()
    table: Table | None = None
    chains: tuple[NatChain, ...] = ()
    masq_rules: tuple[MasqRule, ...] = ()


def subnets(host: RuleReaders, addresses: Iterable[Cidr], ranges: Iterable[Network], seen: bool) -> tuple[Cidr, ...]:
    """Addresses with the length of the range that they are of: the narrowest of ``ranges``, else as they are. With ``seen``
    (CHECK) one that stands alone is given the length of the subnet that our table has it in.
    """
    listed, found = sorted(ranges, key=lambda network: -network.prefixlen), []
    for address in addresses:
        home = next((network for network in listed if address.ip in network), address.network)
        if home.prefixlen == home.max_prefixlen and seen:
            names = (name for name in _look_sets(host, False) if name.startswith(masq.PODS) and masq.holds(name, address.ip))
            inside = (name for name in names if host.nft.query(f"get element inet {TABLE} {name} {{ {address.ip} }}"))
            home = next((masq.network_of(name) for name in inside if name not in masq.SINGLE.values()), home)
        found.append(parse_cidr(f"{address.ip}/{home.prefixlen}"))
    return tuple(found)


def look(
    host: RuleReaders,
    owner: Owner,
    addresses: tuple[Cidr, ...],
    wanted: bool,
    backend: str,
    verb: str = "",
    inside: tuple[Network, ...] = (),
) -> Facts:
    """Read what a verb needs; without ``verb`` all of it. ``inside`` are ranges that are left alone beside the subnets.

    ADD is content with what was so lately: its plan has an answer to whatever it meets. All others must see what is there.

    ``wanted`` says that the configuration asks for masquerade: without it ADD and CHECK read nothing, and DEL reads
    only whether something can be there. DEL searches our whole table only when no address is known. What is empty then is
    left to GC.
    """
    facts = Facts(addresses=addresses, inside=inside)
    if verb in ("ADD", "CHECK") and not wanted:
        return facts
    if verb == "ADD" and backend == "iptables":
        return msgspec.structs.replace(facts, chains=reference.look_chains(host, owner))
    lately = verb == "ADD"
    facts = msgspec.structs.replace(facts, sets=_look_sets(host, lately))
    if verb == "ADD":
        return msgspec.structs.replace(facts, intact=_look_intact(host, facts, lately))
    if verb != "DEL" and wanted:
        facts = _look_elements(host, facts)
        if verb == "CHECK" and not _problems_of_ours(owner, addresses, facts):
            return facts
    search = verb != "CHECK" and bool(facts.sets) and not addresses
    return msgspec.structs.replace(
        facts,
        table=_look_table(host) if search else None,
        chains=reference.look_chains(host, owner),
        masq_rules=reference.look_masq_rules(host),
    )


def plan_add(owner: Owner, addresses: tuple[Cidr, ...], backend: str, facts: Facts) -> Plan:
    """Masquerade the attachment's addresses. Repeating it changes nothing; an element of a dead owner is replaced."""
    addresses = tuple(address for address in addresses if address.network.prefixlen)
    if backend == "iptables":
        return [step for v6 in (False, True) for step in _add_iptables(owner, addresses, v6, facts)]
    plan: Plan = []
    tag = masq.tag(owner)
    for address in addresses:
        name = masq.subnet_name(address)
        others = [subnet for subnet in facts.sets if subnet != name and masq.holds(subnet, address.ip)]
        plan += [
            RunNft(text=masq.clear(address.ip, other), what=f"forget {address.ip} in {other}, which contains it", yields=True)
            for other in others
        ]
        ready = masq.SWEEPS in facts.sets and name in facts.intact
        plan.append(
            RunNft(
                text=masq.claim(tag, address) if ready else masq.add(tag, address, facts.inside),
                exists=masq.replace(tag, address, facts.inside),
                missing=masq.add(tag, address, facts.inside),
                undo=masq.remove(tag, address.ip, name),
                what=f"masquerade {address.ip} outside {address.network}",
            )
        )
    return plan


def plan_del(owner: Owner, facts: Facts) -> Plan:
    """Remove everything of the attachment, in every form. What is another's stays, even for the same address."""
    tag = masq.tag(owner)
    mine = {address.ip for address in facts.addresses}
    seen = facts.table or Table()
    mine |= {ip_address(address) for address, label in seen.owners.items() if label == tag}
    plan: Plan = []
    for address in sorted(mine, key=str):
        subnets = [name for name in facts.sets if masq.holds(name, address)]
        if subnets:
            plan += _forget(tag, str(address), subnets)
    known = [address for address, label in seen.owners.items() if label == tag]
    if known:
        plan += _sweep(seen, known)
    sources = [str(address.ip) for address in facts.addresses]
    plan += [step for chain in facts.chains if (step := reference.remove_chain(chain, sources)) is not None]
    prefix = reference.masq_comment(owner)
    plan += reference.remove_masq_rules(rule for rule in facts.masq_rules if rule.comment.startswith(prefix))
    return plan


def check(owner: Owner, addresses: tuple[Cidr, ...], backend: str, facts: Facts) -> list[str]:
    """A line for each address that is not masqueraded. Either backend satisfies, and so do the Go plugins' rules."""
    problems = []
    for address in addresses:
        told = _problems_of_ours(owner, (address,), facts)
        if told and not _by_chain(address, facts) and not _by_masq_rule(owner, address, facts):
            missing = f"{address.ip} is not masqueraded: no rules in iptables chain"
            chain = masq_iptables.chain_name(owner.network, owner.container_id)
            problems += [f"{missing} {chain}"] if backend == "iptables" else told
    return problems


def look_gc(host: RuleReaders) -> Facts:
    """Everything that GC judges, of all networks."""
    objects = host.nft.query(LISTING)
    return Facts(
        sets=tuple(body["name"] for body in bodies(objects, "set")),
        table=masq.parse_table(objects) if objects else None,
        chains=reference.look_all_chains(host),
        masq_rules=reference.look_masq_rules(host),
    )


def gc(network: str, keep: frozenset[Owner], facts: Facts) -> Plan:
    """Remove what belongs to the network and to no attachment of ``keep``, and then what is empty."""
    seen = facts.table or Table()
    kept = {masq.tag(owner) for owner in keep}
    gone = [address for address, label in seen.owners.items() if of_network(label, network) and label not in kept]
    plan: Plan = []
    for address in gone:
        subnets = [name for name in facts.sets if masq.holds(name, ip_address(address))]
        plan += _forget(seen.owners[address], address, subnets)
    if facts.table is not None:
        plan += _sweep(seen, gone)
    names = (masq_iptables.chain_name(network, owner.container_id) for owner in keep)
    stale = reference.stale_chains(facts.chains, network, names)
    plan += [step for chain in stale if (step := reference.remove_chain(chain)) is not None]
    return plan + reference.remove_masq_rules(reference.stale_masq_rules(facts.masq_rules, network, keep))


def plan_gc(host: RuleReaders, network: str, keep: frozenset[Owner]) -> Plan:
    """Look and decide for GC."""
    return gc(network, keep, look_gc(host))


def _look_table(host: RuleReaders) -> Table:
    return masq.parse_table(host.nft.query(LISTING))


def _look_sets(host: RuleReaders, lately: bool) -> tuple[str, ...]:
    return tuple(body["name"] for body in bodies(host.nft.sets("inet", lately), "set") if body["table"] == TABLE)


def _look_intact(host: RuleReaders, facts: Facts, lately: bool = False) -> frozenset[str]:
    """Those of the addresses' subnets whose rule is as it should be."""
    names = dict.fromkeys(masq.subnet_name(address) for address in facts.addresses)
    there = [name for name in names if name in facts.sets]
    return frozenset(
        name for name in there if masq.masquerades(name, host.nft.chain(f"inet {TABLE} {name}", lately), facts.inside)
    )


def _look_elements(host: RuleReaders, facts: Facts) -> Facts:
    labels, members = {}, set()
    for address in facts.addresses:
        name = masq.subnet_name(address)
        if name not in facts.sets:
            continue
        found = host.nft.query(f"get element inet {TABLE} {masq.OWNERS[is_v6(address)]} {{ {address.ip} }}")
        labels.update({str(address.ip): label for body in bodies(found, "map") for _, label in elements(body)})
        if host.nft.query(f"get element inet {TABLE} {name} {{ {address.ip} }}"):
            members.add(str(address.ip))
    intact = _look_intact(host, facts) if members else frozenset[str]()
    return msgspec.structs.replace(facts, labels=labels, members=frozenset(members), intact=intact)


def _forget(label: str, address: str, subnets: list[str]) -> list[RunNft]:
    """One transaction for each set: one that was swept since it was seen keeps nothing else from going."""
    ip = ip_address(address)
    return [
        RunNft(
            text=masq.remove(label, ip, name),
            missing=masq.remove(label, ip),
            what=f"end the masquerade of {address}",
            yields=True,
        )
        for name in subnets or [""]
    ]


def _sweep(seen: Table, gone: Iterable[str]) -> list[Sweep]:
    return [SWEEP] if masq.idle(seen, gone) else []


def _add_iptables(owner: Owner, addresses: tuple[Cidr, ...], v6: bool, facts: Facts) -> Plan:
    mine = tuple(address for address in addresses if is_v6(address) is v6)
    if not mine:
        return []
    sources = [str(address.ip) for address in mine]
    plan: Plan = []
    accepts = [str(network) for network in facts.inside if (network.version == 6) is v6]
    others: list[str] = []
    for chain in facts.chains:
        if chain.v6 is v6:
            step = reference.remove_chain(chain, sources)
            plan += [step] if step is not None else []
            if any(jump.source not in sources for jump in chain.jumps):
                others += chain.accepts
    names = owner.network, owner.container_id
    setup = RunIptables(
        v6=v6,
        text=masq_iptables.setup(*names, mine, v6, [*accepts, *others]),
        undo=masq_iptables.teardown(*names, mine, whole=not others),
        what=f"masquerade {', '.join(sources)} by iptables chain {masq_iptables.chain_name(*names)}",
    )
    return [*plan, setup]


def _problems_of_ours(owner: Owner, addresses: Iterable[Cidr], facts: Facts) -> list[str]:
    problems = []
    for address in addresses:
        ip, name = str(address.ip), masq.subnet_name(address)
        label = facts.labels.get(ip)
        if not address.network.prefixlen:
            continue
        if label is None or ip not in facts.members:
            problems.append(f"{ip} is not masqueraded: no element in nftables table {TABLE}")
        elif label != masq.tag(owner):
            problems.append(f"{ip} is masqueraded for another attachment, {label}")
        elif name not in facts.intact:
            problems.append(f"{ip} is not masqueraded: the rule of nftables chain {TABLE} {name} is gone or changed")
    return problems


def _by_chain(address: Cidr, facts: Facts) -> bool:
    return any(
        chain.v6 is is_v6(address)
        and chain.masquerades
        and (str(address.network) in chain.accepts or _within(address, chain.accepts))
        and any(jump.source == str(address.ip) for jump in chain.jumps)
        for chain in facts.chains
    )


def _within(address: Cidr, accepts: Iterable[str]) -> bool:
    """Whether an address that stands alone is in one of a chain's subnets: its own length is not known any more then."""
    if address.network.prefixlen < address.max_prefixlen:
        return False
    for accepted in accepts:
        with suppress(ValueError):  # somebody else's rule, with something else in this place
            if address.ip in ip_network(accepted):
                return True
    return False


def _by_masq_rule(owner: Owner, address: Cidr, facts: Facts) -> bool:
    prefix = reference.masq_comment(owner)
    subnet = str(address.network)
    return any(
        rule.comment.startswith(prefix) and rule.source == str(address.ip) and rule.subnet in (subnet, str(address.ip))
        for rule in facts.masq_rules
    )
