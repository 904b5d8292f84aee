"""Executors and stores that tests write as coroutines.

The first step of such a coroutine is taken at once, as the service's own parts work: a command has
left when `submit` returns.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any

from flowcache.executing import Executor, Heard, Receiver, Shard, Store, Tasks
from flowcache.ports import Command, Done, Large, Slow

__all__ = ["CoroutineExecutor", "CoroutineStore"]

_Work = Coroutine[Any, Any, Done | Slow | Large]


class CoroutineExecutor(Executor):
    """An executor whose `execute` says what it does."""

    def submit(self, command: Command, deadline: float, receiver: Receiver) -> None:
        _begin(receiver, self.execute(command, deadline))


class CoroutineStore(Store):
    """A store whose `execute_at` says what it does."""

    def submit_at(
        self,
        shard: Shard,
        command: Command,
        deadline: float,
        receiver: Receiver,
        slow_at: float | None = None,
        wait_until: float | None = None,
    ) -> None:
        _begin(receiver, self.execute_at(shard, command, deadline, slow_at, wait_until))


class _Rest:
    """What is left of a coroutine that waits for ``first``."""

    def __init__(self, work: _Work, first: object) -> None:
        self._work = work
        self._first = first

    def __await__(self) -> Generator[Any, Any, Done | Slow | Large]:
        awaited = self._first
        while True:
            thrown: BaseException | None = None
            sent = None
            try:
                sent = yield awaited
            except BaseException as fault:
                thrown = fault
            try:
                awaited = self._work.send(sent) if thrown is None else self._work.throw(thrown)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]


async def _rest(work: _Work, first: object) -> Done | Slow | Large:
    return await _Rest(work, first)


def _begin(receiver: Receiver, work: _Work) -> None:
    heard: Heard
    try:
        first = work.send(None)
    except StopIteration as end:
        heard = end.value
    except BaseException as fault:
        heard = fault
    else:
        Tasks().tell(receiver, _rest(work, first))
        return
    receiver.hear(heard)
