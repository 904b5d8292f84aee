"""``flowcache audit``: verify and copy the journal, while it is written or afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowcache.cli.common import Config, examples, give_up, say, valid
from flowcache.printable import printable

if TYPE_CHECKING:
    from flowcache.audit.settings import AuditSettings
    from flowcache.audit.verifying import Anchor, Chains, Report

__all__ = ["Journal", "app", "journal_of", "read_settings"]

app = typer.Typer(
    name="audit",
    help="Read, verify and deliver the audit journal. It is only ever opened for reading.",
    no_args_is_help=True,
    epilog=examples(
        "flowcache audit verify -j /var/lib/flowcache/audit.db",
        "flowcache audit query -j audit.db --interaction 6011 --outcome failed",
        "flowcache audit deliveries -c flowcache.toml",
    ),
)

_SHOWN_FAULTS = 20
"""How many faults of one chain are told; the rest are counted."""

Journal = Annotated[
    Path | None,
    typer.Option(
        "--journal", "-j", metavar="FILE", help="The journal; audit.journal of the configuration."
    ),
]


@app.command()
def verify(
    journal: Journal = None,
    config: Config = None,
    received: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="JSON lines that were delivered, not the journal. Once for each rotated file.",
        ),
    ] = None,
    from_start: Annotated[
        bool,
        typer.Option(
            "--from-start",
            help="Of what was received: chains have to be there from their first record on. An "
            "anchor demands that, too.",
        ),
    ] = False,
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

    With the signing key (FLOWCACHE_AUDIT_SIGNING_KEY), signatures are checked too.

    Examples:

        flowcache audit verify --journal /var/lib/flowcache/audit.db

        flowcache audit verify -j audit.db --anchor a.json --write-anchor a.json

        flowcache audit verify --received audit.jsonl.1 --received audit.jsonl
    """
    from flowcache.audit.database import JournalFault
    from flowcache.audit.verifying import heads

    settings = read_settings(journal, config)
    if from_start and not received:
        give_up("--from-start applies to delivered files: name them with --received.")
    known = None
    if anchor is not None:
        known = _read_anchor(anchor, may_be_new=anchor == write_anchor)
    key = settings.signing_key
    try:
        with _chains(settings, received) as reader:
            report = _with_progress(reader, None if key is None else key.reveal().encode(), known)
            if received and not from_start and known is None:
                report = _from_where_they_begin(reader, report)
            found = heads(reader) if report.is_well and write_anchor is not None else None
    except JournalFault as fault:
        give_up(str(fault))
    _tell(report, sealed=key is not None)
    if found is not None and write_anchor is not None:
        _write_anchor(write_anchor, found)
    raise typer.Exit(0 if report.is_well else 1)


@app.command()
def copy(
    to: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.")],
    journal: Journal = None,
    config: Config = None,
) -> None:
    """Copy the journal as it is at this moment to a new file, while it is written.

    The copy is whole, and small: what retention left empty is not in it.

    Examples:

        flowcache audit copy -c flowcache.toml /backup/audit-2026-01-31.db
    """
    from flowcache.audit.database import JournalFault
    from flowcache.audit.reading import Reader

    try:
        with Reader(journal_of(read_settings(journal, config))) as reader:
            reader.copy(to)
    except JournalFault as fault:
        give_up(str(fault))
    except OSError as fault:
        give_up(f"{to}: can't be written: {fault.strerror or fault}.")


# -- verifying -------------------------------------------------------------------------------------


@contextmanager
def _chains(settings: AuditSettings, received: Sequence[Path] | None) -> Iterator[Chains]:
    from flowcache.audit.reading import Reader
    from flowcache.audit.received import Received

    if not received:
        with Reader(journal_of(settings)) as reader:
            yield reader
        return
    chains = Received(_lines(received))
    if chains.skipped:
        say(
            f"Skipped {chains.skipped} lines that are not JSON: a crash can leave incomplete lines."
        )
    if chains.damage() and not chains.count():
        give_up(
            f"{', '.join(map(str, received))}: no delivered record found. Delivered "
            "records contain a hash; the output of `audit export` doesn't, and can't be verified."
        )
    yield chains


def _lines(files: Sequence[Path]) -> Iterator[bytes]:
    for file in files:
        try:
            with file.open("rb") as lines:
                yield from lines
        except OSError as fault:
            give_up(f"{file}: can't be read: {fault.strerror}.")


