"""Every route but the data action: health, metrics, the inspector, documentation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import time
from typing import Any

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from flowcache.contract import answer
from flowcache.errors import (
    Failure,
    InvalidRequest,
    LockedOut,
    MethodNotAllowed,
    NoPassword,
    NotFound,
    RedisUnavailable,
    TooLarge,
    Unrecorded,
)
from flowcache.http.app import ROUTE
from flowcache.http.data_action import DataActionSettings
from flowcache.http.docs import page, policy
from flowcache.http.envelope import bug, failure_headers
from flowcache.http.inspector.aside import Aside
from flowcache.http.inspector.circuits import (
    SWITCH,
    Control,
    circuits_view,
    read_order,
    shards_of,
    told,
)
from flowcache.http.inspector.view import AuditFilter, view
from flowcache.http.openapi import document
from flowcache.policy.gate import Gate
from flowcache.policy.permissions import Permission
from flowcache.policy.principals import Principal
from flowcache.ports import AuditRecord, AuditSink
from flowcache.status import DeliveryStatus, WorkerStatus
from flowcache.telemetry.exposition import CONTENT_TYPE, exposition
from flowcache.telemetry.fleet import Question

__all__ = ["Deliveries", "PagesSettings", "nothing_delivered", "pages"]

_RECORD_SECONDS = 1.0
"""How long the refusal of a page waits for its record."""

_NOT_READY: tuple[tuple[type[Failure], str], ...] = (
    (Unrecorded, "The audit can't be written."),
    (NoPassword, "The file of flowcache's password for Redis can't be read."),
    (LockedOut, "Redis refuses flowcache's user or password."),
    (RedisUnavailable, "Redis does not answer."),
)
"""What /readyz says of a failure; the first row that fits counts. Which server it is, and which
file, is for the inspector: the page is open to anybody."""

_log = structlog.get_logger(__name__)

_MAX_ORDER_BYTES = 4096
_ORDER_SECONDS = 2.0

_SHIELD = (
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
)
"""What keeps a browser from doing more with a page than showing it (OWASP Secure Headers)."""

_HSTS = "max-age=31536000"
"""For a year a browser asks this host by TLS only; other names in its domain are not ours."""

Gather = Callable[[Question], Awaitable[Sequence[WorkerStatus]]]
Ready = Callable[[], Awaitable[None]]
Endpoint = Callable[[Request], Awaitable[Response]]
Deliveries = Callable[[], Awaitable[Sequence[DeliveryStatus]]]
History = Callable[[AuditFilter], Sequence[AuditRecord]]


async def nothing_delivered() -> Sequence[DeliveryStatus]:
    """Say that the audit stays where it is."""
    return ()


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
    control: Control,
    next_id: Callable[[], str],
    audit: AuditSink,
    history: History | None = None,
    deliveries: Deliveries = nothing_delivered,
) -> Starlette:
    """Build the application.

    ``gather`` asks all workers; ``ready`` raises while calls can't be served; ``audit`` takes
    attempts that are refused here. ``history`` reads the audit journal, and blocks; without one the
    records are those that the workers have in memory. ``deliveries`` tells how the audit is
    delivered.
    """

    aside = Aside()

    def address_of(request: Request) -> str | None:
        return gate.address(request.scope.get("client"), request.headers.raw)

    def allowed(
        request: Request, permission: Permission, operation: str | None = None
    ) -> Principal:
        """Return who calls, if they have the permission; who may not is on record."""
        peer, extensions = request.scope.get("client"), request.scope.get("extensions")
        client = None
        try:
            headers, address = request.headers.raw, address_of(request)
            principal = gate.identify(headers, address, peer, extensions)
            client = principal.name
            gate.admit(principal)
            principal.require(permission)
            return principal
        except Failure as failure:
            refused(request, client, operation, failure)
            raise

    def refused(
        request: Request, client: str | None, operation: str | None, failure: Failure
    ) -> None:
        """Record an attempt that came to nothing; the answer waits for its record."""
        request.state.id = next_id()
        request.state.kept = audit.record(
            AuditRecord(
                at=time(),
                request_id=request.state.id,
                client=client,
                flow_id=None,
                interaction_id=None,
                operation=operation,
                key=None,
                outcome=failure.code,
                hit=None,
                latency_ms=0.0,
                address=address_of(request),
            )
        )

    async def healthz(_: Request) -> Response:
        return _json({"status": "ok"})

    async def readyz(_: Request) -> Response:
        try:
            await ready()
        except (RedisUnavailable, Unrecorded) as fault:
            error = next(told for kind, told in _NOT_READY if isinstance(fault, kind))
            return _json({"status": "unavailable", "error": error}, 503)
        return _json({"status": "ready"})

    async def metrics(_: Request) -> Response:
        workers = await gather(Question.TOTALS)
        text = exposition(workers, settings.version, await deliveries())
        return Response(text, media_type=CONTENT_TYPE)

    async def inspector(request: Request) -> Response:
        allowed(request, Permission.INSPECT_READ)
        wanted = AuditFilter.from_query(dict(request.query_params))
        workers = await gather(Question.EVERYTHING if history is None else Question.TOTALS)
        delivered = await deliveries()

        def look() -> Response:
            records = None if history is None else history(wanted)
            shown = settings.configuration
            return _json(view(workers, wanted, shown, settings.version, records, delivered))

        return await aside(look)

    async def circuits(request: Request) -> Response:
        if request.method == "POST":
            return await switch(request)
        allowed(request, Permission.INSPECT_READ)
        workers = await gather(Question.TOTALS)
        return _json(circuits_view(workers, control.wishes(), control.configured))

    async def switch(request: Request) -> Response:
        principal = allowed(request, Permission.CIRCUITS_WRITE, SWITCH)
        try:
            body = await _read(request)
            shards = shards_of(await gather(Question.TOTALS), control.wishes())
            order = read_order(body, shards)
        except Failure as failure:
            refused(request, principal.name, SWITCH, failure)
            raise
        switched = await control.switch(order, principal.name, address_of(request), next_id())
        return _json(told(order) | switched._asdict())

    async def openapi(_: Request) -> Response:
        return _json(document(settings.version, settings.data_action))

    async def docs(request: Request) -> Response:
        html = page(settings.version, settings.data_action, str(request.base_url))
        return HTMLResponse(html, headers={"content-security-policy": policy(html)})

    async def misdirected(request: Request, fault: Exception) -> Response:
        """Answer what is served nowhere here. Who is known is on record with it: a credential that
        is tried at other doors may be stolen. What strangers try is not: it would fill the audit.
        """
        peer, extensions = request.scope.get("client"), request.scope.get("extensions")
        client = gate.recognise(request.headers.raw, address_of(request), peer, extensions)
        if client is not None:
            refused(request, client, None, _as_failure(request, fault, ""))
        return await failed(request, fault)

    async def failed(request: Request, fault: Exception) -> Response:
        request_id = getattr(request.state, "id", None) or next_id()
        failure = _as_failure(request, fault, request_id)
        await _in_time(getattr(request.state, "kept", None))
        body = answer.encode(answer.failed(failure, request_id, 0.0, None), 1 << 20)
        response = Response(body, failure.status)
        response.raw_headers = [*failure_headers(failure), (b"content-length", b"%d" % len(body))]
        if isinstance(fault, HTTPException):
            on_route = request.url.path.rstrip("/") == ROUTE
            response.headers.update({"allow": "POST"} if on_route else fault.headers or {})
        return _shielded(request, response)

    def served(endpoint: Endpoint) -> Endpoint:
        """Answer what ``endpoint`` raises, too.

        Starlette's own handler of bugs raises them once more: they would be logged twice, and the
        connection be cut.
        """

        async def serve(request: Request) -> Response:
            try:
                return _shielded(request, await endpoint(request))
            except Exception as fault:
                return await failed(request, fault)

        return serve

    application = Starlette(
        routes=[
            Route("/healthz", served(healthz)),
            Route("/readyz", served(readyz)),
            Route("/metrics", served(metrics)),
            Route("/inspector", served(inspector)),
            Route("/inspector/circuits", served(circuits), methods=["GET", "POST"]),
            Route("/openapi.json", served(openapi)),
            Route("/docs", served(docs)),
        ],
        exception_handlers={HTTPException: misdirected},
    )
    application.router.redirect_slashes = False  # an unknown route is not_found, like any other
    return application


async def _in_time(kept: Awaitable[bool] | None) -> None:
    """Wait until a record is on disk, where that is promised.

    A broken journal changes nothing here: the page is where it is told.
    """
    if kept is not None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_RECORD_SECONDS):
                await kept


async def _read(request: Request) -> bytes:
    """Return a small body.

    Raises:
        TooLarge: it is longer than any order.
        InvalidRequest: it did not arrive in time, or broke off.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(_ORDER_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > _MAX_ORDER_BYTES:
                    raise TooLarge(f"body: over the limit of {_MAX_ORDER_BYTES} bytes.")
    except TimeoutError:
        raise InvalidRequest(f"body: it was not complete after {_ORDER_SECONDS:g} s.") from None
    except ClientDisconnect:
        raise InvalidRequest("body: it broke off.") from None
    return bytes(body)


def _as_failure(request: Request, fault: Exception, request_id: str) -> Failure:
    """Turn what was raised into a failure of the contract."""
    if isinstance(fault, Failure):
        return fault
    if isinstance(fault, HTTPException):
        route, method = request.url.path, request.method
        if route.rstrip("/") == ROUTE:
            return MethodNotAllowed(f"{method} is not allowed on {ROUTE}; send a POST.")
        if fault.status_code == 405:
            allowed = (fault.headers or {})["Allow"]
            return MethodNotAllowed(f"{method} is not allowed on {route}; use {allowed}.")
        return NotFound(f"There is no {method} {route[:200]}.")
    _log.error("a bug", request_id=request_id, path=request.url.path, exc_info=fault)
    return bug(request_id)


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _shielded(request: Request, response: Response) -> Response:
    for name, value in _SHIELD:
        response.headers.setdefault(name, value)
    if request.scope["scheme"] == "https":  # said in clear, it would count for nothing (RFC 6797)
        response.headers["strict-transport-security"] = _HSTS
    return response
