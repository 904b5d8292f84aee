"""The metrics of all workers as Prometheus text.

Names and labels are what dashboards are built on: they are never renamed. The library writes the
text (format 0.0.4); the numbers are ours, so that nothing of it is on the way of a request.

A metric without labels is declared at the field that it shows (`status`, `measures`). Those with
labels are put together here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from flowcache.measures import Counter, Gauge, Histogram, measures, sum_of_timings, values
from flowcache.metrics.counters import merge
from flowcache.metrics.latency import count_until
from flowcache.metrics.totals import merge_encryption
from flowcache.ports import Mode
from flowcache.status import CIRCUIT_STATES, CircuitStatus, DeliveryStatus, WorkerStatus

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_POWERS = range(7, 25)
"""The histogram's bounds: powers of two of microseconds, 128 us to 16.8 s. Exact, see latency."""


class _Workers(Collector):
    def __init__(
        self, workers: Sequence[WorkerStatus], version: str, deliveries: Sequence[DeliveryStatus]
    ) -> None:
        self._workers = workers
        self._version = version
        self._deliveries = deliveries

    def collect(self) -> Iterator[Metric]:
        yield from _build(self._version)
        living = [worker for worker in self._workers if worker.alive]
        yield from _declared(self._workers, living)
        yield from _calls(self._workers)
        yield from _now(living)
        yield from _circuits(self._workers)
        yield from _delivery(self._deliveries)


def _build(version: str) -> Iterator[Metric]:
    info = GaugeMetricFamily("flowcache_build_info", "The running version.", labels=["version"])
    info.add_metric([version], 1)
    yield info


_FAMILIES = {Counter: CounterMetricFamily, Gauge: GaugeMetricFamily}


def _declared(
    everybody: Sequence[WorkerStatus], living: Sequence[WorkerStatus]
) -> Iterator[Metric]:
    """Yield what is declared in `status`: totals are of all workers, gauges of those that live."""
    for kind, path in measures(WorkerStatus):
        if isinstance(kind, Histogram):
            total = sum_of_timings(values(everybody, path))
            metric = HistogramMetricFamily(kind.name, kind.about)
            metric.add_metric([], _buckets(total.counts), total.seconds)
            yield metric
        else:
            found = values(living if isinstance(kind, Gauge) else everybody, path)
            yield _FAMILIES[type(kind)](kind.name, kind.about, value=sum(map(_number, found)))


def _number(value: object) -> float:
    """Return a number as it is; of anything else, whether it is there."""
    return value if isinstance(value, (int, float)) else float(value is not None)


def _calls(workers: Sequence[WorkerStatus]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "flowcache_requests", "Calls by operation and outcome.", labels=["operation", "outcome"]
    )
    lookups = CounterMetricFamily(
        "flowcache_lookups", "Reads that found a key, or did not.", labels=["operation", "result"]
    )
    seconds = HistogramMetricFamily(
        "flowcache_request_duration_seconds", "From arrival to answer.", labels=["operation"]
    )
    for name in workers[0].operations if workers else ():
        stats = merge(worker.operations[name] for worker in workers)
        for outcome, count in sorted(stats.outcomes.items()):
            requests.add_metric([name, outcome], count)
        if stats.hits or stats.misses:
            lookups.add_metric([name, "hit"], stats.hits)
            lookups.add_metric([name, "miss"], stats.misses)
        seconds.add_metric([name], _buckets(stats.latency), stats.total_ms / 1000)
    yield from (requests, lookups, seconds)
    yield from _encryption(workers)


def _buckets(counts: Sequence[int]) -> list[tuple[str, float]]:
    """Return a histogram of ours (see latency) as Prometheus has it: in seconds, summed up."""
    bounds = [(repr(2**p / 1_000_000), float(count_until(counts, p))) for p in _POWERS]
    return [*bounds, ("+Inf", float(sum(counts)))]


def _encryption(workers: Sequence[WorkerStatus]) -> Iterator[Metric]:
    total = merge_encryption(workers)
    encrypted = CounterMetricFamily(
        "flowcache_encrypted_values", "Values encrypted, by the key's id.", labels=["key"]
    )
    decrypted = CounterMetricFamily(
        "flowcache_decrypted_values", "Values decrypted, by the key's id.", labels=["key"]
    )
    failures = CounterMetricFamily(
        "flowcache_decryption_failures",
        "Values that could not be decrypted, by reason.",
        labels=["reason"],
    )
    if total is not None:
        for key_id, use in total.keys.items():
            encrypted.add_metric([key_id], use.encrypted)
            decrypted.add_metric([key_id], use.decrypted)
        for reason, count in total.decryption_failures.items():
            failures.add_metric([reason], count)
    yield from (encrypted, decrypted, failures)


