"""What must hold, and what is broken.

The bars on data hold always. Those on time hold in `make chaos` and not in `make test`: on a loaded
machine they would say more about it than about flowcache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from chaos.control import Control
from chaos.figures import GRACE, Figures
from chaos.history import SILENT, Call, Found, Strike
from chaos.model import PERMITTED, Finding

__all__ = ["Bars", "broken_on_data", "broken_on_time"]

OTHERS = 0.999
READS = 0.99
RECOVERY_SECONDS = 1.0
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Bars:
    """What must hold in one scenario beside what must hold in all of them."""

    success: float = 0.0
    """The least share of calls that succeed."""
    also: tuple[Callable[[Sequence[Call], Sequence[Strike]], str | None], ...] = ()
    """Further looks at all calls; each returns what is wrong."""


def broken_on_data(
    findings: Iterable[Finding],
    controls: Iterable[Control],
    found: Mapping[str, Found],
    calls: Iterable[Call],
    log: str,
) -> list[str]:
    """Say which promises about data are broken: lost, doubled, wrong, refused and yet done."""
    broken = []
    by_kind: Counter[str] = Counter()
    samples: dict[str, list[str]] = {}
    for finding in findings:
        if finding.kind not in PERMITTED:
            by_kind[finding.kind] += finding.count
            samples.setdefault(finding.kind, []).append(f"{finding.key}: {finding.what}")
    for kind, count in by_kind.items():
        broken.append(f"{kind}: {count}; {'; '.join(samples[kind][:SHOWN])}")
    if lost := sum(control.lost(found)[0] for control in controls):
        broken.append(f"{lost} writes that WAIT had confirmed were lost: the set-up proves nothing")
    if silent := sum(call.outcome == SILENT for call in calls):
        broken.append(f"{silent} calls were never answered")
    if bugs := [line for line in log.splitlines() if "a bug" in line or "Traceback" in line]:
        broken.append(f"flowcache's log tells of {len(bugs)} bugs: {bugs[0][:200]}")
    return broken


def broken_on_time(
    figures: Figures,
    bars: Bars,
    calls: Sequence[Call],
    strikes: Sequence[Strike],
    deadline: float,
) -> list[str]:
    """Say which promises about time and availability are broken."""
    also = (look(calls, strikes) for look in bars.also)
    return [*_broken_on_time(figures, bars, deadline), *(what for what in also if what)]


def _broken_on_time(figures: Figures, bars: Bars, deadline: float) -> Iterator[str]:
    if figures.p999 > deadline + GRACE:
        yield (
            f"p99.9 is {figures.p999 * 1000:.0f} ms, the deadline {deadline * 1000:.0f} + "
            f"{GRACE * 1000:.0f} ms; the generator itself woke {figures.generator_lag * 1000:.0f} "
            "ms late"
        )
    if figures.succeeded.value < bars.success:
        yield f"{figures.succeeded} of all calls succeeded, {bars.success:.2%} must"
    if figures.others and figures.others.value < OTHERS:
        yield f"{figures.others} succeeded on the other shards, {OTHERS:.1%} must"
    for share, when in ((figures.reads_at_once, "within"), (figures.reads_later, "after")):
        if share and share.value < READS:
            yield f"{share} of reads succeeded {when} 1 s of the primary's death, {READS:.0%} must"
    recovered = figures.writes_recovered
    if recovered == float("inf"):
        yield "writes still failed at the end, long after the servers' failover"
    elif recovered and recovered > RECOVERY_SECONDS:
        yield f"writes failed until {recovered:.2f} s after the servers' failover"
