"""The way of a data action, from the socket to Redis and back.

    authenticate -> read -> room -> decode -> coerce -> plan -> authorise -> execute
    -> read reply -> encode -> record -> send

`DataAction._act` is that line up to *read reply*. Only reading the body and `execute` wait, and in
strict mode the record, for the disk; everything else is synchronous. A large body or reply waits
for its turn as well (`calls.fair`). *Room* comes before all that costs time: a call that there is
none for is refused undecoded. Where values are encrypted, *execute* seals and opens them
(`encryption.vault`): it takes and returns them in clear. Whatever fails on the way raises a
`Failure`, which becomes an answer in one place, `__call__`; so does a bug.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from time import time
from typing import Generic

import msgspec
import structlog

from flowcache.api.body import BodyReader
from flowcache.api.envelope import JSON_HEADERS, bug, failure_headers, request_ids
from flowcache.authn.gate import Gate, Unverified
from flowcache.authz.principal import Principal
from flowcache.authz.verdict import Deny, judge, placed, refusal
from flowcache.calls.admission import Admission
from flowcache.calls.fair import FairTurns
from flowcache.calls.room import Room
from flowcache.contract import answer, request
from flowcache.contract.bounds import DEAR, DEFAULT_BOUNDS, LIGHT, Bounds, weight
from flowcache.contract.coercion import MAX_CONTEXT_BYTES, MAX_KEY_BYTES, is_absent
from flowcache.errors import DeadlineExceeded, Failure, Overloaded, Unrecorded
from flowcache.operations.catalogue import CATALOGUE, plan
from flowcache.operations.operation import Operation, Result
from flowcache.ports import (
    AuditRecord,
    AuditSink,
    Clock,
    Command,
    Metrics,
    Reply,
    ShardedExecutor,
    ShardT,
    SizeLimits,
    Stale,
)
from flowcache.server.asgi import Receive, Scope, Send
from flowcache.server.turns import Turnstile

__all__ = ["DataAction", "DataActionSettings"]

_log = structlog.get_logger(__name__)


class DataActionSettings(msgspec.Struct, frozen=True):
    """What a data action may take. Times are in seconds, sizes in bytes."""

    limits: request.TtlLimits = request.TtlLimits()
    sizes: SizeLimits = SizeLimits()
    bounds: Bounds = DEFAULT_BOUNDS
    deadline: float = 0.8
    max_body: int = 256 * 1024
    body_timeout: float = 2.0
    max_answer: int = 512 * 1024
    once_lifetime: float = 600.0
    """How long a write with an idempotency key is remembered."""
    max_in_flight: int = 1024
    """How many calls may be at work at once."""
    max_unfinished: int = 32 << 20
    """How many bytes of bodies that are not complete may be held."""
    most_unfinished: int = 2048
    """How many bodies may be incomplete: half of the connections there are by default."""


def _weight(reply: Reply) -> int:
    """Return what it costs to read and encode a reply; 0: little."""
    if isinstance(reply, bytes):
        return weight(reply) if len(reply) > LIGHT else 0
    if isinstance(reply, dict):
        texts = (len(value) for value in reply.values() if isinstance(value, bytes))
        return len(reply) + sum(texts) // 64
    return 0


_Subject = tuple[str | None, str | None, bytes | None]


class _Call:
    """What is known of a call so far: what a failure's answer and the audit can tell."""

    __slots__ = (
        "address",
        "body",
        "client",
        "counted",
        "deadline",
        "id",
        "intended",
        "operation",
        "ran",
        "recorded",
        "repeatable",
        "shard",
        "stale",
        "subject",
    )

    def __init__(self, call_id: str) -> None:
        self.id = call_id
        self.address: str | None = None
        """Where it comes from; behind trusted proxies, not the connection's."""
        self.client: str | None = None
        self.body: request.Body | None = None
        self.operation: str | None = None
        """As the caller named it."""
        self.ran: str | None = None
        """As the catalogue names it: SET of a hash runs as HSET."""
        self.subject: _Subject | None = None
        """Flow, interaction and key. The value is not kept: decoded it may be large."""
        self.stale = False
        """Whether a replica gave the reply in its primary's place."""
        self.shard: str | None = None
        self.deadline: float | None = None
        self.intended = False
        """Whether a record says that this write is about to be done."""
        self.repeatable = True
        """Whether nothing was done that could be done twice."""
        self.recorded = False
        """Whether a record says what came of it."""
        self.counted = False
        """Whether it was counted: then its answer is known and on its way."""


