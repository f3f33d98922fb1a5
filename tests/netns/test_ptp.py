"""ptp: a routed veth. What ADD tells and makes, packets, CHECK, DEL, GC, STATUS."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe, traffic
from tests.harness.node import NODE_V4, NODE_V6, OUTSIDE, OUTSIDE_V4, OUTSIDE_V6
from tests.netns.conftest import BACKENDS, DEFAULT_ROUTES, DUAL, V4, V6, damaged, ptp

if TYPE_CHECKING:
    from tests.netns.conftest import Attachment, Damage, Lab

pytestmark = pytest.mark.root

ROUTED = {**DUAL, "routes": DEFAULT_ROUTES}
LATE = pytest.mark.known_reference_failure("1.1.0 is later than 1.1.1 of the plugins.")
NO_LAYER_2 = "ptp does not work without IPAM (P#987)."
NO_SINGLE = "ptp fails with a /32: it removes a connected route that the kernel never made (P#150)."


def routes(it: Attachment, *, inside: bool) -> set[str]:
    """The routes of the pod's interface, or of the host's end: destination and next hop."""
    pod = it.pod if inside else None
    device = it.ifname if inside else it.host_veth
    return {
        f"{route['dst']} via {route['gateway']}" if "gateway" in route else route["dst"]
        for route in observe.routes(it.lab.node, pod=pod)
        if route["dev"] == device
    }


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", pytest.param("1.1.0", marks=LATE)])
def test_the_result(lab: Lab, version: str) -> None:
    """ADD Success: interfaces created, the host's end first; ips with the index of the container's interface; routes."""
    it = lab.added(ptp(ROUTED, version=version))
    assert it.result is not None
    here, inside = observe.links(lab.node), observe.links(lab.node, pod=it.pod)
    first, second = it.result["interfaces"]
    assert (first["name"], first["mac"]) == (it.host_veth, here[it.host_veth]["address"])
    assert (second["name"], second["mac"], second["sandbox"]) == ("eth0", inside["eth0"]["address"], it.netns)
    assert "sandbox" not in first
    family = [{"version": "4"}, {"version": "6"}] if version < "1" else [{}, {}]
    assert it.result["ips"] == [
        {**family[0], "address": "10.10.0.2/24", "gateway": "10.10.0.1", "interface": 1},
        {**family[1], "address": "fd00:10::2/64", "gateway": "fd00:10::1", "interface": 1},
    ]
    assert it.result["routes"] == DEFAULT_ROUTES


def test_the_gateway_alone_is_on_the_link(lab: Lab) -> None:
    """The rest of the subnet is behind the gateway, which is the host's end; the host knows the pod's address alone."""
    it = lab.added(ptp(ROUTED))
    assert routes(it, inside=True) == {
        *("10.10.0.1", "10.10.0.0/24 via 10.10.0.1", "default via 10.10.0.1"),
        *("fd00:10::1", "fd00:10::/64 via fd00:10::1", "default via fd00:10::1"),
    }
    assert routes(it, inside=False) - {"fd00:10::1"} == {"10.10.0.2", "fd00:10::2"}
    assert set(observe.addresses(lab.node, it.host_veth)) == {"10.10.0.1/32", "fd00:10::1/128"}
    assert set(observe.addresses(lab.node, "eth0", pod=it.pod)) == {"10.10.0.2/24", "fd00:10::2/64"}


def test_pods_reach_each_other_and_the_node(lab: Lab) -> None:
    """Pods of one subnet, and of two networks, reach each other through the node, over both families, at once."""
    one, two = lab.added(ptp(ROUTED)), lab.added(ptp(ROUTED))
    other = lab.added(ptp({**V4, "subnet": "10.20.0.0/24", "routes": DEFAULT_ROUTES[:1]}, name="net2"))
    for target in (*two.addresses, *other.addresses, "10.10.0.1", "fd00:10::1"):
        assert lab.node.pings(target, pod=one.pod), f"{target} does not answer"
    for target in (*one.addresses, *two.addresses, *other.addresses):
        assert lab.node.pings(target), f"{target} does not answer the node"
    two.delete().succeeded()
    assert lab.node.pings("10.10.0.1", pod=one.pod), "the gateway's address is another pod's, too"


@pytest.mark.parametrize(("target", "source"), [(OUTSIDE_V4, NODE_V4), (OUTSIDE_V6, NODE_V6)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_masquerade(lab: Lab, backend: str, target: str, source: str) -> None:
    """ipMasq sets up an IP masquerade on the host; pods of the subnet still see each other's own addresses."""
    lab.node.outside()
    it, other = (lab.added(ptp(ROUTED, ipMasq=True, ipMasqBackend=backend)) for _ in range(2))
    traffic.start(lab.node, traffic.ECHO_SOURCE, target, "5353", pod=OUTSIDE)
    assert traffic.source_seen_by(lab.node, target, pod=it.pod) == source
    index = int(":" in target)
    traffic.start(lab.node, traffic.ECHO_SOURCE, other.addresses[index], "5353", pod=other.pod)
    assert traffic.source_seen_by(lab.node, other.addresses[index], pod=it.pod) == it.addresses[index]


