"""What a link makes of servers that behave as none should."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from flowcache.secret import Secret
from flowcache.store.link import LinkState
from flowcache.store.replies import EXPIRED, LOST, OVERSIZED, ErrorReply, LostReply, SlowReply
from tests.store.harness import in_time, link_to, soon
from tests.store.resp import array, bulk, error, integer, push, words
from tests.store.scripted import Peer, Request, Scripted

pytestmark = pytest.mark.both_loops

PING = words("PING")
INVALIDATION = push(bulk("invalidate"), array(bulk("key")))


def is_length(items: list[Any], length: int) -> bool:
    return len(items) == length


def answer_with_name(peer: Peer, request: Request) -> None:
    """Answer each request with its last word."""
    peer.say(bulk(request[-1]))


async def test_late_reply_after_another_expired() -> None:
    """Replies to calls that gave up are counted off one by one, in whatever pieces they come."""
    async with Scripted() as server, link_to(server.address) as link:
        given_up = [link.send(words("GET", name), in_time(0.01)) for name in ("a", "b")]
        waiting = link.send(words("GET", "c"), in_time())
        assert await asyncio.gather(*given_up) == [EXPIRED, EXPIRED]
        await server.asked(3)
        stream = bulk("a") + bulk("b") + bulk("c")
        for at in range(len(stream)):
            server.talking.say(stream[at : at + 1])
            await asyncio.sleep(0)
        assert await waiting == b"c"
        assert link.status().pending == 0


async def test_promotion() -> None:
    """A link to a replica that became a primary goes on, and no longer asks for stale reads."""

    def sent() -> list[bytes]:
        return [b" ".join(request) for request in server.talking.requests]

    async with (
        Scripted(answer_with_name) as server,
        link_to(server.address, readonly=True) as link,
    ):
        before = link.send(words("GET", "a"), in_time())
        link.promote()
        after = link.send(words("GET", "b"), in_time())
        link.promote()
        assert await before == b"a"
        assert await after == b"b"
        assert sent()[-3:] == [b"GET a", b"READWRITE", b"GET b"]
        server.talking.hang_up()
        await soon(lambda: link.status().connects == 2)
        assert await link.send(words("GET", "c"), in_time()) == b"c"
        assert sent() == [b"GET c"], "nor does it on its next connection"


async def test_told_that_it_is_slow() -> None:
    """A reply that is not there in time is told of once, and is still the reply when it comes."""
    async with Scripted() as server, link_to(server.address) as link:
        told = await link.send(words("GET", "a"), in_time(), slow_at=in_time(0.01))
        assert isinstance(told, SlowReply)
        assert not told.rest.done()
        await server.asked()
        server.talking.say(bulk("a"))
        assert await told.rest == b"a"
        expired = await link.send(words("GET", "b"), in_time(0.05), slow_at=in_time(0.01))
        assert isinstance(expired, SlowReply)
        assert await expired.rest is EXPIRED
        lost = await link.send(words("GET", "c"), in_time(), slow_at=in_time(0.01))
        assert isinstance(lost, SlowReply)
        server.talking.hang_up()
        assert await lost.rest is LOST


async def test_fast_replies_are_never_slow() -> None:
    """A reply that came before the moment leaves nothing to be told."""
    async with Scripted(answer_with_name) as server, link_to(server.address) as link:
        replies = [
            await link.send(words("GET", str(n)), in_time(), slow_at=in_time(0.001 * n))
            for n in range(20, 30)
        ]
        assert [reply for reply in replies if isinstance(reply, SlowReply)] == []
        late = await link.send(words("GET", "x"), in_time(), slow_at=in_time(-1))
        reply = await late.rest if isinstance(late, SlowReply) else late
        assert reply == b"x"


async def test_stuck() -> None:
    """A link is no good source when its oldest reply is late, however busy it is, or it is down."""
    now = 1000.0
    async with Scripted() as server, link_to(server.address, clock=lambda: now) as link:
        now += 60.0
        assert not link.is_stuck(now), "nobody waits"
        calls = [link.send(words("GET", "a"), now + 600.0)]
        now += 0.2
        calls.append(link.send(words("GET", "b"), now + 600.0))
        assert not link.is_stuck(now)
        now += 0.1
        assert link.is_stuck(now), "the first is late, though the second is not"
        await server.asked(2)
        server.talking.say(bulk("a"))
        assert await calls[0] == b"a"
        assert not link.is_stuck(now)
        del server.handshake[b"HELLO"]  # nobody is greeted any more
        server.talking.hang_up()
        assert await calls[1] is LOST
        assert link.is_stuck(now)


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",  # a TLS alert
        b"$-7\r\n",
        b"*" * 64 + b"\r\n",
        array(*[array()] * 2)[:-4] + b"\x00\r\n",
        b":12a\r\n",
    ],
)
async def test_garbage_resets(garbage: bytes) -> None:
    """What is no RESP costs the connection: nobody gets a reply made of it, or waits for one."""
    async with Scripted() as server, link_to(server.address) as link:
        replies = [link.send(PING, in_time()) for _ in range(3)]
        await server.asked(3)
        server.talking.say(bulk("good"), garbage)
        assert await asyncio.gather(*replies) == [b"good", LOST, LOST]
        assert "does not speak RESP" in str(link.status().fault)
        server.script = answer_with_name
        await soon(lambda: link.state is LinkState.READY)
        assert await link.send(PING, in_time()) == b"PING"


async def test_reply_that_nobody_asked_for_resets() -> None:
    """One reply too many means that the order can't be trusted any more."""
    async with Scripted() as server, link_to(server.address) as link:
        reply = link.send(PING, in_time())
        await server.asked()
        server.talking.say(bulk("asked for"), bulk("not asked for"))
        assert await reply == b"asked for"
        await soon(lambda: link.state is not LinkState.READY)
        assert link.status().fault == "the server sent a reply that nobody asked for"
        server.script = answer_with_name
        await soon(lambda: link.state is LinkState.READY)
        assert await link.send(PING, in_time()) == b"PING"


