"""The store with an index beyond its contract: whatever anybody does to the folder, it says what a pass over it says."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec.addresses import parse_cidr, parse_ip
from cni.spec.call import Call
from cni.spec.errors import CNIError, NotAvailable, TryAgain
from cni.spec.owner import Owner
from ipam import boot, host_local, index, indexed, store
from ipam.folder import UNFINISHED, Folder
from ipam.ranges import RangeConf, candidates, read_sets
from ipam.store import DiskStore
from ipam.watch import Watch
from tests.harness.node import PATH
from tests.harness.wrappers import ROOT, make_wrappers, python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cni.spec.result import Result

REFERENCE = Path("/usr/lib/cni/host-local")
V4 = parse_ip("10.1.0.5")
ONE, TWO = Owner("net", "one", "eth0"), Owner("net", "two", "eth0")
OWNERS = (ONE, TWO, Owner("net", "one", "eth1"))
POOLS = read_sets([[RangeConf(parse_cidr("10.1.0.0/28"))], [RangeConf(parse_cidr("fd00::/124"))]])
NAMES = ("10.1.0.2", "10.1.0.3", "10.1.0.4", "fd00::2", "fd00::3", "10.1.0.05", "notes.txt", "FD00::4", UNFINISHED)
CONTENTS = (
    b"one\r\neth0",
    b"two\r\neth0",
    b"one\r\neth1",
    b"one",
    b"one\n",
    b"",
    b"\0\0",
    b"kept for the printer",
    b"x" * 5000,
)


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    indexed.keep()
    yield
    indexed.forget()


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "net"
    path.mkdir(parents=True)
    return path


def writing(folder: Path, notes: list[str]) -> DiskStore:
    return store.for_writing(str(folder), notes, create=True)


def reading(folder: Path, notes: list[str]) -> DiskStore:
    return store.for_reading(str(folder), notes)


def taken(folder: Path) -> set[str]:
    with reading(folder, []) as leases:
        return set(leases.taken())


def tells(leases: DiskStore) -> tuple[object, ...]:
    """All that calls rely on."""
    taken = leases.taken()
    first = [[str(address) for address in itertools.islice(candidates(pool, None, taken), 3)] for pool in POOLS]
    held = [sorted(str(lease.address) + str(lease) for lease in leases.held_by(owner)) for owner in OWNERS]
    return set(taken), len(taken), first, held


# -- against a pass over the folder ---------------------------------------------------------------------------------------


class World:
    """A folder, and what may be done with it; each step has a name, so that a failing example can be read."""

    def __init__(self, top: Path) -> None:
        self.folder = top / "net"
        self.folder.mkdir()

    def write(self, name: str, content: bytes) -> None:
        """As anybody does who does not take the lock: over what is there."""
        if not (self.folder / name).is_fifo():  # that would wait for a reader
            (self.folder / name).write_bytes(content)

    def replace(self, name: str, content: bytes) -> None:
        (self.folder / "new").write_bytes(content)
        os.rename(self.folder / "new", self.folder / name)

    def append(self, name: str, content: bytes) -> None:
        if not (self.folder / name).is_fifo():
            with open(self.folder / name, "ab") as file:
                file.write(content)

    def remove(self, name: str, _: bytes) -> None:
        (self.folder / name).unlink()

    def rename(self, name: str, content: bytes) -> None:
        os.rename(self.folder / name, self.folder / NAMES[len(content) % len(NAMES)])

    def link(self, name: str, content: bytes) -> None:
        os.link(self.folder / name, self.folder / NAMES[len(content) % len(NAMES)])

    def make_folder(self, name: str, _: bytes) -> None:
        (self.folder / name).mkdir()

    def remove_folder(self, name: str, _: bytes) -> None:
        (self.folder / name).rmdir()

    def make_link(self, name: str, _: bytes) -> None:
        (self.folder / name).symlink_to("nowhere")

    def make_fifo(self, name: str, _: bytes) -> None:
        os.mkfifo(self.folder / name)

    def wipe(self, _: str, __: bytes) -> None:
        shutil.rmtree(self.folder)

    def make_anew(self, name: str, content: bytes) -> None:
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.write(name, content)

    def move_away(self, _: str, content: bytes) -> None:
        away = self.folder.with_name("away")
        shutil.rmtree(away, ignore_errors=True)
        self.folder.rename(away)
        (away / "10.1.0.3").write_bytes(content)

    def bring_back(self, name: str, content: bytes) -> None:
        away = self.folder.with_name("away")
        (away / "10.1.0.2").write_bytes(content)
        self.wipe(name, content)
        away.rename(self.folder)

    def remove_lock(self, _: str, __: bytes) -> None:
        (self.folder / "lock").unlink()

    def reserve(self, name: str, content: bytes) -> None:
        """By ours, with the index."""
        with writing(self.folder, []) as leases:
            leases.taken()
            owner = OWNERS[len(content) % len(OWNERS)]
            if leases.reserve(parse_ip(name), owner, "a boot"):
                leases.remember(0, parse_ip(name))

    def release(self, name: str, _: bytes) -> None:
        with writing(self.folder, []) as leases:
            leases.release(parse_ip(name))

    def other_process(self, name: str, content: bytes) -> None:
        """By one without."""
        with DiskStore(Folder(str(self.folder), locked=True, create=True), []) as leases:
            if not leases.reserve(parse_ip(name), OWNERS[len(content) % len(OWNERS)]):
                leases.release(parse_ip(name))
            leases.remember(0, parse_ip(name))

    def ask(self, _: str, __: bytes) -> None:
        """Without the lock."""
        with reading(self.folder, []) as leases:
            leases.taken()

    def do(self, step: tuple[str, str, bytes]) -> None:
        what, name, content = step
        try:
            getattr(self, what)(name, content)
        except (OSError, ValueError, CNIError):
            pass  # what cannot be done as the folder stands


DEEDS = [name for name in vars(World) if name[0] != "_" and name != "do"]
STEPS = st.tuples(st.sampled_from(DEEDS), st.sampled_from(NAMES), st.sampled_from(CONTENTS))


@given(st.lists(STEPS, max_size=25), st.randoms(use_true_random=False))
def test_whatever_happens_it_says_what_the_disk_says(steps: list[tuple[str, str, bytes]], chance: random.Random) -> None:
    with tempfile.TemporaryDirectory() as top:
        world = World(Path(top))
        for step in steps:
            world.do(step)
            if not world.folder.exists() or chance.random() < 0.3:
                continue
            locked = chance.random() < 0.5
            ours, theirs = list[str](), list[str]()
            with writing(world.folder, ours) if locked else reading(world.folder, ours) as leases:
                # The disk's own view comes second: under the lock both remove what a killed process left unfinished.
                said = tells(leases)
                with DiskStore(Folder(str(world.folder), locked=False, create=False), theirs) as truth:
                    assert said == tells(truth), step
                    assert {str(lease) for lease in leases.leases()} == {str(lease) for lease in truth.leases()}
                    assert set(leases.blank()) == set(truth.blank())
                if locked and chance.random() < 0.5:
                    world.do(("write", "10.1.0.4", b"two\r\neth0"))  # by somebody who does not take the lock
            assert {note for note in ours if "unfinished" not in note} == set(theirs)
    indexed.forget()
    indexed.keep()


@pytest.mark.parametrize("seed", range(4))
def test_after_a_long_time_too(tmp_path: Path, seed: int, readings: list[int]) -> None:
    """Rarely asked, seldom from the beginning: what goes wrong with a folder as a whole happens now and then only."""
    chance, world = random.Random(seed), World(tmp_path)
    rare = {"wipe", "make_anew", "move_away", "bring_back", "remove_lock"}
    for number in range(1000):
        deed = chance.choice(DEEDS)
        if deed not in rare or chance.random() < 0.05:
            world.do((deed, chance.choice(NAMES), chance.choice(CONTENTS)))
        if number % 10 == 0 and world.folder.exists():
            with (
                writing(world.folder, []) if number % 20 else reading(world.folder, []) as leases,
                DiskStore(Folder(str(world.folder), locked=False, create=False), []) as truth,
            ):
                assert tells(leases) == tells(truth), number
    assert len(readings) < 60


# -- what it is for ----------------------------------------------------------------------------------------------------


class Count:
    """How many files and how many whole folders are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files = self.folders = 0
        read_all, names = Folder.read_all, Folder.names

        def counted(folder: Folder, wanted: list[str], size: int) -> tuple[dict[str, bytes], dict[str, OSError]]:
            self.files += len(wanted)
            return read_all(folder, wanted, size)

        def listed(folder: Folder) -> list[str]:
            self.folders += 1
            return names(folder)

        monkeypatch.setattr(Folder, "read_all", counted)
        monkeypatch.setattr(Folder, "names", listed)


