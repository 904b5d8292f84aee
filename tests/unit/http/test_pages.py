"""Every route but the data action: who may see what, and how a failure is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from flowcache.admin import pages as module
from flowcache.admin.inspector.circuits import Control, Switched
from flowcache.admin.pages import PagesSettings, pages
from flowcache.admin.routing import Router
from flowcache.api.app import ROUTE
from flowcache.audit.ring import AuditRing
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.errors import Failure, LockedOut, NoPassword, RedisUnavailable, Unrecorded
from flowcache.fleet.messages import Question
from flowcache.ports import Access, AuditSink, Mode, Order
from flowcache.ratelimit.buckets import Rate
from flowcache.server.asgi import Message
from flowcache.settings import load
from flowcache.status import CircuitOverride, WorkerStatus
from tests.unit.http.asgi import GONE, Answered, Header, Script, bearer, call, chunk, gate, heard
from tests.unit.telemetry.statuses import circuit, record, worker

CONTROL = frozenset({Permission.INSPECT_READ, Permission.CIRCUITS_WRITE})
INSPECT = frozenset({Permission.INSPECT_READ})
KNOWN = {
    "see": Principal("inspector", INSPECT),
    "switch": Principal("control", CONTROL),
    "flow": Principal("flow", frozenset({Permission.DATA_READ})),
}
WORKERS = [
    worker(
        1,
        [("GET", "ok", True, 0.5)],
        [record(1, flow_id="f"), record(2)],
        circuits=[circuit("open", "a:1")],
    )
]
OVERRIDE = CircuitOverride(Order(Mode.OBSERVE), "control", 0.0)

Switches = list[tuple[Order, str, str]]


def app(
    gathered: Any = WORKERS,
    redis: Exception | None = None,
    asked: list[Question] | None = None,
    audit: AuditSink = AuditRing(0),  # noqa: B008 - keeps nothing
    switches: Switches | None = None,
    known: Mapping[str, Principal] = KNOWN,
) -> Router:
    """Build the pages of workers that say ``gathered``; ``redis`` is what ails Redis."""
    asked = [] if asked is None else asked
    shown = load(None, {"SERVICE_BEARER_TOKEN": "kept-quiet"}).shown

    async def gather(question: Question) -> Sequence[WorkerStatus]:
        asked.append(question)
        if isinstance(gathered, Exception):
            raise gathered
        found: Sequence[WorkerStatus] = gathered
        return found

    async def ready() -> None:
        if redis is not None:
            raise redis

    async def switch(order: Order, by: str, address: str | None, request_id: str) -> Switched:
        if switches is not None:
            switches.append((order, by, request_id))
        return Switched(circuits=3, workers=2, silent=1)

    control = Control(Mode.AUTO, lambda: [OVERRIDE], switch)
    settings = PagesSettings("1.2.3", shown)
    return pages(settings, gate(known), gather, ready, control, lambda: "id-1", audit)


async def fetch(
    built: Router, path: str, *headers: Header, method: str = "GET", query: bytes = b""
) -> Answered:
    answered = await call(built, method, path, Script(chunk(b"")), headers, query)
    assert answered is not None
    return answered


async def inspect(query: bytes = b"", token: str = "see") -> Answered:
    return await fetch(app(), "/inspector", bearer(token), query=query)


async def test_a_live_process_is_alive() -> None:
    """Liveness asks nobody: not Redis, not the siblings."""
    answered = await fetch(app(OSError("siblings"), RedisUnavailable("redis")), "/healthz")
    assert (answered.status, answered.json) == (200, {"status": "ok"})


async def test_it_is_ready_when_redis_answers() -> None:
    """Readiness is Redis."""
    answered = await fetch(app(), "/readyz")
    assert (answered.status, answered.json) == (200, {"status": "ready"})


async def test_it_is_not_ready_without_redis_and_does_not_say_which() -> None:
    """The page is open to anybody: addresses and reasons are for the inspector."""
    answered = await fetch(app(redis=RedisUnavailable("10.1.2.3:6379: refused")), "/readyz")
    assert answered.status == 503
    assert answered.json == {"status": "unavailable", "error": "Redis does not answer."}


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (LockedOut("10.1.2.3:6379: WRONGPASS"), "Redis refuses flowcache's user or password."),
        (
            NoPassword("/run/secrets/redis"),
            "The file of flowcache's password for Redis can't be read.",
        ),
        (Unrecorded("/var/audit.db"), "The audit can't be written."),
    ],
)
async def test_what_is_not_ready_is_told_as_what_it_is(failure: Failure, told: str) -> None:
    """Nobody is sent to Redis for what lies with a file; and no path, no address is told."""
    answered = await fetch(app(redis=failure), "/readyz")
    assert (answered.status, answered.json) == (503, {"status": "unavailable", "error": told})


async def test_metrics_are_prometheus_text() -> None:
    """Anybody may scrape; the content type is that of the format."""
    answered = await fetch(app(), "/metrics")
    assert answered.status == 200
    assert answered.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {each.name for each in text_string_to_metric_families(answered.body.decode())}
    assert "flowcache_requests" in families


async def test_only_the_inspector_asks_for_audit_records() -> None:
    """A scrape moves no records between the workers."""
    asked: list[Question] = []
    await fetch(app(asked=asked), "/metrics")
    await fetch(app(asked=asked), "/inspector", bearer("see"))
    assert asked == [Question.TOTALS, Question.EVERYTHING]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ((), 401, "unauthorized"),
        (((b"authorization", b""),), 401, "unauthorized"),
        ((bearer("wrong"),), 401, "unauthorized"),
        (((b"authorization", b"Bearer \xff\xfe"),), 401, "unauthorized"),
        ((bearer("flow"),), 403, "forbidden"),
    ],
)
async def test_the_inspector_has_its_own_credential(
    headers: tuple[Header, ...], status: int, code: str
) -> None:
    """A leaked flow token does not open it."""
    answered = await fetch(app(), "/inspector", *headers)
    assert (answered.status, answered.json["code"]) == (status, code)
    assert ("www-authenticate" in answered.headers) is (status == 401)
    assert b"auditLogs" not in answered.body


@pytest.mark.parametrize(
    ("token", "client", "outcome"), [("wrong", None, "unauthorized"), ("flow", "flow", "forbidden")]
)
async def test_who_may_not_inspect_is_on_record(
    token: str, client: str | None, outcome: str
) -> None:
    """A failed attempt at the inspector is audited, under the id that the caller was told."""
    ring = AuditRing(10)
    answered = await fetch(app(audit=ring), "/inspector", bearer(token))
    (left,) = ring.newest(10)
    assert (left.client, left.outcome) == (client, outcome)
    assert answered.json["metadata"]["requestId"] == left.request_id
    await fetch(app(audit=ring), "/inspector", bearer("see"))
    assert ring.total == 1  # who may is not asked why


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", ROUTE, 405, "method_not_allowed"),
        ("PUT", f"{ROUTE}/", 405, "method_not_allowed"),
        ("POST", "/admin", 404, "not_found"),
        ("PUT", "/docs", 405, "method_not_allowed"),
    ],
)
async def test_a_credential_that_is_tried_elsewhere_is_on_record(
    method: str, path: str, status: int, code: str
) -> None:
    """Whoever is known and asks for what is not there, under the id that the caller was told;
    what strangers try fills no audit."""
    ring = AuditRing(10)
    answered = await fetch(app(audit=ring), path, bearer("flow"), method=method)
    (left,) = ring.newest(10)
    assert (left.client, left.outcome, left.operation) == ("flow", code, None)
    assert answered.status == status
    assert answered.json["metadata"]["requestId"] == left.request_id
    for headers in ((), (bearer("wrong"),), (bearer("flow"), bearer("flow"))):
        answered = await fetch(app(audit=ring), path, *headers, method=method)
        assert answered.status == status
    assert ring.total == 1


async def test_the_inspector_shows_the_service_and_no_secret() -> None:
    """Metrics, records, configuration; what is secret in it is masked."""
    answered = await inspect()
    assert answered.status == 200
    assert answered.headers["cache-control"] == "no-store"
    assert [entry["requestId"] for entry in answered.json["auditLogs"]] == ["id-1", "id-2"]
    assert answered.json["configuration"]["auth"]["token"] == "***"
    assert b"kept-quiet" not in answered.body


async def test_the_inspector_filters_by_its_query() -> None:
    """A query narrows the records; an unknown one is a mistake, named in the envelope."""
    assert len((await inspect(b"flow=f")).json["auditLogs"]) == 1
    refused = await inspect(b"flowId=f")
    assert (refused.status, refused.json["code"]) == (400, "invalid_request")
    assert refused.json["error"].startswith("flowId: ")


@pytest.mark.parametrize(
    ("method", "path", "error"),
    [
        ("GET", "/", "There is no GET /."),
        ("GET", "/nope", "There is no GET /nope."),
        ("GET", "/healthz/", "There is no GET /healthz/."),
        ("GET", "/" + "x" * 500, "There is no GET /" + "x" * 79 + "."),
    ],
)
async def test_what_is_not_there_is_told_in_the_envelope(
    method: str, path: str, error: str
) -> None:
    """A wrong route has the contract's code, and the envelope."""
    answered = await fetch(app(), path, method=method)
    assert answered.status == 404
    assert answered.json == {
        "success": False,
        "data": None,
        "metadata": {"requestId": "id-1", "latencyMs": 0.0, "operation": None, "hit": None},
        "error": error,
        "code": "not_found",
        "retryable": False,
    }
    assert "allow" not in answered.headers
    assert answered.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["/metrics", "/inspector"])
