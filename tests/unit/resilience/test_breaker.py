"""What the breaker promises, case by case.

`tests/property/test_breaker_machine.py` promises the same for histories that nobody thought of.
"""

import itertools
import math
from dataclasses import replace

import pytest

from flowcache.resilience.breaker import (
    Breaker,
    BreakerSettings,
    Mode,
    Permit,
    Reason,
    Refused,
    Snapshot,
    State,
    Transition,
    Unit,
    Window,
)
from flowcache.resilience.breaker.machine import HOME, TRANSITIONS
from tests.unit.resilience.circuits import (
    SETTINGS,
    SETTLES,
    Settle,
    admitted,
    fail,
    ignore,
    probes_out,
    refused,
    steps,
    succeed,
    trip,
)


@pytest.fixture
def heard() -> list[Transition]:
    """Every transition of `breaker`, in order."""
    return []


@pytest.fixture
def breaker(heard: list[Transition]) -> Breaker:
    return Breaker(SETTINGS, heard.append, random=lambda: 0.5)


FIRST = (State.CLOSED, State.OPEN)
SECOND = (State.OPEN, State.HALF_OPEN)

EMPTY = Snapshot(
    state=State.CLOSED,
    mode=Mode.AUTO,
    failures=0,
    calls=0,
    failure_rate=None,
    slow_rate=None,
    reopened=0,
    retry_after=0.0,
    refused=0,
    would_refuse=0,
    transitions=dict.fromkeys(State, 0),
)
"""What a circuit shows that was never called."""


def totals(closed: int = 0, opened: int = 0, half_open: int = 0) -> dict[State, int]:
    return {State.CLOSED: closed, State.OPEN: opened, State.HALF_OPEN: half_open}


class TestClosed:
    def test_a_new_circuit_is_closed_and_empty(self, breaker: Breaker) -> None:
        """Nothing is held against a shard that was never called."""
        assert breaker.snapshot(0.0) == EMPTY

    def test_it_admits_any_number_of_calls_at_once(self, breaker: Breaker) -> None:
        """A closed circuit limits nothing: calls in flight are the link's business."""
        for permit in [admitted(breaker, 0.0) for _ in range(1000)]:
            breaker.succeed(permit, 0.0, 0.001)
        assert breaker.state(0.0) is State.CLOSED

    def test_it_opens_at_the_last_failure_of_the_row(self, breaker: Breaker) -> None:
        """One failure fewer than the limit leaves it closed, the next one opens it."""
        fail(breaker, times=SETTINGS.failures - 1)
        assert breaker.state(0.0) is State.CLOSED
        fail(breaker)
        assert breaker.state(0.0) is State.OPEN

    def test_the_default_row_is_five(self) -> None:
        """Unless configured otherwise, 5 failures in a row open a circuit for 10 s."""
        breaker = Breaker(BreakerSettings())
        fail(breaker, times=4)
        assert breaker.state(0.0) is State.CLOSED
        fail(breaker)
        assert refused(breaker, 0.0) == 10.0

    def test_a_success_ends_the_row(self, breaker: Breaker) -> None:
        """Failures count in a row only: many of them, with successes between, open nothing."""
        for _ in range(20):
            fail(breaker, times=SETTINGS.failures - 1)
            succeed(breaker)
        assert breaker.state(0.0) is State.CLOSED
        assert breaker.snapshot(0.0).failures == 0

    def test_an_ignored_call_neither_ends_nor_lengthens_the_row(self, breaker: Breaker) -> None:
        """A client's mistake between failures changes nothing, in either direction."""
        fail(breaker, times=SETTINGS.failures - 1)
        for _ in range(20):
            ignore(breaker)
        assert breaker.snapshot(0.0).failures == SETTINGS.failures - 1
        fail(breaker)
        assert breaker.state(0.0) is State.OPEN

    def test_ignored_calls_alone_never_open(self, breaker: Breaker) -> None:
        """One client's errors don't open the circuit for all."""
        for _ in range(1000):
            ignore(breaker)
        assert breaker.state(0.0) is State.CLOSED

    def test_the_row_has_no_age(self, breaker: Breaker) -> None:
        """A quiet day between two failures doesn't forgive the first."""
        fail(breaker, 0.0, times=SETTINGS.failures - 1)
        fail(breaker, 86_400.0)
        assert breaker.state(86_400.0) is State.OPEN

    def test_one_failure_can_be_enough(self) -> None:
        """With ``failures = 1`` the first one opens."""
        breaker = Breaker(BreakerSettings(failures=1))
        fail(breaker)
        assert breaker.state(0.0) is State.OPEN

    def test_calls_settled_out_of_order_count_in_order_of_settlement(
        self, breaker: Breaker
    ) -> None:
        """A row is made of results as they come in, not of calls as they went out."""
        first, *others = [admitted(breaker, 0.0) for _ in range(SETTINGS.failures + 1)]
        for permit in others:
            breaker.fail(permit, 0.0)
        assert breaker.state(0.0) is State.OPEN
        breaker.succeed(first, 0.0, 0.001)
        assert breaker.state(0.0) is State.OPEN


