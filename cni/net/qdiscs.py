"""The layouts of traffic control's messages: queueing disciplines (qdiscs), filters, and what filters do. Pure.

They have the form of pyroute2's definitions, and ``cni.net.messages`` packs and cuts by them. pyroute2 has them too, in modules
whose import costs 12 ms; what is needed here is four structs. ``tests/contract/test_messages.py`` compares the bytes.
"""

from __future__ import annotations

import struct

# Where a qdisc is: at the root, which all that leaves a link goes through, or at the ingress, for all that comes in.
ROOT, INGRESS = 0xFFFFFFFF, 0xFFFFFFF1

# Handles. That of a token bucket says who made it: 7077: for us ("pw"), which nobody gets by chance; 1: for the reference, and
# for many an administrator. The kernel gives every ingress ffff:.
TBF_HANDLE, REFERENCE_TBF_HANDLE, INGRESS_HANDLE = 0x70770000, 0x10000, 0xFFFF0000

# A filter's priority, 1, and protocol, ETH_P_ALL in network byte order.
_ANY_FIRST = 1 << 16 | struct.unpack("=H", b"\0\3")[0]
_TC_ACT_STOLEN, TCA_EGRESS_REDIR = 4, 1
_LINKLAYER_ETHERNET = 1

# The largest rate that the struct can carry; a larger one has an attribute of its own.
_UINT32_MAX = 0xFFFFFFFF

# struct tc_tbf_qopt: the ratespecs of rate and peak rate (cell_log, linklayer, overhead, cell_align, mpu, rate), limit,
# buffer, mtu.
TBF = struct.Struct("=BBHhHI BBHhHI III")
# struct tc_u32_sel (flags, offshift, nkeys, offmask, off, offoff, hoff, hmask), and its keys (mask, value, off, offmask).
U32_SELECTOR = struct.Struct("=BBBxHHhhI")
U32_KEY = struct.Struct("=IIii")
_U32_TERMINAL = 1
# struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex.
MIRRED = struct.Struct("=IIiiiiI")


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
    inside: list[object] = [["TCA_TBF_PARMS", TBF.pack(*spec, *(0,) * 6, limit, buffer, 0)]]
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
    selector = U32_SELECTOR.pack(_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + U32_KEY.pack(0, 0, 0, 0)
    mirred = MIRRED.pack(0, 0, _TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, index)
    action = [["TCA_ACT_KIND", "mirred"], ["TCA_ACT_OPTIONS", {"attrs": [["TCA_MIRRED_PARMS", mirred]]}]]
    inside = [
        ["TCA_U32_CLASSID", REFERENCE_TBF_HANDLE | 1],
        ["TCA_U32_SEL", selector],
        ["TCA_U32_ACT", {"attrs": [["TCA_ACT_FIRST", {"attrs": action}]]}],
    ]
    return [["TCA_KIND", "u32"], ["TCA_OPTIONS", {"attrs": inside}]]
