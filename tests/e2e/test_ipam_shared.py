"""Leases under pressure: many processes of both kinds on one folder, processes that are killed, disks that are full."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ipam.folder import UNFINISHED
from tests.harness.node import PATH, Node
from tests.harness.plugin import Executables
from tests.harness.wrappers import ROOT, make_wrappers, python

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REFERENCE = Path("/usr/lib/cni/host-local")
STORE = "/var/lib/cni/networks"


@pytest.fixture(scope="module")
def ours() -> Executables:
    return Executables(make_wrappers(), whose="podwire")


def config(data_dir: str | Path, *ranges: dict[str, str], version: str = "1.0.0") -> dict[str, Any]:
    ipam = {"type": "host-local", "dataDir": str(data_dir), "ranges": [[one] for one in ranges]}
    return {"cniVersion": version, "name": "net", "type": "host-local", "ipam": ipam}


def leases(folder: Path) -> dict[str, bytes]:
    """The address files; everything else in the folder must be what the format has."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    others = {name for name in found if name == "lock" or name.startswith("last_reserved_ip.")}
    kept = {name: content for name, content in found.items() if name not in others}
    assert all(set(name) <= set("0123456789abcdef.:") for name in kept if name != UNFINISHED), sorted(kept)
    return kept


# -- both kinds at once ------------------------------------------------------------------------------------------------

PROCESSES = 200


