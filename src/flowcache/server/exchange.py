"""One request and its answer: what ASGI calls scope, receive and send."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from flowcache.server.asgi import Message, Scope
from flowcache.server.framing import ChunkedBody, Head

__all__ = ["AnswerHeads", "Exchange", "Line", "persistence", "split_target"]

Fields = Iterable[tuple[bytes, bytes]]

_ASGI = {"version": "3.0", "spec_version": "2.5"}
_ENCODED_SLASH = re.compile(rb"%(2[Ff])")
"""It stays encoded: a part of a path that holds a slash is not two parts (RFC 3986, 2.2)."""
_DISCONNECT = {"type": "http.disconnect"}
_FRAMING = frozenset({b"connection", b"content-length", b"date", b"transfer-encoding"})
"""Fields that are the server's to write."""
_BLOCKS_KEPT = 64


class AnswerHeads:
    """Write the heads of answers; what they have in common is put together once a second."""

    __slots__ = ("_blocks", "_date", "_last", "_last_block", "_lines")

    def __init__(self) -> None:
        self._date = b""
        self._last: tuple[int, Fields] | None = None
        self._last_block = b""
        self._lines: dict[int, bytes] = {}
        self._blocks: dict[tuple[tuple[bytes, bytes], ...], bytes] = {}

    def tell_time(self, date: bytes) -> None:
        """Set what ``Date`` says (RFC 9110, 6.6.1: a server that has a clock sends it)."""
        if date != self._date:
            self._date = date
            self._last = None
            self._lines.clear()

    def begin(self, status: int) -> bytes:
        """Return the status line and the date."""
        line = self._lines.get(status)
        if line is None:
            try:
                phrase = HTTPStatus(status).phrase
            except ValueError:
                phrase = ""
            line = b"HTTP/1.1 %d %b\r\ndate: %b\r\n" % (status, phrase.encode(), self._date)
            self._lines[status] = line
        return line

    def whole(self, status: int, fields: Fields, length: int, persistence: bytes) -> bytes:
        """Return the head of an answer whose ``length`` is known.

        Raises:
            ValueError: a field has a line break.
        """
        last = self._last
        if last is None or last[0] != status or last[1] is not fields:
            self._last_block = self.begin(status) + self.fields(fields)
            self._last = (status, fields)
        framing = b"" if _has_no_content(status) else b"content-length: %d\r\n" % length
        return b"%b%b%b\r\n" % (self._last_block, framing, persistence)

    def fields(self, fields: Fields) -> bytes:
        """Return the application's fields as lines; a tuple of tuples is written once.

        Raises:
            ValueError: one has a line break, and would be more than a field.
        """
        if type(fields) is tuple:
            block = self._blocks.get(fields)
            if block is None:
                block = _written(fields)
                if len(self._blocks) < _BLOCKS_KEPT:
                    self._blocks[fields] = block
            return block
        return _written(fields)


def _written(fields: Fields) -> bytes:
    lines = [b"%b: %b" % field for field in fields if field[0] not in _FRAMING]
    block = b"\r\n".join((*lines, b""))
    if block.count(b"\n") != len(lines) or block.count(b"\r") != len(lines):
        raise ValueError("a header field has a line break")
    return block


class Line(Protocol):
    """The connection, as an exchange needs it."""

    heads: AnswerHeads
    loop: asyncio.AbstractEventLoop
    client: tuple[str, int] | None
    server: tuple[str, int] | None
    scheme: str
    extensions: dict[str, Any]

    @property
    def is_ending(self) -> bool:
        """Whether no further request is taken after this one."""

    def write(self, data: bytes) -> None:
        """Send bytes, or forget them when nobody is there any more."""

    def took_body(self) -> None:
        """Hear that the application has taken what there was of the body."""

    async def writable(self) -> None:
        """Wait until the client has taken what was sent, or is gone."""


