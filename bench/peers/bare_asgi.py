"""The floor: what Granian and ASGI cost before any work is done.

Reads the request's body and answers one constant, as long as an answer to the benchmark's GET.
Started by ``bench.servers`` with the same server settings for every run; on its own:

    python -m granian --interface asgi --loop uvloop --workers 1 bench.peers.bare_asgi:app
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

ANSWER = (
    b'{"success":true,"data":{"customerId":"C-000000","tier":"gold","language":"en-GB",'
    b'"lastAgent":"agent-17","openCases":2,"vip":false},"metadata":{"requestId":'
    b'"00000000-0000-4000-8000-000000000000","latencyMs":0.42,"operation":"GET","hit":true}}'
)
START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(ANSWER)).encode()),
    ],
}
BODY: Message = {"type": "http.response.body", "body": ANSWER}


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """Answer every request with the same bytes, after its whole body has been read."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send(START)
    await send(BODY)
