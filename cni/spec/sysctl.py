"""Names and values of sysctls as people write them: which path below /proc/sys a name means, which values are equal. Pure."""

from __future__ import annotations

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
    """Whether two values are the same to the kernel: fields between whatever white space, numbers however they are written,
    lists of ports in whatever order.
    """
    ours, theirs = one.split(), other.split()
    return len(ours) == len(theirs) and all(map(_same_field, ours, theirs))


def _same_field(one: str, other: str) -> bool:
    return one == other or ((ports := _ports(one)) is not None and ports == _ports(other))


def _ports(field: str) -> frozenset[int] | None:
    """The numbers of ``80,1000-1002``; None for what is no such list."""
    found: set[int] = set()
    for part in field.split(","):
        low, dash, high = part.partition("-") if not part.startswith("-") else (part, "", "")
        try:
            begin, end = int(low), int(high) if dash else int(low)
        except ValueError:
            return None
        if end - begin >= _PORTS:
            return None
        found.update(range(begin, end + 1))
    return frozenset(found)


_SWAPPED = str.maketrans("./", "/.")
