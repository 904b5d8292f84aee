"""Delivering at a terminal: once, and not beside a service that does."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from flowcache.delivery.process import deliver_once
from flowcache.delivery.progress import progress_path
from flowcache.delivery.settings import DeliverySettings
from flowcache.store.settings import Address, StoreSettings
from tests.delivery.loops import verified
from tests.unit.audit.journals import chain


def test_one_process_delivers_from_a_journal(tmp_path: Path) -> None:
    """Two would send each record twice, and write over each other's places."""
    journal, target = tmp_path / "audit.db", tmp_path / "audit.jsonl"
    chain(journal)
    settings = DeliverySettings(journal, file=str(target))
    store = StoreSettings(nodes=(Address("127.0.0.1", 1),))
    with Path(f"{progress_path(journal)}-lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            deliver_once(settings, store)
        assert not target.exists()
    assert deliver_once(settings, store) == {"file": None}
    assert verified(target.read_bytes().splitlines()).is_well
