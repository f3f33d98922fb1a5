"""What the Go plugins leave for an attachment, and what ours leaves in the same form: read through the doors, removed by plan.

Three kinds: chains ``CNI-<hash>`` of iptables (also our own form where a configuration asks for it), rules in table
``inet cni_plugins_masquerade`` (plugins 1.6 and newer), chains in table ``bridge nat`` for the MAC spoof check. DEL,
CHECK and GC look for all of them, so a node can move from those plugins to these without restarting a pod.

Chains of iptables-nft are read and deleted through libnftables, without starting a program; only the comments, which GC
needs, are hidden there. Chains of iptables-legacy are looked for only if the kernel says that its nat table is in use.
"""

from __future__ import annotations

from hashlib import sha512
from typing import TYPE_CHECKING, Any

import msgspec

from cni.nft import masq_iptables
from cni.nft.listing import bodies, chain_names, matched, target
from cni.nft.masq_iptables import CHAIN, POSTROUTING, Jump, NatChain
from cni.nft.ops import RunIptables, RunNft
from cni.spec.owner import hashed_network

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable

    from cni.nft.readers import RuleReaders
    from cni.spec.owner import Owner

    Parse = Callable[[str, bool, bool], tuple[NatChain, ...]]

MASQ_TABLE, MASQ_CHAIN = "cni_plugins_masquerade", "masq_checks"
SPOOF_TABLE, SPOOF_BASE = "nat", "PREROUTING"

_IP = {False: "ip", True: "ip6"}


class MasqRule(msgspec.Struct, frozen=True):
    """A rule of the Go plugins' nftables backend: source address, subnet that it leaves alone, handle and comment."""

    source: str
    subnet: str
    handle: int
    comment: str


class SpoofChains(msgspec.Struct, frozen=True):
    """The Go bridge's spoof check of an attachment: its chains, the rules that lead there (both by handle, because names
    made through nft's JSON need not be words of its language), the addresses let through.
    """

    chains: tuple[int, ...]
    handles: tuple[int, ...]
    macs: tuple[str, ...]


def masq_comment(owner: Owner) -> str:
    """The beginning of the comments of an attachment's rules in the Go plugins' nftables backend."""
    return f"{_hash16(owner.network)}-{_hash16(f'{owner.ifname}:{owner.container_id}')}"


def look_chains(host: RuleReaders, owner: Owner) -> tuple[NatChain, ...]:
    """The attachment's chains of masquerade in both families and both variants."""
    return look_named(host, masq_iptables.chain_name(owner.network, owner.container_id), POSTROUTING, masq_iptables.parse_save)


def look_all_chains(host: RuleReaders) -> tuple[NatChain, ...]:
    """Every attachment's chains of masquerade with their comments."""
    return look_all(host, CHAIN, masq_iptables.parse_save)


def look_named(host: RuleReaders, name: str, parent: str, parse: Parse) -> tuple[NatChain, ...]:
    """An attachment's iptables chains in both families and both variants, by their name and the chain that leads there."""
    found = []
    for v6 in (False, True):
        rules = host.nft.chain(f"{_IP[v6]} nat {name}")
        if rules:
            base = host.nft.chain(f"{_IP[v6]} nat {parent}")
            found.append(msgspec.structs.replace(parse_chain(rules, base, name, v6), parent=parent))
        if host.iptables.legacy(v6):
            saved = parse(host.iptables.save(v6, legacy=True), v6, True)
            found += [chain for chain in saved if chain.name == name]
    return tuple(found)


def look_all(host: RuleReaders, pattern: re.Pattern[str], parse: Parse) -> tuple[NatChain, ...]:
    """Every attachment's iptables chains with their comments; starts ``iptables-save`` only if there are any."""
    found: list[NatChain] = []
    for v6 in (False, True):
        names = chain_names(host.nft.query(f"list chains {_IP[v6]}"), "nat")
        for legacy in (False, True):
            wanted = host.iptables.legacy(v6) if legacy else any(map(pattern.fullmatch, names))
            if wanted:
                found += parse(host.iptables.save(v6, legacy), v6, legacy)
    return tuple({(chain.v6, chain.legacy, chain.name): chain for chain in found}.values())


def look_masq_rules(host: RuleReaders) -> tuple[MasqRule, ...]:
    """All rules of the Go plugins' nftables backend."""
    return tuple(
        MasqRule(matched(rule, "saddr"), matched(rule, "daddr"), rule["handle"], rule.get("comment", ""))
        for rule in bodies(host.nft.chain(f"inet {MASQ_TABLE} {MASQ_CHAIN}"), "rule")
    )


