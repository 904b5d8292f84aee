"""Whole requests that are handed over directly: order, endings, and what is kept of a head."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from flowcache.server.connection import Connection, State
from flowcache.server.direct import Direct, Handler, Request
from flowcache.server.framing import Head
from flowcache.server.listener import ConnectionLimits
from tests.unit.http.server.serving import Application, Client, Served, TlsPair, post, served

PLAIN = ((b"content-type", b"text/plain"),)


class Entrance(Direct, Handler):
    """Takes POSTs to ``/whole``; the body says what becomes of each."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.seen: list[tuple[bytes, object, int]] = []
        """Of each request its body, what was kept, and how many fields its head had."""
        self.cancelled = 0

    def takes(self, head: Head) -> bool:
        return head.method == "POST" and head.target == b"/whole" and head.length >= 0

    def start(self, request: Request) -> None:
        self.seen.append((request.body, request.kept, len(request.head.headers)))
        if request.body == b"fail":
            raise RuntimeError("kept quiet")
        request.kept = request.kept or "note"
        request.handler = self
        self.requests.append(request)
        if request.body != b"wait":
            self.answer(request)

    def answer(self, request: Request) -> None:
        big = request.body.startswith(b"big")
        request.answer(200, PLAIN, b"x" * int(request.body[3:]) if big else request.body)

    def cancel(self) -> None:
        self.cancelled += 1


class App(Application):
    """An application with an entrance for whole requests."""

    def __init__(self) -> None:
        super().__init__()
        self.direct = Entrance()


class Direction:
    """A server with such an application."""

    def __init__(self, there: Served, app: App) -> None:
        self.there = there
        self.direct = app.direct

    async def connect(self) -> Client:
        return await self.there.connect()

    @property
    def connection(self) -> Connection:
        (connection,) = self.there.listener.connections
        return connection


@pytest.fixture
async def running(tls: TlsPair | None) -> AsyncIterator[Direction]:
    app = App()
    async with served(tls=tls, app=app) as there:
        yield Direction(there, app)


async def test_a_whole_request_is_answered_and_the_connection_kept(running: Direction) -> None:
    """The answer has the same head as one that came by ASGI."""
    client = await running.connect()
    for body in (b"", b"one", b"two"):
        answer = await client.ask("/whole", body)
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers == {
            "content-type": "text/plain",
            "content-length": str(len(body)),
            "date": "Tue, 14 Nov 2023 22:13:20 GMT",
        }
    await running.there.until(State.IDLE)
    assert running.there.app.begun == []


async def test_what_is_not_whole_goes_by_asgi(running: Direction) -> None:
    """A body that is still to come is awaited there; so is whatever is for another path."""
    client = await running.connect()
    request = post("/whole", b"hello")
    client.send(request[:-1])
    await running.there.until(State.BUSY)
    client.send(request[-1:])
    assert (await client.receive()).json["body"] == "hello"
    assert (await client.ask("/other")).json["path"] == "/other"
    assert running.direct.seen == []


async def test_a_repeated_head_is_known_again(running: Direction) -> None:
    """What the application kept comes back with the same head, and only with the same."""
    client = await running.connect()
    for body, line in ((b"1", "A: b"), (b"2", "A: b"), (b"3", "A: c"), (b"4", "A: c")):
        await client.ask("/whole", body, line)
    assert running.direct.seen == [
        (b"1", None, 3),
        (b"2", "note", 0),
        (b"3", None, 3),
        (b"4", "note", 0),
    ]


async def test_a_known_head_with_half_a_body_is_read_anew(running: Direction) -> None:
    """Then the request goes by ASGI, with all of its fields."""
    client = await running.connect()
    await client.ask("/whole", b"1")
    client.send(post("/whole", b"2")[:-1])
    await running.there.until(State.BUSY)
    client.send(b"2")
    assert (await client.receive()).json["body"] == "2"
    assert running.there.app.scopes[0]["headers"] == [(b"host", b"x"), (b"content-length", b"1")]


async def test_heads_that_all_differ_are_not_remembered(running: Direction) -> None:
    """Each costs no more than to be read: after a few nothing is kept any more."""
    client = await running.connect()
    for number in range(5):
        await client.ask("/whole", b"1", f"X-Request-Id: {number}")
    assert running.connection._known is None
    await client.ask("/whole", b"1", "X-Request-Id: 4")
    assert [kept for _, kept, _ in running.direct.seen] == [None] * 6


