"""What the door to nftables remembers of the ruleset, and when it asks again, on a real kernel."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from cni.nft.apply import NftError
from tests.contract.nft_node import Doors, inside

if TYPE_CHECKING:
    from tests.harness.node import Node

pytestmark = pytest.mark.root

TABLE = "add table inet t\nadd set inet t s { type ipv4_addr; }\nadd chain inet t c\nadd rule inet t c counter\n"


def names(doors: Doors) -> list[str]:
    """The rules of the chain, by what they do; asked in the way that is remembered."""
    return [next(iter(part)) for entry in doors.nft.chain("inet t c") if "rule" in entry for part in entry["rule"]["expr"]]


def impatient(doors: Doors) -> Doors:
    """Doors that trust nothing for a moment."""
    doors.nft.FRESH_S = 0.0
    return doors


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
@pytest.mark.parametrize("then", ["", "add element inet t s { 10.0.0.1 }\n"])
def test_changes_of_others_are_seen(node: Node, change: str, then: str) -> None:
    """Also where a change of our own comes after it, before anybody asks."""

    def work(doors: Doors) -> list[str]:
        impatient(doors).nft.run(TABLE)
        assert names(doors) == ["counter"]
        elsewhere(change)
        if then:
            doors.nft.run(then)
        return names(doors)

    assert inside(node, work) == ["counter", "drop"]


def test_changes_of_others_are_seen_soon(node: Node) -> None:
    """Not at once, but after FRESH_S."""

    def work(doors: Doors) -> list[list[str]]:
        doors.nft.FRESH_S = 0.3
        doors.nft.run(TABLE)
        seen = [names(doors)]
        elsewhere("add rule inet t c drop")
        seen.append(names(doors))
        time.sleep(0.3)
        return [*seen, names(doors)]

    assert inside(node, work) == [["counter"], ["counter"], ["counter", "drop"]]


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
