"""Elements sent to the kernel directly against the same text run by libnftables: same ruleset, same refusals."""

from __future__ import annotations

import json
import subprocess
from errno import EEXIST, ENOENT
from ipaddress import ip_address, ip_interface
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from cni.nft import elements, forward, masq, ports
from cni.nft.apply import Exists, NftError, NotFound
from cni.nft.elements import encode, verdict
from cni.nft.nfnetlink import Nfnetlink
from cni.nft.ports import ANYWHERE, Mapping, Port, Published
from cni.nft.ports_rules import Conditions
from tests.contract.nft_node import Doors, inside
from tests.harness.node import Node

if TYPE_CHECKING:
    from collections.abc import Callable

V4, V6, SINGLE = ip_interface("10.1.0.5/16"), ip_interface("fd00::5/64"), ip_interface("10.9.9.9/32")
LABEL, LONG = "podwire/net/c1/eth0", "podwire/net/" + "c" * 103 + "/eth0"
PORTS = Published(
    mappings=(
        Mapping(Port(ANYWHERE[False], "tcp", 8080), V4.ip, 80),
        Mapping(Port(ip_address("192.0.2.1"), "udp", 65535), V4.ip, 53),
        Mapping(Port(ANYWHERE[True], "sctp", 1), V6.ip, 1),
        Mapping(Port(ip_address("fd00:2::1"), "tcp", 80), V6.ip, 443),
    ),
    pods=(V4, V6, SINGLE),
    interface="cni0",
    witness="7 veth0",
)
FRAME = "".join(masq.add("somebody", cidr) for cidr in (V4, V6, SINGLE)) + ports.skeleton(Conditions())
FRAME += forward.skeleton() + forward.passed(False) + forward.passed(True)
NEAR = f"inet {ports.TABLE} near4"
SUBNETS = {cidr: masq.subnet_name(cidr) for cidr in (V4, V6, SINGLE)}

# Texts that are run one after the other; the last one is judged.
SEQUENCES = {
    "claim": [masq.claim(LABEL, ip_interface("10.1.0.6/16"))],
    "claim IPv6": [masq.claim(LABEL, ip_interface("fd00::6/64"))],
    "claim a single address": [masq.claim(LABEL, ip_interface("10.9.9.8/32"))],
    "claim with a long label": [masq.claim(LONG, ip_interface("10.1.0.6/16"))],
    "claim twice": [masq.claim(LABEL, ip_interface("10.1.0.6/16"))] * 2,
    "claim another's": [masq.claim(LABEL, V4)],
    "remove": [masq.remove("somebody", V4.ip, SUBNETS[V4])],
    "remove IPv6": [masq.remove("somebody", V6.ip, SUBNETS[V6])],
    "remove another's": [masq.remove(LABEL, V4.ip, SUBNETS[V4])],
    "remove what is not there": [masq.remove(LABEL, ip_address("10.1.0.77"), SUBNETS[V4])],
    "clear": [masq.clear(V4.ip, SUBNETS[V4])],
    "no such set": [masq.clear(V4.ip, "pods_1.2.3.0/24")],
    "no such element": [f"delete element inet podwire_masquerade {SUBNETS[V4]} {{ 10.1.0.99 }}\n"],
    "the second line fails": [masq.clear(ip_address("10.1.0.8"), SUBNETS[V4]) + masq.clear(V4.ip, "pods_1.2.3.0/24")],
    "ports": [ports.claim(LABEL, PORTS)],
    "ports twice": [ports.claim(LABEL, PORTS)] * 2,
    "ports with masquerade of all": [ports.claim(LONG, msgspec.structs.replace(PORTS, masq_all=True, witness=""))],
    "another's ports": [ports.claim(LABEL, PORTS), ports.claim("somebody", PORTS)],
    "ports gone": [ports.claim(LABEL, PORTS), ports.remove(LABEL, PORTS)],
    "another's ports gone": [ports.claim(LABEL, PORTS), ports.remove("somebody", PORTS)],
    "ports gone that never were": [ports.remove(LABEL, PORTS)],
    "an interface gone": [ports.claim(LABEL, PORTS), ports.close("cni0")],
    "a range within another": [ports.claim(LABEL, PORTS), f"add element {NEAR} {{ 10.1.0.0/24 . 10.1.0.0/24 }}\n"],
    "a range that is not there": [f"delete element {NEAR} {{ 10.1.0.0/24 . 10.1.0.0/24 }}\n"],
    "firewall": [forward.claim(LABEL, V4.ip) + forward.claim(LABEL, V6.ip)],
    "firewall, end": [forward.claim(LABEL, V4.ip), forward.remove(LABEL, V4.ip)],
    "firewall, another's": [forward.claim("somebody", V4.ip), forward.remove(LABEL, V4.ip)],
    "policy": [forward.claim_policy(LABEL, "cni0", forward.ISOLATED)],
    "policy, long name": [forward.claim_policy(LABEL, "a" * 15, forward.SAME_BRIDGE)],
    "policy, end": [forward.claim_policy(LABEL, "b", "isolated"), forward.remove_policy(LABEL, "b", "isolated")],
    "policy of nobody": [f'delete element inet {forward.TABLE} closed {{ "cni0" }}\n'],
    "another kind of address": [f"add element inet podwire_masquerade {SUBNETS[V4]} {{ fd00::9 }}\n"],
}


