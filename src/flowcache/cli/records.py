"""``flowcache audit query`` and ``export``: the records that fit, for people and for programs."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TextIO, get_type_hints

import typer

from flowcache.cli.audit import Journal, journal_of, read_settings
from flowcache.cli.common import Config, give_up, say
from flowcache.printable import printable

if TYPE_CHECKING:
    from flowcache.audit.reading import Query, Reader
    from flowcache.audit.settings import AuditSettings

__all__ = ["export", "query"]

_COLUMNS = (
    "time",
    "client",
    "address",
    "flow",
    "interaction",
    "operation",
    "key",
    "outcome",
    "hit",
    "ms",
    "shard",
)
_FIRST = ("time", "client", "operation", "key", "outcome")
"""What is shown where there is no room for all."""
_WIDE = 160
"""Columns of a terminal that has room for all."""


class Asked(NamedTuple):
    """Which records are asked for, as options: what both commands take."""

    flow: Annotated[str | None, typer.Option(help="Of this flowId.")] = None
    interaction: Annotated[str | None, typer.Option(help="Of this interactionId.")] = None
    client: Annotated[str | None, typer.Option(help="Of this client.")] = None
    address: Annotated[str | None, typer.Option(help="From this address.")] = None
    request: Annotated[str | None, typer.Option(help="Of this requestId.")] = None
    key: Annotated[
        str | None, typer.Option(help="On this key; hashed first where audit.keys says so.")
    ] = None
    operation: Annotated[str | None, typer.Option(help="Of this operation: GET, SET, ...")] = None
    outcome: Annotated[
        str | None,
        typer.Option(help="ok, a failure's code, or failed for any; intended: unfinished."),
    ] = None
    since: Annotated[
        str | None, typer.Option(help="From this time on: ISO 8601, UTC by default.")
    ] = None
    until: Annotated[
        str | None, typer.Option(help="Before this time: ISO 8601, UTC by default.")
    ] = None


def asks(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Asked` in place of its parameter ``asked``."""

    @wraps(command)
    def run(**given: Any) -> None:
        asked = Asked(**{name: given.pop(name) for name in Asked._fields})
        command(**given, asked=asked)

    taken = inspect.signature(command, eval_str=True)
    own = [each for each in taken.parameters.values() if each.name != "asked"]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
        for name, hint in get_type_hints(Asked, include_extras=True).items()
    ]
    run.__signature__ = taken.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return run


