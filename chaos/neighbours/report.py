"""The table of docs/reliability.md: attack, what it cost the neighbours, memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from chaos.neighbours.isolation import Cost, Vitals
from chaos.neighbours.scenarios import GROUP

__all__ = ["BEFORE", "Row", "keep", "rows_of", "table"]

BEFORE = Path(__file__).parent / "before.json"
"""What the same attacks cost in the version before they were met."""
NONE = "-"
HEAD = (
    "attack",
    "what came of it",
    "neighbours' calls",
    "failed",
    "excused",
    "recovered",
    "p99.9 ms",
    "longest ms",
    "generator late p99.9 ms",
    "circuits opened",
    "worker's peak MiB",
    "bars",
    "before: failed",
    "p99.9 ms",
    "circuits opened",
    "MiB",
)


class Row(msgspec.Struct, frozen=True):
    """One attack in numbers."""

    name: str
    calls: int
    failed: dict[str, int]
    excused: dict[str, int]
    p999_ms: float
    longest_ms: float
    generator_late_ms: float
    opened: int | None
    peak_mib: int
    holds: bool
    recovered_s: float | None = None
    """How long after a strike calls failed; None where there was none."""
    attacked: dict[str, int] = {}
    """What came of the attackers' requests."""


class Attacked(Protocol):
    """What is reported: a `report.Result` of an attack."""

    @property
    def name(self) -> str: ...
    @property
    def cost(self) -> Cost | None: ...
    @property
    def vitals(self) -> Vitals | None: ...
    @property
    def broken(self) -> Sequence[str]: ...
    @property
    def attacked(self) -> Mapping[str, int]: ...


def rows_of(results: Iterable[Attacked]) -> list[Row]:
    """Return a row for each attack; results of other scenarios have none."""
    return [
        _row(result, result.cost, result.vitals)
        for result in results
        if result.cost is not None and result.vitals is not None
    ]


def _row(result: Attacked, cost: Cost, vitals: Vitals) -> Row:
    return Row(
        name=result.name.removeprefix(f"{GROUP}: "),
        calls=cost.calls,
        failed=dict(cost.failed),
        excused=dict(cost.excused),
        p999_ms=round(cost.p999 * 1000),
        longest_ms=round(cost.worst * 1000),
        generator_late_ms=round(cost.generator_late * 1000),
        opened=vitals.opened,
        peak_mib=vitals.peak_mib,
        holds=not result.broken,
        recovered_s=None if cost.recovered is None else round(cost.recovered, 2),
        attacked=dict(result.attacked),
    )


def table(rows: Iterable[Row], before: Path = BEFORE) -> str:
    """Return the table in Markdown."""
    earlier: dict[str, Row] = {}
    if before.exists():
        earlier = {
            row.name: row for row in msgspec.json.decode(before.read_bytes(), type=list[Row])
        }
    lines = [HEAD, ["---"] * len(HEAD), *(_line(row, earlier.get(row.name)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def keep(rows: Sequence[Row], path: Path) -> None:
    """Write rows to a file, for a later table to show beside its own."""
    text = msgspec.json.format(msgspec.json.encode(rows), indent=1)
    path.write_bytes(text + b"\n")


def _line(row: Row, before: Row | None) -> Sequence[str]:
    return (
        row.name,
        _codes(row.attacked),
        str(row.calls),
        _codes(row.failed),
        _codes(row.excused),
        NONE if row.recovered_s is None else f"{row.recovered_s:.2f} s",
        f"{row.p999_ms:.0f}",
        f"{row.longest_ms:.0f}",
        f"{row.generator_late_ms:.0f}",
        _number(row.opened),
        str(row.peak_mib),
        "hold" if row.holds else "broken",
        *(
            (NONE,) * 4
            if before is None
            else (
                str(sum(before.failed.values())),
                f"{before.p999_ms:.0f}",
                _number(before.opened),
                str(before.peak_mib),
            )
        ),
    )


def _codes(counts: Mapping[str, int]) -> str:
    return ", ".join(f"`{code}` {n}" for code, n in Counter(counts).most_common()) or NONE


def _number(count: int | None) -> str:
    return "unknown" if count is None else str(count)
