"""Servers without a cluster: one alone, and a primary with its replica."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .binaries import valkey_binary
from .ports import LOOPBACK
from .process import PERSISTENT_CONFIG, SERVER_CONFIG, RedisProcess
from .wait import eventually


@contextmanager
def standalone(
    binary: Path | None = None,
    *,
    persistent: bool = False,
    config: Sequence[str] = (),
    common: Sequence[str] = SERVER_CONFIG,
) -> Iterator[RedisProcess]:
    """Run one server.

    Args:
        binary: Valkey's by default.
        persistent: keep an append-only file, synced at each write, so that a restart loses nothing.
        config: further lines of its configuration.
        common: what it has in common with others; a Sentinel has nothing.
    """
    lines = (*common, *(PERSISTENT_CONFIG if persistent else ()), *config)
    with (
        tempfile.TemporaryDirectory(prefix="flowcache-") as directory,
        RedisProcess(binary or valkey_binary(), Path(directory), lines) as server,
    ):
        yield server


@dataclass(frozen=True, slots=True)
class Replicated:
    """A primary and the replica that follows it; nobody fails it over."""

    primary: RedisProcess
    replica: RedisProcess

    def wait_linked(self, within: float = 20.0) -> None:
        """Wait until the replica's link is up and it has everything the primary has written."""
        eventually(self._is_caught_up, within=within, what="the replica to catch up")

    def _is_caught_up(self) -> bool:
        written = self.primary.cli("INFO", "replication")["master_repl_offset"]
        replica = self.replica.cli("INFO", "replication")
        return bool(
            replica["role"] == "slave"
            and replica["master_link_status"] == "up"
            and replica["slave_repl_offset"] >= written
        )


@contextmanager
def replicated(binary: Path | None = None, *, config: Sequence[str] = ()) -> Iterator[Replicated]:
    """Run a primary and one replica of it, linked.

    Args:
        binary: Valkey's by default.
        config: further lines for both.
    """
    binary = binary or valkey_binary()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flowcache-")))
        primary = stack.enter_context(RedisProcess(binary, directory, (*SERVER_CONFIG, *config)))
        follow = f"replicaof {LOOPBACK} {primary.port}"
        replica = stack.enter_context(
            RedisProcess(binary, directory, (*SERVER_CONFIG, *config, follow))
        )
        pair = Replicated(primary, replica)
        pair.wait_linked()
        yield pair
