"""``podwire agent``: the resident way, as a command for people and for systemd."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click
import msgspec
from click.shell_completion import CompletionItem

from agent import listen
from agent.journal import FORMATS, LEVELS, Journal
from agent.server import Server
from agent.workers import Workers
from cni import __version__, oneshot
from cni.dispatch import CALLING
from cni.registry import PLUGINS
from ipam import index
from ipam.registry import PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent import scrape
    from agent.journal import Served

SOCKET = "/run/podwire/cni.sock"

# Calls spend most of their time waiting for the kernel, and deletions share one wait, so more threads than processors help.
WORKERS = 32

BY_HAND = """\
  CNI_COMMAND=VERSION podwire bridge </dev/null

\b
The project's docs/plugins has a page for each plugin, docs/agent.md is about the agent.
"""

# Calls that wait hold three descriptors each, those at work some more.
DESCRIPTORS = 1 << 16

# How long a thread may run before another gets its turn. A call needs three milliseconds, mostly of the kernel's: one that
# has the kernel's answer should not wait five for its turn, which is Python's default.
SWITCH_S = 0.0005

# How long calls that run at the end may take; systemd waits longer (conf/systemd), and runtimes do not.
STOP_PATIENCE_S = 90.0


class Program(click.Group):
    """Commands, and plugins, which are named in the help and completed by shells as commands are."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """A runtime that calls a plugin we do not have gets its answer in JSON, as from the agent."""
        if os.environ.get("CNI_COMMAND") and self.get_command(ctx, args[0]) is None:
            ctx.exit(oneshot.serve(args[0]))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Plugins first: they are what the program is for."""
        with formatter.section("Plugins"):
            formatter.write_dl(oneshot.plugins())
        super().format_commands(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names that begin so."""
        found = [CompletionItem(name, help=told) for name, told in oneshot.plugins() if name.startswith(incomplete)]
        return found + super().shell_complete(ctx, incomplete)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]}, epilog=f"\b\n{CALLING}{BY_HAND}")
@click.version_option(__version__, prog_name="podwire")
def podwire() -> None:
    """CNI plugins, IP address management and node agent for Linux pods.

    With the name of a plugin this program serves one call of that plugin, in a process of its own. A runtime's folder has the
    native client under these names: it hands calls to the agent where one listens, and else becomes this program.
    """


@podwire.command()
@click.option("--socket", "path", default=SOCKET, show_default=True, metavar="PATH", help="Where clients connect.")
@click.option("--workers", default=WORKERS, show_default=True, type=click.IntRange(1, 512), help="Calls served at a time.")
@click.option("--metrics", metavar="ADDRESS", help="Serve /metrics on unix:/PATH or on a loopback HOST:PORT. Off by default.")
@click.option(
    "--log-level", default="info", show_default=True, type=click.Choice(list(LEVELS)), help="Least urgent that is told."
)
@click.option("--log-format", default="logfmt", show_default=True, type=click.Choice(list(FORMATS)), help="Form of log lines.")
def agent(path: str, workers: int, metrics: str | None, log_level: str, log_format: str) -> None:
    """Serve plugin calls from a warm process.

    The program that a runtime calls (the shim, under each plugin's name in /opt/cni/bin) hands its call to this agent when one
    listens, and else does the work itself, several times slower: results are the same, byte for byte. So the agent can be
    started, stopped and upgraded at any time.

    \b
      podwire agent                                   try it, in a terminal
      systemctl enable --now podwire-agent            have systemd start it, now and at each boot

    SIGTERM or Ctrl-C: new calls are declined, those that run are finished. The log, a line for each call, goes to stderr.
    """
    if os.geteuid():
        raise click.ClickException("this needs root: it makes interfaces in the network namespaces of pods")
    sys.exit(run(path, workers, metrics, Journal(log_format, log_level)))


def run(path: str, bound: int, metrics: str | None, journal: Journal) -> int:
    """The agent from start to end; the exit status."""
    os.umask(0o022)
    os.chdir("/")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, DESCRIPTORS), most))
    notify_address = os.environ.pop("NOTIFY_SOCKET", None)
    workers = Workers(bound)
    index.keep()
    _warm_up()
    observers, scraped = _measured(metrics, workers) if metrics else ((), None)
    try:
        listener = listen.passed(os.environ) or listen.listen(path)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"cannot listen on {path}: {error}") from error
    server = Server(listener, workers, journal, observers)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: server.stop())
    signal.set_wakeup_fd(server.waker, warn_on_full_buffer=False)
    journal.event("listening", socket=listener.path, version=__version__, pid=os.getpid())
    listen.notify("READY=1", notify_address)
    server.run()
    listen.notify("STOPPING=1", notify_address)
    journal.event("stopping", running=workers.running, waiting=workers.waiting)
    finished = workers.join(STOP_PATIENCE_S)
    journal.event("stopped", unfinished=workers.running)
    if scraped is not None:
        scraped.close()
    return 0 if finished else 1


def _measured(address: str, workers: Workers) -> tuple[tuple[Callable[[Served], None], ...], scrape.Server]:
    """What counts calls, and the server that tells of it. Imported here: most agents run without."""
    from agent import scrape
    from agent.metrics import Metrics

    counted = Metrics(lambda: workers.running, lambda: workers.waiting, index.census)
    try:
        return (counted.observe,), scrape.serve(address, counted.registry)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def _warm_up() -> None:
    """Load all that a call may need, so that the first is as fast as the others; what is loaded stays, and is not searched for
    garbage again.
    """
    for module in (*PLUGINS.values(), *PROVIDERS.values(), "cni.net.execute", "cni.net.host", "subprocess", "traceback"):
        import_module(module)
    _prepare(msgspec.Struct)
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)  # a call leaves nothing but what is freed at once
    sys.setswitchinterval(SWITCH_S)


def _prepare(kind: type[msgspec.Struct]) -> None:
    """Have msgspec find out what the records below ``kind`` consist of, now, while there is one thread.

    It does so when it first decodes one, and where a second thread decodes another one meanwhile, that thread finds half of it
    and the process ends by a segmentation fault (0.22).
    """
    for record in kind.__subclasses__():
        try:
            msgspec.convert({}, record)
        except (msgspec.ValidationError, TypeError, NameError):
            pass  # a key is required; or it is none that is ever decoded
        _prepare(record)


def main() -> None:
    """The program ``podwire`` where pip installed it: with a plugin's name it is that plugin, one-shot."""
    if oneshot.plugin_of(sys.argv):
        sys.exit(oneshot.main())
    podwire()
