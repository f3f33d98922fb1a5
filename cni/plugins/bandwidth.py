"""bandwidth: limits what a pod receives (ingress) and sends (egress); chained behind a plugin that made a veth.

Towards the pod the host's end of the veth has a token bucket for what it sends. What the pod sends comes in there, where
nothing can wait: it is led to an ifb, a link of the host's own, which has the bucket. Names, numbers and results are the
reference's, so CHECK and DEL of either suite serve what the other's ADD made. On purpose different: limits of the
configuration and of the runtime are taken for each direction on its own, and 0 is no limit; two interfaces of a container on
one network have an ifb each (P#151); ADD can be repeated, and a failed one leaves nothing; DEL takes the limits from a veth
that stays; CHECK looks at the way to the ifb, too.
"""

from __future__ import annotations

from hashlib import sha512
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from msgspec import Meta

from cni.net import shaping, veth
from cni.net.facts import Link, Shaping
from cni.net.ops import HOST, CreateIfb, DeleteLink, DropRedirect, LimitRate, Plan, Redirect, UnlimitRate
from cni.net.qdiscs import TBF_HANDLE
from cni.spec.conf import NetConf, read
from cni.spec.errors import CNIError, ConfigError, NotAvailable
from cni.spec.owner import of_network
from cni.spec.result import Interface, Result

if TYPE_CHECKING:
    from cni.net.host import Host
    from cni.spec.call import Call
    from cni.spec.owner import Owner

CREATES_INTERFACE = False
CHAINED = True

INGRESS, EGRESS = "ingress", "egress"

ETHERNET_HEADER = 14

IngressRate = Annotated[int, Meta(description="What the pod may receive, in bits a second; 0 is no limit.")]
IngressBurst = Annotated[int, Meta(description="How many bits it may receive at once.")]
EgressRate = Annotated[int, Meta(description="What the pod may send, in bits a second; 0 is no limit.")]
EgressBurst = Annotated[int, Meta(description="How many bits it may send at once.")]


