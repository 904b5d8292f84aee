"""The pipelined link: one connection to a server, shared by all requests.

The rules:

1. *Order.* Redis answers in the order it was asked, so `_Wire.waiting` is a queue and a reply
   belongs to its head. Nothing is ever removed from the middle: a caller that gave up is answered
   and forgotten (`Waiter.answer`), but its place stays until its reply comes and is dropped.
   Listeners hear their replies while a read is taken apart, one after the other.
2. *One write a loop turn.* Commands are collected and leave together when the turn ends.
3. *No queue while disconnected.* Then `send` answers at once that nothing was sent.
4. *Bounded.* At most ``max_pending`` commands wait, at most ``max_reply`` bytes make a reply.
5. *Overdue.* When the oldest reply is later than ``reply_timeout`` the connection is reset: what
   is stuck would keep all behind it stuck.
6. *Fate.* When the connection is lost, those whose command had not been written yet are told that
   it was not sent; the others that their fate is unknown.

`Link` keeps itself connected; `_Wire` is one connection's life, from take-over to loss.

A reply delays those behind it; that is the price of sharing. So what is asked for here is small
(`commands.SMALL`), and what is large has a link of its own (`bulk`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from enum import StrEnum
from random import random
from typing import Any, cast

import structlog
from hiredis import PushNotification
from redis.asyncio.connection import AbstractConnection

from flowcache.errors import LockedOut, RedisUnavailable
from flowcache.ports import Clock
from flowcache.status import LinkStatus
from flowcache.store.backoff import reconnect_delay
from flowcache.store.cancelling import cancel
from flowcache.store.connection import ConnectFault, ask, close, connect, take_over
from flowcache.store.deadlines import AwaitedReply, Deadlines, Listener, Waiter
from flowcache.store.parser import Parser
from flowcache.store.replies import FULL, LOST, NOT_SENT, OVERSIZED, ErrorReply
from flowcache.store.settings import Address, StoreSettings

__all__ = ["Link", "LinkState"]

_log = structlog.get_logger(__name__)

_READWRITE = b"*1\r\n$9\r\nREADWRITE\r\n"
_DRAIN_POLL = 0.05
_STUCK = 0.25
"""Seconds without a reply after which a link is no good source of anything."""
_WRITE_BUFFER = 4 * 1024 * 1024
"""Bytes that may wait to be written before the link takes no more."""


class LinkState(StrEnum):
    """Whether a link can carry commands."""

    CONNECTING = "connecting"
    READY = "ready"
    RECONNECTING = "reconnecting"
    CLOSED = "end"


class _Wire(asyncio.Protocol):
    """One connection: bytes out, replies in, matched in order."""

    def __init__(self, max_reply: int, on_loss: Callable[[str], None]) -> None:
        self.out: list[bytes] = []
        self.waiting: deque[Waiter] = deque()
        self.lost: str | None = None
        self.congested = False
        self._on_loss = on_loss
        self._transport: asyncio.Transport | None = None
        self._parser = Parser(max_reply, ErrorReply)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport, not its name.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        if transport.is_closing():
            self.lose("the connection was closed during the handshake")

    def flush(self) -> None:
        """Write all that was collected in this turn."""
        out = self.out
        if out and self._transport is not None:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        waiting, parser = self.waiting, self._parser
        try:
            for reply in parser.parse(data):
                if reply.__class__ is not PushNotification:
                    waiting.popleft().answer(reply)
        except IndexError:
            self.lose("the server sent a reply that nobody asked for")
        if parser.fault is not None:
            if parser.is_oversized and waiting:
                waiting.popleft().answer(OVERSIZED)
            self.lose(parser.fault)

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False

    def connection_lost(self, fault: Exception | None) -> None:
        self.lose(f"the connection was lost: {fault}" if fault else "the server hung up")

    def lose(self, reason: str) -> None:
        """Give the connection up and tell everybody who waits. Safe to call again."""
        if self.lost is not None:
            return
        self.lost = reason
        if self._transport is not None:
            self._transport.abort()
        unsent = len(self.out)
        self.out.clear()
        sent = len(self.waiting) - unsent
        for place, waiter in enumerate(self.waiting):
            waiter.answer(LOST if place < sent else NOT_SENT)
        self.waiting.clear()
        self._on_loss(reason)


class Link:
    """A connection to one server that keeps itself up.

    ``listened`` is the clock that the server is judged by (`LoopWatch.listened`): moments at which
    replies become slow or overdue are given and taken by it; deadlines are not.
    ``readonly`` makes a cluster's replica answer reads (the command READONLY), until `promote`.
    ``delay`` is how many seconds the first attempt to connect waits.
    """

    def __init__(
        self,
        address: Address,
        settings: StoreSettings,
        deadlines: Deadlines,
        slowness: Deadlines,
        listened: Clock,
        *,
        readonly: bool = False,
        on_change: Callable[[Link], None] = lambda link: None,
        delay: float = 0.0,
    ) -> None:
        self.address = address
        self.readonly = readonly
        self.state = LinkState.CONNECTING
        self._settings = settings
        self._deadlines = deadlines
        self._slowness = slowness
        self._listened = listened
        self._on_change = on_change
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._wire: _Wire | None = None
        self._stream: object = None
        self._flushing = False
        self._attempts = 0
        self._suspect = False
        self.server_name: str | None = None
        """The name that the server's certificate is for; None: its host, or what is configured."""
        self.failure: type[RedisUnavailable] = RedisUnavailable
        """What stood in the way of the last attempt to connect."""
        self._was_locked_out = False
        self._closing = False
        self.connects = 0
        """How often it has been connected."""
        self._losses = 0
        self._fault: str | None = None
        self._down = asyncio.Event()
        self._settled = asyncio.Event()
        self._ready = asyncio.Event()
        self._keeper = self._loop.create_task(self._keep_connected(), name=f"link {address}")

    def send(
        self,
        data: bytes,
        deadline: float,
        *,
        slow_at: float | None = None,
        after: bytes | None = None,
    ) -> Awaitable[Any]:
        """Put a packed command on the wire, as `submit`, and return what will be its reply.

        The result is the reply, or a `Fault`: it never raises.
        """
        future = self._loop.create_future()
        self.submit(AwaitedReply(future), data, deadline, slow_at=slow_at, after=after)
        return future

    def submit(
        self,
        listener: Listener,
        data: bytes,
        deadline: float,
        *,
        slow_at: float | None = None,
        after: bytes | None = None,
    ) -> None:
        """Put a packed command on the wire; ``listener`` hears its reply, or a `Fault`.

        It hears at once where nothing is sent. It hears a `SlowReply` when there is no other by
        ``slow_at``, on the clock ``listened``. ``after`` is a command that has to stand right
        before this one; its own reply is dropped.
        """
        wire = self._wire
        if wire is None:
            listener.hear(NOT_SENT)
            return
        if wire.congested or len(wire.waiting) >= self._settings.max_pending:
            listener.hear(FULL)
            return
        since = self._listened()
        if after is not None:
            self._put(wire, after, Waiter(None, since))
        waiter = Waiter(listener, since)
        self._put(wire, data, waiter)
        self._deadlines.add(waiter, deadline)
        if slow_at is not None:
            self._slowness.add(waiter, slow_at)

    def _put(self, wire: _Wire, data: bytes, waiter: Waiter) -> None:
        wire.out.append(data)
        wire.waiting.append(waiter)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._wire is not None:
            self._wire.flush()

    def promote(self) -> None:
        """Take the server for a primary from now on; a replica again, it has to redirect reads."""
        if self.readonly:
            self.readonly = False
            if self._wire is not None:
                self._put(self._wire, _READWRITE, Waiter(None, self._listened()))

    @property
    def is_idle(self) -> bool:
        """Whether it is connected, and nothing waits for a reply."""
        return self._wire is not None and not self._wire.waiting

    def is_stuck(self, now: float) -> bool:
        """Tell whether it is not connected, or has not been answering for a while."""
        wire = self._wire
        return wire is None or bool(wire.waiting and now - wire.waiting[0].since > _STUCK)

    def reset_if_overdue(self, now: float) -> None:
        """Reset the connection when its oldest reply is overdue; called every now and then."""
        wire = self._wire
        if wire and wire.waiting and now - wire.waiting[0].since > self._settings.reply_timeout:
            self._suspect = True
            wire.lose(f"no reply for {self._settings.reply_timeout:g} s")

    async def ready(self) -> None:
        """Wait until the link is connected."""
        await self._ready.wait()

    async def settled(self) -> None:
        """Wait until the first attempt to connect has come to an end, well or not."""
        await self._settled.wait()

    @property
    def proven(self) -> bool:
        """Whether being connected proves that the server works again.

        Not when the connection was given up for an overdue reply and came back at the first
        attempt: a server that takes connections and answers nothing does just that.
        """
        return self.state is LinkState.READY and not self._suspect

    @property
    def fresh_fault(self) -> bool:
        """Whether the link has just been lost, or failed to connect for the first time, or is
        locked out: then the one attempt tells more than the loss before it."""
        if self.state is LinkState.READY:
            return False
        return self._attempts == 0 or (self._is_locked_out and not self._was_locked_out)

    @property
    def _is_locked_out(self) -> bool:
        return issubclass(self.failure, LockedOut)

    def status(self) -> LinkStatus:
        """Return how the link does."""
        pending = len(self._wire.waiting) if self._wire else 0
        return LinkStatus(
            str(self.address), self.state.value, pending, self.connects, self._losses, self._fault
        )

    async def drain(self) -> None:
        """Let those who wait have their replies, for as long as a reply may take; then close."""
        until = self._listened() + self._settings.reply_timeout
        # Polled, because it is rare: an event would cost every reply.
        while self._wire is not None and self._wire.waiting and self._listened() < until:  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_POLL)
        await self.close()

    async def close(self) -> None:
        """Close the connection and stop keeping it up. Whoever waits is told."""
        self._closing = True
        await cancel(self._keeper)
        if self._wire is not None:
            self._wire.lose("flowcache is shutting down")
        self.state = LinkState.CLOSED
        self._settled.set()
        self._ready.set()  # nobody need wait any longer: the state tells

    async def _keep_connected(self) -> None:
        if self._delay:
            await asyncio.sleep(self._delay)
        # Asked each time, too: on Python 3.11 asyncio.wait_for, which redis-py uses, may lose a
        # cancellation.
        while not self._closing:
            try:
                await self._live_once()
            except Exception as bug:
                # Whatever it is, a link that gave up would be a shard lost until a restart.
                _log.error("a bug", address=str(self.address), exc_info=bug)
            self._attempts += 1
            await asyncio.sleep(reconnect_delay(self._attempts, random()))

    async def _live_once(self) -> None:
        """Connect, and when that went well wait until the connection is lost."""
        try:
            await self._connect()
        finally:
            self._settled.set()
        if self._closing:
            return
        self._on_change(self)
        self._suspect = False  # it spoke of the loss before this connection, not of the next one
        if self._wire is not None:
            await self._down.wait()
            self._on_change(self)

    async def _connect(self) -> None:
        self._down.clear()
        connection: AbstractConnection | None = None
        try:
            connection = await connect(self.address, self._settings, server_name=self.server_name)
            if self.readonly:
                await ask(connection, "READONLY")
            wire = _Wire(self._settings.max_reply, self._lost)
            self._stream = take_over(connection, wire)
        except BaseException as fault:
            self._suspect = False
            self._was_locked_out = self._is_locked_out
            self.failure = fault.failure if isinstance(fault, ConnectFault) else RedisUnavailable
            self._fault = str(fault) or type(fault).__name__
            self.state = LinkState.RECONNECTING
            if connection is not None:
                await close(connection)
            if isinstance(fault, ConnectFault):
                return
            raise
        if wire.lost is None:
            self._wire = wire
            self._attempts = 0
            self.failure = RedisUnavailable
            self.connects += 1
            self._fault = None
            self.state = LinkState.READY
            self._ready.set()

    def _lost(self, reason: str) -> None:
        self._wire = None
        self._ready.clear()
        self._losses += 1
        self._fault = reason
        self.state = LinkState.RECONNECTING
        self._down.set()
