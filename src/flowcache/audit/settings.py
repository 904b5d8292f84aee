"""What the audit needs to know."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from flowcache.secret import Secret

__all__ = ["AuditSettings", "KeyNames", "Mode"]


class Mode(StrEnum):
    """What a call's answer promises of its record."""

    RELAXED = "relaxed"
    """It is written soon: a crash may lose the newest; a broken journal holds nobody up."""
    STRICT = "strict"
    """It is on disk before the answer leaves, or the answer is a refusal."""


class KeyNames(StrEnum):
    """How key names are kept."""

    PLAIN = "plain"
    MASKED = "masked"
    HMAC = "hmac"


class AuditSettings(msgspec.Struct, frozen=True):
    """Where records go and how long they stay. Without a ``journal``, ``ring`` is all there is."""

    ring: int = 1000
    journal: Path | None = None
    mode: Mode = Mode.RELAXED
    keys: KeyNames = KeyNames.PLAIN
    hmac_secret: Secret | None = None
    signing_key: Secret | None = None
    keep_days: int = 365
    max_mb: int = 1024
