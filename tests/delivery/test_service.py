"""The audit of a real service, delivered while everything around it dies."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from flowcache.audit.received import Received
from flowcache.audit.verifying import verify
from tests.delivery.receiver import (
    CLIENT,
    ENDPOINT_TOKEN,
    PATH,
    RESET,
    SILENCE,
    Fault,
    Receiver,
    receiver,
)
from tests.http.test_audit_journal import KEY, entries, journalled, load
from tests.servers import Cluster, RedisProcess, eventually
from tests.service import Service, service

STREAM = "flowcache:audit"


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


def to_endpoint(there: Receiver) -> dict[str, str]:
    return {
        "FLOWCACHE_DELIVERY_URL": f"{there.url}/api{PATH}",
        "FLOWCACHE_DELIVERY_TOKEN": ENDPOINT_TOKEN,
        "FLOWCACHE_DELIVERY_RETRY_SECONDS": "0.05",
        "FLOWCACHE_DELIVERY_RETRY_MAX_SECONDS": "0.2",
    }


def companion(path: Path) -> int | None:
    """Return the pid of the process that delivers from a journal: who holds its lock."""
    lock = Path(f"{path}-delivery-lock")
    if lock.exists():
        for held in Path("/proc/locks").read_text().splitlines():
            _, kind, _, _, pid, where, *_ = held.split()
            if kind == "FLOCK" and where.endswith(f":{lock.stat().st_ino}"):
                return int(pid)
    return None


def state(running: Service, name: str = "http") -> dict[str, Any]:
    """Return what the inspector says of a destination."""
    found: dict[str, Any] = {d["destination"]: d for d in running.inspect()["deliveries"]}
    told: dict[str, Any] = found[name]
    return told


def kept(path: Path) -> set[tuple[int, int]]:
    """Return writer and number of every record in the journal."""
    return {(entry.writer, entry.seq) for entry in entries(path)}


def firsts(lines: list[bytes]) -> list[tuple[int, int]]:
    """Return writer and number of the records that came, each where it came first."""
    named = (json.loads(line) for line in lines)
    return list(dict.fromkeys((int(each["writer"], 16), each["seq"]) for each in named))


def assert_whole(lines: list[bytes], path: Path) -> None:
    """Everything in the journal arrived, in order per writer, and verifies where it arrived."""
    came = firsts(lines)
    assert set(came) == kept(path)
    for writer in {writer for writer, _ in came}:
        numbers = [seq for each, seq in came if each == writer]
        assert numbers == list(range(len(numbers)))
    assert verify(Received(lines), KEY.encode()).is_well


def test_kill_9_of_all_that_delivers(
    fresh_standalone: RedisProcess, path: Path, there: Receiver
) -> None:
    """Workers and the delivery die in the middle of load, the receiver fails: all arrives."""
    there.intake_faults.extend([Fault(500), RESET, Fault(503), Fault(429, {"retry-after": "0"})])
    environment = journalled(path, fresh_standalone, audit_mode="strict") | to_endpoint(there)
    environment["FLOWCACHE_DELIVERY_BATCH"] = "50"
    with service(environment, "--workers", "2") as running:
        with load(running) as calls:
            for _ in range(3):
                before = len(there.batches)
                eventually(lambda before=before: len(there.batches) > before)  # type: ignore[misc]
                victim = eventually(lambda: companion(path), what="who delivers")
                os.kill(victim, signal.SIGKILL)
                eventually(lambda victim=victim: companion(path) != victim)  # type: ignore[misc]
            os.kill(running.inspect()["workers"][0]["pid"], signal.SIGKILL)
            before = len(there.batches)
            eventually(lambda: len(there.batches) > before + 5)
            calls.stop()
        eventually(lambda: state(running)["behind"] == 0, what="all to arrive")
        assert running.stop() == 0
    # The closing records are there, too: the delivery ends after the workers.
    assert_whole(there.lines, path)
    done = {json.loads(line)["request_id"] for line in there.lines}
    assert set(calls.reads) | set(calls.writes) <= done


def test_a_whole_host_that_died_goes_on(
    fresh_standalone: RedisProcess, path: Path, there: Receiver
) -> None:
    """kill -9 of everything: the next start delivers what was left, and what comes since."""
    environment = journalled(path, fresh_standalone) | to_endpoint(there)
    there.intake_faults.extend([SILENCE] * 9)  # nothing leaves while the first one lives
    with service(environment) as running:
        for number in range(20):
            running.call(operation="SET", key=f"k{number}", value=number)
        eventually(lambda: running.inspect()["journal"][0]["queued"] == 0)
        victims = [
            eventually(lambda: companion(path)),
            *(w["pid"] for w in running.inspect()["workers"]),
        ]
        running.process.kill()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        running.process.wait()
    assert there.batches == []
    there.intake_faults.clear()
    with service(environment) as running:
        running.call(operation="GET", key="k0")
        eventually(lambda: len(firsts(there.lines)) >= 23)
    assert_whole(there.lines, path)


def test_a_restart_goes_on_where_it_was(
    fresh_standalone: RedisProcess, path: Path, there: Receiver
) -> None:
    """An orderly restart sends nothing twice, and misses nothing."""
    environment = journalled(path, fresh_standalone) | to_endpoint(there)
    for _ in range(2):
        with service(environment) as running:
            running.call(operation="SET", key="k", value=1)
            eventually(lambda: state(running)["behind"] == 0 and there.lines)
            assert running.stop() == 0
    assert_whole(there.lines, path)
    assert len(there.lines) == len(firsts(there.lines)) == 6


@pytest.fixture(params=["standalone", "cluster"])
def stream(request: pytest.FixtureRequest) -> tuple[str, Callable[[], list[bytes]]]:
    """Return where Redis is, and what reads the stream of it, oldest first."""
    if request.param == "standalone":
        server: RedisProcess = request.getfixturevalue("fresh_standalone")
        nodes, cli = f"127.0.0.1:{server.port}", server.cli
    else:
        cluster: Cluster = request.getfixturevalue("breakable_cluster")
        nodes = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)
        cli = cluster.node_of_key(STREAM).cli
    return nodes, lambda: [
        fields["record"].encode() for _, fields in cli("XRANGE", STREAM, "-", "+")
    ]


def test_two_hosts_and_one_stream(
    stream: tuple[str, Callable[[], list[bytes]]], tmp_path: Path
) -> None:
    """The journals of two hosts in one stream: each chain whole and in order, no record twice."""
    nodes, read = stream
    paths = [tmp_path / "one.db", tmp_path / "two.db"]
    with ExitStack() as stack:
        hosts = [
            stack.enter_context(
                service(
                    {
                        "REDIS_NODES": nodes,
                        "FLOWCACHE_AUDIT_JOURNAL": str(path),
                        "FLOWCACHE_AUDIT_SIGNING_KEY": KEY,
                        "FLOWCACHE_DELIVERY_STREAM": STREAM,
                        "FLOWCACHE_DELIVERY_BATCH": "7",
                    }
                )
            )
            for path in paths
        ]
        for number in range(40):
            assert hosts[number % 2].call(operation="SET", key=f"k{number}", value=1).data == "OK"
        # A service that ends delivers its last records only if its delivery has begun and is well.
        eventually(lambda: len(read()) >= 40, what="the calls to arrive")
        assert [host.stop() for host in hosts] == [0, 0]
    lines = read()
    came = firsts(lines)
    assert len(lines) == len(came)
    assert set(came) == kept(paths[0]) | kept(paths[1])
    assert verify(Received(lines), KEY.encode()).is_well


def test_a_stream_is_bounded(fresh_standalone: RedisProcess, path: Path) -> None:
    """It is cut to about as many entries as was said, to whole nodes of Redis's stream."""
    environment = journalled(path, fresh_standalone) | {
        "FLOWCACHE_DELIVERY_STREAM": STREAM,
        "FLOWCACHE_DELIVERY_STREAM_MAX_ENTRIES": "10",
    }
    with service(environment) as running:
        for _ in range(300):
            running.call(operation="GET", key="k")
        eventually(lambda: int(fresh_standalone.cli("XLEN", STREAM)) >= 10)
        assert running.stop() == 0
    assert 10 <= int(fresh_standalone.cli("XLEN", STREAM)) < 200


