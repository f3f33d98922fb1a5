"""What the Go plugins leave is recognised, attributed and removed."""

from __future__ import annotations

import pytest

from cni.nft import reference
from cni.nft.masq_iptables import Jump, NatChain
from cni.nft.ops import RunIptables, RunNft
from cni.nft.reference import MasqRule, SpoofChains
from cni.spec.owner import Owner
from tests.unit.nft.recorded import CHAIN, COMMENT, MAC, OWNER, SAVED, ScriptedDoors


@pytest.mark.parametrize(
    ("owner", "prefix"),
    [
        (Owner("dbnet", "abc123", "eth0"), "77fa157b4f32b23b-ebce0e3dd4dafae3"),
        (Owner("unit-test", "one", "eth0"), "6fd94d501e58f0aa-287fc69eff0574a2"),
    ],
)
def test_comments_of_the_nftables_backend_are_computed_alike(owner: Owner, prefix: str) -> None:
    assert reference.masq_comment(owner) == prefix


def test_an_iptables_nft_chain_is_read_without_a_program() -> None:
    doors = ScriptedDoors("go iptables")
    assert reference.look_chains(doors, OWNER) == (
        NatChain(v6=False, name=CHAIN, accepts=("10.1.0.0/16",), masquerades=True, jumps=(Jump("10.1.0.5", handle=5),)),
    )
    assert not any(asked.startswith("save") for asked in doors.asked)


def test_a_legacy_chain_is_read_only_where_its_table_is_in_use() -> None:
    """Loading the legacy table to look into it would put it in use."""
    assert reference.look_chains(ScriptedDoors(saved={(False, True): SAVED}), OWNER) == ()
    (chain,) = reference.look_chains(ScriptedDoors(saved={(False, True): SAVED}, legacy=[False]), OWNER)
    assert chain.legacy and chain.name == CHAIN and chain.network == "dbnet"


def test_nothing_to_find_costs_two_questions() -> None:
    doors = ScriptedDoors()
    assert reference.look_chains(doors, OWNER) == ()
    assert doors.asked == [f"list chain ip nat {CHAIN}", f"list chain ip6 nat {CHAIN}"]


def test_gc_starts_a_program_only_if_there_are_chains() -> None:
    doors = ScriptedDoors("go iptables", saved={(False, False): SAVED})
    assert [chain.network for chain in reference.look_all_chains(doors)] == ["dbnet"]
    assert [asked for asked in doors.asked if asked.startswith("save")] == ["save v4"]
    empty = ScriptedDoors()
    assert reference.look_all_chains(empty) == () and not any(asked.startswith("save") for asked in empty.asked)


def test_rules_of_the_nftables_backend_are_read() -> None:
    assert reference.look_masq_rules(ScriptedDoors("go nftables")) == (
        MasqRule("10.1.0.5", "10.1.0.0/16", 6, COMMENT),
        MasqRule("fd00::5", "fd00::/64", 7, COMMENT),
    )


def test_chains_of_the_spoof_check_are_read() -> None:
    doors = ScriptedDoors("go spoof check")
    assert reference.look_spoof(doors, OWNER) == SpoofChains((2, 3), (4,), (MAC,))
    assert reference.look_spoof(doors, Owner("dbnet", "abc12", "eth0")) is None


def test_where_no_go_bridge_was_one_question_says_so() -> None:
    """The names of all chains of the host may be thousands."""
    doors = ScriptedDoors()
    assert reference.look_spoof(doors, OWNER) is None
    assert doors.asked == ["list chain bridge nat PREROUTING"]


def _chain(*sources: str, legacy: bool = False) -> NatChain:
    jumps = tuple(
        Jump(source, line=f"-A POSTROUTING -s {source}/32 -j {CHAIN}") if legacy else Jump(source, handle=number)
        for number, source in enumerate(sources, 10)
    )
    return NatChain(v6=False, name=CHAIN, legacy=legacy, jumps=jumps)


