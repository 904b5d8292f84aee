"""Two clocks in the guard: Redis is judged by one, callers are answered by the other."""

from __future__ import annotations

import asyncio

import pytest

from flowcache.errors import NotYet, RedisUnavailable
from tests.unit.resilience.test_guard import DOWN, LATE, Guarded
from tests.unit.resilience.test_second_chances import READ, spent_budget

HOUR = 3600.0


@pytest.fixture
def guarded() -> Guarded:
    """A guard whose loop has lost an hour before the test began."""
    guarded = Guarded()
    guarded.lost = HOUR
    return guarded


async def test_slow_is_a_moment_on_the_clock_that_stands_still(guarded: Guarded) -> None:
    """Else, after a worker was paused once, no read would ever be hedged in time again."""
    guarded.store.elsewhere = b"replica"
    await guarded.call()
    assert guarded.store.slow_at == [pytest.approx(guarded.now - HOUR + 0.01)]


async def test_a_replica_is_judged_by_the_same_clock(guarded: Guarded) -> None:
    """Its timeouts open its circuit, whatever the loop had lost before."""
    guarded.store.elsewhere = LATE
    for _ in range(5):
        with pytest.raises(RedisUnavailable):
            await guarded.call(DOWN)
    assert guarded.circuit(access="fallback").state == "open"


async def test_what_the_loop_loses_while_a_read_waits_is_waited_on_top(guarded: Guarded) -> None:
    """A primary has half of the deadline; a pause of our own is not its time."""
    heard = 0

    def listened() -> float:
        nonlocal heard
        heard += 1
        return guarded.now - guarded.lost

    guarded.guard._listened = listened
    guarded.store.elsewhere = b"replica"
    guarded.guard._hedges = spent_budget(guarded.now)
    rest = guarded.store.slow = asyncio.get_running_loop().create_future()
    read = asyncio.create_task(guarded.guard.execute(READ, guarded.now + 0.04))
    while heard < 3:  # noqa: ASYNC110 - until it waits for the half
        await asyncio.sleep(0)
    guarded.now += HOUR
    guarded.lost += HOUR
    while heard < 4:  # noqa: ASYNC110 - until the half is over
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    rest.set_result(b"primary")
    assert (await read).reply == b"primary"
    assert guarded.store.read_elsewheres == 0


async def test_a_call_that_ends_later_makes_no_probe_come_sooner(guarded: Guarded) -> None:
    """A circuit that opened for one reason is not probed soon for another."""
    guarded.store.holds = True
    early = asyncio.create_task(guarded.call())
    await asyncio.sleep(0)
    guarded.store.holds = False
    await guarded.fail(5, DOWN)
    guarded.store.gates[0].set_exception(NotYet("busy"))
    with pytest.raises(NotYet):
        await early
    guarded.now += 9.0
    assert await guarded.refused() == pytest.approx(1.0)
