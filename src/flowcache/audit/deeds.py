"""What an operator does at a terminal, on record before it is done and afterwards.

A command has a chain of its own in the journal, beside those of the workers. Its records are on
disk when a method returns; so a deed that a crash cut short has an intent without an outcome.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from flowcache.audit.chain import Kind
from flowcache.audit.settings import AuditSettings
from flowcache.audit.writing import ChainWriter
from flowcache.ports import INTENDED, AuditRecord, Now

__all__ = ["Deed"]


class Deed:
    """One deed of ``who``: an ``operation`` on ``key``, which is kept as key names are.

    ``now`` is Unix time, ``told`` what else is kept of it.
    """

    def __init__(
        self,
        settings: AuditSettings,
        now: Now,
        name: str,
        who: str,
        operation: str,
        key: bytes,
        told: Mapping[str, Any],
    ) -> None:
        self.name = name
        """The request id of its records."""
        self._now = now
        self._writer = ChainWriter(settings, now)
        self._who = who
        self._operation = operation
        self._key = key
        self._told = told
        self._began = now()

    def begin(self) -> None:
        """Record that it is about to be done.

        Raises:
            JournalFault: it can't be recorded; it must not be done then.
        """
        self._record(Kind.INTENT, INTENDED, self._told)

    def end(self, outcome: str, **told: Any) -> None:
        """Record what came of it, ``ok`` or a code, and close the chain.

        Raises:
            JournalFault: it can't be recorded; the intent stands.
        """
        self._record(Kind.OUTCOME, outcome, {**self._told, **told})
        self._writer.close()

    def _record(self, kind: Kind, outcome: str, told: Mapping[str, Any]) -> None:
        at = self._now()
        self._writer.append(
            [
                AuditRecord(
                    at=at,
                    request_id=self.name,
                    client=self._who,
                    flow_id=None,
                    interaction_id=None,
                    operation=self._operation,
                    key=self._key,
                    outcome=outcome,
                    hit=None,
                    latency_ms=round((at - self._began) * 1000, 3),
                    kind=kind.value,
                    detail=msgspec.json.encode(told).decode(),
                )
            ]
        )
