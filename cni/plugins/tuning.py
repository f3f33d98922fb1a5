"""tuning: sysctls of the pod's network, and hardware address, MTU, flags and queue of an interface that another plugin made.

Keys, precedence, allow list and the file of former values are the reference's. On purpose different: sysctls are restored as
well (P#493), each is read back, a failed ADD leaves everything as it was, CHECK compares what the kernel compares, the file
goes with the attachment whatever became of the namespace, and the pod's MAC spoof check follows its hardware address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from cni.net import allowlist, backup
from cni.net.backup import ALLMULTI, ATTRIBUTES, MAC, MTU, PROMISC, QUEUE, Backup, Own, Sibling
from cni.net.configure import check_mtu
from cni.net.facts import Link, NeighbourSeen
from cni.net.ops import SANDBOX, Attempt, ConfirmSysctls, Plan, RemoveFile, SetSysctls, TuneLink, WriteFile
from cni.net.verify import own as own_part
from cni.nft import spoof
from cni.nft.ops import InCaseOfUndo
from cni.spec import sysctl
from cni.spec.addresses import Mac, parse_mac
from cni.spec.conf import NetConf, read, read_to_remove, repeated_keys
from cni.spec.errors import CNIError, ConfigError, EnvError, NotAvailable
from cni.spec.keys import MTU_RANGE
from cni.spec.mac import RuntimeConfig
from cni.spec.owner import Owner, of_network
from cni.spec.result import Interface, Result, Uint32

if TYPE_CHECKING:
    from cni.net.host import Host
    from cni.spec.call import Call

CREATES_INTERFACE = False
CHAINED = True

DATA_DIR = "/run/cni/tuning"

Sysctls = Annotated[
    dict[str, str],
    Meta(description="Values by names such as net.ipv4.conf.IFNAME.arp_filter; IFNAME stands for the pod's interface."),
]


class CniArgs(msgspec.Struct, frozen=True, rename="camel"):
    """``args.cni``: what is set here counts instead of the key of the same name."""

    OPEN: ClassVar[bool] = True
    sysctl: Sysctls = {}
    mac: Mac | None = None
    mtu: Annotated[int | None, Meta(description="Instead of mtu.")] = None
    promisc: Annotated[bool | None, Meta(description="Instead of promisc.")] = None
    allmulti: Annotated[bool | None, Meta(description="Instead of allmulti.")] = None
    tx_q_len: Annotated[Uint32 | None, Meta(description="Instead of txQLen.")] = None


class Args(msgspec.Struct, frozen=True):
    """``args``: what an orchestrator passes along (CNI conventions)."""

    OPEN: ClassVar[bool] = True
    cni: Annotated[CniArgs, Meta(description="Stronger than the keys of the same names; sysctls are added to those.")] = (
        CniArgs()
    )


class Conf(NetConf, frozen=True, kw_only=True, rename="camel"):
    """The keys of tuning."""

    sysctl: Sysctls = {}
    mac: Annotated[Mac | None, Meta(description="Hardware address of the interface.")] = None
    mtu: Annotated[int, Meta(description="MTU of the interface; 0 leaves it.")] = 0
    promisc: Annotated[bool, Meta(description="Receive what is for others, too; false leaves it as it is.")] = False
    allmulti: Annotated[bool | None, Meta(description="Receive all multicast, or not.")] = None
    tx_q_len: Annotated[Uint32 | None, Meta(description="How many packets may wait to be sent.")] = None
    data_dir: Annotated[str, Meta(description="Folder for former values, from ADD to DEL.")] = DATA_DIR
    args: Annotated[Args, Meta(description="What an orchestrator passes along.")] = Args()
    runtime_config: Annotated[RuntimeConfig, Meta(description="Set by the runtime for declared capabilities; here mac.")] = (
        RuntimeConfig()
    )

    def validate(self, call: Call) -> None:
        """ConfigError, or EnvError for what is in CNI_ARGS, where a value cannot be."""
        if not self.folder.startswith("/"):
            raise ConfigError(f"dataDir {self.data_dir!r} is not an absolute path", f"the default is {DATA_DIR}")
        for place in (("sysctl",), ("args", "cni", "sysctl")):
            for key in repeated_keys(call.stdin, *place):
                raise ConfigError(f"sysctl {key!r} stands in {'.'.join(place)} more than once", "remove all but one")
        mtu = self.mtu if self.args.cni.mtu is None else self.args.cni.mtu
        if mtu and mtu not in MTU_RANGE:
            raise ConfigError(f"invalid mtu {mtu}: expected {MTU_RANGE.start} to {MTU_RANGE.stop - 1}")
        self.attributes(call)
        self.sysctls(call)

    @property
    def folder(self) -> str:
        """The folder of former values."""
        return self.data_dir.rstrip("/") or ("/" if self.data_dir else DATA_DIR)

    @property
    def names(self) -> list[str]:
        """Every sysctl as it is spelled in the configuration."""
        return [*self.sysctl, *self.args.cni.sysctl]

    def attributes(self, call: Call) -> dict[str, Any]:
        """What attributes the interface is to have; those that are not in it are left as they are."""
        over = self.args.cni
        wanted: dict[str, Any] = {
            MAC: over.mac or self.runtime_config.mac or _mac_of(call) or self.mac,
            PROMISC: (self.promisc if over.promisc is None else over.promisc) or None,
            MTU: (self.mtu if over.mtu is None else over.mtu) or None,
            ALLMULTI: self.allmulti if over.allmulti is None else over.allmulti,
            QUEUE: self.tx_q_len if over.tx_q_len is None else over.tx_q_len,
        }
        return {key: wanted[key] for key in ATTRIBUTES if wanted[key] is not None}

    def sysctls(self, call: Call) -> dict[str, str]:
        """Values of sysctls by their path, in the order in which they are written."""
        found: dict[str, str] = {}
        for given in (self.sysctl, self.args.cni.sysctl):
            paths: dict[str, str] = {}
            for name, value in given.items():
                path = sysctl.path(name, call.ifname or sysctl.IFNAME)
                if path in paths and not sysctl.same(given[paths[path]], value):
                    raise ConfigError(f"sysctls {paths[path]!r} and {name!r} are the same, and have two values", "remove one")
                paths[path] = name
                found.pop(path, None)  # what comes later is written later
                found[path] = value
        return found


class AtMac(msgspec.Struct, frozen=True):
    """What hangs on the hardware address of an interface that is to have another: whether the pod may send from its own only,
    or from ``tuned``, which an ADD gave it or was about to; and the neighbours that the interface was told for good, which
    the kernel forgets.
    """

    guarded: bool = False
    tuned: str = ""
    neighbours: tuple[NeighbourSeen, ...] = ()


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a call sees. Parts that the verb does not need stay at their defaults.

    ``sysctls`` are those that can be read, ``mute``, for CHECK, those that can only be written. ``raw`` is what the file of
    former values has, ``backup`` what that means; ``foreign`` says that it is another attachment's. ``sandbox`` tells this
    sandbox from others, and ``siblings`` are the files of its other attachments. ``later_mtu`` is, for CHECK, what the file
    says that the interface was to have at last.
    """

    link: Link | None = None
    sysctls: dict[str, str] = {}
    mute: tuple[str, ...] = ()
    raw: bytes | None = None
    backup: Backup | None = None
    foreign: bool = False
    sandbox: str = ""
    siblings: tuple[Sibling, ...] = ()
    later_mtu: int = 0
    at_mac: AtMac = AtMac()


