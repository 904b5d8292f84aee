"""Writes that wait for replicas, where the answers matter more than the replicas."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from flowcache.errors import DeadlineExceeded, Unconfirmed
from flowcache.ports import Command
from flowcache.store.redis_store import RedisStore
from flowcache.store.settings import StoreSettings
from tests.store.harness import get, in_time, replied, soon, store_at
from tests.store.resp import bulk, error, hello, integer
from tests.store.scripted import Peer, Request, Scripted
from tests.store.test_store_scripted import READ, SLOT, WRITE, WRITE_ONCE


async def test_each_replica_counts() -> None:
    """Where two have to have a write, one is not enough."""
    async with (
        Scripted(lambda peer, request: peer.say(integer(1))) as server,
        store_at(server.address, confirm_replicas=2) as store,
    ):
        with pytest.raises(DeadlineExceeded, match="did not confirm"):
            await replied(store, WRITE, in_time())
        server.script = lambda peer, request: peer.say(integer(2))
        assert await replied(store, WRITE, in_time()) == 2


@pytest.mark.parametrize("seconds", [0.0, 0.0005, 5.0])
async def test_a_wait_ends_before_its_deadline(seconds: float) -> None:
    """However little time is left, Redis is not asked to wait for ever, which is what 0 would be.

    And an answer needs a moment to come back.
    """
    async with Scripted() as server, store_at(server.address, confirm_replicas=1) as store:
        server.script = lambda peer, request: peer.say(integer(1))
        try:
            await replied(store, WRITE, in_time(seconds))
        except DeadlineExceeded:
            assert seconds < 1
        write, wait = await server.asked(2)
        assert (write[0], wait[:2]) == (b"INCR", [b"WAIT", b"1"])
        assert 1 <= int(wait[2]) <= max(1, seconds * 950)


async def test_who_did_the_write_is_asked() -> None:
    """A write that was redirected is confirmed by the server that did it."""
    async with (
        Scripted(lambda peer, request: peer.say(integer(1))) as there,
        Scripted(mode="cluster") as here,
        store_at(here.address, confirm_replicas=1) as store,
    ):
        here.script = lambda peer, request: peer.say(
            integer(0) if request[0] == b"WAIT" else error(f"MOVED {SLOT} {there.address}")
        )
        assert await replied(store, WRITE, in_time()) == 1
        assert [request[0] for request in there.requests] == [b"INCR", b"WAIT"]


async def test_a_repeated_write_holds_up_no_read() -> None:
    """A write that is sent again after a loss goes its own way again, and not that of reads."""
    readers: list[Peer] = []
    writers: list[Peer] = []

    def script(peer: Peer, request: Request) -> None:
        if request[0] == b"GETRANGE":
            readers.append(peer)
            peer.say(bulk("1"))
        elif request[0] == b"WAIT":
            peer.say(integer(1))
        else:
            writers.append(peer)
            peer.say(integer(1)) if len(writers) > 1 else peer.hang_up()

    async with Scripted(script) as server, store_at(server.address, confirm_replicas=1) as store:
        assert await replied(store, READ, in_time()) == b"1"
        assert await replied(store, WRITE_ONCE, in_time()) == 1
        assert await replied(store, READ, in_time()) == b"1"
        assert len(writers) == 2
        assert not set(readers) & set(writers)


async def test_started_means_that_writes_work() -> None:
    """A store has started when writes have their connection, and not just reads."""
    greeted = hello("standalone")

    def script(peer: Peer, request: Request) -> None:
        if request[0] != b"HELLO":
            peer.say(integer(1))
        elif peer in server.peers[:2]:  # who asks for the topology, and the link for reads
            peer.say(greeted)

    async with Scripted(script) as server:
        del server.handshake[b"HELLO"]
        settings = StoreSettings(nodes=(server.address,), confirm_replicas=1, connect_timeout=600)
        store = RedisStore(settings, monotonic)
        starting = asyncio.create_task(store.start())
        await soon(lambda: [s.primary.state for s in store.status().shards] == ["ready"])
        await soon(lambda: len(server.peers) == 3)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not starting.done()
        await soon(lambda: server.peers[2].requests)
        server.peers[2].say(greeted)
        await starting
        assert await replied(store, WRITE, in_time()) == 1
        await store.close()


def silent_writes(peer: Peer, request: Request) -> None:
    """Answer reads alone."""
    if request[0] == b"GETRANGE":
        peer.say(bulk("1"))


async def test_a_write_behind_the_wait_of_another_says_nothing_against_the_server() -> None:
    """The server answers reads: what held the write up is a replica, and no circuit is to open."""
    async with (
        Scripted(silent_writes) as server,
        store_at(server.address, confirm_replicas=1) as store,
    ):
        assert await replied(store, READ, in_time()) == b"1"
        with pytest.raises(Unconfirmed):
            await replied(store, WRITE, in_time(0.05))


async def test_a_write_to_a_server_that_answers_nobody_is_late_and_no_more() -> None:
    """Then it is the server, and its circuit has to learn of it."""
    async with (
        Scripted() as server,
        store_at(server.address, confirm_replicas=1, reply_timeout=600.0) as store,
    ):
        reading = asyncio.ensure_future(replied(store, READ, in_time(600)))
        await soon(lambda: store.shard(get(b"k")).primary.is_stuck(monotonic()))
        with pytest.raises(DeadlineExceeded) as caught:
            await replied(store, WRITE, in_time(0.05))
        assert not isinstance(caught.value, Unconfirmed)
        assert not caught.value.retryable, "it may have been done"
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@pytest.mark.parametrize(("command", "retryable"), [(WRITE, False), (WRITE_ONCE, True)])
async def test_what_is_not_confirmed_is_done(command: Command, retryable: bool) -> None:
    """Only a write that is applied once may be sent again, and that is what the failure says."""
    async with (
        Scripted(lambda peer, request: peer.say(integer(0))) as server,
        store_at(server.address, confirm_replicas=1) as store,
    ):
        with pytest.raises(Unconfirmed) as caught:
            await replied(store, command, in_time())
        assert caught.value.retryable is retryable
