"""The MAC spoof check on a real bridge: frames from the pod's own address pass, others do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cni.nft import spoof
from cni.spec.owner import Owner
from tests.contract.nft_node import Doors, inside
from tests.harness import observe

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness.node import Node

pytestmark = pytest.mark.root

ONE, TWO = Owner("net", "one", "eth0"), Owner("net", "two", "eth0")
MACS = {ONE: "02:00:00:00:00:01", TWO: "02:00:00:00:00:02"}
FOREIGN = "02:00:00:00:00:99"


def wire(node: Node) -> None:
    """Two pods on a bridge."""
    node.sh("ip link add br0 type bridge; ip link set br0 up; ip addr add 10.1.0.1/24 dev br0")
    for number, owner in enumerate(MACS, 5):
        name = owner.container_id
        node.pod(name)
        node.sh(f"""
            ip link add {owner.host_veth} type veth peer name eth0 address {MACS[owner]} netns {name}
            ip link set {owner.host_veth} master br0 up
            ip netns exec {name} sh -ec 'ip link set lo up; ip link set eth0 up; ip addr add 10.1.0.{number}/24 dev eth0'
        """)


def add(owner: Owner, mac: str = "") -> Callable[[Doors], list[str]]:
    mac = mac or MACS[owner]
    return lambda doors: doors.run(spoof.plan_add(owner, owner.host_veth, mac, spoof.look(doors, owner, True, "ADD")))


def remove(owner: Owner) -> Callable[[Doors], list[str]]:
    return lambda doors: doors.run(spoof.plan_del(owner, spoof.look(doors, owner, True, "DEL")))


def check(owner: Owner, mac: str = "") -> Callable[[Doors], list[str]]:
    mac = mac or MACS[owner]
    return lambda doors: spoof.check(owner, owner.host_veth, mac, spoof.look(doors, owner, True, "CHECK"))


def collect(network: str, *keep: Owner) -> Callable[[Doors], list[str]]:
    return lambda doors: doors.run(spoof.plan_gc(doors, network, frozenset(keep)))


def take_mac(node: Node, pod: str, mac: str) -> None:
    node.sh(f"ip link set eth0 address {mac}; ip neigh flush all", pod=pod)
    node.sh("ip neigh flush all")


def test_a_pod_may_send_from_its_own_address_only(node: Node) -> None:
    wire(node)
    inside(node, add(ONE))
    assert inside(node, check(ONE)) == []
    assert node.pings("10.1.0.6", pod="one") and node.pings("10.1.0.1", pod="one")
    take_mac(node, "one", FOREIGN)
    assert not node.pings("10.1.0.6", pod="one", seconds=0) and not node.pings("10.1.0.1", pod="one", seconds=0)
    take_mac(node, "two", "02:00:00:00:00:98")
    assert node.pings("10.1.0.1", pod="two"), "a pod that is not guarded may do as it likes"
    take_mac(node, "one", MACS[ONE])
    assert node.pings("10.1.0.6", pod="one")
    inside(node, remove(ONE))
    take_mac(node, "one", FOREIGN)
    assert node.pings("10.1.0.6", pod="one"), "nothing is checked after DEL"


def test_a_pod_may_not_take_the_address_of_another(node: Node) -> None:
    """Both are guarded; an address is allowed on its own port only."""
    wire(node)
    inside(node, add(ONE))
    inside(node, add(TWO))
    assert node.pings("10.1.0.1", pod="one") and node.pings("10.1.0.1", pod="two")
    take_mac(node, "one", MACS[TWO])
    assert not node.pings("10.1.0.1", pod="one", seconds=0)


def test_adding_twice_is_adding_once(node: Node) -> None:
    inside(node, add(ONE))
    once = observe.ruleset(node)
    inside(node, add(ONE))
    assert observe.ruleset(node) == once


def test_an_inverse_takes_back_what_was_added(node: Node) -> None:
    inside(node, add(TWO))
    before = observe.ruleset(node)

    def there_and_back(doors: Doors) -> None:
        (step,) = spoof.plan_add(ONE, ONE.host_veth, MACS[ONE], spoof.Facts())
        doors.run([step])
        doors.run([step.inverse()])

    inside(node, there_and_back)
    assert observe.ruleset(node) == before


def test_removing_one_leaves_the_other(node: Node) -> None:
    inside(node, add(ONE))
    inside(node, add(TWO))
    inside(node, remove(ONE))
    assert not observe.mentions(node, ONE.host_veth, ONE.label) and inside(node, check(TWO)) == []
    assert inside(node, remove(ONE)) == []


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (f"flush chain bridge {spoof.TABLE} check", "the rule of nftables table"),
        (f"insert rule bridge {spoof.TABLE} check accept", "the rule of nftables table"),
        (f"flush set bridge {spoof.TABLE} guarded", "no MAC spoof check"),
        (f"flush set bridge {spoof.TABLE} allowed", "allows nothing"),
        (f"delete table bridge {spoof.TABLE}", "no MAC spoof check"),
    ],
)
def test_damage_is_told_and_the_next_add_mends_it(node: Node, damage: str, problem: str) -> None:
    inside(node, add(ONE))
    node.run("nft", damage)
    (told,) = inside(node, check(ONE))
    assert problem in told
    inside(node, add(ONE))
    assert inside(node, check(ONE)) == []


@pytest.mark.parametrize("told", [True, False])
def test_another_address_than_the_recorded_one_is_told_and_removed(node: Node, told: bool) -> None:
    """DEL is told the addresses, or finds them."""
    inside(node, add(ONE))
    assert inside(node, check(ONE, FOREIGN))
    inside(node, add(ONE, FOREIGN))
    assert FOREIGN in inside(node, check(ONE))[0]

    def work(doors: Doors) -> None:
        macs = (MACS[ONE], FOREIGN) if told else ()
        doors.run(spoof.plan_del(ONE, spoof.look(doors, ONE, True, "DEL", macs)))

    inside(node, work)
    assert not observe.mentions(node, ONE.host_veth)


def test_gc_keeps_what_is_in_use_and_removes_the_empty_table(node: Node) -> None:
    other = Owner("other", "one", "eth0")
    for owner in (ONE, TWO, other):
        inside(node, add(owner, MACS.get(owner, FOREIGN)))
    inside(node, collect("net", TWO))
    assert not observe.mentions(node, ONE.label) and observe.mentions(node, TWO.label) and observe.mentions(node, other.label)
    inside(node, collect("net"))
    assert inside(node, check(other, FOREIGN)) == []
    inside(node, collect("other"))
    assert observe.ruleset(node) == []
