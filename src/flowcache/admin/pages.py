"""Every route but the data action: health, metrics, the inspector, documentation.

What each costs, and what bounds it:

- a page that never changes is made once (`constant`);
- what all who ask for it see alike, metrics and readiness, is made once for all of them and kept
  for a moment (`shared`);
- what is made for one who showed a credential is made one by one, and few wait for it (`line`);
- all of them together take a bounded part of each turn of the event loop (`routing`, `turns`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, time
from typing import Any

import msgspec

from flowcache.admin.constant import Content, constant
from flowcache.admin.docs import page, policy
from flowcache.admin.inspector.circuits import (
    SWITCH,
    Control,
    circuits_view,
    read_order,
    shards_of,
    switched_view,
)
from flowcache.admin.inspector.view import AuditFilter, view
from flowcache.admin.line import Line
from flowcache.admin.openapi import JSON, document
from flowcache.admin.routing import Page, Request, Response, Router, as_json, shielded
from flowcache.admin.shared import Shared
from flowcache.api.data_action import DataActionSettings
from flowcache.audit.attempt import Attempt, on_disk
from flowcache.authn.gate import Gate
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.errors import (
    Failure,
    InvalidRequest,
    LockedOut,
    NoPassword,
    RedisUnavailable,
    TlsFailed,
    TooLarge,
    Unrecorded,
)
from flowcache.fleet.messages import Question
from flowcache.metrics.exposition import CONTENT_TYPE, exposition
from flowcache.ports import AuditRecord, AuditSink, Clock
from flowcache.server.turns import Turnstile
from flowcache.status import DeliveryStatus, WorkerStatus

__all__ = ["PROBES", "Deliveries", "PagesSettings", "nothing_delivered", "pages"]

PROBES = frozenset({"/healthz", "/readyz"})
"""What load balancers and orchestrators ask for: served at each address."""

_RECORD_SECONDS = 1.0
"""How long the refusal of a page waits for its record."""
_PAUSE = 0.1
"""Seconds between two looks at the metrics, and at the readiness, however many ask."""
_MOST_IN_LINE = 8
"""Requests for the inspector that are answered or wait, others are refused."""

_NOT_READY: tuple[tuple[type[Failure], str], ...] = (
    (Unrecorded, "The audit can't be written."),
    (NoPassword, "The file of flowcache's password for Redis can't be read."),
    (LockedOut, "Redis refuses flowcache's user or password."),
    (TlsFailed, "TLS with Redis fails; a certificate or its settings are wrong."),
    (RedisUnavailable, "Redis does not answer."),
)
"""What /readyz says of a failure; the first row that fits counts. Which server it is, and which
file, is for the inspector: the page is open to anybody."""

_MAX_ORDER_BYTES = 4096
_ORDER_SECONDS = 2.0

_METRICS = shielded({b"content-type": CONTENT_TYPE.encode()})
_ALIVE = as_json({"status": "ok"})
_READY = as_json({"status": "ready"})

Gather = Callable[[Question], Awaitable[Sequence[WorkerStatus]]]
Ready = Callable[[], Awaitable[None]]
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
    need_credential: bool = False
    """Whether metrics and documentation are shown only to whoever may inspect."""


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
    clock: Clock = monotonic,
    turns: Turnstile | None = None,
) -> Router:
    """Build the application.

    ``gather`` asks all workers; ``ready`` raises while calls can't be served; ``audit`` takes
    attempts that are refused here. ``history`` reads the audit journal, and blocks; without one the
    records are those that the workers have in memory. ``deliveries`` tells how the audit is
    delivered. ``turns`` bounds what is done in a turn of the loop.
    """

    line = Line(_MOST_IN_LINE)
    # Reading the journal blocks for up to a fifth of a second, and a long view takes as long.
    beside = ThreadPoolExecutor(1, thread_name_prefix="inspector")

    def address_of(request: Request) -> str | None:
        return gate.address(request.scope.get("client"), request.headers)

    async def allowed(
        request: Request, permission: Permission, operation: str | None = None
    ) -> Principal:
        """Return who calls, if they have the permission; who may not is on record."""
        peer, extensions = request.scope.get("client"), request.scope.get("extensions")
        client = None
        try:
            headers, address = request.headers, address_of(request)
            principal = await gate.authenticate(headers, address, peer, extensions)
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
        attempt = Attempt(audit, time, next_id(), address_of(request), client, operation)
        attempt.detail = failure.detail
        request.id = attempt.id
        request.kept = attempt.conclude(failure.code)

    async def healthz(_: Request) -> Response:
        return _ALIVE

    async def look_ready() -> Response:
        try:
            await ready()
        except (RedisUnavailable, Unrecorded) as fault:
            error = next(told for kind, told in _NOT_READY if isinstance(fault, kind))
            return as_json({"status": "unavailable", "error": error}, 503)
        return _READY

    async def look_metrics() -> Response:
        workers = await gather(Question.TOTALS)
        text = exposition(workers, settings.version, await deliveries())
        return Response(200, _METRICS, text)

    readiness = Shared(look_ready, _PAUSE, clock)
    measured = Shared(look_metrics, _PAUSE, clock)

    async def readyz(_: Request) -> Response:
        return await readiness()

    async def metrics(_: Request) -> Response:
        return await measured()

    async def inspector(request: Request) -> Response:
        await allowed(request, Permission.INSPECT_READ)
        wanted = AuditFilter.from_query(request.query())
        async with line:
            workers = await gather(Question.EVERYTHING if history is None else Question.TOTALS)
            delivered = await deliveries()

            def look() -> Response:
                records = None if history is None else history(wanted)
                shown = settings.configuration
                return as_json(view(workers, wanted, shown, settings.version, records, delivered))

            return await asyncio.get_running_loop().run_in_executor(beside, look)

    async def circuits(request: Request) -> Response:
        await allowed(request, Permission.INSPECT_READ)
        async with line:
            workers = await gather(Question.TOTALS)
            return as_json(circuits_view(workers, control.overrides(), control.configured))

    async def switch(request: Request) -> Response:
        principal = await allowed(request, Permission.CIRCUITS_WRITE, SWITCH)
        try:
            body = await _read(request)
            shards = shards_of(await gather(Question.TOTALS), control.overrides())
            order = read_order(body, shards)
        except Failure as failure:
            refused(request, principal.name, SWITCH, failure)
            raise
        switched = await control.switch(order, principal.name, address_of(request), next_id())
        return as_json(switched_view(order, switched))

    def openapi() -> Content:
        body = msgspec.json.encode(
            document(settings.version, settings.data_action, settings.need_credential)
        )
        return Content(body, {b"content-type": JSON.encode()})

    def docs() -> Content:
        html = page(settings.version, settings.data_action, settings.need_credential)
        about = {
            b"content-type": b"text/html; charset=utf-8",
            b"content-security-policy": policy(html).encode(),
        }
        return Content(html.encode(), about)

    def guarded(page: Page) -> Page:
        """Show ``page`` to whoever may inspect, if the configuration says so."""
        if not settings.need_credential:
            return page

        async def show(request: Request) -> Response:
            await allowed(request, Permission.INSPECT_READ)
            return await page(request)

        return show

    async def misdirected(request: Request, failure: Failure) -> None:
        """Put on record who asks for what is not there, if it is somebody known: a credential that
        is tried at other doors may be stolen. What strangers try is not: it would fill the audit.
        """
        peer, extensions = request.scope.get("client"), request.scope.get("extensions")
        client = await gate.recognise(request.headers, address_of(request), peer, extensions)
        if client is not None:
            refused(request, client, None, failure)

    return Router(
        {
            "/healthz": {"GET": healthz},
            "/readyz": {"GET": readyz},
            "/metrics": {"GET": guarded(metrics)},
            "/inspector": {"GET": inspector},
            "/inspector/circuits": {"GET": circuits, "POST": switch},
            "/openapi.json": {"GET": guarded(constant(openapi))},
            "/docs": {"GET": guarded(constant(docs))},
        },
        misdirected,
        _in_time,
        next_id,
        turns or Turnstile(),
    )


async def _in_time(kept: Awaitable[bool]) -> None:
    """Wait for a record. Whether it is on disk changes nothing: the inspector tells of that."""
    await on_disk(kept, _RECORD_SECONDS)


async def _read(request: Request) -> bytes:
    """Return a small body.

    Raises:
        TooLarge: it is longer than any order.
        InvalidRequest: it did not arrive in time, or broke off.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(_ORDER_SECONDS):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise InvalidRequest("body: it broke off.")
                body += message["body"]
                if len(body) > _MAX_ORDER_BYTES:
                    raise TooLarge(f"body: over the limit of {_MAX_ORDER_BYTES} bytes.")
                if not message["more_body"]:
                    return bytes(body)
    except TimeoutError:
        raise InvalidRequest(f"body: it was not complete after {_ORDER_SECONDS:g} s.") from None
