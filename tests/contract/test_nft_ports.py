"""Published ports: what the renderers write is what the reader recognises, in the fake and in the kernel alike."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from cni.nft import ports, ports_rules
from cni.nft.apply import Exists, NotFound
from cni.nft.ports import ANYWHERE, Mapping, Port, Published
from cni.nft.ports_rules import Conditions
from cni.spec.errors import CNIError
from tests.contract.nft_node import inside
from tests.fakes import FakeNft, Ruleset

if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.nft.apply import Nft

    Door = Nft | FakeNft

ONE, TWO = "podwire/net/c1/eth0", "podwire/net/c2/eth0"
V4, V6 = ip_interface("10.1.0.5/24"), ip_interface("fd00:1::5/64")
HTTP = Mapping(Port(ANYWHERE[False], "tcp", 8080), V4.ip, 80)
DNS = Mapping(Port(ip_address("192.0.2.1"), "udp", 53), V4.ip, 5353)
SIX = Mapping(Port(ANYWHERE[True], "sctp", 9), V6.ip, 9)
ALL = Published(mappings=(HTTP, DNS, SIX), pods=(V4, V6), interface="cni0", witness="7 veth0")
MORE = Mapping(Port(ANYWHERE[False], "tcp", 8082), V4.ip, 82)
OTHER = Published(
    mappings=(Mapping(Port(ANYWHERE[False], "tcp", 8081), ip_address("10.1.0.6"), 80),), pods=(ip_interface("10.1.0.6/24"),)
)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def told(request: pytest.FixtureRequest) -> Callable[[Callable[[Door], Any]], Any]:
    """Run a function on a door to nftables."""
    if request.param == "fake":
        return lambda work: work(FakeNft(Ruleset()))
    node = request.getfixturevalue("node")
    return lambda work: inside(node, lambda doors: work(doors.nft))


def see(nft: Door) -> ports.Table:
    return ports.parse_table(nft.query(ports.LISTING))


def publish(nft: Door, label: str, wanted: Published, *, alive: bool = True) -> None:
    nft.run(ports.take(label, wanted, nft.query(ports.LISTING), lambda _: alive))


def test_the_table_reads_back(told: Any) -> None:
    """Every mapping, its owner, where it leads and by which witness; every set that a pod is in."""

    def work(nft: Door) -> ports.Table:
        publish(nft, ONE, ALL)
        return see(nft)

    seen = told(work)
    assert seen.claims == dict.fromkeys((HTTP.port, DNS.port, SIX.port), ONE)
    assert {port: (lead.pod, lead.pod_port, lead.witness, lead.suffix) for port, (lead,) in seen.leads.items()} == {
        mapping.port: (mapping.pod, mapping.pod_port, "7 veth0", "") for mapping in ALL.mappings
    }
    assert seen.pods == {V4.ip: ONE, V6.ip: ONE}
    assert seen.owners == {ONE: ALL.content}
    assert seen.subnets == {V4.ip: "10.1.0.0/24", V6.ip: "fd00:1::/64"}
    assert (seen.sets["snat4"], seen.sets["snat6"], seen.sets["any4"]) == ({V4.ip}, {V6.ip}, frozenset())
    assert set(seen.near) == {V4.network, V6.network}
    assert (seen.localnet, seen.suffixes) == (("cni0",), ("",))


@pytest.mark.parametrize(
    "conditions", [Conditions(), Conditions(v4="ip saddr 10.0.0.0/8"), Conditions("iifname @localnet", "")]
)
def test_the_rules_are_recognised(told: Any, conditions: Conditions) -> None:
    """As written, also when written twice; not when one is missing, there twice, or somebody else's."""
    names = list(ports_rules.chains(conditions))

    def work(nft: Door) -> list[list[bool]]:
        def intact() -> list[bool]:
            return [ports_rules.intact(name, conditions, nft.chain(f"inet {ports.TABLE} {name}")) for name in names]

        found = [intact()]
        nft.run(ports.skeleton(conditions) * 2)
        found.append(intact())
        nft.run(ports.skeleton(Conditions(v4="ip saddr 192.0.2.0/24")))
        found.append(intact())
        nft.run("".join(f"add rule inet {ports.TABLE} {name} accept\n" for name in names))
        found.append(intact())
        nft.run("".join(f"flush chain inet {ports.TABLE} {name}\n" for name in names))
        return [*found, intact()]

    nothing, all_of_it = [False] * len(names), [True] * len(names)
    assert told(work) == [nothing, all_of_it, all_of_it, nothing, nothing]


def test_elements_alone_need_the_table(told: Any) -> None:
    def work(nft: Door) -> ports.Table:
        with pytest.raises(NotFound):
            nft.run(ports.claim(ONE, ALL))
        nft.run(ports.skeleton(Conditions()))
        nft.run(ports.claim(ONE, ALL))
        with pytest.raises(Exists):  # who comes again looks at what is there
            nft.run(ports.claim(ONE, ALL))
        return see(nft)

    assert told(work).claims == dict.fromkeys((HTTP.port, DNS.port, SIX.port), ONE)


