"""Any history of calls, against a model of the breaker that is too simple to be wrong.

The model knows neither generations nor bars: it keeps each permit with the story of how it was
given, and works out from the settings and the story what a permit is worth now.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

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
    Permit,
    Refused,
    State,
    Transition,
)

SECONDS = st.floats(0.001, 30.0)


@dataclass(eq=False)
class Call:
    """One admitted call, as the model remembers it."""

    permit: Permit
    era: int  # how often the circuit had changed its state
    probe_since: float | None  # None: an ordinary call of a closed circuit


@dataclass
class Model:
    """What a circuit ought to do, told as a story."""

    settings: BreakerSettings
    state: State = State.CLOSED
    era: int = 0
    row: int = 0
    opened_at: float | None = None
    probe: Call | None = None
    refused: int = 0
    path: list[State] = field(default_factory=lambda: [State.CLOSED])

    def free_at(self, now: float) -> float:
        """Return the moment from which a caller is let through, ``now`` if one is already."""
        if self.state is State.OPEN:
            assert self.opened_at is not None
            return max(now, self.opened_at + self.settings.open_seconds)
        if self.probe is not None:
            assert self.probe.probe_since is not None
            return max(now, self.probe.probe_since + self.settings.probe_seconds)
        return now

    def enter(self, state: State) -> None:
        self.state = state
        self.era += 1
        self.row = 0
        self.probe = None
        self.path.append(state)

    def admit(self, permit: Permit, now: float) -> Call:
        if self.state is State.CLOSED:
            return Call(permit, self.era, None)
        if self.state is State.OPEN:
            self.enter(State.HALF_OPEN)
        self.probe = Call(permit, self.era, now)
        return self.probe

    def counts(self, call: Call, now: float) -> bool:
        """Tell whether the result of ``call`` still says something about the circuit."""
        if call.probe_since is None:
            return call.era == self.era
        return call is self.probe and now < self.free_at(now)

    def succeed(self, call: Call, now: float) -> None:
        if not self.counts(call, now):
            return
        if self.state is State.CLOSED:
            self.row = 0
        else:
            self.opened_at = None
            self.enter(State.CLOSED)

    def fail(self, call: Call, now: float) -> None:
        if not self.counts(call, now):
            return
        self.row += 1
        if self.state is State.HALF_OPEN or self.row == self.settings.failures:
            self.opened_at = now
            self.enter(State.OPEN)

    def ignore(self, call: Call, now: float) -> None:
        if self.counts(call, now) and call is self.probe:
            self.probe = None


class BreakerMachine(RuleBasedStateMachine):
    """Call, settle, dawdle, leak and settle twice in any order, at any pace."""

    flying = Bundle("flying")  # admitted and not settled
    landed = Bundle("landed")  # settled, and about to be settled again
    now: float
    breaker: Breaker
    model: Model
    heard: list[Transition]

    @initialize(
        now=st.floats(0.0, 1e7),
        failures=st.integers(1, 4),
        open_seconds=SECONDS,
        probe_seconds=SECONDS,
    )
    def install(self, now: float, failures: int, open_seconds: float, probe_seconds: float) -> None:
        self.now = now
        chosen = BreakerSettings(failures, open_seconds, probe_seconds)
        heard: list[Transition] = []
        self.heard = heard
        # A bound append stays itself in a deep copy, so rehearsals are heard, too: each cuts off
        # again what it added.
        self.breaker = Breaker(chosen, heard.append)
        self.model = Model(chosen)

    # ------------------------------------------------------------------ time

    @rule(seconds=st.floats(0.0, 40.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def wait_until_just_before_a_caller_is_let_through(self) -> None:
        self.now = max(self.now, math.nextafter(self.model.free_at(self.now), -math.inf))

    @rule()
    def wait_until_a_caller_is_let_through(self) -> None:
        self.now = self.model.free_at(self.now)

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
        verdict = self.breaker.acquire(self.now)
        free_at = self.model.free_at(self.now)
        if isinstance(verdict, Refused):
            note(f"{self.now}: refused for {verdict.retry_after}")
            assert self.now < free_at, "refused without a reason"
            self.model.refused += 1
            self.check_that_the_wait_is_true(verdict.retry_after, free_at)
            return None
        assert self.now == free_at, "admitted while the circuit is open or its probe is out"
        return self.model.admit(verdict, self.now)

    @rule(call=consumes(flying), target=landed)
    def succeed(self, call: Call) -> Call:
        self.breaker.succeed(call.permit, self.now)
        self.model.succeed(call, self.now)
        return call

    @rule(call=consumes(flying), target=landed)
    def fail(self, call: Call) -> Call:
        self.breaker.fail(call.permit, self.now)
        self.model.fail(call, self.now)
        return call

    @rule(call=consumes(flying), target=landed)
    def ignore(self, call: Call) -> Call:
        self.breaker.ignore(call.permit, self.now)
        self.model.ignore(call, self.now)
        return call

    @rule(call=consumes(flying))
    def leak(self, call: Call) -> None:
        """Never settle this one."""

    @rule(
        call=consumes(landed),
        settle=st.sampled_from([Breaker.succeed, Breaker.fail, Breaker.ignore]),
    )
    def settle_a_probe_again(
        self, call: Call, settle: Callable[[Breaker, Permit, float], None]
    ) -> None:
        if call.probe_since is not None:
            before = self.breaker.snapshot(self.now)
            settle(self.breaker, call.permit, self.now)
            assert self.breaker.snapshot(self.now) == before

    @precondition(lambda self: self.model.state is State.CLOSED)
    @rule()
    def a_whole_outage(self) -> None:
        for _ in range(self.model.settings.failures):
            if self.model.state is State.CLOSED:
                call = self.attempt()
                assert call is not None
                self.breaker.fail(call.permit, self.now)
                self.model.fail(call, self.now)
        assert self.breaker.state(self.now) is State.OPEN

    @precondition(lambda self: self.model.state is not State.CLOSED)
    @rule()
    def a_whole_recovery(self) -> None:
        self.wait_until_a_caller_is_let_through()
        call = self.attempt()
        assert call is not None
        self.breaker.succeed(call.permit, self.now)
        self.model.succeed(call, self.now)
        assert self.breaker.state(self.now) is State.CLOSED

    # -------------------------------------------------------------- promises

    def rehearsal(self) -> Breaker:
        return copy.deepcopy(self.breaker)

    def check_that_the_wait_is_true(self, retry_after: float, free_at: float) -> None:
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
        assert snapshot.failures == model.row
        assert snapshot.opened_at == model.opened_at
        assert snapshot.probes == (model.probe is not None and now < free_at)
        assert snapshot.refused == model.refused
        assert (snapshot.retry_after > 0) == (now < free_at)
        if now < free_at:
            assert now + snapshot.retry_after >= free_at
        assert snapshot.transitions == model.era

    @invariant()
    def looking_changes_nothing(self) -> None:
        first = self.breaker.snapshot(self.now)
        self.breaker.snapshot(self.now + 1e6)
        assert self.breaker.snapshot(self.now) == first

    @invariant()
    def every_transition_was_heard(self) -> None:
        states = [State.CLOSED] + [transition.after for transition in self.heard]
        assert states == self.model.path
        assert [transition.before for transition in self.heard] == states[:-1]
        moments = [transition.at for transition in self.heard]
        assert moments == sorted(moments)

    @invariant()
    def it_is_never_stuck(self) -> None:
        """Whatever has happened, one wait and one success away everybody is let through."""
        known = len(self.heard)
        later = self.now + max(self.model.settings.open_seconds, self.model.settings.probe_seconds)
        breaker = self.rehearsal()
        permit = breaker.acquire(later)
        assert not isinstance(permit, Refused)
        breaker.succeed(permit, later)
        assert breaker.state(later) is State.CLOSED
        for _ in range(3):
            assert not isinstance(breaker.acquire(later), Refused)
        del self.heard[known:]


BreakerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)

TestBreakerMachine = BreakerMachine.TestCase
