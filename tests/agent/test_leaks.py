"""Nothing of one call is to be seen by the next: environment, folder, umask, namespaces, descriptors, signals."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.agent.conftest import Site, bridge, serves
from tests.agent.load import Crowd, cycles
from tests.harness.agent import Agent
from tests.harness.node import PATH

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.root

ANSWER = json.dumps({"cniVersion": "1.0.0", "ips": [{"address": "10.88.0.7/24"}]})

# An IPAM plugin of somebody else: what a program that works for a call sees of the process that started it.
THEIRS = f"""#!/bin/sh
cat /proc/$$/environ >/run/seen.environ
readlink /proc/$$/cwd >/run/seen.cwd
cat /proc/self/status >/run/seen.status
ls /proc/$$/fd >/run/seen.fd
for fd in /proc/$$/fd/*; do readlink $fd; done >/run/seen.links
readlink /proc/$$/ns/net >/run/seen.net
[ $CNI_COMMAND != ADD ] || echo '{ANSWER}'
"""


GONE = 'mkdir /run/gone; cd /run/gone; rmdir /run/gone; exec "$0"'

# A path that leads to the pod's namespace in a mount namespace of its own.
PRIVATE = """
mkdir -p /run/private; mount -t tmpfs tmpfs /run/private; : >/run/private/ns
mount --bind /run/netns/pod /run/private/ns; exec "$0"
"""


class Seen:
    """What the plugin saw in its last call."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def text(self, what: str) -> str:
        return self.site.node.path(f"/run/seen.{what}").read_text()

    @property
    def environ(self) -> dict[str, str]:
        entries = [entry for entry in self.text("environ").split("\0") if entry]
        return dict(entry.split("=", 1) for entry in entries)

    def status(self, key: str) -> str:
        return next(line.split()[1] for line in self.text("status").splitlines() if line.startswith(f"{key}:"))


@pytest.fixture
def seen(site: Site) -> Seen:
    site.node.sh("mkdir /run/ipam")
    program = site.node.path("/run/ipam/theirs")
    program.write_text(THEIRS)
    program.chmod(0o755)
    return Seen(site)


@pytest.fixture
def call(site: Site) -> Callable[..., None]:
    """A call that delegates to the plugin, from a folder of the node (empty: one that is gone), with more variables."""

    def made(verb: str, folder: str = "/", container_id: str = "c0ffee", **env: str) -> dict[str, str]:
        config = {**bridge({"type": "theirs"}), "cniVersion": "1.0.0", "ipMasq": False}
        own = {"PATH": PATH, "CNI_COMMAND": verb, "CNI_CONTAINERID": container_id, "CNI_IFNAME": "eth0"}
        own |= {"CNI_NETNS": "/run/netns/pod", "CNI_PATH": f"/run/ipam:{site.shims}", **env}
        before = ("env", "-C", folder) if folder else ("sh", "-ec", GONE)
        site.node.run(*before, str(site.shims / "bridge"), env=own, stdin=json.dumps(config))
        return own

    site.node.pod("pod")
    return made


def test_environment(seen: Seen, agent: Agent, call: Callable[..., Any]) -> None:
    """That of the call, whole, and nothing of the agent's or of another call's."""
    first = call("ADD", SECRET="of the first", LD_LIBRARY_PATH="/run/first", EMPTY="", ODD="a=b\nc")
    assert seen.environ == {**first, "PODWIRE_SOCKET": ""}
    second = call("DEL", OTHER="of the second")
    assert seen.environ == {**second, "PODWIRE_SOCKET": ""}


def test_folder_umask_signals_and_descriptors(site: Site, seen: Seen, agent: Agent, call: Callable[..., Any]) -> None:
    """A program of a call begins in the caller's folder, with three descriptors, and no signal blocked or ignored."""
    site.node.sh("mkdir -p /run/one /run/two; mkdir -m 700 /run/two/deep")
    for verb, folder in (("ADD", "/run/one"), ("DEL", "/run/two/deep")):
        call(verb, folder)
        assert seen.text("cwd").strip() == folder
        assert os.readlink(f"/proc/{agent.pid}/cwd") == "/"
        assert seen.text("net") == f"{os.readlink(f'/proc/{site.node.pid}/ns/net')}\n"
        assert int(seen.status("Umask"), 8) == 0o022
        assert int(seen.status("SigBlk"), 16) == 0
        assert not int(seen.status("SigIgn"), 16) & (1 << (signal.SIGPIPE - 1))
        assert {name for name in seen.text("fd").split() if int(name) < 10} <= {"0", "1", "2", "3"}
        links = seen.text("links").split("\n")
        assert not [name for name in links if name.startswith(("socket:", "net:", "anon_inode:"))], links
        assert not [name for name in links if name.endswith(".lock")], links


def test_a_folder_that_is_gone(site: Site, seen: Seen, agent: Agent, call: Callable[..., Any]) -> None:
    """The caller's working folder was removed: the call does without, and the next one has its own again."""
    call("ADD", "")
    call("DEL", "/run")
    assert seen.text("cwd").strip() == "/run"
    assert site.links() == set()


def test_relative_paths_are_the_callers(site: Site, agent: Agent) -> None:
    """CNI_NETNS and CNI_PATH from the caller's folder, at the same time as another call's from another folder."""
    site.node.sh("mkdir /run/here; ln -s /run/netns/pod /run/here/sandbox; mkdir /run/here/bin")
    site.node.pod("pod")
    site.node.sh(f"ln -s {site.shims}/host-local /run/here/bin/host-local")
    env = {
        "PATH": PATH,
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "a",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": "sandbox",
        "CNI_PATH": "bin",
    }
    run = ("sh", "-ec", 'cd /run/here; exec "$0"', str(site.shims / "bridge"))
    added = site.node.run(*run, env=env, stdin=json.dumps(bridge()))
    assert json.loads(added.stdout)["interfaces"][-1]["sandbox"] == "sandbox"
    checked = {**bridge(), "prevResult": json.loads(added.stdout)}
    site.node.run(*run, env={**env, "CNI_COMMAND": "CHECK"}, stdin=json.dumps(checked))
    site.node.run(*run, env={**env, "CNI_COMMAND": "DEL"}, stdin=json.dumps(bridge()))
    site.nothing_left()
    assert len(agent.calls()) == 4


@pytest.mark.parametrize("any_mounts", [False, True])
def test_a_sandbox_that_only_the_caller_sees(site: Site, any_mounts: bool) -> None:
    """In a mount namespace of the caller's own: the descriptor is what counts, for ADD, CHECK and DEL. The lease folder
    there may be another one, so the agent leaves such calls to their clients unless it was told otherwise.
    """
    site.node.pod("pod")
    agent = Agent(site.node, any_mounts=any_mounts)
    run = ("unshare", "--mount", "--propagation", "private", "sh", "-ec", PRIVATE, str(site.shims / "bridge"))
    env = {
        "PATH": PATH,
        "CNI_CONTAINERID": "a",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": "/run/private/ns",
        "CNI_PATH": str(site.shims),
    }
    added = site.node.run(*run, env={**env, "CNI_COMMAND": "ADD"}, stdin=json.dumps(bridge()))
    checked = {**bridge(), "prevResult": json.loads(added.stdout)}
    site.node.run(*run, env={**env, "CNI_COMMAND": "CHECK"}, stdin=json.dumps(checked))
    site.node.run(*run, env={**env, "CNI_COMMAND": "DEL"}, stdin=json.dumps(checked))
    site.nothing_left()
    with agent:
        site.call("STATUS", {"cniVersion": "1.1.0", "name": "net", "type": "loopback"}).succeeded()
        agent.until(lambda: len(agent.calls()) == (4 if any_mounts else 1), "one in its own mount namespace is not served", 5)
        assert len(agent.events("declined")) == (0 if any_mounts else 1)
        agent.unharmed()


def test_what_it_is_started_with_is_nobodys(site: Site) -> None:
    """Variables, folder and umask of who started the agent are not the calls'; the folder can be removed."""
    site.node.sh("mkdir /run/start")
    env = {"CNI_ARGS": "IP=10.88.0.99", "CNI_NETNS_OVERRIDE": "1", "PODWIRE_SOCKET": "/nowhere", "CNI_COMMAND": ""}
    with Agent(site.node, env=env, folder=str(site.node.path("/run/start"))) as agent:
        site.node.sh("rmdir /run/start")
        netns = site.node.pod("pod")
        result = site.call("ADD", bridge(), netns=netns).result()
        assert result["ips"][0]["address"] == "10.88.0.2/24"
        site.call("ADD", bridge(), netns=f"/proc/{site.node.pid}/ns/net", container_id="host").refused(8)
        site.call("DEL", bridge(), netns=netns).succeeded()
        agent.unharmed()
    site.nothing_left()


def test_after_many_calls_of_all_kinds(site: Site, agent: Agent) -> None:
    """Good ones, failing ones, sandboxes of all sorts, both backends: every thread is where it was, nothing stays open."""
    crowd = Crowd(site.node, site.shims, bridge(macspoofchk=True), 8)
    crowd.run(cycles(40))
    site.node.sh("mkdir -p /run/odd; : >/run/odd/file")
    for netns in ("/run/odd/file", "/run/odd", "/run/odd/nothing", f"/proc/{site.node.pid}/ns/net", "/proc/self/ns/user"):
        for verb in ("ADD", "DEL"):
            site.call(verb, bridge(), netns=netns, container_id="odd")
    bad = bridge(
        {"type": "static", "addresses": [{"address": "10.88.0.7/24"}], "routes": [{"dst": "192.0.2.0/24", "gw": "203.0.113.1"}]}
    )
    for number in range(5):
        site.call("ADD", bad, netns=crowd.pods[0], container_id=f"bad-{number}").refused(999)
    by_iptables = bridge(ipMasqBackend="iptables")
    for verb in ("ADD", "DEL", "STATUS"):
        site.call(verb, by_iptables, netns=crowd.pods[1], container_id="iptables").succeeded()
    site.call("GC", {**bridge(), "cni.dev/valid-attachments": []}).succeeded()
    assert crowd.faults == [] and crowd.left_in_pods() == {}
    site.nothing_left()
    serves(site, agent)
    agent.unharmed()
    assert not [name for name in agent.held() if name.startswith("net:")]
