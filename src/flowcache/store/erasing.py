"""Erasing: every key of a pattern, on every primary, until none is left.

The rules:

1. *Passes.* A pass walks all primaries with SCAN, which names each key that is there from the
   beginning of a walk to its end. What it names is removed at once.
2. *It is over after a pass that found nothing while nothing moved*, and not after one that removed
   all that it found: a key may have been written, or have moved, behind its back. Nothing moved
   when before and after the pass the primaries were the same, all of them were of one mind about
   the slots and their epochs, and none gave or took a slot.
3. *One connection a walk.* A cursor means nothing to another server, nor to the same one after a
   restart. So the connections of a pass are those that are asked about the slots at its end: one
   that was lost on the way spoils the pass, and the next one begins with what is there then.
4. *Removed where it lives.* UNLINK goes key by key through the store, pipelined, which follows
   redirections and failovers. Where it fails, the next pass finds the key if it is still there.
5. *Gentle.* A step is a SCAN that looks at some `_LOOK` keys, or at most `_BATCH` UNLINKs, whose
   memory the server frees beside its work. After each step its server has `_REST` times as long for
   its callers.
6. *Bounded.* `_PASSES` whole passes, and a minute in which none comes to its end.

Known weaknesses: a slot that began to move and was given back within one pass, with keys left on
the other side, isn't noticed. And Redis replicates afterwards: what was removed is back when a
primary dies before its replica heard of it, unless `redis.confirm_replicas` says to wait for that.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple, TypeVar

from msgspec import structs
from redis.asyncio.connection import AbstractConnection

from flowcache.authz.keys import KeyPattern
from flowcache.errors import Conflict, DeadlineExceeded, Forbidden, RedisUnavailable, Unconfirmed
from flowcache.ports import RESERVED_PREFIX, Clock, Command, Done
from flowcache.store.connection import ConnectFault, NotPermitted, ask, close, connect
from flowcache.store.discovery import discover
from flowcache.store.redis_store import RedisStore
from flowcache.store.settings import ReadFrom, StoreSettings
from flowcache.store.topology import Kind, Topology, from_cluster_nodes

__all__ = ["Erasure"]

_LOOK = 500
_BATCH = 100
_REST = 4.0
_PASSES = 10
_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0)
"""Seconds after a pass that did not come to its end: a failover may take most of them together."""

_GLOB = re.compile(rb"[*?\[\]\\]")
"""What means something to MATCH."""

_T = TypeVar("_T")
_Take = Callable[[Sequence[bytes]], Awaitable[int]]
_Owners = frozenset[tuple[str, ...]]


class _Pass(NamedTuple):
    """What a pass met: how many keys, and whether nothing moved meanwhile."""

    keys: int
    is_still: bool


class Erasure:
    """The keys that ``pattern`` means behind ``prefix``: counted, or removed.

    An instance is used once. Its numbers are true at any time, also after it was cancelled;
    ``watch`` is called whenever they changed, ``rest`` to let a server be for so many seconds.
    """

    def __init__(
        self,
        settings: StoreSettings,
        prefix: bytes,
        pattern: KeyPattern,
        clock: Clock,
        watch: Callable[[], object] = lambda: None,
        rest: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.removed = 0
        """Keys that Redis said it removed."""
        self.passes = 0
        """Passes that have begun."""
        self.looked_at = 0
        """About how many keys this pass has looked at."""
        self.size = 0
        """About how many there are."""
        self._settings = structs.replace(settings, read_from=ReadFrom.PRIMARY, stale_reads=False)
        self._name = prefix + pattern.name
        self._is_beginning = pattern.is_beginning
        self._glob = _GLOB.sub(rb"\\\g<0>", self._name) + b"*"
        # Without a namespace nothing of flowcache's own is anybody's key.
        self._spared = b"" if prefix else RESERVED_PREFIX
        self._clock = clock
        self._watch = watch
        self._rest = rest
        self._is_confirmed = True
        """Whether replicas said in time of all keys that they are gone, where that is asked."""
        self._store: RedisStore

    async def count(self, show: Callable[[bytes], None] = lambda key: None) -> tuple[int, bool]:
        """Return how many keys there are, and whether none can have been missed.

        ``show`` is given each name. One that Redis names twice, as it may while a table of it
        grows, is counted twice.

        Raises:
            Failure: see `erase`.
        """

        async def take(keys: Sequence[bytes]) -> int:
            for key in keys:
                show(key)
            return len(keys)

        async with self._open():
            return await self._pass(take)

    async def erase(self, show: Callable[[bytes], None] = lambda key: None) -> None:
        """Remove all keys there are; when it returns, a whole pass has found none.

        ``show`` is given the name of each that was removed.

        Raises:
            Forbidden: Redis forbids flowcache's user what it takes.
            RedisUnavailable: a server was not to be reached for too long.
            Conflict: there was something to remove in each of many passes.
            Unconfirmed: none is left on the primaries; their replicas did not say so of all.
        """

        async def take(keys: Sequence[bytes]) -> int:
            return await self._remove(keys, show)

        async with self._open():
            for _ in range(_PASSES):
                met, is_still = await self._pass(take)
                if not met and is_still:
                    break
            else:
                why = "keys are still being written" if is_still else "slots are still moving"
                raise Conflict(f"After {_PASSES} passes {why}.")
        if not self._is_confirmed:
            raise Unconfirmed("No primary has any left, but replicas did not confirm it in time.")

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        self._store = RedisStore(self._settings, self._clock)
        try:
            await self._store.start()
            yield
        finally:
            await self._store.close()

    # -- a pass -----------------------------------------------------------------------------------

    async def _pass(self, take: _Take) -> _Pass:
        """Make a pass that comes to its end, in as many attempts as it takes."""
        for pause in (*_PAUSES, None):
            try:
                return await self._attempt(take)
            except NotPermitted as fault:
                raise Forbidden(f"{fault}.") from None
            except (ConnectFault, RedisUnavailable, DeadlineExceeded) as fault:
                if pause is None:
                    raise RedisUnavailable(f"Redis can't be searched: {fault}") from None
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt has no pause")

    async def _attempt(self, take: _Take) -> _Pass:
        async with self._primaries() as (topology, connections):
            self.passes += 1
            self.looked_at = 0
            self.size = sum([await ask(each, "DBSIZE") for each in connections])
            before = await _owners(topology.kind, connections)
            if self._is_beginning:
                walks = (self._walk(each, take) for each in connections)
                keys = sum(_results(await asyncio.gather(*walks, return_exceptions=True)))
            else:
                keys = await self._look_up(take)
            after = await _owners(topology.kind, connections)
            now = await discover(self._settings)
        is_same = [s.primary for s in now.shards] == [s.primary for s in topology.shards]
        return _Pass(keys, before is not None and before == after and is_same)

    @asynccontextmanager
    async def _primaries(self) -> AsyncIterator[tuple[Topology, list[AbstractConnection]]]:
        """Connect to all primaries there are now."""
        topology = await discover(self._settings)
        async with AsyncExitStack() as stack:
            connections = []
            for shard in topology.shards:
                name = topology.names.get(shard.primary)
                connections.append(await connect(shard.primary, self._settings, server_name=name))
                stack.push_async_callback(close, connections[-1])
            yield topology, connections

    async def _walk(self, connection: AbstractConnection, take: _Take) -> int:
        """Hand every key that a server holds to ``take``; return how many it took."""
        taken, cursor = 0, b"0"
        while True:
            async with self._gently():
                cursor, names = await ask(
                    connection, "SCAN", cursor, "MATCH", self._glob, "COUNT", _LOOK
                )
            keys = [name for name in names if self._covers(name)]
            for first in range(0, len(keys), _BATCH):
                async with self._gently():
                    taken += await take(keys[first : first + _BATCH])
            self.looked_at += _LOOK
            self._watch()
            if int(cursor) == 0:
                return taken

    async def _look_up(self, take: _Take) -> int:
        """Hand the one key to ``take`` if it is there."""
        found = await self._store.execute(Command((b"EXISTS", self._name)), self._soon())
        return await take([self._name]) if found.reply else 0

    def _covers(self, key: bytes) -> bool:
        return key.startswith(self._name) and not (self._spared and key.startswith(self._spared))

    async def _remove(self, keys: Sequence[bytes], show: Callable[[bytes], None]) -> int:
        """Remove ``keys``; return how many there were.

        Raises:
            Failure: one could not be removed; the others were tried, too.
        """
        commands = (Command((b"UNLINK", key), writes=True) for key in keys)
        deadline = self._soon()
        results = await asyncio.gather(
            *(self._store.execute(command, deadline) for command in commands),
            return_exceptions=True,
        )
        removed = 0
        for key, result in zip(keys, results, strict=True):
            if isinstance(result, Done) and result.reply == 1:
                removed += 1
                show(key)
        self.removed += removed
        # The next pass tells whether the primary did it.
        late = [result for result in results if isinstance(result, Unconfirmed)]
        self._is_confirmed = self._is_confirmed and not late
        self._watch()
        _results([result for result in results if not isinstance(result, Unconfirmed)])
        return removed + len(late)

    def _soon(self) -> float:
        return self._clock() + self._settings.reply_timeout

    @asynccontextmanager
    async def _gently(self) -> AsyncIterator[None]:
        began = self._clock()
        yield
        await self._rest((self._clock() - began) * _REST)


async def _owners(kind: Kind, connections: Sequence[AbstractConnection]) -> _Owners | None:
    """Return who owns which slots; None while nodes differ about it, or slots move.

    Raises:
        ConnectFault: a connection is gone.
    """
    if kind is not Kind.CLUSTER:
        for each in connections:
            await ask(each, "PING")
        return frozenset()
    try:
        views = [from_cluster_nodes(await ask(each, "CLUSTER", "NODES")) for each in connections]
    except ValueError as fault:
        raise ConnectFault(str(fault)) from None
    owners = {view.owners for view in views}
    return owners.pop() if len(owners) == 1 and not any(v.is_moving for v in views) else None


def _results(ended: Sequence[_T | BaseException]) -> list[_T]:
    """Return what all came to; of those that failed raise one, first what can't be tried again."""
    faults = [each for each in ended if isinstance(each, BaseException)]
    if faults:
        again = (ConnectFault, RedisUnavailable, DeadlineExceeded)
        raise min(faults, key=lambda fault: isinstance(fault, again))
    return [each for each in ended if not isinstance(each, BaseException)]
