"""One call from environment and stdin to a reply: which error comes first, what failures become, what DEL and GC never do."""

from __future__ import annotations

import errno
import json
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from cni import delegate as delegate_module
from cni import dispatch as dispatch_module
from cni.dispatch import Reply, dispatch
from cni.net import execute
from cni.net.ops import HOST, DeleteLink
from cni.plugins import bridge, loopback
from cni.spec import errors, versions
from cni.spec.owner import Owner
from cni.spec.result import Result
from tests.unit.calls import CONFIGS, ID, V4, needs_uplink, runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.calls import Runtime

__all__ = ["runtime"]

GOOD = {"CNI_CONTAINERID": "c0ffee", "CNI_NETNS": "/run/netns/none", "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere"}
CONFIG = {"cniVersion": "1.1.0", "name": "net", "type": "bridge"}
NET = b'{"name": "net", "cniVersion": "1.1.0"}'


def refused(reply: Reply) -> dict[str, Any]:
    """The one error object of a failed call."""
    assert reply.status == 1, reply
    document = json.loads(reply.stdout)
    assert isinstance(document, dict)
    assert list(document) == [key for key in ("cniVersion", "code", "msg", "details") if key in document]
    assert (type(document["code"]), type(document["msg"])) == (int, str)
    assert document["msg"]
    assert "Traceback" not in document["msg"] + document.get("details", "")
    return document


# -- the order of checks --

# Each line fails in one more place than the next one; the first place decides. environment, stdin, code, message
ORDER: list[tuple[dict[str, str], bytes, int, str]] = [
    (
        {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "a/b", "CNI_IFNAME": "x y", "CNI_NETNS": ""},
        b"{",
        4,
        "invalid characters in containerID",
    ),
    ({"CNI_COMMAND": "ADD", "CNI_IFNAME": "x y", "CNI_NETNS": ""}, b"{", 4, "CNI_IFNAME"),
    (
        {"CNI_COMMAND": "ADD", "CNI_NETNS": "", "CNI_IFNAME": ""},
        b"{",
        4,
        "required env variables [CNI_NETNS,CNI_IFNAME] missing",
    ),
    ({"CNI_COMMAND": "add"}, b"{", 6, "cannot decode"),
    ({"CNI_COMMAND": "add"}, b"[]", 6, "not a JSON object"),
    ({"CNI_COMMAND": "add"}, b'{"cniVersion": 1}', 6, "cniVersion"),
    ({"CNI_COMMAND": "add"}, b'{"cniVersion": "9"}', 7, "missing network name"),
    ({"CNI_COMMAND": "add"}, b'{"cniVersion": "9", "name": 5}', 6, "name"),
    ({"CNI_COMMAND": "add"}, b'{"cniVersion": "9", "name": "a/b"}', 7, "invalid characters found in network name"),
    ({"CNI_COMMAND": "add"}, b'{"cniVersion": "9", "name": "net"}', 4, "unknown CNI_COMMAND: add"),
    ({"CNI_COMMAND": "ADD", "CNI_ARGS": "x"}, b'{"cniVersion": "9", "name": "net"}', 1, "incompatible CNI versions"),
    ({"CNI_COMMAND": "ADD", "CNI_ARGS": "x"}, b'{"name": "net", "prevResult": 5}', 4, "invalid CNI_ARGS pair"),
    ({"CNI_COMMAND": "ADD"}, b'{"name": "net", "prevResult": 5, "mtu": "x"}', 7, "prevResult"),
    ({"CNI_COMMAND": "ADD"}, b'{"name": "net", "mtu": "x"}', 7, "mtu"),
    ({"CNI_COMMAND": "ADD"}, b'{"name": "net", "mtu": 5}', 7, "mtu"),
    ({"CNI_COMMAND": "ADD"}, b'{"name": "net", "ipam": {"type": "nonsense"}}', 3, "cannot open CNI_NETNS"),
]


@pytest.mark.parametrize(("env", "stdin", "code", "says"), ORDER)
def test_the_first_failing_check_decides(env: dict[str, str], stdin: bytes, code: int, says: str, runtime: Runtime) -> None:
    error = refused(dispatch("bridge", {**GOOD, **env}, stdin))
    assert error["code"] == code
    assert says in error["msg"]


