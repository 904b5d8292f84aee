"""Encryption at rest from outside: a real flowcache, and somebody who is in its Redis."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from flowcache.authn.tokens import show_digest
from flowcache.secret import Secret
from tests.envelopes import ENCODED, Sealer, line
from tests.servers import RedisProcess, eventually, standalone
from tests.service import INSPECTOR_TOKEN, ROUTE, Answer, Service, service

TOKENS = {name: f"fc_{name}-{'x' * 40}" for name in ("vault", "desk", "clear")}
CLIENTS = "\n".join(
    f"""
[clients.{name}]
tokens = ["{show_digest(Secret(token))}"]
permissions = ["data:read", "data:write"]
namespace = "{"clear" if name == "clear" else "cards"}"
"""
    for name, token in TOKENS.items()
)
"""Two clients share a namespace that is encrypted, one has another."""

PREFIX = b"flowcache:ns:cards:"
NEEDLE = "private-needle-4111111111111111"


class Configured:
    """A flowcache whose keys are changed while it runs."""

    def __init__(self, directory: Path, redis: RedisProcess) -> None:
        self.file = directory / "flowcache.toml"
        self.keys = directory / "keys"
        self.redis = redis
        self.journal = directory / "audit.db"

    def write(self, *ids: str, active: str = "", plaintext: str = "refuse") -> None:
        self.keys.write_text("# keys of the tests\n" + "\n".join(map(line, ids)) + "\n")
        encryption = [f'keys_file = "{self.keys}"', f'plaintext = "{plaintext}"']
        encryption.append('namespaces = ["cards"]')
        if active:
            encryption.append(f'active_key = "{active}"')
        section = "\n[encryption]\n" + "\n".join(encryption) + "\n" if ids else ""
        self.file.write_text(CLIENTS + section)

    @contextmanager
    def serving(self, *arguments: str) -> Iterator[Service]:
        environment = {
            "REDIS_NODES": f"127.0.0.1:{self.redis.port}",
            "FLOWCACHE_DATA_DEADLINE_MS": "10000",
            "FLOWCACHE_LOG_LEVEL": "debug",
            "FLOWCACHE_AUDIT_JOURNAL": str(self.journal),
        }
        with service(environment, "--config", str(self.file), *arguments) as running:
            yield running

    def raw(self, command: str, key: str, *more: bytes) -> Any:
        """Run a command on a key of the encrypted namespace, behind flowcache's back."""
        with self.redis.client() as client:
            return client.execute_command(command, PREFIX + key.encode(), *more)


@pytest.fixture
def configured(tmp_path: Path, standalone_server: RedisProcess) -> Configured:
    standalone_server.cli("FLUSHALL")
    return Configured(tmp_path, standalone_server)


def act(running: Service, client: str, **fields: Any) -> Answer:
    """Post a data action with the token of a client."""
    body = json.dumps(fields).encode()
    return running.request("POST", ROUTE, body, {"x-api-key": TOKENS[client]})


def reload(running: Service) -> None:
    """Have the configuration read again, and wait until all workers are new ones."""
    before = {worker["pid"] for worker in running.inspect()["workers"]}
    running.process.send_signal(signal.SIGHUP)
    eventually(
        lambda: not before & {worker["pid"] for worker in running.inspect()["workers"]},
        what="new workers",
        ignoring=(OSError,),
    )


def metric(running: Service, name: str, **labels: str) -> float:
    """Return a counter of encryption."""
    header = {"authorization": f"Bearer {INSPECTOR_TOKEN}"}
    text = running.request("GET", "/metrics", None, header).body.decode()
    shown = ",".join(f'{label}="{value}"' for label, value in labels.items())
    start = f"flowcache_{name}_total{{{shown}}} "
    (value,) = (row.removeprefix(start) for row in text.splitlines() if row.startswith(start))
    return float(value)


# -- what is stored --------------------------------------------------------------------------------


