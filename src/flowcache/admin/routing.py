"""Pages by path: find the page that a request asks for, and answer whatever comes of it.

A look-up and no framework: a page that does not exist is asked for by anybody, as often as they
like, and has to cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Set
from typing import NamedTuple
from urllib.parse import parse_qsl

import msgspec

from flowcache.api.app import ROUTE
from flowcache.api.envelope import failed_answer
from flowcache.calls.call import as_failure
from flowcache.errors import Failure, MethodNotAllowed, NotFound
from flowcache.server.asgi import Receive, Scope, Send
from flowcache.server.turns import Turnstile

__all__ = ["Headers", "Page", "Request", "Response", "Router", "Routes", "as_json", "shielded"]

_MOST_SHOWN = 80
"""Characters of an unknown method or path that a refusal repeats."""

_DATA_ACTION = {ROUTE: b"POST", ROUTE + "/": b"POST"}

Headers = tuple[tuple[bytes, bytes], ...]

_SHIELD: dict[bytes, bytes] = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
}
"""What keeps a browser from doing more with a page than showing it (OWASP Secure Headers)."""

_HSTS = (b"strict-transport-security", b"max-age=31536000")
"""For a year a browser asks this host by TLS only; other names in its domain are not ours. Sent
over plain HTTP it would count for nothing (RFC 6797)."""


class Response(NamedTuple):
    """What a page answers."""

    status: int
    headers: Headers
    body: bytes


class Request:
    """What a page is asked. ``id`` and ``kept`` are set once the attempt is on record."""

    __slots__ = ("headers", "id", "kept", "method", "path", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.id: str | None = None
        self.kept: Awaitable[bool] | None = None
        """Says whether the record of this attempt is on disk; None: nothing is promised."""

    def header(self, name: bytes) -> bytes:
        """Return the values of a header, which is a list, as one; empty without any."""
        return b",".join(value for found, value in self.headers if found == name)

    def query(self) -> dict[str, str]:
        """Return the parameters of the URL; of one that comes twice the last counts."""
        text = self.scope["query_string"].decode("latin-1")
        return dict(parse_qsl(text, keep_blank_values=True))


Page = Callable[[Request], Awaitable[Response]]
Routes = Mapping[str, Mapping[str, Page]]
"""Path -> method -> page. HEAD is answered as GET, without the body."""

Misdirected = Callable[[Request, Failure], Awaitable[None]]


class Router:
    """The ASGI application of ``routes``.

    ``misdirected`` hears of requests for what is not there, ``settle`` waits for the record of a
    refused attempt, ``next_id`` names answers that have no record. ``turns`` says when a page may
    begin. ``elsewhere`` names routes of other applications on this address, and their methods.
    """

    def __init__(
        self,
        routes: Routes,
        misdirected: Misdirected,
        settle: Callable[[Awaitable[bool]], Awaitable[None]],
        next_id: Callable[[], str],
        turns: Turnstile,
        elsewhere: Mapping[str, bytes] = _DATA_ACTION,
    ) -> None:
        self.routes = routes
        self._misdirected = misdirected
        self._settle = settle
        self._next_id = next_id
        self._turns = turns
        self._allowed = {path: _allowed(methods) for path, methods in routes.items()}
        self._allowed |= elsewhere
        self._parts = (misdirected, settle, next_id, turns)

    def only(self, paths: Set[str]) -> Router:
        """Return an application of these pages, which are shared with this one."""
        chosen = {path: methods for path, methods in self.routes.items() if path in paths}
        return Router(chosen, *self._parts)

    def without_data_action(self) -> Router:
        """Return an application of all pages, for an address without data actions."""
        return Router(self.routes, *self._parts, elsewhere={})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._turns.wait()
        request = Request(scope, receive)
        methods = self.routes.get(request.path)
        page = None
        if methods is not None:
            page = methods.get("GET" if request.method == "HEAD" else request.method)
        try:
            if page is None:
                raise await self._not_there(request)
            status, headers, body = await page(request)
        except Exception as fault:
            status, headers, body = await self._failed(request, fault)
        if scope["scheme"] == "https":
            headers = (*headers, _HSTS)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _not_there(self, request: Request) -> Failure:
        path, method = request.path, request.method[:_MOST_SHOWN]
        allowed = self._allowed.get(path)
        failure: Failure
        if allowed is None:
            failure = NotFound(f"There is no {method} {path[:_MOST_SHOWN]}.")
        else:
            failure = MethodNotAllowed(
                f"{method} is not allowed on {path}; use {allowed.decode()}."
            )
        await self._misdirected(request, failure)
        return failure

    async def _failed(self, request: Request, fault: Exception) -> Response:
        request_id = request.id or self._next_id()
        failure = as_failure(fault, request_id, path=request.path)
        if request.kept is not None:
            await self._settle(request.kept)
        answer = failed_answer(failure, request_id)
        headers = dict(answer.headers)
        if isinstance(failure, MethodNotAllowed):
            headers[b"allow"] = self._allowed[request.path]
        return Response(answer.status, shielded(headers), answer.body)


def shielded(headers: Mapping[bytes, bytes]) -> Headers:
    """Return the headers of a page, with those that all pages have."""
    return tuple({**_SHIELD, **headers}.items())


_JSON = shielded({b"content-type": b"application/json"})


def as_json(content: object, status: int = 200) -> Response:
    """Return ``content`` as a page: one line of JSON."""
    return Response(status, _JSON, msgspec.json.encode(content) + b"\n")


def _allowed(methods: Mapping[str, Page]) -> bytes:
    names = {*methods, "HEAD"} if "GET" in methods else {*methods}
    return ", ".join(sorted(names)).encode()
