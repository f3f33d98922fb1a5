"""PURE. The iptables form of published ports, rule for rule the Go plugin's, so that each side can remove the other's.

One chain an attachment and family, ``CNI-DN-`` and a hash of network and container id (not of the interface, P#151), which
``CNI-HOSTPORT-DNAT`` leads to for at most 15 ports a rule. A packet that needs masquerade is marked there, and POSTROUTING
masquerades what has the mark. The attachment's chain is emptied before it is filled: the reference appends to what an earlier
ADD left, and traffic goes on to the dead address (containerlab#472). Texts are for ``iptables-restore --noflush``; what several
attachments share is made with ``-N``, which fails where another call was faster, and is then decided anew. The nft variant does
not fail where that was between its look and its commit, and the rules are there twice: the next ADD leaves one.
"""

from __future__ import annotations

import re
from hashlib import sha512
from typing import TYPE_CHECKING

import msgspec

from cni.nft import masq_iptables
from cni.nft.masq_iptables import Jump, NatChain
from cni.nft.ports import ANYWHERE
from cni.spec.addresses import is_v6

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.nft.ports import Mapping, Published

PREFIX = "CNI-DN-"
DNAT, SETMARK, MASQUERADE = "CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"
CHAIN = re.compile(PREFIX + "[0-9a-f]{21}")

# What xt_multiport takes in one rule.
_PORTS_MAX = 15

_NAMED = re.compile(r'dnat name: \\"([^"\\]*)\\" id: ')


class Marking(msgspec.Struct, frozen=True):
    """How what needs masquerade is marked: by a bit of the packet's mark, or by a chain of somebody else's that marks."""

    bit: int = 13
    chain: str = ""

    @property
    def target(self) -> str:
        """The chain that marks."""
        return self.chain or SETMARK


def chain_name(network: str, container_id: str) -> str:
    """The chain's name; both inputs are simply joined, as with the reference."""
    return PREFIX + sha512((network + container_id).encode()).hexdigest()[:21]


def setup(
    network: str, container_id: str, wanted: Published, conditions: tuple[str, ...], marking: Marking, v6: bool, saved: str
) -> str:
    """Publish the ports of one family, given what ``iptables-save -t nat`` tells."""
    chain, there = chain_name(network, container_id), saved.splitlines()
    lines = [f"-N {name}" for name in (DNAT, *_of_masquerade(wanted, marking)) if not _has_chain(name, there)]
    lines += _once(there)
    if DNAT not in _targets("PREROUTING", there):
        lines.append(f"-A PREROUTING -m addrtype --dst-type LOCAL -j {DNAT}")
    if DNAT not in _targets("OUTPUT", there):
        lines.append(f"-A OUTPUT -m addrtype --dst-type LOCAL -j {DNAT}")
    if _of_masquerade(wanted, marking):
        mark = f"{1 << marking.bit:#x}/{1 << marking.bit:#x}"
        for name, rule in (
            (SETMARK, f'-A {SETMARK} -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark {mark}'),
            (MASQUERADE, f"-A {MASQUERADE} -m mark --mark {mark} -j MASQUERADE"),
        ):
            if not any(line.startswith(f"-A {name} ") and mark in line for line in there):
                lines.append(rule)
        if MASQUERADE not in _targets("POSTROUTING", there):
            words = '-m comment --comment "CNI portfwd requiring masquerade"'
            lines.append(f"-I POSTROUTING 1 {words} -j {MASQUERADE}")
    lines += map(_delete, _ways(chain, there))
    lines.append(f":{chain} - [0:0]")
    mine = [mapping for mapping in wanted.mappings if is_v6(mapping.pod) is v6]
    lines += [rule for mapping in mine for rule in _rules(chain, mapping, wanted, marking, v6)]
    return _table([*lines, *_entries(chain, network, container_id, mine, conditions)])


def teardown(network: str, container_id: str, saved: str) -> str:
    """Take back ``setup``; empty when nothing of it is there."""
    chain, there = chain_name(network, container_id), saved.splitlines()
    if not _has_chain(chain, there):
        return ""
    return _table([*map(_delete, _ways(chain, there)), f"-F {chain}", f"-X {chain}"])


def put_back(network: str, container_id: str, before: list[str], saved: str) -> str:
    """Have the attachment's chain what it had by the last of ``before``; empty when it is as it was: not there."""
    chain, then = chain_name(network, container_id), before[-1].splitlines()
    if not _has_chain(chain, then):
        return teardown(network, container_id, saved)
    jumps, former = (_ways(chain, lines) for lines in (saved.splitlines(), then))
    rules = [line for line in then if line.startswith(f"-A {chain} ")]
    return _table([*map(_delete, jumps), f":{chain} - [0:0]", *rules, *former])


def problems(network: str, container_id: str, wanted: Published, marking: Marking, v6: bool, saved: str) -> list[str]:
    """A line for each port of a family that its chain does not lead to the pod, or that nothing leads to the chain; and one if
    what needs masquerade would have none.
    """
    chain, there = chain_name(network, container_id), saved.splitlines()
    mine = [mapping for mapping in wanted.mappings if is_v6(mapping.pod) is v6]
    led = {
        (found["protocol"], int(found["port"]), found["host"] or "", found["to"])
        for line in there
        if (found := _LED.match(line)) is not None and found["chain"] == chain
    }
    ways = _ways(chain, there)
    reached = all(DNAT in _targets(base, there) for base in ("PREROUTING", "OUTPUT"))
    told = [
        f"{mapping.port} does not lead to {mapping.pod} port {mapping.pod_port} in iptables chain {chain}"
        for mapping in mine
        if not reached
        or (mapping.port.protocol, mapping.port.number, _host(mapping), _target(mapping)) not in led
        or not any(_names(line, mapping) for line in ways)
    ]
    marked = marking.target in _targets(chain, there)
    if _of_masquerade(wanted, marking):
        marked &= "MARK" in _targets(SETMARK, there) and "MASQUERADE" in _targets(MASQUERADE, there)
        marked &= MASQUERADE in _targets("POSTROUTING", there)
    if mine and wanted.snat and not marked:
        told.append(f"what needs masquerade has none: rules of iptables chains {chain}, {SETMARK} or {MASQUERADE} are gone")
    return told


