"""Secrets are planted everywhere they may lawfully be, and searched for everywhere they may not.

A real service with everything on is driven through success and through each way to fail. All that
anybody can read of it afterwards is an *output*, by name; nothing that was planted may be in one.
To plant more: a secret setting is planted by itself, from `SETTINGS`, and a reader that wants
another shape of it gets a row in `SHAPES`; whatever else is a row in `MARKERS`.
"""

from __future__ import annotations

import json
import os
import signal
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import quote

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from flowcache.policy.tokens import show_digest
from flowcache.secret import Secret
from flowcache.settings import SETTINGS, ConfigurationError, Setting, load
from tests.cli.test_cli import flowcache
from tests.servers import RedisProcess, eventually, standalone
from tests.service import ROUTE, Answer, Service, service

SHAPES: dict[str, Callable[[str], str]] = {}
"""What a setting's reader wants its marker to look like, where any text will not do."""


def marker(name: str) -> str:
    """Return what is planted under a name: nothing else in the world looks like it."""
    return f"planted-{name.replace('.', '-').replace('_', '-')}-{sha256(name.encode()).hexdigest()}"


SECRETS = {s.name: SHAPES.get(s.name, str)(marker(s.name)) for s in SETTINGS if s.is_secret}

EC, STRANGER = (ECKey.generate_key("P-256", {"kid": "one"}) for _ in range(2))
CLAIMS: dict[str, Any] = {
    **{"iss": "https://idp.example/", "aud": "flowcache", "sub": "app-1"},
    **{"exp": int(time()) + 3600, "scope": "data:read data:write"},
}


def signed(key: ECKey, **changes: Any) -> str:
    return jwt.encode({"alg": "ES256", "kid": "one"}, CLAIMS | changes, key)


MARKERS = SECRETS | {
    name: marker(name)
    for name in (
        "value",
        "value in JSON",
        "value of a field",
        "name of a field",
        "value of a bug",
        "key",
        "key of a namespace",
        "key that is refused",
        "idempotency key",
        "subject of an erasure",
        "token of a client",
        "second token of a client",
        "wrong bearer",
        "wrong basic",
        "wrong api key",
        "wrong in two headers",
        "wrong control token",
        "password in a URL",
        "wrong password in a URL",
        "password of another day",
        *(f"value as {field}" for field in ("ttl", "type", "deadlineMs", "key")),
        *("value as idempotencyKey", "value as unknown field", "value in broken JSON"),
        "value that is too large",
    )
}
MARKERS |= {
    "signed token": signed(EC),
    "signed token of a stranger": signed(STRANGER),
    "signed token that expired": signed(EC, exp=int(time()) - 60),
}
"""Name -> what is planted."""

RECORDED = {"flowId": "recorded-flow-5d1c", "interactionId": "recorded-interaction-9e2f"}
"""What an output is to show: where it isn't found, nothing was searched."""

Outputs = dict[str, bytes]


def forms(planted: str) -> set[bytes]:
    """Return how a text may be written, so that it is still there for whoever looks for it."""
    raw = planted.encode()
    return {
        raw,
        b64encode(raw)[:-4],  # its end depends on what follows
        raw.hex().encode(),
        quote(planted, safe="").encode(),
        sha256(raw).hexdigest().encode(),
        sha256(raw).digest(),
    }


# -- the service -----------------------------------------------------------------------------------

WAYS = 3


def configure(directory: Path, redis: RedisProcess) -> dict[str, str]:
    """Plant all secret settings, in the environment, the file, and files of their own in turn.

    Return the environment; the file is ``flowcache.toml``.
    """
    (directory / "journal").mkdir()
    (directory / "jwks.json").write_text(json.dumps(KeySet([EC]).as_dict(private=False)))
    sections: dict[str, dict[str, str]] = {
        "jwt": {
            "keys": str(directory / "jwks.json"),
            "issuer": CLAIMS["iss"],
            "audience": CLAIMS["aud"],
        },
        "audit": {
            "journal": str(directory / "journal" / "audit.db"),
            "mode": "strict",
            "keys": "hmac",
        },
    }
    environment = {
        "REDIS_NODES": f"127.0.0.1:{redis.port}",
        "FLOWCACHE_HTTP_MAX_BODY_BYTES": "65536",
        **{row.variable: "" for row in SETTINGS if row.is_secret},
        **{name: "" for row in SETTINGS if row.is_secret for name in row.names},
    }
    files = {row.holds: row for row in SETTINGS if row.holds is not None}
    for number, (name, planted) in enumerate(sorted(SECRETS.items())):
        row = next(row for row in SETTINGS if row.name == name)
        if number % WAYS == 0:
            environment[row.variable] = planted
        elif number % WAYS == 1:
            sections.setdefault(row.section, {})[row.key] = planted
        else:
            file = directory / f"secret-{number}"
            file.write_text(planted)
            sections.setdefault(row.section, {})[files[name].key] = str(file)
    text = "".join(
        f"[{section}]\n" + "".join(f'{key} = "{value}"\n' for key, value in keys.items())
        for section, keys in sections.items()
    )
    hashes = [
        show_digest(Secret(MARKERS[f"{which}token of a client"])) for which in ("", "second ")
    ]
    text += f"""
[clients.acme]
tokens = ["{hashes[0]}", "{hashes[1]}"]
permissions = ["data:read", "data:write"]
namespace = "acme"

[clients.app]
subject = "{CLAIMS["sub"]}"
permissions = ["data:read", "data:write"]
namespace = "app"
"""
    (directory / "flowcache.toml").write_text(text)
    return environment


