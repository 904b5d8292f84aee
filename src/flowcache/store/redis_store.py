"""The store: find the server that holds a key, send, and react to what comes back.

How a call goes: `execute` packs the command, picks the link of the key's shard, sends, and on
nearly every call returns the reply. When something else came back, `_react` decides by a table
(`replies.REACTIONS`) whether to send again. The rules of sending again:

- at most `TRIES` times in all, but for a slot on the move, which is tried until the deadline;
- never past the deadline;
- what was not executed (a redirection, a refusal, a command that never left) may be sent again;
- a *write whose fate is unknown* is never sent again by itself, unless it carries a `Once`;
- a read may be, since it changes nothing; it waits for its link for half of what time is left.

Topology is refreshed on redirections, on lost links, on a refusal that says another server took
over, and every `refresh_interval` seconds (twice a second with Sentinel); one refresh at a time
(`_refresher`). A link that is no longer part of it is drained, and one that a redirection led to is
kept for a while: a server that is about to take slots over belongs to no map yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Set
from itertools import count

import structlog

from flowcache.errors import DeadlineExceeded, Declined, RedisUnavailable, TooLarge
from flowcache.ports import Clock, Command, Reply
from flowcache.status import ShardStatus, StoreStatus
from flowcache.store.backoff import reconnect_delay
from flowcache.store.commands import ASKING, PING, Packed, pack
from flowcache.store.connection import ConnectFault
from flowcache.store.deadlines import Deadlines
from flowcache.store.discovery import discover
from flowcache.store.link import Link, LinkState
from flowcache.store.replies import (
    EXPIRED,
    FULL,
    OVERSIZED,
    REACTIONS,
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
_SENTINEL_INTERVAL = 0.5
"""Seconds between two questions to Sentinel. In an orderly failover nothing tells a client that the
primary is no longer it, and what the old one still acknowledges is lost when it is demoted."""
_REFRESH_PAUSE = 0.1
"""Seconds between two refreshes, so that a storm of redirections asks once."""
_WATCH_INTERVAL = 0.1
"""Seconds between two looks at the links for an overdue reply."""
_REDIRECTED_KEPT = 30.0
"""Seconds that a link outside of the map is kept after a redirection led to it."""
_LOG_AGAIN = 10.0
"""Seconds before the same refusal is logged again: Redis refuses most when it is worst off."""

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

    def __init__(
        self,
        settings: StoreSettings,
        clock: Clock,
        on_back: Callable[[str], None] = lambda shard: None,
    ) -> None:
        """``on_back`` is told the name of a shard whose primary can be reached again."""
        self._settings = settings
        self._on_back = on_back
        self._clock = clock
        self._read_replicas = settings.read_from is ReadFrom.REPLICA
        self._deadlines = Deadlines(asyncio.get_running_loop(), clock, EXPIRED)
        self._kind: Kind | None = None
        self._links: dict[tuple[Address, bool], Link] = {}
        """By address and whether it is a replica's."""
        self._shards: dict[str, _Shard] = {}
        self._shard_by_slot: list[_Shard | None] = [None]
        """The shard of each slot; outside a cluster the only shard, under 0."""
        self._slot_of: Callable[[bytes], int] = _everywhere
        self._redirected: dict[tuple[Address, bool], float] = {}
        """When a redirection last led to a link."""
        self._logged: dict[str, float] = {}
        """When a refusal was last logged, by code."""
        self._fault: str | None = "flowcache has not connected yet"
        self._refresh_wanted = asyncio.Event()
        self._refreshed = asyncio.Event()
        """Pulsed at the end of each refresh."""
        self._refreshes = 0
        """How many have begun."""
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._draining: dict[asyncio.Task[None], Link] = {}
        self._closed = False

    # -- the way of a command -------------------------------------------------------------------

    def shard_of(self, key: bytes) -> str:
        return self._shard(key).name

    def shards(self) -> Set[str]:
        return self._shards.keys()

    async def execute(self, command: Command, deadline: float) -> Reply:
        packed = pack(command)
        shard = self._shard(command.key)
        spread = self._read_replicas and not command.writes
        link = shard.reader() if spread else shard.primary
        reply = await link.send(packed.data, deadline)
        if isinstance(reply, Fault):
            return await self._react(command, packed, link, reply, deadline)
        return reply

    def _shard(self, key: bytes) -> _Shard:
        shard = self._shard_by_slot[self._slot_of(key)]
        if shard is None:
            self._refresh_wanted.set()
            raise RedisUnavailable("Redis is not to be reached.")
        return shard

    async def _react(
        self, command: Command, packed: Packed, link: Link, fault: Fault, deadline: float
    ) -> Reply:
        """Follow what came in place of a reply until there is one, or raise why there is none."""
        data, after = packed.data, None
        tries = 1
        while True:
            again = False
            if isinstance(fault, ErrorReply):
                what, failure, message = reaction(fault)
                if what is Reaction.REFUSE and tries < TRIES and self._is_replica(link, command):
                    what = Reaction.ELSEWHERE
                if what is Reaction.REFUSE:
                    self._log_refusal(fault, link)
                    # What nobody foresaw may have come after a part of the write was done.
                    unsure = fault.code not in REACTIONS and not _repeatable(command)
                    raise failure(message, retryable=False if unsure else None)
                if what is Reaction.ANSWER:
                    raise failure(message)
                again = what is Reaction.AGAIN
                if tries >= TRIES and not again:
                    raise failure(message)
                if what is Reaction.SCRIPT:
                    data = packed.with_script()
                elif again:  # there, and as it was: sending it elsewhere would lead back there
                    self._refresh_wanted.set()
                    await asyncio.sleep(min(_AGAIN_DELAY, max(0.0, deadline - self._clock())))
                else:
                    link, after = await self._redirect(what, fault, link, command.key, deadline)
            elif isinstance(fault, LostReply):
                message = "The connection to Redis was lost"
                if fault.sent and not _repeatable(command):
                    raise RedisUnavailable(
                        f"{message}; whether the write was done is unknown.", retryable=False
                    )
                # What never left, and finds no connection, fails at once: nothing is queued.
                on_replica = self._is_replica(link, command)
                unsent = not fault.sent and link.state is not LinkState.READY and not on_replica
                if tries >= TRIES or unsent:
                    raise RedisUnavailable(f"{message}.")
                link, after = self._shard(command.key).primary, None
                await self._within(link.ready(), self._halfway(deadline))
            elif fault is OVERSIZED:
                raise TooLarge("What is stored under this key is too large to be answered.")
            elif fault is FULL:
                raise Declined("Too many calls wait for Redis; this one was not sent.")
            else:
                raise _expired(command)
            if self._clock() >= deadline:
                raise DeadlineExceeded("Redis did not take the command in time.")
            tries += not again
            reply = await link.send(data, deadline, after=after)
            if not isinstance(reply, Fault):
                return reply
            fault = reply

    async def _redirect(
        self, what: Reaction, fault: ErrorReply, link: Link, key: bytes, deadline: float
    ) -> tuple[Link, bytes | None]:
        """Return the link to send to next, and what has to stand before the command there."""
        self._refresh_wanted.set()
        match what:
            case Reaction.MOVED:
                target = self._moved(fault, link)
            case Reaction.ASK:
                target = self._redirected_link(_redirect_target(fault, link)[1])
            case Reaction.ELSEWHERE:
                target = self._shard(key).primary
            case _:
                await self._within(self._next_refresh(), self._halfway(deadline))
                target = self._shard(key).primary
        if target.state is LinkState.CONNECTING:  # just made: give it the time to connect
            await self._within(target.settled(), deadline)
        return target, ASKING if what is Reaction.ASK else None

    def _is_replica(self, link: Link, command: Command) -> bool:
        return not command.writes and link is not self._shard(command.key).primary

    def _moved(self, fault: ErrorReply, link: Link) -> Link:
        """Note a slot's new home at once; the refresh under way brings the rest."""
        slot, address = _redirect_target(fault, link)
        target = self._redirected_link(address)
        if self._kind is Kind.CLUSTER:
            shard = self._shards.get(str(address)) or _Shard(ShardMap(address), target, ())
            self._shard_by_slot[slot] = shard
        return target

    def _redirected_link(self, address: Address) -> Link:
        self._redirected[address, False] = self._clock()
        return self._link(address, replica=False)

    async def _next_refresh(self) -> None:
        """Wait for the end of a refresh that begins from now on."""
        wanted = self._refreshes + 1
        self._refresh_wanted.set()
        while self._refreshes < wanted and not self._closed:
            await self._refreshed.wait()

    def _halfway(self, deadline: float) -> float:
        now = self._clock()
        return now + (deadline - now) / 2

    async def _within(self, what: Awaitable[object], deadline: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock())):
                await what
        except TimeoutError:
            pass  # the send that follows says what is wrong

    def _log_refusal(self, error: ErrorReply, link: Link) -> None:
        now = self._clock()
        if now - self._logged.get(error.code, -_LOG_AGAIN) >= _LOG_AGAIN:
            if len(self._logged) > 64:  # codes come from the server, and may be anything
                self._logged.clear()
            self._logged[error.code] = now
            _log.warning("redis refused", address=str(link.address), code=error.code)

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
        if self._closed:
            return
        self._tasks = (
            asyncio.create_task(self._refresher(), name="topology"),
            asyncio.create_task(self._watcher(), name="overdue replies"),
        )
        self._refresh_wanted.set()
        deadline = self._clock() + self._settings.connect_timeout
        await self._within(self._refreshed.wait(), deadline)
        for shard in tuple(self._shards.values()):
            await self._within(shard.primary.settled(), deadline)

    async def close(self) -> None:
        """Close every link. Whoever still waits is told."""
        self._closed = True
        self._refreshed.set()  # whoever waits for a refresh need not
        for task in self._tasks:
            task.cancel()
        links = tuple(self._links.values())
        self._links.clear()
        await asyncio.gather(
            *self._tasks, *(link.close() for link in links), return_exceptions=True
        )
        draining = tuple(self._draining.items())
        for task, _ in draining:
            task.cancel()
        await asyncio.gather(
            *(task for task, _ in draining),
            *(link.close() for _, link in draining),
            return_exceptions=True,
        )
        self._deadlines.close()

    async def _refresher(self) -> None:
        failures = 0
        # Asked each time, too: on Python 3.11 asyncio.wait_for, which redis-py uses, may lose a
        # cancellation.
        while not self._closed:
            try:
                async with asyncio.timeout(self._refresh_interval()):
                    await self._refresh_wanted.wait()
            except TimeoutError:
                pass
            self._refresh_wanted.clear()
            self._refreshes += 1
            try:
                patience = self._settings.connect_timeout * 4
                topology = await discover(self._settings, self._known(), seconds=patience)
                if self._closed:
                    return
                self._apply(topology)
                self._fault, failures = None, 0
            except ConnectFault as fault:
                failures += 1
                if self._fault != str(fault):
                    _log.warning("redis topology unknown", fault=str(fault))
                self._fault = str(fault)
            except Exception as bug:
                # Whatever it is, a store that no longer asks would follow no failover.
                failures += 1
                _log.error("a bug", task="topology", exc_info=bug)
                self._fault = f"a bug in flowcache: {type(bug).__name__}"
            self._refreshed.set()
            self._refreshed.clear()
            if self._kind is None:
                self._refresh_wanted.set()  # nothing works yet: go on asking
            pause = reconnect_delay(failures, 0.5) if failures else 0.0
            await asyncio.sleep(max(_REFRESH_PAUSE, pause))

    def _refresh_interval(self) -> float:
        interval = self._settings.refresh_interval
        return min(interval, _SENTINEL_INTERVAL) if self._kind is Kind.SENTINEL else interval

    def _known(self) -> list[Address]:
        """Return servers beside the configured ones that may tell of a cluster: the live first."""
        if self._kind is not Kind.CLUSTER:
            return []
        links = sorted(self._links.values(), key=lambda link: link.state is not LinkState.READY)
        return [link.address for link in links]

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
        by_slot: list[_Shard | None] = [None] * (SLOTS if in_cluster else 1)
        shards: dict[str, _Shard] = {}
        for shard_map in topology.shards:
            shard = shards[str(shard_map.primary)] = self._adopt(shard_map)
            for first, last in shard_map.slots if in_cluster else ((0, 0),):
                by_slot[first : last + 1] = [shard] * (last - first + 1)
        self._shards, self._shard_by_slot = shards, by_slot
        self._slot_of = key_slot if in_cluster else _everywhere
        self._retire_all_but({(m.primary, False) for m in topology.shards})

    def _adopt(self, shard_map: ShardMap) -> _Shard:
        replicas = shard_map.replicas if self._read_replicas else ()
        return _Shard(
            shard_map,
            self._link(shard_map.primary, replica=False),
            tuple(self._link(address, replica=True) for address in replicas),
        )

    def _link(self, address: Address, *, replica: bool) -> Link:
        link = self._links.get((address, replica))
        if link is None:
            if self._closed:
                raise RedisUnavailable("flowcache is shutting down.")
            link = self._links[address, replica] = Link(
                address,
                self._settings,
                self._deadlines,
                self._clock,
                readonly=replica and self._kind is Kind.CLUSTER,
                on_change=self._link_changed,
            )
        return link

    def _link_changed(self, link: Link) -> None:
        if link.state is LinkState.READY:
            _log.info("redis link up", address=str(link.address))
            if link.proven:
                self._on_back(str(link.address))
            return
        self._refresh_wanted.set()
        if link.fresh_fault:
            _log.warning("redis link down", address=str(link.address), fault=link.status().fault)

    def _retire_all_but(self, primaries: set[tuple[Address, bool]]) -> None:
        """Drain the links that are no longer part of the map, and not just redirected to."""
        now = self._clock()
        self._redirected = {
            place: at for place, at in self._redirected.items() if now - at < _REDIRECTED_KEPT
        }
        replicas = {
            (link.address, True) for shard in self._shards.values() for link in shard.replicas
        }
        for place in self._links.keys() - primaries - replicas - self._redirected.keys():
            link = self._links.pop(place)
            task = asyncio.create_task(link.drain(), name=f"drain {link.address}")
            self._draining[task] = link
            task.add_done_callback(self._draining.pop)


def _everywhere(key: bytes) -> int:
    """Return the one place there is outside a cluster."""
    return 0


def _repeatable(command: Command) -> bool:
    """Tell whether running ``command`` twice does no more than running it once."""
    return not command.writes or command.once is not None


def _expired(command: Command) -> DeadlineExceeded:
    if command.writes:
        return DeadlineExceeded(
            "Redis did not answer in time; whether the write was done is unknown.",
            retryable=_repeatable(command),
        )
    return DeadlineExceeded("Redis did not answer in time.")


def _redirect_target(fault: ErrorReply, link: Link) -> tuple[int, Address]:
    """Read slot and address of a MOVED or ASK: ``MOVED 3999 127.0.0.1:6381``.

    Raises:
        RedisUnavailable: it is none that makes sense.
    """
    try:
        _, slot, place = fault.text.split()
        host, _, port = place.rpartition(":")
        address = Address.told(host.strip("[]"), int(port), link.address)
        if 0 <= int(slot) < SLOTS and 0 < address.port < 65536:
            return int(slot), address
    except ValueError:
        pass
    raise RedisUnavailable("Redis redirects to nowhere.")
