"""Names and values of sysctls as people write them: which path below /proc/sys a name means, which values are equal. Pure."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

from cni.spec.errors import ConfigError

# What stands for the name of the attachment's interface.
IFNAME = "IFNAME"

# No name is as long; a pattern of the allow list never has to work through more.
LONGEST = 256

# As many ports as there are; what names more numbers is no list of ports.
_PORTS = 65536


def path(name: str, ifname: str) -> str:
    """The path of a sysctl of the network, ``net/...``, from its name; ConfigError for one that is anything else.

    As sysctl(8) has it, ``.`` separates and ``/`` stands for a dot if the first of the two is ``.``; else ``/`` separates. The
    first IFNAME is replaced after that, so the dots of an interface's name are no separators (P PR#540).
    """
    first = next((character for character in name if character in "./"), "")
    spelled = name.translate(_SWAPPED) if first == "." else name
    found = spelled.replace(IFNAME, ifname, 1)
    parts = found.split("/")
    if len(name) > LONGEST or not name.isprintable() or any(part in ("", ".", "..") for part in parts):
        raise ConfigError(f"sysctl {name!r} is no name", "expected one like net.ipv4.conf.IFNAME.arp_filter")
    if parts[0] != "net" or len(parts) < 2:
        raise ConfigError(f"sysctl {name!r} is not of the network", "only those below net can be set for a pod")
    return found


def same(one: str, other: str) -> bool:
    """Whether two values are the same to the kernel: fields between whatever white space, numbers in whatever base, lists of
    ports in whatever order, IPv6 addresses however they are shortened.
    """
    ours, theirs = one.split(), other.split()
    return len(ours) == len(theirs) and all(map(_same_field, ours, theirs))


def _same_field(one: str, other: str) -> bool:
    if one == other:
        return True
    ports, address = _ports(one), _address(one)
    return (ports is not None and ports == _ports(other)) or (address is not None and address == _address(other))


def _address(field: str) -> IPv6Address | None:
    """An IPv6 address (``stable_secret``); None for what is none."""
    try:
        return IPv6Address(field)
    except ValueError:
        return None


def _number(text: str) -> int:
    """A number as the kernel reads it: ``0x`` makes it hexadecimal, a leading ``0`` octal. ValueError for what the kernel
    refuses.
    """
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise ValueError(text)
    sign, sixteen, eight, ten = found.groups(default="")
    return int(sign + (sixteen or eight or ten), 16 if sixteen else 8 if eight else 10)


def _ports(field: str) -> frozenset[int] | None:
    """The numbers of ``80,1000-1002``; None for what is no such list."""
    found: set[int] = set()
    for part in field.split(","):
        low, dash, high = part.partition("-") if not part.startswith("-") else (part, "", "")
        try:
            begin, end = _number(low), _number(high) if dash else _number(low)
        except ValueError:
            return None
        if end - begin >= _PORTS:
            return None
        found.update(range(begin, end + 1))
    return frozenset(found)


_NUMBER = re.compile(r"(-?)(?:0x([0-9a-f]+)|(0[0-7]*)|([1-9][0-9]*))", re.IGNORECASE | re.ASCII)
_SWAPPED = str.maketrans("./", "/.")
