"""What a link promises, against a real server."""

from __future__ import annotations

import asyncio
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from flowcache.store import connection as connection_module
from flowcache.store import link as link_module
from flowcache.store.deadlines import Listener
from flowcache.store.embedded import EmbeddedServer
from flowcache.store.link import Link, LinkState
from flowcache.store.replies import EXPIRED, FULL, LOST, NOT_SENT, OVERSIZED, ErrorReply
from flowcache.store.settings import Address
from tests.servers import RedisProcess, standalone
from tests.servers.ports import LOOPBACK, PortClaim
from tests.store.harness import in_time, link_to, soon
from tests.store.resp import words

pytestmark = pytest.mark.both_loops

PONG = b"PONG"


def echo(text: bytes) -> bytes:
    return words("ECHO", text)


class Raising(Listener):
    """A listener with a bug."""

    bug: Exception | None = None

    def hear(self, result: object) -> None:
        raise RuntimeError("kept quiet")

    def fail(self, bug: Exception) -> None:
        self.bug = bug


class CountingTransport:
    """A transport that counts how often it is written to."""

    def __init__(self, transport: Any) -> None:
        self.writes: list[bytes] = []
        self._transport = transport

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@pytest.fixture
def transports(monkeypatch: pytest.MonkeyPatch) -> list[CountingTransport]:
    """The transports that links have taken over during the test."""
    taken: list[CountingTransport] = []

    class Between(asyncio.Protocol):
        """Stands for the link's own protocol until that has got the transport that counts."""

        def __init__(self, protocol: asyncio.Protocol) -> None:
            self.protocol = protocol

        def connection_made(self, transport: Any) -> None:
            taken.append(CountingTransport(transport))
            transport.set_protocol(self.protocol)
            self.protocol.connection_made(taken[-1])  # type: ignore[arg-type]

    def take_over(connection: Any, protocol: asyncio.Protocol) -> object:
        return connection_module.take_over(connection, Between(protocol))

    monkeypatch.setattr(link_module, "take_over", take_over)
    return taken


def has_connected(link: Link, times: int) -> bool:
    return link.status().connects >= times


