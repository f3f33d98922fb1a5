"""bridge: one test for each key of the configuration, judged by what the kernel has afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe
from tests.netns.conftest import DEFAULT_ROUTES, DUAL, V4, V6, bridge

if TYPE_CHECKING:
    from tests.netns.conftest import Lab

pytestmark = pytest.mark.root

LATER = pytest.mark.known_reference_failure("The key is later than 1.1.1 of the plugins.")


def test_bridge_is_cni0_by_default(lab: Lab) -> None:
    """bridge: the name of the bridge, by default cni0; made when missing, up."""
    lab.added(bridge())
    link = observe.links(lab.node)["cni0"]
    assert link["linkinfo"]["info_kind"] == "bridge" and "UP" in link["flags"]
    assert lab.node.sysctl("net/ipv6/conf/cni0/accept_ra") == "0"


def test_bridge_that_is_there_is_used(lab: Lab) -> None:
    """bridge: an existing bridge keeps what it has."""
    lab.node.sh("ip link add mine type bridge; ip link set mine mtu 1400 up; ip addr add 192.0.2.1/24 dev mine")
    index = observe.links(lab.node)["mine"]["ifindex"]
    it = lab.added(bridge(V4, bridge="mine"))
    assert observe.links(lab.node)["mine"]["ifindex"] == index
    assert observe.links(lab.node)[it.host_veth]["master"] == "mine"
    assert set(observe.addresses(lab.node, "mine")) == {"192.0.2.1/24"}


def test_bridge_that_is_down_is_set_up(lab: Lab) -> None:
    """bridge: a bridge that somebody left down would not carry anything."""
    lab.node.sh("ip link add mine type bridge")
    lab.added(bridge(V4, bridge="mine"))
    assert "UP" in observe.links(lab.node)["mine"]["flags"]


def test_two_networks_two_bridges(lab: Lab) -> None:
    """bridge: networks with bridges of their own do not meet."""
    one = lab.added(bridge(V4, bridge="one", name="net1"))
    two = lab.added(bridge(V4, bridge="two", name="net2"))
    masters = [observe.links(lab.node)[it.host_veth]["master"] for it in (one, two)]
    assert masters == ["one", "two"] and one.addresses == two.addresses


def test_without_is_gateway(lab: Lab) -> None:
    """isGateway is false by default: no address on the bridge, no forwarding switched on."""
    lab.added(bridge(DUAL))
    assert observe.addresses(lab.node, "cni0") == {}
    assert [lab.node.sysctl(name) for name in observe.FORWARDING] == ["0", "0"]


def test_is_gateway(lab: Lab) -> None:
    """isGateway: the gateway's address is on the bridge and the node forwards; no default route by itself."""
    it = lab.added(bridge(DUAL, isGateway=True))
    assert set(observe.addresses(lab.node, "cni0")) == {"10.10.0.1/24", "fd00:10::1/64"}
    assert [lab.node.sysctl(name) for name in observe.FORWARDING] == ["1", "1"]
    assert observe.default_gateways(lab.node, pod=it.pod) == set()


def test_is_gateway_forwards_only_its_families(lab: Lab) -> None:
    """isGateway: forwarding is switched on for the families that have a gateway."""
    lab.added(bridge(V4, isGateway=True))
    assert [lab.node.sysctl(name) for name in observe.FORWARDING] == ["1", "0"]


def test_is_gateway_without_a_gateway_from_ipam(lab: Lab) -> None:
    """isGateway: when IPAM tells no gateway it is the subnet's first address."""
    ipam = {"type": "static", "addresses": [{"address": "10.10.0.9/24"}, {"address": "fd00:10::9/64"}]}
    it = lab.added(bridge(ipam, isGateway=True))
    assert it.result is not None
    assert [entry["gateway"] for entry in it.result["ips"]] == ["10.10.0.1", "fd00:10::1"]
    assert set(observe.addresses(lab.node, "cni0")) == {"10.10.0.1/24", "fd00:10::1/64"}


