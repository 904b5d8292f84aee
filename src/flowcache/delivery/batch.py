"""What is handed over at once: some records of one writer, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flowcache.audit.chain import Cut, Kind, Link, writer_name
from flowcache.audit.received import gap_line, line

__all__ = ["Batch", "batch_of"]


class Batch(NamedTuple):
    """Records ``first`` to ``last`` of a writer as lines of JSON.

    So many ``records`` are there. ``missed`` were pruned by the journal before they were
    delivered: a line stands in their place that says so. ``ends`` says that the chain's closing
    record is the last.
    """

    writer: str
    first: int
    last: int
    lines: Sequence[bytes]
    records: int
    missed: int
    ends: bool

    @property
    def key(self) -> str:
        """What a batch that is sent again is known by."""
        return f"{self.writer}:{self.first}-{self.last}"

    @property
    def jsonl(self) -> bytes:
        """The records as JSON lines, the last line ended."""
        return b"".join(each + b"\n" for each in self.lines)

    @property
    def json(self) -> bytes:
        """The records as a JSON array."""
        return b"[" + b",".join(self.lines) + b"]"


def batch_of(links: Sequence[Link], expected: int, cut: Cut | None) -> Batch:
    """Return ``links`` as a batch, of a chain whose next record was to be ``expected``.

    ``cut`` is where the chain goes on, when those up to there are missing.
    """
    first, last = links[0].entry, links[-1].entry
    lines = [line(link) for link in links]
    missed = first.seq - expected
    if missed:
        known = cut if cut is not None and cut.seq == first.seq else None
        lines.insert(0, gap_line(first.writer, expected, first.seq - 1, known))
    writer, ends = writer_name(first.writer), last.kind == Kind.CLOSE
    return Batch(writer, expected, last.seq, lines, len(links), missed, ends)
