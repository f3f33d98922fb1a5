"""Letting pods through the host's filter of forwarded packets, as the plugin uses it: ``look`` at what is there, then plan or
check. All but the looking is pure.

Three backends: ``nftables`` (``cni.nft.forward``), ``iptables`` (``cni.nft.forward_iptables``, the Go plugin's own rules) and
``firewalld``, which is asked to trust the addresses. DEL removes what any of them left, whatever the configuration says now.
With ``nftables`` no process is started, and ADD on a host with pods is one transaction of elements an address.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from cni.nft import forward, forward_iptables
from cni.nft.forward import FILTER, FORWARD, ISOLATED, TABLE, Hook, Table
from cni.nft.forward_iptables import CHAIN, Saved
from cni.nft.listing import bodies, target
from cni.nft.masq import tag
from cni.nft.ops import BindSource, InCaseOfUndo, RunIptables, RunNft, Sweep, Unread, attempt
from cni.spec.addresses import Ip, is_v6, parse_ip, single
from cni.spec.errors import CNIError, NotAvailable, TryAgain
from cni.spec.owner import of_network

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.nft.readers import RuleReaders
    from cni.spec.owner import Owner

Plan = list[RunNft | RunIptables | BindSource | InCaseOfUndo | Sweep]

NFTABLES, IPTABLES, FIREWALLD = BACKENDS = ("nftables", "iptables", "firewalld")
OPEN = "open"
POLICIES = (OPEN, *forward.RECORDS)

SWEEP = Sweep(
    what=f"remove what is empty in nftables table {TABLE}",
    begin=forward.begin_sweep,
    listing=forward.LISTING,
    also=forward.LISTING_FORWARD,
    idle=forward.is_idle,
    end=forward.end_sweep,
)


# With more pods than may go at the same time nobody is the last one, so the table need not be looked at again.
CROWD = 64


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a configuration asks for. ``backend`` is empty where it leaves the choice to us, ``bridge`` is the link through
    which the host reaches the pod: a bridge, or its gateway in the pod's VLAN.
    """

    backend: str = ""
    admin: str = ""
    zone: str = ""
    policy: str = OPEN
    bridge: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. Parts that the verb does not need stay at their defaults.

    backend: the one to use. ready: whether our table has its rules. table: all of it. hooks: FORWARD by family. legacy: the
    filter table of the old kernel interface, of families where it is in use. saved: the one that the iptables backend
    writes. accepted: addresses that CNI-FORWARD lets through, by family, with the rules' handles. bound: those that are
    sources of firewalld's zone.
    """

    addresses: tuple[Ip, ...] = ()
    backend: str = ""
    ready: bool = False
    table: Table | None = None
    hooks: dict[bool, Hook] = {}
    legacy: dict[bool, Saved] = {}
    saved: dict[bool, Saved] = {}
    accepted: dict[bool, dict[Ip, dict[str, tuple[int, ...]]]] = {}
    bound: tuple[Ip, ...] = ()

    @property
    def families(self) -> list[bool]:
        """The families of the addresses: others are not touched."""
        return sorted(set(map(is_v6, self.addresses)))


def choose(host: RuleReaders, backend: str) -> str:
    """The backend to use: firewalld, which rejects what it does not know, where it runs and no other is asked for.

    TryAgain when the system's bus does not tell whether it runs.
    """
    return backend or (FIREWALLD if host.firewalld.running() else NFTABLES)


def look(host: RuleReaders, addresses: Iterable[Ip], wanted: Wanted, verb: str) -> Facts:
    """Read what a verb needs, and nothing of a family that the pod has no address of."""
    facts = Facts(addresses=tuple(dict.fromkeys(addresses)))
    facts = msgspec.structs.replace(facts, backend=choose(host, wanted.backend))
    if facts.backend == IPTABLES:
        saved = {v6: forward_iptables.parse_save(host.iptables.save(v6, table="filter")) for v6 in facts.families}
        return msgspec.structs.replace(facts, saved=saved)
    hooks = {v6: forward.parse_forward(host.nft.chain(FORWARD[v6]), v6, wanted.admin) for v6 in facts.families}
    facts = msgspec.structs.replace(facts, hooks=hooks, legacy=_look_legacy(host, facts.families))
    if verb == "ADD":
        return msgspec.structs.replace(facts, ready=forward.is_intact(host.nft.chain(f"inet {TABLE} {forward.CHAIN}", True)))
    facts = msgspec.structs.replace(facts, table=_look_table(host))
    if facts.backend == FIREWALLD:
        facts = msgspec.structs.replace(facts, bound=_look_bound(host, facts.addresses, wanted.zone))
    led = {v6: _look_accepted(host, v6) for v6 in facts.families if _leads_to_reference(host, v6)}
    return msgspec.structs.replace(facts, accepted=led)


def look_del(
    host: RuleReaders, owner: Owner, addresses: Iterable[Ip], backend: str, zone: str, notes: list[str]
) -> tuple[Facts, list[Unread]]:
    """What any backend may have left. One that cannot be read keeps nothing of the others from being removed; and where the
    system's bus does not answer, pods that firewalld never knew go all the same.
    """
    facts = Facts(addresses=tuple(dict.fromkeys(addresses)))
    wanted = backend in ("", NFTABLES)
    nothing: tuple[Table | None, dict[bool, Hook]] = (None, {})
    (table, hooks), unread = attempt(partial(_look_table_and_hooks, host), nothing, wanted, notes)
    accepted, unread_rules = attempt(
        lambda: {v6: _look_accepted(host, v6) for v6 in facts.families},
        dict[bool, dict[Ip, dict[str, tuple[int, ...]]]](),
        wanted,
        notes,
    )
    legacy, unread_legacy = attempt(lambda: _look_legacy(host, facts.families), dict[bool, Saved](), backend == IPTABLES, notes)
    known = table is not None and tag(owner) in table.owners.values()
    trusted = backend == FIREWALLD or (not backend and not known)
    bound, unread_sources = attempt(
        lambda: _look_bound(host, facts.addresses, zone), tuple[Ip, ...](), trusted, notes, CNIError
    )
    facts = msgspec.structs.replace(
        facts,
        table=table,
        hooks=hooks,
        accepted=accepted,
        legacy={v6: saved for v6, saved in legacy.items() if CHAIN in saved.chains},
        bound=bound,
    )
    return facts, [*unread, *unread_rules, *unread_legacy, *unread_sources]


def plan_add(owner: Owner, wanted: Wanted, facts: Facts) -> Plan:
    """Let the attachment's addresses through. Repeating it changes nothing; an element of a dead owner is replaced."""
    if not facts.addresses:
        return []
    if facts.backend == IPTABLES:
        return [step for v6 in facts.families for step in _add_iptables(wanted, v6, facts)]
    plan: Plan = []
    if facts.backend == FIREWALLD:
        plan += [BindSource(zone=wanted.zone, source=str(single(address))) for address in facts.addresses]
    passing = _passes_marked(facts)
    if passing or wanted.policy != OPEN:
        plan.append(InCaseOfUndo(op=SWEEP))
    if passing:
        plan += _add_nftables(tag(owner), wanted.admin, facts)
        plan += _add_legacy(wanted.admin, facts)
    if wanted.policy != OPEN:
        ready = facts.ready or passing
        claim = forward.claim_policy(tag(owner), wanted.bridge, wanted.policy)
        plan.append(
            RunNft(
                text=claim if ready else forward.skeleton() + claim,
                missing=forward.skeleton() + claim,
                undo=forward.remove_policy(tag(owner), wanted.bridge, wanted.policy),
                what=f"keep other bridges from pods on {wanted.bridge} (ingressPolicy {wanted.policy})",
            )
        )
    return plan


