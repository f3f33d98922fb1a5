"""host-local: what a configuration means, and what each verb does with a folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import pytest

from cni.spec.addresses import parse_cidr, parse_ip
from cni.spec.call import Call
from cni.spec.conf import Dns
from cni.spec.errors import CNIError, ConfigError, EnvError, InputError, NotAvailable
from cni.spec.owner import Owner
from cni.spec.result import AssignedIp, Result, Route
from ipam import boot, host_local

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def call(verb: str, ipam: Any, *, args: str = "", version: str = "1.0.0", owner: str = "one", **config: Any) -> Call:
    return Call(
        verb=verb,
        container_id=owner,
        ifname="eth0",
        network="net",
        version=version,
        args={"IP": args} if args else {},
        config={"cniVersion": version, "name": "net", "type": "bridge", "ipam": ipam, **config},
    )


def parse(ipam: Any, verb: str = "ADD", **more: Any) -> host_local.Conf:
    return host_local.parse(call(verb, ipam, **more))


# -- parse -------------------------------------------------------------------------------------------------------------


def test_defaults() -> None:
    conf = parse({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/16"}]]})
    assert conf.folder == "/var/lib/cni/networks/net"
    assert (conf.wanted, conf.routes, conf.resolv_conf) == ((), (), "")
    assert [str(pool) for pool in conf.sets] == ["10.1.0.1-10.1.255.254"]


def test_every_key() -> None:
    conf = parse(
        {
            "type": "host-local",
            "subnet": "10.1.0.0/16",
            "rangeStart": "10.1.0.10",
            "rangeEnd": "10.1.0.20",
            "gateway": "10.1.0.15",
            "ranges": [[{"subnet": "10.2.0.0/24"}, {"subnet": "10.3.0.0/24"}], [{"subnet": "fd00::/64"}]],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400}],
            "dataDir": "/x/y",
            "resolvConf": "/etc/resolv.conf",
        },
        runtimeConfig={"ipRanges": [[{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.5"}]]},
    )
    assert conf.folder == "/x/y/net"
    assert [str(pool) for pool in conf.sets] == [
        "10.9.0.5-10.9.0.254",
        "10.1.0.10-10.1.0.20",
        "10.2.0.1-10.2.0.254,10.3.0.1-10.3.0.254",
        "fd00::1-fd00::ffff:ffff:ffff:ffff",
    ]
    assert str(conf.sets[1].ranges[0].gateway) == "10.1.0.15"
    assert conf.routes == (Route(parse_cidr("0.0.0.0/0"), parse_ip("10.1.0.1"), mtu=1400),)
    assert conf.resolv_conf == "/etc/resolv.conf"


def test_keys_in_any_case_nulls_and_empty_texts_as_go_reads_them() -> None:
    conf = parse({"RANGES": [[{"Subnet": "10.1.0.0/24", "gateway": "", "rangestart": None}]], "datadir": "", "routes": None})
    assert [str(pool) for pool in conf.sets] == ["10.1.0.1-10.1.0.254"]
    assert conf.folder.startswith("/var/lib/cni/")


def test_requested_addresses_of_all_three_ways_each_once() -> None:
    conf = parse(
        {"ranges": [[{"subnet": "10.1.0.0/24"}]]},
        args="10.1.0.7/24",
        runtimeConfig={"ips": ["10.1.0.9", "::ffff:10.1.0.7", "", "FD00::9/64"]},
    )
    assert [str(address) for address in conf.wanted] == ["10.1.0.7", "10.1.0.9", "fd00::9"]
    given = {"cni": {"ips": ["10.1.0.8/16"], "mac": "whatever"}, "other": 1}
    conf = host_local.parse(call("ADD", {"subnet": "10.1.0.0/24"}, runtimeConfig={"mac": "x"}))
    assert conf.wanted == ()
    made = call("ADD", {"subnet": "10.1.0.0/24"})
    made.config["args"] = given
    assert [str(address) for address in host_local.parse(made).wanted] == ["10.1.0.8"]
    assert made.notes == []


@pytest.mark.parametrize(
    ("ipam", "error", "says"),
    [
        (None, ConfigError, "IPAM config missing 'ipam' key"),
        ([], ConfigError, "configuration.ipam: Expected `object`"),
        ({}, ConfigError, "no IP ranges specified"),
        ({"ranges": []}, ConfigError, "no IP ranges specified"),
        ({"ranges": [{"subnet": "10.0.0.0/24"}]}, ConfigError, r"configuration\.ipam\.ranges\[0\]"),
        ({"subnet": "10.0.0.0"}, ConfigError, r"configuration\.ipam\.subnet"),
        ({"subnet": "10.0.0.0/24", "dataDir": "x"}, ConfigError, r"dataDir: 'x' is not absolute"),
        ({"subnet": "10.0.0.0/24", "dataDir": "/x\0y"}, ConfigError, "NUL"),
        ({"subnet": "10.0.0.0/24", "routes": [{"dst": "x"}]}, ConfigError, r"routes\[0\]\.dst"),
    ],
)
def test_configurations_without_sense(ipam: Any, error: type[CNIError], says: str) -> None:
    with pytest.raises(error, match=says):
        parse(ipam)


def test_a_configuration_that_was_read_before_reads_the_same() -> None:
    """With its remarks, and whatever the call; what differs in the least is another one."""
    ipam = {
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]],
        "rangeStart": "10.1.0.9",
        "gatewy": "10.1.0.1",
    }
    calls = [call("ADD", ipam, prevResult={"n": number}, args="10.1.0.7" if number else "") for number in range(3)]
    first, *more = [host_local.parse(one) for one in calls]
    assert [one.sets for one in more] == [first.sets] * 2
    assert [len(one.wanted) for one in (first, *more)] == [0, 1, 1]
    assert [len(one.notes) for one in calls] == [2] * 3
    assert calls[0].notes == calls[1].notes
    with pytest.raises(ConfigError, match="more than 1 address per family"):
        parse(ipam, version="0.2.0")
    assert parse({**ipam, "gateway": "10.1.0.1"}).sets == first.sets
    assert parse({**ipam, "ranges": [[{"subnet": "10.1.0.0/25"}]]}).sets != first.sets
    assert parse(ipam, runtimeConfig={"ipRanges": [[{"subnet": "10.9.0.0/24"}]]}).sets[1:] == first.sets
    assert parse({**ipam, "resolvConf": None}).resolv_conf == ""
    with pytest.raises(ConfigError, match="resolvConf"):
        parse({**ipam, "resolvConf": float("inf")})
    for number in range(2 * host_local.MOST_READINGS):
        assert str(parse({"subnet": f"10.1.{number}.0/24"}).sets[0]) == f"10.1.{number}.1-10.1.{number}.254"
    assert len(host_local._READINGS) <= host_local.MOST_READINGS


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"args": {"cni": {"ips": ["x"]}}}, r"args\.cni\.ips\[0\]: invalid IP address x"),
        (
            {"runtimeConfig": {"ips": ["10.0.0.5", "10.0.0.6/33"]}},
            r"runtimeConfig\.ips\[1\]: invalid IP address 10.0.0.6/33",
        ),
        ({"runtimeConfig": {"ips": "10.0.0.5"}}, r"configuration\.runtimeConfig\.ips"),
    ],
)
def test_bad_requests(config: dict[str, Any], says: str) -> None:
    made = call("ADD", {"subnet": "10.0.0.0/24"})
    made.config.update(config)
    with pytest.raises(ConfigError, match=says):
        host_local.parse(made)


def test_a_bad_request_in_the_environment() -> None:
    with pytest.raises(EnvError, match=r"CNI_ARGS: IP: invalid IP address 10\.0\.0\.999"):
        parse({"subnet": "10.0.0.0/24"}, args="10.0.0.999")


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_old_versions_have_one_address_of_each_family(version: str) -> None:
    two = {"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]}
    with pytest.raises(ConfigError, match=f"CNI version {version} does not support more than 1 address per family"):
        parse(two, version=version)
    assert len(parse(two, version="0.3.0").sets) == 2
    assert len(parse({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]}, version=version).sets) == 2


def test_misspelt_and_lonely_keys_are_noted() -> None:
    made = call(
        "ADD", {"ranges": [[{"subnet": "10.1.0.0/24", "rangeBegin": "10.1.0.5"}]], "datDir": "/x", "rangeStart": "10.1.0.5"}
    )
    host_local.parse(made)
    assert len(made.notes) == 3
    assert any("'dataDir'" in note for note in made.notes)
    assert any("rangeStart" in note and "subnet" in note for note in made.notes)


@pytest.mark.parametrize("ipam", [{"dns": {}}, {"name": "x"}, {"capabilities": {}}, {"prevResult": None}], ids=str)
def test_keys_of_the_whole_configuration_are_noted_in_ipam(ipam: dict[str, Any]) -> None:
    made = call("ADD", {"subnet": "10.1.0.0/24", **ipam})
    host_local.parse(made)
    (note,) = made.notes
    assert f"{next(iter(ipam))!r} of the configuration.ipam is not known" in note


BROKEN = [
    {"ranges": "x"},
    {"ranges": [[]]},
    {"subnet": 5},
    {"subnet": "10.0.0.0/32", "routes": 1},
    {"ranges": [[{"subnet": "10.0.0.0/8"}], [{"subnet": "10.0.0.0/9"}]]},
    {},
    None,
]


@pytest.mark.parametrize("verb", ["DEL", "GC"])
@pytest.mark.parametrize("ipam", BROKEN, ids=repr)
def test_nothing_but_the_folder_matters_for_release(ipam: Any, verb: str) -> None:
    made = call(verb, ipam, args="nonsense", runtimeConfig={"ips": 5})
    assert host_local.parse(made) == host_local.Conf("/var/lib/cni/networks/net")
    assert made.notes == []


def test_release_finds_a_relative_folder_as_the_reference_does() -> None:
    assert parse({"dataDir": "x"}, "DEL").folder == "x/net"


@pytest.mark.parametrize("verb", ["STATUS", "CHECK"])
def test_ranges_that_only_the_runtime_knows_are_not_missed(verb: str) -> None:
    assert parse({}, verb, capabilities={"ipRanges": True}).sets == ()
    with pytest.raises(ConfigError, match="no IP ranges"):
        parse({}, "ADD", capabilities={"ipRanges": True})
    with pytest.raises(ConfigError, match="no IP ranges"):
        parse({}, verb, capabilities={"ipRanges": False})


# -- the verbs ---------------------------------------------------------------------------------------------------------

DUAL = [[{"subnet": "10.1.0.0/29"}], [{"subnet": "fd00::/126"}]]


class Network:
    """A network whose leases are in a temporary folder."""

    def __init__(self, data_dir: Path, **ipam: Any) -> None:
        self.ipam = {"type": "host-local", "dataDir": str(data_dir), "ranges": DUAL, **ipam}
        self.folder = data_dir / "net"
        self.notes: list[str] = []

    def call(self, verb: str, **more: Any) -> tuple[host_local.Conf, Call]:
        made = call(verb, self.ipam, **more)
        self.notes = made.notes
        return host_local.parse(made), made

    def add(self, owner: str = "one", **more: Any) -> Result:
        return host_local.add(*self.call("ADD", owner=owner, **more))

    def delete(self, owner: str = "one", **more: Any) -> None:
        host_local.delete(*self.call("DEL", owner=owner, **more))

    def check(self, prev: Result | None, owner: str = "one") -> list[str]:
        return host_local.check(*self.call("CHECK", owner=owner), prev)

    def gc(self, *keep: str) -> list[str]:
        return host_local.gc(*self.call("GC"), frozenset(Owner("net", owner, "eth0") for owner in keep))

    def status(self) -> None:
        host_local.status(*self.call("STATUS"))

    def leases(self) -> dict[str, bytes]:
        others = ("lock", "last_reserved_ip.")
        return {path.name: path.read_bytes() for path in sorted(self.folder.iterdir()) if not path.name.startswith(others)}


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return Network(tmp_path / "networks")


@pytest.fixture
def reboot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The next kernel: another boot id."""

    def another() -> None:
        (tmp_path / "boot_id").write_text(f"{uuid4()}\n")
        monkeypatch.setattr(boot, "BOOT_ID", str(tmp_path / "boot_id"))

    return another