def test_no_command_tells_what_this_is() -> None:
    """Spec section 3 leaves it open; the reference prints its name and versions on stderr and succeeds."""
    for env in ({}, {"CNI_COMMAND": ""}, {**GOOD, "CNI_COMMAND": ""}):
        reply = dispatch("bridge", env, b"never read")
        assert (reply.status, reply.stdout) == (0, b"")
        name, known = reply.stderr.splitlines()[:2]
        assert name.startswith("CNI bridge plugin podwire ")
        assert known == f"CNI protocol versions supported: {', '.join(versions.SUPPORTED)}"


@pytest.mark.parametrize(
    ("stdin", "echoed"),
    [
        (b"", "1.1.0"),
        (b'{"cniVersion": "0.3.1"}', "0.3.1"),
        (b'{"cniVersion": 5}', "1.1.0"),
        (b"[", "1.1.0"),
        (b"null", "1.1.0"),
    ],
)
def test_version_needs_nothing(stdin: bytes, echoed: str) -> None:
    reply = dispatch("bridge", {"CNI_COMMAND": "VERSION"}, stdin)
    assert (reply.status, reply.stderr) == (0, "")
    assert json.loads(reply.stdout) == {"cniVersion": echoed, "supportedVersions": list(versions.SUPPORTED)}


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
@pytest.mark.parametrize("version", [*versions.SUPPORTED, "9.9.9", ""])
def test_errors_echo_a_version_that_the_runtime_knows(verb: str, version: str) -> None:
    config = {"name": "a/b", "cniVersion": version}
    error = refused(dispatch("bridge", {**GOOD, "CNI_COMMAND": verb}, json.dumps(config).encode()))
    expected = {"9.9.9": "1.1.0", "": "0.1.0"}.get(version, version)
    assert (error["code"], error["cniVersion"]) == (7, expected)


def test_a_plugin_that_is_not_there() -> None:
    error = refused(dispatch("brigde", {**GOOD, "CNI_COMMAND": "STATUS"}, NET))
    assert (error["code"], error["details"]) == (
        7,
        "known: bandwidth, bridge, firewall, host-gw, host-local, loopback, macvlan, portmap, ptp, static, tuning",
    )


# -- any failure, anywhere --

ERRORS = [
    errors.CNIError("told"),
    errors.VersionError("told"),
    errors.UnsupportedField("told"),
    errors.UnknownSandbox("told"),
    errors.EnvError("told"),
    errors.InputError("told"),
    errors.DecodeError("told"),
    errors.ConfigError("told"),
    errors.TryAgain("told"),
    errors.NotAvailable("told"),
    errors.LimitedConnectivity("told"),
    errors.CheckFailed("told"),
    errors.KernelError("told", OSError(errno.EBUSY, "busy")),
    errors.CNIError("told", "details", 4711),
]
INTERNAL = [
    ValueError("odd"),
    KeyError("odd"),
    OSError(errno.EIO, "odd"),
    RecursionError("odd"),
    AssertionError(),
    MemoryError(),
]

# Where a plugin's own function runs, by verb.
FUNCTIONS = {
    "ADD": ("parse", "look", "plan_add", "report"),
    "DEL": ("parse", "look", "plan_del"),
    "CHECK": ("parse", "look", "check"),
    "GC": ("parse", "plan_gc"),
    "STATUS": ("parse", "status"),
}
PLACES = [(verb, function) for verb, functions in FUNCTIONS.items() for function in functions]


