"""When to ask a second server: an estimate of how long a healthy reply takes at most, as a rule.

The estimate is a frugal one (Ma, Muthukrishnan and Sandler, "Frugal Streaming for Estimating
Quantiles over Data Streams", 2013): one number, nudged up by each reply that took longer and down
by each that took less, so that the nudges balance where a twentieth takes longer. It costs a
comparison and a multiplication a reply, and follows a change within some hundred replies.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Patience"]

_UP: Final = 1 + 0.05 * 0.95
_DOWN: Final = 1 - 0.05 * 0.05
_LEAST: Final = 0.01
"""Seconds below which nobody is called slow: two ticks of the wheel that tells. By then a replica
has what was acknowledged when the read began, as a rule, so that a hedged read is rarely stale."""
_RANGE: Final = (0.0001, 10.0)


class Patience:
    """Estimate the p95 of how long replies take, in seconds."""

    __slots__ = ("p95",)

    def __init__(self) -> None:
        self.p95 = _LEAST

    def observe(self, seconds: float) -> None:
        """Take note of how long a reply took."""
        p95 = self.p95 * (_UP if seconds > self.p95 else _DOWN)
        self.p95 = min(max(p95, _RANGE[0]), _RANGE[1])

    def seconds(self) -> float:
        """Return after how long without a reply a second server may be asked."""
        return max(_LEAST, self.p95)