def test_an_add_answers_with_addresses_routes_and_dns(network: Network, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_bytes(b"nameserver 192.0.2.53\nsearch \xff.example\n")
    network.ipam |= {"routes": [{"dst": "0.0.0.0/0"}], "resolvConf": str(tmp_path / "resolv.conf")}
    assert network.add() == Result(
        ips=(
            AssignedIp(parse_cidr("10.1.0.2/29"), parse_ip("10.1.0.1")),
            AssignedIp(parse_cidr("fd00::2/126"), parse_ip("fd00::1")),
        ),
        routes=(Route(parse_cidr("0.0.0.0/0")),),
        dns=Dns(nameservers=("192.0.2.53",), search=("\ufffd.example",)),
    )
    assert network.leases() == {"10.1.0.2": b"one\r\neth0", "fd00::2": b"one\r\neth0"}


def test_a_relative_resolv_conf_is_of_the_callers_folder(network: Network, tmp_path: Path) -> None:
    """In the agent that is not the folder of the process."""
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    network.ipam["resolvConf"] = "resolv.conf"
    conf, asked = network.call("ADD")
    assert host_local.add(conf, msgspec.structs.replace(asked, folder=str(tmp_path))).dns.nameservers == ("192.0.2.1",)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.symlink_to(path)])
