"""Room for what is held of dear calls: a weight in all, which no client can take from the others.

A client may have as much as it leaves free: alone a half, of two a third each. So whoever comes
finds some, without a look at who else has any. (The dynamic thresholds of Choudhury and Hahne,
"Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998.)
"""

from __future__ import annotations

from typing import Final

__all__ = ["Room"]

_MOST: Final = 1 << 20
"""In units of `contract.bounds.weight`, 64 bytes each: 64 MiB."""


class Room:
    """Count what each client holds."""

    __slots__ = ("_held", "free")

    def __init__(self, most: int = _MOST) -> None:
        self._held: dict[str, int] = {}
        """Only of clients that hold something."""
        self.free = most

    def take(self, client: str, weight: int) -> bool:
        """Hold ``weight`` for ``client``, to be given back; False, and nothing: it is too much."""
        held = self._held.get(client, 0) + weight
        if held > self.free:
            return False
        self._held[client] = held
        self.free -= weight
        return True

    def give(self, client: str, weight: int) -> None:
        """Give back what was taken."""
        self.free += weight
        held = self._held[client] - weight
        if held:
            self._held[client] = held
        else:
            del self._held[client]
