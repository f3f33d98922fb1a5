"""The program `podwire` on a command line: what it tells people, what it refuses, and which part of it a plugin call loads."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from agent import command
from agent.journal import FORMATS, LEVELS
from cni import __version__
from cni.about import CALLING
from cni.registry import PLUGINS
from ipam.registry import PROVIDERS
from tests.harness.wrappers import ROOT
from tests.unit.test_docs import DOCS, FENCE, SPAN, rows, section

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

NAMES = {**PLUGINS, **PROVIDERS}
PAGE = DOCS / "agent.md"


def ask(*arguments: str, **env: str) -> Result:
    """The program in this process, as by a person at a wide terminal."""
    given = {"CNI_COMMAND": None, **env}
    return CliRunner().invoke(command.podwire, arguments, env=given, prog_name="podwire", terminal_width=200)


def start(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own."""
    program = [sys.executable, "-c", "from agent.command import main; main()", *arguments]
    known = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(program, input="", env=known, capture_output=True, text=True, check=False, timeout=60)


# Help.


def test_help_teaches_plugins_agent_and_how_a_runtime_calls() -> None:
    told = ask("--help")
    assert told.exit_code == 0
    plain = " ".join(told.output.split())
    for name, module in NAMES.items():
        what = (importlib.import_module(module).__doc__ or "").partition("\n")[0].removeprefix(f"{name}: ")
        assert f"{name} {what}" in plain
    assert re.search(r"^Commands:\n  agent  \w", told.output, re.MULTILINE)
    assert " ".join(CALLING.split()) in plain
    assert "CNI_COMMAND=VERSION podwire bridge </dev/null" in plain
    assert (DOCS / "plugins").is_dir() and PAGE.is_file()


@pytest.mark.parametrize("arguments", [("-h",), ("--help",), ()])
def test_help_is_what_somebody_gets_who_knows_nothing(arguments: tuple[str, ...]) -> None:
    assert ask(*arguments).output == ask("--help").output


def test_version() -> None:
    assert ask("--version").output == f"podwire, version {__version__}\n"


def test_help_of_the_agent() -> None:
    told = ask("agent", "--help")
    assert told.exit_code == 0
    assert "systemctl enable --now podwire-agent" in told.output
    assert command.SOCKET in told.output


# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("nonsense",),
            "no command or plugin 'nonsense'; known: bridge, firewall, host-gw, host-local, loopback, ptp, static, agent",
        ),
        (("",), "there is no command or plugin ''; known: bridge"),
        (("--nonsense",), "No such option '--nonsense'"),
        (("agent", "--nonsense"), "No such option '--nonsense'"),
        (("agent", "bridge"), "Got unexpected extra argument (bridge)"),
        (("agent", "--workers", "0"), "0 is not in the range 1<=x<=512"),
        (("agent", "--workers", "many"), "'many' is not a valid integer"),
        (("agent", "--log-level", "loud"), "'loud' is not one of 'info', 'warning', 'error'"),
        (("agent", "--log-format", "xml"), "'xml' is not one of 'logfmt', 'json'"),
        (("agent", "--socket"), "Option '--socket' requires an argument"),
    ],
)
def test_wrong_words(arguments: tuple[str, ...], says: str) -> None:
    done = ask(*arguments)
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stdout == ""


def test_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    done = ask("agent")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "Error: this needs root: it makes interfaces in the network namespaces of pods\n"


