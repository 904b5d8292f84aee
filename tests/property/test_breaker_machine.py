"""Any history of calls, against a model of the breaker that is too simple to be wrong.

The model knows neither generations nor sums nor rings: it keeps each result and each permit with
the story of how it was given, and works everything out anew, from the settings and the story.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from flowcache.resilience.breaker import (
    Breaker,
    BreakerSettings,
    Mode,
    Permit,
    Refused,
    State,
    Transition,
    Unit,
    Window,
)
from tests.unit.resilience.circuits import probes_out

SECONDS = st.floats(0.001, 30.0)
RATES = st.sampled_from([0.01, 0.25, 1 / 3, 0.5, 0.75, 1.0])
BUCKETS = 10


@st.composite
def configurations(draw: st.DrawFn) -> BreakerSettings:
    window = st.builds(Window, st.integers(1, 12), st.sampled_from(Unit))
    open_seconds = draw(SECONDS)
    return BreakerSettings(
        failures=draw(st.integers(0, 4)),
        window=draw(st.none() | window),
        min_calls=draw(st.integers(1, 6)),
        failure_rate=draw(RATES),
        slow_seconds=draw(st.none() | st.just(1.0)),
        slow_rate=draw(RATES),
        open_seconds=open_seconds,
        open_factor=draw(st.sampled_from([1.0, 1.5, 2.0])),
        open_max_seconds=open_seconds * draw(st.sampled_from([1.0, 3.0])),
        probes=draw(st.integers(1, 4)),
        probe_seconds=draw(SECONDS),
    )


class Result(NamedTuple):
    at: float
    failed: bool
    slow: bool


@dataclass(eq=False)
class Call:
    """One admitted call, as the model remembers it."""

    permit: Permit
    era: int  # how often the circuit had changed its state or mode
    probe_until: float | None = None  # None: an ordinary call of a closed circuit
    spared: bool = False  # let through only because the circuit is observed


@dataclass
class Model:
    """What a circuit ought to do, told as a story."""

    settings: BreakerSettings
    mode: Mode
    luck: list[float]  # what chance says next
    state: State = State.CLOSED
    era: int = 0
    results: list[Result] = field(default_factory=list)  # of this era
    out: list[Call] = field(default_factory=list)  # probes of this era that are not settled
    open_until: float = 0.0
    reopened: int = 0
    refused: int = 0
    would_refuse: int = 0
    told: list[tuple[State, str, Mode]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.mode is Mode.FORCED_OPEN:
            self.state, self.open_until = State.OPEN, math.inf

    # ------------------------------------------------------------- what is so

    def free_at(self, now: float) -> float:
        """Return the moment from which a caller is let through, ``now`` if one is already."""
        if self.state is State.OPEN:
            return max(now, self.open_until)
        if self.state is State.HALF_OPEN:
            ends = [end for call in self.out if (end := call.probe_until or 0.0) > now]
            if len(ends) + len(self.results) >= self.settings.probes:
                return min(ends)
        return now

    def row(self) -> int:
        if self.state is not State.CLOSED or not self.settings.failures:
            return 0
        return len(list(takewhile(lambda result: result.failed, reversed(self.results))))

    def sample(self, now: float) -> list[Result]:
        """Return the results that rates are taken of."""
        window = self.settings.window
        if self.state is State.HALF_OPEN:
            return self.results
        if self.state is State.OPEN or window is None:
            return []
        if window.unit is Unit.CALLS:
            return self.results[-window.size :]
        width = window.size / BUCKETS
        return [r for r in self.results if now // width - r.at // width < BUCKETS]

    def rates(self, now: float) -> tuple[int, float | None, float | None]:
        sample = self.sample(now)
        if not sample:
            return 0, None, None
        failed, slow = sum(r.failed for r in sample), sum(r.slow for r in sample)
        return len(sample), failed / len(sample), slow / len(sample)

    def verdict(self, now: float) -> tuple[State, str] | None:
        chosen = self.settings
        slow_rate = math.inf if chosen.slow_seconds is None else chosen.slow_rate
        if self.state is State.HALF_OPEN:
            failed = sum(result.failed for result in self.results)
            slow = sum(result.slow for result in self.results)
            if failed / chosen.probes >= chosen.failure_rate:
                return State.OPEN, "probe failed"
            if slow / chosen.probes >= slow_rate:
                return State.OPEN, "probe slow"
            more = chosen.probes - len(self.results)
            if (failed + more) / chosen.probes >= chosen.failure_rate:
                return None
            if (slow + more) / chosen.probes >= slow_rate:
                return None
            return State.CLOSED, "probe succeeded"
        if chosen.failures and self.row() >= chosen.failures:
            return State.OPEN, "consecutive failures"
        calls, failure_rate, slowness = self.rates(now)
        enough = chosen.min_calls
        if chosen.window is not None and chosen.window.unit is Unit.CALLS:
            enough = min(enough, chosen.window.size)
        if failure_rate is None or slowness is None or calls < enough:
            return None
        if failure_rate >= chosen.failure_rate:
            return State.OPEN, "failure rate"
        if slowness >= slow_rate:
            return State.OPEN, "slow call rate"
        return None

    # ----------------------------------------------------------- what happens

    def enter(self, state: State, reason: str, now: float) -> None:
        relapse = self.state is State.HALF_OPEN
        self.state = state
        self.era += 1
        self.results = []
        self.out = []
        self.told.append((state, reason, self.mode))
        if state is State.CLOSED:
            self.reopened = 0
        elif state is State.OPEN:
            self.reopened = self.reopened + 1 if relapse else 0
            self.open_until = now + self.open_time()
            if self.mode is Mode.FORCED_OPEN:
                self.reopened = 0
                self.open_until = math.inf

    def open_time(self) -> float:
        chosen = self.settings
        time = chosen.open_seconds
        if self.reopened == 0:
            return time
        for _ in range(self.reopened):
            time = min(time * chosen.open_factor, chosen.open_max_seconds)
        return min(time * (1 + 0.1 * (2 * self.luck[0] - 1)), chosen.open_max_seconds)

    def admit(self, permit: Permit, now: float, invited: bool) -> Call:
        if self.state is State.CLOSED:
            return Call(permit, self.era)
        if self.state is State.OPEN:
            self.enter(State.HALF_OPEN, "invited" if invited else "open time over", now)
        call = Call(permit, self.era, now + self.settings.probe_seconds)
        self.out.append(call)
        return call

    def counts(self, call: Call, now: float) -> bool:
        """Tell whether the result of ``call`` still says something about the circuit."""
        if call.era != self.era or call.spared:
            return False
        return call.probe_until is None or (call in self.out and now < call.probe_until)

    def settle(self, call: Call, now: float, failed: bool | None, seconds: float) -> None:
        """Hear what came of ``call``; ``failed`` is None when that says nothing."""
        counts = self.counts(call, now)
        if call in self.out:
            self.out.remove(call)
        if failed is None or not counts or self.mode is Mode.DISABLED:
            return
        limit = self.settings.slow_seconds
        self.results.append(Result(now, failed, limit is not None and seconds > limit))
        verdict = self.verdict(now)
        if verdict is not None:
            self.enter(*verdict, now)


class BreakerMachine(RuleBasedStateMachine):
    """Call, settle, dawdle, leak, switch and settle twice in any order, at any pace."""

    flying = Bundle("flying")  # admitted and not settled
    landed = Bundle("landed")  # settled, and about to be settled again
    now: float
    breaker: Breaker
    model: Model
    heard: list[Transition]
    luck: list[float]
    invited: bool

    @initialize(
        now=st.floats(0.0, 1e7),
        chosen=configurations(),
        mode=st.sampled_from([Mode.AUTO, Mode.AUTO, *Mode]),
    )
    def install(self, now: float, chosen: BreakerSettings, mode: Mode) -> None:
        self.now = now
        self.luck = luck = [0.5]
        self.invited = False
        # Bound appends and functions stay themselves in a deep copy, so rehearsals are heard, too:
        # each cuts off again what it added.
        heard: list[Transition] = []
        self.heard = heard
        self.breaker = Breaker(chosen, heard.append, lambda: luck[0], mode)
        self.model = Model(chosen, mode, luck)

    # ------------------------------------------------------------------ time

    @rule(seconds=st.floats(0.0, 40.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def wait_until_just_before_a_caller_is_let_through(self) -> None:
        free_at = self.model.free_at(self.now)
        if free_at < math.inf:
            self.now = max(self.now, math.nextafter(free_at, -math.inf))

    @rule()
    def wait_until_a_caller_is_let_through(self) -> None:
        free_at = self.model.free_at(self.now)
        if free_at < math.inf:
            self.now = free_at

    # ---------------------------------------------------------------- others

    @rule(luck=st.floats(0.0, 1.0, exclude_max=True))
    def chance(self, luck: float) -> None:
        self.luck[0] = luck

    @rule(delay=st.just(0.0) | st.floats(0.0, 40.0))
    def invite(self, delay: float) -> None:
        at = self.now + delay
        self.breaker.invite(at)
        model = self.model
        held = model.mode is Mode.FORCED_OPEN
        if model.state is State.OPEN and at < model.open_until and not held:
            model.open_until = at
            self.invited = True

    @rule(mode=st.sampled_from([Mode.AUTO, Mode.AUTO, *Mode]))
    def switch(self, mode: Mode) -> None:
        self.breaker.switch(mode, self.now)
        if mode is not self.model.mode:
            self.model.mode = mode
            home = State.OPEN if mode is Mode.FORCED_OPEN else State.CLOSED
            self.model.enter(home, "mode switched", self.now)

    # ----------------------------------------------------------------- calls

    @rule(target=flying)
    def call(self) -> object:
        call = self.attempt()
        return multiple() if call is None else call

    @rule(target=flying, number=st.integers(2, 6))
    def call_many_at_once(self, number: int) -> object:
        attempts = [self.attempt() for _ in range(number)]
        return multiple(*[call for call in attempts if call is not None])

    def attempt(self) -> Call | None:
        model = self.model
        verdict = self.breaker.acquire(self.now)
        free_at = model.free_at(self.now)
        if isinstance(verdict, Refused):
            note(f"{self.now}: refused for {verdict.retry_after}")
            assert self.now < free_at, "refused without a reason"
            assert model.mode is not Mode.OBSERVE
            model.refused += 1
            self.check_that_the_wait_is_true(verdict.retry_after, free_at)
            return None
        if model.mode is Mode.OBSERVE and self.now < free_at:
            model.would_refuse += 1
            return Call(verdict, model.era, spared=True)
        assert self.now == free_at, "admitted while the circuit is open or its probes are out"
        invited, self.invited = self.invited, False
        return model.admit(verdict, self.now, invited)

    def settled(self, call: Call, failed: bool | None, seconds: float) -> Call:
        if failed is None:
            self.breaker.ignore(call.permit, self.now)
        elif failed:
            self.breaker.fail(call.permit, self.now, seconds)
        else:
            self.breaker.succeed(call.permit, self.now, seconds)
        era = self.model.era
        self.model.settle(call, self.now, failed, seconds)
        if self.model.era != era:
            self.invited = False
        return call

    @rule(call=consumes(flying), target=landed, seconds=st.sampled_from([0.001, 1.0, 1.001]))
    def succeed(self, call: Call, seconds: float) -> Call:
        return self.settled(call, False, seconds)

    @rule(call=consumes(flying), target=landed, seconds=st.sampled_from([0.001, 1.0, 1.001]))
    def fail(self, call: Call, seconds: float) -> Call:
        return self.settled(call, True, seconds)

    @rule(call=consumes(flying), target=landed)
    def ignore(self, call: Call) -> Call:
        return self.settled(call, None, 0.0)

    @rule(call=consumes(flying))
    def leak(self, call: Call) -> None:
        """Never settle this one."""

    @rule(
        call=consumes(landed),
        settle=st.sampled_from([Breaker.succeed, Breaker.fail, Breaker.ignore]),
    )
    def settle_a_probe_again(
        self, call: Call, settle: Callable[[Breaker, Permit, float, float], None]
    ) -> None:
        if call.probe_until is not None:
            before = self.breaker.snapshot(self.now)
            settle(self.breaker, call.permit, self.now, 0.001)
            assert self.breaker.snapshot(self.now) == before

    @precondition(lambda self: self.model.state is State.CLOSED and self.model.settings.failures)
    @rule()
    def a_whole_outage(self) -> None:
        for _ in range(self.model.settings.failures):
            if self.model.state is State.CLOSED:
                call = self.attempt()
                assert call is not None
                self.settled(call, True, 0.001)
        disabled = self.model.mode is Mode.DISABLED
        assert self.breaker.state(self.now) is (State.CLOSED if disabled else State.OPEN)

    @precondition(lambda self: self.model.free_at(self.now) < math.inf)
    @rule()
    def a_whole_recovery(self) -> None:
        """Good calls close it: fewer failed probes than would reopen it may be in already."""
        while self.model.state is not State.CLOSED:
            self.wait_until_a_caller_is_let_through()
            call = self.attempt()
            assert call is not None
            self.settled(call, False, 0.001)

    # -------------------------------------------------------------- promises

    def rehearsal(self) -> Breaker:
        return copy.deepcopy(self.breaker)

    def check_that_the_wait_is_true(self, retry_after: float, free_at: float) -> None:
        if self.model.mode is Mode.FORCED_OPEN:
            assert retry_after == self.model.settings.open_seconds
            return
        assert retry_after > 0
        assert retry_after <= math.nextafter(free_at - self.now, math.inf)
        known = len(self.heard)
        early = self.now + 0.999 * retry_after
        if early < free_at:
            assert isinstance(self.rehearsal().acquire(early), Refused), "the wait is too long"
        then = self.now + retry_after
        assert not isinstance(self.rehearsal().acquire(then), Refused), "the wait is too short"
        del self.heard[known:]

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        now, model = self.now, self.model
        free_at = model.free_at(now)
        over = model.state is State.OPEN and now == free_at
        snapshot = self.breaker.snapshot(now)
        assert snapshot.state is self.breaker.state(now)
        assert snapshot.state is (State.HALF_OPEN if over else model.state)
        assert snapshot.mode is model.mode
        assert snapshot.failures == model.row()
        assert (snapshot.calls, snapshot.failure_rate, snapshot.slow_rate) == model.rates(now)
        assert snapshot.reopened == model.reopened
        out = sum(now < (call.probe_until or 0.0) for call in model.out)
        assert probes_out(self.breaker, now) == out
        assert (snapshot.refused, snapshot.would_refuse) == (model.refused, model.would_refuse)
        refuses = now < free_at and model.mode is not Mode.OBSERVE
        assert (snapshot.retry_after > 0) == refuses
        if refuses and free_at < math.inf:
            assert now + snapshot.retry_after >= free_at

    @invariant()
    def no_more_probes_than_there_are_places(self) -> None:
        snapshot = self.breaker.snapshot(self.now)
        if snapshot.state is State.HALF_OPEN:
            out = probes_out(self.breaker, self.now)
            assert out + snapshot.calls <= self.model.settings.probes

    @invariant()
    def looking_changes_nothing(self) -> None:
        first = self.breaker.snapshot(self.now)
        self.breaker.snapshot(self.now + 1e6)
        assert self.breaker.snapshot(self.now) == first

    @invariant()
    def every_transition_was_heard(self) -> None:
        told = [(each.after, each.reason.value, each.mode) for each in self.heard]
        assert told == self.model.told
        befores = [transition.before for transition in self.heard]
        assert befores[1:] == [after for after, _, _ in told[:-1]]
        moments = [transition.at for transition in self.heard]
        assert moments == sorted(moments)
        counted = self.breaker.snapshot(self.now).transitions
        assert counted == {state: [s for s, _, _ in told].count(state) for state in State}

    @invariant()
    def it_is_never_stuck(self) -> None:
        """Whatever has happened, waiting and as many good calls as probes close it."""
        if self.model.mode is Mode.FORCED_OPEN:
            return
        known = len(self.heard)
        chosen = self.model.settings
        later = self.now
        breaker = self.rehearsal()
        for _ in range(chosen.probes):
            if breaker.state(later) is State.CLOSED:
                break
            later += max(chosen.open_max_seconds, chosen.open_seconds, chosen.probe_seconds)
            permit = breaker.acquire(later)
            assert not isinstance(permit, Refused)
            breaker.succeed(permit, later, 0.001)
        assert breaker.state(later) is State.CLOSED
        for _ in range(3):
            assert not isinstance(breaker.acquire(later), Refused)
        del self.heard[known:]


BreakerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)

TestBreakerMachine = BreakerMachine.TestCase