def config(top: Path, **more: Any) -> dict[str, Any]:
    ipam = {"type": "host-local", "dataDir": str(top), "ranges": [[{"subnet": "10.1.0.0/16"}], [{"subnet": "fd00::/64"}]]}
    return {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "ipam": {**ipam, **more}}


def call(verb: str, config: dict[str, Any], owner: str = "one") -> Call:
    return Call(verb=verb, container_id=owner, ifname="eth0", network=config["name"], version="1.1.0", config=config)


def add(config: dict[str, Any], owner: str = "one") -> Result:
    made = call("ADD", config, owner)
    return host_local.add(host_local.parse(made), made)


def delete(config: dict[str, Any], owner: str = "one") -> None:
    made = call("DEL", config, owner)
    host_local.delete(host_local.parse(made), made)


def check(config: dict[str, Any], owner: str = "one", prev: Result | None = None) -> list[str]:
    made = call("CHECK", config, owner)
    return host_local.check(host_local.parse(made), made, prev)


def fill(folder: Path, count: int) -> None:
    for number in range(2, count + 2):
        (folder / str(parse_ip("10.1.0.0") + number)).write_bytes(f"{number:064x}\r\neth0".encode())


@pytest.mark.parametrize("last", ["10.1.0.1", "10.1.0.2", "10.1.4.180", "10.1.4.181", "10.1.255.254"])
def test_a_call_reads_the_same_few_files_however_many_there_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch, last: str, readings: list[int]
) -> None:
    made = config(folder.parent)
    fill(folder, 1200)
    add(made, "first")
    delete(made, "first")
    count = Count(monkeypatch)
    (folder / "last_reserved_ip.0").write_text(last)
    for number in range(3):
        result = add(made, f"c{number}")
        assert check(made, f"c{number}", result) == check(made, f"c{number}") == []
        host_local.status(host_local.parse(call("STATUS", made)), call("STATUS", made))
        delete(made, f"c{number}")
    assert count.folders == 0
    assert count.files < 40 * 3
    assert len(readings) == 1
    assert len(taken(folder)) == 1200


