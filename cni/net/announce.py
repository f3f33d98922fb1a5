"""Frames that tell a segment who has an address now: gratuitous ARP (RFC 5227 section 3) and unsolicited neighbour
advertisements (RFC 4861 section 7.2.6). Pure; ``cni.net.host`` sends them.

Without them a neighbour that knew the address's previous holder keeps sending there until its entry ages
(containernetworking/cni#194).
The reference leaves it to the sysctl arp_notify, whose frame goes out while the bridge's port is still closed.
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cni.spec.addresses import Ip

_BROADCAST = b"\xff" * 6
_ALL_NODES = IPv6Address("ff02::1").packed
_ALL_NODES_MAC = bytes.fromhex("333300000001")


def frame(mac: str, address: Ip) -> bytes:
    """The Ethernet frame that announces ``address`` at ``mac``."""
    own = bytes.fromhex(mac.replace(":", ""))
    return _gratuitous_arp(own, address.packed) if address.version == 4 else _advertisement(own, address.packed)


def _gratuitous_arp(mac: bytes, address: bytes) -> bytes:
    ethernet = _BROADCAST + mac + struct.pack("!H", 0x0806)
    return ethernet + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + address + bytes(6) + address


def _advertisement(mac: bytes, address: bytes) -> bytes:
    # Type 136, override flag set, target address, target link-layer address option.
    body = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + address + struct.pack("!BB", 2, 1) + mac
    pseudo = address + _ALL_NODES + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB", 0x60000000, len(body), 58, 255) + address + _ALL_NODES
    return _ALL_NODES_MAC + mac + struct.pack("!H", 0x86DD) + header + body


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
