"""A worker's end of the listening socket: accepts connections, bounds them, sees them off.

There is no timer a connection: one sweep every now and then looks at all of them. Nothing that a
connection may do is due to a fraction of a second.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from heapq import nsmallest

import msgspec
import structlog

from flowcache.server.asgi import ASGIApp
from flowcache.server.clocks import Clock, Now
from flowcache.server.connection import Connection, Patience, Site, State
from flowcache.server.direct import direct_of
from flowcache.server.refusal import Refuse
from flowcache.server.tls import TlsWire
from flowcache.server.turns import Turnstile

__all__ = ["ConnectionLimits", "Listener"]

_log = structlog.get_logger(__name__)

_SWEEP = 0.25
_SWEEP_DRAINING = 0.05
"""Seconds between two looks at all connections."""
_ACCEPTS_A_TURN = 16
"""Of a burst of connections a worker takes some, and leaves the rest to its siblings."""
_HANDSHAKES_A_TURN = 2
"""TLS handshakes that begin in one turn of the loop: up to two milliseconds."""
_ROOM_SHARE = 128
"""Room is made for this share of all connections at once: to find whom to close takes a look at
each."""
_STRANGERS = (State.SHAKING, State.NEW, State.HEAD)
"""Where a connection is that has asked nothing yet."""
_STRANGERS_SHARE = 4
"""This share of all connections is theirs: while they have it, no idle connection is closed."""
_MOMENT = 0.01
"""Seconds in which a newcomer may ask for something, before it makes room."""
_MAY_HAVE_ASKED = (State.IDLE, State.NEW)
"""Whose request may have come and not been read yet."""
_STARVED_SECONDS = 0.5
"""Without file descriptors, when accept() is tried again if no connection ends before."""
_FULL_SECONDS = 0.01
"""With all connections at work or new, when to look whether one can be closed by now."""
_COMPLAINT_SECONDS = 60.0


class ConnectionLimits(msgspec.Struct, frozen=True):
    """How many connections a worker keeps, and for how long."""

    connections: int = 4096
    patience: Patience = Patience()
    unsent_bytes: int = 32 << 20
    """How many bytes of answers may wait for clients that don't take them."""


