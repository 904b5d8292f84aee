"""What the store promises on one real server: scripts, life and death of it, what is sent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Set
from pathlib import Path
from time import monotonic

import pytest

from flowcache.errors import (
    Conflict,
    DeadlineExceeded,
    Declined,
    Forbidden,
    RedisUnavailable,
    WrongType,
)
from flowcache.ports import Access, Command, Once
from flowcache.secret import Secret
from flowcache.store.redis_store import RedisStore
from flowcache.store.settings import ReadFrom, StoreSettings
from tests.commands import command as made_command
from tests.servers import Proxy, RedisProcess, replicated, standalone, valkey_binary
from tests.servers.ports import LOOPBACK
from tests.servers.process import SERVER_CONFIG
from tests.store.calling import calling
from tests.store.harness import SLACK, delete, get, in_time, incr, put, replied, soon, store_at

ONCE = Once(b"token", b"fingerprint", 60_000)


def hset(key: bytes, *pairs: bytes, ttl: int | None = 60, once: Once | None = None) -> Command:
    return made_command(b"HSET", key, *pairs, ttl=ttl, writes=True, once=once)


@pytest.fixture
def server(standalone_server: RedisProcess) -> RedisProcess:
    """The shared server, empty."""
    standalone_server.cli("FLUSHALL")
    return standalone_server


@pytest.fixture
def proxy(server: RedisProcess) -> Iterator[Proxy]:
    with Proxy(server.address) as proxy:
        yield proxy


async def cli(server: RedisProcess, *args: str | int) -> object:
    return await asyncio.to_thread(server.cli, *args)


async def is_ready(store: RedisStore) -> None:
    await soon(lambda: store.status().status == "ready")


class TestCommands:
    async def test_what_is_written_is_read(self, server: RedisProcess) -> None:
        """A value comes back byte by byte, whatever its bytes; a key that isn't there as None."""
        value = bytes(range(256)) * 40
        async with store_at(server.address) as store:
            assert await replied(store, put(b"\x00\r\n{}\xff", value), in_time()) == b"OK"
            assert await replied(store, get(b"\x00\r\n{}\xff"), in_time()) == value
            assert await replied(store, get(b"absent"), in_time()) is None
            assert await replied(store, delete(b"\x00\r\n{}\xff"), in_time()) == 1

    async def test_every_write_has_its_ttl(self, server: RedisProcess) -> None:
        """Strings and hashes get their life in the same step, with and without a record."""
        async with store_at(server.address) as store:
            for number, once in enumerate((None, ONCE)):
                string, table = b"string%d" % number, b"hash%d" % number
                assert await replied(store, put(string, b"1", 77, once), in_time()) == b"OK"
                write = hset(table, b"a", b"1", b"b", b"2", ttl=77, once=once)
                assert await replied(store, write, in_time()) == 2
                for key in (string, table):
                    assert 70 < await replied(store, made_command(b"TTL", key), in_time()) <= 77

    @pytest.mark.parametrize("once", [None, ONCE])
    async def test_hash_of_many_fields(self, server: RedisProcess, once: Once | None) -> None:
        """A hash of more fields than Lua can pass to a call is written whole."""
        pairs = [word for number in range(10_000) for word in (b"f%d" % number, b"%d" % number)]
        async with store_at(server.address) as store:
            assert await replied(store, hset(b"large", *pairs, once=once), in_time()) == 10_000
            reply = await replied(store, made_command(b"HGETALL", b"large"), in_time())
            assert reply == dict(zip(pairs[::2], pairs[1::2], strict=True))

    @pytest.mark.parametrize("once", [None, ONCE])
    async def test_ttl_of_none_leaves_the_life_alone(
        self, server: RedisProcess, once: Once | None
    ) -> None:
        """A write without a TTL doesn't end the key's life: it is there, with the life it had."""
        async with store_at(server.address) as store:
            await replied(store, hset(b"hash", b"a", b"1", ttl=77), in_time())
            write = hset(b"hash", b"b", b"2", ttl=None, once=once)
            assert await replied(store, write, in_time()) == 1
            assert await replied(store, made_command(b"HLEN", b"hash"), in_time()) == 2
            assert 70 < await replied(store, made_command(b"TTL", b"hash"), in_time()) <= 77
            assert await replied(store, put(b"string", b"1", None, once), in_time()) == b"OK"
            assert await replied(store, get(b"string"), in_time()) == b"1"

    async def test_wrong_type(self, server: RedisProcess) -> None:
        """A key of another type is the caller's affair: told so, and nothing is changed."""
        async with store_at(server.address) as store:
            await replied(store, put(b"string", b"1"), in_time())
            for once in (None, ONCE):
                with pytest.raises(WrongType):
                    await replied(store, hset(b"string", b"a", b"1", once=once), in_time())
            assert await replied(store, get(b"string"), in_time()) == b"1"

    async def test_database_and_password(self, tmp_path: Path) -> None:
        """The store uses the password and the database that it was given."""
        with standalone(config=["requirepass s3cret"]) as server:
            async with store_at(server.address, password=Secret("s3cret"), database=2) as store:
                await replied(store, put(b"k", b"1"), in_time())
                assert await replied(store, get(b"k"), in_time()) == b"1"
            async with store_at(server.address, password=Secret("wrong")) as store:
                with pytest.raises(RedisUnavailable) as caught:
                    await replied(store, get(b"k"), in_time())
                assert "wrong" not in str(caught.value)
                fault = store.status().fault
                assert fault is not None
                assert "refused the user or the password" in fault
                assert "wrong" not in fault


