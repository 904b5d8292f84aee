"""What each make of Redis says when it refuses, plainly or to a command in a script, is understood.

Redis 6.2 wraps what a script's command is refused with; Redis 7 and Valkey do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import pytest
import redis
from msgspec import structs

from flowcache.errors import Declined, Failure, Forbidden, NotYet, RedisUnavailable
from flowcache.ports import Command, Once
from flowcache.store.redis_store import RedisStore
from tests.commands import command as made_command
from tests.servers import (
    SERVERS,
    RedisProcess,
    cluster,
    replicated,
    sentinel_group,
    standalone,
)
from tests.store.harness import (
    delete,
    get,
    guarded,
    in_time,
    may,
    put,
    replied,
    soon,
    store_at,
)

NEVER = 600.0
"""No interval of its own makes the store ask."""
ONCE = Once(b"token", b"fingerprint", 60_000)
PLAIN = put(b"string", b"1")
SCRIPTED = made_command(b"INCRBY", b"number", b"1", ttl=60, writes=True)
WRITES = {"plain": PLAIN, "scripted": SCRIPTED, "once": structs.replace(PLAIN, once=ONCE)}

every_write = pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))


@pytest.fixture(params=SERVERS.values(), ids=list(SERVERS), scope="module")
def binary(request: pytest.FixtureRequest) -> Path:
    program: Path = request.param()
    return program


@pytest.fixture(scope="module")
def make(binary: Path) -> Iterator[RedisProcess]:
    with standalone(binary) as server:
        yield server


@pytest.fixture
def server(make: RedisProcess) -> RedisProcess:
    """A server of each make, empty."""
    make.cli("FLUSHALL")
    return make


async def cli(server: RedisProcess, *args: str | int) -> object:
    return await asyncio.to_thread(server.cli, *args)


@asynccontextmanager
async def out_of_memory(server: RedisProcess) -> AsyncIterator[None]:
    await cli(server, "CONFIG", "SET", "maxmemory", 1)
    try:
        yield
    finally:
        await cli(server, "CONFIG", "SET", "maxmemory", 0)


@asynccontextmanager
async def unable_to_save(server: RedisProcess) -> AsyncIterator[None]:
    in_the_way = server.directory / "dump.rdb"
    in_the_way.mkdir()
    await cli(server, "CONFIG", "SET", "save", "3600 1")
    await cli(server, "BGSAVE")

    def persistence(name: str) -> object:
        return server.cli("INFO", "persistence")[name]

    await soon(lambda: persistence("rdb_last_bgsave_status") == "err")
    try:
        yield
    finally:
        in_the_way.rmdir()
        await cli(server, "SAVE")
        in_the_way.unlink()
        await cli(server, "CONFIG", "SET", "save", "")


@asynccontextmanager
async def busy(server: RedisProcess) -> AsyncIterator[None]:
    await cli(server, "CONFIG", "SET", "lua-time-limit", 1)

    def run() -> None:
        with suppress(redis.ResponseError):  # it is killed
            server.cli("EVAL", "while true do end", 0)

    def says_busy() -> bool:
        try:
            server.cli("PING")
        except redis.ResponseError as fault:
            return "BUSY" in str(fault)
        return False

    running = asyncio.create_task(asyncio.to_thread(run))
    await soon(says_busy)
    try:
        yield
    finally:
        await cli(server, "SCRIPT", "KILL")
        await running


State = Callable[[RedisProcess], AbstractAsyncContextManager[None]]
STATES: dict[str, tuple[State, type[Failure], str]] = {
    "OOM": (out_of_memory, Declined, "out of memory"),
    "MISCONF": (unable_to_save, Declined, "can't save to disk"),
    "BUSY": (busy, NotYet, "busy with a script"),
}
"""What is wrong with a server -> how it is made so, and what writes fail with."""


@every_write
@pytest.mark.parametrize("state", STATES.values(), ids=list(STATES))
async def test_what_is_wrong_with_the_server_is_said(
    server: RedisProcess, state: tuple[State, type[Failure], str], write: Command
) -> None:
    """Whichever way a write is sent, the call fails for the same reason and may be repeated."""
    enter, failure, message = state
    async with store_at(server.address) as store:
        async with enter(server):
            with pytest.raises(failure, match=message) as caught:
                await replied(store, write, in_time())
            assert caught.value.retryable
        assert await replied(store, write, in_time()) in (1, b"OK")


@pytest.mark.parametrize("once", [None, ONCE], ids=["plain", "once"])
async def test_a_server_out_of_memory_still_deletes(
    server: RedisProcess, once: Once | None
) -> None:
    """Refused writes open no circuit, so the DEL that frees memory goes through."""
    remove = structs.replace(delete(b"number"), once=once)
    async with store_at(server.address) as store:
        guard = guarded(store)
        await replied(guard, SCRIPTED, in_time())
        async with out_of_memory(server):
            for _ in range(10):
                with pytest.raises(Declined):
                    await replied(guard, SCRIPTED, in_time())
            assert await replied(guard, remove, in_time()) == 1
            assert {each.failures for each in guard.circuits()} == {0}


@every_write
@pytest.mark.parametrize("rules", [("-set", "-incrby"), ("resetkeys", "~other")], ids=str)
async def test_a_missing_right_is_said(
    server: RedisProcess, rules: tuple[str, ...], write: Command
) -> None:
    """A command or a key that the user may not have: forbidden, and no circuit counts it."""
    async with store_at(server.address, **may(server, *rules)) as store:
        guard = guarded(store)
        with pytest.raises(Forbidden, match="flowcache's user"):
            await replied(guard, write, in_time())
        assert {each.failures for each in guard.circuits()} == {0}


@every_write
async def test_a_forgotten_script_is_sent_again(server: RedisProcess, write: Command) -> None:
    """After SCRIPT FLUSH nobody notices."""
    async with store_at(server.address) as store:
        await replied(store, write, in_time())
        await cli(server, "SCRIPT", "FLUSH")
        assert await replied(store, write, in_time()) in (1, 2, b"OK")


async def test_a_server_that_loads_its_data(binary: Path) -> None:
    """Calls fail until it has, as ones that may be repeated soon; then they are done."""
    with standalone(binary, config=["key-load-delay 100000", "rdbcompression no"]) as server:
        # A server that loads takes commands now and then: after 2 MiB.
        for number in range(10):
            server.cli("SET", f"filler:{number}", "x" * (3 << 20))
        server.cli("SAVE")
        async with store_at(server.address) as store:
            server.kill()
            await soon(lambda: store.status().status == "reconnecting")
            server.start()
            for write in WRITES.values():
                failures = await failures_until_done(store, write)
                assert all(failure.retryable for failure in failures)
                if write is PLAIN:
                    assert NotYet in map(type, failures)


async def failures_until_done(store: RedisStore, command: Command) -> list[Failure]:
    """Run a command again and again until it is done; return what it failed with before."""
    failures: list[Failure] = []
    while True:
        try:
            await replied(store, command, in_time())
        except RedisUnavailable as failure:
            failures.append(failure)
            await asyncio.sleep(0.01)
        else:
            return failures


@every_write
async def test_roles_change_places(binary: Path, write: Command) -> None:
    """The first write after an operator made the primary a replica is done at the new one."""
    with replicated(binary) as pair:
        nodes = pair.primary.address, pair.replica.address
        async with store_at(*nodes, refresh_interval=NEVER) as store:
            await replied(store, get(b"string"), in_time())
            await cli(pair.replica, "REPLICAOF", "NO", "ONE")
            await cli(pair.primary, "REPLICAOF", *pair.replica.address)
            assert await replied(store, write, in_time()) in (1, b"OK")
            assert pair.replica.cli("DBSIZE") >= 1


OLDEST = tuple(SERVERS.values())[-1]


async def test_a_cluster_of_the_oldest_make_fails_over() -> None:
    """Writes that are sent in a script go on at the replica that took over."""
    with cluster(binary=OLDEST()) as servers:
        async with store_at(*servers.addresses[:1], refresh_interval=NEVER) as store:
            assert await replied(store, SCRIPTED, in_time()) == 1
            node = servers.node_of_key("number")
            (replica,) = servers.replicas_of(node)
            await asyncio.to_thread(servers.failover, replica)
            assert await replied(store, SCRIPTED, in_time()) == 2
            assert servers.node_of_key("number") is replica


async def test_sentinels_replace_a_primary_of_the_oldest_make() -> None:
    """Writes that are sent in a script go on at the new primary."""
    with sentinel_group(binary=OLDEST()) as group:
        async with store_at(*group.addresses, service=group.service) as store:
            assert await replied(store, SCRIPTED, in_time()) == 1
            primary = await asyncio.to_thread(group.failover)
            await soon(lambda: store.shard(SCRIPTED).name == f"127.0.0.1:{primary.port}")
            await failures_until_done(store, SCRIPTED)
            assert await cli(primary, "GET", "number") == "2"
