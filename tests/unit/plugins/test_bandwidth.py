"""bandwidth in process: what rests on no kernel."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from cni.net.facts import Filter, Qdisc, Shaping
from cni.net.qdiscs import REFERENCE_TBF_HANDLE
from cni.net.shaping import bucket
from cni.plugins.bandwidth import ifb_names
from cni.spec.owner import Owner
from tests.unit.calls import EGRESS, ID, INGRESS, V4, Runtime, runtime

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["runtime"]

PTP = {"type": "ptp", "ipam": V4}
BOTH: dict[str, Any] = {"type": "bandwidth", "after": PTP, **INGRESS, **EGRESS}
REFERENCE, OWN = ifb_names(Owner("net", ID, "eth0"))


def test_names() -> None:
    """The first is the reference's, without the interface."""
    assert ifb_names(Owner("dbnet", "abc123", "eth0"))[0] == "bwp2c9d881d1924"
    assert ifb_names(Owner("dbnet", "abc123", "net1"))[0] == "bwp2c9d881d1924"
    found = {ifb_names(Owner("dbnet", "abc123", name))[1] for name in ("eth0", "net1")}
    assert len(found) == 2 and {len(name) for name in found} == {15}


def without_label(runtime: Runtime, name: str = REFERENCE) -> None:
    """An ifb as the reference makes it."""
    runtime.machine.host().root.create_ifb(name, "02:00:00:00:00:77", 1500, "")


def ifb_of(result: dict[str, Any]) -> str:
    return str(result["interfaces"][-1]["name"])


def test_the_name_of_somebody_elses_ifb_is_left_to_it(runtime: Runtime) -> None:
    """It may be the reference's, of another interface of the container."""
    without_label(runtime)
    pod = runtime.pod()
    config = runtime.ready(BOTH, pod)
    result = runtime.add(config, pod)
    assert ifb_of(result) == OWN
    assert runtime.call("CHECK", {**config, "prevResult": result}, pod).status == 0
    assert runtime.call("DEL", {**config, "prevResult": result}, pod).status == 0
    assert set(runtime.machine.root.links) & {REFERENCE, OWN} == {REFERENCE}


def test_both_names_are_taken(runtime: Runtime) -> None:
    without_label(runtime)
    runtime.machine.host().root.create_bridge(OWN, 0, False)
    pod = runtime.pod()
    config = runtime.ready(BOTH, pod)
    was = runtime.dump()
    reply = runtime.call("ADD", config, pod)
    assert "are not this attachment's" in json.loads(reply.stdout)["msg"]
    assert runtime.dump() == was


@pytest.mark.parametrize(
    ("prev", "stays"), [("none", False), ("lists", False), ("lists-others", True), ("lists-nothing", False)]
)
def test_del_of_an_ifb_without_a_label(runtime: Runtime, prev: str, stays: bool) -> None:
    """It is the reference's. That prevResult, which knows its attachment's interfaces, does not list it speaks against it."""
    pod = runtime.pod()
    config = runtime.ready(BOTH, pod)
    result = config.pop("prevResult")
    without_label(runtime)
    listed = {"lists": [*result["interfaces"], {"name": REFERENCE}], "lists-others": result["interfaces"], "lists-nothing": []}
    given = {} if prev == "none" else {"prevResult": {**result, "interfaces": listed[prev], "ips": []}}
    assert runtime.call("DEL", config | given, pod).status == 0
    assert (REFERENCE in runtime.machine.root.links) == stays


def test_del_of_an_ifb_that_the_veth_leads_to(runtime: Runtime) -> None:
    """prevResult is of the plugin before: an ADD of the reference was killed."""
    pod = runtime.pod()
    config = runtime.ready(BOTH, pod)
    was = runtime.dump()
    without_label(runtime)
    runtime.machine.host().root.traffic.redirect(config["prevResult"]["interfaces"][0]["name"], REFERENCE)
    assert runtime.call("DEL", config, pod).status == 0
    assert runtime.dump() == was


def test_add_over_leftovers_of_the_reference(runtime: Runtime) -> None:
    pod = runtime.pod()
    config = runtime.ready(BOTH, pod)
    root = runtime.machine.host().root
    veth = config["prevResult"]["interfaces"][0]["name"]
    without_label(runtime)
    root.traffic.redirect(veth, REFERENCE)
    made = bucket(config["ingressRate"], config["ingressBurst"])
    link = runtime.machine.root.links[veth]
    theirs = Qdisc("tbf", REFERENCE_TBF_HANDLE, made.rate, made.limit, made.buffer)
    link.shaping = msgspec.structs.replace(link.shaping, root=theirs)
    assert ifb_of(runtime.add(config, pod)) == REFERENCE
    assert root.link(REFERENCE).alias == f"podwire/net/{ID}/eth0"


