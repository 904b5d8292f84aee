"""The supervisor with workers that fail: what it does when what is wanted can't be had."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import eventually
from tests.servers.ports import PortClaim


class Supervised:
    """A running service whose plan can be changed."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
        self.process = process
        self.port = port
        self._folder = folder

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def reload(self, **plan: object) -> None:
        """Change the plan and say so."""
        (self._folder / "plan").write_text(json.dumps(plan))
        self.process.send_signal(signal.SIGHUP)

    def children(self) -> set[int]:
        """Return the pids of all workers, whatever they do."""
        pid = self.process.pid
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def worker(self) -> int:
        """Return the pid of a worker that answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", "/", headers={"Connection": "close"})
            return int(connection.getresponse().read())
        finally:
            connection.close()


def serving(running: Supervised, count: int) -> set[int]:
    """Wait until so many workers have answered; return their pids."""
    seen: set[int] = set()

    def all_have() -> bool:
        seen.add(running.worker())
        return len(seen) == count

    eventually(all_have, what=f"{count} workers", ignoring=(OSError,))
    return seen


@contextmanager
def supervised(folder: Path, **plan: object) -> Iterator[Supervised]:
    (folder / "plan").write_text(json.dumps(plan))
    with PortClaim() as claim, (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "tests.http.supervised", str(folder / "plan")]
        process = subprocess.Popen(
            [*command, str(claim.port)], stdout=log, stderr=subprocess.STDOUT
        )
        running = Supervised(process, claim.port, folder)
        try:
            yield running
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


@pytest.mark.parametrize("wanted", [1, 2])
def test_a_service_that_does_not_come_up_leaves_the_old_one(tmp_path: Path, wanted: int) -> None:
    """A reload whose worker can't start is given up: the worker before goes on, and can be
    replaced by the next reload."""
    with supervised(tmp_path) as running:
        before = eventually(running.worker, what="a worker", ignoring=(OSError,))
        running.reload(app="failing", workers=wanted)
        eventually(lambda: "does not come up" in running.log, what="the new one to be given up")
        assert running.worker() == before
        running.reload(app="good")
        eventually(lambda: running.worker() != before, what="a new worker")
        assert running.log.count("listens") == 1


def test_a_worker_that_hangs_at_its_start_holds_nothing_up(tmp_path: Path) -> None:
    """While a new worker starts the old one serves; another reload or the end waits for neither."""
    with supervised(tmp_path) as running:
        before = eventually(running.worker, what="a worker", ignoring=(OSError,))
        running.reload(app="hanging")
        eventually(lambda: running.log.count("hangs") == 1, what="a worker that hangs")
        assert running.worker() == before
        running.reload(app="hanging")
        eventually(lambda: running.log.count("hangs") == 2, what="another worker that hangs")
        eventually(lambda: len(running.children()) == 2, what="the first that hangs to be ended")
        running.reload(app="good")
        after = eventually(lambda: (now := running.worker()) != before and now, what="a new worker")
        running.reload(app="hanging")
        eventually(lambda: running.log.count("hangs") == 3, what="a worker that hangs")
        assert running.worker() == after
        running.process.terminate()
        assert running.process.wait(10) == 0


def test_workers_are_replaced_one_by_one(tmp_path: Path) -> None:
    """An old worker goes when a new one serves, and the next starts only then.

    So while it starts as many serve as are wanted, and there is one process more.
    """
    with supervised(tmp_path, workers=3) as running:
        before = serving(running, 3)
        running.reload(app="lucky", workers=3)
        eventually(lambda: "hangs" in running.log, what="a second new worker")
        eventually(lambda: len(running.children()) == 4, what="one old worker to have gone")
        assert len(serving(running, 3) & before) == 2


def test_a_new_worker_that_served_and_died_is_no_reason_to_give_up(tmp_path: Path) -> None:
    """Only a service that never came up is given up for the one before."""
    with supervised(tmp_path, workers=2) as running:
        before = serving(running, 2)
        running.reload(app="lucky", workers=2)
        eventually(lambda: "hangs" in running.log, what="a second new worker")
        eventually(lambda: len(running.children()) == 3, what="one old worker to have gone")
        (new,) = serving(running, 2) - before
        os.kill(new, signal.SIGKILL)
        eventually(lambda: "a worker died" in running.log, what="its death to be noticed")
        running.reload(workers=2)
        eventually(lambda: not serving(running, 2) & before, what="two new workers")
        assert "does not come up" not in running.log


@pytest.mark.parametrize("fault", ["hanging", "stopped"])
def test_a_worker_that_takes_too_long_is_killed(tmp_path: Path, fault: str) -> None:
    """Who does not start in time, or does not end in time, is killed; who serves has no end."""
    with supervised(tmp_path, start_seconds=1.0, grace=0.1) as running:
        worker = eventually(running.worker, what="a worker", ignoring=(OSError,))
        if fault == "hanging":
            running.reload(app="hanging", start_seconds=1.0)
            eventually(lambda: "it took too long" in running.log, what="the new one to be killed")
            eventually(lambda: "does not come up" in running.log, what="it to be given up")
            assert running.worker() == worker, "it has been serving for longer than that"
        else:
            os.kill(worker, signal.SIGSTOP)
            running.process.terminate()
            assert running.process.wait(20) == 0
            assert f"pid={worker}" in running.log


def test_signals_of_a_terminal_are_the_supervisors(tmp_path: Path) -> None:
    """Ctrl-C reaches the foreground's process group: workers have their own, and don't heed it."""
    with supervised(tmp_path) as running:
        worker = eventually(running.worker, what="a worker", ignoring=(OSError,))
        assert os.getpgid(worker) == worker
        for _ in range(3):
            os.kill(worker, signal.SIGINT)
            assert running.worker() == worker


@pytest.mark.parametrize("app", ["failing", "raising"])
def test_a_service_whose_workers_keep_dying_ends(tmp_path: Path, app: str) -> None:
    """What can't be mended by starting anew ends with exit code 1, after ten deaths."""
    with supervised(tmp_path, app=app) as running:
        assert running.process.wait(30) == 1
        assert running.log.count("a worker died") == 10