class DataAction(Generic[ShardT]):
    """The ASGI endpoint ``POST /data-action/redis``."""

    def __init__(
        self,
        settings: DataActionSettings,
        gate: Gate,
        store: ShardedExecutor[ShardT],
        metrics: Metrics,
        audit: AuditSink,
        clock: Clock,
        admission: Admission | None = None,
        turns: Turnstile | None = None,
    ) -> None:
        self.in_flight = 0
        """Calls that wait for an answer."""
        self.admission = admission or Admission(settings.max_in_flight)
        self._idle: asyncio.Event | None = None
        self._turns = turns or Turnstile()
        """What refusals of strangers take of each turn of the loop."""
        self._dear = FairTurns(clock)
        self._room = Room()
        self._settings = settings
        self._gate = gate
        self._store = store
        self._metrics = metrics
        self._audit = audit
        self._clock = clock
        self._body = BodyReader(
            settings.max_body,
            settings.body_timeout,
            clock,
            settings.max_unfinished,
            settings.most_unfinished,
        )
        self._once_lifetime_ms = round(settings.once_lifetime * 1000)
        self._next_id = request_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call, whatever it is, with one JSON object on one line."""
        started = self._clock()
        call = _Call(self._next_id())
        self.in_flight += 1
        try:
            try:
                result = await self._act(call, scope, receive)
                latency_ms = self._ms_since(started)
                status, outcome, hit = 200, "ok", result.hit
                headers: Iterable[tuple[bytes, bytes]] = JSON_HEADERS
                payload = answer.encode(
                    answer.succeeded(
                        result.data, call.id, latency_ms, call.operation, hit, call.stale
                    ),
                    self._settings.max_answer,
                )
            except Exception as fault:
                latency_ms, hit = self._ms_since(started), None
                status, outcome, headers, payload = self._refuse(fault, call, latency_ms)
            # The record comes before the answer: what a caller was told has been kept and counted.
            kept = self._audit_call(call, outcome, hit, latency_ms)
            call.recorded = True
            unkept = None if kept is None else await self._unkept(call, kept, outcome)
            if unkept is not None:
                latency_ms, hit = self._ms_since(started), None
                status, told, headers, payload = self._refuse(unkept, call, latency_ms)
                if told != outcome:
                    self._audit_call(call, told, hit, latency_ms, "correction")
                outcome = told
            self._metrics.record(_known_operation(call), outcome, hit, latency_ms)
            call.counted = True
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": payload})
        except asyncio.CancelledError:
            # It may have reached Redis: an attempt like any other.
            if not call.counted:
                latency_ms = self._ms_since(started)
                kind = "correction" if call.recorded else "call"
                self._audit_call(call, "cancelled", None, latency_ms, kind)
                self._metrics.record(_known_operation(call), "cancelled", None, latency_ms)
            raise
        finally:
            self.in_flight -= 1
            if self._idle is not None and not self.in_flight:
                self._idle.set()

    def _refuse(
        self, fault: Exception, call: _Call, latency_ms: float
    ) -> tuple[int, str, list[tuple[bytes, bytes]], bytes]:
        """Return status, code, headers and body of the answer to a call that failed.

        A function of its own, because `__call__` must not keep the exception in a variable: its
        traceback refers to that frame, and such a cycle would keep the call and its body in
        memory until the garbage collector runs.
        """
        failure = _as_failure(fault, call)
        self.admission.refusals += isinstance(failure, Overloaded)
        payload = answer.encode(
            answer.failed(failure, call.id, latency_ms, call.operation), self._settings.max_answer
        )
        return failure.status, failure.code, failure_headers(failure), payload

    async def finish(self, seconds: float) -> None:
        """Let the calls in flight end, for at most ``seconds``; called once, at the end."""
        if self.in_flight:
            self._idle = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()

    async def _act(self, call: _Call, scope: Scope, receive: Receive) -> Result:
        headers = scope["headers"]
        length = chunked = None
        for name, value in headers:
            if name == b"content-length":
                length = value
            elif name == b"transfer-encoding":
                chunked = value
        peer = scope.get("client")
        call.address = address = self._gate.address(peer, headers)
        try:
            try:
                principal = self._gate.identify(headers, address, peer, scope.get("extensions"))
            except Unverified:
                principal = await self._gate.verify(headers, address, peer, scope.get("extensions"))
        except Failure:
            await self._turns.wait()
            raise
        call.client = principal.name
        self._gate.admit(principal)
        raw = await self._body.read(receive, None if chunked else length)
        began = self._clock()
        dear = 0
        share = self.admission.enter(principal.name)
        try:
            if len(raw) > LIGHT and (weighs := weight(raw)) > DEAR:
                self._make_room(principal.name, weighs)
                dear = weighs
                # Half of the time is for Redis, and the call may have less of its own.
                latest = began + self._settings.deadline / 2
                await self._wait_for_turn(principal.name, latest, dear)
            operation, command, deadline = self._understand(call, principal, raw, began)
            raw = b""  # the command holds what is left of it
            if dear and deadline <= self._clock():
                raise DeadlineExceeded("The call's time was over before its body was decoded.")
            shard = self._store.shard(command.key)
            call.shard = shard.name
            self._audit.admit()
            if command.writes:
                if self._audit.wants_intents:
                    await self._intend(call, began)
                    shard = self._store.shard(command.key)  # the disk may have taken its time
                    call.shard = shard.name
                call.repeatable = command.once is not None
            reply = await self._store.execute_at(shard, command, deadline)
        finally:
            self.admission.leave(share)
            if dear:
                self._room.give(principal.name, dear)
        if reply.__class__ is Stale:
            call.stale, reply = True, reply.reply
        if not command.writes and (weighs := _weight(reply)) > DEAR:
            self._make_room(principal.name, weighs)
            try:
                await self._wait_for_turn(principal.name, deadline, weighs)
            finally:
                self._room.give(principal.name, weighs)
        return operation.read(reply, self._settings.bounds)

    def _understand(
        self, call: _Call, principal: Principal, raw: bytes, began: float
    ) -> tuple[Operation, Command, float]:
        """Turn a body into what is to be done and until when, and keep nothing else of it.

        Raises:
            Failure: it can't be done, or may not be.
        """
        call.body = body = request.decode(raw, self._settings.bounds)
        try:
            call.operation = request.operation_name(body)
            wanted = request.coerce(body, principal.limits or self._settings.limits)
            call.subject = wanted.flow_id, wanted.interaction_id, wanted.key
            call.deadline = deadline = began + self._patience(wanted)
            sizes = principal.sizes or self._settings.sizes
            operation, command = plan(wanted, self._once_lifetime_ms, sizes)
            call.ran = operation.name
            verdict = judge(principal, operation.permission, operation.name, command)
            if verdict.__class__ is Deny:
                raise refusal(verdict)
            return operation, placed(command, principal), deadline
        finally:
            body.value = None

    def _make_room(self, client: str, weighs: int) -> None:
        """Hold something large for a client, until it is given back.

        Raises:
            Overloaded: it has too much already. Nothing was done.
        """
        if not self._room.take(client, weighs):
            raise Overloaded("flowcache holds too many large bodies and values of this client.")

    async def _wait_for_turn(self, client: str, deadline: float, weighs: int) -> None:
        """Wait until this call may decode or encode something large.

        Raises:
            Overloaded: others are before it, too many or for too long. Nothing was done.
        """
        if not await self._dear.wait(client, deadline, weighs):
            raise Overloaded("flowcache has too many large bodies and values at work.")

    def _patience(self, wanted: request.Request) -> float:
        """Return the seconds this call may take from when its body was there."""
        if wanted.deadline_ms is None:
            return self._settings.deadline
        return min(self._settings.deadline, wanted.deadline_ms / 1000)

    def _ms_since(self, started: float) -> float:
        return round((self._clock() - started) * 1000, 3)

    def _audit_call(
        self, call: _Call, outcome: str, hit: bool | None, latency_ms: float, kind: str = "call"
    ) -> Awaitable[bool] | None:
        flow_id, interaction_id, key = _subject(call)
        return self._audit.record(
            AuditRecord(
                time(),
                call.id,
                call.client,
                flow_id,
                interaction_id,
                _known_operation(call),
                key,
                outcome,
                hit,
                latency_ms,
                call.address,
                call.shard,
                call.stale,
                "outcome" if call.intended and kind == "call" else kind,
            )
        )

    async def _intend(self, call: _Call, began: float) -> None:
        """Have a record on disk of the write that is about to be done.

        Raises:
            Failure: it is not there, and nothing was done.
        """
        kept = self._audit_call(call, "intended", None, self._ms_since(began), "intent")
        call.intended = True
        unkept = None if kept is None else await self._unkept(call, kept, "intended")
        if unkept is not None:
            raise unkept

    async def _unkept(self, call: _Call, kept: Awaitable[bool], outcome: str) -> Failure | None:
        """Wait until a record is on disk; return what to answer instead when it is not.

        None: the answer may leave. So may a refusal whose record is late: it tells nothing.
        """
        deadline = call.deadline
        patience = self._settings.deadline if deadline is None else deadline - self._clock()
        done = "" if call.repeatable else " Redis may have done what was asked."
        try:
            async with asyncio.timeout(max(0.0, patience)):
                if await kept:
                    return None
        except TimeoutError:
            if outcome not in ("ok", "intended"):
                return None
            return DeadlineExceeded(
                f"The audit record of this call was not on disk in time.{done}",
                retryable=call.repeatable,
            )
        return Unrecorded(
            f"The audit record of this call can't be written.{done}", retryable=call.repeatable
        )


def _known_operation(call: _Call) -> str | None:
    """Return the operation's name, for the records.

    A name that is none of ours may be anything, a customer's data in the wrong field too.
    """
    return call.ran or (call.operation if call.operation in CATALOGUE else None)


def _as_failure(fault: Exception, call: _Call) -> Failure:
    """Turn what was raised into a failure to answer with."""
    if isinstance(fault, Failure):
        return fault
    _log.error("a bug", request_id=call.id, operation=call.ran, exc_info=fault)
    return bug(call.id)


def _subject(call: _Call) -> _Subject:
    """Return flow, interaction and key; of a body that was refused, as far as they can be read."""
    if call.subject is not None:
        return call.subject
    body = call.body
    if body is None:
        return None, None, None
    key = body.key.encode()[:MAX_KEY_BYTES] if isinstance(body.key, str) else None
    return _readable_context(body.flowId), _readable_context(body.interactionId), key


def _readable_context(value: object) -> str | None:
    """Return a context field of a refused body, cut to its limit; it may be what was refused."""
    if is_absent(value) or isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    text = value if isinstance(value, str) else repr(value)
    return text.encode()[:MAX_CONTEXT_BYTES].decode(errors="ignore")
