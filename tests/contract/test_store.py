"""The contract of a store of leases, on the fake, on disk and with an index: what is decided on the one holds on the others."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cni.spec.addresses import Ip, parse_ip
from cni.spec.owner import Owner
from ipam import indexed, store
from ipam.leases import Lease
from tests.contract.fake_store import FakeStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ipam.store import Store

V4, V6 = parse_ip("10.1.0.5"), parse_ip("fd00::5")
ONE, TWO = Owner("net", "one", "eth0"), Owner("net", "two", "eth0")


class Rig:
    """A store, and the ways to put something into it behind its back."""

    def __init__(
        self,
        store: Store,
        crash: Callable[[str], None],
        legacy: Callable[[str, str], None],
    ) -> None:
        self.store, self.crash, self.legacy = store, crash, legacy


@pytest.fixture(params=["fake", "disk", "disk without unnamed files", "index", "index without unnamed files"])
def rig(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readings: list[int]) -> Iterator[Rig]:
    if request.param == "fake":
        fake = FakeStore()
        yield Rig(
            fake,
            lambda text: fake.empty.add(parse_ip(text)),
            lambda text, owner: fake.hold(text, owner, ""),
        )
        return
    if request.param.endswith("without unnamed files"):
        monkeypatch.setattr("os.O_TMPFILE", os.O_TMPFILE | os.O_CREAT)  # the kernel refuses both together with EINVAL
    folder = tmp_path / "net"
    folder.mkdir()
    notes: list[str] = []
    if request.param.startswith("index"):
        indexed.keep()
        request.addfinalizer(indexed.forget)
    with store.for_writing(str(folder), notes, create=True) as disk:
        yield Rig(
            disk,
            lambda text: (folder / text).touch(),
            lambda text, owner: _write(folder / text, owner),
        )
    assert notes == []
    assert len(readings) <= request.param.startswith("index"), "nothing contradicts what is known"
    assert {name for name in os.listdir(folder) if not name[0].isalnum()} == set()


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def test_an_empty_store_knows_nothing(rig: Rig) -> None:
    assert not rig.store.taken()
    assert rig.store.leases() == rig.store.held_by(ONE) == rig.store.blank() == []
    assert rig.store.lease(V4) is None
    assert rig.store.boot_of(V4) == ""
    assert rig.store.last_reserved(0) is None


@pytest.mark.parametrize("address", [V4, V6], ids=str)
def test_what_is_reserved_is_leased(rig: Rig, address: Ip) -> None:
    lease = Lease(address, "one", "eth0")
    assert rig.store.reserve(address, ONE) is True
    assert rig.store.lease(address) == lease
    assert rig.store.leases() == rig.store.held_by(ONE) == [lease]
    assert rig.store.held_by(TWO) == []
    assert set(rig.store.taken()) == {str(address)}


def test_nobody_reserves_what_is_leased(rig: Rig) -> None:
    assert rig.store.reserve(V4, ONE) is True
    assert rig.store.reserve(V4, TWO) is False
    assert rig.store.reserve(V4, ONE) is False
    assert rig.store.lease(V4) == Lease(V4, "one", "eth0")


def test_views_follow_what_is_done(rig: Rig) -> None:
    assert not rig.store.taken()  # disk reads the folder here
    rig.store.reserve(V4, ONE)
    rig.store.reserve(V6, ONE)
    assert set(rig.store.taken()) == {str(V4), str(V6)}
    rig.store.release(V4)
    assert set(rig.store.taken()) == {str(V6)}
    assert rig.store.held_by(ONE) == [Lease(V6, "one", "eth0")]


def test_release_says_whether_there_was_something(rig: Rig) -> None:
    rig.store.reserve(V4, ONE)
    assert rig.store.release(V4) is True
    assert rig.store.release(V4) is False
    assert rig.store.lease(V4) is None
    assert rig.store.reserve(V4, TWO) is True


def test_interfaces_of_a_container_are_different_owners(rig: Rig) -> None:
    rig.store.reserve(V4, ONE)
    rig.store.reserve(V6, Owner("net", "one", "eth1"))
    assert rig.store.held_by(ONE) == [Lease(V4, "one", "eth0")]


def test_a_lease_of_the_oldest_format_is_of_every_interface(rig: Rig) -> None:
    rig.legacy("10.1.0.9", "one")
    lease = Lease(parse_ip("10.1.0.9"), "one", "")
    assert rig.store.held_by(ONE) == rig.store.held_by(Owner("net", "one", "eth7")) == [lease]
    assert rig.store.held_by(TWO) == []
    assert rig.store.leases() == [lease]


def test_what_a_crash_left_empty_is_free(rig: Rig) -> None:
    rig.crash("10.1.0.5")
    assert not rig.store.taken()
    assert rig.store.leases() == []
    assert rig.store.blank() == [V4]
    assert rig.store.reserve(V4, ONE) is True
    assert rig.store.blank() == []
    assert rig.store.lease(V4) == Lease(V4, "one", "eth0")


def test_an_empty_lease_can_be_released(rig: Rig) -> None:
    rig.crash("10.1.0.5")
    assert rig.store.blank() == [V4]
    assert rig.store.release(V4) is True
    assert rig.store.blank() == []


def test_a_lease_keeps_the_boot_it_was_made_in(rig: Rig) -> None:
    rig.legacy("10.1.0.9", "one")
    rig.store.reserve(V4, ONE, "a boot")
    rig.store.reserve(V6, ONE)
    assert [rig.store.boot_of(address) for address in (V4, V6, parse_ip("10.1.0.9"))] == ["a boot", "", ""]
    rig.store.release(V4)
    assert rig.store.boot_of(V4) == ""
    rig.store.reserve(V4, TWO, "another")
    assert rig.store.boot_of(V4) == "another"


def test_each_set_has_its_last_address(rig: Rig) -> None:
    rig.store.remember(0, V4)
    rig.store.remember(1, V6)
    rig.store.remember(0, parse_ip("10.1.0.6"))
    assert rig.store.last_reserved(0) == parse_ip("10.1.0.6")
    assert rig.store.last_reserved(1) == V6
    assert rig.store.last_reserved(2) is None
    assert not rig.store.taken()
