"""static: gives the addresses that somebody wrote down. It keeps nothing, so two attachments can get the same.

Where addresses come from, each source after the other: ``ipam.addresses``; IP of CNI_ARGS is added to them; ``args.cni.ips``
replaces both; ``runtimeConfig.ips`` replaces all. Each source must be valid, also one that is replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from msgspec import Meta

from cni.spec.addresses import Cidr, Ip
from cni.spec.conf import Dns, convert, lookup
from cni.spec.errors import ConfigError, EnvError
from cni.spec.result import AssignedIp, Result, Route
from ipam.wanted import Args, RuntimeConfig, one_of_each_family, read_cidr, read_ip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cni.spec.call import Call
    from cni.spec.owner import Owner


class Address(msgspec.Struct, frozen=True):
    """An address as configured."""

    address: Annotated[Cidr | None, Meta(description="The address with its prefix length.")] = None
    gateway: Annotated[Ip | None, Meta(description="Gateway of this address's subnet.")] = None


class Ipam(msgspec.Struct, frozen=True):
    """``ipam``."""

    type: str = ""
    addresses: Annotated[
        tuple[Address, ...],
        Meta(description="The addresses, unless the runtime gives others by args.cni.ips or the capability ips."),
    ] = ()
    routes: Annotated[tuple[Route, ...], Meta(description="Routes of the pod, beside those that its addresses bring.")] = ()
    dns: Annotated[Dns, Meta(description="Resolver settings of the result.")] = Dns()


class Document(msgspec.Struct, frozen=True):
    """What is read of the whole configuration."""

    OPEN: ClassVar[bool] = True
    ipam: Ipam = Ipam()
    args: Args = Args()
    runtime_config: RuntimeConfig = msgspec.field(name="runtimeConfig", default=RuntimeConfig())


class Conf(msgspec.Struct, frozen=True):
    """A checked configuration: the very result of an ADD. Empty for DEL and GC, which have nothing to do."""

    lease: Result = Result()


def parse(call: Call) -> Conf:
    """The call's configuration; ConfigError (7), or EnvError (4) for what is in CNI_ARGS."""
    if call.verb in ("DEL", "GC"):
        return Conf()
    if lookup(call.config, "ipam") is None:
        raise ConfigError("IPAM config missing 'ipam' key", 'add "ipam": {"type": "static", "addresses": ...}')
    document = convert(call.config, Document, "configuration", call.notes)
    ips = _addresses(document, call)
    repeated = next((ip.address for i, ip in enumerate(ips) if any(ip.address.ip == o.address.ip for o in ips[:i])), None)
    if repeated:
        raise ConfigError(f"address {repeated} is given twice", "name each address once in ipam.addresses, CNI_ARGS and ips")
    one_of_each_family((ip.address.version for ip in ips), call.version)
    return Conf(Result(ips=ips, routes=document.ipam.routes, dns=document.ipam.dns))


def add(conf: Conf, call: Call) -> Result:
    """The addresses; ConfigError when there are none, where the reference succeeds and its caller fails."""
    if not conf.lease.ips:
        raise ConfigError(
            "no IP addresses given",
            "static takes them from ipam.addresses, IP of CNI_ARGS, args.cni.ips or runtimeConfig.ips (capability ips)",
        )
    return conf.lease


def delete(conf: Conf, call: Call) -> None:
    """Nothing was kept, so there is nothing to release."""


def check(conf: Conf, call: Call, prev: Result | None) -> list[str]:
    """Addresses that prevResult lacks, or has with another gateway than the configured one. More addresses are fine."""
    if prev is None:
        raise ConfigError("Required prevResult missing", "CHECK compares it with the addresses that static gives")
    got = {ip.address.ip: ip for ip in prev.ips}
    problems = []
    for given in conf.lease.ips:
        there = got.get(given.address.ip)
        text = f"static: Failed to match addr {given.address.ip} on interface {call.ifname}"
        if there is None:
            problems.append(f"{text}: prevResult has no such address")
        elif given.gateway is not None and there.gateway != given.gateway:
            problems.append(f"{text}: its gateway is {there.gateway} in prevResult and {given.gateway} in the configuration")
    return problems


def gc(conf: Conf, call: Call, keep: frozenset[Owner]) -> list[str]:
    """Nothing is kept, so nothing can be left over."""
    return []


def status(conf: Conf, call: Call) -> None:
    """An ADD can always be served when the configuration makes sense, which ``parse`` has seen to."""


def _addresses(document: Document, call: Call) -> tuple[AssignedIp, ...]:
    configured = [
        _configured(f"configuration.ipam.addresses[{index}]", entry) for index, entry in enumerate(document.ipam.addresses)
    ]
    by_cni_args = _of_cni_args(call)
    by_args, by_runtime = (
        [read_cidr(text, f"configuration.{where}[{index}]") for index, text in enumerate(texts)]
        for where, texts in (("args.cni.ips", document.args.cni.ips), ("runtimeConfig.ips", document.runtime_config.ips))
    )
    asked = by_runtime or by_args
    return tuple(AssignedIp(ip, _gateway_for(ip, configured)) for ip in asked) if asked else (*configured, *by_cni_args)


def _configured(where: str, entry: Address) -> AssignedIp:
    if entry.address is None:
        raise ConfigError(f"invalid {where}: it has no address", "expected address/length")
    if entry.gateway is not None and entry.gateway.version != entry.address.version:
        raise ConfigError(f"invalid {where}: gateway {entry.gateway} is of another family than {entry.address}")
    return AssignedIp(entry.address, entry.gateway)


def _gateway_for(address: Cidr, configured: Sequence[AssignedIp]) -> Ip | None:
    """The gateway that is configured for the subnet an address is in (containernetworking/plugins#654)."""
    return next((ip.gateway for ip in configured if ip.gateway and address.ip in ip.address.network), None)


def _of_cni_args(call: Call) -> list[AssignedIp]:
    """``IP=a/len,b/len`` with ``GATEWAY=g,h``: each of these addresses gets the last gateway that is in its subnet."""
    addresses = [read_cidr(text, "CNI_ARGS: IP", EnvError) for text in _list(call.args.get("IP", ""))]
    gateways = [read_ip(text, "CNI_ARGS: GATEWAY", EnvError) for text in _list(call.args.get("GATEWAY", ""))]
    return [
        AssignedIp(address, next((gw for gw in reversed(gateways) if gw in address.network), None)) for address in addresses
    ]


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []
