"""The part of the proxy that lives on an event loop: pipes between a client and the server.

A pipe has two directions, and each direction a reader, which queues what arrives with its time, and
a deliverer, which passes it on when the faults of the moment let it. The end of a connection is
queued like bytes are. Hence the three promises: order is kept, nothing is lost, faults can change
any time.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from .resp import CommandCounter

Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]
# What arrived, and when; None stands for RST, no bytes for FIN.
Arrival = tuple[bytes | None, float]

CHUNK_BYTES = 64 * 1024
# Linger on, for zero seconds: the close sends RST, not FIN.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong at the moment; by default, nothing."""

    holds_requests: bool = False
    holds_answers: bool = False
    delay_seconds: float = 0.0
    reset_each_commands: int = 0
    reset_each_bytes: int = 0


class Relay:
    """Serve every connection to a listener with a pipe, under the same faults."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.faults = Faults()
        self.accepted = 0
        self.commands_passed = 0
        self.bytes_passed = 0
        self.pipes: set[Pipe] = set()
        self._changed = asyncio.Event()

    async def listen(self, listener: socket.socket) -> None:
        """Take connections from here on."""
        self._server = await asyncio.start_server(self._serve, sock=listener)

    async def shut(self) -> None:
        """Take no more connections, and cut those there are."""
        self._server.close()
        await self.reset()

    async def reset(self) -> None:
        """Cut every connection; return when all are closed."""
        pipes = list(self.pipes)
        for pipe in pipes:
            pipe.cut()
        for pipe in pipes:
            await pipe.closed.wait()

    async def change(self, faults: Faults) -> None:
        """Put other faults in force and let every deliverer look again."""
        self.faults = faults
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, next_look: Callable[[Faults], float | None]) -> None:
        """Return when nothing holds back: no await stands between the last look and the return.

        Args:
            next_look: given the faults, the seconds to wait; None means until they change.
        """
        while (seconds := next_look(self.faults)) is None or seconds > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            server = await asyncio.open_connection(*self.target)
        except OSError:
            _reset(writer)
            return
        await Pipe(self, (reader, writer), server).run()


class Pipe:
    """Carry one client's connection to the server and back."""

    def __init__(self, relay: Relay, client: Side, server: Side) -> None:
        self.closed = asyncio.Event()
        self._relay = relay
        self._client_reader, self._client_writer = client
        self._server_reader, self._server_writer = server
        self._requests = CommandCounter()
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Carry until both directions have ended, or the pipe is cut."""
        requests: asyncio.Queue[Arrival] = asyncio.Queue()
        answers: asyncio.Queue[Arrival] = asyncio.Queue()
        self._tasks = [
            asyncio.create_task(work)
            for work in (
                _read(self._client_reader, requests),
                _read(self._server_reader, answers),
                self._deliver_requests(requests),
                self._deliver_answers(answers),
            )
        ]
        self._relay.pipes.add(self)
        try:
            await asyncio.wait(self._tasks)
        finally:
            self._relay.pipes.discard(self)
            self.closed.set()
        for task in self._tasks:
            if not task.cancelled():
                task.result()

    def cut(self) -> None:
        """Reset both sides; what is queued is gone."""
        _reset(self._client_writer)
        _reset(self._server_writer)
        self._end()

    def sever(self) -> None:
        """Reset the client's side; let the server have what was written to it, then an end."""
        _reset(self._client_writer)
        self._server_writer.close()
        self._end()

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _deliver_requests(self, arrivals: "asyncio.Queue[Arrival]") -> None:
        now = asyncio.get_running_loop().time
        while True:
            chunk, arrived = await arrivals.get()

            def next_look(faults: Faults, arrived: float = arrived) -> float | None:
                return None if faults.holds_requests else arrived + faults.delay_seconds - now()

            await self._relay.until(next_look)
            strikes_at = self._strikes_at(chunk) if chunk else None
            if chunk and strikes_at is not None:
                self._server_writer.write(chunk[:strikes_at])
                self.sever()
                return
            if not await self._pass_on(chunk, self._server_writer):
                return

    async def _deliver_answers(self, arrivals: "asyncio.Queue[Arrival]") -> None:
        while True:
            chunk, _ = await arrivals.get()
            await self._relay.until(lambda faults: None if faults.holds_answers else 0)
            if not await self._pass_on(chunk, self._client_writer):
                return

    async def _pass_on(self, chunk: bytes | None, to: asyncio.StreamWriter) -> bool:
        """Write a chunk, or end as its sender did; tell whether more can follow."""
        if chunk is None:
            self.cut()
        elif not chunk:
            to.close()
        else:
            try:
                to.write(chunk)
                await to.drain()
            except OSError:
                # Its reader has queued the same news, which passes when the faults let it.
                return True
            return True
        return False

    def _strikes_at(self, chunk: bytes) -> int | None:
        """Count a chunk of requests; return how much of it passes before a reset that is due."""
        relay, faults = self._relay, self._relay.faults
        ends = self._requests.ends(chunk)
        if faults.reset_each_commands:
            missing = faults.reset_each_commands - relay.commands_passed
            strikes = len(ends) >= missing
            relay.commands_passed = 0 if strikes else relay.commands_passed + len(ends)
            return ends[missing - 1] if strikes else None
        if faults.reset_each_bytes:
            missing = faults.reset_each_bytes - relay.bytes_passed
            strikes = len(chunk) >= missing
            relay.bytes_passed = 0 if strikes else relay.bytes_passed + len(chunk)
            return missing if strikes else None
        return None


async def _read(reader: asyncio.StreamReader, arrivals: "asyncio.Queue[Arrival]") -> None:
    """Queue everything that arrives, up to and with the end."""
    now = asyncio.get_running_loop().time
    chunk: bytes | None = b"-"
    while chunk:
        try:
            chunk = await reader.read(CHUNK_BYTES)
        except OSError:
            chunk = None
        arrivals.put_nowait((chunk, now()))


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()