class TestOnce:
    async def test_repeated_write_answers_the_same(self, server: RedisProcess) -> None:
        """The same write again is answered as the first time, and isn't done again."""
        async with store_at(server.address) as store:
            for _ in range(3):
                assert await replied(store, incr(b"counter", ONCE), in_time()) == 1
                assert await replied(store, put(b"string", b"1", 60, ONCE), in_time()) == b"OK"
            assert await replied(store, get(b"counter"), in_time()) == b"1"
            other = Once(b"another token", ONCE.fingerprint, ONCE.lifetime_ms)
            assert await replied(store, incr(b"counter", other), in_time()) == 2

    async def test_at_once_at_the_same_time(self, server: RedisProcess) -> None:
        """A hundred at the same moment, through two stores, are one."""
        async with store_at(server.address) as one, store_at(server.address) as other:
            replies = await asyncio.gather(
                *(replied(store, incr(b"k", ONCE), in_time()) for store in (one, other) * 50)
            )
            assert set(replies) == {1}
            assert await replied(one, get(b"k"), in_time()) == b"1"

    async def test_other_body(self, server: RedisProcess) -> None:
        """The same token with another body is a conflict, and does nothing."""
        async with store_at(server.address) as store:
            await replied(store, put(b"k", b"1", 60, ONCE), in_time())
            other = Once(ONCE.token, b"another body's", ONCE.lifetime_ms)
            with pytest.raises(Conflict):
                await replied(store, put(b"k", b"2", 60, other), in_time())
            assert await replied(store, get(b"k"), in_time()) == b"1"

    async def test_former_fingerprints(self, server: RedisProcess) -> None:
        """A record with a fingerprint that the write had before is of this write, and stays so."""
        before = Once(b"token", b"a" * 32, 60_000, (b"b" * 32,))
        after = Once(b"token", b"b" * 32, 60_000, (b"c" * 32, b"a" * 32))
        another = Once(b"token", b"b" * 32, 60_000, (b"c" * 32, b"a" * 31, b"aa"))
        async with store_at(server.address) as store:
            assert await replied(store, incr(b"k", before), in_time()) == 1
            assert await replied(store, incr(b"k", after), in_time()) == 1
            with pytest.raises(Conflict):
                await replied(store, incr(b"k", another), in_time())
            assert await replied(store, incr(b"k", before), in_time()) == 1
            assert await replied(store, get(b"k"), in_time()) == b"1"

    async def test_failure_leaves_no_record(self, server: RedisProcess) -> None:
        """A write that failed can be tried again under its token."""
        async with store_at(server.address) as store:
            await replied(store, hset(b"k", b"a", b"1"), in_time())
            with pytest.raises(WrongType):
                await replied(store, incr(b"k", ONCE), in_time())
            await replied(store, delete(b"k"), in_time())
            assert await replied(store, incr(b"k", ONCE), in_time()) == 1

    async def test_record_has_its_life(self, server: RedisProcess) -> None:
        """The record is kept as long as was asked for, and isn't kept for ever."""
        async with store_at(server.address) as store:
            await replied(store, incr(b"k", ONCE), in_time())
            (record,) = [key for key in server.cli("KEYS", "*") if key != "k"]
            assert 50_000 < server.cli("PTTL", record) <= 60_000
            await cli(server, "PEXPIRE", record, 1)
            await soon(lambda: server.cli("EXISTS", record) == 0)
            assert await replied(store, incr(b"k", ONCE), in_time()) == 2


