"""A loop hands over batch after batch: again when it has to, never past one that was refused."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from time import time

import pytest
import stamina.instrumentation
from structlog.testing import capture_logs

from flowcache.audit.writing import ChainWriter
from flowcache.delivery.batch import Batch
from flowcache.delivery.loop import Loop
from flowcache.outbound.judging import NotNow, Refused
from tests.delivery.loops import QUICK, Memory, looping, state, verified
from tests.servers import eventually
from tests.unit.audit.journals import chain, record, settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "audit.db"
    chain(path, [4, 4])
    return path


@pytest.fixture(autouse=True)
def quiet() -> None:
    """As the process does: what stamina would say of each attempt, the loop says once."""
    stamina.instrumentation.set_on_retry_hooks([])


async def until_delivered(loop: Loop, memory: Memory, records: int) -> None:
    """Run a loop until its destination has so many records."""
    running = asyncio.create_task(loop.run())
    await asyncio.to_thread(eventually, lambda: len(memory.lines) >= records)
    await loop.finish(running, 20.0)


async def test_everything_is_delivered(path: Path) -> None:
    """All records arrive, once and in order, and how far it is was kept."""
    memory = Memory()
    async with looping(path, memory, batch=3) as loop:
        await until_delivered(loop, memory, 10)
    assert verified(memory.lines).is_well
    assert [json.loads(line)["seq"] for line in memory.lines] == list(range(10))
    kept = state(path)
    assert (kept.delivered, kept.failures, kept.missed, kept.fault) == (10, 0, 0, None)
    assert memory.is_closed


async def test_a_batch_that_was_not_taken_is_sent_again_as_it_was(path: Path) -> None:
    """Not now, three times: nothing is lost, nothing overtakes, and the log has it once."""
    memory = Memory(*(NotNow("away") for _ in range(3)))
    with capture_logs() as logs:
        async with looping(path, memory, batch=4) as loop:
            await until_delivered(loop, memory, 10)
    assert [batch.first for batch in memory.batches] == [0, 4, 8]
    assert (state(path).failures, state(path).fault) == (3, None)
    assert [entry["event"] for entry in logs] == [
        "audit_delivery_failed",
        "audit_delivery_resumed",
    ]


async def test_what_is_written_meanwhile_is_not_put_into_a_batch_that_was_sent(path: Path) -> None:
    """It may have been taken, and its answer lost: the destination knows it again by its key."""
    asked: list[Batch] = []

    class Growing(Memory):
        async def send(self, batch: Batch) -> None:
            asked.append(batch)
            if len(asked) == 1:
                writer.append([record(number) for number in range(5)])
            await super().send(batch)

    writer = ChainWriter(settings(path), time)
    writer.append([record()])
    memory = Growing(NotNow("away"))
    async with looping(path, memory) as loop:
        await until_delivered(loop, memory, 10 + 7)
    writer.close()
    assert asked[0] == asked[1]
    assert verified(memory.lines).is_well


async def test_a_backlog_is_not_waited_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause of a loop is for when there is nothing to deliver."""
    monkeypatch.setattr("flowcache.delivery.loop._POLL_SECONDS", 3600.0)
    memory = Memory()
    async with looping(path, memory, batch=2) as loop:
        await until_delivered(loop, memory, 10)
    assert len(memory.batches) == 5


async def test_the_time_that_was_asked_for_is_waited(path: Path) -> None:
    """``Retry-After`` goes before the back-off; none is asked without a pause."""
    async with looping(path, Memory(), longest=60.0) as loop:
        waits = [loop._wait(NotNow("busy", after)) for after in (5.0, 0.0)]
        assert waits == [5.0, QUICK]
        assert loop._wait(NotNow("away")) is True
        assert loop._wait(ValueError()) is False


async def test_what_is_refused_stops_the_loop(path: Path) -> None:
    """Nothing is dropped, nothing is sent for ever: it stops where it is, and says so."""
    memory = Memory(Refused("the endpoint answered 400"))
    with capture_logs() as logs:
        async with looping(path, memory) as loop:
            await loop.run()
    assert memory.batches == []
    kept = state(path)
    assert (kept.stopped, kept.fault, kept.delivered) == (True, "the endpoint answered 400", 0)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("audit_delivery_stopped", "error")
    ]
    async with looping(path, memory) as loop:  # a restart tries again, from the same place
        assert not state(path).stopped
        await until_delivered(loop, memory, 10)
    assert [batch.first for batch in memory.batches] == [0]