class TestOpen:
    def test_it_refuses_with_the_true_remaining_seconds(self, breaker: Breaker) -> None:
        """Retry-After counts down to the moment at which a probe is let through."""
        trip(breaker, 100.0)
        assert refused(breaker, 100.0) == 10.0
        assert refused(breaker, 103.0) == 7.0
        assert refused(breaker, 109.75) == 0.25
        admitted(breaker, 110.0)

    def test_asking_does_not_prolong_it(self, breaker: Breaker) -> None:
        """However often callers knock, the circuit half-opens on time."""
        trip(breaker)
        for tenth in range(100):
            refused(breaker, tenth / 10)
        admitted(breaker, 10.0)

    def test_it_counts_whom_it_refused(self, breaker: Breaker) -> None:
        """Each refusal is counted once, and the count survives the circuit's recovery."""
        trip(breaker)
        for _ in range(7):
            refused(breaker, 1.0)
        succeed(breaker, 10.0)
        assert breaker.snapshot(10.0).refused == 7

    def test_an_inspector_sees_it_whole(self, breaker: Breaker) -> None:
        """An open circuit shows what callers are told, and no row any more."""
        trip(breaker, 100.0)
        refused(breaker, 103.0)
        assert breaker.snapshot(103.0) == replace(
            EMPTY,
            state=State.OPEN,
            retry_after=7.0,
            refused=1,
            transitions=totals(opened=1),
        )

    def test_late_failures_do_not_prolong_it(self, breaker: Breaker) -> None:
        """Calls that were in flight when it opened have no say in when it half-opens."""
        stragglers = [admitted(breaker, 0.0) for _ in range(10)]
        trip(breaker, 0.0)
        for permit in stragglers:
            breaker.fail(permit, 5.0)
        assert refused(breaker, 5.0) == 5.0

    def test_a_late_success_does_not_close_it(
        self, breaker: Breaker, heard: list[Transition]
    ) -> None:
        """An answer to a question from before the outage doesn't end the outage."""
        straggler = admitted(breaker, 0.0)
        trip(breaker)
        breaker.succeed(straggler, 1.0, 0.001)
        assert breaker.state(1.0) is State.OPEN
        assert steps(heard) == [(State.CLOSED, State.OPEN)]

    def test_a_late_ignored_call_changes_nothing(self, breaker: Breaker) -> None:
        """A cancellation that arrives late leaves the open time as it was."""
        straggler = admitted(breaker, 0.0)
        trip(breaker)
        before = breaker.snapshot(1.0)
        breaker.ignore(straggler, 1.0)
        assert breaker.snapshot(1.0) == before

    @pytest.mark.parametrize("now", [0.1, 1 / 3, 12345.678901, 2.0**40 + 0.3])
    @pytest.mark.parametrize("waited", [0.0, 1e-9, 0.1, 1 / 3, 3.3, 9.999999])
    def test_the_wait_is_true_to_the_last_bit(self, now: float, waited: float) -> None:
        """Waiting exactly as long as told is enough, however the clock's floats round."""
        breaker = Breaker(BreakerSettings(open_seconds=10.1))
        fail(breaker, now, times=5)
        admitted(breaker, now + waited + refused(breaker, now + waited))

    def test_the_wait_is_rounded_up_where_the_difference_is_not(self) -> None:
        """The plain difference of these floats is an ulp too small: it would be refused again."""
        tripped, asked, open_seconds = 0.0, 0.05, 0.22
        assert asked + (open_seconds - asked) < open_seconds
        breaker = Breaker(BreakerSettings(failures=1, open_seconds=open_seconds))
        fail(breaker, tripped)
        admitted(breaker, asked + refused(breaker, asked))


