"""A credential as it comes: ``Authorization`` or ``X-API-Key``, exactly one of them.

- ``Authorization: Bearer TOKEN`` (RFC 6750, section 2.1)
- ``Authorization: Basic base64(CLIENT:TOKEN)`` (RFC 7617)
- ``X-API-Key: TOKEN``

Two credentials are refused rather than one of them chosen: a proxy might look at the other. Next to
one a client certificate may be shown, where both are the same client's (`certificates`).
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterable

from flowcache.authn.tokens import digest
from flowcache.errors import Unauthorized

__all__ = ["Presented", "presented"]


class Presented:
    """A token, and the client that it is said to be of; None where nothing is said.

    What is kept of it between two requests has the digest alone: there ``token`` is None.
    """

    __slots__ = ("client", "digest", "token")

    def __init__(self, token: bytes, client: bytes | None) -> None:
        self.token: bytes | None = token
        self.client = client
        self.digest = digest(token)

    def __repr__(self) -> str:
        return "Presented(***)"  # whoever mixes the two up sends the token as the client


def presented(headers: Iterable[tuple[bytes, bytes]]) -> Presented | None:
    """Return the credential among ``headers``, whose names are in lower case; None without one.

    Raises:
        Unauthorized: there is more than one, or one that can't be read.
    """
    name = value = None
    for header in headers:
        if header[0] in _READERS:
            if name is not None:
                raise Unauthorized("Two credentials; send one.")
            name, value = header
    if name is None or value is None:
        return None
    return _READERS[name](value)


def _authorization(value: bytes) -> Presented:
    scheme, _, rest = value.partition(b" ")
    scheme = scheme.lower()
    if scheme == b"bearer":
        return Presented(rest.strip(), None)
    if scheme == b"basic":
        return _basic(rest.strip())
    raise Unauthorized("Wrong kind of credential; send Authorization: Bearer <token>.")


def _basic(encoded: bytes) -> Presented:
    try:
        client, colon, token = binascii.a2b_base64(encoded, strict_mode=True).partition(b":")
    except binascii.Error:
        colon = b""
    if not colon:
        raise Unauthorized("This is no Basic credential; send base64 of <client>:<token>.")
    return Presented(token, client)


def _api_key(value: bytes) -> Presented:
    return Presented(value.strip(), None)


_READERS: dict[bytes, Callable[[bytes], Presented]] = {
    b"authorization": _authorization,
    b"x-api-key": _api_key,
}
