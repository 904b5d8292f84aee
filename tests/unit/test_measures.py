"""Metrics as they are declared: what is found, and how records add up."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest

from flowcache.measures import Counter, Gauge, Histogram, Measure, Timings, add_up, measures, values
from flowcache.metrics.exposition import exposition
from flowcache.status import DeliveryStatus, WorkerStatus
from tests.unit.telemetry.statuses import worker

CALLS = Counter("calls", "Calls.")
WAITING = Gauge("waiting", "Those that wait.")
FAULTY = Gauge("faulty", "Those with a fault.")
SECONDS = Histogram("seconds", "How long.")


class Inner(msgspec.Struct, frozen=True):
    calls: Annotated[int, CALLS] = 0
    name: str = ""


class Outer(msgspec.Struct, frozen=True):
    waiting: Annotated[int, WAITING]
    fault: Annotated[str | None, FAULTY]
    took: Annotated[Timings, SECONDS]
    inner: Inner | None = None


MANY = [
    Outer(1, "a", Timings([1, 0], 0.5), Inner(2, "first")),
    Outer(2, None, Timings([0, 3], 1.0), None),
    Outer(4, "b", Timings([1, 1], 2.0), Inner(5, "last")),
]


def test_what_is_declared_is_found_in_records_within_records_too() -> None:
    """Each with the way to it."""
    assert measures(Outer) == (
        Measure(WAITING, ("waiting",)),
        Measure(FAULTY, ("fault",)),
        Measure(SECONDS, ("took",)),
        Measure(CALLS, ("inner", "calls")),
    )


def test_values_are_those_of_the_records_that_have_them() -> None:
    """A record that is not there has none."""
    assert values(MANY, ("inner", "calls")) == [2, 5]
    assert values(MANY, ("fault",)) == ["a", None, "b"]


def test_records_add_up() -> None:
    """Counters and timings are summed; nothing of a moment is left; the rest is the last's."""
    assert add_up(MANY) == Outer(0, None, Timings([2, 4], 3.5), Inner(7, "last"))
    assert add_up(MANY[1:2]).inner is None


@pytest.mark.parametrize("record", [WorkerStatus, DeliveryStatus])
def test_each_metric_is_declared_once_and_explained(record: type[msgspec.Struct]) -> None:
    """Its name is ours, and its text is a sentence."""
    kinds = [measure.kind for measure in measures(record)]
    assert len({kind.name for kind in kinds}) == len(kinds) > 3
    for kind in kinds:
        assert kind.name.startswith("flowcache_")
        assert kind.about.endswith(".")


def test_each_declared_metric_is_exposed() -> None:
    """A field and a place that counts are all that a new counter needs."""
    text = exposition([worker()], "1").decode()
    for measure in measures(WorkerStatus):
        assert f"# HELP {measure.kind.name}" in text
