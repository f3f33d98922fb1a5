"""macvlan where the machine of the tests does not go: older kernels, calls that were killed, several calls at once."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from cni.net import execute, macvlan, ops
from cni.spec.errors import KernelError
from cni.spec.owner import Owner
from tests.fakes import FakeKernel, FakeLink
from tests.unit.calls import CONFIGS, ID, IFNAME, Failing, Runtime, each_change, runtime

if TYPE_CHECKING:
    from cni.net.host import Host

__all__ = ["runtime"]

KEYS = {**CONFIGS["macvlan-everything"], "master": "eth0"}
OWNER = Owner("net", ID, IFNAME)


@pytest.fixture
def older(runtime: Runtime) -> Runtime:
    """A host whose eth0 is on a segment, and a kernel that refuses a pod's eth0 for that."""
    runtime.machine.uplink()
    runtime.machine.root.rename(runtime.machine.root.links["up0"], "eth0")
    runtime.machine.names_are_hosts = True
    return runtime


def refused(reply: Any) -> dict[str, Any]:
    assert reply.status == 1, reply
    return dict(json.loads(reply.stdout))


def test_a_kernel_that_refuses_the_masters_name(older: Runtime) -> None:
    pod = older.pod()
    older.add(older.config(**KEYS), pod)
    links = older.machine.pods[pod].links
    assert (sorted(links), links["eth0"].alias) == (["eth0", "lo"], OWNER.label)


def test_a_kernel_that_refuses_the_masters_name_and_every_failure(older: Runtime) -> None:
    config, pod = older.config(**KEYS), older.pod()
    was = older.dump()
    for at in range(100):
        failing = Failing(at, lambda: KernelError("injected", OSError(errno.ENOBUFS, "no buffers")))
        with pytest.MonkeyPatch.context() as patch:
            each_change(patch, failing)
            reply = older.call("ADD", config, pod)
        if not failing.failed:
            break
        assert "injected" in refused(reply)["msg"]
        assert older.dump() == was, failing.steps
    assert reply.status == 0
    assert sum(step.startswith("create_macvlan") for step in failing.steps) == 2


def killed(runtime: Runtime, config: dict[str, Any], pod: str, before: str) -> None:
    """An ADD that ends before a verb, and takes nothing back."""

    def end(*given: Any) -> Any:
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeKernel, before, end)
        patch.setattr(FakeKernel, "delete_link", lambda *given: False)
        patch.setattr(execute, "undo", lambda *given: [])
        with pytest.raises(SystemExit):
            runtime.call("ADD", config, pod)


@pytest.mark.parametrize("refuses", [False, True])
def test_killed_before_the_label(older: Runtime, refuses: bool) -> None:
    """DEL finds an interface without one, the next ADD one under the name that it had in passing."""
    older.machine.names_are_hosts = refuses
    config, pod = older.config(**KEYS), older.pod()
    killed(older, config, pod, "adopt")
    links = older.machine.pods[pod].links
    assert sorted(links) == (["lo", OWNER.spare_name] if refuses else ["eth0", "lo"])
    assert older.call("DEL", config, pod).status == 0
    older.add(config, pod)
    assert sorted(older.machine.pods[pod].links) == ["eth0", "lo"]


def test_a_kernel_without_queues_to_choose(older: Runtime) -> None:
    """A key that has no effect is refused: code 2, the key and its value."""
    older.machine.lacks_queues = True
    config, pod = older.config(**KEYS), older.pod()
    was = older.dump()
    error = refused(older.call("ADD", config, pod))
    assert (error["code"], "'bcqueuelen' 500" in error["details"]) == (2, True)
    assert older.dump() == was
    older.add({**config, "bcqueuelen": 0}, pod)


def test_another_call_was_faster(older: Runtime) -> None:
    """What has the name by then stays as it is, on every kernel, and the lease of this call goes back."""
    config, pod = older.config(**KEYS), older.pod()
    apply = execute.APPLY[ops.CreateMacvlan]

    def late(op: Any, host: Any) -> bool:
        host.root.create_macvlan("net9", "eth0", "private", "", 0, 0, host.sandbox_fd)
        host.sandbox.adopt("net9", "eth0", "podwire/net/other/eth0")
        return apply(op, host)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(execute.APPLY, ops.CreateMacvlan, late)
        error = refused(older.call("ADD", config, pod))
    assert "File exists" in error["msg"]
    links = older.machine.pods[pod].links
    assert (sorted(links), links["eth0"].alias) == (["eth0", "lo"], "podwire/net/other/eth0")
    assert older.leases() == {}


def test_an_ipvlan_on_the_master(older: Runtime) -> None:
    """The kernel says that the master is busy; the message says with what."""
    root = older.machine.root
    root.add(FakeLink(0, "ipvl0", "ipvlan", "02:00:00:00:00:07", lower=(root, root.links["eth0"])))
    busy = KernelError("cannot", OSError(errno.EBUSY, "Device or resource busy"))
    op = ops.CreateMacvlan(side=ops.HOST, master="eth0", name="net1", spare="x", mode="bridge", label="")
    told = macvlan.refusal(busy, op, cast("Host", older.machine.host()))
    assert told.msg == "cannot create macvlan net1 on eth0: it is in use by ipvlan ipvl0"
    assert told.details.startswith("an interface has macvlans or ipvlans, not both")
    nobody = msgspec.structs.replace(op, master="lo")
    assert "something else takes all its frames" in str(macvlan.refusal(busy, nobody, cast("Host", older.machine.host())))


def test_gc_leaves_links_alone(older: Runtime) -> None:
    config, pod = older.config(**KEYS), older.pod()
    older.add(config, pod)
    was = list(older.machine.pods[pod].dump())
    assert older.call("GC", {**config, "cni.dev/valid-attachments": []}).status == 0
    assert (list(older.machine.pods[pod].dump()), older.leases()) == (was, {})
