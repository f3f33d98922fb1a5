"""The nftables form of masquerading: its text is compared whole, its listing read back."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest

from cni.nft import masq
from tests.unit.nft.recorded import ANSWERS, OWNER

LABEL = "podwire/dbnet/abc123/eth0"
MARK = f"{masq.mark(LABEL):#010x}"

ADD_V4 = f"""\
add table inet podwire_masquerade
add chain inet podwire_masquerade revision
flush chain inet podwire_masquerade revision
add rule inet podwire_masquerade revision continue comment "renewed by every addition"
add map inet podwire_masquerade owners4 {{ type ipv4_addr : mark; }}
add set inet podwire_masquerade pods_10.1.0.0/16 {{ type ipv4_addr; }}
add chain inet podwire_masquerade pods_10.1.0.0/16 {{ type nat hook postrouting priority srcnat; policy accept; }}
flush chain inet podwire_masquerade pods_10.1.0.0/16
add rule inet podwire_masquerade pods_10.1.0.0/16 ip saddr @pods_10.1.0.0/16 ip daddr != 10.1.0.0/16 ip daddr != 224.0.0.0/4 \
masquerade
add element inet podwire_masquerade owners4 {{ 10.1.0.5 comment "{LABEL}" : {MARK} }}
add element inet podwire_masquerade pods_10.1.0.0/16 {{ 10.1.0.5 }}
"""

TABLE = masq.parse_table(ANSWERS["ours"][f"list table inet {masq.TABLE}"])


def test_adding_is_one_text() -> None:
    """The whole transaction, skeleton included: nothing in it depends on what is there."""
    assert masq.add(LABEL, ip_interface("10.1.0.5/16")) == ADD_V4


def test_replacing_deletes_the_other_owner_first() -> None:
    text = masq.replace(LABEL, ip_interface("10.1.0.5/16"))
    added, deleted = ADD_V4.splitlines(), "delete element inet podwire_masquerade owners4 { 10.1.0.5 }"
    assert text.splitlines() == [*added[:-2], deleted, *added[-2:]]


def test_removing_proves_ownership_first() -> None:
    """Adding our mark fails if the address carries another, and takes the rest of the transaction with it."""
    assert masq.remove(LABEL, ip_address("fd00::5"), ["pods_fd00--/64"]).splitlines() == [
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
        ("revision", "10.1.2.3"),
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
            revision=8,
            owners={"10.1.0.5": OWNER.label, "fd00::5": OWNER.label},
            pods={"pods_10.1.0.0/16": ("10.1.0.5",), "pods_fd00--/64": ("fd00::5",)},
        )
        == TABLE
    )
    assert masq.parse_table([]) == masq.Table()


@pytest.mark.parametrize(
    ("gone", "lines"),
    [
        ((), []),
        (
            ("fd00::5",),
            [
                "delete rule inet podwire_masquerade revision handle 8",
                "add chain inet podwire_masquerade revision",
                "flush chain inet podwire_masquerade revision",
                'add rule inet podwire_masquerade revision continue comment "renewed by every addition"',
                "delete chain inet podwire_masquerade pods_fd00--/64",
                "delete set inet podwire_masquerade pods_fd00--/64",
            ],
        ),
        (
            ("fd00::5", "10.1.0.5"),
            ["delete rule inet podwire_masquerade revision handle 8", "delete table inet podwire_masquerade"],
        ),
    ],
)
def test_sweeping_removes_what_is_empty_and_only_that(gone: tuple[str, ...], lines: list[str]) -> None:
    assert masq.sweep(TABLE, gone).splitlines() == lines


def test_sweeping_drops_addresses_that_nobody_owns() -> None:
    """An address in a set without an owner came from an interrupted change by hand; nothing else would ever remove it."""
    pods = {**TABLE.pods, "pods_10.1.0.0/16": ("10.1.0.5", "10.1.0.77")}
    text = masq.sweep(masq.Table(8, TABLE.owners, pods))
    assert "delete element inet podwire_masquerade pods_10.1.0.0/16 { 10.1.0.77 }\n" in text
    assert "delete set" not in text


def test_sweeping_needs_the_revision() -> None:
    """Without the rule that guards the removal there is no safe removal."""
    assert masq.sweep(masq.Table(0, {}, {"pods_10.1.0.0/16": ()})) == ""


def test_an_intact_rule_is_recognised() -> None:
    outline = ANSWERS["ours"]["list ruleset inet"]
    assert masq.masquerading(outline) == {"pods_10.1.0.0/16", "pods_fd00--/64"}


@pytest.mark.parametrize("damage", ["rule gone", "rule changed", "rule before it", "not hooked"])
def test_a_damaged_chain_is_not_intact(damage: str) -> None:
    name = "pods_10.1.0.0/16"
    outline = []
    for entry in ANSWERS["ours"]["list ruleset inet"]:
        (kind, body), *_ = entry.items()
        here = body.get("chain", body.get("name")) == name
        if kind == "rule" and here:
            changed = {**body, "expr": body["expr"][:-1]}
            outline += {"rule gone": [], "rule changed": [{kind: changed}], "rule before it": [{kind: changed}, entry]}.get(
                damage, [entry]
            )
        elif kind == "chain" and here and damage == "not hooked":
            outline.append({kind: {key: value for key, value in body.items() if key != "hook"}})
        else:
            outline.append(entry)
    assert masq.masquerading(outline) == {"pods_fd00--/64"}
