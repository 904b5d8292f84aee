"""The keys of a worker: one seals, all open, and each counts what it did.

From each key two are derived (HKDF, RFC 5869), so that none is used for two things: one that seals,
and one for *fingerprints*. A fingerprint tells whether a write that came with an `idempotencyKey`
is the same as before. Ciphertext can't, it differs each time; a plain digest could, and would let
whoever reads Redis try values until one fits. So it is keyed.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from os import urandom

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from flowcache.encryption.envelope import DecryptionFailure, header, parse
from flowcache.encryption.keys import Key
from flowcache.encryption.xaes import HALF_NONCE_BYTES, KEY_BYTES, Xaes256Gcm

__all__ = ["Keyring", "new_half"]


class _Held:
    """A key at work."""

    __slots__ = ("cipher", "fingerprints", "header", "id", "opened", "sealed")

    def __init__(self, key: Key) -> None:
        material = key.material()
        self.id = key.id
        self.header = header(key.id)
        self.cipher = Xaes256Gcm(_derived(material, b"seal"))
        self.fingerprints = _derived(material, b"fingerprint")
        self.sealed = 0
        self.opened = 0


def _derived(material: bytes, purpose: bytes) -> bytes:
    return HKDFExpand(SHA256(), KEY_BYTES, b"flowcache 1 " + purpose).derive(material)


def new_half() -> bytes:
    """Return the first half of a nonce."""
    return urandom(HALF_NONCE_BYTES)


class Keyring:
    """Seal with the key whose id is ``active``, open with any. Not for several threads at once."""

    __slots__ = ("_active", "_by_header", "_others")

    def __init__(self, keys: Iterable[Key], active: str) -> None:
        held = {key.id: _Held(key) for key in keys}
        self._by_header = {each.header: each for each in held.values()}
        self._active = held.pop(active)
        self._others = tuple(held.values())

    def seal(self, plain: bytes, bound: bytes, half: bytes | None = None) -> bytes:
        """Return ``plain`` in an envelope that opens only where ``bound`` is the same.

        ``half`` is the first half of the nonce, for values that are sealed together (`new_half`).
        """
        key = self._active
        key.sealed += 1
        nonce = (half or new_half()) + urandom(HALF_NONCE_BYTES)
        return key.header + nonce + key.cipher.seal(nonce, plain, key.header + bound)

    def open(self, stored: bytes, bound: bytes) -> bytes | DecryptionFailure:
        """Return what is in an envelope, or why it is not opened."""
        parts = parse(stored)
        if isinstance(parts, DecryptionFailure):
            return parts
        key = self._by_header.get(parts.header)
        if key is None:
            return DecryptionFailure.UNKNOWN_KEY
        try:
            plain = key.cipher.open(parts.nonce, parts.sealed, key.header + bound)
        except InvalidTag:
            return DecryptionFailure.ALTERED
        key.opened += 1
        return plain

    def fingerprints(self, what: bytes) -> tuple[bytes, ...]:
        """Return 32 digits for ``what`` under each key, those of the active one first."""
        return tuple(
            hmac.digest(key.fingerprints, what, "sha256")[:16].hex().encode()
            for key in (self._active, *self._others)
        )

    @property
    def active(self) -> str:
        """The id of the key that seals."""
        return self._active.id

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return by key id how many values it sealed, and how many it opened."""
        return {key.id: (key.sealed, key.opened) for key in self._by_header.values()}
