"""What the guard makes of the ends of calls: which count, which don't, and whose circuit it is.

The breaker's own promises are in `test_breaker`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcache.errors import (
    AnsweredLate,
    CircuitOpen,
    Conflict,
    DeadlineExceeded,
    Declined,
    Failure,
    Forbidden,
    Internal,
    InvalidRequest,
    InvalidResponse,
    MethodNotAllowed,
    NotFound,
    NotYet,
    Overloaded,
    RateLimited,
    RedisUnavailable,
    TooLarge,
    Unauthorized,
    Unconfirmed,
    Unrecorded,
    WrongType,
    all_failures,
)
from flowcache.executing import Receiver, Shard
from flowcache.ports import Access, Command, Done, Mode, Once, Order, Reply, Slow
from flowcache.resilience.breaker import BreakerSettings, Unit, Window
from flowcache.resilience.guard import Guard, GuardSettings
from flowcache.status import CircuitStatus
from tests.executing import CoroutineStore

SETTINGS = BreakerSettings(failures=5, open_seconds=10.0, probe_seconds=2.0)
MIN_BUDGET = 0.1
PATIENCE = 0.8

DOWN = RedisUnavailable("down")
LATE = DeadlineExceeded("late")
HARMLESS = [
    kind("no fault of Redis's")
    for kind in (WrongType, Conflict, TooLarge, InvalidRequest, Forbidden, Declined)
]


class FakeShard(Shard):
    def __init__(self, name: str, fallback: bool) -> None:
        super().__init__(name)
        self.fallback = fallback

    def has_fallback(self) -> bool:
        return self.fallback


class FakeStore(CoroutineStore):
    """A store that does as it is told: each call replies, fails, or waits to be released.

    A key's shard is named by its first byte.
    """

    def __init__(self) -> None:
        self.outcome: Reply | BaseException = b"reply"
        self.elsewhere: Reply | BaseException | None = None
        """What the fallback says; None where there is none."""
        self.slow: asyncio.Future[Reply] | None = None
        """What becomes of a call that is slow; None where it is not."""
        self.calls: list[Command] = []
        self.read_elsewheres = 0
        self.slow_at: list[float | None] = []
        self.wait_until: list[float | None] = []
        self.gates: list[asyncio.Future[Reply]] = []
        self.holds = False
        self.meanwhile: Callable[[], None] = lambda: None
        """What happens while a call is under way."""
        self.names: set[str] = {"a", "b"}

    def shard(self, command: Command) -> FakeShard:
        name = command.key[:1].decode()
        if name not in self.names:
            raise RedisUnavailable("no shard is known to hold it")
        return FakeShard(name, self.elsewhere is not None)

    def shards(self) -> Set[str]:
        return self.names

    async def execute_at(
        self,
        shard: Shard,
        command: Command,
        deadline: float,
        slow_at: float | None = None,
        wait_until: float | None = None,
    ) -> Done | Slow:
        self.calls.append(command)
        self.wait_until.append(wait_until)
        self.slow_at.append(slow_at)
        self.meanwhile()
        if self.holds:
            self.gates.append(asyncio.get_running_loop().create_future())
            return Done(await self.gates[-1], shard.name)
        if slow_at is not None and self.slow is not None:
            return Slow(self._rest(self.slow, shard))
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return Done(self.outcome, shard.name)

    async def _rest(self, slow: asyncio.Future[Reply], shard: Shard) -> Done:
        return Done(await slow, shard.name)

    async def read_elsewhere(self, shard: Shard, command: Command, deadline: float) -> Done:
        self.read_elsewheres += 1
        if isinstance(self.elsewhere, BaseException):
            raise self.elsewhere
        return Done(self.elsewhere, shard.name, stale=True)


class Guarded:
    """A guard around a fake store, on a clock that stands still until told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.lost = 0.0
        """Seconds in which the event loop did not turn."""
        self.store = FakeStore()
        self.guard = Guard(
            self.store,
            GuardSettings(SETTINGS, MIN_BUDGET),
            lambda: self.now,
            lambda: self.now - self.lost,
        )

    async def call(
        self, outcome: Reply | BaseException = b"reply", key: bytes = b"a", budget: float = PATIENCE
    ) -> Reply:
        """Read a key; return the reply alone."""
        return (await self.read(outcome, key, budget)).reply

    async def read(
        self, outcome: Reply | BaseException = b"reply", key: bytes = b"a", budget: float = PATIENCE
    ) -> Done:
        self.store.outcome = outcome
        return await self.guard.execute(Command((b"GET", key)), self.now + budget)

    def takes(self, seconds: float) -> None:
        """Have each call from now on take so long."""

        def meanwhile() -> None:
            self.now += seconds

        self.store.meanwhile = meanwhile

    async def fail(
        self, times: int = 1, fault: BaseException = DOWN, key: bytes = b"a", budget: float = 0.8
    ) -> None:
        for _ in range(times):
            with pytest.raises(type(fault)):
                await self.call(fault, key, budget)

    async def refused(self, key: bytes = b"a") -> float:
        """Make a call that has to be refused; return when to come back."""
        calls = len(self.store.calls)
        with pytest.raises(CircuitOpen) as caught:
            await self.call(key=key)
        assert len(self.store.calls) == calls, "nothing may be sent"
        assert caught.value.retry_after is not None
        return caught.value.retry_after

    def circuit(self, shard: str = "a", access: str = "read") -> CircuitStatus:
        return next(
            circuit
            for circuit in self.guard.circuits()
            if (circuit.shard, circuit.access) == (shard, access)
        )


