"""Runs inside the node: makes the calls of one case, in every lane by turns, and prints the samples as JSON."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from ipaddress import IPv4Address
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench import calls
from bench.cases import CALLERS, CASES, FLOOR, RESIDENT, Case
from bench.floor import Floor
from bench.peers import PATH, Peer, running
from bench.report import RATE, SIZE, Samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# A few calls that nobody counts fill the caches and make the bridge.
WARM_UP = 3
WARM_UP_CYCLES = 25

# How often the agent's memory is looked at.
LOOKS = 20


class Order(msgspec.Struct, frozen=True):
    """What is to be measured. ``data`` is a folder on a disk, for leases."""

    case: str
    peers: tuple[Peer, ...]
    rounds: int
    cycles: int
    data: str


class Lane:
    """One network of a peer, and its pods' attachments."""

    def __init__(self, number: int, peer: Peer, case: Case, leases: int, pods: Sequence[str], data: Path) -> None:
        self.name, self.verbs, self.leases = peer.name, case.verbs, leases
        self._plugins = (case.plugin, *(member["type"] for member in case.chain))
        self._folder, self._ports, self._first_port = peer.folder, case.ports, 20_000 + 1_000 * number
        self._env = {**peer.env, "CNI_PATH": peer.folder, "CNI_IFNAME": "eth0", "PATH": PATH}
        self._pods = pods
        self._containers = [""] * len(pods)
        self._files = Path(f"/run/bench/{number}")
        self._files.mkdir(parents=True)
        network = f"bench-{number}"
        common = {"cniVersion": "1.0.0", "name": network}
        self._config: dict[str, Any] = {**common, **case.config}
        if "ipam" in case.config:
            ranges = [[{"subnet": f"10.{number + 1}.0.0/16"}]]
            self._config["ipam"] = {**case.config["ipam"], "ranges": ranges, "dataDir": str(data)}
            self._config |= {"bridge": network} if case.config["type"] == "bridge" else {}
            _fill(data / network, IPv4Address(f"10.{number + 1}.255.254"), leases)
        self._chain = [{**common, **member} for member in case.chain]
        (self._files / "config").write_bytes(msgspec.json.encode(self._config))

    def calls_for(self, verb: str, pod: int = 0) -> Iterator[calls.Call]:
        """The calls for a pod: of the one plugin, or of each in the list, for DEL the last one first. ADD is for a new
        container, the others are for that of the last ADD. Each gets the result of the ADD before it.
        """
        if verb == "ADD":
            self._containers[pod] = os.urandom(32).hex()
        env = {**self._env, "CNI_COMMAND": verb, "CNI_CONTAINERID": self._containers[pod], "CNI_NETNS": self._pods[pod]}
        answer = self._files / f"answer-{pod}"
        members = list(zip(self._plugins, (self._config, *self._chain), strict=True))
        for number, (plugin, config) in enumerate(members[::-1] if verb == "DEL" else members):
            stdin, stdout = self._files / "config", self._files / f"said-{pod}"
            if verb in ("CHECK", "DEL") or (verb == "ADD" and number):
                stdin = self._files / f"config-{pod}"
                given = {**config, "prevResult": msgspec.Raw(answer.read_bytes())}
                stdin.write_bytes(msgspec.json.encode(self._with_ports(given, pod)))
            yield calls.Call(f"{self._folder}/{plugin}", env, str(stdin), str(answer if verb == "ADD" else stdout))

    def _with_ports(self, config: dict[str, Any], pod: int) -> dict[str, Any]:
        """What a runtime passes to a plugin that declares the capability."""
        if not config.get("capabilities", {}).get("portMappings"):
            return config
        first = self._first_port + pod * self._ports
        mappings = [{"hostPort": first + at, "containerPort": 80 + at, "protocol": "tcp"} for at in range(self._ports)]
        return {**config, "runtimeConfig": {"portMappings": mappings}}

    def once(self, verb: str, pod: int = 0) -> float:
        """Seconds of one call for a pod, or of one call of each plugin in the list."""
        return sum(calls.timed(call) for call in self.calls_for(verb, pod))

    def add_all(self) -> float:
        """Seconds of adding all pods, by callers of which each starts a call when its last one has ended."""
        every = [call for pod in range(len(self._pods)) for call in self.calls_for("ADD", pod)]
        return calls.together(every[caller::CALLERS] for caller in range(CALLERS))

    def delete_all(self) -> float:
        """Seconds of deleting all pods, all of them at once."""
        return calls.together([list(self.calls_for("DEL", pod)) for pod in range(len(self._pods))])

    def cycles(self, times: int) -> float:
        """Seconds of adding and deleting, ``times`` in all, by a caller for each pod."""
        return calls.together(self._cycle(pod, times // len(self._pods)) for pod in range(len(self._pods)))

    def _cycle(self, pod: int, times: int) -> Iterator[calls.Call]:
        for _ in range(times):
            yield from self.calls_for("ADD", pod)
            yield from self.calls_for("DEL", pod)


def _fill(folder: Path, last: IPv4Address, leases: int) -> None:
    """Leases of other containers, from the far end of the range, as host-local writes them."""
    folder.mkdir(parents=True)
    for number in range(leases):
        (folder / str(last - number)).write_bytes(f"{number:064x}\r\neth0".encode())


# The kinds of cases. Each gets the case, its lanes, how many rounds, how many cycles, and the agent's process id.


def in_turn(case: Case, lanes: list[Lane | Floor], rounds: int, *_: int) -> list[Samples]:
    """One call after the other; lanes in another order each round, so that none is always behind the same one.

    All pods of a lane get a call before they get the next one, as on a node that starts pods: a processor that has slept,
    while the kernel waited in a DEL, makes whatever comes next slower. ``pause`` is for just that.
    """
    found = {
        case.measure(leases, verb): Samples(case.measure(leases, verb), "ms", {})
        for leases in case.leases
        for verb in case.verbs
    }
    for number in range(-WARM_UP, rounds):
        for lane in _shuffled(lanes, number):
            for verb, pod in product(lane.verbs, range(case.pods)):
                time.sleep(case.pause)
                spent = lane.once(verb, pod) * 1000
                if number >= 0:
                    found[case.measure(lane.leases, verb)].lanes.setdefault(lane.name, []).append(spent)
    return list(found.values())


def crowd(case: Case, lanes: list[Lane | Floor], rounds: int, *_: int) -> list[Samples]:
    """Adding all pods by a few callers, then deleting them all at once."""
    added, deleted = case.at_once()
    rate, last = Samples(added, RATE, {}), Samples(deleted, "ms", {})
    for number in range(-1, rounds):
        for lane in _shuffled(lanes, number):
            per_second, spent = case.pods / lane.add_all(), lane.delete_all() * 1000
            if number >= 0:
                rate.lanes.setdefault(lane.name, []).append(per_second)
                last.lanes.setdefault(lane.name, []).append(spent)
    return [rate, last]


def memory(case: Case, lanes: list[Lane], _rounds: int, cycles: int, agent: int) -> list[Samples]:
    """What the agent has in memory after a few calls, and again and again while it serves many."""
    (lane,) = lanes
    seen: dict[str, list[float]] = {"resident set": [], "proportional": []}
    lane.cycles(WARM_UP_CYCLES * case.pods)
    spent = 0.0
    for look in range(LOOKS + 1):
        if look:
            spent += lane.cycles(cycles // LOOKS)
        time.sleep(0.3)  # what runs behind the last answer ends
        for name, file, key in (("resident set", "status", "VmRSS"), ("proportional", "smaps_rollup", "Pss")):
            seen[name].append(_megabytes(Path(f"/proc/{agent}/{file}").read_text(), key))
        _say(f"\r  {case.name}: {look * cycles // LOOKS:,} cycles in {spent:.0f} s, {seen['resident set'][-1]:.1f} MB … ")
    return [Samples(case.name, SIZE, seen)]


KINDS: dict[str, Callable[..., list[Samples]]] = {"in_turn": in_turn, "crowd": crowd, "memory": memory}


def _shuffled(lanes: list[Lane | Floor], number: int) -> list[Lane | Floor]:
    return random.Random(number).sample(lanes, len(lanes))


def _megabytes(text: str, key: str) -> float:
    """A size of /proc, whose kB are 1024 bytes."""
    line = next(line for line in text.splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024 / 1e6


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _pods(number: int) -> list[str]:
    """Network namespaces; the paths."""
    names = [f"bench{one}" for one in range(number)]
    for name in names:
        subprocess.run(["ip", "netns", "add", name], check=True)
    return [f"/run/netns/{name}" for name in names]


def measure(order: Order) -> list[Samples]:
    """Make the pods and the lanes of a case, start the agent, run it."""
    case = next(case for case in CASES if case.name == order.case)
    pods, data = _pods(case.pods), Path(order.data)
    of_lanes = [(peer, leases) for peer in order.peers if peer.name in case.lanes for leases in case.leases]
    lanes: list[Lane | Floor] = [Lane(number, peer, case, leases, pods, data) for number, (peer, leases) in enumerate(of_lanes)]
    if FLOOR in case.lanes:
        lanes.append(Floor(pods))
    resident = next(peer for peer in order.peers if peer.name == RESIDENT)
    with running(resident.agent, data / "agent.log") as agent:
        return KINDS[case.kind](case, lanes, max(2, order.rounds // case.share), order.cycles, agent)


def main() -> None:
    """Read the order from stdin, print the samples."""
    try:
        found = measure(msgspec.json.decode(sys.stdin.buffer.read(), type=Order))
    except calls.Failed as error:
        sys.exit(f"\nbench: {error}")
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