def test_a_port_and_an_address_are_one_owners(told: Any) -> None:
    """Another's claim fails as a whole, and so does another's removal."""

    def work(nft: Door) -> tuple[ports.Table, ports.Table]:
        publish(nft, ONE, ALL)
        before = see(nft)
        for label, text in ((TWO, ports.claim(TWO, ALL)), (TWO, ports.remove(TWO, ALL))):
            with pytest.raises(Exists):
                nft.run(text)
            assert label not in see(nft).claims.values()
        for wanted in (msgspec.structs.replace(OTHER, mappings=(HTTP,)), msgspec.structs.replace(OTHER, pods=(V4,))):
            with pytest.raises(CNIError, match=ONE):
                publish(nft, TWO, wanted)
        return before, see(nft)

    before, after = told(work)
    assert before == after


def test_other_ports_than_before_do_not_fit(told: Any) -> None:
    """Neither to publish, though nobody has them, nor to take back: both have to look, and then nothing is left behind."""
    fewer = msgspec.structs.replace(ALL, mappings=(HTTP, SIX))

    def work(nft: Door) -> ports.Table:
        publish(nft, ONE, ALL)
        for text in (ports.claim(ONE, fewer), ports.remove(ONE, fewer)):
            with pytest.raises(Exists):
                nft.run(text)
        publish(nft, ONE, fewer)
        assert set(see(nft).claims) == {HTTP.port, SIX.port}
        nft.run(ports.remove(ONE, fewer))
        return see(nft)

    seen = told(work)
    assert (seen.claims, seen.leads, seen.pods, seen.owners) == ({}, {}, {}, {})


def test_a_container_has_its_port_once(told: Any) -> None:
    """Runtimes ask for it on each of its networks. It stays with the first as long as that is alive."""
    second = "podwire/other/c1/eth1"
    wanted = msgspec.structs.replace(OTHER, mappings=(HTTP, *OTHER.mappings))

    def work(nft: Door) -> list[dict[Port, str]]:
        publish(nft, ONE, msgspec.structs.replace(ALL, mappings=(HTTP,)))
        publish(nft, second, wanted)
        found = [see(nft).claims]
        nft.run(ports.forget(second, see(nft)))
        publish(nft, second, wanted, alive=False)
        return [*found, see(nft).claims]

    other = OTHER.mappings[0].port
    assert told(work) == [{HTTP.port: ONE, other: second}, {HTTP.port: second, other: second}]


def test_a_port_that_leads_nowhere_is_not_given_away(told: Any) -> None:
    """Somebody removed the element; whether its pod lives is not known then."""

    def work(nft: Door) -> None:
        publish(nft, ONE, msgspec.structs.replace(ALL, mappings=(HTTP,)))
        nft.run(f"delete element inet {ports.TABLE} ports4 {{ tcp . 8080 }}\n")
        with pytest.raises(CNIError, match=f"8080/tcp.*{ONE}"):
            publish(nft, TWO, msgspec.structs.replace(OTHER, mappings=(HTTP,)))

    told(work)


def test_removing_takes_everything_but_ranges(told: Any) -> None:
    def work(nft: Door) -> tuple[ports.Table, ports.Table]:
        publish(nft, TWO, OTHER)
        alone = see(nft)
        publish(nft, ONE, ALL)
        nft.run(ports.remove(ONE, ALL))
        with pytest.raises(NotFound):
            nft.run(ports.remove(ONE, ALL))
        return alone, see(nft)

    before, after = told(work)
    assert msgspec.structs.replace(after, near=before.near, localnet=()) == before


def test_a_link_of_its_own_goes_with_the_pod(told: Any) -> None:
    """One that others may use stays."""
    for_itself = msgspec.structs.replace(ALL, interface="veth0", own="veth0")

    def work(nft: Door) -> list[tuple[str, ...]]:
        publish(nft, TWO, msgspec.structs.replace(OTHER, interface="cni0", witness="8 veth1", own="veth1"))
        found = []
        for forget in (ports.remove(ONE, for_itself), ""):
            publish(nft, ONE, for_itself)
            found.append(tuple(sorted(see(nft).localnet)))
            nft.run(forget or ports.forget(ONE, see(nft)))
            found.append(see(nft).localnet)
        nft.run(ports.forget(TWO, see(nft)))
        return [*found, see(nft).localnet]

    assert told(work) == [("cni0", "veth0"), ("cni0",)] * 2 + [("cni0",)]


@pytest.mark.parametrize("conditions", [Conditions(), Conditions(v4="ip saddr 10.0.0.0/8")])
def test_forgetting_by_label(told: Any, conditions: Conditions) -> None:
    def work(nft: Door) -> ports.Table:
        publish(nft, ONE, msgspec.structs.replace(ALL, conditions=conditions, masq_all=True))
        publish(nft, TWO, OTHER)
        assert ports.forget("podwire/net/c3/eth0", see(nft)) == ""
        nft.run(ports.forget(ONE, see(nft)))
        return see(nft)

    seen = told(work)
    assert set(seen.claims.values()) == set(seen.pods.values()) == {TWO}
    assert list(seen.leads) == [OTHER.mappings[0].port]
    assert seen.sets["any4"] == frozenset()


