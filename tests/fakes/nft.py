"""The words of nft that this project uses."""

from __future__ import annotations

import copy
import re
from ipaddress import ip_network
from typing import Any

from cni.nft.apply import Busy, Exists, NftError, NotFound
from tests.fakes.ruleset import MARK, FakeChain, FakeRule, FakeSet, FakeTable, Ruleset, mangle, match, mentions, payload, right

_WHERE = r"(\S+) (\S+)"
_NAMED = rf"{_WHERE} (\S+)"
_PART = r'(?:"[^"]*"|[^" ]+)'


class FakeNft:
    """`cni.nft.apply.Nft`: the words of nft that this project uses, and no others."""

    def __init__(self, rules: Ruleset) -> None:
        self.rules = rules

    def close(self) -> None:
        """A fake has nothing open."""

    def available(self) -> str:
        return ""

    def run(self, text: str, what: str = "change nftables rules") -> None:
        """All of the lines or none."""
        before = copy.deepcopy(self.rules.tables)
        try:
            for line in text.splitlines():
                self._apply(line)
        except NftError as error:
            self.rules.tables = before
            raise type(error)(f"cannot {what}", f"Error: {error.msg}: {line}") from error

    def query(self, text: str) -> list[dict[str, Any]]:
        if found := re.fullmatch(r"list chains (\S+)", text):
            return [
                self._chain(key, name)
                for key, table in self.rules.tables.items()
                if key[0] == found[1]
                for name in table.chains
            ]
        if found := re.fullmatch(rf"list table {_WHERE}", text):
            return self._objects((found[1], found[2]), elements=True)
        if found := re.fullmatch(rf"list chain {_NAMED}", text):
            objects = self._objects((found[1], found[2]), elements=False)
            return [
                entry
                for entry in objects
                if found[3] in (entry.get("chain", {}).get("name"), entry.get("rule", {}).get("chain"))
            ]
        if found := re.fullmatch(rf"get element {_NAMED} \{{ (.+) \}}", text):
            family, table, name, key = found.groups()
            there = self.rules.tables.get((family, table), FakeTable()).sets.get(name)
            if there is None or key not in there.elements:
                return []
            body = {"family": family, "table": table, "name": name}
            return [{there.kind: body | {"elem": [_element(key, *there.elements[key], in_map=False)]}}]
        raise AssertionError(f"the fake does not understand {text!r}")

    def sets(self, family: str, lately: bool = False) -> list[dict[str, Any]]:
        told = [entry for key in self.rules.tables if key[0] == family for entry in self._objects(key, elements=False)]
        return [entry for entry in told if "set" in entry]

    def chain(self, where: str, lately: bool = False) -> list[dict[str, Any]]:
        return self.query(f"list chain {where}")

    def _objects(self, key: tuple[str, str], elements: bool) -> list[dict[str, Any]]:
        table = self.rules.tables.get(key)
        if table is None:
            return []
        family, name = key
        found: list[dict[str, Any]] = [{"table": {"family": family, "name": name}}]
        for set_name, there in table.sets.items():
            body: dict[str, Any] = {"family": family, "table": name, "name": set_name}
            if there.kind == "map":
                body["map"] = there.value
            if elements and there.elements:
                body["elem"] = [_element(k, *there.elements[k], in_map=there.kind == "map") for k in there.elements]
            found.append({there.kind: body})
        for chain_name, chain in table.chains.items():
            found.append(self._chain(key, chain_name))
            for rule in chain.rules:
                told = {"family": family, "table": name, "chain": chain_name, "handle": rule.handle, "expr": rule.expr}
                found.append({"rule": told | ({"comment": rule.comment} if rule.comment else {})})
        return found

    def _chain(self, key: tuple[str, str], name: str) -> dict[str, Any]:
        hook = self.rules.tables[key].chains[name].hook
        return {"chain": {"family": key[0], "table": key[1], "name": name, **hook}}

    def _apply(self, line: str) -> None:
        for pattern, function in self._WORDS:
            if found := re.fullmatch(pattern, line):
                function(self, *found.groups())
                return
        raise AssertionError(f"the fake does not understand {line!r}")

    def _table(self, family: str, name: str) -> FakeTable:
        if (family, name) not in self.rules.tables:
            raise NotFound(f"no table {family} {name}")
        return self.rules.tables[family, name]

    def _chain_at(self, family: str, table: str, name: str) -> FakeChain:
        chains = self._table(family, table).chains
        if name not in chains:
            raise NotFound(f"no chain {name}")
        return chains[name]

    def _set_at(self, family: str, table: str, name: str) -> FakeSet:
        sets = self._table(family, table).sets
        if name not in sets:
            raise NotFound(f"no set {name}")
        return sets[name]

    def _add_table(self, family: str, name: str) -> None:
        self.rules.tables.setdefault((family, name), FakeTable())

    def _delete_table(self, family: str, name: str) -> None:
        self._table(family, name)
        del self.rules.tables[family, name]

    def _add_chain(self, family: str, table: str, name: str, hook: str | None) -> None:
        keys: dict[str, Any] = {}
        if hook is not None:
            found = re.fullmatch(r"type (\S+) hook (\S+) priority (\S+); policy (\S+);", hook)
            assert found, f"the fake does not understand {hook!r}"
            keys = {"type": found[1], "hook": found[2], "prio": found[3], "policy": found[4]}
        self._table(family, table).chains.setdefault(name, FakeChain(keys))

    def _flush_chain(self, family: str, table: str, name: str) -> None:
        self._chain_at(family, table, name).rules.clear()

    def _flush_set(self, family: str, table: str, name: str) -> None:
        self._set_at(family, table, name).elements.clear()

    def _delete_chain(self, family: str, table: str, name: str) -> None:
        there = self._table(family, table)
        if self._chain_at(family, table, name).rules or self._is_used(there, {"jump": {"target": name}}):
            raise Busy(f"chain {name} is in use")
        del there.chains[name]

    def _add_rule(self, verb: str, family: str, table: str, chain: str, words: str) -> None:
        comment = ""
        if found := re.fullmatch(r'(.*) comment "([^"]*)"', words):
            words, comment = found.groups()
        expr = _expressions(words)
        for name in re.findall(r"@(\S+)", words):
            self._set_at(family, table, name)
        for word in expr:
            if "jump" in word:
                self._chain_at(family, table, word["jump"]["target"])
        rules = self._chain_at(family, table, chain).rules
        rules.insert(0 if verb == "insert" else len(rules), FakeRule(self.rules.handle(), expr, comment))

    def _delete_rule(self, family: str, table: str, chain: str, handle: str) -> None:
        rules = self._chain_at(family, table, chain).rules
        at = next((at for at, rule in enumerate(rules) if rule.handle == int(handle)), None)
        if at is None:
            raise NotFound(f"no rule with handle {handle}")
        del rules[at]

    def _add_set(self, kind: str, family: str, table: str, name: str, value: str | None, ranges: str | None) -> None:
        there = self._table(family, table).sets.setdefault(name, FakeSet(kind, {}, value or "", bool(ranges)))
        if there.kind != kind:
            raise Exists(f"{name} is a {there.kind}")

    def _delete_set(self, family: str, table: str, name: str) -> None:
        there = self._table(family, table)
        self._set_at(family, table, name)
        if self._is_used(there, "@" + name):
            raise Busy(f"set {name} is in use")
        del there.sets[name]

    def _add_element(
        self, verb: str, family: str, table: str, name: str, key: str, comment: str | None, value: str | None
    ) -> None:
        there = self._set_at(family, table, name)
        assert (value is not None) == (there.kind == "map"), f"a value belongs to a map's elements only: {name}"
        if key in there.elements:
            if verb == "create" or there.elements[key][0] != (value or ""):
                raise Exists(f"{key} is there with another value")
        elif there.ranges and any(_overlap(key, other) for other in there.elements):
            raise Exists(f"{key} overlaps another")
        else:
            there.elements[key] = (value or "", comment or "")

    def _delete_element(self, family: str, table: str, name: str, key: str) -> None:
        there = self._set_at(family, table, name)
        if key not in there.elements:
            raise NotFound(f"no element {key}")
        del there.elements[key]

    def _is_used(self, table: FakeTable, what: Any) -> bool:
        return any(mentions(rule.expr, what) for chain in table.chains.values() for rule in chain.rules)

    _WORDS: tuple[tuple[str, Any], ...] = (
        (rf"add table {_WHERE}", _add_table),
        (rf"delete table {_WHERE}", _delete_table),
        (rf"add chain {_NAMED}(?: \{{ (.*) \}})?", _add_chain),
        (rf"flush chain {_NAMED}", _flush_chain),
        (rf"flush set {_NAMED}", _flush_set),
        (rf"delete chain {_NAMED}", _delete_chain),
        (rf"delete rule {_NAMED} handle (\d+)", _delete_rule),
        (rf"(add|insert) rule {_NAMED} (.+)", _add_rule),
        (rf"add (set|map) {_NAMED} \{{ type [^;:]+?(?: : ([^;]+))?;( flags interval;)? \}}", _add_set),
        (rf"delete (?:set|map) {_NAMED}", _delete_set),
        (rf'(add|create) element {_NAMED} \{{ ({_PART}(?: \. {_PART})*)(?: comment "([^"]*)")?(?: : (.+))? \}}', _add_element),
        (rf"delete element {_NAMED} \{{ (.+) \}}", _delete_element),
    )


