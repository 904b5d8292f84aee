"""A write with an `idempotencyKey` happens once, however often it is sent.

What a repeated write did not do shows only when the key was changed in between: each test changes
it, in Redis itself, and looks whether the repetition changed it back.
"""

import http.client
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.contract.backends import Flow, nodes
from tests.contract.envelope import answered, refused
from tests.contract.together import together
from tests.servers import RedisProcess, eventually
from tests.service import service

LIFETIME_MS = 600_000

ODD_KEYS = [
    *("a}b", "{}x", "{tag}y", "{", "}", "{}", "}{", "{a", "a{", "{{a}}b", "{a}{b}", "x{}{tag}"),
    *("{🦉}", "{" + "t" * 64 + "}", "{" + "t" * 65 + "}", "{t\x00}x", "{ }", "{\n}", "plain", "é"),
]
"""Braces decide the slot of a key; the record of a write has to be in the same one."""


def records(flow: Flow) -> set[bytes]:
    """Return the keys of all records of writes that are remembered."""
    return flow.redis.keys("flowcache:*")


def test_a_repeated_set_is_not_run_again(flow: Flow, key: str) -> None:
    """SET answers OK again, and the value that another wrote meanwhile stands."""
    body = {"operation": "SET", "key": key, "value": "first", "ttl": 500, "idempotencyKey": "i"}
    first = answered(flow.call(**body))
    assert flow.redis("GET", key) == b'"first"'
    assert 450 < flow.redis("TTL", key) <= 500
    flow.redis("SET", key, "changed", "EX", 1000)
    for _ in range(3):
        again = answered(flow.call(**body))
        assert again["data"] == first["data"] == "OK"
        assert again["metadata"]["hit"] is None
        assert again["metadata"]["requestId"] != first["metadata"]["requestId"]
        assert flow.redis("GET", key) == b"changed"
        assert flow.redis("TTL", key) > 950


def test_a_repeated_hset_is_not_run_again(flow: Flow, key: str) -> None:
    """HSET answers the number of then, and what was removed meanwhile stays removed."""
    body = {"operation": "HSET", "key": key, "value": {"a": 1, "b": 2}, "idempotencyKey": "i"}
    assert flow.call(**body).data == 2
    assert 3550 < flow.redis("TTL", key) <= 3600
    flow.redis("HDEL", key, "a")
    flow.redis("EXPIRE", key, 500)
    for _ in range(3):
        assert flow.call(**body).data == 2
        assert flow.redis("HGETALL", key) == {b"b": b"2"}
        assert flow.redis("TTL", key) <= 500


def test_a_repeated_del_is_not_run_again(flow: Flow, key: str) -> None:
    """DEL answers the number of then, and a key written anew meanwhile stays."""
    flow.redis("SET", key, "first", "EX", 500)
    body = {"operation": "DEL", "key": key, "idempotencyKey": "i"}
    assert flow.call(**body).data == 1
    flow.redis("SET", key, "anew", "EX", 500)
    for _ in range(3):
        assert flow.call(**body).data == 1
        assert flow.redis("GET", key) == b"anew"


@pytest.mark.usefixtures("in_clear")
def test_a_repeated_incr_is_counted_once(flow: Flow, key: str) -> None:
    """INCR answers the number of then, negative ones too, whatever was counted meanwhile."""
    body = {"operation": "INCR", "key": key, "value": -3}
    assert flow.call(**body, idempotencyKey="i").data == -3
    assert flow.call(**body, idempotencyKey="j").data == -6
    assert flow.call(**body, idempotencyKey="i").data == -3
    assert flow.call(**(body | {"value": "-3.0"}), idempotencyKey="j").data == -6
    refused(flow.call(**(body | {"value": 3}), idempotencyKey="j"), "conflict")
    assert flow.redis("GET", key) == b"-6"


def test_a_repeated_set_of_a_hash_is_not_run_again(flow: Flow, key: str) -> None:
    """SET with type hash is remembered as the HSET that it is."""
    body = {"operation": "SET", "type": "hash", "key": key, "value": {"a": 1}}
    assert flow.call(**body, idempotencyKey="i").data == 1
    flow.redis("DEL", key)
    assert flow.call(**body, idempotencyKey="i").data == 1
    same = {"operation": "hset", "key": key, "value": {"a": 1}, "ttl": "3600"}
    assert flow.call(**same, idempotencyKey="i").data == 1
    assert flow.redis("EXISTS", key) == 0