@pytest.fixture
def guarded() -> Guarded:
    return Guarded()


async def test_what_comes_of_a_call_names_its_shard(guarded: Guarded) -> None:
    """A reply, a failure and a refusal alike; where no shard is known there is none."""
    assert (await guarded.read(key=b"b")).shard == "b"
    fault = RedisUnavailable("down")
    await guarded.fail(5, fault, key=b"b")
    assert fault.shard == "b"
    with pytest.raises(CircuitOpen) as caught:
        await guarded.read(key=b"b")
    assert caught.value.shard == "b"
    with pytest.raises(RedisUnavailable) as caught_unknown:
        await guarded.read(key=b"z")
    assert caught_unknown.value.shard is None


async def test_a_reply_passes_through(guarded: Guarded) -> None:
    """A healthy shard's replies and commands pass unchanged."""
    assert await guarded.call(b"value") == b"value"
    assert guarded.store.calls == [Command((b"GET", b"a"))]
    assert guarded.circuit() == CircuitStatus(
        shard="a",
        access="read",
        mode="auto",
        state="closed",
        failures=0,
        calls=0,
        failure_rate=None,
        slow_rate=None,
        retry_after=0.0,
        reopened=0,
        refused=0,
        would_refuse=0,
        transitions={"closed": 0, "open": 0, "half-open": 0},
    )


@pytest.mark.parametrize("fault", [DOWN, LATE])
async def test_five_failures_open(guarded: Guarded, fault: Failure) -> None:
    """Four times no answer is bad luck, five times opens the circuit: nothing is sent any more."""
    await guarded.fail(4, fault)
    assert guarded.circuit().state == "closed"
    await guarded.fail(1, fault)
    assert guarded.circuit().state == "open"
    assert await guarded.refused() == pytest.approx(10.0)


async def test_a_failure_passes_through(guarded: Guarded) -> None:
    """The caller gets the very failure that the store raised."""
    for fault in (DOWN, LATE, *HARMLESS):
        with pytest.raises(Failure) as caught:
            await guarded.call(fault)
        assert caught.value is fault


async def test_success_between_starts_over(guarded: Guarded) -> None:
    """Only failures in a row count."""
    for _ in range(3):
        await guarded.fail(4)
        await guarded.call()
    assert guarded.circuit().state == "closed"


@pytest.mark.parametrize("fault", HARMLESS, ids=lambda fault: type(fault).__name__)
async def test_what_never_counts(guarded: Guarded, fault: Failure) -> None:
    """What is the caller's doing, or says that Redis is well, never opens a circuit."""
    await guarded.fail(50, fault)
    assert guarded.circuit().state == "closed"
    assert guarded.circuit().failures == 0


