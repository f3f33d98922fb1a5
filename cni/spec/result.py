"""Results of ADD: one record inside the suite, rendered and read per specification version.

Rendering gives the bytes of the reference (Go's encoding/json): four spaces, no trailing newline, ``<``, ``>``, ``&`` escaped;
keys sorted for 1.x, in the order of the Go structs before. Where the reference prints a shape that contradicts the version
(loopback does), the version wins.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from cni.spec import versions
from cni.spec.addresses import Cidr, Ip, is_v6
from cni.spec.conf import Dns, convert
from cni.spec.errors import ConfigError

# A route's scope when its destination is on the link itself (rtnetlink's RT_SCOPE_LINK).
SCOPE_LINK = 253

Uint8 = Annotated[int, Meta(ge=0, le=0xFF)]
Uint32 = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """An interface of the attachment; ``sandbox`` is empty for one on the host."""

    name: str = ""
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""
    socket_path: str = msgspec.field(name="socketPath", default="")
    pci_id: str = msgspec.field(name="pciID", default="")


class AssignedIp(msgspec.Struct, frozen=True):
    """An address, its gateway, and the index of its interface in the result's list."""

    address: Cidr
    gateway: Ip | None = None
    interface: int | None = None


class Route(msgspec.Struct, frozen=True):
    """A route of the sandbox (spec section 5, "Success"): zero and None mean "not set"."""

    dst: Annotated[Cidr, Meta(description="Destination, such as 10.0.0.0/8; 0.0.0.0/0 and ::/0 are everything.")]
    gw: Annotated[Ip | None, Meta(description="Next hop; by default the gateway of the address.")] = None
    mtu: Annotated[Uint32, Meta(description="MTU along the route; 0 leaves the interface's.")] = 0
    advmss: Annotated[Uint32, Meta(description="TCP segment size to advertise; 0 is the kernel's choice.")] = 0
    priority: Annotated[Uint32, Meta(description="Metric: of equal routes the lowest is used.")] = 0
    table: Annotated[Uint32 | None, Meta(description="Number of the routing table; by default the main one.")] = None
    scope: Annotated[Uint8 | None, Meta(description="0 is global, 253 is link; by default what fits the next hop.")] = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What an ADD made. Lists keep their order."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[AssignedIp, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()


# Which result versions a configuration of each family accepts in prevResult (libcni's version.NewResult).
_FAMILIES = (("0.1.0", "0.2.0"), ("0.3.0", "0.3.1", "0.4.0"), ("1.0.0", "1.1.0"))


def family(version: str) -> tuple[str, ...]:
    """The versions that share ``version``'s result format; ConfigError for an unknown one."""
    for versions_of in _FAMILIES:
        if version in versions_of:
            return versions_of
    raise ConfigError(f"unsupported CNI result version {version!r}")


def to_json(value: Any, indent: int = 4) -> bytes:
    """A document as Go's encoding/json prints it: indented, HTML characters escaped, no newline at the end."""
    encoded = msgspec.json.encode(value)
    text = msgspec.json.format(encoded, indent=indent) if indent else encoded
    for character, escape in (
        (b"<", b"\\u003c"),
        (b">", b"\\u003e"),
        (b"&", b"\\u0026"),
        ("\u2028".encode(), b"\\u2028"),
        ("\u2029".encode(), b"\\u2029"),
    ):
        if character in text:
            text = text.replace(character, escape)
    return text


def render(result: Result, version: str) -> bytes:
    """The result's JSON for a configuration of ``version``."""
    if version in _FAMILIES[0]:
        return to_json(_as_020(result, version))
    if version in _FAMILIES[1]:
        return to_json(_as_040(result, version))
    return to_json(_sorted(_as_100(result, version)))


def read_result(document: Any, config_version: str, where: str) -> Result:
    """A prevResult or a delegate's answer as a Result; ConfigError when its version or shape is wrong.

    A missing ``cniVersion`` is the configuration's (libcni does the same for delegates; sbr of the reference does not).
    """
    if not isinstance(document, dict):
        raise ConfigError(f"invalid {where}: expected an object, got {type(document).__name__}")
    version = document.get("cniVersion") or config_version
    if not isinstance(version, str):
        raise ConfigError(f"invalid {where}.cniVersion: expected a string, got {type(version).__name__}")
    if version not in family(config_version):
        raise ConfigError(
            f"{where} has cniVersion {version!r}, which a configuration of cniVersion {config_version!r} cannot carry"
        )
    if version in _FAMILIES[0]:
        return _from_020(convert(document, _Result020, where))
    return convert(document, Result, where)


