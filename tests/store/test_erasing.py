"""Erasing on real servers, whole, moving and broken: what is said to be gone is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any, NamedTuple

import msgspec
import pytest

from flowcache.authz.keys import KeyPattern, namespace_prefix, read_pattern
from flowcache.errors import Conflict, Forbidden, RedisUnavailable, Unconfirmed
from flowcache.secret import Secret
from flowcache.store import erasing
from flowcache.store.erasing import Erasure
from flowcache.store.settings import Address, StoreSettings
from flowcache.store.slots import key_slot, once_key, tag_of_slot
from tests.servers import Cluster, RedisProcess, SentinelGroup, standalone
from tests.store.harness import soon

MINE = "customer:4711:*"
KEYS = [f"customer:4711:{number}" for number in range(1500)]
OTHERS = ["customer:4711", "customer:47110:x", "customers:4711:x", "xcustomer:4711:x", "customer:"]


def erasure(
    *nodes: tuple[str, int],
    pattern: str | KeyPattern = MINE,
    prefix: bytes = b"",
    rest: Callable[[float], Awaitable[object]] = asyncio.sleep,
    watch: Callable[[], object] = lambda: None,
    **changes: Any,
) -> Erasure:
    """Return an erasure at ``nodes`` that nothing has been done about yet."""
    pattern = read_pattern(pattern) if isinstance(pattern, str) else pattern
    settings = msgspec.structs.replace(
        StoreSettings(nodes=tuple(Address(*node) for node in nodes)), **changes
    )
    return Erasure(settings, prefix, pattern, monotonic, watch, rest)


def fill(servers: Cluster | RedisProcess, keys: Iterable[str | bytes]) -> None:
    """Write ``keys`` where they belong."""
    home: RedisProcess
    homes: dict[RedisProcess, list[str | bytes]] = {}
    if isinstance(servers, RedisProcess):
        homes[servers] = list(keys)
    else:
        owners = {node: node.view()[node.node_id].slots for node in servers.primaries()}
        for key in keys:
            slot = key_slot(key.encode() if isinstance(key, str) else key)
            home = next(n for n, slots in owners.items() if any(slot in owned for owned in slots))
            homes.setdefault(home, []).append(key)
    for home, names in homes.items():
        with home.client() as client, client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.set(name, "value", ex=600)
            pipeline.execute()


def held(*servers: RedisProcess) -> set[str]:
    """Return the names of all keys that ``servers`` hold."""
    found: set[str] = set()
    for server in servers:
        with server.client() as client:
            found |= {key.decode() for key in client.scan_iter(count=1000)}
    return found


@pytest.fixture
def server(fresh_standalone: RedisProcess) -> RedisProcess:
    return fresh_standalone


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an erasure take so many steps that something can happen between them."""
    monkeypatch.setattr(erasing, "_LOOK", 20)


class Midway(NamedTuple):
    """An erasure that has removed some keys, and rests until it may go on."""

    it: Erasure
    task: asyncio.Task[None]
    go_on: Callable[[], None]


@asynccontextmanager
async def midway(*nodes: tuple[str, int], **changes: Any) -> AsyncIterator[Midway]:
    """Begin an erasure and hold it between two steps; it is over in the end."""
    reached, may_go_on = asyncio.Event(), asyncio.Event()

    async def rest(_: float) -> None:
        if it.removed > 100:
            reached.set()
            await may_go_on.wait()

    it = erasure(*nodes, rest=rest, **changes)
    task = asyncio.create_task(it.erase())
    try:
        await soon(lambda: reached.is_set() or task.done(), what="some to be removed")
        assert not task.done()
        yield Midway(it, task, may_go_on.set)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# -- which keys ------------------------------------------------------------------------------------


async def test_a_subjects_keys_go_and_all_others_stay(server: RedisProcess) -> None:
    """All of them, whatever their type; keys that look alike are somebody else's."""
    fill(server, KEYS + OTHERS)
    with server.client() as client:
        client.hset("customer:4711:hash", "field", "value")
        client.rpush("customer:4711:list", "value")
        client.zadd("customer:4711:sorted", {"value": 1})
    it = erasure(server.address)
    shown: set[bytes] = set()
    await it.erase(shown.add)
    assert held(server) == set(OTHERS)
    assert it.removed == len(shown) == len(KEYS) + 3
    assert it.passes == 2, "the second finds that nothing is left"


async def test_a_count_removes_nothing(server: RedisProcess) -> None:
    """A dry run names what an erasure would remove."""
    fill(server, KEYS[:50] + OTHERS)
    shown: set[bytes] = set()
    assert await erasure(server.address).count(shown.add) == (50, True)
    assert shown == {key.encode() for key in KEYS[:50]}
    assert held(server) == {*KEYS[:50], *OTHERS}


