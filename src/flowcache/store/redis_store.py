"""The store: pack a command, send it where its key lives, return the reply.

`routes` knows where that is; `pursuit` takes over when something else than a reply comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Set

from flowcache.budget import Budget
from flowcache.errors import DeadlineExceeded, RedisUnavailable, Unconfirmed
from flowcache.ports import Clock, Command, Reply, Slow, Stale
from flowcache.status import ShardStatus, StoreStatus
from flowcache.store.commands import PING, Packed, pack, pack_wait
from flowcache.store.link import Link, LinkState
from flowcache.store.pursuit import Means, Pursuit, Refusals, is_repeatable
from flowcache.store.replies import ErrorReply, Fault, SlowReply
from flowcache.store.routes import OnBack, Routes, ShardRoute
from flowcache.store.settings import StoreSettings

__all__ = ["RedisStore"]


class RedisStore:
    """A Redis of any topology. Created inside a running event loop; start it, then close it."""

    def __init__(
        self,
        settings: StoreSettings,
        clock: Clock,
        on_back: OnBack = lambda shard, accesses: None,
    ) -> None:
        self._routes = Routes(settings, clock, on_back)
        self._retries = Budget(settings.retry_share)
        self._confirm = settings.confirm_replicas
        self._clock = clock
        self._means = Means(self._routes, self._retries, Refusals(clock), clock)

    def shard(self, key: bytes) -> ShardRoute:
        """Return the shard that holds ``key``.

        Raises:
            RedisUnavailable: no shard is known to hold it.
        """
        return self._routes.shard(key)

    def shards(self) -> Set[str]:
        """Return the names of all shards there are."""
        return self._routes.shards.keys()

    async def execute(self, command: Command, deadline: float) -> Reply:
        """Run ``command`` where its key lives; a `ports.Executor` without a guard."""
        return await self.execute_at(self.shard(command.key), command, deadline)

    async def execute_at(
        self, shard: ShardRoute, command: Command, deadline: float, slow_at: float | None = None
    ) -> Reply | Slow:
        """Run ``command``; see `ports.Store.execute_at`."""
        self._retries.deposit()
        packed = pack(command)
        if command.writes:
            if self._confirm:
                return await self._confirmed(shard, command, packed, deadline)
            link = shard.primary
        else:
            link = shard.reader()
        reply = await link.send(packed.data, deadline, slow_at=slow_at)
        if isinstance(reply, Fault):
            patience = command.writes or not shard.has_fallback()
            pursuit = Pursuit(self._means, command, packed, link, deadline, patience=patience)
            rest = pursuit.follow(reply)
            return Slow(rest) if isinstance(reply, SlowReply) else await rest
        return reply

    async def _confirmed(
        self, shard: ShardRoute, command: Command, packed: Packed, deadline: float
    ) -> Reply:
        """Run a write, and answer when enough replicas have it.

        Raises:
            Failure: as for any write; or it is done, and not confirmed in time.
        """
        link = shard.writer
        reply, replicas = link.send(packed.data, deadline), self._wait(link, deadline)
        done = await reply
        if isinstance(done, Fault):
            pursuit = Pursuit(self._means, command, packed, link, deadline, patience=True)
            try:
                done = await pursuit.follow(done)
            except DeadlineExceeded as late:
                if shard.primary.is_stuck(self._clock()):
                    raise
                # What stood in its way was the wait of a write before it.
                raise Unconfirmed(late.message, retryable=late.retryable) from None
            replicas = self._wait(pursuit.link, deadline)  # what was waited for is not what is done
        confirmed = await replicas
        if type(confirmed) is int and confirmed >= self._confirm:
            return done
        raise Unconfirmed(
            "Redis did the write, but its replicas did not confirm in time that they have it.",
            retryable=is_repeatable(command),
        )

    def _wait(self, link: Link, deadline: float) -> Awaitable[Reply | Fault]:
        """Ask for how many replicas have what was written on ``link``, before the deadline."""
        # Zero would be for ever. The answer needs a moment to come back, too.
        milliseconds = max(1, int((deadline - self._clock()) * 900))
        return link.send(pack_wait(self._confirm, milliseconds), deadline)

    async def read_elsewhere(
        self, shard: ShardRoute, command: Command, deadline: float
    ) -> Reply | Stale:
        """Have the fallback of ``shard`` answer; see `ports.Store.read_elsewhere`."""
        link = shard.fallback()
        if link is None:
            raise RedisUnavailable("Redis is not to be reached.")
        packed = pack(command)
        reply = await link.send(packed.data, deadline)
        if isinstance(reply, Fault):
            pursuit = Pursuit(self._means, command, packed, link, deadline, patience=False)
            reply, link = await pursuit.follow(reply), pursuit.link
        return Stale(reply) if link in shard.replicas else reply

    # -- health -----------------------------------------------------------------------------------

    async def ping(self, deadline: float) -> None:
        """Pass when every primary answers, on each link that leads to it.

        Raises:
            LockedOut: one refuses our user or password, or the file of it can't be read.
            RedisUnavailable: one does not answer.
        """
        shards = tuple(self._routes.shards.values())
        if not shards:
            raise RedisUnavailable(self._routes.fault or "Redis is not to be reached.")
        links = [link for shard in shards for link in shard.essential()]
        replies = await asyncio.gather(*(link.send(PING, deadline) for link in links))
        for link, reply in zip(links, replies, strict=True):
            if reply != b"PONG":
                status = link.status()
                why = reply.code if isinstance(reply, ErrorReply) else status.fault
                raise link.failure(f"{status.address}: {why or 'no answer in time'}")

    def status(self) -> StoreStatus:
        """Return how the store does."""
        kind, shards = self._routes.kind, tuple(self._routes.shards.values())
        states = {link.state for shard in shards for link in shard.essential()}
        if states == {LinkState.READY}:
            status = LinkState.READY
        else:
            status = LinkState.RECONNECTING if kind else LinkState.CONNECTING
        return StoreStatus(
            status.value,
            kind.value if kind else None,
            self._routes.fault,
            tuple(
                ShardStatus(
                    shard.name,
                    shard.slots,
                    shard.primary.status(),
                    tuple(link.status() for link in shard.replicas),
                    None if shard.writer is shard.primary else shard.writer.status(),
                )
                for shard in shards
            ),
            self._retries.spent,
            self._retries.refused,
        )

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find out the topology and connect; Redis need not be up."""
        await self._routes.start()

    async def close(self) -> None:
        """Close every link. Whoever still waits is told."""
        await self._routes.close()
