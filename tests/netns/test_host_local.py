"""host-local over several calls: which address comes next, who holds it, and what is on the disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe

if TYPE_CHECKING:
    from tests.harness.plugin import Outcome
    from tests.netns.conftest import Lab

pytestmark = pytest.mark.root

STORE = "/var/lib/cni/networks"
NET = f"{STORE}/net"


def conf(version: str = "1.0.0", name: str = "net", **ipam: Any) -> dict[str, Any]:
    return {"cniVersion": version, "name": name, "type": "host-local", "ipam": {"type": "host-local", **ipam}}


def call(lab: Lab, verb: str, config: dict[str, Any], who: str = "c1", **how: Any) -> Outcome:
    """host-local needs no namespace; who is `container` or `container/ifname`."""
    container_id, _, ifname = who.partition("/")
    how = {"container_id": container_id, "ifname": ifname or "eth0", **how}
    return lab.plugins.call(verb, "host-local", config, node=lab.node, **how)


def add(lab: Lab, config: dict[str, Any], who: str, **how: Any) -> list[str]:
    """ADD that must succeed; the addresses without length."""
    result = call(lab, "ADD", config, who, **how).result()
    return [entry["address"].split("/")[0] for entry in result["ips"]]


def take(lab: Lab, config: dict[str, Any], count: int, prefix: str = "c") -> list[str]:
    """The addresses that so many containers get, one after the other, of the first range set."""
    return [add(lab, config, f"{prefix}{number}")[0] for number in range(count)]


# -- which address comes next --


def test_a_29(lab: Lab) -> None:
    """192.168.1.0/29: gateway .1, .2 to .6 in that order, then there is none."""
    config = conf(subnet="192.168.1.0/29")
    assert take(lab, config, 5) == [f"192.168.1.{n}" for n in range(2, 7)]
    call(lab, "ADD", config, "more").refused(999, says=r"192\.168\.1\.")


def test_round_robin(lab: Lab) -> None:
    """A released address is not given again at once: others may still have it in their ARP tables."""
    config = conf(subnet="192.168.1.0/29")
    assert take(lab, config, 2) == ["192.168.1.2", "192.168.1.3"]
    call(lab, "DEL", config, "c0").succeeded()
    assert take(lab, config, 3, "d") == ["192.168.1.4", "192.168.1.5", "192.168.1.6"]
    assert add(lab, config, "e") == ["192.168.1.2"]


def test_the_last_one_is_found(lab: Lab) -> None:
    """In a full range the one address that came free is found, wherever round robin stands."""
    config = conf(subnet="192.168.1.0/29")
    take(lab, config, 5)
    for number in (3, 0, 4):
        call(lab, "DEL", config, f"c{number}").succeeded()
        assert add(lab, config, f"again{number}") == [f"192.168.1.{number + 2}"]


TWO = [
    {"subnet": "10.0.0.0/29", "rangeStart": "10.0.0.2", "rangeEnd": "10.0.0.3"},
    {"subnet": "10.0.0.8/29", "rangeStart": "10.0.0.10", "rangeEnd": "10.0.0.11"},
]


def test_a_set_of_two_ranges(lab: Lab) -> None:
    """Ranges of a set are used one after the other; each address has its own range's gateway."""
    config = conf(ranges=[TWO])
    assert take(lab, config, 4) == ["10.0.0.2", "10.0.0.3", "10.0.0.10", "10.0.0.11"]
    call(lab, "ADD", config, "more").refused(999)
    call(lab, "DEL", config, "c2").succeeded()
    result = call(lab, "ADD", config, "again").result()
    assert result["ips"] == [{"address": "10.0.0.10/29", "gateway": "10.0.0.9"}]


def test_round_robin_goes_over_the_ranges_of_a_set(lab: Lab) -> None:
    """last_reserved 10.0.0.3: candidates are .10, .11, .2, .3, then there is none."""
    config = conf(ranges=[TWO])
    lab.node.sh(f"mkdir -p {NET}; printf 10.0.0.3 >{NET}/last_reserved_ip.0")
    assert take(lab, config, 4) == ["10.0.0.10", "10.0.0.11", "10.0.0.2", "10.0.0.3"]


