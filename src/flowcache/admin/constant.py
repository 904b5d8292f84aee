"""Pages that never change while a worker lives: made once, at the first request for them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from typing import NamedTuple

from flowcache.admin.routing import Headers, Request, Response, shielded

__all__ = ["Content", "constant"]

_NO_WEIGHT = re.compile(rb"\s*q\s*=\s*0(\.0*)?\s*")
"""The weight of a coding that is not acceptable (RFC 9110, 12.4.2)."""


class Content(NamedTuple):
    """The bytes of a page, and the headers that describe them."""

    body: bytes
    headers: Mapping[bytes, bytes]


class _Form(NamedTuple):
    """One representation of a page: as it is, or compressed."""

    headers: Headers
    body: bytes
    etag: bytes


def constant(make: Callable[[], Content]) -> Callable[[Request], Awaitable[Response]]:
    """Return a page that shows what ``make`` returns, which is called once.

    A browser may keep the page, and asks each time whether it is still the same (`ETag`).
    """
    forms: tuple[_Form, _Form] | None = None

    async def page(request: Request) -> Response:
        nonlocal forms
        if forms is None:
            forms = _forms(make())
        form = forms[_takes_gzip(request.header(b"accept-encoding"))]
        if _names(request.header(b"if-none-match"), form.etag):
            return Response(304, form.headers, b"")
        return Response(200, form.headers, form.body)

    return page


def _forms(content: Content) -> tuple[_Form, _Form]:
    body, about = content
    small = gzip.compress(body, mtime=0)
    return _form(body, about), _form(small, {**about, b"content-encoding": b"gzip"})


def _form(body: bytes, about: Mapping[bytes, bytes]) -> _Form:
    etag = b'"%b"' % sha256(body).hexdigest()[:32].encode()
    headers = {b"cache-control": b"no-cache", b"vary": b"accept-encoding", b"etag": etag, **about}
    return _Form(shielded(headers), body, etag)


def _takes_gzip(accepted: bytes) -> bool:
    """Tell whether Accept-Encoding names gzip (RFC 9110, 12.5.3)."""
    for coding in accepted.lower().split(b","):
        name, _, weight = coding.partition(b";")
        if name.strip() == b"gzip":
            return _NO_WEIGHT.fullmatch(weight) is None
    return False


def _names(condition: bytes, etag: bytes) -> bool:
    """Tell whether If-None-Match names ``etag``, by weak comparison (RFC 9110, 13.1.2)."""
    tags = [tag.strip() for tag in condition.split(b",")]
    return tags == [b"*"] or any(tag.removeprefix(b"W/") == etag for tag in tags)