def test_mtu(lab: Lab) -> None:
    """mtu is that of both ends, and packets of that size pass."""
    one, two = (lab.added(ptp(ROUTED, mtu=1400)) for _ in range(2))
    assert {observe.links(lab.node)[one.host_veth]["mtu"], observe.links(lab.node, pod=one.pod)["eth0"]["mtu"]} == {1400}
    for target, payload in ((two.addresses[0], "1372"), (two.addresses[1], "1352")):
        assert lab.node.pings(target, pod=one.pod)
        lab.node.run("ping", "-c1", "-W2", "-M", "do", "-s", payload, "-n", target, pod=one.pod)


@pytest.mark.usefixtures("own_promise")
def test_nothing_waits_for_detection(lab: Lab) -> None:
    """Neither side tests its addresses for duplicates, the link-local ones included: for a second or two it would ask for no
    neighbour (P#680).
    """
    it = lab.added(ptp(ROUTED))
    for device, pod in ((it.host_veth, None), ("eth0", it.pod)):
        assert lab.node.sysctl(f"net/ipv6/conf/{device}/accept_dad", pod=pod) == "0"
        assert all(
            facts.get("nodad") for address, facts in observe.addresses(lab.node, device, pod=pod).items() if ":" in address
        )


def of(address: str, gateway: str = "") -> dict[str, Any]:
    """An IPAM plugin that gives this address."""
    return {"type": "static", "addresses": [{"address": address, **({"gateway": gateway} if gateway else {})}]}


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("kind", ["ptp", "host-gw"])
def test_an_address_of_the_host_is_no_pods(lab: Lab, kind: str) -> None:
    lab.node.outside()
    lab.added({**ptp(V4), "type": kind})
    it = lab.attachment({**ptp(of(f"{NODE_V4}/24", "192.0.2.254")), "type": kind})
    before = lab.snapshot()
    it.call("ADD").refused(999, says=f"address {NODE_V4} is this host's own")
    lab.unchanged_since(before)


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("maker", ["host-gw", "ptp", "somebody else"])
def test_no_address_is_another_pods(lab: Lab, maker: str) -> None:
    """Nor is a gateway: the host's end would take what is sent to that pod. One that other host ends have is what most pods
    share.
    """
    lab.node.outside()
    one = lab.added({**ptp(DUAL), "type": "host-gw" if maker == "host-gw" else "ptp"})
    if maker == "somebody else":
        lab.node.sh(f"ip link set {one.host_veth} alias x")
    v4, v6 = one.addresses
    for address, gateway in (("10.9.9.9/32", v4), ("10.10.0.77/24", v4), ("fd00:9::9/128", v6)):
        it = lab.attachment(ptp(of(address, gateway), name="net2"))
        it.call("ADD").refused(999, says=f"gateway {gateway} is that of another attachment")
    for address in one.addresses:
        it = lab.attachment(ptp(of(f"{address}/{24 if ':' not in address else 64}"), name="net2"))
        it.call("ADD").refused(999, says=f"address {address} is that of another attachment")
    one.check().succeeded()
    for target in one.addresses:
        assert lab.node.pings(target)


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("address", ["10.9.9.9/24", "fd00:9::9/64"])
@pytest.mark.parametrize("kind", ["ptp", "host-gw"])
def test_an_address_is_one_pods_alone(lab: Lab, kind: str, address: str) -> None:
    """Of pods that are given one address at the same time one has it; nothing of the others is left."""
    for _ in range(3):
        pods = [lab.attachment({**ptp(of(address)), "type": kind}) for _ in range(3)]
        with ThreadPoolExecutor(len(pods)) as pool:
            answers = list(pool.map(lambda it: it.call("ADD"), pods))
        (winner,) = [it for it, answer in zip(pods, answers, strict=True) if answer.status == 0]
        winner.result = answers[pods.index(winner)].json
        winner.check().succeeded()
        assert set(observe.links(lab.node)) == {"lo", winner.host_veth}
        winner.delete().succeeded()
        for it in pods:
            lab.node.remove_pod(it.netns)


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("kind", ["ptp", "host-gw"])
def test_links_that_do_not_forward_by_default(lab: Lab, kind: str) -> None:
    lab.node.outside()
    lab.node.sh("echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
    lab.node.sh("echo 0 >/proc/sys/net/ipv4/conf/default/forwarding; echo 0 >/proc/sys/net/ipv6/conf/default/forwarding")
    it = lab.added({**ptp(ROUTED, ipMasq=True), "type": kind})
    for target in (OUTSIDE_V4, OUTSIDE_V6):
        assert lab.node.pings(target, pod=it.pod)
    it.check().succeeded()


READ_ONLY = "mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys"


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("kind", ["ptp", "host-gw", "bridge"])
def test_no_pod_gives_the_host_routes(lab: Lab, kind: str) -> None:
    """Where /proc/sys cannot be written the host's end would accept router advertisements (CVE-2020-10749), unless it is as it
    should be already.
    """
    lab.node.sh(f"echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/default/accept_ra; {READ_ONLY}")
    it = lab.attachment({**ptp(V4), "type": kind, "isGateway": True})
    it.call("ADD").refused(999, says="accept_ra to '0'.*Read-only file system")
    assert (list(observe.links(lab.node)), it.leftovers()) == (["lo"], [])
    lab.node.sh("mount -o remount,rw,bind /proc/sys; echo 0 >/proc/sys/net/ipv6/conf/default/accept_ra")
    lab.node.sh("mount -o remount,ro,bind /proc/sys")
    it.add()
    it.check().succeeded()


@pytest.mark.known_reference_failure("ptp gives the pod a random hardware address, whatever the runtime asks for.")
@pytest.mark.parametrize(
    "given", [{"runtimeConfig": {"mac": "02:00:00:00:00:09"}}, {"args": {"cni": {"mac": "02-00-00-00-00-09"}}}]
)
def test_mac(lab: Lab, given: dict[str, Any]) -> None:
    """CNI conventions, mac: the hardware address of the interface."""
    it = lab.added(ptp(V4, **given))
    assert observe.links(lab.node, pod=it.pod)["eth0"]["address"] == "02:00:00:00:00:09"
    it.check().succeeded()


def test_dns(lab: Lab) -> None:
    """The configuration's dns takes the place of the IPAM plugin's."""
    ipam = {
        "type": "static",
        "addresses": [{"address": "10.9.9.9/24", "gateway": "10.9.9.1"}],
        "dns": {"nameservers": ["192.0.2.1"]},
    }
    other = {**ipam, "addresses": [{"address": "10.9.9.10/24", "gateway": "10.9.9.1"}]}
    assert (lab.added(ptp(ipam)).result or {})["dns"] == {"nameservers": ["192.0.2.1"]}
    it = lab.added(ptp(other, dns={"nameservers": ["192.0.2.53"]}))
    assert it.result is not None and it.result["dns"] == {"nameservers": ["192.0.2.53"]}


@pytest.mark.known_reference_failure(NO_LAYER_2)
def test_without_ipam(lab: Lab) -> None:
    """A plugin may be used without IPAM: the veth is there and up, and that is all."""
    it = lab.added(ptp())
    assert it.result is not None and "ips" not in it.result
    assert "UP" in observe.links(lab.node)[it.host_veth]["flags"]
    assert "UP" in observe.links(lab.node, pod=it.pod)["eth0"]["flags"]
    assert (routes(it, inside=True), routes(it, inside=False)) == (set(), set())
    it.check().succeeded()
    it.delete().succeeded()
    assert it.leftovers() == []


@pytest.mark.known_reference_failure(NO_SINGLE)
def test_single_addresses(lab: Lab) -> None:
    """A pod with a /32 and a /128 has nothing but its gateways on the link."""
    addresses = [
        {"address": f"{address}", "gateway": gw}
        for address, gw in (("10.9.9.9/32", "169.254.1.1"), ("fd00:9::9/128", "fe80::1"))
    ]
    it = lab.added(ptp({"type": "static", "addresses": addresses, "routes": DEFAULT_ROUTES}))
    assert routes(it, inside=True) == {"169.254.1.1", "default via 169.254.1.1", "default via fe80::1"}
    for address in it.addresses:
        assert lab.node.pings(address)
    it.check().succeeded()


@pytest.mark.known_reference_failure("ptp fails where the IPAM plugin names no gateway.")
def test_the_gateway_is_the_first_address(lab: Lab) -> None:
    """As with bridge's isGateway; the result says so."""
    it = lab.added(ptp({"type": "static", "addresses": [{"address": "10.9.9.9/24"}]}))
    assert it.result is not None and it.result["ips"][0]["gateway"] == "10.9.9.1"
    assert lab.node.pings("10.9.9.1", pod=it.pod)


@pytest.mark.parametrize(
    ("keys", "code", "says"),
    [
        ({"mtu": 67}, 7, "mtu 67"),
        ({"mtu": 1000, "ipam": V6}, 7, "1280"),
        ({"ipMasqBackend": "ipchains"}, 7, "ipchains"),
        ({"ipam": {"type": "static", "addresses": [{"address": "10.9.9.9/32"}]}}, 7, "no gateway for 10.9.9.9/32"),
        (
            {"ipam": {"type": "static", "addresses": [{"address": "10.9.9.1/24"}]}},
            7,
            "gateway 10.9.9.1 of address 10.9.9.1/24 is the pod itself",
        ),
        ({"ipam": {"type": "static", "addresses": [{"address": "10.9.9.9/24", "gateway": "0.0.0.0"}]}}, 7, "no host's address"),
        (
            {"ipam": {"type": "static", "addresses": [{"address": "10.9.9.9/24", "gateway": "224.0.0.1"}]}},
            7,
            "no host's address",
        ),
        ({"ipam": {"type": "static", "addresses": [{"address": "fd09::9/64", "gateway": "::1"}]}}, 7, "no host's address"),
        ({"ipam": {"type": "static", "addresses": [{"address": "127.0.0.5/8"}]}}, 7, "no address for an interface"),
        (
            {"ipam": {"type": "static", "addresses": [{"address": "10.10.0.2/24"}]}},
            999,
            "that of another attachment, podwire/net/",
        ),
        (
            {
                "ipam": {
                    "type": "static",
                    "addresses": [{"address": "10.9.9.1/24", "gateway": "10.9.9.254"}, {"address": "10.9.9.5/24"}],
                }
            },
            7,
            "is the pod itself",
        ),
        ({"ipam": {"type": "no-such"}}, 999, "no-such"),
        ({"runtimeConfig": {"mac": "nonsense"}}, 7, "nonsense"),
    ],
)
@pytest.mark.usefixtures("own_promise")
def test_what_cannot_be_is_refused_and_nothing_is_left(lab: Lab, keys: dict[str, Any], code: int, says: str) -> None:
    lab.added(ptp(V4))
    it = lab.attachment({**ptp(V4), **keys})
    before = lab.snapshot()
    it.call("ADD").refused(code, says=says)
    lab.unchanged_since(before)


DAMAGE: Damage = {
    "interface-gone": ("pod", "ip link del eth0", "eth0", ""),
    "mac": ("pod", "ip link set eth0 address 02:00:00:00:00:99", "02:00:00:00:00:99|mac", ""),
    "address-gone": ("pod", "ip addr del 10.10.0.2/24 dev eth0", "10.10.0.2", ""),
    "v6-address-gone": ("pod", "ip addr del fd00:10::2/64 dev eth0", "fd00:10::2", ""),
    "way-to-the-gateway-gone": ("pod", "ip route del 10.10.0.1", "10.10.0.1/32", "the way to the gateway"),
    "subnet-route-gone": ("pod", "ip route del 10.10.0.0/24", "10.10.0.0/24 via 10.10.0.1", ""),
    "v6-subnet-route-gone": ("pod", "ip -6 route del fd00:10::/64", "fd00:10::/64 via fd00:10::1", ""),
    "default-route-gone": ("pod", "ip route del default", "0.0.0.0/0|default", ""),
    "host-end-down": ("node", "ip link set {veth} down", "{veth} is down", "the host's side"),
    "router-advertisements": (
        "node",
        "echo 1 >/proc/sys/net/ipv6/conf/{veth}/accept_ra",
        "{veth} takes routes from the pod",
        "the host's side",
    ),
    "host-mtu": ("node", "ip link set {veth} mtu 1300", "mtu.*1300|1300.*mtu", "the host's side"),
    "gateway-gone": ("node", "ip addr del 10.10.0.1/32 dev {veth}", "10.10.0.1", "the host's side"),
    "v6-gateway-gone": ("node", "ip addr del fd00:10::1/128 dev {veth}", "fd00:10::1", "the host's side"),
    "route-to-the-pod-gone": ("node", "ip route del 10.10.0.2", "10.10.0.2/32", "the host's side"),
    "v6-route-to-the-pod-gone": ("node", "ip -6 route del fd00:10::2", "fd00:10::2/128", "the host's side"),
    "the-host-took-the-address": (
        "node",
        "ip addr add 10.10.0.2/32 dev lo",
        "the host leads 10.10.0.2 to itself",
        "the host's side",
    ),
    "another-link-took-the-address": (
        "node",
        "ip link add away up type veth peer beyond; ip link set beyond up; ip route add fd00:10::2 dev away metric 1",
        "the host leads fd00:10::2 to away, not to {veth}",
        "the host's side",
    ),
    "the-links-forwarding-off": (
        "node",
        "echo 0 >/proc/sys/net/ipv4/conf/{veth}/forwarding",
        "forwarding is off: net/ipv4/conf/{veth}/forwarding",
        "the host's side",
    ),
    "forwarding-off": ("node", "echo 0 >/proc/sys/net/ipv4/ip_forward", "ip_forward", "the host's side"),
    "masquerade-gone": ("node", "nft flush ruleset", "masq", "masquerade rules"),
    "lease-gone": ("node", "rm /var/lib/cni/networks/net/10.10.0.2", "10.10.0.2", "every address's lease"),
}


@pytest.mark.parametrize("name", damaged(DAMAGE))
def test_check_sees(lab: Lab, name: str) -> None:
    """CHECK: the plugin MUST return an error if a listed resource is missing or in an invalid state."""
    where, what, says, _ = DAMAGE[name]
    it = lab.added(ptp(ROUTED, mtu=1400, ipMasq=True))
    it.check().succeeded()
    veth = it.host_veth
    lab.node.sh(what.format(veth=veth), pod=it.pod if where == "pod" else None)
    it.check().refused(999, says=says.format(veth=veth))


def test_check_tolerates_what_others_add(lab: Lab) -> None:
    """CHECK: plugins must ignore changes made by later plugins, such as more addresses and routes."""
    it = lab.added(ptp(ROUTED, mtu=1400))
    lab.node.sh("ip addr add 192.0.2.9/32 dev eth0; ip route add 198.51.100.0/24 via 10.10.0.1", pod=it.pod)
    lab.node.sh(f"ip addr add 192.0.2.1/32 dev {it.host_veth}; ip route add 192.0.2.9 dev {it.host_veth}")
    it.check().succeeded()


GONE = {
    "nothing": "true",
    "pod": "",
    "link": "ip -n {pod} link del eth0",
    "host-end": "ip link del {veth}",
    "rules": "nft flush ruleset",
    "leases": "rm -r /var/lib/cni",
    "routes": "ip route flush dev {veth}; ip addr flush dev {veth}",
}


LEAKS = pytest.mark.known_reference_failure("Masquerade rules leak where the pod's addresses cannot be read any more (P#810).")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "gone", [pytest.param(gone, marks=[LEAKS] if gone in ("pod", "link", "host-end", "rules") else []) for gone in GONE]
)
def test_del(lab: Lab, gone: str, backend: str) -> None:
    """DEL: plugins should complete without error even if some resources are missing. A second one is fine, too."""
    it, other = (lab.added(ptp(ROUTED, ipMasq=True, ipMasqBackend=backend)) for _ in range(2))
    if gone == "pod":
        lab.node.remove_pod(it.netns)
    lab.node.sh(GONE[gone].format(pod=it.pod, veth=it.host_veth if gone != "pod" else "") or "true")
    it.delete(config=it.config).succeeded()
    it.delete().succeeded()
    assert it.leftovers() == []
    if gone not in ("rules", "leases"):
        other.check().succeeded()
        assert lab.node.pings("10.10.0.1", pod=other.pod)