def test_is_default_gateway(lab: Lab) -> None:
    """isDefaultGateway: implies isGateway, and the default route of each family goes there and is told."""
    it = lab.added(bridge(DUAL, isDefaultGateway=True))
    assert it.result is not None and it.result["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "10.10.0.1"},
        {"dst": "::/0", "gw": "fd00:10::1"},
    ]
    assert observe.default_gateways(lab.node, pod=it.pod) == {"10.10.0.1", "fd00:10::1"}
    assert set(observe.addresses(lab.node, "cni0")) == {"10.10.0.1/24", "fd00:10::1/64"}


@pytest.mark.known_reference_failure(
    "isDefaultGateway with IPAM's own default route without gw: two equal routes, EEXIST, ADD fails."
)
def test_is_default_gateway_and_a_default_route_of_ipam(lab: Lab) -> None:
    """isDefaultGateway: IPAM's default route without gw goes through the gateway, too; it is one route."""
    it = lab.added(bridge({**DUAL, "routes": DEFAULT_ROUTES}, isDefaultGateway=True))
    found = [route for route in observe.routes(lab.node, pod=it.pod) if route["dst"] == "default"]
    assert len(found) == 2 and {route["gateway"] for route in found} == {"10.10.0.1", "fd00:10::1"}
    it.check().succeeded()


def test_is_default_gateway_and_another_gateway_of_ipam(lab: Lab) -> None:
    """isDefaultGateway: a default route of IPAM with a gw of its own is the pod's default route."""
    it = lab.added(bridge({**V4, "routes": [{"dst": "0.0.0.0/0", "gw": "10.10.0.254"}]}, isDefaultGateway=True))
    assert observe.default_gateways(lab.node, pod=it.pod) == {"10.10.0.254"}


@pytest.mark.parametrize(
    ("ipam", "old", "new"),
    [
        (V4, "10.10.0.77/24", "10.10.0.1/24"),
        (V4, "192.0.2.1/24", "10.10.0.1/24"),
        (V6, "fd00:10::77/64", "fd00:10::1/64"),
    ],
    ids=["v4-same-subnet", "v4-other-subnet", "v6-same-subnet"],
)
def test_force_address(lab: Lab, ipam: dict[str, Any], old: str, new: str) -> None:
    """forceAddress: an address of the bridge that is in the gateway's way is replaced."""
    lab.node.sh(f"ip link add cni0 type bridge; ip link set cni0 up; ip addr add {old} dev cni0 nodad")
    lab.added(bridge(ipam, isGateway=True, forceAddress=True))
    assert set(observe.addresses(lab.node, "cni0")) == {new}


def test_an_address_of_another_v6_subnet_is_not_in_the_way(lab: Lab) -> None:
    """forceAddress false: IPv6 addresses of other subnets stay beside the gateway's."""
    lab.node.sh("ip link add cni0 type bridge; ip link set cni0 up; ip addr add fd00:99::1/64 dev cni0 nodad")
    lab.added(bridge(V6, isGateway=True))
    assert set(observe.addresses(lab.node, "cni0")) == {"fd00:10::1/64", "fd00:99::1/64"}


def test_the_gateway_that_is_there_is_kept(lab: Lab) -> None:
    """isGateway for a second pod finds the address, and touches neither it nor the bridge's MAC address."""
    lab.added(bridge(DUAL, isGateway=True))
    before = observe.links(lab.node)["cni0"]["address"]
    lab.added(bridge(DUAL, isGateway=True))
    assert set(observe.addresses(lab.node, "cni0")) == {"10.10.0.1/24", "fd00:10::1/64"}
    assert observe.links(lab.node)["cni0"]["address"] == before


