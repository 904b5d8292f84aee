"""How far each destination is, by comparing its progress with the journal. Reads only."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from flowcache.audit.chain import writer_name
from flowcache.audit.database import JournalFault
from flowcache.audit.reading import Reader
from flowcache.delivery.progress import State, read_states
from flowcache.status import DeliveryStatus

__all__ = ["overview", "unknown"]

NumberT = TypeVar("NumberT", int, float)


def overview(journal: Path, names: Sequence[str], now: float) -> list[DeliveryStatus]:
    """Return how each destination of ``names`` does. Blocks.

    Raises:
        JournalFault: the journal, or the file of the progress, can't be read.
    """
    try:
        states = read_states(journal)
    except sqlite3.Error as fault:
        raise JournalFault(f"{journal}: the progress of its delivery: {fault}") from None
    kept = [states.get(name, (State(name), {})) for name in names]
    if not journal.exists():  # nobody has written yet
        return [_status(state, {}, None, now) for state, _ in kept]
    with Reader(journal) as reader:
        # SQLite keeps anything in any column: what is no number is no head.
        heads: dict[int, object] = {each: reader.head(each).seq for each in reader.writers()}
        return [_status(state, *_behind(reader, heads, cursors), now) for state, cursors in kept]


def _status(
    state: State, behind: dict[str, int], oldest: float | None, now: float
) -> DeliveryStatus:
    return DeliveryStatus(
        state.name,
        state.delivered,
        state.failures,
        state.missed,
        behind,
        0.0 if oldest is None else max(0.0, now - oldest),
        state.delivered_at,
        state.fault,
        state.fault_at,
        state.stopped,
    )


def unknown(names: Sequence[str], fault: str) -> list[DeliveryStatus]:
    """Return what is to be told when `overview` can't tell: an alarm for each destination."""
    return [
        DeliveryStatus(name, 0, 0, 0, {}, 0.0, None, fault, None, stopped=True, known=False)
        for name in names
    ]


def _behind(
    reader: Reader, heads: Mapping[int, object], cursors: Mapping[str, int]
) -> tuple[dict[str, int], float | None]:
    """Return how many records are due by writer, and the time of the oldest."""
    behind: dict[str, int] = {}
    oldest: float | None = None
    for writer, head in heads.items():
        name = writer_name(writer)
        expected = cursors.get(name, -1) + 1
        if isinstance(head, int) and head < expected:
            continue
        links = reader.links(writer, expected, 1)
        if links:
            behind[name] = max(1, (head if isinstance(head, int) else 0) + 1 - expected)
            at = _number(links[0].entry.at)
            oldest = at if oldest is None else min(oldest, at)
    return behind, oldest


def _number(value: NumberT) -> NumberT:
    """Return a number as it was kept; 0 for what somebody made of it: `verify` tells of that."""
    return value if isinstance(value, int | float) else 0
