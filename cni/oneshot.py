"""The way in with a process per call: the only code that reads the environment and stdin, prints, and decides the exit status.

The plugin is the name the program was called by (a link in the runtime's folder of plugins), or the first argument:
``python -m cni bridge``.
"""

from __future__ import annotations

import os
import select
import sys
import time

from cni.dispatch import Reply, answer
from cni.registry import PLUGINS
from cni.spec.errors import InputError
from cni.spec.result import error_document
from cni.spec.versions import LATEST

# A network configuration is a few kilobytes; with a long chain's prevResult some more. shim/shim.c has the same limit.
STDIN_LIMIT = 1 << 20

# VERSION may be asked by hand with nothing on stdin that ever ends; no runtime takes this long to write its few bytes.
VERSION_PATIENCE_S = 1.0


def main(argv: list[str] | None = None) -> int:
    """Serve one call and return the exit status."""
    arguments = sys.argv if argv is None else argv
    name = plugin_of(arguments)
    return serve(name) if name else _usage(arguments)


def plugin_of(arguments: list[str]) -> str:
    """The plugin that a command line is for: that of the program's name, else that of the first argument; empty for neither."""
    from ipam.registry import PROVIDERS

    for name in (os.path.basename(arguments[0]), *arguments[1:2]):
        if name in PLUGINS or name in PROVIDERS:
            return name
    return ""


def serve(name: str) -> int:
    """Serve the call that this process is, of the plugin ``name``, and return the exit status."""
    verb = os.environ.get("CNI_COMMAND", "")
    try:
        stdin = b"" if not verb else _read_stdin(verb)
    except OSError as error:
        failure = InputError("cannot read the network configuration from stdin", str(error))
        reply = Reply(1, error_document(LATEST, failure.code, failure.msg, failure.details))
        _print(reply)
        return 1
    reply, delivered = answer(name, dict(os.environ), stdin, _print)
    return reply.status if delivered else 1


def _usage(arguments: list[str]) -> int:
    """Help for people: what there is, how it is called. A wrong name is an error."""
    from cni import about

    program, name = os.path.basename(arguments[0]), "".join(arguments[1:2])
    wrong = "" if name.startswith("-") else name
    text = about.usage("python -m cni" if program == "__main__.py" else program, wrong)
    (sys.stderr if wrong else sys.stdout).write(text)
    return 2 if wrong else 0


def _read_stdin(verb: str) -> bytes:
    if verb == "VERSION" and os.isatty(0):
        return b""
    deadline = time.monotonic() + VERSION_PATIENCE_S
    chunks: list[bytes] = []
    size = 0
    while True:
        if verb == "VERSION" and not select.select([0], [], [], max(0.0, deadline - time.monotonic()))[0]:
            break
        chunk = os.read(0, 1 << 16)
        if not chunk:
            break
        chunks.append(chunk)
        size += len(chunk)
        if size > STDIN_LIMIT:
            raise OSError(f"more than {STDIN_LIMIT} bytes")
    return b"".join(chunks)


def _print(reply: Reply) -> bool:
    """Whether the answer could be written."""
    try:
        if reply.stderr:
            os.write(2, reply.stderr.encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # nobody listens; the answer below is what counts
    try:
        rest = memoryview(reply.stdout)
        while rest:
            rest = rest[os.write(1, rest) :]
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
