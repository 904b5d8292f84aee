"""The inspector's JSON: the seed's names, what a filter keeps, and whose state is shown."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from flowcache.admin.inspector.view import AuditFilter, view
from flowcache.errors import InvalidRequest
from flowcache.measures import Timings
from flowcache.ports import AuditRecord
from flowcache.status import LoopStatus, WorkerStatus
from tests.unit.telemetry.statuses import circuit, link, record, shard, worker

CALLS = [
    ("GET", "ok", True, 1.0),
    ("GET", "ok", True, 2.0),
    ("GET", "ok", False, 3.0),
    ("SET", "ok", None, 4.0),
    ("GET", "circuit_open", None, 0.5),
    ("NOPE", "invalid_request", None, 0.5),
]

RECORDS = [
    record(1, flow_id="f", interaction_id="i", operation="GET", outcome="ok"),
    record(2, flow_id="f", interaction_id="j", operation="SET", outcome="conflict", hit=None),
    record(3, flow_id="g", interaction_id="i", operation="GET", outcome="ok", hit=False),
    record(4, operation=None, key=None, outcome="invalid_request", hit=None),
]


def shown(*workers: WorkerStatus, wanted: AuditFilter | None = None) -> dict[str, Any]:
    document = view(workers, wanted or AuditFilter(), {"http": {"port": 3000}}, "1.2.3")
    found: dict[str, Any] = msgspec.to_builtins(document)
    return found


def times(records: list[AuditRecord], **wanted: Any) -> list[int]:
    """Return the seconds at which the records happened that a filter keeps."""
    entries = shown(worker(audit=records), wanted=AuditFilter(**wanted))["auditLogs"]
    return [int(entry["timestamp"][17:19]) for entry in entries]


def refusal(query: dict[str, str]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        AuditFilter.from_query(query)
    return caught.value.message


def test_the_first_fields_are_those_of_the_seed() -> None:
    """What reads the seed's inspector reads this one."""
    document = shown(worker(1, CALLS, RECORDS))
    assert list(document)[:4] == ["metrics", "auditLogs", "circuitState", "redisClusterStatus"]
    assert {
        "totalRequests",
        "cacheHits",
        "cacheMisses",
        "totalLatency",
        "hitRatio",
        "avgLatencyMs",
    } <= document["metrics"].keys()
    assert {
        "timestamp",
        "flowId",
        "interactionId",
        "operation",
        "key",
        "latencyMs",
        "hitRatio",
        "success",
    } <= document["auditLogs"][0].keys()


def test_the_document_is_json() -> None:
    """Whatever is in it can be sent."""
    shards = [shard(link(), link("b:1", "connecting"))]
    document = shown(worker(1, CALLS, RECORDS, [circuit()], shards))
    assert json.loads(msgspec.json.encode(document)) == json.loads(json.dumps(document))


# -- metrics ---------------------------------------------------------------------------------------


def test_metrics_are_of_all_workers() -> None:
    """Totals, ratio and average are those of the service."""
    metrics = shown(worker(1, CALLS), worker(2, CALLS[:1]))["metrics"]
    assert metrics["totalRequests"] == 7
    assert (metrics["cacheHits"], metrics["cacheMisses"]) == (3, 1)
    assert metrics["hitRatio"] == 0.75
    assert metrics["totalLatency"] == 12.0
    assert metrics["avgLatencyMs"] == 1.714
    assert metrics["errors"] == {"circuit_open": 1, "invalid_request": 1}


def test_metrics_are_told_by_operation_too() -> None:
    """Only operations that were called are listed, unknown ones as one."""
    operations = shown(worker(1, CALLS), worker(2, CALLS[3:4]))["metrics"]["operations"]
    assert list(operations) == ["SET", "GET", "other"]
    assert operations["SET"]["totalRequests"] == 2
    assert operations["GET"]["hitRatio"] == 0.6667
    assert operations["other"]["errors"] == {"invalid_request": 1}


def test_latencies_are_percentiles_in_milliseconds() -> None:
    """Half of the calls, 95 and 99 of 100 were no slower, within a sixteenth."""
    calls = [("GET", "ok", True, ms) for ms in [1.0] * 94 + [10.0] * 4 + [100.0] * 2]
    latency = shown(worker(1, calls))["metrics"]["latency"]
    assert list(latency) == ["p50Ms", "p95Ms", "p99Ms"]
    for told, exact in zip(latency.values(), (1.0, 10.0, 100.0), strict=True):
        assert exact < told <= exact * 1.0625


def test_before_the_first_call_there_is_nothing_to_divide_by() -> None:
    """A service that has done nothing has ratios of 0 and no percentiles."""
    metrics = shown(worker())["metrics"]
    assert (metrics["totalRequests"], metrics["hitRatio"], metrics["avgLatencyMs"]) == (0, 0, 0)
    assert metrics["latency"] == {"p50Ms": None, "p95Ms": None, "p99Ms": None}
    assert metrics["operations"] == {}


