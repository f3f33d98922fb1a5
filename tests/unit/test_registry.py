"""A plugin is a file, a line in the registry, and its name in the places that install it."""

from __future__ import annotations

import configparser
import importlib
import inspect
import json

import pytest

from cni import oneshot
from cni.delegate import Provider
from cni.dispatch import Plugin, dispatch
from cni.registry import PLUGINS
from ipam.registry import PROVIDERS
from tests.harness.wrappers import NAMES, ROOT


def test_every_file_has_a_line_and_every_line_a_file() -> None:
    files = {f"cni.plugins.{path.stem}" for path in (ROOT / "cni" / "plugins").iterdir() if not path.stem.startswith("__")}
    assert set(PLUGINS.values()) == files
    assert len(PLUGINS) == len(set(PLUGINS.values()))
    for module in PROVIDERS.values():
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


def test_names_are_those_that_configurations_use() -> None:
    assert not PLUGINS.keys() & PROVIDERS.keys()
    for name, module in {**PLUGINS, **PROVIDERS}.items():
        assert module.rpartition(".")[2] == name.replace("-", "_")


def test_every_name_is_installed() -> None:
    """Console scripts, and the wrappers that the tests call."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    scripts = dict(line.split(" = ") for line in setup["options.entry_points"]["console_scripts"].split("\n") if line)
    assert {name for name in scripts if name != "podwire"} == {*PLUGINS, *PROVIDERS} == set(NAMES)
    assert {scripts[name] for name in (*PLUGINS, *PROVIDERS)} == {"cni.oneshot:main"}


def functions(protocol: type) -> dict[str, list[str]]:
    """The functions of a protocol with their parameters."""
    found = inspect.getmembers(protocol, inspect.isfunction)
    return {name: list(inspect.signature(function).parameters)[1:] for name, function in found if not name.startswith("_")}


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_has_every_function(name: str) -> None:
    module = importlib.import_module(PLUGINS[name])
    assert type(module.CREATES_INTERFACE) is type(module.CHAINED) is bool
    assert not (module.CREATES_INTERFACE and module.CHAINED)
    assert module.__doc__ and module.__doc__.startswith(f"{name}: ")
    for function, parameters in functions(Plugin).items():
        assert list(inspect.signature(getattr(module, function)).parameters) == parameters, function
        assert getattr(module, function).__doc__, f"{function} says nothing about itself"


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_provider_has_every_function(name: str) -> None:
    module = importlib.import_module(PROVIDERS[name])
    for function, parameters in functions(Provider).items():
        assert list(inspect.signature(getattr(module, function)).parameters) == parameters, function


@pytest.mark.parametrize("name", [*PLUGINS, *PROVIDERS])
def test_every_name_answers(name: str) -> None:
    assert dispatch(name, {}, b"").stderr.startswith(f"CNI {name} plugin ")
    reply = dispatch(name, {"CNI_COMMAND": "VERSION"}, b'{"cniVersion": "1.0.0"}')
    assert json.loads(reply.stdout)["cniVersion"] == "1.0.0"


def test_help_names_every_plugin(capsys: pytest.CaptureFixture[str]) -> None:
    assert oneshot.main(["/opt/podwire/bin/podwire", "--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("usage: podwire PLUGIN\n")
    for name, module in {**PLUGINS, **PROVIDERS}.items():
        what = (importlib.import_module(module).__doc__ or "").partition("\n")[0].removeprefix(f"{name}: ")
        assert what.endswith(".") and f"  {name:<11} {what}\n" in told, "one line, a whole sentence"


def test_a_plugin_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert oneshot.main(["__main__.py", "calico"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("there is no plugin 'calico'\n\nusage: python -m cni PLUGIN\n")
