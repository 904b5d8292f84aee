"""What breaks a bar, and how a run is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from chaos.bars import Bars, broken_on_data, broken_on_time
from chaos.control import Control
from chaos.figures import Figures, Share
from chaos.history import SILENT, Call, Strike
from chaos.load import Told
from chaos.model import Finding, Kind
from chaos.report import Result, about_table, tables, write
from chaos.scenarios import SCENARIOS
from chaos.stage import Run
from tests.chaos.telling import found

FIGURES = Figures(
    calls=1000,
    succeeded=Share(1000, 1000),
    in_time=Share(1000, 1000),
    p999=0.01,
    worst=0.02,
    generator_late=0.001,
    generator_lag=0.002,
    failed=Counter(),
    read_outage=0.1,
    write_outage=0.1,
    others=None,
    reads_at_once=None,
    reads_later=None,
    stale=0,
    writes_recovered=None,
)
DEADLINE = 0.8


def on_time(bars: Bars | None = None, **changed: Any) -> list[str]:
    return broken_on_time(replace(FIGURES, **changed), bars or Bars(), [], [], DEADLINE)


def on_data(*findings: Finding, log: str = "", calls: Sequence[Call] = ()) -> list[str]:
    return broken_on_data(findings, [], {}, calls, log)


class TestTime:
    def test_good_figures_break_nothing(self) -> None:
        """Each bar holds at its own edge."""
        edge = {
            "p999": DEADLINE + 0.02,
            "others": Share(999, 1000),
            "reads_at_once": Share(99, 100),
            "reads_later": Share(99, 100),
            "writes_recovered": 1.0,
        }
        assert on_time(Bars(success=1.0), **edge) == []

    @pytest.mark.parametrize(
        "changed",
        [
            {"p999": DEADLINE + 0.021},
            {"others": Share(998, 1000)},
            {"reads_at_once": Share(98, 100)},
            {"reads_later": Share(98, 100)},
            {"writes_recovered": 1.01},
            {"writes_recovered": float("inf")},
        ],
        ids=str,
    )
    def test_each_bar_breaks(self, changed: dict[str, Any]) -> None:
        """What is just beyond a bar breaks it, and only it."""
        assert len(on_time(**changed)) == 1

    def test_a_scenario_has_bars_of_its_own(self) -> None:
        """A scenario may ask for a share of successes, and look at all calls itself."""

        def look(calls: Sequence[Call], strikes: Sequence[Strike]) -> str | None:
            return f"{len(calls)} calls"

        assert on_time(Bars(success=0.99, also=(look,)), succeeded=Share(9, 10)) == [
            "90.00% of all calls succeeded, 99.00% must",
            "0 calls",
        ]


class TestData:
    @pytest.mark.parametrize("kind", list(Kind))
    def test_every_finding_breaks_but_what_is_permitted(self, kind: Kind) -> None:
        """Redis's own losses and late landings are counted and break nothing; all else does."""
        permitted = {Kind.LOST_BY_REDIS, Kind.WENT_BACK_BY_REDIS, Kind.OVERTAKEN}
        broken = on_data(Finding(kind, "k", "what"), Finding(kind, "k", "what", 2))
        assert broken == ([] if kind in permitted else [f"{kind}: 3; k: what; k: what"])

    def test_bug_in_the_log_breaks(self) -> None:
        """A traceback in flowcache's log is a broken bar, whatever the callers saw."""
        assert on_data(log="all is well\n") == []
        assert len(on_data(log="Traceback (most recent call last):\n")) == 1

    def test_silence_breaks(self) -> None:
        """A call that is never answered breaks."""
        call = Call("GET", "k", 0, 1, False, 1.0, 1.0, 6.0, SILENT)
        assert on_data(calls=[call]) == ["1 calls were never answered"]

    def test_lost_confirmed_write_breaks(self) -> None:
        """What WAIT had confirmed must be there; what was only acknowledged need not."""
        control = Control(confirmed=["a", "b"], unconfirmed=["c"])
        assert broken_on_data([], [control], found({"a": "1", "b": "1"}), [], "") == []
        assert len(broken_on_data([], [control], found({"a": "1"}), [], "")) == 1


class TestReport:
    def test_only_what_stands_between_the_markers_is_renewed(self) -> None:
        """The page around a section stays as it is, and without markers it is refused."""
        page = "before\n<!-- x: begin -->\nold\n<!-- x: end -->\nafter\n"
        assert write(page, "x", "new") == page.replace("old", "new")
        with pytest.raises(ValueError, match="no markers of y"):
            write(page, "y", "new")

    def test_every_scenario_has_a_name_of_its_own_and_says_what_it_does(self) -> None:
        """No two scenarios share a name, and the table tells of each."""
        names = [scenario.name for scenario in SCENARIOS]
        assert len(set(names)) == len(names)
        assert all(f"| {name} |" in about_table(SCENARIOS) for name in names)

    def test_a_result_is_a_row_in_both_tables(self) -> None:
        """Losses, doublings and controls are in the table as they were counted."""
        call = Call("SET", "k", 1, 1, False, 1.0, 1.0, 1.1, "ok")
        run = Run(
            name="killed",
            told=Told(1.0, 2.0, [call], []),
            strikes=(),
            found=found({"a": "1"}),
            controls=(Control(confirmed=["a"], unconfirmed=["b"]),),
            log="",
        )
        findings = (Finding(Kind.LOST, "k", ""), Finding(Kind.DOUBLED, "k", "", 2))
        figures = replace(FIGURES, failed=Counter(lost=3), others=Share(9, 10))
        answers, data = tables([Result(run, figures, findings, ("bar",))]).splitlines()[4::4]
        assert answers.startswith(
            "| killed | 1000 | 100% | 10 | 1 | `lost` 3 | 0.10 s | 0.10 s | 90"
        )
        assert data == "| killed | 1 | 1 | 2 | 0 | 0 | 1, 0 | 1, 1 | 0 | 0 | broken |"
