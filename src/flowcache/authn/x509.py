"""Reading certificates, by cryptography: imported only where there are some."""

from __future__ import annotations

import warnings
from hashlib import sha256

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from flowcache.authn.certificates import Certificate

__all__ = ["read_certificate"]

_STRANGE = (
    ValueError,
    TypeError,
    CryptographyDeprecationWarning,  # of what no certificate may be, and some day is refused anyway
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises where it does not like a certificate."""


def read_certificate(der: bytes) -> Certificate:
    """Read a certificate; its signature is for whoever shook hands with it.

    Raises:
        ValueError: it is none, or a malformed one.
    """
    try:
        with warnings.catch_warnings(action="error", category=CryptographyDeprecationWarning):
            read = x509.load_der_x509_certificate(der)
        return Certificate(
            frozenset({f"sha256:{sha256(der).hexdigest()}", *_alternatives(read)}),
            read.not_valid_before_utc.timestamp(),
            read.not_valid_after_utc.timestamp(),
        )
    except _STRANGE as fault:
        raise ValueError(f"no certificate: {type(fault).__name__}") from None


def _alternatives(read: x509.Certificate) -> list[str]:
    try:
        extension = read.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    names = extension.value
    return [
        *(f"dns:{name.lower()}" for name in names.get_values_for_type(x509.DNSName)),
        *(f"uri:{name}" for name in names.get_values_for_type(x509.UniformResourceIdentifier)),
    ]
