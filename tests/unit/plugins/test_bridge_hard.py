"""bridge where the host lacks something, the input lies, or somebody else was faster. The machine is in memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cni.net.facts import Vlan
from cni.net.ops import Side
from cni.nft.apply import NftError
from cni.spec.addresses import parse_cidr
from cni.spec.errors import Unusable
from cni.spec.owner import Owner
from tests.fakes import FakeKernel, FakeNft
from tests.unit.calls import ID, IFNAME, V4, Failing, Runtime, each_operation, runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["runtime"]

OWNER = Owner("net", ID, IFNAME)


FAILURES = [Unusable("cannot load libnftables"), NftError("cannot read nftables", "no luck")]


@pytest.fixture(params=FAILURES, ids=["none", "broken"])
def unreadable(request: pytest.FixtureRequest) -> Iterator[Exception]:
    """nftables cannot be read from now on: there is none, or it fails."""
    with pytest.MonkeyPatch.context() as patch:

        def fail(*given: Any) -> Any:
            raise request.param

        for name in ("query", "sets", "chain", "run"):
            patch.setattr(FakeNft, name, fail)
        yield request.param


def test_del_and_gc_without_nftables(runtime: Runtime, unreadable: Exception) -> None:
    """The link goes with the lease: a pod that lives on with an address of the free list would be the worst end."""
    config = runtime.config(ipam=V4)
    for verb in ("DEL", "GC"):
        runtime.add(config, pod := runtime.pod())
        reply = runtime.call(verb, {**config, "cni.dev/valid-attachments": []}, pod if verb == "DEL" else "")
        assert runtime.machine.host().root.link(OWNER.host_veth) is None
        assert runtime.leases() == {}
        if isinstance(unreadable, Unusable):
            assert reply.status == 0 and "packet rules were not looked for" in reply.stderr
        else:
            assert json.loads(reply.stdout)["msg"] == "cannot read nftables"


def test_what_the_configuration_asks_for_is_missed(runtime: Runtime) -> None:
    """With ipMasq, rules may be there that nobody can see: a failure, when all else is gone."""
    config, pod = runtime.config(ipam=V4, ipMasq=True), runtime.pod()
    runtime.add(config, pod)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeNft, "query", lambda *given: (_ for _ in ()).throw(Unusable("cannot load libnftables")))
        assert json.loads(runtime.call("DEL", config, pod).stdout)["msg"] == "cannot load libnftables"
    assert runtime.machine.host().root.link(OWNER.host_veth) is None
    assert runtime.leases() == {}


@pytest.mark.parametrize("mac", ["} \ndelete table inet canary\n", "80:00:02:08:fe:80:00:01", "x"])
def test_hardware_addresses_of_prevresult_are_no_commands(runtime: Runtime, mac: str) -> None:
    """prevResult is a hint. What is no address of 48 bits in it is left out."""
    config, pod = runtime.config(macspoofchk=True), runtime.pod()
    prev = runtime.add(config, pod)
    prev["interfaces"].append({"name": "x", "mac": mac, "sandbox": pod})
    assert runtime.call("DEL", {**config, "prevResult": prev}, pod).status == 0
    assert mac not in "".join(runtime.machine.rules.dump())
    assert OWNER.host_veth not in "".join(runtime.machine.rules.dump())


@pytest.mark.parametrize("known", [True, False])
def test_a_spoof_check_for_a_given_address_goes_without_the_sandbox(runtime: Runtime, known: bool) -> None:
    config, pod = runtime.config(macspoofchk=True, runtimeConfig={"mac": "02:00:00:00:00:77"}), runtime.pod()
    prev = runtime.add(config, pod)
    runtime.machine.host().root.delete_link(OWNER.host_veth)  # it dies with the sandbox
    del runtime.machine.pods[pod]
    assert runtime.call("DEL", {**config, "prevResult": prev} if known else config, pod).status == 0
    assert OWNER.host_veth not in "".join(runtime.machine.rules.dump())


def test_without_ipam_prevresult_gives_no_addresses(runtime: Runtime) -> None:
    """bridge behind loopback in a list: 127.0.0.1 is not the pod's address, and surely not the bridge's gateway."""
    prev = {"cniVersion": "1.1.0", "interfaces": [{"name": "lo", "sandbox": "x"}], "ips": [{"address": "127.0.0.1/8"}]}
    pod = runtime.pod()
    result = runtime.add(runtime.config(isGateway=True, prevResult=prev), pod)
    assert "ips" not in result
    assert runtime.machine.host().root.addresses("cni0") == ()


def test_a_forced_address_is_put_back(runtime: Runtime) -> None:
    """A failed ADD with forceAddress leaves the other network's gateway alone on the bridge, also while pods hang on it."""
    runtime.add(runtime.config(ipam=V4, isGateway=True), runtime.pod())
    second = {"type": "host-local", "subnet": "10.2.0.0/24"}
    other = {**runtime.config(ipam=second, isGateway=True, forceAddress=True), "name": "b"}
    with pytest.MonkeyPatch.context() as patch:
        failing = Failing(9, lambda: Unusable("injected"))
        each_operation(patch, failing)
        assert runtime.call("ADD", other, runtime.pod()).status == 1
    assert any("10.2.0.1" in step for step in failing.steps[:-1]), failing.steps
    assert runtime.machine.host().root.addresses("cni0") == (parse_cidr("10.1.0.1/24"),)


