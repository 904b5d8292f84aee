"""A histogram of latencies of fixed size: log-linear buckets, as in HdrHistogram.

Microseconds 0 to 15 have a bucket each; from there every power of two is cut into 16, so that a
percentile read from it is at most 6.25% too high. The last bucket takes all from 67 seconds on.
Two histograms add up bucket by bucket, which is how the workers' become one.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowcache.measures import Timings

__all__ = [
    "BUCKETS",
    "LatencyCounts",
    "bucket_of",
    "count_until",
    "percentile_ms",
    "upper_bound_us",
]

_SUB = 16
_TOP_POWER = 26
BUCKETS = _SUB + (_TOP_POWER - 4) * _SUB


def bucket_of(latency_ms: float) -> int:
    """Return the bucket that a latency belongs to."""
    us = int(latency_ms * 1000)
    if us < _SUB:
        return us if us > 0 else 0
    power = us.bit_length() - 1
    if power >= _TOP_POWER:
        return BUCKETS - 1
    return _SUB + (power - 4) * _SUB + ((us >> (power - 4)) - _SUB)


class LatencyCounts:
    """Count seconds by bucket, and add them up."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.total = 0.0

    def record(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bucket_of(seconds * 1000)] += 1
        self.total += seconds

    def timings(self) -> Timings:
        """Return a copy."""
        return Timings(list(self.counts), self.total)


def upper_bound_us(bucket: int) -> int:
    """Return the first microsecond that no longer belongs to ``bucket``."""
    if bucket < _SUB:
        return bucket + 1
    octave, place = divmod(bucket - _SUB, _SUB)
    return (_SUB + place + 1) << octave


def percentile_ms(counts: Sequence[int], fraction: float) -> float | None:
    """Return the latency that ``fraction`` of the calls did not exceed; None without calls."""
    total = sum(counts)
    if not total:
        return None
    rank = max(1, -(-total * fraction // 1))
    seen = 0
    for bucket, count in enumerate(counts):
        seen += count
        if seen >= rank:
            return upper_bound_us(bucket) / 1000
    raise AssertionError("the counts add up to the total")


def count_until(counts: Sequence[int], power: int) -> int:
    """Return how many calls took less than ``2**power`` microseconds (power 4 or more): exact."""
    return sum(counts[: _SUB + (power - 4) * _SUB])