async def test_an_answer_is_an_answer(guarded: Guarded) -> None:
    """A caller's mistake that Redis answered shows that it answers: the row is broken."""
    await guarded.fail(4)
    await guarded.fail(1, WrongType("another type"))
    await guarded.fail(4)
    assert guarded.circuit().state == "closed"


async def test_a_declined_call_is_no_answer(guarded: Guarded) -> None:
    """A call that was declined proves nothing either way: the row of failures goes on."""
    await guarded.fail(4)
    await guarded.fail(1, Declined("out of memory"))
    await guarded.fail(1)
    assert guarded.circuit().state == "open"


async def test_a_bug_is_not_redis(guarded: Guarded) -> None:
    """An exception that nobody foresaw passes through and says nothing about Redis."""
    await guarded.fail(50, ZeroDivisionError("a bug"))
    assert guarded.circuit().state == "closed"


async def test_too_little_time_proves_nothing(guarded: Guarded) -> None:
    """A caller with no patience can't open the circuit for all, however often it calls."""
    await guarded.fail(50, LATE, budget=MIN_BUDGET / 2)
    assert guarded.circuit().state == "closed"
    await guarded.fail(4, LATE, budget=PATIENCE)
    await guarded.fail(50, LATE, budget=0.001)
    assert guarded.circuit().failures == 4
    await guarded.fail(1, LATE, budget=PATIENCE)
    assert guarded.circuit().state == "open"


async def test_the_time_given_counts_and_not_the_time_left(guarded: Guarded) -> None:
    """A timeout comes when no time is left: what it proves is told by what there was at first."""
    guarded.store.holds = True
    for _ in range(5):
        call = asyncio.create_task(guarded.call())
        await asyncio.sleep(0)
        guarded.now += PATIENCE
        guarded.store.gates[-1].set_exception(LATE)
        with pytest.raises(DeadlineExceeded):
            await call
    assert guarded.circuit().state == "open"


async def test_time_that_the_loop_lost_is_not_redis_time(guarded: Guarded) -> None:
    """A timeout counts for the time in which somebody listened, not for that of a held-up loop."""

    def held_up() -> None:
        guarded.now += PATIENCE
        guarded.lost += PATIENCE - MIN_BUDGET / 2

    guarded.store.meanwhile = held_up
    await guarded.fail(50, LATE)
    assert guarded.circuit().failures == 0
    guarded.takes(PATIENCE)
    await guarded.fail(5, LATE)
    assert guarded.circuit().state == "open"


async def test_a_probe_that_was_held_up_proves_nothing(guarded: Guarded) -> None:
    """A paused worker's probe leaves the circuit half-open, and its place to the next caller."""
    await guarded.fail(5)
    guarded.now += 10.0

    def held_up() -> None:
        guarded.now += 5.0
        guarded.lost += 5.0

    guarded.store.meanwhile = held_up
    await guarded.fail(1, LATE)
    assert guarded.circuit().state == "half-open"
    guarded.takes(0.0)
    assert await guarded.call() == b"reply"
    assert guarded.circuit().state == "closed"


async def test_slow_calls_are_judged_without_what_the_loop_lost() -> None:
    """A call is slow when Redis was, not when our loop was held up."""
    guarded = Guarded()
    breaker = BreakerSettings(window=Window(10, Unit.CALLS), slow_seconds=0.1, slow_rate=0.5)
    guarded.guard = Guard(
        guarded.store,
        GuardSettings(breaker, MIN_BUDGET),
        lambda: guarded.now,
        lambda: guarded.now - guarded.lost,
    )

    def held_up() -> None:
        guarded.now += 1.0
        guarded.lost += 0.95

    guarded.store.meanwhile = held_up
    for _ in range(20):
        await guarded.call()
    assert guarded.circuit().slow_rate == 0
    guarded.takes(1.0)
    for _ in range(5):
        await guarded.call()
    assert guarded.circuit().state == "open"