def parse(call: Call) -> Conf:
    """The configuration; of DEL and GC the folder alone, whatever the rest is like by now."""
    if call.verb in ("DEL", "GC"):
        given = {
            key: value for key, value in call.config.items() if key.casefold() in ("cniversion", "name", "type", "datadir")
        }
        return read_to_remove(msgspec.structs.replace(call, config=given), Conf)
    conf = read(call, Conf)
    conf.validate(call)
    return conf


def look(conf: Conf, call: Call, host: Host, known: Result | None) -> Facts:
    """The interface and the sysctls that are to be changed, or restored, and the file of former values."""
    if call.verb == "DEL":
        return _look_del(conf, call, host)
    attributes, sysctls = conf.attributes(call), conf.sysctls(call)
    link = host.sandbox.link(call.ifname) if attributes and host.sandbox is not None else None
    facts = Facts(link=link, sysctls=host.sysctls(SANDBOX, sysctls) if sysctls else {}, sandbox=host.sandbox_name)
    if call.verb == "CHECK":
        mute = tuple(key for key in sysctls if key not in facts.sysctls and host.write_only(SANDBOX, key))
        changed = link is not None and attributes.get(MTU, link.mtu) != link.mtu
        return msgspec.structs.replace(facts, mute=mute, later_mtu=_look_later_mtu(conf, call, host) if changed else 0)
    if conf.names:
        allowlist.check(conf.names, host.file(allowlist.PATH))
    if not attributes and not sysctls:
        return facts
    raw, found = _look_backup(conf, call, host)
    return msgspec.structs.replace(
        facts,
        raw=raw,
        backup=found,
        siblings=_look_siblings(conf, call, host) if sysctls else (),
        at_mac=_look_mac(call, host, link, attributes),
    )