def test_a_key_of_another_type_stops_the_stream_only(
    fresh_standalone: RedisProcess, path: Path, tmp_path: Path
) -> None:
    """What can't be right is told and left alone; the other destination has everything."""
    fresh_standalone.cli("SET", STREAM, "mine")
    out = tmp_path / "out.jsonl"
    environment = journalled(path, fresh_standalone) | {
        "FLOWCACHE_DELIVERY_STREAM": STREAM,
        "FLOWCACHE_DELIVERY_FILE": str(out),
    }
    with service(environment) as running:
        running.call(operation="GET", key="k")
        eventually(lambda: state(running, "stream")["stopped"])
        eventually(lambda: state(running, "file")["delivered"] >= 2)
        assert state(running, "stream")["behind"] >= 2
        text = running.request("GET", "/metrics").body.decode()
        assert 'flowcache_audit_delivery_stopped{destination="stream"} 1.0' in text
        assert 'flowcache_audit_delivery_stopped{destination="file"} 0.0' in text
        assert running.is_ready()
        assert running.stop() == 0
    assert_whole(out.read_bytes().splitlines(), path)


def test_a_dead_destination_holds_back_nobody(
    fresh_standalone: RedisProcess, path: Path, tmp_path: Path, there: Receiver
) -> None:
    """While one says nothing the other has everything, calls are answered, and it ends in time."""
    there.intake_faults.extend([SILENCE] * 99)
    out = tmp_path / "out.jsonl"
    environment = (
        journalled(path, fresh_standalone, audit_mode="strict")
        | to_endpoint(there)
        | {"FLOWCACHE_DELIVERY_FILE": str(out), "FLOWCACHE_DELIVERY_TIMEOUT_SECONDS": "60"}
    )
    with service(environment) as running:
        eventually(lambda: there.keys, what="a batch that is not answered")
        for _ in range(50):
            assert running.call(operation="GET", key="k").status == 200
        eventually(lambda: state(running, "file")["behind"] == 0)
        assert state(running, "file")["delivered"] >= 51
        assert state(running)["delivered"] == 0
        assert state(running)["behind"] >= 51
        assert running.stop() == 0
        assert "is killed" not in running.log
    assert_whole(out.read_bytes().splitlines(), path)


