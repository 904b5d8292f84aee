"""What the callers ask: the same requests for every server, made before the clock starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

Operation = Literal["GET", "SET"]
PATH = "/data-action/redis"
KEYS = 1000
# A step that shares no factor with KEYS visits every key once, and hardly two neighbours in a row.
STRIDE = 387


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it goes over the wire, and a text that only its right answer holds."""

    request: bytes
    witness: bytes


def key_of(index: int, family: str) -> str:
    """Name one key; without braces, so that the names spread over all slots."""
    return f"bench:{family}:{index:06d}"


def value_of(index: int) -> dict[str, object]:
    """Make one value, about 100 bytes of JSON; its first field tells it from all others."""
    return {
        "customerId": f"C-{index:06d}",
        "tier": "gold",
        "language": "en-GB",
        "lastAgent": "agent-17",
        "openCases": 2,
        "vip": False,
    }


def body_of(operation: Operation, index: int, family: str) -> bytes:
    """Encode the JSON body that a flow posts."""
    body: dict[str, object] = {"operation": operation, "key": key_of(index, family)}
    if operation == "SET":
        body |= {"value": value_of(index), "ttl": 3600}
    body |= {"flowId": "flow-7", "interactionId": f"interaction-{index:06d}"}
    return msgspec.json.encode(body)


def calls_of(operation: Operation, *, port: int, token: str, family: str) -> list[Call]:
    """Prepare one call for each key, in the order in which they are to be made."""
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    )
    calls = []
    for step in range(KEYS):
        index = step * STRIDE % KEYS
        body = body_of(operation, index, family)
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        witness = f'"C-{index:06d}"' if operation == "GET" else '"OK"'
        calls.append(Call(request, witness.encode()))
    return calls
