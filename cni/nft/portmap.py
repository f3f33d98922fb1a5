"""Published ports, as a plugin uses them: ``look`` at what is there, then plan or check. All but the looking is pure.

Two backends, ``nftables`` (``cni.nft.ports``) and ``iptables`` (``cni.nft.ports_iptables``); DEL and GC remove what either
left, and what the Go plugin left by iptables, whatever the configuration says now. With the nftables backend no
process is started, and all ports of an attachment cost one transaction for ADD and one for DEL.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from cni.nft import masq, ports, ports_iptables, ports_rules, reference
from cni.nft.masq_iptables import NatChain
from cni.nft.ops import ForgetFlows, RunIptables, RunNft, Settle, SettleIptables, Sweep
from cni.nft.ports import TABLE, Published, Table
from cni.nft.ports_iptables import DNAT, Marking
from cni.spec.addresses import is_v6
from cni.spec.owner import of_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cni.nft.readers import RuleReaders
    from cni.spec.owner import Owner

Plan = list[RunNft | RunIptables | Settle | SettleIptables | Sweep | ForgetFlows]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. Parts that the verb does not need stay at their defaults.

    present: whether our table is there. intact: whether its chains are as they should be. table: all of it, where it was
    needed. chains: an attachment's chains of iptables. saved: what iptables-save tells of the families, v4 first. without_nft:
    this host has no nftables, which tells of chains without a process.
    """

    present: bool = False
    intact: bool = False
    table: Table | None = None
    chains: tuple[NatChain, ...] = ()
    saved: tuple[str, str] = ("", "")
    without_nft: bool = False


def look(host: RuleReaders, owner: Owner, wanted: Published, backend: str, verb: str) -> Facts:
    """Read what a verb needs. For ADD and CHECK something is ``wanted``; DEL looks for what can be there in any case."""
    if verb in ("ADD", "CHECK") and backend == "iptables":
        return Facts(saved=_look_saved(host, _families(wanted)))
    if verb == "ADD":
        return Facts(intact=_look_intact(host, wanted, lately=True))
    if verb == "DEL" and backend == "iptables" and host.nft.available():
        return Facts(saved=_look_saved(host, (False, True)), without_nft=True)
    facts = Facts(present=bool(host.nft.chain(f"inet {TABLE} guard")), chains=_look_chains(host, owner))
    if verb == "DEL":
        return facts
    if facts.present:
        table = ports.parse_table(host.nft.query(ports.LISTING))
        facts = msgspec.structs.replace(facts, intact=_look_intact(host, wanted), table=table)
    return msgspec.structs.replace(facts, saved=_look_saved(host, _families(wanted))) if facts.chains else facts


def plan_add(
    owner: Owner, wanted: Published, backend: str, conditions: tuple[tuple[str, ...], ...], marking: Marking, facts: Facts
) -> Plan:
    """Publish the attachment's ports. Repeating it changes nothing; a port of a dead attachment is taken over.

    ``conditions`` are those of iptables, v4 first.
    """
    if backend == "iptables":
        plan: Plan = []
        names = owner.network, owner.container_id
        for v6 in _families(wanted):
            saved = [facts.saved[v6]]
            setup = partial(ports_iptables.setup, *names, wanted, tuple(conditions[v6]), marking, v6)
            plan.append(
                SettleIptables(
                    v6=v6,
                    text=setup(saved[0]),
                    answer=setup,
                    undo_answer=partial(ports_iptables.put_back, *names, saved),
                    before=saved,
                    what=f"publish {_numbers(wanted)} by iptables chain {_chain(owner)}",
                )
            )
    else:
        label = masq.tag(owner)
        listed: list[dict[str, Any]] = []
        plan = [
            Settle(
                text=ports.claim(label, wanted) if facts.intact else "",
                listing=ports.LISTING,
                answer=partial(ports.take, label, wanted),
                undo=ports.remove(label, wanted),
                undo_answer=lambda listing, alive: ports.put_back(label, listed, listing),
                before=listed,
                after=partial(_flows_of_others, label, wanted),
                what=f"publish {_numbers(wanted)}",
            )
        ]
    return plan + _flows(wanted)


