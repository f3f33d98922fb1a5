"""Many calls at once, and many pods: nothing of one call may be lost by another, and cost must not grow with pods."""

from __future__ import annotations

import random
import time
from ipaddress import ip_interface
from statistics import median
from typing import TYPE_CHECKING

import pytest

from cni.nft import masq, masquerade, spoof
from cni.spec.owner import Owner
from tests.contract.nft_node import Child, Doors, inside
from tests.harness import observe
from tests.netns.test_nft_masquerade import ONE, POD_ONE, TWO, add, check, collect, owners, remove

if TYPE_CHECKING:
    from cni.spec.addresses import Cidr
    from tests.harness.node import Node

pytestmark = pytest.mark.root

PROCESSES = 20
ROUNDS = 15


def pod(number: int) -> tuple[Owner, tuple[Cidr, ...]]:
    """Pods of three subnets; every tenth has an address of its own."""
    owner = Owner(f"net{number % 3}", f"c{number}", "eth0")
    low = f"{number >> 8}.{number & 255}"
    length = 32 if number % 10 == 0 else 16
    return owner, (ip_interface(f"10.{number % 3}.{low}/{length}"), ip_interface(f"fd00:{number % 3}::{number:x}/64"))


def test_processes_adding_and_removing_at_once(node: Node) -> None:
    """Each process adds and removes its own pods in its own order; those that were not removed are all there at the end."""

    def churn(seed: int) -> list[int]:
        def work(doors: Doors) -> list[int]:
            dice = random.Random(seed)
            there: set[int] = set()
            for _ in range(ROUNDS):
                number = 1 + seed + PROCESSES * dice.randrange(6)
                owner, addresses = pod(number)
                if number in there:
                    known = addresses if dice.random() < 0.5 else ()  # else the whole table is read, and swept
                    facts = masquerade.look(doors, owner, known, True, "nftables", "DEL")
                    doors.run(masquerade.plan_del(owner, facts))
                    there.discard(number)
                else:
                    facts = masquerade.look(doors, owner, addresses, True, "nftables", "ADD")
                    doors.run(masquerade.plan_add(owner, addresses, "nftables", facts))
                    there.add(number)
                if dice.random() < 0.1:
                    doors.run(masquerade.plan_gc(doors, "nobody", frozenset()))
            return sorted(there)

        return Child(node, work).result  # type: ignore[return-value]

    waiting = [churn(seed) for seed in range(PROCESSES)]
    left = [number for result in waiting for number in result()]  # type: ignore[operator]
    expected = {str(address.ip): owner.label for owner, addresses in map(pod, left) for address in addresses}
    assert owners(node) == expected

    def problems(doors: Doors) -> list[str]:
        told = []
        for owner, addresses in map(pod, left):
            told += masquerade.check(
                owner, addresses, "nftables", masquerade.look(doors, owner, addresses, True, "nftables", "CHECK")
            )
        return told

    assert inside(node, problems) == []
    for network in ("net0", "net1", "net2"):
        inside(node, collect(network))
    assert observe.ruleset(node) == []


def test_a_late_removal_never_takes_the_address_from_its_new_owner(node: Node) -> None:
    """Removals of the old owner and the addition of the new one start together, again and again."""

    def late(doors: Doors) -> None:
        for _ in range(40):
            facts = masquerade.look(doors, ONE, POD_ONE, True, "nftables", "DEL")
            doors.run(masquerade.plan_del(ONE, facts))

    for _ in range(5):
        inside(node, add(ONE, POD_ONE, "nftables"))
        removals = [Child(node, late) for _ in range(3)]
        addition = Child(node, add(TWO, POD_ONE, "nftables"))
        addition.result()
        for removal in removals:
            removal.result()
        assert owners(node) == {"10.1.0.5": TWO.label, "fd00:1::5": TWO.label}
        assert inside(node, check(TWO, POD_ONE)) == []
        inside(node, remove(TWO, POD_ONE))


