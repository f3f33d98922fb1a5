"""bandwidth: limits what a pod receives (ingress) and sends (egress); chained behind a plugin that made a veth.

Towards the pod the host's end of the veth has a token bucket for what it sends. What the pod sends comes in there, where
nothing can wait: it is led to an ifb, a link of the host's own, which has the bucket. Names, numbers and results are the
reference's, so CHECK and DEL of either suite serve what the other's ADD made. On purpose different: limits of the
configuration and of the runtime are taken for each direction on its own, and 0 is no limit; two interfaces of a container on
one network have an ifb each (P#151); ADD can be repeated, also without limits, and a failed one leaves nothing; DEL takes
the limits from a veth that stays; CHECK looks at the way to the ifb, too; a token bucket has a handle of ours, because the
reference's, 1:, is what people give theirs.
"""

from __future__ import annotations

from hashlib import sha512
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from msgspec import Meta

from cni.net import shaping, veth
from cni.net.facts import Link, Shaping
from cni.net.ops import HOST, CreateIfb, DeleteLink, DropRedirect, LimitRate, Plan, Redirect, UnlimitRate
from cni.net.qdiscs import REFERENCE_TBF_HANDLE, TBF_HANDLE
from cni.spec.conf import NetConf, read, read_to_remove
from cni.spec.errors import CNIError, ConfigError, NotAvailable
from cni.spec.owner import of_network
from cni.spec.result import Interface, Result

if TYPE_CHECKING:
    from cni.net.facts import Qdisc
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

    @property
    def possible(self) -> bool:
        """Whether there is a limit, and a token bucket can have its numbers."""
        try:
            self.validate()
        except ConfigError:
            return False
        return self.given

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
    """What a call sees; CHECK nothing without limits.

    ``veth`` is the host's end of the pod's interface; where it is another attachment's, ``whose`` is its label instead.
    ``there`` are the links that have a name of the attachment's ifb, ``ifbs`` those of them that are its own; ``bucket`` is
    that of the first of these.
    """

    container: Link | None = None
    veth: Link | None = None
    whose: str = ""
    shaping: Shaping = Shaping()
    there: tuple[Link, ...] = ()
    ifbs: tuple[Link, ...] = ()
    bucket: Shaping = Shaping()


def parse(call: Call) -> Conf:
    """The configuration. DEL and GC take one that ADD would refuse: what was made goes, whatever stands there now."""
    if call.verb in ("DEL", "GC"):
        return read_to_remove(call, Conf)
    conf = read(call, Conf)
    for limit in conf.limits:
        limit.validate()
    for own, told in zip(conf.own, conf.told, strict=True):
        if own.given and told.given:
            call.notes.append(f"{told.keys[0]} has no effect: the configuration has {own.keys[0]}")
    return conf


def look(conf: Conf, call: Call, host: Host, known: Result | None) -> Facts:
    """The veth, its qdiscs and filters, and what has the names of an ifb. ``known`` is prevResult."""
    if call.verb == "CHECK" and not conf.shapes:
        return Facts()
    container = host.sandbox.link(call.ifname) if host.sandbox is not None else None
    found = veth.host_end(call, host, container)
    host_end = None if found is not None and veth.is_others(call, found) else found
    whose = found.alias if found is not None and host_end is None else ""
    seen = host.root.traffic.shaping(host_end.name) if host_end is not None else Shaping()
    there = tuple(link for name in ifb_names(call.owner) if (link := host.root.link(name)) is not None)
    ifbs = tuple(link for link in there if _is_own(call, link, seen, known))
    bucket = host.root.traffic.shaping(ifbs[0].name) if ifbs and call.verb == "CHECK" else Shaping()
    return Facts(container=container, veth=host_end, whose=whose, shaping=seen, there=there, ifbs=ifbs, bucket=bucket)


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
        return _plan_removal(conf, facts), lease
    host_end = _needed(call, facts)
    _refuse_foreign(host_end, facts, conf)
    ingress, egress = conf.limits
    plan = _plan_removal(conf, facts)
    if ingress.given:
        plan.append(_limit(host_end.name, ingress))
        _note_small(call, ingress, host_end)
    if not egress.given:
        return plan, lease
    _note_small(call, egress, host_end)
    mac, key = call.owner.mac("ifb"), egress.keys[0]
    name = _free_name(call, facts, key)
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
    return _plan_removal(conf, facts)