def test_mtu(lab: Lab) -> None:
    """mtu: of a new bridge and of both ends of the pair."""
    it = lab.added(bridge(V4, mtu=1380))
    here, inside = observe.links(lab.node), observe.links(lab.node, pod=it.pod)
    assert [here["cni0"]["mtu"], here[it.host_veth]["mtu"], inside["eth0"]["mtu"]] == [1380, 1380, 1380]
    it.check().succeeded()


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("mtu", [-1, 67, 65536, 2**31, 2**63, 1e400], ids=str)
def test_mtu_out_of_range(lab: Lab, mtu: float) -> None:
    """mtu: what no veth can have is refused before anything is made."""
    it = lab.attachment(bridge(V4))
    before = lab.snapshot()
    text = "1e400" if mtu == float("inf") else str(mtu)
    config = b'{"cniVersion":"1.0.0","name":"net","type":"bridge","mtu":%s}' % text.encode()
    outcome = it.call("ADD", stdin=config)
    assert outcome.status == 1 and outcome.json["code"] in (6, 7), outcome
    lab.unchanged_since(before)


@pytest.mark.parametrize("on", [True, False])
def test_hairpin_mode(lab: Lab, on: bool) -> None:
    """hairpinMode: a pod reaches itself through a service's address."""
    it = lab.added(bridge(V4, hairpinMode=on))
    assert observe.bridge_port(lab.node, it.host_veth)["hairpin"] is on


@pytest.mark.parametrize("on", [True, False])
def test_promisc_mode(lab: Lab, on: bool) -> None:
    """promiscMode: the bridge takes every frame."""
    it = lab.added(bridge(V4, promiscMode=on))
    assert ("PROMISC" in observe.links(lab.node)["cni0"]["flags"]) is on
    it.check().succeeded()


@pytest.mark.parametrize("on", [pytest.param(True, marks=LATER), False])
def test_port_isolation(lab: Lab, on: bool) -> None:
    """portIsolation: isolated ports do not talk to each other, and do talk to the gateway."""
    one, two = (lab.added(bridge(V4, isGateway=True, portIsolation=on)) for _ in range(2))
    assert observe.bridge_port(lab.node, one.host_veth)["isolated"] is on
    assert lab.node.pings("10.10.0.1", pod=one.pod)
    assert lab.node.pings(two.addresses[0], pod=one.pod, seconds=0) is not on


def spoofs(lab: Lab, pod: str) -> None:
    """Give the pod another MAC address than it was given."""
    lab.node.sh("ip link set eth0 address 02:00:00:00:00:99", pod=pod)


@pytest.mark.parametrize("on", [True, False])
def test_macspoofchk(lab: Lab, on: bool) -> None:
    """macspoofchk: frames with a foreign source address are dropped; the rules go with DEL."""
    it = lab.added(bridge(V4, isGateway=True, macspoofchk=on))
    assert lab.node.pings("10.10.0.1", pod=it.pod)
    spoofs(lab, it.pod)
    assert lab.node.pings("10.10.0.1", pod=it.pod, seconds=0) is not on
    it.delete().succeeded()
    assert it.leftovers() == []


@pytest.mark.parametrize("netns", ["", "/run/netns/gone"])
@pytest.mark.known_reference_failure("DEL without a namespace leaves the rules of macspoofchk.")
def test_macspoofchk_rules_go_without_a_namespace(lab: Lab, netns: str) -> None:
    """DEL: clean up its own resources even if the container network namespace no longer exists."""
    it = lab.added(bridge(V4, macspoofchk=True))
    lab.node.remove_pod(it.netns)
    it.delete(netns=netns).succeeded()
    assert it.leftovers() == []


def test_dad_is_off(lab: Lab) -> None:
    """enabledad is false by default: nothing is detected, nobody waits."""
    it = lab.added(bridge(V6))
    assert lab.node.sysctl("net/ipv6/conf/eth0/accept_dad", pod=it.pod) == "0"


def test_enabledad(lab: Lab) -> None:
    """enabledad: duplicate address detection works in the pod, and is over when ADD returns."""
    it = lab.added(bridge(V6, isGateway=True, enabledad=True))
    assert lab.node.sysctl("net/ipv6/conf/eth0/accept_dad", pod=it.pod) == "1"
    found = observe.addresses(lab.node, "eth0", pod=it.pod)["fd00:10::2/64"]
    assert not found.get("tentative") and not found.get("dadfailed")


