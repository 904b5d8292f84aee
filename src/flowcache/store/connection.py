"""The border to redis-py: connecting, TLS, AUTH, HELLO, SELECT, and its errors.

redis-py opens the connection and shakes hands; then the transport is taken over by a protocol of
ours (`link`), which pipelines. `_writer`, and `_reader` of its parser, are the private names used;
tests hold them in place.

Nothing that a server says here can do more than fail the attempt: its bytes go through our own
`Parser`, each reply has ``connect_timeout``, and whatever redis-py makes of an odd one ends as a
`ConnectFault` whose sentence is bounded.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Any, ClassVar

from redis import exceptions as redis_errors
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    DefaultParser,
    SSLConnection,
    UnixDomainSocketConnection,
)

from flowcache.errors import LockedOut, NoPassword, RedisUnavailable
from flowcache.printable import printable
from flowcache.secret import Secret
from flowcache.store.parser import Parser
from flowcache.store.settings import Address, StoreSettings

__all__ = [
    "ConnectFault",
    "NotLetIn",
    "NotPermitted",
    "PasswordUnread",
    "ask",
    "close",
    "connect",
    "take_over",
]


class ConnectFault(Exception):
    """A connection could not be made. The message says why and what to do about it."""

    failure: ClassVar[type[RedisUnavailable]] = RedisUnavailable
    """What it is to who would have used the connection."""


class NotLetIn(ConnectFault):
    """It was made, and the user or the password refused."""

    failure = LockedOut


class PasswordUnread(ConnectFault):
    """There is none to be shown: its file can't be read."""

    failure = NoPassword


class NotPermitted(ConnectFault):
    """Redis forbids flowcache's user a command, or its keys; asking again won't help."""

    def __init__(self, command: str, *, is_about_key: bool) -> None:
        super().__init__(f"Redis forbids flowcache's user {command}")
        self.is_about_key = is_about_key


_MOST_REPLY = 8 * 1024 * 1024
"""Bytes of a reply before the take-over: a map of 16,384 ranges is 3 MB, a step of SCAN less."""
_MOST_SHOWN = 300
"""Characters of what a server said that are shown."""

_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (redis_errors.AuthenticationError, "Redis refused the user or the password"),
    (redis_errors.BusyLoadingError, "Redis is loading its data"),
    (redis_errors.TimeoutError, "no answer in time"),
    (TimeoutError, "no answer in time"),
    (redis_errors.ResponseError, "Redis refused the handshake"),
    (redis_errors.ConnectionError, "no connection"),
    (redis_errors.RedisError, "no connection"),
    (ssl.SSLError, "TLS failed"),
    (OSError, "no connection"),
    (UnicodeError, "the host name is malformed"),
)
"""Foreign exception -> what it means. The first row that fits counts."""


_TOLD_BY_SERVER = (redis_errors.ResponseError, redis_errors.AuthenticationError)


def _reason(fault: BaseException, secret: Secret | None = None) -> str:
    """Say what a foreign exception means.

    What the server said is left out where it was told a secret: an error may repeat its command.
    """
    cause = fault.__cause__ or fault.__context__
    if isinstance(cause, ssl.SSLError):
        fault = cause
    for kind, meaning in _REASONS:
        if isinstance(fault, kind):
            told = secret is not None and isinstance(fault, _TOLD_BY_SERVER)
            return meaning if told else f"{meaning}: {printable(str(fault)[:_MOST_SHOWN])}"
    return f"the answer can't be read ({type(fault).__name__}); is it a Redis?"


class _Bounded:
    """Our parser under the three methods that redis-py's own calls."""

    def __init__(self, make_error: Any, not_enough: object) -> None:
        self._parser = Parser(_MOST_REPLY, make_error)
        self._not_enough = not_enough
        self._replies: deque[Any] = deque()

    def feed(self, data: bytes) -> None:
        self._replies.extend(self._parser.parse(data))

    def gets(self, should_decode: bool = True) -> Any:
        if self._replies:
            return self._replies.popleft()
        if self._parser.fault is not None:
            raise redis_errors.InvalidResponse(self._parser.fault)
        return self._not_enough

    def has_data(self) -> bool:
        return bool(self._replies)

    @property
    def is_torn(self) -> bool:
        """Whether the beginning of a reply has come, and not its end."""
        return self._parser.is_torn


