"""The official Go host-local and ours, without and with an index, on one folder: what the one writes the other reads, byte for
byte.

Skipped where the reference is not installed (Debian package containernetworking-plugins).
"""

from __future__ import annotations

import json
import os
import subprocess
from ipaddress import IPv6Interface
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from cni.spec.call import Call
from cni.spec.errors import CNIError
from cni.spec.result import Result, read_result
from ipam import boot, host_local, indexed

if TYPE_CHECKING:
    from collections.abc import Iterator

REFERENCE = Path("/usr/lib/cni/host-local")

pytestmark = pytest.mark.skipif(not REFERENCE.exists(), reason=f"needs the reference, {REFERENCE}")

DUAL = [[{"subnet": "10.1.0.0/29"}], [{"subnet": "2001:db8::/126"}]]


class Pair:
    """One network, served by either."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "net"
        self.config: dict[str, Any] = {
            "cniVersion": "1.0.0",
            "name": "net",
            "type": "host-local",
            "ipam": {"type": "host-local", "dataDir": str(data_dir), "ranges": DUAL},
        }

    def reference(self, verb: str, owner: str, ifname: str = "eth0", args: str = "") -> Result | str | None:
        """A result, nothing, or the message of a failure."""
        env = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": owner,
            "CNI_NETNS": "/nonexistent",
            "CNI_IFNAME": ifname,
            "CNI_PATH": "/",
            "CNI_ARGS": args,
        }
        done = subprocess.run([REFERENCE], input=json.dumps(self.config).encode(), env=env, capture_output=True, check=False)
        if done.returncode:
            return str(json.loads(done.stdout)["msg"])
        return read_result(json.loads(done.stdout), "1.0.0", "answer") if done.stdout else None

    def ours(self, verb: str, owner: str, ifname: str = "eth0", args: str = "") -> Result | str | None:
        """The same."""
        call = Call(
            verb=verb,
            container_id=owner,
            ifname=ifname,
            network="net",
            version="1.0.0",
            config=self.config,
            args={"IP": args.removeprefix("IP=")} if args else {},
        )
        try:
            conf = host_local.parse(call)
            if verb == "ADD":
                return host_local.add(conf, call)
            if verb == "CHECK":
                return "; ".join(host_local.check(conf, call, None)) or None
            host_local.delete(conf, call)
            return None
        except CNIError as error:
            return error.msg

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


@pytest.fixture(params=["disk", "index"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    if request.param == "index":
        indexed.keep()
    yield Pair(tmp_path / "data")
    indexed.forget()


def test_both_leave_the_same_bytes(pair: Pair, tmp_path: Path) -> None:
    other = Pair(tmp_path / "other")
    for number in range(2):
        assert pair.ours("ADD", f"c{number}") == other.reference("ADD", f"c{number}")
        assert pair.files() == other.files()
    assert pair.ours("DEL", "c0") is other.reference("DEL", "c0") is None
    assert pair.files() == other.files()
    assert len(pair.files()) == 5


@pytest.mark.parametrize("first", ["ours", "reference"])
def test_one_adds_and_the_other_checks_and_deletes(pair: Pair, first: str) -> None:
    one, other = (pair.ours, pair.reference) if first == "ours" else (pair.reference, pair.ours)
    assert isinstance(one("ADD", "c1"), Result)
    assert other("CHECK", "c1") is None
    said = other("ADD", "c1")
    assert isinstance(said, str)
    assert "10.1.0.2 has been allocated to c1, duplicate allocation is not allowed" in said
    assert other("DEL", "c1") is None
    assert sorted(pair.files()) == ["last_reserved_ip.0", "last_reserved_ip.1", "lock"]
    said = one("CHECK", "c1")
    assert isinstance(said, str)
    assert "host-local: Failed to find address added by container c1" in said


def test_the_round_robin_goes_on_from_one_to_the_other(pair: Pair) -> None:
    pair.config["ipam"]["ranges"] = [[{"subnet": "10.1.0.0/29"}, {"subnet": "10.2.0.0/30", "rangeStart": "10.2.0.2"}]]
    seen = []
    for number in range(14):
        result = (pair.ours, pair.reference)[number % 2]("ADD", f"c{number}")
        assert isinstance(result, Result)
        seen.append(str(result.ips[0].address.ip))
        if number >= 3:
            assert (pair.ours, pair.reference)[number // 2 % 2]("DEL", f"c{number - 3}") is None
    cycle = ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", "10.2.0.2"]
    assert seen == [cycle[number % 6] for number in range(14)]


@pytest.mark.parametrize(
    "args",
    ["IP=10.1.0.4", "IP=10.1.0.4/24", "IP=10.1.0.1", "IP=10.1.0.3", "IP=192.0.2.1", "IP=2001:DB8::3"],
)
def test_requested_addresses_get_the_same_answer(pair: Pair, tmp_path: Path, args: str) -> None:
    other = Pair(tmp_path / "other")
    for one in (pair, other):
        assert isinstance(one.reference("ADD", "c1"), Result)
        one.reference("ADD", "c2", args="IP=10.1.0.3")
    assert pair.ours("ADD", "c3", args=args) == other.reference("ADD", "c3", args=args)
    ours = {name: content for name, content in pair.files().items() if not name.startswith("last")}
    assert ours == {name: content for name, content in other.files().items() if not name.startswith("last")}


def test_exhaustion_is_said_in_the_same_words(pair: Pair) -> None:
    for number in range(2):
        pair.reference("ADD", f"c{number}")
    assert pair.ours("ADD", "c9") == pair.reference("ADD", "c9")
    assert str(pair.ours("ADD", "c9")).endswith("no IP addresses available in range set: 2001:db8::1-2001:db8::3")


@pytest.mark.parametrize(
    "start",
    ["::1:0", "::5", "1::1:0:0:1", "2001:db8:0:1:1:1:1:1", "1:0:0:1::1", "fe80::1:0:0:0", "::ffff:0:0:1", "2001:0:0:1:0:0:0:1"],
)
def test_v6_addresses_have_the_same_names(pair: Pair, start: str) -> None:
    subnet = str(IPv6Interface(f"{start}/112").network)
    pair.config["ipam"]["ranges"] = [[{"subnet": subnet, "rangeStart": start, "gateway": "fd00::1"}]]
    assert isinstance(pair.reference("ADD", "c1"), Result)
    (name,) = [name for name in pair.files() if name not in ("lock", "last_reserved_ip.0")]
    assert pair.ours("CHECK", "c1") is None
    assert pair.ours("DEL", "c1") is None
    (pair.folder / "last_reserved_ip.0").unlink()
    assert isinstance(pair.ours("ADD", "c1"), Result)
    assert name in pair.files()


def test_an_empty_file_blocks_the_reference_and_not_us(pair: Pair) -> None:
    pair.folder.mkdir(parents=True)
    (pair.folder / "10.1.0.2").touch()
    result = pair.reference("ADD", "c1")
    assert isinstance(result, Result)
    assert str(result.ips[0].address.ip) == "10.1.0.3"
    pair.reference("DEL", "c1")
    (pair.folder / "last_reserved_ip.0").unlink()
    result = pair.ours("ADD", "c1")
    assert isinstance(result, Result)
    assert str(result.ips[0].address.ip) == "10.1.0.2"
    assert pair.reference("DEL", "c1") is None
    assert sorted(pair.files()) == ["last_reserved_ip.0", "last_reserved_ip.1", "lock"]


def test_leases_of_the_reference_are_never_taken_back(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not say of which boot they are, and neither does an address that went from ours to the reference."""
    pair.config["ipam"]["ranges"] = [[{"subnet": "10.1.0.0/29", "rangeEnd": "10.1.0.4"}]]
    for add, owner in ((pair.reference, "c1"), (pair.ours, "c2"), (pair.ours, "c3")):
        assert isinstance(add("ADD", owner), Result)
    pair.reference("DEL", "c2")
    assert isinstance(pair.reference("ADD", "c2"), Result)
    (tmp_path / "boot_id").write_text(str(uuid4()))
    monkeypatch.setattr(boot, "BOOT_ID", str(tmp_path / "boot_id"))
    assert isinstance(pair.ours("ADD", "d1"), Result)
    said = pair.ours("ADD", "d2")
    assert isinstance(said, str)
    assert "no IP addresses available" in said
    kept = {name: content for name, content in pair.files().items() if name.startswith("10.")}
    assert kept == {"10.1.0.2": b"c1\r\neth0", "10.1.0.3": b"c2\r\neth0", "10.1.0.4": b"d1\r\neth0"}


