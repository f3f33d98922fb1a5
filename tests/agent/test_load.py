"""The agent under load, judged by what is left: level in descriptors, threads and memory; killed; upgraded."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from agent.command import WORKERS
from tests.agent.conftest import Site, bridge, serves
from tests.agent.load import Crowd, cycles
from tests.agent.peer import Peer
from tests.agent.test_order import Theirs
from tests.harness.agent import Agent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.root

SLOW = pytest.mark.slow

# Leases, gateway, masquerade and spoof check: all that an attachment can have here.
ALL = bridge(macspoofchk=True)
BY_IPTABLES = bridge(ipMasqBackend="iptables")


@pytest.fixture
def clean(site: Site) -> Iterator[Callable[[Crowd], None]]:
    """Asserts at the end of a load that nobody had a fault, and that nothing is left."""

    def judge(crowd: Crowd) -> None:
        assert crowd.faults == [], crowd.faults[:3]
        site.nothing_left()
        assert crowd.left_in_pods() == {}

    yield judge


def have_every_worker(site: Site, agent: Agent) -> int:
    """Have the agent start all its workers, which it does when it must; returns how many calls that took, of which nothing is
    left. Each takes half a mebibyte.
    """
    theirs = Theirs(site, "[ $CNI_COMMAND != ADD ] || sleep 1000")
    netns = site.node.pod("waits")
    with ExitStack() as stack:
        for number in range(WORKERS):
            peer = stack.enter_context(Peer(site.node, agent))
            peer.ask("ADD", theirs.config, netns=netns, container_id=f"waits{number}", path=theirs.path)
        agent.until(lambda: len(theirs.log()) == WORKERS, "not all of them began")
    agent.until(lambda: len(agent.calls()) == WORKERS, "not all of them ended")
    return WORKERS


@pytest.mark.parametrize(("warm", "count", "callers"), [(500, 500, 32), pytest.param(1000, 2000, 32, marks=SLOW)])
def test_level(site: Site, clean: Callable[[Crowd], None], warm: int, count: int, callers: int) -> None:
    """Cycles of ADD and DEL: descriptors and threads are as many after as before, and memory is level.

    It rises by 0.3 KiB a cycle at first, while the allocator spreads over the threads, and by a hundredth of that after 10,000.
    """
    crowd = Crowd(site.node, site.shims, ALL, callers)
    with Agent(site.node) as agent:
        told = have_every_worker(site, agent)
        crowd.run(cycles(warm))
        serves(site, agent)
        before, held = agent.figures(), agent.held()
        crowd.run(cycles(count))
        serves(site, agent)
        after = agent.figures()
        clean(crowd)
        assert crowd.again == []
        agent.until(lambda: agent.held() == held, f"descriptors are left beside {held}: {agent.held()}", 5)
        assert len(agent.calls()) == told + crowd.calls + 2, "calls went elsewhere"
        print(f"{count} cycles: {before} before, {after} after")
        assert after.threads == before.threads
        assert after.descriptors <= before.descriptors + callers  # netlink sockets, as many as calls at a time
        assert after.kib < before.kib + 1500 + count
        agent.unharmed()


@pytest.mark.parametrize(
    ("rounds", "callers", "backend"), [(6, 12, ALL), (3, 6, BY_IPTABLES), pytest.param(20, 50, ALL, marks=SLOW)]
)
def test_killed_at_random_instants(
    site: Site, clean: Callable[[Crowd], None], rounds: int, callers: int, backend: dict[str, object]
) -> None:
    """SIGKILL, and a new one: no address twice, none lost, nothing left once every DEL has succeeded."""
    crowd = Crowd(site.node, site.shims, {**backend, "ipam": narrow(callers)}, callers)
    instants = random.Random(f"{rounds} {callers}")
    for number in range(rounds):
        with crowd.working() as rest:
            with Agent(site.node) as agent:
                time.sleep(instants.uniform(0.1, 0.6))
                agent.kill()
            time.sleep(instants.choice((0, 0, 0.1)))
            with Agent(site.node) as agent:
                time.sleep(instants.uniform(0, 0.3))
                rest()
                clean(crowd)
                whole_range_is_free(crowd, site, f"round {number}")
                serves(site, agent)
                agent.unharmed()
    clean(crowd)
    print(f"{rounds} rounds, {crowd.calls} calls, {len(crowd.again)} to be called again")
    assert crowd.again, "no kill hit a call at work"


def narrow(callers: int) -> dict[str, object]:
    """As many addresses as callers: one that is lost is missed."""
    return {
        "type": "host-local",
        "ranges": [[{"subnet": "10.88.0.0/24", "rangeStart": "10.88.0.10", "rangeEnd": f"10.88.0.{9 + callers}"}]],
    }


def whole_range_is_free(crowd: Crowd, site: Site, when: str) -> None:
    """Assert that every caller can have an address at the same time."""
    for caller in crowd.callers:
        assert crowd.add(caller), f"{when}: {crowd.again + crowd.faults}"
    assert len(site.leases()) == len(crowd.callers), when
    for caller in crowd.callers:
        assert crowd.delete(caller), f"{when}: {crowd.again + crowd.faults}"
    assert crowd.faults == []


def test_upgrades_under_load(site: Site, clean: Callable[[Crowd], None]) -> None:
    """Stopped, and a new one started, again and again: every call succeeds, by an agent or one-shot."""
    crowd = Crowd(site.node, site.shims, ALL, 16)
    served = 0
    with crowd.working() as rest:
        for number in range(6):
            with Agent(site.node) as agent:
                time.sleep(0.5)
                assert agent.stop() == 0, agent.text()
                served += len(agent.calls())
                assert agent.log()[-1]["event"] == "stopped" and agent.log()[-1]["unfinished"] == 0
            time.sleep((0, 0.3)[number % 2])
        with Agent(site.node) as agent:
            rest()
            agent.unharmed()
            agent.stop()
            served += len(agent.calls())
    clean(crowd)
    assert (crowd.again, crowd.successes) == ([], crowd.calls)
    print(f"{crowd.calls} calls, {crowd.calls - served} of them one-shot")
    assert 0 < served < crowd.calls


def test_takeovers_under_load(site: Site, clean: Callable[[Crowd], None]) -> None:
    """The new one starts first, the old one stops then: no call has to be one-shot but those that were waiting."""
    crowd = Crowd(site.node, site.shims, ALL, 8)
    served = 0
    with ExitStack() as stack:
        agent = stack.enter_context(Agent(site.node))
        rest = stack.enter_context(crowd.working())
        for _ in range(4):
            time.sleep(0.4)
            new = stack.enter_context(Agent(site.node))
            assert agent.stop() == 0, agent.text()
            served += len(agent.calls())
            agent = new
        rest()
        agent.unharmed()
        served += len(agent.calls())
    clean(crowd)
    assert (crowd.again, crowd.successes) == ([], crowd.calls)
    print(f"{crowd.calls} calls, {crowd.calls - served} of them one-shot")
    assert served > 0.9 * crowd.calls


def test_the_first_calls_of_an_agent_come_at_once(site: Site, clean: Callable[[Crowd], None]) -> None:
    """What is done once in the life of a process, such as loading, is done by many at a time then."""
    crowd = Crowd(site.node, site.shims, ALL, 24)
    for _ in range(4):
        with Agent(site.node) as agent:
            crowd.run(cycles(len(crowd.callers)))
            clean(crowd)
            agent.unharmed()
    assert crowd.again == []