# -- audit -----------------------------------------------------------------------------------------


def test_an_entry_tells_all_of_a_record() -> None:
    """Who, when, what, which key, what came of it."""
    (entry,) = shown(worker(audit=[record(1.5, key="clé".encode(), flow_id="f")]))["auditLogs"]
    assert entry == {
        "timestamp": "1970-01-01T00:00:01.500Z",
        "requestId": "id-1.5",
        "client": "flow",
        "flowId": "f",
        "interactionId": None,
        "operation": "GET",
        "key": "clé",
        "outcome": "ok",
        "success": True,
        "hit": True,
        "hitRatio": True,
        "latencyMs": 0.5,
        "address": None,
        "shard": None,
        "stale": False,
        "kind": "call",
        "detail": None,
    }


@pytest.mark.parametrize(("hit", "ratio"), [(True, True), (False, False), (None, False)])
def test_the_seeds_hit_ratio_of_an_entry_is_a_boolean(hit: bool | None, ratio: bool) -> None:
    """What looked nothing up is no hit to the seed, and null to us."""
    (entry,) = shown(worker(audit=[record(hit=hit)]))["auditLogs"]
    assert (entry["hit"], entry["hitRatio"]) == (hit, ratio)


@pytest.mark.parametrize(
    ("key", "told"), [(None, None), (b"", ""), (b"\xff-\xc3", "\ufffd-\ufffd")]
)
def test_a_key_that_is_no_text_is_shown_as_far_as_it_is(
    key: bytes | None, told: str | None
) -> None:
    """A key that was cut off within a letter breaks nothing."""
    (entry,) = shown(worker(audit=[record(key=key)]))["auditLogs"]
    assert entry["key"] == told


def test_records_of_all_workers_are_in_order_of_time_newest_last() -> None:
    """Whoever made them, records read as one story."""
    one, two = worker(1, audit=RECORDS[::2]), worker(2, audit=RECORDS[1::2])
    for workers in ((one, two), (two, one)):
        stamps = [entry["timestamp"] for entry in shown(*workers)["auditLogs"]]
        assert len(stamps) == 4
        assert stamps == sorted(stamps)


def test_fifty_are_shown_unless_asked_otherwise() -> None:
    """The newest 50, as in the seed."""
    assert times([record(at) for at in range(59)]) == list(range(9, 59))


@pytest.mark.parametrize(
    ("limit", "kept"), [(0, []), (1, [4]), (3, [2, 3, 4]), (10_000, [1, 2, 3, 4])]
)
def test_the_newest_are_kept(limit: int, kept: list[int]) -> None:
    """A limit cuts off the oldest; none at all is a limit too."""
    assert times(RECORDS, limit=limit) == kept


def test_the_limit_counts_what_fits() -> None:
    """The filter comes first: the newest of those that are wanted are kept."""
    assert times(RECORDS, limit=1, operation="GET") == [3]
    one, two = worker(1, audit=RECORDS[:2]), worker(2, audit=RECORDS[2:])
    (entry,) = shown(one, two, wanted=AuditFilter(limit=1, flow="f"))["auditLogs"]
    assert entry["requestId"] == "id-2"


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ({}, [1, 2, 3, 4]),
        ({"flow": "f"}, [1, 2]),
        ({"flow": "F"}, []),
        ({"flow": ""}, []),
        ({"interaction": "i"}, [1, 3]),
        ({"flow": "f", "interaction": "i"}, [1]),
        ({"operation": "GET"}, [1, 3]),
        ({"outcome": "ok"}, [1, 3]),
        ({"outcome": "conflict"}, [2]),
        ({"outcome": "failed"}, [2, 4]),
        ({"outcome": "failed", "flow": "f"}, [2]),
        ({"outcome": "never"}, []),
    ],
)
def test_a_filter_keeps_what_fits_in_every_respect(wanted: dict[str, str], kept: list[int]) -> None:
    """Each parameter narrows; ``failed`` is any outcome but ``ok``."""
    assert times(RECORDS, **wanted) == kept


def test_a_query_is_a_filter() -> None:
    """Every parameter is read; the operation in any case."""
    assert AuditFilter.from_query({}) == AuditFilter(50, None, None, None, None)
    query = {"limit": "7", "flow": "f", "interaction": "i", "operation": "hGet", "outcome": "ok"}
    assert AuditFilter.from_query(query) == AuditFilter(7, "f", "i", "HGET", "ok")


@pytest.mark.parametrize(("text", "limit"), [("0", 0), ("10000", 10_000), ("007", 7), ("000", 0)])
def test_a_limit_is_a_number_in_range(text: str, limit: int) -> None:
    """From none to ten thousand, leading zeros or not."""
    assert AuditFilter.from_query({"limit": text}).limit == limit


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        "1.0",
        " 1",
        "1e3",
        "x",
        "٣",
        "²",
        "10001",
        "9" * 30,
        "0" * 9 + "10001",
        "9" * 5000,
    ],
    ids=lambda text: text[:20],
)
def test_any_other_limit_is_refused(text: str) -> None:
    """What is no number, or too large a one, is a mistake of the caller, whatever its length."""
    assert refusal({"limit": text}) == "limit: expected a number from 0 to 10000."