async def test_no_credential_is_kept_between_requests(running: Direction) -> None:
    """Neither the bytes of a head nor its fields stay in memory: only a digest does."""
    client = await running.connect()
    secret = "Bearer fc_kept-by-nobody"
    for _ in range(2):
        await client.ask("/whole", b"1", f"Authorization: {secret}")
    running.direct.requests.clear()
    connection = running.connection
    assert connection._known is not None
    found: list[object] = [connection._known, connection._reader, connection._ahead]
    known: set[int] = set()
    while found:
        each = found.pop()
        if id(each) in known or isinstance(each, type):
            continue
        known.add(id(each))
        assert not (isinstance(each, bytes) and secret.encode() in each)
        found += gc.get_referents(each)
    assert len(known) > 5


async def test_requests_that_came_together_are_answered_in_order(running: Direction) -> None:
    """One at a time, whichever way each takes; and a half-close does not hide any of them."""
    client = await running.connect()
    asked = [post("/whole", b"%d" % number) for number in range(20)]
    client.send(b"".join(asked[:10]) + post("/asgi") + b"".join(asked[10:]))
    client.end()
    answers = [await client.receive() for _ in range(21)]
    assert [answer.body for answer in answers[:10]] == [b"%d" % number for number in range(10)]
    assert answers[10].json["path"] == "/asgi"
    assert [answer.body for answer in answers[11:]] == [b"%d" % number for number in range(10, 20)]
    assert await client.is_over()


async def test_a_request_waits_for_the_one_before_it(running: Direction) -> None:
    """What comes while a request is worked on stays bytes until that was answered."""
    client = await running.connect()
    client.send(post("/whole", b"wait") + post("/whole", b"next"))
    await running.there.until(State.BUSY)
    client.send(post("/whole", b"last"))
    assert [body for body, _, _ in running.direct.seen] == [b"wait"]
    running.direct.answer(running.direct.requests[0])
    assert [(await client.receive()).body for _ in range(3)] == [b"wait", b"next", b"last"]


async def test_a_bug_is_answered_and_the_connection_goes_on(running: Direction) -> None:
    """It is logged, and its words are told to nobody."""
    client = await running.connect()
    with capture_logs() as logs:
        answer = await client.ask("/whole", b"fail")
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert b"kept quiet" not in answer.body
    assert [each["event"] for each in logs] == ["a bug"]
    assert (await client.ask("/whole", b"on")).body == b"on"


async def test_a_client_that_is_gone_ends_no_work(running: Direction) -> None:
    """Its answer goes nowhere, and then its connection is left."""
    client = await running.connect()
    client.send(post("/whole", b"wait"))
    await running.there.until(State.BUSY)
    client.reset()
    await running.there.until(State.GONE)
    assert running.direct.cancelled == 0
    running.direct.answer(running.direct.requests[0])
    await running.there.until()


async def test_a_client_that_does_not_read_is_waited_for(running: Direction) -> None:
    """The next request begins when the answer before it was taken."""
    running.there.shrink()
    client = await running.there.connect(buffer=4096)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    client.send(post("/whole", b"big20000000") + post("/whole", b"next"))
    await running.there.until(State.STALLED)
    assert [body for body, _, _ in running.direct.seen] == [b"big20000000"]
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert len((await client.receive()).body) == 20_000_000
    assert (await client.receive()).body == b"next"


async def test_the_last_answer_of_a_connection_says_so(running: Direction) -> None:
    """Because the client wants it, or because the worker is about to end."""
    client = await running.connect()
    answer = await client.ask("/whole", b"1", "Connection: close")
    assert answer.headers["connection"] == "close"
    assert await client.is_over()
    await client.close()
    await running.there.until()
    client = await running.connect()
    client.send(post("/whole", b"wait"))
    await running.there.until(State.BUSY)
    running.there.listener._site.is_draining = True
    running.direct.answer(running.direct.requests[-1])
    assert (await client.receive()).headers["connection"] == "close"
    assert await client.is_over()


async def test_the_end_of_the_grace_cancels_what_is_worked_on() -> None:
    """Whoever works on it hears of it once, and an answer that comes later goes nowhere."""
    app = App()
    async with served(app=app) as there:
        client = await there.connect()
        client.send(post("/whole", b"wait"))
        await there.until(State.BUSY)
        await there.listener.drain(0, 0.01)
        assert app.direct.cancelled == 1
        assert await client.is_over()
        app.direct.answer(app.direct.requests[0])
        assert there.states == []


async def test_who_is_known_makes_room_last() -> None:
    """However long it has been idle: whoever shows no credential is in the way of others first."""
    app = App()
    async with served(ConnectionLimits(connections=2), app=app) as there:
        known, unknown = await there.connect(), await there.connect()
        assert (await known.ask("/whole")).status == 200
        there.clock.now += 1
        assert (await unknown.ask("/")).status == 200
        there.clock.now += 1
        newcomer = await there.connect()
        assert (await newcomer.ask("/")).status == 200
        assert await unknown.is_over()
        assert (await known.ask("/whole")).status == 200
