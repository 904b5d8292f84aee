"""GET /inspector and GET /metrics: what they tell, to whom, and that it is true."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.backends import PATIENT, Flow
from tests.contract.envelope import answered, refused
from tests.contract.together import together
from tests.servers import RedisProcess, TlsServer, eventually
from tests.service import INSPECTOR_TOKEN, TOKEN, Answer, Service, service

TOPOLOGY = {
    "embedded": ("standalone", 1, 0),
    "standalone": ("standalone", 1, 0),
    "cluster": ("cluster", 3, 1),
    "tls-acl": ("standalone", 1, 0),
    "sentinel": ("sentinel", 1, 2),
}
"""Kind of Redis -> what flowcache finds: topology, shards, links to replicas a shard."""


def inspector(running: Service, query: str) -> Answer:
    """Ask the inspector, and take a refusal for an answer."""
    credential = {"authorization": f"Bearer {running.inspector_token}"}
    return running.request("GET", f"/inspector{query}", None, credential)


def metrics(running: Service) -> dict[tuple[str, ...], float]:
    """Return the samples of /metrics: name and values of the labels, sorted by label -> value."""
    answer = running.request("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


@pytest.fixture
def fresh() -> Iterator[Service]:
    """Give a test a flowcache that has answered nothing yet."""
    with service(PATIENT, "--embedded") as running:
        yield running


# -- the whole document ---------------------------------------------------------------------------


def test_the_tutorials_fields_are_there(flow: Flow, key: str) -> None:
    """Whoever reads the tutorial's inspector finds its fields, by their names."""
    answered(flow.call(operation="SET", key=key, value=1))
    seen = flow.service.inspect()
    assert seen.keys() >= {"metrics", "auditLogs", "circuitState", "redisClusterStatus"}
    assert seen["metrics"].keys() >= {
        *("totalRequests", "cacheHits", "cacheMisses", "totalLatency", "hitRatio", "avgLatencyMs"),
    }
    assert seen["auditLogs"][-1].keys() >= {
        *("timestamp", "flowId", "interactionId", "operation", "key", "latencyMs"),
        *("hitRatio", "success"),
    }
    assert seen["circuitState"] == "closed"
    assert seen["redisClusterStatus"] == "ready"


def test_the_document_is_json_that_nobody_keeps(flow: Flow) -> None:
    """It is one JSON object, and no proxy may store it."""
    answer = inspector(flow.service, "")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert isinstance(answer.json, dict)


def test_the_topology_is_told(flow: Flow, key: str) -> None:
    """Each worker tells which topology it found, and how each link of it does."""
    answered(flow.call(operation="GET", key=key))
    kind, shards, replicas = TOPOLOGY[flow.backend]
    (redis,) = flow.service.inspect()["redis"]
    assert (redis["status"], redis["topology"], redis["fault"]) == ("ready", kind, None)
    assert len(redis["shards"]) == shards
    for shard in redis["shards"]:
        assert len(shard["replicas"]) == replicas
        assert shard["primary"]["state"] == "ready"
        assert shard["primary"]["connects"] >= 1
        assert shard["primary"]["fault"] is None
    slots = sum(last - first + 1 for s in redis["shards"] for first, last in s["slots"])
    assert slots == 16_384 if kind == "cluster" else slots <= 16_384


def test_each_called_shard_has_a_circuit(flow: Flow, key: str) -> None:
    """A circuit is told for each shard that was called, by the shard's name."""
    for number in range(30):
        answered(flow.call(operation="GET", key=f"{key}:{number}"))
    seen = flow.service.inspect()
    (redis,) = seen["redis"]
    assert {c["shard"] for c in seen["circuits"]} == {s["name"] for s in redis["shards"]}
    for circuit in seen["circuits"]:
        assert circuit["worker"] == seen["workers"][0]["pid"]
        assert (circuit["state"], circuit["consecutiveFailures"]) == ("closed", 0)
        assert (circuit["retryAfterSeconds"], circuit["refused"]) == (0, 0)