def test_a_limit_of_many_zeros_is_none_at_all() -> None:
    """Zeros are zero, however many."""
    assert AuditFilter.from_query({"limit": "0" * 5000}).limit == 0


def test_an_unknown_parameter_is_named() -> None:
    """A misspelt filter is not ignored: it would show too much."""
    message = refusal({"limit": "5", "flowid": "f", "zzz": "1"})
    assert message == "flowid: unknown; there are limit, flow, interaction, operation, outcome."


# -- circuits and Redis ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "worst"),
    [
        ([], "closed"),
        (["closed", "closed"], "closed"),
        (["closed", "half-open"], "half-open"),
        (["half-open", "open", "closed"], "open"),
        (["open"], "open"),
    ],
)
def test_the_worst_circuit_of_any_worker_is_the_state(states: list[str], worst: str) -> None:
    """One word for the service: the worst there is."""
    apart = [worker(pid, circuits=[circuit(state)]) for pid, state in enumerate(states, 1)]
    together = worker(9, circuits=[circuit(state) for state in states])
    assert shown(*apart or [worker()])["circuitState"] == worst
    assert shown(together)["circuitState"] == worst


def test_every_circuit_is_shown_with_its_worker() -> None:
    """Which shard is in trouble, and who says so."""
    told = circuit(
        "open",
        "b:2",
        mode="observe",
        calls=3,
        failure_rate=2 / 3,
        reopened=2,
        refused=3,
        would_refuse=4,
        transitions={"open": 3, "half-open": 2},
    )
    assert shown(worker(7, circuits=[told]))["circuits"] == [
        {
            "worker": 7,
            "shard": "b:2",
            "access": "read",
            "mode": "observe",
            "state": "open",
            "consecutiveFailures": 0,
            "calls": 3,
            "failureRate": 0.6667,
            "slowRate": None,
            "retryAfterSeconds": 0.0,
            "reopened": 2,
            "refused": 3,
            "wouldRefuse": 4,
            "transitions": 5,
        }
    ]


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        (["ready"], "ready"),
        (["ready", "ready"], "ready"),
        (["ready", "reconnecting"], "reconnecting"),
        (["connecting", "ready"], "connecting"),
    ],
)
def test_redis_is_ready_when_it_is_for_every_worker(statuses: list[str], told: str) -> None:
    """One worker without Redis is enough to say so."""
    workers = [worker(pid, status=status) for pid, status in enumerate(statuses, 1)]
    assert shown(*workers)["redisClusterStatus"] == told


def test_every_workers_view_of_redis_is_shown() -> None:
    """Links as each worker sees them, replicas too."""
    shards = [shard(link(pending=2), link("b:1", "connecting"))]
    (redis,) = shown(worker(7, shards=shards))["redis"]
    assert (redis["worker"], redis["topology"]) == (7, "standalone")
    assert redis["shards"][0]["primary"]["pending"] == 2
    assert redis["shards"][0]["replicas"][0]["address"] == "b:1"


def test_how_late_a_workers_event_loop_is() -> None:
    """Of each worker: a moment ago, at most, and the time in which it answered nobody."""
    loop = LoopStatus(lags=Timings([], 1.0), longest=0.98, last=0.0005, lost=0.95)
    (told,) = shown(worker(1, loop=loop))["workers"]
    assert told["eventLoop"] == {"lagMs": 0.5, "longestLagMs": 980.0, "lostSeconds": 0.95}


def test_workers_configuration_and_version_are_shown() -> None:
    """Who serves, since when, with which settings."""
    document = shown(worker(1, audit=RECORDS, in_flight=2), worker(2))
    assert document["workers"][0] == {
        "pid": 1,
        "startedAt": "1970-01-01T00:00:00.000Z",
        "inFlight": 2,
        "auditRecords": 4,
        "eventLoop": None,
    }
    assert [each["pid"] for each in document["workers"]] == [1, 2]
    assert document["configuration"] == {"http": {"port": 3000}}
    assert document["version"] == "1.2.3"


def test_of_a_worker_that_has_ended_only_its_metrics_are_left() -> None:
    """Its calls count; its circuits, its links and itself are no more."""
    gone = worker(2, CALLS, (), [circuit("open")], [shard(link())], "connecting", alive=False)
    document = shown(worker(1, CALLS), gone)
    assert document["metrics"]["totalRequests"] == 2 * len(CALLS)
    assert document["circuitState"] == "closed"
    assert document["redisClusterStatus"] == "ready"
    assert document["circuits"] == []
    assert [each["worker"] for each in document["redis"]] == [1]
    assert [each["pid"] for each in document["workers"]] == [1]
