"""The supervisor: the listening sockets, the workers that share them, the signals that end them.

The supervisor binds the socket, so that a port in use is found before anything else starts, and
all workers accept from it, so that a worker's end loses no connection that waits to be accepted.

Signals:

- SIGTERM, SIGINT: finish what is in flight within the grace, exit with 0;
- the same again: end at once, exit with 1;
- SIGHUP: read the configuration again, and replace the workers one by one.

What there should be is a `Service` and a number of workers of it. Whenever something happens, a
death, a signal, a worker that has begun to serve, `_Supervisor._reconcile` takes the next step from
what there is to what there should be. A service that can't start is given up for the one before.

A service may have a *companion*: one process beside the workers, which they never wait for and
whose death ends nothing. It is replaced at SIGHUP, and ends after the workers.
"""

from __future__ import annotations

import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from time import monotonic
from types import FrameType

import msgspec
import structlog

from flowcache.server import worker
from flowcache.server.asgi import ASGIApp
from flowcache.server.child import SIGNALS, Child
from flowcache.server.refusal import Refuse, plain_refusals
from flowcache.server.worker import ServerSettings

__all__ = ["PortInUse", "Service", "serve"]

_log = structlog.get_logger(__name__)

_BACKLOG = 1024
_START_SECONDS = 30.0
"""A worker that does not serve after so long never will."""
_RESTART_SECONDS = 0.5
"""Between a death and the next start."""
_CRASH_LOOP_DEATHS = 10
_CRASH_LOOP_SECONDS = 30.0
"""So many deaths in so short a time end the service: it can't be mended by starting anew."""
_COMPANION_SECONDS = 2.0
"""Between the death of a companion and the next one."""


class PortInUse(Exception):
    """The address can't be bound. The message is fit for an operator."""


class Service(msgspec.Struct, frozen=True, eq=False):
    """What is served, and how, as a configuration says; each worker calls ``build_apps``.

    ``companion`` is what runs beside the workers until SIGTERM, and returns an exit code.
    """

    build_apps: Callable[[], Sequence[ASGIApp]]
    settings: ServerSettings
    companion: Callable[[], int] | None = None
    refusals: Callable[[], Refuse] = plain_refusals
    """Makes, in each worker, what writes the server's own answers."""


def serve(
    service: Service,
    *,
    reread: Callable[[], Service | None],
    on_listening: Callable[[], None],
) -> int:
    """Serve until a signal ends it; return the exit code.

    ``reread`` makes the service anew at SIGHUP, or tells what hinders it and returns None;
    ``on_listening`` is called as soon as a worker serves.

    Raises:
        PortInUse: somebody listens there already, or the address is not this machine's.
    """
    with ExitStack() as stack:
        listening = [
            stack.enter_context(_listen(*address)) for address in service.settings.addresses
        ]
        signals = stack.enter_context(_signals())
        return _Supervisor(service, listening, reread, on_listening).run(signals)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as fault:
        raise PortInUse(f"can't listen on {host}:{port}: {fault.strerror or fault}.") from None
    listener.setblocking(False)
    return listener


class _Worker(Child):
    """A worker process, as its supervisor knows it."""

    def __init__(self, service: Service, listening: Sequence[socket.socket]) -> None:
        self.service = service
        self.is_serving = False
        self.readiness, ready = get_context("fork").Pipe(duplex=False)
        super().__init__("worker", partial(_work, service, listening, ready))
        self.kill_at = monotonic() + _START_SECONDS
        ready.close()

    def has_begun_to_serve(self) -> bool:
        """Read the worker's word. Its end without one is heard of by its death."""
        try:
            self.readiness.recv_bytes()
        except EOFError:
            return False
        self.is_serving = True
        if not self.is_draining:
            self.kill_at = float("inf")
        return True

    def forget(self) -> int | None:
        """Let go of a process that has ended; return its exit code."""
        self.readiness.close()
        return super().forget()


def _work(service: Service, listening: Sequence[socket.socket], ready: Pipe) -> int:
    def on_serving() -> None:
        ready.send_bytes(b"serving")
        ready.close()

    return worker.run(
        service.build_apps, listening, service.settings, service.refusals(), on_serving
    )


class _Companion(Child):
    """The process of a service's companion, as its supervisor knows it."""

    def __init__(
        self, service: Service, run: Callable[[], int], listening: Sequence[socket.socket]
    ) -> None:
        self.service = service

        def main() -> int:
            for each in listening:
                each.close()  # it accepts nobody
            return run()

        super().__init__("companion", main)


