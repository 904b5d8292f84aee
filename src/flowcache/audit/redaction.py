"""How a key name is kept: as it is, masked, or as a keyed hash. Values never come this far."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from flowcache.audit.settings import KeyNames
from flowcache.secret import Secret

__all__ = ["Redaction", "redaction"]

Redaction = Callable[[bytes], str]

_DOMAIN = b"flowcache audit key v1\0"
_DIGITS = 32
"""Hexadecimal ones, 128 bits: no two keys of one journal will meet."""


def redaction(policy: KeyNames, secret: Secret | None) -> Redaction:
    """Return what turns a key into the text that is kept.

    - ``plain``: the key;
    - ``masked``: what comes before the first colon and ``***`` for the rest, ``***`` alone where
      there is no colon: enough to see what kind of thing was touched;
    - ``hmac``: ``hmac:`` and a keyed hash. Equal keys stay equal, so that one can be looked for by
      whoever has the secret; without it no key can be guessed and tried.
    """
    if policy is KeyNames.PLAIN:
        return _plain
    if policy is KeyNames.MASKED:
        return _masked
    assert secret is not None, "the settings see to it"
    key = secret.reveal().encode()

    def hashed(name: bytes) -> str:
        return "hmac:" + hmac.digest(key, _DOMAIN + name, "sha256").hex()[:_DIGITS]

    return hashed


def _plain(name: bytes) -> str:
    return name.decode(errors="replace")


def _masked(name: bytes) -> str:
    kind, colon, _ = name.partition(b":")
    return _plain(kind) + ":***" if colon else "***"
