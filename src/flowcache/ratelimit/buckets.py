"""Token buckets: how many calls a client may make, and how many wrong guesses an address.

A bucket holds ``burst`` tokens and earns ``per_second``. It is kept as one number, the time when
all that was taken will have been earned (the *generic cell rate algorithm*): no timer fills it, and
Redis can keep the same number for a fleet (`store/scripts/rate.lua`).
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv4Address, ip_address, ip_network
from typing import NamedTuple, Protocol

__all__ = ["Bucket", "FailedAttempts", "Limiter", "Rate", "owner"]

_EPSILON = 1e-9
"""Seconds below which a wait is the rounding of a float."""


class Rate(NamedTuple):
    """How often: ``per_second`` in the long run, ``burst`` at once."""

    per_second: float
    burst: int


class Limiter(Protocol):
    """Something that calls are taken from, one by one."""

    def take(self, now: float) -> float:
        """Take one at ``now`` and return 0.0; else the seconds until there is one to take."""


class Bucket:
    """A bucket of this process alone; full at first. A `Limiter`."""

    __slots__ = ("_earned", "_tolerance", "interval")

    def __init__(self, rate: Rate) -> None:
        self.interval = 1.0 / rate.per_second
        self._tolerance = (rate.burst - 1) * self.interval
        self._earned = float("-inf")

    def take(self, now: float) -> float:
        earned = self._earned
        if earned < now:
            earned = now
        wait = earned - now - self._tolerance
        if wait > _EPSILON:
            return wait
        self._earned = earned + self.interval
        return 0.0

    def correct(self, earned: float) -> None:
        """Learn from who knows better when all that was taken will have been earned."""
        self._earned = earned


class FailedAttempts:
    """A bucket for each address that showed a wrong credential; at most ``capacity`` of them.

    Those heard of longest ago are forgotten first. IPv6 callers own whole networks of 2^64
    addresses: the network has one bucket.
    """

    __slots__ = ("_buckets", "_capacity", "_rate")

    def __init__(self, rate: Rate, capacity: int = 4096) -> None:
        self._rate = rate
        self._capacity = capacity
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, address: str | None, now: float) -> float:
        """Count one failed attempt of ``address``; see `Limiter.take`."""
        name = owner(address)
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= self._capacity:
                self._buckets.popitem(last=False)
            bucket = self._buckets[name] = Bucket(self._rate)
        else:
            self._buckets.move_to_end(name)
        return bucket.take(now)


def owner(address: str | None) -> str:
    """Return who is behind an address: itself, or the network of one that has a whole network."""
    try:
        read = ip_address(address or "")
    except ValueError:
        return address or ""
    if isinstance(read, IPv4Address):
        return str(read)
    return str(read.ipv4_mapped or ip_network((read.packed, 64), strict=False))
