"""Keys stay fresh, whatever the issuer does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from flowcache.issuer.refreshing import KeyRefresh
from tests.store.harness import soon
from tests.unit.issuer.issuers import answer, issuer

NEVER = 3600.0
"""Seconds that no test waits for."""


class Keys:
    """What was read, in its order; nonsense is refused as `Jwts.use` does."""

    def __init__(self) -> None:
        self.read: list[bytes] = []

    def use(self, content: bytes) -> None:
        if content == b"nonsense":
            raise ValueError("no JWKS")
        if content == b"bug":
            raise RuntimeError("a bug")
        self.read.append(content)


@asynccontextmanager
async def refreshing(
    location: object, seconds: float, keys: Keys, **pace: float
) -> AsyncIterator[KeyRefresh]:
    refresh = KeyRefresh(str(location), seconds, keys.use, **pace)
    await refresh.start()
    try:
        yield refresh
    finally:
        await refresh.close()


async def test_keys_are_read_again_beside_the_calls(tmp_path: Path) -> None:
    """New keys of a file, or of a URL, are in force after a while."""
    path, keys = tmp_path / "jwks.json", Keys()
    path.write_bytes(b"one")
    async with refreshing(path, 0.01, keys):
        assert keys.read == [b"one"]
        path.write_bytes(b"two")
        await soon(lambda: b"two" in keys.read)
    with issuer(answer(b"one"), answer(b"two")) as there:
        async with refreshing(there.url, 0.01, keys := Keys()):
            assert keys.read == [b"one"]
            await soon(lambda: b"two" in keys.read)


BROKEN = [
    b"garbage\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n100\r\nx",
    answer(b"", "500 Internal Server Error"),
    answer(b"nonsense"),
    answer(b"bug"),
]


async def test_no_answer_ends_the_service_or_the_reading() -> None:
    """Whatever comes, at the start too, is told and tried again."""
    keys = Keys()
    with capture_logs() as logs, issuer(*BROKEN, *BROKEN, answer(b"well")) as there:
        async with refreshing(there.url, 0.01, keys):
            await soon(lambda: keys.read)
    assert len(logs) == 2 * len(BROKEN)
    assert {entry["log_level"] for entry in logs} == {"error"}
    assert [type(entry["exc_info"]) for entry in logs[:5]] == [type(None)] * 4 + [RuntimeError]


async def test_an_issuer_that_is_away_is_tried_sooner_and_ever_less() -> None:
    """From a second on, twice as long each time, and never longer than as if all were well."""
    keys = Keys()
    with capture_logs() as logs:
        async with refreshing("/no/such/file", 0.03, keys, retry=0.004):
            await soon(lambda: len(logs) >= 5)
    waits = [entry["next_seconds"] for entry in logs[:5]]
    assert waits == pytest.approx([0.004, 0.008, 0.016, 0.03, 0.03])
    with capture_logs() as logs:
        async with refreshing("/no/such/file", 300.0, keys):
            assert [entry["next_seconds"] for entry in logs] == [1.0]


async def test_an_issuer_that_is_away_again_is_tried_as_soon_as_at_first(tmp_path: Path) -> None:
    """Failures count in a row only: a day with two short ones is no outage."""
    path, keys = tmp_path / "jwks.json", Keys()
    refresh = KeyRefresh(str(path), 300.0, keys.use)
    with capture_logs() as logs:
        await refresh._read()
        await refresh._read()
        path.write_bytes(b"back")
        await refresh._read()
        path.unlink()
        await refresh._read()
    assert [entry["next_seconds"] for entry in logs] == [1.0, 2.0, 1.0]


async def test_an_issuer_that_was_away_at_the_start_is_not_waited_for_long(tmp_path: Path) -> None:
    """Its keys are in force a moment after it is back, not at the next refresh."""
    path, keys = tmp_path / "jwks.json", Keys()
    with capture_logs():
        async with refreshing(path, NEVER, keys, retry=0.01):
            assert keys.read == []
            path.write_bytes(b"back")
            await soon(lambda: keys.read)


async def test_keys_are_read_when_somebody_asks(tmp_path: Path) -> None:
    """A key that is not known may be new."""
    path, keys = tmp_path / "jwks.json", Keys()
    path.write_bytes(b"one")
    async with refreshing(path, NEVER, keys, least=0.01) as refresh:
        path.write_bytes(b"two")
        refresh.ask()
        await soon(lambda: keys.read == [b"one", b"two"])
        path.write_bytes(b"three")
        refresh.ask()
        await soon(lambda: keys.read == [b"one", b"two", b"three"])


async def test_whoever_asks_often_makes_no_more_readings(tmp_path: Path) -> None:
    """A caller may make up names of keys all day: between two readings there is a pause."""
    path, keys = tmp_path / "jwks.json", Keys()
    path.write_bytes(b"one")
    async with refreshing(path, NEVER, keys, least=NEVER) as refresh:
        for _ in range(100):
            refresh.ask()
            await asyncio.sleep(0)
        assert keys.read == [b"one"]
    async with refreshing(path, NEVER, keys := Keys(), least=0.05) as refresh:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while len(keys.read) < 4:
            refresh.ask()
            await asyncio.sleep(0)
        assert loop.time() - began >= 3 * 0.05
