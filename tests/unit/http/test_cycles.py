"""A call leaves nothing for the garbage collector: reference counting frees all it used."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from flowcache.errors import Failure, all_failures
from tests.unit.http.asgi import Endpoint, Header, bearer

BODIES = {
    "a read": b'{"operation":"GET","key":"k"}',
    "a write": b'{"operation":"SET","key":"k","value":[[1],{"a":[]}],"idempotencyKey":"once"}',
    "not JSON": b"hello",
    "nested too deeply": b"[" * 10_000,
    "unknown operation": b'{"operation":"NOPE","key":"k"}',
    "no key": b'{"operation":"GET"}',
    "a null in a hash": b'{"operation":"HSET","key":"k","value":{"a":null}}',
}


@pytest.fixture
def collector() -> Iterator[None]:
    """Keep the garbage collector from running by itself."""
    gc.disable()
    yield
    gc.enable()


async def left_behind(endpoint: Endpoint, body: bytes, *headers: Header) -> int:
    """Return how many unreachable objects ten of these calls leave."""
    await endpoint.post(body, *headers)
    gc.collect()
    for _ in range(10):
        await endpoint.post(body, *headers)
    return gc.collect()


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_call_leaves_no_cycles(body: bytes) -> None:
    """Whether a call succeeds or is refused, its body is freed when its answer has left."""
    assert await left_behind(Endpoint(), body) == 0


@pytest.mark.usefixtures("collector")
async def test_a_call_without_a_credential_leaves_no_cycles() -> None:
    """Strangers can't fill the memory either."""
    assert await left_behind(Endpoint(), BODIES["a read"], bearer("wrong")) == 0


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("kind", all_failures(), ids=lambda kind: kind.code)
async def test_a_failure_of_the_store_leaves_no_cycles(kind: type[Failure]) -> None:
    """An outage, when every call fails, costs no more memory than good times."""
    endpoint = Endpoint()

    async def fail() -> None:
        raise kind("Words.")

    endpoint.executor.meanwhile = fail
    assert await left_behind(endpoint, BODIES["a read"]) == 0
