"""How an agent begins and ends: its socket, taking over, being told to stop."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from agent import frame
from tests.agent.conftest import Site, bridge, serves
from tests.agent.peer import Peer, request, status_request
from tests.agent.test_order import Theirs
from tests.harness import observe
from tests.harness.agent import PROGRAM, SOCKET, Agent
from tests.harness.node import PATH
from tests.harness.wrappers import ROOT, python

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = pytest.mark.root

STATUS = {"cniVersion": "1.1.0", "name": "net", "type": "loopback"}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as made:
        yield made


def begin(site: Site, *options: str) -> subprocess.CompletedProcess[bytes]:
    """An agent that is expected to end by itself."""
    env = {"PATH": PATH, "PYTHONPATH": str(ROOT)}
    return site.node.run(python(), "-c", PROGRAM, "agent", *options, env=env, check=False, timeout=20)


# -- the socket --


def test_folder_and_socket_are_roots_alone(site: Site) -> None:
    """Whatever the umask of who starts it; a folder that is there keeps its own mode."""
    for folder, mode in (("/run/podwire", 0o700), ("/run/there", 0o755)):
        if mode == 0o755:
            site.node.sh("mkdir -m 755 /run/there")
        with Agent(site.node, socket=f"{folder}/cni.sock"):
            seen = os.stat(site.node.path(folder)), os.stat(site.node.path(f"{folder}/cni.sock"))
            assert stat.S_ISSOCK(seen[1].st_mode)
            assert [stat.S_IMODE(one.st_mode) for one in seen] == [mode, 0o600]
            assert {one.st_uid for one in seen} == {0}


def test_a_stale_socket(site: Site) -> None:
    """What a killed agent leaves: calls run one-shot, and the next agent takes its place."""
    with Agent(site.node) as agent:
        agent.kill()
    assert stat.S_ISSOCK(os.stat(site.node.path(SOCKET)).st_mode)
    site.call("STATUS", STATUS).succeeded()
    with Agent(site.node) as agent:
        site.call("STATUS", STATUS).succeeded()
        agent.until(lambda: len(agent.calls()) == 1, "the call went elsewhere")
        assert agent.stop() == 0
    assert not os.path.lexists(site.node.path(SOCKET))


@pytest.mark.parametrize("make", ["echo kept >{}", "mkdir {}", "ln -s /etc/hostname {}", "mkfifo {}"])
def test_a_path_that_is_no_socket(site: Site, make: str) -> None:
    """It stays, and the agent says why it does not begin."""
    site.node.sh("mkdir /run/podwire; " + make.format(SOCKET))
    before = os.lstat(site.node.path(SOCKET))[:7]  # not its times: to follow a link is to read it
    done = begin(site)
    assert done.returncode == 1
    assert b"cannot listen on /run/podwire/cni.sock: /run/podwire/cni.sock is there and is no socket" in done.stderr
    assert b"Traceback" not in done.stderr
    assert os.lstat(site.node.path(SOCKET))[:7] == before
    site.call("STATUS", STATUS).succeeded()


@pytest.mark.parametrize(
    ("prepare", "path", "says"),
    [
        ("echo >/run/file", "/run/file/cni.sock", "File exists: '/run/file'"),
        ("mkdir /run/ro; mount -t tmpfs -o ro tmpfs /run/ro", "/run/ro/cni.sock", "Read-only file system"),
        ("true", "/run/" + "x" * 110, "path too long"),
    ],
)
def test_where_it_cannot_listen(site: Site, prepare: str, path: str, says: str) -> None:
    site.node.sh(prepare)
    done = begin(site, "--socket", path)
    assert done.returncode == 1 and says in done.stderr.decode() and b"Traceback" not in done.stderr


def test_only_root_can_be_an_agent(site: Site) -> None:
    program = "import os; from agent.command import main; os.setuid(65534); main()"  # the checkout may be root's alone
    done = site.node.run(
        *(python(), "-c", program, "agent"),
        env={"PATH": PATH, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.returncode == 1 and b"this needs root" in done.stderr


def test_a_second_agent_takes_over(site: Site) -> None:
    """New calls are the second one's, those of the first go on; when the first ends it leaves the path alone."""
    theirs = Theirs(site, "sleep 1")
    with Agent(site.node) as first, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(theirs.call, "ADD", container_id="slow", netns=site.node.pod())
        first.until(lambda: theirs.log() != [], "the call did not begin")
        with Agent(site.node) as second:
            serves(site, second)
            assert len(second.events("replaced")) == 1 and first.events("refused") == []
            assert first.stop() == 0
            slow.result().succeeded()
            assert [call["container"] for call in first.calls()] == ["slow"]
            site.call("STATUS", STATUS).succeeded()
            second.until(lambda: len(second.calls()) == 2, "the call went elsewhere")
            assert second.stop() == 0
    assert os.listdir(site.node.path("/run/podwire"))
    assert not os.path.lexists(site.node.path(SOCKET))