BUG = f"""
import asyncio
from flowcache.contract import answer

succeeded = answer.succeeded

def broken(data, *rest):
    if data == {MARKERS["value of a bug"]!r}:
        asyncio.get_running_loop().call_soon(int, data)
        raise RuntimeError(f"a bug that tells of {{data}}")
    return succeeded(data, *rest)

answer.succeeded = broken
"""
"""Whatever a bug says may be a value: every process of the service has these two."""


class Drive:
    """Everything that is done to the service, and what came of it."""

    def __init__(self, running: Service, redis: RedisProcess, directory: Path) -> None:
        self.running = running
        self.redis = redis
        self.directory = directory
        self.answers: list[bytes] = []
        self.bearer = {"authorization": f"Bearer {MARKERS['auth.token']}"}

    def send(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Post a body; what is answered is an output, but for data that was asked for."""
        answer = self.running.request("POST", ROUTE, body, headers)
        asked_for = answer.status == 200 and answer.json["metadata"]["operation"] in READS
        self.answers.append(str(answer.headers).encode() + (b"" if asked_for else answer.body))
        return answer

    def act(self, headers: Mapping[str, str] | None = None, /, **fields: Any) -> Answer:
        body = {"operation": "GET", "key": MARKERS["key"], **RECORDED, **fields}
        return self.send(json.dumps(body).encode(), headers or self.bearer)

    # -- success ------------------------------------------------------------------------------

    def succeed(self) -> None:
        m = MARKERS
        acme = {"x-api-key": m["token of a client"]}
        for stored in (m["value"], {"in": [m["value in JSON"]]}):
            done = self.act(operation="SET", value=stored, idempotencyKey=m["idempotency key"])
            assert done.status in (200, 409)
            assert self.act(operation="SET", value=stored).status == 200
            assert self.act().data == stored
        fields = {m["name of a field"]: m["value of a field"]}
        for key in (m["key"] + ":hash", m["key of a namespace"]):
            for headers in (self.bearer, acme):
                assert self.act(headers, operation="HSET", key=key, value=fields).status == 200
                assert self.act(headers, operation="HGETALL", key=key).data == fields
        second = m["second token of a client"]
        basic = b64encode(f"acme:{second}".encode()).decode()
        for headers in (
            {"authorization": f"Bearer {second}"},
            {"authorization": f"Basic {basic}"},
            {"authorization": f"Bearer {m['signed token']}"},
        ):
            assert self.act(headers).status == 200

    # -- failure ------------------------------------------------------------------------------

    def show_wrong_credentials(self) -> None:
        m = MARKERS
        basic = b64encode(f"acme:{m['wrong basic']}".encode()).decode()
        for headers in (
            {"authorization": f"Bearer {m['wrong bearer']}"},
            {"authorization": f"Basic {basic}"},
            {"authorization": f"Basic {m['wrong basic']}"},
            {"authorization": m["wrong bearer"]},
            {"x-api-key": m["wrong api key"]},
            {"x-api-key": m["wrong in two headers"], "authorization": f"Bearer {second_half()}"},
            {"authorization": f"Bearer {m['signed token of a stranger']}"},
            {"authorization": f"Bearer {m['signed token that expired']}"},
        ):
            assert self.act(headers).status == 401
            for path in ("/inspector", "/inspector/circuits"):
                self.page(path, headers, 401)
        for path in ("/inspector", "/inspector/circuits"):
            self.page(path, self.bearer, 403)
        wrong = {"authorization": f"Bearer {m['wrong control token']}"}
        refused = self.running.request("POST", "/inspector/circuits", b"{}", wrong)
        assert refused.status == 401
        self.answers.append(refused.body)

    def order(self) -> None:
        order = b'{"mode":"observe"}'
        headers = self.bearer_of("inspector.control_token")
        done = self.running.request("POST", "/inspector/circuits", order, headers)
        assert done.status == 200
        self.answers.append(done.body)

    def send_bad_bodies(self) -> None:
        m = MARKERS
        for field in ("ttl", "type", "deadlineMs", "key", "idempotencyKey"):
            planted = m[f"value as {field}"]
            for value in (planted, [planted], {"a": planted}):
                fields = {"operation": "SET", "value": 1, field: value}
                self.act(**fields, **({} if field == "key" else {"key": m["key"]}))
        self.act(**{m["value as unknown field"]: m["value as unknown field"]})
        self.act(operation="SET", value=m["value that is too large"] * 1000)
        for headers, key in (
            (self.bearer, "flowcache:" + m["key that is refused"]),
            (self.bearer, m["key that is refused"] * 20),
        ):
            assert self.act(headers, key=key).status in (400, 403, 413)
        for body in (
            f'{{"operation":"SET","key":"k","value":"{m["value in broken JSON"]}',
            f'["{m["value in broken JSON"]}"]',
            m["value in broken JSON"],
        ):
            assert self.send(body.encode(), self.bearer).status == 400
        assert self.act(operation="GET", key=m["key"] + ":hash").code == "wrong_type"
        assert self.act(operation="SET", value=m["value"]).status == 200
        assert self.act(operation="INCR").code == "wrong_type"
        once = {"idempotencyKey": m["idempotency key"], "operation": "SET"}
        assert self.act(**once, value=m["value of a field"]).code == "conflict"
        assert self.act(operation="SET", value=m["value of a bug"]).status == 200
        assert self.act().code == "internal"
        assert self.act(operation="SET", value=m["value"]).status == 200

    def break_redis(self) -> None:
        """Another password, then no server at all."""
        planted = MARKERS["redis.password"]
        with self.redis.client(password=planted) as operator:
            operator.config_set("requirepass", MARKERS["password of another day"])
            operator.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            eventually(lambda: self.act().status == 503, what="calls to fail")
            eventually(lambda: "refused the user" in self.running.log, what="the log to say why")
            operator.config_set("requirepass", planted)
        self.wait_until_well()
        self.redis.kill()
        eventually(lambda: self.act().status == 503, what="calls to fail")
        for path in ("/readyz", "/inspector"):
            self.page(path, self.bearer_of("inspector.token"))
        self.redis.start()
        self.wait_until_well()

    def break_journal(self) -> None:
        journal = self.directory / "journal" / "audit.db"
        away = journal.with_name("away.db")
        journal.rename(away)
        eventually(lambda: self.act().status == 503, what="calls to be refused")
        eventually(lambda: self.page("/readyz", {}).status == 503, what="a worker to say so")
        away.rename(journal)
        self.wait_until_well()

    def crash(self) -> None:
        before = self.workers()
        os.kill(min(before), signal.SIGSEGV)
        eventually(lambda: min(before) not in self.workers(), what="its end", ignoring=(OSError,))
        self.wait_until_well()

    def reload_with_faults(self) -> None:
        """A configuration that is wrong in every secret: the log says so."""
        file = self.directory / "flowcache.toml"
        good = file.read_text()
        sections: dict[str, str] = {}
        for name, planted in SECRETS.items():
            section, key = name.split(".")
            sections[section] = sections.get(section, "") + f'{key} = ["{planted}"]\n'
        faulty = "".join(f"[{section}]\n{lines}" for section, lines in sections.items())
        file.write_text(faulty + f'[clients.acme]\ntokens = ["{MARKERS["token of a client"]}"]\n')
        self.running.process.send_signal(signal.SIGHUP)
        eventually(lambda: "clients.acme.tokens" in self.running.log, what="the faults in the log")
        file.write_text(good)

    # -- looking ------------------------------------------------------------------------------

    def bearer_of(self, setting: str) -> dict[str, str]:
        return {"authorization": f"Bearer {SECRETS[setting]}"}

    def inspect(self) -> Any:
        return self.page("/inspector", self.bearer_of("inspector.token")).json

    def workers(self) -> set[int]:
        return {each["pid"] for each in self.inspect()["workers"]}

    def wait_until_well(self) -> None:
        """Wait until both workers have Redis and the journal."""

        def is_well() -> bool:
            told = self.inspect()
            faults = [each["fault"] for each in told["journal"]]
            return (
                len(told["workers"]) == 2
                and faults == [None, None]
                and told["redisClusterStatus"] == "ready"
                and self.act().status == 200
            )

        eventually(is_well, what="the service to be well", ignoring=(OSError,))

    def page(self, path: str, headers: Mapping[str, str], status: int | None = None) -> Answer:
        answer = self.running.request("GET", path, None, headers)
        assert status in (None, answer.status), path
        self.answers.append(str(answer.headers).encode() + answer.body)
        return answer

    def outputs(self) -> Outputs:
        """Return what can be read of the service while it runs."""
        pages = {
            path: self.page(path, self.bearer_of("inspector.control_token"), 200).body
            for path in (
                "/inspector?limit=1000",
                "/inspector?outcome=failed&limit=1000",
                "/inspector/circuits",
                "/metrics",
                "/healthz",
                "/readyz",
                "/openapi.json",
                "/docs",
            )
        }
        journal = {
            f"file {file.name}": file.read_bytes()
            for file in (self.directory / "journal").iterdir()
        }
        (run,) = self.running.directory.glob("flowcache-*")
        kept = {
            f"run directory: {file.name}": file.read_bytes()
            for file in run.rglob("*")
            if file.is_file()
        }
        family = [self.running.process.pid, *self.workers()]
        arguments = {
            f"arguments of process {number}": Path(f"/proc/{pid}/cmdline").read_bytes()
            for number, pid in enumerate(family)
        }
        answers = {f"answer {number}": answer for number, answer in enumerate(self.answers)}
        return pages | journal | kept | arguments | answers


READS = ("GET", "HGETALL")


def second_half() -> str:
    return MARKERS["wrong in two headers"]


def commands(environment: Mapping[str, str], directory: Path, port: int, url: str) -> Outputs:
    """Run the command line as an operator would, well and badly; return what it showed."""
    m, config = MARKERS, ("--config", str(directory / "flowcache.toml"))
    (directory / "subject").write_text(m["subject of an erasure"])
    erase = (
        *("erase", *config, "--pattern", "customer:{subject}:*"),
        *("--subject-file", str(directory / "subject")),
    )
    elsewhere = {name: "" for name in environment if name.startswith("FLOWCACHE_REDIS")}
    wrong = f"redis://someone:{m['wrong password in a URL']}@127.0.0.1:{port}"
    sentinel = {"FLOWCACHE_REDIS_SERVICE": "flows"}
    bad = {row.variable: f"{SECRETS[row.name]} {SECRETS[row.name]}\n" for row in SETTINGS
           if row.is_secret}  # fmt: skip
    outputs: Outputs = {}
    for name, code, arguments, more in (
        ("check", 0, ("check", *config), {}),
        ("check, wrong password", 2, ("check", *config, "--redis", wrong), elsewhere),
        ("check, no Sentinel", 2, ("check", *config), sentinel),
        ("check, bad secrets", 2, ("check", *config), bad),
        ("serve, bad secrets", 2, ("serve", *config), bad),
        (
            "check, a URL that is none",
            2,
            ("check", *config),
            {"REDIS_NODES": f"redis://:{m['password in a URL']}@[::1:x/a b?c={m['value']}"},
        ),
        ("audit query", 0, ("audit", "query", *config), {}),
        ("audit export", 0, ("audit", "export", *config), {}),
        ("audit export, CSV", 0, ("audit", "export", *config, "--format", "csv"), {}),
        ("audit verify", 0, ("audit", "verify", *config), {}),
        ("erase, dry run", 0, (*erase, "--dry-run"), {}),
        ("erase", 0, (*erase, "--yes"), {}),
        ("circuits", 0, ("circuits", "--url", url), token_of("inspector.control_token")),
        (
            "circuits, wrong token",
            2,
            ("circuits", "--url", url),
            {"FLOWCACHE_INSPECTOR_CONTROL_TOKEN": m["wrong control token"]},
        ),
        *((f"help of {c}", 0, (c, "--help"), {}) for c in ("serve", "check", "erase", "audit")),
    ):
        done = flowcache(*arguments, environment=dict(environment) | more)
        assert done.returncode == code, (name, done.stdout, done.stderr)
        outputs[name] = (done.stdout + done.stderr).encode()
    return outputs


def token_of(setting: str) -> dict[str, str]:
    row = next(row for row in SETTINGS if row.name == setting)
    return {row.variable: SECRETS[setting]}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """Plant, drive, and gather all that can be read."""
    directory = tmp_path_factory.mktemp("planted")
    with standalone(config=[f'requirepass "{MARKERS["redis.password"]}"']) as redis:
        environment = configure(directory, redis)
        hooks = directory / "hooks"
        hooks.mkdir()
        (hooks / "sitecustomize.py").write_text(BUG)
        buggy = environment | {"PYTHONPATH": str(hooks), "FLOWCACHE_LOG_LEVEL": "debug"}
        config = str(directory / "flowcache.toml")
        with service(buggy, "--config", config, "--workers", "2") as running:
            drive = Drive(running, redis, directory)
            drive.succeed()
            drive.show_wrong_credentials()
            drive.send_bad_bodies()
            drive.break_redis()
            drive.break_journal()
            drive.crash()
            drive.reload_with_faults()
            drive.order()
            drive.succeed()
            with redis.client(password=MARKERS["redis.password"]) as operator:
                operator.set(f"customer:{MARKERS['subject of an erasure']}:1", "x")
            found = commands(environment, directory, redis.port, running.url)
            found |= drive.outputs()
            assert running.stop() == 0
            found["standard output and error"] = running.log.encode()
        settings = load(directory / "flowcache.toml", environment)
        found["repr of the settings"] = f"{settings!r} {settings}".encode()
        found["what is shown of the settings"] = json.dumps(settings.shown).encode()
        found |= {
            f"file {file.name}, at the end": file.read_bytes()
            for file in (directory / "journal").iterdir()
        }
    return found


@pytest.mark.parametrize("name", MARKERS)
def test_what_was_planted_is_nowhere(outputs: Outputs, name: str) -> None:
    """Neither as it is, nor encoded, nor as the hash that it is known by."""
    found = [
        (where, output[max(0, output.find(form) - 200) :][:500])
        for where, output in outputs.items()
        for form in forms(MARKERS[name])
        if form in output
    ]
    assert found == []


def test_the_search_would_find_it(outputs: Outputs) -> None:
    """Each kind of output was read: what is to be in it is there."""
    for where in ("/inspector?limit=1000", "audit query", "audit export", "audit export, CSV"):
        for recorded in RECORDED.values():
            assert recorded.encode() in outputs[where], where
    journal = b"".join(output for where, output in outputs.items() if where.startswith("file "))
    assert RECORDED["flowId"].encode() in journal
    for where, words in (
        (
            "standard output and error",
            (b'"a bug"', b"RuntimeError", b"ValueError", b'"stray": true', b'"configuration"'),
        ),
        ("check, wrong password", (b"refused the user",)),
        ("check, bad secrets", (b"'***'",)),
        ("erase", (b"1 key removed",)),
        ("what is shown of the settings", (b"***",)),
        ("arguments of process 0", (b"flowcache",)),
    ):
        for word in words:
            assert word in outputs[where], where
    assert any(where.startswith("run directory: ") for where in outputs)
    answers = [output for where, output in outputs.items() if where.startswith("answer ")]
    for code in (
        *(b"invalid_request", b"unauthorized", b"forbidden", b"wrong_type", b"conflict"),
        *(b"too_large", b"internal", b"redis_unavailable"),
    ):
        assert any(code in answer for answer in answers), code


def test_every_setting_that_is_read_as_a_secret_is_one() -> None:
    """A new secret can't be forgotten: what its reader makes tells, and it is then planted."""
    for row in SETTINGS:
        made: object = None
        with suppress(ValueError):
            made = row.read(SHAPES.get(row.name, str)(marker(row.name)))
        assert isinstance(made, Secret) is row.is_secret, row.name
    assert set(SECRETS) <= set(MARKERS)


@pytest.mark.parametrize("row", [row for row in SETTINGS if row.is_secret], ids=lambda r: r.name)
@pytest.mark.parametrize("shape", [" {0} ", "{0}\x00", "é{0}", ["{0}"], {"a": "{0}"}, "{0}" * 200])
def test_a_faulty_secret_is_not_told(row: Setting, shape: Any) -> None:
    """Whatever is wrong with it: the fault names the setting and not what was in it."""
    planted = marker(row.name)
    filled = json.loads(json.dumps(shape).replace("{0}", planted))
    try:
        told = load(None, {"SERVICE_BEARER_TOKEN": "x"}, {row.name: filled}).shown
    except ConfigurationError as error:
        told = {"faults": {"all": error.faults}, "error": {"repr": repr(error)}}
    assert planted not in json.dumps(told)
