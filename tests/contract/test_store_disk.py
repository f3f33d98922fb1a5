"""The store on disk beyond its contract, without and with an index: its bytes, foreign and broken files, locks, failures of the
file system.
"""

from __future__ import annotations

import _thread
import errno
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from cni.spec.addresses import parse_ip
from cni.spec.errors import InputError, TryAgain
from cni.spec.owner import Owner
from ipam import folder as folders
from ipam import indexed, store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

V4, V6 = parse_ip("10.1.0.5"), parse_ip("2001:db8::5")
ONE = Owner("net", "one", "eth0")


@pytest.fixture(params=["disk", "index"], autouse=True)
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "index":
        indexed.keep()
    yield request.param
    indexed.forget()


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "net"
    path.mkdir(parents=True)
    return path


def writing(folder: Path, notes: list[str], **options: float) -> store.DiskStore:
    return store.for_writing(str(folder), notes, create=True, **options)


def test_bytes_and_modes_are_the_references(tmp_path: Path, notes: list[str]) -> None:
    folder = tmp_path / "a" / "b" / "net"
    before = os.umask(0o022)
    try:
        with writing(folder, notes) as leases:
            leases.reserve(V4, Owner("net", "abc123", "eth0"))
            leases.reserve(V6, Owner("net", "abc123", "eth0"))
            leases.remember(0, V4)
            leases.remember(1, V6)
    finally:
        os.umask(before)
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == {
        "10.1.0.5": b"abc123\r\neth0",
        "2001:db8::5": b"abc123\r\neth0",
        "last_reserved_ip.0": b"10.1.0.5",
        "last_reserved_ip.1": b"2001:db8::5",
        "lock": b"",
    }
    modes = {entry.name: entry.stat().st_mode & 0o7777 for entry in folder.iterdir()}
    assert modes == dict.fromkeys(modes, 384) | {"lock": 0o750}
    assert [path.stat().st_mode & 0o7777 for path in (folder, folder.parent, folder.parent.parent)] == [0o755] * 3
    assert (folder / "10.1.0.5").stat().st_nlink == 1


@pytest.mark.parametrize("unnamed", [True, False])
@pytest.mark.parametrize("refused", [(), ("trusted",), ("trusted", "user")], ids=["root", "rootless", "no attributes"])
def test_a_lease_is_marked_as_far_as_the_file_system_can(
    folder: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch, refused: tuple[str, ...], unnamed: bool
) -> None:
    kept: dict[tuple[int, str], bytes] = {}  # not every file system that tests run on has both kinds

    def setxattr(descriptor: int, name: str, value: bytes) -> None:
        if name.startswith(refused):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        kept[os.fstat(descriptor).st_ino, name] = value

    def getxattr(descriptor: int, name: str) -> bytes:
        try:
            return kept[os.fstat(descriptor).st_ino, name]
        except KeyError:
            raise OSError(errno.ENODATA, "No data available") from None

    monkeypatch.setattr("os.setxattr", setxattr)
    monkeypatch.setattr("os.getxattr", getxattr)
    if not unnamed:
        monkeypatch.setattr("os.O_TMPFILE", os.O_TMPFILE | os.O_CREAT)
    with writing(folder, notes) as leases:
        assert leases.reserve(V4, ONE, "a boot")
        leases.remember(0, V4)
        assert leases.boot_of(V4) == ("" if len(refused) == 2 else "a boot")
    inode = (folder / str(V4)).stat().st_ino
    possible = [(inode, name) for name in folders.MARKS if not name.startswith(refused)]
    assert kept == dict.fromkeys(possible[:1], b"a boot")
    assert notes == []


def test_folders_are_not_left_open_to_all_by_a_umask_of_nothing(tmp_path: Path, notes: list[str]) -> None:
    before = os.umask(0)
    try:
        with writing(tmp_path / "a" / "net", notes):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("content", [b"", b"\r\n", b" ", b"\0" * 70], ids=repr)
