"""Counters of what came of the calls, by operation. Plain integers: the hot path adds to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from flowcache.metrics.latency import BUCKETS, bucket_of
from flowcache.status import OperationStats

__all__ = ["OTHER", "Counters", "merge"]

OTHER = "other"
"""The operation of a call whose operation is unknown or could not be read."""


class _Series:
    __slots__ = ("hits", "latency", "misses", "outcomes", "total_ms")

    def __init__(self) -> None:
        self.outcomes: defaultdict[str, int] = defaultdict(int)
        self.hits = 0
        self.misses = 0
        self.total_ms = 0.0
        self.latency = [0] * BUCKETS


class Counters:
    """Count calls, as a `Metrics` does. No caller can make the set of operations grow."""

    __slots__ = ("_other", "_series")

    def __init__(self, operations: Iterable[str]) -> None:
        self._series = {name: _Series() for name in operations}
        self._other = self._series[OTHER] = _Series()

    def record(
        self, operation: str | None, outcome: str, hit: bool | None, latency_ms: float
    ) -> None:
        """Count one call; ``outcome`` is ``ok`` or a failure's code."""
        series = self._series.get(operation, self._other) if operation else self._other
        series.outcomes[outcome] += 1
        if hit:
            series.hits += 1
        elif hit is False:
            series.misses += 1
        series.total_ms += latency_ms
        series.latency[bucket_of(latency_ms)] += 1

    def stats(self) -> dict[str, OperationStats]:
        """Return a copy of all counts."""
        return {
            name: OperationStats(
                dict(series.outcomes),
                series.hits,
                series.misses,
                series.total_ms,
                list(series.latency),
            )
            for name, series in self._series.items()
        }


def merge(many: Iterable[OperationStats]) -> OperationStats:
    """Add up counts, of several workers or several operations."""
    total = _Series()
    for stats in many:
        for outcome, count in stats.outcomes.items():
            total.outcomes[outcome] += count
        total.hits += stats.hits
        total.misses += stats.misses
        total.total_ms += stats.total_ms
        total.latency = [a + b for a, b in zip(total.latency, stats.latency, strict=True)]
    return OperationStats(
        dict(total.outcomes), total.hits, total.misses, total.total_ms, total.latency
    )