def outcome(texts: list[str], run: Callable[[Doors, str], Any]) -> Callable[[Doors], tuple[str, list[Any]]]:
    """How the last text ends, and the ruleset after it, as nft tells it."""

    def work(doors: Doors) -> tuple[str, list[Any]]:
        doors.nft.run(FRAME)
        for text in texts[:-1]:
            run(doors, text)
        try:
            run(doors, texts[-1])
            end = "done"
        except NotFound:
            end = "not found"
        except Exists:
            end = "exists"
        except NftError:
            end = "refused"
        told = subprocess.run(["nft", "-j", "list", "ruleset"], check=True, capture_output=True).stdout
        return end, [entry for entry in json.loads(told)["nftables"] if "metainfo" not in entry]

    return work


def directly(doors: Doors, text: str) -> None:
    doors.nft.run(text)


def by_library(doors: Doors, text: str) -> None:
    """A comment of its own makes it a text that only libnftables runs."""
    doors.nft.run("# by libnftables\n" + text)


@pytest.mark.root
@pytest.mark.parametrize("texts", SEQUENCES.values(), ids=SEQUENCES)
def test_the_same_by_both_ways(texts: list[str]) -> None:
    assert all(encode(text, 1) is not None for text in texts)
    ends = []
    for way in (directly, by_library):
        with Node() as node:
            ends.append(inside(node, outcome(texts, way)))
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "add table inet t\n",
        masq.add(LABEL, V4),
        'add element inet t s { "veth0" . 02:00:00:00:00:01 }\n',
        'add element inet t s { "veth*" }\n',
        "add element inet t s { tcp . 65536 }\n",
        "add element inet t s { icmp . 1 }\n",
        "add element inet t s { 10.0.0.1 . 10.0.0.0/33 }\n",
        "add element inet t s { 10.0.0.0/8 }\n",
        "add element inet t s { 10.0.0.1, 10.0.0.2 }\n",
        "add element inet t s { 10.0.0.1 timeout 5s }\n",
        "add element inet t s { 1.2.3 }\n",
        'add element inet t s { "cni*" }\n',
        'add element inet t s { "aaaaaaaaaaaaaaaa" }\n',
        'add element inet t s { "äääääääää" }\n',
        "add element inet t s { a::b::c }\n",
        f'add element inet t s {{ 10.0.0.1 comment "{"x" * 121}" }}\n',
        "add element bridge t s { 10.0.0.1 }\n",
        "add element inet t s { 10.0.0.1 }; flush ruleset\n",
        masq.clear(V4.ip, "s") + "flush ruleset\n",
    ],
)
def test_what_is_not_known_is_left_to_the_library(text: str) -> None:
    assert encode(text, 1) is None


def test_answers_of_other_batches_decide_nothing() -> None:
    batch = encode(masq.clear(V4.ip, "s"), 10)
    assert batch is not None and (batch.first, batch.last) == (10, 12)

    def told(sequence: int, errno: int, kind: int = 2) -> bytes:
        return b"".join(
            number.to_bytes(size, "little", signed=number < 0)
            for number, size in ((36, 4), (kind, 2), (0, 2), (sequence, 4), (0, 4), (-errno, 4), (0, 16))
        )

    assert verdict(told(12, 0), batch) == 0
    assert verdict(told(11, 2), batch) == 2
    assert verdict(told(10, 1), batch) == 1
    assert verdict(told(11, 17) + told(12, 0), batch) == 17
    assert elements.generation(told(11, 95), 11) == 0, "a refusal"
    assert elements.generation(told(11, 95), 12) is None
    for nothing in (told(9, 2), told(14, 2), told(11, 0), told(12, 0, kind=3), b"", b"\0" * 40, told(12, 0)[:18]):
        assert verdict(nothing, batch) is None


