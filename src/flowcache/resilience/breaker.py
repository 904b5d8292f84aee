"""The circuit breaker's core: who may call a shard, judged by how the last calls went.

Rules
=====

1. Everything that decides about a circuit lives in this file, and nothing else does: no I/O, no
   clock, no lock, no log. ``now``, in monotonic seconds, is an argument of every call.
2. `TRANSITIONS` is the state machine. Code only walks it, in `Breaker._walk`, the one place that
   changes a circuit's state.
3. Every permit is settled exactly once, by `succeed`, `fail` or `ignore`. Client mistakes and
   cancellations are ignored: they say nothing about Redis.

Theory
======

**Generations.** Each step through the table starts a new generation, and a permit *is* the number
of the generation that it was given in. A result counts if its permit is of the present generation;
all others are late, and are dropped. That one comparison keeps a success from before the outage
from closing the circuit, and a failure from before the repair from opening it again.

**Permits.** A closed circuit hands the same *standing permit* to everybody: nothing is allocated
and nothing is counted on the way of a healthy call. A probe's permit is a generation of its own.

**The bar.** An open circuit and one that waits for its probe refuse for the same reason: it is too
early. Both keep one moment, ``_barred_until``, and from that moment on the next caller is let
through as a probe. So there is no timer, `Refused.retry_after` is exact, and nothing can get
stuck: a bar always ends, whether or not anybody settles the probe behind it.

Weaknesses
==========

- Two calls of one closed generation carry the same permit, so the circuit can't see that one of
  them is settled twice: two failures are counted. A probe settled twice is harmless: the first
  settlement ends its generation. Callers settle in one place.
- For the same reason calls in flight are not counted here; the link knows them.
- While a probe is out, ``retry_after`` is the time until it loses its place: a promise that is
  always kept, and that is mostly too careful, since a probe tends to answer within milliseconds.
- A probe that takes longer than ``probe_seconds`` never counts. If every probe did, the circuit
  would stay half-open, one call at a time. So ``probe_seconds`` has to exceed the longest deadline.

To add a way of tripping, write a sibling of `ConsecutiveFailures`; to let the open time grow, see
`_open_time`; a new state or signal starts with its line in `TRANSITIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, NewType

__all__ = [
    "Breaker",
    "BreakerSettings",
    "Permit",
    "Refused",
    "Snapshot",
    "State",
    "Transition",
]

Permit = NewType("Permit", int)
"""The right to make one call: the number of the generation that it was given in."""


class State(StrEnum):
    """Say how a circuit treats callers. The values are shown to operators and never renamed."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """Set when a circuit opens and how it closes again.

    ``failures``: failures in a row, 1 or more, that open it.
    ``open_seconds``: how long it then refuses everybody.
    ``probe_seconds``: how long a probe keeps its place without an answer. It has to be longer than
    the longest deadline of a call, or slow probes never count.

    Raises:
        ValueError: naming every field that is out of range, with its value.
    """

    failures: int = 5
    open_seconds: float = 10.0
    probe_seconds: float = 2.0

    def __post_init__(self) -> None:
        faults = []
        if self.failures < 1:
            faults.append(f"failures must be 1 or more, not {self.failures!r}")
        for name in ("open_seconds", "probe_seconds"):
            seconds = getattr(self, name)
            if not 0 < seconds < math.inf:  # written so that NaN fails, too
                faults.append(f"{name} must be a positive number of seconds, not {seconds!r}")
        if faults:
            raise ValueError("; ".join(faults))


@dataclass(frozen=True, slots=True)
class Refused:
    """Tell a caller that the circuit lets nothing through now.

    ``retry_after``: seconds, above 0. A caller who comes back that much later is let through,
    unless another was faster.
    """

    retry_after: float


@dataclass(frozen=True, slots=True)
class Transition:
    """Record one change of state, for a metric, a log line, an event.

    ``at`` is the ``now`` of the call that brought it about. A circuit whose open time is over turns
    half-open with the next caller and not before; `Breaker.state` says so at once.
    ``reason`` is one of few fixed phrases, fit for a metric's label.
    """

    at: float
    before: State
    after: State
    reason: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Show a circuit to an inspector, as it is at one moment.

    ``failures``: failures in a row; 0 unless closed.
    ``opened_at``: when it last opened or reopened, as monotonic seconds; None while closed.
    ``retry_after``: what a caller would be told now, in seconds; 0.0 if one would be let through.
    ``probes``: probes that still have their place, 0 or 1.
    ``refused``, ``transitions``: totals since the circuit was made.
    """

    state: State
    failures: int
    generation: int
    opened_at: float | None
    retry_after: float
    probes: int
    refused: int
    transitions: int


