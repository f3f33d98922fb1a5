"""What is read for each verb, and what is decided from it."""

from __future__ import annotations

from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from cni.nft import masq, masq_iptables, masquerade
from cni.nft.masquerade import Facts
from cni.nft.ops import RunIptables, RunNft, Sweep
from cni.spec.owner import Owner
from tests.unit.nft.recorded import ANSWERS, CHAIN, OWNER, SAVED, ScriptedDoors

if TYPE_CHECKING:
    from cni.spec.addresses import Cidr

V4, V6 = ip_interface("10.1.0.5/16"), ip_interface("fd00::5/64")
BOTH: tuple[Cidr, ...] = (V4, V6)
OTHER = Owner("dbnet", "def456", "eth0")
LIST_TABLE = f"list table inet {masq.TABLE}"
SETS = "list sets inet"
GO_MASQ = "list chain inet cni_plugins_masquerade masq_checks"
NAT = [f"list chain ip nat {CHAIN}", f"list chain ip6 nat {CHAIN}"]
RULES = [f"list chain inet {masq.TABLE} {name}" for name in ("pods_10.1.0.0/16", "pods_fd00--/64")]


def texts(plan: masquerade.Plan) -> list[str]:
    return [step.describe() if isinstance(step, Sweep) else step.text for step in plan]


@pytest.mark.parametrize(
    ("states", "verb", "wanted", "backend", "addresses", "asked"),
    [
        ((), "ADD", False, "nftables", BOTH, []),
        ((), "CHECK", False, "nftables", BOTH, []),
        ((), "ADD", True, "nftables", BOTH, [SETS]),
        (("ours",), "ADD", True, "nftables", BOTH, [SETS, *RULES]),
        (("ours",), "ADD", True, "nftables", (V4, ip_interface("10.1.0.6/16")), [SETS, RULES[0]]),
        ((), "ADD", True, "iptables", BOTH, NAT),
        ((), "DEL", False, "nftables", BOTH, [SETS, *NAT, GO_MASQ]),
        (("ours",), "DEL", True, "nftables", BOTH, [SETS, *NAT, GO_MASQ]),
        (("ours",), "DEL", True, "nftables", (), [SETS, LIST_TABLE, *NAT, GO_MASQ]),
        ((), "DEL", True, "nftables", (), [SETS, *NAT, GO_MASQ]),
        (
            ("ours",),
            "CHECK",
            True,
            "nftables",
            (V4,),
            [
                SETS,
                f"get element inet {masq.TABLE} owners4 {{ 10.1.0.5 }}",
                f"get element inet {masq.TABLE} pods_10.1.0.0/16 {{ 10.1.0.5 }}",
                RULES[0],
            ],
        ),
    ],
)
def test_each_verb_asks_no_more_than_it_needs(
    states: tuple[str, ...], verb: str, wanted: bool, backend: str, addresses: tuple[Cidr, ...], asked: list[str]
) -> None:
    """What is asked for grows with neither pods nor rules, and no program is started."""
    doors = ScriptedDoors(*states)
    masquerade.look(doors, OWNER, addresses, wanted, backend, verb)
    assert doors.asked == asked


def test_without_a_verb_everything_is_read() -> None:
    facts = masquerade.look(ScriptedDoors("ours", "go iptables"), OWNER, BOTH, True, "nftables")
    assert facts.labels and facts.members and facts.intact and facts.chains


# -- ADD -------------------------------------------------------------------------------------------------------


def test_each_address_is_one_transaction() -> None:
    plan = masquerade.plan_add(OWNER, BOTH, "nftables", Facts())
    assert texts(plan) == [masq.add(OWNER.label, V4), masq.add(OWNER.label, V6)]
    assert [step.describe() for step in plan] == [
        "masquerade 10.1.0.5 outside 10.1.0.0/16",
        "masquerade fd00::5 outside fd00::/64",
    ]
    for step, address in zip(plan, BOTH, strict=True):
        assert isinstance(step, RunNft) and not step.yields
        assert step.exists == masq.replace(OWNER.label, address) and step.missing == masq.add(OWNER.label, address)
        inverse = step.inverse()
        assert inverse is not None and inverse.yields
        assert inverse.text == masq.remove(OWNER.label, address.ip, masq.subnet_name(address))


