"""The store: pack a command, send it where its key lives, return the reply.

`routes` knows where that is; `pursuit` takes over when something else than a reply comes back.

A read of a value is bounded. Its first command asks for at most `commands.SMALL` bytes. When the
reply is not the whole value, `_finish` goes on. GETRANGE replies with nothing both for a missing
key and for an empty string: a script that reads the value tells which. That second command is
hedged as the first is. A value that is larger is fetched over a connection of its own (`bulk`), or
refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Set
from functools import partial
from typing import Any, NamedTuple

from flowcache.budget import Budget
from flowcache.errors import (
    AnsweredLate,
    DeadlineExceeded,
    Failure,
    InvalidRequest,
    RedisUnavailable,
    TooLarge,
    Unconfirmed,
)
from flowcache.executing import Executor, Heard, Receiver, Shard, Store, Tasks, whole
from flowcache.ports import Clock, Command, Done, Large, Reply, Slow
from flowcache.status import ShardStatus, StoreStatus
from flowcache.store.commands import (
    ELSEWHERE,
    PING,
    Packed,
    pack,
    pack_wait,
    pack_whole,
)
from flowcache.store.deadlines import Listener
from flowcache.store.link import Link, LinkState
from flowcache.store.pursuit import Means, Pursuit, Refusals
from flowcache.store.replies import TOO_LARGE, ErrorReply, Fault, SlowReply
from flowcache.store.routes import OnBack, Routes, ShardRoute
from flowcache.store.settings import StoreSettings
from flowcache.store.slots import key_slot, tags

__all__ = ["RedisStore"]


_SCATTERED = (
    "The keys of this call are in different slots, and Redis runs a command within one slot. "
    "Give them a hash tag in common: of {customer:42}:name and {customer:42}:tier only what stands "
    "between the braces decides about the slot."
)


class _Reading(NamedTuple):
    """A read of a value whose first command was answered: what is known of it.

    ``packed`` is that command; ``link`` is where its reply came from, and ``after`` what has to
    stand before a command there. For ``patience`` see `Pursuit`; for ``shard`` and ``stale`` see
    `Done`.
    """

    command: Command
    shard: str
    packed: Packed
    link: Link
    after: bytes | None
    deadline: float
    patience: bool
    stale: bool = False


class _Sent(Listener):
    """A command that was sent, and who wants to hear what comes of it."""

    __slots__ = (
        "command",
        "deadline",
        "link",
        "packed",
        "receiver",
        "shard",
        "slow_at",
        "store",
        "until",
    )

    def __init__(
        self,
        store: RedisStore,
        shard: ShardRoute,
        command: Command,
        packed: Packed,
        link: Link,
        deadline: float,
        until: float,
        slow_at: float | None,
        receiver: Receiver,
    ) -> None:
        self.store = store
        self.shard = shard
        self.command = command
        self.packed = packed
        self.link = link
        self.deadline = deadline
        self.until = until
        self.slow_at = slow_at
        self.receiver = receiver

    def hear(self, result: Any) -> None:
        most = self.packed.most
        if (
            not isinstance(result, Fault)
            if most is None
            else result.__class__ is bytes and 0 < len(result) <= most
        ):
            self.receiver.hear(Done(result, self.shard.name))
        else:
            self.store.go_on(self, result)

    def fail(self, bug: Exception) -> None:
        self.receiver.hear(bug)


class RedisStore(Store, Executor):
    """A Redis of any topology. Created inside a running event loop; start it, then close it."""

    def __init__(
        self,
        settings: StoreSettings,
        clock: Clock,
        on_back: OnBack = lambda shard, accesses: None,
        listened: Clock | None = None,
    ) -> None:
        """``listened`` is the clock that replies are judged by; ``clock`` where nobody watches."""
        self._listened = listened or clock
        self._routes = Routes(settings, clock, on_back, self._listened)
        self._retries = Budget(settings.retry_share)
        self._confirm = settings.confirm_replicas
        self._clock = clock
        self._means = Means(self._routes, self._retries, Refusals(clock), clock)
        self._tasks = Tasks()

    def shard(self, command: Command) -> ShardRoute:
        """Return the shard that holds the keys of ``command``; see `Store.shard`."""
        if len(command.keys) > 1 and len(set(map(key_slot, command.all_keys()))) > 1:
            raise InvalidRequest(_SCATTERED)
        return self._routes.shard(command.key)

    def shards(self) -> Set[str]:
        """Return the names of all shards there are."""
        return self._routes.shards.keys()

    async def execute(self, command: Command, deadline: float) -> Done:
        """Run ``command`` where its keys live; an `Executor` without a guard."""
        shard = self.shard(command)
        return await whole(shard.name, self.execute_at(shard, command, deadline))

    def submit(self, command: Command, deadline: float, receiver: Receiver) -> None:
        """Run ``command``, as `execute`."""
        self._tasks.tell(receiver, self.execute(command, deadline))

    def submit_at(
        self,
        shard: Shard,
        command: Command,
        deadline: float,
        receiver: Receiver,
        slow_at: float | None = None,
        wait_until: float | None = None,
    ) -> None:
        """Run ``command``; see `Store.submit_at`."""
        assert isinstance(shard, ShardRoute)
        self._retries.deposit()
        packed = pack(command)
        until = deadline if wait_until is None else wait_until
        if command.writes:
            if self._confirm:
                rest = self._confirmed(shard, command, packed, deadline, until)
                self._tasks.tell(receiver, rest)
                return
            link = shard.primary
        else:
            link = shard.reader()
            if shard.is_demoted:
                self._tasks.tell(receiver, self._read_at(shard, link, command, deadline))
                return
        sent = _Sent(self, shard, command, packed, link, deadline, until, slow_at, receiver)
        link.submit(sent, packed.data, until, slow_at=slow_at)

    def go_on(self, sent: _Sent, result: Any) -> None:
        """Go on with a command whose first reply was not all: a fault, or a part of a value."""
        heard: Heard | None
        try:
            heard = self._next(sent, result)
        except Failure as failure:
            heard = failure
        if heard is not None:
            sent.receiver.hear(heard)

    def _next(self, sent: _Sent, result: Any) -> Done | Slow | Large | None:
        """Return what came of a command; None: that has to be waited for."""
        command, packed, shard, deadline = sent.command, sent.packed, sent.shard, sent.deadline
        if packed.is_unclear(result):
            sent.packed = packed = self._ask_whole(command, packed, deadline)
            sent.link.submit(sent, packed.data, sent.until, slow_at=sent.slow_at)
            return None
        link, until = sent.link, sent.until
        patience = command.writes or not shard.has_fallback()
        if not isinstance(result, Fault):
            reading = _Reading(command, shard.name, packed, link, None, deadline, patience)
            return self._whole(reading, packed, result)
        pursuit = Pursuit(
            self._means, command, packed, link, deadline, patience=patience, until=until
        )
        rest = self._follow(pursuit, shard.name, command, packed, result)
        if isinstance(result, SlowReply):
            return Slow(rest)
        self._tasks.tell(sent.receiver, rest)
        return None

    async def _follow(
        self, pursuit: Pursuit, shard: str, command: Command, packed: Packed, fault: Fault
    ) -> Done | Large:
        """Return what comes of a command when ``fault`` came in place of a reply."""
        reply = await pursuit.follow(fault)
        if packed.most is None:
            return Done(reply, shard)
        link, after, deadline = pursuit.link, pursuit.after, pursuit.deadline
        reading = _Reading(command, shard, packed, link, after, deadline, pursuit.patience)
        return await self._finish(reading, reply)

    async def _finish(self, reading: _Reading, reply: Reply) -> Done | Large:
        """Return the value that is read, of which ``reply`` may be a part."""
        packed = reading.packed
        if packed.is_unclear(reply):
            packed = self._ask_whole(reading.command, packed, reading.deadline)
            reply = await self._ask_more(reading, packed)
        return self._whole(reading, packed, reply)

    def _whole(self, reading: _Reading, packed: Packed, reply: Reply) -> Done | Large:
        """Return the value that ``reply`` to ``packed`` is, or how to fetch it.

        Raises:
            TooLarge: it is larger than a read may return.
        """
        if reply.__class__ is list:
            return Done(_as_hash(reply), reading.shard, reading.stale)
        if reply.__class__ is bytes:
            size = len(reply)
        elif reply.__class__ is int:
            size = reply
        else:
            return Done(reply, reading.shard, reading.stale)
        if size != ELSEWHERE:
            if size <= (packed.most or 0):
                return Done(reply, reading.shard, reading.stale)
            if size > reading.command.sizes.reply:
                raise TooLarge(TOO_LARGE)
        return Large(partial(self._fetch, reading))

    def _ask_whole(self, command: Command, packed: Packed, deadline: float) -> Packed:
        """Return the second command of a read whose first one, ``packed``, had an unclear reply.

        Raises:
            AnsweredLate: it is too late to send it.
        """
        if self._clock() >= deadline:
            raise AnsweredLate("Redis did not answer all of it in time.")
        return pack_whole(command, packed.most or 0)

    async def _ask_more(self, reading: _Reading, packed: Packed) -> Reply:
        """Send a further command about the key where the first one was answered."""
        link, after, deadline = reading.link, reading.after, reading.deadline
        reply = await link.send(packed.data, deadline, after=after)
        if not isinstance(reply, Fault):
            return reply
        command, patience = reading.command, reading.patience
        return await Pursuit(
            self._means, command, packed, link, deadline, patience=patience, after=after
        ).follow(reply)

    async def _fetch(self, reading: _Reading) -> Done:
        """Return a large value, from the server where the first command was answered."""
        bulk = self._routes.bulk(reading.link)
        reply = await bulk.read(reading.command, reading.deadline, reading.after)
        whole = _as_hash(reply) if reply.__class__ is list else reply
        return Done(whole, reading.shard, reading.stale)

    async def _confirmed(
        self, shard: ShardRoute, command: Command, packed: Packed, deadline: float, until: float
    ) -> Done:
        """Run a write, and answer when enough replicas have it.

        Raises:
            Failure: as for any write; or it is done, and not confirmed in time.
        """
        link = shard.writer
        reply, replicas = link.send(packed.data, until), self._wait(link, until)
        done = await reply
        if isinstance(done, Fault):
            pursuit = Pursuit(
                self._means, command, packed, link, deadline, patience=True, until=until
            )
            try:
                done = await pursuit.follow(done)
            except DeadlineExceeded as late:
                if shard.primary.is_stuck(self._listened()):
                    raise
                # What stood in its way was the wait of a write before it.
                raise Unconfirmed(late.message, retryable=late.retryable) from None
            replicas = self._wait(pursuit.link, until)  # what was waited for is not what is done
        confirmed = await replicas
        if type(confirmed) is int and confirmed >= self._confirm:
            return Done(done, shard.name)
        raise Unconfirmed(
            "Redis did the write, but its replicas did not confirm in time that they have it.",
            retryable=command.is_repeatable,
        )

    def _wait(self, link: Link, deadline: float) -> Awaitable[Reply | Fault]:
        """Ask for how many replicas have what was written on ``link``, before the deadline."""
        # Zero would be for ever. The answer needs a moment to come back, too.
        milliseconds = max(1, int((deadline - self._clock()) * 900))
        return link.send(pack_wait(self._confirm, milliseconds), deadline)

    async def read_elsewhere(self, shard: Shard, command: Command, deadline: float) -> Done | Large:
        """Have the fallback of ``shard`` answer; see `Store.read_elsewhere`."""
        assert isinstance(shard, ShardRoute)
        link = shard.fallback()
        if link is None:
            raise RedisUnavailable("Redis is not to be reached.")
        return await self._read_at(shard, link, command, deadline)

    async def _read_at(
        self, shard: ShardRoute, link: Link, command: Command, deadline: float
    ) -> Done | Large:
        """Have a certain server of ``shard`` answer, and say if that may be old."""
        packed = pack(command)
        reply = await link.send(packed.data, deadline)
        after = None
        if isinstance(reply, Fault):
            pursuit = Pursuit(self._means, command, packed, link, deadline, patience=False)
            reply, link, after = await pursuit.follow(reply), pursuit.link, pursuit.after
        stale = shard.is_stale(link)
        if packed.most is None:
            return Done(reply, shard.name, stale)
        reading = _Reading(command, shard.name, packed, link, after, deadline, False, stale)
        return await self._finish(reading, reply)

    # -- health -----------------------------------------------------------------------------------

    async def ping(self, deadline: float) -> None:
        """Pass when every primary answers, on each link that leads to it.

        Raises:
            LockedOut: one refuses our user or password, or the file of it can't be read.
            TlsFailed: one does not accept our certificate, or we don't accept its.
            RedisUnavailable: one does not answer.
        """
        shards = tuple(self._routes.shards.values())
        if not shards:
            raise self._routes.failure(self._routes.fault or "Redis is unreachable.")
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
        tags()  # worked out now, while nobody waits
        await self._routes.start()

    async def close(self) -> None:
        """Close every link. Whoever still waits is told."""
        await self._routes.close()


def _as_hash(reply: list[Reply]) -> Reply:
    """Return the hash that a flat list of names and values is; of another list, the list."""
    try:
        return dict(zip(reply[::2], reply[1::2], strict=True))
    except (TypeError, ValueError):
        return reply  # whoever reads it says that it does not fit
