"""A Redis that says anything at all, to a service that goes on answering its callers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from time import monotonic

import pytest

from flowcache.store.settings import Address
from tests.service import Answer, Service, service
from tests.store.harness import SLACK
from tests.store.resp import NULL, OK, array, bulk, error, hello, integer, push, serving
from tests.store.scripted import Peer, Request, Scripted

DEADLINE = 0.2
"""Seconds."""
ROUNDS = 40
SEEDS = [1, 2, 3]
CODES = {
    "wrong_type",
    "conflict",
    "too_large",
    "invalid_request",
    "forbidden",
    "invalid_response",
    "circuit_open",
    "overloaded",
    "redis_unavailable",
    "deadline_exceeded",
}
"""What a call may fail with when Redis lies: anything but `internal`."""

CALLS: list[dict[str, object]] = [
    {"operation": "GET", "key": "k"},
    {"operation": "SET", "key": "k", "value": 1},
    {"operation": "INCR", "key": "n", "idempotencyKey": "once"},
    {"operation": "HGETALL", "key": "h"},
    {"operation": "HSET", "key": "h", "value": {"f": "v"}},
    {"operation": "DEL", "key": "k"},
]

LIES = [
    b"",
    OK,
    NULL,
    integer(7),
    integer(-(2**63)),
    array(),
    array(bulk("a")),
    array(error("ERR in a list"), integer(1)),
    b"%1\r\n$1\r\na\r\n*1\r\n_\r\n",
    b"%1\r\n*0\r\n:1\r\n",
    b"%1\r\n_\r\n_\r\n",
    b"~1\r\n:1\r\n",
    b",1e400\r\n",
    b",nan\r\n",
    b"#t\r\n",
    b"(123456789012345678901234567890\r\n",
    b"=7\r\ntxt:abc\r\n",
    b"=2\r\nab\r\n",
    bulk(b"\xff\xfe"),
    bulk(b"x" * 100_000),
    bulk(b"\n*1000000000\r\n" * 100),
    b"|1\r\n+key\r\n+value\r\n+OK\r\n",
    push(bulk("invalidate"), array(bulk("k"))),
    push(bulk("message"), bulk("channel"), bulk("text")) * 100,
    push(),
    b"*1000000000\r\n",
    b"%1000000000\r\n",
    b">1000000000\r\n",
    b"$99999999999\r\n",
    b"*999\r\n" * 500,
    b"*1\r\n" * 5000,
    b"+" + b"x" * 200_000,
    b"HTTP/1.1 200 OK\r\n\r\n",
    error(""),
    error(b"\xff\xfe"),
    error("x" * 10_000),
    error("NOSCRIPT No matching script"),
    error("MOVED 1"),
    error("MOVED 99999 127.0.0.1:1"),
    error("MOVED 1 127.0.0.1:0"),
    error("MOVED 1 /etc/passwd:0"),
    error("ASK 1 " + "h" * 60_000 + ":1"),
    error("ASK 1 127.0.0.1:1"),
    error("READONLY no"),
    error("LOADING"),
    error("NOAUTH"),
    error("WRONGPASS"),
    error("NOPROTO"),
    hello("sentinel"),
    hello("nonsense"),
    hello("cluster"),
]
"""Whole replies and parts of some, legal and not."""


class Liar:
    """Says something else in place of each reply, as a seed wants it."""

    def __init__(self, seed: int, server: Scripted) -> None:
        self.random = Random(seed)
        self.server = server
        self.honest = dict(server.handshake)
        self.told = 0
        """Lies in place of replies."""

    def lie(self, address: Address) -> bytes:
        """Return one of the lies, a redirection in circles, a map, or a broken piece of these."""
        random = self.random
        port = address.port
        nodes = [array(bulk(f"127.9.0.{n}"), integer(port), bulk("id")) for n in range(1, 9)]
        bounds = [integer(random.choice([0, -1, 5, 16383, 16384, 10**8])) for _ in range(2)]
        lie = random.choice(
            [
                *LIES,
                error(f"MOVED {random.randrange(16384)} {address}"),
                error(f"ASK {random.randrange(16384)} 127.9.0.{random.randrange(1, 250)}:{port}"),
                serving(address),
                array(*[array(*bounds, random.choice(nodes))] * random.choice([1, 2, 300])),
                array(bulk("slave"), bulk("127.9.0.1"), integer(port), bulk("x"), integer(0)),
                array(bulk("slave"), bulk(str(address.host)), integer(port), NULL, NULL),
            ]
        )
        if random.random() < 0.2:
            lie = lie[: random.randrange(len(lie) + 1)]
        if random.random() < 0.1:
            lie = lie + random.choice(LIES)
        return lie

    def next_round(self) -> None:
        """Choose a stage to lie at: the handshake, one part of it, the replies, or all."""
        stage = self.random.choice(["replies", "replies", "all", *self.honest])
        self.server.handshake = {
            name: self.lie(self.server.address)
            if stage in (name.decode(errors="ignore"), "all") or stage == name
            else said
            for name, said in self.honest.items()
        }
        lies = stage in ("replies", "all")
        self.server.script = self._say_a_lie if lies else answer
        if stage != "replies":
            for peer in self.server.peers:
                peer.hang_up()

    def _say_a_lie(self, peer: Peer, request: Request) -> None:
        self.told += 1
        peer.say(self.lie(self.server.address))

    def repent(self) -> None:
        """Be honest again; what was said to those who are connected can't be taken back."""
        self.server.handshake, self.server.script = dict(self.honest), answer
        for peer in self.server.peers:
            peer.hang_up()


