"""The check: could a Redis that keeps its promises have given these answers?

What a caller can know
----------------------
A write has one of three fates. *Acknowledged*: an attempt was answered with success. *Refused*:
each attempt failed in a way that says that nothing was done; a failure that says `retryable` of a
write without an `idempotencyKey` says just that, and is held to it. *Unknown*: all else. As Jepsen
has it, an unknown write may take effect at any time after it was sent, or never: a command can lie
in the socket of a stalled server and be run long after its caller has gone.

A write with an `idempotencyKey` is one write, however many attempts it took; once it is
acknowledged, none of its attempts may take effect again.

What makes the check exact
--------------------------
- *One writer a key.* A write begins when the one before it on its key has been answered or given
  up. So writes to a key have an order that no clock has a part in.
- *Values say whose they are.* Each carries its key and its number, so a wrong answer, another
  caller's answer and an old value can be told.
- *Three kinds of keys.* A `ledger` key is written once, so that no later write can hide a loss. A
  `register` (a string, or a `hash` of fields that must agree) is written again and again, so that
  reads can be seen to go back in time. A `counter` adds up: its number at the end, and after each
  acknowledged step, must lie between what was acknowledged and that plus what is unknown. Steps
  with and without an `idempotencyKey` have counters of their own.
- *The end is read from Redis itself*, when the servers are well again and the load is over; reads
  through flowcache are judged as they come.

What is whose fault
-------------------
Redis replicates asynchronously: when a primary goes away, its replica may lack the last writes.
Such a loss is counted apart, as Redis's own, only if the strike is one that allows for it
(`history.Loss`), the key's slot was struck, and the write was acknowledged between
`REPLICATION_WINDOW` before the strike and the end of the failover. Beside it runs a control that
does not use flowcache (`control.py`): what WAIT confirmed must not be lost.

A read that says `stale` may be old, and must still be a value that was written.

What it can't see
-----------------
- A loss on a rewritten key that no read caught and a later write covered; hence the ledger.
- On one counter, a lost step and a doubled one between the same two acknowledgements cancel out.
- An unknown write that took effect and was then lost: nobody was promised anything.
- When an *older* write of unknown fate is found where a newer one was acknowledged, and nobody had
  seen it before, it may have landed late (allowed, and it happens: see above) or the newer one was
  lost. That is `OVERTAKEN`, counted by itself and never hidden. With an `idempotencyKey` and a
  repetition until it is acknowledged, a caller rules it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Any

import msgspec

from chaos.history import LOST, OK, REFUSED, SILENT, Call, Found, Loss, Strike, holds

__all__ = ["REPLICATION_WINDOW", "Finding", "Kind", "judge"]

REPLICATION_WINDOW = 1.0
"""Seconds before a primary's end in which what it acknowledged may not have reached its replica."""

MAX_TTL_MS = 3_600_000
NOT_THE_LOADS = ("flowcache:once:", "control:")
"""How keys begin that are flowcache's records, and those of the control."""
FOREVER = float("inf")
FIELDS = 3
"""How many fields a hash has: `key`, `seq`, `same`, all set by each write."""


class Kind(StrEnum):
    """What can be found. Those of `PERMITTED` break no promise of flowcache's."""

    LOST = auto()
    """An acknowledged write is not there."""
    LOST_BY_REDIS = auto()
    """The same, by Redis's asynchronous replication."""
    OVERTAKEN = auto()
    """An older write of unknown fate is there instead; it may have landed late."""
    DOUBLED = auto()
    """A counter has more steps than were taken."""
    REFUSED_YET_DONE = auto()
    """A write was done although its answer said that it was not."""
    WENT_BACK = auto()
    """A read that did not say `stale` was older than what was known before it: acknowledged, or
    read without `stale`."""
    WENT_BACK_BY_REDIS = auto()
    """The same, of a write that Redis lost at a failover."""
    WRONG_ANSWER = auto()
    """What was read was never written under this key, or is torn."""
    NO_TTL = auto()
    """A key that lives for ever, or longer than was asked for."""
    UNFORESEEN = auto()
    """An answer that no fault of Redis explains: the caller made no mistake."""


