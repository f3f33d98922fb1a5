"""loopback on a real kernel: lo goes up and down, and the result tells of it in the form of every version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe

if TYPE_CHECKING:
    from tests.netns.conftest import Lab

pytestmark = pytest.mark.root

LO = {"mac": "00:00:00:00:00:00", "name": "lo"}
SHAPE_BUG = "The result has the form of 1.0.0 under the name of an older version."


def conf(version: str = "1.0.0", **keys: Any) -> dict[str, Any]:
    return {"cniVersion": version, "name": "lo-net", "type": "loopback", **keys}


def is_up(lab: Lab, pod: str | None = None) -> bool:
    return "UP" in observe.links(lab.node, pod=pod)["lo"]["flags"]


def old(version: str) -> dict[str, Any]:
    return {"cniVersion": version, "ip4": {"ip": "127.0.0.1/8"}, "ip6": {"ip": "::1/128"}, "dns": {}}


def middle(version: str, sandbox: str) -> dict[str, Any]:
    return {
        "cniVersion": version,
        "interfaces": [{**LO, "sandbox": sandbox}],
        "ips": [
            {"version": "4", "interface": 0, "address": "127.0.0.1/8"},
            {"version": "6", "interface": 0, "address": "::1/128"},
        ],
        "dns": {},
    }


def new(version: str, sandbox: str) -> dict[str, Any]:
    return {
        "cniVersion": version,
        "interfaces": [{**LO, "sandbox": sandbox}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}, {"address": "::1/128", "interface": 0}],
    }


@pytest.mark.known_reference_failure(SHAPE_BUG)
@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_result_of_the_first_versions(lab: Lab, version: str) -> None:
    """0.2.0, Result: ip4, ip6 and dns; there are no interfaces."""
    it = lab.attachment(conf(version), ifname="lo")
    assert it.add() == old(version)
    assert is_up(lab, it.pod)


@pytest.mark.known_reference_failure(SHAPE_BUG)
@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_result_of_the_middle_versions(lab: Lab, version: str) -> None:
    """0.4.0, Result: every entry of ips has its version, "4" or "6"."""
    it = lab.attachment(conf(version), ifname="lo")
    assert it.add() == middle(version, it.netns)


@pytest.mark.parametrize(
    "version",
    ["1.0.0", pytest.param("1.1.0", marks=pytest.mark.known_reference_failure("1.1.0 is later than 1.1.1"))],
)
def test_result_of_the_new_versions(lab: Lab, version: str) -> None:
    """ADD Success: interfaces with the sandbox as passed in CNI_NETNS, ips with the interface's index."""
    it = lab.attachment(conf(version), ifname="lo")
    result = it.add()
    for interface in result["interfaces"]:
        interface.pop("mtu", None)
    if not result.get("dns"):
        result.pop("dns", None)
    assert result == new(version, it.netns)


def test_without_ipv6(lab: Lab) -> None:
    """A pod without IPv6 has the IPv4 address only."""
    it = lab.attachment(conf(), ifname="lo")
    lab.node.sh("echo 1 >/proc/sys/net/ipv6/conf/lo/disable_ipv6", pod=it.pod)
    assert [entry["address"] for entry in it.add()["ips"]] == ["127.0.0.1/8"]


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_prev_result_is_passed_on(lab: Lab, version: str) -> None:
    """A plugin that makes no changes must output a result equivalent to the provided prevResult."""
    before = {
        "cniVersion": version,
        "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"}],
        "ips": [{**({"version": "4"} if version == "0.4.0" else {}), "interface": 0, "address": "10.0.0.2/24"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}],
        "dns": {"domain": "example.net"},
    }
    it = lab.attachment(conf(version, prevResult=before), ifname="lo")
    assert it.add() == before
    assert is_up(lab, it.pod)


def test_add_again_is_fine(lab: Lab) -> None:
    """lo is there already, always: the second ADD finds it up and tells the same."""
    it = lab.attachment(conf(), ifname="lo")
    assert it.add() == it.add()


def test_the_interface_is_lo_whatever_its_name_is_said_to_be(lab: Lab) -> None:
    """Runtimes call loopback with any CNI_IFNAME; it is always lo."""
    it = lab.attachment(conf(), ifname="eth7")
    assert it.add()["interfaces"][0]["name"] == "lo"
    assert set(observe.links(lab.node, pod=it.pod)) == {"lo"}


def test_check(lab: Lab) -> None:
    """CHECK should return an error if a resource is in an invalid state: lo is down."""
    it = lab.added(conf(), ifname="lo")
    it.check().succeeded()
    lab.node.sh("ip link set lo down", pod=it.pod)
    it.check().refused(999, says="lo.*(down|up)")


def test_del_sets_lo_down(lab: Lab) -> None:
    """DEL: undo any modifications applied in the plugin's ADD functionality; again and again."""
    it = lab.added(conf(), ifname="lo")
    for _ in range(2):
        outcome = it.delete().succeeded()
        assert outcome.stdout == b""
        assert not is_up(lab, it.pod)


@pytest.mark.parametrize("netns", ["", None, "/run/netns/gone", "/nowhere/at/all"])
def test_del_without_a_namespace(lab: Lab, netns: str | None) -> None:
    """DEL returns success if the interface in question is missing; CNI_NETNS is optional."""
    it = lab.added(conf(), ifname="lo")
    assert it.delete(netns=netns).succeeded().stdout == b""


@pytest.mark.known_reference_failure("DEL with a file that is no namespace fails: `unknown FS magic`.")
def test_del_with_a_file_that_is_no_namespace(lab: Lab) -> None:
    """DEL is best-effort: a namespace's mount point that outlived the namespace is a missing namespace."""
    it = lab.attachment(conf(), ifname="lo")
    lab.node.sh("echo >/run/netns/stale")
    it.delete(netns="/run/netns/stale").succeeded()
