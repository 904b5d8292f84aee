"""What the histogram of latencies promises, against the latencies themselves."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from flowcache.metrics.latency import (
    BUCKETS,
    bucket_of,
    count_until,
    percentile_ms,
    upper_bound_us,
)
from tests.property.strategies import modest

TOP_US = 2**26
"""From here on, 67 seconds, all latencies share the last bucket."""

micros = st.integers(0, TOP_US - 1) | st.builds(lambda power: 2**power, st.integers(0, 25))
samples = st.lists(micros | st.integers(0, 5000), min_size=1, max_size=60)
fractions = st.sampled_from([Fraction(1, 2), Fraction(95, 100), Fraction(99, 100), Fraction(1)])


def ms(us: float) -> float:
    return us / 1000


def histogram(sample: list[int]) -> list[int]:
    counts = [0] * BUCKETS
    for us in sample:
        counts[bucket_of(ms(us))] += 1
    return counts


@given(micros)
@modest
def test_a_bucket_holds_what_is_below_its_bound_and_not_below_the_one_before(us: int) -> None:
    """A latency is below the bound of its bucket, and the bucket before ends at or before it."""
    bucket = bucket_of(ms(us))
    assert us < upper_bound_us(bucket)
    assert bucket == 0 or upper_bound_us(bucket - 1) <= us


@given(st.floats(0, 1e6), st.floats(0, 1e6))
@modest
def test_a_longer_latency_is_never_in_an_earlier_bucket(one: float, other: float) -> None:
    """Buckets are in order of latency, and there are only so many."""
    shorter, longer = sorted((one, other))
    assert 0 <= bucket_of(shorter) <= bucket_of(longer) < BUCKETS


@given(micros)
@modest
def test_a_bucket_is_a_sixteenth_wide_at_most(us: int) -> None:
    """What a bucket tells of a latency is 6.25% too high at most; one microsecond below 16."""
    assert upper_bound_us(bucket_of(ms(us))) - us <= max(1, us * 0.0625)


@given(samples, fractions)
@modest
def test_a_percentile_is_the_exact_one_or_up_to_a_sixteenth_more(
    sample: list[int], fraction: Fraction
) -> None:
    """A percentile agrees with the sorted latencies within the width of a bucket."""
    exact = sorted(sample)[ceil(len(sample) * fraction) - 1]
    told = percentile_ms(histogram(sample), float(fraction))
    assert told is not None
    assert exact < told * 1000 <= max(exact + 1, exact * 1.0625) + 1e-6


@given(samples, st.integers(4, 26))
@modest
def test_a_count_until_a_power_of_two_is_exact(sample: list[int], power: int) -> None:
    """The counts that Prometheus gets are those of the latencies themselves."""
    assert count_until(histogram(sample), power) == sum(us < 2**power for us in sample)


@given(samples, samples)
@modest
def test_histograms_add_up(one: list[int], other: list[int]) -> None:
    """The sum of two workers' histograms is the histogram of all their calls."""
    added = [a + b for a, b in zip(histogram(one), histogram(other), strict=True)]
    assert added == histogram(one + other)
