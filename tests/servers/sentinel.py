"""A primary, two replicas, and three Sentinels that watch over them."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from .binaries import redis_binary, sentinel_binary
from .ports import LOOPBACK
from .process import SERVER_CONFIG, RedisProcess
from .wait import eventually

SERVICE = "flows"
REPLICAS = 2
SENTINELS = 3
QUORUM = 2

SENTINEL_CONFIG = (
    f"sentinel down-after-milliseconds {SERVICE} 1000",
    # A Sentinel that failed to elect tries again after twice this time.
    f"sentinel failover-timeout {SERVICE} 3000",
    f"sentinel parallel-syncs {SERVICE} {REPLICAS}",
)

# How often Sentinels look (INFO, 10 s by default) and tell one another (hello, 2 s), in
# milliseconds. To find one another they may be hasty. Afterwards not: a server that claims to be
# primary for four hellos while a Sentinel hasn't heard of its promotion is made a replica again,
# and one whose INFO is three periods old is no candidate. SENTINEL DEBUG exists from Redis 7.0 on.
HASTY = ("INFO-PERIOD", 200, "PUBLISH-PERIOD", 200)
STEADY = ("INFO-PERIOD", 1000, "PUBLISH-PERIOD", 1000)


@dataclass(frozen=True, slots=True)
class SentinelGroup:
    """Ask the Sentinels who is primary; make them change their mind."""

    servers: tuple[RedisProcess, ...]
    sentinels: tuple[RedisProcess, ...]
    service: str = SERVICE

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Return host and port of every Sentinel, which is all a client has to know."""
        return [sentinel.address for sentinel in self.sentinels]

    def primary(self) -> RedisProcess:
        """Return the server that the live Sentinels agree on.

        Raises:
            AssertionError: they don't agree.
        """
        ports = {self._primary_port(sentinel) for sentinel in self._live_sentinels()}
        assert len(ports) == 1, f"the Sentinels name different primaries: {sorted(ports)}"
        return next(server for server in self.servers if server.port in ports)

    def replicas(self) -> list[RedisProcess]:
        """Return the servers that aren't the primary, dead ones included."""
        primary = self.primary()
        return [server for server in self.servers if server is not primary]

    def failover(self, within: float = 60.0) -> RedisProcess:
        """Have the Sentinels replace a healthy primary; return the new one.

        The old one becomes a replica some seconds later, which `wait_ok` waits for.
        """
        self.wait_ok(within)
        old = self.primary()

        def succeeds() -> RedisProcess | None:
            # A failover that finds no fit replica gives up in silence.
            with suppress(redis.ResponseError):
                self._live_sentinels()[0].cli("SENTINEL", "FAILOVER", self.service)
            with suppress(TimeoutError):
                return self.wait_primary_changed(old, within=8)
            return None

        return eventually(succeeds, within=within, what=f"a failover from {old}")

    def wait_primary_changed(self, old: RedisProcess, within: float = 40.0) -> RedisProcess:
        """Wait until the live Sentinels agree on another primary, and it is one; return it."""

        def changed() -> RedisProcess | None:
            primary = self.primary()
            is_changed = primary is not old and _replication(primary)["role"] == "master"
            return primary if is_changed else None

        return eventually(
            changed,
            within=within,
            what=f"a primary other than {old}",
            ignoring=(redis.RedisError,),
        )

    def heal(self, within: float = 40.0) -> None:
        """Start and resume whatever is down, and wait until all is well."""
        processes = (*self.servers, *self.sentinels)
        for process in processes:
            if not process.is_running:
                process.start()
            process.resume()
        for process in processes:
            process.wait_ready()
        for sentinel in self.sentinels:
            sentinel.cli("SENTINEL", "DEBUG", *STEADY)
        # The Sentinels would come to it themselves, after four hellos.
        for server in eventually(self.replicas, within=within, what="one primary"):
            if _replication(server)["role"] == "master":
                server.cli("REPLICAOF", LOOPBACK, self.primary().port)
                server.cli("CONFIG", "REWRITE")
        self.wait_ok(within)

    def flush(self) -> None:
        """Remove every key."""
        self.primary().cli("FLUSHALL")

    def wait_ok(self, within: float = 40.0) -> None:
        """Wait until live Sentinels agree and live replicas follow the primary."""
        eventually(
            self._is_ok, within=within, what="the Sentinels to agree", ignoring=(redis.RedisError,)
        )

    def _live_sentinels(self) -> list[RedisProcess]:
        live = [sentinel for sentinel in self.sentinels if sentinel.is_live]
        if not live:
            raise LookupError("no Sentinel is live")
        return live

    def _primary_port(self, sentinel: RedisProcess) -> int:
        _, port = sentinel.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return int(port)

    def _is_ok(self) -> bool:
        primary = self.primary()
        followers = {server.port for server in self.servers if server.is_live} - {primary.port}
        role = _replication(primary)["role"]
        assert role == "master", f"{primary} is a {role} itself"
        for server in self.servers:
            if server.port in followers:
                replication = _replication(server)
                assert replication.get("master_port") == primary.port, f"{server} follows another"
                assert replication["master_link_status"] == "up", f"{server} has its link down"
        for sentinel in self._live_sentinels():
            watched = _fields(sentinel.cli("SENTINEL", "MASTER", self.service))
            assert watched["flags"] == "master", f"{sentinel} says {watched['flags']}"
            others = int(watched["num-other-sentinels"])
            assert others == len(self.sentinels) - 1, f"{sentinel} knows {others} others"
            known = map(_fields, sentinel.cli("SENTINEL", "REPLICAS", self.service))
            well = {
                int(replica["port"])
                for replica in known
                if replica["flags"] == "slave"
                and replica["master-link-status"] == "ok"
                and int(replica["master-port"]) == primary.port
            }
            assert followers <= well, f"{sentinel} finds {sorted(followers - well)} unwell"
        return True


def _replication(server: RedisProcess) -> dict[str, Any]:
    replication: dict[str, Any] = server.cli("INFO", "replication")
    return replication


def _fields(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


@contextmanager
def sentinel_group(binary: Path | None = None) -> Iterator[SentinelGroup]:
    """Run a primary, its two replicas and three Sentinels, all of one mind.

    Args:
        binary: the data servers', Debian's redis-server by default. The Sentinels are Debian's.
    """
    binary = binary or redis_binary()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flowcache-")))

        def launch(program: Path, *lines: str) -> RedisProcess:
            process = RedisProcess(program, directory, lines)
            stack.callback(process.close)
            process.start()
            return process

        primary = launch(binary, *SERVER_CONFIG)
        follow = f"replicaof {LOOPBACK} {primary.port}"
        replicas = [launch(binary, *SERVER_CONFIG, follow) for _ in range(REPLICAS)]
        servers = (primary, *replicas)
        for server in servers:
            server.wait_ready()
        watch = f"sentinel monitor {SERVICE} {LOOPBACK} {primary.port} {QUORUM}"
        sentinels = tuple(
            launch(sentinel_binary(), watch, *SENTINEL_CONFIG) for _ in range(SENTINELS)
        )
        for sentinel in sentinels:
            sentinel.wait_ready()
            sentinel.cli("SENTINEL", "DEBUG", *HASTY)
        group = SentinelGroup(servers, sentinels)
        group.wait_ok()
        for sentinel in sentinels:
            sentinel.cli("SENTINEL", "DEBUG", *STEADY)
        yield group
