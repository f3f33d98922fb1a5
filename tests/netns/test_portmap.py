"""portmap: published ports. What reaches a pod and as whom, who has a port, what is left; judged by packets and by nft."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe, traffic
from tests.harness.node import NODE_V4, NODE_V6, OUTSIDE, OUTSIDE_V4, OUTSIDE_V6
from tests.netns.conftest import BACKENDS, DEFAULT_ROUTES, DUAL, VERSION, gateway, ptp

if TYPE_CHECKING:
    from tests.netns.conftest import Chain, Config, Lab

pytestmark = pytest.mark.root

TABLE = "podwire_portmap"
ROUTED = {**DUAL, "routes": DEFAULT_ROUTES}
MAINS: dict[str, Config] = {"bridge": gateway(DUAL, hairpinMode=True), "ptp": ptp(ROUTED)}

NO_CHECK = "CHECK looks for the rules of IPv4 in the chain of IPv6, and fails."


def portmap(*mappings: tuple[int, int] | dict[str, Any], version: str = VERSION, name: str = "net", **keys: Any) -> Config:
    """A portmap configuration with mappings as (hostPort, containerPort), TCP, or as the runtime's own."""
    told = [{"hostPort": it[0], "containerPort": it[1], "protocol": "tcp"} if isinstance(it, tuple) else it for it in mappings]
    found: Config = {"cniVersion": version, "name": name, "type": "portmap", "capabilities": {"portMappings": True}, **keys}
    return {**found, "runtimeConfig": {"portMappings": told}} if told else found


def published(lab: Lab, main: str, *mappings: tuple[int, int] | dict[str, Any], **keys: Any) -> Chain:
    """A pod on a network with published ports."""
    name = keys.get("name", "net")
    return lab.chained({**MAINS[main], "name": name}, portmap(*mappings, **keys))


def serve(chain: Chain, port: int, protocol: str = "tcp") -> None:
    """Start a server in the pod, at its addresses of both families."""
    for address in chain.first.addresses:
        traffic.start(chain.first.lab.node, traffic.SERVE, address, str(port), protocol, pod=chain.first.pod)


def claims(lab: Lab) -> dict[str, str]:
    """Who has which port by our table: host address, protocol and port as nft prints them, and the owner's label."""
    found = {}
    for entry in json.loads(lab.node.run("nft", "-j", "list", "ruleset").stdout)["nftables"]:
        body = entry.get("map", {})
        if body.get("table") == TABLE and body["name"].startswith("claims"):
            for element, _ in body.get("elem", []):
                found[" ".join(map(str, element["elem"]["val"]["concat"]))] = element["elem"]["comment"]
    return found


@pytest.mark.known_reference_failure(NO_CHECK)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("main", MAINS)
def test_who_reaches_a_published_port(lab: Lab, main: str, backend: str) -> None:
    """From outside, from the node at each of its addresses and 127.0.0.1, from another pod, and the pod from itself; who is
    outside is seen as who they are.
    """
    lab.node.outside()
    it = published(lab, main, (8080, 80), backend=backend)
    other = lab.added(MAINS[main])
    serve(it, 80)
    for target, source in ((NODE_V4, OUTSIDE_V4), (NODE_V6, OUTSIDE_V6)):
        assert traffic.reached(lab.node, target, 8080, pod=OUTSIDE) == source
        assert traffic.reached(lab.node, target, 8080), f"the node does not reach itself at {target}"
        assert traffic.reached(lab.node, target, 8080, pod=other.pod), f"another pod does not reach {target}"
        assert traffic.reached(lab.node, target, 8080, pod=it.first.pod), f"the pod does not reach itself by {target}"
    assert traffic.reached(lab.node, "127.0.0.1", 8080), "not from 127.0.0.1"
    it.check()
    it.delete()
    for target in (NODE_V4, NODE_V6):
        assert traffic.reached(lab.node, target, 8080, pod=OUTSIDE, seconds=0.3) is None
    assert it.first.leftovers() == []


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("main", MAINS)
def test_with_br_netfilter(lab: Lab, main: str) -> None:
    """Kubernetes has bridged packets seen by the packet filter: neighbours still reach each other by a port of the node."""
    lab.node.outside()
    if not lab.node.path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists():
        pytest.skip("this kernel has no br_netfilter")
    lab.node.sh("echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables; echo 1 > /proc/sys/net/bridge/bridge-nf-call-ip6tables")
    it, other = published(lab, main, (8080, 80)), lab.added(MAINS[main])
    serve(it, 80)
    for target in (NODE_V4, NODE_V6):
        assert traffic.reached(lab.node, target, 8080, pod=other.pod)