class TestScripts:
    async def test_flushed_scripts_are_sent_again(self, server: RedisProcess) -> None:
        """After SCRIPT FLUSH nobody notices, and the script's text goes over the wire once."""
        async with store_at(server.address) as store:
            for number in range(2):
                await cli(server, "SCRIPT", "FLUSH")
                await cli(server, "CONFIG", "RESETSTAT")
                for field in (b"a", b"b", b"c"):
                    write = hset(b"h%d" % number, field, b"1")
                    assert await replied(store, write, in_time()) == 1
                stats = server.cli("INFO", "commandstats")
                assert stats["cmdstat_eval"]["calls"] == 1
                assert stats["cmdstat_evalsha"]["calls"] == 3

    async def test_restarted_server_has_no_scripts(self, fresh_standalone: RedisProcess) -> None:
        """After a restart of the server neither, with no restart of the store."""
        async with store_at(fresh_standalone.address) as store:
            assert await replied(store, hset(b"h", b"a", b"1", once=ONCE), in_time()) == 1
            await asyncio.to_thread(fresh_standalone.restart)
            await is_ready(store)
            assert await replied(store, hset(b"h", b"a", b"1", once=ONCE), in_time()) == 1


class TestUnknownFate:
    """The connection breaks when the command is done and its answer is on the way."""

    async def execute(
        self, store: RedisStore, proxy: Proxy, server: RedisProcess, command: Command
    ) -> object:
        """Execute a command whose first answer is lost with the connection."""
        await asyncio.to_thread(proxy.drop, "answers")
        calling = asyncio.ensure_future(replied(store, command, in_time()))
        await soon(lambda: self.calls(server) >= 1, what="the server to do it")
        await asyncio.to_thread(proxy.reset)
        await asyncio.to_thread(proxy.restore)
        return await calling

    def calls(self, server: RedisProcess) -> int:
        """Return how many commands of ours the server has done since its statistics were reset."""
        stats = server.cli("INFO", "commandstats")
        ours = ("cmdstat_getrange", "cmdstat_incr", "cmdstat_evalsha")
        return sum(stats[name]["calls"] for name in ours if name in stats)

    @pytest.fixture
    async def store(self, server: RedisProcess, proxy: Proxy) -> AsyncIterator[RedisStore]:
        async with store_at(proxy.address) as store:
            await replied(store, incr(b"another", ONCE), in_time())  # so that it has the script
            server.cli("CONFIG", "RESETSTAT")
            yield store

    async def test_write(self, store: RedisStore, proxy: Proxy, server: RedisProcess) -> None:
        """A write is not sent again: it was done once, and its caller is told that nobody knows."""
        with pytest.raises(
            RedisUnavailable, match="whether the write was done is unknown"
        ) as caught:
            await self.execute(store, proxy, server, incr(b"k"))
        assert not caught.value.retryable
        await is_ready(store)
        assert await replied(store, get(b"k"), in_time()) == b"1"

    async def test_read(self, store: RedisStore, proxy: Proxy, server: RedisProcess) -> None:
        """A read is sent again, and its caller notices nothing."""
        server.cli("SET", "k", "1")
        assert await self.execute(store, proxy, server, get(b"k")) == b"1"
        assert self.calls(server) == 2

    async def test_once(self, store: RedisStore, proxy: Proxy, server: RedisProcess) -> None:
        """A write to be applied once is sent again, and is applied once all the same."""
        assert await self.execute(store, proxy, server, incr(b"k", ONCE)) == 1
        assert self.calls(server) - self.incremented(server) == 2
        assert await replied(store, get(b"k"), in_time()) == b"1"

    def incremented(self, server: RedisProcess) -> int:
        return int(server.cli("INFO", "commandstats")["cmdstat_incr"]["calls"])

    async def test_stalled_and_reset(self, fresh_standalone: RedisProcess) -> None:
        """A write given up with a stalled connection is done at most once after all."""
        async with store_at(fresh_standalone.address, reply_timeout=0.1) as store:
            fresh_standalone.pause()
            calls = [
                asyncio.ensure_future(replied(store, incr(b"k%d" % number), in_time()))
                for number in range(20)
            ]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, RedisUnavailable) for result in results)
            assert not any(result.retryable for result in results)  # type: ignore[union-attr]
            fresh_standalone.resume()
            await is_ready(store)
            for number in range(20):
                assert await replied(store, get(b"k%d" % number), in_time()) in (None, b"1")