def plan_del(owner: Owner, wanted: Published | None, facts: Facts) -> Plan:
    """Take back everything that is published of the attachment, in every form.

    ``wanted`` is what ADD published, if that is known: then our table is not searched.
    """
    label = masq.tag(owner)
    plan: Plan = []
    if facts.present:
        text = ports.remove(label, wanted) if wanted is not None else ""
        what = f"take back {_numbers(wanted) if wanted is not None else 'its published ports'}"
        plan.append(_take_back(label, text, what))
    if facts.without_nft:
        names = owner.network, owner.container_id
        for v6 in (False, True):
            text = ports_iptables.teardown(*names, facts.saved[v6])
            plan += [RunIptables(v6=v6, text=text, what=f"remove iptables chain {_chain(owner)}")] if text else []
    plan += [step for chain in facts.chains if (step := reference.remove_chain(chain)) is not None]
    return plan + (_flows(wanted) if wanted is not None and plan else [])


def check(owner: Owner, wanted: Published, backend: str, marking: Marking, facts: Facts) -> list[str]:
    """A line for each port that does not lead to the pod. With nftables the Go plugin's rules satisfy, too."""
    names = owner.network, owner.container_id
    chains = [
        line for v6 in _families(wanted) for line in ports_iptables.problems(*names, wanted, marking, v6, facts.saved[v6])
    ]
    if backend == "iptables" or not chains:
        return chains
    return _problems(owner, wanted, facts)


def plan_gc(host: RuleReaders, network: str, keep: frozenset[Owner], there: Callable[[str], bool]) -> Plan:
    """Remove what belongs to the network and to no attachment of ``keep``, and then what is empty. ``there`` says whether the
    host has an interface.
    """
    objects = host.nft.query(ports.LISTING)
    seen = ports.parse_table(objects)
    kept = {masq.tag(owner) for owner in keep}
    labels = dict.fromkeys([*seen.claims.values(), *seen.pods.values()])
    gone = [label for label in labels if of_network(label, network) and label not in kept]
    plan: Plan = [_take_back(label, "", f"take back ports of {label}") for label in gone]
    if objects:
        end = partial(ports.end_sweep, there=there)
        what = f"remove what is empty in nftables table {TABLE}"
        plan.append(Sweep(what=what, begin=ports.begin_sweep, listing=ports.LISTING, end=end))
    chains = reference.look_all(host, ports_iptables.CHAIN, ports_iptables.parse_save)
    stale = reference.stale_chains(chains, network, map(_chain, keep))
    return plan + [step for chain in stale if (step := reference.remove_chain(chain)) is not None]


def _look_intact(host: RuleReaders, wanted: Published, lately: bool = False) -> bool:
    return all(
        ports_rules.intact(name, wanted.conditions, host.nft.chain(f"inet {TABLE} {name}", lately))
        for name in ports_rules.chains(wanted.conditions)
    )


def _look_chains(host: RuleReaders, owner: Owner) -> tuple[NatChain, ...]:
    return reference.look_named(host, _chain(owner), DNAT, ports_iptables.parse_save)


def _look_saved(host: RuleReaders, families: Iterable[bool]) -> tuple[str, str]:
    wanted = set(families)
    v4, v6 = (host.iptables.save(v6) if v6 in wanted else "" for v6 in (False, True))
    return v4, v6


def _chain(owner: Owner) -> str:
    return ports_iptables.chain_name(owner.network, owner.container_id)


def _families(wanted: Published) -> list[bool]:
    return sorted({is_v6(mapping.pod) for mapping in wanted.mappings})


def _numbers(wanted: Published) -> str:
    return ", ".join(dict.fromkeys(str(mapping.port) for mapping in wanted.mappings))


def _flows(wanted: Published) -> list[ForgetFlows]:
    """Forget what was sent to UDP ports while they led elsewhere."""
    return [
        ForgetFlows(address=mapping.port.host, port=mapping.port.number)
        for mapping in wanted.mappings
        if mapping.port.protocol == "udp"
    ]


