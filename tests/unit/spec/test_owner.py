"""Labels: exact, short enough for what carries them, and never of two networks at once."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cni.spec.owner import LONGEST, Owner, of_network

ID = "0123456789abcdef" * 4

names = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=150).filter(lambda name: name[0].isalnum())
ifnames = st.text(string.ascii_letters + string.digits + "_.-~", min_size=1, max_size=15)
owners = st.builds(Owner, names, names, ifnames)


def test_the_plain_label() -> None:
    assert Owner("net", "c0ffee", "eth0").label == "podwire/net/c0ffee/eth0"


def test_the_longest_plain_label_and_the_first_hashed_one() -> None:
    fixed = len(f"podwire//{ID}/eth0")
    last = Owner("n" * (LONGEST - fixed), ID, "eth0")
    assert (len(last.label), last.label.count("~")) == (LONGEST, 0)
    first = Owner("n" * (LONGEST - fixed + 1), ID, "eth0")
    assert re.fullmatch(r"podwire/~[0-9a-f]{48}/~[0-9a-f]{48}", first.label)


def test_length_counts_bytes() -> None:
    """A comment holds 128 bytes; an interface name may be of letters of three bytes each."""
    owner = Owner("n" * 52, "c" * 52, "€" * 5)
    assert len("/".join(("podwire", owner.network, owner.container_id, owner.ifname))) <= LONGEST
    assert owner.label.startswith("podwire/~")


@given(owners)
def test_every_label_fits_and_is_of_its_network(owner: Owner) -> None:
    assert len(owner.label.encode()) <= LONGEST
    assert of_network(owner.label, owner.network)


@given(owners, names)
def test_a_label_is_of_no_other_network(owner: Owner, other: str) -> None:
    assume(other != owner.network)
    assert not of_network(owner.label, other)


@given(owners, owners)
def test_labels_differ_where_owners_do(one: Owner, two: Owner) -> None:
    assert (one.label == two.label) == (one == two)


@pytest.mark.parametrize(
    ("network", "other"),
    [("a", "ab"), ("ab", "a"), ("a", "a.b"), ("a.b", "a"), ("net", "Net"), ("a", "podwire"), ("n" * 99, "n" * 98)],
)
def test_networks_that_begin_alike(network: str, other: str) -> None:
    for container_id in ("c", "c" * 120):
        label = Owner(network, container_id, "eth0").label
        assert of_network(label, network)
        assert not of_network(label, other)


@pytest.mark.parametrize(
    "label", ["", "podwire", "podwire/", "podwire/net", "xpodwire/net/c/eth0", "veth to net", "net/c/eth0"]
)
def test_foreign_aliases_are_of_no_network(label: str) -> None:
    assert not of_network(label, "net")


def test_a_network_cannot_take_the_place_of_a_container() -> None:
    """Slashes separate the parts, and no part can contain one."""
    assert not of_network(Owner("a", "net", "eth0").label, "net")


@given(owners)
def test_derived_names_are_ones_the_kernel_takes(owner: Owner) -> None:
    assert re.fullmatch(r"veth[0-9a-f]{8}", owner.host_veth)
    mac = bytes.fromhex(owner.mac("container").replace(":", ""))
    assert len(mac) == 6
    assert mac[0] & 3 == 2, "locally administered, unicast"


def test_derived_names_follow_from_owner_and_purpose_alone() -> None:
    owner = Owner("net", "c0ffee", "eth0")
    # Fixed for good: DEL of a later release must find what this one made.
    assert owner.host_veth == Owner("net", "c0ffee", "eth0").host_veth == "vethb1b28b1f"
    assert owner.mac("container") == "72:1d:b8:f7:8b:b6"
    assert owner.mac("host") != owner.mac("container")
    changed = [
        Owner("net2", "c0ffee", "eth0"),
        Owner("net", "c0ffe", "eth0"),
        Owner("net", "c0ffee", "eth1"),
        Owner("netc", "0ffee", "eth0"),
    ]
    assert len({owner.host_veth, *(other.host_veth for other in changed)}) == 5
    assert len({owner.digest("x"), *(other.digest("x") for other in changed)}) == 5
