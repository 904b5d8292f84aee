"""What the store makes of answers that no healthy server gives, or not when a test wants them."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from flowcache.errors import DeadlineExceeded, Declined, Failure, RedisUnavailable
from flowcache.ports import Command, Once
from flowcache.store.pursuit import TRIES
from flowcache.store.redis_store import RedisStore
from flowcache.store.replies import REACTIONS, Reaction
from flowcache.store.settings import Address, ReadFrom, StoreSettings
from flowcache.store.slots import key_slot
from tests.servers.ports import LOOPBACK, PortClaim
from tests.store.harness import SLACK, get, guarded, in_time, incr, put, replied, soon, store_at
from tests.store.resp import OK, array, bulk, error, integer, serving
from tests.store.scripted import Peer, Request, Script, Scripted

ONCE = Once(b"token", b"fingerprint", 60_000)
SLOT = key_slot(b"k")
READ, WRITE, WRITE_ONCE = get(b"k"), incr(b"k"), incr(b"k", ONCE)


def always(reply: bytes) -> Script:
    """Answer every request with the same."""
    return lambda peer, request: peer.say(reply)


def first(*replies: bytes, then: bytes) -> Script:
    """Answer the first requests with these, in order, and all others with ``then``."""
    left = list(replies)

    def script(peer: Peer, request: Request) -> None:
        peer.say(left.pop(0) if left else then)

    return script


def refusals() -> list[str]:
    terminal = (Reaction.REFUSE, Reaction.ANSWER)
    return [code for code, (what, _, _) in REACTIONS.items() if what in terminal]


class TestErrors:
    @pytest.mark.parametrize("code", refusals())
    async def test_refusals(self, code: str) -> None:
        """Each refusal fails the call as the table says, at once, not in the server's words."""
        async with Scripted(always(error(f"{code} says the s3rver"))) as server:
            async with store_at(server.address) as store:
                for command in (READ, WRITE, WRITE_ONCE):
                    with pytest.raises(Failure) as caught:
                        await replied(store, command, in_time())
                    _, failure, message = REACTIONS[code]
                    assert type(caught.value) is failure
                    assert caught.value.message == message.format(sizes=command.sizes)
                    assert caught.value.retryable is failure.default_retryable
            assert len(server.requests) == 3

    @pytest.mark.parametrize("text", ["ERR whatever", "NEWCODE of some later Redis", "", "\xff"])
    @pytest.mark.parametrize(
        ("command", "retryable"), [(READ, True), (WRITE, False), (WRITE_ONCE, True)]
    )
    async def test_unforeseen_errors(self, text: str, command: Command, retryable: bool) -> None:
        """An error that nobody foresaw may have come when half was done: a write isn't repeated."""
        async with (
            Scripted(always(error(text))) as server,
            store_at(server.address) as store,
        ):
            with pytest.raises(RedisUnavailable) as caught:
                await replied(store, command, in_time())
            assert caught.value.retryable is retryable
            assert len(server.requests) == 1
            if text:
                assert text not in caught.value.message

    @pytest.mark.parametrize("text", ["ERR whatever", "NEWCODE of some later Redis", "", "moved"])
    async def test_an_error_in_no_table_opens_no_circuit(self, text: str) -> None:
        """The server answers, so it is asked again, and its first good reply is a success."""
        async with Scripted(always(error(text))) as server, store_at(server.address) as store:
            guard = guarded(store)
            for command in (READ, WRITE_ONCE) * 10:
                with pytest.raises(RedisUnavailable):
                    await replied(guard, command, in_time())
            assert len(server.requests) == 20
            assert not any(each.failures or each.calls for each in guard.circuits())
            server.script = always(bulk(b"1"))
            assert await replied(guard, READ, in_time()) == b"1"

    @pytest.mark.parametrize(
        "text",
        [
            "MOVED",
            "MOVED 1",
            "MOVED 1 nowhere",
            "MOVED one 127.0.0.1:1",
            "MOVED 16384 127.0.0.1:1",
            "MOVED 99999 127.0.0.1:1",
            "MOVED -1 127.0.0.1:1",
            "MOVED 1 127.0.0.1:99999",
            "MOVED 1 127.0.0.1:-5",
            "MOVED 1 \N{SNOWMAN}:1",
            "ASK",
            "ASK 1 :",
            "ASK 1 " + "x" * 300 + ":1",
        ],
    )
    async def test_redirections_to_nowhere(self, text: str) -> None:
        """A redirection that leads nowhere fails the call as Redis's fault, not as our bug."""
        async with (
            Scripted(always(error(text)), mode="cluster") as server,
            store_at(server.address, connect_timeout=0.1) as store,
        ):
            for command in (READ, WRITE):
                with pytest.raises((RedisUnavailable, DeadlineExceeded)):
                    await replied(store, command, in_time(1))

    @pytest.mark.parametrize("command", [READ, WRITE, WRITE_ONCE])
    @pytest.mark.parametrize("start", [b"$1000000\r\n", b"*1000000000\r\n", b"%1000000000\r\n"])
    async def test_reply_too_large(self, command: Command, start: bytes) -> None:
        """What was asked for is small: a large reply is Redis's fault, a write's fate unknown."""
        async with (
            Scripted(always(start + b"x" * 20_000)) as server,
            store_at(server.address, max_reply=10_000) as store,
        ):
            with pytest.raises(RedisUnavailable) as caught:
                await replied(store, command, in_time())
            assert caught.value.retryable is (command is not WRITE)

    async def test_too_many_wait(self) -> None:
        """When too many wait for a server the next one is declined, and was not sent."""
        async with Scripted() as server, store_at(server.address, max_pending=2) as store:
            waiting = [asyncio.ensure_future(replied(store, READ, in_time(600))) for _ in range(2)]
            await server.asked(2)
            with pytest.raises(Declined) as caught:
                await replied(store, WRITE, in_time(600))
            assert caught.value.retryable
            server.talking.say(bulk("1") * 2)
            assert await asyncio.gather(*waiting) == [b"1", b"1"]
            assert len(server.requests) == 2


