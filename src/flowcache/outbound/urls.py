"""To where something may be sent: HTTPS, and in clear to this host only."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["is_safe"]

_HERE = ("127.0.0.1", "::1", "localhost")


def is_safe(url: str) -> bool:
    """Tell whether ``url`` is https, or http to this very host, and without credentials in it."""
    if " " in url or not url.isascii() or not url.isprintable():
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if not parts.hostname or port == 0 or parts.username is not None or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _HERE)
