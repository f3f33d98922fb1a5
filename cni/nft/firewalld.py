"""The door to firewalld: three of its methods, over the system's message bus. Nothing else in the project talks D-Bus.

A host without a system bus is told from the missing socket; one without firewalld costs a connection and two exchanges,
0.3 ms. The bus's place is fixed: what a caller's environment says about another one does not count.
"""

from __future__ import annotations

import os
from contextlib import suppress
from socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

from cni.nft import dbus
from cni.spec.errors import CNIError, TryAgain

SOCKET = "/run/dbus/system_bus_socket"

NAME = "org.fedoraproject.FirewallD1"
PATH = "/org/fedoraproject/FirewallD1"
ZONES = f"{NAME}.zone"

_BUS = "org.freedesktop.DBus"

# Patience with the bus, and with firewalld when it has only to say what it knows; and with changes, which it answers when its
# rules are written: a busy one takes seconds.
ANSWER_S, CHANGE_S = 5.0, 30.0


class FirewalldError(CNIError):
    """firewalld refused a call; ``details`` is its own text."""


class Firewalld:
    """firewalld of this host. The connection is made when it is first needed, for one call."""

    def __init__(self, place: str = SOCKET) -> None:
        self._place = place
        self._socket: socket | None = None
        self._number = 0
        self._rest = b""
        self._running: bool | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
        self._socket = None

    def running(self) -> bool:
        """Whether there is a firewalld. A socket that nobody serves has none; TryAgain for a bus that is busy or broken, for
        then nobody knows: rules beside those of a firewalld would let nobody through.
        """
        if self._running is None:
            try:
                self._running = self._ask(_BUS, "/", _BUS, "NameHasOwner", NAME) is True
            except _Nobody:
                self._running = False
            except _Refused as error:
                raise TryAgain("the system's bus does not tell whether firewalld runs", str(error)) from error
        return self._running

    def add_source(self, zone: str, source: str) -> bool:
        """Let a zone hold for packets from ``source``; False when it does already."""
        return self._change("addSource", zone, source, ("ZONE_ALREADY_SET",), f"put source {source} into zone {zone}")

    def remove_source(self, zone: str, source: str) -> bool:
        """The opposite; False when the zone does not, though another may."""
        done = ("UNKNOWN_SOURCE", "ZONE_CONFLICT")
        return self._change("removeSource", zone, source, done, f"take source {source} from zone {zone}")

    def has_source(self, zone: str, source: str) -> bool:
        """Whether a zone holds for packets from ``source``."""
        try:
            return self._ask(NAME, PATH, ZONES, "querySource", zone, source) is True
        except _Refused as error:
            raise FirewalldError(f"firewalld cannot tell whether source {source} is in zone {zone}", str(error)) from error

    def _change(self, member: str, zone: str, source: str, done: tuple[str, ...], what: str) -> bool:
        try:
            self._ask(NAME, PATH, ZONES, member, zone, source, patience=CHANGE_S)
        except _Refused as error:
            if any(word in str(error) for word in done):
                return False
            raise FirewalldError(f"firewalld cannot {what}", str(error)) from error
        return True

    def _ask(
        self, destination: str, path: str, interface: str, member: str, *arguments: str, patience: float = ANSWER_S
    ) -> str | bool | None:
        """One call; _Refused when it is answered with an error, _Nobody where no bus is, TryAgain without an answer."""
        try:
            if self._socket is None:
                self._socket = self._open()
            self._socket.settimeout(patience)
            return self._exchange(destination, path, interface, member, *arguments)
        except (OSError, ValueError) as error:
            self.close()
            kind = _Nobody if isinstance(error, (FileNotFoundError, ConnectionRefusedError)) else TryAgain
            raise kind(f"cannot talk to firewalld over {self._place}", str(error)) from error

    def _exchange(self, destination: str, path: str, interface: str, member: str, *arguments: str) -> str | bool | None:
        assert self._socket is not None
        self._number += 1
        self._socket.sendall(dbus.call(self._number, destination, path, interface, member, *arguments))
        while True:
            answer = dbus.read(self._message())
            if answer is None or answer.number != self._number:
                continue  # a signal to everybody
            if answer.error:
                raise _Refused(f"{answer.error}: {answer.value}")
            return answer.value

    def _open(self) -> socket:
        """Connect and say who we are: by the user id, which the kernel vouches for."""
        self._rest = b""
        found = self._socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        found.settimeout(ANSWER_S)
        found.connect(self._place)
        found.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
        while b"\r\n" not in self._rest:
            self._receive()
        line, _, self._rest = self._rest.partition(b"\r\n")
        if not line.startswith(b"OK "):
            raise ValueError(f"the bus says {line.decode(errors='replace')}")
        found.sendall(b"BEGIN\r\n")
        try:
            self._exchange(_BUS, "/org/freedesktop/DBus", _BUS, "Hello")
        except _Refused as error:
            raise ValueError(f"the bus lets nobody in: {error}") from error
        return found

    def _message(self) -> bytes:
        """The next whole message."""
        while not (size := dbus.size(self._rest)) or len(self._rest) < size:
            self._receive()
        message, self._rest = self._rest[:size], self._rest[size:]
        return message

    def _receive(self) -> None:
        assert self._socket is not None
        data = self._socket.recv(1 << 16)
        if not data or len(self._rest) > dbus.LONGEST:
            raise ValueError("the bus has closed the connection")
        self._rest += data


class _Nobody(FirewalldError):
    """No bus is there."""


class _Refused(Exception):
    """A call was answered with an error."""