def plan_del(owner: Owner, zone: str, facts: Facts) -> Plan:
    """Remove everything of the attachment, in every form. What our table has for another stays, even for the same address."""
    plan: Plan = []
    if facts.table is not None:
        plan += _forget(facts.table, {tag(owner)})
    plan += _forget_hooks(facts.hooks)
    for v6, accepted in facts.accepted.items():
        where = f"{FILTER[v6]} {CHAIN}"
        handles = [one for address in facts.addresses for found in accepted.get(address, {}).values() for one in found]
        plan += [_remove_rule(where, handle, f"remove the pod's rules in {where}") for handle in handles]
    for v6, saved in facts.legacy.items():
        text = forward_iptables.removal((address for address in facts.addresses if is_v6(address) is v6), saved)
        if text:
            plan.append(RunIptables(v6=v6, text=text, what=f"remove the pod's rules in legacy chain {CHAIN}", legacy=True))
    return plan + [BindSource(zone=zone, source=str(single(address)), on=False) for address in facts.bound]


def check(owner: Owner, wanted: Wanted, facts: Facts) -> list[str]:
    """A line for each thing that is not as ADD left it. Rules of the Go plugin serve as well as our table's elements."""
    if not facts.addresses:
        return []
    if facts.backend == IPTABLES:
        return [
            f"{_tool(v6)} rule is gone: {rule}"
            for v6 in facts.families
            for rule in forward_iptables.missing(_of(facts, v6), wanted.admin, wanted.policy, wanted.bridge, facts.saved[v6])
        ]
    label, seen = tag(owner), facts.table or Table()
    problems: list[str] = []
    if facts.backend == FIREWALLD:
        problems = [
            f"{address} is not a source of firewalld's zone {wanted.zone}"
            for address in facts.addresses
            if address not in facts.bound
        ]
    if _passes_marked(facts):
        problems += _problems_of_filter(label, wanted.admin, facts, seen)
    return problems + _problems_of_policy(label, wanted, seen)


