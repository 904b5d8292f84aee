"""Pick ports that parallel test runs, outgoing connections and cluster buses leave alone.

A port that was free a moment ago is no promise: between the look and the server's bind, another run
can take it. So a port is claimed first, by a name in Linux's abstract socket namespace: claiming is
atomic, the kernel drops the claim when the run dies however it dies, and the namespace is bounded
by the network namespace, just as ports are.

Servers get 11000..20999 and their cluster buses the port 10000 above (Redis's own convention), both
below Linux's default ephemeral range (32768..60999), so that no outgoing connection takes one.

Known weakness: a program that doesn't know of the claims can still take a port between the look and
the bind. The server then says so in its log, and `RedisProcess.wait_ready` shows it.
"""

import random
import socket
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"
BUS_OFFSET = 10_000
SERVER_PORTS = range(11_000, 21_000)


class PortClaim:
    """Hold one server port, and the bus port above it, until released."""

    def __init__(self) -> None:
        """Claim a random free port.

        Raises:
            OSError: every port of the range is taken.
        """
        for port in random.sample(SERVER_PORTS, len(SERVER_PORTS)):
            claim = _claim(port)
            if claim is None:
                continue
            if _is_free(port) and _is_free(port + BUS_OFFSET):
                self.port = port
                self._claim = claim
                return
            claim.close()
        raise OSError(f"no free port in {SERVER_PORTS.start}..{SERVER_PORTS.stop - 1}")

    def release(self) -> None:
        """Give the port back; a second call does nothing."""
        self._claim.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _claim(port: int) -> socket.socket | None:
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0flowcache-test-port-{port}")
    except OSError:
        claim.close()
        return None
    return claim


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Redis does, so that a port whose old connections linger in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