def test_a_full_network_is_told_from_what_was_found_out_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, readings: list[int]
) -> None:
    """Until anybody else touches a lease, which may be of an earlier boot then; what we lease ourselves is not."""
    made = config(folder.parent, ranges=[[{"subnet": "10.1.0.0/24"}]])
    fill(folder, 253)
    asked: list[str] = []
    mark = Folder.mark

    def counted(self: Folder, name: str) -> str:
        asked.append(name)
        return "" if name == "10.1.0.1" else mark(self, name)

    monkeypatch.setattr(Folder, "mark", counted)

    def refused() -> int:
        asked.clear()
        with pytest.raises(CNIError, match="no IP addresses available"):
            add(made)
        with pytest.raises(NotAvailable):
            host_local.status(host_local.parse(call("STATUS", made)), call("STATUS", made))
        return len(asked)

    assert [refused() for _ in range(3)] == [253, 0, 0]
    (folder / "10.1.0.9").chmod(0o600)
    (folder / "10.1.0.8").unlink()
    (folder / "10.1.0.8").write_bytes(b"two\r\neth0")
    assert [refused() for _ in range(2)] == [253, 0]
    delete(made, f"{6:064x}")
    add(made, "new")
    assert [refused() for _ in range(2)] == [0, 0]
    (folder / "10.1.0.7").unlink()
    add(made, "mine")
    assert [refused() for _ in range(2)] == [253, 0]
    monkeypatch.setattr(boot, "BOOT_ID", str(tmp_path / "boot_id"))
    (tmp_path / "boot_id").write_text("another")
    (folder / "10.1.0.8").unlink()
    assert [str(ip.address.ip) for ip in add(made, "other").ips] == ["10.1.0.8"]
    asked.clear()
    assert [str(ip.address.ip) for ip in add(made).ips] == ["10.1.0.6"]
    assert len(asked) == 251
    assert len(readings) == 1


