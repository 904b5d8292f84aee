"""The table of attacks. Each has three well-behaved clients beside it, and one flowcache worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from msgspec.structs import replace

from chaos.neighbours import acts, rigs
from chaos.neighbours.attacker import Attack
from chaos.neighbours.isolation import Isolation
from chaos.neighbours.requests import (
    BODY_BYTES,
    NESTED,
    WITHIN,
    call,
    flat,
    nested,
    page,
    post,
    request,
    within,
)
from chaos.rigs import Rig
from chaos.stage import Scenario
from flowcache.authn.tokens import show_digest
from flowcache.secret import Secret
from tests.servers.tls import FLOWCACHE_ACL
from tests.store.resp import NULL, array, bulk, error, integer

__all__ = ["GROUP", "SCENARIOS"]

GROUP = "neighbours"
RATE = 120.0
"""Calls a second of the three together."""
LULL = 0.25

NEIGHBOURS = tuple(f"fc_neighbour-{n}-{'n' * 40}" for n in (1, 2, 3))
ATTACKER = f"fc_attacker-{'a' * 40}"
STRANGER = f"fc_stranger-{'s' * 40}"
"""A token that nobody has."""


def client(name: str, token: str, *more: str) -> str:
    lines = (
        f"[clients.{name}]",
        f'tokens = ["{show_digest(Secret(token))}"]',
        'permissions = ["data:read", "data:write"]',
        f'namespace = "{name}"',
        *more,
    )
    return "\n".join(lines) + "\n"


CONFIGURATION = "\n".join(
    (
        *(client(f"neighbour-{n}", token) for n, token in enumerate(NEIGHBOURS, 1)),
        client("attacker", ATTACKER, "rate = 2000", "burst = 2000"),
    )
)

ENVIRONMENT = {"FLOWCACHE_AUTH_FAILURES_PER_MINUTE": "60"}
"""The default, which the tests' own service has raised."""
QUICK_CIRCUITS = {
    "FLOWCACHE_BREAKER_OPEN_SECONDS": "0.5",
    "FLOWCACHE_BREAKER_OPEN_MAX_SECONDS": "0.5",
}
STRICT_JOURNAL = {
    "FLOWCACHE_AUDIT_JOURNAL": "{directory}/" + acts.JOURNAL,
    "FLOWCACHE_AUDIT_MODE": "strict",
}
LIMITED_USER = {"FLOWCACHE_REDIS_USERNAME": "limited", "FLOWCACHE_REDIS_PASSWORD": "password"}


def against(
    name: str,
    about: str,
    act: acts.Act | Attack | Sequence[Attack],
    rig: Callable[[], AbstractContextManager[Rig[Any]]] = rigs.server,
    isolation: Isolation | None = None,
    environment: dict[str, str] | None = None,
    **more: Any,
) -> Scenario[Any]:
    """Return one line of the table; ``act`` may be an attack, or some at once."""
    if isinstance(act, Attack):
        act = acts.attacks(act)
    elif not callable(act):
        act = acts.attacks(*act)
    return Scenario(
        f"{GROUP}: {name}",
        about,
        rig,
        act,
        environment=ENVIRONMENT | (environment or {}),
        rate=RATE,
        tokens=NEIGHBOURS,
        configuration=CONFIGURATION,
        lull=LULL,
        isolation=isolation or Isolation(),
        **more,
    )


def limited(*lacking: str) -> Callable[[], AbstractContextManager[Rig[Any]]]:
    """Return a server whose user for flowcache lacks some of the commands that it needs."""
    rights = " ".join((FLOWCACHE_ACL, *(f"-{name}" for name in lacking)))
    return partial(rigs.server, f"user limited on >password {rights}")


# -- attacks ---------------------------------------------------------------------------------------

