"""Rates and bursts as token buckets, and what a bucket that was seen lacks."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.net.facts import Qdisc
from cni.net.shaping import BURST_MAX, BURST_MIN, RATE_MAX, RATE_MIN, Bucket, bucket, problems


@pytest.mark.parametrize(
    ("rate", "burst", "wanted"),
    [
        (800, 200, Bucket(100, 27, 3_906_250)),
        (8_000_000, 800_000, Bucket(1_000_000, 125_000, 1_562_500)),
        (8, 8, Bucket(1, 1, 15_625_000)),
        (15, 15, Bucket(1, 1, 15_625_000)),
        (40_000_000_000, 400_000_000, Bucket(5_000_000_000, 175_000_000, 156_250)),
        # Where ticks of 32 bits do not hold the burst, bytes do.
        (
            1_000_000,
            2_147_483_647,
            Bucket(125_000, 268_438_580, 2_147_483_640 * 15_625_000 // 1_000_000 & 0xFFFFFFFF, 268_435_455),
        ),
        (80_000_000_000, 2400, Bucket(10_000_000_000, 250_000_300, 0, 300)),
    ],
)
def test_the_numbers(rate: int, burst: int, wanted: Bucket) -> None:
    assert bucket(rate, burst) == wanted


@given(st.integers(RATE_MIN, RATE_MAX), st.integers(BURST_MIN, BURST_MAX))
def test_any_numbers_fit_the_kernels_message(rate: int, burst: int) -> None:
    made = bucket(rate, burst)
    assert 0 < made.rate < 1 << 61
    assert 0 < made.limit <= 0xFFFFFFFF
    assert 0 <= made.buffer <= 0xFFFFFFFF
    assert (made.buffer > 0 and made.burst == 0) or 0 < made.burst <= 0xFFFFFFFF
    assert problems("veth1", made, Qdisc("tbf", 0x10000, made.rate, made.limit, made.buffer)) == []


WANTED = bucket(8_000_000, 800_000)
SEEN = Qdisc("tbf", 0x10000, WANTED.rate, WANTED.limit, WANTED.buffer)


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (None, ["veth1 has no rate limit"]),
        (Qdisc("pfifo", 7), ["veth1 has no rate limit but a qdisc pfifo"]),
        (msgspec.structs.replace(SEEN, rate=1), ["veth1 has a rate limit of 8 bits a second, expected 8000000"]),
        (msgspec.structs.replace(SEEN, limit=1), ["veth1 lets 1 bytes wait, expected 125000"]),
        (msgspec.structs.replace(SEEN, buffer=1_562_400), ["veth1 has a burst of 799952 bits, expected 800000"]),
        (msgspec.structs.replace(SEEN, buffer=1_562_600), ["veth1 has a burst of 800048 bits, expected 800000"]),
        (msgspec.structs.replace(SEEN, buffer=1_562_485), []),
        (msgspec.structs.replace(SEEN, buffer=1_562_515), []),
    ],
)
def test_problems(seen: Qdisc | None, told: list[str]) -> None:
    assert problems("veth1", WANTED, seen) == told
