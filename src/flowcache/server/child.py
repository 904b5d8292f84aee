"""A process that a supervisor forks, and is answerable for.

It has a process group of its own, so that Ctrl-C in a terminal reaches the supervisor only, and a
parent-death signal, so that it does not outlive a supervisor that was killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from time import monotonic

from flowcache.server.worker import CLOSING_SECONDS

__all__ = ["SIGNALS", "Child"]

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What a supervisor hears, and its children only from it: those of a terminal are not for them."""
_PR_SET_PDEATHSIG = 1


class Child:
    """A running process whose exit code is what ``main`` returns."""

    def __init__(self, name: str, main: Callable[[], int]) -> None:
        context = get_context("fork")  # main need not be picklable
        self.is_draining = False
        self.kill_at = float("inf")
        """When it is killed, unless it does before what it has been asked to."""
        self.process: BaseProcess = context.Process(
            target=_in_child, args=(main, os.getpid()), name=name
        )
        with _signals_held():
            self.process.start()

    def drain(self, grace: float) -> None:
        """Ask it to end in good order, within ``grace`` seconds."""
        self.is_draining = True
        self.kill_at = monotonic() + grace + 2 * CLOSING_SECONDS
        self.process.terminate()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def forget(self) -> int | None:
        """Let go of a process that has ended; return its exit code."""
        self.process.join()  # its end is heard of a moment before it has an exit code
        code = self.process.exitcode
        self.process.close()
        return code


def _in_child(main: Callable[[], int], supervisor: int) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal's; the supervisor's means another
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.setpgid(0, 0)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != supervisor:  # it died before it could be watched
        sys.exit(1)
    sys.exit(main())


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold the signals back while a child is forked.

    Until a child has let go of what it inherits, a signal to it would be written into the
    supervisor's own socket: one to the supervisor, and none to the child.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
