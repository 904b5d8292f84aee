"""What the tutorial that flowcache grew from gets wrong, a test for each: none may come back.

The defects, as found by running it against a three-node cluster and by reading it, are named in the
tests. One is not to be seen from outside: that it compares the token in a time that depends on it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.contract.backends import PATIENT, Flow, nodes
from tests.contract.envelope import answered, envelope, refused
from tests.contract.together import together
from tests.servers import Cluster, RedisProcess, Replicated, eventually, replicated
from tests.service import Answer, service

OPEN_SECONDS = 2


def behind(server: RedisProcess, **settings: str) -> dict[str, str]:
    """Write the environment of a flowcache in front of one server."""
    return {
        **PATIENT,
        "REDIS_NODES": nodes(server.address),
        "FLOWCACHE_BREAKER_OPEN_SECONDS": str(OPEN_SECONDS),
        # Down for the length of a test only: no link may be given up for a stalled server.
        "FLOWCACHE_REDIS_REPLY_TIMEOUT_SECONDS": "30",
        **{f"FLOWCACHE_{name}": value for name, value in settings.items()},
    }


def assert_retry_after(answer: Answer, at_most: int) -> None:
    """Fail unless the answer says in whole seconds when to come back."""
    assert answer.headers["retry-after"].isdigit()
    assert 1 <= int(answer.headers["retry-after"]) <= at_most


def until_open(call: Callable[[], Answer]) -> list[Answer]:
    """Call until the circuit is open; return the answers before that and the first one after."""
    answers = [call()]
    while envelope(answers[-1]).get("code") != "circuit_open":
        assert len(answers) < 50, f"still not open after {answers[-1]}"
        answers.append(call())
    return answers


# -- operations -----------------------------------------------------------------------------------


def test_set_with_a_ttl_works(flow: Flow, key: str) -> None:
    """Defect: `set(k, v, "EX 60")` is one argument, so every string SET failed."""
    assert flow.call(operation="SET", key=key, value={"a": 1}, ttl=60).data == "OK"
    assert 10 < flow.redis("TTL", key) <= 60
    assert flow.call(operation="SET", key=key, value={"a": 1}).data == "OK"
    assert 3550 < flow.redis("TTL", key) <= 3600


def test_hset_and_del_answer_what_they_did(flow: Flow, key: str) -> None:
    """Defect: HSET and DEL ran, had no data, broke their own schema and answered 500."""
    assert flow.call(operation="HSET", key=key, value={"a": "1"}).data == 1
    assert flow.call(operation="DEL", key=key).data == 1


@pytest.mark.parametrize("value", [0, 42, -1.5, True, False, [], [1, "two"], None], ids=repr)
def test_get_answers_any_json(flow: Flow, key: str, value: Any) -> None:
    """Defect: GET of a number, a boolean or a list broke the response schema and answered 500."""
    assert flow.call(operation="SET", key=key, value=value).data == "OK"
    assert flow.call(operation="GET", key=key).data == value


def test_get_of_what_is_no_json_does_not_fail(flow: Flow, key: str) -> None:
    """Defect: a stored text that was no JSON made GET throw, and counted against the circuit."""
    flow.redis("SET", key, "{broken", "EX", 60)
    assert flow.call(operation="GET", key=key).data == "{broken"


def test_a_hash_has_a_life(flow: Flow, key: str) -> None:
    """Defect: HSET forgot the ttl, so hashes stayed for ever."""
    assert flow.call(operation="HSET", key=key, value={"a": "1"}, ttl=60).data == 1
    assert 10 < flow.redis("TTL", key) <= 60


# -- reads after writes ---------------------------------------------------------------------------


def test_a_read_sees_the_write_before_it(flow: Flow, key: str) -> None:
    """Defect: reads went to replicas and were stale right after a write."""
    for turn in range(100):
        assert flow.call(operation="SET", key=key, value=turn).data == "OK"
        assert flow.call(operation="GET", key=key).data == turn
        answered(flow.call(operation="HSET", key=f"{key}:hash", value={"turn": turn}))
        assert flow.call(operation="HGETALL", key=f"{key}:hash").data == {"turn": str(turn)}
    assert flow.call(operation="DEL", key=key).data == 1
    assert flow.call(operation="GET", key=key).data is None


@pytest.fixture(scope="module")
def primary_and_replica() -> Iterator[Replicated]:
    """Share a primary and its replica."""
    with replicated() as servers:
        yield servers


@pytest.fixture
def pair(primary_and_replica: Replicated) -> Iterator[Replicated]:
    """Lend them to a test that stalls the replica."""
    yield primary_and_replica
    primary_and_replica.replica.resume()


@pytest.mark.parametrize("asked_first", ["primary", "replica"])
def test_a_read_waits_for_no_replica(pair: Replicated, asked_first: str) -> None:
    """Defect: as above. With the replica stalled, only the primary can have answered."""
    seed: RedisProcess = getattr(pair, asked_first)
    with service(PATIENT | {"REDIS_NODES": nodes(seed.address)}) as running:
        pair.replica.pause()
        for turn in range(20):
            assert running.call(operation="SET", key="k", value=turn).data == "OK"
            assert running.call(operation="GET", key="k").data == turn


def test_replicas_answer_reads_where_that_is_wanted(cluster_servers: Cluster, key: str) -> None:
    """What the tutorial did is still to be had: `read_from = "replica"`, knowing the price."""
    environment = PATIENT | {
        "REDIS_NODES": nodes(*cluster_servers.addresses[:3]),
        "FLOWCACHE_REDIS_READ_FROM": "replica",
    }
    (replica,) = cluster_servers.replicas_of(cluster_servers.node_of_key(key))
    with service(environment) as running:
        assert running.call(operation="SET", key=key, value=1).data == "OK"
        eventually(lambda: running.call(operation="GET", key=key).data == 1)
        asked = replica.cli("INFO", "commandstats").get("cmdstat_getrange", {}).get("calls", 0)
        for _ in range(5):
            assert running.call(operation="GET", key=key).data == 1
        assert replica.cli("INFO", "commandstats")["cmdstat_getrange"]["calls"] >= asked + 5


# -- the circuit ----------------------------------------------------------------------------------


def test_a_clients_mistakes_do_not_open_the_circuit(flow: Flow, key: str) -> None:
    """Defect: any error counted, so one client's mistakes cut everybody off."""
    flow.redis("SET", key, "text", "EX", 600)
    assert flow.call(operation="DEL", key=f"{key}:x", idempotencyKey="i").data == 0
    mistakes: list[tuple[str, dict[str, Any]]] = [
        ("wrong_type", {"operation": "HGETALL", "key": key}),
        ("wrong_type", {"operation": "HSET", "key": key, "value": {"a": 1}}),
        ("invalid_request", {"operation": "NOPE", "key": key}),
        ("invalid_request", {"operation": "SET", "key": key, "value": 1, "ttl": -1}),
        ("too_large", {"operation": "GET", "key": "k" * 513}),
        (
            "conflict",
            {"operation": "SET", "key": f"{key}:x", "value": 1, "idempotencyKey": "i"},
        ),
    ]
    for _ in range(5):
        for code, body in mistakes:
            refused(flow.call(**body), code)
    assert flow.call(operation="GET", key=key).data == "text"
    seen = flow.service.inspect("?limit=0")
    assert seen["circuitState"] == "closed"
    assert all(c["consecutiveFailures"] == c["transitions"] == 0 for c in seen["circuits"])