class TestDeadline:
    @pytest.mark.parametrize(
        ("command", "retryable"),
        [(get(b"k"), True), (incr(b"k"), False), (incr(b"k", ONCE), True)],
        ids=["read", "write", "write once"],
    )
    async def test_says_whether_to_repeat(
        self, fresh_standalone: RedisProcess, command: Command, retryable: bool
    ) -> None:
        """When time is up, a read may be repeated, a write not, unless it is applied once."""
        async with store_at(fresh_standalone.address) as store:
            fresh_standalone.pause()
            began = monotonic()
            with pytest.raises(DeadlineExceeded) as caught:
                await replied(store, command, began + 0.05)
            assert 0.05 <= monotonic() - began < 0.05 + SLACK
            assert caught.value.retryable is retryable
            assert caught.value.retry_after is not None
            fresh_standalone.resume()

    async def test_late_write_is_done_once(self, fresh_standalone: RedisProcess) -> None:
        """A write that a stalled server has, and does when it goes on, isn't sent another time."""
        async with store_at(fresh_standalone.address) as store:
            fresh_standalone.pause()
            with pytest.raises(DeadlineExceeded):
                await replied(store, incr(b"k"), in_time(0.05))
            fresh_standalone.resume()
            # On the same connection, hence behind it.
            assert await replied(store, get(b"k"), in_time()) == b"1"


