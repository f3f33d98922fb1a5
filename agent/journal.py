"""What the agent says of itself: one line for each call and each event, on stderr, where journald reads it.

A line is logfmt (``key=value``), or JSON with the same keys. ``served`` puts a call together, ``line`` and ``json_line`` are
pure, and ``Journal`` writes. Nothing that a caller sent can break a line: what is no plain text is escaped, what is long is
cut. Nothing here decides what becomes of a call, and a failure to write is no failure of the call.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

import msgspec

from cni.spec.result import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from cni.dispatch import Reply

Value = str | int | float
Fields = list[tuple[str, Value]]

# Of a line in the journal: its priority in syslog's numbers, by which `journalctl -p` chooses. Least urgent first.
LEVELS = {"info": 6, "warning": 4, "error": 3}

# What the agent tells beside calls, and how urgent that is.
EVENTS = {
    "listening": "info",
    "stopping": "info",
    "stopped": "info",
    "replaced": "warning",
    "declined": "warning",
    "refused": "warning",
}

# How `cni.dispatch` begins the message of a mistake of ours.
INTERNAL = "internal error: "

# In characters. A trace of our own mistake should fit into the notes, and a line into the 48 KiB at which journald splits it,
# whatever its characters: a printable one is up to 4 bytes, an escape up to 12.
NAME_LIMIT, TEXT_LIMIT = 128, 4000

# How many lines may wait for a reader, and how long the end waits for one.
BACKLOG = 4096
CLOSE_PATIENCE_S = 1.0

# A pipe that can be written takes so many bytes without waiting (PIPE_BUF); sockets and terminals do too.
AT_ONCE = 4096

# How often it is seen that the journal was closed, while nobody reads.
WATCH_MS = 1000

# In logfmt these need no quotes: visible ASCII but `"`, `=` and `\`.
_BARE = re.compile(r"[!#-<>-\[\]-~]+")


class Served(msgspec.Struct, frozen=True):
    """A call that has been answered, as log and metrics need it. Times are seconds; ``total_s`` includes ``wait_s``, the time
    in the queue. Phases lie in what is left.
    """

    plugin: str
    verb: str
    network: str = ""
    container: str = ""
    ifname: str = ""
    code: int = 0
    addresses: tuple[str, ...] = ()
    total_s: float = 0.0
    wait_s: float = 0.0
    phases: tuple[tuple[str, float], ...] = ()
    repairs: tuple[str, ...] = ()
    msg: str = ""
    notes: str = ""


class _Failure(msgspec.Struct, frozen=True):
    msg: str = ""
    details: str = ""


def served(plugin: str, env: Mapping[str, str], reply: Reply, wait_s: float, total_s: float) -> Served:
    """The record of a call from what it was and what was answered."""
    return Served(
        plugin=plugin,
        verb=env.get("CNI_COMMAND", ""),
        network=reply.network,
        container=env.get("CNI_CONTAINERID", ""),
        ifname=env.get("CNI_IFNAME", ""),
        code=reply.code,
        addresses=reply.addresses,
        total_s=total_s,
        wait_s=wait_s,
        phases=reply.phases,
        repairs=reply.repairs,
        msg=_message(reply.stdout) if reply.code else "",
        notes=reply.stderr.rstrip("\n"),
    )


def _message(stdout: bytes) -> str:
    """The message and the details of an error object (spec section 5, "Error"); empty when that is none."""
    try:
        failure = msgspec.json.decode(stdout, type=_Failure)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return f"{failure.msg}: {failure.details}" if failure.details else failure.msg


def level_of(call: Served) -> str:
    """A call that succeeded is info, one that failed or whose caller never knew a warning; an error is what is ours to mend."""
    if not call.code:
        return "warning" if "unheard_add" in call.repairs else "info"
    return "error" if call.msg.startswith(INTERNAL) else "warning"


def fields_of(call: Served) -> Fields:
    """Keys and values of a call's line, in their order; those that would be empty are left out. Times are milliseconds."""
    found: Fields = [("level", level_of(call)), ("plugin", call.plugin[:NAME_LIMIT]), ("verb", call.verb[:NAME_LIMIT])]
    if call.network:
        found.append(("network", call.network[:NAME_LIMIT]))
    if call.container:
        found.append(("container", call.container[:NAME_LIMIT]))
    if call.ifname:
        found.append(("ifname", call.ifname[:NAME_LIMIT]))
    found.append(("code", call.code))
    if call.addresses:
        found.append(("addresses", _cut(",".join(call.addresses))))
    found.append(("ms", call.total_s * 1000))
    found.append(("wait_ms", call.wait_s * 1000))
    found += [(f"{phase}_ms", seconds * 1000) for phase, seconds in call.phases]
    if call.code:
        found.append(("msg", _cut(call.msg)))
    if call.repairs:
        found.append(("repairs", ",".join(f"{kind}:{count}" for kind, count in Counter(call.repairs).items())))
    if call.notes:
        found.append(("notes", _cut(call.notes)))
    return found


def _cut(text: str) -> str:
    """A text of bounded length: its beginning and its end. One that is full of escapes may be an eighth as long."""
    told = _ends(text, TEXT_LIMIT)
    if not told.isprintable() and sum(not c.isprintable() for c in told) > TEXT_LIMIT // 8:
        told = _ends(text, TEXT_LIMIT // 8)
    return told


def _ends(text: str, limit: int) -> str:
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} ... {len(text) - 2 * half} more ... {text[-half:]}"


