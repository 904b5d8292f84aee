"""How a command is executed: it is submitted, and its receiver hears what came of it.

A row of parts executes commands: encryption, circuits, the store. Each part submits to the next one
with a receiver of its own, which works on what it hears and passes it on. So no coroutine, task or
future is made for a command whose reply comes as it should. Only a part that has to wait for
something else (a retry, a hedge, a large value) makes a task, whose result its receiver hears.

The rules:

1. `Executor.submit` raises a `Failure` if nothing was sent and nothing will be. Otherwise the
   receiver hears once, maybe before `submit` returns.
2. A receiver hears a `Done`, or the exception that `Executor.execute` would have raised. It does
   not wait. What it raises is a bug, which is logged; then the receivers behind it hear that, and
   one that has heard before ignores it.
3. Whoever gave up still hears, and then does nothing. So a permit of a circuit is settled by what
   Redis did, whether or not anybody waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Set
from typing import Any, final

from flowcache.errors import Failure
from flowcache.ports import Command, Done, Large, Slow

__all__ = ["Awaited", "Executor", "Heard", "Receiver", "Shard", "Store", "Tasks", "whole"]

Heard = Done | Slow | Large | BaseException
"""What a receiver hears. `Slow` and `Large` pass between a store and its guard only."""


class Receiver:
    """Something that hears what came of a command."""

    __slots__ = ()

    def hear(self, result: Heard) -> None:
        """Take what came of the command. Called once."""
        raise NotImplementedError


@final
class Awaited(Receiver):
    """A coroutine that waits for what comes of a command."""

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[Heard] = asyncio.get_running_loop().create_future()

    def hear(self, result: Heard) -> None:
        if not self._future.done():  # whoever waited may have been cancelled
            self._future.set_result(result)

    async def result(self) -> Done | Slow | Large:
        """Return what came, or raise why nothing did."""
        result = await self._future
        if isinstance(result, BaseException):
            try:
                raise result
            finally:
                del result  # its traceback refers to this frame
        return result


class Executor:
    """Something that runs commands: a guard around a store, encryption around a guard."""

    __slots__ = ()

    def submit(self, command: Command, deadline: float, receiver: Receiver) -> None:
        """Run ``command`` before ``deadline`` (monotonic seconds); ``receiver`` hears the rest.

        Raises:
            Failure: as `execute`; nothing was sent.
        """
        raise NotImplementedError

    async def execute(self, command: Command, deadline: float) -> Done:
        """Run ``command`` and return what came of it before ``deadline``.

        Raises:
            Failure: `RedisUnavailable`, `DeadlineExceeded`, `WrongType`, `Conflict`, `TooLarge`;
                its ``shard`` is the name of the shard where the command failed.
            InvalidRequest: the keys of the command are in different slots.
        """
        awaited = Awaited()
        self.submit(command, deadline, awaited)
        done = await awaited.result()
        assert isinstance(done, Done)
        return done


class Shard:
    """The part of a store that holds some of the keys."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name
        """A shard whose primary changed is another shard, with another name."""

    def has_fallback(self) -> bool:
        """Tell whether a second server could answer a read now."""
        raise NotImplementedError


class Store:
    """A place where commands run: a Redis, whatever its topology."""

    __slots__ = ()

    def shard(self, command: Command) -> Shard:
        """Return the shard that holds the keys of ``command``. Cheap.

        Raises:
            RedisUnavailable: no shard is known to hold them.
            InvalidRequest: they are in different slots.
        """
        raise NotImplementedError

    def shards(self) -> Set[str]:
        """Return the names of all shards there are."""
        raise NotImplementedError

    def submit_at(
        self,
        shard: Shard,
        command: Command,
        deadline: float,
        receiver: Receiver,
        slow_at: float | None = None,
        wait_until: float | None = None,
    ) -> None:
        """Run ``command`` where commands of its kind go; ``receiver`` hears what came of it.

        It hears `Slow` when there is no reply at ``slow_at``, on the clock that replies are judged
        by (`LoopWatch.listened`), and `Large` when the reply has to be fetched apart. With
        ``wait_until`` the reply to what was sent is awaited until then, which is after
        ``deadline``; nothing is sent after ``deadline``.
        """
        raise NotImplementedError

    async def execute_at(
        self,
        shard: Shard,
        command: Command,
        deadline: float,
        slow_at: float | None = None,
        wait_until: float | None = None,
    ) -> Done | Slow | Large:
        """Return what the receiver of `submit_at` would hear, or raise it."""
        awaited = Awaited()
        self.submit_at(shard, command, deadline, awaited, slow_at, wait_until)
        return await awaited.result()

    async def read_elsewhere(self, shard: Shard, command: Command, deadline: float) -> Done | Large:
        """Have the fallback of ``shard`` answer a read; ``stale`` where it is a replica.

        Raises:
            Failure: as `Executor.execute`.
        """
        raise NotImplementedError


async def whole(shard: str, rest: Awaitable[Done | Slow | Large]) -> Done:
    """Return what comes of ``rest``, fetched if it is large. A failure has the shard's name."""
    try:
        done = await rest
        assert not isinstance(done, Slow)  # that is for who gives a `slow_at`
        return await done.fetch() if isinstance(done, Large) else done
    except Failure as failure:
        failure.shard = shard
        raise


class Tasks:
    """Tasks that nobody else holds. asyncio itself does not keep a task alive."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` to its end."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def tell(
        self, receiver: Receiver, work: Coroutine[Any, Any, Done | Slow | Large]
    ) -> asyncio.Task[None]:
        """Run ``work``, and have ``receiver`` hear its result."""
        return self.run(_tell(receiver, work))

    async def close(self) -> None:
        """Cancel what still runs, and wait for its end."""
        running = list(self._running)
        await asyncio.sleep(0)  # a task that is cancelled before its first step tells nobody
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _tell(receiver: Receiver, work: Coroutine[Any, Any, Done | Slow | Large]) -> None:
    result: Heard
    try:
        result = await work
    except asyncio.CancelledError as cancelled:
        receiver.hear(cancelled)
        raise
    except Exception as fault:
        result = fault
    receiver.hear(result)
