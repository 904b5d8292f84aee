"""Bodies as they arrive: whole, in pieces, too long, too slow, or never."""

from __future__ import annotations

import asyncio

import pytest

from flowcache.api.body import _AT_ONCE as AT_ONCE
from flowcache.api.body import BodyReader
from flowcache.errors import InvalidRequest, Overloaded, TooLarge
from flowcache.server.asgi import Message
from tests.unit.http.asgi import GONE, Clock, Script, chunk

MOST = 10
TIMEOUT = 5.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reader(clock: Clock) -> BodyReader:
    return BodyReader(MOST, TIMEOUT, clock)


def reading(reader: BodyReader, *messages: Message) -> asyncio.Task[bytes]:
    return asyncio.create_task(reader.read(Script(*messages), None, "c"))


class Gate:
    """A body in two pieces, the second of which comes when the gate is open."""

    def __init__(self) -> None:
        self.asked = 0
        self.open = asyncio.Event()

    async def __call__(self) -> Message:
        self.asked += 1
        if self.asked == 1:
            return chunk(b"01", True)
        await self.open.wait()
        return chunk(b"23")


def is_idle(reader: BodyReader) -> bool:
    return not reader._reading and not reader._ended and not reader._held


@pytest.mark.parametrize(
    ("messages", "body"),
    [
        ([chunk(b"0123456789")], b"0123456789"),
        ([chunk(b"")], b""),
        ([{"type": "http.request"}], b""),
        ([chunk(b"01", True), chunk(b"23", True), chunk(b"45")], b"012345"),
        ([chunk(b"", True), chunk(b"01", True), chunk(b"")], b"01"),
        ([chunk(b"01", True), {"type": "http.request"}], b"01"),
        ([chunk(b"01234", True), chunk(b"56789")], b"0123456789"),
    ],
)
async def test_a_body_is_all_of_its_pieces(
    reader: BodyReader, messages: list[Message], body: bytes
) -> None:
    """However a server cuts a body, it is read as a whole, and nothing after it."""
    script = Script(*messages, chunk(b"of the next"))
    assert await reader.read(script, None, "c") == body
    assert script.received == len(messages)
    assert is_idle(reader)


@pytest.mark.parametrize(
    "declared", [None, b"", b"2", b"10", b"-11", b"1e9", b"x", b"\xff", b"0x99"]
)
async def test_a_header_that_declares_nothing_too_long_changes_nothing(
    reader: BodyReader, declared: bytes | None
) -> None:
    """What the Content-Length says is only a reason to refuse early."""
    assert await reader.read(Script(chunk(b"0123456789")), declared, "c") == b"0123456789"


@pytest.mark.parametrize("declared", [b"11", b"0011", b"9" * 30, b"9" * 5000])
async def test_a_body_declared_too_long_is_refused_unread(
    reader: BodyReader, declared: bytes
) -> None:
    """Nobody has to send what will not be taken."""
    script = Script(chunk(b"x"))
    with pytest.raises(TooLarge, match=r"^body: over the limit of 10 bytes\. Split"):
        await reader.read(script, declared, "c")
    assert script.received == 0
    assert is_idle(reader)


async def test_a_body_is_complete_at_its_length(reader: BodyReader) -> None:
    """Nothing is awaited beyond the declared length, whatever the server says is to come."""
    script = Script(chunk(b"01", True), chunk(b"234", True), chunk(b"unread"))
    assert await reader.read(script, b"5", "c") == b"01234"
    assert script.received == 2


@pytest.mark.parametrize(
    ("messages", "received"),
    [
        ([chunk(b"0123456789x")], 1),
        ([chunk(b"0123456789x", True), chunk(b"unread")], 1),
        ([chunk(b"0123456789", True), chunk(b"x")], 2),
        ([chunk(b"01234", True), chunk(b"56789x", True), chunk(b"unread")], 2),
    ],
)
async def test_a_body_that_becomes_too_long_is_refused_there(
    reader: BodyReader, messages: list[Message], received: int
) -> None:
    """A body without a length is read up to its limit and no further."""
    script = Script(*messages)
    with pytest.raises(TooLarge):
        await reader.read(script, None, "c")
    assert script.received == received
    assert is_idle(reader)