@pytest.mark.parametrize("start", [b"$1000000000\r\n", b"*1000000\r\n", b"*33000\r\n"])
async def test_reply_without_end_resets(start: bytes) -> None:
    """A reply that is announced as too large, or goes on and on, is cut at max_reply, and those
    behind it are told."""
    async with Scripted() as server, link_to(server.address, max_reply=100_000) as link:
        replies = [link.send(PING, in_time()) for _ in range(2)]
        await server.asked(2)
        peer = server.talking
        peer.say(start)
        said = 0
        while peer.is_open:
            peer.say(integer(1) * 250)
            said += 1000
            assert said < 100_000_000, "there is no bound"
            await asyncio.sleep(0)
        assert await asyncio.gather(*replies) == [OVERSIZED, LOST]
        assert link.status().fault == "a reply is larger than 100000 bytes"


@pytest.mark.parametrize("start", [b"+", b"-ERR ", b"*1\r\n(", b"*", b"$3\r\nabc\r\n:1"])
async def test_line_without_end_resets(start: bytes) -> None:
    """A line that goes on and on is cut long before max_reply: nothing that is meant is so long."""
    async with Scripted() as server, link_to(server.address) as link:
        replies = [link.send(PING, in_time()) for _ in range(2)]
        await server.asked(2)
        peer = server.talking
        peer.say(start)
        said = 0
        while peer.is_open:
            peer.say(b"1" * 1000)
            said += 1000
            assert said < 100_000_000, "there is no bound"
            await asyncio.sleep(0)
        assert (await asyncio.gather(*replies))[1] is LOST
        assert link.status().fault == "a line is longer than 65536 bytes"


async def test_torn_replies_are_not_one_large() -> None:
    """Replies that come in pieces are each measured for themselves."""
    async with Scripted() as server, link_to(server.address, max_reply=1000) as link:
        reply = bulk("x" * 500)
        for number in range(1, 5):
            waiting = link.send(words("GET", "a"), in_time())
            await server.asked(number)
            for piece in (reply[:300], reply[300:]):
                server.talking.say(piece)
                for _ in range(5):  # it is read before the next one comes
                    await asyncio.sleep(0)
            assert await waiting == b"x" * 500
        assert link.status().losses == 0


async def test_pushes_before_between_and_after() -> None:
    """Pushed messages are nobody's reply, wherever in the stream they stand, and torn ones too."""
    async with Scripted() as server, link_to(server.address) as link:
        replies = [link.send(words("GET", name), in_time()) for name in ("a", "b")]
        await server.asked(2)
        stream = INVALIDATION + bulk("a") + INVALIDATION + bulk("b") + INVALIDATION
        middle = len(stream) // 2
        for part in (stream[:middle], stream[middle:], INVALIDATION):
            server.talking.say(part)
            await asyncio.sleep(0)
        assert await asyncio.gather(*replies) == [b"a", b"b"]
        server.script = answer_with_name
        assert await link.send(words("GET", "c"), in_time()) == b"c"
        assert link.status().losses == 0


