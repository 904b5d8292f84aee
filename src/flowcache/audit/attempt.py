"""An attempt that has to be on record: its intent, its outcome, and a correction of it.

The rules:

1. Where the sink wants intents (`audit.mode` is ``strict``), an intent is on disk before anything
   is changed. An attempt that a crash cut short then has an intent and no outcome.
2. Each attempt has one outcome: a record of kind ``outcome`` after an intent, or else of kind
   ``call``. What becomes known later (the record could not be written, the call was cancelled) is
   a ``correction``. The same outcome twice is recorded once.
3. `intend` and `conclude` return what has to be awaited before anybody is answered, or None where
   the sink promises nothing. How long to wait, and what to answer when the record is not on disk,
   is decided by the caller; `on_disk` waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from enum import Enum, auto
from typing import Any, Final

import msgspec

from flowcache.audit.chain import Kind
from flowcache.ports import INTENDED, AuditRecord, AuditSink, Now

__all__ = ["Attempt", "Kept", "on_disk"]

_CALL: Final = Kind.CALL.value
_INTENT: Final = Kind.INTENT.value
_OUTCOME: Final = Kind.OUTCOME.value
_CORRECTION: Final = Kind.CORRECTION.value


class Kept(Enum):
    """What became of a record that was waited for."""

    ON_DISK = auto()
    """It is on disk, or nothing was promised of it."""
    LATE = auto()
    """It was not on disk in time; it may be later."""
    FAILED = auto()
    """It can't be written."""


async def on_disk(record: Awaitable[bool] | None, seconds: float) -> Kept:
    """Wait up to ``seconds`` for a record that `Attempt` has made."""
    if record is None:
        return Kept.ON_DISK
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            return Kept.ON_DISK if await record else Kept.FAILED
    except TimeoutError:
        return Kept.LATE


class Attempt:
    """One attempt, and what its records say of it. The attributes may be set as they are learned.

    ``now`` returns Unix time; ``detail`` is what else is kept: why a JWT was refused, or more
    about an attempt that is not a call.
    """

    __slots__ = (
        "_audit",
        "_intended",
        "_now",
        "_outcome",
        "address",
        "client",
        "detail",
        "flow_id",
        "id",
        "interaction_id",
        "key",
        "operation",
        "shard",
        "stale",
    )

    def __init__(
        self,
        audit: AuditSink,
        now: Now,
        request_id: str,
        address: str | None = None,
        client: str | None = None,
        operation: str | None = None,
        key: bytes | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        self._audit = audit
        self._now = now
        self._intended = False
        self._outcome: str | None = None
        self.id = request_id
        self.address = address
        self.client = client
        self.flow_id: str | None = None
        self.interaction_id: str | None = None
        self.operation = operation
        self.key = key
        self.shard: str | None = None
        self.stale = False
        self.detail = detail

    def intend(self, latency_ms: float = 0.0) -> Awaitable[bool] | None:
        """Record that it is about to be done, where the sink wants to know."""
        if not self._audit.wants_intents:
            return None
        self._intended = True
        return self._record(_INTENT, INTENDED, None, latency_ms, {})

    def conclude(
        self, outcome: str, hit: bool | None = None, latency_ms: float = 0.0, **more: object
    ) -> Awaitable[bool] | None:
        """Record what came of it: ``ok`` or a code. ``more`` is added to its detail."""
        before, self._outcome = self._outcome, outcome
        if before is None:
            kind = _OUTCOME if self._intended else _CALL
        elif before == outcome:
            return None
        else:
            kind = _CORRECTION
        return self._record(kind, outcome, hit, latency_ms, more)

    def _record(
        self, kind: str, outcome: str, hit: bool | None, latency_ms: float, more: dict[str, object]
    ) -> Awaitable[bool] | None:
        detail = self.detail
        return self._audit.record(
            AuditRecord(
                self._now(),
                self.id,
                self.client,
                self.flow_id,
                self.interaction_id,
                self.operation,
                self.key,
                outcome,
                hit,
                latency_ms,
                self.address,
                self.shard,
                self.stale,
                kind,
                None if detail is None else msgspec.json.encode({**detail, **more}).decode(),
            )
        )
