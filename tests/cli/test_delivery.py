"""``flowcache audit deliver`` and ``deliveries``, as an operator at a terminal meets them."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_cli import flowcache
from tests.delivery.receiver import ENDPOINT_TOKEN, PATH, Fault, Receiver, receiver
from tests.servers import FLOWCACHE_ACL, RedisProcess, eventually
from tests.unit.audit.journals import SIGNING_KEY, chain


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.fixture
def config(path: Path, tmp_path: Path, there: Receiver) -> str:
    """Return a configuration without any credential: who delivers need not serve."""
    file = tmp_path / "flowcache.toml"
    file.write_text(
        f'[audit]\njournal = "{path}"\n'
        f'[delivery]\nfile = "{tmp_path}/out.jsonl"\nurl = "{there.url}/api{PATH}"\n'
        f'token = "{ENDPOINT_TOKEN}"\n'
    )
    return str(file)


@pytest.mark.parametrize("command", ["deliver", "deliveries"])
def test_help_has_an_example(command: str) -> None:
    """The help of a command shows how it is used."""
    shown = flowcache("audit", command, "--help")
    assert shown.returncode == 0
    assert f"flowcache audit {command} " in " ".join(shown.stdout.split())


def test_once(config: str, path: Path, there: Receiver, tmp_path: Path) -> None:
    """What is due is delivered everywhere; the second time there is nothing."""
    chain(path, [3])
    for _ in range(2):
        done = flowcache("audit", "deliver", "-c", config, "--once")
        assert (done.returncode, done.stdout) == (
            0,
            "file: has everything\nhttp: has everything\n",
        )
    assert len(there.lines) == 5
    assert (tmp_path / "out.jsonl").read_bytes().splitlines() == there.lines


def test_what_was_delivered_can_be_verified(config: str, path: Path, tmp_path: Path) -> None:
    """The receiver's own file is evidence: with the key, and found wrong when it was bent."""
    chain(path, [3])
    assert flowcache("audit", "deliver", "-c", config, "--once").returncode == 0
    out = tmp_path / "out.jsonl"
    verify = ("audit", "verify", "--received", str(out))
    key = {"FLOWCACHE_AUDIT_SIGNING_KEY": SIGNING_KEY}
    done = flowcache(*verify, environment=key)
    assert (done.returncode, done.stdout) == (0, "5 records in 1 chains: all are correct.\n")
    lines = out.read_text().splitlines()
    out.write_text("\n".join([lines[0], lines[0], *lines[2:], '{"torn":']))
    done = flowcache(*verify, environment=key)
    assert done.returncode == 1
    assert done.stdout.splitlines()[:2] == [
        "Skipped 1 lines that are not JSON: a crash can leave incomplete lines.",
        f"writer {json.loads(lines[0])['writer']}, record 1: missing",
    ]
    assert flowcache("audit", "verify", "--received", str(tmp_path / "none")).returncode == 2


