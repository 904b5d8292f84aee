"""What a Redis that was taken over can make of us: where it may send us, and what we say there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from flowcache.errors import DeadlineExceeded, RedisUnavailable
from flowcache.secret import Secret
from flowcache.store.settings import Address
from tests.servers.ports import LOOPBACK
from tests.store.harness import in_time, put, replied, soon, store_at
from tests.store.resp import error, serving
from tests.store.scripted import Scripted
from tests.store.test_store_scripted import SLOT, always

WRITE = put(b"k", b"what a caller chose\r\nDELETE / HTTP/1.1\r\n\r\n")


class Stranger:
    """A server that speaks something else; ``heard`` is all that was said to it."""

    def __init__(self, banner: bytes) -> None:
        self.heard = b""
        self._banner = banner

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard += await reader.read(65536)
        writer.write(self._banner)
        while more := await reader.read(65536):
            self.heard += more
        writer.close()


@asynccontextmanager
async def stranger(banner: bytes) -> AsyncIterator[tuple[Address, Stranger]]:
    made = Stranger(banner)
    server = await asyncio.start_server(made.serve, LOOPBACK, 0)
    async with server:
        yield Address(*server.sockets[0].getsockname()), made


BANNERS = [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail.example ESMTP\r\n", b"-ERR no\r\n"]


@pytest.mark.parametrize("banner", BANNERS)
@pytest.mark.parametrize("code", ["MOVED", "ASK"])
async def test_nothing_of_a_callers_is_said_to_who_is_no_redis(code: str, banner: bytes) -> None:
    """A redirection is followed, as a cluster needs it; but a server hears our handshake alone
    until it has answered that as a Redis does. Callers choose no byte of it."""
    async with stranger(banner) as (elsewhere, heard), Scripted(mode="cluster") as server:
        server.script = always(error(f"{code} {SLOT} {elsewhere}"))
        async with store_at(server.address, connect_timeout=0.2) as store:
            with pytest.raises((RedisUnavailable, DeadlineExceeded)):
                await replied(store, WRITE, in_time(1.0))
            await soon(lambda: heard.heard)
    assert b"HELLO" in heard.heard
    assert b"caller" not in heard.heard
    assert b"DELETE" not in heard.heard


async def test_nor_to_who_stands_in_its_map() -> None:
    """The map of a cluster is believed as a redirection is, and no more."""
    async with stranger(BANNERS[0]) as (elsewhere, heard), Scripted(mode="cluster") as server:
        server.handshake[b"CLUSTER"] = serving(elsewhere)
        async with store_at(server.address, connect_timeout=0.2) as store:
            with pytest.raises((RedisUnavailable, DeadlineExceeded)):
                await replied(store, WRITE, in_time(0.3))
            await soon(lambda: heard.heard)
    assert b"caller" not in heard.heard


async def test_the_password_is_said_to_whom_a_redis_names() -> None:
    """Known weakness, as of every cluster client: what stops it is TLS with a CA of your own."""
    async with stranger(BANNERS[0]) as (elsewhere, heard), Scripted(mode="cluster") as server:
        server.handshake[b"CLUSTER"] = serving(elsewhere)
        async with store_at(
            server.address, connect_timeout=0.2, password=Secret("of-redis")
        ) as store:
            with pytest.raises((RedisUnavailable, DeadlineExceeded)):
                await replied(store, WRITE, in_time(0.3))
            await soon(lambda: b"of-redis" in heard.heard)


async def test_endless_redirections_open_few_connections() -> None:
    """A server can't make us call one port after the other: a call follows so many and no more."""
    async with Scripted(mode="cluster") as server:
        ports = iter(range(20_000, 60_000))
        server.script = lambda peer, request: peer.say(
            error(f"MOVED {SLOT} {LOOPBACK}:{next(ports)}")
        )
        async with store_at(server.address, connect_timeout=0.1) as store:
            with pytest.raises((RedisUnavailable, DeadlineExceeded)):
                await replied(store, WRITE, in_time(1.0))
            assert next(ports) <= 20_003


@pytest.mark.parametrize("code", ["MOVED", "ASK"])
async def test_who_is_no_cluster_redirects_nobody(code: str) -> None:
    """Only a cluster works by redirections: no other server can send us, and our password, away."""
    async with stranger(BANNERS[0]) as (elsewhere, heard), Scripted() as server:
        server.script = always(error(f"{code} {SLOT} {elsewhere}"))
        async with store_at(server.address, password=Secret("of-redis")) as store:
            with pytest.raises(RedisUnavailable, match="is not a cluster"):
                await replied(store, WRITE, in_time())
    assert not heard.heard


@pytest.mark.parametrize(
    "place",
    [
        "127.0.0.1:0",
        "/run/redis.sock:0",
        "/run/redis.sock:1",
        "127.0.0.1:65536",
        "127.0.0.1",
        "me@127.0.0.1:1",
        "h" * 60_000 + ":1",
        "127.0.0.1:" + "1" * 5000,
    ],
)
async def test_a_redirection_to_what_is_no_address(place: str) -> None:
    """A redirection leads to a host and a port, or nowhere."""
    async with (
        Scripted(always(error(f"MOVED {SLOT} {place}")), mode="cluster") as server,
        store_at(server.address) as store,
    ):
        with pytest.raises(RedisUnavailable, match="redirects to nowhere"):
            await replied(store, WRITE, in_time())
        assert len(store.status().shards) == 1


async def test_many_calls_are_led_to_few_servers() -> None:
    """Redirections of all calls together lead to so many servers off the map, and no more."""
    async with Scripted(mode="cluster") as server:
        ports = iter(range(20_000, 60_000))
        server.script = lambda peer, request: peer.say(error(f"ASK {SLOT} 127.9.9.9:{next(ports)}"))
        before = open_tasks()
        async with store_at(server.address, connect_timeout=0.1) as store:
            for _ in range(200):
                with pytest.raises((RedisUnavailable, DeadlineExceeded)):
                    await replied(store, WRITE, in_time(1.0))
            assert open_tasks() - before < 80


def open_tasks() -> int:
    """Return how many links there are, among other tasks."""
    return sum(task.get_name().startswith("link ") for task in asyncio.all_tasks())
