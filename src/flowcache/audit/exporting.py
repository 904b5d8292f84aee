"""Records as JSON lines or CSV, for other programs and for people with a spreadsheet."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TextIO

import msgspec

from flowcache.audit.chain import Entry, writer_name
from flowcache.printable import printable, printable_json

__all__ = ["Format", "fields", "moment", "write"]


class Format(StrEnum):
    """What an export is written as."""

    JSONL = "jsonl"
    CSV = "csv"


def fields(entry: Entry) -> dict[str, Any]:
    """Return a record as named fields: the time as ISO 8601 in UTC, flags as booleans."""
    named = msgspec.structs.asdict(entry)
    named["writer"] = writer_name(entry.writer)
    named["at"] = moment(entry.at)
    named["hit"] = None if entry.hit is None else bool(entry.hit)
    named["stale"] = bool(entry.stale)
    return named


def moment(at: float) -> str:
    """Return Unix seconds as ISO 8601 in UTC; what somebody made of it otherwise."""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    except (TypeError, ValueError, OverflowError, OSError):
        return str(at)


def write(entries: Iterable[Entry], format_: Format, out: TextIO) -> int:
    """Write ``entries`` to ``out``; return how many there were."""
    count = 0
    row = _WRITERS[format_](out)
    for entry in entries:
        row(fields(entry))
        count += 1
    return count


def _jsonl(out: TextIO) -> Callable[[dict[str, Any]], None]:
    encode = msgspec.json.Encoder().encode
    return lambda named: _discard(out.write(printable_json(encode(named).decode()) + "\n"))


def _csv(out: TextIO) -> Callable[[dict[str, Any]], None]:
    table = csv.DictWriter(out, Entry.__struct_fields__)
    table.writeheader()
    return lambda named: _discard(
        table.writerow({name: _harmless(value) for name, value in named.items()})
    )


def _discard(_: object) -> None:
    pass


def _harmless(value: object) -> object:
    """Keep spreadsheet and terminal from running what a caller wrote into a key: they show it.

    A quote in front is what OWASP advises against CSV injection. JSON lines decode to what is kept.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return "'" + text if text[:1] in ("=", "+", "-", "@") else text


_WRITERS = {Format.JSONL: _jsonl, Format.CSV: _csv}