class ConsecutiveFailures:
    """Trip after ``limit`` failures in a row.

    One of these judges one closed generation and is then thrown away, so that no count outlives its
    generation. Whatever else shall judge, a window say, offers the same four names.
    """

    __slots__ = ("_limit", "failures")

    reason: Final = "consecutive failures"

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.failures = 0

    def succeeded(self, _now: float) -> None:
        """Note a success."""
        self.failures = 0

    def failed(self, _now: float) -> bool:
        """Note a failure; return whether the circuit has to open."""
        self.failures += 1
        return self.failures >= self._limit


class Signal(StrEnum):
    """Name what can move a circuit. The values are reasons of transitions."""

    TRIPPED = "tripped"
    PROBE_LEFT = "open time over"
    PROBE_SUCCEEDED = "probe succeeded"
    PROBE_FAILED = "probe failed"
    PROBE_IGNORED = "probe ignored"


class Step(NamedTuple):
    """Say where a signal leads, and for how many seconds from then on callers are barred."""

    after: State
    bar: Callable[[BreakerSettings], float]


def _open_time(settings: BreakerSettings) -> float:
    return settings.open_seconds


def _probe_time(settings: BreakerSettings) -> float:
    return settings.probe_seconds


def _no_time(_: BreakerSettings) -> float:
    return 0.0


# What isn't here can't happen: an open circuit hears of no result, because it has given no permit
# of its generation, and a closed one has no probes.
TRANSITIONS: Final[Mapping[State, Mapping[Signal, Step]]] = {
    State.CLOSED: {
        Signal.TRIPPED: Step(State.OPEN, _open_time),
    },
    State.OPEN: {
        Signal.PROBE_LEFT: Step(State.HALF_OPEN, _probe_time),
    },
    State.HALF_OPEN: {
        # the probe before was ignored, or lost its place
        Signal.PROBE_LEFT: Step(State.HALF_OPEN, _probe_time),
        Signal.PROBE_SUCCEEDED: Step(State.CLOSED, _no_time),
        Signal.PROBE_FAILED: Step(State.OPEN, _open_time),
        Signal.PROBE_IGNORED: Step(State.HALF_OPEN, _no_time),
    },
}


def _unheard(transition: Transition) -> None:
    """Drop a transition: what a breaker calls that nobody listens to."""


