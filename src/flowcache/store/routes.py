"""The routes: which link leads to the server that holds a key, kept true while servers change.

Topology is asked for on redirections, on lost links, on a refusal that says another server took
over, every `refresh_interval` seconds (twice a second with Sentinel), and four times a second while
a primary does not answer: a failover is then under way, or will be. The primary of a standalone
set-up is itself asked twice a second whether it still is one, for nobody else would tell. One
refresh at a time (`_refresher`). A link that is no longer part of the topology is drained, and one
that a redirection led to is kept for a while: a server that is about to take slots over belongs to
no map yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Set
from enum import StrEnum
from functools import partial
from itertools import count
from typing import Any

import structlog
from msgspec import structs

from flowcache.errors import RedisUnavailable
from flowcache.executing import Shard
from flowcache.ports import Access, Clock
from flowcache.store.bulk import Bulk
from flowcache.store.cancelling import cancel
from flowcache.store.commands import HELLO, PING
from flowcache.store.connection import ConnectFault
from flowcache.store.deadlines import TICK, Deadlines, Waiter
from flowcache.store.discovery import discover
from flowcache.store.link import Link, LinkState
from flowcache.store.settings import Address, ReadFrom, StoreSettings
from flowcache.store.slots import SLOTS, key_slot
from flowcache.store.topology import Kind, ShardMap, Topology, is_replica

__all__ = ["OnBack", "Routes", "ShardRoute"]

_SENTINEL_INTERVAL = 0.5
"""Seconds between two questions to Sentinel. In an orderly failover nothing tells a client that the
primary is no longer it, and what the old one still acknowledges is lost when it is demoted."""
_FAILOVER_INTERVAL = 0.25
"""Seconds between two refreshes while a primary does not answer."""
_REFRESH_PAUSE = 0.1
"""Seconds between two refreshes, so that a storm of redirections asks once."""
_WATCH_INTERVAL = 0.1
"""Seconds between two looks at the links for an overdue reply."""
_WELL = 0.1
"""Seconds within which a server answers a PING that is well again."""
_ROLE_INTERVAL = 0.5
"""Seconds after which a standalone primary is asked for its role, when nothing waits for it."""
_ROLE_LATEST = 0.8
"""Seconds after which it is asked in any case."""
_AT_ONCE = 32
"""Links that may be opened at once; each further one waits `_OPEN_PAUSE` longer."""
_OPEN_PAUSE = 0.003
_SHARDS_A_TURN = 8
"""Shards of a map that are taken up in one turn of the loop."""
_REDIRECTED_KEPT = 30.0
"""Seconds that a link outside of the map is kept after a redirection led to it."""

_MOST_ASKED = 16
"""Servers beside the configured ones that are asked for the map: each has its share of the time."""
_MOST_REDIRECTED = 64
"""Servers on no map that redirections may lead to, until the oldest are forgotten."""

_log = structlog.get_logger(__name__)

OnBack = Callable[[str, Set[Access]], None]
"""Told the name of a shard one of whose servers can be reached again, and for which access."""


class Role(StrEnum):
    """What a link is for. A server may have several, one for each."""

    PRIMARY = "primary"
    WRITER = "writer"
    """To a primary, for writes that wait for replicas: WAIT holds up what comes behind it."""
    REPLICA = "replica"


_Place = tuple[Address, Role]


class ShardRoute(Shard):
    """A shard at run time: its primary's link and those of its replicas.

    ``writer`` is the link for writes, which is the primary's own unless they wait for replicas.
    """

    __slots__ = (
        "_from_replica",
        "is_demoted",
        "primary",
        "replicas",
        "slots",
        "turn",
        "writer",
    )

    def __init__(
        self,
        shard: ShardMap,
        primary: Link,
        writer: Link,
        replicas: tuple[Link, ...] = (),
        read_from: ReadFrom = ReadFrom.PRIMARY,
        turn: Iterator[int] | None = None,
    ) -> None:
        # Named for its primary: a replica that takes over starts with circuits of its own.
        super().__init__(str(shard.primary))
        self.slots = shard.slots
        self.primary = primary
        self.writer = writer
        self.replicas = replicas
        self._from_replica = read_from is ReadFrom.REPLICA
        self.is_demoted = False
        """Whether the primary has said that it is one no longer, and none has taken its place."""
        self.turn = turn or count()
        """Whose turn it is among the replicas; it outlives a refresh."""

    def essential(self) -> tuple[Link, ...]:
        """Return the links without which some calls fail."""
        return (self.primary,) if self.writer is self.primary else (self.primary, self.writer)

    def reader(self) -> Link:
        """Return where reads go: the primary, or if so configured the next connected replica."""
        return (self._replica() or self.primary) if self._from_replica else self.primary

    def fallback(self) -> Link | None:
        """Return who may answer a read that `reader` doesn't: a connected server, or None."""
        other = self.primary if self._from_replica else self._replica()
        return other if other is not None and other.state is LinkState.READY else None

    def has_fallback(self) -> bool:
        """Tell whether a second server could answer a read now."""
        if self._from_replica:
            return bool(self.replicas) and self.primary.state is LinkState.READY
        for link in self.replicas:  # noqa: SIM110 - a generator costs as much as a read's routing
            if link.state is LinkState.READY:
                return True
        return False

    def is_stale(self, link: Link) -> bool:
        """Tell whether what ``link`` answers in the primary's place may be old."""
        return link in self.replicas or (self.is_demoted and link is self.primary)

    def accesses_by(self, link: Link) -> Set[Access]:
        """Return what ``link`` is for."""
        first: tuple[Link, ...] = (self.primary,)
        second = self.replicas
        if self._from_replica:
            first, second = second, first
        found = {Access.WRITE} if link is self.writer else set()
        found |= {Access.READ} if link in first else set()
        return found | ({Access.FALLBACK} if link in second else set())

    def _replica(self) -> Link | None:
        ready = [link for link in self.replicas if link.state is LinkState.READY]
        return ready[next(self.turn) % len(ready)] if ready else None


