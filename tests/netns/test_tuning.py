"""tuning: what ADD changes, what CHECK sees, what DEL brings back, whose files GC removes, STATUS, the plugins beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe
from tests.harness.node import PATH
from tests.harness.wrappers import ROOT, python
from tests.netns.conftest import DUAL, V4, bridge, gateway, ptp

if TYPE_CHECKING:
    from tests.harness.plugin import Outcome
    from tests.netns.conftest import Attachment, Config, Lab

pytestmark = pytest.mark.root

MAC = "02:00:5e:00:00:99"
FOLDER = "/run/cni/tuning"
ARP, PORTS = "net/ipv4/conf/eth0/arp_filter", "net/ipv4/ip_local_port_range"
LINK = {"mac": MAC, "mtu": 1300, "promisc": True, "allmulti": True}
SYSCTL = {"net.ipv4.conf.eth0.arp_filter": "1", "net.ipv4.ip_local_port_range": "2000\t60000"}

QUEUE = "txQLen is later than 1.1.1 of the plugins."
LATE = "1.1.0 is later than 1.1.1 of the plugins."
IFNAME = "IFNAME in the name of a sysctl is later than 1.1.1 of the plugins."
FORGETS = "DEL does not restore sysctls (P#493 is about attributes only)."
TEXT = "CHECK compares the text of a sysctl."
LEAKS = "DEL leaves the file where the namespace is gone."


def known(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.known_reference_failure(reason)


class Chain:
    """An attachment and tuning behind it, called as a runtime calls a list of the two."""

    def __init__(self, lab: Lab, before: Config | None = None, **keys: Any) -> None:
        before = before or bridge(DUAL)
        self.lab, self.node = lab, lab.node
        self.first = lab.attachment(before)
        common = {"cniVersion": before["cniVersion"], "name": before["name"], "type": "tuning"}
        self.config = {**common, **keys}
        self.first.add()
        self.pod = self.first.pod
        self.it = self._attachment({**self.config, "prevResult": self.first.result})

    def _attachment(self, config: Config) -> Attachment:
        first = self.first
        return self.lab.attachment(config, pod=first.pod, container_id=first.container_id)

    def add(self) -> Chain:
        self.it.add()
        return self

    def check(self) -> Outcome:
        """CHECK of both; the first that fails, or the last."""
        told = self.first.check(self.it.result)
        return told if told.status else self.it.check()

    def delete(self, **changes: Any) -> None:
        """DEL of both, in the reverse order, each of which must succeed."""
        self.it.delete(**changes).succeeded()
        self.first.call("DEL", self.first.with_result(self.it.result), **changes).succeeded()

    def link(self) -> dict[str, Any]:
        seen = observe.ip(self.node, "-d", "link", "show", "eth0", pod=self.pod)[0]
        return {
            "mac": seen["address"],
            "mtu": seen["mtu"],
            "promisc": "PROMISC" in seen["flags"],
            "allmulti": "ALLMULTI" in seen["flags"],
            "txQLen": seen.get("txqlen", 0),
        }

    def sysctl(self, name: str) -> str:
        return self.node.sysctl(name, pod=self.pod)

    @property
    def file(self) -> str:
        return f"{FOLDER}/{self.first.container_id}_eth0.json"

    def backup(self) -> Any:
        """The file of former values; None without one."""
        raw = observe.files(self.node, FOLDER).get(self.file)
        return json.loads(raw) if raw is not None else None


def tuned(lab: Lab, before: Config | None = None, **keys: Any) -> Chain:
    return Chain(lab, before, **keys).add()


# -- ADD --


@pytest.mark.parametrize(
    "version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", pytest.param("1.1.0", marks=known(LATE))]
)
def test_every_version(lab: Lab, version: str) -> None:
    """A chained plugin MUST output the prevResult, with the changes it made."""
    it = Chain(lab, bridge(DUAL, version=version), **LINK, sysctl=SYSCTL)
    was = it.link()
    it.add()
    assert it.link() == {**was, **LINK}
    assert (it.sysctl(ARP), it.sysctl(PORTS)) == ("1", SYSCTL["net.ipv4.ip_local_port_range"])
    before, after = it.first.result, it.it.result
    assert before is not None and after is not None
    assert {key: after[key] for key in before if key != "interfaces"} == {
        key: before[key] for key in before if key != "interfaces"
    }
    for old, new in zip(before.get("interfaces", ()), after.get("interfaces", ()), strict=True):
        changed = {"mac": MAC} if old["name"] == "eth0" else {}
        assert {key: value for key, value in new.items() if key != "mtu"} == {
            key: value for key, value in {**old, **changed}.items() if key != "mtu"
        }
    if version >= "0.4.0":
        it.check().succeeded()
    it.delete()
    assert it.first.leftovers() == [] and it.backup() is None


@known("A changed MTU is not told in the result.")
def test_the_result_has_the_mtu(lab: Lab) -> None:
    """ADD Success: interfaces, mtu: the MTU of the interface."""
    it = tuned(lab, bridge(V4, version="1.1.0", mtu=1400), mtu=1300)
    assert it.it.result is not None
    assert [entry.get("mtu") for entry in it.it.result["interfaces"]][1:] == [1400, 1300]
    it.check().succeeded()


@known(QUEUE)
def test_queue(lab: Lab) -> None:
    """txQLen is the length of the queue of what is to be sent; 0 is a length too."""
    it = tuned(lab, txQLen=0)
    assert it.link()["txQLen"] == 0
    it.check().succeeded()
    it.it.delete().succeeded()
    assert it.link()["txQLen"] == 1000


@known(IFNAME)
@pytest.mark.parametrize("name", ["net.ipv4.conf.IFNAME.arp_filter", "net/ipv4/conf/IFNAME/arp_filter"])
def test_a_sysctl_of_the_interface(lab: Lab, name: str) -> None:
    """IFNAME stands for the pod's interface, in both spellings."""
    it = tuned(lab, sysctl={name: "1"})
    assert it.sysctl(ARP) == "1"
    it.check().succeeded()