@pytest.mark.parametrize(
    "text", ["ERR", "", "MOVED", "ERR \N{SNOWMAN}", b"ERR unknown command '\xff\xfe'", b"\xff"]
)
async def test_any_error_is_a_value(text: str | bytes) -> None:
    """However strange an error's text, it is an error reply, and the link goes on."""
    async with Scripted() as server, link_to(server.address) as link:
        strange, good = (link.send(PING, in_time()) for _ in range(2))
        await server.asked(2)
        server.talking.say(error(text), bulk("good"))
        replies = await asyncio.gather(strange, good)
        assert isinstance(replies[0], ErrorReply)
        assert replies[1] == b"good"
        assert link.status().losses == 0


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (b"_\r\n", None),
        (b"$-1\r\n", None),
        (b"*-1\r\n", None),
        (b"#t\r\n", True),
        (b",1.5\r\n", 1.5),
        (b"=7\r\ntxt:abc\r\n", b"abc"),
        (b"%1\r\n$1\r\na\r\n:1\r\n", {b"a": 1}),
        (b"*0\r\n", []),
        (b"(12345678901234567890123\r\n", b"12345678901234567890123"),
    ],
)
async def test_every_type_of_resp3(reply: bytes, value: Any) -> None:
    """A reply of any type of RESP3 reaches its caller as a plain value."""
    async with Scripted() as server, link_to(server.address) as link:
        asked = link.send(PING, in_time())
        await server.asked()
        server.talking.say(reply)
        assert await asked == value


async def test_server_that_hangs_up_is_named_so() -> None:
    """An orderly end and its calls: told as lost, the reason is kept, the link comes back."""
    async with Scripted() as server, link_to(server.address) as link:
        reply = link.send(PING, in_time())
        await server.asked()
        server.talking.hang_up()
        assert await reply is LOST
        assert link.status().fault == "the server hung up"
        await soon(lambda: link.state is LinkState.READY)


class TestTakeOver:
    async def test_push_behind_the_handshake(self) -> None:
        """A message glued to the last reply of the handshake shifts nothing."""
        async with Scripted(answer_with_name) as server:
            server.handshake[b"HELLO"] += INVALIDATION
            async with link_to(server.address) as link:
                assert await link.send(words("GET", "a"), in_time()) == b"a"
                assert link.status().losses == 0

    async def test_torn_push_behind_the_handshake(self) -> None:
        """Half a message at the take-over costs a reset at most: no reply is ever another's."""
        async with Scripted(answer_with_name) as server:
            good = server.handshake[b"HELLO"]
            server.handshake[b"HELLO"] = good + INVALIDATION[:10]
            async with link_to(server.address) as link:
                server.handshake[b"HELLO"] = good
                server.peers[0].say(INVALIDATION[10:])
                reply = await link.send(words("GET", "a"), in_time())
                assert reply == b"a" or isinstance(reply, LostReply)
                await soon(lambda: link.state is LinkState.READY)
                assert await link.send(words("GET", "b"), in_time()) == b"b"

    async def test_handshake_in_small_pieces(self) -> None:
        """However the handshake is cut, the first reply after it is whole."""
        async with Scripted(answer_with_name) as server:
            good, server.handshake[b"HELLO"] = server.handshake[b"HELLO"], b""
            async with link_to(server.address, settled=False) as link:
                await soon(lambda: server.peers)
                for at in range(len(good)):
                    server.peers[0].say(good[at : at + 1])
                    await asyncio.sleep(0)
                await link.settled()
                assert await link.send(words("GET", "a"), in_time()) == b"a"

    async def test_end_right_behind_the_handshake(self) -> None:
        """A server that hangs up as soon as it has shaken hands is a lost link that tries on."""

        async with Scripted() as server:
            server.ends_handshake = True
            async with link_to(server.address) as link:
                await soon(lambda: len(server.peers) >= 3)
                server.ends_handshake = False
                server.script = answer_with_name
                await soon(lambda: link.state is LinkState.READY and server.peers[-1].is_open)
                assert await link.send(words("GET", "a"), in_time()) == b"a"

    async def test_ready_means_ready(self) -> None:
        """What is sent in the moment the link becomes ready is answered, each time it does."""
        replies: list[Any] = []

        def ask_at_once(link: Any) -> None:
            if link.state is LinkState.READY:
                replies.append(link.send(words("GET", "a"), in_time()))

        async with (
            Scripted(answer_with_name) as server,
            link_to(server.address, on_change=ask_at_once) as link,
        ):
            for count in range(1, 6):
                await soon(partial(is_length, replies, count))
                assert await replies[-1] == b"a"
                server.peers[-1].hang_up()
            assert link.status().connects >= 5


