"""Which sysctls a node lets network configurations set: a file of patterns, one a line. Pure.

A name as it is configured is allowed where a pattern matches any part of it. There are no comments, and spaces count: a line
means what it means to the reference, whose patterns are RE2's. Python's differ where Unicode digits and letters are concerned
(switched off here), in classes like ``[[:alpha:]]`` (translated), and in what only one of them knows: ``\\pL``, ``\\Q...\\E``,
``\\z`` are refused here; what refers back or looks around is refused there.
"""

from __future__ import annotations

import re

from cni.spec.errors import CNIError, ConfigError

# Not to be moved by a configuration: it is the node's say over configurations.
PATH = "/etc/cni/tuning/allowlist.conf"

_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_CLASS = re.compile(r"\[:(\w+):\]")


def check(names: list[str], raw: bytes | None) -> None:
    """ConfigError for a sysctl that the file does not allow; without a file (None) all are allowed. CNIError where a line of it
    is no pattern: then nobody knows what it was to allow.
    """
    if raw is None:
        return
    patterns = [_compiled(line, number) for number, line in enumerate(_lines(raw), 1) if line]
    for name in names:
        if not any(pattern.search(name) for pattern in patterns):
            raise ConfigError(f"sysctl {name!r} is not allowed on this node", f"no line of {PATH} matches it")


def _lines(raw: bytes) -> list[str]:
    try:
        return raw.decode().split("\n")
    except UnicodeDecodeError as error:
        raise CNIError(f"cannot read {PATH} as text: {error}") from error


def _compiled(line: str, number: int) -> re.Pattern[str]:
    try:
        return re.compile(_CLASS.sub(lambda found: _CLASSES[found[1]], line), re.ASCII)
    except (re.error, KeyError, OverflowError, RecursionError) as error:
        raise CNIError(f"line {number} of {PATH} is no pattern: {error}", "correct the line, or remove it") from error
