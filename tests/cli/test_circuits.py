"""``flowcache circuits``, as an operator meets it at a terminal."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.ports import PortClaim
from tests.service import CONTROL_TOKEN, INSPECTOR_TOKEN, TOKEN, Service, service

CONTROL = {"FLOWCACHE_INSPECTOR_CONTROL_TOKEN": CONTROL_TOKEN}
INSPECTOR = {"FLOWCACHE_INSPECTOR_TOKEN": INSPECTOR_TOKEN}

Done = subprocess.CompletedProcess[str]


def circuits(
    *arguments: str, environment: dict[str, str] | None = None, given: str | None = None
) -> Done:
    """Run the command to its end, with the operator's token unless told otherwise."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLOWCACHE_", "REDIS_", "SERVICE_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "flowcache", "circuits", *arguments],
        env=clean | (CONTROL if environment is None else environment),
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    """Share a flowcache with an embedded Valkey, whose circuits are there; tests put them back."""
    with service({}, "--embedded") as started:
        assert started.call(operation="GET", key="k").status == 200
        yield started


@contextmanager
def answering(status: int, body: bytes, heard: list[str] | None = None) -> Iterator[str]:
    """Run a server that is no flowcache; yield its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if heard is not None:
                heard.append(self.path)
            self.send_response(status)
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def refused(done: Done, *told: str) -> None:
    """Check that a command failed with one sentence that holds ``told``, and no traceback."""
    assert done.returncode == 2, done.stdout
    assert done.stdout == ""
    assert done.stderr.startswith("flowcache: ")
    assert done.stderr.count("\n") == 1
    for each in told:
        assert each in done.stderr


class TestShowing:
    @pytest.mark.parametrize("token", [CONTROL, INSPECTOR])
    def test_the_table_has_every_circuit(self, running: Service, token: dict[str, str]) -> None:
        """Shard by shard, with access, mode and state; whoever may inspect may look."""
        done = circuits("--url", running.url, environment=token)
        assert done.returncode == 0, done.stderr
        shard = running.inspect("?limit=0")["circuits"][0]["shard"]
        rows = [line.split()[:4] for line in done.stdout.splitlines() if shard in line]
        assert rows == [
            [shard, access, "auto", "closed"] for access in ("fallback", "read", "write")
        ]
        assert "configured: auto" in done.stdout

    def test_it_can_be_read_by_programs(self, running: Service) -> None:
        """As the service tells it, and nothing else."""
        told = json.loads(circuits("--url", running.url, "--json").stdout)
        assert {each["access"] for each in told["circuits"]} == {"read", "write", "fallback"}

    def test_before_the_first_call_there_is_none(self) -> None:
        """Which is said."""
        with service({}, "--embedded") as fresh:
            assert "No shard has been called yet." in circuits("--url", fresh.url).stdout


class TestSwitching:
    def test_an_order_is_carried_out_and_shown(self, running: Service) -> None:
        """Held, shown as held with whose order it was, and let go again."""
        done = circuits("set", "forced-open", "--access", "read", "--url", running.url)
        assert done.stdout == "forced-open: all shards, read; 1 circuit in 1 worker.\n"
        assert running.call(operation="GET", key="k").json["code"] == "circuit_open"
        assert running.call(operation="SET", key="k", value=1).status == 200
        shown = circuits("--url", running.url).stdout
        assert re.search(r" read +forced-open +open ", shown)
        assert "forced-open for all shards, read: by control, 20" in shown
        done = circuits("clear", "--url", running.url)
        assert done.stdout == "Cleared: all shards, all access; 1 circuit in 1 worker.\n"
        assert running.call(operation="GET", key="k").status == 200
        assert "control" not in circuits("--url", running.url).stdout

    def test_a_part_of_an_order_is_taken_back(self, running: Service) -> None:
        """What else it was about stays as it was ordered; what was done is shown."""
        at = ("--url", running.url)
        assert circuits("set", "forced-open", *at).returncode == 0
        assert circuits("clear", "--access", "read", *at).returncode == 0
        assert running.call(operation="GET", key="k").status == 200
        assert running.call(operation="SET", key="k", value=1).json["code"] == "circuit_open"
        assert "configured for all shards, read: by control, 20" in circuits(*at).stdout
        assert circuits("clear", *at).returncode == 0
        assert running.call(operation="SET", key="k", value=1).status == 200

    def test_a_shard_is_named_as_in_the_list(self, running: Service) -> None:
        """A name that is not there is told, with those that are; nothing is switched."""
        shard = running.inspect("?limit=0")["circuits"][0]["shard"]
        at = ("--url", running.url)
        assert circuits("set", "disabled", "--shard", shard, *at).returncode == 0
        assert circuits("set", "auto", *at).returncode == 0
        refused(circuits("set", "forced-open", "--shard", "nope:1", *at), "'nope:1'", shard)
        assert running.call(operation="GET", key="k").status == 200

    def test_options_before_the_command_are_meant_for_it(self, running: Service) -> None:
        """Or an order would go to another service than the one that was named."""
        done = circuits("--url", running.url, "set", "auto")
        assert done.returncode == 0, done.stderr
        with PortClaim() as claim:
            refused(circuits("--url", f"http://127.0.0.1:{claim.port}", "set", "auto"), "nobody")

    @pytest.mark.parametrize("words", [["open"], [], ["auto", "--access", "reads"]])
    def test_a_mode_or_access_that_is_none_is_told(self, words: list[str]) -> None:
        """Before anybody is asked; what there is is told."""
        done = circuits("set", *words)
        assert done.returncode == 2
        assert "Usage:" in done.stderr


class TestTokens:
    def test_a_file_has_the_first_word(self, running: Service, tmp_path: Path) -> None:
        """Its last line break doesn't count."""
        file = tmp_path / "token"
        file.write_text(CONTROL_TOKEN + "\n")
        done = circuits(
            *("set", "auto", "--url", running.url, "--token-file", str(file)),
            environment={"FLOWCACHE_INSPECTOR_CONTROL_TOKEN": "another"},
        )
        assert done.returncode == 0, done.stderr

    def test_it_may_come_from_standard_input(self, running: Service) -> None:
        """Out of a password store, and onto no disk."""
        words = ("set", "auto", "--url", running.url, "--token-file", "-")
        done = circuits(*words, environment={}, given=CONTROL_TOKEN)
        assert done.returncode == 0, done.stderr

    def test_without_any_it_says_where_one_may_come_from(self) -> None:
        """Both variables to look, one to switch; and the option."""
        both = ("FLOWCACHE_INSPECTOR_CONTROL_TOKEN", "FLOWCACHE_INSPECTOR_TOKEN", "--token-file")
        refused(circuits(environment={}), *both)
        done = circuits("set", "auto", environment=INSPECTOR)
        refused(done, "no token; set FLOWCACHE_INSPECTOR_CONTROL_TOKEN, or")

    @pytest.mark.parametrize("token", ["wrong", TOKEN, INSPECTOR_TOKEN])
    def test_a_token_that_may_not_is_told_which_may(self, running: Service, token: str) -> None:
        """And is not shown."""
        environment = {"FLOWCACHE_INSPECTOR_CONTROL_TOKEN": token}
        done = circuits("set", "disabled", "--url", running.url, environment=environment)
        refused(done, "inspector.control_token")
        assert token not in done.stderr

    @pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe", "tökén".encode()])
    def test_a_file_without_a_token_is_told(self, tmp_path: Path, content: bytes | None) -> None:
        """Not there, empty, or nothing that flowcache would take."""
        file = tmp_path / "token"
        if content is not None:
            file.write_bytes(content)
        refused(circuits("--token-file", str(file)), "token")