def parse_save(text: str, v6: bool, legacy: bool) -> tuple[NatChain, ...]:
    """The attachments' chains in the output of ``iptables-save -t nat``, and whose they are where it can be read."""
    there = text.splitlines()
    found = []
    for line in there:
        name = line[1:].split(" ")[0]
        if not line.startswith(":" + PREFIX) or not CHAIN.fullmatch(name):
            continue
        jumps = _ways(name, there)
        named = next((match for jump in jumps if (match := _NAMED.search(jump)) is not None), None)
        network = named[1] if named is not None else ""
        chain = NatChain(v6=v6, legacy=legacy, name=name, parent=DNAT, network=network)
        found.append(msgspec.structs.replace(chain, jumps=tuple(Jump("", line=jump) for jump in jumps)))
    return tuple(found)


_LED = re.compile(
    r"-A (?P<chain>\S+) (?:-d (?P<host>[0-9a-f.:]+)(?:/\d+)? )?-p (?P<protocol>\S+) -m \S+ --dport (?P<port>\d+) "
    r"-j DNAT --to-destination (?P<to>\S+)"
)


def _rules(chain: str, mapping: Mapping, wanted: Published, marking: Marking, v6: bool) -> list[str]:
    port = mapping.port
    host = f" -d {port.host}" if not port.host.is_unspecified else ""
    match = f"-A {chain} -p {port.protocol} --dport {port.number}{host}"
    sources: list[str] = []
    if wanted.snat:
        subnet = next((str(pod.network) for pod in wanted.pods if pod.ip == mapping.pod), "")
        sources = [f"{ANYWHERE[v6]}/0"] if wanted.masq_all else [subnet, *([] if v6 else ["127.0.0.1"])]
    return [
        *(f"{match} -s {source} -j {marking.target}" for source in sources),
        f"{match} -j DNAT --to-destination {_target(mapping)}",
    ]


def _entries(
    chain: str, network: str, container_id: str, mappings: Iterable[Mapping], conditions: tuple[str, ...]
) -> list[str]:
    """The rules that lead to the chain: one a protocol, for as many ports as fit."""
    by_protocol: dict[str, list[int]] = {}
    for mapping in mappings:
        by_protocol.setdefault(mapping.port.protocol, []).append(mapping.port.number)
    quoted = masq_iptables.comment_match(network, container_id, "dnat ")
    lines = []
    for protocol, ports in sorted(by_protocol.items()):
        numbers = list(dict.fromkeys(ports))
        for at in range(0, len(numbers), _PORTS_MAX):
            some = ",".join(map(str, numbers[at : at + _PORTS_MAX]))
            words = [f"-A {DNAT} {quoted} -m multiport -p {protocol} --destination-ports {some}", *map(_quote, conditions)]
            lines.append(" ".join([*words, f"-j {chain}"]))
    return lines


def _names(line: str, mapping: Mapping) -> bool:
    """Whether a rule that leads to a chain is for a port."""
    port = mapping.port
    told = re.search(r"-p (\S+) .*--dports (\S+)", line)
    return told is not None and told[1] == port.protocol and str(port.number) in told[2].split(",")


def _target(mapping: Mapping) -> str:
    return f"[{mapping.pod}]:{mapping.pod_port}" if is_v6(mapping.pod) else f"{mapping.pod}:{mapping.pod_port}"


def _host(mapping: Mapping) -> str:
    return "" if mapping.port.host.is_unspecified else str(mapping.port.host)


def _of_masquerade(wanted: Published, marking: Marking) -> tuple[str, ...]:
    """The chains of ours that masquerade needs; another's chain that marks has its own masquerade, too."""
    return (SETMARK, MASQUERADE) if wanted.snat and not marking.chain else ()


def _has_chain(name: str, there: Iterable[str]) -> bool:
    return any(line.startswith(f":{name} ") for line in there)


def _targets(chain: str, there: Iterable[str]) -> set[str]:
    """Where the rules of a chain lead."""
    return {line.rpartition(" -j ")[2].split(" ")[0] for line in there if line.startswith(f"-A {chain} ")}


def _once(there: list[str]) -> list[str]:
    """Leave one of each rule that attachments share and that is there several times. Fails where another call has by then."""
    own, ends = tuple(f"-A {chain} " for chain in (SETMARK, MASQUERADE)), (f" -j {DNAT}", f" -j {MASQUERADE}")
    shared = [line for line in there if line.startswith(own) or line.endswith(ends)]
    commands = []
    for line in dict.fromkeys(shared):
        if (count := shared.count(line)) > 1:
            commands += [*[_delete(line)] * count, line.replace("-A POSTROUTING", "-I POSTROUTING 1")]
    return commands


def _ways(chain: str, there: Iterable[str]) -> list[str]:
    """The rules that lead to an attachment's chain."""
    return [line for line in there if line.startswith(f"-A {DNAT} ") and line.endswith(f" -j {chain}")]


def _delete(line: str) -> str:
    return line.replace("-A ", "-D ", 1)


def _quote(word: str) -> str:
    plain = word and not set(word) & set(" \"'\\")
    return word if plain else '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _table(lines: list[str]) -> str:
    return "\n".join(["*nat", *lines, "COMMIT", ""])
