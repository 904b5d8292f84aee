"""Reads are bounded, and so is what a key becomes: on each kind of server, at each limit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from flowcache.errors import DeadlineExceeded, Failure, RedisUnavailable, TooLarge, WrongType
from flowcache.ports import MANY_FIELDS, UNCOUNTED, Access, Command, Once, SizeLimits
from flowcache.secret import Secret
from flowcache.store.commands import SMALL, pack
from flowcache.store.redis_store import RedisStore
from flowcache.store.settings import ReadFrom
from tests.commands import command as made_command
from tests.servers import (
    FLOWCACHE_ACL,
    SERVERS,
    Cluster,
    RedisProcess,
    standalone,
)
from tests.store.harness import get, guarded, in_time, put, replied, soon, store_at
from tests.store.resp import bulk, integer
from tests.store.scripted import Peer, Request, Scripted

ONCE = Once(b"token", b"fingerprint", 60_000)
LIMIT = SizeLimits().reply


@pytest.fixture(params=SERVERS.values(), ids=list(SERVERS), scope="module")
def binary_server(request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    with standalone(request.param()) as server:
        yield server


@pytest.fixture
def server(binary_server: RedisProcess) -> RedisProcess:
    """A server of each make, empty, with the user that operators are told to make."""
    binary_server.cli("FLUSHALL")
    binary_server.cli("SCRIPT", "FLUSH")
    binary_server.cli("ACL", "SETUSER", "flow", "reset", "on", ">pw", *FLOWCACHE_ACL.split())
    return binary_server


def as_flow(**changes: Any) -> dict[str, Any]:
    return {"username": "flow", "password": Secret("pw"), **changes}


def fields(key: bytes, sizes: SizeLimits | None = None) -> Command:
    return made_command(b"HGETALL", key, sizes=sizes or SizeLimits())


def hset(
    key: bytes, *pairs: bytes, sizes: SizeLimits | None = None, once: Once | None = None
) -> Command:
    return made_command(
        b"HSET", key, *pairs, ttl=60, writes=True, once=once, sizes=sizes or SizeLimits()
    )


def incr(
    key: bytes, step: int, once: Once | None = None, sizes: SizeLimits | None = None
) -> Command:
    return made_command(
        b"INCRBY", key, b"%d" % step, ttl=60, writes=True, once=once, sizes=sizes or SizeLimits()
    )


def plant(server: RedisProcess, *words: bytes | str | int) -> None:
    """Run a command as another program would."""
    with server.client() as client:
        client.execute_command(*words)


def planted(server: RedisProcess, key: str) -> bytes:
    with server.client() as client:
        value: bytes = client.get(key)
        return value


def planted_field(server: RedisProcess, key: str, name: bytes) -> bytes | None:
    with server.client() as client:
        value: bytes | None = client.hget(key, name)
        return value


def commands_run(server: RedisProcess) -> set[str]:
    """Return which commands Redis executed since its statistics were reset."""
    with server.client() as client:
        return {name.removeprefix("cmdstat_") for name in client.info("commandstats")}


def calls_of(server: RedisProcess, *names: str) -> int:
    """Return how often Redis executed these commands since its statistics were reset."""
    with server.client() as client:
        stats = client.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in names)


def connections(server: RedisProcess) -> int:
    """Return how many connections flowcache has."""
    return str(server.cli("CLIENT", "LIST")).count("user=flow ")


async def too_large(store: RedisStore, command: Command) -> str:
    with pytest.raises(TooLarge) as caught:
        await replied(store, command, in_time())
    return caught.value.message


class TestReads:
    @pytest.mark.parametrize(
        "size", [1, SMALL - 1, SMALL, SMALL + 1, SMALL + 2, 3 * SMALL, LIMIT - 1, LIMIT]
    )
    async def test_a_value_up_to_the_limit_is_read_whole(
        self, server: RedisProcess, size: int
    ) -> None:
        """Whichever way it comes, it is the value byte for byte; of a hash as well."""
        value = (b"\x00\r\nabc\xff" * (size // 7 + 1))[:size]
        plant(server, "SET", "string", value)
        plant(server, "HSET", "hash", b"f", value[:-1])
        async with store_at(server.address, **as_flow()) as store:
            assert await replied(store, get(b"string"), in_time()) == value
            assert await replied(store, fields(b"hash"), in_time()) == {b"f": value[:-1]}

    async def test_one_byte_more_is_too_large(self, server: RedisProcess) -> None:
        """A string, and a hash by its values, its names or its number of fields, are refused."""
        plant(server, "SET", "string", b"x" * (LIMIT + 1))
        plant(server, "HSET", "value", "f", b"x" * LIMIT)
        plant(server, "HSET", "name", b"x" * LIMIT, "f")
        many = [b"%d" % number for number in range(LIMIT // 6 + 1) for _ in range(2)]
        plant(server, "HSET", "many", *many)
        async with store_at(server.address, **as_flow()) as store:
            assert "too large" in await too_large(store, get(b"string"))
            for key in (b"value", b"name", b"many"):
                await too_large(store, fields(key))

    @pytest.mark.parametrize("count", [50, 127, 129, 600, 3000])
    async def test_a_hash_is_measured_to_the_byte(self, server: RedisProcess, count: int) -> None:
        """However Redis keeps it: few fields or many, numbers that it keeps in fewer bytes."""
        # What does not count of many fields is more than small ones have.
        longer, uncounted = (40, UNCOUNTED * count) if count > MANY_FIELDS else (1, 0)
        for value in (b"1234567890123456789", b"-10000", b"text" * 5):
            value *= longer
            pairs = [word for number in range(count) for word in (b"%d" % number, value)]
            plant(server, "DEL", "h")
            plant(server, "HSET", "h", *pairs)
            size = sum(map(len, pairs)) - uncounted
            async with store_at(server.address, **as_flow()) as store:
                read = await replied(store, fields(b"h", SizeLimits(reply=size)), in_time())
                assert read == dict(zip(pairs[::2], pairs[1::2], strict=True))
                await too_large(store, fields(b"h", SizeLimits(reply=size - 1)))

    async def test_many_fields_cost_the_shared_connection_nothing(
        self, server: RedisProcess
    ) -> None:
        """Not even a look at their size: they are measured and read on the other one."""
        pairs = [b"%d" % number for number in range(2 * 513)]
        plant(server, "HSET", "h", *pairs)
        packed = pack(fields(b"h"))
        assert packed.script is not None
        plant(server, "CONFIG", "RESETSTAT")
        plant(server, "EVAL", *packed.script)
        assert commands_run(server) & {"hlen", "memory|usage", "hgetall"} == {"hlen"}
        async with store_at(server.address, **as_flow()) as store:
            read = await replied(store, fields(b"h"), in_time())
        assert read == dict(zip(pairs[::2], pairs[1::2], strict=True))

    async def test_what_has_too_many_elements_does_not_travel(self, server: RedisProcess) -> None:
        """A hash with more fields than an answer may have is refused where it is."""
        for count in (10, 600):
            plant(server, "DEL", "h")
            plant(server, "HSET", "h", *range(2 * count))
            plant(server, "CONFIG", "RESETSTAT")
            async with store_at(server.address, **as_flow()) as store:
                await too_large(store, fields(b"h", SizeLimits(held=count - 1)))
                assert "hgetall" not in commands_run(server)
                assert len(await replied(store, fields(b"h", SizeLimits(held=count)), in_time()))

    async def test_a_smaller_limit_holds(self, server: RedisProcess) -> None:
        """One below what a shared connection takes is kept to the byte, too."""
        plant(server, "SET", "s", b"x" * 1000)
        async with store_at(server.address, **as_flow()) as store:
            for most, fits in ((1000, True), (999, False)):
                command = made_command(b"GET", b"s", sizes=SizeLimits(reply=most))
                if fits:
                    assert await replied(store, command, in_time()) == b"x" * 1000
                else:
                    await too_large(store, command)

    async def test_an_empty_text_takes_two_commands(self, server: RedisProcess) -> None:
        """So does a miss: the second tells one from the other, and has the value."""
        plant(server, "SET", "empty", "")
        async with store_at(server.address, **as_flow()) as store:
            await replied(store, get(b"absent"), in_time())  # Redis gets the script
            for key, value in ((b"empty", b""), (b"absent", None)):
                plant(server, "CONFIG", "RESETSTAT")
                assert await replied(store, get(key), in_time()) == value
                assert calls_of(server, "getrange", "evalsha", "eval") == 2

    async def test_nothing_is_no_empty_text(self, server: RedisProcess) -> None:
        """A missing key is a miss; an empty string that another program stored is a value."""
        plant(server, "SET", "empty", "")
        plant(server, "RPUSH", "list", "1")
        async with store_at(server.address, **as_flow()) as store:
            assert await replied(store, get(b"empty"), in_time()) == b""
            assert await replied(store, get(b"absent"), in_time()) is None
            assert await replied(store, fields(b"absent"), in_time()) == {}
            for command in (get(b"list"), fields(b"list")):
                with pytest.raises(WrongType):
                    await replied(store, command, in_time())

    async def test_a_large_read_has_a_connection_of_its_own(self, server: RedisProcess) -> None:
        """It is opened when the first is wanted; values that are small need none."""
        plant(server, "SET", "large", b"x" * (SMALL + 1))
        plant(server, "SET", "small", b"x" * SMALL)
        async with store_at(server.address, **as_flow()) as store:
            before = connections(server)
            await replied(store, get(b"small"), in_time())
            assert connections(server) == before
            for _ in range(3):
                await replied(store, get(b"large"), in_time())
            assert connections(server) == before + 1

    async def test_an_idle_connection_is_closed(self, server: RedisProcess) -> None:
        """And opened again when a large value is read the next time."""
        plant(server, "SET", "large", b"x" * (SMALL + 1))
        ahead = 0.0
        async with store_at(server.address, **as_flow()) as store:
            store._routes._clock = lambda: monotonic() + ahead
            before = connections(server)
            await replied(store, get(b"large"), in_time())
            ahead = 60.0
            await soon(lambda: not store._routes._bulks)
            ahead = 0.0
            await soon(lambda: not store._routes._draining)
            await soon(lambda: connections(server) == before)
            assert len(await replied(store, get(b"large"), in_time())) == SMALL + 1


class TestLargeReadsOfACluster:
    @pytest.mark.parametrize("read_from", ReadFrom)
    async def test_each_server_has_its_own(
        self, breakable_cluster: Cluster, read_from: ReadFrom
    ) -> None:
        """Large values and hashes are read from primaries and, if so configured, from replicas."""
        value, pairs = b"x" * (3 * SMALL), [b"%d" % number for number in range(20_000)]
        async with store_at(*breakable_cluster.addresses, read_from=read_from) as store:
            for number in range(6):
                string, table = b"s%d" % number, b"h%d" % number
                await replied(store, put(string, value), in_time())
                await replied(store, hset(table, *pairs), in_time())
                await soon_equal(store, get(string), value)
                await soon_equal(
                    store, fields(table), dict(zip(pairs[::2], pairs[1::2], strict=True))
                )
            bulks = store._routes._bulks
            assert {readonly for _, readonly in bulks} == {read_from is ReadFrom.REPLICA}
            assert len(bulks) == 3


async def soon_equal(store: RedisStore, command: Command, expected: object) -> None:
    """Read until a replica has what was written."""
    end = monotonic() + 20
    while (found := await replied(store, command, in_time())) != expected:
        assert monotonic() < end, found
        await asyncio.sleep(0.01)


def no_large(peer: Peer, request: Request) -> None:
    """Answer the first part of a value, and what is small; never a whole value."""
    if request[0] == b"GETRANGE":
        peer.say(bulk("x" * (SMALL + 1 if request[1] == b"large" else 1)))
    elif request[0] == b"EVALSHA":
        if request[3] == b"hangs":
            return
        peer.hang_up()
    else:
        peer.say(integer(1))


class TestFailuresOfLargeReads:
    async def test_they_concern_their_caller_alone(self) -> None:
        """A server that answers all but large reads opens no circuit, and loses no other's call."""
        async with Scripted(no_large) as server, store_at(server.address) as store:
            guard = guarded(store)
            shard = store.shard(get(b"small"))
            for _ in range(10):
                with pytest.raises(Failure):
                    await replied(guard, get(b"large"), in_time(5.0))
                assert await replied(guard, get(b"small"), in_time()) == b"x"
            circuits = {each.access: each for each in guard.circuits()}
            assert circuits[Access.READ].state == "closed"
            assert circuits[Access.READ].failures == 0
            assert shard.primary.status().connects == 1

    async def test_a_late_one_is_told_at_its_deadline(self) -> None:
        """However long the server takes for the whole value."""

        def script(peer: Peer, request: Request) -> None:
            if request[0] == b"GETRANGE":
                peer.say(bulk("x" * (SMALL + 1)))

        async with Scripted(script) as server, store_at(server.address) as store:
            guard = guarded(store)
            for _ in range(7):
                with pytest.raises(Failure, match="large value"):
                    await replied(guard, get(b"large"), in_time(0.05))
            assert {each.failures for each in guard.circuits()} == {0}

    async def test_no_more_than_four_replies_are_under_way(self) -> None:
        """A caller who gave up frees no place: the server may still be sending to it."""

        def script(peer: Peer, request: Request) -> None:
            if request[0] == b"GETRANGE":
                peer.say(bulk("x" * (SMALL + 1)))

        async with Scripted(script) as server, store_at(server.address) as store:
            for _ in range(2):
                reads = [replied(store, get(b"large"), in_time(0.1)) for _ in range(6)]
                for failure in await asyncio.gather(*reads, return_exceptions=True):
                    assert isinstance(failure, DeadlineExceeded)
            whole = [words for words in server.requests if words[0] == b"EVALSHA"]
            assert len(whole) == 4
            peer = server.talking
            peer.say(*[bulk("x" * (SMALL + 1))] * 4)  # late, and their places are free again
            read = asyncio.ensure_future(replied(store, get(b"large"), in_time()))
            await soon(lambda: len(peer.requests) == 5)
            peer.say(bulk("late"))
            assert await read == b"late"

    async def test_what_is_late_already_is_not_sent(self) -> None:
        """A read whose deadline passed before its turn costs the server nothing."""
        async with Scripted(no_large) as server, store_at(server.address) as store:
            large = store._routes.bulk(store.shard(get(b"k")).primary)
            await large.link.ready()
            with pytest.raises(DeadlineExceeded):
                await large.read(get(b"large"), in_time(-1.0), None)
            assert not server.requests

    async def test_an_error_that_nobody_foresaw_is_an_answer(self) -> None:
        """ERR about one client's key opens no circuit for all others."""

        def script(peer: Peer, request: Request) -> None:
            peer.say(b"-ERR of a kind that nobody foresaw\r\n")

        async with Scripted(script) as server, store_at(server.address) as store:
            guard = guarded(store)
            for _ in range(10):
                with pytest.raises(RedisUnavailable, match="refused the command"):
                    await replied(guard, get(b"k"), in_time())
            assert {each.failures for each in guard.circuits()} == {0}


