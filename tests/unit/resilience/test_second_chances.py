"""Reads that get a second chance: whose reply counts, what is settled, what is never sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowcache.budget import Budget
from flowcache.errors import CircuitOpen, DeadlineExceeded, Declined, RedisUnavailable, WrongType
from flowcache.ports import Access, Command, Done
from flowcache.resilience.guard import GuardSettings
from flowcache.resilience.hedging import Patience
from tests.unit.resilience.test_guard import DOWN, LATE, MIN_BUDGET, PATIENCE, SETTINGS, Guarded

HOUR = 3600.0
HANGS = 20.0
"""Seconds after which a test that waits for something else than it should fails."""
READ, WRITE = Command((b"GET", b"a")), Command((b"SET", b"a", b"1"), ttl=60, writes=True)


@pytest.fixture
def guarded() -> Guarded:
    """A guard whose shard has a fallback."""
    guarded = Guarded()
    guarded.store.elsewhere = b"from the replica"
    return guarded


async def stale(guarded: Guarded, budget: float = PATIENCE) -> bytes:
    done = await guarded.guard.execute(READ, guarded.now + budget)
    assert done.stale
    assert isinstance(done.reply, bytes)
    return done.reply


def spent_budget(now: float) -> Budget:
    budget = Budget(0.001)
    while budget.withdraw(now):
        pass
    budget.spent = budget.refused = 0
    return budget


class TestDown:
    @pytest.mark.parametrize("fault", [DOWN, Declined("too many wait")])
    async def test_a_read_that_fails_is_answered_elsewhere(
        self, guarded: Guarded, fault: RedisUnavailable
    ) -> None:
        """What the primary can't answer the replica does, and the answer says so."""
        guarded.store.outcome = fault
        assert await stale(guarded) == b"from the replica"
        assert guarded.guard.reads().fallback == 1

    async def test_it_counts_against_the_primary(self, guarded: Guarded) -> None:
        """That a caller got its answer doesn't make the primary well."""
        guarded.store.outcome = DOWN
        for _ in range(5):
            await stale(guarded)
        assert guarded.circuit().state == "open"
        assert len(guarded.store.calls) == 5
        assert await stale(guarded) == b"from the replica"
        assert len(guarded.store.calls) == 5, "an open circuit sends nothing"
        assert guarded.circuit(access="fallback").state == "closed"

    async def test_writes_have_no_second_chance(self, guarded: Guarded) -> None:
        """A write goes to the primary or nowhere, and its circuit is its own."""
        guarded.store.outcome = DOWN
        for _ in range(5):
            with pytest.raises(RedisUnavailable):
                await guarded.guard.execute(WRITE, guarded.now + PATIENCE)
        with pytest.raises(CircuitOpen):
            await guarded.guard.execute(WRITE, guarded.now + PATIENCE)
        assert guarded.store.read_elsewheres == 0
        assert guarded.circuit(access="write").state == "open"
        assert guarded.circuit(access="read").state == "closed"

    @pytest.mark.parametrize("other", [RedisUnavailable("the replica, too"), LATE])
    async def test_both_down(self, guarded: Guarded, other: Exception) -> None:
        """Where nobody answers, the caller learns what the first one said."""
        guarded.store.outcome, guarded.store.elsewhere = DOWN, other
        with pytest.raises(RedisUnavailable) as caught:
            await guarded.call(DOWN)
        assert caught.value is DOWN

    async def test_a_replica_that_does_not_answer_is_left_alone(self, guarded: Guarded) -> None:
        """The fallback has a circuit of its own, or its callers would wait for nothing."""
        guarded.store.elsewhere = RedisUnavailable("the replica, too")
        for _ in range(7):
            with pytest.raises((RedisUnavailable, CircuitOpen)):
                await guarded.call(DOWN)
        assert guarded.store.read_elsewheres == 5
        assert guarded.circuit(access="fallback").state == "open"
        with pytest.raises(CircuitOpen) as caught:
            await guarded.call()
        assert caught.value.retry_after == pytest.approx(SETTINGS.open_seconds)

    async def test_a_replica_that_answers_again_is_well(self, guarded: Guarded) -> None:
        """Its replies count for its circuit: they end a row of failures, and close what is open."""

        async def failing(times: int) -> None:
            guarded.store.elsewhere = DOWN
            for _ in range(times):
                with pytest.raises((RedisUnavailable, CircuitOpen)):
                    await guarded.call(DOWN)

        await failing(4)
        guarded.store.elsewhere = b"well"
        assert await stale(guarded) == b"well"
        await failing(4)
        assert guarded.circuit(access="fallback").failures == 4
        await failing(1)
        assert guarded.circuit(access="fallback").state == "open"
        guarded.now += SETTINGS.open_seconds
        guarded.store.elsewhere = b"well"
        assert await stale(guarded) == b"well"
        assert guarded.circuit(access="fallback").state == "closed"

    async def test_an_answer_that_is_no_reply(self, guarded: Guarded) -> None:
        """A caller's mistake is a caller's mistake, whoever points it out."""
        with pytest.raises(WrongType):
            await guarded.call(WrongType("another type"))
        assert guarded.store.read_elsewheres == 0
        guarded.store.elsewhere = WrongType("another type")
        with pytest.raises(WrongType):
            await guarded.call(DOWN)
        assert guarded.circuit(access="fallback").failures == 0

    async def test_who_comes_back(self, guarded: Guarded) -> None:
        """A primary that is back invites its own circuits to probe, a replica that of fallbacks."""
        guarded.store.elsewhere = RedisUnavailable("the replica, too")
        for _ in range(5):
            await guarded.fail(1, DOWN)
            with pytest.raises(RedisUnavailable):
                await guarded.guard.execute(WRITE, guarded.now + PATIENCE)
        states = {c.access: c.state for c in guarded.guard.circuits()}
        assert states == {"read": "open", "write": "open", "fallback": "open"}
        guarded.guard.came_back("a", {Access.FALLBACK})
        states = {c.access: c.state for c in guarded.guard.circuits()}
        assert states == {"read": "open", "write": "open", "fallback": "half-open"}
        guarded.guard.came_back("a", {Access.READ, Access.WRITE})
        states = {c.access: c.state for c in guarded.guard.circuits()}
        assert set(states.values()) == {"half-open"}


