"""The two clocks that a server goes by."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Clock", "Now"]

Clock = Callable[[], float]
"""Seconds that only go forward, as ``time.monotonic``."""

Now = Callable[[], float]
"""Unix seconds, as ``time.time``."""
