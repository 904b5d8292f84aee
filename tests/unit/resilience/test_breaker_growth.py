"""How long a circuit stays open: the contract of the first time, and the growth after it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from flowcache.resilience.breaker import Breaker, BreakerSettings, State, Transition
from tests.unit.resilience.circuits import fail, ignore, reasons, refused, succeed, trip


def middling() -> float:
    """Be neither lucky nor unlucky: the jitter that changes nothing."""
    return 0.5


def reopenings(breaker: Breaker, number: int, now: float = 0.0) -> list[float]:
    """Trip, fail each probe as soon as it may go, and return how long each time was."""
    trip(breaker, now)
    waits = [refused(breaker, now)]
    for _ in range(number):
        now += waits[-1]
        fail(breaker, now)
        waits.append(refused(breaker, now))
    return waits


@pytest.mark.parametrize("chance", [0.0, 0.25, 0.999999])
def test_the_first_time_is_a_contract(chance: float) -> None:
    """10 seconds to the bit, whatever chance says."""
    breaker = Breaker(BreakerSettings(), random=lambda: chance)
    trip(breaker)
    assert refused(breaker) == 10.0


def test_each_time_is_twice_the_last_up_to_the_longest() -> None:
    """10, 20, 40, and then 60 for as long as it takes."""
    breaker = Breaker(BreakerSettings(), random=middling)
    assert reopenings(breaker, 5) == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0]
    assert breaker.snapshot(0.0).reopened == 5


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.9), (0.5, 1.0), (0.75, 1.05), (1.0, 1.1)])
def test_a_tenth_more_or_less_by_chance(chance: float, factor: float) -> None:
    """So that instances that opened together don't all knock together."""
    breaker = Breaker(BreakerSettings(), random=lambda: chance)
    first, second, third = reopenings(breaker, 2)
    assert first == 10.0
    assert second == pytest.approx(20.0 * factor)
    assert third == pytest.approx(40.0 * factor), "chance must not add up"


def test_chance_spreads_them() -> None:
    """A thousand circuits come back over four seconds, evenly, and none outside of them."""
    source = random.Random(1)
    waits = [
        reopenings(Breaker(BreakerSettings(), random=source.random), 1)[1] for _ in range(1000)
    ]
    assert all(18.0 <= wait <= 22.0 for wait in waits)
    for quarter in range(4):
        assert sum(quarter <= wait - 18.0 < quarter + 1 for wait in waits) > 200


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_the_longest_time_is_never_exceeded(chance: float) -> None:
    """Not even by chance."""
    breaker = Breaker(BreakerSettings(), random=lambda: chance)
    assert max(reopenings(breaker, 20)) <= 60.0


@pytest.mark.parametrize(("chance", "wait"), [(0.0, 54.0), (0.25, 57.0), (0.5, 60.0), (1.0, 60.0)])
def test_chance_spreads_the_longest_time_as_well(chance: float, wait: float) -> None:
    """However long the outage: at the cap a time is still a tenth shorter by chance."""
    breaker = Breaker(BreakerSettings(), random=lambda: chance)
    assert reopenings(breaker, 10)[-1] == pytest.approx(wait)


def test_an_outage_of_days_overflows_nothing() -> None:
    """The 2,000th reopening is like the fourth: 2.0 ** 1024 is no float."""
    breaker = Breaker(BreakerSettings(), random=middling)
    assert reopenings(breaker, 2000)[-1] == 60.0


def test_the_open_time_may_be_constant() -> None:
    """With a factor of 1 only chance makes a difference."""
    breaker = Breaker(BreakerSettings(open_factor=1.0), random=middling)
    assert reopenings(breaker, 3) == [10.0] * 4


def test_closing_ends_the_growth() -> None:
    """The next outage is a new one, and begins with the contract."""
    breaker = Breaker(BreakerSettings(), random=middling)
    now = sum(reopenings(breaker, 2))
    succeed(breaker, now)
    assert breaker.snapshot(now).reopened == 0
    assert reopenings(breaker, 1, now) == [10.0, 20.0]


