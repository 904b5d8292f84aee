"""One token: kept until shortly before its end, asked for once however many want it."""

from __future__ import annotations

import asyncio

import pytest

from flowcache.cxone.grants import Granted
from flowcache.cxone.tokens import TokenKeeper
from flowcache.outbound.judging import NotNow
from flowcache.secret import Secret


class Issuer:
    """Issues numbered tokens when it is let to."""

    def __init__(self, seconds: float = 3600.0) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.asked = 0
        self.fault: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.keeper = TokenKeeper(self._ask, lambda: self.now)

    async def _ask(self) -> Granted:
        self.asked += 1
        number = self.asked
        await self.open.wait()
        if self.fault is not None:
            raise self.fault
        return Granted(Secret(f"token-{number}"), self.seconds)

    async def get(self) -> str:
        return (await self.keeper.get()).reveal()


async def test_a_token_is_kept_until_shortly_before_its_end() -> None:
    """It is used for all of its life but the last minute."""
    issuer = Issuer()
    assert await issuer.get() == "token-1"
    issuer.now = 3539.9
    assert await issuer.get() == "token-1"
    issuer.now = 3540.0
    assert await issuer.get() == "token-2"


async def test_a_short_lived_token_is_used_too() -> None:
    """One that lives no longer than the margin is used for half of its life, not asked for anew."""
    issuer = Issuer(seconds=10.0)
    assert await issuer.get() == "token-1"
    issuer.now = 4.9
    assert await issuer.get() == "token-1"
    issuer.now = 5.0
    assert await issuer.get() == "token-2"


async def test_one_refresh_at_a_time() -> None:
    """A hundred who want a token wait for one request."""
    issuer = Issuer()
    issuer.open.clear()
    waiting = [asyncio.create_task(issuer.get()) for _ in range(100)]
    await asyncio.sleep(0)
    issuer.open.set()
    assert set(await asyncio.gather(*waiting)) == {"token-1"}
    assert issuer.asked == 1


async def test_a_fault_is_told_and_not_kept() -> None:
    """Who wanted the token hears why there is none; the next one asks again."""
    issuer = Issuer()
    issuer.fault = NotNow("away")
    with pytest.raises(NotNow, match="away"):
        await issuer.get()
    issuer.fault = None
    assert await issuer.get() == "token-2"


async def test_a_late_complaint_does_not_cost_the_new_token() -> None:
    """Two who met a 401 with the same token let go of that one only."""
    issuer = Issuer()
    first = await issuer.keeper.get()
    issuer.keeper.forget(first)
    assert await issuer.get() == "token-2"
    issuer.keeper.forget(first)
    assert await issuer.get() == "token-2"
    assert issuer.asked == 2


async def test_who_gives_up_hinders_nobody() -> None:
    """A request that is cancelled lets the next one ask."""
    issuer = Issuer()
    issuer.open.clear()
    waiting = asyncio.create_task(issuer.get())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    issuer.open.set()
    assert await issuer.get() == "token-2"