class TestGrowth:
    @pytest.mark.parametrize("once", [None, ONCE], ids=["plain", "once"])
    @pytest.mark.parametrize("count", [1, 100, 500])
    async def test_a_hash_grows_up_to_its_bytes(
        self, server: RedisProcess, once: Once | None, count: int
    ) -> None:
        """What the key becomes counts, to the byte, and a write that is refused changes nothing."""
        pairs = [word for number in range(count) for word in (b"%d" % number, b"1234567890")]
        held = sum(map(len, pairs))
        exact = SizeLimits(value=held + 5)
        async with store_at(server.address, **as_flow()) as store:
            await replied(store, hset(b"h", *pairs), in_time())
            plant(server, "EXPIRE", "h", 1000)
            before = await replied(store, fields(b"h"), in_time())
            for more in ((b"new", b"123"), (b"0", b"1234567890123456"), (b"a", b"12", b"b", b"34")):
                message = await too_large(store, hset(b"h", *more, sizes=exact, once=once))
                assert str(held + 5) in message
            assert await replied(store, fields(b"h"), in_time()) == before
            assert server.cli("TTL", "h") > 900
            # To the byte: one more field, then a longer value in place of a shorter one.
            assert await replied(
                store, hset(b"h", b"new", b"12", sizes=exact, once=once), in_time()
            )
            await too_large(store, hset(b"h", b"0", b"12345678901", sizes=exact))
            assert await replied(store, hset(b"h", b"0", b"1", sizes=exact), in_time()) == 0
            assert await replied(store, hset(b"h", b"x", b"12345678", sizes=exact), in_time()) == 1
            await too_large(store, hset(b"h", b"y", b"", sizes=exact))

    @pytest.mark.parametrize("once", [None, ONCE], ids=["plain", "once"])
    async def test_a_hash_of_many_fields_is_not_copied(
        self, server: RedisProcess, once: Once | None
    ) -> None:
        """Its size is what Redis says it takes, less 64 bytes a field; what is replaced goes."""
        pairs = [word for number in range(2000) for word in (b"%d" % number, b"x" * 90)]
        plant(server, "HSET", "h", *pairs)
        plant(server, "CONFIG", "RESETSTAT")
        held = server.cli("MEMORY", "USAGE", "h", "SAMPLES", "0") - 64 * 2000
        async with store_at(server.address, **as_flow()) as store:
            new, old = (b"new", b"12345"), (b"7", b"y" * 91)
            for pair, room in ((new, 8), (old, 1)):
                sizes = SizeLimits(value=held + room - 1)
                await too_large(store, hset(b"h", *pair, sizes=sizes, once=once))
                await too_large(store, hset(b"h", *new, sizes=SizeLimits(fields=2000)))
                assert planted_field(server, "h", pair[0]) != pair[1]
            sizes = SizeLimits(value=held + 1, fields=2000)
            assert await replied(store, hset(b"h", *old, sizes=sizes, once=once), in_time()) == 0
            assert await replied(store, hset(b"h", *new, sizes=SizeLimits()), in_time()) == 1
        assert "hgetall" not in commands_run(server)

    async def test_no_legal_hash_is_refused_for_its_many_fields(self, server: RedisProcess) -> None:
        """As many small fields as the limits allow fit, one call after another."""
        async with store_at(server.address, **as_flow()) as store:
            for first in range(0, 10_000, 1000):
                pairs = [
                    word
                    for number in range(first, first + 1000)
                    for word in (b"f%d" % number, b"x" * 15)
                ]
                await replied(store, hset(b"h", *pairs), in_time())
            assert await replied(store, hset(b"h", b"f7", b"y" * 15), in_time()) == 0
            assert len(await replied(store, fields(b"h"), in_time())) == 10_000
            await too_large(store, hset(b"h", b"new", b""))

    async def test_a_peak_of_long_ago_does_not_count(self, server: RedisProcess) -> None:
        """Redis may keep the table of a hash that had many fields: the few that it has count."""
        many = [b"%d" % number for number in range(140_000)]
        with server.client() as client:
            for first in range(0, len(many), 20_000):
                client.execute_command("HSET", "h", *many[first : first + 20_000])
            gone = many[20::2]
            for first in range(0, len(gone), 10_000):
                client.execute_command("HDEL", "h", *gone[first : first + 10_000])
        async with store_at(server.address, **as_flow()) as store:
            read = await replied(store, fields(b"h"), in_time())
            assert read == dict(zip(many[:20:2], many[1:20:2], strict=True))
            assert await replied(store, hset(b"h", b"new", b"1"), in_time()) == 1
            await too_large(store, hset(b"h", b"n", b"1" * 99, sizes=SizeLimits(value=100)))

    async def test_a_hash_grows_up_to_its_fields(self, server: RedisProcess) -> None:
        """Fields that are there already do not count again."""
        sizes = SizeLimits(fields=10)
        ten = [word for number in range(10) for word in (b"%d" % number, b"v")]
        async with store_at(server.address, **as_flow()) as store:
            assert await replied(store, hset(b"h", *ten[:16], sizes=sizes), in_time()) == 8
            assert await replied(store, hset(b"h", *ten, sizes=sizes), in_time()) == 2
            assert await replied(store, hset(b"h", *ten, sizes=sizes), in_time()) == 0
            message = await too_large(store, hset(b"h", b"0", b"v", b"x", b"v", sizes=sizes))
            assert "10 fields" in message
            await too_large(store, hset(b"new", *ten, b"x", b"v", sizes=sizes))
            assert server.cli("EXISTS", "new") == 0
            assert server.cli("HLEN", "h") == 10

    async def test_what_another_program_wrote_counts(self, server: RedisProcess) -> None:
        """In between, as well: a hash that is too large already takes no more."""
        sizes = SizeLimits(value=1000, fields=100)
        async with store_at(server.address, **as_flow()) as store:
            await replied(store, hset(b"h", b"a", b"1", sizes=sizes), in_time())
            plant(server, "HSET", "h", "theirs", b"x" * 990)
            await too_large(store, hset(b"h", b"b", b"1234", sizes=sizes))
            plant(server, "HSET", "h", "theirs", b"x" * 5_000_000)
            await too_large(store, hset(b"h", b"a", b"2", sizes=sizes))
            plant(server, "HSET", "h", "theirs", "")
            assert await replied(store, hset(b"h", b"b", b"1", sizes=sizes), in_time()) == 1

    async def test_a_refusal_leaves_no_record(self, server: RedisProcess) -> None:
        """The same write with the same token is done once there is room."""
        sizes = SizeLimits(value=10)
        write = hset(b"h", b"f", b"12345", sizes=sizes, once=ONCE)
        async with store_at(server.address, **as_flow()) as store:
            await replied(store, hset(b"h", b"g", b"12345"), in_time())
            await too_large(store, write)
            plant(server, "DEL", "h")
            assert await replied(store, write, in_time()) == 1
            assert await replied(store, write, in_time()) == 1

    async def test_a_counter_has_its_limit_too(self, server: RedisProcess) -> None:
        """Of its digits and its sign."""
        sizes = SizeLimits(value=2)
        async with store_at(server.address, **as_flow()) as store:
            assert await replied(store, incr(b"n", 99, sizes=sizes), in_time()) == 99
            await too_large(store, incr(b"n", 1, sizes=sizes))
            assert await replied(store, incr(b"n", -108, sizes=sizes), in_time()) == -9
            await too_large(store, incr(b"n", -1, sizes=sizes))
            assert planted(server, "n") == b"-9"


