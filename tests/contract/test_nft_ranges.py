"""The masquerade's rule with ranges that are left alone: what nft lists of it is recognised, whatever form it gives them."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network
from typing import TYPE_CHECKING

import pytest

from cni.nft import masq
from tests.contract.nft_node import inside
from tests.fakes import FakeNft, Ruleset

if TYPE_CHECKING:
    from cni.nft.apply import Nft

LABEL = "podwire/net/c1/eth0"

RANGES = {
    "none": [],
    "itself": ["10.1.0.0/24"],
    "one that makes two of a size": ["10.1.1.0/24"],
    "neighbours that make no prefix": ["10.1.1.0/24", "10.1.2.0/24"],
    "around it": ["10.0.0.0/8"],
    "within another": ["10.9.0.0/16", "10.9.5.0/24"],
    "a single address": ["10.9.9.9/32"],
    "both families": ["10.9.0.0/16", "fd00:9::/64", "fd00:9:0:1::/64", "fd00:1::7/128"],
    "many": [f"10.{number}.0.0/24" for number in range(2, 250)],
}


@pytest.mark.parametrize("where", ["fake", pytest.param("real", marks=pytest.mark.root)])
@pytest.mark.parametrize("address", ["10.1.0.5/24", "fd00:1::5/64"])
@pytest.mark.parametrize("name", RANGES)
def test_the_rule_is_recognised(request: pytest.FixtureRequest, where: str, name: str, address: str) -> None:
    """Its own ranges, and no others: those of one family only count for its pods."""
    ranges = tuple(map(ip_network, RANGES[name]))
    cidr = ip_interface(address)
    more = (*ranges, ip_network("172.16.0.0/16" if cidr.version == 4 else "fd77::/64"))
    subnet = masq.subnet_name(cidr)

    def recognised(nft: Nft | FakeNft) -> list[bool]:
        found = []
        for written in (ranges, more):
            nft.run(masq.add(LABEL, cidr, written))
            chain = nft.chain(f"inet {masq.TABLE} {subnet}")
            found += [masq.masquerades(subnet, chain, asked[::-1]) for asked in (ranges, more)]
        return found

    seen = (
        recognised(FakeNft(Ruleset()))
        if where == "fake"
        else inside(request.getfixturevalue("node"), lambda it: recognised(it.nft))
    )
    assert seen == [True, False, False, True]