class TestHalfOpen:
    def test_it_is_half_open_once_the_open_time_is_over(
        self, breaker: Breaker, heard: list[Transition]
    ) -> None:
        """An inspector sees half-open at once, before anybody calls, and changes nothing."""
        trip(breaker)
        assert breaker.state(math.nextafter(10.0, 0.0)) is State.OPEN
        assert breaker.state(10.0) is State.HALF_OPEN
        snapshot = breaker.snapshot(10.0)
        assert (snapshot.state, snapshot.retry_after) == (State.HALF_OPEN, 0.0)
        assert probes_out(breaker, 10.0) == 0
        assert breaker.snapshot(9.0).state is State.OPEN
        assert steps(heard) == [(State.CLOSED, State.OPEN)]

    def test_one_probe_goes_through_and_nobody_else(self, breaker: Breaker) -> None:
        """While a probe is out, all others are refused, however many they are."""
        trip(breaker)
        admitted(breaker, 10.0)
        for _ in range(100):
            refused(breaker, 10.0)
        assert probes_out(breaker, 10.0) == 1
        assert breaker.state(10.0) is State.HALF_OPEN

    def test_behind_a_probe_the_wait_ends_when_its_place_does(self, breaker: Breaker) -> None:
        """Retry-After promises what can be kept whatever the probe does: its remaining seconds."""
        trip(breaker)
        admitted(breaker, 10.0)
        assert refused(breaker, 10.0) == 2.0
        assert refused(breaker, 11.5) == 0.5
        admitted(breaker, 12.0)

    def test_a_successful_probe_closes(self, breaker: Breaker) -> None:
        """One success and everybody is let through again."""
        trip(breaker)
        succeed(breaker, 10.0)
        assert breaker.snapshot(10.0) == replace(
            EMPTY, transitions=totals(closed=1, opened=1, half_open=1)
        )
        for _ in range(10):
            admitted(breaker, 10.0)

    def test_a_failed_probe_reopens_from_its_failure_on(self, breaker: Breaker) -> None:
        """The open time starts anew at the probe's failure, not at its start, and is longer."""
        trip(breaker, -1.0)
        probe = admitted(breaker, 10.0)
        breaker.fail(probe, 11.0)
        assert breaker.state(11.0) is State.OPEN
        assert refused(breaker, 11.0) == 20.0
        refused(breaker, math.nextafter(31.0, 0.0))
        admitted(breaker, 31.0)

    def test_it_takes_a_new_row_to_open_after_recovery(self, breaker: Breaker) -> None:
        """Failures from before the outage are forgotten when the circuit closes."""
        trip(breaker)
        succeed(breaker, 10.0)
        fail(breaker, 10.0, times=SETTINGS.failures - 1)
        assert breaker.state(10.0) is State.CLOSED
        fail(breaker, 10.0)
        assert breaker.state(10.0) is State.OPEN

    def test_an_ignored_probe_gives_its_place_back_at_once(
        self, breaker: Breaker, heard: list[Transition]
    ) -> None:
        """A probe that says nothing neither closes nor reopens, and never blocks the next."""
        trip(breaker)
        for _ in range(50):
            ignore(breaker, 10.0)
            assert breaker.state(10.0) is State.HALF_OPEN
            assert probes_out(breaker, 10.0) == 0
        assert steps(heard) == [(State.CLOSED, State.OPEN), (State.OPEN, State.HALF_OPEN)]
        succeed(breaker, 10.0)
        assert breaker.state(10.0) is State.CLOSED

    def test_after_an_ignored_probe_there_is_still_one_place_only(self, breaker: Breaker) -> None:
        """A place given back is one place: the next probe keeps all others out again."""
        trip(breaker)
        ignore(breaker, 10.0)
        admitted(breaker, 10.0)
        assert refused(breaker, 10.0) == 2.0

    def test_a_cancelled_probe_does_not_stick(self, breaker: Breaker) -> None:
        """A caller that is cancelled while it probes returns its place on the way out."""

        class CallerGone(BaseException):
            pass

        def call() -> None:
            probe = admitted(breaker, 10.0)
            try:
                raise CallerGone
            except CallerGone:
                breaker.ignore(probe, 10.0)
                raise

        trip(breaker)
        with pytest.raises(CallerGone):
            call()
        admitted(breaker, 10.0)

    def test_a_probe_that_never_settles_loses_its_place(self, breaker: Breaker) -> None:
        """A leaked permit costs ``probe_seconds``, not the shard."""
        trip(breaker)
        for now in (10.0, 12.0, 14.0):
            admitted(breaker, now)
            assert probes_out(breaker, now) == 1
        assert probes_out(breaker, 16.0) == 0
        assert breaker.state(16.0) is State.HALF_OPEN
        succeed(breaker, 16.0)
        assert breaker.state(16.0) is State.CLOSED

    @pytest.mark.parametrize("settle", SETTLES)
    @pytest.mark.parametrize("succeeded_by_another", [True, False])
    def test_a_probe_that_lost_its_place_does_not_count(
        self, breaker: Breaker, settle: Settle, succeeded_by_another: bool
    ) -> None:
        """From ``probe_seconds`` on its result is late, taken up or not by another probe."""
        trip(breaker)
        lost = admitted(breaker, 10.0)
        if succeeded_by_another:
            admitted(breaker, 12.0)
        before = breaker.snapshot(12.0)
        settle(breaker, lost, 12.0, 0.001)
        assert breaker.snapshot(12.0) == before

    def test_a_probe_counts_until_the_last_moment(self, breaker: Breaker) -> None:
        """A slow probe that makes it just in time closes the circuit."""
        trip(breaker)
        probe = admitted(breaker, 10.0)
        breaker.succeed(probe, math.nextafter(12.0, 0.0), 0.001)
        assert breaker.state(12.0) is State.CLOSED


