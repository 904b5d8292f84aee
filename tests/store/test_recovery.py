"""How a circuit closes again on a real server, whoever calls and whatever had stood in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Set
from contextlib import asynccontextmanager, suppress

import pytest

from flowcache.errors import Failure
from flowcache.ports import Access, Command
from flowcache.resilience.guard import Guard
from tests.servers import RedisProcess
from tests.servers.proxy import Proxy
from tests.servers.standalone import standalone
from tests.store.harness import get, guarded, in_time, incr, put, replied, soon, store_at

BUDGET = 0.3
SHORT = 0.005
"""Seconds that a caller without patience waits."""
HOUR = 3600.0


def state(guard: Guard, access: str) -> str:
    return next(each.state for each in guard.circuits() if each.access == access)


async def tripped(guard: Guard, command: Command) -> None:
    """Call a server that does not answer until the circuit is open."""
    access = "write" if command.writes else "read"
    async with calling(guard, command):
        await soon(lambda: state(guard, access) == "open", what="the circuit to open")


@asynccontextmanager
async def calling(guard: Guard, command: Command, *, budget: float = BUDGET) -> AsyncIterator[None]:
    """Have callers call all the time who wait for ``budget``."""

    async def call() -> None:
        while True:
            with suppress(Failure):
                await replied(guard, command, in_time(budget))
            await asyncio.sleep(0.001)

    callers = [asyncio.create_task(call()) for _ in range(8)]
    try:
        yield
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


@pytest.mark.parametrize("command", [get(b"k"), put(b"k", b"v")], ids=["read", "write"])
async def test_callers_without_patience_are_seen_to_be_served_again(
    fresh_standalone: RedisProcess, command: Command
) -> None:
    """A circuit closes though no caller waits for as long as a reply takes."""
    access = "write" if command.writes else "read"
    with Proxy(fresh_standalone.address) as proxy:
        async with store_at(proxy.address) as store:
            guard = guarded(store, min_budget=BUDGET, open_seconds=0.2, probe_budget=BUDGET)
            await replied(guard, command, in_time())
            proxy.delay(SHORT * 4)
            fresh_standalone.pause()
            await tripped(guard, command)
            async with calling(guard, command, budget=SHORT):
                await soon(lambda: reopened(guard, access) >= 2, what="two probes in vain")
                fresh_standalone.resume()
                await soon(lambda: state(guard, access) == "closed", what="the circuit to close")
            await guard.close()


def reopened(guard: Guard, access: str) -> int:
    return next(each.reopened for each in guard.circuits() if each.access == access)


async def test_nothing_is_sent_for_a_caller_who_was_answered(
    fresh_standalone: RedisProcess,
) -> None:
    """A probe that outlives its call is sent once: a write is not done later, or twice."""
    with Proxy(fresh_standalone.address) as proxy:
        async with store_at(proxy.address) as store:
            guard = guarded(store, min_budget=BUDGET, open_seconds=0.05, probe_budget=BUDGET)
            await replied(guard, incr(b"n"), in_time())
            proxy.drop("requests")
            await tripped(guard, incr(b"n"))
            proxy.reset()  # what was held back is gone for good
            proxy.restore()
            await soon(lambda: store.status().status == "ready")
            fresh_standalone.cli("SCRIPT", "FLUSH")
            fresh_standalone.cli("SET", "n", "0")
            proxy.delay(SHORT * 4)
            # The answer is NOSCRIPT, or the count: after its caller's deadline either way.
            with suppress(Failure):
                await replied(guard, incr(b"n"), in_time(SHORT))
            await soon(lambda: not guard._beside, what="the probe to be settled")
            assert int(fresh_standalone.cli("GET", "n")) <= 1
            await guard.close()


@pytest.fixture
def busy() -> Iterator[RedisProcess]:
    """A server that says that it is busy when a script has run for a moment."""
    with standalone(config=["lua-time-limit 200"]) as server:
        yield server


@asynccontextmanager
async def running_script(server: RedisProcess) -> AsyncIterator[None]:
    """Keep the server busy with a script until it is killed."""

    def run() -> None:
        with suppress(Exception):
            server.cli("EVAL", "while true do end", "0")

    script = asyncio.create_task(asyncio.to_thread(run))
    try:
        yield
    finally:
        await script


async def kill_script(server: RedisProcess) -> None:
    await asyncio.to_thread(server.cli, "SCRIPT", "KILL")


@pytest.mark.parametrize("command", [get(b"k"), put(b"k", b"v")], ids=["read", "write"])
async def test_a_script_that_was_killed(busy: RedisProcess, command: Command) -> None:
    """A circuit that a script opened lets a probe through when the script is gone, not later."""
    access = "write" if command.writes else "read"
    guards: list[Guard] = []

    def came_back(shard: str, accesses: Set[Access]) -> None:
        for guard in guards:
            guard.came_back(shard, accesses)

    async with store_at(busy.address, on_back=came_back) as store:
        guard = guarded(store, open_seconds=HOUR)
        guards.append(guard)
        await replied(guard, command, in_time())
        async with running_script(busy):
            await tripped(guard, command)
            await soon(lambda: is_busy(busy), what="Redis to say that it is busy")
            await kill_script(busy)
        async with calling(guard, command):
            await soon(lambda: state(guard, access) == "closed", what="the circuit to close")
        await guard.close()


def is_busy(server: RedisProcess) -> bool:
    try:
        server.cli("PING")
    except Exception as fault:
        return "BUSY" in str(fault)
    return False
