"""Room for newcomers: it is made for somebody, of as few as it takes, and time and again."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from structlog.testing import capture_logs

from flowcache.server.connection import State
from flowcache.server.listener import ConnectionLimits
from tests.unit.http.server.serving import happens, post, served


async def test_the_last_place_is_taken_and_nobody_is_closed() -> None:
    """As many connections as there may be are kept, while nobody else comes."""
    async with served(ConnectionLimits(connections=8)) as there:
        clients = []
        for number in range(8):
            clients.append(await there.connect())
            assert (await clients[-1].ask(f"/{number}")).status == 200
        await there.until(*[State.IDLE] * 8)
        for client in clients:
            assert (await client.ask("/again")).status == 200


async def test_room_is_made_of_one_alone() -> None:
    """Whichever state those are in that have to go, one newcomer costs one of them."""
    async with served(ConnectionLimits(connections=3)) as there:
        half, idle = await there.connect(), await there.connect()
        half.send(post("/half")[:-5])
        await there.until(State.HEAD, State.NEW)
        busy = await there.connect()
        busy.send(post("/wait"))
        idle.send(post("/other")[:-5])
        await there.until(State.HEAD, State.HEAD, State.BUSY)
        there.clock.now += 1  # each has had its moment to ask for something
        assert there.listener._make_room()
        await there.until(State.HEAD, State.BUSY)
        there.app.gate.set()
        assert (await busy.receive()).status == 200


async def test_without_file_descriptors_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time it is tried again soon, though no connection ends; that is logged once a minute."""
    monkeypatch.setattr("flowcache.server.listener._STARVED_SECONDS", 0.01)
    accept, fails = socket.socket.accept, 0

    def starved(listening: socket.socket) -> tuple[socket.socket, object]:
        nonlocal fails
        if fails:
            fails -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return accept(listening)

    async with served() as there:
        with monkeypatch.context() as starving, capture_logs() as logged:
            starving.setattr(socket.socket, "accept", starved)
            for number in range(1, 4):
                fails = 1
                client = await there.connect()
                client.send(post("/wait"))
                await happens(lambda: len(there.app.begun) == number)  # noqa: B023
            assert len(logged) == 1
            there.clock.now += 60
            fails = 1
            client = await there.connect()
            client.send(post("/wait"))
            await happens(lambda: len(there.app.begun) == 4)
            assert len(logged) == 2
        there.app.gate.set()
