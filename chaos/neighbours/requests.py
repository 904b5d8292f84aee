"""What attackers send, as bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.service import ROUTE

__all__ = [
    "BODY_BYTES",
    "NESTED",
    "WITHIN",
    "call",
    "flat",
    "nested",
    "page",
    "post",
    "request",
    "within",
]

BODY_BYTES = 255 * 1024
"""Just under the limit of a body."""


def request(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Return a request on a connection that is kept open."""
    named = {"host": "flowcache", **headers}
    if method == "POST" and "transfer-encoding" not in named:
        named.setdefault("content-length", str(len(body)))
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def _credential(token: str | None) -> dict[str, str]:
    return {} if token is None else {"authorization": f"Bearer {token}"}


def page(path: str, token: str | None = None) -> bytes:
    """Return a GET of a page, with a credential or without."""
    return request("GET", path, _credential(token))


def post(token: str | None, body: bytes) -> bytes:
    """Return any body for the data action."""
    given = _credential(token) | {"content-type": "application/json"}
    return request("POST", ROUTE, given, body)


def call(token: str | None, operation: str, key: str, **fields: Any) -> bytes:
    """Return a call of the data action."""
    return post(token, json.dumps({"operation": operation, "key": key, **fields}).encode())


def nested(token: str) -> bytes:
    """Return a legal call that is dear to decode: many small arrays."""
    return post(token, b'{"operation":"SET","key":"nested","value":' + NESTED + b"}")


def within(token: str) -> tuple[bytes, ...]:
    """Return the dearest calls that are within `data.max_elements` and as long as may be."""
    return tuple(
        post(token, b'{"operation":"SET","key":"within","value":' + value + b"}")
        for value in WITHIN
    )


def flat(token: str) -> bytes:
    """Return a legal call that is one long text."""
    return post(token, b'{"operation":"SET","key":"flat","value":' + FLAT + b"}")


NESTED = b"[" + b",".join([b"[]"] * ((BODY_BYTES - 100) // 3)) + b"]"
ELEMENTS = 9_900
"""A little fewer than `data.max_elements`."""
WITHIN = (
    b"[" + b",".join([b"[]"] * ELEMENTS) + b"]",
    b"{" + b",".join(b'"%020d":{}' % n for n in range(ELEMENTS // 2)) + b"}",
    b"[" + b",".join([b"123456.789012"] * ELEMENTS) + b"]",
    b"[" + b",".join([b'"\\u0416\\u0416\\u0416"'] * ELEMENTS) + b"]",
)
"""Values that are dear to decode for their bytes, and yet allowed."""
FLAT = b'"' + b"x" * (BODY_BYTES - 100) + b'"'
