"""What the door to nftables remembers of the ruleset, and when it asks again, on a real kernel."""

from __future__ import annotations

import subprocess
from ipaddress import ip_interface
from typing import TYPE_CHECKING

import pytest

from cni.nft import masq
from cni.nft.apply import NftError
from tests.contract.nft_node import Doors, inside
from tests.netns.test_nft_masquerade import ONE, TWO, add, check, owners, remove

if TYPE_CHECKING:
    from tests.harness.node import Node

pytestmark = pytest.mark.root

TABLE = "add table inet t\nadd set inet t s { type ipv4_addr; }\nadd chain inet t c\nadd rule inet t c counter\n"


def names(doors: Doors, lately: bool = False) -> list[str]:
    """The rules of the chain, by what they do; asked in the way that is remembered."""
    told = doors.nft.chain("inet t c", lately)
    return [next(iter(part)) for entry in told if "rule" in entry for part in entry["rule"]["expr"]]


def elsewhere(text: str) -> None:
    """A change by another process."""
    subprocess.run(["nft", text], check=True)


def test_elements_of_our_own_leave_it_as_it_is(node: Node) -> None:
    def work(doors: Doors) -> bool:
        doors.nft.run(TABLE)
        first = doors.nft.chain("inet t c")
        for number in range(3):
            doors.nft.run(f"add element inet t s {{ 10.0.0.{number} }}\n")
        doors.nft.run("delete element inet t s { 10.0.0.1 }\nflush set inet t s\n")
        return doors.nft.chain("inet t c") is first

    assert inside(node, work), "nothing was asked again"


@pytest.mark.parametrize("change", ["add rule inet t c drop", "add element inet t s { 10.0.0.9 }; add rule inet t c drop"])
@pytest.mark.parametrize("then", ["", "add element inet t s { 10.0.0.1 }\n", "add element inet t s { 10.0.0.2 }\n"])
def test_changes_of_others_are_seen(node: Node, change: str, then: str) -> None:
    """At once, also where a change of our own comes after it, before anybody asks; one of them is of what is so already."""

    def work(doors: Doors) -> list[str]:
        doors.nft.run(TABLE + "add element inet t s { 10.0.0.2 }\n")
        assert names(doors) == ["counter"]
        elsewhere(change)
        if then:
            doors.nft.run(then)
        return names(doors)

    assert inside(node, work) == ["counter", "drop"]


def test_what_was_so_lately_is_told_for_a_while(node: Node) -> None:
    """To those for whom it is enough, while others see what is so."""

    def work(doors: Doors) -> list[list[str]]:
        doors.nft.LATELY_S = 3600
        doors.nft.run(TABLE)
        seen = [names(doors)]
        elsewhere("add rule inet t c drop")
        seen += [names(doors, lately=True), names(doors), names(doors, lately=True)]
        elsewhere("add rule inet t c accept")
        doors.nft.LATELY_S = 0
        return [*seen, names(doors, lately=True)]

    first, second, third = ["counter"], ["counter", "drop"], ["counter", "drop", "accept"]
    assert inside(node, work) == [first, first, second, second, third]


def test_what_one_asks_anew_leaves_to_others_what_they_know(node: Node) -> None:
    """A DEL that looks at the sets does not have the next ADD list chains."""

    def work(doors: Doors) -> bool:
        doors.nft.LATELY_S = 3600
        doors.nft.run(TABLE)
        first = doors.nft.chain("inet t c")
        elsewhere("add table inet other")
        doors.nft.sets("inet")
        return doors.nft.chain("inet t c", lately=True) is first

    assert inside(node, work)


def test_the_first_pod_of_a_subnet_by_another_process_is_known_at_once(node: Node) -> None:
    """To CHECK and DEL, that is: an ADD would not mind to write again what is there."""
    first, second = (ip_interface("10.1.0.2/24"),), (ip_interface("10.2.0.2/24"),)

    def work(doors: Doors) -> list[list[str]]:
        doors.nft.LATELY_S = 3600
        add(ONE, first, "nftables")(doors)
        doors.nft.sets("inet")
        add(TWO, second, "nftables")(Doors())
        told = [check(TWO, second)(doors)]
        remove(TWO, second)(doors)
        return [*told, check(TWO, second)(Doors())]

    assert inside(node, work) == [[], [f"10.2.0.2 is not masqueraded: no element in nftables table {masq.TABLE}"]]
    assert owners(node) == {"10.1.0.2": ONE.label}


def test_changes_of_our_own_are_seen(node: Node) -> None:
    def work(doors: Doors) -> list[str]:
        doors.nft.run(TABLE)
        assert names(doors) == ["counter"]
        doors.nft.run("add element inet t s { 10.0.0.1 }\nadd rule inet t c accept\n")
        return names(doors)

    assert inside(node, work) == ["counter", "accept"]


def test_after_a_refused_transaction_it_is_asked_again(node: Node) -> None:
    def work(doors: Doors) -> bool:
        doors.nft.run(TABLE)
        first = doors.nft.chain("inet t c")
        try:
            doors.nft.run("delete element inet t s { 10.0.0.1 }\n")
        except NftError:
            return doors.nft.chain("inet t c") is not first
        return False

    assert inside(node, work)


def test_it_does_not_grow(node: Node) -> None:
    """However many chains are asked for."""

    def work(doors: Doors) -> int:
        for number in range(500):
            doors.nft.chain(f"inet t c{number}")
            doors.nft.chain(f"ip nat CNI-{number}")
        return len(doors.nft._told)

    assert inside(node, work) <= 64
