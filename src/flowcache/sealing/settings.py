"""What the vault needs to know."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from flowcache.sealing.keys import Key

__all__ = ["UNNAMED", "Plaintext", "SealingSettings"]

UNNAMED = b""
"""The space of the keys that are in no namespace."""


class Plaintext(StrEnum):
    """What becomes of a value in clear that is read in a sealed space."""

    REFUSE = "refuse"
    """It is refused: nobody can slip one in."""
    READ = "read"
    """It passes, until it is written again: for a space that was not sealed from the beginning."""


class SealingSettings(NamedTuple):
    """``spaces`` are sealed, each by what its keys begin with in Redis.

    ``keys`` open, and the one of them whose id is ``active`` seals.
    """

    spaces: tuple[bytes, ...]
    keys: tuple[Key, ...]
    active: str
    plaintext: Plaintext = Plaintext.REFUSE
