"""Who is known: the digest of a token -> `Principal`, in one look-up however many there are.

A call shows a token, a certificate (`certificates`), or both, and is one client's: two that are two
clients' are refused, and so is one of them from a client that needs both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from flowcache.authn.credentials import Presented, presented
from flowcache.authn.tokens import Token
from flowcache.authz.principal import Principal
from flowcache.errors import Unauthorized
from flowcache.ports import Now

__all__ = ["UNKNOWN", "Credential", "Principals", "Refused", "ShownCertificate", "Unverified"]


@dataclass(frozen=True, slots=True)
class Credential:
    """A token and whose it is."""

    token: Token
    principal: Principal


class ShownCertificate(NamedTuple):
    """A certificate that a call shows, and from when to when it is valid (Unix seconds).

    ``principal`` is None where it names nobody.
    """

    principal: Principal | None
    not_before: float
    not_after: float


class Refused(StrEnum):
    """Why a token that an issuer may have signed is refused. It quotes nothing of the token."""

    MALFORMED = "the JWT is malformed, or lacks a required claim"
    NO_KEY = "no key of the issuer fits the JWT's kid and alg"
    SIGNATURE = "the signature of the JWT is wrong"
    ISSUER = "the JWT has another iss than jwt.issuer"
    AUDIENCE = "the JWT's aud does not have jwt.audience"
    SUBJECT = "the JWT's sub is the subject of no client"
    EXPIRED = "the JWT has expired"
    NOT_YET = "the JWT is not valid yet"


class Unverified(Exception):
    """Only a signature can tell whose token it is; to verify one takes a while.

    Or the token itself is needed, and only its digest was kept.
    """


def _nobody(_: bytes, __: bool) -> None:
    """Know no token besides those that are configured."""


class Principals:
    """Everybody known.

    ``now`` is the time of day, in Unix seconds: tokens expire by it. ``stated`` returns whose token
    it is that an issuer states to be somebody's (`jwt.Jwts.credential`), and may verify it or not.
    """

    __slots__ = ("_by_digest", "_now", "_stated")

    def __init__(
        self,
        credentials: Iterable[Credential],
        now: Now,
        stated: Callable[[bytes, bool], Credential | Refused | None] = _nobody,
    ) -> None:
        self._by_digest = {each.token.digest: each for each in credentials}
        self._now = now
        self._stated = stated

    def authenticate(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        address: str | None,
        certificate: ShownCertificate | None = None,
        verify: bool = True,
    ) -> Principal:
        """Return whose credential is among ``headers``, sent from ``address``, or ``certificate``.

        The time this takes tells nothing of a token: what is compared are digests, and whoever
        could choose the digest of a guess would have broken SHA-256. Unknown, expired, from
        elsewhere, another client's: each is answered by the same words.

        Raises:
            Unauthorized: there is no credential, or it is nobody's.
            Unverified: it may be somebody's, and was not to be verified.
        """
        return self.holder(presented(headers), address, certificate, verify)

    def holder(
        self,
        shown: Presented | None,
        address: str | None,
        certificate: ShownCertificate | None,
        verify: bool,
    ) -> Principal:
        """Return whose credential was shown, as `authenticate`."""
        if certificate is None:
            if shown is None:
                raise Unauthorized("No credential; send the header Authorization: Bearer <token>.")
            principal = self._holder(shown, verify)
            is_enough = not principal.both
        else:
            principal, is_enough = self._together(shown, certificate, verify)
        if not is_enough or (
            principal.networks is not None and not principal.networks.hold(address)
        ):
            raise Unauthorized(UNKNOWN)
        return principal

    def knows(self, shown: Presented) -> bool:
        """Tell whether the digest of a token is enough to know whose it is."""
        return shown.digest in self._by_digest

    def _holder(self, shown: Presented, verify: bool) -> Principal:
        """Return whose token it is."""
        known = self._by_digest.get(shown.digest)
        if known is None:
            if shown.token is None:
                raise Unverified
            stated = self._stated(shown.token, verify)
            if stated is None:
                raise Unauthorized(UNKNOWN)
            if isinstance(stated, Refused):
                raise Unauthorized(UNKNOWN, stated.value)
            known = stated
        principal, expires = known.principal, known.token.expires
        if (expires is not None and self._now() >= expires) or (
            shown.client is not None and shown.client != principal.name.encode()
        ):
            raise Unauthorized(UNKNOWN)
        return principal

    def _together(
        self, shown: Presented | None, certificate: ShownCertificate, verify: bool
    ) -> tuple[Principal, bool]:
        """Return whose certificate it is, with or without a token, and whether that is enough.

        A certificate that names nobody is no credential: it may be what the port is opened with.
        """
        owner = certificate.principal
        if owner is None:
            if shown is None:
                raise Unauthorized(UNKNOWN)
            principal = self._holder(shown, verify)
            return principal, not principal.both
        now = self._now()
        if not certificate.not_before <= now <= certificate.not_after or (
            owner.expires is not None and now >= owner.expires
        ):
            raise Unauthorized(UNKNOWN)
        if shown is None:
            return owner, not owner.both
        principal = self._holder(shown, verify)  # of what an issuer states, narrower than the owner
        return principal, principal.name == owner.name


UNKNOWN = "Unknown credential."
"""What is said of each credential that is nobody's, whatever is wrong with it."""