def line(fields: Iterable[tuple[str, Value]]) -> str:
    """The logfmt line of some fields, without its end. Escapes within quotes are those of JSON, as logfmt's readers expect."""
    return " ".join([f"{key}={_value(value)}" for key, value in fields])


def _value(value: Value) -> str:
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) else _quoted(value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _quoted(text: str) -> str:
    told = text.replace("\\", "\\\\").replace('"', '\\"')
    if not told.isprintable():
        told = "".join([c if c.isprintable() else _escape(c) for c in told])
    return f'"{told}"'


def _escape(character: str) -> str:
    """JSON's escape of a character that must not stand in a line: controls, separators, direction marks, lone surrogates."""
    short = _SHORT.get(character)
    if short:
        return short
    point = ord(character)
    if point < 0x10000:
        return f"\\u{point:04x}"
    return f"\\u{0xD7C0 + (point >> 10):04x}\\u{0xDC00 + (point & 0x3FF):04x}"


_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def json_line(fields: Iterable[tuple[str, Value]]) -> str:
    """The same as one JSON object. Characters that JSON would take and a terminal would obey are written as escapes."""
    plain = {key: _plain(value) for key, value in fields}
    return msgspec.json.encode(plain).decode()


def _plain(value: Value) -> Value:
    if isinstance(value, str):
        return printable(value)
    return round(value, 3) if isinstance(value, float) else value


FORMATS: dict[str, Callable[[Iterable[tuple[str, Value]]], str]] = {"logfmt": line, "json": json_line}


def to_journald(env: Mapping[str, str], fd: int = 2) -> bool:
    """Whether a descriptor is the stream that systemd made, which stamps each line with the time itself.

    JOURNAL_STREAM names its device and inode (systemd.exec(5)); a descriptor that was redirected since is another.
    """
    try:
        seen = os.fstat(fd)
    except OSError:
        return False
    return env.get("JOURNAL_STREAM") == f"{seen.st_dev}:{seen.st_ino}"


class Journal:
    """Writes lines to a descriptor, at once and in their order, and never waits for a reader: pods do not wait for a log.
    Lines that do not fit stay in a backlog until they do; what is beyond it, or cannot be written, is counted in ``lost``.

    ``level`` is the least urgent that is written. Outside of journald a line begins with the time; inside with the priority
    that journald takes off (sd-daemon(3)). The descriptor is a copy, so that one closed and used again for
    something else later is never written to.
    """

    def __init__(self, form: str = "logfmt", level: str = "info", fd: int = 2, env: Mapping[str, str] | None = None) -> None:
        self._format = FORMATS[form]
        self._least = LEVELS[level]
        self._stamped = not to_journald(os.environ if env is None else env, fd)
        self.lost = 0
        self._lock = threading.Lock()
        self._backlog: deque[bytes] = deque()
        self._poll = select.poll()
        try:
            self._fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            self._poll.register(self._fd, select.POLLOUT)
        except OSError:
            self._fd = -1

    def call(self, served: Served) -> None:
        """Write the line of a call."""
        level = level_of(served)
        if LEVELS[level] <= self._least:
            self._tell(level, fields_of(served))

    def event(self, name: str, **more: Value) -> None:
        """Write the line of an event of `EVENTS`, with some fields of its own."""
        level = EVENTS[name]
        if LEVELS[level] <= self._least:
            told = [(key, _cut(value) if isinstance(value, str) else value) for key, value in more.items()]
            self._tell(level, [("level", level), ("event", name), *told])

    def close(self, patience_s: float = CLOSE_PATIENCE_S) -> None:
        """Write nothing any more, once the backlog is written or ``patience_s`` is over."""
        deadline = time.monotonic() + patience_s
        while self._backlog and time.monotonic() < deadline:
            time.sleep(0.01)
        with self._lock:
            self._backlog.clear()
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _tell(self, level: str, fields: Fields) -> None:
        if self._stamped:
            text = self._format([("time", rfc3339(time.time_ns())), *fields])
        else:
            text = f"<{LEVELS[level]}>{self._format(fields)}"
        with self._lock:
            if self._fd < 0 or len(self._backlog) >= BACKLOG:
                self.lost += 1
                return
            idle = not self._backlog
            self._backlog.append(text.encode() + b"\n")
            self._write_on()
            if idle and self._backlog:
                self._wait_elsewhere()

    def _write_on(self) -> None:
        """Write of the backlog what can be written without waiting."""
        while self._backlog and self._fd >= 0 and self._poll.poll(0):
            piece = self._backlog[0][:AT_ONCE]
            try:
                rest = self._backlog[0][os.write(self._fd, piece) :]
            except BlockingIOError:
                return  # a descriptor that does not wait, and has less room
            except OSError:
                rest = b""  # nobody reads: what is done for pods goes on
                self.lost += 1
            if rest:
                self._backlog[0] = rest
            else:
                self._backlog.popleft()

    def _wait_elsewhere(self) -> None:
        try:
            threading.Thread(target=self._wait, name="journal", daemon=True).start()
        except RuntimeError:
            pass  # the system has no more threads; the next line takes the backlog along

    def _wait(self) -> None:
        """Write the backlog when somebody reads again."""
        room = select.poll()
        room.register(self._fd, select.POLLOUT)
        while self._backlog and self._fd >= 0:
            room.poll(WATCH_MS)
            with self._lock:
                self._write_on()


def rfc3339(nanoseconds: int) -> str:
    """A time since the epoch as RFC 3339, UTC, with microseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1000:06d}Z"