def called(runtime: Runtime, verb: str, **keys: Any) -> Reply:
    config = runtime.config(**keys)
    if verb == "CHECK":
        config["prevResult"] = {"cniVersion": "1.1.0", "interfaces": [], "ips": []}
    if verb == "GC":
        config["cni.dev/valid-attachments"] = []
    pod = next(iter(runtime.machine.pods), "") or runtime.pod()
    return runtime.call(verb, config, "" if verb in ("GC", "STATUS") else pod)


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*given: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(("verb", "function"), PLACES)
def test_every_error_of_a_plugin_keeps_its_code(
    verb: str, function: str, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in ERRORS:
        monkeypatch.setattr(bridge, function, failing(error))
        document = refused(called(runtime, verb))
        assert (document["code"], document["msg"]) == (error.code, error.msg)
        assert document.get("details", "") == error.details


@pytest.mark.parametrize(("verb", "function"), PLACES)
def test_a_mistake_of_ours_is_one_line_and_a_trace(
    verb: str, function: str, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One JSON document on stdout in every case; the trace is for stderr alone."""
    for error in INTERNAL:
        monkeypatch.setattr(bridge, function, failing(error))
        reply = called(runtime, verb)
        document = refused(reply)
        assert document["code"] == 999
        assert document["msg"].startswith(f"internal error: {type(error).__name__}: ")
        assert reply.stderr.startswith("bridge: Traceback (most recent call last):\n")
        assert reply.stderr.rstrip().splitlines()[-1].startswith(type(error).__name__)


def test_the_message_of_a_mistake_is_one_line(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "look", failing(ValueError("first\nsecond\n")))
    assert "\n" not in refused(called(runtime, "ADD"))["msg"]


def test_an_interrupt_is_no_answer(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal ends the program; what it did is taken back all the same."""
    monkeypatch.setattr(bridge, "report", failing(KeyboardInterrupt()))
    config, pod = runtime.config(ipam=V4), runtime.pod()
    was = runtime.dump()
    with pytest.raises(KeyboardInterrupt):
        runtime.call("ADD", config, pod)
    assert runtime.dump() == was


def test_notes_go_to_stderr_with_the_plugins_name(runtime: Runtime) -> None:
    reply = runtime.call("ADD", runtime.config(isGatway=True), runtime.pod())
    assert reply.status == 0
    assert reply.stderr == (
        "bridge: key 'isGatway' of the configuration is not known to this plugin and has no effect, did you mean 'isGateway'?\n"
    )


@pytest.mark.parametrize("verb", ["ADD", "DEL", "STATUS"])
def test_a_network_list_is_no_configuration_of_a_plugin(runtime: Runtime, verb: str) -> None:
    """It would be a bridge with all its defaults and no addresses."""
    conflist = {"cniVersion": "1.1.0", "name": "net", "plugins": [runtime.config(ipam=V4)]}
    pod = "" if verb == "STATUS" else runtime.pod()
    was = runtime.dump()
    error = refused(runtime.call(verb, conflist, pod, "bridge"))
    assert (error["code"], "this is a network list" in error["msg"]) == (7, True)
    assert runtime.dump() == was
    one = runtime.config(ipam=V4, plugins=[])
    assert runtime.call("ADD", one, runtime.pod()).status == 0, "a key of no meaning to one plugin"


# -- the sandbox --


@pytest.mark.parametrize(
    "plugin", ["bridge", "loopback", "ptp", "host-gw", "macvlan", "portmap", "bandwidth", "tuning", "host-local"]
)
@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK"])
def test_the_hosts_own_namespace_is_refused_before_anything_is_done(runtime: Runtime, verb: str, plugin: str) -> None:
    config = runtime.config(ipam=V4, prevResult={"ips": [], "interfaces": []})
    was = runtime.dump()
    error = refused(runtime.call(verb, config, "host", plugin))
    assert (error["code"], "host's own network namespace" in error["msg"]) == (8, True)
    assert runtime.dump() == was
    assert not runtime.leases_folder.exists()


@pytest.mark.parametrize("override", ["1", "true", "TRUE"])
def test_the_hosts_own_namespace_on_request(runtime: Runtime, override: str) -> None:
    assert runtime.call("ADD", runtime.config(), "host", "loopback", CNI_NETNS_OVERRIDE=override).status == 0
    for other in ("", "0", "yes"):
        assert refused(runtime.call("ADD", runtime.config(), "host", "loopback", CNI_NETNS_OVERRIDE=other))["code"] == 8


GONE = {"/run/netns/gone": 3, "/run/not-a-namespace": 4}


@pytest.mark.parametrize("netns", GONE)
def test_a_sandbox_that_is_gone(runtime: Runtime, netns: str) -> None:
    """ADD and CHECK need it, DEL does not (spec section 3: missing resources are no error)."""
    config = runtime.config(ipam=V4, prevResult={"ips": []})
    for verb in ("ADD", "CHECK"):
        assert refused(runtime.call(verb, config, netns))["code"] == GONE[netns]
    reply = runtime.call("DEL", config, netns)
    assert (reply.status, reply.stdout) == (0, b"")
    assert ("going on without the sandbox" in reply.stderr) == (GONE[netns] == 4)


def test_a_name_that_is_taken_is_refused_before_an_address_is_leased(runtime: Runtime) -> None:
    pod = runtime.pod()
    runtime.add(runtime.config(), pod)
    was = runtime.dump()
    error = refused(runtime.call("ADD", runtime.config(ipam=V4), pod, CNI_CONTAINERID="other"))
    assert (error["code"], "'eth0' already exists" in error["msg"]) == (999, True)
    assert runtime.dump() == was
    assert not runtime.leases_folder.exists()


# -- prevResult --


@pytest.mark.parametrize(("verb", "code"), [("ADD", 7), ("CHECK", 7), ("DEL", 0)])
@pytest.mark.parametrize("prev", [5, [], {"cniVersion": "0.2.0"}, {"ips": 1}])
def test_a_prevresult_that_cannot_be_read(runtime: Runtime, verb: str, code: int, prev: Any) -> None:
    """Removing must not depend on it; everything else must not guess."""
    reply = runtime.call(verb, runtime.config(prevResult=prev), runtime.pod())
    if code:
        assert refused(reply)["code"] == code
    else:
        assert (reply.status, reply.stdout) == (0, b"")
        assert reply.stderr.startswith("bridge: going on without prevResult: ")


def test_check_needs_prevresult(runtime: Runtime) -> None:
    for prev in ({}, {"prevResult": None}):
        error = refused(runtime.call("CHECK", runtime.config(**prev), runtime.pod()))
        assert (error["code"], error["msg"]) == (7, "required prevResult missing")


def test_check_lists_every_problem(runtime: Runtime) -> None:
    config, pod = runtime.config(ipam=V4, isGateway=True), runtime.pod()
    config["prevResult"] = runtime.add(config, pod)
    assert runtime.call("CHECK", config, pod).status == 0
    runtime.machine.host().root.delete_link("cni0")
    runtime.machine.root.sysctls["net/ipv4/ip_forward"] = "0"
    for lease in runtime.leases():
        (runtime.leases_folder / lease).unlink()
    error = refused(runtime.call("CHECK", config, pod))
    assert error["code"] == 999
    for problem in (
        "bridge cni0 is gone",
        "gateway address 10.1.0.1/24 is gone",
        "forwarding is off",
        "10.1.0.2 is not leased",
    ):
        assert problem in error["msg"]


# -- DEL --


def added(runtime: Runtime) -> tuple[dict[str, Any], str]:
    config, pod = runtime.config(ipam=V4, isGateway=True, ipMasq=True, macspoofchk=True), runtime.pod()
    config["prevResult"] = runtime.add(config, pod)
    assert len(runtime.leases()) == 1
    return config, pod


@pytest.mark.parametrize("function", ["look", "plan_del"])
@pytest.mark.parametrize("error", [errors.CNIError("told"), errors.TryAgain("told"), ValueError("told")])
def test_del_releases_the_lease_whatever_fails(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, function: str, error: Exception
) -> None:
    config, pod = added(runtime)
    monkeypatch.setattr(bridge, function, failing(error))
    document = refused(runtime.call("DEL", config, pod))
    assert "told" in document["msg"]
    assert document["code"] == getattr(error, "code", 999)
    assert runtime.leases() == {}


@pytest.mark.parametrize("error", [errors.CNIError("told"), errors.TryAgain("told"), ValueError("told")])
def test_del_goes_on_through_failing_steps(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    config, pod = added(runtime)
    monkeypatch.setitem(execute.APPLY, DeleteLink, failing(error))
    document = refused(runtime.call("DEL", config, pod))
    assert "told" in document["msg"]
    assert runtime.leases() == {}
    assert "podwire/net" not in "".join(runtime.machine.rules.dump())
    assert runtime.machine.host().root.link(Owner("net", ID, "eth0").host_veth) is not None


def test_del_tells_all_failures(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    config, pod = added(runtime)
    monkeypatch.setattr(bridge, "look", failing(errors.TryAgain("first", "of it")))
    monkeypatch.setattr(delegate_module, "serve", failing(errors.InputError("second")))
    document = refused(runtime.call("DEL", config, pod))
    assert (document["code"], document["msg"], document["details"]) == (11, "first", "of it; second")


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("prev", [False, True])
def test_del_any_number_of_times(runtime: Runtime, times: int, gone: bool, prev: bool) -> None:
    """With the sandbox or without, with prevResult or without: nothing is left."""
    config, pod = added(runtime)
    if not prev:
        del config["prevResult"]
    if gone:
        namespace = runtime.machine.pods.pop(pod)
        peer = namespace.links["eth0"].peer
        assert peer is not None
        runtime.machine.host().root.delete_link(peer[1].name)
    for _ in range(times):
        reply = runtime.call("DEL", config, "" if gone else pod)
        assert (reply.status, reply.stdout) == (0, b""), reply
    assert runtime.leases() == {}
    text = runtime.dump()
    assert "veth" not in text
    assert "podwire/net" not in text
    assert "10.1.0.2" not in text


def test_del_of_what_never_was(runtime: Runtime) -> None:
    for keys in ({}, {"ipam": V4}, {"ipam": V4, "ipMasq": True, "macspoofchk": True}):
        reply = runtime.call("DEL", runtime.config(**keys), runtime.pod())
        assert (reply.status, reply.stdout) == (0, b"")


# -- GC and STATUS --


def test_gc_without_a_list_touches_nothing(runtime: Runtime) -> None:
    """cnitool sends none; the type of the reference cannot tell that from an empty one."""
    config, _ = added(runtime)
    was = runtime.dump()
    reply = runtime.call("GC", config)
    assert (reply.status, reply.stdout) == (0, b"")
    assert "nothing is touched" in reply.stderr
    assert "no lease is touched" in reply.stderr
    assert runtime.dump() == was


def test_gc_removes_what_is_not_listed_and_only_of_its_network(runtime: Runtime) -> None:
    added(runtime)
    keys = {"ipam": V4, "isGateway": True, "ipMasq": True, "macspoofchk": True}
    for name, container in (("net", "dead"), ("network", "dead"), ("ne", "dead")):
        runtime.add(runtime.config(**keys) | {"name": name}, runtime.pod(), CNI_CONTAINERID=container)
    config = runtime.config(**keys) | {"cni.dev/valid-attachments": [{"containerID": ID, "ifname": "eth0"}]}
    reply = runtime.call("GC", config)
    assert (reply.status, reply.stdout) == (0, b""), reply
    assert f"delete link {Owner('net', 'dead', 'eth0').host_veth}" in reply.stderr
    assert set(reply.repairs) == {"collected"}
    text = runtime.dump()
    assert "podwire/net/dead" not in text
    for kept in (f"podwire/net/{ID}", "podwire/network/dead", "podwire/ne/dead"):
        assert text.count(kept) >= 2, kept
    assert sorted(name.split("/")[0] for name in runtime.leases()) == ["ne", "net", "network"]


@pytest.mark.parametrize("where", ["plan", "step"])
def test_gc_reaches_ipam_whatever_fails(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    config, _ = added(runtime)
    config["cni.dev/valid-attachments"] = []
    if where == "plan":
        monkeypatch.setattr(bridge, "plan_gc", failing(errors.CNIError("told")))
    else:
        monkeypatch.setitem(execute.APPLY, DeleteLink, failing(errors.CNIError("told")))
    reply = runtime.call("GC", config)
    assert refused(reply)["msg"] == "told"
    assert "delete link" not in reply.stderr, "what was not removed is not told of as removed"
    assert runtime.leases() == {}


def test_status_asks_plugin_and_ipam(runtime: Runtime) -> None:
    runtime.machine.host().root.create_veth("other", "02:00:00:00:00:01", 0, "", "", {}, "other2", "02:00:00:00:00:02", None)
    tiny = {"type": "host-local", "subnet": "10.1.0.0/30"}
    taken = runtime.config(ipam=tiny, bridge="other")
    assert runtime.call("STATUS", runtime.config(ipam=tiny)).status == 0
    assert refused(runtime.call("STATUS", taken))["code"] == 50
    runtime.add(runtime.config(ipam=tiny), runtime.pod())
    error = refused(runtime.call("STATUS", runtime.config(ipam=tiny)))
    assert (error["code"], "no IP addresses available" in error["msg"]) == (50, True)
    assert refused(runtime.call("STATUS", runtime.config(ipam={"type": "nowhere"})))["code"] == 50
    assert refused(runtime.call("STATUS", taken))["code"] == 51, "there are pods that lost their bridge"


# -- results --


def test_ipam_of_ours_answers_a_runtime_directly(runtime: Runtime) -> None:
    config = runtime.config(ipam=V4)
    result = json.loads(runtime.call("ADD", config, runtime.pod(), "host-local").stdout)
    assert result == {"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}]}
    for verb in ("CHECK", "DEL", "STATUS", "GC"):
        reply = runtime.call(verb, config | {"prevResult": result}, "", "host-local") if verb != "CHECK" else None
        assert reply is None or (reply.status, reply.stdout) == (0, b"")
    assert runtime.leases() == {}


def test_loopback_passes_prevresult_on(runtime: Runtime) -> None:
    prev = {"cniVersion": "1.1.0", "ips": [{"address": "192.0.2.1/24"}], "routes": [{"dst": "0.0.0.0/0"}]}
    reply = runtime.call("ADD", runtime.config(prevResult=prev), runtime.pod(), "loopback")
    assert json.loads(reply.stdout) == prev


def test_loopback_names_its_addresses(runtime: Runtime) -> None:
    pod = runtime.pod()
    result = json.loads(runtime.call("ADD", runtime.config(), pod, "loopback").stdout)
    assert [ip["address"] for ip in result["ips"]] == ["127.0.0.1/8", "::1/128"]
    assert result["interfaces"] == [{"mac": "00:00:00:00:00:00", "name": "lo", "sandbox": pod}]
    runtime.call("DEL", runtime.config(), pod, "loopback")
    assert not runtime.machine.pods[pod].links["lo"].up
    assert loopback.CREATES_INTERFACE is False


@pytest.mark.parametrize("version", versions.SUPPORTED)
def test_add_in_every_version(runtime: Runtime, version: str) -> None:
    result = runtime.add(runtime.config(ipam=V4, isGateway=True) | {"cniVersion": version}, runtime.pod())
    assert result["cniVersion"] == version
    assert (result["ip4"] if version < "0.3.0" else result["ips"][0])["gateway"] == "10.1.0.1"


@pytest.fixture
def own_plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A plugin of the test in the registry."""
    module = ModuleType("tests.own_plugin")
    module.__dict__.update(
        CREATES_INTERFACE=False,
        CHAINED=False,
        parse=lambda call: None,
        look=lambda conf, call, host, known: None,
        plan_add=lambda conf, call, facts, lease: ([], lease),
        report=lambda conf, result, host: result,
        plan_del=lambda conf, call, facts: [DeleteLink(side=HOST, name="x")],
        check=lambda conf, call, facts, prev: [],
        plan_gc=lambda conf, call, keep, host: [],
        status=lambda conf, call, host: None,
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(dispatch_module.PLUGINS, "own", module.__name__)
    yield module


def test_a_new_plugin_is_a_module_and_a_line(own_plugin: ModuleType, runtime: Runtime) -> None:
    config = runtime.config(prevResult={"ips": []})
    for verb in FUNCTIONS:
        reply = runtime.call(verb, config, runtime.pod(), "own")
        assert reply.status == 0, reply
    assert own_plugin.plan_add(None, None, None, Result()) == ([], Result())


NONSENSE: dict[str, Any] = {
    "runtimeConfig": {"mac": "zz"},
    "args": {"cni": {"mac": "zz"}},
    "mtu": "large",
    "dataDir": 5,
    "dns": 7,
    "nodes": "none",
}


@pytest.mark.parametrize(
    "name", ["dual-stack", "ptp", "host-gw", "macvlan", "portmap", "firewall", "bandwidth", "tuning-sysctls"]
)
def test_del_and_gc_go_on_without_what_cannot_be_read(runtime: Runtime, name: str) -> None:
    """A runtime that passed nonsense passes it to DEL, too, and has to be rid of the pod. ADD refuses it."""
    keys, pod = CONFIGS[name], runtime.pod()
    if needs_uplink(keys):
        runtime.machine.uplink()
    good = runtime.ready(keys, pod)
    bad = good | NONSENSE
    assert json.loads(runtime.call("ADD", bad, pod).stdout)["code"] == 7
    runtime.add(good, pod)
    for verb, more in (("GC", {"cni.dev/valid-attachments": []}), ("DEL", {})):
        reply = runtime.call(verb, bad | more, pod)
        assert reply.status == 0, reply
    if "after" in keys:
        assert runtime.call("DEL", runtime.config(**keys["after"]), pod).status == 0
    assert not runtime.leases()
    assert "podwire/" not in runtime.dump()


def test_a_chained_plugin_needs_prev_result_but_for_removing(own_plugin: ModuleType, runtime: Runtime) -> None:
    own_plugin.CHAINED = True
    for verb in ("ADD", "CHECK"):
        reply = runtime.call(verb, runtime.config(), runtime.pod(), "own")
        assert json.loads(reply.stdout)["code"] == 7
        assert "prevResult" in json.loads(reply.stdout)["msg"]
    assert runtime.call("DEL", runtime.config(), runtime.pod(), "own").status == 0