class TestTries:
    @pytest.mark.parametrize("command", [READ, WRITE, WRITE_ONCE])
    @pytest.mark.parametrize("code", ["MOVED", "ASK", "NOSCRIPT", "READONLY", "CLUSTERDOWN"])
    async def test_at_most_three(self, code: str, command: Command) -> None:
        """However often it is sent away, a command is tried three times and then fails."""
        async with Scripted(mode="cluster") as server, store_at(server.address) as store:
            tries = 1 if code == "NOSCRIPT" and command.once is None else TRIES  # it has no script
            server.script = always(error(f"{code} 1 {server.address}"))
            with pytest.raises(RedisUnavailable) as caught:
                await replied(store, command, in_time())
            assert caught.value.message == REACTIONS[code][2]
            assert caught.value.retryable, "it was not done"
            asked = [request for request in server.requests if request[0] != b"ASKING"]
            assert len(asked) == tries

    @pytest.mark.parametrize(("command", "tries"), [(READ, 3), (WRITE, 1), (WRITE_ONCE, 3)])
    async def test_connection_lost_each_time(self, command: Command, tries: int) -> None:
        """A connection that breaks under each try ends after three, and a plain write after one."""
        async with (
            Scripted(lambda peer, request: peer.hang_up()) as server,
            store_at(server.address) as store,
        ):
            with pytest.raises(RedisUnavailable) as caught:
                await replied(store, command, in_time(20))
            assert caught.value.retryable is (tries > 1)
            assert len(server.requests) == tries

    async def test_every_call_pays_for_retries(self) -> None:
        """Once what was saved is spent, calls are what pays for sending again."""
        async with (
            Scripted(always(bulk("1"))) as server,
            store_at(server.address, retry_share=1.0) as store,
        ):
            while store._retries.withdraw(monotonic()):
                pass
            await asyncio.gather(*(replied(store, READ, in_time()) for _ in range(50)))
            spent = store.status().retries
            while store._retries.withdraw(monotonic()):
                pass
            assert store.status().retries - spent >= 50

    async def test_time_is_left_for_another_try(self) -> None:
        """Who is to be asked next is waited for during half of the time, the rest is for asking.

        Here nobody tells, and the server that refused has become a primary in the meantime.
        """
        async with Scripted() as server, store_at(server.address, connect_timeout=600) as store:
            server.script = first(error("READONLY You can't write"), then=integer(2))
            server.handshake[b"HELLO"] = b""
            assert await replied(store, WRITE, in_time(2.0)) == 2

    async def test_a_connection_that_is_not_made_again(self) -> None:
        """The same for a lost connection: who waited in vain is told so before its deadline."""
        async with Scripted() as server, store_at(server.address, connect_timeout=600) as store:
            server.script = lambda peer, request: peer.hang_up()
            server.handshake[b"HELLO"] = b""
            with pytest.raises(RedisUnavailable, match="connection to Redis was lost"):
                await replied(store, READ, in_time(2.0))

    async def test_slot_on_the_move_is_tried_until_the_deadline(self) -> None:
        """While a slot moves a command is tried on, and is answered when the slot has arrived."""
        again = error("TRYAGAIN Multiple keys request during rehashing of slot")
        async with Scripted(mode="cluster") as server, store_at(server.address) as store:
            server.script = first(*[again] * 5, then=integer(7))
            assert await replied(store, WRITE_ONCE, in_time()) == 7
            assert len(server.requests) == 6
            server.script = always(again)
            deadline = in_time(0.1)
            with pytest.raises((DeadlineExceeded, RedisUnavailable)) as caught:
                await asyncio.wait_for(replied(store, WRITE_ONCE, deadline), 20)
            assert monotonic() < deadline + SLACK
            assert caught.value.retryable

    @pytest.mark.parametrize("code", ["TRYAGAIN", "MOVED", "ASK", "NOSCRIPT", "READONLY"])
    async def test_never_past_the_deadline(self, code: str) -> None:
        """A command whose deadline has passed while it was sent away isn't sent another time."""
        hours = 0.0
        async with Scripted(mode="cluster") as server:

            def script(peer: Peer, request: Request) -> None:
                nonlocal hours
                hours += 3600
                peer.say(error(f"{code} 1 {server.address}"))

            server.script = script
            settings = StoreSettings(nodes=(server.address,), reply_timeout=1e6)
            store = RedisStore(settings, lambda: monotonic() + hours)
            try:
                await store.start()
                # Redis is well where a slot only moves: that says nothing against its circuit.
                with pytest.raises(Declined if code == "TRYAGAIN" else DeadlineExceeded):
                    await asyncio.wait_for(replied(store, WRITE_ONCE, in_time(600)), 20)
                assert len(server.requests) == 1
            finally:
                await store.close()