async def test_a_bug_stops_the_loop(path: Path) -> None:
    """A bug in one destination is told of, and neither spins nor ends the process."""
    async with looping(path, Memory(RuntimeError("secret"))) as loop:
        with capture_logs():
            await loop.run()
    assert (state(path).stopped, state(path).fault) == (True, "a bug: RuntimeError")


async def test_a_crash_after_sending_sends_again(path: Path) -> None:
    """A place is kept after a batch was taken: what is lost of it comes twice, never not at all."""

    class Cut(Memory):
        async def send(self, batch: object) -> None:
            await super().send(batch)  # type: ignore[arg-type]
            raise asyncio.CancelledError  # the process ends here

    first, second = Cut(), Memory()
    async with looping(path, first, batch=4) as loop:
        with pytest.raises(asyncio.CancelledError):
            await loop.run()
    async with looping(path, second, batch=3) as loop:
        await until_delivered(loop, second, 10)
    assert [batch.first for batch in first.batches] == [0]
    assert second.batches[0].first == 0
    assert verified([*first.lines, *second.lines]).is_well


async def test_it_ends_between_two_batches(path: Path) -> None:
    """Who ends a loop waits for the batch under way, which is then not sent a second time."""

    class Slow(Memory):
        def __init__(self) -> None:
            super().__init__()
            self.begun, self.go_on = asyncio.Event(), asyncio.Event()

        async def send(self, batch: object) -> None:
            self.begun.set()
            await self.go_on.wait()
            await super().send(batch)  # type: ignore[arg-type]

    slow = Slow()
    async with looping(path, slow, batch=4) as loop:
        running = asyncio.create_task(loop.run())
        await slow.begun.wait()
        ending = asyncio.create_task(loop.finish(running, 20.0))
        await asyncio.sleep(0)
        assert not ending.done()
        slow.go_on.set()
        assert await ending
        assert [batch.first for batch in slow.batches] == [0]
        assert state(path).delivered == 4
        assert await loop.catch_up() is None
    assert [batch.first for batch in slow.batches] == [0, 4, 8]


async def test_it_ends_within_its_time(path: Path) -> None:
    """A destination that says nothing is not waited for; its batch is sent again by the next."""

    class Silent(Memory):
        def __init__(self) -> None:
            super().__init__()
            self.begun = asyncio.Event()

        async def send(self, batch: object) -> None:
            self.begun.set()
            await asyncio.Event().wait()

    silent = Silent()
    async with looping(path, silent) as loop:
        running = asyncio.create_task(loop.run())
        await silent.begun.wait()
        assert not await loop.finish(running, 0.0)
        assert running.cancelled()
    memory = Memory()
    async with looping(path, memory) as loop:
        await until_delivered(loop, memory, 10)


async def test_a_place_that_cant_be_kept_holds_nothing_up(path: Path) -> None:
    """Without room for the progress records are delivered all the same, each of them once."""
    memory = Memory()
    async with looping(path, memory, batch=4) as loop:
        loop._progress.close()
        with capture_logs() as logs:
            await until_delivered(loop, memory, 10)
    assert [batch.first for batch in memory.batches] == [0, 4, 8]
    assert {entry["event"] for entry in logs} == {"audit_delivery_progress_unwritable"}


async def test_what_a_moved_journal_took_along_is_missed(path: Path) -> None:
    """It is counted and told of as loudly as what retention let go of."""
    async with looping(path, Memory(), batch=4) as loop:
        assert await loop._step()
        os.rename(path, path.with_suffix(".old"))
        chain(path)
        with capture_logs() as logs:
            assert await loop.catch_up() is None
    assert (state(path).missed, state(path).delivered) == (6, 4 + 5)
    assert [(entry["log_level"], entry["records"]) for entry in logs] == [("error", 6)]


async def test_one_pass_tries_once(path: Path) -> None:
    """Catching up says why not everything was taken, and does not try again."""
    memory = Memory(NotNow("away"))
    async with looping(path, memory) as loop:
        with capture_logs():
            assert await loop.catch_up() == "away"
            assert memory.batches == []
            assert await loop.catch_up() is None
    assert len(memory.lines) == 10


async def test_one_pass_that_is_refused_is_kept_as_the_last(path: Path) -> None:
    """Who looks at the state sees that nothing more will come by itself, as of a loop."""
    with capture_logs():
        async with looping(path, Memory(Refused("no"))) as loop:
            assert await loop.catch_up() == "no"
        assert (state(path).stopped, state(path).fault) == (True, "no")
        async with looping(path, Memory(NotNow("away"))) as loop:
            assert await loop.catch_up() == "away"
        assert not state(path).stopped
