"""A write of which only a part is allowed is not done at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import structs

from flowcache.errors import Failure, Forbidden, RedisUnavailable
from flowcache.ports import Once
from flowcache.store.rights import needed_commands
from tests.commands import command as made_command
from tests.servers import (
    SERVERS,
    RedisProcess,
    standalone,
)
from tests.store.harness import guarded, in_time, may, replied, store_at
from tests.store.resp import error
from tests.store.scripted import Scripted

ONCE = Once(b"token", b"fingerprint", 60_000)
PLAIN = {
    "SET": made_command(b"SET", b"k", b"7", ttl=60, writes=True),
    "HSET": made_command(b"HSET", b"h", b"f", b"new", b"g", b"new", ttl=60, writes=True),
    "INCR": made_command(b"INCRBY", b"n", b"1", ttl=60, writes=True),
    "DEL": made_command(b"UNLINK", b"d", writes=True),
}
WRITES = PLAIN | {f"{name} once": structs.replace(c, once=ONCE) for name, c in PLAIN.items()}
USED = needed_commands()
"""Whatever a write may send, or a script of it."""


@pytest.fixture(params=SERVERS.values(), ids=list(SERVERS), scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    with standalone(request.param()) as server:
        yield server


def held(server: RedisProcess) -> dict[bytes, Any]:
    """Return everything there is, as Redis would write it to disk, with the lives of all keys.

    A life is in hundreds of seconds: only from Redis 7 on a key's last moment can be asked for.
    """
    with server.client() as client:
        keys = sorted(client.keys("*"))
        return {key: (client.dump(key), round(client.pttl(key) / 100_000)) for key in keys}


def plant(server: RedisProcess) -> None:
    server.cli("FLUSHALL")
    server.cli("SET", "k", "1", "EX", "1000")
    server.cli("SET", "n", "1", "EX", "1000")
    server.cli("SET", "d", "1", "EX", "1000")
    server.cli("HSET", "h", "f", "old", "other", "1")
    server.cli("EXPIRE", "h", "1000")


@pytest.mark.parametrize("name", WRITES)
async def test_without_one_right_it_is_done_in_full_or_not_at_all(
    server: RedisProcess, name: str
) -> None:
    """Whichever command the user lacks: the call is forbidden and nothing changed, or all is done.

    With the right that was missing, the same call is done, once.
    """
    command = WRITES[name]
    forbidden = 0
    for lacks in USED:
        plant(server)
        before = held(server)
        async with store_at(server.address, **may(server, f"-{lacks}")) as store:
            try:
                await replied(store, command, in_time())
            except Forbidden:
                forbidden += 1
                assert held(server) == before, f"without {lacks}"
                may(server)
                await replied(store, command, in_time())
            if command.once is not None:
                done = held(server)
                await replied(store, command, in_time())
                assert held(server).keys() == done.keys()
                assert held(server)[b"n"] == done[b"n"]
        assert len(held(server)) == 4 + (command.once is not None) - (command.name == b"UNLINK")
        for key in (b"k", b"h", b"n"):
            life = int(server.cli("TTL", key.decode()))
            assert 0 < life <= 60 if key == command.key else life > 900
    assert forbidden > 0


async def test_a_denial_says_nothing_against_the_server(server: RedisProcess) -> None:
    """However often: it is the operator's affair, and no circuit opens."""
    plant(server)
    async with store_at(server.address, **may(server, "-expire")) as store:
        guard = guarded(store)
        for _ in range(10):
            with pytest.raises(Forbidden, match="flowcache's user"):
                await replied(guard, WRITES["INCR"], in_time())
        assert {each.failures for each in guard.circuits()} == {0}


async def test_a_user_of_some_keys_leaves_the_others_alone(server: RedisProcess) -> None:
    """A record that can't be kept is as a command that may not be sent."""
    plant(server)
    before = held(server)
    async with store_at(server.address, **may(server, "resetkeys", "~h", "~n", "~k")) as store:
        for name in ("INCR once", "HSET once", "SET once"):
            with pytest.raises(Forbidden):
                await replied(store, WRITES[name], in_time())
    assert held(server) == before


async def test_what_is_done_in_part_is_not_said_to_be_undone() -> None:
    """Should Redis refuse what follows a write, its caller is not told to send it again."""
    refusal = error("PARTLY ERR something")
    async with (
        Scripted(lambda peer, request: peer.say(refusal)) as server,
        store_at(server.address) as store,
    ):
        for name in ("INCR", "INCR once"):
            with pytest.raises(RedisUnavailable, match="did the write") as caught:
                await replied(store, WRITES[name], in_time())
            assert not caught.value.retryable
            assert isinstance(caught.value, Failure)
