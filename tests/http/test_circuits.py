"""Circuits are switched in a running service: all workers, at once, and those to come."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flowcache.fleet.overrides import Overrides
from flowcache.ports import Mode, Order
from tests.contract.together import together
from tests.servers import Cluster, RedisProcess, eventually
from tests.service import Answer, Service, service

ROUTE = "/inspector/circuits"


def order(running: Service, **body: Any) -> Answer:
    """Post an order with the operator's token."""
    headers = {"authorization": f"Bearer {running.control_token}"}
    return running.request("POST", ROUTE, json.dumps(body).encode(), headers)


def switch(running: Service, **body: Any) -> dict[str, Any]:
    answer = order(running, **body)
    assert answer.status == 200, answer.body
    told: dict[str, Any] = answer.json
    return told


def listed(running: Service) -> dict[str, Any]:
    answer = running.request(
        "GET", ROUTE, None, {"authorization": f"Bearer {running.inspector_token}"}
    )
    assert answer.status == 200, answer.body
    told: dict[str, Any] = answer.json
    return told


def statuses(running: Service, body: dict[str, Any]) -> set[int]:
    """Make the same call many times at once, so that all workers serve; return what came back."""
    return {answer.status for answer in together(16, lambda: running.call(**body))}


def pids(running: Service) -> set[int]:
    return {worker["pid"] for worker in running.inspect("?limit=0")["workers"]}


READ: dict[str, Any] = {"operation": "GET", "key": "k"}
WRITE: dict[str, Any] = {"operation": "SET", "key": "k", "value": 1}


@pytest.fixture
def two(fresh_standalone: RedisProcess) -> Iterator[Service]:
    """Give a test two workers."""
    nodes = f"127.0.0.1:{fresh_standalone.port}"
    with service({"REDIS_NODES": nodes}, "--workers", "2") as running:
        eventually(lambda: len(pids(running)) == 2, what="both workers")
        yield running


def test_an_order_holds_in_all_workers_at_once(two: Service) -> None:
    """When it is answered, no worker lets anything through any more; and back again."""
    assert statuses(two, READ) == {200}
    told = switch(two, mode="forced-open")
    assert (told["workers"], told["silent"]) == (2, 0)
    assert statuses(two, READ) == statuses(two, WRITE) == {503}
    refused = two.call(**READ)
    assert refused.json["code"] == "circuit_open"
    assert refused.headers["retry-after"] == "10"
    switch(two, mode="auto")
    assert statuses(two, READ) == statuses(two, WRITE) == {200}


def test_one_kind_of_access_can_be_held(two: Service) -> None:
    """Writes wait, reads go on."""
    assert statuses(two, READ) == {200}
    switch(two, mode="forced-open", access="write")
    assert statuses(two, READ) == {200}
    assert statuses(two, WRITE) == {503}


def test_one_shard_can_be_held(cluster_servers: Cluster) -> None:
    """The others go on; the name is the one that the inspector shows."""
    nodes = f"127.0.0.1:{cluster_servers.nodes[0].port}"
    keys = [f"circuits:{number}" for number in range(30)]
    with service({"REDIS_NODES": nodes}) as running:
        assert {running.call(operation="GET", key=key).status for key in keys} == {200}
        shards = {circuit["shard"] for circuit in listed(running)["circuits"]}
        assert len(shards) == 3
        held = min(shards)
        assert switch(running, mode="forced-open", shard=held)["circuits"] == 3
        found = [running.call(operation="GET", key=key).status for key in keys]
        assert set(found) == {200, 503}
        modes = {(each["shard"], each["mode"]) for each in listed(running)["circuits"]}
        assert modes == {(s, "forced-open" if s == held else "auto") for s in shards}


def test_a_worker_that_is_spawned_later_follows(two: Service) -> None:
    """An override applies to workers spawned after it, from their first call on."""
    switch(two, mode="forced-open")
    for pid in pids(two):
        os.kill(pid, signal.SIGKILL)
    found: list[Answer] = []

    def both_have_served() -> bool:
        found.extend(together(8, lambda: two.call(**READ)))
        ids = {answer.json["metadata"]["requestId"] for answer in found}
        return len({each.partition("-")[0] for each in ids}) == 2

    eventually(both_have_served, what="new workers to serve", ignoring=(OSError,))
    assert {answer.status for answer in found} == {503}
    assert [override["mode"] for override in listed(two)["overrides"]] == ["forced-open"]
    switch(two, mode="auto")
    assert statuses(two, READ) == {200}


def totals(running: Service) -> dict[str, float]:
    """Return what circuits refused, and the calls by outcome."""
    text = running.request("GET", "/metrics").body.decode()
    found: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "flowcache_circuit_refusals_total":
                found["refusals"] += sample.value
            elif sample.name == "flowcache_requests_total":
                found[sample.labels["outcome"]] += sample.value
    return dict(found)


