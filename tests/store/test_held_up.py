"""An event loop that is held up, on real servers: nobody blames Redis, and no reply is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic, sleep

import pytest

from flowcache.errors import DeadlineExceeded
from flowcache.loop_watch import LoopWatch
from flowcache.status import CircuitStatus
from flowcache.store.link import Link
from tests.servers import RedisProcess
from tests.servers.standalone import replicated
from tests.store.harness import get, guarded, in_time, link_to, put, replied, soon, store_at

BUDGET = 0.3
HELD_UP = 0.6
"""Seconds: longer than a call's whole budget."""


@pytest.fixture
async def watch() -> AsyncIterator[LoopWatch]:
    watch = LoopWatch(monotonic)
    watch.start()
    yield watch
    watch.close()


async def hold_up(seconds: float = HELD_UP) -> None:
    """Hold the loop up once what is ready has been written."""
    for _ in range(3):
        await asyncio.sleep(0)
    sleep(seconds)  # noqa: ASYNC251 - to block the loop is the point


def open_circuits(circuits: list[CircuitStatus]) -> list[str]:
    return [circuit.access for circuit in circuits if circuit.state != "closed"]


@pytest.mark.both_loops
async def test_a_reply_that_lies_in_the_socket_is_delivered(
    standalone_server: RedisProcess,
) -> None:
    """A loop that wakes after a deadline reads its sockets before it gives anybody up."""
    async with link_to(standalone_server.address) as link:
        replies = [link.send(b"PING\r\n", in_time(BUDGET)) for _ in range(10)]
        await hold_up()
        assert await asyncio.gather(*replies) == [b"PONG"] * 10


async def test_timeouts_of_a_held_up_loop_do_not_count(
    fresh_standalone: RedisProcess, watch: LoopWatch
) -> None:
    """Calls whose time our own loop used up open no circuit; those that Redis used up do."""
    async with store_at(fresh_standalone.address, listened=watch.listened) as store:
        guard = guarded(store, min_budget=BUDGET * 0.9, listened=watch.listened)
        await replied(guard, put(b"k", b"v"), in_time())
        fresh_standalone.pause()
        try:
            for command in (get(b"k"), put(b"k", b"w")):
                calls = [
                    asyncio.create_task(replied(guard, command, in_time(BUDGET))) for _ in range(10)
                ]
                await hold_up()
                ends = await asyncio.gather(*calls, return_exceptions=True)
                assert [type(end) for end in ends] == [DeadlineExceeded] * 10
            assert open_circuits(guard.circuits()) == []
            assert [circuit.failures for circuit in guard.circuits()] == [0, 0, 0]
            calls = [
                asyncio.create_task(replied(guard, get(b"k"), in_time(BUDGET))) for _ in range(10)
            ]
            await asyncio.gather(*calls, return_exceptions=True)
            assert open_circuits(guard.circuits()) == ["read"]
        finally:
            fresh_standalone.resume()
        await guard.close()


async def test_a_link_is_not_reset_for_our_own_pause(
    fresh_standalone: RedisProcess, watch: LoopWatch
) -> None:
    """A reply that is overdue only because nobody listened is waited for on the same connection."""
    async with store_at(
        fresh_standalone.address, listened=watch.listened, reply_timeout=HELD_UP / 2
    ) as store:
        link: Link = store.shard(get(b"k")).primary
        fresh_standalone.pause()
        reply = asyncio.ensure_future(link.send(b"PING\r\n", in_time()))
        await hold_up()
        link.reset_if_overdue(watch.listened())
        assert not link.is_stuck(watch.listened())
        assert not reply.done()
        fresh_standalone.resume()
        assert await reply == b"PONG"
        assert link.status().losses == 0


async def test_a_link_is_reset_when_redis_is_silent(
    fresh_standalone: RedisProcess, watch: LoopWatch
) -> None:
    """While the loop turns, the clock that links are judged by runs as any other."""
    async with store_at(
        fresh_standalone.address, listened=watch.listened, reply_timeout=BUDGET
    ) as store:
        link: Link = store.shard(get(b"k")).primary
        fresh_standalone.pause()
        reply = asyncio.ensure_future(link.send(b"PING\r\n", in_time()))
        await soon(lambda: link.status().losses == 1)
        fresh_standalone.resume()
        await reply


async def test_no_read_is_hedged_for_our_own_lag(watch: LoopWatch) -> None:
    """A reply that is late because the loop was held up is no reason to ask a second server."""
    with replicated() as pair:
        async with store_at(pair.primary.address, listened=watch.listened) as store:
            guard = guarded(store, listened=watch.listened)
            await replied(guard, put(b"k", b"v"), in_time())
            await soon(lambda: store.shard(get(b"k")).has_fallback(), what="the replica's link")
            for turn in range(5):
                read = asyncio.create_task(replied(guard, get(b"k"), in_time()))
                if turn % 2:  # the command is written when the loop goes on
                    await asyncio.sleep(0)
                    sleep(0.1)  # noqa: ASYNC251 - to block the loop is the point
                else:  # the reply comes while the loop is held up
                    await hold_up(0.1)
                assert await read == b"v"
            assert guard.reads().hedges == 0
            await guard.close()
