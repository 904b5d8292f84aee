"""The load generator: a process of its own that keeps N connections busy with one request each.

``bench.run`` starts it once and talks to it in lines of JSON:

    run  -> Job
    load -> READY       connected, warmed up, nothing in flight
    run  -> any line    (meanwhile it has read the server's CPU time)
    load -> Outcome     nothing in flight again

So every request that is counted falls, from its first to its last byte, between two readings.

Blocking sockets below one epoll, no event loop: it costs no more than uvloop's transports would
(about 12 microseconds a request), and a request goes out when it is sent and not at the end of a
turn of the loop, so that latencies hold less of the generator itself. What it can't do: an answer
without Content-Length is counted as an error.

It is a closed loop: the next request waits for the answer to the one before. Under saturation
latencies tell about queueing, and a stall delays requests that a real caller would have sent.
"""

from __future__ import annotations

import gc
import select
import socket
import sys
import time
from collections.abc import Iterator
from itertools import cycle

import msgspec

from bench.workload import Call, Operation, calls_of

READY = b"ready\n"
STALLED_AFTER_SECONDS = 10.0
# A broken server shows soon enough; no need to hammer it for the rest of the cell.
ERRORS_ENOUGH = 100
SAMPLES_KEPT = 3


class Job(msgspec.Struct, frozen=True):
    """One cell to measure; `once` means one call a key, whatever the time."""

    port: int
    token: str
    operation: Operation
    connections: int
    family: str
    """Which keys: servers that store another form of a value don't share them."""
    warmup_seconds: float = 0.0
    seconds: float = 0.0
    once: bool = False
    answers_vary: bool = True
    """Whether an answer must hold the witness of its call; a constant answer can't."""


class Outcome(msgspec.Struct, frozen=True):
    """What came of one cell. Its errors are the warm-up's too."""

    requests: int
    seconds: float
    errors: int
    samples: list[str]
    answer_bytes: int
    busy: float
    p50_ms: float
    p99_ms: float
    p999_ms: float


