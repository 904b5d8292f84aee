"""What the core needs from the outside, and the records that pass between.

A Protocol stands here only where two implementations exist or the layers forbid a direct import.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum, StrEnum, auto
from typing import Any, Protocol

import msgspec

from flowcache.errors import DeadlineExceeded

__all__ = [
    "APPEND",
    "DEFAULT_SIZES",
    "FAILED",
    "INTENDED",
    "MANY_FIELDS",
    "NAMESPACES",
    "RESERVED_PREFIX",
    "TAKE",
    "UNCOUNTED",
    "Access",
    "AuditRecord",
    "AuditSink",
    "Bound",
    "Clock",
    "Command",
    "Done",
    "Large",
    "Metrics",
    "Mode",
    "Now",
    "Once",
    "Order",
    "Reply",
    "SizeLimits",
    "Slow",
    "Values",
    "has_failed",
    "unanswered",
]

Reply = Any
"""A reply as Redis gave it: ``bytes``, ``int``, ``None``, ``list`` or ``dict`` of these."""

Clock = Callable[[], float]
"""Seconds that only go forward, as ``time.monotonic``."""

Now = Callable[[], float]
"""Unix seconds, as ``time.time``: they go back and forth as the clock of the host is set."""


RESERVED_PREFIX = b"flowcache:"
"""Where flowcache keeps what is its own, below it: ``once:`` records of writes (`store/slots.py`),
``ns:`` the namespaces (`authz/keys.py`), ``rate:`` what clients of a fleet have taken of their
rates (`ratelimit/shared.py`), and what an operator names so, as the stream of the audit
(`delivery/stream.py`). No caller may name such a key."""

NAMESPACES = RESERVED_PREFIX + b"ns:"
"""What the keys of all namespaces begin with in Redis."""


APPEND = b"FLOWCACHE.APPEND"
"""A command of ours: append to the stream under its key, all or nothing.

Behind the key stand how many entries it may have, about; the name of an entry's only field; and its
value in each entry. The reply is how many there were (`store/scripts/append.lua`)."""

TAKE = b"TAKE"
"""A command of ours: take from the bucket under its key, which the whole fleet has in common.

Behind the key stand the microseconds between two tokens and how many tokens were taken. The reply
is in how many microseconds all that was taken will have been earned (`store/scripts/rate.lua`)."""


class Once(msgspec.Struct, frozen=True, gc=False):
    """A request to apply a write once, however often it is sent.

    ``token`` names the write in the scope of its key, and from `authz.verdict.placed` on in that
    of its client; ``fingerprint`` tells the same body from another; the record of it lives for
    ``lifetime_ms``. ``former`` are fingerprints that the same body may have had before: a record
    with one of them is of this write, too.
    """

    token: bytes
    fingerprint: bytes
    lifetime_ms: int
    former: tuple[bytes, ...] = ()


MANY_FIELDS = 512
"""A hash of more fields is measured by the memory it takes: a copy would hold Redis up."""

UNCOUNTED = 84
"""Bytes of each field that do not count in a read of a hash of more than `MANY_FIELDS` fields.

