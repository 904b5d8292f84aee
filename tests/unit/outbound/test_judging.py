"""What an answer means: taken, not now, or never."""

from __future__ import annotations

import pytest

from flowcache.outbound.judging import LONGEST_WAIT, Answer, NotNow, Refused, judge

NOW = 1_700_000_000.0
"""Tue, 14 Nov 2023 22:13:20 GMT."""


def judged(status: int, retry_after: str | None = None) -> None:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    judge(Answer(status, headers, b"secret"), "the endpoint", lambda: NOW)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_taken(status: int) -> None:
    """Any 2xx says that it was taken."""
    judged(status)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_not_now(status: int) -> None:
    """What may pass is tried again; the reason is the status, and nothing that came back."""
    with pytest.raises(NotNow, match=f"^the endpoint answered {status}$") as caught:
        judged(status)
    assert caught.value.after is None


@pytest.mark.parametrize(
    "status", [101, 301, 302, 307, 308, 400, 401, 403, 404, 405, 409, 413, 422]
)
def test_refused(status: int) -> None:
    """What would be answered alike again is refused: redirects, too, which are not followed."""
    with pytest.raises(Refused, match=f"^the endpoint answered {status}"):
        judged(status)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        ("86400", LONGEST_WAIT),
        ("9" * 400, LONGEST_WAIT),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tue, 14 Nov 2023 22:13:00 GMT", 0.0),
        ("Tue, 14 Nov 2033 22:13:00 GMT", LONGEST_WAIT),
        ("soon", None),
        ("-1", None),
        ("\N{SUPERSCRIPT TWO}", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(status: int, value: str, seconds: float | None) -> None:
    """Seconds or a date count, up to a bound; what is neither leaves the back-off."""
    with pytest.raises(NotNow) as caught:
        judged(status, value)
    assert caught.value.after == seconds
