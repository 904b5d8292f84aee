"""The command line, as somebody at a terminal meets it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from joserfc.jwk import ECKey, KeySet

from flowcache import __version__
from flowcache.settings import load
from tests.servers import FLOWCACHE_ACL, Cluster, RedisProcess, SentinelGroup, TlsServer, eventually
from tests.servers.ports import PortClaim
from tests.service import TOKEN, service
from tests.unit.issuer.issuers import issuer


def flowcache(
    *arguments: str, environment: Mapping[str, str] | None = None, said: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; ``said`` is its standard input."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLOWCACHE_", "REDIS_", "SERVICE_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "flowcache", *arguments],
        env=clean | dict(environment or {}),
        stdin=subprocess.DEVNULL if said is None else None,
        input=said,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def check(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `flowcache check` with a token."""
    return flowcache(
        "check", *arguments, environment={"SERVICE_BEARER_TOKEN": TOKEN} | dict(environment)
    )


def nodes(*servers: RedisProcess) -> str:
    """Name servers as REDIS_NODES does."""
    return ",".join(f"127.0.0.1:{server.port}" for server in servers)


class TestHelp:
    def test_version(self) -> None:
        """--version names the version and nothing else."""
        assert flowcache("--version").stdout == f"flowcache {__version__}\n"

    @pytest.mark.parametrize("command", ["serve", "check"])
    def test_help_has_an_example(self, command: str) -> None:
        """The help of a command shows how it is used."""
        shown = flowcache(command, "--help").stdout
        assert "Example" in shown
        assert f"flowcache {command}" in shown

    @pytest.mark.parametrize(
        "words",
        [
            [],
            *(["serve"], ["check"], ["erase"]),
            *(["token"], ["token", "new"], ["encryption"], ["encryption", "new-key"]),
            *(["circuits"], ["circuits", "set"], ["circuits", "clear"], ["audit"]),
            *(["audit", each] for each in ("verify", "copy", "query", "export")),
            *(["audit", each] for each in ("deliver", "deliveries")),
        ],
        ids=" ".join,
    )
    def test_examples_are_whole_lines(self, words: list[str]) -> None:
        """On a terminal of 80 columns an example is one line, which can be pasted."""
        shown = flowcache(*words, "--help", environment={"COLUMNS": "80"}).stdout
        _, _, behind = shown.partition("Example")
        lines = [line.rstrip() for line in behind.partition("╭")[0].splitlines()[1:]]
        examples = [line for line in lines if line]
        assert examples
        for line in examples:
            assert re.match(r" {1,2}(\(umask 077; |\w+=\S+ )?flowcache( |$)", line), line


