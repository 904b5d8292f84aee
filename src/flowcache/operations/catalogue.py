"""The table of all operations, and the plan that a request becomes.

To add an operation: write its record in the module of its family and name it in `CATALOGUE`; then
`/docs`, ``/openapi.json`` and the metrics follow. What remains: its line in docs/flow-authors.md,
its Redis commands in the ACL rule of docs/operations.md, and, if it writes in a way of its own, a
branch in store/scripts/write.lua, or if what it reads may be large, one in read.lua.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

import msgspec

from flowcache.contract.request import Request
from flowcache.errors import InvalidRequest
from flowcache.operations.counters import INCR
from flowcache.operations.hashes import HGETALL, HSET
from flowcache.operations.keys import DEL
from flowcache.operations.operation import Operation
from flowcache.operations.strings import GET, SET
from flowcache.ports import DEFAULT_SIZES, Command, Once, SizeLimits

__all__ = ["AS_HASH", "CATALOGUE", "Plan", "plan"]

CATALOGUE: dict[str, Operation] = {
    operation.name: operation for operation in (SET, GET, HSET, HGETALL, DEL, INCR)
}

AS_HASH = {"SET": HSET, "GET": HGETALL}
"""What an operation means with ``"type": "hash"``; the others mean themselves."""


class Plan(NamedTuple):
    """What will be done: which operation, by which command."""

    operation: Operation
    command: Command


def plan(request: Request, once_lifetime_ms: int, sizes: SizeLimits = DEFAULT_SIZES) -> Plan:
    """Turn a request into a command that keeps within ``sizes``. Pure; nothing is decided later.

    Raises:
        InvalidRequest: there is no such operation, or the request lacks what it needs.
    """
    operation = CATALOGUE.get(request.operation)
    if operation is None:
        raise InvalidRequest(
            f'operation: "{request.operation}" is unknown; there are {", ".join(CATALOGUE)}.'
        )
    if request.type == "hash":
        operation = AS_HASH.get(request.operation, operation)
    command = operation.command(request, sizes)
    if request.idempotency_key is not None and command.writes:
        once = Once(request.idempotency_key.encode(), _fingerprint(command), once_lifetime_ms)
        command = msgspec.structs.replace(command, once=once)
    return Plan(operation, command)


def _fingerprint(command: Command) -> bytes:
    """Tell one write from another: the same for the same effect, whatever the body's spelling."""
    digest = blake2b(digest_size=16)
    words = command.words
    if command.name == b"HSET":  # the order of the fields makes no difference
        pairs = sorted(zip(words[2::2], words[3::2], strict=True))
        words = (*words[:2], *(part for pair in pairs for part in pair))
    for part in (str(command.ttl).encode(), *words):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.hexdigest().encode()
