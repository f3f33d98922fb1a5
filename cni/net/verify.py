"""CHECK's questions that every interface-making plugin asks: is what prevResult promises still there? Pure.

Additions are tolerated, for chained plugins make them: more addresses, more routes, routes moved to another table (sbr, vrf).
The reference looks at the main table only and at the presence of a connected route, which fails for /32 and for such chains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from cni.net.configure import routes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.net.facts import Link, RouteSeen
    from cni.spec.addresses import Cidr
    from cni.spec.result import Interface, Result, Route


def interface(prev: Result, ifname: str) -> Interface | None:
    """prevResult's entry for an interface of the sandbox."""
    return next((entry for entry in prev.interfaces if entry.name == ifname and entry.sandbox), None)


def own(prev: Result, ifname: str) -> Result:
    """prevResult with the addresses of this interface only: those on others are a later plugin's business."""
    return msgspec.structs.replace(prev, ips=tuple(ip for ip in prev.ips if _is_of(prev, ip.interface, ifname)))


def link(seen: Link | None, ifname: str, kind: str, wanted: Interface | None, mtu: int = 0) -> list[str]:
    """Problems of the sandbox's link: gone, of another kind, down, another hardware address, a larger MTU.

    A smaller MTU is what a later plugin (tuning) sets without telling it in the result.
    """
    if seen is None:
        return [f"interface {ifname} is gone from the sandbox"]
    problems = []
    if seen.kind != kind:
        problems.append(f"interface {ifname} is of kind {seen.kind or 'unknown'!r}, expected {kind!r}")
    if not seen.up:
        problems.append(f"interface {ifname} is down")
    if wanted is not None and wanted.mac and wanted.mac.lower() != seen.mac:
        problems.append(f"interface {ifname} has MAC address {seen.mac}, ADD gave it {wanted.mac.lower()}")
    expected_mtu = (wanted.mtu if wanted is not None else 0) or mtu
    if expected_mtu and seen.mtu > expected_mtu:
        problems.append(f"interface {ifname} has MTU {seen.mtu}, ADD gave it {expected_mtu}")
    return problems


def addresses(prev: Result, ifname: str, seen: Iterable[Cidr]) -> list[str]:
    """Addresses of prevResult that are gone."""
    present = set(seen)
    return [f"address {ip.address} is gone from interface {ifname}" for ip in prev.ips if ip.address not in present]


def route_problems(prev: Result, ifname: str, seen: Iterable[RouteSeen]) -> list[str]:
    """Routes of prevResult that no table has through this interface."""
    present = list(seen)
    return [
        f"route {route.dst}{f' via {route.gw}' if route.gw is not None else ''} through {ifname} is gone"
        for route in routes(prev)
        if not any(_same(route, candidate) for candidate in present)
    ]


def _same(wanted: Route, seen: RouteSeen) -> bool:
    return seen.dst.network == wanted.dst.network and (wanted.gw is None or seen.gw == wanted.gw)


def _is_of(prev: Result, index: int | None, ifname: str) -> bool:
    return index is None or (0 <= index < len(prev.interfaces) and prev.interfaces[index].name == ifname)