class Routes:
    """All links, and which of them leads to a key. Created inside a running event loop."""

    def __init__(
        self, settings: StoreSettings, clock: Clock, on_back: OnBack, listened: Clock
    ) -> None:
        self.kind: Kind | None = None
        """None until a server told the topology."""
        self.shards: dict[str, ShardRoute] = {}
        self.fault: str | None = "flowcache has not connected yet"
        """Why the topology could not be asked for the last time."""
        self.failure: type[RedisUnavailable] = RedisUnavailable
        """What `fault` is to callers."""
        self._names: Mapping[Address, str] = {}
        """The names that the servers' certificates are for."""
        self._settings = settings
        self._clock = clock
        self._listened = listened
        self._on_back = on_back
        loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(loop, clock)
        self._slowness = Deadlines(loop, listened, Waiter.tell_slow, pause=TICK)
        self._links: dict[_Place, Link] = {}
        self._shard_by_slot: list[ShardRoute | None] = [None]
        """The shard of each slot; outside a cluster the only shard, under 0."""
        self._slot_of: Callable[[bytes], int] = _everywhere
        self._bulks: dict[tuple[Address, bool], Bulk] = {}
        """By server, and whether it is asked as a replica."""
        self._redirected: dict[_Place, float] = {}
        """When a redirection last led to a link."""
        self._open_at = 0.0
        """When all links that are waiting to be opened will have been."""
        self._mapped: frozenset[_Place] = frozenset()
        """What the map wants links to."""
        self._refresh_wanted = asyncio.Event()
        self._refreshed = asyncio.Event()
        """Pulsed at the end of each refresh."""
        self._refreshes = 0
        """How many have begun."""
        self._refreshed_at = self._role_asked_at = clock()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._draining: dict[asyncio.Task[None], Link] = {}
        self._closed = False

    # -- finding ----------------------------------------------------------------------------------

    def shard(self, key: bytes) -> ShardRoute:
        """Return the shard that holds ``key``.

        Raises:
            RedisUnavailable: no shard is known to hold it.
        """
        shard = self._shard_by_slot[self._slot_of(key)]
        if shard is None:
            self._refresh_wanted.set()
            raise RedisUnavailable("Redis is not to be reached.")
        return shard

    def moved(self, slot: int, address: Address) -> Link:
        """Note a slot's new home at once; the refresh that follows brings the rest."""
        link = self.redirected(address)
        if self.kind is Kind.CLUSTER:
            shard = self.shards.get(str(address)) or ShardRoute(ShardMap(address), link, link)
            self._shard_by_slot[slot] = shard
        return link

    def redirected(self, address: Address) -> Link:
        """Return the link to a server that a redirection names.

        Raises:
            RedisUnavailable: redirections have led to too many servers that are on no map.
        """
        if (
            (address, Role.PRIMARY) not in self._links
            and len(self._redirected) >= _MOST_REDIRECTED
            and len(self._redirected.keys() - self._mapped) >= _MOST_REDIRECTED
        ):
            raise RedisUnavailable("Redis redirects to too many servers.")
        self._redirected[address, Role.PRIMARY] = self._clock()
        return self._link(address, Role.PRIMARY)

    def bulk(self, beside: Link) -> Bulk:
        """Return the connection for large replies to the server that a link leads to.

        It has to be used at once: one that is idle is closed.
        """
        place = beside.address, beside.readonly
        bulk = self._bulks.get(place)
        if bulk is None:
            if self._closed:
                raise RedisUnavailable("flowcache is shutting down.")
            most = self._settings.max_large_reply
            link = self._open(*place, structs.replace(self._settings, max_reply=most))
            link.server_name = beside.server_name
            bulk = self._bulks[place] = Bulk(link, self._clock)
        return bulk

    def refresh_soon(self) -> None:
        """Have the topology asked for."""
        self._refresh_wanted.set()

    async def next_refresh(self) -> None:
        """Wait for the end of a refresh that begins from now on."""
        wanted = self._refreshes + 1
        self._refresh_wanted.set()
        while self._refreshes < wanted and not self._closed:
            await self._refreshed.wait()

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
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                await self._refreshed.wait()
                for shard in tuple(self.shards.values()):
                    for link in shard.essential():
                        await link.settled()
        except TimeoutError:
            pass  # the calls that come will say what is wrong

    async def close(self) -> None:
        """Close every link. Whoever still waits is told."""
        self._closed = True
        self._refreshed.set()  # whoever waits for a refresh need not
        links = (*self._links.values(), *(bulk.link for bulk in self._bulks.values()))
        self._links.clear()
        self._bulks.clear()
        await asyncio.gather(cancel(*self._tasks), *(link.close() for link in links))
        draining = dict(self._draining)
        await cancel(*draining)
        await asyncio.gather(*(link.close() for link in draining.values()))
        self._slowness.close()
        self._deadlines.close()

    # -- keeping true -----------------------------------------------------------------------------

    async def _refresher(self) -> None:
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
                topology = await discover(
                    self._settings, self._known(), self._names, seconds=patience
                )
                if self._closed:
                    return
                await self._apply(topology)
                if self._closed:
                    return
                self.fault, failed = None, False
            except ConnectFault as fault:
                failed = True
                if self.fault != str(fault):
                    _log.warning("redis topology unknown", fault=str(fault))
                self.fault, self.failure = str(fault), fault.failure
            except Exception as bug:
                # Whatever it is, a store that no longer asks would follow no failover.
                failed = True
                _log.error("a bug", task="topology", exc_info=bug)
                self.fault = f"a bug in flowcache: {type(bug).__name__}"
                self.failure = RedisUnavailable
            self._refreshed.set()
            self._refreshed.clear()
            self._refreshed_at = self._clock()
            if self.kind is None:
                self._refresh_wanted.set()  # nothing works yet: go on asking
            # No longer when it failed often: until a failover is over, that is what it does.
            await asyncio.sleep(_FAILOVER_INTERVAL if failed else _REFRESH_PAUSE)

    def _refresh_interval(self) -> float:
        interval = self._settings.refresh_interval
        return min(interval, _SENTINEL_INTERVAL) if self.kind is Kind.SENTINEL else interval

    def _known(self) -> list[Address]:
        """Return servers beside the configured ones that may tell of a cluster: the live first."""
        if self.kind is not Kind.CLUSTER:
            return []
        heard = self._listened()
        links = sorted(self._links.values(), key=lambda link: link.is_stuck(heard))
        return [link.address for link in links[:_MOST_ASKED]]

    async def _watcher(self) -> None:
        unwell: dict[Link, int] = {}  # and how often each had been connected
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            heard = self._listened()
            links = tuple(self._links.values())
            for link in links:
                link.reset_if_overdue(heard)
            for place, bulk in tuple(self._bulks.items()):
                bulk.link.reset_if_overdue(heard)
                if bulk.is_idle(self._clock()):
                    self._drain(self._bulks.pop(place).link)
            stuck = {link: link.connects for link in links if link.is_stuck(heard)}
            for link, connects in tuple(unwell.items()):
                if link not in stuck and (
                    link not in links or link.connects != connects or await self._is_back(link)
                ):
                    del unwell[link]
            unwell |= stuck
            if self.kind is Kind.STANDALONE:
                self._look_at_role(self._clock())
            if self._clock() - self._refreshed_at >= _FAILOVER_INTERVAL and any(
                link.is_stuck(heard) for shard in self.shards.values() for link in shard.essential()
            ):
                self._refresh_wanted.set()

    async def _is_back(self, link: Link) -> bool:
        """Tell whether a server that had stopped answering serves again, and report it if so.

        Not every answer proves it. A server that takes longer than its callers wait is not stuck
        each time it answers, and one that runs a script answers that it is busy.
        """
        is_back: bool = await link.send(PING, self._clock() + _WELL) == b"PONG"
        if is_back:
            self._tell_back(link)
        return is_back

    def _look_at_role(self, now: float) -> None:
        """Ask the primary whether it still is one: an operator may have made it a replica.

        HELLO tells, and who may connect may ask it. A reply that says nothing changes nothing.
        """
        since = now - self._role_asked_at
        for shard in self.shards.values():
            link = shard.primary
            if since > _ROLE_LATEST or (since > _ROLE_INTERVAL and link.is_idle):
                self._role_asked_at = now
                told = asyncio.ensure_future(link.send(HELLO, now + _ROLE_LATEST))
                told.add_done_callback(partial(self._hear_role, shard))

    def _hear_role(self, shard: ShardRoute, told: asyncio.Future[Any]) -> None:
        if told.cancelled() or not isinstance(told.result(), dict):
            return
        was_demoted, shard.is_demoted = shard.is_demoted, is_replica(told.result())
        if shard.is_demoted:
            self._refresh_wanted.set()
        if shard.is_demoted and not was_demoted:
            _log.warning("redis primary demoted", address=shard.name)

    async def _apply(self, topology: Topology) -> None:
        """Take up a topology: open what is new, close what is gone, point the slots.

        A large one is taken up in pieces, so that calls get their turn in between.
        """
        if topology.kind is not self.kind:
            _log.info("redis topology", kind=topology.kind.value, shards=len(topology.shards))
        self.kind, self._names = topology.kind, topology.names
        in_cluster = topology.kind is Kind.CLUSTER
        by_slot: list[ShardRoute | None] = [None] * (SLOTS if in_cluster else 1)
        shards: dict[str, ShardRoute] = {}
        for number, shard_map in enumerate(topology.shards, 1):
            if number % _SHARDS_A_TURN == 0:
                await asyncio.sleep(0)
                if self._closed:
                    return
            shard = shards[str(shard_map.primary)] = self._adopt(shard_map)
            for first, last in shard_map.slots if in_cluster else ((0, 0),):
                by_slot[first : last + 1] = [shard] * (last - first + 1)
        self.shards, self._shard_by_slot = shards, by_slot
        self._slot_of = key_slot if in_cluster else _everywhere
        self._mapped = frozenset(
            place for shard in topology.shards for place in self._places(shard)
        )
        self._retire_the_rest()

    def _places(self, shard: ShardMap) -> list[_Place]:
        """Return the links that a shard needs: its primary's, its writer's, its replicas'."""
        writer = Role.WRITER if self._settings.confirm_replicas else Role.PRIMARY
        replicas = shard.replicas if self._settings.uses_replicas else ()
        return [
            (shard.primary, Role.PRIMARY),
            (shard.primary, writer),
            *((address, Role.REPLICA) for address in replicas),
        ]

    def _adopt(self, shard: ShardMap) -> ShardRoute:
        primary, writer, *replicas = (self._link(*place) for place in self._places(shard))
        before = self.shards.get(str(shard.primary))
        return ShardRoute(
            shard,
            primary,
            writer,
            tuple(replicas),
            self._settings.read_from,
            before.turn if before else None,
        )

    def _link(self, address: Address, role: Role) -> Link:
        link = self._links.get((address, role))
        if link is None and role is Role.PRIMARY:
            link = self._promoted(address)
        if link is None:
            if self._closed:
                raise RedisUnavailable("flowcache is shutting down.")
            link = self._links[address, role] = self._open(
                address,
                role is Role.REPLICA and self.kind is Kind.CLUSTER,
                self._settings,
                self._link_changed,
            )
        link.server_name = self._names.get(address)  # a redirection leads there before the map does
        return link

    def _open(
        self,
        address: Address,
        readonly: bool,
        settings: StoreSettings,
        on_change: Callable[[Link], None] = lambda link: None,
    ) -> Link:
        now = self._clock()
        self._open_at = max(self._open_at, now) + _OPEN_PAUSE
        return Link(
            address,
            settings,
            self._deadlines,
            self._slowness,
            self._listened,
            readonly=readonly,
            on_change=on_change,
            delay=max(0.0, self._open_at - now - _AT_ONCE * _OPEN_PAUSE),
        )

    def _promoted(self, address: Address) -> Link | None:
        """Return the link to a replica that has become a primary: it is connected already."""
        link = self._links.get((address, Role.REPLICA))
        if link is None or link.state is not LinkState.READY:
            return None
        del self._links[address, Role.REPLICA]
        self._links[address, Role.PRIMARY] = link
        link.promote()
        return link

    def _link_changed(self, link: Link) -> None:
        if link.state is LinkState.READY:
            _log.info("redis link up", address=str(link.address))
            if link.proven:
                self._tell_back(link)
            return
        self._refresh_wanted.set()
        if link.fresh_fault:
            _log.warning("redis link down", address=str(link.address), fault=link.status().fault)

    def _tell_back(self, link: Link) -> None:
        for shard in self.shards.values():
            accesses = shard.accesses_by(link)
            if accesses:
                self._on_back(shard.name, accesses)

    def _retire_the_rest(self) -> None:
        """Drain the links that are no longer part of the map, and not just redirected to."""
        now = self._clock()
        self._redirected = {
            place: at for place, at in self._redirected.items() if now - at < _REDIRECTED_KEPT
        }
        for place in self._links.keys() - self._mapped - self._redirected.keys():
            self._drain(self._links.pop(place))

    def _drain(self, link: Link) -> None:
        task = asyncio.create_task(link.drain(), name=f"drain {link.address}")
        self._draining[task] = link
        task.add_done_callback(self._draining.pop)


def _everywhere(key: bytes) -> int:
    """Return the one place there is outside a cluster."""
    return 0
