"""Reading nft's answers, as text and as JSON."""

from __future__ import annotations

from typing import Any

import pytest

from cni.nft.listing import elements, matched, parse_get, target

GET = """table inet t {
\t%s s { # handle 3
\t\ttype ipv4_addr%s
\t\telements = { %s }
\t}
}
"""


@pytest.mark.parametrize(
    ("kind", "element", "value", "comment"),
    [
        ("set", "10.1.0.5", "10.1.0.5", ""),
        ("set", '10.1.0.5 comment "podwire/a/b/c"', "10.1.0.5", "podwire/a/b/c"),
        ("map", '10.1.0.5 comment "podwire/~aa/~bb" : 0x00000007', "10.1.0.5", "podwire/~aa/~bb"),
        ("map", "fd00::5 : 0x00000007", "fd00::5", ""),
        ("set", '"veth1"', "veth1", ""),
        ("set", '"veth1" . 02:00:00:00:00:01 comment "x y"', ("veth1", "02:00:00:00:00:01"), "x y"),
    ],
)
def test_an_element_is_read_from_text(kind: str, element: str, value: Any, comment: str) -> None:
    (told,) = parse_get(GET % (kind, " : mark" if kind == "map" else "", element))
    assert list(elements(told[kind])) == [(value, comment)]


@pytest.mark.parametrize("text", ["", "table inet t {\n}\n", "table inet t {\n\tset s {\n\t\ttype ipv4_addr\n\t}\n}\n"])
def test_no_element_is_an_empty_answer(text: str) -> None:
    assert parse_get(text) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"elem": ["10.1.0.5", {"elem": {"val": "10.1.0.6", "comment": "c"}}]}, [("10.1.0.5", ""), ("10.1.0.6", "c")]),
        ({"map": "mark", "elem": [["10.1.0.5", 7]]}, [("10.1.0.5", "")]),
        ({"map": "mark", "elem": [[{"elem": {"val": "10.1.0.5", "comment": "c"}}, 7]]}, [("10.1.0.5", "c")]),
        ({"elem": [{"concat": ["veth1", "m"]}]}, [(("veth1", "m"), "")]),
        ({}, []),
    ],
)
def test_elements_are_read_from_json(body: dict[str, Any], expected: list[tuple[Any, str]]) -> None:
    assert list(elements(body)) == expected


def _rule(*expr: Any) -> dict[str, Any]:
    return {"expr": list(expr)}


def _saddr(right: Any) -> dict[str, Any]:
    return {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": right}}


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (_rule(_saddr("10.1.0.5")), "10.1.0.5"),
        (_rule(_saddr({"prefix": {"addr": "10.1.0.0", "len": 16}})), "10.1.0.0/16"),
        (_rule({"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "x"}}), ""),
        (_rule(_saddr({"set": ["10.1.0.5"]})), ""),
        (_rule(None), ""),
        ({}, ""),
    ],
)
def test_the_address_that_a_rule_matches(rule: dict[str, Any], source: str) -> None:
    assert matched(rule, "saddr") == source


@pytest.mark.parametrize(
    ("rule", "chain"),
    [
        (_rule({"jump": {"target": "a"}}), "a"),
        (_rule({"counter": {}}, {"goto": {"target": "b"}}), "b"),
        (_rule({"accept": None}), ""),
        (_rule(), ""),
    ],
)
def test_the_chain_that_a_rule_leads_to(rule: dict[str, Any], chain: str) -> None:
    assert target(rule) == chain
