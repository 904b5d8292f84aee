"""One worker process: the application's life around a listener's.

Signals to a worker come from its supervisor: SIGTERM ends it in good order, SIGINT is ignored
(Ctrl-C reaches the supervisor, which decides).
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic, time
from typing import Any, NamedTuple

import msgspec
import structlog
import uvloop

from flowcache.server.asgi import ASGIApp, Message
from flowcache.server.listener import ConnectionLimits, Listener
from flowcache.server.refusal import Refuse

__all__ = ["CLOSING_SECONDS", "Address", "ServerSettings", "run"]

_log = structlog.get_logger(__name__)

_SPARE_FILES = 128
"""File descriptors for what is opened later: connections to Redis, to siblings, journal readers."""
_GC_THRESHOLDS = (10_000, 20, 50)
"""When the garbage collector looks at its three generations.

A call leaves no reference cycles behind (tests/unit/http/test_cycles.py), so reference counting
frees what it used, and the collector only finds what rare paths leave. Python's own thresholds
(700, 10, 10) would make it go through each large value while that is decoded: up to 30 ms.
"""
_ADMIN_CONNECTIONS = 64
"""Connections to the address for operators: a few scrapers and people."""
CLOSING_SECONDS = 2.0
"""What a worker has beyond its grace, to let go of everything."""


class Address(NamedTuple):
    """Where connections are accepted."""

    host: str
    port: int


class ServerSettings(msgspec.Struct, frozen=True):
    """Where the service listens, who serves, and how it ends. Times are in seconds."""

    host: str
    port: int
    workers: int
    grace: float
    """How long whatever is under way may take to end."""
    drain: float = 1.0
    """How long an idle connection is kept for a request that may be on its way."""
    limits: ConnectionLimits = ConnectionLimits()
    tls: ssl.SSLContext | None = None
    """None: plain HTTP is spoken."""
    admin: Address | None = None
    """Where the second application is served; None: there is one only."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Return where each application is served, in their order."""
        public = Address(self.host, self.port)
        return (public,) if self.admin is None else (public, self.admin)


def run(
    build_apps: Callable[[], Sequence[ASGIApp]],
    listening: Sequence[socket.socket],
    settings: ServerSettings,
    refuse: Refuse,
    on_serving: Callable[[], None],
) -> int:
    """Serve until SIGTERM; return the exit code. ``on_serving`` is called at the first moment.

    There is an application for each socket; the first of them has the lifespan.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(build_apps, listening, settings, refuse, on_serving))


async def _serve(
    build_apps: Callable[[], Sequence[ASGIApp]],
    listening: Sequence[socket.socket],
    settings: ServerSettings,
    refuse: Refuse,
    on_serving: Callable[[], None],
) -> int:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    loop.set_exception_handler(_log_stray)
    apps = build_apps()
    lifespan = _Lifespan(apps[0])
    if not await lifespan.start():
        return 1
    # Until now SIGTERM just ends the process: nobody waits for an answer, and the start may hang.
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    limits = msgspec.structs.replace(
        settings.limits, connections=_within_files(settings.limits.connections)
    )
    few = msgspec.structs.replace(limits, connections=min(limits.connections, _ADMIN_CONNECTIONS))
    listeners = [
        Listener(app, bound, which, clock=monotonic, now=time, refuse=refuse, tls=settings.tls)
        for app, bound, which in zip(apps, listening, (limits, few), strict=False)
    ]
    for listener in listeners:
        listener.start()
    _settle_memory()
    on_serving()
    await ended.wait()
    began = monotonic()
    await asyncio.gather(*(each.drain(settings.drain, settings.grace) for each in listeners))
    with suppress(TimeoutError):
        async with asyncio.timeout(
            max(0.0, began + settings.grace - monotonic()) + CLOSING_SECONDS
        ):
            await lifespan.end()
    return 0


def _settle_memory() -> None:
    """Take what the start has built out of the garbage collector's sight: it stays anyway."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def _log_stray(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody caught as a bug. The loop would print its words, and arguments: values."""
    fault = context.get("exception")
    _log.error("a bug", exc_info=fault, stray=context["message"] if fault is None else True)


def _within_files(wanted: int) -> int:
    """Return how many connections there are file descriptors for, and ask for as many as wanted.

    What is open already and `_SPARE_FILES` more are kept free of connections. Where the limit is so
    low that little is left, two thirds of that are: without Redis no connection is of any use.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = _files_open()
    needed = wanted + taken + _SPARE_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    left = soft - taken
    connections = max(1, min(wanted, left - min(_SPARE_FILES, 2 * left // 3)))
    if connections < wanted:
        _log.warning(
            "file_descriptor_limit_too_low",
            limit=soft,
            needed=needed,
            connections=connections,
            configured=wanted,
            remedy=f"Raise it to {needed}: LimitNOFILE={needed} in the systemd unit, or ulimit -n "
            f"{needed} before the start. Or lower http.max_connections.",
        )
    return connections


def _files_open() -> int:
    """Return how many file descriptors this process has open."""
    return len(os.listdir("/dev/fd")) - 1  # one of them is for the look itself


class _Lifespan:
    """The ASGI lifespan of an application (specification 2.0)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._heard: asyncio.Queue[Message] = asyncio.Queue()
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None]

    async def start(self) -> bool:
        """Return whether the application is ready to serve."""
        self._task = asyncio.create_task(self._live())
        return await self._ask("lifespan.startup") == "lifespan.startup.complete"

    async def end(self) -> None:
        """Let the application end."""
        await self._ask("lifespan.shutdown")
        await self._task

    async def _ask(self, what: str) -> str:
        self._heard.put_nowait({"type": what})
        answer: str = (await self._said.get())["type"]
        return answer

    async def _live(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        try:
            await self._app(scope, self._heard.get, self._said.put)
        except Exception as fault:
            _log.error("the application's life ended", exc_info=fault)
        finally:
            self._said.put_nowait({"type": "lifespan.over"})
