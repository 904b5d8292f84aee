"""Every test of the store ends as clean as it began: no task, no socket, no warning is left."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from tests.store.harness import open_sockets, soon


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_loops: run on asyncio's own event loop as well")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on uvloop, as the service does; on asyncio's loop too what is marked `both_loops`."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "uvloop": uvloop.new_event_loop
    }
    if item.get_closest_marker("both_loops"):
        factories["asyncio"] = asyncio.SelectorEventLoop
    return factories


@pytest.fixture(autouse=True)
async def _leaves_nothing() -> AsyncIterator[None]:
    """Fail a test that leaves a task, a socket, or an object that warns when it is collected."""
    sockets = open_sockets()
    gc.freeze()  # what was there before is not looked at again: that takes most of the time
    yield
    await soon(lambda: open_sockets() <= sockets, what="all sockets to be closed")
    assert asyncio.all_tasks() <= {asyncio.current_task()}
    gc.collect()
    gc.unfreeze()
