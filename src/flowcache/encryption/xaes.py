"""XAES-256-GCM: AES-256-GCM under a key of its own for each nonce (C2SP, XAES-256-GCM).

GCM's nonce has 96 bits. Drawn at random under one key, two messages are likely enough to share one
after 2^32 that a key has to be replaced before (NIST SP 800-38D, 8.3), and nobody counts what a
fleet writes. Here the nonce has 192 bits. Half of it makes, by the counter-mode KDF of NIST SP
800-108 over CMAC, the key that this message is sealed with; the other half is GCM's own nonce. So
2^80 messages are safe under one key: at a million a second, some 40 billion years.

All of it is AES: two blocks for the key, then plain AES-256-GCM. The last key that was made is
kept, for the fields of a hash: those that are sealed together have nonces with the same first half,
so that their key is made once. That two of 8,000 have the same second half, too, has a chance of
2^-71.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

__all__ = ["HALF_NONCE_BYTES", "KEY_BYTES", "NONCE_BYTES", "TAG_BYTES", "Xaes256Gcm"]

KEY_BYTES = 32
NONCE_BYTES = 24
HALF_NONCE_BYTES = _HALF = NONCE_BYTES // 2
TAG_BYTES = 16

_BLOCK_BITS = 128
_TWICE = (1 << _BLOCK_BITS) | 1
"""Times a block, it is that block two times."""


class Xaes256Gcm:
    """Seal and open under one key. Not for several threads at once."""

    __slots__ = ("_encrypt_blocks", "_gcm", "_half", "_masked_labels")

    def __init__(self, key: bytes) -> None:
        # A block cipher as CMAC needs it: nothing that is secret is enciphered in this mode.
        self._encrypt_blocks = Cipher(AES(key), ECB()).encryptor().update  # noqa: S305
        # CMAC's subkey for whole blocks: twice the encrypted zero in GF(2^128).
        zero = int.from_bytes(self._encrypt_blocks(bytes(16)))
        subkey = (zero << 1) % (1 << _BLOCK_BITS) ^ (0x87 if zero >> (_BLOCK_BITS - 1) else 0)
        labels = b"".join(bytes((0, counter)) + b"X\0" + bytes(_HALF) for counter in (1, 2))
        self._masked_labels = int.from_bytes(labels) ^ subkey * _TWICE
        self._half = bytes(_HALF)
        self._gcm = self._made(self._half)

    def seal(self, nonce: bytes, plain: bytes, bound: bytes) -> bytes:
        """Return ``plain`` as ciphertext and tag; ``bound`` has to be the same to open it."""
        return self._of(nonce[:_HALF]).encrypt(nonce[_HALF:], plain, bound)

    def open(self, nonce: bytes, sealed: bytes, bound: bytes) -> bytes:
        """Return what was sealed.

        Raises:
            cryptography.exceptions.InvalidTag: under another key, nonce or ``bound``, or altered.
        """
        return self._of(nonce[:_HALF]).decrypt(nonce[_HALF:], sealed, bound)

    def _of(self, half: bytes) -> AESGCM:
        if half != self._half:
            self._gcm = self._made(half)
            self._half = half
        return self._gcm

    def _made(self, half: bytes) -> AESGCM:
        both = int.from_bytes(half) * _TWICE
        return AESGCM(self._encrypt_blocks((self._masked_labels ^ both).to_bytes(KEY_BYTES)))
