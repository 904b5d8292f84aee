"""A sealed value, byte by byte. Pure.

    offset    bytes
    0         1      0xFC: no UTF-8 text holds this byte, so no JSON text looks like an envelope
    1         1      the version of this format, 1
    2         1      n, the length of the key's id: 1 to 32
    3         n      the id of the key, ASCII
    3 + n     24     nonce, random; of fields that were sealed together the first 12 are the same
    27 + n    m      ciphertext, as long as what was sealed
    27 + n + m  16   tag

The algorithm of version 1 is XAES-256-GCM (`xaes`), under 32 bytes that are derived from the key of
that id: HKDF-Expand (RFC 5869) with SHA-256 and the info ``flowcache 1 seal``. What the tag also
vouches for, its associated data, is the bytes up to the nonce, followed by where the value lies:

    string           "S", the length of the key in Redis as two bytes, that key
    field of a hash  "H", the length of the key in Redis as two bytes, that key, the field's name

The key in Redis is the whole one, namespace included. So an envelope opens nowhere but where it was
written: not under another key, not as another field, not as a string that was a field.

Compatibility: version 1 stays as it is for as long as values may live. Another layout or algorithm
is another version, which those before it refuse.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from flowcache.encryption.xaes import NONCE_BYTES, TAG_BYTES

__all__ = ["DecryptionFailure", "Parts", "field_of", "header", "is_envelope", "parse", "string_of"]

_MARK = 0xFC
_VERSION = 1
_FIXED = 3


class DecryptionFailure(StrEnum):
    """Why a stored value is not opened. The values are labels of a metric and never renamed."""

    PLAINTEXT = "plaintext"
    """It is no envelope."""
    MALFORMED = "malformed"
    """It begins as one and is none: cut short, or of another version."""
    UNKNOWN_KEY = "unknown_key"
    """It was sealed with a key that is not there."""
    ALTERED = "altered"
    """It was changed, or moved here from another key or field."""


class Parts(NamedTuple):
    """An envelope taken apart; ``sealed`` is ciphertext and tag."""

    header: bytes
    nonce: bytes
    sealed: bytes


def header(key_id: str) -> bytes:
    """Return how all envelopes of a key begin."""
    return bytes((_MARK, _VERSION, len(key_id))) + key_id.encode("ascii")


def is_envelope(stored: bytes) -> bool:
    """Tell whether ``stored`` claims to be sealed."""
    return stored[:1] == b"\xfc"


def parse(stored: bytes) -> Parts | DecryptionFailure:
    """Take an envelope apart; nothing of it is known to be true yet."""
    if not is_envelope(stored):
        return DecryptionFailure.PLAINTEXT
    start = _FIXED + (stored[2] if len(stored) > _FIXED else 0)
    end = start + NONCE_BYTES
    if len(stored) < end + TAG_BYTES or stored[1] != _VERSION:
        return DecryptionFailure.MALFORMED
    return Parts(stored[:start], stored[start:end], stored[end:])


def string_of(key: bytes) -> bytes:
    """Return what the value of the string under ``key`` is bound to."""
    return b"S" + len(key).to_bytes(2) + key


def field_of(key: bytes) -> bytes:
    """Return what a field's value in the hash under ``key`` is bound to, less the field's name."""
    return b"H" + len(key).to_bytes(2) + key
