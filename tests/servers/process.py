"""One real server process: start, stop, kill, pause, ask.

No server outlives its test run, however the run ends: each is started with PR_SET_PDEATHSIG, so the
kernel kills it when its parent dies. Two facts about that call shape this module:

- The "parent" is the *thread* that forked. A server started from a worker thread would die with it,
  so one thread, which lives as long as the interpreter, starts them all (`_spawner`).
- It has to be set in the child. `setpriv` (util-linux) does so and then becomes the server, same
  pid; Python's `preexec_fn` isn't safe in a process with threads, and later Pythons warn of it.

Known weakness: a run killed in the millisecond between the fork and `setpriv`'s call leaves a
server; any killed run leaves its temporary directories, all named `flowcache-*`.
"""

import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .binaries import program, version
from .ports import LOOPBACK, PortClaim
from .wait import eventually

# A reply's type depends on its command, and the test knows which it sent.
Reply = Any

# What every data server (not a sentinel) of the suite is started with.
SERVER_CONFIG = (
    'save ""',
    "appendonly no",
    # A SIGTERM must not wait for replicas that are being stopped too.
    "shutdown-timeout 0",
    # The default holds a replica's first sync back for five seconds, to share it with others.
    "repl-diskless-sync-delay 0",
    "enable-debug-command local",
)

# Of these, what Redis does without before 7.0, and refuses to start with.
SINCE_7 = frozenset({"shutdown-timeout 0", "enable-debug-command local"})

# For the few tests where a restart must find what was written.
PERSISTENT_CONFIG = ("appendonly yes", "appendfsync always")


@dataclass(frozen=True, slots=True)
class ClientTls:
    """The files a client needs for a TLS connection; certificate and key only where asked for."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return a context that trusts this CA alone, and shows the certificate if there is one."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True, slots=True)
class Access:
    """Who a client says it is, by which host name it connects, and whether it speaks TLS."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ClientTls | None = None
    host: str = LOOPBACK

    def url(self, port: int) -> str:
        """Return the URL of a local server at `port`, credentials included."""
        scheme = "redis" if self.tls is None else "rediss"
        user = "" if self.password is None else f"{quote(self.username or '')}:"
        user += "" if self.password is None else f"{quote(self.password, safe='')}@"
        return f"{scheme}://{user}{self.host}:{port}"


OPEN_ACCESS = Access()


class ServerDiedError(RuntimeError):
    """A server process ended on its own; the message has the end of its log."""