async def kill_connections(server: RedisProcess) -> None:
    """Have the server end every connection but the one that asks for it."""
    await asyncio.to_thread(server.cli, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


class TestSharing:
    async def test_each_caller_gets_its_own_reply(self, standalone_server: RedisProcess) -> None:
        """A thousand callers at once share one connection, and each gets what it asked for."""
        async with link_to(standalone_server.address) as link:

            async def ask(number: int) -> bool:
                text = b"text %d" % number
                return bool(await link.send(echo(text), in_time()) == text)

            assert all(await asyncio.gather(*map(ask, range(1000))))
            clients = await asyncio.to_thread(standalone_server.cli, "CLIENT", "LIST")
            # Nobody else speaks RESP3 to it.
            assert clients.count("resp=3") == 1
            assert link.status().connects == 1

    async def test_a_turn_of_the_loop_is_one_write(
        self, standalone_server: RedisProcess, transports: list[CountingTransport]
    ) -> None:
        """Commands sent in one turn of the loop leave together, those of the next in another."""
        async with link_to(standalone_server.address) as link:
            for turn in range(3):
                texts = [b"%d/%d" % (turn, number) for number in range(50)]
                replies = [link.send(echo(text), in_time()) for text in texts]
                assert len(transports[0].writes) == turn
                assert await asyncio.gather(*replies) == texts
                assert transports[0].writes[turn:] == [b"".join(map(echo, texts))]

    async def test_commands_side_by_side(self, standalone_server: RedisProcess) -> None:
        """Of two commands that go side by side the last one's reply is the caller's."""
        async with link_to(standalone_server.address) as link:
            together = link.send(echo(b"heard"), in_time(), after=echo(b"unheard"))
            later = link.send(echo(b"later"), in_time())
            assert [await together, await later] == [b"heard", b"later"]

    async def test_error_is_a_value(self, standalone_server: RedisProcess) -> None:
        """An error reply is handed over as any other reply is, and those around it are unhurt."""
        async with link_to(standalone_server.address) as link:
            replies = await asyncio.gather(
                link.send(words("PING"), in_time()),
                link.send(words("NONSENSE"), in_time()),
                link.send(words("PING"), in_time()),
            )
            assert replies[0] == replies[2] == PONG
            assert isinstance(replies[1], ErrorReply)
            assert replies[1].code == "ERR"

    async def test_pushed_messages_are_nobodys_reply(self, standalone_server: RedisProcess) -> None:
        """A message that the server pushes between replies shifts nothing."""
        async with link_to(standalone_server.address) as link:
            assert await link.send(words("CLIENT", "TRACKING", "ON"), in_time()) == b"OK"
            for value in (b"1", b"2"):
                # Whoever has read a tracked key is told when it changes.
                await asyncio.to_thread(standalone_server.cli, "SET", "tracked", value)
                assert await link.send(words("GET", "tracked"), in_time()) == value
            assert await link.send(echo(b"mine"), in_time()) == b"mine"
            assert link.status().losses == 0

    async def test_a_listener_that_raises_keeps_no_reply_from_others(
        self, standalone_server: RedisProcess
    ) -> None:
        """Of the replies of one read each reaches its listener; a bug in one is logged."""
        async with link_to(standalone_server.address) as link:
            with capture_logs() as logs:
                before = link.send(echo(b"before"), in_time())
                raising = Raising()
                link.submit(raising, echo(b"bug"), in_time())
                after = link.send(echo(b"after"), in_time())
                assert [await before, await after] == [b"before", b"after"]
            assert [each["event"] for each in logs] == ["a bug"]
            assert isinstance(raising.bug, RuntimeError)
            assert link.connects == 1

    async def test_an_answered_call_is_forgotten(self, standalone_server: RedisProcess) -> None:
        """A reply is not kept until its deadline: memory follows the calls, not the patience."""
        async with link_to(standalone_server.address) as link:
            reply = asyncio.ensure_future(link.send(echo(b"once"), in_time(600)))
            assert await reply == b"once"
            kept = weakref.ref(reply)
            del reply
            await soon(lambda: kept() is None)


class TestPatience:
    async def test_a_deadline_is_kept(self, fresh_standalone: RedisProcess) -> None:
        """A call on a server that stalls is answered when its deadline has passed, not before."""
        async with link_to(fresh_standalone.address) as link:
            fresh_standalone.pause()
            deadline = in_time(0.05)
            assert await link.send(words("PING"), deadline) is EXPIRED
            assert in_time(0) >= deadline
            fresh_standalone.resume()

    async def test_late_replies_are_dropped(self, fresh_standalone: RedisProcess) -> None:
        """A reply whose caller gave up or was cancelled goes to nobody."""
        async with link_to(fresh_standalone.address) as link:
            fresh_standalone.pause()
            expired = link.send(echo(b"expired"), in_time(0.02))
            cancelled = asyncio.ensure_future(link.send(echo(b"cancelled"), in_time()))
            patient = link.send(echo(b"patient"), in_time())
            assert await expired is EXPIRED
            cancelled.cancel()
            late = link.send(echo(b"late"), in_time())
            fresh_standalone.resume()
            assert [await patient, await late] == [b"patient", b"late"]
            assert cancelled.cancelled()
            assert link.status().pending == 0

    async def test_a_stalled_connection_is_reset(self, fresh_standalone: RedisProcess) -> None:
        """When the oldest reply is overdue the connection is given up, and the reason is told."""
        async with link_to(fresh_standalone.address, reply_timeout=0.1) as link:
            fresh_standalone.pause()
            reply = asyncio.ensure_future(link.send(words("PING"), in_time()))
            link.reset_if_overdue(in_time(0))
            assert link.state is LinkState.READY, "it was not overdue yet"

            def is_reset() -> bool:
                link.reset_if_overdue(in_time(0))
                return link.state is LinkState.RECONNECTING

            await soon(is_reset)
            assert await reply is LOST
            assert link.status().fault == "no reply for 0.1 s"
            fresh_standalone.resume()
            await soon(lambda: link.state is LinkState.READY)
            assert await link.send(words("PING"), in_time()) == PONG

    async def test_an_idle_connection_is_not_overdue(self, standalone_server: RedisProcess) -> None:
        """A link that nobody uses is left alone, however long."""
        async with link_to(standalone_server.address, reply_timeout=0.1) as link:
            assert await link.send(words("PING"), in_time()) == PONG
            link.reset_if_overdue(in_time(3600))
            assert link.state is LinkState.READY


class TestLoss:
    async def test_loss_tells_sent_from_unsent(self, fresh_standalone: RedisProcess) -> None:
        """Whose command was written when the connection broke has no known fate; others do."""
        now = 0.0
        async with link_to(fresh_standalone.address, clock=lambda: now) as link:
            fresh_standalone.pause()
            sent = [link.send(words("INCR", "sent"), 60.0) for _ in range(2)]
            await asyncio.sleep(0)  # the turn ends, and they leave
            await asyncio.sleep(0)
            now = 10.0
            unsent = [
                link.send(words("INCR", "unsent"), 60.0),
                link.send(words("INCR", "unsent"), 60.0, after=words("INCR", "unsent")),
            ]
            link.reset_if_overdue(now)
            assert await asyncio.gather(*sent) == [LOST, LOST]
            assert await asyncio.gather(*unsent) == [NOT_SENT, NOT_SENT]
        fresh_standalone.resume()
        assert await asyncio.to_thread(fresh_standalone.cli, "EXISTS", "unsent") == 0

    async def test_it_comes_back_by_itself(self, fresh_standalone: RedisProcess) -> None:
        """A link whose connection is killed makes another, and no one need ask for it."""
        changes: list[LinkState] = []
        async with link_to(
            fresh_standalone.address, on_change=lambda link: changes.append(link.state)
        ) as link:
            await kill_connections(fresh_standalone)
            await soon(lambda: link.status().connects == 2)
            assert await link.send(words("PING"), in_time()) == PONG
            assert changes == [LinkState.READY, LinkState.RECONNECTING, LinkState.READY]
            assert link.status().losses == 1
            assert link.status().fault is None

    async def test_it_survives_a_restart(
        self, fresh_standalone: RedisProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While the server is away the link tries on, waiting longer each time, and then works."""
        attempts: list[int] = []

        def delay(attempt: int, chance: float) -> float:
            assert 0 <= chance < 1
            attempts.append(attempt)
            return 0.001

        monkeypatch.setattr(link_module, "reconnect_delay", delay)
        async with link_to(fresh_standalone.address) as link:
            fresh_standalone.kill()
            await soon(lambda: len(attempts) >= 5)
            assert link.state is LinkState.RECONNECTING
            assert "no connection" in str(link.status().fault)
            await asyncio.to_thread(fresh_standalone.restart)
            await soon(lambda: link.state is LinkState.READY)
            assert attempts == list(range(1, len(attempts) + 1))
            assert await link.send(words("PING"), in_time()) == PONG
            attempts.clear()
            await kill_connections(fresh_standalone)
            await soon(lambda: link.status().connects == 3)
            assert attempts[0] == 1, "a link that was up starts over"

    async def test_nothing_is_queued_while_disconnected(self) -> None:
        """Where nobody listens a call fails in the same breath: it isn't kept for better times."""
        with PortClaim() as nobody:
            async with link_to((LOOPBACK, nobody.port)) as link:
                assert link.state is LinkState.RECONNECTING
                reply = asyncio.ensure_future(link.send(words("PING"), in_time()))
                assert reply.done()
                assert reply.result() is NOT_SENT

    async def test_nothing_is_queued_before_the_first_connection(
        self, standalone_server: RedisProcess
    ) -> None:
        """A link that is still connecting takes nothing."""
        async with link_to(standalone_server.address, settled=False) as link:
            assert link.state is LinkState.CONNECTING
            assert await link.send(words("PING"), in_time()) is NOT_SENT
            await link.settled()
            assert await link.send(words("PING"), in_time()) == PONG


class TestBounds:
    async def test_only_so_many_may_wait(self, fresh_standalone: RedisProcess) -> None:
        """Past max_pending a call fails at once; when replies come there is room again."""
        async with link_to(fresh_standalone.address, max_pending=3) as link:
            fresh_standalone.pause()
            waiting = [link.send(echo(b"%d" % number), in_time()) for number in range(3)]
            assert await link.send(words("PING"), in_time()) is FULL
            assert link.status().pending == 3
            fresh_standalone.resume()
            assert await asyncio.gather(*waiting) == [b"0", b"1", b"2"]
            assert await link.send(words("PING"), in_time()) == PONG

    async def test_a_caller_that_gave_up_still_takes_room(
        self, fresh_standalone: RedisProcess
    ) -> None:
        """Its reply is still to come, so a stalled server can't be sent more and more."""
        async with link_to(fresh_standalone.address, max_pending=1) as link:
            fresh_standalone.pause()
            assert await link.send(words("PING"), in_time(0.01)) is EXPIRED
            assert await link.send(words("PING"), in_time()) is FULL
            fresh_standalone.resume()

    async def test_a_reply_too_large_resets(self, standalone_server: RedisProcess) -> None:
        """A reply over max_reply costs the connection, one below it is handed over."""
        fits, bursts = b"x" * 200_000, b"x" * 2_000_000
        async with link_to(standalone_server.address, max_reply=1_000_000) as link:
            for key, value in ((b"fits", fits), (b"bursts", bursts)):
                assert await link.send(words("SET", key, value, "EX", "60"), in_time()) == b"OK"
            assert await link.send(words("GET", "fits"), in_time()) == fits
            large, behind = (link.send(words("GET", k), in_time()) for k in ("bursts", "fits"))
            assert await large is OVERSIZED
            assert await behind is LOST
            assert link.status().fault == "a reply is larger than 1000000 bytes"
            await soon(lambda: link.state is LinkState.READY)
            assert await link.send(words("GET", "fits"), in_time()) == fits

    async def test_many_replies_are_not_one_large(self, standalone_server: RedisProcess) -> None:
        """The bound is on one reply: any number of small ones may come in a stream."""
        text = b"x" * 1000
        async with link_to(standalone_server.address, max_reply=10_000) as link:
            replies = (link.send(echo(text), in_time()) for _ in range(1000))
            assert set(await asyncio.gather(*replies)) == {text}
            assert link.status().losses == 0

    async def test_a_server_that_does_not_read(self, fresh_standalone: RedisProcess) -> None:
        """When the kernel takes no more, the link takes no more, and goes on when it does."""
        value = b"x" * 1_000_000
        async with link_to(fresh_standalone.address) as link:
            fresh_standalone.pause()
            written = []

            async def is_refused() -> bool:
                reply = asyncio.ensure_future(link.send(words("SET", "k", value), in_time()))
                written.append(reply)
                await asyncio.sleep(0)
                return reply.done()

            while not await is_refused():
                assert len(written) < 100, "there is no bound"
            assert await written.pop() is FULL
            fresh_standalone.resume()
            assert set(await asyncio.gather(*written)) == {b"OK"}
            assert await link.send(words("PING"), in_time()) == PONG


class TestClosing:
    async def test_closing_tells_everybody(self, fresh_standalone: RedisProcess) -> None:
        """Whoever waits when a link is closed is told, and so is whoever comes after."""
        async with link_to(fresh_standalone.address) as link:
            fresh_standalone.pause()
            waiting = [link.send(words("PING"), in_time()) for _ in range(10)]
            await asyncio.sleep(0)
            await link.close()
            assert await asyncio.gather(*waiting) == [LOST] * 10
            assert await link.send(words("PING"), in_time()) is NOT_SENT
            assert link.state is LinkState.CLOSED

    async def test_closing_twice_does_no_harm(self, standalone_server: RedisProcess) -> None:
        """A second close is as quiet as the first."""
        async with link_to(standalone_server.address) as link:
            await link.close()
            await link.close()

    async def test_a_closed_link_stays_closed(self, fresh_standalone: RedisProcess) -> None:
        """No task of a closed link is left that would bring it back."""
        async with link_to(fresh_standalone.address) as link:
            await kill_connections(fresh_standalone)
            await link.close()
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert not any(name.startswith("link") for name in names)
        assert link.status().state == "end"


class TestPlaces:
    async def test_unix_socket(self, tmp_path: Path) -> None:
        """A link reaches the embedded server, which has a Unix socket and no port."""
        server = EmbeddedServer(tmp_path)
        server.start()
        try:
            async with link_to(Address(str(server.socket), 0)) as link:
                assert await link.send(words("PING"), in_time()) == PONG
                assert link.status().address == str(server.socket)
        finally:
            server.stop()

    async def test_database(self, standalone_server: RedisProcess) -> None:
        """What is written lands in the database of the settings, after a reconnect too."""
        async with link_to(standalone_server.address, database=3) as link:
            for number, key in enumerate(("first", "second"), 1):
                assert await link.send(words("SET", key, "1", "EX", "60"), in_time()) == b"OK"
                await kill_connections(standalone_server)
                await soon(partial(has_connected, link, number + 1))
            keyspace = await asyncio.to_thread(standalone_server.cli, "INFO", "keyspace")
            assert keyspace["db3"]["keys"] == 2

    async def test_database_that_does_not_exist(self, standalone_server: RedisProcess) -> None:
        """A database that the server doesn't have is named as the fault."""
        async with link_to(standalone_server.address, database=1000) as link:
            assert link.state is LinkState.RECONNECTING
            assert "DB index is out of range" in str(link.status().fault)

    async def test_too_many_clients(self) -> None:
        """A server that takes no more clients says so, and the fault repeats it."""
        with standalone(config=["maxclients 1"]) as server:
            async with link_to(server.address) as first, link_to(server.address) as second:
                assert await first.send(words("PING"), in_time()) == PONG
                assert "max number of clients reached" in str(second.status().fault)