class TestRedirections:
    @pytest.mark.parametrize("host", ["", "?", LOOPBACK])
    async def test_moved_without_a_host(self, host: str) -> None:
        """A server that doesn't know its own name redirects to a port of the host asked."""
        async with Scripted(always(integer(2))) as there, Scripted(mode="cluster") as here:
            here.script = always(error(f"MOVED 1 {host}:{there.address.port}"))
            async with store_at(here.address) as store:
                assert await replied(store, WRITE, in_time()) == 2

    async def test_ask(self) -> None:
        """ASK is followed once, right behind ASKING, and isn't remembered."""
        async with (
            Scripted(first(OK, integer(2), then=OK)) as there,
            Scripted(mode="cluster") as here,
            store_at(here.address) as store,
        ):
            here.script = first(error(f"ASK {SLOT} {there.address}"), then=integer(3))
            assert await replied(store, WRITE, in_time()) == 2
            assert there.requests == [[b"ASKING"], [b"INCR", b"k"]]
            assert await replied(store, WRITE, in_time()) == 3

    @pytest.mark.parametrize("hangs_up", [False, True])
    async def test_asking_is_said_once(self, hangs_up: bool) -> None:
        """ASKING stands before what an ASK was for; sent on from there, that goes bare."""
        async with Scripted(mode="cluster") as here:

            def script(peer: Peer, request: Request) -> None:
                if request == [b"ASKING"]:
                    peer.say(OK)
                elif hangs_up:
                    peer.hang_up()
                else:
                    peer.say(error(f"MOVED {SLOT} {here.address}"))

            async with Scripted(script) as there, store_at(here.address) as store:
                here.script = first(error(f"ASK {SLOT} {there.address}"), then=integer(2))
                assert await replied(store, WRITE_ONCE, in_time()) == 2
                assert [request[0] for request in there.requests] == [b"ASKING", b"EVALSHA"]
                assert [request[0] for request in here.requests] == [b"EVALSHA", b"EVALSHA"]

    async def test_ask_and_a_script_that_is_not_there(self) -> None:
        """The script's text goes behind an ASKING of its own."""
        async with Scripted() as there:
            there.script = first(OK, error("NOSCRIPT No matching script"), OK, then=integer(2))
            async with Scripted(mode="cluster") as here, store_at(here.address) as store:
                here.script = always(error(f"ASK {SLOT} {there.address}"))
                assert await replied(store, WRITE_ONCE, in_time()) == 2
                names = [request[0] for request in there.requests]
                assert names == [b"ASKING", b"EVALSHA", b"ASKING", b"EVAL"]

    async def test_storm_of_redirections_asks_once(self) -> None:
        """A hundred redirections at once are one question for the map, not a hundred."""
        async with (
            Scripted(always(integer(1))) as there,
            Scripted(mode="cluster") as here,
            store_at(here.address) as store,
        ):
            here.script = always(error(f"MOVED {SLOT} {there.address}"))
            before = here.handshaken.count(b"CLUSTER")
            await asyncio.gather(*(replied(store, WRITE, in_time()) for _ in range(100)))
            await soon(lambda: here.handshaken.count(b"CLUSTER") > before)
            assert here.handshaken.count(b"CLUSTER") <= before + 2

    async def test_old_link_is_drained(self) -> None:
        """When the map changes, who waits on a link that is gone from it still gets the reply."""
        async with (
            Scripted(always(integer(1)), mode="cluster") as there,
            Scripted(mode="cluster") as here,
            store_at(here.address, refresh_interval=0.05) as store,
        ):
            calling = asyncio.ensure_future(replied(store, WRITE, in_time()))
            await here.asked()
            here.handshake[b"CLUSTER"] = serving(there.address)
            await soon(lambda: store.shard(get(b"k")).name == str(there.address))
            here.talking.say(integer(7))
            assert await calling == 7
            await soon(lambda: not any(peer.is_open for peer in here.peers if peer.requests))

    async def test_closing_while_a_link_is_drained(self) -> None:
        """A link that is being drained when the store is closed is closed too."""
        async with Scripted(mode="cluster") as there, Scripted(mode="cluster") as here:
            async with store_at(here.address, refresh_interval=0.05) as store:
                calling = asyncio.ensure_future(replied(store, WRITE, in_time(600)))
                await here.asked()
                here.handshake[b"CLUSTER"] = serving(there.address)
                await soon(lambda: store.shard(get(b"k")).name == str(there.address))
            with pytest.raises(RedisUnavailable):
                await calling


