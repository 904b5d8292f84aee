"""The servers that are compared, and how each one is started.

To add one: a function that returns its command and environment, and a line in ``KINDS``. It must
answer the seed's ``POST /data-action/redis``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from bench.processes import BenchError, Child, wait_until
from bench.workload import PATH, body_of

ROOT = Path(__file__).resolve().parent.parent
SEED = ROOT / "bench" / "peers" / "seed"
START_SECONDS = 30.0


class LeftOutError(Exception):
    """A peer can't run on this machine; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What every server is told."""

    port: int
    redis_nodes: str
    token: str
    inspector_token: str


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the servers to compare."""

    name: str
    title: str
    command: Callable[[Setting], list[str]]
    environment: Callable[[Setting], dict[str, str]]
    prepare: Callable[[Callable[[str], None]], None]
    uses_redis: bool = True
    by_default: bool = True
    """Whether it is compared when nobody says which."""
    family: str = "customer"
    """Whose keys it uses: a server that stores another form of a value has its own."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers."""

    kind: Kind
    child: Child
    port: int


def _bare_command(setting: Setting) -> list[str]:
    command = [sys.executable, "-m", "granian", "--interface", "asgi", "--loop", "uvloop"]
    command += ["--http", "1", "--no-ws", "--workers", "1", "--log-level", "warning"]
    command += ["--host", "127.0.0.1", "--port", str(setting.port)]
    return [*command, "bench.peers.bare_asgi:app"]


def _bare_environment(_: Setting) -> dict[str, str]:
    return {}


def _prepare_bare(_: Callable[[str], None]) -> None:
    if importlib.util.find_spec("granian") is None:
        raise BenchError("granian isn't installed in this Python; without it there is no floor")


def _own_command(setting: Setting) -> list[str]:
    return [sys.executable, "-m", "bench.peers.own_server", str(setting.port)]


def _flowcache_command(setting: Setting, python: str = sys.executable) -> list[str]:
    command = [python, "-m", "flowcache", "serve", "--host", "127.0.0.1"]
    return [*command, "--port", str(setting.port), "--workers", "1"]


def _flowcache_environment(setting: Setting) -> dict[str, str]:
    return {
        "REDIS_NODES": setting.redis_nodes,
        "SERVICE_BEARER_TOKEN": setting.token,
        "FLOWCACHE_INSPECTOR_TOKEN": setting.inspector_token,
    }


def _relaxed_environment(setting: Setting) -> dict[str, str]:
    journal = {"FLOWCACHE_AUDIT_JOURNAL": "audit.db", "FLOWCACHE_AUDIT_SIGNING_KEY": "k" * 32}
    return _flowcache_environment(setting) | journal


def _strict_environment(setting: Setting) -> dict[str, str]:
    return _relaxed_environment(setting) | {"FLOWCACHE_AUDIT_MODE": "strict"}


def _encrypted_environment(setting: Setting) -> dict[str, str]:
    key = b64encode(b"k" * 32).decode()
    return _flowcache_environment(setting) | {"FLOWCACHE_ENCRYPTION_KEYS": f"bench:{key}"}


def _prepare_flowcache(_: Callable[[str], None]) -> None:
    # Never left out in silence: it is what the benchmark is for.
    if importlib.util.find_spec("flowcache") is None:
        raise BenchError(
            "flowcache isn't installed in this Python: install it (pip install -e .), "
            "or name other servers with --only"
        )


def _node_command(_: Setting) -> list[str]:
    return [shutil.which("node") or "node", str(SEED / "server.js")]


def _node_environment(setting: Setting) -> dict[str, str]:
    return {
        "NODE_ENV": "production",
        "PORT": str(setting.port),
        "REDIS_NODES": setting.redis_nodes,
        "SERVICE_BEARER_TOKEN": setting.token,
    }