class TestElsewhere:
    def test_nobody_there(self) -> None:
        """The address is told, and what to do."""
        with PortClaim() as claim:
            done = circuits("--url", f"http://127.0.0.1:{claim.port}")
        refused(done, f"127.0.0.1:{claim.port}", "is flowcache running there?", "--url")

    @pytest.mark.parametrize(
        "url",
        [
            "127.0.0.1:3000",
            "ftp://x",
            "http://",
            "http://a:b@x",
            "http://x:port",
            "http://x?y",
            "//",
        ],
    )
    def test_what_is_no_address(self, url: str) -> None:
        """Nobody is asked."""
        refused(circuits("--url", url), "--url: expected http://host:port", url)

    @pytest.mark.parametrize("body", [b"<html>", b"[]", b"", b'{"error":7}', b'{"detail":"no"}'])
    @pytest.mark.parametrize("status", [404, 500])
    def test_another_service(self, status: int, body: bytes) -> None:
        """What does not answer as flowcache does is told as such."""
        with answering(status, body) as url:
            refused(circuits("--url", url), url, f"(status {status})")

    def test_a_port_without_circuits(self) -> None:
        """They are on admin.port if there is one."""
        with answering(404, b'{"error":"There is no GET /inspector/circuits."}') as url:
            refused(circuits("--url", url), "There is no GET", "admin.port", "--url")

    def test_no_redirection_is_followed(self) -> None:
        """It would be handed the token."""
        heard: list[str] = []
        with answering(302, b"", heard) as url:
            refused(circuits("--url", url), "(status 302)")
        assert heard == ["/inspector/circuits"]

    def test_no_proxy_is_asked(self, running: Service) -> None:
        """It would be handed the token, too."""
        with PortClaim() as claim:
            proxy = f"http://127.0.0.1:{claim.port}"
            environment = CONTROL | {"http_proxy": proxy, "HTTP_PROXY": proxy, "ALL_PROXY": proxy}
            assert circuits("--url", running.url, environment=environment).returncode == 0

    def test_behind_a_path(self) -> None:
        """A service that is mounted below a path is reached there."""
        heard: list[str] = []
        with answering(404, b"", heard) as url:
            circuits("--url", f"{url}/cache/")
        assert heard == ["/cache/inspector/circuits"]