class TestCheck:
    def test_names_the_topology(self, standalone_server: RedisProcess) -> None:
        """A Redis that works is reported with its topology, and the exit code is 0."""
        done = check({"REDIS_NODES": nodes(standalone_server)})
        assert done.returncode == 0, done.stderr
        assert "standalone, 1 shard" in done.stdout
        assert "ready to serve" in done.stdout

    def test_tries_every_shard(self, cluster_servers: Cluster) -> None:
        """In a cluster every primary is written to and read from."""
        done = check({"REDIS_NODES": nodes(*cluster_servers.nodes)})
        assert done.returncode == 0, done.stderr
        assert "cluster, 3 shards" in done.stdout
        assert done.stdout.count("writes, reads and scripts work") == 3

    def test_finds_the_service_of_sentinels(self, sentinel_servers: SentinelGroup) -> None:
        """Sentinels are recognised as such, and their only service is found."""
        done = check({"REDIS_NODES": nodes(*sentinel_servers.sentinels)})
        assert done.returncode == 0, done.stderr
        assert "sentinel" in done.stdout

    def test_over_tls_with_the_documented_rights(self, tls_server: TlsServer) -> None:
        """The ACL rule of docs/operations.md suffices."""
        ca = str(tls_server.certificates.client_tls().ca)
        done = check({"REDIS_URL": tls_server.url, "FLOWCACHE_REDIS_TLS_CA_FILE": ca})
        assert done.returncode == 0, done.stderr

    def test_wrong_password_tells_what_to_do(self, tls_server: TlsServer) -> None:
        """A wrong password is named as such, not shown, and the remedy stands beside it."""
        ca = str(tls_server.certificates.client_tls().ca)
        url = tls_server.url.replace(tls_server.password, "wrong-password")
        done = check({"REDIS_URL": url, "FLOWCACHE_REDIS_TLS_CA_FILE": ca})
        assert done.returncode == 2
        assert "refused the user or the password" in done.stderr
        assert "redis.password" in done.stderr
        assert "wrong-password" not in done.stdout + done.stderr

    def test_nobody_there_tells_what_to_do(self) -> None:
        """A refused connection is told with the address and what to look at."""
        with PortClaim() as claim:
            done = check({"REDIS_NODES": f"127.0.0.1:{claim.port}"})
        assert done.returncode == 2
        assert f"127.0.0.1:{claim.port}" in done.stderr
        assert "is Redis running there?" in done.stderr

    def test_all_faults_at_once(self) -> None:
        """Every fault of a configuration is told, each with its key and its value."""
        done = check({"FLOWCACHE_HTTP_PORT": "banana", "FLOWCACHE_DATA_DEADLINE_MS": "-1"})
        assert done.returncode == 2
        assert "http.port" in done.stderr
        assert "banana" in done.stderr
        assert "data.deadline_ms" in done.stderr

    def test_without_a_credential(self) -> None:
        """No credential is a fault that says which variable to set."""
        done = flowcache("check")
        assert done.returncode == 2
        assert "SERVICE_BEARER_TOKEN" in done.stderr


class TestCheckOfTheJournal:
    def test_a_file_that_is_no_journal(self, tmp_path: Path) -> None:
        """A service that could write no record isn't said to be ready."""
        path = tmp_path / "audit.db"
        path.write_bytes(b"no database at all, by any measure" * 200)
        done = check({"FLOWCACHE_AUDIT_JOURNAL": str(path), "REDIS_NODES": "127.0.0.1:1"})
        assert done.returncode == 2
        told = f"flowcache: audit.journal: {path}: can't be read: file is not a database\n"
        assert done.stderr == told
        assert "ready" not in done.stdout

    def test_a_journal_of_another_signing_key(
        self, tmp_path: Path, standalone_server: RedisProcess
    ) -> None:
        """Nor one whose records nobody could verify; with the right key it is."""
        path = tmp_path / "audit.db"
        environment = {
            "FLOWCACHE_AUDIT_JOURNAL": str(path),
            "FLOWCACHE_AUDIT_SIGNING_KEY": "the-key-that-it-was-begun-with--",
            "REDIS_NODES": nodes(standalone_server),
        }
        with service(environment) as running:
            assert running.call(operation="GET", key="k").status == 200
            assert check(environment).returncode == 0
        assert check(environment).returncode == 0
        for other, told in (
            ("one-that-was-made-some-time-later", "is sealed with another audit.signing_key"),
            ("", "or was begun with one"),
        ):
            done = check(environment | {"FLOWCACHE_AUDIT_SIGNING_KEY": other})
            assert done.returncode == 2
            assert told in done.stderr


class TestCheckOfRights:
    def test_what_the_configuration_asks_for_is_named(
        self, standalone_server: RedisProcess, tmp_path: Path
    ) -> None:
        """Each part that takes a right of its own has it tried, as the service would use it."""
        rule = FLOWCACHE_ACL.split()
        standalone_server.cli("ACL", "SETUSER", "narrow", "reset", "on", ">pw", *rule)
        environment = {
            "REDIS_URL": f"redis://narrow:pw@127.0.0.1:{standalone_server.port}/0",
            "FLOWCACHE_AUDIT_JOURNAL": str(tmp_path / "audit.db"),
        }
        assert check(environment).returncode == 0
        more = {"FLOWCACHE_DELIVERY_STREAM": "audit", "FLOWCACHE_AUTH_SHARED_RATES": "true"}
        done = check(environment | more)
        assert done.returncode == 2
        assert "forbids flowcache's user time, xadd.\n" in done.stderr
        assert "What to do: ACL SETUSER narrow +time +xadd\n" in done.stderr
        standalone_server.cli("ACL", "DELUSER", "narrow")