@pytest.mark.parametrize(
    "first",
    [
        *(ALL, msgspec.structs.replace(ALL, masq_all=True), msgspec.structs.replace(ALL, snat=False, witness="")),
        msgspec.structs.replace(ALL, pods=(ip_interface("10.1.0.5/32"), V6), conditions=Conditions(v6="ip6 saddr fd00::/8")),
        msgspec.structs.replace(ALL, interface="veth0", own="veth0"),
    ],
)
def test_putting_back(told: Any, first: Published) -> None:
    """What an owner had is there again, after whatever it had then; of one that had nothing nothing stays."""

    def work(nft: Door) -> list[ports.Table]:
        publish(nft, TWO, OTHER)
        found = []
        for again in (first, msgspec.structs.replace(ALL, mappings=(MORE, SIX), pods=(V4, V6), interface="")):
            before = nft.query(ports.LISTING)
            found.append(ports.parse_table(before))
            publish(nft, ONE, again)
            nft.run(ports.put_back(ONE, before, nft.query(ports.LISTING)))
            found.append(see(nft))
            publish(nft, ONE, first)
        return found

    without, after, there, again = (msgspec.structs.replace(seen, near=()) for seen in told(work))
    assert msgspec.structs.replace(after, localnet=(), suffixes=()) == msgspec.structs.replace(
        without, localnet=(), suffixes=()
    )
    assert again == there


def test_the_dead_make_room(told: Any) -> None:
    """All that a dead attachment has, not only what is wanted."""

    def work(nft: Door) -> ports.Table:
        publish(nft, ONE, ALL)
        publish(nft, TWO, msgspec.structs.replace(OTHER, mappings=(HTTP,)), alive=False)
        return see(nft)

    seen = told(work)
    assert seen.claims == {HTTP.port: TWO}
    assert seen.pods == {ip_address("10.1.0.6"): TWO}


def test_the_unknown_keep_their_ports_but_not_our_address(told: Any) -> None:
    """Without a witness nobody knows whether a pod is alive. Two living pods cannot have one address."""
    unknown = msgspec.structs.replace(ALL, witness="")

    def work(nft: Door) -> ports.Table:
        publish(nft, ONE, unknown)
        with pytest.raises(CNIError, match=f"8080/tcp.*{ONE}"):
            publish(nft, TWO, msgspec.structs.replace(OTHER, mappings=(HTTP,)), alive=False)
        publish(nft, TWO, msgspec.structs.replace(unknown, mappings=(HTTP,)), alive=False)
        return see(nft)

    assert told(work).claims == {HTTP.port: TWO}


def test_ranges_that_contain_each_other(told: Any) -> None:
    """The set keeps the widest of them."""

    def work(nft: Door) -> list[tuple[Any, ...]]:
        found = []
        for number, length in enumerate((24, 16, 20, 16, 30)):
            pod = ip_interface(f"10.1.0.{number + 10}/{length}")
            mapping = Mapping(Port(ANYWHERE[False], "tcp", 1000 + number), pod.ip, 80)
            publish(nft, f"podwire/net/n{number}/eth0", Published(mappings=(mapping,), pods=(pod,)))
            found.append(see(nft).near)
        return found

    wide = (ip_network("10.1.0.0/16"),)
    assert told(work) == [(ip_network("10.1.0.0/24"),), wide, wide, wide, wide]


def test_a_sweep_removes_what_is_of_no_use(told: Any) -> None:
    """Down to the table; a link that takes packets for 127.0.0.0/8 stays guarded; and an addition makes it fail."""
    conditional = msgspec.structs.replace(OTHER, conditions=Conditions(v4="ip saddr 10.0.0.0/8"))

    def sweep(nft: Door, there: Callable[[str], bool] = lambda _: True) -> None:
        nft.run(ports.begin_sweep(7))
        nft.run(ports.end_sweep(nft.query(ports.LISTING), 7, there))

    def work(nft: Door) -> list[Any]:
        publish(nft, ONE, ALL)
        publish(nft, TWO, conditional)
        before = see(nft)
        sweep(nft)
        assert see(nft) == before, "all of it is of use"
        nft.run(ports.forget(TWO, see(nft)))
        sweep(nft)
        assert see(nft).suffixes == ("",)
        nft.run(ports.forget(ONE, see(nft)))
        sweep(nft)
        guarded = see(nft)
        assert (guarded.near, guarded.localnet, guarded.owners) == ((), ("cni0",), {})
        nft.run(ports.begin_sweep(8))
        text = ports.end_sweep(nft.query(ports.LISTING), 8, lambda _: False)
        publish(nft, ONE, ALL)
        with pytest.raises(NotFound):
            nft.run(text)
        nft.run(ports.remove(ONE, ALL))
        sweep(nft, lambda _: False)
        return nft.query(ports.LISTING)

    assert told(work) == []