def test_the_circuit_opens_says_for_how_long_and_recovers(fresh_standalone: RedisProcess) -> None:
    """Defect: no Retry-After, so callers could not know when to come back."""
    server = fresh_standalone
    with service(behind(server)) as running:
        assert running.call(operation="SET", key="k", value=1).data == "OK"
        server.stop()
        answers = [running.call(operation="GET", key="k") for _ in range(7)]
        codes = [envelope(answer)["code"] for answer in answers]
        assert codes == ["redis_unavailable"] * 5 + ["circuit_open"] * 2
        for answer in answers:
            assert answer.status == 503
            assert answer.json["retryable"] is True
            assert_retry_after(answer, OPEN_SECONDS)
        assert running.inspect()["circuitState"] == "open"
        server.start()
        server.wait_ready()
        eventually(
            lambda: running.call(operation="SET", key="k", value=2).status == 200,
            what="the circuit to let a call through that succeeds",
        )
        assert running.call(operation="GET", key="k").data == 2
        assert running.inspect()["circuitState"] == "closed"


def test_a_stalled_redis_opens_the_circuit(fresh_standalone: RedisProcess) -> None:
    """Defect: latency was never looked at; a Redis that hung made every call hang with it."""
    server = fresh_standalone
    with service(behind(server, DATA_DEADLINE_MS="200")) as running:
        eventually(lambda: running.call(operation="GET", key="k").status == 200)
        server.pause()
        answers = until_open(lambda: running.call(operation="GET", key="k"))
        # Five, and those that a busy machine gave too little time to be telling.
        assert len(answers) >= 6
        assert {answer.json["code"] for answer in answers[:-1]} == {"deadline_exceeded"}
        for answer in answers:
            assert answer.json["metadata"]["latencyMs"] < 5_000
            assert_retry_after(answer, OPEN_SECONDS)
        server.resume()
        eventually(lambda: running.call(operation="GET", key="k").status == 200)


