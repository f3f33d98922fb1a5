"""The format of lease files, in both directions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec.addresses import parse_ip
from cni.spec.conf import check_name
from cni.spec.owner import Owner
from ipam.leases import LONGEST, Lease, content_of, legacy_content_of, mine, read_address, read_lease

V4 = parse_ip("10.1.0.5")


def test_content_is_the_references() -> None:
    assert content_of(Owner("net", "abc123", "eth0")) == bytes.fromhex("61 62 63 31 32 33 0d 0a 65 74 68 30")
    assert legacy_content_of(Owner("net", " abc123 ", "eth0")) == b"abc123"


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,80}", fullmatch=True), st.from_regex(r"[!-.0-9;-~]{1,15}", fullmatch=True))
def test_what_is_written_reads_back(container_id: str, ifname: str) -> None:
    owner = Owner("net", container_id, ifname)
    assert check_name(container_id)
    lease = read_lease("10.1.0.5", content_of(owner))
    assert lease == Lease(V4, container_id, ifname)
    assert lease.of(owner)


def test_interface_names_are_bytes() -> None:
    owner = Owner("net", "abc", b"eth\xff".decode("utf-8", "surrogateescape"))
    assert content_of(owner) == b"abc\r\neth\xff"
    lease = read_lease("10.1.0.5", content_of(owner))
    assert lease is not None
    assert lease.of(owner)
    assert str(lease).encode() == rb"container abc, interface eth\udcff"


@given(st.binary(max_size=100))
def test_any_content_is_a_lease_or_none(content: bytes) -> None:
    lease = read_lease("10.1.0.5", content)
    assert lease is None or (lease.address == V4 and check_name(lease.container_id))


@pytest.mark.parametrize("content", [b"", b"\r\n", b"\0\0", b"two words", b"a/b\r\neth0", b"a" * LONGEST])
def test_what_is_no_lease(content: bytes) -> None:
    assert read_lease("10.1.0.5", content) is None


@pytest.mark.parametrize("name", ["10.1.0.5", "2001:db8::5", "::", "::1:0", "2001:db8:0:1:1:1:1:1", "1::1:0:0:1"])
def test_canonical_names_are_addresses(name: str) -> None:
    assert str(read_address(name)) == name


OTHER_NAMES = "lock last_reserved_ip.0 10.1.0.05 10.1.0 FD00::5 fd00:0::5 ::ffff:10.1.0.5 ::10.1.0.5 fe80::1%eth0 ."


@pytest.mark.parametrize("name", OTHER_NAMES.split())
def test_other_names_are_not(name: str) -> None:
    assert read_address(name) is None


def test_whose_a_lease_is() -> None:
    lease, old = Lease(V4, "one", "eth0"), Lease(V4, "one", "")
    assert lease.of(Owner("net", "one", "eth0"))
    assert not lease.of(Owner("net", "one", "eth1"))
    assert not lease.of(Owner("net", "two", "eth0"))
    assert old.of(Owner("net", "one", "eth1"))
    assert not old.of(Owner("net", "two", "eth1"))
    assert (str(lease), str(old)) == ("container one, interface eth0", "container one")


def test_leases_of_the_oldest_format_are_released_only_for_want_of_others() -> None:
    exact, old = Lease(V4, "one", "eth0"), Lease(V4, "one", "")
    assert mine([old, exact]) == [exact]
    assert mine([old, old]) == [old, old]
    assert mine([]) == []
