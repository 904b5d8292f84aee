"""The metrics of all workers as Prometheus text.

Names and labels are what dashboards are built on: they are never renamed. The library writes the
text (format 0.0.4); the numbers are ours, so that nothing of it is on the way of a request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

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
        yield from _calls(self._workers)
        yield from _now([worker for worker in self._workers if worker.alive])
        yield from _circuits(self._workers)
        yield from _delivery(self._deliveries)


def _build(version: str) -> Iterator[Metric]:
    info = GaugeMetricFamily("flowcache_build_info", "The running version.", labels=["version"])
    info.add_metric([version], 1)
    yield info


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
    yield from _hedges_and_retries(workers)
    yield CounterMetricFamily(
        "flowcache_overload_refusals",
        "Calls refused for want of room; Redis was not asked.",
        value=sum(worker.overload_refusals for worker in workers),
    )
    yield CounterMetricFamily(
        "flowcache_audit_records",
        "Audit records made.",
        value=sum(worker.audit_total for worker in workers),
    )
    yield from _loops(workers)
    yield from _journal(workers)
    yield from _encryption(workers)


def _loops(workers: Sequence[WorkerStatus]) -> Iterator[Metric]:
    loops = [worker.loop for worker in workers if worker.loop is not None]
    lag = HistogramMetricFamily(
        "flowcache_event_loop_lag_seconds", "How late the timer was that watches the event loop."
    )
    lags = [sum(counts) for counts in zip(*(loop.lags for loop in loops), strict=True)]
    lag.add_metric([], _buckets(lags), sum(loop.total for loop in loops))
    yield lag
    yield CounterMetricFamily(
        "flowcache_event_loop_lost_seconds",
        "Time in which the event loop did not turn; Redis is not judged by it.",
        value=sum(loop.lost for loop in loops),
    )


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


def _journal(workers: Sequence[WorkerStatus]) -> Iterator[Metric]:
    journals = [worker.journal for worker in workers if worker.journal is not None]
    for name, about, value in (
        (
            "flowcache_audit_written",
            "Audit records that are on disk.",
            sum(j.written for j in journals),
        ),
        (
            "flowcache_audit_lost",
            "Audit records that could not be kept.",
            sum(j.lost for j in journals),
        ),
        (
            "flowcache_audit_pruned",
            "Audit records that retention removed.",
            sum(j.pruned for j in journals),
        ),
        (
            "flowcache_audit_pruned_early",
            "Of these, younger than audit.keep_days: the journal was larger than audit.max_mb.",
            sum(j.pruned_early for j in journals),
        ),
    ):
        yield CounterMetricFamily(name, about, value=value)
    seconds = HistogramMetricFamily(
        "flowcache_audit_commit_seconds", "From a batch of audit records to its being on disk."
    )
    commits = [sum(counts) for counts in zip(*(j.commits for j in journals), strict=True)]
    seconds.add_metric([], _buckets(commits), sum(j.commit_ms for j in journals) / 1000)
    yield seconds


def _journal_now(workers: Sequence[WorkerStatus]) -> Iterator[Metric]:
    journals = [worker.journal for worker in workers if worker.journal is not None]
    yield GaugeMetricFamily(
        "flowcache_audit_queued",
        "Audit records that wait to be written.",
        value=sum(j.queued for j in journals),
    )
    yield GaugeMetricFamily(
        "flowcache_audit_broken",
        "Workers that can't write the audit journal.",
        value=sum(j.fault is not None for j in journals),
    )
    yield GaugeMetricFamily(
        "flowcache_audit_tampered",
        "Workers that found what is in the journal to be other than what was written.",
        value=sum(j.tampering is not None for j in journals),
    )


_Family = type[CounterMetricFamily] | type[GaugeMetricFamily]

_DELIVERY: tuple[tuple[_Family, str, str, Callable[[DeliveryStatus], float]], ...] = (
    (
        CounterMetricFamily,
        "flowcache_audit_delivered",
        "Audit records that a destination has.",
        lambda each: each.delivered,
    ),
    (
        CounterMetricFamily,
        "flowcache_audit_delivery_failures",
        "Attempts to deliver a batch that failed.",
        lambda each: each.failures,
    ),
    (
        CounterMetricFamily,
        "flowcache_audit_delivery_missed",
        "Audit records that retention removed before a destination had them.",
        lambda each: each.missed,
    ),
    (
        GaugeMetricFamily,
        "flowcache_audit_delivery_behind",
        "Audit records that a destination has not had yet.",
        lambda each: sum(each.behind.values()),
    ),
    (
        GaugeMetricFamily,
        "flowcache_audit_delivery_behind_seconds",
        "How long the oldest of them has waited.",
        lambda each: each.behind_seconds,
    ),
)


def _delivery(deliveries: Sequence[DeliveryStatus]) -> Iterator[Metric]:
    known = [each for each in deliveries if each.known]  # 0 for a counter would be a reset
    for family, name, about, value in _DELIVERY:
        metric = family(name, about, labels=["destination"])
        for each in known:
            metric.add_metric([each.destination], value(each))
        yield metric
    stopped = GaugeMetricFamily(
        "flowcache_audit_delivery_stopped",
        "Whether a destination refused and nothing is tried any more, or nobody knows how it does.",
        labels=["destination"],
    )
    for each in deliveries:
        stopped.add_metric([each.destination], each.stopped)
    yield stopped


def _hedges_and_retries(workers: Sequence[WorkerStatus]) -> Iterator[Metric]:
    reads = [worker.reads for worker in workers]
    stores = [worker.store for worker in workers]
    for name, about, value in (
        (
            "flowcache_fallback_reads",
            "Reads that the fallback answered.",
            sum(r.fallback for r in reads),
        ),
        (
            "flowcache_hedges",
            "Slow reads that were also sent to the fallback, within the hedge budget.",
            sum(r.hedges for r in reads),
        ),
        (
            "flowcache_hedges_refused",
            "Slow reads that the hedge budget did not allow to hedge.",
            sum(r.hedges_refused for r in reads),
        ),
        (
            "flowcache_late_hedges",
            "Reads without a reply at half of their deadline, sent to the fallback.",
            sum(r.late_hedges for r in reads),
        ),
        (
            "flowcache_retries",
            "Commands retried because a server failed.",
            sum(s.retries for s in stores),
        ),
        (
            "flowcache_retries_refused",
            "Commands that the retry budget did not allow to retry.",
            sum(s.retries_refused for s in stores),
        ),
    ):
        yield CounterMetricFamily(name, about, value=value)


def _now(workers: Sequence[WorkerStatus]) -> Iterator[Metric]:
    yield from _journal_now(workers)
    ends = [w.certificate_expires for w in workers if w.certificate_expires is not None]
    if ends:  # without TLS there is no such metric: an alarm on a time in the past would go off
        yield GaugeMetricFamily(
            "flowcache_tls_certificate_expires_timestamp_seconds",
            "When the service's own certificate ends, Unix time.",
            value=min(ends),
        )
    yield GaugeMetricFamily("flowcache_workers", "Workers that answer.", value=len(workers))
    yield GaugeMetricFamily(
        "flowcache_requests_in_flight",
        "Calls that wait for an answer.",
        value=sum(worker.in_flight for worker in workers),
    )
    yield GaugeMetricFamily(
        "flowcache_requests_at_work",
        "Calls that wait for Redis: what http.max_in_flight bounds in each worker.",
        value=sum(worker.at_work for worker in workers),
    )
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