def test_processes_per_call_have_no_index() -> None:
    script = (
        "import sys; from ipam import host_local; from ipam.store import for_writing, DiskStore\n"
        "assert type(for_writing('/x', [], create=False)) is DiskStore\n"
        "print(sorted({'ipam.index', 'ipam.indexed', 'ipam.known', 'ipam.watch', 'ctypes', 'threading'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [python(), "-c", script], capture_output=True, check=True, env={"PATH": PATH, "PYTHONPATH": str(ROOT)}
    )
    assert done.stdout == b"[]\n"


# -- other processes ---------------------------------------------------------------------------------------------------


def run(program: Path, verb: str, config: dict[str, Any], owner: str) -> None:
    env = {
        "PATH": PATH,
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": owner,
        "CNI_NETNS": "/run/netns/none",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(program.parent),
    }
    subprocess.run([program], input=json.dumps(config).encode(), env=env, capture_output=True, check=True)


@pytest.fixture(params=["ours", "reference"])
def program(request: pytest.FixtureRequest) -> Path:
    if request.param == "ours":
        return make_wrappers() / "host-local"
    if not REFERENCE.exists():
        pytest.skip(f"needs the reference, {REFERENCE}")
    return REFERENCE


def test_what_other_processes_do_between_calls_is_known(folder: Path, program: Path, readings: list[int]) -> None:
    made = config(folder.parent) | {"cniVersion": "1.0.0"}
    add(made, "mine")
    run(program, "ADD", made, "theirs")
    assert check(made, "theirs") == []
    assert taken(folder) == {"10.1.0.2", "10.1.0.3", "fd00::2", "fd00::3"}
    with pytest.raises(CNIError, match="duplicate allocation"):
        add(made, "theirs")
    run(program, "DEL", made, "mine")
    assert check(made, "mine") != []
    (folder / "last_reserved_ip.0").write_text("10.1.0.1")
    assert [str(ip.address.ip) for ip in add(made, "other").ips] == ["10.1.0.2", "fd00::4"]
    delete(made, "theirs")
    assert taken(folder) == {"10.1.0.2", "fd00::4"}
    assert len(readings) == 1


def test_other_processes_at_the_same_time(folder: Path, program: Path, readings: list[int]) -> None:
    made = config(folder.parent) | {"cniVersion": "1.0.0"}
    add(made, "kept")
    over = threading.Event()
    given: list[str] = []

    def churn() -> None:
        for number in itertools.count():
            if over.is_set():
                return
            given.extend(str(ip.address) for ip in add(made, f"m{number}").ips)
            assert check(made, f"m{number}") == []
            delete(made, f"m{number}")

    def others(number: int) -> None:
        run(program, "ADD", made, f"t{number}")

    threads = [threading.Thread(target=others, args=(number,)) for number in range(12)]
    churner = threading.Thread(target=churn)
    churner.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    over.set()
    churner.join(60)
    assert given
    held = {path.read_bytes().split(b"\r")[0].decode() for path in folder.iterdir() if path.name in taken(folder)}
    assert held == {"kept"} | {f"t{number}" for number in range(12)}
    assert len(taken(folder)) == 26
    assert len(readings) == 1