def test_the_configuration_is_told(flow: Flow) -> None:
    """All settings are shown by section, with the values in force."""
    configuration = flow.service.inspect()["configuration"]
    assert configuration["http"]["port"] == flow.service.port
    assert configuration["data"]["default_ttl"] == 3600
    assert configuration["breaker"]["failures"] == 5
    assert configuration["redis"]["read_from"] == "primary"
    assert configuration["auth"]["token"] == "***"
    assert configuration["inspector"]["token"] == "***"


def test_the_worker_is_told(flow: Flow) -> None:
    """Each worker tells its process and since when it runs; when nobody calls, it is idle."""
    seen = flow.service.inspect()
    (worker,) = seen["workers"]
    assert worker["pid"] != flow.service.process.pid
    started = datetime.fromisoformat(worker["startedAt"])
    assert timedelta() <= datetime.now(UTC) - started < timedelta(hours=1)
    assert seen["version"].count(".") == 2
    eventually(lambda: flow.service.inspect("?limit=0")["workers"][0]["inFlight"] == 0)


# -- the audit ------------------------------------------------------------------------------------


def test_an_audit_record_says_who_did_what(flow: Flow, key: str) -> None:
    """A record names the client, flow, interaction, operation and key, and what came of it."""
    before = datetime.now(UTC) - timedelta(seconds=1)
    answer = answered(flow.call(operation="get", key=key, flowId="eu", interactionId=7031994))
    seen = flow.service.inspect("?limit=1")
    entry = seen["auditLogs"][0]
    assert before < datetime.fromisoformat(entry.pop("timestamp")) <= datetime.now(UTC)
    assert entry.pop("shard") in {
        shard["name"] for store in seen["redis"] for shard in store["shards"]
    }
    assert entry == {
        "requestId": answer["metadata"]["requestId"],
        "client": "flow",
        "flowId": "eu",
        "interactionId": "7031994",
        "operation": "GET",
        "key": key,
        "outcome": "ok",
        "success": True,
        "hit": False,
        "hitRatio": False,
        "latencyMs": answer["metadata"]["latencyMs"],
        "address": "127.0.0.1",
        "stale": False,
        "kind": "call",
        "detail": None,
    }


def test_every_attempt_is_recorded(flow: Flow, key: str) -> None:
    """Failures are recorded as well, as far as they could be read, with their code."""
    flow.redis("SET", key, "text", "EX", 60)
    attempts: list[tuple[str, dict[str, Any]]] = [
        ("ok", {"operation": "GET", "key": key}),
        ("wrong_type", {"operation": "HGETALL", "key": key}),
        ("invalid_request", {"operation": "NOPE", "key": key}),
        ("invalid_request", {"operation": "SET", "key": key, "value": 1, "ttl": 0}),
    ]
    for _, body in attempts:
        flow.call(**body, flowId=f"f:{key}", interactionId="i")
    entries = flow.service.inspect(f"?flow=f:{key}")["auditLogs"]
    assert [entry["outcome"] for entry in entries] == [outcome for outcome, _ in attempts]
    # A name that is no operation's may be anything, a customer's data in the wrong field too.
    assert [entry["operation"] for entry in entries] == ["GET", "HGETALL", None, "SET"]
    assert [entry["success"] for entry in entries] == [True, False, False, False]
    assert {entry["key"] for entry in entries} == {key}
    flow.post(b"nonsense")
    entry = flow.service.inspect("?limit=1")["auditLogs"][0]
    assert (entry["outcome"], entry["client"]) == ("invalid_request", "flow")
    assert (entry["operation"], entry["key"], entry["flowId"]) == (None, None, None)


def test_a_stranger_is_recorded(flow: Flow) -> None:
    """An attempt without a credential is in the audit, under nobody's name."""
    flow.service.post(b"{}", {"authorization": "Bearer wrong"})
    entry = flow.service.inspect("?limit=1")["auditLogs"][0]
    assert (entry["outcome"], entry["client"], entry["key"]) == ("unauthorized", None, None)


