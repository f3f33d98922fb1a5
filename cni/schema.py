"""JSON Schemas of configurations, made from the records that the plugins themselves read. For editors and for checks.

``python -m cni.schema conf/schema`` writes them. Nothing here is imported by a plugin call. A schema says more than a record
can: it forbids keys that nobody knows, because a misspelt key is the most common mistake there is, and it gives the ranges of
numbers. What takes the values of two keys to judge (``hairpinMode`` with ``promiscMode``) is left to the plugins.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import msgspec

from cni.net.facts import MACVLAN_MODES
from cni.net.macvlan import QUEUE_RANGE
from cni.net.shaping import BURST_MAX, BURST_MIN, RATE_MAX, RATE_MIN
from cni.net.vlans import VID_MAX
from cni.nft.firewall import BACKENDS as FIREWALLS
from cni.nft.firewall import POLICIES
from cni.plugins.firewall import CHAIN_NAME
from cni.registry import PLUGINS
from cni.spec import versions
from cni.spec.addresses import Cidr, Ip, Mac
from cni.spec.conf import COMMON_KEYS
from cni.spec.keys import BACKENDS, MTU_RANGE
from ipam.registry import PROVIDERS

Json = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"

_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_V4 = rf"{_OCTET}(\.{_OCTET}){{3}}"
_GROUP = "[0-9a-fA-F]{1,4}"
_LAST = rf"({_GROUP}:{_GROUP}|[0-9]{{1,3}}(\.[0-9]{{1,3}}){{3}})"  # the last 32 bits
_V6 = "|".join(  # RFC 3986, IPv6address: no "::", or one with so many groups before it as those behind it leave
    [f"({_GROUP}:){{6}}{_LAST}", f"::({_GROUP}:){{5}}{_LAST}"]
    + [f"(({_GROUP}:){{0,{4 - after}}}{_GROUP})?::({_GROUP}:){{{after}}}{_LAST}" for after in range(4, -1, -1)]
    + [f"(({_GROUP}:){{0,5}}{_GROUP})?::{_GROUP}", f"(({_GROUP}:){{0,6}}{_GROUP})?::"]
)
_BYTE = r"[0-9a-fA-F]{2}"
_QUAD = r"[0-9a-fA-F]{4}"


def _cidr(longest: tuple[str, str]) -> str:
    """A pattern of address and length, given patterns of the lengths of either family."""
    return rf"^({_V4}/({longest[0]})|({_V6})/({longest[1]}))$"


ADDRESSES: dict[Any, Json] = {
    Ip: {
        "type": "string",
        "pattern": rf"^({_V4}|{_V6})$",
        "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}],
        "description": "An IPv4 or IPv6 address.",
    },
    Cidr: {
        "type": "string",
        "pattern": _cidr(("[0-9]|[12][0-9]|3[0-2]", "[0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]")),
        "description": "An IPv4 or IPv6 address with its prefix length.",
    },
    Mac: {
        "type": "string",
        "pattern": rf"^({_BYTE}(:{_BYTE}){{5}}|{_BYTE}(-{_BYTE}){{5}}|{_QUAD}(\.{_QUAD}){{2}})$",
        "description": "A 48-bit hardware address, such as 02:00:00:00:00:01.",
    },
}

_NAME = {"type": "string", "pattern": "^[a-zA-Z0-9][a-zA-Z0-9_.-]*$"}
_VERSION = {"type": "string", "enum": list(versions.SUPPORTED)}
_OBJECT: Json = {"type": "object"}
_ATTACHMENTS = {"type": "array", "items": _OBJECT, "description": "Set by the runtime for GC: the attachments in use."}

# The keys that the specification and libcni put into any plugin's configuration, cni.spec.conf.COMMON_KEYS.
COMMON: dict[str, Json] = {
    "cniVersion": {
        **_VERSION,
        "description": "Version of the specification; in a list it stands once, beside the list's name.",
    },
    "cniVersions": {"type": "array", "items": {"type": "string"}, "description": "As in a network list."},
    "name": {**_NAME, "description": "Name of the network; in a list it stands once, for all plugins."},
    "type": {"type": "string", "description": "Name of the plugin's executable."},
    "capabilities": {
        "type": "object",
        "additionalProperties": {"type": "boolean"},
        "description": "What the runtime is asked to fill in at runtimeConfig, for example ips, ipRanges or mac.",
    },
    "args": {**_OBJECT, "description": "What an orchestrator passes along."},
    "runtimeConfig": {**_OBJECT, "description": "Set by the runtime for the capabilities that were declared."},
    "prevResult": {**_OBJECT, "description": "Set by the runtime: the result so far."},
    "ipam": {**_OBJECT, "description": "Who gives addresses."},
    "dns": {**_OBJECT, "description": "Resolver settings."},
    "disableCheck": {"type": "boolean", "description": "As in a network list."},
    "disableGC": {"type": "boolean", "description": "As in a network list."},
    "cni.dev/valid-attachments": _ATTACHMENTS,
    "cni.dev/attachments": _ATTACHMENTS,
}

# A subnet that has room for addresses to lease.
_SUBNET = {"pattern": _cidr(("[0-9]|[12][0-9]|30", "[0-9]|[1-9][0-9]|1[01][0-9]|12[0-6]"))}

_MTU = {"anyOf": [{"const": 0}, {"minimum": MTU_RANGE.start, "maximum": MTU_RANGE.stop - 1}]}

_RATE = {"anyOf": [{"const": 0}, {"minimum": RATE_MIN, "maximum": RATE_MAX}]}
_BURST = {"anyOf": [{"const": 0}, {"minimum": BURST_MIN, "maximum": BURST_MAX}]}
_LIMITS = {
    f"{direction}{what}": told for direction in ("ingress", "egress") for what, told in (("Rate", _RATE), ("Burst", _BURST))
}

VETH = ("bridge", "host-gw", "ptp")

# What the types of a record cannot say, by the plugin and the path of the key. The plugins check the same when they parse.
NARROWER: dict[tuple[str, str], Json] = {
    **{(plugin, "ipMasqBackend"): {"enum": ["", *BACKENDS]} for plugin in VETH},
    **{(plugin, "mtu"): _MTU for plugin in (*VETH, "macvlan")},
    **{("bandwidth", f"{where}{key}"): told for where in ("", "runtimeConfig.bandwidth.") for key, told in _LIMITS.items()},
    ("firewall", "backend"): {"enum": ["", *FIREWALLS]},
    ("firewall", "ingressPolicy"): {"enum": ["", *POLICIES]},
    ("firewall", "iptablesAdminChainName"): {"pattern": f"^({CHAIN_NAME})?$"},
    ("bridge", "vlan"): {"minimum": 0, "maximum": VID_MAX},
    ("bridge", "vlanTrunk[].minID"): {"minimum": 1, "maximum": VID_MAX},
    ("bridge", "vlanTrunk[].maxID"): {"minimum": 1, "maximum": VID_MAX},
    ("bridge", "vlanTrunk[].id"): {"minimum": 1, "maximum": VID_MAX},
    ("host-local", ""): {"dependentRequired": {key: ["subnet"] for key in ("rangeStart", "rangeEnd", "gateway")}},
    ("host-local", "dataDir"): {"pattern": "^(/.*)?$"},
    ("host-local", "subnet"): _SUBNET,
    ("host-local", "ranges[]"): {"minItems": 1},
    ("host-local", "ranges[][]"): {"required": ["subnet"]},
    ("host-local", "ranges[][].subnet"): _SUBNET,
    ("macvlan", "mode"): {"enum": ["", *MACVLAN_MODES]},
    ("macvlan", "bcqueuelen"): {"minimum": QUEUE_RANGE.start, "maximum": QUEUE_RANGE.stop - 1},
    ("tuning", "mtu"): _MTU,
    ("tuning", "args.cni.mtu"): _MTU,
    ("tuning", "dataDir"): {"pattern": "^(/.*)?$"},
    ("static", "addresses[]"): {"required": ["address"]},
}

# Keys of a network list beside ``plugins``, as libcni reads them (its conf.go).
LIST: dict[str, Json] = {
    "$schema": {"type": "string"},
    "name": {**_NAME, "description": "Name of the network. Leases are kept under it, so it should not change."},
    "cniVersion": {**_VERSION, "description": "Version of the specification."},
    "cniVersions": {
        "type": "array",
        "items": {"type": "string"},
        "description": "Further versions that this list works with; newer runtimes choose the highest they know.",
    },
    "disableCheck": {"type": ["boolean", "string"], "description": "Have the runtime's CHECK succeed without asking plugins."},
    "disableGC": {"type": ["boolean", "string"], "description": "Have the runtime leave out garbage collection."},
    "loadOnlyInlinedPlugins": {
        "type": ["boolean", "string"],
        "description": "Do not add plugins from the folder that has the network's name.",
    },
}


def schemas() -> dict[str, Json]:
    """Every schema by the name of its file."""
    plugins = {name: _plugin(name) for name in sorted(PLUGINS)}
    providers = {name: _provider(name) for name in sorted(PROVIDERS)}
    files = {name: _document(schema, providers if "ipam" in schema["properties"] else {}) for name, schema in plugins.items()}
    files |= {name: _document(schema, {}) for name, schema in providers.items()}
    files["conflist"] = _document(_network_list(plugins), plugins | providers)
    return {f"{name}.schema.json": schema for name, schema in files.items()}


def text(schema: Json) -> str:
    """A schema as its file has it."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def main(folder: str) -> None:
    """Write every schema into a folder."""
    for name, schema in schemas().items():
        with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
            file.write(text(schema))


