"""The border to redis-py: connecting, TLS, AUTH, HELLO, SELECT, and its errors.

redis-py opens the connection and shakes hands; then the transport is taken over by a protocol of
ours (`link`), which pipelines. `_writer`, `_reader` (its parser's, too) and `_connection_arguments`
are the private names used; tests hold them in place.

Nothing that a server says here can do more than fail the attempt: its bytes go through our own
`Parser`, each reply has ``connect_timeout``, and whatever redis-py makes of an odd one ends as a
`ConnectFault` whose sentence is bounded.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    DefaultParser,
    SSLConnection,
    UnixDomainSocketConnection,
)

from flowcache.errors import RedisUnavailable
from flowcache.printable import printable
from flowcache.store.causes import FAILURES, Cause, why
from flowcache.store.parser import Parser
from flowcache.store.settings import Address, StoreSettings, Tls

__all__ = [
    "ConnectFault",
    "NotPermitted",
    "ask",
    "close",
    "connect",
    "take_over",
]


class ConnectFault(Exception):
    """A connection could not be made or used. The message says why, ``cause`` what kind of why.

    ``at`` is the server that it is about, where that is another than was asked.
    """

    def __init__(self, message: str, cause: Cause = Cause.OTHER, at: Address | None = None) -> None:
        super().__init__(message)
        self.cause = cause
        self.at = at

    @property
    def failure(self) -> type[RedisUnavailable]:
        """What it is to who would have used the connection."""
        return FAILURES.get(self.cause, RedisUnavailable)


class NotPermitted(ConnectFault):
    """Redis forbids flowcache's user a command, or its keys; asking again won't help."""

    def __init__(self, command: str, *, is_about_key: bool) -> None:
        super().__init__(f"Redis forbids flowcache's user {command}", Cause.FORBIDDEN)
        self.is_about_key = is_about_key


_MOST_REPLY = 8 * 1024 * 1024
"""Bytes of a reply before the take-over: a map of 16,384 ranges is 3 MB, a step of SCAN less."""


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


class _TlsConnection(SSLConnection):
    """redis-py's connection over TLS, with a context of ours and a name to verify."""

    def __init__(self, context: ssl.SSLContext, server_name: str | None, **options: Any) -> None:
        super().__init__(**options)
        self._context = context
        self._server_name = server_name

    def _connection_arguments(self) -> dict[str, Any]:
        arguments = {**super()._connection_arguments(), "ssl": self._context}
        if self._server_name is not None:
            arguments["server_hostname"] = self._server_name
        return arguments


def _tls_context(tls: Tls) -> ssl.SSLContext:
    """Return what verifies servers and shows our certificate.

    Raises:
        ConnectFault: a file can't be used.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.check_hostname = tls.verify_hostname
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.cert_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except OSError as fault:  # an SSLError is one
        words = printable(fault.strerror or type(fault).__name__)
        raise ConnectFault(f"a file of TLS can't be used: {words}", Cause.TLS_FILE) from None
    return context


async def connect(
    address: Address,
    settings: StoreSettings,
    *,
    sentinel: bool = False,
    server_name: str | None = None,
) -> AbstractConnection:
    """Open a connection to ``address``, authenticated, speaking RESP3, on the right database.

    ``server_name`` is what the certificate has to be for, where it is another than the host and
    the settings have none. A password or certificate that is in a file is read anew: it may have
    been replaced.

    Raises:
        ConnectFault: it could not be made; nothing is left open.
    """
    configured = settings.sentinel_password if sentinel else settings.password
    try:
        secret = None if configured is None else configured.fresh()
    except ValueError as fault:
        raise ConnectFault(f"the file of the password {fault}", Cause.PASSWORD_UNREAD) from None
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
    tls = settings.tls
    connection: AbstractConnection
    if address.port == 0:
        connection = UnixDomainSocketConnection(path=address.host, **options)
    elif tls is not None:
        name = tls.server_name or server_name
        connection = _TlsConnection(
            _tls_context(tls), name, host=address.host, port=address.port, **options
        )
    else:
        connection = Connection(host=address.host, port=address.port, **options)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except Exception as fault:  # an odd answer makes redis-py raise anything
        await connection.disconnect(nowait=True)
        cause, words = why(fault, secret=secret is not None, tls=tls is not None, sentinel=sentinel)
        # Not chained where it may hold the password: a traceback would show it.
        raise ConnectFault(words, cause) from (None if secret else fault)
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
        found = why(fault, secret=False, tls=False, sentinel=False)
        raise ConnectFault(found.words, found.cause) from fault


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
