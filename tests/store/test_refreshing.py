"""How the map is kept true: how soon it is asked for again, and what a refresh leaves as it was."""

from __future__ import annotations

from collections import Counter

import pytest
from structlog.testing import capture_logs

from flowcache.store import routes
from flowcache.store.settings import ReadFrom
from tests.store.harness import get, in_time, replied, soon, store_at
from tests.store.resp import bulk, error, integer, serving
from tests.store.scripted import Peer, Request, Scripted
from tests.store.test_store_scripted import READ, WRITE, always

NEVER = 600.0


async def test_a_refresh_that_failed_is_followed_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As soon as in a failover, and no sooner: whatever else makes it ask, it is asked then."""
    monkeypatch.setattr(routes, "_REFRESH_PAUSE", NEVER)
    monkeypatch.setattr(routes, "_FAILOVER_INTERVAL", 0.001)
    async with Scripted(always(bulk("1")), mode="cluster") as server:
        well, server.handshake[b"CLUSTER"] = server.handshake[b"CLUSTER"], error("ERR not now")
        async with store_at(server.address, refresh_interval=NEVER, connect_timeout=0.5) as store:
            await soon(lambda: server.handshaken.count(b"CLUSTER") > 3)
            server.handshake[b"CLUSTER"] = well
            await soon(lambda: store.status().status == "ready")
            assert await replied(store, READ, in_time()) == b"1"


async def test_refreshes_that_succeed_follow_each_other_at_a_pace_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A storm of redirections is not held up by what a failed refresh would have to wait."""
    monkeypatch.setattr(routes, "_REFRESH_PAUSE", 0.001)
    monkeypatch.setattr(routes, "_FAILOVER_INTERVAL", NEVER)
    async with (
        Scripted(mode="cluster") as server,
        store_at(server.address, refresh_interval=0.001),
    ):
        await soon(lambda: server.handshaken.count(b"CLUSTER") > 5)


async def test_replicas_take_turns_across_refreshes() -> None:
    """A map that is read again and again does not send every read to the first of them."""
    async with (
        Scripted(always(bulk("1")), mode="cluster") as one,
        Scripted(always(bulk("1")), mode="cluster") as two,
        Scripted(mode="cluster") as primary,
    ):
        primary.handshake[b"CLUSTER"] = serving(primary.address, one.address, two.address)
        async with store_at(
            primary.address, read_from=ReadFrom.REPLICA, refresh_interval=0.001
        ) as store:
            replicas = store.status().shards[0].replicas
            await soon(
                lambda: [r.state for r in store.status().shards[0].replicas] == ["ready"] * 2
            )
            asked: Counter[str] = Counter()
            for _ in range(6):
                route = store.shard(get(b"k"))
                asked[str(route.reader().address)] += 1
                await soon(lambda route=route: store.shard(get(b"k")) is not route)  # type: ignore[misc]
            assert set(asked) == {replica.address for replica in replicas}
            assert set(asked.values()) == {3}


@pytest.mark.parametrize("code", ["READONLY", "CLUSTERDOWN"])
async def test_a_refusal_is_answered_by_a_new_map_and_not_by_asking_again(code: str) -> None:
    """Who says that it no longer leads a shard is not asked again before the map is read."""
    async with (
        Scripted(always(integer(2)), mode="cluster") as new,
        Scripted(mode="cluster") as old,
        store_at(old.address, refresh_interval=NEVER) as store,
    ):

        def script(peer: Peer, request: Request) -> None:
            old.handshake[b"CLUSTER"] = serving(new.address)
            peer.say(error(f"{code} says the server"))

        old.script = script
        assert await replied(store, WRITE, in_time()) == 2
        assert len(old.requests) == 1


async def test_the_same_fault_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the map is asked for in an outage; another fault is told as well."""
    monkeypatch.setattr(routes, "_FAILOVER_INTERVAL", 0.001)

    def told() -> list[str]:
        return [each["fault"] for each in logged if each["event"] == "redis topology unknown"]

    async with Scripted(mode="cluster") as server:
        server.handshake[b"CLUSTER"] = error("ERR not now")
        with capture_logs() as logged:
            async with store_at(server.address, connect_timeout=0.5):
                await soon(lambda: server.handshaken.count(b"CLUSTER") > 4)
                assert len(told()) == 1
                server.handshake[b"CLUSTER"] = error("LOADING another reason")
                await soon(lambda: len(told()) == 2)
                assert len(set(told())) == 2