def _look_backup(conf: Conf, call: Call, host: Host) -> tuple[bytes | None, Backup | None]:
    """The file of former values, and what it means. That of an earlier attachment of the same interface is taken over."""
    path = backup.file_of(conf.folder, call.owner)
    raw = host.file(path, follow=False)
    try:
        found = None if raw is None else backup.read(raw)
    except CNIError as error:
        call.notes.append(f"{path} is replaced: {error}")
        return raw, None
    if found is None or found.own is None or found.is_of(call.owner):
        return raw, found
    whose = found.own.owner
    if not found.is_at(call.owner):
        told = "both have a file of this name; end that one first, or remove the file if it is gone"
        raise CNIError(f"{path} has the former values of another attachment, {whose}", told)
    call.notes.append(f"{path} is taken over from {whose}, an earlier attachment of {call.ifname}")
    return raw, found


def _look_later_mtu(conf: Conf, call: Call, host: Host) -> int:
    """The MTU that the interface was to have at last: results of old versions do not tell of a later tuning's. 0 if unknown."""
    try:
        found = backup.read(host.file(backup.file_of(conf.folder, call.owner), follow=False) or b"")
    except CNIError:
        return 0
    return found.own.mtu if found.own is not None and found.is_of(call.owner) else 0


def _look_siblings(conf: Conf, call: Call, host: Host) -> tuple[Sibling, ...]:
    """The files of the sandbox's other attachments: a container has one id, with which their names begin."""
    found = []
    for name in host.files(conf.folder):
        if name.startswith(f"{call.container_id}_"):
            try:
                found.append((f"{conf.folder}/{name}", host.file(f"{conf.folder}/{name}", follow=False) or b""))
            except CNIError:
                continue  # a folder, a pipe: none of ours
    return backup.siblings(backup.file_of(conf.folder, call.owner), host.sandbox_name, found)


def _look_del(conf: Conf, call: Call, host: Host) -> Facts:
    """Nothing that is in the file's place keeps DEL from ending well."""
    if not conf.folder.startswith("/"):
        call.notes.append(f"dataDir {conf.data_dir!r} is not an absolute path: nothing can be there")
        return Facts(foreign=True)
    path = backup.file_of(conf.folder, call.owner)
    try:
        raw = host.file(path, follow=False)
        found = None if raw is None else backup.read(raw)
    except CNIError as error:
        call.notes.append(f"nothing is restored from {path}: {error}")
        return Facts()
    if found is None or host.sandbox is None:
        return Facts(foreign=found is not None and not found.is_of(call.owner), raw=raw)
    try:
        link = host.sandbox.link(call.ifname) if found.attributes else None
        mac = found.attributes.get(MAC, "")
        if link is not None and mac and len(mac) != len(link.mac):
            call.notes.append(
                f"{path} has {mac} as former hardware address of {call.ifname}, which has {link.mac}: it keeps that"
            )
            found = found.without(MAC)
        facts = Facts(
            link=link,
            sysctls=host.sysctls(SANDBOX, found.sysctls),
            raw=raw,
            backup=found,
            sandbox=host.sandbox_name,
            siblings=_look_siblings(conf, call, host) if found.sysctls else (),
        )
        at_mac = _look_mac(call, host, link, found.attributes, found.own.mac if found.own is not None else "")
    except CNIError as error:
        call.notes.append(f"nothing is restored from {path}, because the sandbox cannot be read: {error}")
        return Facts(raw=raw, foreign=not found.is_of(call.owner))
    return msgspec.structs.replace(facts, at_mac=at_mac, foreign=not found.is_of(call.owner))


def _look_mac(call: Call, host: Host, link: Link | None, attributes: dict[str, Any], tuned: str = "") -> AtMac:
    """Nothing where the hardware address stays: then it costs nothing."""
    if link is None or host.sandbox is None or MAC not in attributes or attributes[MAC] == link.mac == (tuned or link.mac):
        return AtMac()
    neighbours = host.sandbox.neighbours(call.ifname)
    try:
        return AtMac(spoof.guards(host, call.owner), tuned, neighbours)
    except CNIError as error:
        call.notes.append(f"a MAC spoof check stays as it is, if there is one, and stops what the pod sends: {error}")
        return AtMac(False, tuned, neighbours)


