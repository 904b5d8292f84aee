"""Data actions that came whole: started without ASGI, answered like any other."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from flowcache.api.envelope import JSON_HEADERS
from flowcache.authz.keys import ALL_KEYS
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.ratelimit.buckets import Rate
from flowcache.server.direct import Request
from flowcache.server.framing import Head, HeadReader
from flowcache.server.turns import Turnstile
from tests.unit.http.asgi import TOKEN, Endpoint

READ = {"operation": "GET", "key": "k"}


class Connection:
    """As much of a connection as a request needs; it keeps the answers."""

    client = ("192.0.2.1", 1)
    extensions: dict[str, Any] = {}  # noqa: RUF012 - never changed

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any, Any]] = []

    def answer(self, request: Request, status: int, headers: Any, body: bytes) -> None:
        self.answers.append((status, headers, json.loads(body)))


def head(body: bytes, token: str = TOKEN, target: str = "/data-action/redis") -> Head:
    lines = f"POST {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    found = HeadReader().feed(f"{lines}Content-Length: {len(body)}\r\n\r\n".encode())
    assert found is not None
    return found[0]


def request(
    connection: Connection, fields: dict[str, Any], kept: object = None, token: str = TOKEN
) -> Request:
    body = json.dumps(fields).encode()
    return Request(connection, head(body, token), body, kept)  # type: ignore[arg-type]


async def test_a_call_is_answered_before_its_start_returns() -> None:
    """Nothing waits: neither for a task, nor for a turn of the loop."""
    endpoint, connection = Endpoint(b"1"), Connection()
    endpoint.app.start(request(connection, READ))
    ((status, headers, told),) = connection.answers
    assert (status, headers, told["data"]) == (200, JSON_HEADERS, 1)
    assert len(asyncio.all_tasks()) == 1
    assert endpoint.calls.in_flight == 0
    (record,) = endpoint.audit
    assert (record.client, record.address, record.outcome) == ("flow", "192.0.2.1", "ok")


async def test_what_is_kept_stands_for_the_head() -> None:
    """The next request needs no fields: whose it is, and from where, is known; the token is not."""
    endpoint, connection = Endpoint(b"1"), Connection()
    first = request(connection, READ)
    endpoint.app.start(first)
    assert TOKEN.encode() not in str(first.kept).encode()
    assert first.kept.presented.token is None  # type: ignore[attr-defined]
    body = json.dumps(READ).encode()
    bare = Request(connection, head(body).without_fields(), body, first.kept)  # type: ignore[arg-type]
    endpoint.app.start(bare)
    assert [status for status, _, _ in connection.answers] == [200, 200]
    assert {(record.client, record.address) for record in endpoint.audit} == {("flow", "192.0.2.1")}


async def test_what_is_kept_is_judged_anew() -> None:
    """A rate holds for each call, however its caller was found."""
    flow = Principal("flow", frozenset({Permission.DATA_READ}), ALL_KEYS, rate=Rate(1.0, 1))
    endpoint, connection = Endpoint(b"1", principal=flow), Connection()
    first = request(connection, READ)
    endpoint.app.start(first)
    endpoint.app.start(request(connection, READ, first.kept))
    assert [status for status, _, _ in connection.answers] == [200, 429]


async def test_strangers_take_turns() -> None:
    """Of many wrong credentials a few are answered in each turn of the loop, and none is kept."""
    endpoint, connection = Endpoint(), Connection()
    endpoint.app._turns = Turnstile(2)
    requests = [request(connection, READ, token="wrong") for _ in range(5)]
    for each in requests:
        endpoint.app.start(each)
    assert len(connection.answers) == 2
    for _ in range(5):
        await asyncio.sleep(0)
    assert [status for status, _, _ in connection.answers] == [401] * 5
    assert [each.kept for each in requests] == [None] * 5


async def test_a_call_that_is_cut_is_on_record() -> None:
    """It may have reached Redis. What comes of it later is nobody's."""
    endpoint, connection = Endpoint(), Connection()
    release = asyncio.Event()
    endpoint.executor.meanwhile = release.wait  # type: ignore[assignment]
    cut = request(connection, READ)
    endpoint.app.start(cut)
    assert endpoint.calls.in_flight == 1
    assert cut.handler is not None
    cut.handler.cancel()
    cut.handler.cancel()
    assert endpoint.calls.in_flight == endpoint.calls.admission.at_work == 0
    release.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert connection.answers == []
    assert [record.outcome for record in endpoint.audit] == ["cancelled"]
    assert [outcome for _, outcome, _, _ in endpoint.metrics] == ["cancelled"]


async def test_a_large_body_that_waits_for_its_turn_can_be_cut() -> None:
    """Its room is free again, and it is not begun."""
    endpoint, connection = Endpoint(), Connection()
    free = endpoint.calls._room.free
    large = {"operation": "SET", "key": "k", "value": "x" * 200_000}
    first, second = (request(connection, large) for _ in range(2))
    endpoint.app.start(first)
    endpoint.app.start(second)
    assert second.handler is not None
    second.handler.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(endpoint.executor.calls) == len(connection.answers) == 1
    assert endpoint.calls._room.free == free


@pytest.mark.parametrize(
    ("line", "takes"),
    [
        (b"POST /data-action/redis HTTP/1.1", True),
        (b"POST /data-action/redis/ HTTP/1.0", True),
        (b"POST /data-action/redis?a=b HTTP/1.1", False),
        (b"POST /data%2Daction/redis HTTP/1.1", False),
        (b"PUT /data-action/redis HTTP/1.1", False),
        (b"POST /inspector HTTP/1.1", False),
    ],
)
def test_which_requests_may_come_this_way(line: bytes, takes: bool) -> None:
    """Whatever is not just this goes by ASGI, where it is looked at closely."""
    found = HeadReader().feed(line + b"\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
    assert found is not None
    assert Endpoint().app.takes(found[0]) is takes


@pytest.mark.parametrize("field", [b"Transfer-Encoding: chunked", b"Content-Length: 9999999"])
def test_bodies_that_cannot_come_whole_take_the_other_way(field: bytes) -> None:
    """One of unknown length, and one that is too long to be read."""
    found = HeadReader().feed(b"POST /data-action/redis HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % field)
    assert found is not None
    assert not Endpoint().app.takes(found[0])