def _plugin(name: str) -> Json:
    record = importlib.import_module(PLUGINS[name]).Conf
    schema = _of_record(record, name)
    common = {key: dict(schema) for key, schema in COMMON.items() if key != "ipam"}
    properties = {**common, **schema["properties"]}
    for key, told in common.items():
        properties[key] = {**told, **schema["properties"].get(key, {})}
    properties["cniVersion"], properties["name"] = common["cniVersion"], common["name"]
    properties["type"] = {"const": name, "description": COMMON["type"]["description"]}
    if "ipam" in properties:
        choice = _choice(sorted(PROVIDERS))
        properties["ipam"] = {
            "type": "object",
            "description": properties["ipam"].get("description", COMMON["ipam"]["description"]),
            "properties": {"type": {"type": "string", "description": "Name of the IPAM plugin's executable.", **choice[0]}},
            "required": ["type"],
            "allOf": choice[1],
        }
    return {**schema, "title": f"Configuration of the plugin {name}", "properties": properties, "required": ["type"]}


def _provider(name: str) -> Json:
    schema = _of_record(importlib.import_module(PROVIDERS[name]).Ipam, name)
    schema["properties"]["type"] = {"const": name, "description": "Name of the IPAM plugin's executable."}
    return {**schema, "title": f"Key ipam of a configuration that uses {name}", "required": ["type"]}


