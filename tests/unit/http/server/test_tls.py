"""What only TLS has: handshakes, ends that are said, and bytes that are none of it.

All else that holds for a connection holds over TLS as well: `test_connection` runs over both.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from flowcache.server import connection as connections
from flowcache.server.connection import Connection, State
from flowcache.server.listener import ConnectionLimits
from flowcache.server.tls import TlsWire
from tests.unit.http.server.serving import Client, Secure, Served, TlsPair, happens, post, served

HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""The beginning of a handshake."""


@pytest.fixture
async def there(tls_pair: TlsPair) -> AsyncIterator[Served]:
    with capture_logs() as logged:
        async with served(tls=tls_pair) as running:
            yield running
    levels = {each["log_level"] for each in logged}
    assert levels <= {"debug"}  # whatever strangers send, it fills no log


def secure(client: Client) -> Secure:
    wire = client.writer.transport
    assert isinstance(wire, Secure)
    return wire


# -- handshakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", HELLO])
async def test_a_handshake_that_takes_too_long_is_ended(there: Served, sent: bytes) -> None:
    """Hands are shaken in time, or the connection goes; a byte now and then helps nobody."""
    client = await there.connect(secure=False)
    client.send(sent)
    await there.until(State.SHAKING)
    there.later(4.9)
    assert there.states == [State.SHAKING]
    there.later(0.2)
    assert await client.is_over()
    await there.until()


async def test_after_the_handshake_the_first_byte_has_its_own_time(there: Served) -> None:
    """The time of the handshake is not taken from that of the first request."""
    client = await there.connect()
    await there.until(State.NEW)
    there.later(9.9)
    assert there.states == [State.NEW]
    assert (await client.ask("/")).status == 200


async def test_slow_handshakes_keep_nobody_out(tls_pair: TlsPair) -> None:
    """They count as connections, and go for one that wants to be let in, the oldest first."""
    async with served(ConnectionLimits(connections=2), tls_pair) as there:
        slow = []
        for _ in range(2):
            slow.append(await there.connect(secure=False))
            slow[-1].send(HELLO)
            await there.until(*[State.SHAKING] * len(slow))
            there.clock.now += 1
        assert (await (await there.connect()).ask("/")).status == 200
        assert await slow[0].is_over()


async def test_a_reset_in_the_handshake_is_nothing(there: Served) -> None:
    """A port scanner leaves nothing behind."""
    client = await there.connect(secure=False)
    client.send(HELLO)
    await there.until(State.SHAKING)
    client.reset()
    await there.until()


async def test_a_client_that_ends_in_the_handshake_is_let_go(there: Served) -> None:
    """So does a health check that connects and closes."""
    client = await there.connect(secure=False)
    client.send(HELLO)
    client.end()
    assert await client.is_over()
    await there.until()


async def test_a_drain_waits_for_hands_that_are_being_shaken(there: Served) -> None:
    """Who has connected before the end is answered, slow as the handshake may be."""
    slow = asyncio.create_task(there.connect())
    await happens(lambda: there.states == [State.SHAKING])
    drain = asyncio.create_task(there.listener.drain(1.0, 10.0))
    client = await slow
    answer = await client.ask("/late")
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await client.is_over()
    await client.close()
    await asyncio.wait_for(drain, 10)


# -- what is no TLS --------------------------------------------------------------------------------


async def test_plain_http_is_told_so_in_plain_http(there: Served) -> None:
    """Who wrote http:// for https:// reads what is wrong, and the connection is closed."""
    client = await there.connect(secure=False)
    client.send(post("/", b"x" * 200_000))
    answer = await client.receive()
    assert answer.status == 400
    assert answer.json["code"] == "invalid_request"
    assert "https://" in answer.json["error"]
    assert await client.is_over()
    assert there.app.begun == []


@pytest.mark.parametrize("sent", [b"\x00" * 2000, b"SSH-2.0-OpenSSH\r\n", b"\x15\x03\x01\x00\x02"])
async def test_what_is_no_tls_gets_an_alert_at_most(there: Served, sent: bytes) -> None:
    """Nothing of HTTP is said to whoever did not shake hands."""
    client = await there.connect(secure=False)
    client.send(sent)
    client.end()
    async with asyncio.timeout(10):
        said = await client.reader.read()
    assert said == b"" or said[0] == 0x15  # the type of an alert
    await client.close()
    await there.until()


async def test_a_record_that_was_altered_cuts_the_connection(there: Served) -> None:
    """Not a byte of it reaches the application."""
    client = await there.connect()
    await client.ask("/")
    record = bytearray(secure(client).encrypted(post("/altered")))
    record[-1] ^= 1
    secure(client).wire.write(bytes(record))
    assert await client.is_over()
    await there.until()
    assert there.app.begun == ["/"]


