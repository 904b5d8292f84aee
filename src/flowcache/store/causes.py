"""Why a connection can't be made or used: what was raised -> a cause, and words about it.

A cause is what can be done something about: `checkup` has a remedy for each. It also decides what
the fault is to callers (`FAILURES`).
"""

from __future__ import annotations

import ssl
from enum import Enum, auto
from typing import Final, NamedTuple

from redis import exceptions as redis_errors

from flowcache.errors import LockedOut, NoPassword, RedisUnavailable, TlsFailed
from flowcache.printable import printable

__all__ = ["FAILURES", "Cause", "Reason", "why"]


class Cause(Enum):
    """What stands in the way of a connection."""

    OTHER = auto()
    UNREACHABLE = auto()
    """Nobody listens at the address, or the name has none."""
    SILENT = auto()
    SILENT_TO_TLS = auto()
    HUNG_UP = auto()
    """The server ended the connection during the handshake."""
    HUNG_UP_UNDER_TLS = auto()
    NOT_REDIS = auto()
    NO_TLS = auto()
    """The server answers, and not with TLS."""
    TLS_FILE = auto()
    """A file of ours can't be read."""
    UNTRUSTED = auto()
    """No authority of ours signed the certificate."""
    OTHER_NAME = auto()
    """The certificate is valid, for another name than the server's."""
    EXPIRED = auto()
    OWN_CERTIFICATE = auto()
    """The server wants a certificate of ours, or another one."""
    TLS = auto()
    """Anything else about TLS."""
    PASSWORD_WANTED = auto()
    PASSWORD_REFUSED = auto()
    PASSWORD_UNREAD = auto()
    SENTINEL_PASSWORD = auto()
    """A Sentinel wants a password, or refuses ours."""
    FORBIDDEN = auto()
    SLOTS_FORBIDDEN = auto()
    """The user may not ask a cluster for its map."""
    DATABASE = auto()
    TOO_MANY_CLIENTS = auto()
    LOADING = auto()
    NO_SENTINEL = auto()
    """It should be a Sentinel, and is a Redis."""
    SERVICE = auto()
    """The Sentinel watches no service of that name, or several."""
    PRIMARY_UNREACHABLE = auto()
    """The primary is unreachable at the address that another server names."""
    NO_SLOTS = auto()


FAILURES: Final[dict[Cause, type[RedisUnavailable]]] = {
    Cause.PASSWORD_WANTED: LockedOut,
    Cause.PASSWORD_REFUSED: LockedOut,
    Cause.SENTINEL_PASSWORD: LockedOut,
    Cause.PASSWORD_UNREAD: NoPassword,
    Cause.NO_TLS: TlsFailed,
    Cause.TLS_FILE: TlsFailed,
    Cause.UNTRUSTED: TlsFailed,
    Cause.OTHER_NAME: TlsFailed,
    Cause.EXPIRED: TlsFailed,
    Cause.OWN_CERTIFICATE: TlsFailed,
    Cause.TLS: TlsFailed,
}
"""What a cause is to callers, where it is more than `RedisUnavailable`."""


class Reason(NamedTuple):
    """A cause, and a sentence without an end about it."""

    cause: Cause
    words: str


class _Row(NamedTuple):
    """What is raised, with a ``text`` in it if there is no other sign, and what that means."""

    kind: type[BaseException]
    text: str
    cause: Cause
    words: str


_NO_DATABASE = Cause.DATABASE, "{server} does not have this database"
_REFUSED = "{server} refused the handshake"
_NONE = "no connection"
_ROWS: Final = (
    _Row(
        redis_errors.AuthenticationError,
        "",
        Cause.PASSWORD_REFUSED,
        "{server} refused the user or the password",
    ),
    _Row(redis_errors.BusyLoadingError, "", Cause.LOADING, "{server} is loading its data"),
    _Row(redis_errors.TimeoutError, "", Cause.SILENT, "no answer in time"),
    _Row(TimeoutError, "", Cause.SILENT, "no answer in time"),
    _Row(redis_errors.NoPermissionError, "", Cause.FORBIDDEN, _REFUSED),
    _Row(redis_errors.ResponseError, "DB index is out of range", *_NO_DATABASE),
    _Row(redis_errors.ResponseError, "SELECT is not allowed", *_NO_DATABASE),
    _Row(redis_errors.ResponseError, "", Cause.OTHER, _REFUSED),
    _Row(redis_errors.ConnectionError, "max number of clients", Cause.TOO_MANY_CLIENTS, _NONE),
    _Row(redis_errors.InvalidResponse, "", Cause.NOT_REDIS, _NONE),
    _Row(redis_errors.ConnectionError, "closed by server", Cause.HUNG_UP, _NONE),
    _Row(ConnectionResetError, "", Cause.HUNG_UP, _NONE),
    _Row(redis_errors.RedisError, "", Cause.UNREACHABLE, _NONE),
    _Row(OSError, "", Cause.UNREACHABLE, _NONE),
    _Row(UnicodeError, "", Cause.UNREACHABLE, "the host name is malformed"),
)
"""Foreign exception -> what it means. The first row that fits counts."""

