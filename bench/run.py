"""Compare flowcache with bare ASGI and with the seed's design, by CPU time a request.

One run starts a Valkey cluster of three nodes and every server with one worker, all on the
loopback, and then goes through the rounds: in each, every load is put on every server before the
next load begins, and each round begins with another server. A machine that gets slower or faster
meanwhile does so for all of them. See bench/README.md for how to read the figures.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started as a file: the package is found one folder up
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import msgspec

from bench.cluster import Cluster, running_cluster
from bench.load import READY, Job, Outcome
from bench.processes import PROC, BenchError, Child, Cores, cpu_seconds, free_ports
from bench.report import Cell, Document, Sample, machine_facts, rows_of, table_of
from bench.servers import (
    KINDS,
    Kind,
    LeftOutError,
    Server,
    Setting,
    before,
    clean_environment,
    start,
    wait_for,
)
from bench.workload import KEYS, Operation

OPERATIONS: tuple[Operation, ...] = ("GET", "SET")
CONNECTIONS = (1, 16, 64)
SETTLE_SECONDS = 1.5

EXAMPLE = """\
examples:
  python -m bench.run                        three rounds, about four minutes
  python -m bench.run --quick                one short round, under a minute
  python -m bench.run --only flowcache,bare --json run.json
  python -m bench.run --only flowcache --against ../main    compare with another checkout