def answer(peer: Peer, request: Request) -> None:
    """Answer as a Redis would where the key ``k`` holds 1."""
    name = request[0].upper()
    replies = {b"PING": b"+PONG\r\n", b"GETRANGE": bulk("1"), b"SET": OK, b"UNLINK": integer(1)}
    peer.say(replies.get(name, integer(1)))


def resident(running: Service) -> int:
    """Return the MiB of memory that the largest process of a service holds."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except (OSError, ValueError):
            continue  # it ended meanwhile
        if int(fields["PPid"]) == running.process.pid or int(fields["Pid"]) == running.process.pid:
            found.append(int(fields.get("VmRSS", "0 kB").split()[0]) // 1024)
    return max(found)


@pytest.mark.parametrize("mode", ["standalone", "cluster"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_redis_that_lies(seed: int, mode: str) -> None:
    """Whatever it says at whichever stage: each call ends in time with a code of the contract, no
    bug is logged, memory stays flat, and all is well as soon as it is honest again."""
    async with Scripted(answer, mode=mode) as server:
        liar = Liar(seed, server)
        # Without a circuit, which would spare the service most of the lies.
        environment = {
            "REDIS_NODES": str(server.address),
            "FLOWCACHE_BREAKER_MODE": "disabled",
            "FLOWCACHE_DATA_DEADLINE_MS": str(round(DEADLINE * 1000)),
        }
        running_service = service(environment, ready=False)
        running = await asyncio.to_thread(running_service.__enter__)
        try:
            await asyncio.to_thread(running.wait_ready)
            before = resident(running)

            async def call(fields: dict[str, object]) -> tuple[Answer, float]:
                began = monotonic()
                got = await asyncio.to_thread(lambda: running.call(**fields))
                return got, monotonic() - began

            async def recover() -> None:
                liar.repent()
                end = monotonic() + 20
                while (await call(CALLS[0]))[0].status != 200:
                    assert monotonic() < end, running.log[-2000:]
                    await asyncio.sleep(0.01)

            for _ in range(ROUNDS):
                liar.next_round()
                for got, seconds in await asyncio.gather(*map(call, CALLS)):
                    assert seconds < DEADLINE + SLACK
                    assert got.status == 200 or got.code in CODES, got.body
                await recover()
            assert liar.told > ROUNDS / 2
            assert (await call(CALLS[0]))[0].data == 1
            assert resident(running) - before < 64
            for sign in ("a bug", "Traceback", "AssertionError"):
                assert sign not in running.log, running.log[-3000:]
        finally:
            await asyncio.to_thread(running_service.__exit__, None, None, None)