class Connection:
    """One keep-alive connection with at most one request in flight."""

    __slots__ = ("_port", "_socket", "call", "received", "sent_at")

    def __init__(self, port: int) -> None:
        """Connect to `port` of the loopback."""
        self._port = port
        self.received = b""
        self.sent_at = 0.0
        self.call = Call(b"", b"")
        self._socket = self._connected()

    def _connected(self) -> socket.socket:
        fresh = socket.create_connection(("127.0.0.1", self._port), STALLED_AFTER_SECONDS)
        fresh.settimeout(None)
        fresh.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return fresh

    def fileno(self) -> int:
        """Return the descriptor, for epoll."""
        return self._socket.fileno()

    def send(self, call: Call) -> None:
        """Send one request and note the time."""
        self.call = call
        self.received = b""
        self.sent_at = time.perf_counter()
        self._socket.sendall(call.request)

    def receive(self) -> bytes:
        """Read what is there; b"" means that the server has closed."""
        return self._socket.recv(65536)

    def reconnect(self) -> None:
        """Replace the connection after a failure."""
        self._socket.close()
        self._socket = self._connected()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class Load:
    """The connections of one job, and what has been counted on them."""

    def __init__(self, job: Job) -> None:
        """Prepare the requests and open the connections."""
        self._job = job
        self._calls = calls_of(job.operation, port=job.port, token=job.token, family=job.family)
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, Connection] = {}
        for _ in range(job.connections):
            self._watch(Connection(job.port))
        self.latencies: list[float] = []
        self.errors = 0
        self.samples: list[str] = []
        self.answer_bytes = 0

    def _watch(self, connection: Connection) -> None:
        self._by_descriptor[connection.fileno()] = connection
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Close every connection."""
        for connection in self._by_descriptor.values():
            connection.close()
        self._epoll.close()

    def warm_up(self) -> None:
        """Load the server for a while, and keep nothing of it but errors."""
        if self._job.warmup_seconds:
            self._run(cycle(self._calls), self._job.warmup_seconds)
        self.latencies.clear()

    def measure(self) -> Outcome:
        """Load the server, wait for the last answer, and sum up."""
        calls = iter(self._calls) if self._job.once else cycle(self._calls)
        cpu, wall = time.process_time(), time.perf_counter()
        self._run(calls, float("inf") if self._job.once else self._job.seconds)
        wall = time.perf_counter() - wall
        cpu = time.process_time() - cpu
        self.latencies.sort()
        return Outcome(
            requests=len(self.latencies),
            seconds=wall,
            errors=self.errors,
            samples=self.samples,
            answer_bytes=self.answer_bytes,
            busy=cpu / wall,
            p50_ms=self._percentile(0.50),
            p99_ms=self._percentile(0.99),
            p999_ms=self._percentile(0.999),
        )

    def _percentile(self, share: float) -> float:
        count = len(self.latencies)
        return self.latencies[min(int(count * share), count - 1)] * 1e3 if count else 0.0

    def _run(self, calls: Iterator[Call], seconds: float) -> None:
        clock = time.perf_counter
        stop_at = clock() + seconds
        in_flight = 0
        for connection in list(self._by_descriptor.values()):
            in_flight += self._send_next(connection, calls)
        while in_flight:
            events = self._epoll.poll(STALLED_AFTER_SECONDS)
            if not events:
                self._fail(f"no answer within {STALLED_AFTER_SECONDS:g} s", count=in_flight)
                return
            for descriptor, _ in events:
                connection = self._by_descriptor[descriptor]
                try:
                    if not self._take(connection):
                        continue
                except OSError as problem:
                    self._fail(f"connection lost: {problem!r}")
                    self._replace(connection)
                in_flight -= 1
                if clock() < stop_at and self.errors < ERRORS_ENOUGH:
                    in_flight += self._send_next(connection, calls)

    def _send_next(self, connection: Connection, calls: Iterator[Call]) -> int:
        """Send the next call, if there is one, and return the number sent."""
        if (call := next(calls, None)) is None:
            return 0
        try:
            connection.send(call)
        except OSError as problem:
            self._fail(f"connection lost: {problem!r}")
            self._replace(connection)
            connection.send(call)
        return 1

    def _take(self, connection: Connection) -> bool:
        """Read from a connection, and return whether its answer is complete."""
        data = connection.receive()
        now = time.perf_counter()
        if not data:
            raise ConnectionResetError("closed by the server")
        if connection.received:
            data = connection.received + data
        end_of_head = data.find(b"\r\n\r\n")
        if end_of_head < 0:
            connection.received = data
            return False
        head = data[:end_of_head].lower()
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            raise ConnectionError("answer without Content-Length")
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        body_at = end_of_head + 4
        if len(data) - body_at < length:
            connection.received = data
            return False
        self.latencies.append(now - connection.sent_at)
        self.answer_bytes = length
        if not (
            head.startswith(b"http/1.1 200")
            and data.startswith(b'{"success":true', body_at)
            and (not self._job.answers_vary or connection.call.witness in data)
        ):
            self._examine(connection.call, data[:end_of_head], data[body_at:])
        return True

    def _examine(self, call: Call, head: bytes, body: bytes) -> None:
        """Look twice at an unexpected answer: JSON can be written in many ways."""
        status = head.split(b"\r\n", 1)[0].decode(errors="replace")
        shown = f"{status} | {body[:200].decode(errors='replace')}"
        if " 200" not in status:
            self._fail(f"not 200: {shown}")
            return
        try:
            answer = msgspec.json.decode(body)
        except msgspec.DecodeError:
            self._fail(f"not JSON: {shown}")
            return
        if not isinstance(answer, dict) or answer.get("success") is not True:
            self._fail(f"not a success: {shown}")
        elif self._job.answers_vary and call.witness not in body:
            self._fail(f"the answer to another question, or a miss: {shown}")

    def _fail(self, what: str, count: int = 1) -> None:
        self.errors += count
        if len(self.samples) < SAMPLES_KEPT:
            self.samples.append(what)

    def _replace(self, connection: Connection) -> None:
        del self._by_descriptor[connection.fileno()]
        connection.reconnect()
        self._watch(connection)


def main() -> None:
    """Serve jobs from standard input until it ends."""
    # The latencies are plain numbers in one list: nothing to collect, and no pauses wanted.
    gc.disable()
    for line in sys.stdin.buffer:
        load = Load(msgspec.json.decode(line, type=Job))
        try:
            load.warm_up()
            _say(READY)
            if not sys.stdin.buffer.readline():
                return
            _say(msgspec.json.encode(load.measure()) + b"\n")
        finally:
            load.close()


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
