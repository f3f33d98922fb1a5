"""Which program of iptables is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cni.nft import iptables
from cni.nft.iptables import Iptables, NoProgram

if TYPE_CHECKING:
    from pathlib import Path

SAVES = "#!/bin/sh\necho ':FORWARD DROP [0:0]'\n"


@pytest.mark.parametrize(
    ("real", "found"), [("xtables-legacy-multi", True), ("xtables-multi", True), ("xtables-nft-multi", False), ("", False)]
)
def test_the_plain_name_serves_for_legacy_tables_unless_it_is_that_of_nft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real: str, found: bool
) -> None:
    monkeypatch.setattr(iptables, "FOLDERS", ())
    if real:
        (tmp_path / real).write_text(SAVES)
        (tmp_path / real).chmod(0o755)
        for tool in ("save", "restore"):
            (tmp_path / f"iptables-{tool}").symlink_to(real)
    programs = Iptables(path=str(tmp_path))
    assert bool(programs.save(False, legacy=True, table="filter")) is found
    if not found:
        with pytest.raises(NoProgram, match="no program iptables-restore"):
            programs.restore(False, "*filter\nCOMMIT\n", legacy=True)