async def test_no_connection_counts_at_any_budget(guarded: Guarded) -> None:
    """Where Redis isn't to be reached, it isn't for want of time."""
    await guarded.fail(5, DOWN, budget=0.001)
    assert guarded.circuit().state == "open"


async def test_shards_are_independent(guarded: Guarded) -> None:
    """One dead shard blocks its own keys and nobody else's."""
    await guarded.fail(5, key=b"a")
    await guarded.refused(b"a")
    assert await guarded.call(key=b"b") == b"reply"
    await guarded.fail(4, key=b"b")
    assert guarded.circuit("a").state == "open"
    assert guarded.circuit("b").state == "closed"
    assert guarded.circuit("b").failures == 4


async def test_a_key_without_a_shard(guarded: Guarded) -> None:
    """While nobody knows where a key lives its calls fail, and no circuit is made of it."""
    with pytest.raises(RedisUnavailable, match="no shard"):
        await guarded.call(key=b"x")
    assert guarded.guard.circuits() == []
    assert guarded.store.calls == []


async def test_retry_after_is_true(guarded: Guarded) -> None:
    """Who is refused learns the seconds that are left, and who waits that long is let through."""
    await guarded.fail(5)
    assert await guarded.refused() == pytest.approx(10.0)
    guarded.now += 9.0
    wait = await guarded.refused()
    assert wait == pytest.approx(1.0)
    assert guarded.circuit().retry_after == pytest.approx(1.0)
    guarded.now += wait
    assert await guarded.call() == b"reply"
    assert guarded.circuit().state == "closed"
    assert guarded.circuit().retry_after == 0.0
    assert guarded.circuit().refused == 2


async def test_one_probe_at_a_time(guarded: Guarded) -> None:
    """When the open time is over one call is let through; the others wait for what it finds."""
    await guarded.fail(5)
    guarded.now += 10.0
    guarded.store.holds = True
    probe = asyncio.create_task(guarded.call())
    await asyncio.sleep(0)
    for _ in range(3):
        assert 0 < await guarded.refused() <= SETTINGS.probe_seconds
    assert guarded.circuit().state == "half-open"
    guarded.store.gates[0].set_result(b"back")
    assert await probe == b"back"
    guarded.store.holds = False
    assert await guarded.call() == b"reply"
    assert guarded.circuit().state == "closed"


async def test_failed_probe(guarded: Guarded) -> None:
    """A probe that fails opens the circuit anew, for about twice the time."""
    await guarded.fail(5)
    guarded.now += 10.0
    await guarded.fail(1)
    assert await guarded.refused() == pytest.approx(20.0, rel=0.1)


@pytest.mark.parametrize("fault", [*HARMLESS, ZeroDivisionError("a bug")])
async def test_probe_that_proves_nothing_against_redis(
    guarded: Guarded, fault: BaseException
) -> None:
    """A probe that ends otherwise doesn't keep its place: the next call goes through."""
    await guarded.fail(5)
    guarded.now += 10.0
    await guarded.fail(1, fault)
    assert await guarded.call() == b"reply"


