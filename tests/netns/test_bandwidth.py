"""bandwidth: limits behind another plugin. What ADD tells and makes, traffic, CHECK, DEL, GC, STATUS."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe, traffic
from tests.netns.conftest import DEFAULT_ROUTES, DUAL, V4, VERSION, bridge, gateway, ptp

if TYPE_CHECKING:
    from tests.harness.plugin import Outcome
    from tests.netns.conftest import Lab

pytestmark = pytest.mark.root

Config = dict[str, Any]

ROUTED = {**DUAL, "routes": DEFAULT_ROUTES}
BRIDGE = bridge(DUAL, isGateway=True)
INGRESS = {"ingressRate": 80_000_000, "ingressBurst": 4_000_000}
EGRESS = {"egressRate": 160_000_000, "egressBurst": 8_000_000}
BOTH = {**INGRESS, **EGRESS}
REFERENCE_IFB = "bwp2c9d881d1924"  # of network dbnet and container abc123

LATE = pytest.mark.known_reference_failure("1.1.0 is later than 1.1.1 of the plugins.")
BLIND = "CHECK compares numbers of tbf only: another qdisc, no qdisc and a missing filter pass."


class Chain:
    """A plugin that makes a veth, and bandwidth behind it, for one container."""

    def __init__(self, lab: Lab, limits: Config, first: Config | None = None, **how: Any) -> None:
        first = ptp(ROUTED) if first is None else first
        self.lab = lab
        self.first = lab.added(first, **how)
        self.config: Config = {"cniVersion": first["cniVersion"], "name": first["name"], "type": "bandwidth", **limits}
        same = {"pod": self.first.pod, "container_id": self.first.container_id, "ifname": self.first.ifname}
        self.shaper = lab.attachment(self.config, **same)

    def call(self, verb: str, config: Config | None = None, prev: Config | None = None, **changes: Any) -> Outcome:
        """A call of bandwidth, with the result that a runtime would give it."""
        given = self.config if config is None else config
        prev = prev or (self.first.result if verb == "ADD" or self.shaper.result is None else self.shaper.result)
        return self.shaper.call(verb, {**given, "prevResult": prev}, **changes)

    def add(self) -> Chain:
        self.shaper.result = self.call("ADD").result()
        return self

    def check(self) -> Outcome:
        return self.call("CHECK")

    def delete(self) -> Outcome:
        return self.call("DEL")

    @property
    def veth(self) -> str:
        return self.first.host_veth

    @property
    def ifb(self) -> str:
        """The one that the veth's filter leads to."""
        [rule] = observe.filters(self.lab.node, self.veth)
        return str(rule["options"]["actions"][0]["to_dev"])

    def root(self, device: str) -> Config:
        """The numbers of a device's token bucket."""
        [found] = [qdisc for qdisc in observe.qdiscs(self.lab.node, device) if qdisc.get("root")]
        assert (found["kind"], found["handle"]) == ("tbf", "7077:" if self.lab.plugins.ours else "1:")
        return dict(found["options"])

    def kinds(self) -> set[str]:
        return {qdisc["kind"] for qdisc in observe.qdiscs(self.lab.node, self.veth)}


def ifbs(lab: Lab) -> set[str]:
    return {name for name, link in observe.links(lab.node).items() if link.get("linkinfo", {}).get("info_kind") == "ifb"}


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", pytest.param("1.1.0", marks=LATE)])
def test_the_result(lab: Lab, version: str) -> None:
    """ADD Success: prevResult, and the ifb as the last interface, which is on the host."""
    it = Chain(lab, BOTH, ptp(ROUTED, version=version)).add()
    before, after = it.first.result, it.shaper.result
    assert before is not None and after is not None
    *others, ifb = after["interfaces"]
    assert others == before["interfaces"]
    assert ifb == {"name": it.ifb, "mac": observe.links(lab.node)[it.ifb]["address"]}
    assert {**after, "interfaces": others} == before


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_results_without_interfaces(lab: Lab, version: str) -> None:
    """The host's end is found without their names."""
    it = Chain(lab, BOTH, ptp(ROUTED, version=version)).add()
    assert it.shaper.result == it.first.result
    assert it.root(it.veth)["rate"] == 10_000_000
    it.call("DEL", it.config).succeeded()
    assert ifbs(lab) == set()