class Exchange:
    """A request, its body as it arrives, and the answer as it is sent."""

    __slots__ = (
        "_chunks",
        "_handed_over",
        "_headers",
        "_left",
        "_line",
        "_must_invite",
        "_status",
        "_stream",
        "_waiter",
        "closes",
        "head",
        "is_answered",
        "is_broken",
        "is_complete",
        "is_gone",
        "task",
        "unread",
    )

    def __init__(self, line: Line, head: Head) -> None:
        self._line = line
        self.head = head
        self.task: asyncio.Task[None]
        # The body.
        self.unread = b""
        """What has arrived, and the application has not taken."""
        self.is_complete = head.length == 0
        """Whether the body has arrived to its end."""
        self.is_broken = False
        """Whether it never will."""
        self.is_gone = False
        """Whether nobody waits for the answer any more."""
        self._left = head.length
        self._chunks = ChunkedBody() if head.length < 0 else None
        self._handed_over = False
        self._must_invite = head.expects_continue
        self._waiter: asyncio.Future[None] | None = None
        # The answer.
        self.is_answered = False
        self.closes = False
        """Whether the answer said that the connection closes; known once it has begun."""
        self._status = 0
        self._headers: Fields = ()
        self._stream: _Stream | None = None

    def scope(self) -> Scope:
        """Return the ASGI connection scope."""
        head, line = self.head, self._line
        raw, query = split_target(head.target)
        path = raw if b"%" not in raw else unquote_to_bytes(_ENCODED_SLASH.sub(rb"%25\1", raw))
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": head.version,
            "method": head.method,
            "scheme": line.scheme,
            "path": path.decode("utf-8", "replace"),
            "raw_path": raw,
            "query_string": query,
            "root_path": "",
            "headers": head.headers,
            "client": line.client,
            "server": line.server,
            "extensions": line.extensions,
        }

    # -- the body ----------------------------------------------------------------------------------

    def feed(self, data: bytes) -> bytes:
        """Take what belongs to the body, and return what follows its end.

        Raises:
            BadRequest: its chunks make no sense.
        """
        if self._chunks is not None:
            data, rest = self._chunks.feed(data)
            self.is_complete = self._chunks.is_complete
        else:
            rest = data[self._left :]
            if rest:
                data = data[: self._left]
            self._left -= len(data)
            self.is_complete = not self._left
        self.unread = self.unread + data if self.unread else data
        self._wake()
        return rest

    def break_off(self) -> None:
        """Hear that the body ends here, before its end."""
        self.is_broken = True
        self._wake()

    def hang_up(self) -> None:
        """Hear that the client is gone."""
        self.is_gone = True
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def receive(self) -> Message:
        """Wait for more of the body; after it, for the end of the exchange."""
        while not self.unread and (self._handed_over or not self.is_complete):
            if self.is_gone or self.is_answered or self.is_broken:
                return _DISCONNECT
            if self._must_invite:
                self._must_invite = False
                self._line.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._waiter = self._line.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        body, self.unread = self.unread, b""
        self._handed_over = self.is_complete
        self._line.took_body()
        return {"type": "http.request", "body": body, "more_body": not self.is_complete}

    # -- the answer --------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """Take a part of the answer; wait only where it comes in parts and the client is slow."""
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], message.get("headers", ())
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        stream = self._stream
        if stream is None:
            if not more:
                self.answer(self._status, self._headers, body)
                return
            stream = self._begin_stream()
        self._line.write(stream.part(body) if more else stream.last(body))
        if not more:
            self._end()
            return
        await self._line.writable()

    def answer(self, status: int, headers: Fields, body: bytes) -> None:
        """Send a whole answer in one write."""
        length = len(body)
        if self.head.method == "HEAD":
            length = _declared(headers) or length
            body = b""
        head = self._line.heads.whole(status, headers, length, self._persistence())
        self._line.write(head + body)
        self._end()

    def _begin_stream(self) -> _Stream:
        head, length = self.head, _declared(self._headers)
        chunked = length is None and head.version == "1.1"
        self._stream = stream = _Stream(chunked, head.method != "HEAD")
        if length is not None:
            framing = b"content-length: %d\r\n" % length
        elif chunked:
            framing = b"transfer-encoding: chunked\r\n"
        else:
            framing, head.keep_alive = b"", False  # it ends where the connection does
        heads = self._line.heads
        begin, fields = heads.begin(self._status), heads.fields(self._headers)
        self._line.write(b"%b%b%b%b\r\n" % (begin, fields, framing, self._persistence()))
        return stream

    def _persistence(self) -> bytes:
        """Decide whether the connection stays; return what says so.

        A body that is still to come is not waited for: it may be long, or never come.
        """
        self.closes = not self.head.keep_alive or not self.is_complete or self._line.is_ending
        return persistence(self.head, closes=self.closes)

    @property
    def has_begun(self) -> bool:
        """Whether some of the answer has been sent."""
        return self.is_answered or self._stream is not None

    def _end(self) -> None:
        self.is_answered = True
        self._wake()


class _Stream:
    """An answer that comes in parts."""

    __slots__ = ("_chunked", "_has_body")

    def __init__(self, chunked: bool, has_body: bool) -> None:
        self._chunked = chunked
        self._has_body = has_body

    def part(self, body: bytes) -> bytes:
        """Return a part as it is sent."""
        if not self._has_body or not body:
            return b""
        return b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body

    def last(self, body: bytes) -> bytes:
        """Return the last part."""
        end = b"0\r\n\r\n" if self._chunked and self._has_body else b""
        return self.part(body) + end


def persistence(head: Head, *, closes: bool) -> bytes:
    """Return the field that says whether the connection stays, where one is needed."""
    if closes:
        return b"connection: close\r\n"
    return b"" if head.version == "1.1" else b"connection: keep-alive\r\n"


def _declared(headers: Fields) -> int | None:
    """Return the length that the application says its answer has."""
    return next((int(value) for name, value in headers if name == b"content-length"), None)


def _has_no_content(status: int) -> bool:
    return status < 200 or status in (204, 304)


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Return the path, still encoded, and the query of a request's target (RFC 9112, 3.2).

    Of a whole URL, a proxy's form, scheme and authority are dropped: there is one site here.
    """
    if not target.startswith(b"/"):
        _, found, rest = target.partition(b"://")
        if found:
            authority, slash, rest = rest.partition(b"/")
            authority, mark, query = authority.partition(b"?")
            target = b"/?" + query + slash + rest if mark else b"/" + rest
    path, _, query = target.partition(b"?")
    return path, query
