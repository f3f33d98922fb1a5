"""One call from environment and stdin to a reply: the order of checks, the verbs, the one place where errors become codes.

``dispatch`` is the same for every way in (a process per call, the agent's socket, tests): it reads nothing of the process it
runs in. The order of checks is the reference's (its pkg/skel), because clients see which error comes first: environment, stdin,
name, verb, version. The host's own namespace is refused earlier than there, before anything is done (P#714). docs/protocol.md
has all of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec

from cni.caller import Caller
from cni.delegate import delegate, find, provider, serve, undo_add
from cni.registry import PLUGINS
from cni.spec import versions
from cni.spec.call import VERBS, Call, check_env, parse_args
from cni.spec.conf import check_network_name, check_new_ifname, check_one_plugin, decode_document, lookup, text_at
from cni.spec.errors import (
    CheckFailed,
    CNIError,
    ConfigError,
    DecodeError,
    EnvError,
    HostSandbox,
    NotAvailable,
    UnknownSandbox,
)
from cni.spec.result import Result, error_document, printable, read_result, render, version_document
from cni.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cni.net.host import Host
    from cni.spec.owner import Owner


# A reply that could not be delivered.
CANNOT_ANSWER = "the answer cannot be delivered, so nobody knows of the attachment: it is taken back"


class Reply(msgspec.Struct, frozen=True):
    """What the caller sees: exit status, stdout, and remarks for stderr. The rest is for logs: the error's code, 0 for
    success, and what ``cni.trace`` says.
    """

    status: int
    stdout: bytes = b""
    stderr: str = ""
    code: int = 0
    network: str = ""
    addresses: tuple[str, ...] = ()
    phases: tuple[tuple[str, float], ...] = ()
    repairs: tuple[str, ...] = ()


class Turn(msgspec.Struct, frozen=True):
    """One call while it is served."""

    call: Call
    prev: Result | None
    caller: Caller
    trace: Trace

    def host(self, needed: bool) -> Host:
        """The doors of the call; for ``needed`` see ``_open_sandbox``."""
        return self.caller.host(_open_sandbox(self.call, self.caller, needed), self.call.env.get("PATH", ""))


class Plugin(Protocol):
    """The functions of a plugin module; ``cni.plugins`` says what each is for."""

    CREATES_INTERFACE: bool
    CHAINED: bool

    def parse(self, call: Call) -> Any: ...
    def look(self, conf: Any, call: Call, host: Host, known: Result | None) -> Any: ...
    def plan_add(self, conf: Any, call: Call, facts: Any, lease: Result) -> tuple[list[Any], Result]: ...
    def report(self, conf: Any, result: Result, host: Host) -> Result: ...
    def plan_del(self, conf: Any, call: Call, facts: Any) -> list[Any]: ...
    def check(self, conf: Any, call: Call, facts: Any, prev: Any) -> list[str]: ...
    def plan_gc(self, conf: Any, call: Call, keep: frozenset[Owner], host: Host) -> list[Any]: ...
    def status(self, conf: Any, call: Call, host: Host) -> None: ...


def answer(
    name: str, env: Mapping[str, str], stdin: bytes, deliver: Callable[[Reply], bool], caller: Caller | None = None
) -> tuple[Reply, bool]:
    """Serve one call and have the reply delivered; the reply, and whether ``deliver`` said that it was.

    An ADD whose reply cannot be delivered is taken back by a DEL.
    """
    reply = dispatch(name, env, stdin, caller)
    delivered = deliver(reply)
    if not delivered and env.get("CNI_COMMAND") == "ADD" and reply.status == 0:
        reply = _taken_back(name, reply, dispatch(name, {**env, "CNI_COMMAND": "DEL"}, stdin, caller))
        deliver(reply)
    return reply, delivered


def _taken_back(name: str, added: Reply, undone: Reply) -> Reply:
    """The reply to an ADD that a DEL took back because nobody knows of it; if that failed, with its error."""
    stderr = f"{name}: {CANNOT_ANSWER}\n{undone.stderr}"
    repairs = added.repairs if undone.code else (*added.repairs, "unheard_add")
    return msgspec.structs.replace(added, status=1, stdout=undone.stdout, stderr=stderr, code=undone.code, repairs=repairs)


def dispatch(name: str, env: Mapping[str, str], stdin: bytes, caller: Caller | None = None) -> Reply:
    """Serve one call of the plugin ``name``. Never raises: whatever happens becomes a reply."""
    notes: list[str] = []
    version = versions.LATEST
    trace = Trace()
    try:
        if not env.get("CNI_COMMAND"):
            from cni import about

            return Reply(0, stderr=about.plugin(name))
        if env["CNI_COMMAND"] == "VERSION":
            return Reply(0, version_document(_asked_version(stdin)))
        check_env(env)
        document = decode_document(stdin)
        version = text_at(document, "cniVersion") or versions.DEFAULT
        caller = caller or Caller()
        call = _call(env, stdin, document, version, notes, caller.folder)
        trace.network = call.network
        told = _serve(name, Turn(call, _previous(call), caller, trace))
        trace.begin("")
        return Reply(0, told, _lines(name, notes), 0, trace.network, trace.addresses, tuple(trace.phases), tuple(trace.repairs))
    except CNIError as error:
        return _failed(name, version, error, notes, trace)
    except Exception as error:  # the promise of one JSON document holds for our own mistakes too
        return _failed(name, version, _internal(error, notes), notes, trace)


def _call(env: Mapping[str, str], stdin: bytes, document: dict[str, Any], version: str, notes: list[str], folder: str) -> Call:
    network = check_network_name(_name(document))
    verb = env["CNI_COMMAND"]
    if verb not in VERBS:
        raise EnvError(f"unknown CNI_COMMAND: {verb if verb.isprintable() else repr(verb)}")
    versions.require(verb, version)
    check_one_plugin(document)
    of_attachment = env if verb in ("ADD", "CHECK", "DEL") else {}
    return Call(
        verb=verb,
        container_id=of_attachment.get("CNI_CONTAINERID", ""),
        netns=of_attachment.get("CNI_NETNS", ""),
        ifname=of_attachment.get("CNI_IFNAME", ""),
        args=parse_args(of_attachment.get("CNI_ARGS", "")),
        path=tuple(folder for folder in env.get("CNI_PATH", "").split(":") if folder),
        network=network,
        version=version,
        config=document,
        stdin=stdin,
        env=dict(env),
        folder=folder,
        notes=notes,
    )


def _name(document: dict[str, Any]) -> str:
    return text_at(document, "name")


def _asked_version(stdin: bytes) -> str:
    """The version a VERSION call names on stdin; empty when it names none that can be read."""
    try:
        return text_at(decode_document(stdin), "cniVersion")
    except DecodeError:
        return ""


def _serve(name: str, turn: Turn) -> bytes:
    call = turn.call
    module = PLUGINS.get(name)
    if module is None:
        own = provider(name)
        if own is None:
            from cni import about

            raise ConfigError(f"there is no plugin {name!r} in podwire", f"known: {', '.join(about.names())}")
        sandbox = _open_sandbox(call, turn.caller, needed=False)
        if sandbox is not None:
            _close(sandbox)
        turn.trace.begin("lease")
        result = serve(own, call, turn.prev)
        return b"" if result is None else _render(result, turn)
    plugin = cast("Plugin", importlib.import_module(module))
    turn.trace.begin("parse")
    return _VERBS[call.verb](plugin, turn)


def _add(plugin: Plugin, turn: Turn) -> bytes:
    call = turn.call
    conf = plugin.parse(call)
    _require_previous(plugin, turn)
    if plugin.CREATES_INTERFACE:
        check_new_ifname(call.ifname, "CNI_IFNAME")
    host = turn.host(needed=True)
    try:
        if plugin.CREATES_INTERFACE:
            _refuse_second(call, host)
        return _added(plugin, conf, turn, host)
    finally:
        host.close()


def _require_previous(plugin: Plugin, turn: Turn) -> None:
    """ConfigError for a call that cannot be served without prevResult."""
    missing = "required prevResult missing"
    if turn.prev is None and plugin.CHAINED:
        raise ConfigError(missing, "it comes from the plugins before this one in the list: put it after the one that attaches")
    if turn.prev is None and plugin.CREATES_INTERFACE and turn.call.verb == "CHECK":
        raise ConfigError(missing, "CHECK compares the attachment with the result of its ADD")


def _refuse_second(call: Call, host: Host) -> None:
    """Refuse an ADD of what is there, before an IPAM plugin is asked: taking back that failure would cost the living its
    address.
    """
    if host.sandbox is not None and host.sandbox.link(call.ifname) is not None:
        raise CNIError(f"interface {call.ifname!r} already exists in sandbox {call.netns!r}", "DEL it first")
    port = host.root.link(call.owner.host_veth)
    if port is not None and port.alias == call.owner.label:
        there = f"interface {call.ifname!r} of container {call.container_id!r} already exists in another sandbox"
        raise CNIError(there, f"its host end is {port.name}; DEL it first")


def _added(plugin: Plugin, conf: Any, turn: Turn, host: Host) -> bytes:
    """The ADD itself: lease, look, plan, execute, report. Whatever fails, all that was done is taken back, last first."""
    from cni.net.execute import execute, undo

    call, trace = turn.call, turn.trace
    ipam = _ipam(conf)
    trace.begin("lease")
    lease = delegate(ipam, call, turn.caller) if ipam else None if plugin.CREATES_INTERFACE else turn.prev
    done: list[Any] = []
    try:
        trace.begin("look")
        host.work()
        facts = plugin.look(conf, call, host, lease)
        plan, result = plugin.plan_add(conf, call, facts, lease or Result())
        trace.begin("execute")
        execute(plan, host, done)
        trace.begin("report")
        return _render(plugin.report(conf, result, host), turn)
    except BaseException:
        trace.begin("undo")
        trace.repairs.append("failed_add")
        leftovers = undo(done, host)
        host.rest()
        if ipam:
            leftovers += [error for error in [undo_add(ipam, call, turn.caller)] if error is not None]
        call.notes.extend(f"while taking back a failed ADD: {error}" for error in leftovers)
        raise


def _render(result: Result, turn: Turn) -> bytes:
    turn.trace.addresses = tuple(str(ip.address) for ip in result.ips)
    return render(result, turn.call.version)


def _del(plugin: Plugin, turn: Turn) -> bytes:
    """Remove everything of the attachment. One failure never keeps the rest from being removed, least of all the lease."""
    call = turn.call
    conf = plugin.parse(call)
    failures = _remove(turn, lambda host: plugin.plan_del(conf, call, plugin.look(conf, call, host, turn.prev)), [])
    _raise_first(failures + _attempt(_ipam(conf), turn))
    return b""


def _remove(turn: Turn, plan: Callable[[Host], list[Any]], done: list[Any]) -> list[CNIError]:
    """Look, plan and remove; returns what failed, our own mistakes included, so that the caller goes on. What was removed is
    in ``done``.
    """
    from cni.net.execute import remove

    turn.trace.begin("look")
    host = turn.host(needed=False)  # what it refuses, the host's own namespace, is not gone on with
    try:
        planned = plan(host)
        turn.trace.begin("remove")
        return remove(planned, host, done)
    except CNIError as error:
        return [error]
    except Exception as error:
        return [_internal(error, turn.call.notes)]
    finally:
        host.close()


def _check(plugin: Plugin, turn: Turn) -> bytes:
    call, prev = turn.call, turn.prev
    conf = plugin.parse(call)
    _require_previous(plugin, turn)
    turn.trace.begin("check")
    host = turn.host(needed=True)
    try:
        problems = plugin.check(conf, call, plugin.look(conf, call, host, prev), prev)
    finally:
        host.close()
    of_ipam = _attempt(_ipam(conf), turn)
    if problems:
        raise CheckFailed("; ".join([*problems, *map(str, of_ipam)]))
    _raise_first(of_ipam)
    return b""


def _gc(plugin: Plugin, turn: Turn) -> bytes:
    call = turn.call
    conf = plugin.parse(call)
    keep = call.valid_owners
    failures: list[CNIError] = []
    if keep is None:
        call.notes.append("GC without a list of valid attachments: nothing is known to be dead, nothing is touched")
    else:
        done: list[Any] = []
        failures += _remove(turn, lambda host: plugin.plan_gc(conf, call, keep, host), done)
        call.notes.extend(op.describe() for op in done)
        turn.trace.repairs.extend("collected" for _ in done)
    _raise_first(failures + _attempt(_ipam(conf), turn))
    return b""


def _status(plugin: Plugin, turn: Turn) -> bytes:
    call = turn.call
    conf = plugin.parse(call)
    turn.trace.begin("status")
    host = turn.host(needed=False)
    try:
        plugin.status(conf, call, host)
    finally:
        host.close()
    ipam = _ipam(conf)
    if ipam:
        try:
            find(ipam, call.path, call.folder)
        except CNIError as error:
            raise NotAvailable(error.msg, error.details) from error
        delegate(ipam, call, turn.caller)
    return b""


_VERBS = {"ADD": _add, "DEL": _del, "CHECK": _check, "GC": _gc, "STATUS": _status}


def _ipam(conf: Any) -> str:
    """The IPAM plugin of a configuration, empty when it has none."""
    ipam = getattr(conf, "ipam", None)
    return "" if ipam is None else cast("str", ipam.type)


def _attempt(ipam: str, turn: Turn) -> list[CNIError]:
    """Delegate, and return the failure instead of raising it."""
    try:
        if ipam:
            turn.trace.begin("lease")
            delegate(ipam, turn.call, turn.caller, turn.prev)
    except CNIError as error:
        return [error]
    return []


def _raise_first(failures: list[CNIError]) -> None:
    """Raise the first of several failures, with the others in its details."""
    if failures:
        first, *others = failures
        details = "; ".join(part for part in (first.details, *map(str, others)) if part)
        raise CNIError(first.msg, details, first.code) from first


def _previous(call: Call) -> Result | None:
    """The configuration's prevResult. A DEL goes on without one that cannot be read: removing must not depend on it."""
    document = lookup(call.config, "prevResult")
    if document is None:
        return None
    try:
        return read_result(document, call.version, "prevResult")
    except ConfigError as error:
        if call.verb != "DEL":
            raise
        call.notes.append(f"going on without prevResult: {error}")
        return None


