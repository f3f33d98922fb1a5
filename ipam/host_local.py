"""host-local: leases addresses from configured ranges and keeps them in files on this host.

One ADD leases an address from every range set under one lock, all of them or none. ``ipam.allocate`` chooses, ``ipam.store``
keeps, ``ipam.leasing`` puts the two together; here is what a configuration means and what each verb does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from cni.spec.addresses import Ip
from cni.spec.conf import Dns, convert, lookup
from cni.spec.errors import CNIError, ConfigError, EnvError, InputError, NotAvailable
from cni.spec.owner import Owner
from cni.spec.result import AssignedIp, Result, Route
from ipam import resolv, store
from ipam.allocate import Refusal
from ipam.boot import this_boot
from ipam.folder import obstacle
from ipam.leases import mine
from ipam.leasing import ENLARGE, choose_in, lease, raise_together, release
from ipam.ranges import RangeConf, RangeSet, read_sets
from ipam.wanted import Args, Capabilities, RuntimeConfig, one_of_each_family, read_ip

if TYPE_CHECKING:
    from cni.spec.call import Call

DATA_DIR = "/var/lib/cni/networks"

# The keys of Document, in lower case.
KEYS = frozenset(("ipam", "args", "capabilities", "runtimeconfig"))

# A process that lives long sees the same few configurations again and again, and reading one takes half as long as leasing an
# address. They are kept by their text. Where a runtime adds something for each pod they differ; when too many are kept all go.
MOST_READINGS = 64
_READINGS: dict[bytes, Reading] = {}

# A resolv.conf is far smaller; a device or a log in its place is not read to its end.
LONGEST_RESOLV_CONF = 1 << 20


class Place(msgspec.Struct, frozen=True, rename="camel"):
    """All that DEL and GC read of ``ipam``: whatever else is wrong with it, what is leased can be given back."""

    OPEN: ClassVar[bool] = True
    data_dir: str = ""


class Ipam(RangeConf, frozen=True, rename="camel"):
    """``ipam``. The keys of one range beside ``ranges`` are its oldest form: a set that comes before the others."""

    type: str = ""
    data_dir: Annotated[
        str, Meta(description="Folder of the leases, below which each network has one; /var/lib/cni/networks by default.")
    ] = ""
    ranges: Annotated[
        tuple[tuple[RangeConf, ...], ...],
        Meta(description="Pools of ranges: each inner list gives an attachment one address, from any of its ranges."),
    ] = ()
    routes: Annotated[tuple[Route, ...], Meta(description="Routes of the pod, beside those that its addresses bring.")] = ()
    resolv_conf: Annotated[
        str, Meta(description="A resolv.conf of the host, whose resolvers the result names, for runtimes that use them.")
    ] = ""


class Document(msgspec.Struct, frozen=True):
    """What is read of the whole configuration."""

    OPEN: ClassVar[bool] = True
    ipam: Ipam = Ipam()
    args: Args = Args()
    capabilities: Capabilities = Capabilities()
    runtime_config: RuntimeConfig = msgspec.field(name="runtimeConfig", default=RuntimeConfig())


class Reading(msgspec.Struct, frozen=True):
    """What a configuration says, whatever the call. ``sets`` are the range sets, those of the runtime first: their order gives
    ``last_reserved_ip`` its index. ``notes`` are remarks to be made at each call.
    """

    document: Document
    sets: tuple[RangeSet, ...]
    notes: tuple[str, ...]


class Conf(msgspec.Struct, frozen=True):
    """A checked configuration. ``folder`` holds the network's leases; ``sets`` is empty for DEL and GC, which need none."""

    folder: str
    sets: tuple[RangeSet, ...] = ()
    wanted: tuple[Ip, ...] = ()
    routes: tuple[Route, ...] = ()
    resolv_conf: str = ""