def test_a_torn_lease_is_free(folder: Path, notes: list[str], content: bytes) -> None:
    (folder / str(V4)).write_bytes(content)
    with writing(folder, notes) as leases:
        assert not leases.taken()
        assert leases.reserve(V4, ONE) is True
    assert (folder / str(V4)).read_bytes() == b"one\r\neth0"
    assert notes == []


@pytest.mark.parametrize(
    ("content", "container_id", "ifname"),
    [
        (b"one\r\neth0", "one", "eth0"),
        (b"one\r\neth0\n", "one", "eth0"),
        (b" one\r\neth0 ", "one", "eth0"),
        (b"one", "one", ""),
        (b"one\n", "one", ""),
        (b"one\r\n", "one", ""),
    ],
    ids=repr,
)
def test_whose_lease_a_file_is(folder: Path, notes: list[str], content: bytes, container_id: str, ifname: str) -> None:
    (folder / str(V4)).write_bytes(content)
    with store.for_reading(str(folder), notes) as leases:
        (lease,) = leases.held_by(ONE)
        assert (lease.container_id, lease.ifname) == (container_id, ifname)
        assert leases.lease(V4) == lease


@pytest.mark.parametrize("content", [b"kept free for the printer", b"\xff\xfe", b"one\neth0", b"x" * 5000, b"-one\r\neth0"])
def test_words_keep_an_address_out_of_use(folder: Path, notes: list[str], content: bytes) -> None:
    (folder / str(V4)).write_bytes(content)
    with writing(folder, notes) as leases:
        assert leases.leases() == leases.held_by(ONE) == []
        assert leases.lease(V4) is None
        assert set(leases.taken()) == {str(V4)}
        assert leases.reserve(V4, ONE) is False
    assert len(notes) == 1
    assert str(V4) in notes[0]


def test_names_that_are_no_leases_are_noted_once_and_left_alone(folder: Path, notes: list[str]) -> None:
    names = ["notes.txt", "10.1.0.5.bak", "FD00::5", os.fsdecode(b"\xff\xfe.5")]
    for name in names:
        (folder / name).write_bytes(b"one\r\neth0")
    with writing(folder, notes) as leases:
        assert leases.leases() == leases.held_by(ONE) == []
        assert not leases.taken()
        leases.reserve(V4, ONE)
    assert sorted(os.listdir(folder)) == sorted([*names, "lock", str(V4)])
    assert len(notes) == len(names)


def test_an_address_in_another_spelling_is_no_lease(folder: Path, notes: list[str]) -> None:
    (folder / "10.1.0.05").write_bytes(b"one\r\neth0")
    with store.for_reading(str(folder), notes) as leases:
        assert leases.leases() == leases.held_by(ONE) == []
    assert len(notes) == 1


def test_an_address_that_is_a_folder_a_socket_a_fifo_or_a_link_is_taken(folder: Path, notes: list[str]) -> None:
    (folder / "10.1.0.2").mkdir()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "10.1.0.3"))
    os.mkfifo(folder / "10.1.0.4")
    (folder / str(V4)).symlink_to(folder / "nowhere")
    names = {"10.1.0.2", "10.1.0.3", "10.1.0.4", str(V4)}
    with writing(folder, notes) as leases:
        assert set(leases.taken()) == names
        assert leases.leases() == leases.blank() == leases.held_by(ONE) == []
        assert [leases.lease(parse_ip(name)) for name in names] == [None] * 4
        assert [leases.reserve(parse_ip(name), ONE) for name in names] == [False] * 4
    assert len(notes) == 4


@pytest.mark.parametrize("known", [True, False], ids=["read before", "never read"])
@pytest.mark.parametrize("reason", [errno.EMFILE, errno.ENFILE, errno.ENOMEM], ids=os.strerror)
def test_while_a_file_cannot_be_read_nobody_is_told_that_it_is_not_his(
    folder: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch, known: bool, reason: int
) -> None:
    (folder / str(V4)).write_bytes(b"one\r\neth0")
    if known:
        with writing(folder, notes) as leases:
            assert len(leases.held_by(ONE)) == 1
    with monkeypatch.context() as patch, writing(folder, notes) as leases:
        patch.setattr(os, "open", _failing(str(V4), reason))
        for ask in (lambda: leases.held_by(ONE), lambda: leases.lease(V4)):
            with pytest.raises(TryAgain, match=f"cannot read the lease .*{V4}: {os.strerror(reason)}"):
                ask()
    with writing(folder, notes) as leases:
        assert [leases.lease(V4)] == leases.held_by(ONE) != []


