"""Peers that mean harm or are broken: each is refused, and the agent serves the next call as if nothing had been.

The fixture ``agent`` looks at the end of every test whether the agent lives, serves, and has given back all descriptors.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from agent import frame
from tests.agent.conftest import Site, bridge, serves
from tests.agent.peer import Peer, request, status_request
from tests.harness import observe
from tests.harness.agent import Agent
from tests.harness.node import PATH
from tests.harness.wrappers import NAMES

pytestmark = pytest.mark.root

ONE = {"cniVersion": "1.0.0", "name": "net", "type": "loopback"}


def header(magic: bytes = b"PDWR", version: int = 1, kind: int = 1, zero: int = 0, size: int = 0) -> bytes:
    return struct.pack("<4sBBHI", magic, version, kind, zero, size)


# -- who calls --

KNOCK = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
sys.stdout.write(client.recv(4096)[12:].decode())
"""


def test_another_user_cannot_reach_the_socket(site: Site, agent: Agent) -> None:
    """The folder is root's alone. The native client then runs the one-shot program, with that user's own powers."""
    as_user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    done = site.node.run(*as_user, "/usr/bin/python3", "-c", KNOCK, agent.socket, check=False)
    assert done.returncode and b"PermissionError" in done.stderr
    # The checkout may be root's alone.
    copy = site.node.path("/run/bridge")
    shutil.copy(site.shims / "bridge", copy)
    copy.chmod(0o755)
    env = {"PATH": PATH, "CNI_COMMAND": "VERSION", "PODWIRE_ONESHOT": "/bin/echo"}
    assert site.node.run(*as_user, "/run/bridge", env=env).stdout == b"bridge\n"
    assert len(agent.calls()) == 1


def test_another_user_at_an_open_socket(site: Site, agent: Agent) -> None:
    """Where somebody has opened folder and socket: the kernel says who connects, and that is not root."""
    site.node.sh(f"chmod 755 /run/podwire; chmod 666 {agent.socket}")
    as_user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    done = site.node.run(*as_user, "/usr/bin/python3", "-c", KNOCK, agent.socket)
    assert done.stdout == b"calls are root's alone, this one is of user 65534"
    assert [line["reason"] for line in agent.events("refused")] == [done.stdout.decode()]


def test_root_of_a_user_namespace_is_not_root(site: Site, agent: Agent) -> None:
    """Its user 0 is another user outside."""
    site.node.sh(f"chmod 755 /run/podwire; chmod 666 {agent.socket}")
    as_user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "--user", "--map-root-user")
    done = site.node.run(*as_user, "/usr/bin/python3", "-c", KNOCK, agent.socket, check=False)
    if b"unshare failed" in done.stderr:
        pytest.skip("this kernel lets users have no namespaces")
    assert done.stdout == b"calls are root's alone, this one is of user 65534"


def test_a_caller_in_another_network_namespace(site: Site, agent: Agent) -> None:
    """The agent would wire the wrong host: it declines, and the native client does the work where it is."""
    netns = site.node.pod("elsewhere")
    pod = site.node.pod("pod")
    with Peer(site.node, agent) as peer:
        peer.send(request("STATUS", ONE), str(site.node.path(netns)))
        assert peer.declined() == "the caller is in another network namespace than the agent"
    config = {"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br7"}
    env = {"PATH": PATH, "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c0ffee", "CNI_IFNAME": "eth0", "CNI_NETNS": pod}
    done = site.node.run(str(site.shims / "bridge"), pod="elsewhere", env=env, stdin=_json(config))
    assert b'"eth0"' in done.stdout
    assert "br7" in observe.links(site.node, pod="elsewhere") and "br7" not in observe.links(site.node)
    assert len(agent.calls()) == 1
    (told,) = agent.events("declined")  # once, however many they are
    assert told["reason"] == "the caller is in another network namespace than the agent" and told["level"] == "warning"


def _json(config: object) -> bytes:
    import json

    return json.dumps(config).encode()


# -- what is no frame --

