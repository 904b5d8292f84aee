"""The load: who writes what, and how a caller takes an answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

import msgspec
import pytest

from chaos.client import Answer, Pool
from chaos.history import LOST, OK, REFUSED, slot_of
from chaos.workload import SLOTS, STRIPE, Planned, Workload, tags

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def test_tags_are_spread_over_all_slots() -> None:
    """Each stripe of slots has a tag of its own."""
    assert [slot_of(tag) // STRIPE for tag in tags()] == list(range(SLOTS // STRIPE))


def test_a_key_has_one_writer_at_a_time() -> None:
    """A key is not written again before its write has settled; then it may be, unless a ledger."""
    workload = Workload(Random(1))
    under_way: list[Planned] = []
    written: Counter[str] = Counter()
    for _ in range(5000):
        planned = workload.next()
        if not planned.seq:
            continue
        assert planned.key not in {write.key for write in under_way}
        written[planned.key] += 1
        assert planned.seq == written[planned.key]
        under_way.append(planned)
        if len(under_way) > 50:
            workload.settled(under_way.pop(0))
    assert {written[key] for key in written if key.startswith("ledger")} == {1}
    assert max(written.values()) > 1


def test_reads_are_half_and_everything_is_asked_for() -> None:
    """Half of the calls read, every operation occurs, and half of the writes are idempotent."""
    workload = Workload(Random(1))
    planned = [workload.next() for _ in range(5000)]
    writes = [call for call in planned if call.seq]
    assert 0.4 < len(writes) / len(planned) < 0.6
    assert {call.operation for call in planned} == {"GET", "HGETALL", "SET", "HSET", "INCR"}
    assert 0.4 < sum(call.once for call in writes) / len(writes) < 0.6
    for call in writes:
        assert ("idempotencyKey" in msgspec.json.decode(call.body)) is call.once


@asynccontextmanager
async def pool_of(serve: Serve) -> AsyncIterator[Pool]:
    """Give the callers a server that does as told with each connection."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    pool = Pool(server.sockets[0].getsockname()[1], "token")
    try:
        yield pool
    finally:
        pool.close()
        server.close()
        await server.wait_closed()


def answer(fields: str, *headers: str) -> bytes:
    body = f'{{"metadata":{{}},{fields}}}'
    return (
        "HTTP/1.1 200 OK\r\n"
        + "".join(f"{header}\r\n" for header in headers)
        + f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def test_connections_are_used_again_until_told_otherwise() -> None:
    """One connection serves call after call; after `Connection: close` the next gets another."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        served = 0
        while await reader.readuntil(b"{}"):
            served += 1
            close = ("Connection: close",) if served == 2 else ()
            writer.write(answer('"success":true,"data":7', *close))
            if close:
                break
        writer.close()

    async with pool_of(serve) as pool:
        for _ in range(4):
            assert await pool.call(b"{}") == Answer(OK, data=7)
    assert connections == 2


async def test_failure_is_told_as_it_came() -> None:
    """A failure's code is the outcome, and what it says of a repetition is kept."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(answer('"success":false,"code":"circuit_open","retryable":true'))
        writer.close()

    async with pool_of(serve) as pool:
        assert await pool.call(b"{}") == Answer("circuit_open", retryable=True)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
async def test_a_lost_connection_is_an_unknown_fate(said: bytes) -> None:
    """A connection that ends before the whole answer is lost, not refused, and isn't used again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(said)
        writer.close()

    async with pool_of(serve) as pool:
        assert (await pool.call(b"{}")).outcome == LOST
        assert (await pool.call(b"{}")).outcome == LOST


async def test_no_connection_is_a_refusal() -> None:
    """Where nobody listens nothing was sent."""
    async with pool_of(lambda reader, writer: asyncio.sleep(0)) as pool:
        pass
    assert (await pool.call(b"{}")).outcome == REFUSED


async def test_what_is_no_answer_is_told() -> None:
    """A body that is none of flowcache's is an outcome of its own, which the model knows not."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nno!")
        writer.close()

    async with pool_of(serve) as pool:
        assert (await pool.call(b"{}")).outcome.startswith("not an answer")
