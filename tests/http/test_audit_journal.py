"""The journal of a real service, watched from outside: what was answered is in it."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from flowcache.audit.chain import UNAUTHENTICATED, Entry
from flowcache.audit.reading import Query, Reader
from flowcache.audit.verifying import Report, verify
from tests.servers import RedisProcess, eventually
from tests.service import ROUTE, TOKEN, Service, service

KEY = "the-signing-key-of-the-service-tests"


def journalled(path: Path, redis: RedisProcess, **more: str) -> dict[str, str]:
    """Return the environment of a service with a journal."""
    return {
        "REDIS_NODES": f"127.0.0.1:{redis.port}",
        "FLOWCACHE_AUDIT_JOURNAL": str(path),
        "FLOWCACHE_AUDIT_SIGNING_KEY": KEY,
    } | {f"FLOWCACHE_{name.upper()}": value for name, value in more.items()}


def entries(path: Path) -> list[Entry]:
    with Reader(path) as reader:
        return list(reader.records(Query()))


def verified(path: Path) -> Report:
    with Reader(path) as reader:
        report = verify(reader, KEY.encode())
    assert report.is_well, report
    return report


def pids(running: Service) -> set[int]:
    return {worker["pid"] for worker in running.inspect()["workers"]}


class Load:
    """Callers that go on until they are stopped, and what they were told."""

    def __init__(self, running: Service, callers: int = 8) -> None:
        self._port = running.port
        self._over = Event()
        self._pool = ThreadPoolExecutor(callers)
        self.writes: list[str] = []
        self.reads: list[str] = []
        self._calls = [self._pool.submit(self._call, number) for number in range(callers)]

    def _call(self, caller: int) -> None:
        number = 0
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        while not self._over.is_set():
            number += 1
            writes = number % 2 == 0
            body = {"operation": "INCR" if writes else "GET", "key": f"{caller}"}
            try:
                connection.request(
                    "POST", ROUTE, json.dumps(body), {"authorization": f"Bearer {TOKEN}"}
                )
                answer = json.loads(connection.getresponse().read())
            except (OSError, http.client.HTTPException, ValueError):
                connection.close()
                continue
            if answer["success"]:
                told = self.writes if writes else self.reads
                told.append(answer["metadata"]["requestId"])
        connection.close()

    def __len__(self) -> int:
        return len(self.writes) + len(self.reads)

    def stop(self) -> None:
        self._over.set()
        for call in self._calls:
            call.result()
        self._pool.shutdown()


@contextmanager
def load(running: Service) -> Iterator[Load]:
    made = Load(running)
    try:
        yield made
    finally:
        made.stop()


def wait_until_both_serve(running: Service) -> None:
    """Wait until each of two workers has answered a call: one that still starts has no good end."""

    def serve() -> bool:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: running.call(operation="GET", key="k"), range(8)))
        counts = [worker["auditRecords"] for worker in running.inspect()["workers"]]
        return len(counts) == 2 and all(counts)

    eventually(serve, what="both workers to serve", ignoring=_GONE)


def test_kill_9_loses_no_record_of_an_acknowledged_call(
    fresh_standalone: RedisProcess, tmp_path: Path
) -> None:
    """Strict: workers die in the middle of load, then all at once; the journal has every answer."""
    path = tmp_path / "audit.db"
    environment = journalled(path, fresh_standalone, audit_mode="strict")
    with (
        service(environment, "--workers", "2") as running,
        load(running) as calls,
    ):
        for _ in range(2):
            before = eventually(lambda: _two(running), what="two workers", ignoring=_GONE)
            reached = len(calls) + 500
            eventually(lambda reached=reached: len(calls) > reached, what="load")  # type: ignore[misc]
            os.kill(min(before), signal.SIGKILL)
        last = eventually(lambda: _two(running), what="two workers", ignoring=_GONE)
        reached = len(calls) + 500
        eventually(lambda: len(calls) > reached, what="load")
        for pid in last:  # before they hear that the supervisor is gone, and end in good order
            os.kill(pid, signal.SIGKILL)
        running.process.kill()
        running.process.wait()
        calls.stop()
    kept = entries(path)
    done = {entry.request_id for entry in kept if entry.outcome == "ok"}
    intended = {entry.request_id for entry in kept if entry.kind == "intent"}
    assert set(calls.reads) | set(calls.writes) <= done
    assert set(calls.writes) <= intended
    report = verified(path)
    assert report.chains == 4
    assert len(report.unfinished) == 4
    # No write happened that nothing tells of.
    added = sum(int(fresh_standalone.client().get(str(caller)) or 0) for caller in range(8))
    assert len(calls.writes) <= added <= len(intended)


def test_what_is_said_to_be_written_survives_kill_9(
    fresh_standalone: RedisProcess, tmp_path: Path
) -> None:
    """Relaxed: what the inspector counts as written is there when all processes are killed."""
    path = tmp_path / "audit.db"
    with service(journalled(path, fresh_standalone)) as running, load(running) as calls:
        eventually(lambda: len(calls) > 500, what="load")
        calls.stop()

        def all_written() -> bool:
            told = running.inspect()
            return bool(told["journal"][0]["written"] == told["workers"][0]["auditRecords"])

        eventually(all_written, what="the records to be written")
        acknowledged = set(calls.reads) | set(calls.writes)
        (pid,) = pids(running)
        os.kill(pid, signal.SIGKILL)
        running.process.kill()
        running.process.wait()
    assert acknowledged <= {entry.request_id for entry in entries(path)}
    report = verified(path)
    assert len(report.unfinished) == report.chains


_GONE = (OSError, http.client.HTTPException, AssertionError)


def _two(running: Service) -> set[int] | None:
    found = pids(running)
    return found if len(found) == 2 else None


@pytest.mark.parametrize("mode", ["relaxed", "strict"])
def test_every_attempt_is_in_the_journal(
    standalone_server: RedisProcess, tmp_path: Path, mode: str
) -> None:
    """What was done, what was refused and who is a stranger; no value is in it, at no place."""
    path = tmp_path / "audit.db"
    with service(journalled(path, standalone_server, audit_mode=mode), "--workers", "2") as running:
        wait_until_both_serve(running)
        written = running.call(
            operation="SET", key="caller:1", value="s3cr3t-value", flowId="f", interactionId=42
        ).json["metadata"]["requestId"]
        read = running.call(operation="GET", key="caller:1").json["metadata"]["requestId"]
        missed = running.call(operation="GET", key="caller:nobody").json["metadata"]["requestId"]
        bad = running.call(operation="FLY", key="caller:2").json["metadata"]["requestId"]
        stranger = {"authorization": "Bearer nobody's"}
        unknown = running.post(b"{}", stranger).json["metadata"]["requestId"]
        peeped = running.request("GET", "/inspector", None, stranger).json["metadata"]["requestId"]
        flow = {"authorization": f"Bearer {TOKEN}"}
        nosy = running.request("GET", "/inspector", None, flow).json["metadata"]["requestId"]
        assert running.stop() == 0
        log = running.log
    found = {e.request_id: e for e in entries(path) if e.kind in ("call", "outcome")}
    shard = f"127.0.0.1:{standalone_server.port}"

    def told(request_id: str) -> tuple[object, ...]:
        e = found[request_id]
        return e.client, e.flow, e.interaction, e.operation, e.key, e.outcome, e.hit, e.shard

    assert told(written) == ("flow", "f", "42", "SET", "caller:1", "ok", None, shard)
    assert told(read) == ("flow", None, None, "GET", "caller:1", "ok", 1, shard)
    assert told(missed) == ("flow", None, None, "GET", "caller:nobody", "ok", 0, shard)
    assert told(bad) == ("flow", None, None, None, "caller:2", "invalid_request", None, None)
    assert told(unknown) == (None, None, None, None, None, "unauthorized", None, None)
    assert told(peeped) == (None, None, None, None, None, "unauthorized", None, None)
    assert told(nosy) == ("flow", None, None, None, None, "forbidden", None, None)
    assert {e.address for e in found.values()} == {"127.0.0.1"}
    report = verified(path)
    assert report.unfinished == [], log
    assert len({writer for writer in report.origins if not writer & UNAUTHENTICATED}) == 2
    for file in tmp_path.iterdir():
        assert b"s3cr3t-value" not in file.read_bytes()
    assert "s3cr3t-value" not in log
    assert KEY not in log


def test_a_reload_ends_chains_in_good_order(
    standalone_server: RedisProcess, tmp_path: Path
) -> None:
    """SIGHUP under load: the workers that leave close their chains, and no record is missing."""
    path = tmp_path / "audit.db"
    environment = journalled(path, standalone_server, audit_mode="strict")
    with service(environment, "--workers", "2") as running, load(running) as calls:
        before = eventually(lambda: _two(running), what="two workers", ignoring=_GONE)
        running.process.send_signal(signal.SIGHUP)
        eventually(
            lambda: (now := _two(running)) and not now & before, what="new ones", ignoring=_GONE
        )
        wait_until_both_serve(running)
        calls.stop()
        assert running.stop() == 0
    done = {entry.request_id for entry in entries(path) if entry.outcome == "ok"}
    assert set(calls.reads) | set(calls.writes) <= done
    report = verified(path)
    assert (report.chains, report.unfinished) == (4, [])


def test_the_inspector_reads_the_journal(standalone_server: RedisProcess, tmp_path: Path) -> None:
    """All workers' records, those of workers that are gone too, with the filters as they were."""
    path = tmp_path / "audit.db"
    for outcome in range(2):
        with service(
            journalled(path, standalone_server, audit_mode="strict", audit_keys="masked")
        ) as running:
            running.call(operation="GET", key=f"caller:{outcome}", flowId=f"f-{outcome}")
            running.call(operation="FLY", key="x")
            if outcome:
                seen = running.inspect()
                one = running.inspect("?flow=f-0")["auditLogs"]
                failed = running.inspect("?outcome=failed&limit=1")["auditLogs"]
                samples = running.request("GET", "/metrics").body.decode()
    assert [entry["flowId"] for entry in seen["auditLogs"]] == ["f-0", None, "f-1", None]
    assert [entry["key"] for entry in seen["auditLogs"]] == ["caller:***", "***"] * 2
    assert [entry["flowId"] for entry in one] == ["f-0"]
    assert [entry["outcome"] for entry in failed] == ["invalid_request"]
    (status,) = seen["journal"]
    assert status["fault"] is None
    assert (status["written"], status["lost"], status["mode"]) == (2, 0, "strict")
    assert "flowcache_audit_written_total 2.0" in samples
    assert "flowcache_audit_lost_total 0.0" in samples
    assert "flowcache_audit_broken 0.0" in samples


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """Mount a file system that is soon full."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path) -> None:
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            pass


def broken(running: Service) -> bool:
    return any(each["fault"] for each in running.inspect()["journal"])


def test_a_full_disk_refuses_calls_in_strict_mode(
    fresh_standalone: RedisProcess, tmp_path: Path
) -> None:
    """Nothing is answered that is not recorded, writes are refused before they are done, and all is
    well again as soon as there is room."""
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "audit.db"
        environment = journalled(path, fresh_standalone, audit_mode="strict")
        with service(environment) as running:
            acknowledged = 0
            fill(disk)
            for _ in range(2000):
                answer = running.call(operation="INCR", key="n")
                if answer.status != 200:
                    break
                acknowledged += 1
            assert (answer.status, answer.code) == (503, "audit_unavailable")
            assert answer.headers["retry-after"] == "1"
            assert "audit" in answer.json["error"]
            assert running.call(operation="GET", key="n").code == "audit_unavailable"
            eventually(lambda: not running.is_ready(), what="/readyz to notice")
            assert running.request("GET", "/healthz").status == 200
            assert broken(running)
            assert "full" in running.log
            assert acknowledged <= int(fresh_standalone.client().get("n") or 0) <= acknowledged + 1
            done = int(fresh_standalone.client().get("n") or 0)
            for _ in range(3):
                assert running.call(operation="INCR", key="n").json["retryable"] is True
            assert int(fresh_standalone.client().get("n") or 0) == done
            subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
            eventually(lambda: not broken(running), what="the journal to be written again")
            assert running.call(operation="INCR", key="n").data == done + 1
            running.wait_ready()
        verified(path)
        outcomes = {e.request_id: e.outcome for e in entries(path) if e.kind == "outcome"}
        assert list(outcomes.values()).count("ok") >= acknowledged + 1


def test_a_file_that_may_not_grow_refuses_calls_in_strict_mode(
    fresh_standalone: RedisProcess, tmp_path: Path
) -> None:
    """A quota does what a full disk does: no call is done unrecorded, and it passes with it."""
    path = tmp_path / "audit.db"
    environment = journalled(path, fresh_standalone, audit_mode="strict")
    with service(environment) as running:
        assert running.call(operation="INCR", key="n").data == 1
        (pid,) = pids(running)
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        refused = running.call(operation="INCR", key="n")
        assert (refused.status, refused.code) == (503, "audit_unavailable")
        assert broken(running)
        assert fresh_standalone.client().get("n") == b"1"
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        eventually(lambda: not broken(running), what="the journal to be written again")
        assert running.call(operation="INCR", key="n").data == 2
    verified(path)


def test_a_full_disk_stops_nothing_in_relaxed_mode(
    standalone_server: RedisProcess, tmp_path: Path
) -> None:
    """Calls are answered, the alarm is raised, and what waited is written when there is room."""
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "audit.db"
        with service(journalled(path, standalone_server)) as running:
            fill(disk)
            calls = 0
            while not broken(running):
                for _ in range(50):
                    assert running.call(operation="GET", key="k").status == 200
                    calls += 1
            running.wait_ready()
            assert running.call(operation="GET", key="k").status == 200
            assert "flowcache_audit_broken 1.0" in running.request("GET", "/metrics").body.decode()
            subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
            eventually(lambda: not broken(running), what="the journal to be written again")
        kept = [e for e in entries(path) if e.operation == "GET"]
        assert len(kept) == calls + 1
        verified(path)


def test_a_corrupted_journal_at_start(standalone_server: RedisProcess, tmp_path: Path) -> None:
    """Relaxed serves and raises the alarm; the broken file is left as it is."""
    path = tmp_path / "audit.db"
    path.write_bytes(spoilt := b"not what it was" * 1000)
    with service(journalled(path, standalone_server)) as running:
        assert running.call(operation="GET", key="k").status == 200
        assert broken(running)
        assert running.inspect()["auditLogs"] == []
        assert "audit_journal_unwritable" in running.log
    assert path.read_bytes() == spoilt


def test_an_order_is_on_disk_before_it_is_carried_out(
    standalone_server: RedisProcess, tmp_path: Path
) -> None:
    """Strict: an intent, and what came of it; which circuits, however key names are kept."""
    path = tmp_path / "audit.db"
    environment = journalled(path, standalone_server, audit_mode="strict", audit_keys="masked")
    with service(environment) as running:
        assert switched(running, mode="observe", access="read") == 200
        told = [entry for entry in entries(path) if entry.operation == "SWITCH OBSERVE"]
    assert [(e.kind, e.outcome, e.client, e.address) for e in told] == [
        ("intent", "intended", "control", "127.0.0.1"),
        ("outcome", "ok", "control", "127.0.0.1"),
    ]
    assert json.loads(str(told[0].detail)) == {"mode": "observe", "shard": None, "access": "read"}
    verified(path)


def test_an_order_that_can_not_be_recorded_is_not_carried_out(
    standalone_server: RedisProcess, tmp_path: Path
) -> None:
    """Strict: nobody switches circuits unseen by breaking the journal first."""
    path = tmp_path / "audit.db"
    with service(journalled(path, standalone_server, audit_mode="strict")) as running:
        path.rename(aside := tmp_path / "aside")
        running.call(operation="GET", key="k")
        eventually(lambda: broken(running), what="the journal to be missed")
        assert switched(running, mode="disabled") == 503
        headers = {"authorization": f"Bearer {running.inspector_token}"}
        assert running.request("GET", "/inspector/circuits", None, headers).json["overrides"] == []
        aside.rename(path)


def test_who_knocks_too_often_fills_no_journal(
    standalone_server: RedisProcess, tmp_path: Path
) -> None:
    """Past the limit of an address its refusals are counted; none of a client's records is lost."""
    path = tmp_path / "audit.db"
    environment = journalled(path, standalone_server, auth_failures_per_minute="5")
    wrong = {"authorization": "Bearer nobody's"}
    with service(environment) as running:
        assert running.call(operation="GET", key="k").status == 200
        statuses = [running.request("POST", ROUTE, b"{}", wrong).status for _ in range(200)]
        assert statuses.count(429) > 150
    verified(path)
    strangers = [e for e in entries(path) if e.client is None and e.outcome is not None]
    assert len(strangers) < 50
    (summary,) = [e for e in strangers if e.kind == "refused"]
    counted = json.loads(str(summary.detail))["more"]
    assert len(strangers) - 1 + counted == 200