def plan_add(conf: Conf, call: Call, facts: Facts, lease: Result) -> tuple[Plan, Result]:
    """Note the former values, then change: the interface first, because its MTU decides whether it has sysctls of IPv6."""
    attributes, sysctls = conf.attributes(call), conf.sysctls(call)
    if not attributes and not sysctls:
        return [], lease
    if attributes and facts.link is None:
        raise CNIError(
            f"there is no interface {call.ifname!r} in sandbox {call.netns!r}", "put tuning after the plugin that makes it"
        )
    wrong_mtu = check_mtu(attributes.get(MTU, 0), (ip.address for ip in own_part(lease, call.ifname).ips))
    if wrong_mtu:
        raise ConfigError(wrong_mtu)
    plan: Plan = _plan_backup(conf, call, facts, attributes)
    if facts.link is not None:
        plan += _plan_link(call.owner, call.ifname, facts.link, attributes, facts.at_mac)
    former = [(key, facts.sysctls[key]) for key in sysctls if key in facts.sysctls]
    # One may have changed another, or have been taken in part: in the end all go back once more, and what does not is told.
    plan += [InCaseOfUndo(op=SetSysctls(side=SANDBOX, values=(pair,), must=True)) for pair in reversed(former)]
    for key, value in sysctls.items():
        before = ((key, facts.sysctls[key]),) if key in facts.sysctls else ()
        plan.append(SetSysctls(side=SANDBOX, values=((key, value),), must=True, before=before))
    if sysctls:
        plan.append(ConfirmSysctls(values=tuple(sysctls.items())))
    return plan, _result(call, lease, attributes)


def report(conf: Conf, result: Result, host: Host) -> Result:
    """The result; nothing in it is the kernel's choice."""
    return result


def plan_del(conf: Conf, call: Call, facts: Facts) -> Plan:
    """Bring back former values where there still is what had them, and remove the file. Nothing of it is worth a DEL that
    fails: the plugins before this one would not be asked to remove theirs (C#924).
    """
    if facts.foreign:
        return []
    plan: Plan = []
    seen, link = facts.backup, facts.link
    if seen is not None and seen.is_about(facts.sandbox, link.index if link is not None else 0):
        if link is not None:
            plan += _plan_link(call.owner, call.ifname, link, seen.attributes, facts.at_mac)
        sysctls, heirs = backup.handed_over(seen, facts.siblings)
        plan += [WriteFile(path=heir.path, content=backup.text(heir.backup), before=heir.raw) for heir in heirs]
        one_by_one = [SetSysctls(side=SANDBOX, values=(pair,), must=True) for pair in sysctls.items()]
        if any(facts.sysctls.get(key, value) != value for key, value in sysctls.items()):
            # One may forbid another's value, or change it: first backwards, then forwards all of them take theirs.
            first = [Attempt(op=op, notes=[]) for op in reversed(one_by_one[1:])]
            plan += [*first, *one_by_one]
    plan.append(RemoveFile(path=backup.file_of(conf.folder, call.owner)))
    return [op if isinstance(op, Attempt) else Attempt(op=op, notes=call.notes) for op in plan]


def check(conf: Conf, call: Call, facts: Facts, prev: Result) -> list[str]:
    """What is not as ADD left it. A hardware address or MTU that prevResult has instead is a later plugin's."""
    problems = []
    attributes = conf.attributes(call)
    if attributes and facts.link is None:
        return [f"interface {call.ifname} is gone from the sandbox"]
    seen = backup.attributes_of(facts.link) if facts.link is not None else {}
    for key, wanted in attributes.items():
        if seen[key] != wanted and seen[key] not in _told(prev, call.ifname, key, facts.later_mtu):
            problems.append(f"interface {call.ifname} has {key} {_spelled(seen[key])}, expected {_spelled(wanted)}")
    for key, value in conf.sysctls(call).items():
        if key in facts.mute:
            continue
        if key not in facts.sysctls:
            problems.append(f"sysctl {key} cannot be read any more, expected {value!r}")
        elif not sysctl.same(facts.sysctls[key], value):
            problems.append(f"sysctl {key} is {facts.sysctls[key]!r}, expected {value!r}")
    return problems


