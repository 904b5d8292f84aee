"""A short run of `make chaos`: nothing lost, nothing doubled, no wrong answer. No bars on time."""

from __future__ import annotations

import pytest

from chaos.model import Kind
from chaos.rigs import alone
from chaos.run import examine
from chaos.scenarios import SCENARIOS
from chaos.stage import Scenario, Stage
from tests.servers import RedisProcess

SHORT = ("primary killed", "connections reset", "standalone restarted", "SIGTERM")
SECONDS = 0.5


@pytest.mark.parametrize("name", SHORT)
def test_nothing_is_lost_or_doubled_or_wrong(name: str) -> None:
    """Whatever breaks, every answer is what a Redis that keeps its promises would have given."""
    (scenario,) = (scenario for scenario in SCENARIOS if scenario.name == name)
    result = examine(scenario, seconds=SECONDS, seed=1, timed=False)
    assert result.broken == ()
    assert result.figures.succeeded.part > 0


def sabotage(stage: Stage[RedisProcess]) -> None:
    """Do to Redis, behind flowcache's back, what flowcache must never do."""
    server = stage.servers
    lost, foreign, eternal, *_ = server.cli("KEYS", "ledger:*")
    counter, *_ = server.cli("KEYS", "counter:*")
    server.cli("SET", foreign, server.cli("GET", eternal), "EX", 60)
    server.cli("DEL", lost)
    server.cli("PERSIST", eternal)
    server.cli("INCRBY", counter, 1000)


def test_sabotage_is_found() -> None:
    """The whole harness finds a loss, a doubled step, a foreign value and a missing TTL."""
    scenario = Scenario("sabotage", "", alone, sabotage)
    result = examine(scenario, seconds=SECONDS, seed=1, timed=False)
    kinds = {finding.kind for finding in result.findings}
    assert {Kind.LOST, Kind.DOUBLED, Kind.WRONG_ANSWER, Kind.NO_TTL} <= kinds
    assert len(result.broken) == len(kinds)