@pytest.mark.known_reference_failure("A failed ADD leaves the pod's interface (containernetworking/plugins#29).")
def test_enabledad_finds_a_duplicate(lab: Lab) -> None:
    """enabledad: an address that another pod has makes ADD fail, and nothing is left."""
    static = {"type": "static", "addresses": [{"address": "fd00:10::7/64", "gateway": "fd00:10::1"}]}
    lab.added(bridge(static, isGateway=True))
    it = lab.attachment(bridge(static, isGateway=True, enabledad=True))
    before = lab.snapshot()
    it.call("ADD").refused(999, says="fd00:10::7")
    lab.unchanged_since(before)


@LATER
def test_disable_container_interface(lab: Lab) -> None:
    """disableContainerInterface: the interface is there and down (for virtual machines)."""
    it = lab.added(bridge(disableContainerInterface=True))
    assert "UP" not in observe.links(lab.node, pod=it.pod)["eth0"]["flags"]
    it.check().succeeded()


def test_l2(lab: Lab) -> None:
    """Without ipam: the interface is up and has no address."""
    it = lab.added(bridge())
    assert "UP" in observe.links(lab.node, pod=it.pod)["eth0"]["flags"]
    assert observe.addresses(lab.node, "eth0", pod=it.pod) == {}
    it.delete().succeeded()
    assert it.leftovers() == []


@pytest.mark.parametrize(
    ("config", "args", "mac"),
    [
        ({}, "MAC=02:00:00:00:00:01", "02:00:00:00:00:01"),
        ({}, "MAC=02-00-00-00-00-01", "02:00:00:00:00:01"),
        ({}, "MAC=0200.0000.0001", "02:00:00:00:00:01"),
        ({}, "MAC=02:00:00:00:AB:CD", "02:00:00:00:ab:cd"),
        ({"args": {"cni": {"mac": "02:00:00:00:00:02"}}}, "MAC=02:00:00:00:00:01", "02:00:00:00:00:02"),
        (
            {
                "args": {"cni": {"mac": "02:00:00:00:00:02"}},
                "capabilities": {"mac": True},
                "runtimeConfig": {"mac": "02:00:00:00:00:03"},
            },
            "MAC=02:00:00:00:00:01",
            "02:00:00:00:00:03",
        ),
        ({"args": {"cni": {"mac": "02:00:00:00:00:02"}}}, None, "02:00:00:00:00:02"),
        ({"runtimeConfig": {"mac": "02:00:00:00:00:03"}}, None, "02:00:00:00:00:03"),
    ],
    ids=[
        "env",
        "env-dashes",
        "env-dots",
        "env-upper",
        "args-win",
        "runtimeConfig-wins",
        "args",
        "runtimeConfig",
    ],
)
def test_mac(lab: Lab, config: dict[str, Any], args: str | None, mac: str) -> None:
    """MAC: CNI_ARGS, args.cni.mac and the capability mac ask for it, the later the stronger; told in lower case."""
    it = lab.added(bridge(**config), args=args)
    assert observe.links(lab.node, pod=it.pod)["eth0"]["address"] == mac
    assert it.result is not None and it.result["interfaces"][2]["mac"] == mac
    it.delete().succeeded()


def test_mac_and_address_by_args(lab: Lab) -> None:
    """CNI_ARGS are provided to all plugins, with no indication if they are going to be consumed."""
    it = lab.added(bridge(V4), args="IgnoreUnknown=1;IP=10.10.0.77;MAC=02:00:00:00:00:01")
    assert observe.links(lab.node, pod=it.pod)["eth0"]["address"] == "02:00:00:00:00:01"
    assert it.addresses == ["10.10.0.77"]