class TestImpatientProbe:
    """A probe whose caller has too little time to prove anything."""

    @pytest.fixture
    async def half_open(self, guarded: Guarded) -> Guarded:
        """A guard whose next call is a probe, and whose store answers when told."""
        await guarded.fail(5)
        guarded.now += 10.0
        guarded.store.holds = True
        return guarded

    async def gives_up(self, guarded: Guarded) -> None:
        with pytest.raises(DeadlineExceeded):
            await guarded.guard.execute(Command((b"GET", b"a")), guarded.now + 0.001)

    async def settled(self, guarded: Guarded) -> None:
        await asyncio.gather(*guarded.guard._beside, return_exceptions=True)

    async def test_it_is_awaited_beside_its_call(self, half_open: Guarded) -> None:
        """The caller is answered at its deadline; the reply that comes later closes the circuit."""
        await self.gives_up(half_open)
        assert half_open.store.wait_until[-1] == half_open.now + 0.8
        await half_open.refused()
        half_open.store.gates[-1].set_result(b"at last")
        await self.settled(half_open)
        assert half_open.circuit().state == "closed"

    async def test_silence_opens_the_circuit_again(self, half_open: Guarded) -> None:
        """Redis had the time of a whole call, however little its caller had."""
        await self.gives_up(half_open)
        half_open.now += 0.8
        half_open.store.gates[-1].set_exception(LATE)
        await self.settled(half_open)
        assert half_open.circuit().state == "open"

    async def test_a_probe_that_could_not_be_sent_again_proves_nothing(
        self, half_open: Guarded
    ) -> None:
        """When a redirection comes after the caller's deadline, the next caller may probe."""
        await self.gives_up(half_open)
        half_open.now += 0.05
        half_open.store.gates[-1].set_exception(LATE)
        await self.settled(half_open)
        assert half_open.circuit().state == "half-open"
        half_open.store.holds = False
        assert await half_open.call() == b"reply"

    async def test_an_answer_that_came_late_proves_that_redis_is_well(
        self, half_open: Guarded
    ) -> None:
        """A probe that was answered too late to ask for the rest closes the circuit."""
        await self.gives_up(half_open)
        half_open.store.gates[-1].set_exception(AnsweredLate("late"))
        await self.settled(half_open)
        assert half_open.circuit().state == "closed"

    async def test_a_reply_in_time_is_the_reply(self, half_open: Guarded) -> None:
        """A probe that is answered within its caller's patience answers its caller."""
        half_open.store.holds = False
        assert await half_open.call(budget=0.001) == b"reply"
        assert half_open.circuit().state == "closed"

    async def test_a_failure_in_time_is_the_failure(self, half_open: Guarded) -> None:
        """So is one that fails."""
        half_open.store.holds = False
        await half_open.fail(1, DOWN, budget=0.001)
        assert half_open.circuit().state == "open"

    @pytest.mark.parametrize("once", [None, Once(b"t", b"f", 1000)])
    async def test_a_write_of_unknown_fate(self, half_open: Guarded, once: Once | None) -> None:
        """Whoever gives a write up learns whether it may be repeated."""
        command = Command((b"SET", b"a", b"1"), ttl=60, writes=True, once=once)
        for _ in range(5):  # the circuit of writes is another
            half_open.store.holds = False
            half_open.store.outcome = DOWN
            with pytest.raises(RedisUnavailable):
                await half_open.guard.execute(command, half_open.now + PATIENCE)
        half_open.now += 10.0
        half_open.store.holds = True
        with pytest.raises(DeadlineExceeded, match="unknown") as caught:
            await half_open.guard.execute(command, half_open.now + 0.001)
        assert caught.value.retryable is (once is not None)
        half_open.store.gates[-1].set_result(b"OK")
        await self.settled(half_open)

    async def test_a_caller_who_leaves(self, half_open: Guarded) -> None:
        """A probe goes on when its caller is cancelled, and is settled."""
        call = asyncio.create_task(half_open.call(budget=MIN_BUDGET / 2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        half_open.store.gates[-1].set_result(b"at last")
        await self.settled(half_open)
        assert half_open.circuit().state == "closed"

    async def test_shutdown(self, half_open: Guarded) -> None:
        """A guard that is closed gives the permit back, even of a probe that never had its turn."""
        call = asyncio.create_task(half_open.call(budget=MIN_BUDGET / 2))
        await asyncio.sleep(0)
        assert half_open.guard._beside
        await half_open.guard.close()
        with pytest.raises(asyncio.CancelledError):
            await call
        half_open.store.holds = False
        assert await half_open.call() == b"reply"

    async def test_a_second_server_answers(self, half_open: Guarded) -> None:
        """A read that could be answered elsewhere is, while the probe is awaited."""
        half_open.store.elsewhere = b"replica"
        done = await half_open.read(budget=MIN_BUDGET / 2)
        assert done.stale
        assert half_open.circuit().state == "half-open"
        half_open.store.gates[-1].set_result(b"at last")
        await self.settled(half_open)
        assert half_open.circuit().state == "closed"

    async def test_what_the_loop_loses_keeps_no_caller(self, half_open: Guarded) -> None:
        """A loop that loses all its time prolongs no caller's wait past its own deadline."""
        guard, began = half_open.guard, monotonic()
        guard._clock = lambda: half_open.now + monotonic() - began
        guard._listened = lambda: half_open.now
        while guard._hedges.withdraw(half_open.now):
            pass
        half_open.store.elsewhere = b"replica"
        done = await asyncio.wait_for(half_open.read(budget=MIN_BUDGET / 2), 10)
        assert done.stale
        half_open.store.gates[-1].set_result(b"at last")
        await self.settled(half_open)

    async def test_no_server_answers(self, half_open: Guarded) -> None:
        """A read whose second server fails is answered at its own deadline, not at the probe's."""
        half_open.store.elsewhere = DOWN
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(half_open.call(budget=MIN_BUDGET / 2), 10)
        half_open.store.gates[-1].set_result(b"at last")
        await self.settled(half_open)
        assert half_open.circuit().state == "closed"

    async def test_short_calls_of_a_closed_circuit_are_calls_like_any(
        self, guarded: Guarded
    ) -> None:
        """Only probes are awaited for longer than their callers wait."""
        await guarded.call(budget=0.001)
        assert guarded.store.wait_until == [None]


async def test_cancelled_call_returns_its_permit(guarded: Guarded) -> None:
    """Who cancels a call changes nothing: what was sent counts by what becomes of it."""
    guarded.store.holds = True
    for _ in range(10):
        call = asyncio.create_task(guarded.call())
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert guarded.circuit().failures == 0
    for gate in guarded.store.gates:
        gate.set_result(b"reply")
    await asyncio.sleep(0)
    guarded.store.holds = False
    await guarded.fail(5)
    guarded.now += 10.0
    guarded.store.holds = True
    probe = asyncio.create_task(guarded.call())
    await asyncio.sleep(0)
    await guarded.refused()
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert guarded.circuit().state == "half-open"
    guarded.store.gates[-1].set_result(b"reply")
    guarded.store.holds = False
    await settled(guarded)
    assert guarded.circuit().state == "closed"
    assert await guarded.call() == b"reply"


async def settled(guarded: Guarded) -> None:
    """Wait until the circuit of reads is closed."""
    async with asyncio.timeout(20):
        while guarded.circuit().state != "closed":  # noqa: ASYNC110 - no event
            await asyncio.sleep(0)


async def test_a_bug_of_the_store_ends_the_call(guarded: Guarded) -> None:
    """It is heard like a failure, and counts for nothing."""

    class Heard(Receiver):
        def __init__(self) -> None:
            self.heard: list[object] = []

        def hear(self, result: object) -> None:
            self.heard.append(result)

    receiver = Heard()
    guarded.store.outcome = ValueError("a bug of the store")
    guarded.guard.submit(Command((b"GET", b"a")), guarded.now + 1, receiver)
    assert [str(each) for each in receiver.heard] == ["a bug of the store"]
    assert guarded.circuit().failures == 0


async def test_late_results_are_dropped(guarded: Guarded) -> None:
    """A call from before the outage that ends well during it doesn't close the circuit."""
    guarded.store.holds = True
    calls = [asyncio.create_task(guarded.call()) for _ in range(2)]
    await asyncio.sleep(0)
    guarded.store.holds = False
    await guarded.fail(5)
    well, badly = guarded.store.gates
    well.set_result(b"at last")
    assert await calls[0] == b"at last"
    await guarded.refused()
    guarded.now += 10.0
    assert await guarded.call() == b"reply"
    badly.set_exception(DOWN)
    with pytest.raises(RedisUnavailable):
        await calls[1]
    assert guarded.circuit().failures == 0


async def test_a_shard_that_came_back(guarded: Guarded) -> None:
    """When a shard is seen to be back its next call is let through at once, and no other's."""
    for key in (b"a", b"b"):
        await guarded.fail(5, key=key)
    guarded.guard.came_back("a", {Access.READ, Access.WRITE})
    guarded.guard.came_back("one that nobody knows", {Access.READ, Access.WRITE})
    assert await guarded.call(key=b"a") == b"reply"
    assert guarded.circuit("a").state == "closed"
    await guarded.refused(b"b")


async def test_coming_back_is_no_proof(guarded: Guarded) -> None:
    """It is let through as a probe: one call, and if it fails the circuit is open again."""
    await guarded.fail(5)
    guarded.guard.came_back("a", {Access.READ, Access.WRITE})
    await guarded.fail(1)
    assert await guarded.refused() == pytest.approx(20.0, rel=0.1)


async def test_coming_back_while_closed(guarded: Guarded) -> None:
    """For a circuit that is closed it changes nothing."""
    await guarded.fail(4)
    guarded.guard.came_back("a", {Access.READ, Access.WRITE})
    assert guarded.circuit().failures == 4


async def test_shards_that_are_gone_are_forgotten(guarded: Guarded) -> None:
    """A circuit of a shard that is no more isn't shown, or kept: it would stay open for ever."""
    await guarded.fail(5, key=b"a")
    guarded.store.names = {"b", "c"}
    assert guarded.guard.circuits() == []
    await guarded.call(key=b"c")
    assert {circuit.shard for circuit in guarded.guard.circuits()} == {"c"}
    guarded.store.names = {"a"}
    assert await guarded.call(key=b"a") == b"reply"


async def test_failovers_do_not_pile_up(guarded: Guarded) -> None:
    """Old names go though nobody ever looks at the circuits: a new shard makes room for itself."""
    for key in (b"a", b"b", b"c"):
        guarded.store.names = {key.decode()}
        await guarded.call(key=key)
    assert guarded.guard._circuits.keys() == {"c"}


async def test_a_shard_that_goes_under_a_call(guarded: Guarded) -> None:
    """A call whose shard is forgotten meanwhile ends as any other."""
    guarded.store.holds = True
    call = asyncio.create_task(guarded.call())
    await asyncio.sleep(0)
    guarded.store.names = {"b"}
    assert guarded.guard.circuits() == []
    guarded.store.gates[0].set_exception(DOWN)
    with pytest.raises(RedisUnavailable):
        await call
    assert guarded.guard.circuits() == []


def test_every_failure_has_been_thought_of() -> None:
    """A new kind of failure has to be put on one side or the other, here and in the guard."""
    from_the_store = {RedisUnavailable, DeadlineExceeded, *map(type, HARMLESS)}
    from_elsewhere = {
        CircuitOpen,
        Internal,
        InvalidResponse,
        MethodNotAllowed,
        NotFound,
        Overloaded,
        RateLimited,
        Unauthorized,
        Unrecorded,
    }
    assert set(all_failures()) <= from_the_store | from_elsewhere


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([DOWN, LATE, None, *HARMLESS]))))
def test_a_circuit_is_the_story_of_its_shard(story: list[tuple[str, Failure | None]]) -> None:
    """Whatever happens on another shard, a circuit opens after its own five failures in a row."""

    async def live() -> None:
        guarded = Guarded()
        rows = {"a": 0, "b": 0}
        for shard, fault in story:
            key = shard.encode()
            if rows[shard] >= 5:
                await guarded.refused(key)
            elif fault is None:
                await guarded.call(key=key)
                rows[shard] = 0
            else:
                await guarded.fail(1, fault, key)
                if isinstance(fault, RedisUnavailable | DeadlineExceeded):
                    rows[shard] += not isinstance(fault, Declined)
                else:
                    rows[shard] = 0

    asyncio.run(live())


