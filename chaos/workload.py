"""Which calls are made: reads, writes and counters on keys that are spread over all slots.

Keys hang on *tags*, one for each stripe of 64 slots. A call picks a tag at random, so that each
shard gets its share of the load however its calls fare, and then a key of that tag on which no
write is under way; where there is none, a new one is begun. So a key has one writer at a time, and
nothing ever waits for it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from chaos.history import Operation, slot_of

__all__ = ["Planned", "Workload"]

SLOTS = 16_384
STRIPE = 64

READS_SHARE = 0.5
WRITES = ("counter", "ledger", "register", "hash")
WEIGHTS = (4, 3, 2, 2)
ONCE_SHARE = 0.5
"""The share of writes that carry an `idempotencyKey` and are repeated by their callers."""
TTL = 3600


def tags() -> list[str]:
    """Return a hash tag for each stripe of slots, in the order of the stripes."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < SLOTS // STRIPE:
        tag = str(number)
        found.setdefault(slot_of(tag) // STRIPE, tag)
        number += 1
    return [found[stripe] for stripe in sorted(found)]


@dataclass(frozen=True, slots=True)
class Planned:
    """One call to be made."""

    operation: Operation
    key: str
    body: bytes
    seq: int = 0
    once: bool = False


class Workload:
    """Decide on the next call; know which keys there are and which are being written."""

    def __init__(self, random: Random) -> None:
        """Begin without any key."""
        self._random = random
        self._tags = tags()
        self._kept: dict[str, list[str]] = defaultdict(list)
        """Every key that may be read, by tag."""
        self._free: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
        """Keys to be written again, by tag, kind and whether with an `idempotencyKey`."""
        self._made = 0
        self._seq: dict[str, int] = defaultdict(int)

    def next(self) -> Planned:
        """Return the next call. After a write, tell `settled` when it has come to its end."""
        tag = self._random.choice(self._tags)
        if self._kept[tag] and self._random.random() < READS_SHARE:
            return self._read(self._random.choice(self._kept[tag]))
        (kind,) = self._random.choices(WRITES, WEIGHTS)
        return self._write(tag, kind, once=self._random.random() < ONCE_SHARE)

    def settled(self, write: Planned) -> None:
        """Let the key of a write be written again."""
        kind, once, tag, _ = _parts(write.key)
        if kind != "ledger":
            self._free[tag, kind, once].append(write.key)

    def _read(self, key: str) -> Planned:
        operation: Operation = "HGETALL" if key.startswith("hash") else "GET"
        return Planned(operation, key, _body(operation, key))

    def _write(self, tag: str, kind: str, *, once: bool) -> Planned:
        free = self._free[tag, kind, once]
        key = free.pop(self._random.randrange(len(free))) if free else self._new(tag, kind, once)
        self._seq[key] += 1
        seq = self._seq[key]
        fields: dict[str, Any] = {"ttl": TTL}
        if once:
            fields["idempotencyKey"] = f"{key}#{seq}"
        operation: Operation = "INCR"
        if kind != "counter":
            operation = "HSET" if kind == "hash" else "SET"
            fields["value"] = {"key": key, "seq": seq, "same": seq}
        return Planned(operation, key, _body(operation, key, **fields), seq, once)

    def _new(self, tag: str, kind: str, once: bool) -> str:
        self._made += 1
        key = f"{kind}:{'once' if once else 'plain'}:{{{tag}}}:{self._made}"
        self._kept[tag].append(key)
        return key


def _parts(key: str) -> tuple[str, bool, str, int]:
    kind, once, tag, number = key.split(":")
    return kind, once == "once", tag.strip("{}"), int(number)


def _body(operation: Operation, key: str, **fields: Any) -> bytes:
    return msgspec.json.encode(
        {"operation": operation, "key": key, "flowId": "chaos", "interactionId": key, **fields}
    )
