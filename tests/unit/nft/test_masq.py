"""The nftables form of masquerading: its text is compared whole, its listing read back."""

from __future__ import annotations

import copy
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from cni.nft import masq
from tests.unit.nft.recorded import ANSWERS, OWNER

LABEL = "podwire/dbnet/abc123/eth0"
MARK = f"{masq.mark(LABEL):#010x}"

CLAIM_V4 = f"""\
flush set inet podwire_masquerade sweeps
add element inet podwire_masquerade owners4 {{ 10.1.0.5 comment "{LABEL}" : {MARK} }}
add element inet podwire_masquerade pods_10.1.0.0/16 {{ 10.1.0.5 }}
"""
ADD_V4 = f"""\
add table inet podwire_masquerade
add set inet podwire_masquerade sweeps {{ type mark; }}
add map inet podwire_masquerade owners4 {{ type ipv4_addr : mark; }}
add set inet podwire_masquerade pods_10.1.0.0/16 {{ type ipv4_addr; }}
add chain inet podwire_masquerade pods_10.1.0.0/16 {{ type nat hook postrouting priority srcnat; policy accept; }}
flush chain inet podwire_masquerade pods_10.1.0.0/16
add rule inet podwire_masquerade pods_10.1.0.0/16 ip saddr @pods_10.1.0.0/16 ip daddr != 10.1.0.0/16 ip daddr != 224.0.0.0/4 \
masquerade
{CLAIM_V4}"""

TABLE = masq.parse_table(ANSWERS["ours"][f"list table inet {masq.TABLE}"])


def test_adding_is_one_text() -> None:
    """The whole transaction, skeleton included: nothing in it depends on what is there."""
    assert masq.add(LABEL, ip_interface("10.1.0.5/16")) == ADD_V4


def test_a_claim_only_adds_and_ends_sweeps() -> None:
    """Nothing is removed or renewed: what a transaction leaves the kernel to destroy, somebody has to wait for."""
    assert masq.claim(LABEL, ip_interface("10.1.0.5/16")) == CLAIM_V4


def test_replacing_deletes_the_other_owner_first() -> None:
    text = masq.replace(LABEL, ip_interface("10.1.0.5/16"))
    added, deleted = ADD_V4.splitlines(), "delete element inet podwire_masquerade owners4 { 10.1.0.5 }"
    assert text.splitlines() == [*added[:-3], deleted, *added[-3:]]


def test_removing_proves_ownership_first() -> None:
    """Adding our mark fails if the address carries another, and takes the rest of the transaction with it."""
    assert masq.remove(LABEL, ip_address("fd00::5"), "pods_fd00--/64").splitlines() == [
        f"add element inet podwire_masquerade owners6 {{ fd00::5 : {MARK} }}",
        "delete element inet podwire_masquerade owners6 { fd00::5 }",
        "add element inet podwire_masquerade pods_fd00--/64 { fd00::5 }",
        "delete element inet podwire_masquerade pods_fd00--/64 { fd00::5 }",
    ]


@pytest.mark.parametrize(
    ("cidr", "name", "rule"),
    [
        ("10.1.2.3/24", "pods_10.1.2.0/24", "ip saddr @{} ip daddr != 10.1.2.0/24 ip daddr != 224.0.0.0/4 masquerade"),
        ("10.1.2.3/31", "pods_10.1.2.2/31", "ip saddr @{} ip daddr != 10.1.2.2/31 ip daddr != 224.0.0.0/4 masquerade"),
        ("10.1.2.3/32", "pods_single4", "ip saddr @{} ip daddr != 224.0.0.0/4 masquerade"),
        (
            "2001:db8:1::5/64",
            "pods_2001-db8-1--/64",
            "ip6 saddr @{} ip6 daddr != 2001:db8:1::/64 ip6 daddr != ff00::/8 masquerade",
        ),
        ("2001:db8::5/128", "pods_single6", "ip6 saddr @{} ip6 daddr != ff00::/8 masquerade"),
    ],
)
def test_every_subnet_has_its_name_and_rule(cidr: str, name: str, rule: str) -> None:
    assert masq.subnet_name(ip_interface(cidr)) == name
    assert f"add rule inet podwire_masquerade {name} {rule.format(name)}\n" in masq.add(LABEL, ip_interface(cidr))
    assert masq.holds(name, ip_interface(cidr).ip)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("pods_10.1.2.0/24", "10.1.3.1"),
        ("pods_10.1.2.0/24", "2001:db8::1"),
        ("pods_2001-db8-1--/64", "2001:db8:2::1"),
        ("pods_single4", "2001:db8::1"),
        ("pods_single6", "10.1.2.3"),
        ("sweeps", "10.1.2.3"),
        ("owners4", "10.1.2.3"),
    ],
)
def test_a_set_holds_only_addresses_of_its_subnet(name: str, address: str) -> None:
    assert not masq.holds(name, ip_address(address))


