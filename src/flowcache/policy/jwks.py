"""A set of an issuer's keys (RFC 7517): those that can verify a signature, one by one.

A key that can't be used is left out, whatever is wrong with it, and the others count (section 5):
issuers publish keys to encrypt with, and of kinds that come after us, in one set with those to
sign with.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from joserfc.jwk import ECKey, OKPKey, RSAKey

__all__ = ["ALGORITHMS", "KeySet", "PublicKey", "read_key_set"]

PublicKey = RSAKey | ECKey | OKPKey

_KINDS: dict[tuple[str, str | None], tuple[type[PublicKey], tuple[str, ...]]] = {
    ("RSA", None): (RSAKey, ("RS256", "PS256")),
    ("EC", "P-256"): (ECKey, ("ES256",)),
    ("OKP", "Ed25519"): (OKPKey, ("Ed25519",)),
}
"""Type and curve -> what reads such a key, and the algorithms that it signs by."""

ALGORITHMS = tuple(name for _, names in _KINDS.values() for name in names)

_SHORTEST_MODULUS = 342
"""Characters of 2048 bits in Base64: what RFC 7518 requires, section 3.3."""


class KeySet(NamedTuple):
    """The keys that can be used, by their names, and how many there were in the set."""

    usable: dict[str | None, PublicKey]
    published: int


class _Set(msgspec.Struct):
    keys: list[msgspec.Raw]


class _Description(msgspec.Struct):
    """What of a key says whether it can be used."""

    kty: str
    crv: str | None = None
    use: str = "sig"
    key_ops: tuple[str, ...] = ("verify",)
    alg: str | None = None
    kid: str | None = None
    n: str | None = None


def read_key_set(jwks: bytes) -> KeySet:
    """Return the keys of a set; a key without a name gets its thumbprint for one (RFC 7638).

    Raises:
        ValueError: it is no JWKS, or has no key that could be used.
    """
    try:
        published = _decode_set(jwks).keys
    except (msgspec.MsgspecError, ValueError, RecursionError) as fault:
        raise ValueError(f"no JWKS: {type(fault).__name__}") from None
    usable: dict[str | None, PublicKey] = {}
    for raw in published:
        key = _read_key(raw)
        if key is not None:
            key.ensure_kid()
            usable[key.kid] = key
    if not usable:
        raise ValueError("no key in it can verify a signature")
    return KeySet(usable, len(published))


_decode_set = msgspec.json.Decoder(_Set).decode
_describe = msgspec.json.Decoder(_Description).decode


def _read_key(raw: msgspec.Raw) -> PublicKey | None:
    try:
        told = _describe(raw)
        reader, algorithms = _KINDS[told.kty, told.crv]
        if (
            told.use != "sig"
            or "verify" not in told.key_ops
            or told.alg not in (None, *algorithms)
            or (told.n is not None and len(told.n) < _SHORTEST_MODULUS)
        ):
            return None
        value: dict[str, Any] = msgspec.json.decode(raw)
        return reader.import_key(value)
    except Exception:
        # Somebody's data through two libraries: no list of what they raise would be whole.
        return None
