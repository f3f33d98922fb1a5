"""Calls beside and after each other: never two for one attachment at once, in the order in which they came; IPAM plugins of
somebody else that are slow, call back, or break.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from agent import frame
from tests.agent.conftest import Config, Site, bridge
from tests.agent.peer import Peer, request
from tests.harness import observe
from tests.harness.agent import Agent
from tests.harness.wrappers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.plugin import Outcome

pytestmark = pytest.mark.root

ANSWER = json.dumps({"cniVersion": "1.0.0", "ips": [{"address": "10.88.0.7/24"}]})

# Tells when it begins and when it ends; what it does between the two is the test's.
THEIRS = """#!/bin/sh
echo "begin $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $(cut -d' ' -f1 /proc/uptime)" >>/run/log
{between}
echo "end $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" >>/run/log
[ $CNI_COMMAND != ADD ] || echo '{answer}'
"""


class Theirs:
    """An IPAM plugin of somebody else in a site, and what it wrote down."""

    def __init__(self, site: Site, between: str = "") -> None:
        self.site = site
        site.node.sh("mkdir -p /run/ipam")
        self.write(between)
        self.config: Config = {**bridge({"type": "theirs"}), "cniVersion": "1.0.0", "ipMasq": False}
        self.path = f"/run/ipam:{site.shims}"

    def write(self, between: str) -> None:
        program = self.site.node.path("/run/ipam/theirs")
        program.write_text(THEIRS.format(between=between, answer=ANSWER))
        program.chmod(0o755)

    def call(self, verb: str, **how: Any) -> Outcome:
        return self.site.call(verb, self.config, **{"path": self.path, **how})

    def log(self) -> list[str]:
        file = self.site.node.path("/run/log")
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as made:
        yield made


def test_calls_of_one_attachment_never_overlap(site: Site, agent: Agent, pool: ThreadPoolExecutor) -> None:
    """ADD, then DEL and ADD again and again, all at once: each waits for the one before, in the order in which they came."""
    theirs = Theirs(site, "sleep 0.1")
    netns = site.node.pod("pod")
    expected = ["ADD", "DEL", "ADD", "DEL", "ADD", "DEL"]
    peers = [Peer(site.node, agent) for _ in expected]
    for peer, verb in zip(peers, expected, strict=True):
        peer.ask(verb, theirs.config, netns=netns, path=theirs.path)
        time.sleep(0.005)  # one after the other, while the first is at work

    def finish(peer: Peer) -> frame.Answer:
        with peer:
            answer = peer.answer()
            if answer.stdout:
                peer.send(frame.PRINTED_FRAME)
            return answer

    answers = list(pool.map(finish, peers))
    assert [answer.status for answer in answers] == [0] * 6, answers
    told = [line.split()[:2] for line in theirs.log()]
    assert told == [[word, verb] for verb in expected for word in ("begin", "end")]
    assert site.links() == set()


def test_calls_of_different_attachments_do_overlap(site: Site, agent: Agent, pool: ThreadPoolExecutor) -> None:
    """Another container, or another interface of the same one, need not wait."""
    theirs = Theirs(site, "sleep 0.5")
    netns = site.node.pod("pod")
    owners = [("one", "eth0"), ("one", "eth1"), ("two", "eth0"), ("three", "eth0")]
    pods = {"one": netns, "two": site.node.pod(), "three": site.node.pod()}

    def add(owner: tuple[str, str]) -> Outcome:
        return theirs.call("ADD", container_id=owner[0], ifname=owner[1], netns=pods[owner[0]])

    began = time.monotonic()
    for outcome in pool.map(add, owners):
        outcome.succeeded()
    assert time.monotonic() - began < 1.4
    words = [line.split()[0] for line in theirs.log()]
    assert words == ["begin"] * 4 + ["end"] * 4


def test_more_calls_than_workers(site: Site, pool: ThreadPoolExecutor) -> None:
    """They wait their turn, and none fails."""
    theirs = Theirs(site, "sleep 0.1")
    with Agent(site.node, "--workers", "2") as agent:
        pods = [site.node.pod() for _ in range(8)]
        outcomes = list(pool.map(lambda netns: theirs.call("ADD", container_id=netns[-5:].strip("/"), netns=netns), pods))
        assert [outcome.status for outcome in outcomes] == [0] * 8, outcomes
        depth, most = 0, 0
        for line in theirs.log():
            depth += 1 if line.startswith("begin") else -1
            most = max(most, depth)
        assert most == 2
        agent.until(lambda: len(agent.calls()) == 8, "calls went elsewhere", 5)
        assert max(call["wait_ms"] for call in agent.calls()) > 200
        agent.unharmed()


def test_an_ipam_plugin_that_calls_back(site: Site, pool: ThreadPoolExecutor) -> None:
    """It hands its own call on to our plugins, as wrappers around host-local do, of which every worker may serve one: that
    must not wait for a worker, nor for its own caller.
    """
    calls_back = f"exec env CNI_PATH={site.shims} {site.shims}/host-local"
    theirs = Theirs(site, calls_back)
    ranges = {"type": "theirs", "ranges": [[{"subnet": "10.88.0.0/24"}]]}
    theirs.config = {**theirs.config, "ipam": ranges}
    pods = [site.node.pod() for _ in range(6)]

    def cycle(netns: str) -> None:
        theirs.call("ADD", container_id=netns[-4:], netns=netns).result()
        theirs.call("DEL", container_id=netns[-4:], netns=netns).succeeded()

    with Agent(site.node, "--workers", "2") as agent:
        began = time.monotonic()
        list(pool.map(cycle, pods))
        assert time.monotonic() - began < 20
        agent.until(lambda: len(agent.calls()) == 12, "calls went elsewhere", 5)
        assert {call["plugin"] for call in agent.calls()} == {"bridge"}
        agent.unharmed()
    assert (site.links(), site.leases()) == (set(), set())


def test_a_slow_call_holds_nobody_up(site: Site, agent: Agent, pool: ThreadPoolExecutor) -> None:
    """While one waits for its IPAM plugin, others come and go."""
    theirs = Theirs(site, "sleep 1")
    slow = pool.submit(theirs.call, "ADD", container_id="slow", netns=site.node.pod())
    while not theirs.log():
        time.sleep(0.01)
    netns = site.node.pod()
    began = time.monotonic()
    for _ in range(5):
        site.call("ADD", bridge(), container_id="fast", netns=netns).succeeded()
        site.call("DEL", bridge(), container_id="fast", netns=netns).succeeded()
    assert not slow.done() and time.monotonic() - began < 1
    slow.result().succeeded()


CRASHES = {"killed": "kill -9 $$", "silent": "exit 3", "garbage": "printf '\\377\\000{'; exit 0", "closed": "exec >&-; exit 0"}


@pytest.mark.parametrize("how", CRASHES)
def test_an_ipam_plugin_that_breaks(site: Site, agent: Agent, how: str) -> None:
    """That call's error, and nothing of it stays."""
    theirs = Theirs(site, f"[ $CNI_COMMAND = DEL ] || {{ {CRASHES[how]}; }}")
    before = observe.snapshot(site.node, with_files=False)
    outcome = theirs.call("ADD", netns="/proc/self/ns/nowhere")
    outcome.refused(3)
    netns = site.node.pod("pod")
    before = observe.snapshot(site.node, with_files=False)
    outcome = theirs.call("ADD", netns=netns)
    assert outcome.status == 1 and "theirs" in json.dumps(outcome.json), outcome
    assert observe.difference(before, observe.snapshot(site.node, with_files=False)) == []


