"""PURE. The iptables form of masquerading, rule for rule what the Go plugins write, so that each side can remove the other's.

One chain an attachment and family, ``CNI-`` and a hash of network and container id (not of the interface, P#151); its
rules accept destinations in the pod's subnets and masquerade the rest; one jump in POSTROUTING a pod address. All
ACCEPTs come before the MASQUERADE: the reference appends them address by address, which masquerades traffic within the
second subnet. Texts are for ``iptables-restore --noflush``, one for each family; ``:CHAIN`` there creates a chain or
empties it.
"""

from __future__ import annotations

import re
from hashlib import sha512
from typing import TYPE_CHECKING

import msgspec

from cni.nft.masq import MULTICAST
from cni.spec.owner import hashed_network

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.spec.addresses import Cidr

PREFIX = "CNI-"
POSTROUTING = "POSTROUTING"
CHAIN = re.compile(r"CNI-[0-9a-f]{24}")

# xt_comment keeps 256 bytes with the closing NUL (XT_MAX_COMMENT_LEN).
_COMMENT_MAX = 255

_RULE = re.compile(r"-A (\S+) (?:(! )?-([sd]) (\S+) )?(?:-m comment --comment (?:\"((?:[^\"\\]|\\.)*)\"|(\S+)) )?-j (\S+)")
_NAMED = re.compile(r'name: "([^"]*)" id: ')


class Jump(msgspec.Struct, frozen=True):
    """A rule of POSTROUTING that leads to an attachment's chain: its source address, and its handle or its line as printed."""

    source: str
    handle: int = 0
    line: str = ""


class NatChain(msgspec.Struct, frozen=True, kw_only=True):
    """One attachment's chain in one family. ``parent`` is the chain that leads there, ``legacy`` the variant it was found in;
    ``network`` is as the comments tell it, empty where they cannot be read.
    """

    v6: bool
    name: str
    parent: str = POSTROUTING
    legacy: bool = False
    accepts: tuple[str, ...] = ()
    masquerades: bool = False
    jumps: tuple[Jump, ...] = ()
    network: str = ""


def chain_name(network: str, container_id: str) -> str:
    """The chain's name; both inputs are simply joined, so that ("a", "bc") and ("ab", "c") share one, as with the reference."""
    return PREFIX + sha512((network + container_id).encode()).hexdigest()[:24]


def comment(network: str, container_id: str, what: str = "") -> str:
    """The comment of every rule. Go's %q quotes both; neither may contain a character that would need an escape. What is too
    long of a container's id is cut, for the chain's name tells whose it is; a network's name is hashed.
    """
    told = [f'{what}name: "{name}" id: ' for name in (network, hashed_network(network))]
    return (next(part for part in told if len(part) <= _COMMENT_MAX) + f'"{container_id}"')[:_COMMENT_MAX]


def comment_match(network: str, container_id: str, what: str = "") -> str:
    """The comment as a rule has it."""
    return '-m comment --comment "' + comment(network, container_id, what).replace('"', '\\"') + '"'


def setup(network: str, container_id: str, addresses: Iterable[Cidr], v6: bool, accepts: Iterable[str] = ()) -> str:
    """Fill the attachment's chain and lead its addresses there. ``accepts`` are further subnets to leave alone.

    The jumps of the addresses must not be there yet.
    """
    chain, note = chain_name(network, container_id), comment_match(network, container_id)
    addresses = tuple(addresses)
    inside = dict.fromkeys([*(str(address.network) for address in addresses), *accepts])
    lines = [f":{chain} - [0:0]"]
    lines += [f"-A {chain} -d {subnet} {note} -j ACCEPT" for subnet in inside]
    lines += [f"-A {chain} ! -d {MULTICAST[v6]} {note} -j MASQUERADE"]
    lines += [_jump(chain, address, note) for address in addresses]
    return _table(lines)


def teardown(network: str, container_id: str, addresses: Iterable[Cidr], whole: bool = True) -> str:
    """Take back ``setup``; the chain too if it is ``whole`` ours."""
    chain, note = chain_name(network, container_id), comment_match(network, container_id)
    lines = [_delete(_jump(chain, address, note)) for address in addresses]
    return _table([*lines, *([f"-F {chain}", f"-X {chain}"] if whole else [])])


def removal(chain: NatChain, jumps: Iterable[Jump], whole: bool) -> str:
    """Remove jumps that were read as lines, and with ``whole`` their chain."""
    lines = [_delete(jump.line) for jump in jumps]
    return _table([*lines, *([f"-F {chain.name}", f"-X {chain.name}"] if whole else [])])


def parse_save(text: str, v6: bool, legacy: bool) -> tuple[NatChain, ...]:
    """The attachments' chains in the output of ``iptables-save -t nat``."""
    found = {
        line[1:].split(" ")[0]: NatChain(v6=v6, legacy=legacy, name=line[1:].split(" ")[0])
        for line in text.splitlines()
        if line.startswith(":" + PREFIX) and CHAIN.fullmatch(line[1:].split(" ")[0])
    }
    for line in text.splitlines():
        rule = _RULE.match(line)
        if rule is None:
            continue
        where, inverted, side, address, quoted, plain, target = rule.groups()
        name = target if where == POSTROUTING else where
        chain = found.get(name)
        if chain is None:
            continue
        named = _NAMED.match((quoted or plain or "").replace('\\"', '"'))
        if named is not None:
            chain = msgspec.structs.replace(chain, network=named.group(1))
        if where == POSTROUTING:
            jump = Jump(_bare(address) if side == "s" and not inverted else "", line=line)
            chain = msgspec.structs.replace(chain, jumps=(*chain.jumps, jump))
        elif target == "ACCEPT" and side == "d" and not inverted:
            chain = msgspec.structs.replace(chain, accepts=(*chain.accepts, address))
        elif target == "MASQUERADE" and inverted and address == MULTICAST[v6]:
            chain = msgspec.structs.replace(chain, masquerades=True)
        found[name] = chain
    return tuple(found.values())


def _jump(chain: str, address: Cidr, note: str) -> str:
    return f"-A {POSTROUTING} -s {address.ip}/{address.max_prefixlen} {note} -j {chain}"


def _delete(line: str) -> str:
    return line.replace("-A ", "-D ", 1)


def _table(lines: list[str]) -> str:
    return "\n".join(["*nat", *lines, "COMMIT", ""])


def _bare(address: str) -> str:
    """An address without the length of a single one."""
    host, _, length = address.partition("/")
    return host if length in ("", "128" if ":" in host else "32") else address
