"""One token, kept until shortly before it expires, and asked for once however many want it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from flowcache.cxone.grants import Granted
from flowcache.secret import Secret

__all__ = ["TokenKeeper"]

_MARGIN = 60.0
"""Seconds before its end that a token is not used any more: what clocks and the way may take."""


class TokenKeeper:
    """Keep a token. ``ask`` gets a new one; ``clock`` is monotonic, in seconds."""

    def __init__(self, ask: Callable[[], Awaitable[Granted]], clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._token: Secret | None = None
        self._until = float("-inf")
        self._asking = asyncio.Lock()

    async def get(self) -> Secret:
        """Return a token that is good for a while yet.

        Raises:
            NotNow, Refused: what ``ask`` raises.
        """
        async with self._asking:  # who comes meanwhile waits, and finds what was got
            if self._token is None or self._clock() >= self._until:
                granted = await self._ask()
                # Of one that lives no longer than the margin, half of its life is used.
                self._until = self._clock() + max(granted.seconds - _MARGIN, granted.seconds / 2)
                self._token = granted.token
            return self._token

    def forget(self, token: Secret) -> None:
        """Drop a token that was not accepted, unless another has replaced it."""
        if self._token is not None and self._token == token:
            self._token = None
