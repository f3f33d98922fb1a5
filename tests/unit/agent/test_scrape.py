"""Where metrics are read: which addresses, who may, and what clients that are slow or hostile can do."""

from __future__ import annotations

import gzip
import http.client
import os
import socket
import stat
import threading
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.parser import text_string_to_metric_families

from agent import scrape
from agent.listen import EARLY, LONGEST_PATH
from agent.scrape import PATIENCE_S, Where, read_address, serve
from tests.unit.test_docs import DOCS, section

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.scrape import Exporter

BAD = {
    "": "not understood",
    "9127": "not understood",
    ":9127": "not understood",
    "127.0.0.1": "not understood",
    "127.0.0.1:": "not understood",
    "127.0.0.1:http": "not understood",
    "127.0.0.1:-1": "not understood",
    "127.0.0.1:65536": "not understood",
    "127.0.0.1:999999999999": "not understood",
    "127.0.0.1:٣": "not understood",
    "0.0.0.0:9127": "not of the loopback",
    "10.0.0.1:9127": "not of the loopback",
    "[::]:9127": "not of the loopback",
    "[fd00::1]:9127": "not of the loopback",
    "[::ffff:127.0.0.1]:9127": "not of the loopback",
    "[fe80::1%lo]:9127": "not of the loopback",
    "[::1%lo]:9127": "not of the loopback",
    "::1:9127": "brackets",
    "[127.0.0.1]:9127": "brackets",
    "example.org:9127": "no address of this machine's loopback",
    "localhost.localdomain:9127": "no address of this machine's loopback",
    "[localhost]:9127": "no address of this machine's loopback",
    "http://127.0.0.1:9127": "no address of this machine's loopback",
    "unix:": "absolute path",
    "unix:metrics.sock": "absolute path",
    "unix:@metrics": "absolute path",
    "unix:/run/podwire/": "absolute path",
    "unix:/run/a\0b": "printable",
    "unix:/run/a\nb": "printable",
    "unix:/run/\udcff": "printable",
    "unix:/" + "x" * 107: "at most 103 bytes",
    "unix:/" + "é" * 60: "at most 103 bytes",
}


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("things", "Things.", registry=made).inc(3)
    return made


@pytest.fixture
def server(tmp_path: Path, registry: CollectorRegistry) -> Iterator[Exporter]:
    made = serve(f"unix:{tmp_path / 'metrics.sock'}", registry)
    yield made
    made.close()


def connected(server: Exporter) -> socket.socket:
    """A client's socket."""
    if server.address.startswith("unix:"):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(server.address.removeprefix("unix:"))
        return client
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), 10)


def asked(
    server: Exporter, path: str = "/metrics", method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, str, bytes]:
    """Status, content type and body of a request."""
    connection = http.client.HTTPConnection("podwire")
    connection.sock = connected(server)
    connection.request(method, path, headers=headers or {})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.getheader("Content-Type", ""), body


def things(body: bytes) -> list[float]:
    return [sample.value for family in text_string_to_metric_families(body.decode()) for sample in family.samples]


# Addresses.


@pytest.mark.parametrize(("address", "said"), BAD.items())
def test_addresses_that_are_refused(address: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        read_address(address)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("unix:/run/podwire/metrics.sock", Where(path="/run/podwire/metrics.sock")),
        ("unix:/" + "x" * 102, Where(path="/" + "x" * 102)),
        ("127.0.0.1:9127", Where(host="127.0.0.1", port=9127)),
        ("127.1.2.3:0", Where(host="127.1.2.3", port=0)),
        ("localhost:65535", Where(host="127.0.0.1", port=65535)),
        ("[::1]:9127", Where(host="[::1]", port=9127)),
        ("[0:0:0:0:0:0:0:1]:9127", Where(host="[::1]", port=9127)),
    ],
)
def test_addresses_that_are_understood(address: str, where: Where) -> None:
    assert read_address(address) == where


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0"])
def test_a_port_of_the_loopback(address: str, registry: CollectorRegistry) -> None:
    server = serve(address, registry)
    try:
        assert server.address.startswith("[::1]:" if "::" in address else "127.0.0.1:") and not server.address.endswith(":0")
        assert things(asked(server)[2]) == [3]
        with pytest.raises(ValueError, match=r"cannot listen for metrics on .*: address already in use"):
            serve(server.address, registry)
    finally:
        server.close()
    with pytest.raises(ConnectionRefusedError):
        connected(server)


# The socket.


def test_the_socket_is_for_its_owner_alone_and_goes(tmp_path: Path, registry: CollectorRegistry) -> None:
    path = tmp_path / "metrics.sock"
    server = serve(f"unix:{path}", registry)
    assert server.address == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_ISSOCK(path.stat().st_mode)
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.sock"]
    server.close()
    assert list(tmp_path.iterdir()) == []


def test_the_longest_path_works(tmp_path: Path, registry: CollectorRegistry) -> None:
    room = LONGEST_PATH - len(EARLY) - len(os.fsencode(tmp_path)) - 1
    server = serve(f"unix:{tmp_path}/{'x' * room}", registry)
    assert things(asked(server)[2]) == [3]
    server.close()


def test_what_a_killed_agent_left_is_replaced(tmp_path: Path, registry: CollectorRegistry) -> None:
    path = tmp_path / "metrics.sock"
    for name in (path, tmp_path / f"metrics.sock{EARLY}"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(name))
    server = serve(f"unix:{path}", registry)
    assert things(asked(server)[2]) == [3]
    server.close()
    assert list(tmp_path.iterdir()) == []