A write (`store/scripts/write.lua`) can't tell up to 64 of them from what Redis spends on a field.
Redis can be configured to keep such a hash compactly, numbers of 20 digits in 10 bytes each: hence
20 more. So what a write accepts is never too large for a read."""

_FRAME = 18
"""Bytes that frame a field in a reply of Redis, at most; `_SLACK` are for long fields."""
_LEAST_FIELD = 6
"""Bytes of a field in JSON besides name and value: four quotes, a colon and a comma."""
_ESCAPED = 6
"""Bytes that JSON writes for one: a control character becomes a backslash, a u and four digits."""
_ENVELOPE = 128
"""Bytes by which encryption makes a string longer, at most."""
_SLACK = 64 * 1024
_REST = 1024
"""Bytes of an answer besides its data."""


class SizeLimits(msgspec.Struct, frozen=True, gc=False):
    """How much a read may return, and how much a key may hold after a write.

    Both are about what Redis stores: the length of a string, or of all names and values of a hash,
    with the envelope where they are encrypted. (A string that is written counts in clear: its
    envelope is a few bytes.) ``reply`` and ``value`` are in bytes; for ``reply``, `UNCOUNTED` bytes
    of each field do not count in a hash of many fields. ``fields`` is how many a hash may have
    after a write, ``held`` how many one may have that is read.
    """

    reply: int = 512 * 1024
    value: int = 256 * 1024
    fields: int = 10_000
    held: int = 10_000

    def readable(self) -> SizeLimits:
        """Return these limits with those of writes so low that what is written can be read."""
        value = min(self.value, self.reply - _ENVELOPE)
        fields = min(self.fields, self._most_fields)
        return msgspec.structs.replace(self, value=value, fields=fields)

    @property
    def _most_fields(self) -> int:
        """Return how many fields a hash may have that is read, by both limits."""
        return min(self.held, self.reply // _LEAST_FIELD)

    @property
    def received(self) -> int:
        """Return the most bytes that a value which may be read takes on its way from Redis."""
        return self.reply + (UNCOUNTED + _FRAME) * self._most_fields + _SLACK

    @property
    def answer(self) -> int:
        """Return the most bytes of an answer with such a value, all of it control characters."""
        stored = self.reply + UNCOUNTED * self._most_fields
        return _ESCAPED * stored + _LEAST_FIELD * self._most_fields + _REST


DEFAULT_SIZES = SizeLimits()


class Values(Enum):
    """Where a command holds what a caller stores, so that it can be encrypted there."""

    IN_CLEAR = auto()
    """Redis works with it: it can't be encrypted."""
    NONE = auto()
    """Nowhere."""
    STRING_WRITTEN = auto()
    """The word behind the key is the value of a string."""
    STRING_READ = auto()
    """The reply is the value of the string."""
    FIELDS_WRITTEN = auto()
    """Behind the key stand names and values of fields, in turns."""
    FIELD_READ = auto()
    """The reply is the value of the field that the word behind the key names."""
    FIELDS_READ = auto()
    """The reply is the whole hash."""


class Bound(StrEnum):
    """Why a reply is not too large, and what is stored does not become too large."""

    SMALL = "small"
    """The reply is small whatever is stored, and what is stored does not grow."""
    STRING = "string"
    """The reply is the string under the key, whose size is looked at first."""
    FIELD = "field"
    """The reply is a field of the hash under the key, whose size is looked at first."""
    HASH = "hash"
    """The reply is the hash under the key, whose size is looked at first."""
    GROWING_HASH = "growing hash"
    """What the hash becomes is measured first: it gets the fields that the command brings."""
    COUNTER = "counter"
    """What the counter becomes is looked at first: the command adds the word behind the key."""


class Command(msgspec.Struct, frozen=True, gc=False):
    """What an operation asks of the store: the words of a Redis command.

    ``keys`` are the places of those words that are keys, at least one. All keys of a command have
    to be in one slot. ``ttl`` (seconds) is set in the same atomic step; None leaves the life of the
    keys alone. ``sizes`` hold in that step, too, as ``bound`` says. How this is made atomic is the
    store's business. A command that does not say where its ``values`` are is refused where values
    are encrypted, so that a new one can't store in clear by being forgotten.
    """

    words: tuple[bytes, ...]
    keys: tuple[int, ...] = (1,)
    ttl: int | None = None
    writes: bool = False
    once: Once | None = None
    sizes: SizeLimits = DEFAULT_SIZES
    client: str = ""
    """Whose it is, for what is shared fairly; filled by `authz.verdict.placed`."""
    values: Values = Values.IN_CLEAR
    bound: Bound = Bound.SMALL

    @property
    def name(self) -> bytes:
        """The name of the command."""
        return self.words[0]

    @property
    def key(self) -> bytes:
        """The first key, which tells where the command is run."""
        return self.words[self.keys[0]]

    @property
    def is_repeatable(self) -> bool:
        """Whether running it twice does no more than running it once."""
        return not self.writes or self.once is not None

    def all_keys(self) -> list[bytes]:
        """Return the keys, in the order of the words."""
        return [self.words[place] for place in self.keys]

    def size(self) -> int:
        """Return the bytes of the words that are neither the name nor a key."""
        keys = sum(map(len, self.all_keys()))
        return sum(map(len, self.words)) - len(self.words[0]) - keys


def unanswered(command: Command) -> DeadlineExceeded:
    """Return what ``command`` fails with when no reply came in time."""
    if command.writes:
        return DeadlineExceeded(
            "Redis did not answer in time; whether the write was done is unknown.",
            retryable=command.is_repeatable,
        )
    return DeadlineExceeded("Redis did not answer in time.")