@pytest.mark.parametrize(
    "last",
    ["10.0.0.200", "nonsense", "", "10.0.0.2\n", "2001:db8::1", "\\377\\376"],
    ids=["elsewhere", "nonsense", "empty", "newline", "v6", "bytes"],
)
def test_a_useless_last_reserved(lab: Lab, last: str) -> None:
    """last_reserved_ip that says nothing useful starts at the beginning, or behind the address it names."""
    lab.node.sh(f"mkdir -p {NET}; printf '{last}' >{NET}/last_reserved_ip.0")
    assert add(lab, conf(ranges=[TWO]), "c1")[0] in ("10.0.0.2", "10.0.0.3")


def test_one_address_of_each_set(lab: Lab) -> None:
    """The outer list: one address for each range set, in its order."""
    config = conf(ranges=[[{"subnet": "2001:db8::/64"}], [{"subnet": "10.0.0.0/24"}], [{"subnet": "10.1.0.0/24"}]])
    assert add(lab, config, "c1") == ["2001:db8::2", "10.0.0.2", "10.1.0.2"]
    assert add(lab, config, "c2") == ["2001:db8::3", "10.0.0.3", "10.1.0.3"]


def test_v6_ends_with_the_last_address(lab: Lab) -> None:
    """IPv6 has no broadcast: the last address of the subnet can be had."""
    config = conf(subnet="2001:db8::/125", rangeStart="2001:db8::6")
    assert take(lab, config, 2) == ["2001:db8::6", "2001:db8::7"]
    call(lab, "ADD", config, "more").refused(999)


def test_a_large_v6_range_that_is_full_ends(lab: Lab) -> None:
    """A /64 has no end to wait for: the answer comes at once."""
    config = conf(subnet="2001:db8::/64", rangeEnd="2001:db8::4")
    assert len(take(lab, config, 3)) == 3
    call(lab, "ADD", config, "more", timeout=10).refused(999)


def test_networks_do_not_share(lab: Lab) -> None:
    """The store is a folder a network: two networks with one range give the same address."""
    assert add(lab, conf(subnet="10.0.0.0/24"), "c1") == add(lab, conf(name="net2", subnet="10.0.0.0/24"), "c1")


def test_data_dir(lab: Lab) -> None:
    """dataDir: where the networks' folders are, made when missing."""
    config = conf(subnet="10.0.0.0/24", dataDir="/run/my/own/store")
    assert add(lab, config, "c1") == ["10.0.0.2"]
    assert observe.leases(lab.node, "net", "/run/my/own/store") == {"10.0.0.2": b"c1\r\neth0"}
    assert not lab.node.path(STORE).exists()
    call(lab, "DEL", config, "c1").succeeded()
    assert observe.leases(lab.node, "net", "/run/my/own/store") == {}


# -- what is on the disk --


def test_the_store_is_the_references(lab: Lab) -> None:
    """A node moves between implementations without restarting a pod: names, bytes and modes are the reference's."""
    ranges = [[{"subnet": "10.0.0.0/24"}], [{"subnet": "2001:DB8:0::/64"}]]
    add(lab, conf(ranges=ranges), "abc123")
    files = observe.files(lab.node, NET)
    assert files == {
        f"{NET}/10.0.0.2": b"abc123\r\neth0",
        f"{NET}/2001:db8::2": b"abc123\r\neth0",
        f"{NET}/last_reserved_ip.0": b"10.0.0.2",
        f"{NET}/last_reserved_ip.1": b"2001:db8::2",
        f"{NET}/lock": b"",
    }
    mode = {name: lab.node.path(f"{NET}/{name}").stat().st_mode & 0o777 for name in os.listdir(lab.node.path(NET))}
    if lab.plugins.ours:  # the official plugins write 0600 since 1.4, 0644 before
        assert mode["10.0.0.2"] == 0o600 and mode["last_reserved_ip.0"] == 0o600
    assert lab.node.path(NET).stat().st_mode & 0o777 == 0o755


