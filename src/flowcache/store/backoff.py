"""How long to wait before a link is made again. Pure: the die is thrown by the caller."""

from __future__ import annotations

from typing import Final

__all__ = ["reconnect_delay"]

_STEP_MS: Final = 50
_CAP_MS: Final = 2000


def reconnect_delay(attempt: int, random: float) -> float:
    """Return the seconds to wait before reconnecting for the ``attempt``-th time, from 1.

    The full delay grows by 50 ms an attempt and ends at 2 s, which the 40th reaches. ``random``,
    in [0, 1), spreads it evenly over [0.5, 1.0) of itself: links that broke together come back
    apart, and yet none returns so early that a dead server is hammered.

    Raises:
        ValueError: ``attempt`` is below 1, which would be no delay at all, in a loop.
    """
    if attempt < 1:
        raise ValueError(f"attempt counts from 1, not {attempt!r}")
    full = min(attempt * _STEP_MS, _CAP_MS) / 1000
    return full * (0.5 + random / 2)
