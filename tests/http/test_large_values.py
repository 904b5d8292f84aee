"""Callers who read what is far too large hurt nobody else, and take no memory worth a word."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from tests.servers import RedisProcess
from tests.service import Answer, Service, service

MOST_MIB = 256
LARGE = 15 << 20
HUGE = 100 << 20


@contextmanager
def serving(server: RedisProcess) -> Iterator[Service]:
    environment = {"REDIS_NODES": f"127.0.0.1:{server.port}", "FLOWCACHE_DATA_DEADLINE_MS": "10000"}
    with service(environment) as running:
        yield running


def peak(pid: int) -> int:
    """Return the most memory that a process had resident, in MiB (`VmHWM`, proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 1024


def test_who_reads_what_is_too_large_is_refused_and_harms_nobody(
    fresh_standalone: RedisProcess,
) -> None:
    """Hashes of 15 MiB and strings of 100 MiB, ten of each at once, again and again.

    Each is `too_large`; every call of others is answered, no circuit counts anything, the shared
    connection to Redis stays, and a worker stays below 256 MiB.
    """
    with fresh_standalone.client() as client:
        client.hset("hash", mapping={f"field-{number}": "x" * 1024 for number in range(15 * 1024)})
        client.execute_command("SETRANGE", "string", HUGE - 1, "x")
        client.set("limit", b'"%b"' % (b"x" * (500 * 1024)))
    over = Event()

    def attack(operation: str, key: str) -> list[Answer]:
        return [running.call(operation=operation, key=key) for _ in range(10)]

    def neighbour(name: str) -> int:
        calls = 0
        while not over.is_set():
            assert running.call(operation="SET", key=name, value=calls).data == "OK"
            assert running.call(operation="GET", key=name).data == calls
            assert running.call(operation="GET", key=f"{name}:absent").data is None
            calls += 3
        return calls

    with serving(fresh_standalone) as running, ThreadPoolExecutor(34) as pool:
        neighbours = [pool.submit(neighbour, f"n{number}") for number in range(4)]
        attacks = [("HGETALL", "hash"), ("GET", "string"), ("GET", "limit")]
        attackers = [(key, pool.submit(attack, o, key)) for o, key in attacks for _ in range(10)]
        answers = {key: attacker.result() for key, attacker in attackers}
        over.set()
        assert all(each.result() > 0 for each in neighbours)
        for key, given in answers.items():
            codes = {answer.code if answer.status != 200 else "ok" for answer in given}
            assert codes == {"ok" if key == "limit" else "too_large"}, key
        shown = running.inspect()
        peaks = [peak(worker["pid"]) for worker in shown["workers"]]
    states = [(each["state"], each["consecutiveFailures"]) for each in shown["circuits"]]
    assert set(states) == {("closed", 0)}
    (shard,) = shown["redis"][0]["shards"]
    assert shard["primary"]["connects"] == 1
    assert max(peaks) < MOST_MIB