class TestHandshake:
    async def test_silent_server(self) -> None:
        """A server that takes the connection and says nothing is given up after connect_timeout."""
        async with Scripted() as server:
            server.handshake[b"HELLO"] = b""
            async with link_to(server.address, connect_timeout=0.05) as link:
                assert link.state is LinkState.RECONNECTING
                assert "no answer in time" in str(link.status().fault)

    async def test_closing_does_not_wait_for_the_handshake(self) -> None:
        """A link in the middle of a handshake can be closed, and nobody hangs on it."""
        async with Scripted() as server:
            server.handshake[b"HELLO"] = b""
            async with link_to(server.address, settled=False, connect_timeout=600.0) as link:
                settled = asyncio.ensure_future(link.settled())
                await soon(lambda: server.peers)
                await link.close()
                await settled
                assert link.state is LinkState.CLOSED

    async def test_closing_at_any_moment(self) -> None:
        """Whichever step of connecting is interrupted, the link closes and leaves nothing."""
        async with Scripted() as server:
            for turns in range(40):
                async with link_to(server.address, settled=False, readonly=True) as link:
                    for _ in range(turns):
                        await asyncio.sleep(0)
                assert link.state is LinkState.CLOSED

    async def test_closing_does_not_wait_for_readonly(self) -> None:
        """The same in the step that makes a replica answer reads."""
        async with Scripted() as server:
            server.handshake[b"READONLY"] = b""
            async with link_to(
                server.address, settled=False, readonly=True, connect_timeout=600.0
            ) as link:
                await soon(lambda: b"READONLY" in server.handshaken)
                await link.close()

    async def test_readonly_refused(self) -> None:
        """A replica that won't answer reads is no link to send reads to."""
        async with Scripted() as server:
            server.handshake[b"READONLY"] = error("ERR This instance has cluster support disabled")
            async with link_to(server.address, readonly=True) as link:
                assert link.state is LinkState.RECONNECTING
                assert "cluster support disabled" in str(link.status().fault)

    @pytest.mark.parametrize(
        ("reply", "told"),
        [
            (error("LOADING Redis is loading the dataset in memory"), "Redis is loading its data"),
            (error("NOAUTH HELLO must be called"), "Redis wants a password"),
            (error("ERR unknown command 'HELLO'"), "Redis refused the handshake"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no connection"),
            (b"+OK\r\n", ""),
        ],
    )
    async def test_refusals_are_told(self, reply: bytes, told: str) -> None:
        """Whatever comes in place of a greeting is a fault with a reason, and the link tries on."""
        async with Scripted(answer_with_name) as server:
            good, server.handshake[b"HELLO"] = server.handshake[b"HELLO"], reply
            async with link_to(server.address) as link:
                if told:
                    assert link.state is LinkState.RECONNECTING
                    assert told in str(link.status().fault)
                server.handshake[b"HELLO"] = good
                await soon(lambda: link.state is LinkState.READY)
                assert await link.send(words("GET", "a"), in_time()) == b"a"

    @pytest.mark.parametrize(
        "text",
        [
            "ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `me`, `{}`, ",
            "WRONGPASS who would use {}?",
            "NOPERM {}",
            "ERR invalid password {}",
        ],
    )
    async def test_password_is_never_repeated(self, text: str) -> None:
        """A server that echoes the password (Redis 5 does) doesn't get it into fault or log."""
        async with Scripted() as server:
            server.handshake[b"HELLO"] = error(text.format("s3cret"))
            async with link_to(server.address, password=Secret("s3cret"), username="me") as link:
                fault = str(link.status().fault)
                assert fault
                assert "s3cret" not in fault
