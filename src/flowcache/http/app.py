"""One ASGI application: the data action on its own path, the pages for everything else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from flowcache.http.asgi import ASGIApp, Receive, Scope, Send

__all__ = ["ROUTE", "App", "Lifespan"]

ROUTE = "/data-action/redis"
"""A slash at its end changes nothing: a redirect would lose the body of a POST."""

_ROUTES = (ROUTE, ROUTE + "/")

_log = structlog.get_logger(__name__)


class Lifespan(Protocol):
    """What begins and ends with a worker."""

    async def start(self) -> None:
        """Get ready; the worker takes no requests before this returns."""

    async def close(self) -> None:
        """Finish what is in flight, then let go of everything."""


class App:
    """Dispatch by path. ``build`` is called in the worker, inside its event loop."""

    def __init__(self, build: Callable[[], tuple[ASGIApp, ASGIApp, Lifespan]]) -> None:
        self._build = build
        self._data_action: ASGIApp
        self._pages: ASGIApp

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            if scope["path"] in _ROUTES and scope["method"] == "POST":
                return self._data_action(scope, receive, send)
            return self._pages(scope, receive, send)
        if scope["type"] == "lifespan":
            return self._lifespan(receive, send)
        raise ValueError(f"nothing here serves {scope['type']}")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self._data_action, self._pages, lifespan = self._build()
            await lifespan.start()
        except Exception as fault:
            # Raised, it would be taken for a server without lifespan, which would go on to serve.
            _log.error("the worker can't start", exc_info=fault)
            await send({"type": "lifespan.startup.failed", "message": str(fault)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await lifespan.close()
        await send({"type": "lifespan.shutdown.complete"})
