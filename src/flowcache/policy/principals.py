"""The way of a credential: ``Authorization`` header -> `Principal` -> allowed or not."""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest

from flowcache.errors import Forbidden, Unauthorized
from flowcache.policy.permissions import Permission
from flowcache.secret import Secret

__all__ = ["Credential", "Principal", "Principals"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody known, and what they may do."""

    name: str
    permissions: frozenset[Permission]

    def require(self, permission: Permission) -> None:
        """Pass if the permission was given.

        Raises:
            Forbidden: it was not.
        """
        if permission not in self.permissions:
            raise Forbidden(f"This credential may not do this; it lacks {permission.value}.")


@dataclass(frozen=True, slots=True)
class Credential:
    """A bearer token and whose it is."""

    token: Secret
    principal: Principal


class Principals:
    """Everybody known."""

    __slots__ = ("_credentials",)

    def __init__(self, credentials: tuple[Credential, ...]) -> None:
        self._credentials = tuple((c.token.reveal().encode(), c.principal) for c in credentials)

    def authenticate(self, authorization: bytes | None, *further: bytes) -> Principal:
        """Return whose credential an ``Authorization`` header carries (RFC 6750, section 2.1).

        Every token is compared, each in constant time, so that neither a match nor its place
        shows in the time taken.

        Raises:
            Unauthorized: there is none, or it is nobody's.
        """
        if further:
            raise Unauthorized("Two Authorization headers; send one.")
        if authorization is None:
            raise Unauthorized("No credential; send the header Authorization: Bearer <token>.")
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthorized("Wrong kind of credential; send Authorization: Bearer <token>.")
        presented = token.strip()
        found: Principal | None = None
        for known, principal in self._credentials:
            if compare_digest(known, presented):
                found = principal
        if found is None:
            raise Unauthorized("Unknown token.")
        return found