class TestServe:
    def test_without_a_credential_it_does_not_start(self) -> None:
        """Nobody is ever served without a credential being configured."""
        done = flowcache("serve")
        assert done.returncode == 2
        assert "SERVICE_BEARER_TOKEN" in done.stderr

    def test_port_in_use_is_told(self) -> None:
        """A port that somebody listens on is named, with the way out."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            done = flowcache("serve", "--embedded", "--port", str(port))
        assert done.returncode == 2
        assert str(port) in done.stderr
        assert "FLOWCACHE_PORT" in done.stderr

    def test_two_on_one_port_is_refused(self) -> None:
        """A second flowcache on the same port does not start, and takes no calls."""
        with service({}, "--embedded") as first:
            done = flowcache("serve", "--embedded", "--port", str(first.port))
            assert done.returncode == 2

    def test_what_embedded_prints_works_when_pasted(self) -> None:
        """Each printed curl line works, each with its own token; one of them switches circuits."""
        made = "SERVICE_BEARER_TOKEN", "FLOWCACHE_INSPECTOR_TOKEN", _CONTROL
        none = dict.fromkeys(made, "")
        with service(none, "--embedded") as running:
            eventually(lambda: "docs" in running.log, what="the banner")
            found = re.search(r"try it +(curl .*?\n.*?)\n", running.log)
            assert found is not None
            done = _shell(found[1])
            assert '"success":true' in done
            found = re.search(r"inspector +(curl .*?)\n", running.log)
            assert found is not None
            assert '"auditLogs":[' in _shell(found[1])
            found = re.search(r"circuits +(curl .*?)\n", running.log)
            assert found is not None
            assert '"configured":"auto"' in _shell(found[1])
            assert '"mode":"observe"' in _shell(f"""{found[1]} -d '{{"mode":"observe"}}'""")

    def test_tokens_of_the_environment_are_kept(self) -> None:
        """--embedded makes tokens only where none is configured, and prints those it made."""
        with service({}, "--embedded") as running:
            eventually(lambda: "docs" in running.log, what="the banner")
            assert TOKEN not in running.log
            assert f"Bearer ${_CONTROL}" in running.log
            assert running.call(operation="GET", key="k").data is None
            assert running.inspect()["circuitState"] == "closed"

    def test_configuration_file(self, tmp_path: Path, standalone_server: RedisProcess) -> None:
        """What the file says holds, and the inspector shows it without its secrets."""
        file = tmp_path / "flowcache.toml"
        file.write_text(
            f'[redis]\nnodes = ["{nodes(standalone_server)}"]\n[data]\ndefault_ttl = 17\n'
        )
        with service({}, "--config", str(file)) as running:
            assert running.call(operation="SET", key="configured", value=1).data == "OK"
            assert 0 < int(standalone_server.cli("TTL", "configured")) <= 17
            assert running.inspect()["configuration"]["data"]["default_ttl"] == 17

    def test_embedded_valkey_ends_with_it(self) -> None:
        """No Valkey is left behind, not even when flowcache is killed."""
        with service({}, "--embedded") as running:
            [shard] = running.inspect()["redis"][0]["shards"]
            path = shard["primary"]["address"]
            assert _answers(path)
            running.process.send_signal(signal.SIGKILL)
            running.process.wait()
            eventually(lambda: not _answers(path), what="the embedded Valkey to end")


_CONTROL = "FLOWCACHE_INSPECTOR_CONTROL_TOKEN"


def _shell(command: str) -> str:
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=30, check=True
    ).stdout


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


class TestEncryption:
    def test_a_new_key_is_a_line_for_the_file(
        self, standalone_server: RedisProcess, tmp_path: Path
    ) -> None:
        """What new-key prints is appended to a file of keys as it is, and check takes it."""
        keys = tmp_path / "keys"
        for key_id in ("2027-01", "2027-02"):
            made = flowcache("encryption", "new-key", key_id)
            assert (made.returncode, made.stderr) == (0, "")
            with keys.open("a") as file:
                file.write(made.stdout)
        done = check(
            {
                "REDIS_NODES": nodes(standalone_server),
                "FLOWCACHE_ENCRYPTION_KEYS_FILE": str(keys),
                "FLOWCACHE_ENCRYPTION_ACTIVE_KEY": "2027-02",
            }
        )
        assert done.returncode == 0, done.stderr
        assert (
            "Encrypted with key 2027-02: all keys. Additional decryption keys: 2027-01.\n"
            "Refused there: INCR, DECR, and values that are not encrypted.\n" in done.stdout
        )
        for line in keys.read_text().splitlines():
            assert line.partition(":")[2] not in done.stdout + done.stderr

    @pytest.mark.parametrize(
        ("plaintext", "told", "untold"),
        [
            ("write", "writes are not encrypted yet. To be encrypted: all keys.", "Encrypted with"),
            ("read", "Encrypted with key k1: all keys.", "yet"),
        ],
    )
    def test_how_far_encryption_has_come_is_told(
        self, standalone_server: RedisProcess, plaintext: str, told: str, untold: str
    ) -> None:
        """Nothing is said to be encrypted that isn't, and the step that is taken is named."""
        key = flowcache("encryption", "new-key", "k1").stdout.strip()
        done = check(
            {
                "REDIS_NODES": nodes(standalone_server),
                "FLOWCACHE_ENCRYPTION_KEYS": key,
                "FLOWCACHE_ENCRYPTION_PLAINTEXT": plaintext,
            }
        )
        assert done.returncode == 0, done.stderr
        assert f'encryption.plaintext = "{plaintext}"' in done.stdout
        assert told in done.stdout
        assert untold not in done.stdout

    def test_an_id_that_is_none(self) -> None:
        """A key that no configuration would take isn't made."""
        done = flowcache("encryption", "new-key", "a b")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("flowcache: 'a b' is not a valid key id")


