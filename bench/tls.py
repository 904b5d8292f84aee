"""What TLS costs the service: ``python -m bench.tls``, CPU time a GET, with it and without.

Both in one run, by turns: on connections that are kept, and on a new connection for each call, with
a full handshake and with a session that is resumed. The certificate is of ECDSA, P-256. Needs
openssl beside what ``bench.run`` needs.
"""

from __future__ import annotations

import select
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from bench.cluster import running_cluster
from bench.processes import Child, Cores, cpu_seconds, free_ports, running_on, wait_until
from bench.servers import clean_environment
from bench.workload import calls_of

_CONNECTIONS = 64
_SECONDS, _ROUNDS = 3.0, 3
_TOKEN = "token-of-the-benchmark"


def main() -> None:
    """Print the table of docs/benchmarks.md."""
    cores = Cores.share_out()
    with tempfile.TemporaryDirectory(prefix="flowcache-bench-") as name:
        folder = Path(name)
        _make_certificate(folder)
        with running_cluster(folder, cores.rest) as redis:
            plain = _serve(folder, "plain", redis.addresses, cores, {})
            files = {"CERT": str(folder / "crt"), "KEY": str(folder / "key")}
            tls = {f"FLOWCACHE_HTTP_TLS_{kind}_FILE": path for kind, path in files.items()}
            secure = _serve(folder, "tls", redis.addresses, cores, tls)
            try:
                with running_on(cores.rest):
                    _compare(plain, secure, folder)
            finally:
                plain[0].end()
                secure[0].end()


def _make_certificate(folder: Path) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "crt")]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)


def _serve(
    folder: Path, name: str, nodes: str, cores: Cores, more: dict[str, str]
) -> tuple[Child, int]:
    (port,) = free_ports(1)
    (folder / name).mkdir()
    environment = clean_environment() | {"REDIS_NODES": nodes, "SERVICE_BEARER_TOKEN": _TOKEN}
    command = [sys.executable, "-m", "flowcache", "serve", "--port", str(port)]
    child = Child(
        name, command, cores=cores.server, folder=folder / name, environment=environment | more
    )
    for _ in wait_until(f"{name} listens", seconds=30, children=[child]):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
    time.sleep(1)  # it finds its Redis
    return child, port


def _compare(plain: tuple[Child, int], secure: tuple[Child, int], folder: Path) -> None:
    context = ssl.create_default_context(cafile=folder / "crt")
    cases: dict[str, tuple[tuple[Child, int], Callable[[int], int]]] = {
        "kept, plain": (plain, lambda port: _kept(port, None)),
        "kept, TLS": (secure, lambda port: _kept(port, context)),
        "new, plain": (plain, lambda port: _new(port, None, resume=False)),
        "new, TLS, full handshake": (secure, lambda port: _new(port, context, resume=False)),
        "new, TLS, resumed": (secure, lambda port: _new(port, context, resume=True)),
    }
    spent: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(_ROUNDS):
        for name, ((child, port), call) in cases.items():
            before = cpu_seconds(child.pid)
            calls = call(port)
            spent[name].append((cpu_seconds(child.pid) - before) / calls)
    print("| connections | CPU a GET | calls a second and core |\n|---|---|---|")
    for name, each in spent.items():
        print(f"| {name} | {median(each) * 1e6:.1f} us | {1 / median(each):,.0f} |")


def _connected(
    port: int, context: ssl.SSLContext | None, session: ssl.SSLSession | None = None
) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is None:
        return plain
    return context.wrap_socket(plain, server_hostname="localhost", session=session)


def _kept(port: int, context: ssl.SSLContext | None) -> int:
    """Keep all connections busy for a while; return how many calls were answered."""
    call = next(iter(calls_of("GET", port=port, token=_TOKEN, family="customer"))).request
    connections = {
        each.fileno(): each for each in (_connected(port, context) for _ in range(_CONNECTIONS))
    }
    poll = select.epoll()
    for number, each in connections.items():
        poll.register(number, select.EPOLLIN)
        each.sendall(call)
    count, until = 0, time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        for number, _ in poll.poll():
            _require_answer(connections[number].recv(65536))
            count += 1
            connections[number].sendall(call)
    for each in connections.values():
        each.close()
    return count


def _new(port: int, context: ssl.SSLContext | None, *, resume: bool) -> int:
    """Call on new connections for a while; return how many calls were answered."""
    call = next(iter(calls_of("GET", port=port, token=_TOKEN, family="customer"))).request
    session: ssl.SSLSession | None = None
    count, until = 0, time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        with _connected(port, context, session) as each:
            each.sendall(call)
            _require_answer(each.recv(65536))
            if resume and isinstance(each, ssl.SSLSocket):
                assert session is None or each.session_reused
                session = each.session
        count += 1
    return count


def _require_answer(data: bytes) -> None:
    assert data.startswith(b"HTTP/1.1 200 "), data[:200]


if __name__ == "__main__":
    main()