def test_a_del_that_removed_nothing_is_remembered(flow: Flow, key: str) -> None:
    """A 0 is an answer to be repeated as well."""
    body = {"operation": "DEL", "key": key, "idempotencyKey": "i"}
    assert flow.call(**body).data == 0
    flow.redis("SET", key, "anew", "EX", 500)
    assert flow.call(**body).data == 0
    assert flow.redis("EXISTS", key) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"value": "other"},
        {"ttl": 501},
        {"operation": "DEL"},
        {"operation": "HSET", "value": {"a": 1}},
        {"value": {"first": None}},
    ],
    ids=repr,
)
def test_another_body_is_a_conflict(flow: Flow, key: str, other: dict[str, Any]) -> None:
    """An idempotency key that comes with another write is refused; the first write stands."""
    body = {"operation": "SET", "key": key, "value": "first", "ttl": 500, "idempotencyKey": "i"}
    answered(flow.call(**body))
    told = refused(flow.call(**(body | other)), "conflict")
    assert told["retryable"] is False
    assert flow.redis("GET", key) == b'"first"'
    assert 450 < flow.redis("TTL", key) <= 500
    answered(flow.call(**body))


def test_the_spelling_of_a_body_does_not_matter(flow: Flow, key: str) -> None:
    """The same write is the same in another case, another order, with another audit context."""
    spellings = (
        '{"operation":"SET","key":"%s","value":{"a":1},"ttl":60,"idempotencyKey":7}',
        '{ "idempotencyKey":"7", "ttl":"60", "value":{"a" : 1}, "key":"%s", "operation":"set" }',
        '{"operation":"Set","key":"%s","value":{"a":1},"ttl":60.0,"idempotencyKey":"7",'
        '"flowId":"f","interactionId":9,"deadlineMs":700,"type":"STRING","unknown":[]}',
    )
    for spelling in spellings:
        assert answered(flow.post((spelling % key).encode()))["data"] == "OK"
        flow.redis("SET", key, "changed", "EX", 60)
        assert flow.redis("GET", key) == b"changed"


def test_another_idempotency_key_is_another_write(flow: Flow, key: str) -> None:
    """The same body runs again under another key, and under none."""
    body = {"operation": "SET", "key": key, "value": "mine"}
    for once in ({"idempotencyKey": "i"}, {"idempotencyKey": "j"}, {}, {"idempotencyKey": ""}):
        flow.redis("SET", key, "theirs", "EX", 60)
        answered(flow.call(**body, **once))
        assert flow.redis("GET", key) == b'"mine"'


@pytest.mark.parametrize("unset", [None, "", "${input.once}"])
def test_an_unset_idempotency_key_is_none(flow: Flow, key: str, unset: str | None) -> None:
    """What a flow sends for a variable that was never set must not make two writes one."""
    for value in ("one", "two"):
        answered(flow.call(operation="SET", key=key, value=value, idempotencyKey=unset))
        assert flow.call(operation="GET", key=key).data == value


def test_a_read_is_always_run(flow: Flow, key: str) -> None:
    """An idempotency key on a read is ignored: the answer is fresh, and nothing is recorded."""
    before = records(flow)
    for value in (1, 2):
        flow.redis("SET", key, value, "EX", 60)
        assert flow.call(operation="GET", key=key, idempotencyKey="i").data == value
    flow.redis("DEL", key)
    for value in (1, 2):
        flow.redis("HSET", key, "f", value)
        told = flow.call(operation="HGETALL", key=key, idempotencyKey="i")
        assert told.data == {"f": str(value)}
    assert records(flow) == before


def test_a_failed_write_is_not_remembered(flow: Flow, key: str) -> None:
    """A write that was refused leaves no record: sent again, it may succeed."""
    before = records(flow)
    body = {"operation": "HSET", "key": key, "value": {"a": 1}, "idempotencyKey": "i"}
    flow.redis("SET", key, "text", "EX", 60)
    refused(flow.call(**body), "wrong_type")
    refused(flow.call(**(body | {"ttl": 0})), "invalid_request")
    assert records(flow) == before
    flow.redis("DEL", key)
    assert flow.call(**body).data == 1
    assert flow.redis("HGETALL", key) == {b"a": b"1"}


def test_the_record_of_a_write_expires(flow: Flow, key: str) -> None:
    """What is remembered of a write lives for ten minutes and not for ever."""
    before = records(flow)
    answered(flow.call(operation="SET", key=key, value="private-needle", idempotencyKey="i-needle"))
    answered(flow.call(operation="HSET", key=f"{key}:hash", value={"a": 1}, idempotencyKey="i"))
    answered(flow.call(operation="DEL", key=f"{key}:none", idempotencyKey="i"))
    made = records(flow) - before
    assert len(made) == 3
    for record in made:
        assert LIFETIME_MS - 50_000 < flow.redis("PTTL", record) <= LIFETIME_MS
        assert b"needle" not in flow.redis("GET", record) + record


