"""What an operation is: a record that says how to ask Redis and how to read its reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from flowcache.authz.permissions import Permission
from flowcache.contract.bounds import COUNTED_MORE, DEFAULT_BOUNDS, Bounds
from flowcache.contract.request import Request
from flowcache.errors import InvalidResponse, TooLarge
from flowcache.ports import Command, Reply, SizeLimits

__all__ = ["Operation", "Read", "Result", "Sample", "over", "unexpected"]


class Result(NamedTuple):
    """What an operation tells the caller."""

    data: Any
    hit: bool | None


class Sample(NamedTuple):
    """What to show an operation with: a key, and what Redis may reply, as a rule and otherwise.

    Pasted in the order of the catalogue, each call finds what the ones before it left.
    """

    key: str
    reply: Reply
    others: Mapping[str, Reply] = MappingProxyType({})


class Read(Protocol):
    """Turns a reply into data, within the bounds of what a stored value may have."""

    def __call__(self, reply: Reply, bounds: Bounds = DEFAULT_BOUNDS, /) -> Result: ...


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the catalogue.

    ``command`` builds the Redis command, with the size limits that hold for it. It raises
    `InvalidRequest` when the request lacks what it needs. ``read`` turns the reply into data of
    type ``answers`` and raises `InvalidResponse` for any reply that does not fit it: what it
    returns has passed the response schema. It raises `TooLarge` for a value over its bounds,
    before it builds anything of it.
    """

    name: str
    summary: str
    permission: Permission
    command: Callable[[Request, SizeLimits], Command]
    read: Read
    answers: Any
    """The type of ``data``: the source of the schema in ``/openapi.json``."""
    sample: Sample
    value: str | None = None
    """What `value` must be, in words; None: it is ignored."""
    value_schema: Mapping[str, Any] | None = None
    """The same as JSON Schema; None: anything."""
    value_optional: bool = False
    """Whether the call may leave `value` out."""
    example: Any = None
    """Such a value."""
    can_be_sealed: bool = True
    """Whether it can work where values are encrypted; what can't is refused there."""


def unexpected(operation: str) -> InvalidResponse:
    """Refuse a reply that breaks the schema, without saying what it was."""
    return InvalidResponse(f"What Redis answered to {operation} does not fit its response schema.")


def over(bounds: Bounds) -> TooLarge:
    """Refuse a stored value that has too many elements."""
    return TooLarge(
        f"The value under this key has more than {bounds.max_elements} elements (array items, "
        f"object members, fields of a hash; {COUNTED_MORE}). Store smaller values, or text."
    )
