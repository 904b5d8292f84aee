"""One client's connection: reads requests one by one, runs the application, sends the answers.

A connection is always in one state, and each state but one has a longest time:

    SHAKING   hands are shaken, for TLS          -> NEW, CLOSING
    NEW       nothing has come yet               -> HEAD, BUSY, CLOSING
    HEAD      a head has begun                   -> BUSY, CLOSING
    BUSY      a request is being answered        -> IDLE, HEAD, BUSY, STALLED, CLOSING
    STALLED   the client doesn't take its answer -> BUSY, IDLE, CLOSING
    IDLE      kept alive for the next request    -> HEAD, BUSY, CLOSING
    CLOSING   the last answer has been sent      -> GONE
    GONE

A connection runs one request at a time, in order. What comes while nobody wants it, a body or the
next requests (pipelining), stays bytes, and reading is paused: what a client can make a connection
hold is bounded by `_READ_AHEAD`, one read and one answer. All connections of a worker are read in
small segments, into one buffer: else a thousand clients that each send a large body at the same
moment would fill its memory before the first of them is looked at.

CLOSING is a lingering close: the write side is shut, and what still comes is read and dropped for a
while. Closed at once with bytes unread, the kernel would send a reset, and that can destroy the
answer before the client has read it (RFC 9112, 9.6). Where the client has ended its own side there
is nothing to drop, and CLOSING waits only for the last answer to be taken.

A client that is gone doesn't end the application's work: a write may have left for Redis. A client
that has only ended its own side (a half-close) still gets its answers.
"""

from __future__ import annotations

import asyncio
import fcntl
import termios
from array import array
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from functools import partial
from typing import Any, cast

import msgspec
import structlog

from flowcache.server.asgi import ASGIApp
from flowcache.server.clocks import Clock
from flowcache.server.direct import Direct, Fields, Request
from flowcache.server.exchange import AnswerHeads, Exchange, persistence
from flowcache.server.framing import HeadReader, KnownHead
from flowcache.server.refusal import BadRequest, Refuse
from flowcache.server.wire import Wire

__all__ = ["Connection", "Patience", "Site", "State"]

_log = structlog.get_logger(__name__)

_SEGMENT = 16 * 1024
"""Bytes that are read at once of a connection. Few requests are larger, and no TLS record."""
_READ_AHEAD = _SEGMENT - 1
"""Bytes that are read before anybody wants them. After a full segment reading is paused: libuv
would go on with the same connection as long as segments are full."""
_UNSENT = 16 * 1024
"""Bytes of answers that may wait to be sent; the next request is begun when there are fewer, and
what all connections hold of more is bounded (`Stalled`)."""
_MOST_MISSES = 3
"""Heads in a row that were not the one before; then none is remembered any more: where each request
has an id of its own in its head, to remember would be for nothing."""
_DROPPED = 64 * 1024 * 1024
"""Bytes that are read and dropped once nothing more is taken from a client."""


class State(IntEnum):
    """See above."""

    SHAKING = 0
    NEW = 1
    HEAD = 2
    BUSY = 3
    STALLED = 4
    IDLE = 5
    CLOSING = 6
    GONE = 7


class Patience(msgspec.Struct, frozen=True):
    """How long a connection may stay in a state, in seconds."""

    handshake: float = 5.0
    first_byte: float = 10.0
    head: float = 5.0
    """From the first byte of a head to its end."""
    stalled: float = 10.0
    """Without the client taking anything of what was sent."""
    idle: float = 75.0
    """Longer than the minute after which load balancers give an idle connection up, or they would
    meet one that was just closed."""
    closing: float = 2.0

    def by_state(self) -> tuple[float, ...]:
        """Return the longest time of each state. Who answers has a deadline of its own."""
        ever = float("inf")
        return (
            self.handshake,
            self.first_byte,
            self.head,
            ever,
            self.stalled,
            self.idle,
            self.closing,
            ever,
        )