class _BoundedParser(DefaultParser):  # type: ignore[misc, valid-type]  # it is chosen at import
    """redis-py's parser of a stream, with bounds."""

    def on_connect(self, connection: AbstractConnection) -> None:
        super().on_connect(connection)
        # An empty reader tells by which object redis-py knows that it needs more.
        reader = getattr(self, "_reader")  # noqa: B009 - of no declared type
        self._reader = _Bounded(self.parse_error, reader.gets())

    async def read_from_socket(self) -> bool:
        if self._reader.is_torn:
            await asyncio.sleep(0)  # a reply of megabytes may have been received: one piece a turn
        return bool(await super().read_from_socket())


async def connect(
    address: Address, settings: StoreSettings, *, sentinel: bool = False
) -> AbstractConnection:
    """Open a connection to ``address``, authenticated, speaking RESP3, on the right database.

    A password or certificate that is in a file is read anew: it may have been replaced.

    Raises:
        ConnectFault: it could not be made; nothing is left open.
    """
    configured = settings.sentinel_password if sentinel else settings.password
    try:
        secret = None if configured is None else configured.fresh()
    except ValueError as fault:
        raise PasswordUnread(f"the file of the password {fault}") from None
    options: dict[str, Any] = {
        "username": settings.sentinel_username if sentinel else settings.username,
        "password": secret.reveal() if secret else None,
        "db": 0 if sentinel else settings.database,
        "protocol": 3,
        "socket_connect_timeout": settings.connect_timeout,
        "socket_timeout": settings.connect_timeout,
        "driver_info": None,
        "parser_class": _BoundedParser,
    }
    connection: AbstractConnection
    if address.port == 0:
        connection = UnixDomainSocketConnection(path=address.host, **options)
    elif settings.tls is not None:
        connection = SSLConnection(
            host=address.host,
            port=address.port,
            ssl_ca_certs=settings.tls.ca_file,
            ssl_certfile=settings.tls.cert_file,
            ssl_keyfile=settings.tls.key_file,
            ssl_check_hostname=settings.tls.verify_hostname,
            ssl_min_version=ssl.TLSVersion.TLSv1_2,
            **options,
        )
    else:
        connection = Connection(host=address.host, port=address.port, **options)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except Exception as fault:  # an odd answer makes redis-py raise anything
        await connection.disconnect(nowait=True)
        # Not chained where it may hold the password: a traceback would show it.
        kind = NotLetIn if isinstance(fault, redis_errors.AuthenticationError) else ConnectFault
        raise kind(_reason(fault, secret)) from (None if secret else fault)
    except BaseException:  # cancelled: leave nothing open
        await connection.disconnect(nowait=True)
        raise
    return connection


async def ask(connection: AbstractConnection, *words: str | bytes | int) -> Any:
    """Send one command and return its reply, in the simple way, before any take-over.

    Raises:
        ConnectFault: Redis refused it, or the connection was lost.
        NotPermitted: of these, the user lacks the right.
    """
    try:
        await connection.send_command(*words)
        return await connection.read_response()
    except redis_errors.NoPermissionError as fault:
        # Redis 6: "one of the keys used as arguments"; since 7: "a key". A command is in quotes.
        raise NotPermitted(str(words[0]), is_about_key="'" not in str(fault)) from fault
    except Exception as fault:  # an odd answer makes redis-py raise anything
        raise ConnectFault(_reason(fault)) from fault


def take_over(connection: AbstractConnection, protocol: asyncio.Protocol) -> object:
    """Let ``protocol`` have the transport of a connected, idle connection.

    Returns what must be kept as long as the transport is used: redis-py's stream, which closes the
    transport when it is collected. ``connection`` itself is of no more use.

    Raises:
        ConnectFault: the connection was lost during the handshake.
    """
    writer = connection._writer
    if writer is None:
        raise ConnectFault("no connection: it was lost during the handshake")
    if connection._reader is not None and connection._reader.at_eof():
        # Its end was told to the stream; the protocol would not hear of it.
        raise ConnectFault("no connection: the server hung up after the handshake")
    connection._writer = connection._reader = None
    transport = writer.transport
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    return writer


async def close(connection: AbstractConnection) -> None:
    """Close a connection that was not taken over."""
    await connection.disconnect(nowait=True)