NO_TIME = Attack(
    requests=(
        call(ATTACKER, "GET", "some", deadlineMs=1),
        call(ATTACKER, "SET", "some", value="x", deadlineMs=1),
    ),
    connections=64,
    rate=400,
)
BUILD_HASH = Attack(
    requests=tuple(
        call(ATTACKER, "HSET", "hash", value={f"field:{n}": "x" * 250_000}) for n in range(62)
    ),
    most=62,
    seconds=8,
)
MANY_FIELDS = Attack(
    requests=tuple(
        call(ATTACKER, "HSET", f"hash:{n}", value={f"f{m}": n for m in range(510)})
        for n in range(100)
    ),
    connections=800,
    rate=1500,
)
IN_FLIGHT = Attack(
    requests=(call(ATTACKER, "GET", "some"), call(ATTACKER, "SET", "some", value="x")),
    connections=1500,
    every=1.0,
)
AT_ONCE = Attack(requests=(flat(ATTACKER),), connections=1500, every=1.0)
ONE_KEY = Attack(
    requests=tuple(
        call(ATTACKER, "INCR", "counter", idempotencyKey=f"once:{n}") for n in range(500)
    ),
    connections=64,
    rate=1500,
)
UNREAD = Attack(
    requests=(call(ATTACKER, "GET", "500 KB"),), connections=100, rate=500, manner="do not read"
)
ORDINARY = Attack(requests=(call(ATTACKER, "GET", "some"),), connections=64, rate=400)
BREAK_OFF = Attack(requests=(nested(ATTACKER),), connections=50, manner="break off", rate=500)
REFUSED_BODIES = Attack(
    requests=(
        post(ATTACKER, b" " * (300 * 1024)),
        post(ATTACKER, b'{"operation":"SET","key":"broken","value":' + NESTED[:-1]),
        post(ATTACKER, b"{" * BODY_BYTES),
        post(ATTACKER, b"\xff" * BODY_BYTES),
    ),
    connections=50,
)


def reading(*keys: str, operation: str = "GET", connections: int = 4) -> Attack:
    requests = tuple(call(ATTACKER, operation, key) for key in keys)
    return Attack(requests=requests, connections=connections)


def flood(*requests: bytes, connections: int = 200) -> Attack:
    return Attack(requests=requests, connections=connections)


ODD_PAGES = (
    page("/inspector"),
    page("/inspector", STRANGER),
    page("/no-such-page"),
    page("/data-action/redis"),
    post(None, b"{}"),
    post(STRANGER, b"{}"),
)
PAGES = (page("/docs"), page("/openapi.json"), page("/metrics"), page("/readyz"), *ODD_PAGES)

ODD_HEADS = (
    b"\r\n" * 8000 + page("/readyz"),
    request("GET", "/readyz", {f"x-field-{n}": "x" for n in range(90)}),
    request("GET", "/readyz", {f"x-field-{n}": "x" for n in range(1500)}),
    request("POST", "/data-action/redis", {"transfer-encoding": "chunked"}, b"1\r\nx\r\n" * 2000),
)
"""Requests that are dear to read, without a credential."""

ODD_REPLIES = (
    integer(1),
    array(array(), array(bulk("a"), NULL)),
    b",nan\r\n",
    b"(" + b"9" * 400 + b"\r\n",
    b"~1\r\n*0\r\n",  # a set of a list
    b"=5\r\ntxt:x\r\n",
)
"""Replies of a shape that the command does not have."""
ODD_ERRORS = (
    error("NOSCRIPT No matching script."),
    error("X" * 5000),
    error("MOVED 0 nowhere"),
    error("ASK -1 :0"),
    b"%1\r\n*1\r\n+a\r\n+b\r\n",  # a map with a key that is a list
    b"%1\r\n%1\r\n+a\r\n+b\r\n+c\r\n",
)
"""What only a server that is not well says: circuits open for it."""
IMPOSSIBLE_REPLIES = (
    b"*1000000000\r\n",
    b"$2000000000\r\n",
    b"%1000000000\r\n",
    b"*1\r\n" * 5000,
    b"\x00\x01\x02\r\n",
)


def false_maps(liar: tuple[str, int]) -> Sequence[bytes]:
    """Return replies to CLUSTER SLOTS that can't be true."""
    here = array(bulk(liar[0]), integer(liar[1]), bulk("id"))

    def nodes(first: int) -> bytes:
        return array(integer(first), integer(first), array(bulk("127.0.0.1"), integer(first + 1)))

    return (
        array(array(integer(0), integer(100_000_000), here)),
        array(*map(nodes, range(16_384))),
        array(array(integer(-5), integer(16_383), here)),
        array(array(integer(0), integer(16_383), array(array(), integer(0)))),
        b"*1000000000\r\n",
        b"%1\r\n*1\r\n+a\r\n+b\r\n",
        array(),
        integer(1),
    )


