"""What the delivery of the audit needs to know."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from flowcache.cxone.settings import CxoneSettings
from flowcache.secret import Secret

__all__ = ["CXONE", "FILE", "HTTP", "STREAM", "DeliverySettings", "Endpoint", "Shape", "Stream"]

STREAM, FILE, HTTP, CXONE = "stream", "file", "http", "cxone"
"""The names of destinations. They stand in files, metrics and logs, and are never renamed."""


class Shape(StrEnum):
    """What the body of a batch is."""

    JSONL = "jsonl"
    JSON = "json"


class Stream(msgspec.Struct, frozen=True):
    """A stream in Redis, cut to about ``most`` entries."""

    key: bytes
    most: int


class Endpoint(msgspec.Struct, frozen=True):
    """An URL that takes batches, with the token that it wants."""

    url: str
    token: Secret | None = None


class DeliverySettings(msgspec.Struct, frozen=True):
    """From which journal to where. Times are in seconds.

    ``file`` is a path, or ``-`` for standard output. ``batch`` is the most records sent as one.
    ``first_wait`` doubles with each failure in a row up to ``longest_wait``.
    """

    journal: Path
    stream: Stream | None = None
    file: str | None = None
    http: Endpoint | None = None
    cxone: CxoneSettings | None = None
    shape: Shape = Shape.JSONL
    batch: int = 500
    timeout: float = 10.0
    first_wait: float = 1.0
    longest_wait: float = 60.0
    ca_file: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The destinations there are."""
        there = {STREAM: self.stream, FILE: self.file, HTTP: self.http, CXONE: self.cxone}
        return tuple(name for name, settings in there.items() if settings is not None)