class TestLife:
    async def test_not_up_at_start(self, tmp_path: Path) -> None:
        """A store may be started before its Redis: calls fail at once, and then they don't."""
        server = RedisProcess(valkey_binary(), tmp_path, SERVER_CONFIG)
        try:
            async with store_at(server.address) as store:
                assert store.status().status == "connecting"
                with pytest.raises(RedisUnavailable):
                    store.shard(get(b"k"))
                began = monotonic()
                with pytest.raises(RedisUnavailable) as caught:
                    await replied(store, incr(b"k"), in_time(600))
                assert monotonic() - began < SLACK
                assert caught.value.retryable, "it was not sent"
                with pytest.raises(RedisUnavailable, match="no connection"):
                    await store.ping(in_time())
                server.start()
                await is_ready(store)
                assert await replied(store, incr(b"k"), in_time()) == 1
                await store.ping(in_time())
        finally:
            server.close()

    async def test_death_and_return(self, fresh_standalone: RedisProcess) -> None:
        """While the server is down calls fail at once; when it is back they work."""
        async with store_at(fresh_standalone.address) as store:
            assert await replied(store, incr(b"k"), in_time()) == 1
            fresh_standalone.kill()
            await soon(lambda: store.status().status == "reconnecting")
            began = monotonic()
            for command in (get(b"k"), incr(b"k")):
                with pytest.raises(RedisUnavailable) as caught:
                    await replied(store, command, in_time(600))
                assert caught.value.retryable
                assert caught.value.retry_after is not None
            with pytest.raises(RedisUnavailable):
                await store.ping(in_time())
            assert monotonic() - began < SLACK
            await asyncio.to_thread(fresh_standalone.restart)
            await is_ready(store)
            assert await replied(store, incr(b"k"), in_time()) == 1

    async def test_killed_under_a_write(self, fresh_standalone: RedisProcess) -> None:
        """A write that the server died on has an unknown fate, and the failure says so."""
        async with store_at(fresh_standalone.address) as store:
            fresh_standalone.pause()
            writing = asyncio.ensure_future(replied(store, incr(b"k"), in_time()))
            reading = asyncio.ensure_future(replied(store, get(b"k"), in_time(1)))
            await soon(lambda: store.status().shards[0].primary.pending == 2)
            fresh_standalone.kill()
            with pytest.raises(RedisUnavailable, match="unknown") as caught:
                await writing
            assert not caught.value.retryable
            with pytest.raises(RedisUnavailable) as caught:
                await reading
            assert caught.value.retryable

    async def test_stalled(self, fresh_standalone: RedisProcess) -> None:
        """While a server stalls, every call ends within its deadline; afterwards all is well."""
        async with store_at(fresh_standalone.address, reply_timeout=0.3) as store:
            fresh_standalone.pause()

            async def call(number: int) -> float:
                began = monotonic()
                deadline = began + 0.02 * (number % 10)
                command = (get(b"k"), incr(b"k"), incr(b"k", ONCE))[number % 3]
                with pytest.raises((DeadlineExceeded, RedisUnavailable)):
                    await replied(store, command, deadline)
                return monotonic() - deadline

            for _ in range(4):  # until the connection is reset, and while it can't be made
                assert max(await asyncio.gather(*map(call, range(100)))) < SLACK
            await soon(lambda: store.status().shards[0].primary.losses >= 1)
            assert max(await asyncio.gather(*map(call, range(100)))) < SLACK
            fresh_standalone.resume()
            await is_ready(store)
            assert await replied(store, put(b"k", b"1"), in_time()) == b"OK"

    async def test_closing_tells_everybody(self, fresh_standalone: RedisProcess) -> None:
        """Calls that wait when the store is closed fail then, and not at their deadline."""
        async with store_at(fresh_standalone.address) as store:
            fresh_standalone.pause()
            calls = [
                asyncio.ensure_future(replied(store, command, in_time(600)))
                for command in (get(b"k"), incr(b"k"), incr(b"k", ONCE)) * 10
            ]
            await soon(lambda: store.status().shards[0].primary.pending == 30)
            await store.close()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, RedisUnavailable) for result in results)
            with pytest.raises(RedisUnavailable):
                await replied(store, get(b"k"), in_time())

    async def test_closed_before_it_found_anything(self) -> None:
        """A store can be closed at any time, found or not, started or not."""
        async with store_at(("127.0.0.1", 1)) as store:
            await store.close()
        never_started = RedisStore(StoreSettings(), monotonic)
        await never_started.close()