class Crowd:
    """Processes that all stand before the lock of one folder until it is opened."""

    def __init__(self, folder: Path, document: dict[str, Any]) -> None:
        self.folder, self.stdin = folder, json.dumps(document).encode()
        self.folder.mkdir(parents=True, exist_ok=True)

    def run(self, verb: str, programs: Sequence[Path]) -> list[dict[str, Any]]:
        """Start a process for each program, wait until all are waiting, let them go; their answers in order."""
        with open(self.folder / "lock", "a") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            crowd = [self._start(verb, number, program) for number, program in enumerate(programs)]
            self._await_waiting(os.fstat(gate.fileno()).st_ino, len(crowd))
        answers = []
        for process in crowd:
            stdout, stderr = process.communicate(timeout=120)
            assert process.returncode == 0, (process.args, stdout, stderr)
            answers.append(json.loads(stdout) if stdout else {})
        return answers

    def _start(self, verb: str, number: int, program: Path) -> subprocess.Popen[bytes]:
        env = {
            "PATH": PATH,
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": f"c{number}",
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": "/run/netns/none",
            "CNI_PATH": str(program.parent),
        }
        process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
        assert process.stdin
        process.stdin.write(self.stdin)
        process.stdin.close()
        process.stdin = None
        return process

    def _await_waiting(self, inode: int, count: int) -> None:
        until = time.monotonic() + 50  # less than the patience of ours
        while time.monotonic() < until:
            waiting = [line for line in Path("/proc/locks").read_text().splitlines() if "->" in line and f":{inode} " in line]
            if len(waiting) == count:
                return
            time.sleep(0.1)
        raise AssertionError(f"{len(waiting)} of {count} processes wait for the lock")


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"needs the reference, {REFERENCE}")
def test_two_hundred_processes_of_both_kinds_share_a_folder(ours: Executables, tmp_path: Path) -> None:
    """As many processes as addresses: an address given twice or lost would leave one process without."""
    last = f"10.7.1.{PROCESSES}"
    document = config(
        tmp_path,
        {"subnet": "10.7.0.0/16", "rangeStart": "10.7.1.1", "rangeEnd": last},
        {"subnet": "fd00:7::/64", "rangeStart": "fd00:7::1:1", "rangeEnd": f"fd00:7::1:{PROCESSES:x}"},
    )
    crowd = Crowd(tmp_path / "net", document)
    mixed = [ours.folder / "host-local", REFERENCE] * (PROCESSES // 2)
    answers = crowd.run("ADD", mixed)
    given = {ip["address"].split("/")[0]: f"c{number}" for number, answer in enumerate(answers) for ip in answer["ips"]}
    assert len(given) == 2 * PROCESSES
    assert leases(tmp_path / "net") == {address: f"{owner}\r\neth0".encode() for address, owner in given.items()}
    fifty = 50
    crowd.run("DEL", mixed[1 : fifty + 1])  # each by the other kind
    gone = {f"c{number}" for number in range(fifty)}
    assert leases(tmp_path / "net") == {ip: f"{owner}\r\neth0".encode() for ip, owner in given.items() if owner not in gone}


# -- kill -9 -----------------------------------------------------------------------------------------------------------

CHURN = """
import sys
from cni.spec.call import Call
from ipam import host_local
import msgspec
config = msgspec.json.decode(sys.argv[1])
calls = [Call(verb="ADD", container_id=f"c{n}", ifname="eth0", network="net", version="1.0.0", config=config) for n in range(3)]
print("go", flush=True)
while True:
    for call in calls:
        try:
            host_local.add(host_local.parse(call), call)
        except Exception as error:
            assert "duplicate allocation" in str(error), error
        gone = msgspec.structs.replace(call, verb="DEL")
        host_local.delete(host_local.parse(gone), gone)
"""


def test_a_process_killed_at_any_instant_leaves_whole_leases_and_nothing_else(ours: Executables, tmp_path: Path) -> None:
    document = config(tmp_path, {"subnet": "10.7.0.0/28"}, {"subnet": "fd00:7::/124"})
    whole = {f"c{number}\r\neth0".encode() for number in range(3)}
    instants = random.Random(7)
    seen: set[int] = set()
    for _ in range(60):
        churn = subprocess.Popen(
            [python(), "-c", CHURN, json.dumps(document)], stdout=subprocess.PIPE, env={"PATH": PATH, "PYTHONPATH": str(ROOT)}
        )
        assert churn.stdout
        assert churn.stdout.readline() == b"go\n"
        time.sleep(instants.uniform(0.0, 0.02))
        churn.send_signal(signal.SIGKILL)
        churn.wait()
        churn.stdout.close()
        left = leases(tmp_path / "net") if (tmp_path / "net").exists() else {}
        left.pop(UNFINISHED, None)
        assert set(left.values()) <= whole
        seen.add(len(left))
    for number in range(3):
        ours.call("DEL", "host-local", document, container_id=f"c{number}").succeeded()
    assert leases(tmp_path / "net") == {}
    assert len(seen) > 1, "every kill came between two calls"


# -- file systems ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small() -> Iterator[Node]:
    """A node whose leases are on a file system of 16 pages."""
    with Node() as node:
        node.sh(f"mkdir -p {STORE} && mount -t tmpfs -o size=64k,mode=755 small {STORE}")
        yield node


def fill(node: Node, pages_left: int) -> None:
    node.sh(
        f"rm -f {STORE}/filler; head -c 1M /dev/zero >{STORE}/filler || true; truncate -s -{pages_left * 4096} {STORE}/filler"
    )


@pytest.mark.root
def test_a_full_disk_is_told_and_nothing_is_torn(small: Node, ours: Executables) -> None:
    document = config(STORE, {"subnet": "10.7.0.0/24"}, {"subnet": "fd00:7::/64"}, version="1.1.0")
    folder = small.path(f"{STORE}/net")
    ours.call("ADD", "host-local", document, container_id="before", node=small).result()
    before = leases(folder)
    assert len(before) == 2
    refusals = 0
    for pages_left in range(5):
        fill(small, pages_left)
        outcome = ours.call("ADD", "host-local", document, node=small)
        if outcome.status:
            outcome.refused(5, r"No space left on device.make room on this file system")
            assert leases(folder) == before
            refusals += 1
        else:
            assert len(leases(folder)) == 4
            ours.call("DEL", "host-local", document, node=small).succeeded()
        assert (folder / "last_reserved_ip.0").read_text().startswith("10.7.0.")
    assert 1 <= refusals < 5
    fill(small, 0)
    ours.call("STATUS", "host-local", document, node=small).refused(50, r"full")
    ours.call("DEL", "host-local", document, container_id="before", node=small).succeeded()
    assert leases(folder) == {}


@pytest.mark.root
def test_a_read_only_disk_is_told(small: Node, ours: Executables) -> None:
    document = config(STORE, {"subnet": "10.7.0.0/24"}, version="1.1.0")
    ours.call("ADD", "host-local", document, node=small).result()
    small.sh(f"touch {STORE}/net/{UNFINISHED}; mount -o remount,ro {STORE}")  # a process was killed there, too
    ours.call("ADD", "host-local", document, container_id="other", node=small).refused(5, "Read-only file system")
    ours.call("DEL", "host-local", document, node=small).refused(5, "Read-only file system")
    ours.call("DEL", "host-local", document, container_id="nobody", node=small).succeeded()
    ours.call("STATUS", "host-local", document, node=small).refused(50, "read-only file system")
    ours.call("CHECK", "host-local", document, node=small).succeeded()


@pytest.mark.root
def test_without_proc_leases_are_whole_too(small: Node, ours: Executables) -> None:
    document = config(STORE, {"subnet": "10.7.0.0/24"})
    env = {
        "PATH": PATH,
        "CNI_CONTAINERID": "c1",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": "/run/netns/none",
        "CNI_PATH": str(ours.folder),
    }
    bare = ["unshare", "-m", "sh", "-c", f"mount -t tmpfs none /proc && exec {ours.folder}/host-local"]
    small.run(*bare, stdin=json.dumps(document), env=env | {"CNI_COMMAND": "ADD"})
    assert leases(small.path(f"{STORE}/net")) == {"10.7.0.2": b"c1\r\neth0"}
    small.run(*bare, stdin=json.dumps(document), env=env | {"CNI_COMMAND": "DEL"})
    assert leases(small.path(f"{STORE}/net")) == {}
