"""Turns for what is dear: one in each turn of the loop, one client after the other."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest

from flowcache.calls.fair import FairTurns
from flowcache.calls.room import Room
from tests.unit.http.asgi import Clock, Endpoint

LATE = 2000.0
"""A deadline that never comes: the clock stands at 1000."""


class Worked:
    """Calls that wait for their turn, and what came of each, in order."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.turns = FairTurns(self.clock, a_turn=10)
        self.done: list[tuple[str, bool]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def call(
        self, name: str, client: str, deadline: float = LATE, weight: int = 10
    ) -> asyncio.Task[None]:
        async def work() -> None:
            self.done.append((name, await self.turns.wait(client, deadline, weight)))

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
        turns.wait("client", LATE, 10).send(None)
    assert ended.value.value is True


async def test_small_pieces_share_a_turn() -> None:
    """Several pieces are begun in one turn, as long as there is weight left."""
    worked = Worked()
    for number in range(9):
        worked.call(str(number), "client", weight=4)
    seen = []
    while len(worked.done) < 9:
        await asyncio.sleep(0)
        seen.append(len(worked.done))
    steps = [after - before for before, after in zip([0, *seen], seen, strict=False)]
    assert set(steps) - {0} == {3}


async def test_who_would_wait_too_long_is_told_at_once() -> None:
    """Where each piece takes 0.1 s, the tenth of one client would wait for a second. Another
    client's waits behind one of them."""
    worked = Worked()
    worked.turns._pace = 0.1
    for number in range(20):
        worked.call(f"busy {number}", "busy", deadline=worked.clock.now + 0.45)
    worked.call("quiet", "quiet", deadline=worked.clock.now + 0.45)
    await asyncio.sleep(0)
    refused = [name for name, came in worked.done if not came]
    assert refused == [f"busy {number}" for number in range(6, 20)]
    assert dict(await worked.finish())["quiet"]


async def test_the_pace_is_learnt() -> None:
    """After slow pieces a queue is shorter than after fast ones."""
    worked = Worked()
    for number in range(4):
        worked.call(str(number), "client")
    while len(worked.done) < 4:
        await asyncio.sleep(0)
        worked.clock.now += 0.1
    assert 0 < worked.turns._pace <= 0.1


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
    endpoint = Endpoint(json.dumps("x" * 200_000).encode())
    order: list[str] = []

    async def act(name: str, **fields: object) -> None:
        answered = await endpoint.act(key="k", **fields)
        assert answered.status == 200
        order.append(name)

    endpoint.executor.reply = ...
    writes = [act("large", operation="SET", value="x" * 200_000) for _ in range(5)]
    await asyncio.gather(*writes, act("small", operation="SET", value=1))
    assert order.index("small") == 1  # after the one that didn't have to wait
    endpoint.executor.reply = json.dumps("x" * 200_000).encode()
    await asyncio.gather(*(act("read", operation="GET") for _ in range(5)))
    assert order.count("large") == order.count("read") == 5


async def test_a_large_body_whose_time_is_over_is_not_begun() -> None:
    """It is overloaded and may be repeated: nothing was done, and Redis isn't to blame."""
    endpoint = Endpoint()
    calls = [endpoint.act(operation="SET", key="k", value="x" * 200_000) for _ in range(5)]
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    endpoint.clock.now += 0.8
    codes = [(await task).json.get("code") for task in tasks]
    assert codes[0] is None
    assert set(codes[2:]) == {"overloaded"}
    assert len(endpoint.executor.calls) < 5


async def test_short_bodies_of_many_elements_are_dear() -> None:
    """What is no larger than a small body and takes as long as a large one waits for its turn."""
    endpoint = Endpoint()
    value: list[dict[str, list[int]]] = [{"a": []}] * 2000
    order: list[str] = []

    async def act(name: str, value: object) -> None:
        answered = await endpoint.act(operation="SET", key="k", value=value)
        assert answered.status == 200
        order.append(name)

    await asyncio.gather(*(act("dear", value) for _ in range(5)), act("small", 1))
    assert order.index("small") == 1


async def test_a_stored_value_of_many_elements_is_dear() -> None:
    """The same holds for what Redis replies, and for a hash of few fields with long values."""
    texts = b"[%b]" % b",".join([b'{"a":[]}'] * 2000)
    fields = {b"%d" % number: b"x" * 1000 for number in range(200)}
    for operation, reply in (("GET", texts), ("HGETALL", fields)):
        endpoint = Endpoint(reply)
        order: list[str] = []

        async def act(
            name: str, operation: str, endpoint: Endpoint = endpoint, order: list[str] = order
        ) -> None:
            answered = await endpoint.act(operation=operation, key="k")
            assert answered.status == 200
            order.append(name)

        reads = [asyncio.create_task(act("dear", operation)) for _ in range(5)]
        await asyncio.sleep(0)
        endpoint.executor.reply = ...
        await asyncio.gather(*reads, act("small", "DEL"))
        assert order.index("small") == 1


async def test_of_a_burst_so_much_is_held() -> None:
    """A client's large bodies are overloaded at once when it holds half of what may be held, until
    they are done; and what is held of one that waits for Redis is the command, nothing decoded."""
    release = asyncio.Event()
    endpoint = Endpoint()
    endpoint.calls._room = Room(20_000)
    endpoint.executor.meanwhile = release.wait  # type: ignore[assignment]
    value = [{"a": [1.5]}] * 1000
    calls = [
        asyncio.create_task(endpoint.act(operation="SET", key="k", value=value)) for _ in range(6)
    ]
    async with asyncio.timeout(5):
        while len(endpoint.executor.calls) < 3 or sum(call.done() for call in calls) < 3:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0)
    gc.collect()
    assert sum(isinstance(each, dict) and each == {"a": [1.5]} for each in gc.get_objects()) == 1
    release.set()
    codes = [(await call).json.get("code") for call in calls]
    assert codes == [None] * 3 + ["overloaded"] * 3
    assert endpoint.calls._room.free == 20_000


async def test_a_call_that_hangs_up_gives_back_what_it_held() -> None:
    """Nothing leaks, wherever it was."""
    endpoint = Endpoint()
    free = endpoint.calls._room.free
    endpoint.executor.meanwhile = asyncio.Event().wait  # type: ignore[assignment]
    act = endpoint.act(operation="SET", key="k", value="x" * 200_000)
    more = endpoint.act(operation="SET", key="k", value="x" * 200_000)
    calls = [asyncio.create_task(each) for each in (act, more)]
    await asyncio.sleep(0)
    assert endpoint.calls._room.free < free
    for each in calls:
        each.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert endpoint.calls._room.free == free