def test_a_caller_may_lower_the_deadline_and_not_raise_it(fresh_standalone: RedisProcess) -> None:
    """Defect: as above. Who is in a hurry says so; nobody can make the service wait longer."""
    for own_ms, asked_ms in (("20000", 100), ("200", 60_000)):
        with service(behind(fresh_standalone, DATA_DEADLINE_MS=own_ms)) as running:
            fresh_standalone.pause()
            told = refused(
                running.call(operation="GET", key="k", deadlineMs=asked_ms), "deadline_exceeded"
            )
            assert 50 < told["metadata"]["latencyMs"] < 10_000
            assert told["retryable"] is True
            fresh_standalone.resume()


def test_a_late_reply_reaches_nobody(fresh_standalone: RedisProcess) -> None:
    """Calls that gave up leave their replies behind; those who come after get their own."""
    server = fresh_standalone
    with service(behind(server)) as running:
        for number in range(20):
            answered(running.call(operation="SET", key=f"k{number}", value=number))
        server.pause()
        for number in range(10):
            late = running.call(operation="GET", key=f"k{number}", deadlineMs=50)
            refused(late, "deadline_exceeded")
        server.resume()
        for number in range(19, -1, -1):
            assert running.call(operation="GET", key=f"k{number}").data == number


def test_a_write_whose_fate_is_unknown_is_not_called_retryable(
    fresh_standalone: RedisProcess,
) -> None:
    """A write that timed out may have been done: only with an idempotency key is a retry safe."""
    server = fresh_standalone
    write: dict[str, Any] = {"operation": "SET", "key": "k", "value": 1}
    with service(behind(server)) as running:
        server.pause()
        blind = running.call(**write, deadlineMs=50)
        assert refused(blind, "deadline_exceeded")["retryable"] is False
        once = running.call(**write, deadlineMs=50, idempotencyKey="i")
        assert refused(once, "deadline_exceeded")["retryable"] is True
        read = running.call(operation="GET", key="k", deadlineMs=50)
        assert refused(read, "deadline_exceeded")["retryable"] is True
        server.resume()
        assert running.call(**write, idempotencyKey="i").data == "OK"


def test_a_half_open_circuit_lets_one_call_through(fresh_standalone: RedisProcess) -> None:
    """Defect: half-open let everything through at once, onto a Redis that was just coming back."""
    server = fresh_standalone

    def call() -> Answer:
        return running.call(operation="GET", key="k")

    def is_half_open() -> bool:
        return bool(running.inspect("?limit=0")["circuitState"] == "half-open")

    settings = {"BREAKER_FAILURES": "1", "BREAKER_OPEN_SECONDS": "1", "DATA_DEADLINE_MS": "500"}
    with service(behind(server, **settings)) as running:
        server.pause()
        until_open(call)
        eventually(is_half_open, what="the open time to be over")
        # The one that is let through hangs, so the others come while it is on its way.
        codes = sorted(envelope(answer)["code"] for answer in together(16, call))
        assert codes == ["circuit_open"] * 15 + ["deadline_exceeded"]
        server.resume()
        eventually(lambda: call().status == 200, what="a probe to succeed")