def plan_gc(host: RuleReaders, network: str, keep: frozenset[Owner]) -> Plan:
    """Remove what belongs to the network and to no attachment of ``keep``. Rules of iptables and sources of firewalld's zones
    name no owner: of them nothing can be said.
    """
    seen, hooks = _look_table_and_hooks(host)
    if seen is None:
        return _forget_hooks(hooks)
    kept = {tag(owner) for owner in keep}
    labels = {*seen.owners.values(), *(label for found in seen.policies.values() for _, label in found)}
    return _forget(seen, {label for label in labels if of_network(label, network) and label not in kept})


def require(host: RuleReaders, wanted: Wanted) -> None:
    """NotAvailable (50) when the backend that an ADD would use cannot be used here."""
    try:
        backend = choose(host, wanted.backend)
    except TryAgain as error:
        raise NotAvailable(error.msg, error.details) from error
    reason = ""
    if backend == IPTABLES:
        reason = host.iptables.available("filter", (False,))
    elif backend == FIREWALLD and not host.firewalld.running():
        reason = "it does not run, or there is no system message bus"
    if backend == NFTABLES or (backend == FIREWALLD and wanted.policy != OPEN):
        backend, reason = (backend, reason) if reason else (NFTABLES, host.nft.available())
    if reason:
        raise NotAvailable(f"{backend} cannot be used: {reason}")


def _look_table(host: RuleReaders) -> Table | None:
    """Our table, None without one; whether there is one the kernel tells without its elements."""
    if all(body["table"] != TABLE for body in bodies(host.nft.sets("inet"), "set")):
        return None
    objects = host.nft.query(forward.LISTING)
    return forward.parse_table(objects) if objects else None


def _look_table_and_hooks(host: RuleReaders) -> tuple[Table | None, dict[bool, Hook]]:
    """Our table; without one what is ours in FORWARD all the same, because somebody has deleted the table. That no table is
    there is known afterwards, so a rule that was seen is none that an ADD has made meanwhile, or goes by.
    """
    hooks: dict[bool, Hook] = {}
    seen = _look_table(host)
    if seen is None:
        hooks = {v6: forward.parse_forward(host.nft.chain(where), v6) for v6, where in FORWARD.items()}
        if any(hook.handles for hook in hooks.values()):
            seen = _look_table(host)
    return seen, hooks if seen is None else {}