@pytest.mark.parametrize("first", [ptp(ROUTED), BRIDGE, bridge()], ids=["ptp", "bridge", "layer-2"])
def test_what_is_made(lab: Lab, first: Config) -> None:
    """Token buckets of the rates in bytes, the bursts, and 25 ms of waiting; everything from the pod is led to the ifb."""
    it = Chain(lab, BOTH, {**first, "mtu": 1400}).add()
    wanted = {"burst": "500000b/1", "lat": 25000, "limit": 750000, "rate": 10_000_000}
    assert wanted.items() <= it.root(it.veth).items()
    assert {"burst": "1000000b/1", "lat": 25000, "limit": 1_500_000, "rate": 20_000_000}.items() <= it.root(it.ifb).items()
    link = observe.links(lab.node)[it.ifb]
    assert (link["mtu"], "UP" in link["flags"]) == (1400, True)
    [rule] = observe.filters(lab.node, it.veth)
    assert (rule["kind"], rule["protocol"], rule["pref"]) == ("u32", "all", 1)
    assert (rule["options"]["match"]["mask"], rule["options"]["actions"][0]["mirred_action"]) == ("0", "redirect")
    it.check().succeeded()


@pytest.mark.usefixtures("own_promise")
def test_the_ifb_is_labelled(lab: Lab) -> None:
    it = Chain(lab, BOTH).add()
    assert observe.links(lab.node)[it.ifb]["ifalias"] == f"podwire/net/{it.shaper.container_id}/eth0"


def test_names_are_the_references(lab: Lab) -> None:
    """Either suite finds the other's ifb by it."""
    it = Chain(lab, EGRESS, ptp(ROUTED, name="dbnet"), container_id="abc123").add()
    assert it.ifb == REFERENCE_IFB


@pytest.mark.parametrize("limits", [INGRESS, EGRESS], ids=["ingress", "egress"])
def test_one_direction_alone(lab: Lab, limits: Config) -> None:
    it = Chain(lab, limits).add()
    assert it.kinds() == ({"tbf"} if limits is INGRESS else {"ingress"})
    assert len(ifbs(lab)) == (limits is EGRESS)
    it.check().succeeded()


def test_the_runtimes_limits(lab: Lab) -> None:
    """CNI conventions, bandwidth: the capability's shape is that of the keys."""
    it = Chain(lab, {"runtimeConfig": {"bandwidth": BOTH}}).add()
    assert (it.root(it.veth)["rate"], it.root(it.ifb)["rate"]) == (10_000_000, 20_000_000)
    it.check().succeeded()


@pytest.mark.known_reference_failure("An explicit 0 switches runtimeConfig off.")
def test_zero_is_no_limit(lab: Lab) -> None:
    """As a key that is not there: the runtime's limits hold."""
    zero = dict.fromkeys(BOTH, 0)
    it = Chain(lab, {**zero, "runtimeConfig": {"bandwidth": BOTH}}).add()
    assert (it.root(it.veth)["rate"], it.root(it.ifb)["rate"]) == (10_000_000, 20_000_000)


@pytest.mark.known_reference_failure("Any key of the configuration switches all of runtimeConfig off.")
def test_each_direction_on_its_own(lab: Lab) -> None:
    """What the configuration limits is its own; the other direction is the runtime's."""
    runtime = {"bandwidth": {**INGRESS, "egressRate": 8_000_000, "egressBurst": 800_000}}
    it = Chain(lab, {**EGRESS, "runtimeConfig": runtime})
    done = it.call("ADD")
    done.result()
    assert b"runtimeConfig.bandwidth.egressRate has no effect: the configuration has egressRate" in done.stderr
    assert (it.root(it.veth)["rate"], it.root(it.ifb)["rate"]) == (10_000_000, 20_000_000)


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({}, marks=pytest.mark.known_reference_failure("CHECK without any limit crashes.")),
        *(dict.fromkeys(BOTH, 0), {"runtimeConfig": {"bandwidth": {}}}),
    ],
    ids=str,
)
def test_without_limits(lab: Lab, limits: Config) -> None:
    """Nothing is done, and nothing looked at: a pod without a veth is served."""
    it = Chain(lab, limits)
    before = lab.snapshot()
    assert it.call("ADD").result() == it.first.result
    lab.unchanged_since(before)
    it.check().succeeded()
    it.delete().succeeded()
    lab.unchanged_since(before)


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("verb", ["ADD", "CHECK"])
@pytest.mark.parametrize("limits", [{}, BOTH], ids=["no-limits", "limits"])
def test_without_prev_result(lab: Lab, verb: str, limits: Config) -> None:
    it = Chain(lab, limits)
    it.shaper.call(verb, it.config).refused(7, says="required prevResult missing")


