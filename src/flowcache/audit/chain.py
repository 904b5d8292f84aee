"""The chain that makes records tamper-evident. Pure: no file, no clock.

Rules
-----
1. A *writer* is one worker's life with one journal. It has a random number, and its records have
   sequence numbers from 0 without a gap. Requests without a valid credential go to
   a separate chain, which begins with the first of them; its number says so
   (`UNAUTHENTICATED`).
2. A record's hash is SHA-256 over a domain, the hash of the record before (`GENESIS` for the
   first), and the record's own fields, its writer and number among them.
3. Fields are encoded as one MessagePack array in the order of `Entry`, each number and length in
   its shortest form: every field carries its type and length, so no two records encode alike. The
   domain carries the version: another encoding is another domain.
4. A chain begins with an ``open`` record, and ends with a ``close`` record when its writer ended in
   good order. Both name the newest record of the other chains in the file: they are *witnesses*
   that those had come so far.
5. With a signing key, the last record of each commit carries a *seal*: HMAC-SHA256 over its hash.
   So the last record of every chain is sealed, and with it all that came before.
6. Each record knows its `offset`, the bytes of the records before it in its chain: so how much is
   kept can be told without reading it, and nobody without the key can make it look like more.
7. Retention removes records from the front of a chain only, never its last one, and leaves a `Cut`
   behind: the number and the hash that the chain goes on from, with a seal of its own. It verifies
   what it removes, up to a seal behind it, and a ``cut`` record of who did it says why.

What follows
------------
A record that was changed, or put in another's place, does not fit its hash. One that was removed
leaves a gap in the numbers, or a front without a cut. One that was inserted has a number that is
taken, or moves others from their places, or comes after a ``close`` record. A tail that was cut
off, or a chain that was removed as a whole, is missed by its witnesses: those that opened later, or
closed later.

Known weakness
--------------
- What nobody has witnessed yet can be cut off unseen: the tail of a chain up to what the newest
  witness named. While a service runs that is little, since a worker that dies is replaced at once
  and its successor is a witness. When the whole service has ended, it is what the last worker
  wrote: its chain then looks like that of a worker that was killed, and `verify` says so.
- SHA-256 needs no secret. Whoever can write the file and knows this page could write a whole
  journal anew. Seals prevent it while the key is elsewhere; they don't prevent going back to an
  earlier state of the whole file, as restoring a backup would. Only what was noted elsewhere finds
  that: ``flowcache audit verify --anchor``, which takes heads that an earlier run wrote.
- A cut without a seal may be anybody's. A ``cut`` record bears witness to it only until retention
  removes that record, too.
- Whoever holds the signing key, as every worker does, can write anything from the moment that they
  have it.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, NamedTuple

import msgspec

__all__ = [
    "GENESIS",
    "UNAUTHENTICATED",
    "Cut",
    "Entry",
    "Fault",
    "Head",
    "Kind",
    "Link",
    "Number",
    "Walk",
    "cut_seal",
    "digest",
    "seal",
    "weight",
    "writer_name",
]

GENESIS = bytes(32)
"""What stands for the hash before the first record."""

UNAUTHENTICATED = 1 << 47
"""Set in the writer number of an unauthenticated chain: its name begins with 8 to f."""

Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""A record's number, as read from what somebody may have written: one that SQLite can look for."""

_RECORD = b"flowcache audit record v1\0"
_SEAL = b"flowcache audit seal v1\0"
_CUT = b"flowcache audit cut v1\0"
_OVERHEAD = 90
"""Bytes in addition to a record's own: hash, index entry, share of a page. Measured."""


class Kind(StrEnum):
    """What a record says. The values are kept in files and never renamed."""

    CALL = "call"
    """An attempt and what came of it."""
    INTENT = "intent"
    """A write or an erasure, about to be done. An ``outcome`` follows, unless there was a crash."""
    OUTCOME = "outcome"
    """What came of what an intent told of."""
    CORRECTION = "correction"
    """What the caller was told in place of what an earlier record of the request says."""
    OPEN = "open"
    CLOSE = "close"
    LOST = "lost"
    """Records that could not be kept: ``detail`` says how many. They are missing at this place."""
    REFUSED = "refused"
    """Refusals above the limit of an address: ``detail`` says how many, and since when."""
    CUT = "cut"
    """What retention removed: ``detail`` says of which chains, up to where, and why."""


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A record as it is kept. The order of the fields is that of the encoding: never changed."""

    writer: int
    seq: int
    kind: str
    at: float
    client: str | None = None
    address: str | None = None
    request_id: str | None = None
    flow: str | None = None
    interaction: str | None = None
    operation: str | None = None
    key: str | None = None
    outcome: str | None = None
    hit: int | None = None
    latency_ms: float | None = None
    shard: str | None = None
    stale: int = 0
    detail: str | None = None
    """JSON, of records that are not about a call."""
    offset: int = 0
    """The `weight` of all records before it in its chain."""


class Link(NamedTuple):
    """A record in its chain."""

    entry: Entry
    hash: bytes
    seal: bytes | None


class Cut(NamedTuple):
    """Where a chain goes on after retention: at record ``seq``, after one with this ``hash``.

    Of all removed records, ``newest`` is the latest time, and ``early`` records were younger than
    the journal had to keep them.
    """

    writer: int
    seq: int
    hash: bytes
    at: float
    newest: float
    early: int
    seal: bytes | None = None


class Head(NamedTuple):
    """A record by its number and hash: how far a chain had come."""

    seq: int
    hash: bytes


class Fault(NamedTuple):
    """What is wrong with which record; ``seq`` is None where it is the whole chain."""

    writer: int
    seq: int | None
    what: str


_encode = msgspec.msgpack.Encoder().encode


def writer_name(writer: int) -> str:
    """Return a writer's number as people see it."""
    return f"{writer:012x}"


