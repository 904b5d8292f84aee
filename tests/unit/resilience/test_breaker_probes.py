"""Several probes: how many are let through, how they decide, and that nothing gets stuck."""

from __future__ import annotations

import itertools

import pytest

from flowcache.resilience.breaker import Breaker, BreakerSettings, State, Transition
from tests.unit.resilience.circuits import (
    SETTLES,
    Settle,
    admitted,
    fail,
    ignore,
    probes_out,
    reasons,
    refused,
    succeed,
    trip,
)


@pytest.fixture
def heard() -> list[Transition]:
    return []


@pytest.fixture
def breaker(heard: list[Transition]) -> Breaker:
    """Return a circuit whose open time is over: four probes, half of them may not fail."""
    return half_open(heard)


def half_open(
    heard: list[Transition] | None = None,
    *,
    probes: int = 4,
    failure_rate: float = 0.5,
    slow_rate: float = 0.5,
    slow_seconds: float | None = 4.0,
) -> Breaker:
    settings = BreakerSettings(
        probes=probes,
        failure_rate=failure_rate,
        slow_seconds=slow_seconds,
        slow_rate=slow_rate,
        open_seconds=10.0,
        probe_seconds=2.0,
    )
    breaker = Breaker(settings, (heard if heard is not None else []).append, lambda: 0.5)
    trip(breaker, -10.0)
    return breaker


class TestPlaces:
    def test_so_many_probes_go_through_at_once(self, breaker: Breaker) -> None:
        """Four at the same moment, and not a fifth, however many ask."""
        for out in range(4):
            assert probes_out(breaker, 0.0) == out
            admitted(breaker)
        for _ in range(100):
            refused(breaker)
        assert probes_out(breaker, 0.0) == 4

    def test_so_many_go_through_in_all(self, breaker: Breaker) -> None:
        """A probe that has a result keeps its place: no fifth call is let through for it."""
        probes = [admitted(breaker) for _ in range(4)]
        breaker.succeed(probes[0], 0.0, 0.001)
        breaker.fail(probes[1], 0.0)
        assert probes_out(breaker, 0.0) == 2
        refused(breaker)

    def test_they_need_not_come_at_once(self, breaker: Breaker) -> None:
        """A shard that is rarely called is probed by the calls that it gets, whenever they come."""
        for now in (0.0, 100.0, 1000.0):
            assert breaker.state(now) is State.HALF_OPEN
            succeed(breaker, now)
        assert breaker.state(1000.0) is State.CLOSED

    def test_an_ignored_probe_makes_room_for_one(self, breaker: Breaker) -> None:
        """A place given back is one place, among those still taken."""
        probes = [admitted(breaker) for _ in range(4)]
        breaker.ignore(probes[2], 0.0)
        admitted(breaker)
        refused(breaker)

    def test_ignored_probes_leave_the_results_alone(self, breaker: Breaker) -> None:
        """Any number of probes that say nothing: the verdict waits for those that do."""
        succeed(breaker, times=2)
        ignore(breaker, times=100)
        assert breaker.state(0.0) is State.HALF_OPEN
        snapshot = breaker.snapshot(0.0)
        assert (snapshot.calls, snapshot.failure_rate) == (2, 0.0)
        assert probes_out(breaker, 0.0) == 0
        succeed(breaker)
        assert breaker.state(0.0) is State.CLOSED

    def test_the_wait_is_for_the_first_place_to_come_free(self, breaker: Breaker) -> None:
        """With all probes out, Retry-After is when the eldest loses its place."""
        for now in (0.0, 0.5, 1.0, 1.25):
            admitted(breaker, now)
        assert refused(breaker, 1.5) == 0.5
        admitted(breaker, 2.0)
        assert refused(breaker, 2.0) == 0.5

    def test_probes_that_never_settle_lose_their_places(self, breaker: Breaker) -> None:
        """Leaked permits cost ``probe_seconds``; what the others found is not forgotten."""
        succeed(breaker, times=2)
        admitted(breaker)
        admitted(breaker)
        assert refused(breaker) == 2.0
        assert probes_out(breaker, 2.0) == 0
        succeed(breaker, 2.0)
        assert breaker.state(2.0) is State.CLOSED

    @pytest.mark.parametrize("settle", SETTLES)
    def test_a_lost_place_is_held_against_nobody(self, breaker: Breaker, settle: Settle) -> None:
        """What comes after ``probe_seconds`` neither counts nor frees the next one's place."""
        lost = [admitted(breaker) for _ in range(4)]
        for _ in range(4):
            admitted(breaker, 2.0)
        before = breaker.snapshot(2.0)
        for permit in lost:
            settle(breaker, permit, 2.0, 0.001)
        assert breaker.snapshot(2.0) == before
        refused(breaker, 2.0)