class Stalled:
    """The connections whose clients don't take their answers, and what waits for these.

    All of it together is bounded by ``most`` bytes. Past that the one that has taken nothing for
    longest is cut, but never the last: a single answer is bounded elsewhere.
    """

    __slots__ = ("_held", "_most", "_total")

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[Connection, int] = {}
        """What each holds, whoever took something longest ago first."""
        self._total = 0

    def note(self, connection: Connection, size: int) -> None:
        """Hear that a connection holds ``size`` bytes, and has just taken something."""
        self.forget(connection)
        self._held[connection] = size
        self._total += size
        while self._total > self._most and len(self._held) > 1:
            longest = next(iter(self._held))
            self.forget(longest)
            longest.abort()

    def forget(self, connection: Connection) -> None:
        """Hear that a connection holds nothing worth counting."""
        self._total -= self._held.pop(connection, 0)


class Site:
    """What the connections of a worker share. ``scheme`` is http, or https for TLS.

    ``most_unsent`` is how many bytes of answers may wait for clients that don't take them.
    """

    __slots__ = (
        "app",
        "buffer",
        "clock",
        "connections",
        "direct",
        "heads",
        "is_draining",
        "loop",
        "on_gone",
        "refuse",
        "scheme",
        "stalled",
    )

    def __init__(
        self,
        app: ASGIApp,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        refuse: Refuse,
        on_gone: Callable[[], None],
        scheme: str = "http",
        most_unsent: int = 32 << 20,
        direct: Direct | None = None,
    ) -> None:
        self.app = app
        self.buffer = memoryview(bytearray(_SEGMENT))
        """Where what comes is read to, of all connections: it is taken out at once."""
        self.direct = direct
        self.scheme = scheme
        self.loop = loop
        self.clock = clock
        self.refuse = refuse
        self.on_gone = on_gone
        self.heads = AnswerHeads()
        self.connections: set[Connection] = set()
        self.stalled = Stalled(most_unsent)
        self.is_draining = False
        """Whether every answer is the last one on its connection."""


