"""A client that says what a test wants it to say, byte by byte; the descriptors of its choice come along."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any

from agent import frame
from tests.harness.agent import SOCKET
from tests.harness.node import PATH

if TYPE_CHECKING:
    from tests.harness.agent import Agent
    from tests.harness.node import Node

TOO_LONG_S = 30


class Peer:
    """A connection to the agent of a node, from outside of it: the socket's file is what counts."""

    def __init__(self, node: Node, agent: Agent | None = None) -> None:
        self.node = node
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TOO_LONG_S)
        try:
            self.socket.connect(str(node.path(agent.socket if agent else SOCKET)))
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes, *paths: str | int) -> None:
        """Send bytes, the first of them with descriptors of these files (a number: a descriptor itself)."""
        opened = [os.open(path, os.O_RDONLY | os.O_NONBLOCK) for path in paths if isinstance(path, str)]
        fresh = iter(opened)
        descriptors = [path if isinstance(path, int) else next(fresh) for path in paths]
        try:
            sent = socket.send_fds(self.socket, [data], descriptors) if descriptors else 0
            if sent < len(data):
                self.socket.sendall(data[sent:])
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def call(self, data: bytes) -> None:
        """Send a frame as a client in the node would: its namespace comes along."""
        self.send(data, self.own_namespace)

    def ask(self, verb: str, config: dict[str, Any], plugin: str = "bridge", *, netns: str, **more: str) -> None:
        """Send a call with a sandbox, a path in the node, as a client in the node would; see ``request``."""
        self.send(request(verb, config, plugin, netns=netns, **more), self.own_namespace, str(self.node.path(netns)))

    @property
    def own_namespace(self) -> str:
        return f"/proc/{self.node.pid}/ns/net"

    def read(self) -> tuple[int, bytes] | None:
        """The next frame's kind and body, None where the agent hung up."""
        header = self._read(frame.HEADER_SIZE)
        if not header:
            return None
        kind, size = frame.read_header(header)
        return kind, self._read(size)

    def reads(self, *kinds: int) -> bytes:
        """Assert that frames of these kinds come next; the body of the last."""
        body = b""
        for kind in kinds:
            found = self.read()
            assert found is not None and found[0] == kind, f"expected a frame of kind {kind}, got {found}"
            body = found[1]
        return body

    def declined(self) -> str:
        """Assert that the agent declines and hangs up; its reason."""
        reason = frame.decode_declined(self.reads(frame.DECLINED))
        assert self.gone()
        return reason

    def answer(self) -> frame.Answer:
        """Assert that the call is taken and answered."""
        return frame.decode_answer(self.reads(frame.TAKEN, frame.ANSWER))

    def gone(self) -> bool:
        """Whether the agent has hung up, with nothing more to read."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                more = self.socket.recv(size - len(data))
            except ConnectionResetError:
                more = b""
            if not more:
                break
            data += more
        return data


def request(
    verb: str,
    config: dict[str, Any],
    plugin: str = "bridge",
    *,
    netns: str = "",
    container_id: str = "c0ffee",
    path: str = "/nowhere",
    **more: str,
) -> bytes:
    """The whole frame of a call; with ``netns`` it announces the sandbox's descriptor."""
    env = {"PATH": PATH, "CNI_COMMAND": verb, "CNI_CONTAINERID": container_id, "CNI_IFNAME": "eth0", "CNI_PATH": path}
    env |= {"CNI_NETNS": netns} if netns else {}
    sandbox = frame.ATTACHED if netns else frame.NO_SANDBOX
    return frame.encode_call(frame.Call(plugin, "/", sandbox, {**env, **more}, json.dumps(config).encode()))


def status_request(**config: Any) -> bytes:
    """A call that any agent answers with success and that changes nothing."""
    return request("STATUS", {"cniVersion": "1.1.0", "name": "net", "type": "loopback", **config}, "loopback")
