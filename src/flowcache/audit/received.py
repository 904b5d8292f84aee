"""A journal as a receiver of its delivery has it: lines of JSON, in any order, some more than once.

    {"writer": …, "seq": …, "kind": "call", …, "at_unix": …, "hash": …, "seal": …}
    {"writer": …, "seq": …, "kind": "gap", "until": …, "at_unix": …, "newest": …, "early": …,
     "hash": …, "seal": …}

A record has what `exporting.fields` names, and what its chain is verified by: ``at_unix``, the time
exactly as it was hashed, ``hash`` and ``seal``. A gap stands for records ``seq`` to ``until``: the
journal pruned them before they were sent. The chain goes on from ``hash``, as from a `Cut`.
`verifying.verify` walks such chains as it walks those of the journal itself.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from flowcache.audit.chain import Cut, Entry, Head, Link, writer_name
from flowcache.audit.exporting import fields, moment
from flowcache.printable import printable_json

__all__ = ["Received", "gap_line", "line"]

_GAP = "gap"
_PROOF = frozenset(("at_unix", "hash", "seal"))
_GAP_FIELDS = _PROOF | {"writer", "seq", "kind", "until", "at", "newest", "early"}
_SHOWN = 20
"""How many bad lines are told; the rest are counted."""


def line(link: Link) -> bytes:
    """Return a record as a line, without its end."""
    entry, hash_, seal = link
    proof = {"at_unix": entry.at, "hash": hash_.hex(), "seal": None if seal is None else seal.hex()}
    return printable_json(msgspec.json.encode(fields(entry) | proof).decode()).encode()


def gap_line(writer: int, first: int, last: int, cut: Cut | None) -> bytes:
    """Return the line in place of records; without a ``cut`` nobody knows where they went."""
    named: dict[str, Any] = {
        "writer": writer_name(writer),
        "seq": first,
        "kind": _GAP,
        "until": last,
    }
    if cut is not None:
        named |= {
            "at": moment(cut.at),
            "at_unix": cut.at,
            "newest": cut.newest,
            "early": cut.early,
            "hash": cut.hash.hex(),
            "seal": None if cut.seal is None else cut.seal.hex(),
        }
    return msgspec.json.encode(named)


class Received:
    """The chains that ``lines`` tell of. All of them are kept in memory."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._links: dict[int, dict[int, Link]] = {}
        self._cuts: dict[int, dict[int, Cut]] = {}
        self._damage: list[str] = []
        self.skipped = 0
        """Lines that are no JSON: what a crash tore is sent again, and if not it is missing."""
        for number, text in enumerate(lines, 1):
            if not text.strip():  # as standard output has them, to end what may have been torn
                continue
            try:
                self._take(json.loads(text, object_pairs_hook=_named))
            except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
                self.skipped += 1
            except (ValueError, KeyError, TypeError, AttributeError):
                self._damage.append(f"line {number} is no record")
        self._seqs = {writer: sorted(links) for writer, links in self._links.items()}
        self._starts = {writer: sorted(cuts) for writer, cuts in self._cuts.items()}

    def _take(self, named: dict[str, Any]) -> None:
        writer, seq = int(named["writer"], 16), named["seq"]
        if type(named.get("until", seq)) is not int or type(seq) is not int:
            raise ValueError("has no proper number")
        if named["kind"] == _GAP:
            if not named.keys() <= _GAP_FIELDS:
                raise ValueError("has a field that was not sent")
            if named.get("hash") is not None:
                start, hash_ = named["until"] + 1, bytes.fromhex(named["hash"])
                cut = Cut(
                    writer,
                    start,
                    hash_,
                    named["at_unix"],
                    named["newest"],
                    named["early"],
                    _bytes(named["seal"]),
                )
                self._cuts.setdefault(writer, {})[start] = cut
            return
        link = Link(_entry(writer, named), bytes.fromhex(named["hash"]), _bytes(named["seal"]))
        known = self._links.setdefault(writer, {}).setdefault(seq, link)
        if known != link:
            self._damage.append(f"writer {writer_name(writer)}, record {seq}: came in two versions")

    def damage(self) -> list[str]:
        """Return what is no record, and what came more than once and not as the same."""
        more = len(self._damage) - _SHOWN
        return [*self._damage[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]

    def count(self) -> int:
        """Return how many records there are, each counted once."""
        return sum(map(len, self._links.values()))

    def writers(self) -> list[int]:
        """Return all writers that have records."""
        return sorted(self._links)

    def cuts(self) -> dict[int, Cut]:
        """Return the last cut of each chain that has any."""
        return {writer: cuts[max(cuts)] for writer, cuts in self._cuts.items()}

    def cut(self, writer: int, behind: int) -> Cut | None:
        """Return where a chain goes on after a gap: the next one behind a number.

        None where records come first: what is missing before them is missing, and they are walked.
        """
        start = _first(self._starts.get(writer, []), behind + 1)
        seq = _first(self._seqs.get(writer, []), behind)
        if start is None or (seq is not None and seq < start):
            return None
        return self._cuts[writer][start]

    def links(self, writer: int, start: int) -> list[Link]:
        """Return the next records of a chain up to a gap, from number ``start`` on."""
        links = self._links.get(writer, {})
        seq = _first(self._seqs.get(writer, []), start)
        found = []
        while seq in links:
            found.append(links[seq])
            seq += 1
        return found

    def after_damage(self, writer: int, start: int) -> None:
        """Return None: what is in memory can be read."""

    def hash_of(self, writer: int, seq: int) -> bytes | None:
        """Return a record's hash; None when there is no such record."""
        link = self._links.get(writer, {}).get(seq)
        return None if link is None else link.hash

    def head(self, writer: int) -> Head:
        """Return the newest record of a chain that has any."""
        links = self._links[writer]
        seq = self._seqs[writer][-1]
        return Head(seq, links[seq].hash)


def _first(numbers: Sequence[int], least: int) -> int | None:
    """Return the first of some numbers in order that is not less."""
    place = bisect_left(numbers, least)
    return numbers[place] if place < len(numbers) else None


def _entry(writer: int, named: dict[str, Any]) -> Entry:
    kept = {name: named[name] for name in Entry.__struct_fields__}
    hit = named["hit"]
    exact = {
        "writer": writer,
        "at": named["at_unix"],
        "hit": None if hit is None else int(hit),
        "stale": int(named["stale"]),
    }
    entry = Entry(**(kept | exact))
    sent = fields(entry)
    if named.keys() != sent.keys() | _PROOF:
        raise ValueError("has a field that was not sent")
    if any(named[name] != value for name, value in sent.items()):
        raise ValueError("says the same in two ways that differ")
    return entry


def _named(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; of a field that comes twice readers would not agree which one counts."""
    named = dict(pairs)
    if len(named) != len(pairs):
        raise ValueError("has a field twice")
    return named


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)
