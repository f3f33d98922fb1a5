"""Calls over the socket: connections, frames, the hand-over to workers, and answers.

One thread accepts connections and reads frames, never waiting for any single client; workers serve the calls. docs/protocol.md
has the sequence and what each side may conclude from it.
"""

from __future__ import annotations

import array
import errno
import os
import selectors
import socket
import struct
import time
from typing import TYPE_CHECKING

from agent import frame
from agent.journal import served
from agent.remote import Remote, sort_descriptors
from cni.dispatch import Reply, answer
from cni.net import netns
from cni.net.host import Doors

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.journal import Journal, Served
    from agent.listen import Listener
    from agent.workers import Workers

# A client sends its frame at once; one that takes longer is stopped, or means harm.
READ_PATIENCE_S = 10.0

# How long a client may take to read an answer, and to print it and say so.
ANSWER_PATIENCE = struct.pack("@ll", 10, 0)

# Why a call is not served: somebody who may not call or sends no call, a client of another release, another host's caller, one
# whose paths may lead elsewhere.
DECLINED = ("refused", "version", "namespace", "mounts")

# How often a log line says that calls are declined which the agent does not serve: each is served without it, only slower.
DECLINED_EVERY_S = 60.0

# Of what a plugin says on stderr, in bytes: another one's, which ours has to repeat, may say anything.
REMARKS_LIMIT = 1 << 20

# What accept says when the agent, or the whole system, has too many open files or too little memory.
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

# Two descriptors belong to a frame; room for more, so that too many are seen as such.
_MOST_DESCRIPTORS = 2
_ROOM = socket.CMSG_SPACE(8 * array.array("i").itemsize)
_CREDENTIALS = struct.Struct("3i")
_CHUNK = 1 << 16


class _Silent(Exception):
    """A client left that had sent nothing: it only looked whether somebody listens."""


