"""The guard: a store behind one circuit breaker a shard.

What counts for a circuit: no answer, or a refusal that says Redis is not well. What does not: a
client's mistake (Redis answered it), a refusal of writes only, a cancellation, and a timeout of a
call that was given so little time that it proves nothing: else one client with ``deadlineMs: 1``
could open the circuit for all.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from flowcache.errors import (
    CircuitOpen,
    DeadlineExceeded,
    Failure,
    RedisUnavailable,
    WriteRefused,
)
from flowcache.ports import Clock, Command, Reply, Store
from flowcache.resilience.breaker import Breaker, BreakerSettings, Refused, State, Transition
from flowcache.status import CircuitStatus

__all__ = ["Guard"]

_log = structlog.get_logger(__name__)

_MOST_CIRCUITS = 4096
"""Shards are named for their primaries; a cluster that is rebuilt often leaves old names behind."""


class Guard:
    """A store that is not asked while it is known not to answer.

    ``telling_seconds`` is the least time a call must have been given for its timeout to count.
    """

    __slots__ = ("_breakers", "_clock", "_settings", "_store", "_telling_seconds")

    def __init__(
        self, store: Store, settings: BreakerSettings, telling_seconds: float, clock: Clock
    ) -> None:
        self._store = store
        self._settings = settings
        self._telling_seconds = telling_seconds
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
        except WriteRefused:
            raise
        except RedisUnavailable:
            settle = breaker.fail
            raise
        except DeadlineExceeded:
            if deadline - began >= self._telling_seconds:
                settle = breaker.fail
            raise
        except Failure:  # Redis answered, and well
            settle = breaker.succeed
            raise
        finally:
            settle(permit, clock())

    def _new_breaker(self, shard: str) -> Breaker:
        if len(self._breakers) >= _MOST_CIRCUITS:
            now = self._clock()
            self._breakers = {
                name: breaker
                for name, breaker in self._breakers.items()
                if breaker.state(now) is not State.CLOSED
            }
        breaker = self._breakers[shard] = Breaker(self._settings, _reporter(shard))
        return breaker

    def circuits(self) -> list[CircuitStatus]:
        """Return the circuit of each shard that has been called."""
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
