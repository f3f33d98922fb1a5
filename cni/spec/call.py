"""One CNI call as data: what the runtime asked, after the protocol's own checks and before any plugin's.

``cni.dispatch`` makes a Call from the environment and stdin (``check_env`` and ``parse_args`` here have the rules); plugins
only read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from cni.spec.conf import Attachment, check_ifname, check_name, check_text, convert, lookup
from cni.spec.errors import EnvError
from cni.spec.owner import Owner

if TYPE_CHECKING:
    from collections.abc import Mapping

VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")

# Which variables each verb needs (spec section 3, "Parameters" and each verb's "Input"). CNI_PATH is needed only to run another
# plugin, and asked for there: the specification calls it optional where the reference demands it.
REQUIRED = {
    "CNI_CONTAINERID": ("ADD", "CHECK", "DEL"),
    "CNI_NETNS": ("ADD", "CHECK"),
    "CNI_IFNAME": ("ADD", "CHECK", "DEL"),
}

# Keys of CNI_ARGS that some plugin of this suite reads. All of them are accepted by all plugins, because the runtime sends the
# same string to every member of a chain; the Go bridge refuses ``IP=...`` that is meant for its own IPAM.
ARGS_KEYS = ("IP", "GATEWAY", "MAC")


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A checked call. ``notes`` collects remarks for stderr; everything else is read-only.

    ``folder`` is where the caller's relative paths begin; empty for the folder this process is in.
    """

    verb: str
    container_id: str = ""
    netns: str = ""
    ifname: str = ""
    args: dict[str, str] = {}
    path: tuple[str, ...] = ()
    network: str = ""
    version: str = ""
    config: dict[str, Any] = {}
    stdin: bytes = b""
    env: dict[str, str] = {}
    folder: str = ""
    notes: list[str] = msgspec.field(default_factory=list)

    @property
    def owner(self) -> Owner:
        """The attachment this call is about."""
        return Owner(self.network, self.container_id, self.ifname)

    @property
    def valid_owners(self) -> frozenset[Owner] | None:
        """GC: the attachments of this network that are in use; None when the configuration does not say.

        Absent (or null) and empty differ: empty means that none is valid, absent that nothing is known (the Go type cannot tell
        them apart). libcni sends the list under both names, because the specification once used the second one
        (containernetworking/cni#1101).
        """
        for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
            listed = lookup(self.config, key)
            if listed is not None:
                entries = convert(listed, tuple[Attachment, ...], key)
                return frozenset(Owner(self.network, entry.container_id, entry.ifname) for entry in entries)
        return None


def check_env(env: Mapping[str, str]) -> None:
    """The environment's checks in the reference's order: bad values at once, then all missing ones together.

    EnvError (4) for both. A variable that is set but empty counts as missing.
    """
    verb = env.get("CNI_COMMAND", "")
    missing = [] if verb else ["CNI_COMMAND"]
    for name, verbs in REQUIRED.items():
        value = env.get(name, "")
        if verb not in verbs:
            continue
        if not value:
            missing.append(name)
        elif name == "CNI_CONTAINERID" and not check_name(value):
            raise EnvError("invalid characters in containerID", f"CNI_CONTAINERID is {value!r}")
        elif name == "CNI_IFNAME":
            check_ifname(value, "CNI_IFNAME, the interface name,")
        else:
            check_text(value, "CNI_NETNS")
    if missing:
        raise EnvError(f"required env variables [{','.join(missing)}] missing")


def parse_args(text: str) -> dict[str, str]:
    """``CNI_ARGS``: ``K=V;K2=V2`` as a mapping; EnvError (4) names the pair that is wrong.

    Every part has exactly one ``=``. A key outside ARGS_KEYS is an error unless ``IgnoreUnknown`` is ``1`` or ``true``;
    runtimes such as kubelet send it with their ``K8S_*`` keys.
    """
    if not text:
        return {}
    pairs: dict[str, str] = {}
    for part in text.split(";"):
        key, equals, value = part.partition("=")
        if not equals or "=" in value:
            raise EnvError(f"invalid CNI_ARGS pair {part!r}", "expected KEY=VALUE pairs joined by ';'")
        pairs[key] = value
    ignore = pairs.pop("IgnoreUnknown", "0").lower()
    if ignore not in ("0", "1", "true", "false"):
        raise EnvError(f"invalid CNI_ARGS: IgnoreUnknown is {ignore!r}", "expected 1, 0, true or false")
    unknown = [key for key in pairs if key not in ARGS_KEYS]
    if unknown and ignore in ("0", "false"):
        raise EnvError(f"CNI_ARGS: unknown args {unknown}", "add IgnoreUnknown=1 to have unknown keys ignored")
    return {key: value for key, value in pairs.items() if key in ARGS_KEYS}