def test_what_is_done_without_the_lock_during_a_call_is_known_to_the_next(
    folder: Path, notes: list[str], readings: list[int]
) -> None:
    fill(folder, 3)
    with writing(folder, notes) as leases:
        assert set(leases.taken()) == {"10.1.0.2", "10.1.0.3", "10.1.0.4"}
        subprocess.run(["rm", folder / "10.1.0.3"], check=True)
        assert leases.reserve(V4, ONE)
        subprocess.run(["sh", "-c", f"printf 'two\r\neth0' >{folder}/{V4}"], check=True)
    with writing(folder, notes) as leases:
        assert set(leases.taken()) == {"10.1.0.2", "10.1.0.4", str(V4)}
        assert leases.held_by(ONE) == []
        assert [lease.address for lease in leases.held_by(TWO)] == [V4]
    assert len(readings) == 1


# -- when nothing may be relied on ----------------------------------------------------------------------------------------


def overflow(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).touch()
    with open("/proc/sys/fs/inotify/max_queued_events") as file:
        for _ in range(int(file.read()) // 2 + 1):
            os.chmod(folder / "a", 0o600)
            os.chmod(folder / "b", 0o600)
    (folder / "10.1.0.9").write_bytes(b"one\r\neth0")


def make_anew(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "10.1.0.9").write_bytes(b"one\r\neth0")


def swap(folder: Path) -> None:
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "10.1.0.9").write_bytes(b"one\r\neth0")
    folder.rename(folder.parent / "away")
    (folder.parent / "other").rename(folder)


def move_there_and_back(folder: Path) -> None:
    away = folder.rename(folder.parent / "away")
    (away / "10.1.0.2").unlink()
    (away / "10.1.0.9").write_bytes(b"one\r\neth0")
    away.rename(folder)


def touch_many(folder: Path) -> None:
    for number in range(index.SUSPECTS + 1):
        (folder / str(parse_ip("10.9.0.0") + number)).touch()
    (folder / "10.1.0.9").write_bytes(b"one\r\neth0")


@pytest.mark.parametrize(
    ("happens", "stays"),
    [
        (overflow, {"10.1.0.2"}),
        (make_anew, set()),
        (swap, set()),
        (move_there_and_back, set()),
        (touch_many, {"10.1.0.2"}),
    ],
)
@pytest.mark.parametrize("locked", [True, False])
def test_all_is_read_anew(
    folder: Path, notes: list[str], readings: list[int], happens: Callable[[Path], None], stays: set[str], locked: bool
) -> None:
    fill(folder, 1)
    assert taken(folder) == {"10.1.0.2"}
    happens(folder)
    for _ in range(2):
        with writing(folder, notes) if locked else reading(folder, notes) as leases:
            assert set(leases.taken()) == stays | {"10.1.0.9"}
            assert [str(lease.address) for lease in leases.held_by(ONE)] == ["10.1.0.9"]
    assert len(readings) == 2, "once at first, and once more"


def test_a_folder_that_is_gone_is_forgotten(folder: Path, notes: list[str]) -> None:
    fill(folder, 1)
    assert taken(folder) == {"10.1.0.2"}
    assert indexed.census() == [(str(folder), 1, 0)]
    shutil.rmtree(folder)
    with store.for_writing(str(folder), notes, create=False) as leases:
        assert not leases.taken()
        assert leases.held_by(ONE) == []
    assert indexed.census() == []


