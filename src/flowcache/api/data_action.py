"""The ASGI endpoint of the data action: who calls, and the body; then the core runs the call.

    authenticate -> read the body -> run (`calls.running`) -> send

Whatever fails on the way ends the call in one place, `Calls.refuse`; so does a bug.
"""

from __future__ import annotations

from flowcache.api.body import BodyReader
from flowcache.api.envelope import JSON_HEADERS, failure_headers
from flowcache.authn.gate import Gate
from flowcache.calls.call import Call, Outcome
from flowcache.calls.running import Calls, CallSettings
from flowcache.errors import Failure
from flowcache.ports import Clock
from flowcache.server.asgi import Receive, Scope, Send
from flowcache.server.turns import Turnstile

__all__ = ["DataAction", "DataActionSettings"]


class DataActionSettings(CallSettings, frozen=True):
    """What a data action may take. Times are in seconds, sizes in bytes."""

    max_body: int = 256 * 1024
    body_timeout: float = 2.0
    max_unfinished: int = 32 << 20
    """How many bytes of bodies that are not complete may be held."""
    most_unfinished: int = 2048
    """How many bodies may be incomplete: half of the connections there are by default."""


class DataAction:
    """The ASGI endpoint ``POST /data-action/redis``.

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
        self._open, self._run, self._refuse = calls.open, calls.run, calls.refuse
        self._turns = turns or Turnstile()
        self._body = BodyReader(
            settings.max_body,
            settings.body_timeout,
            clock,
            settings.max_unfinished,
            settings.most_unfinished,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call, whatever it is, with one JSON object on one line."""
        with self._open() as call:
            outcome = await self._act(call, scope, receive)
            failure = outcome.failure
            status = 200 if failure is None else failure.status
            headers = JSON_HEADERS if failure is None else failure_headers(failure)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": outcome.body})

    async def _act(self, call: Call, scope: Scope, receive: Receive) -> Outcome:
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
            return await self._refuse(call, fault)
        return await self._run(call, principal, raw)


def _declared_length(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """Return what Content-Length says, unless the body is chunked."""
    length = None
    for name, value in headers:
        if name == b"content-length":
            length = value
        elif name == b"transfer-encoding":
            return None
    return length