PERMITTED = frozenset({Kind.LOST_BY_REDIS, Kind.WENT_BACK_BY_REDIS, Kind.OVERTAKEN})

FORESEEN = frozenset(
    {
        OK,
        REFUSED,
        LOST,
        SILENT,
        "circuit_open",
        "overloaded",
        "audit_unavailable",
        "redis_unavailable",
        "deadline_exceeded",
        "rate_limited",
    }
)
NEVER_SENT = frozenset({REFUSED, "circuit_open", "forbidden", "overloaded", "rate_limited"})
"""Outcomes after which nothing can have been done, with an `idempotencyKey` too."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be; ``count`` writes or answers of it."""

    kind: Kind
    key: str
    what: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.key}: {self.what}"


class Fate(Enum):
    """What a caller knows of a write."""

    ACKNOWLEDGED = auto()
    REFUSED = auto()
    UNKNOWN = auto()


@dataclass(slots=True)
class Write:
    """One write, all its attempts together."""

    seq: int
    once: bool
    attempts: list[Call] = field(default_factory=list)

    @property
    def began(self) -> float:
        return self.attempts[0].woken

    @property
    def acknowledgement(self) -> Call | None:
        return next((call for call in self.attempts if call.ok), None)

    @property
    def fate(self) -> Fate:
        if self.acknowledgement:
            return Fate.ACKNOWLEDGED
        return Fate.REFUSED if all(map(_says_not_done, self.attempts)) else Fate.UNKNOWN


def _says_not_done(call: Call) -> bool:
    """Tell whether a failed attempt's answer says that nothing was done."""
    return call.outcome in NEVER_SENT or (call.retryable and not call.once)


@dataclass(slots=True)
class History:
    """All that happened to one key, in order."""

    key: str
    writes: list[Write] = field(default_factory=list)
    reads: list[Call] = field(default_factory=list)


class WrongAnswerError(ValueError):
    """A value that can't be any of this key's; the message says why."""


def judge(
    calls: Iterable[Call],
    found: Mapping[str, Found],
    strikes: Sequence[Strike] = (),
    foreseen: Set[str] = frozenset(),
) -> list[Finding]:
    """Return everything that is wrong, permitted findings included.

    Args:
        calls: every attempt of every call. Writes to one key are in the order in which they ended.
        found: what Redis has at the end, by key. Of flowcache's own records and of the control's
            keys only the TTL is judged.
        strikes: what was broken meanwhile.
        foreseen: further outcomes that are no wonder here.
    """
    findings: list[Finding] = []
    histories: dict[str, History] = {}
    for call in calls:
        history = histories.setdefault(call.key, History(call.key))
        if call.outcome not in FORESEEN | foreseen:
            what = f"{call.operation} was answered with {call.outcome}"
            findings.append(Finding(Kind.UNFORESEEN, call.key, what))
        if call.reads:
            history.reads.append(call)
        else:
            if not history.writes or history.writes[-1].seq != call.seq:
                history.writes.append(Write(call.seq, call.once))
            history.writes[-1].attempts.append(call)
            if call.ok and not _fits(call):
                what = f"{call.operation} was answered with {call.data!r}"
                findings.append(Finding(Kind.WRONG_ANSWER, call.key, what))
    for history in histories.values():
        judge_kind = _judge_counter if _is_counter(history.key) else _judge_register
        findings += judge_kind(history, found.get(history.key), strikes)
    for key, state in found.items():
        if not 0 <= state.ttl_ms <= MAX_TTL_MS:
            findings.append(Finding(Kind.NO_TTL, key, f"PTTL {state.ttl_ms}"))
        if key not in histories and not key.startswith(NOT_THE_LOADS):
            findings.append(Finding(Kind.WRONG_ANSWER, key, "nobody asked for this key"))
    return findings


def _fits(call: Call) -> bool:
    """Tell whether a successful write's answer can be one of its operation."""
    match call.operation:
        case "SET":
            return bool(call.data == "OK")
        case "HSET":
            return call.data in (0, FIELDS)
        case _:
            return type(call.data) is int


