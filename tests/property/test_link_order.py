"""Whatever callers do, and however the stream is cut, a reply is its own caller's.

Everything a link does rests on one queue, so what is tried here is all that could shift it: callers
who cancel, deadlines that pass before, with or after the reply, commands whose reply nobody wants,
messages pushed between replies, replies torn anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowcache.store.link import Link
from flowcache.store.replies import EXPIRED
from tests.servers import RedisProcess
from tests.store.harness import in_time, link_to, soon
from tests.store.resp import array, bulk, push, words
from tests.store.scripted import Peer, Request, Scripted

FOREVER = 60.0
INVALIDATION = push(bulk("invalidate"), array(bulk("key")))


@dataclass(frozen=True)
class Call:
    """One caller: what it sends, how patient it is, after how many turns it leaves."""

    size: int
    has_companion: bool
    patience: float
    leaves_after: int | None


@dataclass(frozen=True)
class Turns:
    """Let the loop turn this often before the next caller comes."""

    count: int


CALLS = st.builds(
    Call,
    size=st.sampled_from([0, 1, 10, 1_000, 100_000]),
    has_companion=st.booleans(),
    patience=st.sampled_from([FOREVER, FOREVER, -1.0, 0.0, 0.001, 0.006]),
    leaves_after=st.sampled_from([None, None, None, 0, 1, 2, 5]),
)
TURNS = st.builds(Turns, st.integers(1, 5))
STORIES = st.lists(CALLS | CALLS | TURNS, max_size=40)


async def call(link: Link, number: int, call: Call) -> tuple[bytes, Any]:
    """Do as the caller would; return what it asked for, and what it got."""
    text = b"%d:" % number + b"x" * call.size
    companion = words("ECHO", b"nobody's") if call.has_companion else None
    reply = asyncio.ensure_future(
        link.send(words("ECHO", text), in_time(call.patience), after=companion)
    )
    if call.leaves_after is not None:
        for _ in range(call.leaves_after):
            await asyncio.sleep(0)
        reply.cancel()
    try:
        return text, await reply
    except asyncio.CancelledError:
        return text, None


async def live(link: Link, story: list[Call | Turns]) -> None:
    """Live through a story and check that everybody got its own, or had to do without."""
    callers: list[tuple[Call, asyncio.Task[tuple[bytes, Any]]]] = []
    for number, event in enumerate(story):
        if isinstance(event, Turns):
            for _ in range(event.count):
                await asyncio.sleep(0)
        else:
            callers.append((event, asyncio.create_task(call(link, number, event))))
    for caller, task in callers:
        text, reply = await task
        if caller.leaves_after is None and caller.patience == FOREVER:
            assert reply == text
        elif caller.leaves_after is None:
            assert reply == text or reply is EXPIRED
        else:
            assert reply == text or reply is EXPIRED or reply is None
    last = await link.send(words("ECHO", "last"), in_time())
    assert last == b"last"
    assert link.status().pending == 0
    assert link.status().losses == 0


@given(story=STORIES)
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_order_on_a_real_server(standalone_server: RedisProcess, story: list[Call | Turns]) -> None:
    """On a real server every reply is its own caller's, whoever gives up and whenever."""

    async def run() -> None:
        async with link_to(standalone_server.address) as link:
            await live(link, story)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@given(
    story=STORIES,
    cuts=st.lists(st.sampled_from([1, 2, 3, 7, 64, 5_000]), min_size=1, max_size=5),
    pushes=st.integers(0, 3),
)
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_order_in_pieces(story: list[Call | Turns], cuts: list[int], pushes: int) -> None:
    """However replies are torn, and whatever is pushed between them, each is its own caller's."""

    async def run() -> None:
        async with Scripted() as server, link_to(server.address) as link:
            stream = bytearray()
            more = asyncio.Event()

            def script(peer: Peer, request: Request) -> None:
                stream.extend(bulk(request[1]) + INVALIDATION * (pushes % len(request)))
                more.set()

            async def trickle() -> None:
                lengths = cycle_of(cuts)
                while True:
                    await more.wait()
                    while stream:
                        # Small pieces of large replies would take all day.
                        length = max(next(lengths), len(stream) // 50)
                        server.talking.say(bytes(stream[:length]))
                        del stream[:length]
                        await asyncio.sleep(0)
                    more.clear()

            server.script = script
            trickling = asyncio.create_task(trickle())
            try:
                await live(link, story)
            finally:
                trickling.cancel()
                await soon(trickling.done)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def cycle_of(cuts: list[int]) -> Iterator[int]:
    while True:
        yield from cuts