class RedisProcess:
    """Run one server on a port of its own, bound to the loopback address only.

    As a context manager it is ready on entry and gone on exit. Without one, `start`, `wait_ready`
    and `close`, so that a group can start all its servers before it waits for the first.
    """

    def __init__(
        self,
        binary: Path,
        directory: Path,
        config: Sequence[str] = (),
        *,
        access: Access = OPEN_ACCESS,
    ) -> None:
        """Claim a port; nothing runs yet.

        Args:
            binary: the server, or the sentinel, to run.
            directory: for its files; the caller makes and removes it.
            config: further lines of its configuration file, later ones override earlier ones.
            access: how `cli` and `client` get in; with TLS, the server's plain port stays closed.
        """
        self._claim = PortClaim()
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False
        self.binary = binary
        self.directory = directory
        self.port = self._claim.port
        self.access = access
        self._config = directory / f"{self.port}.conf"
        self._log = directory / f"{self.port}.log"
        listen = f"port {self.port}" if access.tls is None else f"port 0\ntls-port {self.port}"
        base = (listen, f"bind {LOOPBACK}", f'dir "{directory}"', "daemonize no")
        known = config if version(binary) >= (7,) else [x for x in config if x not in SINCE_7]
        self._lines = [*base, *known]

    def __repr__(self) -> str:
        return f"<{self.binary.name} on port {self.port}>"

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Return the URL that reaches this server."""
        return self.access.url(self.port)

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port."""
        return LOOPBACK, self.port

    @property
    def pid(self) -> int:
        """Return the process id of the server that runs.

        Raises:
            RuntimeError: none runs.
        """
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Tell whether the process exists; a paused one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def is_live(self) -> bool:
        """Tell whether the process exists and isn't paused."""
        return self.is_running and not self._paused

    @property
    def log(self) -> str:
        """Return what the server has logged since the first start."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def configure(self, *lines: str) -> None:
        """Add lines to the configuration, for what is known only once the port is.

        Raises:
            RuntimeError: the server has been started before.
        """
        if self._config.exists():
            raise RuntimeError(f"{self} has its configuration already")
        self._lines += lines

    def start(self) -> None:
        """Start the process, without waiting until it answers.

        Raises:
            RuntimeError: it runs already.
        """
        if self.is_running:
            raise RuntimeError(f"{self} runs already")
        if not self._config.exists():
            # Written once: what the server rewrites (a sentinel's state, say) survives a restart.
            self._config.write_text("\n".join(self._lines) + "\n", encoding="utf-8")
        self._process = _spawner().submit(self._spawn).result()
        self._paused = False

    def wait_ready(self, within: float = 20.0) -> None:
        """Wait until the server answers PING, were it to ask for a password.

        Raises:
            ServerDiedError: it ended instead.
            TimeoutError: it didn't answer in time.
        """
        eventually(
            self._answers_ping, within=within, what=f"{self} to answer PING", ignoring=(OSError,)
        )

    def stop(self) -> None:
        """Ask the server to end (SIGTERM); kill it where it doesn't within five seconds."""
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        self.resume()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL); where none runs, do nothing."""
        if self._process is None:
            return
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._paused = False

    def pause(self) -> None:
        """Stall the server (SIGSTOP): connections stay open, and nothing is answered."""
        pid = self._running().pid
        os.kill(pid, signal.SIGSTOP)
        # Without the wait, a thread of the server can still answer a last command. WNOWAIT leaves
        # the event in place, since `Popen` is the one that reaps.
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self._paused = True

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT); where it isn't paused, do nothing."""
        if self._paused:
            self._signal(signal.SIGCONT)
            self._paused = False

    def restart(self) -> None:
        """Stop the server if it runs, start it on the same port, wait until it answers."""
        self.stop()
        self.start()
        self.wait_ready()

    def close(self) -> None:
        """Kill the server and give its port back."""
        self.kill()
        self._claim.release()

    def client(self, **options: object) -> redis.Redis:
        """Return a synchronous client of this server, for the caller to close.

        It tries once and gives up after five seconds, because tests do their own waiting.

        Args:
            options: further arguments of `redis.Redis`, which win over the ones set here.
        """
        arguments: dict[str, Any] = {
            "host": self.access.host,
            "port": self.port,
            "username": self.access.username,
            "password": self.access.password,
            "socket_timeout": 5.0,
            "socket_connect_timeout": 5.0,
            "retry": Retry(NoBackoff(), 0),
            # Raw RESP2 shapes, and no handshake beyond AUTH.
            "protocol": 2,
            "driver_info": None,
        }
        if (tls := self.access.tls) is not None:
            arguments |= {
                "ssl": True,
                "ssl_ca_certs": str(tls.ca),
                "ssl_certfile": tls.certificate and str(tls.certificate),
                "ssl_keyfile": tls.key and str(tls.key),
            }
        return redis.Redis(**(arguments | options))

    def cli(self, *args: str | bytes | int | float) -> Reply:
        """Run one command on a connection of its own and return the reply, its text decoded.

        Replies are as redis-py gives them: `cli("INFO", "replication")` is a dict. Bytes that are
        no UTF-8 come back with replacement characters; `client()` gives them as they are.

        Raises:
            redis.RedisError: what the server, or the connection to it, had to say.
        """
        with closing(self.client(decode_responses=True, encoding_errors="replace")) as client:
            # redis-py leaves execute_command without annotations.
            return client.execute_command(*args)  # type: ignore[no-untyped-call]

    def _spawn(self) -> subprocess.Popen[bytes]:
        setpriv = program("setpriv", package="util-linux")
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [setpriv, "--pdeathsig", "KILL", "--", self.binary, self._config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches pytest alone, which then tears down in order.
                start_new_session=True,
            )

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self} doesn't run")
        return self._process

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            # Does nothing, and hits nobody else, where the process has ended.
            self._process.send_signal(number)

    def _answers_ping(self) -> bool:
        if not self.is_running:
            raise ServerDiedError(f"{self} ended on its own; its log ends:\n{self.log[-2000:]}")
        with socket.create_connection(self.address, timeout=1.0) as plain:
            if self.access.tls is None:
                return _ping(plain)
            with self.access.tls.context().wrap_socket(
                plain, server_hostname=self.access.host
            ) as secure:
                return _ping(secure)


def _ping(connection: socket.socket) -> bool:
    connection.sendall(b"PING\r\n")
    return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))


@cache
def _spawner() -> ThreadPoolExecutor:
    """Return the one thread that starts every server; its end, at interpreter exit, ends them."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="server-spawner")
