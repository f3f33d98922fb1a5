"""Delegation to an IPAM plugin (spec section 4): in process when the executable is ours, else run as the specification says.

The only place where ``cni`` reaches ``ipam``. A plugin of ours never notices the difference: results and errors are the same.
"""

from __future__ import annotations

import importlib
import os
import re
import stat
import sys
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from cni.registry import PLUGINS
from cni.spec.errors import CheckFailed, CNIError, ConfigError, EnvError
from cni.spec.result import Result, read_result
from ipam.registry import PROVIDERS

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from cni.caller import Caller
    from cni.spec.call import Call
    from cni.spec.owner import Owner

# What a script that starts this program is: pip's console script, or a shell's that exports and then does nothing else.
_SCRIPTS = (
    re.compile(rb"#!.*\n(.*\n)*from cni\.oneshot import main\b"),
    re.compile(rb"#!.*\n(#.*\n|export .*\n|\n)*exec .* -m cni "),
)

# The native client that `make shim` builds in a checkout.
_BUILT = os.path.join(os.path.dirname(os.path.dirname(__file__)), "build", "shim", "shim")

# The largest result, in bytes; as large as a configuration may be, which has it as prevResult later.
RESULT_LIMIT = 1 << 20

# An executable that is being replaced cannot run for a moment; libcni tries as often.
_BUSY_TRIES, _BUSY_PAUSE_S = 6, 1.0


class Provider(Protocol):
    """What a module of ``ipam.registry`` offers. ``gc`` and ``check`` return lines for people."""

    def parse(self, call: Call) -> Any: ...
    def add(self, conf: Any, call: Call) -> Result: ...
    def delete(self, conf: Any, call: Call) -> None: ...
    def check(self, conf: Any, call: Call, prev: Result | None) -> list[str]: ...
    def gc(self, conf: Any, call: Call, keep: frozenset[Owner]) -> list[str]: ...
    def status(self, conf: Any, call: Call) -> None: ...


def provider(name: str) -> Provider | None:
    """Our own provider of a name, None when we have none."""
    module = PROVIDERS.get(name)
    return None if module is None else importlib.import_module(module)


def serve(own: Provider, call: Call, prev: Result | None) -> Result | None:
    """One verb of a provider of ours, for a delegating plugin or for a runtime that called it directly."""
    conf = own.parse(call)
    if call.verb == "ADD":
        return own.add(conf, call)
    if call.verb == "DEL":
        own.delete(conf, call)
    elif call.verb == "CHECK":
        problems = own.check(conf, call, prev)
        if problems:
            raise CheckFailed("; ".join(problems))
    elif call.verb == "GC":
        keep = call.valid_owners
        if keep is None:
            call.notes.append("GC without a list of valid attachments: nothing is known to be dead, no lease is touched")
        else:
            call.notes.extend(own.gc(conf, call, keep))
    elif call.verb == "STATUS":
        own.status(conf, call)
    return None


def delegate(name: str, call: Call, caller: Caller, prev: Result | None = None) -> Result | None:
    """Have the IPAM plugin ``name`` serve the call's verb; the result of an ADD, else None.

    Errors of the plugin pass through with their code, message and details. When somebody else's plugin fails an ADD, it is
    told to DEL before the failure is (spec section 4): it may hold an address all the same. Ours hold none then.
    """
    path = find(name, call.path, call.folder)
    if _is_ours(path):
        if name in PLUGINS:  # it would ask for an address before it does anything: the same plugin, and so on without end
            raise ConfigError(f"invalid ipam.type {name!r}: {name} makes interfaces and gives no addresses")
        own = provider(name)
        if own is not None:
            return serve(own, call, prev)
    done = _run(path, call, caller)
    try:
        return _answer(name, done, call)
    except CNIError:
        leftover = undo_add(name, call, caller) if call.verb == "ADD" else None
        if leftover is not None:
            call.notes.append(f"while taking back a failed ADD: {leftover}")
        raise


