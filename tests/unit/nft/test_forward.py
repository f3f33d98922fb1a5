"""The firewall's table: plans by what is there, what a sweep finds, FORWARD as it was seen."""

from __future__ import annotations

from typing import Any

import pytest

from cni.nft import firewall, forward
from cni.nft.firewall import Facts, Wanted
from cni.nft.forward import Hook, Table
from cni.nft.ops import BindSource, InCaseOfUndo, RunNft, Sweep
from cni.spec.addresses import parse_ip
from cni.spec.owner import Owner

OWNER = Owner("net", "c1", "eth0")
LABEL, OTHER = OWNER.label, Owner("net", "c2", "eth0").label
V4, V6 = parse_ip("10.1.0.5"), parse_ip("fd00::5")
FULL = Table(
    intact=True,
    owners={"10.1.0.5": LABEL, "10.1.0.6": OTHER},
    pods=frozenset({"10.1.0.5", "10.1.0.6"}),
    policies={"same-bridge": frozenset({("br0", OTHER)}), "isolated": frozenset({("br0", LABEL)})},
    bridges=frozenset({"br0"}),
    within=frozenset({"br0"}),
    closed=frozenset({"br0"}),
)


def texts(plan: list[Any]) -> list[str]:
    return [op.text for op in plan if isinstance(op, RunNft)]


def test_an_add_where_all_is_there_is_of_elements_alone() -> None:
    facts = Facts(
        addresses=(V4, V6), backend="nftables", ready=True, hooks={False: Hook(present=True, intact=True), True: Hook()}
    )
    plan = firewall.plan_add(OWNER, Wanted(admin="CNI-ADMIN"), facts)
    assert isinstance(plan[0], InCaseOfUndo)
    assert texts(plan) == [forward.claim(LABEL, V4), forward.claim(LABEL, V6)]
    assert "insert rule ip filter" in plan[1].missing and "insert rule" not in plan[2].missing  # type: ignore[union-attr]


def test_the_first_address_of_a_family_writes_the_rules() -> None:
    two = parse_ip("10.1.0.9")
    facts = Facts(addresses=(V4, two), backend="nftables", hooks={False: Hook(present=True, handles=(7, 8))})
    first, second = texts(firewall.plan_add(OWNER, Wanted(admin="MINE"), facts))
    assert first == forward.skeleton() + forward.pass_filter(False, "MINE", (7, 8)) + forward.passed(False) + forward.claim(
        LABEL, V4
    )
    assert second == forward.claim(LABEL, two)
    assert "delete rule ip filter FORWARD handle 7\n" in first


def test_rules_that_a_sweep_may_have_taken_since_are_made_anew() -> None:
    """FORWARD looked well, and then there was no table: the rules that were seen go, or are not found."""
    hook = Hook(present=True, intact=True, handles=(3, 4), admins=("THEIRS",))
    facts = Facts(addresses=(V4,), backend="nftables", hooks={False: hook})
    (text,) = texts(firewall.plan_add(OWNER, Wanted(admin="MINE"), facts))
    assert forward.pass_filter(False, "MINE", (3, 4), ("THEIRS",)) in text


def test_beside_firewalld_a_filter_of_iptables_is_opened_too() -> None:
    facts = Facts(addresses=(V4,), backend="firewalld", hooks={False: Hook(present=True, drops=True)})
    plan = firewall.plan_add(OWNER, Wanted(admin="MINE", zone="trusted"), facts)
    assert [type(op) for op in plan] == [BindSource, InCaseOfUndo, RunNft]
    assert len(firewall.check(OWNER, Wanted(admin="MINE", zone="trusted"), facts)) == 3


def test_beside_firewalld_an_open_filter_is_left_alone() -> None:
    facts = Facts(addresses=(V4,), backend="firewalld", hooks={False: Hook(present=True)}, bound=(V4,))
    plan = firewall.plan_add(OWNER, Wanted(admin="MINE", zone="trusted"), facts)
    assert [type(op) for op in plan] == [BindSource]
    assert not firewall.check(OWNER, Wanted(admin="MINE", zone="trusted"), facts)


def test_an_element_of_nobody_goes_with_a_sweep() -> None:
    seen = Table(intact=True, owners={"10.1.0.6": OTHER}, pods=frozenset({"10.1.0.6", "fd00::7"}))
    assert forward.idle(seen)
    assert not forward.idle(Table(intact=True, owners={"10.1.0.6": OTHER}, pods=frozenset({"10.1.0.6"})))