@pytest.mark.known_reference_failure(
    "CNI_ARGS are provided to all plugins: bridge refuses host-local's IP, host-local refuses bridge's MAC."
)
def test_mac_and_address_by_args_without_ignore_unknown(lab: Lab) -> None:
    """CNI_ARGS are provided to all plugins, with no indication if they are going to be consumed."""
    assert lab.added(bridge(V4), args="IP=10.10.0.77;MAC=02:00:00:00:00:01").addresses == ["10.10.0.77"]


OF_IPAM = {"nameservers": ["192.0.2.53"], "domain": "ipam.example"}
LOSES_DNS = pytest.mark.known_reference_failure(
    "0.4.0, Result: ips and dns should be the same output as was returned by the IPAM plugin; 1.1.1 drops its dns."
)


@pytest.mark.parametrize(
    ("dns", "told"),
    [
        pytest.param(None, OF_IPAM, marks=LOSES_DNS),
        pytest.param({}, OF_IPAM, marks=LOSES_DNS),
        ({"nameservers": ["192.0.2.99"]}, {"nameservers": ["192.0.2.99"]}),
        ({"search": ["a.example"]}, {"search": ["a.example"]}),
    ],
    ids=["of-ipam", "empty", "nameservers", "search"],
)
def test_dns(lab: Lab, dns: Any, told: dict[str, Any]) -> None:
    """dns: IPAM's, unless the configuration has its own; then that alone."""
    static = {"type": "static", "addresses": [{"address": "10.10.0.9/24"}], "dns": OF_IPAM}
    keys = {} if dns is None else {"dns": dns}
    assert lab.attachment(bridge(static, **keys)).add()["dns"] == told


VLAN_KEYS = [
    {"vlan": 7},
    {"vlanTrunk": [{"id": 7}]},
    {"vlanTrunk": [{"minID": 5, "maxID": 9}]},
    {"vlan": 7, "vlanTrunk": [{"id": 9}]},
]


@pytest.mark.usefixtures("own_promise")
@pytest.mark.parametrize("keys", VLAN_KEYS, ids=str)
@pytest.mark.parametrize("there", [False, True], ids=["new-bridge", "bridge-is-there"])
def test_vlans_where_the_kernel_has_none(lab: Lab, keys: dict[str, Any], there: bool) -> None:
    """Error code 2: unsupported field; the message must contain the key and value. Nothing is made."""
    if not lab.node.run("ip", "link", "add", "probe", "type", "bridge", "vlan_filtering", "1", check=False).returncode:
        pytest.skip("this kernel has VLAN filtering: what the keys do is tested on the emulated machine")
    lab.added(bridge(V4))  # what a first call of any kind leaves: folders and locks
    if not there:
        lab.node.run("ip", "link", "del", "cni0")
    it = lab.attachment(bridge(V4, **keys))
    before = lab.snapshot()
    it.call("ADD").refused(2, says=rf"{next(iter(keys))}.*(7|5|9)")
    lab.unchanged_since(before)
    it.delete().succeeded()
    lab.unchanged_since(before)


