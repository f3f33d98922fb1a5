"""One suite of cases for files of the host, run on the fake and on a real folder; then what only a real one can do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING, cast

import pytest

from cni.net import files
from cni.net.host import Host
from cni.spec.errors import CNIError, KernelError
from tests.fakes import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _pytest.monkeypatch import MonkeyPatch


@pytest.fixture(params=["fake", "real"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    made = Host() if request.param == "real" else cast("Host", Machine().host())
    yield made
    made.close()


def test_nothing_is_there(host: Host, tmp_path: Path) -> None:
    folder = f"{tmp_path}/a/b"
    assert (host.file(f"{folder}/x"), host.files(folder), host.remove_file(f"{folder}/x")) == (None, [], False)
    assert host.unwritable(folder) == ""


def test_written_read_listed_removed(host: Host, tmp_path: Path) -> None:
    folder = f"{tmp_path}/a/b"
    host.write_file(f"{folder}/y", b"1", True)
    host.write_file(f"{folder}/x", b"2", False)
    host.write_file(f"{folder}/x", b"34", False)
    assert host.files(folder) == ["x", "y"]
    assert (host.file(f"{folder}/x", follow=False), host.file(f"{folder}/y")) == (b"34", b"1")
    assert (host.remove_file(f"{folder}/x"), host.remove_file(f"{folder}/x")) == (True, False)
    assert host.files(folder) == ["y"]


def test_a_new_file_takes_nobodys_place(host: Host, tmp_path: Path) -> None:
    host.write_file(f"{tmp_path}/x", b"1", True)
    with pytest.raises(KernelError) as caught:
        host.write_file(f"{tmp_path}/x", b"2", True)
    assert caught.value.errno == errno.EEXIST
    assert (host.file(f"{tmp_path}/x"), host.files(str(tmp_path))) == (b"1", ["x"])


def no_unnamed_files(monkeypatch: MonkeyPatch) -> None:
    real = os.open

    def refusing(path: str, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refusing)


@pytest.mark.parametrize("unnamed", [True, False])
def test_only_root_reads_and_nothing_stays_beside(tmp_path: Path, monkeypatch: MonkeyPatch, unnamed: bool) -> None:
    if not unnamed:
        no_unnamed_files(monkeypatch)
    folder = tmp_path / "a" / "b"
    for new, content in ((True, b"1"), (False, b"2")):
        files.write(f"{folder}/x", content, new)
        assert (folder / "x").read_bytes() == content
    with pytest.raises(KernelError):
        files.write(f"{folder}/x", b"3", True)
    assert files.names(str(folder)) == ["x"]
    assert ((folder / "x").stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    assert files.unwritable(str(folder)) == ""


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    link = tmp_path / "link"
    link.symlink_to("other")
    assert files.read(str(link)) == b"other"
    with pytest.raises(KernelError):
        files.read(str(link), follow=False)
    files.write(str(link), b"new", False)
    assert (link.is_symlink(), link.read_bytes(), (tmp_path / "other").read_bytes()) == (False, b"new", b"other")


@pytest.mark.parametrize("name", ["pipe", "folder", "large", "nul\0"])
def test_what_is_no_small_file(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with open(tmp_path / "large", "wb") as file:
        file.truncate(files.LIMIT + 1)
    with pytest.raises(CNIError):
        files.read(f"{tmp_path}/{name}", follow=False)


@pytest.mark.parametrize("name", ["folder", "nul\0"])
def test_what_cannot_be_written_or_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    for refused in (lambda: files.write(f"{tmp_path}/{name}", b"", False), lambda: files.remove(f"{tmp_path}/{name}")):
        with pytest.raises(CNIError, match=r"cannot (write|remove) "):
            refused()
    assert files.names(str(tmp_path)) == ["folder"]
    assert files.remove(f"{tmp_path}/{'n' * 300}") is False


def test_leftovers_of_a_killed_writer_go_with_the_file(tmp_path: Path) -> None:
    for ending in (files.NEXT, files.UNFINISHED):
        (tmp_path / f"x{ending}").write_bytes(b"")
    files.write(f"{tmp_path}/x", b"1", False)
    assert files.remove(f"{tmp_path}/x") is True
    assert files.names(str(tmp_path)) == []


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "ot a directory" in files.unwritable(f"{tmp_path}/file/a")
    assert "ull" in files.unwritable("/nul\0")


WRITER = "import sys; from cni.net import files\nwhile True: files.write(sys.argv[1], bytes([48]) * 5000, False)"


def test_a_killed_writer_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    path = f"{tmp_path}/x"
    files.write(path, b"1" * 5000, True)
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", WRITER, path]) as writer:
            for _ in range(200):
                assert files.read(path) in (b"0" * 5000, b"1" * 5000)
            writer.kill()
        assert files.read(path) in (b"0" * 5000, b"1" * 5000)
    files.remove(path)
    assert files.names(str(tmp_path)) == []
