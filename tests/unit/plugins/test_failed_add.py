"""Whatever step of an ADD fails, the machine is as it was before and the lease is given back."""

from __future__ import annotations

import errno
import importlib
import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from cni import dispatch as dispatch_module
from cni.net import execute, ops
from cni.registry import PLUGINS
from cni.spec.addresses import parse_cidr
from cni.spec.errors import KernelError, TryAgain
from cni.spec.owner import Owner
from tests.unit.calls import (
    CONFIGS,
    ID,
    SHARED_SETS,
    V4,
    Failing,
    each_change,
    each_operation,
    needs_uplink,
    runtime,
    with_ports_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.calls import Runtime

__all__ = ["runtime"]


def fresh(runtime: Runtime, keys: dict[str, Any]) -> None:
    """Nothing was ever there, but for the tables that every call of iptables makes, and a way to the nodes."""
    if needs_uplink(keys):
        runtime.machine.uplink()
    if keys.get("type") == "portmap" and keys.get("backend") == "iptables":
        pod = runtime.pod()  # what all attachments share stays, as the reference leaves it
        config = runtime.ready(keys, pod, CNI_CONTAINERID="other")
        runtime.add(config, pod, CNI_CONTAINERID="other")
        for one in (config, runtime.config(**keys["after"])):
            assert runtime.call("DEL", one, pod, CNI_CONTAINERID="other").status == 0
    for v6 in (False, True):
        iptables = runtime.machine.host().iptables
        if keys.get("ipMasqBackend") == "iptables":
            iptables.restore(v6, "*nat\nCOMMIT\n")
        if keys.get("type") == "firewall":
            iptables.restore(v6, "*filter\nCOMMIT\n" if "backend" in keys else "*filter\n-N CNI-ADMIN\nCOMMIT\n")


def second(runtime: Runtime, keys: dict[str, Any]) -> None:
    """Another pod of the network is there. One of its nodes had another address then."""
    if needs_uplink(keys):
        runtime.machine.uplink()
    if "nodes" in keys:
        moved = [{**node, "via": node["via"].replace("192.0.2.2", "192.0.2.3")} for node in keys["nodes"]]
        keys = {**keys, "nodes": moved}
    pod = runtime.pod()
    runtime.add(runtime.ready(keys, pod, CNI_CONTAINERID="other"), pod, CNI_CONTAINERID="other")


def by_hand(runtime: Runtime, keys: dict[str, Any]) -> None:
    """An administrator made the bridge, otherwise than the configuration wants it; nothing is attached."""
    fresh(runtime, keys)
    root = runtime.machine.host().root
    root.create_bridge("cni0", 0, False)
    root.set_link("cni0", up=False)
    runtime.machine.root.sysctls["net/ipv6/conf/cni0/accept_ra"] = "2"
    if keys.get("forceAddress"):
        for address in parse_cidr("10.7.0.1/16"), parse_cidr("10.8.0.1/16"):
            root.add_address("cni0", address)


def as_told(runtime: Runtime) -> str:
    """The dump without tables of ours in which nothing is left.

    They stand for no attachment, and another call may be about to use them: GC and the next DEL remove them. So do ranges and
    links that attachments share.
    """
    shared = rf"^  (?:set|map) (?:{'|'.join(SHARED_SETS)})\b.*\n(?:    .*\n)*"
    blocks = re.split(r"^(?=\S)", re.sub(shared, "", runtime.dump(), flags=re.MULTILINE), flags=re.MULTILINE)
    empty = [
        block
        for block in blocks
        if block.startswith(OWN_TABLES) and not re.search(r"^  (set|map) .*\n    ", block, re.MULTILINE)
    ]
    return "".join(block for block in blocks if block not in empty)


OWN_TABLES = tuple(
    f"table {name}\n"
    for name in (*("inet podwire_firewall", "inet podwire_masquerade", "bridge podwire_macspoofchk", "inet podwire_portmap"),)
)
BEFORE = {"fresh": fresh, "second": second, "by-hand": by_hand}


ERRORS: tuple[Callable[[], Exception], ...] = (
    lambda: KernelError("injected", OSError(errno.ENOBUFS, "no buffers")),
    lambda: TryAgain("injected"),
    lambda: RuntimeError("injected"),
)


@pytest.mark.parametrize("level", [each_operation, each_change])
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("name", CONFIGS)
def test_as_before(runtime: Runtime, name: str, before: str, level: Callable[[Any, Failing], None]) -> None:
    keys = CONFIGS[name]
    BEFORE[before](runtime, keys)
    pod = runtime.pod()
    config = runtime.ready(keys, pod)
    told = runtime.dump if before == "second" else partial(as_told, runtime)

    def look() -> str:
        return without_next_hops(told())

    was = look()
    for at in range(100):
        failing = Failing(at, ERRORS[at % len(ERRORS)])
        with pytest.MonkeyPatch.context() as patch:
            level(patch, failing)
            reply = runtime.call("ADD", config, pod)
        if not failing.failed:
            break
        assert reply.status == 1, failing.steps[-1]
        assert "injected" in json.loads(reply.stdout)["msg"]
        assert look() == was, f"after a failure of step {at}: {failing.steps[-1]}"
    assert reply.status == 0, reply
    assert at >= 1
    assert look() != was


def without_next_hops(text: str) -> str:
    """Routes to other nodes stay, as forwarding does."""
    return re.sub(r"^ *next hop of .*\n", "", text, flags=re.MULTILINE)


def without_forwarding(text: str) -> str:
    """Forwarding stays on, once the last step has switched it on: others on the host may count on it by then."""
    text = without_next_hops(text)
    return re.sub(r"^ *sysctl net/ipv./(conf/all/forwarding|ip_forward)=1\n", "", text, flags=re.MULTILINE)


def fails_late(runtime: Runtime, name: str, before: str, module: Any, function: str) -> None:
    """All steps are done, and then the result cannot be completed or printed."""
    keys = CONFIGS[name]
    BEFORE[before](runtime, keys)
    pod = runtime.pod()
    config = runtime.ready(keys, pod)
    was = as_told(runtime)
    for error in ERRORS:

        def failing(*given: Any, error: Callable[[], Exception] = error) -> Any:
            raise error()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, function, failing)
            reply = runtime.call("ADD", config, pod)
        assert reply.status == 1
        assert without_forwarding(as_told(runtime)) == without_forwarding(was)
    assert runtime.call("ADD", config, pod).status == 0


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("name", CONFIGS)
def test_as_before_when_the_report_fails(runtime: Runtime, name: str, before: str) -> None:
    module = importlib.import_module(PLUGINS[CONFIGS[name].get("type", "bridge")])
    fails_late(runtime, name, before, module, "report")