def test_a_namespace_is_encrypted_and_another_is_not(configured: Configured) -> None:
    """What decides is the namespace, whichever client of it calls; and nobody notices."""
    configured.write("k1")
    with configured.serving() as running:
        assert act(running, "vault", operation="SET", key="k", value={"n": 1}).data == "OK"
        assert act(running, "desk", operation="GET", key="k").data == {"n": 1}
        assert act(running, "desk", operation="HSET", key="h", value={"a": 1, "b": "x"}).data == 2
        assert act(running, "vault", operation="HGETALL", key="h").data == {"a": "1", "b": "x"}
        assert act(running, "clear", operation="SET", key="k", value={"n": 1}).data == "OK"
        assert act(running, "clear", operation="INCR", key="n").data == 1
    sealer = Sealer()
    assert sealer.open(configured.raw("GET", "k"), PREFIX + b"k") == b'{"n":1}'
    fields = configured.raw("HGETALL", "h")
    assert sealer.open(fields[b"b"], PREFIX + b"h", b"b") == b"x"
    assert configured.redis.cli("GET", "flowcache:ns:clear:k") == '{"n":1}'


def test_counting_is_refused_where_it_can_not_be_done(configured: Configured) -> None:
    """INCR in an encrypted namespace is forbidden, says why, and changes nothing."""
    configured.write("k1")
    with configured.serving() as running:
        act(running, "vault", operation="SET", key="n", value=1)
        before = configured.raw("GET", "n")
        for once in ({}, {"idempotencyKey": "i"}):
            answer = act(running, "vault", operation="INCR", key="n", **once)
            assert (answer.status, answer.code) == (403, "forbidden")
            assert "encrypted" in answer.json["error"]
            assert answer.json["retryable"] is False
        assert configured.raw("GET", "n") == before


def test_nothing_is_in_clear_anywhere(tmp_path: Path) -> None:
    """Values show in no server, dump, log of writes, journal, log or page; keys nowhere at all."""
    with standalone(
        persistent=True, config=["rdbcompression no", "slowlog-log-slower-than 0"]
    ) as redis:
        configured = Configured(tmp_path, redis)
        configured.write("k1")
        with configured.serving() as running:
            for client in ("vault", "clear"):
                for once in ({}, {"idempotencyKey": "i"}):
                    act(running, client, operation="SET", key="k", value=[NEEDLE], **once)
                    act(running, client, operation="HSET", key="h", value={"f": NEEDLE}, **once)
                assert NEEDLE in act(running, client, operation="GET", key="k").json["data"]
                if client == "vault":
                    unclean = everything(redis) + pages(running)
                    assert NEEDLE.encode() not in unclean
                    assert PREFIX in unclean, "where to search was found"
            # The search finds what is there to be found: the other namespace is in clear.
            assert NEEDLE.encode() in everything(redis)
            own = pages(running) + running.log.encode()
        own += configured.journal.read_bytes()
    assert NEEDLE.encode() not in own
    for secret in ENCODED:
        assert secret.encode() not in own


def everything(redis: RedisProcess) -> bytes:
    """Return all that Redis holds and has written to disk, and the commands it remembers."""
    with redis.client() as client:
        client.save()
        found = [str(client.slowlog_get(1000)).encode()]
        for key in client.scan_iter(count=1000):
            found += [key, client.dump(key)]
    found += [file.read_bytes() for file in redis.directory.rglob("*") if file.is_file()]
    return b"".join(found)


def pages(running: Service) -> bytes:
    """Return what an operator can look at."""
    header = {"authorization": f"Bearer {INSPECTOR_TOKEN}"}
    return b"".join(
        running.request("GET", path, None, header).body for path in ("/inspector", "/metrics")
    )


# -- somebody writes to Redis ----------------------------------------------------------------------