def test_strangers_do_not_wash_out_the_audit() -> None:
    """However often someone without a credential knocks, what clients did is still to be read."""
    with service(PATIENT | {"FLOWCACHE_AUDIT_MEMORY_RECORDS": "10"}, "--embedded") as running:
        for number in range(5):
            answered(running.call(operation="GET", key=f"k{number}"))
        for _ in range(30):
            refused(running.post(b"", {"authorization": "Bearer wrong"}), "unauthorized")
        entries = running.inspect("?limit=10000")["auditLogs"]
        keys = [entry["key"] for entry in entries if entry["client"] == "flow"]
        assert keys == [f"k{number}" for number in range(5)]
        assert 1 <= len(entries) - len(keys) <= 10
        assert entries[-1]["outcome"] == "unauthorized"


def test_a_value_is_not_in_the_audit(flow: Flow, key: str) -> None:
    """What was stored or read is nobody's business but the flow's."""
    value = {"iban": "DE02-needle"}
    answered(flow.call(operation="SET", key=key, value=value))
    answered(flow.call(operation="GET", key=key))
    answered(flow.call(operation="HSET", key=f"{key}:hash", value=value))
    assert b"needle" not in inspector(flow.service, "?limit=10000").body
    assert "needle" not in flow.service.log


def test_any_key_can_be_shown(flow: Flow) -> None:
    """A key of any characters, also of a call that was refused, does not break the document."""
    for name in ("🦉\x00\n\u2028", "k" * 511 + "é", "\x1b[31m", "</script>"):
        flow.call(operation="GET", key=name, flowId=name[-100:])
        assert flow.service.inspect("?limit=1")["auditLogs"][0]["key"][:5] == name[:5]


def test_fifty_records_are_shown_newest_last(fresh: Service) -> None:
    """Without a limit the newest fifty are shown, in the order in which they came."""
    for number in range(60):
        answered(fresh.call(operation="GET", key=f"k{number}"))
    keys = [entry["key"] for entry in fresh.inspect()["auditLogs"]]
    assert keys == [f"k{number}" for number in range(10, 60)]
    keys = [entry["key"] for entry in fresh.inspect("?limit=10000")["auditLogs"]]
    assert keys == [f"k{number}" for number in range(60)]


def test_the_audit_can_be_filtered(fresh: Service) -> None:
    """Filters pick records by flow, interaction, operation and outcome; the limit counts last."""
    for number in range(8):
        flow, interaction = f"flow-{number % 2}", number % 4
        answered(fresh.call(operation="GET", key="k", flowId=flow, interactionId=interaction))
        fresh.call(
            operation="SET", key="k", value=number, ttl=-1 if number < 3 else 60, flowId=flow
        )
    answered(fresh.call(operation="SET", type="hash", key="h", value={"a": 1}, flowId="ä&=+"))

    def count(query: str) -> int:
        return len(fresh.inspect(query)["auditLogs"])

    assert count("?limit=100") == 17
    assert count("?limit=0") == 0
    assert count("?limit=3") == 3
    assert count("?flow=flow-1") == 8
    assert count("?interaction=2") == 2
    assert count("?operation=GET") == count("?operation=get") == 8
    assert count("?operation=HSET") == 1
    assert count("?outcome=ok") == 14
    assert count("?outcome=failed") == count("?outcome=invalid_request") == 3
    assert count("?outcome=wrong_type") == 0
    assert count("?flow=flow-0&operation=SET&outcome=failed&limit=100") == 2
    assert count("?flow=flow-0&operation=SET&outcome=failed&limit=1") == 1
    assert count("?flow=%C3%A4%26%3D%2B") == 1
    assert count("?flow=nobody") == 0
    newest = fresh.inspect("?operation=GET&limit=2")["auditLogs"]
    assert [entry["interactionId"] for entry in newest] == ["2", "3"]


BAD_QUERIES = [
    *("?foo=1", "?limit=5&foo=1", "?Limit=5", "?=1", "?%ff=1", "?flow[]=x"),
    *("?limit=-1", "?limit=abc", "?limit=", "?limit=1.5", "?limit=10001", "?limit=%D9%A3"),
    *(
        "?limit=99999999999999999999",
        "?limit=000000000" + "9" * 20,
        "?limit=" + "0" * 9 + "9" * 5000,
    ),
]