async def test_a_bug_is_answered_and_logged_and_not_told(path: str) -> None:
    """Whatever breaks behind a page, the caller gets the envelope without a traceback."""
    sent: list[Message] = []
    broken = app(RuntimeError("kept quiet"))
    with capture_logs() as logged:  # once: the server never gets to see it
        await call(broken, "GET", path, Script(chunk(b"")), [bearer("see")], sent=sent)
    assert [(entry["event"], entry["request_id"]) for entry in logged] == [("a bug", "id-1")]
    answered = heard(sent)
    assert (answered.status, answered.json["code"]) == (500, "internal")
    assert "id-1" in answered.json["error"]
    assert b"kept quiet" not in answered.body
    assert b"Traceback" not in answered.body


# -- circuits --------------------------------------------------------------------------------------


async def order(
    body: bytes,
    token: str | None = "switch",
    switches: Switches | None = None,
    audit: AuditSink = AuditRing(0),  # noqa: B008 - keeps nothing
) -> Answered:
    """Post ``body`` to the circuits, in two parts."""
    script = Script(chunk(body[:5], more=True), chunk(body[5:]))
    headers = [] if token is None else [bearer(token)]
    built = app(switches=switches, audit=audit)
    answered = await call(built, "POST", "/inspector/circuits", script, headers)
    assert answered is not None
    return answered


