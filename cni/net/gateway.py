"""Planning the gateway addresses on the host's side of a bridged network. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.net.ops import HOST, AddGateway, DeleteAddress, Plan
from cni.spec.addresses import Cidr, Ip, is_v6, parse_cidr
from cni.spec.errors import CNIError, ConfigError
from cni.spec.result import AssignedIp, Result

if TYPE_CHECKING:
    from collections.abc import Sequence


def with_gateways(ips: Sequence[AssignedIp], interface: int, wanted: bool) -> tuple[AssignedIp, ...]:
    """The lease's addresses as the result lists them: on ``interface``, with the first address of the subnet as the gateway
    where one is ``wanted`` and the lease names none.

    ConfigError for a gateway of the other family, for the unspecified address, and for a wanted gateway that is the pod itself.
    """
    for ip in ips:
        check_address(ip.address)
        if ip.gateway is not None and is_v6(ip.gateway) != is_v6(ip.address):
            raise ConfigError(f"gateway {ip.gateway} of address {ip.address} is of the other family")
    complete = tuple(AssignedIp(ip.address, ip.gateway or (_first_of(ip.address) if wanted else None), interface) for ip in ips)
    pods = {ip.address.ip for ip in complete}
    for ip in complete if wanted else ():
        gateway = ip.gateway
        if gateway in pods:
            raise ConfigError(f"gateway {gateway} of address {ip.address} is the pod itself", "have IPAM give another one")
        if gateway is not None and not _may_be_a_host(gateway):
            raise ConfigError(f"gateway {gateway} of address {ip.address} can be no host's address")
    return complete


def check_address(address: Cidr) -> None:
    """ConfigError for what no interface of a pod can have. The kernel takes some of these, and sets nothing, or cuts the pod
    off.
    """
    if not _may_be_a_host(address.ip):
        raise ConfigError(f"{address} is no address for an interface")


def _may_be_a_host(ip: Ip) -> bool:
    return not (ip.is_unspecified or ip.is_loopback or ip.is_multicast or int(ip) == 0xFFFFFFFF)


def gateway_cidrs(result: Result) -> list[Cidr]:
    """The addresses the host has as gateway, each with its subnet's length, in order, each once."""
    cidrs = [parse_cidr(f"{ip.gateway}/{ip.address.network.prefixlen}") for ip in result.ips if ip.gateway is not None]
    return list(dict.fromkeys(cidrs))


def plan_gateways(ifname: str, bridge: str, wanted: Sequence[Cidr], present: Sequence[Cidr], force: bool) -> Plan:
    """Give ``ifname`` the wanted addresses; CNIError where another address stands in the way and ``force`` is off.

    In the way is, for IPv4, every other address (two networks on one bridge by mistake is the common case; several wanted
    subnets of one network are fine, which the reference cannot do), and for IPv6 one whose subnet overlaps.
    """
    plan: Plan = []
    for address in present:
        if address in wanted or not any(_in_the_way(address, gateway) for gateway in wanted):
            continue
        if not force:
            raise CNIError(
                f"{ifname!r} already has an IP address different from {', '.join(map(str, wanted))}: {address}",
                f"another network uses this bridge, or the subnet was changed: name another bridge, remove the old address with"
                f" 'ip address del {address} dev {ifname}', or set forceAddress to have it replaced",
            )
        plan.append(DeleteAddress(side=HOST, ifname=ifname, address=address))
    missing = [address for address in wanted if address not in present]
    replaces = bool(plan)
    return plan + [AddGateway(ifname=ifname, bridge=bridge, address=address, replaces=replaces) for address in missing]


def _in_the_way(present: Cidr, gateway: Cidr) -> bool:
    if is_v6(present) != is_v6(gateway):
        return False
    if not is_v6(present):
        return True
    return not present.ip.is_link_local and present.network.overlaps(gateway.network)


def _first_of(address: Cidr) -> Ip:
    network = address.network
    if network.num_addresses < 4:
        raise ConfigError(
            f"there is no gateway for {address}, and its subnet has no room for one",
            "have IPAM give a gateway, or use a subnet of at least four addresses",
        )
    return network.network_address + 1