@pytest.mark.parametrize("query", BAD_QUERIES, ids=lambda query: query[:24])
def test_an_unknown_or_bad_parameter_is_refused(flow: Flow, query: str) -> None:
    """A parameter that is unknown or out of range is named, rather than silently ignored."""
    refused(inspector(flow.service, query), "invalid_request")


# -- secrets --------------------------------------------------------------------------------------


def told_to_anybody(running: Service) -> str:
    """Return all that the service says to whoever may ask it anything."""
    pages = ("/metrics", "/healthz", "/readyz", "/openapi.json", "/docs", "/nope")
    texts = [running.request("GET", page).body.decode() for page in pages]
    return "\n".join([*texts, inspector(running, "?limit=10000").body.decode()])


def test_secrets_are_shown_nowhere(flow: Flow, key: str) -> None:
    """No page, and no document for the operator, holds a token or a password."""
    answered(flow.call(operation="GET", key=key))
    flow.service.post(b"{}", {"authorization": f"Basic {TOKEN}"})
    told = told_to_anybody(flow.service)
    for secret in (TOKEN, INSPECTOR_TOKEN, *flow.secrets):
        assert secret not in told


def test_configured_secrets_are_masked(tls_server: TlsServer) -> None:
    """Every configured secret is masked in the inspector and absent from the log, however given."""
    secrets = {
        "SERVICE_BEARER_TOKEN": "secret-needle-flow",
        "FLOWCACHE_INSPECTOR_TOKEN": INSPECTOR_TOKEN,
        "FLOWCACHE_REDIS_PASSWORD": "secret-needle-redis",
        "FLOWCACHE_REDIS_SENTINEL_PASSWORD": "secret-needle-sentinel",
        "CXONE_CLIENT_SECRET": "secret-needle-cxone",
    }
    environment = secrets | {
        "REDIS_NODES": f"rediss://flowcache:secret-needle-url@127.0.0.1:{tls_server.port}",
        "FLOWCACHE_REDIS_TLS_CA_FILE": str(tls_server.certificates.authority.certificate),
    }
    # The password is wrong on purpose: a fault tends to tell too much.
    with service(environment, ready=False) as running:
        eventually(lambda: running.inspect()["redis"][0]["fault"], what="a fault to be told")
        told = told_to_anybody(running) + running.log
        assert "needle" not in told
        assert INSPECTOR_TOKEN not in told
        configuration = running.inspect()["configuration"]
        for section, name in (
            *(("auth", "token"), ("inspector", "token"), ("cxone", "client_secret")),
            *(("redis", "password"), ("redis", "sentinel_password")),
        ):
            assert configuration[section][name] == "***"


# -- the numbers ----------------------------------------------------------------------------------


def make_calls(running: Service) -> None:
    """Make nineteen calls: seven kinds, of which some fail."""
    for _ in range(3):
        answered(running.call(operation="SET", key="k", value=1))
        answered(running.call(operation="GET", key="k"))
        answered(running.call(operation="GET", key="none"))
        answered(running.call(operation="SET", type="hash", key="h", value={"a": 1}))
        answered(running.call(operation="DEL", key="none"))
    refused(running.call(operation="GET", key="h"), "wrong_type")
    refused(running.call(operation="GET", key="k", ttl=0), "invalid_request")
    refused(running.call(operation="NOPE", key="k"), "invalid_request")
    refused(running.post(b"", {"authorization": "nonsense"}), "unauthorized")