def _network_list(plugins: dict[str, Json]) -> Json:
    examples, branches = _choice(sorted(plugins))
    plugin = {
        "type": "object",
        "properties": {"type": {"type": "string", "description": "Name of the plugin's executable.", **examples}},
        "required": ["type"],
        "allOf": branches,
    }
    return {
        "title": "CNI network configuration list",
        "description": "Plugins of others are allowed in a list; their keys are not looked at.",
        "type": "object",
        "properties": {
            **LIST,
            "plugins": {"type": "array", "items": plugin, "minItems": 1, "description": "The plugins, called in this order."},
        },
        "required": ["cniVersion", "name"],
        "additionalProperties": False,
    }


def _choice(names: list[str]) -> tuple[Json, list[Json]]:
    """Suggestions for a ``type``, and the branches that apply the schema of the one that was chosen."""
    branches = [
        {"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": {"$ref": f"#/$defs/{name}"}}
        for name in names
    ]
    return {"examples": names}, branches


def _document(schema: Json, definitions: dict[str, Json]) -> Json:
    return {"$schema": DRAFT, **schema, **({"$defs": definitions} if definitions else {})}


def _of_record(record: type[msgspec.Struct], name: str) -> Json:
    """A record's schema in one piece: references resolved, nulls (legal, and never useful) left out."""
    (reference,), parts = msgspec.json.schema_components((record,), schema_hook=ADDRESSES.__getitem__)
    closed = {kind.__name__: not getattr(kind, "OPEN", False) for kind in _records(record)}
    return _settled(reference, parts, closed, name, "")


def _settled(schema: Json, parts: dict[str, Json], closed: dict[str, bool], name: str, path: str) -> Json:
    if "$ref" in schema:
        part = schema["$ref"].rpartition("/")[2]
        told = {"description": schema["description"]} if "description" in schema else {}
        properties = {
            key: _settled(inner, parts, closed, name, f"{path}.{key}".lstrip("."))
            for key, inner in parts[part]["properties"].items()
        }
        return {
            "type": "object",
            **told,
            "properties": properties,
            "required": parts[part]["required"],
            "additionalProperties": not closed[part],
            **NARROWER.get((name, path), {}),
        }
    schema = dict(schema)
    alternatives = [inner for inner in schema.get("anyOf", ()) if inner != {"type": "null"}]
    if len(alternatives) < len(schema.get("anyOf", ())):
        del schema["anyOf"]
        only = alternatives[0]
        schema = {**_settled(only, parts, closed, name, path), **schema}
        if schema.get("default", "") is None:
            del schema["default"]
    if "items" in schema:
        schema["items"] = _settled(schema["items"], parts, closed, name, f"{path}[]")
    if schema.get("default", "") == "":
        schema.pop("default", None)
    return {**schema, **NARROWER.get((name, path), {})}


def _records(record: type[msgspec.Struct]) -> set[type[msgspec.Struct]]:
    """A record and all that it contains."""
    found: set[type[msgspec.Struct]] = set()
    waiting: list[Any] = [msgspec.inspect.type_info(record)]
    while waiting:
        info = waiting.pop()
        if isinstance(info, msgspec.inspect.StructType) and info.cls not in found:
            found.add(info.cls)
            waiting += [field.type for field in info.fields]
        waiting += getattr(info, "types", ())
        waiting += [getattr(info, inner) for inner in ("type", "item_type") if hasattr(info, inner)]
    return found


assert set(COMMON) == COMMON_KEYS, "COMMON describes another set of keys than cni.spec.conf knows"

if __name__ == "__main__":
    main(sys.argv[1])
