"""A service in which everything is planted is driven through success and each way to fail.

All that anybody can read of it is an *output*, by name.
"""

from __future__ import annotations

import json
import os
import signal
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowcache.settings import SETTINGS
from tests.cli.test_cli import flowcache
from tests.http.planted import MARKERS, RECORDED, SECRETS
from tests.servers import RedisProcess, eventually
from tests.service import ROUTE, Answer, Service

__all__ = ["Drive", "Outputs", "commands"]

Outputs = dict[str, bytes]

READS = ("GET", "HGETALL")


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
            {
                "x-api-key": m["wrong in two headers"],
                "authorization": f"Bearer {m['wrong in two headers']}",
            },
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

    def tamper(self) -> None:
        """Change what is stored encrypted, and put it in clear."""
        acme = {"x-api-key": MARKERS["token of a client"]}
        assert self.act(acme, operation="SET", value=MARKERS["value"]).status == 200
        place = f"flowcache:ns:acme:{MARKERS['key']}"
        with self.redis.client(password=MARKERS["redis.password"]) as operator:
            sealed: Any = operator.get(place)
            assert MARKERS["value"].encode() not in sealed
            for changed in (sealed[:-1] + bytes([sealed[-1] ^ 1]), json.dumps(MARKERS["value"])):
                operator.set(place, changed)
                assert self.act(acme).code == "invalid_response"

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
        ("config show", 0, ("config", "show", *config), {}),
        ("config show, JSON", 0, ("config", "show", *config, "--json"), {}),
        ("config show, bad secrets", 2, ("config", "show", *config, "--json"), bad),
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
