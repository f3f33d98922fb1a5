"""Calls that are killed, that come all at once, that meet a full disk or find no sandbox: nothing leaks, nothing is lost."""

from __future__ import annotations

import json
import os
import random
import re
import statistics
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import through_agent
from tests.e2e.conftest import ROOT, holds_something, leftovers, snapshot
from tests.harness import observe
from tests.harness.agent import Agent, make_shims
from tests.harness.node import PATH
from tests.harness.wrappers import make_wrappers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.harness.node import Node
    from tests.harness.plugin import Executables

pytestmark = pytest.mark.root

Config = dict[str, Any]

BUNDLE = ROOT / "build" / "bundle"

# Four addresses, so that a lost one shows soon.
RANGES = [
    [{"subnet": "10.66.0.0/24", "rangeStart": "10.66.0.10", "rangeEnd": "10.66.0.13"}],
    [{"subnet": "fd00:66::/64", "rangeStart": "fd00:66::10", "rangeEnd": "fd00:66::13"}],
]
SIZE = 4


def bridge(backend: str = "nftables", **keys: Any) -> Config:
    """All that an attachment can have on this kernel: leases, masquerade, spoof check, a gateway."""
    config: Config = {"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0"}
    config |= {"isDefaultGateway": True, "ipMasq": True, "ipMasqBackend": backend, "macspoofchk": True}
    return {**config, "ipam": {"type": "host-local", "ranges": RANGES}, **keys}


class Caller:
    """Starts plugins in a node; a call can be killed on the way."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node, self.folder = node, folder

    def start(self, verb: str, config: Config, container_id: str, netns: str) -> subprocess.Popen[bytes]:
        """A call under way; nsenter becomes the program, so its pid is the program's."""
        child = subprocess.Popen(
            self.node.argv([str(self.folder / "bridge")]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                "PATH": PATH,
                "CNI_COMMAND": verb,
                "CNI_CONTAINERID": container_id,
                "CNI_NETNS": netns,
                "CNI_IFNAME": "eth0",
                "CNI_PATH": str(self.folder),
            },
        )
        assert child.stdin
        with suppress(BrokenPipeError):
            child.stdin.write(json.dumps(config).encode())
            child.stdin.close()
        child.stdin = None
        return child

    def call(self, verb: str, config: Config, container_id: str, netns: str) -> tuple[int, Any]:
        """A call from beginning to end: status, and the document on stdout (None when it is empty)."""
        return answer(self.start(verb, config, container_id, netns))

    def good(self, verb: str, config: Config, container_id: str, netns: str) -> Any:
        """A call that must succeed; its result."""
        status, document = self.call(verb, config, container_id, netns)
        assert status == 0, f"{verb} of {container_id}: {document}"
        return document

    def killed(self, verb: str, config: Config, container_id: str, netns: str, after: float) -> bool:
        """A call that is killed some seconds after its start; False when it was faster."""
        child = self.start(verb, config, container_id, netns)
        try:
            child.wait(after)
        except subprocess.TimeoutExpired:
            child.kill()
        child.communicate(timeout=60)
        assert child.returncode in (0, -9), child.returncode
        return child.returncode == -9

    def interrupted(self) -> int | None:
        """How many kills were found to have hit an ADD at work; None where that is to be seen in what is left."""
        return None

    def close(self) -> None:
        """The end."""


class ByShim(Caller):
    """The native client is killed; the agent, which works for it, lives on."""

    def __init__(self, node: Node) -> None:
        super().__init__(node, make_shims())
        self.agent = Agent(node)

    def interrupted(self) -> int:
        return sum("unheard_add" in call.get("repairs", "") for call in self.agent.calls())

    def close(self) -> None:
        with self.agent:
            self.agent.unharmed()


class ByAgent(Caller):
    """The agent is killed, and started again; the native client, which waits for it, lives on."""

    def __init__(self, node: Node) -> None:
        super().__init__(node, make_shims())
        self.agent = Agent(node)
        self.errors = {"ADD": 0, "DEL": 0}

    def killed(self, verb: str, config: Config, container_id: str, netns: str, after: float) -> bool:
        """The client runs the call itself, or says that it may have been begun."""
        child = self.start(verb, config, container_id, netns)
        late = False
        try:
            child.wait(after)
        except subprocess.TimeoutExpired:
            self.agent.kill()
            late = True
        status, document = answer(child)
        if status:
            assert late and status == 1 and document["code"] == 11, document
            assert "ended while it worked on this call" in document["msg"]
            self.errors[verb] += 1
        if late:
            self.close()
            self.agent = Agent(self.node)
        return late

    def interrupted(self) -> int:
        return self.errors["ADD"]

    def close(self) -> None:
        with self.agent:
            pass


