"""Opening a journal that this process has open already."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

from flowcache.audit.database import connect

_TRY_SHARED_RANGE = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)
"""
"""Take the bytes that each user of an SQLite file has a shared lock on (os_unix.c)."""


def is_locked(path: Path) -> bool:
    """Tell whether another process sees a lock on the file."""
    tried = subprocess.run(
        [sys.executable, "-c", _TRY_SHARED_RANGE, path], capture_output=True, check=False
    )
    return b"BlockingIOError" in tried.stderr


def test_a_second_connection_leaves_the_locks_of_the_first(tmp_path: Path) -> None:
    """Another process never takes a journal that is in use for one that nobody has open."""
    path = tmp_path / "audit.db"
    with closing(connect(path)):
        assert is_locked(path)
        connect(path).close()
        assert is_locked(path)
    assert not is_locked(path)


def test_a_new_journal_is_readable_for_its_owner_only(tmp_path: Path) -> None:
    """Nobody else on the host reads the journal, whatever the umask is."""
    path = tmp_path / "audit.db"
    connect(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
