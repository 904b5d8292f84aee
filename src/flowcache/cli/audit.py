"""``flowcache audit``: verify, query and export the journal, while it is written or afterwards."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowcache.cli.common import Config, give_up, printable, valid

if TYPE_CHECKING:
    from flowcache.audit.reading import Query, Reader
    from flowcache.audit.settings import AuditSettings
    from flowcache.audit.verifying import Anchor, Chains, Report

__all__ = ["app"]

app = typer.Typer(
    name="audit",
    help="Read, verify and deliver the audit journal. It is only ever opened for reading.",
    no_args_is_help=True,
)

_SHOWN_FAULTS = 20
"""How many faults of one chain are told; the rest are counted."""

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

Journal = Annotated[
    Path | None,
    typer.Option(
        "--journal", "-j", metavar="FILE", help="The journal; audit.journal of the configuration."
    ),
]
Flow = Annotated[str | None, typer.Option(help="Of this flowId.")]
Interaction = Annotated[str | None, typer.Option(help="Of this interactionId.")]
Client = Annotated[str | None, typer.Option(help="Of this client.")]
Key = Annotated[
    str | None, typer.Option(help="On this key; hashed first where audit.keys says so.")
]
Operation = Annotated[str | None, typer.Option(help="Of this operation: GET, SET, ...")]
Outcome = Annotated[
    str | None, typer.Option(help="ok, a failure's code, or failed for any; intended: unfinished.")
]
Since = Annotated[str | None, typer.Option(help="From this time on: ISO 8601, UTC by default.")]
Until = Annotated[str | None, typer.Option(help="Before this time: ISO 8601, UTC by default.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many.")]


@app.command()
def verify(
    journal: Journal = None,
    config: Config = None,
    received: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON lines that were delivered, not the journal."),
    ] = None,
    anchor: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Heads that an earlier run has written.")
    ] = None,
    write_anchor: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write how far each chain has come; keep it on another machine."
        ),
    ] = None,
) -> None:
    """Walk all chains; say which record of which writer is wrong, and how.

    Exit code: 0 all is well, 1 something is wrong, 2 it could not be verified.

    With the signing key (FLOWCACHE_AUDIT_SIGNING_KEY) the seals are checked, too.

    Examples:

        flowcache audit verify --journal /var/lib/flowcache/audit.db

        flowcache audit verify -c flowcache.toml --anchor heads.json --write-anchor heads.json

        flowcache audit verify --received audit.jsonl
    """
    from flowcache.audit.database import JournalFault
    from flowcache.audit.verifying import heads

    settings = _read_settings(journal, config)
    known = None if anchor is None else _read_anchor(anchor)
    key = settings.signing_key
    try:
        with _chains(settings, received) as reader:
            report = _with_progress(reader, None if key is None else key.reveal().encode(), known)
            found = heads(reader) if report.is_well and write_anchor is not None else None
    except JournalFault as fault:
        give_up(str(fault))
    _tell(report, sealed=key is not None)
    if found is not None and write_anchor is not None:
        _write_anchor(write_anchor, found)
    raise typer.Exit(0 if report.is_well else 1)


@app.command()
def query(
    journal: Journal = None,
    config: Config = None,
    flow: Flow = None,
    interaction: Interaction = None,
    client: Client = None,
    key: Key = None,
    operation: Operation = None,
    outcome: Outcome = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
) -> None:
    """Show the newest records that fit, newest last.

    Examples:

        flowcache audit query -j audit.db --interaction 6011 --outcome failed

        flowcache audit query -c flowcache.toml --key caller:C-1 --since 2026-01-31T08:00
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from flowcache.audit.exporting import moment

    settings, path = _settings(journal, config)
    asked = _query(
        settings, flow, interaction, client, key, operation, outcome, since, until, limit
    )
    with _reading(path) as reader:
        found = list(reader.newest(asked))
    table = Table(*_COLUMNS, box=box.SIMPLE_HEAD)
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
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in cells))
    out = Console()
    if not out.is_terminal:
        out = Console(width=1000)  # nothing is cut where another program reads
    out.print(table)
    print(f"{len(found)} records", file=sys.stderr)


@app.command()
def export(
    journal: Journal = None,
    config: Config = None,
    form: Annotated[
        str, typer.Option("--format", metavar="jsonl|csv", help="JSON lines, or CSV.")
    ] = "jsonl",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Standard output if none.")
    ] = None,
    flow: Flow = None,
    interaction: Interaction = None,
    client: Client = None,
    key: Key = None,
    operation: Operation = None,
    outcome: Outcome = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
) -> None:
    """Write every record that fits, oldest first, intents and chain records included.

    Examples:

        flowcache audit export -j audit.db --since 2026-01-01 > january.jsonl

        flowcache audit export -c flowcache.toml --format csv --client ivr -o ivr.csv
    """
    from flowcache.audit.exporting import Format, write

    if form not in tuple(Format):
        give_up(f"--format {form}: expected {' or '.join(Format)}.")
    settings, path = _settings(journal, config)
    asked = _query(
        settings, flow, interaction, client, key, operation, outcome, since, until, limit
    )
    try:
        with _reading(path) as reader:
            if output is None:
                count = write(reader.records(asked), Format(form), sys.stdout)
                sys.stdout.flush()
            else:
                with output.open("x", encoding="utf-8", newline="") as out:
                    count = write(reader.records(asked), Format(form), out)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
        raise typer.Exit(1) from None
    except OSError as fault:
        give_up(f"{output}: can't be written: {fault.strerror or fault}.")
    print(f"{count} records", file=sys.stderr)


