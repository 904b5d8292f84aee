"""What operators want of circuits, known to all workers of one host.

The orders in force lie in one file in the fleet's directory, oldest first, under a number that
grows with each. A worker that finds a higher number than the last it knows takes up all of them. So
it makes no difference whether it heard of an order at once, late, or by being spawned after it; and
repeating costs nothing. The file ends with the service: what shall outlast it belongs into the
configuration.

An order replaces those that it covers, so that there are never more than there are circuits. One
that takes others back stays only while there is something left beneath it to hold off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from flowcache.fleet.shared_file import SharedFile
from flowcache.ports import Order
from flowcache.status import CircuitWish

__all__ = ["Wishes"]

_log = structlog.get_logger(__name__)


class _Written(msgspec.Struct, frozen=True):
    """The file: how many orders were given, and which are in force."""

    number: int
    wishes: list[CircuitWish]


_decode = msgspec.json.Decoder(_Written).decode
_NOTHING = _Written(0, [])


class Wishes:
    """The wishes in force. ``obey`` takes up orders, and returns how many circuits changed."""

    def __init__(self, directory: Path, obey: Callable[[Sequence[Order]], int]) -> None:
        self._file = SharedFile(directory / "circuits.json")
        self._obey = obey
        self._last = 0

    def in_force(self) -> list[CircuitWish]:
        """Return the wishes that are in force, oldest first; of two for one circuit the later
        counts."""
        return self._read().wishes

    def add(self, order: Order, by: str, at: float) -> None:
        """Put an order in force, for this worker and the others to `follow`."""
        with self._file.alone():
            before = self._read()
            others = [w for w in before.wishes if not order.covers(w.order.shard, w.order.access)]
            kept: list[CircuitWish] = []
            for wish in (*others, CircuitWish(order, by, at)):
                beneath = any(wish.order.meets(each.order) for each in kept)
                if wish.order.mode is not None or beneath:
                    kept.append(wish)
            self._file.replace(msgspec.json.encode(_Written(before.number + 1, kept)))

    def follow(self) -> int:
        """Take up the orders in force, if some are new; return how many circuits changed."""
        written = self._read()
        if written.number <= self._last:
            return 0
        self._last = written.number
        return self._obey([wish.order for wish in written.wishes])

    def _read(self) -> _Written:
        written = self._file.read()
        if written is None:
            return _NOTHING
        try:
            return _decode(written)
        except msgspec.MsgspecError as fault:
            # Only another version of flowcache could have written it. Circuits go on as they are.
            _log.error("the wishes about circuits can't be read", fault=str(fault))
            return _Written(self._last, [])