class Breaker:
    """Judge one circuit. For one event loop or thread; it neither blocks nor locks.

        permit = breaker.acquire(now)
        if isinstance(permit, Refused):
            ...  # answer with permit.retry_after
        # call, then exactly one of
        breaker.succeed(permit, now)
        breaker.fail(permit, now)
        breaker.ignore(permit, now)

    ``on_transition`` is told of each change of state as the last act of the call that made it: the
    circuit is whole by then and may be used from inside. It must not raise: what it raises goes
    to whoever made that call, and a probe about to leave is lost until its place expires.
    """

    __slots__ = (
        "_barred_until",
        "_generation",
        "_on_transition",
        "_opened_at",
        "_refused",
        "_settings",
        "_standing",
        "_state",
        "_transitions",
        "_trip",
    )

    def __init__(
        self,
        settings: BreakerSettings,
        on_transition: Callable[[Transition], None] = _unheard,
    ) -> None:
        self._settings = settings
        self._on_transition = on_transition
        self._state = State.CLOSED
        self._generation = 1
        self._standing: Permit | None = Permit(1)  # None unless closed
        self._trip = ConsecutiveFailures(settings.failures)
        self._barred_until = -math.inf  # read in the other states only
        self._opened_at: float | None = None
        self._refused = 0
        self._transitions = 0

    def acquire(self, now: float) -> Permit | Refused:
        """Ask for one call: a permit, or the time to come back.

        Every permit has to be settled exactly once, however its call ends.
        """
        standing = self._standing
        if standing is not None:
            return standing
        return self._acquire_probe(now)

    def succeed(self, permit: Permit, now: float) -> None:
        """Settle a call that Redis answered."""
        if permit == self._standing:
            self._trip.succeeded(now)
        elif self._is_probe(permit, now):
            self._walk(Signal.PROBE_SUCCEEDED, now)

    def fail(self, permit: Permit, now: float) -> None:
        """Settle a call that Redis did not answer, or not in time, or that it was unfit to run."""
        if permit == self._standing:
            if self._trip.failed(now):
                self._walk(Signal.TRIPPED, now, self._trip.reason)
        elif self._is_probe(permit, now):
            self._walk(Signal.PROBE_FAILED, now)

    def ignore(self, permit: Permit, now: float) -> None:
        """Settle a call that says nothing about Redis: a client's mistake, a cancellation.

        Nothing is counted. The place of a probe is free at once.
        """
        if self._is_probe(permit, now):
            self._walk(Signal.PROBE_IGNORED, now)

    def invite(self, now: float) -> None:
        """Let the next caller through as a probe: somebody has seen Redis come back."""
        if self._state is State.OPEN:
            self._barred_until = now

    def state(self, now: float) -> State:
        """Return the state a caller would meet: an open time that is over counts as half-open."""
        if self._state is State.OPEN and not self._is_barred(now):
            return State.HALF_OPEN
        return self._state

    def snapshot(self, now: float) -> Snapshot:
        """Return what there is to know about the circuit. Changes nothing."""
        closed = self._state is State.CLOSED
        barred = self._is_barred(now)
        return Snapshot(
            state=self.state(now),
            failures=self._trip.failures if closed else 0,
            generation=self._generation,
            opened_at=self._opened_at,
            retry_after=_seconds_until(self._barred_until, now) if barred else 0.0,
            probes=int(barred and self._state is State.HALF_OPEN),
            refused=self._refused,
            transitions=self._transitions,
        )

    def _is_barred(self, now: float) -> bool:
        return self._standing is None and now < self._barred_until

    def _is_probe(self, permit: Permit, now: float) -> bool:
        """Tell whether this is the probe's permit, and the probe still has its place."""
        return (
            permit == self._generation
            and self._state is State.HALF_OPEN
            and now < self._barred_until
        )

    def _acquire_probe(self, now: float) -> Permit | Refused:
        """Let one caller through if the bar has ended, whatever it was there for."""
        if self._is_barred(now):
            self._refused += 1
            return Refused(_seconds_until(self._barred_until, now))
        permit = Permit(self._generation + 1)  # taken here: the hook may already use the circuit
        self._walk(Signal.PROBE_LEFT, now)
        return permit

    def _walk(self, signal: Signal, now: float, reason: str | None = None) -> None:
        """Take the step that the table has for ``signal``, and tell of a change of state."""
        before = self._state
        after, bar = TRANSITIONS[before][signal]
        self._state = after
        self._generation += 1
        self._barred_until = now + bar(self._settings)
        if after is before:
            return
        if after is State.CLOSED:
            self._standing = Permit(self._generation)
            self._trip = ConsecutiveFailures(self._settings.failures)
            self._opened_at = None
        else:
            self._standing = None
            if after is State.OPEN:
                self._opened_at = now
        self._transitions += 1
        self._on_transition(Transition(now, before, after, reason or signal.value))


def _seconds_until(moment: float, now: float) -> float:
    """Return the least wait whose end, added up in floats, is not before ``moment``.

    The difference is rounded, and may be an ulp too small: a caller who waited exactly that long
    would be turned away with another ulp to wait.
    """
    wait = moment - now
    return wait if now + wait >= moment else math.nextafter(wait, math.inf)