async def test_a_record_that_was_altered_ends_no_work(there: Served) -> None:
    """What is being done is done, as for any client that is gone."""
    client = await there.connect()
    client.send(post("/gone"))
    await there.until(State.BUSY)
    secure(client).wire.write(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    await happens(lambda: "http.disconnect" in there.app.messages)
    assert there.app.ended == []
    there.app.gate.set()
    await there.until()


# -- records ---------------------------------------------------------------------------------------


async def test_many_records_that_come_at_once_are_all_read(there: Served) -> None:
    """However many there are in a segment: none waits for the next one to come."""
    client = await there.connect()
    requests = b"".join(secure(client).encrypted(post(f"/{n}")) for n in range(50))
    secure(client).wire.write(requests)
    assert [(await client.receive()).json["path"] for _ in range(50)] == [
        f"/{n}" for n in range(50)
    ]


async def test_a_record_that_dribbles_in_has_the_time_of_a_head(there: Served) -> None:
    """A piece of a record begins a head as a piece of a head does; it is no idle connection."""
    client = await there.connect()
    await client.ask("/")
    await there.until(State.IDLE)
    record = secure(client).encrypted(post("/"))
    secure(client).wire.write(record[:-1])
    await there.until(State.HEAD)
    there.later(4.9)
    secure(client).wire.write(record[-1:])
    assert (await client.receive()).status == 200
    secure(client).wire.write(record[:9])
    await there.until(State.HEAD)
    there.later(5.1)
    assert await client.is_over()


# -- ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [post("/", b"", "Connection: close"), b"GARBAGE\r\n\r\n"])
async def test_the_end_is_said(there: Served, sent: bytes) -> None:
    """The client can tell the end from a connection that somebody cut (RFC 8446, 6.1)."""
    client = await there.connect()
    client.send(sent)
    await client.receive()
    assert await client.is_over()
    assert secure(client).said_goodbye


async def test_an_idle_connection_is_closed_with_a_word(there: Served) -> None:
    """So it is when it has been idle for too long."""
    client = await there.connect()
    await client.ask("/")
    await there.until(State.IDLE)
    there.later(76)
    assert await client.is_over()
    assert secure(client).said_goodbye


async def test_an_end_without_a_word_breaks_off_what_is_not_whole(there: Served) -> None:
    """A body that somebody cut is not taken for a whole one; what was whole is answered."""
    client = await there.connect()
    client.send(post("/whole") + post("/half", b"hello")[:-1])
    assert (await client.receive()).json["path"] == "/whole"
    await there.until(State.BUSY)
    secure(client).wire.write_eof()
    assert (await client.receive()).status == 400
    assert await client.is_over()


async def test_what_comes_after_the_end_is_dropped_unread(there: Served) -> None:
    """A client that sends on after it was refused reads the refusal all the same."""
    client = await there.connect()
    client.send(b"GARBAGE\r\n\r\n")
    await there.until(State.CLOSING)
    client.send(b"x" * 5_000_000)
    assert (await client.receive()).status == 400
    assert await client.is_over()
    assert secure(client).said_goodbye


async def ended(there: Served) -> tuple[Client, Connection]:
    """Return a client that waits for an answer and has ended its side."""
    client = await there.connect()
    client.send(post("/wait"))
    await there.until(State.BUSY)
    (connection,) = there.listener.connections
    client.end()
    return client, connection


async def test_what_a_client_sends_after_its_own_end_is_kept_nowhere(there: Served) -> None:
    """Nobody fills a worker by bytes that are no TLS any more; who has asked gets the answer."""
    client, connection = await ended(there)
    secure(client).wire.write(b"x" * 5_000_000)
    await happens(lambda: connection._dropped >= 5_000_000)
    wire = connection._transport
    assert isinstance(wire, TlsWire)
    assert wire._incoming.pending == 0
    there.app.gate.set()
    assert (await client.receive()).json["path"] == "/wait"
    assert await client.is_over()


async def test_a_client_that_sends_on_without_end_is_cut(
    there: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is dropped is bounded, too: reading it takes time."""
    monkeypatch.setattr(connections, "_DROPPED", 100_000)
    client, _ = await ended(there)
    secure(client).wire.write(b"x" * 5_000_000)
    assert await client.is_over()
    there.app.gate.set()
    await there.until()


async def test_the_last_look_goes_below_tls(there: Served) -> None:
    """A connection with a record that nobody has read is not idle."""
    client = await there.connect()
    await client.ask("/")
    await there.until(State.IDLE)
    record = secure(client).encrypted(post("/just"))
    os.write(client.writer.get_extra_info("socket").fileno(), record)
    there.later(76)
    assert (await client.receive()).json["path"] == "/just"


# -- what the application is told ------------------------------------------------------------------


async def test_the_application_knows_that_it_is_https(there: Served) -> None:
    """The scope says so, and how, as ASGI's TLS extension does."""
    client = await there.connect()
    await client.ask("/")
    scope = there.app.scopes[-1]
    assert scope["scheme"] == "https"
    about = scope["extensions"]["tls"]
    assert about["client_cert_chain"] == []
    assert about["tls_version"] == 0x0304


async def test_a_client_of_tls_1_2_is_served(there: Served, tls_pair: TlsPair) -> None:
    """Callers of some age speak no 1.3."""
    tls_pair.client.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        client = await there.connect()
    finally:
        tls_pair.client.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
    assert (await client.ask("/", b"x" * 100_000, "Connection: close")).status == 200
    assert there.app.scopes[-1]["extensions"]["tls"]["tls_version"] == 0x0303
    assert await client.is_over()
