"""Running one call for one principal: from the bytes of its body to the bytes of its answer.

    room -> decode -> coerce -> plan -> authorise -> execute -> read reply -> encode -> record

A call is started by `Calls.start`, and whoever started it (`Caller`) is answered once, or the call
is cancelled. The methods of `Calls` stand in the order of the steps, and each calls the next one.
So no coroutine is made for a call that need not wait: it is sent while its request is read, and
answered while its reply is read. The steps that may have to wait are *decode* and *read reply* of
something large, which take turns (`fair`), and in strict mode *execute* of a write and the answer
itself, which wait for the disk. There the step is left to a coroutine, which goes on when the wait
is over (`Calls._later`).

*Room* comes before all that costs time: a call that there is none for is refused undecoded. Where
values are encrypted, *execute* encrypts and decrypts them (`encryption.vault`). Whatever fails on
the way raises, and `Calls.refuse` makes an outcome of it, of a bug as well.

Whose call it is, and how its body arrived, is the business of whoever serves it (`api`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from time import time
from typing import Any

import msgspec

from flowcache.audit.attempt import Attempt, Kept, on_disk
from flowcache.authz.principal import Principal
from flowcache.authz.verdict import Deny, judge, placed, refusal
from flowcache.calls.admission import Admission
from flowcache.calls.call import Call, Caller, Outcome, as_failure
from flowcache.calls.fair import FairTurns
from flowcache.calls.heavy import MOST, MOST_WAITING, HeavyReceiver, is_heavy
from flowcache.calls.room import Room
from flowcache.contract import answer, request
from flowcache.contract.bounds import DEAR, DEFAULT_BOUNDS, LIGHT, Bounds, weight
from flowcache.errors import DeadlineExceeded, Failure, Overloaded, Unrecorded
from flowcache.executing import Executor, Heard, Tasks
from flowcache.fair_queue import FairPlaces
from flowcache.operations.catalogue import CATALOGUE, plan
from flowcache.ports import AuditSink, Clock, Done, Metrics, Now, Reply, SizeLimits

__all__ = ["CallSettings", "Calls"]

_Rest = Callable[..., Coroutine[Any, Any, None]]


class CallSettings(msgspec.Struct, frozen=True):
    """What a call may take. Times are in seconds, sizes in bytes."""

    limits: request.TtlLimits = request.TtlLimits()
    sizes: SizeLimits = SizeLimits()
    bounds: Bounds = DEFAULT_BOUNDS
    deadline: float = 0.8
    once_lifetime: float = 600.0
    """How long a write with an idempotency key is remembered."""
    max_in_flight: int = 1024
    """How many calls may be at work at once."""


class Calls:
    """Run calls. ``next_id`` names them, ``now`` is Unix time."""

    def __init__(
        self,
        settings: CallSettings,
        executor: Executor,
        metrics: Metrics,
        audit: AuditSink,
        clock: Clock,
        next_id: Callable[[], str],
        admission: Admission | None = None,
        now: Now = time,
    ) -> None:
        self.in_flight = 0
        """Calls that have not been answered."""
        self.admission = admission or Admission(settings.max_in_flight)
        self._idle: asyncio.Event | None = None
        self._turns = FairTurns(clock)
        self._room = Room()
        self._heavy = FairPlaces(MOST)
        """Where heavy writes are done (`heavy`)."""
        self._tasks = Tasks()
        self._settings = settings
        self._executor = executor
        self._metrics = metrics
        self._audit = audit
        self._clock = clock
        self._now = now
        self._next_id = next_id
        self._most = settings.sizes.answer
        """Bytes of an answer."""
        self._once_lifetime_ms = round(settings.once_lifetime * 1000)

    def open(self, caller: Caller) -> Call:
        """Return a call that has come. Next it is started, refused or cancelled, whatever happens.

        ``caller`` is answered once it was started or refused.
        """
        self.in_flight += 1
        attempt = Attempt(self._audit, self._now, self._next_id())
        return Call(self, caller, attempt, self._clock())

    # -- the line ---------------------------------------------------------------------------------

    def start(self, call: Call, principal: Principal, raw: bytes) -> None:
        """Run what the body ``raw`` asks for, for ``principal``."""
        call.principal = principal
        try:
            self._enter(call, raw)
        except Exception as fault:
            self.refuse(call, fault)

    def _enter(self, call: Call, raw: bytes) -> None:
        """Take a place among the calls at work."""
        began = self._clock()
        call.share = self.admission.enter(call.principal.name)
        if len(raw) > LIGHT and (weighs := weight(raw)) > DEAR:
            self._hold(call, weighs)
            if not self._turns.has_turn(weighs):
                self._later(call, self._understand_in_turn, raw, began)
                return
        self._understand(call, raw, began)

    async def _understand_in_turn(self, call: Call, raw: bytes, began: float) -> None:
        # Half of the time is for Redis, and the call may have less of its own.
        await self._turn(call, began + self._settings.deadline / 2)
        self._understand(call, raw, began)

    def _understand(self, call: Call, raw: bytes, began: float) -> None:
        """Turn a body into what is to be done and until when, and keep nothing else of it."""
        attempt, principal, settings = call.attempt, call.principal, self._settings
        body = request.decode(raw, settings.bounds)
        call.name = name = request.operation_name(body)
        if name in CATALOGUE:  # another may be anything, a customer's data in the wrong field too
            attempt.operation = name
        try:
            wanted = request.coerce(body, principal.limits or settings.limits)
        except Failure:
            attempt.flow_id, attempt.interaction_id, attempt.key = request.legible(body)
            raise
        attempt.flow_id, attempt.interaction_id = wanted.flow_id, wanted.interaction_id
        attempt.key = wanted.key
        call.deadline = began + self._patience(wanted)
        operation, command = plan(wanted, self._once_lifetime_ms, principal.sizes or settings.sizes)
        attempt.operation = operation.name
        verdict = judge(principal, operation.permissions, operation.name, command)
        if isinstance(verdict, Deny):
            raise refusal(verdict)
        call.operation, call.command = operation, placed(command, principal)
        if call.held and call.deadline <= self._clock():
            raise DeadlineExceeded("The call's time was over before its body was decoded.")
        self._audit.admit()
        kept = attempt.intend(self._ms_since(began)) if command.writes else None
        if kept is not None:
            self._later(call, self._send_once_intended, kept)
        else:
            self._send(call)

    async def _send_once_intended(self, call: Call, kept: Awaitable[bool]) -> None:
        if (unkept := await self._unkept(call, kept, is_told=True)) is not None:
            raise unkept
        self._send(call)

    def _send(self, call: Call) -> None:
        """Have the command executed; `resume` hears the rest."""
        command, deadline = call.command, call.deadline
        assert deadline is not None
        if not is_heavy(command):
            call.repeatable = command.is_repeatable
            self._executor.submit(command, deadline, call)
        elif self._heavy.take():
            self._send_heavy(call, deadline)
        elif self._heavy.waiting(call.principal.name) < MOST_WAITING:
            self._later(call, self._send_in_turn, deadline)
        else:
            raise Overloaded("Too many large writes of this client wait.")

    async def _send_in_turn(self, call: Call, deadline: float) -> None:
        try:
            # Half of the time is for Redis.
            async with asyncio.timeout((deadline - self._clock()) / 2):
                await self._heavy.wait(call.principal.name)
        except TimeoutError:
            raise Overloaded("flowcache has too many large writes at work.") from None
        self._send_heavy(call, deadline)

    def _send_heavy(self, call: Call, deadline: float) -> None:
        """Have a command executed that has a place for it."""
        receiver = HeavyReceiver(self._heavy, call, self._settings.deadline)
        call.repeatable = call.command.is_repeatable
        try:
            self._executor.submit(call.command, deadline, receiver)
        except Failure:
            self._heavy.give()
            raise

    def resume(self, call: Call, result: Heard) -> None:
        """Go on with what came of the command."""
        if call.is_over:
            return
        self._leave(call)
        try:
            if isinstance(result, Done):
                self._read(call, result)
            else:
                assert isinstance(result, BaseException)
                self.refuse(call, result)
        except Exception as fault:
            self.refuse(call, fault)

    def _read(self, call: Call, done: Done) -> None:
        """Read the reply, now or if it is large in its turn."""
        call.attempt.shard, call.attempt.stale = done.shard, done.stale
        if not call.command.writes and (weighs := _weight(done.reply)) > DEAR:
            self._hold(call, weighs)
            if not self._turns.has_turn(weighs):
                self._later(call, self._finish_in_turn, done.reply)
                return
        self._finish(call, done.reply)

    async def _finish_in_turn(self, call: Call, reply: Reply) -> None:
        assert call.deadline is not None
        await self._turn(call, call.deadline)
        self._finish(call, reply)

    def _finish(self, call: Call, reply: Reply) -> None:
        """Turn a reply into an answer."""
        self._leave(call)
        data, hit = call.operation.read(reply, self._settings.bounds)
        latency_ms, attempt = self._ms_since(call.started), call.attempt
        told = answer.succeeded(data, attempt.id, latency_ms, call.name, hit, attempt.stale)
        outcome = Outcome(answer.encode(told, self._most))
        self._settle(call, outcome, hit, latency_ms)

    def refuse(self, call: Call, fault: BaseException) -> None:
        """End a call that failed, be it with a bug."""
        attempt = call.attempt
        failure = as_failure(fault, attempt.id, operation=attempt.operation)
        if call.is_over:
            return
        self._leave(call)
        attempt.shard = attempt.shard or failure.shard
        self._settle(call, *self._failed(call, failure))

    def _failed(self, call: Call, failure: Failure) -> tuple[Outcome, None, float]:
        """Return outcome, hit and latency of a call that failed. A failure is no miss."""
        self.admission.refusals += isinstance(failure, Overloaded)
        latency_ms = self._ms_since(call.started)
        body = answer.encode_failed(failure, call.attempt.id, latency_ms, call.name)
        return Outcome(body, failure), None, latency_ms

    def _settle(self, call: Call, outcome: Outcome, hit: bool | None, latency_ms: float) -> None:
        """Record a call; then it is answered. What a caller is told has been kept."""
        code = "ok" if outcome.failure is None else outcome.failure.code
        kept = call.attempt.conclude(code, hit, latency_ms)
        if kept is not None:
            self._later(call, self._answer_once_kept, kept, outcome, hit, latency_ms)
        else:
            self._answer(call, outcome, hit, latency_ms)

    async def _answer_once_kept(
        self,
        call: Call,
        kept: Awaitable[bool],
        outcome: Outcome,
        hit: bool | None,
        latency_ms: float,
    ) -> None:
        unkept = await self._unkept(call, kept, is_told=outcome.failure is None)
        if unkept is not None:
            outcome, hit, latency_ms = self._failed(call, unkept)
            call.attempt.conclude(unkept.code, hit, latency_ms)
        self._answer(call, outcome, hit, latency_ms)

    def _answer(self, call: Call, outcome: Outcome, hit: bool | None, latency_ms: float) -> None:
        """Count a call, and answer it."""
        code = "ok" if outcome.failure is None else outcome.failure.code
        self._metrics.record(call.attempt.operation, code, hit, latency_ms)
        self._end(call)
        call.caller.answer(outcome)

    # -- the end ----------------------------------------------------------------------------------

    def cancel(self, call: Call) -> None:
        """End a call that nobody waits for. It may have reached Redis: it is recorded as any other.

        A call that was answered stays as it is.
        """
        if call.is_over:
            return
        self._leave(call)
        latency_ms = self._ms_since(call.started)
        call.attempt.conclude("cancelled", None, latency_ms)
        self._metrics.record(call.attempt.operation, "cancelled", None, latency_ms)
        self._end(call)
        if call.task is not None:
            call.task.cancel()

    async def finish(self, seconds: float) -> None:
        """Let the calls in flight end, for at most ``seconds``; called once, at the end."""
        if self.in_flight:
            self._idle = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()

    def _end(self, call: Call) -> None:
        call.is_over = True
        self.in_flight -= 1
        if self._idle is not None and not self.in_flight:
            self._idle.set()

    def _leave(self, call: Call) -> None:
        """Give back the place of a call, and the room of what was held for it."""
        if call.share is not None:
            self.admission.leave(call.share)
            call.share = None
        if call.held:
            self._room.give(call.principal.name, call.held)
            call.held = 0

    # -- waiting ----------------------------------------------------------------------------------

    def _later(self, call: Call, rest: _Rest, *known: Any) -> None:
        """Leave the rest of a call to a coroutine, with what is ``known`` so far."""
        call.task = self._tasks.run(self._guarded(call, rest, *known))

    async def _guarded(self, call: Call, rest: _Rest, *known: Any) -> None:
        try:
            await rest(call, *known)
        except Exception as fault:
            self.refuse(call, fault)

    def _hold(self, call: Call, weighs: int) -> None:
        """Hold something large for a call, until it `_leave`s.

        Raises:
            Overloaded: its client has too much already. Nothing was done.
        """
        if not self._room.take(call.principal.name, weighs):
            raise Overloaded("flowcache holds too many large bodies and values of this client.")
        call.held = weighs

    async def _turn(self, call: Call, deadline: float) -> None:
        """Wait until a call may decode or encode what is held for it.

        Raises:
            Overloaded: others are before it, too many or for too long. Nothing was done.
        """
        if not await self._turns.wait(call.principal.name, deadline, call.held):
            raise Overloaded("flowcache has too many large bodies and values at work.")

    async def _unkept(self, call: Call, kept: Awaitable[bool], *, is_told: bool) -> Failure | None:
        """Wait until a record is on disk; return what to answer instead when it is not.

        None: the call goes on, or its answer may leave. So may one that tells nothing, a refusal,
        when its record is late.
        """
        deadline = call.deadline
        seconds = self._settings.deadline if deadline is None else deadline - self._clock()
        done = "" if call.repeatable else " Redis may have done what was asked."
        match await on_disk(kept, seconds):
            case Kept.LATE if is_told:
                return DeadlineExceeded(
                    f"The audit record of this call was not on disk in time.{done}",
                    retryable=call.repeatable,
                )
            case Kept.FAILED:
                return Unrecorded(
                    f"The audit record of this call can't be written.{done}",
                    retryable=call.repeatable,
                )
        return None

    def _patience(self, wanted: request.Request) -> float:
        """Return the seconds this call may take from when its body was there."""
        if wanted.deadline_ms is None:
            return self._settings.deadline
        return min(self._settings.deadline, wanted.deadline_ms / 1000)

    def _ms_since(self, started: float) -> float:
        return int((self._clock() - started) * 1e6 + 0.5) / 1000


def _weight(reply: Reply) -> int:
    """Return what it costs to read and encode a reply; 0: little."""
    if isinstance(reply, bytes):
        return weight(reply) if len(reply) > LIGHT else 0
    if isinstance(reply, dict):
        texts = (len(value) for value in reply.values() if isinstance(value, bytes))
        return len(reply) + sum(texts) // 64
    return 0