def _element(key: str, value: str, comment: str, *, in_map: bool) -> Any:
    told = _told(key)
    if comment:
        told = {"elem": {"val": told, "comment": comment}}
    return [told, int(value, 16) if value.startswith("0x") else _told(value)] if in_map else told


def _told(text: str) -> Any:
    """A key or value as nft's JSON has it."""
    parts = [_told_part(part) for part in text.split(" . ")]
    return {"concat": parts} if len(parts) > 1 else parts[0]


def _told_part(part: str) -> Any:
    address, slash, length = part.partition("/")
    return int(part) if part.isdecimal() else {"prefix": {"addr": address, "len": int(length)}} if slash else part.strip('"')


def _overlap(one: str, other: str) -> bool:
    pairs = zip(map(ip_network, one.split(" . ")), map(ip_network, other.split(" . ")), strict=True)
    return all(a.overlaps(b) for a, b in pairs)


def _expressions(words: str) -> list[Any]:
    """A rule's words as nft's JSON has them."""
    found: list[Any] = []
    while words:
        for pattern, made in (
            (r"(continue|masquerade|drop|accept)", lambda m: {m[1]: None}),
            (r"counter", lambda m: {"counter": {"packets": 0, "bytes": 0}}),
            (r"meta mark and (0x\w+) (==|!=) (\w+)", lambda m: match(m[2], {"&": [MARK, int(m[1], 16)]}, int(m[3], 0))),
            (r"meta mark set meta mark (and|or) (0x\w+)", lambda m: mangle("&" if m[1] == "and" else "|", int(m[2], 16))),
            (r"ct state (\S+)", lambda m: match("in", {"ct": {"key": "state"}}, m[1].split(","))),
            (
                r"iifname \. oifname (@\S+)",
                lambda m: match("==", {"concat": [{"meta": {"key": f"{side}ifname"}} for side in "io"]}, m[1]),
            ),
            (r"(iifname|oifname) (@\S+)", lambda m: match("==", {"meta": {"key": m[1]}}, m[2])),
            (r"jump (\S+)", lambda m: {"jump": {"target": m[1]}}),
            (r"meta nfproto (\S+)", lambda m: match("==", {"meta": {"key": "nfproto"}}, m[1])),
            (r"fib daddr type local", lambda m: match("==", {"fib": {"result": "type", "flags": ["daddr"]}}, "local")),
            (r"dnat (ip6?) to (.+) map (@\S+)", lambda m: _dnat(m[1], m[2], m[3])),
            (
                r"(ip6?) saddr \. ip6? daddr (@\S+)",
                lambda m: match("==", {"concat": [payload(m[1], "saddr"), payload(m[1], "daddr")]}, m[2]),
            ),
            (r"ct status (\S+)", lambda m: match("in", {"ct": {"key": "status"}}, m[1])),
            (
                r"iifname \. ether saddr != (@\S+)",
                lambda m: match("!=", {"concat": [{"meta": {"key": "iifname"}}, payload("ether", "saddr")]}, m[1]),
            ),
            (
                r"(ip6?) (saddr|daddr) (!= )?(@\S+|\{ [^}]+ \}|\S+)",
                lambda m: match("!=" if m[3] else "==", payload(m[1], m[2]), right(m[4])),
            ),
        ):
            if head := re.match(rf"{pattern}(?: |$)", words):
                found.append(made(head))
                words = words[head.end() :]
                break
        else:
            raise AssertionError(f"the fake does not understand {words!r}")
    return found


def _dnat(family: str, key: str, name: str) -> dict[str, Any]:
    parts = {
        "meta l4proto": {"meta": {"key": "l4proto"}},
        "th dport": payload("th", "dport"),
        f"{family} daddr": payload(family, "daddr"),
    }
    concat = [parts[part] for part in key.split(" . ")]
    return {"dnat": {"family": family, "addr": {"map": {"key": {"concat": concat}, "data": name}}}}