def parse(call: Call) -> Conf:
    """The call's configuration; ConfigError (7), or EnvError (4) for an address in CNI_ARGS.

    For DEL and GC nothing but ``dataDir`` is looked at: an address must come back when the ranges were changed, broken or
    are not known to the caller any more (projectcalico/cni-plugin#254).
    """
    raw = lookup(call.config, "ipam")
    if call.verb in ("DEL", "GC"):
        return Conf(_folder(convert(raw or {}, Place, "configuration.ipam").data_dir, call.network))
    if raw is None:
        raise ConfigError("IPAM config missing 'ipam' key", 'add "ipam": {"type": "host-local", "ranges": ...}')
    reading = _read(call)
    ipam = reading.document.ipam
    return Conf(
        folder=_folder(ipam.data_dir, call.network),
        sets=_sets(reading, call),
        wanted=_wanted(reading.document, call),
        routes=ipam.routes,
        resolv_conf=ipam.resolv_conf,
    )


def add(conf: Conf, call: Call) -> Result:
    """Lease an address from each set; the result has no interfaces. CNIError when one cannot be had: then none is leased."""
    dns = _read_resolv_conf(conf.resolv_conf, call.folder) if conf.resolv_conf else Dns()
    with store.for_writing(conf.folder, call.notes, create=True) as leases:
        leases.serves(conf.sets)
        choices = lease(leases, conf.sets, conf.wanted, call.owner, this_boot(), call.notes)
    ips = (AssignedIp(choice.part.with_length(choice.address), choice.part.gateway) for choice in choices)
    return Result(ips=tuple(ips), routes=conf.routes, dns=dns)


def delete(conf: Conf, call: Call) -> None:
    """Release all that the attachment holds, in whatever range; success when it holds nothing.

    prevResult, which names addresses, is not used: it saves nothing, because leases it does not name must be found too.
    """
    problems: list[CNIError] = []
    with store.for_writing(conf.folder, call.notes, create=False) as leases:
        for held in mine(leases.held_by(call.owner)):
            release(leases, held.address, problems)
    raise_together(problems)


def check(conf: Conf, call: Call, prev: Result | None) -> list[str]:
    """What is wrong with the attachment's leases: every address of prevResult that our ranges hold must be its own."""
    ours = [ip.address.ip for ip in prev.ips] if prev else []
    ours = [address for address in ours if any(address in pool for pool in conf.sets)]
    missing = f"host-local: Failed to find address added by container {call.container_id}"
    with store.for_reading(conf.folder, call.notes) as leases:
        if not ours and not leases.held_by(call.owner):
            return [f"{missing}: no lease in {conf.folder}"]
        problems = []
        for address in ours:
            held = leases.lease(address)
            if held is None:
                problems.append(f"{missing}: {address} is not leased in {conf.folder}")
            elif not held.of(call.owner):
                problems.append(f"{missing}: {address} is leased to {held}")
        return problems


def gc(conf: Conf, call: Call, keep: frozenset[Owner]) -> list[str]:
    """Release every lease of this network whose owner is not in ``keep``, and what crashes left; a line for each.

    A lease of the oldest format names no interface: it stays while any attachment of its container does.
    """
    containers = {owner.container_id for owner in keep}
    lines: list[str] = []
    problems: list[CNIError] = []
    with store.for_writing(conf.folder, call.notes, create=False) as leases:
        for address in leases.blank():
            if release(leases, address, problems):
                lines.append(f"released {address}, whose lease file was empty")
        for held in leases.leases():
            owner = Owner(call.network, held.container_id, held.ifname)
            if owner in keep or (not held.ifname and held.container_id in containers):
                continue
            if release(leases, held.address, problems):
                lines.append(f"released {held.address} of {held}")
    raise_together(problems)
    return lines


