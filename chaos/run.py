"""The command: `make chaos`, or ``python -m chaos.run --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from chaos import load, report
from chaos.bars import broken_on_data, broken_on_time
from chaos.figures import measure
from chaos.model import PERMITTED, judge
from chaos.neighbours.isolation import broken as broken_for_neighbours
from chaos.neighbours.isolation import cost_of
from chaos.neighbours.report import keep, rows_of
from chaos.report import PAGE, Result
from chaos.scenarios import SCENARIOS
from chaos.stage import DEADLINE, Scenario, perform

SECONDS = 4.0
SECTIONS = (("chaos", report.tables, False), ("chaos neighbours", report.attacks, True))
"""The sections of docs/reliability.md that are renewed when all of their scenarios were performed:
the marker, what makes the text, and whether it is about attacks."""

EXAMPLE = """\
examples:
  python -m chaos.run                          every scenario; renews docs/reliability.md
  python -m chaos.run --only "primary killed"  one, or several in a comma-separated list
  python -m chaos.run --only neighbours        all whose names begin so
  python -m chaos.run --list

exit code: 0 all bars hold, 1 one is broken, 2 a scenario could not be performed
"""


def examine(
    scenario: Scenario[Any], *, seconds: float, seed: int, timed: bool = True, **options: Any
) -> Result:
    """Perform a scenario and judge it.

    Args:
        scenario: which.
        seconds: how long each calm stretch lasts.
        seed: of the load's chance.
        timed: whether the bars on time and availability must hold.
        options: for `perform`.
    """
    run = perform(scenario, seconds=seconds, seed=seed, **options)
    calls, strikes = run.told.calls, run.strikes
    figures = measure(
        calls,
        [late for _, late in run.told.ticks],
        began=run.told.began,
        ended=run.told.ended,
        deadline=DEADLINE,
        strikes=strikes,
    )
    isolation = scenario.isolation
    foreseen = frozenset() if isolation is None else isolation.codes
    findings = tuple(judge(calls, run.found, strikes, foreseen))
    broken = broken_on_data(findings, run.controls, run.found, calls, run.log)
    cost = None
    if isolation is not None and run.vitals is not None:
        cost = cost_of(calls, run.told.ticks, strikes, isolation)
        broken += broken_for_neighbours(cost, run.vitals, isolation, DEADLINE, timed=timed)
        if broken:
            broken.append(run.vitals.blame())
    elif timed:
        broken += broken_on_time(figures, scenario.bars, calls, strikes, DEADLINE)
    return Result(run, figures, findings, tuple(broken), cost)


def main(arguments: Sequence[str] | None = None) -> int:
    """Perform what the command line asks for; return the exit code."""
    options = _options(arguments)
    if options.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:28} {scenario.about}")
        return 0
    wanted = [name.strip() for name in options.only.split(",") if name.strip()]
    found = {name: [each for each in SCENARIOS if _is_named(each, name)] for name in wanted}
    if unknown := [name for name in wanted if not found[name]]:
        print(f"chaos: no such scenario: {', '.join(unknown)}; --list names them", file=sys.stderr)
        return 2
    chosen = [each for name in wanted for each in found[name]] or list(SCENARIOS)
    results, failed = _perform_all(chosen, options)
    for section, make, attacks in SECTIONS:
        theirs = [result for result in results if (result.cost is not None) == attacks]
        if not theirs:
            continue
        text = make(theirs)
        print(text)
        if len(theirs) == sum((each.isolation is not None) == attacks for each in SCENARIOS):
            PAGE.write_text(report.write(PAGE.read_text("utf-8"), section, text), "utf-8")
    if options.keep:
        keep(rows_of(results), options.keep)
    for result in results:
        for what in result.broken:
            print(f"BROKEN  {result.run.name}: {what}", file=sys.stderr)
    if failed:
        return 2
    return 1 if any(result.broken for result in results) else 0


def _is_named(scenario: Scenario[Any], name: str) -> bool:
    """Tell whether a scenario has this name, or is of this group: ``neighbours: ...``."""
    return scenario.name == name or scenario.name.startswith(f"{name}:")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m chaos.run",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", metavar="NAMES", help="these, or groups")
    parser.add_argument("--list", action="store_true", help="name the scenarios, and end")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="of each calm stretch, 4 by default"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the load's chance, 1 by default")
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="write what attacks cost as JSON, to compare"
    )
    parser.add_argument("--findings", action="store_true", help="print permitted findings too")
    parser.add_argument("--timeline", action="store_true", help="print what came when")
    return parser.parse_args(arguments)


def _perform_all(
    scenarios: Sequence[Scenario[Any]], options: argparse.Namespace
) -> tuple[list[Result], bool]:
    """Perform scenarios one after the other, and show how it goes."""
    console = Console(stderr=True)
    results: list[Result] = []
    failed = False
    columns = (
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[state]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("chaos", total=len(scenarios), state="")
        for scenario in scenarios:

            def show(now: load.Progress) -> None:
                progress.update(task, state=f"{now.calls} calls, {now.failed} failed")

            progress.update(task, description=scenario.name, state="starting servers")
            try:
                result = examine(scenario, seconds=options.seconds, seed=options.seed, show=show)
            except Exception as fault:
                failed = True
                told = "\n".join(str(fault).splitlines()[-3:])
                console.print(f"[red]can't  [/] {scenario.name}: {type(fault).__name__}", end=" ")
                console.print(told, highlight=False, markup=False)
                continue
            finally:
                progress.advance(task)
            results.append(result)
            console.print(_verdict(result))
            if options.timeline:
                console.print(report.timeline(result.run), highlight=False, markup=False)
            for finding in result.findings:
                if options.findings and finding.kind in PERMITTED:
                    console.print(f"        {finding}", highlight=False, markup=False)
    return results, failed


def _verdict(result: Result) -> str:
    figures = result.figures
    word = "[red]broken [/]" if result.broken else "[green]holds  [/]"
    return (
        f"{word} {result.run.name}: {figures.calls} calls, {figures.succeeded} succeeded, "
        f"p99.9 {figures.p999 * 1000:.0f} ms" + "".join(f"\n        {b}" for b in result.broken)
    )


if __name__ == "__main__":
    sys.exit(main())
