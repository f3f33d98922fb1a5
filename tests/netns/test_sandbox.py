"""CNI_NETNS: the plugin's own namespace and what is no namespace are refused before anything happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe
from tests.netns.conftest import V4, bridge

if TYPE_CHECKING:
    from tests.netns.conftest import Lab

pytestmark = pytest.mark.root

LOOPBACK = {"cniVersion": "1.0.0", "name": "net", "type": "loopback"}
BRIDGE = bridge(V4, isGateway=True)
TOO_LATE = "containernetworking/plugins#714: the host's namespace is refused after the work is done."
BRIDGE_STAYS = "bridge makes the bridge before it opens the namespace."

WAYS_HOME = {
    "its-own": "/proc/self/ns/net",
    "of-another-process": "/proc/1000000/ns/net",
    "a-mount": "/run/netns/home",
    "a-link": "/run/home",
}


def way_home(lab: Lab, way: str) -> str:
    """A path to the node's own namespace."""
    if way == "a-mount":
        lab.node.sh("touch /run/netns/home; mount --bind /proc/self/ns/net /run/netns/home")
    if way == "a-link":
        lab.node.sh(f"ln -s /proc/{lab.node.pid}/ns/net /run/home")
    return WAYS_HOME[way].replace("1000000", str(lab.node.pid))


@pytest.mark.known_reference_failure(TOO_LATE)
@pytest.mark.parametrize("way", WAYS_HOME)
@pytest.mark.parametrize("config", [LOOPBACK, BRIDGE], ids=["loopback", "bridge"])
def test_the_hosts_namespace_is_refused_first(lab: Lab, config: dict[str, Any], way: str) -> None:
    """A recycled process id made loopback take the host's lo down (containernetworking/plugins#714)."""
    netns = way_home(lab, way)
    it = lab.attachment(config)
    before = lab.snapshot()
    for verb in ("ADD", "DEL"):
        it.call(verb, netns=netns).refused(8, says="namespace|netns")
        lab.unchanged_since(before)
    assert "UP" in observe.links(lab.node)["lo"]["flags"]


@pytest.mark.known_reference_failure(TOO_LATE)
def test_a_dels_lease_survives_the_hosts_namespace(lab: Lab) -> None:
    """Refused before anything happens means that the address stays held, too."""
    it = lab.added(BRIDGE)
    before = lab.snapshot()
    it.delete(netns="/proc/self/ns/net").refused(8)
    lab.unchanged_since(before)


@pytest.mark.parametrize("value", ["1", "TRUE", "true"])
def test_the_hosts_namespace_on_demand(lab: Lab, value: str) -> None:
    """CNI_NETNS_OVERRIDE: whoever means the plugin's own namespace says so."""
    lab.node.sh("ip link set lo down")
    it = lab.attachment(LOOPBACK)
    it.call("ADD", netns="/proc/self/ns/net", env={"CNI_NETNS_OVERRIDE": value}).result()
    assert "UP" in observe.links(lab.node)["lo"]["flags"]


@pytest.mark.known_reference_failure(TOO_LATE)
@pytest.mark.parametrize("value", ["0", "", "yes"])
def test_the_hosts_namespace_not_on_demand(lab: Lab, value: str) -> None:
    """CNI_NETNS_OVERRIDE: nothing but 1 and true says so."""
    it = lab.attachment(LOOPBACK)
    before = lab.snapshot()
    it.call("ADD", netns="/proc/self/ns/net", env={"CNI_NETNS_OVERRIDE": value}).refused(8)
    lab.unchanged_since(before)


MISSING = {"gone": "/run/netns/gone", "no-folder": "/nowhere/at/all", "process-gone": "/proc/4194304/ns/net"}


@pytest.mark.parametrize("path", MISSING.values(), ids=MISSING)
@pytest.mark.parametrize(
    "config",
    [pytest.param(BRIDGE, id="bridge", marks=pytest.mark.known_reference_failure(BRIDGE_STAYS)), LOOPBACK],
    ids=lambda config: config["type"],
)
def test_add_into_a_missing_namespace(lab: Lab, config: dict[str, Any], path: str) -> None:
    """Error code 3: the runtime does not need to perform any cleanup, so nothing may be left."""
    it = lab.attachment(config)
    before = lab.snapshot()
    it.call("ADD", netns=path).refused(3, says=path)
    lab.unchanged_since(before)


NO_NAMESPACE = {
    "file": ("/run/netns/file", "echo >/run/netns/file"),
    "folder": ("/run/netns", "true"),
    "device": ("/dev/null", "true"),
    "mount-namespace": ("/proc/self/ns/mnt", "true"),
    "through-a-file": ("/run/netns/file/x", "echo >/run/netns/file"),
}


@pytest.mark.parametrize(("path", "make"), NO_NAMESPACE.values(), ids=NO_NAMESPACE)
@pytest.mark.parametrize(
    "config",
    [pytest.param(BRIDGE, id="bridge", marks=pytest.mark.known_reference_failure(BRIDGE_STAYS)), LOOPBACK],
    ids=lambda config: config["type"],
)
def test_add_into_what_is_no_namespace(lab: Lab, config: dict[str, Any], path: str, make: str) -> None:
    """Error code 4: invalid environment variables; the error message must contain the names."""
    lab.node.sh(make)
    it = lab.attachment(config)
    before = lab.snapshot()
    code = 3 if path.endswith("/x") else 4
    it.call("ADD", netns=path).refused(code, says="CNI_NETNS")
    lab.unchanged_since(before)


@pytest.mark.parametrize("path", ["/run/netns/gone", "/run/netns/stale"])
def test_check_of_a_vanished_namespace(lab: Lab, path: str) -> None:
    """CHECK should return an error if the container is generally unreachable."""
    lab.node.sh("echo >/run/netns/stale")
    it = lab.added(BRIDGE)
    it.check(netns=path).refused(3 if "gone" in path else 4, says=path)


def test_the_sandbox_of_the_result_is_the_path_as_given(lab: Lab) -> None:
    """ADD Success: for interfaces inside the container, this should be the value passed via CNI_NETNS."""
    it = lab.attachment(BRIDGE)
    lab.node.sh(f"ln -s {it.netns} /run/alias")
    it.netns = "/run/alias"
    assert it.add()["interfaces"][2]["sandbox"] == "/run/alias"
    it.check().succeeded()
    it.delete().succeeded()
