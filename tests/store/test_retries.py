"""What is sent again, and what is not: the budget, the deadline, what never left."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from flowcache.errors import Declined, RedisUnavailable
from flowcache.ports import Command
from flowcache.store.redis_store import RedisStore
from flowcache.store.settings import StoreSettings
from tests.store.harness import get, in_time, replied, soon, store_at
from tests.store.resp import error
from tests.store.scripted import Peer, Request, Scripted
from tests.store.test_store_scripted import READ, WRITE, WRITE_ONCE, always


@pytest.mark.parametrize("command", [READ, WRITE, WRITE_ONCE])
@pytest.mark.parametrize("code", ["READONLY", "CLUSTERDOWN"])
async def test_without_a_budget_a_refusal_is_the_answer(code: str, command: Command) -> None:
    """Nothing is sent a second time; who leads the shard now is asked for all the same."""
    async with (
        Scripted(always(error(f"{code} says the server")), mode="cluster") as server,
        store_at(server.address, retry_share=0.0, refresh_interval=600.0) as store,
    ):
        before = server.handshaken.count(b"CLUSTER")
        with pytest.raises(RedisUnavailable):
            await replied(store, command, in_time())
        assert len(server.requests) == 1
        await soon(lambda: server.handshaken.count(b"CLUSTER") > before)


@pytest.mark.parametrize("command", [READ, WRITE_ONCE])
async def test_without_a_budget_a_loss_is_the_answer(command: Command) -> None:
    """Though it might be repeated."""
    async with (
        Scripted(lambda peer, request: peer.hang_up()) as server,
        store_at(server.address, retry_share=0.0) as store,
    ):
        with pytest.raises(RedisUnavailable):
            await replied(store, command, in_time())
        assert len(server.requests) == 1
        assert store.status().retries == 0


@pytest.mark.parametrize("command", [READ, WRITE, WRITE_ONCE])
async def test_what_never_left_waits_for_no_connection(command: Command) -> None:
    """While a server is away its callers learn so at once: nothing is queued for its return."""
    async with Scripted() as server, store_at(server.address, connect_timeout=600.0) as store:
        server.handshake[b"HELLO"] = b""  # who comes back is not greeted
        server.peers[-1].hang_up()
        await soon(lambda: store.shard(get(b"k")).primary.state != "ready")
        with pytest.raises(RedisUnavailable) as caught:
            await asyncio.wait_for(replied(store, command, in_time(600)), 20)
        assert caught.value.retryable, "it was not done"
        assert server.requests == []


async def test_who_has_no_time_for_another_try_is_told_why() -> None:
    """Rather than sleep past its deadline, and be told that Redis took too long."""
    offset = 0.0
    async with Scripted(mode="cluster") as server:
        deadline = in_time(600)

        def script(peer: Peer, request: Request) -> None:
            nonlocal offset
            offset = deadline - monotonic() - 0.015
            peer.say(error("TRYAGAIN says the server"))

        server.script = script
        settings = StoreSettings(nodes=(server.address,), reply_timeout=1e6)
        store = RedisStore(settings, lambda: monotonic() + offset)
        try:
            await store.start()
            with pytest.raises(Declined):
                await replied(store, WRITE_ONCE, deadline)
            assert len(server.requests) == 1
        finally:
            await store.close()