class TestGenerations:
    @pytest.mark.parametrize("settle", SETTLES)
    def test_a_call_from_before_the_outage_is_no_probe(
        self, breaker: Breaker, settle: Settle
    ) -> None:
        """Half-open, only the probe's own result decides; a straggler doesn't free its place."""
        straggler = admitted(breaker, 0.0)
        trip(breaker)
        admitted(breaker, 10.0)
        before = breaker.snapshot(10.0)
        settle(breaker, straggler, 10.0, 0.001)
        assert breaker.snapshot(10.0) == before

    def test_failures_from_before_the_outage_do_not_open_again(self, breaker: Breaker) -> None:
        """After recovery, the old calls that time out at last are not held against the shard."""
        stragglers = [admitted(breaker, 0.0) for _ in range(10)]
        trip(breaker)
        succeed(breaker, 10.0)
        for permit in stragglers:
            breaker.fail(permit, 11.0)
        assert breaker.snapshot(11.0).failures == 0
        assert breaker.state(11.0) is State.CLOSED

    def test_a_success_from_before_the_outage_does_not_end_a_new_row(
        self, breaker: Breaker
    ) -> None:
        """The row of the present generation is broken by its own successes only."""
        straggler = admitted(breaker, 0.0)
        trip(breaker)
        succeed(breaker, 10.0)
        fail(breaker, 11.0, times=SETTINGS.failures - 1)
        breaker.succeed(straggler, 11.0, 0.001)
        fail(breaker, 11.0)
        assert breaker.state(11.0) is State.OPEN

    @pytest.mark.parametrize(
        ("first", "second"),
        list(itertools.product(SETTLES, repeat=2)),
    )
    def test_settling_a_probe_twice_is_harmless(
        self, breaker: Breaker, first: Settle, second: Settle
    ) -> None:
        """The first settlement ends the probe's generation; the second is late."""
        trip(breaker)
        probe = admitted(breaker, 10.0)
        first(breaker, probe, 10.0, 0.001)
        before = breaker.snapshot(10.0)
        second(breaker, probe, 10.0, 0.001)
        assert breaker.snapshot(10.0) == before

    def test_an_ignored_probe_settled_again_does_not_free_the_next_ones_place(
        self, breaker: Breaker
    ) -> None:
        """A double settlement can't let a second probe through beside the first."""
        trip(breaker)
        old = admitted(breaker, 10.0)
        breaker.ignore(old, 10.0)
        new = admitted(breaker, 10.0)
        breaker.ignore(old, 10.0)
        refused(breaker, 10.0)
        breaker.succeed(new, 10.0, 0.001)
        assert breaker.state(10.0) is State.CLOSED

    @pytest.mark.parametrize("settle", SETTLES)
    def test_a_moment_from_before_the_recovery_does_no_harm(
        self, breaker: Breaker, settle: Settle
    ) -> None:
        """A caller that read the clock before the circuit closed, and comes after, is heard."""
        trip(breaker)
        succeed(breaker, 10.0)
        settle(breaker, admitted(breaker, 9.5), 9.5, 0.001)
        assert breaker.state(9.5) is State.CLOSED

    def test_a_call_settled_twice_counts_twice(self, breaker: Breaker) -> None:
        """An admitted weakness: calls of one closed generation can't be told apart."""
        permit = admitted(breaker, 0.0)
        breaker.fail(permit, 0.0)
        breaker.fail(permit, 0.0)
        assert breaker.snapshot(0.0).failures == 2


