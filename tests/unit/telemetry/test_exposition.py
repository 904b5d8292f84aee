"""The metrics as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flowcache.metrics.exposition import exposition
from flowcache.metrics.latency import LatencyCounts
from flowcache.ports import Mode
from flowcache.status import EncryptionKeyStatus, EncryptionStatus, LoopStatus, WorkerStatus
from tests.unit.telemetry.statuses import circuit, link, record, shard, worker

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

CALLS = [
    ("GET", "ok", True, 0.5),
    ("GET", "ok", False, 1.5),
    ("GET", "redis_unavailable", None, 3.0),
    ("SET", "ok", None, 0.25),
    ("NOPE", "invalid_request", None, 0.1),
]


def parsed(workers: Sequence[WorkerStatus], version: str = "1.2.3") -> Samples:
    """Return all samples; fails when one comes twice."""
    families = text_string_to_metric_families(exposition(workers, version).decode())
    found = [sample for family in families for sample in family.samples]
    samples = {(s.name, frozenset(s.labels.items())): s.value for s in found}
    assert len(samples) == len(found)
    return samples


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"flowcache_{name}", frozenset(labels.items())]


def test_calls_of_all_workers_add_up() -> None:
    """What Prometheus sees of a service is the sum of its workers."""
    samples = parsed([worker(1, CALLS), worker(2, CALLS[:2])])
    assert value(samples, "requests_total", operation="GET", outcome="ok") == 4
    assert value(samples, "requests_total", operation="GET", outcome="redis_unavailable") == 1
    assert value(samples, "requests_total", operation="SET", outcome="ok") == 1
    assert value(samples, "requests_total", operation="other", outcome="invalid_request") == 1
    assert value(samples, "lookups_total", operation="GET", result="hit") == 2
    assert value(samples, "lookups_total", operation="GET", result="miss") == 2
    assert value(samples, "workers") == 2


def test_a_histogram_is_cumulative_and_complete() -> None:
    """Buckets grow up to the count of all calls; the sum is in seconds."""
    samples = parsed([worker(1, CALLS), worker(2, [("GET", "ok", True, 100_000.0)])])
    name = "request_duration_seconds"
    buckets = sorted(
        (float(dict(labels)["le"]), count)
        for (metric, labels), count in samples.items()
        if metric == f"flowcache_{name}_bucket" and ("operation", "GET") in labels
    )
    bounds, counts = zip(*buckets, strict=True)
    assert bounds == (*(2**power / 1e6 for power in range(7, 25)), inf)
    assert list(counts) == sorted(counts)
    assert value(samples, f"{name}_count", operation="GET") == counts[-1] == 4
    assert counts[-2] == 3
    assert value(samples, f"{name}_sum", operation="GET") == pytest.approx(100.005)
    assert dict(buckets)[0.000512] == 1
    assert dict(buckets)[0.002048] == 2


def test_lags_of_all_workers_add_up() -> None:
    """How late event loops were is one histogram, and the time they lost one counter."""
    lags = LatencyCounts()
    for seconds in (0.0001, 0.0001, 0.3):
        lags.record(seconds)
    loop = LoopStatus(lags=lags.timings(), longest=0.3, last=0.0, lost=0.25)
    samples = parsed([worker(1, loop=loop), worker(2, loop=loop), worker(3)])
    name = "event_loop_lag_seconds"
    assert value(samples, f"{name}_count") == 6
    assert value(samples, f"{name}_sum") == pytest.approx(0.6004)
    assert value(samples, f"{name}_bucket", le="0.262144") == 4
    assert value(samples, f"{name}_bucket", le="0.524288") == 6
    assert value(samples, "event_loop_lost_seconds_total") == 0.5


def test_circuits_are_counted_by_state_over_all_workers() -> None:
    """Each shard tells in how many workers its circuit is in which state."""
    samples = parsed(
        [
            worker(
                1,
                circuits=[
                    circuit("open", refused=3, transitions={"open": 2, "half-open": 1}),
                    circuit(shard="b:2", mode="observe", would_refuse=4),
                ],
            ),
            worker(
                2,
                circuits=[
                    circuit("closed", refused=2, transitions={"open": 1}),
                    circuit("half-open", "b:2"),
                    circuit("open", access="write", refused=9),
                ],
            ),
        ]
    )
    states = {
        (dict(labels)["shard"], dict(labels)["state"]): count
        for (name, labels), count in samples.items()
        if name == "flowcache_circuits" and dict(labels)["access"] == "read"
    }
    assert states == {
        ("a:1", "closed"): 1,
        ("a:1", "half-open"): 0,
        ("a:1", "open"): 1,
        ("b:2", "closed"): 1,
        ("b:2", "half-open"): 1,
        ("b:2", "open"): 0,
    }
    a, b = {"shard": "a:1", "access": "read"}, {"shard": "b:2", "access": "read"}
    writes = a | {"access": "write"}
    assert value(samples, "circuits", **writes, state="open") == 1
    assert value(samples, "circuit_refusals_total", **a) == 5
    assert value(samples, "circuit_refusals_total", **writes) == 9
    assert value(samples, "circuit_transitions_total", **a, to="open") == 3
    assert value(samples, "circuit_transitions_total", **a, to="half-open") == 1
    assert value(samples, "circuit_transitions_total", **a, to="closed") == 0
    assert value(samples, "circuit_observed_refusals_total", **b) == 4
    modes = [value(samples, "circuit_modes", **b, mode=mode) for mode in Mode]
    assert dict(zip(Mode, modes, strict=True)) == {
        Mode.AUTO: 1,
        Mode.FORCED_OPEN: 0,
        Mode.DISABLED: 0,
        Mode.OBSERVE: 1,
    }


def test_links_are_counted_by_server_and_role() -> None:
    """For each server: how many workers reach it, and what waits for it."""
    shards = [shard(link("a:1", pending=2), link("b:1", "connecting", 1))]
    samples = parsed([worker(1, shards=shards), worker(2, shards=shards)])
    assert value(samples, "redis_links_up", address="a:1", role="primary") == 2
    assert value(samples, "redis_links_up", address="b:1", role="replica") == 0
    assert value(samples, "redis_pending", address="a:1", role="primary") == 4
    assert value(samples, "redis_pending", address="b:1", role="replica") == 2


def test_the_rest_adds_up_too() -> None:
    """Calls in flight, audit records and the version are told once for the service."""
    samples = parsed([worker(1, in_flight=2), worker(2, in_flight=3)], "9.8")
    assert value(samples, "requests_in_flight") == 5
    assert value(samples, "audit_records_total") == 0
    assert value(samples, "build_info", version="9.8") == 1


def test_an_overload_is_told_apart_from_an_outage() -> None:
    """How full the workers are, and what they had no room for, those that ended included."""
    living = [worker(1, at_work=2, overload_refusals=5), worker(2, at_work=3)]
    samples = parsed([*living, worker(3, alive=False, at_work=9, overload_refusals=4)])
    assert value(samples, "requests_at_work") == 5
    assert value(samples, "overload_refusals_total") == 9


def test_encryption_is_counted_by_key_over_all_workers() -> None:
    """A key of any worker has its counts, and so has what could not be opened."""
    one = EncryptionStatus({"k1": EncryptionKeyStatus(True, 1, 2)}, {"altered": 3})
    other = EncryptionStatus(
        {"k1": EncryptionKeyStatus(False, 10, 20), "k2": EncryptionKeyStatus(True, 5, 0)},
        {"altered": 4},
    )
    samples = parsed(
        [worker(1, encryption=one), worker(2), worker(3, encryption=other, alive=False)]
    )
    assert value(samples, "encrypted_values_total", key="k1") == 11
    assert value(samples, "decrypted_values_total", key="k1") == 22
    assert value(samples, "encrypted_values_total", key="k2") == 5
    assert value(samples, "decrypted_values_total", key="k2") == 0
    assert value(samples, "decryption_failures_total", reason="altered") == 7


def test_odd_names_are_escaped() -> None:
    """A shard named with quotes, a backslash or a line break is a label like any other."""
    odd = 'a"\\b\n1'
    samples = parsed([worker(circuits=[circuit(shard=odd)])])
    assert value(samples, "circuits", shard=odd, access="read", state="closed") == 1


def test_a_service_that_has_done_nothing_can_be_read() -> None:
    """Before the first call, the exposition parses and has no calls in it."""
    for workers in ([], [worker()]):
        samples = parsed(workers)
        assert value(samples, "workers") == len(workers)
        assert not [name for name, _ in samples if name == "flowcache_requests_total"]


def test_of_a_worker_that_has_ended_the_totals_count_and_nothing_else() -> None:
    """Totals never fall when workers are replaced; what is now is told by those that live."""
    gone = worker(
        2, CALLS, [record()], [circuit("open", refused=3)], [shard(link())], "ready", 9, alive=False
    )
    samples = parsed([worker(1, CALLS), gone])
    assert value(samples, "requests_total", operation="GET", outcome="ok") == 4
    assert value(samples, "request_duration_seconds_count", operation="GET") == 6
    assert value(samples, "lookups_total", operation="GET", result="hit") == 2
    assert value(samples, "audit_records_total") == 1
    assert value(samples, "workers") == 1
    assert value(samples, "requests_in_flight") == 0
    assert not [
        name
        for name, _ in samples
        if name in ("flowcache_circuits", "flowcache_circuit_modes")
        or name.startswith("flowcache_redis")
    ]


def test_what_circuits_counted_stays_when_their_worker_ends() -> None:
    """Refusals and transitions are totals: a reload doesn't let them fall."""
    before = circuit("open", refused=3, would_refuse=2, transitions={"open": 2, "half-open": 1})
    of_old = circuit("open", "gone:9", refused=5)
    since = circuit(refused=1, would_refuse=1, transitions={"open": 1})
    samples = parsed(
        [worker(1, circuits=[since]), worker(2, circuits=[before, of_old], alive=False)]
    )
    place = {"shard": "a:1", "access": "read"}
    assert value(samples, "circuit_refusals_total", **place) == 4
    assert value(samples, "circuit_observed_refusals_total", **place) == 3
    assert value(samples, "circuit_transitions_total", **place, to="open") == 3
    assert value(samples, "circuit_transitions_total", **place, to="half-open") == 1
    assert value(samples, "circuits", **place, state="open") == 0
    assert value(samples, "circuits", **place, state="closed") == 1
    gone = {"shard": "gone:9", "access": "read"}
    assert value(samples, "circuit_refusals_total", **gone) == 5
    assert ("flowcache_circuits", frozenset((gone | {"state": "open"}).items())) not in samples
