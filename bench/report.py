"""From measured cells to a table and a JSON document."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import msgspec

from bench.load import Outcome
from bench.workload import Operation

HEADINGS = (
    "server",
    "CPU µs/req",
    "x bare",
    "x Node",
    "x before",
    "req/s",
    "requests",
    "busy",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "errors",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load."""

    operation: Operation
    connections: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One server under one load in one round."""

    round: int
    server: str
    cell: Cell
    cpu_seconds: float
    outcome: Outcome

    @property
    def cpu_us(self) -> float:
        """CPU time a request, in microseconds."""
        return self.cpu_seconds / max(self.outcome.requests, 1) * 1e6


class Row(msgspec.Struct, frozen=True):
    """One line of the table: medians over the rounds, sums of requests and errors."""

    operation: Operation
    connections: int
    server: str
    cpu_us: float
    ratio_to_bare: float | None
    ratio_to_node: float | None
    ratio_to_before: float | None
    requests_per_second: float
    requests: int
    busy: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    errors: int
    answer_bytes: int


class Document(msgspec.Struct, frozen=True):
    """The whole run, for machines."""

    machine: dict[str, object]
    settings: dict[str, object]
    left_out: dict[str, str]
    rows: list[Row]
    samples: list[Sample]


def rows_of(samples: Sequence[Sample]) -> list[Row]:
    """Sum up the rounds.

    A ratio is the median of the rounds' ratios, not the ratio of the medians: what slows the
    machine for a while slows both sides of one round's ratio.
    """
    by_key = {(sample.round, sample.server, sample.cell): sample for sample in samples}
    rows = []
    for cell, server in dict.fromkeys((sample.cell, sample.server) for sample in samples):
        own = [sample for sample in samples if (sample.cell, sample.server) == (cell, server)]
        outcomes = [sample.outcome for sample in own]

        def ratio_to(other: str, own: list[Sample] = own, cell: Cell = cell) -> float | None:
            pairs = [(mine, by_key.get((mine.round, other, cell))) for mine in own]
            ratios = [mine.cpu_us / peer.cpu_us for mine, peer in pairs if peer and peer.cpu_us]
            return median(ratios) if ratios else None

        def middle(
            measure: Callable[[Outcome], float], outcomes: list[Outcome] = outcomes
        ) -> float:
            return median(map(measure, outcomes))

        rows.append(
            Row(
                operation=cell.operation,
                connections=cell.connections,
                server=server,
                cpu_us=median(sample.cpu_us for sample in own),
                ratio_to_bare=ratio_to("bare"),
                ratio_to_node=ratio_to("node"),
                ratio_to_before=ratio_to("before"),
                requests_per_second=middle(lambda outcome: outcome.requests / outcome.seconds),
                requests=sum(outcome.requests for outcome in outcomes),
                busy=median(sample.cpu_seconds / sample.outcome.seconds for sample in own),
                p50_ms=middle(lambda outcome: outcome.p50_ms),
                p99_ms=middle(lambda outcome: outcome.p99_ms),
                p999_ms=middle(lambda outcome: outcome.p999_ms),
                errors=sum(outcome.errors for outcome in outcomes),
                answer_bytes=outcomes[-1].answer_bytes,
            )
        )
    return rows


def table_of(rows: Sequence[Row], titles: dict[str, str]) -> str:
    """Lay the rows out, one block for each kind of load."""
    blocks = []
    for cell in dict.fromkeys((row.operation, row.connections) for row in rows):
        operation, connections = cell
        plural = "" if connections == 1 else "s"
        lines = [list(HEADINGS)]
        lines += [_columns(row, titles) for row in rows if (row.operation, row.connections) == cell]
        blocks.append(f"{operation}, {connections} connection{plural}\n{_aligned(lines)}")
    return "\n\n".join(blocks)


def machine_facts() -> dict[str, object]:
    """Tell what matters about the machine, and nothing that names it."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
    }


def _columns(row: Row, titles: dict[str, str]) -> list[str]:
    return [
        titles[row.server],
        f"{row.cpu_us:.1f}",
        _ratio(row.ratio_to_bare),
        _ratio(row.ratio_to_node),
        _ratio(row.ratio_to_before),
        f"{row.requests_per_second:.0f}",
        str(row.requests),
        f"{row.busy:.0%}",
        f"{row.p50_ms:.2f}",
        f"{row.p99_ms:.2f}",
        f"{row.p999_ms:.2f}",
        str(row.errors),
    ]


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  "
        + "  ".join(
            text.rjust(width) if at else text.ljust(width)
            for at, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