def test_what_was_tampered_with_is_refused_and_counted(configured: Configured) -> None:
    """Altered, moved, exchanged for plaintext: refused, and nothing of it in answer or log."""
    configured.write("k1")
    with configured.serving() as running:
        for key in ("a", "b"):
            act(running, "vault", operation="SET", key=key, value=NEEDLE)
        act(running, "vault", operation="HSET", key="h", value={"mine": NEEDLE, "other": "x"})
        whole = configured.raw("GET", "a")
        fields = configured.raw("HGETALL", "h")
        cases = [
            ("altered", "GET", "a", whole[:-1] + bytes([whole[-1] ^ 1])),
            ("altered", "GET", "a", configured.raw("GET", "b")),
            ("malformed", "GET", "a", whole[:20]),
            ("plaintext", "GET", "a", f'"{NEEDLE}"'.encode()),
            ("unknown_key", "GET", "a", Sealer("k2").seal(NEEDLE.encode(), PREFIX + b"a")),
            ("altered", "HGETALL", "h", fields[b"mine"]),
            ("plaintext", "HGETALL", "h", NEEDLE.encode()),
        ]
        for flaw, operation, key, stored in cases:
            before = metric(running, "decryption_failures", reason=flaw)
            if operation == "GET":
                configured.raw("SET", key, stored)
            else:
                configured.raw("HSET", key, b"other", stored)
            answer = act(running, "vault", operation=operation, key=key)
            assert (answer.status, answer.code) == (500, "invalid_response"), flaw
            assert (answer.json["data"], answer.json["retryable"]) == (None, False)
            assert NEEDLE.encode() not in answer.body
            assert metric(running, "decryption_failures", reason=flaw) == before + 1
        assert NEEDLE not in running.log
        # Neither is it taken for a failure of Redis, nor for good: what is written again is well.
        assert running.inspect()["circuitState"] == "closed"
        assert act(running, "vault", operation="SET", key="a", value=1).data == "OK"
        assert act(running, "vault", operation="GET", key="a").data == 1


# -- keys come and go ------------------------------------------------------------------------------


def test_keys_are_rotated_without_a_call_lost(configured: Configured) -> None:
    """Added, made active, removed: values of before are read until their key is gone."""
    once = {"operation": "SET", "key": "once", "value": "first", "idempotencyKey": "i"}
    configured.write("k1")
    with configured.serving("--workers", "2") as running, Calls(running) as calls:
        act(running, "vault", operation="HSET", key="h", value={"a": "old", "b": "old"})
        act(running, "vault", operation="SET", key="left", value="old")
        assert act(running, "vault", **once).data == "OK"

        configured.write("k1", "k2")  # step 1: known everywhere, used by nobody yet
        reload(running)
        act(running, "vault", operation="SET", key="k", value=1)
        assert configured.raw("GET", "k").startswith(Sealer("k1").header)
        told = running.inspect()["encryption"]["keys"]
        assert {name: key["active"] for name, key in told.items()} == {"k1": True, "k2": False}

        configured.write("k1", "k2", active="k2")  # step 2: it seals from now on
        reload(running)
        configured.raw("SET", "once", b"changed meanwhile")
        assert act(running, "vault", **once).data == "OK"
        assert configured.raw("GET", "once") == b"changed meanwhile", "it was not written again"
        assert act(running, "vault", **once | {"value": "other"}).code == "conflict"
        assert act(running, "vault", operation="HSET", key="h", value={"a": "new"}).data == 0
        assert act(running, "vault", operation="HGETALL", key="h").data == {"a": "new", "b": "old"}
        fields = configured.raw("HGETALL", "h")
        assert fields[b"a"].startswith(Sealer("k2").header)
        assert fields[b"b"].startswith(Sealer("k1").header)
        assert metric(running, "decrypted_values", key="k1") >= 1, "the old key is in use"
        assert act(running, "vault", operation="GET", key="left").data == "old"
        assert act(running, "vault", operation="SET", key="left", value="again").data == "OK"
        assert act(running, "vault", operation="HSET", key="h", value={"b": "new"}).data == 0

        configured.write("k2")  # step 3: what was written again is read, what was not is not
        reload(running)
        assert act(running, "vault", operation="GET", key="left").data == "again"
        assert act(running, "vault", operation="HGETALL", key="h").data == {"a": "new", "b": "new"}
        assert act(running, "vault", operation="GET", key="k").code == "invalid_response"
        assert metric(running, "decryption_failures", reason="unknown_key") == 1

        configured.write("k2", "k1")  # and is again when the key is back
        reload(running)
        assert act(running, "vault", operation="GET", key="k").data == 1
        assert calls.told() == {("new", "ok")}


