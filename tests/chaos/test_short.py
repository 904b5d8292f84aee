"""A short run of `make chaos`: nothing lost, nothing doubled, no wrong answer. No bars on time."""

from __future__ import annotations

import pytest

from chaos.run import examine
from chaos.scenarios import SCENARIOS

SHORT = (
    "baseline",
    "primary killed",
    "ordered failover",
    "connections reset",
    "scripts forgotten",
    "standalone restarted",
    "out of memory",
    "SIGTERM",
)
SECONDS = 0.5


@pytest.mark.parametrize("name", SHORT)
def test_nothing_is_lost_or_doubled_or_wrong(name: str) -> None:
    """Whatever breaks, every answer is what a Redis that keeps its promises would have given."""
    (scenario,) = (scenario for scenario in SCENARIOS if scenario.name == name)
    result = examine(scenario, seconds=SECONDS, seed=1, timed=False)
    assert result.broken == ()
    assert result.figures.succeeded.part > 0
