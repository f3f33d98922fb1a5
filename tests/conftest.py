"""Options, markers and fixtures that every suite shares."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.harness.agent import Agent, make_shims
from tests.harness.node import Node
from tests.harness.plugin import Executables, whose_plugins
from tests.harness.wrappers import make_wrappers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# The default run draws the same examples each time, so that what it says of a change is about the change. `make test-slow`
# searches for new ones. A busy machine is no failure.
PATIENT = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", PATIENT, derandomize=True)
settings.register_profile("search", PATIENT, max_examples=300)
settings.load_profile(os.environ.get("PODWIRE_EXAMPLES", "same"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cni-bin-dir",
        metavar="DIR",
        help="run the black-box suites (wire, netns) with the CNI plugins of this folder instead of our own",
    )
    parser.addoption(
        "--agent",
        action="store_true",
        help="call our plugins through the native client, with an agent in each node",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "known_reference_failure(reason): the official Go plugins are known to fail here, and why"
    )
    if through_agent(config) and given_folder(config):
        raise pytest.UsageError("--agent is about our own plugins, --cni-bin-dir names others")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.geteuid():
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason="makes network namespaces: needs root"))
    if given_folder(config) and whose(config) == "reference":
        for item in items:
            known = item.get_closest_marker("known_reference_failure")
            if known:
                item.add_marker(pytest.mark.xfail(strict=True, reason=str(known.args[0])))


def given_folder(config: pytest.Config) -> Path | None:
    """The folder of --cni-bin-dir, absolute, or None."""
    given = config.getoption("--cni-bin-dir")
    return Path(given).resolve() if given else None


def through_agent(config: pytest.Config) -> bool:
    """Whether --agent was given."""
    return bool(config.getoption("--agent"))


@contextmanager
def serving(config: pytest.Config, node: Node) -> Iterator[Agent | None]:
    """With --agent, an agent in the node, which must be unharmed at the end; else nothing."""
    if not through_agent(config):
        yield None
        return
    with Agent(node) as agent:
        yield agent
        agent.unharmed()


def whose(config: pytest.Config) -> str:
    """Whose plugins are judged: `podwire`, `reference` or `other`."""
    folder = given_folder(config)
    return whose_plugins(folder) if folder else "podwire"


@pytest.fixture(scope="session")
def plugins(pytestconfig: pytest.Config) -> Executables:
    """The executables under test: those of --cni-bin-dir, the native client with --agent, else our own from this checkout."""
    folder = make_shims() if through_agent(pytestconfig) else make_wrappers()
    return Executables(given_folder(pytestconfig) or folder, whose=whose(pytestconfig))


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A private node, gone after the test. With --agent it has one, if the test calls plugins."""
    with Node() as made:
        if "plugins" not in request.fixturenames:
            yield made
            return
        with serving(request.config, made):
            yield made


@pytest.fixture
def pod(node: Node) -> Callable[..., str]:
    """Makes a pod in the node; returns the path of its network namespace."""
    return node.pod
