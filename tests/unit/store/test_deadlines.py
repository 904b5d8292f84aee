"""Deadlines on a loop whose time the test holds in its hand, and then on a real one."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowcache.store.deadlines import TICK, AwaitedReply, Deadlines, Waiter
from flowcache.store.replies import EXPIRED, SlowReply

MS = 0.001
"""What a timer may be late by, because it is set to the next whole millisecond."""


class Handle:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class HandLoop:
    """As much of an event loop as a timer needs. ``early`` seconds before its time each fires."""

    def __init__(self, now: float = 0.0, early: float = 0.0) -> None:
        self.now = now
        self.fired = 0
        self._early = early
        self._timers: list[tuple[float, int, Handle]] = []
        self._numbers = itertools.count()

    def clock(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., None], *args: Any) -> Handle:
        assert delay >= 0
        handle = Handle(lambda: callback(*args))
        due = self.now + max(0.0, delay - self._early)
        heapq.heappush(self._timers, (due, next(self._numbers), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=cast(asyncio.AbstractEventLoop, self))

    def call_soon(self, callback: Callable[..., None], *args: Any, context: Any = None) -> None:
        callback(*args)

    def get_debug(self) -> bool:
        return False

    @property
    def armed(self) -> int:
        """How many timers there are."""
        return sum(handle.callback is not None for _, _, handle in self._timers)

    def turn(self) -> None:
        """Fire what is due now, once."""
        due = []
        while self._timers and self._timers[0][0] <= self.now:
            due.append(heapq.heappop(self._timers)[2])
        for handle in due:
            if handle.callback is not None:
                self.fired += 1
                handle.callback()

    def run_until(self, end: float) -> None:
        """Let time pass, and every timer fire when it is due."""
        while self._timers and self._timers[0][0] <= end:
            # Time goes on, even where nobody waits for it to.
            self.now = max(self.now + max(1e-7, self._early / 5), self._timers[0][0])
            self.turn()
        self.now = max(self.now, end)


def deadlines_on(loop: HandLoop) -> Deadlines:
    return Deadlines(cast(asyncio.AbstractEventLoop, loop), loop.clock)


class Watched:
    """A waiter, and when it was answered with what."""

    def __init__(self, loop: HandLoop, deadlines: Deadlines, deadline: float) -> None:
        self.deadline = deadline
        self.at: float | None = None
        self.result: object = None
        self._loop = loop
        future = loop.create_future()
        future.add_done_callback(self._note)
        self.waiter = Waiter(AwaitedReply(future), loop.now)
        deadlines.add(self.waiter, deadline)

    def _note(self, future: asyncio.Future[Any]) -> None:
        assert self.at is None
        self.at = self._loop.now
        self.result = future.result()


class TestExpiry:
    @settings(deadline=None)
    @given(
        start=st.floats(0, 1e6),
        delays=st.lists(st.floats(-1, 3), min_size=1, max_size=30),
        early=st.sampled_from([0.0, 1e-9, 0.001]),
    )
    @example(start=0.0, delays=[0.0, TICK, 2 * TICK, TICK / 2], early=0.0)
    @example(start=1e6, delays=[0.1, 0.1, 0.3, 0.7], early=1e-9)
    def test_after_never_before(self, start: float, delays: list[float], early: float) -> None:
        """Each is answered after its deadline, late by a tick and a millisecond at most."""
        loop = HandLoop(start, early)
        deadlines = deadlines_on(loop)
        watched = [Watched(loop, deadlines, start + delay) for delay in delays]
        loop.run_until(start + 4)
        for each in watched:
            assert each.result is EXPIRED
            assert each.at is not None
            assert each.at > each.deadline
            # "1.1": a float of a million seconds has no finer steps than that.
            assert each.at <= max(each.deadline, start) + 1.1 * TICK + MS + early
        assert loop.armed == 0

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.floats(0, 0.1), st.floats(0, 1)), max_size=30))
    def test_whenever_they_come(self, calls: list[tuple[float, float]]) -> None:
        """The same when calls come one by one, with shorter and longer patience than the last."""
        loop = HandLoop(100.0)
        deadlines = deadlines_on(loop)
        watched = []
        for pause, patience in calls:
            loop.run_until(loop.now + pause)
            watched.append(Watched(loop, deadlines, loop.now + patience))
        loop.run_until(loop.now + 2)
        for each in watched:
            assert each.at is not None
            assert each.deadline < each.at <= each.deadline + 1.1 * TICK + MS

    def test_one_timer_for_all(self) -> None:
        """A thousand calls of the same patience cost a timer for each tick, not one each."""
        loop = HandLoop()
        deadlines = deadlines_on(loop)
        for number in range(1000):
            Watched(loop, deadlines, 1.0 + number * 1e-6)
        assert loop.armed == 1
        loop.run_until(2.0)
        assert loop.fired <= 2

    def test_a_loop_that_knows_milliseconds_only(self) -> None:
        """Where a short delay is rounded to none, as uvloop does, nothing wakes in vain."""

        class Coarse(HandLoop):
            def call_later(self, delay: float, callback: Callable[..., None], *args: Any) -> Handle:
                assert self.fired < 1000, "it spins"
                return super().call_later(round(delay, 3), callback, *args)

        loop = Coarse(0.0004)
        deadlines = deadlines_on(loop)
        watched = [Watched(loop, deadlines, 0.1 * number) for number in range(1, 6)]
        loop.run_until(2.0)
        assert all(each.result is EXPIRED for each in watched)
        assert loop.fired <= 2 * len(watched)

    def test_a_loop_that_was_held_up(self) -> None:
        """A sweep that comes very late lets the replies be read that came in time."""
        loop = HandLoop()
        deadlines = deadlines_on(loop)
        lucky, unlucky = (Watched(loop, deadlines, 0.1) for _ in range(2))
        loop.now = 5.0  # something blocked the loop all this time
        for _ in range(2):  # the sweep itself, and what was ready before the sockets are read
            loop.turn()
            assert lucky.at is None
        lucky.waiter.answer(b"reply")  # as the loop reads the socket in the next turn
        loop.turn()
        assert lucky.result == b"reply"
        assert unlucky.result is EXPIRED

    def test_a_command_that_left_late_is_not_slow(self) -> None:
        """Where replies are called slow a late sweep waits, so that one may still come."""
        loop = HandLoop()
        slowness = Deadlines(
            cast(asyncio.AbstractEventLoop, loop), loop.clock, Waiter.tell_slow, pause=TICK
        )
        lucky, unlucky = (Watched(loop, slowness, 0.01) for _ in range(2))
        loop.now = 1.0
        loop.run_until(1.0 + TICK)
        lucky.waiter.answer(b"reply")
        loop.run_until(1.0 + 3 * TICK)
        assert lucky.result == b"reply"
        assert isinstance(unlucky.result, SlowReply)

    def test_past_deadlines(self) -> None:
        """A deadline that is over when it is set is met at the next sweeps, not forgotten."""
        loop = HandLoop(100.0)
        watched = Watched(loop, deadlines_on(loop), 50.0)
        loop.run_until(100.0 + 2 * TICK)
        assert watched.result is EXPIRED


class TestAnswers:
    def test_first_answer_counts(self) -> None:
        """Who has been answered isn't answered again, by a late reply or by the clock."""
        loop = HandLoop()
        watched = Watched(loop, deadlines_on(loop), 1.0)
        watched.waiter.answer(b"first")
        watched.waiter.answer(b"second")
        loop.run_until(2.0)
        assert watched.result == b"first"

    def test_cancelled_callers(self) -> None:
        """Who has gone away is passed over."""
        loop = HandLoop()
        deadlines = deadlines_on(loop)
        gone = loop.create_future()
        waiter = Waiter(AwaitedReply(gone), 0.0)
        deadlines.add(waiter, 1.0)
        gone.cancel()
        waiter.answer(b"reply")
        loop.run_until(2.0)
        assert gone.cancelled()

    def test_who_has_gone_away_is_not_slow(self) -> None:
        """Nor is anybody told that a reply is slow who does not wait for it any more."""
        loop = HandLoop()
        slowness = Deadlines(cast(asyncio.AbstractEventLoop, loop), loop.clock, Waiter.tell_slow)
        gone, answered, waiting = futures = [loop.create_future() for _ in range(3)]
        waiters = [Waiter(AwaitedReply(future), 0.0) for future in futures]
        for waiter in waiters:
            slowness.add(waiter, 1.0)
        gone.cancel()
        waiters[1].answer(b"reply")
        loop.run_until(2.0)
        assert gone.cancelled()
        assert answered.result() == b"reply"
        assert isinstance(waiting.result(), SlowReply)
        waiters[2].answer(b"at last")
        assert waiting.result().rest.result() == b"at last"

    def test_nobody_waits(self) -> None:
        """A place in the queue that nobody waits at takes any answer."""
        Waiter(None, 0.0).answer(b"reply")

    def test_no_reply_is_kept(self) -> None:
        """An answered call keeps neither its reply nor its future until its deadline."""

        class Reply:
            """Something whose end can be seen; bytes have no weak references."""

        loop = HandLoop()
        deadlines = deadlines_on(loop)
        future = loop.create_future()
        waiter = Waiter(AwaitedReply(future), 0.0)
        deadlines.add(waiter, 1_000_000.0)
        reply = Reply()
        waiter.answer(reply)
        assert future.result() is reply
        kept, waited = weakref.ref(reply), weakref.ref(future)
        del reply, future
        assert kept() is None
        assert waited() is None
        deadlines.close()