def _is_counter(key: str) -> bool:
    return key.startswith("counter")


# -- registers: ledger, register, hash ------------------------------------------------------------


def _judge_register(
    history: History, found: Found | None, strikes: Sequence[Strike]
) -> list[Finding]:
    findings: list[Finding] = []
    key = history.key
    writes = {write.seq: write for write in history.writes}
    acknowledged = {
        write.seq: call.answered for write in history.writes if (call := write.acknowledgement)
    }
    known = _Known(acknowledged.items())

    def look(data: Any, began: float, ended: float, *, stale: bool, final: bool) -> Finding | None:
        try:
            seq = _number_of(key, data)
        except WrongAnswerError as wrong:
            return Finding(Kind.WRONG_ANSWER, key, str(wrong))
        write = writes.get(seq)
        if seq and (write is None or write.began > ended):
            return Finding(Kind.WRONG_ANSWER, key, f"write {seq} was not sent yet")
        if write and write.fate is Fate.REFUSED:
            codes = [call.outcome for call in write.attempts]
            return Finding(Kind.REFUSED_YET_DONE, key, f"write {seq} was answered {codes}")
        if stale:
            return None
        newest, since = known.newest(began)
        known.add(seq, ended)
        if seq >= newest:
            return None
        lost = max((number for number in acknowledged if number > seq), default=0) if final else 0
        if lost:
            newest, since = lost, acknowledged[lost]
        what = f"write {seq} is there, {newest} was {'acknowledged' if lost else 'known'}"
        # What was known to be there before the newer one was sent can't land again.
        may_land = write is not None and write.fate is Fate.UNKNOWN
        if may_land and known.since(seq) > writes[newest].began:
            return Finding(Kind.OVERTAKEN, key, what)
        loss = Loss.ACKNOWLEDGED if newest in acknowledged else Loss.UNACKNOWLEDGED
        redis_did = _lost_by_redis(loss, key, since, ended, strikes)
        if lost:
            return Finding(Kind.LOST_BY_REDIS if redis_did else Kind.LOST, key, what)
        return Finding(Kind.WENT_BACK_BY_REDIS if redis_did else Kind.WENT_BACK, key, what)

    for call in _in_order_of_answers(history.reads):
        if wrong := look(call.data, call.woken, call.answered, stale=call.stale, final=False):
            findings.append(wrong)
    data = None if found is None else found.value
    if wrong := look(data, FOREVER, FOREVER, stale=False, final=True):
        findings.append(wrong)
    return list(dict.fromkeys(findings))  # what several reads saw happened once


class _Known:
    """What a key was known to have held: acknowledged, or read where it need not be fresh."""

    def __init__(self, acknowledged: Iterable[tuple[int, float]]) -> None:
        self._since: dict[int, float] = {0: 0.0}
        self._since.update(acknowledged)

    def add(self, number: int, at: float) -> None:
        self._since[number] = min(at, self.since(number))

    def since(self, number: int) -> float:
        """Return since when ``number`` is known; never is far in the future."""
        return self._since.get(number, FOREVER)

    def newest(self, at: float) -> tuple[int, float]:
        """Return the greatest number known at a time, and since when."""
        return max((number, since) for number, since in self._since.items() if since <= at)


def _in_order_of_answers(reads: Iterable[Call]) -> list[Call]:
    return sorted((call for call in reads if call.ok), key=lambda call: call.answered)


def _number_of(key: str, data: Any) -> int:
    """Return which write to ``key`` a value comes from; 0 where there is none.

    Raises:
        WrongAnswerError: it comes from no write to this key.
    """
    if data is None:
        return 0
    if isinstance(data, str):
        try:
            data = msgspec.json.decode(data)
        except msgspec.DecodeError:
            raise WrongAnswerError(f"{data[:80]!r} is no value of the load's") from None
    if not isinstance(data, dict) or not {"key", "seq", "same"} <= data.keys():
        raise WrongAnswerError(f"{str(data)[:80]} is no value of the load's")
    if data["key"] != key:
        raise WrongAnswerError(f"the value belongs to {data['key']}")
    if data["seq"] != data["same"]:
        raise WrongAnswerError(f"torn between writes {data['seq']} and {data['same']}")
    return int(data["seq"])