class TestClients:
    def test_a_new_token_works_as_it_is_printed(self, standalone_server: RedisProcess) -> None:
        """The section that is printed, pasted into a file, lets in the token that is printed."""
        made = flowcache("token", "new", "desk", "--expires", "2099-12-31")
        assert made.returncode == 0, made.stderr
        (token,) = re.findall(r"^  (fc_\S{43})$", made.stdout, re.M)
        section = re.findall(r"^  (\[clients\.desk\]|\w+ = .*)$", made.stdout, re.M)
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "flowcache.toml"
            file.write_text("\n".join(section))
            shown = check({"REDIS_NODES": nodes(standalone_server)}, "--config", str(file))
            assert shown.returncode == 0, shown.stderr
            assert re.search(r"desk +data:read data:write +\* in flowcache:ns:desk:", shown.stdout)
            assert "2099-12-31" in shown.stdout
            environment = {"REDIS_NODES": nodes(standalone_server)}
            with service(environment, "--config", str(file)) as running:
                running.token = token
                assert running.call(operation="GET", key="k").data is None

    @pytest.mark.parametrize(
        "name", ["crm.v2", "a.b.c", "7", "A_b-c", "x" * 32, "x" * 33, "x.y" * 21, "x" + "." * 63]
    )
    def test_what_is_printed_is_a_configuration_whatever_the_name(
        self, name: str, tmp_path: Path
    ) -> None:
        """Any name that a client may have: pasted, it is that client, with a namespace."""
        made = flowcache("token", "new", name)
        assert made.returncode == 0, made.stderr
        file = tmp_path / "flowcache.toml"
        file.write_text("\n".join(re.findall(r"^  (\[clients\..*\]|\w+ = .*)$", made.stdout, re.M)))
        (client,) = load(file, {}).principals
        assert client.name == name
        assert client.prefix.startswith(b"flowcache:ns:")

    def test_every_token_is_another(self) -> None:
        """A token is made anew each time, and its digest tells nothing of it."""
        one, other = (flowcache("token", "new", "desk").stdout for _ in range(2))
        tokens = [re.findall(r"fc_\S{43}", text) for text in (one, other)]
        assert len(tokens[0]) == len(tokens[1]) == 1
        assert tokens[0] != tokens[1]

    def test_a_token_that_would_never_count_is_not_made(self) -> None:
        """An end that has passed is a slip, told before a token is shown."""
        done = flowcache("token", "new", "desk", "--expires", "2020-01-01")
        assert (done.returncode, done.stdout) == (2, "")
        assert "--expires 2020-01-01: this date has passed" in done.stderr

    def test_a_name_that_no_client_can_have_is_refused(self) -> None:
        """What could not be configured is not made a token for."""
        for name, reason in (("a b", "not a valid client name"), ("flow", "shows auth.token")):
            done = flowcache("token", "new", name)
            assert (done.returncode, done.stdout) == (2, "")
            assert reason in done.stderr

    def test_check_warns_of_a_token_that_expired(
        self, standalone_server: RedisProcess, tmp_path: Path
    ) -> None:
        """An operator hears of it before a flow does; it is no fault, for the other one counts."""
        file = tmp_path / "flowcache.toml"
        file.write_text(
            '[clients.old]\npermissions = ["data:read"]\nnamespace = "old"\ntokens = '
            f'[{{ hash = "sha256:{"0" * 64}", expires = 2020-01-01 }}]\n'
        )
        done = check({"REDIS_NODES": nodes(standalone_server)}, "--config", str(file))
        assert done.returncode == 0, done.stderr
        assert "Warning: a token of old expired on 2020-01-01; remove it." in done.stdout

    def test_what_is_unwise_is_told_and_stops_nothing(
        self, standalone_server: RedisProcess
    ) -> None:
        """A token that may be guessed, a Service's variables: by `check`, and once by the log."""
        told = "inspector.token: shorter than 16 characters", "FLOWCACHE_SERVICE_HOST: ignored"
        environment = {
            "REDIS_NODES": nodes(standalone_server),
            "FLOWCACHE_INSPECTOR_TOKEN": "x",
            "FLOWCACHE_SERVICE_HOST": "10.96.0.12",
        }
        done = check(environment)
        assert done.returncode == 0, done.stderr
        with service(environment) as running:
            assert running.call(operation="GET", key="k").data is None
            log = running.log
        assert [done.stdout.count(each) for each in told] == [1, 1]
        assert [log.count(each) for each in told] == [1, 1]

    def test_check_reads_the_keys_of_an_issuer(
        self, standalone_server: RedisProcess, tmp_path: Path
    ) -> None:
        """Keys that can't be used are told before a worker has to do without them."""
        keys = tmp_path / "jwks.json"
        environment = {
            "REDIS_NODES": nodes(standalone_server),
            "FLOWCACHE_JWT_KEYS": str(keys),
            "FLOWCACHE_JWT_ISSUER": "https://idp.example/",
            "FLOWCACHE_JWT_AUDIENCE": "flowcache",
        }
        keys.write_text('{"keys":[]}')
        done = check(environment)
        assert done.returncode == 2
        assert f"{keys}: no key in it can verify a signature" in done.stderr
        key = ECKey.generate_key("P-256", {"kid": "one"})
        keys.write_text(json.dumps(KeySet([key]).as_dict(private=False)))
        done = check(environment)
        assert done.returncode == 0, done.stderr
        assert "Usable keys of the issuer: 1 of 1." in done.stdout
        assert "ignored" not in done.stdout
        weak = {"kty": "RSA", "kid": "feeble\x1b", "e": "AQAB", "n": "_" * 171}
        keys.write_text(json.dumps({"keys": [weak, key.as_dict(private=False)]}))
        done = check(environment)
        assert "Usable keys of the issuer: 1 of 2." in done.stdout
        assert "ignored, RSA under 2048 bits: feeble\\x1b.\n" in done.stdout
        with issuer(b"garbage\r\n\r\n") as there:
            done = check(environment | {"FLOWCACHE_JWT_KEYS": there.url})
        assert done.returncode == 2
        assert f"{there.url}: no proper answer" in done.stderr
