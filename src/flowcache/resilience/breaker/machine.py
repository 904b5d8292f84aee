"""The circuit itself: permits, generations, and the table that it walks.

Rules
=====

1. `TRANSITIONS` is the state machine, and `HOME` is where each mode begins. Code only walks them,
   in `Breaker._enter`, the one place that changes a circuit's state.
2. Every permit is settled exactly once, by `succeed`, `fail` or `ignore`. Client mistakes and
   cancellations are ignored: they say nothing about Redis.
3. What results mean is the judges' business, and only theirs.

Theory
======

**Generations.** Each change of state or mode starts a new generation, with a judge of its own.
Permits are numbers that are never given twice, and only those of the present generation count; all
others are late, and are dropped. That keeps a success from before the outage from closing the
circuit, and a failure from before the repair from opening it again.

**Permits.** A closed circuit hands the same *standing permit* to everybody: nothing is allocated
and nothing is counted on the way of a healthy call. Each probe has a permit of its own, and with
it a place that it loses when it settles, or after ``probe_seconds``.

**Half-open.** There are as many places as probes are wanted for the verdict: those that have a
result and those that are out never exceed that number, at once and in all. A place that is given
back (ignored) or lost (never settled) is taken by the next caller, and results that are in stay.
So nothing can get stuck: either there is a free place, or one comes free at a known moment. A place
that is lost is held against nobody. The guard ends every call at its deadline, which is sooner, so
a probe without a result is a fault of our own: resilience4j opens the circuit again after its
longest wait, which punishes a shard for being called rarely. A flaky probe counts as one
of several, no more.

**The bar.** An open circuit keeps one moment, ``_barred_until``, and from that moment on callers
are probes. So there is no timer, and `Refused.retry_after` is exact.

**Growth.** The first opening lasts ``open_seconds`` to the bit, because callers plan by it. When
probes fail, Redis needs longer than we thought, and others like us knock at the same moments: so
each reopening lasts longer, by chance a little more or less. Only closing ends the growth. An
invitation (`invite`) ends the bar at once and does not: a link that came back shows that something
accepts connections, and a server that accepts, answers nothing and dies again does that each
time. If it is well indeed, the probe closes the circuit and ends the growth a moment later.

**Modes.** AUTO is all of the above. DISABLED is a closed circuit with a judge that never speaks,
FORCED_OPEN an open one whose bar never ends, and OBSERVE is AUTO except that whoever would be
refused gets a permit that counts for nothing: what is observed is exactly what AUTO would do.

Weaknesses
==========

- Two calls of one closed generation carry the same permit, so the circuit can't see that one of
  them is settled twice: two failures are counted. A probe settled twice is harmless: the first
  settlement ends its permit. Callers settle in one place.
- For the same reason calls in flight are not counted here; the link knows them. The guard fails a
  call when its deadline passes, so a stalled Redis counts then, and not when it answers at last.
- While all probes are out, ``retry_after`` is the time until one loses its place: a promise that
  is always kept, and that is mostly too careful, since a probe tends to answer within milliseconds.
- A probe that takes longer than ``probe_seconds`` never counts. If every probe did, the circuit
  would stay half-open. So ``probe_seconds`` has to exceed the longest deadline.
- A shard that is rarely called is half-open for as long as its probes take to come: their results
  have no age.
"""

from __future__ import annotations

import math
import random as chance
from collections.abc import Callable, Mapping
from typing import Final

from flowcache.resilience.breaker.judges import UNJUDGED, Judge, judge_of_calls, judge_of_probes
from flowcache.resilience.breaker.records import (
    Mode,
    Permit,
    Reason,
    Refused,
    Snapshot,
    State,
    Transition,
)
from flowcache.resilience.breaker.settings import BreakerSettings

__all__ = ["HOME", "TRANSITIONS", "Breaker"]

# What isn't here can't happen: an open circuit hears of no result, because it has given no permit
# that counts, and a closed one has no probes.
TRANSITIONS: Final[Mapping[State, Mapping[Reason, State]]] = {
    State.CLOSED: {
        Reason.CONSECUTIVE_FAILURES: State.OPEN,
        Reason.FAILURE_RATE: State.OPEN,
        Reason.SLOW_CALL_RATE: State.OPEN,
    },
    State.OPEN: {
        Reason.OPEN_TIME_OVER: State.HALF_OPEN,
        Reason.INVITED: State.HALF_OPEN,
    },
    State.HALF_OPEN: {
        Reason.PROBE_SUCCEEDED: State.CLOSED,
        Reason.PROBE_FAILED: State.OPEN,
        Reason.PROBE_SLOW: State.OPEN,
    },
}