def test_what_no_event_told_is_found_out_by_the_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch, readings: list[int]
) -> None:
    """It does not happen; if it does, nothing is given twice and nothing is released that is another's."""
    made = config(folder.parent, ranges=[[{"subnet": "10.1.0.0/29"}]])
    add(made, "mine")
    events, unheard = Watch.events, {"10.1.0.3"}
    monkeypatch.setattr(Watch, "events", lambda watch: [event for event in events(watch) if event[0] not in unheard])
    (folder / "10.1.0.3").write_bytes(b"two\r\neth0")
    assert [str(ip.address.ip) for ip in add(made, "other").ips] == ["10.1.0.4"]
    assert len(readings) == 2
    unheard |= {"10.1.0.2"}
    (folder / "10.1.0.2").write_bytes(b"two\r\neth0")
    delete(made, "mine")
    assert taken(folder) == {"10.1.0.2", "10.1.0.3", "10.1.0.4"}
    assert len(readings) == 3
    delete(made, "two")
    assert taken(folder) == {"10.1.0.4"}


def test_a_watch_that_does_not_even_tell_what_we_do_is_not_relied_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, readings: list[int]
) -> None:
    made = config(folder.parent, ranges=[[{"subnet": "10.1.0.0/29"}]])
    monkeypatch.setattr(Watch, "events", lambda watch: [])
    add(made, "mine")
    (folder / "10.1.0.3").write_bytes(b"two\r\neth0")
    delete(made, "mine")
    assert taken(folder) == {"10.1.0.3"}
    assert len(readings) == 3


def test_who_takes_the_chosen_address_at_each_try_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, readings: list[int]
) -> None:
    made = config(folder.parent, ranges=[[{"subnet": "10.1.0.0/29"}]])
    create, tries = Folder.create, list[str]()

    def snatch(self: Folder, name: str, content: bytes, mark: str = "") -> None:
        if len(tries) < 4:
            (folder / name).write_bytes(b"two\r\neth0")
        tries.append(name)
        create(self, name, content, mark)

    monkeypatch.setattr(Folder, "create", snatch)
    with pytest.raises(TryAgain, match=r"10\.1\.0\.3 was taken at this moment"):
        add(made)
    assert tries == ["10.1.0.2", "10.1.0.3"]
    tries += ["", ""]
    assert [str(ip.address.ip) for ip in add(made).ips] == ["10.1.0.4"]
    assert len(readings) == 1


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), OSError(95, "Operation not supported")])
def test_where_nothing_can_be_watched_each_call_reads_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, readings: list[int]
) -> None:
    made = config(folder.parent)
    with monkeypatch.context() as patch:

        def refuse(watch: Watch, descriptor: int) -> None:
            raise error

        patch.setattr(Watch, "__init__", refuse)
        result = add(made)
        (folder / "10.1.0.3").write_bytes(b"two\r\neth0")
        assert check(made, prev=result) == check(made) == check(made, "two") == []
        assert taken(folder) == {"10.1.0.2", "10.1.0.3", "fd00::2"}
        delete(made)
        assert taken(folder) == {"10.1.0.3"}
        assert readings == []
        assert indexed.census() == []
    assert taken(folder) == {"10.1.0.3"}
    assert len(readings) == 1


def test_a_lack_that_passes_is_not_remembered(folder: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fill(folder, 2)
    read_all = Folder.read_all

    def lacking(self: Folder, names: list[str], size: int) -> tuple[dict[str, bytes], dict[str, OSError]]:
        return {}, {name: OSError(24, "Too many open files") for name in names}

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "read_all", lacking)
        with writing(folder, notes) as leases:
            assert set(leases.taken()) == {"10.1.0.2", "10.1.0.3"}
    assert sorted(note.split(" in ")[0] for note in notes) == ["'10.1.0.2'", "'10.1.0.3'"]
    monkeypatch.setattr(Folder, "read_all", read_all)
    with reading(folder, notes) as leases:
        assert [str(lease.address) for lease in leases.held_by(Owner("net", f"{2:064x}", "eth0"))] == ["10.1.0.2"]
    assert len(notes) == 2


# -- threads -----------------------------------------------------------------------------------------------------------


