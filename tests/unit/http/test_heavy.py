"""Writes that keep Redis busy: few at once, one client after the other, and nobody else waits."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from flowcache.api.envelope import request_ids
from flowcache.audit.ring import AuditRing
from flowcache.authz.keys import ALL_KEYS
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.calls.call import Caller, Outcome
from flowcache.calls.heavy import MOST, MOST_WAITING, is_heavy
from flowcache.calls.running import Calls, CallSettings
from flowcache.errors import DeadlineExceeded, RedisUnavailable
from flowcache.executing import Executor, Receiver
from flowcache.ports import Command, Done

MANY = {f"f{n}": "x" for n in range(100)}


class ByHand(Executor):
    """An executor whose commands wait until the test says what comes of them."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Command, Receiver]] = []
        self.refusal: Exception | None = None

    def submit(self, command: Command, deadline: float, receiver: Receiver) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.waiting.append((command, receiver))

    @property
    def keys(self) -> list[str]:
        return [command.words[1].decode() for command, _ in self.waiting]

    def answer(self, result: Any = None) -> None:
        _, receiver = self.waiting.pop(0)
        receiver.hear(Done(1, "a:1", False) if result is None else result)


class Waiting(Caller):
    outcome: Outcome | None = None

    def answer(self, outcome: Outcome) -> None:
        self.outcome = outcome

    @property
    def code(self) -> str | None:
        if self.outcome is None:
            return None
        return "ok" if self.outcome.failure is None else self.outcome.failure.code


class Scene:
    def __init__(self, **settings: Any) -> None:
        self.executor = ByHand()
        self.calls = Calls(
            CallSettings(**settings),
            self.executor,
            self,
            AuditRing(10),
            asyncio.get_running_loop().time,
            request_ids(),
        )

    def record(self, *_: object) -> None:
        """Metrics are not looked at."""

    def call(self, client: str, key: str, value: Any = MANY, **more: Any) -> Waiting:
        caller = Waiting()
        asked = {"operation": "HSET", "key": key, "value": value, **more}
        who = Principal(client, frozenset(Permission), ALL_KEYS)
        self.calls.start(self.calls.open(caller), who, msgspec.json.encode(asked))
        return caller


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("command", "heavy"),
    [
        (Command((b"HSET", b"k", *[b"x"] * 100), writes=True), True),
        (Command((b"HSET", b"k", *[b"x"] * 20), writes=True), False),
        (Command((b"SET", b"k", b"x" * 20_000), writes=True), True),
        (Command((b"SET", b"k", b"x" * 2_000), writes=True), False),
        (Command((b"GET", b"k")), False),
    ],
)
def test_many_fields_or_bytes_are_heavy(command: Command, heavy: bool) -> None:
    """Reads are not: what they cost is bounded where they are done."""
    assert is_heavy(command) is heavy


async def test_few_heavy_writes_are_at_redis_at_once() -> None:
    """The next is sent when the reply to one of them came; a small one is sent at once."""
    scene = Scene()
    callers = [scene.call("busy", f"{n}") for n in range(MOST + 2)]
    await turns()
    assert scene.executor.keys == [f"{n}" for n in range(MOST)]
    scene.call("busy", "small", {"a": 1})
    assert scene.executor.keys[-1] == "small"
    scene.executor.answer()
    await turns()
    assert callers[0].code == "ok"
    assert scene.executor.keys[-1] == f"{MOST}"
    while scene.executor.waiting:
        scene.executor.answer()
        await turns()
    assert [caller.code for caller in callers] == ["ok"] * (MOST + 2)


async def test_clients_are_served_round_robin() -> None:
    """A client that has many waits behind itself; another's goes next."""
    scene = Scene()
    for n in range(MOST + 5):
        scene.call("busy", f"{n}")
    scene.call("other", "theirs")
    await turns()
    scene.executor.answer()
    scene.executor.answer()
    await turns()
    assert scene.executor.keys[-2:] == [f"{MOST}", "theirs"]


async def test_few_heavy_writes_of_a_client_wait() -> None:
    """One more is refused at once, and another client's is not."""
    scene = Scene()
    for n in range(MOST + MOST_WAITING):
        assert scene.call("busy", f"{n}").code is None
        await asyncio.sleep(0)
    assert scene.call("busy", "more").code == "overloaded"
    assert scene.call("other", "theirs").code is None


async def test_a_heavy_write_that_waits_too_long_is_refused() -> None:
    """It was not sent, and may be sent again."""
    scene = Scene(deadline=0.02)
    for n in range(MOST):
        scene.call("busy", f"{n}")
    late = scene.call("busy", "late")
    async with asyncio.timeout(10):
        while late.code is None:  # noqa: ASYNC110 - the call has no event for tests
            await asyncio.sleep(0.001)
    assert late.code == "overloaded"
    assert late.outcome is not None
    assert late.outcome.failure is not None
    assert late.outcome.failure.retryable
    assert "late" not in scene.executor.keys


async def test_a_write_without_a_reply_keeps_its_place_for_a_while() -> None:
    """A caller with no time can't send one heavy write after the other."""
    scene = Scene(deadline=0.05)
    callers = [scene.call("busy", f"{n}", deadlineMs=1) for n in range(MOST)]
    for _ in range(MOST):
        scene.executor.answer(DeadlineExceeded("Redis did not answer in time."))
    assert {caller.code for caller in callers} == {"deadline_exceeded"}
    scene.call("busy", "next")
    assert scene.executor.keys == []
    async with asyncio.timeout(10):
        while not scene.executor.keys:
            scene.call("busy", "next")
            await asyncio.sleep(0.001)


async def test_a_write_that_is_refused_gives_its_place_back() -> None:
    """Whether before it was sent, or by Redis."""
    scene = Scene()
    scene.executor.refusal = RedisUnavailable("Redis can't be reached.")
    for n in range(3 * MOST):
        assert scene.call("busy", f"{n}").code == "redis_unavailable"
    scene.executor.refusal = None
    for n in range(3 * MOST):
        caller = scene.call("busy", f"{n}")
        scene.executor.answer(RedisUnavailable("Redis can't be reached."))
        assert caller.code == "redis_unavailable"
