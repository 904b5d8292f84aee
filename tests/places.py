"""A shard that is nothing but a name, for executors that are made up."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Place"]


@dataclass(frozen=True)
class Place:
    """A shard that is always there, and whose reads nobody else answers."""

    name: str = "127.0.0.1:7000"

    def has_fallback(self) -> bool:
        return False
