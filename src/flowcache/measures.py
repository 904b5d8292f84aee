"""Metrics, declared where they are counted: at the fields of the records in `status`.

    retries: Annotated[int, Counter("flowcache_retries", "Commands retried because ...")] = 0

From that follow the metric (`metrics.exposition`) and how the records of workers that have ended
are added up (`metrics.totals`). So a new counter is one field, and one place that counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import structs

__all__ = [
    "Counter",
    "Gauge",
    "Histogram",
    "Measure",
    "Timings",
    "add_up",
    "measures",
    "sum_of_timings",
    "values",
]

_StructT = TypeVar("_StructT", bound=msgspec.Struct)


class Counter(NamedTuple):
    """A number that only grows while a worker lives. ``name`` is the metric's."""

    name: str
    about: str


class Gauge(NamedTuple):
    """What is so now: a number, or something that is there, which counts 1, or not, which is 0."""

    name: str
    about: str


class Histogram(NamedTuple):
    """`Timings`."""

    name: str
    about: str


class Timings(msgspec.Struct, frozen=True):
    """How long something took: how often, by bucket (`metrics.latency`), and all together."""

    counts: list[int]
    seconds: float


class Measure(NamedTuple):
    """A declared metric, and the names of the fields that lead to it."""

    kind: Counter | Gauge | Histogram
    path: tuple[str, ...]


@cache
def measures(record: type[msgspec.Struct]) -> tuple[Measure, ...]:
    """Return what is declared in a record, and in the records within it."""
    found: list[Measure] = []
    for name, inner, marks in _fields(record):
        found += [Measure(mark, (name,)) for mark in marks]
        if not marks and inner is not None:
            found += [Measure(each.kind, (name, *each.path)) for each in measures(inner)]
    return tuple(found)


def values(records: Iterable[msgspec.Struct], path: Sequence[str]) -> list[Any]:
    """Return what the field at ``path`` holds, of the records that have it."""
    found: list[Any] = list(records)
    for name in path:
        found = [getattr(each, name) for each in found if each is not None]
    return found


def add_up(records: Sequence[_StructT]) -> _StructT:
    """Return one record that has counted what all, at least one, did; the rest is of the last.

    Of what was so at a moment nothing is left: a gauge is 0, or None.
    """
    total = records[-1]
    changed: dict[str, Any] = {}
    for name, inner, marks in _fields(type(total)):
        there = [each for each in values(records, (name,)) if each is not None]
        for mark in marks:
            if isinstance(mark, Gauge):
                changed[name] = 0 if isinstance(getattr(total, name), int) else None
            elif isinstance(mark, Counter):
                changed[name] = sum(there)
            else:
                changed[name] = sum_of_timings(there)
        if not marks and inner is not None and there:
            changed[name] = add_up(there)
    return structs.replace(total, **changed)


def sum_of_timings(many: Sequence[Timings]) -> Timings:
    """Add timings up."""
    counts = [sum(column) for column in zip(*(each.counts for each in many), strict=True)]
    return Timings(counts, sum(each.seconds for each in many))


class _Field(NamedTuple):
    """A field: its name, the record that it holds, if it does, and its marks."""

    name: str
    inner: type[msgspec.Struct] | None
    marks: tuple[Counter | Gauge | Histogram, ...]


@cache
def _fields(record: type[msgspec.Struct]) -> tuple[_Field, ...]:
    hints = get_type_hints(record, include_extras=True)
    return tuple(_field(name, hint) for name, hint in hints.items())


def _field(name: str, hint: Any) -> _Field:
    more: Sequence[Any] = ()
    if get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
    kinds = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    inner = [k for k in kinds if isinstance(k, type) and issubclass(k, msgspec.Struct)]
    marks = tuple(mark for mark in more if isinstance(mark, (Counter, Gauge, Histogram)))
    return _Field(name, inner[0] if inner else None, marks)
