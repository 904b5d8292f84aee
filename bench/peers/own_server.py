"""The same application as ``bare_asgi``, on flowcache's own server: what the server itself costs.

Started by ``bench.servers``; on its own:

    python -m bench.peers.own_server PORT
"""

from __future__ import annotations

import sys

from bench.peers import bare_asgi
from flowcache.server.asgi import Receive, Scope, Send
from flowcache.server.supervisor import Service, serve
from flowcache.server.worker import ServerSettings


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Begin and end as a worker has to; else do what the other one does."""
    if scope["type"] == "http":
        await bare_asgi.app(scope, receive, send)
        return
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})


def main() -> None:
    """Serve until a signal comes."""
    service = Service(lambda: (app,), ServerSettings("127.0.0.1", int(sys.argv[1]), 1, 1.0))
    sys.exit(serve(service, reread=lambda: None, on_listening=lambda: None))


if __name__ == "__main__":
    main()