def status(conf: Conf, call: Call) -> None:
    """NotAvailable (50) when an ADD would fail now: a set is exhausted, or the folder cannot be written. Nothing is changed."""
    reason = obstacle(conf.folder)
    if reason:
        raise NotAvailable(f"cannot keep leases in {conf.folder}: {reason}", "correct it, or change ipam.dataDir")
    with store.for_reading(conf.folder, call.notes) as leases:
        leases.serves(conf.sets)
        outcome = choose_in(leases, conf.sets, (), leases.taken(), this_boot())
    if isinstance(outcome, Refusal):
        pool = conf.sets[outcome.index]
        raise NotAvailable(
            f"no IP addresses available in range set: {pool}",
            f"all of its {pool.size} addresses are leased in {conf.folder}; {ENLARGE}",
        )


def _folder(data_dir: str, network: str) -> str:
    folder = os.path.join(data_dir or DATA_DIR, network)
    try:
        if b"\0" in os.fsencode(folder):
            raise ConfigError("invalid configuration.ipam.dataDir: it contains a NUL character")
    except UnicodeEncodeError as error:
        raise ConfigError("invalid configuration.ipam.dataDir: it cannot be a path in this locale", str(error)) from error
    return folder


def _read(call: Call) -> Reading:
    """What the configuration says, anew or as it was read before."""
    config = {key: value for key, value in call.config.items() if key.casefold() in KEYS}
    try:
        text = msgspec.json.encode(config)
    except (ValueError, TypeError, OverflowError, RecursionError):
        text = b""  # numbers, say, that JSON has and msgspec has not
    reading = _READINGS.get(text)
    if reading is None:
        reading = _read_anew(config, call.notes)
        if text and b"null" not in text:  # which also stands for infinite numbers
            if len(_READINGS) >= MOST_READINGS:
                _READINGS.clear()
            _READINGS[text] = reading
    else:
        call.notes.extend(reading.notes)
    return reading


def _read_anew(config: dict[str, Any], notes: list[str]) -> Reading:
    already = len(notes)
    document = convert(config, Document, "configuration", notes)
    ipam = document.ipam
    if ipam.data_dir and not ipam.data_dir.startswith("/"):
        raise ConfigError(
            f"invalid configuration.ipam.dataDir: {ipam.data_dir!r} is not absolute",
            "each runtime would keep its leases below a folder of its own, and give addresses twice",
        )
    oldest: tuple[tuple[RangeConf, ...], ...] = ((ipam,),) if ipam.subnet else ()
    if not oldest and (ipam.range_start or ipam.range_end or ipam.gateway):
        notes.append("rangeStart, rangeEnd and gateway beside ipam.ranges have no effect without ipam.subnet")
    configured = document.runtime_config.ip_ranges + oldest + ipam.ranges
    return Reading(document, read_sets(configured) if configured else (), tuple(notes[already:]))


def _sets(reading: Reading, call: Call) -> tuple[RangeSet, ...]:
    if not reading.sets:
        if reading.document.capabilities.ip_ranges and call.verb in ("CHECK", "STATUS"):
            return ()  # the runtime gives ranges with each ADD and repeats them with no STATUS
        return read_sets(())
    one_of_each_family((pool.version for pool in reading.sets), call.version)
    return reading.sets


def _wanted(document: Document, call: Call) -> tuple[Ip, ...]:
    """The addresses asked for in all three ways, each once."""
    by_args = [read_ip(text, "CNI_ARGS: IP", EnvError) for text in [call.args.get("IP", "")] if text]
    by_config = [
        read_ip(text, f"configuration.{where}[{index}]")
        for where, texts in (("args.cni.ips", document.args.cni.ips), ("runtimeConfig.ips", document.runtime_config.ips))
        for index, text in enumerate(texts)
        if text
    ]
    return tuple(dict.fromkeys(by_args + by_config))


def _read_resolv_conf(path: str, folder: str) -> Dns:
    try:
        descriptor = os.open(os.path.join(folder, path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            content = os.read(descriptor, LONGEST_RESOLV_CONF)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot read ipam.resolvConf {path}: {reason}", "correct the path, or leave the key out") from error
    return resolv.parse(content.decode("utf-8", "replace"))
