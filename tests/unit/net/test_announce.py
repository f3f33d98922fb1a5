"""Announcements, byte by byte; the checksum is verified by another computation than the one that made it."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni.net.announce import frame

MAC = "02:00:5e:10:20:30"
MAC_BYTES = bytes.fromhex("02005e102030")


def ones_complement_sum(data: bytes) -> int:
    """RFC 1071 by its definition: the sum of 16-bit words modulo 65535, where the result of valid data is 0xffff."""
    words = [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]
    return sum(words) % 0xFFFF


def test_gratuitous_arp() -> None:
    """RFC 5227 section 3: an ARP request (some stacks ignore replies) whose sender and target are the address itself."""
    found = frame(MAC, ipaddress.ip_address("10.1.2.3"))
    assert found[:14] == b"\xff" * 6 + MAC_BYTES + b"\x08\x06"
    kind, protocol, hardware_size, protocol_size, operation = struct.unpack("!HHBBH", found[14:22])
    assert (kind, protocol, hardware_size, protocol_size, operation) == (1, 0x0800, 6, 4, 1)
    sender, sender_ip, target, target_ip = found[22:28], found[28:32], found[32:38], found[38:42]
    assert (sender, sender_ip, target, target_ip) == (MAC_BYTES, bytes([10, 1, 2, 3]), bytes(6), bytes([10, 1, 2, 3]))
    assert len(found) == 42


def test_unsolicited_advertisement() -> None:
    """RFC 4861 sections 4.4 and 7.2.6: to all nodes, hop limit 255, override set, solicited and router not set."""
    address = ipaddress.ip_address("fd00::5")
    found = frame(MAC, address)
    assert found[:14] == bytes.fromhex("333300000001") + MAC_BYTES + b"\x86\xdd"
    version, length, following, hops = struct.unpack("!IHBB", found[14:22])
    assert (version >> 28, length, following, hops) == (6, 32, 58, 255)
    assert found[22:38] == address.packed
    assert found[38:54] == ipaddress.ip_address("ff02::1").packed
    kind, code, _, flags = struct.unpack("!BBHI", found[54:62])
    assert (kind, code, flags) == (136, 0, 0x20000000)
    assert found[62:78] == address.packed
    assert found[78:] == b"\x02\x01" + MAC_BYTES


@settings(max_examples=50)
@given(st.binary(min_size=6, max_size=6), st.ip_addresses(v=6))
def test_the_checksum(mac: bytes, address: ipaddress.IPv6Address) -> None:
    found = frame(mac.hex(":"), address)
    source, target, message = found[22:38], found[38:54], found[54:]
    pseudo_header = source + target + len(message).to_bytes(4, "big") + bytes([0, 0, 0, 58])
    assert ones_complement_sum(pseudo_header + message) == 0
    damaged = bytearray(message)
    damaged[-1] ^= 1
    assert ones_complement_sum(pseudo_header + bytes(damaged)) != 0


@pytest.mark.parametrize("text", ["10.0.0.1", "fd00::1"])
def test_the_mac_is_taken_in_either_case(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert frame("0A:00:00:00:00:FF", address) == frame("0a:00:00:00:00:ff", address)
