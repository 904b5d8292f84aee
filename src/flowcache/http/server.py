"""Granian: one listening socket, the workers that share it, and the signals that end them.

The supervisor binds the socket, so that a port in use is found before anything else starts, and
all workers accept from it, so that a worker's end loses no connection that waits to be accepted.
(Granian by itself has each worker bind with SO_REUSEPORT: a second flowcache on the same port would
go unnoticed and take half of the calls.)

Signals to the supervisor:

- SIGTERM, SIGINT: stop accepting, finish what is in flight within ``grace``, exit with 0;
- the same again: end at once, exit with 1;
- SIGHUP: replace the workers one by one.

A worker has a process group of its own, so that Ctrl-C in a terminal reaches the supervisor only,
and a parent-death signal, so that it does not outlive a supervisor that was killed.
"""

from __future__ import annotations

import ctypes
import http.client
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer

from flowcache.http.asgi import ASGIApp

__all__ = ["PortInUse", "serve"]

_BACKLOG = 1024
_CONNECTIONS = 4096
"""The most connections a worker keeps; further ones wait in the kernel's queue."""
_SPARE_FILES = 128
_HEADER_TIMEOUT_MS = 75_000
"""For a request's head, and for the next one on a kept connection: longer than the minute after
which load balancers give an idle connection up, or they would meet one that was just closed."""
_CLOSING_SECONDS = 2.0
"""What a worker has beyond its grace, to let go of its connections."""
_CRASH_LOOP_DEATHS = 10
_CRASH_LOOP_SECONDS = 30.0
"""So many deaths in so short a time end the service: it can't be mended by starting anew."""
_PR_SET_PDEATHSIG = 1


class PortInUse(Exception):
    """The address can't be bound. The message is fit for an operator."""


def serve(
    build_app: Callable[[], ASGIApp],
    *,
    host: str,
    port: int,
    workers: int,
    grace: float,
    on_listening: Callable[[], None] | None = None,
) -> int:
    """Serve until a signal ends it; return the exit code.

    ``build_app`` is called in each worker; ``on_listening`` in the supervisor, in a thread of its
    own, as soon as a worker answers; ``grace`` is in seconds.

    Raises:
        PortInUse: somebody listens there already, or the address is not this machine's.
    """
    if multiprocessing.get_start_method(allow_none=True) != "fork":
        multiprocessing.set_start_method("fork", force=True)  # build_app need not be picklable
    listener = _listen(host, port)
    supervisor = _Supervisor(listener, workers, grace, on_listening or _unheard)
    try:
        supervisor.serve(target_loader=lambda: _in_worker(build_app), wrap_loader=False)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    finally:
        listener.close()
    return 1 if supervisor.hurried else 0


def _unheard() -> None:
    pass


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it; Granian sets it nowhere.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as fault:
        raise PortInUse(f"can't listen on {host}:{port}: {fault.strerror or fault}.") from None
    listener.setblocking(False)
    listener.set_inheritable(True)
    return listener


def _connections() -> int:
    """Return how many connections a worker may keep, and make room for their files.

    Out of file descriptors, Granian would spin on accept.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CONNECTIONS + _SPARE_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(_SPARE_FILES, min(_CONNECTIONS, soft - _SPARE_FILES))


def _in_worker(build_app: Callable[[], ASGIApp]) -> ASGIApp:
    os.setpgid(0, 0)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    return build_app()


class _Supervisor(MPServer):
    """Granian's supervisor of processes, with what it lacks.

    All that is private to Granian and used here: `SocketHolder`, `_init_shared_socket`,
    `_drop_shared_socket`, `_spawn_workers`, `_respawn_workers`, `_ssp`, `_shd`, `_sfd`, `_sso`.
    `tests/http/test_lifecycle.py` fails when they no longer do what they did.
    """

    def __init__(
        self,
        listener: socket.socket,
        workers: int,
        grace: float,
        on_listening: Callable[[], None],
    ) -> None:
        host, port = listener.getsockname()[:2]
        super().__init__(
            "flowcache",
            address=host,
            port=port,
            interface=Interfaces.ASGI,
            workers=workers,
            loop=Loops.uvloop,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=_HEADER_TIMEOUT_MS),
            websockets=False,
            backlog=_BACKLOG,
            backpressure=_connections(),
            log_level=LogLevels.warning,
            respawn_failed_workers=True,
            respawn_interval=0.5,
            workers_kill_timeout=grace + _CLOSING_SECONDS,  # type: ignore[arg-type]
        )
        self.hurried = False
        self._deaths: deque[float] = deque(maxlen=_CRASH_LOOP_DEATHS)
        self._listener = listener
        self._on_listening = on_listening

    def _init_shared_socket(self) -> None:
        self._sfd = self._listener.fileno()  # type: ignore[assignment]
        self._shd = SocketHolder(self._sfd, uds=False, backlog=_BACKLOG)  # type: ignore[assignment, call-arg]
        self._ssp = self._sso = None

    def _drop_shared_socket(self) -> None:
        """Refuse connections from now on: in a backlog that nobody reads, callers would wait."""
        self._listener.close()

    def _spawn_workers(self, spawn_target: Any, target_loader: Any) -> None:
        super()._spawn_workers(spawn_target, target_loader)  # type: ignore[no-untyped-call]
        threading.Thread(target=self._tell_when_listening, daemon=True).start()

    def _tell_when_listening(self) -> None:
        """Wait for an answer: the socket listens before any worker does."""
        connection = http.client.HTTPConnection(self.bind_addr, self.bind_port, timeout=60)
        try:
            connection.request("GET", "/healthz")
            connection.getresponse().read()
        except OSError:
            return
        finally:
            connection.close()
        self._on_listening()

    def _respawn_workers(
        self, workers: Any, spawn_target: Any, target_loader: Any, delay: float = 0
    ) -> None:
        super()._respawn_workers(workers, spawn_target, target_loader, delay)
        # Granian ends the service at a second death within seconds. One sick worker is no reason
        # for that: only when none lives long do we let it.
        if delay:  # not a death: SIGHUP replaces workers, and waits for each
            return
        now = time.monotonic()
        self._deaths.extend(now for _ in workers)
        if sum(now - at < _CRASH_LOOP_SECONDS for at in self._deaths) < _CRASH_LOOP_DEATHS:
            self.respawned_wrks.clear()

    def signal_handler_interrupt(self, *args: Any, **kwargs: Any) -> None:
        if self.interrupt_signal:
            self.hurried = True
            for worker in self.wrks:
                worker.kill()  # type: ignore[no-untyped-call]
        super().signal_handler_interrupt(*args, **kwargs)  # type: ignore[no-untyped-call]
