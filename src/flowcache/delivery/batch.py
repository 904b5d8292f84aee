"""What is handed over at once: some records of one writer, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from flowcache.audit.chain import Kind, Link, writer_name
from flowcache.audit.exporting import line, moment

__all__ = ["GAP", "Batch", "batch_of"]

GAP = "gap"
"""The ``kind`` of a notice in place of records that are there no more."""


class Batch(NamedTuple):
    """Records ``first`` to ``last`` of a writer as lines of JSON.

    So many ``records`` are there. ``missed`` were let go of by the journal before they were
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


def batch_of(links: Sequence[Link], expected: int, at: float, before: bytes | None) -> Batch:
    """Return ``links`` as a batch. Records of the chain from ``expected`` on that are not there
    were let go of by ``at``; ``before`` is the hash of the last of them, where it is known.
    """
    writer, first = writer_name(links[0].entry.writer), links[0].entry.seq
    last = links[-1].entry
    lines = [line(link) for link in links]
    missed = first - expected
    if missed:
        lines.insert(0, _notice(writer, expected, first - 1, at, before))
    return Batch(writer, expected, last.seq, lines, len(links), missed, last.kind == Kind.CLOSE)


def _notice(writer: str, first: int, last: int, at: float, hash_: bytes | None) -> bytes:
    """Say which records of a writer will never come. The chain goes on from ``hash``."""
    return msgspec.json.encode(
        {
            "kind": GAP,
            "writer": writer,
            "seq": first,
            "until": last,
            "at": moment(at),
            "hash": None if hash_ is None else hash_.hex(),
        }
    )
