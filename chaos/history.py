"""What is written down while a scenario runs; everything else is computed from it.

All times are seconds of `time.monotonic`, which on Linux is one clock for all processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, auto
from functools import cache
from typing import Any, Literal

import msgspec
from redis.crc import key_slot

__all__ = [
    "LOST",
    "OK",
    "READS",
    "REFUSED",
    "SILENT",
    "Call",
    "Found",
    "Loss",
    "Operation",
    "Strike",
    "holds",
    "slot_of",
]

Operation = Literal["GET", "HGETALL", "SET", "HSET", "INCR"]
READS: frozenset[Operation] = frozenset({"GET", "HGETALL"})

# Outcomes beside flowcache's own codes.
OK = "ok"
REFUSED = "refused"
"""No connection was to be had, so nothing was sent."""
LOST = "lost"
"""The connection ended before the answer."""
SILENT = "silent"
"""No answer within the caller's patience, which is far beyond the deadline."""


class Call(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One attempt of one call, as its caller saw it."""

    operation: Operation
    key: str
    seq: int
    """Which write to its key it is, from 1 on; 0 for a read."""
    attempt: int
    """1, or 2 for a caller's repetition."""
    once: bool
    """Whether it carries an `idempotencyKey`, the same one at each attempt."""
    scheduled: float
    """When it should have been sent."""
    woken: float
    """When the generator came to it; the difference is the generator's own delay."""
    answered: float
    """When its answer was there, or the caller knew that there would be none."""
    outcome: str
    """`OK`, a code of flowcache's, `REFUSED`, `LOST` or `SILENT`."""
    retryable: bool = False
    stale: bool = False
    data: Any = None

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.outcome == OK

    @property
    def reads(self) -> bool:
        """Whether it only reads."""
        return self.operation in READS

    @property
    def latency(self) -> float:
        """Seconds that the service took: from when the generator came to it."""
        return self.answered - self.woken

    @property
    def lateness(self) -> float:
        """Seconds that the generator itself was late."""
        return self.woken - self.scheduled


class Loss(IntEnum):
    """What Redis itself may lose, by its asynchronous replication, when a primary goes away."""

    NOTHING = auto()
    """No other primary takes over, or the old one hands over in order."""
    UNACKNOWLEDGED = auto()
    """What was read there and had not been acknowledged yet: each write waits for the replicas."""
    ACKNOWLEDGED = auto()
    """What it acknowledged in its last moments."""


@dataclass(slots=True)
class Strike:
    """Something was broken. ``slots`` are those it struck: all others must not notice."""

    what: str
    slots: tuple[range, ...]
    at: float
    may_lose: Loss = Loss.NOTHING
    reads_survive: bool = False
    """Whether a replica is left that could answer reads."""
    failed_over: float | None = None
    """When the servers themselves say that another primary had taken over, or the old one was back;
    writes are possible again from then on."""
    mended: float | None = None
    """When what was broken was put right again."""


@dataclass(frozen=True, slots=True)
class Found:
    """What Redis itself has under a key when all is over."""

    value: Any
    """A string as text, a hash as a dict."""
    ttl_ms: int
    """As PTTL says: -1 is a key without a TTL."""


@cache
def slot_of(key: str) -> int:
    """Return the slot of a key, by redis-py and not by the code under test."""
    return int(key_slot(key.encode()))


def holds(slots: Iterable[range], key: str) -> bool:
    """Tell whether a key falls into one of the ranges of slots."""
    slot = slot_of(key)
    return any(slot in owned for owned in slots)