HUGE = {"ingressRate": 40_000_000_000, "ingressBurst": 400_000_000}


@pytest.mark.parametrize(
    ("limits", "rate", "burst", "limit"),
    [
        (HUGE, 5_000_000_000, "50000000b", 175_000_000),
        ({"ingressRate": 800, "ingressBurst": 200}, 100, "25b", 27),
        ({"ingressRate": 8, "ingressBurst": 8}, 1, "1b", 1),
        pytest.param(
            {"ingressRate": 80_000_000_000, "ingressBurst": 2400},
            10_000_000_000,
            "",
            250_000_300,
            marks=pytest.mark.known_reference_failure("A burst of less than 1 µs becomes 0, which the kernel refuses."),
        ),
    ],
    ids=str,
)
def test_small_and_large_numbers(lab: Lab, limits: Config, rate: int, burst: str, limit: int) -> None:
    """A rate of more than 4 GB/s, too."""
    it = Chain(lab, limits).add()
    seen = it.root(it.veth)
    assert (seen["rate"], seen.get("limit", limit)) == (rate, limit)
    assert not burst or seen["burst"].startswith(burst)
    it.check().succeeded()


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        pytest.param(
            {"ingressRate": 7, "ingressBurst": 800},
            "ingressRate 7: expected 8 to",
            marks=pytest.mark.known_reference_failure("CHECK passes without the token bucket that ADD could not make."),
        ),
        ({"ingressRate": 800}, "ingressRate is given without ingressBurst"),
        ({"egressBurst": 800}, "egressBurst is given without egressRate"),
        pytest.param(
            {"egressRate": 800, "egressBurst": 7},
            "egressBurst 7: expected 8 to 34359738359 bits",
            marks=pytest.mark.known_reference_failure("A failed ADD leaves the ifb and the ingress qdisc."),
        ),
        ({"egressRate": 800, "egressBurst": 1 << 35}, "egressBurst 34359738368: expected"),
        ({"egressRate": 1 << 64, "egressBurst": 800}, "egressRate 18446744073709551616: expected"),
        ({"egressRate": -8, "egressBurst": 800}, "egressRate -8: expected"),
        ({"runtimeConfig": {"bandwidth": {"egressRate": 800}}}, "runtimeConfig.bandwidth.egressRate is given without"),
        ({"egressRate": "1M"}, "egressRate"),
        ({"egressRate": 1.5}, "egressRate"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(lab: Lab, limits: Config, says: str) -> None:
    """Limits that no kernel could keep are errors of ADD and of CHECK, and nothing is left."""
    it = Chain(lab, limits)
    before = lab.snapshot()
    it.call("ADD").refused(7, says=says)
    lab.unchanged_since(before)
    it.check().refused(7, says=says)


@pytest.mark.usefixtures("own_promise")
def test_unknown_keys_are_noted(lab: Lab) -> None:
    """One version of the reference knew these."""
    done = Chain(lab, {**BOTH, "unshapedSubnets": ["10.0.0.0/8"], "runtimeConfig": {"bandwidth": {"egresRate": 1}}}).call("ADD")
    done.result()
    assert b"'unshapedSubnets' of the configuration is not known" in done.stderr
    assert b"did you mean 'egressRate'?" in done.stderr


@pytest.mark.usefixtures("own_promise")
def test_a_burst_less_than_a_packet_is_noted(lab: Lab) -> None:
    done = Chain(lab, {"ingressRate": 800_000, "ingressBurst": 8000}).call("ADD")
    done.result()
    assert b"ingressBurst 8000 is less than the 12112 bits of a packet of MTU 1500: larger packets are dropped" in done.stderr


def test_only_veths(lab: Lab) -> None:
    """A link without another end on the host cannot be limited there."""
    it = Chain(lab, BOTH)
    lab.node.sh("ip link add up0 type veth peer name up1; ip link add mv0 link up0 type macvlan")
    lab.node.sh(f"ip link set mv0 netns {it.first.pod} name other0")
    before = lab.snapshot()
    it.call("ADD", ifname="other0").refused(7, says="is of kind 'macvlan'.*bandwidth limits veths")
    it.call("ADD", ifname="none0").refused(7, says="there is no interface none0")
    lab.unchanged_since(before)


@pytest.mark.usefixtures("own_promise")
def test_the_other_end_elsewhere(lab: Lab) -> None:
    """Its index may be another link's here."""
    it = Chain(lab, BOTH)
    third = lab.node.pod().rpartition("/")[2]
    lab.node.sh(f"ip -n {it.first.pod} link add away0 type veth peer name far0 netns {third}")
    before = lab.snapshot()
    it.call("ADD", ifname="away0").refused(7, says="the other end of away0 is not in the host's namespace")
    lab.unchanged_since(before)


@pytest.mark.usefixtures("own_promise")
def test_the_other_end_elsewhere_with_the_index_of_a_veth_here(lab: Lab) -> None:
    """A third namespace has the other end, and the host a veth that both indexes fit: it is another pod's."""
    lab.node.pod("one")
    other, third = (lab.node.pod().rpartition("/")[2] for _ in range(2))
    lab.node.sh(
        "ip link add here0 index 77 type veth peer name eth0 index 2 netns one; ip link set here0 up;"
        f"ip -n {third} link add there0 index 77 type veth peer name eth0 index 2 netns {other};"
        "tc qdisc add dev here0 root handle 7077: tbf rate 8mbit burst 100000 latency 25ms"
    )
    prev = {"cniVersion": VERSION, "interfaces": [{"name": "eth0", "sandbox": f"/run/netns/{other}"}]}
    it = lab.attachment({"cniVersion": VERSION, "name": "net", "type": "bandwidth", **BOTH, "prevResult": prev}, pod=other)
    before = observe.qdiscs(lab.node, "here0"), observe.links(lab.node)
    it.call("ADD").refused(7, says="the other end of eth0 is not in the host's namespace")
    it.call("DEL").succeeded()
    it.call("ADD", {"cniVersion": VERSION, "name": "net", "type": "bandwidth", "prevResult": prev}).succeeded()
    assert (observe.qdiscs(lab.node, "here0"), observe.links(lab.node)) == before


@pytest.mark.usefixtures("own_promise")
def test_the_veth_of_another_network(lab: Lab) -> None:
    """Whose it is is told."""
    it = Chain(lab, BOTH)
    says = f"eth0 is of another attachment, podwire/net/{it.first.container_id}/eth0"
    it.call("ADD", {**it.config, "name": "other"}).refused(7, says=says)
    it.add().call("DEL", {**it.config, "name": "other"}).succeeded()
    it.check().succeeded()


ADMINISTRATORS = "tc qdisc add dev {veth} root handle 1: tbf rate 5mbit burst 100k latency 25ms"


def test_an_administrators_limit_stays(lab: Lab) -> None:
    """A token bucket is not ours by its kind, nor by a handle that many give: not for DEL, not for an ADD without limits."""
    it = Chain(lab, {})
    lab.node.sh(ADMINISTRATORS.format(veth=it.veth) + f"; tc qdisc add dev {it.veth} ingress")
    before = lab.snapshot()
    it.add().delete().succeeded()
    lab.unchanged_since(before)


@pytest.mark.usefixtures("own_promise")
def test_the_references_bucket(lab: Lab) -> None:
    """It is known by its numbers; an ADD replaces it, a DEL takes it."""
    it = Chain(lab, INGRESS)
    before = lab.snapshot()
    references = f"tc qdisc add dev {it.veth} root handle 1: tbf rate 80mbit burst 500000 limit 750000"
    lab.node.sh(references)
    it.call("DEL", {**it.config, "ingressRate": 40_000_000}).succeeded()
    assert it.kinds() == {"tbf"}
    it.delete().succeeded()
    lab.unchanged_since(before)
    lab.node.sh(references)
    it.add().check().succeeded()
    assert it.root(it.veth)["rate"] == 10_000_000


@pytest.mark.known_reference_failure("ADD without limits leaves those of an earlier one.")
@pytest.mark.parametrize("first", [INGRESS, EGRESS, BOTH], ids=["ingress", "egress", "both"])
def test_a_repeated_add_without_limits(lab: Lab, first: Config) -> None:
    """The link is as this ADD says, without those of the one before."""
    it = Chain(lab, first)
    before = lab.snapshot()
    it.add()
    without = {key: value for key, value in it.config.items() if key not in BOTH}
    assert it.call("ADD", without).result() == it.first.result
    lab.unchanged_since(before)


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize(
    ("limits", "what"),
    [
        (INGRESS, "tc qdisc add dev {veth} root handle 5: pfifo limit 100"),
        (INGRESS, ADMINISTRATORS),
        (EGRESS, "tc qdisc add dev {veth} ingress"),
        (EGRESS, "tc qdisc add dev {veth} clsact"),
        (
            EGRESS,
            "tc qdisc add dev {veth} ingress; tc filter add dev {veth} parent ffff: u32 match ip dst 10.0.0.9 flowid 1:9",
        ),
    ],
    ids=["root", "tbf", "ingress", "clsact", "filters"],
)
def test_what_others_made_is_not_replaced(lab: Lab, limits: Config, what: str) -> None:
    it = Chain(lab, limits)
    lab.node.sh(what.format(veth=it.veth))
    before = lab.snapshot()
    it.call("ADD").refused(999, says="of somebody else's")
    lab.unchanged_since(before)
    it.delete().succeeded()
    lab.unchanged_since(before)


@pytest.mark.usefixtures("own_promise")
def test_add_can_be_repeated(lab: Lab) -> None:
    """As after a crash: what is there is replaced, with the numbers of now."""
    it = Chain(lab, BOTH).add()
    again = Chain.call(it, "ADD", {**it.config, "ingressRate": 40_000_000}).result()
    assert again == it.shaper.result
    assert (it.root(it.veth)["rate"], len(ifbs(lab))) == (5_000_000, 1)
    lab.node.sh(f"ip link del {it.ifb}")
    it.add().check().succeeded()
    lab.node.sh(f"tc filter del dev {it.veth} parent ffff:")
    it.add().check().succeeded()
    it.delete().succeeded()
    assert (it.kinds(), ifbs(lab)) == (set(), set())


@pytest.mark.known_reference_failure("The ifb's name leaves the interface out: the second interface fails (P#151).")
def test_two_interfaces_of_a_container(lab: Lab) -> None:
    """An attachment is container and interface: two of one container on one network are limited each on its own."""
    one = Chain(lab, EGRESS).add()
    two = Chain(lab, EGRESS, pod=one.first.pod, container_id=one.first.container_id, ifname="net1").add()
    assert one.ifb != two.ifb
    for gone, stays in ((one, two), (two, None)):
        gone.delete().succeeded()
        if stays is not None:
            stays.check().succeeded()
    assert ifbs(lab) == set()


@pytest.mark.known_reference_failure("The ifb's name is a hash of network and container without anything between them.")
def test_names_that_are_one_when_put_together(lab: Lab) -> None:
    """Networks and containers have nothing to do with each other because their names, put together, are the same text."""
    one = Chain(lab, EGRESS, ptp(ROUTED, name="a"), container_id="bc").add()
    two = Chain(lab, EGRESS, ptp({**V4, "subnet": "10.20.0.0/24"}, name="ab"), container_id="c").add()
    assert one.ifb != two.ifb
    two.delete().succeeded()
    one.check().succeeded()


# -- traffic --

# Takes what comes for a while, and prints how many bytes came in how many seconds.
SINK = """
import json, socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.create_server((sys.argv[1], 5001), family=family)
print(json.dumps("ready"), flush=True)
while True:
    connection, _ = s.accept()
    count, begin = 0, time.monotonic()
    while data := connection.recv(1 << 16):
        count += len(data)
    print(json.dumps([count, time.monotonic() - begin]), flush=True)
"""
SEND = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], 5001))
until, data = time.monotonic() + float(sys.argv[2]), bytes(1 << 14)
while time.monotonic() < until:
    s.sendall(data)
