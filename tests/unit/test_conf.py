"""The ready-to-use configurations and their schemas: complete, in step with the code, and accepted by it."""

from __future__ import annotations

import importlib
import json
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import schema
from cni.registry import PLUGINS
from cni.spec.addresses import Cidr, Ip, Mac, parse_mac
from cni.spec.call import Call
from cni.spec.errors import ConfigError
from ipam.registry import PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Iterator

CONF = Path(__file__).resolve().parents[2] / "conf"
LISTS = sorted(CONF.glob("*.conflist"))
SCHEMAS = schema.schemas()

Json = dict[str, Any]


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(
        SCHEMAS[f"{name}.schema.json"], format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


def call(config: Json, **more: Any) -> Call:
    return Call(
        verb="ADD",
        container_id="one",
        netns="/run/netns/one",
        ifname="eth0",
        network=config["name"],
        version=config["cniVersion"],
        config=config,
        **more,
    )


def plugin_configs(path: Path) -> list[Json]:
    """The plugins' configurations as libcni hands them out."""
    document = json.loads(path.read_text())
    return [{**plugin, "name": document["name"], "cniVersion": document["cniVersion"]} for plugin in document["plugins"]]


def parse(config: Json) -> tuple[Any, list[str]]:
    """The plugin's and the provider's record of a configuration, and what they noted about it."""
    notes: list[str] = []
    conf = importlib.import_module(PLUGINS[config["type"]]).parse(call(config, notes=notes))
    provider = config.get("ipam", {}).get("type")
    if provider:
        importlib.import_module(PROVIDERS[provider]).parse(call(config, notes=notes))
    return conf, notes


# -- the files --


def test_there_are_files() -> None:
    assert len(LISTS) >= 15


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_conflist_fits_its_schema(path: Path) -> None:
    document = json.loads(path.read_text())
    validator("conflist").validate(document)
    for config in plugin_configs(path):
        validator(config["type"]).validate(config)
        if "ipam" in config:
            validator(config["ipam"]["type"]).validate(config["ipam"])


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_conflist_is_read_by_the_plugins_without_a_remark(path: Path) -> None:
    for config in plugin_configs(path):
        _, notes = parse(config)
        assert notes == []


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_conflist_is_laid_out_like_the_others(path: Path) -> None:
    text = path.read_text()
    assert text == json.dumps(json.loads(text), indent=2) + "\n"


def test_conflists_can_stand_side_by_side() -> None:
    documents = [json.loads(path.read_text()) for path in LISTS]
    names = [document["name"] for document in documents]
    assert len(set(names)) == len(names)
    bridges = [p["bridge"] for document in documents for p in document["plugins"] if p["type"] == "bridge" and not vlans(p)]
    assert len(set(bridges)) == len(bridges)
    subnets = [subnets_of(plugin) for document in documents for plugin in document["plugins"]]
    flat = [(i, subnet) for i, found in enumerate(subnets) for subnet in found]
    assert len(flat) >= 15
    for i, one in flat:
        assert one.is_private
        assert not [other for j, other in flat if i != j and one.version == other.version and one.overlaps(other)]


def vlans(plugin: Json) -> bool:
    return "vlan" in plugin or "vlanTrunk" in plugin


def subnets_of(plugin: Json) -> list[Any]:
    ipam = plugin.get("ipam", {})
    found = {ip_network(part["subnet"]) for pool in ipam.get("ranges", ()) for part in pool}
    return sorted(found | {ip_network(entry["address"], strict=False) for entry in ipam.get("addresses", ())}, key=str)


def test_the_readme_explains_every_file() -> None:
    told = (CONF / "README.md").read_text()
    assert [path.name for path in LISTS if f"`{path.name}`" not in told] == []


# -- the schemas --


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_schema_in_the_tree_is_the_generated_one(name: str) -> None:
    """When this fails: python -m cni.schema conf/schema."""
    assert (CONF / "schema" / name).read_text() == schema.text(SCHEMAS[name])


def test_there_is_a_schema_for_every_plugin_and_nothing_else() -> None:
    assert {path.name for path in (CONF / "schema").iterdir()} == set(SCHEMAS)
    assert set(SCHEMAS) == {f"{name}.schema.json" for name in (*PLUGINS, *PROVIDERS, "conflist")}


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize("name", sorted((*PLUGINS, *PROVIDERS)))
def test_every_key_of_the_record_is_in_the_schema(name: str) -> None:
    module = importlib.import_module((PLUGINS | PROVIDERS)[name])
    record = module.Conf if name in PLUGINS else module.Ipam
    missing: list[str] = []
    compare(record, SCHEMAS[f"{name}.schema.json"], name, missing)
    assert missing == []


def compare(record: type[msgspec.Struct], told: Json, where: str, missing: list[str]) -> None:
    """Collect the keys that a schema lacks, in a record and in the records inside of it."""
    for field in msgspec.structs.fields(record):
        here = f"{where}.{field.encode_name}"
        if field.encode_name not in told["properties"]:
            missing.append(here)
            continue
        inner = told["properties"][field.encode_name]
        kind = msgspec.inspect.type_info(field.type)
        for found in structs(kind):
            if found.__name__ == "Ipam":
                continue  # described by the provider's schema
            while "items" in inner:
                inner = inner["items"]
            compare(found, inner, here, missing)


def structs(kind: Any) -> list[type[msgspec.Struct]]:
    if isinstance(kind, msgspec.inspect.StructType):
        return [kind.cls]
    inner = [getattr(kind, name) for name in ("type", "item_type") if hasattr(kind, name)]
    return [found for one in (*inner, *getattr(kind, "types", ())) for found in structs(one)]


@pytest.mark.parametrize("name", sorted((*PLUGINS, *PROVIDERS)))
def test_every_key_is_described(name: str) -> None:
    assert list(undescribed(SCHEMAS[f"{name}.schema.json"], name)) == []


def undescribed(told: Json, where: str) -> Iterator[str]:
    """The keys without a description, at any depth."""
    while "items" in told:
        told = told["items"]
    for key, inner in told.get("properties", {}).items():
        if "description" not in inner:
            yield f"{where}.{key}"
        yield from undescribed(inner, f"{where}.{key}")


GOOD: Json = {
    "cniVersion": "1.0.0",
    "name": "net",
    "plugins": [
        {"type": "bridge", "vlan": 5, "mtu": 1400, "ipam": {"type": "host-local", "subnet": "10.0.0.0/24"}},
        {"type": "somebody-else", "any": "key"},
        {"type": "bridge", "ipam": {"type": "somebody-else", "any": "key"}},
        {"type": "loopback"},
    ],
}


def test_a_good_list_fits() -> None:
    validator("conflist").validate(GOOD)


def bridge_with(**keys: Any) -> Json:
    return {**GOOD, "plugins": [{"type": "bridge", **keys}]}


def ipam(**keys: Any) -> Json:
    return bridge_with(ipam=keys)


WRONG: dict[str, tuple[Json, str]] = {
    "no name": ({key: GOOD[key] for key in ("cniVersion", "plugins")}, "'name' is a required property"),
    "bad name": ({**GOOD, "name": "a b"}, "'a b' does not match"),
    "unknown version": ({**GOOD, "cniVersion": "2.0.0"}, "'2.0.0' is not one of"),
    "no plugin": ({**GOOD, "plugins": []}, "should be non-empty|too short"),
    "misspelt key of the list": ({**GOOD, "plugin": []}, "'plugin' was unexpected"),
    "plugin without a type": ({**GOOD, "plugins": [{"bridge": "br0"}]}, "'type' is a required property"),
    "misspelt key": (bridge_with(isGatway=True), "'isGatway' was unexpected"),
    "a string for a bool": (bridge_with(isGateway="true"), "'true' is not of type 'boolean'"),
    "a float for an int": (bridge_with(mtu=1400.5), "1400.5 is not of type 'integer'"),
    "mtu too small": (bridge_with(mtu=67), "67 is not valid"),
    "vlan too large": (bridge_with(vlan=4095), "4095 is greater than the maximum"),
    "vlan in a trunk": (bridge_with(vlanTrunk=[{"id": 0}]), "0 is less than the minimum"),
    "misspelt key in a trunk": (bridge_with(vlanTrunk=[{"minId": 1}]), "'minId' was unexpected"),
    "unknown backend": (bridge_with(ipMasqBackend="pf"), "'pf' is not one of"),
    "bad hardware address": (bridge_with(args={"cni": {"mac": "02:00:00"}}), "'02:00:00' does not match"),
    "ipam without a type": (ipam(subnet="10.0.0.0/8"), "'type' is a required property"),
    "misspelt key of ipam": (ipam(type="host-local", subnets="10.0.0.0/8"), "'subnets' was unexpected"),
    "bad subnet": (ipam(type="host-local", subnet="10.0.0.300/8"), "does not match"),
    "subnet without a length": (ipam(type="host-local", subnet="10.0.0.0"), "does not match"),
    "range not in a set": (ipam(type="host-local", ranges=[{"subnet": "10.0.0.0/8"}]), "is not of type 'array'"),
    "bad gateway": (ipam(type="host-local", ranges=[[{"gateway": "10.0.0"}]]), "'10.0.0' does not match"),
    "relative dataDir": (ipam(type="host-local", dataDir="leases"), "'leases' does not match"),
    "route without a destination": (ipam(type="host-local", routes=[{"gw": "10.0.0.1"}]), "'dst' is a required property"),
    "address without a length": (ipam(type="static", addresses=[{"address": "10.0.0.1"}]), "does not match"),
    "key of another provider": (ipam(type="static", ranges=[]), "'ranges' was unexpected"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_list_does_not_fit(name: str) -> None:
    document, says = WRONG[name]
    with pytest.raises(jsonschema.ValidationError, match=says):
        validator("conflist").validate(document)


REFUSED = {
    "ipMasqBackend": ["pf", "nft"],
    "mtu": [-1, 67, 65536],
    "vlan": [-1, 4095],
    "vlanTrunk": [[{"id": 0}], [{"id": 4095}], [{"minID": 0, "maxID": 5}], [{"minID": 5, "maxID": 4095}]],
}
ACCEPTED = {
    "ipMasqBackend": ["", "nftables", "iptables"],
    "mtu": [0, 68, 1500, 65535],
    "vlan": [0, 1, 4094],
    "vlanTrunk": [[], [{}], [{"id": 1}], [{"id": 4094}], [{"minID": 1, "maxID": 4094}]],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in REFUSED.items() for value in values])
def test_what_the_schema_narrows_the_plugin_refuses(key: str, value: Any) -> None:
    config = {"cniVersion": "1.0.0", "name": "net", "type": "bridge", key: value}
    assert not validator("bridge").is_valid(config)
    with pytest.raises(ConfigError):
        parse(config)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in ACCEPTED.items() for value in values])
