"""The table of scenarios. To add one: a function and its record in the module of its kind.

- `cluster`  a cluster's nodes die, stall, move and come back
- `network`  what lies between flowcache and a node misbehaves
- `single`   Sentinel, a primary with its replica, one server alone
- `service`  flowcache itself: signals, overload, slow clients

The attacks of one client on others have a package of their own, `chaos.neighbours`.
"""

from __future__ import annotations

from typing import Any

from chaos.neighbours.scenarios import SCENARIOS as ATTACKS
from chaos.scenarios import cluster, network, service, single
from chaos.stage import Scenario

__all__ = ["BASELINE", "SCENARIOS"]

BASELINE = cluster.BASELINE
"""The scenario in which nothing happens, and to which all others compare."""

SCENARIOS: tuple[Scenario[Any], ...] = (
    *cluster.SCENARIOS,
    *network.SCENARIOS,
    *single.SCENARIOS,
    *service.SCENARIOS,
    *ATTACKS,
)
