"""Overrides of circuits by an operator, shared by all workers of one service.

One file in the fleet's directory holds the overrides in force, oldest first, and a number that
grows with each order. A worker that reads a higher number than the last one it knows applies all
overrides in the file. So it makes no difference whether a worker hears of an order at once, late,
or is spawned after it, and applying twice does no harm. The file is removed when the service ends;
a permanent mode belongs in the configuration.

An order replaces the overrides that it covers, so the list is never longer than the number of
circuits. An order that clears overrides stays in the list only while a wider override would
otherwise apply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from flowcache.fleet.shared_file import SharedFile
from flowcache.ports import Order
from flowcache.status import CircuitOverride

__all__ = ["Overrides"]

_log = structlog.get_logger(__name__)


class _Written(msgspec.Struct, frozen=True):
    """The content of the file: the number of orders so far, and the overrides in force."""

    number: int
    overrides: list[CircuitOverride]


_decode = msgspec.json.Decoder(_Written).decode
_NOTHING = _Written(0, [])


class Overrides:
    """The overrides in force. ``obey`` applies orders and returns how many circuits changed."""

    def __init__(self, directory: Path, obey: Callable[[Sequence[Order]], int]) -> None:
        self._file = SharedFile(directory / "circuits.json")
        self._obey = obey
        self._last = 0

    def in_force(self) -> list[CircuitOverride]:
        """Return the overrides in force, oldest first; the later of two for one circuit applies."""
        return self._read().overrides

    def add(self, order: Order, by: str, at: float) -> None:
        """Record an order; this worker and the others then `follow`."""
        with self._file.alone():
            before = self._read()
            others = [
                w for w in before.overrides if not order.covers(w.order.shard, w.order.access)
            ]
            kept: list[CircuitOverride] = []
            for override in (*others, CircuitOverride(order, by, at)):
                beneath = any(override.order.meets(each.order) for each in kept)
                if override.order.mode is not None or beneath:
                    kept.append(override)
            self._file.replace(msgspec.json.encode(_Written(before.number + 1, kept)))

    def follow(self) -> int:
        """Apply the overrides in force if there are new ones; return how many circuits changed."""
        written = self._read()
        if written.number <= self._last:
            return 0
        self._last = written.number
        return self._obey([override.order for override in written.overrides])

    def _read(self) -> _Written:
        written = self._file.read()
        if written is None:
            return _NOTHING
        try:
            return _decode(written)
        except msgspec.MsgspecError as fault:
            # Only another version of flowcache can have written it. Circuits stay as they are.
            _log.error("circuit_overrides_unreadable", fault=str(fault))
            return _Written(self._last, [])
