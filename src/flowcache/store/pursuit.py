"""The pursuit of a reply: what happens to a command when something else came back.

On nearly every call a reply comes back and nothing here runs. Otherwise `Pursuit.follow` decides by
the class of the fault, and for an error reply by a table (`replies.REACTIONS`), whether to send
again. The rules of sending again:

- at most `TRIES` times in all, but for a slot on the move, which is tried until the deadline;
- never past the deadline;
- what was not executed (a redirection, a refusal, a command that never left) may be sent again;
- a *write whose fate is unknown* is never sent again by itself, unless it carries a `Once`;
- a read may be, since it changes nothing: it waits for its link for half of what time is left,
  unless the shard has a fallback, which the guard then asks at once;
- what is sent again because a server failed, and not because it redirected, takes from a budget:
  an outage must not be multiplied.

Known weakness: a read that was sent to another server is not hedged there. Who could be asked
beside it, the shard's fallback, is of the shard that sent it away, and would send it there again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import NamedTuple

import structlog

from flowcache.budget import Budget
from flowcache.errors import AnsweredLate, DeadlineExceeded, Declined, RedisUnavailable
from flowcache.ports import Clock, Command, Reply, unanswered
from flowcache.store.commands import ASKING, Packed
from flowcache.store.link import Link, LinkState
from flowcache.store.replies import (
    FULL,
    OVERSIZED,
    REACTIONS,
    ErrorReply,
    Fault,
    LostReply,
    Reaction,
    SlowReply,
    reaction,
)
from flowcache.store.routes import Routes
from flowcache.store.settings import Address
from flowcache.store.slots import SLOTS
from flowcache.store.topology import Kind, address_of

__all__ = ["TRIES", "Means", "Pursuit", "Refusals"]

TRIES = 3
_AGAIN_DELAY = 0.02
"""Seconds before a command is sent again that met a moving slot."""
_LOG_AGAIN = 10.0
"""Seconds before the same refusal is logged again."""
_MOST_CODES = 64
"""Codes come from the server, and may be anything."""

_log = structlog.get_logger(__name__)


class Refusals:
    """Log that Redis refuses, and not each time: it refuses most when it is worst off."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._logged: dict[str, float] = {}

    def note(self, code: str, address: Address) -> None:
        """Log a refusal, unless one with the same code was logged a moment ago."""
        now = self._clock()
        if now - self._logged.get(code, -_LOG_AGAIN) >= _LOG_AGAIN:
            if len(self._logged) > _MOST_CODES:
                self._logged.clear()
            self._logged[code] = now
            _log.warning("redis refused", address=str(address), code=code)


class Means(NamedTuple):
    """What every pursuit of a store works with."""

    routes: Routes
    retries: Budget
    refusals: Refusals
    clock: Clock