def test_the_inspectors_numbers_agree_with_the_calls(fresh: Service) -> None:
    """Every call is counted once, under the operation that ran and what came of it."""
    make_calls(fresh)
    seen = fresh.inspect()["metrics"]
    assert (seen["totalRequests"], seen["cacheHits"], seen["cacheMisses"]) == (19, 3, 3)
    assert seen["hitRatio"] == 0.5
    assert seen["errors"] == {"invalid_request": 2, "unauthorized": 1, "wrong_type": 1}
    by_operation = {name: each["totalRequests"] for name, each in seen["operations"].items()}
    assert by_operation == {"SET": 3, "GET": 8, "HSET": 3, "DEL": 3, "other": 2}
    assert seen["operations"]["GET"]["errors"] == {"invalid_request": 1, "wrong_type": 1}
    latencies = [entry["latencyMs"] for entry in fresh.inspect("?limit=100")["auditLogs"]]
    assert seen["totalLatency"] == pytest.approx(sum(latencies), abs=0.01)
    assert seen["avgLatencyMs"] == pytest.approx(sum(latencies) / 19, abs=0.01)
    told = seen["latency"]
    assert 0 < told["p50Ms"] <= told["p95Ms"] <= told["p99Ms"]
    assert max(latencies) <= told["p99Ms"] <= max(latencies) * 1.07 + 0.01


def test_looking_is_not_counted(fresh: Service) -> None:
    """Pages, the inspector itself and unknown routes are no calls of a flow."""
    for page in ("/healthz", "/readyz", "/metrics", "/nope", "/openapi.json", "/docs"):
        fresh.request("GET", page)
    fresh.inspect()
    seen = fresh.inspect()
    assert seen["metrics"]["totalRequests"] == 0
    assert seen["metrics"]["hitRatio"] == seen["metrics"]["avgLatencyMs"] == 0
    assert seen["auditLogs"] == []


def test_the_metrics_agree_with_the_calls(fresh: Service) -> None:
    """/metrics tells the same as the inspector, in Prometheus's words."""
    make_calls(fresh)
    samples = metrics(fresh)
    assert samples["flowcache_requests_total", "SET", "ok"] == 3
    assert samples["flowcache_requests_total", "GET", "ok"] == 6
    assert samples["flowcache_requests_total", "GET", "wrong_type"] == 1
    assert samples["flowcache_requests_total", "GET", "invalid_request"] == 1
    assert samples["flowcache_requests_total", "HSET", "ok"] == 3
    assert samples["flowcache_requests_total", "DEL", "ok"] == 3
    assert samples["flowcache_requests_total", "other", "invalid_request"] == 1
    assert samples["flowcache_requests_total", "other", "unauthorized"] == 1
    assert samples["flowcache_lookups_total", "GET", "hit"] == 3
    assert samples["flowcache_lookups_total", "GET", "miss"] == 3
    assert not any(sample[:2] == ("flowcache_lookups_total", "SET") for sample in samples)
    assert samples["flowcache_request_duration_seconds_count", "GET"] == 8
    assert samples["flowcache_request_duration_seconds_bucket", "+Inf", "GET"] == 8
    seconds = fresh.inspect()["metrics"]["operations"]["GET"]["totalLatency"] / 1000
    assert samples["flowcache_request_duration_seconds_sum", "GET"] == pytest.approx(seconds)
    assert samples[("flowcache_workers",)] == 1
    eventually(lambda: metrics(fresh)[("flowcache_requests_in_flight",)] == 0)
    assert samples[("flowcache_audit_records_total",)] == 19
    links = [value for (name, *_), value in samples.items() if name == "flowcache_redis_links_up"]
    assert links == [1]


def test_a_histogram_only_grows_with_its_bound(flow: Flow, key: str) -> None:
    """Buckets are cumulative, as Prometheus reads them, and the last one has every call."""
    answered(flow.call(operation="GET", key=key))
    samples = metrics(flow.service)
    buckets = {
        float(rest[0]): value
        for (name, *rest), value in samples.items()
        if name == "flowcache_request_duration_seconds_bucket" and rest[1] == "GET"
    }
    assert len(buckets) > 10
    counts = [buckets[bound] for bound in sorted(buckets)]
    assert counts == sorted(counts)
    assert counts[-1] == samples["flowcache_request_duration_seconds_count", "GET"] > 0


