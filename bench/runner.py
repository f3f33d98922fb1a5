"""Runs inside the node: makes the calls of one case for every peer, alternately, and prints the samples as JSON."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.cases import CASES, Case

# A few calls that nobody counts fill the caches and make the bridge.
WARM_UP = 3


class Peer:
    """One side: a folder of executables and what its calls need."""

    def __init__(self, name: str, folder: str, case: Case, data: str) -> None:
        self.name, self.folder, self.case = name, folder, case
        network = f"bench-{name}"
        self.config: dict[str, Any] = {"cniVersion": "1.0.0", "name": network, **case.config}
        self.data = Path(data)
        if "ipam" in self.config:
            self.config["bridge"] = f"bench-{name[:5]}"
            self.config["ipam"] = {**self.config["ipam"], "dataDir": str(self.data)}
            _fill(self.data / network, case.leases)
        self.netns = f"/run/netns/{network}"
        subprocess.run(["ip", "netns", "add", network], check=True)
        self.results: dict[str, list[float]] = {}

    def round(self, number: int) -> None:
        """One call of every verb, in order, for a fresh container id."""
        document = dict(self.config)
        for verb in self.case.verbs:
            environment = {
                "CNI_COMMAND": verb,
                "CNI_CONTAINERID": f"bench{number % 1000}",
                "CNI_NETNS": self.netns,
                "CNI_IFNAME": "eth0",
                "CNI_PATH": self.folder,
                "PATH": os.environ["PATH"],
            }
            spent, stdout = _timed(f"{self.folder}/{self.case.plugin}", environment, json.dumps(document).encode())
            if verb == "ADD":
                document["prevResult"] = json.loads(stdout)
            if number >= 0:
                self.results.setdefault(verb, []).append(spent)


def _timed(program: str, environment: dict[str, str], stdin: bytes) -> tuple[float, bytes]:
    """Milliseconds from starting the program to its end, and its stdout; a failing call ends the measurement."""
    began = time.perf_counter()
    done = subprocess.run([program], input=stdin, env=environment, capture_output=True, check=False)
    spent = (time.perf_counter() - began) * 1000
    if done.returncode != 0:
        sys.exit(f"{program} {environment['CNI_COMMAND']}: {done.stdout.decode()} {done.stderr.decode()}")
    return spent, done.stdout


def _fill(folder: Path, count: int) -> None:
    """Leases of other containers, from the far end of the range, as host-local writes them."""
    folder.mkdir(parents=True)
    last = int(ipaddress.IPv4Address("10.1.255.254"))
    for number in range(count):
        (folder / str(ipaddress.IPv4Address(last - number))).write_bytes(f"{number:064x}\r\neth0".encode())


def main() -> None:
    """Read the order from stdin, run it, print samples by measure and peer."""
    order = json.loads(sys.stdin.read())
    case = next(case for case in CASES if case.name == order["case"])
    peers = [Peer(name, folder, case, order["data"]) for name, folder in order["peers"].items()]
    for number in range(-WARM_UP, order["rounds"]):
        for peer in peers if number % 2 else reversed(peers):
            peer.round(number)
    measures = {
        f"{case.name}: {verb}" if len(case.verbs) > 1 else case.name: {peer.name: peer.results[verb] for peer in peers}
        for verb in case.verbs
    }
    print(json.dumps(measures))


if __name__ == "__main__":
    main()
