"""A budget for what is sent in addition to calls: retries and hedged reads.

Sent again without a bound, calls multiply an outage: each failure makes more load. So every call
pays in a share of a token, and what is sent in addition takes a whole one. A small income by time
keeps a quiet service able to try again, and a bound keeps a long calm from paying for a storm.
(The retry budget of Finagle, and the retry throttling of gRPC, proposal A6.)
"""

from __future__ import annotations

from typing import Final

__all__ = ["Budget"]

_INCOME: Final = 10.0
"""Tokens a second."""
_MOST: Final = 100.0
"""The most tokens that are ever there."""


class Budget:
    """Allow ``share`` of the calls, and `_INCOME` a second, to be sent once more. 0: none.

    That bounds the long run. At once there may be `_MOST`, and where calls are few, all of them.
    """

    __slots__ = ("_at", "_share", "_tokens", "refused", "spent")

    def __init__(self, share: float) -> None:
        self._share = share
        self._tokens = _MOST if share else 0.0
        self._at: float | None = None
        self.spent = 0
        self.refused = 0

    def deposit(self) -> None:
        """Pay in for one call."""
        self._tokens += self._share

    def withdraw(self, now: float) -> bool:
        """Take a token, if there is one; ``now`` is in monotonic seconds."""
        if not self._share:
            return False
        income = 0.0 if self._at is None else (now - self._at) * _INCOME
        self._at = now
        # Bounded here and not at each deposit, which every call makes.
        self._tokens = min(_MOST, self._tokens + income)
        if self._tokens < 1.0:
            self.refused += 1
            return False
        self._tokens -= 1.0
        self.spent += 1
        return True
