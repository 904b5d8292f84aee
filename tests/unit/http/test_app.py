"""Dispatch, and the life of a worker."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from flowcache.api.app import ROUTE, App, Parts
from flowcache.server.asgi import ASGIApp, Message, Receive, Scope, Send
from tests.unit.http.asgi import Script, call, chunk

LIFESPAN: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
STARTUP: Message = {"type": "lifespan.startup"}
SHUTDOWN: Message = {"type": "lifespan.shutdown"}


class House:
    """A lifespan that notes what happens to it, and applications that answer with their name."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.sent: list[Message] = []
        self.app = App(self.build)
        self.fault: Exception | None = None
        self.started = asyncio.Event()

    def build(self) -> Parts:
        self.events.append("build")
        return Parts(self.named(b"data action"), self.named(b"pages"), self.named(b"admin"), self)

    def named(self, name: bytes) -> ASGIApp:
        async def answer(_: Scope, __: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": name})

        return answer

    async def start(self) -> None:
        self.events.append("start")
        if self.fault is not None:
            raise self.fault

    async def close(self) -> None:
        self.events.append("close")

    async def send(self, message: Message) -> None:
        self.events.append(message["type"])
        self.sent.append(message)
        self.started.set()

    async def live(self) -> None:
        await self.app(LIFESPAN, Script(STARTUP, SHUTDOWN), self.send)

    async def begin(self) -> None:
        """Return as soon as the worker has started, and leave it running."""
        living = asyncio.ensure_future(self.app(LIFESPAN, Script(STARTUP), self.send))
        await self.started.wait()
        living.cancel()


async def test_nothing_is_built_before_the_worker_begins() -> None:
    """An application that is only constructed has done nothing."""
    assert House().events == []


async def test_a_worker_starts_before_it_says_so_and_closes_before_it_says_so() -> None:
    """No request comes before the start is complete, none is cut off by the end."""
    house = House()
    await house.live()
    assert house.events == [
        "build",
        "start",
        "lifespan.startup.complete",
        "close",
        "lifespan.shutdown.complete",
    ]


async def test_a_start_that_fails_is_told_to_the_server() -> None:
    """A worker that can't start says why and takes no requests, instead of failing each."""
    house = House()
    house.fault = OSError("no room for a socket")
    with suppress(OSError):
        await house.live()
    assert [message["type"] for message in house.sent] == ["lifespan.startup.failed"]


@pytest.mark.parametrize(
    ("method", "path", "answered"),
    [
        ("POST", ROUTE, b"data action"),
        ("POST", ROUTE + "/", b"data action"),
        ("GET", ROUTE, b"pages"),
        ("PUT", ROUTE, b"pages"),
        ("POST", ROUTE + "//", b"pages"),
        ("POST", ROUTE + "/x", b"pages"),
        ("POST", ROUTE.upper(), b"pages"),
        ("POST", "/", b"pages"),
        ("GET", "/healthz", b"pages"),
    ],
)
async def test_a_request_goes_where_its_path_says(method: str, path: str, answered: bytes) -> None:
    """The data action has its own route, with or without a slash at the end; pages the rest."""
    house = House()
    await house.begin()
    answer = await call(house.app, method, path, Script(chunk(b"")))
    assert answer is not None
    assert answer.body == answered


async def test_a_websocket_builds_no_second_worker() -> None:
    """What is neither HTTP nor a lifespan is refused: it is not taken for a new life."""
    house = House()
    await house.begin()
    scope: Scope = {"type": "websocket", "path": "/", "headers": []}
    messages = Script({"type": "websocket.connect"}, {"type": "websocket.disconnect"})
    with suppress(Exception):
        await house.app(scope, messages, house.send)
    assert house.events.count("build") == house.events.count("start") == 1
    assert "close" not in house.events