def test_an_address_changes_only_at_a_restart(tmp_path: Path) -> None:
    """A reload with another port says so, and takes over the rest."""
    with supervised(tmp_path) as running:
        before = eventually(running.worker, what="a worker", ignoring=(OSError,))
        running.reload(port=1)
        eventually(lambda: running.worker() != before, what="a new worker")
        assert "admin.host, admin.port change only at a restart" in running.log


def test_a_killed_worker_is_replaced_in_the_middle_of_a_reload(tmp_path: Path) -> None:
    """Whatever dies meanwhile, there are in the end as many new workers as are wanted."""
    with supervised(tmp_path, workers=2) as running:
        before = serving(running, 2)
        running.reload(workers=2)
        os.kill(min(before), signal.SIGKILL)
        after: set[int] = set()

        def all_new() -> bool:
            after.add(running.worker())
            return len(after - before) >= 2 and running.worker() not in before

        eventually(all_new, what="two new workers", ignoring=(OSError, http.client.HTTPException))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_worker_that_is_just_forked_is_the_workers(
    tmp_path: Path, number: signal.Signals
) -> None:
    """However early a signal comes, it ends the worker it was sent to, and never the service."""
    with supervised(tmp_path) as running:
        before = eventually(running.worker, what="a worker", ignoring=(OSError,))
        running.reload(struck=[number])
        eventually(lambda: "does not come up" in running.log, what="the new one to be given up")
        assert f"code={-number} " in running.log
        assert running.worker() == before


def test_a_worker_that_serves_after_it_was_told_to_end_is_killed_in_time(tmp_path: Path) -> None:
    """The time that a worker has to end is not lifted by its word that it has begun to serve."""
    with supervised(tmp_path, app="deaf", grace=0.0) as running:
        eventually(lambda: "hangs" in running.log, what="a worker that starts")
        running.process.terminate()
        assert running.process.wait(20) == 0
        assert "listens" in running.log
        assert "it took too long" in running.log


def test_a_bug_at_a_reload_leaves_the_service_as_it_is(tmp_path: Path) -> None:
    """Whatever goes wrong while the configuration is read, it is told, and the workers go on."""
    with supervised(tmp_path) as running:
        before = eventually(running.worker, what="a worker", ignoring=(OSError,))
        running.reload(app="unknown")
        eventually(lambda: "KeyError" in running.log, what="the bug in the log")
        assert running.worker() == before
        running.reload(app="good")
        eventually(lambda: running.worker() != before, what="a new worker")


def test_a_service_that_serves_is_not_given_up_for_one_death(tmp_path: Path) -> None:
    """A new worker that dies at its start is started again if another of its kind serves."""
    with supervised(tmp_path, workers=2) as running:
        before: set[int] = set()

        def both() -> bool:
            before.add(running.worker())
            return len(before) == 2

        eventually(both, what="both workers", ignoring=(OSError,))
        running.reload(app="stumbling", workers=2)
        after: set[int] = set()

        def all_new() -> bool:
            after.add(running.worker())
            return len(after - before) == 2

        eventually(all_new, what="two new workers", ignoring=(OSError, http.client.HTTPException))
        assert running.log.count("a worker died") == 1
        assert "does not come up" not in running.log


def test_a_death_is_told_with_its_cause(tmp_path: Path) -> None:
    """The log says by which signal a worker was killed."""
    with supervised(tmp_path) as running:
        before = eventually(running.worker, what="a worker", ignoring=(OSError,))
        os.kill(before, signal.SIGKILL)
        eventually(lambda: "a worker died" in running.log, what="the death in the log")
        assert f"code={-signal.SIGKILL} " in running.log