@pytest.mark.parametrize(
    "before", [[], [chunk(b"01", True)], [chunk(b"", True), chunk(b"1", True)]]
)
async def test_a_body_that_breaks_off_is_refused(reader: BodyReader, before: list[Message]) -> None:
    """Half a body is none, whether the client hung up or sent chunks that make no sense."""
    with pytest.raises(InvalidRequest, match=r"^body: it broke off before its end\.$"):
        await reader.read(Script(*before, GONE), None, "c")
    assert is_idle(reader)


@pytest.mark.parametrize("before", [[], [chunk(b"01", True)]])
async def test_a_body_that_does_not_arrive_in_time_is_refused(
    reader: BodyReader, clock: Clock, before: list[Message]
) -> None:
    """A client that sends nothing more is answered soon after its time is up."""
    task = reading(reader, *before)
    await asyncio.sleep(0)
    clock.now += TIMEOUT + 0.001
    with pytest.raises(InvalidRequest, match=r"^body: it was not complete after 5 s\.$"):
        await task
    assert is_idle(reader)


async def test_a_body_that_still_has_time_is_waited_for(reader: BodyReader, clock: Clock) -> None:
    """Only what is late is ended; another body beside it is not, and neither is the next sweep."""
    slow = reading(reader)
    await asyncio.sleep(0)
    clock.now += TIMEOUT / 2
    gate: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    async def gated() -> Message:
        return await gate

    quick = asyncio.create_task(reader.read(gated, None, "c"))
    await asyncio.sleep(0)
    clock.now += TIMEOUT / 2 + 0.001
    with pytest.raises(InvalidRequest):
        await slow
    assert list(reader._reading) == [quick]
    gate.set_result(chunk(b"in time"))
    assert await quick == b"in time"
    assert is_idle(reader)


async def test_a_body_that_arrives_at_the_last_moment_is_taken(
    reader: BodyReader, clock: Clock
) -> None:
    """The time a body may take is all its own, to its end and no further."""
    task = reading(reader)
    await asyncio.sleep(0)
    clock.now += TIMEOUT
    reader._end_slow_ones()
    assert reader._sweep is not None  # another sweep follows as long as there is a reader
    await asyncio.sleep(0)
    assert not task.done()
    clock.now += 0.001
    with pytest.raises(InvalidRequest):
        await task


async def test_sweeps_end_with_the_last_reader(reader: BodyReader) -> None:
    """An idle service runs no timer; the next body starts it again."""
    await reader.read(Script(chunk(b"")), None, "c")
    reader._end_slow_ones()
    assert reader._sweep is None
    await reader.read(Script(chunk(b"")), None, "c")
    assert reader._sweep is not None


@pytest.mark.parametrize("before", [[], [chunk(b"01", True)]])
async def test_a_cancellation_from_outside_is_passed_on(
    reader: BodyReader, before: list[Message]
) -> None:
    """Whoever cancels a call cancels it, and nothing of it stays behind."""
    task = reading(reader, *before)
    await asyncio.sleep(0)
    assert list(reader._reading) == [task]
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert is_idle(reader)


async def test_a_cancellation_from_outside_is_passed_on_even_if_the_body_is_late(
    reader: BodyReader, clock: Clock
) -> None:
    """A sweep at the very moment of a cancellation does not turn it into an answer."""
    task = reading(reader)
    await asyncio.sleep(0)
    clock.now += TIMEOUT + 0.001
    task.cancel("enough")
    reader._end_slow_ones()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert is_idle(reader)


async def test_a_body_that_was_ended_leaves_its_task_as_it_was(
    reader: BodyReader, clock: Clock
) -> None:
    """After the refusal the task goes on: nothing in it takes it for one that is cancelled."""

    async def call() -> int:
        with pytest.raises(InvalidRequest):
            await reader.read(Script(), None, "c")
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    clock.now += TIMEOUT + 0.001
    assert await task == 0


async def test_many_bodies_at_once_have_their_own_ends(reader: BodyReader, clock: Clock) -> None:
    """Late, whole, too long, hung up: one reader serves them all and keeps nothing."""
    tasks = [
        reading(reader, chunk(b"whole")),
        reading(reader),
        reading(reader, chunk(b"0" * 11)),
        reading(reader, GONE),
        reading(reader, chunk(b"half", True)),
    ]
    await asyncio.sleep(0)
    clock.now += TIMEOUT + 0.001
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert ends[0] == b"whole"
    assert [type(end) for end in ends[1:]] == [
        InvalidRequest,
        TooLarge,
        InvalidRequest,
        InvalidRequest,
    ]
    assert is_idle(reader)


