"""The endpoint of the data action: who calls, and the body; then the core runs the call.

    authenticate -> read the body -> run (`calls.running`) -> answer

There are two entrances. A request that came whole is started directly (`DataAction.start`), without
a coroutine. Every other one, and every one on another ASGI server, comes by ASGI
(`DataAction.__call__`), where the body is awaited. Both lead to `Calls.start`. Whatever fails on
the way ends the call in one place, `Calls.refuse`; so does a bug.
"""

from __future__ import annotations

import asyncio
from functools import partial

from flowcache.api.body import BodyReader
from flowcache.api.envelope import JSON_HEADERS, failure_headers
from flowcache.authn.gate import Gate, Shown, Unverified
from flowcache.authz.principal import Principal
from flowcache.calls.call import Call, Caller, Outcome
from flowcache.calls.running import Calls, CallSettings
from flowcache.errors import Failure
from flowcache.executing import Tasks
from flowcache.ports import Clock
from flowcache.server.asgi import Receive, Scope, Send
from flowcache.server.direct import Direct, Handler, Request
from flowcache.server.framing import Head
from flowcache.server.turns import Turnstile

__all__ = ["ROUTE", "DataAction", "DataActionSettings"]

ROUTE = "/data-action/redis"
"""A slash at its end changes nothing: a redirect would lose the body of a POST."""

_TARGETS = frozenset({ROUTE.encode(), ROUTE.encode() + b"/"})


class DataActionSettings(CallSettings, frozen=True):
    """What a data action may take. Times are in seconds, sizes in bytes."""

    max_body: int = 256 * 1024
    body_timeout: float = 2.0
    max_unfinished: int = 32 << 20
    """How many bytes of bodies that are not complete may be held."""
    most_unfinished: int = 2048
    """How many bodies may be incomplete: half of the connections there are by default."""


class _Direct(Caller, Handler):
    """A request that came whole, and its call."""

    __slots__ = ("call", "calls", "request")

    call: Call

    def __init__(self, calls: Calls, request: Request) -> None:
        self.calls = calls
        self.request = request

    def answer(self, outcome: Outcome) -> None:
        failure = outcome.failure
        if failure is None:
            self.request.answer(200, JSON_HEADERS, outcome.body)
        else:
            self.request.answer(failure.status, failure_headers(failure), outcome.body)

    def cancel(self) -> None:
        self.calls.cancel(self.call)


class _Awaiting(Caller):
    """A coroutine that waits for the outcome of a call."""

    __slots__ = ("outcome",)

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def answer(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class DataAction(Direct):
    """The endpoint ``POST /data-action/redis``.

    ``turns`` bounds the refusals without a valid credential in one turn of the loop.
    """

    def __init__(
        self,
        settings: DataActionSettings,
        gate: Gate,
        calls: Calls,
        clock: Clock,
        turns: Turnstile | None = None,
    ) -> None:
        self._gate = gate
        self._calls = calls
        self._turns = turns or Turnstile()
        self._tasks = Tasks()
        self._max_body = settings.max_body
        self._body = BodyReader(
            settings.max_body,
            settings.body_timeout,
            clock,
            settings.max_unfinished,
            settings.most_unfinished,
        )

    # -- a request that came whole ----------------------------------------------------------------

    def takes(self, head: Head) -> bool:
        """Tell whether a request with such a head need not wait for anything but its body."""
        return (
            head.method == "POST"
            and head.target in _TARGETS
            and 0 <= head.length <= self._max_body
            and not head.expects_continue
        )

    def start(self, request: Request) -> None:
        """Begin a call."""
        request.handler = caller = _Direct(self._calls, request)
        caller.call = call = self._calls.open(caller)
        gate = self._gate
        try:
            kept = request.kept
            if isinstance(kept, Shown):
                shown = kept
                call.attempt.address = kept.address
            else:
                shown = self._shown(request, call)
            principal = gate.holder(shown)
            if shown is not kept:
                request.kept = gate.keep(shown)
        except Unverified:
            call.task = self._tasks.run(self._verify(call, shown, request.body))
        except Failure as failure:
            self._refuse_in_turn(call, failure)
        except Exception as bug:
            self._calls.refuse(call, bug)
        else:
            self._run(call, principal, request.body)

    def _shown(self, request: Request, call: Call) -> Shown:
        """Return what the head and the connection show of whose a request is."""
        headers, connection = request.head.headers, request.connection
        peer = connection.client
        call.attempt.address = address = self._gate.address(peer, headers)
        return self._gate.shown(headers, address, peer, connection.extensions)

    async def _verify(self, call: Call, shown: Shown, body: bytes) -> None:
        try:
            principal = await self._gate.verify(shown)
        except Failure as failure:
            self._refuse_in_turn(call, failure)
        except Exception as bug:
            self._calls.refuse(call, bug)
        else:
            self._run(call, principal, body)

    def _refuse_in_turn(self, call: Call, failure: Failure) -> None:
        """Refuse a call without a valid credential, in an iteration that has room for it."""
        call.attempt.detail = failure.detail
        self._turns.enter(partial(self._calls.refuse, call, failure))

    def _run(self, call: Call, principal: Principal, body: bytes) -> None:
        """Run a call whose caller and body are known."""
        call.attempt.client = principal.name
        try:
            self._gate.admit(principal)
        except Failure as failure:
            self._calls.refuse(call, failure)
        else:
            self._calls.start(call, principal, body)

    # -- every other request ----------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call, whatever it is, with one JSON object on one line."""
        caller = _Awaiting()
        call = self._calls.open(caller)
        try:
            await self._arrive(call, scope, receive)
            outcome = await caller.outcome
        except asyncio.CancelledError:
            self._calls.cancel(call)
            raise
        failure = outcome.failure
        status = 200 if failure is None else failure.status
        headers = JSON_HEADERS if failure is None else failure_headers(failure)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": outcome.body})

    async def _arrive(self, call: Call, scope: Scope, receive: Receive) -> None:
        headers, peer = scope["headers"], scope.get("client")
        call.attempt.address = address = self._gate.address(peer, headers)
        try:
            try:
                principal = await self._gate.authenticate(
                    headers, address, peer, scope.get("extensions")
                )
            except Failure as failure:
                call.attempt.detail = failure.detail
                await self._turns.wait()
                raise
            call.attempt.client = principal.name
            self._gate.admit(principal)
            raw = await self._body.read(receive, _declared_length(headers), principal.name)
        except Exception as fault:
            self._calls.refuse(call, fault)
        else:
            self._calls.start(call, principal, raw)


def _declared_length(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """Return what Content-Length says, unless the body is chunked."""
    length = None
    for name, value in headers:
        if name == b"content-length":
            length = value
        elif name == b"transfer-encoding":
            return None
    return length
