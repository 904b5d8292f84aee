"""Workers that have ended: each counts once, and as much in the sum as it did by itself."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from flowcache.admin.inspector.view import AuditFilter, view
from flowcache.measures import Timings
from flowcache.metrics.exposition import exposition
from flowcache.metrics.latency import BUCKETS
from flowcache.metrics.totals import fold, merge_encryption, once_each
from flowcache.status import (
    EncryptionKeyStatus,
    EncryptionStatus,
    JournalStatus,
    LoopStatus,
    ReadStats,
    StoreStatus,
    WorkerStatus,
)
from tests.unit.telemetry.statuses import circuit, link, record, shard, worker

CALLS = [("GET", "ok", True, 0.5), ("GET", "ok", False, 1.5), ("SET", "conflict", None, 3.0)]


def counts(pid: int) -> Timings:
    """Return timings that are all in one bucket."""
    made = [0] * BUCKETS
    made[pid] = pid
    return Timings(made, pid / 4)


def ended(pid: int, **fields: Any) -> WorkerStatus:
    """Return one that has counted something of everything there is."""
    circuits = [
        circuit("open", refused=pid, would_refuse=2, transitions={"open": pid, "half-open": 1}),
        circuit(shard=f"b:{pid % 2}", access="write", refused=1, transitions={"closed": pid}),
    ]
    told = worker(
        pid,
        CALLS[:pid],
        [record()] * pid,
        circuits,
        [shard(link())],
        alive=False,
        at_work=1,
        overload_refusals=pid,
        reads=ReadStats(pid, 10 * pid, 100 * pid, 1000 * pid),
        loop=LoopStatus(lags=counts(pid), longest=pid / 16, last=1.0, lost=pid / 4),
        encryption=EncryptionStatus(
            {
                "k1": EncryptionKeyStatus(False, pid, 10 * pid),
                f"k{2 + pid % 2}": EncryptionKeyStatus(True, 1, pid),
            },
            {"altered": pid, "plaintext": 1},
        ),
    )
    store = StoreStatus("ready", "cluster", None, told.store.shards, pid, 10 * pid)
    journal = JournalStatus(
        path="/a.db",
        mode="strict",
        writer="0a",
        fault=None,
        queued=0,
        written=pid,
        lost=10 * pid,
        pruned=100 * pid,
        pruned_early=1000 * pid,
        commits=counts(pid),
    )
    return structs.replace(told, store=store, journal=journal, **fields)


# -- once each -------------------------------------------------------------------------------------


def test_who_answered_and_ended_meanwhile_has_ended() -> None:
    """Found in both places, a worker counts once: with its last totals."""
    me, other = worker(1), worker(2, CALLS[:1])
    last = worker(2, CALLS)
    assert once_each([me, other], [last]) == [me, structs.replace(last, alive=False)]


def test_a_process_id_that_came_round_is_another_worker() -> None:
    """Who has the pid of one that ended is not taken for it."""
    me, again = worker(1), worker(2)
    before = structs.replace(again, started_at=-1.0)
    assert once_each([me, again], [before]) == [me, again, structs.replace(before, alive=False)]


def test_who_lives_keeps_its_place() -> None:
    """The one that is asked comes first, and those that have ended last."""
    told = once_each([worker(3), worker(1)], [worker(2)])
    assert [(each.pid, each.alive) for each in told] == [(3, True), (1, True), (2, False)]


# -- one of many -----------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [1, 2, 3, 7])
def test_a_sum_tells_what_its_parts_did(many: int) -> None:
    """Neither the metrics nor the inspector can tell whether the ended are one or many."""
    me = worker(99, CALLS, circuits=[circuit(refused=2)])
    gone = [ended(pid) for pid in range(1, many + 1)]
    total = fold(gone)
    assert exposition([me, total], "1") == exposition([me, *gone], "1")
    told, apart = (view(all_, AuditFilter(), {}, "1") for all_ in ([me, total], [me, *gone]))
    assert told == apart


def test_sums_may_be_summed() -> None:
    """The next to be folded meets the sum of those before, and the order is no matter."""
    gone = [ended(pid) for pid in range(1, 5)]
    whole = fold(gone)
    step_by_step = fold([fold([fold(gone[:2]), gone[2]]), gone[3]])
    assert step_by_step == whole


def test_a_sum_is_no_worker() -> None:
    """It has no pid that another could have, and carries nothing that was of its moment."""
    journal = ended(1).journal
    assert journal is not None
    broken = structs.replace(journal, fault="full", tampering="bent", queued=4)
    total = fold(
        [ended(1, started_at=5.0), structs.replace(ended(2, started_at=3.0), journal=broken)]
    )
    assert total.journal is not None
    assert (total.journal.fault, total.journal.tampering, total.journal.queued) == (None, None, 0)
    assert (total.pid, total.alive, total.started_at) == (0, False, 3.0)
    assert (total.in_flight, total.at_work, total.audit, total.store.shards) == (0, 0, [], ())


def test_only_who_lives_says_which_key_is_active() -> None:
    """A key that was replaced, or removed, is active no more when its workers have ended; while
    they go over, both are."""
    before, after = (
        EncryptionStatus({"old": EncryptionKeyStatus(not is_new, 3, 4)} | new, {})
        for is_new, new in ((False, {}), (True, {"new": EncryptionKeyStatus(True, 5, 6)}))
    )
    removed = EncryptionStatus({"new": EncryptionKeyStatus(True, 1, 1)}, {})

    def active(*workers: WorkerStatus) -> list[str]:
        merged = merge_encryption(workers)
        assert merged is not None
        return sorted(key_id for key_id, use in merged.keys.items() if use.active)

    assert active(worker(1, encryption=before), worker(2, encryption=after)) == ["new", "old"]
    gone = worker(1, alive=False, encryption=before)
    assert active(worker(2, encryption=after), gone) == ["new"]
    assert active(worker(3, encryption=removed), fold([gone])) == ["new"]
    assert active(gone) == []