def test_a_probe_that_says_nothing_does_not_grow_it() -> None:
    """Only failed probes make the open time longer."""
    breaker = Breaker(BreakerSettings(), random=middling)
    trip(breaker)
    ignore(breaker, 10.0, times=10)
    fail(breaker, 10.0)
    assert refused(breaker, 10.0) == 20.0


class TestInvitation:
    def test_it_ends_the_bar_at_once(self) -> None:
        """Somebody saw Redis come back: no need to wait for the rest of the ten seconds."""
        heard: list[Transition] = []
        breaker = Breaker(BreakerSettings(), heard.append)
        trip(breaker)
        refused(breaker, 1.0)
        breaker.invite(1.0)
        assert breaker.state(1.0) is State.HALF_OPEN
        succeed(breaker, 1.0)
        assert reasons(heard) == ["consecutive failures", "invited", "probe succeeded"]

    def test_it_may_be_for_later(self) -> None:
        """Who knows when Redis will be well again lets the bar end then, and not before."""
        breaker = Breaker(BreakerSettings())
        trip(breaker)
        breaker.invite(0.5)
        assert refused(breaker, 0.25) == 0.25
        succeed(breaker, 0.5)
        assert breaker.state(0.5) is State.CLOSED

    def test_it_never_prolongs_the_bar(self) -> None:
        """An invitation for after the open time, or after an earlier one, changes nothing."""
        heard: list[Transition] = []
        breaker = Breaker(BreakerSettings(), heard.append)
        trip(breaker)
        breaker.invite(10.0)
        breaker.invite(60.0)
        assert refused(breaker) == 10.0
        succeed(breaker, 10.0)
        assert reasons(heard)[1] == "open time over"
        trip(breaker, 10.0)
        breaker.invite(11.0)
        breaker.invite(12.0)
        assert refused(breaker, 10.0) == 1.0

    def test_it_does_not_end_the_growth(self) -> None:
        """A server that accepts connections and answers nothing must not look well each time."""
        breaker = Breaker(BreakerSettings(), random=middling)
        trip(breaker)
        waits = []
        for now in (1.0, 2.0, 3.0):
            breaker.invite(now)
            fail(breaker, now)
            waits.append(refused(breaker, now))
        assert waits == [20.0, 40.0, 60.0]

    def test_it_is_good_for_one_outage(self) -> None:
        """After the invited probe failed, the bar holds again, and its end is told as such."""
        heard: list[Transition] = []
        breaker = Breaker(BreakerSettings(), heard.append, random=middling)
        trip(breaker)
        breaker.invite(1.0)
        fail(breaker, 1.0)
        refused(breaker, 20.9)
        succeed(breaker, 21.0)
        assert reasons(heard)[1:4] == ["invited", "probe failed", "open time over"]

    @pytest.mark.parametrize("times", [1, 2])
    def test_it_may_be_repeated(self, times: int) -> None:
        """Two links that come back are two invitations, and one probe."""
        heard: list[Transition] = []
        breaker = Breaker(BreakerSettings(), heard.append)
        trip(breaker)
        for _ in range(times):
            breaker.invite(1.0)
        succeed(breaker, 2.0)
        assert reasons(heard)[1] == "invited"

    @pytest.mark.parametrize("prepare", [lambda _: None, trip])
    def test_it_is_void_where_nobody_waits(self, prepare: Callable[[Breaker], None]) -> None:
        """A closed circuit, or one whose open time is over, is not changed by it."""
        heard: list[Transition] = []
        breaker = Breaker(BreakerSettings(), heard.append)
        prepare(breaker)
        before = breaker.snapshot(11.0)
        breaker.invite(11.0)
        assert breaker.snapshot(11.0) == before
        succeed(breaker, 12.0)
        assert "invited" not in reasons(heard)

    def test_it_does_not_free_a_probes_place(self) -> None:
        """While a probe is out the others go on waiting for it."""
        breaker = Breaker(BreakerSettings())
        trip(breaker)
        breaker.acquire(10.0)
        breaker.invite(10.0)
        assert refused(breaker, 10.0) == 2.0
