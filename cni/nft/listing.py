"""PURE. Reading nft's listings: the answers that come as text, and the shapes of elements and rules in its JSON."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_HEAD = re.compile(r"^table (\S+) (\S+) \{.*?^\s*(set|map) (\S+) \{", re.MULTILINE | re.DOTALL)
_ELEMENTS = re.compile(r"elements = \{ (.*?) \}\s*$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r' comment "([^"]*)"')


def parse_get(text: str) -> list[dict[str, Any]]:
    """The text answer to ``get element`` for one element, in the shape of the JSON answer (without a map's value)."""
    head, elements = _HEAD.search(text), _ELEMENTS.search(text)
    if head is None or elements is None:
        return []
    family, table, kind, name = head.groups()
    body = elements.group(1)
    comment = _COMMENT.search(body)
    key = (body[: comment.start()] if comment else body.split(" : ")[0]).strip()
    parts = [part.strip().strip('"') for part in key.split(" . ")]
    value: Any = {"concat": parts} if len(parts) > 1 else parts[0]
    element = {"elem": {"val": value, "comment": comment.group(1)}} if comment else value
    return [{kind: {"family": family, "table": table, "name": name, "elem": [element]}}]


def bodies(objects: Iterable[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    """The objects of a kind (``chain``, ``rule``, ``set``, ``map``), unwrapped."""
    return (entry[kind] for entry in objects if kind in entry)


def elements(body: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """Key and comment of each element of a set or map; a concatenated key is a tuple."""
    return ((key, comment) for key, comment, _ in entries(body))


def entries(body: dict[str, Any]) -> Iterator[tuple[Any, str, Any]]:
    """Key, comment and, for a map's, value of each element; what is concatenated is a tuple, a range its text."""
    is_map = "map" in body
    for element in body.get("elem", ()):
        entry, value = element if is_map and isinstance(element, list) else (element, None)
        key, comment = entry, ""
        if isinstance(entry, dict) and "elem" in entry:
            key, comment = entry["elem"]["val"], entry["elem"].get("comment", "")
        yield _joined(key), comment, _joined(value)


def _joined(value: Any) -> Any:
    if isinstance(value, dict) and "concat" in value:
        return tuple(map(_joined, value["concat"]))
    if isinstance(value, dict) and "prefix" in value:
        return f"{value['prefix']['addr']}/{value['prefix']['len']}"
    return value


def chain_names(objects: Iterable[dict[str, Any]], table: str) -> tuple[str, ...]:
    """The names of a table's chains."""
    return tuple(body["name"] for body in bodies(objects, "chain") if body["table"] == table)


def matched(rule: dict[str, Any], field: str) -> str:
    """The single value that a rule compares an address field (``saddr``, ``daddr``) with, as ``address[/length]``; or empty."""
    for expression in rule.get("expr", ()):
        match = expression.get("match") if isinstance(expression, dict) else None
        if not match or match["left"].get("payload", {}).get("field") != field:
            continue
        right = match["right"]
        if isinstance(right, dict) and "prefix" in right:
            return f"{right['prefix']['addr']}/{right['prefix']['len']}"
        if isinstance(right, str):
            return right
    return ""


def target(rule: dict[str, Any]) -> str:
    """The chain that a rule jumps or goes to; empty when to none."""
    for expression in rule.get("expr", ()):
        for verdict in ("jump", "goto"):
            if isinstance(expression, dict) and verdict in expression:
                return str(expression[verdict]["target"])
    return ""
