"""The rules for alerts in docs/metrics.md, next to its tables of metrics."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text("utf-8")
TABLE = dict(re.findall(r"^\| `(flowcache_\w+)` \| (.*) \|$", PAGE, re.M))


def ruled() -> set[str]:
    """Return the metrics that rules are about."""
    (rules,) = re.findall(r"^groups:\n.*?^```$", PAGE, re.M | re.S)
    return {name.removesuffix("_bucket") for name in re.findall(r"\bflowcache_\w+", rules)}


def test_what_is_to_raise_an_alarm_has_a_rule() -> None:
    """Nobody reads in the table what to alarm on, and misses it in the rules they copy."""
    alarming = {name for name, told in TABLE.items() if "alarm" in told}
    assert {"flowcache_audit_broken", "flowcache_audit_lost_total"} <= alarming <= ruled()


def test_a_rule_is_about_metrics_there_are() -> None:
    """A rule with a slip in a name would never fire."""
    assert ruled() <= TABLE.keys()
