"""The words of iptables-restore that this project uses."""

from __future__ import annotations

import copy
import re
import shlex
from typing import Any

from cni.nft.iptables import ChainExists, IptablesError
from tests.fakes.ruleset import FakeChain, FakeRule, FakeTable, Ruleset, match, mentions, payload, right

# The base chains that a call of iptables makes, by table.
_BASE_CHAINS = {
    "nat": (("POSTROUTING", "postrouting", "100"), ("PREROUTING", "prerouting", "-100"), ("OUTPUT", "output", "-100")),
    "filter": (("FORWARD", "forward", "0"),),
}


class FakeIptables:
    """`cni.nft.iptables.Iptables` of the nft variant: its rules are in the same ruleset, where nft sees them."""

    # Words with one argument that mean nothing to those who read these rules by nft.
    _MATCHES = ("-m", "-p", "--dport", "--dports", "--destination-ports", "--dst-type", "--mark")

    def __init__(self, rules: Ruleset) -> None:
        self.rules = rules

    def available(self, table: str = "nat", families: tuple[bool, ...] = (False, True)) -> str:
        return ""

    def legacy(self, v6: bool, table: str = "nat") -> bool:
        return False

    def restore(self, v6: bool, text: str, what: str = "change iptables rules", legacy: bool = False) -> None:
        """`iptables-restore --noflush`: all of it or nothing."""
        assert not legacy, "the fake has no legacy tables"
        lines = text.splitlines()
        assert (lines[0], lines[-1]) in (("*nat", "COMMIT"), ("*filter", "COMMIT")), text
        before = copy.deepcopy(self.rules.tables)
        family, name = "ip6" if v6 else "ip", lines[0][1:]
        table = self.rules.tables.setdefault((family, name), FakeTable())
        for chain, hook, prio in _BASE_CHAINS[name]:
            table.chains.setdefault(chain, FakeChain({"type": name, "hook": hook, "prio": prio, "policy": "accept"}))
        try:
            for line in lines[1:-1]:
                self._apply(table, family, line)
        except (AssertionError, ChainExists):
            self.rules.tables = before
            raise
        except KeyError as error:
            self.rules.tables = before
            raise IptablesError(f"cannot {what}", f"iptables-restore: line failed: {line}") from error

    def save(self, v6: bool, legacy: bool = False, table: str = "nat") -> str:
        assert not legacy, "the fake has no legacy tables"
        nat = self.rules.tables.get(("ip6" if v6 else "ip", table))
        if nat is None:
            return ""
        told = [f":{name} {'ACCEPT' if chain.hook else '-'} [0:0]" for name, chain in nat.chains.items()]
        told += [rule.line for chain in nat.chains.values() for rule in chain.rules]
        return "\n".join([f"*{table}", *told, "COMMIT", ""])

    def _apply(self, nat: FakeTable, family: str, line: str) -> None:
        if found := re.fullmatch(r":(\S+) - \[0:0\]", line):
            nat.chains[found[1]] = FakeChain()
        elif found := re.fullmatch(r"-N (\S+)", line):
            if found[1] in nat.chains:
                raise ChainExists("cannot make a chain", f"{found[1]}: Chain already exists.")
            nat.chains[found[1]] = FakeChain()
        elif found := re.fullmatch(r"-I (\S+) 1 (.*)", line):
            rule = FakeRule(self.rules.handle(), *self._rule(nat, family, found[2]), f"-A {found[1]} {found[2]}")
            nat.chains[found[1]].rules.insert(0, rule)
        elif found := re.fullmatch(r"-F (\S+)", line):
            nat.chains[found[1]].rules.clear()
        elif found := re.fullmatch(r"-X (\S+)", line):
            used = any(mentions(rule.expr, {"target": found[1]}) for chain in nat.chains.values() for rule in chain.rules)
            if nat.chains[found[1]].rules or used:
                raise KeyError(found[1])
            del nat.chains[found[1]]
        elif found := re.fullmatch(r"-A (\S+) (.*)", line):
            rule = FakeRule(self.rules.handle(), *self._rule(nat, family, found[2]), line)
            nat.chains[found[1]].rules.append(rule)
        elif found := re.fullmatch(r"-D (\S+) (.*)", line):
            rules = nat.chains[found[1]].rules
            at = [rule.line for rule in rules].index("-A" + line[2:]) if "-A" + line[2:] in [r.line for r in rules] else None
            if at is None:
                raise KeyError(line)
            del rules[at]
        else:
            raise AssertionError(f"the fake does not understand {line!r}")

    def _rule(self, nat: FakeTable, family: str, words: str) -> tuple[list[Any], str]:
        tokens, expr, comment, inverted = shlex.split(words), [], "", False
        while tokens:
            word = tokens.pop(0)
            if word == "!":
                inverted = True
            elif word in ("-s", "-d"):
                side = "saddr" if word == "-s" else "daddr"
                expr.append(match("!=" if inverted else "==", payload(family, side), right(tokens.pop(0))))
                inverted = False
            elif word in ("-i", "-o"):
                expr.append(match("!=" if inverted else "==", {"meta": {"key": f"{word[1]}ifname"}}, tokens.pop(0)))
                inverted = False
            elif word == "-m" and tokens[0] == "conntrack":
                expr.append({"xt": {"type": "match", "name": "conntrack"}})
                del tokens[:3]
            elif word == "-m" and tokens[0] == "comment":
                assert tokens[1] == "--comment", words
                comment = tokens[2]
                del tokens[:3]
            elif word in self._MATCHES:
                expr.append({"xt": {"type": "match", "name": f"{word} {tokens.pop(0)}"}})
            elif word == "-j":
                target = tokens.pop(0)
                if target in ("ACCEPT", "MASQUERADE", "DROP", "RETURN"):
                    expr.append({target.lower(): None})
                elif target in ("DNAT", "MARK"):
                    expr.append({"xt": {"type": "target", "name": f"{target} {tokens}"}})
                    tokens.clear()
                elif target in nat.chains:
                    expr.append({"jump": {"target": target}})
                else:
                    raise KeyError(target)
            else:
                raise AssertionError(f"the fake does not understand {word!r} of {words!r}")
        return expr, comment
