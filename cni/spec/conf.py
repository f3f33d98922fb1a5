"""Decoding of network configurations: bytes to a document, a document to a record, and the checks that every plugin shares.

A plugin's ``parse`` calls ``read(call, Conf)`` with a record of its own; there is no other way to get one. Decoding follows
what clients of the Go plugins rely on (reference: encoding/json): keys match without regard to case with an exact match
preferred, ``null`` leaves the default, an empty string leaves an address unset. Wrong types are refused with the path of the
field. Keys that nobody knows are legal by the specification; they are noted on stderr, because a misspelt key is the most
common mistake there is.
"""

from __future__ import annotations

import re
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from cni.spec.addresses import Cidr, Ip, Mac, decode_address
from cni.spec.errors import ConfigError, DecodeError, EnvError

if TYPE_CHECKING:
    from cni.spec.call import Call

T = TypeVar("T")

ALPHANUMERIC = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
NAME_CHARACTERS = ALPHANUMERIC | frozenset("_.-")

# What Unicode and Go's unicode.IsSpace call white space; Python's str.isspace counts four separators more.
WHITE_SPACE = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {chr(c) for c in range(0x2000, 0x200B)}

# In JSON without an inner object a string before a colon is a key, and nothing else is.
_KEY = re.compile(rb'("(?:[^"\\]|\\.)*")\s*:')

# IFNAMSIZ of the kernel is 16 bytes with the closing NUL.
IFNAME_MAX_BYTES = 15

# Keys that the specification and libcni put beside a plugin's own.
COMMON_KEYS = frozenset(
    (
        *("cniVersion", "cniVersions", "name", "type", "capabilities", "args", "runtimeConfig", "prevResult", "ipam", "dns"),
        *("disableCheck", "disableGC", "cni.dev/valid-attachments", "cni.dev/attachments"),
    )
)


class Dns(msgspec.Struct, frozen=True, omit_defaults=True):
    """Resolver settings (spec section 2, ``dns``)."""

    nameservers: Annotated[tuple[str, ...], Meta(description="Addresses of resolvers, the preferred one first.")] = ()
    domain: Annotated[str, Meta(description="The local domain, for names without a dot.")] = ""
    search: Annotated[tuple[str, ...], Meta(description="Domains to try for short names, in order.")] = ()
    options: Annotated[tuple[str, ...], Meta(description="Options as resolv.conf has them, such as ndots:5.")] = ()


class Attachment(msgspec.Struct, frozen=True):
    """One entry of GC's list of attachments that are still in use."""

    container_id: str = msgspec.field(name="containerID")
    ifname: str


class Ipam(msgspec.Struct, frozen=True):
    """What a main plugin reads of ``ipam``: who provides addresses. The rest is the provider's."""

    OPEN: ClassVar[bool] = True
    type: str = ""


