"""The histogram at its edges; `tests/property/test_latency.py` has what lies between."""

from __future__ import annotations

import pytest

from flowcache.metrics.latency import (
    BUCKETS,
    bucket_of,
    count_until,
    percentile_ms,
    upper_bound_us,
)


def histogram(*latencies_ms: float) -> list[int]:
    counts = [0] * BUCKETS
    for latency_ms in latencies_ms:
        counts[bucket_of(latency_ms)] += 1
    return counts


def test_buckets_follow_one_another_without_a_gap() -> None:
    """Every bound is the first microsecond of the next bucket, from 1 us to 67 s."""
    bounds = [upper_bound_us(bucket) for bucket in range(BUCKETS)]
    assert bounds == sorted(set(bounds))
    assert bounds[-1] == 2**26
    assert [bucket_of(bound / 1000) for bound in bounds[:-1]] == list(range(1, BUCKETS))


@pytest.mark.parametrize("latency_ms", [-1.0, -0.0, 0.0, 0.0009])
def test_no_time_at_all_is_the_first_bucket(latency_ms: float) -> None:
    """A clock that was set back puts no call anywhere else."""
    assert bucket_of(latency_ms) == 0


@pytest.mark.parametrize("latency_ms", [67_108.864, 1e6, 1e12])
def test_the_last_bucket_takes_all_that_is_longer(latency_ms: float) -> None:
    """However long a call took, it is counted."""
    assert bucket_of(latency_ms) == BUCKETS - 1


def test_without_calls_there_is_no_percentile() -> None:
    """Nothing measured is not the same as zero."""
    assert percentile_ms(histogram(), 0.99) is None


@pytest.mark.parametrize(
    ("fraction", "slow"), [(0.5, False), (0.98, False), (0.99, True), (1.0, True)]
)
def test_a_percentile_is_the_call_of_that_rank(fraction: float, slow: bool) -> None:
    """Of 98 quick calls and 2 slow ones, the 99th percentile is slow and the 98th isn't."""
    told = percentile_ms(histogram(*[0.010] * 98, 50.0, 50.0), fraction)
    assert told is not None
    assert (told > 1) is slow


@pytest.mark.parametrize("total", [20, 100, 700, 1000, 99_999])
def test_a_rank_is_not_off_by_a_rounding(total: int) -> None:
    """95 of 100 is 95, not 96, in floating point too."""
    counts = histogram()
    quick, slow = bucket_of(0.010), bucket_of(50.0)
    counts[quick] = -(-total * 95 // 100)
    counts[slow] = total - counts[quick]
    assert percentile_ms(counts, 0.95) == upper_bound_us(quick) / 1000


def test_counts_until_a_power_add_up() -> None:
    """Each bound of the exposition counts all calls below it."""
    counts = histogram(0.001, 0.127, 0.128, 1.0, 1.024, 20_000.0)
    assert [count_until(counts, power) for power in (4, 7, 8, 10, 11, 25)] == [1, 2, 3, 4, 5, 6]