@pytest.mark.parametrize("name", ["cni%d", "all", "default"])
def test_names_that_the_kernel_takes_otherwise(runtime: Runtime, name: str) -> None:
    before = runtime.dump()
    reply = runtime.call("ADD", runtime.config(bridge=name), runtime.pod())
    assert json.loads(reply.stdout)["code"] == 7
    reply = runtime.call("ADD", runtime.config(), runtime.pod(), CNI_IFNAME=name)
    assert json.loads(reply.stdout)["code"] == 4
    assert [line for line in runtime.dump().splitlines() if "cni" in line and line not in before] == []


def test_an_attachment_is_not_made_twice(runtime: Runtime) -> None:
    """The same container and interface in another sandbox: the lease of the one that lives stays with it."""
    config = runtime.config(ipam=V4)
    runtime.add(config, runtime.pod())
    before = runtime.leases()
    reply = runtime.call("ADD", config, runtime.pod())
    assert "already exists in another sandbox" in json.loads(reply.stdout)["msg"]
    assert runtime.leases() == before and before


def test_a_bridge_that_somebody_made_meanwhile(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """VLANs take effect whoever made the bridge, and what is no bridge is refused."""
    real = FakeKernel.create_bridge
    made: list[str] = []

    def faster(self: FakeKernel, name: str, mtu: int, vlan_filtering: bool) -> bool:
        if not made:
            made.append(name)
            assert real(self, name, 0, False)
        return real(self, name, mtu, vlan_filtering)

    monkeypatch.setattr(FakeKernel, "create_bridge", faster)
    runtime.add(runtime.config(vlan=100), runtime.pod())
    root = runtime.machine.host().root
    bridge = root.link("cni0")
    assert bridge is not None and bridge.vlan_filtering and bridge.up
    assert root.vlans(OWNER.host_veth) == (Vlan(100, True, True),)


def test_del_takes_its_own_link(runtime: Runtime) -> None:
    """The pod renamed its interface and made another veth of the name: ours goes, the pod's own stays."""
    config, pod = runtime.config(), runtime.pod()
    runtime.add(config, pod)
    inside = runtime.machine.host(runtime.machine.open_sandbox(pod))
    assert inside.sandbox is not None
    there = inside.sandbox.namespace
    there.links["renamed"] = link = there.links.pop(IFNAME)
    link.name = "renamed"
    there.sysctls.update({key.replace(f"/{IFNAME}/", "/renamed/"): value for key, value in there.sysctls.items()})
    inside.sandbox.create_veth(IFNAME, "02:00:00:00:00:01", 0, "", "", {}, "own", "02:00:00:00:00:02", peer_fd=None)
    inside.close()
    reply = runtime.call("DEL", config, pod)
    assert reply.status == 0 and "stays" in reply.stderr
    assert runtime.machine.host().root.link(OWNER.host_veth) is None
    after = runtime.machine.host(runtime.machine.open_sandbox(pod))
    assert after.kernel(Side.SANDBOX).link(IFNAME) is not None
    assert after.kernel(Side.SANDBOX).link("renamed") is None
    after.close()