class Connection(asyncio.BufferedProtocol):
    """The protocol of one connection. It enters ``site`` when made, and leaves it at its end."""

    __slots__ = (
        "_ahead",
        "_dropped",
        "_end_of_input",
        "_ends",
        "_exchange",
        "_is_cut",
        "_known",
        "_misses",
        "_on_writable",
        "_reader",
        "_reads",
        "_site",
        "_transport",
        "_unsent",
        "client",
        "extensions",
        "has_been_served",
        "has_caller",
        "heads",
        "loop",
        "scheme",
        "server",
        "since",
        "state",
    )

    def __init__(self, site: Site, address: object) -> None:
        """Begin with the ``address`` that accept() told: of a connection that was reset since then
        the socket itself doesn't know it any more, and a caller could hide that way."""
        self.state = State.NEW if site.scheme == "http" else State.SHAKING
        self.since = site.clock()
        """When this state began; in BUSY, one before it."""
        self.client = _address(address)
        self.server: tuple[str, int] | None = None
        self.scheme = site.scheme
        self.extensions: dict[str, Any] = {}
        """Of ASGI: what TLS knows of the client."""
        self.loop = site.loop
        self.heads = site.heads
        self._site = site
        self._transport: Wire | None = None
        self._reader = HeadReader()
        self._exchange: Exchange | Request | None = None
        self._known: KnownHead | None = None
        """The last head that went to the direct entrance."""
        self._misses = 0
        """How many heads in a row were not that one."""
        self._ahead = b""
        self._reads = True
        self._end_of_input = False
        self._ends = False
        self._is_cut = False
        self._unsent = 0
        self._dropped = 0
        self.has_been_served = False
        """Whether a request of this connection was complete, and has been answered."""
        self.has_caller = False
        """Whether the application knew whose request it was: it set `direct.Request.kept`."""
        self._on_writable: asyncio.Future[None] | None = None
        site.connections.add(self)

    # -- what the transport says -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.begin(cast(Wire, transport))

    def begin(self, wire: Wire) -> None:
        """Go by this transport from now on."""
        self._transport = wire
        wire.set_write_buffer_limits(_UNSENT)
        self.server = _address(wire.get_extra_info("sockname"))

    def secured(self, extensions: dict[str, Any]) -> None:
        """Hear that hands have been shaken."""
        self.extensions = extensions
        self._enter(State.NEW)

    def stir(self) -> None:
        """Hear that something has come of which nothing can be read yet: a head has begun."""
        if self.state is State.NEW or self.state is State.IDLE:
            self._enter(State.HEAD)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._site.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._site.buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Take what came, which TLS may have decrypted."""
        state = self.state
        if state is State.IDLE or state is State.NEW or state is State.HEAD:
            self._read(data)
        elif state is State.CLOSING:
            self.drop(len(data))
        else:
            self._read_ahead(data)

    def drop(self, size: int) -> None:
        """Hear that so many bytes came that nobody will read; of too many, end it."""
        self._dropped += size
        if self._dropped > _DROPPED:
            self.abort()
        elif size >= _SEGMENT and self._pause_reading():
            # There is more. It is dropped one segment in a turn of the loop: others wait.
            self.loop.call_soon(self._resume_reading)

    def eof_received(self) -> bool:
        """Hear that the client sends nothing more. What it has asked for is still answered."""
        self._end_of_input = True
        exchange = self._exchange
        if exchange is not None:
            if isinstance(exchange, Exchange) and not exchange.is_complete:
                exchange.break_off()
        elif self.state is State.HEAD and self._reader.is_inside:
            self.refuse(BadRequest("The request broke off before the end of its head."))
        elif self.state is not State.STALLED and self.state is not State.BUSY:
            self._close()  # else it is looked at when what came before it has had its turn
        return True  # to close is not left to the transport: it would wait for the client for ever

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = State.GONE
        self._transport = None
        self._ahead = b""
        self.resume_writing()
        self._site.stalled.forget(self)
        if self._exchange is not None:
            self._exchange.hang_up()
        else:
            self._leave()

    def pause_writing(self) -> None:
        if self.state is not State.GONE:
            self._enter(State.STALLED)
            self._unsent = self._bytes_unsent()
            self._note_stalled()

    def resume_writing(self) -> None:
        if self._on_writable is not None:
            if not self._on_writable.done():  # whoever waited may have been cancelled
                self._on_writable.set_result(None)
            self._on_writable = None
        if self.state is State.STALLED:
            self.state = State.BUSY
            self._site.stalled.forget(self)
            if self._exchange is None:
                self._go_on()

    # -- requests ----------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        """Read a head; there is no request under way."""
        known = self._known
        if known is not None:
            if known.begins(data):
                self._misses = 0
                body, self._ahead = known.body(data), data[known.whole :]
                self._start(Request(self, known.head, body, known.kept), len(data))
                return
            self._misses += 1
        is_first = not self._reader.is_inside
        try:
            found = self._reader.feed(data)
        except BadRequest as fault:
            self.refuse(fault)
            return
        if found is None:
            if self.state is not State.HEAD:
                self._enter(State.HEAD)
            return
        head, rest = found
        direct = self._site.direct
        if direct is not None and 0 <= head.length <= len(rest) and direct.takes(head):
            body, self._ahead = rest[: head.length], rest[head.length :]
            request = Request(self, head, body, None)
            self._start(request, len(data))
            self.has_caller = self.has_caller or request.kept is not None
            if request.kept is not None and is_first and self._misses < _MOST_MISSES:
                self._known = KnownHead(data[: len(data) - len(rest)], head, request.kept)
            else:
                self._known = None
            return
        self.state = State.BUSY
        self._exchange = exchange = Exchange(self, head)
        if not exchange.is_complete:
            rest = self._feed(exchange, rest)
        self._ahead = rest
        if len(data) > _READ_AHEAD:
            self._pause_if_full()
        exchange.task = self.loop.create_task(self._run(exchange))

    def _start(self, request: Request, size: int) -> None:
        """Hand a whole request over; ``size`` bytes were read at once."""
        self.state = State.BUSY
        self._exchange = request
        if size > _READ_AHEAD:
            self._pause_if_full()
        direct = self._site.direct
        assert direct is not None
        try:
            direct.start(request)
        except Exception as fault:
            reference, status, headers, body = self._site.refuse(None)
            _log.error("a bug", request_id=reference, path=request.head.target, exc_info=fault)
            self.answer(request, status, headers, body)

    def answer(self, request: Request, status: int, headers: Fields, body: bytes) -> None:
        """Send the whole answer to a request that was handed over, and go on."""
        if self._exchange is not request:
            return  # it was cut
        self._exchange = None
        head = request.head
        closes = not head.keep_alive or self._site.is_draining
        stays = persistence(head, closes=closes)
        self.write(self.heads.whole(status, headers, len(body), stays) + body)
        if self.state is State.GONE:
            self._leave()
            return
        self._ends = self._ends or closes
        if self.state is not State.STALLED:
            self._go_on()

    def _feed(self, exchange: Exchange, data: bytes) -> bytes:
        try:
            return exchange.feed(data)
        except BadRequest:
            exchange.break_off()
            return b""

    def _read_ahead(self, data: bytes) -> None:
        """Read while a request is under way: its body, or what comes after it."""
        exchange = self._exchange
        if exchange is not None:
            if exchange.is_broken or (exchange.is_answered and exchange.closes):
                self.drop(len(data))  # nobody will read it: it is not even looked at
                return
            if isinstance(exchange, Exchange) and not exchange.is_complete:
                data = self._feed(exchange, data)
        if data:
            self._ahead += data
        self._pause_if_full()

    def _pause_if_full(self) -> None:
        unread = 0 if self._exchange is None else len(self._exchange.unread)
        if unread + len(self._ahead) > _READ_AHEAD:
            self._pause_reading()

    def _read_again(self) -> None:
        if not self._end_of_input:
            self._resume_reading()

    def _pause_reading(self) -> bool:
        """Read nothing for now; tell whether that is new."""
        if not self._reads or self._transport is None:
            return False
        self._reads = False
        self._transport.pause_reading()
        return True

    def _resume_reading(self) -> None:
        if not self._reads and self._transport is not None:
            self._reads = True
            self._transport.resume_reading()

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self._site.app(exchange.scope(), exchange.receive, exchange.send)
            if not exchange.is_answered:
                self._give_up(exchange, RuntimeError("the application sent no answer"))
        except Exception as fault:
            self._give_up(exchange, fault)
        except asyncio.CancelledError:
            # Nobody cancels it but the end of the grace: the client learns that nothing follows.
            self.abort()
        self._exchange = None
        if self.state is State.GONE:
            self._leave()
            return
        self._ends = self._ends or exchange.closes
        if self.state is not State.STALLED:
            self._go_on()

    def _give_up(self, exchange: Exchange, fault: Exception) -> None:
        """Answer for an application that failed to; cut an answer that it has begun."""
        reference, status, headers, body = self._site.refuse(None)
        _log.error("a bug", request_id=reference, path=exchange.head.target, exc_info=fault)
        if exchange.has_begun:
            self.abort()
        else:
            exchange.answer(status, headers, body)

    def _go_on(self) -> None:
        """Take the next request, or wait for one; the answer before it has been sent."""
        if self._ends:
            self.end()
            return
        self.has_been_served = True
        if self._ahead:
            # In the next turn of the loop: others come between, however many were sent at once.
            self.loop.call_soon(self._read_on)
            return
        self._read_again()
        self._enter(State.IDLE)
        if self._end_of_input:
            self.eof_received()

    def _read_on(self) -> None:
        """Read the next request, which came ahead of time."""
        if self._exchange is not None or self.state is not State.BUSY:
            return  # it was cut, or waits for its client again
        ahead, self._ahead = self._ahead, b""
        self._read_again()
        self._enter(State.IDLE)
        self._read(ahead)
        if self._end_of_input and self._exchange is None:
            # The end of the input has had to wait for its turn, as what came before it.
            self.eof_received()

    # -- what an exchange asks for -----------------------------------------------------------------

    @property
    def is_ending(self) -> bool:
        return self._site.is_draining

    def write(self, data: bytes) -> None:
        if self._transport is not None and data:
            self._transport.write(data)

    def took_body(self) -> None:
        if not self._reads and len(self._ahead) <= _READ_AHEAD:
            self._read_again()

    async def writable(self) -> None:
        if self.state is State.STALLED:
            if self._on_writable is None:
                self._on_writable = self.loop.create_future()
            await self._on_writable

    # -- the end -----------------------------------------------------------------------------------

    def refuse(self, fault: BadRequest) -> None:
        """Answer what is no request, and close."""
        _, status, headers, body = self._site.refuse(fault.message)
        begin, fields = self.heads.begin(status), self.heads.fields(headers)
        closing = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.write(begin + fields + closing + body)
        self.end()

    def end(self) -> None:
        """Shut the write side, and wait for the client to close."""
        wire = self._transport
        if wire is None or wire.is_closing():
            return
        if self._end_of_input:
            self._close()
            return
        self._begin_to_close()
        with suppress(OSError):  # it may have been reset this very moment
            wire.write_eof()
        self._read_again()

    def close_if_quiet(self) -> bool:
        """Close, unless a request is on its way in: a last look at what has not been read."""
        wire = self._transport
        if wire is None or _bytes_queued(wire, termios.FIONREAD):
            return False
        self._close()
        return True

    def _close(self) -> None:
        """Close as soon as the client has taken what was sent."""
        if self._transport is not None:
            self._begin_to_close()
            self._transport.close()

    def _begin_to_close(self) -> None:
        self._ahead = b""
        self._enter(State.CLOSING)
        self._unsent = self._bytes_unsent()

    def abort(self) -> None:
        """Close at once, whatever has not been sent."""
        self._ends = self._is_cut = True
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_leaving(self) -> bool:
        """Whether it is closed, waits for nobody, and only has not been told so."""
        wire = self._transport
        if wire is None or not wire.is_closing():
            return False
        return self._is_cut or not wire.get_write_buffer_size()

    def cancel(self) -> None:
        """Cut what is under way."""
        exchange = self._exchange
        if exchange is None:
            self.abort()
            return
        if isinstance(exchange, Request):
            self._exchange = None
            if exchange.handler is not None:
                exchange.handler.cancel()
            self.abort()
            if self.state is State.GONE:
                self._leave()
            return
        exchange.task.add_done_callback(partial(self._let_go, exchange))
        exchange.task.cancel()

    def _let_go(self, exchange: Exchange, _: asyncio.Task[None]) -> None:
        """End what a cancelled task has left: before its first step it never comes to its end."""
        if self._exchange is exchange:
            self._exchange = None
            self.abort()
            if self.state is State.GONE:
                self._leave()

    def expire(self, now: float) -> None:
        """Act on a state that has lasted too long."""
        state = self.state
        if state is State.HEAD and self._reader.is_inside:
            self.refuse(BadRequest("The head of the request was not complete in time."))
        elif state is State.SHAKING or state is State.HEAD:
            self.abort()
        elif state is State.STALLED or state is State.CLOSING:
            unsent = self._bytes_unsent()
            if 0 < unsent < self._unsent:
                self._unsent, self.since = unsent, now
                if state is State.STALLED:
                    self._note_stalled()
            else:
                self.abort()
        else:
            self.close_if_quiet()

    def _enter(self, state: State) -> None:
        self.state = state
        self.since = self._site.clock()

    def _bytes_unsent(self) -> int:
        """Return how much the client has not taken. The kernel's part may be megabytes: who takes
        that slowly makes progress that the transport doesn't see for long."""
        wire = self._transport
        if wire is None:
            return 0
        return wire.get_write_buffer_size() + _bytes_queued(wire, termios.TIOCOUTQ)

    def _note_stalled(self) -> None:
        if self._transport is not None:
            self._site.stalled.note(self, self._transport.get_write_buffer_size())

    def _leave(self) -> None:
        self._site.connections.discard(self)
        self._site.on_gone()


def _address(found: object) -> tuple[str, int] | None:
    return (found[0], found[1]) if isinstance(found, tuple) else None


def _bytes_queued(wire: Wire, queue: int) -> int:
    """Return the bytes in one of the kernel's queues of a socket; see tcp(7)."""
    there = array("i", [0])
    fcntl.ioctl(wire.get_extra_info("socket").fileno(), queue, there)
    return there[0]
