"""What encryption at rest costs a call: ``python -m bench.sealing``.

The data action as a whole, from credential to encoded answer, without an HTTP server and without
Redis: as CPU time a call, in clear and encrypted in turns, in one process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import cycle
from time import monotonic, process_time
from typing import Any, NamedTuple

import msgspec

from flowcache.api.data_action import DataAction, DataActionSettings
from flowcache.api.envelope import request_ids
from flowcache.audit.ring import AuditRing
from flowcache.authn.gate import Gate, GateSettings
from flowcache.authn.principals import Credential, Principals
from flowcache.authn.tokens import Token, digest
from flowcache.authz.keys import ALL_KEYS, namespace_prefix
from flowcache.authz.networks import Networks
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.calls.running import Calls
from flowcache.encryption.keys import WrittenKeys, new_key
from flowcache.encryption.settings import SealingSettings
from flowcache.encryption.vault import Vault
from flowcache.executing import Executor, Receiver
from flowcache.metrics.counters import Counters
from flowcache.operations.catalogue import CATALOGUE
from flowcache.ports import Command, Done, SizeLimits
from flowcache.ratelimit.buckets import Rate
from flowcache.secret import Secret
from flowcache.server.asgi import ASGIApp, Message

_ROUNDS = 15
_ROUND_SECONDS = 0.05
_TOKEN = b"token-of-the-benchmark"
_KEYS = ("a", "b")
_DATA = frozenset({Permission.DATA_READ, Permission.DATA_WRITE})
_SETTINGS = DataActionSettings(max_body=1 << 20, sizes=SizeLimits(reply=1 << 20))


_SHARD = "127.0.0.1:7000"


class _Memory(Executor):
    """As much of Redis as the calls need."""

    def __init__(self) -> None:
        self._held: dict[bytes, Any] = {}

    def submit(self, command: Command, deadline: float, receiver: Receiver) -> None:
        receiver.hear(self._run(command))

    def _run(self, command: Command) -> Done:
        name, key, *more = command.words
        if name == b"SET":
            (self._held[key],) = more
            return Done(b"OK", _SHARD)
        if name == b"HSET":
            self._held[key] = dict(zip(more[::2], more[1::2], strict=True))
            return Done(0, _SHARD)
        return Done(self._held[key], _SHARD)


class _Row(NamedTuple):
    name: str
    body: dict[str, object]
    first: dict[str, object] | None = None
    """The call that puts there what this one reads."""


def _rows() -> list[_Row]:
    rows = []
    for size, name in ((100, "100 B"), (2048, "2 KB"), (100_000, "100 KB"), (200_000, "200 KB")):
        write: dict[str, object] = {"operation": "SET", "value": "x" * (size - 2)}
        rows += [_Row(f"SET of {name}", write), _Row(f"GET of {name}", {"operation": "GET"}, write)]
    fields = {f"field-{number}": "x" * 100 for number in range(20)}
    write = {"operation": "HSET", "value": fields}
    rows.append(_Row("HSET of 20 fields of 100 B", write))
    rows.append(_Row("HGETALL of them", {"operation": "HGETALL"}, write))
    return rows


def _action(executor: Executor) -> ASGIApp:
    principal = Principal("flow", _DATA, ALL_KEYS)
    credential = Credential(Token(digest(_TOKEN)), principal)
    gate = Gate(
        Principals([credential], monotonic),
        GateSettings(Networks(()), Rate(1.0, 1)),
        {},
        monotonic,
    )
    ring = AuditRing(1000)
    calls = Calls(_SETTINGS, executor, Counters(CATALOGUE), ring, monotonic, request_ids())
    return DataAction(_SETTINGS, gate, calls, monotonic)


def _call(action: ASGIApp, body: dict[str, object]) -> Callable[[], Any]:
    """Return the call, for two keys in turns: what was kept of the last one is of no use."""
    bodies = [msgspec.json.encode({"key": key} | body) for key in _KEYS]
    headers = [
        (b"host", b"flowcache:3000"),
        (b"content-length", str(len(bodies[0])).encode()),
        (b"authorization", b"Bearer " + _TOKEN),
    ]
    scope = {"type": "http", "headers": headers, "client": ("127.0.0.1", 1)}
    messages = cycle({"type": "http.request", "body": raw, "more_body": False} for raw in bodies)

    async def receive() -> Message:
        return next(messages)

    async def send(answer: Message) -> None:
        if answer["type"] == "http.response.start":
            assert answer["status"] == 200, answer

    async def call() -> None:
        await action(scope, receive, send)

    return call


async def _seconds(call: Callable[[], Any], calls: int) -> float:
    began = process_time()
    for _ in range(calls):
        await call()
    return (process_time() - began) / calls


async def _measure(row: _Row) -> tuple[float, float, float]:
    """Return CPU seconds a call in clear, encrypted, and in clear beside what is encrypted."""
    provider = WrittenKeys(Secret("\n".join(new_key(name).line() for name in ("a", "b"))))
    every = SealingSettings(provider, "a")
    other = SealingSettings(provider, "a", (namespace_prefix("other"),))
    actions = [
        _action(executor)
        for executor in (_Memory(), Vault(_Memory(), every), Vault(_Memory(), other))
    ]
    if row.first is not None:
        for action in actions:
            write = _call(action, row.first)
            for _ in _KEYS:
                await write()
    calls = [_call(action, row.body) for action in actions]
    once = await _seconds(calls[0], 20)
    count = max(20, int(_ROUND_SECONDS / once))
    rounds = [[await _seconds(call, count) for call in calls] for _ in range(_ROUNDS)]
    clear, sealed, beside = (min(column) for column in zip(*rounds, strict=True))
    return clear, sealed, beside


async def _main() -> None:
    print("| call | in clear | encrypted | more | ratio | in clear beside it |")
    print("|---|---|---|---|---|---|")
    for row in _rows():
        clear, sealed, beside = await _measure(row)
        print(
            f"| {row.name} | {clear * 1e6:.1f} µs | {sealed * 1e6:.1f} µs | "
            f"{(sealed - clear) * 1e6:.1f} µs | {sealed / clear:.2f} | {beside / clear:.2f} |"
        )


if __name__ == "__main__":
    asyncio.run(_main())
