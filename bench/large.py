"""What large bodies and answers cost the others: ``python -m bench.large [--against DIR]``.

One client keeps four connections busy with one kind of large call, while the load generator asks
for small values on eight connections. The table tells how long those small calls take. With
``--against`` the flowcache of another checkout is measured in the same rounds.
"""

from __future__ import annotations

import argparse
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import redis

from bench.cluster import Cluster, running_cluster
from bench.load import Job, Load, Outcome
from bench.processes import Cores, free_ports, running_on
from bench.servers import KINDS, Server, Setting, before, start, wait_for
from bench.workload import PATH

_BYTES = 250 * 1024
_LARGE, _SMALL = 4, 8
_KEY = b"bench:large"


def _array(item: bytes, most: int) -> bytes:
    return b"[" + b",".join([item] * min(most, _BYTES // (len(item) + 1))) + b"]"


_VALUES = {
    "one text": b'"' + b"x" * _BYTES + b'"',
    "9,900 short texts": _array(b'"abcdefghijklmnopqrstuv"', 9_900),
    "85,000 empty arrays": _array(b"[]", _BYTES),
}


@dataclass(frozen=True, slots=True)
class _Case:
    """One kind of large call: its body, and what lies under its key."""

    title: str
    body: bytes | None
    stored: bytes | None = None


def _cases() -> Iterator[_Case]:
    yield _Case("nothing large", None)
    for name, value in _VALUES.items():
        body = b'{"operation":"SET","key":"%b:set","value":%b}' % (_KEY, value)
        yield _Case(f"SET of {name}", body)
    for name, value in _VALUES.items():
        body = b'{"operation":"GET","key":"%b"}' % _KEY
        yield _Case(f"GET of {name}", body, value)


def main() -> None:
    """Print the table of docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m bench.large", description=__doc__)
    parser.add_argument("--against", type=Path, metavar="DIR", help="a checkout with its own .venv")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    kinds = [before(options.against)] if options.against else []
    kinds.append(KINDS["flowcache"])
    cores, token = Cores.share_out(), secrets.token_urlsafe(24)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flowcache-bench-")))
        cluster = stack.enter_context(running_cluster(folder, cores.rest))
        servers = []
        for kind in kinds:
            kind.prepare(lambda _: None)
            (port,) = free_ports(1)
            setting = Setting(port, cluster.addresses, token, secrets.token_urlsafe(24))
            child = start(kind, setting, folder=folder, cores=cores.server)
            stack.callback(child.end)
            servers.append(Server(kind, child, port))
            wait_for(servers[-1], token)
        stack.enter_context(running_on(cores.rest))
        for operation in ("SET", "GET"):
            _measure(servers[0], token, 0.0, operation, once=operation == "SET")
        _compare(servers, cluster, token, options.rounds, options.seconds)


def _compare(
    servers: list[Server], cluster: Cluster, token: str, rounds: int, seconds: float
) -> None:
    titles = [server.kind.title for server in servers]
    print(
        "| one client, 4 connections | " + " | ".join(f"{t}: p99, p99.9 ms" for t in titles) + " |"
    )
    print("|---|" + "---|" * len(titles))
    for case in _cases():
        if case.stored is not None:
            _store(cluster, case.stored)
        found: dict[str, list[Outcome]] = {title: [] for title in titles}
        for _ in range(rounds):
            for server in servers:
                with _attacked(case, server.port, token):
                    outcome = _measure(server, token, seconds)
                found[server.kind.title].append(outcome)
                if outcome.errors:
                    print(f"{outcome.errors} errors: {outcome.samples}", file=sys.stderr)
        columns = [
            f"{median(o.p99_ms for o in each):.1f}, {median(o.p999_ms for o in each):.1f}"
            for each in found.values()
        ]
        print(f"| {case.title} | " + " | ".join(columns) + " |", flush=True)


def _measure(
    server: Server, token: str, seconds: float, operation: str = "GET", once: bool = False
) -> Outcome:
    job = Job(
        port=server.port,
        token=token,
        operation="SET" if operation == "SET" else "GET",
        connections=_SMALL,
        family=server.kind.family,
        seconds=seconds,
        once=once,
    )
    load = Load(job)
    try:
        return load.measure()
    finally:
        load.close()


def _store(cluster: Cluster, value: bytes) -> None:
    with redis.RedisCluster(host="127.0.0.1", port=cluster.ports[0]) as client:
        client.set(_KEY, value, ex=3600)


@contextmanager
def _attacked(case: _Case, port: int, token: str) -> Iterator[None]:
    if case.body is None:
        yield
        return
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    request = f"{head}Content-Length: {len(case.body)}\r\n\r\n".encode() + case.body
    context = get_context("spawn")
    ready = context.Event()
    attacker = context.Process(target=_attack, args=(port, request, ready), daemon=True)
    attacker.start()
    ready.wait(30)
    try:
        yield
    finally:
        attacker.kill()
        attacker.join()


def _attack(port: int, request: bytes, ready: threading.Event) -> None:
    threads = [threading.Thread(target=_repeat, args=(port, request)) for _ in range(_LARGE)]
    for thread in threads:
        thread.start()
    ready.set()


def _repeat(port: int, request: bytes) -> None:
    """Send the same request over and over, each time when the answer has come."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while True:
            connection.sendall(request)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += connection.recv(1 << 20)
            head, _, body = answer.partition(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            left = length - len(body)
            while left > 0:
                left -= len(connection.recv(1 << 20))


if __name__ == "__main__":
    main()
