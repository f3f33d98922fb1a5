"""bridge and host-local: GC removes what dead attachments left, STATUS tells when an ADD could not succeed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe
from tests.netns.conftest import BACKENDS, DUAL, V4, Attachment, bridge

if TYPE_CHECKING:
    from tests.netns.conftest import Lab

pytestmark = [
    pytest.mark.root,
    pytest.mark.known_reference_failure("GC and STATUS are of specification 1.1.0, later than 1.1.1 of the plugins."),
]

KEYS = ("cni.dev/valid-attachments", "cni.dev/attachments")


def conf(ipam: Any = DUAL, **keys: Any) -> dict[str, Any]:
    return bridge(ipam, version="1.1.0", **{"isDefaultGateway": True, "ipMasq": True, "macspoofchk": True, **keys})


def valid(*attachments: Attachment, key: str = KEYS[0]) -> dict[str, Any]:
    return {key: [{"containerID": it.container_id, "ifname": it.ifname} for it in attachments]}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gc_removes_the_dead_and_keeps_the_living(lab: Lab, backend: str, key: str) -> None:
    """A plugin SHOULD remove as many stale resources as possible; the key was once called cni.dev/attachments."""
    config = conf(ipMasqBackend=backend)
    living, dead = lab.added(config), lab.added(config)
    lab.node.remove_pod(dead.netns)
    outcome = lab.call("GC", {**config, **valid(living, key=key)}).succeeded()
    assert outcome.stdout == b""
    assert dead.leftovers() == []
    assert set(observe.leases(lab.node, "net")) == {"10.10.0.2", "fd00:10::2"}
    living.check().succeeded()
    assert lab.node.pings("10.10.0.1", pod=living.pod)


def test_gc_of_a_link_whose_pod_lives(lab: Lab) -> None:
    """An attachment that is not in the list is dead for the runtime, even if its namespace is still there."""
    dead = lab.added(conf())
    lab.call("GC", {**conf(), **valid()}).succeeded()
    assert dead.leftovers() == [] and observe.leases(lab.node, "net") == {}
    assert set(observe.links(lab.node)) == {"lo", "cni0"}


def test_gc_with_an_empty_list_and_nothing_there(lab: Lab) -> None:
    """Plugins should generally complete a GC action without error; nothing is made."""
    before = lab.snapshot()
    lab.call("GC", {**conf(), **valid()}).succeeded()
    lab.unchanged_since(before)


def test_gc_without_the_key_touches_nothing(lab: Lab) -> None:
    """libcni sends no list when its caller has none: then nobody knows what is dead."""
    it = lab.added(conf())
    lab.node.remove_pod(it.netns)
    before = lab.snapshot()
    lab.call("GC", conf()).succeeded()
    lab.unchanged_since(before)


def test_gc_with_null_touches_nothing(lab: Lab) -> None:
    """A nil list in Go is null: no list."""
    it = lab.added(conf())
    before = lab.snapshot()
    lab.call("GC", {**conf(), KEYS[0]: None}).succeeded()
    lab.unchanged_since(before)
    it.check().succeeded()


def test_gc_leaves_other_networks_alone(lab: Lab) -> None:
    """The list is of attachments to this network: others share the node, the bridge, the range folder."""
    other = lab.added(conf({**V4, "subnet": "10.20.0.0/24"}, name="net2", bridge="cni2"))
    similar = lab.added(conf({**V4, "subnet": "10.30.0.0/24"}, name="net-2", bridge="cni3"))
    dead = lab.added(conf())
    lab.call("GC", {**conf(), **valid()}).succeeded()
    assert dead.leftovers() == []
    other.check().succeeded()
    similar.check().succeeded()


def test_gc_tells_interfaces_of_one_container_apart(lab: Lab) -> None:
    """An attachment is identified by the (CNI_CONTAINERID, CNI_IFNAME) tuple."""
    living = lab.added(conf())
    dead = lab.attachment(conf(), pod=living.pod, container_id=living.container_id, ifname="net1")
    dead.add()
    lab.call("GC", {**conf(), **valid(living)}).succeeded()
    assert set(observe.links(lab.node, pod=living.pod)) == {"lo", "eth0"}
    assert set(observe.leases(lab.node, "net")) == {"10.10.0.2", "fd00:10::2"}
    living.check().succeeded()


def test_gc_leaves_foreign_links_and_rules_alone(lab: Lab) -> None:
    """What carries no label of ours is somebody else's."""
    lab.added(conf())
    lab.node.sh("""
        ip link add vethdeadbeef type veth peer name x; ip link set vethdeadbeef master cni0
        ip link set vethdeadbeef alias 'net container-9 eth0'
        nft add table inet theirs; nft add chain inet theirs c; nft add rule inet theirs c ip saddr 10.10.0.2 accept
    """)
    lab.call("GC", {**conf(), **valid()}).succeeded()
    assert "vethdeadbeef" in observe.links(lab.node)
    assert observe.mentions(lab.node, "theirs")


