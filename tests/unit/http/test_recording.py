"""What a call's answer has to do with its audit record, in the mode that promises one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import pytest

from flowcache.api.data_action import DataAction, DataActionSettings
from flowcache.api.envelope import request_ids
from flowcache.authz.keys import ALL_KEYS
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.calls.running import Calls
from flowcache.errors import DeadlineExceeded, RedisUnavailable, Unrecorded
from flowcache.ports import AuditRecord
from flowcache.server.asgi import Message
from tests.unit.http.asgi import (
    SHARD,
    TOKEN,
    Answered,
    Clock,
    Executor,
    Script,
    bearer,
    call,
    chunk,
    gate,
)

KEPT, BROKEN, LATE = "kept", "broken", "late"


class Sink:
    """A strict journal whose disk does as it is told: a word for each record, the last for all."""

    wants_intents = True

    def __init__(self, *disk: str) -> None:
        self.disk = disk
        self.records: list[AuditRecord] = []
        self.admits = True
        self.heard = asyncio.Event()
        """Set once there is a record."""

    def admit(self) -> None:
        if not self.admits:
            raise Unrecorded("The audit journal can't be written, so nothing was done.")

    def record(self, record: AuditRecord) -> Awaitable[bool]:
        word = self.disk[min(len(self.records), len(self.disk) - 1)]
        self.records.append(record)
        self.heard.set()
        kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if word != LATE:
            kept.set_result(word == KEPT)
        return kept

    @property
    def story(self) -> list[tuple[str, str]]:
        """The kind and outcome of each record."""
        return [(record.kind, record.outcome) for record in self.records]


class Action:
    """A data action behind a strict journal."""

    def __init__(self, *disk: str, reply: Any = ..., deadline: float = 5.0) -> None:
        self.sink = Sink(*disk)
        self.executor = Executor(reply)
        self.counted: list[str] = []
        everything = frozenset({Permission.DATA_READ, Permission.DATA_WRITE})
        known = gate({TOKEN: Principal("flow", everything, ALL_KEYS)})
        settings, clock = DataActionSettings(deadline=deadline), Clock()
        calls = Calls(settings, self.executor, self, self.sink, clock, request_ids())
        self.app = DataAction(settings, known, calls, clock)

    def record(self, _: str | None, outcome: str, hit: bool | None, latency_ms: float) -> None:
        self.counted.append(outcome)

    async def act(self, token: str = TOKEN, **fields: Any) -> Answered:
        body = Script(chunk(json.dumps(fields).encode()))
        answered = await call(self.app, "POST", "/data-action/redis", body, (bearer(token),))
        assert answered is not None
        return answered


READ: dict[str, Any] = {"operation": "GET", "key": "k"}
WRITE: dict[str, Any] = {"operation": "SET", "key": "k", "value": 1}
ONCE = WRITE | {"idempotencyKey": "once"}


async def test_a_read_has_one_record() -> None:
    """Nobody learns of what was read before it is on disk; what nobody learns needs no more."""
    action = Action(KEPT)
    assert (await action.act(**READ)).status == 200
    assert action.sink.story == [("call", "ok")]


async def test_a_write_is_recorded_before_it_is_done() -> None:
    """When the command leaves, its intent is on disk; then comes what came of it."""
    action = Action(KEPT)
    at_execution: list[tuple[str, str]] = []

    async def look() -> None:
        at_execution.extend(action.sink.story)

    action.executor.meanwhile = look
    assert (await action.act(**WRITE)).status == 200
    assert at_execution == [("intent", "intended")]
    assert action.sink.story == [("intent", "intended"), ("outcome", "ok")]
    assert len({record.request_id for record in action.sink.records}) == 1
    assert action.counted == ["ok"]


async def test_a_write_whose_intent_is_not_kept_is_not_done() -> None:
    """It may be sent again: nothing happened."""
    action = Action(BROKEN)
    answered = await action.act(**WRITE)
    assert (answered.status, answered.json["code"]) == (503, "audit_unavailable")
    assert answered.json["retryable"] is True
    assert answered.headers["retry-after"] == "1"
    assert action.executor.calls == []
    assert action.counted == ["audit_unavailable"]


@pytest.mark.parametrize(("fields", "retryable"), [(WRITE, False), (ONCE, True), (READ, True)])
async def test_an_answer_without_a_record_is_a_refusal(
    fields: dict[str, Any], retryable: bool
) -> None:
    """Nothing that was read is told; a write may be repeated only when that is safe."""
    disk = (BROKEN,) if fields is READ else (KEPT, BROKEN)
    action = Action(*disk, reply=b'"s3cr3t"' if fields is READ else ...)
    answered = await action.act(**fields)
    assert (answered.status, answered.json["code"]) == (503, "audit_unavailable")
    assert answered.json["retryable"] is retryable
    assert answered.json["data"] is None
    assert b"s3cr3t" not in answered.body
    assert ("may have done" in answered.json["error"]) is (not retryable)
    assert action.sink.story[-1] == ("correction", "audit_unavailable")
    assert action.counted == ["audit_unavailable"]


@pytest.mark.parametrize(("fields", "retryable"), [(WRITE, False), (ONCE, True), (READ, True)])
async def test_a_record_that_is_late_does_not_outlive_the_deadline(
    fields: dict[str, Any], retryable: bool
) -> None:
    """The deadline counts for the disk as for Redis."""
    disk = (LATE,) if fields is READ else (KEPT, LATE)
    action = Action(*disk, deadline=0.02)
    answered = await asyncio.wait_for(action.act(**fields), 20)
    assert (answered.status, answered.json["code"]) == (504, "deadline_exceeded")
    assert answered.json["retryable"] is retryable
    assert action.sink.story[-1] == ("correction", "deadline_exceeded")


async def test_an_intent_that_is_late_keeps_the_write_from_being_done() -> None:
    """Late is not on disk."""
    action = Action(LATE, deadline=0.02)
    answered = await asyncio.wait_for(action.act(**WRITE), 20)
    assert (answered.status, answered.json["retryable"]) == (504, True)
    assert action.executor.calls == []


async def test_nothing_is_begun_while_the_journal_is_broken() -> None:
    """A read is not run for nothing."""
    action = Action(BROKEN)
    action.sink.admits = False
    for fields in (READ, WRITE):
        answered = await action.act(**fields)
        assert (answered.status, answered.json["retryable"]) == (503, True)
    assert action.executor.calls == []
    assert action.sink.story == [("call", "audit_unavailable")] * 2


async def test_a_refusal_without_a_record_is_another_refusal() -> None:
    """A stranger's attempt has to be recorded as well, or is not even told why it failed."""
    action = Action(BROKEN)
    answered = await action.act(token="nobody's", **READ)
    assert (answered.status, answered.json["code"]) == (503, "audit_unavailable")
    assert action.sink.story == [("call", "unauthorized"), ("correction", "audit_unavailable")]


