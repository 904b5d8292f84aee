"""A TCP proxy that goes wrong on command, to stand between flowcache and one server.

It runs in a thread of its own, and each of its methods returns once its effect is in force. Faults
last until `restore`; `reset` happens once.

Bytes are never invented, reordered or left out: what `drop` holds back arrives after `restore`,
just as TCP delivers when a partition heals. A client that gave up meanwhile has closed its
connection; what it had sent reaches the server all the same, which is the case worth testing. The
end of a connection is held back too, so in a partition nobody learns that the other side has gone.
"""

import asyncio
import socket
import threading
from collections.abc import Coroutine
from dataclasses import replace
from types import TracebackType
from typing import Literal, Self

from .ports import LOOPBACK
from .relay import Faults, Relay

Direction = Literal["both", "requests", "answers"]


class Proxy:
    """Forward a port of the loopback address to a server, and fail as told."""

    def __init__(self, target: tuple[str, int]) -> None:
        """Listen on a port the kernel picks; connections are served from `__enter__` on.

        Args:
            target: host and port of the server behind, which may come and go.
        """
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._relay = Relay(target)
        # The selector loop by name: an event-loop policy of the suite has no say here.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait_for(self._relay.listen(self._listener))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._wait_for(self._relay.shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port for the client to connect to."""
        return LOOPBACK, self.port

    @property
    def url(self) -> str:
        """Return the URL of the server through this proxy (one without TLS or password)."""
        return f"redis://{LOOPBACK}:{self.port}"

    @property
    def accepted(self) -> int:
        """Return how many connections clients have opened so far."""
        return self._relay.accepted

    @property
    def open_connections(self) -> int:
        """Return how many connections are open now."""
        return len(self._relay.pipes)

    def drop(self, direction: Direction = "both") -> None:
        """Forward nothing, silently: connections stay open, new ones are taken, bytes are held.

        Args:
            direction: "answers" holds answers alone, so the server does what the client can't know
                of; "requests" holds requests alone.
        """
        self._change(
            replace(
                self._relay.faults,
                holds_requests=direction in ("both", "requests"),
                holds_answers=direction in ("both", "answers"),
            )
        )

    def delay(self, seconds: float) -> None:
        """Let each request arrive `seconds` late; a pipeline of them is late once."""
        self._change(replace(self._relay.faults, delay_seconds=seconds))

    def reset_every(self, *, commands: int = 0, n_bytes: int = 0) -> None:
        """Reset the connection that carries each n-th command, or byte, counted over all of them.

        The n-th command reaches the server whole, and its answer never comes back. The n-th byte is
        the last to reach the server, most often inside a command. Handshakes count too, and nothing
        that came before this call does.

        Raises:
            ValueError: not exactly one of the two is given, or it isn't positive.
        """
        if min(commands, n_bytes) != 0 or max(commands, n_bytes) == 0:
            raise ValueError("give either commands or n_bytes, at least 1")
        self._relay.commands_passed = self._relay.bytes_passed = 0
        self._change(
            replace(self._relay.faults, reset_each_commands=commands, reset_each_bytes=n_bytes)
        )

    def reset(self) -> None:
        """Cut every open connection now (RST to both sides); new ones are welcome."""
        self._wait_for(self._relay.reset())

    def restore(self) -> None:
        """End every fault; held bytes go on their way."""
        self._change(Faults())

    def _change(self, faults: Faults) -> None:
        self._wait_for(self._relay.change(faults))

    def _wait_for(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()
