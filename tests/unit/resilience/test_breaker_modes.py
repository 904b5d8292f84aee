"""Who has the say: the circuit, an operator, or nobody."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache.resilience.breaker import (
    Breaker,
    BreakerSettings,
    Mode,
    Permit,
    Reason,
    Refused,
    State,
    Transition,
    Unit,
    Window,
)
from tests.unit.resilience.circuits import (
    SETTINGS,
    SETTLES,
    Settle,
    admitted,
    fail,
    refused,
    steps,
    succeed,
    trip,
)


@pytest.fixture
def heard() -> list[Transition]:
    return []


@pytest.fixture
def breaker(heard: list[Transition]) -> Breaker:
    return Breaker(SETTINGS, heard.append, random=lambda: 0.5)


class TestForcedOpen:
    def test_it_refuses_everything_for_ever(self, breaker: Breaker) -> None:
        """An operator's word has no end: no open time runs out."""
        breaker.switch(Mode.FORCED_OPEN, 0.0)
        for now in (0.0, 9.9, 10.0, 86_400.0):
            assert refused(breaker, now) == SETTINGS.open_seconds
            assert breaker.state(now) is State.OPEN
        snapshot = breaker.snapshot(86_400.0)
        assert (snapshot.refused, snapshot.retry_after) == (4, 10.0)
        assert snapshot.reopened == 0

    def test_it_may_begin_so(self) -> None:
        """A circuit that is made while its shard is held open is open from the start."""
        breaker = Breaker(SETTINGS, mode=Mode.FORCED_OPEN)
        assert refused(breaker, 1e6) == 10.0

    def test_no_invitation_opens_it(self, breaker: Breaker) -> None:
        """A link that comes back is no operator."""
        breaker.switch(Mode.FORCED_OPEN, 0.0)
        breaker.invite(1.0)
        refused(breaker, 1.0)

    def test_holding_a_half_open_circuit_is_no_relapse(self, breaker: Breaker) -> None:
        """An operator's switch doesn't count as one more time that Redis failed."""
        trip(breaker)
        fail(breaker, 10.0)
        admitted(breaker, 30.0)
        assert breaker.snapshot(30.0).reopened == 1
        breaker.switch(Mode.FORCED_OPEN, 30.0)
        assert breaker.snapshot(30.0).reopened == 0
        refused(breaker, 1e6)


class TestDisabled:
    def test_it_lets_everything_through_and_judges_nothing(self, breaker: Breaker) -> None:
        """A thousand failures, and everybody is still let through."""
        breaker.switch(Mode.DISABLED, 0.0)
        fail(breaker, times=1000)
        snapshot = breaker.snapshot(0.0)
        assert (snapshot.state, snapshot.failures, snapshot.calls) == (State.CLOSED, 0, 0)

    def test_it_opens_a_circuit_that_was_open(self, breaker: Breaker) -> None:
        """Whoever was refused a moment ago is let through."""
        trip(breaker)
        refused(breaker)
        breaker.switch(Mode.DISABLED, 0.0)
        admitted(breaker)

    def test_rates_are_not_judged_either(self) -> None:
        """A window is judging, too."""
        settings = BreakerSettings(window=Window(5, Unit.CALLS), min_calls=1)
        breaker = Breaker(settings, mode=Mode.DISABLED)
        fail(breaker, times=10)
        assert breaker.state(0.0) is State.CLOSED
        assert breaker.snapshot(0.0).failure_rate is None


class TestObserve:
    def test_it_refuses_nobody_and_counts_whom_it_would(
        self, breaker: Breaker, heard: list[Transition]
    ) -> None:
        """The circuit opens, and tells so; its callers don't notice."""
        breaker.switch(Mode.OBSERVE, 0.0)
        trip(breaker)
        assert breaker.state(5.0) is State.OPEN
        for _ in range(7):
            admitted(breaker, 5.0)
        snapshot = breaker.snapshot(5.0)
        assert (snapshot.refused, snapshot.would_refuse, snapshot.retry_after) == (0, 7, 0.0)
        assert steps(heard)[-1] == (State.CLOSED, State.OPEN)

    @pytest.mark.parametrize("settle", SETTLES)
    def test_calls_that_would_have_been_refused_do_not_count(
        self, breaker: Breaker, settle: Settle
    ) -> None:
        """In mode auto they would not have been made: what they find decides nothing."""
        breaker.switch(Mode.OBSERVE, 0.0)
        trip(breaker)
        spared = admitted(breaker, 5.0)
        probe = admitted(breaker, 10.0)
        behind = admitted(breaker, 10.0)
        before = breaker.snapshot(10.0)
        settle(breaker, spared, 10.0, 0.001)
        settle(breaker, behind, 10.0, 0.001)
        assert breaker.snapshot(10.0) == before
        breaker.succeed(probe, 10.0, 0.001)
        assert breaker.state(10.0) is State.CLOSED

    @given(
        st.lists(
            st.tuples(st.sampled_from([0.0, 0.5, 2.0, 10.0, 25.0]), st.sampled_from(SETTLES)),
            max_size=60,
        ),
        st.booleans(),
    )
    def test_what_is_observed_is_what_auto_would_do(
        self, calls: list[tuple[float, Settle]], leaks: bool
    ) -> None:
        """The same calls: the same transitions, and as many refused as would be."""
        settings = BreakerSettings(failures=2, probes=2, window=Window(10, Unit.SECONDS))
        told: dict[Mode, list[Transition]] = {Mode.AUTO: [], Mode.OBSERVE: []}
        breakers = {
            mode: Breaker(settings, heard.append, lambda: 0.5, mode) for mode, heard in told.items()
        }
        now = 0.0
        for number, (pause, settle) in enumerate(calls):
            now += pause
            for circuit in breakers.values():
                verdict = circuit.acquire(now)
                if isinstance(verdict, Refused):
                    assert circuit is breakers[Mode.AUTO]
                elif not (leaks and number % 3 == 0):
                    settle(circuit, verdict, now, 0.001)
        auto, observe = (breakers[mode].snapshot(now) for mode in told)
        assert auto.refused == observe.would_refuse
        assert observe.refused == auto.would_refuse == 0
        assert [(t.at, t.before, t.after, t.reason) for t in told[Mode.AUTO]] == [
            (t.at, t.before, t.after, t.reason) for t in told[Mode.OBSERVE]
        ]