@pytest.mark.parametrize("token", ["see", "switch"])
async def test_who_inspects_sees_circuits_and_overrides(token: str) -> None:
    """Reading takes the permission to inspect, and moves no audit records."""
    asked: list[Question] = []
    answered = await fetch(app(asked=asked), "/inspector/circuits", bearer(token))
    assert answered.status == 200
    assert answered.headers["cache-control"] == "no-store"
    assert [each["state"] for each in answered.json["circuits"]] == ["open"]
    assert [each["mode"] for each in answered.json["overrides"]] == ["observe"]
    assert answered.json["configured"] == "auto"
    assert asked == [Question.TOTALS]


async def test_an_order_is_carried_out_and_told_of() -> None:
    """It arrives with whose it was and the request's id; the answer says what became of it."""
    switches: Switches = []
    body = b'{"mode":"forced-open","shard":"a:1","access":"read"}'
    answered = await order(body, switches=switches)
    assert switches == [(Order(Mode.FORCED_OPEN, "a:1", Access.READ), "control", "id-1")]
    assert answered.status == 200
    assert answered.json == {
        "mode": "forced-open",
        "shard": "a:1",
        "access": "read",
        "circuits": 3,
        "workers": 2,
        "silent": 1,
    }


@pytest.mark.parametrize(
    ("token", "status", "error"),
    [
        (None, 401, "No credential"),
        ("wrong", 401, "Unknown credential"),
        ("flow", 403, "it lacks circuits:write"),
        ("see", 403, "it lacks circuits:write"),
    ],
)
async def test_switching_has_its_own_permission(token: str | None, status: int, error: str) -> None:
    """A leaked token of the inspector switches nothing, whatever it sends."""
    switches: Switches = []
    answered = await order(b'{"mode":"disabled"}', token, switches)
    assert answered.status == status
    assert error in answered.json["error"]
    assert switches == []


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"{", 400, "body: no JSON"),
        (
            b'{"mode":"open"}',
            400,
            "mode: expected auto or forced-open or disabled or",
        ),
        (b'{"mode":"auto","shard":"b:2"}', 400, "shard: expected the name of one, got 'b:2'; "),
        (b'{"mode":"auto","acces":"read"}', 400, "acces: unknown; there are mode, shard, access."),
        (b" " * 4097, 413, "body: over the limit of 4096 bytes."),
    ],
)
async def test_a_faulty_order_switches_nothing(body: bytes, status: int, error: str) -> None:
    """The envelope names the field."""
    switches: Switches = []
    answered = await order(body, switches=switches)
    assert (answered.status, switches) == (status, [])
    assert answered.json["error"].startswith(error)


