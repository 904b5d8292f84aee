"""Wait for a condition without guessing how long it takes."""

import time
from collections.abc import Callable
from threading import Event
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02


def eventually(
    predicate: Callable[[], T | None],
    *,
    within: float = 20.0,
    what: str = "the condition",
    ignoring: tuple[type[Exception], ...] = (),
) -> T:
    """Return the predicate's first truthy value, asked again and again for `within` seconds.

    A predicate may also raise AssertionError to say "not yet" and why, which reads better than
    False when the time is up. Exceptions in `ignoring` mean "not yet" as well; others pass through.

    It blocks its thread: a test that shares an event loop with the code under test hands it to
    `asyncio.to_thread`.

    Raises:
        TimeoutError: the condition didn't hold in time; the last reason is its cause.
    """
    not_yet: tuple[type[Exception], ...] = (AssertionError, *ignoring)
    end = time.monotonic() + within
    pause = Event()
    while True:
        reason: Exception | None = None
        try:
            value = predicate()
        except not_yet as refusal:
            reason = refusal
        else:
            if value:
                return value
        if time.monotonic() >= end:
            because = f": {reason}" if reason else ""
            raise TimeoutError(f"waited {within:g} s for {what}{because}") from reason
        pause.wait(POLL_SECONDS)
