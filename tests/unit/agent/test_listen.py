"""The socket: its folder and its permissions, taking over, systemd's, and what must not be replaced."""

from __future__ import annotations

import os
import socket
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from agent import listen

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "own" / "cni.sock")


def greets(path: str) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


def test_socket_and_folder_are_their_owners_alone(path: str) -> None:
    """Also under an open umask."""
    before = os.umask(0)
    try:
        listener = listen.listen(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    assert sorted(os.listdir(os.path.dirname(path))) == ["cni.sock"]
    assert not listener.socket.getblocking() and not os.get_inheritable(listener.socket.fileno())
    listener.close()


def test_close_takes_the_path_away(path: str) -> None:
    listener = listen.listen(path)
    assert greets(path)
    listener.close()
    assert not os.path.lexists(path)
    assert os.listdir(os.path.dirname(path)) == []


def test_what_a_killed_agent_left_is_replaced(path: str) -> None:
    os.makedirs(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as never_named:
        never_named.bind(path + listen.EARLY)
        listener = listen.listen(path)
    assert os.listdir(os.path.dirname(path)) == ["cni.sock"] and greets(path)
    listener.close()


def test_a_stale_socket_is_replaced(path: str) -> None:
    """What an agent that was killed leaves behind."""
    os.makedirs(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    assert not greets(path)
    listener = listen.listen(path)
    assert greets(path)
    listener.close()


def test_a_second_one_takes_over_without_a_gap(path: str) -> None:
    """Clients always find somebody; the first one, when it ends, leaves the path alone."""
    first = listen.listen(path)
    gaps, stop = [], threading.Event()

    def knock() -> None:
        while not stop.is_set():
            if not greets(path):
                gaps.append("nobody")

    client = threading.Thread(target=knock)
    client.start()
    for _ in range(50):
        second = listen.listen(path)
        first.close()
        first = second
    stop.set()
    client.join(20)
    assert gaps == []
    assert greets(path)
    first.close()
    assert not os.path.lexists(path)


@pytest.mark.parametrize("kind", ["file", "folder", "link to a file", "fifo"])
def test_what_is_no_socket_stays(path: str, kind: str) -> None:
    """Nothing else that has the path is ever removed."""
    os.makedirs(os.path.dirname(path))
    if kind == "folder":
        os.mkdir(path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "file":
        with open(path, "w") as file:
            file.write("kept")
    else:
        os.symlink("/etc/hostname", path)
    before = os.lstat(path)[:7]  # not its times: to follow a link is to read it
    with pytest.raises(ValueError, match="is there and is no socket"):
        listen.listen(path)
    assert os.lstat(path)[:7] == before
    assert os.listdir(os.path.dirname(path)) == ["cni.sock"]


@pytest.mark.parametrize("bad", ["/proc/nowhere/cni.sock", "/dev/null/cni.sock"])
def test_where_no_folder_can_be(bad: str) -> None:
    with pytest.raises(OSError):
        listen.listen(bad)


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    """The kernel takes 107 bytes; nothing is left behind."""
    room = listen.LONGEST_PATH - len(listen.EARLY) - len(os.fsencode(tmp_path)) - len("//sock")
    listen.listen(str(tmp_path / ("x" * room) / "sock")).close()
    with pytest.raises(ValueError, match="path too long: a socket's has at most 103 bytes"):
        listen.listen(str(tmp_path / ("y" * (room + 1)) / "sock"))
    assert os.listdir(tmp_path) == ["x" * room]


@pytest.mark.parametrize("path", ["cni.sock", "./cni.sock", "run/cni.sock", "", "/run/", "/run/a\nb.sock"])
def test_a_path_that_is_none(path: str) -> None:
    """Relative ones too: to whose folder, the agent's or the client's?"""
    with pytest.raises(ValueError, match="a socket needs an absolute path of printable characters, not "):
        listen.listen(path)


@pytest.mark.parametrize(("mode", "fits"), [(0o755, True), (0o775, False), (0o757, False), (0o1777, True)])
def test_a_folder_that_others_may_write(path: str, mode: int, fits: bool) -> None:
    """They could put a socket of their own there, but for a folder with the sticky bit."""
    folder = os.path.dirname(path)
    os.mkdir(folder)
    os.chmod(folder, mode)
    if fits:
        listen.listen(path).close()
        return
    with pytest.raises(ValueError, match=f"chmod go-w {folder}"):
        listen.listen(path)
    assert os.listdir(folder) == []


@pytest.mark.root
def test_a_folder_of_somebody_else(path: str) -> None:
    os.mkdir(os.path.dirname(path))
    os.chown(os.path.dirname(path), 65534, 65534)
    with pytest.raises(ValueError, match="is user 65534's, who could replace the socket"):
        listen.listen(path)


def test_it_tells_whether_somebody_listened_there(path: str) -> None:
    with listen.listen(path).socket as first:
        second = listen.listen(path)
        assert second.replaced
        first.close()
    second.close()
    third = listen.listen(path)
    assert not third.replaced
    third.close()


# -- systemd's --


def in_child(env: dict[str, str], prepare: socket.socket | None) -> str:
    """What ``passed`` says in a process whose third descriptor is this socket; ``LISTEN_PID=own`` is its own pid."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            if prepare is None:
                os.closerange(3, 4)
            elif prepare.fileno() != 3:
                os.dup2(prepare.fileno(), 3)
            given = {key: str(os.getpid()) if value == "own" else value for key, value in env.items()}
            try:
                listener = listen.passed(given)
                said = "None" if listener is None else f"{listener.path} {os.get_inheritable(3)}"
                if listener is not None:
                    listener.close()
            except (ValueError, OSError) as error:
                said = f"{type(error).__name__}: {error}"
            left = " ".join(sorted(given))
            os.write(writing, f"{said} [{left}]".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


SYSTEMD = {"LISTEN_PID": "own", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "cni", "PATH": "/bin"}


def test_a_socket_that_systemd_hands_over(path: str) -> None:
    """It is systemd's: when we end the path stays. Its variables are nobody else's business."""
    os.makedirs(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        assert in_child(SYSTEMD, sock) == f"{path} False [PATH]"
        assert greets(path)


def test_variables_meant_for_another_process() -> None:
    assert in_child({**SYSTEMD, "LISTEN_PID": "1"}, None) == "None [PATH]"
    assert in_child({"PATH": "/bin"}, None) == "None [PATH]"


def test_what_systemd_must_not_hand_over(path: str) -> None:
    """Several sockets, one that does not listen, one of another kind."""
    os.makedirs(os.path.dirname(path))
    assert "handed over 2 sockets, expected 1" in in_child({**SYSTEMD, "LISTEN_FDS": "2"}, None)
    with socket.socket(socket.AF_UNIX) as quiet, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as letters:
        quiet.bind(path)
        letters.bind(f"{path}.other")
        for wrong in (quiet, letters):
            assert "is no listening unix stream socket" in in_child(SYSTEMD, wrong)
    with socket.socket() as internet:
        internet.bind(("127.0.0.1", 0))
        internet.listen()
        assert "is no listening unix stream socket" in in_child(SYSTEMD, internet)


def test_notify(path: str) -> None:
    """A line to the socket that systemd named, in the file system or in the abstract names; silence without."""
    os.makedirs(os.path.dirname(path))
    for address in (path, f"@podwire-test-{os.getpid()}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind("\0" + address[1:] if address.startswith("@") else address)
            manager.settimeout(5)
            listen.notify("READY=1", address)
            assert manager.recv(100) == b"READY=1"
    listen.notify("READY=1", None)
    listen.notify("READY=1", f"{path}.nobody")
