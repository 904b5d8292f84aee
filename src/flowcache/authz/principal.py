"""A principal: a client of the service, and what it may do."""

from __future__ import annotations

from dataclasses import dataclass

from flowcache.authz.keys import NO_KEYS, KeyPatterns
from flowcache.authz.networks import Networks
from flowcache.authz.permissions import Permission
from flowcache.contract.request import TtlLimits
from flowcache.errors import Forbidden
from flowcache.ports import SizeLimits
from flowcache.ratelimit.buckets import Rate

__all__ = ["Principal"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody known, and what they may do: what is not said is denied.

    ``operations`` is None where the permissions decide alone, ``prefix`` stands in Redis before
    each of the keys (`keys.namespace_prefix`), ``sizes`` and ``limits`` are None for everybody's,
    ``networks`` None for anywhere, ``rate`` None for any.
    """

    name: str
    permissions: frozenset[Permission]
    keys: KeyPatterns = NO_KEYS
    operations: frozenset[str] | None = None
    prefix: bytes = b""
    sizes: SizeLimits | None = None
    limits: TtlLimits | None = None
    networks: Networks | None = None
    rate: Rate | None = None
    subject: str | None = None
    """What an issuer calls it (`jwt`)."""
    expires: float | None = None
    """From when on none of its credentials counts, Unix seconds."""
    certificates: tuple[str, ...] = ()
    """The names of its certificates (`certificates.read_name`)."""
    both: bool = False
    """Whether a call needs a token and a certificate."""
    weight: int = 1
    """Its part of the places that a worker keeps for its clients (`calls.admission`)."""
    max_in_flight: int | None = None
    """How many calls it may have at work in a worker; None for as many as there is room for."""

    def require(self, permission: Permission) -> None:
        """Pass if the permission was given.

        Raises:
            Forbidden: it was not.
        """
        if permission not in self.permissions:
            raise Forbidden(f"This credential may not do this; it lacks {permission.value}.")
