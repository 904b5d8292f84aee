"""A set of an issuer's keys (RFC 7517): those that can verify a signature, one by one.

A key that can't be used is left out, whatever is wrong with it, and the others count (section 5):
issuers publish keys to encrypt with, and of kinds that come after us, in one set with those to
sign with.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from typing import Any, NamedTuple

import msgspec
from joserfc.jwk import ECKey, OKPKey, RSAKey

__all__ = ["ALGORITHMS", "KeySet", "PublicKey", "algorithms_of", "read_key_set"]

PublicKey = RSAKey | ECKey | OKPKey

_EDWARDS = ("Ed25519", "EdDSA")
"""Two names of one algorithm (RFC 9864): a key that says one has signed by the other as well."""

_KINDS: dict[tuple[str, str | None], tuple[type[PublicKey], tuple[str, ...]]] = {
    ("RSA", None): (RSAKey, ("RS256", "PS256")),
    ("EC", "P-256"): (ECKey, ("ES256",)),
    ("OKP", "Ed25519"): (OKPKey, _EDWARDS),
}
"""Type and curve -> what reads such a key, and the algorithms that it signs by."""

ALGORITHMS = tuple(name for _, names in _KINDS.values() for name in names)

_SHORTEST_MODULUS = 2048
"""Bits: what RFC 7518 requires, section 3.3."""


class KeySet(NamedTuple):
    """The keys that can be used, by their names, and how many there were in the set.

    ``weak`` are the names of those that are too short to be used.
    """

    usable: dict[str | None, PublicKey]
    published: int
    weak: tuple[str, ...] = ()


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
    weak: list[str] = []
    for raw in published:
        told = _described(raw)
        if told is None:
            continue
        if _is_weak(told):
            weak.append(told.kid or "without a name")
            continue
        key = _read_key(raw, told)
        if key is not None:
            key.ensure_kid()
            usable[key.kid] = key
    if not usable:
        short = f"; too short: {', '.join(weak)}" if weak else ""
        raise ValueError(f"no key in it can verify a signature{short}")
    return KeySet(usable, len(published), tuple(weak))


def algorithms_of(key: PublicKey) -> tuple[str, ...]:
    """Return the algorithms that ``key`` may have signed by: its own, if it says one."""
    curve, own = key.get("crv"), key.get("alg")
    _, algorithms = _KINDS[key.key_type, None if curve is None else str(curve)]
    if own is None or own in _EDWARDS:
        return algorithms
    return (str(own),)


_decode_set = msgspec.json.Decoder(_Set).decode
_describe = msgspec.json.Decoder(_Description).decode


def _described(raw: msgspec.Raw) -> _Description | None:
    """Return what a key says of itself; None where it is none that verifies signatures for us."""
    try:
        told = _describe(raw)
        _, algorithms = _KINDS[told.kty, told.crv]
    except (msgspec.MsgspecError, ValueError, KeyError, RecursionError):
        return None
    fits = told.use == "sig" and "verify" in told.key_ops and told.alg in (None, *algorithms)
    return told if fits else None


def _is_weak(told: _Description) -> bool:
    if told.n is None:
        return False
    try:
        modulus = urlsafe_b64decode(told.n + "==")
    except ValueError:
        return False  # it is no number: whoever imports the key finds out
    return int.from_bytes(modulus).bit_length() < _SHORTEST_MODULUS


def _read_key(raw: msgspec.Raw, told: _Description) -> PublicKey | None:
    reader, _ = _KINDS[told.kty, told.crv]
    try:
        value: dict[str, Any] = msgspec.json.decode(raw)
        if told.alg in _EDWARDS:
            value["alg"] = _EDWARDS[0]  # joserfc holds a key to the name it says
        return reader.import_key(value)
    except Exception:
        # Somebody's data through two libraries: no list of what they raise would be whole.
        return None