def plan_gc(conf: Conf, call: Call, keep: frozenset[Owner], host: Host) -> Plan:
    """Remove the files of this network's attachments that are not in use any more. Those of the reference name no network, and
    stay until DEL.
    """
    if not conf.folder.startswith("/"):
        return []
    labels = {owner.label for owner in keep}
    plan: Plan = []
    for name in host.files(conf.folder):
        path = f"{conf.folder}/{name}"
        try:
            raw = host.file(path, follow=False)
            seen = backup.read(raw or b"")
        except CNIError:
            continue  # whose it is cannot be told
        if seen.own is not None and of_network(seen.own.owner, call.network) and seen.own.owner not in labels:
            plan.append(RemoveFile(path=path, why=f"the former values of {seen.own.owner}"))
    return plan


def status(conf: Conf, call: Call, host: Host) -> None:
    """NotAvailable (50) when former values could not be kept, or a sysctl is not allowed on this node."""
    reason = host.unwritable(conf.folder)
    if reason:
        raise NotAvailable(f"dataDir cannot be used: {reason}")
    if conf.names:
        try:
            allowlist.check(conf.names, host.file(allowlist.PATH))
        except CNIError as error:
            raise NotAvailable(error.msg, error.details) from error


def _mac_of(call: Call) -> str:
    """The hardware address in CNI_ARGS; empty without one."""
    text = call.args.get("MAC", "")
    try:
        return str(parse_mac(text)) if text else ""
    except ValueError as error:
        raise EnvError(f"invalid MAC in CNI_ARGS: {error}") from error


def _plan_backup(conf: Conf, call: Call, facts: Facts, attributes: dict[str, Any]) -> Plan:
    """Note the values as they are, but for those that stand in the file already: they are the original ones."""
    now = backup.attributes_of(facts.link) if facts.link is not None else {}
    index = facts.link.index if facts.link is not None else 0
    own = Own(
        owner=call.owner.label,
        sandbox=facts.sandbox,
        index=index,
        mac=str(attributes.get(MAC, "")),
        mtu=attributes.get(MTU, 0),
        turn=1 + max((sibling.turn for sibling in facts.siblings), default=0),
        sysctls=facts.sysctls,
    )
    new = Backup({key: now[key] for key in attributes}, own)
    old = facts.backup
    if old is not None and old.is_about(facts.sandbox, index):
        new = backup.merged(new, old)
        if new == old:
            return []
    return [WriteFile(path=backup.file_of(conf.folder, call.owner), content=backup.text(new), before=facts.raw)]


def _plan_link(owner: Owner, ifname: str, link: Link, attributes: dict[str, Any], at_mac: AtMac) -> Plan:
    """Change what differs. A pod that may send from its own hardware address only may send from the new one beforehand."""
    now = backup.attributes_of(link)
    changes = [(key, value) for key, value in attributes.items() if value != now[key]]
    plan: Plan = []
    if at_mac.guarded:
        former = tuple(dict.fromkeys(mac for mac in (link.mac, at_mac.tuned) if mac))
        plan.append(spoof.move(owner, former, attributes[MAC]))
    for key, value in changes:
        neighbours = at_mac.neighbours if key == MAC else ()
        plan.append(TuneLink(name=ifname, key=key, value=value, before=now[key], neighbours=neighbours))
    return plan


def _result(call: Call, prev: Result, attributes: dict[str, Any]) -> Result:
    """prevResult with the interface as it is now. Where no entry of the name is in a sandbox, all of the name are meant."""
    changes = {key: str(value) if key == MAC else value for key, value in attributes.items() if key in (MAC, MTU)}
    mine = _entries(prev, call.ifname)
    return msgspec.structs.replace(
        prev,
        interfaces=tuple(
            msgspec.structs.replace(entry, **changes) if changes and entry in mine else entry for entry in prev.interfaces
        ),
    )


def _entries(prev: Result, ifname: str) -> list[Interface]:
    """prevResult's entries of the interface."""
    named = [entry for entry in prev.interfaces if entry.name == ifname]
    return [entry for entry in named if entry.sandbox] or named


def _told(prev: Result, ifname: str, key: str, later_mtu: int) -> list[Any]:
    """What prevResult, or for its MTU the file, says of an attribute of the interface."""
    entries = _entries(prev, ifname)
    told: dict[str, list[Any]] = {
        MAC: [entry.mac.lower() for entry in entries],
        MTU: [*(entry.mtu for entry in entries), later_mtu],
    }
    return told.get(key, [])


def _spelled(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
