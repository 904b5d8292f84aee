"""Bytes of a connection: cut anywhere, the same answers; of garbage, no more than a refusal."""

from __future__ import annotations

import asyncio
import json
import socket
from itertools import pairwise
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowcache.api.envelope import refusals
from flowcache.server.asgi import Receive, Scope, Send
from flowcache.server.connection import Connection, Site, State
from flowcache.server.direct import Direct, Request
from flowcache.server.exchange import split_target
from flowcache.server.framing import Head


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer what was asked; a body that breaks off is the client's mistake."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            body = b"broke off"
            break
        body += message["body"]
        more = message["more_body"]
    told = [scope["method"], scope["path"], scope["query_string"].hex(), body.hex()]
    told += [f"{name.hex()}={value.hex()}" for name, value in scope["headers"]]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


class Echo(Direct):
    """Answers whole requests as `echo` does; the fields of a head are what it keeps."""

    def takes(self, head: Head) -> bool:
        return head.method != "HEAD"

    def start(self, request: Request) -> None:
        head = request.head
        raw, query = split_target(head.target)
        path = unquote_to_bytes(raw).decode("utf-8", "replace")
        fields = [f"{name.hex()}={value.hex()}" for name, value in head.headers]
        request.kept = request.kept or fields
        assert isinstance(request.kept, list)
        told = [head.method, path, query.hex(), request.body.hex(), *request.kept]
        request.answer(200, [], json.dumps(told).encode())


class Memory(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"socket": sock})  # its queues are looked at; nothing goes through it
        self.written = b""
        self.reads = True
        self.is_shut = False
        self.closed = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: Any) -> None:
        assert not self.is_shut
        self.written += data

    def write_eof(self) -> None:
        self.is_shut = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


async def turns(connection: Connection, wire: Memory) -> None:
    """Let everything happen that can happen without further bytes."""
    for _ in range(10_000):
        await asyncio.sleep(0)
        exchange = connection._exchange
        if connection.state is not State.BUSY:
            return
        if exchange is not None and not exchange.is_complete and not exchange.is_broken:
            return  # it waits for its body
    raise AssertionError("a hang")


async def play(
    segments: list[bytes], sock: socket.socket, direct: Direct | None, *, end: bool
) -> Memory:
    """Feed a connection; stop where it has closed or doesn't want to read."""
    loop = asyncio.get_running_loop()
    site = Site(echo, loop, lambda: 0.0, refusals(), lambda: None, direct=direct)
    site.heads.tell_time(b"now")
    connection, wire = Connection(site, ("127.0.0.1", 1)), Memory(sock)
    connection.connection_made(wire)
    for segment in segments:
        if wire.closed or not segment:
            continue
        connection.data_received(segment)
        await turns(connection, wire)
        assert wire.reads or wire.closed
    if end and not wire.closed:
        if not connection.eof_received():
            wire.close()
        await turns(connection, wire)
        await asyncio.sleep(0)
    return wire


def played(segments: list[bytes], direct: Direct | None = None, *, end: bool = True) -> Memory:
    one, other = socket.socketpair()
    with one, other:
        return asyncio.run(play(segments, one, direct, end=end))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut data at these places."""
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(ends)]


BODIES = st.binary(max_size=60) | st.sampled_from([b"\r\n\r\n", b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"])
LINES = st.lists(
    st.sampled_from([b"A: b", b"x-y:  z ", b"Connection: keep-alive", b"Upgrade: h2c", b"E:"]),
    max_size=3,
)
METHODS = st.sampled_from([b"GET", b"POST", b"HEAD", b"post", b"NONSENSE", b"CONNECTS", b"P"])
TARGETS = st.sampled_from([b"/", b"/a?b=c", b"/%2e%ff", b"http://h/a", b"http://h?x", b"*"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw a request that is well-formed."""
    body = draw(BODIES)
    lines = [draw(METHODS) + b" " + draw(TARGETS) + b" HTTP/1.1", b"Host: x", *draw(LINES)]
    if draw(st.booleans()):
        lines.append(b"Content-Length: %d" % len(body))
    elif draw(st.booleans()):
        lines.append(b"Transfer-Encoding: chunked")
        size = draw(st.integers(1, 20))
        extension = draw(st.sampled_from([b"", b";a", b";a=b"]))
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        packed = b"".join(b"%x%b\r\n%b\r\n" % (len(p), extension, p) for p in pieces)
        body = packed + b"0\r\n" + draw(st.sampled_from([b"", b"T: x\r\n"])) + b"\r\n"
    else:
        body = b""
    return draw(st.sampled_from([b"", b"\r\n"])) + b"\r\n".join(lines) + b"\r\n\r\n" + body


