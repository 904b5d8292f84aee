"""Turns for what is dear: one in each turn of the loop, one client after the other."""

from __future__ import annotations

import asyncio
import json

import pytest

from flowcache.calls.fair import FairTurns
from tests.unit.http.asgi import Clock, Endpoint

LATE = 2000.0
"""A deadline that never comes: the clock stands at 1000."""


class Worked:
    """Calls that wait for their turn, and what came of each, in order."""

    def __init__(self, most: int = 64) -> None:
        self.clock = Clock()
        self.turns = FairTurns(self.clock, most)
        self.done: list[tuple[str, bool]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def call(self, name: str, client: str, deadline: float = LATE) -> asyncio.Task[None]:
        async def work() -> None:
            self.done.append((name, await self.turns.wait(client, deadline)))

        self.tasks.append(asyncio.create_task(work()))
        return self.tasks[-1]

    async def finish(self) -> list[tuple[str, bool]]:
        async with asyncio.timeout(5):
            await asyncio.gather(*self.tasks, return_exceptions=True)
        return self.done


async def test_clients_take_turns() -> None:
    """A client with one large body waits for one of another's, not for all it has sent."""
    worked = Worked()
    for number in range(5):
        worked.call(f"busy {number}", "busy")
    worked.call("quiet", "quiet")
    names = [name for name, _ in await worked.finish()]
    assert names == ["busy 0", "busy 1", "quiet", "busy 2", "busy 3", "busy 4"]


async def test_one_piece_is_done_in_each_turn_of_the_loop() -> None:
    """Between two pieces everything else that is ready has its turn."""
    worked = Worked()
    for number in range(10):
        worked.call(str(number), "client")
    seen = []
    while len(worked.done) < 10:
        await asyncio.sleep(0)
        seen.append(len(worked.done))
    steps = [after - before for before, after in zip([0, *seen], seen, strict=False)]
    assert set(steps) <= {0, 1}
    assert worked.turns.waiting == 0


async def test_a_call_alone_does_not_wait() -> None:
    """Where nothing else is dear, there is no delay at all."""
    turns = FairTurns(Clock())
    with pytest.raises(StopIteration) as ended:
        turns.wait("client", LATE).send(None)
    assert ended.value.value is True


async def test_a_full_queue_takes_from_the_client_with_most() -> None:
    """A client that fills the queue loses its newest to a client that has fewer waiting."""
    worked = Worked(most=4)
    for number in range(6):
        worked.call(f"busy {number}", "busy")
    worked.call("quiet", "quiet")
    done = dict(await worked.finish())
    assert done == {
        "busy 0": True,
        "busy 1": True,
        "busy 2": True,
        "busy 3": True,
        "busy 4": False,  # made room for the quiet one
        "busy 5": False,  # the queue was full of its own
        "quiet": True,
    }


async def test_a_deadline_holds_while_a_call_waits() -> None:
    """Who can't be served in time is told so when the time is over, wherever it stands."""
    worked = Worked()
    for number in range(4):
        worked.call(f"patient {number}", "client")
    worked.call("hasty", "client", deadline=1000.5)
    await asyncio.sleep(0)
    worked.clock.now = 1000.5
    done = await worked.finish()
    assert done.index(("hasty", False)) < done.index(("patient 2", True))
    assert worked.turns.waiting == 0


async def test_a_call_that_is_cancelled_costs_no_turn() -> None:
    """A client that hangs up leaves the queue, and those behind it move up."""
    worked = Worked()
    worked.call("first", "a")
    gone = [worked.call("gone", "a"), worked.call("gone", "b")]
    worked.call("last", "b")
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    assert await worked.finish() == [("first", True), ("last", True)]
    assert worked.turns.waiting == 0


async def test_large_bodies_and_values_pass_one_by_one() -> None:
    """Many large writes and reads at once are all done, and small ones don't wait for them."""
    endpoint = Endpoint(json.dumps("x" * 50_000).encode())
    order: list[str] = []

    async def act(name: str, **fields: object) -> None:
        answered = await endpoint.act(key="k", **fields)
        assert answered.status == 200
        order.append(name)

    endpoint.executor.reply = ...
    writes = [act("large", operation="SET", value="x" * 50_000) for _ in range(5)]
    await asyncio.gather(*writes, act("small", operation="SET", value=1))
    assert order.index("small") == 1  # after the one that didn't have to wait
    endpoint.executor.reply = json.dumps("x" * 50_000).encode()
    await asyncio.gather(*(act("read", operation="GET") for _ in range(5)))
    assert order.count("large") == order.count("read") == 5


async def test_a_large_body_whose_time_is_over_is_not_begun() -> None:
    """It is overloaded and may be repeated: nothing was done, and Redis isn't to blame."""
    endpoint = Endpoint()
    calls = [endpoint.act(operation="SET", key="k", value="x" * 50_000) for _ in range(5)]
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    endpoint.clock.now += 0.8
    codes = [(await task).json.get("code") for task in tasks]
    assert codes[0] is None
    assert set(codes[2:]) == {"overloaded"}
    assert len(endpoint.executor.calls) < 5
