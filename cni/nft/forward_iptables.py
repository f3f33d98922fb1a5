"""PURE. The iptables form of the firewall plugin, rule for rule what the Go plugin writes, so that each side finds the other's.

    FORWARD                -> CNI-FORWARD -> the administrator's chain, CNI-ADMIN; then two rules a pod's address
    FORWARD                -> CNI-ISOLATION-STAGE-1 -> CNI-ISOLATION-STAGE-2, where a bridge has an ingressPolicy

Rules carry no owner, so an address is all that tells whose they are; and those of a bridge tell nothing of its pods, so
they stay, as with the reference. Texts are for ``iptables-restore --noflush``. A chain is made by ``-N``, which fails
where there is one: ``:CHAIN`` would empty what another call has just filled.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from cni.nft.forward import BIT, ISOLATED, NOTE, RECORDS, SAME_BRIDGE
from cni.nft.listing import bodies, matched
from cni.spec.addresses import parse_ip

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from cni.spec.addresses import Ip

CHAIN = "CNI-FORWARD"
STAGES = ("CNI-ISOLATION-STAGE-1", "CNI-ISOLATION-STAGE-2")

_JUMP = f'-m comment --comment "CNI firewall plugin rules" -j {CHAIN}'
_TO_ADMIN = '-m comment --comment "CNI firewall plugin admin overrides" -j '
_POLICY = "CNI firewall plugin rules (ingressPolicy: {})"
_COMMENT = re.compile(r" -m comment --comment (?:\"(?:[^\"\\]|\\.)*\"|\S+)")
_MARKED = f"-m mark --mark {BIT:#x}/{BIT:#x}"


class Saved(msgspec.Struct, frozen=True):
    """The filter table as ``iptables-save`` prints it: the names of its chains, its rules, each ``-A ...``, and whether FORWARD
    drops by default.
    """

    chains: frozenset[str] = frozenset()
    rules: tuple[str, ...] = ()
    drops: bool = False

    def has(self, rule: str) -> bool:
        """Whether there is this rule, whatever its comment says."""
        return _bare(rule) in map(_bare, self.rules)


class Setup(msgspec.Struct, frozen=True):
    """What an ADD has to run: commands for what pods share, and then those of the attachment."""

    shared: tuple[str, ...] = ()
    own: tuple[str, ...] = ()

    def text(self) -> str:
        """All of it, as one transaction."""
        return table([*self.shared, *self.own])

    def later(self) -> str:
        """What is left to do where another call has made the chains meanwhile: with them it made all that every pod needs, but
        no policy that it was not asked for. A rule that is there twice does no harm.
        """
        policies = any(stage in command for command in self.shared for stage in STAGES)
        return table([*(command for command in self.shared if policies and not command.startswith("-N ")), *self.own])

    def undo_own(self) -> str:
        """Take back the attachment's."""
        return table(map(_inverse, reversed(self.own)))

    def undo_shared(self) -> str:
        """Take back what pods share; fails as a whole where others use it by now."""
        return table(map(_inverse, reversed(self.shared)))


def parse_save(text: str) -> Saved:
    """The output of ``iptables-save -t filter``."""
    lines = text.splitlines()
    chains = frozenset(line[1:].split(" ")[0] for line in lines if line.startswith(":"))
    rules = tuple(line.rstrip() for line in lines if line.startswith("-A "))
    return Saved(chains, rules, any(line.startswith(":FORWARD DROP ") for line in lines))


def setup(addresses: Iterable[Ip], admin: str, policy: str, bridge: str, seen: Saved) -> Setup:
    """What is missing of the chains, the addresses' rules and the policy of the bridge."""
    shared = [f"-N {chain}" for chain in dict.fromkeys((CHAIN, admin)) if chain not in seen.chains]
    shared += _insert(f"-A FORWARD {_JUMP}", seen)
    shared += _insert(f"-A {CHAIN} {_TO_ADMIN}{admin}", seen)
    shared += [command for rule in _policy_rules(policy, bridge) for command in _policy_command(rule, seen)]
    if policy in RECORDS:
        shared = [f"-N {chain}" for chain in STAGES if chain not in seen.chains] + shared
    if policy == SAME_BRIDGE:  # it may have been the stricter one before
        stricter = [_bare(rule) for rule in _policy_rules(ISOLATED, bridge) if rule not in _policy_rules(policy, bridge)]
        shared += [rule.replace("-A ", "-D ", 1) for rule in seen.rules if _bare(rule) in stricter]
    own = [rule for address in addresses for rule in address_rules(address) if not seen.has(rule)]
    return Setup(tuple(shared), tuple(own))


def address_rules(address: Ip) -> tuple[str, str]:
    """The rules of a pod's address: answers to it, and all from it."""
    single = f"{address}/{address.max_prefixlen}"
    answers = f"-A {CHAIN} -d {single} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    return answers, f"-A {CHAIN} -s {single} -j ACCEPT"


def missing(addresses: Iterable[Ip], admin: str, policy: str, bridge: str, seen: Saved) -> list[str]:
    """The rules that ADD writes and that are not there."""
    wanted = [f"-A FORWARD {_JUMP}", f"-A {CHAIN} {_TO_ADMIN}{admin}", *_policy_rules(policy, bridge)]
    wanted += [rule for address in addresses for rule in address_rules(address)]
    return [rule for rule in wanted if not seen.has(rule)]


