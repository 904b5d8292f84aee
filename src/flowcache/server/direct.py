"""Requests that are handed over whole, to an application that need not be awaited.

ASGI costs a task, a coroutine and some messages for each request. An application may offer a second
entrance beside it, for requests whose head says that it takes them (`Direct.takes`) and whose body
came with the head: `Direct.start` is called while the request is read, and the application answers
by `Request.answer`, then or later. Whatever else comes takes the way of ASGI.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from flowcache.server.framing import Head

if TYPE_CHECKING:
    from flowcache.server.connection import Connection

Fields = Iterable[tuple[bytes, bytes]]

__all__ = ["Direct", "Fields", "Handler", "Request", "direct_of"]


class Handler:
    """What works on a request."""

    __slots__ = ()

    def cancel(self) -> None:
        """Hear that the connection was cut, and nobody waits for an answer any more."""
        raise NotImplementedError


class Request:
    """A request whose body is there. It is answered once, or its ``handler`` is cancelled.

    ``kept`` is for the application: what it sets there while it starts the first request of a
    connection it finds there in the next one with the same head, whose fields are not read again.
    It must hold nothing secret.
    """

    __slots__ = ("body", "connection", "handler", "head", "kept")

    # To its connection it is an exchange whose body has come.
    is_complete: Final = True
    is_broken: Final = False
    is_answered: Final = False
    closes: Final = False
    unread: Final = b""

    def __init__(self, connection: Connection, head: Head, body: bytes, kept: object) -> None:
        self.connection = connection
        self.head = head
        self.body = body
        self.kept = kept
        self.handler: Handler | None = None

    def hang_up(self) -> None:
        """Hear that the client is gone. What was begun goes on: a write may have left."""

    def answer(self, status: int, headers: Fields, body: bytes) -> None:
        """Send the whole answer."""
        self.connection.answer(self, status, headers, body)


class Direct:
    """An entrance for whole requests."""

    __slots__ = ()

    def takes(self, head: Head) -> bool:
        """Tell whether requests with this head may come this way; those of HEAD may not."""
        raise NotImplementedError

    def start(self, request: Request) -> None:
        """Begin to work on a request. It must not wait."""
        raise NotImplementedError


def direct_of(app: object) -> Direct | None:
    """Return the entrance for whole requests that an application has, if any: ``app.direct``."""
    found = getattr(app, "direct", None)
    return found if isinstance(found, Direct) else None
