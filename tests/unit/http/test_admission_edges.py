"""Admission at its edges: places that nobody could use are not kept, and a lag refuses a share."""

from __future__ import annotations

import pytest

from flowcache.authz.principal import Principal
from flowcache.calls.admission import Admission
from flowcache.calls.standing_lag import StandingLag
from flowcache.errors import Overloaded


def entered(admission: Admission, client: str) -> int:
    """Return how many calls of a client get in until one is refused."""
    count = 0
    try:
        while True:
            admission.enter(client)
            count += 1
    except Overloaded:
        return count


def test_no_more_is_kept_for_a_client_than_it_may_have() -> None:
    """What its own limit keeps it from using is for all."""
    limited = Principal("limited", frozenset(), weight=9, max_in_flight=2)
    other = Principal("other", frozenset(), weight=1)
    assert entered(Admission(20, [limited, other]), "other") == 20 - 2


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_while_the_loop_lags_that_share_is_refused(share: float) -> None:
    """And as many calls get in as do not belong to it; those that were refused took no place."""
    lag = StandingLag(1.0)
    lag.share = share
    admission = Admission(1000, [Principal("c", frozenset())], lag)
    admission.enter("c")  # who has none at work gets in
    assert sum(_enters(admission) for _ in range(100)) == pytest.approx(100 * (1 - share), abs=1.1)
    assert admission.at_work == 1


def _enters(admission: Admission) -> bool:
    try:
        admission.leave(admission.enter("c"))
    except Overloaded:
        return False
    return True


def test_two_late_beats_now_and_then_are_no_standing_lag() -> None:
    """Only time without a beat in between that was in time counts, however long this goes on."""
    lag = StandingLag(0.8)
    for _ in range(50):
        for seconds in (0.3, 0.3, 0.0):
            lag.record(seconds)
    assert lag.share == 0
