"""To where anything is sent: secrets are in it, so HTTPS, or this very host."""

from __future__ import annotations

import pytest

from flowcache.outbound.urls import is_safe


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example",
        "HTTPS://API.EXAMPLE:8443/path?query=1",
        "https://[2001:db8::1]/",
        "http://127.0.0.1:8080/path",
        "http://[::1]:8080",
        "http://localhost/",
        "http://LOCALHOST/",
    ],
)
def test_safe(url: str) -> None:
    """Over TLS to anywhere, in clear to where no network is on the way."""
    assert is_safe(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example",
        "https://",
        "https:///path",
        "http://api.example",
        "http://localhost.example",
        "http://127.0.0.1.example",
        "http://127.0.0.2",
        "ftp://localhost",
        "file:///etc/passwd",
        "https://user@api.example",
        "https://user:password@api.example",
        "https://@api.example",
        "http://localhost@api.example",
        "https://api.example/#fragment",
        "https://api.example:0",
        "https://api.example:65536",
        "https://api.example:port",
        "https://[::1",
        "https://api.example/a b",
        "https://api.example/\n",
        "https://äpi.example",
    ],
)
def test_not_safe(url: str) -> None:
    """Nor is what two readers could read as two things, or what has a secret in it."""
    assert not is_safe(url)
