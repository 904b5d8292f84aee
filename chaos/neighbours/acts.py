"""What is done while the neighbours call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import redis

from chaos.neighbours.attacker import Attack
from chaos.neighbours.liar import Liar, Lie
from chaos.neighbours.rigs import ATTACKERS
from chaos.stage import ROOT, Stage
from tests.servers import Proxy, RedisProcess

__all__ = [
    "DAMAGED_BYTES",
    "JOURNAL",
    "LATE_SECONDS",
    "attacks",
    "behind_a_late_redis",
    "busy_script",
    "journal_damaged",
    "lies_of_the_map",
    "lies_to_the_attacker",
    "redis_stopped",
    "worker_stopped",
]

Act = Callable[[Stage[Any]], None]

ATTACK = 0.75
"""How long an attack lasts, as a share of what was asked for on the command line."""
STOPPED_SECONDS = 3.0
WORKER_STOPPED_SECONDS = 2.0
BUSY_SECONDS = 1.5
LATE_SECONDS = 0.05
SLOW_SECONDS = 0.005
"""Longer than calls that give themselves 1 ms can wait: they prove nothing about Redis."""
JOURNAL = "audit.db"
DAMAGED_BYTES = 40_000
NOTICED_SECONDS = 8.0
"""How long after the damage every call has to be refused."""
LINGER_SECONDS = 20


def attacks(*these: Attack, first: Attack | None = None, share: float = ATTACK) -> Act:
    """Return an act: some attacks at once, when ``first`` has been done to its end.

    They last for ``share`` of what was asked for on the command line.
    """

    def act(stage: Stage[Any]) -> None:
        if first is not None:
            with attacked(stage, first) as (process,):
                process.wait(first.seconds + LINGER_SECONDS)
        with attacked(stage, *these):
            stage.calm(share)

    return act


@contextmanager
def attacked(stage: Stage[Any], *these: Attack) -> Iterator[Sequence[subprocess.Popen[bytes]]]:
    """Run an attacker's process for each of some attacks; note what came of their requests."""
    with ExitStack() as stack:
        processes = [stack.enter_context(_attacker(stage, attack)) for attack in these]
        yield processes
        for process in processes:
            told, _ = process.communicate(b"stop\n", timeout=LINGER_SECONDS)
            if process.returncode:
                raise RuntimeError(f"an attacker ended with {process.returncode}")
            stage.attacked.update(msgspec.json.decode(told, type=dict[str, int]))


@contextmanager
def _attacker(stage: Stage[Any], attack: Attack) -> Iterator[subprocess.Popen[bytes]]:
    ca = None if stage.ca is None else str(stage.ca)
    told = msgspec.structs.replace(attack, port=stage.service.port, ca=ca)
    process = subprocess.Popen(
        [*stage.on_core(1), sys.executable, "-m", "chaos.neighbours.attacker"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(told) + b"\n")
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def redis_stopped(*these: Attack) -> Act:
    """Return an act: attacks while Redis stands still for a while, and when it is back."""

    def act(stage: Stage[Proxy]) -> None:
        (server,) = stage.rig.primaries()
        stage.servers.delay(SLOW_SECONDS)
        with attacked(stage, *these):
            stage.calm(0.25)
            strike = stage.strike("Redis stopped")
            server.pause()
            stage.hold(STOPPED_SECONDS)
            server.resume()
            stage.mends(strike)
            stage.calm(0.75)

    return act


def worker_stopped(*these: Attack) -> Act:
    """Return an act: attacks while the worker stands still, with calls in flight."""

    def act(stage: Stage[Proxy]) -> None:
        (worker,) = (each["pid"] for each in stage.service.inspect()["workers"])
        stage.servers.delay(LATE_SECONDS)
        with attacked(stage, *these):
            stage.calm(0.25)
            strike = stage.strike("worker stopped")
            os.kill(worker, signal.SIGSTOP)
            stage.hold(WORKER_STOPPED_SECONDS)
            os.kill(worker, signal.SIGCONT)
            stage.mends(strike)
            stage.calm(ATTACK)

    return act


def busy_script(stage: Stage[RedisProcess]) -> None:
    """Run a script without an end, and kill it."""

    def run() -> None:
        with (
            closing(stage.servers.client(socket_timeout=60.0)) as client,
            suppress(redis.ResponseError),
        ):
            client.eval("while true do end", 0)

    script = threading.Thread(target=run, name="busy script")
    strike = stage.strike("script without an end")
    script.start()
    try:
        stage.hold(BUSY_SECONDS)
    finally:
        stage.servers.cli("SCRIPT", "KILL")
        script.join()
    stage.mends(strike)
    stage.calm(ATTACK)


def behind_a_late_redis(*these: Attack) -> Act:
    """Return an act: attacks while each request reaches Redis a little late."""

    def act(stage: Stage[Proxy]) -> None:
        stage.servers.delay(LATE_SECONDS)
        stage.calm(0.25)
        attacks(*these)(stage)
        stage.servers.restore()

    return act


def journal_damaged(stage: Stage[RedisProcess]) -> None:
    """Write noise over the middle of the journal's file while calls come in."""
    stage.calm(ATTACK)
    file = Path(stage.directory) / JOURNAL
    with file.open("r+b") as journal:
        middle = max(0, file.stat().st_size // 2 - DAMAGED_BYTES // 2)
        journal.seek(middle)
        journal.write(os.urandom(DAMAGED_BYTES))
        journal.flush()
        os.fsync(journal.fileno())
    stage.hold(NOTICED_SECONDS)


def lies_to_the_attacker(lies: Sequence[bytes], *these: Attack) -> Act:
    """Return an act: each command about the attacker's keys is answered with the next lie."""

    def act(stage: Stage[Liar]) -> None:
        count = 0

        def lie(command: Sequence[bytes]) -> bytes | None:
            nonlocal count
            if not any(part.startswith(ATTACKERS.encode()) for part in command):
                return None
            count += 1
            return lies[count % len(lies)]

        _lied(stage, lie, lambda: attacks(*these)(stage))

    return act


def lies_of_the_map(lies: Callable[[tuple[str, int]], Sequence[bytes]]) -> Act:
    """Return an act: whoever asks for the cluster's map gets the next lie."""

    def act(stage: Stage[Liar]) -> None:
        told = lies(stage.servers.address)
        count = 0

        def lie(command: Sequence[bytes]) -> bytes | None:
            nonlocal count
            if command[0].upper() != b"CLUSTER":
                return None
            count += 1
            return told[count % len(told)]

        _lied(stage, lie, lambda: stage.calm(1.5))

    return act


def _lied(stage: Stage[Liar], lie: Lie, act: Callable[[], None]) -> None:
    before = stage.servers.lie
    stage.servers.lie = lie
    try:
        act()
    finally:
        stage.servers.lie = before
    stage.attacked["lies"] += stage.servers.lies