class TestClosing:
    def test_close_answers_all(self) -> None:
        """Whoever still waits at the end is told that time is up; no timer is left."""
        loop = HandLoop()
        deadlines = deadlines_on(loop)
        watched = [Watched(loop, deadlines, delay) for delay in (0.1, 0.1, 5.0)]
        watched[0].waiter.answer(b"reply")
        deadlines.close()
        assert [each.result for each in watched] == [b"reply", EXPIRED, EXPIRED]
        assert loop.armed == 0
        deadlines.close()

    def test_close_of_nothing(self) -> None:
        """One that was never used can be closed."""
        deadlines_on(HandLoop()).close()

    def test_close_while_held_up(self) -> None:
        """Also between a late sweep and the turn that it grants."""
        loop = HandLoop()
        deadlines = deadlines_on(loop)
        watched = Watched(loop, deadlines, 0.1)
        loop.now = 5.0
        loop.turn()
        deadlines.close()
        assert watched.result is EXPIRED
        assert loop.armed == 0
        loop.turn()


@pytest.mark.parametrize("patience", [-1.0, 0.0, 0.001, 0.02])
async def test_on_a_real_loop(patience: float) -> None:
    """With the clock that the service uses a deadline is met, and not before."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop, monotonic)
    future = loop.create_future()
    deadline = monotonic() + patience
    deadlines.add(Waiter(AwaitedReply(future), monotonic()), deadline)
    assert await future is EXPIRED
    assert monotonic() > deadline
    deadlines.close()