def test_what_the_schema_allows_the_plugin_accepts(key: str, value: Any) -> None:
    config = {"cniVersion": "1.0.0", "name": "net", "type": "bridge", key: value}
    validator("bridge").validate(config)
    assert parse(config)[1] == []


def test_relative_folders_are_refused_by_both() -> None:
    config = {"cniVersion": "1.0.0", "name": "net", "type": "bridge"}
    config |= {"ipam": {"type": "host-local", "subnet": "10.0.0.0/24", "dataDir": "leases"}}
    assert not validator("bridge").is_valid(config)
    with pytest.raises(ConfigError, match="not absolute"):
        parse(config)


ADDRESS = st.ip_addresses()


def fits(kind: Any, text: str) -> bool:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    return jsonschema.Draft202012Validator(schema.ADDRESSES[kind], format_checker=checker).is_valid(text)


@given(ADDRESS)
def test_every_address_fits(address: Any) -> None:
    assert fits(Ip, str(address))
    assert fits(Ip, address.exploded)
    assert not fits(Ip, f"{address}/8")


@given(ADDRESS, st.data())
def test_every_subnet_fits(address: Any, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, address.max_prefixlen))
    kind = IPv4Interface if address.version == 4 else IPv6Interface
    assert fits(Cidr, str(kind((address, length))))
    assert not fits(Cidr, f"{address}/{address.max_prefixlen + 1}")
    assert not fits(Cidr, str(address))


@given(st.binary(min_size=6, max_size=6).map(bytearray))
def test_every_hardware_address_fits(raw: bytearray) -> None:
    raw[0] = raw[0] & 0xFE | 0x02
    groups = raw.hex()
    for text in (raw.hex(":"), raw.hex("-").upper(), ".".join((groups[:4], groups[4:8], groups[8:]))):
        assert parse_mac(text) and fits(Mac, text)
    assert not fits(Mac, groups)


def test_v4_mapped_addresses_fit() -> None:
    assert fits(Ip, "::ffff:192.0.2.1")
    assert ip_address("::ffff:192.0.2.1").version == 6
