"""The totals of workers that have ended: kept apart from those that live, and folded into one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import structs

from flowcache.metrics.counters import merge
from flowcache.status import (
    CircuitStatus,
    EncryptionKeyStatus,
    EncryptionStatus,
    JournalStatus,
    LoopStatus,
    ReadStats,
    StoreStatus,
    WorkerStatus,
)

__all__ = ["fold", "merge_encryption", "once_each"]


def once_each(living: Iterable[WorkerStatus], left: Iterable[WorkerStatus]) -> list[WorkerStatus]:
    """Return every worker once: those that live in their order, then those that have ended.

    A worker may answer and end while another is still being asked: then it has ended. A process id
    comes round again, so a worker is known by when it started, too.
    """
    gone = {(each.pid, each.started_at): structs.replace(each, alive=False) for each in left}
    still = [each for each in living if (each.pid, each.started_at) not in gone]
    return [*still, *gone.values()]


def fold(workers: Sequence[WorkerStatus]) -> WorkerStatus:
    """Return one that has ended and counted what all ``workers`` did, at least one. It has no pid.

    Whatever `WorkerStatus` gets that only grows must be added up here.
    """
    names = workers[0].operations
    return WorkerStatus(
        pid=0,
        alive=False,
        started_at=min(worker.started_at for worker in workers),
        in_flight=0,
        operations={name: merge(worker.operations[name] for worker in workers) for name in names},
        audit=[],
        audit_total=sum(worker.audit_total for worker in workers),
        circuits=_circuits(circuit for worker in workers for circuit in worker.circuits),
        store=StoreStatus(
            "end",
            None,
            None,
            (),
            retries=sum(worker.store.retries for worker in workers),
            retries_refused=sum(worker.store.retries_refused for worker in workers),
        ),
        reads=ReadStats(
            **{
                name: sum(getattr(worker.reads, name) for worker in workers)
                for name in ReadStats.__struct_fields__
            }
        ),
        journal=_journal([worker.journal for worker in workers if worker.journal is not None]),
        overload_refusals=sum(worker.overload_refusals for worker in workers),
        encryption=merge_encryption(workers),
        loop=_loop([worker.loop for worker in workers if worker.loop is not None]),
    )


def merge_encryption(workers: Sequence[WorkerStatus]) -> EncryptionStatus | None:
    """Add up what workers encrypted; a key is active while a living worker encrypts with it."""
    there = [(each.alive, each.encryption) for each in workers if each.encryption is not None]
    if not there:
        return None
    ids = dict.fromkeys(key_id for _, status in there for key_id in status.keys)
    reasons = there[0][1].decryption_failures
    return EncryptionStatus(
        {
            key_id: _key(
                [(alive, status.keys[key_id]) for alive, status in there if key_id in status.keys]
            )
            for key_id in ids
        },
        {
            reason: sum(status.decryption_failures[reason] for _, status in there)
            for reason in reasons
        },
    )


def _key(uses: Sequence[tuple[bool, EncryptionKeyStatus]]) -> EncryptionKeyStatus:
    return EncryptionKeyStatus(
        any(alive and use.active for alive, use in uses),
        sum(use.encrypted for _, use in uses),
        sum(use.decrypted for _, use in uses),
    )


def _loop(loops: Sequence[LoopStatus]) -> LoopStatus | None:
    """Add up how late loops were; one that has ended is not late any more."""
    if not loops:
        return None
    return LoopStatus(
        lags=[sum(counts) for counts in zip(*(each.lags for each in loops), strict=True)],
        total=sum(each.total for each in loops),
        longest=max(each.longest for each in loops),
        last=0.0,
        lost=sum(each.lost for each in loops),
    )


def _journal(journals: Sequence[JournalStatus]) -> JournalStatus | None:
    """Add up what was written and lost; nothing of those that have ended waits or is broken."""
    if not journals:
        return None
    return structs.replace(
        journals[-1],
        fault=None,
        tampering=None,
        queued=0,
        written=sum(each.written for each in journals),
        lost=sum(each.lost for each in journals),
        pruned=sum(each.pruned for each in journals),
        pruned_early=sum(each.pruned_early for each in journals),
        commits=[sum(counts) for counts in zip(*(j.commits for j in journals), strict=True)],
        commit_ms=sum(each.commit_ms for each in journals),
    )


def _circuits(circuits: Iterable[CircuitStatus]) -> list[CircuitStatus]:
    """Add up what circuits of the same place counted; the rest is that of the last."""
    total: dict[tuple[str, str], CircuitStatus] = {}
    for circuit in circuits:
        at = (circuit.shard, circuit.access)
        before = total.get(at)
        total[at] = circuit if before is None else _and(before, circuit)
    return list(total.values())


def _and(before: CircuitStatus, circuit: CircuitStatus) -> CircuitStatus:
    entered = dict.fromkeys([*before.transitions, *circuit.transitions])
    return structs.replace(
        circuit,
        refused=before.refused + circuit.refused,
        would_refuse=before.would_refuse + circuit.would_refuse,
        transitions={
            state: before.transitions.get(state, 0) + circuit.transitions.get(state, 0)
            for state in entered
        },
    )
