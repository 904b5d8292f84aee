"""Client certificates: whose one is that a call shows.

A certificate is known by one of its names, each of which is one client's:

- ``sha256:`` and the digest of the certificate itself, its fingerprint;
- ``dns:`` or ``uri:`` and a name that its authority vouches for (its subject's alternatives). The
  subject itself is not looked at: as a text it can be written, and misread, in several ways.

It comes from the connection, whose TLS has verified it, or in a header from a trusted proxy that
has. Where proxies are to do that, their own certificate is nobody's; and from anybody else the
header counts for nothing.

Four ways to write a certificate into a header are known (`_FORMS`), and told apart by their first
characters; none can be taken for another.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from flowcache.authn.principals import UNKNOWN, ShownCertificate
from flowcache.authz.networks import Networks
from flowcache.authz.principal import Principal
from flowcache.errors import Unauthorized

__all__ = ["Certificate", "Certificates", "decode", "decode_first", "read_name"]

_MOST_KNOWN = 4096
"""Certificates whose reading is kept: it costs more than all the rest of a check."""
_NAME = re.compile(r"dns:[!-~]{1,255}|uri:[!-~]{1,2048}", re.ASCII)
_FINGERPRINT = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)
_OPENSSL = re.compile(r"\Asha256 Fingerprint=", re.ASCII | re.IGNORECASE)
"""What ``openssl x509 -fingerprint -sha256`` writes before a fingerprint."""


class Certificate(NamedTuple):
    """What is looked at of a certificate; when it is valid is in Unix seconds."""

    names: frozenset[str]
    not_before: float
    not_after: float


def read_name(text: str) -> str:
    """Return the name of a certificate that ``text`` from the configuration stands for.

    A fingerprint may have colons between its bytes, and be the whole line that OpenSSL writes.

    Raises:
        ValueError: it is none.
    """
    text = _OPENSSL.sub("sha256:", text)
    kind, _, rest = text.partition(":")
    name = f"{kind}:{rest.replace(':', '').lower()}" if kind == "sha256" else text
    name = name.lower() if kind == "dns" else name
    if not _FINGERPRINT.fullmatch(name) and not _NAME.fullmatch(name):
        raise ValueError(
            f'"{text[:80]}" is none; expected "sha256:" and a fingerprint of 64 hexadecimal digits '
            '(colons between them don\'t count), "dns:NAME" or "uri:URI"'
        )
    return name


# -- how a certificate is written ------------------------------------------------------------------


def _base64(text: bytes) -> bytes:
    return binascii.a2b_base64(text, strict_mode=True)


_PEM = re.compile(
    rb"\s*-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*"
)


def _pem(text: bytes) -> bytes:
    found = _PEM.fullmatch(unquote_to_bytes(text))
    if found is None:
        raise ValueError("expected one certificate")
    return _base64(b"".join(found[1].split()))


_PAIR = rb'(?!Cert=)[A-Za-z]+=(?:"(?:[^"\\]|\\.)*"|[^",;]*)'
_FORMS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], bytes]], ...] = (
    (re.compile(rb"\s*(-----BEGIN.*)", re.DOTALL), _pem),
    (re.compile(rb":([^:]*):"), _base64),
    (re.compile(rb'(?:%b;)*Cert="([^"]*)"(?:;%b)*' % (_PAIR, _PAIR)), _pem),
    (re.compile(rb"([A-Za-z0-9+/]+=*)"), _base64),
)
"""PEM, as it is or with percent signs (nginx, AWS); a byte sequence (RFC 9440); Envoy's list, of
one element; Base64 (HAProxy, Traefik)."""


def decode(text: bytes) -> bytes:
    """Return the DER of the one certificate that was written as ``text``.

    Raises:
        ValueError: that can't be read.
    """
    for form, read in _FORMS:
        found = form.fullmatch(text)
        if found is not None:
            return read(found[1])
    raise ValueError("no certificate")


_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def decode_first(chain: bytes) -> bytes:
    """Return the DER of the first certificate of a file in PEM.

    Raises:
        ValueError: there is none.
    """
    found = _BLOCK.search(chain)
    if found is None:
        raise ValueError("no certificate")
    return _pem(found[0])


# -- whose it is -----------------------------------------------------------------------------------


class Certificates:
    """Find out whose certificate a call shows.

    ``read`` reads DER or raises ValueError. ``header``, in lower case, is what ``proxies`` hand a
    certificate on in; None: they don't.
    """

    __slots__ = ("_by_name", "_header", "_known", "_proxies", "_read")

    def __init__(
        self,
        principals: Iterable[Principal],
        read: Callable[[bytes], Certificate],
        proxies: Networks,
        header: bytes | None,
    ) -> None:
        self._by_name = {name: who for who in principals for name in who.certificates}
        self._read = read
        self._proxies = proxies
        self._header = header
        self._known: dict[bytes | str, ShownCertificate] = {}

    def shown(
        self,
        peer: tuple[str, int] | None,
        headers: Iterable[tuple[bytes, bytes]],
        extensions: Mapping[str, Any] | None,
    ) -> ShownCertificate | None:
        """Return the certificate of a call, None without one.

        ``peer`` and ``extensions`` are ASGI's, of the connection: ``client``, and what TLS knows.

        Raises:
            Unauthorized: there are several, or it can't be read, or it names two clients.
        """
        text = self._text(peer, headers, extensions)
        if text is None:
            return None
        known = self._known.get(text)
        if known is None:
            try:
                known = self._identified(text)
            except ValueError:
                raise Unauthorized(UNKNOWN) from None
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[text] = known
        return known

    def _text(
        self,
        peer: tuple[str, int] | None,
        headers: Iterable[tuple[bytes, bytes]],
        extensions: Mapping[str, Any] | None,
    ) -> bytes | str | None:
        if self._header is not None and peer is not None and self._proxies.hold(peer[0]):
            sent = [value for name, value in headers if name == self._header]
            if len(sent) > 1:  # a proxy that adds its own to what came to it
                raise Unauthorized(UNKNOWN)
            return sent[0].strip() or None if sent else None
        tls = extensions.get("tls") if extensions else None
        # The same object for all calls of a connection: to find it again costs next to nothing.
        return next(iter(tls["client_cert_chain"]), None) if tls else None

    def _identified(self, text: bytes | str) -> ShownCertificate:
        der = decode(text.encode("ascii") if isinstance(text, str) else text)
        certificate = self._read(der)
        found = certificate.names & self._by_name.keys()
        named = {who.name: who for who in map(self._by_name.__getitem__, found)}
        if len(named) > 1:
            raise ValueError("it names two clients")
        who = next(iter(named.values()), None)
        return ShownCertificate(who, certificate.not_before, certificate.not_after)
