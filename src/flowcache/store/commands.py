"""A command as bytes, with its TTL and its record in one atomic step.

There are three cases: a command that is atomic by itself is sent as it is; SET takes its TTL as
an argument; every other write with a TTL, and every write to be applied once, is a script. So is
`ports.TAKE` and `ports.APPEND`, which Redis does not know.
"""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import NamedTuple

from hiredis import pack_command

from flowcache.ports import APPEND, TAKE, Command
from flowcache.store.slots import once_key

__all__ = ["ASKING", "PING", "Packed", "pack", "pack_wait"]


class Packed(NamedTuple):
    """A command ready to be sent.

    ``script`` is a script's text and what follows it, for a server that lacks the script.
    """

    data: bytes
    script: tuple[bytes, ...] | None = None

    def with_script(self) -> bytes:
        """Return the command with the script's whole text in place of its digest."""
        assert self.script is not None
        return _pack((b"EVAL", *self.script))


def _pack(args: tuple[bytes, ...]) -> bytes:
    packed: bytes = pack_command(args)  # type: ignore[arg-type]  # its stub names a 1-tuple
    return packed


class _Script:
    """A Lua script, and the digest that a server knows it by."""

    def __init__(self, name: str) -> None:
        self._text = (files("flowcache.store") / "scripts" / name).read_bytes()
        self._sha = sha1(self._text, usedforsecurity=False).hexdigest().encode()

    def pack(self, *arguments: bytes) -> Packed:
        """Return a call of the script: the number of keys, the keys, the other arguments."""
        call = _pack((b"EVALSHA", self._sha, *arguments))
        return Packed(call, (self._text, *arguments))


_WRITE = _Script("write.lua")
_OWN = {TAKE: _Script("rate.lua"), APPEND: _Script("append.lua")}
"""Commands of ours that Redis does not know."""

ASKING = _pack((b"ASKING",))
PING = _pack((b"PING",))


def pack_wait(replicas: int, milliseconds: int) -> bytes:
    """Return a WAIT for what was written before it on the same connection."""
    return _pack((b"WAIT", b"%d" % replicas, b"%d" % milliseconds))


def pack(command: Command) -> Packed:
    """Return the bytes of ``command``."""
    once, ttl = command.once, command.ttl
    if once is None:
        if ttl is None:
            if (own := _OWN.get(command.name)) is not None:
                return own.pack(b"1", command.key, *command.args)
            return Packed(_pack((command.name, command.key, *command.args)))
        if command.name == b"SET":
            return Packed(_pack((b"SET", command.key, *command.args, b"EX", b"%d" % ttl)))
        keys: tuple[bytes, ...] = (b"1", command.key)
        record = (b"", b"0")
    else:
        keys = (b"2", command.key, once_key(command.key, once.token))
        fingerprints = b" ".join((once.fingerprint, *once.former))
        record = (fingerprints, b"%d" % once.lifetime_ms)
    return _WRITE.pack(*keys, command.name, b"%d" % (ttl or 0), *record, *command.args)
