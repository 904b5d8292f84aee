"""Run one scenario: start everything, load it, let it be struck, and collect what is known."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import msgspec

from chaos.bars import Bars
from chaos.control import Control, controlled
from chaos.history import Found, Loss, Strike
from chaos.load import Job, Progress, Told
from chaos.neighbours.isolation import Isolation, Vitals, look_at
from chaos.rigs import Rig
from tests.servers import RedisProcess, eventually
from tests.servers.certificates import make_certificates
from tests.service import TOKEN, Service, service

__all__ = ["DEADLINE", "Run", "Scenario", "Stage", "perform"]

S = TypeVar("S")

ROOT = Path(__file__).resolve().parent.parent
EVERY_SLOT = (range(16_384),)
RATE = 400.0
WARM_UP_CALLS = 200
DEADLINE = 0.8
"""Seconds a call may take; flowcache's default."""

Said = Progress | Told


@dataclass(frozen=True, slots=True)
class Scenario(Generic[S]):
    """One line of the table."""

    name: str
    about: str
    """A sentence for docs/reliability.md."""
    rig: Callable[[], AbstractContextManager[Rig[S]]]
    act: Callable[[Stage[S]], None]
    """What is done while the load runs."""
    bars: Bars = field(default_factory=Bars)
    """What must hold beside what always must."""
    arguments: tuple[str, ...] = ()
    """Of `flowcache serve`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    rate: float = RATE
    """Calls a second."""
    instances: int = 1
    """How many flowcaches there are, one beside the other."""
    tokens: tuple[str, ...] = (TOKEN,)
    """Of the clients that load it, a third of the keys each where there are three."""
    configuration: str = ""
    """The text of flowcache's configuration file."""
    launcher: tuple[str, ...] = ()
    """A command that starts flowcache in its own place."""
    tls: bool = False
    """Whether flowcache speaks TLS."""
    lull: float = 1.0
    """The calm before and after `act`, as a share of what was asked for on the command line."""
    isolation: Isolation | None = None
    """What one client's doing must not cost the others; None where that is not the question."""


@dataclass(frozen=True, slots=True)
class Run:
    """All that is known of a scenario that was performed."""

    name: str
    told: Told
    strikes: tuple[Strike, ...]
    found: Mapping[str, Found]
    controls: tuple[Control, ...]
    log: str
    """What flowcache wrote to its log."""
    vitals: Vitals | None = None
    """What flowcache's workers said at the end; only where `Scenario.isolation` asks for it."""
    attacked: Mapping[str, int] = field(default_factory=dict)
    """What the attackers did, by what came of it."""


class Stage(Generic[S]):
    """What a scenario's `act` has in hand while the load runs. As a context it runs flowcache."""

    def __init__(self, scenario: Scenario[S], rig: Rig[S], seconds: float) -> None:
        self.rig = rig
        self.services: list[Service] = []
        self.strikes: list[Strike] = []
        self.controls: list[Control] = []
        self.attacked: Counter[str] = Counter()
        """What attackers did, by what came of it."""
        self.load: LoadProcess
        self._scenario = scenario
        self._seconds = seconds
        self._stack = ExitStack()
        self._logs: list[str] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="flowcache-"))
            self.directory = Path(name)
            self.ca: Path | None = None
            if self._scenario.tls:
                self._certificates = make_certificates(self.directory)
                self.ca = self._certificates.authority.certificate
            self.services = [
                stack.enter_context(self._flowcache()) for _ in range(self._scenario.instances)
            ]
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._logs += [running.log for running in self.services]
        self._stack.close()

    def _flowcache(self, port: int | None = None) -> AbstractContextManager[Service]:
        scenario = self._scenario
        environment = {
            "REDIS_NODES": self.rig.location,
            "FLOWCACHE_DATA_DEADLINE_MS": f"{DEADLINE * 1000:.0f}",
        } | {
            name: value.replace("{directory}", str(self.directory))
            for name, value in scenario.environment.items()
        }
        arguments = scenario.arguments
        if scenario.configuration:
            file = self.directory / "flowcache.toml"
            file.write_text(scenario.configuration, "utf-8")
            arguments = (*arguments, "--config", str(file))
        if self.ca is not None:
            environment["FLOWCACHE_HTTP_TLS_CERT_FILE"] = str(self._certificates.server.certificate)
            environment["FLOWCACHE_HTTP_TLS_KEY_FILE"] = str(self._certificates.server.key)
        return service(
            environment,
            *arguments,
            port=port,
            launcher=(*self.on_core(0), *scenario.launcher),
            ready=self.ca is None,
        )

    def on_core(self, number: int) -> tuple[str, ...]:
        """Return a launcher that keeps a process to one core, where there are two or more.

        Callers and attackers are kept off flowcache's core: what they take of it is not its doing.
        """
        cores = sorted(os.sched_getaffinity(0))
        if self._scenario.isolation is None or len(cores) < 2:
            return ()
        return ("taskset", "--cpu-list", str(cores[number]))

    @property
    def servers(self) -> S:
        """The servers."""
        return self.rig.servers

    @property
    def service(self) -> Service:
        """The flowcache that is struck, where there are several."""
        return self.services[0]

    @property
    def log(self) -> str:
        """All that any flowcache wrote to its log, when the context has been left."""
        return "".join(self._logs)

    def calm(self, shares: float = 1.0) -> None:
        """Let the load run for a while: ``shares`` of what was asked for on the command line."""
        time.sleep(self._seconds * shares)
        self.load.require_alive()

    def hold(self, seconds: float) -> None:
        """Let the load run for as long as it takes for the scenario to be what it says."""
        time.sleep(seconds)
        self.load.require_alive()

    def strike(
        self,
        what: str,
        slots: Sequence[range] = EVERY_SLOT,
        *,
        may_lose: Loss = Loss.NOTHING,
        reads_survive: bool = False,
    ) -> Strike:
        """Note that something is about to be broken; see `Strike`."""
        strike = Strike(
            what, tuple(slots), time.monotonic(), may_lose=may_lose, reads_survive=reads_survive
        )
        self.strikes.append(strike)
        return strike

    def fails_over(self, strike: Strike, is_done: Callable[[], object]) -> None:
        """Wait until the servers say that they have failed over, and note when that was."""
        eventually(is_done, within=60, what="the failover", ignoring=(Exception,))
        strike.failed_over = time.monotonic()

    def mends(self, strike: Strike) -> None:
        """Note that what was broken has been put right."""
        strike.mended = time.monotonic()

    @contextmanager
    def controlled(
        self, primary: RedisProcess, slots: Sequence[range], *, replicas: int = 1
    ) -> Iterator[None]:
        """Write to a primary beside flowcache, with WAIT; see `control`."""
        with controlled(primary, slots, replicas) as control:
            self.controls.append(control)
            yield

    def vitals(self) -> Vitals | None:
        """Return how the flowcache that is struck does at the end."""
        if self._scenario.isolation is None:
            return None
        return look_at(self.service, self._scenario.tokens[0], self.ca)

    def start_again(self) -> None:
        """Start the flowcache that is struck anew, on its port, after it has ended."""
        self._logs.append(self.service.log)
        self.services[0] = self._stack.enter_context(self._flowcache(self.service.port))


