"""What an operation is: a row that is all there is to know about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import msgspec

from flowcache.authz.permissions import Permission
from flowcache.contract.bounds import COUNTED_MORE, DEFAULT_BOUNDS, Bounds
from flowcache.contract.request import Request
from flowcache.errors import InvalidRequest, InvalidResponse, TooLarge
from flowcache.operations.parameters import Nothing, Parameter, parameters_of
from flowcache.ports import Bound, Command, Once, Reply, SizeLimits, Values

__all__ = [
    "READS",
    "READS_AND_WRITES",
    "WRITES",
    "Operation",
    "Read",
    "Repeated",
    "Result",
    "Sample",
    "Ttl",
    "on_key",
    "over",
    "unexpected",
]

READS = frozenset({Permission.DATA_READ})
WRITES = frozenset({Permission.DATA_WRITE})
READS_AND_WRITES = READS | WRITES
"""For a write that tells what was stored."""


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
    fields: Mapping[str, Any] = MappingProxyType({})
    """The other fields of the body."""


class Read(Protocol):
    """Turns a reply into data, within the bounds of what a stored value may have."""

    def __call__(self, reply: Reply, bounds: Bounds = DEFAULT_BOUNDS, /) -> Result: ...


def on_key(name: bytes) -> Callable[[Request, Nothing], tuple[bytes, ...]]:
    """Return what builds a command of a name and a key, and nothing else."""
    return lambda request, _: (name, request.key)


class Ttl(Enum):
    """What an operation does with the TTL of the call."""

    UNUSED = auto()
    GIVEN = auto()
    """The key gets it, in the same atomic step."""
    IN_WORDS = auto()
    """It is among the words of the command."""


class Repeated(Enum):
    """What happens when an operation is sent again with the same idempotency key."""

    NATURALLY = auto()
    """It is run again: that does no more than to run it once."""
    RECORDED = auto()
    """It is answered from a record of its reply, whatever the reply's type."""
    NEVER = auto()
    """Its reply can't be recorded: with an idempotency key it is refused before it is done."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the catalogue. Rights, limits, encryption, OpenAPI and docs follow from it.

    ``words`` builds the Redis command, its name first and the key second, of the request and of the
    struct ``parameters``. ``read`` turns the reply into data of type ``answers`` and raises
    `InvalidResponse` for any reply that does not fit it: what it returns has passed the response
    schema. It raises `TooLarge` for a value over its bounds, before it builds anything of it.
    """

    name: str
    summary: str
    permissions: frozenset[Permission]
    """All that are needed. One that needs `data:write` is a write."""
    words: Callable[[Request, Any], tuple[bytes, ...]]
    uses: tuple[str, ...]
    """The Redis commands that it takes, each so written that it does nothing to a missing key."""
    values: Values
    repeated: Repeated
    read: Read
    answers: Any
    """The type of ``data``: the source of the schema in ``/openapi.json``."""
    sample: Sample
    parameters: type[msgspec.Struct] = Nothing
    ttl: Ttl = Ttl.UNUSED
    bound: Bound = Bound.SMALL
    takes: tuple[Parameter, ...] = field(init=False)
    """Its parameters, one by one."""
    is_write: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "takes", parameters_of(self.parameters))
        object.__setattr__(self, "is_write", Permission.DATA_WRITE in self.permissions)

    @property
    def works_encrypted(self) -> bool:
        """Whether it can work where values are encrypted; what can't is refused there."""
        return self.values is not Values.IN_CLEAR

    def command(self, request: Request, sizes: SizeLimits, once_lifetime_ms: int = 0) -> Command:
        """Return what is asked of Redis.

        Raises:
            InvalidRequest: the request lacks what the operation needs.
        """
        takes = self.takes
        parameters = (
            self.parameters(*[each.read(self.name, request.fields) for each in takes])
            if takes
            else _NOTHING
        )
        once = None
        if request.idempotency_key is not None and self.repeated is not Repeated.NATURALLY:
            once = self._once(request, request.idempotency_key, parameters, once_lifetime_ms)
        return Command(
            self.words(request, parameters),
            ttl=request.ttl if self.ttl is Ttl.GIVEN else None,
            writes=self.is_write,
            once=once,
            sizes=sizes,
            values=self.values,
            bound=self.bound,
        )

    def _once(
        self, request: Request, key: str, parameters: msgspec.Struct, lifetime_ms: int
    ) -> Once:
        if self.repeated is Repeated.NEVER:
            raise InvalidRequest(
                f"idempotencyKey: {self.name} can't be answered again from a record; leave it out."
            )
        # The same for the same effect, whatever the body's spelling: so of what it was coerced to.
        ttl = None if self.ttl is Ttl.UNUSED else request.ttl
        effect = (self.name, request.key, ttl, parameters)
        digest = blake2b(_ordered(effect), digest_size=16)
        return Once(key.encode(), digest.hexdigest().encode(), lifetime_ms)


_NOTHING = Nothing()
_ordered = msgspec.json.Encoder(order="deterministic").encode


def unexpected(operation: str) -> InvalidResponse:
    """Refuse a reply that breaks the schema, without saying what it was."""
    return InvalidResponse(f"What Redis answered to {operation} does not fit its response schema.")


def over(bounds: Bounds) -> TooLarge:
    """Refuse a stored value that has too many elements."""
    return TooLarge(
        f"The value under this key has more than {bounds.max_elements} elements (array items, "
        f"object members, fields of a hash; {COUNTED_MORE}). Store smaller values, or text."
    )