class Pursuit:
    """One command on its way to a reply.

    ``link`` is where it was sent last, right behind the command ``after`` if there is one. Nothing
    is sent after ``deadline``; the reply to what was sent is awaited until ``until``, which is
    ``deadline`` by default. Without ``patience`` nothing is waited for and nothing sent again after
    a failure: somebody else can be asked, or this was the somebody else.
    """

    __slots__ = (
        "_command",
        "_data",
        "_means",
        "_packed",
        "_tries",
        "_until",
        "after",
        "deadline",
        "link",
        "patience",
    )

    def __init__(
        self,
        means: Means,
        command: Command,
        packed: Packed,
        link: Link,
        deadline: float,
        *,
        patience: bool,
        after: bytes | None = None,
        until: float | None = None,
    ) -> None:
        self.link = link
        self._means = means
        self._command = command
        self._packed = packed
        self._data = packed.data
        self.after = after
        self.deadline = deadline
        self._until = deadline if until is None else until
        self.patience = patience
        self._tries = 1

    async def follow(self, fault: Fault) -> Reply:
        """Follow what came in place of a reply until there is one, or raise why there is none."""
        while True:
            if isinstance(fault, SlowReply):
                reply = await fault.rest
            else:
                await self._prepare(fault)
                if self._means.clock() >= self.deadline:
                    raise DeadlineExceeded("Redis did not take the command in time.")
                reply = await self.link.send(self._data, self._until, after=self.after)
            if not isinstance(reply, Fault):
                return reply
            fault = reply

    async def _prepare(self, fault: Fault) -> None:
        """Make ready to send again, or raise why not."""
        if isinstance(fault, ErrorReply):
            await self._on_error(fault)
        elif isinstance(fault, LostReply):
            await self._on_loss(fault)
        elif fault is OVERSIZED:
            # Nothing that is asked for on a link is large: it is not the answer to what was asked.
            unsure = self._command.writes and not self._command.is_repeatable
            raise RedisUnavailable(
                "Redis sent a reply that can't be right"
                + ("; whether the write was done is unknown." if unsure else "."),
                retryable=not unsure,
            )
        elif fault is FULL:
            raise Declined("Too many calls wait for Redis; this one was not sent.")
        else:
            raise unanswered(self._command)

    async def _on_error(self, error: ErrorReply) -> None:
        what, failure, message = reaction(error)
        if what is Reaction.ANSWER:
            raise failure(message.format(sizes=self._command.sizes))
        if what is Reaction.REFUSE:
            self._means.refusals.note(error.code, self.link.address)
            # What nobody foresaw may have come after a part of the write was done.
            unsure = error.code not in REACTIONS and not self._command.is_repeatable
            raise failure(message, retryable=False if unsure else None)
        if what is Reaction.AGAIN:  # there, and as it was: elsewhere it would be led back here
            self._means.routes.refresh_soon()
            left = self.deadline - self._means.clock()
            if left <= _AGAIN_DELAY:
                raise failure(message)
            await asyncio.sleep(_AGAIN_DELAY)
            return
        if self._tries >= TRIES:
            raise failure(message)
        self._tries += 1
        if what is Reaction.SCRIPT and self._packed.script is None:  # it was sent none
            self._means.refusals.note(error.code, self.link.address)
            raise failure(message)
        if what is Reaction.SCRIPT:
            if self._means.clock() >= self.deadline:
                raise AnsweredLate("Redis did not take the command in time.")
            self._data = self._packed.with_script()
            return
        if what is Reaction.REFRESH and not self._may_retry():
            self._means.routes.refresh_soon()
            raise failure(message)
        await self._redirect(what, error)

    async def _redirect(self, what: Reaction, error: ErrorReply) -> None:
        """Find the link to send to next, and what has to stand before the command there."""
        routes = self._means.routes
        routes.refresh_soon()
        self.after = ASKING if what is Reaction.ASK else None
        if what is Reaction.REFRESH:
            await self._within(routes.next_refresh(), self._halfway())
            self.link = self._home()
        else:
            if routes.kind is not Kind.CLUSTER:
                # Only a cluster redirects: nobody else may send us, and our password, elsewhere.
                raise RedisUnavailable("Redis redirects, and is not a cluster.")
            slot, address = _redirect_target(error, self.link)
            moved = what is Reaction.MOVED
            self.link = routes.moved(slot, address) if moved else routes.redirected(address)
        if self.link.state is LinkState.CONNECTING:  # just made: give it the time to connect
            await self._within(self.link.settled(), self._halfway())

    async def _on_loss(self, loss: LostReply) -> None:
        message = "The connection to Redis was lost"
        if loss.sent and not self._command.is_repeatable:
            raise RedisUnavailable(
                f"{message}; whether the write was done is unknown.", retryable=False
            )
        # What never left, and finds no connection, fails at once: nothing is queued.
        unsent = not loss.sent and self.link.state is not LinkState.READY
        if self._tries >= TRIES or unsent or not self._may_retry():
            raise RedisUnavailable(f"{message}.")
        self._tries += 1
        self.link, self.after = self._home(), None
        await self._within(self.link.ready(), self._halfway())

    def _home(self) -> Link:
        """Return the link that leads to the key now."""
        shard = self._means.routes.shard(self._command.key)
        return shard.writer if self._command.writes else shard.primary

    def _may_retry(self) -> bool:
        return self.patience and self._means.retries.withdraw(self._means.clock())

    def _halfway(self) -> float:
        now = self._means.clock()
        return now + (self.deadline - now) / 2

    async def _within(self, what: Awaitable[object], deadline: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, deadline - self._means.clock())):
                await what
        except TimeoutError:
            pass  # the send that follows says what is wrong


def _redirect_target(error: ErrorReply, link: Link) -> tuple[int, Address]:
    """Read slot and address of a MOVED or ASK: ``MOVED 3999 127.0.0.1:6381``.

    Raises:
        RedisUnavailable: it is none that makes sense.
    """
    try:
        _, slot, place = error.text.split()
        host, _, port = place.rpartition(":")
        if 0 <= int(slot) < SLOTS:
            return int(slot), address_of(host.strip("[]"), port, link.address)
    except ValueError:
        pass
    raise RedisUnavailable("Redis redirects to nowhere.")