@pytest.mark.usefixtures("own_promise")
def test_an_interface_with_a_dot_in_its_name(lab: Lab) -> None:
    """The dots of its name are no separators (P PR#540, and its regression)."""
    first = lab.added(bridge(V4), ifname="eth0.100")
    for name in ("net.ipv4.conf.IFNAME.arp_filter", "net/ipv4/conf/IFNAME/arp_filter", "net.ipv4.conf.eth0/100.arp_filter"):
        config = {**bridge(), "type": "tuning", "sysctl": {name: "1"}, "prevResult": first.result}
        it = lab.added(config, pod=first.pod, container_id=first.container_id, ifname="eth0.100")
        assert lab.node.sysctl("net/ipv4/conf/eth0.100/arp_filter", pod=first.pod) == "1"
        it.check().succeeded()
        it.delete().succeeded()
        assert lab.node.sysctl("net/ipv4/conf/eth0.100/arp_filter", pod=first.pod) == "0"


@pytest.mark.parametrize(
    ("keys", "args", "mac"),
    [
        ({"mac": "02:00:00:00:00:01"}, None, "02:00:00:00:00:01"),
        ({"mac": "02:00:00:00:00:01"}, "MAC=02:00:00:00:00:02", "02:00:00:00:00:02"),
        (
            {"mac": "02:00:00:00:00:01", "runtimeConfig": {"mac": "02:00:00:00:00:03"}},
            "MAC=02:00:00:00:00:02",
            "02:00:00:00:00:03",
        ),
        (
            {"runtimeConfig": {"mac": "02:00:00:00:00:03"}, "args": {"cni": {"mac": "02:00:00:00:00:04"}}},
            "MAC=02:00:00:00:00:02",
            "02:00:00:00:00:04",
        ),
        (
            {
                "args": {"cni": {"mtu": 1200, "promisc": True, "allmulti": True, "sysctl": {"net.ipv4.ip_forward": "1"}}},
                "sysctl": {},
            },
            None,
            "",
        ),
    ],
)
def test_whose_word_counts(lab: Lab, keys: Config, args: str | None, mac: str) -> None:
    """CNI conventions: the configuration, CNI_ARGS, runtimeConfig and args.cni, the last one strongest."""
    it = Chain(lab, bridge({"type": "static", "addresses": [{"address": "10.9.9.9/24"}]}), **keys)
    it.it.args = args
    it.add()
    if mac:
        assert it.link()["mac"] == mac
    else:
        assert it.link()["mtu"] == 1200 and it.link()["promisc"] and it.link()["allmulti"]
        assert it.sysctl("net/ipv4/ip_forward") == "1"
    it.check().succeeded()


@known("args.cni.sysctl without sysctl ends the process with a panic.")
def test_sysctls_of_args_alone(lab: Lab) -> None:
    """CNI conventions: args.cni.sysctl."""
    it = tuned(lab, args={"cni": {"sysctl": {"net.ipv4.ip_local_port_range": "2000 60000"}}})
    assert it.sysctl(PORTS).split() == ["2000", "60000"]


@known("An upper-case mac is told as it is configured, and then fails CHECK of tuning and of bridge.")
def test_a_mac_in_upper_case(lab: Lab) -> None:
    """A hardware address is the same in either case."""
    it = tuned(lab, mac="02-00-5E-00-00-AB")
    assert it.it.result is not None and it.it.result["interfaces"][2]["mac"] == "02:00:5e:00:00:ab" == it.link()["mac"]
    it.check().succeeded()


@known("CHECK compares text, and the kernel tells values with tabs.")
def test_fields_of_a_sysctl(lab: Lab) -> None:
    """Spaces and tabs between the fields of a value are the same."""
    it = tuned(lab, sysctl={"net.ipv4.ip_local_port_range": "2000 60000", "net.ipv4.ip_local_reserved_ports": "8081,8080,9000"})
    it.check().succeeded()