class TestReplicas:
    """Reads go to replicas on request: one that is unwell is no reason to fail."""

    @pytest.mark.parametrize(
        "text",
        [
            "LOADING Redis is loading the dataset in memory",
            "MASTERDOWN Link with MASTER is down",
            "CLUSTERDOWN The cluster is down",
            "BUSY Redis is busy running a script",
        ],
    )
    async def test_unwell_replica(self, text: str) -> None:
        """What a replica can't answer the primary does."""
        async with (
            Scripted(always(error(text)), mode="cluster") as replica,
            Scripted(always(bulk("1")), mode="cluster") as primary,
        ):
            primary.handshake[b"CLUSTER"] = serving(primary.address, replica.address)
            replica.handshake[b"CLUSTER"] = serving(primary.address, replica.address)
            async with store_at(primary.address, read_from=ReadFrom.REPLICA) as store:
                await soon(lambda: store.status().shards[0].replicas[0].state == "ready")
                assert await replied(guarded(store), READ, in_time()) == b"1"
                assert replica.requests

    async def test_replica_that_hangs_up(self) -> None:
        """A read whose replica is lost under it goes to the primary."""
        async with (
            Scripted(lambda peer, request: peer.hang_up(), mode="cluster") as replica,
            Scripted(always(bulk("1")), mode="cluster") as primary,
        ):
            primary.handshake[b"CLUSTER"] = serving(primary.address, replica.address)
            async with store_at(primary.address, read_from=ReadFrom.REPLICA) as store:
                await soon(lambda: store.status().shards[0].replicas[0].state == "ready")
                assert await replied(guarded(store), READ, in_time()) == b"1"
                assert replica.requests

    async def test_a_fallback_that_redirects_to_the_primary(self) -> None:
        """What is stale is what a replica said, and not who was asked first."""
        async with (
            Scripted(mode="cluster") as replica,
            Scripted(mode="cluster") as primary,
        ):
            primary.script = first(error("LOADING Redis is loading"), then=bulk("fresh"))
            replica.script = always(error(f"MOVED {SLOT} {primary.address}"))
            primary.handshake[b"CLUSTER"] = serving(primary.address, replica.address)
            async with store_at(primary.address) as store:
                await soon(lambda: store.status().shards[0].replicas[0].state == "ready")
                assert await replied(guarded(store), READ, in_time()) == b"fresh"
                assert replica.requests

    async def test_a_primary_with_a_replica_is_tried_once(self) -> None:
        """Who has somebody else to ask asks there at once, and tries nothing a second time."""
        async with (
            Scripted(always(bulk("1")), mode="cluster") as replica,
            Scripted(lambda peer, request: peer.hang_up(), mode="cluster") as primary,
        ):
            primary.handshake[b"CLUSTER"] = serving(primary.address, replica.address)
            async with store_at(primary.address) as store:
                await soon(lambda: store.status().shards[0].replicas[0].state == "ready")
                done = await guarded(store).execute(READ, in_time())
                assert (done.reply, done.stale) == (b"1", True)
                assert len(primary.requests) == 1

    async def test_without_replicas_there_is_no_second_chance(self) -> None:
        """Where reads go to replicas, and there are none, the primary is asked once."""
        async with (
            Scripted(always(error("LOADING Redis is loading")), mode="cluster") as primary,
            store_at(primary.address, read_from=ReadFrom.REPLICA) as store,
        ):
            assert not store.shard(get(b"k")).has_fallback()
            with pytest.raises(RedisUnavailable):
                await replied(guarded(store), READ, in_time())
            assert len(primary.requests) == 1

    async def test_replica_that_moved_away(self) -> None:
        """A replica that follows another primary now redirects, and its redirection is followed."""
        async with (
            Scripted(mode="cluster") as replica,
            Scripted(always(bulk("1")), mode="cluster") as primary,
        ):
            replica.script = always(error(f"MOVED {SLOT} {primary.address}"))
            primary.handshake[b"CLUSTER"] = serving(primary.address, replica.address)
            async with store_at(primary.address, read_from=ReadFrom.REPLICA) as store:
                await soon(lambda: store.status().shards[0].replicas[0].state == "ready")
                assert await replied(store, READ, in_time()) == b"1"

    async def test_writes_go_to_the_primary(self) -> None:
        """No write is ever sent to a replica."""
        async with (
            Scripted(mode="cluster") as replica,
            Scripted(always(integer(1)), mode="cluster") as primary,
        ):
            primary.handshake[b"CLUSTER"] = serving(primary.address, replica.address)
            async with store_at(primary.address, read_from=ReadFrom.REPLICA) as store:
                await soon(lambda: store.status().shards[0].replicas[0].state == "ready")
                for _ in range(4):
                    assert await replied(store, WRITE, in_time()) == 1
            assert not replica.requests