class TestVerdict:
    def test_one_flaky_probe_does_not_reopen(
        self, breaker: Breaker, heard: list[Transition]
    ) -> None:
        """One failure of four is below half: the circuit closes."""
        fail(breaker)
        succeed(breaker, times=3)
        assert reasons(heard)[-1] == "probe succeeded"
        assert breaker.state(0.0) is State.CLOSED

    def test_half_of_them_failed_reopens(self, breaker: Breaker, heard: list[Transition]) -> None:
        """At the rate and not above it, as a closed circuit trips."""
        fail(breaker)
        succeed(breaker, times=2)
        assert breaker.state(0.0) is State.HALF_OPEN
        fail(breaker)
        assert reasons(heard)[-1] == "probe failed"
        assert breaker.state(0.0) is State.OPEN

    def test_slow_probes_reopen(self, breaker: Breaker, heard: list[Transition]) -> None:
        """Answers that nobody can wait for are no recovery."""
        succeed(breaker, seconds=5.0)
        succeed(breaker, seconds=1.0, times=2)
        succeed(breaker, seconds=5.0)
        assert reasons(heard)[-1] == "probe slow"

    def test_a_probe_that_times_out_is_slow_as_well(self, heard: list[Transition]) -> None:
        """One in four failed late, one was late: half of those who waited waited too long."""
        breaker = half_open(heard, failure_rate=1.0)
        fail(breaker, seconds=5.0)
        succeed(breaker, seconds=1.0)
        succeed(breaker, seconds=5.0)
        assert reasons(heard)[-1] == "probe slow"

    def test_one_slow_probe_is_enough_when_there_is_one(self) -> None:
        """With one probe its answer is the rate."""
        heard: list[Transition] = []
        succeed(half_open(heard, probes=1), seconds=5.0)
        assert reasons(heard)[-1] == "probe slow"

    def test_nothing_is_slow_unless_configured(self) -> None:
        """Without ``slow_seconds`` a probe may take its time, and no slow rate delays it."""
        breaker = half_open(slow_seconds=None, slow_rate=0.01)
        succeed(breaker, seconds=1.9, times=3)
        assert breaker.state(0.0) is State.CLOSED

    def test_the_others_are_late_once_it_is_decided(self, breaker: Breaker) -> None:
        """Two failures decide; what the other two say doesn't prolong the open time."""
        probes = [admitted(breaker) for _ in range(4)]
        breaker.fail(probes[0], 0.0)
        breaker.fail(probes[1], 0.0)
        assert refused(breaker) == 20.0
        breaker.succeed(probes[2], 1.0, 0.001)
        breaker.fail(probes[3], 1.0)
        assert refused(breaker, 1.0) == 19.0

    def test_the_others_are_late_once_it_is_closed(self, breaker: Breaker) -> None:
        """Three successes decide; the fourth's failure is not the first of a new row."""
        probes = [admitted(breaker) for _ in range(4)]
        for permit in probes[:3]:
            breaker.succeed(permit, 0.0, 0.001)
        assert breaker.state(0.0) is State.CLOSED
        breaker.fail(probes[3], 0.0)
        assert breaker.snapshot(0.0).failures == 0

    @pytest.mark.parametrize("rate", [0.01, 0.25, 1 / 3, 0.5, 0.75, 1.0])
    @pytest.mark.parametrize("probes", [1, 2, 3, 5])
    def test_it_is_decided_as_soon_as_it_is_certain_and_no_sooner(
        self, probes: int, rate: float
    ) -> None:
        """For every course of results: decided when all ways to go on agree, and rightly."""

        def rightly(course: tuple[bool, ...]) -> State:
            return State.OPEN if sum(course) / probes >= rate else State.CLOSED

        for course in itertools.product([False, True], repeat=probes):
            breaker = half_open(probes=probes, failure_rate=rate, slow_seconds=None)
            for number, failed in enumerate(course, 1):
                (fail if failed else succeed)(breaker)
                to_come = itertools.product([False, True], repeat=probes - number)
                ends = {rightly(course[:number] + more) for more in to_come}
                decided = breaker.state(0.0)
                assert decided is (ends.pop() if len(ends) == 1 else State.HALF_OPEN)
                if decided is not State.HALF_OPEN:
                    break

    def test_the_next_round_starts_from_nothing(self, breaker: Breaker) -> None:
        """Results of probes before the reopening don't count among those after."""
        fail(breaker, times=2)
        assert breaker.snapshot(20.0).calls == 0
        fail(breaker, 20.0)
        succeed(breaker, 20.0, times=3)
        assert breaker.state(20.0) is State.CLOSED
