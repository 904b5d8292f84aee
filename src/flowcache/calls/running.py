"""Running one call for one principal: from the bytes of its body to the bytes of its answer.

    room -> decode -> coerce -> plan -> authorise -> execute -> read reply -> encode -> record

`Calls._act` is that line up to *read reply*. Only *execute* waits, and in strict mode the record,
for the disk; everything else is synchronous. A large body or reply waits for its turn as well
(`fair`). *Room* comes before all that costs time: a call that there is none for is refused
undecoded. Where values are encrypted, *execute* encrypts and decrypts them (`encryption.vault`).
Whatever fails on the way raises a `Failure`, which becomes an outcome in one place, `_settle`; so
does a bug.

Whose call it is, and how its body arrived, is the business of whoever serves it (`api`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from time import time

import msgspec

from flowcache.audit.attempt import Attempt, Kept, on_disk
from flowcache.authz.principal import Principal
from flowcache.authz.verdict import Deny, judge, placed, refusal
from flowcache.calls.admission import Admission
from flowcache.calls.call import Call, Outcome, as_failure
from flowcache.calls.fair import FairTurns
from flowcache.calls.room import Room
from flowcache.contract import answer, request
from flowcache.contract.bounds import DEAR, DEFAULT_BOUNDS, LIGHT, Bounds, weight
from flowcache.errors import DeadlineExceeded, Failure, Overloaded, Unrecorded
from flowcache.operations.catalogue import CATALOGUE, plan
from flowcache.operations.operation import Operation, Result
from flowcache.ports import (
    AuditSink,
    Clock,
    Command,
    Executor,
    Metrics,
    Now,
    Reply,
    SizeLimits,
)

__all__ = ["CallSettings", "Calls"]


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
        store: Executor,
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
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._audit = audit
        self._clock = clock
        self._now = now
        self._next_id = next_id
        self._most = settings.sizes.answer
        """Bytes of an answer."""
        self._once_lifetime_ms = round(settings.once_lifetime * 1000)

    @contextmanager
    def open(self) -> Iterator[Call]:
        """Begin a call that is answered within the block: by what `run` or `refuse` returns.

        A call that is cancelled there may have reached Redis: it is an attempt like any other.
        """
        call = Call(Attempt(self._audit, self._now, self._next_id()), self._clock())
        self.in_flight += 1
        try:
            yield call
        except asyncio.CancelledError:
            if not call.is_counted:
                latency_ms = self._ms_since(call.started)
                call.attempt.conclude("cancelled", None, latency_ms)
                self._metrics.record(call.attempt.operation, "cancelled", None, latency_ms)
            raise
        finally:
            self.in_flight -= 1
            if self._idle is not None and not self.in_flight:
                self._idle.set()

    async def finish(self, seconds: float) -> None:
        """Let the calls in flight end, for at most ``seconds``; called once, at the end."""
        if self.in_flight:
            self._idle = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()

    async def run(self, call: Call, principal: Principal, raw: bytes) -> Outcome:
        """Run what the body ``raw`` asks for."""
        try:
            data, hit = await self._act(call, principal, raw)
            latency_ms = self._ms_since(call.started)
            name, attempt = call.operation, call.attempt
            told = answer.succeeded(data, attempt.id, latency_ms, name, hit, attempt.stale)
            body = answer.encode(told, self._most)
        except Exception as fault:
            return await self.refuse(call, fault)
        return await self._settle(call, Outcome(body), hit, latency_ms)

    async def refuse(self, call: Call, fault: Exception) -> Outcome:
        """End a call that failed, be it with a bug."""
        attempt = call.attempt
        failure = as_failure(fault, attempt.id, operation=attempt.operation)
        attempt.shard = attempt.shard or failure.shard
        return await self._settle(call, *self._failed(call, failure))

    # -- the line ---------------------------------------------------------------------------------

    async def _act(self, call: Call, principal: Principal, raw: bytes) -> Result:
        began = self._clock()
        attempt = call.attempt
        held = 0
        share = self.admission.enter(principal.name)
        try:
            if len(raw) > LIGHT and (weighs := weight(raw)) > DEAR:
                self._make_room(principal.name, weighs)
                held = weighs
                # Half of the time is for Redis, and the call may have less of its own.
                await self._turn(principal.name, began + self._settings.deadline / 2, held)
            operation, command, deadline = self._understand(call, principal, raw, began)
            raw = b""  # the command holds what is left of it
            if held and deadline <= self._clock():
                raise DeadlineExceeded("The call's time was over before its body was decoded.")
            self._audit.admit()
            if command.writes:
                kept = attempt.intend(self._ms_since(began))
                if kept is not None:
                    await self._see_kept(call, kept)
                call.repeatable = command.once is not None
            done = await self._store.execute(command, deadline)
        finally:
            self.admission.leave(share)
            if held:
                self._room.give(principal.name, held)
        attempt.shard, attempt.stale, reply = done.shard, done.stale, done.reply
        if not command.writes and (weighs := _weight(reply)) > DEAR:
            self._make_room(principal.name, weighs)
            try:
                await self._turn(principal.name, deadline, weighs)
            finally:
                self._room.give(principal.name, weighs)
        return operation.read(reply, self._settings.bounds)

    async def _see_kept(self, call: Call, intent: Awaitable[bool]) -> None:
        """Pass when an intent is on disk.

        Raises:
            Failure: it is not, and nothing was done.
        """
        unkept = await self._unkept(call, intent, is_told=True)
        if unkept is not None:
            raise unkept

    def _understand(
        self, call: Call, principal: Principal, raw: bytes, began: float
    ) -> tuple[Operation, Command, float]:
        """Turn a body into what is to be done and until when, and keep nothing else of it.

        Raises:
            Failure: it can't be done, or may not be.
        """
        attempt = call.attempt
        body = request.decode(raw, self._settings.bounds)
        call.operation = name = request.operation_name(body)
        if name in CATALOGUE:  # another may be anything, a customer's data in the wrong field too
            attempt.operation = name
        try:
            wanted = request.coerce(body, principal.limits or self._settings.limits)
        except Failure:
            attempt.flow_id, attempt.interaction_id, attempt.key = request.legible(body)
            raise
        attempt.flow_id, attempt.interaction_id = wanted.flow_id, wanted.interaction_id
        attempt.key = wanted.key
        call.deadline = deadline = began + self._patience(wanted)
        sizes = principal.sizes or self._settings.sizes
        operation, command = plan(wanted, self._once_lifetime_ms, sizes)
        attempt.operation = operation.name
        verdict = judge(principal, operation.permissions, operation.name, command)
        if verdict.__class__ is Deny:
            raise refusal(verdict)
        return operation, placed(command, principal), deadline

    def _patience(self, wanted: request.Request) -> float:
        """Return the seconds this call may take from when its body was there."""
        if wanted.deadline_ms is None:
            return self._settings.deadline
        return min(self._settings.deadline, wanted.deadline_ms / 1000)

    def _make_room(self, client: str, weighs: int) -> None:
        """Hold something large for a client, until it is given back.

        Raises:
            Overloaded: it has too much already. Nothing was done.
        """
        if not self._room.take(client, weighs):
            raise Overloaded("flowcache holds too many large bodies and values of this client.")

    async def _turn(self, client: str, deadline: float, weighs: int) -> None:
        """Wait until this call may decode or encode something large.

        Raises:
            Overloaded: others are before it, too many or for too long. Nothing was done.
        """
        if not await self._turns.wait(client, deadline, weighs):
            raise Overloaded("flowcache has too many large bodies and values at work.")

    # -- the end ----------------------------------------------------------------------------------

    async def _settle(
        self, call: Call, outcome: Outcome, hit: bool | None, latency_ms: float
    ) -> Outcome:
        """Record and count a call. What its caller is told has been kept: else it is told that."""
        attempt = call.attempt
        code = "ok" if outcome.failure is None else outcome.failure.code
        kept = attempt.conclude(code, hit, latency_ms)
        if kept is not None:
            unkept = await self._unkept(call, kept, is_told=outcome.failure is None)
            if unkept is not None:
                outcome, hit, latency_ms = self._failed(call, unkept)
                code = unkept.code
                attempt.conclude(code, hit, latency_ms)
        self._metrics.record(attempt.operation, code, hit, latency_ms)
        call.is_counted = True
        return outcome

    def _failed(self, call: Call, failure: Failure) -> tuple[Outcome, None, float]:
        """Return outcome, hit and latency of a call that failed. A failure is no miss."""
        self.admission.refusals += isinstance(failure, Overloaded)
        latency_ms = self._ms_since(call.started)
        body = answer.encode_failed(failure, call.attempt.id, latency_ms, call.operation)
        return Outcome(body, failure), None, latency_ms

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

    def _ms_since(self, started: float) -> float:
        return round((self._clock() - started) * 1000, 3)


def _weight(reply: Reply) -> int:
    """Return what it costs to read and encode a reply; 0: little."""
    if isinstance(reply, bytes):
        return weight(reply) if len(reply) > LIGHT else 0
    if isinstance(reply, dict):
        texts = (len(value) for value in reply.values() if isinstance(value, bytes))
        return len(reply) + sum(texts) // 64
    return 0
