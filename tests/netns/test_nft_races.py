"""Many calls at once, and many pods: nothing of one call may be lost by another, and cost must not grow with pods."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from ipaddress import ip_interface
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

from cni.nft import masq, masquerade, portmap, spoof
from cni.nft.apply import Conflict
from cni.nft.ports import ANYWHERE, Mapping, Port, Published
from cni.nft.ports_iptables import Marking
from cni.spec.owner import Owner
from tests.contract.nft_node import Child, Doors, inside
from tests.harness import observe
from tests.netns.test_nft_masquerade import ONE, POD_ONE, POD_TWO, TWO, add, check, collect, owners, remove

if TYPE_CHECKING:
    from cni.nft.ops import Sweep
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


@pytest.mark.parametrize("adding", [True, False])
def test_a_set_that_is_swept_since_it_was_seen_keeps_nothing_else_from_going(node: Node, adding: bool) -> None:
    """The address lies in three subnets by their names; one of them loses its last pod before the plan is run."""
    wide, other, third = (ip_interface("10.1.0.9/16"),), (ip_interface("10.1.0.77/24"),), (ip_interface("10.1.0.9/20"),)

    def work(doors: Doors) -> None:
        add(ONE, wide, "nftables")(doors)
        add(TWO, other, "nftables")(doors)
        if adding:
            plan = masquerade.plan_add(TWO, third, "nftables", masquerade.look(doors, TWO, third, True, "nftables", "ADD"))
        else:
            plan = masquerade.plan_del(ONE, masquerade.look(doors, ONE, wide, True, "nftables", "DEL"))
        remove(TWO, other)(doors)
        doors.run([masquerade.SWEEP])
        doors.run(plan)

    inside(node, work)
    assert owners(node) == ({"10.1.0.9": TWO.label} if adding else {})
    assert b"10.1.0.9" not in node.run("nft", "list", "set", "inet", masq.TABLE, "pods_10.1.0.0/16").stdout
    assert b"10.1.0.0/24" not in node.run("nft", "list", "ruleset").stdout


def test_without_its_set_an_address_is_still_taken_from_its_owner(node: Node) -> None:
    """Somebody has removed the subnet's part by hand since it was seen."""

    def work(doors: Doors) -> dict[str, str]:
        add(ONE, POD_ONE[:1], "nftables")(doors)
        plan = masquerade.plan_del(ONE, masquerade.look(doors, ONE, POD_ONE[:1], True, "nftables", "DEL"))
        doors.nft.run("".join(f"delete {kind} inet {masq.TABLE} pods_10.1.0.0/24\n" for kind in ("chain", "set")))
        doors.run(plan)
        left = masq.parse_table(doors.nft.query(masquerade.LISTING)).owners
        doors.nft.run(f"delete table inet {masq.TABLE}\n")
        doors.run(plan)
        return left

    assert inside(node, work) == {}


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


# -- sweeps ----------------------------------------------------------------------------------------------------

SWEEPS = {"masquerade": masquerade.SWEEP, "spoof check": spoof.SWEEP}


class Steps:
    """A sweep that is taken step by step. Like the real one it ends where a transaction is refused."""

    def __init__(self, doors: Doors, sweep: Sweep, token: int) -> None:
        self.doors, self.sweep, self.token, self.over = doors, sweep, token, False
        self.seen: list[Any] = []
        self.left = [self.begin, self.look, self.end]

    def begin(self) -> None:
        self.doors.nft.run(self.sweep.begin(self.token))

    def look(self) -> None:
        self.seen = self.doors.nft.query(self.sweep.listing)

    def end(self) -> None:
        self.doors.nft.run(self.sweep.end(self.seen, self.token))

    def step(self) -> None:
        action = self.left.pop(0)
        if not self.over:
            try:
                action()
            except Conflict:
                self.over = True