# -- verifying -------------------------------------------------------------------------------------


@contextmanager
def _chains(settings: AuditSettings, received: Path | None) -> Iterator[Chains]:
    from flowcache.audit.reading import Reader
    from flowcache.audit.received import Received

    if received is None:
        with Reader(_journal_of(settings)) as reader:
            yield reader
    else:
        try:
            with received.open("rb") as lines:
                chains = Received(lines)
        except OSError as fault:
            give_up(f"{received}: can't be read: {fault.strerror}.")
        yield chains


def _with_progress(reader: Chains, key: bytes | None, anchor: Anchor | None) -> Report:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from flowcache.audit.database import JournalFault
    from flowcache.audit.verifying import verify

    try:
        total = reader.count()
    except JournalFault:
        total = None  # a broken file: the report says so
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        return verify(reader, key, anchor, lambda walked: progress.advance(task, walked))


def _tell(report: Report, *, sealed: bool) -> None:
    from flowcache.audit.chain import writer_name

    for damage in report.damage:
        print(f"the file: {damage}")
    for writer, faults in groupby(
        sorted(report.faults, key=lambda f: f.writer), lambda f: f.writer
    ):
        told = list(faults)
        for fault in told[:_SHOWN_FAULTS]:
            place = "" if fault.seq is None else f", record {fault.seq}"
            print(f"writer {writer_name(writer)}{place}: {fault.what}")
        if len(told) > _SHOWN_FAULTS:
            print(f"writer {writer_name(writer)}: and {len(told) - _SHOWN_FAULTS} more")
    for writer in report.unfinished:
        origin = report.origins.get(writer, "a process unknown")
        print(
            f"writer {writer_name(writer)}: has no closing record: {origin} still runs, "
            "was killed, or its last records were cut off"
        )
    if not sealed:
        print("The seals were not checked: no signing key is configured.")
    print(
        f"{report.records} records in {report.chains} chains: "
        + ("all is well." if report.is_well else "NOT what was written.")
    )


def _read_anchor(file: Path) -> Anchor:
    import msgspec

    from flowcache.audit.chain import Number

    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, tuple[Number, str]])
    except (OSError, msgspec.MsgspecError) as fault:
        give_up(f"{file}: is no anchor: {fault}.")


def _write_anchor(file: Path, found: Anchor) -> None:
    import msgspec

    try:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    except OSError as fault:
        give_up(f"{file}: can't be written: {fault.strerror}.")


# -- what all have in common -----------------------------------------------------------------------


def _settings(journal: Path | None, config: Path | None) -> tuple[AuditSettings, Path]:
    settings = _read_settings(journal, config)
    return settings, _journal_of(settings)


def _journal_of(settings: AuditSettings) -> Path:
    if settings.journal is None:
        give_up("which journal? Name it with --journal, or a configuration with --config.")
    return settings.journal


def _read_settings(journal: Path | None, config: Path | None) -> AuditSettings:
    from flowcache.settings import audit_settings

    overrides = {} if journal is None else {"audit.journal": str(journal)}
    return valid(lambda: audit_settings(config, os.environ, overrides))


@contextmanager
def _reading(path: Path) -> Iterator[Reader]:
    from flowcache.audit.database import JournalFault
    from flowcache.audit.reading import Reader

    try:
        with Reader(path) as reader:
            yield reader
    except JournalFault as fault:
        give_up(str(fault))


def _query(
    settings: AuditSettings,
    flow: str | None,
    interaction: str | None,
    client: str | None,
    key: str | None,
    operation: str | None,
    outcome: str | None,
    since: str | None,
    until: str | None,
    limit: int | None,
) -> Query:
    from flowcache.audit.reading import Query
    from flowcache.audit.redaction import redaction

    kept = None
    if key is not None:
        kept = redaction(settings.keys, settings.hmac_secret)(key.encode())
    return Query(
        limit=limit,
        flow=flow,
        interaction=interaction,
        client=client,
        key=kept,
        operation=None if operation is None else operation.upper(),
        outcome=outcome,
        since=_moment("--since", since),
        until=_moment("--until", until),
    )


def _moment(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        give_up(f"{option} {text}: expected a time as 2026-01-31T08:00 or 2026-01-31.")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
