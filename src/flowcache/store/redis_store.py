"""The store: find the server that holds a key, send, and react to what comes back.

How a call goes: `execute` packs the command, picks the link of the key's shard, sends, and on
nearly every call returns the reply. When something else came back, `_react` decides by a table
(`replies.REACTIONS`) whether to send again. The rules of sending again:

- at most `TRIES` times, and never past the deadline;
- what was not executed (a redirection, a refusal, a command that never left) may be sent again;
- a *write whose fate is unknown* is never sent again by itself, unless it carries a `Once`;
- a read may be, since it changes nothing.

Topology is refreshed on redirections, on lost links, on a refusal that says another server took
over, and every `refresh_interval` seconds; one refresh at a time (`_refresher`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

import structlog

from flowcache.errors import DeadlineExceeded, RedisUnavailable
from flowcache.ports import Clock, Command, Reply
from flowcache.status import ShardStatus, StoreStatus
from flowcache.store.commands import ASKING, PING, Packed, pack
from flowcache.store.connection import ConnectFault
from flowcache.store.deadlines import Deadlines
from flowcache.store.discovery import discover_within
from flowcache.store.link import Link, LinkState
from flowcache.store.replies import (
    EXPIRED,
    ErrorReply,
    Fault,
    LostReply,
    Reaction,
    reaction,
)
from flowcache.store.settings import Address, ReadFrom, StoreSettings
from flowcache.store.slots import SLOTS, key_slot
from flowcache.store.topology import Kind, ShardMap, Topology

__all__ = ["RedisStore"]

TRIES = 3
_AGAIN_DELAY = 0.02
"""Seconds before a command is sent again that met a moving slot."""
_REFRESH_PAUSE = 0.1
"""Seconds between two refreshes, so that a storm of redirections asks once."""
_WATCH_INTERVAL = 0.1
"""Seconds between two looks at the links for an overdue reply."""

_log = structlog.get_logger(__name__)


class _Shard:
    """A shard at run time: its primary's link and those of its replicas."""

    __slots__ = ("_turn", "name", "primary", "replicas", "slots")

    def __init__(self, shard: ShardMap, primary: Link, replicas: tuple[Link, ...]) -> None:
        # Named for its primary: a replica that takes over starts with a circuit of its own.
        self.name = str(shard.primary)
        self.slots = shard.slots
        self.primary = primary
        self.replicas = replicas
        self._turn = count()

    def reader(self) -> Link:
        """Return the next replica that is connected, or the primary where there is none."""
        ready = [link for link in self.replicas if link.state is LinkState.READY]
        return ready[next(self._turn) % len(ready)] if ready else self.primary


