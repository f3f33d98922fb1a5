"""Which boot a lease is of: what proves an earlier one, and that nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam import boot

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = "11111111-0000-0000-0000-000000000000 aaaaaaaa"
EARLIER = "22222222-0000-0000-0000-000000000000 aaaaaaaa"
ELSEWHERE = "22222222-0000-0000-0000-000000000000 bbbbbbbb"


def test_another_boot_of_this_host_is_an_earlier_one() -> None:
    assert boot.is_earlier(EARLIER, NOW)


@pytest.mark.parametrize("mark", [NOW, ELSEWHERE, "", " ", " aaaaaaaa", EARLIER.split(maxsplit=1)[0], "x", f" {EARLIER}"])
def test_nothing_else_is(mark: str) -> None:
    assert not boot.is_earlier(mark, NOW)


@given(st.text())
def test_without_a_mark_of_our_own_nothing_is(mark: str) -> None:
    assert not boot.is_earlier(mark, "")
    assert not boot.is_earlier(EARLIER, mark.partition(" ")[0])


def test_a_mark_is_the_kernels_boot_id_and_the_host() -> None:
    boot_id, host = boot.this_boot().split(" ")
    assert str(UUID(boot_id)) == Path(boot.BOOT_ID).read_text().strip()
    assert len(bytes.fromhex(host)) == 4
    assert boot.this_boot() == boot.this_boot()
    assert not boot.is_earlier(boot.this_boot(), boot.this_boot())


@pytest.mark.parametrize("change", [lambda: "another", lambda: "another\nhost"])
def test_hosts_differ_by_name_or_machine_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[], str]) -> None:
    here = boot.this_boot()
    (tmp_path / "id").write_text(change())
    monkeypatch.setattr(boot, "MACHINE_ID", str(tmp_path / "id"))
    by_id = boot.this_boot()
    monkeypatch.setattr("os.uname", lambda: type("Names", (), {"nodename": change()}))
    assert len({here, by_id, boot.this_boot()}) == 3


def test_a_host_without_a_machine_id_has_a_mark_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot, "MACHINE_ID", str(tmp_path / "none"))
    assert len(boot.this_boot().split(" ")) == 2


def test_where_the_boot_id_is_hidden_there_is_no_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot, "BOOT_ID", str(tmp_path / "none"))
    assert boot.this_boot() == ""