PLACES = st.lists(st.integers(0, 2000), max_size=12)


@settings(deadline=None, max_examples=300)
@given(st.lists(requests(), min_size=1, max_size=5), PLACES, st.booleans())
def test_any_cut_of_any_requests_gives_the_same_answers(
    sequence: list[bytes], places: list[int], byte_by_byte: bool
) -> None:
    """TCP has no messages: what is answered depends on the bytes, not on how they arrive, nor on
    whether a request is handed over whole or by ASGI."""
    data = b"".join(sequence)
    whole = played([data])
    pieces = [data[at : at + 1] for at in range(len(data))] if byte_by_byte else cut(data, places)
    in_pieces = played(pieces)
    assert in_pieces.written == whole.written
    assert in_pieces.closed == whole.closed
    for segments in ([data], pieces, sequence, sequence * 2):
        directly = played(segments, Echo())
        expected = whole.written * (2 if segments == sequence * 2 else 1)
        assert (directly.written, directly.closed) == (expected, whole.closed)
    assert whole.written.count(b"HTTP/1.1 200 OK\r\n") == len(sequence)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw requests that something happened to on their way."""
    raw = bytearray(b"".join(draw(st.lists(requests(), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(raw)))
        noise = st.binary(max_size=3) | st.sampled_from([b"\n", b"\r", b" ", b":", b"\r\n\r\n"])
        raw[place : place + draw(st.integers(0, 3))] = draw(noise)
    return bytes(raw)


GARBAGE = (
    damaged() | st.binary(max_size=200) | st.binary(max_size=20).map(lambda b: b + b"\r\n\r\n")
)


@settings(deadline=None, max_examples=500)
@given(GARBAGE, PLACES)
@example(b"\x16\x03\x01\x02\x00", [])
@example(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [3])
@example(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999\r\n\r\n", [])
def test_garbage_gets_a_refusal_or_an_end(data: bytes, places: list[int]) -> None:
    """Whatever comes, the connection ends, and all it has said are whole answers, none a 500."""
    pieces = played(cut(data, places))
    assert pieces.closed or pieces.is_shut
    statuses = answers(pieces.written)
    assert set(statuses) <= {200, 400}
    assert 400 not in statuses[:-1]  # after a refusal nothing follows
    whole = played([data])
    assert answers(whole.written) == statuses


def answers(written: bytes) -> list[int]:
    """Return the statuses of the answers; fail unless each is whole and one of ours."""
    statuses = []
    while written:
        head, found, rest = written.partition(b"\r\n\r\n")
        assert found
        line, *fields = head.split(b"\r\n")
        named = dict(cast(tuple[bytes, bytes], tuple(f.split(b": ", 1))) for f in fields)
        statuses.append(int(line.split(b" ")[1]))
        length = int(named[b"content-length"])
        if not rest.startswith((b"[", b"{")):  # the answer to a HEAD
            length = 0
        told = json.loads(rest[:length] or b"[]")
        if statuses[-1] == 400:
            assert told["code"] == "invalid_request"
            assert named[b"connection"] == b"close"
        written = rest[length:]
    return statuses
