"""What flowcache's Redis user may do: every command that the service sends is tried.

ACL DRYRUN would tell without trying, and is a right that no service's user has. So each command is
sent in a form that leaves nothing behind: on a key of the check's own, which ends by itself, or,
for a stream that may exist, with an id that Redis never takes. What a script calls is tried by
itself, as Redis asks for the user's right to that, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flowcache.ports import RESERVED_PREFIX
from flowcache.printable import printable
from flowcache.store.connection import ConnectFault, NotPermitted, ask, close, connect
from flowcache.store.settings import Address, StoreSettings
from flowcache.store.topology import Kind

__all__ = ["SHARED_RATES", "Right", "appending", "missing_rights"]

_OWN_KEYS = RESERVED_PREFIX.decode() + "*"


_CONTAINERS = frozenset({b"MEMORY"})
"""Commands whose first argument is what a user has the right to."""


class Right(NamedTuple):
    """The right to a command on keys of a pattern, and the ``words`` that try it."""

    words: tuple[bytes, ...]
    keys: str = _OWN_KEYS

    @property
    def command(self) -> str:
        """Its name, as operators write it in a rule."""
        name, *rest = self.words
        words = (name, rest[0]) if name in _CONTAINERS else (name,)
        return b"|".join(words).decode().lower()


SHARED_RATES = Right((b"TIME",))
"""What ``auth.shared_rates`` takes besides."""


def appending(key: bytes) -> Right:
    """Return the right to append to the stream ``key``: tried with id 0-0, which no entry has."""
    return Right(
        (b"XADD", key, b"0-0", b"field", b"value"), printable(key.decode("utf-8", "replace"))
    )


def _always(key: bytes) -> tuple[Right, ...]:
    """Return what the service can't do without, whatever the topology; see docs/operations.md."""
    return tuple(
        map(
            Right,
            (
                (b"SET", key, b"1", b"EX", b"10"),
                (b"GET", key),
                (b"GETRANGE", key, b"0", b"0"),
                (b"STRLEN", key),
                (b"INCRBY", key, b"1"),
                (b"UNLINK", key),
                (b"HSET", key, b"field", b"value"),
                (b"EXPIRE", key, b"10"),
                (b"PEXPIRE", key, b"10000"),
                (b"HLEN", key),
                (b"HMGET", key, b"field"),
                (b"HGETALL", key),
                (b"MEMORY", b"USAGE", key, b"SAMPLES", b"0"),
                (b"UNLINK", key),
                (b"EVAL", b"return 1", b"0"),
                (b"EVALSHA", b"0" * 40, b"0"),
                (b"PING",),
            ),
        )
    )


_IN_CLUSTER = (Right((b"ASKING",)), Right((b"READONLY",)), Right((b"READWRITE",)))
"""What redirections and replicas take there."""


async def missing_rights(
    server: Address,
    settings: StoreSettings,
    key: bytes,
    kind: Kind,
    more: Sequence[Right] = (),
) -> tuple[tuple[str, ...], str] | None:
    """Return which commands the user may not send, and the rule that lets it; None if it may all.

    ``key`` is one of the server's that is nobody's; ``more`` is what this configuration needs.

    Raises:
        ConnectFault: the server is not to be reached.
    """
    rights = [*_always(key), *more]
    if settings.confirm_replicas:
        rights.append(Right((b"WAIT", b"0", b"1")))
    if kind is Kind.CLUSTER:
        rights += _IN_CLUSTER
    missing: dict[str, None] = {}
    rule: dict[str, None] = {}
    connection = await connect(server, settings)
    try:
        for right in rights:
            try:
                await ask(connection, *right.words)
            except NotPermitted as fault:
                missing[right.command] = None
                rule["~" + right.keys if fault.is_about_key else "+" + right.command] = None
            except ConnectFault:
                continue  # it may be sent: whatever else is wrong shows where it is used
    finally:
        await close(connection)
    if not missing:
        return None
    return tuple(missing), f"ACL SETUSER {settings.username or 'default'} {' '.join(rule)}"
