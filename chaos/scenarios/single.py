"""Redis without a cluster: Sentinel, a primary with its replica, one server alone."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import redis

from chaos.bars import Bars
from chaos.history import Loss
from chaos.rigs import alone, paired, watched
from chaos.stage import EVERY_SLOT, Scenario, Stage
from tests.servers import RedisProcess, Replicated, SentinelGroup, eventually

__all__ = ["SCENARIOS"]

OUT_OF_MEMORY = "1mb"
REPLICAS = 2
"""Of a Sentinel's primary."""


def kill_watched(stage: Stage[SentinelGroup]) -> None:
    primary = stage.servers.primary()
    with stage.controlled(primary, EVERY_SLOT, replicas=REPLICAS):
        stage.calm(0.5)
        strike = stage.strike("killed", may_lose=Loss.ACKNOWLEDGED, reads_survive=True)
        primary.kill()
    stage.fails_over(strike, lambda: _other_primary(stage.servers, primary))
    stage.calm()
    primary.start()
    stage.mends(strike)
    stage.calm()


def order_watched(stage: Stage[SentinelGroup], *, may_lose: Loss = Loss.ACKNOWLEDGED) -> None:
    primary = stage.servers.primary()
    with stage.controlled(primary, EVERY_SLOT, replicas=REPLICAS):
        stage.calm(0.5)
        strike = stage.strike("failed over", may_lose=may_lose, reads_survive=True)
        stage.servers.sentinels[0].cli("SENTINEL", "FAILOVER", stage.servers.service)
        # Until the old primary is told, it goes on acknowledging what will be lost.
        stage.fails_over(strike, lambda: _follows(stage.servers, primary))
    stage.mends(strike)
    stage.calm()


def _other_primary(group: SentinelGroup, old: RedisProcess) -> bool:
    primary = group.primary()
    return primary is not old and bool(primary.cli("ROLE")[0] == "master")


def _follows(group: SentinelGroup, old: RedisProcess) -> bool:
    """Whether the old primary is a replica, and the new one has all that there are."""
    is_replica = old.cli("ROLE")[0] == "slave"
    role, _, replicas = group.primary().cli("ROLE")
    return is_replica and role == "master" and len(replicas) == REPLICAS


def swap(stage: Stage[Replicated]) -> None:
    """Let primary and replica change places, as `FAILOVER` does it: nothing is lost."""
    old, new = stage.servers.primary, stage.servers.replica
    with stage.controlled(old, EVERY_SLOT):
        stage.calm(0.5)
        strike = stage.strike("swapped", reads_survive=True)
        old.cli("FAILOVER", "TO", "127.0.0.1", new.port)
        stage.fails_over(strike, lambda: new.cli("ROLE")[0] == "master")
    stage.mends(strike)
    stage.calm()


def restart(stage: Stage[RedisProcess]) -> None:
    strike = stage.strike("restarted")
    stage.servers.stop()
    stage.calm(0.5)
    stage.servers.start()
    stage.fails_over(strike, lambda: stage.servers.cli("PING"))
    stage.mends(strike)
    stage.calm()


def run_out_of_memory(stage: Stage[RedisProcess]) -> None:
    stage.servers.cli("CONFIG", "SET", "maxmemory", OUT_OF_MEMORY)
    strike = stage.strike("out of memory", reads_survive=True)
    stage.calm()
    stage.servers.cli("CONFIG", "SET", "maxmemory", 0)
    stage.mends(strike)
    strike.failed_over = strike.mended


def fail_to_save(stage: Stage[RedisProcess]) -> None:
    """Let snapshots fail, by a directory in the place of the file, until Redis takes no writes."""
    server = stage.servers
    obstacle = server.directory / "dump.rdb"
    (obstacle / "in-the-way").mkdir(parents=True)
    server.cli("CONFIG", "SET", "save", "3600 1")
    strike = stage.strike("can't save", reads_survive=True)
    eventually(lambda: _bgsave_failed(server), what="a snapshot to fail")
    stage.calm()
    (obstacle / "in-the-way").rmdir()
    obstacle.rmdir()
    stage.fails_over(strike, lambda: _bgsave_works(server))
    stage.mends(strike)


def _bgsave_failed(server: RedisProcess) -> bool:
    with suppress(redis.ResponseError):
        server.cli("BGSAVE")
    return bool(server.cli("INFO", "persistence")["rdb_last_bgsave_status"] == "err")


def _bgsave_works(server: RedisProcess) -> bool:
    return not _bgsave_failed(server)


SCENARIOS = (
    Scenario(
        "Sentinel: primary killed",
        "The primary of three gets SIGKILL; Sentinel promotes another; it is started again.",
        watched,
        kill_watched,
    ),
    Scenario(
        "Sentinel: ordered failover",
        "`SENTINEL FAILOVER`; the old primary takes writes until Sentinel demotes it.",
        watched,
        order_watched,
    ),
    Scenario(
        "Sentinel: confirmed",
        "The same with `redis.confirm_replicas = 2`, as many as there are: now a loss is no "
        "longer Redis's own.",
        watched,
        partial(order_watched, may_lose=Loss.UNACKNOWLEDGED),
        environment={"FLOWCACHE_REDIS_CONFIRM_REPLICAS": str(REPLICAS)},
    ),
    Scenario(
        "primary turns READONLY",
        "Primary and replica change places by `FAILOVER TO`; flowcache knows both addresses.",
        paired,
        swap,
        Bars(success=0.99),
    ),
    Scenario(
        "standalone restarted",
        "The only server is stopped and started again from its file.",
        partial(alone, persistent=True),
        restart,
    ),
    Scenario(
        "out of memory",
        "The only server is over its `maxmemory`, with `noeviction`: it takes no writes.",
        alone,
        run_out_of_memory,
    ),
    Scenario(
        "disk full",
        "The only server can't save its snapshot: it answers writes with MISCONF.",
        alone,
        fail_to_save,
    ),
)
