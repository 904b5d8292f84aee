"""Every route but the data action: health, metrics, the inspector, documentation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from time import time
from typing import Any

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from flowcache.contract import answer
from flowcache.errors import Failure, NotFound, RedisUnavailable
from flowcache.http.app import ROUTE
from flowcache.http.data_action import DataActionSettings, bug, failure_headers
from flowcache.http.docs import page
from flowcache.http.inspector.view import AuditFilter, view
from flowcache.http.openapi import document
from flowcache.policy.gate import Gate
from flowcache.policy.permissions import Permission
from flowcache.ports import AuditRecord, AuditSink
from flowcache.status import WorkerStatus
from flowcache.telemetry.exposition import CONTENT_TYPE, exposition
from flowcache.telemetry.fleet import Question

__all__ = ["PagesSettings", "pages"]

_log = structlog.get_logger(__name__)

Gather = Callable[[Question], Awaitable[Sequence[WorkerStatus]]]
Ready = Callable[[], Awaitable[None]]


class PagesSettings(msgspec.Struct, frozen=True):
    """What the pages show. ``configuration`` has its secrets masked already."""

    version: str
    configuration: dict[str, Any]
    data_action: DataActionSettings = DataActionSettings()


def pages(
    settings: PagesSettings,
    gate: Gate,
    gather: Gather,
    ready: Ready,
    next_id: Callable[[], str],
    audit: AuditSink,
) -> Starlette:
    """Build the application. ``gather`` asks all workers; ``ready`` raises while Redis is away."""

    def require(request: Request, permission: Permission) -> None:
        """Pass if the caller has the permission; who may not is on record."""
        headers = request.headers.raw
        address = gate.address(request.scope.get("client"), headers)
        client = None
        try:
            principal = gate.identify(headers, address)
            client = principal.name
            principal.require(permission)
        except Failure as failure:
            refused(request, client, failure)
            raise

    def refused(request: Request, client: str | None, failure: Failure) -> None:
        request.state.id = next_id()
        audit.record(
            AuditRecord(
                at=time(),
                request_id=request.state.id,
                client=client,
                flow_id=None,
                interaction_id=None,
                operation=None,
                key=None,
                outcome=failure.code,
                hit=None,
                latency_ms=0.0,
            )
        )

    async def healthz(_: Request) -> Response:
        return _json({"status": "ok"})

    async def readyz(_: Request) -> Response:
        try:
            await ready()
        except RedisUnavailable:
            # Which server, and why, is for the inspector: this page is open to anybody.
            return _json({"status": "unavailable", "error": "Redis does not answer."}, 503)
        return _json({"status": "ready"})

    async def metrics(_: Request) -> Response:
        text = exposition(await gather(Question.TOTALS), settings.version)
        return Response(text, media_type=CONTENT_TYPE)

    async def inspector(request: Request) -> Response:
        require(request, Permission.INSPECT_READ)
        wanted = AuditFilter.from_query(dict(request.query_params))
        workers = await gather(Question.EVERYTHING)
        return _json(view(workers, wanted, settings.configuration, settings.version))

    async def openapi(_: Request) -> Response:
        return _json(document(settings.version, settings.data_action))

    async def docs(request: Request) -> Response:
        return HTMLResponse(page(settings.version, settings.data_action, str(request.base_url)))

    async def failed(request: Request, fault: Exception) -> Response:
        request_id = getattr(request.state, "id", None) or next_id()
        failure = _as_failure(request, fault, request_id)
        body = answer.encode(answer.failed(failure, request_id, 0.0, None), 1 << 20)
        response = Response(body, failure.status)
        response.raw_headers = [*failure_headers(failure), (b"content-length", b"%d" % len(body))]
        if isinstance(fault, HTTPException):
            on_route = request.url.path.rstrip("/") == ROUTE
            response.headers.update({"allow": "POST"} if on_route else fault.headers or {})
        return response

    application = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/inspector", inspector),
            Route("/openapi.json", openapi),
            Route("/docs", docs),
        ],
        exception_handlers={Failure: failed, HTTPException: failed, Exception: failed},
    )
    application.router.redirect_slashes = False  # an unknown route is not_found, like any other
    return application


def _as_failure(request: Request, fault: Exception, request_id: str) -> Failure:
    """Turn what was raised into a failure. The contract's codes are all there are: a method that
    a route does not have is a route that does not exist."""
    if isinstance(fault, Failure):
        return fault
    if isinstance(fault, HTTPException):
        route, method = request.url.path, request.method
        if route.rstrip("/") == ROUTE:
            return NotFound(f"{method} is not served here; POST to {ROUTE}.")
        return NotFound(f"There is no {method} {route[:200]}.")
    _log.error("a bug", request_id=request_id, path=request.url.path, exc_info=fault)
    return bug(request_id)


def _json(content: object, status: int = 200) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(
        msgspec.json.encode(content), status, headers=headers, media_type="application/json"
    )