# -- the table -------------------------------------------------------------------------------------

REDIS_STOPPED = Isolation(redis_is_ill=True)
REDIS_LIES = Isolation(codes=frozenset({"redis_unavailable", "circuit_open"}), redis_is_ill=True)
LACKS_RIGHTS = Isolation(codes=frozenset({"forbidden"}))

SCENARIOS: tuple[Scenario[Any], ...] = (
    against(
        "nothing",
        "Nothing is attacked: what the machine and the load itself cost.",
        acts.attacks(),
    ),
    against(
        "deadline of 1 ms",
        "400 calls a second that give themselves 1 ms.",
        NO_TIME,
    ),
    against(
        "deadline of 1 ms while Redis is stopped",
        "The same while Redis gets SIGSTOP for 3 s; it answers 5 ms late, and circuits stay open "
        "for 0.5 s.",
        acts.redis_stopped(NO_TIME),
        rigs.proxied,
        isolation=REDIS_STOPPED,
        environment=QUICK_CIRCUITS,
    ),
    against(
        "worker stopped",
        "flowcache's worker gets SIGSTOP for 2 s amid calls; Redis answers 50 ms late.",
        acts.worker_stopped(ORDINARY),
        rigs.proxied,
        isolation=Isolation(worker_is_stopped=True),
    ),
    against(
        "nested bodies",
        "32 connections write 255 KB of `[[],[],...]`.",
        flood(nested(ATTACKER), connections=32),
    ),
    against(
        "bodies just allowed",
        "32 connections write lists and objects of almost `data.max_elements` elements.",
        flood(*within(ATTACKER), connections=32),
    ),
    against(
        "long texts",
        "32 connections write a text of 255 KB.",
        flood(flat(ATTACKER), connections=32),
    ),
    against(
        "large hash legally built",
        "62 HSETs of 250 KB make one hash; then 10 connections read it.",
        acts.attacks(reading("hash", operation="HGETALL", connections=10), first=BUILD_HASH),
    ),
    against(
        "hashes dear to write",
        "800 connections write hashes of 510 short fields, 4 KB each: Redis keeps such a hash as "
        "one list, and looks through it for each field.",
        MANY_FIELDS,
    ),
    against(
        "large strings",
        "4 connections read strings of 20 and 100 MiB that another program wrote.",
        reading("20", "100"),
        partial(rigs.server, fill=rigs.large_strings),
    ),
    against(
        "large hashes",
        "4 connections read hashes of 20 and 100 MiB, and one of a million fields.",
        reading("hash:20", "hash:100", "hash:million", operation="HGETALL"),
        partial(rigs.server, fill=rigs.large_hashes),
    ),
    against(
        "large values and little memory",
        "Both at once, and 100 slow readers, in a worker that may have 512 MiB of data.",
        (
            reading("20", "100", connections=8),
            reading("hash:20", "hash:100", "hash:million", operation="HGETALL", connections=8),
            UNREAD,
        ),
        partial(rigs.server, fill=rigs.everything_large),
        launcher=("prlimit", f"--data={512 << 20}"),
    ),
    against(
        "nested values",
        "16 connections read 255 KB of `[[],[],...]`.",
        reading("nested", connections=16),
        partial(rigs.server, fill=rigs.nested_value),
    ),
    against(
        "values just allowed",
        "16 connections read lists and objects of almost `data.max_elements` elements.",
        reading(*(f"within:{number}" for number in range(len(WITHIN))), connections=16),
        partial(rigs.server, fill=rigs.values_within),
    ),
    against("/docs", "200 connections without a credential.", flood(page("/docs"))),
    against("/openapi.json", "200 connections without a credential.", flood(page("/openapi.json"))),
    against("/metrics", "200 connections without a credential.", flood(page("/metrics"))),
    against("/readyz", "200 connections without a credential.", flood(page("/readyz"))),
    against(
        "refused requests",
        "200 connections: the inspector and data actions with no credential or a wrong one, pages "
        "that are not there.",
        flood(*ODD_PAGES),
    ),
    against("2000 connections", "All of these pages.", flood(*PAGES, connections=2000)),
    against(
        "refused bodies",
        "100 connections send bodies that are too large, broken, or half of one.",
        (REFUSED_BODIES, BREAK_OFF),
    ),
    against(
        "odd heads",
        "200 connections without a credential send empty lines, heads of 93 or of 1,500 fields, "
        "and bodies in chunks of a byte.",
        flood(*ODD_HEADS),
    ),
    against(
        "bytes after a refusal",
        "500 connections without a credential send a request, and then bytes without an end.",
        Attack(requests=(b"no HTTP\r\n\r\n", post(None, b"{}")), connections=500, manner="pour"),
    ),
    against(
        "TLS handshakes",
        "50 connections shake hands, leave and come again.",
        Attack(connections=50, manner="shake hands"),
        tls=True,
    ),
    against(
        "slow heads and bodies",
        "500 connections send a byte of a head, or of a body, each 0.2 s.",
        (
            Attack(requests=(page("/readyz"),), connections=250, manner="drip"),
            Attack(requests=(post(ATTACKER, b" " * 5000),), connections=250, manner="drip"),
        ),
    ),
    against(
        "slow readers",
        "600 connections ask for answers of 500 KB and don't read them.",
        # The kernel takes some megabytes of each before anything waits in flowcache.
        acts.attacks(replace(UNREAD, connections=600, rate=1900), share=3.0),
        partial(rigs.server, fill=rigs.value_of_500_kb),
    ),
    against(
        "1500 calls at once",
        f"1,500 connections each send a call at the same moment, once a second; Redis answers "
        f"{acts.LATE_SECONDS * 1000:.0f} ms late.",
        acts.behind_a_late_redis(IN_FLIGHT),
        rigs.proxied,
    ),
    against(
        "1500 long bodies at once",
        "1,500 connections each send 255 KB at the same moment, once a second.",
        AT_ONCE,
    ),
    against(
        "idempotent writes on one key",
        "1,500 `INCR` a second of one key, each with one of 500 idempotency keys.",
        ONE_KEY,
    ),
    against(
        "busy script",
        "Another program's script runs without an end for 1.5 s, and is killed.",
        acts.busy_script,
        partial(rigs.server, "busy-reply-threshold 100"),
        isolation=REDIS_STOPPED,
    ),
    against(
        "Redis user without EXPIRE",
        "flowcache's user may not `EXPIRE` and `PEXPIRE`.",
        acts.attacks(),
        limited("expire", "pexpire"),
        LACKS_RIGHTS,
        LIMITED_USER,
    ),
    against(
        "Redis user without HSET",
        "flowcache's user may not `HSET`.",
        acts.attacks(),
        limited("hset"),
        LACKS_RIGHTS,
        LIMITED_USER,
    ),
    against(
        "strict journal damaged",
        f"{acts.DAMAGED_BYTES:,} random bytes over the middle of the audit journal, in strict "
        "mode; soon no call may be answered any more.",
        acts.journal_damaged,
        isolation=Isolation(codes=frozenset({"audit_unavailable"}), ends_in_refusal=True),
        environment=STRICT_JOURNAL,
    ),
    against(
        "odd replies",
        "A proxy answers commands about the attacker's keys with replies of odd shapes.",
        acts.lies_to_the_attacker(ODD_REPLIES, reading("a", connections=8)),
        rigs.lying,
    ),
    against(
        "odd errors",
        "The same, with errors that no Redis gives, and maps that no dictionary takes.",
        acts.lies_to_the_attacker(ODD_ERRORS, reading("a", connections=8)),
        rigs.lying,
        REDIS_LIES,
        QUICK_CIRCUITS,
    ),
    against(
        "impossible replies",
        "The same, with replies that announce a thousand million elements, or are no protocol.",
        acts.lies_to_the_attacker(IMPOSSIBLE_REPLIES, reading("a", connections=2)),
        rigs.lying,
        REDIS_LIES,
        QUICK_CIRCUITS,
    ),
    against(
        "false maps",
        "A proxy answers `CLUSTER SLOTS` with maps that can't be true, each half second.",
        acts.lies_of_the_map(false_maps),
        rigs.lying_cluster,
        environment={"FLOWCACHE_REDIS_REFRESH_SECONDS": "0.5"},
    ),
    against(
        "64 files",
        "flowcache runs under `ulimit -n 64`, and 200 connections come and say nothing.",
        Attack(connections=200, manner="stay"),
        launcher=("prlimit", "--nofile=64:64"),
    ),
)
