"""Child processes: started on chosen cores, weighed by CPU time, ended by pid.

Linux only, because CPU time is read from ``/proc/<pid>/stat``. A server's time is that of its whole
tree, workers included. Time of children that have ended is counted too, once their parent has
waited for them, so a worker that is replaced halfway loses nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PATIENCE_SECONDS = 5.0


class BenchError(Exception):
    """The benchmark can't go on; the message says why, for the person who started it."""


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """One reading of ``/proc/<pid>/stat``; see proc_pid_stat(5) for the fields."""

    pid: int
    parent: int
    cpu_ticks: int
    started_at_tick: int


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores the measured server gets, and which are left to Redis and the load."""

    server: frozenset[int]
    rest: frozenset[int]

    @property
    def are_apart(self) -> bool:
        """Whether server and load have cores of their own."""
        return not self.server & self.rest

    @classmethod
    def share_out(cls) -> Cores:
        """Give the last usable core to the server, the others to everything else."""
        if not hasattr(os, "sched_setaffinity"):
            return cls(frozenset(), frozenset())
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) == 1:
            return cls(frozenset(usable), frozenset(usable))
        return cls(frozenset(usable[-1:]), frozenset(usable[:-1]))


@contextmanager
def running_on(cores: Collection[int]) -> Iterator[None]:
    """Let this process run on `cores` only; what it starts meanwhile inherits that."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_ports(count: int) -> list[int]:
    """Find `count` different ports of the loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def read_stat(pid: int) -> ProcessStat | None:
    """Read one process, or None when it has gone."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name is in parentheses and may hold anything, spaces and parentheses included.
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessStat(
        pid=pid,
        parent=int(fields[1]),
        cpu_ticks=sum(int(ticks) for ticks in fields[11:15]),
        started_at_tick=int(fields[19]),
    )


def tree_of(root: int) -> list[ProcessStat]:
    """Read a process and all its descendants."""
    children: dict[int, list[ProcessStat]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (stat := read_stat(int(entry.name))):
            children.setdefault(stat.parent, []).append(stat)
    first = read_stat(root)
    found = [first] if first else []
    for stat in found:
        found.extend(children.get(stat.pid, ()))
    return found


def cpu_seconds(root: int) -> float:
    """Add up user and system time of a process and all its descendants, in seconds."""
    return sum(stat.cpu_ticks for stat in tree_of(root)) / TICKS_PER_SECOND


class Child:
    """A process of ours with its log in a file, ended together with its descendants."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        cores: Collection[int],
        folder: Path,
        environment: Mapping[str, str],
        conversing: bool = False,
    ) -> None:
        """Start `command` in `folder`; with `conversing` its stdin and stdout are pipes."""
        self.name = name
        self.log = folder / f"{name}.log"
        # Out of the terminal's process group, so that Ctrl-C reaches us alone and we end the rest.
        with self.log.open("wb") as log, running_on(cores):
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.PIPE if conversing else subprocess.DEVNULL,
                stdout=subprocess.PIPE if conversing else log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def require_alive(self) -> None:
        """Raise with the end of its log when the process has ended.

        Raises:
            BenchError: it has ended.
        """
        if (code := self.process.poll()) is not None:
            raise BenchError(f"{self.name} ended with exit code {code}:\n{self.log_tail()}")

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines that the process wrote, indented."""
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(f"    {line}" for line in text) or "    (it wrote nothing)"

    def end(self) -> None:
        """Terminate the process, then kill what is left of its tree."""
        family = tree_of(self.pid) if self.process.poll() is None else []
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with suppress(OSError):
                    pipe.close()
        if self.process.poll() is None:
            self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE_SECONDS)
        for member in family:
            # A pid can be given to a stranger; its start time tells.
            now = read_stat(member.pid)
            if now and now.started_at_tick == member.started_at_tick:
                with suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGKILL)
        self.process.wait()


def wait_until(condition: str, *, seconds: float, children: Sequence[Child]) -> Iterator[None]:
    """Yield until the caller breaks off, ten times a second, watching that `children` live.

    Raises:
        BenchError: a child has ended, or the time is over before `condition` was met.
    """
    give_up_at = time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        for child in children:
            child.require_alive()
        yield
        time.sleep(0.1)
    tails = "\n".join(f"  {child.name}:\n{child.log_tail()}" for child in children)
    raise BenchError(f"gave up after {seconds:g} s waiting until {condition}\n{tails}")