class _Supervisor:
    """What there is, and what there should be."""

    def __init__(
        self,
        service: Service,
        listening: Sequence[socket.socket],
        reread: Callable[[], Service | None],
        on_listening: Callable[[], None],
    ) -> None:
        self._service = service
        self._listening = listening
        self._reread = reread
        self._on_listening: Callable[[], None] | None = on_listening
        self._workers: list[_Worker] = []
        self._companion: _Companion | None = None
        self._next_companion = 0.0
        self._deaths: deque[float] = deque(maxlen=_CRASH_LOOP_DEATHS)
        self._next_start = 0.0
        self._is_ending = False
        self._end_by = float("inf")
        self._exit_code = 0

    def run(self, signals: socket.socket) -> int:
        """Keep the service up until it is ended."""
        react = {
            signal.SIGTERM: self._end,
            signal.SIGINT: self._end,
            signal.SIGHUP: self._reload,
        }
        try:
            while True:
                self._reconcile()
                self._reconcile_companion()
                if self._is_ending and not self._children():
                    return self._exit_code
                for number in self._wait(signals):
                    react[signal.Signals(number)]()
        finally:
            for each in self._children():
                each.kill()
                each.forget()

    def _children(self) -> list[Child]:
        return [*self._workers, *([] if self._companion is None else [self._companion])]

    def _wait(self, signals: socket.socket) -> bytes:
        """Wait for something to happen; return the signals that came."""
        ended = {each.process.sentinel: each for each in self._children()}
        words = {each.readiness: each for each in self._workers if not each.is_serving}
        now = monotonic()
        due = [each.kill_at for each in self._children()]
        if not self._is_ending:
            starts = (self._next_start, self._next_companion)
            due.extend(start for start in starts if start > now)
        soonest = min(due, default=float("inf"))
        timeout = None if soonest == float("inf") else max(0.0, soonest - now)
        ready = wait([signals, *ended, *words], timeout)
        for each in ready:
            if each in words and words[each].has_begun_to_serve() and self._on_listening:
                self._on_listening()
                self._on_listening = None
        for sentinel, dead in ended.items():
            if sentinel in ready:
                if isinstance(dead, _Worker):
                    self._bury(dead)
                else:
                    self._bury_companion(dead)
        for child in self._children():
            if child.kill_at <= monotonic():
                name, pid = child.process.name, child.process.pid
                _log.error(f"a {name} is killed: it took too long", pid=pid)
                child.kill_at = float("inf")
                child.kill()
        return signals.recv(64) if signals in ready else b""

    def _reconcile(self) -> None:
        """Take the next step from what there is to what there should be."""
        if self._is_ending:
            return
        staying = [each for each in self._workers if not each.is_draining]
        current = [each for each in staying if each.service is self._service]
        old = [each for each in staying if each.service is not self._service]
        serving = sum(each.is_serving for each in current)
        wanted = self._service.settings.workers
        # An old one goes for each new one that serves; one that never served can go at once.
        spare = len(old) - (wanted - serving) if serving else 0
        for each in old:
            if spare > 0 or not each.is_serving:
                each.drain(each.service.settings.grace)
                spare -= 1
        missing = wanted - len(current)
        if old:  # one by one
            missing = min(missing, 1 - (len(current) - serving))
        if missing > 0 and monotonic() >= self._next_start:
            self._workers += (_Worker(self._service, self._listening) for _ in range(missing))

    def _reconcile_companion(self) -> None:
        """Have the one companion that there should be: of this service, until no worker is left."""
        running, run = self._companion, self._service.companion
        if running is None:
            if run is not None and not self._is_ending and monotonic() >= self._next_companion:
                self._companion = _Companion(self._service, run, self._listening)
        elif not running.is_draining:
            if self._is_ending and not self._workers:
                running.drain(max(0.0, self._end_by - monotonic()))
            elif running.service is not self._service and not self._is_ending:
                running.drain(running.service.settings.grace)

    def _bury_companion(self, dead: Child) -> None:
        self._companion = None
        pid, code = dead.process.pid, dead.forget()
        if not dead.is_draining:
            _log.error("the companion of the workers died", pid=pid, code=code)
            self._next_companion = monotonic() + _COMPANION_SECONDS

    def _bury(self, dead: _Worker) -> None:
        self._workers.remove(dead)
        pid, code = dead.process.pid, dead.forget()
        if dead.is_draining or self._is_ending:
            return
        _log.error("a worker died", pid=pid, code=code, served=dead.is_serving)
        if not dead.is_serving and dead.service is self._service:
            staying = [each for each in self._workers if not each.is_draining]
            before = [each.service for each in staying if each.service is not self._service]
            serves = any(each.is_serving and each.service is self._service for each in staying)
            if before and not serves:
                _log.error("the new configuration does not come up; the one before stays")
                self._service = before[-1]
                return
        now = monotonic()
        self._next_start = now + _RESTART_SECONDS
        self._deaths.append(now)
        if len(self._deaths) == _CRASH_LOOP_DEATHS and self._deaths[0] > now - _CRASH_LOOP_SECONDS:
            _log.error("workers keep dying; the service ends", deaths=_CRASH_LOOP_DEATHS)
            self._end()
            self._exit_code = 1

    def _reload(self) -> None:
        if self._is_ending:
            return
        try:
            service = self._reread()
        except Exception as fault:  # a bug in what only reads ends no service
            _log.error("a bug; the configuration before stays", exc_info=fault)
            return
        if service is None:
            _log.error("the configuration has faults; the one before stays, nothing is restarted")
            return
        before, now = self._service.settings, service.settings
        if len(before.addresses) != len(now.addresses):
            _log.error("admin.port is set or removed only at a restart; nothing is restarted")
            return
        if before.addresses != now.addresses:
            _log.warning("http.host, http.port, admin.host, admin.port change only at a restart")
        _log.info("the workers are replaced", workers=now.workers)
        self._service = service
        self._next_start = self._next_companion = 0.0

    def _end(self) -> None:
        if self._is_ending:
            self._exit_code = 1
            for each in self._children():
                each.kill()
            return
        self._is_ending = True
        self._end_by = monotonic() + self._service.settings.grace
        # The workers have it open still. They accept who has connected, and close it.
        for bound in self._listening:
            bound.close()
        for each in self._workers:
            if not each.is_draining:
                each.drain(each.service.settings.grace)


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Give a socket from which the numbers of the signals that come can be read."""
    read, write = socket.socketpair()
    with read, write:
        write.setblocking(False)
        before_fd = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, _noted) for number in SIGNALS}
        try:
            yield read
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before_fd)


def _noted(_: int, __: FrameType | None) -> None:
    """Nothing is done in a signal's handler: its number is in the socket."""
