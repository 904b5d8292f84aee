"""Verify a journal: walk every chain, and ask every witness.

The rules, and what they can't find, are in `chain`. A journal may be verified while it is written:
records that are added or pruned meanwhile disturb nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from typing import NamedTuple, Protocol

import msgspec

from flowcache.audit.chain import Cut, Fault, Head, Kind, Link, Number, Walk, writer_name
from flowcache.audit.database import Damaged, JournalFault
from flowcache.audit.witness import Witness

__all__ = ["Anchor", "Chains", "Gone", "Report", "heads", "verify"]

Anchor = Mapping[str, tuple[Number, str]]
"""How far chains had come: number and hash of a record of each, by the writer's name."""

_decode_witness = msgspec.json.Decoder(Witness).decode


class _Step(msgspec.Struct):
    """What the record of a step of retention says: where chains go on, by the writer's name."""

    chains: dict[str, tuple[Number, str]]


_decode_cuts = msgspec.json.Decoder(_Step).decode


class Gone(NamedTuple):
    """What retention has removed, as the cuts say.

    So many ``records`` of so many ``chains``, the latest of ``newest`` (Unix time); ``early`` of
    them were younger than they had to be kept. ``untold`` chains have a cut that no record tells
    of: that record was removed, too, or there never was one.
    """

    records: int = 0
    chains: int = 0
    newest: float = 0.0
    early: int = 0
    untold: int = 0


class Report(NamedTuple):
    """What a verification found.

    ``damage`` is wrong with the file, ``faults`` with records; ``unfinished`` are the writers whose
    chains have no closing record; ``origins`` says which process a writer was, where it is known.
    """

    records: int
    chains: int
    damage: list[str]
    faults: list[Fault]
    unfinished: list[int]
    origins: dict[int, str]
    gone: Gone = Gone()

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damage and not self.faults


class Chains(Protocol):
    """A journal to verify: the file itself (`Reader`), or what was delivered of it (`Received`)."""

    def damage(self) -> list[str]:
        """Return what is wrong with the whole."""

    def count(self) -> int:
        """Return how many records there are."""

    def writers(self) -> list[int]:
        """Return all writers that have records."""

    def cuts(self) -> dict[int, Cut]:
        """Return the last cut of each chain that has any."""

    def cut(self, writer: int, behind: int) -> Cut | None:
        """Return the next cut of a chain behind a number."""

    def links(self, writer: int, start: int) -> list[Link]:
        """Return the next records of a chain, from number ``start`` on."""

    def after_damage(self, writer: int, start: int) -> int | None:
        """Return the number of the first readable record behind one that can't be read."""

    def hash_of(self, writer: int, seq: int) -> bytes | None:
        """Return a record's hash; None when there is no such record."""

    def head(self, writer: int) -> Head:
        """Return the newest record of a chain that has any."""


