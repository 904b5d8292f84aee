"""What a pursuit tells the operator."""

from __future__ import annotations

from structlog.testing import capture_logs

from flowcache.store.pursuit import Refusals
from flowcache.store.settings import Address

SERVER = Address("127.0.0.1", 6379)


def test_a_refusal_is_logged_and_not_each_time() -> None:
    """A server that refuses every call costs a log line for each reason every ten seconds."""
    now = 0.0
    refusals = Refusals(lambda: now)
    with capture_logs() as log:
        for seconds in (0.0, 1.0, 9.9, 10.0, 19.9):
            now = seconds
            for _ in range(100):
                refusals.note("OOM", SERVER)
                refusals.note("LOADING", SERVER)
    assert [line["code"] for line in log] == ["OOM", "LOADING"] * 2


def test_codes_without_end_take_no_room_without_end() -> None:
    """Codes are the server's, and may be anything: few are remembered."""
    refusals = Refusals(lambda: 0.0)
    with capture_logs():
        for number in range(1000):
            refusals.note(f"CODE{number}", SERVER)
    assert len(refusals._logged) < 100
