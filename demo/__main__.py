"""Wire two pods with the official cnitool and prove that it worked, in a private node of this machine.

The story: ADD two pods to a bridge network with host-local addresses; draw what was wired; send packets between pods, to the
gateway and, masqueraded, to an outside namespace, over IPv4 and IPv6; CHECK, damage, CHECK again; DEL; show that nothing is
left. Exit status 0 only when every claim held.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from demo import picture
from tests.harness import observe
from tests.harness.node import NODE_V4, NODE_V6, OUTSIDE, OUTSIDE_V4, OUTSIDE_V6, Node

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = ROOT / "build" / "bundle"
CNITOOL = ROOT / "build" / "tools" / "cnitool"
CONFLIST = ROOT / "conf" / "bridge-dual-stack.conflist"
NETCONFPATH = "/run/net.d"
PODS = ("pod-a", "pod-b")
# cnitool makes up container ids that begin so; a packet rule names the one it is for.
CONTAINERS = "cnitool-"

# Answers one datagram with the address it came from, so the sender learns how the outside sees it.
ECHO = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.socket(family, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 9))
print("listening", flush=True)
while True:
    data, sender = server.recvfrom(100)
    server.sendto(sender[0].encode(), sender)
"""
ASK = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
client = socket.socket(family, socket.SOCK_DGRAM)
client.settimeout(2)
client.sendto(b"who am I?", (sys.argv[1], 9))
print(client.recv(100).decode())
"""


class Demo:
    """The demonstration's state: the node, and how many claims failed."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.failures = 0
        self.network = json.loads(CONFLIST.read_text())["name"]
        self.bridge = json.loads(CONFLIST.read_text())["plugins"][0]["bridge"]
        self.results: dict[str, dict[str, Any]] = {}

    def chapter(self, title: str) -> None:
        print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}")

    def claim(self, holds: bool, text: str) -> None:
        """Print a claim with a tick or a cross."""
        self.failures += not holds
        print(f"  {'✓' if holds else '✗'} {text}")

    def cnitool(self, verb: str, pod: str) -> tuple[int, str, str, float]:
        """Run the official cnitool in the node: exit status, stdout, stderr, milliseconds."""
        environment = {"CNI_PATH": str(PLUGINS), "NETCONFPATH": NETCONFPATH, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        command = (str(CNITOOL), verb, self.network, f"/run/netns/{pod}")
        began = time.perf_counter()
        done = self.node.run(*command, env=environment, check=False)
        spent = (time.perf_counter() - began) * 1000
        print(f"  $ cnitool {' '.join(command[1:])}    ({spent:.0f} ms)")
        return done.returncode, done.stdout.decode(), done.stderr.decode(), spent

    def add(self) -> None:
        self.chapter("1. ADD: two pods join the network")
        for pod in PODS:
            self.node.pod(pod)
            status, stdout, stderr, _ = self.cnitool("add", pod)
            if status != 0:
                sys.exit(f"cnitool add failed:\n{stderr}{stdout}")
            self.results[pod] = json.loads(stdout)
            addresses = ", ".join(ip["address"] for ip in self.results[pod]["ips"])
            self.claim(True, f"{pod} has {addresses}")
        for what, found in self.traces().items():
            self.claim(bool(found), f"{what}: {len(found) or 'none'}")

    def traces(self) -> dict[str, list[str]]:
        """What attachments hold on the node, by what it is. The demo shows that it is there after ADD and gone after DEL."""
        return {
            "veths on the node": [name for name in observe.links(self.node) if name.startswith("veth")],
            "leases": list(observe.leases(self.node, self.network)),
            "packet rules that name a container": observe.mentions(self.node, CONTAINERS),
        }

    def draw(self) -> None:
        self.chapter("2. What was wired (as the kernel tells it: ip -j, nft -j)")
        print(picture.draw(self.node, self.bridge, PODS))

    def prove(self) -> None:
        self.chapter("3. It works: packets")
        ips = {pod: [ip["address"].split("/")[0] for ip in self.results[pod]["ips"]] for pod in PODS}
        gateways = [ip["gateway"] for ip in self.results["pod-a"]["ips"]]
        for target in ips["pod-b"]:
            self.claim(self.node.pings(target, pod="pod-a"), f"pod-a reaches pod-b at {target}")
        for target in gateways:
            self.claim(self.node.pings(target, pod="pod-a"), f"pod-a reaches its gateway {target}")
        for own, outside, node in zip(ips["pod-a"], (OUTSIDE_V4, OUTSIDE_V6), (NODE_V4, NODE_V6), strict=True):
            server = self.node.spawn("python3", "-c", ECHO, outside, pod=OUTSIDE)
            assert server.stdout is not None
            server.stdout.readline()
            answer = self.node.run("python3", "-c", ASK, outside, pod="pod-a", check=False).stdout.decode().strip()
            self.claim(answer == node, f"outside {outside} sees pod-a ({own}) as the node, {answer or 'not at all'}")

    def check(self) -> None:
        self.chapter("4. CHECK: fine now, and it notices damage")
        for pod in PODS:
            self.claim(self.cnitool("check", pod)[0] == 0, f"{pod} is as ADD left it")
        print("  $ ip route del default        (in pod-b)")
        self.node.run("ip", "route", "del", "default", pod="pod-b")
        status, _, stderr, _ = self.cnitool("check", "pod-b")
        said = next((line for line in stderr.splitlines() if "default" in line or "0.0.0.0/0" in line), stderr.strip())
        self.claim(status != 0 and "0.0.0.0/0" in said, f"it says: {said.strip()}")

    def delete(self) -> None:
        self.chapter("5. DEL, and DEL again")
        for pod in PODS:
            for _ in range(2):
                self.claim(self.cnitool("del", pod)[0] == 0, f"{pod} is removed")

    def nothing_left(self) -> None:
        self.chapter("6. Nothing is left")
        for what, found in self.traces().items():
            self.claim(not found, f"{what}: {len(found) or 'none'}")
        for pod in PODS:
            left = [name for name in observe.links(self.node, pod=pod) if name != "lo"]
            self.claim(not left, f"interfaces in {pod} besides lo: {', '.join(left) or 'none'}")
        print(f"  (the bridge {self.bridge} stays for the next pod, as with every bridge plugin)")


def main() -> int:
    """Run the demonstration in a node of its own; 0 when every claim held."""
    argparse.ArgumentParser(prog="python -m demo", description=(__doc__ or "").partition("\n\n")[0]).parse_args()
    for needed in (CNITOOL, PLUGINS / "bridge", CONFLIST):
        if not needed.exists():
            sys.exit(f"demo: {needed.relative_to(ROOT)} is missing: run `make demo`, which makes it")
    print(
        "podwire demo: everything below happens in a private network and mount namespace (the node) that vanishes at the end.\n"
        f"Plugins: {PLUGINS.relative_to(ROOT)}. Runtime: the official cnitool. Configuration: {CONFLIST.relative_to(ROOT)}"
    )
    with Node() as node:
        node.outside()
        node.path(NETCONFPATH).mkdir()
        shutil.copy(CONFLIST, node.path(NETCONFPATH))
        demo = Demo(node)
        for step in (demo.add, demo.draw, demo.prove, demo.check, demo.delete, demo.nothing_left):
            step()
    print(f"\n{'All of it held.' if not demo.failures else f'{demo.failures} claims failed.'}")
    return 1 if demo.failures else 0


if __name__ == "__main__":
    sys.exit(main())