_OF_CERTIFICATES: Final = {
    9: Cause.EXPIRED,  # not yet valid
    10: Cause.EXPIRED,
    62: Cause.OTHER_NAME,
    64: Cause.OTHER_NAME,  # an IP address
}
"""OpenSSL's number of what is wrong with a certificate (X509_V_ERR_...) -> cause."""

_OF_TLS: Final = {
    "WRONG_VERSION_NUMBER": Cause.NO_TLS,
    "RECORD_LAYER_FAILURE": Cause.NO_TLS,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": Cause.OWN_CERTIFICATE,
    "TLSV1_ALERT_UNKNOWN_CA": Cause.OWN_CERTIFICATE,
    "SSLV3_ALERT_BAD_CERTIFICATE": Cause.OWN_CERTIFICATE,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": Cause.OWN_CERTIFICATE,
}
"""OpenSSL's name of what went wrong -> cause."""

_UNDER_TLS: Final = {
    Cause.SILENT: Cause.SILENT_TO_TLS,
    Cause.HUNG_UP: Cause.HUNG_UP_UNDER_TLS,
}
_OF_SENTINEL: Final = {
    Cause.PASSWORD_WANTED: Cause.SENTINEL_PASSWORD,
    Cause.PASSWORD_REFUSED: Cause.SENTINEL_PASSWORD,
}

_SAID_BY_SERVER = (redis_errors.ResponseError, redis_errors.AuthenticationError)
_MOST_SHOWN = 300
"""Characters of what a server said that are shown."""


def why(fault: BaseException, *, secret: bool, tls: bool, sentinel: bool) -> Reason:
    """Say what an exception of a connection means.

    ``secret``, ``tls`` and ``sentinel`` tell whether a password was sent, over TLS, and whether the
    server should be a Sentinel. What the server said is left out where it was told a secret: an
    error may repeat its command.
    """
    beneath = fault.__cause__ or fault.__context__
    if isinstance(beneath, ssl.SSLError):
        fault = beneath
    if isinstance(fault, ssl.SSLError):
        return Reason(_of_tls(fault), f"TLS failed: {_shown(fault)}")
    server = "the Sentinel" if sentinel else "Redis"
    if isinstance(fault, redis_errors.AuthenticationError) and not secret:
        cause, words = Cause.PASSWORD_WANTED, f"{server} wants a password"
    elif (row := _row(fault, beneath)) is None:
        cause = Cause.NOT_REDIS
        words = f"the answer can't be read ({type(fault).__name__}); is it a Redis?"
    else:
        cause, words = row.cause, row.words.format(server=server)
        if not (secret and isinstance(fault, _SAID_BY_SERVER)):
            words = f"{words}: {_shown(fault)}"
    cause = _UNDER_TLS.get(cause, cause) if tls else cause
    return Reason(_OF_SENTINEL.get(cause, cause) if sentinel else cause, words)


def _row(*faults: BaseException | None) -> _Row | None:
    for row in _ROWS:
        if any(isinstance(fault, row.kind) and row.text in str(fault) for fault in faults):
            return row
    return None


def _of_tls(fault: ssl.SSLError) -> Cause:
    if isinstance(fault, ssl.SSLCertVerificationError):
        return _OF_CERTIFICATES.get(fault.verify_code, Cause.UNTRUSTED)
    return _OF_TLS.get(fault.reason or "", Cause.TLS)


def _shown(fault: BaseException) -> str:
    return printable(str(fault)[:_MOST_SHOWN])
