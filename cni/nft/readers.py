"""What is read of packet rules, as those who decide see it: the doors' methods for reading, and no others."""

from __future__ import annotations

from typing import Any, Protocol


class NftReader(Protocol):
    """What is read through ``cni.nft.apply``."""

    def query(self, text: str) -> list[dict[str, Any]]: ...
    def sets(self, family: str, lately: bool = False) -> list[dict[str, Any]]: ...
    def chain(self, where: str, lately: bool = False) -> list[dict[str, Any]]: ...
    def available(self) -> str: ...


class IptablesReader(Protocol):
    """What is read through ``cni.nft.iptables``."""

    def save(self, v6: bool, legacy: bool = False, table: str = "nat") -> str: ...
    def legacy(self, v6: bool, table: str = "nat") -> bool: ...
    def available(self, table: str = "nat", families: tuple[bool, ...] = (False, True)) -> str: ...


class FirewalldReader(Protocol):
    """What is read through ``cni.nft.firewalld``."""

    def running(self) -> bool: ...
    def has_source(self, zone: str, source: str) -> bool: ...


class RuleReaders(Protocol):
    """The doors that rules are read through, as the host of a call has them (``cni.net.host.Host``)."""

    @property
    def nft(self) -> NftReader: ...
    @property
    def iptables(self) -> IptablesReader: ...
    @property
    def firewalld(self) -> FirewalldReader: ...