class Done(msgspec.Struct, frozen=True, gc=False):
    """What came of a command: the reply, and who gave it."""

    reply: Reply
    shard: str
    """The name of the shard that held the keys."""
    stale: bool = False
    """Whether a replica answered in place of its primary: the reply may be old."""


class Slow:
    """What comes in place of `Done` for a reply that takes long. ``rest`` is it, when it comes.

    ``rest`` has to be awaited, and raises as the call itself would have. It may be `Large`.
    """

    __slots__ = ("rest",)

    def __init__(self, rest: Awaitable[Done | Large]) -> None:
        self.rest = rest


class Large:
    """What comes in place of `Done` for a value that is too large to travel among others.

    ``fetch`` returns it, and raises as the call itself would have; but its failure concerns its
    caller alone, and says nothing about the shard.
    """

    __slots__ = ("fetch",)

    def __init__(self, fetch: Callable[[], Awaitable[Done]]) -> None:
        self.fetch = fetch


class Access(StrEnum):
    """What a circuit is about. The values are shown to operators and never renamed."""

    READ = "read"
    WRITE = "write"
    FALLBACK = "fallback"
    """Reads that a second server answers in place of the first."""


class Mode(StrEnum):
    """Say who decides about a circuit. The values are shown to operators and never renamed."""

    AUTO = "auto"
    """The circuit itself, by how the calls go."""
    FORCED_OPEN = "forced-open"
    """An operator: nothing is let through."""
    DISABLED = "disabled"
    """Nobody: everything is let through and nothing is judged."""
    OBSERVE = "observe"
    """The circuit judges, and tells, as in AUTO, but refuses nobody."""


class Order(msgspec.Struct, frozen=True):
    """What an operator asks of the circuits of a shard, of a kind of access, or both; None: of all.

    Without a ``mode`` it takes back what was asked of them: the configuration has the say again.
    """

    mode: Mode | None
    shard: str | None = None
    access: Access | None = None

    def covers(self, shard: str | None, access: Access | None) -> bool:
        """Tell whether it is about every circuit of ``shard`` and ``access``; None: of all."""
        return self.shard in (None, shard) and self.access in (None, access)

    def meets(self, other: Order) -> bool:
        """Tell whether there may be a circuit that both are about."""
        return (None in (self.shard, other.shard) or self.shard == other.shard) and (
            None in (self.access, other.access) or self.access == other.access
        )


class Metrics(Protocol):
    """Where calls are counted."""

    def record(
        self, operation: str | None, outcome: str, hit: bool | None, latency_ms: float
    ) -> None:
        """Count one call; ``outcome`` is ``ok`` or a failure's code. Synchronous, never raises."""


class AuditRecord(msgspec.Struct, frozen=True, gc=False):
    """Who touched which key in which interaction, and what came of it.

    ``at`` is when the record was made, at the end of the call (Unix seconds); ``outcome`` is ``ok``
    or a failure's code. ``kind`` is one of `audit.chain.Kind`: what the record says of the call.
    """

    at: float
    request_id: str
    client: str | None
    flow_id: str | None
    interaction_id: str | None
    operation: str | None
    key: bytes | None
    outcome: str
    hit: bool | None
    latency_ms: float
    address: str | None = None
    """Where the caller spoke from."""
    shard: str | None = None
    """The shard that the command was sent to; None when none was, or the caller left before."""
    stale: bool = False
    """Whether a replica answered in its primary's place."""
    kind: str = "call"
    detail: str | None = None
    """JSON: why a JWT was refused; for a record that is not a call, more about what was done."""


INTENDED = "intended"
"""The outcome of a write that has not been done yet."""

FAILED = "failed"
"""In place of an outcome: whatever `has_failed`."""


def has_failed(outcome: str | None) -> bool:
    """Tell whether an outcome is that of an attempt that came to nothing, as far as is known."""
    return outcome not in (None, "", "ok", INTENDED)


class AuditSink(Protocol):
    """Where audit records go."""

    @property
    def wants_intents(self) -> bool:
        """Whether a write is recorded before it is done, too."""

    def admit(self) -> None:
        """Pass while records can be kept, or need not be.

        Raises:
            Unrecorded: they can't, and nothing may be done without.
        """

    def record(self, record: AuditRecord) -> Awaitable[bool] | None:
        """Take one record. Synchronous, bounded, never raises.

        What is returned has to be awaited before the call is answered: it says whether the record
        is on disk. None: the answer need not wait.
        """
