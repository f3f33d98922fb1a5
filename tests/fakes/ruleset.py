"""Packet rules in memory, and the JSON expressions that they consist of."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakeRule(msgspec.Struct, eq=False):
    """A rule as JSON expressions; `line` is what iptables-save prints of it."""

    handle: int
    expr: list[Any]
    comment: str = ""
    line: str = ""


class FakeChain(msgspec.Struct, eq=False):
    """A chain; `hook` holds the keys that only a base chain has."""

    hook: dict[str, Any] = {}
    rules: list[FakeRule] = []


class FakeSet(msgspec.Struct, eq=False):
    """A set or map: key as written to value (empty in a set) and comment."""

    kind: str
    elements: dict[str, tuple[str, str]] = {}
    value: str = ""
    ranges: bool = False


class FakeTable(msgspec.Struct, eq=False):
    """A table."""

    chains: dict[str, FakeChain] = {}
    sets: dict[str, FakeSet] = {}


class Ruleset:
    """All packet rules of the host, changed in transactions."""

    def __init__(self) -> None:
        self.tables: dict[tuple[str, str], FakeTable] = {}
        self.last_handle = 0

    def handle(self) -> int:
        self.last_handle += 1
        return self.last_handle

    def dump(self) -> Iterator[str]:
        for (family, name), table in sorted(self.tables.items()):
            yield f"table {family} {name}"
            for chain_name, chain in sorted(table.chains.items()):
                yield f"  chain {chain_name} {' '.join(f'{key} {value}' for key, value in chain.hook.items())}".rstrip()
                yield from (f"    {rule.line or rule.expr}{f' # {rule.comment}' * bool(rule.comment)}" for rule in chain.rules)
            for set_name, found in sorted(table.sets.items()):
                yield f"  {found.kind} {set_name}"
                for key, (value, comment) in sorted(found.elements.items()):
                    yield f"    {key}{f' : {value}' * bool(value)}{f' # {comment}' * bool(comment)}"


def mentions(expr: Any, what: Any) -> bool:
    if expr == what:
        return True
    if isinstance(expr, dict):
        return any(mentions(inner, what) for inner in expr.values())
    return isinstance(expr, list) and any(mentions(inner, what) for inner in expr)


MARK = {"meta": {"key": "mark"}}


def mangle(op: str, bits: int) -> dict[str, Any]:
    return {"mangle": {"key": MARK, "value": {op: [MARK, bits]}}}


def match(op: str, left: Any, right: Any) -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def payload(protocol: str, what: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": what}}


def right(text: str) -> Any:
    if text.startswith("@"):
        return text
    if text.startswith("{"):
        return {"set": [right(part) for part in text.strip("{} ").split(", ")]}
    network = ip_network(text)
    if network.prefixlen == network.max_prefixlen:
        return str(network.network_address)
    return {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}