"""


def speed(lab: Lab, target: str, *, to: str | None, source: str | None) -> float:
    """Bits a second that TCP gets through in a second."""
    assert lab.node.pings(target, pod=source), f"{target} does not answer"
    sink = traffic.start(lab.node, SINK, target, pod=to)
    lab.node.run(sys.executable, "-I", "-S", "-c", SEND, target, "1", pod=source)
    told = traffic.read(sink, seconds=20)
    sink.kill()
    assert told, "the server saw no end of the transfer"
    count, seconds = told
    return float(count * 8 / seconds)


SPEEDS = {"ingressRate": 20_000_000, "ingressBurst": 1_000_000, "egressRate": 40_000_000, "egressBurst": 2_000_000}


def ways(it: Chain, index: int) -> dict[str, tuple[str, str | None, str | None]]:
    """For each direction the address to send to, and the namespaces of receiver and sender."""
    host = ("10.10.0.1", "fd00:10::1")[index]
    return {"ingress": (it.first.addresses[index], it.first.pod, None), "egress": (host, None, it.first.pod)}


@pytest.mark.parametrize(("first", "index"), [(ptp(ROUTED), 0), (ptp(ROUTED), 1), (BRIDGE, 0)], ids=["ipv4", "ipv6", "bridge"])
def test_traffic(lab: Lab, first: Config, index: int) -> None:
    """Each direction has its own speed."""
    it = Chain(lab, SPEEDS, first).add()
    for name, (target, to, source) in ways(it, index).items():
        seen, rate = speed(lab, target, to=to, source=source), SPEEDS[f"{name}Rate"]
        assert 0.5 * rate <= seen <= 1.3 * rate, f"{name}: {seen / 1e6:.1f} Mbit/s, limited to {rate / 1e6}"


@pytest.mark.usefixtures("own_promise")
def test_traffic_after_del(lab: Lab) -> None:
    """The reference leaves the veth limited towards the pod, and what the pod sends is led to a link that is gone."""
    it = Chain(lab, SPEEDS).add()
    it.delete().succeeded()
    for name, (target, to, source) in ways(it, 0).items():
        assert speed(lab, target, to=to, source=source) > 2 * SPEEDS[f"{name}Rate"], f"{name} is still limited"


# -- CHECK --

CHANGE = "tc qdisc change dev {} root tbf rate {}mbit burst {} limit {}"
NO_FILTER = "tc filter del dev {veth} parent ffff:"
LEAD = "tc filter add dev {veth} parent ffff: protocol"

# what is done, what the message says, whether the reference sees it
DAMAGE: dict[str, tuple[str, str, bool]] = {
    "bucket-gone": ("tc qdisc del dev {veth} root", "{veth} has no rate limit", False),
    "another-qdisc": ("tc qdisc replace dev {veth} root handle 7: pfifo limit 9", "no rate limit but a qdisc pfifo", False),
    "rate": (CHANGE.format("{veth}", 1, 500_000, 750_000), "rate limit of 1000000 bits a second, expected", True),
    "burst": (CHANGE.format("{veth}", 80, 400_000, 750_000), "{veth} has a burst of 3200000 bits, expected 4000000", True),
    "limit": (CHANGE.format("{veth}", 80, 500_000, 600_000), "{veth} lets 600000 bytes wait, expected 750000", True),
    "ifb-gone": ("ip link del {ifb}", "the ifb {ifb} is gone", True),
    "ifb-down": ("ip link set {ifb} down", "{ifb} is down", False),
    "ifb-rate": (CHANGE.format("{ifb}", 1, 1_000_000, 1_500_000), "rate limit of 1000000 bits a second, expected", True),
    "ifb-bucket-gone": ("tc qdisc del dev {ifb} root", "{ifb} has no rate limit", False),
    "ingress-gone": (
        "tc qdisc del dev {veth} ingress",
        "what comes in by {veth} is not redirected to {ifb}: nothing limits what the pod sends",
        False,
    ),
    "filter-gone": (NO_FILTER, "is not redirected to {ifb}", False),
    "another-target": (
        f"{NO_FILTER}; ip link add ifb9 type ifb; {LEAD} all u32 match u32 0 0 action mirred egress redirect dev ifb9",
        "is not redirected to {ifb}",
        False,
    ),
    "part-of-it": (
        f"{NO_FILTER}; {LEAD} ip u32 match ip dst 10.0.0.9 action mirred egress redirect dev {{ifb}}",
        "is not redirected to {ifb}",
        False,
    ),
    "interface-gone": ("ip -n {pod} link del eth0", "interface eth0 is gone from the sandbox", True),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if seen else [pytest.mark.known_reference_failure(BLIND)])
        for name, (_, _, seen) in DAMAGE.items()
    ],
)
def test_check_sees(lab: Lab, name: str) -> None:
    """CHECK: the plugin MUST return an error if a resource it made is missing or in an invalid state."""
    what, says, _ = DAMAGE[name]
    it = Chain(lab, BOTH).add()
    it.check().succeeded()
    words = {"veth": it.veth, "ifb": it.ifb, "pod": it.first.pod}
    lab.node.sh(what.format(**words))
    it.check().refused(999, says=says.format(**words))


def test_check_looks_at_what_is_limited_only(lab: Lab) -> None:
    it = Chain(lab, INGRESS).add()
    lab.node.sh(f"tc qdisc add dev {it.veth} ingress")
    it.check().succeeded()


def test_check_of_the_plugin_before(lab: Lab) -> None:
    """It gets the result with the ifb in it, and so does its DEL."""
    other = {**V4, "subnet": "10.20.0.0/24"}
    for first in (ptp(ROUTED, name="one", ipMasq=True), gateway(other, name="two")):
        it = Chain(lab, BOTH, first).add()
        assert it.shaper.result is not None
        it.first.check(it.shaper.result).succeeded()
        it.delete().succeeded()
        it.first.call("DEL", {**it.first.config, "prevResult": it.shaper.result}).succeeded()
        assert it.first.leftovers(first["name"]) == []
        assert ifbs(lab) == set()


# -- DEL --

GONE = {
    "nothing": "true",
    "pod": "",
    "link": "ip -n {pod} link del eth0",
    "ifb": "ip link del {ifb}",
    "buckets": "tc qdisc del dev {veth} root; tc qdisc del dev {ifb} root",
    "ingress": "tc qdisc del dev {veth} ingress",
    "filter": "tc filter del dev {veth} parent ffff:",
}


@pytest.mark.parametrize("prev", [True, False], ids=["prev-result", "no-prev-result"])
@pytest.mark.parametrize("gone", GONE)
def test_del(lab: Lab, gone: str, prev: bool) -> None:
    """DEL: plugins should complete without error even if some resources are missing. A second one is fine, too."""
    other = Chain(lab, BOTH).add()
    before = lab.snapshot()
    it = Chain(lab, BOTH).add()
    if gone == "pod":
        lab.node.remove_pod(it.first.netns)
    else:
        lab.node.sh(GONE[gone].format(pod=it.first.pod, veth=it.veth, ifb=it.ifb))
    for _ in range(2):
        (it.delete() if prev else it.shaper.call("DEL", it.config)).succeeded()
    it.first.delete().succeeded()
    assert it.shaper.leftovers() == []
    assert ifbs(lab) == {other.ifb}
    other.check().succeeded()
    told = [line for line in observe.difference(before, lab.snapshot()) if "qdisc" in line or "filter" in line]
    assert told == []


@pytest.mark.known_reference_failure("DEL leaves the token bucket and the ingress qdisc on a veth that stays.")
def test_del_of_bandwidth_alone(lab: Lab) -> None:
    """The veth is as the plugin before made it."""
    it = Chain(lab, BOTH)
    before = lab.snapshot()
    it.add().delete().succeeded()
    lab.unchanged_since(before)


@pytest.mark.parametrize("changes", [{"netns": ""}, {"netns": "/run/netns/gone"}, {"netns": "/etc/passwd"}], ids=str)
@pytest.mark.usefixtures("own_promise")
def test_del_without_the_sandbox(lab: Lab, changes: Config) -> None:
    """The veth is found by its label."""
    it = Chain(lab, BOTH)
    before = lab.snapshot()
    it.add().call("DEL", **changes).succeeded()
    lab.unchanged_since(before)


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize(
    "keys", [{"ingressRate": 3}, {"egressRate": "much"}, {"runtimeConfig": []}, {"runtimeConfig": {"bandwidth": 7}}], ids=str
)
def test_del_whatever_the_configuration_says(lab: Lab, keys: Config) -> None:
    it = Chain(lab, BOTH)
    before = lab.snapshot()
    it.add().call("DEL", {"cniVersion": VERSION, "name": "net", "type": "bandwidth", **keys}).succeeded()
    lab.unchanged_since(before)


@pytest.mark.usefixtures("own_promise")
def test_del_leaves_what_is_not_ours(lab: Lab) -> None:
    """A link with the name of an ifb, filters that somebody added, the ifb of another interface."""
    it = Chain(lab, BOTH, container_id="c").add()
    name = it.ifb
    lab.node.sh(f"tc filter add dev {it.veth} parent ffff: prio 9 protocol ip u32 match ip dst 10.0.0.9 flowid 1:9")
    it.delete().succeeded()
    assert it.kinds() == {"ingress"}
    lab.node.sh(f"ip link add {name} type bridge; ip link set {name} up")
    it.delete().succeeded()
    assert name in observe.links(lab.node)


# -- GC, STATUS --


@LATE
def test_gc(lab: Lab) -> None:
    """A plugin SHOULD remove as many stale resources as possible, and nothing that is in use, or another's."""
    living, dead, gone = (Chain(lab, BOTH, ptp(ROUTED, version="1.1.0")).add() for _ in range(3))
    other = Chain(lab, BOTH, ptp({**V4, "subnet": "10.20.0.0/24"}, version="1.1.0", name="net2")).add()
    first = living.ifb
    keep = {first, other.ifb, "bwp0123456789ab"}
    lab.node.remove_pod(gone.first.netns)
    lab.node.sh("ip link add bwp0123456789ab type ifb")
    valid = [{"containerID": living.first.container_id, "ifname": "eth0"}]
    lab.call("GC", living.config).succeeded()
    assert len(ifbs(lab)) == 5
    lab.call("GC", {**living.config, "cni.dev/valid-attachments": valid}).succeeded()
    assert ifbs(lab) == keep
    assert dead.veth in observe.links(lab.node), "the veth is the other plugin's"
    living.check().succeeded()
    lab.call("GC", {**living.config, "cni.dev/valid-attachments": []}).succeeded()
    assert ifbs(lab) == keep - {first}


@LATE
def test_status(lab: Lab) -> None:
    """Asking changes nothing. What the kernel lacks is in tests/unit."""
    before = lab.snapshot()
    for limits in ({}, INGRESS, EGRESS):
        lab.call("STATUS", {"cniVersion": "1.1.0", "name": "net", "type": "bandwidth", **limits}).succeeded()
    lab.unchanged_since(before)
    if lab.plugins.ours:
        lab.call("STATUS", {"cniVersion": "1.1.0", "name": "net", "type": "bandwidth", "ingressRate": 8}).refused(7)


def test_version(lab: Lab) -> None:
    told = lab.plugins.call("VERSION", "bandwidth", {"cniVersion": VERSION}, node=lab.node).succeeded().json
    assert {"0.3.0", "0.3.1", "0.4.0", "1.0.0"} <= set(told["supportedVersions"])
