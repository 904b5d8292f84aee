"""Keys for encryption at rest: how one is written down, and where they come from.

A key is a line, ``ID:BASE64``: a name of 1 to 32 letters, digits, ``-``, ``_`` and ``.``, and 32
random bytes. Empty lines and those that begin with ``#`` say nothing. `new_key` makes one.

`KeyProvider` is what a key management service has to be to take the place of a file: it is asked
once, when the configuration is read, and whoever holds wrapped keys unwraps them then.
"""

from __future__ import annotations

import re
import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flowcache.secret import Secret

__all__ = ["GivenKeys", "Key", "KeyFile", "KeyProvider", "is_key_id", "new_key"]

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

    def keys(self) -> tuple[Key, ...]:
        """Return all keys there are, at least one; of each id and each secret one.

        Raises:
            ValueError: there are none, or some are no keys; it says what is wrong with each, and
                nothing of what they hold.
        """


@dataclass(frozen=True, slots=True)
class GivenKeys:
    """Keys that stand in the configuration or the environment: lines, or commas between them."""

    text: Secret

    def keys(self) -> tuple[Key, ...]:
        """Return the keys; see `KeyProvider.keys`."""
        return _read(self.text.reveal().replace(",", "\n"))


@dataclass(frozen=True, slots=True)
class KeyFile:
    """Keys in a file, as a mounted secret is."""

    path: Path

    def keys(self) -> tuple[Key, ...]:
        """Return the keys; see `KeyProvider.keys`."""
        try:
            return _read(self.path.read_text("ascii"))
        except OSError as fault:
            raise ValueError(f"can't be read: {fault.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError("expected a file of ASCII text") from None


def is_key_id(text: str) -> bool:
    """Tell whether a key may have this id."""
    return _ID.fullmatch(text) is not None


def new_key(key_id: str) -> Key:
    """Return a new key of 256 random bits."""
    return Key(key_id, Secret(b64encode(secrets.token_bytes(_BYTES)).decode()))


def _read(text: str) -> tuple[Key, ...]:
    found: dict[str, Key] = {}
    faults: list[str] = []
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        key = _key(line)
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


def _key(line: str) -> Key | None:
    key_id, _, encoded = line.partition(":")
    try:
        material = b64decode(encoded, validate=True)
    except ValueError:
        return None
    # Base64 has spellings that mean the same; a key has one.
    if not is_key_id(key_id) or len(material) != _BYTES or b64encode(material) != encoded.encode():
        return None
    return Key(key_id, Secret(encoded))