@pytest.mark.known_reference_failure(NO_CHECK)
@pytest.mark.parametrize("backend", BACKENDS)
def test_protocols(lab: Lab, backend: str) -> None:
    """Each protocol has ports of its own: one number leads to three."""
    lab.node.outside()
    mappings = [
        {"hostPort": 9000, "containerPort": 90 + at, "protocol": name} for at, name in enumerate(("tcp", "udp", "sctp"))
    ]
    it = published(lab, "bridge", *mappings, backend=backend)
    for mapping in mappings:
        name, port = str(mapping["protocol"]), int(str(mapping["containerPort"]))
        if name == "sctp" and not has_sctp(lab):
            continue  # its lookup is compared by nft below
        serve(it, port, name)
        assert traffic.reached(lab.node, NODE_V4, 9000, name, pod=OUTSIDE) == OUTSIDE_V4, name
        assert traffic.reached(lab.node, NODE_V6, 9000, name, pod=OUTSIDE) == OUTSIDE_V6, name
    it.check()


def has_sctp(lab: Lab) -> bool:
    """Whether the kernel has SCTP sockets."""
    return lab.node.run("python3", "-c", "import socket; socket.socket(2, 1, 132)", check=False).returncode == 0


@pytest.mark.usefixtures("own_promise")
def test_ports_are_elements(lab: Lab) -> None:
    """The number of rules does not depend on the number of pods and ports."""
    one = published(lab, "bridge", (8080, 80))
    rules = [entry for entry in observe.ruleset(lab.node) if "rule" in entry]
    two = published(lab, "bridge", (8081, 80), (8082, 81), {"hostPort": 53, "containerPort": 53, "protocol": "sctp"})
    assert [entry for entry in observe.ruleset(lab.node) if "rule" in entry] == rules
    owner = f"podwire/net/{two.first.container_id}/eth0"
    assert {key: label for key, label in claims(lab).items() if label == owner} == {
        f"{host} {port}": owner for host, port in itertools.product(("0.0.0.0", "::"), ("tcp 8081", "tcp 8082", "sctp 53"))
    }
    two.delete()
    assert set(claims(lab).values()) == {f"podwire/net/{one.first.container_id}/eth0"}