# -- the end --


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_told_to_stop(site: Site, pool: ThreadPoolExecutor, number: signal.Signals) -> None:
    """What runs is finished, what waits is declined at once and runs one-shot, and so does what comes later: nothing fails."""
    theirs = Theirs(site, "sleep 4")
    with Agent(site.node, "--workers", "1") as agent:
        runs = pool.submit(theirs.call, "ADD", container_id="runs", netns=site.node.pod("runs"))
        agent.until(lambda: theirs.log() != [], "the call did not begin")
        began = time.monotonic()
        waits = [pool.submit(site.call, "STATUS", STATUS, container_id=f"waits-{count}") for count in range(3)]
        waiting, half = Peer(site.node, agent), Peer(site.node, agent)
        waiting.call(status_request())
        half.call(status_request()[:20])
        time.sleep(0.2)
        agent.process.send_signal(number)
        assert waiting.declined() == half.declined() == "the agent is stopping"
        for one in waits:
            one.result().succeeded()
        site.call("STATUS", STATUS).succeeded()
        assert not runs.done() or time.monotonic() - began > 0.9
        result = runs.result().result()
        assert agent.process.wait(20) == 0
        assert [call["container"] for call in agent.calls()] == ["runs"]
        assert [line["event"] for line in agent.log() if "event" in line] == ["listening", "stopping", "stopped"]
        assert "Traceback" not in agent.text()
        waiting.close()
        half.close()
    assert "eth0" in observe.links(site.node, pod="runs")
    theirs.write("")
    theirs.config["prevResult"] = result
    theirs.call("DEL", container_id="runs", netns="/run/netns/runs").succeeded()
    assert site.links() == set()


def test_a_call_behind_one_that_runs_keeps_its_place(site: Site, pool: ThreadPoolExecutor) -> None:
    """A DEL that came while its ADD runs does not overtake it when the agent stops: it runs one-shot, after it."""
    theirs = Theirs(site, "[ $CNI_COMMAND = DEL ] || sleep 1")
    netns = site.node.pod("pod")
    with Agent(site.node) as agent:
        add = pool.submit(theirs.call, "ADD", netns=netns)
        agent.until(lambda: theirs.log() != [], "the call did not begin")
        delete = pool.submit(theirs.call, "DEL", netns=netns)
        time.sleep(0.2)
        assert agent.stop() == 0
        add.result().succeeded()
        delete.result().succeeded()
    assert [line.split()[:2] for line in theirs.log()] == [
        ["begin", "ADD"],
        ["end", "ADD"],
        ["begin", "DEL"],
        ["end", "DEL"],
    ]
    assert site.links() == set()


def test_told_to_stop_at_any_moment(site: Site) -> None:
    """Right after it listens, while calls come in: it always ends, and its path is gone."""
    for number in range(8):
        with Agent(site.node) as agent:
            for _ in range(number):
                with Peer(site.node, agent) as peer:
                    peer.call(status_request())
                    if number % 2:
                        peer.reads(frame.TAKEN)
            assert agent.stop() == 0
        assert not os.path.lexists(site.node.path(SOCKET))