async def test_a_refusal_may_leave_before_a_late_record() -> None:
    """It tells nothing that had to be recorded, and says what is the matter."""
    late = DeadlineExceeded("Redis did not answer in time.", retryable=False)
    action = Action(KEPT, LATE, reply=late, deadline=0.02)
    answered = await asyncio.wait_for(action.act(**WRITE), 20)
    assert answered.json["error"] == "Redis did not answer in time."
    assert answered.json["retryable"] is False
    assert action.sink.story == [("intent", "intended"), ("outcome", "deadline_exceeded")]


async def test_a_record_says_where_and_whence() -> None:
    """The caller's address and the key's shard; of what never came so far, no shard."""
    action = Action(KEPT)
    await action.act(**READ)
    await action.act(operation="FLY", key="k")
    assert [record.address for record in action.sink.records] == ["127.0.0.1"] * 2
    assert [record.shard for record in action.sink.records] == ["127.0.0.1:7000", None]


async def test_who_is_cancelled_while_the_record_is_written_has_a_correction() -> None:
    """One call, one count, and no record contradicts another: the later one corrects."""
    action = Action(LATE)
    acting = asyncio.create_task(action.act(**READ))
    await action.sink.heard.wait()
    acting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await acting
    assert action.sink.story == [("call", "ok"), ("correction", "cancelled")]
    assert action.counted == ["cancelled"]


async def test_who_is_cancelled_before_anything_is_known_has_a_record() -> None:
    """It may have reached Redis: an attempt like any other."""
    action = Action(KEPT)
    at_redis = asyncio.Event()

    async def hang() -> None:
        at_redis.set()
        await asyncio.Future()

    action.executor.meanwhile = hang
    acting = asyncio.create_task(action.act(**WRITE))
    await at_redis.wait()
    acting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await acting
    assert action.sink.story == [("intent", "intended"), ("outcome", "cancelled")]
    assert action.counted == ["cancelled"]


async def test_who_is_cancelled_while_the_answer_is_sent_was_answered() -> None:
    """What became of the call is known, recorded and counted; nothing is added."""
    action = Action(KEPT)

    async def cut(_: Message) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await action.app(
            {"type": "http", "headers": [bearer(TOKEN)], "client": ("127.0.0.1", 1)},
            Script(chunk(json.dumps(READ).encode())),
            cut,
        )
    assert action.sink.story == [("call", "ok")]
    assert action.counted == ["ok"]


async def test_records_name_the_shard_that_was_asked() -> None:
    """The outcome names it, of a failure as well; an intent names none: nothing was sent yet."""
    action = Action(KEPT)
    assert (await action.act(**WRITE)).status == 200
    failure = action.executor.reply = RedisUnavailable("Redis is gone.")
    failure.shard = "another"
    assert (await action.act(**WRITE)).status == 503
    shards = [record.shard for record in action.sink.records]
    assert shards == [None, SHARD, None, "another"]


@pytest.mark.parametrize("wrong", [{"operation": "NONE"}, {"operation": "SET"}])
async def test_a_refusal_waits_for_its_record_as_long_as_the_call_may(
    wrong: dict[str, Any],
) -> None:
    """A call that is refused once its deadline is known keeps to it, and not to the server's."""
    action = Action(LATE, deadline=3600.0)
    async with asyncio.timeout(60):
        answered = await action.act(**READ | wrong | {"deadlineMs": 1})
    assert answered.json["code"] == "invalid_request"
