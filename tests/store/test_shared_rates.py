"""A rate limit that several processes have in common, against a real server."""

from __future__ import annotations

import asyncio
from time import monotonic, time

import pytest

from flowcache.ratelimit.buckets import Rate
from flowcache.ratelimit.shared import SharedBucket
from flowcache.store.redis_store import RedisStore
from tests.servers import Cluster, RedisProcess
from tests.store.harness import soon, store_at

SELDOM = Rate(0.001, 10)
"""Ten at once; the next after a quarter of an hour: the time that a test takes earns nothing."""


async def cli(server: RedisProcess, *args: str | int) -> object:
    return await asyncio.to_thread(server.cli, *args)


@pytest.fixture
def server(standalone_server: RedisProcess) -> RedisProcess:
    """The shared server, empty."""
    standalone_server.cli("FLUSHALL")
    return standalone_server


def bucket(store: RedisStore, rate: Rate = SELDOM) -> SharedBucket:
    return SharedBucket("acme", rate, store, monotonic)


def take(bucket: SharedBucket, times: int = 1) -> int:
    """Take that often and return how many there were."""
    return sum(not bucket.take(monotonic()) for _ in range(times))


async def reported(bucket: SharedBucket) -> None:
    """Wait until nothing is on its way to Redis and the next report may go."""
    await soon(lambda: bucket._report is None and bucket._next < monotonic())


async def owed(server: RedisProcess) -> int:
    """Return how many tokens the fleet has taken, as Redis has it."""
    earned = await cli(server, "GET", "flowcache:rate:acme")
    return round((int(str(earned)) / 1e6 - time()) / 1000) if earned else 0


async def told(server: RedisProcess, tokens: int) -> None:
    """Wait until Redis knows of so many tokens."""
    end = monotonic() + 20
    while await owed(server) != tokens:
        assert monotonic() < end, f"Redis knows of {await owed(server)} tokens, not {tokens}"
        await asyncio.sleep(0.01)


async def test_what_one_takes_the_other_lacks(server: RedisProcess) -> None:
    """Processes learn of each other's calls; the wait that is told counts all of them."""
    async with store_at(server.address) as store:
        here, there = bucket(store), bucket(store)
        assert take(here, 12) == 10
        await told(server, 10)
        # It has not heard of the other yet: its first call is let through, and owed.
        assert take(there) == 1
        await told(server, 11)
        await soon(lambda: there.take(monotonic()), what="the other to hear of it")
        wait = there.take(monotonic())
        assert 1990 < wait < 2000  # what was owed, and one
        await here.close()
        await there.close()


async def test_every_token_is_counted_once(server: RedisProcess) -> None:
    """However calls and reports interleave, Redis knows of each call that was let through."""
    rate = Rate(0.001, 1000)
    async with store_at(server.address) as store:
        fleet = [bucket(store, rate) for _ in range(3)]
        through = 0
        for turn in range(30):
            through += sum(take(each, 1 + turn % 7) for each in fleet)
            await asyncio.sleep(0)
        for each in fleet:
            await reported(each)
            through += take(each)
        await told(server, through)
        for each in fleet:
            await each.close()


async def test_a_busy_client_costs_few_commands(server: RedisProcess) -> None:
    """No call waits for the limiter, and most are not even told of one by one."""
    async with store_at(server.address) as store:
        shared = bucket(store, Rate(0.001, 100_000))
        before = str(await cli(server, "INFO", "commandstats"))
        assert take(shared, 5000) == 5000
        await reported(shared)
        after = str(await cli(server, "INFO", "commandstats"))
        assert "cmdstat_evalsha" in after
        calls = [_calls(text, "eval") + _calls(text, "evalsha") for text in (before, after)]
        assert calls[1] - calls[0] <= 2  # one, and one more where the script was not known yet
        await shared.close()


def _calls(stats: str, command: str) -> int:
    _, found, rest = stats.partition(f"cmdstat_{command}:calls=")
    return int(rest.split(",")[0]) if found else 0


async def test_a_full_bucket_is_forgotten(server: RedisProcess) -> None:
    """A client that has been quiet leaves nothing in Redis."""
    async with store_at(server.address) as store:
        shared = bucket(store, Rate(100.0, 10))
        assert take(shared, 3) == 3
        await reported(shared)
        end = monotonic() + 20
        while await cli(server, "EXISTS", "flowcache:rate:acme"):
            assert monotonic() < end
        await shared.close()


async def test_without_redis_each_goes_by_its_own(fresh_standalone: RedisProcess) -> None:
    """The limit fails neither open nor closed: a process lets through its rate, and no more."""
    async with store_at(fresh_standalone.address) as store:
        here, there = bucket(store), bucket(store)
        fresh_standalone.kill()
        for each in (here, there):
            assert take(each, 6) == 6
            await reported(each)
            assert take(each, 6) == 4
            await each.close()


async def test_scripts_that_redis_forgot_are_sent_again(server: RedisProcess) -> None:
    """A restart of Redis costs nobody a call."""
    async with store_at(server.address) as store:
        shared = bucket(store)
        await cli(server, "SCRIPT", "FLUSH")
        assert take(shared, 4) == 4
        await told(server, 4)
        await shared.close()


async def test_in_a_cluster_a_client_has_one_bucket(cluster_servers: Cluster) -> None:
    """Whichever shard it lies in, all find it there."""
    cluster_servers.flush()
    async with store_at(*cluster_servers.addresses) as store:
        here, there = bucket(store), bucket(store)
        assert take(here, 10) == 10
        await reported(here)
        await told(cluster_servers.node_of_key("flowcache:rate:acme"), 10)
        take(there)
        await soon(lambda: there.take(monotonic()))
        await here.close()
        await there.close()
