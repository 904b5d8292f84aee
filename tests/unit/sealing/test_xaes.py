"""The cipher, against the numbers of others."""

from __future__ import annotations

from hashlib import shake_128

import pytest
from cryptography.exceptions import InvalidTag

from flowcache.encryption.xaes import Xaes256Gcm

NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"

VECTORS = [
    (b"\x01", b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
    (
        b"\x03",
        b"c2sp.org/XAES-256-GCM",
        "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
    ),
]
"""Of the specification: each key byte, associated data, ciphertext. CMAC's subkey is made in two
ways, and each of them in one of these."""


@pytest.mark.parametrize(("byte", "bound", "sealed"), VECTORS)
def test_the_vectors_of_the_specification(byte: bytes, bound: bytes, sealed: str) -> None:
    """What others seal opens here, and the other way round."""
    cipher = Xaes256Gcm(byte * 32)
    assert cipher.seal(NONCE, b"XAES-256-GCM", bound).hex() == sealed
    assert cipher.open(NONCE, bytes.fromhex(sealed), bound) == b"XAES-256-GCM"


def test_ten_thousand_random_vectors_of_the_specification() -> None:
    """Keys, nonces, texts and associated data of many lengths: one digest over all ciphertexts."""
    stream = shake_128()
    source = stream.digest(10_000 * (32 + 24 + 2 * 257))
    total, at = shake_128(), 0

    def take(length: int) -> bytes:
        nonlocal at
        at += length
        return source[at - length : at]

    for _ in range(10_000):
        key, nonce = take(32), take(24)
        plain = take(take(1)[0])
        bound = take(take(1)[0])
        cipher = Xaes256Gcm(key)
        sealed = cipher.seal(nonce, plain, bound)
        assert cipher.open(nonce, sealed, bound) == plain
        total.update(sealed)
    assert total.hexdigest(32) == "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"


def test_both_halves_of_a_nonce_count() -> None:
    """A message under a nonce that differs anywhere does not open."""
    cipher = Xaes256Gcm(b"\x01" * 32)
    sealed = cipher.seal(NONCE, b"text", b"")
    for at in (0, 11, 12, 23):
        other = bytearray(NONCE)
        other[at] ^= 1
        with pytest.raises(InvalidTag):
            cipher.open(bytes(other), sealed, b"")
