"""What every test of the agent starts from: a node with an agent, and the native client that a runtime calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.agent.peer import Peer, status_request
from tests.harness import observe
from tests.harness.agent import Agent, make_shims
from tests.harness.plugin import Executables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.node import Node
    from tests.harness.plugin import Outcome

Config = dict[str, Any]

V4: Config = {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]]}


def bridge(ipam: Config | None = None, **keys: Any) -> Config:
    """A bridge with addresses, a gateway and masquerade by nftables."""
    config: Config = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "isGateway": True, "ipMasq": True}
    return {**config, "ipMasqBackend": "nftables", "ipam": V4 if ipam is None else ipam, **keys}


class Site:
    """A node with its runtime: calls go through the native client, to the agent where one listens."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.shims = make_shims()
        self._plugins = Executables(self.shims, whose="podwire")

    def call(self, verb: str, config: Config, plugin: str = "", **how: Any) -> Outcome:
        """One call; by default of the container c0ffee without a sandbox."""
        return self._plugins.call(verb, plugin or config["type"], config, node=self.node, **{"netns": None, **how})

    def links(self) -> set[str]:
        """The links of the node but for loopback and bridges."""
        found = observe.links(self.node)
        return {name for name, link in found.items() if name != "lo" and link.get("linkinfo", {}).get("info_kind") != "bridge"}

    def leases(self) -> set[str]:
        return set(observe.leases(self.node, "net"))

    def elements(self) -> list[Any]:
        """The elements of all sets of the packet rules: addresses and links of attachments."""
        bodies = [body for entry in observe.ruleset(self.node) for body in entry.values()]
        return [element for body in bodies for element in body.get("elem", ())]

    def nothing_left(self) -> None:
        """Assert that no attachment has left anything."""
        assert (self.links(), self.leases(), self.elements()) == (set(), set(), [])


@pytest.fixture
def site(node: Node) -> Site:
    """A node without an agent."""
    return Site(node)


@pytest.fixture
def agent(site: Site) -> Iterator[Agent]:
    """The agent of the site's node. At the end it must be unharmed, serve, and hold no descriptor more than at rest before."""
    with Agent(site.node) as made:
        serves(site, made)
        before = made.held()
        yield made
        serves(site, made)
        made.until(lambda: made.held() == before, f"descriptors are left, before there were {before}", 5)
        made.unharmed()


def serves(site: Site, agent: Agent) -> None:
    """Assert that the agent serves a call, and wait until it has told of it."""
    done = len(agent.calls())
    with Peer(site.node, agent) as peer:
        peer.call(status_request())
        assert peer.answer().status == 0
    agent.until(lambda: len(agent.calls()) > done, "a call is not told of")