@pytest.mark.known_reference_failure(NO_CHECK)
@pytest.mark.parametrize("backend", BACKENDS)
def test_at_one_address_of_the_host(lab: Lab, backend: str) -> None:
    """hostIP: only what is sent to this address."""
    lab.node.outside()
    lab.node.sh(f"ip addr add 198.51.100.7/24 dev {uplink(lab)}")
    it = published(
        lab, "bridge", {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": NODE_V4}, backend=backend
    )
    serve(it, 80)
    assert traffic.reached(lab.node, NODE_V4, 8080, pod=OUTSIDE) == OUTSIDE_V4
    assert traffic.reached(lab.node, "198.51.100.7", 8080, pod=OUTSIDE, seconds=0.3) is None
    assert traffic.reached(lab.node, NODE_V6, 8080, pod=OUTSIDE, seconds=0.3) is None
    it.check()
    it.delete()
    assert it.first.leftovers() == []


def uplink(lab: Lab) -> str:
    """The node's link that has its address."""
    return next(link["ifname"] for link in observe.ip(lab.node, "addr") if NODE_V4 in json.dumps(link))


def test_what_is_for_others_is_left_alone(lab: Lab) -> None:
    """A pod that connects to that port of somebody outside reaches them, and not the pod (GHSA-jv3w-x3r3-g6rm)."""
    lab.node.outside()
    it, other = published(lab, "bridge", (8080, 80)), lab.added(gateway(DUAL, ipMasq=True))
    serve(it, 80)
    traffic.start(lab.node, traffic.SERVE, OUTSIDE_V4, "8080", "tcp", pod=OUTSIDE)
    assert traffic.reached(lab.node, OUTSIDE_V4, 8080, pod=other.pod) == NODE_V4
    assert traffic.reached(lab.node, OUTSIDE_V4, 8080) == NODE_V4


@pytest.mark.known_reference_failure("masqAll is later than 1.1.1 of the plugins.")
@pytest.mark.parametrize("backend", BACKENDS)
def test_masq_all(lab: Lab, backend: str) -> None:
    """masqAll: everybody is seen as the node."""
    lab.node.outside()
    it = published(lab, "bridge", (8080, 80), masqAll=True, backend=backend)
    serve(it, 80)
    assert traffic.reached(lab.node, NODE_V4, 8080, pod=OUTSIDE) == "10.10.0.1"
    assert traffic.reached(lab.node, NODE_V6, 8080, pod=OUTSIDE) == "fd00:10::1"
    assert traffic.reached(lab.node, "127.0.0.1", 8080) == "10.10.0.1"
    it.check()


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_snat(lab: Lab, backend: str) -> None:
    """snat false: nothing is masqueraded, and the kernel's sysctl stays as it is."""
    lab.node.outside()
    it = published(lab, "bridge", (8080, 80), snat=False, backend=backend)
    serve(it, 80)
    assert traffic.reached(lab.node, NODE_V4, 8080, pod=OUTSIDE) == OUTSIDE_V4
    assert lab.node.sysctl("net/ipv4/conf/cni0/route_localnet") == "0"
    assert traffic.reached(lab.node, "127.0.0.1", 8080, seconds=0.3) is None


def datagram() -> str:
    """A UDP datagram to 10.10.0.1 port 7001 from 127.0.0.5, with its IP header, as hexadecimal digits."""
    udp = (40000).to_bytes(2, "big") + (7001).to_bytes(2, "big") + (9).to_bytes(2, "big") + bytes(2) + b"x"
    header = bytes((0x45, 0)) + (20 + len(udp)).to_bytes(2, "big") + bytes(4) + bytes((64, 17, 0, 0))
    return (header + bytes((127, 0, 0, 5)) + bytes((10, 10, 0, 1)) + udp).hex()


FORGED = datagram()


@pytest.mark.usefixtures("own_promise")
def test_services_of_the_node_alone_stay_so(lab: Lab) -> None:
    """A pod that sends to 127.0.0.1 by its link reaches nothing of the node, though the kernel was told to take such packets
    (CVE-2020-8558).
    """
    it, other = published(lab, "bridge", (8080, 80)), lab.added(gateway(DUAL))
    serve(it, 80)
    traffic.start(lab.node, traffic.SERVE, "127.0.0.1", "7000", "udp")
    assert traffic.reached(lab.node, "127.0.0.1", 7000, "udp"), "the node itself reaches it"
    lab.node.sh(
        "ip route add 127.0.0.1/32 via 10.10.0.1; echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet",
        pod=other.pod,
    )
    assert lab.node.sysctl("net/ipv4/conf/cni0/route_localnet") == "1"
    assert traffic.reached(lab.node, "127.0.0.1", 7000, "udp", pod=other.pod, seconds=0.5) is None
    forged = "import socket; s = socket.socket(2, 3, 17); s.setsockopt(0, 3, 1); s.sendto(bytes.fromhex(%r), ('10.10.0.1', 0))"
    server = traffic.start(lab.node, traffic.ECHO_SOURCE, "10.10.0.1", "7001")
    lab.node.run("python3", "-c", forged % FORGED, pod=other.pod)
    assert traffic.read(server) is None, "sent from 127.0.0.5"
    rule = "inet podwire_portmap guard"
    lab.node.run("nft", "flush", "chain", *rule.split())
    assert traffic.reached(lab.node, "127.0.0.1", 7000, "udp", pod=other.pod), "this test has no teeth"
    lab.node.run("python3", "-c", forged % FORGED, pod=other.pod)
    assert traffic.read(server, 2) == "127.0.0.5", "nor has this"


CONDITIONS = {
    "nftables": ["ip", "saddr", OUTSIDE_V4],
    "iptables": ["-s", OUTSIDE_V4],
}


@pytest.mark.known_reference_failure(NO_CHECK)
@pytest.mark.parametrize("backend", BACKENDS)
def test_conditions(lab: Lab, backend: str) -> None:
    """conditionsV4: only packets that match, too; of this network's ports alone."""
    lab.node.outside()
    it = published(lab, "bridge", (8080, 80), conditionsV4=CONDITIONS[backend])
    free = published(lab, "bridge", (8081, 80), backend=backend)
    for chain in (it, free):
        serve(chain, 80)
    assert traffic.reached(lab.node, NODE_V4, 8080, pod=OUTSIDE) == OUTSIDE_V4
    assert traffic.reached(lab.node, NODE_V4, 8080, seconds=0.3) is None
    assert traffic.reached(lab.node, NODE_V4, 8081)
    for chain in (it, free):
        chain.check()
        chain.delete()
        assert chain.first.leftovers() == []


@pytest.mark.known_reference_failure(NO_CHECK)
def test_a_chain_that_marks(lab: Lab) -> None:
    """externalSetMarkChain: kube-proxy's, for example, that has its own masquerade."""
    lab.node.outside()
    lab.node.sh(
        "for it in iptables ip6tables; do $it -t nat -N MARK-IT; $it -t nat -A MARK-IT -j MARK --or-mark 0x4000; "
        "$it -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE; done"
    )
    it, other = published(lab, "bridge", (8080, 80), externalSetMarkChain="MARK-IT"), lab.added(gateway(DUAL))
    serve(it, 80)
    assert traffic.reached(lab.node, NODE_V4, 8080, pod=OUTSIDE) == OUTSIDE_V4
    assert traffic.reached(lab.node, NODE_V4, 8080, pod=other.pod) == "10.10.0.1"
    assert "CNI-HOSTPORT-SETMARK" not in lab.node.sh("iptables-save -t nat")
    it.check()
    it.delete()
    assert it.first.leftovers() == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_udp_that_goes_on_is_led_anew(lab: Lab, backend: str) -> None:
    """A client that keeps its port and keeps sending reaches a pod that is published later (P#123), and the next one when that
    is gone (P#1190).
    """
    lab.node.outside()

    def ask() -> str | None:
        return traffic.reached(lab.node, NODE_V4, 5000, "udp", pod=OUTSIDE, source_port=40000, seconds=0.5)

    assert ask() is None, "nobody is there yet"
    mapping = {"hostPort": 5000, "containerPort": 50, "protocol": "udp"}
    for _ in range(2):
        it = published(lab, "bridge", mapping, backend=backend)
        serve(it, 50, "udp")
        assert ask() == OUTSIDE_V4
        it.delete()
    other = published(lab, "bridge", mapping, backend=backend)
    serve(other, 50, "udp")
    assert ask() == OUTSIDE_V4


@pytest.mark.usefixtures("own_promise")
def test_flows_to_others_stay(lab: Lab) -> None:
    """Publishing a UDP port does not forget what pods have with that port of somebody else."""
    lab.node.outside()
    client = lab.added(gateway(DUAL))
    traffic.start(lab.node, traffic.SERVE, OUTSIDE_V4, "5000", "udp", pod=OUTSIDE)
    lab.node.sh("ip route add 10.10.0.0/24 via " + NODE_V4, pod=OUTSIDE)
    published(lab, "bridge", (1, 1))  # connection tracking begins with the first rule that needs it
    assert traffic.reached(lab.node, OUTSIDE_V4, 5000, "udp", pod=client.pod, source_port=40000)
    published(lab, "bridge", {"hostPort": 5000, "containerPort": 50, "protocol": "udp"})
    told = lab.node.sh("conntrack -L -p udp --dport 5000 2>/dev/null")
    assert f"dst={OUTSIDE_V4} sport=40000" in told


@pytest.mark.usefixtures("own_promise")
def test_a_port_is_one_pods_alone(lab: Lab) -> None:
    """The second one is refused, told whose the port is, and leaves nothing."""
    one = published(lab, "bridge", (8080, 80))
    two = lab.chain(MAINS["bridge"], portmap((9090, 80), (8080, 80)))
    two.first.add()
    before = lab.snapshot()
    config = {**two.last.config, "prevResult": two.first.result}
    two.last.call("ADD", config).refused(999, f"8080/tcp.*podwire/net/{one.first.container_id}/eth0.*10.10.0.2")
    lab.unchanged_since(before)
    two.last.call("DEL", config).succeeded()
    one.check()
    one.delete()
    two.last.add(config=config)


@pytest.mark.usefixtures("own_promise")
def test_what_a_dead_pod_left_is_taken_over(lab: Lab) -> None:
    """DEL was never called, and the pod is gone: its ports are free, and so is its address."""
    one = published(lab, "bridge", (8080, 80), (8081, 81))
    lab.node.remove_pod(one.first.netns)
    two = published(lab, "bridge", (8080, 80))
    two.check()
    assert set(claims(lab).values()) == {f"podwire/net/{two.first.container_id}/eth0"}
    for member in reversed(one.members):
        member.delete().succeeded()
    two.check()


@pytest.mark.usefixtures("own_promise")
def test_add_again_replaces(lab: Lab) -> None:
    """Without DEL in between, with other ports and another address: nothing leads to the old ones (P#683)."""
    it = published(lab, "bridge", (8080, 80), (8081, 81))
    assert it.first.result is not None
    moved = json.loads(json.dumps(it.first.result).replace("10.10.0.2", "10.10.0.77"))
    config = {**portmap((8080, 82)), "prevResult": moved}
    it.last.call("ADD", config).succeeded()
    assert set(claims(lab)) == {"0.0.0.0 tcp 8080", ":: tcp 8080"}
    told = lab.node.sh(f"nft list table inet {TABLE}")
    assert "10.10.0.77 . 82" in told and "10.10.0.2" not in told
    it.last.call("CHECK", config).succeeded()


@pytest.mark.usefixtures("own_promise")
def test_add_again_with_fewer_ports(lab: Lab) -> None:
    """What is asked for no longer goes, though nothing was in the way of the rest."""
    it = published(lab, "bridge", (8080, 80), (8081, 81))
    config = {**portmap((8080, 80)), "prevResult": it.first.result}
    it.last.call("ADD", config).succeeded()
    assert set(claims(lab)) == {"0.0.0.0 tcp 8080", ":: tcp 8080"}
    it.last.call("DEL", config).succeeded()
    assert claims(lab) == {}


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("backend", BACKENDS)
def test_add_again_that_fails(lab: Lab, backend: str) -> None:
    """At its last step: what is published is what the ADD before published."""
    it = published(lab, "bridge", (8080, 80), backend=backend)
    unknown = {"nftables": ["ip6", "no-such"], "iptables": ["--no-such"]}[backend]
    again = portmap((8080, 81), (8081, 81), backend=backend, conditionsV6=unknown)
    it.last.call("ADD", {**again, "prevResult": it.first.result}).refused(999)
    it.check()
    rules = lab.node.sh("nft list ruleset; iptables-save -t nat")
    assert "8081" not in rules
    assert ":81" not in rules


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("told", [[(8080, 80)], [(9090, 90)], [(8080, 80), (8080, 81)]], ids=["fewer", "others", "nonsense"])
def test_del_that_is_told_other_ports(lab: Lab, told: list[tuple[int, int]]) -> None:
    """All that is the pod's goes."""
    it = published(lab, "bridge", (8080, 80), (8081, 81))
    it.last.call("DEL", {**portmap(*told), "prevResult": it.first.result}).succeeded()
    assert claims(lab) == {}
    assert [line for line in it.first.leftovers() if "podwire_portmap" in line] == []


@pytest.mark.usefixtures("own_promise")
def test_two_networks_of_a_container(lab: Lab) -> None:
    """Runtimes ask for the same ports on each. The first one has them; both come and go."""
    one = published(lab, "bridge", (8080, 80))
    elsewhere = ptp({"type": "host-local", "subnet": "10.20.0.0/24", "routes": []}, name="other")
    same = {"pod": one.first.pod, "container_id": one.first.container_id, "ifname": "eth1"}
    two = lab.chained(elsewhere, portmap((8080, 80), name="other"), **same)
    assert {label.split("/")[1] for label in claims(lab).values()} == {"net"}
    two.check()
    one.check()
    two.delete()
    one.check()
    one.delete()
    assert claims(lab) == {}


@pytest.mark.usefixtures("own_promise")
def test_every_link_of_its_own_is_forgotten(lab: Lab) -> None:
    """ptp, portmap, bandwidth: the guard of the pod's veth goes with the pod, whatever else the result lists."""
    limits = {"ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 80_000_000, "egressBurst": 8_000_000}
    shaped = {"cniVersion": VERSION, "name": "net", "type": "bandwidth", **limits}
    it = lab.chained(MAINS["ptp"], portmap((8080, 80)), shaped)
    veth = it.first.host_veth
    assert f'"{veth}"' in lab.node.sh(f"nft list set inet {TABLE} localnet")
    it.delete()
    assert f'"{veth}"' not in lab.node.sh(f"nft list set inet {TABLE} localnet")


@pytest.mark.usefixtures("own_promise")
def test_del_of_one_keeps_the_bridge_guarded(lab: Lab) -> None:
    """Whatever the order in which prevResult lists the host's links."""
    one, two = published(lab, "bridge", (8080, 80)), published(lab, "bridge", (8081, 80))
    result = json.loads(json.dumps(two.first.result))
    result["interfaces"] = [*reversed(result["interfaces"][:2]), {"name": "x" * 40}, *result["interfaces"][2:]]
    for ip in result["ips"]:
        ip["interface"] = 3
    two.last.call("DEL", {**two.last.config, "prevResult": result}).succeeded()
    assert '"cni0"' in lab.node.sh(f"nft list set inet {TABLE} localnet")
    assert set(claims(lab)) == {"0.0.0.0 tcp 8080", ":: tcp 8080"}
    one.check()


@pytest.mark.usefixtures("own_promise")
def test_a_bridge_whose_name_nft_cannot_write(lab: Lab) -> None:
    """It is not opened for 127.0.0.0/8, because nothing could guard it; all else works."""
    lab.node.outside()
    it = lab.chained(gateway(DUAL, bridge="b*", hairpinMode=True), portmap((8080, 80)))
    serve(it, 80)
    assert traffic.reached(lab.node, NODE_V4, 8080, pod=OUTSIDE) == OUTSIDE_V4
    assert lab.node.sysctl("net/ipv4/conf/b*/route_localnet") == "0"
    it.check()


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("told", [True, False])
def test_udp_is_forgotten_by_del_that_is_told_nothing(lab: Lab, told: bool) -> None:
    lab.node.outside()
    mapping = {"hostPort": 5000, "containerPort": 50, "protocol": "udp"}
    it = published(lab, "bridge", mapping)
    serve(it, 50, "udp")
    assert traffic.reached(lab.node, NODE_V4, 5000, "udp", pod=OUTSIDE, source_port=40000)
    it.last.call("DEL", {**it.last.config, "prevResult": it.first.result} if told else portmap()).succeeded()
    assert "sport=40000" not in lab.node.sh("conntrack -L -p udp --dport 5000 2>/dev/null")


@pytest.mark.known_reference_failure("DEL removes nothing unless it is told the ports (P#509); " + NO_CHECK)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("told", ["nothing", "ports", "prevResult"])
def test_del_needs_to_be_told_nothing(lab: Lab, backend: str, told: str) -> None:
    """Neither the ports nor the result of ADD (P#509); and twice."""
    one, two = published(lab, "bridge", (8080, 80), backend=backend), published(lab, "bridge", (8081, 80), backend=backend)
    config = portmap((8080, 80)) if told == "ports" else portmap()
    config = {**config, "prevResult": one.first.result} if told == "prevResult" else config
    for _ in range(2):
        one.last.call("DEL", config, netns="").succeeded()
    assert [line for line in one.first.leftovers() if line.startswith("firewall")] == []
    two.check()


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("backend", BACKENDS)
def test_gc(lab: Lab, backend: str) -> None:
    """What attachments of this network that are not valid have published goes; what others have stays."""
    one, two = (published(lab, "bridge", (port, 80), backend=backend) for port in (8080, 8081))
    elsewhere = {"type": "host-local", "subnet": "10.20.0.0/24", "routes": DEFAULT_ROUTES[:1]}
    other = lab.chained(ptp(elsewhere, name="other"), portmap((8082, 80), name="other", backend=backend))
    valid = [{"containerID": two.first.container_id, "ifname": "eth0"}]
    gc = {**portmap(version="1.1.0", backend=backend), "cni.dev/valid-attachments": valid}
    lab.call("GC", {key: value for key, value in gc.items() if "valid" not in key}).succeeded()
    one.check()
    lab.call("GC", gc).succeeded()
    assert [line for line in one.first.leftovers() if line.startswith("firewall")] == []
    two.check()
    other.check()
    one.last.check().refused(999, "8080/tcp")


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("length", [1, 64, 200])
@pytest.mark.parametrize("backend", BACKENDS)
def test_long_names(lab: Lab, backend: str, length: int) -> None:
    """Nothing is too long for those who keep it, and GC tells networks apart that begin alike."""
    made: dict[str, Chain] = {}
    for number in (1, 2):
        ipam = {**DUAL, "ranges": [[{"subnet": f"10.3{number}.0.0/24"}], [{"subnet": f"fd00:3{number}::/64"}]]}
        main = ptp(ipam, name="n" * 253 + str(number), ipMasq=True, ipMasqBackend=backend)
        chained = portmap((8080 + number, 80), name=main["name"], backend=backend)
        made[main["name"]] = lab.chained(main, chained, container_id="c" * length + str(number))
        made[main["name"]].check()
    (name, one), (_, two) = made.items()
    gc = {"cniVersion": "1.1.0", "name": name, "cni.dev/valid-attachments": []}
    for member in one.members:
        lab.call("GC", {**member.config, **gc}).succeeded()
    rules = lab.node.sh("nft list ruleset; iptables-save -t nat; ip6tables-save -t nat")
    assert [word for word in ("8081", *map(str, one.first.addresses)) if word in rules] == []
    two.check()
    two.delete()
    assert two.first.leftovers() == []


@pytest.mark.usefixtures("own_promise")
def test_gc_removes_what_is_empty(lab: Lab) -> None:
    """The table goes with the last pod and the links that it guards."""
    it = published(lab, "bridge", (8080, 80), conditionsV4=CONDITIONS["nftables"])
    it.delete()
    lab.call("GC", {**portmap(version="1.1.0"), "cni.dev/valid-attachments": []}).succeeded()
    assert "guard" in lab.node.sh(f"nft list table inet {TABLE}"), "cni0 still takes packets for 127.0.0.1"
    lab.node.sh("ip link del cni0")
    lab.call("GC", {**portmap(version="1.1.0"), "cni.dev/valid-attachments": []}).succeeded()
    assert TABLE not in lab.node.sh("nft list tables")


DAMAGE = {
    "element": "nft delete element inet podwire_portmap ports4 '{ tcp . 8080 }'",
    "rules": "nft flush chain inet podwire_portmap prerouting",
    "table": "nft delete table inet podwire_portmap",
    "sysctl": "echo 0 > /proc/sys/net/ipv4/conf/cni0/route_localnet",
    "masquerade": "nft delete element inet podwire_portmap snat4 '{ 10.10.0.2 }'",
    "guard": "nft delete element inet podwire_portmap localnet '{ \"cni0\" }'",
    "another": "nft delete element inet podwire_portmap claims4 '{ 0.0.0.0 . tcp . 8080 }'",
}


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_check_sees_what_is_missing(lab: Lab, damage: str) -> None:
    """And the next ADD repairs what is everybody's."""
    it = published(lab, "bridge", (8080, 80))
    it.check()
    lab.node.sh(damage)
    it.last.check().refused(999, "8080|rules|masquerade|sysctl|drops")
    it.last.call("ADD", {**it.last.config, "prevResult": it.first.result}).succeeded()
    it.check()


@pytest.mark.usefixtures("own_promise")
def test_check_of_iptables_sees_what_is_missing(lab: Lab) -> None:
    it = published(lab, "bridge", (8080, 80), backend="iptables")
    for damage, says in (
        ("-F CNI-HOSTPORT-DNAT", "8080/tcp"),
        ("-F CNI-HOSTPORT-SETMARK", "masquerade"),
        ("-D POSTROUTING 1", "masquerade"),
    ):
        it.check()
        lab.node.sh("iptables -t nat " + damage)
        it.last.check().refused(999, says)
        it.last.call("ADD", {**it.last.config, "prevResult": it.first.result}).succeeded()
    it.last.call("ADD", {**it.last.config, "prevResult": it.first.result}).succeeded()
    it.check()


@pytest.mark.usefixtures("own_promise")
def test_nothing_to_publish_is_nothing_to_do(lab: Lab) -> None:
    """No mappings: the packet filter stays untouched (P#510)."""
    main = lab.added(MAINS["bridge"])
    assert main.result is not None
    before = lab.snapshot()
    for config in (portmap(), {**portmap(), "runtimeConfig": {"portMappings": []}}, {**portmap(), "runtimeConfig": {}}):
        it = lab.attachment(config, pod=main.pod, container_id=main.container_id)
        assert it.add(config={**config, "prevResult": main.result}) == main.result
        it.check().succeeded()
        lab.unchanged_since(before)
        it.delete().succeeded()
    lab.unchanged_since(before)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "host port 0": ({"hostPort": 0, "containerPort": 80}, "hostPort 0"),
    "host port": ({"hostPort": 65536, "containerPort": 80}, "hostPort 65536"),
    "container port": ({"hostPort": 80, "containerPort": -1}, "containerPort -1"),
    "protocol": ({"hostPort": 80, "containerPort": 80, "protocol": "icmp"}, "icmp.*tcp, udp, sctp"),
    "multicast": ({"hostPort": 80, "containerPort": 80, "hostIP": "224.0.0.1"}, "hostIP 224.0.0.1"),
    "host address": ({"hostPort": 80, "containerPort": 80, "hostIP": "nowhere"}, "nowhere"),
    "no container port": ({"hostPort": 80}, "containerPort"),
}


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize(("mapping", "says"), REFUSED.values(), ids=REFUSED)
def test_mappings_that_cannot_be(lab: Lab, mapping: dict[str, Any], says: str) -> None:
    """They are refused before anything is done, and keep DEL from nothing."""
    main = lab.added(MAINS["bridge"])
    it = lab.attachment(portmap(mapping), pod=main.pod, container_id=main.container_id)
    config = {**it.config, "prevResult": main.result}
    it.call("ADD", config).refused(7, says)
    it.call("DEL", config).succeeded()


KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "backend": ({"backend": "ipfw"}, "ipfw"),
    "mark": ({"markMasqBit": 32, "backend": "iptables"}, "markMasqBit 32"),
    "both marks": ({"markMasqBit": 3, "externalSetMarkChain": "X"}, "exclude"),
    "chain that is more": ({"externalSetMarkChain": "X\n-A OUTPUT -j ACCEPT"}, "externalSetMarkChain"),
    "chain of nftables": ({"externalSetMarkChain": "X", "backend": "nftables"}, "iptables"),
    "conditions": ({"conditionsV4": ["-s", "10.0.0.0/8"], "backend": "nftables"}, "conditionsV4"),
    "conditions of nftables": ({"conditionsV6": ["ip6", "saddr", "::1"], "backend": "iptables"}, "conditionsV6"),
    "more than a match": ({"conditionsV4": ["ip", "saddr", "10.0.0.1;", "accept"]}, "conditionsV4"),
}


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize(("keys", "says"), KEYS.values(), ids=KEYS)
def test_keys_that_cannot_be(lab: Lab, keys: dict[str, Any], says: str) -> None:
    main = lab.added(MAINS["bridge"])
    it = lab.attachment(portmap((8080, 80), **keys), pod=main.pod, container_id=main.container_id)
    it.call("ADD", {**it.config, "prevResult": main.result}).refused(7, says)