# Stands for a mistake of ours: there is no way to a real one from outside. Read when the agent starts.
BROKEN = """
import sys
if "agent" in sys.argv:
    import cni.plugins.loopback as loopback
    def parse(call):
        if call.config.get("break") == "raise":
            raise ZeroDivisionError("by nobody")
        if call.config.get("break") == "exit":
            raise SystemExit(3)
        return original(call)
    original, loopback.parse = loopback.parse, parse
"""


def test_a_mistake_of_ours_is_the_calls_error(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An exception is error 999 of its call, told with its trace; one that ends threads costs its caller the answer alone."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "sitecustomize.py").write_text(BROKEN)
    config = {"cniVersion": "1.1.0", "name": "net", "type": "loopback"}
    with Agent(site.node, "--workers", "2", env={"PYTHONPATH": f"{folder}:{ROOT}"}) as agent:
        for _ in range(3):
            outcome = site.call("STATUS", {**config, "break": "raise"})
            error = outcome.refused(999, "internal error: ZeroDivisionError: by nobody")
            assert "\n" not in error["msg"] and b"Traceback" in outcome.stderr
        agent.until(lambda: sum(line.get("level") == "error" for line in agent.log()) == 3, "not told", 5)
        for _ in range(5):
            site.call("STATUS", {**config, "break": "exit"}).refused(11, "ended while it worked on this call")
        for _ in range(5):
            site.call("STATUS", config).succeeded()
        agent.until(lambda: sum(call["code"] == 0 for call in agent.calls()) == 5, "calls went elsewhere", 5)
        assert agent.figures().threads <= 3
        assert agent.stop() == 0


def test_the_key_of_calls_without_an_attachment(site: Site, agent: Agent, pool: ThreadPoolExecutor) -> None:
    """GC and STATUS are of no container: they wait for nobody."""
    theirs = Theirs(site, "[ $CNI_COMMAND != STATUS ] || sleep 0.5")
    theirs.config["cniVersion"] = "1.1.0"
    began = time.monotonic()
    nothing = {"container_id": None, "ifname": None}
    outcomes = list(pool.map(lambda _: theirs.call("STATUS", **nothing), range(4)))
    assert [outcome.status for outcome in outcomes] == [0] * 4, outcomes
    assert time.monotonic() - began < 1.4


def test_a_request_is_what_the_native_client_sends(site: Site, agent: Agent) -> None:
    """The scripted client of these tests is served as the real one."""
    netns = site.node.pod("pod")
    with Peer(site.node, agent) as peer:
        peer.ask("ADD", bridge(), netns=netns, path=str(site.shims))
        answer = peer.answer()
        peer.send(frame.PRINTED_FRAME)
        assert peer.gone()
    assert answer.status == 0 and json.loads(answer.stdout)["ips"][0]["address"] == "10.88.0.2/24"
    assert request("ADD", bridge())[:4] == frame.MAGIC
    site.call("DEL", bridge(), netns=netns).succeeded()
    site.nothing_left()
