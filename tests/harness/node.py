"""A node: a private network and mount namespace in which a test may do what it likes.

A small holder process keeps both namespaces alive; killing it removes every link, rule, namespace and file
that the test made. /run, /var/lib/cni and /sys are private to the node, /tmp is shared with the test process.
Commands run in the node through nsenter. Nothing here judges results: see observe.py.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Where the machine has no /var/lib/cni, all of /var/lib is covered: the machine itself is not to be changed.
HOLDER = """
set -e
mount -t tmpfs -o size=64m,mode=755 tmpfs /run
mkdir /run/netns
mount -t sysfs sysfs /sys
if [ -d /var/lib/cni ]; then mount -t tmpfs -o size=64m,mode=755 tmpfs /var/lib/cni
else mount -t tmpfs -o size=64m,mode=755 tmpfs /var/lib && mkdir /var/lib/cni
fi
ip link set lo up
echo ready
exec sleep 100000
"""

# Documentation addresses (RFC 5737, RFC 3849): no route of a real network can hide a mistake.
NODE_V4, OUTSIDE_V4 = "198.51.100.1", "198.51.100.2"
NODE_V6, OUTSIDE_V6 = "2001:db8:ffff::1", "2001:db8:ffff::2"
OUTSIDE = "outside"

_pod_numbers = itertools.count(1)


class Failed(AssertionError):
    """A command of the test itself, not of a plugin under test, ended with an error."""


class Node:
    """One private node. Use as a context manager, or call close()."""

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []
        self.pods: dict[str, str] = {}
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", HOLDER],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": PATH, "LC_ALL": "C"},
        )
        self.pid = self._holder.pid
        assert self._holder.stdout and self._holder.stderr
        if self._holder.stdout.readline() != b"ready\n":
            raise Failed(f"no node: {self._holder.stderr.read().decode()}")

    def __enter__(self) -> Node:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End what was spawned in the node, then the node; the kernel removes what they held."""
        for child in (*self._children, self._holder):
            if child.poll() is None:
                child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout, child.stderr):
                if pipe:
                    pipe.close()
        self._children.clear()

    # -- commands --

    def argv(self, command: Sequence[str], *, pod: str | None = None) -> list[str]:
        """The command as the test process must start it: inside the node, or inside one of its pods."""
        net = f"--net={self.path(self.pods[pod])}" if pod else "--net"
        return ["nsenter", "-t", str(self.pid), "--mount", net, "--", *command]

    def run(
        self,
        *command: str,
        pod: str | None = None,
        stdin: bytes | str = b"",
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end in the node (or a pod); unless check=False, Failed when it fails."""
        done = subprocess.run(
            self.argv(command, pod=pod),
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            check=False,
            env={"PATH": PATH, "LC_ALL": "C"} if env is None else dict(env),
            timeout=timeout,
        )
        if check and done.returncode:
            raise Failed(f"{' '.join(command)}: {done.stderr.decode()}{done.stdout.decode()}")
        return done

    def sh(self, script: str, *, pod: str | None = None, check: bool = True) -> str:
        """Run a shell script in the node (or a pod) up to its first failing line; its standard output."""
        return self.run("sh", "-ec", script, pod=pod, check=check).stdout.decode()

    def spawn(self, *command: str, pod: str | None = None, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a command in the node (or a pod); it is ended with the node at the latest."""
        child = subprocess.Popen(
            self.argv(command, pod=pod),
            bufsize=0,  # so that select() and readline() agree about what is left to read
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": PATH, "LC_ALL": "C"} if env is None else dict(env),
        )
        self._children.append(child)
        return child

    # -- files --

    def path(self, inside: str | os.PathLike[str]) -> Path:
        """Where the test process finds a file of the node."""
        return Path(f"/proc/{self.pid}/root{os.fspath(inside)}")

    def sysctl(self, name: str, *, pod: str | None = None) -> str:
        """A value below /proc/sys in the node (or a pod); the name has slashes, as net/ipv4/ip_forward."""
        return self.run("cat", f"/proc/sys/{name}", pod=pod).stdout.decode().strip()

    # -- namespaces --

    def pod(self, name: str | None = None) -> str:
        """Make a pod's network namespace, as a runtime does (lo is down); its path inside the node."""
        name = name or f"pod{next(_pod_numbers)}"
        self.run("ip", "netns", "add", name)
        path = f"/run/netns/{name}"
        self.pods[name] = path
        return path

    def remove_pod(self, path: str) -> None:
        """Take the namespace away, as a runtime that lost its pod does, and wait until its links are gone."""
        name = os.path.basename(path)
        links = json.loads(self.run("ip", "-j", "-d", "link", pod=name).stdout or b"[]")
        peers = {link.get("link_index") for link in links if link.get("linkinfo", {}).get("info_kind") == "veth"}
        self.run("ip", "netns", "del", name)
        del self.pods[name]
        until = time.monotonic() + 10  # the kernel takes its time, and does it behind everybody's back
        while self._indexes() & peers:
            if time.monotonic() > until:
                raise Failed(f"links of {name} are still there: does a process hold the namespace?")
            time.sleep(0.005)

    def _indexes(self) -> set[int]:
        """The indexes of the node's links."""
        found = set()
        for file in self.path("/sys/class/net").glob("*/ifindex"):
            with contextlib.suppress(OSError):  # gone between two looks
                found.add(int(file.read_text()))
        return found

    def outside(self) -> str:
        """Make a namespace behind the node's uplink `up0` (the node's default route), for masquerade tests.

        The outside has no route back to pods. Returns its name, to be used as pod= of run() and spawn().
        """
        if OUTSIDE in self.pods:
            return OUTSIDE
        self.pod(OUTSIDE)
        self.sh(f"""
            echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
            ip link add up0 type veth peer name out0 netns {OUTSIDE}
            ip addr add {NODE_V4}/24 dev up0
            ip addr add {NODE_V6}/64 dev up0 nodad
            ip link set up0 up
            ip netns exec {OUTSIDE} sh -ec '
                ip addr add {OUTSIDE_V4}/24 dev out0
                ip addr add {OUTSIDE_V6}/64 dev out0 nodad
                ip link set lo up
                ip link set out0 up'
            ip route add default via {OUTSIDE_V4}
            ip -6 route add default via {OUTSIDE_V6}
            echo 1 >/proc/sys/net/ipv6/conf/default/accept_dad
        """)
        return OUTSIDE

    # -- traffic --

    def pings(self, target: str, *, pod: str | None = None, seconds: float = 4) -> bool:
        """Whether one echo of a few tries to target is answered."""
        until = time.monotonic() + seconds
        while True:
            if not self.run("ping", "-c1", "-W1", "-n", target, pod=pod, check=False).returncode:
                return True
            if time.monotonic() > until:
                return False
