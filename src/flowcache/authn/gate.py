"""The gate: where a call comes from, whose it is, and whether it comes too often.

A right credential always gets in, however many wrong ones its address sends: flows share the few
addresses of their platform, and one that is misconfigured must not lock the others out. What the
limit on failed attempts does is tell a mistake from an attack: above it they have an outcome of
their own, which says when to come back, and the audit can count them together. It saves
no work here, and makes no short token safe; `tokens.new_token` makes ones that can't be guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import structlog

from flowcache.authn.credentials import Presented, presented
from flowcache.authn.principals import Principals, ShownCertificate, Unverified
from flowcache.authz.networks import Addresses, Networks
from flowcache.authz.principal import Principal
from flowcache.errors import RateLimited, Unauthorized
from flowcache.ports import Clock
from flowcache.ratelimit.buckets import FailedAttempts, Limiter, Rate
from flowcache.server.turns import Turnstile

__all__ = ["Gate", "GateSettings", "Shown", "ShowsCertificate", "Unverified", "no_certificate"]

_VERIFIED = 4
"""Signatures that are looked at in one turn of the loop: each takes 0.06 to 0.6 ms, and whoever
likes can send tokens with wrong ones."""


_LOG_AGAIN = 10.0
"""Seconds before the same reason is logged again."""

_log = structlog.get_logger(__name__)

_Headers = Iterable[tuple[bytes, bytes]]
_Peer = tuple[str, int] | None
_Extensions = Mapping[str, Any] | None
ShowsCertificate = Callable[[_Peer, _Headers, _Extensions], ShownCertificate | None]


class GateSettings(NamedTuple):
    """What the gate needs to know.

    ``proxies`` are believed about who calls, ``failures`` is how often an address may show a wrong
    credential, ``shared_rates`` whether the rates of clients are a whole fleet's.
    """

    proxies: Networks
    failures: Rate
    shared_rates: bool = False
    certificate_header: bytes | None = None
    """What ``proxies`` hand client certificates on in, in lower case."""


class Shown(NamedTuple):
    """What a request shows of whose it is: where it comes from, a token, a certificate."""

    address: str | None
    presented: Presented | None
    certificate: ShownCertificate | None


def no_certificate(_: _Peer, __: _Headers, ___: _Extensions) -> None:
    """Look at no certificate: no client has any."""


class Gate:
    """What every call with a credential passes.

    ``limiters`` are by the client's name; ``certificate`` returns what a call shows of that kind
    (`certificates.Certificates.shown`).
    """

    __slots__ = (
        "_addresses",
        "_certificate",
        "_clock",
        "_failed",
        "_limiters",
        "_logged",
        "_principals",
        "_verifying",
    )

    def __init__(
        self,
        principals: Principals,
        settings: GateSettings,
        limiters: Mapping[str, Limiter],
        clock: Clock,
        certificate: ShowsCertificate = no_certificate,
    ) -> None:
        self._principals = principals
        self._certificate = certificate
        self._addresses = Addresses(settings.proxies)
        self._failed = FailedAttempts(settings.failures)
        self._limiters = limiters
        self._clock = clock
        self._logged: dict[str, float] = {}
        """Reason of a refusal -> when it was logged last."""
        self._verifying = Turnstile(_VERIFIED)

    def address(self, peer: _Peer, headers: _Headers) -> str | None:
        """Return where the call comes from; ``peer`` is ASGI's ``client``."""
        return self._addresses.of(peer[0] if peer else None, headers)

    async def authenticate(
        self,
        headers: _Headers,
        address: str | None,
        peer: _Peer = None,
        extensions: _Extensions = None,
    ) -> Principal:
        """Return whose credential is among ``headers``, or came with the connection.

        ``peer`` and ``extensions`` are ASGI's: who is at its other end, and what TLS knows of them.

        Raises:
            Failure: as `shown` and `holder`.
        """
        shown = self.shown(headers, address, peer, extensions)
        try:
            return self.holder(shown)
        except Unverified:
            return await self.verify(shown)

    def shown(
        self, headers: _Headers, address: str | None, peer: _Peer, extensions: _Extensions
    ) -> Shown:
        """Return what a request shows of whose it is, for `holder`.

        Raises:
            Unauthorized: it can't be read.
            RateLimited: and the address has sent too many such.
        """
        try:
            certificate = self._certificate(peer, headers, extensions)
            return Shown(address, presented(headers), certificate)
        except Unauthorized as failure:
            self._count_failed(failure, address)
            raise

    def holder(self, shown: Shown, verify: bool = False) -> Principal:
        """Return whose credential was shown.

        Raises:
            Unauthorized: nobody's.
            RateLimited: nobody's, and the address has sent too many such.
            Unverified: its signature has to be looked at; `verify` does that.
        """
        address = shown.address
        try:
            return self._principals.holder(shown.presented, address, shown.certificate, verify)
        except Unauthorized as failure:
            self._count_failed(failure, address)
            raise

    def keep(self, shown: Shown) -> Shown | None:
        """Return what may be kept of ``shown`` for the next request of the connection, if any.

        That is no token, but its digest. Nothing is kept where the digest is not enough.
        """
        presented = shown.presented
        if presented is not None:
            if not self._principals.knows(presented):
                return None
            presented.token = None
        return shown

    def _log_refusal(self, failure: Unauthorized) -> None:
        """Log why a credential is refused, and not each time: anybody can send wrong ones."""
        why, now = failure.why, self._clock()
        if why is not None and now - self._logged.get(why, -_LOG_AGAIN) >= _LOG_AGAIN:
            self._logged[why] = now
            _log.warning("credential_refused", why=why)

    def _count_failed(self, failure: Unauthorized, address: str | None) -> None:
        """Count an attempt without a valid credential.

        Raises:
            RateLimited: there were too many from this address.
        """
        self._log_refusal(failure)
        wait = self._failed.take(address, self._clock())
        if wait:
            raise RateLimited(
                "Too many calls without a valid credential from this address.",
                retryable=False,
                retry_after=wait,
            ) from None

    async def verify(self, shown: Shown) -> Principal:
        """Return what `holder` could not, in a turn of the loop that has room for a signature.

        Raises:
            Failure: as there.
        """
        await self._verifying.wait()
        return self.holder(shown, verify=True)

    async def recognise(
        self, headers: _Headers, address: str | None, peer: _Peer, extensions: _Extensions
    ) -> str | None:
        """Return the name of whoever `authenticate` would find, if any. Nothing is counted."""
        for verify in (False, True):
            try:
                certificate = self._certificate(peer, headers, extensions)
                return self._principals.authenticate(headers, address, certificate, verify).name
            except Unauthorized:
                return None
            except Unverified:
                await self._verifying.wait()
        return None

    def admit(self, principal: Principal) -> None:
        """Count a call against the rate of whose it is.

        Raises:
            RateLimited: it is one too many now.
        """
        if principal.rate is not None:
            wait = self._limiters[principal.name].take(self._clock())
            if wait:
                raise RateLimited("This client makes more calls than it may.", retry_after=wait)
