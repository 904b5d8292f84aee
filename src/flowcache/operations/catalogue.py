"""The table of all operations, and the plan that a request becomes.

To add an operation: write its row in the module of its family, a test of what is its own, and a
line in the changelog. Everything else follows: OpenAPI and ``/docs``, the metrics, the rights that
`flowcache check` looks for, whether it works where values are encrypted, and the tables in docs/
(``python -m tools.check_docs --write``); the tests that walk the table take it up.
"""

from __future__ import annotations

from typing import NamedTuple

from flowcache.contract.request import Request
from flowcache.errors import InvalidRequest
from flowcache.operations import counters, hashes, keys, strings
from flowcache.operations.operation import Operation
from flowcache.ports import DEFAULT_SIZES, Command, SizeLimits

__all__ = ["AS_HASH", "CATALOGUE", "Plan", "plan"]

CATALOGUE: dict[str, Operation] = {
    operation.name: operation
    for family in (strings, hashes, keys, counters)
    for operation in family.OPERATIONS
}

AS_HASH = {"SET": CATALOGUE["HSET"], "GET": CATALOGUE["HGETALL"]}
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
    return Plan(operation, operation.command(request, sizes, once_lifetime_ms))
