"""When this boot began: what may make it earlier, and that nothing makes it later."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from ipam import boot


def test_the_earliest_witness_counts_less_the_margin() -> None:
    assert boot.earliest(5000.0, 4000.0) == boot.earliest(4000.0, 5000.0) == 4000.0 - boot.MARGIN_S
    assert boot.MARGIN_S >= 30


def test_without_a_witness_nothing_is_old(tmp_path: Path) -> None:
    assert boot._mounted(str(tmp_path / "nothing")) == 0.0


def test_this_machine_booted_before_now_and_not_after_its_kernel_says() -> None:
    text = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    assert text is not None
    assert boot.boot_time() <= int(text[1]) + 1 - boot.MARGIN_S
    assert boot.boot_time() <= os.stat("/proc").st_ctime - boot.MARGIN_S
    assert boot.boot_time() < time.time()
    assert boot.boot_time() > 0
