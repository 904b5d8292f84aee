"""A request's body, bounded in size and time, and all bodies together in what they hold.

A request is a task of its own: the server makes it, and nobody else may cancel it here.
Most bodies come in one message. A timer for each would cost more than reading it, so the tasks
that read are kept in a dict and one sweep every now and then ends those that take too long.

All that is held of bodies that are not complete is bounded, too, in bytes and in number. Past a
bound the oldest is ended, not the newest: who sends at a normal pace is done before its turn comes,
and slow senders are in each other's way only.

Most bodies come in one piece. Of those that don't, only a few of each client are read on at once:
the others stay where they are, in the kernel and with the client, and cost nothing meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flowcache.errors import Failure, InvalidRequest, Overloaded, TooLarge
from flowcache.ports import Clock
from flowcache.server.asgi import Receive

__all__ = ["BodyReader"]

_MOST_DIGITS = 18
_AT_ONCE = 16
"""Bodies of one client that are read on at once."""
_SWEEP = 0.25
"""Seconds between two sweeps: a slow body is ended at most this much late."""


class BodyReader:
    """Read bodies of at most ``max_bytes`` that arrive within ``timeout`` seconds.

    At most ``most`` bodies are unfinished at once, and at most ``max_held`` bytes of them held.
    """

    __slots__ = (
        "_clock",
        "_ended",
        "_held",
        "_max_bytes",
        "_max_held",
        "_most",
        "_places",
        "_reading",
        "_sweep",
        "_timeout",
        "_waiting",
    )

    def __init__(
        self,
        max_bytes: int,
        timeout: float,
        clock: Clock,
        max_held: int = 32 << 20,
        most: int = 2048,
    ) -> None:
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._clock = clock
        self._max_held = max_held
        self._most = most
        self._held = 0
        self._reading: dict[asyncio.Task[object], float] = {}
        """Until when each may read, oldest first."""
        self._ended: dict[asyncio.Task[object], Failure] = {}
        """Who has been cancelled here, and why."""
        self._sweep: asyncio.TimerHandle | None = None
        self._places: dict[str, _Places] = {}
        """Of the clients of which a body is read on."""
        self._waiting: set[asyncio.Task[object]] = set()
        """Who is not read on, because others of its client are."""

    async def read(self, receive: Receive, declared: bytes | None, client: str) -> bytes:
        """Return the whole body; ``declared`` is the Content-Length header, if that is what counts.

        Raises:
            TooLarge: it is, or says it will be, longer than allowed. The rest stays unread.
            InvalidRequest: it did not arrive in time, or broke off.
            Overloaded: there are too many bodies and this is the oldest, or too many of ``client``.
        """
        length = _length(declared)
        if length > self._max_bytes:
            raise self._too_large()
        task = asyncio.current_task()
        assert task is not None
        reading = self._reading
        reading[task] = self._clock() + self._timeout
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_SWEEP, self._end_slow_ones)
        try:
            if len(reading) > self._most:
                self._end_oldest(task)
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _broken_off()
            body: bytes = message.get("body", b"")
            # A server may say "more" of a body that it has handed over whole: to ask again for
            # nothing would cost a tenth of a request.
            if message.get("more_body") and len(body) != length:
                body = await self._read_on(task, receive, body, length, client)
        except asyncio.CancelledError:
            if task not in self._ended or task.uncancel():
                raise  # somebody else wants it to end, too
            raise self._ended[task] from None
        finally:
            del reading[task]
            if self._ended:
                self._ended.pop(task, None)
        if len(body) > self._max_bytes:
            raise self._too_large()
        return body

    async def _read_on(
        self,
        task: asyncio.Task[object],
        receive: Receive,
        first: bytes,
        length: int,
        client: str,
    ) -> bytes:
        parts = bytearray(first)
        held = len(parts)
        self._held += held
        try:
            async with self._place(task, client):
                while held <= self._max_bytes:
                    if self._held > self._max_held:
                        self._end_oldest(task)
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _broken_off()
                    parts += message.get("body", b"")
                    self._held += len(parts) - held
                    held = len(parts)
                    if not message.get("more_body") or held == length:
                        break
        finally:
            self._held -= held
        return bytes(parts)

    @asynccontextmanager
    async def _place(self, task: asyncio.Task[object], client: str) -> AsyncIterator[None]:
        """Wait until this body may be read on."""
        places = self._places.setdefault(client, _Places())
        places.users += 1
        self._waiting.add(task)
        try:
            async with places.free:
                self._waiting.discard(task)
                yield
        finally:
            self._waiting.discard(task)
            places.users -= 1
            if not places.users:
                del self._places[client]

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"body: over the limit of {self._max_bytes} bytes. Split the value over several keys."
        )

    def _too_late(self, task: asyncio.Task[object]) -> Failure:
        if task in self._waiting:
            return Overloaded("body: too many large ones of this client arrive at once.")
        return InvalidRequest(f"body: it was not complete after {self._timeout:g} s.")

    def _end_oldest(self, current: asyncio.Task[object]) -> None:
        oldest = next(task for task in self._reading if task not in self._ended)
        why = Overloaded("body: too many others arrive, and this is the oldest.")
        if oldest is current:  # it runs, and has nothing to be woken from
            raise why
        self._end(oldest, why)

    def _end(self, task: asyncio.Task[object], why: Failure) -> None:
        if task not in self._ended:
            self._ended[task] = why
            task.cancel()

    def _end_slow_ones(self) -> None:
        now = self._clock()
        for task, until in self._reading.items():
            if until >= now:
                break  # the others began later
            self._end(task, self._too_late(task))
        self._sweep = (
            asyncio.get_running_loop().call_later(_SWEEP, self._end_slow_ones)
            if self._reading
            else None
        )


class _Places:
    """Where the bodies of one client are read on."""

    __slots__ = ("free", "users")

    def __init__(self) -> None:
        self.free = asyncio.Semaphore(_AT_ONCE)
        self.users = 0
        """Bodies that have a place, or wait for one."""


def _length(declared: bytes | None) -> int:
    """Return what Content-Length says, -1 where it says nothing."""
    if declared is None or not declared.isdigit():
        return -1
    digits = declared.lstrip(b"0") or b"0"
    # Counted first: int() refuses thousands of digits with an error of its own.
    return int(digits[:_MOST_DIGITS]) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS


def _broken_off() -> InvalidRequest:
    """Tell of a body without an end: the client hung up, or its chunks are malformed.

    The server does not say which. Only in the second case is there somebody to read the answer.
    """
    return InvalidRequest("body: it broke off before its end.")