@pytest.mark.parametrize(
    "name", ["a*b", "a?b", "a[x]b", "a\\b", "[a-c]", "[^a]", "{a*}", "*", "**"]
)
async def test_what_means_something_to_redis_is_meant_letter_by_letter(
    server: RedisProcess, name: str
) -> None:
    """No sign in a subject reaches further than itself."""
    others = {"axb:1", "a:1", "b:1", "ab:1", "axxb:1", "abc:1", "{axx}:1"}
    fill(server, {*others, name + ":1", name + ":2"})
    it = erasure(server.address, pattern=read_pattern("{subject}:*", name))
    await it.erase()
    assert held(server) == others
    assert it.removed == 2


async def test_bytes_that_are_no_text_are_keys_like_others(server: RedisProcess) -> None:
    """A key is what Redis has, not what can be printed."""
    fill(server, [b"customer:4711:\xff\xfe\n", b"customer:\xff"])
    it = erasure(server.address)
    await it.erase()
    assert it.removed == 1


async def test_one_key_is_found_without_a_search(server: RedisProcess) -> None:
    """A pattern without a star is a name, and that of no other key."""
    fill(server, OTHERS)
    assert await erasure(server.address, pattern="customer:4711").count() == (1, True)
    it = erasure(server.address, pattern="customer:4711")
    await it.erase()
    assert it.removed == 1
    assert "cmdstat_scan" not in server.cli("INFO", "commandstats")
    assert held(server) == set(OTHERS) - {"customer:4711"}


async def test_namespaces_are_apart(server: RedisProcess) -> None:
    """In a namespace its own keys go; without one none of any namespace does."""
    billing, crm = namespace_prefix("billing"), namespace_prefix("billing-2")
    for prefix in (b"", billing, crm):
        fill(server, [prefix + b"customer:4711:a", prefix + b"customer:1:a"])
    await erasure(server.address, prefix=billing).erase()
    left = {key.encode() for key in held(server)}
    assert billing + b"customer:4711:a" not in left
    assert len(left) == 5
    await erasure(server.address).erase()
    assert {key.encode() for key in held(server)} == left - {b"customer:4711:a"}


async def test_everything_is_not_what_is_flowcaches_own(server: RedisProcess) -> None:
    """Records of writes, rates and namespaces stay; of a namespace all goes, and nothing else."""
    own = {"flowcache:rate:acme", once_key(b"k", b"t").decode()}
    named = namespace_prefix("billing").decode()
    fill(server, {*own, *OTHERS, *KEYS, named + "a", named + "b"})
    it = erasure(server.address, pattern="*")
    await it.erase()
    assert held(server) == {*own, named + "a", named + "b"}
    assert it.removed == len(KEYS) + len(OTHERS)
    await erasure(server.address, pattern="*", prefix=named.encode()).erase()
    assert held(server) == own


# -- every topology, whole and broken --------------------------------------------------------------


async def test_all_primaries_are_searched(breakable_cluster: Cluster) -> None:
    """Wherever a subject's keys have been hashed to."""
    fill(breakable_cluster, KEYS + OTHERS)
    seed = breakable_cluster.addresses[0]
    assert await erasure(seed).count() == (len(KEYS), True)
    it = erasure(seed)
    await it.erase()
    assert held(*breakable_cluster.primaries()) == set(OTHERS)
    assert it.removed == len(KEYS)


async def test_it_is_not_over_while_a_slot_moves(breakable_cluster: Cluster) -> None:
    """Keys on both sides of an open slot are removed, and it is looked again until it is closed."""
    source, target, _ = breakable_cluster.primaries()
    slot = max(source.view()[source.node_id].slots, key=len).start
    tag = tag_of_slot(slot).decode()
    keys = [f"{{{tag}}}:{number}" for number in range(200)]
    fill(breakable_cluster, keys)
    breakable_cluster.migrate_slot(slot, source, target, leave_open=True)
    breakable_cluster.move_keys(source, target, *keys[:100])
    async with midway(*breakable_cluster.addresses, pattern=f"{{{tag}}}:*") as (it, task, go_on):
        go_on()
        await soon(lambda: it.passes >= 3 or task.done(), what="a third pass")
        assert it.removed == 200
        assert not task.done(), "a slot is still open"
        await asyncio.to_thread(breakable_cluster.migrate_slot, slot, source, target)
        await task
    assert held(source, target) == set()


async def test_keys_that_move_while_they_are_looked_for_are_not_missed(
    breakable_cluster: Cluster,
) -> None:
    """Slots go to and fro between two primaries all the while; in the end nothing is left."""
    first, second, _ = breakable_cluster.primaries()
    slots = max(first.view()[first.node_id].slots, key=len)[:40]
    keys = [
        f"s:{{{tag_of_slot(slot).decode()}}}:{number}" for slot in slots for number in range(50)
    ]
    fill(breakable_cluster, keys)

    def reshard() -> None:
        for source, target in ((first, second), (second, first)) * 2:
            breakable_cluster.reshard(slots, source, target)

    moving = asyncio.create_task(asyncio.to_thread(reshard))
    it = erasure(*breakable_cluster.addresses, pattern="s:*")
    await asyncio.gather(_until_done(it), moving)
    assert held(*breakable_cluster.primaries()) == set()
    assert it.removed == len(keys)