@asks
def query(
    journal: Journal = None,
    config: Config = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    *,
    asked: Asked,
) -> None:
    """Show the newest records that fit, newest last; on a narrow terminal not all of each.

    Examples:

        flowcache audit query -j audit.db --interaction 6011 --outcome failed

        flowcache audit query -c flowcache.toml --key caller:C-1 --since 2026-01-31
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from flowcache.audit.exporting import moment

    settings = read_settings(journal, config)
    path = journal_of(settings)
    wanted = _query(settings, asked, limit)
    with _reading(path) as reader:
        found = list(reader.newest(wanted))
    unreadable = reader.unreadable
    out = Console()
    if not out.is_terminal:
        out = Console(width=1000)  # nothing is cut where another program reads
    columns = _COLUMNS if out.width >= _WIDE else _FIRST
    table = Table(box=box.SIMPLE_HEAD)
    for name in columns:
        table.add_column(name, no_wrap=name == "time", overflow="fold")
    for entry in reversed(found):
        cells = (
            moment(entry.at),
            entry.client,
            entry.address,
            entry.flow,
            entry.interaction,
            entry.operation,
            entry.key,
            " ".join(filter(None, (entry.outcome or entry.kind, entry.detail))),
            None if entry.hit is None else ("yes" if entry.hit else "no"),
            None if entry.latency_ms is None else f"{entry.latency_ms:g}",
            None if entry.shard is None else f"{entry.shard}{' (replica)' * bool(entry.stale)}",
        )
        named = dict(zip(_COLUMNS, cells, strict=True))
        shown = (named[name] for name in columns)
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in shown))
    out.print(table)
    _tell_number(len(found), asked)
    if columns is _FIRST:
        left_out = ", ".join(name for name in _COLUMNS if name not in _FIRST)
        print(f"No room for {left_out}: pipe it, as into less -S.", file=sys.stderr)
    _tell_unreadable(unreadable)


@asks
def export(
    journal: Journal = None,
    config: Config = None,
    form: Annotated[
        str, typer.Option("--format", metavar="jsonl|csv", help="JSON lines, or CSV.")
    ] = "jsonl",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Standard output if none.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    *,
    asked: Asked,
) -> None:
    """Write every record that fits, oldest first, intents and chain records included.

    Examples:

        flowcache audit export -j audit.db --since 2026-01-01 > january.jsonl

        flowcache audit export -c app.toml --format csv --client ivr -o ivr.csv
    """
    from flowcache.audit.exporting import Format, write

    if form not in tuple(Format):
        give_up(f"--format {form}: expected {' or '.join(Format)}.")
    settings = read_settings(journal, config)
    path = journal_of(settings)
    wanted = _query(settings, asked, limit)
    try:
        with _reading(path) as reader:
            if output is None:
                count = write(reader.records(wanted), Format(form), sys.stdout)
                sys.stdout.flush()
            else:
                with _new_file(output) as out:
                    count = write(reader.records(wanted), Format(form), out)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
        raise typer.Exit(1) from None
    except OSError as fault:
        give_up(f"{output}: can't be written: {fault.strerror or fault}.")
    _tell_number(count, asked)
    _tell_unreadable(reader.unreadable)


@contextmanager
def _reading(path: Path) -> Iterator[Reader]:
    from flowcache.audit.database import JournalFault
    from flowcache.audit.reading import Reader

    try:
        with Reader(path) as reader:
            yield reader
    except JournalFault as fault:
        give_up(str(fault))


def _query(settings: AuditSettings, asked: Asked, limit: int | None) -> Query:
    from flowcache.audit.reading import Query
    from flowcache.audit.redaction import redaction
    from flowcache.errors import all_failures
    from flowcache.ports import FAILED, INTENDED

    outcomes = {"ok", FAILED, INTENDED, "cancelled", *(kind.code for kind in all_failures())}
    if asked.outcome is not None and asked.outcome not in outcomes:
        give_up(f"--outcome {asked.outcome}: there are {', '.join(sorted(outcomes))}.")
    kept = None
    if asked.key is not None:
        kept = redaction(settings.keys, settings.hmac_secret)(asked.key.encode())
    exact = asked._asdict() | {
        "key": kept,
        "operation": None if asked.operation is None else asked.operation.upper(),
        "since": _moment("--since", asked.since),
        "until": _moment("--until", asked.until),
    }
    return Query(limit=limit, **exact)


def _tell_number(count: int, asked: Asked) -> None:
    print(f"{count} records", file=sys.stderr)
    if not count and asked.key is not None:
        print(
            "A key is found as the journal keeps it: is the configuration of the service named, "
            "with its audit.keys and audit.hmac_secret?",
            file=sys.stderr,
        )


def _tell_unreadable(count: int) -> None:
    """End with exit code 1 when the file is damaged: what was shown is not all that there was."""
    if count:
        say(
            f"flowcache: the journal is damaged; {count} records can't be read and were passed "
            "over. `flowcache audit verify` says which.",
            to_errors=True,
        )
        raise typer.Exit(1)


def _new_file(path: Path) -> TextIO:
    """Open a new file for its user alone, as the journal is."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    return os.fdopen(file, "w", encoding="utf-8", newline="")


def _moment(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        give_up(f"{option} {text}: expected a time as 2026-01-31T08:00 or 2026-01-31.")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
