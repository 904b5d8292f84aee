"""The client for calls to other services: where it calls, and how long and how much it listens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from flowcache.outbound.client import Outbound
from flowcache.outbound.judging import NotNow
from tests.servers.ports import PortClaim
from tests.unit.issuer.issuers import Drip, answer, issuer


@asynccontextmanager
async def outbound(seconds: float = 5.0) -> AsyncIterator[Outbound]:
    client = Outbound(seconds)
    try:
        yield client
    finally:
        await client.close()


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token would be shown to it."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with issuer(answer(b"here")) as there, issuer(answer(b"elsewhere")) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/jwks"))
        async with outbound() as client:
            assert (await client.get(there.url)).body == b"here"
    assert proxy.asked == []


async def test_all_of_an_answer_has_one_deadline() -> None:
    """One that comes byte by byte holds nobody: its whole is in time, not each byte."""
    slow = Drip(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", b"x" * 100)
    with issuer(slow) as there:
        async with outbound(0.3) as client:
            with pytest.raises(NotNow, match=r"^no answer within 0\.3 s$"):
                await client.get(there.url)


async def test_no_more_is_read_than_can_be_of_interest() -> None:
    """Of an answer that has no end the beginning is one."""
    endless = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n" + b"x" * 200_000
    with issuer(endless) as there:
        async with outbound() as client:
            assert (await client.get(there.url)).body == b"x" * 65_536


async def test_why_there_is_no_connection_is_told_by_its_kind() -> None:
    """What the library says of it may hold what was sent."""
    async with outbound() as client:
        with PortClaim() as claim, pytest.raises(NotNow) as caught:
            await client.post(f"http://127.0.0.1:{claim.port}/secret", b"", {})
    assert str(caught.value) == "no connection: ConnectError"
    assert caught.value.__suppress_context__