def received(*files: Path, more: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Return exit code, output and errors of verifying ``files`` as received, with the key."""
    options = [each for file in files for each in ("--received", str(file))]
    key = {"FLOWCACHE_AUDIT_SIGNING_KEY": SIGNING_KEY}
    done = flowcache("audit", "verify", *options, *more, environment=key)
    return done.returncode, done.stdout, done.stderr


def test_rotated_files(config: str, path: Path, tmp_path: Path) -> None:
    """Together they are whole; the newer alone is judged from where it begins."""
    first = chain(path, [3])
    chain(path, [3])
    assert flowcache("audit", "deliver", "-c", config, "--once").returncode == 0
    old, new = tmp_path / "out.jsonl.1", tmp_path / "out.jsonl"
    lines = new.read_text().splitlines(keepends=True)
    mine = [line for line in lines if json.loads(line)["writer"] == first]
    rest = [line for line in lines if line not in mine]
    old.write_text("".join(mine[:2]))
    new.write_text("".join(mine[2:] + rest))
    whole = "10 records in 2 chains: all are correct.\n"
    assert received(old, new, more=("--from-start",))[:2] == (0, whole)
    code, told, _ = received(new)
    assert code == 0
    assert f"writer {first}: begins with record 2 in these files\n" in told
    code, told, _ = received(new, more=("--from-start",))
    assert (code, f"writer {first}, record 0: missing" in told) == (1, True)
    new.write_text("".join(mine[2:3] + mine[4:] + rest))
    code, told, _ = received(new)
    assert (code, f"writer {first}, record 3: missing" in told) == (1, True)


def test_chains_that_only_others_tell_of(config: str, path: Path, tmp_path: Path) -> None:
    """Nothing of a chain in the file: it is said, and a fault where all is asked."""
    first = chain(path, [3])
    chain(path, [3])
    assert flowcache("audit", "deliver", "-c", config, "--once").returncode == 0
    new = tmp_path / "out.jsonl"
    lines = new.read_text().splitlines(keepends=True)
    new.write_text("".join(line for line in lines if json.loads(line)["writer"] != first))
    code, told, _ = received(new)
    assert (code, f"writer {first}: referenced by other chains" in told) == (0, True)
    assert received(new, more=("--from-start",))[0] == 1


def test_an_export_is_no_evidence(path: Path, tmp_path: Path) -> None:
    """It has no hashes: that is said, not that records were forged."""
    chain(path, [3])
    exported = tmp_path / "export.jsonl"
    assert flowcache("audit", "export", "-j", str(path), "-o", str(exported)).returncode == 0
    code, told, errors = received(exported)
    assert (code, told) == (2, "")
    assert "the output of `audit export` doesn't" in errors


def test_once_with_a_destination_that_fails(
    config: str, path: Path, there: Receiver, tmp_path: Path
) -> None:
    """It is not tried again: exit 1, and why; the other one has everything."""
    chain(path, [3])
    there.intake_faults.append(Fault(503))
    done = flowcache("audit", "deliver", "-c", config, "--once")
    assert (done.returncode, done.stdout) == (
        1,
        "file: has everything\nhttp: the endpoint answered 503\n",
    )
    shown = flowcache("audit", "deliveries", "-c", config)
    assert shown.returncode == 1
    lines = shown.stdout.splitlines()
    rows = {words[0]: words for line in lines if (words := line.split())}
    assert rows["file"][1:3] == ["5", "0"]
    assert rows["http"][1:3] == ["0", "5"]
    assert rows["http"][-2:] == ["never", "failing"]
    assert "http: the endpoint answered 503" in lines
    assert "http: 5 records of writer" in shown.stderr


def test_a_destination_that_has_stopped(config: str, path: Path, there: Receiver) -> None:
    """It says so, until it has been tried again and went well."""
    chain(path, [3])
    there.intake_faults.append(Fault(400))
    assert flowcache("audit", "deliver", "-c", config, "--once").returncode == 1
    shown = flowcache("audit", "deliveries", "-c", config)
    assert shown.returncode == 1
    assert " stopped " in shown.stdout
    assert "http: the endpoint answered 400\n" in shown.stdout
    assert flowcache("audit", "deliver", "-c", config, "--once").returncode == 0
    shown = flowcache("audit", "deliveries", "-c", config)
    assert (shown.returncode, "stopped" in shown.stdout) == (0, False)


def test_another_process_delivers(config: str, path: Path, there: Receiver) -> None:
    """There is one a journal: exit 2, and nothing was sent."""
    chain(path)
    with Path(f"{path}-delivery-lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = flowcache("audit", "deliver", "-c", config, "--once")
    assert done.returncode == 2
    assert done.stderr == "flowcache: another process delivers from this journal.\n"
    assert there.attempts == []


def test_nothing_yet(config: str) -> None:
    """Before the service has run there is nothing to deliver, and nothing wrong."""
    assert flowcache("audit", "deliver", "-c", config, "--once").returncode == 0
    assert flowcache("audit", "deliveries", "-c", config).returncode == 0


@pytest.mark.parametrize("command", ["deliver", "deliveries"])
def test_nowhere(command: str, tmp_path: Path) -> None:
    """Without a destination the sentence says what to configure."""
    done = flowcache("audit", command)
    assert done.returncode == 2
    assert "set one in [delivery], or cxone.audit_path" in done.stderr


def test_a_stream(path: Path, fresh_standalone: RedisProcess) -> None:
    """The stream's Redis is that of the configuration."""
    chain(path, [3])
    environment = {
        "REDIS_NODES": f"127.0.0.1:{fresh_standalone.port}",
        "FLOWCACHE_AUDIT_JOURNAL": str(path),
        "FLOWCACHE_DELIVERY_STREAM": "flowcache:audit",
    }
    done = flowcache("audit", "deliver", "--once", environment=environment)
    assert (done.returncode, done.stdout) == (0, "stream: has everything\n")
    assert fresh_standalone.cli("XLEN", "flowcache:audit") == 5


def test_a_standard_output_that_nobody_reads_holds_up_no_end(path: Path) -> None:
    """SIGTERM ends it all the same; what the pipe did not take comes with the next start."""
    chain(path, [100])
    environment = os.environ | {
        "FLOWCACHE_AUDIT_JOURNAL": str(path),
        "FLOWCACHE_DELIVERY_FILE": "-",
    }
    read, write = os.pipe()
    fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, 4096)
    arguments = [sys.executable, "-m", "flowcache", "audit", "deliver"]
    with os.fdopen(read, "rb") as reader:
        with subprocess.Popen(arguments, env=environment, stdout=write) as stalled:
            try:
                eventually(lambda: _readable(read) > 0, what="the first of it")
                stalled.terminate()
                assert stalled.wait(20) == 0
            finally:
                stalled.kill()
        with subprocess.Popen([*arguments, "--once"], env=environment, stdout=write) as again:
            os.close(write)
            lines = reader.read().splitlines()
            assert again.wait(20) == 0
    records = [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}")]
    assert {record["seq"] for record in records} == set(range(102))


def _readable(pipe: int) -> int:
    """Return how many bytes are in a pipe."""
    found = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return int.from_bytes(found, sys.byteorder)


def test_a_stream_that_may_not_be_written(path: Path, fresh_standalone: RedisProcess) -> None:
    """Without the right to append, what the user lacks is named, and what to do."""
    chain(path, [3])
    rights = FLOWCACHE_ACL.split()
    fresh_standalone.cli("ACL", "SETUSER", "flowcache", "on", ">secret", *rights)
    environment = {
        "REDIS_NODES": f"127.0.0.1:{fresh_standalone.port}",
        "FLOWCACHE_REDIS_USERNAME": "flowcache",
        "FLOWCACHE_REDIS_PASSWORD": "secret",
        "FLOWCACHE_AUDIT_JOURNAL": str(path),
        "FLOWCACHE_DELIVERY_STREAM": "flowcache:audit",
    }
    try:
        done = flowcache("audit", "deliver", "--once", environment=environment)
        assert done.returncode == 1
        assert "stream: Redis forbids flowcache's user this key or command." in done.stdout
        assert "+xadd and ~flowcache:audit" in done.stdout
        fresh_standalone.cli("ACL", "SETUSER", "flowcache", "+xadd")
        done = flowcache("audit", "deliver", "--once", environment=environment)
        assert (done.returncode, done.stdout) == (0, "stream: has everything\n")
    finally:
        fresh_standalone.cli("ACL", "DELUSER", "flowcache")
