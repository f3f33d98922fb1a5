"""The frame between the native client (shim/shim.c) and the agent, as bytes. docs/protocol.md has its layout and the sequence.

Pure: no socket, no descriptor, no clock. Whoever owns the socket reads HEADER_SIZE bytes, asks ``read_header`` what they are
and how long the body is, reads the body, and decodes it. Every doubt is a FrameError: nothing is guessed, and nothing may
follow what was announced. The client judges by the same rules, on the same cases (tests/data/frame).
"""

from __future__ import annotations

from struct import Struct, error

import msgspec

MAGIC = b"PDWR"
VERSION = 1

# Kinds of frames, by who sends them.
CALL = 1  # client: one plugin call
TAKEN = 2  # agent: a worker begins with it; nothing was done before
ANSWER = 3  # agent: what the client shall print
DECLINED = 4  # agent: nothing was and nothing will be done; the body is the reason, for people
PRINTED = 5  # client: a successful answer reached stdout

STDIN_LIMIT = 1 << 20

# The largest body of each kind, in bytes. A kernel hands at most 6 MiB of environment to a program, usually 2.
LIMITS = {CALL: 4 << 20, TAKEN: 0, ANSWER: 16 << 20, DECLINED: 4096, PRINTED: 0}

# What `Call.sandbox` is where it is no errno.
ATTACHED = 0
NO_SANDBOX = -1

_HEADER = Struct("<4sBBHI")
_CALL = Struct("<iI")
_SIZE = Struct("<I")

HEADER_SIZE = _HEADER.size

_pack_size = _SIZE.pack
_size_at = _SIZE.unpack_from


class FrameError(ValueError):
    """Bytes that are no frame, or no frame of this kind; or values that none can carry. The message is one line."""


class OtherVersion(FrameError):
    """A header of another version of the frame. Such a call is declined: its client then runs the one-shot program."""

    def __init__(self, version: int) -> None:
        super().__init__(f"frame version {version}, this is version {VERSION}")


class Call(msgspec.Struct, frozen=True):
    """One plugin call as the client saw it.

    ``sandbox`` is ATTACHED when a descriptor of CNI_NETNS came along, NO_SANDBOX when CNI_NETNS is not set or empty, else the
    errno of the open that failed. ``env`` holds what ``os.environ`` of a process with this environment would.
    """

    name: str
    folder: str
    sandbox: int
    env: dict[str, str]
    stdin: bytes


class Answer(msgspec.Struct, frozen=True):
    """The exit status, and what goes to stdout and stderr."""

    status: int
    stdout: bytes = b""
    stderr: bytes = b""


def header(kind: int, size: int = 0) -> bytes:
    """The 12 bytes before a body of ``size`` bytes. FrameError when such a body is too large for its kind."""
    if size > LIMITS[kind]:
        raise FrameError(f"a body of {size} bytes, at most {LIMITS[kind]} fit into a frame of kind {kind}")
    return _HEADER.pack(MAGIC, VERSION, kind, 0, size)


def read_header(data: bytes) -> tuple[int, int]:
    """Kind and size of the body, from exactly HEADER_SIZE bytes. OtherVersion for one of another version, else FrameError."""
    if len(data) != HEADER_SIZE:
        raise FrameError(f"a header of {len(data)} bytes instead of {HEADER_SIZE}")
    magic, version, kind, zero, size = _HEADER.unpack(data)
    if magic != MAGIC:
        raise FrameError(f"a frame begins with {MAGIC!r}, not with {magic!r}")
    if version != VERSION:
        raise OtherVersion(version)
    if kind not in LIMITS:
        raise FrameError(f"no frame is of kind {kind}")
    if zero:
        raise FrameError(f"the header's reserved bytes are {zero:#06x} instead of zero")
    if size > LIMITS[kind]:
        raise FrameError(f"a body of {size} bytes, a frame of kind {kind} has at most {LIMITS[kind]}")
    return kind, size


TAKEN_FRAME = header(TAKEN)
PRINTED_FRAME = header(PRINTED)


def encode_call(call: Call) -> bytes:
    """The whole frame of a call, as the client would send it. FrameError when it is too large."""
    if len(call.stdin) > STDIN_LIMIT:
        raise FrameError(f"{len(call.stdin)} bytes of stdin, the limit is {STDIN_LIMIT}")
    entries = [f"{key}={value}" for key, value in call.env.items()]
    strings = [text.encode("utf-8", "surrogateescape") for text in (call.name, call.folder, *entries)]
    parts = [_CALL.pack(call.sandbox, len(entries))]
    for string in (*strings, call.stdin):
        parts += _pack_size(len(string)), string
    body = b"".join(parts)
    return header(CALL, len(body)) + body


def decode_call(body: bytes) -> Call:
    """The call in a body; FrameError when it is cut short, goes on after its end, or holds what no process can.

    The environment is read as a process reads its own: of two entries of one name the first counts, an entry without ``=`` is
    passed over, bytes that are no UTF-8 become surrogates.
    """
    try:
        sandbox, count = _CALL.unpack_from(body)
        at = _CALL.size
        texts = []
        for _ in range(count + 2):
            begin = at + 4
            at = begin + _size_at(body, at)[0]
            texts.append(body[begin:at].decode("utf-8", "surrogateescape"))
        begin = at + 4
        at = begin + _size_at(body, at)[0]
    except error:
        raise FrameError(f"a call's body of {len(body)} bytes ends too early") from None
    if at != len(body):
        raise FrameError(f"a call's body has {len(body)} bytes and announces {at}")
    if at - begin > STDIN_LIMIT:
        raise FrameError(f"{at - begin} bytes of stdin, the limit is {STDIN_LIMIT}")
    if sandbox < NO_SANDBOX:
        raise FrameError(f"{sandbox} is no errno of CNI_NETNS")
    if "\0" in "".join(texts):
        raise FrameError("a zero byte in a name, a folder or an environment")
    env: dict[str, str] = {}
    for entry in texts[2:]:
        key, equals, value = entry.partition("=")
        if equals and key not in env:
            env[key] = value
    return Call(texts[0], texts[1], sandbox, env, body[begin:at])


def encode_answer(answer: Answer) -> bytes:
    """The whole frame of an answer. FrameError when it is too large, or the status is none of a process."""
    if not 0 <= answer.status <= 255:
        raise FrameError(f"{answer.status} is no exit status")
    stdout, stderr = answer.stdout, answer.stderr
    body = b"".join((bytes((answer.status,)), _pack_size(len(stdout)), stdout, _pack_size(len(stderr)), stderr))
    return header(ANSWER, len(body)) + body


def decode_answer(body: bytes) -> Answer:
    """The answer in a body; FrameError when it is cut short or goes on after its end."""
    try:
        begin = 5
        middle = begin + _size_at(body, 1)[0]
        end = middle + 4 + _size_at(body, middle)[0]
    except error:
        raise FrameError(f"an answer's body of {len(body)} bytes ends too early") from None
    if end != len(body):
        raise FrameError(f"an answer's body has {len(body)} bytes and announces {end}")
    return Answer(body[0], body[begin:middle], body[middle + 4 :])


def encode_declined(reason: str) -> bytes:
    """The whole frame that declines a call; a reason that is too long is cut."""
    cut = reason.encode("utf-8", "backslashreplace")[: LIMITS[DECLINED]].decode("utf-8", "ignore").encode()
    return header(DECLINED, len(cut)) + cut


def decode_declined(body: bytes) -> str:
    """The reason; what is no UTF-8 in it is replaced, because it is for people alone."""
    return body.decode("utf-8", "replace")
