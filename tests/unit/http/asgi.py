"""The other side of ASGI: what a server says to the application, and what it hears."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flowcache.api.data_action import DataAction, DataActionSettings
from flowcache.api.envelope import request_ids
from flowcache.audit.ring import AuditRing
from flowcache.authn.gate import Gate, GateSettings
from flowcache.authn.principals import Credential, Principals
from flowcache.authn.tokens import Token, digest
from flowcache.authz.keys import ALL_KEYS
from flowcache.authz.networks import Networks
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.calls.running import Calls
from flowcache.operations.catalogue import CATALOGUE
from flowcache.ports import DEFAULT_SIZES, AuditRecord, Command, Done, Reply
from flowcache.ratelimit.buckets import Bucket, Rate
from flowcache.server.asgi import ASGIApp, Message, Receive
from tests.commands import request
from tests.executing import CoroutineExecutor

__all__ = [
    "GONE",
    "PATIENT",
    "TOKEN",
    "Answered",
    "Clock",
    "Endpoint",
    "Executor",
    "Header",
    "Script",
    "bearer",
    "call",
    "chunk",
    "gate",
    "heard",
]

TOKEN = "flow-token"
GONE: Message = {"type": "http.disconnect"}

Header = tuple[bytes, bytes]


def chunk(body: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def bearer(token: str) -> Header:
    return (b"authorization", f"Bearer {token}".encode())


class Clock:
    """A clock that stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Script:
    """A `receive` that plays its messages in order, and then waits for ever."""

    def __init__(self, *messages: Message) -> None:
        self._messages = iter(messages)
        self.received = 0

    async def __call__(self) -> Message:
        for message in self._messages:
            self.received += 1
            return message
        return await asyncio.Future()


@dataclass(frozen=True, slots=True)
class Answered:
    """What an application sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def call(
    app: ASGIApp,
    method: str,
    path: str,
    receive: Receive,
    headers: Iterable[Header] = (),
    query: bytes = b"",
    sent: list[Message] | None = None,
) -> Answered | None:
    """Make one HTTP request and return what was answered; None when nothing was.

    ``sent`` takes what the application sends, for when it raises afterwards.
    """
    sent = [] if sent is None else sent

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 3000),
    }
    await app(scope, receive, send)
    return heard(sent) if sent else None


def heard(sent: list[Message]) -> Answered:
    """Return the answer that an application's messages make."""
    start, *parts = sent
    assert start["type"] == "http.response.start"
    named = {name.decode(): value.decode() for name, value in start["headers"]}
    assert len(named) == len(list(start["headers"]))
    body = b"".join(part.get("body", b"") for part in parts)
    return Answered(start["status"], named, body)


PATIENT = GateSettings(Networks(()), Rate(1000.0, 1000))
"""Believes no proxy, and bears many wrong credentials."""


def gate(
    known: Mapping[str, Principal],
    clock: Callable[[], float] = lambda: 0.0,
    settings: GateSettings = PATIENT,
) -> Gate:
    """Return a gate for those whose tokens are ``known``, on one clock."""
    credentials = [Credential(Token(digest(t.encode())), who) for t, who in known.items()]
    return Gate(
        Principals(credentials, clock),
        settings,
        {who.name: Bucket(who.rate) for who in known.values() if who.rate is not None},
        clock,
    )


def _replies() -> dict[bytes, Reply]:
    """Return what an empty Redis replies to the command of each operation."""
    return {
        each.command(request(name, **each.sample.fields), DEFAULT_SIZES).name: next(
            iter(each.sample.others.values()), each.sample.reply
        )
        for name, each in CATALOGUE.items()
    }


REPLIES = _replies()


SHARD = "127.0.0.1:7000"


@dataclass
class Executor(CoroutineExecutor):
    """An executor that answers at once, with ``reply`` or as an empty Redis would."""

    reply: Reply = ...
    calls: list[tuple[Command, float]] = field(default_factory=list)
    stale: bool = False
    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def execute(self, command: Command, deadline: float) -> Done:
        self.calls.append((command, deadline))
        if self.meanwhile is not None:
            await self.meanwhile()
        if isinstance(self.reply, BaseException):
            raise self.reply
        return Done(REPLIES[command.name] if self.reply is ... else self.reply, SHARD, self.stale)


class Endpoint:
    """A data action with an executor that does what it is told, and all it leaves behind."""

    def __init__(
        self,
        reply: Reply = ...,
        permissions: Iterable[Permission] = (Permission.DATA_READ, Permission.DATA_WRITE),
        principal: Principal | None = None,
        **settings: Any,
    ) -> None:
        self.clock = Clock()
        self.executor = Executor(reply)
        self.metrics: list[tuple[str | None, str, bool | None, float]] = []
        self._ring = AuditRing(1000)
        who = principal or Principal("flow", frozenset(permissions), ALL_KEYS)
        chosen = DataActionSettings(**settings)
        self.calls = Calls(chosen, self.executor, self, self._ring, self.clock, request_ids())
        self.app = DataAction(chosen, gate({TOKEN: who}, self.clock), self.calls, self.clock)

    def record(
        self, operation: str | None, outcome: str, hit: bool | None, latency_ms: float
    ) -> None:
        self.metrics.append((operation, outcome, hit, latency_ms))

    @property
    def audit(self) -> list[AuditRecord]:
        return self._ring.newest(1000)

    async def receive(self, receive: Receive, *headers: Header) -> Answered | None:
        """Call with whatever ``receive`` gives; with the flow's token unless headers are given."""
        sent = headers or (bearer(TOKEN),)
        return await call(self.app, "POST", "/data-action/redis", receive, sent)

    async def post(self, body: bytes, *headers: Header) -> Answered:
        """Post a body."""
        answered = await self.receive(Script(chunk(body)), *headers)
        assert answered is not None
        return answered

    async def act(self, **fields: Any) -> Answered:
        """Post a data action."""
        return await self.post(json.dumps(fields).encode())