def _open_sandbox(call: Call, caller: Caller, needed: bool) -> int | None:
    """The sandbox's descriptor, never that of the host's own namespace (HostSandbox, 8).

    Without ``needed`` a sandbox that is gone, or whose path is no namespace any more, counts as None: DEL must go on without it
    (spec section 3, "DEL": plugins should complete without error even if resources are missing).
    """
    if not call.netns or call.verb not in ("ADD", "CHECK", "DEL"):
        return None
    from cni.net import netns

    try:
        fd = caller.open_sandbox(call.netns)
    except (UnknownSandbox, EnvError) as error:
        if needed:
            raise
        if isinstance(error, EnvError) and call.verb == "DEL":
            call.notes.append(f"going on without the sandbox: {error}")
        return None
    if netns.is_own(fd) and call.env.get("CNI_NETNS_OVERRIDE", "").lower() not in ("true", "1"):
        _close(fd)
        raise HostSandbox(
            f"CNI_NETNS {call.netns!r} is the host's own network namespace",
            "a plugin must not touch it; set CNI_NETNS_OVERRIDE=1 if you mean it",
        )
    return fd


def _close(fd: int) -> None:
    import os

    os.close(fd)


def _internal(error: Exception, notes: list[str]) -> CNIError:
    """A mistake of ours as an error of one line, its trace among the notes."""
    import traceback

    notes.append("".join(traceback.format_exception(error)).rstrip())
    said = " ".join(str(error).split())
    return CNIError(f"internal error: {type(error).__name__}: {said}")


def _failed(name: str, version: str, error: CNIError, notes: list[str], trace: Trace) -> Reply:
    echoed = version if version in versions.SUPPORTED else versions.LATEST
    trace.begin("")
    return Reply(
        status=1,
        stdout=error_document(echoed, error.code, error.msg, error.details),
        stderr=_lines(name, notes),
        code=error.code,
        network=trace.network,
        phases=tuple(trace.phases),
        repairs=tuple(trace.repairs),
    )


def _lines(name: str, notes: list[str]) -> str:
    return "".join(f"{name}: {printable(note)}\n" for note in notes)