def verify(
    reader: Chains,
    key: bytes | None,
    anchor: Anchor | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Report:
    """Verify the whole journal.

    ``key`` is the signing key; without one seals are not looked at. ``anchor`` has heads that were
    noted elsewhere. ``on_progress`` is told how many records were walked.

    A file that can't be read to its end is damage, not an error.
    """
    report = Report(0, 0, reader.damage(), [], [], {})
    told: set[tuple[int, int]] = set()
    claims: list[tuple[str, Anchor]] = [("the anchor", anchor)] if anchor else []
    try:
        for writer in sorted({*reader.writers(), *reader.cuts()}):
            report = report._replace(chains=report.chains + 1)
            for links in _walk(reader, writer, key, report):
                report = report._replace(records=report.records + len(links))
                claims.extend(_claims(links, report))
                told.update(_told_cuts(links))
                if on_progress is not None:
                    on_progress(len(links))
        cuts = reader.cuts()
        report = report._replace(gone=_gone(cuts, told))
        for by, witnessed in claims:
            report.faults.extend(_missed(reader, cuts, by, witnessed))
    except (
        JournalFault
    ) as fault:  # the file is broken at some place; what was found until then holds
        report.damage.append(str(fault))
    return report._replace(faults=_once(report.faults))


def _walk(
    reader: Chains, writer: int, key: bytes | None, report: Report
) -> Iterator[Sequence[Link]]:
    """Walk a chain, put what is wrong with it into ``report``, and yield it part by part."""
    walk = Walk(writer, key)
    start = 0
    while True:
        try:
            links = reader.links(writer, max(start, walk.next))
        except Damaged:
            first = max(start, walk.next)
            then = reader.after_damage(writer, first)
            up_to = "on" if then is None else f"to {then - 1}"
            report.damage.append(
                f"records of writer {writer_name(writer)} from {first} {up_to} can't be read"
            )
            if then is None:
                break
            start = then
            continue
        if not links:
            break
        if links[0].entry.seq > walk.next:
            cut = reader.cut(writer, walk.next)
            if cut is not None:  # pruned, perhaps just now
                walk.resume(cut)
                continue
        report.faults.extend(walk.follow(links))
        yield links
    report.faults.extend(walk.end())
    if not walk.closed and walk.last is not None:
        report.unfinished.append(writer)


def _claims(links: Sequence[Link], report: Report) -> Iterator[tuple[str, Anchor]]:
    """Yield what the witnesses among ``links`` say of other chains."""
    for entry, _, _ in links:
        if entry.kind not in (Kind.OPEN, Kind.CLOSE):
            continue
        try:
            witness = _decode_witness(_text(entry.detail))
        except msgspec.MsgspecError:
            continue  # no writer of ours writes so: its hash tells that it was changed
        if entry.kind == Kind.OPEN:
            report.origins[entry.writer] = f"process {witness.pid} on {witness.host}"
        yield f"writer {writer_name(entry.writer)}", witness.heads


def _text(detail: object) -> str:
    """Return a detail as it was kept; SQLite keeps any type in any column, our writers a text."""
    return detail if isinstance(detail, str) else ""


def _told_cuts(links: Sequence[Link]) -> Iterator[tuple[int, int]]:
    """Yield which chains ``links`` say were cut, and where they go on."""
    for entry, _, _ in links:
        if entry.kind == Kind.CUT:
            with suppress(msgspec.MsgspecError, ValueError):
                for name, (seq, _) in _decode_cuts(_text(entry.detail)).chains.items():
                    yield int(name, 16), seq


def _gone(cuts: Mapping[int, Cut], told: Set[tuple[int, int]]) -> Gone:
    return Gone(
        sum(cut.seq for cut in cuts.values()),
        len(cuts),
        max((cut.newest for cut in cuts.values()), default=0.0),
        sum(cut.early for cut in cuts.values()),
        sum((writer, cut.seq) not in told for writer, cut in cuts.items()),
    )


def heads(reader: Chains) -> Anchor:
    """Return how far each chain has come, to be noted elsewhere."""
    found = {writer: reader.head(writer) for writer in reader.writers()}
    return {writer_name(w): (head.seq, head.hash.hex()) for w, head in found.items()}


def _missed(reader: Chains, cuts: Mapping[int, Cut], by: str, witnessed: Anchor) -> Iterator[Fault]:
    for name, (seq, hash_) in witnessed.items():
        try:
            writer, head = int(name, 16), Head(seq, bytes.fromhex(hash_))
        except ValueError:
            continue  # no witness of ours writes so: its own hash tells that it was changed
        if not 0 <= writer < 1 << 63:
            continue  # likewise
        found = reader.hash_of(writer, head.seq)
        if found == head.hash:
            continue
        if found is not None:
            yield Fault(writer, seq, f"is another one than {by} saw")
        elif (writer not in cuts or cuts[writer].seq <= seq) and reader.cut(writer, seq) is None:
            yield Fault(writer, seq, f"missing, though {by} saw it")


def _once(faults: list[Fault]) -> list[Fault]:
    """Return faults without repetition: many witnesses may miss the same record."""
    seen: set[tuple[int, int | None, str]] = set()
    kept = []
    for fault in faults:
        what = fault.what.partition(", though ")[0].partition(" than ")[0]
        if (fault.writer, fault.seq, what) not in seen:
            seen.add((fault.writer, fault.seq, what))
            kept.append(fault)
    return kept
