"""Rate and burst of a configuration as the kernel's token bucket has them, and what a bucket that was seen lacks. Pure.

The numbers are the reference's, so that either suite's CHECK accepts what the other made. But the reference cuts the bucket's
size in ticks to 32 bits: of 2,147,483,647 bits, which runtimes give as "no limit to the burst", a pod with 1 Mbit/s keeps a
tenth, and a bucket of less than a microsecond is refused by the kernel. Such a size is given in bytes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from cni.net.facts import Qdisc

# The kernel counts time in ticks of 64 ns; /proc/net/psched says so, and has since Linux 2.6.31.
_TICK_NS = 64
_US, _NS = 10**6, 10**9

# What may wait is a bucket full, and what is sent in 25 ms.
_WAIT_PART = 40

_UINT32_MAX = 0xFFFFFFFF

# A bucket's size goes through microseconds and a factor of 31 bits on its way to the kernel and back.
_TICKS_OF_A_US = 16
_FACTOR_BITS = 30

# In bits. A rate below one byte a second is none; the bucket's size has 32 bits of bytes.
RATE_MIN, RATE_MAX = 8, (1 << 64) - 1
BURST_MIN, BURST_MAX = 8, 8 * _UINT32_MAX - 1


class Bucket(msgspec.Struct, frozen=True):
    """A token bucket, as ``ops.LimitRate`` has it."""

    rate: int
    limit: int
    buffer: int
    burst: int = 0


def bucket(rate: int, burst: int) -> Bucket:
    """The bucket for bits a second and bits."""
    rate, burst = rate // 8, burst // 8
    limit = min(rate // _WAIT_PART + burst, _UINT32_MAX)
    ticks = burst * _US // rate * 1000 // _TICK_NS
    if 0 < ticks <= _UINT32_MAX:
        return Bucket(rate, limit, ticks)
    return Bucket(rate, limit, (burst * _NS // rate // _TICK_NS) & _UINT32_MAX, burst)


def problems(name: str, wanted: Bucket, seen: Qdisc | None) -> list[str]:
    """What is not as wanted, a line each, in the units of the configuration."""
    if seen is None:
        return [f"{name} has no rate limit"]
    if seen.kind != "tbf":
        return [f"{name} has no rate limit but a qdisc {seen.kind}"]
    told = []
    slack = _TICKS_OF_A_US + (wanted.burst * _NS // wanted.rate // _TICK_NS >> _FACTOR_BITS)
    if seen.rate != wanted.rate:  # the size in ticks is the time that it takes at the rate
        told.append(f"{name} has a rate limit of {8 * seen.rate} bits a second, expected {8 * wanted.rate}")
    elif slack < (seen.buffer - wanted.buffer) & _UINT32_MAX < _UINT32_MAX - slack:
        expected = wanted.burst or _bytes(wanted.buffer, wanted.rate)
        told.append(f"{name} has a burst of {8 * _bytes(seen.buffer, seen.rate)} bits, expected {8 * expected}")
    if seen.limit != wanted.limit:
        told.append(f"{name} lets {seen.limit} bytes wait, expected {wanted.limit}")
    return told


def _bytes(ticks: int, rate: int) -> int:
    """A bucket's size in bytes, rounded."""
    return (ticks * _TICK_NS * rate + _NS // 2) // _NS
