"""What went wrong in other breakers, and does not here. Each defect with where it was reported.

What resilience4j's CircuitBreakerStateMachineTest and gobreaker's tests check besides is in the
other files of this folder, as promises of our own.
"""

from __future__ import annotations

import pytest

from flowcache.resilience.breaker import (
    Breaker,
    BreakerSettings,
    Refused,
    State,
    Transition,
    Unit,
    Window,
)
from tests.unit.resilience.circuits import (
    admitted,
    fail,
    ignore,
    refused,
    steps,
    succeed,
    trip,
)

FOUR_PROBES = BreakerSettings(probes=4, failure_rate=0.5, probe_seconds=2.0)


def test_an_ignored_error_does_not_keep_its_permit() -> None:
    """resilience4j #544: the last probe's error was ignored, and it was half-open for ever."""
    breaker = Breaker(FOUR_PROBES)
    trip(breaker)
    succeed(breaker, 10.0, times=2)
    ignore(breaker, 10.0, times=4)
    assert breaker.state(10.0) is State.HALF_OPEN
    succeed(breaker, 10.0)
    assert breaker.state(10.0) is State.CLOSED


def test_an_unhandled_error_of_the_probe_does_not_end_probing() -> None:
    """Polly #1979: after a probe that counted for nothing no other was ever let through."""
    breaker = Breaker(BreakerSettings())
    trip(breaker)
    for _ in range(3):
        ignore(breaker, 10.0)
    succeed(breaker, 10.0)
    assert breaker.state(10.0) is State.CLOSED


def test_probes_that_never_report_do_not_stick() -> None:
    """resilience4j #935, #1389: permits that nobody gave back, and half-open until a restart."""
    breaker = Breaker(FOUR_PROBES)
    trip(breaker)
    for _ in range(4):
        admitted(breaker, 10.0)
    refused(breaker, 11.9)
    succeed(breaker, 12.0, times=3)
    assert breaker.state(12.0) is State.CLOSED


def test_fewer_probes_than_a_window_wants_still_decide() -> None:
    """resilience4j #903: ``min_calls`` of the window kept a half-open circuit from its verdict."""
    breaker = Breaker(BreakerSettings(window=Window(100, Unit.CALLS), min_calls=100, probes=2))
    trip(breaker)
    succeed(breaker, 10.0, times=2)
    assert breaker.state(10.0) is State.CLOSED


def test_no_more_probes_than_permitted_whatever_comes_back() -> None:
    """resilience4j #1432: more calls than permitted as it turned half-open."""
    breaker = Breaker(FOUR_PROBES)
    trip(breaker)
    let_through = 0
    for _ in range(100):
        verdict = breaker.acquire(10.0)
        if isinstance(verdict, Refused):
            continue
        let_through += 1
        if let_through <= 2:
            breaker.ignore(verdict, 10.0)
            breaker.ignore(verdict, 10.0)  # given back once more than it was taken
    assert let_through == 2 + 4


def test_one_probe_at_a_time_while_it_has_no_result() -> None:
    """Polly #216: while the first probe waited for its timeout, all others were let through."""
    breaker = Breaker(BreakerSettings())
    trip(breaker)
    admitted(breaker, 10.0)
    assert all(isinstance(breaker.acquire(10.0 + n / 100), Refused) for n in range(199))


def test_a_late_result_does_not_close_an_open_circuit() -> None:
    """Polly #217: a success that was under way when the circuit opened closed it again."""
    breaker = Breaker(BreakerSettings())
    straggler = admitted(breaker)
    trip(breaker)
    breaker.succeed(straggler, 1.0, 1.0)
    assert breaker.state(1.0) is State.OPEN
    probe = admitted(breaker, 10.0)
    breaker.succeed(straggler, 10.0, 10.0)
    assert breaker.state(10.0) is State.HALF_OPEN
    breaker.fail(probe, 10.0)
    breaker.succeed(straggler, 10.0, 10.0)
    assert breaker.state(10.0) is State.OPEN


def test_late_failures_do_not_tell_of_the_opening_again() -> None:
    """Polly #218, #219: each failure that was under way told of an opening, and prolonged it."""
    heard: list[Transition] = []
    breaker = Breaker(BreakerSettings(), heard.append)
    stragglers = [admitted(breaker) for _ in range(50)]
    trip(breaker)
    for permit in stragglers:
        breaker.fail(permit, 5.0)
    assert steps(heard) == [(State.CLOSED, State.OPEN)]
    assert refused(breaker, 5.0) == 5.0


def test_one_flaky_probe_does_not_reopen() -> None:
    """Polly #2381: one lost packet in the only probe, and another whole break."""
    breaker = Breaker(FOUR_PROBES)
    trip(breaker)
    fail(breaker, 10.0)
    succeed(breaker, 10.0, times=3)
    assert breaker.state(10.0) is State.CLOSED


def test_calls_in_flight_count_when_their_deadline_passes() -> None:
    """gobreaker #91: a breaker that hears of completed calls only is blind to a stall.

    The guard fails a call at its deadline. So of a thousand calls that a stalled Redis has
    swallowed five deadlines open the circuit; the others are late, whenever they end and however.
    """
    breaker = Breaker(BreakerSettings())
    swallowed = [admitted(breaker) for _ in range(1000)]
    for permit in swallowed[:5]:
        breaker.fail(permit, 0.8, 0.8)
    assert breaker.state(0.8) is State.OPEN
    for number, permit in enumerate(swallowed[5:]):
        (breaker.fail if number % 2 else breaker.succeed)(permit, 3.0, 3.0)
    assert breaker.state(3.0) is State.OPEN
    assert refused(breaker, 3.0) == pytest.approx(7.8)


def test_a_listener_may_look_and_call() -> None:
    """gobreaker #37: the listener was called under the lock, and looking was a deadlock."""
    seen: list[State] = []

    def look(transition: Transition) -> None:
        circuit.snapshot(transition.at)
        circuit.acquire(transition.at)
        seen.append(circuit.state(transition.at))

    circuit = Breaker(BreakerSettings(), look)
    trip(circuit)
    succeed(circuit, 10.0)
    assert seen == [State.OPEN, State.HALF_OPEN, State.CLOSED]


def test_a_circuit_that_nobody_calls_is_shown_as_it_is() -> None:
    """Dapr #10113: the gauge said half-open for ever. State is worked out when one looks."""
    breaker = Breaker(BreakerSettings())
    trip(breaker)
    assert [breaker.state(now) for now in (9.9, 10.0, 1e9)] == [
        State.OPEN,
        State.HALF_OPEN,
        State.HALF_OPEN,
    ]
    succeed(breaker, 1e9)
    assert breaker.snapshot(1e9).state is State.CLOSED


def test_looking_takes_no_place() -> None:
    """resilience4j #858: asking whether a call would be permitted used a probe's permit up."""
    breaker = Breaker(BreakerSettings())
    trip(breaker)
    for _ in range(10):
        breaker.state(10.0)
        breaker.snapshot(10.0)
    admitted(breaker, 10.0)


def test_a_half_open_circuit_is_entered_once() -> None:
    """resilience4j #674: two callers at the end of the open time, and an illegal transition."""
    heard: list[Transition] = []
    breaker = Breaker(FOUR_PROBES, heard.append)
    trip(breaker)
    for _ in range(10):
        breaker.acquire(10.0)
    assert steps(heard) == [(State.CLOSED, State.OPEN), (State.OPEN, State.HALF_OPEN)]
