"""The process beside the workers: there is one, and the service never depends on it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from tests.http.test_supervisor import Supervised, supervised
from tests.servers import eventually


def said(running: Supervised, what: str) -> list[int]:
    """Return the pids of the companions that said so, in order."""
    return [int(pid) for pid in re.findall(rf"companion (\d+) {what}", running.log)]


def one_more(running: Supervised, what: str, than: int = 0) -> int:
    """Wait for one more companion to say so than before; return its pid."""
    eventually(lambda: len(said(running, what)) > than, what=f"a companion that {what}")
    return said(running, what)[than]


def test_there_is_one_whatever_becomes_of_it(tmp_path: Path) -> None:
    """One beside two workers; killed, it is replaced, and the workers stay."""
    with supervised(tmp_path, companion="staying", workers=2) as running:
        eventually(lambda: "listens" in running.log)
        first = one_more(running, "runs")
        worker = running.worker()
        os.kill(first, signal.SIGKILL)
        second = one_more(running, "runs", than=1)
        assert first != second
        os.kill(worker, 0)
        assert said(running, "runs") == [first, second]


def test_one_that_keeps_dying_ends_nothing(tmp_path: Path) -> None:
    """It is started again and again, at leisure; the service serves."""
    with supervised(tmp_path, companion="dying") as running:
        one_more(running, "dies", than=2)
        running.worker()
        assert running.process.poll() is None


def test_a_reload_replaces_it(tmp_path: Path) -> None:
    """SIGHUP: the old one ends in good order before the new one begins; or there is none."""
    with supervised(tmp_path, companion="staying") as running:
        first = one_more(running, "runs")
        eventually(lambda: "listens" in running.log)
        running.reload(companion="staying")
        second = one_more(running, "runs", than=1)
        assert said(running, "ends") == [first]
        assert running.log.index(f"{first} ends") < running.log.index(f"{second} runs")
        running.reload()
        one_more(running, "ends", than=1)
        running.worker()
        assert said(running, "runs") == [first, second]


def test_it_ends_after_the_workers(tmp_path: Path) -> None:
    """SIGTERM: it is told when the last worker has gone, so that it hears of all they did."""
    with supervised(tmp_path, companion="staying") as running:
        companion = one_more(running, "runs")
        eventually(lambda: "listens" in running.log)
        worker = running.worker()
        running.process.terminate()
        assert running.process.wait(20) == 0
        assert said(running, "ends") == [companion]
    assert not Path(f"/proc/{worker}").exists()


def test_one_that_hears_nothing_is_killed(tmp_path: Path) -> None:
    """The grace holds for it as well; that it was killed is told."""
    with supervised(tmp_path, companion="stubborn", grace=0.2) as running:
        one_more(running, "runs")
        eventually(lambda: "listens" in running.log)
        running.process.terminate()
        assert running.process.wait(20) == 0
        assert "a companion is killed: it took too long" in running.log


def test_it_does_not_outlive_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    """kill -9 of the supervisor ends it in good order, as it ends the workers."""
    with supervised(tmp_path, companion="staying") as running:
        companion = one_more(running, "runs")
        running.process.kill()
        running.process.wait()
        eventually(lambda: said(running, "ends") == [companion], what="its end")