class TestSlow:
    async def reading(self, guarded: Guarded) -> tuple[asyncio.Task[Done], asyncio.Future[Any]]:
        """Start a read that is told that its primary is slow."""
        rest = guarded.store.slow = asyncio.get_running_loop().create_future()
        return asyncio.create_task(guarded.guard.execute(READ, guarded.now + PATIENCE)), rest

    async def test_the_replica_is_faster(self, guarded: Guarded) -> None:
        """The first reply counts; the primary's is settled when it comes, with its true time."""
        read, rest = await self.reading(guarded)
        done = await read
        assert done.stale
        assert guarded.guard.reads().hedges == 1
        before = guarded.guard._circuits["a"].patience.p95
        guarded.now += 0.5
        rest.set_result(b"at last")
        await asyncio.gather(*guarded.guard._beside)
        assert guarded.guard._circuits["a"].patience.p95 > before
        assert guarded.circuit().failures == 0

    async def test_the_primary_is_faster(self, guarded: Guarded) -> None:
        """Of two replies at once the primary's counts: it is no older."""
        read, rest = await self.reading(guarded)
        rest.set_result(b"fresh")
        assert (await read).reply == b"fresh"

    async def test_late_failures_count_at_once(self, guarded: Guarded) -> None:
        """A primary that lets deadlines pass opens its circuit though every caller was answered."""
        rests = []
        for _ in range(5):
            read, rest = await self.reading(guarded)
            assert (await read).stale
            rests.append(rest)
        assert guarded.circuit().state == "closed"
        for rest in rests:
            rest.set_exception(DeadlineExceeded("late"))
        await asyncio.gather(*guarded.guard._beside)
        assert guarded.circuit().state == "open"

    async def test_the_replica_fails(self, guarded: Guarded) -> None:
        """A hedge that fails takes nothing away: the primary's reply is waited for."""
        guarded.store.elsewhere = DOWN
        read, rest = await self.reading(guarded)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not read.done()
        rest.set_result(b"at last")
        assert (await read).reply == b"at last"

    async def test_both_fail(self, guarded: Guarded) -> None:
        """The caller learns what the primary said."""
        guarded.store.elsewhere = RedisUnavailable("the replica, too")
        read, rest = await self.reading(guarded)
        rest.set_exception(DOWN)
        with pytest.raises(RedisUnavailable) as caught:
            await read
        assert caught.value is DOWN

    async def test_the_primary_fails_and_the_replica_answers(self, guarded: Guarded) -> None:
        """A primary that is lost while its hedge is under way does no harm."""
        read, rest = await self.reading(guarded)
        rest.set_exception(DOWN)
        assert (await read).stale

    async def test_the_primary_says_what_is_wrong(self, guarded: Guarded) -> None:
        """An answer is an answer: nobody waits for another."""
        guarded.store.elsewhere = DOWN
        read, rest = await self.reading(guarded)
        rest.set_exception(WrongType("another type"))
        with pytest.raises(WrongType):
            await read

    async def test_cancelled(self, guarded: Guarded) -> None:
        """Who cancels a hedged read leaves its permits to be settled."""
        guarded.store.elsewhere = DOWN
        read, rest = await self.reading(guarded)
        for _ in range(5):
            await asyncio.sleep(0)
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
        rest.set_exception(DOWN)
        await asyncio.gather(*guarded.guard._beside)
        assert guarded.circuit().failures == 1

    async def test_out_of_budget_a_stalled_primary_is_waited_for_half_the_time(
        self, guarded: Guarded
    ) -> None:
        """Hedges have a budget; past half of the deadline it is no hedge but a rescue."""
        guarded.guard._hedges = spent_budget(guarded.now)
        rest = guarded.store.slow = asyncio.get_running_loop().create_future()
        read = asyncio.create_task(guarded.guard.execute(READ, guarded.now + 0.04))
        await asyncio.sleep(0)
        assert guarded.store.read_elsewheres == 0
        assert (await read).stale
        reads = guarded.guard.reads()
        assert (reads.hedges, reads.hedges_refused, reads.late_hedges) == (0, 1, 1)
        rest.set_result(b"at last")

    async def test_no_budget_is_needed_for_a_primary_that_answers_late(
        self, guarded: Guarded
    ) -> None:
        """A reply between the moment of a hedge and that of a rescue is the reply."""
        guarded.guard._hedges = spent_budget(guarded.now)
        read, rest = await self.reading(guarded)
        await asyncio.sleep(0)
        rest.set_result(b"late")
        assert (await read).reply == b"late"
        assert guarded.store.read_elsewheres == 0
        assert guarded.guard.reads().late_hedges == 0

    async def test_out_of_budget_a_primary_that_is_lost_is_waited_for_no_longer(
        self, guarded: Guarded
    ) -> None:
        """The half of the deadline is for a reply: once there will be none, the fallback is asked.

        So it is when the half is over before anybody can wait for it.
        """
        guarded.guard._hedges = type(guarded.guard._hedges)(0.0)
        rest = guarded.store.slow = asyncio.get_running_loop().create_future()
        rest.set_exception(DOWN)
        assert await asyncio.wait_for(stale(guarded, HOUR), HANGS) == b"from the replica"
        rest = guarded.store.slow = asyncio.get_running_loop().create_future()
        guarded.takes(HOUR / 2)
        assert await asyncio.wait_for(stale(guarded, HOUR), HANGS) == b"from the replica"
        assert guarded.guard.reads().late_hedges == 1, (
            "the first was no rescue: its primary was lost"
        )
        rest.set_result(b"at last")

    async def test_every_read_pays_for_hedges(self, guarded: Guarded) -> None:
        """What was saved is spent; then ten reads pay for one hedge more, and writes for none."""
        rest = guarded.store.slow = asyncio.get_running_loop().create_future()
        rest.set_result(b"late")
        for _ in range(500):
            await guarded.call()
            await guarded.guard.execute(WRITE, guarded.now + PATIENCE)
        reads = guarded.guard.reads()
        assert reads.hedges + reads.hedges_refused == 500
        assert 140 <= reads.hedges <= 150

    async def test_closing(self, guarded: Guarded) -> None:
        """A guard that is closed leaves no attempt behind: they have ended by then."""
        read, _ = await self.reading(guarded)
        assert (await read).stale
        await guarded.guard.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def test_without_a_fallback_nobody_is_told(self) -> None:
        """Where nobody else can be asked the wheel has nothing to do."""
        guarded = Guarded()
        await guarded.call()
        assert guarded.store.slow_at == [None]

    async def test_writes_are_never_hedged(self, guarded: Guarded) -> None:
        """A write sent twice is done twice."""
        guarded.store.slow = asyncio.get_running_loop().create_future()
        done = await guarded.guard.execute(WRITE, guarded.now + PATIENCE)
        assert done.reply == b"reply"
        assert guarded.store.slow_at == [None]

    async def test_slow_means_slower_than_usual(self, guarded: Guarded) -> None:
        """The moment moves with how long replies have taken of late."""
        await guarded.call()
        assert guarded.store.slow_at[-1] == pytest.approx(guarded.now + 0.01)
        guarded.takes(0.2)
        for _ in range(500):
            await guarded.call()
        began = guarded.now
        await guarded.call()
        assert guarded.store.slow_at[-1] is not None
        assert guarded.store.slow_at[-1] - began == pytest.approx(0.2, rel=0.2)

    def test_settings_have_a_share_by_default(self) -> None:
        """Hedging is on unless it is turned off."""
        assert 0 < GuardSettings(SETTINGS, MIN_BUDGET).hedge_share < 1


class TestPatience:
    @pytest.mark.parametrize("scale", [0.0005, 0.02, 0.5])
    def test_it_finds_the_p95(self, scale: float) -> None:
        """On times spread evenly it comes to some 0.95 of the longest, from wherever it was."""
        patience = Patience()
        for turn in range(20_000):
            patience.observe(scale * ((turn * 7919) % 1000) / 1000)
        assert patience.p95 == pytest.approx(0.95 * scale, rel=0.15)
        assert patience.seconds() == max(0.01, patience.p95)

    def test_it_stays_in_range(self) -> None:
        """Nothing that is observed sends it where it can't come back from."""
        patience = Patience()
        for _ in range(100_000):
            patience.observe(0.0)
        assert patience.p95 >= 0.0001
        for _ in range(1000):
            patience.observe(1e9)
        assert patience.p95 <= 10.0
