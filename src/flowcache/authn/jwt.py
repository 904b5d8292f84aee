"""JSON Web Tokens: a signed statement of an issuer -> the client it is about (RFC 7519, RFC 9068).

A client is named by the token's ``sub``, as `subject` in its section; it may do what its section
gives *and* the token's ``scope`` names, so that an issuer can narrow what the operator allows and
never widen it. The algorithms are those of `jwks.ALGORITHMS`, all with key pairs: ``none`` is not
among them, nor one by which a public key could pass for a shared secret. A token that names no key
is tried with each that fits its algorithm, if they are few. A token is verified once and known by
its digest then, until it expires or the keys change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from flowcache.authn.jwks import ALGORITHMS, KeySet, PublicKey, algorithms_of, read_key_set
from flowcache.authn.principals import Credential, Refused, Unverified
from flowcache.authn.settings import JwtSettings
from flowcache.authn.tokens import Token, digest
from flowcache.authz.principal import Principal
from flowcache.ports import Now

__all__ = ["Jwts"]

_MOST_BYTES = 8192
_MOST_KNOWN = 4096
_MOST_TRIED = 8
"""Keys that a token which names none is tried with: each costs a signature, whoever sent it."""


class _Claims(msgspec.Struct):
    """What of a token's claims counts; what is missing here and has no default is required."""

    iss: str
    aud: str | list[str]
    sub: str
    exp: float
    nbf: float = 0.0
    scope: str | list[str] = ""


class _Registry(JWSRegistry):
    """Knows EdDSA for the old name of Ed25519, which most issuers write (RFC 9864)."""

    def get_alg(self, name: str) -> Any:
        return super().get_alg("Ed25519" if name == "EdDSA" else name)


_decode = msgspec.json.Decoder(_Claims).decode


def _nobody_asks() -> None:
    """Ask nobody for a key that is not there."""


class Jwts:
    """Verify tokens about those ``principals`` that have a subject.

    ``on_unknown_key`` is called when a token names a key that is not there: it may be a new one.
    """

    def __init__(
        self,
        settings: JwtSettings,
        principals: Iterable[Principal],
        now: Now,
        on_unknown_key: Callable[[], None] = _nobody_asks,
    ) -> None:
        self._settings = settings
        self._subjects = {who.subject: who for who in principals if who.subject is not None}
        self._now = now
        self._on_unknown_key = on_unknown_key
        self._keys: dict[str | None, PublicKey] = {}
        self._fitting: dict[str, tuple[PublicKey, ...]] = {}
        """Algorithm -> the keys that may have signed by it."""
        self._known: dict[bytes, Credential] = {}
        self._registry = _Registry(algorithms=ALGORITHMS, strict_check_header=False)

    def use(self, jwks: bytes) -> KeySet:
        """Take the issuer's keys in place of those before, and return them.

        Raises:
            ValueError: it is no JWKS, or has no key that could be used; the keys stay as they were.
        """
        keys = read_key_set(jwks)
        self._keys = keys.usable
        self._fitting = {
            name: tuple(key for key in keys.usable.values() if name in algorithms_of(key))
            for name in ALGORITHMS
        }
        self._known.clear()
        return keys

    def credential(self, token: bytes, verify: bool = True) -> Credential | Refused | None:
        """Return whose token it is, or why it is nobody's; None where it is no JWT.

        Raises:
            Unverified: it takes a signature to tell, and ``verify`` is False.
        """
        known = self._known.get(digest(token))
        if known is not None:
            return known
        if token.count(b".") != 2 or len(token) > _MOST_BYTES:
            return None
        if not verify:
            raise Unverified
        verified = self._verified(token)
        if isinstance(verified, Credential):
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[verified.token.digest] = verified
        return verified

    def _verified(self, token: bytes) -> Credential | Refused:
        try:
            signed = jws.extract_compact(token, registry=self._registry)
            header = signed.headers()
            candidates = self._candidates(header)
            if not any(
                jws.validate_compact(signed, key, registry=self._registry) for key in candidates
            ):
                if header.get("kid") not in self._keys:
                    self._on_unknown_key()
                return Refused.SIGNATURE if candidates else Refused.NO_KEY
            claims = _decode(signed.payload)
        except (JoseError, msgspec.MsgspecError, ValueError, TypeError, KeyError, RecursionError):
            return Refused.MALFORMED
        who, refused = self._subjects.get(claims.sub), self._judge(claims)
        if refused is not None:
            return refused
        if who is None:
            return Refused.SUBJECT
        scopes = claims.scope.split(" ") if isinstance(claims.scope, str) else claims.scope
        narrowed = replace(who, permissions=who.permissions.intersection(scopes))
        expires = claims.exp + self._settings.leeway
        if who.expires is not None:
            expires = min(expires, who.expires)
        return Credential(Token(digest(token), expires), narrowed)

    def _judge(self, claims: _Claims) -> Refused | None:
        """Return what is wrong with the claims of a token that the issuer signed."""
        wanted, now, leeway = self._settings, self._now(), self._settings.leeway
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        rules = (
            (claims.iss == wanted.issuer, Refused.ISSUER),
            (wanted.audience in audiences, Refused.AUDIENCE),
            (claims.nbf - leeway <= now, Refused.NOT_YET),
            (now < claims.exp + leeway, Refused.EXPIRED),
        )
        return next((why for holds, why in rules if not holds), None)

    def _candidates(self, header: Mapping[str, Any]) -> tuple[PublicKey, ...]:
        """Return the keys that may have signed a token with this header.

        None for one that says ``crit``: none of those extensions is known here (RFC 7515, 4.1.11).
        """
        name, fitting = header.get("kid"), self._fitting.get(header.get("alg", ""), ())
        if "crit" in header:
            return ()
        if name is None:
            return fitting if len(fitting) <= _MOST_TRIED else ()
        key = self._keys.get(name)
        return (key,) if key is not None and key in fitting else ()
