"""Connections over real sockets: what is answered, in which order, and how they end."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator
from typing import NoReturn

import pytest
from structlog.testing import capture_logs

from flowcache.server.connection import Connection, State
from flowcache.server.listener import ConnectionLimits
from tests.unit.http.asgi import Answered
from tests.unit.http.server.serving import (
    WAIT,
    Client,
    Secure,
    Served,
    TlsPair,
    happens,
    post,
    served,
)

MOST_HELD = 2 * 16 * 1024
"""Bytes: two segments, one read ahead and one that had begun to be."""


@pytest.fixture
async def there(tls: TlsPair | None) -> AsyncIterator[Served]:
    async with served(tls=tls) as running:
        yield running


def refused(answer: Answered, says: str = "") -> None:
    """Check that a server's own refusal is the contract's, and closes."""
    assert answer.status == 400, answer
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["connection"] == "close"
    assert answer.body.count(b"\n") == 1
    assert answer.body.endswith(b"\n")
    told = answer.json
    assert (told["success"], told["data"], told["code"]) == (False, None, "invalid_request")
    assert told["metadata"]["requestId"]
    assert says in told["error"]
    assert told["error"].endswith(".")


# -- requests --------------------------------------------------------------------------------------


async def test_a_request_is_answered_and_the_connection_kept(there: Served) -> None:
    """Head and body come in one write, with a date and a length, and nothing that names us."""
    client = await there.connect()
    for body in (b"", b"hello", b"x" * 300_000):
        answer = await client.ask("/a%20b?c=d", body)
        assert answer.status == 200
        assert answer.headers == {
            "content-type": "text/plain",
            "content-length": str(len(answer.body)),
            "date": "Tue, 14 Nov 2023 22:13:20 GMT",
        }
        assert answer.json == {
            "method": "POST",
            "path": "/a b",
            "query": "c=d",
            "version": "1.1",
            "body": body.decode(),
        }
    await there.until(State.IDLE)


async def test_an_encoded_slash_is_no_slash(there: Served) -> None:
    """What a proxy's rules take for one part of a path is not two here."""
    client = await there.connect()
    for sent, path in (("/a%2fb", "/a%2fb"), ("/a%2Fb%20c", "/a%2Fb c"), ("/%252f", "/%2f")):
        assert (await client.ask(sent)).json["path"] == path


