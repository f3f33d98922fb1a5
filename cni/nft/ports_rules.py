"""PURE. The chains of published ports: their rules in nft's words, and as nft tells them (``cni.nft.ports`` says what for)."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

from cni.nft.listing import bodies

LOCAL = "127.0.0.0/8"
_LOCAL_TOLD = {"prefix": {"addr": "127.0.0.0", "len": 8}}

# Ports at one address go before those at any.
_LOOKUPS = (("hosts", True), ("ports", False))

_IP = {False: "ip", True: "ip6"}
_V = {False: "4", True: "6"}
_FAMILIES = (False, True)


class Conditions(msgspec.Struct, frozen=True):
    """Further matches, in nft's language, of what is led to pods; by family."""

    v4: str = ""
    v6: str = ""

    @property
    def suffix(self) -> str:
        """What distinguishes the names of chains and maps."""
        return "_" + sha256(f"{self.v4}\n{self.v6}".encode()).hexdigest()[:8] if self.v4 or self.v6 else ""


class Rule(msgspec.Struct, frozen=True):
    """A rule or a part of one: in nft's words, and as nft's JSON tells it. ``open`` says that there are conditions in it, of
    which ``told`` says nothing.
    """

    words: str
    told: list[Any]
    open: bool = False


def chains(conditions: Conditions) -> dict[str, tuple[str, list[Rule]]]:
    """The chains that ports with these conditions need: hook and rules. A chain that is jumped to comes first."""
    suffix = conditions.suffix
    lookups = [_dnat(v6, name + _V[v6] + suffix, joined) for v6 in _FAMILIES for name, joined in _LOOKUPS]
    leads = [_jump(v6, conditions.v6 if v6 else conditions.v4, f"ports{suffix}") for v6 in _FAMILIES]
    local = Rule(f"ip saddr {LOCAL}", _match(_field(False, "saddr"), _LOCAL_TOLD))
    pods = [_masquerade(local, _in(False, ["daddr"], "snat4"))]
    for v6 in _FAMILIES:
        v = _V[v6]
        pods += [
            _masquerade(_in(v6, ["daddr"], f"any{v}")),
            _masquerade(_in(v6, ["saddr", "daddr"], f"near{v}"), _in(v6, ["daddr"], f"snat{v}")),
            _masquerade(_in(v6, ["saddr", "daddr"], f"self{v}")),
        ]
    martians = [Rule(f"ip {field} {LOCAL}", _match(_field(False, field), _LOCAL_TOLD)) for field in ("daddr", "saddr")]
    interface = Rule("iifname @localnet", _match({"meta": {"key": "iifname"}}, "@localnet"))
    return {
        f"ports{suffix}": ("", lookups),
        f"prerouting{suffix}": ("type nat hook prerouting priority -100; policy accept;", leads),
        f"output{suffix}": ("type nat hook output priority -100; policy accept;", leads),
        "postrouting": ("type nat hook postrouting priority 100; policy accept;", pods),
        "guard": (
            "type filter hook prerouting priority -300; policy accept;",
            [_joined(interface, martian, Rule("drop", [{"drop": None}])) for martian in martians],
        ),
    }


def intact(name: str, conditions: Conditions, objects: list[dict[str, Any]]) -> bool:
    """Whether a chain is hooked where it should be and has exactly the rules of ``chains``. What nft tells of conditions it was
    given in other words, so of rules that have some the end is compared.
    """
    hook, rules = chains(conditions)[name]
    body: dict[str, Any] = next(bodies(objects, "chain"), {})
    hooked = f"type {body['type']} hook {body['hook']} " if "hook" in body else ""
    told = [_comparable(rule["expr"]) for rule in bodies(objects, "rule")]
    if not objects or not hook.startswith(hooked) or bool(hook) != bool(hooked) or len(told) != len(rules):
        return False
    return all(
        (expressions[-2:] == rule.told[-2:] if rule.open else expressions == rule.told)
        for expressions, rule in zip(told, rules, strict=True)
    )


def _match(left: Any, right: Any, op: str = "==") -> list[Any]:
    return [{"match": {"op": op, "left": left, "right": right}}]


def _field(v6: bool, name: str) -> dict[str, Any]:
    return {"payload": {"protocol": _IP[v6], "field": name}}


def _in(v6: bool, fields: list[str], name: str) -> Rule:
    """Whether addresses of a packet are in a set."""
    told = [_field(v6, field) for field in fields]
    left = told[0] if len(told) == 1 else {"concat": told}
    return Rule(" . ".join(f"{_IP[v6]} {field}" for field in fields) + f" @{name}", _match(left, f"@{name}"))


def _dnat(v6: bool, name: str, at_one: bool) -> Rule:
    """Look up where a packet is led to: by protocol and port, and by address, too, if the map has ports of one address."""
    key = [{"meta": {"key": "l4proto"}}, {"payload": {"protocol": "th", "field": "dport"}}]
    words = "meta l4proto . th dport"
    if at_one:
        key, words = [_field(v6, "daddr"), *key], f"{_IP[v6]} daddr . {words}"
    told = {"dnat": {"family": _IP[v6], "addr": {"map": {"key": {"concat": key}, "data": f"@{name}"}}}}
    return Rule(f"dnat {_IP[v6]} to {words} map @{name}", [told])


def _jump(v6: bool, conditions: str, chain: str) -> Rule:
    """Lead what is for an address of the host to the lookups, if the conditions hold."""
    family = "ipv6" if v6 else "ipv4"
    told = [*_match({"meta": {"key": "nfproto"}}, family), *_match({"fib": {"result": "type", "flags": "daddr"}}, "local")]
    words = [f"meta nfproto {family}", conditions, f"fib daddr type local jump {chain}"]
    return Rule(" ".join(filter(None, words)), [*told, {"jump": {"target": chain}}], bool(conditions))


def _masquerade(*matches: Rule) -> Rule:
    """Masquerade a connection that was led elsewhere."""
    led = Rule("ct status dnat", _match({"ct": {"key": "status"}}, "dnat", "in"))
    return _joined(led, *matches, Rule("masquerade", [{"masquerade": None}]))


def _joined(*parts: Rule) -> Rule:
    return Rule(" ".join(part.words for part in parts), [told for part in parts for told in part.told])


def _comparable(expressions: list[Any]) -> list[Any]:
    """What nft tells of a rule, in one form: versions differ in whether a list of one is a list."""
    return [_plain(expression) for expression in expressions]


def _plain(told: Any) -> Any:
    if isinstance(told, dict):
        return {key: _plain(value) for key, value in told.items()}
    if isinstance(told, list):
        return _plain(told[0]) if len(told) == 1 else [_plain(part) for part in told]
    return told
