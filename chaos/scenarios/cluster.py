"""A cluster of three primaries with a replica each, whose nodes die, stall, move and come back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from chaos.bars import Bars
from chaos.history import Loss, Strike
from chaos.rigs import clustered
from chaos.stage import Scenario, Stage
from tests.servers import Cluster, ClusterNode

__all__ = ["BASELINE", "SCENARIOS"]

OnCluster = Stage[Cluster]

UNNOTICED = Bars(success=0.999)
"""For what operators do on purpose: hardly a flow may notice."""


def slots_of(node: ClusterNode) -> Sequence[range]:
    """Return the slots that a node says it owns."""
    return node.view()[node.node_id].slots


def serves(node: ClusterNode) -> bool:
    """Whether a node says that it is a primary and that its cluster is well."""
    is_primary = node.cli("ROLE")[0] == "master" and bool(slots_of(node))
    return is_primary and node.cluster_info()["cluster_state"] == "ok"


def first_shard(stage: OnCluster) -> tuple[ClusterNode, ClusterNode, Sequence[range]]:
    """Return a shard's primary, its replica and its slots."""
    primary = stage.servers.primaries()[0]
    return primary, stage.servers.replicas_of(primary)[0], slots_of(primary)


def nothing(stage: OnCluster) -> None:
    stage.calm(2)


def kill_primary(stage: OnCluster) -> None:
    """Kill the primary of each shard in turn; each comes back as a replica before the next."""
    for primary in stage.servers.primaries():
        (replica,) = stage.servers.replicas_of(primary)
        slots = slots_of(primary)
        with stage.controlled(primary, slots):
            stage.calm(0.5)
            strike = stage.strike("killed", slots, may_lose=Loss.ACKNOWLEDGED, reads_survive=True)
            primary.kill()
        stage.fails_over(strike, partial(serves, replica))
        stage.calm(0.5)
        stage.mends(strike)
        stage.servers.heal()
        stage.calm(0.5)


def kill_shard(stage: OnCluster) -> None:
    """Kill a primary and its replica; what they had is on their disks."""
    primary, replica, slots = first_shard(stage)
    strike = stage.strike("killed", slots)
    replica.kill()
    primary.kill()
    stage.calm(1.5)
    primary.start()
    replica.start()
    stage.fails_over(strike, lambda: serves(primary) or serves(replica))
    stage.mends(strike)
    stage.calm()


def stop_primary(stage: OnCluster) -> None:
    primary, replica, slots = first_shard(stage)
    with stage.controlled(primary, slots):
        stage.calm(0.5)
        strike = stage.strike("stopped", slots, may_lose=Loss.ACKNOWLEDGED, reads_survive=True)
        primary.pause()
        stage.fails_over(strike, lambda: serves(replica))
        stage.hold(max(0.0, 5.0 - (strike.failed_over or 0.0) + strike.at))
        stage.mends(strike)
        primary.resume()
    stage.calm()


def stop_everything(stage: OnCluster) -> None:
    strike = stage.strike("stopped", may_lose=Loss.ACKNOWLEDGED)
    for node in stage.servers.nodes:
        node.pause()
    stage.calm()
    for node in stage.servers.nodes:
        node.resume()
    stage.mends(strike)
    wait_all_back(stage, strike)


def kill_everything(stage: OnCluster) -> None:
    """Kill and restart every node; what they had is on their disks."""
    strike = stage.strike("killed")
    for node in stage.servers.nodes:
        node.kill()
    stage.calm()
    for node in stage.servers.nodes:
        node.start()
    stage.mends(strike)
    wait_all_back(stage, strike)


def wait_all_back(stage: OnCluster, strike: Strike) -> None:
    def all_serve() -> bool:
        return sum(map(serves, stage.servers.nodes)) == 3

    stage.fails_over(strike, all_serve)
    stage.calm()


def order_failover(stage: OnCluster) -> None:
    primary, replica, slots = first_shard(stage)
    with stage.controlled(primary, slots):
        stage.calm(0.5)
        strike = stage.strike("failed over", slots, reads_survive=True)
        replica.cli("CLUSTER", "FAILOVER")
        stage.fails_over(strike, lambda: serves(replica))
        stage.mends(strike)
    stage.calm()


def reshard(stage: OnCluster) -> None:
    """Move a thousand slots, and what is in them, under load."""
    source, target = stage.servers.primaries()[:2]
    moving = [slot for owned in slots_of(source) for slot in owned][:1000]
    strike = stage.strike("resharded", [range(moving[0], moving[-1] + 1)])
    stage.servers.reshard(moving, source, target)
    stage.mends(strike)


def add_and_remove_node(stage: OnCluster) -> None:
    """Add a primary, give it five hundred slots, take them back, and remove it again."""
    source = stage.servers.primaries()[0]
    moving = [slot for owned in slots_of(source) for slot in owned][:500]
    strike = stage.strike("node added", [range(moving[0], moving[-1] + 1)])
    fresh = stage.servers.add_node()
    stage.servers.reshard(moving, source, fresh)
    stage.calm(0.5)
    stage.servers.reshard(moving, fresh, source)
    stage.servers.remove_node(fresh)
    stage.mends(strike)


BASELINE = Scenario("baseline", "Nothing happens.", clustered, nothing, Bars(success=1.0))

SCENARIOS = (
    BASELINE,
    Scenario(
        "primary killed",
        "Each primary in turn gets SIGKILL; its replica takes over; it is started again.",
        clustered,
        kill_primary,
    ),
    Scenario(
        "shard killed",
        "A primary and its only replica get SIGKILL, and are started again from their files.",
        partial(clustered, persistent=True),
        kill_shard,
    ),
    Scenario(
        "primary stopped",
        "A primary gets SIGSTOP, and SIGCONT five seconds later, when its replica has taken over.",
        clustered,
        stop_primary,
    ),
    Scenario(
        "all stopped",
        "All six nodes get SIGSTOP, and then SIGCONT.",
        clustered,
        stop_everything,
    ),
    Scenario(
        "all killed",
        "All six nodes get SIGKILL, and are started again from their files, without any script.",
        partial(clustered, persistent=True),
        kill_everything,
    ),
    Scenario(
        "ordered failover",
        "`CLUSTER FAILOVER` of one shard.",
        clustered,
        order_failover,
        UNNOTICED,
    ),
    Scenario(
        "resharding",
        "1,000 slots with their keys move from one primary to another, as `redis-cli` does it.",
        clustered,
        reshard,
        UNNOTICED,
    ),
    Scenario(
        "node added and removed",
        "A fourth primary joins, takes 500 slots, gives them back, and is forgotten.",
        clustered,
        add_and_remove_node,
        UNNOTICED,
    ),
)