@pytest.mark.known_reference_failure("GC and STATUS are of specification 1.1.0, later than 1.1.1 of the plugins.")
@pytest.mark.parametrize("backend", BACKENDS)
def test_gc(lab: Lab, backend: str) -> None:
    """A plugin SHOULD remove as many stale resources as possible, and nothing that is in use."""
    config = ptp(ROUTED, version="1.1.0", ipMasq=True, ipMasqBackend=backend)
    living, dead, gone = (lab.added(config) for _ in range(3))
    lab.node.remove_pod(gone.netns)
    valid = [{"containerID": living.container_id, "ifname": living.ifname}]
    lab.call("GC", {**config, "cni.dev/valid-attachments": valid}).succeeded()
    assert (dead.leftovers(), gone.leftovers()) == ([], [])
    living.check().succeeded()
    lab.call("STATUS", config).succeeded()


@pytest.mark.usefixtures("own_promise")
def test_status_without_a_packet_filter(lab: Lab) -> None:
    """STATUS: 50, the plugin is not available."""
    config = ptp(V4, version="1.1.0", ipMasq=True, ipMasqBackend="iptables")
    lab.call("STATUS", config).succeeded()
    lab.node.sh("for folder in /usr/local/sbin /usr/sbin /sbin; do mount -t tmpfs none $folder; done")
    lab.call("STATUS", config).refused(50, says="iptables cannot be used")
    lab.call("STATUS", {**config, "ipMasq": False}).succeeded()


def test_del_with_a_sandbox_that_cannot_be_a_path(lab: Lab) -> None:
    """A prevResult is only a hint for DEL, whatever is in it."""
    it = lab.added(ptp(V4, ipMasq=True))
    assert it.result is not None
    wrong = {**it.result, "interfaces": [{**entry, "sandbox": "/run/\0x"} for entry in it.result["interfaces"]]}
    it.call("DEL", {**it.config, "prevResult": wrong}).succeeded()
    assert it.leftovers() == []
