"""The gate: where a call comes from, whose it is, and whether it comes too often.

A right credential always gets in, however many wrong ones its address sends: flows share the few
addresses of their platform, and one that is misconfigured must not lock the others out. What the
limit on failed attempts changes is what their sender is told, when to come back, and what the
record of each says. It does not make a short token safe; `tokens.new_token` makes ones that can't
be guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from flowcache.errors import RateLimited, Unauthorized
from flowcache.policy.networks import Addresses, Networks
from flowcache.policy.principals import Principal, Principals
from flowcache.policy.rates import FailedAttempts, Limiter, Rate
from flowcache.ports import Clock

__all__ = ["Gate", "GateSettings"]

_Headers = Iterable[tuple[bytes, bytes]]


class GateSettings(NamedTuple):
    """What the gate needs to know.

    ``proxies`` are believed about who calls, ``failures`` is how often an address may show a wrong
    credential, ``shared_rates`` whether the rates of clients are a whole fleet's.
    """

    proxies: Networks
    failures: Rate
    shared_rates: bool = False


class Gate:
    """What every call with a credential passes. ``limiters`` are by the client's name."""

    __slots__ = ("_addresses", "_clock", "_failed", "_limiters", "_principals")

    def __init__(
        self,
        principals: Principals,
        settings: GateSettings,
        limiters: Mapping[str, Limiter],
        clock: Clock,
    ) -> None:
        self._principals = principals
        self._addresses = Addresses(settings.proxies)
        self._failed = FailedAttempts(settings.failures)
        self._limiters = limiters
        self._clock = clock

    def address(self, peer: tuple[str, int] | None, headers: _Headers) -> str | None:
        """Return where the call comes from; ``peer`` is ASGI's ``client``."""
        return self._addresses.of(peer[0] if peer else None, headers)

    def identify(self, headers: _Headers, address: str | None) -> Principal:
        """Return whose credential is among ``headers``.

        Raises:
            Unauthorized: nobody's.
            RateLimited: nobody's, and the address has sent too many such.
        """
        try:
            return self._principals.authenticate(headers, address)
        except Unauthorized:
            wait = self._failed.take(address, self._clock())
            if wait:
                raise RateLimited(
                    "Too many calls without a valid credential from this address.",
                    retryable=False,
                    retry_after=wait,
                ) from None
            raise

    def admit(self, principal: Principal) -> None:
        """Count a call against the rate of whose it is.

        Raises:
            RateLimited: it is one too many now.
        """
        if principal.rate is not None:
            wait = self._limiters[principal.name].take(self._clock())
            if wait:
                raise RateLimited("This client makes more calls than it may.", retry_after=wait)