def answer(child: subprocess.Popen[bytes]) -> tuple[int, Any]:
    out, _ = child.communicate(timeout=120)
    return child.returncode, json.loads(out) if out else None


@pytest.fixture
def caller(node: Node, plugins: Executables) -> Caller:
    """A fresh node with our plugins."""
    if not plugins.ours:
        pytest.skip("promises of podwire; other plugins do not make them")
    return Caller(node, plugins.folder)


def addresses(result: Config) -> list[str]:
    return [entry["address"].split("/")[0] for entry in result["ips"]]


def whole_range_is_free(caller: Caller, config: Config) -> None:
    """Assert that as many pods as there are addresses can be added, each with its own, and not one more."""
    pods = [caller.node.pod() for _ in range(SIZE + 1)]
    got: list[str] = []
    for number, netns in enumerate(pods[:SIZE]):
        got += addresses(caller.good("ADD", config, f"last-{number}", netns))
    assert len(set(got)) == 2 * SIZE
    status, error = caller.call("ADD", config, "one-too-many", pods[SIZE])
    assert status == 1
    assert "no IP addresses available in range set" in error["msg"]
    for number, netns in enumerate(pods[:SIZE]):
        caller.good("DEL", config, f"last-{number}", netns)
    for netns in pods:
        caller.node.remove_pod(netns)


# -- kill -9 --


def quick_leftovers(node: Node) -> list[str]:
    """What an attachment left, seen fast enough to look after each kill; a whole snapshot is compared at the end."""
    found = [f"link {name}" for name in os.listdir(node.path("/sys/class/net")) if name not in ("lo", "cni0")]
    found += [f"lease {address}" for address in observe.leases(node, "net")]
    return found + [json.dumps(entry) for entry in observe.ruleset(node) if holds_something(entry)]