exit code: 0 measured, 1 measured with errors, 2 could not be measured
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured, and of what."""

    kinds: tuple[Kind, ...]
    rounds: int
    seconds: float
    warmup_seconds: float
    json: Path | None


class Progress:
    """One line on stderr, rewritten in place on a terminal and appended to elsewhere."""

    def __init__(self) -> None:
        """Start with an empty line."""
        self._in_place = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Say what is happening now."""
        before, after = ("\r\x1b[K", "") if self._in_place else ("", "\n")
        print(f"{before}{text}", end=after, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Say something that stays to be read."""
        self.show(f"bench: {text}")
        if self._in_place:
            print(file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self._in_place:
            self.show("")


class Generator:
    """Our end of the conversation with the load generator's process."""

    def __init__(self, child: Child) -> None:
        """Talk to `child` through its pipes."""
        self.child = child

    def measure(self, server: Server, job: Job) -> tuple[float, Outcome]:
        """Run one job, and return the CPU seconds that the server took for it with its outcome.

        Raises:
            BenchError: the server or the generator has ended.
        """
        self._say(msgspec.json.encode(job), server)
        if self._hear(server) != READY:
            raise BenchError("the load generator speaks out of turn")
        before = cpu_seconds(server.child.pid)
        self._say(b"go", server)
        outcome = msgspec.json.decode(self._hear(server), type=Outcome)
        spent = cpu_seconds(server.child.pid) - before
        server.child.require_alive()
        return spent, outcome

    def _say(self, line: bytes, server: Server) -> None:
        pipe = self.child.process.stdin
        assert pipe is not None
        try:
            pipe.write(line + b"\n")
            pipe.flush()
        except BrokenPipeError:
            self._explain(server)

    def _hear(self, server: Server) -> bytes:
        pipe = self.child.process.stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            self._explain(server)
        return bytes(line)

    def _explain(self, server: Server) -> None:
        server.child.require_alive()
        raise BenchError(f"the load generator failed:\n{self.child.log_tail()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return the exit code."""
    progress = Progress()
    options = _parser().parse_args(arguments)
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _interrupt)
    try:
        plan, left_out = _plan(options, progress)
        with tempfile.TemporaryDirectory(prefix="flowcache-bench-") as folder:
            samples, document = _run(plan, left_out, Path(folder), progress)
    except BenchError as problem:
        progress.note(str(problem))
        return 2
    except KeyboardInterrupt:
        progress.note("interrupted; everything that was started has been ended")
        return 130
    progress.clear()
    titles = {kind.name: kind.title for kind in plan.kinds}
    print(table_of(document.rows, titles))
    if plan.json:
        plan.json.write_bytes(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    for name, why in left_out.items():
        progress.note(f"{KINDS[name].title} was left out: {why}")
    return _judge(samples, titles, progress)


def _interrupt(_signal: int, _frame: object) -> None:
    # Once is enough; a second one must not cut the ending short.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _judge(samples: Sequence[Sample], titles: dict[str, str], progress: Progress) -> int:
    wrong = [sample for sample in samples if sample.outcome.errors]
    for sample in wrong:
        cell, outcome = sample.cell, sample.outcome
        progress.note(
            f"{outcome.errors} errors from {titles[sample.server]}, round {sample.round}, "
            f"{cell.operation} at {cell.connections}:"
        )
        for example in outcome.samples:
            progress.note(f"    {example}")
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.run",
        description="Compare flowcache with its peers by CPU time a request.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ",".join(KINDS)
    parser.add_argument("--quick", action="store_true", help="one round, half a second a cell")
    parser.add_argument("--only", metavar="NAMES", help=f"some of {names}")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="also measure the flowcache of the checkout in DIR, with its own .venv, as 'before'",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds to take medians of (3)")
    parser.add_argument("--seconds", type=float, metavar="S", help="measured seconds a cell (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    return parser


def _plan(options: argparse.Namespace, progress: Progress) -> tuple[Plan, dict[str, str]]:
    if not PROC.joinpath("self", "stat").exists():
        raise BenchError("CPU time is read from /proc, which this system doesn't have: use Linux")
    default = ",".join(name for name, kind in KINDS.items() if kind.by_default)
    names = list(dict.fromkeys((options.only or default).replace(" ", "").split(",")))
    if unknown := [name for name in names if name not in KINDS]:
        raise BenchError(f"--only: no server {', '.join(unknown)}; there are {', '.join(KINDS)}")
    rounds = options.rounds if options.rounds is not None else 1 if options.quick else 3
    seconds = options.seconds if options.seconds is not None else 0.5 if options.quick else 3.0
    if rounds < 1 or seconds <= 0:
        raise BenchError("--rounds and --seconds must be more than nothing")
    wanted = [KINDS[name] for name in names]
    if options.against is not None:
        wanted.append(before(options.against))
    kinds, left_out = [], {}
    for kind in wanted:
        try:
            kind.prepare(progress.show)
            kinds.append(kind)
        except LeftOutError as absence:
            left_out[kind.name] = str(absence)
            progress.note(f"{kind.title} is left out: {absence}")
    if not kinds:
        raise BenchError("nothing is left to measure")
    warmup = 0.2 if options.quick else 0.5
    return Plan(tuple(kinds), rounds, seconds, warmup, options.json), left_out


def _run(
    plan: Plan, left_out: dict[str, str], folder: Path, progress: Progress
) -> tuple[list[Sample], Document]:
    cores = Cores.share_out()
    if not cores.server:
        progress.note("processes can't be pinned here; figures will be less steady")
    elif not cores.are_apart:
        progress.note("only one core is usable: server, Redis and load share it")
    token = secrets.token_urlsafe(24)
    with ExitStack() as stack:
        progress.show("starting Valkey")
        cluster = stack.enter_context(running_cluster(folder, cores.rest))
        servers = _start_all(plan, cluster, token, folder, cores, stack, progress)
        child = _start_load(folder, cores.rest)
        stack.callback(child.end)
        generator = Generator(child)
        for server in servers:
            progress.show(f"filling and warming up {server.kind.title}")
            _fill(generator, server, cluster, token)
        samples = _measure_all(plan, servers, generator, token, progress)
        progress.show("ending everything")
    document = Document(
        machine=machine_facts() | _versions(cluster),
        settings={
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "warmup_seconds": plan.warmup_seconds,
            "keys": KEYS,
            "server_has_own_core": bool(cores.server) and cores.are_apart,
        },
        left_out=left_out,
        rows=rows_of(samples),
        samples=samples,
    )
    return samples, document


def _start_all(
    plan: Plan,
    cluster: Cluster,
    token: str,
    folder: Path,
    cores: Cores,
    stack: ExitStack,
    progress: Progress,
) -> list[Server]:
    servers = []
    for kind in plan.kinds:
        progress.show(f"starting {kind.title}")
        (port,) = free_ports(1)
        setting = Setting(port, cluster.addresses, token, secrets.token_urlsafe(24))
        child = start(kind, setting, folder=folder, cores=cores.server)
        stack.callback(child.end)
        server = Server(kind, child, port)
        wait_for(server, token)
        servers.append(server)
    return servers


def _start_load(folder: Path, cores: frozenset[int]) -> Child:
    command = [sys.executable, "-m", "bench.load"]
    environment = clean_environment()
    return Child(
        "load", command, cores=cores, folder=folder, environment=environment, conversing=True
    )


def _fill(generator: Generator, server: Server, cluster: Cluster, token: str) -> None:
    """Write every key through the server, then let it run in: compilers, caches, connections."""

    def run(operation: Operation, *, once: bool = False) -> None:
        job = Job(
            port=server.port,
            token=token,
            operation=operation,
            connections=16,
            family=server.kind.family,
            seconds=SETTLE_SECONDS,
            once=once,
            answers_vary=server.kind.uses_redis,
        )
        _, outcome = generator.measure(server, job)
        if outcome.errors:
            examples = "\n".join(f"    {example}" for example in outcome.samples)
            raise BenchError(
                f"{server.kind.title} can't do {operation}: {outcome.errors} errors\n{examples}"
            )

    run("SET", once=True)
    if server.kind.uses_redis and 0 in (counts := cluster.keys_per_node()):
        raise BenchError(f"the keys aren't spread over the nodes: {counts}")
    for operation in OPERATIONS:
        run(operation)


def _measure_all(
    plan: Plan, servers: list[Server], generator: Generator, token: str, progress: Progress
) -> list[Sample]:
    cells = [Cell(operation, count) for operation in OPERATIONS for count in CONNECTIONS]
    total = plan.rounds * len(cells) * len(servers)
    started = time.monotonic()
    samples: list[Sample] = []
    for number in range(plan.rounds):
        first = number % len(servers)
        for cell in cells:
            for server in servers[first:] + servers[:first]:
                progress.show(
                    f"round {number + 1}/{plan.rounds}, {cell.operation} at {cell.connections}: "
                    f"{server.kind.title} ({len(samples) + 1}/{total}"
                    f"{_time_left(started, len(samples), total)})"
                )
                job = Job(
                    port=server.port,
                    token=token,
                    operation=cell.operation,
                    connections=cell.connections,
                    family=server.kind.family,
                    warmup_seconds=plan.warmup_seconds,
                    seconds=plan.seconds,
                    answers_vary=server.kind.uses_redis,
                )
                spent, outcome = generator.measure(server, job)
                samples.append(Sample(number + 1, server.kind.name, cell, spent, outcome))
    order = [kind.name for kind in plan.kinds]
    return sorted(samples, key=lambda sample: (sample.round, order.index(sample.server)))


def _time_left(started: float, done: int, total: int) -> str:
    if not done:
        return ""
    seconds = (time.monotonic() - started) / done * (total - done)
    return f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"


def _versions(cluster: Cluster) -> dict[str, object]:
    versions: dict[str, object] = {"valkey": cluster.version}
    for name in ("flowcache", "granian", "uvloop"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if node := shutil.which("node"):
        outcome = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
        versions["node"] = outcome.stdout.strip().removeprefix("v")
    return versions


if __name__ == "__main__":
    sys.exit(main())