@pytest.mark.parametrize(
    ("body", "token", "client", "outcome"),
    [
        (b'{"mode":"auto"}', None, None, "unauthorized"),
        (b'{"mode":"auto"}', "wrong", None, "unauthorized"),
        (b'{"mode":"auto"}', "see", "inspector", "forbidden"),
        (b'{"mode":"open"}', "switch", "control", "invalid_request"),
        (b" " * 4097, "switch", "control", "too_large"),
    ],
)
async def test_an_order_that_is_refused_is_on_record(
    body: bytes, token: str | None, client: str | None, outcome: str
) -> None:
    """Who wanted to switch circuits and did not, under the id that they were told."""
    ring = AuditRing(10)
    answered = await order(body, token, audit=ring)
    (left,) = ring.newest(10)
    assert (left.operation, left.client, left.outcome) == ("SWITCH", client, outcome)
    assert answered.json["metadata"]["requestId"] == left.request_id


async def test_an_order_that_breaks_off_switches_nothing() -> None:
    """Half a body is none."""
    switches: Switches = []
    script = Script(chunk(b'{"mode":"disabled"}', more=True), GONE)
    built = app(switches=switches)
    answered = await call(built, "POST", "/inspector/circuits", script, [bearer("switch")])
    assert answered is not None
    assert (answered.status, answered.json["error"]) == (400, "body: it broke off.")
    assert switches == []


async def test_a_rate_holds_on_pages_too() -> None:
    """What a client may call is what it may call of anything; the refusal is on record."""
    slow = Principal("slow", CONTROL, rate=Rate(0.1, 2))
    audit = AuditRing(10)
    built = app(audit=audit, known={"slow": slow})
    answers = [
        await fetch(built, path, bearer("slow"), method=method)
        for method, path in (
            ("GET", "/inspector"),
            ("GET", "/inspector/circuits"),
            ("POST", "/inspector/circuits"),
            ("GET", "/inspector"),
        )
    ]
    assert [answered.status for answered in answers] == [200, 200, 429, 429]
    assert answers[3].headers["retry-after"] == "10"
    assert [(each.client, each.outcome) for each in audit.newest(10)] == [
        ("slow", "rate_limited")
    ] * 2


async def test_an_order_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that does not arrive holds nothing for long."""
    monkeypatch.setattr(module, "_ORDER_SECONDS", 0.01)
    script = Script(chunk(b'{"mode":', more=True))
    answered = await call(app(), "POST", "/inspector/circuits", script, [bearer("switch")])
    assert answered is not None
    assert answered.status == 400
    assert answered.json["error"].startswith("body: it was not complete after")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/inspector/circuits", {"GET", "HEAD", "POST"}),
        ("POST", "/healthz", {"GET", "HEAD"}),
        ("GET", ROUTE, {"POST"}),
        ("PUT", ROUTE + "/", {"POST"}),
    ],
)
async def test_another_method_is_not_allowed(method: str, path: str, allowed: set[str]) -> None:
    """The header ``Allow`` and the sentence say what may be sent."""
    answered = await fetch(app(), path, bearer("switch"), method=method)
    assert (answered.status, answered.json["code"]) == (405, "method_not_allowed")
    assert set(answered.headers["allow"].split(", ")) == allowed
    assert answered.json["error"].startswith(f"{method} is not allowed on {path}; use ")