DELETE_CHAIN = f"flush chain ip nat {CHAIN}\ndelete chain ip nat {CHAIN}\n"


@pytest.mark.parametrize(
    ("jumps", "sources", "text"),
    [
        (("10.1.0.5",), ("10.1.0.5",), "delete rule ip nat POSTROUTING handle 10\n" + DELETE_CHAIN),
        (("10.1.0.5",), (), "delete rule ip nat POSTROUTING handle 10\n" + DELETE_CHAIN),
        ((), ("10.1.0.5",), DELETE_CHAIN),
        (("10.1.0.5", "10.1.0.6"), ("10.1.0.6",), "delete rule ip nat POSTROUTING handle 11\n"),
        (
            ("10.1.0.5", "10.1.0.6"),
            (),
            "delete rule ip nat POSTROUTING handle 10\ndelete rule ip nat POSTROUTING handle 11\n" + DELETE_CHAIN,
        ),
    ],
)
def test_a_chain_goes_with_its_last_jump(jumps: tuple[str, ...], sources: tuple[str, ...], text: str) -> None:
    """A sibling interface of the container uses the same chain."""
    step = reference.remove_chain(_chain(*jumps), sources)
    assert isinstance(step, RunNft) and step.text == text


def test_the_jump_of_a_sibling_alone_is_left() -> None:
    assert reference.remove_chain(_chain("10.1.0.6"), ["10.1.0.5"]) is None


def test_a_legacy_chain_is_removed_by_its_program() -> None:
    step = reference.remove_chain(_chain("10.1.0.5", legacy=True), ())
    assert isinstance(step, RunIptables) and step.legacy and not step.v6
    assert step.text == f"*nat\n-D POSTROUTING -s 10.1.0.5/32 -j {CHAIN}\n-F {CHAIN}\n-X {CHAIN}\nCOMMIT\n"


def test_removing_rules_of_the_nftables_backend() -> None:
    steps = reference.remove_masq_rules([MasqRule("10.1.0.5", "10.1.0.0/16", 6, COMMENT)])
    assert [step.text for step in steps] == ["delete rule inet cni_plugins_masquerade masq_checks handle 6\n"]
    assert steps[0].yields


def test_removing_the_spoof_check_takes_the_jumps_first() -> None:
    step = reference.remove_spoof(SpoofChains((2, 3), (4, 9), (MAC,)))
    assert step.text.splitlines() == [
        "delete rule bridge nat PREROUTING handle 4",
        "delete rule bridge nat PREROUTING handle 9",
        "delete chain bridge nat handle 2",
        "delete chain bridge nat handle 3",
    ]


@pytest.mark.parametrize(
    ("network", "name", "stale"),
    [("dbnet", "CNI-gone", True), ("dbnet", CHAIN, False), ("other", "CNI-gone", False), ("", "CNI-gone", False)],
)
def test_stale_chains_are_those_of_the_network_alone(network: str, name: str, stale: bool) -> None:
    """A chain whose comment cannot be read may be anybody's."""
    chain = NatChain(v6=False, name=name, network=network)
    assert bool(reference.stale_chains([chain], "dbnet", [CHAIN])) is stale


@pytest.mark.parametrize(
    ("comment", "keep", "stale"),
    [
        (COMMENT, [], True),
        (COMMENT, [OWNER], False),
        (COMMENT, [Owner("dbnet", "abc123", "eth1")], True),
        ("6fd94d501e58f0aa-287fc69eff0574a2, net: unit-test, if: eth0, id: one", [], False),
        ("", [], False),
    ],
)
def test_stale_rules_are_those_of_the_network_alone(comment: str, keep: list[Owner], stale: bool) -> None:
    rule = MasqRule("10.1.0.5", "10.1.0.0/16", 6, comment)
    assert bool(reference.stale_masq_rules([rule], "dbnet", keep)) is stale
