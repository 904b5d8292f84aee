"""TLS between a socket's transport and a `Connection`.

`TlsWire` is a protocol to the one and a transport to the other; OpenSSL works on memory, and
nothing here waits. asyncio's own TLS is not used: it can't end one side only, cuts a client that
still sends when it closes, and sets a timer for each handshake (docs/decisions/0018-tls.md).

- A handshake is a state of the connection: the sweep ends what takes too long, and it gives way
  where room is wanted.
- Each side ends by itself. A client that has sent close_notify still gets its answers. After ours
  the TCP stream ends too, and what still comes is dropped undecrypted, so that no reset destroys
  the last answer.
- A stream that ends without close_notify is one that ends: HTTP knows half a request from a whole
  one without it.

What is no TLS is told so, in an alert, or in plain HTTP if that is what it was.

What OpenSSL computes for a handshake, with an RSA key a millisecond, holds up the loop. So only a
few handshakes begin in one turn of it, in the order they came (`turns`): thousands of new
connections delay those that are open by a bounded time, and each other.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Any, cast

import structlog

from flowcache.server.connection import Connection
from flowcache.server.refusal import BadRequest
from flowcache.server.turns import Turnstile
from flowcache.server.wire import Wire

__all__ = ["TlsWire"]

_log = structlog.get_logger(__name__)

_RECORD = 16 * 1024
"""Bytes that a record carries at most (RFC 8446, 5.1)."""
_UNREAD = 64 * 1024
"""Bytes that are read of a client whose handshake waits for its turn."""
_PLAIN_HTTP = ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST")
"""What OpenSSL calls the beginning of an HTTP request."""
_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


class TlsWire(asyncio.BufferedProtocol):
    """The server's side of TLS for one ``connection``, which has not begun."""

    __slots__ = (
        "_connection",
        "_has_begun",
        "_incoming",
        "_is_open",
        "_is_over",
        "_is_shut",
        "_outgoing",
        "_tls",
        "_turns",
        "_waits",
        "_wire",
    )

    def __init__(self, connection: Connection, context: ssl.SSLContext, turns: Turnstile) -> None:
        self._connection = connection
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._wire: Wire
        self._turns = turns
        self._waits = False
        """Whether the handshake waits for its turn."""
        self._has_begun = False
        """Whether it had its turn: what follows is cheap, and is done at once."""
        self._is_open = False
        """Whether hands have been shaken."""
        self._is_over = False
        """Whether the client has ended its side: what still comes is nothing (RFC 8446, 6.1)."""
        self._is_shut = False
        """Whether our side has ended: nothing more is sent, nor is what comes decrypted."""

    # -- what the transport says -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(Wire, transport)
        self._connection.begin(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._connection.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        data = self._connection.get_buffer(nbytes)[:nbytes]
        if self._is_shut:
            self._connection.data_received(bytes(data))  # which drops it
            return
        if self._is_over:
            self._connection.drop(nbytes)
            return
        self._incoming.write(data)
        if self._has_begun:
            self._advance()
        elif not self._waits:
            self._waits = True
            self._turns.enter(self._take_turn)
        elif self._incoming.pending > _UNREAD:
            self._wire.pause_reading()

    def _take_turn(self) -> None:
        self._waits, self._has_begun = False, True
        if not self._wire.is_closing():
            self._wire.resume_reading()
            self._advance()

    def _advance(self) -> None:
        """Take the handshake a step on, or hand over what can be decrypted."""
        try:
            if not self._is_open:
                self._shake_hands()
                if not self._incoming.pending:
                    return
            self._read()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as fault:
            self._fail(fault)

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._is_open:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    # -- TLS ---------------------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        self._tls.do_handshake()
        self._flush()
        self._is_open = True
        certificate = self._tls.getpeercert(binary_form=True)
        version = self._tls.version() or ""
        # As the TLS extension of ASGI has it.
        about: dict[str, Any] = {
            "server_cert": None,
            "client_cert_chain": [ssl.DER_cert_to_PEM_cert(certificate)] if certificate else [],
            "client_cert_name": None,
            "client_cert_error": None,
            "tls_version": _VERSIONS.get(version),
            "cipher_suite": None,
        }
        self._connection.secured({"tls": about})

    def _read(self) -> None:
        """Hand all that can be decrypted to the connection, at once."""
        parts: list[bytes] = []
        read, pending, incoming = self._tls.read, self._tls.pending, self._incoming
        with suppress(ssl.SSLWantReadError):
            while not self._is_over and (not parts or incoming.pending or pending()):
                part = read(_RECORD)
                self._is_over = not part  # close_notify
                parts.append(part)
        if self._outgoing.pending:  # an answer of TLS's own, as to a new key
            self._flush()
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if data:
            self._connection.data_received(data)
        elif not self._is_over:
            self._connection.stir()
        if self._is_over:
            self._connection.drop(len(incoming.read()))
            self._connection.eof_received()

    def _fail(self, fault: ssl.SSLError) -> None:
        """Give up what is no TLS, or none of ours."""
        connection = self._connection
        if self._is_open:
            self._flush()
            self.abort()
            return
        self._is_shut = True
        # Strangers must fill no log: it is told only to whoever looks for the reason.
        _log.debug("no TLS", client=connection.client, reason=fault.reason)
        if fault.reason in _PLAIN_HTTP:
            connection.begin(self._wire)
            connection.refuse(BadRequest("TLS is spoken here: call https://, not http://."))
            return
        self._flush()
        connection.end()

    def _flush(self) -> None:
        self._wire.write(self._outgoing.read())

    def _say_goodbye(self) -> None:
        if self._is_open and not self._is_shut:
            self._is_shut = True
            with suppress(ssl.SSLError):  # the client's own has not come, or more data has
                self._tls.unwrap()
            self._flush()

    # -- what the connection asks for --------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self._is_shut or self._wire.is_closing():
            return
        try:
            self._tls.write(data)
        except ssl.SSLError:  # it has failed before
            self.abort()
            return
        self._flush()

    def write_eof(self) -> None:
        self._say_goodbye()
        self._wire.write_eof()

    def close(self) -> None:
        self._say_goodbye()
        self._wire.close()

    def abort(self) -> None:
        self._wire.abort()

    def is_closing(self) -> bool:
        return self._wire.is_closing()

    def get_write_buffer_size(self) -> int:
        return self._wire.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int) -> None:
        self._wire.set_write_buffer_limits(high)

    def pause_reading(self) -> None:
        self._wire.pause_reading()

    def resume_reading(self) -> None:
        self._wire.resume_reading()

    def get_extra_info(self, name: str) -> Any:
        return self._wire.get_extra_info(name)
