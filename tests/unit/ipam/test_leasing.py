"""Leasing on a store in memory: second ADDs, reboots, failures in the middle, what is said when there is no address."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cni.spec.addresses import parse_cidr, parse_ip
from cni.spec.errors import CNIError, EnvError, TryAgain
from cni.spec.owner import Owner
from ipam.allocate import Refusal
from ipam.leasing import choose_in, lease
from ipam.ranges import RangeConf, RangeSet, read_sets
from tests.contract.fake_store import FakeStore

if TYPE_CHECKING:
    from collections.abc import Sequence

ME = Owner("net", "me", "eth0")
BOOT, EARLIER, ELSEWHERE = "now here", "then here", "then there"


def sets(*subnets: str) -> tuple[RangeSet, ...]:
    return read_sets([[RangeConf(parse_cidr(subnet))] for subnet in subnets])


SMALL, DUAL = sets("10.0.0.0/30"), sets("10.0.0.0/29", "fd00::/126")


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


def add(store: FakeStore, pools: Sequence[RangeSet], *wanted: str, owner: Owner = ME, notes: list[str] | None = None) -> str:
    noted: list[str] = [] if notes is None else notes
    choices = lease(store, pools, [parse_ip(text) for text in wanted], owner, BOOT, noted)
    return " ".join(str(choice.address) for choice in choices)


def test_an_address_of_each_set_is_written_down(store: FakeStore) -> None:
    assert add(store, DUAL) == "10.0.0.2 fd00::2"
    assert store.dump() == dict.fromkeys(["10.0.0.2", "fd00::2"], "container me, interface eth0")
    assert {index: str(address) for index, address in store.last.items()} == {0: "10.0.0.2", 1: "fd00::2"}


def test_a_requested_address_moves_the_round_robin_too(store: FakeStore) -> None:
    assert add(store, DUAL, "10.0.0.5") == "10.0.0.5 fd00::2"
    store.release(parse_ip("fd00::2"))
    assert add(store, DUAL, owner=Owner("net", "you", "eth0")) == "10.0.0.6 fd00::3"


# -- a second ADD --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [(), ("10.0.0.5",)], ids=["any", "requested"])
def test_a_second_add_is_refused_also_for_another_address(store: FakeStore, wanted: tuple[str, ...]) -> None:
    add(store, DUAL)
    before = store.dump()
    with pytest.raises(
        CNIError, match=r"^failed to allocate for range 0: 10.0.0.2 has been allocated to me, duplicate"
    ) as refused:
        add(store, DUAL, *wanted)
    assert refused.value.code == 999
    assert "DEL" in refused.value.details
    assert store.dump() == before


def test_a_lease_of_the_second_set_alone_refuses_too(store: FakeStore) -> None:
    store.hold("fd00::3", "me")
    with pytest.raises(CNIError, match=r"^failed to allocate for range 1: fd00::3 has been allocated to me"):
        add(store, DUAL)
    assert list(store.dump()) == ["fd00::3"]


def test_other_interfaces_and_other_ranges_do_not_refuse(store: FakeStore) -> None:
    store.hold("10.0.0.2", "me", "eth1")
    store.hold("192.0.2.2", "me", "eth0")
    assert add(store, DUAL) == "10.0.0.3 fd00::2"


def test_a_lease_of_the_oldest_format_refuses(store: FakeStore) -> None:
    store.hold("10.0.0.2", "me", "")
    with pytest.raises(CNIError, match="duplicate allocation"):
        add(store, DUAL)


# -- leases of an earlier boot -----------------------------------------------------------------------------------------


def test_an_owner_that_comes_again_after_a_reboot_is_served(store: FakeStore) -> None:
    store.hold("10.0.0.2", "me", boot=EARLIER)
    store.hold("192.0.2.9", "me", boot=EARLIER)
    notes: list[str] = []
    assert add(store, SMALL, notes=notes) == "10.0.0.2"
    assert list(store.dump()) == ["10.0.0.2"]
    assert store.boot_of(parse_ip("10.0.0.2")) == BOOT
    assert len(notes) == 2


def test_an_owner_with_a_lease_of_this_boot_beside_an_old_one_is_refused(store: FakeStore) -> None:
    store.hold("10.0.0.2", "me", boot=EARLIER)
    store.hold("fd00::2", "me", boot=BOOT)
    with pytest.raises(CNIError, match="duplicate allocation"):
        add(store, DUAL)
    assert sorted(store.dump()) == ["10.0.0.2", "fd00::2"]


def test_leases_of_an_earlier_boot_stay_while_an_address_is_free(store: FakeStore) -> None:
    store.hold("10.0.0.2", boot=EARLIER)
    assert add(store, DUAL) == "10.0.0.3 fd00::2"
    assert "10.0.0.2" in store.dump()


def test_leases_of_an_earlier_boot_make_room_in_a_full_set_one_after_the_other(store: FakeStore) -> None:
    for host, boot in enumerate([BOOT, EARLIER, ELSEWHERE, "", EARLIER], 2):
        store.hold(f"10.0.0.{host}", f"c{host}", boot=boot)
    notes: list[str] = []
    assert add(store, DUAL, notes=notes) == "10.0.0.3 fd00::2"
    assert notes == ["10.0.0.3 was leased to container c3, interface eth0 before this boot; taken back"]
    assert add(store, sets("10.0.0.0/29"), owner=Owner("net", "you", "eth0")) == "10.0.0.6"
    with pytest.raises(CNIError, match="no IP addresses available"):
        add(store, sets("10.0.0.0/29"), owner=Owner("net", "she", "eth0"))


@pytest.mark.parametrize("boot", [BOOT, ELSEWHERE, ""])
def test_what_is_not_proven_to_be_of_an_earlier_boot_is_not_taken(store: FakeStore, boot: str) -> None:
    store.hold("10.0.0.2", "other", boot=boot)
    for owner, wanted in ((ME, ()), (ME, ("10.0.0.2",)), (Owner("net", "other", "eth0"), ())):
        with pytest.raises(CNIError):
            add(store, SMALL, *wanted, owner=owner)
    assert store.dump() == {"10.0.0.2": "container other, interface eth0"}


def test_an_obstacle_with_a_mark_of_an_earlier_boot_stays(store: FakeStore) -> None:
    store.hold("10.0.0.2", boot=EARLIER)
    store.obstruct("10.0.0.2")  # an administrator wrote words over a lease
    with pytest.raises(CNIError, match="no IP addresses available"):
        add(store, SMALL)


def test_where_this_boot_is_not_known_nothing_is_taken(store: FakeStore) -> None:
    store.hold("10.0.0.2", boot=EARLIER)
    with pytest.raises(CNIError, match="no IP addresses available"):
        lease(store, SMALL, (), ME, "", [])


def test_a_requested_address_is_taken_back_from_an_earlier_boot_only(store: FakeStore) -> None:
    """Although others are free: nobody else can have it, and who requests it wants no other."""
    store.hold("10.0.0.4", "old", boot=EARLIER)
    store.hold("10.0.0.5", "new", boot=BOOT)
    assert add(store, DUAL, "10.0.0.4") == "10.0.0.4 fd00::2"
    with pytest.raises(CNIError, match=r"requested IP address 10\.0\.0\.5 is not available"):
        add(store, DUAL, "10.0.0.5", owner=Owner("net", "you", "eth0"))


# -- no address --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "message", "details"),
    [
        (
            ("10.0.0.2",),
            "failed to allocate for range 0: requested IP address 10.0.0.2 is not available in range set 10.0.0.1-10.0.0.2",
            "it is leased to container other, interface eth0",
        ),
        (("10.0.0.1",), "failed to allocate for range 0: requested ip 10.0.0.1 is subnet's gateway", "another address"),
        (("192.0.2.1", "fd00::7"), "no IP addresses available in range set: 10.0.0.1-10.0.0.2", "add a range"),
        ((), "failed to allocate for range 0: no IP addresses available in range set: 10.0.0.1-10.0.0.2", "add a range"),
    ],
)
def test_refusals_in_the_references_words(store: FakeStore, wanted: tuple[str, ...], message: str, details: str) -> None:
    store.hold("10.0.0.2")
    with pytest.raises(CNIError) as refused:
        add(store, SMALL, *wanted)
    assert message in refused.value.msg
    assert details in refused.value.details
    assert refused.value.code == 999
    assert list(store.dump()) == ["10.0.0.2"]


def test_requests_that_nothing_holds_are_named(store: FakeStore) -> None:
    with pytest.raises(CNIError) as refused:
        add(store, DUAL, "192.0.2.1", "10.0.0.4", "fd01::7")
    assert refused.value.msg == "failed to allocate all requested IPs: 192.0.2.1 fd01::7"
    assert "10.0.0.1-10.0.0.6; fd00::1-fd00::3" in refused.value.details
    assert store.dump() == {}


def test_a_requested_address_with_something_else_in_its_place(store: FakeStore) -> None:
    store.obstruct("10.0.0.5")
    with pytest.raises(CNIError, match=r"not available.*not a lease"):
        add(store, DUAL, "10.0.0.5")


def test_a_full_second_set_takes_nothing_of_the_first(store: FakeStore) -> None:
    store.hold("fd00::2")
    store.hold("fd00::3")
    with pytest.raises(CNIError, match=r"for range 1: no IP addresses available in range set: fd00::1-fd00::3"):
        add(store, DUAL)
    assert sorted(store.dump()) == ["fd00::2", "fd00::3"]
    assert store.last == {}


def test_a_container_id_that_no_lease_holds_is_refused(store: FakeStore) -> None:
    with pytest.raises(EnvError, match="CNI_CONTAINERID is too long"):
        add(store, DUAL, owner=Owner("net", "x" * 5000, "eth0"))


# -- failures in the middle --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "call"), [("reserve", 0), ("reserve", 1), ("remember", 0), ("remember", 1)])
def test_a_failed_write_leaves_what_was_there_and_nothing_more(store: FakeStore, method: str, call: int) -> None:
    store.hold("192.0.2.2", "me")  # leased earlier from a range that is not configured any more
    store.fail[method] = call
    with pytest.raises(CNIError, match=f"cannot {method}"):
        add(store, DUAL)
    assert list(store.dump()) == ["192.0.2.2"]
    assert add(store, DUAL).count(" ") == 1


def test_a_failing_rollback_is_noted(store: FakeStore) -> None:
    store.fail = {"remember": 1, "release": 0}
    notes: list[str] = []
    with pytest.raises(CNIError, match="cannot remember"):
        add(store, DUAL, notes=notes)
    assert notes == ["cannot release: the test says so"]
    assert list(store.dump()) == ["10.0.0.2"]


def test_a_writer_who_ignores_the_lock_is_a_reason_to_try_again(store: FakeStore) -> None:
    store.intruder = parse_ip("fd00::2")
    with pytest.raises(TryAgain, match="fd00::2 was taken"):
        add(store, DUAL)
    assert store.dump() == {}


def test_choosing_alone_writes_nothing(store: FakeStore) -> None:
    outcome = choose_in(store, DUAL, (), store.taken(), BOOT)
    assert not isinstance(outcome, Refusal)
    assert (store.dump(), store.last) == ({}, {})
