"""Records of what an operator does at a terminal: each is on disk when `AtOnce.record` returns.

A command has its own chain in the journal, like each worker.
"""

from __future__ import annotations

from flowcache.audit.settings import AuditSettings
from flowcache.audit.writing import ChainWriter
from flowcache.ports import AuditRecord, Now

__all__ = ["AtOnce"]


class AtOnce:
    """Write each record before going on. An `AuditSink` for a command, which has nothing to delay.

    ``now`` is Unix time.
    """

    wants_intents = True

    def __init__(self, settings: AuditSettings, now: Now) -> None:
        self._writer = ChainWriter(settings, now)

    def admit(self) -> None:
        """Pass: whether the journal can be written shows when it is."""

    def record(self, record: AuditRecord) -> None:
        """Put a record on disk.

        Raises:
            JournalFault: it is not there. In an intent's place: nothing must be done then.
        """
        self._writer.append([record])

    def close(self) -> None:
        """End the chain.

        Raises:
            JournalFault: the chain stays without an end.
        """
        self._writer.close()