def test_killed_while_it_works(site: Site) -> None:
    """The caller is told to call again; a DEL removes whatever was done."""
    theirs = Theirs(site, "sleep 3")
    with ThreadPoolExecutor(1) as pool, Agent(site.node) as agent:
        add = pool.submit(theirs.call, "ADD", netns=site.node.pod("pod"))
        agent.until(lambda: theirs.log() != [], "the call did not begin")
        agent.kill()
        error = add.result().refused(11, "ended while it worked on this call")
        assert "nothing was started in its place" in error["details"]
    theirs.write("")
    theirs.call("DEL", netns="/run/netns/pod").succeeded()
    assert site.links() == set()


def test_a_silent_agent(site: Site) -> None:
    """One that is stopped in its tracks: error 11 when the client's patience is over; once it goes on, it serves."""
    with Agent(site.node) as agent:
        agent.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        error = site.call("STATUS", STATUS, env={"PODWIRE_TIMEOUT": "1"}).refused(11, "did not answer within 1 s")
        assert 0.9 < time.monotonic() - began < 5
        assert error["cniVersion"] == "1.1.0"
        agent.process.send_signal(signal.SIGCONT)
        serves(site, agent)
        assert agent.stop() == 0


def test_an_add_that_nobody_waits_for_any_more(site: Site) -> None:
    """The client has given up before the agent came to its call: when it does, nothing is done, or all is taken back."""
    netns = site.node.pod("pod")
    with Agent(site.node) as agent:
        agent.process.send_signal(signal.SIGSTOP)
        site.call("ADD", bridge(), netns=netns, env={"PODWIRE_TIMEOUT": "1"}).refused(11, "did not answer")
        agent.process.send_signal(signal.SIGCONT)
        serves(site, agent)
        site.call("DEL", bridge(), netns=netns).succeeded()
        site.nothing_left()
        assert [call["verb"] for call in agent.calls()] == ["STATUS", "DEL"]
        assert set(observe.links(site.node, pod="pod")) == {"lo"}


def test_nobody_reads_the_log(site: Site) -> None:
    """A log whose reader is gone costs lines, and no call."""
    env = {"PATH": PATH, "PYTHONPATH": str(ROOT)}
    process = site.node.spawn(python(), "-c", PROGRAM, "agent", "--any-mounts", env=env)
    assert process.stderr
    assert b"listening" in process.stderr.readline()
    process.stderr.close()
    for _ in range(3):
        site.call("STATUS", STATUS).succeeded()
    with Peer(site.node) as peer:
        peer.call(status_request())
        assert peer.answer() == frame.Answer(0)
    process.terminate()
    assert process.wait(20) == 0


def test_a_log_whose_reader_stands_still(site: Site) -> None:
    """A pipe that is full costs lines at most: calls are served, and SIGTERM ends the agent."""
    env = {"PATH": PATH, "PYTHONPATH": str(ROOT)}
    process = site.node.spawn(python(), "-c", PROGRAM, "agent", "--workers", "2", "--any-mounts", env=env)
    assert process.stderr
    assert b"listening" in process.stderr.readline()
    remarks = {f"key{number}": "" for number in range(100)}
    for _ in range(30):  # each tells of four thousand bytes of remarks
        with Peer(site.node) as peer:
            peer.call(request("STATUS", {**STATUS, **remarks}, "loopback"))
            assert peer.answer().status == 0
    process.terminate()
    assert process.wait(20) == 0


def test_what_it_writes_is_one_json_line_each(site: Site) -> None:
    """The log of these tests is judged line by line, so every line must be one."""
    with Agent(site.node) as agent:
        serves(site, agent)
        agent.stop()
        assert all("text" not in line for line in agent.log()), agent.text()
        assert all(json.loads(line) for line in agent.text().splitlines())