def check(conf: Conf, call: Call, facts: Facts, prev: Result) -> list[str]:
    """What of the limits is not as ADD made it, a line each."""
    if not conf.shapes:
        return []
    if facts.container is None:
        return [f"interface {call.ifname} is gone from the sandbox"]
    if facts.veth is None:
        return [f"interface {call.ifname} is no veth of this attachment with its other end on the host"]
    ingress, egress = conf.limits
    problems = shaping.problems(facts.veth.name, ingress.bucket, facts.shaping.root) if ingress.given else []
    if not egress.given:
        return problems
    if not facts.ifbs:
        return [*problems, f"the ifb {ifb_names(call.owner)[0]} is gone: nothing limits what the pod sends"]
    ifb = facts.ifbs[0]
    problems += [] if ifb.up else [f"the ifb {ifb.name} is down: what the pod sends is dropped"]
    problems += shaping.problems(ifb.name, egress.bucket, facts.bucket.root)
    if not any(found.matches_all and found.target == ifb.index for found in facts.shaping.filters):
        problems.append(
            f"what comes in by {facts.veth.name} is not redirected to {ifb.name}: nothing limits what the pod sends"
        )
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
    if facts.whose:
        told = f"the veth of {call.ifname} is of another attachment, {facts.whose}"
        raise ConfigError(told, "limits belong into the list of the plugin that made it, under one name of a network")
    if facts.veth is None:
        raise ConfigError(f"the other end of {call.ifname} is not in the host's namespace", needs)
    return facts.veth


def _refuse_foreign(host_end: Link, facts: Facts, conf: Conf) -> None:
    """CNIError where somebody else shapes the veth, in the place that a limit takes."""
    ingress, egress = conf.limits
    root, entry = facts.shaping.root, facts.shaping.ingress
    for limit, what, ours in ((ingress, root, _is_bucket(conf, root)), (egress, entry, _is_redirect(facts))):
        if limit.given and what is not None and not ours:
            there = f"cannot set {limit.keys[0]}: {host_end.name}, the host's end of the pod's veth, has a qdisc {what.kind}"
            place = "root" if what is root else "ingress"
            told = f"tc qdisc show dev {host_end.name} tells of it; tc qdisc del dev {host_end.name} {place} removes it"
            raise CNIError(f"{there} of somebody else's", f"{told}; or remove the limit")


def _is_bucket(conf: Conf, root: Qdisc | None) -> bool:
    """Whether a link's root qdisc is a token bucket of an ADD: by its handle, or, of the reference's, which an administrator's
    may have as well, by that and the numbers of the configuration.
    """
    if root is None or root.kind != "tbf" or root.handle not in (TBF_HANDLE, REFERENCE_TBF_HANDLE):
        return False
    limit = conf.limits[0]
    return root.handle == TBF_HANDLE or (limit.possible and not shaping.problems("", limit.bucket, root))


def _is_redirect(facts: Facts) -> bool:
    """Whether all that the veth's ingress does is to lead to the attachment's ifb, or everything to one that is gone. One
    without filters is a killed ADD's only where there is an ifb.
    """
    entry, filters, own = facts.shaping.ingress, facts.shaping.filters, {link.index for link in facts.ifbs}
    leads = all(found.target in own or (found.target == 0 and found.matches_all) for found in filters)
    return entry is not None and entry.kind == "ingress" and leads and bool(filters or own)


def _plan_removal(conf: Conf, facts: Facts) -> Plan:
    plan: Plan = []
    end, root = facts.veth, facts.shaping.root
    if end is not None:
        plan += [UnlimitRate(name=end.name, handle=root.handle)] if root is not None and _is_bucket(conf, root) else []
        plan += [DropRedirect(name=end.name)] if _is_redirect(facts) else []
    return plan + [DeleteLink(side=HOST, name=link.name) for link in facts.ifbs]


def _limit(name: str, limit: Limit) -> LimitRate:
    made = limit.bucket
    return LimitRate(name=name, rate=made.rate, limit=made.limit, buffer=made.buffer, burst=made.burst, key=limit.keys[0])


def _free_name(call: Call, facts: Facts, key: str) -> str:
    taken = {link.name for link in facts.there if link not in facts.ifbs}
    names = ifb_names(call.owner)
    for name in names:
        if name not in taken:
            return name
    told = f"cannot create an ifb for {key}: the links {' and '.join(names)} are there, and are not this attachment's"
    raise CNIError(told, "remove one of them, or rename it")


def _note_small(call: Call, limit: Limit, host_end: Link) -> None:
    """A packet that is larger than the bucket never passes."""
    packet = host_end.mtu + ETHERNET_HEADER
    if limit.burst // 8 < packet:
        told = f"{limit.keys[1]} {limit.burst} is less than the {8 * packet} bits of a packet of MTU {host_end.mtu}"
        call.notes.append(f"{told}: larger packets are dropped")