class TestDiscovery:
    @pytest.mark.parametrize(
        ("name", "reply"),
        [
            (b"HELLO", array()),
            (b"HELLO", integer(3)),
            (b"HELLO", bulk("\N{SNOWMAN}")),
            (b"ROLE", array()),
            (b"ROLE", integer(1)),
            (b"ROLE", array(bulk("slave"))),
            (b"ROLE", array(bulk("slave"), bulk("host"), bulk("port"))),
            (b"ROLE", array(bulk("master"), integer(0), integer(0))),
            (b"ROLE", array(bulk(b"\xff"))),
            (b"ROLE", b"HTTP/1.1 400\r\n"),
            (b"ROLE", error("LOADING Redis is loading")),
        ],
    )
    async def test_strange_answers(self, name: bytes, reply: bytes) -> None:
        """Whatever a server says of itself, the store goes on asking, and works when it is well."""
        async with Scripted(always(bulk("1"))) as server:
            good, server.handshake[name] = server.handshake[name], reply
            async with store_at(server.address) as store:
                server.handshake[name] = good
                await soon(lambda: store.status().status == "ready")
                assert await replied(store, READ, in_time()) == b"1"
                assert store.status().fault is None

    @pytest.mark.parametrize(
        "reply",
        [
            array(),
            integer(1),
            array(integer(1)),
            array(array(integer(0), integer(16383))),
            array(array(integer(0), integer(16383), array(bulk(b"\xff"), integer(1)))),
            array(array(integer(0), integer(99999), array(bulk("127.0.0.1"), integer(1)))),
            array(array(integer(9), integer(3), array(bulk("127.0.0.1"), integer(1)))),
            error("ERR This instance has cluster support disabled"),
        ],
    )
    async def test_strange_slots(self, reply: bytes) -> None:
        """The same for the map of a cluster."""
        async with Scripted(always(bulk("1")), mode="cluster") as server:
            good, server.handshake[b"CLUSTER"] = server.handshake[b"CLUSTER"], reply
            async with store_at(server.address, refresh_interval=0.05) as store:
                with pytest.raises((RedisUnavailable, DeadlineExceeded)):
                    await replied(store, READ, in_time(0.2))
                server.handshake[b"CLUSTER"] = good
                await soon(lambda: store.status().status == "ready")
                assert await replied(store, READ, in_time()) == b"1"
                assert store.status().fault is None

    async def test_silent_seeds(self) -> None:
        """Servers that take the connection and say nothing don't keep the last from being asked."""
        async with Scripted() as silent, Scripted(always(bulk("1"))) as server:
            silent.handshake[b"HELLO"] = b""
            async with store_at(
                silent.address,
                Address("localhost", silent.address.port),
                server.address,
                connect_timeout=0.1,
            ) as store:
                await soon(lambda: store.status().status == "ready")
                assert await replied(store, READ, in_time()) == b"1"

    async def test_dead_seeds(self) -> None:
        """Neither do those where nobody listens; each is named with its reason if all are dead."""
        with PortClaim() as one, PortClaim() as other:
            dead = [(LOOPBACK, claim.port) for claim in (one, other)]
            async with (
                Scripted(always(bulk("1"))) as server,
                store_at(*dead, server.address) as store,
            ):
                assert await replied(store, READ, in_time()) == b"1"
            async with store_at(*dead) as store:
                fault = str(store.status().fault)
                assert all(f"{LOOPBACK}:{port}: no connection" in fault for _, port in dead)

    async def test_start_does_not_wait_for_ever(self) -> None:
        """A store whose server is silent is started after connect_timeout, and can be closed."""
        async with Scripted() as server:
            server.handshake[b"HELLO"] = b""
            began = monotonic()
            async with store_at(server.address, connect_timeout=0.1) as store:
                assert monotonic() - began < 0.1 + SLACK
                assert store.status().status == "connecting"
                with pytest.raises(RedisUnavailable):
                    await replied(store, READ, in_time(600))


