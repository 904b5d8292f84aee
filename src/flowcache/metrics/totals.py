"""The totals of workers that have ended: kept apart from those that live, and folded into one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import structs

from flowcache.measures import add_up, values
from flowcache.metrics.counters import merge
from flowcache.status import (
    CircuitStatus,
    EncryptionKeyStatus,
    EncryptionStatus,
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

    What is declared as a metric is added up by itself (`measures`); the rest that grows, here.
    """
    names = workers[0].operations
    total = add_up(workers)
    store, loop = total.store, total.loop
    return structs.replace(
        total,
        pid=0,
        alive=False,
        started_at=min(worker.started_at for worker in workers),
        operations={name: merge(worker.operations[name] for worker in workers) for name in names},
        audit=[],
        circuits=_circuits(circuit for worker in workers for circuit in worker.circuits),
        store=structs.replace(store, status="end", topology=None, fault=None, shards=()),
        certificate_expires=None,
        encryption=merge_encryption(workers),
        loop=None
        if loop is None
        else structs.replace(loop, longest=max(values(workers, ("loop", "longest"))), last=0.0),
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
