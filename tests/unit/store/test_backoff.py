"""What reconnecting links may count on: growing, bounded, scattered delays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache.store.backoff import reconnect_delay

LARGEST_RANDOM = 1 - 2**-53
attempts = st.integers(1, 10**9)
randoms = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("attempt", "full"),
    [(1, 0.05), (2, 0.1), (10, 0.5), (39, 1.95), (40, 2.0), (41, 2.0), (10**9, 2.0)],
)
def test_the_delay_grows_by_50_ms_and_stops_at_2_s(attempt: int, full: float) -> None:
    """The smallest die gives half of min(attempt * 50, 2000) ms, the largest all but the whole."""
    assert reconnect_delay(attempt, 0.0) == pytest.approx(full / 2)
    assert reconnect_delay(attempt, 0.5) == pytest.approx(full * 3 / 4)
    assert reconnect_delay(attempt, LARGEST_RANDOM) == pytest.approx(full)


@given(attempts, randoms)
def test_the_delay_stays_between_half_and_full(attempt: int, random: float) -> None:
    """Whatever the die, a delay is at least half of the full one and never above it."""
    full = min(attempt * 50, 2000) / 1000
    assert full / 2 <= reconnect_delay(attempt, random) <= full


@given(attempts, attempts, randoms)
def test_a_later_attempt_never_waits_less(one: int, other: int, random: float) -> None:
    """With the same die, the delay never shrinks from one attempt to a later one."""
    earlier, later = sorted((one, other))
    assert reconnect_delay(earlier, random) <= reconnect_delay(later, random)


@given(attempts, randoms, randoms)
def test_the_die_scatters(attempt: int, one: float, other: float) -> None:
    """Links that broke together come back apart: a larger die never means a shorter delay."""
    low, high = sorted((one, other))
    assert reconnect_delay(attempt, low) <= reconnect_delay(attempt, high)


@pytest.mark.parametrize("attempt", [0, -1])
def test_an_attempt_below_1_is_refused(attempt: int) -> None:
    """A link that counts from 0 is told so, instead of retrying in a tight loop."""
    with pytest.raises(ValueError, match=f"attempt counts from 1, not {attempt}"):
        reconnect_delay(attempt, 0.5)