class NetConf(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The keys every plugin shares; a plugin's record extends it."""

    cni_version: str = ""
    name: str = ""
    type: str = ""
    dns: Dns = Dns()


def decode_document(stdin: bytes) -> dict[str, Any]:
    """The configuration as a JSON object; DecodeError (6) for anything else, with the place of the error."""
    if not stdin.strip():
        why = "stdin is empty: the configuration of one plugin is expected there"
        raise DecodeError("cannot decode the network configuration on stdin as JSON", why)
    try:
        document = msgspec.json.decode(stdin)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        document = _decode_leniently(stdin, error)
    if document is None:
        return {}
    if not isinstance(document, dict):
        kind = type(document).__name__
        raise DecodeError("the network configuration on stdin is not a JSON object", f"expected an object, got {kind}")
    return document


def _decode_leniently(stdin: bytes, refusal: Exception) -> Any:
    """What msgspec refuses and Go takes: huge numbers, and half a surrogate pair, which Go replaces (U+FFFD). Anything else is
    an error.
    """
    import json  # only after a refusal: 8 ms

    def no_constant(name: str) -> float:
        raise ValueError(f"{name} is not JSON")

    try:
        text = json.dumps(json.loads(stdin.decode("utf-8"), parse_constant=no_constant), ensure_ascii=False)
        return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except RecursionError as error:
        raise DecodeError("cannot decode the network configuration on stdin as JSON", "nested too deeply") from error
    except ValueError as error:
        raise DecodeError("cannot decode the network configuration on stdin as JSON", str(refusal)) from error


def lookup(document: dict[str, Any], key: str) -> Any:
    """A key's value as Go finds it: the exact key, else the last that differs in case only, else None."""
    if key in document:
        return document[key]
    folded = key.casefold()
    return next((value for name, value in reversed(document.items()) if name.casefold() == folded), None)


def repeated_keys(stdin: bytes, *place: str) -> list[str]:
    """Keys that stand more than once in an object whose values are all strings; ``place`` are the keys that lead there. A
    document that was decoded has the last of each, where the reference refuses them.
    """
    raw: Any = stdin
    try:
        for key in place:
            raw = lookup(msgspec.json.decode(raw or b"{}", type=dict[str, msgspec.Raw]), key)
    except msgspec.MsgspecError:
        return []
    names = [msgspec.json.decode(name) for name in _KEY.findall(bytes(raw or b""))]
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def text_at(document: dict[str, Any], key: str) -> str:
    """A top-level string; empty when absent or null; DecodeError when it is anything else."""
    value = lookup(document, key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DecodeError(f"key {key!r} of the network configuration must be a string, got {type(value).__name__}")
    return value


def check_one_plugin(document: dict[str, Any]) -> None:
    """Refuse a network list (ConfigError): of its keys a plugin would know hardly any, and wire a pod without addresses."""
    if isinstance(lookup(document, "plugins"), list) and not lookup(document, "type"):
        raise ConfigError(
            "this is a network list, and a plugin serves one object of it",
            "give a plugin one object of its key 'plugins', with the list's name and cniVersion; cnitool and runtimes do that",
        )


def convert(document: Any, kind: type[T], where: str, notes: list[str] | None = None) -> T:
    """A decoded document as a record of ``kind``; ConfigError names the path below ``where``.

    ``notes`` receives a line for each key that the record does not know.
    """
    try:
        folded = _fold(document, kind, where, [] if notes is None else notes)
        return msgspec.convert(folded, kind, dec_hook=decode_address)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        raise ConfigError(f"invalid {where}{path.rstrip('`')}: {reason}") from error
    except RecursionError as error:
        raise ConfigError(f"invalid {where}: nested too deeply") from error


def read(call: Call, kind: type[T]) -> T:
    """The call's configuration as a plugin's record; unknown keys are noted on the call."""
    return convert(call.config, kind, "configuration", call.notes)


def read_to_remove(call: Call, kind: type[T]) -> T:
    """The configuration of a DEL or GC. What cannot be read of it is done without: a runtime that passed nonsense to ADD passes
    it to DEL, too, and has to be rid of the pod. Who gave the addresses has to be known.
    """
    try:
        return read(call, kind)
    except ConfigError as error:
        call.notes.append(f"going on without the keys of the configuration: {error}")
    needed = {key.casefold() for key in ("cniVersion", "name", "type", "ipam")}
    given = {key: value for key, value in call.config.items() if key.casefold() in needed}
    return convert(given, kind, "configuration", [])


def check_name(name: str) -> bool:
    """Whether a container id or network name is one alphanumeric and then alphanumerics or ``_.-`` (spec section 2)."""
    return bool(name) and name[0] in ALPHANUMERIC and NAME_CHARACTERS.issuperset(name)


def check_network_name(name: str) -> str:
    """The network's name, or ConfigError (7) as the reference words it."""
    if not name:
        raise ConfigError("missing network name", "the configuration has no 'name'")
    if not check_name(name):
        raise ConfigError("invalid characters found in network name", name)
    return name


def check_text(text: str, what: str, error: type[Exception] = EnvError) -> str:
    """Text that a result can carry: JSON cannot name a thing by bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise error(f"{what} {text!r} is not UTF-8, so that no result could name it") from None
    return text


def check_ifname(ifname: str, what: str = "interface name", error: type[Exception] = EnvError) -> str:
    """An interface name by the kernel's rules (dev_valid_name), as libcni checks them.

    ``what`` names the variable or key in the message, ``error`` is the class to raise.
    """
    if not ifname:
        raise error(f"{what} is empty")
    size = len(check_text(ifname, what, error).encode())
    if size > IFNAME_MAX_BYTES:
        raise error(f"{what} is too long: {ifname!r} has {size} bytes, it should be less than 16 characters")
    if ifname in (".", ".."):
        raise error(f"{what} cannot be . or ..")
    if any(character in "/:\0" or character in WHITE_SPACE for character in ifname):
        raise error(f"{what} {ifname!r} contains / or : or a whitespace character")
    return ifname


def check_new_ifname(ifname: str, what: str = "interface name", error: type[Exception] = EnvError) -> str:
    """The name of an interface that can be made under exactly this name: the kernel takes ``%d`` for a template, and ``all``
    and ``default`` for the sysctls of every interface.
    """
    if "%" in ifname or ifname in ("all", "default"):
        raise error(f"{what} {ifname!r} cannot be the name of a new interface")
    return check_ifname(ifname, what, error)


def _fold(value: Any, kind: Any, where: str, notes: list[str]) -> Any:
    """Bring a document into the shape msgspec expects: canonical keys, no nulls, unset addresses left out."""
    kind = _without_none(kind)
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _fold_object(value, kind, where, notes)
    if isinstance(value, list) and get_origin(kind) in (tuple, list):
        inner = get_args(kind)[0]
        return [_fold(item, inner, f"{where}[{index}]", notes) for index, item in enumerate(value)]
    return value


def _fold_object(value: dict[str, Any], kind: type[msgspec.Struct], where: str, notes: list[str]) -> dict[str, Any]:
    fields = _fields(kind)
    by_folded = {name.casefold(): name for name in fields}
    folded: dict[str, Any] = {}
    for key, item in value.items():
        name = key if key in fields else by_folded.get(key.casefold())
        if name is None:
            _note_unknown(key, kind, fields, where, notes)
        elif key != name and name in value:
            continue  # the exact spelling is there too, and wins
        elif item is not None and not (item == "" and _without_none(fields[name]) in (Ip, Cidr, Mac)):
            folded[name] = _fold(item, fields[name], f"{where}.{name}", notes)
    return folded


def _note_unknown(key: str, kind: type[msgspec.Struct], fields: dict[str, Any], where: str, notes: list[str]) -> None:
    # The common keys belong to the whole configuration; in a part of it they are as misspelt as any other.
    if getattr(kind, "OPEN", False) or (key in COMMON_KEYS and issubclass(kind, NetConf)):
        return
    from difflib import get_close_matches  # seldom needed, and 5 ms to import

    close = get_close_matches(key, fields, 1)
    hint = f", did you mean {close[0]!r}?" if close else ""
    notes.append(f"key {key!r} of the {where} is not known to this plugin and has no effect{hint}")


def _without_none(kind: Any) -> Any:
    """``X | None`` as ``X``."""
    if get_origin(kind) in (Union, UnionType):
        inner = [arg for arg in get_args(kind) if arg is not type(None)]
        return inner[0] if len(inner) == 1 else kind
    return kind


_FIELDS: dict[type[msgspec.Struct], dict[str, Any]] = {}


def _fields(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """A record's fields by their name in JSON, with resolved types; computed once for each record."""
    if kind not in _FIELDS:
        hints = get_type_hints(kind)
        names = zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)
        _FIELDS[kind] = {encoded: hints[name] for encoded, name in names}
    return _FIELDS[kind]