class Listener:
    """Accept from ``listening``, a bound socket that other workers may accept from as well.

    ``clock`` tells how long a connection has been idle; ``now`` what time it is, in Unix seconds;
    ``refuse`` makes the answers to what is no HTTP.
    With a context of ``tls`` that is spoken, and nothing else.
    """

    def __init__(
        self,
        app: ASGIApp,
        listening: socket.socket,
        limits: ConnectionLimits,
        *,
        clock: Clock,
        now: Now,
        refuse: Refuse,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._listening = listening
        self._limits = limits
        self._patience = limits.patience.by_state()
        self._clock = clock
        self._now = now
        scheme = "http" if tls is None else "https"
        self._site = Site(
            app, loop, clock, refuse, self._on_gone, scheme, limits.unsent_bytes, direct_of(app)
        )
        self._protocol: Callable[[Connection], asyncio.BufferedProtocol] = (
            _as_it_is
            if tls is None
            else partial(TlsWire, context=tls, turns=Turnstile(_HANDSHAKES_A_TURN))
        )
        self._accepts = False
        self._accepts_a_turn = max(1, min(_ACCEPTS_A_TURN, limits.connections // 4))
        """Less than all: whoever has just come has a turn to be read before it makes room."""
        self._complain_from = clock()
        self._retry: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._adopting: set[asyncio.Task[None]] = set()
        self._drains_from: float | None = None
        self._drain_seconds = 0.0
        self._empty = asyncio.Event()

    @property
    def connections(self) -> set[Connection]:
        """The connections there are."""
        return self._site.connections

    def start(self) -> None:
        """Accept connections from now on."""
        self._sweep()
        self._resume()

    # -- accepting ---------------------------------------------------------------------------------

    def _resume(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if not self._accepts and self._drains_from is None:
            self._accepts = True
            self._loop.add_reader(self._listening.fileno(), self._accept, self._accepts_a_turn)

    def _pause(self) -> None:
        if self._accepts:
            self._accepts = False
            self._loop.remove_reader(self._listening.fileno())

    def _pause_for(self, seconds: float) -> None:
        """Accept again after ``seconds``, or as soon as a connection has ended."""
        self._pause()
        if self._retry is None:
            self._retry = self._loop.call_later(seconds, self._resume)

    def _accept(self, most: int) -> None:
        for _ in range(most):
            if len(self.connections) >= self._limits.connections:
                if not _is_readable(self._listening):
                    return  # nobody is to be closed for nobody
                if not self._make_room():
                    self._pause_for(_FULL_SECONDS)  # all are being answered, or new
                    return
            try:
                accepted, address = self._listening.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # it was given up before its turn
            except OSError as fault:
                # No file descriptor, no memory: accept() would fail again at once, and for ever.
                self._pause_for(_STARVED_SECONDS)
                self._make_room()
                self._complain(fault)
                return
            accepted.setblocking(False)
            task = self._loop.create_task(self._adopt(accepted, Connection(self._site, address)))
            self._adopting.add(task)
            task.add_done_callback(self._adopting.discard)

    async def _adopt(self, accepted: socket.socket, connection: Connection) -> None:
        protocol = self._protocol(connection)
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, accepted)
        except OSError:  # reset in the meantime
            accepted.close()
            connection.connection_lost(None)

    def _complain(self, fault: OSError) -> None:
        """Log that nobody can be accepted, once a minute: callers come more often."""
        now = self._clock()
        if now >= self._complain_from:
            self._complain_from = now + _COMPLAINT_SECONDS
            _log.error("can't accept a connection", fault=fault.strerror)

    def _make_room(self) -> bool:
        """Close whom nobody waits for, longest first; tell whether there is room now.

        First those that are closing, then those that have asked nothing in their moment. Idle ones
        follow only while these have less than their share: whoever opens connections without end is
        in the way of others that do. Of the idle ones those go last whose callers the application
        knows. Who is being answered never has to go.
        """
        here = [c for c in self.connections if not c.is_leaving]
        strangers = [c for c in here if c.state in _STRANGERS and not c.has_been_served]
        latest = self._clock() - _MOMENT
        if self._close_some([c for c in here if c.state is State.CLOSING]) or self._close_some(
            [c for c in strangers if c.since <= latest]
        ):
            return True
        if len(strangers) * _STRANGERS_SHARE > len(here):
            return False
        idle = [c for c in here if c.state is State.IDLE]
        return (
            self._close_some([c for c in idle if not c.has_caller])
            or self._close_some(idle)
            or self._close_some([c for c in here if c.state is State.HEAD and c.has_been_served])
        )

    def _close_some(self, there: list[Connection]) -> bool:
        """Close those that are as they are for longest; tell whether there was one."""
        made = 0
        for each in nsmallest(1 + len(self.connections) // _ROOM_SHARE, there, key=_since):
            if each.state not in _MAY_HAVE_ASKED:
                each.abort()
                made += 1
            elif each.close_if_quiet():
                made += 1
        return made > 0

    def _on_gone(self) -> None:
        if self._drains_from is not None:
            if not self.connections:
                self._empty.set()
        elif not self._accepts:
            self._resume()

    # -- the sweep ---------------------------------------------------------------------------------

    def _sweep(self) -> None:
        try:
            self.sweep()
        except Exception as fault:  # without another sweep nothing would have an end any more
            _log.error("a bug", exc_info=fault)
        finally:
            seconds = _SWEEP if self._drains_from is None else _SWEEP_DRAINING
            self._sweeper = self._loop.call_later(seconds, self._sweep)

    def sweep(self) -> None:
        """Look at all connections once, and at the clock on the wall."""
        self._site.heads.tell_time(formatdate(self._now(), usegmt=True).encode())
        now, patience = self._clock(), self._patience
        late = [c for c in self.connections if now - c.since > patience[c.state]]
        if self._drains_from is not None:
            left = now - self._drain_seconds
            late += [
                c
                for c in self.connections
                if c.state in (State.IDLE, State.NEW) and max(c.since, self._drains_from) <= left
            ]
        for connection in late:
            connection.expire(now)

    # -- the end -----------------------------------------------------------------------------------

    async def drain(self, idle_seconds: float, grace: float) -> None:
        """Stop accepting, answer what has been or is just being sent, and close all connections.

        Whoever has connected before is accepted and served. From now on each answer is the last of
        its connection. An idle connection is kept for ``idle_seconds``: its client may be sending
        a request and can't know. After ``grace`` seconds whatever is left is cut.
        """
        self._pause()
        if self._retry is not None:
            self._retry.cancel()
        self._site.is_draining = True
        self._accept(socket.SOMAXCONN)
        self._drains_from = self._clock()
        self._drain_seconds = min(idle_seconds, grace)
        self._listening.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._wait_empty()
        for connection in list(self.connections):
            connection.cancel()
        await self._wait_empty()
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def _wait_empty(self) -> None:
        while self.connections:
            self._empty.clear()
            await self._empty.wait()


def _as_it_is(connection: Connection) -> asyncio.BufferedProtocol:
    return connection


def _is_readable(listening: socket.socket) -> bool:
    look = select.poll()
    look.register(listening, select.POLLIN)
    return bool(look.poll(0))


def _since(connection: Connection) -> float:
    return connection.since