class TestTransitions:
    def test_each_change_is_told_once_with_its_moment_and_reason(
        self, breaker: Breaker, heard: list[Transition]
    ) -> None:
        """A whole outage, as a metric, a log and an inspector will see it."""
        trip(breaker, 1.0)
        refused(breaker, 2.0)
        fail(breaker, 11.0)
        ignore(breaker, 31.5)
        admitted(breaker, 32.0)
        succeed(breaker, 34.0)
        succeed(breaker, 35.0)
        assert heard == [
            Transition(1.0, *FIRST, Reason.CONSECUTIVE_FAILURES, Mode.AUTO),
            Transition(11.0, *SECOND, Reason.OPEN_TIME_OVER, Mode.AUTO),
            Transition(11.0, State.HALF_OPEN, State.OPEN, Reason.PROBE_FAILED, Mode.AUTO),
            Transition(31.5, *SECOND, Reason.OPEN_TIME_OVER, Mode.AUTO),
            Transition(34.0, State.HALF_OPEN, State.CLOSED, Reason.PROBE_SUCCEEDED, Mode.AUTO),
        ]
        assert breaker.snapshot(35.0).transitions == totals(closed=1, opened=2, half_open=2)

    def test_a_breaker_works_unheard(self) -> None:
        """Listening is optional."""
        breaker = Breaker(SETTINGS)
        trip(breaker)
        succeed(breaker, 10.0)
        assert breaker.snapshot(10.0).transitions == totals(closed=1, opened=1, half_open=1)

    def test_a_listener_may_use_the_circuit(self) -> None:
        """A hook that looks, or even calls, finds a circuit that is whole: no lock, no deadlock."""
        seen: list[tuple[State, Permit | Refused]] = []

        def listen(transition: Transition) -> None:
            assert circuit.state(transition.at) is transition.after
            assert sum(circuit.snapshot(transition.at).transitions.values()) == len(seen) + 1
            seen.append((transition.after, circuit.acquire(transition.at)))

        circuit = Breaker(SETTINGS, listen)
        trip(circuit)
        succeed(circuit, 10.0)
        assert seen == [
            (State.OPEN, Refused(10.0)),
            (State.HALF_OPEN, Refused(2.0)),
            (State.CLOSED, circuit.acquire(10.0)),
        ]

    def test_a_listener_that_raises_leaves_a_whole_circuit(self) -> None:
        """A broken hook costs its own call, and at worst one probe's time, never the shard."""

        def broken(transition: Transition) -> None:
            raise RuntimeError(transition.after)

        breaker = Breaker(SETTINGS, broken)
        fail(breaker, times=SETTINGS.failures - 1)
        with pytest.raises(RuntimeError, match="open"):
            fail(breaker)
        with pytest.raises(RuntimeError, match="half-open"):
            breaker.acquire(10.0)
        assert refused(breaker, 10.0) == 2.0
        probe = admitted(breaker, 12.0)
        with pytest.raises(RuntimeError, match="closed"):
            breaker.succeed(probe, 12.0, 0.001)
        admitted(breaker, 12.0)

    def test_every_state_leads_to_closed(self) -> None:
        """The table has no dead end: from each state a path goes back to closed."""
        assert set(TRANSITIONS) == set(State)
        reaching = {State.CLOSED}
        for _ in State:
            reaching |= {
                state
                for state, steps in TRANSITIONS.items()
                if any(after in reaching for after in steps.values())
            }
        assert reaching == set(State)

    def test_every_reason_is_in_the_table_once(self) -> None:
        """A reason alone tells where a circuit came from; none is left over from an older table."""
        told = [reason for steps in TRANSITIONS.values() for reason in steps]
        assert sorted([*told, Reason.SWITCHED]) == sorted(Reason)

    def test_a_circuit_never_turns_half_open_by_itself(self) -> None:
        """Only an open circuit probes: there is no way from closed to half-open."""
        leading = {s for s, steps in TRANSITIONS.items() if State.HALF_OPEN in steps.values()}
        assert leading == {State.OPEN}

    def test_every_mode_has_a_home(self) -> None:
        """An operator can switch to each mode there is."""
        assert set(HOME) == set(Mode)


