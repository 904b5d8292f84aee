"""The guard: a store behind one circuit breaker a shard.

What counts for a circuit: no answer, or a refusal that says Redis is not well. What does not: a
client's mistake (Redis answered it), a call that Redis declines though it is well, a cancellation,
and a timeout of a call that was given so little time that it proves nothing: else one client with
``deadlineMs: 1`` could open the circuit for all.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from flowcache.errors import (
    CircuitOpen,
    DeadlineExceeded,
    Declined,
    Failure,
    RedisUnavailable,
)
from flowcache.ports import Clock, Command, Reply, Store
from flowcache.resilience.breaker import Breaker, BreakerSettings, Refused, Transition
from flowcache.status import CircuitStatus

__all__ = ["Guard"]

_log = structlog.get_logger(__name__)


class Guard:
    """A store that is not asked while it is known not to answer.

    ``min_budget`` is the least time a call must have been given for its timeout to count.
    """

    __slots__ = ("_breakers", "_clock", "_min_budget", "_settings", "_store")

    def __init__(
        self, store: Store, settings: BreakerSettings, min_budget: float, clock: Clock
    ) -> None:
        self._store = store
        self._settings = settings
        self._min_budget = min_budget
        self._clock = clock
        self._breakers: dict[str, Breaker] = {}

    async def execute(self, command: Command, deadline: float) -> Reply:
        """Run ``command`` as `Store.execute` does, unless the shard's circuit is open.

        Raises:
            CircuitOpen: nothing was sent; ``retry_after`` is when the next probe may go.
            Failure: as `Store.execute`.
        """
        clock = self._clock
        shard = self._store.shard_of(command.key)
        breaker = self._breakers.get(shard) or self._new_breaker(shard)
        began = clock()
        permit = breaker.acquire(began)
        if isinstance(permit, Refused):
            raise CircuitOpen(
                "Redis has not been answering for this key; it is given time to recover.",
                retry_after=permit.retry_after,
            )
        settle = breaker.ignore  # a cancellation, a bug: they say nothing about Redis
        try:
            reply = await self._store.execute(command, deadline)
            settle = breaker.succeed
            return reply
        except Declined:
            raise
        except RedisUnavailable:
            settle = breaker.fail
            raise
        except DeadlineExceeded:
            if deadline - began >= self._min_budget:
                settle = breaker.fail
            raise
        except Failure:  # Redis answered, and well
            settle = breaker.succeed
            raise
        finally:
            settle(permit, clock())

    def _new_breaker(self, shard: str) -> Breaker:
        self._forget_the_gone()
        breaker = self._breakers[shard] = Breaker(self._settings, _reporter(shard))
        return breaker

    def came_back(self, shard: str) -> None:
        """Let the next call for ``shard`` probe at once, rather than when the open time is over."""
        breaker = self._breakers.get(shard)
        if breaker is not None:
            breaker.invite(self._clock())

    def _forget_the_gone(self) -> None:
        """Drop circuits of shards that are no more: nobody calls them, so they would never close.

        A shard is named for its primary: each failover leaves an old name behind.
        """
        live = self._store.shards()
        for shard in self._breakers.keys() - live:
            del self._breakers[shard]

    def circuits(self) -> list[CircuitStatus]:
        """Return the circuit of each shard that has been called."""
        self._forget_the_gone()
        now = self._clock()
        return [
            CircuitStatus(
                shard,
                (snapshot := breaker.snapshot(now)).state.value,
                snapshot.failures,
                round(snapshot.retry_after, 3),
                snapshot.refused,
                snapshot.transitions,
            )
            for shard, breaker in self._breakers.items()
        ]


def _reporter(shard: str) -> Callable[[Transition], None]:
    def report(transition: Transition) -> None:
        _log.warning(
            "circuit",
            shard=shard,
            before=transition.before.value,
            after=transition.after.value,
            reason=transition.reason,
        )

    return report
