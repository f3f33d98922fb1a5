"""What an interface and its sysctls were like before tuning changed them: a file of the reference's form, for DEL. Pure.

``<dataDir>/<container id>_<interface>.json`` has the former value of each attribute that was to be changed, under the
reference's keys: either suite restores what the other one changed. Under ``podwire``, which the reference does not read, stand
the owner, by which GC finds the file; the sandbox and the interface's index, by which DEL knows a file of an earlier
attachment; the sysctls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from cni.spec import sysctl
from cni.spec.errors import CNIError, ConfigError
from cni.spec.result import to_json

if TYPE_CHECKING:
    from cni.net.facts import Link
    from cni.spec.owner import Owner

SUFFIX = ".json"

# Attributes of an interface by the reference's names, which are those of the keys that change them.
MAC, PROMISC, MTU, ALLMULTI, QUEUE = ATTRIBUTES = "mac", "promisc", "mtu", "allmulti", "txQLen"

_MAC = "^([0-9a-fA-F]{2}(:[0-9a-fA-F]{2})+)?$"
_Number = Annotated[int, Meta(ge=0, le=0x7FFFFFFF)]


class Own(msgspec.Struct, frozen=True):
    """What the reference does not note. ``index`` is 0 where no attribute of the interface was to be changed; ``mac`` is the
    hardware address that it was to have.
    """

    owner: str = ""
    sandbox: str = ""
    index: int = 0
    mac: Annotated[str, Meta(pattern=_MAC)] = ""
    sysctls: dict[str, str] = {}


class Backup(msgspec.Struct, frozen=True):
    """A file's content: former values of attributes, of sysctls by their path, and whose they are."""

    attributes: dict[str, Any] = {}
    own: Own | None = None

    @property
    def sysctls(self) -> dict[str, str]:
        """Former values of sysctls."""
        return {} if self.own is None else self.own.sysctls

    def is_of(self, owner: Owner) -> bool:
        """Whether this attachment's values stand here; a file of the reference's says nothing against it.

        File names are ambiguous: ``a_b`` with ``c`` and ``a`` with ``b_c`` share one.
        """
        return self.own is None or self.own.owner == owner.label

    def is_about(self, sandbox: str, index: int) -> bool:
        """Whether the values are of this sandbox and interface, and not of one of an earlier attachment of the same name."""
        own = self.own
        return own is None or (own.sandbox == sandbox and (not own.index or not index or own.index == index))


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


def merged(new: Backup, old: Backup) -> Backup:
    """Both in one: where both have a value the older one is the original."""
    assert new.own is not None
    old_index, old_mac = (old.own.index, old.own.mac) if old.own is not None else (0, "")
    own = msgspec.structs.replace(
        new.own, index=new.own.index or old_index, mac=new.own.mac or old_mac, sysctls={**new.own.sysctls, **old.sysctls}
    )
    return Backup({**new.attributes, **old.attributes}, own)