# What is killed: the one-shot program, as Python or as the bundle; the native client; the agent.
FEW = [("python", "nftables", 30), ("python", "iptables", 10), ("bundle", "nftables", 20)]
FEW_THROUGH_AGENT = [("shim", "nftables", 40), ("shim", "iptables", 10), ("agent", "nftables", 20), ("agent", "iptables", 10)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A few kills by default and many in the slow run."""
    if "kills" in metafunc.fixturenames:
        few = FEW_THROUGH_AGENT if through_agent(metafunc.config) else FEW
        programs = dict.fromkeys(program for program, *_ in few)
        count = {"agent": 100}  # each costs a start of the agent
        many = [(program, backend, count.get(program, 300)) for program in programs for backend in ("nftables", "iptables")]
        slow = [pytest.param(*case, marks=pytest.mark.slow) for case in many]
        metafunc.parametrize(("program", "backend", "kills"), [*few, *slow])


@pytest.fixture
def victim(node: Node, program: str) -> Iterator[Caller]:
    """Who calls, and kills what the test is about."""
    if program == "bundle" and not (BUNDLE / "podwire").exists():
        pytest.skip("the bundle is not built (make bundle)")
    makers: dict[str, Callable[[], Caller]] = {
        "python": lambda: Caller(node, make_wrappers()),
        "bundle": lambda: Caller(node, BUNDLE),
        "shim": lambda: ByShim(node),
        "agent": lambda: ByAgent(node),
    }
    caller = makers[program]()
    yield caller
    caller.close()


def test_kill_at_any_instant(node: Node, victim: Caller, program: str, backend: str, kills: int) -> None:
    """Half of the kills hit ADD, half DEL, at instants spread over their duration, more of them towards the end: a process that
    starts anew works in the last tenth of its time. One DEL repairs everything.
    """
    caller = victim
    config = bridge(backend)
    netns = node.pod()
    caller.good("ADD", config, "warm-up", netns)
    caller.good("DEL", config, "warm-up", netns)
    before = snapshot(node)
    instants = random.Random(f"{program} {backend} {kills}")
    durations: dict[str, list[float]] = {"ADD": [], "DEL": []}
    done, interrupted, number = {"ADD": 0, "DEL": 0}, 0, 0
    while min(done.values()) < kills // 2:
        number += 1
        owner = f"container-{number}"
        if number % 8 == 1:  # how long a call takes changes with what else the machine does
            for verb in ("ADD", "DEL"):
                begun = time.monotonic()
                caller.good(verb, config, owner, netns)
                durations[verb] = [*durations[verb][-4:], time.monotonic() - begun]
            continue
        verb = "ADD" if done["ADD"] <= done["DEL"] else "DEL"
        result = caller.good("ADD", config, owner, netns) if verb == "DEL" else None
        after = statistics.median(durations[verb]) * ((done[verb] + instants.random()) / (kills // 2)) ** (1 / 3)
        killed = caller.killed(verb, config, owner, netns, after)
        done[verb] += killed
        interrupted += killed and verb == "ADD" and quick_leftovers(node) != []
        caller.good("DEL", {**config, **({"prevResult": result} if result else {})}, owner, netns)
        assert quick_leftovers(node) == [], f"after kill {sum(done.values())}, {verb} at {after:.4f} s"
    assert leftovers(before, snapshot(node), "cni0") == []
    interrupted = caller.interrupted() if caller.interrupted() is not None else interrupted
    assert interrupted, "no kill hit an ADD at work: the test does not test anything"
    print(f"{program}, {backend}: {sum(done.values())} kills, {interrupted} of the {done['ADD']} in an ADD hit it at work")
    whole_range_is_free(caller, config)
    assert leftovers(before, snapshot(node), "cni0") == []
    assert set(os.listdir(node.path("/var/lib/cni/networks/net"))) == {"lock", "last_reserved_ip.0", "last_reserved_ip.1"}


# -- all at once --

MANY_PODS = 30


def wide(backend: str) -> Config:
    return bridge(backend, ipam={"type": "host-local", "ranges": [[{"subnet": "10.67.0.0/24"}], [{"subnet": "fd00:67::/64"}]]})


def all_of(caller: Caller, verb: str, configs: Sequence[Config], pods: Sequence[str]) -> list[tuple[int, Any]]:
    """A call for each pod, all started before the first has ended."""
    children = [
        caller.start(verb, config, f"container-{number}", netns)
        for number, (config, netns) in enumerate(zip(configs, pods, strict=True))
    ]
    return [answer(child) for child in children]


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_thirty_pods_at_once(caller: Caller, backend: str) -> None:
    """The bridge is not there yet: one bridge, one gateway, different addresses, nobody fails. Then thirty DELs."""
    node, configs = caller.node, [wide(backend)] * MANY_PODS
    pods = [node.pod() for _ in range(MANY_PODS)]
    before = snapshot(node)
    added = all_of(caller, "ADD", configs, pods)
    assert [document for status, document in added if status] == []
    got = [address for _, result in added for address in addresses(result)]
    assert len(set(got)) == 2 * MANY_PODS
    assert set(observe.leases(node, "net")) == set(got)
    links = observe.links(node)
    assert [name for name, link in links.items() if link.get("linkinfo", {}).get("info_kind") == "bridge"] == ["cni0"]
    assert sum(link.get("master") == "cni0" for link in links.values()) == MANY_PODS
    assert set(observe.addresses(node, "cni0")) == {"10.67.0.1/24", "fd00:67::1/64"}
    assert {result["interfaces"][0]["mac"] for _, result in added} == {links["cni0"]["address"]}
    checked = [{**config, "prevResult": result} for config, (_, result) in zip(configs, added, strict=True)]
    assert [document for status, document in all_of(caller, "CHECK", checked, pods) if status] == []
    assert [document for status, document in all_of(caller, "DEL", checked, pods) if status] == []
    assert leftovers(before, snapshot(node), "cni0") == []


def test_failing_calls_beside_good_ones(caller: Caller) -> None:
    """An ADD that fails late takes back what it made, and nothing that the others stand on, though it may have made that."""
    count = 12
    node, good = caller.node, wide("nftables")
    bad = {**good, "ipam": {**good["ipam"], "routes": [{"dst": "192.0.2.0/24", "gw": "203.0.113.1"}]}}
    pods = [node.pod() for _ in range(count)]
    outcomes = all_of(caller, "ADD", [bad if number % 2 == 0 else good for number in range(count)], pods)
    assert [status for status, _ in outcomes] == [1, 0] * (count // 2)
    results = [result for status, result in outcomes if not status]
    assert set(observe.leases(node, "net")) == {address for result in results for address in addresses(result)}
    assert sum(link.get("master") == "cni0" for link in observe.links(node).values()) == count // 2
    assert set(observe.addresses(node, "cni0")) == {"10.67.0.1/24", "fd00:67::1/64"}
    for number, netns in enumerate(pods):
        if number % 2:
            caller.good("CHECK", {**good, "prevResult": outcomes[number][1]}, f"container-{number}", netns)


@pytest.mark.parametrize("ipam", ["host-local", "static", "none"])
def test_two_adds_of_one_attachment(caller: Caller, ipam: str) -> None:
    """One wins; the loser takes nothing of the winner's away."""
    config = wide("nftables")
    if ipam == "static":
        config["ipam"] = {"type": "static", "addresses": [{"address": "10.67.0.9/24"}]}
    elif ipam == "none":
        config = {key: config[key] for key in ("cniVersion", "name", "type", "bridge", "macspoofchk")}
    netns = caller.node.pod()
    caller.good("ADD", config, "warm-up", netns)
    caller.good("DEL", config, "warm-up", netns)
    before = snapshot(caller.node)
    for number in range(4):
        owner = f"container-{number}"
        children = [caller.start("ADD", config, owner, netns) for _ in range(2)]
        outcomes = sorted((answer(child) for child in children), key=lambda outcome: outcome[0])
        assert [status for status, _ in outcomes] == [0, 1], outcomes
        result = outcomes[0][1]
        caller.good("CHECK", {**config, "prevResult": result}, owner, netns)
        if ipam == "host-local":
            assert set(observe.leases(caller.node, "net")) == set(addresses(result))
        caller.good("DEL", {**config, "prevResult": result}, owner, netns)
        assert quick_leftovers(caller.node) == []
    assert leftovers(before, snapshot(caller.node), "cni0") == []


def test_add_and_del_of_one_attachment_at_once(caller: Caller) -> None:
    """A runtime that gave up on an ADD calls DEL while it runs. Whoever wins, a last DEL leaves nothing."""
    config, netns = bridge(), caller.node.pod()
    caller.good("ADD", config, "warm-up", netns)
    caller.good("DEL", config, "warm-up", netns)
    before = snapshot(caller.node)
    delays = random.Random("add and del")
    for number in range(8):
        owner = f"container-{number}"
        add = caller.start("ADD", config, owner, netns)
        time.sleep(delays.uniform(0, 0.08))
        delete = caller.start("DEL", config, owner, netns)
        assert answer(delete)[0] == 0
        status, document = answer(add)
        assert status == 0 or document["code"], document
        caller.good("DEL", config, owner, netns)
        assert quick_leftovers(caller.node) == []
    whole_range_is_free(caller, config)
    assert leftovers(before, snapshot(caller.node), "cni0") == []


# -- a full disk --

# The network's folder, empty but for its lock, and what calls use to know of each other.
STAYS = re.compile(r"/files//(run/podwire\S*|var/lib/cni/tiny/net(/lock)?): was None")

FULL = {
    "no block left": ("size=64k", "dd if=/dev/zero of=/var/lib/cni/tiny/full bs=4k 2>/dev/null || true"),
    "no file left": (
        "size=1m,nr_inodes=12",
        "for n in $(seq 12); do touch /var/lib/cni/tiny/full$n || break; done 2>/dev/null",
    ),
}


@pytest.mark.parametrize("prepared", [True, False], ids=["folder there", "no folder yet"])
@pytest.mark.parametrize("how", FULL)
def test_disk_full(caller: Caller, how: str, prepared: bool) -> None:
    """ADD says so, makes nothing, tears nothing; once there is room, it works and no address was lost."""
    node = caller.node
    options, fill = FULL[how]
    node.sh(f"mkdir /var/lib/cni/tiny; mount -t tmpfs -o {options} tmpfs /var/lib/cni/tiny")
    config = bridge(ipam={"type": "host-local", "ranges": RANGES, "dataDir": "/var/lib/cni/tiny"})
    netns, other = node.pod(), node.pod()
    kept = None
    if prepared:
        kept = caller.good("ADD", {**config, "ipam": {**config["ipam"], "ranges": RANGES[:1]}}, "kept", other)
    node.sh(fill)
    before = observe.snapshot(node)
    for _ in range(2):
        status, error = caller.call("ADD", config, "one", netns)
        assert status == 1
        assert error["code"] == 5
        assert "No space left on device" in f"{error['msg']} {error.get('details')}"
        assert "/var/lib/cni/tiny" in error["msg"]
        assert [line for line in observe.difference(before, observe.snapshot(node)) if not STAYS.match(line)] == []
    caller.good("DEL", config, "one", netns)
    if kept is not None:
        caller.good("CHECK", {**config, "prevResult": kept}, "kept", other)
        caller.good("DEL", {**config, "prevResult": kept}, "kept", other)
    node.sh("rm /var/lib/cni/tiny/full*")
    if how == "no file left":
        node.sh("mount -o remount,nr_inodes=100 /var/lib/cni/tiny")
    whole_range_is_free(caller, config)
    assert all(content for content in observe.leases(node, "net", "/var/lib/cni/tiny").values())


# -- a sandbox that is not what it was --


def gone(node: Node, netns: str) -> None:
    node.remove_pod(netns)


def plain_file(node: Node, netns: str) -> None:
    node.remove_pod(netns)
    node.sh(f": >{netns}")


def folder(node: Node, netns: str) -> None:
    node.remove_pod(netns)
    node.sh(f"mkdir {netns}")


def other_kind(node: Node, netns: str) -> None:
    """A namespace, but not of networks."""
    node.remove_pod(netns)
    node.sh(f": >{netns}; mount --bind /proc/self/ns/uts {netns}")


def another_empty_pod(node: Node, netns: str) -> None:
    """The name was given to the next pod, which has nothing yet."""
    node.remove_pod(netns)
    node.pod(os.path.basename(netns))


SANDBOXES = [gone, plain_file, folder, other_kind, another_empty_pod]


@pytest.fixture
def attached(caller: Caller) -> Iterator[tuple[Caller, Config, str, dict[str, Any]]]:
    """A pod that is attached: the configuration with its prevResult, its path, and what the node was before."""
    config = bridge()
    netns = caller.node.pod()
    before = snapshot(caller.node)
    result = caller.good("ADD", config, "one", netns)
    yield caller, {**config, "prevResult": result}, netns, before


@pytest.mark.parametrize("what", SANDBOXES, ids=lambda what: what.__name__)
@pytest.mark.parametrize("known", [True, False], ids=["prevResult", "no prevResult"])
def test_del_and_check_without_the_sandbox(
    attached: tuple[Caller, Config, str, dict[str, Any]], what: Any, known: bool
) -> None:
    """CHECK says what is wrong; DEL removes what is on the host, twice."""
    caller, config, netns, _ = attached
    what(caller.node, netns)
    status, error = caller.call("CHECK", config, "one", netns)
    assert status == 1
    assert netns in f"{error['msg']} {error.get('details')}" or "eth0" in error["msg"], error
    if not known:
        del config["prevResult"]
    for _ in range(2):
        caller.good("DEL", config, "one", netns)
        assert quick_leftovers(caller.node) == []


def test_del_of_what_never_was(caller: Caller) -> None:
    """DEL before any ADD, with a path that never existed: success, and nothing is made, not even a folder."""
    before = observe.snapshot(caller.node)
    for _ in range(2):
        caller.good("DEL", bridge(), "never", "/run/netns/never")
    assert [line for line in observe.difference(before, observe.snapshot(caller.node)) if "/run/podwire" not in line] == []
    status, error = caller.call("CHECK", {**bridge(), "prevResult": {"cniVersion": "1.0.0"}}, "never", "/run/netns/never")
    assert status == 1
    assert error["code"] == 3
    assert "/run/netns/never" in error["msg"]


def test_recycled_path_with_another_attachment(attached: tuple[Caller, Config, str, dict[str, Any]]) -> None:
    """The path is now another pod's, which is attached under the same interface name: a late DEL does not cut that one off."""
    caller, config, netns, _ = attached
    gateway_less = {key: value for key, value in config.items() if key != "prevResult"}
    another_empty_pod(caller.node, netns)
    result = caller.good("ADD", gateway_less, "two", netns)
    assert not set(addresses(result)) & set(addresses(config["prevResult"]))
    status, error = caller.call("CHECK", config, "one", netns)
    assert status == 1
    assert "eth0" in error["msg"]
    caller.good("DEL", config, "one", netns)
    caller.good("CHECK", {**gateway_less, "prevResult": result}, "two", netns)
    assert set(observe.leases(caller.node, "net")) == set(addresses(result))
    assert caller.node.pings("10.66.0.1", pod=os.path.basename(netns))
    caller.good("DEL", {**gateway_less, "prevResult": result}, "two", netns)
    assert quick_leftovers(caller.node) == []
