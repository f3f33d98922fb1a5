"""The MAC spoof check: its text, what is read, what is decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from cni.nft import spoof
from cni.nft.ops import RunNft, apply_nft
from cni.nft.spoof import Facts, Table
from cni.spec.owner import Owner
from tests.fakes import FakeNft, Ruleset
from tests.unit.nft.recorded import ANSWERS, MAC, OWNER, VETH, ScriptedDoors

if TYPE_CHECKING:
    from cni.nft.apply import Nft

OTHER = Owner("dbnet", "def456", "eth0")
LABEL = OWNER.label


def test_adding_is_one_text() -> None:
    assert spoof.add(LABEL, VETH, MAC).splitlines() == [
        "add table bridge podwire_macspoofchk",
        "add set bridge podwire_macspoofchk sweeps { type mark; }",
        "add set bridge podwire_macspoofchk guarded { type ifname; }",
        "add set bridge podwire_macspoofchk allowed { type ifname . ether_addr; }",
        "add chain bridge podwire_macspoofchk check { type filter hook prerouting priority -300; policy accept; }",
        "flush chain bridge podwire_macspoofchk check",
        "add rule bridge podwire_macspoofchk check iifname @guarded iifname . ether saddr != @allowed drop",
        f'add element bridge podwire_macspoofchk guarded {{ "{VETH}" }}',
        f'delete element bridge podwire_macspoofchk guarded {{ "{VETH}" }}',
        f'add element bridge podwire_macspoofchk allowed {{ "{VETH}" . {MAC} }}',
        f'delete element bridge podwire_macspoofchk allowed {{ "{VETH}" . {MAC} }}',
        *CLAIM,
    ]


CLAIM = [
    "flush set bridge podwire_macspoofchk sweeps",
    f'add element bridge podwire_macspoofchk allowed {{ "{VETH}" . {MAC} comment "{LABEL}" }}',
    f'add element bridge podwire_macspoofchk guarded {{ "{VETH}" }}',
]


def test_where_all_is_as_it_should_be_only_elements_are_added() -> None:
    facts = spoof.look(ScriptedDoors("our spoof check"), OWNER, True, "ADD")
    (step,) = spoof.plan_add(OWNER, VETH, MAC, facts)
    assert step.text.splitlines() == CLAIM and step.missing == spoof.add(LABEL, VETH, MAC)


def test_the_plan_has_its_inverse() -> None:
    (step,) = spoof.plan_add(OWNER, VETH, MAC, Facts())
    inverse = step.inverse()
    assert inverse is not None and inverse.text == spoof.remove(VETH, [MAC])
    assert step.describe() == f"let {VETH} send from {MAC} only"


def test_the_listing_is_read_back() -> None:
    (seen,) = [spoof.parse_table(ANSWERS["our spoof check"][f"list table bridge {spoof.TABLE}"])]
    assert seen == Table(intact=True, guarded=(VETH,), allowed={(VETH, MAC): LABEL})


@pytest.mark.parametrize(
    ("states", "verb", "wanted", "asked"),
    [
        ((), "ADD", False, 0),
        ((), "ADD", True, 1),
        ((), "CHECK", False, 0),
        ((), "DEL", False, 2),
        (("our spoof check",), "DEL", True, 3),
        (("our spoof check",), "CHECK", True, 3),
        (("our spoof check", "go spoof check"), "DEL", True, 5),
    ],
)
def test_each_verb_asks_no_more_than_it_needs(states: tuple[str, ...], verb: str, wanted: bool, asked: int) -> None:
    doors = ScriptedDoors(*states)
    spoof.look(doors, OWNER, wanted, verb)
    assert len(doors.asked) == asked


@pytest.mark.parametrize(
    ("states", "removed"),
    [
        ((), ""),
        (("our spoof check",), spoof.remove(VETH, [MAC])),
        (("go spoof check",), "delete chain bridge nat handle 2\n"),
    ],
)
def test_del_removes_ours_and_the_go_bridges(states: tuple[str, ...], removed: str) -> None:
    told = "".join(step.text for step in spoof.plan_del(OWNER, spoof.look(ScriptedDoors(*states), OWNER, False, "DEL")))
    assert removed in told and bool(told) is bool(removed)
    assert spoof.plan_del(OTHER, spoof.look(ScriptedDoors(*states), OTHER, False, "DEL")) == [], "not a stranger's"


@pytest.mark.parametrize("state", ["our spoof check", "go spoof check"])
@pytest.mark.parametrize("mac", [MAC, MAC.upper()])
def test_an_intact_check_satisfies(state: str, mac: str) -> None:
    assert spoof.check(OWNER, VETH, mac, spoof.look(ScriptedDoors(state), OWNER, True, "CHECK")) == []


@pytest.mark.parametrize(
    ("states", "veth", "mac", "problem"),
    [
        ((), VETH, MAC, f"no MAC spoof check for {VETH}"),
        (("our spoof check",), "veth9", MAC, "no MAC spoof check for veth9"),
        (("our spoof check",), VETH, "02:00:00:00:00:02", f"allows {MAC}, expected 02:00:00:00:00:02 for {LABEL}"),
        (("go spoof check",), VETH, "02:00:00:00:00:02", f"no MAC spoof check for {VETH}"),
    ],
)
def test_a_missing_or_wrong_check_is_told(states: tuple[str, ...], veth: str, mac: str, problem: str) -> None:
    (told,) = spoof.check(OWNER, veth, mac, spoof.look(ScriptedDoors(*states), OWNER, True, "CHECK"))
    assert problem in told


def test_del_that_is_told_the_addresses_does_not_search() -> None:
    """Then its cost does not grow with the pods that are checked."""
    doors = ScriptedDoors("our spoof check")
    (step,) = spoof.plan_del(OWNER, spoof.look(doors, OWNER, True, "DEL", [MAC.upper(), "02:00:00:00:00:07", MAC]))
    assert doors.asked == [f"list chain bridge {spoof.TABLE} check", "list chain bridge nat PREROUTING"]
    assert step.text == spoof.remove(VETH, [MAC, "02:00:00:00:00:07"]) and step.yields


def test_del_removes_half_of_a_damaged_check() -> None:
    table = Table(guarded=(VETH,))
    (step,) = spoof.plan_del(OWNER, Facts(present=True, table=table))
    assert step.text == spoof.remove(VETH, [])


@pytest.mark.parametrize("damage", ["rule", "hook"])
def test_a_damaged_chain_is_told(damage: str) -> None:
    question = f"list table bridge {spoof.TABLE}"
    damaged = [
        {kind: {key: value for key, value in body.items() if key != damage}}
        for entry in ANSWERS["our spoof check"][question]
        for kind, body in entry.items()
        if kind != damage
    ]
    doors = ScriptedDoors("our spoof check", changes={question: damaged})
    (told,) = spoof.check(OWNER, VETH, MAC, spoof.look(doors, OWNER, True, "CHECK"))
    assert "is gone or changed" in told


def test_a_second_allowed_address_is_told() -> None:
    table = Table(intact=True, guarded=(VETH,), allowed={(VETH, MAC): LABEL, (VETH, "02:00:00:00:00:07"): LABEL})
    (told,) = spoof.check(OWNER, VETH, MAC, Facts(present=True, table=table))
    assert f"allows {MAC} 02:00:00:00:00:07, expected {MAC}" in told


@pytest.mark.parametrize(
    ("network", "keep", "steps"),
    [("dbnet", [], ["remove MAC spoof checks of 1 pods", f"remove the empty nftables table {spoof.TABLE}"]),
     ("dbnet", [OWNER], []), ("db", [], []), ("other", [], [])],
)  # fmt: skip
def test_gc_removes_what_is_not_kept_and_then_what_is_empty(network: str, keep: list[Owner], steps: list[str]) -> None:
    plan = spoof.plan_gc(ScriptedDoors("our spoof check"), network, frozenset(keep))
    assert [step.describe() for step in plan] == steps
    assert all(step.yields for step in plan if isinstance(step, RunNft))
    assert (spoof.SWEEP in plan) is (len(steps) == 2)


@pytest.mark.parametrize("left", [True, False])
def test_a_sweep_removes_the_table_only_without_veths(left: bool) -> None:
    """First of all its token: that fails if there was an addition, and all else with it."""
    table = [entry for entry in ANSWERS["our spoof check"][spoof.LISTING] if left or "set" not in entry]
    token = f"delete element bridge {spoof.TABLE} sweeps {{ 0x00000007 }}"
    assert spoof.end_sweep(table, 7).splitlines() == [token] + [f"delete table bridge {spoof.TABLE}"] * (not left)


def test_gc_of_an_untouched_host_has_nothing_to_do() -> None:
    assert spoof.plan_gc(ScriptedDoors("go spoof check"), "dbnet", frozenset()) == []


def test_a_guarded_veth_moves_to_another_address_and_back() -> None:
    """One that is not guarded stays so: the first line fails, and that is no failure of the call."""
    former, new = "02:00:00:00:00:08", "02:00:00:00:00:09"
    step = spoof.move(OWNER, (former, MAC), new)
    assert step.yields and step.text.startswith(f'delete element bridge {spoof.TABLE} guarded {{ "{VETH}" }}\n')
    doors = Ruleset()
    nft = FakeNft(doors)
    apply_nft(step, cast("Nft", nft))
    assert doors.tables == {}
    nft.run(spoof.add(LABEL, VETH, former))
    for each, expected in ((step, new), (step.inverse(), former)):
        assert each is not None
        apply_nft(each, cast("Nft", nft))
        table = spoof.parse_table(nft.query(spoof.LISTING))
        assert (table.intact, table.guarded, table.allowed) == (True, (VETH,), {(VETH, expected): LABEL})
