"""A connection for large replies: one a server, opened when the first is wanted.

A link answers in order, so a large reply delays all that are behind it: here it delays other large
ones only. At most `_IN_FLIGHT` replies are under way, which bounds the memory that they take, and
the connection is closed when nobody used it for a while. A failure concerns its caller alone: no
circuit hears of it (`ports.Large`), and no other connection is reset.
"""

from __future__ import annotations

import asyncio

from flowcache.errors import DeadlineExceeded, RedisUnavailable, TooLarge
from flowcache.ports import Clock, Command, Reply
from flowcache.store.commands import pack_whole
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
"""How many replies may be under way at once. Further reads wait for their turn."""
_TRIES = 3
_IDLE = 10.0
"""Seconds without a read after which the connection is closed."""


class Bulk:
    """The connection for large replies of one server. Created inside a running event loop."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self.link = link
        self._clock = clock
        self._room = asyncio.Semaphore(_IN_FLIGHT)
        self._readers = 0
        self._used_at = clock()

    def is_idle(self, now: float) -> bool:
        """Tell whether it is time to close it."""
        return not self._readers and now - self._used_at > _IDLE

    async def read(self, command: Command, deadline: float, after: bytes | None) -> Reply:
        """Return the whole value that ``command`` reads, as far as its limit allows.

        ``after`` is a command that has to stand right before it.

        Raises:
            Failure: as `ports.Executor.execute`.
        """
        self._readers += 1
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock())), self._room:
                reply = await self._read(command, deadline, after)
        except TimeoutError:
            raise DeadlineExceeded("A large value did not arrive in time.") from None
        finally:
            self._readers -= 1
            self._used_at = self._clock()
        if type(reply) is int:
            raise TooLarge(TOO_LARGE)
        return reply

    async def _read(self, command: Command, deadline: float, after: bytes | None) -> Reply:
        packed = pack_whole(command, command.sizes.reply)
        data = packed.data
        for _ in range(_TRIES):
            await self.link.ready()
            reply = await self.link.send(data, deadline, after=after)
            if not isinstance(reply, Fault):
                return reply
            if reply is EXPIRED:
                raise DeadlineExceeded("A large value did not arrive in time.")
            if reply is OVERSIZED:
                raise TooLarge(TOO_LARGE)
            if isinstance(reply, ErrorReply):
                what, failure, message = reaction(reply)
                if what is not Reaction.SCRIPT:
                    raise failure(message.format(sizes=command.sizes))
                data = packed.with_script()
        raise RedisUnavailable("The connection for large values was lost.")