class TestComingBack:
    """Whoever guards the store is told when a server can be reached again."""

    async def test_after_a_restart(self, fresh_standalone: RedisProcess) -> None:
        """The shard is named when its primary is connected, at first and each time after."""
        back: list[tuple[str, Set[Access]]] = []
        name = f"{LOOPBACK}:{fresh_standalone.port}"

        def tell(shard: str, accesses: Set[Access]) -> None:
            back.append((shard, accesses))

        async with store_at(fresh_standalone.address, on_back=tell) as store:
            assert back == [(name, {Access.READ, Access.WRITE})]
            await asyncio.to_thread(fresh_standalone.restart)
            await soon(lambda: back == [(name, {Access.READ, Access.WRITE})] * 2)
            assert await replied(store, incr(b"k"), in_time()) == 1

    async def test_after_a_stall(self, fresh_standalone: RedisProcess) -> None:
        """A server that answers again on the same connection is told of as well."""
        back: list[tuple[str, Set[Access]]] = []

        def tell(shard: str, accesses: Set[Access]) -> None:
            back.append((shard, accesses))

        async with store_at(fresh_standalone.address, on_back=tell, reply_timeout=60.0) as store:
            assert len(back) == 1
            fresh_standalone.pause()
            with pytest.raises(DeadlineExceeded):
                await replied(store, get(b"k"), in_time(0.3))
            # For longer than the watcher's round, so that it has been seen.
            await soon(lambda: store.shard(get(b"k")).primary.is_stuck(monotonic() - 0.5))
            assert len(back) == 1
            fresh_standalone.resume()
            await soon(lambda: len(back) == 2)
            assert back[0] == back[1]
            assert store.status().shards[0].primary.losses == 0

    async def test_not_while_it_is_too_slow(self, fresh_standalone: RedisProcess) -> None:
        """That a late answer came at last is no sign that the next one will be in time."""
        back: list[str] = []
        with Proxy(fresh_standalone.address) as proxy:
            async with store_at(
                proxy.address, on_back=lambda shard, _: back.append(shard), reply_timeout=60.0
            ) as store:
                await asyncio.to_thread(proxy.delay, 0.6)
                for _ in range(3):
                    with pytest.raises(DeadlineExceeded):
                        await replied(store, get(b"k"), in_time(0.3))
                    await soon(lambda: store.status().shards[0].primary.pending == 0)
                assert len(back) == 1

    async def test_not_while_it_stalls(self, fresh_standalone: RedisProcess) -> None:
        """That a stalled server's connections are taken proves nothing, and isn't told."""
        back: list[tuple[str, Set[Access]]] = []

        def tell(shard: str, accesses: Set[Access]) -> None:
            back.append((shard, accesses))

        with Proxy(fresh_standalone.address) as proxy:
            async with store_at(proxy.address, on_back=tell, reply_timeout=0.1) as store:
                assert len(back) == 1
                await asyncio.to_thread(proxy.drop, "answers")
                with pytest.raises((DeadlineExceeded, RedisUnavailable)):
                    await replied(store, get(b"k"), in_time(0.2))
                await soon(lambda: store.status().shards[0].primary.losses == 1)
                # The link is made again at the first attempt.
                await asyncio.to_thread(proxy.restore)
                await is_ready(store)
                assert len(back) == 1