REFUSED: dict[str, tuple[Config, int, str]] = {
    "not-of-the-network": ({"sysctl": {"kernel.hostname": "x"}}, 7, "not of the network"),
    "read-only": (
        {"sysctl": {"net.ipv4.tcp_available_congestion_control": "x"}},
        999,
        "permission denied.*it can only be read",
    ),
    "up": ({"sysctl": {"net/../kernel/hostname": "x"}}, 7, "is no name"),
    "up-by-dots": ({"sysctl": {"net.//.kernel.hostname": "x"}}, 7, "is no name"),
    "absolute": ({"sysctl": {"/proc/sys/net/ipv4/ip_forward": "1"}}, 7, "is no name"),
    "unknown": (
        {"sysctl": {"net.ipv4.no_such": "1"}},
        999,
        "cannot set sysctl net/ipv4/no_such to '1': no such file.*this kernel has no such sysctl",
    ),
    "invalid": (
        {"sysctl": {"net.ipv4.ip_default_ttl": "300"}},
        999,
        "cannot set sysctl net/ipv4/ip_default_ttl to '300'.*takes no such value",
    ),
    "mtu": ({"mtu": 67}, 7, "mtu 67"),
    "mtu-of-ipv6": ({"mtu": 1279}, 7, "1280"),
    "mac": ({"mac": "nonsense"}, 7, "nonsense"),
    "folder": ({"mtu": 1300, "dataDir": "relative"}, 7, "not an absolute path"),
    "folder-that-cannot-be": ({"mtu": 1300, "dataDir": "/proc/nothing"}, 999, "cannot write /proc/nothing"),
}


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_is_left(lab: Lab, name: str) -> None:
    keys, code, says = REFUSED[name]
    tuned(lab, mtu=1400)  # makes the folder
    it = Chain(lab, **{"mac": MAC, "promisc": True, **keys})
    before = lab.snapshot()
    it.it.call("ADD").refused(code, says=says)
    lab.unchanged_since(before)


@pytest.mark.usefixtures("own_promise")
def test_a_value_that_did_not_take(lab: Lab) -> None:
    """One sysctl may change another: what was asked for is what is there in the end, or an error."""
    sysctls = {"net.ipv4.conf.IFNAME.forwarding": "0", "net.ipv4.ip_forward": "1"}
    it = Chain(lab, sysctl=sysctls)
    it.it.call("ADD").refused(999, says="eth0/forwarding was set to '0', and is '1'")
    assert (it.sysctl("net/ipv4/ip_forward"), it.backup()) == ("0", None)
    it = tuned(lab, sysctl=dict(reversed(sysctls.items())))
    assert (it.sysctl("net/ipv4/conf/eth0/forwarding"), it.sysctl("net/ipv4/ip_forward")) == ("0", "1")


@known("CHECK of a sysctl that can only be written fails.")
def test_a_sysctl_that_can_only_be_written(lab: Lab) -> None:
    """What CHECK cannot read by the kernel's design is no problem."""
    it = tuned(lab, sysctl={"net.ipv4.route.flush": "1", "net.ipv6.route.flush": "1"})
    it.check().succeeded()
    it.it.delete().succeeded()


@pytest.mark.usefixtures("own_promise")
def test_a_sysctl_that_is_gone(lab: Lab) -> None:
    """CHECK: a resource is missing."""
    it = tuned(lab, sysctl={"net.ipv4.route.flush": "1"})
    gone = {**it.config, "sysctl": {"net.ipv4.route.flush": "1", "net.ipv4.no_such": "1"}}
    it.it.call("CHECK", {**gone, "prevResult": it.it.result}).refused(999, says="sysctl net/ipv4/no_such cannot be read")


@pytest.mark.parametrize(
    ("name", "value", "seen", "other"),
    [
        pytest.param("net.core.somaxconn", "0x400", "1024", "1023", marks=known(TEXT)),
        pytest.param("net.core.somaxconn", "010", "8", "10", marks=known(TEXT)),
        pytest.param("net.ipv4.ip_local_port_range", "0x1f40 061000", "8000\t25088", "8000 25089", marks=known(TEXT)),
        pytest.param(
            "net.ipv6.conf.eth0.stable_secret",
            "2001:db8::1",
            "2001:0db8:0000:0000:0000:0000:0000:0001",
            "2001:db8::2",
            marks=known(TEXT),
        ),
    ],
)
def test_other_ways_to_write_a_value(lab: Lab, name: str, value: str, seen: str, other: str) -> None:
    """What the kernel takes is compared as the kernel reads it: 0x and a leading 0 as numbers, addresses in full."""
    path = name.replace(".", "/")
    it = tuned(lab, sysctl={name: value})
    assert it.sysctl(path) == seen
    it.check().succeeded()
    lab.node.sh(f"echo {other} >/proc/sys/{path}", pod=it.pod)
    it.it.check().refused(999, says=name.rpartition(".")[2])


@pytest.mark.usefixtures("own_promise")
def test_without_prev_result(lab: Lab) -> None:
    config = {**bridge(), "type": "tuning", "mtu": 1300}
    it = lab.attachment(config)
    it.call("ADD").refused(7, says="required prevResult missing")
    it.call("CHECK").refused(7, says="required prevResult missing")
    it.call("DEL").succeeded()


@pytest.mark.usefixtures("own_promise")
def test_an_interface_that_is_not_there(lab: Lab) -> None:
    config = {**bridge(), "type": "tuning", "mtu": 1300, "prevResult": {"cniVersion": "1.0.0"}}
    it = lab.attachment(config)
    it.call("ADD").refused(999, says="there is no interface 'eth0'")
    assert lab.added({**config, "mtu": 0}).result is not None


# -- the allow list --


def allow(lab: Lab, text: str) -> None:
    """The node's own /etc, with an allow list."""
    lab.node.sh(
        "mkdir -p /run/up /run/work && mount -t overlay -o lowerdir=/etc,upperdir=/run/up,workdir=/run/work overlay /etc"
    )
    lab.node.sh("mkdir -p /etc/cni/tuning")
    lab.node.path("/etc/cni/tuning/allowlist.conf").write_text(text)


LIST = known("The allow list is later than 1.1.1 of the plugins.")
ALLOWED = ("^net.ipv4.conf.eth0.arp_filter$\n", "\n\nsomething\narp_\n", "^net\\.ipv4\\.conf\\.[a-z0-9]*\\.[[:alpha:]_]+$")
NOT_ALLOWED = ("^net.ipv4.conf.eth1", "# everything\n^arp_filter", " arp_filter", "")


