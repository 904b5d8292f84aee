"""One-word ways to use a breaker, shared by its tests."""

from __future__ import annotations

from collections.abc import Callable

from flowcache.resilience.breaker import (
    Breaker,
    BreakerSettings,
    Permit,
    Refused,
    State,
    Transition,
)

SETTINGS = BreakerSettings(failures=3, open_seconds=10.0, probe_seconds=2.0)

Settle = Callable[[Breaker, Permit, float, float], None]
SETTLES: tuple[Settle, ...] = (Breaker.succeed, Breaker.fail, Breaker.ignore)


def admitted(breaker: Breaker, now: float = 0.0) -> Permit:
    permit = breaker.acquire(now)
    assert not isinstance(permit, Refused), f"refused at {now}, for {permit.retry_after} s"
    return permit


def refused(breaker: Breaker, now: float = 0.0) -> float:
    verdict = breaker.acquire(now)
    assert isinstance(verdict, Refused), f"admitted at {now}"
    return verdict.retry_after


def succeed(breaker: Breaker, now: float = 0.0, seconds: float = 0.001, times: int = 1) -> None:
    for _ in range(times):
        breaker.succeed(admitted(breaker, now), now, seconds)


def fail(breaker: Breaker, now: float = 0.0, seconds: float = 0.001, times: int = 1) -> None:
    for _ in range(times):
        breaker.fail(admitted(breaker, now), now, seconds)


def ignore(breaker: Breaker, now: float = 0.0, times: int = 1) -> None:
    for _ in range(times):
        breaker.ignore(admitted(breaker, now), now)


def trip(breaker: Breaker, now: float = 0.0) -> None:
    """Fail until it opens."""
    while breaker.state(now) is State.CLOSED:
        fail(breaker, now)


def probes_out(breaker: Breaker, now: float) -> int:
    """Count the probes that still have their place."""
    return sum(now < expiry for expiry in breaker._out.values())


def steps(heard: list[Transition]) -> list[tuple[State, State]]:
    return [(transition.before, transition.after) for transition in heard]


def reasons(heard: list[Transition]) -> list[str]:
    return [transition.reason.value for transition in heard]
