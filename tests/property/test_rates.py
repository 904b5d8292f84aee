"""The token bucket against the naive one that counts tokens."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from flowcache.ratelimit.buckets import Bucket, FailedAttempts, Rate

# Powers of two: floats count them exactly, so that bucket and model agree to the last call.
rates = st.sampled_from([0.125, 0.5, 1.0, 2.0, 16.0, 128.0])
bursts = st.integers(1, 20)
pauses = st.lists(st.integers(0, 400).map(lambda n: n / 256), max_size=150)


class Naive:
    """A bucket as one would explain it: so many tokens, and more of them as time goes by."""

    def __init__(self, rate: Rate) -> None:
        self.rate, self.tokens, self.at = rate, Fraction(rate.burst), Fraction(0)

    def take(self, now: float) -> Fraction:
        earned = (Fraction(now) - self.at) * Fraction(self.rate.per_second)
        self.tokens, self.at = min(Fraction(self.rate.burst), self.tokens + earned), Fraction(now)
        if self.tokens >= 1:
            self.tokens -= 1
            return Fraction(0)
        return (1 - self.tokens) / Fraction(self.rate.per_second)


@given(rates, bursts, pauses)
def test_the_bucket_is_the_naive_one(per_second: float, burst: int, steps: list[float]) -> None:
    """It lets the same calls through, and tells the others the same wait."""
    rate = Rate(per_second, burst)
    bucket, naive, now = Bucket(rate), Naive(rate), 0.0
    for step in steps:
        now += step
        assert Fraction(bucket.take(now)) == naive.take(now)


@given(st.floats(0.001, 10_000), bursts, st.lists(st.floats(0, 5), max_size=100))
def test_no_window_holds_more_than_rate_and_burst(
    per_second: float, burst: int, steps: list[float]
) -> None:
    """In any stretch of time at most what it earned then, and one burst, gets through."""
    bucket, now, through = Bucket(Rate(per_second, burst)), 0.0, [0.0][:0]
    for step in steps:
        now += step
        if not bucket.take(now):
            through.append(now)
    for first in range(len(through)):
        for last in range(first, len(through)):
            seconds = through[last] - through[first]
            assert last - first + 1 <= seconds * per_second + burst + 1e-6 * (1 + per_second)


@given(st.floats(0.001, 10_000), bursts, st.floats(0, 1e9), st.integers(1, 40))
def test_whoever_waits_as_told_is_let_through(
    per_second: float, burst: int, start: float, calls: int
) -> None:
    """Retry-After is true, as seconds and as the whole seconds that the header rounds up to."""
    for rounded in (False, True):
        bucket, now = Bucket(Rate(per_second, burst)), start
        for _ in range(calls):
            wait = bucket.take(now)
            if wait:
                now += max(1, ceil(wait)) if rounded else wait + 1e-6
                assert not bucket.take(now)


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 100)), max_size=200))
def test_the_table_of_addresses_is_bounded(attempts: list[tuple[int, float]]) -> None:
    """However many addresses knock, no more than the capacity are remembered."""
    failed = FailedAttempts(Rate(1.0, 2), capacity=7)
    for address, at in attempts:
        failed.take(f"192.0.2.{address}", at)
        assert len(failed) <= 7