def undo_add(name: str, call: Call, caller: Caller) -> CNIError | None:
    """Give back what ``delegate`` got for a failing ADD; the failure, if that fails too."""
    try:
        delegate(name, msgspec.structs.replace(call, verb="DEL"), caller)
    except CNIError as error:
        return error
    return None


def find(name: str, path: tuple[str, ...], folder: str = "") -> str:
    """The executable of a plugin: the first regular file of the name in the folders of CNI_PATH, from ``folder`` on."""
    if not name or "/" in name or "\0" in name:
        raise ConfigError(f"invalid ipam.type {name!r}: expected the name of a plugin in CNI_PATH")
    if not path:
        raise EnvError("required env variables [CNI_PATH] missing", f"it is needed to find the IPAM plugin {name!r}")
    for part in path:
        candidate = os.path.join(folder, part, name)
        try:
            if stat.S_ISREG(os.stat(candidate).st_mode):
                return candidate
        except OSError:
            continue
    raise CNIError(f"failed to find plugin {name!r} in path {list(path)}", "install it there, or correct CNI_PATH or ipam.type")


def _is_ours(path: str) -> bool:
    """Whether an executable is this program under another name: its native client, the bundle itself, or a script that
    starts it.
    """
    try:
        if getattr(sys, "frozen", False):
            beside = os.path.join(os.path.dirname(sys.executable), "shim")
            return os.path.samefile(path, beside) or os.path.samefile(path, sys.executable)
        with open(path, "rb") as file:
            head = file.read(2048)
        if head.startswith(b"\x7fELF"):
            return os.path.samefile(path, _BUILT)
    except OSError:
        return False
    return any(script.match(head) for script in _SCRIPTS)


def _run(path: str, call: Call, caller: Caller) -> CompletedProcess[bytes]:
    """Run another's executable with the call's own environment and stdin (spec section 4, "Delegated plugin execution
    procedure").
    """
    import errno
    import time

    env = dict(call.env, CNI_COMMAND=call.verb)
    for attempt in range(_BUSY_TRIES):
        try:
            return caller.run(path, env, call.stdin)
        except OSError as error:
            if error.errno != errno.ETXTBSY or attempt == _BUSY_TRIES - 1:
                raise CNIError(f"cannot run IPAM plugin {path}: {error.strerror}") from error
            time.sleep(_BUSY_PAUSE_S)
    raise AssertionError("unreachable: the last try returns or raises")


def _answer(name: str, done: CompletedProcess[bytes], call: Call) -> Result | None:
    """What another's executable answered: the result of an ADD, else None; its failure as our own error."""
    if done.stderr:
        call.notes.append(f"{name}: " + done.stderr.decode("utf-8", "replace").strip())
    if done.returncode != 0:
        raise _failure(name, done.returncode, done.stdout, done.stderr)
    if call.verb != "ADD":
        return None
    if len(done.stdout) > RESULT_LIMIT:
        raise CNIError(f"IPAM plugin {name!r} answered {len(done.stdout)} bytes", f"a result has at most {RESULT_LIMIT}")
    try:
        document = msgspec.json.decode(done.stdout)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CNIError(f"IPAM plugin {name!r} answered what is not JSON: {error}") from error
    result = read_result(document, call.version, f"result of IPAM plugin {name!r}")
    if not result.ips:
        raise CNIError(f"IPAM plugin {name!r} returned missing IP config")
    return result


def _failure(name: str, status: int, stdout: bytes, stderr: bytes) -> CNIError:
    """A delegate's error object as our own error, or words for a delegate that died without one."""
    try:
        document = msgspec.json.decode(stdout, type=dict[str, Any])
        return CNIError(str(document["msg"]), str(document.get("details") or ""), int(document["code"]))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, ValueError, TypeError):
        said = (stderr or stdout).decode("utf-8", "replace").strip()
        return CNIError(f"IPAM plugin {name!r} failed with status {status} and no error object", said)