def test_an_unreadable_resolv_conf_fails_before_anything_is_leased(network: Network, tmp_path: Path, make: Any) -> None:
    make(tmp_path / "resolv.conf")
    network.ipam["resolvConf"] = str(tmp_path / "resolv.conf")
    with pytest.raises(InputError, match=r"cannot read ipam\.resolvConf"):
        network.add()
    assert not network.folder.exists()


def test_a_resolv_conf_without_end_is_not_read_to_it(network: Network) -> None:
    network.ipam["resolvConf"] = "/dev/zero"
    assert network.add().dns == Dns()


def test_delete_releases_all_of_the_attachment_and_only_that(network: Network) -> None:
    network.add("one")
    network.add("two")
    network.delete("one")
    assert network.leases() == {"10.1.0.3": b"two\r\neth0", "fd00::3": b"two\r\neth0"}
    network.delete("one")
    network.delete("nobody")
    assert len(network.leases()) == 2


def test_delete_finds_leases_outside_of_the_ranges_and_of_the_oldest_format(network: Network) -> None:
    network.add("one")
    (network.folder / "192.0.2.7").write_bytes(b"one\r\neth0")
    (network.folder / "192.0.2.8").write_bytes(b"old")
    network.ipam["ranges"] = "nonsense"
    network.delete("one")
    assert network.leases() == {"192.0.2.8": b"old"}
    network.delete("old")
    assert network.leases() == {}


