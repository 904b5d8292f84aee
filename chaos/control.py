"""The control beside flowcache: a plain client that asks Redis to confirm each write with WAIT.

It tells how much of a loss at a failover is Redis's own. It writes to the shard that is about to be
struck, over one connection and without flowcache, SET and then WAIT for every replica: what all
confirmed must not be lost; what was acknowledged only may be. (One of several is not enough: in an
orderly failover by Sentinel another replica goes on confirming what the old primary takes.)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import redis

from chaos.history import Found, holds
from chaos.workload import tags
from tests.servers import RedisProcess

__all__ = ["Control", "controlled"]

PREFIX = "control:"
PERIOD_SECONDS = 0.01
WAIT_MS = 50
TTL_MS = 3_600_000


@dataclass(slots=True)
class Control:
    """What was acknowledged, and which of it all replicas confirmed; keys of one write each."""

    confirmed: list[str] = field(default_factory=list)
    unconfirmed: list[str] = field(default_factory=list)

    def lost(self, found: Mapping[str, Found]) -> tuple[int, int]:
        """Return how many confirmed, and how many merely acknowledged, writes are not there."""
        lost_confirmed = sum(key not in found for key in self.confirmed)
        return lost_confirmed, sum(key not in found for key in self.unconfirmed)


@contextmanager
def controlled(primary: RedisProcess, slots: Sequence[range], replicas: int) -> Iterator[Control]:
    """Write to a primary until it no longer takes it, or the block ends."""
    control = Control()
    over = threading.Event()
    homes = [tag for tag in tags() if holds(slots, tag)]

    def write() -> None:
        number = 0
        with closing(primary.client(socket_timeout=1.0)) as client:
            while not over.wait(PERIOD_SECONDS):
                key = f"{PREFIX}{{{homes[number % len(homes)]}}}:{number}"
                number += 1
                try:
                    client.set(key, "1", px=TTL_MS)
                    confirmed = client.wait(replicas, WAIT_MS) >= replicas
                except redis.RedisError:
                    # Whether this one was done is unknown; nobody was promised anything.
                    return
                (control.confirmed if confirmed else control.unconfirmed).append(key)

    thread = threading.Thread(target=write, name="control", daemon=True)
    thread.start()
    try:
        yield control
    finally:
        over.set()
        thread.join()
