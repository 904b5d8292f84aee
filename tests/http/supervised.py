"""A service of the tests under the real supervisor: what its workers do is in a file.

python -m tests.http.supervised PLAN PORT
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from flowcache.server import supervisor
from flowcache.server.asgi import Receive, Scope, Send
from flowcache.server.supervisor import Service, serve
from flowcache.server.worker import ServerSettings


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the worker's pid."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse to start."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no"})


async def hanging(scope: Scope, receive: Receive, send: Send) -> None:
    """Never start."""
    print("hangs", flush=True)
    await asyncio.Event().wait()


async def stumbling(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse to start in the second worker of all."""
    if scope["type"] == "lifespan":
        with Path(sys.argv[1]).with_name("starts").open("a") as starts:
            starts.write("x")
            starts.flush()
            if starts.tell() == 2:
                return await failing(scope, receive, send)
    await app(scope, receive, send)


async def deaf(scope: Scope, receive: Receive, send: Send) -> None:
    """Begin to serve after having been told to end, and never hear of it."""
    if scope["type"] == "lifespan":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        print("hangs", flush=True)
        while signal.SIGTERM not in signal.sigpending():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)
    await app(scope, receive, send)


async def raising(scope: Scope, receive: Receive, send: Send) -> None:
    """Know of no lifespan, and say so as an application does (ASGI specification)."""
    raise RuntimeError("no")


async def lucky(scope: Scope, receive: Receive, send: Send) -> None:
    """Start in the first worker that comes, and in no other."""
    if scope["type"] == "lifespan":
        try:
            os.mkdir(f"{sys.argv[1]}.taken")
        except FileExistsError:
            await hanging(scope, receive, send)
    await app(scope, receive, send)


APPS = {
    "good": app,
    "failing": failing,
    "hanging": hanging,
    "raising": raising,
    "lucky": lucky,
    "stumbling": stumbling,
    "deaf": deaf,
}


def _said(what: str) -> None:
    print(f"companion {os.getpid()} {what}", flush=True)


def staying() -> int:
    """Run beside the workers until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    _said("runs")
    signal.sigwait({signal.SIGTERM})
    _said("ends")
    return 0


def dying() -> int:
    """Die at once."""
    _said("dies")
    return 3


def stubborn() -> int:
    """Hear nothing."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _said("runs")
    while True:
        signal.pause()


COMPANIONS = {"staying": staying, "dying": dying, "stubborn": stubborn}


def main() -> None:
    """Serve what the plan says."""
    plan, port = Path(sys.argv[1]), int(sys.argv[2])
    struck: list[int] = []
    """The signals that the next worker gets in the first moment of its life."""

    def strike() -> None:
        for number in struck:
            os.kill(os.getpid(), number)

    os.register_at_fork(after_in_child=strike, after_in_parent=struck.clear)

    def read() -> Service:
        usual = {"app": "good", "port": port, "workers": 1, "grace": 5.0, "struck": []}
        usual |= {"companion": None, "start_seconds": 30.0}
        wanted = usual | json.loads(plan.read_text())
        chosen = APPS[wanted["app"]]
        companion = COMPANIONS.get(wanted["companion"])
        struck.extend(wanted["struck"])
        supervisor._START_SECONDS = wanted["start_seconds"]
        settings = ServerSettings("127.0.0.1", wanted["port"], wanted["workers"], wanted["grace"])
        return Service(lambda: (chosen,), settings, companion)

    sys.exit(serve(read(), reread=read, on_listening=lambda: print("listens", flush=True)))


if __name__ == "__main__":
    main()