@pytest.mark.root
def test_whether_a_chain_is_there_is_asked_directly(node: Node) -> None:
    """Of every family that is asked for, and however its name looks; what is there is listed."""

    def work(doors: Doors) -> list[int]:
        counts = []
        for family, name in (("inet", "c"), ("ip", "CNI-0123456789abcdef01234567"), ("ip6", "c"), ("bridge", "PREROUTING")):
            for where in (f"{family} t {name}", f"{family} no {name}"):
                assert doors.nft.chain(where) == []
            doors.nft.run(f"add table {family} t\nadd chain {family} t {name}\nadd rule {family} t {name} counter\n")
            counts.append(len([entry for entry in doors.nft.chain(f"{family} t {name}") if "rule" in entry]))
        return counts

    assert inside(node, work) == [1, 1, 1, 1]


# -- what a transaction has made of the ruleset ---------------------------------------------------------------------------


@pytest.mark.root
def test_which_generation_a_transaction_has_made(node: Node) -> None:
    """None where it changed nothing, or was refused; the kernel's own count says the same."""

    def work(doors: Doors) -> list[tuple[int, int, bool]]:
        doors.nft.run(FRAME)
        door, told = Nfnetlink(), []
        address = ip_interface("10.1.0.6/16")
        texts = {
            "a new pod": masq.claim(LABEL, address),
            "the same again": masq.claim(LABEL, address),
            "another's address": masq.claim(LABEL, V4),
            "with a token to take away": masq.claim(LABEL, address),
            "it goes": masq.remove(LABEL, address.ip, SUBNETS[V4]),
            "it has gone": masq.remove(LABEL, address.ip, SUBNETS[V4]),
        }
        for what, text in texts.items():
            if what.startswith("with a token"):
                doors.nft.run(masq.begin_sweep(1))
            before = door.generation()
            change = door.change(text)
            after = door.generation()
            assert before is not None and after is not None and change is not None
            assert change.generation in (0, after), what
            told.append((change.errno, after - before, change.generation != 0))
        return told

    changed, nothing, refused = (0, 1, True), (0, 0, False), (EEXIST, 0, False)
    assert inside(node, work) == [changed, nothing, refused, changed, changed, changed]


@pytest.mark.root
def test_a_generation_that_is_refused_is_none_at_once(node: Node) -> None:
    """As by a kernel without nf_tables: it knows no such message."""

    def work(doors: Doors) -> tuple[int | None, bool, float]:
        doors.nft.run("add table inet t\nadd chain inet t c\n")
        elements._GET_GENERATION = 200 << 8 | 16  # a subsystem that no kernel has
        began = monotonic()
        return Nfnetlink().generation(), bool(doors.nft.chain("inet t c")), monotonic() - began

    generation, listed, took = inside(node, work)
    assert generation is None and listed
    assert took < 10, "half of the time that it waits for a kernel that does not answer"


@pytest.mark.root
@pytest.mark.parametrize("number", [2**31 - 2, 2**31 - 1, 2**31, 2**31 + 2])
def test_numbers_of_messages_begin_anew(node: Node, number: int) -> None:
    def work(doors: Doors) -> list[Any]:
        doors.nft.run(FRAME)
        door = Nfnetlink()
        door._number = number
        told: list[Any] = []
        for _ in range(3):
            change = door.change(masq.claim(LABEL, ip_interface("10.1.0.6/16")))
            told += [change and change.errno, door.find_chain("inet no such"), door.generation() is None]
        return [*told, door._number < 100]

    assert inside(node, work) == [0, ENOENT, False] * 3 + [True]


@pytest.mark.root
def test_what_was_told_is_told_again_after_changes_of_elements(node: Node) -> None:
    """Whatever their verb: the library is asked once, and again when a set was added."""
    changes = [
        f"create element inet t m {{ 10.1.0.6 : {1:#010x} }}\n",
        f"add element inet t m {{ 10.1.0.6 : {1:#010x} }}\n",
        "delete element inet t m { 10.1.0.6 }\n",
        "flush set inet t s\n",
    ]

    def work(doors: Doors) -> list[int]:
        doors.nft.run("add table inet t\nadd map inet t m { type ipv4_addr : mark; }\nadd set inet t s { type ipv4_addr; }\n")
        asked: list[str] = []
        command = doors.nft._command
        doors.nft._command = lambda text, **how: asked.append(text) or command(text, **how)  # type: ignore[method-assign, func-returns-value]
        counts = []
        for change in ("", *changes, "add set inet t other { type ipv4_addr; }\n"):
            if change:
                doors.nft.run(change)
            assert len(doors.nft.sets("inet")) >= 1
            counts.append(asked.count("list sets inet"))
        return counts

    assert inside(node, work) == [1, 1, 1, 1, 1, 2]
