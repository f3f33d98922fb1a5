"""CNI specification versions: which are supported, how they compare, which verb begins with which."""

from __future__ import annotations

from cni.spec.errors import DecodeError, VersionError

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
LATEST = SUPPORTED[-1]

# A configuration without cniVersion is read as 0.1.0, the version that had no such key (libcni does the same).
DEFAULT = "0.1.0"

VERB_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}


def parse(text: str) -> tuple[int, int, int]:
    """``a[.b[.c]]`` as three integers; DecodeError for anything else."""
    parts = text.split(".")
    if len(parts) > 3 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise DecodeError(f"cniVersion {text!r} is not a version: expected up to three numbers, such as 1.0.0")
    numbers = [int(part) for part in parts] + [0, 0]
    return numbers[0], numbers[1], numbers[2]


def at_least(version: str, floor: str) -> bool:
    """Whether ``version`` is ``floor`` or newer."""
    return parse(version) >= parse(floor)


def require(verb: str, version: str) -> None:
    """Raise VersionError unless this suite serves ``verb`` for a configuration of ``version``.

    Order and wording follow the reference's skel (reference plugins, pkg/skel): first the verb's own threshold, then
    membership in the list of supported versions.
    """
    if verb in VERB_SINCE and not at_least(version, VERB_SINCE[verb]):
        raise VersionError(
            f"config version does not allow {verb}",
            f'{verb} needs cniVersion {VERB_SINCE[verb]} or newer, the configuration is "{version}"',
        )
    if version not in SUPPORTED:
        supported = " ".join(f'"{known}"' for known in SUPPORTED)
        raise VersionError("incompatible CNI versions", f'config is "{version}", plugin supports [{supported}]')