def _delivery(deliveries: Sequence[DeliveryStatus]) -> Iterator[Metric]:
    known = [each for each in deliveries if each.known]  # 0 for a counter would be a reset
    labels = ["destination"]
    for kind, path in measures(DeliveryStatus):
        metric = _FAMILIES[type(kind)](kind.name, kind.about, labels=labels)
        for each in known:
            metric.add_metric([each.destination], values([each], path)[0])
        yield metric
    behind = GaugeMetricFamily(
        "flowcache_audit_delivery_behind",
        "Audit records that a destination has not had yet.",
        labels=labels,
    )
    for each in known:
        behind.add_metric([each.destination], sum(each.behind.values()))
    stopped = GaugeMetricFamily(
        "flowcache_audit_delivery_stopped",
        "Whether a destination refused and nothing is tried any more, or nobody knows how it does.",
        labels=labels,
    )
    for each in deliveries:
        stopped.add_metric([each.destination], each.stopped)
    yield from (behind, stopped)


def _now(workers: Sequence[WorkerStatus]) -> Iterator[Metric]:
    ends = [w.certificate_expires for w in workers if w.certificate_expires is not None]
    if ends:  # without TLS there is no such metric: an alarm on a time in the past would go off
        yield GaugeMetricFamily(
            "flowcache_tls_certificate_expires_timestamp_seconds",
            "When the service's own certificate ends, Unix time.",
            value=min(ends),
        )
    yield GaugeMetricFamily("flowcache_workers", "Workers that answer.", value=len(workers))
    links = GaugeMetricFamily(
        "flowcache_redis_links_up", "Links to a server that are up.", labels=["address", "role"]
    )
    pending = GaugeMetricFamily(
        "flowcache_redis_pending", "Commands that wait for a reply.", labels=["address", "role"]
    )
    up: dict[tuple[str, str], int] = {}
    waiting: dict[tuple[str, str], int] = {}
    for worker in workers:
        for status in worker.store.shards:
            writers = () if status.writer is None else (status.writer,)
            for role, each in (
                ("primary", (status.primary,)),
                ("replica", status.replicas),
                ("writer", writers),
            ):
                for link in each:
                    at = (link.address, role)
                    up[at] = up.get(at, 0) + (link.state == "ready")
                    waiting[at] = waiting.get(at, 0) + link.pending
    for at, value in up.items():
        links.add_metric(at, value)
        pending.add_metric(at, waiting[at])
    yield from (links, pending)


def _circuits(workers: Sequence[WorkerStatus]) -> Iterator[Metric]:
    where = ["shard", "access"]
    states = GaugeMetricFamily(
        "flowcache_circuits", "Circuits of all workers by state.", labels=[*where, "state"]
    )
    modes = GaugeMetricFamily(
        "flowcache_circuit_modes", "Circuits of all workers by mode.", labels=[*where, "mode"]
    )
    refused = CounterMetricFamily(
        "flowcache_circuit_refusals", "Calls that an open circuit refused.", labels=where
    )
    observed = CounterMetricFamily(
        "flowcache_circuit_observed_refusals",
        "Calls that mode observe let through and mode auto would have refused.",
        labels=where,
    )
    transitions = CounterMetricFamily(
        "flowcache_circuit_transitions",
        "Changes of a circuit's state or mode, by the state it then has.",
        labels=[*where, "to"],
    )
    for at, each in _by_place(workers).items():
        for state in CIRCUIT_STATES:
            transitions.add_metric([*at, state], sum(c.transitions.get(state, 0) for c in each))
        refused.add_metric(at, sum(c.refused for c in each))
        observed.add_metric(at, sum(c.would_refuse for c in each))
    for at, each in _by_place(worker for worker in workers if worker.alive).items():
        for state in CIRCUIT_STATES:
            states.add_metric([*at, state], sum(c.state == state for c in each))
        for mode in Mode:
            modes.add_metric([*at, mode.value], sum(c.mode == mode for c in each))
    yield from (states, modes, refused, observed, transitions)


def _by_place(workers: Iterable[WorkerStatus]) -> dict[tuple[str, str], list[CircuitStatus]]:
    """Return all circuits by shard and access, in order."""
    found: dict[tuple[str, str], list[CircuitStatus]] = {}
    for worker in workers:
        for circuit in worker.circuits:
            found.setdefault((circuit.shard, circuit.access), []).append(circuit)
    return dict(sorted(found.items()))


def exposition(
    workers: Sequence[WorkerStatus], version: str, deliveries: Sequence[DeliveryStatus] = ()
) -> bytes:
    """Return the Prometheus text of what all workers say, and of how the audit is delivered."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Workers(workers, version, deliveries))
    return generate_latest(registry)
