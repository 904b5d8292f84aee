"""What the tests of the store share: open a link or a store, wait for something, leave nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from flowcache.executing import Executor
from flowcache.ports import Clock, Command, Once, Reply
from flowcache.resilience.breaker import BreakerSettings
from flowcache.resilience.guard import Guard, GuardSettings
from flowcache.secret import Secret
from flowcache.store.deadlines import Deadlines, Waiter
from flowcache.store.link import Link
from flowcache.store.redis_store import RedisStore
from flowcache.store.routes import OnBack
from flowcache.store.settings import Address, StoreSettings
from tests.commands import command as made_command
from tests.servers import FLOWCACHE_ACL, RedisProcess
from tests.servers.binaries import version
from tests.servers.wait import POLL_SECONDS

__all__ = [
    "SLACK",
    "delete",
    "get",
    "guarded",
    "in_time",
    "incr",
    "link_to",
    "may",
    "open_sockets",
    "put",
    "replied",
    "soon",
    "store_at",
]

SLACK = 1.5
"""Seconds past its deadline that a call may take on a machine that has much else to do."""

_CLOSING = 20.0
"""Seconds after which a close that hangs fails the test."""


def in_time(seconds: float = 10.0) -> float:
    """Return a deadline; by default one that no test should ever meet."""
    return monotonic() + seconds


async def soon(predicate: Callable[[], Any], *, within: float = 20.0, what: str = "") -> None:
    """Wait until the predicate is true: `tests.servers.eventually` for the loop's own affairs.

    Raises:
        TimeoutError: it didn't become true in time.
    """
    end = monotonic() + within
    while not predicate():
        if monotonic() > end:
            raise TimeoutError(f"waited {within:g} s for {what or 'the condition'}")
        await asyncio.sleep(POLL_SECONDS / 10)


def get(key: bytes) -> Command:
    return made_command(b"GET", key)


def put(key: bytes, value: bytes, ttl: int | None = 60, once: Once | None = None) -> Command:
    return made_command(b"SET", key, value, ttl=ttl, writes=True, once=once)


def incr(key: bytes, once: Once | None = None) -> Command:
    """Return a write whose applications can be counted."""
    return made_command(b"INCR", key, writes=True, once=once)


def delete(key: bytes) -> Command:
    return made_command(b"UNLINK", key, writes=True)


def may(server: RedisProcess, *rules: str) -> dict[str, Any]:
    """Give a user the documented rights, changed by ``rules``; return how to be that user."""
    if version(server.binary) < (7,):  # it takes a right away from a whole command only
        rules = tuple(x.partition("|")[0] if x.startswith("-") else x for x in rules)
    server.cli("ACL", "SETUSER", "flow", "reset", "on", ">pw", *FLOWCACHE_ACL.split(), *rules)
    return {"username": "flow", "password": Secret("pw")}


async def replied(executor: Executor, command: Command, deadline: float) -> Reply:
    """Run ``command`` and return the reply alone."""
    return (await executor.execute(command, deadline)).reply


def _settings(changes: dict[str, Any]) -> StoreSettings:
    return msgspec.structs.replace(StoreSettings(), **changes)


@asynccontextmanager
async def link_to(
    address: tuple[str, int],
    *,
    clock: Clock = monotonic,
    readonly: bool = False,
    on_change: Callable[[Link], None] = lambda link: None,
    settled: bool = True,
    **changes: Any,
) -> AsyncIterator[Link]:
    """Open a link under settings with ``changes``; close it afterwards."""
    loop = asyncio.get_running_loop()
    deadlines, slowness = Deadlines(loop, clock), Deadlines(loop, clock, Waiter.tell_slow)
    link = Link(
        Address(*address),
        _settings(changes),
        deadlines,
        slowness,
        clock,
        readonly=readonly,
        on_change=on_change,
    )
    try:
        if settled:
            await link.settled()
        yield link
    finally:
        await asyncio.wait_for(link.close(), _CLOSING)
        slowness.close()
        deadlines.close()


@asynccontextmanager
async def store_at(
    *nodes: tuple[str, int],
    on_back: OnBack = lambda shard, accesses: None,
    listened: Clock | None = None,
    **changes: Any,
) -> AsyncIterator[RedisStore]:
    """Start a store that asks ``nodes`` first, under settings with ``changes``; close it."""
    settings = _settings({"nodes": tuple(Address(*node) for node in nodes), **changes})
    store = RedisStore(settings, monotonic, on_back, listened)
    try:
        await store.start()
        yield store
    finally:
        await asyncio.wait_for(store.close(), _CLOSING)


def guarded(
    store: RedisStore,
    *,
    min_budget: float = 0.0,
    open_seconds: float = 10.0,
    probe_budget: float = 0.8,
    listened: Clock | None = None,
) -> Guard:
    """Return a guard around ``store``, as the service has one."""
    breaker = BreakerSettings(
        failures=5, open_seconds=open_seconds, open_max_seconds=open_seconds, probe_seconds=2.0
    )
    settings = GuardSettings(breaker, min_budget, probe_budget=probe_budget)
    return Guard(store, settings, monotonic, listened)


def open_sockets() -> int:
    """Return how many sockets this process has open."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists the directory is gone by now
            count += os.readlink(entry).startswith("socket:")
    return count
