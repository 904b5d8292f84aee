"""An issuer that answers byte by byte what a test wants it to, well or not."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import NamedTuple

__all__ = ["Drip", "Issuer", "answer", "issuer"]


class Drip(NamedTuple):
    """An answer that comes at once up to ``start``, then a byte every few milliseconds."""

    start: bytes
    rest: bytes


class Issuer(NamedTuple):
    """One that is up: where it is, and the first line of each request that it got."""

    url: str
    asked: list[bytes]


def answer(content: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """Return a proper answer."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(content)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


@contextmanager
def issuer(
    *answers: bytes | Drip, port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[Issuer]:
    """Give each answer once, the last one for ever, and close the connection after it."""
    left, asked, over = list(answers), list[bytes](), Event()

    def serve() -> None:
        while True:
            accepted, _ = listening.accept()
            if over.is_set():
                accepted.close()
                return
            with suppress(OSError), accepted:  # a client that goes away is what some tests are for
                connection = tls.wrap_socket(accepted, server_side=True) if tls else accepted
                with connection:
                    asked.append(connection.recv(65536).partition(b"\r\n")[0])
                    said = left.pop(0) if len(left) > 1 else left[0]
                    if isinstance(said, bytes):
                        connection.sendall(said)
                        continue
                    connection.sendall(said.start)
                    for byte in said.rest:
                        if over.wait(0.02):
                            break
                        connection.sendall(bytes([byte]))

    with socket.create_server(("127.0.0.1", port)) as listening:
        thread = Thread(target=serve)
        thread.start()
        here = listening.getsockname()[:2]
        try:
            yield Issuer(f"http{'s' if tls else ''}://127.0.0.1:{here[1]}/jwks", asked)
        finally:
            over.set()
            socket.create_connection(here).close()
            thread.join()
