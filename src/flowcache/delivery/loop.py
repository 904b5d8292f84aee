"""One destination's loop: a batch, until it is taken; then the next.

| what came of it | what follows |
|---|---|
| taken | its place is kept, and the next batch is sent at once |
| not now | the same batch again, after the time that was asked for, or one that doubles |
| refused | the loop stops, and says so: a record is neither dropped nor sent for ever |
| a bug of ours | the same |

A batch is sent again as it was. Its place is kept after it was taken, never before: a crash in
between sends it twice. So it is delivered at least once, and, since nothing overtakes, in order.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import stamina
import structlog

from flowcache.delivery.batch import Batch
from flowcache.delivery.destination import Destination
from flowcache.delivery.feed import Feed
from flowcache.delivery.progress import Progress
from flowcache.delivery.settings import DeliverySettings
from flowcache.outbound.judging import NotNow, Refused

__all__ = ["Loop"]

_log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.5
"""How often the journal is looked at when everything was delivered."""


class Loop:
    """Deliver to the destination ``name`` what ``feed`` gives."""

    def __init__(
        self,
        name: str,
        destination: Destination,
        feed: Feed,
        progress: Progress,
        settings: DeliverySettings,
    ) -> None:
        self.name = name
        self._destination = destination
        self._feed = feed
        self._progress = progress
        self._first_wait = settings.first_wait
        self._longest_wait = settings.longest_wait
        self._batch: Batch | None = None
        """What is to be sent next; kept until it was taken."""
        self.is_well = True
        """Whether the last attempt went well, or there was none."""
        self._sending = asyncio.Lock()
        """Held from when a batch is sent until its place is kept."""

    async def run(self) -> None:
        """Deliver until the destination refuses."""
        try:
            while True:
                async for attempt in stamina.retry_context(
                    on=self._wait,
                    attempts=None,
                    timeout=None,
                    wait_initial=self._first_wait,
                    wait_max=self._longest_wait,
                    wait_jitter=self._first_wait,
                ):
                    with attempt:
                        sent = await self._step()
                if not sent:
                    await asyncio.sleep(_POLL_SECONDS)
        except Refused as fault:
            self._failed(str(fault), stopped=True)
        except Exception as bug:
            _log.error("audit_delivery_bug", destination=self.name, exc_info=bug)
            self._failed(f"a bug: {type(bug).__name__}", stopped=True)

    async def catch_up(self) -> str | None:
        """Deliver what is due now, without trying again; return why not all of it was."""
        try:
            with self._feed.up_to_now():
                while await self._step():
                    pass
        except (NotNow, Refused) as fault:
            self._failed(str(fault), stopped=isinstance(fault, Refused))
            return str(fault)
        return None

    async def _step(self) -> bool:
        """Send one batch; tell whether there was any.

        Raises:
            NotNow, Refused: it was not taken.
        """
        async with self._sending:
            batch = self._batch = self._batch or self._next()
            if batch is None:
                return False
            await self._destination.send(batch)
            self._batch = None
            self._feed.delivered(batch)
            self._progress.delivered(self.name, batch)
            self._tell(batch)
            return True

    def _next(self) -> Batch | None:
        batch = self._feed.next()
        if left := self._feed.left_behind():
            _log.error(
                "audit_records_moved_away_undelivered",
                destination=self.name,
                records=left,
            )
            self._progress.left_behind(self.name, left)
        return batch

    async def finish(self, running: asyncio.Task[None], limit: float) -> bool:
        """End ``running``, the task of `run`, between two batches if that is soon, in seconds.

        Return whether it was: otherwise a batch may be under way still, and is sent again at the
        next start, not now.
        """
        is_between = False
        with suppress(TimeoutError):
            async with asyncio.timeout(limit), self._sending:
                running.cancel()
                is_between = True
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return is_between

    async def close(self) -> None:
        """Close the destination and the journal."""
        self._feed.close()
        await self._destination.close()

    def _wait(self, fault: Exception) -> bool | float:
        """Say whether, and after how many seconds, to try again; True: as the back-off says."""
        if not isinstance(fault, NotNow):
            return False
        self._failed(str(fault), stopped=False)
        # Never at once: one that asks for no time would be asked without a pause.
        return True if fault.after is None else max(fault.after, self._first_wait)

    def _failed(self, reason: str, *, stopped: bool) -> None:
        if stopped:
            _log.error("audit_delivery_stopped", destination=self.name, fault=reason)
        elif self.is_well:
            _log.warning("audit_delivery_failed", destination=self.name, fault=reason)
        self.is_well = False
        self._progress.failed(self.name, reason, stopped=stopped)

    def _tell(self, batch: Batch) -> None:
        if batch.missed:
            _log.error(
                "audit_records_pruned_undelivered",
                destination=self.name,
                writer=batch.writer,
                records=batch.missed,
            )
        if not self.is_well:
            _log.warning("audit_delivery_resumed", destination=self.name)
        self.is_well = True
