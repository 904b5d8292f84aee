"""What the vault needs to know."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from flowcache.sealing.keys import KeyProvider

__all__ = ["Plaintext", "SealingSettings"]


class Plaintext(StrEnum):
    """What becomes of a value in clear that is read in a sealed space."""

    REFUSE = "refuse"
    """It is refused: nobody can slip one in."""
    READ = "read"
    """Text passes, until it is written again: for a space that was not sealed from the first."""


class SealingSettings(NamedTuple):
    """All keys of ``provider`` open, and the one of them whose id is ``active`` seals.

    ``spaces`` are sealed: what the keys of each namespace begin with in Redis; None for every key
    that a caller can name, in a namespace or in none.
    """

    provider: KeyProvider
    active: str
    spaces: tuple[bytes, ...] | None = None
    plaintext: Plaintext = Plaintext.REFUSE