def _look_bound(host: RuleReaders, addresses: Iterable[Ip], zone: str) -> tuple[Ip, ...]:
    if not addresses or not host.firewalld.running():
        return ()
    return tuple(address for address in addresses if host.firewalld.has_source(zone, str(single(address))))


def _look_legacy(host: RuleReaders, families: Iterable[bool]) -> dict[bool, Saved]:
    """Without iptables' legacy program nothing of it is known, and a filter of others stays as it is."""
    seen = {
        v6: forward_iptables.parse_save(host.iptables.save(v6, legacy=True, table="filter"))
        for v6 in families
        if host.iptables.legacy(v6, "filter")
    }
    return {v6: saved for v6, saved in seen.items() if saved.chains}


def _look_accepted(host: RuleReaders, v6: bool) -> dict[Ip, dict[str, tuple[int, ...]]]:
    return forward_iptables.accepted(host.nft.chain(f"{FILTER[v6]} {CHAIN}"))


def _leads_to_reference(host: RuleReaders, v6: bool) -> bool:
    return any(target(rule) == CHAIN for rule in bodies(host.nft.chain(FORWARD[v6]), "rule"))


def _passes_marked(facts: Facts) -> bool:
    """Whether packets pass by our mark: beside firewalld where iptables' filter drops by default, too, as with Docker."""
    filters: list[Hook | Saved] = [*facts.hooks.values(), *facts.legacy.values()]
    return facts.backend == NFTABLES or any(it.drops for it in filters)


def _add_nftables(label: str, admin: str, facts: Facts) -> Plan:
    """A transaction an address; the first of a family also makes what is missing of the rules.

    Where our table was not seen, rules in FORWARD that looked well are made anew, too: a sweep may have taken them since, and
    then their handles are not found.
    """
    plan: Plan = []
    ready, led = dict.fromkeys((False, True), facts.ready), set[bool]()
    for address in facts.addresses:
        v6 = is_v6(address)
        hook = facts.hooks.get(v6, Hook())
        wanting = hook.present and not (hook.intact and facts.ready) and v6 not in led
        led.add(v6)
        passing = forward.pass_filter(v6, admin, hook.handles, hook.admins) if wanting else ""
        anew = forward.pass_filter(v6, admin) if hook.present else ""
        claim, skeleton = forward.claim(label, address), forward.skeleton()
        plan.append(
            RunNft(
                text=claim if ready[v6] and not passing else skeleton + passing + forward.passed(v6) + claim,
                exists=skeleton + passing + forward.passed(v6) + forward.disown(address) + claim,
                missing=skeleton + anew + forward.passed(v6) + claim,
                undo=forward.remove(label, address),
                what=f"let {address} through the filter of forwarded packets",
            )
        )
        ready[v6] = True
    return plan


def _add_legacy(admin: str, facts: Facts) -> Plan:
    """The same two rules in tables that nft does not see."""
    plan: Plan = []
    for v6, saved in facts.legacy.items():
        text = forward_iptables.pass_filter(admin, saved)
        if text:
            there = msgspec.structs.replace(saved, chains=saved.chains | {admin})
            plan.append(
                RunIptables(
                    v6=v6,
                    text=text,
                    exists=forward_iptables.pass_filter(admin, there),
                    what=f"have legacy {_tool(v6)} let marked packets through",
                    legacy=True,
                )
            )
    return plan


