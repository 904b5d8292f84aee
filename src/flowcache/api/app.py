"""One ASGI application: the data action on its own path, the pages for everything else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

import structlog

from flowcache.api.data_action import ROUTE
from flowcache.server.asgi import ASGIApp, Receive, Scope, Send
from flowcache.server.direct import Direct

__all__ = ["ROUTE", "App", "Lifespan", "Parts"]

_ROUTES = (ROUTE, ROUTE + "/")

_log = structlog.get_logger(__name__)


class Lifespan(Protocol):
    """What begins and ends with a worker."""

    async def start(self) -> None:
        """Get ready; the worker takes no requests before this returns."""

    async def close(self) -> None:
        """Finish what is in flight, then let go of everything."""


class Parts(NamedTuple):
    """What a worker serves. ``admin`` are the pages at the address for operators."""

    data_action: ASGIApp
    pages: ASGIApp
    admin: ASGIApp
    lifespan: Lifespan
    direct: Direct | None = None
    """Takes data actions that came whole."""


class App:
    """Dispatch by path. ``build`` is called in the worker, inside its event loop."""

    def __init__(self, build: Callable[[], Parts]) -> None:
        self._build = build
        self._data_action: ASGIApp
        self._pages: ASGIApp
        self._admin: ASGIApp
        self.direct: Direct | None = None
        """Where requests that came whole may go, once the lifespan has begun."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            if scope["path"] in _ROUTES and scope["method"] == "POST":
                return self._data_action(scope, receive, send)
            return self._pages(scope, receive, send)
        if scope["type"] == "lifespan":
            return self._lifespan(receive, send)
        raise ValueError(f"nothing here serves {scope['type']}")

    def admin(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve the address for operators; it begins and ends with the other."""
        return self._admin(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self._data_action, self._pages, self._admin, lifespan, self.direct = self._build()
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