def test_a_file_of_keys_that_is_wrong_changes_nothing(configured: Configured) -> None:
    """A slip at a rotation leaves the keys of before at work, and says so without the key."""
    configured.write("k1")
    with configured.serving() as running:
        act(running, "vault", operation="SET", key="k", value=1)
        configured.keys.write_text(line("k1") + "\nk2:needle-of-a-key")
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: "line 2: expected ID:BASE64" in running.log, what="the fault to be told")
        assert "needle" not in running.log
        assert act(running, "vault", operation="GET", key="k").data == 1


def test_a_namespace_in_clear_comes_under_encryption(configured: Configured) -> None:
    """Step by step: nobody meets what they can't read, and in the end nothing in clear is read."""
    once = {"operation": "SET", "key": "once", "value": "first", "idempotencyKey": "i"}
    configured.write()
    with configured.serving("--workers", "2") as running, Calls(running) as calls:
        for key in ("a", "b"):
            act(running, "vault", operation="SET", key=key, value="old")
        act(running, "vault", operation="HSET", key="h", value={"f": "old", "g": "old"})
        assert act(running, "vault", **once).data == "OK"

        configured.write("k1", plaintext="write")
        reload(running)
        configured.raw("SET", "once", b'"meanwhile"')
        assert act(running, "vault", **once).data == "OK"
        assert act(running, "vault", operation="SET", key="c", value=1, idempotencyKey="c").data
        assert configured.raw("GET", "once") == b'"meanwhile"', "it was not written again"
        assert configured.raw("GET", "c") == b"1"

        configured.write("k1", plaintext="read")
        reload(running)
        assert act(running, "vault", operation="GET", key="a").data == "old"
        assert act(running, "vault", operation="HSET", key="h", value={"f": "new"}).data == 0
        assert act(running, "vault", operation="HGETALL", key="h").data == {"f": "new", "g": "old"}
        assert act(running, "vault", operation="SET", key="a", value="new").data == "OK"
        assert act(running, "vault", operation="SET", key="c", value=1, idempotencyKey="c").data
        assert configured.raw("GET", "c") == b"1", "it was not written again"
        assert configured.raw("GET", "a").startswith(Sealer().header)
        assert metric(running, "decryption_failures", reason="plaintext") >= 2, (
            "what is left can be counted"
        )

        assert calls.told() == {("new", "ok")}
        configured.write("k1")
        reload(running)
        assert act(running, "vault", operation="GET", key="a").data == "new"
        assert act(running, "vault", operation="GET", key="b").code == "invalid_response"
        assert act(running, "vault", operation="HGETALL", key="h").code == "invalid_response"


class Calls:
    """Somebody who writes and reads one key all the while, and notes what is told."""

    def __init__(self, running: Service) -> None:
        self._running = running
        self._over = Event()
        self._told: set[tuple[Any, str]] = set()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Calls:
        self._calling = self._pool.submit(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._calling.result()
        self._pool.shutdown()

    def _call(self) -> None:
        while not self._over.is_set():
            written = act(self._running, "vault", operation="SET", key="all", value="new")
            assert written.data == "OK"
            answer = act(self._running, "desk", operation="GET", key="all").json
            self._told.add((answer["data"], answer.get("code", "ok")))

    def told(self) -> set[tuple[Any, str]]:
        """Return what reads were told until now."""
        return set(self._told)
