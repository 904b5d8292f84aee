"""What the border to redis-py promises: how connections are made, what is said when they aren't."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)

from flowcache.secret import Secret
from flowcache.store.cancelling import cancel
from flowcache.store.connection import ConnectFault, ask, close, connect, take_over
from flowcache.store.link import LinkState
from flowcache.store.settings import Address, StoreSettings, Tls
from tests.servers import RedisProcess, TlsServer, standalone, tls_acl
from tests.servers.ports import LOOPBACK, PortClaim
from tests.store.harness import in_time, link_to, soon
from tests.store.resp import words
from tests.store.scripted import Scripted

pytestmark = pytest.mark.both_loops

WRONG = "a wrong one"


@pytest.fixture(scope="module")
def strict_tls_server() -> Iterator[TlsServer]:
    """A server that wants to see a client's certificate."""
    with tls_acl(verify_clients=True) as server:
        yield server


def tls_of(server: TlsServer, *, cert: bool = False, ca: Path | None = None) -> Tls:
    pair = server.certificates.client
    return Tls(
        ca_file=str(ca or server.certificates.authority.certificate),
        cert_file=str(pair.certificate) if cert else None,
        key_file=str(pair.key) if cert else None,
    )


async def fault_of(address: tuple[str, int], **changes: Any) -> str:
    """Return what a link that can't connect says of it."""
    async with link_to(address, **changes) as link:
        assert link.state is LinkState.RECONNECTING
        fault = link.status().fault
        assert fault
        return fault


class TestTls:
    async def test_user_and_password(self, tls_server: TlsServer) -> None:
        """Over TLS, with the rights that the documentation asks for, a link writes and reads."""
        async with link_to(
            tls_server.process.address,
            tls=tls_of(tls_server),
            username=tls_server.username,
            password=Secret(tls_server.password),
        ) as link:
            assert await link.send(words("SET", "k", "v" * 100_000, "EX", "60"), in_time()) == b"OK"
            replies = await asyncio.gather(
                *(link.send(words("GET", "k"), in_time()) for _ in range(10))
            )
            assert replies == [b"v" * 100_000] * 10

    async def test_wrong_password(self, tls_server: TlsServer) -> None:
        """A wrong password is told as that, and isn't shown, neither it nor the right one."""
        fault = await fault_of(
            tls_server.process.address,
            tls=tls_of(tls_server),
            username=tls_server.username,
            password=Secret(WRONG),
        )
        assert "Redis refused the user or the password" in fault
        assert WRONG not in fault
        assert tls_server.password not in fault

    async def test_no_password(self, tls_server: TlsServer) -> None:
        """A server that lets nobody in without a password is told from one that is down."""
        fault = await fault_of(tls_server.process.address, tls=tls_of(tls_server))
        assert fault == "Redis wants a password"

    async def test_unknown_authority(self, tls_server: TlsServer) -> None:
        """A server whose certificate isn't trusted gets no password; the fault says TLS."""
        fault = await fault_of(
            tls_server.process.address,
            tls=tls_of(tls_server, ca=tls_server.certificates.other_authority.certificate),
            username=tls_server.username,
            password=Secret(tls_server.password),
        )
        assert fault.startswith("TLS failed")

    async def test_plain_server(self, standalone_server: RedisProcess) -> None:
        """TLS to a server that speaks none fails in time, and the fault says so."""
        fault = await fault_of(standalone_server.address, tls=Tls(), connect_timeout=0.2)
        assert fault.startswith(("TLS failed", "no connection", "no answer in time"))

    async def test_no_tls_to_a_tls_server(self, tls_server: TlsServer) -> None:
        """The other way round, too."""
        fault = await fault_of(tls_server.process.address)
        assert fault.startswith("no ")

    async def test_missing_file(self, tls_server: TlsServer) -> None:
        """A certificate file that isn't there is a fault of the settings, no crash."""
        tls = Tls(ca_file="/nonexistent/ca.pem")
        fault = await fault_of(tls_server.process.address, tls=tls)
        assert "a bug in flowcache" not in fault

    async def test_client_certificate(self, strict_tls_server: TlsServer) -> None:
        """Where the server wants a certificate of its clients, ours is shown."""
        async with link_to(
            strict_tls_server.process.address,
            tls=tls_of(strict_tls_server, cert=True),
            username=strict_tls_server.username,
            password=Secret(strict_tls_server.password),
        ) as link:
            assert await link.send(words("PING"), in_time()) == b"PONG"

    async def test_missing_client_certificate(self, strict_tls_server: TlsServer) -> None:
        """Without one nobody gets in. (Whether the server's alert outruns its reset is chance.)"""
        fault = await fault_of(
            strict_tls_server.process.address,
            tls=tls_of(strict_tls_server),
            username=strict_tls_server.username,
            password=Secret(strict_tls_server.password),
        )
        assert fault.startswith(("TLS failed", "no connection"))


