"""The iptables form: names and comments of the Go plugins, one text a family, and reading what iptables-save prints."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest

from cni.nft import masq_iptables, reference
from cni.nft.masq_iptables import Jump, NatChain
from tests.unit.nft.recorded import CHAIN, SAVED

NOTE = '-m comment --comment "name: \\"dbnet\\" id: \\"abc123\\""'


def test_the_chain_is_named_as_the_go_plugins_name_it() -> None:
    assert masq_iptables.chain_name("dbnet", "abc123") == CHAIN
    assert masq_iptables.CHAIN.fullmatch(CHAIN)


def test_network_and_id_are_joined_without_separator() -> None:
    """The reference's collision (P#151) must be ours too, or we would not find its chains."""
    assert masq_iptables.chain_name("a", "bc") == masq_iptables.chain_name("ab", "c")


def test_setup_is_one_text() -> None:
    addresses = [ip_interface("10.1.0.5/16"), ip_interface("10.2.0.5/24")]
    assert masq_iptables.setup("dbnet", "abc123", addresses, v6=False).splitlines() == [
        "*nat",
        f":{CHAIN} - [0:0]",
        f"-A {CHAIN} -d 10.1.0.0/16 {NOTE} -j ACCEPT",
        f"-A {CHAIN} -d 10.2.0.0/24 {NOTE} -j ACCEPT",
        f"-A {CHAIN} ! -d 224.0.0.0/4 {NOTE} -j MASQUERADE",
        f"-A POSTROUTING -s 10.1.0.5/32 {NOTE} -j {CHAIN}",
        f"-A POSTROUTING -s 10.2.0.5/32 {NOTE} -j {CHAIN}",
        "COMMIT",
    ]


def test_setup_keeps_the_subnets_of_a_sibling_once() -> None:
    text = masq_iptables.setup("dbnet", "abc123", [ip_interface("fd00::5/64")], v6=True, accepts=["fd01::/64", "fd00::/64"])
    assert [line for line in text.splitlines() if line.endswith("ACCEPT")] == [
        f"-A {CHAIN} -d fd00::/64 {NOTE} -j ACCEPT",
        f"-A {CHAIN} -d fd01::/64 {NOTE} -j ACCEPT",
    ]
    assert f"-A {CHAIN} ! -d ff00::/8 {NOTE} -j MASQUERADE" in text
    assert f"-A POSTROUTING -s fd00::5/128 {NOTE} -j {CHAIN}" in text


@pytest.mark.parametrize("whole", [True, False])
def test_teardown_takes_the_jumps_then_the_chain(whole: bool) -> None:
    text = masq_iptables.teardown("dbnet", "abc123", [ip_interface("10.1.0.5/16")], whole)
    chain = [f"-F {CHAIN}", f"-X {CHAIN}"] if whole else []
    assert text.splitlines() == ["*nat", f"-D POSTROUTING -s 10.1.0.5/32 {NOTE} -j {CHAIN}", *chain, "COMMIT"]


def test_a_saved_table_is_read_back() -> None:
    line = next(line for line in SAVED.splitlines() if line.startswith("-A POSTROUTING"))
    assert masq_iptables.parse_save(SAVED, v6=False, legacy=True) == (
        NatChain(
            v6=False,
            name=CHAIN,
            legacy=True,
            accepts=("10.1.0.0/16",),
            masquerades=True,
            jumps=(Jump("10.1.0.5", line=line),),
            network="dbnet",
        ),
    )


def test_removal_names_the_lines_as_they_were_printed() -> None:
    (chain,) = masq_iptables.parse_save(SAVED, v6=False, legacy=True)
    assert masq_iptables.removal(chain, chain.jumps, whole=True) == masq_iptables.teardown(
        "dbnet", "abc123", [ip_interface("10.1.0.5/16")]
    )


@pytest.mark.parametrize(
    "line",
    [
        "-A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE",
        "-A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE",
        ":CNI-DN-2c9d881d1924f1d6a7733 - [0:0]",
        ":CNI-HOSTPORT-MASQ - [0:0]",
        "-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE",
    ],
)
def test_chains_and_rules_of_others_are_not_ours(line: str) -> None:
    assert masq_iptables.parse_save(f"*nat\n{line}\nCOMMIT\n", v6=False, legacy=False) == ()


@pytest.mark.parametrize("network", ["net", "n" * 200, "n" * 239, "n" * 254])
@pytest.mark.parametrize("container_id", ["c", "c" * 64, "c" * 200])
def test_a_long_comment_is_cut_to_what_the_kernel_keeps(network: str, container_id: str) -> None:
    """iptables refuses longer ones, and with them the whole text. GC finds the network in any case, and its chains by name."""
    text = masq_iptables.setup(network, container_id, [ip_interface("10.1.0.5/16")], v6=False)
    assert len(masq_iptables.comment(network, container_id)) <= 255
    (chain,) = masq_iptables.parse_save(text, v6=False, legacy=False)
    assert reference.stale_chains([chain], network, []) == [chain]
    assert reference.stale_chains([chain], network[:-1] + "x", []) == []
    assert reference.stale_chains([chain], network, [masq_iptables.chain_name(network, container_id)]) == []