def test_delete_where_nothing_ever_was_creates_nothing(network: Network) -> None:
    network.delete()
    assert not network.folder.exists()


def test_delete_tries_everything_and_then_tells_what_failed(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    network.add()
    real = os.unlink

    def unlink(name: str, *, dir_fd: int) -> None:
        if name == "10.1.0.2":
            raise PermissionError(1, "Operation not permitted")
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr("os.unlink", unlink)
    with pytest.raises(CNIError, match=r"cannot remove the lease .*10\.1\.0\.2: Operation not permitted"):
        network.delete()
    assert list(network.leases()) == ["10.1.0.2"]


def test_after_a_reboot_the_same_attachment_can_be_added_again(network: Network, reboot: Callable[[], None]) -> None:
    network.add()
    with pytest.raises(CNIError, match="duplicate allocation is not allowed"):
        network.add()
    reboot()
    assert [str(ip.address) for ip in network.add().ips] == ["10.1.0.3/29", "fd00::3/126"]
    assert network.notes and all("before this boot" in note for note in network.notes)
    assert list(network.leases()) == ["10.1.0.3", "fd00::3"]


def test_a_full_set_takes_back_what_is_of_an_earlier_boot(network: Network, reboot: Callable[[], None]) -> None:
    network.ipam["ranges"] = [[{"subnet": "10.1.0.0/29"}]]
    for number in range(3):
        network.add(f"c{number}")
    reboot()
    for number in range(3, 5):
        network.add(f"c{number}")
    network.status()
    (network.folder / "10.1.0.2").write_bytes(b"kept for the printer")  # over a lease, so in a file with its mark
    given = [str(network.add(f"d{number}").ips[0].address) for number in range(2)]
    assert given == ["10.1.0.3/29", "10.1.0.4/29"]
    assert "10.1.0.4 was leased to container c2, interface eth0 before this boot" in network.notes[0]
    with pytest.raises(CNIError, match=r"no IP addresses available in range set: 10\.1\.0\.1-10\.1\.0\.6"):
        network.add()
    with pytest.raises(NotAvailable):
        network.status()


def test_no_clock_makes_a_lease_old(network: Network) -> None:
    """A clock that was wrong at boot and corrected since, or stepped back meanwhile: times before any boot, or after now."""
    network.ipam["ranges"] = [[{"subnet": "10.1.0.0/29"}]]
    for number, moment in enumerate((0, 1e9, 4e9, 0, 0)):
        network.add(f"c{number}")
        os.utime(network.folder / f"10.1.0.{number + 2}", (moment, moment))
    with pytest.raises(CNIError, match="no IP addresses available"):
        network.add()
    with pytest.raises(CNIError, match="duplicate allocation"):
        network.add("c0")


# -- CHECK -------------------------------------------------------------------------------------------------------------


def test_check_is_content_with_what_add_did(network: Network) -> None:
    result = network.add()
    assert network.check(result) == network.check(None) == []
    more = Result(ips=(*result.ips, AssignedIp(parse_cidr("203.0.113.9/24"))))
    assert network.check(more) == []


def test_check_misses_a_lease(network: Network) -> None:
    result = network.add()
    (network.folder / "fd00::2").unlink()
    (problem,) = network.check(result)
    assert problem.startswith("host-local: Failed to find address added by container one: fd00::2 is not leased")
    (network.folder / "fd00::2").write_bytes(b"two\r\neth1")
    (problem,) = network.check(result)
    assert problem.endswith("fd00::2 is leased to container two, interface eth1")
    (network.folder / "fd00::2").write_bytes(b"one")
    assert network.check(result) == []


@pytest.mark.parametrize("prev", [None, Result(), Result(ips=(AssignedIp(parse_cidr("203.0.113.9/24")),))], ids=repr)
def test_check_without_addresses_of_ours_wants_some_lease(network: Network, prev: Result | None) -> None:
    assert len(network.check(prev)) == 1
    network.add()
    assert network.check(prev) == []
    (problem,) = network.check(prev, owner="two")
    assert problem.startswith("host-local: Failed to find address added by container two")


# -- GC ----------------------------------------------------------------------------------------------------------------


def test_gc_releases_what_nobody_holds(network: Network) -> None:
    network.add("one")
    network.add("two")
    lines = network.gc("one")
    assert sorted(lines) == [f"released {ip} of container two, interface eth0" for ip in ("10.1.0.3", "fd00::3")]
    assert list(network.leases()) == ["10.1.0.2", "fd00::2"]
    assert {"lock", "last_reserved_ip.0", "last_reserved_ip.1"} <= set(os.listdir(network.folder))
    assert network.gc("one") == []
    assert len(network.gc()) == 2
    assert network.leases() == {}


def test_gc_minds_the_interface_except_where_none_was_written(network: Network) -> None:
    network.folder.mkdir(parents=True)
    for name, content in {"10.1.0.2": "one\r\neth1", "10.1.0.3": "one", "10.1.0.4": "two", "10.1.0.5": "one\r\neth0"}.items():
        (network.folder / name).write_text(content, newline="")
    network.gc("one")
    assert list(network.leases()) == ["10.1.0.3", "10.1.0.5"]


def test_gc_clears_what_crashes_left_and_leaves_what_it_does_not_know(network: Network) -> None:
    network.folder.mkdir(parents=True)
    (network.folder / "10.1.0.2").touch()
    (network.folder / "10.1.0.3").write_text("kept for the printer")
    (network.folder / "10.1.0.4").mkdir()
    (network.folder / "notes").write_text("one\r\neth0")
    assert network.gc() == ["released 10.1.0.2, whose lease file was empty"]
    assert sorted(os.listdir(network.folder)) == ["10.1.0.3", "10.1.0.4", "lock", "notes"]
    assert len(network.notes) == 3


def test_gc_of_a_network_without_leases_creates_nothing(network: Network) -> None:
    assert network.gc() == []
    assert not network.folder.exists()


# -- STATUS ------------------------------------------------------------------------------------------------------------


def test_status_is_content_and_creates_nothing(network: Network) -> None:
    network.status()
    assert not network.folder.parent.exists()
    network.add()
    network.status()


def test_status_names_the_exhausted_set(network: Network) -> None:
    network.add("one")
    network.add("two")
    with pytest.raises(
        NotAvailable, match=r"^no IP addresses available in range set: fd00::1-fd00::3: all of its 2 addresses"
    ) as told:
        network.status()
    assert told.value.code == 50
    (network.folder / "fd00::3").write_bytes(b"")
    network.status()


def test_status_of_a_folder_that_cannot_be_used(network: Network, tmp_path: Path) -> None:
    (tmp_path / "networks").write_text("")
    with pytest.raises(NotAvailable, match="networks is not a folder"):
        network.status()


def test_status_of_nonsense_is_a_configuration_error(network: Network) -> None:
    network.ipam["ranges"] = []
    with pytest.raises(ConfigError):
        network.status()