def test_policies_need_our_table_beside_firewalld() -> None:
    facts = Facts(addresses=(V4,), backend="firewalld")
    plan = firewall.plan_add(OWNER, Wanted(zone="trusted", policy="isolated", bridge="br0"), facts)
    assert [type(op) for op in plan] == [BindSource, InCaseOfUndo, RunNft]
    assert texts(plan) == [forward.skeleton() + forward.claim_policy(LABEL, "br0", "isolated")]


def test_without_addresses_nothing_is_done() -> None:
    for backend in firewall.BACKENDS:
        assert firewall.plan_add(OWNER, Wanted(policy="isolated"), Facts(backend=backend)) == []


def test_del_knows_its_own_by_the_label() -> None:
    plan = firewall.plan_del(OWNER, "trusted", Facts(table=FULL))
    assert texts(plan) == [forward.remove(LABEL, V4), forward.remove_policy(LABEL, "br0", "isolated")]
    assert isinstance(plan[-1], Sweep)


def test_nobody_sweeps_in_a_crowd() -> None:
    crowd = Table(intact=True, owners={f"10.1.0.{number}": f"podwire/net/c{number}/eth0" for number in range(100)})
    plan = firewall.plan_del(OWNER, "trusted", Facts(table=crowd))
    assert texts(plan) == [forward.remove(LABEL, parse_ip("10.1.0.1"))] and not isinstance(plan[-1], Sweep)


@pytest.mark.parametrize(
    ("gone", "wanted"),
    [((), {"br0": "isolated"}), ((LABEL,), {"br0": "same-bridge"}), ((LABEL, OTHER), {})],
)
def test_the_strictest_policy_holds(gone: tuple[str, ...], wanted: dict[str, str]) -> None:
    assert FULL.wanted(gone) == wanted
    assert forward.idle(FULL, gone) is bool(gone)


def listing(*rules: list[Any], comment: str = "") -> list[dict[str, Any]]:
    chain = {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward"}}
    where = {"family": "ip", "table": "filter", "chain": "FORWARD"} | ({"comment": comment} if comment else {})
    return [chain, *({"rule": {**where, "handle": number, "expr": expr}} for number, expr in enumerate(rules, 1))]


JUMP = [{"counter": {"packets": 1, "bytes": 2}}, {"jump": {"target": "CNI-ADMIN"}}]
PASS = [
    {"match": {"op": "==", "left": {"&": [{"meta": {"key": "mark"}}, 4096]}, "right": 4096}},
    {"counter": {"packets": 0, "bytes": 0}},
    {"accept": None},
]
XT = {"xt": {"type": "match", "name": "comment"}}
DROP = [{"drop": None}]


@pytest.mark.parametrize(
    ("rules", "intact", "handles"),
    [
        ((JUMP, PASS), True, ()),  # an administrator's
        (([XT, *JUMP], [PASS[0], XT, *PASS[1:]]), True, (1, 2)),  # by iptables-restore
        (([XT, *JUMP], [XT, *JUMP], [*PASS[:1], *DROP], [XT, *JUMP], [PASS[0], XT, *PASS[1:]]), True, (4, 5)),
        (([*PASS[:1], *DROP], JUMP, PASS, DROP), True, ()),
        ((PASS, JUMP), False, ()),
        ((PASS,), False, ()),
        ((JUMP,), False, ()),
        (([{"jump": {"target": "OTHER"}}], PASS), False, ()),
        (([*PASS[:1], *JUMP], PASS), False, ()),  # it asks about some packets only
        ((), False, ()),
    ],
)
def test_forward_as_it_was_seen(rules: tuple[list[Any], ...], intact: bool, handles: tuple[int, ...]) -> None:
    assert forward.parse_forward(listing(*rules), False, "CNI-ADMIN") == Hook(present=True, intact=intact, handles=handles)
    assert forward.parse_forward(listing(*rules), True, "CNI-ADMIN") == Hook()


@pytest.mark.parametrize(
    ("rules", "closed"),
    [((DROP, JUMP, PASS), True), ((JUMP, DROP, PASS), True), ((JUMP, PASS, DROP), False), ((DROP,), False)],
)
def test_a_rule_above_that_drops_all(rules: tuple[list[Any], ...], closed: bool) -> None:
    assert forward.parse_forward(listing(*rules), False, "CNI-ADMIN").closed is closed


def test_our_jump_is_known_by_its_comment() -> None:
    assert forward.parse_forward(listing(JUMP, PASS, comment=forward.NOTE), False, "CNI-ADMIN").handles == (1, 2)


def test_no_filter_is_no_hook() -> None:
    assert forward.parse_forward([], False, "CNI-ADMIN") == Hook()
