"""A stream in Redis: an entry a record, its JSON in the field ``record``.

A batch is appended by one script, all or nothing: pipelined commands of which one fails in the
middle would leave a writer's records out of order. The stream is bounded: who does not read it in
time misses what was cut off.
"""

from __future__ import annotations

from flowcache.delivery.batch import Batch
from flowcache.delivery.settings import Stream
from flowcache.errors import Failure, Forbidden
from flowcache.outbound.judging import NotNow, Refused
from flowcache.ports import APPEND, Clock, Command
from flowcache.printable import printable
from flowcache.store.redis_store import RedisStore
from flowcache.store.settings import StoreSettings

__all__ = ["StreamDestination"]


class StreamDestination:
    """Append to a stream at the Redis of ``store``, which has so many ``seconds`` for a batch."""

    def __init__(
        self, settings: Stream, store: StoreSettings, seconds: float, clock: Clock
    ) -> None:
        self._store = RedisStore(store, clock)
        self._key = settings.key
        self._most = b"%d" % settings.most
        self._seconds = seconds
        self._clock = clock
        self._started = False

    async def send(self, batch: Batch) -> None:
        """Append a batch; see `Destination.send`."""
        if not self._started:
            await self._store.start()
            self._started = True
        command = Command((APPEND, self._key, self._most, b"record", *batch.lines), writes=True)
        try:
            await self._store.execute(command, self._clock() + self._seconds)
        except Forbidden as fault:
            key = printable(self._key.decode())
            raise Refused(
                f"{fault.message} Give it what the stream needs, +eval +evalsha +xadd and ~{key}, "
                "and start the delivery again (SIGHUP)."
            ) from None
        except Failure as fault:
            # Below 500: another type is under the key.
            kind = Refused if fault.status < 500 else NotNow
            raise kind(fault.message) from None

    async def close(self) -> None:
        """Close the links."""
        if self._started:
            await self._store.close()
