"""Where metrics are read: an HTTP server on a socket in a folder, or on a port of the loopback.

``serve`` answers ``GET /metrics`` from one thread of its own, one client at a time and each for a bounded time: a scrape comes
every few seconds, and nobody who asks may cost the calls of pods anything. Import this module, like ``agent.metrics`` that
knows what is counted, only when somebody wants metrics.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from ipaddress import ip_address
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import msgspec
from prometheus_client import make_wsgi_app

from agent.listen import check_path, leave_path, take_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import CollectorRegistry

# A whole scrape, from the first byte of the question to the last of the answer. Both ends are on one machine.
PATIENCE_S = 2.0

# How long the thread sleeps when nobody asks; neither a client nor the end is waited for so long.
IDLE_S = 3600.0

# What `serve` takes, for messages.
FORMS = "use unix:/PATH, 127.0.0.1:PORT, [::1]:PORT or localhost:PORT"


class Where(msgspec.Struct, frozen=True):
    """An address to listen on: a path, or a host (an address of the loopback, as a person writes it) and a port."""

    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def family(self) -> int:
        return socket.AF_UNIX if self.path else socket.AF_INET6 if self.host.startswith("[") else socket.AF_INET

    @property
    def target(self) -> str | tuple[str, int]:
        return self.path or (self.host.strip("[]"), self.port)


def read_address(address: str) -> Where:
    """Understand ``unix:/path``, ``127.0.0.1:PORT``, ``[::1]:PORT`` and ``localhost:PORT``. ValueError says what is wrong."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        try:
            check_path(path)
        except ValueError as error:
            raise ValueError(f"metrics address {address!r}: {error}") from None
        return Where(path=path)
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise ValueError(f"metrics address {address!r} is not understood: {FORMS}")
    literal = "127.0.0.1" if host == "localhost" else host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ip = ip_address(literal)
    except ValueError:
        raise ValueError(f"metrics address {address!r}: {host!r} is no address of this machine's loopback: {FORMS}") from None
    if host.startswith("[") != (ip.version == 6):
        raise ValueError(f"metrics address {address!r} is not understood, because of its brackets: {FORMS}")
    if not ip.is_loopback or "%" in literal:
        raise ValueError(f"metrics address {address!r} is not of the loopback, and whoever reaches it could read it: {FORMS}")
    return Where(host=f"[{ip}]" if ip.version == 6 else str(ip), port=int(port))


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is not worth a line."""


class Exporter(WSGIServer):
    """Answers scrapes one at a time from a daemon thread; ``serve`` makes it. A client that takes longer than `PATIENCE_S`
    for question and answer is cut off, so none can keep the next one waiting for longer.
    """

    def __init__(self, where: Where) -> None:
        self.address_family = where.family
        self._where = where
        self._inode: tuple[int, int] | None = None
        super().__init__(where.target, _Handler)  # type: ignore[arg-type]  # a path, too, is an address of a socket
        self._thread = threading.Thread(target=self.serve_forever, args=(IDLE_S,), name="metrics", daemon=True)

    @property
    def address(self) -> str:
        """Where it listens, in the words of ``serve``, with the port that the kernel chose where 0 was asked for."""
        return f"unix:{self._where.path}" if self._where.path else f"{self._where.host}:{self.server_port}"

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer nothing any more. The socket's file goes, unless it is another agent's by now."""
        if self._thread.is_alive():
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
            self.shutdown()
            self._thread.join()
        self.server_close()
        leave_path(self._where.path, self._inode)

    def server_bind(self) -> None:
        """Bind, and say who we are to WSGI. HTTPServer would ask the resolver for that, which can take long."""
        if self._where.path:
            self._inode = take_path(self.socket, self._where.path, self.request_queue_size)
            self.server_port = 0
        else:
            TCPServer.server_bind(self)
            self.server_port = self.socket.getsockname()[1]
        self.server_name = "localhost"
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            connection, peer = self.socket.accept()
        except OSError:
            time.sleep(0.1)  # no descriptor is left, and the client stays in the queue: this loop must not spin
            raise
        return connection, peer or ("local", 0)  # a client's socket in a folder has no name

    def process_request(self, request: Any, client_address: Any) -> None:
        late = threading.Timer(PATIENCE_S, _cut_off, (request,))
        late.daemon = True
        late.start()
        try:
            super().process_request(request, client_address)
        finally:
            late.cancel()
            late.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that broke off is its own affair."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _cut_off(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has gone by itself


def serve(address: str, registry: CollectorRegistry) -> Exporter:
    """Answer ``GET /metrics`` on an address, one of those that `read_address` knows, until ``close``.

    A socket has mode 0600 and replaces one that an agent before left there. ValueError says in words why it cannot be.
    """
    where = read_address(address)
    try:
        server = Exporter(where)
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
        raise ValueError(f"cannot listen for metrics on {address!r}: {reason}") from error
    server.set_app(_only_metrics(make_wsgi_app(registry)))
    server.start()
    return server


def _only_metrics(app: Any) -> Any:
    """A WSGI application that gives one page to another, and has no more."""

    def answer(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            told: Iterable[bytes] = app(environ, start_response)
            return told
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"metrics are at /metrics\n"]

    return answer
