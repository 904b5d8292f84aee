"""What a worker asks of the garbage collector once it serves."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from flowcache.server.worker import _settle_memory


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_the_collector_looks_rarely_and_never_at_what_the_start_built() -> None:
    """A large value is decoded without a look at all of memory in the middle of it."""
    gc.unfreeze()
    _settle_memory()
    assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold()[0] >= 10_000
    gc.collect(0)
    before = gc.get_stats()[0]["collections"]
    kept = [[number] for number in range(5_000)]
    assert gc.get_stats()[0]["collections"] == before
    assert len(kept) == 5_000
