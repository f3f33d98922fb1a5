"""The floor: what the kernel alone takes for the links, addresses and routes of a pod.

One process, sockets that are open already (one of them within the pod's namespace), messages that were packed before the clock
starts. No lease, no configuration, no look at what is there, no packet rule. Nothing that wires pods as `bridge` does can be
faster on the same kernel, so a peer's time by this is how much it adds.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING, Any

from bench.calls import Failed
from bench.cases import FLOOR
from cni.net import messages as m
from cni.net import netns

if TYPE_CHECKING:
    from collections.abc import Sequence

BRIDGE = "floor"
SUBNET = "10.200"
GATEWAY = f"{SUBNET}.0.1"

# The index of the pod's end, and of the host's ends from here on; asking for one saves asking which it is. The kernel regards
# that of the peer only when the other end asks for one too.
_INDEX, _HOST_INDEX = 1_000, 100_000
_GROUP = 4242
_IFF_UP = 0x1
_ERRNO = struct.Struct("=16xi")


class _Channel:
    """A route socket of one namespace."""

    def __init__(self, fd: int | None) -> None:
        self._socket = netns.open_socket(fd, socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))

    def run(self, datagram: bytes, answers: int) -> None:
        """Send prepared messages and take what the kernel says to each."""
        self._socket.send(datagram)
        for _ in range(answers):
            errno = -_ERRNO.unpack_from(self._socket.recv(1 << 16))[0]
            if errno:
                raise Failed(f"the floor's messages were refused: {os.strerror(errno)}")


class _Pod:
    """The messages that wire one pod, and those that take it away, alone or with others."""

    def __init__(self, number: int, path: str, bridge: int) -> None:
        self.inside = _Channel(namespace := netns.open_sandbox(path))
        name = f"floor{number}"
        address = f"{SUBNET}.{number // 250 + 1}.{number % 250 + 1}"
        peer = {"index": _INDEX, "attrs": [["IFLA_IFNAME", "eth0"], ["IFLA_NET_NS_FD", namespace]]}
        veth = [["IFLA_INFO_KIND", "veth"], ["IFLA_INFO_DATA", {"attrs": [["VETH_INFO_PEER", peer]]}]]
        named = [["IFLA_IFNAME", name]]
        up = {"flags": _IFF_UP, "change": _IFF_UP}
        link = [*named, ["IFLA_MASTER", bridge], ["IFLA_LINKINFO", {"attrs": veth}]]
        self.create = _message(m.RTM_NEWLINK, {**up, "index": _HOST_INDEX + number}, link, m.NLM_F_CREATE)
        own = {"family": socket.AF_INET, "prefixlen": 16, "index": _INDEX}
        default = {"family": socket.AF_INET, "table": 254, "proto": 4, "type": 1}
        self.configure = b"".join(
            (
                _message(m.RTM_NEWLINK, {**up, "index": _INDEX}, []),
                _message(m.RTM_NEWADDR, own, [["IFA_LOCAL", address], ["IFA_ADDRESS", address]], m.NLM_F_CREATE),
                _message(m.RTM_NEWROUTE, default, [["RTA_GATEWAY", GATEWAY], ["RTA_OIF", _INDEX]], m.NLM_F_CREATE),
            )
        )
        self.delete = _message(m.RTM_DELLINK, {}, named)
        self.join = _message(m.RTM_SETLINK, {}, [*named, ["IFLA_GROUP", _GROUP]])


class Floor:
    """A lane like a peer's (bench/runner.py), without any plugin."""

    name = FLOOR
    verbs = ("ADD", "DEL")
    leases = 0

    def __init__(self, pods: Sequence[str]) -> None:
        for command in (f"link add {BRIDGE} type bridge", f"addr add {GATEWAY}/16 dev {BRIDGE}", f"link set {BRIDGE} up"):
            subprocess.run(["ip", *command.split()], check=True)
        self._host = _Channel(None)
        index = socket.if_nametoindex(BRIDGE)
        self._pods = [_Pod(number, path, index) for number, path in enumerate(pods)]
        self._delete_group = _message(m.RTM_DELLINK, {}, [["IFLA_GROUP", _GROUP]])

    def once(self, verb: str, number: int = 0) -> float:
        """Seconds of a pod's wiring, or of deleting its veth: mostly the kernel waiting for its own grace periods."""
        pod = self._pods[number]
        began = time.perf_counter()
        if verb == "ADD":
            self._wire(pod)
        else:
            self._host.run(pod.delete, 1)
        return time.perf_counter() - began

    def add_all(self) -> float:
        """Seconds of wiring all pods, one after the other: the kernel has one lock for all of this anyway."""
        began = time.perf_counter()
        for pod in self._pods:
            self._wire(pod)
        return time.perf_counter() - began

    def delete_all(self) -> float:
        """Seconds of deleting all veths by one message, with one wait of the kernel for all."""
        began = time.perf_counter()
        for pod in self._pods:
            self._host.run(pod.join, 1)
        self._host.run(self._delete_group, 1)
        return time.perf_counter() - began

    def _wire(self, pod: _Pod) -> None:
        self._host.run(pod.create, 1)
        pod.inside.run(pod.configure, 3)


def _message(kind: int, fields: dict[str, int], attrs: list[Any], flags: int = 0) -> bytes:
    return m.encode(kind, flags | m.NLM_F_ACK, 1, fields, attrs)