async def _until_done(it: Erasure) -> None:
    """Erase; ten passes may all fall into one long move, and it then says so."""
    for _ in range(20):
        with suppress(Conflict):
            return await it.erase()
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize("how", ["orderly", "killed"])
async def test_a_failover_of_a_cluster_on_the_way(
    breakable_cluster: Cluster, how: str, small_steps: None
) -> None:
    """The successor is searched from the beginning, and the keys that it has are removed."""
    fill(breakable_cluster, KEYS)
    primary = breakable_cluster.primaries()[0]
    (replica,) = breakable_cluster.replicas_of(primary)

    def break_it() -> None:
        if how == "killed":
            primary.kill()
            breakable_cluster.wait_ok()
        else:
            breakable_cluster.failover(replica)

    async with midway(*breakable_cluster.addresses) as (it, task, go_on):
        await asyncio.to_thread(break_it)
        go_on()
        await task
        assert it.removed >= len(KEYS)
    assert held(*breakable_cluster.primaries()) == set()


async def test_a_failover_of_sentinels_on_the_way(
    breakable_sentinels: SentinelGroup, small_steps: None
) -> None:
    """A primary that is one no longer is not taken for one that has no keys."""
    fill(breakable_sentinels.primary(), KEYS)
    service = breakable_sentinels.service
    async with midway(*breakable_sentinels.addresses, service=service) as (it, task, go_on):
        await asyncio.to_thread(breakable_sentinels.failover)
        go_on()
        await task
        assert it.removed >= len(KEYS)
    await asyncio.to_thread(breakable_sentinels.wait_ok)
    # What the old primary removed and had not replicated is back: Redis's promise, not ours.
    again = erasure(*breakable_sentinels.addresses, service=service)
    await again.erase()
    assert held(breakable_sentinels.primary()) == set()


async def test_a_restart_on_the_way_begins_anew(small_steps: None) -> None:
    """A cursor of the server that was is not used with the one that is."""
    with standalone(persistent=True) as server:
        fill(server, KEYS)
        async with midway(server.address) as (it, task, go_on):
            server.kill()
            await asyncio.to_thread(server.restart)
            go_on()
            await task
        assert held(server) == set()
        assert it.passes >= 3


# -- when it can't be done -------------------------------------------------------------------------


async def test_keys_that_keep_coming(server: RedisProcess) -> None:
    """A flow that writes faster than it is erased: after a bounded number of passes it is said."""
    fill(server, KEYS[:10])
    with server.client() as client:
        it = erasure(server.address, watch=lambda: client.set("customer:4711:again", "x"))
        with pytest.raises(Conflict, match="After 10 passes keys are still being written"):
            await it.erase()
    assert it.passes == 10
    assert it.removed >= 10 + 9


async def test_a_server_that_is_gone(server: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, for a bounded time; then the reason is told."""
    monkeypatch.setattr(erasing, "_PAUSES", (0.01, 0.01))
    server.kill()
    it = erasure(server.address)
    with pytest.raises(RedisUnavailable, match=f"127.0.0.1:{server.port}: no connection"):
        await it.erase()
    assert (it.removed, it.passes) == (0, 0)


@pytest.mark.parametrize(
    ("lacking", "told"), [("scan", "SCAN"), ("unlink", "this key or command"), ("dbsize", "DBSIZE")]
)
async def test_a_user_that_may_not(server: RedisProcess, lacking: str, told: str) -> None:
    """It ends at once and says what Redis forbids."""
    fill(server, KEYS[:10])
    server.cli("ACL", "SETUSER", "eraser", "on", ">secret", "~*", "+@all", f"-{lacking}")
    it = erasure(server.address, username="eraser", password=Secret("secret"))
    with pytest.raises(Forbidden, match=told):
        await it.erase()
    assert it.passes <= 1
    assert len(held(server)) == 10


async def test_one_that_is_broken_off_knows_what_it_did(
    server: RedisProcess, small_steps: None
) -> None:
    """Ctrl-C in the middle: the number of keys removed is that of those missing."""
    fill(server, KEYS)
    async with midway(server.address) as (it, task, _):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert 100 < it.removed < len(KEYS)
    assert len(held(server)) == len(KEYS) - it.removed


async def test_replicas_that_do_not_confirm(server: RedisProcess) -> None:
    """Where it is asked for, an erasure that no replica is known to have is not said to be done."""
    fill(server, KEYS[:3])
    it = erasure(server.address, confirm_replicas=1, reply_timeout=0.5)
    with pytest.raises(Unconfirmed, match="replicas did not confirm it"):
        await it.erase()
    assert held(server) == set()


async def test_servers_have_most_of_their_time_for_their_callers(server: RedisProcess) -> None:
    """After each step a server rests four times as long as it can have worked for that step."""
    fill(server, KEYS)
    rests: list[float] = []

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    it = erasure(server.address, rest=rest)
    await it.erase()
    assert it.removed == len(KEYS)
    stats = server.cli("INFO", "commandstats")
    worked = sum(stats[f"cmdstat_{name}"]["usec"] for name in ("scan", "unlink")) / 1e6
    assert sum(rests) >= 4 * worked
    assert len(rests) >= len(KEYS) / 100, "no step is a large one"
