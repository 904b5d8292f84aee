"""What the vault needs to know."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from flowcache.encryption.keys import KeyProvider

__all__ = ["Plaintext", "SealingSettings"]


class Plaintext(StrEnum):
    """What becomes of values in clear in a sealed space.

    A space that holds some already comes under encryption by going through these from the last to
    the first, and leaves it the other way: at each step, who is one step behind reads everything.
    """

    REFUSE = "refuse"
    """They are refused: nobody can slip one in."""
    READ = "read"
    """Text passes until it is written again, sealed."""
    WRITE = "write"
    """Text passes and is written, too; what is sealed is opened."""


class SealingSettings(NamedTuple):
    """All keys of ``provider`` open, and the one of them whose id is ``active`` seals.

    ``spaces`` are sealed: what the keys of each namespace begin with in Redis; None for every key
    that a caller can name, in a namespace or in none.
    """

    provider: KeyProvider
    active: str
    spaces: tuple[bytes, ...] | None = None
    plaintext: Plaintext = Plaintext.REFUSE