def test_the_socket_of_the_next_agent_stays(tmp_path: Path, registry: CollectorRegistry) -> None:
    """An upgrade may start the new one before the old one has gone."""
    address = f"unix:{tmp_path / 'metrics.sock'}"
    old = serve(address, registry)
    new = serve(address, registry)
    old.close()
    assert things(asked(new)[2]) == [3]
    new.close()
    assert list(tmp_path.iterdir()) == []


def test_a_socket_that_somebody_removed_is_no_failure(tmp_path: Path, registry: CollectorRegistry) -> None:
    server = serve(f"unix:{tmp_path / 'metrics.sock'}", registry)
    (tmp_path / "metrics.sock").unlink()
    server.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, registry: CollectorRegistry) -> None:
    path = tmp_path / "passwords"
    path.write_text("secret")
    with pytest.raises(ValueError, match="is there and is no socket"):
        serve(f"unix:{path}", registry)
    assert path.read_text() == "secret"
    assert [entry.name for entry in tmp_path.iterdir()] == ["passwords"]


def test_a_folder_that_is_missing(tmp_path: Path, registry: CollectorRegistry) -> None:
    """It is made, for root alone: on a node that has just started nobody else may have made it yet."""
    serve(f"unix:{tmp_path}/missing/metrics.sock", registry).close()
    assert stat.S_IMODE((tmp_path / "missing").stat().st_mode) == 0o700
    with pytest.raises(ValueError, match=r"cannot listen for metrics on .*: no such file or directory"):
        serve("unix:/proc/missing/metrics.sock", registry)


def test_failing_leaves_no_thread_and_no_descriptor(tmp_path: Path, registry: CollectorRegistry) -> None:
    (tmp_path / "file").write_text("")
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for address in ("unix:/", f"unix:{tmp_path}/file", "unix:/proc/missing/x", "0.0.0.0:1"):
        with pytest.raises(ValueError, match="metrics"):
            serve(address, registry)
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


# Requests.


def test_a_scrape(server: Exporter) -> None:
    status, kind, body = asked(server)
    assert status == 200 and kind.startswith("text/plain; version=")
    assert things(body) == [3]


def test_a_scrape_as_prometheus_makes_it(server: Exporter) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    status, kind, body = asked(server, headers={"Accept": accept, "Accept-Encoding": "gzip"})
    assert status == 200 and kind.startswith("application/openmetrics-text")
    assert gzip.decompress(body).endswith(b"# EOF\n")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics2", "/favicon.ico", "/../metrics", "/metrics%00"])
def test_there_is_one_page(server: Exporter, path: str) -> None:
    assert asked(server, path)[::2] == (404, b"metrics are at /metrics\n")


def test_only_reading(server: Exporter) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert asked(server, method=method)[0] == 405


def test_some_metrics_by_name(server: Exporter) -> None:
    assert things(asked(server, "/metrics?name[]=things_total")[2]) == [3]
    assert asked(server, "/metrics?name[]=none")[::2] == (200, b"")


@pytest.mark.parametrize(
    "sent",
    [
        b"\n",
        b"garbage\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET " + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 300 + b"\r\n",
        b"GET /metrics HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"\x00\xff" * 500,
        b"",
    ],
)
def test_garbage_harms_nobody(server: Exporter, sent: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with connected(server) as client:
        try:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            while client.recv(1 << 16):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server did not want to read all of it
    assert things(asked(server)[2]) == [3]
    assert capfd.readouterr().err == ""


def test_a_client_that_leaves_is_not_reported(
    server: Exporter, registry: CollectorRegistry, capfd: pytest.CaptureFixture[str]
) -> None:
    wide = Gauge("wide", "Wide.", ["n"], registry=registry)
    for number in range(20_000):
        wide.labels(str(number)).set(1)
    for _ in range(5):
        client = connected(server)
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        client.close()
    assert asked(server)[0] == 200
    assert capfd.readouterr().err == ""


def test_slow_clients_are_cut_off_one_by_one_and_threads_do_not_pile_up(
    server: Exporter, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scrape, "PATIENCE_S", 0.2)
    before = threading.active_count()
    silent = [connected(server) for _ in range(4)]
    began = time.monotonic()
    assert threading.active_count() <= before + 1, "but the one that watches the clock"
    assert things(asked(server)[2]) == [3]
    assert 0.7 < time.monotonic() - began < 5
    for client in silent:
        assert client.recv(1) == b""
        client.close()
    assert capfd.readouterr().err == ""


def test_a_client_that_sends_a_byte_at_a_time_is_cut_off(server: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit for each read alone would never end this."""
    monkeypatch.setattr(scrape, "PATIENCE_S", 0.3)
    began = time.monotonic()
    with connected(server) as client:
        while time.monotonic() - began < 5:
            try:
                client.send(b"x")
            except OSError:
                break
            time.sleep(0.02)
    assert time.monotonic() - began < 3
    assert things(asked(server)[2]) == [3]


def test_a_client_that_does_not_read_is_cut_off(
    server: Exporter, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scrape, "PATIENCE_S", 0.5)
    wide = Gauge("wide", "Wide.", ["n"], registry=registry)
    for number in range(20_000):
        wide.labels(str(number)).set(1)
    with connected(server) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert asked(server, "/metrics?name[]=things_total")[0] == 200
    assert capfd.readouterr().err == ""


def test_closing_ends_the_thread(tmp_path: Path, registry: CollectorRegistry) -> None:
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(3):
        server = serve(f"unix:{tmp_path / 'metrics.sock'}", registry)
        asked(server)
        server.close()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_the_page_tells_how_long() -> None:
    assert f"cut off after {PATIENCE_S:.0f} seconds" in section(DOCS / "agent.md", "Metrics")
