"""The same call from many threads at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

__all__ = ["together"]

T = TypeVar("T")


def together(calls: int, call: Callable[[], T]) -> list[T]:
    """Make ``call`` from that many threads at once, and return what each got."""
    start = Barrier(calls)

    def begin() -> T:
        start.wait()
        return call()

    with ThreadPoolExecutor(calls) as pool:
        futures = [pool.submit(begin) for _ in range(calls)]
        return [future.result() for future in futures]