def test_a_dead_shard_does_not_block_the_others(breakable_cluster: Cluster) -> None:
    """Defect: one breaker for all, so that one dead shard closed the whole cache."""
    servers = breakable_cluster
    dying, alive = servers.primaries()[:2]
    names = [f"shard:{number}" for number in range(100)]
    of_dying = next(name for name in names if servers.node_of_key(name) is dying)
    of_alive = [name for name in names if servers.node_of_key(name) is alive]
    environment = {
        "REDIS_NODES": nodes(*servers.addresses),
        "FLOWCACHE_BREAKER_FAILURES": "1",
        "FLOWCACHE_DATA_DEADLINE_MS": "1000",
    }
    with service(environment) as running:
        dying.pause()
        until_open(lambda: running.call(operation="SET", key=of_dying, value=1))
        for name in of_alive:
            assert running.call(operation="SET", key=name, value=1).data == "OK"


# -- what is counted ------------------------------------------------------------------------------


def test_a_write_is_no_hit_and_a_failure_no_miss() -> None:
    """Defect: writes counted as hits and failures as misses."""
    with service(PATIENT, "--embedded") as running:
        assert running.call(operation="SET", key="k", value=1).data == "OK"
        assert running.call(operation="HSET", key="h", value={"a": 1}).data == 1
        assert running.call(operation="DEL", key="none").data == 0
        refused(running.call(operation="GET", key="h"), "wrong_type")
        refused(running.call(operation="GET", key=""), "invalid_request")
        metrics = running.inspect()["metrics"]
        assert (metrics["cacheHits"], metrics["cacheMisses"], metrics["hitRatio"]) == (0, 0, 0)
        assert running.call(operation="GET", key="k").data == 1
        assert running.call(operation="HGETALL", key="h").data == {"a": "1"}
        assert running.call(operation="GET", key="k", type="hash").status == 409
        assert running.call(operation="GET", key="none").data is None
        metrics = running.inspect()["metrics"]
        assert (metrics["cacheHits"], metrics["cacheMisses"]) == (2, 1)
        assert metrics["hitRatio"] == 0.6667
        assert metrics["totalRequests"] == 9
        assert metrics["errors"] == {"invalid_request": 1, "wrong_type": 2}


def test_the_audit_does_not_grow_for_ever() -> None:
    """Defect: the array of audit logs was never cut."""
    with service(PATIENT | {"FLOWCACHE_AUDIT_MEMORY_RECORDS": "10"}, "--embedded") as running:
        for number in range(25):
            answered(running.call(operation="GET", key=f"k{number}"))
        seen = running.inspect("?limit=10000")
        assert [entry["key"] for entry in seen["auditLogs"]] == [f"k{n}" for n in range(15, 25)]
        assert seen["workers"][0]["auditRecords"] == 25


# -- who may look ---------------------------------------------------------------------------------


def test_the_inspector_is_not_open(flow: Flow) -> None:
    """Defect: /inspector, with every key of every customer, was open to anyone."""
    ask = flow.service.request
    for headers in ({}, {"authorization": ""}, {"authorization": "Bearer wrong"}):
        answer = ask("GET", "/inspector", None, headers)
        refused(answer, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    for token in (flow.service.token, flow.service.token.upper()):
        answer = ask("GET", "/inspector", None, {"authorization": f"Bearer {token}"})
        refused(answer, "forbidden" if token == flow.service.token else "unauthorized")
    for scheme in ("Bearer", "bearer"):
        credential = {"authorization": f"{scheme} {flow.service.inspector_token}"}
        assert ask("GET", "/inspector", None, credential).status == 200


def test_without_a_credential_of_its_own_nobody_reads_the_inspector(
    standalone_server: RedisProcess,
) -> None:
    """Defect: as above. Where no inspector token is configured, no token opens it."""
    environment = behind(standalone_server, INSPECTOR_TOKEN="")
    with service(environment) as running:
        for token, code in (
            (running.token, "forbidden"),
            (running.inspector_token, "unauthorized"),
        ):
            headers = {"authorization": f"Bearer {token}"}
            refused(running.request("GET", "/inspector", None, headers), code)
        for header in ("Bearer ", "Bearer None", "Bearer ***"):
            answer = running.request("GET", "/inspector", None, {"authorization": header})
            refused(answer, "unauthorized")
