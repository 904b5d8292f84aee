"""What an attempt leaves on record, in a sink that wants intents and in one that does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import msgspec
import pytest

from flowcache.audit.at_once import AtOnce
from flowcache.audit.attempt import Attempt, Kept, on_disk
from flowcache.audit.database import JournalFault
from flowcache.audit.settings import AuditSettings
from flowcache.ports import AuditRecord


class Sink:
    """Keeps records in a list. ``disk`` says of each record what becomes of it; None: nothing."""

    def __init__(self, *, wants_intents: bool, disk: bool | None = None) -> None:
        self.wants_intents = wants_intents
        self.disk = disk
        self.records: list[AuditRecord] = []

    def admit(self) -> None:
        """Pass."""

    def record(self, record: AuditRecord) -> Awaitable[bool] | None:
        self.records.append(record)
        if self.disk is None:
            return None
        kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        kept.set_result(self.disk)
        return kept

    @property
    def story(self) -> list[tuple[str, str]]:
        return [(record.kind, record.outcome) for record in self.records]


def attempt(sink: Sink) -> Attempt:
    return Attempt(sink, lambda: 7.0, "id-1", "127.0.0.1", "flow", "SET", b"k")


def test_an_intent_is_followed_by_an_outcome() -> None:
    """A sink that wants intents has one before the outcome, under one request id."""
    sink = Sink(wants_intents=True)
    it = attempt(sink)
    it.intend()
    it.conclude("ok", None, 1.5)
    assert sink.story == [("intent", "intended"), ("outcome", "ok")]
    assert {record.request_id for record in sink.records} == {"id-1"}
    assert sink.records[1].latency_ms == 1.5


def test_without_intents_there_is_one_record() -> None:
    """A sink that does not want intents is asked for none."""
    sink = Sink(wants_intents=False)
    it = attempt(sink)
    assert it.intend() is None
    it.conclude("ok")
    assert sink.story == [("call", "ok")]


def test_what_becomes_known_later_is_a_correction() -> None:
    """No record contradicts another: the later one corrects, and says nothing twice."""
    sink = Sink(wants_intents=True)
    it = attempt(sink)
    it.intend()
    it.conclude("ok")
    it.conclude("cancelled")
    assert it.conclude("cancelled") is None
    assert sink.story == [("intent", "intended"), ("outcome", "ok"), ("correction", "cancelled")]


def test_a_record_says_what_is_known_by_then() -> None:
    """Client, shard, hit; and for what is not a call, its detail and what was added to it."""
    sink = Sink(wants_intents=True)
    it = Attempt(sink, lambda: 7.0, "id-1", detail={"mode": "auto"})
    it.intend()
    it.client, it.shard, it.stale = "control", "a:1", True
    it.conclude("ok", True, circuits=3)
    intent, outcome = sink.records
    assert (intent.client, intent.shard, intent.stale) == (None, None, False)
    assert (outcome.client, outcome.shard) == ("control", "a:1")
    assert outcome.stale
    assert outcome.hit
    assert intent.detail is not None
    assert outcome.detail is not None
    assert msgspec.json.decode(intent.detail) == {"mode": "auto"}
    assert msgspec.json.decode(outcome.detail) == {"mode": "auto", "circuits": 3}


@pytest.mark.parametrize(
    ("disk", "kept"), [(None, Kept.ON_DISK), (True, Kept.ON_DISK), (False, Kept.FAILED)]
)
async def test_what_became_of_a_record(disk: bool | None, kept: Kept) -> None:
    """Where nothing is promised nothing is waited for; else the disk says how it went."""
    assert await on_disk(attempt(Sink(wants_intents=True, disk=disk)).conclude("ok"), 20) is kept


async def test_a_record_that_is_not_there_in_time_is_late() -> None:
    """Nobody waits longer than they may."""
    never: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    assert await on_disk(never, 0.0) is Kept.LATE


def test_a_command_hears_at_once_that_a_record_cannot_be_written(tmp_path: Path) -> None:
    """Nothing may be done after that."""
    settings = AuditSettings(journal=tmp_path / "missing" / "audit.db")
    with pytest.raises(JournalFault):
        Attempt(AtOnce(settings, lambda: 7.0), lambda: 7.0, "id-1").intend()