def test_two_owners_fighting_for_an_address_leave_one_whole_owner(node: Node) -> None:
    """No IPAM does this; the rules must be those of one of them all the same."""

    def fight(owner: Owner) -> Child:
        return Child(node, lambda doors: [add(owner, POD_ONE, "nftables")(doors) for _ in range(10)])

    for child in [fight(owner) for owner in (ONE, TWO) for _ in range(2)]:
        child.result()
    labels = owners(node)
    assert set(labels) == {"10.1.0.5", "fd00:1::5"} and set(labels.values()) <= {ONE.label, TWO.label}


def test_an_addition_survives_the_removal_of_empty_parts(node: Node) -> None:
    """A sweep decides on what it saw; what was added since makes it fail as a whole."""

    def work(doors: Doors) -> list[str]:
        doors.run(masquerade.plan_add(ONE, POD_ONE, "nftables", masquerade.Facts()))
        sweep = masquerade.plan_gc(doors, "net", frozenset())
        guard = spoof.plan_add(ONE, ONE.host_veth, "02:00:00:00:00:01", spoof.Facts())
        doors.run(guard)
        spoof_sweep = spoof.plan_gc(doors, "net", frozenset())
        added = masquerade.plan_add(TWO, POD_ONE, "nftables", masquerade.Facts())
        doors.run(added + spoof.plan_add(TWO, TWO.host_veth, "02:00:00:00:00:02", spoof.Facts()))
        return doors.run(sweep + spoof_sweep)

    done = inside(node, work)
    assert any("empty" in step for step in done), "the sweeps were tried"
    assert owners(node) == {"10.1.0.5": TWO.label, "fd00:1::5": TWO.label}
    assert inside(node, check(TWO, POD_ONE)) == []
    assert observe.mentions(node, TWO.host_veth) and not observe.mentions(node, ONE.host_veth)


def test_processes_using_iptables_at_once(node: Node) -> None:
    """The programs serialise themselves; every chain is whole at the end."""
    pods = [pod(number) for number in range(1, 7)]

    def life(owner: Owner, addresses: tuple[Cidr, ...]) -> Child:
        def work(doors: Doors) -> list[str]:
            for step in (add(owner, addresses, "iptables"), remove(owner, addresses), add(owner, addresses, "iptables")):
                step(doors)
            return check(owner, addresses, "iptables")(doors)

        return Child(node, work)

    for child in [life(owner, addresses) for owner, addresses in pods]:
        assert child.result() == []
    assert len([line for line in observe.iptables_rules(node) if "-A POSTROUTING" in line]) == 2 * len(pods)


def test_cost_with_two_thousand_pods(node: Node, record_property: pytest.RecordProperty) -> None:
    """ADD and DEL stay exact among many; their cost is printed, and judged by people (`pytest -s`)."""

    def timed(doors: Doors, first: int) -> dict[str, float]:
        took: dict[str, list[float]] = {"add": [], "del": [], "check": []}
        for number in range(first, first + 30):
            owner, addresses = pod(number)
            for verb, work in (("add", add), ("check", check), ("del", remove)):
                begun = time.perf_counter()
                told = work(owner, addresses, *(["nftables"] if verb == "add" else []))(doors)  # type: ignore[operator]
                took[verb].append((time.perf_counter() - begun) * 1000)
                assert verb != "check" or told == []
        return {verb: round(median(values), 3) for verb, values in took.items()}

    def fill(doors: Doors) -> None:
        for first in range(1, 2001, 500):
            text = "".join(masq.add(owner.label, a) for owner, both in map(pod, range(first, first + 500)) for a in both)
            doors.nft.run(text)

    empty = inside(node, lambda doors: timed(doors, 3000))
    inside(node, fill)
    assert len(owners(node)) == 4000
    full = inside(node, lambda doors: timed(doors, 3000))
    assert len(owners(node)) == 4000
    assert not any(f"c{number}/" in label for label in owners(node).values() for number in range(3000, 3030))
    record_property("milliseconds", {"empty": empty, "2000 pods": full})
    print(f"\nms, two addresses a pod: empty {empty}, with 2000 pods {full}")