class TestCircuitsApart:
    def test_one_circuit_does_not_touch_another(self) -> None:
        """A dead shard opens its own circuit only, though the settings are shared."""
        dead, alive = Breaker(SETTINGS), Breaker(SETTINGS)
        untouched = alive.snapshot(0.0)
        trip(dead)
        refused(dead, 1.0)
        assert alive.snapshot(0.0) == untouched
        succeed(alive, 1.0)


class TestSettings:
    def test_the_defaults_are_the_documented_ones(self) -> None:
        """5 in a row, 10 s open and up to 60, one probe, for which 2 s exceed the deadline."""
        assert BreakerSettings() == BreakerSettings(
            failures=5,
            window=None,
            min_calls=20,
            failure_rate=0.5,
            slow_seconds=None,
            slow_rate=0.5,
            open_seconds=10.0,
            open_factor=2.0,
            open_max_seconds=60.0,
            probes=1,
            probe_seconds=2.0,
        )

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("failures", -1),
            *itertools.product(["min_calls", "probes"], [0, -1]),
            *itertools.product(["failure_rate", "slow_rate"], [0.0, -0.1, 1.001, math.nan]),
            *itertools.product(["open_factor"], [0.0, 0.999, math.inf, math.nan]),
            *itertools.product(
                ["open_seconds", "open_max_seconds", "probe_seconds", "slow_seconds"],
                [0.0, -1.0, math.inf, -math.inf, math.nan],
            ),
        ],
    )
    def test_a_value_out_of_range_is_named(self, name: str, value: float) -> None:
        """A wrong setting is refused with its name and value."""
        with pytest.raises(ValueError, match=rf"^{name} must be .*, not {value!r}$"):
            BreakerSettings(**{name: value})  # type: ignore[arg-type]  # deliberately loose

    def test_all_faults_come_at_once(self) -> None:
        """Whoever repairs a configuration sees everything that is wrong with it."""
        with pytest.raises(ValueError, match=r"failures .*; open_seconds .*; probe_seconds "):
            BreakerSettings(failures=-1, open_seconds=0, probe_seconds=0)

    def test_an_empty_window_is_refused(self) -> None:
        """Rates of no calls are none."""
        with pytest.raises(ValueError, match=r"^size must be 1 or more, not 0$"):
            Window(0, Unit.CALLS)

    def test_a_window_reads_as_it_is_written(self) -> None:
        """What an inspector shows of it is what an operator sets."""
        assert str(Window(100, Unit.CALLS)) == "100 calls"
        assert str(Window(30, Unit.SECONDS)) == "30 seconds"
