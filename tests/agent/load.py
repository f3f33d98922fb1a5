"""Many callers at once, each with a pod of its own: ADD and DEL in turn through the native client, and what became of them.

A ``Crowd`` keeps the books of a runtime: who holds which address, from the moment an ADD has succeeded until its DEL begins. An
address that two hold at a time is a fault, and so is an answer that is neither success nor "call again" (error 11).
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.harness.node import PATH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.harness.node import Node

TOO_LONG_S = 150


class Crowd:
    """So many callers of one network."""

    def __init__(self, node: Node, folder: Path, config: dict[str, Any], callers: int) -> None:
        self.node, self.folder, self.config = node, folder, config
        self._stdin = json.dumps(config).encode()
        self.callers = range(callers)
        self.pods = [node.pod(f"crowd{number}") for number in self.callers]
        self.calls = self.successes = 0
        self.again: list[str] = []
        self.faults: list[str] = []
        self._holders: dict[str, str] = {}
        self._guard = threading.Lock()

    def call(self, verb: str, caller: int) -> tuple[int, bytes, bytes]:
        """One call of a caller: status, stdout, stderr."""
        env = {
            "PATH": PATH,
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": f"crowd-{caller}",
            "CNI_NETNS": self.pods[caller],
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.folder),
        }
        argv = self.node.argv([str(self.folder / self.config["type"])])
        done = subprocess.run(argv, input=self._stdin, env=env, capture_output=True, check=False, timeout=TOO_LONG_S)
        with self._guard:
            self.calls += 1
            self.successes += done.returncode == 0
        return done.returncode, done.stdout, done.stderr

    def add(self, caller: int) -> bool:
        """An ADD; whether it succeeded, and the address is the caller's."""
        status, out, err = self.call("ADD", caller)
        if not self._settled("ADD", caller, status, out, err):
            return False
        addresses = [entry["address"] for entry in json.loads(out)["ips"]]
        with self._guard:
            for address in addresses:
                other = self._holders.setdefault(address, f"crowd-{caller}")
                if other != f"crowd-{caller}":
                    self.faults.append(f"{address} is of {other} and of crowd-{caller}")
        return True

    def delete(self, caller: int) -> bool:
        """A DEL; whether it succeeded. The address is nobody's from its beginning on."""
        with self._guard:
            self._holders = {address: owner for address, owner in self._holders.items() if owner != f"crowd-{caller}"}
        return self._settled("DEL", caller, *self.call("DEL", caller))

    def _settled(self, verb: str, caller: int, status: int, out: bytes, err: bytes) -> bool:
        """Whether a call succeeded; one that must be called again is counted, anything else is a fault."""
        if status == 0:
            return True
        told = f"{verb} crowd-{caller}: {status} {out.decode()} {err.decode(errors='replace')}"
        with self._guard:
            try:
                again = json.loads(out)["code"] == 11
            except (ValueError, KeyError, TypeError):
                again = False
            (self.again if again else self.faults).append(told)
        return False

    def cycle(self, caller: int) -> None:
        """ADD, and DEL until that has succeeded, as a runtime does it."""
        self.add(caller)
        for _ in range(20):
            if self.delete(caller):
                return
        self.faults.append(f"no DEL of crowd-{caller} succeeds")

    def run(self, goes_on: Callable[[], bool]) -> None:
        """Every caller's cycles, for as long as they go on."""

        def work(caller: int) -> None:
            try:
                while goes_on() and not self.faults:
                    self.cycle(caller)
            except BaseException as error:
                self.faults.append(f"crowd-{caller}: {error!r}")

        with ThreadPoolExecutor(len(self.callers)) as pool:
            list(pool.map(work, self.callers))

    @contextmanager
    def working(self) -> Iterator[Callable[[], None]]:
        """``run`` beside the test; what it yields ends that, and waits for the last DEL. So does the end of the block."""
        stop = threading.Event()
        thread = threading.Thread(target=self.run, args=(lambda: not stop.is_set(),))

        def rest() -> None:
            stop.set()
            thread.join()

        thread.start()
        try:
            yield rest
        finally:
            rest()

    def left_in_pods(self) -> dict[str, list[str]]:
        """Links beside loopback that are left in the pods."""
        found = {}
        for path in self.pods:
            name = os.path.basename(path)
            links = self.node.run("ip", "-br", "link", pod=name).stdout.decode().split("\n")
            more = [line for line in links if line and not line.startswith("lo ")]
            if more:
                found[name] = more
        return found


def cycles(count: int) -> Callable[[], bool]:
    """Goes on until so many cycles have begun."""
    guard, left = threading.Lock(), [count]

    def goes_on() -> bool:
        with guard:
            left[0] -= 1
            return left[0] >= 0

    return goes_on