@pytest.mark.usefixtures("own_promise")
def test_conditions_that_nft_does_not_know(lab: Lab) -> None:
    """They are refused by nft, in its words, and nothing stays."""
    main = lab.added(MAINS["bridge"])
    it = lab.attachment(portmap((8080, 80), conditionsV4=["no", "match"]), pod=main.pod, container_id=main.container_id)
    before = lab.snapshot()
    it.call("ADD", {**it.config, "prevResult": main.result}).refused(999, "symbol|syntax")
    lab.unchanged_since(before)


def test_without_prev_result(lab: Lab) -> None:
    it = lab.attachment(portmap((8080, 80)))
    it.call("ADD").refused(7, "prevResult")


@pytest.mark.usefixtures("own_promise")
def test_status(lab: Lab) -> None:
    for backend in BACKENDS:
        lab.call("STATUS", portmap(version="1.1.0", backend=backend)).succeeded()


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0"])
def test_the_result_is_the_one_before(lab: Lab, version: str) -> None:
    main = lab.added(gateway(DUAL, version=version))
    it = lab.attachment(portmap((8080, 80), version=version), pod=main.pod, container_id=main.container_id)
    assert it.add(config={**it.config, "prevResult": main.result}) == main.result


@pytest.mark.usefixtures("own_promise")
def test_subnets_that_contain_each_other(lab: Lab) -> None:
    """The set of ranges takes the wider one in place of the narrower, and pods of both reach themselves by their ports."""
    lab.node.outside()
    chains = []
    for port, subnet, name in (
        (8080, "10.30.5.0/24", "narrow"),
        (8081, "10.30.0.0/16", "wide"),
        (8082, "10.30.6.0/24", "third"),
    ):
        ipam = {"type": "host-local", "subnet": subnet, "routes": DEFAULT_ROUTES[:1]}
        chains.append(lab.chained(ptp(ipam, name=name), portmap((port, 80), name=name)))
        serve(chains[-1], 80)
    for port, chain in zip((8080, 8081, 8082), chains, strict=True):
        assert traffic.reached(lab.node, NODE_V4, port, pod=chain.first.pod)
        chain.check()