class TestRefusals:
    async def test_out_of_memory(self, fresh_standalone: RedisProcess) -> None:
        """A server out of memory refuses writes, which is told apart; reads go on.

        So do the answers to writes that are repeated: they are done.
        """
        async with store_at(fresh_standalone.address) as store:
            await replied(store, put(b"k", b"1"), in_time())
            assert await replied(store, incr(b"done", ONCE), in_time()) == 1
            await cli(fresh_standalone, "CONFIG", "SET", "maxmemory", "1")
            assert await replied(store, incr(b"done", ONCE), in_time()) == 1
            for write in (put(b"k", b"2"), hset(b"h", b"a", b"1"), put(b"k", b"2", 60, ONCE)):
                with pytest.raises(Declined, match="out of memory"):
                    await replied(store, write, in_time())
            assert await replied(store, get(b"k"), in_time()) == b"1"
            await cli(fresh_standalone, "CONFIG", "SET", "maxmemory", "0")
            assert await replied(store, put(b"k", b"2", 60, ONCE), in_time()) == b"OK"

    async def test_too_few_replicas(self) -> None:
        """So does a primary that has too few replicas."""
        with standalone(config=["min-replicas-to-write 1"]) as server:
            async with store_at(server.address) as store:
                for write in (put(b"k", b"2"), hset(b"h", b"a", b"1"), put(b"k", b"2", 60, ONCE)):
                    with pytest.raises(Declined, match="too few replicas"):
                        await replied(store, write, in_time())
                assert await replied(store, get(b"k"), in_time()) is None

    async def test_busy_with_a_script(self, fresh_standalone: RedisProcess) -> None:
        """A server in the hands of somebody's endless script is not to be had, and says so."""
        await cli(fresh_standalone, "CONFIG", "SET", "busy-reply-threshold", "10")
        async with store_at(fresh_standalone.address) as store:
            endless = asyncio.create_task(
                asyncio.to_thread(fresh_standalone.cli, "EVAL", "while true do end", 0)
            )

            async with calling(store, lambda: get(b"k")) as caller:
                await soon(lambda: caller.failed > 2)
            assert {failure.message for failure in caller.failures} == {
                "Redis is busy with a script."
            }
            await cli(fresh_standalone, "SCRIPT", "KILL")
            await asyncio.wait([endless])
            assert endless.exception() is not None
            assert await replied(store, get(b"k"), in_time()) is None

    async def test_user_without_rights(self) -> None:
        """What the user may not do is told as that, in words that say whose rights are meant."""
        config = ["user flowcache on >s3cret ~* +getrange +hello +role"]
        with standalone(config=config) as server:
            server.cli("SET", "k", "1")
            async with store_at(
                server.address, username="flowcache", password=Secret("s3cret")
            ) as store:
                assert await replied(store, get(b"k"), in_time()) == b"1"
                for write in (put(b"k", b"1"), hset(b"k", b"a", b"1"), delete(b"k")):
                    with pytest.raises(Forbidden, match="flowcache's user"):
                        await replied(store, write, in_time())

    async def test_user_without_right_to_role(self) -> None:
        """A user that may not even ask for the role can use the server it was given."""
        config = ["user flowcache on >s3cret ~* +@all -role"]
        with standalone(config=config) as server:
            async with store_at(
                server.address, username="flowcache", password=Secret("s3cret")
            ) as store:
                assert await replied(store, put(b"k", b"1"), in_time()) == b"OK"


class TestDemotion:
    async def test_primary_that_became_a_replica(self) -> None:
        """When the configured server is made a replica, writes follow to its new primary."""
        with replicated() as pair:
            async with store_at(pair.primary.address) as store:
                assert await replied(store, incr(b"k"), in_time()) == 1
                await asyncio.to_thread(pair.wait_linked)
                await cli(pair.replica, "REPLICAOF", "NO", "ONE")
                await cli(pair.primary, "REPLICAOF", "127.0.0.1", pair.replica.port)
                assert await replied(store, incr(b"k"), in_time()) == 2
                assert store.shard(get(b"k")).name == f"127.0.0.1:{pair.replica.port}"
                assert await cli(pair.replica, "GET", "k") == "2"
                write = hset(b"h", b"a", b"1", once=ONCE)
                assert await replied(store, write, in_time()) == 1

    async def test_configured_server_is_a_replica(self) -> None:
        """Given a replica, the store finds its primary."""
        with replicated() as pair:
            async with store_at(pair.replica.address) as store:
                assert await replied(store, incr(b"k"), in_time()) == 1
                assert store.shard(get(b"k")).name == f"127.0.0.1:{pair.primary.port}"

    async def test_reads_from_the_replica(self) -> None:
        """Outside a cluster too, reads are spread on request, and come back when it is gone."""
        with replicated() as pair:
            async with store_at(pair.primary.address, read_from=ReadFrom.REPLICA) as store:
                await replied(store, put(b"k", b"1"), in_time())
                await asyncio.to_thread(pair.wait_linked)
                await soon(lambda: store.status().shards[0].replicas[0].state == "ready")
                await cli(pair.primary, "CONFIG", "RESETSTAT")
                for _ in range(5):
                    assert await replied(store, get(b"k"), in_time()) == b"1"
                assert "cmdstat_getrange" not in pair.primary.cli("INFO", "commandstats")
                pair.replica.kill()
                await soon(lambda: store.status().shards[0].replicas[0].state != "ready")
                assert await replied(store, get(b"k"), in_time()) == b"1"