def test_a_reload_changes_where_to(
    fresh_standalone: RedisProcess, path: Path, tmp_path: Path, there: Receiver
) -> None:
    """SIGHUP: a destination that is new gets everything there is, one that is gone nothing more."""
    config, out = tmp_path / "flowcache.toml", tmp_path / "out.jsonl"
    config.write_text(f'[delivery]\nfile = "{out}"\n')
    environment = journalled(path, fresh_standalone)
    with service(environment, "--config", str(config)) as running:
        running.call(operation="GET", key="k")
        eventually(lambda: out.exists() and len(out.read_bytes().splitlines()) == 2)
        config.write_text(
            f'[delivery]\nurl = "{there.url}/api{PATH}"\ntoken = "{ENDPOINT_TOKEN}"\n'
        )
        running.process.send_signal(signal.SIGHUP)
        eventually(
            lambda: there.lines and state(running)["behind"] == 0, ignoring=(OSError, KeyError)
        )
        assert [d["destination"] for d in running.inspect()["deliveries"]] == ["http"]
        assert running.stop() == 0
    assert_whole(there.lines, path)
    assert len(out.read_bytes().splitlines()) < len(there.lines)


def test_a_second_service_of_the_journal_stands_by(
    fresh_standalone: RedisProcess, path: Path, there: Receiver
) -> None:
    """Two services share a journal: one delivers, and the other takes over when that has ended."""
    environment = journalled(path, fresh_standalone) | to_endpoint(there)
    with service(environment) as first, service(environment) as second:
        for running in (first, second):
            running.call(operation="GET", key="k")
        assert first.stop() == 0
        second.call(operation="GET", key="k")
        eventually(lambda: len(firsts(there.lines)) >= 6)
        assert second.stop() == 0
    assert_whole(there.lines, path)
    assert len(there.lines) == len(firsts(there.lines))


def test_standard_output_is_the_audits_alone(
    fresh_standalone: RedisProcess, path: Path, tmp_path: Path
) -> None:
    """What the service says of itself goes elsewhere: every line there is a record."""
    out = tmp_path / "out.jsonl"
    with service(journalled(path, fresh_standalone, delivery_file="-"), output=out) as running:
        running.call(operation="SET", key="k", value=1)
        eventually(lambda: "audit_delivery_started" in running.log)
        eventually(lambda: len(out.read_bytes().splitlines()) >= 2)
        assert running.stop() == 0
        assert f"serves on {running.url}" in running.log
    received = Received(out.read_bytes().splitlines())
    report = verify(received, KEY.encode())
    assert report.is_well
    assert report.records == len(kept(path)) >= 2


def test_no_secret_is_anywhere(
    fresh_standalone: RedisProcess, path: Path, tmp_path: Path, there: Receiver
) -> None:
    """Secrets of CXone are in no log, page, metric or file, whatever goes wrong on the way."""
    there.token_faults.extend([Fault(500), RESET, Fault(429, {"retry-after": "0"})])
    there.intake_faults.extend([Fault(401), Fault(401), Fault(500), RESET])
    environment = journalled(path, fresh_standalone) | {
        "CXONE_API_BASE": f"{there.url}/api",
        "CXONE_CLIENT_ID": CLIENT[0],
        "CXONE_CLIENT_SECRET": CLIENT[1],
        "FLOWCACHE_CXONE_AUDIT_PATH": PATH,
        "FLOWCACHE_DELIVERY_RETRY_SECONDS": "0.01",
        "FLOWCACHE_LOG_LEVEL": "debug",
    }
    with service(environment) as running:
        running.call(operation="SET", key="k", value="a-value-of-the-tests")
        eventually(lambda: len(there.lines) >= 2)
        there.expire()
        there.intake_faults.append(Fault(400))
        running.call(operation="GET", key="k")
        eventually(lambda: state(running, "cxone")["stopped"])
        told = [json.dumps(running.inspect()).encode(), running.request("GET", "/metrics").body]
        assert running.stop() == 0
        told.append(running.log.encode())
    told += [file.read_bytes() for file in tmp_path.iterdir()]
    assert any(b"the endpoint answered 400" in each for each in told)
    for secret in (CLIENT[1], "issued-token", "what was sent", "a-value-of-the-tests"):
        for each in told:
            assert secret.encode() not in each
    assert b"a-value-of-the-tests" not in b"".join(there.lines)
