"""Where Redis is and how to talk to it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import parse_qs, unquote

import msgspec

from flowcache.secret import Secret

__all__ = [
    "Address",
    "Location",
    "ReadFrom",
    "StoreSettings",
    "Tls",
    "parse_location",
    "without_credentials",
]


_HOST_PORT = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>[^\s\[\]:/?#,]+))(?::(?P<port>[0-9]{0,5}))?"
)


class Address(NamedTuple):
    """Where a server listens: host and port, or the path of a Unix socket with port 0."""

    host: str
    port: int

    def __str__(self) -> str:
        if self.port == 0:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, default_port: int = 6379) -> Address:
        """Read ``host``, ``host:port`` or ``[v6]:port``.

        Raises:
            ValueError: it is none of these; the sentence says what is wrong.
        """
        if "@" in text:
            raise ValueError("a user or password needs a URL: redis://user:password@host:port")
        found = _HOST_PORT.fullmatch(text)
        port = int(found["port"] or default_port) if found else 0
        if found is None or not 0 < port < 65536:
            raise ValueError("expected host:port, with a port from 1 to 65535")
        return cls(found["v6"] or found["host"], port)


class ReadFrom(StrEnum):
    """Which server of a shard answers reads."""

    PRIMARY = "primary"
    REPLICA = "replica"


class Tls(msgspec.Struct, frozen=True):
    """TLS to Redis. Files are paths of PEM files; no CA file means the system's authorities."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify_hostname: bool = True
    server_name: str | None = None
    """The name that the certificate of every server is for; None: the host, or the name that a
    cluster announces beside it."""


class StoreSettings(msgspec.Struct, frozen=True):
    """Everything the store needs to know. Times are in seconds, sizes in bytes."""

    nodes: tuple[Address, ...] = (Address("127.0.0.1", 6379),)
    """Servers to ask first. Which topology they form is detected from their answers."""
    username: str | None = None
    password: Secret | None = None
    database: int = 0
    tls: Tls | None = None
    service: str | None = None
    """The name under which Sentinel knows the primary."""
    sentinel_username: str | None = None
    sentinel_password: Secret | None = None
    read_from: ReadFrom = ReadFrom.PRIMARY
    stale_reads: bool = True
    """Whether a replica may answer a read that its primary does not."""
    retry_share: float = 0.2
    """The share of calls that may be sent again because a server failed."""
    confirm_replicas: int = 0
    """How many replicas must have a write before it is answered."""
    connect_timeout: float = 1.0
    reply_timeout: float = 2.0
    """A link whose oldest reply is later than this is reset."""
    refresh_interval: float = 15.0
    """How often the topology is asked for, without any cause."""
    max_pending: int = 10_000
    """The most commands that wait for a reply on one link; past it calls fail at once."""
    max_reply: int = 512 * 1024
    """The largest reply. One that is larger costs the connection, and all who wait on it. None is
    asked for that has over `commands.SMALL` bytes of names and values; their framing may take
    several times as many."""
    max_large_reply: int = 4 * 1024 * 1024
    """The same on a connection for large replies (`bulk`)."""

    @property
    def uses_replicas(self) -> bool:
        """Whether links to replicas are kept."""
        return self.stale_reads or self.read_from is ReadFrom.REPLICA


class Location(NamedTuple):
    """What a URL says, as changes to `StoreSettings`."""

    nodes: tuple[Address, ...]
    username: str | None
    password: Secret | None
    database: int | None
    tls: bool
    service: str | None


def without_credentials(text: str) -> str:
    """Return a location as it may be shown: with nothing that may have been meant as a secret.

    That is what stands before its last ``@``, in a query, or anywhere in a URL without an ``@``.
    """
    _, at, rest = text.rpartition("@")
    if at:
        return f"***@{rest}".partition("?")[0]
    scheme, is_url, _ = text.partition("://")
    return f"{scheme}://***" if is_url else text


_SCHEMES = {
    "redis": (False, False),
    "rediss": (True, False),
    "unix": (False, False),
    "redis+sentinel": (False, True),
    "rediss+sentinel": (True, True),
}
"""Scheme -> (TLS, Sentinel)."""


def parse_location(text: str) -> Location:
    """Read a URL or a list ``host:port,host:port``.

    ``redis://user:password@host:port/0``, ``rediss://`` for TLS, ``unix:///path?db=0``,
    ``redis+sentinel://host:26379,host:26379/service/0``; a user and password may stand before
    the first host of each. (The first three as registered with IANA and read by redis-py.)

    Raises:
        ValueError: it is none of these. The sentence says what was wanted and quotes nothing: the
            text may hold a password in any place.
    """
    if "://" not in text:
        nodes = tuple(Address.parse(item.strip()) for item in text.split(",") if item.strip())
        if not nodes:
            raise ValueError("no host:port in it")
        return Location(nodes, None, None, None, False, None)
    scheme, _, rest = text.partition("://")
    if scheme not in _SCHEMES:
        raise ValueError(f"unknown scheme; there are {', '.join(_SCHEMES)}")
    tls, sentinel = _SCHEMES[scheme]
    # Credentials end at the last @, so that a password may hold what a URL would want escaped.
    credentials, _, rest = ("", "", rest) if rest.startswith("/") else rest.rpartition("@")
    user, _, password = credentials.partition(":")
    rest, _, query = rest.partition("?")
    hosts, slash, path = rest.partition("/")
    username = unquote(user) or None
    secret = Secret(unquote(password)) if password else None
    parameters = parse_qs(query)
    if parameters.keys() - {"db"}:
        raise ValueError("unknown parameter in the URL; there is db, as in ?db=0")
    database = parameters.get("db", [""])[0]
    if scheme == "unix":
        socket_path = unquote(slash + path)
        if hosts or len(socket_path) < 2:
            raise ValueError("unix:// needs an absolute path: unix:///run/redis.sock")
        nodes = (Address(socket_path, 0),)
        return Location(nodes, username, secret, _database(database), tls, None)
    default_port = 26379 if sentinel else 6379
    nodes = tuple(Address.parse(host, default_port) for host in hosts.split(",") if host)
    if not nodes:
        raise ValueError(f"no host in it; write {scheme}://host:port")
    service: str | None = None
    if sentinel:
        service, _, path = path.partition("/")
        if not service:
            raise ValueError("no service name in it; write redis+sentinel://host:26379/service")
    return Location(nodes, username, secret, _database(database or path), tls, service)


def _database(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise ValueError("expected a number as database")
    return int(text)
