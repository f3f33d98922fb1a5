"""Small programs that send, receive and listen inside a namespace of a node, and how to run them.

Each runs as `python -c` in a process of its own (no test process ever enters a namespace) and prints JSON lines.
"""

from __future__ import annotations

import json
import select
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

    from tests.harness.node import Node

# Answers every datagram with the address it came from.
ECHO_SOURCE = """
import json, socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
print(json.dumps("ready"), flush=True)
while True:
    text, source = s.recvfrom(2000)
    print(json.dumps(source[0]), flush=True)
    s.sendto(source[0].encode(), source)
"""

# Sends one datagram; prints the answer, or null.
ASK = """
import json, socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[3]))
try:
    s.sendto(b"who am I", (sys.argv[1], int(sys.argv[2])))
    print(json.dumps(s.recv(2000).decode()))
except OSError:
    print("null")
"""

# Tells everybody who connects, or sends a datagram, their address. Arguments: address, port, protocol.
SERVE = """
import json, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
kind = socket.SOCK_DGRAM if sys.argv[3] == "udp" else socket.SOCK_STREAM
protocol = {"tcp": 6, "udp": 17, "sctp": 132}[sys.argv[3]]
s = socket.socket(family, kind, protocol)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], int(sys.argv[2])))
if kind == socket.SOCK_STREAM:
    s.listen(50)
print(json.dumps("ready"), flush=True)
while True:
    if kind == socket.SOCK_STREAM:
        client, source = s.accept()
        client.sendall(source[0].encode())
        client.close()
    else:
        text, source = s.recvfrom(2000)
        s.sendto(source[0].encode(), source)
"""

# Connects, or sends a datagram; prints the answer, or null. Arguments: address, port, protocol, seconds[, source port].
CONNECT = """
import json, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
kind = socket.SOCK_DGRAM if sys.argv[3] == "udp" else socket.SOCK_STREAM
protocol = {"tcp": 6, "udp": 17, "sctp": 132}[sys.argv[3]]
s = socket.socket(family, kind, protocol)
s.settimeout(float(sys.argv[4]))
if len(sys.argv) > 5:
    s.bind(("", int(sys.argv[5])))
try:
    s.connect((sys.argv[1], int(sys.argv[2])))
    if kind == socket.SOCK_DGRAM:
        s.send(b"who am I")
    print(json.dumps(s.recv(2000).decode() or None))
except OSError:
    print("null")
"""

# Prints gratuitous ARP and unsolicited neighbour advertisements that arrive on a device.
LISTEN = """
import ipaddress, json, socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((sys.argv[1], 0))
print(json.dumps("ready"), flush=True)
while True:
    frame = s.recv(2000)
    kind, source = frame[12:14], frame[6:12].hex(":")
    if kind == b"\\x08\\x06" and frame[28:32] == frame[38:42]:
        told = {"kind": "arp", "ip": str(ipaddress.ip_address(frame[28:32])), "mac": frame[22:28].hex(":")}
    elif kind == b"\\x86\\xdd" and frame[20] == 58 and frame[54] == 136:
        flags, option = frame[58], frame[78:86]
        told = {"kind": "na", "ip": str(ipaddress.ip_address(frame[62:78])), "override": bool(flags & 0x20)}
        told["solicited"] = bool(flags & 0x40)
        told["mac"] = option[2:8].hex(":") if option[:2] == b"\\x02\\x01" else None
    else:
        continue
    print(json.dumps({**told, "from": source, "to": frame[:6].hex(":")}), flush=True)
"""


def start(node: Node, program: str, *arguments: str, pod: str | None = None) -> subprocess.Popen[bytes]:
    """Start a program that says when it is ready, and wait for that."""
    child = node.spawn(sys.executable, "-I", "-S", "-c", program, *arguments, pod=pod)
    assert read(child, seconds=10) == "ready", "the helper program did not start"
    return child


def read(child: subprocess.Popen[bytes], seconds: float = 0.5) -> Any:
    """The next line that a program prints, None when none comes in time."""
    assert child.stdout
    if not select.select([child.stdout], [], [], seconds)[0]:
        return None
    line = child.stdout.readline()
    return json.loads(line) if line else None


def read_until(child: subprocess.Popen[bytes], wanted: Any, seconds: float = 3) -> list[Any]:
    """Lines until one of them satisfies wanted(line) or the time is up; all lines read."""
    until, found = time.monotonic() + seconds, []
    while (left := until - time.monotonic()) > 0:
        line = read(child, left)
        if line is None:
            break
        found.append(line)
        if wanted(line):
            break
    return found


def reached(
    node: Node,
    target: str,
    port: int,
    protocol: str = "tcp",
    *,
    pod: str | None = None,
    seconds: float = 2,
    source_port: int = 0,
) -> str | None:
    """The address under which a server (SERVE) sees who connects from a pod or the node; None without an answer."""
    words = [target, str(port), protocol, str(seconds), *([str(source_port)] if source_port else [])]
    answer = json.loads(node.run(sys.executable, "-I", "-S", "-c", CONNECT, *words, pod=pod).stdout)
    return None if answer is None else str(answer)


def source_seen_by(node: Node, target: str, *, pod: str, seconds: float = 3) -> str | None:
    """The address under which a server (ECHO_SOURCE, port 5353) sees a datagram of a pod; None without an answer."""
    for _ in range(2):
        done = node.run(sys.executable, "-I", "-S", "-c", ASK, target, "5353", str(seconds / 2), pod=pod)
        answer = json.loads(done.stdout)
        if answer is not None:
            return str(answer)
    return None
