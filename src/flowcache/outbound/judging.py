"""What may come of anything that is sent elsewhere. Pure.

Two things may be wrong with a destination: it can't take something *now*, so one tries again later;
or it *refuses*, and trying again would not help. Reasons are fit for logs: they hold a status or
the kind of a fault, never what was sent or what came back, which may repeat it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple

__all__ = ["LONGEST_WAIT", "Answer", "NotNow", "Refused", "judge"]

LONGEST_WAIT = 300.0
"""The most seconds that a ``Retry-After`` makes us wait."""

_PASSING = frozenset({408, 425, 429})
"""Statuses below 500 that say that it may go well later."""


class NotNow(Exception):
    """It was not taken, and may be later: after ``after`` seconds, where that was said."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Refused(Exception):
    """It was not taken, and the same would not be taken again."""


class Answer(NamedTuple):
    """What came back. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def judge(answer: Answer, who: str, now: Callable[[], float]) -> None:
    """Pass if ``answer`` says that it was taken (2xx). ``who`` is named in the reason.

    Raises:
        NotNow: 408, 425, 429 or any 5xx. A ``Retry-After`` counts, up to `LONGEST_WAIT`.
        Refused: anything else.
    """
    status = answer.status
    if 200 <= status < 300:
        return
    reason = f"{who} answered {status}"
    if status in _PASSING or status >= 500:
        raise NotNow(reason, _retry_after(answer.headers.get("retry-after"), now))
    if 300 <= status < 400:
        reason += ": redirects are not followed"
    raise Refused(reason)


def _retry_after(value: str | None, now: Callable[[], float]) -> float | None:
    """Return the seconds of a ``Retry-After``, a number or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    try:
        seconds = (
            float(value) if value.isdigit() else parsedate_to_datetime(value).timestamp() - now()
        )
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_WAIT)