async def test_a_request_that_dribbles_in_is_the_same(there: Served) -> None:
    """A byte at a time makes the same request, its chunks included."""
    client = await there.connect()
    chunked = post("/", b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    for data in (post("/", b"hello"), chunked + b"5\r\nhello\r\n0\r\nT: x\r\n\r\n"):
        for at in range(len(data)):
            client.send(data[at : at + 1])
            await asyncio.sleep(0)
        assert (await client.receive()).json["body"] == "hello"


async def test_pipelined_requests_are_answered_in_order_one_at_a_time(there: Served) -> None:
    """The next request begins when the one before has been answered."""
    client = await there.connect()
    client.send(post("/wait", b"1") + post("/two", b"2") + post("/three"))
    await there.until(State.BUSY)
    client.send(post("/four"))
    await happens(lambda: there.app.begun == ["/wait"])
    there.app.gate.set()
    assert [(await client.receive()).json["path"] for _ in range(4)] == [
        "/wait",
        "/two",
        "/three",
        "/four",
    ]


async def test_what_comes_ahead_of_time_is_bounded(there: Served) -> None:
    """A client that floods a connection with requests is not read from until they are done."""
    client = await there.connect()
    request = post("/x")
    client.send(post("/wait"))
    await there.until(State.BUSY)
    (connection,) = there.listener.connections
    client.send(request * 100_000)
    await happens(lambda: not connection._reads)
    held = len(connection._ahead)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(connection._ahead) == held <= MOST_HELD
    there.app.gate.set()
    for _ in range(1 + 100_000 // 100):
        assert (await client.receive()).status == 200
    # The rest is neither sent nor read: a close would wait until the server has read it.
    client.writer.transport.abort()


async def test_what_came_ahead_of_time_is_all_answered(there: Served) -> None:
    """A connection that was not read from for a while is read from again, to its last request."""
    client = await there.connect()
    client.send(post("/wait"))
    await there.until(State.BUSY)
    (connection,) = there.listener.connections
    client.send(post("/empty", b"", f"Padding: {'x' * 5000}") * 300)
    await happens(lambda: not connection._reads)
    there.app.gate.set()
    statuses = [(await client.receive()).status for _ in range(301)]
    assert statuses == [200] + [204] * 300


async def test_a_body_that_nobody_takes_is_bounded(there: Served) -> None:
    """An application that is slow to read slows its client down."""
    client = await there.connect()
    client.send(post("/wait", b"x" * 10_000_000))
    await there.until(State.BUSY)
    (connection,) = there.listener.connections
    await happens(lambda: not connection._reads)
    assert connection._exchange is not None
    assert len(connection._exchange.unread) <= MOST_HELD
    there.app.gate.set()
    assert len((await client.receive()).json["body"]) == 10_000_000


async def test_expect_continue_is_answered_when_the_body_is_wanted(there: Served) -> None:
    """Who asks first is told to go on as soon as the application reads, and only once."""
    client = await there.connect()
    head = post("/wait", b"hello", "Expect: 100-continue").removesuffix(b"hello")
    client.send(head)
    await there.until(State.BUSY)
    there.app.gate.set()
    assert (await client.receive()).status == 100
    client.send(b"hel")
    client.send(b"lo")
    assert (await client.receive()).json["body"] == "hello"


@pytest.mark.parametrize("expects", [(), ("Expect: 100-continue",)])
async def test_an_answer_that_did_not_wait_for_the_body_closes(
    there: Served, expects: tuple[str, ...]
) -> None:
    """What may never come is not waited for; whoever sends it reads the answer all the same."""
    client = await there.connect()
    client.send(post("/unread", b"x" * 3_000_000, *expects)[:-2_900_000])
    answer = await client.receive()
    assert (answer.status, answer.headers["connection"]) == (401, "close")
    client.send(b"x" * 2_900_000)
    await client.writer.drain()
    assert await client.is_over()


async def test_whoever_sends_a_body_that_nobody_wants_can_end_it(there: Served) -> None:
    """Also where it was not read from for a while: what still comes is dropped, and no reset."""
    client = await there.connect()
    body = b"x" * 16_000_000
    client.send(post("/late-unread", body))
    await there.until(State.BUSY)
    (connection,) = there.listener.connections
    await happens(lambda: not connection._reads)
    there.app.gate.set()
    assert (await client.receive()).status == 401
    await asyncio.wait_for(client.writer.drain(), WAIT)
    client.end()
    assert await client.is_over()


async def test_what_is_dropped_at_the_end_is_bounded(
    there: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who goes on sending for ever after the last answer is cut, before its time is over."""
    monkeypatch.setattr("flowcache.server.connection._DROPPED", 100_000)
    client = await there.connect()
    client.send(b"GARBAGE\r\n\r\n")
    refused(await client.receive())
    await there.until(State.CLOSING)
    client.send(b"x" * 1_000_000)
    await there.until()


async def test_what_is_dropped_is_dropped_little_by_little(there: Served) -> None:
    """Whoever pours bytes after the last answer gets one segment of each turn of the loop."""
    client = await there.connect()
    client.send(b"GARBAGE\r\n\r\n")
    refused(await client.receive())
    await there.until(State.CLOSING)
    (connection,) = there.listener.connections
    client.send(b"x" * 10_000_000)
    dropped, steps = connection._dropped, []
    while connection._dropped < 5_000_000:
        await asyncio.sleep(0)
        steps.append(connection._dropped - dropped)
        dropped = connection._dropped
    assert 0 < max(steps) <= 32 * 1024


async def test_who_listens_for_the_end_hears_of_the_answers(there: Served) -> None:
    """An application may wait for its client to go; once it has answered there is nobody to go."""
    client = await there.connect()
    assert (await client.ask("/listens")).body == b"answered"
    await happens(lambda: there.app.ended == ["/listens"])
    assert there.app.messages == ["http.disconnect"]
    assert (await client.ask("/")).status == 200


async def test_a_head_is_answered_without_a_body(there: Served) -> None:
    """HEAD has the length of what GET would get, and none of it."""
    client = await there.connect()
    client.send(post("/", method="HEAD") + post("/empty") + post("/"))
    length = (await client.receive(has_body=False)).headers["content-length"]
    assert int(length) > 10
    assert "content-length" not in (await client.receive()).headers
    assert (await client.receive()).status == 200


async def test_a_head_of_what_comes_in_parts(there: Served) -> None:
    """Nor is there a last chunk: it would be read as the begin of the next answer."""
    client = await there.connect()
    client.send(post("/stream", method="HEAD") + post("/after"))
    answer = await client.receive(has_body=False)
    assert answer.headers["transfer-encoding"] == "chunked"
    assert (await client.receive()).json["path"] == "/after"


async def test_http_1_0_closes_unless_asked(there: Served) -> None:
    """An old client is answered in its own way."""
    old = post("/").replace(b"1.1", b"1.0")
    client = await there.connect()
    client.send(old.replace(b"Host: x", b"Connection: keep-alive"))
    assert (await client.receive()).headers["connection"] == "keep-alive"
    client.send(old.replace(b"/ ", b"/stream ").replace(b"Host: x", b"Connection: keep-alive"))
    answer = await client.receive()
    assert answer.headers.keys() == {"date", "connection"}
    assert answer.headers["connection"] == "close", "the end of the connection is that of the body"
    assert await client.reader.read() == b"onetwothree"


async def test_an_answer_in_parts_is_chunked(there: Served) -> None:
    """What has no length known before is sent as it comes, and the connection stays."""
    client = await there.connect()
    for _ in range(2):
        assert (await client.ask("/stream")).body == b"onetwothree"


async def test_the_client_that_asked_to_close_is_closed(there: Served) -> None:
    """The answer repeats it (RFC 9112, 9.6), and is read before the end."""
    client = await there.connect()
    assert (await client.ask("/", b"", "Connection: close")).headers["connection"] == "close"
    assert await client.is_over()


async def test_what_nobody_has_asked_for_is_left_where_it_is(tls: TlsPair | None) -> None:
    """Many clients that each send a large body at once take a segment each of the memory."""
    async with served(ConnectionLimits(), tls) as there:
        clients = [await there.connect() for _ in range(20)]
        for client in clients:
            client.send(post("/wait", b"x" * 1_000_000))
        await there.until(*[State.BUSY] * 20)
        for _ in range(100):  # the loop has looked at all sockets many times
            await asyncio.sleep(0)
        held = [len(c._exchange.unread) for c in there.listener.connections if c._exchange]
        assert len(held) == 20
        assert max(held) <= 32 * 1024
        there.app.gate.set()
        for client in clients:
            assert len((await client.receive()).json["body"]) == 1_000_000


# -- faults of the application ---------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/silent", "/fail", "/split"])
async def test_a_bug_is_answered(there: Served, path: str) -> None:
    """An application that fails, answers nothing or would split its answer gets an envelope."""
    client = await there.connect()
    with capture_logs() as logged:
        answer = await client.ask(path)
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert b"quiet" not in answer.body
    assert logged[0]["request_id"] in answer.json["error"]
    assert (await client.ask("/")).status == 200


async def test_an_answer_that_fails_halfway_is_cut(there: Served) -> None:
    """Half an answer must not look like a whole one."""
    client = await there.connect()
    client.send(post("/fail-late") + post("/after"))
    with capture_logs(), pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.receive()
    await there.until()
    assert there.app.begun == ["/fail-late"], "nothing is begun that nobody could be told of"


# -- refusals --------------------------------------------------------------------------------------

REFUSED = [
    b"GARBAGE\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\nHost: x\n\n",
    post("/", b"", "Transfer-Encoding: chunked"),
    post("/", b"", "Content-Length: 0"),
    post("/", b"", f"A: {'x' * 40_000}"),
    post("/", b"", *["A: b"] * 200),
]


@pytest.mark.parametrize("data", REFUSED, ids=lambda data: repr(data[:40]))
async def test_what_is_no_http_gets_an_envelope_and_is_closed(there: Served, data: bytes) -> None:
    """A refusal can be read, though much more is on its way, and comes after what was before it."""
    client = await there.connect()
    client.send(post("/wait", b"before") + data + b"x" * 500_000)
    await there.until(State.BUSY)
    there.app.gate.set()
    assert (await client.receive()).json["body"] == "before"
    refused(await client.receive(), "The request is no valid HTTP: ")
    assert await client.is_over()


async def test_broken_chunks_break_the_body_off(there: Served) -> None:
    """The application hears that the body ends, and its answer is the last."""
    client = await there.connect()
    head = post("/", b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    client.send(head + b"5\r\nhello\r\nzz\r\n" + b"x" * 100_000)
    answer = await client.receive()
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert await client.is_over()


# -- half-closed and gone --------------------------------------------------------------------------


async def test_a_client_that_ends_its_side_is_answered(there: Served) -> None:
    """A half-close says that no more requests come, not that nobody reads the answers."""
    client = await there.connect()
    client.send(post("/wait", b"1") + post("/2"))
    client.end()
    await there.until(State.BUSY)
    there.app.gate.set()
    assert (await client.receive()).json["body"] == "1"
    assert (await client.receive()).json["path"] == "/2"
    assert await client.is_over()
    await there.until()


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"", None), (b"POST / HT", 400), (post("/", b"hello")[:-1], 400)],
    ids=["nothing", "in a head", "in a body"],
)
async def test_what_breaks_off_is_answered_if_it_was_something(
    there: Served, data: bytes, status: int | None
) -> None:
    """Half a request is told that it is one."""
    client = await there.connect()
    client.send(data)
    client.end()
    if status is not None:
        assert (await client.receive()).status == status
    assert await client.is_over()
    await there.until()


@pytest.mark.parametrize("tls", [None], ids=["plain"])
async def test_a_client_that_resets_at_once_hides_from_nobody(there: Served) -> None:
    """A request whose connection is gone before it is looked at comes from where it came from: the
    socket has forgotten that, and accept() has told it."""
    hit_and_run = socket.create_connection(("127.0.0.1", there.port))
    address = hit_and_run.getsockname()
    hit_and_run.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    hit_and_run.sendall(post("/unread"))
    hit_and_run.close()  # the loop has not turned: the connection waits to be accepted
    await happens(lambda: bool(there.app.scopes))
    assert there.app.scopes[0]["client"] == address


async def test_a_client_that_is_gone_ends_no_work(there: Served) -> None:
    """The application hears of it, is not cancelled, and its answer goes nowhere."""
    client = await there.connect()
    client.send(post("/gone", b"x"))
    await there.until(State.BUSY)
    client.reset()
    await there.until(State.GONE)
    await happens(lambda: there.app.messages == ["http.request", "http.disconnect"])
    assert there.app.ended == []
    there.app.gate.set()
    await there.until()
    assert there.app.ended == ["/gone"]


# -- time ------------------------------------------------------------------------------------------


async def test_a_connection_without_a_byte_is_closed(there: Served) -> None:
    """Who connects and says nothing is given some seconds."""
    client = await there.connect()
    await there.until(State.NEW)
    there.later(9.9)
    assert there.states == [State.NEW]
    there.later(0.2)
    assert await client.is_over()


async def test_a_head_that_takes_too_long_is_refused(there: Served) -> None:
    """A head has its time from its first byte on, however steadily it dribbles."""
    client = await there.connect()
    client.send(b"POST / ")
    await there.until(State.HEAD)
    there.later(4.9)
    client.send(b"HTTP/1.1\r\n")
    await asyncio.sleep(0)
    assert there.states == [State.HEAD]
    there.later(0.2)
    refused(await client.receive(), "in time")
    assert await client.is_over()


async def test_an_idle_connection_is_kept_longer_than_a_minute(there: Served) -> None:
    """A load balancer gives an idle connection up before we do."""
    client = await there.connect()
    await client.ask("/")
    await there.until(State.IDLE)
    there.later(74.9)
    assert (await client.ask("/")).status == 200
    await there.until(State.IDLE)
    there.later(75.1)
    assert await client.is_over()


async def test_a_request_that_is_being_answered_has_no_end_here(there: Served) -> None:
    """How long an answer may take is the application's to know."""
    client = await there.connect()
    client.send(post("/wait"))
    await there.until(State.BUSY)
    there.later(10_000)
    there.app.gate.set()
    assert (await client.receive()).status == 200


async def test_a_client_that_lingers_is_cut(there: Served) -> None:
    """Who has been told of the end and does not end is not waited for long."""
    client = await there.connect()
    client.send(b"GARBAGE\r\n\r\n")
    refused(await client.receive())
    await there.until(State.CLOSING)
    there.later(2.1)
    await there.until()


async def stuffed(there: Served, path: str, count: int = 1) -> Client:
    """Return a client that asked for much and reads nothing; there are ``count`` of them then."""
    client = await there.connect(buffer=4096)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    client.send(post(path) + post("/after"))
    await there.until(*[State.STALLED] * count)
    return client


@pytest.mark.parametrize("path", ["/big?20000000", "/flood"])
async def test_a_client_that_does_not_read_is_cut(there: Served, path: str) -> None:
    """An answer that nobody takes holds bounded memory for a bounded time, and nothing follows."""
    client = await stuffed(there, path)
    (connection,) = there.listener.connections
    assert connection._bytes_unsent() <= 20_100_000  # TLS adds a little
    there.later(9.9)
    assert there.states == [State.STALLED]
    assert "/after" not in there.app.begun
    # The two kernels may have passed a little on since the first look: then it has its time anew.
    while there.states:
        there.later(10.1)
        await asyncio.sleep(0)
    await client.close()


async def test_a_client_that_reads_slowly_is_not_cut(there: Served) -> None:
    """Whoever takes something now and then may take all the time that needs."""
    client = await stuffed(there, "/big?20000000")
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head
    taken = 0
    while taken < 20_000_000:
        taken += len(await client.reader.readexactly(500_000))
        there.later(9.0)
    assert (await client.receive()).json["path"] == "/after"


async def test_all_that_nobody_takes_is_bounded_together(tls: TlsPair | None) -> None:
    """Past the bound the one that has taken nothing for longest is cut; the newest stays."""
    async with served(ConnectionLimits(unsent_bytes=20_000_000), tls) as there:
        there.shrink()
        clients = [await stuffed(there, "/big?9000000", at + 1) for at in range(2)]
        clients.append(await stuffed(there, "/big?9000000", 2))
        assert there.listener._site.stalled._total <= 20_000_000
        for client in clients[1:]:
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for client in clients[1:]:
            assert len((await client.receive()).body) == 9_000_000
            assert (await client.receive()).json["path"] == "/after"
        assert there.listener._site.stalled._total == 0
        assert not there.listener._site.stalled._held


async def test_a_single_answer_is_sent_however_long_it_is() -> None:
    """The bound is for all together: nobody is cut who is alone with what waits."""
    async with served(ConnectionLimits(unsent_bytes=1000)) as there:
        client = await stuffed(there, "/big?9000000", 1)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await client.receive()).body) == 9_000_000


async def half_closed(there: Served, *sent: bytes) -> Connection:
    """Return the connection of a client that takes too little of an answer, and has ended its
    side: some of the answer waits in the transport, and not enough of it for STALLED."""
    there.shrink()
    client = await there.connect(buffer=4096)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await happens(lambda: len(there.states) > 0)
    (connection,) = there.listener.connections
    for data in sent:
        client.send(data)
    client.end()
    await happens(lambda: connection._end_of_input)
    there.app.gate.set()
    await happens(lambda: connection.state is not State.BUSY)
    wire = connection._transport
    assert wire is not None
    assert 0 < wire.get_write_buffer_size() < 16 * 1024
    return connection


# The echo of a byte of 0x80 is six bytes: a small body makes an answer that does not fit.
HALF_CLOSED = pytest.mark.parametrize(
    "sent",
    [
        (post("/wait", b"\x80" * 3_000, "Connection: close"),),
        (post("/wait", b"\x80" * 3_000),),
        (post("/wait", b"\x80" * 3_000), b"POST / HT"),
        (post("/big?18000", b"", "Connection: close"),),
        (post("/big?18000"),),
        (post("/big?18000"), b"POST / HT"),
    ],
    ids=[
        "at work on the last",
        "at work",
        "at work and in a head",
        "after the last",
        "idle",
        "in a head",
    ],
)


@HALF_CLOSED
async def test_a_client_that_ends_its_side_and_does_not_read_is_cut(
    there: Served, sent: tuple[bytes, ...]
) -> None:
    """However a half-close comes, the answer that nobody takes is waited for a bounded time."""
    connection = await half_closed(there, *sent)
    assert connection.state is State.CLOSING
    there.later(1.9)
    assert there.states == [State.CLOSING]
    there.later(0.2)
    await there.until()


async def test_a_sweep_that_fails_is_not_the_last(
    there: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug met in one look at the connections is told, and the next look comes all the same."""
    looks = 0

    def sweep() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise RuntimeError("kept quiet")

    monkeypatch.setattr(there.listener, "sweep", sweep)
    with capture_logs() as logs:
        await happens(lambda: looks == 2)
    assert [each["event"] for each in logs] == ["a bug"]


async def test_whoever_has_taken_something_has_its_time_anew(there: Served) -> None:
    """Between two looks at it a client need not take anything, as long as its time is not over."""
    client = await stuffed(there, "/big?20000000")
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    await client.reader.readuntil(b"\r\n\r\n")
    await client.reader.readexactly(1_000_000)
    there.later(10.1)
    for _ in range(20):
        there.later(0.1)
        await asyncio.sleep(0)
    assert there.states == [State.STALLED]
    await client.reader.readexactly(19_000_000)
    assert (await client.receive()).json["path"] == "/after"


# -- room ------------------------------------------------------------------------------------------


async def test_the_longest_idle_makes_room(tls: TlsPair | None) -> None:
    """At the limit a new connection gets in, for the one that was idle the longest."""
    async with served(ConnectionLimits(connections=2), tls) as there:
        first, second = await there.connect(), await there.connect()
        for client in (second, first):
            await client.ask("/")
            there.clock.now += 1
        assert (await (await there.connect()).ask("/")).status == 200
        assert await second.is_over()
        assert (await first.ask("/")).status == 200


async def test_slow_heads_keep_nobody_out(tls: TlsPair | None) -> None:
    """Connections that never complete a request go, the oldest first, before anybody waits."""
    async with served(ConnectionLimits(connections=2), tls) as there:
        slow = []
        for _ in range(2):
            client = await there.connect()
            client.send(b"POST / HT")
            slow.append(client)
            await there.until(*[State.HEAD] * len(slow))
            there.clock.now += 1
        good = await there.connect()
        assert (await good.ask("/")).status == 200
        assert await slow[0].is_over()
        await there.until(State.HEAD, State.IDLE)


async def test_who_has_asked_nothing_goes_before_who_is_idle(tls: TlsPair | None) -> None:
    """A flood of connections that ask nothing, or half, closes none that is kept for a caller."""
    async with served(ConnectionLimits(connections=4), tls) as there:
        good = [await there.connect() for _ in range(2)]
        for client in good:
            await client.ask("/")
        for number in range(12):
            there.clock.now += 1
            stranger = await there.connect()
            if number % 2:
                stranger.send(b"POST / HT")
                await happens(lambda: State.HEAD in there.states)
        for client in good:
            assert (await client.ask("/")).status == 200


async def test_a_newcomer_has_a_moment_to_ask() -> None:
    """Of two that come together neither is closed for the other, nor who is idle: one waits."""
    async with served(ConnectionLimits(connections=2)) as there:
        idle = await there.connect()
        await idle.ask("/")
        there.clock.now += 1
        first, second = await there.connect(), await there.connect()
        await happens(lambda: not there.listener._accepts)
        await there.until(State.IDLE, State.NEW)
        assert (await first.ask("/")).status == 200
        there.clock.now += 1
        assert (await idle.ask("/")).status == 200
        assert (await second.ask("/")).status == 200  # first made room, being idle for longest
        assert await first.is_over()


async def test_a_body_that_is_refused_is_not_looked_at(there: Served) -> None:
    """After the answer nothing of it is parsed, nor after chunks that carry too little."""
    client = await there.connect()
    head = post("/unread", b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    client.send(head)
    assert (await client.receive()).headers["connection"] == "close"
    await there.until(State.CLOSING)
    (connection,) = there.listener.connections
    client.send(b"1\r\nx\r\n" * 10_000)
    await happens(lambda: connection._dropped >= 60_000)
    assert connection._exchange is None
    broken = await there.connect()
    broken.send(head.replace(b"/unread", b"/wait") + b"1\r\nx\r\n" * 2000)
    await happens(
        lambda: any(c._exchange and c._exchange.is_broken for c in there.listener.connections)
    )
    (connection,) = [c for c in there.listener.connections if c._exchange]
    broken.send(b"1\r\nx\r\n" * 10_000)
    await happens(lambda: connection._dropped >= 60_000)


async def test_who_ended_its_side_and_does_not_read_keeps_nobody_out(tls: TlsPair | None) -> None:
    """A connection that is closed and still has something to send goes for a new one."""
    async with served(ConnectionLimits(connections=1), tls) as there:
        await half_closed(there, post("/wait", b"\x80" * 3_000, "Connection: close"))
        newcomer = await there.connect()
        assert (await newcomer.ask("/")).status == 200


async def test_with_all_at_work_the_next_waits_its_turn(tls: TlsPair | None) -> None:
    """Who is being answered is never closed; the next gets in when one has ended."""
    async with served(ConnectionLimits(connections=1), tls) as there:
        busy = await there.connect()
        busy.send(post("/wait", b"", "Connection: close"))
        await there.until(State.BUSY)
        waiting = asyncio.create_task(there.connect())  # with TLS it takes the server to connect
        for _ in range(100):
            await asyncio.sleep(0)
        assert there.states == [State.BUSY]
        there.app.gate.set()
        assert (await busy.receive()).status == 200
        assert await busy.is_over()
        await busy.close()
        assert (await (await waiting).ask("/next")).json["path"] == "/next"


async def test_room_is_made_by_who_is_closed() -> None:
    """An idle connection whose next request has just come makes no room: the new one waits."""
    async with served(ConnectionLimits(connections=1)) as there:
        client = await there.connect()
        await client.ask("/")
        await there.until(State.IDLE)
        late = socket.socket()
        # Past the loop, so that it has no turn between the request and the look.
        os.write(client.writer.get_extra_info("socket").fileno(), post("/wait"))
        late.connect(("127.0.0.1", there.port))
        there.listener._accept(1)
        assert len(there.listener.connections) == 1
        late.close()
        await there.until(State.BUSY)
        there.app.gate.set()
        assert (await client.receive()).json["path"] == "/wait"


async def test_without_file_descriptors_the_next_try_is_later(
    there: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says at once and without end that somebody waits: it is asked twice a second."""
    tries = 0

    def starved(listening: socket.socket) -> NoReturn:
        nonlocal tries
        tries += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as starving, capture_logs() as logged:
        starving.setattr(socket.socket, "accept", starved)
        connecting = asyncio.create_task(there.connect())  # with TLS it takes the server to connect
        await happens(lambda: tries > 0)
        for _ in range(20):
            await asyncio.sleep(0)
    assert tries == len(logged) == 1
    client = await connecting
    assert (await client.ask("/")).status == 200


async def test_without_file_descriptors_idle_connections_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The longest idle one is closed, and its descriptor is the newcomer's, without a pause."""
    monkeypatch.setattr("flowcache.server.listener._STARVED_SECONDS", 3600.0)
    async with served() as there:
        first, second = await there.connect(), await there.connect()
        for client in (second, first):
            await client.ask("/")
            there.clock.now += 1
        newcomer = socket.socket()  # ours is open before there are none left
        accept, tries = socket.socket.accept, 0

        def starved_once(listening: socket.socket) -> tuple[socket.socket, object]:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return accept(listening)

        with monkeypatch.context() as starving, capture_logs() as logged:
            starving.setattr(socket.socket, "accept", starved_once)
            newcomer.connect(("127.0.0.1", there.port))
            assert await second.is_over()
            await there.until(State.NEW, State.IDLE)
        assert len(logged) == 1
        assert (await first.ask("/")).status == 200
        newcomer.close()


async def test_with_all_at_work_the_next_waits_until_one_is_idle() -> None:
    """Nobody has to leave of their own: as soon as one is idle, it makes room."""
    async with served(ConnectionLimits(connections=1)) as there:
        busy = await there.connect()
        busy.send(post("/wait"))
        await there.until(State.BUSY)
        waiting = await there.connect()
        waiting.send(post("/next"))
        await happens(lambda: not there.listener._accepts)
        there.app.gate.set()
        assert (await busy.receive()).status == 200
        assert (await waiting.receive()).json["path"] == "/next"


async def test_a_newcomer_whose_request_has_come_makes_no_room() -> None:
    """A connection that has just been accepted may hold a request that nobody has read yet."""
    async with served(ConnectionLimits(connections=1)) as there:
        client = await there.connect()
        await there.until(State.NEW)
        late = socket.socket()
        os.write(client.writer.get_extra_info("socket").fileno(), post("/"))
        late.connect(("127.0.0.1", there.port))
        there.listener._accept(1)
        assert (await client.receive()).status == 200
        late.close()


# -- the end ---------------------------------------------------------------------------------------


async def test_a_drain_answers_all_that_was_sent(there: Served) -> None:
    """At work, half sent, on its way on an idle connection, not even accepted: all are answered."""
    at_work, half, idle, silent = [await there.connect() for _ in range(4)]
    at_work.send(post("/wait"))
    half.send(post("/half")[:-5])
    await idle.ask("/")
    await there.until(State.NEW, State.HEAD, State.BUSY, State.IDLE)
    late = await there.connect()
    drain = asyncio.create_task(there.listener.drain(1.0, 10.0))
    await asyncio.sleep(0)
    late.send(post("/late"))
    half.send(post("/half")[-5:])
    idle.send(post("/idle"))
    there.app.gate.set()
    for client in (at_work, half, idle, late):
        answer = await client.receive()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.is_over()
        await client.close()
    assert not drain.done()
    there.clock.now += 1.1  # the sweep of the drain itself sees it
    assert await silent.is_over()
    await asyncio.wait_for(drain, 10)
    with pytest.raises(ConnectionRefusedError):
        await there.connect()


async def test_a_drain_gives_every_idle_connection_its_time(there: Served) -> None:
    """However long it has been idle: its client learns of the end no sooner than others."""
    client = await there.connect()
    await client.ask("/")
    await there.until(State.IDLE)
    there.later(30)
    drain = asyncio.create_task(there.listener.drain(1.0, 10.0))
    await asyncio.sleep(0)
    there.later(0.9)
    assert there.states == [State.IDLE]
    answer = await client.ask("/idle")
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await client.is_over()
    await client.close()
    await asyncio.wait_for(drain, 10)


async def test_a_last_look_finds_what_has_just_come(there: Served) -> None:
    """A connection with bytes that nobody has read yet is not idle."""
    client = await there.connect()
    await client.ask("/")
    await there.until(State.IDLE)
    (connection,) = there.listener.connections
    # Past the loop, so that it has no turn between the request and the look.
    wire, request = client.writer.transport, post("/just")
    request = wire.encrypted(request) if isinstance(wire, Secure) else request
    os.write(client.writer.get_extra_info("socket").fileno(), request)
    there.later(76)
    assert connection.state is State.IDLE
    assert (await client.receive()).json["path"] == "/just"


async def test_the_grace_ends_what_does_not(there: Served) -> None:
    """A request without an end is cut, and its application is told; nothing is begun after it."""
    client = await there.connect()
    client.send(post("/wait") + post("/after"))
    await there.until(State.BUSY)
    await asyncio.wait_for(there.listener.drain(0, 0.05), 10)
    assert there.app.begun == there.app.ended == ["/wait"]
    assert await client.is_over()


async def test_a_request_is_cut_before_its_first_step(there: Served) -> None:
    """A request whose work has not even begun when the grace ends holds the end up no more than
    another."""
    client = await there.connect()
    await there.until(State.NEW)
    (connection,) = there.listener.connections
    await happens(lambda: connection._transport is not None)
    connection.data_received(post("/wait"))  # no turn of the loop until it is cancelled
    connection.cancel()
    await there.until()
    assert there.app.begun == []
    assert await client.is_over()


async def test_an_answer_that_waits_for_its_client_is_cut(there: Served) -> None:
    """Cut while it waits for a client that reads nothing, a request ends and its connection too."""
    await stuffed(there, "/flood")
    (connection,) = there.listener.connections
    await happens(lambda: connection._on_writable is not None)
    connection.cancel()
    await there.until()
    assert there.app.ended == ["/flood"]