class _Ip020(msgspec.Struct, frozen=True):
    ip: Cidr
    gateway: Ip | None = None
    routes: tuple[Route, ...] = ()


class _Result020(msgspec.Struct, frozen=True):
    ip4: _Ip020 | None = None
    ip6: _Ip020 | None = None
    dns: Dns = Dns()


def _from_020(old: _Result020) -> Result:
    sections = [section for section in (old.ip4, old.ip6) if section is not None]
    return Result(
        ips=tuple(AssignedIp(section.ip, section.gateway) for section in sections),
        routes=tuple(route for section in sections for route in section.routes),
        dns=old.dns,
    )


def _as_020(result: Result, version: str) -> dict[str, Any]:
    """The first address of each family with that family's routes; interfaces did not exist yet.

    Without any address the document is just a version and ``dns``: legal in 0.2.0, where the reference fails after the work.
    """
    document: dict[str, Any] = {"cniVersion": version}
    for key, v6 in (("ip4", False), ("ip6", True)):
        first = next((ip for ip in result.ips if is_v6(ip.address) is v6), None)
        if first is None:
            continue
        section: dict[str, Any] = {"ip": str(first.address)}
        if first.gateway is not None:
            section["gateway"] = str(first.gateway)
        routes = [_set({"dst": str(r.dst), "gw": _text(r.gw)}) for r in result.routes if is_v6(r.dst) is v6]
        if routes:
            section["routes"] = routes
        document[key] = section
    document["dns"] = result.dns
    return document


def _as_040(result: Result, version: str) -> dict[str, Any]:
    document: dict[str, Any] = {"cniVersion": version}
    if result.interfaces:
        document["interfaces"] = [
            {"name": link.name, **_set({"mac": link.mac, "sandbox": link.sandbox})} for link in result.interfaces
        ]
    if result.ips:
        document["ips"] = [
            {
                "version": str(ip.address.version),
                **({} if ip.interface is None else {"interface": ip.interface}),
                "address": str(ip.address),
                **_set({"gateway": _text(ip.gateway)}),
            }
            for ip in result.ips
        ]
    if result.routes:
        document["routes"] = [_route(route) for route in result.routes]
    document["dns"] = result.dns
    return document


def _as_100(result: Result, version: str) -> dict[str, Any]:
    interfaces = [
        {
            "name": link.name,
            **_set(
                {
                    "mac": link.mac,
                    "mtu": link.mtu,
                    "sandbox": link.sandbox,
                    "socketPath": link.socket_path,
                    "pciID": link.pci_id,
                }
            ),
        }
        for link in result.interfaces
    ]
    ips = [
        {
            "address": str(ip.address),
            **_set({"gateway": _text(ip.gateway)}),
            **({} if ip.interface is None else {"interface": ip.interface}),
        }
        for ip in result.ips
    ]
    dns = msgspec.to_builtins(result.dns)
    lists = _set({"interfaces": interfaces, "ips": ips, "routes": [_route(route) for route in result.routes], "dns": dns})
    return {"cniVersion": version, **lists}


def _route(route: Route) -> dict[str, Any]:
    optional = _set({"gw": _text(route.gw), "mtu": route.mtu, "advmss": route.advmss, "priority": route.priority})
    explicit = {key: value for key, value in (("table", route.table), ("scope", route.scope)) if value is not None}
    return {"dst": str(route.dst), **optional, **explicit}


def _text(address: Ip | None) -> str:
    return "" if address is None else str(address)


def _set(fields: dict[str, Any]) -> dict[str, Any]:
    """Only the fields that have a value: Go's omitempty."""
    return {key: value for key, value in fields.items() if value}


def _sorted(value: Any) -> Any:
    """The document with sorted keys at every level, as Go prints maps."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def version_document(asked: str) -> bytes:
    """The answer to VERSION, one compact line. It echoes the version on stdin (spec section 3); the reference does not."""
    return to_json({"cniVersion": asked or versions.LATEST, "supportedVersions": versions.SUPPORTED}, indent=0) + b"\n"


def error_document(version: str, code: int, msg: str, details: str) -> bytes:
    """The error object (spec section 5); ``cniVersion`` is there as the specification says, the reference omits it.

    ``msg`` is made one line. Both may quote what a caller sent: nothing in them moves a cursor.
    """
    document: dict[str, Any] = {"cniVersion": version, "code": code, "msg": printable(msg, "")}
    return to_json(document | _set({"details": printable(details)}))


def printable(text: str, allowed: str = "\n\t") -> str:
    """Text for people: control characters and bytes that are no UTF-8 are written as escapes, but for those ``allowed``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in allowed else c.encode("unicode_escape").decode() for c in text)