class _Connection:
    """A client whose frame has not arrived whole yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pid, self.uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        self.deadline = time.monotonic() + READ_PATIENCE_S
        self.received = time.perf_counter()
        self.watched = False  # by the selector; a call that is there at once need not be
        self.data = bytearray()
        self.descriptors: list[int] = []

    def close(self) -> None:
        """Close the socket and what came along."""
        self.sock.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()

    def read(self) -> bool:
        """Take what has arrived; whether the frame is whole. FrameError, OtherVersion, OSError or _Silent when none will be."""
        while True:
            try:
                data, ancillary, flags, _ = self.sock.recvmsg(_CHUNK, _ROOM, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    passed = array.array("i")
                    passed.frombytes(content[: len(content) - len(content) % passed.itemsize])
                    self.descriptors += passed
            if flags & socket.MSG_CTRUNC or len(self.descriptors) > _MOST_DESCRIPTORS:
                raise frame.FrameError("more descriptors than any call has")
            if not data:
                reason = "the client left in the middle of its frame"
                raise ConnectionResetError(reason) if self.data else _Silent(reason)
            self.data += data
            if len(self.data) >= frame.HEADER_SIZE and self._whole():
                return True

    def _whole(self) -> bool:
        kind, size = frame.read_header(bytes(self.data[: frame.HEADER_SIZE]))
        if kind != frame.CALL:
            raise frame.FrameError(f"a frame of kind {kind} where a call was expected")
        if len(self.data) > frame.HEADER_SIZE + size:
            raise frame.FrameError("bytes after the end of a call")
        return len(self.data) == frame.HEADER_SIZE + size


class Server:
    """Serves the calls that arrive at a listener until ``stop``. ``observers`` are told of every call that was answered;
    ``declined`` counts those that were not served, by reason. Callers of other mount namespaces are served with ``any_mounts``.
    """

    def __init__(self, listener: Listener, workers: Workers, journal: Journal, any_mounts: bool = False) -> None:
        self._listener, self._workers, self._journal = listener, workers, journal
        self.observers: list[Callable[[Served], None]] = [journal.call]
        self.declined = dict.fromkeys(DECLINED, 0)
        self._told_at = dict.fromkeys(DECLINED, -DECLINED_EVERY_S)
        self._doors = Doors()
        self._namespace = netns.own_identity()
        self._mounts = None if any_mounts else _mounts("self")
        self._selector = selectors.DefaultSelector()
        self._reading: dict[_Connection, None] = {}  # those whose frame is not whole, the oldest first
        self._full = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopping = False

    def run(self) -> None:
        """Serve until ``stop``; then the socket is closed, and calls that wait are declined. Those that run may still do."""
        self._selector.register(self._listener.socket, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        while not self._stopping:
            for key, _ in self._selector.select(self._patience()):
                if key.fileobj is self._listener.socket:
                    self._accept()
                elif key.data in self._reading:  # not given up since
                    self._read(key.data)
            self._drop_late()
            self._workers.see_to()
        self._workers.close()
        for connection in list(self._reading):
            self._decline(connection, "the agent is stopping")
        self._listener.close()

    @property
    def waker(self) -> int:
        """A descriptor to which any byte wakes ``run``, for signal.set_wakeup_fd(): a signal that comes just before the thread
        falls asleep would find its Python handler run at the next event only, which may be never.
        """
        return self._wake_write

    def stop(self) -> None:
        """Have ``run`` end; for signal handlers and other threads."""
        self._stopping = True
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:
            pass  # it is awake already

    def _patience(self) -> float | None:
        oldest = next(iter(self._reading), None)
        moments = [moment for moment in (oldest.deadline if oldest else None, self._workers.due()) if moment is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _drop_late(self) -> None:
        now = time.monotonic()
        while (oldest := next(iter(self._reading), None)) is not None and oldest.deadline <= now:
            self._refuse(oldest, "the call did not arrive in time")

    def _accept(self) -> None:
        """Take one connection: where more wait, the selector says so at once. Each system call of this thread after it has
        handed a call over takes the interpreter's lock away from the worker that is to begin.
        """
        try:
            sock, _ = self._listener.socket.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._make_room(f"cannot accept: {error.strerror}")
            return  # or that client has gone
        self._full = False
        connection = _Connection(sock)
        if connection.uid:
            self._refuse(connection, f"calls are root's alone, this one is of user {connection.uid}")
            return
        self._reading[connection] = None
        self._read(connection)

    def _make_room(self, reason: str) -> None:
        """Give up the oldest of those that have not sent their call, which clients do at once; without one, calls will end."""
        oldest = next(iter(self._reading), None)
        if oldest is not None:
            self._refuse(oldest, reason)
            return
        if not self._full:
            self._journal.event("refused", reason=reason)
        self._full = True
        time.sleep(0.01)

    def _read(self, connection: _Connection) -> None:
        try:
            if connection.read():
                self._forget(connection)
                self._queue(connection)
            elif not connection.watched:
                self._selector.register(connection.sock, selectors.EVENT_READ, connection)
                connection.watched = True
        except frame.OtherVersion as error:
            self._leave("version", connection, str(error))
        except (frame.FrameError, OSError) as error:
            self._refuse(connection, str(error))
        except _Silent as error:
            self._decline(connection, str(error))
        except Exception as error:  # a mistake of ours or of memory: it must not end the thread that all calls come through
            self._refuse(connection, f"internal error: {type(error).__name__}: {error}")

    def _queue(self, connection: _Connection) -> None:
        """Hand a whole frame over to the workers."""
        call = frame.decode_call(bytes(connection.data[frame.HEADER_SIZE :]))
        namespace, sandbox = sort_descriptors(call, connection.descriptors)
        if netns.identity(namespace) != self._namespace:
            self._leave("namespace", connection, "the caller is in another network namespace than the agent")
            return
        if self._mounts is not None and _mounts(connection.pid) not in (None, self._mounts):
            self._leave("mounts", connection, "the caller is in another mount namespace than the agent: see --any-mounts")
            return
        # What a delegated plugin starts must not come back here and wait for its own caller.
        env = {**call.env, "PODWIRE_SOCKET": ""}
        key = (env.get("CNI_CONTAINERID"), env.get("CNI_IFNAME")) if env.get("CNI_CONTAINERID") else None

        def job(wanted: bool) -> bool:
            try:
                if wanted:
                    self._serve(connection, call, env, Remote(call, connection.sock, sandbox, self._doors))
                else:
                    _send(connection.sock, frame.encode_declined("the agent is stopping"))
            finally:
                connection.close()
            return netns.own_identity() == self._namespace  # a thread that could not come back from a sandbox is not used again

        self._workers.submit(key, job, computes=env.get("CNI_COMMAND") == "ADD")

    def _serve(self, connection: _Connection, call: frame.Call, env: dict[str, str], caller: Remote) -> None:
        began = time.perf_counter()
        sock = connection.sock
        for patience in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, patience, ANSWER_PATIENCE)
        if not _send(sock, frame.TAKEN_FRAME):
            return  # the client has gone, and nothing was done
        must_print = env.get("CNI_COMMAND") == "ADD"
        sent = 0.0

        def deliver(reply: Reply) -> bool:
            nonlocal sent
            sent = sent or time.perf_counter()
            stderr = reply.stderr.encode("utf-8", "backslashreplace")[:REMARKS_LIMIT]
            try:
                data = frame.encode_answer(frame.Answer(reply.status, reply.stdout, stderr))
            except frame.FrameError:
                return False  # an IPAM plugin's result that is larger than any
            if not _send(sock, data):
                return False
            return not (must_print and reply.status == 0) or _printed(sock)

        reply, _ = answer(call.name, env, call.stdin, deliver, caller)
        connection.close()
        told = served(call.name, env, reply, began - connection.received, sent - connection.received)
        for observer in self.observers:
            observer(told)

    def _refuse(self, connection: _Connection, reason: str) -> None:
        """Decline a call that no client of ours would make, and say so in the log."""
        self.declined["refused"] += 1
        self._journal.event("refused", reason=reason)
        self._decline(connection, reason)

    def _leave(self, kind: str, connection: _Connection, reason: str) -> None:
        """Leave a call to its client, which serves it as well, and say so in the log from time to time."""
        self.declined[kind] += 1
        now = time.monotonic()
        if now - self._told_at[kind] >= DECLINED_EVERY_S:
            self._told_at[kind] = now
            self._journal.event("declined", reason=reason, calls=self.declined[kind])
        self._decline(connection, reason)

    def _forget(self, connection: _Connection) -> None:
        """Read no more of a connection."""
        if connection in self._reading:
            del self._reading[connection]
            if connection.watched:
                self._selector.unregister(connection.sock)

    def _decline(self, connection: _Connection, reason: str) -> None:
        self._forget(connection)
        try:
            connection.sock.send(frame.encode_declined(reason), socket.MSG_DONTWAIT)
        except OSError:
            pass  # it has gone, or reads nothing
        connection.close()


def _mounts(pid: int | str) -> tuple[int, int] | None:
    """The identity of a process's mount namespace; None when it has gone, or is of a pid namespace that we do not see."""
    try:
        seen = os.stat(f"/proc/{pid}/ns/mnt")
    except OSError:
        return None
    return seen.st_dev, seen.st_ino


def _send(sock: socket.socket, data: bytes) -> bool:
    """Whether all of it was sent: it fits into the socket's buffer, or the client reads."""
    try:
        sock.sendall(data)
    except OSError:
        return False
    return True


def _printed(sock: socket.socket) -> bool:
    """Whether the client says that it has printed the answer. One that has not said so in time cannot say so any more: its
    sending fails, and it knows.
    """
    data = _heard(sock, b"")
    if data != frame.PRINTED_FRAME:
        try:
            sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # it has gone
        data = _heard(sock, data)
    return data == frame.PRINTED_FRAME


def _heard(sock: socket.socket, data: bytes) -> bytes:
    """What the client says, up to a header's size and for as long as it may take."""
    try:
        while len(data) < frame.HEADER_SIZE and (more := sock.recv(frame.HEADER_SIZE - len(data))):
            data += more
    except OSError:
        pass
    return data