class TestOrders:
    async def test_all_circuits(self, guarded: Guarded) -> None:
        """An order without a name is about every circuit, those that come later too."""
        await guarded.call(key=b"a")
        assert guarded.guard.obey([Order(Mode.FORCED_OPEN)]) == 3
        assert await guarded.refused(b"a") == pytest.approx(SETTINGS.open_seconds)
        await guarded.refused(b"b")
        assert {c.mode for c in guarded.guard.circuits()} == {"forced-open"}
        assert guarded.guard.obey([Order(Mode.AUTO)]) == 6
        assert await guarded.call(key=b"a") == await guarded.call(key=b"b") == b"reply"

    async def test_one_shard_or_one_access(self, guarded: Guarded) -> None:
        """What is not named stays as it is; the last order about a circuit counts."""
        await guarded.call(key=b"a")
        orders = [
            Order(Mode.DISABLED, access=Access.WRITE),
            Order(Mode.OBSERVE, "b"),
            Order(Mode.FORCED_OPEN, "b", Access.FALLBACK),
        ]
        assert guarded.guard.obey(orders) == 1
        await guarded.call(key=b"b")
        assert {(c.shard, c.access): c.mode for c in guarded.guard.circuits()} == {
            ("a", "read"): "auto",
            ("a", "write"): "disabled",
            ("a", "fallback"): "auto",
            ("b", "read"): "observe",
            ("b", "write"): "observe",
            ("b", "fallback"): "forced-open",
        }

    async def test_what_is_in_force_is_all_that_is(self, guarded: Guarded) -> None:
        """An order that is gone holds no circuit, nor one that is made later."""
        await guarded.call(key=b"a")
        guarded.guard.obey([Order(Mode.FORCED_OPEN), Order(None, "a", Access.READ)])
        assert await guarded.call(key=b"a") == b"reply"
        await guarded.refused(b"b")
        assert guarded.guard.obey([]) == 5
        assert await guarded.call(key=b"b") == b"reply"
        assert {c.mode for c in guarded.guard.circuits()} == {"auto"}

    async def test_configured_mode(self) -> None:
        """Circuits about which there is no order are in the mode that was configured."""
        settings = GuardSettings(SETTINGS, MIN_BUDGET, mode=Mode.FORCED_OPEN)
        guarded = Guarded()
        guarded.guard = Guard(guarded.store, settings, lambda: guarded.now)
        await guarded.refused()
        guarded.guard.obey([Order(Mode.AUTO)])
        assert await guarded.call() == b"reply"
        guarded.guard.obey([Order(Mode.AUTO), Order(None)])
        await guarded.refused()

    async def test_forced_open_reads_go_elsewhere(self, guarded: Guarded) -> None:
        """An operator who keeps calls from a primary does not keep readers from its replica."""
        guarded.store.elsewhere = b"from the replica"
        guarded.guard.obey([Order(Mode.FORCED_OPEN, access=Access.READ)])
        done = await guarded.read()
        assert done.stale
        assert guarded.store.calls == []

    async def test_who_is_refused_is_told_of_the_order(self, guarded: Guarded) -> None:
        """Redis is not said to be ill where an operator holds the circuit open, and only there."""
        guarded.guard.obey([Order(Mode.FORCED_OPEN)])
        with pytest.raises(CircuitOpen, match=r"^Redis is not asked for this key, by order"):
            await guarded.call()
        guarded.guard.obey([])
        await guarded.fail(5)
        with pytest.raises(CircuitOpen, match=r"^Redis has not been answering"):
            await guarded.call()


@pytest.mark.parametrize("fault", [NotYet("loading"), Unconfirmed("no replica said so")])
async def test_what_passes_by_itself_is_probed_soon(guarded: Guarded, fault: Failure) -> None:
    """A circuit that opened because Redis is not ready yet asks again before its time is over."""
    await guarded.fail(5, fault)
    wait = await guarded.refused()
    assert wait == pytest.approx(0.5)
    guarded.now += wait
    await guarded.fail(1, fault)
    assert await guarded.refused() == pytest.approx(0.5), "nor does its time grow meanwhile"
    guarded.now += 0.5
    assert await guarded.call() == b"reply"
    assert guarded.circuit().state == "closed"


async def test_an_invitation_makes_nothing_later(guarded: Guarded) -> None:
    """Who may come sooner for another reason still may."""
    await guarded.fail(5)
    guarded.now += 9.8
    call = guarded.guard._circuits["a"].read
    call.invite(guarded.now + 0.5)
    assert await guarded.refused() == pytest.approx(0.2)