def test_threads_with_two_folders_and_the_same(tmp_path: Path, readings: list[int]) -> None:
    """Writers and readers of both; what is left is what was not released, and nobody saw a lease of the living missing."""
    made = [config(tmp_path) | {"name": name} for name in ("red", "blue")]
    results: list[tuple[str, str, list[str]]] = []
    problems: list[object] = []
    over = threading.Event()
    for one in made:
        add(one, "kept")

    def work(worker: int) -> None:
        try:
            for number in range(40):
                one = made[(worker + number) % 2]
                owner = f"w{worker}n{number}"
                result = add(one, owner)
                if check(one, owner) or check(one, owner, result):
                    problems.append((owner, "is missing"))
                if number % 4:
                    delete(one, owner)
                    if not check(one, owner):
                        problems.append((owner, "is still there"))
                else:
                    results.append((one["name"], owner, [str(ip.address.ip) for ip in result.ips]))
        except BaseException as error:
            problems.append(error)

    def ask() -> None:
        try:
            while not over.is_set():
                for one in made:
                    problems.extend(check(one, "kept"))
                    host_local.status(host_local.parse(call("STATUS", one)), call("STATUS", one))
                indexed.census()
        except BaseException as error:
            problems.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    askers = [threading.Thread(target=ask) for _ in range(2)]
    for thread in (*workers, *askers):
        thread.start()
    for thread in workers:
        thread.join(120)
    over.set()
    for thread in askers:
        thread.join(30)
    assert problems == []
    for one in made:
        expected = {ip: owner for name, owner, ips in results if name == one["name"] for ip in ips}
        with DiskStore(Folder(str(tmp_path / one["name"]), locked=False, create=False), []) as truth:
            found = {str(lease.address): lease.container_id for lease in truth.leases() if lease.container_id != "kept"}
            assert set(truth.taken()) == taken(tmp_path / one["name"])
        assert found == expected
        assert len(found) == 60
    assert len(readings) == 2, "one for each"


def test_a_folder_of_many_is_read_once_by_threads_that_come_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(folder, 500)
    count, seen = Count(monkeypatch), list[int]()
    threads = [threading.Thread(target=lambda: seen.append(len(taken(folder)))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [500] * 5
    assert count.folders == 1


# -- how much is kept ----------------------------------------------------------------------------------------------------


def test_folders_that_were_not_used_for_the_longest_time_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexed, "FOLDERS", 2)
    descriptors = len(os.listdir("/proc/self/fd"))
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.mkdir()
        fill(path, 1)
    for path in (paths[0], paths[1], paths[0], paths[2]):
        assert taken(path) == {"10.1.0.2"}
    assert sorted(found[0][-1] for found in indexed.census()) == ["a", "c"]
    assert len(os.listdir("/proc/self/fd")) == descriptors + 2
    shutil.rmtree(paths[0])
    assert taken(paths[1]) == {"10.1.0.2"}  # a new one comes, and who is gone makes room
    assert sorted(found[0][-1] for found in indexed.census()) == ["b", "c"]
    indexed.forget()
    assert indexed.census() == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_the_census_counts_what_is_there_now(folder: Path, program: Path) -> None:
    made = config(folder.parent, ranges=[[{"subnet": "10.1.0.0/28"}, {"subnet": "10.2.0.0/28"}], [{"subnet": "10.3.0.0/29"}]])
    assert indexed.census() == []
    add(made)
    assert indexed.census() == [(str(folder), 2, 13 + 13 + 5)]
    run(program, "ADD", made | {"cniVersion": "1.0.0"}, "other")
    assert indexed.census() == [(str(folder), 4, 31)]
    make_anew(folder)
    assert indexed.census() == [(str(folder), 1, 31)]
    smaller = config(folder.parent, ranges=[[{"subnet": "10.1.0.0/29", "rangeEnd": "10.1.0.2"}]])
    (folder / "10.1.0.2").write_bytes(b"two\r\neth0")
    with pytest.raises(NotAvailable):
        host_local.status(host_local.parse(call("STATUS", smaller)), call("STATUS", smaller))
    assert indexed.census() == [(str(folder), 2, 1)]
