"""Tokens: how one is made, and what is kept of it.

Only the SHA-256 digest is kept. A token that was made here has 256 random bits: there is nothing to
guess, so a slow hash would protect nothing and cost each call (docs/decisions/0016-clients.md).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from hashlib import sha256

from flowcache.secret import Secret

__all__ = ["TOKEN_PREFIX", "Token", "digest", "new_token", "read_digest", "show_digest"]

TOKEN_PREFIX = "fc_"  # noqa: S105 - a mark by which scanners find a token that leaked
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token: its digest, and until when it counts (Unix seconds)."""

    digest: bytes = field(repr=False)
    expires: float | None = None


def new_token() -> Secret:
    """Return a new token: ``fc_`` and 256 random bits as 43 characters of URL-safe Base64."""
    return Secret(TOKEN_PREFIX + secrets.token_urlsafe(32))


def digest(token: bytes) -> bytes:
    """Return the 32 bytes that a token is known by."""
    return sha256(token).digest()


def show_digest(token: Secret) -> str:
    """Return what stands in the configuration for ``token``."""
    return f"sha256:{digest(token.reveal().encode()).hex()}"


def read_digest(text: str) -> bytes:
    """Return the digest that ``text`` from the configuration stands for.

    Raises:
        ValueError: it is none; it is not repeated, for it may be the token itself.
    """
    found = _DIGEST.fullmatch(text)
    if found is None:
        raise ValueError('expected "sha256:" and 64 digits, as "flowcache token new" prints them')
    return bytes.fromhex(found[1])