def test_a_repetition_does_not_prolong_the_record(flow: Flow, key: str) -> None:
    """The ten minutes count from the write, not from its last repetition."""
    before = records(flow)
    body = {"operation": "SET", "key": key, "value": 1, "idempotencyKey": "i"}
    answered(flow.call(**body))
    (record,) = records(flow) - before
    flow.redis("PEXPIRE", record, 100_000)
    answered(flow.call(**body))
    assert flow.redis("PTTL", record) <= 100_000


@pytest.mark.parametrize("name", ODD_KEYS, ids=lambda name: ascii(name)[:24])
def test_keys_with_odd_braces_are_written_once(flow: Flow, key: str, name: str) -> None:
    """Wherever a cluster keeps a key, the record of its write is kept beside it."""
    raw, once = name.encode(), key  # one that no other test has used for this name
    flow.redis("DEL", raw)
    body = {"operation": "SET", "key": name, "value": "first", "ttl": 60, "idempotencyKey": once}
    assert flow.call(**body).data == "OK"
    flow.redis("SET", raw, "changed", "EX", 60)
    assert flow.call(**body).data == "OK"
    assert flow.redis("GET", raw) == b"changed"
    refused(flow.call(**(body | {"value": "other"})), "conflict")
    for _ in range(2):
        assert flow.call(operation="DEL", key=name, idempotencyKey=f"{once}:del").data == 1


def test_keys_of_all_shards_are_written_once(flow: Flow, key: str) -> None:
    """Writes to many keys, and so to every shard, are each remembered for themselves."""
    names = [f"{key}:{number}" for number in range(60)]
    for sent in range(2):
        for name in names:
            body = {"operation": "HSET", "key": name, "value": {"a": name}, "idempotencyKey": "i"}
            assert flow.call(**body).data == 1
        for name in names:
            assert flow.redis("DEL", name) == (1 if sent == 0 else 0)


def test_repetitions_at_the_same_moment_are_one_write(flow: Flow, key: str) -> None:
    """Eight clients that send the same write together get the answer of the one that ran."""
    body = {"operation": "HSET", "key": key, "value": {"a": 1}, "idempotencyKey": "i"}
    told = together(8, lambda: answered(flow.call(**body))["data"])
    assert told == [1] * 8
    told = together(8, lambda: flow.call(operation="DEL", key=key, idempotencyKey="j").data)
    assert told == [1] * 8


def test_instances_and_restarts_do_not_matter(standalone_server: RedisProcess, key: str) -> None:
    """A write is done once whichever instance it is sent to, and however often they restart."""
    environment = {"REDIS_NODES": nodes(standalone_server.address)}
    body = {"operation": "INCR", "key": key, "value": 5, "idempotencyKey": "i"}
    with service(environment, "--workers", "2") as one:
        with service(environment) as other:
            told = together(4, lambda: one.call(**body).data)
            told += together(4, lambda: other.call(**body).data)
            standalone_server.cli("SCRIPT", "FLUSH")
            told.append(one.call(**body).data)
        with service(environment) as restarted:
            told.append(restarted.call(**body).data)
            refused(restarted.call(**body | {"value": 6}), "conflict")
    assert told == [5] * 10
    assert standalone_server.cli("GET", key) == "5"


def test_an_instance_that_dies_under_a_write(fresh_standalone: RedisProcess) -> None:
    """A write whose instance was killed before it answered is done once, sent again elsewhere."""
    server = fresh_standalone
    environment = {"REDIS_NODES": nodes(server.address), "FLOWCACHE_DATA_DEADLINE_MS": "30000"}
    body = {"operation": "INCR", "key": "k", "idempotencyKey": "i"}
    with service(environment) as survivor, service(environment) as dying:
        assert survivor.call(operation="INCR", key="other", idempotencyKey="i").data == 1
        server.pause()  # the write reaches the server, and its reply nobody
        with ThreadPoolExecutor(1) as pool:
            calling = pool.submit(dying.call, **body)
            eventually(lambda: dying.inspect()["workers"][0]["inFlight"] == 1)
            eventually(lambda: bytes_waiting(server) > 0)
            for worker in dying.inspect()["workers"]:
                os.kill(worker["pid"], signal.SIGKILL)
            with pytest.raises((OSError, http.client.HTTPException)):
                calling.result()
        server.resume()
        assert survivor.call(**body).data == 1
        assert survivor.call(**body).data == 1
        assert server.cli("GET", "k") == "1"


def bytes_waiting(server: RedisProcess) -> int:
    """Return how many bytes lie unread in the connections to a server, which may be stopped."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        int(row[4].split(":")[1], 16)
        for row in rows
        if int(row[1].split(":")[1], 16) == server.port
    )