# Where a switch to a mode leads, from any state.
HOME: Final[Mapping[Mode, State]] = {
    Mode.AUTO: State.CLOSED,
    Mode.FORCED_OPEN: State.OPEN,
    Mode.DISABLED: State.CLOSED,
    Mode.OBSERVE: State.CLOSED,
}

_UNCOUNTED: Final = Permit(0)
"""What a caller gets who is let through only because nobody is refused. Others begin at 1."""

_JITTER: Final = 0.1
"""By which share a reopening may be longer or shorter."""


def _unheard(transition: Transition) -> None:
    """Drop a transition: what a breaker calls that nobody listens to."""


class Breaker:
    """Judge one circuit. For one event loop or thread; it neither blocks nor locks.

        permit = breaker.acquire(now)
        if isinstance(permit, Refused):
            ...  # answer with permit.retry_after
        # call, then exactly one of
        breaker.succeed(permit, now, seconds)
        breaker.fail(permit, now, seconds)
        breaker.ignore(permit, now)

    ``on_transition`` is told of each change of state or mode as the last act of the call that made
    it: the circuit is whole by then and may be used from inside. It must not raise: what it raises
    goes to whoever made that call, and a probe about to leave is lost until its place expires.

    ``random`` returns a number from 0 up to 1, as `random.random` does.
    """

    __slots__ = (
        "_barred_until",
        "_invited",
        "_judge",
        "_mode",
        "_on_transition",
        "_open_seconds",
        "_out",
        "_permits",
        "_random",
        "_refused",
        "_reopened",
        "_settings",
        "_standing",
        "_state",
        "_transitions",
        "_would_refuse",
    )

    def __init__(
        self,
        settings: BreakerSettings,
        on_transition: Callable[[Transition], None] = _unheard,
        random: Callable[[], float] = chance.random,
        mode: Mode = Mode.AUTO,
    ) -> None:
        self._settings = settings
        self._on_transition = on_transition
        self._random = random
        self._mode = mode
        self._permits = 0  # how many were given
        self._refused = 0
        self._would_refuse = 0
        self._reopened = 0
        self._transitions = dict.fromkeys(State, 0)
        self._open_seconds = settings.open_seconds  # the last open time, without its chance
        self._barred_until: float
        self._standing: Permit | None  # None unless closed
        self._out: dict[Permit, float]  # probes, and when each loses its place
        self._judge: Judge
        self._state = State.CLOSED
        self._begin(HOME[mode], 0.0)

    def acquire(self, now: float) -> Permit | Refused:
        """Ask for one call: a permit, or the time to come back.

        Every permit has to be settled exactly once, however its call ends.
        """
        standing = self._standing
        if standing is not None:
            return standing
        return self._acquire_probe(now)

    def is_probe(self, permit: Permit) -> bool:
        """Tell whether ``permit`` is that of a probe whose result counts."""
        return permit in self._out

    def succeed(self, permit: Permit, now: float, seconds: float) -> None:
        """Settle a call that Redis answered. ``seconds`` is how long that took."""
        if permit == self._standing or self._returns(permit, now):
            reason = self._judge.succeeded(now, seconds)
            if reason is not None:
                self._walk(reason, now)

    def fail(self, permit: Permit, now: float, seconds: float = 0.0) -> None:
        """Settle a call that Redis did not answer, or not in time, or that it was unfit to run.

        ``seconds`` is how long the caller was kept waiting: a timeout is slow as well as failed.
        """
        if permit == self._standing or self._returns(permit, now):
            reason = self._judge.failed(now, seconds)
            if reason is not None:
                self._walk(reason, now)

    def ignore(self, permit: Permit, now: float, _seconds: float = 0.0) -> None:
        """Settle a call that says nothing about Redis: a client's mistake, a cancellation.

        Nothing is counted. The place of a probe is free at once. ``_seconds`` is taken so that all
        three settle alike.
        """
        self._returns(permit, now)

    def invite(self, at: float) -> None:
        """Let callers through as probes from ``at`` on, if that is sooner than they would be.

        Somebody has seen Redis come back, or knows that it soon will. The open time goes on growing
        from where it is, if the probe fails. A circuit that an operator holds open stays so.
        """
        held = self._mode is Mode.FORCED_OPEN
        if self._state is State.OPEN and not held and at < self._barred_until:
            self._barred_until = at
            self._invited = True

    def switch(self, mode: Mode, now: float) -> bool:
        """Change who has the say. The circuit begins anew, and calls in flight don't count.

        A switch to the present mode changes nothing, so that it may be repeated. Returns whether it
        was another.
        """
        if mode is self._mode:
            return False
        self._mode = mode
        self._on_transition(self._enter(HOME[mode], now, Reason.SWITCHED))
        return True

    def state(self, now: float) -> State:
        """Return the state a caller would meet: an open time that is over counts as half-open."""
        if self._state is State.OPEN and not self._is_barred(now):
            return State.HALF_OPEN
        return self._state

    def snapshot(self, now: float) -> Snapshot:
        """Return what there is to know about the circuit. Changes nothing."""
        calls, failed, slow = self._judge.tally(now)
        return Snapshot(
            state=self.state(now),
            mode=self._mode,
            failures=self._judge.failures,
            calls=calls,
            failure_rate=failed / calls if calls else None,
            slow_rate=slow / calls if calls else None,
            reopened=self._reopened,
            retry_after=self._wait(now) if self._refuses(now) else 0.0,
            refused=self._refused,
            would_refuse=self._would_refuse,
            transitions=dict(self._transitions),
        )

    def _free_at(self, now: float) -> float:
        """Return the moment from which a caller is let through."""
        if self._state is not State.HALF_OPEN:
            return self._barred_until
        # A place that was lost counts as taken until a moment that is past: it bars nobody.
        taken = len(self._out) + self._judge.tally(now).calls
        return -math.inf if taken < self._settings.probes else min(self._out.values())

    def _is_barred(self, now: float) -> bool:
        return now < self._free_at(now)

    def _refuses(self, now: float) -> bool:
        return self._is_barred(now) and self._mode is not Mode.OBSERVE

    def _wait(self, now: float) -> float:
        if self._mode is Mode.FORCED_OPEN:  # who knows; what a caller is used to will do
            return self._settings.open_seconds
        return _seconds_until(self._free_at(now), now)

    def _acquire_probe(self, now: float) -> Permit | Refused:
        """Let one caller through if there is a place for a probe."""
        if self._is_barred(now):
            if self._mode is Mode.OBSERVE:
                self._would_refuse += 1
                return _UNCOUNTED
            self._refused += 1
            return Refused(self._wait(now), self._mode is Mode.FORCED_OPEN)
        transition = None
        if self._state is State.OPEN:
            reason = Reason.INVITED if self._invited else Reason.OPEN_TIME_OVER
            transition = self._enter(TRANSITIONS[self._state][reason], now, reason)
        for lost in [permit for permit, expiry in self._out.items() if expiry <= now]:
            del self._out[lost]
        permit = self._new_permit()
        self._out[permit] = now + self._settings.probe_seconds
        if transition is not None:  # now that the probe has its place: the hook may use the circuit
            self._on_transition(transition)
        return permit

    def _new_permit(self) -> Permit:
        self._permits += 1
        return Permit(self._permits)

    def _returns(self, permit: Permit, now: float) -> bool:
        """Take a probe's permit back; tell whether it was one, and still had its place."""
        return now < self._out.pop(permit, -math.inf)

    def _walk(self, reason: Reason, now: float) -> None:
        """Take the step that the table has for ``reason``, and tell of it."""
        self._on_transition(self._enter(TRANSITIONS[self._state][reason], now, reason))

    def _enter(self, state: State, now: float, reason: Reason) -> Transition:
        """Begin a new generation in ``state``. Whoever calls tells of it, last of all."""
        before = self._state
        self._begin(state, now)
        self._transitions[state] += 1
        return Transition(now, before, state, reason, self._mode)

    def _begin(self, state: State, now: float) -> None:
        again = self._state is State.HALF_OPEN
        self._state = state
        self._standing = None
        self._judge = UNJUDGED
        self._out = {}
        self._barred_until = -math.inf
        self._invited = False
        if state is State.HALF_OPEN:
            self._judge = judge_of_probes(self._settings)
        elif state is State.OPEN:
            self._barred_until = now + self._open_time(again)
        else:
            self._standing = self._new_permit()
            self._reopened = 0
            if self._mode is not Mode.DISABLED:
                self._judge = judge_of_calls(self._settings)

    def _open_time(self, again: bool) -> float:
        """Return for how many seconds to stay open; ``again``: the probes have failed."""
        settings = self._settings
        if self._mode is Mode.FORCED_OPEN:
            self._reopened = 0
            return math.inf
        if not again:
            self._open_seconds = settings.open_seconds
            return settings.open_seconds
        self._reopened += 1
        # Step by step: a power would overflow at the 1024th reopening, 17 hours into an outage.
        grown = min(self._open_seconds * settings.open_factor, settings.open_max_seconds)
        self._open_seconds = grown
        return min(grown * (1 + _JITTER * (2 * self._random() - 1)), settings.open_max_seconds)


def _seconds_until(moment: float, now: float) -> float:
    """Return the least wait whose end, added up in floats, is not before ``moment``.

    The difference is rounded, and may be an ulp too small: a caller who waited exactly that long
    would be turned away with another ulp to wait.
    """
    wait = moment - now
    return wait if now + wait >= moment else math.nextafter(wait, math.inf)
