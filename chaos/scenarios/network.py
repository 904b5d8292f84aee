"""A cluster that flowcache reaches through a proxy a node, and the proxies misbehave."""

from __future__ import annotations

from functools import partial

from chaos.bars import Bars
from chaos.rigs import clustered
from chaos.scenarios.cluster import OnCluster, first_shard
from chaos.stage import Scenario

__all__ = ["SCENARIOS"]

SLOW_SECONDS = 0.2
RESET_EACH = 100


def cut(stage: OnCluster) -> None:
    """Drop everything between flowcache and one primary; the cluster itself notices nothing."""
    primary, _, slots = first_shard(stage)
    strike = stage.strike("cut off", slots, reads_survive=True)
    stage.servers.proxy(primary).drop()
    stage.calm(1.5)
    stage.servers.proxy(primary).restore()
    stage.mends(strike)
    stage.calm()


def slow(stage: OnCluster) -> None:
    primary, _, slots = first_shard(stage)
    strike = stage.strike("slow", slots, reads_survive=True)
    stage.servers.proxy(primary).delay(SLOW_SECONDS)
    stage.calm(1.5)
    stage.servers.proxy(primary).restore()
    stage.mends(strike)


def resets(stage: OnCluster) -> None:
    strike = stage.strike("reset")
    for node in stage.servers.nodes:
        stage.servers.proxy(node).reset_every(commands=RESET_EACH)
    stage.calm(2)
    for node in stage.servers.nodes:
        stage.servers.proxy(node).restore()
    stage.mends(strike)


def forget_scripts(stage: OnCluster) -> None:
    for _ in range(4):
        stage.calm(0.25)
        for node in stage.servers.primaries():
            node.cli("SCRIPT", "FLUSH")


proxied = partial(clustered, proxied=True)

SCENARIOS = (
    Scenario(
        "node cut off",
        "A proxy between flowcache and one primary drops everything, silently; the other nodes "
        "reach it, so nobody takes over.",
        proxied,
        cut,
    ),
    Scenario(
        "node slow",
        f"Each request to one primary arrives {SLOW_SECONDS * 1000:.0f} ms late.",
        proxied,
        slow,
        Bars(success=0.999),
    ),
    Scenario(
        "connections reset",
        f"On each node every {RESET_EACH}th command is run, and its connection reset before the "
        "answer.",
        proxied,
        resets,
    ),
    Scenario(
        "scripts forgotten",
        "`SCRIPT FLUSH` on every primary, four times.",
        clustered,
        forget_scripts,
        Bars(success=1.0),
    ),
)