class Limits(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """``runtimeConfig.bandwidth`` (CNI conventions)."""

    ingress_rate: IngressRate = 0
    ingress_burst: IngressBurst = 0
    egress_rate: EgressRate = 0
    egress_burst: EgressBurst = 0


class RuntimeConfig(msgspec.Struct, frozen=True):
    """``runtimeConfig`` as far as limits go; the capability is ``bandwidth``."""

    OPEN: ClassVar[bool] = True
    bandwidth: Annotated[Limits, Meta(description="Limits of this pod, for directions that the configuration limits not.")] = (
        Limits()
    )


class Limit(msgspec.Struct, frozen=True):
    """What holds for a direction, in bits a second and bits; ``where`` is what comes before the keys' names."""

    direction: str
    rate: int = 0
    burst: int = 0
    where: str = ""

    @property
    def keys(self) -> tuple[str, str]:
        """The names of the two keys."""
        return f"{self.where}{self.direction}Rate", f"{self.where}{self.direction}Burst"

    @property
    def given(self) -> bool:
        """Whether anything is limited."""
        return bool(self.rate or self.burst)

    @property
    def bucket(self) -> shaping.Bucket:
        """The token bucket that does it."""
        return shaping.bucket(self.rate, self.burst)

    def validate(self) -> None:
        """ConfigError for numbers that no token bucket can have."""
        rate, burst = self.keys
        for key, value, low, high, unit in (
            (rate, self.rate, shaping.RATE_MIN, shaping.RATE_MAX, "bits a second"),
            (burst, self.burst, shaping.BURST_MIN, shaping.BURST_MAX, "bits"),
        ):
            if value and not low <= value <= high:
                raise ConfigError(f"invalid {key} {value}: expected {low} to {high} {unit}, or 0 for no limit")
        for key, value, other in ((rate, self.rate, burst), (burst, self.burst, rate)):
            if self.given and not value:
                raise ConfigError(f"{other} is given without {key}", "a limit needs both: a rate, and what may pass at once")


class Conf(NetConf, frozen=True, kw_only=True, rename="camel"):
    """The keys of bandwidth."""

    ingress_rate: IngressRate = 0
    ingress_burst: IngressBurst = 0
    egress_rate: EgressRate = 0
    egress_burst: EgressBurst = 0
    runtime_config: Annotated[
        RuntimeConfig, Meta(description="Set by the runtime for declared capabilities; here bandwidth.")
    ] = RuntimeConfig()

    @property
    def own(self) -> tuple[Limit, Limit]:
        """What the configuration itself limits."""
        return Limit(INGRESS, self.ingress_rate, self.ingress_burst), Limit(EGRESS, self.egress_rate, self.egress_burst)

    @property
    def told(self) -> tuple[Limit, Limit]:
        """What the runtime limits."""
        given, where = self.runtime_config.bandwidth, "runtimeConfig.bandwidth."
        return (
            Limit(INGRESS, given.ingress_rate, given.ingress_burst, where),
            Limit(EGRESS, given.egress_rate, given.egress_burst, where),
        )

    @property
    def limits(self) -> tuple[Limit, Limit]:
        """What holds. The configuration is stronger, as with the reference, but only where it limits something."""
        ingress, egress = (own if own.given else told for own, told in zip(self.own, self.told, strict=True))
        return ingress, egress

    @property
    def shapes(self) -> bool:
        """Whether there is anything to do."""
        return any(limit.given for limit in self.limits)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a call sees. Without limits nothing is looked at.

    ``veth`` is the host's end of the pod's interface. ``there`` are the links that have a name of the attachment's ifb,
    ``ifbs`` those of them that are its own; ``bucket`` is that of the first of these.
    """

    container: Link | None = None
    veth: Link | None = None
    shaping: Shaping = Shaping()
    there: tuple[Link, ...] = ()
    ifbs: tuple[Link, ...] = ()
    bucket: Shaping = Shaping()


def parse(call: Call) -> Conf:
    """The configuration. DEL and GC need none: what an ADD made goes, whatever stands there now."""
    if call.verb in ("DEL", "GC"):
        return Conf()
    conf = read(call, Conf)
    for limit in conf.limits:
        limit.validate()
    for own, told in zip(conf.own, conf.told, strict=True):
        if own.given and told.given:
            call.notes.append(f"{told.keys[0]} has no effect: the configuration has {own.keys[0]}")
    return conf


def look(conf: Conf, call: Call, host: Host, known: Result | None) -> Facts:
    """The veth, its qdiscs and filters, and what has the names of an ifb. ``known`` is prevResult."""
    if call.verb != "DEL" and not conf.shapes:
        return Facts()
    container = host.sandbox.link(call.ifname) if host.sandbox is not None else None
    host_end = veth.host_end(call, host, container)
    seen = host.root.traffic.shaping(host_end.name) if host_end is not None else Shaping()
    there = tuple(link for name in ifb_names(call.owner) if (link := host.root.link(name)) is not None)
    ifbs = tuple(link for link in there if _is_own(call, link, seen, known))
    bucket = host.root.traffic.shaping(ifbs[0].name) if ifbs and call.verb == "CHECK" else Shaping()
    return Facts(container=container, veth=host_end, shaping=seen, there=there, ifbs=ifbs, bucket=bucket)


def ifb_names(owner: Owner) -> tuple[str, str]:
    """The names of the attachment's ifb: the reference's, which leaves the interface out, and one for when that is taken."""
    of_container = sha512(f"{owner.network}{owner.container_id}".encode()).hexdigest()
    return f"bwp{of_container[:12]}", f"bwp{owner.digest('ifb').hex()[:12]}"


def _is_own(call: Call, link: Link, seen: Shaping, known: Result | None) -> bool:
    """Whether an ifb is the attachment's. One without a label is the reference's, for one of the container's interfaces: which
    of them, its filter knows, or else prevResult. DEL, which may have neither, believes the name, as the reference does.
    """
    if link.kind != "ifb" or link.alias:
        return link.kind == "ifb" and link.alias == call.owner.label
    if any(found.target == link.index for found in seen.filters):
        return True
    if link.name != ifb_names(call.owner)[0] or call.verb == "ADD":
        return False
    listed = [interface.name for interface in known.interfaces if not interface.sandbox] if known is not None else []
    return link.name in listed or (call.verb == "DEL" and not listed)


def plan_add(conf: Conf, call: Call, facts: Facts, lease: Result) -> tuple[Plan, Result]:
    """Limit each direction, after whatever an earlier ADD of this attachment left is gone."""
    if not conf.shapes:
        return [], lease
    host_end = _needed(call, facts)
    _refuse_foreign(host_end, facts, conf)
    ingress, egress = conf.limits
    plan = _plan_removal(call, facts)
    if ingress.given:
        plan.append(_limit(host_end.name, ingress))
        _note_small(call, ingress, host_end)
    if not egress.given:
        return plan, lease
    _note_small(call, egress, host_end)
    name, mac, key = _free_name(call, facts), call.owner.mac("ifb"), egress.keys[0]
    plan += [
        CreateIfb(name=name, mac=mac, mtu=host_end.mtu, label=call.owner.label, key=key),
        _limit(name, egress),
        Redirect(name=host_end.name, to=name, key=key),
    ]
    others = [entry for entry in lease.interfaces if entry.sandbox or entry.name != name]
    return plan, msgspec.structs.replace(lease, interfaces=(*others, Interface(name=name, mac=mac)))


def report(conf: Conf, result: Result, host: Host) -> Result:
    """The result; nothing in it is the kernel's choice."""
    return result


def plan_del(conf: Conf, call: Call, facts: Facts) -> Plan:
    """Take the limits from the veth, where there still is one, and delete the ifb."""
    return _plan_removal(call, facts)


def check(conf: Conf, call: Call, facts: Facts, prev: Result) -> list[str]:
    """What of the limits is not as ADD made it, a line each."""
    if not conf.shapes:
        return []
    if facts.container is None:
        return [f"interface {call.ifname} is gone from the sandbox"]
    if facts.veth is None:
        return [f"interface {call.ifname} has no veth end on the host"]
    ingress, egress = conf.limits
    problems = shaping.problems(facts.veth.name, ingress.bucket, facts.shaping.root) if ingress.given else []
    if not egress.given:
        return problems
    if not facts.ifbs:
        return [*problems, f"the ifb {ifb_names(call.owner)[0]} is gone"]
    ifb = facts.ifbs[0]
    problems += [] if ifb.up else [f"{ifb.name} is down"]
    problems += shaping.problems(ifb.name, egress.bucket, facts.bucket.root)
    if not any(found.matches_all and found.target == ifb.index for found in facts.shaping.filters):
        problems.append(f"what comes in by {facts.veth.name} is not redirected to {ifb.name}")
    return problems


def plan_gc(conf: Conf, call: Call, keep: frozenset[Owner], host: Host) -> Plan:
    """Delete the ifbs of this network whose attachments are not in use any more. Limits went with their veths."""
    labels = {owner.label for owner in keep}
    return [
        DeleteLink(side=HOST, name=link.name)
        for link in host.root.links()
        if link.kind == "ifb" and of_network(link.alias, call.network) and link.alias not in labels
    ]


def status(conf: Conf, call: Call, host: Host) -> None:
    """NotAvailable (50) when this kernel lacks what the configuration's own limits need. Those of runtimes nobody knows."""
    ingress, egress = conf.own
    if (ingress.given or egress.given) and not host.root.traffic.knows_qdisc("tbf"):
        raise NotAvailable("this kernel has no token bucket", "it lacks CONFIG_NET_SCH_TBF (module sch_tbf)")
    if egress.given and not host.root.knows_link("ifb"):
        raise NotAvailable("this kernel has no ifb", "it lacks CONFIG_IFB (module ifb)")


def _needed(call: Call, facts: Facts) -> Link:
    """The host's end, or ConfigError: what is no veth has none."""
    needs = "bandwidth limits veths: put it behind a plugin that makes one, such as bridge or ptp"
    if facts.container is None:
        raise ConfigError(f"there is no interface {call.ifname} in sandbox {call.netns!r}", needs)
    if facts.container.kind != "veth":
        raise ConfigError(f"interface {call.ifname} is of kind {facts.container.kind or 'unknown'!r}", needs)
    if facts.veth is None:
        raise ConfigError(f"the other end of {call.ifname} is not in the host's namespace", needs)
    return facts.veth


def _refuse_foreign(host_end: Link, facts: Facts, conf: Conf) -> None:
    """CNIError where somebody else shapes the veth, in the place that a limit takes."""
    ingress, egress = conf.limits
    root, entry = facts.shaping.root, facts.shaping.ingress
    told = f"tc qdisc show dev {host_end.name} tells of it; remove it, or the limit"
    if ingress.given and root is not None and not _is_bucket(facts):
        raise CNIError(f"{host_end.name} has a qdisc {root.kind} of somebody else's", told)
    if egress.given and entry is not None and not _is_redirect(facts):
        raise CNIError(f"{host_end.name} has a qdisc {entry.kind} with filters of somebody else's", told)


def _is_bucket(facts: Facts) -> bool:
    """Whether the veth has a token bucket of an ADD, by its handle, which nobody gets without asking."""
    root = facts.shaping.root
    return root is not None and (root.kind, root.handle) == ("tbf", TBF_HANDLE)


def _is_redirect(facts: Facts) -> bool:
    """Whether all that the veth's ingress does is to lead to the attachment's ifb, or to one that is gone."""
    entry = facts.shaping.ingress
    own = {0, *(link.index for link in facts.ifbs)}
    return entry is not None and entry.kind == "ingress" and all(found.target in own for found in facts.shaping.filters)


def _plan_removal(call: Call, facts: Facts) -> Plan:
    plan: Plan = []
    if facts.veth is not None:
        plan += [UnlimitRate(name=facts.veth.name)] if _is_bucket(facts) else []
        plan += [DropRedirect(name=facts.veth.name)] if _is_redirect(facts) else []
    return plan + [DeleteLink(side=HOST, name=link.name) for link in facts.ifbs]


def _limit(name: str, limit: Limit) -> LimitRate:
    made = limit.bucket
    return LimitRate(name=name, rate=made.rate, limit=made.limit, buffer=made.buffer, burst=made.burst, key=limit.keys[0])


def _free_name(call: Call, facts: Facts) -> str:
    taken = {link.name for link in facts.there if link not in facts.ifbs}
    names = ifb_names(call.owner)
    for name in names:
        if name not in taken:
            return name
    raise CNIError(f"links {' and '.join(names)} are there, and are not this attachment's", "remove them, or rename them")


def _note_small(call: Call, limit: Limit, host_end: Link) -> None:
    """A packet that is larger than the bucket never passes."""
    if limit.burst // 8 < host_end.mtu + ETHERNET_HEADER:
        call.notes.append(f"{limit.keys[1]} {limit.burst} is less than a packet of MTU {host_end.mtu}: such are dropped")