@pytest.mark.parametrize("words", [[], ["set"]])
def test_help_has_an_example(words: list[str]) -> None:
    """The help of a command shows how it is used."""
    shown = circuits(*words, "--help").stdout
    assert "Example" in shown
    assert "flowcache circuits set forced-open --shard" in shown


def test_nothing_that_a_service_says_steers_a_terminal() -> None:
    """Names of shards, clients and errors may be anybody's: they are shown as text."""
    nasty = "\x1b[2J\x9b1m\x7f\u202e\u2066\u200b\u2028[red]\n\U000e0041"
    circuit = {
        "shard": nasty,
        "access": nasty,
        "mode": nasty,
        "state": nasty,
        "consecutiveFailures": nasty,
        "failureRate": None,
        "slowRate": None,
        "retryAfterSeconds": 0,
        "refused": nasty,
        "worker": nasty,
    }
    override = {"mode": nasty, "shard": nasty, "access": None, "by": nasty, "at": nasty}
    told = {"circuits": [circuit], "overrides": [override], "configured": nasty}
    with answering(200, json.dumps(told).encode()) as url:
        table, as_json = circuits("--url", url), circuits("--url", url, "--json")
    for done in (table, as_json):
        assert done.returncode == 0, done.stderr
        assert done.stdout.replace("\n", "").isprintable()
    assert r"\x1b[2J\x9b1m\x7f\u202e\u2066\u200b\u2028[red]\n\U000e0041" in table.stdout
    assert json.loads(as_json.stdout) == told
    with answering(403, json.dumps({"error": nasty}).encode()) as url:
        failed = circuits("--url", url)
    refused(failed, r"\x1b[2J")
    assert failed.stderr[:-1].isprintable()