def switched(running: Service, **order: Any) -> int:
    headers = {"authorization": f"Bearer {running.control_token}"}
    return running.request(
        "POST", "/inspector/circuits", json.dumps(order).encode(), headers
    ).status


def test_faults_of_the_configuration(tmp_path: Path) -> None:
    """A strict mode without a journal does not start."""
    environment: Mapping[str, str] = {"FLOWCACHE_AUDIT_MODE": "strict"}
    with (
        pytest.raises(RuntimeError, match=r"needs audit\.journal"),
        service(environment, "--embedded"),
    ):
        pass


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_strict_workers_see_that_the_journal_is_gone_before_a_call_fails(
    fresh_standalone: RedisProcess, tmp_path: Path, suffix: str
) -> None:
    """/readyz looks itself, in each worker, and so do the inspector and the metrics; put back, the
    service is ready again."""
    path = tmp_path / "audit.db"
    environment = journalled(path, fresh_standalone, audit_mode="strict", http_workers="2")
    there, aside = Path(f"{path}{suffix}"), tmp_path / "aside"
    with service(environment) as running:
        assert running.call(operation="SET", key="k", value=1).status == 200
        os.rename(there, aside)

        def all_say_so() -> bool:  # each by a connection of its own: both workers are met
            told = [running.request("GET", "/readyz") for _ in range(20)]
            return all(each.json.get("error") == "The audit can't be written." for each in told)

        eventually(all_say_so, what="both workers to notice")
        assert "moved or removed while in use" in str(running.inspect()["journal"])
        assert b"\nflowcache_audit_broken 2.0\n" in running.request("GET", "/metrics").body
        assert running.call(operation="SET", key="k", value=2).status == 503
        os.rename(aside, there)
        eventually(running.is_ready, what="the service to be ready again")
        eventually(
            lambda: running.call(operation="SET", key="k", value=3).status == 200,
            what="calls to be recorded again",
        )
    verified(path)
