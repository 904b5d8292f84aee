"""``flowcache config``: the first steps of a newcomer, and what an operator sees."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from tests.cli.test_cli import flowcache
from tests.servers import RedisProcess
from tests.service import TOKEN, service

SECRET = "hunter2-hunter2-hunter2"


def test_the_first_steps_of_a_newcomer_work(
    tmp_path: Path, standalone_server: RedisProcess
) -> None:
    """Sample, show, check and serve: each takes what the one before printed."""
    file = tmp_path / "flowcache.toml"
    environment = {
        "SERVICE_BEARER_TOKEN": TOKEN,
        "REDIS_NODES": f"127.0.0.1:{standalone_server.port}",
    }
    made = flowcache("config", "sample")
    assert (made.returncode, made.stderr) == (0, "")
    file.write_text(made.stdout)
    for command in (("config", "show"), ("check",)):
        done = flowcache(*command, "-c", str(file), environment=environment)
        assert (done.returncode, done.stderr) == (0, ""), command
    with service(environment, "--config", str(file)) as running:
        assert running.call(operation="SET", key="newcomer", value=1, ttl=60).status == 200


def test_show_prints_toml_that_says_the_same(tmp_path: Path) -> None:
    """What is shown can be pasted into a file: values as TOML, their sources in comments."""
    file = tmp_path / "flowcache.toml"
    file.write_text(
        '[http]\nport = 3999\n[breaker]\nwindow = "30 seconds"\n[clients."a.b"]\n'
        f'tokens = ["sha256:{"0" * 64}"]\npermissions = ["data:read"]\nkeys = ["a:*"]\nrate = 0.5'
    )
    environment = {"SERVICE_BEARER_TOKEN": TOKEN, "FLOWCACHE_WORKERS": "2"}
    done = flowcache("config", "show", "-c", str(file), environment=environment)
    assert done.returncode == 0
    shown = tomllib.loads(done.stdout)
    assert (shown["http"]["port"], shown["http"]["workers"]) == (3999, 2)
    assert shown["breaker"]["window"] == "30 seconds"
    assert shown["clients"]["a.b"]["rate"] == 0.5
    lines = {line.partition(" ")[0]: line for line in done.stdout.splitlines()}
    assert lines["port"].endswith(f"# {file}")
    assert lines["workers"].endswith("# FLOWCACHE_WORKERS")
    assert "# tls_cert_file                              # not set: plain HTTP" in done.stdout


def test_show_tells_faults_and_no_secret(tmp_path: Path) -> None:
    """With faults, all of them are told, values are shown all the same, and the exit code is 2."""
    file = tmp_path / "flowcache.toml"
    file.write_text(f'[http]\nprot = 1\n[redis]\npassword = "{SECRET}"\nsentinel_password = 7')
    environment = {"SERVICE_BEARER_TOKEN": f"{SECRET} {SECRET}", "FLOWCACHE_PORT": "x"}
    paths = {"http.prot", "http.port", "auth.token", "redis.sentinel_password"}
    for as_json in (False, True):
        arguments = ["--json"] if as_json else []
        done = flowcache("config", "show", "-c", str(file), *arguments, environment=environment)
        assert done.returncode == 2
        assert SECRET not in done.stdout + done.stderr
        told = done.stderr.splitlines()[1:]
        assert {line.removeprefix("  - ").partition(" ")[0] for line in told} == paths
        if as_json:
            found = json.loads(done.stdout)
            assert found["settings"]["redis.password"] == {"value": "***", "source": str(file)}
            assert {fault["path"] for fault in found["faults"]} == paths
        else:
            (line,) = (each for each in done.stdout.splitlines() if each.startswith("password"))
            assert line.split(" # ") == ['password = "***"'.ljust(44), str(file)]