def test_where_all_is_as_it_should_be_only_elements_are_added() -> None:
    facts = masquerade.look(ScriptedDoors("ours"), OTHER, BOTH, True, "nftables", "ADD")
    plan = masquerade.plan_add(OTHER, BOTH, "nftables", facts)
    assert texts(plan) == [masq.claim(OTHER.label, V4), masq.claim(OTHER.label, V6)]
    for step, address in zip(plan, BOTH, strict=True):
        assert isinstance(step, RunNft)
        assert step.exists == masq.replace(OTHER.label, address) and step.missing == masq.add(OTHER.label, address)


@pytest.mark.parametrize(
    "changes",
    [
        {RULES[0]: []},
        {RULES[0]: ANSWERS["ours"][RULES[0]][:1]},
        {SETS: [entry for entry in ANSWERS["ours"][SETS] if entry["set"]["name"] != "sweeps"]},
        {SETS: []},
    ],
    ids=["no chain", "no rule", "no set of sweeps", "no table"],
)
def test_whatever_is_missing_everything_is_written(changes: dict[str, list[dict[str, Any]]]) -> None:
    facts = masquerade.look(ScriptedDoors("ours", changes=changes), OTHER, (V4,), True, "nftables", "ADD")
    assert texts(masquerade.plan_add(OTHER, (V4,), "nftables", facts)) == [masq.add(OTHER.label, V4)]


def test_an_address_without_an_outside_needs_no_masquerade() -> None:
    addresses = (ip_interface("10.1.0.5/0"),)
    assert masquerade.plan_add(OWNER, addresses, "nftables", Facts()) == []
    assert masquerade.check(OWNER, addresses, "nftables", Facts()) == []


def test_an_address_is_forgotten_in_other_subnets_that_contain_it() -> None:
    """Left there by a dead attachment of a network that was configured otherwise, it would be masqueraded to its neighbours."""
    facts = Facts(sets=("sweeps", "pods_10.1.0.0/24", "pods_10.1.0.0/16", "pods_10.2.0.0/16", "pods_fd00--/64"))
    plan = masquerade.plan_add(OWNER, (V4,), "nftables", facts)
    assert texts(plan) == [masq.clear(V4.ip, "pods_10.1.0.0/24"), masq.add(OWNER.label, V4)]
    assert isinstance(plan[0], RunNft) and plan[0].yields


def test_iptables_runs_one_text_for_each_family() -> None:
    plan = masquerade.plan_add(OWNER, (V4, ip_interface("10.2.0.5/24"), V6), "iptables", Facts())
    assert [(type(step), getattr(step, "v6", None)) for step in plan] == [(RunIptables, False), (RunIptables, True)]
    four = plan[0].text.splitlines()
    assert [line.split()[-1] for line in four[2:-1]] == ["ACCEPT", "ACCEPT", "MASQUERADE", CHAIN, CHAIN]
    inverse = plan[0].inverse()
    assert inverse is not None and f"-X {CHAIN}" in inverse.text and inverse.inverse() is None


def test_iptables_replaces_a_chain_of_the_same_attachment() -> None:
    facts = masquerade.look(ScriptedDoors("go iptables"), OWNER, (V4,), True, "iptables", "ADD")
    first, second = masquerade.plan_add(OWNER, (V4,), "iptables", facts)
    assert isinstance(first, RunNft) and f"delete chain ip nat {CHAIN}" in first.text
    assert isinstance(second, RunIptables) and second.text.count("POSTROUTING") == 1


def test_iptables_leaves_a_sibling_interface_its_rules() -> None:
    facts = masquerade.look(ScriptedDoors("go iptables"), OWNER, (V4,), True, "iptables", "ADD")
    sibling = ip_interface("10.7.0.9/24")
    (step,) = masquerade.plan_add(Owner("dbnet", "abc123", "eth1"), (sibling,), "iptables", facts)
    assert "-d 10.1.0.0/16" in step.text and "-d 10.7.0.0/24" in step.text
    inverse = step.inverse()
    assert inverse is not None and "-X" not in inverse.text


# -- DEL -------------------------------------------------------------------------------------------------------