def test_the_circuit_is_in_the_metrics(fresh_standalone: RedisProcess) -> None:
    """An open circuit, what it refused and the lost link can be alarmed on."""
    server = fresh_standalone
    address = f"127.0.0.1:{server.port}"
    with service(PATIENT | {"REDIS_NODES": address}) as running:
        answered(running.call(operation="GET", key="k"))
        samples = metrics(running)
        for access in ("read", "write", "fallback"):
            assert samples["flowcache_circuits", access, address, "closed"] == 1
        assert samples["flowcache_redis_links_up", address, "primary"] == 1
        server.stop()
        for _ in range(8):
            assert running.call(operation="GET", key="k").status == 503
        samples = metrics(running)
        assert samples["flowcache_circuits", "read", address, "open"] == 1
        assert samples["flowcache_circuits", "write", address, "closed"] == 1
        assert samples["flowcache_circuit_modes", "read", "auto", address] == 1
        assert samples["flowcache_circuit_refusals_total", "read", address] == 3
        assert samples["flowcache_circuit_transitions_total", "read", address, "open"] == 1
        assert samples["flowcache_redis_links_up", address, "primary"] == 0
        assert samples["flowcache_requests_total", "GET", "circuit_open"] == 3
        assert samples["flowcache_requests_total", "GET", "redis_unavailable"] == 5


def test_a_callers_words_make_no_new_series(fresh: Service) -> None:
    """Unknown operations are counted together: no caller can make the metrics grow."""
    before = metrics(fresh).keys()
    for number in range(20):
        refused(fresh.call(operation=f"NOPE{number}", key="k"), "invalid_request")
    samples = metrics(fresh)
    assert len(samples.keys() - before) <= 2
    assert samples["flowcache_requests_total", "other", "invalid_request"] == 20


# -- two workers ----------------------------------------------------------------------------------


def test_two_workers_are_counted_as_one(standalone_server: RedisProcess, key: str) -> None:
    """With two workers, whichever is asked tells of the calls of both."""
    address = f"127.0.0.1:{standalone_server.port}"
    with service(PATIENT | {"REDIS_NODES": address}, "--workers", "2") as running:
        ids: list[str] = []

        def both_have_served() -> bool:
            # Together: one worker could serve any number of calls that come one after the other.
            answers = together(8, lambda: answered(running.call(operation="GET", key=key)))
            ids.extend(answer["metadata"]["requestId"] for answer in answers)
            workers = running.inspect("?limit=0")["workers"]
            return len(workers) == 2 and all(worker["auditRecords"] for worker in workers)

        eventually(both_have_served, what="both workers to serve")
        made = len(ids)
        assert len(set(ids)) == made
        assert len({each.partition("-")[0] for each in ids}) == 2
        # Together again, so that both workers are asked.
        for seen in together(8, lambda: running.inspect("?limit=10000")):
            assert len({worker["pid"] for worker in seen["workers"]}) == 2
            assert sum(worker["auditRecords"] for worker in seen["workers"]) == made
            assert seen["metrics"]["totalRequests"] == seen["metrics"]["cacheMisses"] == made
            assert len(seen["redis"]) == 2
            assert len(seen["circuits"]) == 2 * 3
            assert sorted(entry["requestId"] for entry in seen["auditLogs"]) == sorted(ids)
            times = [entry["timestamp"] for entry in seen["auditLogs"]]
            assert times == sorted(times)
        for samples in together(8, lambda: metrics(running)):
            assert samples[("flowcache_workers",)] == 2
            assert samples["flowcache_requests_total", "GET", "ok"] == made
            assert samples["flowcache_lookups_total", "GET", "miss"] == made
            assert samples["flowcache_redis_links_up", address, "primary"] == 2


# -- the documents --------------------------------------------------------------------------------


def test_the_documents_are_valid_json(flow: Flow) -> None:
    """The description of the contract is there, for programs and for people."""
    document = json.loads(flow.service.request("GET", "/openapi.json").body)
    assert document["openapi"].startswith("3.1")
    assert "/data-action/redis" in document["paths"]
    assert flow.service.request("GET", "/docs").headers["content-type"].startswith("text/html")
