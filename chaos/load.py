"""The load generator: a process of its own with an open loop.

Calls leave on a schedule that is drawn beforehand (a Poisson process, as independent callers make
one), whatever became of those before them. So a stall delays nobody's sending, and latency counts
from when the call should have left; how much of it was the generator's own delay is known of each.

Callers behave as NICE CXone's REST action does: a write with an `idempotencyKey` is tried twice,
when its answer says `retryable` or none came. Others are not repeated.

It is told a `Job` on standard input, begins, says how it goes a few times a second, and ends at a
second line: then it waits for the answers that are due and tells every call.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
import sys
import threading
import time
from collections import Counter
from random import Random

import msgspec

from chaos.client import Answer, Pool
from chaos.history import LOST, REFUSED, SILENT, Call, slot_of
from chaos.workload import Planned, Workload

__all__ = ["Job", "Progress", "Told"]

REPEAT_AFTER_SECONDS = 0.25
REPORT_SECONDS = 0.25
TRIES = 2
TICK_SECONDS = 0.005


class Job(msgspec.Struct, frozen=True):
    """What to load; ``rate`` is in calls a second.

    Callers choose among several ports by chance, and repeat a call at the next one. With several
    ``tokens`` there is a client for each, and each key belongs to one of them.
    """

    ports: tuple[int, ...]
    tokens: tuple[str, ...]
    rate: float
    seed: int
    ca: str | None = None
    """The PEM file of the authority of the service's certificate; None where it speaks no TLS."""


class Progress(msgspec.Struct, frozen=True, tag=True):
    """How it goes."""

    calls: int
    failed: int


class Told(msgspec.Struct, frozen=True, tag=True):
    """Everything that happened."""

    began: float
    ended: float
    calls: list[Call]
    ticks: list[tuple[float, float]]
    """When the generator's event loop woke from each sleep of `TICK_SECONDS`, and how late."""


class Load:
    """Callers, each a task while its call is under way."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._random = Random(job.seed)
        self._workload = Workload(self._random)
        tls = None if job.ca is None else ssl.create_default_context(cafile=job.ca)
        self._pools = [[Pool(port, token, tls) for port in job.ports] for token in job.tokens]
        self._calls: list[Call] = []
        self._outcomes: Counter[bool] = Counter()
        self._ticks: list[tuple[float, float]] = []

    async def run(self, stop: asyncio.Event) -> Told:
        """Load until told to stop, and until the last answer is there."""
        clock = time.monotonic
        helpers = [asyncio.create_task(self._report()), asyncio.create_task(self._tick())]
        began = at = clock()
        async with asyncio.TaskGroup() as callers:
            while not stop.is_set():
                at += self._random.expovariate(self._job.rate)
                if (wait := at - clock()) > 0:
                    await asyncio.sleep(wait)
                callers.create_task(self._caller(self._workload.next(), at))
            ended = clock()
        for helper in helpers:
            helper.cancel()
        for pools in self._pools:
            for pool in pools:
                pool.close()
        return Told(began, ended, self._calls, self._ticks)

    async def _caller(self, planned: Planned, scheduled: float) -> None:
        pools = self._pools[slot_of(planned.key) % len(self._pools)]
        first = self._random.randrange(len(pools))
        for attempt in range(1, TRIES + 1):
            woken = time.monotonic()
            pool = pools[(first + attempt) % len(pools)]
            answer = await pool.call(planned.body)
            self._note(planned, attempt, scheduled, woken, answer)
            if not planned.once or not _worth_repeating(answer):
                break
            scheduled = time.monotonic() + REPEAT_AFTER_SECONDS
            await asyncio.sleep(REPEAT_AFTER_SECONDS)
        if planned.seq:
            self._workload.settled(planned)

    def _note(
        self, planned: Planned, attempt: int, scheduled: float, woken: float, answer: Answer
    ) -> None:
        self._calls.append(
            Call(
                operation=planned.operation,
                key=planned.key,
                seq=planned.seq,
                attempt=attempt,
                once=planned.once,
                scheduled=scheduled,
                woken=woken,
                answered=time.monotonic(),
                outcome=answer.outcome,
                retryable=answer.retryable,
                stale=answer.stale,
                data=answer.data,
            )
        )
        self._outcomes[self._calls[-1].ok] += 1

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            _say(Progress(self._outcomes.total(), self._outcomes[False]))

    async def _tick(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            self._ticks.append((now, now - before - TICK_SECONDS))


def _worth_repeating(answer: Answer) -> bool:
    return answer.retryable or answer.outcome in (LOST, REFUSED, SILENT)


def _say(what: Progress | Told) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


async def _main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def wait_for_the_end() -> None:
        sys.stdin.buffer.readline()
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    _say(await Load(job).run(stop))


if __name__ == "__main__":
    # Calls are plain records in one list: nothing to collect, and no pauses wanted.
    gc.disable()
    asyncio.run(_main())
