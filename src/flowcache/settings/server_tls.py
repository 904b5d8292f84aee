"""The certificate that the service presents over TLS, and the client certificates it accepts.

The files are read when the configuration is, at the start and at SIGHUP, once for all workers: they
are forked with the context. So a worker that is replaced never meets half a renewed pair, and a
session of TLS is resumed in any of them. A new context has new keys for sessions, too.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec

__all__ = ["ClientAuth", "ServerTls", "TlsFault", "TlsFiles", "read_tls"]

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secret and authenticated. TLS 1.3 has no others."""
_CERT, _KEY, _CA = "http.tls_cert_file", "http.tls_key_file", "http.tls_client_ca_file"
_SOON = 21 * 86_400
"""Seconds before its end that a certificate is warned of; who renews by themselves do it sooner."""


class ClientAuth(StrEnum):
    """Whether a client shows a certificate."""

    OFF = "off"
    OPTIONAL = "optional"
    REQUIRED = "required"


_VERIFY = {
    ClientAuth.OFF: ssl.CERT_NONE,
    ClientAuth.OPTIONAL: ssl.CERT_OPTIONAL,
    ClientAuth.REQUIRED: ssl.CERT_REQUIRED,
}


class TlsFault(ValueError):
    """The file that ``setting`` names can't be used, for a ``reason``."""

    def __init__(self, setting: str, file: str, reason: str) -> None:
        super().__init__(f"{setting} = {file}: {reason}")
        self.setting = setting
        self.reason = reason


class TlsFiles(msgspec.Struct, frozen=True):
    """Paths of PEM files: chain and key of the service, and the authorities of clients."""

    cert: str
    key: str
    client_ca: str | None = None
    client_auth: ClientAuth = ClientAuth.OFF


class ServerTls(msgspec.Struct, frozen=True, eq=False):
    """TLS as it is served, and when its certificate is valid (Unix seconds)."""

    context: ssl.SSLContext
    cert: str
    not_before: float
    not_after: float

    def warnings(self, now: float) -> Iterator[str]:
        """Yield what an operator should know of the certificate."""
        if now < self.not_before:
            yield f"http.tls_cert_file = {self.cert}: not valid before {_time(self.not_before)}"
        if now > self.not_after:
            yield f"http.tls_cert_file = {self.cert}: expired on {_time(self.not_after)}"
        elif now > self.not_after - _SOON:
            yield f"http.tls_cert_file = {self.cert}: expires on {_time(self.not_after)}"


def read_tls(files: TlsFiles) -> ServerTls:
    """Read the files, without asking for a password.

    Raises:
        TlsFault: one of them can't be used.
    """
    # Imported here: they bring a whole library of cryptography, and many have a proxy for TLS.
    from flowcache.authn.certificates import Certificate, decode_first
    from flowcache.authn.x509 import read_certificate

    try:
        own: Certificate = read_certificate(decode_first(Path(files.cert).read_bytes()))
    except (OSError, ValueError):
        raise TlsFault(_CERT, files.cert, "not a PEM certificate") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    _load_pair(context, files)
    if files.client_ca is not None:
        context.verify_mode = _VERIFY[files.client_auth]
        # Whatever stands in the file is trusted, an intermediate or a client's own certificate too.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(files.client_ca)
        except (ssl.SSLError, OSError):
            raise TlsFault(_CA, files.client_ca, "contains no PEM certificates") from None
    return ServerTls(context, files.cert, own.not_before, own.not_after)


def _load_pair(context: ssl.SSLContext, files: TlsFiles) -> None:
    def password() -> str:
        raise TlsFault(_KEY, files.key, "is encrypted; store the key without a password")

    try:
        context.load_cert_chain(files.cert, files.key, password)
    except ssl.SSLError as fault:
        if fault.reason == "KEY_VALUES_MISMATCH":
            reason = f"not the key of http.tls_cert_file = {files.cert}"
            raise TlsFault(_KEY, files.key, reason) from None
        if fault.reason in (None, "NO_START_LINE", "UNSUPPORTED"):
            raise TlsFault(_KEY, files.key, "not a PEM key") from None
        what = fault.reason.replace("_", " ").lower()
        raise TlsFault(_CERT, files.cert, f"OpenSSL refuses it: {what}") from None
    except OSError as fault:
        raise TlsFault(_KEY, files.key, f"can't be read: {fault.strerror}") from None


def _time(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%d %H:%M UTC")