def test_known_addresses_are_removed_unseen() -> None:
    facts = Facts(addresses=BOTH, sets=("sweeps", "pods_10.1.0.0/16", "pods_fd00--/64"))
    plan = masquerade.plan_del(OWNER, facts)
    assert texts(plan) == [
        masq.remove(OWNER.label, V4.ip, "pods_10.1.0.0/16"),
        masq.remove(OWNER.label, V6.ip, "pods_fd00--/64"),
    ]
    assert all(isinstance(step, RunNft) and step.yields for step in plan)


def test_nothing_there_is_nothing_to_do() -> None:
    assert masquerade.plan_del(OWNER, Facts(addresses=BOTH)) == []


def test_unknown_addresses_are_found_by_label() -> None:
    facts = masquerade.look(ScriptedDoors("ours"), OWNER, (), True, "nftables", "DEL")
    plan = masquerade.plan_del(OWNER, facts)
    assert texts(plan)[:2] == [
        masq.remove(OWNER.label, V4.ip, "pods_10.1.0.0/16"),
        masq.remove(OWNER.label, V6.ip, "pods_fd00--/64"),
    ]
    assert plan[2:] == [masquerade.SWEEP], "the last one's removal leaves nothing"


def test_a_search_finds_nothing_of_others() -> None:
    facts = masquerade.look(ScriptedDoors("ours"), OTHER, (), True, "nftables", "DEL")
    assert masquerade.plan_del(OTHER, facts) == []


@pytest.mark.parametrize("addresses", [BOTH, ()])
def test_what_the_go_plugins_left_is_removed(addresses: tuple[Cidr, ...]) -> None:
    facts = masquerade.look(ScriptedDoors("go iptables", "go nftables"), OWNER, addresses, False, "nftables", "DEL")
    plan = masquerade.plan_del(OWNER, facts)
    told = "".join(texts(plan))
    assert f"delete chain ip nat {CHAIN}\n" in told
    assert "masq_checks handle 6\n" in told and "masq_checks handle 7\n" in told
    assert masquerade.plan_del(OTHER, msgspec.structs.replace(facts, chains=())) == []


# -- CHECK -----------------------------------------------------------------------------------------------------


def _check(doors: ScriptedDoors, addresses: tuple[Cidr, ...] = (V4,), backend: str = "nftables") -> list[str]:
    return masquerade.check(OWNER, addresses, backend, masquerade.look(doors, OWNER, addresses, True, backend, "CHECK"))


@pytest.mark.parametrize("state", ["ours", "go iptables", "go nftables"])
@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_rules_of_any_kind_satisfy(state: str, backend: str) -> None:
    """The configuration's backend says what ADD would make now, not what an older ADD made."""
    assert _check(ScriptedDoors(state), backend=backend) == []


def test_both_families_are_checked() -> None:
    assert _check(ScriptedDoors("ours"), BOTH) == []
    assert _check(ScriptedDoors("go iptables"), BOTH) == [
        f"fd00::5 is not masqueraded: no element in nftables table {masq.TABLE}"
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({f"get element inet {masq.TABLE} owners4 {{ 10.1.0.5 }}": []}, "no element in nftables table"),
        ({f"get element inet {masq.TABLE} pods_10.1.0.0/16 {{ 10.1.0.5 }}": []}, "no element in nftables table"),
        ({RULES[0]: []}, "the rule of nftables chain podwire_masquerade pods_10.1.0.0/16 is gone or changed"),
        ({SETS: []}, "no element in nftables table"),
        (
            {
                f"get element inet {masq.TABLE} owners4 {{ 10.1.0.5 }}": [
                    {"map": {"elem": [{"elem": {"val": "10.1.0.5", "comment": OTHER.label}}]}}
                ]
            },
            f"masqueraded for another attachment, {OTHER.label}",
        ),
    ],
)
def test_damage_is_told(changes: dict[str, list[dict[str, Any]]], problem: str) -> None:
    (told,) = _check(ScriptedDoors("ours", changes=changes))
    assert problem in told and told.startswith("10.1.0.5 is")


@pytest.mark.parametrize("missing", ["ACCEPT", "MASQUERADE", "jump"])
def test_a_damaged_iptables_chain_does_not_satisfy(missing: str) -> None:
    answers = {question: list(answer) for question, answer in ANSWERS["go iptables"].items()}
    chain = f"list chain ip nat {CHAIN}"
    if missing == "jump":
        answers["list chain ip nat POSTROUTING"] = answers["list chain ip nat POSTROUTING"][:1]
    else:
        del answers[chain][1 if missing == "ACCEPT" else 2]
    assert _check(ScriptedDoors(changes=answers), backend="iptables") == [
        f"10.1.0.5 is not masqueraded: no rules in iptables chain {CHAIN}"
    ]