def test_nothing_else_is_left_on_the_disk(lab: Lab) -> None:
    """After ADD and DEL there are no temporary files; last_reserved_ip stays for round robin."""
    config = conf(subnet="10.0.0.0/24")
    add(lab, config, "c1")
    call(lab, "DEL", config, "c1").succeeded()
    assert set(observe.files(lab.node, NET)) == {f"{NET}/last_reserved_ip.0", f"{NET}/lock"}


def test_ipranges_have_the_first_numbers(lab: Lab) -> None:
    """last_reserved_ip.N counts runtime ranges, then the legacy subnet, then ranges."""
    config = conf(subnet="10.1.0.0/24", ranges=[[{"subnet": "10.2.0.0/24"}]])
    config["runtimeConfig"] = {"ipRanges": [[{"subnet": "10.9.0.0/24"}]]}
    assert add(lab, config, "c1") == ["10.9.0.2", "10.1.0.2", "10.2.0.2"]
    last = [lab.node.path(f"{NET}/last_reserved_ip.{number}").read_text() for number in range(3)]
    assert last == ["10.9.0.2", "10.1.0.2", "10.2.0.2"]


def test_files_of_others_are_not_touched(lab: Lab) -> None:
    """What is no lease stays, and is in nobody's way."""
    lab.node.sh(f"mkdir -p {NET}/sub; echo c1 >{NET}/notes.txt; echo hello >{NET}/sub/10.0.0.2; echo >{NET}/300.0.0.1")
    config = conf(subnet="10.0.0.0/24")
    before = observe.files(lab.node, NET)
    add(lab, config, "c1")
    call(lab, "CHECK", {**config, "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]}}).succeeded()
    call(lab, "DEL", config, "c1").succeeded()
    after = observe.files(lab.node, NET)
    assert {path: after.get(path) for path in before} == before


# -- who holds an address --


def test_the_same_attachment_gets_no_second_address(lab: Lab) -> None:
    """Repeated ADD leaked addresses (containernetworking/plugins#327): it is refused, the first lease stays."""
    config = conf(subnet="10.0.0.0/24")
    add(lab, config, "c1")
    call(lab, "ADD", config, "c1").refused(999, says="10.0.0.2.*c1")
    assert observe.leases(lab.node, "net") == {"10.0.0.2": b"c1\r\neth0"}


@pytest.mark.known_reference_failure("A requested address bypasses the search for duplicates.")
def test_the_same_attachment_gets_no_second_requested_address(lab: Lab) -> None:
    """Repeated ADD leaked addresses (containernetworking/plugins#327), requested ones too."""
    config = conf(subnet="10.0.0.0/24")
    add(lab, config, "c1")
    call(lab, "ADD", config, "c1", args="IP=10.0.0.77").refused(999, says="10.0.0.2")
    assert observe.leases(lab.node, "net") == {"10.0.0.2": b"c1\r\neth0"}


def test_other_interfaces_of_a_container(lab: Lab) -> None:
    """Plugins that store state should do so using a primary key of (network name, CNI_CONTAINERID, CNI_IFNAME)."""
    config = conf(subnet="10.0.0.0/24")
    assert [add(lab, config, who) for who in ("c1", "c1/net1", "c1/net2")] == [["10.0.0.2"], ["10.0.0.3"], ["10.0.0.4"]]
    call(lab, "DEL", config, "c1/net1").succeeded()
    assert set(observe.leases(lab.node, "net")) == {"10.0.0.2", "10.0.0.4"}


def test_similar_names_are_other_attachments(lab: Lab) -> None:
    """Owners are compared as a whole."""
    config = conf(subnet="10.0.0.0/24")
    for who in ("c1", "c11", "c", "c1/eth", "c1/eth00"):
        add(lab, config, who)
    call(lab, "DEL", config, "c1").succeeded()
    assert set(observe.leases(lab.node, "net")) == {f"10.0.0.{n}" for n in (3, 4, 5, 6)}


def test_a_conflict_names_the_owner(lab: Lab) -> None:
    """podman#19583: "requested IP address is not available" helps nobody without the owner."""
    config = conf(subnet="10.0.0.0/24")
    add(lab, config, "first/net7")
    call(lab, "ADD", config, "second", args="IP=10.0.0.2").refused(999, says="10.0.0.2.*first.*net7")


def test_a_failed_set_releases_the_others(lab: Lab) -> None:
    """All or nothing: when one set has no address, none is held."""
    config = conf(ranges=[[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.2"}]])
    add(lab, config, "c1")
    call(lab, "ADD", config, "c2").refused(999, says="10.1.0")
    assert set(observe.leases(lab.node, "net")) == {"10.0.0.2", "10.1.0.2"}


@pytest.mark.known_reference_failure("The rollback of a failed ADD releases the addresses of an earlier one.")
def test_a_failed_add_keeps_the_leases_of_an_earlier_one(lab: Lab) -> None:
    """A failed ADD must not release what it did not take."""
    config = conf(ranges=[[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.1.0.0/24"}]])
    add(lab, config, "other")
    add(lab, config, "c1")
    before = observe.leases(lab.node, "net")
    call(lab, "ADD", config, "c1", args="IP=10.1.0.2").refused(999)
    call(lab, "ADD", {**config, "runtimeConfig": {"ips": ["10.0.0.99", "10.1.0.2"]}}, "c1").refused(999)
    assert observe.leases(lab.node, "net") == before


def test_a_leftover_request_releases_everything(lab: Lab) -> None:
    """A requested address that no set has is an error, and nothing is held."""
    config = {**conf(subnet="10.0.0.0/24"), "runtimeConfig": {"ips": ["10.0.0.7", "192.0.2.1"]}}
    call(lab, "ADD", config, "c1").refused(999, says="192.0.2.1")
    assert observe.leases(lab.node, "net") == {}


def test_two_requests_for_one_set(lab: Lab) -> None:
    """A set gives one address: the second request for it cannot be met, nothing is held."""
    config = {**conf(subnet="10.0.0.0/24"), "runtimeConfig": {"ips": ["10.0.0.7", "10.0.0.8"]}}
    call(lab, "ADD", config, "c1").refused(999, says="10.0.0.8|10.0.0.7")
    assert observe.leases(lab.node, "net") == {}


def test_a_requested_address_moves_round_robin_on(lab: Lab) -> None:
    """The next address after a requested one is the one behind it."""
    config = conf(subnet="10.0.0.0/24")
    assert add(lab, config, "c1", args="IP=10.0.0.50") == ["10.0.0.50"]
    assert add(lab, config, "c2") == ["10.0.0.51"]


@pytest.mark.parametrize("text", ["2001:DB8::0:7", "2001:db8:0:0::7", "2001:db8::7/128"])
def test_a_requested_address_in_any_form(lab: Lab, text: str) -> None:
    """An address is the same however it is written: file and conflict are the canonical one's."""
    config = conf(subnet="2001:db8::/64")
    assert add(lab, config, "c1", args=f"IP={text}") == ["2001:db8::7"]
    assert set(observe.leases(lab.node, "net")) == {"2001:db8::7"}
    call(lab, "ADD", config, "c2", args="IP=2001:db8::7").refused(999, says="c1")


# -- files that a crash or an older version left --


def test_an_old_lease_without_interface_name(lab: Lab) -> None:
    """Old stores hold just the id: CHECK and DEL know it, it is not given again."""
    lab.node.sh(f"mkdir -p {NET}; printf c1 >{NET}/10.0.0.2")
    config = conf(subnet="10.0.0.0/24")
    prev = {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]}
    call(lab, "CHECK", {**config, "prevResult": prev}, "c1").succeeded()
    assert add(lab, config, "c2") == ["10.0.0.3"]
    call(lab, "DEL", config, "c1").succeeded()
    assert set(observe.leases(lab.node, "net")) == {"10.0.0.3"}


@pytest.mark.known_reference_failure("An empty file blocks its address for ever (containernetworking/plugins#498).")
@pytest.mark.parametrize("content", ["", "\\r\\n", "\\000\\000"], ids=["empty", "line-end", "zeros"])
def test_an_empty_lease_is_none(lab: Lab, content: str) -> None:
    """A crash or a full disk left an empty file (containernetworking/plugins#498): its address is free."""
    lab.node.sh(f"mkdir -p {NET}; printf '{content}' >{NET}/10.0.0.2")
    config = conf(subnet="10.0.0.0/30")
    assert add(lab, config, "c1") == ["10.0.0.2"]
    assert observe.leases(lab.node, "net") == {"10.0.0.2": b"c1\r\neth0"}


@pytest.mark.parametrize("content", ["c1\\r\\n", "c1\\r", "\\377\\376", "a\\r\\nb\\r\\nc"])
def test_a_torn_lease_is_nobodys_to_give(lab: Lab, content: str) -> None:
    """What cannot be read for sure is not given to a second container; everything else goes on."""
    lab.node.sh(f"mkdir -p {NET}; printf '{content}' >{NET}/10.0.0.2")
    config = conf(subnet="10.0.0.0/24")
    assert add(lab, config, "c9") == ["10.0.0.3"]
    call(lab, "DEL", config, "c9").succeeded()
    call(lab, "DEL", config, "nobody").succeeded()


def test_white_space_around_an_owner(lab: Lab) -> None:
    """Owners are compared without white space around them."""
    lab.node.sh(f"mkdir -p {NET}; printf ' c1\\r\\neth0\\n' >{NET}/10.0.0.2")
    call(lab, "DEL", conf(subnet="10.0.0.0/24"), "c1").succeeded()
    assert observe.leases(lab.node, "net") == {}


# -- leases of an earlier boot --


def reboot(lab: Lab) -> None:
    """What a plugin sees of it: the kernel has another boot id, and /var is as it was."""
    lab.node.sh("""
        cat /proc/sys/kernel/random/uuid >/run/boot_id
        mount --bind /run/boot_id /proc/sys/kernel/random/boot_id""")


@pytest.mark.usefixtures("own_promise")
def test_a_container_comes_back_after_a_reboot(lab: Lab) -> None:
    """No container outlives a reboot: its old lease is not in the way of its new one."""
    config = conf(subnet="10.0.0.0/24")
    add(lab, config, "c1")
    call(lab, "ADD", config, "c1").refused(999, says="duplicate allocation is not allowed")
    reboot(lab)
    assert len(add(lab, config, "c1")) == 1
    assert len(observe.leases(lab.node, "net")) == 1


@pytest.mark.usefixtures("own_promise")
def test_leases_of_an_earlier_boot_are_taken_when_nothing_else_is_free(lab: Lab) -> None:
    """containernetworking/plugins#252: after a reboot the files stay, DELs never come, the pool fills up."""
    config = conf(subnet="192.168.1.0/29")
    take(lab, config, 2)
    reboot(lab)
    assert take(lab, config, 3, prefix="d") == ["192.168.1.4", "192.168.1.5", "192.168.1.6"]
    assert {*add(lab, config, "e"), *add(lab, config, "f")} == {"192.168.1.2", "192.168.1.3"}
    call(lab, "ADD", config, "g").refused(999, says="192.168.1")


@pytest.mark.usefixtures("own_promise")
def test_a_requested_address_is_taken_from_an_earlier_boot(lab: Lab) -> None:
    """Nobody else can have it, so it is given although others are free."""
    config = conf(subnet="192.168.1.0/29")
    take(lab, config, 1)
    reboot(lab)
    assert add(lab, config, "d", args="IP=192.168.1.2") == ["192.168.1.2"]
    call(lab, "ADD", config, "e", args="IP=192.168.1.2").refused(999, says="192.168.1.2")


def test_no_clock_takes_a_lease_of_this_boot(lab: Lab) -> None:
    """A lease that was written while the clock was wrong is a lease."""
    config = conf(subnet="192.168.1.0/29")
    take(lab, config, 5)
    lab.node.sh(f"touch -d 2001-01-01 {NET}/192.168.1.*")
    call(lab, "ADD", config, "d").refused(999, says="no IP addresses available")
    call(lab, "ADD", config, "c1").refused(999)


# -- DEL --


@pytest.mark.parametrize("netns", ["", None, "/run/netns/gone", "/etc/passwd"])
def test_del_needs_no_namespace(lab: Lab, netns: str | None) -> None:
    """An IPAM plugin should generally release an allocation and return success even if the namespace no longer exists."""
    config = conf(subnet="10.0.0.0/24")
    add(lab, config, "c1")
    call(lab, "DEL", config, "c1", netns=netns).succeeded()
    assert observe.leases(lab.node, "net") == {}


VALIDATES = pytest.mark.known_reference_failure("DEL validates ranges (projectcalico/cni-plugin#254): the address leaks.")


@pytest.mark.parametrize(
    "ipam",
    [
        pytest.param({"subnet": "nonsense"}, id="nonsense", marks=VALIDATES),
        pytest.param({}, id="none", marks=VALIDATES),
        pytest.param({"subnet": "10.0.0.0/32"}, id="too-small", marks=VALIDATES),
        pytest.param({"ranges": 5}, id="number", marks=VALIDATES),
        pytest.param({"ranges": [[{"subnet": "10.0.0.0/24"}]] * 2}, id="overlap", marks=VALIDATES),
        pytest.param({"subnet": "192.0.2.0/24"}, id="another"),
        pytest.param({"subnet": "10.0.0.0/24", "resolvConf": "/gone"}, id="resolv-conf-gone"),
    ],
)
def test_del_releases_whatever_the_ranges_are_now(lab: Lab, ipam: dict[str, Any]) -> None:
    """projectcalico/cni-plugin#254: DEL needs the lease's owner, not the ranges."""
    add(lab, conf(subnet="10.0.0.0/24"), "c1")
    call(lab, "DEL", conf(**ipam), "c1").succeeded()
    assert observe.leases(lab.node, "net") == {}


def test_del_without_the_capability(lab: Lab) -> None:
    """A DEL without the runtime's ipRanges still releases the address from them."""
    config = conf(subnet="10.1.0.0/24")
    add(lab, {**config, "runtimeConfig": {"ipRanges": [[{"subnet": "10.9.0.0/24"}]]}}, "c1")
    call(lab, "DEL", config, "c1").succeeded()
    assert observe.leases(lab.node, "net") == {}


def test_del_releases_every_address(lab: Lab) -> None:
    """DEL of a dual-stack attachment; and again, and of one that never was."""
    config = conf(ranges=[[{"subnet": "10.0.0.0/24"}], [{"subnet": "2001:db8::/64"}]])
    add(lab, config, "c1")
    add(lab, config, "c2")
    for who in ("c1", "c1", "never"):
        assert call(lab, "DEL", config, who).succeeded().stdout == b""
    assert set(observe.leases(lab.node, "net")) == {"10.0.0.3", "2001:db8::3"}


# -- CHECK --


def checked(lab: Lab, config: dict[str, Any], *addresses: str) -> Outcome:
    prev = {"cniVersion": "1.0.0", "ips": [{"address": address} for address in addresses]}
    return call(lab, "CHECK", {**config, "prevResult": prev}, "c1")


DUAL: dict[str, Any] = {"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "2001:db8::/64"}]]}
ANY_FILE = pytest.mark.known_reference_failure("CHECK is content with any lease of the attachment, whatever its address.")


def test_check(lab: Lab) -> None:
    """CHECK: the plugin must return either nothing or an error."""
    add(lab, conf(**DUAL), "c1")
    assert checked(lab, conf(**DUAL), "10.0.0.2/24", "2001:db8::2/64").succeeded().stdout == b""


@ANY_FILE
@pytest.mark.parametrize("gone", ["10.0.0.2", "2001:db8::2"])
def test_check_of_a_lease_that_is_gone(lab: Lab, gone: str) -> None:
    """CHECK should return an error if IP reservations are missing."""
    add(lab, conf(**DUAL), "c1")
    lab.node.sh(f"rm {NET}/{gone}")
    checked(lab, conf(**DUAL), "10.0.0.2/24", "2001:db8::2/64").refused(999, says=gone)


@ANY_FILE
def test_check_of_a_lease_that_is_anothers(lab: Lab) -> None:
    """CHECK should return an error if IP reservations are in an invalid state."""
    add(lab, conf(**DUAL), "c1")
    lab.node.sh(f"printf 'c2\\r\\neth0' >{NET}/10.0.0.2")
    checked(lab, conf(**DUAL), "10.0.0.2/24", "2001:db8::2/64").refused(999, says="10.0.0.2")


def test_check_of_no_lease(lab: Lab) -> None:
    """CHECK should return an error if IP reservations are missing."""
    add(lab, conf(**DUAL), "c2")
    checked(lab, conf(**DUAL), "10.0.0.2/24").refused(999, says="c1")


def test_check_with_addresses_of_other_plugins(lab: Lab) -> None:
    """CHECK must allow for later plugins: addresses outside of the ranges are theirs."""
    add(lab, conf(**DUAL), "c1")
    checked(lab, conf(**DUAL), "10.0.0.2/24", "2001:db8::2/64", "192.0.2.7/24").succeeded()


# -- resolvConf --


def test_resolv_conf(lab: Lab) -> None:
    """resolvConf: nameserver, domain, search and options of a file become the result's dns."""
    lab.node.sh("""cat >/run/resolv.conf <<END
# a comment
; another one
nameserver 192.0.2.53
  nameserver	2001:db8::53
domain old.example
domain new.example
search a.example b.example
search c.example
options ndots:2 edns0
options rotate
nameserver
sortlist 192.0.2.0
END""")
    result = call(lab, "ADD", conf(subnet="10.0.0.0/24", resolvConf="/run/resolv.conf")).result()
    assert result["dns"] == {
        "nameservers": ["192.0.2.53", "2001:db8::53"],
        "domain": "new.example",
        "search": ["a.example", "b.example", "c.example"],
        "options": ["ndots:2", "edns0", "rotate"],
    }


@pytest.mark.parametrize("path", ["/run/gone", "/run"])
def test_resolv_conf_that_cannot_be_read(lab: Lab, path: str) -> None:
    """Error code 5: I/O failure; no address is held."""
    call(lab, "ADD", conf(subnet="10.0.0.0/24", resolvConf=path)).refused(5, says=path)
    assert observe.leases(lab.node, "net") == {}


# -- failures of the disk --


@pytest.mark.parametrize(
    ("script", "path"),
    [
        ("echo >/run/file", "/run/file"),
        ("echo >/run/file", "/run/file/below"),
        ("mkdir /run/ro; mount -t tmpfs -o ro tmpfs /run/ro", "/run/ro"),
    ],
    ids=["file", "below-a-file", "read-only"],
)
def test_a_store_that_cannot_be_written(lab: Lab, script: str, path: str) -> None:
    """Error code 5: I/O failure; DEL has nothing to release there and succeeds."""
    lab.node.sh(script)
    config = conf(subnet="10.0.0.0/24", dataDir=path)
    call(lab, "ADD", config).refused(5, says=path)


def test_a_full_disk(lab: Lab) -> None:
    """A lease is whole or not there: a full disk leaves no empty file behind (containernetworking/plugins#498)."""
    lab.node.sh("mkdir /run/full; mount -t tmpfs -o size=8k tmpfs /run/full; mkdir /run/full/net; cd /run/full")
    lab.node.sh("head -c 8192 /dev/zero >/run/full/net/ballast", check=False)
    config = conf(subnet="10.0.0.0/24", dataDir="/run/full")
    call(lab, "ADD", config).refused(5, says="/run/full")
    assert observe.leases(lab.node, "net", "/run/full") == {}
    lab.node.sh("rm /run/full/net/ballast")
    assert add(lab, config, "c1")[0].startswith("10.0.0.")


# -- at the same time --


def test_many_at_once(lab: Lab) -> None:
    """Plugins must handle being executed concurrently across different containers: no address twice, none lost."""
    config = conf(subnet="10.0.0.0/24")
    script = "\n".join(f"CNI_CONTAINERID=c{n} {lab.plugins.folder}/host-local </run/conf >/run/out.{n} &" for n in range(24))
    import json

    lab.node.path("/run/conf").write_text(json.dumps(config))
    lab.node.sh(f"""
        export CNI_COMMAND=ADD CNI_NETNS=/run/netns/none CNI_IFNAME=eth0 CNI_PATH={lab.plugins.folder}
        {script}
        wait
    """)
    given = [json.loads(lab.node.path(f"/run/out.{n}").read_text())["ips"][0]["address"] for n in range(24)]
    assert len(set(given)) == 24
    assert {address.split("/")[0] for address in given} == set(observe.leases(lab.node, "net"))
