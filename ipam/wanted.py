"""What a caller asks for beside the configuration: addresses in ``args.cni``, ``runtimeConfig`` and CNI_ARGS. Pure.

The records are those of the specification's CONVENTIONS.md (``ips``, ``ipRanges``) as both providers read them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import msgspec

from cni.spec.addresses import parse_cidr, parse_ip
from cni.spec.errors import CNIError, ConfigError
from cni.spec.versions import at_least
from ipam.ranges import RangeConf

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.spec.addresses import Cidr, Ip


class CniArgs(msgspec.Struct, frozen=True):
    """``args.cni``; other plugins of a chain find their own keys in it."""

    OPEN: ClassVar[bool] = True
    ips: tuple[str, ...] = ()


class Args(msgspec.Struct, frozen=True):
    """``args``."""

    OPEN: ClassVar[bool] = True
    cni: CniArgs = CniArgs()


class RuntimeConfig(msgspec.Struct, frozen=True):
    """``runtimeConfig``, filled by the runtime for capabilities that the configuration declares."""

    OPEN: ClassVar[bool] = True
    ips: tuple[str, ...] = ()
    ip_ranges: tuple[tuple[RangeConf, ...], ...] = msgspec.field(name="ipRanges", default=())


class Capabilities(msgspec.Struct, frozen=True):
    """``capabilities``: what a runtime is invited to fill in."""

    OPEN: ClassVar[bool] = True
    ip_ranges: bool = msgspec.field(name="ipRanges", default=False)


def read_ip(text: str, where: str, error: type[CNIError] = ConfigError) -> Ip:
    """An address with or without a prefix length, which is ignored. ``error`` names ``where`` a bad text came from."""
    try:
        return parse_ip(str(parse_cidr(text).ip) if "/" in text else text)
    except ValueError as cause:
        raise error(f"invalid {where}: invalid IP address {text}", str(cause)) from cause


def read_cidr(text: str, where: str, error: type[CNIError] = ConfigError) -> Cidr:
    """An address with its prefix length. ``error`` names ``where`` a bad text came from."""
    try:
        return parse_cidr(text)
    except ValueError as cause:
        raise error(f"invalid {where}: invalid CIDR address {text}", f"expected address/length: {cause}") from cause


def one_of_each_family(families: Iterable[int], version: str) -> None:
    """ConfigError when there are two addresses of one family (4 or 6) for a version whose result has room for one."""
    asked = list(families)
    if len(asked) > len(set(asked)) and not at_least(version, "0.3.0"):
        raise ConfigError(
            f"CNI version {version} does not support more than 1 address per family",
            "use cniVersion 0.3.0 or newer, or configure one IPv4 and one IPv6 at most",
        )