@pytest.mark.parametrize("before", BEFORE)
def test_as_before_when_rendering_fails(runtime: Runtime, before: str) -> None:
    fails_late(runtime, "everything", before, dispatch_module, "render")


def test_a_sandbox_that_no_result_can_name(runtime: Runtime) -> None:
    """JSON cannot carry a path of any bytes: the call is refused, and nothing of it stays."""
    path = b"/run/netns/\xff".decode("utf-8", "surrogateescape")
    runtime.machine.pod(path)
    was = list(runtime.machine.root.dump())
    reply = runtime.call("ADD", runtime.config(ipam=V4), path)
    assert reply.status == 1
    assert list(runtime.machine.root.dump()) == was
    assert runtime.leases() == {}


def test_other_calls_at_work_keep_what_is_shared(runtime: Runtime) -> None:
    """While another call may already use the bridge, a failed ADD takes back only what is its own."""
    config, pod = runtime.config(ipam=V4, isGateway=True), runtime.pod()
    other = runtime.machine.host()
    failing = Failing(9, ERRORS[0])
    with pytest.MonkeyPatch.context() as patch:
        each_operation(patch, failing)
        other.work()
        with pytest.raises(AssertionError):  # of the runtime, which wants nobody to be left at work
            runtime.call("ADD", config, pod)
    assert failing.steps[-1].startswith("wait until"), failing.steps
    assert [link.name for link in other.root.links()] == ["lo", "cni0"]
    assert [str(address) for address in other.root.addresses("cni0")] == ["10.1.0.1/24"]
    assert runtime.leases() == {}


def test_what_cannot_be_taken_back_is_said_and_stops_nothing(runtime: Runtime) -> None:
    config, pod = runtime.config(ipam=V4, isGateway=True, macspoofchk=True), runtime.pod()
    for error in ERRORS:
        failing = Failing(8, error)

        def stuck(*given: Any, error: Callable[[], Exception] = error) -> bool:
            raise error()

        with pytest.MonkeyPatch.context() as patch:
            each_operation(patch, failing)
            patch.setitem(execute.APPLY, ops.DeleteLink, stuck)
            reply = runtime.call("ADD", config, pod)
        assert reply.status == 1
        assert "while taking back a failed ADD" in reply.stderr
        assert runtime.leases() == {}
        assert "veth" not in "".join(runtime.machine.rules.dump())
        assert runtime.machine.host(None).root.delete_link(Owner("net", ID, "eth0").host_veth)


@pytest.mark.parametrize("level", [each_operation, each_change])
@pytest.mark.parametrize("other", [False, True], ids=["same", "other"])
@pytest.mark.parametrize("name", [name for name, keys in CONFIGS.items() if keys.get("type") == "portmap"])
def test_what_an_earlier_add_published_stays(
    runtime: Runtime, name: str, other: bool, level: Callable[[Any, Failing], None]
) -> None:
    """An ADD is repeated, for the same ports or for others without masquerade, and fails, at any step or afterwards."""
    keys = CONFIGS[name]
    fresh(runtime, keys)
    pod = runtime.pod()
    config = runtime.ready(keys, pod)
    runtime.add(config, pod)
    again = {**with_ports_of(config, "other"), "snat": False} if other else config

    def look() -> list[str]:
        return sorted(as_told(runtime).splitlines())  # rules of iptables may have changed places

    def report(*_: Any) -> Any:
        failing.failed = True
        raise ERRORS[0]()

    was = look()
    for at in range(20):
        failing = Failing(at, ERRORS[at % len(ERRORS)])
        with pytest.MonkeyPatch.context() as patch:
            level(patch, failing)
            patch.setattr("cni.plugins.portmap.report", report)
            assert runtime.call("ADD", again, pod).status == 1
        assert look() == was, f"after a failure of step {at} of {failing.steps}"
        if len(failing.steps) <= at:
            break
    assert runtime.call("ADD", again, pod).status == 0
    assert (look() != was) is other
