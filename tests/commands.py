"""Commands as the catalogue makes them: with their limits, and where their values are."""

from __future__ import annotations

from typing import Any

from flowcache.contract.request import Request
from flowcache.operations.catalogue import CATALOGUE
from flowcache.ports import DEFAULT_SIZES, Bound, Command, Values

__all__ = ["command", "request"]


def request(operation: str, key: bytes = b"k", **fields: Any) -> Request:
    """Return a request for an operation, whose own fields are ``fields``."""
    return Request(operation, key, fields, 3600, "string", None, None, None, None)


def _rows() -> dict[bytes, tuple[Values, Bound]]:
    rows = {}
    for name, operation in CATALOGUE.items():
        made = operation.command(request(name, **operation.sample.fields), DEFAULT_SIZES)
        rows[made.name] = made.values, made.bound
    return rows


_ROWS = _rows()


def command(*words: bytes, **more: Any) -> Command:
    """Return the command of these words; one that the catalogue hasn't has no limits."""
    values, bound = _ROWS.get(words[0], (Values.IN_CLEAR, Bound.SMALL))
    return Command(words, values=values, bound=bound, **more)