@pytest.mark.parametrize(
    ("lines", "fine"),
    [*((lines, True) for lines in ALLOWED), *(pytest.param(lines, False, marks=LIST) for lines in NOT_ALLOWED)],
)
def test_allow_list(lab: Lab, lines: str, fine: bool) -> None:
    """Where the node has an allow list, every name must match one of its patterns."""
    it = Chain(lab, sysctl={"net.ipv4.conf.eth0.arp_filter": "1"})
    allow(lab, lines)
    outcome = it.it.call("ADD")
    if fine:
        outcome.succeeded()
    else:
        outcome.refused(7, says="is not allowed on this node")
    assert it.sysctl(ARP) == str(int(fine))


@pytest.mark.usefixtures("own_promise")
def test_allow_list_is_for_add(lab: Lab) -> None:
    """A list that changes afterwards keeps nobody from CHECK and DEL; STATUS says what the next ADD would."""
    it = tuned(lab, bridge(V4, version="1.1.0"), sysctl={"net.ipv4.conf.eth0.arp_filter": "1"})
    lab.call("STATUS", it.config).succeeded()
    allow(lab, "nothing")
    it.check().succeeded()
    lab.call("STATUS", it.config).refused(50, says="is not allowed on this node")
    it.it.delete().succeeded()
    assert it.sysctl(ARP) == "0"


@pytest.mark.usefixtures("own_promise")
def test_allow_list_that_is_none(lab: Lab) -> None:
    it = Chain(lab, sysctl={"net.ipv4.conf.eth0.arp_filter": "1"})
    allow(lab, "fine\n(arp\n")
    it.it.call("ADD").refused(999, says=r"line 2 of /etc/cni/tuning/allowlist.conf, '\(arp', is no pattern")


# -- CHECK --