def look_spoof(host: RuleReaders, owner: Owner) -> SpoofChains | None:
    """The Go bridge's spoof check of the attachment. The names of its chains need not be words of nft's language."""
    top = f"cni-br-iface-{owner.container_id}-{owner.ifname}"
    names = (top, top + "-mac")
    if not host.nft.chain(f"bridge {SPOOF_TABLE} {SPOOF_BASE}"):
        return None
    chains = chain_names(host.nft.query("list chains bridge"), SPOOF_TABLE)
    if not any(name in chains for name in names):
        return None
    table = host.nft.query(f"list table bridge {SPOOF_TABLE}")
    found = {body["name"]: body["handle"] for body in bodies(table, "chain")}
    rules = list(bodies(table, "rule"))
    jumps = tuple(rule["handle"] for rule in rules if rule["chain"] == SPOOF_BASE and target(rule) == top)
    macs = tuple(matched(rule, "saddr") for rule in rules if rule["chain"] == names[1] and matched(rule, "saddr"))
    return SpoofChains(tuple(found[name] for name in names if name in found), jumps, macs)


def parse_chain(rules: list[dict[str, Any]], base: list[dict[str, Any]], name: str, v6: bool) -> NatChain:
    """An iptables-nft chain from nft's listing of it and of POSTROUTING. Some versions of nft print targets as ``xt``."""
    jumps = tuple(Jump(matched(r, "saddr"), handle=r["handle"]) for r in bodies(base, "rule") if target(r) == name)
    accepts, masquerades = [], False
    for rule in bodies(rules, "rule"):
        verdicts = [expr for expr in rule["expr"] if isinstance(expr, dict)]
        if any("accept" in verdict for verdict in verdicts):
            accepts.append(_with_length(matched(rule, "daddr"), v6))
        elif any("masquerade" in v or (v.get("xt") or {}).get("name") == "MASQUERADE" for v in verdicts):
            masquerades = True
    return NatChain(v6=v6, name=name, accepts=tuple(accepts), masquerades=masquerades, jumps=jumps)


def remove_chain(chain: NatChain, sources: Iterable[str] = ()) -> RunNft | RunIptables | None:
    """Remove a chain with the jumps to it. Given ``sources``, only their jumps, and the chain if no jump is left.

    Two interfaces of a container on one network share a chain (P#151): removing one must not cut off the other.
    """
    wanted = set(sources)
    jumps = tuple(jump for jump in chain.jumps if not wanted or jump.source.partition("/")[0] in wanted)
    whole = len(jumps) == len(chain.jumps)
    if not jumps and not whole:
        return None
    what = f"remove {'chain' if whole else 'rules for chain'} {chain.name} of {_IP[chain.v6]} iptables"
    if any(jump.line for jump in jumps) or chain.legacy:
        text = masq_iptables.removal(chain, jumps, whole)
        return RunIptables(v6=chain.v6, text=text, what=what, legacy=chain.legacy)
    nat = f"{_IP[chain.v6]} nat"
    text = "".join(f"delete rule {nat} {chain.parent} handle {jump.handle}\n" for jump in jumps)
    return RunNft(text=text + (_delete_chain(nat, chain.name) if whole else ""), what=what)


def remove_masq_rules(rules: Iterable[MasqRule]) -> list[RunNft]:
    """Remove rules of the Go plugins' nftables backend."""
    return [
        RunNft(
            text=f"delete rule inet {MASQ_TABLE} {MASQ_CHAIN} handle {rule.handle}\n",
            what=f"remove masquerade rule of {rule.source} from table {MASQ_TABLE}",
            yields=True,
        )
        for rule in rules
    ]


def remove_spoof(seen: SpoofChains) -> RunNft:
    """Remove the Go bridge's spoof check of an attachment."""
    nat = f"bridge {SPOOF_TABLE}"
    text = "".join(f"delete rule {nat} {SPOOF_BASE} handle {handle}\n" for handle in seen.handles)
    return RunNft(
        text=text + "".join(f"delete chain {nat} handle {handle}\n" for handle in seen.chains),
        what="remove the MAC spoof check that another bridge plugin left",
    )


def stale_chains(chains: Iterable[NatChain], network: str, kept: Iterable[str]) -> list[NatChain]:
    """The chains whose comments name the network, but for those of the names ``kept``. Without comment nobody can tell."""
    names, alive = (network, hashed_network(network)), set(kept)
    return [chain for chain in chains if chain.network in names and chain.name not in alive]


def stale_masq_rules(rules: Iterable[MasqRule], network: str, keep: Iterable[Owner]) -> list[MasqRule]:
    """The rules of the network whose attachment is not kept."""
    alive = {masq_comment(owner) for owner in keep}
    mine = _hash16(network) + "-"
    return [rule for rule in rules if rule.comment.startswith(mine) and rule.comment.split(",")[0] not in alive]


def _delete_chain(table: str, name: str) -> str:
    return f"flush chain {table} {name}\ndelete chain {table} {name}\n"


def _with_length(address: str, v6: bool) -> str:
    return address if "/" in address or not address else f"{address}/{128 if v6 else 32}"


def _hash16(text: str) -> str:
    return sha512(text.encode()).hexdigest()[:16]
