"""What was decided by hand about dependencies: the records of ``dependencies.toml``."""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path

import msgspec

__all__ = ["Accepted", "Decisions"]

FILE = Path(__file__).with_name("dependencies.toml")


class Accepted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An advisory that we live with, why, and until when."""

    id: str
    package: str
    reason: str
    until: date


class Decisions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    licences: dict[str, str]
    accepted: tuple[Accepted, ...] = ()

    @staticmethod
    def read() -> Decisions:
        """Read the file.

        Raises:
            msgspec.ValidationError: it has another shape.
        """
        return msgspec.convert(tomllib.loads(FILE.read_text("utf-8")), Decisions)
