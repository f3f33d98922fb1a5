"""The agent from start to end: what it loads, the socket, signals, and what it waits for when it stops."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import msgspec

from agent import listen
from agent.server import Server
from agent.workers import Workers
from cni import __version__
from cni.registry import PLUGINS
from ipam import indexed
from ipam.registry import PROVIDERS

if TYPE_CHECKING:
    from agent import scrape
    from agent.journal import Journal

# Calls that wait hold three descriptors each, those at work some more.
DESCRIPTORS = 1 << 16

# How long a thread may run before another gets its turn. A call needs three milliseconds, mostly of the kernel's: one that
# has the kernel's answer should not wait five for its turn, which is Python's default.
SWITCH_S = 0.0005

# How long calls that run at the end may take; systemd waits longer (conf/systemd), and runtimes do not.
STOP_PATIENCE_S = 90.0


class CannotStart(Exception):
    """The agent cannot begin; the message says why."""


def run(path: str, bound: int, any_mounts: bool, metrics: str | None, journal: Journal) -> int:
    """Serve calls at ``path``, or at systemd's socket, until SIGTERM or SIGINT; the exit status. ``bound`` calls are served at
    a time, with ``any_mounts`` also those of other mount namespaces; ``metrics`` is an address for ``agent.scrape``.
    CannotStart when it cannot begin.
    """
    os.umask(0o022)
    os.chdir("/")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, DESCRIPTORS), most))
    notify_address = os.environ.pop("NOTIFY_SOCKET", None)
    workers = Workers(bound)
    indexed.keep()
    warm_up()
    listener = _listen(path)
    server = Server(listener, workers, journal, any_mounts)
    try:
        exporter = _measure(metrics, workers, server, journal) if metrics else None
    except BaseException:
        listener.close()
        raise
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # SIGHUP: the terminal has gone
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, lambda _number, _frame: server.stop())
    signal.set_wakeup_fd(server.waker, warn_on_full_buffer=False)
    if listener.replaced:
        journal.event("replaced", socket=path, reason="another agent listened there: it gets no calls any more, end it")
    journal.event("listening", socket=listener.path, version=__version__, pid=os.getpid())
    listen.notify("READY=1", notify_address)
    server.run()
    listen.notify("STOPPING=1", notify_address)
    journal.event("stopping", running=workers.running, waiting=workers.waiting)
    finished = workers.join(STOP_PATIENCE_S)
    journal.event("stopped", unfinished=workers.running)
    if exporter is not None:
        exporter.close()
    journal.close()
    return 0 if finished else 1


def _listen(path: str) -> listen.Listener:
    try:
        return listen.passed(os.environ) or listen.listen(path)
    except (OSError, ValueError) as error:
        raise CannotStart(f"cannot listen on {path}: {error}") from error


def _measure(address: str, workers: Workers, server: Server, journal: Journal) -> scrape.Exporter:
    """Count calls, and tell of it at an address. Imported here: most agents run without."""
    from agent import scrape
    from agent.metrics import Metrics

    metrics = Metrics(
        running=lambda: workers.running,
        waiting=lambda: workers.waiting,
        declined=lambda: server.declined,
        lost=lambda: journal.lost,
        census=indexed.census,
    )
    server.observers.append(metrics.observe)
    try:
        return scrape.serve(address, metrics.registry)
    except ValueError as error:
        raise CannotStart(str(error)) from error


def warm_up() -> None:
    """Load all that a call may need, so that the first is as fast as the others; what is loaded stays, and is not searched for
    garbage again.
    """
    doors = ("cni.net.execute", "cni.net.host", "cni.net.traffic")
    for module in (*PLUGINS.values(), *PROVIDERS.values(), *doors, "subprocess", "traceback"):
        import_module(module)
    prepare(msgspec.Struct)
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)  # a call leaves nothing but what is freed at once
    sys.setswitchinterval(SWITCH_S)


def prepare(kind: type[msgspec.Struct]) -> None:
    """Have msgspec find out what the records below ``kind`` consist of, now, while there is one thread.

    It does so when it first decodes one, and where a second thread decodes another one meanwhile, that thread finds half of it
    and the process ends by a segmentation fault (0.22).
    """
    for record in kind.__subclasses__():
        try:
            msgspec.convert({}, record)
        except (msgspec.ValidationError, TypeError, NameError):
            pass  # a key is required; or it is none that is ever decoded
        prepare(record)
