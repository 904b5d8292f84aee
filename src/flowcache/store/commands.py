"""A command as bytes, with its TTL, its limits and its record in one atomic step.

- A read of a value is bounded: GET is sent as GETRANGE, every other as a script that looks at the
  size first (`pack_whole`). A value over `SMALL` bytes does not come that way; see `redis_store`.
- SET takes its TTL as an argument. Its size is known before it is sent.
- A write whose outcome depends on what is there (`ports.Bound`), every other write with a TTL, and
  every write to be applied once, is a script. So are `ports.TAKE` and `ports.APPEND`, which Redis
  does not know.
- Everything else is sent as it is.
"""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import NamedTuple

from hiredis import pack_command

from flowcache.ports import APPEND, TAKE, Bound, Command, Reply
from flowcache.store.slots import once_key

__all__ = [
    "ASKING",
    "ELSEWHERE",
    "HELLO",
    "PING",
    "SMALL",
    "Packed",
    "pack",
    "pack_hgetall",
    "pack_wait",
    "pack_whole",
]

SMALL = 64 * 1024
"""Bytes of a value up to which it may travel on the connection that all calls share."""

ELSEWHERE = -1
"""What the script replies to HGETALL of a hash that has to be read in another way.

On the shared connection: over the one for large replies, where more may be spent on a look. There:
with HGETALL itself, because a script would copy it twice.
"""


class Packed(NamedTuple):
    """A command ready to be sent.

    ``script`` is a script's text and what follows it, for a server that lacks the script. ``most``
    is, for a read of a value, how many bytes of it the reply may have; None: the reply is whole.
    """

    data: bytes
    script: tuple[bytes, ...] | None = None
    most: int | None = None

    def with_script(self) -> bytes:
        """Return the command with the script's whole text in place of its digest."""
        assert self.script is not None
        return _pack((b"EVAL", *self.script))

    def is_unclear(self, reply: Reply) -> bool:
        """Tell whether ``reply`` may mean an empty string or a missing key: GETRANGE's may."""
        return self.most is not None and self.script is None and bool(reply == b"")


def _pack(args: tuple[bytes, ...]) -> bytes:
    packed: bytes = pack_command(args)  # type: ignore[arg-type]  # its stub names a 1-tuple
    return packed


class _Script:
    """A Lua script, and the digest that a server knows it by."""

    def __init__(self, name: str) -> None:
        self._text = (files("flowcache.store") / "scripts" / name).read_bytes()
        self._sha = sha1(self._text, usedforsecurity=False).hexdigest().encode()

    def pack(self, *arguments: bytes, most: int | None = None) -> Packed:
        """Return a call of the script: the number of keys, the keys, the other arguments."""
        call = _pack((b"EVALSHA", self._sha, *arguments))
        return Packed(call, (self._text, *arguments), most)


_READ = _Script("read.lua")
_WRITE = _Script("write.lua")
_OWN = {TAKE: _Script("rate.lua"), APPEND: _Script("append.lua")}
"""Commands of ours that Redis does not know."""

_BOUNDS = {bound: bound.value.encode() for bound in Bound}

ASKING = _pack((b"ASKING",))
PING = _pack((b"PING",))
HELLO = _pack((b"HELLO",))
"""Asks who the server is. Whoever may connect may ask it; the protocol stays as it is."""


def pack_wait(replicas: int, milliseconds: int) -> bytes:
    """Return a WAIT for what was written before it on the same connection."""
    return _pack((b"WAIT", b"%d" % replicas, b"%d" % milliseconds))


def pack_whole(command: Command, most: int, *, alone: bool = False) -> Packed:
    """Return a read whose reply is the whole value, or its size if it has over ``most`` bytes.

    The reply to HGETALL may be `ELSEWHERE`. ``alone``: nobody but readers of large values waits.
    """
    held = b"%d" % command.sizes.held
    limits = b"%d" % most, held, b"1" if alone else b"0"
    bound = _BOUNDS[command.bound]
    return _READ.pack(b"1", command.key, bound, *limits, *command.words, most=most)


def pack_hgetall(key: bytes) -> bytes:
    """Return HGETALL itself, for a hash that was measured."""
    return _pack((b"HGETALL", key))


def pack(command: Command) -> Packed:
    """Return the bytes of ``command``, of a read those that fetch up to `SMALL` bytes."""
    words, bound = command.words, command.bound
    if not command.writes:
        if bound is Bound.SMALL:
            return Packed(_pack(words))
        most = min(SMALL, command.sizes.reply)
        if bound is Bound.STRING:
            # One byte more, which tells that there is more. Positions count from 0.
            return Packed(_pack((b"GETRANGE", words[1], b"0", b"%d" % most)), None, most)
        return pack_whole(command, most)
    once, ttl = command.once, command.ttl
    if ttl is not None and words[0] == b"SET":
        words, ttl = (*words, b"EX", b"%d" % ttl), None
    if once is None and ttl is None and bound is Bound.SMALL:
        own = _OWN.get(words[0])
        return Packed(_pack(words)) if own is None else own.pack(b"1", *words[1:])
    keys, record = command.all_keys(), (b"", b"0")
    if once is not None:
        keys.append(once_key(command.key, once.token))
        record = b" ".join((once.fingerprint, *once.former)), b"%d" % once.lifetime_ms
    sizes = command.sizes
    limits = b"%d" % sizes.value, b"%d" % sizes.fields, b"%d" % min(SMALL, sizes.reply)
    arguments = (_BOUNDS[bound], b"%d" % (ttl or 0), *record, *limits, *words)
    return _WRITE.pack(b"%d" % len(keys), *keys, *arguments)