def added(doors: Doors, kind: str, owner: Owner, facts: Any = None) -> Any:
    """The plan of an addition that has looked at the table before."""
    if kind == "masquerade":
        facts = masquerade.look(doors, owner, POD_ONE[:1], True, "nftables", "ADD")
        return masquerade.plan_add(owner, POD_ONE[:1], "nftables", facts)
    return spoof.plan_add(owner, owner.host_veth, "02:00:00:00:00:02", spoof.look(doors, owner, True, "ADD"))


def told(doors: Doors, kind: str, owner: Owner) -> list[str]:
    """What CHECK finds."""
    if kind == "masquerade":
        return check(owner, POD_ONE[:1])(doors)
    return spoof.check(owner, owner.host_veth, "02:00:00:00:00:02", spoof.look(doors, owner, True, "CHECK"))


def emptied(doors: Doors, kind: str) -> None:
    """A table in which there is nothing any more but the frame."""
    doors.run(added(doors, kind, ONE))
    doors.run([step.inverse() for step in added(doors, kind, ONE)])


@pytest.mark.parametrize("kind", SWEEPS)
def test_an_addition_at_any_moment_of_two_sweeps_survives(node: Node, kind: str) -> None:
    """Every order of three steps of one sweep, three of another and an addition; it has looked at some moment before."""

    def work(doors: Doors) -> int:
        orders = set(itertools.permutations("aaabbbA"))
        removed = 0
        for order in sorted(orders):
            for looked in {0, order.index("A")}:
                emptied(doors, kind)
                sweeps = {"a": Steps(doors, SWEEPS[kind], 1), "b": Steps(doors, SWEEPS[kind], 2)}
                for at, who in enumerate(order):
                    if at == looked:
                        plan = added(doors, kind, TWO)
                    if who == "A":
                        doors.run(plan)
                        assert told(doors, kind, TWO) == []
                    else:
                        sweeps[who].step()
                assert told(doors, kind, TWO) == [], f"{order}, looked at {looked}"
                removed += any(not sweep.over for sweep in sweeps.values())
                doors.nft.run(f"delete {SWEEPS[kind].listing.removeprefix('list ')}\n")
        return removed

    assert inside(node, work) > 0, "some sweeps came to their end"


@pytest.mark.parametrize("kind", SWEEPS)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_sweep_that_was_killed_keeps_nobody_from_anything(node: Node, kind: str, steps: int) -> None:
    """After any of its steps: additions work and take its token away, and the next sweep leaves nothing."""

    def killed(doors: Doors) -> None:
        emptied(doors, kind)
        sweep = Steps(doors, SWEEPS[kind], 7)
        for _ in range(steps):
            sweep.step()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(AssertionError, match="the child died"):
        inside(node, killed)
    assert bool(observe.mentions(node, "sweeps")) is (steps < 3)

    def life(doors: Doors) -> None:
        doors.run(added(doors, kind, TWO))
        assert told(doors, kind, TWO) == []
        doors.run([SWEEPS[kind]])
        assert told(doors, kind, TWO) == []
        doors.run([step.inverse() for step in added(doors, kind, TWO)])
        doors.run([SWEEPS[kind]])

    inside(node, life)
    assert observe.ruleset(node) == []


def test_additions_beside_processes_that_sweep_all_the_time(node: Node) -> None:
    """Each pod is checked the moment it is there; the sweepers are killed at some point of their work."""

    def sweep(doors: Doors) -> None:
        while True:
            for step in SWEEPS.values():
                doors.run([step])

    def life(number: int) -> Child:
        owner = Owner("net", f"c{number}", "eth0")
        veth, mac = owner.host_veth, f"02:00:00:00:00:{number:02x}"
        addresses = (ip_interface(f"10.{number % 3}.0.{number}/24"),)

        def work(doors: Doors) -> int:
            for _ in range(30):
                add(owner, addresses, "nftables")(doors)
                doors.run(guard := spoof.plan_add(owner, veth, mac, spoof.look(doors, owner, True, "ADD")))
                time.sleep(0.002)
                assert check(owner, addresses)(doors) == []
                assert spoof.check(owner, veth, mac, spoof.look(doors, owner, True, "CHECK")) == []
                doors.run([step.inverse() for step in guard])
                remove(owner, addresses)(doors)
            return number

        return Child(node, work)

    sweepers = [Child(node, sweep) for _ in range(3)]
    try:
        lives = [life(number) for number in range(1, 5)]
        sweepers.pop().kill()
        assert [child.result() for child in lives] == [1, 2, 3, 4]
    finally:
        for child in sweepers:
            child.kill()
    inside(node, lambda doors: doors.run(list(SWEEPS.values())))
    assert observe.ruleset(node) == []


