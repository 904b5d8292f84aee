"""Whose JSON Web Tokens count, and their keys, which are kept fresh beside the requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.request import HTTPRedirectHandler, Request, build_opener

import structlog

__all__ = ["JwtSettings", "KeyRefresh", "read_keys"]

_log = structlog.get_logger(__name__)

_PATIENCE = 5.0
"""Seconds that the issuer has to answer."""

_MOST_BYTES = 1 << 20


class JwtSettings(NamedTuple):
    """Whose tokens count, for whom they must be made, and where the keys are. In seconds:
    ``refresh``, how often the keys are read, and ``leeway``, how far clocks may be apart."""

    issuer: str
    audience: str
    keys: str
    refresh: float = 300.0
    leeway: float = 30.0


class _NoRedirects(HTTPRedirectHandler):
    """Follow nobody: keys come from where the operator said, and from nowhere else."""

    def redirect_request(self, *_: object) -> None:
        return None


def read_keys(location: str) -> bytes:
    """Return what is at a path, or at an ``https://`` (or ``http://``) URL. Blocks.

    Raises:
        OSError: it can't be read.
        ValueError: it is too long.
    """
    if location.startswith(("https://", "http://")):
        request = Request(location, headers={"accept": "application/json"})  # noqa: S310 - it is no other scheme
        with build_opener(_NoRedirects).open(request, timeout=_PATIENCE) as response:
            content: bytes = response.read(_MOST_BYTES + 1)
    else:
        content = Path(location).read_bytes()
    if len(content) > _MOST_BYTES:
        raise ValueError("it is too long")
    return content


class KeyRefresh:
    """Read the keys at the start and every ``seconds``; what can't be read leaves the old ones."""

    def __init__(self, location: str, seconds: float, use: Callable[[bytes], int]) -> None:
        self._location = location
        self._seconds = seconds
        self._use = use
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read once, and go on beside the calls. An issuer that is away stops nobody."""
        await self._read()
        self._task = asyncio.create_task(self._go_on())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            await self._read()

    async def _read(self) -> None:
        try:
            self._use(await asyncio.to_thread(read_keys, self._location))
        except (OSError, ValueError) as fault:
            _log.error("keys of the issuer", location=self._location, fault=str(fault))