def test_the_reference_is_not_disturbed_by_what_only_we_might_leave(pair: Pair) -> None:
    pair.folder.mkdir(parents=True)
    (pair.folder / ".podwire.unfinished").write_bytes(b"c9\r\neth0")
    assert isinstance(pair.reference("ADD", "c1"), Result)
    assert isinstance(pair.ours("ADD", "c2"), Result)
    assert ".podwire.unfinished" not in pair.files()


def test_iteration_over_several_ranges_with_gateways_is_the_same(pair: Pair, tmp_path: Path) -> None:
    other = Pair(tmp_path / "other")
    for one in (pair, other):
        one.config["ipam"]["ranges"] = [
            [
                {"subnet": "10.0.0.0/29", "rangeStart": "10.0.0.2", "rangeEnd": "10.0.0.3"},
                {"subnet": "10.0.0.8/29", "rangeStart": "10.0.0.10", "rangeEnd": "10.0.0.13", "gateway": "10.0.0.11"},
            ]
        ]
        one.folder.mkdir(parents=True)
        (one.folder / "last_reserved_ip.0").write_text("10.0.0.3")
    answers = [(pair.ours("ADD", f"c{n}"), other.reference("ADD", f"c{n}")) for n in range(6)]
    assert all(ours == theirs for ours, theirs in answers)
    addresses = [str(ours.ips[0].address.ip) for ours, _ in answers if isinstance(ours, Result)]
    assert addresses == ["10.0.0.10", "10.0.0.12", "10.0.0.13", "10.0.0.2", "10.0.0.3"]


def test_owners_match_as_the_reference_matches_them(pair: Pair) -> None:
    pair.folder.mkdir(parents=True)
    (pair.folder / "10.1.0.2").write_bytes(b"c1")
    (pair.folder / "10.1.0.3").write_bytes(b"c1\r\neth0\n")
    assert pair.reference("CHECK", "c1") is pair.ours("CHECK", "c1") is None
    assert pair.ours("DEL", "c1") is None
    assert sorted(name for name in os.listdir(pair.folder) if name[0] == "1") == ["10.1.0.2"]
    assert pair.ours("DEL", "c1") is None
    assert sorted(name for name in os.listdir(pair.folder) if name[0] == "1") == []