def _from_where_they_begin(reader: Chains, report: Report) -> Report:
    """Say of what was received where each chain begins, and judge it from there on.

    What is missing before that may be in another file, and so may chains that only others tell of.
    """
    from flowcache.audit.chain import writer_name

    begins = {
        writer: links[0].entry.seq
        for writer in sorted({*reader.writers(), *reader.cuts()})
        if (links := reader.links(writer, 0))
    }
    for writer, first in begins.items():
        cut = reader.cut(writer, 0)
        if first > 0 and (cut is None or cut.seq > first):
            say(f"writer {writer_name(writer)}: begins with record {first} in these files")
    absent = sorted(
        {fault.writer for fault in report.faults} - begins.keys() - reader.cuts().keys()
    )
    for writer in absent:
        say(
            f"writer {writer_name(writer)}: referenced by other chains, "
            "but none of its records are in these files"
        )
    return report._replace(
        faults=[
            fault
            for fault in report.faults
            if fault.writer not in absent
            and (fault.seq is None or fault.seq >= begins.get(fault.writer, 0))
        ]
    )


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
    from flowcache.audit.exporting import moment

    for damage in report.damage:
        say(f"the file: {printable(damage)}")
    for writer, faults in groupby(
        sorted(report.faults, key=lambda f: f.writer), lambda f: f.writer
    ):
        told = list(faults)
        for fault in told[:_SHOWN_FAULTS]:
            place = "" if fault.seq is None else f", record {fault.seq}"
            say(f"writer {writer_name(writer)}{place}: {printable(fault.what)}")
        if len(told) > _SHOWN_FAULTS:
            say(f"writer {writer_name(writer)}: and {len(told) - _SHOWN_FAULTS} more")
    for writer in report.unfinished:
        origin = printable(report.origins.get(writer, "an unknown process"))
        say(
            f"writer {writer_name(writer)}: has no closing record: {origin} still runs, "
            "was killed, or its last records were removed"
        )
    gone = report.gone
    if gone.chains:
        say(
            f"{gone.records} records of {gone.chains} chains were removed by retention, the "
            f"newest of {moment(gone.newest)}"
            + (f"; {gone.early} OF THEM WERE YOUNGER THAN audit.keep_days." if gone.early else ".")
        )
    if not sealed:
        say("Signatures were not checked: no signing key is configured.")
    if not sealed and gone.chains:
        say(
            "Without the signing key, this can't be distinguished from somebody removing the "
            f"front of chains. For {gone.untold} chains no record mentions the removal."
        )
    say(
        f"{report.records} records in {report.chains} chains: "
        + ("all are correct." if report.is_well else "SOME ARE NOT what was written.")
    )


def _read_anchor(file: Path, *, may_be_new: bool) -> Anchor | None:
    import msgspec

    from flowcache.audit.chain import Number

    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, tuple[Number, str]])
    except FileNotFoundError as fault:
        if not may_be_new:
            give_up(f"{file}: is no anchor: {fault}.")
        say(
            f"{file}: THERE IS NO ANCHOR YET. This run compared nothing and writes the first "
            "anchor. If there was one before, somebody removed it.",
            to_errors=True,
        )
        return None
    except (OSError, msgspec.MsgspecError) as fault:
        give_up(f"{file}: is no anchor: {fault}.")


def _write_anchor(file: Path, found: Anchor) -> None:
    import msgspec

    new = file.with_name(f"{file.name}.new")
    try:
        # Replaced as a whole: a disk that is full costs no anchor.
        new.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
        new.replace(file)
    except OSError as fault:
        give_up(f"{file}: can't be written: {fault.strerror}.")


# -- what all have in common -----------------------------------------------------------------------


def journal_of(settings: AuditSettings) -> Path:
    """Return where the journal is, or say that nobody did, and end."""
    if settings.journal is None:
        give_up("which journal? Name it with --journal, or a configuration with --config.")
    return settings.journal


def read_settings(journal: Path | None, config: Path | None) -> AuditSettings:
    """Return what the configuration says of the audit, or tell its faults and end."""
    from flowcache.settings import audit_settings

    overrides = {} if journal is None else {"audit.journal": str(journal)}
    return valid(lambda: audit_settings(config, os.environ, overrides))
