"""What calling CXone needs to know."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from flowcache.secret import Secret

__all__ = ["CXONE_AUTH_BASE", "CxoneSettings", "Grant"]

CXONE_AUTH_BASE = "https://cxone.niceincontact.com"


class Grant(StrEnum):
    """How a token is asked for."""

    CLIENT_CREDENTIALS = "client_credentials"
    """OAuth 2.0's (RFC 6749, 4.4), with scope ``api:read``: what the tutorial means."""
    ACCESS_KEY = "access_key"
    """What CXone really does: its resource owner grant, with an access key as user and password."""


class CxoneSettings(msgspec.Struct, frozen=True):
    """Where CXone is, who asks, and the path that batches are posted to.

    ``api_base`` is where the API is; None: it is asked for by ``tenant_id``, at ``auth_base``.
    """

    audit_path: str
    client_id: str
    client_secret: Secret
    api_base: str | None = None
    grant: Grant = Grant.CLIENT_CREDENTIALS
    access_key_id: str | None = None
    access_key_secret: Secret | None = None
    tenant_id: str | None = None
    auth_base: str = CXONE_AUTH_BASE
