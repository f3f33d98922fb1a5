"""The program ``podwire`` on a command line: its help, the command ``podwire agent``, and completion in shells."""

from __future__ import annotations

import os
import sys

import click
from click.shell_completion import CompletionItem

from agent import life
from agent.journal import FORMATS, LEVELS, Journal
from cni import __version__, about, oneshot

SOCKET = "/run/podwire/cni.sock"

# Calls spend most of their time waiting for the kernel, and deletions share one wait, so more threads than processors help.
WORKERS = 32

BY_HAND = """\
  CNI_COMMAND=VERSION podwire bridge </dev/null

\b
The project's docs/plugins has a page for each plugin, docs/agent.md is about the agent.
"""


class Program(click.Group):
    """Commands, and plugins, which are named in the help and completed by shells as commands are."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """A runtime that calls a plugin we do not have gets its answer in JSON, as from the agent; a person gets a list."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            if os.environ.get("CNI_COMMAND"):
                ctx.exit(oneshot.serve(args[0]))
            known = ", ".join([*about.names(), *self.commands])
            ctx.fail(f"there is no command or plugin {args[0]!r}; known: {known}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Plugins first: they are what the program is for."""
        with formatter.section("Plugins"):
            formatter.write_dl(about.plugins())
        super().format_commands(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names that begin so."""
        found = [CompletionItem(name, help=told) for name, told in about.plugins() if name.startswith(incomplete)]
        return found + super().shell_complete(ctx, incomplete)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]}, epilog=f"\b\n{about.CALLING}{BY_HAND}")
@click.version_option(__version__, prog_name="podwire")
def podwire() -> None:
    """CNI plugins, IP address management and node agent for Linux pods.

    With the name of a plugin this program serves one call of that plugin, in a process of its own. A runtime's folder has the
    native client under these names: it hands calls to the agent where one listens, and else becomes this program.
    """


@podwire.command()
@click.option("--socket", "path", default=SOCKET, show_default=True, metavar="PATH", help="Where clients connect.")
@click.option("--workers", default=WORKERS, show_default=True, type=click.IntRange(1, 512), help="Calls served at a time.")
@click.option("--any-mounts", is_flag=True, help="Serve callers of other mount namespaces too; see docs/agent.md.")
@click.option("--metrics", metavar="ADDRESS", help="Serve /metrics on unix:/PATH or on a loopback HOST:PORT. Off by default.")
@click.option(
    "--log-level", default="info", show_default=True, type=click.Choice(list(LEVELS)), help="Least urgent that is told."
)
@click.option("--log-format", default="logfmt", show_default=True, type=click.Choice(list(FORMATS)), help="Form of log lines.")
def agent(path: str, workers: int, any_mounts: bool, metrics: str | None, log_level: str, log_format: str) -> None:
    """Serve plugin calls from a warm process.

    The native client, which a runtime calls under each plugin's name in /opt/cni/bin, hands its call to this agent when one
    listens, and else does the work itself, several times slower: results are the same, byte for byte. So the agent can be
    started, stopped and upgraded at any time.

    \b
      podwire agent                                   try it, in a terminal
      systemctl enable --now podwire-agent            have systemd start it, now and at each boot

    SIGTERM or Ctrl-C: new calls are declined, those that run are finished. The log, a line for each call, goes to stderr.
    """
    if os.geteuid():
        raise click.ClickException("this needs root: it makes interfaces in the network namespaces of pods")
    try:
        sys.exit(life.run(path, workers, any_mounts, metrics, Journal(log_format, log_level)))
    except life.CannotStart as error:
        raise click.ClickException(str(error)) from error


def main() -> None:
    """The program ``podwire`` where pip installed it: with a plugin's name it is that plugin, one-shot."""
    if oneshot.plugin_of(sys.argv):
        sys.exit(oneshot.main())
    podwire()
