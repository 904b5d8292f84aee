"""The budget: what may be sent beside the calls, in a calm and in a storm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache.budget import Budget


def drained(share: float = 0.1, now: float = 0.0) -> Budget:
    """Return a budget whose savings are spent."""
    budget = Budget(share)
    while budget.withdraw(now):
        pass
    return budget


def test_savings_are_bounded() -> None:
    """However long the calm, a storm begins with no more than a hundred."""
    budget = Budget(0.5)
    for _ in range(10_000):
        budget.deposit()
    assert sum(budget.withdraw(1e6) for _ in range(1000)) == 100
    assert budget.spent == 100
    assert budget.refused == 900


def test_a_share_of_the_calls() -> None:
    """In the long run it is the share that was allowed."""
    budget = drained(0.25)
    allowed = 0
    for _ in range(1000):
        budget.deposit()
        allowed += budget.withdraw(0.0)
    assert 248 <= allowed <= 252


def test_a_quiet_service_may_try_again() -> None:
    """Ten a second are allowed whatever the traffic."""
    budget = drained()
    assert not budget.withdraw(0.05)
    assert budget.withdraw(0.15)
    assert not budget.withdraw(0.16)
    assert sum(budget.withdraw(1.16) for _ in range(50)) == 10


def test_nothing_of_nothing() -> None:
    """A share of 0 turns it off, savings and income included."""
    budget = Budget(0.0)
    for _ in range(100):
        budget.deposit()
    assert not budget.withdraw(100.0)
    assert budget.refused == 0, "nobody asked for what is turned off"


@given(
    st.floats(0.01, 1.0),
    st.lists(st.one_of(st.none(), st.floats(0.0, 1.0)), max_size=300),
)
def test_never_more_than_its_share(share: float, story: list[float | None]) -> None:
    """In any order of calls and requests: savings, the share and the income, and no more."""
    budget = Budget(share)
    now, calls, allowed, began = 0.0, 0, 0, None
    for wait in story:
        if wait is None:
            budget.deposit()
            calls += 1
        else:
            now += wait
            began = now if began is None else began
            allowed += budget.withdraw(now)
    income = 0.0 if began is None else (now - began) * 10
    assert allowed <= 100 + calls * share + income + 1e-6
    assert budget.spent == allowed


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_time_standing_still_gives_nothing(share: float) -> None:
    """No income without time, be it asked ever so often."""
    budget = drained(share, 5.0)
    assert not any(budget.withdraw(5.0) for _ in range(100))