WRONG = {
    "hairpin-and-promisc": (
        {"hairpinMode": True, "promiscMode": True},
        "hairpin.*promisc|promisc.*hairpin",
    ),
    "vlan-too-large": ({"vlan": 4095}, "vlan.*4095"),
    "vlan-negative": ({"vlan": -1}, "vlan.*-1"),
    "trunk-id-zero": ({"vlanTrunk": [{"id": 0}]}, "vlanTrunk"),
    "trunk-id-too-large": ({"vlanTrunk": [{"id": 4095}]}, "vlanTrunk.*4095"),
    "trunk-min-alone": ({"vlanTrunk": [{"minID": 5}]}, "vlanTrunk"),
    "trunk-max-alone": ({"vlanTrunk": [{"maxID": 5}]}, "vlanTrunk"),
    "trunk-turned-round": ({"vlanTrunk": [{"minID": 9, "maxID": 5}]}, "vlanTrunk"),
    "backend-unknown": ({"ipMasq": True, "ipMasqBackend": "ipfw"}, "ipMasqBackend.*ipfw"),
    "bridge-empty": ({"bridge": ""}, "bridge"),
    "bridge-too-long": ({"bridge": "abcdefghijklmnop"}, "bridge.*abcdefghijklmnop"),
    "bridge-with-slash": ({"bridge": "a/b"}, "bridge.*a/b"),
    "bridge-with-space": ({"bridge": "a b"}, "bridge.*a b"),
    "bridge-dots": ({"bridge": ".."}, "bridge"),
    "mtu-text": ({"mtu": "1500"}, "mtu"),
    "mtu-fraction": ({"mtu": 1500.5}, "mtu"),
    "flag-text": ({"isGateway": "true"}, "isGateway"),
    "flag-number": ({"ipMasq": 1}, "ipMasq"),
    "bridge-number": ({"bridge": 5}, "bridge"),
    "dns-list": ({"dns": ["192.0.2.1"]}, "dns"),
    "mac-nonsense": ({"runtimeConfig": {"mac": "nonsense"}}, "mac.*nonsense"),
    "mac-too-short": ({"args": {"cni": {"mac": "02:00:00:00:00"}}}, "mac.*02:00:00:00:00"),
    "ipam-disabled-interface": ({"disableContainerInterface": True}, "disableContainerInterface"),
}
MAC_LATE = "The MAC address is looked at when the bridge is already made."
KNOWN = {
    **dict.fromkeys((name for name in WRONG if name.startswith("trunk-")), "vlanTrunk is later than 1.1.1."),
    "backend-unknown": "ipMasqBackend is later than 1.1.1; later versions look at it when all else is done.",
    "ipam-disabled-interface": "disableContainerInterface is later than 1.1.1.",
    "mac-nonsense": MAC_LATE,
    "mac-too-short": MAC_LATE,
}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        pytest.param(
            *case,
            id=name,
            marks=[pytest.mark.known_reference_failure(KNOWN[name])] if name in KNOWN else [],
        )
        for name, case in WRONG.items()
    ],
)
def test_wrong_values(lab: Lab, keys: dict[str, Any], says: str) -> None:
    """Error code 7: invalid network config; the message says which key. Nothing is made."""
    it = lab.attachment(bridge(V4, **keys))
    before = lab.snapshot()
    it.call("ADD").refused(7, says=says)
    lab.unchanged_since(before)


@pytest.mark.parametrize(
    "args",
    [
        *(
            pytest.param(args, marks=pytest.mark.known_reference_failure(MAC_LATE))
            for args in ("MAC=nonsense", "MAC=02:00:00:00:00")
        ),
        "MAC",
    ],
)
def test_wrong_mac_by_args(lab: Lab, args: str) -> None:
    """Error code 4: invalid environment variables; the error message must contain the names."""
    it = lab.attachment(bridge(V4), args=args)
    before = lab.snapshot()
    it.call("ADD").refused(4, says="MAC.*CNI_ARGS|CNI_ARGS.*MAC")
    lab.unchanged_since(before)


@pytest.mark.parametrize("mac", ["01:00:5e:00:00:01", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"])
def test_a_mac_that_no_interface_can_have(lab: Lab, mac: str) -> None:
    """A group address or none is no interface's address: refused, nothing is left."""
    lab.added(bridge(V4))
    it = lab.attachment(bridge(V4, runtimeConfig={"mac": mac}))
    before = lab.snapshot()
    outcome = it.call("ADD")
    if outcome.status == 0:
        assert mac == "00:00:00:00:00:00", "a group address became an interface's address"
        assert outcome.json["interfaces"][2]["mac"] != mac
        return
    outcome.refused(7, says=mac)
    lab.unchanged_since(before)


@pytest.mark.usefixtures("own_promise")
def test_the_host_veth_says_whose_it_is(lab: Lab) -> None:
    """Whoever looks at the node sees network, container and interface on the host's end."""
    it = lab.added(bridge(V4))
    link = observe.links(lab.node)[it.host_veth]
    told = f"{link.get('ifalias')} {link.get('altnames')}"
    assert all(word in told for word in ("net", it.container_id, "eth0")), told