class LoadProcess:
    """The load generator's process, as a context: it loads from entry on."""

    def __init__(
        self, job: Job, show: Callable[[Progress], None], launcher: Sequence[str] = ()
    ) -> None:
        self._job = job
        self._show = show
        self._launcher = launcher
        self._told: Told | None = None
        self._calls = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [*self._launcher, sys.executable, "-m", "chaos.load"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the harness, which ends it in order
        )
        self._listener = threading.Thread(target=self._listen, name="load", daemon=True)
        self._listener.start()
        self._write(msgspec.json.encode(self._job))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def require_alive(self) -> None:
        """Raise when the generator has ended.

        Raises:
            RuntimeError: it has; its words are on standard error.
        """
        if self._process.poll() is not None:
            raise RuntimeError(f"the load generator ended with {self._process.returncode}")

    def wait_warm(self) -> None:
        """Wait until the load is under way."""
        eventually(lambda: self._calls >= WARM_UP_CALLS, what="the load to be under way")

    def finish(self) -> Told:
        """Let the calls that are under way end, and return all that happened."""
        self._write(b"stop")
        self._process.wait(60)
        self._listener.join()
        if self._told is None:
            raise RuntimeError("the load generator told nothing")
        return self._told

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        decoder = msgspec.json.Decoder(Said)
        for line in self._process.stdout:
            said = decoder.decode(line)
            if isinstance(said, Told):
                self._told = said
            else:
                self._calls = said.calls
                self._show(said)


def perform(
    scenario: Scenario[Any],
    *,
    seconds: float,
    seed: int = 1,
    show: Callable[[Progress], None] = lambda progress: None,
) -> Run:
    """Perform a scenario, and return what happened. Nothing is judged here.

    Args:
        scenario: which.
        seconds: how long each calm stretch lasts.
        seed: of the load's chance.
        show: is told how the load goes, in a thread of its own.
    """
    with scenario.rig() as rig:
        with Stage(scenario, rig, seconds) as stage:
            ports = tuple(running.port for running in stage.services)
            job = Job(
                ports=ports,
                tokens=scenario.tokens,
                rate=scenario.rate,
                seed=seed,
                ca=None if stage.ca is None else str(stage.ca),
            )
            with LoadProcess(job, show, stage.on_core(1)) as stage.load:
                stage.load.wait_warm()
                stage.calm(scenario.lull)
                scenario.act(stage)
                stage.calm(scenario.lull)
                told = stage.load.finish()
            vitals = stage.vitals()
        rig.heal()
        found = rig.found()
    return Run(
        scenario.name,
        told,
        tuple(stage.strikes),
        found,
        tuple(stage.controls),
        stage.log,
        vitals,
        stage.attacked,
    )