class TestCounters:
    async def test_a_long_text_is_not_copied_to_see_that_it_is_no_number(
        self, server: RedisProcess
    ) -> None:
        """Another program's digits, however many, cost no more than a look at their length."""
        plant(server, "SET", "n", b"1" * 5_000_000)
        plant(server, "CONFIG", "RESETSTAT")
        async with store_at(server.address, **as_flow()) as store:
            with pytest.raises(WrongType):
                await replied(store, incr(b"n", 1), in_time())
        assert "get" not in commands_run(server)

    @pytest.mark.parametrize(
        "held", ["inf", "-inf", "nan", "1e400", "1e3", "0x10", " 1", "1 ", "+1", "007", "1.0", ""]
    )
    async def test_what_is_no_whole_number_is_of_a_wrong_type(
        self, server: RedisProcess, held: str
    ) -> None:
        """Although Lua would take most of these for numbers."""
        plant(server, "SET", "n", held)
        async with store_at(server.address, **as_flow()) as store:
            with pytest.raises(WrongType):
                await replied(store, incr(b"n", 1), in_time())
        assert planted(server, "n") == held.encode()

    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("held", [2**53, 2**53 + 1, 2**53 + 2, 2**63 - 1])
    @pytest.mark.parametrize("step", [-5, 0, 1])
    async def test_nothing_is_counted_beyond_what_is_exact(
        self, server: RedisProcess, held: int, sign: int, step: int
    ) -> None:
        """Nor back from there: what is held may not be told exactly."""
        plant(server, "SET", "n", held * sign)
        async with store_at(server.address, **as_flow()) as store:
            with pytest.raises(Failure) as caught:
                await replied(store, incr(b"n", step), in_time())
        assert caught.value.code == "invalid_request"
        assert planted(server, "n") == b"%d" % (held * sign)