def _prepare_node(tell: Callable[[str], None]) -> None:
    """Install the Node service's dependencies when they are missing or older than the lock."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    lock, installed = SEED / "package-lock.json", SEED / "node_modules" / ".package-lock.json"
    is_installed = installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime
    if "node" in missing or (missing and not is_installed):
        raise LeftOutError(f"{' and '.join(missing)} not found on PATH (Node 20 or newer wanted)")
    if is_installed:
        return
    tell("npm ci for the Node service")
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    outcome = subprocess.run(command, cwd=SEED, capture_output=True, text=True, check=False)
    if outcome.returncode:
        lines = outcome.stderr.strip().splitlines()[-5:]
        raise LeftOutError("npm ci failed:\n" + "\n".join(f"    {line}" for line in lines))


FLOWCACHE = Kind(
    "flowcache",
    "flowcache",
    _flowcache_command,
    _flowcache_environment,
    _prepare_flowcache,
)
BARE = Kind(
    "bare",
    "bare ASGI",
    _bare_command,
    _bare_environment,
    _prepare_bare,
    uses_redis=False,
)
OWN = Kind(
    "own",
    "bare, own server",
    _own_command,
    _bare_environment,
    _prepare_flowcache,
    uses_redis=False,
)
NODE = Kind("node", "Node service", _node_command, _node_environment, _prepare_node)
RELAXED = Kind(
    "relaxed",
    "relaxed journal",
    _flowcache_command,
    _relaxed_environment,
    _prepare_flowcache,
    by_default=False,
)
STRICT = Kind(
    "strict",
    "strict journal",
    _flowcache_command,
    _strict_environment,
    _prepare_flowcache,
    by_default=False,
)
ENCRYPTED = Kind(
    "encrypted",
    "encrypted",
    _flowcache_command,
    _encrypted_environment,
    _prepare_flowcache,
    by_default=False,
    family="patient",
)
KINDS: Mapping[str, Kind] = {
    kind.name: kind for kind in (BARE, OWN, FLOWCACHE, NODE, RELAXED, STRICT, ENCRYPTED)
}


def before(checkout: Path) -> Kind:
    """Return the flowcache of another checkout, started with that checkout's own Python."""
    python = str(checkout.resolve() / ".venv" / "bin" / "python")

    def prepare(_: Callable[[str], None]) -> None:
        command = [python, "-c", "import flowcache; print(flowcache.__file__)"]
        try:
            outcome = subprocess.run(
                command, env=clean_environment(), capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError) as problem:
            raise BenchError(
                f"--against: {python} can't import flowcache ({problem}); "
                "run make check in that checkout once: it makes the .venv"
            ) from None
        if not Path(outcome.stdout.strip()).resolve().is_relative_to(checkout.resolve()):
            raise BenchError(f"--against: {python} imports flowcache from {outcome.stdout.strip()}")

    return Kind(
        "before",
        "before",
        lambda setting: _flowcache_command(setting, python),
        _flowcache_environment,
        prepare,
    )


def start(kind: Kind, setting: Setting, *, folder: Path, cores: Collection[int]) -> Child:
    """Start one server in an empty folder, with nothing configured but `setting`."""
    home = folder / kind.name
    home.mkdir()
    environment = clean_environment() | kind.environment(setting)
    return Child(
        kind.name, kind.command(setting), cores=cores, folder=home, environment=environment
    )


def wait_for(server: Server, token: str) -> None:
    """Wait until the server runs an operation.

    Raises:
        BenchError: it has ended, or doesn't answer in time.
    """
    condition = f"{server.kind.title} answers"
    for _ in wait_until(condition, seconds=START_SECONDS, children=[server.child]):
        if _answers(server, token):
            return


def _answers(server: Server, token: str) -> bool:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=2)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        connection.request("POST", PATH, body_of("SET", 0, server.kind.family), headers)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def clean_environment() -> dict[str, str]:
    """Keep the caller's environment, less what would configure a server behind our back."""
    ours = ("FLOWCACHE_", "GRANIAN_", "CXONE_", "NODE_", "REDIS_", "SERVICE_")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    # Children run in folders of their own, so relative entries would point elsewhere.
    inherited = kept.get("PYTHONPATH", "").split(os.pathsep)
    entries = [str(ROOT), *(entry for entry in inherited if entry)]
    kept["PYTHONPATH"] = os.pathsep.join(str(Path(entry).resolve()) for entry in entries)
    return kept
