"""What an interface and its sysctls were like before tuning changed them: a file of the reference's form, for DEL. Pure.

``<dataDir>/<container id>_<interface>.json`` has the former value of each attribute that was to be changed, under the
reference's keys: either suite restores what the other one changed. Under ``podwire``, which the reference does not read, stand
the owner, by which GC finds the file; the sandbox and the interface's index, by which DEL knows a file of an earlier
attachment; the sysctls. Interfaces of one pod share most sysctls, and have a file each: the last to go brings them back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from cni.spec import sysctl
from cni.spec.errors import CNIError, ConfigError
from cni.spec.owner import of_interface
from cni.spec.result import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.net.facts import Link
    from cni.spec.owner import Owner

SUFFIX = ".json"

# Attributes of an interface by the reference's names, which are those of the keys that change them.
MAC, PROMISC, MTU, ALLMULTI, QUEUE = ATTRIBUTES = "mac", "promisc", "mtu", "allmulti", "txQLen"

_MAC = "^([0-9a-fA-F]{2}(:[0-9a-fA-F]{2})+)?$"
_Number = Annotated[int, Meta(ge=0, le=0x7FFFFFFF)]


class Own(msgspec.Struct, frozen=True):
    """What the reference does not note. ``index`` is 0 where no attribute of the interface was to be changed; ``mac`` and
    ``mtu`` are what it was to have at last. Of the files of one sandbox those with a higher ``turn`` came later.
    """

    owner: str = ""
    sandbox: str = ""
    index: int = 0
    mac: Annotated[str, Meta(pattern=_MAC)] = ""
    mtu: _Number = 0
    turn: _Number = 0
    sysctls: dict[str, str] = {}


class Backup(msgspec.Struct, frozen=True):
    """A file's content: former values of attributes, of sysctls by their path, and whose they are."""

    attributes: dict[str, Any] = {}
    own: Own | None = None

    @property
    def sysctls(self) -> dict[str, str]:
        """Former values of sysctls."""
        return {} if self.own is None else self.own.sysctls

    def without(self, key: str) -> Backup:
        """The same but for an attribute."""
        return Backup({name: value for name, value in self.attributes.items() if name != key}, self.own)

    def is_of(self, owner: Owner) -> bool:
        """Whether this attachment's values stand here; a file of the reference's says nothing against it.

        File names are ambiguous: ``a_b`` with ``c`` and ``a`` with ``b_c`` share one.
        """
        return self.own is None or self.own.owner == owner.label

    def is_at(self, owner: Owner) -> bool:
        """Whether they are of the same interface of the same container, be it on another network: then that one is over."""
        return self.own is None or of_interface(self.own.owner, owner.container_id, owner.ifname)

    def is_about(self, sandbox: str, index: int) -> bool:
        """Whether the values are of this sandbox and interface, and not of one of an earlier attachment of the same name."""
        own = self.own
        return own is None or (own.sandbox == sandbox and (not own.index or not index or own.index == index))


class Sibling(msgspec.Struct, frozen=True):
    """The file of another attachment of the same sandbox: path, bytes, content."""

    path: str
    raw: bytes
    backup: Backup

    @property
    def turn(self) -> int:
        """When it came, among those of the sandbox."""
        return 0 if self.backup.own is None else self.backup.own.turn


class _File(msgspec.Struct, frozen=True):
    """The file as it is read. Absent and ``null`` are the same to the reference, and so are an empty mac and an mtu of 0."""

    mac: Annotated[str, Meta(pattern=_MAC, max_length=95)] | None = None
    promisc: bool | None = None
    mtu: _Number | None = None
    allmulti: bool | None = None
    queue: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] | None = msgspec.field(name=QUEUE, default=None)
    podwire: Own | None = None


def file_of(folder: str, owner: Owner) -> str:
    """The path of an attachment's file."""
    return f"{folder}/{owner.container_id}_{owner.ifname}{SUFFIX}"


def attributes_of(link: Link) -> dict[str, Any]:
    """The attributes as an interface has them now."""
    return {MAC: link.mac, PROMISC: link.promisc, MTU: link.mtu, ALLMULTI: link.allmulti, QUEUE: link.txqlen}


def read(raw: bytes) -> Backup:
    """A file's content; CNIError for what neither suite has written, or what could do harm when it is restored."""
    try:
        file = msgspec.json.decode(raw, type=_File)
        for key in file.podwire.sysctls if file.podwire is not None else ():
            if sysctl.path(key, sysctl.IFNAME) != key:
                raise ConfigError(f"sysctl {key!r} is no path")
    except (msgspec.MsgspecError, ValueError, RecursionError, ConfigError) as error:
        raise CNIError(f"it is no backup of tuning: {error}") from error
    found = dict(
        zip(
            ATTRIBUTES,
            ((file.mac or "").lower() or None, file.promisc, file.mtu or None, file.allmulti, file.queue),
            strict=True,
        )
    )
    return Backup({key: value for key, value in found.items() if value is not None}, file.podwire)


def text(backup: Backup) -> bytes:
    """A file's bytes, laid out as the reference does it."""
    document = {key: backup.attributes[key] for key in ATTRIBUTES if key in backup.attributes}
    return to_json(document if backup.own is None else {**document, "podwire": backup.own}, indent=1)


def siblings(path: str, sandbox: str, found: Iterable[tuple[str, bytes]]) -> tuple[Sibling, ...]:
    """Those of some files, by path, that are of other attachments than ``path``'s and of the same sandbox, oldest first."""
    others = []
    for other, raw in found:
        try:
            seen = read(raw)
        except CNIError:
            continue  # whose it is cannot be told
        if other != path and seen.own is not None and seen.own.sandbox == sandbox:
            others.append(Sibling(other, raw, seen))
    return tuple(sorted(others, key=lambda each: each.turn))


def handed_over(mine: Backup, others: Iterable[Sibling]) -> tuple[dict[str, str], list[Sibling]]:
    """The sysctls that go back to their former values with an attachment, and the files of those that came later and want a
    value for one, too: it stays as it is, and the former value becomes that of the next of them.
    """
    left, heirs = dict(mine.sysctls), []
    turn = 0 if mine.own is None else mine.own.turn
    for other in others:
        own = other.backup.own
        inherited = {key: left.pop(key) for key in other.backup.sysctls if key in left} if other.turn > turn else {}
        if inherited and own is not None:
            own = msgspec.structs.replace(own, sysctls={**own.sysctls, **inherited})
            heirs.append(msgspec.structs.replace(other, backup=Backup(other.backup.attributes, own)))
    return left, heirs


def merged(new: Backup, old: Backup) -> Backup:
    """Both in one: where both have a value the older one is the original."""
    assert new.own is not None
    was = old.own or Own()
    own = msgspec.structs.replace(
        new.own,
        index=new.own.index or was.index,
        mac=new.own.mac or was.mac,
        mtu=new.own.mtu or was.mtu,
        turn=was.turn or new.own.turn,
        sysctls={**new.own.sysctls, **was.sysctls},
    )
    return Backup({**new.attributes, **old.attributes}, own)