def test_gc_forwards_to_ipam(lab: Lab) -> None:
    """Plugins MUST forward any GC calls to delegated plugins they are configured to use."""
    lab.node.sh("mkdir -p /var/lib/cni/networks/net; printf 'gone\\r\\neth0' >/var/lib/cni/networks/net/10.10.0.77")
    lab.call("GC", {**conf(), **valid()}).succeeded()
    assert observe.leases(lab.node, "net") == {}


def test_gc_of_host_local_itself(lab: Lab) -> None:
    """host-local: leases of dead attachments go, also old ones that hold just an id; its own files stay."""
    folder = "/var/lib/cni/networks/net"
    lab.node.sh(f"""
        mkdir -p {folder}
        printf 'alive\\r\\neth0' >{folder}/10.10.0.2
        printf 'alive\\r\\nnet1' >{folder}/10.10.0.3
        printf 'alive' >{folder}/10.10.0.4
        printf 'dead' >{folder}/10.10.0.5
        printf 'dead\\r\\neth0' >{folder}/fd00:10::5
        printf 10.10.0.5 >{folder}/last_reserved_ip.0
        : >{folder}/lock; : >{folder}/notes.txt
    """)
    keep = {KEYS[0]: [{"containerID": "alive", "ifname": "eth0"}]}
    config = {"cniVersion": "1.1.0", "name": "net", "type": "host-local", "ipam": V4, **keep}
    lab.call("GC", config).succeeded()
    left = {name.split("/")[-1] for name in observe.files(lab.node, folder)}
    assert left == {"10.10.0.2", "10.10.0.4", "last_reserved_ip.0", "lock", "notes.txt"}


@pytest.mark.parametrize(
    "broken",
    [5, {}, "x", [5], [{"containerID": 5, "ifname": "eth0"}], [{"ifname": "eth0"}]],
    ids=["number", "object", "text", "entry", "id", "no-id"],
)
def test_gc_with_a_broken_list_touches_nothing(lab: Lab, broken: Any) -> None:
    """Error code 7: a list that cannot be read must not be taken for an empty one."""
    lab.added(conf())
    before = lab.snapshot()
    lab.call("GC", {**conf(), KEYS[0]: broken}).refused(7, says="attachments")
    lab.unchanged_since(before)


def test_gc_goes_on_after_an_error(lab: Lab) -> None:
    """If an error is encountered, a plugin should continue; removing as many resources as possible, and report."""
    dead = lab.added(conf())
    lab.node.remove_pod(dead.netns)
    config = {**conf(), **valid(), "ipam": {**DUAL, "type": "no-such-ipam"}}
    outcome = lab.call("GC", config)
    assert outcome.status == 1 and "no-such-ipam" in str(outcome.json), outcome
    assert [line for line in dead.leftovers() if not line.startswith("lease")] == []