def _add_iptables(wanted: Wanted, v6: bool, facts: Facts) -> Plan:
    mine = _of(facts, v6)
    setup = forward_iptables.setup(mine, wanted.admin, wanted.policy, wanted.bridge, facts.saved[v6])
    if not setup.text():
        return []
    plan: Plan = []
    if setup.shared:
        what = f"remove the empty chains of the firewall by {_tool(v6)}"
        undo = RunIptables(v6=v6, text=setup.undo_shared(), yields=True, what=what)
        plan.append(InCaseOfUndo(op=undo, shared=True))
    what = f"let {', '.join(map(str, mine))} through by {_tool(v6)} chain {CHAIN}"
    return [*plan, RunIptables(v6=v6, text=setup.text(), exists=setup.later(), undo=setup.undo_own(), what=what)]


def _forget(seen: Table, labels: set[str]) -> Plan:
    """Remove what has one of the labels, then what is not needed any more."""
    plan: Plan = [
        RunNft(
            text=forward.remove(label, parse_ip(address)),
            what=f"let {address} through the filter of forwarded packets no more",
            yields=True,
        )
        for address, label in seen.owners.items()
        if label in labels
    ]
    plan += [
        RunNft(
            text=forward.remove_policy(label, bridge, policy),
            what=f"forget that a pod on {bridge} asked for ingressPolicy {policy}",
            yields=True,
        )
        for policy, found in seen.policies.items()
        for bridge, label in sorted(found)
        if label in labels
    ]
    others = {label for label in seen.owners.values() if label not in labels}
    return [*plan, SWEEP] if len(others) <= CROWD or seen.bridges else plan


def _forget_hooks(hooks: dict[bool, Hook]) -> Plan:
    """Remove rules in FORWARD that stand there without our table."""
    return [
        _remove_rule(FORWARD[v6], handle, f"remove rules of ours in {FORWARD[v6]}, which have outlived their table")
        for v6, hook in hooks.items()
        for handle in hook.handles
    ]


def _remove_rule(where: str, handle: int, what: str) -> RunNft:
    """Each on its own, for one that is gone by now would keep the others."""
    return RunNft(text=f"delete rule {where} handle {handle}\n", what=what, yields=True)


def _problems_of_filter(label: str, admin: str, facts: Facts, seen: Table) -> list[str]:
    problems = []
    for address in facts.addresses:
        if len(facts.accepted.get(is_v6(address), {}).get(address, {})) == 2:
            continue
        found = seen.owners.get(str(address))
        if found is None or str(address) not in seen.pods:
            problems.append(f"{address} is not let through: no element in nftables table {TABLE}")
        elif found != label:
            problems.append(f"{address} is let through for another attachment, {found}")
        elif not seen.intact:
            problems.append(
                f"{address} is not let through: the rules of nftables chain {TABLE} {forward.CHAIN} are gone or changed"
            )
    if problems or seen.owners:
        lost = "does not let marked packets through after chain"
        problems += [
            f"nftables chain {FORWARD[v6]} {lost} {admin}"
            for v6, hook in facts.hooks.items()
            if hook.present and not hook.intact
        ]
        problems += [
            f"FORWARD of legacy {_tool(v6)} {lost} {admin}"
            for v6, saved in facts.legacy.items()
            if forward_iptables.pass_filter(admin, saved)
        ]
        problems += [
            f"nftables chain {FORWARD[v6]} drops all packets before those of pods are let through"
            for v6, hook in facts.hooks.items()
            if hook.closed
        ]
    return problems


def _problems_of_policy(label: str, wanted: Wanted, seen: Table) -> list[str]:
    if wanted.policy == OPEN:
        return []
    asked = (wanted.bridge, label) in seen.policies.get(wanted.policy, ())
    needed = [seen.bridges, seen.within, *([seen.closed] if wanted.policy == ISOLATED else [])]
    if asked and seen.intact and all(wanted.bridge in found for found in needed):
        return []
    return [f"ingressPolicy {wanted.policy} of {wanted.bridge} is gone or changed in nftables table {TABLE}"]


def _of(facts: Facts, v6: bool) -> list[Ip]:
    return [address for address in facts.addresses if is_v6(address) is v6]


def _tool(v6: bool) -> str:
    return "ip6tables" if v6 else "iptables"
