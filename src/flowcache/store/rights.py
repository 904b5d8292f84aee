"""What flowcache's Redis user may do: every command that the service sends is tried.

What the operations take stands in their rows (`Operation.uses`). ACL DRYRUN would tell without
trying, and is a right that no service's user has. So each command is sent in a form that leaves
nothing behind: on a key of the check's own that isn't there, or, for a stream that may exist, with
an id that Redis never takes. What a script calls is tried by itself, as Redis asks for the user's
right to that, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flowcache.operations.catalogue import CATALOGUE
from flowcache.ports import RESERVED_PREFIX
from flowcache.printable import printable
from flowcache.store.connection import ConnectFault, NotPermitted, ask, close, connect
from flowcache.store.settings import Address, StoreSettings
from flowcache.store.topology import Kind

__all__ = [
    "SHARED_RATES",
    "TOPOLOGY_COMMANDS",
    "Right",
    "appending",
    "missing_rights",
    "needed_commands",
]

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


_OF_RECORDS = ("SET key value PX x", "GET key")
"""What a record of a write takes that is not to be done twice; see store/scripts/write.lua."""

_OF_ITSELF = (
    Right((b"EVAL", b"return 1", b"0")),
    Right((b"EVALSHA", b"0" * 40, b"0")),
    Right((b"PING",)),
)


def _always(key: bytes) -> tuple[Right, ...]:
    """Return what the service can't do without, whatever the topology."""
    texts = [text for operation in CATALOGUE.values() for text in operation.uses]
    named = (
        Right(tuple(key if word == "key" else word.encode() for word in text.split()))
        for text in (*texts, *_OF_RECORDS)
    )
    return (*{right.command: right for right in named}.values(), *_OF_ITSELF)


TOPOLOGY_COMMANDS = ("role", "asking", "readonly", "readwrite", "cluster|slots")
"""What else it is given, for the topologies that need it."""


def needed_commands() -> tuple[str, ...]:
    """Return the commands that the service's user needs in any case, for its ACL rule."""
    return tuple(right.command for right in _always(b"key"))


_IN_CLUSTER = (Right((b"ASKING",)), Right((b"READONLY",)), Right((b"READWRITE",)))
"""What redirections and replicas take there."""


async def missing_rights(
    server: Address,
    settings: StoreSettings,
    key: bytes,
    kind: Kind,
    more: Sequence[Right] = (),
    server_name: str | None = None,
) -> tuple[tuple[str, ...], str] | None:
    """Return which commands the user may not send, and the rule that lets it; None if it may all.

    ``key`` is one of the server's that is nobody's; ``more`` is what this configuration needs;
    ``server_name`` is what the certificate is for (`Topology.names`).

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
    connection = await connect(server, settings, server_name=server_name)
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
