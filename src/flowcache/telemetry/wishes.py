"""What operators want of circuits, known to all workers of one host.

The wishes in force lie in one file in the fleet's directory, oldest first, each with a number that
only grows. A worker applies what is newer than the last it knows, in order. So it makes no
difference whether it heard of a wish at once, late, or by being spawned after it; and repeating
costs nothing. The file ends with the service: what shall outlast it belongs into the configuration.

A later wish replaces those that it covers, so that there are never more than there are circuits.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import structlog

from flowcache.ports import Access, Mode
from flowcache.status import CircuitWish

__all__ = ["Wishes"]

_log = structlog.get_logger(__name__)
_decode = msgspec.json.Decoder(list[CircuitWish]).decode


class Wishes:
    """The wishes in force. ``apply`` switches circuits and returns how many there were."""

    def __init__(self, directory: Path, apply: Callable[[CircuitWish], int]) -> None:
        self._path = directory / "circuits.json"
        self._lock = directory / "circuits.lock"
        self._apply = apply
        self._last = 0

    def in_force(self) -> list[CircuitWish]:
        """Return the wishes that are in force, oldest first."""
        try:
            return _decode(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except msgspec.MsgspecError as fault:
            # Only another version of flowcache could have written it. Circuits go on as they are.
            _log.error("the wishes about circuits can't be read", fault=str(fault))
            return []

    def add(
        self, mode: Mode, shard: str | None, access: Access | None, by: str, at: float
    ) -> CircuitWish:
        """Put a wish in force, for this worker and the others to `follow`.

        The file is replaced at once: who reads it finds the wishes before or after, whole.
        """
        with self._alone():
            before = self.in_force()
            number = max((wish.number for wish in before), default=0) + 1
            wish = CircuitWish(number, mode, shard, access, by, at)
            kept = [old for old in before if not wish.covers(old)]
            new = self._path.with_suffix(".new")
            new.write_bytes(msgspec.json.encode([*kept, wish]))
            os.replace(new, self._path)
        return wish

    def follow(self) -> int:
        """Apply what is newer than the last that was applied; return how many circuits it met."""
        met = 0
        for wish in self.in_force():
            if wish.number > self._last:
                met += self._apply(wish)
                self._last = wish.number
        return met

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other workers from writing. They hold it for a moment only."""
        with self._lock.open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
