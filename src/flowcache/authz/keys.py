"""Keys: which of them a client may use, and where they lie in Redis.

A pattern is one of three things, and nothing else is a pattern:

- ``*``            every key
- ``customer:*``   every key that begins with ``customer:``
- ``settings``     the key ``settings``

The ``*`` stands at the end, after a separator: ``customer*`` would let in ``customers-of-others``,
so it is a fault of the configuration and not a pattern.

A namespace is a prefix in Redis, ``flowcache:ns:NAME:``. Keys of two namespaces can't be the same,
whatever follows: a name holds no colon, so that no prefix begins with another. Nor can a key
without a namespace, since none may begin with ``flowcache:``. There is no brace in the prefix, so
that the first one of the key stays the first, and a hash tag means what it meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from flowcache.ports import NAMESPACES, RESERVED_PREFIX

__all__ = [
    "ALL_KEYS",
    "NO_KEYS",
    "SEPARATORS",
    "SUBJECT",
    "KeyPattern",
    "KeyPatterns",
    "namespace_of",
    "namespace_prefix",
    "read_pattern",
    "read_patterns",
]

SEPARATORS = ":/.|"
"""What ends a segment of a key."""

_LONGEST = 32
_NAMESPACE = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{_LONGEST - 1}}}", re.ASCII)


class KeyPatterns(NamedTuple):
    """The keys that a client may use: some by their whole name, some by how they begin."""

    exact: frozenset[bytes]
    beginnings: tuple[bytes, ...]

    def cover(self, key: bytes) -> bool:
        """Tell whether ``key`` is among them."""
        return key.startswith(self.beginnings) or key in self.exact


ALL_KEYS = KeyPatterns(frozenset(), (b"",))
NO_KEYS = KeyPatterns(frozenset(), ())


class KeyPattern(NamedTuple):
    """One pattern: the key of this ``name``, or all whose name begins with it."""

    name: bytes
    is_beginning: bool

    @property
    def text(self) -> bytes:
        """The pattern as it is written."""
        return self.name + b"*" if self.is_beginning else self.name


SUBJECT = "{subject}"
"""What in a pattern stands for somebody's id; see `read_pattern`."""


def read_pattern(pattern: str, subject: str | None = None) -> KeyPattern:
    """Return what ``pattern`` means.

    ``subject`` takes the place of `SUBJECT` in it, letter by letter: no sign in it means anything,
    so that an id from outside can't widen what was meant.

    Raises:
        ValueError: it is no pattern; the sentence says what would be one.
    """
    beginning = pattern.removesuffix("*")
    if "*" in beginning:
        raise ValueError(f'"{pattern}" is no pattern: the * stands at the end only')
    if not pattern:
        raise ValueError('"" is no pattern: a key has at least one byte')
    is_beginning = beginning != pattern
    if is_beginning and beginning and beginning[-1] not in SEPARATORS:
        raise ValueError(
            f'"{pattern}" is no pattern: before the * stands one of {" ".join(SEPARATORS)}, '
            f'as in "{beginning}:*"'
        )
    name = beginning if subject is None else beginning.replace(SUBJECT, subject)
    if name.startswith(RESERVED_PREFIX.decode()):
        raise ValueError(f'"{pattern}": what begins with flowcache: is flowcache\'s own')
    return KeyPattern(name.encode(), is_beginning)


def read_patterns(patterns: Iterable[str]) -> KeyPatterns:
    """Return what ``patterns`` mean together.

    Raises:
        ValueError: one is no pattern; the sentence says which, and what would be one.
    """
    read = [read_pattern(pattern) for pattern in patterns]
    return KeyPatterns(
        frozenset(each.name for each in read if not each.is_beginning),
        tuple(sorted({each.name for each in read if each.is_beginning})),
    )


def namespace_prefix(name: str) -> bytes:
    """Return what stands in Redis before each key of a namespace.

    Raises:
        ValueError: it is no name for one.
    """
    if not _NAMESPACE.fullmatch(name):
        raise ValueError("expected 1 to 32 letters, digits, - and _, the first no sign")
    return NAMESPACES + name.encode() + b":"


def namespace_of(client: str) -> str:
    """Return a name for the namespace of one client, by its own name, and of no other's.

    That is the client's name, if a namespace may have it; else what may stay of it and eight digits
    of its digest: clients must not meet because their names begin alike.
    """
    if _NAMESPACE.fullmatch(client):
        return client
    digits = sha256(client.encode()).hexdigest()[:8]
    return f"{client.replace('.', '-')[: _LONGEST - 9]}-{digits}"
