"""Calls whose client has gone: the runtime has ended it and goes on with a DEL. Nothing may hang on for them, nor be lost."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from agent import frame
from agent.workers import ABREAST
from tests.agent.conftest import Site, bridge, serves
from tests.agent.peer import Peer
from tests.agent.test_order import Theirs
from tests.harness import observe
from tests.harness.agent import Agent

pytestmark = pytest.mark.root


def children(agent: Agent) -> list[str]:
    """The programs that run for the agent."""
    return [pid for task in Path(f"/proc/{agent.pid}/task").iterdir() for pid in (task / "children").read_text().split()]


def test_plugins_that_hang_end_with_their_clients(site: Site) -> None:
    """All workers wait for one; a DEL of such a pod, and everybody else, is served at once when the clients have been ended."""
    theirs = Theirs(site, "[ $CNI_COMMAND != ADD ] || sleep 1000")
    pods = {name: site.node.pod(name) for name in ("one", "two")}
    with Agent(site.node, "--workers", "2") as agent:
        peers = []
        for name, netns in pods.items():
            peer = Peer(site.node, agent)
            peer.ask("ADD", theirs.config, netns=netns, container_id=name, path=theirs.path)
            peers.append(peer)
        agent.until(lambda: len(theirs.log()) == 2, "they did not begin")
        assert len(children(agent)) == 2
        for peer in peers:
            peer.close()
        began = time.monotonic()
        for name, netns in pods.items():
            theirs.call("DEL", container_id=name, netns=netns).succeeded()
        serves(site, agent)
        assert time.monotonic() - began < 5
        agent.until(lambda: sum(call["verb"] == "ADD" for call in agent.calls()) == 2, "no lines", 5)
        added = [call for call in agent.calls() if call["verb"] == "ADD"]
        assert all("ended, because its caller had gone" in call["msg"] for call in added), added
        told = [line.split()[:3] for line in theirs.log()]
        for name in pods:  # the one that was ended may hold an address: it gets its DEL, as the runtime's own comes later
            assert told.count(["begin", "DEL", name]) == told.count(["end", "DEL", name]) == 2
        assert children(agent) == []
        agent.unharmed()
    assert site.links() == set()


def test_plugins_that_hang_keep_no_other_call(site: Site) -> None:
    """Though few ADDs are at work at a time: those that wait for a program do not count."""
    theirs = Theirs(site, "[ $CNI_COMMAND != ADD ] || sleep 1000")
    with Agent(site.node) as agent:
        peers = []
        for number in range(3 * ABREAST):
            peer = Peer(site.node, agent)
            name = f"hangs{number}"
            peer.ask("ADD", theirs.config, netns=site.node.pod(name), container_id=name, path=theirs.path)
            peers.append(peer)
        agent.until(lambda: len(theirs.log()) == len(peers), "not all of them began")
        pod = site.node.pod("pod")
        for verb in ("ADD", "DEL"):
            site.call(verb, bridge(), netns=pod, container_id="another").succeeded()
        agent.until(lambda: len(agent.calls()) == 2, "no lines")
        assert [call["verb"] for call in agent.calls()] == ["ADD", "DEL"]  # while those hang
        for peer in peers:
            peer.close()
        agent.until(lambda: sum(call["verb"] == "ADD" for call in agent.calls()) == len(peers) + 1, "no lines", 5)
        assert children(agent) == []
        agent.unharmed()
    assert site.links() == set()


def test_a_removal_goes_on_without_its_client(site: Site, agent: Agent) -> None:
    """What has begun to give back ends by itself."""
    theirs = Theirs(site, "[ $CNI_COMMAND != DEL ] || sleep 1")
    netns = site.node.pod("pod")
    theirs.call("ADD", netns=netns).succeeded()
    with Peer(site.node, agent) as peer:
        peer.ask("DEL", theirs.config, netns=netns, path=theirs.path)
        agent.until(lambda: len(theirs.log()) == 3, "it did not begin")
    agent.until(lambda: theirs.log()[-1].startswith("end DEL"), "it did not end", 5)
    assert site.links() == set()


FAILS_DEL = """[ $CNI_COMMAND = ADD ] || { echo '{"code": 100, "msg": "the address stays leased"}'; exit 1; }"""


def test_an_add_that_cannot_be_taken_back(site: Site, agent: Agent) -> None:
    """The failure is told, and does not count as put right."""
    theirs = Theirs(site, FAILS_DEL)
    with Peer(site.node, agent) as peer:
        peer.ask("ADD", theirs.config, netns=site.node.pod("pod"), path=theirs.path)
        peer.reads(frame.TAKEN)
        assert frame.decode_answer(peer.reads(frame.ANSWER)).status == 0
    agent.until(lambda: agent.calls()[-1]["verb"] == "ADD", "no line", 5)
    told = agent.calls()[-1]
    assert (told["code"], told["msg"], told["level"]) == (100, "the address stays leased", "warning")
    assert "repairs" not in told and "it is taken back" in told["notes"]
    assert site.links() == set()
    assert json.dumps(observe.ruleset(site.node)).count("c0ffee") == 0