@pytest.mark.parametrize("fault", [OSError("reset"), RuntimeError("a bug")])
async def test_a_receive_that_fails_leaves_nothing_behind(
    reader: BodyReader, fault: Exception
) -> None:
    """Whatever a server raises is raised, and the reader forgets the call."""

    async def failing() -> Message:
        raise fault

    with pytest.raises(type(fault)):
        await reader.read(failing, None, "c")
    assert is_idle(reader)


async def test_the_oldest_of_too_many_bodies_is_ended(clock: Clock) -> None:
    """Slow senders are in each other's way only: the one that came last is still read."""
    reader = BodyReader(MOST, TIMEOUT, clock, most=2)
    slow = [reading(reader) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match=r"^body: .+\.$"):
        await slow[0]
    assert list(reader._reading) == slow[1:]
    assert await reader.read(Script(chunk(b"whole")), None, "c") == b"whole"
    with pytest.raises(Overloaded):
        await slow[1]
    slow[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow[2]
    assert is_idle(reader)


async def test_as_many_give_way_as_come_at_once(clock: Clock) -> None:
    """Who has been told to end, and has had no turn to do so, gives way to one and not to two."""
    reader = BodyReader(MOST, TIMEOUT, clock, most=2)
    old = [reading(reader) for _ in range(2)]
    await asyncio.sleep(0)
    new = [reading(reader) for _ in range(2)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert list(reader._reading) == new
    for task in old:
        with pytest.raises(Overloaded):
            await task
    for task in new:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert is_idle(reader)


async def test_the_oldest_gives_way_to_what_is_held_in_all(clock: Clock) -> None:
    """Bytes of unfinished bodies are bounded together; a body that is whole is not one of them."""
    reader = BodyReader(MOST, TIMEOUT, clock, max_held=15)
    first, second = (reading(reader, chunk(b"01234567", True)) for _ in range(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await first
    assert reader._held == 8
    assert await reader.read(Script(chunk(b"0123456789")), None, "c") == b"0123456789"
    assert not second.done()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert is_idle(reader)


async def test_a_body_alone_may_be_the_oldest_itself(clock: Clock) -> None:
    """With no other to give way, the one that passes the bound is ended itself."""
    reader = BodyReader(MOST, TIMEOUT, clock, max_held=5)
    with pytest.raises(Overloaded):
        await reader.read(Script(chunk(b"0123456", True), chunk(b"789")), None, "c")
    assert is_idle(reader)


async def test_a_client_has_a_few_bodies_read_on_at_once(reader: BodyReader) -> None:
    """The next of its bodies waits, another client's does not; and each gets its turn."""
    gates = [Gate() for _ in range(AT_ONCE + 2)]
    clients = ["busy"] * (AT_ONCE + 1) + ["other"]
    tasks = [
        asyncio.create_task(reader.read(gate, None, client))
        for gate, client in zip(gates, clients, strict=True)
    ]
    await asyncio.sleep(0)
    asked = [gate.asked for gate in gates]
    assert asked == [2] * AT_ONCE + [1, 2]
    gates[3].open.set()
    assert await tasks[3] == b"0123"
    await asyncio.sleep(0)
    assert gates[AT_ONCE].asked == 2
    for gate in gates:
        gate.open.set()
    assert await asyncio.gather(*tasks) == [b"0123"] * len(tasks)
    assert is_idle(reader)
    assert not reader._places


async def test_a_body_whose_turn_does_not_come_in_time_is_refused(clock: Clock) -> None:
    """It was not slow itself, and its client is told what to do: fewer at once."""
    reader = BodyReader(MOST, TIMEOUT, clock)
    gates = [Gate() for _ in range(AT_ONCE + 1)]
    tasks = [asyncio.create_task(reader.read(gate, None, "busy")) for gate in gates]
    await asyncio.sleep(0)
    clock.now += TIMEOUT + 1
    reader._end_slow_ones()
    faults = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(fault) for fault in faults] == [InvalidRequest] * AT_ONCE + [Overloaded]
    assert str(faults[-1]) == "body: too many large ones of this client arrive at once."
    assert is_idle(reader)
    assert not reader._places
    assert not reader._waiting