WRONG = {
    "no magic": (b"GET / HTTP/1.1\r\n\r\n", "a frame begins with"),
    "zeros": (bytes(64), "a frame begins with"),
    "kind of the agent": (header(kind=frame.TAKEN), "a frame of kind 2"),
    "answer": (header(kind=frame.ANSWER, size=9) + bytes(9), "a frame of kind 3"),
    "printed": (header(kind=frame.PRINTED), "a frame of kind 5"),
    "unknown kind": (header(kind=77), "kind 77"),
    "reserved bytes": (header(zero=1), "reserved"),
    "oversize": (header(size=(4 << 20) + 1), "has at most"),
    "all the bytes there are": (header(size=2**32 - 1), "has at most"),
    "empty body": (header(size=0), "ends too early"),
    "count without entries": (header(size=8) + struct.pack("<iI", -1, 2**32 - 1), "ends too early"),
    "string beyond the end": (header(size=12) + struct.pack("<iII", -1, 0, 2**31), "ends too early"),
    "sandbox of minus two": (header(size=20) + struct.pack("<iIIII", -2, 0, 0, 0, 0)[:20], "no errno"),
    "bytes after the end": (status_request() + b"x", "after the end"),
    "two calls": (status_request() + status_request(), "after the end"),
    "zero byte in a name": (frame.encode_call(frame.Call("a\0b", "/", -1, {}, b"")), "zero byte"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bytes_that_are_no_call(site: Site, agent: Agent, name: str) -> None:
    data, reason = WRONG[name]
    with Peer(site.node, agent) as peer:
        peer.call(data)
        assert reason in peer.declined()
    assert len(agent.events("refused")) == 1
    assert reason in agent.events("refused")[0]["reason"]


@pytest.mark.parametrize("version", [0, 2, 255])
def test_a_frame_of_another_version(site: Site, agent: Agent, version: int) -> None:
    """Whatever its kind and size mean then: declined at once, so that a client of another age runs the one-shot program."""
    with Peer(site.node, agent) as peer:
        peer.call(header(version=version, kind=99, zero=7, size=2**32 - 1))
        assert peer.declined() == f"frame version {version}, this is version 1"


def test_half_frames(site: Site, agent: Agent) -> None:
    """Cut at any place, then hung up: no call."""
    whole = status_request()
    for size in (0, 1, 4, 11, 12, 13, 19, 20, 40, len(whole) - 1):
        with Peer(site.node, agent) as peer:
            if size:
                peer.call(whole[:size])
            peer.socket.shutdown(socket.SHUT_WR)
            assert "left in the middle" in peer.declined()
    assert len(agent.calls()) == 1


def test_the_largest_frame(site: Site, agent: Agent) -> None:
    """All that a body may have: 1 MiB of stdin, the rest environment. A byte more is refused."""
    config = b'{"cniVersion":"1.1.0","name":"net","type":"loopback"' + b" " * ((1 << 20) - 53) + b"}"
    assert len(config) == 1 << 20
    env = {"CNI_COMMAND": "STATUS", "MORE": ""}
    room = (4 << 20) - (len(frame.encode_call(frame.Call("loopback", "/", -1, env, config))) - frame.HEADER_SIZE)
    largest = frame.encode_call(frame.Call("loopback", "/", -1, {**env, "MORE": "x" * room}, config))
    with Peer(site.node, agent) as peer:
        peer.call(largest)
        assert peer.answer() == frame.Answer(0)
    with pytest.raises(frame.FrameError):
        frame.encode_call(frame.Call("loopback", "/", -1, {**env, "MORE": "x" * (room + 1)}, config))
    with Peer(site.node, agent) as peer:
        peer.call(struct.pack("<4sBBHI", b"PDWR", 1, 1, 0, (4 << 20) + 1))
        assert "has at most" in peer.declined()


# -- descriptors --


def test_no_descriptor(site: Site, agent: Agent) -> None:
    """Who does not show its own namespace is not served."""
    with Peer(site.node, agent) as peer:
        peer.send(status_request())
        assert peer.declined() == "0 descriptors came with a call that has 1"


def test_no_descriptor_of_a_sandbox_that_is_announced(site: Site, agent: Agent) -> None:
    with Peer(site.node, agent) as peer:
        peer.call(request("ADD", bridge(), netns="/run/netns/none"))
        assert peer.declined() == "1 descriptors came with a call that has 2"


def test_a_descriptor_too_many(site: Site, agent: Agent) -> None:
    with Peer(site.node, agent) as peer:
        peer.send(status_request(), peer.own_namespace, "/dev/null")
        assert peer.declined() == "2 descriptors came with a call that has 1"


@pytest.mark.parametrize("count", [3, 8, 9, 100, 253])
def test_many_descriptors(site: Site, agent: Agent, count: int) -> None:
    """More than any call has, up to what the kernel passes at once: closed, all of them."""
    with Peer(site.node, agent) as peer:
        peer.send(status_request(), *["/dev/null"] * count)
        assert peer.declined() == "more descriptors than any call has"


def test_descriptors_that_come_one_by_one(site: Site, agent: Agent) -> None:
    """A few with each byte, for as long as it is listened to."""
    whole = status_request()
    with Peer(site.node, agent) as peer:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for byte in whole:
                peer.send(bytes([byte]), "/dev/null", "/dev/null")
                time.sleep(0.002)
        assert "more descriptors" in agent.events("refused")[0]["reason"]


def test_descriptors_without_a_frame(site: Site, agent: Agent) -> None:
    """A byte is enough to pass descriptors; they go with their connection."""
    before = len(agent.descriptors())
    peers = [Peer(site.node, agent) for _ in range(20)]
    for peer in peers:
        peer.send(b"P", peer.own_namespace, "/dev/null")
    agent.until(lambda: len(agent.descriptors()) == before + 60, "the descriptors did not arrive", 5)
    for peer in peers:
        peer.close()


NO_SANDBOX = {"a file": "/etc/hostname", "a folder": "/", "a device": "/dev/null", "the disk of a process": "/proc/self/mem"}


@pytest.mark.parametrize("what", [*NO_SANDBOX, "a user namespace", "a socket", "a pipe", "an empty file"])
@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL"])
def test_a_sandbox_that_is_none(site: Site, agent: Agent, what: str, verb: str) -> None:
    """Code 4, as the one-shot program has it for such a path; a DEL goes on without. Nothing is done."""
    before = observe.snapshot(site.node, with_files=False)
    path = "/run/netns/odd"
    with ExitStack() as stack:
        odd: str | int = NO_SANDBOX.get(what, "/proc/self/ns/user")
        if what == "a socket":
            odd = stack.enter_context(socket.socket(socket.AF_UNIX)).fileno()
        elif what == "a pipe":
            pipe = os.pipe()
            stack.callback(os.close, pipe[0])
            stack.callback(os.close, pipe[1])
            odd = pipe[0]
        elif what == "an empty file":
            site.node.path(path).touch()
            odd = str(site.node.path(path))
        config = {**bridge(), "cniVersion": "1.0.0", "prevResult": {"cniVersion": "1.0.0"}}
        with Peer(site.node, agent) as peer:
            peer.send(request(verb, config, netns=path, path=str(site.shims)), peer.own_namespace, odd)
            answer = peer.answer()
    if verb == "DEL":
        assert answer == frame.Answer(
            0, b"", f"bridge: going on without the sandbox: CNI_NETNS '{path}' is not a network namespace\n".encode()
        )
    else:
        assert answer.status == 1
        assert b'"code": 4' in answer.stdout and b"is not a network namespace" in answer.stdout
    assert observe.difference(before, observe.snapshot(site.node, with_files=False)) == []


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL"])
@pytest.mark.parametrize("plugin", NAMES)
def test_the_hosts_own_namespace_as_a_sandbox(site: Site, agent: Agent, verb: str, plugin: str) -> None:
    """Code 8, by what the descriptor is: the path may say anything."""
    before = observe.snapshot(site.node, with_files=False)
    config = {**bridge(), "cniVersion": "1.0.0", "type": plugin, "prevResult": {"cniVersion": "1.0.0"}}
    with Peer(site.node, agent) as peer:
        peer.send(request(verb, config, plugin, netns="/run/netns/pod"), peer.own_namespace, peer.own_namespace)
        answer = peer.answer()
    assert answer.status == 1 and b'"code": 8' in answer.stdout
    assert observe.difference(before, observe.snapshot(site.node, with_files=False)) == []


@pytest.mark.parametrize("what", ["/etc/hostname", "/proc/self/ns/user", "/proc/self/ns/mnt", "/dev/null"])
def test_an_own_namespace_that_is_none(site: Site, agent: Agent, what: str) -> None:
    """Who shows anything else for its own namespace is elsewhere."""
    with Peer(site.node, agent) as peer:
        peer.send(status_request(), what)
        assert peer.declined() == "the caller is in another network namespace than the agent"


def test_errnos_of_a_sandbox_that_could_not_be_opened(site: Site, agent: Agent) -> None:
    """Whatever number the client sends for the failure, it is one error of the call."""
    for number in (1, 2, 13, 20, 40, 4095, 2**31 - 1):
        env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "a", "CNI_IFNAME": "eth0", "CNI_NETNS": "/x", "CNI_PATH": "/y"}
        with Peer(site.node, agent) as peer:
            peer.call(frame.encode_call(frame.Call("bridge", "/", number, env, _json(bridge()))))
            answer = peer.answer()
        expected = b'"code": 3' if number in (2, 20) else b'"code": 4'
        assert answer.status == 1 and expected in answer.stdout, (number, answer)


# -- those that are slow, or that do not listen --


def test_slow_writers_and_who_never_prints(site: Site, agent: Agent) -> None:
    """Each has ten seconds: to send its call, to read its answer, to say that an ADD's result was printed. Nobody else waits.

    One test, so that it takes ten seconds once.
    """
    pods = {name: site.node.pod(name) for name in ("silent", "unread")}
    with ExitStack() as stack:
        idle, dripping, silent, unread = (stack.enter_context(Peer(site.node, agent)) for _ in range(4))
        began = time.monotonic()
        dripping.call(status_request()[:1])
        path = str(site.shims)
        silent.ask("ADD", bridge(), netns=pods["silent"], container_id="silent", path=path)
        assert silent.answer().status == 0
        assert len(site.leases()) == 1
        unread.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        remarks = {f"key{number}": "" for number in range(30000)}
        unread.call(request("STATUS", {**ONE, "cniVersion": "1.1.0", **remarks}, "loopback", container_id="unread"))
        rest = status_request()[1:]
        slowest = 0.0
        while time.monotonic() - began < 8:
            dripping.send(rest[:1])
            rest = rest[1:]
            begun = time.monotonic()
            serves(site, agent)
            slowest = max(slowest, time.monotonic() - begun)
            time.sleep(0.5)
        assert slowest < 1, "others had to wait"
        assert len(site.leases()) == 1
        assert idle.declined() == dripping.declined() == "the call did not arrive in time"
        assert 9 < time.monotonic() - began < 15
        agent.until(lambda: site.leases() == set(), "the ADD is not taken back", 10)
        with pytest.raises(BrokenPipeError):
            silent.send(frame.PRINTED_FRAME)  # it learns that this came too late
        refused = frame.decode_answer(silent.reads(frame.ANSWER))
        assert (refused.status, refused.stdout) == (1, b"") and b"it is taken back" in refused.stderr
        agent.until(lambda: {call.get("container") for call in agent.calls()} >= {"silent", "unread"}, "a worker is stuck", 15)
    site.nothing_left()


def test_connections_all_the_time(site: Site, agent: Agent) -> None:
    """A flood of connections that say nothing does not keep a call waiting."""
    stop = False

    def flood() -> int:
        count = 0
        while not stop:
            try:
                Peer(site.node, agent).close()
                count += 1
            except BlockingIOError:  # as many wait as the kernel lets wait
                time.sleep(0.001)
        return count

    with ThreadPoolExecutor(4) as pool:
        floods = [pool.submit(flood) for _ in range(3)]
        try:
            times = []
            for _ in range(20):
                begun = time.monotonic()
                site.call("STATUS", {"cniVersion": "1.1.0", "name": "net", "type": "loopback"}).succeeded()
                times.append(time.monotonic() - begun)
        finally:
            stop = True
        assert sum(one.result() for one in floods) > 100
    assert sorted(times)[10] < 2, times


def test_thousands_of_idle_connections(site: Site) -> None:
    """They cost a descriptor each until their time is over, and no call's time."""
    count = 5000
    with Agent(site.node) as agent, ExitStack() as stack:
        serves(site, agent)
        before = agent.figures()
        for _ in range(count):
            stack.enter_context(Peer(site.node, agent))
        agent.until(lambda: agent.figures().descriptors >= before.descriptors + count, "not all were accepted", 10)
        times = []
        for _ in range(20):
            begun = time.monotonic()
            serves(site, agent)
            times.append(time.monotonic() - begun)
        assert sorted(times)[10] < 0.1, times
        agent.until(lambda: agent.figures().descriptors <= before.descriptors + 1, "they are still there", 20)
        assert agent.figures().kib < before.kib + 20_000
        assert len(agent.events("refused")) == count
        agent.unharmed()


def test_no_descriptors_left(site: Site) -> None:
    """With a small limit: who sends nothing gives way to who sends a call, and no call fails."""
    with Agent(site.node, files=64) as agent, ExitStack() as stack:
        serves(site, agent)
        for _ in range(200):
            stack.enter_context(Peer(site.node, agent))
        begun = time.monotonic()
        for _ in range(5):
            site.call("STATUS", {"cniVersion": "1.1.0", "name": "net", "type": "loopback"}).succeeded()
        assert time.monotonic() - begun < 5
        agent.until(lambda: len(agent.events("refused")) >= 130, "nobody gave way", 5)
        stack.close()
        agent.until(lambda: agent.figures().descriptors < 20, "they are still there", 5)
        done = len(agent.calls())
        site.call("STATUS", {"cniVersion": "1.1.0", "name": "net", "type": "loopback"}).succeeded()
        agent.until(lambda: len(agent.calls()) == done + 1, "the agent does not serve any more", 5)
        agent.unharmed()


# -- those that leave --


def test_gone_before_taken(site: Site) -> None:
    """The call waits for the only worker; its client goes: it is forgotten, nothing is done."""
    fifo = site.node.path("/run/go")
    site.node.sh("mkfifo /run/go; mkdir /run/ipam")
    program = site.node.path("/run/ipam/theirs")
    program.write_text('#!/bin/sh\nread line </run/go\necho \'{"cniVersion":"1.0.0","ips":[{"address":"10.88.0.7/24"}]}\'\n')
    program.chmod(0o755)
    first, second = site.node.pod("first"), site.node.pod("second")
    with Agent(site.node, "--workers", "1") as agent:
        busy, leaves = Peer(site.node, agent), Peer(site.node, agent)
        config = {**bridge({"type": "theirs"}), "cniVersion": "1.0.0"}
        busy.ask("ADD", config, netns=first, container_id="first", path="/run/ipam")
        busy.reads(frame.TAKEN)
        leaves.ask("ADD", bridge(), netns=second, container_id="second", path=str(site.shims))
        time.sleep(0.1)
        leaves.close()
        fifo.write_text("go\n")
        assert frame.decode_answer(busy.reads(frame.ANSWER)).status == 0
        busy.send(frame.PRINTED_FRAME)
        agent.until(lambda: any(call.get("container") == "first" for call in agent.calls()), "no line")
        serves(site, agent)
        assert [call["container"] for call in agent.calls() if "container" in call] == ["first", "c0ffee"]
        assert set(observe.links(site.node, pod="second")) == {"lo"}
        assert site.leases() == set()
        busy.close()
        agent.unharmed()


@pytest.mark.parametrize("when", ["after TAKEN", "before PRINTED", "with a wrong word", "half of PRINTED"])
def test_gone_before_it_has_printed(site: Site, agent: Agent, when: str) -> None:
    """Nobody knows of the attachment: an ADD is taken back, and told of as such."""
    netns = site.node.pod("pod")
    site.call("ADD", bridge(), netns=netns, container_id="warm-up").succeeded()
    site.call("DEL", bridge(), netns=netns, container_id="warm-up").succeeded()
    before = observe.snapshot(site.node, with_files=False)
    with Peer(site.node, agent) as peer:
        peer.ask("ADD", bridge(), netns=netns, path=str(site.shims))
        peer.reads(frame.TAKEN)
        if when != "after TAKEN":
            assert frame.decode_answer(peer.reads(frame.ANSWER)).status == 0
        if when == "with a wrong word":
            peer.send(frame.TAKEN_FRAME)
        elif when == "half of PRINTED":
            peer.send(frame.PRINTED_FRAME[:7])
            peer.socket.shutdown(socket.SHUT_WR)
    agent.until(lambda: "unheard_add" in agent.calls()[-1].get("repairs", ""), "it is not taken back", 5)
    assert agent.calls()[-1]["code"] == 0
    site.nothing_left()
    assert observe.difference(before, observe.snapshot(site.node, with_files=False)) == []
    site.call("ADD", bridge(), netns=netns).succeeded()
    site.call("DEL", bridge(), netns=netns).succeeded()


@pytest.mark.parametrize("verb", ["DEL", "CHECK"])
def test_gone_before_the_answer_of_another_verb(site: Site, agent: Agent, verb: str) -> None:
    """Nothing is to be taken back: a DEL was done, a CHECK did nothing."""
    netns = site.node.pod("pod")
    result = site.call("ADD", bridge(), netns=netns).result()
    with Peer(site.node, agent) as peer:
        peer.ask(verb, {**bridge(), "prevResult": result}, netns=netns, path=str(site.shims))
        peer.reads(frame.TAKEN)
    agent.until(lambda: agent.calls()[-1]["verb"] == verb, "it was not done", 5)
    assert "repairs" not in agent.calls()[-1]
    assert len(site.leases()) == (0 if verb == "DEL" else 1)
    site.call("DEL", bridge(), netns=netns).succeeded()
    site.nothing_left()


def test_an_add_that_failed_needs_no_print(site: Site, agent: Agent) -> None:
    """An error is final: the agent waits for no word after it."""
    began = time.monotonic()
    for _ in range(3):
        with Peer(site.node, agent) as peer:
            peer.ask("ADD", bridge({"type": "nowhere"}), netns=site.node.pod(), path=str(site.shims))
            assert peer.answer().status == 1
            assert peer.gone()
    assert time.monotonic() - began < 5
    site.nothing_left()


# -- a plugin of somebody else that says too much --


def _says(site: Site, script: str) -> None:
    site.node.sh("mkdir -p /run/ipam")
    program = site.node.path("/run/ipam/theirs")
    program.write_text(script)
    program.chmod(0o755)


ADDRESS = '{"cniVersion":"1.0.0","ips":[{"address":"10.88.0.7/24"}]}'


def test_an_ipam_plugin_with_endless_remarks(site: Site, agent: Agent) -> None:
    """20 MB on stderr: they are cut, the ADD succeeds."""
    _says(site, f"#!/bin/sh\nhead -c 20000000 /dev/zero | tr '\\0' x >&2\necho '{ADDRESS}'\n")
    config = {**bridge({"type": "theirs"}), "cniVersion": "1.0.0"}
    done = site.call("ADD", config, netns=site.node.pod("pod"), path="/run/ipam").succeeded()
    assert len(done.stderr) == 1 << 20
    site.call("DEL", config, netns="/run/netns/pod", path="/run/ipam").succeeded()
    site.nothing_left()


def test_an_ipam_plugin_with_an_endless_result(site: Site, agent: Agent) -> None:
    """A result that no frame can carry: an error, and nothing is left."""
    _says(
        site,
        """#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exit 0
printf '{"cniVersion":"1.0.0","ips":[{"address":"10.88.0.7/24"}],"dns":{"domain":"'
head -c 20000000 /dev/zero | tr '\\0' x
printf '"}}'
""",
    )
    config = {**bridge({"type": "theirs"}), "cniVersion": "1.0.0"}
    done = site.call("ADD", config, netns=site.node.pod("pod"), path="/run/ipam")
    assert done.status == 1
    assert set(observe.links(site.node, pod="pod")) == {"lo"}
    site.nothing_left()
