"""JSON Web Tokens: a signed statement of an issuer -> the client it is about (RFC 7519, RFC 9068).

A client is named by the token's ``sub``, as `subject` in its section; it may do what its section
gives *and* the token's ``scope`` names, so that an issuer can narrow what the operator allows and
never widen it. The algorithms are those of `ALGORITHMS`, all with key pairs: ``none`` is not among
them, nor one by which a public key could pass for a shared secret. A token is verified once and
known by its digest then, until it expires or the keys change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, GuestProtocol, KeySet, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from flowcache.policy.principals import Credential, Principal
from flowcache.policy.settings import JwtSettings
from flowcache.policy.tokens import Token, digest
from flowcache.ports import Clock

__all__ = ["ALGORITHMS", "Jwts"]

ALGORITHMS = ("RS256", "PS256", "ES256", "Ed25519")

_MOST_BYTES = 8192
_MOST_KNOWN = 4096
_PublicKey = RSAKey | ECKey | OKPKey


class _Claims(msgspec.Struct):
    """What of a token's claims counts; what is missing here and has no default is required."""

    iss: str
    aud: str | list[str]
    sub: str
    exp: float
    nbf: float = 0.0
    scope: str | list[str] = ""


class _UnknownKey(JoseError):
    """The token names no key of the issuer."""

    error = "unknown_key"


_decode = msgspec.json.Decoder(_Claims).decode


class Jwts:
    """Verify tokens about those ``principals`` that have a subject."""

    def __init__(self, settings: JwtSettings, principals: Iterable[Principal], now: Clock) -> None:
        self._settings = settings
        self._subjects = {who.subject: who for who in principals if who.subject is not None}
        self._now = now
        self._keys: dict[str | None, _PublicKey] = {}
        self._known: dict[bytes, Credential] = {}
        self._registry = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)

    def use(self, jwks: bytes) -> int:
        """Take the issuer's keys in place of those before; return how many can be used.

        Raises:
            ValueError: it is no JWKS, or has no key that could be used; the keys stay as they were.
        """
        try:
            found = KeySet.import_key_set(msgspec.json.decode(jwks)).keys
        except (msgspec.MsgspecError, UnicodeDecodeError, JoseError, TypeError, KeyError) as fault:
            raise ValueError(f"no JWKS: {type(fault).__name__}") from None
        usable = [key for key in found if isinstance(key, _PublicKey) and _signs(key)]
        if not usable:
            raise ValueError("no key in it can verify a signature")
        self._keys = {key.kid: key for key in usable}
        if len(usable) == 1:
            self._keys[None] = usable[0]  # a token need not name the only one
        self._known.clear()
        return len(usable)

    def credential(self, token: bytes) -> Credential | None:
        """Return whose token it is; None where it is nobody's, for whatever reason."""
        known = self._known.get(digest(token))
        if known is None:
            known = self._verified(token)
            if known is not None:
                if len(self._known) >= _MOST_KNOWN:
                    self._known.clear()
                self._known[known.token.digest] = known
        return known

    def _verified(self, token: bytes) -> Credential | None:
        if token.count(b".") != 2 or len(token) > _MOST_BYTES:
            return None
        try:
            signed = jws.deserialize_compact(
                token, self._key, algorithms=ALGORITHMS, registry=self._registry
            )
            claims = _decode(signed.payload)
        except (JoseError, msgspec.MsgspecError, ValueError, TypeError, KeyError):
            return None
        wanted, now, leeway = self._settings, self._now(), self._settings.leeway
        who = self._subjects.get(claims.sub)
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if (
            who is None
            or claims.iss != wanted.issuer
            or wanted.audience not in audiences
            or not claims.nbf - leeway <= now < claims.exp + leeway
        ):
            return None
        scopes = claims.scope.split() if isinstance(claims.scope, str) else claims.scope
        narrowed = replace(who, permissions=who.permissions.intersection(scopes))
        expires = claims.exp + leeway
        if who.expires is not None:
            expires = min(expires, who.expires)
        return Credential(Token(digest(token), expires), narrowed)

    def _key(self, token: GuestProtocol) -> _PublicKey:
        """Return the key that a token names; its algorithm has to be the key's, if that has one."""
        header = token.headers()
        key = self._keys.get(header.get("kid"))
        if key is None or key.get("alg", header.get("alg")) != header.get("alg"):
            raise _UnknownKey
        return key


def _signs(key: _PublicKey) -> bool:
    """Tell whether the issuer signs with a key; it may have others to encrypt with."""
    return key.get("use", "sig") == "sig"