def test_the_rule_of_another_subnet_does_not_satisfy() -> None:
    assert _check(ScriptedDoors("go nftables"), (ip_interface("10.1.0.5/24"),))


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL", "GC", ""])
def test_only_add_is_content_with_what_was_so_lately(verb: str) -> None:
    """Its plan has an answer to whatever it meets; a DEL leaves for good what it does not see."""
    doors = ScriptedDoors("ours", "go nftables")
    if verb == "GC":
        masquerade.plan_gc(doors, OWNER.network, frozenset())
    else:
        masquerade.look(doors, OWNER, BOTH, True, "nftables", verb)
    assert doors.lately == {verb == "ADD"}


# -- GC --------------------------------------------------------------------------------------------------------


def test_gc_removes_what_is_not_kept_and_then_what_is_empty() -> None:
    doors = ScriptedDoors("ours", "go iptables", "go nftables", saved={(False, False): SAVED})
    plan = masquerade.plan_gc(doors, "dbnet", frozenset())
    told = "".join(texts(plan))
    assert masq.remove(OWNER.label, V4.ip, "pods_10.1.0.0/16") in told
    assert plan.index(masquerade.SWEEP) == 2, "after both addresses are gone"
    assert f"-X {CHAIN}\n" in told and "masq_checks handle 6" in told


@pytest.mark.parametrize(("network", "keep"), [("dbnet", [OWNER]), ("other", []), ("db", [])])
def test_gc_leaves_what_is_kept_and_what_is_of_other_networks(network: str, keep: list[Owner]) -> None:
    doors = ScriptedDoors("ours", "go iptables", "go nftables", saved={(False, False): SAVED})
    assert masquerade.plan_gc(doors, network, frozenset(keep)) == []


def test_gc_of_an_untouched_host_has_nothing_to_do() -> None:
    doors = ScriptedDoors()
    assert masquerade.plan_gc(doors, "dbnet", frozenset()) == []
    assert doors.asked == [LIST_TABLE, "list chains ip", "list chains ip6", GO_MASQ]


def test_gc_knows_hashed_labels() -> None:
    """A label too long for an element's comment carries hashes instead of names."""
    long = Owner("n" * 60, "c" * 64, "eth0")
    table = masq.Table({"10.1.0.5": long.label}, {"pods_10.1.0.0/16": ("10.1.0.5",)})
    facts = Facts(sets=("sweeps", "pods_10.1.0.0/16"), table=table)
    assert masquerade.gc(long.network, frozenset([long]), facts) == []
    assert masquerade.gc("other", frozenset(), facts) == []
    assert masq.remove(long.label, V4.ip, "pods_10.1.0.0/16") in texts(masquerade.gc(long.network, frozenset(), facts))


@pytest.mark.parametrize(
    ("address", "accepts", "satisfied"),
    [
        ("10.1.0.5/24", ("10.1.0.0/24",), True),
        ("10.1.0.5/24", ("10.0.0.0/8",), False),  # more is left alone than the configuration says
        ("10.1.0.5/32", ("10.1.0.0/24",), True),  # host-gw: which subnet it was is not known any more
        ("10.1.0.5/32", ("10.2.0.0/24", "fd00::/64", "10.1.0.1-10.1.0.9", ""), False),
    ],
)
def test_check_accepts_an_iptables_chain_of_the_pods_subnet(address: str, accepts: tuple[str, ...], satisfied: bool) -> None:
    owner = Owner("dbnet", "abc123", "eth0")
    name = masq_iptables.chain_name(owner.network, owner.container_id)
    jump = masq_iptables.Jump("10.1.0.5")
    chain = masq_iptables.NatChain(v6=False, name=name, accepts=accepts, masquerades=True, jumps=(jump,))
    cidr = ip_interface(address)
    problems = masquerade.check(owner, (cidr,), "iptables", Facts(addresses=(cidr,), chains=(chain,)))
    assert (problems == []) == satisfied
