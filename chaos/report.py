"""The tables of docs/reliability.md, between its markers."""

from __future__ import annotations

import os
import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from chaos.figures import Figures, Share
from chaos.history import holds
from chaos.model import Finding, Kind
from chaos.neighbours.isolation import Cost, Vitals
from chaos.neighbours.report import rows_of, table
from chaos.stage import DEADLINE, Run, Scenario

__all__ = ["PAGE", "Result", "about_table", "attacks", "tables", "timeline", "write"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"
NONE = "-"


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario, performed and judged."""

    run: Run
    figures: Figures
    findings: tuple[Finding, ...]
    broken: tuple[str, ...]
    cost: Cost | None = None
    """What an attack cost the neighbours; None where there was none."""

    @property
    def name(self) -> str:
        """The scenario's."""
        return self.run.name

    @property
    def vitals(self) -> Vitals | None:
        """How flowcache did at the end; None where there was no attack."""
        return self.run.vitals

    @property
    def attacked(self) -> Mapping[str, int]:
        """What the attackers did, by what came of it."""
        return self.run.attacked

    def count(self, *kinds: Kind) -> int:
        """Count what was found of some kinds."""
        return sum(finding.count for finding in self.findings if finding.kind in kinds)


def tables(results: Sequence[Result]) -> str:
    """Return both tables of all scenarios but attacks, and where and when they were made."""
    return "\n\n".join((_machine(), _answers(results), _data(results)))


def attacks(results: Sequence[Result]) -> str:
    """Return the table of attacks, and where and when it was made."""
    return "\n\n".join((_machine(), table(rows_of(results))))


def about_table(scenarios: Iterable[Scenario[object]]) -> str:
    """Return what each scenario does."""
    rows = [(scenario.name, scenario.about) for scenario in scenarios]
    return _table(("scenario", "what happens"), rows)


def timeline(run: Run, step: float = 0.5) -> str:
    """Return what became of the calls in each half second, to look into a scenario that broke."""
    began = run.told.began
    rows: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
    for call in run.told.calls:
        struck = any(holds(strike.slots, call.key) for strike in run.strikes)
        who = f"{'struck' if struck else 'others'} {'reads' if call.reads else 'writes'}"
        outcome = "stale" if call.stale else call.outcome
        rows[int((call.woken - began) / step), who][outcome] += 1
    lines = [
        f"{place * step:5.1f} s  {who:14} "
        + ", ".join(f"{n} {what}" for what, n in sorted(c.items()))
        for (place, who), c in sorted(rows.items())
    ]
    for strike in run.strikes:
        moments = {"struck": strike.at, "over": strike.failed_over, "mended": strike.mended}
        told = ", ".join(f"{name} {at - began:.2f}" for name, at in moments.items() if at)
        lines.append(f"{strike.what}: {told}")
    return "\n".join(lines)


def write(page: str, section: str, text: str) -> str:
    """Return the page with what stands between a section's markers replaced."""
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no markers of {section}")
    return f"{before}{begin}\n{text}\n{end}{after}"


def _machine() -> str:
    today = datetime.now(UTC).strftime("%d %B %Y").lstrip("0")
    cores = len(os.sched_getaffinity(0))
    return (
        f"{today}, {cores} cores shared with the servers and the load, Linux {platform.release()}, "
        f"Python {platform.python_version()}; deadline {DEADLINE * 1000:.0f} ms."
    )


def _answers(results: Sequence[Result]) -> str:
    head = (
        "scenario",
        "calls",
        "in time",
        "p99.9 ms",
        "generator late p99.9 ms",
        "failed, by code",
        "longest outage, reads",
        "writes",
        "other shards",
        "reads ≤ 1 s after",
        "reads later",
        "writes recovered",
    )
    return _table(head, [_answers_row(result) for result in results])


def _answers_row(result: Result) -> Sequence[str]:
    figures = result.figures
    failed = ", ".join(f"`{code}` {n}" for code, n in figures.failed.most_common())
    return (
        result.run.name,
        str(figures.calls),
        str(figures.in_time),
        f"{figures.p999 * 1000:.0f}",
        f"{figures.generator_late * 1000:.0f}",
        failed or NONE,
        f"{figures.read_outage:.2f} s",
        f"{figures.write_outage:.2f} s",
        _share(figures.others),
        _share(figures.reads_at_once),
        _share(figures.reads_later),
        _recovered(figures.writes_recovered),
    )


def _recovered(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    return "never" if seconds == float("inf") else f"{seconds:.2f} s"


def _share(share: Share | None) -> str:
    return NONE if share is None or not share.whole else str(share)


def _data(results: Sequence[Result]) -> str:
    head = (
        "scenario",
        "writes acknowledged",
        "lost",
        "doubled",
        "wrong or old answers",
        "lost by Redis's replication",
        "control: WAIT-confirmed, lost",
        "control: only acknowledged, lost",
        "overtaken",
        "stale reads",
        "bars",
    )
    return _table(head, [_data_row(result) for result in results])


def _data_row(result: Result) -> Sequence[str]:
    acknowledged = sum(call.ok and not call.reads for call in result.run.told.calls)
    wrong = (Kind.WRONG_ANSWER, Kind.WENT_BACK, Kind.UNFORESEEN, Kind.NO_TTL)
    controls = result.run.controls
    confirmed = sum(len(control.confirmed) for control in controls)
    unconfirmed = sum(len(control.unconfirmed) for control in controls)
    lost = [control.lost(result.run.found) for control in controls]
    return (
        result.run.name,
        str(acknowledged),
        str(result.count(Kind.LOST)),
        str(result.count(Kind.DOUBLED, Kind.REFUSED_YET_DONE)),
        str(result.count(*wrong)),
        str(result.count(Kind.LOST_BY_REDIS)),
        f"{confirmed}, {sum(each[0] for each in lost)}" if controls else NONE,
        f"{unconfirmed}, {sum(each[1] for each in lost)}" if controls else NONE,
        str(result.count(Kind.OVERTAKEN)),
        str(result.figures.stale),
        "broken" if result.broken else "hold",
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