def test_marks_tell_owners_apart() -> None:
    """32 bits of a hash of the label: stable, because another process removes what this one added."""
    assert masq.mark("podwire/dbnet/abc123/eth0") == 0x94038D01
    assert masq.mark("podwire/dbnet/abc123/eth1") != masq.mark(LABEL)


def test_the_listing_is_read_back() -> None:
    assert (
        masq.Table(
            owners={"10.1.0.5": OWNER.label, "fd00::5": OWNER.label},
            pods={"pods_10.1.0.0/16": ("10.1.0.5",), "pods_fd00--/64": ("fd00::5",)},
        )
        == TABLE
    )
    assert masq.parse_table([]) == masq.Table()


T = "inet podwire_masquerade"
ALL = ("fd00::5", "10.1.0.5")


def listing(*, without: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The recorded table after some addresses were removed from it."""
    told = copy.deepcopy(ANSWERS["ours"][f"list table inet {masq.TABLE}"])
    for entry in told:
        ((_, body),) = entry.items()
        if "elem" in body and any(address in str(body["elem"]) for address in without):
            del body["elem"]
    return told


@pytest.mark.parametrize(
    ("gone", "lines"),
    [
        ((), []),
        (("fd00::5",), [f"delete chain {T} pods_fd00--/64", f"delete set {T} pods_fd00--/64"]),
        (ALL, [f"delete table {T}"]),
    ],
)
def test_sweeping_removes_what_is_empty_and_only_that(gone: tuple[str, ...], lines: list[str]) -> None:
    """First of all its token: that fails if there was an addition, and all else with it."""
    assert masq.end_sweep(listing(without=gone), 0xABC).splitlines() == [
        f"delete element {T} sweeps {{ 0x00000abc }}",
        *lines,
    ]
    assert masq.idle(TABLE, gone) is bool(lines)


def test_a_sweep_begins_with_its_token() -> None:
    """Somebody may have removed the set for it."""
    assert masq.begin_sweep(0xABC).splitlines() == [
        f"add set {T} sweeps {{ type mark; }}",
        f"add element {T} sweeps {{ 0x00000abc }}",
    ]


def test_sweeping_drops_addresses_that_nobody_owns() -> None:
    """An address in a set without an owner came from an interrupted change by hand; nothing else would ever remove it."""
    stray = listing()
    for entry in stray:
        if entry.get("set", {}).get("name") == "pods_10.1.0.0/16":
            entry["set"]["elem"].append("10.1.0.77")
    text = masq.end_sweep(stray, 1)
    assert f"delete element {T} pods_10.1.0.0/16 {{ 10.1.0.77 }}\n" in text and "delete set" not in text
    assert masq.idle(masq.parse_table(stray))


def test_one_of_many_that_goes_is_no_reason_to_sweep() -> None:
    seen = masq.Table({"10.1.0.5": LABEL, "10.1.0.6": "other"}, {"pods_10.1.0.0/16": ("10.1.0.5", "10.1.0.6")})
    assert not masq.idle(seen, ("10.1.0.5",)) and masq.idle(seen, ("10.1.0.5", "10.1.0.6"))


NAME = "pods_10.1.0.0/16"


def test_an_intact_rule_is_recognised() -> None:
    for name in (NAME, "pods_fd00--/64"):
        assert masq.masquerades(name, ANSWERS["ours"][f"list chain {T} {name}"])
    assert not masq.masquerades(NAME, []), "no such chain"


@pytest.mark.parametrize("damage", ["rule gone", "rule changed", "rule before it", "not hooked", "other hook"])
def test_a_damaged_chain_is_not_intact(damage: str) -> None:
    chain, rule = copy.deepcopy(ANSWERS["ours"][f"list chain {T} {NAME}"])
    changed = {"rule": {**rule["rule"], "expr": rule["rule"]["expr"][:-1]}}
    if damage == "not hooked":
        del chain["chain"]["hook"]
    if damage == "other hook":
        chain["chain"]["hook"] = "input"
    rules = {"rule gone": [], "rule changed": [changed], "rule before it": [changed, rule]}.get(damage, [rule])
    assert not masq.masquerades(NAME, [chain, *rules])
