"""A standalone primary that an operator made a replica, with no Sentinel to tell."""

from __future__ import annotations

import pytest

from flowcache.ports import Done
from flowcache.store.redis_store import RedisStore
from tests.servers.standalone import replicated
from tests.store.harness import get, in_time, put, replied, soon, store_at
from tests.store.resp import array, bulk, error, integer
from tests.store.scripted import Scripted
from tests.store.test_store import cli
from tests.store.test_store_scripted import READ, always

NEVER = 600.0
"""No interval of its own makes the store ask."""


def hello(role: str) -> bytes:
    return b"%%2\r\n%b%b%b%b" % tuple(map(bulk, ("mode", "standalone", "role", role)))


async def reads(store: RedisStore) -> Done:
    return await store.execute(get(b"k"), in_time())


@pytest.mark.parametrize("both", [True, False])
async def test_roles_change_places(both: bool) -> None:
    """Nobody writes, so no error tells: the store follows to the new primary by itself."""
    with replicated() as pair:
        nodes = [pair.primary.address, pair.replica.address][: 2 if both else 1]
        async with store_at(*nodes, refresh_interval=NEVER) as store:
            await replied(store, put(b"k", b"1"), in_time())
            await cli(pair.replica, "REPLICAOF", "NO", "ONE")
            await cli(pair.primary, "REPLICAOF", "127.0.0.1", pair.replica.port)
            name = f"127.0.0.1:{pair.replica.port}"
            await soon(lambda: store.shard(get(b"k")).name == name)
            await store.shard(get(b"k")).primary.settled()
            assert await replied(store, put(b"k", b"2"), in_time()) == b"OK"
            assert (await reads(store)).reply == b"2"


async def test_where_no_primary_is_found() -> None:
    """Reads of a server that says that it is a replica are stale, until it is a primary again."""
    async with (
        Scripted(always(bulk("old"))) as server,
        store_at(server.address, refresh_interval=NEVER) as store,
    ):
        assert (await reads(store)).reply == b"old"
        well, role = server.handshake[b"HELLO"], server.handshake[b"ROLE"]
        server.handshake[b"HELLO"] = hello("replica")
        server.handshake[b"ROLE"] = array(
            bulk("slave"), bulk("127.0.0.1"), integer(1), bulk("connect"), integer(0)
        )
        await soon(lambda: store.shard(get(b"k")).is_demoted)
        done = await reads(store)
        assert (done.reply, done.stale) == (b"old", True)
        await soon(lambda: "no connection" in str(store.status().fault))
        server.handshake |= {b"HELLO": well, b"ROLE": role}
        await soon(lambda: not store.shard(get(b"k")).is_demoted)
        assert await replied(store, READ, in_time()) == b"old"


async def test_a_user_that_may_not_ask_for_the_role() -> None:
    """HELLO tells that as well, and whoever may connect may say it."""
    async with Scripted(always(bulk("1"))) as server:
        server.handshake[b"ROLE"] = error("NOPERM this user has no permissions to run 'role'")
        async with store_at(server.address, refresh_interval=NEVER) as store:
            assert (await reads(store)).reply == b"1"
            server.handshake[b"HELLO"] = hello("replica")
            await soon(lambda: store.shard(get(b"k")).is_demoted)
            assert (await reads(store)).stale
            await soon(lambda: "give it +role" in str(store.status().fault))


@pytest.mark.parametrize("odd", [error("ERR no"), integer(1), array(), b"_\r\n", b"%0\r\n"])
async def test_an_odd_answer_changes_nothing(odd: bytes) -> None:
    """What says nothing of a role is no demotion."""
    async with (
        Scripted(always(bulk("1"))) as server,
        store_at(server.address, refresh_interval=NEVER) as store,
    ):
        server.handshake[b"HELLO"] = odd
        asked = server.handshaken.count(b"HELLO")
        await soon(lambda: server.handshaken.count(b"HELLO") > asked + 1)
        assert (await reads(store)).reply == b"1"
        assert store.status().status == "ready"
