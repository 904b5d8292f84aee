"""The two ways to a token, as requests; and what the answer to either says. Pure.

| grant | asked at | who | form |
|---|---|---|---|
| `client_credentials` | ``{api_base}/api/v2/oauth/token`` | in the form | ``scope=api:read`` |
| `access_key` | ``{auth_base}/auth/token`` | Basic | ``grant_type=password``, key id and secret |

Both forms are URL-encoded, as RFC 6749 (4.3.2, 4.4.2) has it. The first is the tutorial's, which
sends JSON under the header of a form.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote_plus, urlencode

import msgspec

from flowcache.cxone.settings import CxoneSettings, Grant
from flowcache.outbound.judging import NotNow
from flowcache.secret import Secret

__all__ = ["Granted", "TokenRequest", "granted", "token_request"]

_DEFAULT_SECONDS = 3600.0
"""How long a token lives that does not say so: CXone's last about an hour."""


class TokenRequest(NamedTuple):
    """A request for a token. ``form`` and ``headers`` hold secrets: never log one."""

    url: str
    form: bytes
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"TokenRequest({self.url!r}, ***)"


class Granted(NamedTuple):
    """A token, and the seconds that it lives from now on."""

    token: Secret
    seconds: float


class _Answer(msgspec.Struct):
    access_token: str
    expires_in: float | str | None = None


_decode = msgspec.json.Decoder(_Answer).decode


def token_request(settings: CxoneSettings) -> TokenRequest:
    """Return what to send for a token."""
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "accept": "application/json",
    }
    who, secret = settings.client_id, settings.client_secret.reveal()
    if settings.grant is Grant.CLIENT_CREDENTIALS:
        form = {
            "grant_type": "client_credentials",
            "client_id": who,
            "client_secret": secret,
            "scope": "api:read",
        }
        return TokenRequest(
            f"{settings.api_base}/api/v2/oauth/token", urlencode(form).encode(), headers
        )
    key, key_secret = settings.access_key_id, settings.access_key_secret
    assert key is not None
    assert key_secret is not None
    # Each half is form-encoded before they are joined (RFC 6749, 2.3.1).
    basic = b64encode(f"{quote_plus(who)}:{quote_plus(secret)}".encode()).decode()
    form = {"grant_type": "password", "username": key, "password": key_secret.reveal()}
    return TokenRequest(
        f"{settings.auth_base}/auth/token",
        urlencode(form).encode(),
        headers | {"authorization": f"Basic {basic}"},
    )


def granted(body: bytes) -> Granted:
    """Read the answer to a request that was granted.

    Raises:
        NotNow: it is none.
    """
    try:
        answer = _decode(body)
        seconds = _DEFAULT_SECONDS if answer.expires_in is None else float(answer.expires_in)
    except (msgspec.MsgspecError, ValueError):
        # Not chained: the fault may show a part of the token.
        raise NotNow("the token endpoint answered with something else than a token") from None
    token = answer.access_token
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise NotNow("the token endpoint answered with something else than a token")
    return Granted(Secret(token), seconds)