DAMAGE = {
    "mac": ("ip link set eth0 address 02:00:00:00:00:77", "02:00:00:00:00:77|mac"),
    "mtu": ("ip link set eth0 mtu 1280", "1280"),
    "promisc": ("ip link set eth0 promisc off", "promisc"),
    "allmulti": ("ip link set eth0 allmulticast off", "allmulti"),
    "sysctl": ("echo 0 >/proc/sys/net/ipv4/conf/eth0/arp_filter", "arp_filter"),
    "interface": ("ip link del eth0", "eth0"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_check_sees(lab: Lab, name: str) -> None:
    """CHECK: the plugin MUST return an error if a resource is in an invalid state."""
    what, says = DAMAGE[name]
    it = tuned(lab, **LINK, sysctl=SYSCTL)
    it.it.check().succeeded()
    it.node.sh(what, pod=it.pod)
    before = lab.snapshot()
    it.it.check().refused(999, says=says)
    lab.unchanged_since(before)


@known("CHECK wants promisc to be off where the configuration does not ask for anything.")
def test_check_looks_at_what_was_asked_for(lab: Lab) -> None:
    """promisc: false leaves the interface as it is, for ADD and for CHECK; the same holds for what is not configured."""
    it = tuned(lab, promisc=False, mtu=1300)
    it.node.sh("ip link set eth0 promisc on; ip link set eth0 allmulticast on", pod=it.pod)
    it.it.check().succeeded()


@known("CHECK does not allow for a second tuning behind the first.")
@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_two_in_a_row(lab: Lab, version: str) -> None:
    """CHECK must allow for a later plugin's changes, also where results have no mtu; DEL of both brings back what was there
    before both.
    """
    it = Chain(lab, bridge(DUAL, version=version), mtu=1400, promisc=True)
    was = it.link()
    it.add()
    config = {**it.config, "mtu": 1300, "mac": MAC, "prevResult": it.it.result}
    second = lab.attachment(config, pod=it.pod, container_id=it.first.container_id)
    second.add()
    for each in (it.first, it.it, second):
        each.check(second.result).succeeded()
    assert it.backup()["mtu"] == was["mtu"]
    lab.node.sh("ip link set eth0 mtu 1290", pod=it.pod)
    for each in (it.it, second):
        each.check(second.result).refused(999, says="1290")
    for each in (second, it.it):
        each.call("DEL", each.with_result(second.result)).succeeded()
    assert it.link() == was


BESIDE: dict[str, Config] = {
    "bridge": gateway(DUAL, mtu=1400, ipMasq=True, hairpinMode=True),
    "bridge-macspoofchk": gateway(V4, macspoofchk=True),
    "ptp": ptp(DUAL, mtu=1400, ipMasq=True),
    "host-gw": ptp(DUAL, mtu=1400, type="host-gw", ipMasq=True),
}


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("name", BESIDE)
def test_beside(lab: Lab, name: str) -> None:
    """Every plugin of ours is content with what tuning made of its interface, packets pass, and its DEL leaves nothing."""
    routes = [{"dst": "0.0.0.0/0"}]
    config = {**BESIDE[name], "ipam": {**BESIDE[name]["ipam"], "routes": routes}}
    other = lab.added(config)
    it = tuned(lab, config, **LINK, txQLen=77, sysctl=SYSCTL)
    it.check().succeeded()
    other.check().succeeded()
    for address in other.addresses:
        assert lab.node.pings(address, pod=it.pod), f"{address} does not answer"
    it.delete()
    assert it.first.leftovers() == [] and it.backup() is None
    assert other.check().status == 0


@pytest.mark.usefixtures("own_promise")
def test_a_guarded_pod_may_send_from_its_new_address_only(lab: Lab) -> None:
    """macspoofchk goes on, for the address that the pod has now; DEL of tuning alone brings the former one back."""
    other = lab.added(gateway(V4, macspoofchk=True))
    it = Chain(lab, gateway(V4, macspoofchk=True), mac=MAC)
    old = it.link()["mac"]
    it.add()
    assert lab.node.pings(other.addresses[0], pod=it.pod)
    it.node.sh(f"ip link set eth0 address {old}", pod=it.pod)
    assert not lab.node.pings(other.addresses[0], pod=it.pod, seconds=0.5)
    it.node.sh(f"ip link set eth0 address {MAC}", pod=it.pod)
    it.it.delete().succeeded()
    assert it.link()["mac"] == old
    it.first.check().succeeded()
    assert lab.node.pings(other.addresses[0], pod=it.pod)


def test_packets_of_the_size(lab: Lab) -> None:
    """mtu: packets of that size leave the pod whole, larger ones do not."""
    one, two = lab.added(gateway(V4)), tuned(lab, gateway(V4), mtu=1300)
    target = one.addresses[0]
    assert lab.node.pings(target, pod=two.pod)
    for size, passes in (("1272", True), ("1273", False)):
        done = lab.node.run("ping", "-c1", "-W2", "-M", "do", "-s", size, "-n", target, pod=two.pod, check=False)
        assert (done.returncode == 0) == passes


# -- DEL --


@known(FORGETS)
def test_del_brings_everything_back(lab: Lab) -> None:
    """DEL: a plugin should undo what its ADD did, as far as it outlives the plugin's call."""
    it = Chain(lab, **LINK, sysctl=SYSCTL)
    was = it.link(), it.sysctl(ARP), it.sysctl(PORTS)
    it.add()
    assert (it.link(), it.sysctl(ARP), it.sysctl(PORTS)) != was
    it.it.delete().succeeded()
    assert (it.link(), it.sysctl(ARP), it.sysctl(PORTS)) == was
    assert it.backup() is None
    it.it.delete().succeeded()
    it.first.check().succeeded()


DEPENDENT = {
    "one that limits another": (
        {"net.ipv4.ip_unprivileged_port_start": "100", "net.ipv4.ip_local_port_range": "500 60000"},
        "",
    ),
    "one that sets another": (
        {"net.ipv4.ip_forward": "1", "net.ipv4.conf.eth0.forwarding": "1"},
        "echo 1 > /proc/sys/net/ipv4/conf/eth0/forwarding",
    ),
}


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("fails", [False, True], ids=["DEL", "failed ADD"])
@pytest.mark.parametrize(("sysctls", "before"), DEPENDENT.values(), ids=DEPENDENT)
def test_sysctls_that_depend_on_each_other(lab: Lab, sysctls: dict[str, str], before: str, fails: bool) -> None:
    """All have their former values in the end, after DEL and after an ADD that failed behind them."""
    it = Chain(lab, sysctl=sysctls | ({"net.ipv4.no_such": "1"} if fails else {}))
    lab.node.sh(before, pod=it.pod)
    names = [name.replace(".", "/") for name in sysctls]
    was = [lab.node.sysctl(name, pod=it.pod) for name in names]
    if fails:
        it.it.call("ADD").refused(999, "no_such")
    else:
        it.add()
        it.it.delete().succeeded()
    assert [lab.node.sysctl(name, pod=it.pod) for name in names] == was


@pytest.mark.usefixtures("own_promise")
def test_a_value_that_was_taken_in_part(lab: Lab) -> None:
    """The kernel refuses it, and has taken the first of its numbers."""
    it = Chain(lab, sysctl={"net.ipv4.tcp_rmem": "8192 nonsense 99999"})
    was = lab.node.sysctl("net/ipv4/tcp_rmem", pod=it.pod)
    it.it.call("ADD").refused(999, "tcp_rmem")
    assert lab.node.sysctl("net/ipv4/tcp_rmem", pod=it.pod) == was


@pytest.mark.usefixtures("own_promise")
def test_a_long_value(lab: Lab) -> None:
    """Longer than the page that the kernel takes at a time, as a new value and as a former one."""
    ports = ",".join(map(str, range(10001, 13000, 2)))
    it = Chain(lab, sysctl={"net.ipv4.ip_local_reserved_ports": ports}).add()
    read = "net/ipv4/ip_local_reserved_ports"
    assert lab.node.sysctl(read, pod=it.pod) == ports
    other = {**it.config, "sysctl": {"net.ipv4.ip_local_reserved_ports": "9"}, "prevResult": it.first.result}
    it.lab.node.sh("rm /run/cni/tuning/*")
    it.it.call("ADD", other).succeeded()
    assert lab.node.sysctl(read, pod=it.pod) == "9"
    it.it.call("DEL", other).succeeded()
    assert lab.node.sysctl(read, pod=it.pod) == ports


@pytest.mark.usefixtures("own_promise")
def test_a_sysctl_that_was_empty(lab: Lab) -> None:
    """It is empty again after DEL; and the configuration may empty one."""
    ports = "net/ipv4/ip_local_reserved_ports"
    it = tuned(lab, sysctl={ports: "8080,8081"})
    assert it.sysctl(ports) == "8080-8081"
    it.it.delete().succeeded()
    assert it.sysctl(ports) == ""
    it.node.sh(f"echo 9 >/proc/sys/{ports}", pod=it.pod)
    it.it.call("ADD", {**it.it.config, "sysctl": {ports: ""}}).succeeded()
    assert it.sysctl(ports) == ""
    it.it.delete().succeeded()
    assert it.sysctl(ports) == "9"


GONE = {
    "nothing": "true",
    "link": "ip -n {pod} link del eth0",
    "file": "rm {file}",
    "folder": "rm -r /run/cni",
}


@pytest.mark.parametrize(
    "gone",
    [
        *(pytest.param(gone, marks=[known(LEAKS)] if gone == "link" else []) for gone in GONE),
        pytest.param("pod", marks=known(LEAKS)),
    ],
)
@pytest.mark.parametrize("told", [True, False], ids=["with prevResult", "without"])
def test_del(lab: Lab, gone: str, told: bool) -> None:
    """DEL: plugins should complete without error even if some resources are missing. A second one is fine, too."""
    it = tuned(lab, mtu=1300, sysctl=SYSCTL)
    if gone == "pod":
        lab.node.remove_pod(it.first.netns)
    else:
        lab.node.sh(GONE[gone].format(pod=it.pod, file=it.file))
    config = it.it.with_result() if told else it.config
    it.it.call("DEL", config).succeeded()
    assert it.backup() is None
    it.it.call("DEL", config).succeeded()
    it.it.call("DEL", config, netns="").succeeded()


HOSTILE = {
    "nothing": "rm {file}; : >{file}",
    "no JSON": "rm {file}; echo '{{' >{file}",
    "a list": "rm {file}; echo '[]' >{file}",
    "deep": "rm {file}; python3 -c 'print(\"[\" * 100000)' >{file}",
    "huge": "rm {file}; truncate -s 2G {file}",
    "a symbolic link": "echo '{{\"mtu\": 900}}' >/run/other; ln -sf /run/other {file}",
    "a pipe": "rm {file}; mkfifo {file}",
    "a device": "rm {file}; ln /run/zero {file} || mknod {file} c 1 5",
    "wrong kinds": 'echo \'{{"mtu": "large", "mac": 5}}\' >{file}',
    "a huge MTU": "echo '{{\"mtu\": 2000000}}' >{file}",
    "no address": 'echo \'{{"mac": "zz:00:00:00:00:01"}}\' >{file}',
    "an odd address": 'echo \'{{"mac": "01:00:00:00:00:01"}}\' >{file}',
    "sysctls of others": 'echo \'{{"podwire": {{"owner": "x", "sysctls": {{"kernel/hostname": "x"}}}}}}\' >{file}',
    "sysctls above": 'echo \'{{"podwire": {{"owner": "x", "sysctls": {{"net/../kernel/hostname": "x"}}}}}}\' >{file}',
}


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("name", HOSTILE)
def test_del_with_a_file_of_anything(lab: Lab, name: str) -> None:
    """It is removed, nothing else is done, and DEL succeeds."""
    it = tuned(lab, mtu=1300)
    hostname = lab.node.sysctl("kernel/hostname")
    lab.node.sh(HOSTILE[name].format(file=it.file))
    it.it.delete().succeeded()
    assert it.file not in observe.files(lab.node, FOLDER)
    assert it.link()["mtu"] == 1300
    assert lab.node.sysctl("kernel/hostname") == hostname
    it.it.call("ADD").succeeded()


@pytest.mark.usefixtures("own_promise")
def test_a_folder_in_the_place_of_the_file(lab: Lab) -> None:
    it = tuned(lab, mtu=1300)
    lab.node.sh(f"rm {it.file}; mkdir {it.file}")
    outcome = it.it.delete().succeeded()
    assert b"cannot remove" in outcome.stderr


@pytest.mark.usefixtures("own_promise")
def test_a_second_add_keeps_the_original_values(lab: Lab) -> None:
    """A runtime repeats an ADD that was killed. The file has the values from before the first one."""
    it = Chain(lab, mtu=1300, sysctl=SYSCTL)
    was = it.link(), it.sysctl(ARP)
    it.add().add()
    assert it.backup()["mtu"] == 1500
    it.it.delete().succeeded()
    assert (it.link(), it.sysctl(ARP)) == was


KILLED = """
import json, os, signal, sys
from cni.dispatch import dispatch
from cni.net import execute

def dying(apply):
    def run(op, host):
        global left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return apply(op, host)
    return run

left = int(sys.argv[1])
for kind, apply in execute.APPLY.items():
    execute.APPLY[kind] = dying(apply)
reply = dispatch("tuning", os.environ, sys.stdin.buffer.read())
assert reply.status == 0, reply
"""


# An ADD on a kernel that lets one sysctl be set once.
STUBBORN = """
import errno, os, sys
from cni.dispatch import dispatch
from cni.net import netns

write = netns._write_here

def once(key, value):
    if key.endswith("arp_filter") and value == "0":
        raise OSError(errno.EPERM, "not again")
    write(key, value)

netns._write_here = once
reply = dispatch("tuning", os.environ, sys.stdin.buffer.read())
print(reply.stdout, reply.stderr)
sys.exit(reply.status)
"""


@pytest.mark.usefixtures("own_promise")
def test_killed_before_every_step(lab: Lab) -> None:
    """DEL brings back what was changed by then, and a bridge that comes after it finds everything of its own."""
    config = {**LINK, "txQLen": 77, "sysctl": SYSCTL}
    for step in range(20):
        it = Chain(lab, gateway(V4, macspoofchk=True), **config)
        was = it.link(), it.sysctl(ARP), it.sysctl(PORTS)
        env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": it.first.container_id, "CNI_NETNS": it.first.netns}
        env |= {"CNI_IFNAME": "eth0", "CNI_PATH": str(lab.plugins.folder), "PATH": PATH, "PYTHONPATH": str(ROOT)}
        killed = lab.node.run(
            python(), "-c", KILLED, str(step), stdin=json.dumps(it.it.config), env=env, check=False
        ).returncode
        assert killed in (0, -9, 137)
        it.it.call("DEL", it.config).succeeded()
        assert ((it.link(), it.sysctl(ARP), it.sysctl(PORTS)), it.backup()) == (was, None), f"step {step}"
        it.first.check().succeeded()
        it.first.call("DEL").succeeded()
        assert it.first.leftovers() == [] and observe.mentions(lab.node, it.first.container_id, MAC) == []
        if not killed:
            break
    assert step == 12


@pytest.mark.usefixtures("own_promise")
def test_a_file_of_an_earlier_sandbox(lab: Lab) -> None:
    """It came with the same container id, and tells nothing of this one."""
    it = tuned(lab, mtu=1300)
    raw = it.backup()
    assert raw["podwire"]["owner"] == f"podwire/net/{it.first.container_id}/eth0"
    stale = json.dumps({**raw, "mtu": 1234, "podwire": {**raw["podwire"], "sandbox": "4:1"}})
    lab.node.path(it.file).write_text(stale)
    it.it.delete().succeeded()
    assert (it.link()["mtu"], it.backup()) == (1300, None)
    lab.node.path(it.file).write_text(stale)
    it.add()
    assert it.backup()["mtu"] == 1300


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("part", [2, 3], ids=["number", "boot"])
def test_a_sandbox_with_the_inode_of_an_earlier_one(lab: Lab, part: int) -> None:
    """The kernel gives inodes again, also after a boot: a file with this one's is not believed for that."""
    it = tuned(lab, mtu=1300, sysctl={"net.core.somaxconn": "77"})
    raw = it.backup()
    sandbox = raw["podwire"]["sandbox"].split(":")
    assert lab.node.sh(f"stat -Lc %i {it.first.netns}").strip() == sandbox[1]
    assert int(sandbox[2]) and len(sandbox[3]) == 36
    sandbox[part] = "1"
    raw["podwire"] |= {"sandbox": ":".join(sandbox), "sysctls": {"net/core/somaxconn": "500"}}
    lab.node.path(it.file).write_text(json.dumps({**raw, "mtu": 1234}))
    it.it.delete().succeeded()
    assert (it.link()["mtu"], it.sysctl("net/core/somaxconn"), it.backup()) == (1300, "77", None)


@pytest.mark.usefixtures("own_promise")
def test_a_file_of_an_earlier_network(lab: Lab) -> None:
    """It is of this very interface, so its attachment is over: ADD takes it over, and says so."""
    it = tuned(lab, mtu=1300)
    lab.node.remove_pod(it.first.netns)
    it.first.delete().succeeded()
    config = bridge({**V4, "subnet": "10.20.0.0/24"}, name="net2", bridge="other0")
    first = lab.added(config, container_id=it.first.container_id)
    again = {**config, "type": "tuning", "mtu": 1320, "prevResult": first.result}
    second = lab.attachment(again, pod=first.pod, container_id=first.container_id)
    done = second.call("ADD").succeeded()
    assert f"is taken over from podwire/net/{first.container_id}/eth0, an earlier attachment" in done.stderr.decode()
    it.it.delete().succeeded()
    assert it.backup()["podwire"]["owner"] == f"podwire/net2/{first.container_id}/eth0"
    second.delete().succeeded()
    assert observe.links(lab.node, pod=first.pod)["eth0"]["mtu"] == 1500
    assert it.backup() is None


@known(FORGETS)
@pytest.mark.parametrize("first_gone", [0, 1, 2])
@pytest.mark.parametrize("wanted", [("77", "77", "77"), ("77", "88", "99")], ids=["one value", "three"])
def test_interfaces_of_one_pod_share_sysctls(lab: Lab, wanted: tuple[str, ...], first_gone: int) -> None:
    """Whichever goes, the sysctl is what the last of those that stay asked for; with the last one what it was."""
    name, read = "net.core.somaxconn", "net/core/somaxconn"
    pod, container = lab.node.pod().rpartition("/")[2], "three"
    was = lab.node.sysctl(read, pod=pod)
    each = []
    for number, value in enumerate(wanted):
        place = {"pod": pod, "container_id": container, "ifname": f"eth{number}"}
        config = bridge({**V4, "subnet": f"10.{20 + number}.0.0/24"}, name=f"net{number}", bridge=f"br{number}")
        made = lab.added(config, **place)
        each.append(lab.added({**config, "type": "tuning", "sysctl": {name: value}, "prevResult": made.result}, **place))
    order = [first_gone, *(number for number in (0, 2, 1) if number != first_gone)]
    while order:
        each[order.pop(0)].delete().succeeded()
        left = max(order, default=None)
        assert lab.node.sysctl(read, pod=pod) == (was if left is None else wanted[left])
        if left is not None:
            each[left].check().succeeded()


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("mac", ["02:00", ":".join(["02"] * 32), "02:00:00:00:00:01:02"], ids=["short", "long", "longer"])
def test_a_former_hardware_address_of_another_length(lab: Lab, mac: str) -> None:
    """It is not restored, whatever the kernel makes of it; all else is."""
    it = Chain(lab, mac=MAC, mtu=1300)
    was = it.link()
    it.add()
    lab.node.path(it.file).write_text(json.dumps({**it.backup(), "mac": mac}))
    done = it.it.delete().succeeded()
    assert f"has {mac} as former hardware address of eth0, which has {MAC}" in done.stderr.decode()
    assert it.link() == {**was, "mac": MAC}
    assert it.backup() is None


@pytest.mark.usefixtures("own_promise")
def test_what_a_failed_add_could_not_take_back_is_told(lab: Lab) -> None:
    """All the others are as before."""
    it = Chain(lab, sysctl={"net.core.somaxconn": "77", "net.ipv4.conf.eth0.arp_filter": "1", "net.ipv4.no_such": "1"})
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": it.first.container_id, "CNI_NETNS": it.first.netns}
    env |= {"CNI_IFNAME": "eth0", "CNI_PATH": str(lab.plugins.folder), "PATH": PATH, "PYTHONPATH": str(ROOT)}
    was = it.sysctl("net/core/somaxconn")
    done = lab.node.run(python(), "-c", STUBBORN, stdin=json.dumps(it.it.config), env=env, check=False)
    assert done.returncode == 1 and b"no_such" in done.stdout
    assert b"while taking back a failed ADD: cannot set sysctl net/ipv4/conf/eth0/arp_filter to '0'" in done.stdout
    assert (it.sysctl("net/core/somaxconn"), it.sysctl(ARP), it.backup()) == (was, "1", None)


@pytest.mark.usefixtures("own_promise")
def test_two_attachments_whose_files_have_one_name(lab: Lab) -> None:
    """a_b with c, and a with b_c: the second one is refused, and its DEL leaves the first one's file alone."""
    one = lab.added(bridge(V4), container_id="a_b", ifname="c")
    two = lab.added(bridge(V4), container_id="a", ifname="b_c")
    config = {**bridge(), "type": "tuning", "mtu": 1300}
    first = lab.added({**config, "prevResult": one.result}, pod=one.pod, container_id="a_b", ifname="c")
    second = lab.attachment({**config, "prevResult": two.result}, pod=two.pod, container_id="a", ifname="b_c")
    second.call("ADD").refused(999, says="of another attachment, podwire/net/a_b/c")
    second.call("DEL").succeeded()
    first.delete().succeeded()
    assert observe.links(lab.node, pod=one.pod)["c"]["mtu"] == 1500


def test_files_are_for_root_alone(lab: Lab) -> None:
    it = tuned(lab, mtu=1300)
    assert lab.node.path(it.file).stat().st_mode & 0o777 == 0o600
    assert not lab.node.path(FOLDER).stat().st_mode & 0o077


@pytest.mark.usefixtures("own_promise")
def test_what_asks_for_nothing_does_nothing(lab: Lab) -> None:
    it = tuned(lab)
    assert it.it.result == it.first.result
    assert "/run/cni" not in observe.files(lab.node, "/run")
    it.check().succeeded()
    it.delete()


# -- GC, STATUS --


@known("GC and STATUS are of specification 1.1.0, later than 1.1.1 of the plugins.")
def test_gc(lab: Lab) -> None:
    """A plugin SHOULD remove as many stale resources as possible, and nothing that is in use, or another network's."""
    living, dead, gone = (tuned(lab, bridge(V4, version="1.1.0"), mtu=1300) for _ in range(3))
    other = tuned(lab, bridge({**V4, "subnet": "10.20.0.0/24"}, version="1.1.0", name="net2", bridge="other0"), mtu=1300)
    lab.node.remove_pod(gone.first.netns)
    lab.node.path(f"{FOLDER}/unknown_eth0.json").write_text('{"mtu": 1500}')
    lab.node.path(f"{FOLDER}/broken_eth0.json").write_text("{")
    before = set(observe.files(lab.node, FOLDER))
    lab.call("GC", living.config).succeeded()
    assert set(observe.files(lab.node, FOLDER)) == before
    valid = [{"containerID": living.first.container_id, "ifname": "eth0"}]
    lab.call("GC", {**living.config, "cni.dev/valid-attachments": valid}).succeeded()
    assert before - set(observe.files(lab.node, FOLDER)) == {dead.file, gone.file}
    for each in (living, other):
        assert each.backup() is not None
        each.check().succeeded()


@pytest.mark.usefixtures("own_promise")
def test_status(lab: Lab) -> None:
    """STATUS: 50, the plugin is not available."""
    config = {**bridge(version="1.1.0"), "type": "tuning", "mtu": 1300}
    before = lab.snapshot()
    lab.call("STATUS", config).succeeded()
    lab.unchanged_since(before)
    lab.call("STATUS", {**config, "dataDir": "/etc/passwd/tuning"}).refused(50, says="dataDir cannot be used")
    lab.node.sh("mkdir -p /run/cni/tuning; mount -t tmpfs -o ro tmpfs /run/cni/tuning")
    lab.call("STATUS", config).refused(50, says="read-only")
    it = Chain(lab, mtu=1300)
    it.it.call("ADD").refused(999, says="read-only")
    assert it.link()["mtu"] == 1500
    it.it.call("DEL").succeeded()