def digest(before: bytes, entry: Entry) -> bytes:
    """Return the hash of ``entry`` after a record whose hash is ``before``."""
    return sha256(_RECORD + before + _encode(entry)).digest()


def seal(key: bytes, hash_: bytes) -> bytes:
    """Return the seal of a record with this hash."""
    return hmac.digest(key, _SEAL + hash_, "sha256")


def cut_seal(key: bytes, cut: Cut) -> bytes:
    """Return the seal that ``cut`` should have."""
    return hmac.digest(key, _CUT + _encode(cut[:-1]), "sha256")


def weight(entry: Entry) -> int:
    """Return the bytes that a record takes in the file, about."""
    return len(_encode(entry)) + _OVERHEAD


class Walk:
    """Walk a chain from its first record, or from a cut (`resume`), and say what is wrong.

    Links are handed over in order of their numbers, in as many parts as one likes. A fault is told
    where it is, and the walk goes on from what is there: one change gives one fault.
    """

    def __init__(self, writer: int, key: bytes | None) -> None:
        self._writer = writer
        self._key = key
        self._before: bytes | None = GENESIS
        """The hash before the next record; None after a gap."""
        self.next = 0
        """The number that the next record should have."""
        self.closed = False
        self.last: Link | None = None
        self._suspect: bytes | None = None
        """What the hash of the last record should have been, if it did not fit."""
        self._faults: list[Fault] = []

    def resume(self, cut: Cut) -> None:
        """Continue at ``cut``: retention removed what was before it."""
        if self._key is not None and (
            cut.seal is None or not hmac.compare_digest(cut.seal, cut_seal(self._key, cut))
        ):
            self._tell(cut.seq, "the cut before it was not signed with this key")
        self._settle(None)
        self.next, self._before = cut.seq, cut.hash

    def follow(self, links: Iterable[Link]) -> Iterator[Fault]:
        """Walk on over ``links``."""
        for link in links:
            self._step(link)
            yield from self._told()

    def end(self) -> Iterator[Fault]:
        """Say what is wrong with the chain as a whole, once all its records have been walked."""
        self._settle(None)
        last = self.last
        if last is None:
            self._tell(None, "no record of it is left; retention never removes the last one")
        elif self._key is not None and last.seal is None:
            self._tell(last.entry.seq, "the last record has no signature")
        yield from self._told()

    def _step(self, link: Link) -> None:
        entry = link.entry
        if entry.seq != self.next:
            self._settle(None)
            several = f", as all up to {entry.seq - 1}" if entry.seq - self.next > 1 else ""
            self._tell(self.next, f"missing{several}")
            self._before = None
        self._settle(entry, link.hash)
        if self._before is not None:
            should = digest(self._before, entry)
            self._suspect = None if should == link.hash else should
        if entry.seq == 0 and entry.kind != Kind.OPEN:
            self._tell(0, "the chain does not begin with its opening record")
        if self.closed:
            self._tell(entry.seq, "comes after the closing record")
        if (
            self._key is not None
            and link.seal is not None
            and not hmac.compare_digest(link.seal, seal(self._key, link.hash))
        ):
            self._tell(entry.seq, "its signature was not made with this key")
        self.closed = self.closed or entry.kind == Kind.CLOSE
        self.last, self.next, self._before = link, entry.seq + 1, link.hash

    def _settle(self, following: Entry | None, hash_: bytes = b"") -> None:
        """Tell what is wrong with the last record, now that the one after it is known."""
        if self._suspect is None or self.last is None:
            return
        only_hash = following is not None and digest(self._suspect, following) == hash_
        self._tell(
            self.last.entry.seq,
            "its hash was changed"
            if only_hash
            else "not what was written here: it, its place or the record before it was changed",
        )
        if only_hash:
            self._before = self._suspect
        self._suspect = None

    def _tell(self, seq: int | None, what: str) -> None:
        self._faults.append(Fault(self._writer, seq, what))

    def _told(self) -> list[Fault]:
        told, self._faults = self._faults, []
        return told
