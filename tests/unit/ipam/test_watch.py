"""What a watch tells of a folder, and when it has nothing to say any more."""

from __future__ import annotations

import gc
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from ipam.watch import Lost, Watch
from tests.harness.node import PATH, Node
from tests.harness.wrappers import ROOT, python

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "net"
    path.mkdir()
    return path


@pytest.fixture
def watch(folder: Path) -> Iterator[Watch]:
    descriptor = os.open(folder, os.O_RDONLY)
    yield Watch(descriptor)
    os.close(descriptor)


def test_nothing_happened(watch: Watch, folder: Path) -> None:
    os.listdir(folder)
    assert watch.events() == []


def test_whatever_touches_a_file_is_told_in_order(watch: Watch, folder: Path, tmp_path: Path) -> None:
    one, two = folder / "10.1.0.5", folder / "fd00::5"
    one.touch()
    assert ("10.1.0.5", True) in watch.events()
    one.write_bytes(b"x")
    assert set(watch.events()) == {("10.1.0.5", False)}
    one.chmod(0o400)
    assert watch.events() == [("10.1.0.5", False)]
    os.truncate(one, 0)
    assert watch.events() == [("10.1.0.5", False)]
    one.rename(two)
    assert watch.events() == [("10.1.0.5", True), ("fd00::5", True)]
    os.link(two, one)
    assert [event for event in watch.events() if event[1]] == [("10.1.0.5", True)]
    two.rename(tmp_path / "elsewhere")
    assert watch.events() == [("fd00::5", True)]
    one.unlink()
    assert ("10.1.0.5", True) in watch.events()
    folder.chmod(0o700)
    assert watch.events() == []


def test_a_name_may_be_any_bytes(watch: Watch, folder: Path) -> None:
    name = os.fsdecode(b"\xff" * 255)
    (folder / name).mkdir()
    assert watch.events() == [(name, True)]


def test_many_events_are_read_at_once(watch: Watch, folder: Path) -> None:
    names = [f"{number:0200d}" for number in range(1000)]
    for name in names:
        (folder / name).mkdir()
    assert watch.events() == [(name, True) for name in names]


def test_a_queue_that_ran_over_is_told(watch: Watch, folder: Path) -> None:
    with open("/proc/sys/fs/inotify/max_queued_events") as file:
        most = int(file.read())
    for name in ("a", "b"):
        (folder / name).touch()
    for _ in range(most // 2 + 1):
        os.chmod(folder / "a", 0o600)  # the same event twice in a row is queued once
        os.chmod(folder / "b", 0o600)
    with pytest.raises(Lost, match=r"^overflow$"):
        watch.events()


def test_the_end_of_a_folder_is_told(watch: Watch, folder: Path) -> None:
    (folder / "a").touch()
    folder.rename(folder.with_name("away"))
    with pytest.raises(Lost, match=r"^moved$"):
        watch.events()


def test_a_removed_folder_is_told(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    watch = Watch(descriptor)
    os.close(descriptor)
    shutil.rmtree(folder)
    with pytest.raises(Lost, match=r"^removed$"):
        watch.events()


@pytest.mark.root
def test_a_file_system_taken_away_is_told() -> None:
    script = (
        "import os, subprocess\n"
        "from ipam.watch import Lost, Watch\n"
        "descriptor = os.open('/mnt', os.O_RDONLY)\n"
        "watch = Watch(descriptor)\n"
        "os.close(descriptor)\n"
        "subprocess.run(['umount', '/mnt'], check=True)\n"
        "try:\n    print(watch.events())\nexcept Lost as lost:\n    print('lost:', lost)\n"
    )
    with Node() as node:
        node.sh("mount -t tmpfs none /mnt")
        said = node.run(python(), "-c", script, env={"PATH": PATH, "PYTHONPATH": str(ROOT)})
    assert "lost: unmounted" in str(said)


def test_what_is_no_local_file_system_is_refused() -> None:
    descriptors = os.listdir("/proc/self/fd")
    descriptor = os.open("/proc/self", os.O_RDONLY)
    with pytest.raises(OSError, match="not supported"):
        Watch(descriptor)
    os.close(descriptor)
    with pytest.raises(OSError, match="not supported"):
        Watch(-1)
    assert os.listdir("/proc/self/fd") == descriptors


def test_a_watch_that_nobody_refers_to_is_closed(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    gc.collect()  # what earlier tests left
    descriptors = os.listdir("/proc/self/fd")
    watch = Watch(descriptor)
    assert len(os.listdir("/proc/self/fd")) == len(descriptors) + 1
    del watch
    gc.collect()
    assert os.listdir("/proc/self/fd") == descriptors
    os.close(descriptor)
    with pytest.raises(NotADirectoryError):
        file = os.open(__file__, os.O_RDONLY)
        try:
            Watch(file)
        finally:
            os.close(file)
