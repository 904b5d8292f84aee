"""The client for calls to other services: one way to make it, for whoever calls."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping

import httpx2

from flowcache import __version__
from flowcache.outbound.judging import Answer, NotNow

__all__ = ["Outbound"]

_MOST_BYTES = 64 * 1024
"""The most of an answer that is read: a token, or nothing of interest."""


class Outbound:
    """A client for HTTPS. Made and closed in one event loop; safe to share.

    HTTP/1.1 only, since CXone takes nothing else. Redirects are not followed, and proxies of the
    environment not used: what is sent goes where the configuration says, or nowhere. ``ca_file``
    names authorities to trust in place of the system's.
    """

    def __init__(self, seconds: float, ca_file: str | None = None) -> None:
        self._seconds = seconds
        self._client = httpx2.AsyncClient(
            verify=ssl.create_default_context(cafile=ca_file),
            headers={"user-agent": f"flowcache/{__version__}"},
            timeout=seconds,
            follow_redirects=False,
            trust_env=False,
            http2=False,
        )

    async def post(self, url: str, content: bytes, headers: Mapping[str, str]) -> Answer:
        """Post ``content``; an answer of any status is returned.

        Raises:
            NotNow: there was no answer, or none within the time.
        """
        return await self._send("POST", url, content, headers)

    async def get(self, url: str) -> Answer:
        """Get what is at ``url``; otherwise as `post`."""
        return await self._send("GET", url, None, {"accept": "application/json"})

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _send(
        self, method: str, url: str, content: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        try:
            async with (
                asyncio.timeout(self._seconds),  # of the whole: httpx2 counts each read by itself
                self._client.stream(method, url, content=content, headers=headers) as response,
            ):
                body = bytearray()
                async for part in response.aiter_bytes(_MOST_BYTES):
                    body += part
                    if len(body) > _MOST_BYTES:
                        break
                named = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status_code, named, bytes(body[:_MOST_BYTES]))
        except (TimeoutError, httpx2.TimeoutException):
            raise NotNow(f"no answer within {self._seconds:g} s") from None
        except httpx2.HTTPError as fault:
            # Its text may hold the URL, and its chain what was sent.
            raise NotNow(f"no connection: {type(fault).__name__}") from None