def test_totals_outlive_the_workers_that_counted(two: Service) -> None:
    """After reloads the service has had as many calls and refusals as before: nothing is lost with
    a worker, nothing is told twice."""
    assert statuses(two, READ) == {200}
    switch(two, mode="forced-open")
    assert statuses(two, READ) == {503}
    had = {"ok": 16, "circuit_open": 16, "refusals": 16}
    eventually(lambda: totals(two) == had, what="all calls to be told of")
    for _ in range(3):
        before = pids(two)
        two.process.send_signal(signal.SIGHUP)
        eventually(
            lambda old=before: len(now := pids(two)) == 2 and not now & old,  # type: ignore[misc]
            what="new workers",
        )
        eventually(lambda: totals(two) == had, what="the totals there were")


def test_a_worker_that_was_stopped_follows_when_it_goes_on(two: Service) -> None:
    """Who gave the order learns that one did not answer; that one follows all the same."""
    assert statuses(two, READ) == {200}
    # One connection: a new one could be the stopped worker's to accept.
    connection = http.client.HTTPConnection("127.0.0.1", two.port, timeout=30)
    headers = {"authorization": f"Bearer {two.control_token}"}
    connection.request("GET", "/inspector", None, headers)
    _, other = (each["pid"] for each in json.loads(connection.getresponse().read())["workers"])
    os.kill(other, signal.SIGSTOP)
    try:
        connection.request("POST", ROUTE, b'{"mode":"forced-open"}', headers)
        told = json.loads(connection.getresponse().read())
    finally:
        os.kill(other, signal.SIGCONT)
        connection.close()
    assert (told["workers"], told["silent"]) == (1, 1)
    eventually(lambda: statuses(two, READ) == {503}, what="both workers to follow")


def test_an_order_of_which_nobody_was_told_is_followed_at_the_next_question(two: Service) -> None:
    """A worker that dies once it has written an override leaves it to the others to find."""
    assert statuses(two, READ) == {200}
    (directory,) = two.directory.glob("flowcache-*")
    Overrides(directory, lambda _: 0).add(Order(Mode.FORCED_OPEN), "control", 1.5)
    assert two.request("GET", "/metrics").status == 200
    assert statuses(two, READ) == {503}


def test_an_order_is_on_record(two: Service) -> None:
    """Who switched what, and when: in the log, in the audit, and in the list of overrides."""
    switch(two, mode="observe", access="read")
    (entry,) = two.inspect("?operation=switch%20observe")["auditLogs"]
    assert (entry["client"], entry["address"], entry["outcome"]) == ("control", "127.0.0.1", "ok")
    told = json.loads(entry["detail"])
    assert (told["mode"], told["shard"], told["access"]) == ("observe", None, "read")
    assert (told["workers"], told["silent"]) == (2, 0)
    (override,) = listed(two)["overrides"]
    assert (override["mode"], override["shard"], override["access"]) == ("observe", None, "read")
    assert override["by"] == "control"
    (line,) = [line for line in two.log.splitlines() if "circuits_overridden" in line]
    logged = json.loads(line)
    assert (logged["mode"], logged["access"], logged["by"]) == ("observe", "read", "control")
    assert logged["request_id"] == entry["requestId"]


def test_a_misspelt_order_switches_nothing(two: Service) -> None:
    """The field is named, and calls go on."""
    answer = order(two, mode="forced-open", shards="all")
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")
    assert answer.json["error"].startswith("shards: unknown")
    assert statuses(two, READ) == {200}
    assert listed(two)["overrides"] == []


@pytest.mark.parametrize("mode", ["auto", "forced-open", "disabled", "observe"])
def test_a_mode_can_be_configured(mode: str, standalone_server: RedisProcess) -> None:
    """A service may begin in any mode; the inspector shows it."""
    nodes = f"127.0.0.1:{standalone_server.port}"
    with service({"REDIS_NODES": nodes, "FLOWCACHE_BREAKER_MODE": mode}) as running:
        assert running.call(**READ).status == (503 if mode == "forced-open" else 200)
        told = listed(running)
        assert told["configured"] == mode
        assert {circuit["mode"] for circuit in told["circuits"]} == {mode}


def test_observe_refuses_nobody_and_tells_what_it_would(fresh_standalone: RedisProcess) -> None:
    """Redis is gone: each call learns so itself, and the circuit that would be open is counted."""
    nodes = f"127.0.0.1:{fresh_standalone.port}"
    with service({"REDIS_NODES": nodes, "FLOWCACHE_BREAKER_MODE": "observe"}) as running:
        assert running.call(**READ).status == 200
        fresh_standalone.stop()
        codes = [running.call(**READ).json["code"] for _ in range(12)]
        assert set(codes) == {"redis_unavailable"}
        (read,) = [c for c in listed(running)["circuits"] if c["access"] == "read"]
        assert (read["state"], read["refused"], read["wouldRefuse"]) == ("open", 0, 7)
