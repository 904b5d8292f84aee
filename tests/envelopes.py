"""Sealed values by the book: from the page of `flowcache.encryption.envelope`, not from its code.

The tests seal and open with this behind flowcache's back: both would have to be wrong in the same
way to agree.
"""

from __future__ import annotations

import os
from base64 import b64encode

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

__all__ = ["ENCODED", "KEYS", "SECRETS", "Sealer", "line"]

SECRETS = {name: bytes([number]) * 31 + b"!" for number, name in enumerate(("k1", "k2", "k3"))}
"""Keys of the tests: id -> 32 bytes."""


def line(key_id: str) -> str:
    """Return a key of the tests as a file of keys has it."""
    return f"{key_id}:{b64encode(SECRETS[key_id]).decode()}"


KEYS = ",".join(map(line, SECRETS))
"""All of them, as the environment has them."""


ENCODED = tuple(b64encode(secret).decode() for secret in SECRETS.values())
"""What of them must never show."""


class Sealer:
    """Seal and open with one key."""

    def __init__(self, key_id: str = "k1") -> None:
        self.header = b"\xfc\x01" + bytes([len(key_id)]) + key_id.encode()
        info = b"flowcache 1 seal"
        self._key = HKDFExpand(SHA256(), 32, info).derive(SECRETS[key_id])

    def seal(self, plain: bytes, key: bytes, field: bytes | None = None) -> bytes:
        """Return the envelope of a string, or of a field of a hash."""
        nonce = os.urandom(24)
        sealed = self._gcm(nonce).encrypt(nonce[12:], plain, self._bound(key, field))
        return self.header + nonce + sealed

    def open(self, stored: bytes, key: bytes, field: bytes | None = None) -> bytes:
        """Return what is in an envelope; raises InvalidTag when it does not belong there."""
        assert stored.startswith(self.header), stored[:8]
        nonce, sealed = stored[len(self.header) :][:24], stored[len(self.header) + 24 :]
        return self._gcm(nonce).decrypt(nonce[12:], sealed, self._bound(key, field))

    def _bound(self, key: bytes, field: bytes | None) -> bytes:
        place = bytes([len(key) >> 8, len(key) & 255]) + key
        return self.header + (b"S" + place if field is None else b"H" + place + field)

    def _gcm(self, nonce: bytes) -> AESGCM:
        """Return AES-GCM under the key of a nonce: KDF in counter mode, with CMAC (SP 800-108)."""
        halves = []
        for counter in (1, 2):
            mac = CMAC(AES(self._key))
            mac.update(bytes([0, counter]) + b"X" + b"\0" + nonce[:12])
            halves.append(mac.finalize())
        return AESGCM(b"".join(halves))
