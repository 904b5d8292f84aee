"""Where batches go at CXone, and who says so.

No API of CXone that takes audit records is known (``signal`` aborts what a script is doing), so the
path is the operator's to set: a gateway behind CXone's authentication, or what NICE will offer.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

import msgspec

from flowcache.cxone.grants import Granted, granted, token_request
from flowcache.cxone.settings import CxoneSettings
from flowcache.cxone.tokens import TokenKeeper
from flowcache.outbound.client import Outbound
from flowcache.outbound.judging import NotNow, Refused, judge
from flowcache.outbound.urls import is_safe
from flowcache.secret import Secret

__all__ = ["CxoneTarget"]


class _Discovered(msgspec.Struct):
    api_endpoint: str


_decode = msgspec.json.Decoder(_Discovered).decode


class CxoneTarget:
    """The URL of ``settings.audit_path`` and a token for it. A `delivery.endpoint.Target`."""

    def __init__(
        self,
        settings: CxoneSettings,
        outbound: Outbound,
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._outbound = outbound
        self._now = now
        self._base = settings.api_base
        self._tokens = TokenKeeper(self._ask, clock)

    async def url(self) -> str:
        """Return where to post.

        Raises:
            NotNow, Refused: it can't be found out.
        """
        if self._base is None:
            self._base = await self._discover(self._settings.tenant_id or "")
        return self._base + self._settings.audit_path

    async def token(self) -> Secret:
        """Return the token to show.

        Raises:
            NotNow, Refused: there is none.
        """
        return await self._tokens.get()

    def renews(self, token: Secret) -> bool:
        """Forget a token that was not accepted: the next one is a new one."""
        self._tokens.forget(token)
        return True

    async def _ask(self) -> Granted:
        request = token_request(self._settings)
        answer = await self._outbound.post(request.url, request.form, request.headers)
        judge(answer, "the token endpoint", self._now)
        return granted(answer.body)

    async def _discover(self, tenant: str) -> str:
        """Ask where the API of a tenant is."""
        query = urlencode({"tenantId": tenant})
        answer = await self._outbound.get(
            f"{self._settings.auth_base}/.well-known/cxone-configuration?{query}"
        )
        judge(answer, "the discovery", self._now)
        try:
            base = _decode(answer.body).api_endpoint.rstrip("/")
        except msgspec.MsgspecError:
            raise NotNow("the discovery answered without an api_endpoint") from None
        if not is_safe(base):  # a token is sent there
            raise Refused("the discovery names an API that is not https")
        return base
