"""Keys for encryption at rest: how one is written down, and where they come from.

A key is a line, ``ID:BASE64``: a name of 1 to 32 letters, digits, ``-``, ``_`` and ``.``, and 32
random bytes, with a comma in place of a new line where that is handier. Empty lines and those that
begin with ``#`` say nothing.
`new_key` makes one.

Keys that stand in the configuration, the environment or a file are `WrittenKeys`: how a secret gets
here is the business of the settings. `KeyProvider` is what a key management service has to be to
take their place: a worker asks it once, at its start, and one that keeps wrapped keys has them
unwrapped then.
"""

from __future__ import annotations

import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from flowcache.secret import Secret

__all__ = ["Key", "KeyProvider", "WrittenKeys", "is_key_id", "new_key"]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}", re.ASCII)
_BYTES = 32


@dataclass(frozen=True, slots=True)
class Key:
    """A key and the name it is known by, in envelopes and to people; ``secret`` is its Base64."""

    id: str
    secret: Secret

    def material(self) -> bytes:
        """Return its 32 bytes. Never log or store what this returns."""
        return b64decode(self.secret.reveal())

    def line(self) -> str:
        """Return it as it is written down: a secret in clear."""
        return f"{self.id}:{self.secret.reveal()}"


class KeyProvider(Protocol):
    """Where keys come from."""

    def fetch(self) -> tuple[Key, ...]:
        """Return all keys there are, at least one; of each id and each secret one.

        Raises:
            ValueError: there are none, or some are no keys; it says what is wrong with each, and
                nothing of what they hold.
        """


@dataclass(frozen=True, slots=True)
class WrittenKeys:
    """Keys as they are written down."""

    text: Secret

    def fetch(self) -> tuple[Key, ...]:
        """Return the keys; see `KeyProvider.fetch`."""
        return _read(self.text.reveal())


def is_key_id(text: str) -> bool:
    """Tell whether a key may have this id."""
    return _ID.fullmatch(text) is not None


def new_key(key_id: str) -> Key:
    """Return a new key of 256 random bits."""
    return Key(key_id, Secret(b64encode(secrets.token_bytes(_BYTES)).decode()))


def _read(text: str) -> tuple[Key, ...]:
    found: dict[str, Key] = {}
    faults: list[str] = []
    for number, entry in _entries(text):
        key = _key(entry)
        if key is None:
            faults.append(
                f'line {number}: expected ID:BASE64, as "flowcache encryption new-key" prints it'
            )
        elif key.id in found:
            faults.append(f"line {number}: a second key {key.id}")
        elif key.secret in {other.secret for other in found.values()}:
            faults.append(f"line {number}: the key {key.id} is the same as another")
        else:
            found[key.id] = key
    if not found and not faults:
        faults.append("expected at least one key")
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(found.values())


def _entries(text: str) -> Iterator[tuple[int, str]]:
    """Yield what may be a key, and the number of its line."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip().startswith("#"):
            yield from ((number, entry.strip()) for entry in line.split(",") if entry.strip())


def _key(entry: str) -> Key | None:
    key_id, _, encoded = entry.partition(":")
    try:
        material = b64decode(encoded, validate=True)
    except ValueError:
        return None
    # Base64 has spellings that mean the same; a key has one.
    if not is_key_id(key_id) or len(material) != _BYTES or b64encode(material) != encoded.encode():
        return None
    return Key(key_id, Secret(encoded))