class TestSwitching:
    @pytest.mark.parametrize(("before", "after"), list(itertools.permutations(Mode, 2)))
    def test_every_switch_is_told_once(self, before: Mode, after: Mode) -> None:
        """With its mode, whether or not the state changed with it."""
        heard: list[Transition] = []
        breaker = Breaker(SETTINGS, heard.append, mode=before)
        breaker.switch(after, 1.0)
        closed, opened = State.CLOSED, State.OPEN
        assert heard == [
            Transition(
                1.0,
                opened if before is Mode.FORCED_OPEN else closed,
                opened if after is Mode.FORCED_OPEN else closed,
                Reason.SWITCHED,
                after,
            )
        ]
        assert breaker.snapshot(1.0).mode is after
        assert sum(breaker.snapshot(1.0).transitions.values()) == 1

    @pytest.mark.parametrize("mode", Mode)
    def test_a_switch_to_the_same_mode_changes_nothing(
        self, mode: Mode, heard: list[Transition]
    ) -> None:
        """It may be repeated, by every worker and as often as one likes."""
        breaker = Breaker(SETTINGS, heard.append, mode=mode)
        if mode is not Mode.FORCED_OPEN:
            fail(breaker, times=2)
        before = breaker.snapshot(0.0)
        breaker.switch(mode, 0.0)
        assert breaker.snapshot(0.0) == before
        assert heard == []

    @pytest.mark.parametrize("mode", [mode for mode in Mode if mode is not Mode.AUTO])
    def test_back_to_auto_is_closed_and_clean(self, breaker: Breaker, mode: Mode) -> None:
        """Neither the row, nor the growth, nor the bar survive: the contract begins anew."""
        trip(breaker)
        fail(breaker, 10.0)
        breaker.switch(mode, 10.0)
        breaker.switch(Mode.AUTO, 10.0)
        snapshot = breaker.snapshot(10.0)
        assert (snapshot.state, snapshot.failures, snapshot.reopened) == (State.CLOSED, 0, 0)
        fail(breaker, 10.0, times=SETTINGS.failures - 1)
        assert breaker.state(10.0) is State.CLOSED
        fail(breaker, 10.0)
        assert refused(breaker, 10.0) == SETTINGS.open_seconds

    @pytest.mark.parametrize("settle", SETTLES)
    @pytest.mark.parametrize(("before", "after"), list(itertools.permutations(Mode, 2)))
    def test_calls_in_flight_do_not_count_after_a_switch(
        self, before: Mode, after: Mode, settle: Settle
    ) -> None:
        """A call from before says nothing about the time after, whichever way the switch went."""
        breaker = Breaker(SETTINGS, mode=before)
        flying = [breaker.acquire(0.0) for _ in range(10)]
        breaker.switch(after, 0.0)
        snapshot = breaker.snapshot(0.0)
        for permit in flying:
            if not isinstance(permit, Refused):
                settle(breaker, permit, 0.0, 0.001)
        assert breaker.snapshot(0.0) == snapshot

    def test_a_probe_from_before_a_switch_does_not_count_after_it(self, breaker: Breaker) -> None:
        """Not even when the circuit is half-open again."""
        trip(breaker)
        old = admitted(breaker, 10.0)
        breaker.switch(Mode.DISABLED, 10.0)
        breaker.switch(Mode.AUTO, 10.0)
        trip(breaker, 10.0)
        admitted(breaker, 20.0)
        before = breaker.snapshot(20.0)
        breaker.succeed(old, 20.0, 0.001)
        assert breaker.snapshot(20.0) == before

    def test_a_listener_may_switch(self) -> None:
        """An automaton may decide on a transition: the circuit is whole by then."""

        def disable(transition: Transition) -> None:
            if transition.after is State.OPEN:
                circuit.switch(Mode.DISABLED, transition.at)

        circuit = Breaker(SETTINGS, disable)
        fail(circuit, times=SETTINGS.failures)
        assert circuit.snapshot(0.0).mode is Mode.DISABLED
        admitted(circuit)

    def test_a_listener_that_switches_as_a_probe_leaves(self) -> None:
        """The probe's permit is of a generation that is over; it settles and harms nothing."""

        def disable(transition: Transition) -> None:
            if transition.after is State.HALF_OPEN:
                circuit.switch(Mode.DISABLED, transition.at)

        circuit = Breaker(SETTINGS, disable)
        trip(circuit)
        permit: Permit = admitted(circuit, 10.0)
        circuit.switch(Mode.AUTO, 10.0)
        circuit.fail(permit, 10.0)
        assert circuit.snapshot(10.0).failures == 0
        succeed(circuit, 10.0)