@pytest.mark.parametrize("reason", [errno.EACCES, errno.EPERM, errno.EIO], ids=os.strerror)
def test_what_can_never_be_read_keeps_nobody_from_anything(
    folder: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    (folder / str(V4)).write_bytes(b"two\r\neth0")
    with monkeypatch.context() as patch, writing(folder, notes) as leases:
        patch.setattr(os, "open", _failing(str(V4), reason))
        assert leases.held_by(ONE) == []
        assert leases.lease(V4) is None
        assert set(leases.taken()) == {str(V4)}


def _failing(name: str, reason: int) -> Callable[..., int]:
    """open() that fails for one name."""
    real = os.open

    def fail(path: str, *args: int, **options: int) -> int:
        if path == name:
            raise OSError(reason, os.strerror(reason))
        return real(path, *args, **options)

    return fail


def test_a_folder_that_is_not_there_has_no_leases(tmp_path: Path, notes: list[str]) -> None:
    for leases in (store.for_reading(str(tmp_path / "x"), notes), store.for_writing(str(tmp_path / "x"), notes, create=False)):
        with leases:
            assert leases.leases() == leases.held_by(ONE) == []
            assert leases.release(V4) is False
            assert leases.lease(V4) is None
            assert leases.last_reserved(0) is None
    assert not (tmp_path / "x").exists()


def test_reading_creates_nothing(folder: Path, notes: list[str]) -> None:
    with store.for_reading(str(folder), notes) as leases:
        assert leases.leases() == []
    assert os.listdir(folder) == []


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff", b"10.1.0"], ids=repr)
def test_a_last_address_that_makes_no_sense_is_none(folder: Path, notes: list[str], content: bytes) -> None:
    (folder / "last_reserved_ip.0").write_bytes(content)
    (folder / "last_reserved_ip.1").mkdir()
    with store.for_reading(str(folder), notes) as leases:
        assert leases.last_reserved(0) is leases.last_reserved(1) is None


def test_a_linked_data_folder_is_followed(tmp_path: Path, folder: Path, notes: list[str]) -> None:
    (tmp_path / "link").symlink_to(folder.parent)
    with writing(tmp_path / "link" / ".." / "link" / "net", notes) as leases:
        leases.reserve(V4, ONE)
    assert (folder / str(V4)).exists()


# -- a process that is killed, or fails, in the middle ------------------------------------------------------------------


def test_what_a_killed_process_left_unfinished_is_removed(folder: Path, notes: list[str]) -> None:
    (folder / str(V4)).write_bytes(b"one\r\neth0")
    os.link(folder / str(V4), folder / folders.UNFINISHED)  # killed between giving the second name and taking the first
    with writing(folder, notes) as leases:
        leases.remember(0, V4)
        assert leases.lease(V4) is not None
        (folder / folders.UNFINISHED).write_bytes(b"one\r\neth")
        assert leases.held_by(ONE) != []
    assert sorted(os.listdir(folder)) == [str(V4), "last_reserved_ip.0", "lock"]
    assert notes == []


def test_a_folder_in_the_place_of_an_unfinished_file_is_told(folder: Path, notes: list[str]) -> None:
    """It is in the way of nothing but a file that must be written under that name, and then the message names it."""
    (folder / str(V4)).write_bytes(b"one\r\neth0")
    (folder / folders.UNFINISHED).mkdir()
    with writing(folder, notes) as leases:
        assert leases.held_by(ONE) != []
        assert leases.release(V4) is True
        assert leases.reserve(V4, ONE) is True
        with pytest.raises(InputError, match=r"cannot write .*last_reserved_ip\.0: Is a directory.*\.podwire\.unfinished"):
            leases.remember(0, V4)
    (note,) = notes
    assert "cannot be removed (Is a directory)" in note


def test_a_file_that_cannot_be_replaced_leaves_no_other(folder: Path, notes: list[str]) -> None:
    (folder / "last_reserved_ip.0").mkdir()
    with writing(folder, notes) as leases, pytest.raises(InputError, match=r"cannot write .*last_reserved_ip\.0: .*remove it"):
        leases.remember(0, V4)
    assert sorted(os.listdir(folder)) == ["last_reserved_ip.0", "lock"]


@pytest.mark.parametrize("number", [6, 16], ids=["as long", "longer"])
def test_what_was_leased_last_is_never_half_written(folder: Path, notes: list[str], number: int) -> None:
    """The file is the same one where one write does it all, and another one where it does not or where a copy shares it."""
    last = folder / "last_reserved_ip.0"
    with writing(folder, notes) as leases:
        leases.remember(0, V4)
        before = last.stat().st_ino
        leases.remember(0, parse_ip(f"10.1.0.{number}"))
        assert (last.stat().st_ino == before) == (number == 6)
        assert last.read_text() == f"10.1.0.{number}"
        os.link(last, folder.parent / "copy")
        leases.remember(0, parse_ip(f"10.1.0.{number + 1}"))
        assert last.read_text() == f"10.1.0.{number + 1}"
        assert (folder.parent / "copy").read_text() == f"10.1.0.{number}"
        last.unlink()
        os.mkfifo(last)
        leases.remember(0, V4)
        last.unlink()
        last.symlink_to(folder.parent / "copy")
        leases.remember(0, parse_ip("10.1.0.77"))
    assert last.read_text() == "10.1.0.77"
    assert not last.is_symlink()
    assert (folder.parent / "copy").read_text() == f"10.1.0.{number}"
    assert sorted(os.listdir(folder)) == ["last_reserved_ip.0", "lock"]


@pytest.mark.parametrize("unnamed", [True, False])
def test_a_full_disk_leaves_nothing_torn(
    folder: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch, unnamed: bool
) -> None:
    if not unnamed:
        monkeypatch.setattr("os.O_TMPFILE", os.O_TMPFILE | os.O_CREAT)
    real = os.write
    written: list[bytes] = []

    def write(descriptor: int, content: bytes) -> int:
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(content)
        return real(descriptor, content[:3])

    with writing(folder, notes) as leases:
        monkeypatch.setattr("os.write", write)
        with pytest.raises(InputError, match=r"10\.1\.0\.5: No space left on device: make room"):
            leases.reserve(V4, ONE)
        assert not leases.taken()
        written.clear()
        with pytest.raises(InputError, match=r"last_reserved_ip\.0: No space left on device"):
            leases.remember(0, V4)
    assert os.listdir(folder) == ["lock"]


def test_without_proc_a_lease_is_whole_too(folder: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link(source: str, name: str, *, dst_dir_fd: int, src_dir_fd: int | None = None) -> None:
        if source.startswith("/proc/"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        real(source, name, dst_dir_fd=dst_dir_fd, src_dir_fd=src_dir_fd)

    monkeypatch.setattr("os.link", link)
    with writing(folder, notes) as leases:
        assert leases.reserve(V4, ONE) is True
        assert leases.reserve(V4, ONE) is False
    assert sorted(os.listdir(folder)) == [str(V4), "lock"]
    assert (folder / str(V4)).read_bytes() == b"one\r\neth0"


@pytest.mark.parametrize(
    ("make", "says"),
    [(lambda path: path.write_text(""), "Not a directory"), (lambda path: path.symlink_to("nowhere"), "No such file")],
)
def test_a_data_folder_that_cannot_be(tmp_path: Path, notes: list[str], make: object, says: str) -> None:
    assert callable(make)
    make(tmp_path / "data")
    with pytest.raises(InputError, match=says), writing(tmp_path / "data" / "net", notes):
        pass


def test_every_path_component_may_be_long_but_not_too_long(tmp_path: Path, notes: list[str]) -> None:
    with pytest.raises(InputError, match="File name too long"), writing(tmp_path / ("x" * 300) / "net", notes):
        pass


# -- the lock ------------------------------------------------------------------------------------------------------------


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def test_waiting_for_the_lock_has_an_end(folder: Path, notes: list[str]) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with writing(folder, notes):
        began = time.monotonic()
        with pytest.raises(TryAgain, match=str(folder / "lock")), writing(folder, notes, patience_s=0.2):
            pass
        assert 0.2 <= time.monotonic() - began < 5
    with writing(folder, notes, patience_s=5) as leases:  # the one that gave up does not hold it now
        assert leases.reserve(V4, ONE) is True
    until = time.monotonic() + 5
    while len(os.listdir("/proc/self/fd")) > descriptors and time.monotonic() < until:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) == descriptors, "the thread that waited did not close the lock"


def test_where_no_thread_can_wait_for_the_lock_the_call_may_be_repeated(
    folder: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    with writing(folder, notes):
        descriptors = os.listdir("/proc/self/fd")
        with monkeypatch.context() as patch:
            patch.setattr(_thread, "start_new_thread", none)
            with pytest.raises(TryAgain, match=str(folder / "lock")), writing(folder, notes):
                pass
        assert os.listdir("/proc/self/fd") == descriptors
    with writing(folder, notes) as leases:
        assert leases.reserve(V4, ONE) is True


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null"), os.mkdir, _socket])
def test_a_lock_that_is_no_file_is_told_at_once(folder: Path, notes: list[str], make: Callable[[Path], None]) -> None:
    make(folder / "lock")
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(InputError, match=r"cannot open .*/net/lock: (not a regular file|Is a directory|No such device)"):
        writing(folder, notes).__enter__()
    assert os.listdir("/proc/self/fd") == descriptors


def test_threads_of_one_process_exclude_each_other(folder: Path, notes: list[str]) -> None:
    inside, most, results = [0], [0], []

    def work(number: int) -> None:
        with writing(folder, notes) as leases:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            free = next(host for host in range(1, 255) if f"10.1.0.{host}" not in leases.taken())
            results.append(leases.reserve(parse_ip(f"10.1.0.{free}"), Owner("net", f"c{number}", "eth0")))
            inside[0] -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1]
    assert results == [True] * 20
    assert len(os.listdir(folder)) == 21


def test_a_folder_wiped_while_we_wait_for_its_lock_is_made_anew(folder: Path, notes: list[str]) -> None:
    entered = threading.Event()

    def work() -> None:
        entered.set()
        with writing(folder, notes) as leases:
            leases.reserve(V4, ONE)

    thread = threading.Thread(target=work)
    with writing(folder, notes):
        thread.start()
        entered.wait(5)
        time.sleep(0.1)
        (folder / "lock").unlink()
        folder.rmdir()
    thread.join(10)
    assert sorted(os.listdir(folder)) == [str(V4), "lock"]


def test_a_lock_replaced_while_we_wait_is_not_the_lock(folder: Path, notes: list[str]) -> None:
    inside = threading.Event()

    def work() -> None:
        with writing(folder, notes):
            inside.set()

    thread = threading.Thread(target=work)
    with writing(folder, notes):
        thread.start()
        time.sleep(0.1)
        (folder / "lock").unlink()
        new = store.for_writing(str(folder), notes, create=False)
        new.__enter__()
    assert not inside.wait(0.2), "two hold a lock of one folder"
    new.__exit__(None, None, None)
    thread.join(10)
    assert inside.is_set()


def test_no_descriptor_stays_open(folder: Path, notes: list[str]) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with writing(folder, notes) as leases:
            leases.reserve(V4, ONE)
            leases.remember(0, V4)
            with pytest.raises(TryAgain), writing(folder, notes, patience_s=0):
                pass
            leases.release(V4)
    until = time.monotonic() + 5
    while len(os.listdir("/proc/self/fd")) > len(before) and time.monotonic() < until:
        time.sleep(0.01)  # the thread that gave up closes its own when it has the lock
    assert len(os.listdir("/proc/self/fd")) == len(before)