class TestSecrets:
    @pytest.mark.parametrize("password", ["hunter2-and-more", "h" * 300, 'with "quotes" and \\'])
    async def test_server_that_repeats_the_password(self, password: str) -> None:
        """A server without HELLO repeats its arguments, the password among them; we don't."""
        with standalone(config=['rename-command HELLO ""']) as server:
            fault = await fault_of(server.address, username="me", password=Secret(password))
        assert fault.startswith("Redis refused the handshake")
        for part in (password, password[:20], password[-5:]):
            assert part not in fault


class TestAsk:
    async def test_reply_and_refusal(self, standalone_server: RedisProcess) -> None:
        """A command gives its reply; a refused one a fault with the server's words."""
        connection = await connect(Address(*standalone_server.address), StoreSettings())
        try:
            assert await ask(connection, "ECHO", b"text") == b"text"
            with pytest.raises(ConnectFault, match="unknown command"):
                await ask(connection, "NONSENSE")
        finally:
            await close(connection)

    async def test_nobody_there(self) -> None:
        """A refused connection is a fault, not an exception of redis-py's."""
        with PortClaim() as nobody, pytest.raises(ConnectFault, match="no connection"):
            await connect(Address(LOOPBACK, nobody.port), StoreSettings())

    @pytest.mark.parametrize("host", ["host.invalid", "x" * 300, "a..b", "\N{SNOWMAN}" * 70])
    async def test_no_such_host(self, host: str) -> None:
        """A name that resolves to nothing is a fault, however malformed."""
        with pytest.raises(ConnectFault):
            await connect(Address(host, 6379), StoreSettings())

    async def test_no_such_socket(self, tmp_path: Path) -> None:
        """So is the path of a Unix socket that isn't there."""
        with pytest.raises(ConnectFault, match="no connection"):
            await connect(Address(str(tmp_path / "none.sock"), 0), StoreSettings())

    async def test_connect_timeout(self) -> None:
        """A server that never greets is given up after connect_timeout."""
        async with Scripted() as server:
            server.handshake[b"HELLO"] = b""
            with pytest.raises(ConnectFault, match="no answer in time"):
                await connect(server.address, StoreSettings(connect_timeout=0.05))

    async def test_cancelled(self) -> None:
        """Who cancels a connect leaves no connection behind."""
        async with Scripted() as server:
            server.handshake[b"HELLO"] = b""
            connecting = asyncio.ensure_future(
                connect(server.address, StoreSettings(connect_timeout=600))
            )
            await soon(lambda: server.peers)
            await cancel(connecting)
            assert connecting.cancelled()


class TestPrivateNames:
    """Of redis-py's private names flowcache uses `_writer` and `_reader`, in one function.

    An upgrade that renames them fails here first.
    """

    @pytest.mark.parametrize("kind", [Connection, SSLConnection, UnixDomainSocketConnection])
    async def test_before_there_is_a_connection(self, kind: type[AbstractConnection]) -> None:
        """A connection that isn't connected has them, as None."""
        assert kind()._writer is None
        assert kind()._reader is None

    async def test_they_lead_to_the_transport(self, standalone_server: RedisProcess) -> None:
        """They are asyncio's streams; the transport below can be given another protocol."""
        connection = await connect(Address(*standalone_server.address), StoreSettings())
        try:
            writer = connection._writer
            assert isinstance(writer, asyncio.StreamWriter)
            assert isinstance(connection._reader, asyncio.StreamReader)
            assert callable(writer.transport.set_protocol)
            assert writer.transport.get_write_buffer_size() == 0
        finally:
            await close(connection)
        assert connection._writer is None
        assert connection._reader is None


class Listening(asyncio.Protocol):
    """Note what happens to a connection that was taken over."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, fault: Exception | None) -> None:
        self.ended = True


class TestTakeOver:
    async def use(self, connection: AbstractConnection) -> None:
        """Take a connection over, and see that it is ours alone until we end it."""
        protocol = Listening()
        stream = take_over(connection, protocol)
        assert protocol.transport.get_extra_info("peername") is not None
        # redis-py has nothing left to close, and nothing to warn of.
        assert not connection.is_connected
        await close(connection)
        del connection
        gc.collect()
        protocol.transport.write(words("PING"))
        await soon(lambda: protocol.heard == b"+PONG\r\n")
        protocol.transport.abort()
        await soon(lambda: protocol.ended)
        del stream

    async def test_plain(self, standalone_server: RedisProcess) -> None:
        """A protocol of ours is called from then on, and no other."""
        await self.use(await connect(Address(*standalone_server.address), StoreSettings()))

    async def test_tls(self, tls_server: TlsServer) -> None:
        """So it is under TLS: what it is handed is clear text."""
        settings = StoreSettings(
            tls=tls_of(tls_server),
            username=tls_server.username,
            password=Secret(tls_server.password),
        )
        await self.use(await connect(Address(*tls_server.process.address), settings))

    async def test_lost_meanwhile(self, standalone_server: RedisProcess) -> None:
        """A connection that was lost meanwhile is a fault."""
        connection = await connect(Address(*standalone_server.address), StoreSettings())
        await close(connection)
        with pytest.raises(ConnectFault, match="lost during the handshake"):
            take_over(connection, asyncio.Protocol())
