"""The layouts of traffic control's messages: queueing disciplines (qdiscs), filters, and what filters do. Pure.

They have the form of pyroute2's definitions, and ``cni.net.messages`` packs and cuts by them. pyroute2 has them too, in modules
whose import costs 12 ms; what is needed here is four structs. ``tests/contract/test_messages.py`` compares the bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from cni.net.facts import Filter, Qdisc

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.net.messages import Attributes, Message

# Where a qdisc is: at the root, which all that leaves a link goes through, or at the ingress, for all that comes in.
ROOT, INGRESS = 0xFFFFFFFF, 0xFFFFFFF1

# Handles. That of a token bucket says who made it: 7077: for us ("pw"), which nobody gets by chance; 1: for the reference, and
# for many an administrator. The kernel gives every ingress ffff:.
TBF_HANDLE, REFERENCE_TBF_HANDLE, INGRESS_HANDLE = 0x70770000, 0x10000, 0xFFFF0000

# A filter's priority, 1, and protocol, ETH_P_ALL in network byte order.
_ANY_FIRST = 1 << 16 | struct.unpack("=H", b"\0\3")[0]
_TC_ACT_STOLEN, _TCA_EGRESS_REDIR = 4, 1
_LINKLAYER_ETHERNET = 1

# The largest rate that the struct can carry; a larger one has an attribute of its own.
_UINT32_MAX = 0xFFFFFFFF

# struct tc_tbf_qopt: the ratespecs of rate and peak rate (cell_log, linklayer, overhead, cell_align, mpu, rate), limit,
# buffer, mtu.
_TBF = struct.Struct("=BBHhHI BBHhHI III")
# struct tc_u32_sel (flags, offshift, nkeys, offmask, off, offoff, hoff, hmask), and its keys (mask, value, off, offmask).
_U32_SELECTOR = struct.Struct("=BBBxHHhhI")
_U32_KEY = struct.Struct("=IIii")
_U32_TERMINAL = 1
# struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex.
_MIRRED = struct.Struct("=IIiiiiI")


class Definitions:
    """struct tcmsg and its attributes, of both kinds of message."""

    fields = (
        *(("family", "B"), ("pad1", "x"), ("pad2", "xx"), ("index", "i"), ("handle", "I"), ("parent", "I")),
        ("info", "I"),
    )
    nla_map = ((1, "TCA_KIND", "asciiz"), (2, "TCA_OPTIONS", "nested"))


class Options:
    """The attributes in TCA_OPTIONS, and those within them. An action stands at its place in the order, from 1."""

    nla_map = (
        (1, "TCA_TBF_PARMS", "bytes"),
        (4, "TCA_TBF_RATE64", "uint64"),
        (6, "TCA_TBF_BURST", "uint32"),
        (1, "TCA_U32_CLASSID", "uint32"),
        (5, "TCA_U32_SEL", "bytes"),
        (7, "TCA_U32_ACT", "nested"),
        (1, "TCA_ACT_FIRST", "nested"),
        (1, "TCA_ACT_KIND", "asciiz"),
        (2, "TCA_ACT_OPTIONS", "nested"),
        (2, "TCA_MIRRED_PARMS", "bytes"),
    )


def tbf_attrs(rate: int, limit: int, buffer: int, burst: int) -> list[object]:
    """A token bucket: bytes a second, bytes that may wait, the bucket's size in ticks, or in bytes where ``burst`` is set."""
    spec = (0, _LINKLAYER_ETHERNET, 0, 0, 0, min(rate, _UINT32_MAX))
    inside: list[object] = [["TCA_TBF_PARMS", _TBF.pack(*spec, *(0,) * 6, limit, buffer, 0)]]
    if rate > _UINT32_MAX:
        inside.append(["TCA_TBF_RATE64", rate])
    if burst:
        inside.append(["TCA_TBF_BURST", burst])
    return [["TCA_KIND", "tbf"], ["TCA_OPTIONS", {"attrs": inside}]]


def redirect_fields() -> dict[str, int]:
    """The first filter of a link's ingress, for every protocol."""
    return {"parent": INGRESS_HANDLE, "info": _ANY_FIRST}


def redirect_attrs(index: int) -> list[object]:
    """A filter that matches everything and has it leave by another link; as the reference makes it, u32."""
    selector = _U32_SELECTOR.pack(_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + _U32_KEY.pack(0, 0, 0, 0)
    mirred = _MIRRED.pack(0, 0, _TC_ACT_STOLEN, 0, 0, _TCA_EGRESS_REDIR, index)
    action = [["TCA_ACT_KIND", "mirred"], ["TCA_ACT_OPTIONS", {"attrs": [["TCA_MIRRED_PARMS", mirred]]}]]
    inside = [
        ["TCA_U32_CLASSID", REFERENCE_TBF_HANDLE | 1],
        ["TCA_U32_SEL", selector],
        ["TCA_U32_ACT", {"attrs": [["TCA_ACT_FIRST", {"attrs": action}]]}],
    ]
    return [["TCA_KIND", "u32"], ["TCA_OPTIONS", {"attrs": inside}]]


def qdisc_of(message: Message) -> Qdisc:
    """A qdisc; the numbers only of a token bucket."""
    kind, handle = message.text("TCA_KIND"), message["handle"]
    options = message.nested("TCA_OPTIONS")
    parms = options.raw("TCA_TBF_PARMS") if kind == "tbf" else None
    if parms is None or len(parms) < _TBF.size:
        return Qdisc(kind, handle)
    told = _TBF.unpack_from(parms)
    return Qdisc(kind, handle, options.number("TCA_TBF_RATE64") or told[5], told[12], told[13])


def filters_of(messages: Iterable[Message]) -> tuple[Filter, ...]:
    """The filters among what a link's ingress tells; the kernel tells of tables of filters, too."""
    found = []
    for message in messages:
        kind, options = message.text("TCA_KIND"), message.nested("TCA_OPTIONS")
        if message.raw("TCA_OPTIONS") is None:
            continue
        if kind != "u32":
            found.append(Filter(kind))
            continue
        selector = options.raw("TCA_U32_SEL")
        if selector is not None:
            found.append(Filter(kind, _matches_all(selector), _target(options.nested("TCA_U32_ACT"))))
    return tuple(found)


def _matches_all(selector: bytes) -> bool:
    keys = range(_U32_SELECTOR.size, len(selector) - _U32_KEY.size + 1, _U32_KEY.size)
    return all(_U32_KEY.unpack_from(selector, start)[0] == 0 for start in keys)


def _target(actions: Attributes) -> int | None:
    """The index of the link that the first action redirects to; None when it does something else."""
    first = actions.nested("TCA_ACT_FIRST")
    parms = first.nested("TCA_ACT_OPTIONS").raw("TCA_MIRRED_PARMS") if first.text("TCA_ACT_KIND") == "mirred" else None
    if parms is None or len(parms) < _MIRRED.size:
        return None
    told = _MIRRED.unpack_from(parms)
    return int(told[6]) if told[5] == _TCA_EGRESS_REDIR else None
