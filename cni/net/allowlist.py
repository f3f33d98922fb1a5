"""Which sysctls a node lets network configurations set: a file of patterns, one a line. Pure.

A name as it is configured is allowed where a pattern matches any part of it. There are no comments, and spaces count: a line
means what it means to the reference, whose patterns are RE2's. Python's differ where Unicode digits and letters are concerned
(switched off here), in classes like ``[[:alpha:]]`` and ``[[:^alpha:]]`` and ``{,5}``, which is text to RE2 (translated), and
in what only one of them knows: ``\\pL``, ``\\Q...\\E``, ``\\z`` are refused here; what refers back or looks around, there.
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

# What the two read differently: a class in brackets, and braces that count nothing for RE2. A "[" that is left has no end.
_PART = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*+\]|\[|\{(?=,\d*\})", re.ASCII)
# Within brackets: a class's name, and what Python is to keep for other meanings, with a warning.
_INSIDE = re.compile(r"\\.|\[:(\^?)(\w+):\]|[\[&~|]", re.ASCII)


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
        return re.compile(_PART.sub(lambda found: _part(found[0]), line), re.ASCII)
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        told = "correct the line, or remove it"
        raise CNIError(f"line {number} of {PATH}, {line!r}, is no pattern: {error}", told) from error


def _part(part: str) -> str:
    """A part of a pattern in Python's words."""
    if part == "[":
        raise re.error("a [ without its ]")
    if part == "{":
        return r"\{"
    return f"[{_INSIDE.sub(_within, part[1:-1])}]" if part.startswith("[") else part


def _within(found: re.Match[str]) -> str:
    """What stands in brackets, in Python's words. A class is a range for each character: what follows it begins none.

    RE2 ``[[:^digit:]]`` has every character beyond ASCII, too.
    """
    negated, name = found.groups()
    if name is None:
        return found[0] if found[0].startswith("\\") else "\\" + found[0]
    if name not in _CLASSES:
        raise re.error(f"there is no class {found[0]}")
    members = re.compile(f"[{_CLASSES[name]}]")
    ranges = [f"\\x{code:02x}-\\x{code:02x}" for code in range(128) if bool(members.match(chr(code))) != bool(negated)]
    return "".join(ranges) + ("\\x80-\U0010ffff" if negated else "")
