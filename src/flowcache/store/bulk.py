"""A connection for large replies: one a server, opened when the first is wanted.

A link answers in order, so a large reply delays all that are behind it: here it delays other large
ones only. At most `_IN_FLIGHT` replies are under way, which bounds the memory that they take: one
whose caller left keeps its place until it came or the connection is lost. Further reads wait, and
clients are served round robin, so that one with many reads delays another's by one reply. The
connection is closed when nobody used it for a while. A failure concerns its caller alone: no
circuit hears of it (`ports.Large`), and no other connection is reset.
"""

from __future__ import annotations

import asyncio
from typing import cast

from flowcache.errors import DeadlineExceeded, RedisUnavailable, TooLarge
from flowcache.fair_queue import FairPlaces
from flowcache.ports import MANY_FIELDS, UNCOUNTED, Clock, Command, Reply
from flowcache.store.commands import ELSEWHERE, pack_hgetall, pack_whole
from flowcache.store.link import Link
from flowcache.store.replies import (
    EXPIRED,
    OVERSIZED,
    TOO_LARGE,
    ErrorReply,
    Fault,
    Reaction,
    reaction,
)

__all__ = ["Bulk"]

_IN_FLIGHT = 4
"""How many replies may be under way at once."""
_TRIES = 3
_IDLE = 10.0
"""Seconds without a read after which the connection is closed."""
_LONG = 60.0
"""Seconds that a reply may be under way: the link is reset long before (`redis.reply_timeout`)."""


class Bulk:
    """The connection for large replies of one server. Created inside a running event loop."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self.link = link
        self._clock = clock
        self._places = FairPlaces(_IN_FLIGHT)
        self._readers = 0
        self._under_way: set[asyncio.Task[Reply]] = set()
        self._used_at = clock()

    def is_idle(self, now: float) -> bool:
        """Tell whether it is time to close it."""
        return not self._readers and not self._under_way and now - self._used_at > _IDLE

    async def read(self, command: Command, deadline: float, after: bytes | None) -> Reply:
        """Return the whole value that ``command`` reads, as far as its limit allows.

        ``after`` is a command that has to stand right before it.

        Raises:
            Failure: as `ports.Executor.execute`.
        """
        self._readers += 1
        try:
            async with asyncio.timeout(self._left(deadline)):
                if not self._places.take():
                    await self._places.wait(command.client)
                # On its own: a caller who gives up leaves, the reply under way keeps its place.
                reading = asyncio.create_task(self._read(command, deadline, after))
                self._under_way.add(reading)
                reading.add_done_callback(self._free)
                reply = await asyncio.shield(reading)
        except TimeoutError:
            raise _late() from None
        finally:
            self._readers -= 1
            self._used_at = self._clock()
        if type(reply) is int:
            raise TooLarge(TOO_LARGE)
        return reply

    def _free(self, reading: asyncio.Task[Reply]) -> None:
        self._under_way.discard(reading)
        self._places.give()
        self._used_at = self._clock()
        if not reading.cancelled():
            reading.exception()  # where the caller left, nobody else takes note of it

    def _left(self, deadline: float) -> float:
        return max(0.0, deadline - self._clock())

    async def _read(self, command: Command, deadline: float, after: bytes | None) -> Reply:
        packed = pack_whole(command, command.sizes.reply, alone=True)
        data = packed.data
        for _ in range(_TRIES):
            reply = await self._send(data, deadline, after)
            if reply == ELSEWHERE:
                reply = await self._send(pack_hgetall(command.key), deadline, after)
                if _size(reply) > command.sizes.reply:
                    raise TooLarge(TOO_LARGE)  # it grew meanwhile, or was too near to tell
            if not isinstance(reply, Fault):
                return cast(Reply, reply)
            if reply is EXPIRED:
                raise _late()
            if reply is OVERSIZED:
                raise TooLarge(TOO_LARGE)
            if isinstance(reply, ErrorReply):
                what, failure, message = reaction(reply)
                if what is not Reaction.SCRIPT:
                    raise failure(message.format(sizes=command.sizes))
                data = packed.with_script()
        raise RedisUnavailable("The connection for large values was lost.")

    async def _send(self, data: bytes, deadline: float, after: bytes | None) -> Reply | Fault:
        """Return what comes of a command, however late: until then its reply is under way."""
        try:
            async with asyncio.timeout(self._left(deadline)):
                await self.link.ready()
        except TimeoutError:
            return EXPIRED
        now = self._clock()
        if now >= deadline:
            return EXPIRED
        return cast(Reply | Fault, await self.link.send(data, now + _LONG, after=after))


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("A large value did not arrive in time.")


def _size(reply: object) -> int:
    """Return what counts of a hash, see `ports.SizeLimits`; 0 for anything else."""
    if isinstance(reply, dict):  # as RESP3 has it
        fields, texts = len(reply), [*reply, *reply.values()]
    elif isinstance(reply, list):
        fields, texts = len(reply) // 2, reply
    else:
        return 0
    try:
        return sum(map(len, texts)) - (UNCOUNTED * fields if fields > MANY_FIELDS else 0)
    except TypeError:
        return 0  # whoever reads it says that it does not fit
