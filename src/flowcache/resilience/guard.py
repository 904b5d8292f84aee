"""The guard: a store behind circuit breakers, whose reads survive their primary.

Each shard has a circuit for each `Access`: reads, writes, and reads that its fallback answers.
What counts for a circuit: no answer, or a refusal that says Redis is not well. What does not: a
client's mistake (Redis answered it), a call that Redis declines though it is well, and a timeout of
a call that gave Redis so little time that it proves nothing. Else one client with ``deadlineMs: 1``
could open the circuit for all, and so could whatever holds the event loop up: the time in which
nobody listened is not Redis's time (`LoopWatch.listened`). How slow calls are is judged by the same
clock, and so is when to hedge. A caller that gives up changes nothing: what was sent counts by what
becomes of it.

A read has a second chance where the shard has a fallback, which is a replica (or, where reads go to
replicas, the primary). There are three cases:

- *down*: the circuit is open, or the call failed: the fallback is asked at once;
- *slow*: no reply within the recent p95: the fallback is asked as well, the first reply counts.
  These *hedges* take from a budget, so that they never double the load;
- *stalled*: no reply within half of the deadline: the same, without a budget. A server that is
  slow for all has its p95 there soon; this is for one that answers nobody.

The first attempt goes on when another reply was faster, and settles its permit when it ends.

A probe must not depend on its caller's patience: a shard whose callers have all too short deadlines
would never be seen to be well again, and a flood of them would take the probe's place from callers
who can wait. So the probe of a call with a short deadline is sent at once and awaited beside the
call for ``probe_budget``. Its caller is answered at its own deadline, and after that nothing is
sent for it any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence, Set
from typing import Any, NamedTuple

import structlog

from flowcache.budget import Budget
from flowcache.errors import (
    AnsweredLate,
    CircuitOpen,
    DeadlineExceeded,
    Declined,
    Failure,
    RedisUnavailable,
)
from flowcache.executing import Executor, Heard, Receiver, Shard, Store, Tasks, whole
from flowcache.ports import (
    Access,
    Clock,
    Command,
    Done,
    Large,
    Mode,
    Order,
    Slow,
    unanswered,
)
from flowcache.resilience.breaker import (
    Breaker,
    BreakerSettings,
    Permit,
    Refused,
    State,
    Transition,
)
from flowcache.resilience.hedging import Patience
from flowcache.status import CircuitStatus, ReadStats

__all__ = ["Guard", "GuardSettings"]

_log = structlog.get_logger(__name__)

_SOON = 0.5
"""Seconds after which a circuit is probed again that opened for a reason that passes by itself."""

_MOMENT = 0.001
"""Seconds that are not worth waiting for."""

_Going = asyncio.Task[Done | Large | Failure]
"""An attempt that goes on beside the call that made it."""

_AILING = "Redis has not been answering for this key; it is given time to recover."
_ORDERED = "Redis is not asked for this key, by order of an operator, until that is taken back."


class GuardSettings(NamedTuple):
    """What a guard needs to know.

    ``min_budget`` is the least time, in seconds, that Redis must have had for a call's timeout to
    count; ``hedge_share`` the share of reads that may be hedged, 0 for none.
    """

    breaker: BreakerSettings
    min_budget: float
    hedge_share: float = 0.1
    probe_budget: float = 0.8
    """Seconds that Redis has to answer a probe, however little time its caller has."""
    mode: Mode = Mode.AUTO
    """Who decides about circuits until somebody switches them."""


class _Circuits:
    """The circuits of a shard, and how long its reads take."""

    __slots__ = ("fallback", "patience", "read", "write")

    def __init__(self, make: Callable[[Access], Breaker]) -> None:
        self.read = make(Access.READ)
        self.write = make(Access.WRITE)
        self.fallback = make(Access.FALLBACK)
        self.patience = Patience()

    def __iter__(self) -> Iterator[tuple[Access, Breaker]]:
        yield Access.READ, self.read
        yield Access.WRITE, self.write
        yield Access.FALLBACK, self.fallback


class _Attempt(Receiver):
    """A command that was let through. ``patience`` is None where it has no second chance."""

    __slots__ = (
        "circuit",
        "circuits",
        "command",
        "deadline",
        "guard",
        "heard",
        "patience",
        "permit",
        "receiver",
        "shard",
    )

    def __init__(
        self,
        guard: Guard,
        shard: Shard,
        circuits: _Circuits,
        circuit: Breaker,
        permit: Permit,
        command: Command,
        deadline: float,
        heard: float,
        patience: Patience | None,
        receiver: Receiver,
    ) -> None:
        self.guard = guard
        self.shard = shard
        self.circuits = circuits
        self.circuit = circuit
        self.permit = permit
        self.command = command
        self.deadline = deadline
        self.heard = heard
        """When it began, on the clock that Redis is judged by."""
        self.patience = patience
        self.receiver = receiver

    def hear(self, result: Heard) -> None:
        self.guard.judge(self, result)


class Guard(Executor):
    """A store that is not asked while it is known not to answer."""

    def __init__(
        self,
        store: Store,
        settings: GuardSettings,
        clock: Clock,
        listened: Clock | None = None,
    ) -> None:
        """``listened`` is the clock that Redis is judged by; ``clock`` where nobody watches."""
        self._store = store
        self._settings = settings
        self._min_budget = settings.min_budget
        self._clock = clock
        self._listened = listened or clock
        self._circuits: dict[str, _Circuits] = {}
        self._hedges = Budget(settings.hedge_share)
        self._orders: Sequence[Order] = ()
        """The last one that concerns a circuit counts."""
        self._rescues = 0
        self._elsewheres = 0
        self._tasks = Tasks()
        self._beside: set[_Going] = set()
        """Attempts that go on beside the call that made them."""

    def submit(self, command: Command, deadline: float, receiver: Receiver) -> None:
        """Run ``command`` within ``deadline``, unless the circuit of its shard is open.

        Raises:
            CircuitOpen: nothing was sent; ``retry_after`` is when the next probe may go.
            Failure: as `Executor.execute`.
        """
        shard = self._store.shard(command)
        circuits = self._circuits.get(shard.name) or self._new_circuits(shard.name)
        began, heard = self._clock(), self._listened()
        if command.writes:
            circuit, slow_at, second_chance = circuits.write, None, False
        else:
            self._hedges.deposit()
            circuit, second_chance = circuits.read, shard.has_fallback()
            slow_at = heard + circuits.patience.seconds() if second_chance else None
        permit = circuit.acquire(began)
        if isinstance(permit, Refused):
            why = _ORDERED if permit.is_ordered else _AILING
            refusal = CircuitOpen(why, retry_after=permit.retry_after)
            refusal.shard = shard.name
            if not second_chance:
                raise refusal
            rest = self._elsewhere(shard, circuits, command, deadline, refusal)
            self._tell(receiver, shard, rest)
        elif deadline - began < self._min_budget and circuit.is_probe(permit):
            probe = self._send_probe(circuit, permit, shard, command, deadline, heard)
            rest = (
                self._with_hedge(probe, shard, circuits, command, deadline, heard, is_patient=True)
                if second_chance
                else self._until(deadline, probe, command)
            )
            self._tell(receiver, shard, rest)
        else:
            patience = circuits.patience if second_chance else None
            attempt = _Attempt(
                self, shard, circuits, circuit, permit, command, deadline, heard, patience, receiver
            )
            try:
                self._store.submit_at(shard, command, deadline, attempt, slow_at)
            except Exception as fault:
                attempt.hear(fault)

    def judge(self, attempt: _Attempt, result: Heard) -> None:
        """Settle an attempt, unless it goes on, and see to what its receiver hears."""
        shard, circuits, receiver = attempt.shard, attempt.circuits, attempt.receiver
        command, deadline, heard = attempt.command, attempt.deadline, attempt.heard
        if isinstance(result, Slow):
            rest = self._judged(
                result.rest, attempt.circuit, attempt.permit, deadline, heard, attempt.patience
            )
            first = self._beside_call(_as_value(rest))
            second = self._with_hedge(first, shard, circuits, command, deadline, heard)
            self._tell(receiver, shard, second)
            return
        if isinstance(result, BaseException):
            self._settle_failed(attempt.circuit, attempt.permit, result, deadline, heard)
            if attempt.patience is not None and isinstance(result, RedisUnavailable):
                elsewhere = self._elsewhere(shard, circuits, command, deadline, result)
                self._tell(receiver, shard, elsewhere)
                return
            if isinstance(result, Failure):
                result.shard = shard.name
            receiver.hear(result)
            return
        seconds = self._listened() - heard
        attempt.circuit.succeed(attempt.permit, self._clock(), seconds)
        if attempt.patience is not None:
            attempt.patience.observe(seconds)
        if isinstance(result, Large):  # the circuits have judged by now
            self._tell(receiver, shard, result.fetch())
        else:
            receiver.hear(result)

    def _tell(self, receiver: Receiver, shard: Shard, rest: Awaitable[Done | Large]) -> None:
        """Have ``receiver`` hear what comes of ``rest``, a large value as a whole."""
        self._tasks.tell(receiver, whole(shard.name, rest))

    def _send_probe(
        self,
        circuit: Breaker,
        permit: Permit,
        shard: Shard,
        command: Command,
        deadline: float,
        heard: float,
    ) -> _Going:
        """Send a probe whose caller has little time, and wait for its reply beside the call."""
        until = self._clock() + self._settings.probe_budget
        attempt = self._store.execute_at(shard, command, deadline, None, until)
        return self._beside_call(_as_value(self._judged(attempt, circuit, permit, deadline, heard)))

    async def _until(self, deadline: float, attempt: _Going, command: Command) -> Done | Large:
        """Return the reply of an attempt that may take longer than its caller waits."""
        await asyncio.wait((attempt,), timeout=max(0.0, deadline - self._clock()))
        if attempt.done():
            return _or_raise(attempt.result())
        raise unanswered(command)

    # -- second chances ---------------------------------------------------------------------------

    async def _elsewhere(
        self,
        shard: Shard,
        circuits: _Circuits,
        command: Command,
        deadline: float,
        why: Failure,
    ) -> Done | Large:
        """Have a read answered by the shard's fallback.

        Raises:
            Failure: ``why`` the first place had no reply, if this one has none either.
        """
        heard = self._listened()
        circuit = circuits.fallback
        permit = circuit.acquire(self._clock())
        if isinstance(permit, Refused):
            raise why
        try:
            done = await self._store.read_elsewhere(shard, command, deadline)
        except BaseException as fault:
            self._settle_failed(circuit, permit, fault, deadline, heard)
            if _is_no_answer(fault):
                raise why from None
            raise
        circuit.succeed(permit, self._clock(), self._listened() - heard)
        self._elsewheres += 1
        return done

    async def _with_hedge(
        self,
        first: _Going,
        shard: Shard,
        circuits: _Circuits,
        command: Command,
        deadline: float,
        heard: float,
        *,
        is_patient: bool = False,
    ) -> Done | Large:
        """Have a read whose first attempt takes long answered by whoever is faster.

        ``is_patient``: the first attempt may take longer than until the deadline.
        """
        if not self._hedges.withdraw(self._clock()):
            await self._wait_halfway(first, deadline, heard, is_patient=is_patient)
            if first.done() and not _is_no_answer(first.result()):
                return _or_raise(first.result())
            self._rescues += not first.done()
        late = unanswered(command)
        second = self._beside_call(
            _as_value(self._elsewhere(shard, circuits, command, deadline, late))
        )
        attempts = (first, second)
        waiting: set[_Going] = set(attempts)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for attempt in attempts:  # of two that are done the first has the newer reply
                if attempt in done and not _is_no_answer(attempt.result()):
                    return _or_raise(attempt.result())
            if is_patient and second in done:
                return await self._until(deadline, first, command)
        return _or_raise(first.result())

    async def _wait_halfway(
        self,
        first: _Going,
        deadline: float,
        heard: float,
        *,
        is_patient: bool,
    ) -> None:
        """Wait for an attempt until half of its time is over; what the loop lost comes on top.

        An attempt that is patient has no end of its own at the deadline: there the wait has one.
        """
        clock, listened = self._clock, self._listened
        left = (deadline - clock() - (listened() - heard)) / 2
        while left > _MOMENT and not first.done():
            lost = clock() - listened()
            await asyncio.wait((first,), timeout=left)
            left = clock() - listened() - lost
            if is_patient:
                left = min(left, deadline - clock())

    async def _judged(
        self,
        rest: Awaitable[Done | Slow | Large],
        circuit: Breaker,
        permit: Permit,
        deadline: float,
        heard: float,
        patience: Patience | None = None,
    ) -> Done | Large:
        """Await the rest of an attempt and settle its permit, wanted or not."""
        try:
            done = await rest
        except BaseException as fault:
            self._settle_failed(circuit, permit, fault, deadline, heard)
            raise
        assert not isinstance(done, Slow)  # it is the rest of one, or was sent with no `slow_at`
        seconds = self._listened() - heard
        circuit.succeed(permit, self._clock(), seconds)
        if patience is not None:
            patience.observe(seconds)
        return done

    def _beside_call(self, attempt: Coroutine[Any, Any, Done | Large | Failure]) -> _Going:
        task = asyncio.create_task(attempt)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task

    def _settle_failed(
        self, circuit: Breaker, permit: Permit, fault: BaseException, deadline: float, heard: float
    ) -> None:
        """Give a permit back after a call that has no reply.

        ``heard`` is when the call began, on the clock that Redis is judged by.
        """
        now = self._clock()
        seconds = self._listened() - heard
        was_open = circuit.state(now) is State.OPEN
        if isinstance(fault, Declined):
            circuit.ignore(permit, now)
        elif isinstance(fault, RedisUnavailable):
            circuit.fail(permit, now, seconds)
        elif isinstance(fault, DeadlineExceeded) and not isinstance(fault, AnsweredLate):
            # What was left until the deadline counts as well: a write that replicas did not confirm
            # fails a moment before it.
            enough = seconds + max(0.0, deadline - now) >= self._min_budget
            (circuit.fail if enough else circuit.ignore)(permit, now, seconds)
        elif isinstance(fault, Failure):  # Redis answered, and well
            circuit.succeed(permit, now, seconds)
        else:  # a cancellation, a bug: they say nothing about Redis
            circuit.ignore(permit, now)
        # Only for the failure that opened it: another may know of a reason that lasts.
        if isinstance(fault, Failure) and fault.probe_soon and not was_open:
            circuit.invite(now + _SOON)

    # -- circuits ---------------------------------------------------------------------------------

    def came_back(self, shard: str, accesses: Set[Access]) -> None:
        """Let the next such call probe at once, rather than when the open time is over."""
        circuits = self._circuits.get(shard)
        if circuits is not None:
            now = self._clock()
            for access, circuit in circuits:
                if access in accesses:
                    circuit.invite(now)

    def obey(self, orders: Sequence[Order]) -> int:
        """Take up the orders in force, oldest first, in place of those before.

        They hold for the circuits there are and those that are made later. Returns how many
        circuits changed their mode.
        """
        self._orders = tuple(orders)
        now = self._clock()
        return sum(
            circuit.switch(self._mode(shard, access), now)
            for shard, circuits in self._circuits.items()
            for access, circuit in circuits
        )

    def _mode(self, shard: str, access: Access) -> Mode:
        """Return the mode that the last order about a circuit wants, or else the configuration."""
        modes = (each.mode for each in reversed(self._orders) if each.covers(shard, access))
        return next(modes, None) or self._settings.mode

    def circuits(self) -> list[CircuitStatus]:
        """Return the circuits of each shard that has been called."""
        self._forget_the_gone()
        now = self._clock()
        return [
            _status(shard, access, circuit, now)
            for shard, circuits in self._circuits.items()
            for access, circuit in circuits
        ]

    def reads(self) -> ReadStats:
        """Return how many reads got a second chance."""
        hedges = self._hedges
        return ReadStats(hedges.spent, hedges.refused, self._rescues, self._elsewheres)

    async def close(self) -> None:
        """End the attempts that nobody waits for any more."""
        await asyncio.sleep(0)  # a task that never had its turn would not give its permit back
        for attempt in self._beside:
            attempt.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await self._tasks.close()

    def _new_circuits(self, shard: str) -> _Circuits:
        self._forget_the_gone()
        made = self._circuits[shard] = _Circuits(
            lambda access: Breaker(
                self._settings.breaker, _reporter(shard, access), mode=self._mode(shard, access)
            )
        )
        return made

    def _forget_the_gone(self) -> None:
        """Drop circuits of shards that are no more: nobody calls them, so they would never close.

        A shard is named for its primary: each failover leaves an old name behind.
        """
        live = self._store.shards()
        for shard in self._circuits.keys() - live:
            del self._circuits[shard]


def _is_no_answer(result: object) -> bool:
    """Tell whether a call ended without an answer from Redis, be it a refusal."""
    return isinstance(result, RedisUnavailable | DeadlineExceeded | CircuitOpen)


async def _as_value(call: Awaitable[Done | Large]) -> Done | Large | Failure:
    """Return what came of a call, or the failure it ended with."""
    try:
        return await call
    except Failure as failure:
        return failure


def _or_raise(result: Done | Large | Failure) -> Done | Large:
    if isinstance(result, Failure):
        raise result
    return result


def _status(shard: str, access: Access, circuit: Breaker, now: float) -> CircuitStatus:
    snapshot = circuit.snapshot(now)
    return CircuitStatus(
        shard=shard,
        access=access.value,
        mode=snapshot.mode.value,
        state=snapshot.state.value,
        failures=snapshot.failures,
        calls=snapshot.calls,
        failure_rate=snapshot.failure_rate,
        slow_rate=snapshot.slow_rate,
        retry_after=round(snapshot.retry_after, 3),
        reopened=snapshot.reopened,
        refused=snapshot.refused,
        would_refuse=snapshot.would_refuse,
        transitions={state.value: count for state, count in snapshot.transitions.items()},
    )


def _reporter(shard: str, access: Access) -> Callable[[Transition], None]:
    def report(transition: Transition) -> None:
        _log.warning(
            "circuit",
            shard=shard,
            access=access.value,
            before=transition.before.value,
            after=transition.after.value,
            reason=transition.reason.value,
            mode=transition.mode.value,
        )

    return report