def _take_back(label: str, text: str, what: str) -> Settle:
    """Remove all that is an owner's, by ``text`` if that fits."""
    after = partial(_flows_of, label)
    return Settle(text=text, listing=ports.LISTING, answer=_forgetting(label), after=after, insists=True, what=what)


def _flows_of(label: str, listing: list[dict[str, Any]]) -> list[ForgetFlows]:
    return [ForgetFlows(address=port.host, port=port.number) for port in ports.udp_ports(label, ports.parse_table(listing))]


def _flows_of_others(label: str, wanted: Published, listing: list[dict[str, Any]]) -> list[ForgetFlows]:
    """Those of ports that are taken over, or were the owner's before. Some more are no harm."""
    seen = ports.parse_table(listing)
    before = {label, *(seen.pods[pod.ip] for pod in wanted.pods if pod.ip in seen.pods)}
    before |= {seen.claims[mapping.port] for mapping in wanted.mappings if mapping.port in seen.claims}
    return [flows for one in sorted(before) for flows in _flows_of(one, listing)]


def _forgetting(label: str) -> Callable[[list[dict[str, Any]], Callable[[str], bool]], str]:
    return lambda listing, alive: ports.forget(label, ports.parse_table(listing))


def _problems(owner: Owner, wanted: Published, facts: Facts) -> list[str]:
    """What is not as ``claim`` writes it."""
    if facts.table is None:
        return [f"{mapping.port} is not published: there is no nftables table {TABLE}" for mapping in wanted.mappings]
    problems = [] if facts.intact else [f"the rules of nftables table {TABLE} are gone or changed"]
    seen, label = facts.table, masq.tag(owner)
    for mapping in wanted.mappings:
        holder = seen.claims.get(mapping.port)
        leads = [lead for lead in seen.leads.get(mapping.port, ()) if lead.suffix == wanted.conditions.suffix]
        if holder is None:
            problems.append(f"{mapping.port} is not published: no element in nftables table {TABLE}")
        elif ports.same_container(holder, label):
            continue  # the container has it on another network
        elif holder != label:
            problems.append(f"{mapping.port} is published by another attachment, {holder}")
        elif not any((lead.pod, lead.pod_port) == (mapping.pod, mapping.pod_port) for lead in leads):
            problems.append(f"{mapping.port} does not lead to {mapping.pod} port {mapping.pod_port}")
    ahead = [
        port for port, holder in seen.claims.items() if holder != label and any(_ahead(port, m.port) for m in wanted.mappings)
    ]
    problems += [f"{port} goes to another attachment, {seen.claims[port]}" for port in ahead]
    if wanted.interface and wanted.interface not in seen.localnet:
        problems.append(f"{wanted.interface} takes packets for {ports_rules.LOCAL}, and nothing drops what pods send there")
    return problems + [line for pod in wanted.pods if wanted.snat for line in _unanswered(pod, wanted, seen)]


def _ahead(one: ports.Port, other: ports.Port) -> bool:
    """Whether a port at one address goes before one at any."""
    same = (one.protocol, one.number, one.host.version) == (other.protocol, other.number, other.host.version)
    return same and other.host.is_unspecified and not one.host.is_unspecified


def _unanswered(pod: Any, wanted: Published, seen: Table) -> Iterable[str]:
    """Whether masquerade of what leads to a pod is missing."""
    v = "6" if is_v6(pod) else "4"
    name = "any" if wanted.masq_all else "snat"
    near = pod.network.prefixlen in (0, pod.max_prefixlen) or any(ports.contains(subnet, pod.network) for subnet in seen.near)
    if pod.ip not in seen.sets[name + v] or not (near or wanted.masq_all):
        yield f"what is published of {pod.ip} is not masqueraded where it has to be"
    elif pod.network.prefixlen in (0, pod.max_prefixlen) and not wanted.masq_all and pod.ip not in seen.sets["self" + v]:
        yield f"what is published of {pod.ip} is not masqueraded when it is the sender"