def test_status_of_a_network_that_works(lab: Lab) -> None:
    """A plugin must exit with success if it is ready to service ADD requests; nothing is made."""
    before = lab.snapshot()
    assert lab.call("STATUS", conf()).succeeded().stdout == b""
    lab.unchanged_since(before)
    lab.added(conf())
    lab.call("STATUS", conf()).succeeded()


NOT_READY: dict[str, tuple[str, dict[str, Any], str]] = {
    "range-exhausted": ("", {"ipam": {**V4, "rangeStart": "10.10.0.2", "rangeEnd": "10.10.0.2"}}, "10.10.0.2"),
    "one-of-two-ranges-exhausted": (
        "",
        {
            "ipam": {
                "type": "host-local",
                "ranges": [
                    [{"subnet": "10.10.0.0/24", "rangeStart": "10.10.0.2", "rangeEnd": "10.10.0.2"}],
                    [{"subnet": "fd00:10::/64"}],
                ],
            }
        },
        "10.10.0.2",
    ),
    "data-dir-is-a-file": ("echo >/run/file", {"ipam": {**V4, "dataDir": "/run/file"}}, "/run/file"),
    "data-dir-is-below-a-file": ("echo >/run/file", {"ipam": {**V4, "dataDir": "/run/file/x"}}, "/run/file"),
    "data-dir-is-read-only": (
        "mkdir /run/ro; mount -t tmpfs -o ro tmpfs /run/ro",
        {"ipam": {**V4, "dataDir": "/run/ro"}},
        "/run/ro",
    ),
    "ipam-is-not-there": ("", {"ipam": {"type": "no-such-ipam"}}, "no-such-ipam"),
}


@pytest.mark.parametrize("name", NOT_READY)
def test_status_of_a_network_that_cannot_work(lab: Lab, name: str) -> None:
    """50: the plugin is not available (i.e. cannot service ADD requests); the message says why."""
    prepare, keys, says = NOT_READY[name]
    lab.added(conf(V4, ipMasq=False, isDefaultGateway=False))
    lab.node.sh(prepare or "true")
    before = lab.snapshot()
    outcome = lab.call("STATUS", {**conf(), **keys})
    outcome.refused(50, says=says)
    lab.unchanged_since(before)
    assert lab.attachment({**conf(), **keys}).call("ADD").status == 1, "STATUS says 50 and ADD works"


@pytest.mark.parametrize(("pods", "code"), [(0, 50), (1, 51)])
def test_status_when_the_bridges_name_is_taken(lab: Lab, pods: int, code: int) -> None:
    """51: the plugin is not available, and existing containers in the network may have limited connectivity."""
    for _ in range(pods):
        lab.added(conf())
    lab.node.sh("ip link del cni0 2>/dev/null || true; ip link add cni0 type veth peer name other")
    before = lab.snapshot()
    lab.call("STATUS", conf()).refused(code, says="cni0.*not a bridge")
    lab.unchanged_since(before)
    assert lab.attachment(conf()).call("ADD").status == 1


def test_status_of_host_local_itself(lab: Lab) -> None:
    """STATUS should return an error if resources (e.g. IP addresses) are exhausted."""
    config = {"cniVersion": "1.1.0", "name": "net", "type": "host-local", "ipam": {**V4, "rangeEnd": "10.10.0.3"}}
    for _ in range(2):
        lab.call("STATUS", config).succeeded()
        lab.added(config, pod="none")
    lab.call("STATUS", config).refused(50, says="10.10.0.3")


def test_status_of_a_wrong_configuration(lab: Lab) -> None:
    """STATUS reads the configuration as ADD does: a wrong one is told as such."""
    outcome = lab.call("STATUS", conf({"type": "host-local", "subnet": "nonsense"}))
    assert outcome.status == 1 and outcome.json["code"] in (7, 50), outcome
