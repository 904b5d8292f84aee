"""Who is known: the digest of a token -> `Principal`, in one look-up however many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flowcache.contract.request import Limits
from flowcache.errors import Forbidden, Unauthorized
from flowcache.policy.credentials import presented
from flowcache.policy.keys import NO_KEYS, KeyPatterns
from flowcache.policy.networks import Networks
from flowcache.policy.permissions import Permission
from flowcache.policy.rates import Rate
from flowcache.policy.tokens import Token, digest
from flowcache.ports import Clock

__all__ = ["Credential", "Principal", "Principals"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody known, and what they may do: what is not said is denied.

    ``operations`` is None where the permissions decide alone, ``prefix`` stands in Redis before
    each of the keys (`keys.namespace_prefix`), ``max_value`` is in bytes, ``limits`` None for
    everybody's, ``networks`` None for anywhere, ``rate`` None for any.
    """

    name: str
    permissions: frozenset[Permission]
    keys: KeyPatterns = NO_KEYS
    operations: frozenset[str] | None = None
    prefix: bytes = b""
    max_value: int | None = None
    limits: Limits | None = None
    networks: Networks | None = None
    rate: Rate | None = None
    subject: str | None = None
    """What an issuer calls it (`jwt`)."""
    expires: float | None = None
    """From when on none of its tokens counts, Unix seconds."""

    def require(self, permission: Permission) -> None:
        """Pass if the permission was given.

        Raises:
            Forbidden: it was not.
        """
        if permission not in self.permissions:
            raise Forbidden(f"This credential may not do this; it lacks {permission.value}.")


@dataclass(frozen=True, slots=True)
class Credential:
    """A token and whose it is."""

    token: Token
    principal: Principal


def _nobody(_: bytes) -> None:
    """Know no token besides those that are configured."""


class Principals:
    """Everybody known.

    ``now`` is the time of day, in Unix seconds: tokens expire by it. ``stated`` returns whose token
    it is that an issuer states to be somebody's (`jwt.Jwts.credential`).
    """

    __slots__ = ("_by_digest", "_now", "_stated")

    def __init__(
        self,
        credentials: Iterable[Credential],
        now: Clock,
        stated: Callable[[bytes], Credential | None] = _nobody,
    ) -> None:
        self._by_digest = {each.token.digest: each for each in credentials}
        self._now = now
        self._stated = stated

    def authenticate(
        self, headers: Iterable[tuple[bytes, bytes]], address: str | None
    ) -> Principal:
        """Return whose credential is among ``headers``, sent from ``address``.

        The time this takes tells nothing of a token: what is compared are digests, and whoever
        could choose the digest of a guess would have broken SHA-256. Unknown, expired, from
        elsewhere, another client's: each is answered by the same words.

        Raises:
            Unauthorized: there is no credential, or it is nobody's.
        """
        shown = presented(headers)
        known = self._by_digest.get(digest(shown.token)) or self._stated(shown.token)
        if known is None:
            raise Unauthorized(_UNKNOWN)
        principal, expires = known.principal, known.token.expires
        if (
            (expires is not None and self._now() >= expires)
            or (shown.client is not None and shown.client != principal.name.encode())
            or (principal.networks is not None and not principal.networks.hold(address))
        ):
            raise Unauthorized(_UNKNOWN)
        return principal


_UNKNOWN = "Unknown token."