def test_threads_share_one_door(node: Node) -> None:
    """As calls in one process do: each transaction is whole, each answer is that of its question."""

    def work(doors: Doors) -> list[str]:
        failures: list[str] = []

        def life(number: int) -> None:
            try:
                owner, addresses = pod(number)
                for _ in range(15):
                    add(owner, addresses, "nftables")(doors)
                    failures.extend(check(owner, addresses)(doors))
                    failures.extend(["found"] * (doors.nft.chain("inet nowhere x") != []))
                    remove(owner, addresses)(doors)
                add(owner, addresses, "nftables")(doors)
            except BaseException as error:
                failures.append(repr(error))

        threads = [threading.Thread(target=life, args=(number,)) for number in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return failures

    assert inside(node, work) == []
    assert len(owners(node)) == 16


def test_a_door_whose_socket_failed_opens_another(node: Node) -> None:
    """The sockets, libnftables' and our own, are closed under it, as an exhausted system might break them."""

    def work(doors: Doors) -> list[str]:
        add(ONE, POD_ONE, "nftables")(doors)
        numbers = [int(fd) for fd in os.listdir("/proc/self/fd") if _is_netfilter(fd)]
        assert len(numbers) == 2
        for number in numbers:
            os.close(number)
        add(TWO, POD_TWO, "nftables")(doors)
        return check(ONE, POD_ONE)(doors) + check(TWO, POD_TWO)(doors)

    assert inside(node, work) == []


def _is_netfilter(fd: str) -> bool:
    """Whether a descriptor is a netlink socket; a child has no other."""
    try:
        kind, inode = os.readlink(f"/proc/self/fd/{fd}").rstrip("]").split(":[")
        with open("/proc/self/net/netlink") as lines:
            return kind == "socket" and any(line.split()[-1] == inode and line.split()[1] == "12" for line in lines)
    except (OSError, ValueError):
        return False


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


def test_publishing_by_iptables_at_once(node: Node) -> None:
    """First calls may make what all ports share twice, for `iptables-restore` does not see what others make meanwhile. The next
    calls leave one of each, at once, too.
    """

    def life(number: int) -> Child:
        def work(doors: Doors) -> list[str]:
            owner, (address, _) = pod(number)
            mapping = Mapping(Port(ANYWHERE[False], "tcp", 8000 + number), address.ip, 80)
            wanted = Published(mappings=(mapping,), pods=(address,))
            facts = portmap.look(doors, owner, wanted, "iptables", "ADD")
            doors.run(portmap.plan_add(owner, wanted, "iptables", ((), ()), Marking(), facts))
            facts = portmap.look(doors, owner, wanted, "iptables", "CHECK")
            return portmap.check(owner, wanted, "iptables", Marking(), facts)

        return Child(node, work)

    def shared() -> list[str]:
        rules = node.sh("iptables-save -t nat").splitlines()
        return [rule for rule in rules if rule.startswith("-A ") and "HOSTPORT" in rule and "CNI-DN-" not in rule]

    for child in [life(number) for number in range(1, 7)]:
        assert child.result() == []
    once = sorted(set(shared()))
    assert len(once) == 5
    node.sh("iptables-restore -n <<'END'\n" + "\n".join(["*nat", *once, "COMMIT", "END"]))
    assert len(shared()) >= 2 * len(once)
    for child in [life(number) for number in range(7, 13)]:
        assert child.result() == []
    assert sorted(shared()) == once


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