def test_a_filter_of_somebody_else_stays(runtime: Runtime) -> None:
    pod = runtime.pod()
    config = runtime.ready(BOTH, pod)
    veth = runtime.machine.root.links[config["prevResult"]["interfaces"][0]["name"]]
    veth.shaping = Shaping(Qdisc("fq", 0x80010000), Qdisc("ingress", 0xFFFF0000), (Filter("flower"),))
    was = runtime.dump()
    reply = runtime.call("ADD", config, pod)
    assert "of somebody else's" in json.loads(reply.stdout)["msg"]
    assert runtime.call("DEL", config, pod).status == 0
    assert runtime.dump() == was


def test_the_veth_of_another_attachment(runtime: Runtime) -> None:
    """The indexes fit, in two namespaces that have nothing to do with each other: its label tells."""
    pod = runtime.pod()
    config = runtime.ready(BOTH, pod)
    veth = runtime.machine.root.links[config["prevResult"]["interfaces"][0]["name"]]
    veth.alias = "podwire/net/other/eth0"
    reply = runtime.call("ADD", config, pod)
    assert json.loads(reply.stdout)["code"] == 7
    veth.alias = "of an administrator"
    assert runtime.call("ADD", config, pod).status == 0


@pytest.mark.parametrize("where", ["", "runtimeConfig"])
def test_a_kernel_that_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """ADD names the key, STATUS says so if it is sure that no ADD could succeed."""
    runtime = Runtime(tmp_path, monkeypatch, shapes=False)
    for limits, says in ((INGRESS, "token bucket"), (EGRESS, "")):
        given = {where: {"bandwidth": limits}} if where else limits
        pod = runtime.pod()
        config = runtime.ready({"type": "bandwidth", "after": PTP, **given}, pod)
        was = runtime.dump()
        error = json.loads(runtime.call("ADD", config, pod).stdout)
        assert (error["code"], says in error["msg"], f"{next(iter(limits))}" in error["details"]) == (2, True, True)
        assert runtime.dump() == was
        reply = runtime.call("STATUS", runtime.config(type="bandwidth", **given))
        assert json.loads(reply.stdout or b'{"code": 0}')["code"] == (0 if where else 50)
        assert runtime.call("DEL", config, pod).status == 0
        assert runtime.call("DEL", runtime.config(**PTP), pod).status == 0


def test_without_limits_nothing_is_needed(runtime: Runtime) -> None:
    """The pod has no interface at all."""
    prev = {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}], "ips": [{"address": "10.0.0.5/24"}]}
    config = runtime.config(type="bandwidth", ingressRate=0, prevResult=prev)
    pod = runtime.pod()
    assert runtime.add(config, pod) == prev
    for verb in ("CHECK", "DEL"):
        assert runtime.call(verb, config, pod).status == 0


def test_a_result_that_lists_the_ifb_already(runtime: Runtime) -> None:
    """As when a runtime repeats an ADD with the result of the first."""
    pod = runtime.pod()
    config = runtime.ready(BOTH, pod)
    result = runtime.add(config, pod)
    assert runtime.add({**config, "prevResult": result}, pod) == result


def test_the_bucket_is_not_believed_by_its_kind_alone(runtime: Runtime) -> None:
    """A tbf of an administrator has another handle, or the reference's with other numbers."""
    pod = runtime.pod()
    config = runtime.ready(BOTH, pod)
    veth = runtime.machine.root.links[config["prevResult"]["interfaces"][0]["name"]]
    for handle in (0x80010000, REFERENCE_TBF_HANDLE):
        veth.shaping = msgspec.structs.replace(veth.shaping, root=Qdisc("tbf", handle, 1, 1, 1))
        for given in (config, {**config, "ingressRate": 3}, {**config, "ingressRate": "much"}):
            assert runtime.call("DEL", given, pod).status == 0
            assert veth.shaping.root is not None


def test_filters_that_lead_nowhere(runtime: Runtime) -> None:
    """What led everything to a link that is gone was an ADD's; what led a part of it was not."""
    pod = runtime.pod()
    config = runtime.ready(BOTH, pod)
    veth = runtime.machine.root.links[config["prevResult"]["interfaces"][0]["name"]]
    for filters, stays in (((Filter("u32", False, 0),), True), ((), True), ((Filter("u32", True, 0),), False)):
        veth.shaping = Shaping(None, Qdisc("ingress", 0xFFFF0000), filters)
        assert runtime.call("DEL", config, pod).status == 0
        assert (veth.shaping.ingress is not None) is stays