@pytest.mark.root
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--socket", "/proc/podwire/cni.sock"), "cannot listen on /proc/podwire/cni.sock: "),
        (("--socket", "cni.sock"), "cannot listen on cni.sock: a socket needs an absolute path"),
        (("--socket", "{file}"), "{file} is there and is no socket"),
        (("--socket", "{folder}/a.sock", "--metrics", "0.0.0.0:9127"), "metrics address '0.0.0.0:9127' is not of the loopback"),
        (("--socket", "{folder}/a.sock", "--metrics", "metrics"), "metrics address 'metrics' is not understood"),
    ],
)
def test_an_agent_that_cannot_start_says_why(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    places = {"file": str(tmp_path / "file"), "folder": str(tmp_path)}
    (tmp_path / "file").write_text("")
    done = start("agent", *(argument.format(**places) for argument in arguments))
    assert done.returncode == 1, done
    assert "Error: " in done.stderr and says.format(**places) in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == ""


# Plugins.


def test_a_plugins_name_is_a_call_of_the_plugin() -> None:
    done = start("bridge", CNI_COMMAND="VERSION")
    assert done.returncode == 0
    assert "supportedVersions" in json.loads(done.stdout)
    assert start("bridge").stderr.startswith("CNI bridge plugin podwire ")


def test_a_runtime_that_calls_a_plugin_we_do_not_have_reads_json() -> None:
    env = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0"}
    program = [sys.executable, "-c", "from agent.command import main; main()", "sriov"]
    config = json.dumps({"cniVersion": "1.0.0", "name": "net", "type": "sriov"})
    known = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "CNI_COMMAND": "ADD", **env}
    done = subprocess.run(program, input=config, env=known, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done
    assert "there is no plugin 'sriov' in podwire" in json.loads(done.stdout)["msg"]


def imported(*arguments: str) -> set[str]:
    """The modules that the bundle's program imports for a command line."""
    program = [sys.executable, "-X", "importtime", str(ROOT / "packaging" / "program.py"), *arguments]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "CNI_COMMAND": "VERSION"}
    done = subprocess.run(program, input="", env=env, capture_output=True, text=True, check=True, timeout=60)
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_a_plugin_call_loads_nothing_of_the_command() -> None:
    found = imported("bridge")
    assert "cni.dispatch" in found
    assert {name.partition(".")[0] for name in found} & {
        "agent",
        "click",
        "prometheus_client",
        "threading",
        "http",
        "ssl",
    } == set()


def test_the_rest_loads_it() -> None:
    assert {"agent.command", "click"} <= imported("--version")
    assert "prometheus_client" not in imported("--version")


# Shells.


def test_shells_complete_plugins_and_commands() -> None:
    def completed(words: str, count: int) -> list[str]:
        env = {"_PODWIRE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
        return [line.partition(",")[2] for line in ask(**env).output.splitlines()]

    assert completed("podwire ", 1) == [*sorted(NAMES), "agent"]
    assert completed("podwire b", 1) == ["bridge"]
    assert completed("podwire agent --log-level w", 3) == ["warning"]


# The documentation.


def options() -> dict[str, click.Option]:
    return {option.opts[0]: option for option in command.agent.params if isinstance(option, click.Option)}


def test_every_option_is_explained_with_its_default() -> None:
    table = {SPAN.findall(row[0])[0].split()[0]: row[1:] for row in rows(section(PAGE, "Command line"))}
    assert list(table) == list(options())
    for name, option in options().items():
        default = f"`{option.default}`" if option.show_default else ""
        assert table[name][0] == default, name
        assert option.help
    assert all(f"`{word}`" in table["--log-level"][1] for word in LEVELS)
    assert all(f"`{word}`" in table["--log-format"][1] for word in FORMATS)


def test_examples_of_the_page_are_command_lines_that_exist() -> None:
    """Of every line that starts the agent: its options are understood."""
    blocks = [text for _, text in FENCE.findall(PAGE.read_text())]
    lines = [line for block in blocks for line in block.splitlines() if re.match(r"(/opt/podwire/bin/)?podwire agent", line)]
    given = [word.partition("=")[2] for block in blocks for word in block.splitlines() if word.startswith("AGENT_OPTIONS=")]
    assert lines and given
    for words in [line.partition("#")[0].split()[2:] for line in lines] + [line.split() for line in given]:
        command.agent.make_context("agent", words)