def removal(addresses: Iterable[Ip], seen: Saved) -> str:
    """Remove the addresses' rules; empty where there are none."""
    mine = {_bare(rule) for address in addresses for rule in address_rules(address)}
    found = [_inverse(rule) for rule in seen.rules if _bare(rule) in mine]
    return table(found) if found else ""


def pass_filter(admin: str, seen: Saved) -> str:
    """What ``cni.nft.forward.pass_filter`` does, for tables that nft does not see; empty where it is done."""
    # An administrator's chain of another network is consulted as before.
    others = [rule for rule in seen.rules if rule.startswith("-A FORWARD ") and NOTE in rule and not rule.endswith("-j ACCEPT")]
    to_admin, accept = f'-m comment --comment "{NOTE}" -j {admin}', f'{_MARKED} -m comment --comment "{NOTE}" -j ACCEPT'
    rules = [_bare(rule) for rule in seen.rules]
    wanted = [_bare(f"-A FORWARD {words}") for words in (to_admin, accept)]
    if all(rule in rules for rule in wanted) and rules.index(wanted[0]) < rules.index(wanted[1]):
        return ""
    made = [] if admin in seen.chains else [f"-N {admin}"]
    mine = [rule for rule in others if _bare(rule) == wanted[0]]
    if wanted[1] in rules:
        return table([*made, *(rule.replace("-A ", "-D ", 1) for rule in mine), f"-I FORWARD 1 {to_admin}"])
    made += [rule.replace("-A ", "-D ", 1) for rule in others] + [f"-I FORWARD 1 {accept}"]
    kept = [rule.replace("-A FORWARD", "-I FORWARD 1", 1) for rule in others if rule not in mine]
    return table([*made, *kept, f"-I FORWARD 1 {to_admin}"])


def table(commands: Iterable[str]) -> str:
    """Commands on the filter table as one transaction; empty for none."""
    listed = list(commands)
    return "\n".join(["*filter", *listed, "COMMIT", ""]) if listed else ""


def accepted(rules: list[dict[str, Any]]) -> dict[Ip, dict[str, tuple[int, ...]]]:
    """The addresses that CNI-FORWARD lets through by nft's listing: for ``saddr`` and ``daddr`` the rules' handles. A rule that
    asks for anything besides, but for the state of a connection, is an administrator's.
    """
    found: dict[Ip, dict[str, tuple[int, ...]]] = {}
    for rule in bodies(rules, "rule"):
        words = [word for word in rule["expr"] if "counter" not in word and (word.get("xt") or {}).get("name") != "comment"]
        if rule["chain"] != CHAIN or not words or words[-1] != {"accept": None}:
            continue
        asked = [word for word in words[:-1] if not _of_state(word)]
        fields = [
            field
            for field in ("saddr", "daddr")
            if len(asked) == 1 and asked[0].get("match", {}).get("op") == "==" and matched(rule, field)
        ]
        for field in fields:
            try:
                there = found.setdefault(parse_ip(matched(rule, field)), {})
            except ValueError:
                continue  # somebody else's rule, of a subnet
            there[field] = (*there.get(field, ()), rule["handle"])
    return found


def _of_state(word: dict[str, Any]) -> bool:
    """Whether a condition is about the state of a connection; versions of nft tell it in one of two ways."""
    return "ct" in word.get("match", {}).get("left", {}) or (word.get("xt") or {}).get("name") == "conntrack"


def _insert(rule: str, seen: Saved) -> list[str]:
    """The command for a rule that stands first in its chain, where it is not there."""
    _, chain, words = rule.split(" ", 2)
    return [] if rule in seen.rules else [f"-I {chain} 1 {words}"]


def _policy_command(rule: str, seen: Saved) -> list[str]:
    """The last rule of a stage is appended, all others stand before it."""
    if seen.has(rule):
        return []
    _, chain, words = rule.split(" ", 2)
    return [rule] if words.endswith("-j RETURN") else [f"-I {chain} 1 {words}"]


def _policy_rules(policy: str, bridge: str) -> list[str]:
    """The rules of a bridge with a policy, as iptables-save prints them, in the order in which the reference writes them."""
    if policy not in RECORDS:
        return []
    first, second = STAGES
    any_, same, isolated = (
        f'-m comment --comment "{_POLICY.format(which)}"' for which in (f"{SAME_BRIDGE}|{ISOLATED}", SAME_BRIDGE, ISOLATED)
    )
    return [
        f"-A FORWARD {any_} -j {first}",
        f"-A {first} -i {bridge} ! -o {bridge} {same} -j {second}",
        *([f"-A {first} -i {bridge} -o {bridge} {isolated} -j DROP"] if policy == ISOLATED else []),
        f"-A {first} {any_} -j RETURN",
        f"-A {second} -o {bridge} {any_} -j DROP",
        f"-A {second} {any_} -j RETURN",
    ]


def _inverse(command: str) -> str:
    """The command that takes one back."""
    verb, chain, *words = command.split(" ", 2)
    if verb == "-N":
        return f"-X {chain}"
    if verb == "-D":
        return f"-I {chain} 1 {words[0]}"
    return f"-D {chain} {words[0].removeprefix('1 ')}"


def _bare(rule: str) -> str:
    return _COMMENT.sub("", rule)
