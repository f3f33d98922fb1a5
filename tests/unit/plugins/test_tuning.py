"""tuning's decisions: whose word counts, what is refused, what is planned, in which order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cni.net.backup import Backup, Own
from cni.net.facts import Link, NeighbourSeen
from cni.plugins import tuning
from cni.plugins.tuning import AtMac, Facts
from cni.spec.addresses import parse_cidr, parse_ip
from cni.spec.call import Call
from cni.spec.errors import CNIError, ConfigError
from cni.spec.result import AssignedIp, Interface, Result
from tests.unit.calls import ID, V4, runtime

__all__ = ["runtime"]

MACS = [f"02:00:00:00:00:0{number}" for number in range(5)]
LINK = Link(index=3, name="eth0", mac=MACS[0], mtu=1500, txqlen=1000)
PREV = Result(
    interfaces=(
        Interface(name="cni0"),
        Interface(name="eth0", mac="02:00:00:00:00:FF", mtu=1500, sandbox="/run/netns/x"),
        Interface(name="eth0", mac=MACS[4]),
    ),
    ips=(AssignedIp(parse_cidr("10.0.0.2/24"), None, 1),),
)


def call(config: dict[str, Any], verb: str = "ADD", **more: Any) -> Call:
    document = {"cniVersion": "1.1.0", "name": "net", "type": "tuning", **config}
    given: dict[str, Any] = {"container_id": "c", "netns": "/run/netns/x", "ifname": "eth0", "network": "net"}
    return Call(verb=verb, config=document, stdin=json.dumps(document).encode(), version="1.1.0", **{**given, **more})


def parsed(config: dict[str, Any], **more: Any) -> dict[str, Any]:
    asked = call(config, **more)
    return tuning.parse(asked).attributes(asked)


def test_the_strongest_word_counts() -> None:
    keys: dict[str, Any] = {"mac": MACS[1]}
    assert parsed(keys)["mac"] == MACS[1]
    assert parsed(keys, args={"MAC": MACS[2]})["mac"] == MACS[2]
    keys["runtimeConfig"] = {"mac": MACS[3]}
    assert parsed(keys, args={"MAC": MACS[2]})["mac"] == MACS[3]
    keys["args"] = {"cni": {"mac": MACS[4]}}
    assert parsed(keys, args={"MAC": MACS[2]})["mac"] == MACS[4]


def test_what_is_left_alone() -> None:
    assert parsed({}) == parsed({"mac": "", "mtu": 0, "promisc": False, "allmulti": None, "txQLen": None}) == {}
    assert parsed({"allmulti": False, "txQLen": 0}) == {"allmulti": False, "txQLen": 0}
    over = {"args": {"cni": {"mtu": 0, "promisc": False, "allmulti": True, "txQLen": 5}}}
    assert parsed({"mtu": 1400, "promisc": True, "allmulti": False, "txQLen": 0, **over}) == {"allmulti": True, "txQLen": 5}


def test_sysctls_of_both_places_in_their_order() -> None:
    config = {
        "sysctl": {"net.ipv4.a": "1", "net.ipv4.conf.IFNAME.b": "1"},
        "args": {"cni": {"sysctl": {"net/ipv4/a": "2", "net.ipv4.c": "3"}}},
    }
    asked = call(config)
    conf = tuning.parse(asked)
    assert list(conf.sysctls(asked).items()) == [("net/ipv4/conf/eth0/b", "1"), ("net/ipv4/a", "2"), ("net/ipv4/c", "3")]
    assert conf.names == ["net.ipv4.a", "net.ipv4.conf.IFNAME.b", "net/ipv4/a", "net.ipv4.c"]


@pytest.mark.parametrize(
    "config",
    [
        {"sysctl": {"net.ipv4.a": "1", "net/ipv4/a": "2"}},
        {"sysctl": {"net.ipv4.a": 1}},
        {"sysctl": {"kernel.a": "1"}},
        {"args": {"cni": {"sysctl": {"kernel.a": "1"}}}},
        {"mtu": 67},
        {"mtu": -1},
        {"args": {"cni": {"mtu": 65536}}},
        {"txQLen": -1},
        {"txQLen": 1 << 32},
        {"mac": "x"},
        {"dataDir": "x"},
        {"promisc": 1},
    ],
)
def test_refused_by_add_and_no_matter_to_del(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        tuning.parse(call(config))
    for verb in ("DEL", "GC"):
        assert tuning.parse(call(config, verb)).sysctl == {}


def test_the_same_key_twice() -> None:
    for text in (b'{"a": "1", "a": "2"}', b'{"a\\u0062": "1", "ab" : "1"}', b'{"\\"x\\":": "b: c", "y": "d", "y": ""}'):
        stdin = b'{"name": "net", "type": "tuning", "Sysctl": ' + text + b"}"
        config = json.loads(stdin)
        config["Sysctl"] = {}
        with pytest.raises(ConfigError, match="more than once"):
            tuning.parse(Call(verb="ADD", config=config, stdin=stdin, ifname="eth0"))
    fine = b'{"name": "net", "type": "tuning", "sysctl": {"net.a": "net.a:", "net.b": "\\"net.a\\":"}}'
    tuning.parse(Call(verb="ADD", config=json.loads(fine), stdin=fine, ifname="eth0"))


def planned(config: dict[str, Any], facts: Facts) -> tuple[list[str], Result]:
    asked = call(config)
    plan, result = tuning.plan_add(tuning.parse(asked), asked, facts, PREV)
    return [op.describe() for op in plan], result


def test_the_plan() -> None:
    """The former values first; a pod may send from its new address before it has it; then sysctls, and a look at them."""
    config = {"mac": MACS[1], "mtu": 1400, "sysctl": {"net.a": "1", "net.b": "2"}}
    near = NeighbourSeen(parse_ip("169.254.1.1"), MACS[2])
    steps, result = planned(config, Facts(link=LINK, sysctls={"net/a": "0"}, sandbox="4:7", at_mac=AtMac(True, "", (near,))))
    assert steps == [
        "write /run/cni/tuning/c_eth0.json",
        f"let {call({}).owner.host_veth} send from {MACS[1]} instead of {MACS[0]}",
        f"set mac of eth0 in the sandbox to {MACS[1]}",
        "set mtu of eth0 in the sandbox to 1400",
        "keep in mind to write sysctls on the sandbox: net/a=0 when this call fails",
        "write sysctls on the sandbox: net/a=1",
        "write sysctls on the sandbox: net/b=2",
        "read the sysctls in the sandbox back",
    ]
    assert [(entry.mac, entry.mtu) for entry in result.interfaces] == [("", 0), (MACS[1], 1400), (MACS[4], 0)]


def test_what_is_as_wanted_is_not_changed_and_still_noted() -> None:
    """Another plugin may change it before DEL."""
    steps, _ = planned({"mac": MACS[0].upper(), "mtu": 1500}, Facts(link=LINK, sandbox="4:7"))
    assert steps == ["write /run/cni/tuning/c_eth0.json"]


def test_original_values_are_kept() -> None:
    own = Own(owner=call({}).owner.label, sandbox="4:7", index=3, mtu=1400, turn=1)
    facts = Facts(link=LINK, sandbox="4:7", raw=b"old", backup=Backup({"mtu": 9000}, own))
    assert planned({"mtu": 1400}, facts)[0] == ["set mtu of eth0 in the sandbox to 1400"]
    asked = call({"mtu": 1400, "allmulti": True})
    plan, _ = tuning.plan_add(tuning.parse(asked), asked, facts, PREV)
    assert json.loads(plan[0].content)["mtu"] == 9000
    assert plan[0].before == b"old"
    elsewhere = Facts(link=LINK, sandbox="4:8", raw=b"old", backup=Backup({"mtu": 9000}, own))
    plan, _ = tuning.plan_add(tuning.parse(asked), asked, elsewhere, PREV)
    assert json.loads(plan[0].content)["mtu"] == 1500


def test_nothing_to_do() -> None:
    steps, result = planned({}, Facts())
    assert (steps, result) == ([], PREV)


def test_without_the_interface() -> None:
    with pytest.raises(CNIError, match="there is no interface 'eth0'"):
        planned({"mtu": 1400}, Facts())
    assert len(planned({"sysctl": {"net.a": "1"}}, Facts())[0]) == 3


def test_ipv6_needs_its_mtu() -> None:
    v6 = Result(ips=(AssignedIp(parse_cidr("fd00::2/64")),))
    asked = call({"mtu": 1279})
    with pytest.raises(ConfigError, match="1280"):
        tuning.plan_add(tuning.parse(asked), asked, Facts(link=LINK), v6)


def test_sysctls_alone_need_no_netlink(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only who changes the interface pays for looking at it."""
    pod = runtime.pod()
    prev = runtime.add(runtime.config(ipam=V4), pod)
    config = runtime.config(type="tuning", sysctl={"net.core.somaxconn": "5"}, prevResult=prev)

    def no_door(self: Any) -> Any:
        raise AssertionError("netlink was asked for")

    monkeypatch.setattr("tests.fakes.FakeKernel.link", no_door)
    runtime.add(config, pod)
    assert json.loads(runtime.machine.files[f"/run/cni/tuning/{ID}_eth0.json"])["podwire"]["index"] == 0
    for verb in ("CHECK", "DEL"):
        assert runtime.call(verb, config, pod).status == 0
    assert runtime.machine.files == {}
