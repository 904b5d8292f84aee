"""Whether a journal is one that this configuration may write to."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from flowcache.audit import database
from flowcache.audit.chain import seal
from flowcache.audit.database import JournalFault
from flowcache.audit.settings import AuditSettings

__all__ = ["recognise", "try_out"]


def recognise(connection: sqlite3.Connection, path: Path, key: bytes | None) -> None:
    """See that the journal is sealed with ``key``, as far as its newest records tell.

    Raises:
        JournalFault: all of it would be faults to whoever verifies it with that key.
    """
    last = database.heads(connection)
    if not last:
        return
    if key is None:
        fits = any(link.seal is None for link in last)
    else:
        fits = any(link.seal == seal(key, link.hash) for link in last)
    if not fits:
        raise JournalFault(
            f"{path}: is sealed with another audit.signing_key, or was begun "
            f"{'with' if key is None else 'without'} one; configure that, or move the "
            "journal away while flowcache is stopped: a new one is begun."
        )


def try_out(settings: AuditSettings) -> None:
    """See that a service with these ``settings`` could go on with its journal, if there is one.

    Only read: a worker may be writing to it. Whether all of it is well is for `verifying` to say.

    Raises:
        JournalFault: it could not, and why.
    """
    path, signing = settings.journal, settings.signing_key
    if path is None or not path.exists():
        return
    key = None if signing is None else signing.reveal().encode()
    with closing(database.connect_read_only(path)) as connection:
        try:
            recognise(connection, path, key)
        except sqlite3.Error as fault:
            raise JournalFault(f"{path}: can't be read: {fault}") from None
