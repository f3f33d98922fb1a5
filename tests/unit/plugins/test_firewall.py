"""firewall: what it takes for the pod's bridge, and whose addresses a DEL removes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cni.net import execute
from tests.unit.calls import DUAL, V4, runtime

if TYPE_CHECKING:
    from tests.unit.calls import Runtime

__all__ = ["runtime"]


@pytest.mark.parametrize("policy", ["same-bridge", "isolated"])
def test_a_link_in_the_pod_is_no_bridge(runtime: Runtime, policy: str) -> None:
    """macvlan's result lists the pod's interface first. A link of the host with this name is somebody else's."""
    pod = runtime.pod()
    runtime.machine.uplink()
    result = runtime.add(runtime.config(type="macvlan", master="up0", ipam=V4), pod)
    reply = runtime.call("ADD", runtime.config(type="firewall", ingressPolicy=policy, prevResult=result), pod)
    assert json.loads(reply.stdout)["code"] == 7
    assert policy in json.loads(reply.stdout)["msg"]


@pytest.mark.parametrize("name", ["a" * 16, "a b", 'a"b'])
def test_a_bridge_that_rules_cannot_name(runtime: Runtime, name: str) -> None:
    pod = runtime.pod()
    result = runtime.add(runtime.config(ipam=V4), pod)
    result["interfaces"][0]["name"] = name
    before = runtime.dump()
    reply = runtime.call("ADD", runtime.config(type="firewall", ingressPolicy="same-bridge", prevResult=result), pod)
    assert json.loads(reply.stdout)["code"] == 7
    assert runtime.dump() == before


def test_addresses_that_a_pod_gave_itself_are_not_removed(runtime: Runtime) -> None:
    """With prevResult DEL knows the pod's; one that a pod with the power to do so added is another pod's."""
    firewall = {"type": "firewall", "backend": "iptables"}
    pods = [runtime.pod() for _ in range(2)]
    results: list[dict[str, Any]] = []
    for pod, container in zip(pods, ("one", "two"), strict=True):
        results.append(runtime.add(runtime.config(ipam=V4), pod, CNI_CONTAINERID=container))
        runtime.add(runtime.config(**firewall, prevResult=results[-1]), pod, CNI_CONTAINERID=container)
    victim = results[1]["ips"][0]["address"].partition("/")[0]
    before = [line for line in runtime.dump().splitlines() if victim in line]
    inside = runtime.machine.pods[pods[0]].links["eth0"]
    inside.addresses.append(type(inside.addresses[0])(f"{victim}/32"))
    reply = runtime.call("DEL", runtime.config(**firewall, prevResult=results[0]), pods[0], CNI_CONTAINERID="one")
    assert reply.status == 0
    inside.addresses.pop()
    assert [line for line in runtime.dump().splitlines() if victim in line] == before


def test_a_sweep_between_looking_and_doing(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last other pod went when this one had looked: what lets its packets pass is made anew, of both families."""
    for v6 in (False, True):
        runtime.machine.host().iptables.restore(v6, "*filter\n-N CNI-ADMIN\nCOMMIT\n")
    config = runtime.config(type="firewall", backend="nftables")
    pods, results = [runtime.pod(), runtime.pod()], []
    for pod, container in zip(pods, ("one", "two"), strict=True):
        results.append(runtime.add(runtime.config(ipam=DUAL), pod, CNI_CONTAINERID=container))
    runtime.add(config | {"prevResult": results[0]}, pods[0], CNI_CONTAINERID="one")
    work, gone = execute.execute, []

    def late(plan: Any, host: Any, done: Any) -> None:
        tables = runtime.machine.rules.tables
        if not gone:
            gone.append(tables.pop(("inet", "podwire_firewall")))
            for family in ("ip", "ip6"):
                tables[family, "filter"].chains["FORWARD"].rules.clear()
        work(plan, host, done)

    monkeypatch.setattr(execute, "execute", late)
    runtime.add(config | {"prevResult": results[1]}, pods[1], CNI_CONTAINERID="two")
    assert gone
    told = runtime.machine.host().nft
    for family in ("ip", "ip6"):
        rules = [entry for entry in told.chain(f"{family} filter FORWARD") if "rule" in entry]
        assert len(rules) == 2, f"{family}: pods are not let through"