class RedisStore:
    """A Redis of any topology. Created inside a running event loop; start it, then close it."""

    def __init__(self, settings: StoreSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._read_replicas = settings.read_from is ReadFrom.REPLICA
        self._deadlines = Deadlines(asyncio.get_running_loop(), clock, EXPIRED)
        self._kind: Kind | None = None
        self._links: dict[tuple[Address, bool], Link] = {}
        self._shards: dict[str, _Shard] = {}
        self._home: list[_Shard | None] = [None]
        """The shard of each slot; outside a cluster the only shard, under 0."""
        self._slot_of: Callable[[bytes], int] = _everywhere
        self._fault: str | None = "flowcache has not connected yet"
        self._wish = asyncio.Event()
        self._refreshed = asyncio.Event()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._closing: set[asyncio.Task[None]] = set()

    # -- the way of a command -------------------------------------------------------------------

    def shard_of(self, key: bytes) -> str:
        shard = self._home[self._slot_of(key)]
        return shard.name if shard is not None else "unknown"

    async def execute(self, command: Command, deadline: float) -> Reply:
        packed = pack(command)
        shard = self._home[self._slot_of(command.key)]
        if shard is None:
            raise self._unavailable("Redis is not to be reached", not_sent=True)
        spread = self._read_replicas and not command.writes
        link = shard.reader() if spread else shard.primary
        reply = await link.send(packed.data, deadline)
        if isinstance(reply, Fault):
            return await self._react(command, packed, link, reply, deadline)
        return reply

    async def _react(
        self, command: Command, packed: Packed, link: Link, fault: Fault, deadline: float
    ) -> Reply:
        """Follow what came in place of a reply until there is one, or raise why there is none."""
        data: tuple[bytes, ...] = (packed.data,)
        for left in range(TRIES - 1, -1, -1):
            if isinstance(fault, ErrorReply):
                what, failure, message = reaction(fault)
                if what is Reaction.ANSWER or what is Reaction.REFUSE:
                    if what is Reaction.REFUSE:
                        _log.warning("redis refused", address=str(link.address), code=fault.code)
                    # An error nobody foresaw may have come after a part of the write was done.
                    unsure = fault.code == "ERR" and command.writes and command.once is None
                    raise failure(message, retryable=False if unsure else None)
                if what is not Reaction.SCRIPT:
                    self._wish.set()
                if not left:
                    raise failure(message)
                match what:
                    case Reaction.MOVED:
                        link = self._moved(fault, link)
                        data = (packed.data,)
                    case Reaction.ASK:
                        link = self._link(_redirect_target(fault, link), readonly=False)
                        data = (ASKING, packed.data)
                    case Reaction.SCRIPT:
                        data = (*data[:-1], packed.with_script())
                    case Reaction.AGAIN:
                        await self._pause(_AGAIN_DELAY, deadline)
                    case Reaction.REFRESH:
                        await self._refreshed_by(deadline)
                        link = self._primary(command.key)
                        data = (packed.data,)
                await self._first_connect(link, deadline)
            elif isinstance(fault, LostReply):
                unsafe = fault.sent and command.writes and command.once is None
                if unsafe or not left:
                    raise self._unavailable("The connection to Redis was lost", not_sent=not unsafe)
                if not fault.sent and link.state is not LinkState.READY:
                    raise self._unavailable("Redis is not to be reached", not_sent=True)
                link = self._primary(command.key)
            else:
                raise _expired(command)
            reply = await link.send_all(data, deadline)
            if not isinstance(reply, Fault):
                return reply
            fault = reply
        raise AssertionError("the last try either returns or raises")

    def _primary(self, key: bytes) -> Link:
        shard = self._home[self._slot_of(key)]
        if shard is None:
            raise self._unavailable("Redis is not to be reached", not_sent=True)
        return shard.primary

    def _moved(self, fault: ErrorReply, link: Link) -> Link:
        """Note a slot's new home at once; the refresh under way brings the rest."""
        target = _redirect_target(fault, link)
        known = self._shards.get(str(target))
        if known is None:
            known = self._adopt(ShardMap(target))
        if self._kind is Kind.CLUSTER:
            self._home[int(fault.text.split()[1])] = known
        return known.primary

    async def _first_connect(self, link: Link, deadline: float) -> None:
        """Give a link that a redirection has just made the time to connect."""
        if link.state is LinkState.CONNECTING:
            await self._within(link.settled(), deadline)

    async def _refreshed_by(self, deadline: float) -> None:
        """Wait for a refresh of the topology, for a part of what is left."""
        now = self._clock()
        self._refreshed.clear()
        self._wish.set()
        await self._within(self._refreshed.wait(), now + (deadline - now) / 2)

    async def _pause(self, seconds: float, deadline: float) -> None:
        await asyncio.sleep(min(seconds, max(0.0, deadline - self._clock())))

    async def _within(self, what: Any, deadline: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock())):
                await what
        except TimeoutError:
            pass  # the send that follows says what is wrong

    def _unavailable(self, message: str, *, not_sent: bool) -> RedisUnavailable:
        reason = "" if not_sent else "; whether the write was done is unknown"
        return RedisUnavailable(f"{message}{reason}.", retryable=not_sent)

    # -- health -----------------------------------------------------------------------------------

    async def ping(self, deadline: float) -> None:
        """Pass when every primary answers.

        Raises:
            RedisUnavailable: one does not.
        """
        shards = tuple(self._shards.values())
        if not shards:
            raise RedisUnavailable(self._fault or "Redis is not to be reached.")
        replies = await asyncio.gather(*(s.primary.send(PING, deadline) for s in shards))
        for shard, reply in zip(shards, replies, strict=True):
            if reply != b"PONG":
                status = shard.primary.status()
                why = reply.code if isinstance(reply, ErrorReply) else status.fault
                raise RedisUnavailable(f"{status.address}: {why or 'no answer in time'}")

    def status(self) -> StoreStatus:
        """Return how the store does."""
        shards = tuple(self._shards.values())
        states = {shard.primary.state for shard in shards}
        if states == {LinkState.READY}:
            status = LinkState.READY
        elif self._kind is None:
            status = LinkState.CONNECTING
        else:
            status = LinkState.RECONNECTING
        return StoreStatus(
            status.value,
            self._kind.value if self._kind else None,
            self._fault,
            tuple(
                ShardStatus(
                    shard.name,
                    shard.slots,
                    shard.primary.status(),
                    tuple(link.status() for link in shard.replicas),
                )
                for shard in shards
            ),
        )

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find out the topology and connect, for at most one connect timeout.

        Redis need not be up: what did not succeed goes on in the background.
        """
        self._tasks = (
            asyncio.create_task(self._refresher(), name="topology"),
            asyncio.create_task(self._watcher(), name="overdue replies"),
        )
        self._wish.set()
        deadline = self._clock() + self._settings.connect_timeout
        await self._within(self._refreshed.wait(), deadline)
        for shard in tuple(self._shards.values()):
            await self._within(shard.primary.settled(), deadline)

    async def close(self) -> None:
        """Close every link. Whoever still waits is told."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(link.close() for link in self._links.values()), *self._closing)
        self._links.clear()
        self._deadlines.close()

    async def _refresher(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._settings.refresh_interval):
                    await self._wish.wait()
            except TimeoutError:
                pass
            self._wish.clear()
            try:
                known = [address for address, _ in self._links] if self._in_cluster() else []
                patience = self._settings.connect_timeout * 4
                self._apply(await discover_within(self._settings, known, patience))
                self._fault = None
            except ConnectFault as fault:
                if self._fault != str(fault):
                    _log.warning("redis topology unknown", fault=str(fault))
                self._fault = str(fault)
            except Exception as bug:
                # Whatever it is, a store that no longer asks would follow no failover.
                _log.error("a bug", task="topology", exc_info=bug)
                self._fault = f"a bug in flowcache: {type(bug).__name__}"
            if self._kind is None:
                self._wish.set()  # nothing works yet: ask again soon
            self._refreshed.set()
            await asyncio.sleep(_REFRESH_PAUSE)

    def _in_cluster(self) -> bool:
        return self._kind is Kind.CLUSTER

    async def _watcher(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            now = self._clock()
            for link in tuple(self._links.values()):
                link.reset_if_overdue(now)

    def _apply(self, topology: Topology) -> None:
        """Take up a topology: open what is new, close what is gone, point the slots."""
        if topology.kind is not self._kind:
            _log.info("redis topology", kind=topology.kind.value, shards=len(topology.shards))
        self._kind = topology.kind
        in_cluster = topology.kind is Kind.CLUSTER
        home: list[_Shard | None] = [None] * (SLOTS if in_cluster else 1)
        fresh: dict[str, _Shard] = {}
        for shard_map in topology.shards:
            shard = fresh[str(shard_map.primary)] = self._adopt(shard_map)
            for first, last in shard_map.slots if in_cluster else ((0, 0),):
                home[first : last + 1] = [shard] * (last - first + 1)
        self._shards, self._home = fresh, home
        self._slot_of = key_slot if in_cluster else _everywhere
        wanted = {
            (link.address, link in shard.replicas)
            for shard in fresh.values()
            for link in (shard.primary, *shard.replicas)
        }
        for place in self._links.keys() - wanted:
            self._retire(self._links.pop(place))

    def _adopt(self, shard_map: ShardMap) -> _Shard:
        replicas = shard_map.replicas if self._read_replicas else ()
        return _Shard(
            shard_map,
            self._link(shard_map.primary, readonly=False),
            tuple(self._link(address, readonly=True) for address in replicas),
        )

    def _link(self, address: Address, *, readonly: bool) -> Link:
        link = self._links.get((address, readonly))
        if link is None:
            link = self._links[address, readonly] = Link(
                address,
                self._settings,
                self._deadlines,
                self._clock,
                readonly=readonly and self._in_cluster(),
                on_change=self._link_changed,
            )
        return link

    def _link_changed(self, link: Link) -> None:
        if link.state is LinkState.READY:
            _log.info("redis link up", address=str(link.address))
            return
        self._wish.set()
        if link.fresh_fault:
            _log.warning("redis link down", address=str(link.address), fault=link.status().fault)

    def _retire(self, link: Link) -> None:
        task = asyncio.create_task(link.close(), name=f"close {link.address}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _everywhere(key: bytes) -> int:
    """Return the one place there is outside a cluster."""
    return 0


def _expired(command: Command) -> DeadlineExceeded:
    if command.writes:
        return DeadlineExceeded(
            "Redis did not answer in time; whether the write was done is unknown.",
            retryable=command.once is not None,
        )
    return DeadlineExceeded("Redis did not answer in time.")


def _redirect_target(fault: ErrorReply, link: Link) -> Address:
    """Read the address of a MOVED or ASK; an empty host means the server that was asked."""
    host, _, port = fault.text.split()[2].rpartition(":")
    return Address(host.strip("[]") or link.address.host, int(port))
