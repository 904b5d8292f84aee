"""Histories, written down briefly: one call after the other, a tenth of a second each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chaos.history import OK, Call, Found, Operation

__all__ = ["TTL_MS", "Telling", "found", "value"]

TTL_MS = 3_000_000
SECONDS = 0.1


def value(key: str, seq: int, same: int | None = None) -> dict[str, Any]:
    """Return what the ``seq``-th write to ``key`` stores."""
    return {"key": key, "seq": seq, "same": seq if same is None else same}


def found(values: Mapping[str, Any], ttl_ms: int = TTL_MS) -> dict[str, Found]:
    """Return what Redis has at the end."""
    return {key: Found(data, ttl_ms) for key, data in values.items()}


class Telling:
    """Calls in the order in which they were made, each ended before the next begins."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.now = 100.0
        self._seq: dict[str, int] = {}

    def write(self, key: str, *outcomes: str, retryable: bool = False, data: Any = "OK") -> int:
        """Write once, with an attempt for each outcome (`OK` by default); return its number."""
        seq = self._seq[key] = self._seq.get(key, 0) + 1
        operation: Operation = "INCR" if key.startswith("counter") else "SET"
        for attempt, outcome in enumerate(outcomes or (OK,), 1):
            self._call(
                operation,
                key,
                outcome,
                seq=seq,
                attempt=attempt,
                once="once" in key,
                retryable=retryable and outcome != OK,
                data=data if outcome == OK else None,
            )
        return seq

    def read(self, key: str, data: Any, *, stale: bool = False) -> None:
        """Read what is given."""
        self._call("GET", key, OK, data=data, stale=stale)

    def _call(self, operation: Operation, key: str, outcome: str, **fields: Any) -> None:
        began = self.now + SECONDS / 10
        self.now = began + SECONDS
        known = {"seq": 0, "attempt": 1, "once": False} | fields
        self.calls.append(
            Call(
                operation=operation,
                key=key,
                scheduled=began,
                woken=began,
                answered=self.now,
                outcome=outcome,
                **known,
            )
        )
