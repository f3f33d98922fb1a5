"""Planning what every interface in a sandbox needs once it is there: sysctls, addresses, up, routes. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.net.ops import HOST, SANDBOX, AddAddress, AddRoute, AwaitDad, Plan, SetLink, SetSysctls
from cni.spec.addresses import Cidr, Ip, is_v6, parse_cidr, single
from cni.spec.errors import ConfigError
from cni.spec.result import SCOPE_LINK, Result, Route

if TYPE_CHECKING:
    from collections.abc import Iterable

IPV6_MIN_MTU = 1280

# The main routing table.
MAIN = 254

ACCEPT_RA = "net/ipv6/conf/{}/accept_ra"
LINK_FORWARDING = "net/ipv4/conf/{}/forwarding"
FORWARDING = {False: "net/ipv4/ip_forward", True: "net/ipv6/conf/all/forwarding"}


def plan_interface(ifname: str, lease: Result, dad: bool, subnets: bool = True) -> Plan:
    """Give ``ifname`` the lease's addresses and routes and bring it up. Without ``subnets`` only the gateways are on its link,
    and the subnets' other addresses behind them.

    Duplicate address detection is off on interfaces of ours (unless ``dad``): the allocator hands every address out once,
    and the one to two seconds that detection takes would be the longest part of a pod's start (P#680, P#52).
    """
    addresses = [ip.address for ip in lease.ips]
    plan: Plan = _sysctls(ifname, any(map(is_v6, addresses)), dad)
    plan += [AddAddress(side=SANDBOX, ifname=ifname, address=address, dad=dad, subnet=subnets) for address in addresses]
    plan.append(SetLink(side=SANDBOX, name=ifname, up=True))
    if dad and any(map(is_v6, addresses)):
        plan.append(AwaitDad(ifname=ifname))
    if not subnets:
        plan += [AddRoute(side=SANDBOX, ifname=ifname, route=way, source=source) for way, source in gateway_routes(lease)]
    plan += [AddRoute(side=SANDBOX, ifname=ifname, route=route) for route in routes(lease)]
    return plan


def gateway_routes(lease: Result) -> list[tuple[Route, Ip]]:
    """The way to each address's gateway and through it to the rest of the subnet, with the address it is sent from.

    A subnet of one address has no rest; of equal routes the first address's is enough.
    """
    found: dict[Route, Ip] = {}
    for ip in lease.ips:
        if ip.gateway is None:
            continue
        found.setdefault(Route(single(ip.gateway), scope=SCOPE_LINK), ip.address.ip)
        subnet = ip.address.network
        if subnet.prefixlen < subnet.max_prefixlen:
            found.setdefault(Route(parse_cidr(str(subnet)), ip.gateway), ip.address.ip)
    return list(found.items())


def routes(lease: Result) -> list[Route]:
    """The lease's routes as they are installed: one without a next hop goes through the first gateway of its family, if
    there is one and its scope is not the link (where the kernel accepts none); the same route twice is one (the reference
    fails on that). ConfigError for a next hop of the other family."""
    gateways: dict[bool, Ip] = {}
    for ip in lease.ips:
        if ip.gateway is not None:
            gateways.setdefault(is_v6(ip.address), ip.gateway)
    installed: list[Route] = []
    for route in lease.routes:
        via = route.gw if route.gw is not None or route.scope == SCOPE_LINK else gateways.get(is_v6(route.dst))
        if via is not None and via.is_unspecified:  # the kernel's and iproute2's way to say that there is none
            via = None
        if via is not None and is_v6(via) != is_v6(route.dst):
            raise ConfigError(f"next hop {via} of route {route.dst} is of the other family")
        complete = Route(route.dst, via, route.mtu, route.advmss, route.priority, route.table, route.scope)
        if complete not in installed:
            installed.append(complete)
    return installed


def default_routes(lease: Result) -> tuple[Route, ...]:
    """The lease's routes with a default route through the gateway of each family, where no default route names its own next
    hop.

    A default route without a next hop becomes that route; the reference adds a second one beside it and fails.
    """
    wanted: dict[bool, Ip] = {}
    for ip in lease.ips:
        if ip.gateway is not None:
            wanted.setdefault(is_v6(ip.address), ip.gateway)
    main = [route for route in lease.routes if _is_default(route.dst) and route.table in (None, MAIN)]
    named = {is_v6(route.dst) for route in main if route.gw is not None}
    bare = [route for route in main if route.gw is None]
    complete = [route for route in bare if is_v6(route.dst) not in named and is_v6(route.dst) in wanted]
    completed = [Route(r.dst, wanted[is_v6(r.dst)], r.mtu, r.advmss, r.priority, r.table) for r in complete]
    there = named | {is_v6(route.dst) for route in completed}
    missing = [Route(_default(v6), gateway) for v6, gateway in wanted.items() if v6 not in there]
    others = [route for route in lease.routes if route not in bare]
    return (*others, *completed, *missing, *(route for route in bare if route not in complete))


def plan_forwarding(families: Iterable[bool], link: str = "") -> Plan:
    """Have the host forward packets of these families; True is IPv6. Never taken back: others may count on it by then.

    Where conf/default says otherwise, a new ``link`` does not forward IPv4; of IPv6 the kernel asks the one for all links.
    """
    wanted = sorted(set(families))
    keys = [FORWARDING[v6] for v6 in wanted] + [LINK_FORWARDING.format(link) for v6 in wanted if link and not v6]
    return [SetSysctls(side=HOST, values=tuple((key, "1") for key in keys), must=True)] if keys else []


def forwarding_problems(families: Iterable[bool], forwarding: tuple[bool, ...]) -> list[str]:
    """A line for each family that is not forwarded; ``forwarding`` says so for IPv4 and for IPv6."""
    return [f"forwarding is off: {FORWARDING[v6]} is not 1" for v6 in sorted(set(families)) if not forwarding[int(v6)]]


def no_router_advertisements(link: str, before: str = "", shared: bool = False) -> SetSysctls:
    """A pod must not be able to give the host routes (CVE-2020-10749): only a kernel without IPv6 may do without this.

    ``before`` is the value to go back to, empty for a link that goes away itself.
    """
    key = ACCEPT_RA.format(link)
    back = ((key, before),) if before else ()
    return SetSysctls(shared=shared, side=HOST, values=((key, "0"),), must=True, if_there=True, before=back)


def check_mtu(mtu: int, addresses: Iterable[Cidr]) -> str:
    """What is wrong with an MTU for these addresses, empty when nothing is."""
    if mtu and mtu < IPV6_MIN_MTU and any(map(is_v6, addresses)):
        return f"mtu {mtu} is too small for IPv6, which needs {IPV6_MIN_MTU} (RFC 8200 section 5)"
    return ""


def _sysctls(ifname: str, v6: bool, dad: bool) -> Plan:
    """Sysctls before the first address. IPv6 may have been switched off by default in the sandbox, also on lo (docker does)."""
    conf = f"net/ipv6/conf/{ifname}"
    detection = (("enhanced_dad", "1"), ("accept_dad", "1")) if dad else (("accept_dad", "0"),)
    kept = (("keep_addr_on_down", "1"),) if v6 else ()
    tolerant = [(f"{conf}/{key}", value) for key, value in (*detection, *kept)]
    tolerant.append((f"net/ipv4/conf/{ifname}/arp_notify", "1"))  # see ops.Announce
    if v6:
        tolerant.append((f"{conf}/ndisc_notify", "1"))
    plan: Plan = []
    if v6:
        enable = tuple((f"net/ipv6/conf/{name}/disable_ipv6", "0") for name in ("lo", ifname))
        plan.append(SetSysctls(side=SANDBOX, values=enable, must=True))
    plan.append(SetSysctls(side=SANDBOX, values=tuple(tolerant)))
    return plan


def _is_default(dst: Cidr) -> bool:
    return dst.network.prefixlen == 0


def _default(v6: bool) -> Cidr:
    from ipaddress import IPv4Interface, IPv6Interface

    return IPv6Interface("::/0") if v6 else IPv4Interface("0.0.0.0/0")
