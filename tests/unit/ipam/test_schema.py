"""The schemas of ``ipam``: they refuse what the providers refuse, and keys that have no effect."""

from __future__ import annotations

import importlib
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import schema
from cni.spec.addresses import Cidr, Ip, parse_cidr, parse_ip
from cni.spec.call import Call
from cni.spec.errors import CNIError
from ipam.registry import PROVIDERS

SCHEMAS = schema.schemas()


def fits(ipam: dict[str, Any]) -> bool:
    """Whether the provider's own schema, and the same as a part of bridge's, accept it; they must agree."""
    alone = jsonschema.Draft202012Validator(SCHEMAS[f"{ipam['type']}.schema.json"]).is_valid(ipam)
    within = jsonschema.Draft202012Validator(SCHEMAS["bridge.schema.json"]).is_valid({"type": "bridge", "ipam": ipam})
    assert alone == within
    return alone


def runs(ipam: dict[str, Any], **config: Any) -> bool:
    """Whether the provider accepts it for ADD, and has no remark."""
    provider = importlib.import_module(PROVIDERS[ipam["type"]])
    call = Call(verb="ADD", ifname="eth0", network="net", version="1.0.0", config={"name": "net", "ipam": ipam, **config})
    try:
        provider.parse(call)
    except CNIError:
        return False
    return not call.notes


def host_local(*pool: dict[str, str], **keys: Any) -> dict[str, Any]:
    return {"type": "host-local", "ranges": [list(pool)], **keys}


def static(**address: str) -> dict[str, Any]:
    return {"type": "static", "addresses": [address]}


@pytest.mark.parametrize(
    "ipam",
    [
        host_local({"subnet": "10.0.0.0/30"}),
        host_local({"subnet": "fd00::/126", "rangeStart": "fd00::1", "rangeEnd": "fd00::2", "gateway": "fd00::3"}),
        {"type": "host-local", "ranges": [[{"subnet": "::/0"}], [{"subnet": "0.0.0.0/0"}]]},
        {
            "type": "host-local",
            "subnet": "10.0.0.0/30",
            "rangeStart": "10.0.0.1",
            "rangeEnd": "10.0.0.2",
            "gateway": "10.0.0.3",
        },
        static(address="10.0.0.1/32"),
        static(address="fd00::1/128", gateway="fd00::2"),
        {"type": "static"},
    ],
    ids=str,
)
def test_what_both_accept(ipam: dict[str, Any]) -> None:
    assert fits(ipam)
    assert runs(ipam)


@pytest.mark.parametrize(
    "ipam",
    [
        host_local(),
        host_local({}),
        host_local({"rangeStart": "10.0.0.1"}),
        host_local({"subnet": "10.0.0.0/31"}),
        host_local({"subnet": "10.0.0.0/32"}),
        host_local({"subnet": "fd00::/127"}),
        host_local({"subnet": "fd00::/128"}),
        host_local({"subnet": ":::/64"}),
        host_local({"subnet": "1::2::3/64"}),
        host_local({"subnet": "10.0.0.0/24"}, rangeStart="10.0.0.1"),
        host_local({"subnet": "10.0.0.0/24"}, rangeEnd="10.0.0.1"),
        host_local({"subnet": "10.0.0.0/24"}, gateway="10.0.0.1"),
        {"type": "host-local", "subnet": "10.0.0.0/31"},
        {"type": "host-local", "rangeStart": "10.0.0.1"},
        static(),
        static(gateway="10.0.0.1"),
        static(address=":::1/64"),
    ],
    ids=str,
)
def test_what_both_refuse(ipam: dict[str, Any]) -> None:
    assert not fits(ipam)
    assert not runs(ipam)


@pytest.mark.parametrize("ipam", [{"type": "host-local"}, {"type": "host-local", "ranges": []}], ids=str)
def test_ranges_may_come_from_the_runtime(ipam: dict[str, Any]) -> None:
    assert fits(ipam)
    assert runs(ipam, runtimeConfig={"ipRanges": [[{"subnet": "10.0.0.0/24"}]]})


NEARLY = st.one_of(
    st.text("0123456789abcdefF:", max_size=20),
    st.lists(st.sampled_from(["0", "a", "12", "f00d", ":", "::", "", "10000"]), max_size=10).map(":".join),
    st.lists(st.sampled_from(["0", "a", "f00d"]), max_size=9).map(":".join),
)


def is_address(text: str) -> bool:
    try:
        return bool(parse_ip(text))
    except ValueError:
        return False


@given(NEARLY)
def test_the_pattern_knows_an_ipv6_address(text: str) -> None:
    assert bool(re.search(schema.ADDRESSES[Ip]["pattern"], text)) == is_address(text)
    assert bool(re.search(schema.ADDRESSES[Cidr]["pattern"], f"{text}/64")) == is_address(text)


@given(st.ip_addresses(v=6), st.integers(0, 128), st.data())
def test_every_spelling_of_an_ipv6_address_fits(address: Any, length: int, data: st.DataObject) -> None:
    groups = address.exploded.split(":")
    low, high = sorted(data.draw(st.tuples(st.integers(0, 8), st.integers(0, 8))))
    zeros = ":".join(groups[:low]) + "::" + ":".join(groups[high:]) if high > low else ":".join(groups)
    dotted = ":".join(groups[:6]) + ":192.0.2.1"
    for text in (str(address), address.exploded.upper(), zeros, dotted):
        assert re.search(schema.ADDRESSES[Ip]["pattern"], text)
        assert re.search(schema.ADDRESSES[Cidr]["pattern"], f"{text}/{length}")
        assert parse_cidr(f"{text}/128")
