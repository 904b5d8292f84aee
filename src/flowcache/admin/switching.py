"""Carry out what an operator orders of circuits, in all workers, and keep it on record."""

from __future__ import annotations

from collections.abc import Awaitable

import structlog

from flowcache.admin.inspector.circuits import SWITCH, Switched, order_fields
from flowcache.audit.attempt import Attempt, Kept, on_disk
from flowcache.errors import Unrecorded
from flowcache.fleet.messages import Fleet, Question
from flowcache.fleet.overrides import Overrides
from flowcache.ports import AuditSink, Now, Order

__all__ = ["Switching"]

_log = structlog.get_logger(__name__)

_RECORD_SECONDS = 2.0
"""How long an order waits for its record."""


class Switching:
    """Call it with an order, and who gave it, from where, in which request."""

    def __init__(self, audit: AuditSink, now: Now, overrides: Overrides, fleet: Fleet) -> None:
        self._audit = audit
        self._now = now
        self._overrides = overrides
        self._fleet = fleet

    async def __call__(
        self, order: Order, by: str, address: str | None, request_id: str
    ) -> Switched:
        """Return what became of the order.

        Raises:
            Unrecorded: in strict mode; the sentence says whether it was carried out.
        """
        self._audit.admit()
        what, at = order_fields(order), self._now()
        operation = f"{SWITCH} {what['mode']}".upper()
        attempt = Attempt(self._audit, self._now, request_id, address, by, operation, None, what)
        await _on_record(attempt.intend(), "so nothing was switched")
        self._overrides.add(order, by, at)
        answers, silent = await self._fleet.tell(Question.OVERRIDES)
        switched = Switched(sum(_number(answer) for answer in answers), len(answers), silent)
        figures = switched._asdict()
        _log.warning("circuits_overridden", by=by, request_id=request_id, **what, **figures)
        took_ms = round((self._now() - at) * 1000, 3)
        kept = attempt.conclude("ok", None, took_ms, **figures)
        await _on_record(kept, "and circuits were switched")
        return switched


async def _on_record(kept: Awaitable[bool] | None, otherwise: str) -> None:
    """Wait until a record is on disk, where that is promised.

    Raises:
        Unrecorded: it is not, or not soon enough.
    """
    if await on_disk(kept, _RECORD_SECONDS) is not Kept.ON_DISK:
        raise Unrecorded(f"The audit record of this order can't be written, {otherwise}.")


def _number(answer: bytes) -> int:
    return int(answer) if answer.isdigit() else 0
