"""Bodies in chunks: their limit is what has come, not how it is cut, nor whether it ever ends."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.service import ROUTE, Service, service

LIMIT = 4096
HEAD = (
    "POST {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@pytest.fixture(scope="module")
def patient() -> Iterator[Service]:
    """A service that would wait for a body longer than we do: what it answers, it tells at once."""
    limits = {
        "FLOWCACHE_HTTP_MAX_BODY_BYTES": str(LIMIT),
        "FLOWCACHE_HTTP_BODY_TIMEOUT_SECONDS": "60",
    }
    with service(limits, "--embedded") as running:
        yield running


def begun(size: int, of: int) -> bytes:
    """Return the first ``size`` bytes of a body in chunks of ``of`` bytes, and nothing after."""
    full, left = divmod(size, of)
    head = b"%x\r\n" % of
    return (head + b"x" * of + b"\r\n") * full + head + b"x" * left


@pytest.mark.parametrize("of", [7, 100, LIMIT, 10 * LIMIT])
def test_what_is_over_the_limit_is_told_when_it_is(patient: Service, of: int) -> None:
    """Though its end never comes, nor that of its chunk, and it would be waited for."""
    with socket.create_connection(("127.0.0.1", patient.port), timeout=30) as connection:
        connection.sendall(HEAD.format(ROUTE, patient.token).encode() + begun(LIMIT + 1, of))
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too_large"' in answer


@pytest.mark.parametrize("of", [7, 100, LIMIT])
def test_what_is_at_the_limit_is_taken(patient: Service, of: int) -> None:
    """However it is cut: chunks cost nothing of it."""
    call = b'{"operation":"GET","key":"k"}'
    body = call + b" " * (LIMIT - len(call))
    pieces = [body[at : at + of] for at in range(0, LIMIT, of)]
    answer = patient.post(iter(pieces))
    assert answer.status == 200