# -- counters -------------------------------------------------------------------------------------


def _judge_counter(
    history: History, found: Found | None, strikes: Sequence[Strike]
) -> list[Finding]:
    findings: list[Finding] = []
    key = history.key
    certain = pending = refused = 0
    acknowledged: list[tuple[int, float]] = []

    def settle(value: int, expected: int, at: float) -> None:
        """Compare a number with the steps that are certain and those that are pending."""
        nonlocal pending
        surplus = value - expected
        if surplus < 0:
            since = acknowledged[max(0, len(acknowledged) + surplus)][1] if acknowledged else at
            redis_did = _lost_by_redis(Loss.ACKNOWLEDGED, key, since, at, strikes)
            kind = Kind.LOST_BY_REDIS if redis_did else Kind.LOST
            findings.append(Finding(kind, key, f"at {value}, {expected} expected", -surplus))
        elif surplus > pending:
            excess = surplus - pending
            kind = Kind.REFUSED_YET_DONE if excess <= refused else Kind.DOUBLED
            what = f"at {value}, at most {expected + pending} expected"
            findings.append(Finding(kind, key, what, excess))
            pending = 0
        else:
            pending -= surplus

    for write in history.writes:
        acknowledgement = write.acknowledgement
        if acknowledgement is None:
            pending += write.fate is Fate.UNKNOWN
            refused += write.fate is Fate.REFUSED
            continue
        value = acknowledgement.data
        if type(value) is not int:  # found out already
            certain += 1
            continue
        settle(value, certain + 1, acknowledgement.answered)
        certain = value
        acknowledged.append((value, acknowledgement.answered))
    known = _Known(acknowledged)
    numbers = {number for number, _ in acknowledged}
    for call in _in_order_of_answers(history.reads):
        if wrong := _judge_count(call, history, known, numbers, strikes):
            findings.append(wrong)
    final = _final_count(found)
    if final is None:
        findings.append(Finding(Kind.WRONG_ANSWER, key, f"{found} is no number"))
    else:
        settle(final, certain, FOREVER)
    return findings


def _judge_count(
    call: Call,
    history: History,
    known: _Known,
    acknowledged: Set[int],
    strikes: Sequence[Strike],
) -> Finding | None:
    """Judge a read of a counter by what was known before, and by what had been sent."""
    value = 0 if call.data is None else call.data
    sent = sum(write.began <= call.answered for write in history.writes)
    if type(value) is not int or not 0 <= value <= sent:
        what = f"{value!r} was read after {sent} steps"
        return Finding(Kind.WRONG_ANSWER, history.key, what)
    if call.stale:
        return None
    newest, since = known.newest(call.woken)
    known.add(value, call.answered)
    if value >= newest:
        return None
    loss = Loss.ACKNOWLEDGED if newest in acknowledged else Loss.UNACKNOWLEDGED
    redis_did = _lost_by_redis(loss, history.key, since, call.answered, strikes)
    kind = Kind.WENT_BACK_BY_REDIS if redis_did else Kind.WENT_BACK
    return Finding(kind, history.key, f"{value} was read when {newest} was known")


def _final_count(found: Found | None) -> int | None:
    """Return the number that a counter has in Redis; None where it is no number."""
    text = "0" if found is None else str(found.value)
    return int(text) if text.lstrip("-").isdecimal() else None


# -- what is Redis's own --------------------------------------------------------------------------


def _lost_by_redis(
    loss: Loss, key: str, known: float, seen: float, strikes: Sequence[Strike]
) -> bool:
    """Tell whether what was known then may be missing at ``seen`` by Redis's own doing."""
    return any(
        strike.may_lose >= loss
        and strike.at <= seen
        and strike.at - REPLICATION_WINDOW <= known
        and (strike.failed_over is None or known <= strike.failed_over)
        and holds(strike.slots, key)
        for strike in strikes
    )
