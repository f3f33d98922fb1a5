"""The address types that configurations and results share, and how text becomes one of them.

``Ip`` is one address, ``Cidr`` an address with its prefix length that keeps its host bits (``10.1.2.3/24`` stays so, as
Go's ``net.IPNet`` does), ``Mac`` a 48-bit hardware address in lower-case colon form. At run time ``Ip`` and ``Cidr`` are
abstract names for the classes of the standard library, so that msgspec can decode a field of either family.
"""

from __future__ import annotations

from abc import ABC
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Ip = IPv4Address | IPv6Address
    Cidr = IPv4Interface | IPv6Interface
else:

    class Ip(ABC):  # noqa: B024
        """One IPv4 or IPv6 address."""

    class Cidr(ABC):  # noqa: B024
        """An address with its prefix length."""

    for _class in (IPv4Address, IPv6Address):
        Ip.register(_class)
    for _class in (IPv4Interface, IPv6Interface):
        Cidr.register(_class)


class Mac(str):
    """A 48-bit hardware address as ``aa:bb:cc:dd:ee:ff``."""


@lru_cache(1024)
def parse_ip(text: str) -> Ip:
    """Text as one address; ValueError says what is wrong. Zones are refused; ``::ffff:1.2.3.4`` is IPv4, as in Go."""
    if ":" not in text:
        return IPv4Address(text)
    if "%" in text:
        raise ValueError(f"{text!r} carries a zone, expected a plain address")
    address = IPv6Address(text)
    return address.ipv4_mapped or address


@lru_cache(1024)
def parse_cidr(text: str) -> Cidr:
    """``address/length`` as an interface object; ValueError unless the length is there and a number.

    ``::ffff:1.2.3.4/120`` is 1.2.3.4/24, as in Go; below a length of 96 there is no such thing.
    """
    head, slash, length = text.partition("/")
    if not slash or not (length.isascii() and length.isdigit()):
        raise ValueError(f"{text!r} is not address/length")
    if "%" in head:
        raise ValueError(f"{text!r} carries a zone, expected a plain address")
    if ":" not in head:
        return IPv4Interface(text)
    interface = IPv6Interface(text)
    if interface.ip.ipv4_mapped is None:
        return interface
    if int(length) < 96:
        raise ValueError(f"{text!r} is an IPv4 address in IPv6 notation, whose length is at least 96")
    return IPv4Interface((interface.ip.ipv4_mapped, int(length) - 96))


def single(address: Ip) -> Cidr:
    """An address with the length of one address alone: /32 or /128."""
    return parse_cidr(f"{address}/{address.max_prefixlen}")


def parse_mac(text: str) -> Mac:
    """A 48-bit address in colon, dash or dot form, normalised; ValueError otherwise."""
    digits = text.replace(".", "") if "." in text else text.replace("-", ":").replace(":", "")
    groups = {".": (4, 14), "-": (2, 17), ":": (2, 17)}.get(next((c for c in text if c in ".-:"), ""), (0, 0))
    well_formed = len(text) == groups[1] and all(
        len(part) == groups[0] for part in text.replace("-", ":").replace(".", ":").split(":")
    )
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        raw = b""
    if not well_formed or len(raw) != 6:
        raise ValueError(f"{text!r} is not a 48-bit hardware address such as 02:00:00:00:00:01")
    if raw[0] & 1:
        raise ValueError(f"{text!r} is a multicast address, an interface cannot have it")
    if raw == bytes(6):
        raise ValueError(f"{text!r} is no address, an interface cannot have it")
    return Mac(":".join(f"{byte:02x}" for byte in raw))


_PARSERS: dict[Any, Any] = {Ip: parse_ip, Cidr: parse_cidr, Mac: parse_mac}


def decode_address(kind: Any, value: Any) -> Any:
    """msgspec's ``dec_hook`` for the three types; ValueError becomes msgspec's error with the path of the field."""
    if not isinstance(value, str):
        raise ValueError(f"Expected `str`, got `{type(value).__name__}`")
    return _PARSERS[kind](value)


def is_v6(address: Ip | Cidr) -> bool:
    """Whether an address is IPv6."""
    return address.version == 6