class TestClosing:
    @pytest.mark.parametrize("code", ["MOVED", "ASK", "TRYAGAIN", "READONLY", "NOSCRIPT"])
    async def test_redirected_while_closing(self, code: str) -> None:
        """A redirection that arrives while the store is closed opens nothing, whenever it comes."""
        for turns in range(10):
            async with Scripted() as there, Scripted(mode="cluster") as here:
                async with store_at(here.address) as store:
                    calling = asyncio.ensure_future(replied(store, WRITE_ONCE, in_time(600)))
                    await here.asked()
                    here.talking.say(error(f"{code} {SLOT} {there.address}"))
                    for _ in range(turns):
                        await asyncio.sleep(0)
                with pytest.raises(Failure):
                    await calling
                del store, calling

    @pytest.mark.parametrize("mode", ["standalone", "cluster"])
    async def test_closing_at_any_moment(self, mode: str) -> None:
        """Whichever step of its start is interrupted, the store closes and leaves nothing."""
        async with Scripted(mode=mode) as server:
            for turns in range(60):
                store = RedisStore(StoreSettings(nodes=(server.address,)), monotonic)
                starting = asyncio.ensure_future(store.start())
                for _ in range(turns):
                    await asyncio.sleep(0)
                await asyncio.wait_for(store.close(), 20)
                await starting

    async def test_waiting_calls_are_told_at_once(self) -> None:
        """Whoever waits when the store is closed learns it then, whatever it waits for."""
        async with Scripted() as server:
            async with store_at(server.address) as store:
                calls = [
                    asyncio.ensure_future(replied(store, command, in_time(600)))
                    for command in (READ, WRITE, WRITE_ONCE, put(b"k", b"1"))
                ]
                await server.asked(4)
            began = monotonic()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, RedisUnavailable) for result in results)
            assert monotonic() - began < SLACK

    async def test_waiting_for_a_refresh(self) -> None:
        """So does a call that waits to learn who the primary is."""
        async with Scripted(always(error("READONLY You can't write"))) as server:
            async with store_at(server.address, connect_timeout=600) as store:
                server.handshake[b"HELLO"] = b""
                calling = asyncio.ensure_future(replied(store, WRITE, in_time(600)))
                await soon(lambda: server.handshaken[-1] == b"HELLO" and server.requests)
            began = monotonic()
            with pytest.raises(RedisUnavailable):
                await calling
            assert monotonic() - began < SLACK

    async def test_waiting_for_a_new_link(self) -> None:
        """So does one that was redirected to a server that doesn't greet."""
        async with Scripted() as there, Scripted(mode="cluster") as here:
            there.handshake[b"HELLO"] = b""
            here.script = always(error(f"MOVED {SLOT} {there.address}"))
            async with store_at(here.address, connect_timeout=600) as store:
                calling = asyncio.ensure_future(replied(store, WRITE, in_time(600)))
                await soon(lambda: b"HELLO" in there.handshaken)
            began = monotonic()
            with pytest.raises(RedisUnavailable):
                await calling
            assert monotonic() - began < SLACK
